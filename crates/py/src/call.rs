//! Calling Python: vectorcall straight from Rust's values, inside a context when one was captured.

use std::ffi::{CStr, c_char, c_int};
use std::ptr;

use pyo3::exceptions::{PyKeyboardInterrupt, PySystemExit};
use pyo3::ffi::PyObject;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};
use pyo3::{Borrowed, ffi};

use crate::object::Obj;

/// The positional arguments of a callback. Up to three, which is nearly all, are kept without a tuple.
#[derive(Clone, Debug)]
pub(crate) enum Args {
    None,
    One([Obj; 1]),
    Two([Obj; 2]),
    Three([Obj; 3]),
    /// A tuple.
    Many(Obj),
}

impl Args {
    pub(crate) fn objects(&self) -> &[Obj] {
        match self {
            Self::None => &[],
            Self::One(values) => values,
            Self::Two(values) => values,
            Self::Three(values) => values,
            Self::Many(tuple) => std::slice::from_ref(tuple),
        }
    }

    /// As the tuple that Python code expects in `handle._args`.
    pub(crate) fn to_tuple<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match self {
            Self::Many(tuple) => Ok(tuple.bind(py).to_owned()),
            few => {
                Ok(PyTuple::new(py, few.objects().iter().map(|value| value.bind(py)))?.into_any())
            }
        }
    }

    /// The arguments of a call that is being served.
    ///
    /// # Safety
    /// Live objects, all of them.
    #[inline]
    pub(crate) unsafe fn of(py: Python<'_>, values: &[*mut ffi::PyObject]) -> PyResult<Self> {
        // SAFETY: alive, says the caller.
        let keep = |object| unsafe { Obj::from_borrowed(object) };
        Ok(match *values {
            [] => Self::None,
            [a] => Self::One([keep(a)]),
            [a, b] => Self::Two([keep(a), keep(b)]),
            [a, b, c] => Self::Three([keep(a), keep(b), keep(c)]),
            _ => Self::Many(
                PyTuple::new(
                    py,
                    // SAFETY: as above.
                    values.iter().map(|value| unsafe { borrowed(py, *value) }),
                )?
                .into_any()
                .into(),
            ),
        })
    }

    /// Calls with these arguments. Nobody else can take them away meanwhile: see [`lend`](Self::lend) otherwise.
    #[inline]
    pub(crate) fn call<'py>(&self, py: Python<'py>, function: &Obj) -> PyResult<Bound<'py, PyAny>> {
        if let Self::Many(tuple) = self {
            return call_tuple(py, function, tuple);
        }
        let mut values = [ptr::null_mut(); 4];
        let objects = self.objects();
        for (place, object) in values[1..].iter_mut().zip(objects) {
            *place = object.as_ptr();
        }
        vectorcall(py, function, &mut values[..=objects.len()], ptr::null_mut())
    }

    /// Takes references of its own to the arguments, to call with.
    #[inline]
    pub(crate) fn lend(&self, lent: &mut Lent) {
        if let Self::Many(tuple) = self {
            lent.tuple = Some(tuple.clone());
            return;
        }
        for value in self.objects() {
            lent.count += 1;
            lent.values[lent.count] = value.clone().into_ptr();
        }
    }
}

/// Arguments on their way into a call, in the order in which CPython wants them: nothing moves any more.
pub(crate) struct Lent {
    /// Scratch space for the callee, then `count` owned references.
    values: [*mut ffi::PyObject; 4],
    count: usize,
    tuple: Option<Obj>,
}

impl Lent {
    #[inline]
    pub(crate) const fn new() -> Self {
        Self {
            values: [ptr::null_mut(); 4],
            count: 0,
            tuple: None,
        }
    }

    #[inline]
    pub(crate) fn call<'py>(
        &mut self,
        py: Python<'py>,
        function: &Obj,
    ) -> PyResult<Bound<'py, PyAny>> {
        match &self.tuple {
            Some(tuple) => call_tuple(py, function, tuple),
            None => {
                let values = &mut self.values[..=self.count];
                vectorcall(py, function, values, ptr::null_mut())
            }
        }
    }
}

impl Drop for Lent {
    #[inline]
    fn drop(&mut self) {
        for value in &self.values[1..=self.count] {
            // SAFETY: a reference of our own, made by `lend`; attached, as wherever an `Obj` is.
            drop(unsafe { Obj::from_owned(*value) });
        }
    }
}

