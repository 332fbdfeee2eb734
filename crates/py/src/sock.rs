//! The loop's own socket methods: `sock_recv`, `sock_sendall` and their kin, without an exception, a callback or an
//! `epoll_ctl` per wait.
//!
//! Each method is a coroutine in Python around one call into this module, which does the operation at once if
//! the socket lets it and else gives back a future.
//!
//! What is received is received **when the task runs**, not when the socket turns ready: the future only says that
//! it is time to try again. So nothing is ever taken from a socket for a task that is cancelled in between, and
//! the bytes of a hundred sockets that turn ready at once need the memory of one. What is sent goes out when
//! there is room: the reactor itself goes on with `sendall` until all is sent.
//!
//! # Registrations that stay
//!
//! A request that is received and answered should cost no `epoll_ctl`. So the registration that the first wait
//! makes is *kept* (see `ropewalk_reactor`): both sides, edge-triggered, until the socket is gone or somebody
//! else wants its descriptor. The reactor cannot know whether a number is still the same file; we do. A Python
//! socket never changes its descriptor but to -1, when it is closed or detached: **the same live object with the
//! same number is the same file**. A [`Place`] holds the object weakly; anything else that comes with the number
//! is another file, and is registered anew. (A program that puts another file under a live socket's number, by
//! `os.dup2` or `os.close`, does to the socket what it would do to it with any other library.)
//!
//! Edges tell of changes, not of states, so an operation is always tried first, and waits only if the system
//! said that it would block. An edge for which nobody waits is forgotten: the next operation tries first, too.
//! Where nobody ever waits again, say because a thread reads the socket from now on, edges are a nuisance: after
//! some that nobody heard the registration is given up.
//!
//! # Sharing a descriptor
//!
//! `add_reader` and `add_writer` take the registration's place, as a transport does. An operation that waits on
//! the other side goes on by a level-triggered watch of its side, as do all operations on a descriptor that the
//! program watches already. One side has one that waits: who comes later takes the earlier one's place, as with
//! asyncio.
//!
//! # Stale news
//!
//! A job may be queued for a socket that a callback before it closes, and whose number another socket has by the
//! time the job runs. Each registration therefore has a serial number, which jobs carry ([`Ticket`]), and each
//! operation asks its socket for its number before it touches it.

mod methods;
mod receive;
pub(crate) mod wish;

use std::io;
use std::os::fd::RawFd;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyWeakrefMethods, PyWeakrefReference};
use ropewalk_reactor::{Readiness, Side, Token};

pub(crate) use self::methods::methods;
use self::wish::Wish;
use crate::call::{call_method, ends_the_run};
use crate::error::os_error;
use crate::eventloop::{Loop, Task};
use crate::heap::{Ref, Returned};
use crate::object::Obj;
use crate::offspring::create_future;

/// After so many edges in a row for which nobody waited, a registration is given up.
const UNHEARD: u8 = 8;

/// Names one registration of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    fd: RawFd,
    serial: u32,
}

/// The sockets of a loop, by descriptor number.
#[derive(Default)]
pub(crate) struct Sockets {
    places: Vec<Option<Box<Place>>>,
    serial: u32,
}

/// What is known of one socket.
struct Place {
    serial: u32,
    /// The socket object's address, and a weak reference that tells whether it is still that object's.
    address: usize,
    alive: Obj,
    /// The kept registration; it may have given way since.
    token: Option<Token>,
    /// Who waits to read, and who to write.
    waiting: [Option<Waiting>; 2],
    /// Edges in a row that nobody waited for.
    unheard: u8,
}

/// A future, and what it waits for.
struct Waiting {
    future: Obj,
    sock: Obj,
    wish: Wish,
}

const fn index(side: Side) -> usize {
    match side {
        Side::Read => 0,
        Side::Write => 1,
    }
}

const fn other(side: Side) -> Side {
    match side {
        Side::Read => Side::Write,
        Side::Write => Side::Read,
    }
}

