//! `put`, `get` and `join` as operations: take the mutex, try, and wait in line if it cannot be done yet.
//!
//! That is what the original does with its conditions. What differs is who waits (a thread or a task), and that one
//! who was woken for nothing keeps its place, and one who leaves passes on what it was told.

use std::ffi::c_int;
use std::task::Poll;

use pyo3::prelude::*;
use pyo3::{ffi, intern};
use ropewalk_wait::{Left, Ticket};

use super::container;
use super::monitor::Which;
use super::object::Queue;
use super::raised::Raised;
use super::timeouts::Patience;
use crate::call::call_method;
use crate::heap::{Ref, Returned};
use crate::object::Obj;
use crate::wait::{Operation, Timeout, Waiter, awaitable, block};

/// What is tried with the mutex held.
pub(super) trait Attempt: Send + 'static {
    /// Where those wait who cannot do it yet.
    const LINE: Which;
    /// Of whom one can do something now that this is done.
    const LETS_GO_ON: Option<Which>;

    /// The result, or `None`: not yet.
    ///
    /// # Errors
    /// What ends the call: `ShutDown`, or an exception of a hook or a comparison.
    fn attempt(&mut self, py: Python<'_>, this: Ref<'_, '_>) -> PyResult<Option<Obj>>;

    /// What is raised when the time is up; nothing of the kind is meant by what never waits so long.
    const LATE: Raised = Raised::Empty;

    /// Shows what it refers to to the collector.
    fn visit(&self, _visit: &mut dyn FnMut(&Obj) -> c_int) -> c_int {
        0
    }
}

pub(super) struct Put(pub(super) Obj);

impl Attempt for Put {
    const LINE: Which = Which::NotFull;
    const LETS_GO_ON: Option<Which> = Some(Which::NotEmpty);
    const LATE: Raised = Raised::Full;

    #[inline]
    fn attempt(&mut self, py: Python<'_>, this: Ref<'_, '_>) -> PyResult<Option<Obj>> {
        let queue = Queue::of(this);
        if queue.is_shut_down() {
            return Err(Raised::ShutDown.error(py));
        }
        let native = queue.native(py, this)?;
        if queue.is_full(py, this, native.as_ref())? {
            return Ok(None);
        }
        match native {
            Some((kind, container)) => container::put(py, kind, &container, self.0.as_ptr())?,
            None => drop(call_method(&this, intern!(py, "_put"), [&self.0.bind(py)])?),
        }
        queue.set_unfinished(queue.unfinished() + 1);
        // SAFETY: None is immortal.
        Ok(Some(unsafe { Obj::from_borrowed(ffi::Py_None()) }))
    }

    fn visit(&self, visit: &mut dyn FnMut(&Obj) -> c_int) -> c_int {
        visit(&self.0)
    }
}

pub(super) struct Get;

impl Attempt for Get {
    const LINE: Which = Which::NotEmpty;
    const LETS_GO_ON: Option<Which> = Some(Which::NotFull);

    #[inline]
    fn attempt(&mut self, py: Python<'_>, this: Ref<'_, '_>) -> PyResult<Option<Obj>> {
        let queue = Queue::of(this);
        let native = queue.native(py, this)?;
        let empty = match &native {
            Some((_, container)) => container::len(py, container)? == 0,
            None => !queue.size(py, this)?.bind(py).is_truthy()?,
        };
        if empty {
            return if queue.is_shut_down() {
                Err(Raised::ShutDown.error(py))
            } else {
                Ok(None)
            };
        }
        Ok(Some(match native {
            Some((kind, container)) => container::take(py, kind, &container)?,
            None => call_method(&this, intern!(py, "_get"), [])?.into(),
        }))
    }
}

pub(super) struct Join;

impl Attempt for Join {
    const LINE: Which = Which::AllDone;
    const LETS_GO_ON: Option<Which> = None;

    fn attempt(&mut self, _py: Python<'_>, this: Ref<'_, '_>) -> PyResult<Option<Obj>> {
        // SAFETY: None is immortal.
        let none = || unsafe { Obj::from_borrowed(ffi::Py_None()) };
        Ok((Queue::of(this).unfinished() == 0).then(none))
    }
}

/// An attempt that is made again and again, until it succeeds or the time is up.
struct Monitored<A> {
    attempt: A,
    /// The place in the mutex's line.
    mutex: Option<Ticket>,
    /// The place in the condition's line.
    place: Option<Ticket>,
    /// The time is up: there is one attempt left.
    late: bool,
    /// Raised instead of waiting: no clock can count so far.
    too_long: Option<PyErr>,
}

