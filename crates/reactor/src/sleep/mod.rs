#![doc = include_str!("README.md")]

use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::AtomicU8 as Hint;
use std::time::Duration;

use ropewalk_sys::awake::{self, LOOK, Luck};
use ropewalk_sys::fork;
use ropewalk_sys::poller::{Events, Interest, Mode, Poller};
use ropewalk_sys::waker::Waker;

use crate::reactor::Plan;
use crate::registrations::Token;
use crate::sync::atomic::{AtomicU8, Ordering};

/// The loop's thread runs, and nobody has news for it.
const AWAKE: u8 = 0;
/// The loop's thread is in the poll, or about to enter it: news must ring.
const SLEEPING: u8 = 1;
/// There is news. Whoever brought it has rung if that was needed.
const NOTIFIED: u8 = 2;

/// The protocol's one atomic.
#[derive(Debug)]
pub(crate) struct Sleep(AtomicU8);

impl Sleep {
    pub(crate) fn new() -> Self {
        Self(AtomicU8::new(AWAKE))
    }

    /// There is news. True if the caller must ring.
    #[must_use]
    pub(crate) fn notify(&self) -> bool {
        self.0.swap(NOTIFIED, Ordering::AcqRel) == SLEEPING
    }

    /// Whether there is news. A hint: it may be late by a moment, [`begin`](Self::begin) is not.
    #[inline]
    pub(crate) fn is_notified(&self) -> bool {
        self.0.load(Ordering::Acquire) == NOTIFIED
    }

    /// The news is being taken.
    pub(crate) fn acknowledge(&self) {
        self.0.swap(AWAKE, Ordering::AcqRel);
    }

    /// About to sleep. False if there is news: do not.
    #[must_use]
    pub(crate) fn begin(&self) -> bool {
        self.0
            .compare_exchange(AWAKE, SLEEPING, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Awake again. Leaves news alone.
    pub(crate) fn end(&self) {
        let _ = self
            .0
            .compare_exchange(SLEEPING, AWAKE, Ordering::AcqRel, Ordering::Acquire);
    }
}

/// What can be rung to wake a loop: the [`Sleeper`], or the model checker's stand-in.
pub(crate) trait Bell {
    /// The state of who is to be woken.
    fn sleep(&self) -> &Sleep;
    /// Ends the poll of who sleeps, or the next one if it has not begun.
    fn ring(&self);
    /// Whether this process is a forked copy of the one that the bell was made in.
    fn is_forked(&self) -> bool;
}

/// What the middle phase of a turn needs, without the reactor.
///
/// It may be polled by one thread while others change the reactor's registrations, push to its
/// [`Remote`](crate::Remote)s, or [`wake`](Self::wake) it.
#[derive(Debug)]
pub struct Sleeper {
    sleep: Sleep,
    poller: Poller,
    waker: Waker,
    born: u64,
    luck: Luck,
    eye: Eye,
}

/// Whether the loop's thread looks for news before it sleeps, and what it is to know of who brings them.
///
/// A pusher may hold something that the loop needs next, as an interpreter's lock: a loop that is awake would come too
/// soon, and sleep for that. None of this is relied on. It saves a switch.
#[derive(Debug, Default)]
struct Eye(Hint);

/// It does not look.
const SHUT: u8 = 0;
const OPEN: u8 = 1;
/// There is news, from somebody who lets go in a moment of what the loop needs.
const SOON: u8 = 2;
/// And it is let go.
const FREE: u8 = 3;

impl Eye {
    fn change(&self, from: u8, to: u8) -> bool {
        self.0.load(Ordering::Relaxed) == from
            && self
                .0
                .compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
    }
}

impl Sleeper {
    pub(crate) fn new() -> io::Result<Self> {
        let (poller, waker) = (Poller::new()?, Waker::new()?);
        // Edge-triggered: every ring is an edge, so nobody needs to read the waker empty.
        poller.add(
            waker.as_raw_fd(),
            Token::WAKER.bits(),
            Interest::READ,
            Mode::Edge,
        )?;
        Ok(Self {
            sleep: Sleep::new(),
            poller,
            waker,
            born: fork::generation(),
            luck: Luck::default(),
            eye: Eye::default(),
        })
    }

    /// The poller, unless it is the one of the process that this one was forked from.
    pub(crate) fn poller(&self) -> io::Result<&Poller> {
        if self.is_forked() {
            return Err(io::Error::other(
                "the event loop is of the process that this one was forked from\n\
                 hint: reopen it in the child, or make a new one there",
            ));
        }
        Ok(&self.poller)
    }

    /// Does what `plan` says and fills `events`: sleeps, looks, or nothing.
    ///
    /// Fails with [`Interrupted`](io::ErrorKind::Interrupted) if a signal ended the sleep: run
    /// signal handlers, then collect as after any other sleep. A sleep may also end with nothing to tell; then, too,
    /// a signal may have come.
    pub fn poll(&self, events: &mut Events, plan: &Plan) -> io::Result<()> {
        events.clear();
        match *plan {
            Plan::Skip => Ok(()),
            Plan::Look => self.poller()?.wait(events, Some(Duration::ZERO)),
            Plan::Sleep(timeout) => {
                let poller = self.poller()?;
                let long = timeout.is_none_or(|timeout| timeout > Duration::from_nanos(LOOK));
                if long && !self.stay_awake() {
                    // A signal that was handled meanwhile would not end the sleep, so the turn goes on to look for it.
                    return Ok(());
                }
                if !self.sleep.begin() {
                    return poller.wait(events, Some(Duration::ZERO));
                }
                let result = poller.wait(events, timeout);
                self.sleep.end();
                result
            }
        }
    }

    /// Looks for news before the sleep, if that seems to pay. False: it was long, and in vain.
    ///
    /// News is what is pushed. Descriptors are not looked at, so a loop that waits for those alone hardly ever looks.
    #[inline]
    fn stay_awake(&self) -> bool {
        let Some(look) = self.luck.begin() else {
            return true;
        };
        self.eye.0.store(OPEN, Ordering::Release);
        let found = look.until(|| self.sleep.is_notified().then_some(()));
        if found.is_some() && self.eye.0.load(Ordering::Acquire) == SOON {
            awake::linger(|| self.eye.0.load(Ordering::Acquire) == FREE);
        }
        self.eye.0.store(SHUT, Ordering::Release);
        found.is_some()
    }

    /// News is about to come from somebody who holds something that the loop needs next. True: the loop is awake and hears of it, and
    /// [`let_go`](Self::let_go) is to follow as soon as it is held no more.
    #[inline]
    pub(crate) fn announce(&self) -> bool {
        self.eye.change(OPEN, SOON)
    }

    /// The one who was [announced](crate::Reactor::announce) holds nothing any more.
    pub fn let_go(&self) {
        self.eye.change(SOON, FREE);
    }

    /// Ends the sleep, or has the next one not begin; the turn goes on as if news had come. From
    /// any thread.
    ///
    /// For a binding that changes a reactor (a push, an earlier timer) while another thread sleeps
    /// for it.
    pub fn wake(&self) {
        if self.sleep.notify() {
            self.ring();
        }
    }
}

impl Bell for Sleeper {
    #[inline]
    fn sleep(&self) -> &Sleep {
        &self.sleep
    }

    fn ring(&self) {
        if !self.is_forked() {
            self.waker.wake();
        }
    }

    #[inline]
    fn is_forked(&self) -> bool {
        self.born != fork::generation()
    }
}
