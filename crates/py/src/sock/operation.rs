//! What can be waited for: each operation as one attempt that either does it or says that it would block.
//!
//! An attempt never blocks, whatever the socket object's timeout. It may be repeated: it keeps how far it came.

use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;
use std::os::fd::{IntoRawFd, RawFd};
use std::{ptr, slice};

use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::{PyBufferError, PyOSError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};
use pyo3::{ffi, intern};
use ropewalk_reactor::Side;
use ropewalk_sys::address::Address;
use ropewalk_sys::{datagram, stream};

use crate::address;
use crate::error::os_error;
use crate::eventloop::Loop;
use crate::object::Obj;

/// A read of so many bytes makes the next one a bulk read: straight into its object.
const LARGE: usize = 16 * 1024;
/// What one bulk read from a stream takes at most: under the size that glibc maps from the kernel.
const BULK: usize = 120 * 1024;

pub(super) enum Operation {
    /// `recv(size)`
    Recv(usize),
    /// `recv_into(buffer)`
    RecvInto(Obj),
    /// `recvfrom(size)`
    RecvFrom(usize),
    /// `recvfrom_into(buffer, size)`
    RecvFromInto(Obj, usize),
    /// `accept()` on this socket.
    Accept(Obj),
    /// `sendall(data)`, and how much of it is sent.
    SendAll(Data, usize),
    /// `sendto(data, address)`
    SendTo(Obj, Address),
    /// A connect to this address is under way.
    Connect(Obj),
}

/// Bytes to send, kept in place.
pub(super) enum Data {
    Bytes(Obj),
    View(PyUntypedBuffer),
}

impl Data {
    /// `None` if this is nothing that a socket could send.
    pub(super) fn new(data: &Bound<'_, PyAny>) -> Option<Self> {
        if data.is_exact_instance_of::<PyBytes>() {
            return Some(Self::Bytes(data.into()));
        }
        let view = PyUntypedBuffer::get(data).ok()?;
        view.is_c_contiguous().then_some(Self::View(view))
    }

    fn bytes(&self, py: Python<'_>) -> &[u8] {
        match self {
            Self::Bytes(bytes) => {
                // SAFETY: an exact bytes object by construction.
                let bytes = unsafe { bytes.bind(py).cast_unchecked::<PyBytes>() };
                let bytes = bytes.as_bytes();
                // SAFETY: the memory is the object's, which `self` keeps.
                unsafe { slice::from_raw_parts(bytes.as_ptr(), bytes.len()) }
            }
            // SAFETY: the view keeps the memory in place; that another thread may write into it meanwhile is
            // the caller's, as it is with `socket.send`, and changes bytes only.
            Self::View(view) => unsafe {
                slice::from_raw_parts(view.buf_ptr().cast::<u8>(), view.len_bytes())
            },
        }
    }
}

/// `None` where the system says that it would block.
fn unless_blocked<T>(py: Python<'_>, result: io::Result<T>) -> PyResult<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(os_error(py, &error)),
    }
}

impl Operation {
    pub(super) fn side(&self) -> Side {
        match self {
            Self::Recv(_)
            | Self::RecvInto(_)
            | Self::RecvFrom(_)
            | Self::RecvFromInto(..)
            | Self::Accept(_) => Side::Read,
            Self::SendAll(..) | Self::SendTo(..) | Self::Connect(_) => Side::Write,
        }
    }

    /// The Python object that it holds, if the garbage collector can make use of it.
    pub(super) fn object(&self) -> Option<&Obj> {
        match self {
            Self::RecvInto(object)
            | Self::RecvFromInto(object, _)
            | Self::Accept(object)
            | Self::SendAll(Data::Bytes(object), _)
            | Self::SendTo(object, _)
            | Self::Connect(object) => Some(object),
            Self::Recv(_) | Self::RecvFrom(_) | Self::SendAll(Data::View(_), _) => None,
        }
    }