impl Place {
    /// Whether this is the place of `sock`, which is alive.
    fn is_of(&self, py: Python<'_>, sock: Ref<'_, '_>) -> bool {
        // SAFETY: made by `PyWeakrefReference::new`.
        let alive = unsafe { self.alive.bind(py).cast_unchecked::<PyWeakrefReference>() };
        // If the reference is alive it is to `sock` itself, whose life does not end with the reference that
        // `upgrade` takes.
        self.address == sock.as_ptr() as usize && alive.upgrade().is_some()
    }
}

impl Sockets {
    #[inline]
    fn at(&mut self, fd: RawFd) -> Option<&mut Place> {
        self.places
            .get_mut(usize::try_from(fd).ok()?)?
            .as_deref_mut()
    }

    #[inline]
    fn named(&mut self, ticket: Ticket) -> Option<&mut Place> {
        self.at(ticket.fd)
            .filter(|place| place.serial == ticket.serial)
    }

    fn next_serial(&mut self) -> u32 {
        self.serial = self.serial.wrapping_add(1);
        self.serial
    }

    /// All that the garbage collector has to know of.
    pub(crate) fn objects(&self) -> impl Iterator<Item = &Obj> {
        self.places.iter().flatten().flat_map(|place| {
            let waiting = place.waiting.iter().flatten().flat_map(|waiting| {
                [
                    Some(&waiting.future),
                    Some(&waiting.sock),
                    waiting.wish.object(),
                ]
            });
            waiting.flatten().chain(std::iter::once(&place.alive))
        })
    }
}

/// The number of a socket's descriptor, -1 once it is closed.
#[inline]
fn number(py: Python<'_>, sock: Ref<'_, '_>) -> PyResult<RawFd> {
    call_method(&sock, intern!(py, "fileno"), [])?.extract()
}

/// `None` where the system says that it would block.
#[inline]
pub(crate) fn unless_blocked<T>(py: Python<'_>, result: io::Result<T>) -> PyResult<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(os_error(py, &error)),
    }
}

/// A future of what `wish` is about.
fn wait(py: Python<'_>, this: Ref<'_, '_>, sock: Ref<'_, '_>, fd: RawFd, wish: Wish) -> Returned {
    let owner = Loop::of(this);
    // SAFETY: an owned reference, just made.
    let future = unsafe { Bound::from_owned_ptr(py, create_future(py, this)?) };
    let side = wish.side();
    // What a socket told before its connect began is not about the connect.
    let anew = matches!(wish, Wish::Connect(_));
    let waiting = Waiting {
        future: (&future).into(),
        // SAFETY: an argument of the call that is being served.
        sock: unsafe { Obj::from_borrowed(sock.as_ptr()) },
        wish,
    };
    let token = owner.sockets.with(py, |sockets| {
        sockets
            .at(fd)
            .filter(|place| place.is_of(py, sock))
            .and_then(|place| place.token)
    });
    let stands = match token {
        Some(token) if !anew => owner.reactor(py, |reactor| reactor.is_kept(token))?,
        _ => false,
    };
    if !stands {
        register(py, this, sock, fd, side)?;
    }
    let replaced = owner.sockets.with(py, |sockets| {
        sockets
            .at(fd)
            .and_then(|place| place.waiting[index(side)].replace(waiting))
    });
    drop(replaced);
    Ok(future.into_ptr())
}

