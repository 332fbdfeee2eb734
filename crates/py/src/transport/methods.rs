//! The class `StreamTransport` and its methods, but for the writing ones.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyType};

use super::object::{HEADER, TransportObject, clear, dealloc, traverse};
use super::{
    CLASS, Socket, State, TransportRef, attach, fatal, force_close, read, release, style_of, write,
};
use crate::call::borrowed;
use crate::eventloop::{Loop, Task};
use crate::heap::{self, Arguments, Plan, RawType, Ref, Returned, getter, method};
use crate::object::Obj;

/// Makes the type.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    let base: Bound<'_, PyType> = py
        .import("asyncio.transports")?
        .getattr("_FlowControlMixin")?
        .cast_into()?;
    let mut methods = vec![
        method!(c"get_protocol", c"get_protocol($self)\n--\n\nReturn the current protocol.", noargs, get_protocol),
        method!(c"set_protocol", c"set_protocol($self, protocol)\n--\n\nSwitch to another protocol; it is not told of the connection.", one "protocol", set_protocol),
        method!(c"is_closing", c"is_closing($self)\n--\n\nReturn True if the transport is closing or closed.", noargs, is_closing),
        method!(c"is_reading", c"is_reading($self)\n--\n\nReturn True if the transport is receiving.", noargs, is_reading),
        method!(c"pause_reading", c"pause_reading($self)\n--\n\nPause receiving. The protocol gets no data until resume_reading(). Again is no error.", noargs, pause_reading),
        method!(c"resume_reading", c"resume_reading($self)\n--\n\nResume receiving. Again is no error.", noargs, resume_reading),
        method!(c"close", c"close($self)\n--\n\nClose the transport: what is buffered is sent, then the protocol's connection_lost(None) is called.", noargs, close),
        method!(c"abort", c"abort($self)\n--\n\nClose the transport at once. What is buffered is lost; connection_lost(None) is called.", noargs, abort),
        method!(c"_force_close", c"_force_close($self, exc)\n--\n\nInternal.", one "exc", force_close_with),
        method!(c"_fatal_error", c"_fatal_error($self, exc, message=\"Fatal error on transport\")\n--\n\nInternal.", keywords, fatal_error),
        method!(c"_abandon", c"_abandon($self)\n--\n\nInternal.", noargs, abandon),
        method!(c"_addresses", c"_addresses($self)\n--\n\nInternal.", noargs, addresses),
        method!(c"_suspend", c"_suspend($self)\n--\n\nInternal.", noargs, suspend),
        method!(c"_resume", c"_resume($self)\n--\n\nInternal.", noargs, resume),
        method!(c"_set_extra", c"_set_extra($self, extra)\n--\n\nInternal.", one "extra", set_extra),
    ];
    methods.extend(write::methods());
    let raw = RawType::new(
        &base,
        Plan {
            name: c"ropewalk._core.StreamTransport",
            doc: c"A stream socket on the reactor; see ropewalk.asyncio.SocketTransport.",
            header: HEADER,
            size: size_of::<TransportObject>(),
            subclassable: true,
            methods,
            getters: vec![
                getter!(c"_extra", extra),
                getter!(c"_sock", sock),
                getter!(c"_sock_fd", sock_fd),
                getter!(c"_loop", loop_of),
                getter!(c"_protocol", get_protocol),
                getter!(c"_closing", is_closing),
                getter!(c"_paused", is_paused),
                getter!(c"_conn_lost", conn_lost),
                getter!(c"_protocol_paused", protocol_paused),
                getter!(c"_is_open", is_open),
            ],
            dealloc,
            traverse,
            clear,
            slots: vec![],
        },
    )?;
    module.add("StreamTransport", CLASS.get_or_init(|| raw).bind(py))
}

/// The transport that a method was called on.
#[inline]
pub(super) fn this(object: Ref<'_, '_>) -> TransportRef {
    // SAFETY: CPython checked the type before it called the method; the object is alive.
    TransportRef(unsafe { Obj::from_borrowed(object.as_ptr()) })
}

/// Answers from the state.
#[inline]
pub(super) fn look<R>(
    py: Python<'_>,
    object: Ref<'_, '_>,
    f: impl FnOnce(&mut State) -> R,
) -> PyResult<R> {
    Ok(this(object).body()?.with(py, f))
}

fn give(py: Python<'_>, object: Option<Obj>) -> Returned {
    object.map_or_else(|| heap::none(py), |object| Ok(object.into_ptr()))
}

fn get_protocol(py: Python<'_>, object: Ref<'_, '_>) -> Returned {
    give(py, look(py, object, |state| state.protocol.clone())?)
}

