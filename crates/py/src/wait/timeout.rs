//! How long to wait, as `threading` takes it.
//!
//! What is no ordinary number of seconds is shown to CPython's own lock, which raises what it raises in this version.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyFloat;
use ropewalk_sys::clock::{self, Nanos, SECOND};

use crate::heap::Arguments;

/// How long to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timeout {
    /// Not at all.
    Now,
    Forever,
    /// Until then, on the monotonic clock.
    At(Nanos),
}

/// Seconds, less than a year, that need no second look.
const ORDINARY: f64 = 3e7;

impl Timeout {
    /// From now on for that many seconds, which are more than none.
    fn after(seconds: f64) -> Self {
        // Rounded up: a wait is never shorter than asked for. `as` saturates, and so does the sum.
        let nanos = (seconds * SECOND as f64).ceil() as Nanos;
        Self::At(clock::now().saturating_add(nanos))
    }

    /// The timeout of `wait(timeout=None)`: `None` is for ever, and what is not more than none (NaN as well) is not
    /// at all.
    ///
    /// # Errors
    /// `TypeError` for what is no number, `OverflowError` for more than `threading.TIMEOUT_MAX`.
    pub(crate) fn of_wait(given: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        let Some(given) = given.filter(|given| !given.is_none()) else {
            return Ok(Self::Forever);
        };
        let seconds = match given.cast_exact::<PyFloat>() {
            Ok(seconds) => seconds.value(),
            Err(_) => {
                if !given.gt(0)? {
                    return Ok(Self::Now);
                }
                judge(given)?;
                given.extract()?
            }
        };
        if seconds > ORDINARY {
            judge(given)?;
        }
        Ok(if seconds > 0.0 {
            Self::after(seconds)
        } else {
            Self::Now
        })
    }

    /// The timeout of `acquire(blocking=True, timeout=-1)`.
    ///
    /// # Errors
    /// `TypeError`, `ValueError` and `OverflowError` as `threading.Lock.acquire` raises them.
    #[inline]
    pub(crate) fn of_acquire(py: Python<'_>, given: Arguments<'_, '_>) -> PyResult<Self> {
        if given.all().is_empty() {
            return Ok(Self::Forever);
        }
        if let &[blocking] = given.positional()
            && given.all().len() == 1
        {
            // SAFETY: immortal objects.
            let (yes, no) = unsafe { (ffi::Py_True(), ffi::Py_False()) };
            if blocking == yes {
                return Ok(Self::Forever);
            }
            if blocking == no {
                return Ok(Self::Now);
            }
        }
        Self::of_acquire_slowly(py, given)
    }

    #[cold]
    fn of_acquire_slowly(py: Python<'_>, given: Arguments<'_, '_>) -> PyResult<Self> {
        let scratch = scratch_lock(py)?;
        // It is free, so it is taken at once, if it likes the arguments.
        given
            .call_method(py, scratch.as_borrowed(), pyo3::intern!(py, "acquire"))
            .map(|taken| {
                // SAFETY: a new reference to a bool.
                drop(unsafe { crate::object::Obj::from_owned(taken) });
            })?;
        let [blocking, timeout] =
            given.named_or_positional(py, "acquire", ["blocking", "timeout"])?;
        let blocking = match blocking {
            Some(blocking) => blocking.is_truthy()?,
            // `None` was given, or nothing.
            None => given
                .positional()
                .first()
                // SAFETY: None is immortal.
                .is_none_or(|first| *first != unsafe { ffi::Py_None() }),
        };
        let seconds = timeout.map_or(Ok(-1.0), |timeout| timeout.extract::<f64>())?;
        Ok(match blocking {
            false => Self::Now,
            true if seconds < 0.0 => Self::Forever,
            true if seconds == 0.0 => Self::Now,
            true => Self::after(seconds),
        })
    }
}

/// Lets CPython's own lock judge `timeout`, and raises what it raises.
#[cold]
fn judge(timeout: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = timeout.py();
    scratch_lock(py)?
        .call_method1(pyo3::intern!(py, "acquire"), (true, timeout))
        .map(drop)
}

/// A lock of CPython's own that nobody else knows.
fn scratch_lock(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    py.import("_thread")?.call_method0("allocate_lock")
}
