//! How a thread waits.

#[cfg(not(Py_GIL_DISABLED))]
use std::cell::Cell;
use std::sync::Arc;
#[cfg(not(Py_GIL_DISABLED))]
use std::sync::Weak;
use std::task::Poll;

use pyo3::prelude::*;
use ropewalk_reactor::Reactor;
#[cfg(not(Py_GIL_DISABLED))]
use ropewalk_reactor::Sleeper;
use ropewalk_sys::fork;
use ropewalk_wait::{Parked, Parker};

use super::{Operation, Timeout, Waiter};
use crate::heap::Ref;
use crate::object::Obj;

/// The calling thread's parking place, known by the thread's identifier.
pub(crate) fn parker() -> Arc<Parker> {
    fn new() -> Arc<Parker> {
        Arc::new(Parker::new(fork::this_thread() as u64))
    }
    thread_local!(static HERE: Arc<Parker> = new());
    // A thread that is ending has no such place any more, and may still run Python code.
    HERE.try_with(Arc::clone).unwrap_or_else(|_| new())
}

/// With the GIL, who was woken cannot go on before the waker lets the GIL go. One who is awake would come at once, and
/// sleep for that: so it hears when it is time.
#[cfg(not(Py_GIL_DISABLED))]
enum Awake {
    Thread(Arc<Parker>),
    Loop(Weak<Sleeper>),
}

#[cfg(not(Py_GIL_DISABLED))]
thread_local!(static AWAKE: Cell<Option<Awake>> = const { Cell::new(None) });

/// This thread is to tell it when it lets the GIL go. The last one counts: one alone can have the GIL then.
#[cfg(not(Py_GIL_DISABLED))]
fn promise(awake: Awake) {
    // A thread that is ending has no such place any more: then the other waits for its moment in vain.
    let _ = AWAKE.try_with(|place| place.set(Some(awake)));
}

/// Wakes a thread.
pub(crate) fn wake(parker: &Arc<Parker>) {
    #[cfg(Py_GIL_DISABLED)]
    parker.unpark();
    #[cfg(not(Py_GIL_DISABLED))]
    if parker.unpark_soon() {
        promise(Awake::Thread(Arc::clone(parker)));
    }
}

/// This thread is about to post something to a loop.
#[inline]
pub(crate) fn announce<H: Clone>(_reactor: &Reactor<H>) {
    #[cfg(not(Py_GIL_DISABLED))]
    if let Some(sleeper) = _reactor.announce() {
        promise(Awake::Loop(sleeper));
    }
}

/// Keeps the promise: the GIL is let go.
#[cfg(not(Py_GIL_DISABLED))]
#[inline]
fn let_go() {
    match AWAKE.try_with(Cell::take) {
        Ok(Some(Awake::Thread(parker))) => parker.let_go(),
        Ok(Some(Awake::Loop(sleeper))) => {
            if let Some(sleeper) = sleeper.upgrade() {
                sleeper.let_go();
            }
        }
        _ => {}
    }
}

/// Sleeps in `sleep` without the interpreter.
#[inline]
pub(crate) fn asleep<R: Send>(py: Python<'_>, sleep: impl FnOnce() -> R + Send) -> R {
    py.detach(|| {
        #[cfg(not(Py_GIL_DISABLED))]
        let_go();
        sleep()
    })
}

/// Drives the operation until it ends; the thread sleeps meanwhile, without the interpreter.
///
/// # Errors
/// What the operation raises, or a signal handler that ran during the sleep.
#[cold]
pub(crate) fn block(
    py: Python<'_>,
    target: Ref<'_, '_>,
    operation: &mut dyn Operation,
    timeout: Timeout,
) -> PyResult<Obj> {
    let parker = parker();
    let who = Waiter::Thread(Arc::clone(&parker));
    let mut now = timeout == Timeout::Now;
    let mut deadline = match timeout {
        Timeout::Now | Timeout::Forever => None,
        Timeout::At(nanos) => Some(nanos),
    };
    // What is raised when the operation has put in order what it must.
    let mut raised: Option<PyErr> = None;
    loop {
        match operation.poll(py, target, &who) {
            Ok(Poll::Ready(value)) => return raised.map_or(Ok(value), Err),
            Ok(Poll::Pending) => {}
            Err(error) => return Err(error),
        }
        let parked = if std::mem::take(&mut now) {
            Parked::TimedOut
        } else {
            asleep(py, || parker.park(deadline))
        };
        match parked {
            Parked::Woken => {}
            Parked::TimedOut => {
                deadline = None;
                // It may have been called in the same moment.
                if let Poll::Ready(value) = operation.poll(py, target, &who)? {
                    return Ok(value);
                }
                if let Some(value) = operation.expire(py, target)? {
                    return Ok(value);
                }
            }
            Parked::Interrupted => {
                let Err(error) = py.check_signals() else {
                    continue;
                };
                if raised.is_some() {
                    // Once more: whoever interrupts means it.
                    operation.abandon(py, target);
                    return Err(error);
                }
                if operation.leave(py, target) {
                    return Err(error);
                }
                raised = Some(error);
                deadline = None;
            }
        }
    }
}
