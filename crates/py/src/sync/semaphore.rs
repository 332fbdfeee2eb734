//! `Semaphore` and `BoundedSemaphore`: a number of permits, for threads and for tasks.
//!
//! One type serves both: the bound of a plain semaphore is one that is never reached.

use std::ffi::{CStr, c_int, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use pyo3::exceptions::{PyAttributeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFloat, PyInt, PyTuple};
use pyo3::{Borrowed, ffi, intern};
use ropewalk_wait::line::Call;
use ropewalk_wait::{Permits, Ticket};

use super::arguments::parameters;
use super::deadline::of_deadline;
use super::inside::{self, Inside};
use super::{look, waiters};
use crate::call::call_method;
use crate::guard::Guarded;
use crate::heap::{self, Arguments, RawType, Ref, Returned, getter, method};
use crate::native::{self, Body, Description, body};
use crate::object::Obj;
use crate::wait::{self, Operation, Timeout, Waiter, awaitable, block, call_all, ready, settled};

static CLASS: OnceLock<RawType> = OnceLock::new();

/// As many permits as are never used up: what `Semaphore(math.inf)` has, which programs write for "no limit".
const UNLIMITED: usize = isize::MAX as usize;
/// More than this were `UNLIMITED` once.
const COUNTABLE: usize = UNLIMITED / 2;

pub(crate) struct Semaphore {
    permits: Guarded<Permits<Waiter>>,
    bound: AtomicUsize,
    inside: Inside,
}

impl Default for Semaphore {
    fn default() -> Self {
        Self {
            permits: Guarded::new(Permits::new(1)),
            bound: AtomicUsize::new(UNLIMITED),
            inside: Inside::default(),
        }
    }
}

impl Body for Semaphore {
    fn class() -> &'static OnceLock<RawType> {
        &CLASS
    }

    const BORN_READY: bool = true;

    fn visit(&self, visit: &mut dyn FnMut(&Obj) -> c_int) -> c_int {
        let answer = self.inside.held().map_or(0, &mut *visit);
        match answer {
            0 => waiters::visit(&self.permits, Permits::line, visit),
            answer => answer,
        }
    }

    fn init(
        this: Ref<'_, '_>,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        let [value] = parameters(args, kwargs, "Semaphore.__init__", ["value"])?;
        of(this).start(this.py(), value.as_ref(), false)
    }
}

impl Semaphore {
    /// `__init__`, also of one that has been in use.
    fn start(
        &self,
        py: Python<'_>,
        value: Option<&Bound<'_, PyAny>>,
        bounded: bool,
    ) -> PyResult<()> {
        let value = value.map_or(Ok(1), permits)?;
        let bound = if bounded { value } else { UNLIMITED };
        self.bound.store(bound, Ordering::Relaxed);
        self.put(py, value);
        Ok(())
    }

    /// Makes it so many permits.
    fn put(&self, py: Python<'_>, value: usize) {
        let call = self.permits.with(py, |permits| {
            permits.drain();
            permits.give(value);
            permits.next_call()
        });
        self.wake(py, call);
    }

    /// Puts permits back. False: there would be more than there may be.
    fn release(&self, py: Python<'_>, count: usize) -> bool {
        let bound = self.bound.load(Ordering::Relaxed);
        let call = self.permits.with(py, |permits| {
            let free = permits.free().saturating_add(count);
            if free > bound && bound != UNLIMITED {
                return Err(());
            }
            permits.give(count.min(UNLIMITED - permits.free().min(UNLIMITED)));
            Ok(permits.next_call())
        });
        match call {
            Ok(call) => {
                self.wake(py, call);
                true
            }
            Err(()) => false,
        }
    }

    #[inline]
    fn wake(&self, py: Python<'_>, call: Option<Call<Waiter>>) {
        if call.is_some() {
            self.wake_all(py, call);
        }
    }

