//! Writing: at once what the socket takes, the rest queued and written by the next edge.
//!
//! A `bytes` object cannot change, so what is queued of it is a reference and an offset; anything else is
//! copied, for its owner may write into it the moment `write` returns. The queue's length in bytes is what
//! the high and low water marks look at, as documented for asyncio's flow control.

use std::collections::VecDeque;
use std::io::{ErrorKind, IoSlice};

use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyMemoryView};
use pyo3::{ffi, intern};
use ropewalk_sys::stream;

use super::methods::{look, this};
use super::{Socket, State, TransportRef, complain, fatal, settle};
use crate::call::call_method;
use crate::error::os_error;
use crate::eventloop::Loop;
use crate::heap::{self, Arguments, Ref, Returned, method};
use crate::object::Obj;

/// asyncio's: after so many writes to a lost connection, each is logged.
const LOG_THRESHOLD_FOR_CONNLOST_WRITES: u32 = 5;

/// Bytes that wait for the socket.
enum Chunk {
    /// A `bytes` object, from an offset on.
    Shared(Obj, usize),
    Copied(Box<[u8]>, usize),
}

impl Chunk {
    fn new(data: &Bound<'_, PyAny>, rest: &[u8], whole: usize) -> Self {
        let offset = whole - rest.len();
        if data.is_exact_instance_of::<PyBytes>() {
            Self::Shared(data.into(), offset)
        } else {
            Self::Copied(rest.into(), 0)
        }
    }

    fn rest(&self) -> &[u8] {
        match self {
            Self::Shared(bytes, offset) => {
                // SAFETY: an exact bytes object, which is immutable and alive as long as the chunk. Looking
                // at it runs no Python code, and the chunk is touched only while attached.
                let all = unsafe {
                    bytes
                        .bind(Python::assume_attached())
                        .cast_unchecked::<PyBytes>()
                };
                // SAFETY: the memory is the object's, which the chunk keeps.
                let all: &[u8] = unsafe {
                    std::slice::from_raw_parts(all.as_bytes().as_ptr(), all.as_bytes().len())
                };
                &all[*offset..]
            }
            Self::Copied(bytes, offset) => &bytes[*offset..],
        }
    }

    fn advance(&mut self, count: usize) {
        match self {
            Self::Shared(_, offset) | Self::Copied(_, offset) => *offset += count,
        }
    }
}

/// The queue of a transport.
#[derive(Default)]
pub(super) struct Output {
    chunks: VecDeque<Chunk>,
    bytes: usize,
}

/// Chunks that were taken out, to be dropped where Python code may run.
#[must_use]
pub(super) struct Spent(Vec<Chunk>);

impl Output {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    fn push(&mut self, chunk: Chunk) {
        self.bytes += chunk.rest().len();
        self.chunks.push_back(chunk);
    }

    pub(super) fn clear(&mut self) -> Spent {
        self.bytes = 0;
        Spent(self.chunks.drain(..).collect())
    }

    /// Forgets `count` bytes that were sent; what is done with goes to `spent`.
    fn sent(&mut self, mut count: usize, spent: &mut Spent) {
        self.bytes -= count;
        while let Some(first) = self.chunks.front_mut() {
            let length = first.rest().len();
            if count < length {
                first.advance(count);
                return;
            }
            count -= length;
            spent.0.extend(self.chunks.pop_front());
        }
    }
}

pub(super) fn methods() -> Vec<ffi::PyMethodDef> {
    vec![
        method!(c"write", c"write($self, data)\n--\n\nSend data, a bytes, bytearray or memoryview, without waiting: what the socket does not take is buffered.\n\nRaises TypeError for other types, RuntimeError after write_eof() or during sendfile.", one "data", write),
        method!(c"writelines", c"writelines($self, list_of_data)\n--\n\nSend several pieces of data, in order, as write() does.", one "list_of_data", writelines),
        method!(c"write_eof", c"write_eof($self)\n--\n\nClose the writing side once what is buffered is sent. Receiving goes on.", noargs, write_eof),
        method!(c"can_write_eof", c"can_write_eof($self)\n--\n\nReturn True: a stream socket can be closed one side at a time.", noargs, can_write_eof),
        method!(c"get_write_buffer_size", c"get_write_buffer_size($self)\n--\n\nReturn how many bytes wait in the write buffer.", noargs, get_write_buffer_size),
        method!(c"get_write_buffer_limits", c"get_write_buffer_limits($self)\n--\n\nReturn (low, high), the water marks of the write buffer in bytes.", noargs, get_write_buffer_limits),
        method!(c"set_write_buffer_limits", c"set_write_buffer_limits($self, high=None, low=None)\n--\n\nSet the water marks of the write buffer, in bytes.\n\nThe protocol's pause_writing() is called above high, resume_writing() at low or below. The defaults are\n64 KiB for high and a quarter of it for low. Raises ValueError unless high >= low >= 0.", keywords, set_write_buffer_limits),
        method!(c"_make_empty_waiter", c"_make_empty_waiter($self)\n--\n\nInternal.", noargs, make_empty_waiter),
        method!(c"_reset_empty_waiter", c"_reset_empty_waiter($self)\n--\n\nInternal.", noargs, reset_empty_waiter),
    ]
}

