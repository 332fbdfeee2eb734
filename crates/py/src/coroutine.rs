//! What a native coroutine has in common with any other: it is to a coroutine what a raw method is to a Python
//! function.
//!
//! The same from outside (`await`, `create_task`, `wait_for`, `send`, `throw`, `close`, the warning if nobody awaits
//! it), and no frame inside. A kind of them is a [`Coroutine`]: what an object of it holds, and what it does when it is
//! driven. It waits as every coroutine does, by yielding a future to the task that drives it.

use std::ffi::{CStr, CString, c_int, c_void};
use std::sync::OnceLock;

use pyo3::exceptions::{PyImportError, PyRuntimeWarning, PyStopIteration, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::call::call_function;
use crate::heap::{self, Arguments, Plan, RawType, Ref, Returned};
use crate::object::Obj;
use crate::returning;
use crate::spare::Spare;

/// Room for an instance of `object`: 16 bytes, 32 free-threaded.
const HEADER: usize = 32;

#[repr(C)]
struct Object<C> {
    header: [u64; HEADER / 8],
    body: C,
}

/// What there is once of a kind of coroutine: its type, and the memory of its dead objects.
pub(crate) struct Kept {
    class: OnceLock<RawType>,
    spare: Spare,
}

impl Kept {
    pub(crate) const fn new() -> Self {
        Self {
            class: OnceLock::new(),
            spare: Spare::new(),
        }
    }
}

/// What driving a coroutine came to.
pub(crate) enum Step {
    /// Waits for the future.
    Yield(Obj),
    Return(Obj),
    /// Returns `None`.
    Done,
}

/// A kind of native coroutine: what an object of it holds.
pub(crate) trait Coroutine: Sized + 'static {
    /// What there is once of it.
    fn kept() -> &'static Kept;

    /// Goes on to the next wait, or to the end.
    fn step(py: Python<'_>, this: Ref<'_, '_>) -> PyResult<Step>;

    /// Goes on with an exception raised where it waits.
    fn throw(py: Python<'_>, this: Ref<'_, '_>, error: PyErr) -> PyResult<Step>;

    /// Ends it; what it waits for it leaves.
    fn close(py: Python<'_>, this: Ref<'_, '_>) -> PyResult<()>;

    /// The qualified name of the method that made it.
    fn name(&self) -> &'static str;

    /// Whether nobody has awaited it.
    fn is_new(&self) -> bool;

    /// Nobody refers to it any more: what it waits for it leaves.
    fn forgotten(&mut self, _py: Python<'_>) {}

    /// Shows what it refers to to the collector, until that has seen enough (not 0).
    fn visit(&self, visit: &mut dyn FnMut(&Obj) -> c_int) -> c_int;

    /// What may be part of a cycle.
    type Held;

    /// Takes that out, to be dropped when the object is whole again.
    fn clear(&mut self) -> Self::Held;
}

/// A new coroutine.
#[inline]
pub(crate) fn make<C: Coroutine>(py: Python<'_>, body: C) -> PyResult<Obj> {
    let kept = C::kept();
    let class = kept
        .class
        .get()
        .ok_or_else(|| PyImportError::new_err("ropewalk._core is not initialised"))?;
    let object = kept.spare.take(py, class)?;
    // SAFETY: fresh memory of the type's size, seen by nobody; nothing is dropped by the write.
    unsafe {
        (&raw mut (*object.cast::<Object<C>>()).body).write(body);
        ffi::PyObject_GC_Track(object.cast());
        Obj::from_owned(object).ok_or_else(|| PyErr::fetch(py))
    }
}

/// Looks into a coroutine, which is of this kind. No Python code runs in `f`.
#[inline]
pub(crate) fn body<C: Coroutine, R>(this: Ref<'_, '_>, f: impl FnOnce(&mut C) -> R) -> R {
    let object = this.as_ptr().cast::<Object<C>>();
    pyo3::sync::critical_section::with_critical_section(&this, || {
        // SAFETY: the GIL or the critical section makes us the only one inside, and `f` runs no Python code
        // that could come back here.
        f(unsafe { &mut (*object).body })
    })
}

/// Makes the type of a kind of coroutine and puts it into the module.
pub(crate) fn register<C: Coroutine>(
    module: &Bound<'_, PyModule>,
    name: &'static CStr,
    doc: &'static CStr,
    methods: Vec<ffi::PyMethodDef>,
    getters: Vec<ffi::PyGetSetDef>,
    mut slots: Vec<(c_int, *mut c_void)>,
) -> PyResult<()> {
    let py = module.py();
    let object: Bound<'_, PyType> = py.import("builtins")?.getattr("object")?.cast_into()?;
    slots.extend([
        (ffi::Py_am_await, itself as *mut c_void),
        (ffi::Py_am_send, send_slot::<C> as *mut c_void),
        (ffi::Py_tp_iter, itself as *mut c_void),
        (ffi::Py_tp_iternext, next::<C> as *mut c_void),
    ]);
    let raw = RawType::new(
        &object,
        Plan {
            name,
            doc,
            header: HEADER,
            size: size_of::<Object<C>>(),
            subclassable: false,
            methods,
            getters,
            dealloc: dealloc::<C>,
            traverse: traverse::<C>,
            clear: clear::<C>,
            slots,
        },
    )?;
    let class = C::kept().class.get_or_init(|| raw).bind(py);
    // `create_task` and `asyncio.run` ask for this.
    py.import("collections.abc")?
        .getattr("Coroutine")?
        .call_method1("register", (&class,))?;
    module.add(class.name()?, class)
}

/// The methods that `types.CoroutineType` has, for a kind of coroutine.
macro_rules! methods {
    ($kind:ty) => {
        vec![
            $crate::heap::method!(c"send", c"send($self, value)\n--\n\nDrive the call; see types.CoroutineType.", one "value", $crate::coroutine::send::<$kind>),
            $crate::heap::method!(c"throw", c"throw($self, typ, val=None, tb=None)\n--\n\nGo on with an exception raised where the call waits.", keywords, $crate::coroutine::throw::<$kind>),
            $crate::heap::method!(c"close", c"close($self)\n--\n\nEnd the call.", noargs, $crate::coroutine::close::<$kind>),
            $crate::heap::method!(c"__await__", c"__await__($self)\n--\n\nReturn the iterator that drives the call.", noargs, $crate::coroutine::awaited),
        ]
    };
}
pub(crate) use methods;

/// The attributes of a coroutine's name, for a kind of coroutine.
macro_rules! getters {
    ($kind:ty) => {
        vec![
            $crate::heap::getter!(c"__name__", $crate::coroutine::name::<$kind>),
            $crate::heap::getter!(c"__qualname__", $crate::coroutine::qualified_name::<$kind>),
        ]
    };
}
pub(crate) use getters;

/// `__await__`, `__iter__`: the call drives itself.
unsafe extern "C" fn itself(call: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: a live object; one more reference.
    unsafe {
        ffi::Py_INCREF(call);
        call
    }
}

/// What `await` does in a Python coroutine.
unsafe extern "C" fn next<C: Coroutine>(call: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a live object.
    unsafe {
        heap::door(
            |py| match C::step(py, pyo3::Borrowed::from_ptr(py, call))? {
                Step::Yield(future) => Ok(future.into_ptr()),
                Step::Return(value) => returning::raise(py, value),
                // NULL without an exception ends an iterator whose result is `None`.
                Step::Done => Ok(std::ptr::null_mut()),
            },
        )
    }
}

/// What a task does with a call that it was made for: no exception carries the result.
unsafe extern "C" fn send_slot<C: Coroutine>(
    call: *mut ffi::PyObject,
    _value: *mut ffi::PyObject,
    result: *mut *mut ffi::PyObject,
) -> ffi::PySendResult {
    let mut answer = ffi::PySendResult::PYGEN_ERROR;
    // SAFETY: called by CPython on a live object, with a place for the result.
    unsafe {
        *result = heap::door(
            |py| match C::step(py, pyo3::Borrowed::from_ptr(py, call))? {
                Step::Yield(future) => {
                    answer = ffi::PySendResult::PYGEN_NEXT;
                    Ok(future.into_ptr())
                }
                Step::Return(value) => {
                    answer = ffi::PySendResult::PYGEN_RETURN;
                    Ok(value.into_ptr())
                }
                Step::Done => {
                    answer = ffi::PySendResult::PYGEN_RETURN;
                    heap::none(py)
                }
            },
        );
    }
    answer
}

pub(crate) fn send<C: Coroutine>(
    py: Python<'_>,
    call: Ref<'_, '_>,
    _value: Ref<'_, '_>,
) -> Returned {
    returned(py, C::step(py, call)?)
}

/// `throw(exception)`, and the old form `throw(type, value, traceback)`.
pub(crate) fn throw<C: Coroutine>(
    py: Python<'_>,
    call: Ref<'_, '_>,
    given: Arguments<'_, '_>,
) -> Returned {
    let [kind, value, traceback] = given.named_or_positional(py, "throw", ["typ", "val", "tb"])?;
    let kind = kind.ok_or_else(|| PyTypeError::new_err("throw() needs an exception"))?;
    let error = if kind.is_instance_of::<PyType>() {
        match value {
            Some(value) if value.is_instance(&kind)? => value,
            Some(value) => kind.call1((value,))?,
            None => call_function(&kind)?,
        }
    } else {
        kind
    };
    if let Some(traceback) = traceback {
        error.setattr(pyo3::intern!(py, "__traceback__"), traceback)?;
    }
    returned(py, C::throw(py, call, PyErr::from_value(error))?)
}

/// What `send` and `throw` give back or raise for a step.
fn returned(py: Python<'_>, step: Step) -> Returned {
    match step {
        Step::Yield(future) => Ok(future.into_ptr()),
        Step::Return(value) => returning::raise(py, value),
        Step::Done => Err(PyStopIteration::new_err(())),
    }
}

pub(crate) fn close<C: Coroutine>(py: Python<'_>, call: Ref<'_, '_>) -> Returned {
    C::close(py, call)?;
    heap::none(py)
}

pub(crate) fn awaited(_py: Python<'_>, call: Ref<'_, '_>) -> Returned {
    // SAFETY: a live object.
    Ok(unsafe { itself(call.as_ptr()) })
}

pub(crate) fn name<C: Coroutine>(py: Python<'_>, call: Ref<'_, '_>) -> Returned {
    let name = body::<C, _>(call, |body| body.name());
    let name = name.rsplit('.').next().unwrap_or(name);
    Ok(name.into_pyobject(py)?.into_any().into_ptr())
}

pub(crate) fn qualified_name<C: Coroutine>(py: Python<'_>, call: Ref<'_, '_>) -> Returned {
    let name = body::<C, _>(call, |body| body.name());
    Ok(name.into_pyobject(py)?.into_any().into_ptr())
}

/// Says so if a call that nobody awaited is thrown away: most likely an `await` is missing.
#[cold]
fn never_awaited(py: Python<'_>, name: &str) {
    let pending = PyErr::take(py);
    let text = format!("coroutine '{name}' was never awaited");
    let warned = CString::new(text)
        .map_err(PyErr::from)
        .and_then(|text| PyErr::warn(py, &py.get_type::<PyRuntimeWarning>(), &text, 1));
    if let Err(error) = warned {
        error.write_unraisable(py, None);
    }
    if let Some(pending) = pending {
        pending.restore(py);
    }
}

/// The loop's future, marked as awaited: a task takes no other.
pub(crate) fn yielded(py: Python<'_>, future: Obj) -> PyResult<Step> {
    future
        .bind(py)
        .setattr(pyo3::intern!(py, "_asyncio_future_blocking"), true)?;
    Ok(Step::Yield(future))
}

unsafe extern "C" fn dealloc<C: Coroutine>(object: *mut ffi::PyObject) {
    // SAFETY: CPython calls this once, on the last reference, with the thread attached.
    unsafe {
        let py = Python::assume_attached();
        ffi::PyObject_GC_UnTrack(object.cast());
        let body = &raw mut (*object.cast::<Object<C>>()).body;
        if (*body).is_new() {
            never_awaited(py, (*body).name());
        }
        (*body).forgotten(py);
        std::ptr::drop_in_place(body);
        let kept = C::kept();
        if let Some(class) = kept.class.get() {
            kept.spare.give(py, object, class);
        }
    }
}

unsafe extern "C" fn traverse<C: Coroutine>(
    object: *mut ffi::PyObject,
    visit: ffi::visitproc,
    arg: *mut c_void,
) -> c_int {
    // SAFETY: the collector traverses live, tracked objects, whose body is written; it stops the world
    // where there is no GIL.
    unsafe {
        let answer = visit(ffi::Py_TYPE(object).cast(), arg);
        if answer != 0 {
            return answer;
        }
        let body = &(*object.cast::<Object<C>>()).body;
        body.visit(&mut |held| visit(held.as_ptr(), arg))
    }
}

unsafe extern "C" fn clear<C: Coroutine>(object: *mut ffi::PyObject) -> c_int {
    // SAFETY: the collector clears an unreachable but live object, attached.
    let taken = unsafe { (*object.cast::<Object<C>>()).body.clear() };
    drop(taken);
    0
}

/// Shows those that are there to the collector, until it has seen enough.
pub(crate) fn visit_all<'a>(
    held: impl IntoIterator<Item = &'a Option<Obj>>,
    visit: &mut dyn FnMut(&Obj) -> c_int,
) -> c_int {
    let answers = held.into_iter().flatten().map(visit);
    answers.into_iter().find(|answer| *answer != 0).unwrap_or(0)
}
