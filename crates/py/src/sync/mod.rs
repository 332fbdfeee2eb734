//! The primitives: `threading`'s names on the [wait queue](ropewalk_wait), for threads and tasks at once.
//!
//! Each is a [native](crate::native) type. A method first tries without waiting, which is all that an uncontended
//! call does; only then it makes an [operation](crate::wait::Operation), to block on or to be awaited.

mod acquire;
mod arguments;
mod barrier;
mod condition;
mod deadline;
mod event;
mod holder;
mod inside;
mod lock;
mod rlock;
mod semaphore;
mod waiters;

pub(crate) use condition::Condition;
pub(crate) use holder::{Held, Holder};
pub(crate) use lock::Lock;

use pyo3::call::PyCallArgs;
use pyo3::prelude::*;

use crate::heap::Returned;

/// Makes the types.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    lock::register(module)?;
    rlock::register(module)?;
    condition::register(module)?;
    event::register(module)?;
    semaphore::register(module)?;
    barrier::register(module)
}

/// A named tuple of `ropewalk._statistics`, from what a primitive knows of itself: threads are given by their
/// identifiers, tasks as they are.
pub(crate) fn look<'py>(py: Python<'py>, class: &str, known: impl PyCallArgs<'py>) -> Returned {
    let class = py.import("ropewalk._statistics")?.getattr(class)?;
    Ok(class.call_method1("of", known)?.into_ptr())
}
