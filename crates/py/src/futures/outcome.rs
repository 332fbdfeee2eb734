//! Waiting for one future: `result`, `exception`, and the same for tasks.

use std::task::Poll;

use pyo3::exceptions::PyTimeoutError;
use pyo3::prelude::*;

use super::future::Body;
use super::originals;
use super::state::{Phase, State, Watcher, look};
use crate::heap::{Arguments, Ref, Returned};
use crate::object::Obj;
use crate::wait::{self, Operation, Timeout, Waiter};

/// What of the outcome is asked for.
#[derive(Clone, Copy)]
pub(super) enum Want {
    Result,
    Exception,
}

impl Want {
    fn function(self) -> &'static str {
        match self {
            Self::Result => "result",
            Self::Exception => "exception",
        }
    }

    fn awaitable(self) -> &'static str {
        match self {
            Self::Result => "Future.result_async",
            Self::Exception => "Future.exception_async",
        }
    }
}

/// What a look found.
enum Seen {
    Nothing,
    Cancelled,
    /// `None` is `None`.
    Result(Option<Obj>),
    Exception(Obj),
}

impl Seen {
    #[inline]
    fn give(self, py: Python<'_>, want: Want) -> PyResult<Poll<Obj>> {
        let none = || Obj::from(py.None().into_bound(py));
        match (self, want) {
            (Self::Nothing, _) => Ok(Poll::Pending),
            (Self::Cancelled, _) => Err(originals::cancelled(py)),
            (Self::Result(result), Want::Result) => Ok(Poll::Ready(result.unwrap_or_else(none))),
            (Self::Result(_), Want::Exception) => Ok(Poll::Ready(none())),
            (Self::Exception(exception), Want::Result) => {
                Err(PyErr::from_value(exception.into_bound(py)))
            }
            (Self::Exception(exception), Want::Exception) => Ok(Poll::Ready(exception)),
        }
    }
}

#[inline]
fn see(py: Python<'_>, future: Ref<'_, '_>, mut unseen: impl FnMut(&mut State)) -> PyResult<Seen> {
    look(py, future, |state| match (state.phase, &state.exception) {
        (Phase::Finished, Some(exception)) => Seen::Exception(exception.clone()),
        (Phase::Finished, None) => Seen::Result(state.result.clone()),
        (phase, _) if phase.is_cancelled() => Seen::Cancelled,
        _ => {
            unseen(state);
            Seen::Nothing
        }
    })
}

/// Waits for the future that it is called on.
struct Waiting {
    want: Want,
    /// Under which we are noted as a watcher.
    serial: Option<u32>,
}

impl Operation for Waiting {
    fn poll(&mut self, py: Python<'_>, future: Ref<'_, '_>, who: &Waiter) -> PyResult<Poll<Obj>> {
        let serial = &mut self.serial;
        see(py, future, |state| {
            if serial.is_none() {
                *serial = Some(state.watch(Watcher::Alone(who.clone())));
            }
        })?
        .give(py, self.want)
    }

    fn expire(&mut self, py: Python<'_>, future: Ref<'_, '_>) -> PyResult<Option<Obj>> {
        self.leave(py, future);
        Err(PyTimeoutError::new_err(()))
    }

    fn leave(&mut self, py: Python<'_>, future: Ref<'_, '_>) -> bool {
        if let Some(serial) = self.serial.take() {
            let watcher = Body::of(future).with(py, |state| state.unwatch(serial));
            drop(watcher);
        }
        true
    }
}

/// The one argument, `timeout`.
#[inline]
fn timeout<'py>(
    py: Python<'py>,
    given: Arguments<'_, 'py>,
    function: &str,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    if given.all().is_empty() {
        return Ok(None);
    }
    let [timeout] = given.named_or_positional(py, function, ["timeout"])?;
    Ok(timeout)
}

/// `result(timeout)` and `exception(timeout)`.
#[inline]
pub(super) fn get(
    py: Python<'_>,
    future: Ref<'_, '_>,
    given: Arguments<'_, '_>,
    want: Want,
) -> Returned {
    let timeout = timeout(py, given, want.function())?;
    if let Poll::Ready(found) = see(py, future, |_| {})?.give(py, want)? {
        return Ok(found.into_ptr());
    }
    let mut waiting = Waiting { want, serial: None };
    let timeout = Timeout::of_wait(timeout.as_ref())?;
    Ok(wait::block(py, future, &mut waiting, timeout)?.into_ptr())
}

/// `result_async(timeout)` and `exception_async(timeout)`.
pub(super) fn get_async(
    py: Python<'_>,
    future: Ref<'_, '_>,
    given: Arguments<'_, '_>,
    want: Want,
) -> Returned {
    let timeout = timeout(py, given, want.function())?;
    let timeout = Timeout::of_wait(timeout.as_ref())?;
    let waiting = Box::new(Waiting { want, serial: None });
    Ok(wait::awaitable(py, future, waiting, timeout, want.awaitable())?.into_ptr())
}

/// What `await future` goes through.
pub(super) fn await_result(py: Python<'_>, future: Ref<'_, '_>) -> Returned {
    let want = Want::Result;
    let waiting = Box::new(Waiting { want, serial: None });
    let name = "Future.__await__";
    Ok(wait::awaitable(py, future, waiting, Timeout::Forever, name)?.into_ptr())
}
