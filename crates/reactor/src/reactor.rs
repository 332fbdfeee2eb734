//! The reactor itself: its parts, put together, and the turn.

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::sync::{Arc, Weak};
use std::time::Duration;

use ropewalk_sys::clock::{self, Nanos, Ticks};
use ropewalk_sys::poller::{CAPACITY, Events, Readiness};

use crate::inbox::{Inbox, Remote};
use crate::registrations::{ChildKey, Refused, Registrations, Side, Token};
use crate::sleep::{Bell, Sleeper};
use crate::timers::{TimerKey, Timers};

/// So many events of registrations that are no more, and the reactor opens a new poller.
///
/// A descriptor that was closed under its watch, while a duplicate of it lives on (`dup`, or in a
/// child), stays in an epoll set under a number that nobody can name any more, and a level-triggered
/// one reports in every turn. A set without it is the only way out. See epoll(7), "Will closing a
/// file descriptor cause it to be removed".
const LATE: u32 = 16;

/// With work waiting, the system is asked at least every so many turns. Asking costs 120 ns and
/// more, a turn of one cheap callback a third of that.
pub const LOOK_TURNS: u32 = 32;

/// With work waiting, the system is asked at least every so many nanoseconds (a fifth of that, where
/// the counter is fast), however few turns that were.
pub const LOOK_NANOS: Nanos = 100_000;

/// In a turn that does not ask the system the clock is read only if a timer is due that many
/// nanoseconds or less after the last look: twice as long as such turns last.
const NEAR: Nanos = 2 * LOOK_NANOS;

/// Where timers are dense, so many nanoseconds' worth of them share one sleep: each sleep costs some
/// microseconds, whatever it was for. A timer on its own is waited for as precisely as the system
/// can.
pub const CROWD_NANOS: Nanos = 200_000;

/// Something to call, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job<H> {
    /// What to call.
    pub handle: H,
    /// What its descriptor is ready for; empty if it is not about a descriptor.
    pub readiness: Readiness,
}

/// What the middle phase of a turn does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Nothing: there is work, and the system was asked just now.
    Skip,
    /// Ask the system without waiting.
    Look,
    /// Wait, until the timeout or for ever. Only now is it worth releasing an interpreter's lock.
    Sleep(Option<Duration>),
}

/// Ready queue, timers, readiness, children and cross-thread wake-ups of one event loop. See the
/// [crate](crate).
pub struct Reactor<H> {
    ready: VecDeque<Job<H>>,
    timers: Timers<H>,
    registrations: Registrations<H>,
    sleeper: Arc<Sleeper>,
    inbox: Arc<Inbox<H, Sleeper>>,
    /// Empty between calls: memory to take the inbox's jobs into.
    taken: Vec<H>,
    /// Handles whose descriptors were closed without a word, kept for `drain`.
    lost: Vec<H>,
    /// Events of registrations that are no more, since the poller was opened.
    late: u32,
    /// Turns since the system was last asked.
    skipped: u32,
    /// When the system was last asked, by the clock and by the counter.
    looked: Nanos,
    ticks: Ticks,
    /// This turn asks the system.
    asks: bool,
    /// The time as `prepare` read it, if no sleep lies between it and `collect`.
    clock: Option<Nanos>,
    /// The time by the owner's clock, where that is not the system's.
    told: Option<Nanos>,
}

impl<H> Drop for Reactor<H> {
    fn drop(&mut self) {
        // A reactor that was not drained still must not leave its remotes pushing where nobody
        // looks.
        self.inbox.close(&mut self.lost);
    }
}

impl<H: Clone> Reactor<H> {
    /// A reactor with a poller and a waker of its own.
    pub fn new() -> io::Result<Self> {
        let sleeper = Arc::new(Sleeper::new()?);
        Ok(Self {
            ready: VecDeque::new(),
            timers: Timers::new(),
            registrations: Registrations::new(),
            inbox: Arc::new(Inbox::new(Arc::clone(&sleeper))),
            sleeper,
            taken: Vec::new(),
            lost: Vec::new(),
            late: 0,
            skipped: LOOK_TURNS,
            looked: 0,
            ticks: Ticks::now(),
            asks: true,
            clock: None,
            told: None,
        })
    }

