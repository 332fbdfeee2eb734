//! `StreamCall`: what `read()`, `readline()` and their like give back, to be awaited; `drain()` too, when there is
//! nothing to wait for.
//!
//! It is a native [coroutine](crate::coroutine). A call looks at the stream only when it is driven: until then nothing
//! is taken, so a call that is cancelled before it began, or while it waits, takes nothing.

use std::ffi::c_int;

use pyo3::exceptions::{PyRuntimeError, PyStopAsyncIteration, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;

use super::Stream;
use super::buffer::new_bytes;
use super::work::{Found, Work};
use crate::call::call_method;
use crate::coroutine::{self, Coroutine, Kept, Step};
use crate::heap::Ref;
use crate::object::Obj;

/// A call of a stream's method.
struct StreamCall {
    /// The reader (of `drain()`, the writer), which must live as long as somebody waits for it.
    reader: Option<Obj>,
    state: State,
    /// What the call waits for.
    waiter: Option<Obj>,
    /// The method's qualified name.
    name: &'static str,
}

enum State {
    /// Nobody has awaited it.
    New(Work),
    /// Somebody has.
    Begun(Work),
    /// It is being driven just now.
    Running,
    Ended,
}

/// A new call.
#[inline]
pub(super) fn make(
    py: Python<'_>,
    reader: Ref<'_, '_>,
    work: Work,
    name: &'static str,
) -> PyResult<Obj> {
    coroutine::make(
        py,
        StreamCall {
            reader: Some(reader.to_owned().into()),
            state: State::New(work),
            waiter: None,
            name,
        },
    )
}

/// Looks into a call. No Python code runs in `f`.
#[inline]
fn body<R>(call: Ref<'_, '_>, f: impl FnOnce(&mut StreamCall) -> R) -> R {
    coroutine::body(call, f)
}

/// Drives a call.
#[inline]
fn step(py: Python<'_>, call: Ref<'_, '_>) -> PyResult<Step> {
    let (state, reader, waiter) = body(call, |body| {
        (
            std::mem::replace(&mut body.state, State::Running),
            body.reader.clone(),
            body.waiter.take(),
        )
    });
    let (mut work, begins) = match state {
        State::New(work) => (work, true),
        State::Begun(work) => (work, false),
        State::Running => return Err(PyValueError::new_err("coroutine already executing")),
        State::Ended => {
            body(call, |body| body.state = State::Ended);
            return Err(PyRuntimeError::new_err(
                "cannot reuse already awaited coroutine",
            ));
        }
    };
    let done = reader
        .ok_or_else(|| PyRuntimeError::new_err("the stream's reader is gone"))
        .and_then(|reader| {
            if let Work::Nothing = work {
                return Ok(Step::Done);
            }
            let stream = Stream::of(reader.bind(py))?;
            advance(py, stream.get(), &mut work, begins, waiter)
        });
    let (state, waiter) = match &done {
        Ok(Step::Yield(future)) => (State::Begun(work), Some(future.clone())),
        _ => (State::Ended, None),
    };
    let old = body(call, |body| {
        body.waiter = waiter;
        let reader = matches!(state, State::Ended).then(|| body.reader.take());
        (std::mem::replace(&mut body.state, state), reader)
    });
    drop(old);
    done
}

#[inline]
fn advance(
    py: Python<'_>,
    stream: &Stream,
    work: &mut Work,
    begins: bool,
    waiter: Option<Obj>,
) -> PyResult<Step> {
    if begins {
        if let Work::Refused(error) = work {
            return Err(error.clone_ref(py));
        }
        if let Some(error) = stream.with(py, |state| state.exception.clone()) {
            return Err(PyErr::from_value(error.into_bound(py)));
        }
        if work.needs_nothing() {
            return Ok(Step::Return(new_bytes(py, &[])?));
        }
    }
    if let Some(waiter) = waiter {
        // A feeder takes the future out before it completes it: one that is still there was not waited for.
        let early = stream.with(py, |state| {
            state
                .waiter
                .as_ref()
                .is_some_and(|other| other.as_ptr() == waiter.as_ptr())
        });
        if early {
            stream.leave(py, &waiter);
            if !call_method(&waiter.bind(py), intern!(py, "done"), [])?.is_truthy()? {
                return Err(PyRuntimeError::new_err("await wasn't used with future"));
            }
            // Somebody else completed it; its exception, if it has one, is the call's.
            call_method(&waiter.bind(py), intern!(py, "result"), [])?;
        }
    }
    match work.go_on(py, stream)? {
        Found::Wait(wanted) => Ok(Step::Yield(stream.wait(py, wanted, work.function())?)),
        Found::Bytes(bytes) => {
            if matches!(work, Work::Next(_)) && bytes.bind(py).is_empty()? {
                return Err(PyStopAsyncIteration::new_err(()));
            }
            Ok(Step::Return(bytes))
        }
        Found::Incomplete(partial, expected) => Err(exception(
            py,
            intern!(py, "IncompleteReadError"),
            (partial.bind(py), expected),
        )),
        Found::Overrun(message, consumed) => Err(exception(
            py,
            intern!(py, "LimitOverrunError"),
            (message, consumed),
        )),
    }
}

/// One of asyncio's own exceptions.
#[cold]
fn exception<'py>(
    py: Python<'py>,
    name: &Bound<'py, pyo3::types::PyString>,
    args: impl pyo3::call::PyCallArgs<'py>,
) -> PyErr {
    let made = py
        .import("asyncio.exceptions")
        .and_then(|module| module.getattr(name)?.call1(args));
    match made {
        Ok(value) => PyErr::from_value(value),
        Err(error) => error,
    }
}

