//! A queue's mutex and its three conditions: `q.mutex`, `q.not_empty`, `q.not_full`, `q.all_tasks_done`.
//!
//! They are what `ropewalk.threading` has, so that programs may hold and wait for them; and they are made when they
//! are first needed. A condition that nobody has made has nobody waiting.
//!
//! A notification is granted to one waiter, as `Condition` does it, for anybody may stand in these lines. One of ours
//! that was granted it, and finds that somebody else has been faster, goes back to its place.

use std::ffi::c_int;
use std::sync::OnceLock;
use std::task::Poll;

use pyo3::exceptions::{PyImportError, PyTypeError};
use pyo3::prelude::*;
use ropewalk_sys::clock::{self, Nanos, SECOND};
use ropewalk_wait::{Left, Line, Ticket};

use super::object::Queue;
use crate::heap::Ref;
use crate::native::{self, Body};
use crate::object::Obj;
use crate::sync::{Condition, Held, Holder, Lock};
use crate::wait::{self, Operation, Timeout, Waiter, block};

/// One of the conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    NotEmpty,
    NotFull,
    AllDone,
}

/// An event loop's thread blocks for so long for a mutex: longer than the interpreter lets a thread wait for the GIL,
/// shorter than anybody notices.
const MOMENT: Nanos = SECOND / 100;

/// Takes a queue's mutex for the calling thread. False: it was held for longer than a moment.
#[cold]
fn take_soon(py: Python<'_>, target: Ref<'_, '_>) -> PyResult<bool> {
    let deadline = Timeout::At(clock::now() + MOMENT);
    block(py, target, &mut Taking::default(), deadline)?
        .bind(py)
        .is_truthy()
}

/// `acquire` of a queue's mutex.
#[derive(Default)]
struct Taking(Option<Ticket>);

impl Operation for Taking {
    fn poll(&mut self, py: Python<'_>, target: Ref<'_, '_>, who: &Waiter) -> PyResult<Poll<Obj>> {
        let held = Queue::of(target).monitor.held(py)?;
        if held.poll(py, &mut self.0, who, &Holder::thread()) {
            return wait::ready(py, true);
        }
        Ok(Poll::Pending)
    }

    fn expire(&mut self, py: Python<'_>, target: Ref<'_, '_>) -> PyResult<Option<Obj>> {
        self.leave(py, target);
        Ok(Some(wait::boolean(py, false)))
    }

    fn leave(&mut self, py: Python<'_>, target: Ref<'_, '_>) -> bool {
        if let Some(place) = self.0.take() {
            Queue::of(target).monitor.leave_lock(py, &place);
        }
        true
    }
}

#[derive(Default)]
pub(super) struct Monitor {
    mutex: OnceLock<Obj>,
    conditions: [OnceLock<Obj>; 3],
}

/// The class of the conditions.
static CONDITION: OnceLock<Obj> = OnceLock::new();

/// Makes the class known, which is derived from the native one.
pub(super) fn know(class: Obj) {
    CONDITION.get_or_init(|| class);
}

/// What is in the place, or is put there now. Made before it is put there: making it may run Python code, in which
/// another thread comes here, too.
#[inline]
fn made(place: &OnceLock<Obj>, make: impl FnOnce() -> PyResult<Obj>) -> PyResult<&Obj> {
    match place.get() {
        Some(object) => Ok(object),
        None => {
            let object = make()?;
            Ok(place.get_or_init(|| object))
        }
    }
}

impl Monitor {
    #[inline]
    pub(super) fn mutex(&self, py: Python<'_>) -> PyResult<&Obj> {
        made(&self.mutex, || native::make::<Lock>(py))
    }

    #[inline]
    fn held(&self, py: Python<'_>) -> PyResult<&Held> {
        let mutex = self.mutex(py)?.bind(py);
        // SAFETY: made above as an instance of the type.
        Ok(unsafe { native::body::<Lock>(mutex) }.held())
    }

    pub(super) fn condition(&self, py: Python<'_>, which: Which) -> PyResult<&Obj> {
        made(&self.conditions[which as usize], || {
            let class = CONDITION
                .get()
                .ok_or_else(|| PyImportError::new_err("ropewalk.queue is not imported"))?;
            let made = class.bind(py).call1((self.mutex(py)?.bind(py),))?;
            let native = Condition::class().get().map(|class| class.bind(py));
            if !native.is_some_and(|class| made.is_instance(&class).unwrap_or(false)) {
                return Err(PyTypeError::new_err("a queue's conditions are native ones"));
            }
            Ok(made.into())
        })
    }

