//! Waiting for many futures: `wait` and `as_completed`.
//!
//! One [`Gather`] stands for the waiting; each future that is not settled yet knows it, and by which number it is
//! known there. Whoever settles a future tells the number and wakes the waiter if that is enough.

use std::collections::VecDeque;
use std::ffi::c_int;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use pyo3::exceptions::{PyStopAsyncIteration, PyTimeoutError, PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PySet, PyTuple};

use super::future::{Body, is_native};
use super::state::{Phase, Watcher, look};
use crate::guard::Guarded;
use crate::heap::Ref;
use crate::object::Obj;
use crate::wait::{self, Operation, Timeout, Waiter};

/// What one waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    First,
    FirstException,
    All,
    /// Each, one after the other.
    Each,
}

impl Until {
    fn named(name: &Bound<'_, PyAny>) -> PyResult<Self> {
        let known = name.extract::<String>().ok();
        match known.as_deref() {
            Some("FIRST_COMPLETED") => Ok(Self::First),
            Some("FIRST_EXCEPTION") => Ok(Self::FirstException),
            Some("ALL_COMPLETED") => Ok(Self::All),
            _ => Err(PyValueError::new_err(format!(
                "Invalid return condition: {}",
                name.repr()?
            ))),
        }
    }
}

pub(super) struct Gather(Mutex<Inner>);

struct Inner {
    until: Until,
    /// Futures that are not settled.
    left: usize,
    ready: bool,
    /// Those that were settled and not yet given out, in that order.
    settled: VecDeque<u32>,
    waiter: Option<Waiter>,
}

impl Gather {
    fn new(until: Until, left: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Inner {
            until,
            left,
            ready: left == 0,
            settled: VecDeque::new(),
            waiter: None,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A future was settled. Returns whom to wake.
    pub(super) fn tell(&self, index: u32, raised: bool) -> Option<Waiter> {
        let mut inner = self.lock();
        inner.left = inner.left.saturating_sub(1);
        match inner.until {
            Until::Each => {
                inner.settled.push_back(index);
                inner.ready = true;
            }
            Until::First => inner.ready = true,
            Until::FirstException => inner.ready |= raised || inner.left == 0,
            Until::All => inner.ready |= inner.left == 0,
        }
        if inner.ready {
            inner.waiter.take()
        } else {
            None
        }
    }
}

/// Waits until the gathering is ready.
struct Waiting(Arc<Gather>);

impl Operation for Waiting {
    fn poll(&mut self, py: Python<'_>, _target: Ref<'_, '_>, who: &Waiter) -> PyResult<Poll<Obj>> {
        let old = {
            let mut inner = self.0.lock();
            if inner.ready {
                return wait::ready(py, true);
            }
            inner.waiter.replace(who.clone())
        };
        drop(old);
        Ok(Poll::Pending)
    }

    fn expire(&mut self, py: Python<'_>, target: Ref<'_, '_>) -> PyResult<Option<Obj>> {
        self.leave(py, target);
        Ok(Some(wait::boolean(py, false)))
    }

    fn leave(&mut self, _py: Python<'_>, _target: Ref<'_, '_>) -> bool {
        let waiter = self.0.lock().waiter.take();
        drop(waiter);
        true
    }
}

/// Futures that somebody waits for; a place is empty once its future was given out.
struct Crowd {
    gather: Arc<Gather>,
    /// Each with the number under which it knows us, if it does.
    futures: Vec<Option<(Obj, Option<u32>)>>,
}

impl Crowd {
    /// All of the set, if they are all ours.
    fn of(futures: &Bound<'_, PySet>, until: Until) -> Option<Self> {
        let futures: Vec<_> = futures
            .iter()
            .map(|future| is_native(future.as_borrowed()).then(|| Some((future.into(), None))))
            .collect::<Option<_>>()?;
        let gather = Gather::new(until, futures.len());
        Some(Self { gather, futures })
    }

    /// Notes us with those that are not settled; tells us of those that are.
    fn watch(&mut self, py: Python<'_>) -> PyResult<()> {
        for (index, place) in self.futures.iter_mut().enumerate() {
            let (Some((future, serial)), Ok(index)) = (place, u32::try_from(index)) else {
                continue;
            };
            let gather = &self.gather;
            let settled = look(py, future.bind(py), |state| {
                if state.phase.is_settled() {
                    return Some(state.exception.is_some());
                }
                *serial = Some(state.watch(Watcher::Among(gather.clone(), index)));
                None
            })?;
            if let Some(raised) = settled {
                // Nobody waits yet.
                drop(self.gather.tell(index, raised));
            }
        }
        Ok(())
    }

    /// What the garbage collector is told of.
    fn objects(&self) -> impl Iterator<Item = &Obj> {
        self.futures.iter().flatten().map(|(future, _)| future)
    }

    /// Leaves those that are still there.
    fn leave(&mut self, py: Python<'_>) {
        let left: Vec<_> = self.futures.drain(..).flatten().collect();
        for (future, serial) in left {
            if let Some(serial) = serial {
                let watcher = Body::of(future.bind(py)).with(py, |state| state.unwatch(serial));
                drop(watcher);
            }
        }
    }
}

impl Drop for Crowd {
    /// Whoever gave up waiting, or never began, is not told.
    fn drop(&mut self) {
        // SAFETY: it holds references to objects, which are dropped by attached threads alone.
        self.leave(unsafe { Python::assume_attached() });
    }
}

/// How far a future is: settled, and with an exception.
fn settled(py: Python<'_>, future: &Bound<'_, PyAny>) -> (bool, bool) {
    Body::of(future.as_borrowed()).with(py, |state| {
        let raised = state.phase == Phase::Finished && state.exception.is_some();
        (state.phase.is_settled(), raised)
    })
}

/// The sets of those that are settled and those that are not.
fn split<'py>(futures: &Bound<'py, PySet>) -> PyResult<Bound<'py, PyTuple>> {
    let py = futures.py();
    let (done, left) = (PySet::empty(py)?, PySet::empty(py)?);
    for future in futures {
        let to = if settled(py, &future).0 { &done } else { &left };
        to.add(future)?;
    }
    PyTuple::new(py, [done, left])
}

