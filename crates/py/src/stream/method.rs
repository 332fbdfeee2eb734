//! The methods of the stream classes: those that one awaits, and `write`.
//!
//! `StreamReader.read` must be more than a built-in method: mocks, signatures and documentation tools ask whether
//! it is a coroutine function, and what its code and its defaults are. An [`AsyncMethod`] is called as fast as a
//! built-in one, and whatever else is asked of it, it answers by the original's attributes.

use std::ffi::{c_int, c_void};
use std::sync::OnceLock;

use pyo3::exceptions::{PyAttributeError, PyImportError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString, PyTuple};
use pyo3::{Borrowed, ffi, intern};

use super::awaitable::{self, Search, Work};
use super::{Stream, bytes_of};
use crate::call::call_method;
use crate::heap::{self, Arguments, Ref, Returned, method};
use crate::object::Obj;
use crate::{tls, transport};

#[repr(C)]
struct AsyncMethod {
    header: ffi::PyObject,
    call: ffi::vectorcallfunc,
    kind: Kind,
    /// The coroutine function that it stands for.
    wrapped: *mut ffi::PyObject,
}

#[derive(Clone, Copy)]
enum Kind {
    Read,
    ReadExactly,
    ReadUntil,
    ReadLine,
    Next,
    Drain,
}

impl Kind {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "read" => Self::Read,
            "readexactly" => Self::ReadExactly,
            "readuntil" => Self::ReadUntil,
            "readline" => Self::ReadLine,
            "__anext__" => Self::Next,
            "drain" => Self::Drain,
            _ => return None,
        })
    }
}

unsafe extern "C" fn call(
    callable: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: usize,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on one of our methods, by the vectorcall convention (PEP 590).
    unsafe {
        let method = &*callable.cast::<AsyncMethod>();
        let count = ffi::PyVectorcall_NARGS(count);
        heap::door(|py| {
            if count < 1 {
                return Err(PyTypeError::new_err(
                    "a method of a stream needs the stream it is called on",
                ));
            }
            let this = Borrowed::from_ptr(py, *values);
            let given = Arguments::new(py, values.add(1), count - 1, names);
            begin(py, method, this, given)
        })
    }
}

#[inline]
fn begin(
    py: Python<'_>,
    method: &AsyncMethod,
    this: Ref<'_, '_>,
    given: Arguments<'_, '_>,
) -> Returned {
    if let Kind::Drain = method.kind {
        return drain(py, method, this, given);
    }
    let (work, name) = match method.kind {
        Kind::Read => (read(py, given)?, "read"),
        Kind::ReadExactly => (read_exactly(py, given)?, "readexactly"),
        Kind::ReadUntil => (read_until(py, given)?, "readuntil"),
        Kind::ReadLine => {
            given.named_or_positional(py, "StreamReader.readline", [])?;
            (Work::Line(Search::line()), "readline")
        }
        Kind::Next | Kind::Drain => {
            given.named_or_positional(py, "StreamReader.__anext__", [])?;
            (Work::Next(Search::line()), "__anext__")
        }
    };
    Ok(awaitable::make(py, this, work, name)?.into_ptr())
}

/// A count of bytes: more than there can be is as good as all there can be.
fn count(value: &Bound<'_, PyAny>) -> PyResult<i64> {
    value.extract::<i64>().or_else(|error| {
        let py = value.py();
        if error.is_instance_of::<pyo3::exceptions::PyOverflowError>(py) {
            let least = value.lt(0)?;
            return Ok(if least { -1 } else { i64::MAX });
        }
        Err(error)
    })
}

fn read(py: Python<'_>, given: Arguments<'_, '_>) -> PyResult<Work> {
    let [most] = given.named_or_positional(py, "StreamReader.read", ["n"])?;
    let Some(most) = most else {
        return Ok(Work::All(Vec::new()));
    };
    Ok(match count(&most) {
        Ok(most) => usize::try_from(most).map_or_else(|_| Work::All(Vec::new()), Work::Read),
        Err(error) => Work::Refused(error),
    })
}

