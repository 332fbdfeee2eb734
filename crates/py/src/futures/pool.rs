//! `ThreadPool`: what executors derive from. It holds a [`Crew`] and ends it when nobody knows it any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple};

use super::crew::{self, Crew};
use super::future;
use super::given::Given;
use super::job::{Call, Job};
use super::map::{self, Results};
use crate::call::copy_context;
use crate::guard::Guarded;
use crate::heap::{self, Arguments, Ref, Returned, method};
use crate::object::Obj;

/// The native half of `ropewalk.futures.ThreadPoolExecutor`.
#[pyclass(subclass, frozen, module = "ropewalk._core")]
pub(super) struct ThreadPool {
    crew: Arc<Crew>,
    /// Each call runs in a copy of its submitter's context.
    context: AtomicBool,
    /// What makes a task of a call, for workers with contexts of their own.
    resolve: Guarded<Option<Obj>>,
}

impl ThreadPool {
    #[inline]
    fn of<'a>(object: Ref<'a, '_>) -> &'a Self {
        // SAFETY: the method's descriptor, or `plain`, checked that this is an instance.
        let this = unsafe { object.cast_unchecked::<Self>() };
        // SAFETY: the value is inside the object, which somebody holds for 'a.
        unsafe { &*std::ptr::from_ref(this.get()) }
    }

    #[inline]
    pub(super) fn crew(&self) -> &Arc<Crew> {
        &self.crew
    }

    /// A copy of the current context, if calls are to run in one.
    #[inline]
    pub(super) fn context(&self, py: Python<'_>) -> PyResult<Option<Obj>> {
        if self.context.load(Ordering::Relaxed) {
            return copy_context(py).map(Some);
        }
        Ok(None)
    }
}

/// The pool, if it is one of ours whose calls are plain calls, submitted by our own `submit`.
pub(super) fn plain<'a>(executor: &'a Bound<'_, PyAny>) -> PyResult<Option<&'a ThreadPool>> {
    static SUBMIT: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = executor.py();
    if !executor.is_instance_of::<ThreadPool>() {
        return Ok(None);
    }
    let name = intern!(py, "submit");
    let ours = SUBMIT.get_or_try_init(py, || {
        py.get_type::<ThreadPool>().getattr(name).map(Bound::unbind)
    })?;
    if !executor.get_type().getattr(name)?.is(ours) {
        return Ok(None);
    }
    let pool = ThreadPool::of(executor.as_borrowed());
    let resolves = pool.resolve.with(py, |resolve| resolve.is_some());
    Ok((!resolves && !pool.context.load(Ordering::Relaxed)).then_some(pool))
}

/// `submit(fn, /, *args, **kwargs)`.
fn submit(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    let pool = ThreadPool::of(this);
    let Some(function) = given.positional().first() else {
        return Err(PyTypeError::new_err(
            "ThreadPoolExecutor.submit() missing 1 required positional argument: 'fn'",
        ));
    };
    pool.crew.check_open(py)?;
    // SAFETY: an argument of the call that is being served.
    let function = unsafe { Obj::from_borrowed(*function) };
    let future = future::make(py)?;
    let job = match pool.resolve.with(py, |resolve| resolve.clone()) {
        None => Job::Call(Call {
            future: future.clone(),
            function,
            args: Given::after(py, given, 1)?,
            context: pool.context(py)?,
        }),
        Some(resolve) => Job::Task {
            future: future.clone(),
            task: resolved(py, &resolve, &function, given)?,
        },
    };
    pool.crew.submit(py, &this, job)?;
    Ok(future.into_ptr())
}

/// What `_resolve_work_item_task(fn, args, kwargs)` makes of a call.
#[cold]
fn resolved(
    py: Python<'_>,
    resolve: &Obj,
    function: &Obj,
    given: Arguments<'_, '_>,
) -> PyResult<Obj> {
    let value = |pointer: &*mut pyo3::ffi::PyObject| {
        // SAFETY: an argument of the call that is being served.
        unsafe { Bound::from_borrowed_ptr(py, *pointer) }
    };
    let (positional, named) = given.all().split_at(given.positional().len());
    let args = PyTuple::new(py, positional.iter().skip(1).map(value))?;
    let kwargs = PyDict::new(py);
    if let Some(names) = given.names() {
        let names = value(&names).cast_into::<PyTuple>()?;
        for (name, given) in names.iter().zip(named) {
            kwargs.set_item(name, value(given))?;
        }
    }
    Ok(resolve
        .bind(py)
        .call1((function.bind(py), args, kwargs))?
        .into())
}

