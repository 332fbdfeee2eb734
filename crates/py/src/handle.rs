//! `Handle` and `TimerHandle`: what `call_soon`, `call_later` and `add_reader` give back.
//!
//! Real subclasses of asyncio's own, so `isinstance`, `repr`, ordering and hashing are theirs; the callback,
//! its arguments and its context live in Rust, and the memory of dead handles is used again.

use std::ffi::{c_int, c_void};
use std::sync::OnceLock;

use pyo3::exceptions::PyImportError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyTuple, PyType};
use ropewalk_reactor::TimerKey;

use crate::call::{Args, Lent, borrowed, copy_context, in_context};
use crate::eventloop::Loop;
use crate::heap::{self, Plan, RawType, Ref, Returned, getter, method};
use crate::object::Obj;
use crate::spare::Spare;

/// Room for an instance of `asyncio.TimerHandle`: ten slots behind the largest object header (32 bytes,
/// free-threaded). One number for both types keeps the body at one place.
const HEADER: usize = 112;

#[repr(C)]
struct HandleObject {
    header: [u64; HEADER / 8],
    body: Body,
}

/// What a handle holds. Reached through [`HandleRef::body`] alone.
pub(crate) struct Body {
    /// The loop that the handle belongs to.
    owner: Option<Obj>,
    context: Option<Obj>,
    callback: Option<Obj>,
    args: Args,
    /// Seconds of the loop's clock, of a timer.
    when: f64,
    /// Where the reactor keeps the timer, while it is scheduled.
    timer: Option<TimerKey>,
    cancelled: bool,
}

static PLAIN: OnceLock<RawType> = OnceLock::new();
static TIMER: OnceLock<RawType> = OnceLock::new();
/// What `call_soon_threadsafe` gives back where asyncio has a type of its own for it (from Python 3.14 on): other
/// threads' `cancel()` and `cancelled()` wait while the callback runs.
static SHARED: OnceLock<RawType> = OnceLock::new();

/// What a handle is made for: `callback(*args)`, in `context` (a copy of the current one if there is none), by
/// the loop `owner`. Borrowed, for each part goes straight to its place in the new object: moved there by way
/// of this struct it would cost a third of `call_soon`.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) owner: *mut ffi::PyObject,
    pub(crate) callback: *mut ffi::PyObject,
    pub(crate) args: Given<'a>,
    pub(crate) context: Option<*mut ffi::PyObject>,
}

/// Arguments as the caller has them.
#[derive(Clone, Copy)]
pub(crate) enum Given<'a> {
    Values(&'a [*mut ffi::PyObject]),
    Tuple(*mut ffi::PyObject),
}

impl Given<'_> {
    #[cold]
    fn tuple(self, py: Python<'_>) -> PyResult<Obj> {
        match self {
            // SAFETY: live objects, as the maker of a handle promises.
            Self::Tuple(tuple) => Ok(unsafe { Obj::from_borrowed(tuple) }),
            Self::Values(values) => {
                // SAFETY: as above.
                let values = values.iter().map(|value| unsafe { borrowed(py, *value) });
                Ok(PyTuple::new(py, values)?.into())
            }
        }
    }
}

/// A reference to a native handle.
#[derive(Clone, Debug)]
pub(crate) struct HandleRef(Obj);

impl HandleRef {
    /// # Safety
    /// What `call` points to is alive, as for all of these.
    #[inline]
    pub(crate) unsafe fn new(py: Python<'_>, call: Call<'_>) -> PyResult<Self> {
        // SAFETY: the caller's promise.
        unsafe { Self::make(py, &PLAIN, call, 0.0) }
    }

    /// A handle for `call_soon_threadsafe`.
    ///
    /// # Safety
    /// As for `new`.
    #[inline]
    pub(crate) unsafe fn shared(py: Python<'_>, call: Call<'_>) -> PyResult<Self> {
        let class = if SHARED.get().is_some() {
            &SHARED
        } else {
            &PLAIN
        };
        // SAFETY: the caller's promise.
        unsafe { Self::make(py, class, call, 0.0) }
    }

