//! The methods of `Queue`.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::{Borrowed, ffi};

use super::arguments::Signature;
use super::monitor::Which;
use super::object::Queue;
use super::operation::{Attempt, Get, Join, Put, run, run_async};
use super::timeouts::{Patience, blocks};
use crate::heap::{Arguments, Quick, Ref, Returned, method};
use crate::object::Obj;
use crate::sync::look;

const fn put_signature(name: &'static str) -> Signature<3> {
    Signature {
        name,
        parameters: ["item", "block", "timeout"],
        required: 1,
    }
}

const fn get_signature(name: &'static str) -> Signature<2> {
    Signature {
        name,
        parameters: ["block", "timeout"],
        required: 0,
    }
}

/// Refuses arguments to a method without parameters.
#[inline]
fn none_given(
    py: Python<'_>,
    this: Ref<'_, '_>,
    given: Arguments<'_, '_>,
    name: &'static str,
) -> PyResult<()> {
    if given.all().is_empty() {
        return Ok(());
    }
    let signature = Signature {
        name,
        parameters: [],
        required: 0,
    };
    signature.read(py, this, given).map(drop)
}

/// What a `put` is to do, and how long it may take.
#[inline]
fn read_put(
    py: Python<'_>,
    this: Ref<'_, '_>,
    given: Arguments<'_, '_>,
    name: &'static str,
) -> PyResult<(Put, bool, Patience)> {
    let [item, block, timeout] = put_signature(name).read(py, this, given)?;
    let Some(item) = item else {
        return Err(PyValueError::new_err("put needs an item"));
    };
    let item = Put(item.to_owned().into());
    let block = blocks(block)?;
    // Of a queue without a limit the original does not look at the timeout, nor of one that is shut down.
    let queue = Queue::of(this);
    let patience = match timeout {
        Some(timeout) if block && !queue.is_shut_down() && queue.is_bounded(py, this)? => {
            Patience::read(Some(timeout))?
        }
        _ => Patience::Forever,
    };
    Ok((item, block, patience))
}

/// How long a `get` may take.
#[inline]
fn read_get(
    py: Python<'_>,
    this: Ref<'_, '_>,
    given: Arguments<'_, '_>,
    name: &'static str,
) -> PyResult<(bool, Patience)> {
    if given.all().is_empty() {
        return Ok((true, Patience::Forever));
    }
    let [block, timeout] = get_signature(name).read(py, this, given)?;
    let block = blocks(block)?;
    let patience = if block && !Queue::of(this).is_shut_down() {
        Patience::read(timeout)?
    } else {
        Patience::Forever
    };
    Ok((block, patience))
}

fn put(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    let (item, block, patience) = read_put(py, this, given, "Queue.put")?;
    run(py, this, item, block, &patience)
}

fn put_async(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    const NAME: &str = "Queue.put_async";
    let (item, block, patience) = read_put(py, this, given, NAME)?;
    run_async(py, this, item, block, &patience, NAME)
}

fn put_nowait(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    let signature = Signature {
        name: "Queue.put_nowait",
        parameters: ["item"],
        required: 1,
    };
    let [item] = signature.read(py, this, given)?;
    let Some(item) = item else {
        return Err(PyValueError::new_err("put_nowait needs an item"));
    };
    let item = Put(item.to_owned().into());
    run(py, this, item, false, &Patience::Forever)
}

fn get(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    let (block, patience) = read_get(py, this, given, "Queue.get")?;
    run(py, this, Get, block, &patience)
}

fn get_async(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    const NAME: &str = "Queue.get_async";
    let (block, patience) = read_get(py, this, given, NAME)?;
    run_async(py, this, Get, block, &patience, NAME)
}

fn get_nowait(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    none_given(py, this, given, "Queue.get_nowait")?;
    run(py, this, Get, false, &Patience::Forever)
}

fn join(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    none_given(py, this, given, "Queue.join")?;
    run(py, this, Join, true, &Patience::Forever)
}

fn join_async(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    const NAME: &str = "Queue.join_async";
    none_given(py, this, given, NAME)?;
    run_async(py, this, Join, true, &Patience::Forever, NAME)
}

