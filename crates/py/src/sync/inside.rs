//! `_cond`: the condition that `threading`'s events and semaphores are made of, for programs that reach for it.
//!
//! Ours have none. A subclass that waits on it, or notifies it, gets one when it asks: from then on, who waits on
//! the condition is notified by the primitive's own methods, too. Until then it costs a look at an empty place.

use std::ffi::CStr;
use std::sync::OnceLock;

use pyo3::intern;
use pyo3::prelude::*;

use crate::call::call_method;
use crate::heap::{self, Ref, Returned};
use crate::object::Obj;

/// Where the condition is kept, once there is one.
#[derive(Default)]
pub(super) struct Inside(OnceLock<Obj>);

impl Inside {
    /// The condition: the one that was adopted first.
    pub(super) fn adopt(&self, condition: Ref<'_, '_>) -> Returned {
        // SAFETY: a live object, attached.
        let made = unsafe { Obj::from_borrowed(condition.as_ptr()) };
        Ok(self.0.get_or_init(|| made).clone().into_ptr())
    }

    /// The condition or `None`.
    pub(super) fn get(&self, py: Python<'_>) -> Returned {
        match self.0.get() {
            Some(condition) => Ok(condition.clone().into_ptr()),
            None => heap::none(py),
        }
    }

    pub(super) fn held(&self) -> Option<&Obj> {
        self.0.get()
    }

    /// Notifies everybody who waits on the condition, which is locked for that.
    ///
    /// # Errors
    /// What the condition raises.
    #[inline]
    pub(super) fn notify(&self, py: Python<'_>) -> PyResult<()> {
        match self.0.get() {
            Some(condition) => tell(py, condition),
            None => Ok(()),
        }
    }
}

#[cold]
fn tell(py: Python<'_>, condition: &Obj) -> PyResult<()> {
    let condition = condition.bind(py);
    call_method(&condition, intern!(py, "acquire"), [])?;
    let told = call_method(&condition, intern!(py, "_wake_all"), []);
    call_method(&condition, intern!(py, "release"), [])?;
    told.map(drop)
}

/// The documentation of `_adopt`.
pub(super) const ADOPT: &CStr = c"_adopt($self, condition)\n--\n\n\
Keep the condition that programs find inside, unless there is one, and return the one that is kept.";