fn read_exactly(py: Python<'_>, given: Arguments<'_, '_>) -> PyResult<Work> {
    let name = "StreamReader.readexactly";
    let [exactly] = given.named_or_positional(py, name, ["n"])?;
    let exactly = exactly.ok_or_else(|| {
        PyTypeError::new_err(format!(
            "{name}() missing 1 required positional argument: 'n'"
        ))
    })?;
    Ok(match count(&exactly).map(usize::try_from) {
        Ok(Ok(exactly)) => Work::Exactly(exactly),
        Ok(Err(_)) => Work::Refused(PyValueError::new_err(
            "readexactly size can not be less than zero",
        )),
        Err(error) => Work::Refused(error),
    })
}

fn read_until(py: Python<'_>, given: Arguments<'_, '_>) -> PyResult<Work> {
    let [separator] = given.named_or_positional(py, "StreamReader.readuntil", ["separator"])?;
    let Some(separator) = separator else {
        return Ok(Work::Until(Search::line()));
    };
    let one = |separator: &Bound<'_, PyAny>| -> PyResult<Vec<u8>> {
        let bytes = bytes_of(separator)?;
        // SAFETY: `bytes_of` gives nothing else.
        Ok(unsafe { bytes.bind(py).cast_unchecked::<PyBytes>() }
            .as_bytes()
            .to_vec())
    };
    // A tuple of separators is understood from Python 3.13 on, and refused before, like anything without bytes.
    let all = if cfg!(Py_3_13) && separator.is_instance_of::<PyTuple>() {
        separator
            .try_iter()?
            .map(|separator| one(&separator?))
            .collect::<PyResult<Vec<_>>>()
    } else {
        one(&separator).map(|separator| vec![separator])
    };
    Ok(match all.and_then(Search::new) {
        Ok(search) => Work::Until(search),
        Err(error) => Work::Refused(error),
    })
}

/// `drain()`: nothing to wait for, as a rule. Otherwise the original waits.
fn drain(
    py: Python<'_>,
    method: &AsyncMethod,
    this: Ref<'_, '_>,
    given: Arguments<'_, '_>,
) -> Returned {
    given.named_or_positional(py, "StreamWriter.drain", [])?;
    let flows = transport_of(this).is_ok_and(|transport| {
        let transport = transport.as_borrowed();
        transport::flows(transport).or_else(|| tls::flows(transport)) == Some(true)
    });
    if flows && healthy(this)? {
        return done::awaitable(py);
    }
    // SAFETY: live objects; a new reference or NULL with an exception set.
    unsafe {
        let waiting = ffi::PyObject_CallOneArg(method.wrapped, this.as_ptr());
        Ok(Bound::from_owned_ptr_or_err(py, waiting)?.into_ptr())
    }
}

/// Whether the writer's reader has no exception for `drain` to raise.
fn healthy(writer: Ref<'_, '_>) -> PyResult<bool> {
    let py = writer.py();
    let reader = writer.getattr(intern!(py, "_reader"))?;
    if reader.is_none() {
        return Ok(true);
    }
    match Stream::of(reader.as_borrowed()) {
        Ok(stream) => Ok(stream.get().with(py, |state| state.exception.is_none())),
        Err(_) => Ok(call_method(&reader, intern!(py, "exception"), [])?.is_none()),
    }
}

#[inline]
fn transport_of<'py>(writer: Ref<'_, 'py>) -> PyResult<Bound<'py, PyAny>> {
    writer.getattr(intern!(writer.py(), "_transport"))
}

/// `StreamWriter.write(data)`
fn write(py: Python<'_>, writer: Ref<'_, '_>, data: Ref<'_, '_>) -> Returned {
    let transport = transport_of(writer)?;
    if transport::is_native(transport.as_borrowed()) {
        return transport::write(py, transport.as_borrowed(), data);
    }
    let done = call_method(&transport, intern!(py, "write"), [&data])?;
    drop(done);
    heap::none(py)
}

/// An awaitable that is done: `drain()` when there is nothing to wait for.
mod done {
    use super::*;
    use crate::heap::{Plan, RawType};

    const HEADER: usize = 32;

    #[repr(C)]
    struct DoneObject([u64; HEADER / 8]);

