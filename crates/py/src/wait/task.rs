//! What asyncio knows of the coroutine that runs just now.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::call::call_function;
use crate::object::Obj;

/// A function of asyncio's C module.
fn of_asyncio<'py>(
    py: Python<'py>,
    place: &'static PyOnceLock<Py<PyAny>>,
    name: &str,
) -> PyResult<&'static Py<PyAny>> {
    place.get_or_try_init(py, || Ok(py.import("_asyncio")?.getattr(name)?.unbind()))
}

/// The event loop that runs in this thread.
///
/// # Errors
/// `RuntimeError` if there is none.
pub(super) fn running_loop(py: Python<'_>) -> PyResult<Obj> {
    static GET: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let get = of_asyncio(py, &GET, "get_running_loop")?;
    Ok(call_function(get.bind(py))?.into())
}

/// The task that runs in this thread; `None` if there is none, or no event loop.
#[inline]
pub(crate) fn current_task(py: Python<'_>) -> Option<Obj> {
    static CURRENT: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    // A function in C from Python 3.12 on, which raises where no event loop runs.
    let current = CURRENT.get_or_try_init(py, || {
        let module = py.import("asyncio.tasks")?;
        PyResult::Ok(module.getattr("current_task")?.unbind())
    });
    let task = call_function(current.ok()?.bind(py)).ok()?;
    (!task.is_none()).then(|| task.into())
}
