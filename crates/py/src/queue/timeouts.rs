//! How long a queue waits, in seconds, judged as the original judges it, and when it does.
//!
//! `Queue` adds the timeout to the clock and compares, in Python, before it looks at the items; only if it has to wait
//! does it find out that no clock can count so far. `SimpleQueue` looks at the timeout once, before anything else.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyFloat, PyInt};
use pyo3::{ffi, intern};
use ropewalk_sys::clock::{self, Nanos, SECOND};

use crate::heap::Ref;
use crate::object::Obj;
use crate::wait::Timeout;

/// Seconds, about a year, that every clock can count.
const ORDINARY: f64 = 3e7;

/// From now on for that many seconds.
pub(super) fn after(seconds: f64) -> Timeout {
    if seconds <= 0.0 {
        return Timeout::Now;
    }
    // Rounded up: a wait is never shorter than asked for. `as` saturates, and so does the sum.
    let nanos = (seconds * SECOND as f64).ceil() as Nanos;
    Timeout::At(clock::now().saturating_add(nanos))
}

/// Whether the timeout is a plain number of seconds that needs no second look.
#[inline]
pub(super) fn ordinary(timeout: Ref<'_, '_>) -> Option<f64> {
    let seconds = match timeout.cast_exact::<PyFloat>() {
        Ok(seconds) => seconds.value(),
        Err(_) => {
            timeout.cast_exact::<PyInt>().ok()?;
            let mut overflow = 0;
            // SAFETY: an int, so the call cannot fail but by overflow, which it only says.
            let seconds =
                unsafe { ffi::PyLong_AsLongAndOverflow(timeout.as_ptr(), &raw mut overflow) };
            if overflow != 0 {
                return None;
            }
            seconds as f64
        }
    };
    (0.0..ORDINARY).contains(&seconds).then_some(seconds)
}

/// The timeout of one call of `Queue.get` or `Queue.put`.
pub(super) enum Patience {
    Forever,
    Seconds(f64),
    /// A number that only Python can compare: when the time is up, on Python's monotonic clock.
    Until(Obj),
}

impl Patience {
    /// # Errors
    /// `ValueError` for less than none, `TypeError` for what is no number.
    #[inline]
    pub(super) fn read(timeout: Option<Ref<'_, '_>>) -> PyResult<Self> {
        let Some(timeout) = timeout.filter(|timeout| !timeout.is_none()) else {
            return Ok(Self::Forever);
        };
        match ordinary(timeout) {
            Some(seconds) => Ok(Self::Seconds(seconds)),
            None => Self::judge(timeout),
        }
    }

    #[cold]
    fn judge(timeout: Ref<'_, '_>) -> PyResult<Self> {
        let py = timeout.py();
        if timeout.lt(0)? {
            return Err(PyValueError::new_err(
                "'timeout' must be a non-negative number",
            ));
        }
        if timeout.is_exact_instance_of::<PyFloat>() || timeout.is_instance_of::<PyInt>() {
            let seconds: f64 = timeout.extract()?;
            // The original looks again and again until NaN seconds are over, which is never.
            return Ok(if seconds.is_nan() {
                Self::Forever
            } else {
                Self::Seconds(seconds)
            });
        }
        Ok(Self::Until(now(py)?.add(timeout)?.into()))
    }

    /// When to stop waiting, which begins now.
    ///
    /// # Errors
    /// `OverflowError` for what no clock can count; whatever `Until` raises.
    pub(super) fn begin(&self, py: Python<'_>) -> PyResult<Timeout> {
        let left = match self {
            Self::Forever => return Ok(Timeout::Forever),
            Self::Seconds(seconds) if *seconds < ORDINARY => return Ok(after(*seconds)),
            Self::Seconds(seconds) => PyFloat::new(py, *seconds).into_any(),
            Self::Until(end) => end.bind(py).sub(now(py)?)?,
        };
        if left.le(0.0)? {
            return Ok(Timeout::Now);
        }
        // A lock of CPython's own that is free: it is taken at once, if it likes the timeout.
        py.import("_thread")?
            .call_method0("allocate_lock")?
            .call_method1(intern!(py, "acquire"), (true, &left))?;
        Ok(after(left.extract()?))
    }
}

/// Python's monotonic clock.
fn now(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    py.import("time")?.call_method0(intern!(py, "monotonic"))
}

/// Whether an argument like `block` is true; one that is absent is.
#[inline]
pub(super) fn blocks(block: Option<Ref<'_, '_>>) -> PyResult<bool> {
    match block {
        None => Ok(true),
        // SAFETY: immortal objects.
        Some(block) if block.as_ptr() == unsafe { ffi::Py_True() } => Ok(true),
        Some(block) => block.is_truthy(),
    }
}
