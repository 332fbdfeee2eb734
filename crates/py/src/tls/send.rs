//! Writing: plaintext from the protocol, ciphertext to the transport below.

use std::slice;

use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::PyBufferError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyMemoryView, PySlice, PyTuple};

use super::buffers::{PORTION, with_output};
use super::engine::{Engine, Outcome};
use super::{Phase, Tls, fatal};
use crate::call::{call_method, ends_the_run};

/// Whether the transport below may be given more than it wants.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    AsThereIsRoom,
    /// Before the connection is shut down, what was written goes out.
    Regardless,
}

/// How far a portion came.
enum Sent {
    /// All of it is encrypted.
    All,
    /// So much of it, and no more for now.
    Part(usize),
    /// The connection is lost.
    Lost,
}

/// Encrypts and sends.
#[inline]
fn send(this: &Bound<'_, Tls>, engine: &Engine, bytes: &[u8], pace: Pace) -> PyResult<Sent> {
    let py = this.py();
    let tls = this.get();
    with_output(|output| {
        let mut done = 0;
        while done < bytes.len() {
            let portion = &bytes[done..bytes.len().min(done + PORTION)];
            output.clear();
            let outcome = tls
                .exclusively(py, || engine.write(py, portion, output))
                .unwrap_or(Outcome::Again);
            // Also what a call says that fails.
            let lower = tls.with(py, |state| state.lower.clone());
            let alive = output.is_empty() || lower.send(py, output)?;
            match outcome {
                Outcome::Done(count) => done += count,
                Outcome::Again | Outcome::End => return Ok(Sent::Part(done)),
                Outcome::Failed(error) => return Err(error),
            }
            if !alive {
                return Ok(Sent::Lost);
            }
            if done < bytes.len()
                && pace == Pace::AsThereIsRoom
                && tls.with(py, |state| state.lower_writing_paused)
            {
                return Ok(Sent::Part(done));
            }
        }
        Ok(Sent::All)
    })
}

/// Sends what is in the outgoing memory BIO, then what waits in the backlog.
pub(super) fn send_waiting(this: &Bound<'_, Tls>, engine: &Engine, pace: Pace) -> PyResult<()> {
    let py = this.py();
    let tls = this.get();
    let goes_on = || {
        tls.with(py, |state| {
            !state.busy && (pace == Pace::Regardless || !state.lower_writing_paused)
        })
    };
    while goes_on() && engine.unsent(py)? > 0 {
        with_output(|output| {
            engine.take_output(py, PORTION, output)?;
            let lower = tls.with(py, |state| state.lower.clone());
            lower.send(py, output)
        })?;
    }
    while goes_on() {
        let Some(backlog) = tls.with(py, |state| {
            let wanted = state.phase != Phase::Other && state.waiting > 0;
            wanted.then(|| state.backlog.clone()).flatten()
        }) else {
            return Ok(());
        };
        let backlog = backlog.bind(py);
        if backlog.is_empty()? {
            tls.with(py, |state| state.waiting = 0);
            return Ok(());
        }
        let first = backlog.get_item(0)?;
        let view = contiguous(&first)?;
        let sent = send(this, engine, view.bytes(), pace)?;
        let size = view.bytes().len();
        drop(view);
        let part = match sent {
            Sent::All => {
                backlog.call_method0(intern!(py, "popleft"))?;
                size
            }
            Sent::Part(count) => {
                if count > 0 {
                    backlog.set_item(0, rest(&first, count)?)?;
                }
                count
            }
            Sent::Lost => {
                backlog.call_method0(intern!(py, "clear"))?;
                tls.with(py, |state| state.waiting = 0);
                return Ok(());
            }
        };
        tls.with(py, |state| {
            state.waiting = state.waiting.saturating_sub(part)
        });
        if let Sent::Part(_) = sent {
            return Ok(());
        }
    }
    Ok(())
}

/// What is left of `data` behind the first `count` bytes: a view of a bytes object, which cannot change, else a copy.
fn rest<'py>(data: &Bound<'py, PyAny>, count: usize) -> PyResult<Bound<'py, PyAny>> {
    let py = data.py();
    if data.is_exact_instance_of::<PyBytes>() || data.is_exact_instance_of::<PyMemoryView>() {
        let view = PyMemoryView::from(data)?;
        return view.get_item(PySlice::new(py, count.cast_signed(), isize::MAX, 1));
    }
    Ok(PyBytes::new(py, &contiguous(data)?.bytes()[count..]).into_any())
}

