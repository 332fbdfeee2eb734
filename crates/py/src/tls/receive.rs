//! Reading: ciphertext in, decrypted data to the protocol.

use std::mem::MaybeUninit;
use std::{ptr, slice};

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use pyo3::{Borrowed, ffi, intern};

use super::buffers::{PLAIN, with_plain};
use super::engine::{Engine, Outcome};
use super::send::{Pace, control_app_writing, send_waiting};
use super::{Lower, Phase, RECORD, Tls, fatal};
use crate::call::call_method;
use crate::object::Obj;
use crate::transport::{Style, deliver};

/// What one delivery of decrypted data takes at most; under glibc's threshold with the object's head.
const BULK: usize = 120 * 1024;
/// Input up to this size is decrypted to the shared buffer and copied out of it.
const SMALL: usize = PLAIN - RECORD;

/// How the filling of a place ended.
enum Filled {
    /// The place is full, and there is more.
    Full,
    /// There is nothing more.
    Drained,
    End,
    Failed(PyErr),
}

impl Tls {
    /// The protocol, if it is to get data now.
    #[inline]
    fn reader(&self, py: Python<'_>) -> Option<(Obj, Style)> {
        self.with(py, |state| {
            let reads = state.phase != Phase::Other && !state.app_reading_paused && !state.busy;
            if reads {
                state.app.clone().map(|app| (app, state.style))
            } else {
                None
            }
        })
    }

    /// Fills `place` with decrypted data; how much of it, and why no more. Called exclusively.
    fn fill(
        &self,
        py: Python<'_>,
        engine: &Engine,
        place: &mut [MaybeUninit<u8>],
    ) -> (usize, Filled) {
        let mut count = 0;
        let nothing_left = || PyResult::Ok(engine.unread(py)? == 0);
        loop {
            if count == place.len() {
                let more =
                    nothing_left().and_then(|nothing| Ok(!nothing || engine.decrypted(py)? > 0));
                return match more {
                    Ok(true) => (count, Filled::Full),
                    Ok(false) => (count, Filled::Drained),
                    Err(error) => (count, Filled::Failed(error)),
                };
            }
            let room = &mut place[count..];
            match engine.read(py, room) {
                Outcome::Done(some) => {
                    count += some;
                    // A record that was read to its end, and no byte of the next: asking again would tell no more.
                    match nothing_left() {
                        Ok(true) if count < place.len() => return (count, Filled::Drained),
                        Ok(_) => {}
                        Err(error) => return (count, Filled::Failed(error)),
                    }
                }
                Outcome::Again => return (count, Filled::Drained),
                Outcome::End => return (count, Filled::End),
                Outcome::Failed(error) => return (count, Filled::Failed(error)),
            }
        }
    }

    /// Decrypted data as a bytes object of its size; `size` is how much ciphertext there is. Called exclusively.
    fn fill_bytes(
        &self,
        py: Python<'_>,
        engine: &Engine,
        size: usize,
    ) -> PyResult<(Option<Obj>, Filled)> {
        if size <= SMALL {
            return with_plain(|space| {
                let (count, filled) = self.fill(py, engine, space);
                if count == 0 {
                    return Ok((None, filled));
                }
                // SAFETY: that many bytes were written; the object copies them.
                let bytes = unsafe {
                    ffi::PyBytes_FromStringAndSize(space.as_ptr().cast(), count.cast_signed())
                };
                // SAFETY: a new reference or NULL with an exception set.
                let bytes = unsafe { Obj::from_owned(bytes) }.ok_or_else(|| PyErr::fetch(py))?;
                Ok((Some(bytes), filled))
            });
        }
        // Decrypted data is shorter than what it was; a record that has come in part before adds to it.
        let room = (size + RECORD).min(BULK);
        // SAFETY: a new object of uninitialised bytes that nobody else knows, filled, then cut to what was written.
        // `_PyBytes_Resize` takes the reference and sets it to NULL when it fails.
        unsafe {
            let mut bytes = ffi::PyBytes_FromStringAndSize(ptr::null(), room.cast_signed());
            if bytes.is_null() {
                return Err(PyErr::fetch(py));
            }
            let space = ffi::PyBytes_AsString(bytes).cast::<MaybeUninit<u8>>();
            let (count, filled) = self.fill(py, engine, slice::from_raw_parts_mut(space, room));
            if count == 0 {
                ffi::Py_DECREF(bytes);
                return Ok((None, filled));
            }
            if count < room && _PyBytes_Resize(&raw mut bytes, count.cast_signed()) != 0 {
                return Err(PyErr::fetch(py));
            }
            Ok((Obj::from_owned(bytes), filled))
        }
    }
}

unsafe extern "C" {
    /// Documented in CPython's "Bytes Objects"; PyO3 does not pass it on.
    fn _PyBytes_Resize(bytes: *mut *mut ffi::PyObject, size: ffi::Py_ssize_t) -> std::ffi::c_int;
}

/// `protocol`, which is a `Tls`.
fn this<'a, 'py>(py: Python<'py>, protocol: &'a Obj) -> Borrowed<'a, 'py, Tls> {
    // SAFETY: who calls has found the style to be `Style::Tls`.
    unsafe { protocol.bind(py).cast_unchecked::<Tls>() }
}

