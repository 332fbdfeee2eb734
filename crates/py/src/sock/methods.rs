//! What Python calls: each method does its operation at once or gives back a future of it.
//!
//! What is unusual is `NotImplemented` here and left to asyncio's own code, which takes or refuses it as it
//! always did: sockets of other classes than `socket.socket` itself (their methods may do more than the system's
//! calls), host names, arguments of odd types, wrong ones.

use std::ffi::CStr;
use std::os::fd::RawFd;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyInt;
use pyo3::{ffi, intern};
use ropewalk_sys::address::{self, Address, INET, INET6, UNIX};
use ropewalk_sys::{datagram, stream};

use super::receive::{self, writable};
use super::wish::{Data, Wish, send};
use super::{end, number, unless_blocked, wait};
use crate::address::numeric;
use crate::call::{audit, borrowed, call_method};
use crate::error::os_error;
use crate::eventloop::Loop;
use crate::heap::{self, Arguments, Ref, Returned, method};
use crate::object::Obj;

pub(crate) fn methods() -> Vec<ffi::PyMethodDef> {
    vec![
        method!(c"_begin_recv", DOC, keywords, begin_recv),
        method!(c"_begin_recv_into", DOC, keywords, begin_recv_into),
        method!(c"_begin_recvfrom", DOC, keywords, begin_recvfrom),
        method!(c"_begin_recvfrom_into", DOC, keywords, begin_recvfrom_into),
        method!(c"_begin_sendall", DOC, keywords, begin_sendall),
        method!(c"_begin_sendto", DOC, keywords, begin_sendto),
        method!(c"_begin_connect", DOC, keywords, begin_connect),
        method!(c"_begin_accept", DOC, keywords, begin_accept),
        method!(c"_end_operation", DOC, keywords, end_operation),
    ]
}

const DOC: &CStr = c"Internal.";

/// The values of a method that only our own Python code calls.
fn values<'a, 'py, const N: usize>(
    py: Python<'py>,
    given: Arguments<'a, 'py>,
) -> PyResult<[Ref<'a, 'py>; N]> {
    match <[*mut ffi::PyObject; N]>::try_from(given.positional()) {
        // SAFETY: arguments of the call that is being served.
        Ok(values) => Ok(values.map(|value| unsafe { borrowed(py, value) })),
        Err(_) => Err(PyTypeError::new_err(format!("{N} arguments are needed"))),
    }
}

fn unusual(py: Python<'_>) -> Returned {
    Ok(py.NotImplemented().into_ptr())
}

/// The number of a socket that we may handle by it.
#[inline]
fn plain(py: Python<'_>, owner: &Loop, sock: Ref<'_, '_>) -> PyResult<Option<RawFd>> {
    static SOCKET: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let class = SOCKET.get_or_try_init(py, || {
        PyResult::Ok(py.import("socket")?.getattr("socket")?.unbind())
    })?;
    if sock.get_type().as_ptr() != class.as_ptr() || owner.debug() && !is_non_blocking(py, sock)? {
        return Ok(None);
    }
    number(py, sock).map(Some)
}

fn is_non_blocking(py: Python<'_>, sock: Ref<'_, '_>) -> PyResult<bool> {
    let timeout = call_method(&sock, intern!(py, "gettimeout"), [])?;
    Ok(timeout.extract::<f64>().is_ok_and(|timeout| timeout == 0.0))
}

/// The family of a `socket.socket`, from below its own property, which makes an enum of it.
fn family(py: Python<'_>, sock: Ref<'_, '_>) -> PyResult<i32> {
    static FAMILY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let member = FAMILY.get_or_try_init(py, || {
        let class = py.import("_socket")?.getattr("socket")?;
        PyResult::Ok(class.getattr("family")?.unbind())
    })?;
    call_method(member.bind(py), intern!(py, "__get__"), [&sock])?.extract()
}

/// Whether addresses of the family are ones that we show as the `socket` module does.
fn is_known(family: i32) -> bool {
    [INET, INET6, UNIX].contains(&family)
}

/// The value of a plain, non-negative `int`.
#[inline]
fn size(value: Ref<'_, '_>) -> Option<usize> {
    if value.is_exact_instance_of::<PyInt>() {
        value.extract().ok()
    } else {
        None
    }
}

/// What was received, or a future that says when to try again.
#[inline]
fn or_wait(
    py: Python<'_>,
    this: Ref<'_, '_>,
    sock: Ref<'_, '_>,
    fd: RawFd,
    received: Option<Obj>,
) -> Returned {
    match received {
        Some(received) => Ok(received.into_ptr()),
        None => wait(py, this, sock, fd, Wish::Readable),
    }
}

