//! `SimpleQueue`: a native channel, unbounded, into which anything may put at any time.
//!
//! Nothing that it does under its guard runs Python code or frees an object. So `put` may be called in the middle of
//! any other call, from a signal handler or a `__del__`, as the original promises.

use std::ffi::c_int;
use std::ptr;
use std::sync::OnceLock;
use std::task::Poll;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use pyo3::{ffi, intern};
use ropewalk_wait::line::Call;
use ropewalk_wait::{Channel, Ticket};

use super::arguments::sort;
use super::raised::Raised;
use super::timeouts;
use crate::guard::Guarded;
use crate::heap::{self, Arguments, Quick, RawType, Ref, Returned, method};
use crate::native::{self, Body, Description};
use crate::object::Obj;
use crate::sync::look;
use crate::wait::{Operation, Timeout, Waiter, awaitable, block, call_all};

static CLASS: OnceLock<RawType> = OnceLock::new();

pub(super) struct SimpleQueue {
    channel: Guarded<Channel<Obj, Waiter>>,
}

impl Default for SimpleQueue {
    fn default() -> Self {
        Self {
            channel: Guarded::new(Channel::new()),
        }
    }
}

impl Body for SimpleQueue {
    const BORN_READY: bool = true;

    fn class() -> &'static OnceLock<RawType> {
        &CLASS
    }

    fn visit(&self, visit: &mut dyn FnMut(&Obj) -> c_int) -> c_int {
        self.channel
            .try_look(|channel| {
                for item in channel.items() {
                    let answer = visit(item);
                    if answer != 0 {
                        return answer;
                    }
                }
                for waiter in channel.line().iter() {
                    let answer = waiter.visit(visit);
                    if answer != 0 {
                        return answer;
                    }
                }
                0
            })
            .unwrap_or(0)
    }

    fn clear(&self, py: Python<'_>) -> Vec<Obj> {
        self.channel.with(py, Channel::drain).into()
    }

    fn init(
        this: Ref<'_, '_>,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        let named = kwargs.is_some_and(|kwargs| !kwargs.is_empty());
        if args.is_empty() && !named {
            return Ok(());
        }
        let name = this.get_type().name()?;
        let kind = if named { "keyword" } else { "positional" };
        Err(pyo3::exceptions::PyTypeError::new_err(format!(
            "{name}() takes no {kind} arguments"
        )))
    }
}

impl SimpleQueue {
    #[inline]
    fn of<'a>(this: Ref<'a, '_>) -> &'a Self {
        // SAFETY: methods of the type are called on its instances alone.
        unsafe { native::body(this) }
    }

    #[inline]
    fn put(&self, py: Python<'_>, item: Obj) {
        let call = self.channel.with(py, |channel| {
            channel.put(item);
            channel.next_call()
        });
        self.wake(py, call);
    }

    #[inline]
    fn take(&self, py: Python<'_>) -> Option<Obj> {
        self.channel.with(py, Channel::take)
    }

    #[inline]
    fn wake(&self, py: Python<'_>, call: Option<Call<Waiter>>) {
        if call.is_some() {
            self.wake_all(py, call);
        }
    }

    #[cold]
    fn wake_all(&self, py: Python<'_>, call: Option<Call<Waiter>>) {
        call_all(
            call,
            |ticket| self.channel.with(py, |channel| channel.leave(ticket)),
            || self.channel.with(py, Channel::next_call),
        );
    }
}

/// One `get` that waits.
struct Get {
    place: Option<Ticket>,
}

impl Get {
    fn leave_line(&mut self, py: Python<'_>, queue: &SimpleQueue) {
        if let Some(ticket) = self.place.take() {
            let call = queue.channel.with(py, |channel| {
                channel.leave(&ticket);
                channel.next_call()
            });
            queue.wake(py, call);
        }
    }
}

impl Operation for Get {
    fn poll(&mut self, py: Python<'_>, target: Ref<'_, '_>, who: &Waiter) -> PyResult<Poll<Obj>> {
        let queue = SimpleQueue::of(target);
        let (item, call) = queue.channel.with(py, |channel| {
            let item = channel.poll(&mut self.place, who);
            (item, channel.next_call())
        });
        queue.wake(py, call);
        Ok(item.map_or(Poll::Pending, Poll::Ready))
    }

    fn expire(&mut self, py: Python<'_>, target: Ref<'_, '_>) -> PyResult<Option<Obj>> {
        self.leave_line(py, SimpleQueue::of(target));
        Err(Raised::Empty.error(py))
    }

    fn leave(&mut self, py: Python<'_>, target: Ref<'_, '_>) -> bool {
        self.leave_line(py, SimpleQueue::of(target));
        true
    }
}

/// A `get` that does not wait, awaited.
struct GetNow;

impl Operation for GetNow {
    fn poll(&mut self, py: Python<'_>, target: Ref<'_, '_>, _who: &Waiter) -> PyResult<Poll<Obj>> {
        let item = SimpleQueue::of(target).take(py);
        item.map(Poll::Ready).ok_or_else(|| Raised::Empty.error(py))
    }