/// What a write is to do, as the state has it.
enum Way {
    /// Send at once, queue the rest.
    Send,
    /// Queue behind what is queued.
    Queue,
    /// The connection is lost; `true` if this is to be logged.
    Lost(bool),
}

impl State {
    /// # Errors
    /// The `RuntimeError`s of asyncio's transports.
    fn way(&mut self, name: &str, sending: &str) -> PyResult<Way> {
        if self.eof {
            return Err(PyRuntimeError::new_err(format!(
                "Cannot call {name}() after write_eof()"
            )));
        }
        if self.empty_waiter.is_some() {
            return Err(PyRuntimeError::new_err(format!(
                "unable to {sending}; sendfile is in progress"
            )));
        }
        if self.conn_lost > 0 {
            let log = self.conn_lost >= LOG_THRESHOLD_FOR_CONNLOST_WRITES;
            self.conn_lost = self.conn_lost.saturating_add(1);
            return Ok(Way::Lost(log));
        }
        Ok(if self.output.is_empty() {
            Way::Send
        } else {
            Way::Queue
        })
    }
}

#[cold]
fn log_lost_write(py: Python<'_>) -> Returned {
    py.import("asyncio.log")?
        .getattr("logger")?
        .call_method1("warning", ("socket.send() raised exception.",))?;
    heap::none(py)
}

pub(crate) fn write(py: Python<'_>, object: Ref<'_, '_>, data: Ref<'_, '_>) -> Returned {
    let transport = this(object);
    let data: &Bound<'_, PyAny> = &data;
    let view;
    let bytes: &[u8] = if let Ok(bytes) = data.cast_exact::<PyBytes>() {
        bytes.as_bytes()
    } else if data.is_instance_of::<PyBytes>()
        || data.is_instance_of::<PyByteArray>()
        || data.is_instance_of::<PyMemoryView>()
    {
        view = contiguous(data)?;
        // SAFETY: the view keeps the memory in place; that another thread may write into it meanwhile is
        // the caller's, as it is with `socket.send`, and changes bytes only.
        unsafe { std::slice::from_raw_parts(view.buf_ptr().cast::<u8>(), view.len_bytes()) }
    } else {
        let name = data.get_type().name()?;
        return Err(PyTypeError::new_err(format!(
            "data argument must be a bytes, bytearray, or memoryview object, not '{name}'"
        )));
    };
    match transmit(py, &transport, bytes, |rest| {
        Chunk::new(data, rest, bytes.len())
    })? {
        Transmitted::LostAndLogged => log_lost_write(py),
        Transmitted::Lost | Transmitted::Taken => heap::none(py),
    }
}

/// What became of bytes to send.
enum Transmitted {
    /// Sent or queued.
    Taken,
    /// The connection is lost, and so are they.
    Lost,
    /// And this is to be logged.
    LostAndLogged,
}

