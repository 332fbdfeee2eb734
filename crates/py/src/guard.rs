//! State that several Python threads may reach, with the cheapest lock that is still a lock.
//!
//! With the GIL, holding the interpreter *is* the lock: what is left to catch is our own re-entry, and a
//! `RefCell`'s flag does that for a nanosecond. Free-threaded there is no such lock, so it is a mutex.
//!
//! The rule for both: **no Python code runs inside [`Guarded::with`]**, not even by dropping an object
//! (a `__del__` may call back into us). Closures hand out what they remove, and the caller drops it.

#[cfg(not(Py_GIL_DISABLED))]
use std::cell::RefCell;
#[cfg(Py_GIL_DISABLED)]
use std::sync::{Mutex, PoisonError, TryLockError};

use pyo3::Python;

/// A value that is reached through [`with`](Self::with) alone.
pub(crate) struct Guarded<T> {
    #[cfg(not(Py_GIL_DISABLED))]
    value: RefCell<T>,
    #[cfg(Py_GIL_DISABLED)]
    value: Mutex<T>,
}

// SAFETY: every access takes a `Python` token, so one thread at a time is inside: the one holding the GIL.
// The closures run no Python code, so the GIL cannot change hands within one.
#[cfg(not(Py_GIL_DISABLED))]
unsafe impl<T: Send> Sync for Guarded<T> {}

impl<T> Guarded<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self {
            #[cfg(not(Py_GIL_DISABLED))]
            value: RefCell::new(value),
            #[cfg(Py_GIL_DISABLED)]
            value: Mutex::new(value),
        }
    }

    /// Runs `f` on the value. `f` must not run Python code; see the module's text.
    #[inline(always)]
    pub(crate) fn with<R>(&self, _py: Python<'_>, f: impl FnOnce(&mut T) -> R) -> R {
        #[cfg(not(Py_GIL_DISABLED))]
        let mut value = self.value.borrow_mut();
        #[cfg(Py_GIL_DISABLED)]
        let mut value = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        f(&mut value)
    }

    /// As `with`, where no panic can be caught: `None` if somebody is inside, which with the GIL is nobody but ourselves.
    #[inline]
    pub(crate) fn try_with<R>(&self, _py: Python<'_>, f: impl FnOnce(&mut T) -> R) -> Option<R> {
        #[cfg(not(Py_GIL_DISABLED))]
        let mut value = self.value.try_borrow_mut().ok()?;
        #[cfg(Py_GIL_DISABLED)]
        let mut value = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        Some(f(&mut value))
    }

    /// For the garbage collector's traversal: `None` if somebody is inside, who then counts as a holder.
    pub(crate) fn try_look<R>(&self, f: impl FnOnce(&T) -> R) -> Option<R> {
        #[cfg(not(Py_GIL_DISABLED))]
        let value = self.value.try_borrow().ok()?;
        #[cfg(Py_GIL_DISABLED)]
        let value = match self.value.try_lock() {
            Ok(value) => value,
            Err(TryLockError::Poisoned(value)) => value.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(f(&value))
    }
}
