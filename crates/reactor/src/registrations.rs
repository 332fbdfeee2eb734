//! Who is told of which descriptor: a table by descriptor number, kept in step with the poller.
//!
//! A descriptor is registered in one of four ways:
//!
//! - **watched**, level-triggered, a handle for each side: what users ask for (`add_reader`), who
//!   may read part of what is there, or close the descriptor without a word;
//! - **attached**, edge-triggered, one handle for both sides: what a transport owns. Registered
//!   once, and never touched again until detached, so that an exchange costs no `epoll_ctl`;
//! - **kept**, the same for a descriptor that is somebody else's: it was waited for once and will
//!   most likely be again. It gives way: whoever watches or attaches the descriptor takes its place;
//! - **child**, a watch on a process's end that is ours.
//!
//! # Descriptors that go and come
//!
//! A user may close a watched descriptor; the kernel forgets it silently and gives its number to
//! the next file. So what this table says of a number is never taken for what the kernel knows:
//! `modify` falls back to `add` and `add` to `modify`, removing what is gone is no error, and
//! nothing is put off in the hope that it will not be needed, for the number may be another file by
//! then.
//!
//! Events carry a [`Token`]: the number, and the slot's generation, which grows with every new
//! registration. An event that was on its way while its descriptor was removed is told apart and
//! dropped.
//!
//! A kept registration outlives the wait that it was made for, so it may be of a file that is long
//! closed. Nothing here depends on that: its token says whether it still stands, not whether the
//! number is the same file, which only the file's owner knows; and to take its place is to
//! `modify` if the kernel still knows it, to `add` if not.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use ropewalk_sys::child::ChildWatch;
use ropewalk_sys::poller::{Event, Interest, Mode, Poller, Readiness};

use crate::reactor::Job;
use crate::sleep::Sleeper;

/// Why a handle was not taken, and the handle.
pub type Refused<H> = (io::Error, H);

/// One direction of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// There is something to read or to accept.
    Read,
    /// There is room to write.
    Write,
}

impl Side {
    const fn interest(self) -> Interest {
        match self {
            Self::Read => Interest::READ,
            Self::Write => Interest::WRITE,
        }
    }
}

/// Names one registration, for ever: a token of what was removed names nothing.
///
/// | bits | what |
/// |---|---|
/// | 0..32 | the descriptor's number |
/// | 32..64 | the slot's generation |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(u64);

impl Token {
    /// The waker's. No descriptor has the number -1.
    pub(crate) const WAKER: Self = Self(u64::MAX);

    fn new(fd: RawFd, generation: u32) -> Self {
        Self(u64::from(generation) << 32 | u64::from(fd as u32))
    }

    /// The number, as a place in the table.
    const fn slot(self) -> usize {
        self.0 as u32 as usize
    }

    const fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    const fn fd(self) -> RawFd {
        self.0 as u32 as RawFd
    }

    pub(crate) const fn bits(self) -> u64 {
        self.0
    }
}

/// Names one watch on a child. See [`Token`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChildKey(Token);

enum Kind<H> {
    Vacant,
    Watched { read: Option<H>, write: Option<H> },
    Attached(H),
    Kept(H),
    Child { handle: H, watch: ChildWatch },
}

impl<H> Kind<H> {
    /// What the poller is to be asked for.
    fn wants(&self) -> Option<(Interest, Mode)> {
        match self {
            Self::Watched {
                read: Some(_),
                write: Some(_),
            } => Some((Interest::BOTH, Mode::Level)),
            Self::Watched { read: Some(_), .. } | Self::Child { .. } => {
                Some((Interest::READ, Mode::Level))
            }
            Self::Watched { write: Some(_), .. } => Some((Interest::WRITE, Mode::Level)),
            Self::Attached(_) | Self::Kept(_) => Some((Interest::BOTH, Mode::Edge)),
            Self::Vacant | Self::Watched { .. } => None,
        }
    }

    fn handles(&self) -> [Option<&H>; 2] {
        match self {
            Self::Vacant => [None, None],
            Self::Watched { read, write } => [read.as_ref(), write.as_ref()],
            Self::Attached(handle) | Self::Kept(handle) | Self::Child { handle, .. } => {
                [Some(handle), None]
            }
        }
    }

    fn into_handles(self) -> [Option<H>; 2] {
        match self {
            Self::Vacant => [None, None],
            Self::Watched { read, write } => [read, write],
            Self::Attached(handle) | Self::Kept(handle) | Self::Child { handle, .. } => {
                [Some(handle), None]
            }
        }
    }
}

