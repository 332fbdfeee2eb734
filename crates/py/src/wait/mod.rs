//! Waiting, as Python sees it: a thread that parks, a task that awaits, one [`Operation`] for both.
//!
//! An operation is one call of a blocking method: `acquire`, `get`, `wait`. It is polled like a future of Rust's: it
//! either has its result, or it has put the [`Waiter`] where it will be woken from, and is polled again then. A
//! thread drives it by [`block`], a task by awaiting the object that [`awaitable`] makes. So a primitive is
//! written once, and does not know who waits.
//!
//! Everything here runs attached to the interpreter, but for a thread's sleep. That, and that forking stops the world
//! where there is no GIL, is why no guard is ever held in a forked child by a thread that is gone.

mod awaitable;
mod settled;
mod task;
mod thread;
mod timeout;

use std::ffi::c_int;
use std::sync::Arc;
use std::task::Poll;

use pyo3::prelude::*;
use ropewalk_sys::fork;
use ropewalk_wait::line::Call;
use ropewalk_wait::{Parker, Ticket};

pub(crate) use awaitable::awaitable;
pub(crate) use settled::settled;
pub(crate) use task::current_task;
pub(crate) use thread::{announce, asleep, block, wake};
pub(crate) use timeout::Timeout;

use crate::heap::Ref;
use crate::object::Obj;

/// Somebody who waits in Python: a thread, or a task by the object that it awaits.
#[derive(Clone, Debug)]
pub(crate) enum Waiter {
    Thread(Arc<Parker>),
    Task(Obj),
}

impl ropewalk_wait::Waiter for Waiter {
    fn wake(&self) -> bool {
        match self {
            Self::Thread(parker) => {
                wake(parker);
                true
            }
            Self::Task(wait) => awaitable::wake(wait),
        }
    }

    fn survives_fork(&self) -> bool {
        match self {
            Self::Thread(parker) => parker.survives_fork(),
            Self::Task(wait) => fork::survives(awaitable::thread(wait)),
        }
    }

    fn thread(&self) -> usize {
        match self {
            Self::Thread(parker) => parker.thread(),
            Self::Task(wait) => awaitable::thread(wait),
        }
    }

    fn blocks(&self) -> bool {
        matches!(self, Self::Thread(_))
    }
}

impl Waiter {
    /// Shows what it refers to to the collector.
    pub(crate) fn visit(&self, visit: &mut dyn FnMut(&Obj) -> c_int) -> c_int {
        match self {
            Self::Thread(_) => 0,
            Self::Task(wait) => visit(wait),
        }
    }

    /// Who it is, for `statistics()`: a thread's identifier, or a task (`None` once it is gone).
    pub(crate) fn who(&self, py: Python<'_>) -> PyResult<Obj> {
        match self {
            Self::Thread(parker) => Ok(parker.name().into_pyobject(py)?.into_any().into()),
            Self::Task(wait) => Ok(awaitable::task(py, wait)),
        }
    }
}

/// One call of a blocking method. `target` is the object that it was called on.
pub(crate) trait Operation: Send {
    /// Goes on. `Ready` and `Err` end it, and it has no place in any line then. If it is `Pending`, `who` (the same in
    /// each call) is where it will be woken from. It may be polled without having been woken.
    fn poll(&mut self, py: Python<'_>, target: Ref<'_, '_>, who: &Waiter) -> PyResult<Poll<Obj>>;

    /// The time is up: leaves the line, passing on what it was told but has not used, and gives the result.
    /// `None`: there is something to be done before it can end (a lock to be taken again), so it is polled on,
    /// without a limit of time, and its result is what this would have been.
    ///
    /// # Errors
    /// What the method raises when its time is up.
    fn expire(&mut self, py: Python<'_>, target: Ref<'_, '_>) -> PyResult<Option<Obj>>;

    /// An exception ends it: leaves the line, passing on what it was told but has not used. False: there is
    /// something to be done before it can end; it is polled on, its result is dropped, and the exception is raised.
    fn leave(&mut self, py: Python<'_>, target: Ref<'_, '_>) -> bool;

    /// Ends it here and now, whatever is left to be done: its coroutine is closed, or is interrupted once more.
    fn abandon(&mut self, py: Python<'_>, target: Ref<'_, '_>) {
        self.leave(py, target);
    }

    /// Shows the references that it holds to the collector.
    fn visit(&self, _visit: &mut dyn FnMut(&Obj) -> c_int) -> c_int {
        0
    }
}

/// Wakes whom a primitive has called, one after the other, with no guard held: `next` asks it for the next one, and
/// `gone` takes away the place of one that cannot be reached any more.
#[inline]
pub(crate) fn call_all(
    mut call: Option<Call<Waiter>>,
    mut gone: impl FnMut(&Ticket),
    mut next: impl FnMut() -> Option<Call<Waiter>>,
) {
    while let Some(called) = call {
        if !ropewalk_wait::Waiter::wake(&called.waiter) {
            gone(&called.ticket());
        }
        call = next();
    }
}

/// `Ready(True)` or `Ready(False)`.
#[inline]
pub(crate) fn ready(py: Python<'_>, value: bool) -> PyResult<Poll<Obj>> {
    Ok(Poll::Ready(boolean(py, value)))
}

/// `True` or `False`.
#[inline]
pub(crate) fn boolean(py: Python<'_>, value: bool) -> Obj {
    pyo3::types::PyBool::new(py, value)
        .to_owned()
        .into_any()
        .into()
}

/// Makes the types.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    settled::register(module)?;
    awaitable::register(module)
}
