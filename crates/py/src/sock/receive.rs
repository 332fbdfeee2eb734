//! Receiving: each function tries once, and answers `None` if the system says that it would block.
//!
//! None blocks, whatever the socket object's timeout, but `accept`, which its caller sees to.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::{ptr, slice};

use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::PyBufferError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use pyo3::{ffi, intern};
use ropewalk_sys::{datagram, stream};

use super::unless_blocked;
use crate::address;
use crate::eventloop::Loop;
use crate::heap::Ref;
use crate::object::Obj;

/// A view of memory to receive into.
pub(super) fn writable(buffer: &Bound<'_, PyAny>) -> PyResult<PyUntypedBuffer> {
    let view = PyUntypedBuffer::get(buffer)?;
    if view.readonly() || !view.is_c_contiguous() {
        return Err(PyBufferError::new_err(
            "a writable, contiguous buffer is needed to receive into",
        ));
    }
    Ok(view)
}

/// The memory of a writable view, at most `size` bytes of it.
fn space(view: &mut PyUntypedBuffer, size: usize) -> &mut [MaybeUninit<u8>] {
    let size = size.min(view.len_bytes());
    // SAFETY: the view keeps the memory in place and is writable; receiving only ever writes initialised bytes.
    unsafe { slice::from_raw_parts_mut(view.buf_ptr().cast::<MaybeUninit<u8>>(), size) }
}

/// `recv(size)`: what comes goes through the loop's buffer into an object of exactly its size. Of a stream that is
/// at most the buffer's size at a time, which is less dear than the memory of one that large would be.
#[inline]
pub(super) fn recv(py: Python<'_>, owner: &Loop, fd: RawFd, size: usize) -> PyResult<Option<Obj>> {
    let received = owner.read_buffer.with(py, |buffer| {
        let space = buffer.space();
        let room = space.len().min(size);
        if room < size && !matches!(stream::is_stream(fd), Ok(true)) {
            // A message must not be cut off where our buffer ends.
            return None;
        }
        Some(stream::recv(fd, &mut space[..room]).map(|count| {
            // SAFETY: that many bytes were written; the object copies them.
            unsafe { ffi::PyBytes_FromStringAndSize(space.as_ptr().cast(), count.cast_signed()) }
        }))
    });
    let Some(received) = received else {
        let received = filled(py, size, |space| Ok((stream::recv(fd, space)?, ())))?;
        return Ok(received.map(|(bytes, ())| bytes));
    };
    unless_blocked(py, received)?
        .map(|bytes| {
            // SAFETY: a new reference or NULL with an exception set.
            unsafe { Obj::from_owned(bytes) }.ok_or_else(|| PyErr::fetch(py))
        })
        .transpose()
}

/// A bytes object of at most `size` that `receive` fills; with what it tells besides the count.
fn filled<T>(
    py: Python<'_>,
    size: usize,
    receive: impl FnOnce(&mut [MaybeUninit<u8>]) -> io::Result<(usize, T)>,
) -> PyResult<Option<(Obj, T)>> {
    // SAFETY: a new object of uninitialised bytes that nobody else knows, filled by the call, then cut to what
    // came. `_PyBytes_Resize` takes the reference and sets it to NULL when it fails.
    unsafe {
        let mut bytes = ffi::PyBytes_FromStringAndSize(ptr::null(), size.cast_signed());
        if bytes.is_null() {
            return Err(PyErr::fetch(py));
        }
        let space = ffi::PyBytes_AsString(bytes).cast::<MaybeUninit<u8>>();
        let (count, rest) = match receive(slice::from_raw_parts_mut(space, size)) {
            Ok(received) => received,
            Err(error) => {
                ffi::Py_DECREF(bytes);
                return unless_blocked(py, Err(error));
            }
        };
        if count < size && _PyBytes_Resize(&raw mut bytes, count.cast_signed()) != 0 {
            return Err(PyErr::fetch(py));
        }
        Ok(Obj::from_owned(bytes).map(|bytes| (bytes, rest)))
    }
}

