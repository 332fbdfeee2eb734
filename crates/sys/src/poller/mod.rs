//! Which descriptors are ready.
//!
//! # What a backend supplies
//!
//! - **`Selector`**: an open kernel object, closed on exec, that can be waited on by one thread
//!   while others change its registrations. `new`, `add`, `modify`, `delete`, `wait` as [`Poller`]
//!   documents them.
//! - **`List`**: a buffer of [`CAPACITY`] kernel events, allocated once; `clear`, and iteration as
//!   [`Event`]s.
//!
//! and these promises:
//!
//! 1. A registration is a descriptor, a token that comes back with its events, an [`Interest`] and
//!    a [`Mode`]. [`Mode::Level`] tells in every wait while the descriptor is ready, [`Mode::Edge`]
//!    once each time that it turns ready, and once after `add` if it was ready then.
//! 2. One wait may give **several events for one descriptor**: epoll gives at most one with all
//!    bits, kqueue one for each direction. Events of one wait come in no particular order.
//! 3. [`Readiness::HANGUP`] and [`Readiness::ERROR`] come whether asked for or not.
//! 4. Closing a descriptor ends its registration silently, *unless the file is open elsewhere* (a
//!    `dup`, another process): then epoll goes on telling of it and can no longer be told to stop.
//!    The caller deletes before it closes, and gives tokens a generation so that what is late can
//!    be told apart.
//! 5. `add` of a descriptor that is registered, and `modify` or `delete` of one that is not, are
//!    errors (`AlreadyExists`, `NotFound`) on epoll. kqueue takes both as "be it so".
//! 6. Timeouts are in nanoseconds and a wait that times out never ends early: a deadline that was
//!    slept for is due. (Where the kernel counts in milliseconds they are rounded up. Only a
//!    timeout of more than a day may be cut to a day, by kqueue, whose kernels refuse some.)
//! 7. A signal ends a wait with [`Interrupted`](std::io::ErrorKind::Interrupted). It is not
//!    repeated here, for the caller has signal handlers to run.
//!
//! # Non-goals
//!
//! Completion-based I/O; regular files (they are always ready, and epoll refuses them with
//! `EPERM`).

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

#[cfg(any(target_os = "linux", target_os = "android"))]
mod epoll;
#[cfg(any(target_os = "linux", target_os = "android"))]
use epoll as backend;

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod kqueue;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
use kqueue as backend;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) use kqueue::Selector as Kqueue;

/// How many events one wait takes at most. More are told by the next.
pub const CAPACITY: usize = 1024;

/// Which directions a registration asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest(u8);

impl Interest {
    /// Ready to read, accept, or the peer has ended its side.
    pub const READ: Self = Self(1);
    /// Ready to write, or connected.
    pub const WRITE: Self = Self(1 << 1);
    /// Both.
    pub const BOTH: Self = Self(Self::READ.0 | Self::WRITE.0);

    /// Whether all of `other` is in `self`.
    #[inline]
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// What is in either.
    #[inline]
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// When a registration tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In every wait, while the descriptor is ready.
    Level,
    /// Once, each time that it turns ready. Read or write until `WouldBlock` before waiting again.
    Edge,
}

/// What a descriptor is ready for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness(u8);

impl Readiness {
    /// There is something to read or to accept.
    pub const READ: Self = Self(1);
    /// There is room to write, or a connect has ended.
    pub const WRITE: Self = Self(1 << 1);
    /// The peer has ended its side: reads come to the end of the stream (`EPOLLRDHUP`, `EV_EOF` on
    /// reading).
    pub const READ_CLOSED: Self = Self(1 << 2);
    /// Both sides have ended (`EPOLLHUP`, `EV_EOF` on writing).
    pub const HANGUP: Self = Self(1 << 3);
    /// An error is pending (`EPOLLERR`, `EV_ERROR`).
    pub const ERROR: Self = Self(1 << 4);

    /// Nothing: what a plain callback carries.
    #[inline]
    #[must_use]
    pub const fn empty() -> Self {
        Self(0)
    }

    /// Whether nothing is in it.
    #[inline]
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether all of `other` is in `self`.
    #[inline]
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any of `other` is in `self`.
    #[inline]
    #[must_use]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// What is in either.
    #[inline]
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether a read would not block: it has bytes, the end, or an error to return.
    #[inline]
    #[must_use]
    pub const fn readable(self) -> bool {
        self.intersects(Self(
            Self::READ.0 | Self::READ_CLOSED.0 | Self::HANGUP.0 | Self::ERROR.0,
        ))
    }

    /// Whether a write would not block: there is room, or an error to return.
    #[inline]
    #[must_use]
    pub const fn writable(self) -> bool {
        self.intersects(Self(Self::WRITE.0 | Self::HANGUP.0 | Self::ERROR.0))
    }
}

/// One descriptor's news from one wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// What the registration was given.
    pub token: u64,
    /// What the descriptor is ready for.
    pub readiness: Readiness,
}

/// Room for the events of one wait, allocated once and used again and again.
pub struct Events(backend::List);

// SAFETY: kernel events have a field that may be a pointer; here it is always a token, and never
// followed.
unsafe impl Send for Events {}
// SAFETY: as above.
unsafe impl Sync for Events {}

impl Events {
    /// Room for [`CAPACITY`] events.
    #[must_use]
    pub fn new() -> Self {
        Self(backend::List::with_capacity(CAPACITY))
    }

    /// Forgets the events of the last wait.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// How many events the last wait gave.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the last wait gave none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The events of the last wait.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Event> + '_ {
        self.0.iter().map(backend::event)
    }
}

impl Default for Events {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Tells which of the registered descriptors are ready. See the [module](self) for what is
/// promised.
#[derive(Debug)]
pub struct Poller(backend::Selector);

impl Poller {
    /// An empty poller of its own descriptor, closed on exec.
    pub fn new() -> io::Result<Self> {
        backend::Selector::new().map(Self)
    }

    /// Registers `fd`. The caller keeps it open while it is registered.
    pub fn add(&self, fd: RawFd, token: u64, interest: Interest, mode: Mode) -> io::Result<()> {
        self.0.add(fd, token, interest, mode)
    }

    /// Replaces the registration of `fd`.
    pub fn modify(&self, fd: RawFd, token: u64, interest: Interest, mode: Mode) -> io::Result<()> {
        self.0.modify(fd, token, interest, mode)
    }

    /// Ends the registration of `fd`.
    pub fn delete(&self, fd: RawFd) -> io::Result<()> {
        self.0.delete(fd)
    }

    /// Waits until something is ready, until `timeout` (zero: just look; `None`: never), or for a
    /// signal, and fills `events`, which is empty after an error.
    pub fn wait(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        events.clear();
        self.0.wait(&mut events.0, timeout)
    }
}

impl AsRawFd for Poller {
    /// The poller's own descriptor, which is readable when a wait would not sleep: pollers can be
    /// nested.
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
