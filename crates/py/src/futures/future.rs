//! `Future`, the native half of `ropewalk.futures.Future`: a small object whose rare parts are made when asked for.

use std::ffi::{c_int, c_void};
use std::sync::OnceLock;

use pyo3::exceptions::{PyException, PyImportError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString, PyType};
use pyo3::{Borrowed, ffi, intern};

use super::originals;
use super::outcome::{self, Want};
use super::state::{Phase, State, Touched, Wakes, add_callback, change, look, touch};
use crate::call::{borrowed, call_method, call_one};
use crate::guard::Guarded;
use crate::heap::{self, Arguments, Plan, RawType, Ref, Returned, method};
use crate::object::Obj;

/// Room for an instance of `object`.
const HEADER: usize = size_of::<ffi::PyObject>();

#[repr(C)]
struct FutureObject {
    header: [u64; HEADER / 8],
    body: Body,
}

/// What is behind the header.
pub(super) struct Body(Guarded<State>);

impl Body {
    /// The body of a native future.
    #[inline]
    pub(super) fn of<'a>(future: Ref<'a, '_>) -> &'a Self {
        // SAFETY: methods are called on instances, and others ask `is_native` first; the body is written before
        // anybody sees the object, and lives as long.
        unsafe { &(*future.as_ptr().cast::<FutureObject>()).body }
    }

    /// Uses the state. No Python code in `f`: see [`Guarded`].
    #[inline]
    pub(super) fn with<R>(&self, py: Python<'_>, f: impl FnOnce(&mut State) -> R) -> R {
        self.0.with(py, f)
    }
}

static CLASS: OnceLock<RawType> = OnceLock::new();
/// The class that programs know, of which pools make theirs.
static FACE: OnceLock<Face> = OnceLock::new();

struct Face(*mut ffi::PyTypeObject);
// SAFETY: a type object that is kept alive for the life of the process.
unsafe impl Send for Face {}
// SAFETY: as above.
unsafe impl Sync for Face {}

/// Names the class that pools make futures of: the first one to be named, for good.
#[pyfunction]
fn _set_future_class(class: &Bound<'_, PyType>) -> PyResult<()> {
    let raw = native_class()?;
    if !class.is_subclass(&raw.bind(class.py()))? {
        return Err(PyTypeError::new_err(
            "the class derives from ropewalk._core.Future",
        ));
    }
    FACE.get_or_init(|| Face(class.clone().into_ptr().cast()));
    Ok(())
}

fn native_class() -> PyResult<&'static RawType> {
    CLASS
        .get()
        .ok_or_else(|| PyImportError::new_err("ropewalk._core is not initialised"))
}

/// Whether the object is a future of ours, or of a class derived from it.
#[inline]
pub(super) fn is_native(object: Ref<'_, '_>) -> bool {
    CLASS.get().is_some_and(|class| {
        // SAFETY: live objects.
        unsafe { ffi::PyObject_TypeCheck(object.as_ptr(), class.as_ptr()) != 0 }
    })
}

/// A pending future of the class that programs know.
#[inline]
pub(super) fn make(py: Python<'_>) -> PyResult<Obj> {
    let face = FACE
        .get()
        .ok_or_else(|| PyImportError::new_err("ropewalk.futures was never imported"))?;
    // SAFETY: a type derived from ours, says `_set_future_class`.
    unsafe {
        let object = allocate(face.0);
        Obj::from_owned(object).ok_or_else(|| PyErr::fetch(py))
    }
}

/// A pending future of the class, or NULL and an exception.
///
/// # Safety
/// Attached; the class derives from ours.
#[inline]
unsafe fn allocate(class: *mut ffi::PyTypeObject) -> *mut ffi::PyObject {
    // SAFETY: a ready heap type has an allocator, which tells the collector at once; no code runs before the body
    // is written, and by the write nothing is dropped.
    unsafe {
        let object = ffi::PyType_GenericAlloc(class, 0);
        if !object.is_null() {
            (&raw mut (*object.cast::<FutureObject>()).body)
                .write(Body(Guarded::new(State::new())));
        }
        object
    }
}