    /// A handle for a call at `when` seconds of the loop's clock.
    ///
    /// # Safety
    /// As for `new`.
    #[inline]
    pub(crate) unsafe fn timer(py: Python<'_>, call: Call<'_>, when: f64) -> PyResult<Self> {
        // SAFETY: the caller's promise.
        unsafe { Self::make(py, &TIMER, call, when) }
    }

    #[inline]
    unsafe fn make(
        py: Python<'_>,
        class: &'static OnceLock<RawType>,
        call: Call<'_>,
        when: f64,
    ) -> PyResult<Self> {
        let class = class
            .get()
            .ok_or_else(|| PyImportError::new_err("ropewalk._core is not initialised"))?;
        // SAFETY: alive, says the caller.
        let keep = |object| unsafe { Obj::from_borrowed(object) };
        // Whatever can fail comes before the object.
        let context = match call.context {
            Some(context) => keep(context),
            None => copy_context(py)?,
        };
        let many = match call.args {
            Given::Tuple(tuple) => Some(keep(tuple)),
            Given::Values([_, _, _, _, ..]) => Some(call.args.tuple(py)?),
            Given::Values(_) => None,
        };
        let object = spare_of(class).take(py, class)?;
        // SAFETY: fresh memory of the type's size, seen by nobody; nothing is dropped by a write, and every
        // field is written.
        unsafe {
            let body = &raw mut (*object.cast::<HandleObject>()).body;
            (&raw mut (*body).owner).write(Some(keep(call.owner)));
            (&raw mut (*body).context).write(Some(context));
            (&raw mut (*body).callback).write(Some(keep(call.callback)));
            let args = &raw mut (*body).args;
            match (many, call.args) {
                (Some(tuple), _) => args.write(Args::Many(tuple)),
                (None, Given::Values(&[a])) => args.write(Args::One([keep(a)])),
                (None, Given::Values(&[a, b])) => args.write(Args::Two([keep(a), keep(b)])),
                (None, Given::Values(&[a, b, c])) => {
                    args.write(Args::Three([keep(a), keep(b), keep(c)]));
                }
                (None, _) => args.write(Args::None),
            }
            (&raw mut (*body).when).write(when);
            (&raw mut (*body).timer).write(None);
            (&raw mut (*body).cancelled).write(false);
            ffi::PyObject_GC_Track(object.cast());
            Ok(Self(
                Obj::from_owned(object).ok_or_else(|| PyErr::fetch(py))?,
            ))
        }
    }

    pub(crate) fn as_obj(&self) -> &Obj {
        &self.0
    }

    pub(crate) fn into_obj(self) -> Obj {
        self.0
    }

    /// The handle in `object`, if it is one of ours.
    #[inline]
    pub(crate) fn from_object(object: Ref<'_, '_>) -> Option<Self> {
        // SAFETY: a live object has a type.
        let class = unsafe { ffi::Py_TYPE(object.as_ptr()) };
        let ours = |class_of: &OnceLock<RawType>| {
            class_of.get().is_some_and(|ours| ours.as_ptr() == class)
        };
        // SAFETY: alive, and borrowed from somebody attached.
        (ours(&PLAIN) || ours(&TIMER) || ours(&SHARED))
            .then(|| Self(unsafe { Obj::from_borrowed(object.as_ptr()) }))
    }

    /// # Safety
    /// `object` is a native handle.
    #[inline]
    unsafe fn from_self(object: Ref<'_, '_>) -> Self {
        // SAFETY: alive, and borrowed from somebody attached.
        Self(unsafe { Obj::from_borrowed(object.as_ptr()) })
    }

