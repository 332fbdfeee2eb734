//! `Lock`.

use std::ffi::c_int;
use std::sync::OnceLock;

use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use ropewalk_wait::Ticket;

use super::acquire::{self, Lockable, acquire_async, wait_for};
use super::holder::{Held, Holder};
use super::look;
use crate::heap::{self, Arguments, Quick, RawType, Ref, Returned, method};
use crate::native::{self, Body, Description, body, raw_body};
use crate::object::Obj;
use crate::wait::{Timeout, Waiter, settled};

/// The body of a `Lock`.
#[derive(Default)]
pub(crate) struct Lock {
    pub(super) held: Held,
}

static CLASS: OnceLock<RawType> = OnceLock::new();

impl Lock {
    /// The lock itself, for those who build on it in Rust.
    #[inline]
    pub(crate) fn held(&self) -> &Held {
        &self.held
    }
}

impl Body for Lock {
    fn class() -> &'static OnceLock<RawType> {
        &CLASS
    }

    const BORN_READY: bool = true;
    // Nor from CPython's.
    const SUBCLASSABLE: bool = false;

    fn visit(&self, visit: &mut dyn FnMut(&Obj) -> c_int) -> c_int {
        self.held.visit(visit)
    }

    fn init(
        _this: Ref<'_, '_>,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        if args.is_empty() && kwargs.is_none_or(|kwargs| kwargs.is_empty()) {
            return Ok(());
        }
        Err(PyTypeError::new_err("Lock() takes no arguments"))
    }
}