    /// Whether `result` says that the next read should be a bulk read.
    #[inline]
    pub(super) fn is_bulk(&self, result: &Obj) -> bool {
        // SAFETY: a live object, and bytes if its size is asked for.
        matches!(self, Self::Recv(_))
            && unsafe {
                ffi::PyBytes_CheckExact(result.as_ptr()) != 0
                    && ffi::PyBytes_Size(result.as_ptr()) >= LARGE.cast_signed()
            }
    }

    /// Tries; `None` says that it would block.
    #[inline]
    pub(super) fn attempt(
        &mut self,
        py: Python<'_>,
        owner: &Loop,
        fd: RawFd,
        bulk: bool,
    ) -> PyResult<Option<Obj>> {
        match self {
            Self::Recv(size) => recv(py, owner, fd, *size, bulk),
            Self::RecvInto(buffer) => {
                let view = writable(&buffer.bind(py))?;
                let space = space(&view, usize::MAX);
                let received = if space.is_empty() {
                    Ok(0)
                } else {
                    stream::recv(fd, space)
                };
                drop(view);
                unless_blocked(py, received)?
                    .map(|count| Ok(count.into_pyobject(py)?.into_any().into()))
                    .transpose()
            }
            Self::RecvFrom(size) => recv_from(py, owner, fd, *size),
            Self::RecvFromInto(buffer, size) => {
                let view = writable(&buffer.bind(py))?;
                let received = datagram::recv_from(fd, space(&view, *size));
                drop(view);
                let Some((count, sender)) = unless_blocked(py, received)? else {
                    return Ok(None);
                };
                let pair = (count, address::to_python(py, sender)?).into_pyobject(py)?;
                Ok(Some(pair.into_any().into()))
            }
            Self::Accept(listener) => accept(py, listener, fd),
            Self::SendAll(data, sent) => send_all(py, fd, data, sent),
            Self::SendTo(data, address) => {
                let data = PyUntypedBuffer::get(&data.bind(py))?;
                if !data.is_c_contiguous() {
                    return Err(PyBufferError::new_err("the data is not contiguous"));
                }
                // SAFETY: as in `Data::bytes`.
                let bytes =
                    unsafe { slice::from_raw_parts(data.buf_ptr().cast::<u8>(), data.len_bytes()) };
                unless_blocked(py, datagram::send_to(fd, bytes, address))?
                    .map(|count| Ok(count.into_pyobject(py)?.into_any().into()))
                    .transpose()
            }
            Self::Connect(address) => match stream::take_error(fd) {
                Ok(None) => Ok(Some(py.None().into_bound(py).into())),
                Ok(Some(error)) => Err(connect_failed(py, &error, address)),
                Err(error) => Err(os_error(py, &error)),
            },
        }
    }
}

/// The exception of a connect that failed while it was waited for, as asyncio words it.
pub(super) fn connect_failed(py: Python<'_>, error: &io::Error, address: &Obj) -> PyErr {
    let told = address.bind(py).str();
    match (told, error.raw_os_error()) {
        (Ok(address), Some(number)) => {
            PyOSError::new_err((number, format!("Connect call failed {address}")))
        }
        (Err(error), _) => error,
        (_, None) => os_error(py, error),
    }
}

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
fn space(view: &PyUntypedBuffer, size: usize) -> &mut [MaybeUninit<u8>] {
    let size = size.min(view.len_bytes());
    // SAFETY: the view keeps the memory in place and is writable; receiving only ever writes initialised bytes.
    unsafe { slice::from_raw_parts_mut(view.buf_ptr().cast::<MaybeUninit<u8>>(), size) }
}

