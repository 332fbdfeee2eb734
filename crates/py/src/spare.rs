//! Where the memory of small, short-lived objects comes from.
//!
//! A loop makes and drops handles and reads by the million, one or two alive at a time. With the GIL a short
//! list of dead ones is kept per type, as CPython keeps its tuples and floats; free-threaded, the allocator's
//! own per-thread lists do that.

use pyo3::ffi;
use pyo3::prelude::*;

#[cfg(not(Py_GIL_DISABLED))]
use crate::guard::Guarded;
use crate::heap::RawType;

#[cfg(not(Py_GIL_DISABLED))]
const MOST: usize = 1024;

/// An object without references, of the type it is kept under.
#[cfg(not(Py_GIL_DISABLED))]
struct Dead(*mut ffi::PyObject);
// SAFETY: nobody else knows the object.
#[cfg(not(Py_GIL_DISABLED))]
unsafe impl Send for Dead {}

/// The dead objects of one raw type.
pub(crate) struct Spare {
    #[cfg(not(Py_GIL_DISABLED))]
    dead: Guarded<Vec<Dead>>,
}

impl Spare {
    pub(crate) const fn new() -> Self {
        Self {
            #[cfg(not(Py_GIL_DISABLED))]
            dead: Guarded::new(Vec::new()),
        }
    }

    /// An instance of `class` with an unwritten body, which the collector does not know: whoever has written the
    /// body tells it by `PyObject_GC_Track`.
    #[inline]
    pub(crate) fn take(&self, py: Python<'_>, class: &RawType) -> PyResult<*mut ffi::PyObject> {
        #[cfg(not(Py_GIL_DISABLED))]
        if let Some(Dead(object)) = self.dead.with(py, Vec::pop) {
            // SAFETY: memory of an instance of this type, untracked, its slots empty: as `tp_alloc` leaves it.
            return Ok(unsafe { ffi::PyObject_Init(object, class.as_ptr()) });
        }
        // SAFETY: a ready heap type has `tp_alloc`, which tells the collector at once; no code runs in between.
        unsafe {
            let object = ffi::PyType_GenericAlloc(class.as_ptr(), 0);
            if object.is_null() {
                return Err(PyErr::fetch(py));
            }
            ffi::PyObject_GC_UnTrack(object.cast());
            Ok(object)
        }
    }

    /// Keeps or frees a dead object's memory, and releases its type.
    ///
    /// # Safety
    /// Called at the end of `dealloc`: the body is dropped, the base class's slots are empty.
    #[inline]
    pub(crate) unsafe fn give(&self, py: Python<'_>, object: *mut ffi::PyObject, class: &RawType) {
        #[cfg(not(Py_GIL_DISABLED))]
        let kept = self.dead.with(py, |dead| {
            let room = dead.len() < MOST;
            if room {
                dead.push(Dead(object));
            }
            room
        });
        #[cfg(Py_GIL_DISABLED)]
        let kept = {
            let _ = py;
            false
        };
        // SAFETY: dead; and an instance of a heap type owns a reference to its type.
        unsafe {
            if !kept {
                ffi::PyObject_GC_Del(object.cast());
            }
            ffi::Py_DECREF(class.as_ptr().cast());
        }
    }
}