fn set_protocol(py: Python<'_>, object: Ref<'_, '_>, protocol: Ref<'_, '_>) -> Returned {
    // SAFETY: an argument of the call that is being served.
    let protocol = unsafe { Obj::from_borrowed(protocol.as_ptr()) };
    let style = style_of(py, &protocol)?;
    let old = look(py, object, |state| {
        state.style = style;
        state.protocol.replace(protocol)
    })?;
    drop(old);
    heap::none(py)
}

fn is_closing(py: Python<'_>, object: Ref<'_, '_>) -> Returned {
    heap::boolean(py, look(py, object, |state| state.closing)?)
}

fn is_reading(py: Python<'_>, object: Ref<'_, '_>) -> Returned {
    heap::boolean(
        py,
        look(py, object, |state| !state.closing && !state.paused)?,
    )
}

fn is_paused(py: Python<'_>, object: Ref<'_, '_>) -> Returned {
    heap::boolean(py, look(py, object, |state| state.paused)?)
}

fn is_open(py: Python<'_>, object: Ref<'_, '_>) -> Returned {
    let open = this(object)
        .body()
        .is_ok_and(|body| body.with(py, |state| !matches!(state.socket, Socket::Closed)));
    heap::boolean(py, open)
}

fn protocol_paused(py: Python<'_>, object: Ref<'_, '_>) -> Returned {
    heap::boolean(py, look(py, object, |state| state.protocol_paused)?)
}

fn conn_lost(py: Python<'_>, object: Ref<'_, '_>) -> Returned {
    let count = look(py, object, |state| state.conn_lost)?;
    Ok(count.into_pyobject(py)?.into_any().into_ptr())
}

fn sock_fd(py: Python<'_>, object: Ref<'_, '_>) -> Returned {
    let fd = this(object).body()?.fd;
    Ok(fd.into_pyobject(py)?.into_any().into_ptr())
}

/// The loop, or `None` once the connection is lost, as asyncio's transports answer.
fn loop_of(py: Python<'_>, object: Ref<'_, '_>) -> Returned {
    let transport = this(object);
    let body = transport.body()?;
    let open = body.with(py, |state| !matches!(state.socket, Socket::Closed));
    give(py, open.then(|| body.owner.clone()))
}

/// The Python socket, made now if nobody asked before; `None` once closed.
fn sock(py: Python<'_>, object: Ref<'_, '_>) -> Returned {
    let transport = this(object);
    let body = transport.body()?;
    let known = body.with(py, |state| match &state.socket {
        Socket::Python(sock) => Some(Some(sock.clone())),
        Socket::Bare(_) => None,
        Socket::Closed => Some(None),
    });
    if let Some(known) = known {
        return give(py, known);
    }
    // `socket.socket(fileno=...)` asks the kernel for family, type and protocol.
    let options = PyDict::new(py);
    options.set_item("fileno", body.fd)?;
    let made = py
        .import(intern!(py, "socket"))?
        .getattr(intern!(py, "socket"))?
        .call((), Some(&options))?;
    let ours: Obj = (&made).into();
    let before = body.with(py, |state| match state.socket {
        Socket::Bare(_) => std::mem::replace(&mut state.socket, Socket::Python(ours)),
        _ => Socket::Python(ours),
    });
    match before {
        // Now the Python socket owns the descriptor.
        Socket::Bare(fd) => {
            let _ = std::os::fd::IntoRawFd::into_raw_fd(fd);
            Ok(made.into_ptr())
        }
        // Somebody was faster: theirs owns it, ours must not close it.
        _ => {
            made.call_method0(intern!(py, "detach"))?;
            sock(py, object)
        }
    }
}

/// `get_extra_info`'s dictionary, made when first asked for.
fn extra(py: Python<'_>, object: Ref<'_, '_>) -> Returned {
    let transport = this(object);
    let body = transport.body()?;
    let (given, whole) = body.with(py, |state| (state.extra.clone(), state.extra_is_whole));
    if let (Some(extra), true) = (&given, whole) {
        return Ok(extra.clone().into_ptr());
    }
    let given = give(py, given)?;
    // SAFETY: an owned reference, just made.
    let given = unsafe { Bound::from_owned_ptr(py, given) };
    let made = transport
        .0
        .bind(py)
        .call_method1(intern!(py, "_make_extra"), (given,))?;
    let ours: Obj = (&made).into();
    let old = body.with(py, |state| {
        state.extra_is_whole = true;
        state.extra.replace(ours)
    });
    drop(old);
    Ok(made.into_ptr())
}

