//! Raw heap types: the few Python types whose every call is counted in nanoseconds.
//!
//! A call into a `#[pymethods]` function that takes `*args` builds a tuple and costs about 40 ns; the same
//! through `METH_FASTCALL` costs 14. And a type made by PyO3 cannot derive from a class written in Python,
//! while ours must be real `asyncio.Handle`s and `asyncio.Transport`s. Everything cold uses PyO3.
//!
//! What holds these types together, once for all of them:
//! - An object is `header | body`. The header is as large as the base class's instances (checked when the
//!   type is made) and belongs to CPython; the body is ours, written before anybody else sees the object.
//! - Every entry from C goes through [`door`]: it tells PyO3 that the thread is attached, turns `Err` into a
//!   raised exception, and stops a panic, which must never unwind through CPython's frames.
//! - `dealloc` follows CPython's order: untrack, clear weak references, drop the body, clear the base
//!   class's slots, free, release the type.

use std::any::Any;
use std::ffi::{CStr, c_int, c_void};
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use pyo3::exceptions::{PyImportError, PySystemError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple, PyType};
use pyo3::{Borrowed, ffi, intern};

/// What an entry point gives back: an owned reference.
pub(crate) type Returned = PyResult<*mut ffi::PyObject>;

/// The object that a method was called on, an argument of it.
pub(crate) type Ref<'a, 'py> = Borrowed<'a, 'py, PyAny>;

