//! The turn: sleep, collect, run what was ready.
//!
//! The reactor gives the turn its three phases so that the interpreter is released only around the second,
//! and only when it may sleep. What a callback raises goes to the loop's exception handler; only
//! `SystemExit` and `KeyboardInterrupt` end the run, and they do so with every event already collected, so
//! that an edge is never lost to them.

use std::io::ErrorKind;
use std::sync::atomic::Ordering;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::{ffi, intern};
use ropewalk_reactor::{Job, Plan};
use ropewalk_sys::fork;
use ropewalk_sys::poller::Events;

use crate::call::{call_method, ends_the_run};
use crate::error::os_error;
use crate::eventloop::{Loop, Task, nanoseconds};
use crate::object::Obj;
use crate::wait::asleep;
use crate::{futures, listener, names, sock, transport};

/// Gives the loop back when its run ends, however it ends.
struct Running<'a>(&'a Loop);

impl<'a> Running<'a> {
    fn claim(owner: &'a Loop) -> PyResult<Self> {
        owner
            .runner
            .compare_exchange(0, fork::this_thread(), Ordering::AcqRel, Ordering::Acquire)
            .map(|_| Self(owner))
            .map_err(|_| PyRuntimeError::new_err("This event loop is already running"))
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.stopping.store(false, Ordering::Relaxed);
        self.0.runner.store(0, Ordering::Release);
    }
}

/// Runs the loop until it is stopped.
pub(crate) fn run(slf: &Bound<'_, Loop>) -> PyResult<()> {
    let py = slf.py();
    let owner = slf.get();
    let _running = Running::claim(owner)?;
    let mut events = Events::new();
    let mut process = fork::generation();
    owner.note_clock_of_class(&slf.get_type())?;
    let mut jobs: usize = 0;
    owner.reactor(py, |reactor| reactor.begin_run())?;
    loop {
        if owner.has_foreign_clock() {
            tell_time(slf)?;
        }
        let may_sleep = !owner.stopping.load(Ordering::Relaxed);
        let plan = owner.reactor(py, |reactor| reactor.prepare(may_sleep))?;
        if process != fork::generation() {
            // A callback forked, and this is the child.
            process = fork::generation();
            call_method(slf, intern!(py, "_after_fork"), [])?;
        }
        let polled = match plan {
            Plan::Skip => Ok(()),
            Plan::Look => owner
                .reactor(py, |reactor| reactor.sleeper())?
                .poll(&mut events, &plan),
            Plan::Sleep(_) => {
                let sleeper = owner.reactor(py, |reactor| reactor.sleeper())?;
                asleep(py, || sleeper.poll(&mut events, &plan))
            }
        };
        if owner.has_foreign_clock() {
            tell_time(slf)?;
        }
        let batch = owner.reactor(py, |reactor| reactor.collect(&mut events))?;
        owner.flood.let_go();
        match polled {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(os_error(py, &error)),
        }
        // The callbacks' own Python code looks for signals as well: what is left are those that ended a sleep, or
        // came while nothing but C was called.
        // SAFETY: attached. In the main thread this runs pending signal handlers, elsewhere it does nothing.
        if plan != Plan::Skip && unsafe { ffi::PyErr_CheckSignals() } != 0 {
            return Err(PyErr::fetch(py));
        }
        for _ in 0..batch {
            let Some(job) = owner.reactor(py, |reactor| reactor.pop())? else {
                break;
            };
            run_job(slf, job)?;
            jobs = jobs.wrapping_add(1);
            owner.flood.ran(jobs);
        }
        if owner.stopping.load(Ordering::Relaxed) {
            return Ok(());
        }
    }
}

/// Asks a clock that is the program's, and lets the reactor go by it.
#[cold]
fn tell_time(slf: &Bound<'_, Loop>) -> PyResult<()> {
    let py = slf.py();
    let time: f64 = call_method(slf, intern!(py, "time"), [])?.extract()?;
    slf.get()
        .reactor(py, |reactor| reactor.tell_time(Some(nanoseconds(time))))
}

/// Runs one job. An error is one that ends the run.
#[inline]
fn run_job(slf: &Bound<'_, Loop>, job: Job<Task>) -> PyResult<()> {
    let py = slf.py();
    match job.handle {
        Task::Handle(handle) | Task::Shared(handle) if slf.get().debug() => {
            run_slowly(slf, handle.as_obj())
        }
        Task::Handle(handle) => handle
            .run(py)
            .or_else(|error| failed(slf, handle.as_obj(), error)),
        Task::Shared(handle) => handle
            .run_shared(py, slf.get())
            .or_else(|error| failed(slf, handle.as_obj(), error)),
        Task::Foreign(handle) => run_slowly(slf, &handle),
        Task::Io(transport) => transport::ready(slf, &transport, job.readiness),
        Task::Start(transport) => transport::start(slf, &transport),
        Task::Lost(transport) => transport::lost(slf, &transport),
        Task::Accept(socket) => listener::accept(slf, &socket),
        Task::Named(answer) => names::answered(slf, &answer),
        Task::Ran(ran) => futures::settle_on_loop(slf, &ran),
        Task::Socket(ticket) => sock::ready(slf, ticket, job.readiness),
    }
}

/// Runs a handle by its Python methods, timed in debug mode.
#[cold]
fn run_slowly(slf: &Bound<'_, Loop>, handle: &Obj) -> PyResult<()> {
    let py = slf.py();
    match call_method(slf, intern!(py, "_run_handle"), [&handle.bind(py)]) {
        Ok(_) => Ok(()),
        Err(error) => survive(slf, error),
    }
}

/// Reports what a callback raised.
#[cold]
fn failed(slf: &Bound<'_, Loop>, handle: &Obj, error: PyErr) -> PyResult<()> {
    let py = slf.py();
    if ends_the_run(py, &error) {
        return Err(error);
    }
    let error = error.into_value(py).into_any();
    match call_method(
        slf,
        intern!(py, "_callback_failed"),
        [&handle.bind(py), error.bind(py)],
    ) {
        Ok(_) => Ok(()),
        Err(error) => survive(slf, error),
    }
}

/// Tells the loop's exception handler; an error is one that ends the run.
#[cold]
pub(crate) fn report<'py>(
    slf: &Bound<'py, Loop>,
    message: &str,
    error: PyErr,
    about: &[(&str, Bound<'py, PyAny>)],
) -> PyResult<()> {
    let py = slf.py();
    if ends_the_run(py, &error) {
        return Err(error);
    }
    let told = (|| {
        let context = pyo3::types::PyDict::new(py);
        context.set_item("message", message)?;
        context.set_item("exception", error.into_value(py))?;
        for (key, value) in about {
            context.set_item(key, value)?;
        }
        call_method(slf, intern!(py, "call_exception_handler"), [&context])
    })();
    match told {
        Ok(_) => Ok(()),
        Err(error) => survive(slf, error),
    }
}

/// An exception where none is expected is shown, not raised through the reactor.
fn survive(slf: &Bound<'_, Loop>, error: PyErr) -> PyResult<()> {
    let py = slf.py();
    if ends_the_run(py, &error) {
        return Err(error);
    }
    error.write_unraisable(py, Some(slf.as_any()));
    Ok(())
}