    /// Looks into the handle. No Python code runs in `f`: what it takes out is dropped by the caller.
    ///
    /// Free-threaded, the object's own lock is held (a critical section), so that a cancel from another
    /// thread and the loop's run do not meet halfway.
    #[inline]
    fn body<R>(&self, py: Python<'_>, f: impl FnOnce(&mut Body) -> R) -> R {
        let object = self.0.as_ptr().cast::<HandleObject>();
        pyo3::sync::critical_section::with_critical_section(&self.0.bind(py), || {
            // SAFETY: the GIL or the critical section makes us the only one inside, and `f` runs no Python
            // code that could come back here.
            f(unsafe { &mut (*object).body })
        })
    }

    #[inline]
    pub(crate) fn is_cancelled(&self, py: Python<'_>) -> bool {
        self.body(py, |body| body.cancelled)
    }

    /// Marks the timer as one the reactor holds at `key`.
    #[inline]
    pub(crate) fn scheduled(&self, py: Python<'_>, key: TimerKey) {
        self.body(py, |body| body.timer = Some(key));
    }

    /// Calls the callback in its context. A cancelled handle does nothing.
    #[inline]
    pub(crate) fn run(&self, py: Python<'_>) -> PyResult<()> {
        // References of our own, for the callback may cancel its handle.
        let mut lent = Lent::new();
        let job = self.body(py, |body| {
            body.timer = None;
            if body.cancelled {
                return None;
            }
            body.args.lend(&mut lent);
            Some((body.callback.clone()?, body.context.clone()?))
        });
        let Some((callback, context)) = job else {
            return Ok(());
        };
        // What was returned is dropped inside the context, as by `context.run(...)`.
        in_context(py, &context, || {
            lent.call(py, &callback)
                .map(|result| drop(Obj::from(result)))
        })
    }

    /// Runs a handle that other threads may look at.
    pub(crate) fn run_shared(&self, py: Python<'_>, owner: &Loop) -> PyResult<()> {
        let _running = owner.shared.enter(self.0.as_ptr() as usize);
        self.run(py)
    }

    /// Waits, in another thread, until a callback that has begun has returned.
    fn outlast(&self, py: Python<'_>) -> PyResult<()> {
        match self.body(py, |body| body.owner.clone()) {
            Some(owner) => Loop::from_obj(py, &owner).outlast(py, self.0.as_ptr() as usize),
            None => Ok(()),
        }
    }

    /// Cancels the handle; a timer leaves the reactor at once.
    pub(crate) fn cancel(&self, py: Python<'_>) {
        let Some(taken) = self.mark_cancelled(py) else {
            return;
        };
        if let (Some(key), Some(owner)) = (taken.timer, &taken.owner) {
            crate::eventloop::forget_timer(py, owner, key);
        }
    }

    /// Cancels the handle and hands out what it held, to be dropped where Python code may run.
    fn mark_cancelled(&self, py: Python<'_>) -> Option<Taken> {
        self.body(py, |body| {
            body.cancelled = true;
            Some(Taken {
                _callback: body.callback.take()?,
                _args: std::mem::replace(&mut body.args, Args::None),
                timer: body.timer.take(),
                owner: body.owner.clone(),
            })
        })
    }
}

/// What a cancelled handle held.
struct Taken {
    _callback: Obj,
    _args: Args,
    timer: Option<TimerKey>,
    owner: Option<Obj>,
}