/// Enters Rust from a slot or a method that CPython called.
///
/// # Safety
/// The thread is attached, as it is in every call that CPython makes.
#[inline]
pub(crate) unsafe fn door(f: impl FnOnce(Python<'_>) -> Returned) -> *mut ffi::PyObject {
    // SAFETY: CPython calls with the thread attached; its finalization may have begun, in which case the
    // checked form would refuse although this very thread is the one that finalizes.
    unsafe {
        Python::attach_unchecked(|py| match catch_unwind(AssertUnwindSafe(|| f(py))) {
            Ok(Ok(pointer)) => pointer,
            Ok(Err(error)) => {
                error.restore(py);
                ptr::null_mut()
            }
            Err(panic) => {
                panicked(panic.as_ref()).restore(py);
                ptr::null_mut()
            }
        })
    }
}

/// What a shortcut gives. A panic, which is a bug of ours, does not leave it either; that costs nothing before it
/// happens, and what a door does besides is not done.
#[inline]
pub(crate) fn caught(
    shortcut: impl FnOnce() -> Option<*mut ffi::PyObject>,
) -> Option<*mut ffi::PyObject> {
    match catch_unwind(AssertUnwindSafe(shortcut)) {
        Ok(answer) => answer,
        Err(panic) => {
            // SAFETY: a shortcut is taken by an attached thread.
            let py = unsafe { Python::assume_attached() };
            panicked(panic.as_ref()).restore(py);
            Some(ptr::null_mut())
        }
    }
}

/// A bug of ours, as an exception that names it.
pub(crate) fn panicked(payload: &(dyn Any + Send)) -> PyErr {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_default();
    PySystemError::new_err(format!(
        "ropewalk: a bug in the runtime, please report it: {text}"
    ))
}

/// `None`, as a new reference.
#[inline]
pub(crate) fn none(py: Python<'_>) -> Returned {
    Ok(py.None().into_ptr())
}

/// `True` or `False`, as a new reference.
#[inline]
pub(crate) fn boolean(py: Python<'_>, value: bool) -> Returned {
    Ok(pyo3::types::PyBool::new(py, value).to_owned().into_ptr())
}

/// The arguments of a `METH_FASTCALL | METH_KEYWORDS` call: values in place, names beside them.
#[derive(Clone, Copy)]
pub(crate) struct Arguments<'a, 'py> {
    token: PhantomData<Python<'py>>,
    values: &'a [*mut ffi::PyObject],
    names: *mut ffi::PyObject,
}

impl<'a, 'py> Arguments<'a, 'py> {
    /// # Safety
    /// As CPython passes them: `count` positional values at `values`, then one value for each of `names`.
    #[inline]
    pub(crate) unsafe fn new(
        _py: Python<'py>,
        values: *const *mut ffi::PyObject,
        count: ffi::Py_ssize_t,
        names: *mut ffi::PyObject,
    ) -> Self {
        let named = if names.is_null() {
            0
        } else {
            // SAFETY: not NULL, so it is the tuple of keyword names.
            unsafe { ffi::PyTuple_GET_SIZE(names) }
        };
        let all = usize::try_from(count + named).unwrap_or(0);
        let values = if all == 0 {
            &[]
        } else {
            // SAFETY: the calling convention: that many values, alive for the call.
            unsafe { std::slice::from_raw_parts(values, all) }
        };
        Self {
            token: PhantomData,
            values,
            names,
        }
    }

    /// The tuple of the names, if values were given by name.
    #[inline]
    pub(crate) fn names(&self) -> Option<*mut ffi::PyObject> {
        (!self.names.is_null() && self.named() > 0).then_some(self.names)
    }

    /// How many of the values were given by name.
    fn named(&self) -> usize {
        if self.names.is_null() {
            return 0;
        }
        // SAFETY: not NULL, so it is the tuple of keyword names.
        usize::try_from(unsafe { ffi::PyTuple_GET_SIZE(self.names) }).unwrap_or(0)
    }

    /// The values that were given by position.
    #[inline]
    pub(crate) fn positional(&self) -> &'a [*mut ffi::PyObject] {
        &self.values[..self.values.len() - self.named()]
    }

    /// The value of `context=`: `Some(None)` if it was left out or is `None`; `None` if any other keyword was
    /// given, which only the plain form of the method can judge.
    #[inline]
    pub(crate) fn context(&self, py: Python<'py>) -> Option<Option<*mut ffi::PyObject>> {
        if self.names.is_null() {
            return Some(None);
        }
        // SAFETY: the calling convention says that it is a tuple of strings, alive for the call.
        let names = unsafe { Borrowed::from_ptr(py, self.names).cast_unchecked::<PyTuple>() };
        if names.len() != 1
            || !names
                .get_borrowed_item(0)
                .ok()?
                .eq(intern!(py, "context"))
                .ok()?
        {
            return None;
        }
        // SAFETY: None is immortal.
        Some(
            self.values
                .last()
                .copied()
                .filter(|value| *value != unsafe { ffi::Py_None() }),
        )
    }

    /// The values that were given by name, with their names.
    #[inline]
    pub(crate) fn by_name(
        &self,
        py: Python<'py>,
    ) -> impl Iterator<Item = (Bound<'py, PyString>, Ref<'a, 'py>)> + use<'a, 'py> {
        let names = self.names;
        let values = &self.values[self.positional().len()..];
        values.iter().zip(0..).map(move |(value, index)| {
            // SAFETY: values by name come with a tuple of as many strings; both are alive for the call.
            unsafe {
                let name = ffi::PyTuple_GET_ITEM(names, index);
                let name = Bound::from_borrowed_ptr(py, name).cast_into_unchecked();
                (name, Borrowed::from_ptr(py, *value))
            }
        })
    }

    /// All values: those by position, then those by name.
    pub(crate) fn all(&self) -> &'a [*mut ffi::PyObject] {
        self.values
    }

    /// The one value of a function with one parameter.
    ///
    /// # Errors
    /// `TypeError` unless it is there, alone, under that name if any.
    #[inline]
    pub(crate) fn only(
        &self,
        py: Python<'py>,
        function: &CStr,
        parameter: &str,
    ) -> PyResult<Ref<'a, 'py>> {
        if let ([value], true) = (self.values, self.names.is_null()) {
            // SAFETY: an argument of the call that is being served.
            return Ok(unsafe { Borrowed::from_ptr(py, *value) });
        }
        self.only_by_name(py, function, parameter)
    }

    #[cold]
    fn only_by_name(
        &self,
        py: Python<'py>,
        function: &CStr,
        parameter: &str,
    ) -> PyResult<Ref<'a, 'py>> {
        let function = function.to_string_lossy();
        let [value] = self.named_or_positional(py, &function, [parameter])?;
        match (value, self.values) {
            // SAFETY: an argument of the call that is being served.
            (_, [value]) => Ok(unsafe { Borrowed::from_ptr(py, *value) }),
            _ => Err(PyTypeError::new_err(format!(
                "{function}() missing 1 required positional argument: '{parameter}'"
            ))),
        }
    }

    /// The values of a function's parameters, all optional, given either way; `None` if absent or `None`.
    ///
    /// # Errors
    /// `TypeError` for too many values, an unknown name, or a parameter given twice.
    pub(crate) fn named_or_positional<const N: usize>(
        &self,
        py: Python<'py>,
        function: &str,
        parameters: [&str; N],
    ) -> PyResult<[Option<Bound<'py, PyAny>>; N]> {
        let mut found = [const { None }; N];
        let positional = self.positional();
        if positional.len() > N {
            let given = positional.len();
            return Err(PyTypeError::new_err(format!(
                "{function}() takes at most {N} arguments ({given} given)"
            )));
        }
        // SAFETY: arguments of the call that is being served.
        let value = |pointer: *mut ffi::PyObject| unsafe { Bound::from_borrowed_ptr(py, pointer) };
        for (place, given) in found.iter_mut().zip(positional) {
            *place = Some(value(*given));
        }
        for (index, given) in self.values[positional.len()..].iter().enumerate() {
            // SAFETY: values by name come with a tuple of their names, strings all.
            let names = unsafe { Borrowed::from_ptr(py, self.names).cast_unchecked::<PyTuple>() };
            // SAFETY: as above.
            let name = unsafe { names.get_borrowed_item(index)?.cast_unchecked::<PyString>() };
            let name = name.to_str()?;
            place_by_name(&mut found, &parameters, function, name, value(*given))?;
        }
        Ok(found.map(|value| value.filter(|value| !value.is_none())))
    }

    /// As a tuple and a dict, the way `__init__` takes them.
    pub(crate) fn to_python(
        self,
        py: Python<'py>,
    ) -> PyResult<(Bound<'py, PyTuple>, Option<Bound<'py, PyDict>>)> {
        // SAFETY: arguments of the call that is being served.
        let value = |pointer: &*mut ffi::PyObject| unsafe { Borrowed::from_ptr(py, *pointer) };
        let args = PyTuple::new(py, self.positional().iter().map(value))?;
        if self.names.is_null() {
            return Ok((args, None));
        }
        let kwargs = PyDict::new(py);
        for (name, given) in self.by_name(py) {
            kwargs.set_item(name, given)?;
        }
        Ok((args, Some(kwargs)))
    }

    /// Calls `function` with the same arguments and one more by name (`names` holds it alone).
    pub(crate) fn call_with(
        &self,
        py: Python<'py>,
        function: &Bound<'py, PyAny>,
        names: &Bound<'py, PyTuple>,
        value: Ref<'_, 'py>,
    ) -> Returned {
        const INLINE: usize = 6;
        let positional = self.positional().len();
        let all_names;
        let names = if self.names.is_null() {
            names
        } else {
            // SAFETY: not NULL, so it is the tuple of keyword names.
            let theirs = unsafe { Borrowed::from_ptr(py, self.names).cast_unchecked::<PyTuple>() };
            all_names = names
                .as_sequence()
                .concat(theirs.as_sequence())?
                .to_tuple()?;
            &all_names
        };
        // A scratch place, the positional values, ours, theirs by name.
        let mut few = [ptr::null_mut(); INLINE];
        let mut many;
        let values = if self.values.len() + 2 <= INLINE {
            &mut few[..self.values.len() + 2]
        } else {
            many = vec![ptr::null_mut(); self.values.len() + 2];
            &mut many[..]
        };
        values[1..=positional].copy_from_slice(self.positional());
        values[positional + 1] = value.as_ptr();
        values[positional + 2..].copy_from_slice(&self.values[positional..]);
        // SAFETY: live objects; names for those behind the positional ones; the first place is ours to lend.
        unsafe {
            let result = ffi::PyObject_Vectorcall(
                function.as_ptr(),
                values.as_ptr().add(1),
                positional | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET,
                names.as_ptr(),
            );
            Ok(Bound::from_owned_ptr_or_err(py, result)?.into_ptr())
        }
    }

    /// Calls `this.name(...)` with the same arguments.
    pub(crate) fn call_method(
        &self,
        py: Python<'py>,
        this: Ref<'_, 'py>,
        name: &Bound<'py, PyString>,
    ) -> Returned {
        let values: Vec<_> = std::iter::once(this.as_ptr())
            .chain(self.values.iter().copied())
            .collect();
        // SAFETY: live objects, the receiver first, then the arguments as they came.
        unsafe {
            let result = ffi::PyObject_VectorcallMethod(
                name.as_ptr(),
                values.as_ptr(),
                self.positional().len() + 1,
                self.names,
            );
            Ok(Bound::from_owned_ptr_or_err(py, result)?.into_ptr())
        }
    }
}

