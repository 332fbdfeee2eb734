//! The object behind a transport: its layout, and what CPython's memory management asks of it.

use std::ffi::{c_int, c_void};

use pyo3::ffi;
use pyo3::prelude::*;

use super::{Body, CLASS, Socket};
use crate::heap;

/// Room for an instance of asyncio's `_FlowControlMixin`, the transport that sendfile's fallback asks for: its
/// five slots behind the largest object header (32 bytes, free-threaded).
pub(super) const HEADER: usize = 80;

#[repr(C)]
pub(super) struct TransportObject {
    header: [u64; HEADER / 8],
    /// Boxed: NULL until the transport is made, which is before anybody sees it.
    pub(super) body: Option<Box<Body>>,
}

pub(super) unsafe extern "C" fn dealloc(object: *mut ffi::PyObject) {
    // SAFETY: CPython calls this once, on the last reference, with the thread attached. A Python subclass's
    // `subtype_dealloc` has cleared what the subclass added and leaves the rest, and its type, to us.
    unsafe {
        ffi::PyObject_GC_UnTrack(object.cast());
        let class = ffi::Py_TYPE(object);
        drop((*object.cast::<TransportObject>()).body.take());
        if let Some(raw) = CLASS.get() {
            raw.clear_slots(object);
        }
        ffi::PyObject_GC_Del(object.cast());
        ffi::Py_DECREF(class.cast());
    }
}

pub(super) unsafe extern "C" fn traverse(
    object: *mut ffi::PyObject,
    visit: ffi::visitproc,
    arg: *mut c_void,
) -> c_int {
    let Some(raw) = CLASS.get() else { return 0 };
    // SAFETY: the collector traverses live, tracked objects; a body is whole or absent.
    unsafe {
        let answer = raw.visit_slots(object, visit, arg);
        if answer != 0 {
            return answer;
        }
        let Some(body) = (*object.cast::<TransportObject>()).body.as_deref() else {
            return 0;
        };
        for held in [&body.owner, &body.context] {
            let answer = heap::visit_object(Some(held), visit, arg);
            if answer != 0 {
                return answer;
            }
        }
        body.state
            .try_look(|state| {
                let sock = if let Socket::Python(sock) = &state.socket {
                    Some(sock)
                } else {
                    None
                };
                [
                    sock,
                    state.protocol.as_ref(),
                    state.server.as_ref(),
                    state.waiter.as_ref(),
                    state.extra.as_ref(),
                    state.empty_waiter.as_ref(),
                    state.lost_because.as_ref(),
                ]
                .into_iter()
                .map(|held| heap::visit_object(held, visit, arg))
                .find(|answer| *answer != 0)
                .unwrap_or(0)
            })
            .unwrap_or(0)
    }
}

pub(super) unsafe extern "C" fn clear(object: *mut ffi::PyObject) -> c_int {
    // SAFETY: the collector clears an unreachable but live object, attached. `__del__` has run and closed
    // the socket.
    unsafe {
        let py = Python::assume_attached();
        let taken = (*object.cast::<TransportObject>())
            .body
            .as_deref()
            .map(|body| {
                body.with(py, |state| {
                    (
                        state.protocol.take(),
                        state.server.take(),
                        state.waiter.take(),
                        state.extra.take(),
                        state.empty_waiter.take(),
                        state.lost_because.take(),
                    )
                })
            });
        drop(taken);
        if let Some(raw) = CLASS.get() {
            raw.clear_slots(object);
        }
    }
    0
}
