//! `Drained`: an awaitable that is done, which `drain()` gives when there is nothing to wait for.

use std::ffi::{c_int, c_void};
use std::sync::OnceLock;

use pyo3::exceptions::{PyImportError, PyTypeError};
use pyo3::prelude::*;
use pyo3::{ffi, intern};

use crate::heap::{self, Arguments, Plan, RawType, Ref, Returned, method};
use crate::object::Obj;

const HEADER: usize = 32;

#[repr(C)]
struct DoneObject([u64; HEADER / 8]);

static CLASS: OnceLock<RawType> = OnceLock::new();
/// It has no state, so one serves all.
static ONE: OnceLock<Obj> = OnceLock::new();

pub(super) fn awaitable() -> Returned {
    ONE.get()
        .map(|one| one.clone().into_ptr())
        .ok_or_else(|| PyImportError::new_err("ropewalk._core is not initialised"))
}

unsafe extern "C" fn itself(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: a live object; one more reference.
    unsafe {
        ffi::Py_INCREF(object);
        object
    }
}

/// NULL without an exception ends an iterator: `await` gives `None`.
unsafe extern "C" fn next(_object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    std::ptr::null_mut()
}

unsafe extern "C" fn send_slot(
    _object: *mut ffi::PyObject,
    _value: *mut ffi::PyObject,
    result: *mut *mut ffi::PyObject,
) -> ffi::PySendResult {
    // SAFETY: a place for the result, says the convention; `None` is immortal or counted here.
    unsafe {
        *result = ffi::Py_NewRef(ffi::Py_None());
    }
    ffi::PySendResult::PYGEN_RETURN
}

fn awaited(_py: Python<'_>, object: Ref<'_, '_>) -> Returned {
    // SAFETY: a live object.
    Ok(unsafe { itself(object.as_ptr()) })
}

fn send(_py: Python<'_>, _object: Ref<'_, '_>, _value: Ref<'_, '_>) -> Returned {
    Err(pyo3::exceptions::PyStopIteration::new_err(()))
}

fn throw(py: Python<'_>, _object: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    let [kind, value, _traceback] = given.named_or_positional(py, "throw", ["typ", "val", "tb"])?;
    let kind = kind.ok_or_else(|| PyTypeError::new_err("throw() needs an exception"))?;
    Err(match value {
        Some(value) => PyErr::from_value(value),
        None => PyErr::from_value(kind),
    })
}

fn close(py: Python<'_>, _object: Ref<'_, '_>) -> Returned {
    heap::none(py)
}

fn name(py: Python<'_>, _object: Ref<'_, '_>) -> Returned {
    Ok(intern!(py, "drain").clone().into_any().into_ptr())
}

fn qualified_name(py: Python<'_>, _object: Ref<'_, '_>) -> Returned {
    Ok(intern!(py, "StreamWriter.drain")
        .clone()
        .into_any()
        .into_ptr())
}

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    let object = py.import("builtins")?.getattr("object")?.cast_into()?;
    let raw = RawType::new(
        &object,
        Plan {
            name: c"ropewalk._core.Drained",
            doc: c"What drain() gives when there is nothing to wait for.",
            header: HEADER,
            size: size_of::<DoneObject>(),
            subclassable: false,
            methods: vec![
                method!(c"send", c"send($self, value)\n--\n\nEnd the call.", one "value", send),
                method!(
                    c"throw",
                    c"throw($self, typ, val=None, tb=None)\n--\n\nRaise the exception.",
                    keywords,
                    throw
                ),
                method!(
                    c"close",
                    c"close($self)\n--\n\nEnd the call.",
                    noargs,
                    close
                ),
                method!(
                    c"__await__",
                    c"__await__($self)\n--\n\nReturn an iterator that is done.",
                    noargs,
                    awaited
                ),
            ],
            getters: vec![
                heap::getter!(c"__name__", name),
                heap::getter!(c"__qualname__", qualified_name),
            ],
            dealloc,
            traverse,
            clear,
            slots: vec![
                (ffi::Py_am_await, itself as *mut c_void),
                (ffi::Py_am_send, send_slot as *mut c_void),
                (ffi::Py_tp_iter, itself as *mut c_void),
                (ffi::Py_tp_iternext, next as *mut c_void),
            ],
        },
    )?;
    let raw = CLASS.get_or_init(|| raw);
    // SAFETY: a ready heap type.
    let one = unsafe { Obj::from_owned(ffi::PyType_GenericAlloc(raw.as_ptr(), 0)) };
    let one = one.ok_or_else(|| PyErr::fetch(py))?;
    drop(ONE.set(one));
    py.import("collections.abc")?
        .getattr("Coroutine")?
        .call_method1("register", (raw.bind(py),))?;
    Ok(())
}

/// Never called: the one object lives as long as the process.
unsafe extern "C" fn dealloc(object: *mut ffi::PyObject) {
    // SAFETY: as every `dealloc` of a heap type with the collector's header ends.
    unsafe {
        let class = ffi::Py_TYPE(object);
        ffi::PyObject_GC_UnTrack(object.cast());
        ffi::PyObject_GC_Del(object.cast());
        ffi::Py_DECREF(class.cast());
    }
}

unsafe extern "C" fn traverse(
    object: *mut ffi::PyObject,
    visit: ffi::visitproc,
    arg: *mut c_void,
) -> c_int {
    // SAFETY: the collector's own function, on a live object's type.
    unsafe { visit(ffi::Py_TYPE(object).cast(), arg) }
}

unsafe extern "C" fn clear(_object: *mut ffi::PyObject) -> c_int {
    0
}