/// Puts a value that was given by name in its place.
///
/// # Errors
/// `TypeError` for an unknown name, or a parameter given twice.
pub(crate) fn place_by_name<T>(
    found: &mut [Option<T>],
    parameters: &[&str],
    function: &str,
    name: &str,
    value: T,
) -> PyResult<()> {
    let place = parameters.iter().position(|parameter| *parameter == name);
    let Some(place) = place.and_then(|place| found.get_mut(place)) else {
        return Err(PyTypeError::new_err(format!(
            "{function}() got an unexpected keyword argument '{name}'"
        )));
    };
    if place.is_some() {
        return Err(PyTypeError::new_err(format!(
            "{function}() got multiple values for argument '{name}'"
        )));
    }
    *place = Some(value);
    Ok(())
}

/// What a method's shortcut answers. These objects are the interpreter's own and need no token to be referred to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quick {
    None,
    True,
    False,
}

impl Quick {
    /// The answer as an owned reference.
    ///
    /// # Safety
    /// Attached.
    #[inline]
    pub(crate) unsafe fn object(self) -> *mut ffi::PyObject {
        // SAFETY: static objects; before Python 3.12 they are counted like others, which needs the thread attached.
        unsafe {
            let object = match self {
                Self::None => ffi::Py_None(),
                Self::True => ffi::Py_True(),
                Self::False => ffi::Py_False(),
            };
            #[cfg(not(Py_3_12))]
            ffi::Py_INCREF(object);
            object
        }
    }
}

