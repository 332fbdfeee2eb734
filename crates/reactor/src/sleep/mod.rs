#![doc = include_str!("README.md")]

use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

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
    /// signal handlers, then collect as after any other sleep.
    pub fn poll(&self, events: &mut Events, plan: &Plan) -> io::Result<()> {
        events.clear();
        match *plan {
            Plan::Skip => Ok(()),
            Plan::Look => self.poller()?.wait(events, Some(Duration::ZERO)),
            Plan::Sleep(timeout) => {
                let poller = self.poller()?;
                if !self.sleep.begin() {
                    return poller.wait(events, Some(Duration::ZERO));
                }
                let result = poller.wait(events, timeout);
                self.sleep.end();
                result
            }
        }
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
