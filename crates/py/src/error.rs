//! The one map from the system's errors to Python's exceptions.

use std::io;

use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;

/// `OSError(errno, strerror(errno))`, from which Python itself makes `ConnectionResetError` and its like.
///
/// PyO3's own conversion leaves `errno` out, which programs look at.
#[cold]
pub(crate) fn os_error(py: Python<'_>, error: &io::Error) -> PyErr {
    let Some(number) = error.raw_os_error() else {
        return PyOSError::new_err(error.to_string());
    };
    let text = py
        .import("os")
        .and_then(|os| os.call_method1("strerror", (number,))?.extract::<String>())
        .unwrap_or_else(|_| error.to_string());
    PyOSError::new_err((number, text))
}