    fn expire(&mut self, py: Python<'_>, _target: Ref<'_, '_>) -> PyResult<Option<Obj>> {
        Err(Raised::Empty.error(py))
    }

    fn leave(&mut self, _py: Python<'_>, _target: Ref<'_, '_>) -> bool {
        true
    }
}

/// CPython's own class.
fn original(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    py.import("_queue")?.getattr("SimpleQueue")
}

/// What the original says of arguments that do not fit: it is called with them.
#[cold]
fn misfit(py: Python<'_>, name: &str, given: Arguments<'_, '_>) -> PyErr {
    let answer = original(py)
        .and_then(|class| class.call0())
        .and_then(|scratch| {
            let name = pyo3::types::PyString::new(py, name);
            given.call_method(py, scratch.as_borrowed(), &name)
        });
    match answer {
        Ok(result) => {
            // SAFETY: a new reference, ours to drop.
            drop(unsafe { Obj::from_owned(result) });
            pyo3::exceptions::PySystemError::new_err("good arguments were refused")
        }
        Err(error) => error,
    }
}

/// `put(item)` while nobody waits who would have to be woken.
///
/// # Safety
/// Called on an instance, by the calling convention of methods, attached.
#[inline]
unsafe fn put_quickly(
    this: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> Option<*mut ffi::PyObject> {
    if count != 1 || !names.is_null() {
        return None;
    }
    // SAFETY: says the caller; the item is an argument of the call that is being served.
    unsafe {
        let py = Python::assume_attached();
        let queue = native::raw_body::<SimpleQueue>(this);
        queue.channel.with(py, |channel| {
            if channel.line().has_uncalled() {
                return None;
            }
            channel.put(Obj::from_borrowed(*values));
            Some(Quick::None.object())
        })
    }
}

/// `get()` if there is an item, `get(block=False)` in any case.
///
/// # Safety
/// As for `put_quickly`.
#[inline]
unsafe fn get_quickly(
    this: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> Option<*mut ffi::PyObject> {
    if count != 0 {
        return None;
    }
    // SAFETY: says the caller; there is a value for each name.
    unsafe {
        let py = Python::assume_attached();
        if names.is_null() {
            let item = native::raw_body::<SimpleQueue>(this).take(py);
            return item.map(Obj::into_ptr);
        }
        let polls = ffi::PyTuple_GET_SIZE(names) == 1
            && ffi::PyTuple_GET_ITEM(names, 0) == intern!(py, "block").as_ptr()
            && *values == ffi::Py_False();
        if polls {
            poll_quickly(this, values, 0, ptr::null_mut())
        } else {
            None
        }
    }
}

/// `get_nowait()`.
///
/// # Safety
/// As for `put_quickly`.
#[inline]
unsafe fn poll_quickly(
    this: *mut ffi::PyObject,
    _values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> Option<*mut ffi::PyObject> {
    if count != 0 || !names.is_null() {
        return None;
    }
    // SAFETY: says the caller.
    let py = unsafe { Python::assume_attached() };
    // SAFETY: says the caller.
    match unsafe { native::raw_body::<SimpleQueue>(this) }.take(py) {
        Some(item) => Some(item.into_ptr()),
        None => Raised::Empty.answer(py).ok(),
    }
}

/// `qsize()`.
///
/// # Safety
/// As for `put_quickly`.
#[inline]
unsafe fn qsize_quickly(this: *mut ffi::PyObject) -> Option<*mut ffi::PyObject> {
    // SAFETY: says the caller.
    let queue = unsafe { native::raw_body::<SimpleQueue>(this) };
    let size = queue.channel.try_look(|channel| channel.items().len())?;
    // SAFETY: attached. NULL comes with an exception, as it should.
    Some(unsafe { ffi::PyLong_FromSize_t(size) })
}

/// `empty()`.
///
/// # Safety
/// As for `put_quickly`.
#[inline]
unsafe fn is_empty_quickly(this: *mut ffi::PyObject) -> Option<Quick> {
    // SAFETY: says the caller.
    let queue = unsafe { native::raw_body::<SimpleQueue>(this) };
    let empty = queue
        .channel
        .try_look(|channel| channel.items().is_empty())?;
    Some(Quick::from(empty))
}

/// `put(item, block=True, timeout=None)`, of which only the item is looked at.
fn put(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    let item = match (given.all(), given.positional()) {
        ([item], [_]) => *item,
        _ => {
            let found = sort(py, given, ["item", "block", "timeout"]);
            match found {
                Some([Some(item), _, _]) => item.as_ptr(),
                _ => return Err(misfit(py, "put", given)),
            }
        }
    };
    // SAFETY: an argument of the call that is being served.
    SimpleQueue::of(this).put(py, unsafe { Obj::from_borrowed(item) });
    heap::none(py)
}

fn put_nowait(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    let Some([Some(item)]) = sort(py, given, ["item"]) else {
        return Err(misfit(py, "put_nowait", given));
    };
    SimpleQueue::of(this).put(py, item.to_owned().into());
    heap::none(py)
}

/// How long a `get` with these arguments waits.
#[inline]
fn patience(py: Python<'_>, given: Arguments<'_, '_>) -> PyResult<Timeout> {
    if given.all().is_empty() {
        return Ok(Timeout::Forever);
    }
    patience_of(py, given)
}

fn patience_of(py: Python<'_>, given: Arguments<'_, '_>) -> PyResult<Timeout> {
    let Some([block, timeout]) = sort(py, given, ["block", "timeout"]) else {
        return Err(misfit(py, "get", given));
    };
    if !timeouts::blocks(block)? {
        return Ok(Timeout::Now);
    }
    let Some(timeout) = timeout.filter(|timeout| !timeout.is_none()) else {
        return Ok(Timeout::Forever);
    };
    let seconds = match timeouts::ordinary(timeout) {
        Some(seconds) => seconds,
        None => {
            // The original has an item, so it gives that at once, if it likes the timeout.
            let scratch = original(py)?.call0()?;
            scratch.call_method1(intern!(py, "put"), (py.None(),))?;
            scratch.call_method1(intern!(py, "get"), (true, timeout))?;
            timeout.extract()?
        }
    };
    Ok(timeouts::after(seconds))
}

fn get(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    let timeout = patience(py, given)?;
    match SimpleQueue::of(this).take(py) {
        Some(item) => Ok(item.into_ptr()),
        None if timeout == Timeout::Now => Raised::Empty.answer(py),
        None => Ok(block(py, this, &mut Get { place: None }, timeout)?.into_ptr()),
    }
}

fn get_nowait(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    if !given.all().is_empty() {
        return Err(misfit(py, "get_nowait", given));
    }
    let item = SimpleQueue::of(this).take(py);
    item.map_or_else(|| Raised::Empty.answer(py), |item| Ok(item.into_ptr()))
}

fn get_async(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    let timeout = patience(py, given)?;
    let operation: Box<dyn Operation> = match timeout {
        Timeout::Now => Box::new(GetNow),
        _ => Box::new(Get { place: None }),
    };
    Ok(awaitable(py, this, operation, timeout, "SimpleQueue.get_async")?.into_ptr())
}

fn qsize(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    let size = SimpleQueue::of(this)
        .channel
        .with(py, |channel| channel.items().len());
    Ok(size.into_pyobject(py)?.into_any().into_ptr())
}

fn is_empty(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    let empty = SimpleQueue::of(this)
        .channel
        .with(py, |channel| channel.items().is_empty());
    heap::boolean(py, empty)
}

fn statistics(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    let (size, waiters) = SimpleQueue::of(this).channel.with(py, |channel| {
        let waiters: Vec<_> = channel.line().iter().cloned().collect();
        (channel.items().len(), waiters)
    });
    let waiters: Vec<_> = waiters
        .iter()
        .map(|waiter| waiter.who(py))
        .collect::<PyResult<_>>()?;
    look(py, "SimpleQueueStatistics", (size, waiters))
}

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    native::register::<SimpleQueue>(
        module,
        Description {
            name: c"ropewalk.queue.SimpleQueue",
            doc: c"SimpleQueue()\n--\n\nAn unbounded queue, first in first out, for threads and tasks: queue.SimpleQueue, which can also be awaited.\n\nput() may be called at any time, also by a signal handler or a __del__ in the middle of another call. Thread-safe.\nSee queue.SimpleQueue in CPython's documentation.",
            methods: vec![
                method!(c"put", c"put($self, item, block=True, timeout=None)\n--\n\nPut an item into the queue. It never blocks: `block` and `timeout` are ignored, and are there to\nhave the form of `Queue.put`. May be called at any time from anywhere, also by a signal handler or\na `__del__` in the middle of another call of the queue.", any put_quickly, put),
                method!(c"put_nowait", c"put_nowait($self, item)\n--\n\nThe same as `put(item)`.", any put_quickly, put_nowait),
                method!(c"get", c"get($self, block=True, timeout=None)\n--\n\nRemove and return the oldest item.\n\nWaits for one if `block` is true, for `timeout` seconds at most if that is not `None`, and raises\n`Empty` if none has come. With `block` false, `timeout` is ignored. Raises `ValueError` for a timeout\nthat is negative or no number, `OverflowError` for one that no clock can count.", any get_quickly, get),
                method!(c"get_nowait", c"get_nowait($self)\n--\n\nThe same as `get(block=False)`.", any poll_quickly, get_nowait),
                method!(c"get_async", c"get_async($self, block=True, timeout=None)\n--\n\n`get` for tasks: to be awaited. A call that is cancelled takes nothing.", keywords, get_async),
                method!(c"empty", c"empty($self)\n--\n\nWhether there was no item just now.", noargs is_empty_quickly, is_empty),
                method!(c"qsize", c"qsize($self)\n--\n\nHow many items there were just now.", noargs any qsize_quickly, qsize),
                method!(c"statistics", c"statistics($self, /)\n--\n\nReturn a SimpleQueueStatistics: how many items there are, and who waits for one. Thread-safe.", noargs, statistics),
                super::class_getitem(),
            ],
            getters: vec![],
            slots: vec![],
        },
    )
}