    static CLASS: OnceLock<RawType> = OnceLock::new();
    /// It has no state, so one serves all.
    static ONE: OnceLock<Obj> = OnceLock::new();

    pub(super) fn awaitable(_py: Python<'_>) -> Returned {
        ONE.get()
            .map(|one| one.clone().into_ptr())
            .ok_or_else(|| PyImportError::new_err("ropewalk._core is not initialised"))
    }

    unsafe extern "C" fn itself(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
        // SAFETY: a live object; one more reference.
        unsafe {
            ffi::Py_INCREF(object);
            object
        }
    }

    /// NULL without an exception ends an iterator: `await` gives `None`.
    unsafe extern "C" fn next(_object: *mut ffi::PyObject) -> *mut ffi::PyObject {
        std::ptr::null_mut()
    }

    unsafe extern "C" fn send_slot(
        _object: *mut ffi::PyObject,
        _value: *mut ffi::PyObject,
        result: *mut *mut ffi::PyObject,
    ) -> ffi::PySendResult {
        // SAFETY: a place for the result, says the convention; `None` is immortal or counted here.
        unsafe {
            *result = ffi::Py_NewRef(ffi::Py_None());
        }
        ffi::PySendResult::PYGEN_RETURN
    }

    fn awaited(_py: Python<'_>, object: Ref<'_, '_>) -> Returned {
        // SAFETY: a live object.
        Ok(unsafe { itself(object.as_ptr()) })
    }

    fn send(_py: Python<'_>, _object: Ref<'_, '_>, _value: Ref<'_, '_>) -> Returned {
        Err(pyo3::exceptions::PyStopIteration::new_err(()))
    }

    fn throw(py: Python<'_>, _object: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
        let [kind, value, _traceback] =
            given.named_or_positional(py, "throw", ["typ", "val", "tb"])?;
        let kind = kind.ok_or_else(|| PyTypeError::new_err("throw() needs an exception"))?;
        Err(match value {
            Some(value) => PyErr::from_value(value),
            None => PyErr::from_value(kind),
        })
    }

    fn close(py: Python<'_>, _object: Ref<'_, '_>) -> Returned {
        heap::none(py)
    }

    fn name(py: Python<'_>, _object: Ref<'_, '_>) -> Returned {
        Ok(intern!(py, "drain").clone().into_any().into_ptr())
    }

    fn qualified_name(py: Python<'_>, _object: Ref<'_, '_>) -> Returned {
        Ok(intern!(py, "StreamWriter.drain")
            .clone()
            .into_any()
            .into_ptr())
    }

    pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
        let py = module.py();
        let object = py.import("builtins")?.getattr("object")?.cast_into()?;
        let raw = RawType::new(
            &object,
            Plan {
                name: c"ropewalk._core.Drained",
                doc: c"What drain() gives when there is nothing to wait for.",
                header: HEADER,
                size: size_of::<DoneObject>(),
                subclassable: false,
                methods: vec![
                    method!(c"send", c"send($self, value)\n--\n\nEnd the call.", one "value", send),
                    method!(
                        c"throw",
                        c"throw($self, typ, val=None, tb=None)\n--\n\nRaise the exception.",
                        keywords,
                        throw
                    ),
                    method!(
                        c"close",
                        c"close($self)\n--\n\nEnd the call.",
                        noargs,
                        close
                    ),
                    method!(
                        c"__await__",
                        c"__await__($self)\n--\n\nReturn an iterator that is done.",
                        noargs,
                        awaited
                    ),
                ],
                getters: vec![
                    heap::getter!(c"__name__", name),
                    heap::getter!(c"__qualname__", qualified_name),
                ],
                dealloc,
                traverse,
                clear,
                slots: vec![
                    (ffi::Py_am_await, itself as *mut c_void),
                    (ffi::Py_am_send, send_slot as *mut c_void),
                    (ffi::Py_tp_iter, itself as *mut c_void),
                    (ffi::Py_tp_iternext, next as *mut c_void),
                ],
            },
        )?;
        let raw = CLASS.get_or_init(|| raw);
        // SAFETY: a ready heap type.
        let one = unsafe { Obj::from_owned(ffi::PyType_GenericAlloc(raw.as_ptr(), 0)) };
        let one = one.ok_or_else(|| PyErr::fetch(py))?;
        drop(ONE.set(one));
        py.import("collections.abc")?
            .getattr("Coroutine")?
            .call_method1("register", (raw.bind(py),))?;
        Ok(())
    }

    /// Never called: the one object lives as long as the process.
    unsafe extern "C" fn dealloc(object: *mut ffi::PyObject) {
        // SAFETY: as every `dealloc` of a heap type with the collector's header ends.
        unsafe {
            let class = ffi::Py_TYPE(object);
            ffi::PyObject_GC_UnTrack(object.cast());
            ffi::PyObject_GC_Del(object.cast());
            ffi::Py_DECREF(class.cast());
        }
    }

    unsafe extern "C" fn traverse(
        object: *mut ffi::PyObject,
        visit: ffi::visitproc,
        arg: *mut c_void,
    ) -> c_int {
        // SAFETY: the collector's own function, on a live object's type.
        unsafe { visit(ffi::Py_TYPE(object).cast(), arg) }
    }

    unsafe extern "C" fn clear(_object: *mut ffi::PyObject) -> c_int {
        0
    }
}

