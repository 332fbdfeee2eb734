//! `TlsTransport`: the two methods of a TLS connection's transport that every write goes through.
//!
//! The rest is CPython's `_SSLProtocolTransport`, which the Python class `SSLTransport` derives from as well.

use std::ffi::{c_int, c_void};
use std::sync::OnceLock;

use pyo3::exceptions::{PyImportError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyMemoryView, PyType};
use pyo3::{Borrowed, ffi};

use super::send::{self, contiguous};
use super::{Lower, Phase, RECORD, Tls};
use crate::guard::Guarded;
use crate::heap::{self, Plan, RawType, Ref, Returned, method};
use crate::object::Obj;

/// Room for an instance of asyncio's `_FlowControlMixin`, as the socket's transport has it.
const HEADER: usize = 80;

#[repr(C)]
struct TransportObject {
    header: [u64; HEADER / 8],
    /// A `Tls`, until the second `close()`. Boxed: NULL until the transport is made, which is before anybody sees it.
    protocol: Option<Box<Guarded<Option<Obj>>>>,
}

static CLASS: OnceLock<RawType> = OnceLock::new();

/// Makes the types.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    module.add_class::<Tls>()?;
    let base: Bound<'_, PyType> = py
        .import("asyncio.transports")?
        .getattr("_FlowControlMixin")?
        .cast_into()?;
    let raw = RawType::new(
        &base,
        Plan {
            name: c"ropewalk._core.TlsTransport",
            doc: c"The transport of a TLS connection; see ropewalk.asyncio.SSLTransport.",
            header: HEADER,
            size: size_of::<TransportObject>(),
            subclassable: true,
            methods: vec![
                method!(c"write", c"write($self, data)\n--\n\nEncrypt and send data, a bytes, bytearray or memoryview, without waiting: what there is no room for is buffered.\n\nRaises TypeError for other types.", one "data", write),
                method!(c"writelines", c"writelines($self, list_of_data)\n--\n\nEncrypt and send several pieces of data, in order, as write() does.", one "list_of_data", writelines),
            ],
            getters: vec![ffi::PyGetSetDef {
                name: c"_ssl_protocol".as_ptr(),
                get: Some(get_protocol),
                set: Some(set_protocol),
                doc: std::ptr::null(),
                closure: std::ptr::null_mut(),
            }],
            dealloc,
            traverse,
            clear,
            slots: vec![],
        },
    )?;
    module.add("TlsTransport", CLASS.get_or_init(|| raw).bind(py))
}

/// A transport of `class` for `protocol`.
pub(super) fn make(protocol: &Bound<'_, Tls>, class: &Bound<'_, PyType>) -> PyResult<Obj> {
    let py = protocol.py();
    let raw = CLASS
        .get()
        .ok_or_else(|| PyImportError::new_err("ropewalk._core is not initialised"))?;
    if !class.is_subclass(&raw.bind(py))? {
        return Err(PyTypeError::new_err(
            "a TLS transport's class derives from ropewalk._core.TlsTransport",
        ));
    }
    // SAFETY: a ready heap type has an allocator; what it returns is zeroed, and a zeroed reference is `None`.
    unsafe {
        let object = ffi::PyType_GenericAlloc(class.as_type_ptr(), 0);
        let object = Obj::from_owned(object).ok_or_else(|| PyErr::fetch(py))?;
        let protocol = Guarded::new(Some(protocol.as_any().into()));
        (*object.as_ptr().cast::<TransportObject>()).protocol = Some(Box::new(protocol));
        Ok(object)
    }
}

/// The protocol of the transport that a method was called on; `None` once it was let go.
#[inline]
fn protocol<'py>(py: Python<'py>, object: Ref<'_, 'py>) -> Option<Bound<'py, Tls>> {
    // SAFETY: CPython checked the type before it called the method; the box stays as long as the object.
    let place = unsafe {
        (*object.as_ptr().cast::<TransportObject>())
            .protocol
            .as_deref()
    }?;
    let protocol = place.with(py, |protocol| protocol.clone())?;
    // SAFETY: it is a `Tls`, as `make` and `set_protocol` have seen to.
    Some(unsafe { protocol.into_bound(py).cast_into_unchecked() })
}

unsafe extern "C" fn get_protocol(
    object: *mut ffi::PyObject,
    _: *mut c_void,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython on a live object.
    unsafe {
        heap::door(|py| match protocol(py, Borrowed::from_ptr(py, object)) {
            Some(protocol) => Ok(protocol.into_ptr()),
            None => heap::none(py),
        })
    }
}

/// CPython's transport lets go of its protocol in the second `close()`, lest a cycle keep both alive.
unsafe extern "C" fn set_protocol(
    object: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
    _: *mut c_void,
) -> c_int {
    // SAFETY: called by CPython on live objects, or with NULL to delete.
    unsafe {
        let done = heap::door(|py| {
            let value = Bound::from_borrowed_ptr_or_opt(py, value).filter(|value| !value.is_none());
            let protocol = match value {
                Some(value) => Some(Obj::from(value.cast_into::<Tls>()?)),
                None => None,
            };
            if let Some(place) = (*object.cast::<TransportObject>()).protocol.as_deref() {
                let old = place.with(py, |place| std::mem::replace(place, protocol));
                drop(old);
            }
            heap::none(py)
        });
        if done.is_null() {
            return -1;
        }
        ffi::Py_DECREF(done);
        0
    }
}

