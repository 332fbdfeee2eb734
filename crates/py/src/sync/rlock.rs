//! `RLock`: a lock that its holder may take again.

use std::ffi::c_int;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use pyo3::exceptions::{PyDeprecationWarning, PyOverflowError, PyRuntimeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use ropewalk_sys::fork;
use ropewalk_wait::Ticket;

use super::acquire::{self, Lockable, acquire_async, wait_for};
use super::holder::{Held, Holder};
use super::look;
use crate::heap::{self, Arguments, Quick, RawType, Ref, Returned, method};
use crate::native::{self, Body, Description, body, raw_body};
use crate::object::Obj;
use crate::wait::{Timeout, Waiter, settled};

/// The body of an `RLock`.
#[derive(Default)]
pub(crate) struct RLock {
    held: Held,
    /// How often the holder has taken it. Only the holder touches it.
    count: AtomicUsize,
}

static CLASS: OnceLock<RawType> = OnceLock::new();

impl Body for RLock {
    fn class() -> &'static OnceLock<RawType> {
        &CLASS
    }

    const BORN_READY: bool = true;

    fn visit(&self, visit: &mut dyn FnMut(&Obj) -> c_int) -> c_int {
        self.held.visit(visit)
    }

    fn init(
        this: Ref<'_, '_>,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        if args.is_empty() && kwargs.is_none_or(|kwargs| kwargs.is_empty()) {
            return Ok(());
        }
        // There are none, and what comes of any has changed from version to version.
        let py = this.py();
        if cfg!(all(Py_3_13, not(Py_3_15))) {
            let text = c"Passing arguments to RLock is deprecated and will be removed in 3.15";
            let kind = py.get_type::<PyDeprecationWarning>();
            PyErr::warn(py, &kind, text, 1)?;
        }
        let original = py.import("_thread")?.getattr("RLock")?;
        original.call(args, kwargs).map(drop)
    }
}

/// What a holder gives up to wait for a condition, and takes back afterwards.
#[derive(Clone, Debug)]
pub(super) struct Saved {
    count: usize,
    holder: Holder,
}

impl Saved {
    /// Of a lock that is held once.
    pub(super) fn once(holder: Holder) -> Self {
        Self { count: 1, holder }
    }

    pub(super) fn holder(&self) -> &Holder {
        &self.holder
    }

    pub(super) fn visit(&self, visit: &mut dyn FnMut(&Obj) -> c_int) -> c_int {
        self.holder.visit(visit)
    }
}

impl RLock {
    pub(super) fn is_held(&self, py: Python<'_>) -> bool {
        self.held.is_held(py)
    }

    #[inline]
    pub(super) fn is_this_threads(&self) -> bool {
        self.held.holder() == fork::this_thread()
    }

    /// Takes the lock for the calling thread if it is free or the thread's already.
    #[inline]
    pub(super) fn take(&self, py: Python<'_>) -> PyResult<bool> {
        if self.held.holder() == fork::this_thread() {
            self.again()?;
            return Ok(true);
        }
        let taken = self.held.take(py);
        if taken {
            self.count.store(1, Ordering::Relaxed);
        }
        Ok(taken)
    }

    /// Takes the lock for the running task if it is free or the task's already.
    fn take_for_task(&self, py: Python<'_>) -> PyResult<bool> {
        let holder = self.held.holder();
        if holder != 0 && holder == number_of_task(py, holder) {
            self.again()?;
            return Ok(true);
        }
        let taken = self.held.take_for_task(py);
        if taken {
            self.count.store(1, Ordering::Relaxed);
        }
        Ok(taken)
    }

    /// The holder takes it once more.
    #[inline]
    fn again(&self) -> PyResult<()> {
        let count = self.count.load(Ordering::Relaxed);
        if count == usize::MAX {
            return Err(PyOverflowError::new_err("Internal lock count overflowed"));
        }
        self.count.store(count + 1, Ordering::Relaxed);
        Ok(())
    }

    /// Takes the lock for a waiter, `saved.count` times, or gives it a place.
    pub(super) fn poll_as(
        &self,
        py: Python<'_>,
        place: &mut Option<Ticket>,
        who: &Waiter,
        saved: &Saved,
    ) -> bool {
        let taken = self.held.poll(py, place, who, &saved.holder);
        if taken {
            self.count.store(saved.count, Ordering::Relaxed);
        }
        taken
    }

    /// Whether the caller holds it: this thread, or the task that runs in it.
    #[inline]
    pub(super) fn is_owned(&self, py: Python<'_>) -> bool {
        let holder = self.held.holder();
        holder == fork::this_thread() || (holder != 0 && self.is_owned_by_task(py, holder))
    }

    #[cold]
    fn is_owned_by_task(&self, py: Python<'_>, holder: usize) -> bool {
        // Most of the time it is another thread's, which needs no look at asyncio.
        holder == number_of_task(py, holder)
    }

