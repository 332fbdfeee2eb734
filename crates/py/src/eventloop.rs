//! `Loop`: what the Python class `EventLoop` inherits its hot half from.
//!
//! This file keeps the state and schedules callbacks; `turn` runs them, `watch` follows descriptors and
//! children, `transport` and `listener` move bytes. The other half of `EventLoop` is CPython's own
//! `SelectorEventLoop`, whose private seams (`_add_reader`, `_make_socket_transport`, ...) these files fill.

use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};

use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFloat, PyString, PyTuple, PyType};
use pyo3::{ffi, intern};
use ropewalk_reactor::{Reactor, TimerKey};
use ropewalk_sys::{clock, fork};

use crate::error::os_error;
use crate::flood::Flood;
use crate::futures::{self, Ran};
use crate::guard::Guarded;
use crate::handle::{Call, Given, HandleRef};
use crate::heap::{self, Arguments, Ref, Returned, method};
use crate::names::{self, Answer, Lookups};
use crate::object::Obj;
use crate::offspring;
use crate::shared::Shared;
use crate::sock::{self, Sockets, Ticket};
use crate::transport::{ReadBuffer, TransportRef};
use crate::wait::{announce, asleep};

/// What the reactor calls back.
#[derive(Clone)]
pub(crate) enum Task {
    /// A callback of ours.
    Handle(HandleRef),
    /// A callback of ours that another thread may want to cancel.
    Shared(HandleRef),
    /// A callback in a handle that asyncio's own Python code made: debug mode, signals.
    Foreign(Obj),
    /// A transport's socket is ready.
    Io(TransportRef),
    /// A transport is to say `connection_made`.
    Start(TransportRef),
    /// A transport is to say `connection_lost`.
    Lost(TransportRef),
    /// A listening socket has connections to accept.
    Accept(Obj),
    /// A socket that one of the loop's `sock_...` methods waits for, or once did, is ready.
    Socket(Ticket),
    /// The resolver has answered.
    Named(Arc<Answer>),
    /// A pool's thread has made a call of `run_in_executor`.
    Ran(Arc<Ran>),
}

impl Task {
    fn object(&self) -> Option<&Obj> {
        match self {
            Self::Handle(handle) | Self::Shared(handle) => Some(handle.as_obj()),
            Self::Foreign(object) | Self::Accept(object) => Some(object),
            Self::Io(transport) | Self::Start(transport) | Self::Lost(transport) => {
                Some(transport.as_obj())
            }
            Self::Ran(ran) => Some(ran.future()),
            Self::Socket(_) | Self::Named(_) => None,
        }
    }
}

/// The native half of `ropewalk.asyncio.EventLoop`.
#[pyclass(subclass, frozen, module = "ropewalk._core")]
pub(crate) struct Loop {
    /// `None` once the loop is closed.
    reactor: Guarded<Option<Reactor<Task>>>,
    pub(crate) read_buffer: Guarded<ReadBuffer>,
    pub(crate) sockets: Guarded<Sockets>,
    pub(crate) lookups: Guarded<Lookups>,
    closed: AtomicBool,
    debug: AtomicBool,
    /// Who has put a `time` in the place of the loop's own: [`BY_CLASS`], [`BY_INSTANCE`].
    clock: AtomicU8,
    /// A task factory is set: `create_task` is its business.
    pub(crate) makes_own_tasks: AtomicBool,
    pub(crate) stopping: AtomicBool,
    pub(crate) shared: Shared,
    pub(crate) flood: Flood,
    /// The thread that runs the loop, as [`fork::this_thread`] names it; 0 while nobody does.
    pub(crate) runner: AtomicUsize,
    /// `fork::generation()` of the process that the poller was opened in.
    generation: AtomicU64,
}

/// A subclass has a `time` of its own.
const BY_CLASS: u8 = 1;
/// The loop itself has one: a test's virtual clock, for the most part.
const BY_INSTANCE: u8 = 2;

impl Loop {
    #[inline]
    pub(crate) fn of<'a>(object: Ref<'a, '_>) -> &'a Self {
        // SAFETY: the method's descriptor checked that this is an instance of the class.
        let this = unsafe { object.cast_unchecked::<Self>() };
        // SAFETY: the value is inside the object, which somebody holds for 'a.
        unsafe { &*ptr::from_ref(this.get()) }
    }

