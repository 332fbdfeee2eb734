//! The hot half of the datagram transport: one message in, one message out.
//!
//! The transport itself is asyncio's (`ropewalk.asyncio._datagram`), with all that is said of closing, errors, queues
//! and water marks; what it does with each message is here. Receiving needs no memory but the message's own: it
//! goes through the loop's buffer. An address that is the last one again, which it is in most conversations, is the
//! same object again, both ways.

use std::mem::MaybeUninit;
use std::os::fd::RawFd;

use pyo3::exceptions::{PyOSError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyMemoryView};
use pyo3::{ffi, intern};
use ropewalk_sys::address::{Address, INET, INET6, UNIX};
use ropewalk_sys::{datagram, stream};

use crate::address::{numeric, to_python};
use crate::call::{audit, borrowed, call_method};
use crate::error::os_error;
use crate::eventloop::Loop;
use crate::guard::Guarded;
use crate::heap::{self, Arguments, Ref, Returned, method};
use crate::object::Obj;
use crate::sock::unless_blocked;
use crate::sock::wish::Data;

/// Messages taken in one turn, at most: the others' turn comes between.
const MOST: usize = 16;
/// One turn in so many asks for a second message.
const CURIOUS: u32 = 16;
/// The longest message taken from a Unix socket, which the loop's buffer is too small for.
const LONGEST: usize = 256 * 1024;

/// A datagram socket, as its transport uses it.
#[pyclass(frozen, module = "ropewalk._core")]
pub(crate) struct Datagrams {
    sock: Obj,
    fd: RawFd,
    family: i32,
    /// The socket is connected: no message says where it goes.
    connected: bool,
    state: Guarded<State>,
}

#[derive(Default)]
struct State {
    /// The last address that was seen, and how Python knows it.
    last: Option<(Address, Obj)>,
    /// The last turn that asked found more than one message.
    busy: bool,
    turns: u32,
    /// For messages of Unix sockets, once one has come.
    long: Option<Box<[MaybeUninit<u8>]>>,
}

#[pymethods]
impl Datagrams {
    #[new]
    fn new(sock: &Bound<'_, PyAny>, connected: bool) -> PyResult<Self> {
        Ok(Self {
            sock: sock.into(),
            fd: crate::watch::number(sock)?,
            family: sock.getattr(intern!(sock.py(), "family"))?.extract()?,
            connected,
            state: Guarded::new(State::default()),
        })
    }

    fn __traverse__(&self, visit: pyo3::gc::PyVisit<'_>) -> Result<(), pyo3::gc::PyTraverseError> {
        visit.call(self.sock.as_py())
    }
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Datagrams>()?;
    heap::add_methods(
        &module.py().get_type::<Datagrams>(),
        vec![
            method!(c"receive", c"receive($self, loop, transport, /)\n--\n\nHand what has come to the transport's protocol.", keywords, receive),
            method!(c"send", c"send($self, data, addr, /)\n--\n\nSend a message now. False if that is not for this method to decide.", keywords, send),
        ],
    )
}

fn this<'a>(object: Ref<'a, '_>) -> &'a Datagrams {
    // SAFETY: the method's descriptor checked that this is an instance of the class.
    let this = unsafe { object.cast_unchecked::<Datagrams>() };
    // SAFETY: the value is inside the object, which somebody holds for 'a.
    unsafe { &*std::ptr::from_ref(this.get()) }
}

fn receive(py: Python<'_>, object: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    let &[owner, transport] = given.positional() else {
        return Err(PyTypeError::new_err(
            "receive() takes a loop and a transport",
        ));
    };
    // SAFETY: arguments of the call that is being served.
    let [owner, transport] = [owner, transport].map(|value| unsafe { borrowed(py, value) });
    let owner = owner.cast::<Loop>()?;
    let this = this(object);
    // In a conversation one message is all there is, and to ask for another is a system call. So it is asked only
    // if the last turn found a second one, or if it was long since anybody asked.
    let most = this.state.with(py, |state| {
        state.turns = state.turns.wrapping_add(1);
        if state.busy || state.turns.is_multiple_of(CURIOUS) {
            MOST
        } else {
            1
        }
    });
    for count in 0..most {
        if count > 0 && !wants_more(py, transport)? {
            break;
        }
        let protocol = transport.getattr(intern!(py, "_protocol"))?;
        match this.take(py, owner.get()) {
            Ok(Some((data, sender))) => call_method(
                &protocol,
                intern!(py, "datagram_received"),
                [&data.bind(py), &sender.bind(py)],
            )?,
            Ok(None) => break,
            Err(error) if error.is_instance_of::<PyOSError>(py) => {
                let error = error.into_value(py).into_any();
                call_method(&protocol, intern!(py, "error_received"), [error.bind(py)])?
            }
            Err(error) => {
                let error = error.into_value(py).into_any();
                let message = intern!(py, "Fatal read error on datagram transport");
                let why = [error.bind(py), message.as_any()];
                call_method(&transport, intern!(py, "_fatal_error"), why)?;
                break;
            }
        };
        if count == 1 || most > 1 && count == 0 {
            this.state.with(py, |state| state.busy = count == 1);
        }
    }
    heap::none(py)
}