/// Receives at most `size` bytes. Small reads go through the loop's buffer and come out as an object of exactly
/// their size; bulk reads go straight into an object, which is then cut.
#[inline]
fn recv(py: Python<'_>, owner: &Loop, fd: RawFd, size: usize, bulk: bool) -> PyResult<Option<Obj>> {
    if !bulk {
        let whole = owner.read_buffer.with(py, |buffer| {
            let space = buffer.space();
            let room = space.len().min(size);
            // A message must not be cut off where our buffer ends.
            if room < size && !matches!(stream::is_stream(fd), Ok(true)) {
                return None;
            }
            Some(stream::recv(fd, &mut space[..room]).map(|count| {
                // SAFETY: that many bytes were written; the object copies them.
                unsafe {
                    ffi::PyBytes_FromStringAndSize(space.as_ptr().cast(), count.cast_signed())
                }
            }))
        });
        if let Some(received) = whole {
            return unless_blocked(py, received)?
                // SAFETY: a new reference or NULL with an exception set.
                .map(|bytes| unsafe { Obj::from_owned(bytes) }.ok_or_else(|| PyErr::fetch(py)))
                .transpose();
        }
    }
    let most = if size > BULK && matches!(stream::is_stream(fd), Ok(true)) {
        BULK
    } else {
        size
    };
    let received = filled(py, most, |space| Ok((stream::recv(fd, space)?, ())))?;
    Ok(received.map(|(bytes, ())| bytes))
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

fn recv_from(py: Python<'_>, owner: &Loop, fd: RawFd, size: usize) -> PyResult<Option<Obj>> {
    let received = owner.read_buffer.with(py, |buffer| {
        let space = buffer.space();
        if size > space.len() {
            return None;
        }
        Some(
            datagram::recv_from(fd, &mut space[..size]).map(|(count, sender)| {
                // SAFETY: that many bytes were written; the object copies them.
                let bytes = unsafe {
                    ffi::PyBytes_FromStringAndSize(space.as_ptr().cast(), count.cast_signed())
                };
                (bytes, sender)
            }),
        )
    });
    let message = match received {
        Some(received) => match unless_blocked(py, received)? {
            // SAFETY: a new reference or NULL with an exception set.
            Some((bytes, sender)) => Some((
                unsafe { Obj::from_owned(bytes) }.ok_or_else(|| PyErr::fetch(py))?,
                sender,
            )),
            None => None,
        },
        None => filled(py, size, |space| datagram::recv_from(fd, space))?,
    };
    let Some((bytes, sender)) = message else {
        return Ok(None);
    };
    let pair = (bytes.into_bound(py), address::to_python(py, sender)?).into_pyobject(py)?;
    Ok(Some(pair.into_any().into()))
}

fn send_all(py: Python<'_>, fd: RawFd, data: &Data, sent: &mut usize) -> PyResult<Option<Obj>> {
    let bytes = data.bytes(py);
    loop {
        match stream::send(fd, &bytes[*sent..]) {
            Ok(count) => *sent += count,
            Err(error) => return unless_blocked::<Obj>(py, Err(error)),
        }
        if *sent >= bytes.len() {
            return Ok(Some(py.None().into_bound(py).into()));
        }
    }
}

/// `(connection, address)`, the connection as a non-blocking `socket.socket`.
fn accept(py: Python<'_>, listener: &Obj, fd: RawFd) -> PyResult<Option<Obj>> {
    let Some((connection, peer)) = unless_blocked(py, stream::accept_from(fd))? else {
        return Ok(None);
    };
    let listener = listener.bind(py);
    let family = listener.getattr(intern!(py, "family"))?;
    let proto = listener.getattr(intern!(py, "proto"))?;
    let kind: i32 = listener.getattr(intern!(py, "type"))?.extract()?;
    let class = listener.get_type();
    let number = PyDict::new(py);
    let connection = connection.into_raw_fd();
    number.set_item(intern!(py, "fileno"), connection)?;
    let arguments = (family, kind | NONBLOCKING, proto).into_pyobject(py)?;
    let sock = match class.call(&arguments, Some(&number)) {
        Ok(sock) => sock,
        Err(error) => {
            // SAFETY: the number is of a descriptor that was ours a moment ago, and nobody's since.
            drop(unsafe {
                <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(connection)
            });
            return Err(error);
        }
    };
    if NONBLOCKING == 0 {
        sock.call_method1(intern!(py, "setblocking"), (false,))?;
    }
    let address = address::to_python(py, peer)?;
    let pair = PyTuple::new(py, [&sock, address.bind(py)])?;
    Ok(Some(pair.into_any().into()))
}

/// Says to a new socket object that its descriptor is non-blocking already.
#[cfg(any(target_os = "linux", target_os = "android"))]
const NONBLOCKING: i32 = 0o4000;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const NONBLOCKING: i32 = 0;
