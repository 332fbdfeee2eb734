//! The standard library's own exceptions, logger and condition, which ours raise, use and are.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyString};

use crate::call::call_function;
use crate::object::Obj;

static BASE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();

/// A name of `concurrent.futures._base`.
fn base<'py>(py: Python<'py>, name: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyAny>> {
    BASE.get_or_try_init(py, || {
        py.import("concurrent.futures._base").map(Bound::unbind)
    })?
    .bind(py)
    .getattr(name)
}

fn raised(made: PyResult<Bound<'_, PyAny>>) -> PyErr {
    made.map_or_else(|error| error, PyErr::from_value)
}

/// `CancelledError()`.
#[cold]
pub(super) fn cancelled(py: Python<'_>) -> PyErr {
    raised(base(py, intern!(py, "CancelledError")).and_then(|class| class.call0()))
}

/// `InvalidStateError(text)`.
#[cold]
pub(super) fn invalid_state(py: Python<'_>, text: &str) -> PyErr {
    raised(base(py, intern!(py, "InvalidStateError")).and_then(|class| class.call1((text,))))
}

/// A condition variable of the standard library, or of whoever has put another in its place.
pub(super) fn condition(py: Python<'_>) -> PyResult<Obj> {
    static THREADING: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    let threading = THREADING.get_or_try_init(py, || py.import("threading").map(Bound::unbind))?;
    let class = threading.bind(py).getattr(intern!(py, "Condition"))?;
    Ok(call_function(&class)?.into())
}

/// Logs an exception with its traceback, as the package's logger does.
#[cold]
pub(super) fn log_exception(
    py: Python<'_>,
    level: &str,
    text: &str,
    about: &[Bound<'_, PyAny>],
    error: PyErr,
) {
    let logged = (|| {
        let named = PyDict::new(py);
        named.set_item("exc_info", error.into_value(py))?;
        let mut args = vec![PyString::new(py, text).into_any()];
        args.extend(about.iter().cloned());
        let args = pyo3::types::PyTuple::new(py, args)?;
        base(py, intern!(py, "LOGGER"))?.call_method(level, args, Some(&named))
    })();
    if let Err(error) = logged {
        error.write_unraisable(py, None);
    }
}

/// Logs a line.
#[cold]
pub(super) fn log_critical<'py>(
    py: Python<'py>,
    args: impl pyo3::call::PyCallArgs<'py>,
) -> PyResult<()> {
    base(py, intern!(py, "LOGGER"))?
        .call_method1(intern!(py, "critical"), args)
        .map(drop)
}