    /// Lets go once.
    #[inline]
    pub(super) fn free(&self, py: Python<'_>) -> PyResult<()> {
        if !self.is_owned(py) {
            return Err(PyRuntimeError::new_err("cannot release un-acquired lock"));
        }
        let count = self.count.load(Ordering::Relaxed).saturating_sub(1);
        self.count.store(count, Ordering::Relaxed);
        if count == 0 {
            self.held.free(py);
        }
        Ok(())
    }

    /// Lets go altogether, and remembers how it was.
    pub(super) fn save(&self, py: Python<'_>) -> Saved {
        let holder = Holder::known(self.held.holder(), self.held.task(py));
        let count = self.count.swap(0, Ordering::Relaxed);
        self.held.free(py);
        Saved { count, holder }
    }
}

/// The number of the running task, if a task is meant at all.
fn number_of_task(py: Python<'_>, holder: usize) -> usize {
    if Holder::is_task(holder) {
        Holder::task(py).number()
    } else {
        0
    }
}

impl Lockable for RLock {
    const NAMES: [&'static str; 2] = ["RLock.acquire_async", "RLock.__aenter__"];

    fn poll(&self, py: Python<'_>, place: &mut Option<Ticket>, who: &Waiter) -> PyResult<bool> {
        let holder = Holder::of(py, who);
        if self.held.holder() == holder.number() {
            self.again()?;
            return Ok(true);
        }
        Ok(self.poll_as(py, place, who, &Saved::once(holder)))
    }

    fn leave(&self, py: Python<'_>, ticket: &Ticket) {
        self.held.leave(py, ticket);
    }
}

/// The body of a lock, the receiver of a method.
#[inline]
fn of<'a>(this: Ref<'a, '_>) -> &'a RLock {
    // SAFETY: the method's descriptor checked the type; an operation's target was a receiver.
    unsafe { body::<RLock>(this) }
}

/// `acquire()` and `__enter__()` of a lock that is free or the thread's own.
#[inline]
pub(super) unsafe fn take(this: *mut ffi::PyObject) -> Option<Quick> {
    // SAFETY: the method's descriptor checked the type.
    let lock = unsafe { raw_body::<RLock>(this) };
    if lock.held.holder() == fork::this_thread() {
        return lock.again().is_ok().then_some(Quick::True);
    }
    // SAFETY: called by CPython, attached.
    let taken = unsafe { lock.held.take_quickly() };
    if taken {
        lock.count.store(1, Ordering::Relaxed);
    }
    taken.then_some(Quick::True)
}

/// `release()` and `__exit__()` of the thread's own lock for which nobody has to be woken.
#[inline]
pub(super) unsafe fn free(this: *mut ffi::PyObject) -> Option<Quick> {
    // SAFETY: the method's descriptor checked the type.
    let lock = unsafe { raw_body::<RLock>(this) };
    if lock.held.holder() != fork::this_thread() {
        return None;
    }
    // The next holder writes the count after this one is through with it.
    let count = lock.count.load(Ordering::Relaxed);
    if count > 1 {
        lock.count.store(count - 1, Ordering::Relaxed);
        return Some(Quick::None);
    }
    lock.count.store(0, Ordering::Relaxed);
    // SAFETY: called by CPython, attached.
    if unsafe { lock.held.free_quickly() } {
        return Some(Quick::None);
    }
    lock.count.store(count, Ordering::Relaxed);
    None
}

pub(super) fn acquire(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    let timeout = Timeout::of_acquire(py, given)?;
    if of(this).take(py)? {
        return heap::boolean(py, true);
    }
    wait_for::<RLock>(py, this, timeout)
}

pub(super) fn enter(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    if of(this).take(py)? {
        return heap::boolean(py, true);
    }
    wait_for::<RLock>(py, this, Timeout::Forever)
}

pub(super) fn release(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    of(this).free(py)?;
    heap::none(py)
}

fn exit(py: Python<'_>, this: Ref<'_, '_>, _given: Arguments<'_, '_>) -> Returned {
    release(py, this)
}

fn locked(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    heap::boolean(py, of(this).held.is_held(py))
}

pub(super) fn enter_async(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    if of(this).take_for_task(py)? {
        return settled(py);
    }
    acquire::enter_async::<RLock>(py, this)
}

pub(super) fn exit_async(py: Python<'_>, this: Ref<'_, '_>, _given: Arguments<'_, '_>) -> Returned {
    // SAFETY: a new reference to None, which is of no use.
    drop(unsafe { Obj::from_owned(release(py, this)?) });
    settled(py)
}

fn is_owned(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    heap::boolean(py, of(this).is_owned(py))
}

fn recursion_count(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    let lock = of(this);
    let count = if lock.is_owned(py) {
        lock.count.load(Ordering::Relaxed)
    } else {
        0
    };
    Ok(count.into_pyobject(py)?.into_any().into_ptr())
}

/// `_release_save()`, for conditions of other makers: `(count, holder)`, the holder by its number.
fn release_save(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    let lock = of(this);
    if lock.count.load(Ordering::Relaxed) == 0 {
        return Err(PyRuntimeError::new_err("cannot release un-acquired lock"));
    }
    let saved = lock.save(py);
    Ok((saved.count, saved.holder.number())
        .into_pyobject(py)?
        .into_any()
        .into_ptr())
}

/// `_acquire_restore((count, holder))`, in the name of whoever calls.
fn acquire_restore(py: Python<'_>, this: Ref<'_, '_>, state: Ref<'_, '_>) -> Returned {
    let (count, holder): (usize, usize) = state.extract()?;
    let lock = of(this);
    if !lock.held.take(py) {
        // SAFETY: a new reference to True, which is of no use.
        drop(unsafe { Obj::from_owned(wait_for::<RLock>(py, this, Timeout::Forever)?) });
    }
    lock.count.store(count, Ordering::Relaxed);
    if Holder::is_task(holder) {
        lock.held.rename(py, Holder::task(py));
    }
    heap::none(py)
}

fn reinit(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    let lock = of(this);
    lock.held.reset(py);
    lock.count.store(0, Ordering::Relaxed);
    heap::none(py)
}

fn statistics(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    let lock = of(this);
    let (held, holder, waiters) = lock.held.look(py)?;
    let count = lock.count.load(Ordering::Relaxed);
    look(py, "RLockStatistics", (held, holder, waiters, count))
}

fn repr(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    let lock = of(this);
    let held = lock.held.is_held(py);
    let state = if held { "locked" } else { "unlocked" };
    let class = this.get_type();
    Ok(format!(
        "<{state} {}.{} object owner={} count={} at {:p}>",
        class.module()?,
        class.qualname()?,
        lock.held.holder(),
        lock.count.load(Ordering::Relaxed),
        this.as_ptr()
    )
    .into_pyobject(py)?
    .into_any()
    .into_ptr())
}

/// Makes the type.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    native::register::<RLock>(
        module,
        Description {
            // Of the module that CPython's is of: who asks that, as trio does, asks whether the lock may be taken
            // between any two bytecodes, by a signal handler. This one may.
            name: c"_thread.RLock",
            doc: c"RLock()\n--\n\nA reentrant lock for threads and tasks: threading.RLock, which can also be awaited.\n\nIts holder may acquire it again, and releases it as often. `with lock` makes the thread its holder,\n`async with lock` the task: two tasks of one thread exclude each other. Thread-safe. See threading.RLock in\nCPython's documentation.",
            methods: vec![
                method!(c"acquire", c"acquire($self, /, blocking=True, timeout=-1)\n--\n\nLock the lock, waiting until it is free or the caller's own.\n\nblocking: False does not wait. timeout: seconds to wait at most; -1 waits without limit.\nReturns True if the lock was acquired, False if it was not. Raises ValueError for a negative timeout, or one\nwith blocking=False; OverflowError for more than threading.TIMEOUT_MAX. Thread-safe; a signal handler that\nraises ends the wait. See threading.RLock.acquire in CPython's documentation.", keywords take, acquire),
                method!(c"release", c"release($self, /)\n--\n\nUnlock the lock once. Raises RuntimeError if neither this thread nor the running task holds it.", noargs free, release),
                method!(c"locked", c"locked($self, /)\n--\n\nReturn whether anybody holds the lock.", noargs, locked),
                method!(c"__enter__", c"__enter__($self, /)\n--\n\nLock the lock.", noargs take, enter),
                method!(c"__exit__", c"__exit__($self, /, *exc_info)\n--\n\nUnlock the lock once.", exit free, exit),
                method!(c"acquire_async", c"acquire_async($self, /, blocking=True, timeout=-1)\n--\n\nacquire() to be awaited: the running task becomes the holder, its event loop goes on.\n\nSame parameters, results and exceptions. A cancellation takes nothing: a lock that was on its way to the\ncancelled task goes to the next who waits. Raises RuntimeError if it has to wait and no event loop runs.", keywords, acquire_async::<RLock>),
                method!(c"__aenter__", c"__aenter__($self, /)\n--\n\nLock the lock, to be awaited.", noargs, enter_async),
                method!(c"__aexit__", c"__aexit__($self, /, *exc_info)\n--\n\nUnlock the lock once.", keywords, exit_async),
                method!(c"statistics", c"statistics($self, /)\n--\n\nReturn an RLockStatistics: whether it is locked, who holds it, who waits for it, and how often the holder has\nacquired it. Thread-safe.", noargs, statistics),
                method!(c"_is_owned", c"_is_owned($self, /)\n--\n\nReturn whether this thread or the running task holds the lock.", noargs, is_owned),
                method!(c"_recursion_count", c"_recursion_count($self, /)\n--\n\nReturn how often the caller holds the lock.", noargs, recursion_count),
                method!(c"_release_save", c"_release_save($self, /)\n--\n\nRelease the lock altogether, and return what _acquire_restore() takes.", noargs, release_save),
                method!(c"_acquire_restore", c"_acquire_restore($self, state, /)\n--\n\nAcquire the lock as it was before _release_save().", one "state", acquire_restore),
                method!(c"_at_fork_reinit", c"_at_fork_reinit($self, /)\n--\n\nMake the lock free, in a forked child whose other threads are gone.", noargs, reinit),
            ],
            getters: vec![],
            slots: vec![heap::repr_slot!(repr)],
        },
    )
}