    /// The loop behind a reference that a handle, a transport or a listener keeps: owners are loops by
    /// construction.
    #[inline]
    pub(crate) fn from_obj<'a>(py: Python<'_>, owner: &'a Obj) -> &'a Self {
        Self::of(owner.bind(py))
    }

    #[inline]
    pub(crate) fn debug(&self) -> bool {
        self.debug.load(Ordering::Relaxed)
    }

    /// Whether the loop's clock is the program's, to be asked by calling `time()`.
    #[inline]
    pub(crate) fn has_foreign_clock(&self) -> bool {
        self.clock.load(Ordering::Relaxed) != 0
    }

    /// Notes that somebody has, or no longer has, put a `time` in the place of ours.
    fn note_clock(&self, py: Python<'_>, whose: u8, foreign: bool) {
        if foreign {
            self.clock.fetch_or(whose, Ordering::Relaxed);
        } else if self.clock.fetch_and(!whose, Ordering::Relaxed) & !whose == 0 {
            self.reactor.with(py, |reactor| {
                if let Some(reactor) = reactor {
                    reactor.tell_time(None);
                }
            });
        }
    }

    /// Looks whether the class has a `time` of its own. Once a run, for a test may patch the class.
    pub(crate) fn note_clock_of_class(&self, class: &Bound<'_, PyType>) -> PyResult<()> {
        let py = class.py();
        let name = intern!(py, "time");
        let ours = py.get_type::<Self>().getattr(name)?;
        let foreign = !class.getattr(name)?.is(&ours);
        if foreign != (self.clock.load(Ordering::Relaxed) & BY_CLASS != 0) {
            self.note_clock(py, BY_CLASS, foreign);
        }
        Ok(())
    }

    #[inline]
    pub(crate) fn check_open(&self) -> PyResult<()> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(PyRuntimeError::new_err("Event loop is closed"));
        }
        Ok(())
    }

    /// Uses the reactor. No Python code in `f`: see [`Guarded`].
    ///
    /// # Errors
    /// `RuntimeError` once the loop is closed; `OSError` if a forked child cannot open a poller of its own.
    #[inline]
    pub(crate) fn reactor<R>(
        &self,
        py: Python<'_>,
        f: impl FnOnce(&mut Reactor<Task>) -> R,
    ) -> PyResult<R> {
        if self.generation.load(Ordering::Relaxed) != fork::generation() {
            self.reopen(py)?;
        }
        self.reactor
            .with(py, |reactor| reactor.as_mut().map(f))
            .ok_or_else(|| PyRuntimeError::new_err("Event loop is closed"))
    }

    /// A forked child shares its parent's poller, and would take the parent's registrations apart: it gets
    /// its own, with every registration made again.
    #[cold]
    fn reopen(&self, py: Python<'_>) -> PyResult<()> {
        let result = self.reactor.with(py, |reactor| {
            self.generation.store(fork::generation(), Ordering::Relaxed);
            reactor.as_mut().map_or(Ok(()), Reactor::reopen)
        });
        result.map_err(|error| os_error(py, &error))
    }

    /// Waits until `handle`, named by its address, does not run in another thread.
    pub(crate) fn outlast(&self, py: Python<'_>, handle: usize) -> PyResult<()> {
        while self.shared.runs(handle) && self.runner.load(Ordering::Acquire) != fork::this_thread()
        {
            py.detach(|| self.shared.wait(handle));
            py.check_signals()?;
        }
        Ok(())
    }

    /// Puts a task in the ready queue from whichever thread this is.
    #[inline]
    pub(crate) fn enqueue(&self, py: Python<'_>, task: Task) -> PyResult<()> {
        let runner = self.runner.load(Ordering::Acquire);
        // With the GIL nobody can begin to run the loop between this look and the push. Without it a loop
        // that does not run yet might be about to sleep, so it is told like any other.
        let near = runner == fork::this_thread() || (cfg!(not(Py_GIL_DISABLED)) && runner == 0);
        if near {
            return self.reactor(py, |reactor| reactor.push(task));
        }
        let waiting = self
            .reactor
            .with(py, |reactor| match reactor {
                Some(reactor) => {
                    announce(reactor);
                    reactor.post(task)
                }
                None => Err(task),
            })
            .map_err(|_task| PyRuntimeError::new_err("Event loop is closed"))?;
        if Flood::holds(waiting) && runner != 0 {
            asleep(py, || self.flood.wait());
        }
        Ok(())
    }
}