impl From<bool> for Quick {
    #[inline]
    fn from(value: bool) -> Self {
        if value { Self::True } else { Self::False }
    }
}

/// A method without arguments: its receiver, and what it gives.
macro_rules! receiver_alone {
    ($name:literal, $doc:expr, |$this:ident| $answer:expr) => {{
        unsafe extern "C" fn call(
            $this: *mut pyo3::ffi::PyObject,
            _: *mut pyo3::ffi::PyObject,
        ) -> *mut pyo3::ffi::PyObject {
            // SAFETY: called by CPython on a live object.
            unsafe { $answer }
        }
        $crate::heap::definition(
            $name,
            $doc,
            pyo3::ffi::PyMethodDefPointer { PyCFunction: call },
            pyo3::ffi::METH_NOARGS,
        )
    }};
}
pub(crate) use receiver_alone;

/// A method with arguments, in place: the values, how many are given by position, the names of the others.
macro_rules! receiver_and_values {
    ($name:literal, $doc:expr, |$this:ident, $values:ident, $count:ident, $names:ident| $answer:expr) => {{
        unsafe extern "C" fn call(
            $this: *mut pyo3::ffi::PyObject,
            $values: *const *mut pyo3::ffi::PyObject,
            $count: pyo3::ffi::Py_ssize_t,
            $names: *mut pyo3::ffi::PyObject,
        ) -> *mut pyo3::ffi::PyObject {
            // SAFETY: called by CPython on live objects, by the convention that the flags name.
            unsafe { $answer }
        }
        $crate::heap::definition(
            $name,
            $doc,
            pyo3::ffi::PyMethodDefPointer {
                PyCFunctionFastWithKeywords: call,
            },
            pyo3::ffi::METH_FASTCALL | pyo3::ffi::METH_KEYWORDS,
        )
    }};
}
pub(crate) use receiver_and_values;