/// Whether bytes flow: the connection is up, and its protocol was not told to pause. `None` if the object is not
/// one of these transports.
pub(crate) fn flows(object: Ref<'_, '_>) -> Option<bool> {
    let class = CLASS.get()?;
    // SAFETY: live objects.
    if unsafe { ffi::PyObject_TypeCheck(object.as_ptr(), class.as_ptr()) } == 0 {
        return None;
    }
    let py = object.py();
    let lower = protocol(py, object).and_then(|protocol| {
        protocol.get().with(py, |state| {
            let up = state.phase == Phase::Wrapped && !state.app_writing_paused;
            up.then(|| state.lower.clone())
        })
    });
    Some(match lower {
        Some(Lower::Native(lower)) => lower.is_open(py),
        _ => false,
    })
}

fn write(py: Python<'_>, object: Ref<'_, '_>, data: Ref<'_, '_>) -> Returned {
    let data: &Bound<'_, PyAny> = &data;
    let Some(protocol) = protocol(py, object) else {
        // Closed, and closed again: like any other write to a closed connection.
        return heap::none(py);
    };
    if let Ok(bytes) = data.cast_exact::<PyBytes>() {
        if !bytes.as_bytes().is_empty() {
            send::write(&protocol, data, bytes.as_bytes())?;
        }
    } else if data.is_instance_of::<PyBytes>()
        || data.is_instance_of::<PyByteArray>()
        || data.is_instance_of::<PyMemoryView>()
    {
        let view = contiguous(data)?;
        if !view.bytes().is_empty() {
            send::write(&protocol, data, view.bytes())?;
        }
    } else {
        let name = data.get_type().name()?;
        return Err(PyTypeError::new_err(format!(
            "data: expecting a bytes-like instance, got {name}"
        )));
    }
    heap::none(py)
}

/// Pieces that fit into a record go as one record: each costs its own, and its own system call.
fn writelines(py: Python<'_>, object: Ref<'_, '_>, lines: Ref<'_, '_>) -> Returned {
    let Some(protocol) = protocol(py, object) else {
        return heap::none(py);
    };
    let mut gathered: Vec<u8> = Vec::new();
    for line in lines.try_iter()? {
        let line = line?;
        let view = contiguous(&line)?;
        let bytes = view.bytes();
        if gathered.len() + bytes.len() <= RECORD {
            gathered.extend_from_slice(bytes);
            continue;
        }
        send_gathered(&protocol, &mut gathered)?;
        if bytes.len() < RECORD {
            gathered.extend_from_slice(bytes);
        } else {
            send::write(&protocol, &line, bytes)?;
        }
    }
    send_gathered(&protocol, &mut gathered)?;
    heap::none(py)
}

fn send_gathered(protocol: &Bound<'_, Tls>, gathered: &mut Vec<u8>) -> PyResult<()> {
    if gathered.is_empty() {
        return Ok(());
    }
    let bytes = PyBytes::new(protocol.py(), gathered);
    gathered.clear();
    send::write(protocol, &bytes, bytes.as_bytes())
}

unsafe extern "C" fn dealloc(object: *mut ffi::PyObject) {
    // SAFETY: CPython calls this once, on the last reference, with the thread attached. A Python subclass's
    // `subtype_dealloc` has cleared what the subclass added and leaves the rest, and its type, to us.
    unsafe {
        ffi::PyObject_GC_UnTrack(object.cast());
        let class = ffi::Py_TYPE(object);
        drop((*object.cast::<TransportObject>()).protocol.take());
        if let Some(raw) = CLASS.get() {
            raw.clear_slots(object);
        }
        ffi::PyObject_GC_Del(object.cast());
        ffi::Py_DECREF(class.cast());
    }
}

unsafe extern "C" fn traverse(
    object: *mut ffi::PyObject,
    visit: ffi::visitproc,
    arg: *mut c_void,
) -> c_int {
    let Some(raw) = CLASS.get() else { return 0 };
    // SAFETY: the collector traverses live, tracked objects.
    unsafe {
        let answer = raw.visit_slots(object, visit, arg);
        if answer != 0 {
            return answer;
        }
        let Some(place) = (*object.cast::<TransportObject>()).protocol.as_deref() else {
            return 0;
        };
        place
            .try_look(|protocol| heap::visit_object(protocol.as_ref(), visit, arg))
            .unwrap_or(0)
    }
}

unsafe extern "C" fn clear(object: *mut ffi::PyObject) -> c_int {
    // SAFETY: the collector clears an unreachable but live object, attached.
    unsafe {
        if let Some(place) = (*object.cast::<TransportObject>()).protocol.as_deref() {
            let protocol = place.with(Python::assume_attached(), Option::take);
            drop(protocol);
        }
        if let Some(raw) = CLASS.get() {
            raw.clear_slots(object);
        }
    }
    0
}