// The type of the methods ------------------------------------------------------------------------------------

static METHOD: OnceLock<Obj> = OnceLock::new();

unsafe extern "C" {
    /// Documented in CPython's "Method Objects"; PyO3 does not pass it on.
    fn PyMethod_New(
        function: *mut ffi::PyObject,
        instance: *mut ffi::PyObject,
    ) -> *mut ffi::PyObject;
}

/// A method like the built-in ones: `instance.method(...)` makes no bound method first.
unsafe extern "C" fn bind(
    method: *mut ffi::PyObject,
    instance: *mut ffi::PyObject,
    _class: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on live objects; no instance is NULL or None.
    unsafe {
        if instance.is_null() || instance == ffi::Py_None() {
            return ffi::Py_NewRef(method);
        }
        PyMethod_New(method, instance)
    }
}

/// What is asked of the method is answered by the function that it stands for.
unsafe extern "C" fn attribute(
    method: *mut ffi::PyObject,
    name: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on live objects.
    unsafe {
        heap::door(|py| {
            let wrapped = (*method.cast::<AsyncMethod>()).wrapped;
            let wrapped = Borrowed::from_ptr(py, wrapped);
            let name: Borrowed<'_, '_, PyAny> = Borrowed::from_ptr(py, name);
            let text = name.cast::<PyString>()?;
            if text == "__wrapped__" {
                return Ok(wrapped.to_owned().into_ptr());
            }
            if text != "__class__" {
                match wrapped.getattr(text.to_owned()) {
                    Ok(value) => return Ok(value.into_ptr()),
                    Err(error) if error.is_instance_of::<PyAttributeError>(py) => {}
                    Err(error) => return Err(error),
                }
            }
            let value = ffi::PyObject_GenericGetAttr(method, name.as_ptr());
            Ok(Bound::from_owned_ptr_or_err(py, value)?.into_ptr())
        })
    }
}

unsafe extern "C" fn method_dealloc(method: *mut ffi::PyObject) {
    // SAFETY: CPython calls this once, attached; the type was made by `PyType_FromSpec`, so the object owns a
    // reference to it.
    unsafe {
        let class = ffi::Py_TYPE(method);
        ffi::Py_DECREF((*method.cast::<AsyncMethod>()).wrapped);
        ffi::PyObject_Free(method.cast());
        ffi::Py_DECREF(class.cast());
    }
}

/// `Py_TPFLAGS_DISALLOW_INSTANTIATION`
const DISALLOW_INSTANTIATION: std::ffi::c_ulong = 1 << 7;