    #[cold]
    fn wake_all(&self, py: Python<'_>, call: Option<Call<Waiter>>) {
        let gone = |ticket: &Ticket| {
            self.permits.with(py, |permits| {
                if permits.leave(ticket) {
                    permits.give(1);
                }
            });
        };
        call_all(call, gone, || self.permits.with(py, Permits::next_call));
    }
}

/// A number of permits as Python gives it.
fn permits(value: &Bound<'_, PyAny>) -> PyResult<usize> {
    if let Ok(number) = value.cast_exact::<PyInt>()
        && let Ok(number) = number.extract::<usize>()
        && number < COUNTABLE
    {
        return Ok(number);
    }
    if value.lt(0)? {
        return Err(PyValueError::new_err(
            "semaphore initial value must be >= 0",
        ));
    }
    if let Ok(number) = value.cast::<PyFloat>() {
        let number = number.value();
        let whole = number.fract() == 0.0 && number < COUNTABLE as f64;
        // Counted down by ones, what is not whole never is 0.
        return Ok(if whole { number as usize } else { UNLIMITED });
    }
    match value.extract::<usize>() {
        Ok(number) if number < COUNTABLE => Ok(number),
        Err(error) if !value.is_instance_of::<PyInt>() => Err(error),
        _ => Ok(UNLIMITED),
    }
}

/// The number as Python shows it.
fn shown(py: Python<'_>, count: usize) -> Returned {
    if count > COUNTABLE {
        return Ok(PyFloat::new(py, f64::INFINITY).into_any().into_ptr());
    }
    Ok(count.into_pyobject(py)?.into_any().into_ptr())
}

/// The body of a semaphore, the receiver of a method.
#[inline]
fn of<'a>(this: Ref<'a, '_>) -> &'a Semaphore {
    // SAFETY: the method's descriptor checked the type; an operation's target was a receiver.
    unsafe { body::<Semaphore>(this) }
}

/// One call of `acquire`.
#[derive(Default)]
struct Acquire {
    place: Option<Ticket>,
    /// For `async with`, whose result is `None`, as asyncio's own.
    entering: bool,
}

impl Acquire {
    /// Gives up the place in line. True: a permit had been granted, and is the caller's.
    fn give_up(&mut self, py: Python<'_>, target: Ref<'_, '_>) -> bool {
        let Some(place) = self.place.take() else {
            return false;
        };
        let semaphore = of(target);
        let (granted, call) = semaphore
            .permits
            .with(py, |permits| (permits.leave(&place), permits.next_call()));
        semaphore.wake(py, call);
        granted
    }
}

impl Operation for Acquire {
    fn poll(&mut self, py: Python<'_>, target: Ref<'_, '_>, who: &Waiter) -> PyResult<Poll<Obj>> {
        let semaphore = of(target);
        let (taken, call) = semaphore.permits.with(py, |permits| {
            (permits.poll(&mut self.place, who), permits.next_call())
        });
        semaphore.wake(py, call);
        if !taken {
            return Ok(Poll::Pending);
        }
        if self.entering {
            return Ok(Poll::Ready(py.None().into_bound(py).into()));
        }
        ready(py, true)
    }

    fn expire(&mut self, py: Python<'_>, target: Ref<'_, '_>) -> PyResult<Option<Obj>> {
        let granted = self.give_up(py, target);
        Ok(Some(wait::boolean(py, granted)))
    }

    fn leave(&mut self, py: Python<'_>, target: Ref<'_, '_>) -> bool {
        if self.give_up(py, target) {
            let semaphore = of(target);
            let call = semaphore.permits.with(py, |permits| {
                permits.give(1);
                permits.next_call()
            });
            semaphore.wake(py, call);
        }
        true
    }
}

/// What `acquire` and its twin were asked for.
enum Asked<'py> {
    /// Not to wait.
    Now,
    /// To wait, for that long: looked at only by those who have to.
    For(Option<Bound<'py, PyAny>>),
}

