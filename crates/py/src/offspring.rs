//! The loop's futures and tasks: asyncio's own C types, made as cheaply as they can be.
//!
//! Both ask the loop for its debug mode, so that is here, too. Naming the loop by keyword costs a tenth of a
//! task, for CPython builds a dictionary and takes it apart again. It can be left out where asyncio finds
//! the same loop by itself, as the one that runs in this thread, which is nearly always.

use std::sync::atomic::Ordering;

use pyo3::exceptions::PyAttributeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyString, PyTuple};
use pyo3::{ffi, intern};

use crate::call::{borrowed, call_function};
use crate::eventloop::{Loop, delegate};
use crate::heap::{self, Arguments, Ref, Returned};

/// A class of asyncio's, by the name under which programs and tests replace it.
struct Class {
    /// The module's names.
    names: Py<PyDict>,
    /// The original, in C.
    original: Py<PyAny>,
}

impl Class {
    fn import(py: Python<'_>, module: &str, class: &Bound<'_, PyString>) -> PyResult<Self> {
        Ok(Self {
            names: py.import(module)?.dict().unbind(),
            original: py.import("_asyncio")?.getattr(class)?.unbind(),
        })
    }

    /// What the name means now.
    #[inline]
    fn now<'py>(
        &self,
        py: Python<'py>,
        class: &Bound<'py, PyString>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.names.bind(py).get_item(class)?.ok_or_else(|| {
            PyAttributeError::new_err(format!("asyncio has no class '{class}' any more"))
        })
    }

    /// Whether `class`, called without a loop, finds `this` by itself.
    #[inline]
    fn finds_loop(&self, class: &Bound<'_, PyAny>, this: Ref<'_, '_>) -> PyResult<bool> {
        static RUNNING: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let py = class.py();
        if !class.is(&self.original) {
            return Ok(false);
        }
        let running = RUNNING.get_or_try_init(py, || {
            PyResult::Ok(
                py.import("_asyncio")?
                    .getattr("_get_running_loop")?
                    .unbind(),
            )
        })?;
        Ok(call_function(running.bind(py))?.is(this))
    }
}

/// A `Task` of this loop: `asyncio.Task(coro, loop=self, ...)`, with the keywords as they came.
pub(crate) fn create_task(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    static TASK: PyOnceLock<Class> = PyOnceLock::new();
    let owner = Loop::of(this);
    owner.check_open()?;
    let &[coroutine] = given.positional() else {
        return delegate(py, this, intern!(py, "_plain_create_task"), given);
    };
    if owner.debug() || owner.makes_own_tasks.load(Ordering::Relaxed) {
        return delegate(py, this, intern!(py, "_plain_create_task"), given);
    }
    let name = intern!(py, "Task");
    let cached = TASK.get_or_try_init(py, || Class::import(py, "asyncio.tasks", name))?;
    let class = cached.now(py, name)?;
    if given.all().len() == 1 && cached.finds_loop(&class, this)? {
        // SAFETY: live objects; the coroutine is an argument of the call that is being served.
        return unsafe {
            let task = ffi::PyObject_CallOneArg(class.as_ptr(), borrowed(py, coroutine).as_ptr());
            Ok(Bound::from_owned_ptr_or_err(py, task)?.into_ptr())
        };
    }
    let names = PyTuple::new(py, [intern!(py, "loop")])?;
    given.call_with(py, &class, &names, this)
}

/// A `Future` of this loop.
pub(crate) fn create_future(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    static FUTURE: PyOnceLock<Class> = PyOnceLock::new();
    let name = intern!(py, "Future");
    let cached = FUTURE.get_or_try_init(py, || Class::import(py, "asyncio.futures", name))?;
    let class = cached.now(py, name)?;
    if cached.finds_loop(&class, this)? {
        return Ok(call_function(&class)?.into_ptr());
    }
    let by_name = PyDict::new(py);
    by_name.set_item(intern!(py, "loop"), this)?;
    Ok(class.call((), Some(&by_name))?.into_ptr())
}

/// Whether the loop is in debug mode; asked by each new future and task.
pub(crate) fn get_debug(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    heap::boolean(py, Loop::of(this).debug())
}
