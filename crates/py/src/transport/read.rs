//! Reading: one `recv` a turn and connection, the bytes in an object of exactly their size.
//!
//! Small reads go through one buffer that the loop owns and are copied out, which is cheaper than making a
//! large object and shrinking it. A connection whose last read filled that buffer is a bulk transfer: its
//! next read goes straight into a bytes object, without the copy. Neither ever asks the allocator for
//! 128 KiB or more, which glibc would map from and give back to the kernel each time.
//!
//! Edges: a read that returns less than it asked for has drained the socket (epoll(7)), so the next edge is
//! waited for, unless the peer hung up, whose end must still be met. A full read leaves more behind: the
//! connection queues up again behind the others.

use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::{ptr, slice};

use pyo3::prelude::*;
use pyo3::{ffi, intern};
use ropewalk_sys::poller::Readiness;
use ropewalk_sys::stream as socket;

use super::{Body, Style, TransportRef, again, deliver, fatal};
use crate::call::{call_method, ends_the_run, in_context};
use crate::error::os_error;
use crate::eventloop::Loop;
use crate::object::Obj;
use crate::tls;

/// What one read through the shared buffer takes at most.
const SMALL: usize = 64 * 1024;
/// What one read straight into a bytes object takes at most; under glibc's threshold with the object's head.
const BULK: usize = 120 * 1024;

/// The buffer that a loop's connections share.
pub(crate) struct ReadBuffer(Box<[MaybeUninit<u8>]>);

impl ReadBuffer {
    pub(crate) fn new() -> Self {
        Self(Box::new_uninit_slice(SMALL))
    }

    /// The memory itself, for reads of other kinds.
    #[inline]
    pub(crate) fn space(&mut self) -> &mut [MaybeUninit<u8>] {
        &mut self.0
    }

    /// Reads, and makes a bytes object of what came; `None` at the stream's end.
    #[inline]
    fn read(&mut self, py: Python<'_>, fd: RawFd) -> Result<Option<(Obj, bool)>, Failure> {
        let count = socket::recv(fd, &mut self.0)?;
        if count == 0 {
            return Ok(None);
        }
        // SAFETY: that many bytes were written; the object copies them.
        let bytes =
            unsafe { ffi::PyBytes_FromStringAndSize(self.0.as_ptr().cast(), count.cast_signed()) };
        // SAFETY: a new reference or NULL with an exception set.
        let bytes =
            unsafe { Obj::from_owned(bytes) }.ok_or_else(|| Failure::Python(PyErr::fetch(py)))?;
        Ok(Some((bytes, count == self.0.len())))
    }
}

/// Reads straight into a new bytes object.
fn read_bulk(py: Python<'_>, fd: RawFd, size: usize) -> Result<Option<(Obj, usize)>, Failure> {
    // SAFETY: a new object of uninitialised bytes that nobody else knows, filled by `recv`, then cut to what
    // came. `_PyBytes_Resize` takes the reference and sets it to NULL when it fails.
    unsafe {
        let mut bytes = ffi::PyBytes_FromStringAndSize(ptr::null(), size.cast_signed());
        if bytes.is_null() {
            return Err(Failure::Python(PyErr::fetch(py)));
        }
        let space = ffi::PyBytes_AsString(bytes).cast::<MaybeUninit<u8>>();
        let count = match socket::recv(fd, slice::from_raw_parts_mut(space, size)) {
            Ok(0) => {
                ffi::Py_DECREF(bytes);
                return Ok(None);
            }
            Ok(count) => count,
            Err(error) => {
                ffi::Py_DECREF(bytes);
                return Err(error.into());
            }
        };
        if count < size && _PyBytes_Resize(&raw mut bytes, count.cast_signed()) != 0 {
            return Err(Failure::Python(PyErr::fetch(py)));
        }
        Ok(Obj::from_owned(bytes).map(|bytes| (bytes, count)))
    }
}