/// The whole method behind a shortcut, without arguments.
///
/// # Safety
/// `this` is the live receiver of a call.
#[inline]
pub(crate) unsafe fn whole(
    this: *mut ffi::PyObject,
    function: impl FnOnce(Python<'_>, Ref<'_, '_>) -> Returned,
) -> *mut ffi::PyObject {
    // SAFETY: says the caller.
    unsafe { door(|py| function(py, Borrowed::from_ptr(py, this))) }
}

/// The whole method behind a shortcut, with arguments.
///
/// # Safety
/// As for `whole` and `Arguments::new`.
#[inline]
pub(crate) unsafe fn whole_with(
    this: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
    function: impl FnOnce(Python<'_>, Ref<'_, '_>, Arguments<'_, '_>) -> Returned,
) -> *mut ffi::PyObject {
    // SAFETY: says the caller.
    unsafe {
        door(|py| {
            let given = Arguments::new(py, values, count, names);
            function(py, Borrowed::from_ptr(py, this), given)
        })
    }
}

/// One `PyMethodDef` of a raw type: its name, its docstring behind the signature that `inspect` reads, and how it
/// is called. A shortcut, where there is one, does without the door: it looks at the bare receiver, and gives `None`
/// if the whole method is needed.
macro_rules! method {
    ($name:literal, $doc:expr, noargs, $function:path) => {
        $crate::heap::receiver_alone!($name, $doc, |this| $crate::heap::whole(this, $function))
    };
    // A shortcut that gives an immortal object. It cannot panic.
    ($name:literal, $doc:expr, noargs $quick:path, $function:path) => {
        $crate::heap::receiver_alone!($name, $doc, |this| match $quick(this) {
            Some(answer) => answer.object(),
            None => $crate::heap::whole(this, $function),
        })
    };
    // A shortcut that gives any object, as a new reference, or NULL with an exception.
    ($name:literal, $doc:expr, noargs any $quick:path, $function:path) => {
        $crate::heap::receiver_alone!($name, $doc, |this| {
            match $crate::heap::caught(|| $quick(this)) {
                Some(answer) => answer,
                None => $crate::heap::whole(this, $function),
            }
        })
    };
    ($name:literal, $doc:expr, keywords, $function:path) => {
        $crate::heap::receiver_and_values!($name, $doc, |this, values, count, names| {
            $crate::heap::whole_with(this, values, count, names, $function)
        })
    };
    // A shortcut that gives an immortal object, for a call without arguments.
    ($name:literal, $doc:expr, keywords $quick:path, $function:path) => {
        $crate::heap::receiver_and_values!($name, $doc, |this, values, count, names| {
            let bare = count == 0 && names.is_null();
            match bare.then(|| $quick(this)).flatten() {
                Some(answer) => answer.object(),
                None => $crate::heap::whole_with(this, values, count, names, $function),
            }
        })
    };
    // `__exit__`: the shortcut is for whatever arguments.
    ($name:literal, $doc:expr, exit $quick:path, $function:path) => {
        $crate::heap::receiver_and_values!($name, $doc, |this, values, count, names| {
            match $quick(this) {
                Some(answer) => answer.object(),
                None => $crate::heap::whole_with(this, values, count, names, $function),
            }
        })
    };
    // A shortcut that looks at the arguments itself, and gives any object.
    ($name:literal, $doc:expr, any $quick:path, $function:path) => {
        $crate::heap::receiver_and_values!($name, $doc, |this, values, count, names| {
            match $crate::heap::caught(|| $quick(this, values, count, names)) {
                Some(answer) => answer,
                None => $crate::heap::whole_with(this, values, count, names, $function),
            }
        })
    };
    // One parameter, by position as a rule, by name if somebody likes.
    ($name:literal, $doc:expr, one $parameter:literal, $function:path) => {
        $crate::heap::receiver_and_values!($name, $doc, |this, values, count, names| {
            $crate::heap::whole_with(this, values, count, names, |py, this, given| {
                $function(py, this, given.only(py, $name, $parameter)?)
            })
        })
    };
}
pub(crate) use method;

/// One read-only attribute of a raw type.
macro_rules! getter {
    ($name:literal, $function:path) => {{
        unsafe extern "C" fn get(
            this: *mut pyo3::ffi::PyObject,
            _: *mut std::ffi::c_void,
        ) -> *mut pyo3::ffi::PyObject {
            // SAFETY: called by CPython on a live object.
            unsafe { $crate::heap::door(|py| $function(py, pyo3::Borrowed::from_ptr(py, this))) }
        }
        pyo3::ffi::PyGetSetDef {
            name: $name.as_ptr(),
            get: Some(get),
            set: None,
            doc: std::ptr::null(),
            closure: std::ptr::null_mut(),
        }
    }};
}
pub(crate) use getter;

/// The slot of `repr()`, for a type's list of slots.
macro_rules! repr_slot {
    ($function:path) => {{
        unsafe extern "C" fn slot(this: *mut pyo3::ffi::PyObject) -> *mut pyo3::ffi::PyObject {
            // SAFETY: called by CPython on a live object.
            unsafe { $crate::heap::door(|py| $function(py, pyo3::Borrowed::from_ptr(py, this))) }
        }
        (pyo3::ffi::Py_tp_repr, slot as *mut std::ffi::c_void)
    }};
}
pub(crate) use repr_slot;

/// One attribute of a raw type that may be assigned (`Some`) and deleted (`None`).
macro_rules! attribute {
    ($name:literal, $get:path, $set:path) => {{
        unsafe extern "C" fn set(
            this: *mut pyo3::ffi::PyObject,
            value: *mut pyo3::ffi::PyObject,
            _: *mut std::ffi::c_void,
        ) -> std::ffi::c_int {
            // SAFETY: called by CPython on live objects; NULL stands for deletion.
            let done = unsafe {
                $crate::heap::door(|py| {
                    let value = (!value.is_null()).then(|| pyo3::Borrowed::from_ptr(py, value));
                    $set(py, pyo3::Borrowed::from_ptr(py, this), value)?;
                    Ok(this)
                })
            };
            if done.is_null() { -1 } else { 0 }
        }
        pyo3::ffi::PyGetSetDef {
            set: Some(set),
            ..$crate::heap::getter!($name, $get)
        }
    }};
}
pub(crate) use attribute;

pub(crate) const fn definition(
    name: &'static CStr,
    doc: &'static CStr,
    function: ffi::PyMethodDefPointer,
    flags: c_int,
) -> ffi::PyMethodDef {
    ffi::PyMethodDef {
        ml_name: name.as_ptr(),
        ml_meth: function,
        ml_flags: flags,
        ml_doc: doc.as_ptr(),
    }
}

/// Puts raw methods on a class that PyO3 made.
pub(crate) fn add_methods(
    class: &Bound<'_, PyType>,
    methods: Vec<ffi::PyMethodDef>,
) -> PyResult<()> {
    // A descriptor points at its definition for as long as it lives, which is as long as the process.
    for definition in Vec::leak(methods) {
        // SAFETY: the definition is leaked, so it outlives the descriptor; its name is a literal.
        let (name, descriptor) = unsafe {
            let descriptor = ffi::PyDescr_NewMethod(class.as_type_ptr(), definition);
            (
                CStr::from_ptr(definition.ml_name),
                Bound::from_owned_ptr_or_err(class.py(), descriptor)?,
            )
        };
        class.setattr(name, descriptor)?;
    }
    Ok(())
}

/// What a raw type is made of.
pub(crate) struct Plan {
    pub(crate) name: &'static CStr,
    pub(crate) doc: &'static CStr,
    /// Bytes set aside in front of the body for an instance of the base class.
    pub(crate) header: usize,
    /// Bytes of the whole object.
    pub(crate) size: usize,
    pub(crate) subclassable: bool,
    pub(crate) methods: Vec<ffi::PyMethodDef>,
    pub(crate) getters: Vec<ffi::PyGetSetDef>,
    pub(crate) dealloc: ffi::destructor,
    pub(crate) traverse: ffi::traverseproc,
    pub(crate) clear: ffi::inquiry,
    /// What else there is: slot numbers and functions.
    pub(crate) slots: Vec<(c_int, *mut c_void)>,
}

/// A finished raw type, and where the base class keeps its `__slots__`.
pub(crate) struct RawType {
    pointer: *mut ffi::PyTypeObject,
    slots: Vec<isize>,
}

// SAFETY: the type object is kept alive for the life of the process; the rest is plain data.
unsafe impl Send for RawType {}
// SAFETY: as above.
unsafe impl Sync for RawType {}

impl RawType {
    /// Makes the type, derived from `base`.
    pub(crate) fn new(base: &Bound<'_, PyType>, mut plan: Plan) -> PyResult<Self> {
        let py = base.py();
        let base_pointer = base.as_type_ptr();
        // SAFETY: a live type object.
        let needed = unsafe { (*base_pointer).tp_basicsize };
        if usize::try_from(needed).map_or(true, |needed| needed > plan.header) {
            return Err(PyImportError::new_err(format!(
                "ropewalk: {base} has {needed} bytes in this Python, and {} were expected at most: \
                 this version of ropewalk does not fit it",
                plan.header
            )));
        }
        // SAFETY: an all-zero definition ends a table.
        plan.methods.push(unsafe { std::mem::zeroed() });
        // SAFETY: as above.
        plan.getters.push(unsafe { std::mem::zeroed() });
        // The type points at its tables for as long as it lives, which is as long as the process.
        let mut slots: Vec<ffi::PyType_Slot> = vec![
            slot(ffi::Py_tp_dealloc, plan.dealloc as *mut c_void),
            slot(ffi::Py_tp_traverse, plan.traverse as *mut c_void),
            slot(ffi::Py_tp_clear, plan.clear as *mut c_void),
            slot(
                ffi::Py_tp_methods,
                Vec::leak(plan.methods).as_mut_ptr().cast(),
            ),
            slot(
                ffi::Py_tp_getset,
                Vec::leak(plan.getters).as_mut_ptr().cast(),
            ),
            slot(ffi::Py_tp_doc, plan.doc.as_ptr() as *mut c_void),
        ];
        slots.extend(
            plan.slots
                .into_iter()
                .map(|(number, pfunc)| slot(number, pfunc)),
        );
        slots.push(slot(0, ptr::null_mut()));
        let mut flags = ffi::Py_TPFLAGS_DEFAULT | ffi::Py_TPFLAGS_HAVE_GC;
        if slots.iter().all(|slot| slot.slot != ffi::Py_tp_new) {
            flags |= DISALLOW_INSTANTIATION;
        }
        if plan.subclassable {
            flags |= ffi::Py_TPFLAGS_BASETYPE;
        }
        let mut spec = ffi::PyType_Spec {
            name: plan.name.as_ptr(),
            basicsize: c_int::try_from(plan.size)?,
            itemsize: 0,
            flags: u32::try_from(flags)?,
            slots: Vec::leak(slots).as_mut_ptr(),
        };
        let bases = PyTuple::new(py, [base])?;
        // SAFETY: the tables are complete, ended, and leaked.
        let made = unsafe {
            Bound::from_owned_ptr_or_err(
                py,
                ffi::PyType_FromSpecWithBases(&raw mut spec, bases.as_ptr()),
            )?
        };
        // SAFETY: a live type object.
        let slots = unsafe { object_slots(base_pointer) };
        Ok(Self {
            pointer: made.into_ptr().cast(),
            slots,
        })
    }

    #[inline]
    pub(crate) fn as_ptr(&self) -> *mut ffi::PyTypeObject {
        self.pointer
    }

    pub(crate) fn bind<'py>(&self, py: Python<'py>) -> Bound<'py, PyType> {
        // SAFETY: the type is alive for the life of the process.
        unsafe { Bound::from_borrowed_ptr(py, self.pointer.cast()).cast_into_unchecked() }
    }

    /// Empties the slots that the base class declared.
    ///
    /// # Safety
    /// `object` is an instance, being deallocated or cleared by the collector.
    pub(crate) unsafe fn clear_slots(&self, object: *mut ffi::PyObject) {
        for offset in &self.slots {
            // SAFETY: the base class's own member table says that an object pointer is kept there.
            unsafe {
                let place = object.byte_offset(*offset).cast::<*mut ffi::PyObject>();
                let held = std::mem::replace(&mut *place, ptr::null_mut());
                ffi::Py_XDECREF(held);
            }
        }
    }

    /// Visits the slots that the base class declared, and the object's type (as heap types must).
    ///
    /// # Safety
    /// Called from `tp_traverse`, with its arguments.
    pub(crate) unsafe fn visit_slots(
        &self,
        object: *mut ffi::PyObject,
        visit: ffi::visitproc,
        arg: *mut c_void,
    ) -> c_int {
        // SAFETY: a live object has a type, and that a reference to it.
        let answer = unsafe { visit(ffi::Py_TYPE(object).cast(), arg) };
        if answer != 0 {
            return answer;
        }
        for offset in &self.slots {
            // SAFETY: as in `clear_slots`.
            let held = unsafe { *object.byte_offset(*offset).cast::<*mut ffi::PyObject>() };
            if !held.is_null() {
                // SAFETY: the collector's own function, on a live object.
                let answer = unsafe { visit(held, arg) };
                if answer != 0 {
                    return answer;
                }
            }
        }
        0
    }
}

