//! Those who wait at a primitive: showing them to the collector and to `statistics()`, and waking a crowd of them.

use std::ffi::c_int;

use pyo3::prelude::*;
use ropewalk_wait::line::Call;
use ropewalk_wait::{Line, Ticket};

use crate::guard::Guarded;
use crate::object::Obj;
use crate::wait::{Waiter, call_all};

/// Shows who waits to the collector.
pub(super) fn visit<T>(
    state: &Guarded<T>,
    line: impl FnOnce(&T) -> &Line<Waiter>,
    visit: &mut dyn FnMut(&Obj) -> c_int,
) -> c_int {
    let answer = state.try_look(|state| {
        line(state)
            .iter()
            .map(|waiter| waiter.visit(visit))
            .find(|answer| *answer != 0)
    });
    answer.flatten().unwrap_or(0)
}

/// Who waits, the first to come first: threads by their identifiers, and tasks.
pub(super) fn list<T>(
    py: Python<'_>,
    state: &Guarded<T>,
    line: impl FnOnce(&T) -> &Line<Waiter>,
) -> PyResult<Vec<Obj>> {
    let waiters: Vec<Waiter> = state.with(py, |state| line(state).iter().cloned().collect());
    waiters.iter().map(|waiter| waiter.who(py)).collect()
}

/// Wakes all who were called at once.
#[inline]
pub(super) fn wake<T>(
    py: Python<'_>,
    called: Vec<Call<Waiter>>,
    state: &Guarded<T>,
    line: impl Fn(&mut T) -> &mut Line<Waiter>,
) {
    if called.is_empty() {
        return;
    }
    let mut called = called.into_iter();
    let gone = |ticket: &Ticket| {
        state.with(py, |state| {
            line(state).leave(ticket);
        });
    };
    call_all(called.next(), gone, || called.next());
}
