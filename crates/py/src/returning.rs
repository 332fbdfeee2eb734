//! How the result of an `await` gets out: in a `StopIteration`.
//!
//! It costs more to make than everything else about a read that finds its bytes. The interpreter takes the value
//! out and drops the exception at once, so one exception serves again and again; a debugger or a tracer that has
//! kept it makes it somebody else's. It keeps the last value alive until the next, so only small ones travel so: a few bytes, a truth value.

use pyo3::exceptions::PyStopIteration;
use pyo3::prelude::*;

use crate::heap::Returned;
use crate::object::Obj;

/// Bytes that may be kept for a while.
#[cfg(all(Py_3_12, not(Py_GIL_DISABLED)))]
const SMALL: isize = 4096;

/// Ends an iterator with `value`.
#[cfg(all(Py_3_12, not(Py_GIL_DISABLED)))]
pub(crate) fn raise(py: Python<'_>, value: Obj) -> Returned {
    use pyo3::{ffi, intern};

    use crate::guard::Guarded;

    static KEPT: Guarded<Option<Obj>> = Guarded::new(None);

    // SAFETY: live objects.
    let small = unsafe {
        let object = value.as_ptr();
        if ffi::PyBytes_CheckExact(object) != 0 {
            (0..=SMALL).contains(&ffi::PyBytes_Size(object))
        } else {
            object == ffi::Py_True() || object == ffi::Py_False()
        }
    };
    if !small {
        return fresh(py, value);
    }
    let kept = KEPT.with(py, Option::take);
    // SAFETY: a live object.
    let alone = |kept: &Obj| unsafe { ffi::Py_REFCNT(kept.as_ptr()) } == 1;
    let carrier: Obj = match kept.filter(alone) {
        Some(kept) => kept,
        None => PyStopIteration::new_err(())
            .into_value(py)
            .into_bound(py)
            .into_any()
            .into(),
    };
    carrier
        .bind(py)
        .setattr(intern!(py, "value"), value.into_bound(py))?;
    let old = KEPT.with(py, |place| place.replace(carrier.clone()));
    drop(old);
    // SAFETY: an exception instance, whose reference goes over.
    unsafe { ffi::PyErr_SetRaisedException(carrier.into_ptr()) };
    Ok(std::ptr::null_mut())
}

#[cfg(not(all(Py_3_12, not(Py_GIL_DISABLED))))]
pub(crate) fn raise(py: Python<'_>, value: Obj) -> Returned {
    fresh(py, value)
}

fn fresh(py: Python<'_>, value: Obj) -> Returned {
    // By way of a tuple, for a value that is one.
    PyStopIteration::new_err((value.into_bound(py).unbind(),)).restore(py);
    Ok(std::ptr::null_mut())
}