struct Slot<H> {
    generation: u32,
    kind: Kind<H>,
}

impl<H> Slot<H> {
    fn vacate(&mut self) -> Kind<H> {
        self.generation = self.generation.wrapping_add(1);
        std::mem::replace(&mut self.kind, Kind::Vacant)
    }
}

pub(crate) struct Registrations<H> {
    /// By descriptor number: the kernel gives the lowest free one, so there are few holes.
    slots: Vec<Slot<H>>,
}

impl<H> Registrations<H> {
    pub(crate) fn new() -> Self {
        Self { slots: Vec::new() }
    }

    fn slot(&self, fd: RawFd) -> Option<&Slot<H>> {
        self.slots.get(usize::try_from(fd).ok()?)
    }

    fn slot_mut(&mut self, fd: RawFd) -> Option<&mut Slot<H>> {
        self.slots.get_mut(usize::try_from(fd).ok()?)
    }

    /// The slot that `token` names, unless it is of the past.
    fn named(&mut self, token: Token) -> Option<&mut Slot<H>> {
        self.slots
            .get_mut(token.slot())
            .filter(|slot| slot.generation == token.generation())
    }

    /// The token for the slot's next registration.
    fn next_token(&self, fd: RawFd) -> Token {
        Token::new(
            fd,
            self.slot(fd)
                .map_or(0, |slot| slot.generation.wrapping_add(1)),
        )
    }

    /// The slot of a descriptor that the poller has accepted as `token`: only then is the number
    /// known to be open, and the table may grow to it.
    fn accepted(&mut self, token: Token) -> &mut Slot<H> {
        let index = token.slot();
        if index >= self.slots.len() {
            self.slots.resize_with(index + 1, || Slot {
                generation: 0,
                kind: Kind::Vacant,
            });
        }
        let slot = &mut self.slots[index];
        slot.generation = token.generation();
        slot
    }

