//! How a thread waits.

use std::sync::Arc;
use std::task::Poll;

use pyo3::prelude::*;
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
            py.detach(|| parker.park(deadline))
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