    /// The condition, if there is one.
    #[inline]
    fn known(&self, py: Python<'_>, which: Which) -> Option<&Condition> {
        let condition = self.conditions[which as usize].get()?;
        // SAFETY: `condition` checked the type.
        Some(unsafe { native::body::<Condition>(condition.bind(py)) })
    }

    /// Takes the mutex if it is free.
    #[inline]
    pub(super) fn try_lock(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.held(py)?.take(py))
    }

    /// Whether nobody holds the mutex.
    #[inline]
    pub(super) fn is_free(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(!self.held(py)?.is_held(py))
    }

    /// Takes the mutex for a waiter, or gives it a place. A task holds it in its thread's name: it lets go before it does
    /// anything else.
    ///
    /// A mutex that is granted to a task is out of everybody's reach until its event loop comes round to the task. So a
    /// task blocks its thread at first, as for any guard: whoever holds the mutex lets go in a moment. It stands
    /// in line only if that was a long moment, or if a task holds the mutex, which may wait for the loop itself.
    ///
    /// # Errors
    /// What a signal handler raises.
    pub(super) fn poll_lock(
        &self,
        py: Python<'_>,
        target: Ref<'_, '_>,
        place: &mut Option<Ticket>,
        who: &Waiter,
    ) -> PyResult<bool> {
        let held = self.held(py)?;
        if matches!(who, Waiter::Task(_)) && place.is_none() {
            if held.take(py) {
                return Ok(true);
            }
            if !Holder::is_task(held.holder()) && take_soon(py, target)? {
                return Ok(true);
            }
        }
        Ok(held.poll(py, place, who, &Holder::thread()))
    }

    /// Gives up a place in the mutex's line.
    pub(super) fn leave_lock(&self, py: Python<'_>, place: &Ticket) {
        if let Ok(held) = self.held(py) {
            held.leave(py, place);
        }
    }

    /// Lets the mutex go.
    #[inline]
    pub(super) fn unlock(&self, py: Python<'_>) {
        if let Ok(held) = self.held(py) {
            // Somebody else may have let go of it, from whom nothing keeps it.
            let _ = held.free(py);
        }
    }

    /// Notifies one who waits.
    pub(super) fn notify(&self, py: Python<'_>, which: Which) {
        if let Some(condition) = self.known(py, which) {
            condition.notify_one(py);
        }
    }

    /// Notifies one who waits, and lets the mutex go before waking it.
    #[inline]
    pub(super) fn notify_unlocking(&self, py: Python<'_>, which: Which) {
        let condition = self.known(py, which);
        let call = condition.and_then(|condition| condition.line().with(py, Line::grant));
        self.unlock(py);
        if call.is_some()
            && let Some(condition) = condition
        {
            condition.call_all(py, call);
        }
    }

    /// Notifies all who wait.
    pub(super) fn notify_all(&self, py: Python<'_>, which: Which) {
        if let Some(condition) = self.known(py, which) {
            condition.notify_everybody(py);
        }
    }

    /// Takes a place in a condition's line, or keeps it.
    pub(super) fn wait(
        &self,
        py: Python<'_>,
        which: Which,
        place: &mut Option<Ticket>,
        who: &Waiter,
    ) -> PyResult<()> {
        self.condition(py, which)?;
        if let Some(condition) = self.known(py, which) {
            condition.line().with(py, |line| {
                if let Some(ticket) = place.as_ref().filter(|ticket| line.knows(ticket)) {
                    line.put_back(ticket);
                } else {
                    *place = Some(line.join(who.clone()));
                }
            });
        }
        Ok(())
    }

    /// Gives up a place in a condition's line.
    pub(super) fn leave(&self, py: Python<'_>, which: Which, place: &Ticket) -> Left {
        self.known(py, which).map_or(Left::Unknown, |condition| {
            condition.line().with(py, |line| line.leave(place))
        })
    }

    /// Who waits.
    pub(super) fn waiters(&self, py: Python<'_>, which: Which) -> PyResult<Vec<Obj>> {
        self.known(py, which)
            .map_or_else(|| Ok(Vec::new()), |condition| condition.waiters(py))
    }

    /// Shows what it holds to the collector.
    pub(super) fn visit(&self, visit: &mut dyn FnMut(&Obj) -> c_int) -> c_int {
        self.conditions
            .iter()
            .chain([&self.mutex])
            .filter_map(OnceLock::get)
            .map(visit)
            .find(|answer| *answer != 0)
            .unwrap_or(0)
    }
}