/// Calls with the values behind the first place, which is scratch space for the callee (PEP 590). The last of them
/// are given by name if `names`, a tuple, is not NULL.
#[inline]
pub(crate) fn vectorcall<'py>(
    py: Python<'py>,
    function: &Obj,
    values: &mut [*mut ffi::PyObject],
    names: *mut ffi::PyObject,
) -> PyResult<Bound<'py, PyAny>> {
    let named = if names.is_null() {
        0
    } else {
        // SAFETY: not NULL, so it is a tuple.
        usize::try_from(unsafe { ffi::PyTuple_GET_SIZE(names) }).unwrap_or(0)
    };
    let count = (values.len() - 1 - named) | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET;
    // SAFETY: live objects; the offset flag is true to the scratch place in front of them.
    unsafe {
        let result = survived(|| {
            opaque::<unwinding::Vectorcall>(unwinding::PyObject_Vectorcall)(
                function.as_ptr(),
                values.as_ptr().add(1),
                count,
                names,
            )
        });
        Bound::from_owned_ptr_or_err(py, result)
    }
}

/// Calls with values of which the last are given by name.
pub(crate) fn call_named<'py>(
    py: Python<'py>,
    function: &Obj,
    values: &[Obj],
    names: &Obj,
) -> PyResult<Bound<'py, PyAny>> {
    let mut places = vec![ptr::null_mut()];
    places.extend(values.iter().map(Obj::as_ptr));
    vectorcall(py, function, &mut places, names.as_ptr())
}

/// Calls `object.name(*args)`.
#[inline]
pub(crate) fn call_method<'py, const N: usize>(
    object: &Bound<'py, PyAny>,
    name: &Bound<'py, PyString>,
    args: [&Bound<'py, PyAny>; N],
) -> PyResult<Bound<'py, PyAny>> {
    const MOST: usize = 7;
    const { assert!(N < MOST) };
    let mut values = [ptr::null_mut(); MOST];
    values[0] = object.as_ptr();
    for (place, value) in values[1..].iter_mut().zip(args) {
        *place = value.as_ptr();
    }
    // SAFETY: live objects, the receiver first.
    unsafe {
        let result = survived(|| {
            opaque::<unwinding::Vectorcall>(unwinding::PyObject_VectorcallMethod)(
                name.as_ptr(),
                values.as_ptr(),
                N + 1,
                ptr::null_mut(),
            )
        });
        Bound::from_owned_ptr_or_err(object.py(), result)
    }
}

/// Calls `function(*args)` with a tuple.
fn call_tuple<'py>(py: Python<'py>, function: &Obj, args: &Obj) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: live objects; the tuple is one, or CPython says that it is not.
    unsafe {
        let result = survived(|| {
            opaque::<unwinding::Call>(unwinding::PyObject_Call)(
                function.as_ptr(),
                args.as_ptr(),
                ptr::null_mut(),
            )
        });
        Bound::from_owned_ptr_or_err(py, result)
    }
}

/// Calls `function()`.
pub(crate) fn call_function<'py>(function: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let none = ptr::null_mut();
    vectorcall(function.py(), &function.into(), &mut [none], none)
}

/// Calls `function(value)`.
#[inline]
pub(crate) fn call_one<'py>(
    function: &Bound<'py, PyAny>,
    value: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let mut values = [ptr::null_mut(), value.as_ptr()];
    vectorcall(
        function.py(),
        &function.into(),
        &mut values,
        ptr::null_mut(),
    )
}

/// Calls into Python from a thread that may be ended there.
///
/// Before Python 3.14 an interpreter that finalizes ends each daemon thread that wants to run again, by
/// `pthread_exit`: the stack is unwound, through CPython's frames and then through ours, where the nearest
/// `catch_unwind` would end the whole process. So the unwinding stops here, in the frame next to CPython's,
/// and the thread waits for the end of the process, which is what Python 3.14 does itself.
#[inline]
fn survived<R>(call: impl FnOnce() -> R) -> R {
    struct Ended;
    impl Drop for Ended {
        fn drop(&mut self) {
            loop {
                std::thread::park();
            }
        }
    }
    let ended = Ended;
    let result = call();
    std::mem::forget(ended);
    result
}

/// The function as a pointer (`F` is named, for a function's own type would be of no size), of which the compiler
/// knows nothing more.
///
/// PyO3 declares the same functions as ones that never unwind. There is one declaration of a name in the end, and
/// if it is PyO3's, the compiler leaves `survived`'s guard out of a direct call.
#[inline]
fn opaque<F>(function: F) -> F {
    if cfg!(Py_3_14) {
        function
    } else {
        std::hint::black_box(function)
    }
}