/// Takes ciphertext from the transport below. An error is the protocol's that is not to be caught.
#[inline]
pub(crate) fn feed(py: Python<'_>, protocol: &Obj, input: &[u8]) -> PyResult<()> {
    let this = this(py, protocol);
    let wrapped = this.get().with(py, |state| state.phase == Phase::Wrapped);
    match this.get().engine.get() {
        Some(engine) if wrapped => read(&this, engine, input),
        _ => {
            let input = PyBytes::new(py, input);
            call_method(&this, intern!(py, "_feed"), [&input]).map(drop)
        }
    }
}

/// Decrypts and hands over `input` and what was left before; what goes wrong ends the connection.
#[inline]
pub(super) fn read(this: &Bound<'_, Tls>, engine: &Engine, input: &[u8]) -> PyResult<()> {
    match receive(this, engine, input) {
        Ok(()) => Ok(()),
        Err(error) => fatal(this, error),
    }
}

#[inline]
fn receive(this: &Bound<'_, Tls>, engine: &Engine, input: &[u8]) -> PyResult<()> {
    let py = this.py();
    let mut input = input;
    let mut last = Filled::Drained;
    let heard = hand_over(this, engine, &mut input, &mut last);
    // What a protocol did not want that was paused, or closed, or raised an exception.
    engine.keep(py, input)?;
    heard?;
    match last {
        Filled::Full | Filled::Drained => {}
        Filled::End => {
            call_method(this, intern!(py, "_call_eof_received"), [])?;
            call_method(this, intern!(py, "_start_shutdown"), [])?;
        }
        Filled::Failed(error) => return Err(error),
    }
    // What OpenSSL itself had to say, and what waited for it to hear something.
    if engine.unsent(py)? > 0 || this.get().with(py, |state| state.waiting > 0) {
        send_waiting(this, engine, Pace::AsThereIsRoom)?;
        control_app_writing(this, engine)?;
    }
    control_lower_reading(this, engine)
}

/// Hands data to the protocol as long as there is some and it wants it; `input` is taken when it is first needed.
#[inline]
fn hand_over(
    this: &Bound<'_, Tls>,
    engine: &Engine,
    input: &mut &[u8],
    last: &mut Filled,
) -> PyResult<()> {
    let py = this.py();
    let tls = this.get();
    loop {
        let Some((app, style)) = tls.reader(py) else {
            return Ok(());
        };
        let size = input.len() + engine.unread(py)?;
        if size == 0 && engine.decrypted(py)? == 0 {
            return Ok(());
        }
        // Nothing is lent while the protocol is called, for it may do anything, even read.
        if style == Style::Buffer {
            let mut buffer = deliver::get_buffer(py, &app, size.cast_signed())?;
            if tls.reader(py).is_none() {
                return Ok(());
            }
            let filled = tls.exclusively(py, || {
                let lent = std::mem::take(input);
                engine.lending(py, lent, || tls.fill(py, engine, buffer.space()))
            });
            let Some(filled) = filled else {
                return Ok(());
            };
            let (count, filled) = filled?;
            *last = filled;
            drop(buffer);
            if count > 0 {
                deliver::buffer_updated(py, &app, count)?;
            }
        } else {
            let filled = tls.exclusively(py, || {
                let lent = std::mem::take(input);
                engine.lending(py, lent, || tls.fill_bytes(py, engine, size))
            });
            let Some(filled) = filled else {
                return Ok(());
            };
            let (bytes, filled) = filled??;
            *last = filled;
            match bytes {
                None => {}
                Some(bytes) if style == Style::Tls => {
                    // SAFETY: what `fill_bytes` makes.
                    let bytes = unsafe { bytes.into_bound(py).cast_into_unchecked::<PyBytes>() };
                    feed(py, &app, bytes.as_bytes())?;
                }
                Some(bytes) if style == Style::Stream => deliver::stream(py, &app, bytes)?,
                Some(bytes) => deliver::data(py, &app, bytes)?,
            }
        }
        if !matches!(last, Filled::Full) {
            return Ok(());
        }
    }
}

/// Pauses the transport below while more ciphertext waits than the marks allow.
#[inline]
fn control_lower_reading(this: &Bound<'_, Tls>, engine: &Engine) -> PyResult<()> {
    let py = this.py();
    let size = engine.unread(py)?;
    let (lower, pause) = this.get().with(py, |state| {
        if size >= state.incoming_high && !state.lower_reading_paused {
            state.lower_reading_paused = true;
            (state.lower.clone(), true)
        } else if size <= state.incoming_low && state.lower_reading_paused {
            state.lower_reading_paused = false;
            (state.lower.clone(), false)
        } else {
            (Lower::None, false)
        }
    });
    if let Some(lower) = lower.object() {
        let name = if pause {
            intern!(py, "pause_reading")
        } else {
            intern!(py, "resume_reading")
        };
        call_method(&lower.bind(py), name, [])?;
    }
    Ok(())
}