    // Ready queue

    /// Makes `handle` ready, after all that is.
    #[inline]
    pub fn push(&mut self, handle: H) {
        self.push_job(Job {
            handle,
            readiness: Readiness::empty(),
        });
    }

    /// Makes `job` ready, after all that is.
    #[inline]
    pub fn push_job(&mut self, job: Job<H>) {
        self.ready.push_back(job);
    }

    /// The job that has been ready for longest.
    #[inline]
    pub fn pop(&mut self) -> Option<Job<H>> {
        self.ready.pop_front()
    }

    /// How many jobs are ready.
    #[inline]
    #[must_use]
    pub fn ready_len(&self) -> usize {
        self.ready.len()
    }

    // Timers

    /// Makes `handle` ready at `at`. Timers of one deadline become ready in the order in which they
    /// were added.
    #[inline]
    pub fn add_timer(&mut self, at: Nanos, handle: H) -> TimerKey {
        self.timers.add(at, handle)
    }

    /// Takes a timer back. `None` if it has fired or was cancelled.
    #[inline]
    pub fn cancel_timer(&mut self, key: TimerKey) -> Option<H> {
        self.timers.cancel(key)
    }

    /// How many timers are set.
    #[inline]
    #[must_use]
    pub fn timer_len(&self) -> usize {
        self.timers.len()
    }

    // Readiness

    /// Makes `handle` ready in every turn in which `fd` is ready on `side`, until
    /// [`unwatch`](Self::unwatch). Returns the handle that it replaces: of the same side, or of a
    /// [kept](Self::keep) registration, which served both.
    ///
    /// Fails with [`InvalidInput`](io::ErrorKind::InvalidInput) if `fd` is attached, and with what
    /// the system says if it cannot be polled (`EBADF`: not open; `EPERM`: a regular file).
    pub fn watch(&mut self, fd: RawFd, side: Side, handle: H) -> Result<Option<H>, Refused<H>> {
        self.registrations
            .watch(&self.sleeper, fd, side, handle, &mut self.lost)
    }

    /// Takes a watch back. `None` if there is none; a descriptor that was closed before is no
    /// error.
    pub fn unwatch(&mut self, fd: RawFd, side: Side) -> Option<H> {
        self.registrations.unwatch(&self.sleeper, fd, side)
    }

    /// The handle that watches `fd` on `side`.
    #[must_use]
    pub fn watched(&self, fd: RawFd, side: Side) -> Option<&H> {
        self.registrations.watched(fd, side)
    }

    /// Makes `handle` ready each time that `fd` turns ready, on either side: read and write until
    /// `WouldBlock`.
    ///
    /// The caller owns `fd` and [`detach`](Self::detach)es before it closes it. Fails with
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if `fd` is watched or attached, so far as the
    /// system knows (a kqueue does not tell: there the new one takes the old one's place).
    pub fn attach(&mut self, fd: RawFd, handle: H) -> Result<Token, Refused<H>> {
        self.registrations
            .attach(&self.sleeper, fd, handle, &mut self.lost)
    }

    /// Takes an attachment or a kept registration back. `None` if it was detached before.
    pub fn detach(&mut self, token: Token) -> Option<H> {
        self.registrations.detach(&self.sleeper, token)
    }

    /// Registers `fd` as [`attach`](Self::attach) does, for one who waits for it now, most likely will
    /// again, and does not own it: the registration gives way. A later [`watch`](Self::watch) of `fd`
    /// takes its place and returns its handle; so does an `attach`, or another `keep`, which leave the
    /// handle for [`take_lost`](Self::take_lost). Before each wait ask whether it
    /// [stands](Self::is_kept).
    ///
    /// That `fd` is still the same file is for the caller to know: the token cannot tell. Fails with
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if `fd` is watched or attached.
    pub fn keep(&mut self, fd: RawFd, handle: H) -> Result<Token, Refused<H>> {
        self.registrations
            .keep(&self.sleeper, fd, handle, &mut self.lost)
    }

