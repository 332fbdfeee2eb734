//! The exceptions of a queue.

use std::sync::OnceLock;

use pyo3::exceptions::PyImportError;
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::object::Obj;

/// The classes `Empty`, `Full` and `ShutDown`, as the face has them.
static CLASSES: [OnceLock<Obj>; 3] = [const { OnceLock::new() }; 3];

/// Makes them known.
pub(super) fn know(classes: [Bound<'_, PyType>; 3]) {
    for (place, class) in CLASSES.iter().zip(classes) {
        place.get_or_init(|| class.into());
    }
}

fn raised(py: Python<'_>, which: usize) -> PyErr {
    match CLASSES[which].get().map(|class| class.bind(py).call0()) {
        Some(Ok(value)) => PyErr::from_value(value),
        Some(Err(error)) => error,
        None => PyImportError::new_err("ropewalk.queue is not imported"),
    }
}

#[cold]
pub(super) fn empty(py: Python<'_>) -> PyErr {
    raised(py, 0)
}

#[cold]
pub(super) fn full(py: Python<'_>) -> PyErr {
    raised(py, 1)
}

#[cold]
pub(super) fn shut_down(py: Python<'_>) -> PyErr {
    raised(py, 2)
}
