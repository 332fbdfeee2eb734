//! What `async with` awaits when there is nothing to wait for: one object for all, which is always done.
//!
//! A lock that is free is taken, and one that is let go is free, as soon as `__aenter__` or `__aexit__` is called: nothing can
//! come between the call and the await. So both give this, and `async with` costs no object.

use std::ffi::{c_int, c_void};
use std::sync::OnceLock;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::coroutine::{self, Coroutine, Step};
use crate::heap::{Plan, RawType, Ref, Returned};

/// Room for an instance of `object`: 16 bytes, 32 free-threaded.
const HEADER: usize = 32;

/// An awaitable whose result is `None`, now and whenever it is awaited again.
struct Settled;

/// The type, and its one instance for the life of the process.
struct Kept {
    _class: RawType,
    instance: *mut ffi::PyObject,
}

// SAFETY: the instance has no state.
unsafe impl Send for Kept {}
// SAFETY: as above.
unsafe impl Sync for Kept {}

static KEPT: OnceLock<Kept> = OnceLock::new();

/// The awaitable.
#[inline]
pub(crate) fn settled(py: Python<'_>) -> Returned {
    let kept = KEPT.get().ok_or_else(|| {
        pyo3::exceptions::PyImportError::new_err("ropewalk._core is not initialised")
    })?;
    // SAFETY: it lives as long as the process.
    let instance = unsafe { Bound::from_borrowed_ptr(py, kept.instance) };
    Ok(instance.into_ptr())
}

impl Coroutine for Settled {
    #[inline]
    fn step(_: Python<'_>, _: Ref<'_, '_>) -> PyResult<Step> {
        Ok(Step::Done)
    }

    fn throw(_: Python<'_>, _: Ref<'_, '_>, error: PyErr) -> PyResult<Step> {
        Err(error)
    }

    fn close(_: Python<'_>, _: Ref<'_, '_>) -> PyResult<()> {
        Ok(())
    }

    fn name(_: Ref<'_, '_>) -> &'static str {
        "settled"
    }
}

/// Makes the type and the instance.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    if KEPT.get().is_some() {
        return Ok(());
    }
    let py = module.py();
    let object: Bound<'_, PyType> = py.import("builtins")?.getattr("object")?.cast_into()?;
    let class = RawType::new(
        &object,
        Plan {
            name: c"ropewalk._core.Settled",
            doc: c"An awaitable that is always done; its result is None.",
            header: HEADER,
            size: HEADER,
            subclassable: false,
            methods: coroutine::methods!(Settled),
            getters: coroutine::getters!(Settled),
            dealloc,
            traverse,
            clear,
            slots: coroutine::slots::<Settled>(),
        },
    )?;
    // SAFETY: a ready type; the one reference is kept for the life of the process.
    let instance = unsafe { ffi::PyType_GenericAlloc(class.as_ptr(), 0) };
    if instance.is_null() {
        return Err(PyErr::fetch(py));
    }
    KEPT.get_or_init(|| Kept {
        _class: class,
        instance,
    });
    Ok(())
}

/// Never called: the instance is kept.
unsafe extern "C" fn dealloc(_: *mut ffi::PyObject) {}

unsafe extern "C" fn traverse(_: *mut ffi::PyObject, _: ffi::visitproc, _: *mut c_void) -> c_int {
    0
}

unsafe extern "C" fn clear(_: *mut ffi::PyObject) -> c_int {
    0
}
