//! The arguments that a call was submitted with. Up to three by position are kept without a tuple.

use pyo3::prelude::*;

use crate::call::{Args, call_named};
use crate::heap::Arguments;
use crate::object::Obj;

pub(super) enum Given {
    Positional(Args),
    /// The last values are those by name; `names` is a tuple.
    Named {
        values: Box<[Obj]>,
        names: Obj,
    },
}

impl Given {
    /// What follows the first `count` arguments of a call that is being served.
    #[inline]
    pub(super) fn after(py: Python<'_>, given: Arguments<'_, '_>, count: usize) -> PyResult<Self> {
        let values = given.all().get(count..).unwrap_or_default();
        // SAFETY: arguments of a call that is being served.
        let keep = |object: &*mut pyo3::ffi::PyObject| unsafe { Obj::from_borrowed(*object) };
        Ok(match given.names() {
            // SAFETY: as above.
            None => Self::Positional(unsafe { Args::of(py, values)? }),
            Some(names) => Self::Named {
                values: values.iter().map(keep).collect(),
                names: keep(&names),
            },
        })
    }

    #[inline]
    pub(super) fn call<'py>(&self, py: Python<'py>, function: &Obj) -> PyResult<Bound<'py, PyAny>> {
        match self {
            Self::Positional(args) => args.call(py, function),
            Self::Named { values, names } => call_named(py, function, values, names),
        }
    }
}
