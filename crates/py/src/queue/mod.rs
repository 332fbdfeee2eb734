//! `queue`'s classes, for threads and tasks at once.
//!
//! | module | |
//! |---|---|
//! | `simple` | `SimpleQueue`: a native channel |
//! | `object` | what a `Queue` holds, and the attributes by which programs look into it |
//! | `container` | its items, in a real `deque` or `list` |
//! | `monitor` | its mutex and its three conditions |
//! | `operation` | `put`, `get`, `join`: try with the mutex held, or wait in line |
//! | `methods` | the same as methods, and those that do not wait |
//! | `arguments`, `timeouts`, `raised` | what is given, and what is refused |
//!
//! A queue is a monitor, as the original is: whoever holds `q.mutex` excludes everybody else, Python code as well as this
//! one. With the GIL and no Python code to run (no hook of a subclass, no comparison), the mutex is taken and let go
//! within one call of `put` or `get`, and nobody ever finds it held.

mod arguments;
mod container;
mod methods;
mod monitor;
mod object;
mod operation;
mod raised;
mod simple;
mod timeouts;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::native::{self, Description};

/// Makes the classes of the face known: three kinds of queues, `Empty`, `Full`, `ShutDown`, and the
/// class of a queue's conditions.
#[pyfunction]
fn _know_queues(
    queue: &Bound<'_, PyType>,
    lifo: &Bound<'_, PyType>,
    priority: &Bound<'_, PyType>,
    empty: Bound<'_, PyType>,
    full: Bound<'_, PyType>,
    shut_down: Bound<'_, PyType>,
    condition: Bound<'_, PyType>,
) -> PyResult<()> {
    monitor::know(condition.into());
    raised::know([empty, full, shut_down]);
    container::know(queue, lifo, priority)
}

/// `__class_getitem__`: `Queue[int]`.
fn class_getitem() -> ffi::PyMethodDef {
    crate::heap::definition(
        c"__class_getitem__",
        c"__class_getitem__($cls, item, /)\n--\n\nSee PEP 585.",
        ffi::PyMethodDefPointer {
            PyCFunction: ffi::Py_GenericAlias,
        },
        ffi::METH_O | ffi::METH_CLASS,
    )
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(_know_queues, module)?)?;
    simple::register(module)?;
    native::register::<object::Queue>(
        module,
        Description {
            name: c"ropewalk._core.Queue",
            doc: c"Queue(maxsize=0)\n--\n\nThe native half of ropewalk.queue.Queue.",
            methods: methods::methods(),
            getters: object::getters(),
            slots: methods::slots(),
        },
    )
}