impl<A: Attempt> Monitored<A> {
    /// With the time that the caller has; the limit of its wait.
    fn new(py: Python<'_>, attempt: A, block: bool, patience: &Patience) -> (Self, Timeout) {
        let begun = if block {
            patience.begin(py)
        } else {
            Ok(Timeout::Now)
        };
        let late = matches!(begun, Ok(Timeout::Now));
        let (timeout, too_long) = match begun {
            // Nobody waits for an item, but even then everybody waits for the mutex.
            Ok(Timeout::Now) => (Timeout::Forever, None),
            Ok(timeout) => (timeout, None),
            Err(error) => (Timeout::Forever, Some(error)),
        };
        let this = Self {
            attempt,
            mutex: None,
            place: None,
            late,
            too_long,
        };
        (this, timeout)
    }

    /// Gives up the place in the condition's line.
    fn leave_line(&mut self, py: Python<'_>, queue: &Queue, done: bool) {
        let Some(place) = self.place.take() else {
            return;
        };
        let left = queue.monitor.leave(py, A::LINE, &place);
        if left == Left::Granted && !done {
            queue.monitor.notify(py, A::LINE);
        }
    }
}

impl<A: Attempt> Operation for Monitored<A> {
    fn poll(&mut self, py: Python<'_>, target: Ref<'_, '_>, who: &Waiter) -> PyResult<Poll<Obj>> {
        let queue = Queue::of(target);
        match queue.monitor.poll_lock(py, target, &mut self.mutex, who) {
            Ok(true) => {}
            Ok(false) => return Ok(Poll::Pending),
            Err(error) => {
                self.leave_line(py, queue, false);
                return Err(error);
            }
        }
        let tried = self.attempt.attempt(py, target);
        let tried = match tried {
            Ok(None) if self.late => Err(A::LATE.error(py)),
            Ok(None) => self.too_long.take().map_or(Ok(None), Err),
            other => other,
        };
        if let Ok(None) = tried {
            let joined = queue.monitor.wait(py, A::LINE, &mut self.place, who);
            queue.monitor.unlock(py);
            joined?;
            return Ok(Poll::Pending);
        }
        let done = tried.is_ok();
        if done && let Some(line) = A::LETS_GO_ON {
            queue.monitor.notify_unlocking(py, line);
        } else {
            queue.monitor.unlock(py);
        }
        self.leave_line(py, queue, done);
        tried.map(|value| value.map_or(Poll::Pending, Poll::Ready))
    }

    fn expire(&mut self, py: Python<'_>, target: Ref<'_, '_>) -> PyResult<Option<Obj>> {
        if self.mutex.is_some() {
            self.late = true;
            return Ok(None);
        }
        self.leave_line(py, Queue::of(target), false);
        Err(A::LATE.error(py))
    }

    fn leave(&mut self, py: Python<'_>, target: Ref<'_, '_>) -> bool {
        let queue = Queue::of(target);
        if let Some(place) = self.mutex.take() {
            queue.monitor.leave_lock(py, &place);
        }
        self.leave_line(py, queue, false);
        true
    }

    fn visit(&self, visit: &mut dyn FnMut(&Obj) -> c_int) -> c_int {
        self.attempt.visit(visit)
    }
}

/// Does it in a thread.
#[inline]
pub(super) fn run<A: Attempt>(
    py: Python<'_>,
    this: Ref<'_, '_>,
    mut attempt: A,
    block: bool,
    patience: &Patience,
) -> Returned {
    let queue = Queue::of(this);
    if queue.monitor.try_lock(py)? {
        let tried = attempt.attempt(py, this);
        match (&tried, A::LETS_GO_ON) {
            (Ok(Some(_)), Some(line)) => queue.monitor.notify_unlocking(py, line),
            _ => queue.monitor.unlock(py),
        }
        match tried? {
            Some(value) => return Ok(value.into_ptr()),
            None if !block => return A::LATE.answer(py),
            None => {}
        }
    }
    wait(py, this, attempt, block, patience)
}

#[cold]
fn wait<A: Attempt>(
    py: Python<'_>,
    this: Ref<'_, '_>,
    attempt: A,
    may_block: bool,
    patience: &Patience,
) -> Returned {
    let (mut operation, timeout) = Monitored::new(py, attempt, may_block, patience);
    Ok(block(py, this, &mut operation, timeout)?.into_ptr())
}

/// Does it in a task that awaits the result.
pub(super) fn run_async<A: Attempt>(
    py: Python<'_>,
    this: Ref<'_, '_>,
    attempt: A,
    block: bool,
    patience: &Patience,
    name: &'static str,
) -> Returned {
    let (operation, timeout) = Monitored::new(py, attempt, block, patience);
    Ok(awaitable(py, this, Box::new(operation), timeout, name)?.into_ptr())
}