/// Registers a socket and makes its place, or renews both.
#[cold]
fn register(
    py: Python<'_>,
    this: Ref<'_, '_>,
    sock: Ref<'_, '_>,
    fd: RawFd,
    side: Side,
) -> PyResult<()> {
    let owner = Loop::of(this);
    call_method(
        &this,
        intern!(py, "_ensure_fd_no_transport"),
        [fd.into_pyobject(py)?.as_any()],
    )?;
    let alive: Obj = PyWeakrefReference::new(&sock)?.into();
    let (serial, before, mine) = owner.sockets.with(py, |sockets| {
        let serial = sockets.next_serial();
        let index = usize::try_from(fd).unwrap_or_default();
        if index >= sockets.places.len() {
            sockets.places.resize_with(index + 1, || None);
        }
        let slot = &mut sockets.places[index];
        if let Some(place) = slot
            && place.is_of(py, sock)
        {
            return (serial, None, place.serial);
        }
        let place = Place {
            serial,
            address: sock.as_ptr() as usize,
            alive,
            token: None,
            waiting: [None, None],
            unheard: 0,
        };
        (serial, slot.replace(Box::new(place)), serial)
    });
    drop(before);
    let task = Task::Socket(Ticket { fd, serial });
    let (kept, lost) =
        owner.reactor(py, |reactor| (reactor.keep(fd, task), reactor.take_lost()))?;
    drop(lost);
    let refused = match kept {
        Ok(token) => {
            owner.sockets.with(py, |sockets| {
                if let Some(place) = sockets.at(fd) {
                    place.serial = serial;
                    place.token = Some(token);
                    place.unheard = 0;
                }
            });
            return Ok(());
        }
        Err((error, _)) => error,
    };
    if refused.kind() != io::ErrorKind::InvalidInput {
        return Err(os_error(py, &refused));
    }
    // The program watches the descriptor. What waits on the other side does so under the serial it has.
    let ticket = Ticket { fd, serial: mine };
    owner.sockets.with(py, |sockets| {
        if let Some(place) = sockets.at(fd) {
            place.token = None;
        }
    });
    watch(owner, py, ticket, side)
}

/// Watches one side for an operation, in place of what watched it before.
fn watch(owner: &Loop, py: Python<'_>, ticket: Ticket, side: Side) -> PyResult<()> {
    let task = Task::Socket(ticket);
    match owner.reactor(py, |reactor| reactor.watch(ticket.fd, side, task))? {
        Ok(Some(Task::Handle(handle))) => {
            handle.cancel(py);
            Ok(())
        }
        Ok(replaced) => {
            drop(replaced);
            Ok(())
        }
        Err((error, _)) => Err(os_error(py, &error)),
    }
}

/// `side` of a registration, or all of a kept one, has another watcher now: who waited there does so no longer,
/// who waits on the other side watches it for himself.
pub(crate) fn gave_way(owner: &Loop, py: Python<'_>, ticket: Ticket, side: Side) {
    let (replaced, sock) = owner.sockets.with(py, |sockets| {
        let Some(place) = sockets.named(ticket) else {
            return (None, None);
        };
        place.token = None;
        let sock = place.waiting[index(other(side))]
            .as_ref()
            .map(|waiting| waiting.sock.clone());
        (place.waiting[index(side)].take(), sock)
    });
    drop(replaced);
    if let Some(sock) = sock
        && number(py, sock.bind(py)).is_ok_and(|fd| fd == ticket.fd)
    {
        // A descriptor that was good for one watch is good for two; if not, nothing can be waited for.
        drop(watch(owner, py, ticket, other(side)));
    }
}

/// The job `Socket`.
#[inline]
pub(crate) fn ready(slf: &Bound<'_, Loop>, ticket: Ticket, readiness: Readiness) -> PyResult<()> {
    let mut heard = false;
    if readiness.readable() {
        heard |= perform(slf, ticket, Side::Read)?;
    }
    if readiness.writable() {
        heard |= perform(slf, ticket, Side::Write)?;
    }
    if !heard {
        unheard(slf, ticket)?;
    }
    Ok(())
}

/// Does what is waited for on a side. False if nothing is. An error is one that ends the run.
#[inline]
fn perform(slf: &Bound<'_, Loop>, ticket: Ticket, side: Side) -> PyResult<bool> {
    let py = slf.py();
    let owner = slf.get();
    let taken = owner.sockets.with(py, |sockets| {
        let place = sockets.named(ticket)?;
        let waiting = place.waiting[index(side)].take()?;
        place.unheard = 0;
        Some((waiting, place.token.is_none()))
    });
    let Some((mut waiting, watched)) = taken else {
        return Ok(false);
    };
    let done = call_method(&waiting.future.bind(py), intern!(py, "done"), [])?.is_truthy()?;
    if !done {
        // A socket that is closed by now says -1, of which the system says that it is no descriptor. What had its
        // number may be another's.
        let fd = number(py, waiting.sock.bind(py))?;
        match waiting.wish.attempt(py, fd) {
            Ok(true) => call_method(
                &waiting.future.bind(py),
                intern!(py, "set_result"),
                [py.None().bind(py)],
            )?,
            Ok(false) => {
                let late = owner.sockets.with(py, |sockets| {
                    match sockets
                        .named(ticket)
                        .map(|place| &mut place.waiting[index(side)])
                    {
                        Some(slot @ None) => slot.replace(waiting),
                        _ => Some(waiting),
                    }
                });
                drop(late);
                return Ok(true);
            }
            Err(error) if ends_the_run(py, &error) => return Err(error),
            Err(error) => call_method(
                &waiting.future.bind(py),
                intern!(py, "set_exception"),
                [error.into_value(py).bind(py).as_any()],
            )?,
        };
    }
    if watched {
        unwatch(owner, py, ticket, side)?;
    }
    Ok(true)
}