impl<'py> Asked<'py> {
    fn of(py: Python<'py>, name: &str, given: Arguments<'_, 'py>) -> PyResult<Self> {
        if given.all().is_empty() {
            return Ok(Self::For(None));
        }
        // SAFETY: immortal objects.
        let (no, none) = unsafe { (ffi::Py_False(), ffi::Py_None()) };
        let first = given.positional().first();
        if given.all().len() == 1 && first == Some(&no) {
            return Ok(Self::Now);
        }
        let [blocking, timeout] = given.named_or_positional(py, name, ["blocking", "timeout"])?;
        let blocks = match blocking {
            Some(blocking) => blocking.is_truthy()?,
            None => first != Some(&none),
        };
        match (blocks, timeout) {
            (true, timeout) => Ok(Self::For(timeout)),
            (false, None) => Ok(Self::Now),
            (false, Some(_)) => Err(PyValueError::new_err(
                "can't specify timeout for non-blocking acquire",
            )),
        }
    }

    fn timeout(&self) -> PyResult<Timeout> {
        match self {
            Self::Now => Ok(Timeout::Now),
            Self::For(timeout) => of_deadline(timeout.as_ref()),
        }
    }
}

fn acquire(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    if given.all().is_empty() && of(this).permits.with(py, Permits::take) {
        return heap::boolean(py, true);
    }
    acquire_slowly(py, this, given)
}

fn acquire_slowly(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    let asked = Asked::of(py, "acquire", given)?;
    if of(this).permits.with(py, Permits::take) {
        return heap::boolean(py, true);
    }
    match asked.timeout()? {
        Timeout::Now => heap::boolean(py, false),
        timeout => Ok(block(py, this, &mut Acquire::default(), timeout)?.into_ptr()),
    }
}

fn acquire_async(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    let timeout = Asked::of(py, "acquire_async", given)?.timeout()?;
    let acquire = Box::new(Acquire::default());
    Ok(awaitable(py, this, acquire, timeout, "Semaphore.acquire_async")?.into_ptr())
}

/// `__aenter__`. A permit that lies open is taken at once: nothing can come between the call and the await.
fn aenter(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    if of(this).permits.with(py, Permits::take) {
        return settled(py);
    }
    let acquire = Box::new(Acquire {
        place: None,
        entering: true,
    });
    let name = "Semaphore.__aenter__";
    Ok(awaitable(py, this, acquire, Timeout::Forever, name)?.into_ptr())
}

fn release(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    let count = if given.all().is_empty() {
        1
    } else {
        match given.named_or_positional(py, "release", ["n"])? {
            [Some(count)] if count.lt(1)? => {
                return Err(PyValueError::new_err("n must be one or more"));
            }
            [Some(count)] => count.extract::<isize>()?.cast_unsigned(),
            [None] => 1,
        }
    };
    if !of(this).release(py, count) {
        return Err(PyValueError::new_err("Semaphore released too many times"));
    }
    of(this).inside.notify(py)?;
    heap::none(py)
}

fn exit(py: Python<'_>, this: Ref<'_, '_>, _given: Arguments<'_, '_>) -> Returned {
    // By name, for a subclass may have a release() of its own.
    drop(Obj::from(call_method(&this, intern!(py, "release"), [])?));
    heap::none(py)
}

fn aexit(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    // SAFETY: `None`, a new reference.
    drop(unsafe { Obj::from_owned(exit(py, this, given)?) });
    settled(py)
}

fn init_bounded(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    let [value] = given.named_or_positional(py, "BoundedSemaphore.__init__", ["value"])?;
    of(this).start(py, value.as_ref(), true)?;
    heap::none(py)
}

fn value(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    let semaphore = of(this);
    let free = semaphore.permits.with(py, |permits| permits.free());
    shown(py, free)
}

/// `_value = value`.
unsafe extern "C" fn set_value(
    this: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
    _: *mut c_void,
) -> c_int {
    // SAFETY: called by CPython on a live instance; the value is NULL or alive.
    let done = unsafe {
        heap::door(|py| {
            let value = Bound::from_borrowed_ptr_or_opt(py, value)
                .ok_or_else(|| PyAttributeError::new_err("_value"))?;
            of(Borrowed::from_ptr(py, this)).put(py, permits(&value)?);
            Ok(this)
        })
    };
    if done.is_null() { -1 } else { 0 }
}