/// `Py_TPFLAGS_DISALLOW_INSTANTIATION`: instances come from Rust alone.
pub(crate) const DISALLOW_INSTANTIATION: std::ffi::c_ulong = 1 << 7;

/// The kind of a member that `__slots__` makes (`Py_T_OBJECT_EX`).
const OBJECT_MEMBER: c_int = 16;

const fn slot(slot: c_int, pfunc: *mut c_void) -> ffi::PyType_Slot {
    ffi::PyType_Slot { slot, pfunc }
}

/// Where `class` and its bases keep what their `__slots__` name.
unsafe fn object_slots(mut class: *mut ffi::PyTypeObject) -> Vec<isize> {
    let mut offsets = Vec::new();
    while !class.is_null() {
        // SAFETY: live type objects; a member table ends with an entry without a name.
        unsafe {
            let mut member = (*class).tp_members;
            while !member.is_null() && !(*member).name.is_null() {
                if (*member).type_code == OBJECT_MEMBER {
                    offsets.push((*member).offset);
                }
                member = member.add(1);
            }
            class = (*class).tp_base;
        }
    }
    offsets
}

/// Visits one reference that a body holds.
///
/// # Safety
/// Called from `tp_traverse`, with its `visit` and `arg`.
pub(crate) unsafe fn visit_object(
    object: Option<&crate::object::Obj>,
    visit: ffi::visitproc,
    arg: *mut c_void,
) -> c_int {
    match object {
        // SAFETY: the collector's own function, on a live object.
        Some(object) => unsafe { visit(object.as_ptr(), arg) },
        None => 0,
    }
}