    /// Returns the handle whose place it takes: of the same side, or of a kept registration. A handle on the
    /// other side that was an earlier file's, closed without a word, goes to `lost`.
    pub(crate) fn watch(
        &mut self,
        sleeper: &Sleeper,
        fd: RawFd,
        side: Side,
        handle: H,
        lost: &mut Vec<H>,
    ) -> Result<Option<H>, Refused<H>> {
        let known = match self.slot(fd).map(|slot| &slot.kind) {
            None | Some(Kind::Vacant | Kind::Kept(_)) => None,
            Some(Kind::Watched { read, write }) => match (read, write, side) {
                (_, Some(_), Side::Read) | (Some(_), _, Side::Write) => Some(Interest::BOTH),
                _ => Some(side.interest()),
            },
            Some(Kind::Attached(_)) => return Err((taken("a transport", fd), handle)),
            Some(Kind::Child { .. }) => return Err((taken("the reactor", fd), handle)),
        };
        // Asked every time, even if the table has it already: the number may be another file by
        // now. An event of before that is dropped with the old token is no loss, for the level is
        // told again.
        let token = self.next_token(fd);
        let mut another_file = false;
        let result = sleeper.poller().and_then(|poller| match known {
            Some(interest) => match poller.modify(fd, token.bits(), interest, Mode::Level) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    another_file = true;
                    poller.add(fd, token.bits(), side.interest(), Mode::Level)
                }
                result => result,
            },
            None => add_or_modify(poller, fd, token, side.interest()),
        });
        if let Err(e) = result {
            return Err((e, handle));
        }
        let slot = self.accepted(token);
        let mut gave_way = None;
        if !matches!(slot.kind, Kind::Watched { .. }) {
            let watched = Kind::Watched {
                read: None,
                write: None,
            };
            [gave_way, _] = std::mem::replace(&mut slot.kind, watched).into_handles();
        }
        let Kind::Watched { read, write } = &mut slot.kind else {
            return Ok(None);
        };
        let (ours, other) = match side {
            Side::Read => (read, write),
            Side::Write => (write, read),
        };
        if another_file {
            lost.extend(other.take());
        }
        Ok(ours.replace(handle).or(gave_way))
    }

    pub(crate) fn unwatch(&mut self, sleeper: &Sleeper, fd: RawFd, side: Side) -> Option<H> {
        let slot = self.slot_mut(fd)?;
        let Kind::Watched { read, write } = &mut slot.kind else {
            return None;
        };
        let handle = match side {
            Side::Read => read.take(),
            Side::Write => write.take(),
        }?;
        let rest = slot.kind.wants();
        let token = Token::new(fd, slot.generation);
        if rest.is_none() {
            slot.vacate();
        }
        // In a forked child the poller is still the parent's, and `reopen` will see to it. An error
        // says that the descriptor was closed before, which is what we wanted.
        if let Ok(poller) = sleeper.poller() {
            let _ = match rest {
                Some((interest, mode)) => poller.modify(fd, token.bits(), interest, mode),
                None => poller.delete(fd),
            };
        }
        Some(handle)
    }

    pub(crate) fn watched(&self, fd: RawFd, side: Side) -> Option<&H> {
        match (&self.slot(fd)?.kind, side) {
            (Kind::Watched { read, .. }, Side::Read) => read.as_ref(),
            (Kind::Watched { write, .. }, Side::Write) => write.as_ref(),
            _ => None,
        }
    }

    /// Handles of an earlier file of this number, which was closed without a word, and of a kept registration go to
    /// `lost`.
    pub(crate) fn attach(
        &mut self,
        sleeper: &Sleeper,
        fd: RawFd,
        handle: H,
        lost: &mut Vec<H>,
    ) -> Result<Token, Refused<H>> {
        if matches!(
            self.slot(fd).map(|slot| &slot.kind),
            Some(Kind::Child { .. })
        ) {
            return Err((taken("the reactor", fd), handle));
        }
        self.own(sleeper, fd, handle, Kind::Attached, lost)
    }

    /// The handle of a kept registration whose place it takes goes to `lost`.
    pub(crate) fn keep(
        &mut self,
        sleeper: &Sleeper,
        fd: RawFd,
        handle: H,
        lost: &mut Vec<H>,
    ) -> Result<Token, Refused<H>> {
        // Not even if the system no longer knows of those: who gives way does not argue.
        match self.slot(fd).map(|slot| &slot.kind) {
            None | Some(Kind::Vacant | Kind::Kept(_)) => {
                self.own(sleeper, fd, handle, Kind::Kept, lost)
            }
            Some(_) => Err((taken("a watch or a transport", fd), handle)),
        }
    }

    /// Registers both sides, edge-triggered, as what `kind` says.
    fn own(
        &mut self,
        sleeper: &Sleeper,
        fd: RawFd,
        handle: H,
        kind: fn(H) -> Kind<H>,
        lost: &mut Vec<H>,
    ) -> Result<Token, Refused<H>> {
        let token = self.next_token(fd);
        let gives_way = matches!(self.slot(fd).map(|slot| &slot.kind), Some(Kind::Kept(_)));
        let added = sleeper.poller().and_then(|poller| {
            if gives_way {
                match poller.modify(fd, token.bits(), Interest::BOTH, Mode::Edge) {
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    result => return result,
                }
            }
            poller.add(fd, token.bits(), Interest::BOTH, Mode::Edge)
        });
        match added {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                return Err((taken("a watch or a transport", fd), handle));
            }
            Err(e) => return Err((e, handle)),
            Ok(()) => {}
        }
        // What the slot still holds has given way, or is of a file that was closed: the poller took
        // the number as new.
        let stale = std::mem::replace(&mut self.accepted(token).kind, kind(handle));
        lost.extend(stale.into_handles().into_iter().flatten());
        Ok(token)
    }

    pub(crate) fn detach(&mut self, sleeper: &Sleeper, token: Token) -> Option<H> {
        let slot = self
            .named(token)
            .filter(|slot| matches!(slot.kind, Kind::Attached(_) | Kind::Kept(_)))?;
        let [handle, _] = slot.vacate().into_handles();
        if let Ok(poller) = sleeper.poller() {
            let _ = poller.delete(token.fd());
        }
        handle
    }

    pub(crate) fn is_attached(&self, fd: RawFd) -> bool {
        matches!(
            self.slot(fd),
            Some(Slot {
                kind: Kind::Attached(_),
                ..
            })
        )
    }

    /// Whether the registration that `token` names stands and is a kept one.
    #[inline]
    pub(crate) fn is_kept(&self, token: Token) -> bool {
        self.slots.get(token.slot()).is_some_and(|slot| {
            slot.generation == token.generation() && matches!(slot.kind, Kind::Kept(_))
        })
    }

    pub(crate) fn watch_child(
        &mut self,
        sleeper: &Sleeper,
        pid: i32,
        handle: H,
        lost: &mut Vec<H>,
    ) -> Result<ChildKey, Refused<H>> {
        let opened = sleeper.poller().and_then(|poller| {
            let watch = ChildWatch::open(pid)?;
            let fd = watch.as_raw_fd();
            let token = self.next_token(fd);
            poller.add(fd, token.bits(), Interest::READ, Mode::Level)?;
            Ok((watch, token))
        });
        let (watch, token) = match opened {
            Ok(opened) => opened,
            Err(e) => return Err((e, handle)),
        };
        let stale = std::mem::replace(
            &mut self.accepted(token).kind,
            Kind::Child { handle, watch },
        );
        lost.extend(stale.into_handles().into_iter().flatten());
        Ok(ChildKey(token))
    }

    pub(crate) fn unwatch_child(&mut self, sleeper: &Sleeper, key: ChildKey) -> Option<H> {
        let slot = self
            .named(key.0)
            .filter(|slot| matches!(slot.kind, Kind::Child { .. }))?;
        match slot.vacate() {
            Kind::Child { handle, watch } => {
                if let Ok(poller) = sleeper.poller() {
                    let _ = poller.delete(watch.as_raw_fd());
                }
                Some(handle)
            }
            _ => None,
        }
    }

    /// Makes every registration again with a new poller. Handles of descriptors that are gone go to
    /// `lost`.
    pub(crate) fn register_all(&mut self, poller: &Poller, lost: &mut Vec<H>) {
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let Some((interest, mode)) = slot.kind.wants() else {
                continue;
            };
            let fd = index as u32 as RawFd;
            if poller
                .add(fd, Token::new(fd, slot.generation).bits(), interest, mode)
                .is_err()
            {
                lost.extend(slot.vacate().into_handles().into_iter().flatten());
            }
        }
    }

    /// Every handle here.
    pub(crate) fn handles(&self) -> impl Iterator<Item = &H> {
        self.slots
            .iter()
            .flat_map(|slot| slot.kind.handles())
            .flatten()
    }

    /// Ends every registration and hands back all handles.
    pub(crate) fn drain(&mut self, sleeper: &Sleeper, into: &mut Vec<H>) {
        let poller = sleeper.poller().ok();
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if slot.kind.wants().is_some() {
                if let Some(poller) = poller {
                    let _ = poller.delete(index as u32 as RawFd);
                }
                into.extend(slot.vacate().into_handles().into_iter().flatten());
            }
        }
    }
}

