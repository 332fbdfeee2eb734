//! What a read takes from the buffer, and when it has to wait.

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::buffer::new_bytes;
use super::search::Search;
use super::{Stream, resume};
use crate::object::Obj;

/// What is to be done.
pub(super) enum Work {
    /// `read(n)`
    Read(usize),
    /// `read(-1)`, with what it has so far.
    All(Vec<u8>),
    Exactly(usize),
    Until(Search),
    /// `readline()`
    Line(Search),
    /// `__anext__()`
    Next(Search),
    /// `drain()` of a transport that has room
    Nothing,
    /// The arguments are wrong; as of a coroutine, the error is raised when it is awaited.
    Refused(PyErr),
}

/// What came of one look at the buffer.
pub(super) enum Found {
    Bytes(Obj),
    /// Nothing yet: that many bytes would do.
    Wait(usize),
    /// The stream ended; what there was, and what was expected.
    Incomplete(Obj, Option<usize>),
    /// No separator within the limit: the message, the number of bytes that may be skipped.
    Overrun(&'static str, usize),
}

const NOT_FOUND: &str = "Separator is not found, and chunk exceed the limit";
const TOO_FAR: &str = "Separator is found, but chunk is longer than limit";

impl Stream {
    /// Takes `count` bytes, and lets the transport go on if there is room.
    fn take(&self, py: Python<'_>, count: usize) -> PyResult<Obj> {
        let (taken, resumable) = self.with(py, |state| {
            let taken = state.buffer.take(py, count)?;
            PyResult::Ok((taken, state.resumable(py)))
        })?;
        drop(taken.old);
        if let Some(transport) = resumable {
            resume(py, &transport)?;
        }
        Ok(taken.bytes)
    }

    fn available(&self, py: Python<'_>) -> (usize, bool) {
        self.with(py, |state| (state.buffer.len(py), state.eof))
    }

    fn read(&self, py: Python<'_>, most: usize) -> PyResult<Found> {
        match self.available(py) {
            (0, false) => Ok(Found::Wait(most)),
            _ => self.take(py, most).map(Found::Bytes),
        }
    }

    fn read_all(&self, py: Python<'_>, all: &mut Vec<u8>) -> PyResult<Found> {
        loop {
            let portion = self.with(py, |state| state.limit.bytes);
            match self.available(py) {
                (0, false) => return Ok(Found::Wait(portion)),
                (0, true) => return new_bytes(py, all).map(Found::Bytes),
                // All of it at once, and without the detour, if that is all.
                (rest, true) if all.is_empty() => return self.take(py, rest).map(Found::Bytes),
                _ => {
                    let bytes = self.take(py, portion.max(1))?;
                    let bytes = bytes.bind(py);
                    // SAFETY: `take` gives `bytes`.
                    all.extend_from_slice(unsafe { bytes.cast_unchecked::<PyBytes>() }.as_bytes());
                }
            }
        }
    }

    fn read_exactly(&self, py: Python<'_>, count: usize) -> PyResult<Found> {
        match self.available(py) {
            (there, _) if there >= count => self.take(py, count).map(Found::Bytes),
            (there, true) => Ok(Found::Incomplete(self.drain(py, there)?, Some(count))),
            (there, false) => Ok(Found::Wait(count - there)),
        }
    }

    fn read_until(&self, py: Python<'_>, search: &mut Search) -> PyResult<Found> {
        let (found, there, limit, eof) = self.with(py, |state| {
            let bytes = state.buffer.bytes(py);
            let enough = bytes.len().saturating_sub(search.offset) >= search.shortest();
            let found = enough.then(|| search.find(bytes)).flatten();
            if enough && found.is_none() {
                // A separator may have begun: all but its last byte is looked at again.
                search.offset = (bytes.len() + 1).saturating_sub(search.longest());
            }
            (found, bytes.len(), state.limit.bytes, state.eof)
        });
        match found {
            Some((start, _)) if start > limit => Ok(Found::Overrun(TOO_FAR, start)),
            Some((_, end)) => self.take(py, end).map(Found::Bytes),
            None if search.offset > limit => Ok(Found::Overrun(NOT_FOUND, search.offset)),
            // Looked at last, for the bytes that came with the end may have held the separator.
            None if eof => Ok(Found::Incomplete(self.drain(py, there)?, None)),
            None => Ok(Found::Wait(limit)),
        }
    }

