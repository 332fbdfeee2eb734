//! `Wait`: what `acquire_async()`, `get_async()` and their like give back, to be awaited once.
//!
//! It is a native [coroutine](crate::coroutine) around an [`Operation`]. While the operation is pending, the task waits
//! for a future of its own loop, and the primitive's line holds the `Wait`: waking it completes the future, from the
//! loop's own thread directly, from another one by `call_soon_threadsafe`. Nothing is taken before the operation is
//! polled in the task, so a cancellation that comes between the waking and the polling takes nothing with it:
//! the operation leaves, and what it was told is passed on.

use std::ffi::c_int;
use std::task::Poll;

use pyo3::exceptions::{PyGeneratorExit, PyRuntimeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use ropewalk_sys::clock::{self, SECOND};
use ropewalk_sys::fork;

use super::task::{current_task, running_loop};
use super::{Operation, Timeout, Waiter};
use crate::call::call_method;
use crate::coroutine::{self, Coroutine, Kept, Step};
use crate::heap::{self, Ref, getter};
use crate::object::Obj;

/// A call of a primitive's method.
struct Wait {
    /// What the method was called on.
    target: Option<Obj>,
    state: State,
    timeout: Timeout,
    pause: Pause,
    /// Raised when the operation has put in order what it must.
    raised: Option<PyErr>,
    /// The method's qualified name.
    name: &'static str,
}

/// How the task waits; all of it is for [`wake`], which comes from any thread.
#[derive(Default)]
struct Pause {
    owner: Option<Obj>,
    task: Option<Obj>,
    /// What the task waits for.
    future: Option<Obj>,
    /// The loop's timer, if there is a limit of time.
    timer: Option<Obj>,
    /// The loop's thread, as `fork::this_thread` names it.
    thread: usize,
    /// Woken since the operation was last polled.
    woken: bool,
    expired: bool,
}

enum State {
    /// Nobody has awaited it.
    New(Box<dyn Operation>),
    /// Somebody has.
    Begun(Box<dyn Operation>),
    /// It is being driven just now.
    Running,
    Ended,
}

/// The awaitable of a call of the method `name` (qualified) on `target`.
pub(crate) fn awaitable(
    py: Python<'_>,
    target: Ref<'_, '_>,
    operation: Box<dyn Operation>,
    timeout: Timeout,
    name: &'static str,
) -> PyResult<Obj> {
    coroutine::make(
        py,
        Wait {
            target: Some(target.to_owned().into()),
            state: State::New(operation),
            timeout,
            pause: Pause::default(),
            raised: None,
            name,
        },
    )
}

/// Looks into a wait. No Python code runs in `f`.
#[inline]
fn body<R>(wait: Ref<'_, '_>, f: impl FnOnce(&mut Wait) -> R) -> R {
    coroutine::body(wait, f)
}

/// Lets the task go on. False if its loop is closed.
pub(super) fn wake(wait: &Obj) -> bool {
    // SAFETY: waiters are woken by attached threads alone.
    let py = unsafe { Python::assume_attached() };
    let (future, owner, thread) = body(wait.bind(py), |body| {
        let pause = &mut body.pause;
        pause.woken = true;
        (pause.future.take(), pause.owner.clone(), pause.thread)
    });
    let (Some(future), Some(owner)) = (future, owner) else {
        return true; // it runs, and looks before it waits
    };
    let told = if thread == fork::this_thread() {
        complete(&future.bind(py))
    } else {
        complete_from_afar(py, &owner, &future)
    };
    // All that can go wrong is that the loop is closed, or that there is no memory for a callback.
    told.is_ok()
}

/// Completes the future of a wait, if it still waits.
fn complete(future: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = future.py();
    match call_method(future, intern!(py, "set_result"), [py.None().bind(py)]) {
        Ok(_) => Ok(()),
        // It was cancelled, and nobody waits for it any more; or else its loop is closed.
        Err(error) => match call_method(future, intern!(py, "cancelled"), [])?.is_truthy()? {
            true => Ok(()),
            false => Err(error),
        },
    }
}

/// Has the loop complete the future.
fn complete_from_afar(py: Python<'_>, owner: &Obj, future: &Obj) -> PyResult<()> {
    #[pyfunction]
    fn wake_wait(future: &Bound<'_, PyAny>) -> PyResult<()> {
        complete(future)
    }
    static COMPLETE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let complete = COMPLETE.get_or_try_init(py, || {
        PyResult::Ok(wrap_pyfunction!(wake_wait, py)?.into_any().unbind())
    })?;
    call_method(
        &owner.bind(py),
        intern!(py, "call_soon_threadsafe"),
        [complete.bind(py), &future.bind(py)],
    )
    .map(drop)
}

/// The thread of the task's loop, in which it was polled last.
pub(super) fn thread(wait: &Obj) -> usize {
    // SAFETY: lines are looked through by attached threads alone.
    let py = unsafe { Python::assume_attached() };
    body(wait.bind(py), |body| body.pause.thread)
}

/// The task that waits, or `None`.
pub(super) fn task(py: Python<'_>, wait: &Obj) -> Obj {
    let task = body(wait.bind(py), |body| body.pause.task.clone());
    task.unwrap_or_else(|| py.None().into_bound(py).into())
}

/// Takes the operation to drive it: itself, what it was called on, and whether nobody has awaited it before.
fn begin(wait: Ref<'_, '_>) -> PyResult<(Box<dyn Operation>, Option<Obj>, bool)> {
    let (state, target) = body(wait, |body| {
        (
            std::mem::replace(&mut body.state, State::Running),
            body.target.clone(),
        )
    });
    match state {
        State::New(operation) => Ok((operation, target, true)),
        State::Begun(operation) => Ok((operation, target, false)),
        State::Running => Err(PyValueError::new_err("coroutine already executing")),
        State::Ended => {
            body(wait, |body| body.state = State::Ended);
            Err(PyRuntimeError::new_err(
                "cannot reuse already awaited coroutine",
            ))
        }
    }
}

/// Puts the operation back, or ends the wait.
fn finish(
    py: Python<'_>,
    wait: Ref<'_, '_>,
    operation: Box<dyn Operation>,
    step: PyResult<Step>,
) -> PyResult<Step> {
    if let Ok(Step::Yield(_)) = step {
        body(wait, |body| body.state = State::Begun(operation));
        return step;
    }
    let (pause, target, raised) = body(wait, |body| {
        body.state = State::Ended;
        (
            std::mem::take(&mut body.pause),
            body.target.take(),
            body.raised.take(),
        )
    });
    if let Some(timer) = &pause.timer {
        call_method(&timer.bind(py), intern!(py, "cancel"), [])?;
    }
    drop((pause, target, operation));
    match (step, raised) {
        // The result of an operation that was only to put things in order.
        (Ok(_), Some(raised)) => Err(raised),
        (step, _) => step,
    }
}

/// Polls the operation until it ends or has to wait.
fn advance(
    py: Python<'_>,
    wait: Ref<'_, '_>,
    target: Ref<'_, '_>,
    operation: &mut dyn Operation,
) -> PyResult<Step> {
    // SAFETY: a live object.
    let who = Waiter::Task(unsafe { Obj::from_borrowed(wait.as_ptr()) });
    loop {
        let future = body(wait, |body| {
            body.pause.woken = false;
            body.pause.thread = fork::this_thread();
            body.pause.future.take()
        });
        drop(future);
        if let Poll::Ready(value) = operation.poll(py, target, &who)? {
            return Ok(Step::Return(value));
        }
        let expires = body(wait, |body| {
            let expires = body.pause.expired || body.timeout == Timeout::Now;
            body.pause.expired = false;
            if expires || body.raised.is_some() {
                body.timeout = Timeout::Forever;
            }
            expires && body.raised.is_none()
        });
        if expires {
            match operation.expire(py, target)? {
                Some(value) => return Ok(Step::Return(value)),
                None => continue,
            }
        }
        let future = match pause(py, wait) {
            Ok(future) => future,
            Err(error) => {
                operation.abandon(py, target);
                return Err(error);
            }
        };
        let waits = body(wait, |body| {
            let waits = !body.pause.woken && !body.pause.expired;
            if waits {
                body.pause.future = Some(future.clone());
            }
            waits
        });
        if waits {
            return coroutine::yielded(py, future);
        }
    }
}

/// A future of the running loop, which must be there; and the timer, the first time.
fn pause(py: Python<'_>, wait: Ref<'_, '_>) -> PyResult<Obj> {
    let (owner, timeout, timed) = body(wait, |body| {
        let pause = &body.pause;
        (pause.owner.clone(), body.timeout, pause.timer.is_some())
    });
    let owner = match owner {
        Some(owner) => owner,
        None => {
            let owner = running_loop(py)?;
            let task = current_task(py);
            body(wait, |body| {
                body.pause.owner = Some(owner.clone());
                body.pause.task = task;
            });
            owner
        }
    };
    if let Timeout::At(deadline) = timeout
        && !timed
    {
        let timer = start_timer(py, wait, &owner, deadline)?;
        body(wait, |body| body.pause.timer = Some(timer));
    }
    Ok(call_method(&owner.bind(py), intern!(py, "create_future"), [])?.into())
}

/// Has the loop tell the wait when its time is up.
fn start_timer(
    py: Python<'_>,
    wait: Ref<'_, '_>,
    owner: &Obj,
    deadline: clock::Nanos,
) -> PyResult<Obj> {
    #[pyfunction]
    fn expire_wait(wait: &Bound<'_, PyAny>) {
        body(wait.as_borrowed(), |body| body.pause.expired = true);
        wake(&wait.into());
    }
    static EXPIRE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let expire = EXPIRE.get_or_try_init(py, || {
        PyResult::Ok(wrap_pyfunction!(expire_wait, py)?.into_any().unbind())
    })?;
    let left = deadline.saturating_sub(clock::now()) as f64 / SECOND as f64;
    let left = left.into_pyobject(py)?;
    let timer = call_method(
        &owner.bind(py),
        intern!(py, "call_later"),
        [&left, expire.bind(py), &wait],
    )?;
    Ok(timer.into())
}

impl Coroutine for Wait {
    fn kept() -> &'static Kept {
        static KEPT: Kept = Kept::new();
        &KEPT
    }

    #[inline]
    fn step(py: Python<'_>, wait: Ref<'_, '_>) -> PyResult<Step> {
        let (mut operation, target, _) = begin(wait)?;
        let step = match &target {
            Some(target) => advance(py, wait, target.bind(py), &mut *operation),
            None => Err(PyRuntimeError::new_err("what was waited for is gone")),
        };
        finish(py, wait, operation, step)
    }

    fn throw(py: Python<'_>, wait: Ref<'_, '_>, error: PyErr) -> PyResult<Step> {
        let ended = body(wait, |body| matches!(body.state, State::Ended));
        if ended {
            return Err(error);
        }
        let (mut operation, target, new) = begin(wait)?;
        let Some(target) = target.filter(|_| !new) else {
            return finish(py, wait, operation, Err(error));
        };
        if error.is_instance_of::<PyGeneratorExit>(py) {
            operation.abandon(py, target.bind(py));
            return finish(py, wait, operation, Err(error));
        }
        // The second of two exceptions is raised in the place of the first, as from a `finally`.
        let again = body(wait, |body| body.raised.is_some());
        if !again && operation.leave(py, target.bind(py)) {
            return finish(py, wait, operation, Err(error));
        }
        let old = body(wait, |body| body.raised.replace(error));
        drop(old);
        let step = advance(py, wait, target.bind(py), &mut *operation);
        finish(py, wait, operation, step)
    }

    fn close(py: Python<'_>, wait: Ref<'_, '_>) -> PyResult<()> {
        let ended = body(wait, |body| matches!(body.state, State::Ended));
        if ended {
            return Ok(());
        }
        let (mut operation, target, new) = begin(wait)?;
        if let Some(target) = target.filter(|_| !new) {
            operation.abandon(py, target.bind(py));
        }
        let raised = body(wait, |body| body.raised.take());
        drop(raised);
        finish(py, wait, operation, Ok(Step::Done)).map(drop)
    }

    fn name(&self) -> &'static str {
        self.name
    }

    fn is_new(&self) -> bool {
        matches!(self.state, State::New(_))
    }

    fn visit(&self, visit: &mut dyn FnMut(&Obj) -> c_int) -> c_int {
        let pause = &self.pause;
        let held = [
            &self.target,
            &pause.owner,
            &pause.task,
            &pause.future,
            &pause.timer,
        ];
        match coroutine::visit_all(held, visit) {
            0 => {}
            answer => return answer,
        }
        match &self.state {
            State::New(operation) | State::Begun(operation) => operation.visit(visit),
            State::Running | State::Ended => 0,
        }
    }

    type Held = (Option<Obj>, State, Pause, Option<PyErr>);

    fn clear(&mut self) -> Self::Held {
        (
            self.target.take(),
            std::mem::replace(&mut self.state, State::Ended),
            std::mem::take(&mut self.pause),
            self.raised.take(),
        )
    }
}

fn repr(py: Python<'_>, wait: Ref<'_, '_>) -> heap::Returned {
    let name = body(wait, |body| body.name);
    Ok(format!("<coroutine {name} at {:p}>", wait.as_ptr())
        .into_pyobject(py)?
        .into_any()
        .into_ptr())
}

fn waited_for(py: Python<'_>, wait: Ref<'_, '_>) -> heap::Returned {
    match body(wait, |body| body.target.clone()) {
        Some(target) => Ok(target.into_ptr()),
        None => heap::none(py),
    }
}

/// Makes the type.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let mut getters = coroutine::getters!(Wait);
    getters.push(getter!(c"target", waited_for));
    coroutine::register::<Wait>(
        module,
        c"ropewalk._core.Wait",
        c"A call of a method that may have to wait, to be awaited once. target is the object that it was called on.",
        coroutine::methods!(Wait),
        getters,
        vec![heap::repr_slot!(repr)],
    )
}