/// Takes a cancelled timer out of the reactor of `owner`.
#[inline]
pub(crate) fn forget_timer(py: Python<'_>, owner: &Obj, key: TimerKey) {
    let this = Loop::from_obj(py, owner);
    // A closed loop has no timers; there is nobody to tell.
    let task = this.reactor.with(py, |reactor| {
        reactor
            .as_mut()
            .and_then(|reactor| reactor.cancel_timer(key))
    });
    drop(task);
}

#[pymethods]
impl Loop {
    #[new]
    #[classmethod]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(
        class: &Bound<'_, PyType>,
        _args: &Bound<'_, PyTuple>,
        _kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        let reactor = Reactor::new().map_err(|error| os_error(class.py(), &error))?;
        let this = Self {
            reactor: Guarded::new(Some(reactor)),
            read_buffer: Guarded::new(ReadBuffer::new()),
            sockets: Guarded::new(Sockets::default()),
            lookups: Guarded::new(Lookups::default()),
            closed: AtomicBool::new(false),
            debug: AtomicBool::new(false),
            clock: AtomicU8::new(0),
            makes_own_tasks: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            shared: Shared::default(),
            flood: Flood::default(),
            runner: AtomicUsize::new(0),
            generation: AtomicU64::new(fork::generation()),
        };
        this.note_clock_of_class(class)?;
        Ok(this)
    }

    /// Sets an attribute, as any object does. Who sets `time` wants the loop to go by that clock.
    fn __setattr__(
        slf: &Bound<'_, Self>,
        name: &Bound<'_, PyString>,
        value: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        set_attribute(slf, name, value.as_ptr())
    }

    fn __delattr__(slf: &Bound<'_, Self>, name: &Bound<'_, PyString>) -> PyResult<()> {
        set_attribute(slf, name, ptr::null_mut())
    }

    /// Runs until `stop()`; the face's `run_forever` prepares and cleans up around it.
    fn _run(slf: &Bound<'_, Self>) -> PyResult<()> {
        crate::turn::run(slf)
    }

    /// Stop running the event loop.
    ///
    /// Every callback already scheduled will still run. This simply informs `run_forever` to stop looping
    /// after a complete iteration.
    fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Appends a handle that asyncio's own code made; from any thread.
    fn _enqueue(&self, handle: &Bound<'_, PyAny>) -> PyResult<()> {
        let task = match HandleRef::from_object(handle.as_borrowed()) {
            Some(handle) => Task::Handle(handle),
            None => Task::Foreign(handle.into()),
        };
        self.enqueue(handle.py(), task)
    }

    /// Puts such a handle at `when` seconds of the loop's clock.
    fn _enqueue_at(&self, when: f64, handle: &Bound<'_, PyAny>) -> PyResult<()> {
        let task = Task::Foreign(handle.into());
        self.reactor(handle.py(), |reactor| {
            reactor.add_timer(nanoseconds(when), task)
        })
        .map(drop)
    }

    fn _set_debug(&self, enabled: bool) {
        self.debug.store(enabled, Ordering::Relaxed);
    }

    fn _set_makes_own_tasks(&self, own: bool) {
        self.makes_own_tasks.store(own, Ordering::Relaxed);
    }

    /// How many callbacks are ready to run.
    fn _ready_count(&self, py: Python<'_>) -> usize {
        self.reactor
            .with(py, |reactor| reactor.as_ref().map_or(0, Reactor::ready_len))
    }

    /// Drops whatever is scheduled, watched or attached, and gives the descriptors back.
    fn _close(&self, py: Python<'_>) {
        self.closed.store(true, Ordering::Relaxed);
        self.__clear__(py);
    }

    #[pyo3(signature = (fd, callback, *args, context = None))]
    fn _add_reader(
        slf: &Bound<'_, Self>,
        fd: &Bound<'_, PyAny>,
        callback: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
        context: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        crate::watch::add(
            slf,
            fd,
            ropewalk_reactor::Side::Read,
            callback,
            args,
            context,
        )
    }

    #[pyo3(signature = (fd, callback, *args, context = None))]
    fn _add_writer(
        slf: &Bound<'_, Self>,
        fd: &Bound<'_, PyAny>,
        callback: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
        context: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        crate::watch::add(
            slf,
            fd,
            ropewalk_reactor::Side::Write,
            callback,
            args,
            context,
        )
    }

    fn _remove_reader(&self, fd: &Bound<'_, PyAny>) -> PyResult<bool> {
        crate::watch::remove(self, fd, ropewalk_reactor::Side::Read)
    }

    fn _remove_writer(&self, fd: &Bound<'_, PyAny>) -> PyResult<bool> {
        crate::watch::remove(self, fd, ropewalk_reactor::Side::Write)
    }

    /// Whether a reader and a writer are registered for the descriptor.
    fn _watched(&self, py: Python<'_>, fd: i32) -> PyResult<(bool, bool)> {
        crate::watch::watched(self, py, fd)
    }

    /// Runs Python's own signal handlers that are due, in the main thread.
    fn _check_signals(&self, py: Python<'_>) -> PyResult<()> {
        py.check_signals()
    }

    /// Whether one of our transports owns the descriptor.
    fn _is_attached(&self, py: Python<'_>, fd: i32) -> PyResult<bool> {
        self.reactor(py, |reactor| reactor.is_attached(fd))
    }

    /// Calls `callback(*args)` once the child process has ended.
    #[pyo3(signature = (pid, callback, *args))]
    fn _watch_child(
        slf: &Bound<'_, Self>,
        pid: i32,
        callback: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
    ) -> PyResult<()> {
        crate::watch::child(slf, pid, callback, args)
    }

    /// A transport on a connected socket.
    #[pyo3(signature = (class, sock, protocol, waiter, extra, server, context))]
    #[expect(
        clippy::too_many_arguments,
        reason = "asyncio's own constructor takes these"
    )]
    fn _make_transport<'py>(
        slf: &Bound<'py, Self>,
        class: &Bound<'py, PyType>,
        sock: &Bound<'py, PyAny>,
        protocol: &Bound<'py, PyAny>,
        waiter: Option<&Bound<'py, PyAny>>,
        extra: Option<&Bound<'py, PyDict>>,
        server: Option<&Bound<'py, PyAny>>,
        context: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        crate::transport::connect(slf, class, sock, protocol, waiter, extra, server, context)
    }

    /// Accepts connections on a listening socket, each with a protocol of `factory()`.
    #[pyo3(signature = (class, sock, factory, server, backlog, context))]
    fn _listen(
        slf: &Bound<'_, Self>,
        class: &Bound<'_, PyType>,
        sock: &Bound<'_, PyAny>,
        factory: &Bound<'_, PyAny>,
        server: Option<&Bound<'_, PyAny>>,
        backlog: usize,
        context: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        crate::listener::listen(slf, class, sock, factory, server, backlog, context)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.sockets
            .try_look(|sockets| {
                sockets
                    .objects()
                    .try_for_each(|object| visit.call(object.as_py()))
            })
            .unwrap_or(Ok(()))?;
        self.lookups
            .try_look(|lookups| {
                lookups
                    .objects()
                    .try_for_each(|object| visit.call(object.as_py()))
            })
            .unwrap_or(Ok(()))?;
        self.reactor
            .try_look(|reactor| {
                let Some(reactor) = reactor else {
                    return Ok(());
                };
                reactor
                    .handles()
                    .filter_map(Task::object)
                    .try_for_each(|object| visit.call(object.as_py()))
            })
            .unwrap_or(Ok(()))
    }

    fn __clear__(&self, py: Python<'_>) {
        let reactor = self.reactor.with(py, Option::take);
        // Dropped here, outside of the guard: what goes may run Python code.
        let tasks = reactor.map(|mut reactor| reactor.drain());
        drop(tasks);
        let sockets = self.sockets.with(py, std::mem::take);
        drop(sockets);
        let lookups = self.lookups.with(py, std::mem::take);
        drop(lookups);
    }
}