/// `Future.__new__`. Subclasses take what arguments they like.
unsafe extern "C" fn new(
    class: *mut ffi::PyTypeObject,
    _args: *mut ffi::PyObject,
    _named: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython, with a class derived from this one.
    unsafe { allocate(class) }
}

/// `Future.__init__`, which once more makes it a new one.
unsafe extern "C" fn init(
    this: *mut ffi::PyObject,
    args: *mut ffi::PyObject,
    named: *mut ffi::PyObject,
) -> c_int {
    // SAFETY: called by CPython on a live object, with a tuple, and a dictionary or NULL.
    let answer = unsafe {
        heap::door(|py| {
            let given = ffi::PyTuple_Size(args);
            if given > 0 || (!named.is_null() && ffi::PyDict_Size(named) > 0) {
                return Err(PyTypeError::new_err(format!(
                    "Future.__init__() takes 1 positional argument but {} were given",
                    given + 1
                )));
            }
            let body = Body::of(borrowed(py, this));
            let old = body.with(py, |state| std::mem::replace(state, State::new()));
            drop(old);
            heap::none(py)
        })
    };
    if answer.is_null() {
        return -1;
    }
    // SAFETY: None, as a reference of ours.
    unsafe { ffi::Py_DECREF(answer) };
    0
}

/// How a call came out.
pub(super) enum Outcome {
    Result(Obj),
    Exception(Obj),
}

/// Finishes a future: its watchers are told by way of `wakes`, then its callbacks run.
///
/// # Errors
/// `InvalidStateError` if it is done; what a callback raises that is no `Exception`.
#[inline]
pub(super) fn settle(
    py: Python<'_>,
    future: Ref<'_, '_>,
    outcome: Outcome,
    wakes: &mut Wakes,
) -> PyResult<()> {
    let raised = matches!(outcome, Outcome::Exception(_));
    let mut outcome = Some(outcome);
    let settled = change(
        py,
        future,
        |state| {
            if state.phase.is_done() {
                return Err(state.phase);
            }
            match outcome.take() {
                Some(Outcome::Result(result)) => {
                    outcome = state.result.replace(result).map(Outcome::Result);
                }
                Some(Outcome::Exception(exception)) => {
                    outcome = state.exception.replace(exception).map(Outcome::Exception);
                }
                None => {}
            }
            state.phase = Phase::Finished;
            Ok((state.take_watchers(), state.has_callbacks()))
        },
        |settled, touched| {
            if settled.is_ok() {
                let add = if raised {
                    intern!(py, "add_exception")
                } else {
                    intern!(py, "add_result")
                };
                tell_waiters(py, future, touched, add)?;
                call_method(&touched.condition.bind(py), intern!(py, "notify_all"), [])?;
            }
            Ok(())
        },
    )?;
    let (watchers, calls) = settled.map_err(|phase| done_already(py, future, phase))?;
    wakes.tell(watchers, raised);
    if calls || has_own_class(future) {
        wakes.flush(py);
        call_back(py, future)?;
    }
    Ok(())
}

#[cold]
fn done_already(py: Python<'_>, future: Ref<'_, '_>, phase: Phase) -> PyErr {
    match future.repr() {
        Ok(text) => originals::invalid_state(py, &format!("{}: {text}", phase.name())),
        Err(error) => error,
    }
}

/// Tells the waiters that the standard library's `wait` and `as_completed` have left.
fn tell_waiters(
    py: Python<'_>,
    future: Ref<'_, '_>,
    touched: &Touched,
    add: &Bound<'_, PyString>,
) -> PyResult<()> {
    let waiters = touched.waiters.bind(py);
    if waiters.is_empty()? {
        return Ok(());
    }
    for waiter in waiters.try_iter()? {
        call_method(&waiter?, add, [&future])?;
    }
    Ok(())
}