/// Makes the types.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let events = module.py().import("asyncio.events")?;
    let common = || {
        vec![
            method!(c"cancel", c"cancel($self)\n--\n\nCancel the callback. If it has run or was cancelled before, this has no effect.", noargs, cancel),
            method!(c"cancelled", c"cancelled($self)\n--\n\nReturn True if the callback was cancelled.", noargs, cancelled),
            method!(c"get_context", c"get_context($self)\n--\n\nReturn the contextvars.Context in which the callback runs.", noargs, context),
        ]
    };
    let getters = || {
        vec![
            getter!(c"_callback", callback),
            getter!(c"_args", args),
            getter!(c"_context", context),
            getter!(c"_loop", owner),
            getter!(c"_cancelled", cancelled),
            getter!(c"_repr", nothing),
            getter!(c"_source_traceback", nothing),
        ]
    };
    let plan = |name, doc, methods, getters| Plan {
        name,
        doc,
        header: HEADER,
        size: size_of::<HandleObject>(),
        subclassable: false,
        methods,
        getters,
        dealloc,
        traverse,
        clear,
        slots: vec![],
    };
    let plain: Bound<'_, PyType> = events.getattr("Handle")?.cast_into()?;
    let plain = RawType::new(
        &plain,
        plan(
            c"ropewalk._core.Handle",
            c"A callback that the loop will run: asyncio.Handle.",
            common(),
            getters(),
        ),
    )?;
    let timer: Bound<'_, PyType> = events.getattr("TimerHandle")?.cast_into()?;
    let mut timer_methods = common();
    timer_methods.push(method!(
        c"when",
        c"when($self)\n--\n\nReturn the time of the callback: seconds of the loop's clock.",
        noargs,
        when
    ));
    let mut timer_getters = getters();
    timer_getters.push(getter!(c"_when", when));
    timer_getters.push(getter!(c"_scheduled", is_scheduled));
    let timer = RawType::new(
        &timer,
        plan(
            c"ropewalk._core.TimerHandle",
            c"A callback that the loop will run at a time: asyncio.TimerHandle.",
            timer_methods,
            timer_getters,
        ),
    )?;
    let py = module.py();
    if let Ok(base) = events.getattr("_ThreadSafeHandle") {
        let shared = RawType::new(
            &base.cast_into()?,
            plan(
                c"ropewalk._core.ThreadSafeHandle",
                c"A callback that another thread gave the loop; cancel it from any thread.",
                vec![
                    method!(c"cancel", c"cancel($self)\n--\n\nCancel the callback. If it has run or was cancelled before, this has no effect.", noargs, cancel_shared),
                    method!(c"cancelled", c"cancelled($self)\n--\n\nReturn True if the callback was cancelled.", noargs, cancelled_shared),
                    method!(c"get_context", c"get_context($self)\n--\n\nReturn the contextvars.Context in which the callback runs.", noargs, context),
                ],
                getters(),
            ),
        )?;
        module.add("ThreadSafeHandle", SHARED.get_or_init(|| shared).bind(py))?;
    }
    module.add("Handle", PLAIN.get_or_init(|| plain).bind(py))?;
    module.add("TimerHandle", TIMER.get_or_init(|| timer).bind(py))
}

/// Runs `f` on the handle that a method was called on.
#[inline]
fn on<R>(this: Ref<'_, '_>, f: impl FnOnce(&HandleRef) -> R) -> R {
    // SAFETY: CPython checked the type before it called the method.
    f(&unsafe { HandleRef::from_self(this) })
}

fn cancel(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    on(this, |handle| handle.cancel(py));
    heap::none(py)
}

fn cancelled(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    heap::boolean(py, on(this, |handle| handle.is_cancelled(py)))
}

/// From another thread not before a callback that has begun has returned: until then it is the handle's, for what
/// goes wrong is told of the handle.
fn cancel_shared(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    let taken = on(this, |handle| {
        handle.body(py, |body| body.cancelled = true);
        handle.outlast(py)?;
        PyResult::Ok(handle.mark_cancelled(py))
    })?;
    drop(taken);
    heap::none(py)
}

fn cancelled_shared(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    let cancelled = on(this, |handle| {
        handle.outlast(py)?;
        PyResult::Ok(handle.is_cancelled(py))
    })?;
    heap::boolean(py, cancelled)
}