/// Whether the protocol that was just called still reads.
fn wants_more(py: Python<'_>, transport: Ref<'_, '_>) -> PyResult<bool> {
    Ok(!transport.getattr(intern!(py, "_closing"))?.is_truthy()?
        && !transport.getattr(intern!(py, "_paused"))?.is_truthy()?
        && transport
            .getattr(intern!(py, "_conn_lost"))?
            .extract::<usize>()?
            == 0)
}

impl Datagrams {
    /// Takes one message and its sender. `None` if there is none.
    fn take(&self, py: Python<'_>, owner: &Loop) -> PyResult<Option<(Obj, Obj)>> {
        let receive = |space: &mut [MaybeUninit<u8>]| {
            datagram::recv_from(self.fd, space).map(|(count, sender)| {
                // SAFETY: that many bytes were written; the object copies them.
                let bytes = unsafe {
                    ffi::PyBytes_FromStringAndSize(space.as_ptr().cast(), count.cast_signed())
                };
                (bytes, sender)
            })
        };
        let received = if self.family == UNIX {
            self.state.with(py, |state| {
                let long = state
                    .long
                    .get_or_insert_with(|| Box::new_uninit_slice(LONGEST));
                receive(long)
            })
        } else {
            owner.read_buffer.with(py, |buffer| receive(buffer.space()))
        };
        let Some((bytes, sender)) = unless_blocked(py, received)? else {
            return Ok(None);
        };
        // SAFETY: a new reference or NULL with an exception set.
        let bytes = unsafe { Obj::from_owned(bytes) }.ok_or_else(|| PyErr::fetch(py))?;
        let Some(sender) = sender else {
            return Ok(Some((bytes, py.None().into_bound(py).into())));
        };
        let known = self.state.with(py, |state| match &state.last {
            Some((last, shown)) if *last == sender => Some(shown.clone()),
            _ => None,
        });
        if let Some(shown) = known {
            return Ok(Some((bytes, shown)));
        }
        let shown: Obj = to_python(py, Some(sender.clone()))?.into_bound(py).into();
        self.remember(py, sender, shown.clone());
        Ok(Some((bytes, shown)))
    }

    fn remember(&self, py: Python<'_>, address: Address, shown: Obj) {
        let last = self
            .state
            .with(py, |state| state.last.replace((address, shown)));
        drop(last);
    }

    /// The address that an argument names, if it is one of the socket's family in numbers.
    fn address(&self, py: Python<'_>, shown: Ref<'_, '_>) -> Option<Address> {
        let known = self.state.with(py, |state| {
            let (last, object) = state.last.as_ref()?;
            // A tuple of text and numbers: the same object says the same as before.
            (object.as_ptr() == shown.as_ptr()).then(|| last.clone())
        });
        if known.is_some() && self.family != UNIX {
            return known;
        }
        let address = numeric(shown)?;
        let family = match address {
            Address::V4(_) => INET,
            _ => INET6,
        };
        if family != self.family {
            return None;
        }
        // SAFETY: an argument of the call that is being served.
        let shown = unsafe { Obj::from_borrowed(shown.as_ptr()) };
        self.remember(py, address.clone(), shown);
        Some(address)
    }
}

fn send(py: Python<'_>, object: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    let &[data, addr] = given.positional() else {
        return Err(PyTypeError::new_err(
            "send() takes a message and an address",
        ));
    };
    // SAFETY: arguments of the call that is being served.
    let [data, addr] = [data, addr].map(|value| unsafe { borrowed(py, value) });
    let this = this(object);
    let known = data.is_instance_of::<PyBytes>()
        || data.is_instance_of::<PyByteArray>()
        || data.is_instance_of::<PyMemoryView>();
    let data = if known { Data::new(&data) } else { None };
    let Some(data) = data.filter(|data| !data.bytes(py).is_empty()) else {
        return heap::boolean(py, false);
    };
    let sent = match (this.connected, addr.is_none()) {
        (true, true) => stream::send(this.fd, data.bytes(py)),
        (false, false) => match this.address(py, addr) {
            Some(address) => {
                audit(py, c"socket.sendto", this.sock.bind(py), addr)?;
                datagram::send_to(this.fd, data.bytes(py), &address)
            }
            None => return heap::boolean(py, false),
        },
        _ => return heap::boolean(py, false),
    };
    match sent {
        Ok(_) => heap::boolean(py, true),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => heap::boolean(py, false),
        Err(error) => Err(os_error(py, &error)),
    }
}
