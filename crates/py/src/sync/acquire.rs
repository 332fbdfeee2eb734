//! `acquire` of a lock that has to be waited for, by threads and tasks: the same for both kinds of locks.

use std::marker::PhantomData;
use std::task::Poll;

use pyo3::prelude::*;
use ropewalk_wait::Ticket;

use crate::heap::{self, Arguments, Ref, Returned};
use crate::native::{Body, body};
use crate::object::Obj;
use crate::wait::{self, Operation, Timeout, Waiter, awaitable, block};

/// A lock that has a line.
pub(super) trait Lockable: Body {
    /// The qualified names of `acquire_async` and `__aenter__`.
    const NAMES: [&'static str; 2];

    /// Takes the lock for a waiter, or gives it a place.
    ///
    /// # Errors
    /// What ends the wait. The waiter has no place then.
    fn poll(&self, py: Python<'_>, place: &mut Option<Ticket>, who: &Waiter) -> PyResult<bool>;

    /// Gives up a place; a lock that had been granted goes to the next.
    fn leave(&self, py: Python<'_>, ticket: &Ticket);
}

/// `acquire`, of one who has to wait.
pub(super) struct Acquire<L> {
    place: Option<Ticket>,
    /// For `async with`, whose result is `None`, as asyncio's own.
    entering: bool,
    kind: PhantomData<fn() -> L>,
}

impl<L: Lockable> Acquire<L> {
    fn new(entering: bool) -> Self {
        Self {
            place: None,
            entering,
            kind: PhantomData,
        }
    }

    fn lock<'a>(target: Ref<'a, '_>) -> &'a L {
        // SAFETY: an operation's target is the receiver of a method of the type.
        unsafe { body::<L>(target) }
    }
}

impl<L: Lockable> Operation for Acquire<L> {
    fn poll(&mut self, py: Python<'_>, target: Ref<'_, '_>, who: &Waiter) -> PyResult<Poll<Obj>> {
        if !Self::lock(target).poll(py, &mut self.place, who)? {
            return Ok(Poll::Pending);
        }
        if self.entering {
            return Ok(Poll::Ready(py.None().into_bound(py).into()));
        }
        wait::ready(py, true)
    }

    fn expire(&mut self, py: Python<'_>, target: Ref<'_, '_>) -> PyResult<Option<Obj>> {
        self.leave(py, target);
        Ok(Some(wait::boolean(py, false)))
    }

    fn leave(&mut self, py: Python<'_>, target: Ref<'_, '_>) -> bool {
        if let Some(ticket) = self.place.take() {
            Self::lock(target).leave(py, &ticket);
        }
        true
    }
}

/// Waits in a thread. `True`, or `False` if the time is up.
#[cold]
pub(super) fn wait_for<L: Lockable>(
    py: Python<'_>,
    this: Ref<'_, '_>,
    timeout: Timeout,
) -> Returned {
    if timeout == Timeout::Now {
        return heap::boolean(py, false);
    }
    Ok(block(py, this, &mut Acquire::<L>::new(false), timeout)?.into_ptr())
}

/// `acquire_async`.
pub(super) fn acquire_async<L: Lockable>(
    py: Python<'_>,
    this: Ref<'_, '_>,
    given: Arguments<'_, '_>,
) -> Returned {
    let timeout = Timeout::of_acquire(py, given)?;
    begin::<L>(py, this, timeout, false)
}

/// `__aenter__`, if the lock is not to be had at once.
#[cold]
pub(super) fn enter_async<L: Lockable>(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    begin::<L>(py, this, Timeout::Forever, true)
}

fn begin<L: Lockable>(
    py: Python<'_>,
    this: Ref<'_, '_>,
    timeout: Timeout,
    entering: bool,
) -> Returned {
    let operation = Box::new(Acquire::<L>::new(entering));
    let name = L::NAMES[usize::from(entering)];
    Ok(awaitable(py, this, operation, timeout, name)?.into_ptr())
}