/// Adds the class, with the raw methods that a program calls most.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Loop>()?;
    let class = module.py().get_type::<Loop>();
    heap::add_methods(&class, sock::methods())?;
    heap::add_methods(&class, names::methods())?;
    heap::add_methods(
        &class,
        vec![
            method!(c"call_soon", c"call_soon($self, callback, *args, context=None)\n--\n\nSchedule callback(*args) for the next iteration of the event loop, after what was scheduled before.\n\nIt runs in context, or in a copy of the current one. Returns an asyncio.Handle. Not thread-safe.\nRaises RuntimeError if the loop is closed.", keywords, call_soon),
            method!(c"call_soon_threadsafe", c"call_soon_threadsafe($self, callback, *args, context=None)\n--\n\nSchedule callback(*args) from any thread, and wake the event loop if it sleeps.\n\nReturns an asyncio.Handle, whose cancel() is thread-safe too. Raises RuntimeError if the loop is closed.", keywords, call_soon_threadsafe),
            method!(c"call_later", c"call_later($self, delay, callback, *args, context=None)\n--\n\nSchedule callback(*args) to run after delay seconds (int or float).\n\nCallbacks of the same moment run in the order in which they were scheduled. Returns an\nasyncio.TimerHandle. Not thread-safe. Raises RuntimeError if the loop is closed.", keywords, call_later),
            method!(c"call_at", c"call_at($self, when, callback, *args, context=None)\n--\n\nLike call_later(), at a time of the loop's own clock: see time().", keywords, call_at),
            method!(c"time", c"time($self)\n--\n\nReturn the time of the loop's clock, which is the monotonic one, in seconds.", noargs, time),
            method!(c"get_debug", c"get_debug($self)\n--\n\nReturn the debug mode (bool) of the event loop.", noargs, offspring::get_debug),
            method!(c"create_future", c"create_future($self)\n--\n\nReturn a new asyncio.Future of this loop.", noargs, offspring::create_future),
            method!(c"create_task", c"create_task($self, coro, **kwargs)\n--\n\nSchedule a coroutine and return its asyncio.Task, made by the task factory if one is set.\n\nKeywords (name, context, and eager_start from Python 3.14 on) go to the task or the factory.", keywords, offspring::create_task),
            method!(c"run_in_executor", c"run_in_executor($self, executor, func, *args)\n--\n\nCall func(*args) in a thread of the executor, or of the default one if it is None; return a future of this loop\nfor the result. One that is cancelled before a thread has begun is never called.\n\nRaises RuntimeError if the loop is closed, or the executor shut down.", keywords, futures::run_in_executor),
        ],
    )
}