#[pymethods]
impl ThreadPool {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self {
            crew: Crew::new(0),
            context: AtomicBool::new(false),
            resolve: Guarded::new(None),
        }
    }

    /// What `__init__` has found out.
    fn _configure(
        &self,
        py: Python<'_>,
        most: usize,
        context: bool,
        resolve: Option<&Bound<'_, PyAny>>,
    ) {
        self.crew.set_most(py, most);
        self.context.store(context, Ordering::Relaxed);
        let resolve = resolve.map(Obj::from);
        let old = self
            .resolve
            .with(py, |place| std::mem::replace(place, resolve));
        drop(old);
    }

    /// What a worker's thread works from; it does not hold the executor.
    fn _crew(&self) -> CrewHandle {
        CrewHandle(self.crew.clone())
    }

    /// Takes nothing new, and lets the workers end.
    fn _close(&self, py: Python<'_>, cancel: bool) -> PyResult<()> {
        self.crew.shut(py, cancel)
    }

    /// Raises if nothing new is taken any more.
    fn _check_open(&self, py: Python<'_>) -> PyResult<()> {
        self.crew.check_open(py)
    }

    /// How many workers there are, how many are idle, what is queued, what runs, what is done.
    fn _counts(&self, py: Python<'_>) -> (usize, usize, usize, usize, u64) {
        let counts = self.crew.counts(py);
        (
            counts.workers,
            counts.idle,
            counts.queued,
            counts.running,
            counts.done,
        )
    }

    /// The names of the workers that run something, each with what it runs.
    fn _running<'py>(&self, py: Python<'py>) -> Vec<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
        self.crew
            .running(py)
            .into_iter()
            .map(|(name, what)| (name.into_bound(py), what.into_bound(py)))
            .collect()
    }

    /// `map` without futures.
    #[pyo3(signature = (function, iterables, end, item_timeout, buffersize, ordered))]
    fn _map<'py>(
        slf: &Bound<'py, Self>,
        function: &Bound<'py, PyAny>,
        iterables: &Bound<'py, PyTuple>,
        end: Option<f64>,
        item_timeout: Option<&Bound<'py, PyAny>>,
        buffersize: Option<usize>,
        ordered: bool,
    ) -> PyResult<Bound<'py, Results>> {
        map::start(
            slf,
            map::Wish {
                function,
                iterables,
                end,
                item_timeout,
                buffersize,
                ordered,
            },
        )
    }

    #[getter(_max_workers)]
    fn max_workers(&self, py: Python<'_>) -> usize {
        self.crew.most(py)
    }

    #[setter(_max_workers)]
    fn set_max_workers(&self, py: Python<'_>, most: isize) -> PyResult<()> {
        let most = usize::try_from(most)
            .ok()
            .filter(|most| *most > 0)
            .ok_or_else(|| PyValueError::new_err("max_workers must be greater than 0"))?;
        self.crew.set_most(py, most);
        Ok(())
    }

    /// Whether `shutdown()` was called.
    #[getter]
    fn _shutdown(&self) -> bool {
        self.crew.is_shut()
    }

    /// Why the pool is broken, or False.
    #[getter]
    fn _broken<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        match self.crew.why_broken(py) {
            Some(why) => why.into_bound(py),
            None => pyo3::types::PyBool::new(py, false).to_owned().into_any(),
        }
    }

    // What is queued is the workers' as well, who are reachable: only what is the executor's alone is shown.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.resolve
            .try_look(|resolve| match resolve {
                Some(resolve) => visit.call(resolve.as_py()),
                None => Ok(()),
            })
            .unwrap_or(Ok(()))
    }

    fn __clear__(&self, py: Python<'_>) {
        let resolve = self.resolve.with(py, Option::take);
        drop(resolve);
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        // SAFETY: an object dies in a thread that is attached.
        let py = unsafe { Python::assume_attached() };
        self.crew.orphan(py);
    }
}

/// A pool as its workers know it.
#[pyclass(frozen, module = "ropewalk._core", name = "Crew")]
struct CrewHandle(Arc<Crew>);

#[pymethods]
impl CrewHandle {
    /// Works until the pool ends. `run` is called with what is not simply a call.
    #[pyo3(signature = (name, run = None))]
    fn work(&self, py: Python<'_>, name: &Bound<'_, PyAny>, run: Option<&Bound<'_, PyAny>>) {
        self.0.work(py, name.into(), run.map(Obj::from));
    }

    /// This worker could not be made ready: the pool is broken, and raises `error(why)` from now on.
    fn break_up(&self, error: &Bound<'_, PyAny>, why: &Bound<'_, PyAny>) {
        self.0.break_up(error.py(), error.into(), why.into());
    }
}

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<ThreadPool>()?;
    module.add_class::<CrewHandle>()?;
    module.add_class::<Results>()?;
    module.add_function(wrap_pyfunction!(crew::_end_pools, module)?)?;
    heap::add_methods(
        &module.py().get_type::<ThreadPool>(),
        vec![method!(c"submit", c"submit($self, fn, /, *args, **kwargs)\n--\n\nHave a worker call fn(*args, **kwargs), and return a Future for the outcome. Thread-safe.\n\nRaises RuntimeError after shutdown, BrokenThreadPool if a worker's initializer has failed.", keywords, submit)],
    )
}