/// Whether `wait` need not wait at all.
fn is_enough(futures: &Bound<'_, PySet>, name: &Bound<'_, PyAny>) -> bool {
    let named = |text: &str| name.extract::<String>().is_ok_and(|name| name == text);
    let py = futures.py();
    let states = || futures.iter().map(|future| settled(py, &future));
    (named("FIRST_COMPLETED") && states().any(|(settled, _)| settled))
        || (named("FIRST_EXCEPTION") && states().any(|(_, raised)| raised))
        || states().all(|(settled, _)| settled)
}

/// `wait` for futures of ours: the two sets, or `None` if there are others among them.
#[pyfunction]
fn _wait<'py>(
    futures: &Bound<'py, PySet>,
    timeout: Option<&Bound<'py, PyAny>>,
    return_when: &Bound<'py, PyAny>,
) -> PyResult<Option<Bound<'py, PyTuple>>> {
    let py = futures.py();
    let Some(mut crowd) = Crowd::of(futures, Until::All) else {
        return Ok(None);
    };
    if !is_enough(futures, return_when) {
        crowd.gather.lock().until = Until::named(return_when)?;
        let timeout = Timeout::of_wait(timeout)?;
        let mut waiting = Waiting(crowd.gather.clone());
        let waited = crowd
            .watch(py)
            .and_then(|()| wait::block(py, futures.as_any().as_borrowed(), &mut waiting, timeout));
        crowd.leave(py);
        waited?;
    }
    split(futures).map(Some)
}

/// Has a task wait.
struct WaitingAsync {
    waiting: Waiting,
    crowd: Crowd,
}