/// Sends what the socket takes; `keep` makes a chunk of the rest.
#[inline]
fn transmit(
    py: Python<'_>,
    transport: &TransportRef,
    bytes: &[u8],
    keep: impl FnOnce(&[u8]) -> Chunk,
) -> PyResult<Transmitted> {
    let body = transport.body()?;
    let way = body.with(py, |state| {
        if bytes.is_empty() && !state.eof && state.empty_waiter.is_none() {
            return Ok(None);
        }
        state.way("write", "write").map(Some)
    })?;
    let rest = match way {
        None => return Ok(Transmitted::Taken),
        Some(Way::Lost(true)) => return Ok(Transmitted::LostAndLogged),
        Some(Way::Lost(false)) => return Ok(Transmitted::Lost),
        Some(Way::Queue) => bytes,
        Some(Way::Send) => match body.with(py, |_| stream::send(body.fd, bytes)) {
            Ok(count) if count == bytes.len() => return Ok(Transmitted::Taken),
            Ok(count) => &bytes[count..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => bytes,
            Err(error) => {
                fatal(
                    &transport.owner(py)?,
                    transport,
                    "Fatal write error on socket transport",
                    os_error(py, &error),
                )?;
                return Ok(Transmitted::Lost);
            }
        },
    };
    let chunk = keep(rest);
    body.with(py, |state| {
        state.output.push(chunk);
        // The socket is full: its next edge says when it is not.
        state.writable = false;
    });
    maybe_pause(py, transport)?;
    Ok(Transmitted::Taken)
}

/// Sends bytes that have no object; `false` if the connection is lost.
#[inline]
pub(super) fn send(py: Python<'_>, transport: &TransportRef, bytes: &[u8]) -> PyResult<bool> {
    match transmit(py, transport, bytes, |rest| Chunk::Copied(rest.into(), 0))? {
        Transmitted::Taken => Ok(true),
        Transmitted::Lost => Ok(false),
        Transmitted::LostAndLogged => {
            // SAFETY: an owned `None`, or an exception that was set.
            drop(unsafe { Obj::from_owned(log_lost_write(py)?) });
            Ok(false)
        }
    }
}

fn contiguous(data: &Bound<'_, PyAny>) -> PyResult<PyUntypedBuffer> {
    let view = PyUntypedBuffer::get(data)?;
    if !view.is_c_contiguous() {
        return Err(pyo3::exceptions::PyBufferError::new_err(
            "memoryview: underlying buffer is not C-contiguous",
        ));
    }
    Ok(view)
}

fn writelines(py: Python<'_>, object: Ref<'_, '_>, lines: Ref<'_, '_>) -> Returned {
    let transport = this(object);
    let body = transport.body()?;
    let mut chunks = Vec::new();
    let mut views = Vec::new();
    for line in lines.try_iter()? {
        let line = line?;
        if line.is_exact_instance_of::<PyBytes>() {
            chunks.push(Chunk::Shared(line.into(), 0));
        } else {
            let view = contiguous(&line)?;
            // SAFETY: as in `write`; the bytes are copied at once.
            let bytes = unsafe {
                std::slice::from_raw_parts(view.buf_ptr().cast::<u8>(), view.len_bytes())
            };
            chunks.push(Chunk::Copied(bytes.into(), 0));
            views.push(view);
        }
    }
    drop(views);
    chunks.retain(|chunk| !chunk.rest().is_empty());
    let way = body.with(py, |state| {
        if chunks.is_empty() && !state.eof && state.empty_waiter.is_none() {
            return Ok(None);
        }
        state.way("writelines", "writelines").map(Some)
    })?;
    match way {
        None => {}
        Some(Way::Lost(false)) => {}
        Some(Way::Lost(true)) => return log_lost_write(py),
        Some(way) => {
            body.with(py, |state| {
                chunks.drain(..).for_each(|chunk| state.output.push(chunk))
            });
            if matches!(way, Way::Send) {
                flush(&transport.owner(py)?, &transport)?;
            }
            maybe_pause(py, &transport)?;
        }
    }
    heap::none(py)
}

/// Writes what is queued until the socket is full, and does what waited for the queue to be empty.
pub(super) fn flush(slf: &Bound<'_, Loop>, transport: &TransportRef) -> PyResult<()> {
    let py = slf.py();
    let body = transport.body()?;
    let mut spent = Spent(Vec::new());
    let written = body.with(py, |state| {
        while !state.output.is_empty() {
            let slices: Vec<IoSlice<'_>> = state
                .output
                .chunks
                .iter()
                .take(stream::MAX_SLICES)
                .map(|chunk| IoSlice::new(chunk.rest()))
                .collect();
            match stream::send_vectored(body.fd, &slices) {
                Ok(count) => state.output.sent(count, &mut spent),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    state.writable = false;
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    });
    drop(spent);
    if let Err(error) = written {
        let waiter = body.with(py, |state| state.empty_waiter.clone());
        let error = os_error(py, &error);
        let value: Obj = error.value(py).into();
        fatal(
            slf,
            transport,
            "Fatal write error on socket transport",
            error,
        )?;
        if let Some(waiter) = waiter {
            settle(py, &waiter, intern!(py, "set_exception"), value.as_py())?;
        }
        return Ok(());
    }
    // May write more; may raise what ends the run, which is no reason to forget the rest.
    let resumed = maybe_resume(slf, transport);
    drained(slf, transport).and(resumed)
}

/// Once all is written: sendfile may begin, a closing transport ends, a half-closed one tells its peer.
fn drained(slf: &Bound<'_, Loop>, transport: &TransportRef) -> PyResult<()> {
    let py = slf.py();
    let body = transport.body()?;
    let (waiter, ends, shuts) = body.with(py, |state| {
        if !state.output.is_empty() || state.conn_lost > 0 {
            return (None, false, false);
        }
        let ends = state.closing;
        if ends {
            state.conn_lost = 1;
        }
        (state.empty_waiter.clone(), ends, state.eof && !ends)
    });
    if let Some(waiter) = waiter {
        settle(py, &waiter, intern!(py, "set_result"), &py.None())?;
    }
    if ends {
        return slf
            .get()
            .enqueue(py, crate::eventloop::Task::Lost(transport.clone()));
    }
    if shuts {
        // The peer may be gone already, which the next read or write tells.
        drop(stream::shutdown_write(body.fd));
    }
    Ok(())
}

fn maybe_pause(py: Python<'_>, transport: &TransportRef) -> PyResult<()> {
    let paused = transport.body()?.with(py, |state| {
        if state.output.bytes <= state.high || state.protocol_paused {
            return None;
        }
        state.protocol_paused = true;
        state.protocol.clone()
    });
    let Some(protocol) = paused else {
        return Ok(());
    };
    match call_method(&protocol.bind(py), intern!(py, "pause_writing"), []) {
        Ok(_) => Ok(()),
        Err(error) => complain(
            &transport.owner(py)?,
            transport,
            "protocol.pause_writing() failed",
            error,
        ),
    }
}

fn maybe_resume(slf: &Bound<'_, Loop>, transport: &TransportRef) -> PyResult<()> {
    let py = slf.py();
    let resumed = transport.body()?.with(py, |state| {
        if !state.protocol_paused || state.output.bytes > state.low {
            return None;
        }
        state.protocol_paused = false;
        state.protocol.clone()
    });
    let Some(protocol) = resumed else {
        return Ok(());
    };
    match call_method(&protocol.bind(py), intern!(py, "resume_writing"), []) {
        Ok(_) => Ok(()),
        Err(error) => complain(slf, transport, "protocol.resume_writing() failed", error),
    }
}

fn write_eof(py: Python<'_>, object: Ref<'_, '_>) -> Returned {
    let transport = this(object);
    let body = transport.body()?;
    let shuts = body.with(py, |state| {
        if state.closing || state.eof {
            return false;
        }
        state.eof = true;
        state.output.is_empty()
    });
    if shuts {
        stream::shutdown_write(body.fd).map_err(|error| os_error(py, &error))?;
    }
    heap::none(py)
}

fn can_write_eof(py: Python<'_>, _object: Ref<'_, '_>) -> Returned {
    heap::boolean(py, true)
}

fn get_write_buffer_size(py: Python<'_>, object: Ref<'_, '_>) -> Returned {
    let bytes = look(py, object, |state| state.output.bytes)?;
    Ok(bytes.into_pyobject(py)?.into_any().into_ptr())
}

fn get_write_buffer_limits(py: Python<'_>, object: Ref<'_, '_>) -> Returned {
    let limits = look(py, object, |state| (state.low, state.high))?;
    Ok(limits.into_pyobject(py)?.into_any().into_ptr())
}

/// `set_write_buffer_limits(high=None, low=None)`
fn set_write_buffer_limits(
    py: Python<'_>,
    object: Ref<'_, '_>,
    given: Arguments<'_, '_>,
) -> Returned {
    let [high, low] = given.named_or_positional(py, "set_write_buffer_limits", ["high", "low"])?;
    let size =
        |given: Option<Bound<'_, PyAny>>| given.map(|size| size.extract::<i128>()).transpose();
    let (high, low) = (size(high)?, size(low)?);
    let high = high.unwrap_or_else(|| low.map_or(64 * 1024, |low| low.saturating_mul(4)));
    let low = low.unwrap_or(high.div_euclid(4));
    if !(high >= low && low >= 0) {
        return Err(PyValueError::new_err(format!(
            "high ({high}) must be >= low ({low}) must be >= 0"
        )));
    }
    let limit = |size: i128| usize::try_from(size).unwrap_or(usize::MAX);
    look(py, object, |state| {
        (state.high, state.low) = (limit(high), limit(low))
    })?;
    maybe_pause(py, &this(object))?;
    heap::none(py)
}

/// A future that is done once the queue is empty; until it is reset nothing else may write.
fn make_empty_waiter(py: Python<'_>, object: Ref<'_, '_>) -> Returned {
    let transport = this(object);
    let body = transport.body()?;
    if body.with(py, |state| state.empty_waiter.is_some()) {
        return Err(PyRuntimeError::new_err("Empty waiter is already set"));
    }
    let waiter = transport
        .owner(py)?
        .call_method0(intern!(py, "create_future"))?;
    let ours: Obj = (&waiter).into();
    let empty = body.with(py, |state| {
        state.empty_waiter = Some(ours);
        state.output.is_empty()
    });
    if empty {
        waiter.call_method1(intern!(py, "set_result"), (py.None(),))?;
    }
    Ok(waiter.into_ptr())
}

fn reset_empty_waiter(py: Python<'_>, object: Ref<'_, '_>) -> Returned {
    let transport = this(object);
    let (waiter, open) = transport.body()?.with(py, |state| {
        (
            state.empty_waiter.take(),
            !matches!(state.socket, Socket::Closed),
        )
    });
    drop(waiter);
    if open {
        super::read::go_on(&transport.owner(py)?, &transport)?;
    }
    heap::none(py)
}