/// Ends the call without a result: what it waited for it leaves.
fn end(py: Python<'_>, call: Ref<'_, '_>) -> PyResult<()> {
    let (state, reader, waiter) = body(call, |body| {
        let running = matches!(body.state, State::Running);
        let state = if running {
            State::Running
        } else {
            std::mem::replace(&mut body.state, State::Ended)
        };
        (state, body.reader.clone(), body.waiter.take())
    });
    if matches!(state, State::Running) {
        return Err(PyValueError::new_err("coroutine already executing"));
    }
    if let (Some(reader), Some(waiter)) = (reader, waiter) {
        Stream::of(reader.bind(py))?.get().leave(py, &waiter);
    }
    Ok(())
}

impl Coroutine for StreamCall {
    fn kept() -> &'static Kept {
        static KEPT: Kept = Kept::new();
        &KEPT
    }

    #[inline]
    fn step(py: Python<'_>, call: Ref<'_, '_>) -> PyResult<Step> {
        step(py, call)
    }

    fn throw(py: Python<'_>, call: Ref<'_, '_>, error: PyErr) -> PyResult<Step> {
        end(py, call)?;
        Err(error)
    }

    fn close(py: Python<'_>, call: Ref<'_, '_>) -> PyResult<()> {
        end(py, call)
    }

    fn name(&self) -> &'static str {
        self.name
    }

    fn is_new(&self) -> bool {
        matches!(self.state, State::New(_))
    }

    fn forgotten(&mut self, py: Python<'_>) {
        if let (Some(reader), Some(waiter)) = (&self.reader, &self.waiter)
            && let Ok(stream) = Stream::of(reader.bind(py))
        {
            stream.get().leave(py, waiter);
        }
    }

    fn visit(&self, visit: &mut dyn FnMut(&Obj) -> c_int) -> c_int {
        coroutine::visit_all([&self.reader, &self.waiter], visit)
    }

    type Held = [Option<Obj>; 2];

    fn clear(&mut self) -> Self::Held {
        [self.reader.take(), self.waiter.take()]
    }
}

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    coroutine::register::<StreamCall>(
        module,
        c"ropewalk._core.StreamCall",
        c"A call of a stream's method, to be awaited once.",
        coroutine::methods!(StreamCall),
        coroutine::getters!(StreamCall),
        vec![],
    )
}