/// What `object.__setattr__` and `__delattr__` (with no value) do, and a look at the name.
#[inline]
fn set_attribute(
    slf: &Bound<'_, Loop>,
    name: &Bound<'_, PyString>,
    value: *mut ffi::PyObject,
) -> PyResult<()> {
    let py = slf.py();
    // SAFETY: live objects, and a null value is how an attribute is deleted.
    if unsafe { ffi::PyObject_GenericSetAttr(slf.as_ptr(), name.as_ptr(), value) } != 0 {
        return Err(PyErr::fetch(py));
    }
    // The interpreter interns the names of attributes before it hands them on.
    if name.is(intern!(py, "time")) {
        slf.get().note_clock(py, BY_INSTANCE, !value.is_null());
    }
    Ok(())
}

/// Calls the plain Python form of a method: for debug mode, and for calls whose arguments are unusual or
/// wrong, which it takes or refuses as asyncio does.
#[cold]
pub(crate) fn delegate(
    py: Python<'_>,
    this: Ref<'_, '_>,
    name: &Bound<'_, PyString>,
    given: Arguments<'_, '_>,
) -> Returned {
    given.call_method(py, this, name)
}

/// The call that the arguments of a `call_...` method describe.
#[inline]
fn call_of<'a>(
    this: Ref<'_, '_>,
    callback: *mut ffi::PyObject,
    args: &'a [*mut ffi::PyObject],
    context: Option<*mut ffi::PyObject>,
) -> Call<'a> {
    Call {
        owner: this.as_ptr(),
        callback,
        args: Given::Values(args),
        context,
    }
}

fn call_soon(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    let owner = Loop::of(this);
    owner.check_open()?;
    if let ([callback, args @ ..], Some(context), false) =
        (given.positional(), given.context(py), owner.debug())
    {
        // SAFETY: all of them are arguments of the call that is being served.
        let handle = unsafe { HandleRef::new(py, call_of(this, *callback, args, context))? };
        let task = Task::Handle(handle.clone());
        owner.reactor(py, |reactor| reactor.push(task))?;
        return Ok(handle.into_obj().into_ptr());
    }
    delegate(py, this, intern!(py, "_plain_call_soon"), given)
}

