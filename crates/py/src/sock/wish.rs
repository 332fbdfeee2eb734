//! What a future of a socket can wait for.

use std::io;
use std::os::fd::RawFd;
use std::slice;

use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use ropewalk_reactor::Side;
use ropewalk_sys::stream;

use super::unless_blocked;
use crate::error::os_error;
use crate::object::Obj;

pub(super) enum Wish {
    /// That it is worth while to receive or accept.
    Readable,
    /// That it is worth while to send.
    Writable,
    /// That all of this is sent; so much of it is.
    Sent(Data, usize),
    /// That the connect to this address, which is under way, has ended.
    Connect(Obj),
}

/// Bytes to send, kept in place.
pub(crate) enum Data {
    Bytes(Obj),
    View(PyUntypedBuffer),
}

impl Data {
    /// `None` if this is nothing that a socket could send.
    pub(crate) fn new(data: &Bound<'_, PyAny>) -> Option<Self> {
        if data.is_exact_instance_of::<PyBytes>() {
            return Some(Self::Bytes(data.into()));
        }
        let view = PyUntypedBuffer::get(data).ok()?;
        view.is_c_contiguous().then_some(Self::View(view))
    }

    pub(crate) fn bytes(&self, py: Python<'_>) -> &[u8] {
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

impl Wish {
    pub(super) fn side(&self) -> Side {
        match self {
            Self::Readable => Side::Read,
            Self::Writable | Self::Sent(..) | Self::Connect(_) => Side::Write,
        }
    }

    /// The Python object that it holds, if the garbage collector can make use of it.
    pub(super) fn object(&self) -> Option<&Obj> {
        match self {
            Self::Sent(Data::Bytes(object), _) | Self::Connect(object) => Some(object),
            Self::Readable | Self::Writable | Self::Sent(Data::View(_), _) => None,
        }
    }

    /// Whether it has come true, now that the socket turned ready.
    #[inline]
    pub(super) fn attempt(&mut self, py: Python<'_>, fd: RawFd) -> PyResult<bool> {
        match self {
            Self::Readable | Self::Writable => Ok(true),
            Self::Sent(data, sent) => send(py, fd, data.bytes(py), sent),
            Self::Connect(address) => match stream::take_error(fd) {
                Ok(None) => Ok(true),
                Ok(Some(error)) => Err(connect_failed(py, &error, address)),
                Err(error) => Err(os_error(py, &error)),
            },
        }
    }
}

/// Sends until all is sent, or until the socket is full. Whether all is sent.
#[inline]
pub(super) fn send(py: Python<'_>, fd: RawFd, bytes: &[u8], sent: &mut usize) -> PyResult<bool> {
    loop {
        match unless_blocked(py, stream::send(fd, &bytes[*sent..]))? {
            Some(count) => *sent += count,
            None => return Ok(false),
        }
        if *sent >= bytes.len() {
            return Ok(true);
        }
    }
}

/// The exception of a connect that failed while it was waited for, as asyncio words it.
fn connect_failed(py: Python<'_>, error: &io::Error, address: &Obj) -> PyErr {
    match (address.bind(py).str(), error.raw_os_error()) {
        (Ok(address), Some(number)) => {
            PyOSError::new_err((number, format!("Connect call failed {address}")))
        }
        (Err(error), _) => error,
        (_, None) => os_error(py, error),
    }
}
