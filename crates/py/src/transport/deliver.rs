//! Handing bytes to a protocol: the one place where data meets it, whether from a socket or out of a TLS session.
//!
//! Called in the context that the connection's callbacks run in.

use std::mem::MaybeUninit;
use std::slice;

use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::intern;
use pyo3::prelude::*;

use crate::call::call_method;
use crate::object::Obj;
use crate::stream;

/// `data_received(bytes)`
#[inline]
pub(crate) fn data(py: Python<'_>, protocol: &Obj, bytes: Obj) -> PyResult<()> {
    call_method(
        &protocol.bind(py),
        intern!(py, "data_received"),
        [&bytes.into_bound(py)],
    )
    .map(drop)
}

/// What `data_received` of a plain stream protocol does, without calling it: its reader is fed.
#[inline]
pub(crate) fn stream(py: Python<'_>, protocol: &Obj, bytes: Obj) -> PyResult<()> {
    match stream::fed_by(protocol.bind(py))? {
        Some(stream) => stream.get().feed(py, bytes),
        // Nobody holds the reader any more: the bytes are for nobody.
        None => Ok(()),
    }
}

/// How many bytes such a reader waits for, or 0.
#[inline]
pub(crate) fn wanted(py: Python<'_>, protocol: &Obj) -> usize {
    match stream::fed_by(protocol.bind(py)) {
        Ok(Some(stream)) => stream.get().wanted(py),
        _ => 0,
    }
}

/// What a buffered protocol lends: memory to fill, which stays in place and is its own again when this is dropped.
pub(crate) struct Lent(PyUntypedBuffer);

impl Lent {
    #[inline]
    pub(crate) fn space(&mut self) -> &mut [MaybeUninit<u8>] {
        // SAFETY: the view keeps the memory in place, and was found writable and contiguous. Who fills it only ever
        // writes initialised bytes; that another thread may look at them meanwhile changes bytes only.
        unsafe {
            slice::from_raw_parts_mut(
                self.0.buf_ptr().cast::<MaybeUninit<u8>>(),
                self.0.len_bytes(),
            )
        }
    }
}

/// `get_buffer(hint)`
pub(crate) fn get_buffer(py: Python<'_>, protocol: &Obj, hint: isize) -> PyResult<Lent> {
    let object = call_method(
        &protocol.bind(py),
        intern!(py, "get_buffer"),
        [hint.into_pyobject(py)?.as_any()],
    )?;
    let view = PyUntypedBuffer::get(&object)?;
    if view.len_bytes() == 0 {
        return Err(PyRuntimeError::new_err(
            "get_buffer() returned an empty buffer",
        ));
    }
    if view.readonly() || !view.is_c_contiguous() {
        return Err(PyTypeError::new_err(
            "get_buffer() must return a writable, contiguous buffer",
        ));
    }
    Ok(Lent(view))
}

/// `buffer_updated(count)`
pub(crate) fn buffer_updated(py: Python<'_>, protocol: &Obj, count: usize) -> PyResult<()> {
    call_method(
        &protocol.bind(py),
        intern!(py, "buffer_updated"),
        [count.into_pyobject(py)?.as_any()],
    )
    .map(drop)
}