unsafe extern "C" {
    /// Documented in CPython's "Bytes Objects"; PyO3 does not pass it on.
    fn _PyBytes_Resize(bytes: *mut *mut ffi::PyObject, size: ffi::Py_ssize_t) -> std::ffi::c_int;
}

enum Failure {
    System(io::Error),
    Python(PyErr),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

/// Reads again if there is a reason to: after `connection_made`, after `resume_reading()`.
pub(super) fn go_on(slf: &Bound<'_, Loop>, transport: &TransportRef) -> PyResult<()> {
    let wanted = transport.body()?.with(slf.py(), |state| state.wants_read());
    if wanted {
        again(slf, transport, Readiness::READ)?;
    }
    Ok(())
}

/// Reads once and hands the bytes over. An error is one that ends the loop's run.
#[inline]
pub(super) fn once(slf: &Bound<'_, Loop>, transport: &TransportRef) -> PyResult<()> {
    let py = slf.py();
    let body = transport.body()?;
    let (protocol, style, bulk) = body.with(py, |state| {
        (state.protocol.clone(), state.style, state.bulk)
    });
    let Some(protocol) = protocol else {
        return Ok(());
    };
    match style {
        Style::Data => data(
            slf,
            transport,
            body,
            &protocol,
            bulk.then_some(BULK),
            deliver::data,
        ),
        Style::Buffer => buffer(slf, transport, body, &protocol),
        Style::Tls => ciphertext(slf, transport, body, &protocol),
        Style::Stream => {
            // Portions of the size that is asked for are handed on as they are.
            let size = bulk.then(|| match deliver::wanted(py, &protocol) {
                wanted @ SMALL..BULK => wanted,
                _ => BULK,
            });
            data(slf, transport, body, &protocol, size, deliver::stream)
        }
    }
}

/// Ciphertext goes to the TLS session without becoming an object.
#[inline]
fn ciphertext(
    slf: &Bound<'_, Loop>,
    transport: &TransportRef,
    body: &Body,
    protocol: &Obj,
) -> PyResult<()> {
    let py = slf.py();
    tls::with_input(|space| {
        let read = match socket::recv(body.fd, space) {
            Ok(0) => Ok(None),
            Ok(count) => Ok(Some(count)),
            Err(error) => Err(error.into()),
        };
        let Some(count) = settle(slf, transport, body, read)? else {
            return Ok(());
        };
        body.with(py, |state| {
            state.readable = count == space.len() || state.hangup;
        });
        // SAFETY: `recv` has written that many bytes.
        let input = unsafe { slice::from_raw_parts(space.as_ptr().cast::<u8>(), count) };
        let heard = in_context(py, &body.context, || tls::feed(py, protocol, input));
        finish(
            slf,
            transport,
            heard,
            "Fatal error: protocol.buffer_updated() call failed.",
        )
    })
}

#[inline]
fn data(
    slf: &Bound<'_, Loop>,
    transport: &TransportRef,
    body: &Body,
    protocol: &Obj,
    bulk: Option<usize>,
    hand_over: impl FnOnce(Python<'_>, &Obj, Obj) -> PyResult<()>,
) -> PyResult<()> {
    let py = slf.py();
    let read = if let Some(size) = bulk {
        read_bulk(py, body.fd, size)
            .map(|read| read.map(|(bytes, count)| (bytes, count == size, count >= SMALL / 2)))
    } else {
        slf.get()
            .read_buffer
            .with(py, |buffer| buffer.read(py, body.fd))
            .map(|read| read.map(|(bytes, full)| (bytes, full, full)))
    };
    let Some((bytes, full, bulk)) = settle(slf, transport, body, read)? else {
        return Ok(());
    };
    body.with(py, |state| {
        state.bulk = bulk;
        state.readable = full || state.hangup;
    });
    let heard = in_context(py, &body.context, || hand_over(py, protocol, bytes));
    finish(
        slf,
        transport,
        heard,
        "Fatal error: protocol.data_received() call failed.",
    )
}

fn buffer(
    slf: &Bound<'_, Loop>,
    transport: &TransportRef,
    body: &Body,
    protocol: &Obj,
) -> PyResult<()> {
    let py = slf.py();
    let lent = in_context(py, &body.context, || deliver::get_buffer(py, protocol, -1));
    let mut lent = match lent {
        Ok(lent) => lent,
        Err(error) => {
            return finish(
                slf,
                transport,
                Err(error),
                "Fatal error: protocol.get_buffer() call failed.",
            );
        }
    };
    let room = lent.space().len();
    let read = match socket::recv(body.fd, lent.space()) {
        Ok(0) => Ok(None),
        Ok(count) => Ok(Some(count)),
        Err(error) => Err(error.into()),
    };
    // The buffer is the protocol's again before it hears of it: it may want to resize it.
    drop(lent);
    let Some(count) = settle(slf, transport, body, read)? else {
        return Ok(());
    };
    body.with(py, |state| state.readable = count == room || state.hangup);
    let heard = in_context(py, &body.context, || {
        deliver::buffer_updated(py, protocol, count)
    });
    finish(
        slf,
        transport,
        heard,
        "Fatal error: protocol.buffer_updated() call failed.",
    )
}

/// What came, or `None` after whatever else happened was dealt with.
#[inline]
fn settle<T>(
    slf: &Bound<'_, Loop>,
    transport: &TransportRef,
    body: &Body,
    read: Result<Option<T>, Failure>,
) -> PyResult<Option<T>> {
    match read {
        Ok(Some(read)) => Ok(Some(read)),
        Ok(None) => end_of_stream(slf, transport, body).map(|()| None),
        Err(Failure::System(error)) if error.kind() == ErrorKind::WouldBlock => {
            body.with(slf.py(), |state| state.readable = false);
            Ok(None)
        }
        Err(failure) => {
            let error = match failure {
                Failure::System(error) => os_error(slf.py(), &error),
                Failure::Python(error) => error,
            };
            fatal(
                slf,
                transport,
                "Fatal read error on socket transport",
                error,
            )
            .map(|()| None)
        }
    }
}

/// After the protocol was called: its exception ends the connection, and what is left is read next turn.
#[inline]
fn finish(
    slf: &Bound<'_, Loop>,
    transport: &TransportRef,
    heard: PyResult<()>,
    message: &str,
) -> PyResult<()> {
    match heard {
        Ok(()) => go_on(slf, transport),
        Err(error) if ends_the_run(slf.py(), &error) => {
            go_on(slf, transport)?;
            Err(error)
        }
        Err(error) => fatal(slf, transport, message, error),
    }
}

/// The peer has ended its stream: the protocol says whether ours stays open.
#[cold]
fn end_of_stream(slf: &Bound<'_, Loop>, transport: &TransportRef, body: &Body) -> PyResult<()> {
    let py = slf.py();
    let protocol = body.with(py, |state| {
        state.read_eof = true;
        state.readable = false;
        state.protocol.clone()
    });
    let Some(protocol) = protocol else {
        return Ok(());
    };
    let answer = in_context(py, &body.context, || {
        call_method(&protocol.bind(py), intern!(py, "eof_received"), [])?.is_truthy()
    });
    match answer {
        Ok(true) => Ok(()),
        Ok(false) => super::methods::close(py, transport.as_obj().bind(py)).map(|none| {
            // SAFETY: `close` returns an owned `None`.
            drop(unsafe { Obj::from_owned(none) });
        }),
        Err(error) => {
            if ends_the_run(py, &error) {
                // The protocol has not answered. If the loop runs again it is asked again.
                body.with(py, |state| {
                    state.read_eof = false;
                    state.readable = true;
                });
            }
            finish(
                slf,
                transport,
                Err(error),
                "Fatal error: protocol.eof_received() call failed.",
            )
        }
    }
}