fn call_soon_threadsafe(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    let owner = Loop::of(this);
    owner.check_open()?;
    if let ([callback, args @ ..], Some(context), false) =
        (given.positional(), given.context(py), owner.debug())
    {
        // SAFETY: all of them are arguments of the call that is being served.
        let handle = unsafe { HandleRef::shared(py, call_of(this, *callback, args, context))? };
        owner.enqueue(py, Task::Shared(handle.clone()))?;
        return Ok(handle.into_obj().into_ptr());
    }
    delegate(py, this, intern!(py, "_plain_call_soon_threadsafe"), given)
}

fn call_later(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    let owner = Loop::of(this);
    let plain = owner.debug() || owner.has_foreign_clock();
    if let ([delay, callback, args @ ..], Some(context), false) =
        (given.positional(), given.context(py), plain)
        && let Some(delay) = number(*delay)
    {
        let when = seconds(clock::now()) + delay;
        return schedule(py, this, when, *callback, args, context);
    }
    delegate(py, this, intern!(py, "_plain_call_later"), given)
}

fn call_at(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    let owner = Loop::of(this);
    if let ([when, callback, args @ ..], Some(context), false) =
        (given.positional(), given.context(py), owner.debug())
        && let Some(when) = float(*when)
    {
        return schedule(py, this, when, *callback, args, context);
    }
    delegate(py, this, intern!(py, "_plain_call_at"), given)
}

fn schedule(
    py: Python<'_>,
    this: Ref<'_, '_>,
    when: f64,
    callback: *mut ffi::PyObject,
    args: &[*mut ffi::PyObject],
    context: Option<*mut ffi::PyObject>,
) -> Returned {
    let owner = Loop::of(this);
    owner.check_open()?;
    // SAFETY: all of them are arguments of the call that is being served.
    let handle = unsafe { HandleRef::timer(py, call_of(this, callback, args, context), when)? };
    let task = Task::Handle(handle.clone());
    let key = owner.reactor(py, |reactor| reactor.add_timer(nanoseconds(when), task))?;
    handle.scheduled(py, key);
    Ok(handle.into_obj().into_ptr())
}

/// The loop's time: seconds of the monotonic clock.
fn time(py: Python<'_>, _this: Ref<'_, '_>) -> Returned {
    Ok(PyFloat::new(py, seconds(clock::now())).into_ptr())
}

/// The value of a plain `float`. Anything else takes the Python form, for `when()` gives back what was given.
#[inline]
fn float(object: *mut ffi::PyObject) -> Option<f64> {
    // SAFETY: a live object, looked at by exact type.
    unsafe { (ffi::PyFloat_CheckExact(object) != 0).then(|| ffi::PyFloat_AS_DOUBLE(object)) }
}

/// The value of a plain `float` or `int`. Anything else that adds to a float takes the Python form.
#[inline]
fn number(object: *mut ffi::PyObject) -> Option<f64> {
    // SAFETY: a live object, looked at by exact type; an int too large for a float raises, which is cleared.
    unsafe {
        if ffi::PyFloat_CheckExact(object) != 0 {
            return Some(ffi::PyFloat_AS_DOUBLE(object));
        }
        if ffi::PyLong_CheckExact(object) != 0 {
            let value = ffi::PyLong_AsDouble(object);
            if value == -1.0 && !ffi::PyErr_Occurred().is_null() {
                ffi::PyErr_Clear();
                return None;
            }
            return Some(value);
        }
    }
    None
}

/// The clock's nanoseconds as asyncio's seconds.
#[inline]
#[expect(
    clippy::cast_precision_loss,
    reason = "a float holds nanoseconds exactly for 104 days of uptime"
)]
pub(crate) fn seconds(time: clock::Nanos) -> f64 {
    time as f64 / 1e9
}

/// asyncio's seconds as the clock's nanoseconds: the past and NaN are "now", infinity is "never".
#[inline]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "`as` saturates, as said above"
)]
pub(crate) fn nanoseconds(when: f64) -> clock::Nanos {
    (when * 1e9).round() as clock::Nanos
}