fn begin_recv(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    let [sock, count] = values(py, given)?;
    let owner = Loop::of(this);
    let (Some(fd), Some(count @ 1..)) = (plain(py, owner, sock)?, size(count)) else {
        return unusual(py);
    };
    let received = receive::recv(py, owner, fd, count)?;
    or_wait(py, this, sock, fd, received)
}

fn begin_recv_into(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    let [sock, buffer] = values(py, given)?;
    let (Some(fd), Ok(mut view)) = (plain(py, Loop::of(this), sock)?, writable(&buffer)) else {
        return unusual(py);
    };
    let received = receive::recv_into(py, fd, &mut view)?;
    drop(view);
    or_wait(py, this, sock, fd, received)
}

fn begin_recvfrom(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    let [sock, count] = values(py, given)?;
    let owner = Loop::of(this);
    match (plain(py, owner, sock)?, size(count)) {
        (Some(fd), Some(count)) if is_known(family(py, sock)?) => {
            let received = receive::recv_from(py, owner, fd, count)?;
            or_wait(py, this, sock, fd, received)
        }
        _ => unusual(py),
    }
}

fn begin_recvfrom_into(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    let [sock, buffer, count] = values(py, given)?;
    let (Some(fd), Ok(mut view)) = (plain(py, Loop::of(this), sock)?, writable(&buffer)) else {
        return unusual(py);
    };
    let room = view.len_bytes();
    match size(count) {
        Some(count) if room > 0 && count <= room && is_known(family(py, sock)?) => {
            let count = if count == 0 { room } else { count };
            let received = receive::recv_from_into(py, fd, &mut view, count)?;
            drop(view);
            or_wait(py, this, sock, fd, received)
        }
        _ => unusual(py),
    }
}

fn begin_accept(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    let [sock] = values(py, given)?;
    match plain(py, Loop::of(this), sock)? {
        // The system's call blocks if the listening socket does.
        Some(fd) if is_non_blocking(py, sock)? && is_known(family(py, sock)?) => {
            let accepted = receive::accept(py, sock, fd)?;
            or_wait(py, this, sock, fd, accepted)
        }
        _ => unusual(py),
    }
}

fn begin_sendall(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    let [sock, data] = values(py, given)?;
    let (Some(fd), Some(data)) = (plain(py, Loop::of(this), sock)?, Data::new(&data)) else {
        return unusual(py);
    };
    let mut sent = 0;
    if send(py, fd, data.bytes(py), &mut sent)? {
        return heap::none(py);
    }
    wait(py, this, sock, fd, Wish::Sent(data, sent))
}

fn begin_sendto(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    let [sock, data, address] = values(py, given)?;
    let (Some(fd), Some(to), Some(data)) = (
        plain(py, Loop::of(this), sock)?,
        numeric(address),
        Data::new(&data),
    ) else {
        return unusual(py);
    };
    let wanted = match to {
        Address::V4(_) => INET,
        _ => INET6,
    };
    if family(py, sock)? != wanted {
        return unusual(py);
    }
    audit(py, c"socket.sendto", sock, address)?;
    match unless_blocked(py, datagram::send_to(fd, data.bytes(py), &to))? {
        Some(count) => Ok(count.into_pyobject(py)?.into_any().into_ptr()),
        None => wait(py, this, sock, fd, Wish::Writable),
    }
}

fn begin_connect(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    let [sock, address] = values(py, given)?;
    let fd = match plain(py, Loop::of(this), sock)? {
        Some(fd) if fd >= 0 && is_non_blocking(py, sock)? => fd,
        _ => return unusual(py),
    };
    let (address, is_near) = match (family(py, sock)?, numeric(address)) {
        (INET, Some(Address::V4(to))) => (address.to_owned(), to.ip().is_loopback()),
        (INET6, Some(Address::V6(to))) => {
            // As asyncio shows it in the exception.
            let host = address.get_item(0)?;
            let whole = (host, to.port(), u32::from_be(to.flowinfo()), to.scope_id());
            let whole = whole.into_pyobject(py)?.into_any();
            (whole, to.ip().is_loopback())
        }
        (INET | INET6, _) => return unusual(py),
        _ => (address.to_owned(), false),
    };
    let code = call_method(&sock, intern!(py, "connect_ex"), [&address])?.extract::<i32>()?;
    if code == 0 {
        return heap::none(py);
    }
    let error = std::io::Error::from_raw_os_error(code);
    if !stream::goes_on(&error) {
        return Err(os_error(py, &error));
    }
    // In this very machine the other end has most often answered before the call returned.
    if is_near && address::peer(fd).is_ok() {
        return heap::none(py);
    }
    wait(py, this, sock, fd, Wish::Connect(address.into()))
}

fn end_operation(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    let [sock, future] = values(py, given)?;
    end(py, Loop::of(this), sock, future)?;
    heap::none(py)
}
