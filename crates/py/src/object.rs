//! An owned reference to a Python object that can be kept in Rust's collections.

use std::ptr::NonNull;

use pyo3::prelude::*;
use pyo3::{Borrowed, ffi};

use crate::call::release;

/// A strong reference, cloned and dropped **only while attached to the interpreter**.
///
/// `Py<T>` asks a thread-local whether it may touch the count, and puts the release off where it may not.
/// The reactor's queues are only ever touched while attached, so here both are one plain operation, and an
/// object dies exactly when its last reference goes, as in CPython.
#[repr(transparent)]
#[derive(Debug)]
pub(crate) struct Obj(NonNull<ffi::PyObject>);

// SAFETY: a reference may be moved to and used from any thread that is attached, which the type's contract
// asks of every user.
unsafe impl Send for Obj {}
// SAFETY: as above; shared access is by `bind`, which takes a token.
unsafe impl Sync for Obj {}

impl Obj {
    /// Takes over a reference that the caller owns; `None` for NULL.
    ///
    /// # Safety
    /// `pointer` is NULL or an owned reference.
    #[inline]
    pub(crate) unsafe fn from_owned(pointer: *mut ffi::PyObject) -> Option<Self> {
        NonNull::new(pointer).map(Self)
    }

    /// Makes a reference of its own to what `pointer` points to.
    ///
    /// # Safety
    /// `pointer` is a live object and the thread is attached.
    #[inline]
    pub(crate) unsafe fn from_borrowed(pointer: *mut ffi::PyObject) -> Self {
        // SAFETY: alive and attached, says the caller; a live object's pointer is not NULL.
        unsafe {
            ffi::Py_INCREF(pointer);
            Self(NonNull::new_unchecked(pointer))
        }
    }

    #[inline]
    pub(crate) fn as_ptr(&self) -> *mut ffi::PyObject {
        self.0.as_ptr()
    }

    #[inline]
    pub(crate) fn bind<'a, 'py>(&'a self, py: Python<'py>) -> Borrowed<'a, 'py, PyAny> {
        // SAFETY: we own a reference for at least 'a, and `py` shows that the thread is attached.
        unsafe { Borrowed::from_ptr(py, self.as_ptr()) }
    }

    /// As the reference type that PyO3's garbage collector support visits.
    #[inline]
    pub(crate) fn as_py(&self) -> &Py<PyAny> {
        // SAFETY: both are a non-null object pointer that owns one reference (`Py` is transparent, too).
        unsafe { &*std::ptr::from_ref(self).cast() }
    }

    #[inline]
    pub(crate) fn into_bound(self, py: Python<'_>) -> Bound<'_, PyAny> {
        // SAFETY: the reference we own becomes the Bound's.
        unsafe { Bound::from_owned_ptr(py, self.into_ptr()) }
    }

    /// Gives the reference away.
    #[inline]
    pub(crate) fn into_ptr(self) -> *mut ffi::PyObject {
        let pointer = self.as_ptr();
        std::mem::forget(self);
        pointer
    }
}

impl<T> From<Bound<'_, T>> for Obj {
    #[inline]
    fn from(bound: Bound<'_, T>) -> Self {
        // SAFETY: a Bound owns a reference to a live object; it is passed on, not counted twice.
        unsafe { Self(NonNull::new_unchecked(bound.into_ptr())) }
    }
}

impl<T> From<&Bound<'_, T>> for Obj {
    #[inline]
    fn from(bound: &Bound<'_, T>) -> Self {
        Self::from(bound.clone())
    }
}

impl<'py> IntoPyObject<'py> for Obj {
    type Target = PyAny;
    type Output = Bound<'py, PyAny>;
    type Error = std::convert::Infallible;

    fn into_pyobject(self, py: Python<'py>) -> Result<Self::Output, Self::Error> {
        Ok(self.into_bound(py))
    }
}

impl Clone for Obj {
    #[inline]
    fn clone(&self) -> Self {
        // SAFETY: we own a reference, so the object is alive; attached by the type's contract.
        unsafe { Self::from_borrowed(self.as_ptr()) }
    }
}

impl Drop for Obj {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the reference is ours; attached by the type's contract.
        unsafe { release(self.as_ptr()) }
    }
}