unsafe extern "C" {
    /// Documented in CPython's "Bytes Objects"; PyO3 does not pass it on.
    fn _PyBytes_Resize(bytes: *mut *mut ffi::PyObject, size: ffi::Py_ssize_t) -> std::ffi::c_int;
}

/// `recv_into(buffer)`
pub(super) fn recv_into(
    py: Python<'_>,
    fd: RawFd,
    view: &mut PyUntypedBuffer,
) -> PyResult<Option<Obj>> {
    let space = space(view, usize::MAX);
    let received = if space.is_empty() {
        Ok(0)
    } else {
        stream::recv(fd, space)
    };
    unless_blocked(py, received)?
        .map(|count| Ok(count.into_pyobject(py)?.into_any().into()))
        .transpose()
}

/// `recvfrom(size)`
pub(super) fn recv_from(
    py: Python<'_>,
    owner: &Loop,
    fd: RawFd,
    size: usize,
) -> PyResult<Option<Obj>> {
    let received = owner.read_buffer.with(py, |buffer| {
        let space = buffer.space().get_mut(..size)?;
        Some(datagram::recv_from(fd, space).map(|(count, sender)| {
            // SAFETY: that many bytes were written; the object copies them.
            let bytes = unsafe {
                ffi::PyBytes_FromStringAndSize(space.as_ptr().cast(), count.cast_signed())
            };
            (bytes, sender)
        }))
    });
    let message = match received {
        None => filled(py, size, |space| datagram::recv_from(fd, space))?,
        Some(received) => unless_blocked(py, received)?
            .map(|(bytes, sender)| {
                // SAFETY: a new reference or NULL with an exception set.
                let bytes = unsafe { Obj::from_owned(bytes) };
                bytes
                    .map(|bytes| (bytes, sender))
                    .ok_or_else(|| PyErr::fetch(py))
            })
            .transpose()?,
    };
    let Some((bytes, sender)) = message else {
        return Ok(None);
    };
    let pair = (bytes.into_bound(py), address::to_python(py, sender)?).into_pyobject(py)?;
    Ok(Some(pair.into_any().into()))
}

/// `recvfrom_into(buffer, size)`
pub(super) fn recv_from_into(
    py: Python<'_>,
    fd: RawFd,
    view: &mut PyUntypedBuffer,
    size: usize,
) -> PyResult<Option<Obj>> {
    let received = datagram::recv_from(fd, space(view, size));
    let Some((count, sender)) = unless_blocked(py, received)? else {
        return Ok(None);
    };
    let pair = (count, address::to_python(py, sender)?).into_pyobject(py)?;
    Ok(Some(pair.into_any().into()))
}

/// `(connection, address)`, the connection as a non-blocking `socket.socket`.
pub(super) fn accept(py: Python<'_>, listener: Ref<'_, '_>, fd: RawFd) -> PyResult<Option<Obj>> {
    let Some((connection, peer)) = unless_blocked(py, stream::accept_from(fd))? else {
        return Ok(None);
    };
    let family = listener.getattr(intern!(py, "family"))?;
    let proto = listener.getattr(intern!(py, "proto"))?;
    let kind: i32 = listener.getattr(intern!(py, "type"))?.extract()?;
    let number = PyDict::new(py);
    let connection = connection.into_raw_fd();
    number.set_item(intern!(py, "fileno"), connection)?;
    let arguments = (family, kind | stream::NONBLOCKING, proto).into_pyobject(py)?;
    let made = listener.get_type().call(&arguments, Some(&number));
    let sock = made.inspect_err(|_| {
        // SAFETY: the number is of a descriptor that was ours a moment ago, and became nobody's since.
        drop(unsafe { OwnedFd::from_raw_fd(connection) });
    })?;
    if stream::NONBLOCKING == 0 {
        sock.call_method1(intern!(py, "setblocking"), (false,))?;
    }
    let address = address::to_python(py, peer)?;
    let pair = PyTuple::new(py, [&sock, address.bind(py)])?;
    Ok(Some(pair.into_any().into()))
}
