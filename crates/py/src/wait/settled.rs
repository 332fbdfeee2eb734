//! What `async with` awaits when there is nothing to wait for: one object for all, which is always done.
//!
//! A lock that is free is taken, and one that is let go is free, as soon as `__aenter__` or `__aexit__` is called: nothing can
//! come between the call and the await. So both give this, and `async with` costs no object.

use std::ffi::c_int;
use std::sync::OnceLock;

use pyo3::exceptions::PyImportError;
use pyo3::prelude::*;

use crate::coroutine::{self, Coroutine, Kept, Step};
use crate::heap::{Ref, Returned};
use crate::object::Obj;

/// An awaitable whose result is `None`, now and whenever it is awaited again.
struct Settled;

/// The one there is, for the life of the process.
static INSTANCE: OnceLock<Obj> = OnceLock::new();

/// The awaitable.
#[inline]
pub(crate) fn settled(_py: Python<'_>) -> Returned {
    let instance = INSTANCE
        .get()
        .ok_or_else(|| PyImportError::new_err("ropewalk._core is not initialised"))?;
    Ok(instance.clone().into_ptr())
}

impl Coroutine for Settled {
    fn kept() -> &'static Kept {
        static KEPT: Kept = Kept::new();
        &KEPT
    }

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

    fn name(&self) -> &'static str {
        "settled"
    }

    fn is_new(&self) -> bool {
        false
    }

    fn visit(&self, _: &mut dyn FnMut(&Obj) -> c_int) -> c_int {
        0
    }

    type Held = ();

    fn clear(&mut self) {}
}

/// Makes the type and the instance.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    coroutine::register::<Settled>(
        module,
        c"ropewalk._core.Settled",
        c"An awaitable that is always done; its result is None.",
        coroutine::methods!(Settled),
        coroutine::getters!(Settled),
        vec![],
    )?;
    let instance = coroutine::make(module.py(), Settled)?;
    INSTANCE.get_or_init(|| instance);
    Ok(())
}
