//! The exceptions of a queue.

use std::ptr;
use std::sync::OnceLock;

use pyo3::exceptions::PyImportError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::heap::Returned;
use crate::object::Obj;

/// The classes `Empty`, `Full` and `ShutDown`, as the face has them.
static CLASSES: [OnceLock<Obj>; 3] = [const { OnceLock::new() }; 3];

/// Makes them known.
pub(super) fn know(classes: [Bound<'_, PyType>; 3]) {
    for (place, class) in CLASSES.iter().zip(classes) {
        place.get_or_init(|| class.into());
    }
}

/// One of the exceptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Raised {
    Empty,
    Full,
    ShutDown,
}

impl Raised {
    fn class(self) -> Option<&'static Obj> {
        CLASSES[self as usize].get()
    }

    /// As an error that can be kept.
    #[cold]
    pub(super) fn error(self, py: Python<'_>) -> PyErr {
        match self.class().map(|class| class.bind(py).call0()) {
            Some(Ok(value)) => PyErr::from_value(value),
            Some(Err(error)) => error,
            None => PyImportError::new_err("ropewalk.queue is not imported"),
        }
    }

    /// Raises it as a method's answer, at once: programs poll queues by it.
    #[inline]
    pub(super) fn answer(self, py: Python<'_>) -> Returned {
        match self.class() {
            // SAFETY: attached; a live class of exceptions. NULL with an exception set is what CPython expects.
            Some(class) => unsafe {
                ffi::PyErr_SetNone(class.as_ptr());
                Ok(ptr::null_mut())
            },
            None => Err(self.error(py)),
        }
    }
}
