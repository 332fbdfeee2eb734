//! `AsyncMethod`: a method that one awaits, called as fast as a built-in one.
//!
//! It must be more than a built-in method: mocks, signatures and documentation tools ask whether
//! `StreamReader.read` is a coroutine function, and what its code and its defaults are. Whatever is asked of an
//! `AsyncMethod` but to be called, the coroutine function that it stands for answers.

use std::ffi::{c_int, c_void};
use std::sync::OnceLock;

use pyo3::exceptions::{PyAttributeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyString;
use pyo3::{Borrowed, ffi};

use super::methods::begin;
use crate::heap::{self, Arguments, DISALLOW_INSTANTIATION};
use crate::object::Obj;

#[repr(C)]
struct AsyncMethod {
    header: ffi::PyObject,
    call: ffi::vectorcallfunc,
    kind: Kind,
    /// The coroutine function that it stands for.
    wrapped: *mut ffi::PyObject,
}

/// Which method it is.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Read,
    ReadExactly,
    ReadUntil,
    ReadLine,
    Next,
    Drain,
}

impl Kind {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "read" => Self::Read,
            "readexactly" => Self::ReadExactly,
            "readuntil" => Self::ReadUntil,
            "readline" => Self::ReadLine,
            "__anext__" => Self::Next,
            "drain" => Self::Drain,
            _ => return None,
        })
    }
}

unsafe extern "C" fn call(
    callable: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: usize,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on one of our methods, by the vectorcall convention (PEP 590).
    unsafe {
        let method = &*callable.cast::<AsyncMethod>();
        let count = ffi::PyVectorcall_NARGS(count);
        heap::door(|py| {
            if count < 1 {
                return Err(PyTypeError::new_err(
                    "a method of a stream needs the stream it is called on",
                ));
            }
            let this = Borrowed::from_ptr(py, *values);
            let given = Arguments::new(py, values.add(1), count - 1, names);
            begin(
                py,
                method.kind,
                Borrowed::from_ptr(py, method.wrapped),
                this,
                given,
            )
        })
    }
}

static METHOD: OnceLock<Obj> = OnceLock::new();

unsafe extern "C" {
    /// Documented in CPython's "Method Objects"; PyO3 does not pass it on.
    fn PyMethod_New(
        function: *mut ffi::PyObject,
        instance: *mut ffi::PyObject,
    ) -> *mut ffi::PyObject;
}

/// A method like the built-in ones: `instance.method(...)` makes no bound method first.
unsafe extern "C" fn bind(
    method: *mut ffi::PyObject,
    instance: *mut ffi::PyObject,
    _class: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on live objects; no instance is NULL or None.
    unsafe {
        if instance.is_null() || instance == ffi::Py_None() {
            return ffi::Py_NewRef(method);
        }
        PyMethod_New(method, instance)
    }
}

/// What is asked of the method is answered by the function that it stands for.
unsafe extern "C" fn attribute(
    method: *mut ffi::PyObject,
    name: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on live objects.
    unsafe {
        heap::door(|py| {
            let wrapped = (*method.cast::<AsyncMethod>()).wrapped;
            let wrapped = Borrowed::from_ptr(py, wrapped);
            let name: Borrowed<'_, '_, PyAny> = Borrowed::from_ptr(py, name);
            let text = name.cast::<PyString>()?;
            if text == "__wrapped__" {
                return Ok(wrapped.to_owned().into_ptr());
            }
            if text != "__class__" {
                match wrapped.getattr(text.to_owned()) {
                    Ok(value) => return Ok(value.into_ptr()),
                    Err(error) if error.is_instance_of::<PyAttributeError>(py) => {}
                    Err(error) => return Err(error),
                }
            }
            let value = ffi::PyObject_GenericGetAttr(method, name.as_ptr());
            Ok(Bound::from_owned_ptr_or_err(py, value)?.into_ptr())
        })
    }
}

unsafe extern "C" fn method_dealloc(method: *mut ffi::PyObject) {
    // SAFETY: CPython calls this once, attached; the type was made by `PyType_FromSpec`, so the object owns a
    // reference to it.
    unsafe {
        let class = ffi::Py_TYPE(method);
        ffi::Py_DECREF((*method.cast::<AsyncMethod>()).wrapped);
        ffi::PyObject_Free(method.cast());
        ffi::Py_DECREF(class.cast());
    }
}

fn method_class(py: Python<'_>) -> PyResult<&'static Obj> {
    if let Some(class) = METHOD.get() {
        return Ok(class);
    }
    let offset = ffi::PyMemberDef {
        name: c"__vectorcalloffset__".as_ptr(),
        type_code: ffi::Py_T_PYSSIZET,
        offset: std::mem::offset_of!(AsyncMethod, call).cast_signed(),
        flags: ffi::Py_READONLY,
        doc: std::ptr::null(),
    };
    // SAFETY: an all-zero definition ends a table.
    let members = Vec::leak(vec![offset, unsafe { std::mem::zeroed() }]);
    let slot = |slot, pfunc| ffi::PyType_Slot { slot, pfunc };
    let slots = Vec::leak(vec![
        slot(ffi::Py_tp_members, members.as_mut_ptr().cast()),
        slot(ffi::Py_tp_call, ffi::PyVectorcall_Call as *mut c_void),
        slot(ffi::Py_tp_descr_get, bind as *mut c_void),
        slot(ffi::Py_tp_getattro, attribute as *mut c_void),
        slot(ffi::Py_tp_dealloc, method_dealloc as *mut c_void),
        slot(0, std::ptr::null_mut()),
    ]);
    let flags = ffi::Py_TPFLAGS_DEFAULT
        | ffi::Py_TPFLAGS_HAVE_VECTORCALL
        | ffi::Py_TPFLAGS_METHOD_DESCRIPTOR
        | DISALLOW_INSTANTIATION;
    let mut spec = ffi::PyType_Spec {
        name: c"ropewalk._core.AsyncMethod".as_ptr(),
        basicsize: c_int::try_from(size_of::<AsyncMethod>())?,
        itemsize: 0,
        flags: u32::try_from(flags)?,
        slots: slots.as_mut_ptr(),
    };
    // SAFETY: the tables are complete, ended, and leaked, for the type points at them.
    let class = unsafe { Obj::from_owned(ffi::PyType_FromSpec(&raw mut spec)) };
    let class = class.ok_or_else(|| PyErr::fetch(py))?;
    Ok(METHOD.get_or_init(|| class))
}

/// The native form of `wrapped`, a coroutine function of `StreamReader` or `StreamWriter`, by its name.
#[pyfunction]
fn _async_method<'py>(wrapped: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = wrapped.py();
    let name: String = wrapped.getattr("__name__")?.extract()?;
    let kind = Kind::named(&name)
        .ok_or_else(|| PyValueError::new_err(format!("{name}() has no native form")))?;
    let class = method_class(py)?.as_ptr().cast::<ffi::PyTypeObject>();
    // SAFETY: a ready heap type; every field behind the header is written before anybody sees the object.
    unsafe {
        let object = ffi::PyType_GenericAlloc(class, 0);
        let made = Bound::from_owned_ptr_or_err(py, object)?;
        let method = object.cast::<AsyncMethod>();
        (&raw mut (*method).call).write(call);
        (&raw mut (*method).kind).write(kind);
        (&raw mut (*method).wrapped).write(ffi::Py_NewRef(wrapped.as_ptr()));
        Ok(made)
    }
}

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(_async_method, module)?)
}