fn set_extra(py: Python<'_>, object: Ref<'_, '_>, extra: Ref<'_, '_>) -> Returned {
    // SAFETY: an argument of the call that is being served.
    let extra = unsafe { Obj::from_borrowed(extra.as_ptr()) };
    let old = look(py, object, |state| {
        state.extra_is_whole = true;
        state.extra.replace(extra)
    })?;
    drop(old);
    heap::none(py)
}

/// `(sockname, peername)` as the `socket` module shows them.
fn addresses(py: Python<'_>, object: Ref<'_, '_>) -> Returned {
    let (local, peer) = look(py, object, |state| {
        (state.local.clone(), state.peer.clone())
    })?;
    let pair = (
        crate::address::to_python(py, local)?,
        crate::address::to_python(py, peer)?,
    );
    Ok(pair.into_pyobject(py)?.into_any().into_ptr())
}

fn pause_reading(py: Python<'_>, object: Ref<'_, '_>) -> Returned {
    look(py, object, |state| state.paused |= !state.closing)?;
    heap::none(py)
}

fn resume_reading(py: Python<'_>, object: Ref<'_, '_>) -> Returned {
    let transport = this(object);
    let body = transport.body()?;
    let resumed = body.with(py, |state| {
        let resumed = state.paused && !state.closing;
        state.paused &= !resumed;
        resumed
    });
    if resumed {
        read::go_on(&transport.owner(py)?, &transport)?;
    }
    heap::none(py)
}

pub(super) fn close(py: Python<'_>, object: Ref<'_, '_>) -> Returned {
    let transport = this(object);
    let body = transport.body()?;
    let ends_now = body.with(py, |state| {
        if state.closing {
            return false;
        }
        state.closing = true;
        let ends_now = state.output.is_empty();
        if ends_now {
            state.conn_lost += 1;
        }
        ends_now
    });
    if ends_now {
        transport
            .owner(py)?
            .get()
            .enqueue(py, Task::Lost(transport.clone()))?;
    }
    heap::none(py)
}

fn abort(py: Python<'_>, object: Ref<'_, '_>) -> Returned {
    let transport = this(object);
    force_close(&transport.owner(py)?, &transport, None)?;
    heap::none(py)
}

fn force_close_with(py: Python<'_>, object: Ref<'_, '_>, because: Ref<'_, '_>) -> Returned {
    let transport = this(object);
    // SAFETY: an argument of the call that is being served.
    let because = (!because.is_none()).then(|| unsafe { Obj::from_borrowed(because.as_ptr()) });
    force_close(&transport.owner(py)?, &transport, because)?;
    heap::none(py)
}

/// `_fatal_error(exc, message='Fatal error on transport')`, which sslproto calls.
fn fatal_error(py: Python<'_>, object: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    let transport = this(object);
    // SAFETY: arguments of the call that is being served.
    let mut values = given
        .all()
        .iter()
        .map(|value| unsafe { borrowed(py, *value) });
    let error = values.next().ok_or_else(|| {
        pyo3::exceptions::PyTypeError::new_err("_fatal_error() needs an exception")
    })?;
    let message = match values.next() {
        Some(message) => message.extract::<String>()?,
        None => "Fatal error on transport".to_owned(),
    };
    fatal(
        &transport.owner(py)?,
        &transport,
        &message,
        PyErr::from_value(error.to_owned()),
    )?;
    heap::none(py)
}

/// Closes the socket of a transport that nobody holds any more, without a word to its protocol.
fn abandon(py: Python<'_>, object: Ref<'_, '_>) -> Returned {
    release(py, &this(object))?;
    heap::none(py)
}

/// Takes the descriptor out of the reactor for a while: sendfile watches it itself.
fn suspend(py: Python<'_>, object: Ref<'_, '_>) -> Returned {
    let transport = this(object);
    let body = transport.body()?;
    if let Some(token) = body.with(py, |state| state.token.take()) {
        let task = Loop::from_obj(py, &body.owner).reactor(py, |reactor| reactor.detach(token))?;
        drop(task);
    }
    heap::none(py)
}

/// Registers the descriptor again. A fresh registration reports what is ready as an edge.
fn resume(py: Python<'_>, object: Ref<'_, '_>) -> Returned {
    let transport = this(object);
    let body = transport.body()?;
    let wanted = body.with(py, |state| {
        state.token.is_none() && !matches!(state.socket, Socket::Closed)
    });
    if wanted {
        attach(py, &transport)?;
    }
    heap::none(py)
}