fn method_class(py: Python<'_>) -> PyResult<&'static Obj> {
    if let Some(class) = METHOD.get() {
        return Ok(class);
    }
    let offset = ffi::PyMemberDef {
        name: c"__vectorcalloffset__".as_ptr(),
        type_code: ffi::Py_T_PYSSIZET,
        offset: std::mem::offset_of!(AsyncMethod, call).cast_signed(),
        flags: ffi::Py_READONLY,
        doc: std::ptr::null(),
    };
    // SAFETY: an all-zero definition ends a table.
    let members = Vec::leak(vec![offset, unsafe { std::mem::zeroed() }]);
    let slot = |slot, pfunc| ffi::PyType_Slot { slot, pfunc };
    let slots = Vec::leak(vec![
        slot(ffi::Py_tp_members, members.as_mut_ptr().cast()),
        slot(ffi::Py_tp_call, ffi::PyVectorcall_Call as *mut c_void),
        slot(ffi::Py_tp_descr_get, bind as *mut c_void),
        slot(ffi::Py_tp_getattro, attribute as *mut c_void),
        slot(ffi::Py_tp_dealloc, method_dealloc as *mut c_void),
        slot(0, std::ptr::null_mut()),
    ]);
    let flags = ffi::Py_TPFLAGS_DEFAULT
        | ffi::Py_TPFLAGS_HAVE_VECTORCALL
        | ffi::Py_TPFLAGS_METHOD_DESCRIPTOR
        | DISALLOW_INSTANTIATION;
    let mut spec = ffi::PyType_Spec {
        name: c"ropewalk._core.AsyncMethod".as_ptr(),
        basicsize: c_int::try_from(size_of::<AsyncMethod>())?,
        itemsize: 0,
        flags: u32::try_from(flags)?,
        slots: slots.as_mut_ptr(),
    };
    // SAFETY: the tables are complete, ended, and leaked, for the type points at them.
    let class = unsafe { Obj::from_owned(ffi::PyType_FromSpec(&raw mut spec)) };
    let class = class.ok_or_else(|| PyErr::fetch(py))?;
    Ok(METHOD.get_or_init(|| class))
}

/// The native form of `wrapped`, a coroutine function of `StreamReader` or `StreamWriter`, by its name.
#[pyfunction]
fn _async_method<'py>(wrapped: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = wrapped.py();
    let name: String = wrapped.getattr("__name__")?.extract()?;
    let kind = Kind::named(&name)
        .ok_or_else(|| PyValueError::new_err(format!("{name}() has no native form")))?;
    let class = method_class(py)?.as_ptr().cast::<ffi::PyTypeObject>();
    // SAFETY: a ready heap type; every field behind the header is written before anybody sees the object.
    unsafe {
        let object = ffi::PyType_GenericAlloc(class, 0);
        let made = Bound::from_owned_ptr_or_err(py, object)?;
        let method = object.cast::<AsyncMethod>();
        (&raw mut (*method).call).write(call);
        (&raw mut (*method).kind).write(kind);
        (&raw mut (*method).wrapped).write(ffi::Py_NewRef(wrapped.as_ptr()));
        Ok(made)
    }
}

fn feed_data(py: Python<'_>, reader: Ref<'_, '_>, data: Ref<'_, '_>) -> Returned {
    Stream::of(reader)?.get().feed_data(&data)?;
    heap::none(py)
}

fn at_eof(py: Python<'_>, reader: Ref<'_, '_>) -> Returned {
    heap::boolean(py, Stream::of(reader)?.get().at_eof(py))
}

/// Puts the methods that are plain functions on the Python classes.
#[pyfunction]
fn _complete_streams(
    reader: &Bound<'_, pyo3::types::PyType>,
    writer: &Bound<'_, pyo3::types::PyType>,
) -> PyResult<()> {
    heap::add_methods(
        reader,
        vec![
            method!(c"feed_data", c"feed_data($self, data)\n--\n\nAppend bytes to the buffer and wake who waits for them.", one "data", feed_data),
            method!(c"at_eof", c"at_eof($self)\n--\n\nReturn True if the buffer is empty and feed_eof() was called.", noargs, at_eof),
        ],
    )?;
    heap::add_methods(
        writer,
        vec![
            method!(c"write", c"write($self, data)\n--\n\nWrite data to the transport at once, or buffer what it does not take.\n\nFollow it with ``await drain()``.", one "data", write),
        ],
    )
}

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    done::register(module)?;
    module.add_function(wrap_pyfunction!(_async_method, module)?)?;
    module.add_function(wrap_pyfunction!(_complete_streams, module)?)
}