/// Gives a reference back. The object's last one may run its `__del__`, so what holds for a call holds here.
///
/// # Safety
/// `object` is a reference of the caller's, on an attached thread.
#[inline]
pub(crate) unsafe fn release(object: *mut PyObject) {
    // From 3.14 on threads are not ended, and the count is decremented in line.
    // SAFETY: the caller's reference, attached.
    #[cfg(Py_3_14)]
    unsafe {
        ffi::Py_DECREF(object);
    }
    // SAFETY: the same. With the GIL nobody can take another reference after the look at the last one.
    #[cfg(not(Py_3_14))]
    unsafe {
        if cfg!(Py_GIL_DISABLED) || ffi::Py_REFCNT(object) == 1 {
            survived(|| opaque::<unwinding::Release>(unwinding::Py_DecRef)(object));
        } else {
            ffi::Py_DECREF(object);
        }
    }
}

/// CPython's functions as ones that a stack may be unwound through, which PyO3 says of its own declarations that
/// it may not.
mod unwinding {
    use pyo3::ffi::PyObject;

    type Object = *mut PyObject;
    pub(super) type Vectorcall =
        unsafe extern "C-unwind" fn(Object, *const Object, usize, Object) -> Object;
    pub(super) type Call = unsafe extern "C-unwind" fn(Object, Object, Object) -> Object;
    #[cfg(not(Py_3_14))]
    pub(super) type Release = unsafe extern "C-unwind" fn(Object);

    unsafe extern "C-unwind" {
        pub(super) fn PyObject_Vectorcall(
            callable: *mut PyObject,
            args: *const *mut PyObject,
            nargsf: usize,
            kwnames: *mut PyObject,
        ) -> *mut PyObject;
        pub(super) fn PyObject_VectorcallMethod(
            name: *mut PyObject,
            args: *const *mut PyObject,
            nargsf: usize,
            kwnames: *mut PyObject,
        ) -> *mut PyObject;
        pub(super) fn PyObject_Call(
            callable: *mut PyObject,
            args: *mut PyObject,
            kwargs: *mut PyObject,
        ) -> *mut PyObject;
        #[cfg(not(Py_3_14))]
        pub(super) fn Py_DecRef(object: *mut PyObject);
    }
}

/// A copy of the current context, as `contextvars.copy_context()` makes it.
#[inline]
pub(crate) fn copy_context(py: Python<'_>) -> PyResult<Obj> {
    // SAFETY: attached; returns a new reference or raises.
    unsafe { Obj::from_owned(ffi::PyContext_CopyCurrent()).ok_or_else(|| PyErr::fetch(py)) }
}

/// Runs `f` with `context` as the current one: `context.run(...)` without the call.
///
/// # Errors
/// What entering raises: `RuntimeError` where the context is entered already, `TypeError` where it is none.
#[inline]
pub(crate) fn in_context<R>(
    py: Python<'_>,
    context: &Obj,
    f: impl FnOnce() -> PyResult<R>,
) -> PyResult<R> {
    // SAFETY: attached, on a live object; the type is checked by CPython.
    if unsafe { ffi::PyContext_Enter(context.as_ptr()) } != 0 {
        return Err(PyErr::fetch(py));
    }
    let result = f();
    // SAFETY: entered above by this thread. Leaving it fails only if the callback left it itself.
    if unsafe { ffi::PyContext_Exit(context.as_ptr()) } != 0 {
        let error = PyErr::fetch(py);
        return result.and(Err(error));
    }
    result
}

/// Whether asyncio lets this exception end the loop's run: `SystemExit` and `KeyboardInterrupt` do.
pub(crate) fn ends_the_run(py: Python<'_>, error: &PyErr) -> bool {
    error.is_instance_of::<PySystemExit>(py) || error.is_instance_of::<PyKeyboardInterrupt>(py)
}

/// The object behind a raw pointer that a caller of ours holds.
///
/// # Safety
/// `pointer` is alive for `'a`.
pub(crate) unsafe fn borrowed<'a, 'py>(
    py: Python<'py>,
    pointer: *mut ffi::PyObject,
) -> Borrowed<'a, 'py, PyAny> {
    // SAFETY: alive, says the caller.
    unsafe { Borrowed::from_ptr(py, pointer) }
}

/// Raises an audit event with two arguments, as the standard library does where we take its place.
pub(crate) fn audit(
    py: Python<'_>,
    event: &CStr,
    one: Borrowed<'_, '_, PyAny>,
    other: Borrowed<'_, '_, PyAny>,
) -> PyResult<()> {
    unsafe extern "C" {
        /// Documented in CPython's "System Functions"; PyO3 does not pass it on.
        fn PySys_Audit(event: *const c_char, format: *const c_char, ...) -> c_int;
    }
    // SAFETY: attached; two live objects, as the format says.
    let answer =
        unsafe { PySys_Audit(event.as_ptr(), c"OO".as_ptr(), one.as_ptr(), other.as_ptr()) };
    if answer != 0 {
        return Err(PyErr::fetch(py));
    }
    Ok(())
}