impl Operation for WaitingAsync {
    fn poll(&mut self, py: Python<'_>, target: Ref<'_, '_>, who: &Waiter) -> PyResult<Poll<Obj>> {
        let polled = self.waiting.poll(py, target, who)?;
        if polled.is_ready() {
            self.crowd.leave(py);
        }
        Ok(polled)
    }

    fn expire(&mut self, py: Python<'_>, target: Ref<'_, '_>) -> PyResult<Option<Obj>> {
        self.crowd.leave(py);
        self.waiting.expire(py, target)
    }

    fn leave(&mut self, py: Python<'_>, target: Ref<'_, '_>) -> bool {
        self.crowd.leave(py);
        self.waiting.leave(py, target)
    }

    fn visit(&self, visit: &mut dyn FnMut(&Obj) -> c_int) -> c_int {
        self.crowd
            .objects()
            .map(visit)
            .find(|answer| *answer != 0)
            .unwrap_or(0)
    }
}

/// What to await before `_split`; `None` if there is nothing to wait for.
#[pyfunction]
fn _wait_async<'py>(
    futures: &Bound<'py, PySet>,
    timeout: Option<&Bound<'py, PyAny>>,
    return_when: &Bound<'py, PyAny>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = futures.py();
    let Some(mut crowd) = Crowd::of(futures, Until::All) else {
        return Err(PyTypeError::new_err(
            "wait_async() takes futures of ropewalk.futures only",
        ));
    };
    if is_enough(futures, return_when) {
        return Ok(None);
    }
    crowd.gather.lock().until = Until::named(return_when)?;
    let timeout = Timeout::of_wait(timeout)?;
    let waiting = Waiting(crowd.gather.clone());
    if let Err(error) = crowd.watch(py) {
        crowd.leave(py);
        return Err(error);
    }
    let operation = Box::new(WaitingAsync { waiting, crowd });
    let target = futures.as_any().as_borrowed();
    let waiting = wait::awaitable(py, target, operation, timeout, "wait_async")?;
    Ok(Some(waiting.into_bound(py)))
}

/// The sets of those that are settled and those that are not, of futures of ours.
#[pyfunction]
fn _split<'py>(futures: &Bound<'py, PySet>) -> PyResult<Bound<'py, PyTuple>> {
    if futures
        .iter()
        .any(|future| !is_native(future.as_borrowed()))
    {
        return Err(PyTypeError::new_err("these are not futures of ours"));
    }
    split(futures)
}

/// The iterator inside `as_completed`.
#[pyclass(frozen, module = "ropewalk._core")]
struct Completed {
    crowd: Guarded<Crowd>,
    gather: Arc<Gather>,
    total: usize,
    /// When the time is up, in seconds of the monotonic clock.
    end: Option<f64>,
}

#[pymethods]
impl Completed {
    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__(slf: &Bound<'_, Self>) -> PyResult<Option<Py<PyAny>>> {
        let (py, this) = (slf.py(), slf.get());
        loop {
            match this.next(py) {
                Step::Future(future) => return Ok(Some(future.into_bound(py).unbind())),
                Step::Over => return Ok(None),
                Step::Wait => {}
            }
            let mut waiting = Waiting(this.gather.clone());
            let come = wait::block(
                py,
                slf.as_any().as_borrowed(),
                &mut waiting,
                this.timeout(py)?,
            )?;
            if !come.bind(py).is_truthy()? {
                return Err(this.too_late());
            }
        }
    }

    fn __aiter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __anext__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let (py, this) = (slf.py(), slf.get());
        let operation = Box::new(Next(Waiting(this.gather.clone())));
        let target = slf.as_any().as_borrowed();
        let timeout = this.timeout(py)?;
        let name = "as_completed_async";
        Ok(wait::awaitable(py, target, operation, timeout, name)?.into_bound(py))
    }

    /// Leaves the futures that were not given out.
    fn close(&self, py: Python<'_>) {
        let mut crowd = self.crowd.with(py, |crowd| Crowd {
            gather: crowd.gather.clone(),
            futures: std::mem::take(&mut crowd.futures),
        });
        crowd.leave(py);
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let futures = |crowd: &Crowd| {
            crowd
                .objects()
                .try_for_each(|held| visit.call(held.as_py()))
        };
        self.crowd.try_look(futures).unwrap_or(Ok(()))
    }

    fn __clear__(&self, py: Python<'_>) {
        self.close(py);
    }
}

