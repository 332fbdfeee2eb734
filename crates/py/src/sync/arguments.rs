//! The arguments of a call that come as a tuple and a dict, as `__init__`'s do.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};

use crate::heap::place_by_name;

/// The values of a function's parameters, given either way; nothing for one that was left out.
///
/// # Errors
/// `TypeError` for too many values, an unknown name, or a parameter given twice.
pub(super) fn parameters<'py, const N: usize>(
    args: &Bound<'py, PyTuple>,
    kwargs: Option<&Bound<'py, PyDict>>,
    function: &str,
    names: [&str; N],
) -> PyResult<[Option<Bound<'py, PyAny>>; N]> {
    let mut found = [const { None }; N];
    if args.len() > N {
        return Err(PyTypeError::new_err(format!(
            "{function}() takes at most {} positional arguments but {} were given",
            N + 1,
            args.len() + 1
        )));
    }
    for (place, value) in found.iter_mut().zip(args.iter()) {
        *place = Some(value);
    }
    for (name, value) in kwargs.into_iter().flatten() {
        let name = name.cast::<PyString>()?.to_str()?;
        place_by_name(&mut found, &names, function, name, value)?;
    }
    Ok(found)
}