fn adopt(_py: Python<'_>, this: Ref<'_, '_>, condition: Ref<'_, '_>) -> Returned {
    of(this).inside.adopt(condition)
}

fn kept(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    of(this).inside.get(py)
}

fn bound(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    shown(py, of(this).bound.load(Ordering::Relaxed))
}

fn statistics(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    let semaphore = of(this);
    let waiters = waiters::list(py, &semaphore.permits, Permits::line)?;
    let bound = semaphore.bound.load(Ordering::Relaxed);
    let value = semaphore.permits.with(py, |permits| permits.free());
    let bound = (bound != UNLIMITED).then_some(bound);
    look(py, "SemaphoreStatistics", (value, bound, waiters))
}

/// Makes the type.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    native::register::<Semaphore>(
        module,
        Description {
            name: c"ropewalk._core.Semaphore",
            doc: c"Semaphore(value=1)\n--\n\nThe native half of ropewalk.threading's semaphores.",
            methods: vec![
                method!(c"acquire", ACQUIRE, keywords, acquire),
                method!(c"__enter__", ENTER, keywords, acquire),
                method!(c"acquire_async", ACQUIRE_ASYNC, keywords, acquire_async),
                method!(c"__aenter__", AENTER, noargs, aenter),
                method!(c"release", RELEASE, keywords, release),
                method!(c"__exit__", EXIT, keywords, exit),
                method!(c"__aexit__", AEXIT, keywords, aexit),
                method!(c"_init_bounded", INIT_BOUNDED, keywords, init_bounded),
                method!(c"statistics", STATISTICS, noargs, statistics),
                method!(c"_adopt", inside::ADOPT, one "condition", adopt),
            ],
            getters: vec![
                ffi::PyGetSetDef {
                    set: Some(set_value),
                    ..getter!(c"_value", value)
                },
                getter!(c"_bound", bound),
                getter!(c"_inside", kept),
            ],
            slots: Vec::new(),
        },
    )
}

const ACQUIRE: &CStr = c"acquire($self, blocking=True, timeout=None)\n--\n\n\
Take a permit; if there is none, block until there is, for at most `timeout` seconds (None: for ever).\n\n\
Returns True, or False if there was none in time, or none now and `blocking` is false. Among those who wait,\n\
the first is served first. An exception of a signal handler, Ctrl-C's for one, ends the wait and takes no\n\
permit. ValueError for a `timeout` where `blocking` is false, TypeError for one that is no number,\n\
OverflowError for one above threading.TIMEOUT_MAX.";
const ENTER: &CStr = c"__enter__($self, blocking=True, timeout=None)\n--\n\nAs acquire.";
const ACQUIRE_ASYNC: &CStr = c"acquire_async($self, blocking=True, timeout=None)\n--\n\n\
Take a permit as `acquire` does, without blocking the event loop: to be awaited, in any of them.\n\n\
Cancelling it takes no permit.";
const AENTER: &CStr = c"__aenter__($self)\n--\n\nTake a permit: `async with`.";
const RELEASE: &CStr = c"release($self, n=1)\n--\n\n\
Put `n` permits back, and wake as many of those who wait.\n\n\
Whoever likes may do so, from any thread, task or signal handler. ValueError if `n` is less than 1, and\n\
for a bounded semaphore if it would have more permits than it began with.";
const STATISTICS: &CStr = c"statistics($self)\n--\n\n\
Return a SemaphoreStatistics: how many permits there are, and who waits for one. Thread-safe.";
const EXIT: &CStr = c"__exit__($self, t, v, tb)\n--\n\nPut the permit back.";
const AEXIT: &CStr = c"__aexit__($self, t, v, tb)\n--\n\nPut the permit back: `async with`.";
const INIT_BOUNDED: &CStr = c"_init_bounded($self, value=1)\n--\n\n\
Start with `value` permits, which is also the most that there may be.";