/// Ends a watch that was for an operation.
#[cold]
fn unwatch(owner: &Loop, py: Python<'_>, ticket: Ticket, side: Side) -> PyResult<()> {
    let removed = owner.reactor(py, |reactor| match reactor.watched(ticket.fd, side) {
        Some(Task::Socket(ours)) if *ours == ticket => reactor.unwatch(ticket.fd, side),
        _ => None,
    })?;
    drop(removed);
    Ok(())
}

/// An edge came for which nobody waits.
#[cold]
fn unheard(slf: &Bound<'_, Loop>, ticket: Ticket) -> PyResult<()> {
    let py = slf.py();
    let owner = slf.get();
    let known = owner.sockets.with(py, |sockets| {
        let place = sockets.named(ticket)?;
        place.unheard += 1;
        Some((place.token?, place.unheard, place.alive.clone()))
    });
    let Some((token, times, alive)) = known else {
        return Ok(());
    };
    // SAFETY: made by `PyWeakrefReference::new`.
    let sock = unsafe { alive.bind(py).cast_unchecked::<PyWeakrefReference>() }.upgrade();
    let open = match &sock {
        Some(sock) => number(py, sock.as_borrowed())? == ticket.fd,
        None => false,
    };
    if open && times < UNHEARD {
        return Ok(());
    }
    let task = owner.reactor(py, |reactor| reactor.detach(token))?;
    drop(task);
    let place = owner.sockets.with(py, |sockets| {
        let place = sockets.named(ticket)?;
        place.token = None;
        if open || place.waiting.iter().any(Option::is_some) {
            return None;
        }
        sockets
            .places
            .get_mut(usize::try_from(ticket.fd).ok()?)?
            .take()
    });
    drop(place);
    Ok(())
}

/// Forgets an operation whose coroutine waits no longer: what it holds goes with it.
fn end(py: Python<'_>, owner: &Loop, sock: Ref<'_, '_>, future: Ref<'_, '_>) -> PyResult<()> {
    let fd = number(py, sock)?;
    let is_it = |waiting: &Option<Waiting>| {
        waiting
            .as_ref()
            .is_some_and(|waiting| waiting.future.as_ptr() == future.as_ptr())
    };
    let found = owner.sockets.with(py, |sockets| {
        // A socket that is closed by now no longer says where it was.
        let places = if fd >= 0 {
            let at = usize::try_from(fd).unwrap_or_default();
            sockets.places.get_mut(at..=at).unwrap_or_default()
        } else {
            &mut sockets.places[..]
        };
        for (fd, place) in places.iter_mut().enumerate() {
            let Some(place) = place else { continue };
            for side in [Side::Read, Side::Write] {
                if is_it(&place.waiting[index(side)]) {
                    let waiting = place.waiting[index(side)].take();
                    let serial = place.serial;
                    return Some((waiting, side, place.token.is_none(), serial, fd));
                }
            }
        }
        None
    });
    let Some((waiting, side, watched, serial, at)) = found else {
        return Ok(());
    };
    drop(waiting);
    if watched {
        let fd = if fd >= 0 { fd } else { RawFd::try_from(at)? };
        // A closed loop watches nothing.
        drop(unwatch(owner, py, Ticket { fd, serial }, side));
    }
    Ok(())
}
