//! The timeouts of methods that reckon with a moment, `now + timeout`, as `Semaphore.acquire` and `Barrier.wait` do.
//!
//! They differ from those that only hand the number on in what they raise for something that is no number, and in
//! NaN: no moment is after it.

use pyo3::prelude::*;
use pyo3::types::{PyFloat, PyInt};

use crate::wait::Timeout;

/// How long to wait: `None` is for ever, what is not more than none is not at all.
///
/// # Errors
/// `TypeError` for what is no number, `OverflowError` for more than `threading.TIMEOUT_MAX`.
pub(super) fn of_deadline(given: Option<&Bound<'_, PyAny>>) -> PyResult<Timeout> {
    let Some(given) = given.filter(|given| !given.is_none()) else {
        return Ok(Timeout::Forever);
    };
    if let Ok(seconds) = given.cast::<PyFloat>() {
        if seconds.value().is_nan() {
            return Ok(Timeout::Forever);
        }
    } else if !given.is_instance_of::<PyInt>() {
        PyFloat::new(given.py(), 0.0).add(given)?;
    }
    Timeout::of_wait(Some(given))
}