/// `task_done()`, and then everybody may go on who joins.
struct TaskDone;

impl Attempt for TaskDone {
    const LINE: Which = Which::AllDone;
    const LETS_GO_ON: Option<Which> = None;

    #[inline]
    fn attempt(&mut self, py: Python<'_>, this: Ref<'_, '_>) -> PyResult<Option<Obj>> {
        let queue = Queue::of(this);
        let unfinished = queue.unfinished() - 1;
        if unfinished < 0 {
            return Err(PyValueError::new_err("task_done() called too many times"));
        }
        queue.set_unfinished(unfinished);
        if unfinished == 0 {
            queue.monitor.notify_all(py, Which::AllDone);
        }
        Ok(Some(py.None().into_bound(py).into()))
    }
}

fn task_done(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    none_given(py, this, given, "Queue.task_done")?;
    run(py, this, TaskDone, true, &Patience::Forever)
}

/// A look at the items, with the mutex held.
struct Look(fn(Python<'_>, Ref<'_, '_>) -> PyResult<Obj>);

impl Attempt for Look {
    const LINE: Which = Which::AllDone;
    const LETS_GO_ON: Option<Which> = None;

    #[inline]
    fn attempt(&mut self, py: Python<'_>, this: Ref<'_, '_>) -> PyResult<Option<Obj>> {
        (self.0)(py, this).map(Some)
    }
}

fn boolean(py: Python<'_>, value: bool) -> Obj {
    crate::wait::boolean(py, value)
}

fn look_size(py: Python<'_>, this: Ref<'_, '_>) -> PyResult<Obj> {
    Queue::of(this).size(py, this)
}

fn look_empty(py: Python<'_>, this: Ref<'_, '_>) -> PyResult<Obj> {
    let size = Queue::of(this).size(py, this)?;
    Ok(boolean(py, !size.bind(py).is_truthy()?))
}

fn look_full(py: Python<'_>, this: Ref<'_, '_>) -> PyResult<Obj> {
    Ok(boolean(py, Queue::of(this).full(py, this)?))
}

/// The size and the limit for a shortcut of `qsize()`, `empty()`, `full()`. What goes wrong goes wrong again in the
/// method itself, and is raised there.
///
/// # Safety
/// Called on an instance, attached.
#[inline]
unsafe fn glance(
    this: *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> Option<(i64, i64)> {
    if count != 0 || !names.is_null() {
        return None;
    }
    // SAFETY: says the caller.
    unsafe {
        let py = Python::assume_attached();
        let this = Borrowed::from_ptr(py, this);
        Queue::of(this).glance(py, this).ok().flatten()
    }
}

unsafe fn qsize_quickly(
    this: *mut ffi::PyObject,
    _values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> Option<*mut ffi::PyObject> {
    // SAFETY: as the method's definition says; attached.
    unsafe { glance(this, count, names).map(|(size, _)| ffi::PyLong_FromLongLong(size)) }
}

unsafe fn empty_quickly(
    this: *mut ffi::PyObject,
    _values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> Option<*mut ffi::PyObject> {
    // SAFETY: as the method's definition says; attached.
    unsafe { glance(this, count, names).map(|(size, _)| Quick::from(size == 0).object()) }
}

unsafe fn full_quickly(
    this: *mut ffi::PyObject,
    _values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> Option<*mut ffi::PyObject> {
    // SAFETY: as the method's definition says; attached.
    unsafe {
        glance(this, count, names)
            .map(|(size, limit)| Quick::from(0 < limit && limit <= size).object())
    }
}

fn qsize(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    none_given(py, this, given, "Queue.qsize")?;
    run(py, this, Look(look_size), true, &Patience::Forever)
}

fn empty(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    none_given(py, this, given, "Queue.empty")?;
    run(py, this, Look(look_empty), true, &Patience::Forever)
}

fn full(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    none_given(py, this, given, "Queue.full")?;
    run(py, this, Look(look_full), true, &Patience::Forever)
}

/// `statistics()`: without the mutex, so that it can always be asked.
fn statistics(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    none_given(py, this, given, "Queue.statistics")?;
    let queue = Queue::of(this);
    let known = (
        queue.size(py, this)?.into_bound(py),
        queue.maxsize(py, this)?.into_bound(py),
        queue.unfinished(),
        queue.is_shut_down(),
        queue.monitor.waiters(py, Which::NotEmpty)?,
        queue.monitor.waiters(py, Which::NotFull)?,
        queue.monitor.waiters(py, Which::AllDone)?,
    );
    look(py, "QueueStatistics", known)
}

pub(super) fn methods() -> Vec<ffi::PyMethodDef> {
    vec![
        method!(c"put", c"put($self, /, item, block=True, timeout=None)\n--\n\nPut an item into the queue, waiting for a free place if there is a limit.\n\nblock: False does not wait. timeout: seconds to wait at most; None waits without limit; ignored if block\nis false or the queue has no limit. Raises Full if there was no place in time, ShutDown if the queue is shut down,\nValueError for a negative timeout. Thread-safe; a signal handler that raises ends the wait, and then nothing\nwas put. See queue.Queue.put in CPython's documentation.", keywords, put),
        method!(c"get", c"get($self, /, block=True, timeout=None)\n--\n\nRemove and return an item, waiting for one.\n\nblock: False does not wait. timeout: seconds to wait at most; None waits without limit; ignored if block\nis false. Raises Empty if there was no item in time, ShutDown if the queue is shut down and empty, ValueError for a\nnegative timeout. Thread-safe; who waits first is called first; a signal handler that raises ends the\nwait, and then nothing was taken. See queue.Queue.get in CPython's documentation.", keywords, get),
        method!(c"put_nowait", c"put_nowait($self, /, item)\n--\n\nThe same as put(item, block=False).", keywords, put_nowait),
        method!(c"get_nowait", c"get_nowait($self, /)\n--\n\nThe same as get(block=False).", keywords, get_nowait),
        method!(c"task_done", c"task_done($self, /)\n--\n\nSay that an item that was taken has been processed; the last one ends every join().\n\nRaises ValueError if called more often than items were put. Thread-safe.", keywords, task_done),
        method!(c"join", c"join($self, /)\n--\n\nWait until every item that was put has been taken and reported by task_done(). Thread-safe.", keywords, join),
        method!(c"qsize", c"qsize($self, /)\n--\n\nReturn how many items there are just now. Thread-safe.", any qsize_quickly, qsize),
        method!(c"empty", c"empty($self, /)\n--\n\nReturn whether there is no item just now. Thread-safe.", any empty_quickly, empty),
        method!(c"full", c"full($self, /)\n--\n\nReturn whether there is no place just now. Thread-safe.", any full_quickly, full),
        method!(c"put_async", c"put_async($self, /, item, block=True, timeout=None)\n--\n\nput() to be awaited: the coroutine waits, its event loop goes on.\n\nSame parameters, results and exceptions. A cancelled call puts nothing, and a place that it was told of goes to the\nnext who waits. Raises RuntimeError if it has to wait and no event loop runs.", keywords, put_async),
        method!(c"get_async", c"get_async($self, /, block=True, timeout=None)\n--\n\nget() to be awaited: the coroutine waits, its event loop goes on.\n\nSame parameters, results and exceptions. A cancelled call takes nothing, and an item that it was told of goes to\nthe next who waits. Raises RuntimeError if it has to wait and no event loop runs.", keywords, get_async),
        method!(c"join_async", c"join_async($self, /)\n--\n\njoin() to be awaited: the coroutine waits, its event loop goes on.", keywords, join_async),
        method!(c"statistics", c"statistics($self, /)\n--\n\nReturn a QueueStatistics: how many items there are, and who waits for what. Thread-safe, at any time.", keywords, statistics),
        super::class_getitem(),
    ]
}

pub(super) fn slots() -> Vec<(std::ffi::c_int, *mut std::ffi::c_void)> {
    vec![(
        ffi::Py_tp_setattro,
        super::object::set_attribute as *mut std::ffi::c_void,
    )]
}