impl<H: Clone> Registrations<H> {
    /// Turns an event into the jobs of those who wait for it. False if the event is of a
    /// registration that is no more.
    #[inline]
    pub(crate) fn dispatch(
        &mut self,
        sleeper: &Sleeper,
        event: Event,
        mut job: impl FnMut(Job<H>),
    ) -> bool {
        let readiness = event.readiness;
        let token = Token(event.token);
        let Some(slot) = self.named(token) else {
            return token == Token::WAKER;
        };
        match &slot.kind {
            Kind::Attached(handle) | Kind::Kept(handle) => job(Job {
                handle: handle.clone(),
                readiness,
            }),
            // A hang-up or an error is news for both sides, whichever was asked for: whoever waits
            // must find out.
            Kind::Watched { read, write } => {
                if let Some(handle) = read.as_ref().filter(|_| readiness.readable()) {
                    job(Job {
                        handle: handle.clone(),
                        readiness,
                    });
                }
                if let Some(handle) = write.as_ref().filter(|_| readiness.writable()) {
                    job(Job {
                        handle: handle.clone(),
                        readiness,
                    });
                }
            }
            Kind::Child { .. } => {
                if let Some(handle) = self.unwatch_child(sleeper, ChildKey(token)) {
                    job(Job {
                        handle,
                        readiness: Readiness::empty(),
                    });
                }
            }
            Kind::Vacant => {}
        }
        true
    }
}

fn taken(by: &str, fd: RawFd) -> io::Error {
    let message = format!("file descriptor {fd} is already used by {by}");
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

fn add_or_modify(poller: &Poller, fd: RawFd, token: Token, interest: Interest) -> io::Result<()> {
    match poller.add(fd, token.bits(), interest, Mode::Level) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            poller.modify(fd, token.bits(), interest, Mode::Level)
        }
        result => result,
    }
}