    /// Takes everything; nobody is resumed, as the stream has ended.
    fn drain(&self, py: Python<'_>, there: usize) -> PyResult<Obj> {
        let taken = self.with(py, |state| state.buffer.take(py, there))?;
        drop(taken.old);
        Ok(taken.bytes)
    }

    /// What a line that is too long leaves behind: nothing of it, or what follows its end.
    fn skip_line(&self, py: Python<'_>, consumed: usize) -> PyResult<()> {
        let (spent, resumable) = self.with(py, |state| {
            let bytes = state.buffer.bytes(py);
            let count = match bytes.get(consumed) {
                Some(b'\n') => consumed + 1,
                _ => bytes.len(),
            };
            let spent = state.buffer.skip(py, count)?;
            PyResult::Ok((spent, state.resumable(py)))
        })?;
        drop(spent);
        match resumable {
            Some(transport) => resume(py, &transport),
            None => Ok(()),
        }
    }

    /// The future of one who waits for `wanted` bytes. Reading is resumed, or it would wait for ever.
    pub(super) fn wait(&self, py: Python<'_>, wanted: usize, function: &str) -> PyResult<Obj> {
        let paused = self.with(py, |state| {
            if state.waiter.is_some() {
                return Err(PyRuntimeError::new_err(format!(
                    "{function}() called while another coroutine is already waiting for incoming data"
                )));
            }
            let paused = std::mem::take(&mut state.paused);
            Ok(state.transport.clone().filter(|_| paused))
        })?;
        if let Some(transport) = paused {
            resume(py, &transport)?;
        }
        let future = self.future(py)?;
        future
            .bind(py)
            .setattr(intern!(py, "_asyncio_future_blocking"), true)?;
        let old = self.with(py, |state| {
            state.wanted = wanted;
            state.waiter.replace(future.clone())
        });
        drop(old);
        Ok(future)
    }

    /// Nobody waits for `waiter` any more.
    pub(super) fn leave(&self, py: Python<'_>, waiter: &Obj) {
        let ours = self.with(py, |state| {
            state
                .waiter
                .take_if(|other| other.as_ptr() == waiter.as_ptr())
        });
        drop(ours);
    }
}

impl Work {
    pub(super) fn go_on(&mut self, py: Python<'_>, stream: &Stream) -> PyResult<Found> {
        match self {
            Self::Read(most) => stream.read(py, *most),
            Self::All(all) => stream.read_all(py, all),
            Self::Exactly(count) => stream.read_exactly(py, *count),
            Self::Until(search) => stream.read_until(py, search),
            Self::Line(search) | Self::Next(search) => match stream.read_until(py, search)? {
                Found::Incomplete(partial, _) => Ok(Found::Bytes(partial)),
                Found::Overrun(message, consumed) => {
                    stream.skip_line(py, consumed)?;
                    Err(PyValueError::new_err(message))
                }
                found => Ok(found),
            },
            Self::Nothing => Ok(Found::Wait(0)), // never asked
            Self::Refused(error) => Err(error.clone_ref(py)),
        }
    }

    /// As errors name the function.
    pub(super) const fn function(&self) -> &'static str {
        match self {
            Self::Read(_) | Self::All(_) | Self::Nothing | Self::Refused(_) => "read",
            Self::Exactly(_) => "readexactly",
            Self::Until(_) | Self::Line(_) | Self::Next(_) => "readuntil",
        }
    }

    /// Of an empty stream there is nothing to be had, and nothing to be said: `read(0)` and its like.
    pub(super) const fn needs_nothing(&self) -> bool {
        matches!(self, Self::Read(0) | Self::Exactly(0))
    }
}