/// How an iterator goes on.
enum Step {
    Future(Obj),
    Wait,
    Over,
}

/// Has a task wait for the next one.
struct Next(Waiting);

impl Operation for Next {
    fn poll(&mut self, py: Python<'_>, target: Ref<'_, '_>, who: &Waiter) -> PyResult<Poll<Obj>> {
        // SAFETY: made by a method of this class, for its own object.
        let this = unsafe { target.cast_unchecked::<Completed>() };
        loop {
            match this.get().next(py) {
                Step::Future(future) => return Ok(Poll::Ready(future)),
                Step::Over => return Err(PyStopAsyncIteration::new_err(())),
                Step::Wait => {}
            }
            if self.0.poll(py, target, who)?.is_pending() {
                return Ok(Poll::Pending);
            }
        }
    }

    fn expire(&mut self, py: Python<'_>, target: Ref<'_, '_>) -> PyResult<Option<Obj>> {
        self.leave(py, target);
        // SAFETY: as above.
        let this = unsafe { target.cast_unchecked::<Completed>() };
        Err(this.get().too_late())
    }

    fn leave(&mut self, py: Python<'_>, target: Ref<'_, '_>) -> bool {
        self.0.leave(py, target)
    }
}

impl Completed {
    /// The next one that is there.
    fn next(&self, py: Python<'_>) -> Step {
        loop {
            let next = {
                let mut inner = self.gather.lock();
                let next = inner.settled.pop_front();
                inner.ready = !inner.settled.is_empty();
                if next.is_none() && inner.left == 0 {
                    return Step::Over;
                }
                next
            };
            let Some(index) = next else { return Step::Wait };
            let future = self.crowd.with(py, |crowd| {
                crowd.futures.get_mut(index as usize).and_then(Option::take)
            });
            if let Some((future, _)) = future {
                return Step::Future(future);
            }
        }
    }

    /// What is left of the time.
    fn timeout(&self, py: Python<'_>) -> PyResult<Timeout> {
        let Some(end) = self.end.filter(|end| !end.is_nan()) else {
            return Ok(Timeout::Forever);
        };
        let left = end - crate::eventloop::seconds(ropewalk_sys::clock::now());
        if left < 0.0 {
            return Err(self.too_late());
        }
        Timeout::of_wait(Some(pyo3::types::PyFloat::new(py, left).as_any()))
    }

    fn too_late(&self) -> PyErr {
        let left = self.gather.lock().left;
        let total = self.total;
        PyTimeoutError::new_err(format!("{left} (of {total}) futures unfinished"))
    }
}

/// The iterator, or `None` if there are futures of others among these.
#[pyfunction]
fn _completed(
    py: Python<'_>,
    futures: &Bound<'_, PySet>,
    end: Option<f64>,
) -> PyResult<Option<Completed>> {
    let Some(mut crowd) = Crowd::of(futures, Until::Each) else {
        return Ok(None);
    };
    let gather = crowd.gather.clone();
    gather.lock().ready = false;
    let total = crowd.futures.len();
    crowd.watch(py)?;
    Ok(Some(Completed {
        crowd: Guarded::new(crowd),
        gather,
        total,
        end,
    }))
}

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(_wait, module)?)?;
    module.add_function(wrap_pyfunction!(_wait_async, module)?)?;
    module.add_function(wrap_pyfunction!(_split, module)?)?;
    module.add_function(wrap_pyfunction!(_completed, module)?)?;
    module.add_class::<Completed>()?;
    Ok(())
}