/// The bytes of an object.
pub(super) struct View(PyUntypedBuffer);

impl View {
    #[inline]
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: the view keeps the memory in place; that somebody may write into it meanwhile is the caller's, as
        // with `socket.send`, and changes bytes only.
        unsafe { slice::from_raw_parts(self.0.buf_ptr().cast::<u8>(), self.0.len_bytes()) }
    }
}

pub(super) fn contiguous(data: &Bound<'_, PyAny>) -> PyResult<View> {
    let view = PyUntypedBuffer::get(data)?;
    if !view.is_c_contiguous() {
        return Err(PyBufferError::new_err(
            "memoryview: underlying buffer is not C-contiguous",
        ));
    }
    Ok(View(view))
}

/// Sends plaintext, or keeps what there is no room for. `data` is what `bytes` belongs to.
pub(super) fn write(this: &Bound<'_, Tls>, data: &Bound<'_, PyAny>, bytes: &[u8]) -> PyResult<()> {
    let py = this.py();
    let tls = this.get();
    let (phase, mut waits) = tls.with(py, |state| (state.phase, state.waits()));
    let Some(engine) = tls.engine.get().filter(|_| phase == Phase::Wrapped) else {
        let list = PyTuple::new(py, [data])?;
        return call_method(this, intern!(py, "_write_appdata"), [&list]).map(drop);
    };
    let before = if !waits && engine.unsent(py)? > 0 {
        // Something that a program did with the `ssl_object` itself.
        send_waiting(this, engine, Pace::AsThereIsRoom).map(|()| {
            waits = tls.with(py, |state| state.waits());
        })
    } else {
        Ok(())
    };
    let sent = before.and_then(|()| {
        if waits {
            Ok(Sent::Part(0))
        } else {
            send(this, engine, bytes, Pace::AsThereIsRoom)
        }
    });
    match sent {
        Ok(Sent::All | Sent::Lost) => {}
        Ok(Sent::Part(count)) => keep(this, data, bytes, count)?,
        Err(error) => return fatal(this, error),
    }
    control_app_writing(this, engine)
}

/// Puts what is left of `bytes` behind the first `count` into the backlog.
#[cold]
fn keep(
    this: &Bound<'_, Tls>,
    data: &Bound<'_, PyAny>,
    bytes: &[u8],
    count: usize,
) -> PyResult<()> {
    let py = this.py();
    let kept = if data.is_exact_instance_of::<PyBytes>() {
        if count == 0 {
            data.clone()
        } else {
            rest(data, count)?
        }
    } else {
        PyBytes::new(py, &bytes[count..]).into_any()
    };
    let backlog = this.get().with(py, |state| {
        state.waiting += bytes.len() - count;
        state.backlog.clone()
    });
    if let Some(backlog) = backlog {
        call_method(&backlog.bind(py), intern!(py, "append"), [&kept])?;
    }
    Ok(())
}

/// Tells the protocol when to stop writing and when to go on.
#[inline]
pub(super) fn control_app_writing(this: &Bound<'_, Tls>, engine: &Engine) -> PyResult<()> {
    let py = this.py();
    let unsent = engine.unsent(py)?;
    let told = this.get().with(py, |state| {
        let size = state.waiting + unsent;
        if size > 0 && size >= state.outgoing_high && !state.app_writing_paused {
            state.app_writing_paused = true;
            state.app.clone().map(|app| (app, true))
        } else if state.app_writing_paused && size <= state.outgoing_low {
            state.app_writing_paused = false;
            state.app.clone().map(|app| (app, false))
        } else {
            None
        }
    });
    let Some((app, pause)) = told else {
        return Ok(());
    };
    let name = if pause {
        intern!(py, "pause_writing")
    } else {
        intern!(py, "resume_writing")
    };
    match call_method(&app.bind(py), name, []) {
        Ok(_) => Ok(()),
        Err(error) if ends_the_run(py, &error) => Err(error),
        Err(error) => {
            let args = (format!("protocol.{name}() failed"), error.into_value(py));
            this.call_method1(intern!(py, "_complain"), args).map(drop)
        }
    }
}