    /// Handles of descriptors that were closed without a word, and of kept registrations that gave way
    /// to an attachment or to another kept one. They are the caller's to drop; whoever keeps many
    /// descriptors asks now and then.
    #[must_use]
    pub fn take_lost(&mut self) -> Vec<H> {
        std::mem::take(&mut self.lost)
    }

    /// Whether the registration that [`keep`](Self::keep) gave `token` for stands.
    #[inline]
    #[must_use]
    pub fn is_kept(&self, token: Token) -> bool {
        self.registrations.is_kept(token)
    }

    /// Whether `fd` is attached.
    #[must_use]
    pub fn is_attached(&self, fd: RawFd) -> bool {
        self.registrations.is_attached(fd)
    }

    // Children

    /// Makes `handle` ready once, when process `pid` has ended, also if it has already. The child
    /// remains to be reaped (see [`ropewalk_sys::child::reap`]).
    pub fn watch_child(&mut self, pid: i32, handle: H) -> Result<ChildKey, Refused<H>> {
        self.registrations
            .watch_child(&self.sleeper, pid, handle, &mut self.lost)
    }

    /// Takes a watch on a child back. `None` if it has fired or was taken back before.
    pub fn unwatch_child(&mut self, key: ChildKey) -> Option<H> {
        self.registrations.unwatch_child(&self.sleeper, key)
    }

    // Other threads

    /// What [`Remote::push`] does, for a binding whose lock on the reactor other threads take.
    ///
    /// Tells how many handles wait to be collected: who posts faster than the loop runs may want to
    /// let it catch up.
    pub fn post(&self, handle: H) -> Result<usize, H> {
        self.inbox.push(handle)
    }

    /// Before a [`post`](Self::post) by somebody who holds something that the loop needs next: what to tell
    /// [when it is held no more](Sleeper::let_go), if the loop is awake and would come too soon. Weak, as the poster may
    /// keep it for long, and the sleeper has descriptors.
    #[inline]
    pub fn announce(&self) -> Option<Weak<Sleeper>> {
        self.sleeper
            .announce()
            .then(|| Arc::downgrade(&self.sleeper))
    }

    /// What other threads push with.
    #[must_use]
    pub fn remote(&self) -> Remote<H> {
        Remote::new(Arc::clone(&self.inbox))
    }

    /// What the middle phase of a turn is done with. Ask each turn: [`reopen`](Self::reopen), which
    /// [`collect`](Self::collect) may find necessary, makes another one.
    #[must_use]
    pub fn sleeper(&self) -> Arc<Sleeper> {
        Arc::clone(&self.sleeper)
    }

    // The turn

    /// The loop starts to run: its first turn asks the system, however short ago that was.
    pub fn begin_run(&mut self) {
        self.skipped = LOOK_TURNS;
    }

    /// For an owner whose clock is not the system's: what it shows. Told before each of the two phases that
    /// look at timers; `None` goes back to the system's.
    pub fn tell_time(&mut self, time: Option<Nanos>) {
        self.told = time;
    }

    #[inline]
    fn now(&self) -> Nanos {
        self.told.unwrap_or_else(clock::now)
    }

    /// The first phase: decides what the second does. With nothing ready and `may_sleep`, that is
    /// to sleep until the next timer.
    pub fn prepare(&mut self, may_sleep: bool) -> Plan {
        self.clock = None;
        self.asks = true;
        let next = self.timers.next();
        if self.ready.is_empty() && !self.sleeper.sleep().is_notified() {
            if !may_sleep {
                return Plan::Look;
            }
            let Some(at) = next else {
                return Plan::Sleep(None);
            };
            // Both are nanoseconds of one clock and the poller never wakes early: once slept for,
            // it is due.
            let now = self.now();
            if at > now {
                let more = if self.timers.crowded(CROWD_NANOS) {
                    CROWD_NANOS
                } else {
                    0
                };
                return Plan::Sleep(Some(Duration::from_nanos(at - now + more)));
            }
            self.clock = Some(now);
        }
        if self.skipped + 1 < LOOK_TURNS && self.ticks.elapsed() < LOOK_NANOS {
            self.skipped += 1;
            self.asks = false;
            // A clock of the owner's may have gone any way since.
            let near = |at| at <= self.looked.saturating_add(NEAR) || self.told.is_some();
            if self.clock.is_none() && next.is_some_and(near) {
                self.clock = Some(self.now());
            }
            return Plan::Skip;
        }
        Plan::Look
    }