fn object(
    py: Python<'_>,
    this: Ref<'_, '_>,
    pick: impl FnOnce(&mut Body) -> Option<Obj>,
) -> Returned {
    match on(this, |handle| handle.body(py, pick)) {
        Some(object) => Ok(object.into_ptr()),
        None => heap::none(py),
    }
}

fn callback(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    object(py, this, |body| body.callback.clone())
}

fn context(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    object(py, this, |body| body.context.clone())
}

fn owner(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    object(py, this, |body| body.owner.clone())
}

fn args(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    match on(this, |handle| {
        handle.body(py, |body| (!body.cancelled).then(|| body.args.clone()))
    }) {
        Some(args) => Ok(args.to_tuple(py)?.into_ptr()),
        None => heap::none(py),
    }
}

fn nothing(py: Python<'_>, _this: Ref<'_, '_>) -> Returned {
    heap::none(py)
}

fn when(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    let when = on(this, |handle| handle.body(py, |body| body.when));
    Ok(pyo3::types::PyFloat::new(py, when).into_ptr())
}

fn is_scheduled(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    heap::boolean(
        py,
        on(this, |handle| handle.body(py, |body| body.timer.is_some())),
    )
}

fn class_of(object: *mut ffi::PyObject) -> Option<&'static RawType> {
    // SAFETY: a live object has a type.
    let class = unsafe { ffi::Py_TYPE(object) };
    [&PLAIN, &TIMER, &SHARED]
        .into_iter()
        .filter_map(OnceLock::get)
        .find(|ours| ours.as_ptr() == class)
}

/// The memory of dead handles: plain ones, timers, shared ones.
static SPARE: [Spare; 3] = [const { Spare::new() }; 3];

#[inline]
fn spare_of(class: &RawType) -> &'static Spare {
    let is = |other: &OnceLock<RawType>| {
        other
            .get()
            .is_some_and(|other| other.as_ptr() == class.as_ptr())
    };
    &SPARE[usize::from(is(&TIMER)) + 2 * usize::from(is(&SHARED))]
}

unsafe extern "C" fn dealloc(object: *mut ffi::PyObject) {
    // SAFETY: CPython calls this once, on the last reference to a handle, with the thread attached.
    unsafe {
        ffi::PyObject_GC_UnTrack(object.cast());
        ffi::PyObject_ClearWeakRefs(object);
        std::ptr::drop_in_place(&raw mut (*object.cast::<HandleObject>()).body);
        if let Some(class) = class_of(object) {
            class.clear_slots(object);
            spare_of(class).give(Python::assume_attached(), object, class);
        }
    }
}

unsafe extern "C" fn traverse(
    object: *mut ffi::PyObject,
    visit: ffi::visitproc,
    arg: *mut c_void,
) -> c_int {
    let Some(class) = class_of(object) else {
        return 0;
    };
    // SAFETY: the collector traverses live, tracked objects, whose body is written; it stops the world
    // where there is no GIL.
    unsafe {
        let answer = class.visit_slots(object, visit, arg);
        if answer != 0 {
            return answer;
        }
        let body = &(*object.cast::<HandleObject>()).body;
        let held = [&body.owner, &body.context, &body.callback];
        for object in held.into_iter().flatten().chain(body.args.objects()) {
            let answer = heap::visit_object(Some(object), visit, arg);
            if answer != 0 {
                return answer;
            }
        }
    }
    0
}

unsafe extern "C" fn clear(object: *mut ffi::PyObject) -> c_int {
    // SAFETY: the collector clears an unreachable but live handle. What is taken out is dropped last, when
    // the handle is whole again.
    unsafe {
        let body = &mut (*object.cast::<HandleObject>()).body;
        let args = std::mem::replace(&mut body.args, Args::None);
        let taken = (
            body.owner.take(),
            body.context.take(),
            body.callback.take(),
            args,
        );
        if let Some(class) = class_of(object) {
            class.clear_slots(object);
        }
        drop(taken);
    }
    0
}