/// Whether a subclass might have methods in the place of ours.
#[inline]
fn has_own_class(future: Ref<'_, '_>) -> bool {
    // SAFETY: a live object has a type.
    FACE.get()
        .is_none_or(|face| unsafe { ffi::Py_TYPE(future.as_ptr()) } != face.0)
}

/// Calls the callbacks; a subclass's way, if it has one.
fn call_back(py: Python<'_>, future: Ref<'_, '_>) -> PyResult<()> {
    if has_own_class(future) {
        return call_method(&future, intern!(py, "_invoke_callbacks"), []).map(drop);
    }
    run_callbacks(py, future)
}

fn run_callbacks(py: Python<'_>, future: Ref<'_, '_>) -> PyResult<()> {
    let (callbacks, touched) = Body::of(future).with(py, |state| {
        (state.take_callbacks(), state.touched().cloned())
    });
    for callback in callbacks {
        run_callback(py, future, callback.bind(py))?;
    }
    if let Some(touched) = touched {
        for callback in touched.callbacks.bind(py).try_iter()? {
            run_callback(py, future, callback?.as_borrowed())?;
        }
    }
    Ok(())
}

/// Calls one. An `Exception` of it is logged.
fn run_callback(py: Python<'_>, future: Ref<'_, '_>, callback: Ref<'_, '_>) -> PyResult<()> {
    match call_one(&callback, &future) {
        Ok(_) => Ok(()),
        Err(error) if error.is_instance_of::<PyException>(py) => {
            let about = [future.to_owned()];
            originals::log_exception(
                py,
                "exception",
                "exception calling callback for %r",
                &about,
                error,
            );
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Marks a future as running, unless it was cancelled: then whoever waits for several learns that.
#[inline]
pub(super) fn begin(py: Python<'_>, future: Ref<'_, '_>, wakes: &mut Wakes) -> PyResult<bool> {
    let begun = change(
        py,
        future,
        |state| match state.phase {
            Phase::Pending => {
                state.phase = Phase::Running;
                Ok(None)
            }
            Phase::Cancelled => {
                state.phase = Phase::Notified;
                Ok(Some(state.take_watchers()))
            }
            other => Err(other),
        },
        |begun, touched| match begun {
            Ok(Some(_)) => tell_waiters(py, future, touched, intern!(py, "add_cancelled")),
            _ => Ok(()),
        },
    )?;
    match begun {
        Ok(None) => Ok(true),
        Ok(Some(watchers)) => {
            wakes.tell(watchers, false);
            Ok(false)
        }
        Err(phase) => {
            originals::log_critical(
                py,
                (
                    "Future %s in unexpected state: %s",
                    future.as_ptr() as usize,
                    phase.name(),
                ),
            )?;
            Err(PyRuntimeError::new_err("Future in unexpected state"))
        }
    }
}

/// Cancels a future that has not begun. Returns whether it is cancelled now.
pub(super) fn cancel(py: Python<'_>, future: Ref<'_, '_>) -> PyResult<bool> {
    let cancelled = change(
        py,
        future,
        |state| match state.phase {
            Phase::Pending => {
                state.phase = Phase::Cancelled;
                Ok(state.take_watchers())
            }
            other => Err(other.is_cancelled()),
        },
        |cancelled, touched| {
            if cancelled.is_ok() {
                call_method(&touched.condition.bind(py), intern!(py, "notify_all"), [])?;
            }
            Ok(())
        },
    )?;
    match cancelled {
        Ok(watchers) => {
            let mut wakes = Wakes::default();
            wakes.tell(watchers, false);
            wakes.flush(py);
            call_back(py, future)?;
            Ok(true)
        }
        Err(cancelled) => Ok(cancelled),
    }
}

fn cancel_method(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    heap::boolean(py, cancel(py, this)?)
}

fn cancelled(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    heap::boolean(py, look(py, this, |state| state.phase.is_cancelled())?)
}

fn running(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    heap::boolean(py, look(py, this, |state| state.phase == Phase::Running)?)
}

fn done(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    heap::boolean(py, look(py, this, |state| state.phase.is_done())?)
}

fn add_done_callback(py: Python<'_>, this: Ref<'_, '_>, callback: Ref<'_, '_>) -> Returned {
    if !add_callback(py, this, callback)? {
        run_callback(py, this, callback)?;
    }
    heap::none(py)
}

fn result(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    outcome::get(py, this, given, Want::Result)
}

fn exception(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    outcome::get(py, this, given, Want::Exception)
}

fn settle_now(py: Python<'_>, this: Ref<'_, '_>, outcome: Outcome) -> Returned {
    let mut wakes = Wakes::default();
    let settled = settle(py, this, outcome, &mut wakes);
    wakes.flush(py);
    settled?;
    heap::none(py)
}

fn set_result(py: Python<'_>, this: Ref<'_, '_>, result: Ref<'_, '_>) -> Returned {
    settle_now(py, this, Outcome::Result(Obj::from(&*result)))
}

fn set_exception(py: Python<'_>, this: Ref<'_, '_>, exception: Ref<'_, '_>) -> Returned {
    let exception = Obj::from(&*exception);
    // No exception is a result: None.
    let outcome = if exception.bind(py).is_none() {
        Outcome::Result(exception)
    } else {
        Outcome::Exception(exception)
    };
    settle_now(py, this, outcome)
}

fn set_running_or_notify_cancel(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    let mut wakes = Wakes::default();
    let begun = begin(py, this, &mut wakes)?;
    wakes.flush(py);
    heap::boolean(py, begun)
}

fn invoke_callbacks(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    run_callbacks(py, this)?;
    heap::none(py)
}

/// `(done, cancelled, result, exception)` in one look (3.15).
#[cfg(Py_3_15)]
fn snapshot(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    let (phase, result, exception) = look(py, this, |state| {
        let finished = state.phase == Phase::Finished;
        (
            state.phase,
            state.result.clone().filter(|_| finished),
            state.exception.clone().filter(|_| finished),
        )
    })?;
    let taken = (
        phase.is_done(),
        phase.is_cancelled(),
        result.map(|object| object.into_bound(py)),
        exception.map(|object| object.into_bound(py)),
    );
    Ok(taken.into_pyobject(py)?.into_any().into_ptr())
}

unsafe extern "C" fn repr(this: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a live object.
    unsafe { heap::door(|py| describe(py, borrowed(py, this))) }
}

fn describe(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    let (phase, result, exception) = look(py, this, |state| {
        (state.phase, state.result.clone(), state.exception.clone())
    })?;
    let class = this.get_type();
    let mut text = format!(
        "<{} at {:#x} state={}",
        class.name()?,
        this.as_ptr() as usize,
        phase.description()
    );
    if phase == Phase::Finished {
        let class_name = |object: Option<&Obj>| -> PyResult<String> {
            match object {
                Some(object) => Ok(object.bind(py).get_type().name()?.to_string()),
                None => Ok("NoneType".to_owned()),
            }
        };
        let (how, what) = match &exception {
            Some(exception) => ("raised", Some(exception)),
            None => ("returned", result.as_ref()),
        };
        text += &format!(" {how} {}", class_name(what)?);
    }
    text.push('>');
    Ok(text.into_pyobject(py)?.into_any().into_ptr())
}

/// `__await__`: the result, once it is there.
unsafe extern "C" fn awaited(this: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a live object.
    unsafe { heap::door(|py| outcome::await_result(py, borrowed(py, this))) }
}

fn result_async(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    outcome::get_async(py, this, given, Want::Result)
}

fn exception_async(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    outcome::get_async(py, this, given, Want::Exception)
}

/// `statistics()`: the state, who waits, how many callbacks.
fn statistics(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    let (phase, waiters, callbacks, touched) = Body::of(this).with(py, |state| {
        let (waiters, callbacks) = (state.waiters(), state.count_callbacks());
        (state.phase, waiters, callbacks, state.touched().cloned())
    });
    let waiters: Vec<_> = waiters
        .iter()
        .map(|waiter| waiter.who(py).map(|who| who.into_bound(py)))
        .collect::<PyResult<_>>()?;
    let touched = touched.map_or(Ok(0), |touched| touched.callbacks.bind(py).len())?;
    let class = py
        .import("ropewalk._statistics")?
        .getattr(intern!(py, "FutureStatistics"))?;
    let given = (phase.description(), waiters, callbacks + touched);
    Ok(class.call_method1(intern!(py, "of"), given)?.into_ptr())
}

// The attributes that other code reaches into ----------------------------------------------------------------

fn get_state(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    let phase = Body::of(this).with(py, |state| state.phase);
    Ok(PyString::new(py, phase.name()).into_any().into_ptr())
}

fn set_state(py: Python<'_>, this: Ref<'_, '_>, value: Ref<'_, '_>) -> PyResult<()> {
    let value = value.cast::<PyString>()?;
    let name = value.to_str()?;
    let phase = Phase::named(name)
        .ok_or_else(|| PyValueError::new_err(format!("a future has no state {name:?}")))?;
    let watchers = Body::of(this).with(py, |state| {
        state.phase = phase;
        if phase.is_done() {
            state.take_watchers()
        } else {
            Vec::new()
        }
    });
    let mut wakes = Wakes::default();
    wakes.tell(watchers, false);
    wakes.flush(py);
    Ok(())
}

fn get_object(
    py: Python<'_>,
    this: Ref<'_, '_>,
    pick: impl FnOnce(&State) -> Option<Obj>,
) -> Returned {
    match Body::of(this).with(py, |state| pick(state)) {
        Some(object) => Ok(object.into_ptr()),
        None => heap::none(py),
    }
}

fn set_object(
    py: Python<'_>,
    this: Ref<'_, '_>,
    value: Ref<'_, '_>,
    pick: impl FnOnce(&mut State) -> &mut Option<Obj>,
) -> PyResult<()> {
    let value = (!value.is_none()).then(|| Obj::from(&*value));
    let old = Body::of(this).with(py, |state| std::mem::replace(pick(state), value));
    drop(old);
    Ok(())
}

fn get_result(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    get_object(py, this, |state| state.result.clone())
}

fn set_result_attribute(py: Python<'_>, this: Ref<'_, '_>, value: Ref<'_, '_>) -> PyResult<()> {
    set_object(py, this, value, |state| &mut state.result)
}

fn get_exception(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    get_object(py, this, |state| state.exception.clone())
}

fn set_exception_attribute(py: Python<'_>, this: Ref<'_, '_>, value: Ref<'_, '_>) -> PyResult<()> {
    set_object(py, this, value, |state| &mut state.exception)
}

fn get_condition(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    Ok(touch(py, this)?.condition.into_ptr())
}

fn get_waiters(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    Ok(touch(py, this)?.waiters.into_ptr())
}

fn get_callbacks(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    Ok(touch(py, this)?.callbacks.into_ptr())
}

fn set_touched(
    py: Python<'_>,
    this: Ref<'_, '_>,
    value: Ref<'_, '_>,
    pick: impl FnOnce(&mut Touched) -> &mut Obj,
) -> PyResult<()> {
    drop(touch(py, this)?);
    let mut value = Some(Obj::from(&*value));
    let old = Body::of(this).with(py, |state| {
        let place = pick(state.touched_mut()?);
        value.take().map(|value| std::mem::replace(place, value))
    });
    drop((old, value));
    Ok(())
}

fn set_condition(py: Python<'_>, this: Ref<'_, '_>, value: Ref<'_, '_>) -> PyResult<()> {
    set_touched(py, this, value, |touched| &mut touched.condition)
}

fn set_waiters(py: Python<'_>, this: Ref<'_, '_>, value: Ref<'_, '_>) -> PyResult<()> {
    set_touched(py, this, value, |touched| &mut touched.waiters)
}

fn set_callbacks(py: Python<'_>, this: Ref<'_, '_>, value: Ref<'_, '_>) -> PyResult<()> {
    if !value.is_instance_of::<PyList>() {
        return Err(PyTypeError::new_err("a future's callbacks are a list"));
    }
    set_touched(py, this, value, |touched| &mut touched.callbacks)
}

/// One attribute that can be read and set.
macro_rules! attribute {
    ($name:literal, $get:path, $set:path) => {{
        unsafe extern "C" fn set(
            this: *mut ffi::PyObject,
            value: *mut ffi::PyObject,
            _: *mut c_void,
        ) -> c_int {
            // SAFETY: called by CPython on a live object, with one or NULL.
            let answer = unsafe {
                heap::door(|py| {
                    if value.is_null() {
                        return Err(pyo3::exceptions::PyAttributeError::new_err(
                            "this attribute of a future cannot be deleted",
                        ));
                    }
                    $set(py, borrowed(py, this), borrowed(py, value))?;
                    heap::none(py)
                })
            };
            if answer.is_null() {
                return -1;
            }
            // SAFETY: None, as a reference of ours.
            unsafe { ffi::Py_DECREF(answer) };
            0
        }
        ffi::PyGetSetDef {
            set: Some(set),
            ..heap::getter!($name, $get)
        }
    }};
}

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    let object: Bound<'_, PyType> = py.import("builtins")?.getattr("object")?.cast_into()?;
    let methods = vec![
        method!(c"cancel", c"cancel($self)\n--\n\nCancel the call if it has not begun.\n\nReturns True if it is cancelled now, False if it runs or is done. Thread-safe, as every method here.", noargs, cancel_method),
        method!(c"cancelled", c"cancelled($self)\n--\n\nReturn True if the call was cancelled.", noargs, cancelled),
        method!(c"running", c"running($self)\n--\n\nReturn True if the call is being made: it cannot be cancelled any more.", noargs, running),
        method!(c"done", c"done($self)\n--\n\nReturn True if the call was cancelled or has ended.", noargs, done),
        method!(c"add_done_callback", c"add_done_callback($self, fn)\n--\n\nCall fn(future) once the future is done: in the order of adding, by whoever finishes or cancels it; now, if\nit is done. An Exception of fn is logged.", one "fn", add_done_callback),
        method!(c"result", c"result($self, timeout=None)\n--\n\nReturn the call's result, or raise what it raised; wait for that at most timeout seconds.\n\nRaises TimeoutError after that time, CancelledError if the call was cancelled.", keywords, result),
        method!(c"exception", c"exception($self, timeout=None)\n--\n\nReturn what the call raised, or None; wait for that at most timeout seconds.\n\nRaises TimeoutError after that time, CancelledError if the call was cancelled.", keywords, exception),
        method!(c"result_async", c"result_async($self, timeout=None)\n--\n\nresult(), to be awaited: the event loop goes on meanwhile. `await future` is the same without a timeout.\n\nWho stops awaiting leaves the call alone: others may wait for it.", keywords, result_async),
        method!(c"exception_async", c"exception_async($self, timeout=None)\n--\n\nexception(), to be awaited: the event loop goes on meanwhile.", keywords, exception_async),
        method!(c"set_result", c"set_result($self, result)\n--\n\nFinish the future with a result; for executors and tests.\n\nRaises InvalidStateError if it is done.", one "result", set_result),
        method!(c"set_exception", c"set_exception($self, exception)\n--\n\nFinish the future with an exception; for executors and tests.\n\nRaises InvalidStateError if it is done.", one "exception", set_exception),
        method!(c"set_running_or_notify_cancel", c"set_running_or_notify_cancel($self)\n--\n\nMark the future as running; for executors and tests.\n\nReturns False if it was cancelled: the call is not to be made then. Raises RuntimeError if it runs or is done.", noargs, set_running_or_notify_cancel),
        method!(c"statistics", c"statistics($self, /)\n--\n\nReturn a FutureStatistics: the state, the threads and tasks that wait, the number of callbacks. Thread-safe.", noargs, statistics),
        method!(c"_invoke_callbacks", c"_invoke_callbacks($self)\n--\n\n", noargs, invoke_callbacks),
        #[cfg(Py_3_15)]
        method!(c"_get_snapshot", c"_get_snapshot($self)\n--\n\n", noargs, snapshot),
    ];
    let raw = RawType::new(
        &object,
        Plan {
            name: c"ropewalk._core.Future",
            doc: c"The native half of ropewalk.futures.Future.",
            header: HEADER,
            size: size_of::<FutureObject>(),
            subclassable: true,
            methods,
            getters: vec![
                attribute!(c"_state", get_state, set_state),
                attribute!(c"_result", get_result, set_result_attribute),
                attribute!(c"_exception", get_exception, set_exception_attribute),
                attribute!(c"_condition", get_condition, set_condition),
                attribute!(c"_waiters", get_waiters, set_waiters),
                attribute!(c"_done_callbacks", get_callbacks, set_callbacks),
            ],
            dealloc,
            traverse,
            clear,
            slots: vec![
                (ffi::Py_tp_new, new as *mut c_void),
                (ffi::Py_tp_init, init as *mut c_void),
                (ffi::Py_tp_repr, repr as *mut c_void),
                (ffi::Py_am_await, awaited as *mut c_void),
            ],
        },
    )?;
    module.add_function(wrap_pyfunction!(_set_future_class, module)?)?;
    module.add("Future", CLASS.get_or_init(|| raw).bind(py))
}

unsafe extern "C" fn dealloc(object: *mut ffi::PyObject) {
    // SAFETY: CPython calls this once, on the last reference, with the thread attached. A Python subclass's
    // `subtype_dealloc` has cleared what the subclass added and leaves the rest, and its type, to us.
    unsafe {
        ffi::PyObject_GC_UnTrack(object.cast());
        let class = ffi::Py_TYPE(object);
        std::ptr::drop_in_place(&raw mut (*object.cast::<FutureObject>()).body);
        if let Some(free) = (*class).tp_free {
            free(object.cast());
        }
        ffi::Py_DECREF(class.cast());
    }
}

unsafe extern "C" fn traverse(
    object: *mut ffi::PyObject,
    visit: ffi::visitproc,
    arg: *mut c_void,
) -> c_int {
    let Some(class) = CLASS.get() else { return 0 };
    // SAFETY: the collector traverses live, tracked objects, whose body is written; it stops the world where there
    // is no GIL.
    unsafe {
        let answer = class.visit_slots(object, visit, arg);
        if answer != 0 {
            return answer;
        }
        let body = &(*object.cast::<FutureObject>()).body;
        body.0
            .try_look(|state| {
                state
                    .objects()
                    .map(|held| heap::visit_object(Some(held), visit, arg))
                    .find(|answer| *answer != 0)
                    .unwrap_or(0)
            })
            .unwrap_or(0)
    }
}

unsafe extern "C" fn clear(object: *mut ffi::PyObject) -> c_int {
    // SAFETY: the collector clears an unreachable but live future, attached. What is taken out is dropped last, when
    // the future is whole again.
    unsafe {
        let py = Python::assume_attached();
        let body = Body::of(Borrowed::from_ptr(py, object));
        let old = body.with(py, |state| {
            let phase = state.phase;
            let old = std::mem::replace(state, State::new());
            state.phase = phase;
            old
        });
        drop(old);
    }
    0
}
