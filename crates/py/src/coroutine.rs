//! What a native coroutine has in common with any other: it is to a coroutine what a raw method is to a Python
//! function.
//!
//! The same from outside (`await`, `create_task`, `wait_for`, `send`, `throw`, `close`, the warning if nobody awaits
//! it), and no frame inside. What a kind of them does when it is driven is its [`Coroutine`]; it waits as every
//! coroutine does, by yielding a future to the task that drives it.

use std::ffi::{CString, c_void};

use pyo3::exceptions::{PyRuntimeWarning, PyStopIteration, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::call::call_function;
use crate::heap::{self, Arguments, Ref, Returned};
use crate::object::Obj;
use crate::returning;

/// What driving a coroutine came to.
pub(crate) enum Step {
    /// Waits for the future.
    Yield(Obj),
    Return(Obj),
    /// Returns `None`.
    Done,
}

/// A kind of native coroutine.
pub(crate) trait Coroutine {
    /// Goes on to the next wait, or to the end.
    fn step(py: Python<'_>, this: Ref<'_, '_>) -> PyResult<Step>;

    /// Goes on with an exception raised where it waits.
    fn throw(py: Python<'_>, this: Ref<'_, '_>, error: PyErr) -> PyResult<Step>;

    /// Ends it; what it waits for it leaves.
    fn close(py: Python<'_>, this: Ref<'_, '_>) -> PyResult<()>;

    /// The qualified name of the method that made it.
    fn name(this: Ref<'_, '_>) -> &'static str;
}

/// The methods that `types.CoroutineType` has, for a kind of coroutine.
macro_rules! methods {
    ($kind:ty) => {
        vec![
            $crate::heap::method!(c"send", c"send($self, value)\n--\n\nDrive the call; see types.CoroutineType.", one "value", $crate::coroutine::send::<$kind>),
            $crate::heap::method!(c"throw", c"throw($self, typ, val=None, tb=None)\n--\n\nGo on with an exception raised where the call waits.", keywords, $crate::coroutine::throw::<$kind>),
            $crate::heap::method!(c"close", c"close($self)\n--\n\nEnd the call.", noargs, $crate::coroutine::close::<$kind>),
            $crate::heap::method!(c"__await__", c"__await__($self)\n--\n\nReturn the iterator that drives the call.", noargs, $crate::coroutine::awaited),
        ]
    };
}
pub(crate) use methods;

/// The attributes of a coroutine's name, for a kind of coroutine.
macro_rules! getters {
    ($kind:ty) => {
        vec![
            $crate::heap::getter!(c"__name__", $crate::coroutine::name::<$kind>),
            $crate::heap::getter!(c"__qualname__", $crate::coroutine::qualified_name::<$kind>),
        ]
    };
}
pub(crate) use getters;

/// The slots by which `await`, `for` and a task drive it.
pub(crate) fn slots<C: Coroutine>() -> Vec<(std::ffi::c_int, *mut c_void)> {
    vec![
        (ffi::Py_am_await, itself as *mut c_void),
        (ffi::Py_am_send, send_slot::<C> as *mut c_void),
        (ffi::Py_tp_iter, itself as *mut c_void),
        (ffi::Py_tp_iternext, next::<C> as *mut c_void),
    ]
}

/// Tells `collections.abc`, which `create_task` and `asyncio.run` ask; by the name under which every interpreter has it
/// loaded at its start.
pub(crate) fn announce(class: &Bound<'_, PyType>) -> PyResult<()> {
    class
        .py()
        .import("_collections_abc")?
        .getattr("Coroutine")?
        .call_method1("register", (class,))
        .map(drop)
}

/// `__await__`, `__iter__`: the call drives itself.
unsafe extern "C" fn itself(call: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: a live object; one more reference.
    unsafe {
        ffi::Py_INCREF(call);
        call
    }
}

/// What `await` does in a Python coroutine.
unsafe extern "C" fn next<C: Coroutine>(call: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a live object.
    unsafe {
        heap::door(
            |py| match C::step(py, pyo3::Borrowed::from_ptr(py, call))? {
                Step::Yield(future) => Ok(future.into_ptr()),
                Step::Return(value) => returning::raise(py, value),
                // NULL without an exception ends an iterator whose result is `None`.
                Step::Done => Ok(std::ptr::null_mut()),
            },
        )
    }
}

/// What a task does with a call that it was made for: no exception carries the result.
unsafe extern "C" fn send_slot<C: Coroutine>(
    call: *mut ffi::PyObject,
    _value: *mut ffi::PyObject,
    result: *mut *mut ffi::PyObject,
) -> ffi::PySendResult {
    let mut answer = ffi::PySendResult::PYGEN_ERROR;
    // SAFETY: called by CPython on a live object, with a place for the result.
    unsafe {
        *result = heap::door(
            |py| match C::step(py, pyo3::Borrowed::from_ptr(py, call))? {
                Step::Yield(future) => {
                    answer = ffi::PySendResult::PYGEN_NEXT;
                    Ok(future.into_ptr())
                }
                Step::Return(value) => {
                    answer = ffi::PySendResult::PYGEN_RETURN;
                    Ok(value.into_ptr())
                }
                Step::Done => {
                    answer = ffi::PySendResult::PYGEN_RETURN;
                    heap::none(py)
                }
            },
        );
    }
    answer
}

pub(crate) fn send<C: Coroutine>(
    py: Python<'_>,
    call: Ref<'_, '_>,
    _value: Ref<'_, '_>,
) -> Returned {
    returned(py, C::step(py, call)?)
}

/// `throw(exception)`, and the old form `throw(type, value, traceback)`.
pub(crate) fn throw<C: Coroutine>(
    py: Python<'_>,
    call: Ref<'_, '_>,
    given: Arguments<'_, '_>,
) -> Returned {
    let [kind, value, traceback] = given.named_or_positional(py, "throw", ["typ", "val", "tb"])?;
    let kind = kind.ok_or_else(|| PyTypeError::new_err("throw() needs an exception"))?;
    let error = if kind.is_instance_of::<PyType>() {
        match value {
            Some(value) if value.is_instance(&kind)? => value,
            Some(value) => kind.call1((value,))?,
            None => call_function(&kind)?,
        }
    } else {
        kind
    };
    if let Some(traceback) = traceback {
        error.setattr(pyo3::intern!(py, "__traceback__"), traceback)?;
    }
    returned(py, C::throw(py, call, PyErr::from_value(error))?)
}

/// What `send` and `throw` give back or raise for a step.
fn returned(py: Python<'_>, step: Step) -> Returned {
    match step {
        Step::Yield(future) => Ok(future.into_ptr()),
        Step::Return(value) => returning::raise(py, value),
        Step::Done => Err(PyStopIteration::new_err(())),
    }
}

pub(crate) fn close<C: Coroutine>(py: Python<'_>, call: Ref<'_, '_>) -> Returned {
    C::close(py, call)?;
    heap::none(py)
}

pub(crate) fn awaited(_py: Python<'_>, call: Ref<'_, '_>) -> Returned {
    // SAFETY: a live object.
    Ok(unsafe { itself(call.as_ptr()) })
}

pub(crate) fn name<C: Coroutine>(py: Python<'_>, call: Ref<'_, '_>) -> Returned {
    let name = C::name(call);
    let name = name.rsplit('.').next().unwrap_or(name);
    Ok(name.into_pyobject(py)?.into_any().into_ptr())
}

pub(crate) fn qualified_name<C: Coroutine>(py: Python<'_>, call: Ref<'_, '_>) -> Returned {
    Ok(C::name(call).into_pyobject(py)?.into_any().into_ptr())
}

/// Says so if a call that nobody awaited is thrown away: most likely an `await` is missing.
#[cold]
pub(crate) fn never_awaited(py: Python<'_>, name: &str) {
    let pending = PyErr::take(py);
    let text = format!("coroutine '{name}' was never awaited");
    let warned = CString::new(text)
        .map_err(PyErr::from)
        .and_then(|text| PyErr::warn(py, &py.get_type::<PyRuntimeWarning>(), &text, 1));
    if let Err(error) = warned {
        error.write_unraisable(py, None);
    }
    if let Some(pending) = pending {
        pending.restore(py);
    }
}

/// The loop's future, marked as awaited: a task takes no other.
pub(crate) fn yielded(py: Python<'_>, future: Obj) -> PyResult<Step> {
    future
        .bind(py)
        .setattr(pyo3::intern!(py, "_asyncio_future_blocking"), true)?;
    Ok(Step::Yield(future))
}