    /// The third phase: makes ready, in this order, whom `events` concern, what remotes pushed, and
    /// timers that are due. Returns how many jobs are ready: this turn's batch.
    pub fn collect(&mut self, events: &mut Events) -> usize {
        let mut now = self.clock.take();
        if self.asks {
            self.skipped = 0;
            let told = self.told;
            self.looked = *now.get_or_insert_with(|| told.unwrap_or_else(clock::now));
            self.ticks = Ticks::now();
        }
        if !events.is_empty() {
            if events.len() >= CAPACITY {
                self.skipped = LOOK_TURNS; // there may be more
            }
            for event in events.iter() {
                let ready = &mut self.ready;
                let known = self
                    .registrations
                    .dispatch(&self.sleeper, event, |job| ready.push_back(job));
                self.late += u32::from(!known);
            }
            events.clear();
            if self.late >= LATE {
                self.late = 0;
                // No descriptor left for it: the next late events try again.
                let _ = self.reopen();
            }
        }
        if self.sleeper.sleep().is_notified() {
            self.take_remote();
        }
        if let Some(now) = now {
            while let Some(handle) = self.timers.pop_due(now) {
                self.push(handle);
            }
        }
        self.ready.len()
    }

    fn take_remote(&mut self) {
        self.inbox.take(&mut self.taken);
        let jobs = self.taken.drain(..).map(|handle| Job {
            handle,
            readiness: Readiness::empty(),
        });
        self.ready.extend(jobs);
    }

    // Fork and close

    /// Opens a new poller, and in a forked child makes the reactor this process's own by it: a new poller, a new waker, every
    /// registration made again, and remotes that work again whatever the threads held that the fork
    /// left behind.
    ///
    /// Until then registrations can be removed, which leaves the parent's alone, and adding one is
    /// an error. Ready jobs and timers stay as they are. Handles of descriptors that are gone are
    /// left for [`drain`](Self::drain).
    pub fn reopen(&mut self) -> io::Result<()> {
        let sleeper = Arc::new(Sleeper::new()?);
        self.registrations
            .register_all(sleeper.poller()?, &mut self.lost);
        let inbox = Arc::new(Inbox::new(Arc::clone(&sleeper)));
        self.inbox.succeed(&inbox, &mut self.taken);
        let jobs = self.taken.drain(..).map(|handle| Job {
            handle,
            readiness: Readiness::empty(),
        });
        self.ready.extend(jobs);
        self.sleeper = sleeper;
        self.inbox = inbox;
        self.begin_run();
        Ok(())
    }

    /// Every handle that the reactor keeps, but for what other threads have sent and nobody has
    /// collected yet: what a garbage collector has to know of.
    pub fn handles(&self) -> impl Iterator<Item = &H> {
        self.ready
            .iter()
            .map(|job| &job.handle)
            .chain(self.timers.handles())
            .chain(self.registrations.handles())
    }

    /// Ends all registrations and hands every handle back. Remotes refuse from now on.
    ///
    /// The handles are the caller's to drop, outside any lock: their finalisers may run user code.
    #[must_use]
    pub fn drain(&mut self) -> Vec<H> {
        let mut all: Vec<H> = self.ready.drain(..).map(|job| job.handle).collect();
        self.inbox.close(&mut all);
        self.timers.drain(&mut all);
        self.registrations.drain(&self.sleeper, &mut all);
        all.append(&mut self.lost);
        all
    }
}

impl<H> std::fmt::Debug for Reactor<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reactor")
            .field("ready", &self.ready.len())
            .field("timers", &self.timers.len())
            .finish_non_exhaustive()
    }
}