impl Lockable for Lock {
    const NAMES: [&'static str; 2] = ["Lock.acquire_async", "Lock.__aenter__"];

    fn poll(&self, py: Python<'_>, place: &mut Option<Ticket>, who: &Waiter) -> PyResult<bool> {
        Ok(self.held.poll(py, place, who, &Holder::of(py, who)))
    }

    fn leave(&self, py: Python<'_>, ticket: &Ticket) {
        self.held.leave(py, ticket);
    }
}

/// The body of a lock, the receiver of a method.
#[inline]
fn of<'a>(this: Ref<'a, '_>) -> &'a Lock {
    // SAFETY: the method's descriptor checked the type; an operation's target was a receiver.
    unsafe { body::<Lock>(this) }
}

/// `acquire()` and `__enter__()` of a free lock.
#[inline]
pub(super) unsafe fn take(this: *mut ffi::PyObject) -> Option<Quick> {
    // SAFETY: the method's descriptor checked the type.
    let held = unsafe { &raw_body::<Lock>(this).held };
    // SAFETY: called by CPython, attached.
    unsafe { held.take_quickly() }.then_some(Quick::True)
}

/// `release()` and `__exit__()` of a lock for which nobody has to be woken.
#[inline]
pub(super) unsafe fn free(this: *mut ffi::PyObject) -> Option<Quick> {
    // SAFETY: the method's descriptor checked the type.
    let held = unsafe { &raw_body::<Lock>(this).held };
    // SAFETY: called by CPython, attached.
    unsafe { held.free_quickly() }.then_some(Quick::None)
}

pub(super) fn acquire(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    let timeout = Timeout::of_acquire(py, given)?;
    if of(this).held.take(py) {
        return heap::boolean(py, true);
    }
    wait_for::<Lock>(py, this, timeout)
}

pub(super) fn enter(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    if of(this).held.take(py) {
        return heap::boolean(py, true);
    }
    wait_for::<Lock>(py, this, Timeout::Forever)
}

pub(super) fn release(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    if of(this).held.free(py) {
        return heap::none(py);
    }
    Err(PyRuntimeError::new_err("release unlocked lock"))
}

fn exit(py: Python<'_>, this: Ref<'_, '_>, _given: Arguments<'_, '_>) -> Returned {
    release(py, this)
}

fn locked(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    heap::boolean(py, of(this).held.is_held(py))
}

pub(super) fn enter_async(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    if of(this).held.take_for_task(py) {
        return settled(py);
    }
    acquire::enter_async::<Lock>(py, this)
}

pub(super) fn exit_async(py: Python<'_>, this: Ref<'_, '_>, _given: Arguments<'_, '_>) -> Returned {
    // SAFETY: a new reference to None, which is of no use.
    drop(unsafe { Obj::from_owned(release(py, this)?) });
    settled(py)
}

fn reinit(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    of(this).held.reset(py);
    heap::none(py)
}

fn statistics(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    look(py, "LockStatistics", of(this).held.look(py)?)
}

fn repr(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    let state = if of(this).held.is_held(py) {
        "locked"
    } else {
        "unlocked"
    };
    let class = this.get_type();
    Ok(format!(
        "<{state} {}.{} object at {:p}>",
        class.module()?,
        class.qualname()?,
        this.as_ptr()
    )
    .into_pyobject(py)?
    .into_any()
    .into_ptr())
}

/// Makes the type.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    const ACQUIRE: &std::ffi::CStr = c"acquire($self, /, blocking=True, timeout=-1)\n--\n\nLock the lock, waiting until it is free.\n\nblocking: False does not wait. timeout: seconds to wait at most; -1 waits without limit.\nReturns True if the lock was acquired, False if it was not. Raises ValueError for a negative timeout, or one\nwith blocking=False; OverflowError for more than threading.TIMEOUT_MAX. Thread-safe; a signal handler that\nraises ends the wait. See threading.Lock.acquire in CPython's documentation.";
    const RELEASE: &std::ffi::CStr = c"release($self, /)\n--\n\nUnlock the lock, from any thread or task. Raises RuntimeError if it is not locked.";
    const LOCKED: &std::ffi::CStr = c"locked($self, /)\n--\n\nReturn whether the lock is locked.";
    native::register::<Lock>(
        module,
        Description {
            // As of `RLock`.
            name: c"_thread.Lock",
            doc: c"Lock()\n--\n\nA lock for threads and tasks: threading.Lock, which can also be awaited.\n\n`with lock` in a thread, `async with lock` in a coroutine, on the same object at once. A newcomer may\novertake those who sleep; nobody is overtaken again after having been woken for nothing once.\nThread-safe. See threading.Lock in CPython's documentation.",
            methods: vec![
                method!(c"acquire", ACQUIRE, keywords take, acquire),
                method!(c"release", RELEASE, noargs free, release),
                method!(c"locked", LOCKED, noargs, locked),
                method!(c"__enter__", c"__enter__($self, /)\n--\n\nLock the lock.", noargs take, enter),
                method!(c"__exit__", c"__exit__($self, /, *exc_info)\n--\n\nUnlock the lock.", exit free, exit),
                method!(c"acquire_async", c"acquire_async($self, /, blocking=True, timeout=-1)\n--\n\nacquire() to be awaited: the coroutine waits, its event loop goes on.\n\nSame parameters, results and exceptions. A cancellation takes nothing: a lock that was on its way to the\ncancelled task goes to the next who waits. Raises RuntimeError if it has to wait and no event loop runs.", keywords, acquire_async::<Lock>),
                method!(c"__aenter__", c"__aenter__($self, /)\n--\n\nLock the lock, to be awaited.", noargs, enter_async),
                method!(c"__aexit__", c"__aexit__($self, /, *exc_info)\n--\n\nUnlock the lock.", keywords, exit_async),
                method!(c"statistics", c"statistics($self, /)\n--\n\nReturn a LockStatistics: whether it is locked, who holds it, who waits for it. Thread-safe.", noargs, statistics),
                method!(c"acquire_lock", ACQUIRE, keywords take, acquire),
                method!(c"release_lock", RELEASE, noargs free, release),
                method!(c"locked_lock", LOCKED, noargs, locked),
                method!(c"_at_fork_reinit", c"_at_fork_reinit($self, /)\n--\n\nMake the lock free, in a forked child whose other threads are gone.", noargs, reinit),
            ],
            getters: vec![],
            slots: vec![heap::repr_slot!(repr)],
        },
    )
}
