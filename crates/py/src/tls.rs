//! TLS: the hot half of asyncio's `SSLProtocol`.
//!
//! The class `Tls` is the base of the Python class `TLSProtocol`, whose other base is CPython's own `SSLProtocol`.
//! That one shakes hands, shuts down, keeps the timeouts and reports errors; this one moves the bytes in between,
//! and keeps the state that both look at: CPython's attributes (`_state`, `_app_reading_paused`, ...) are properties
//! of ours, so that its methods and these read and write the same fields.
//!
//! Reading: the socket's transport hands ciphertext to [`feed`] where it lies, the [`Engine`] decrypts it into the
//! bytes object or the buffer that the protocol gets, and what a paused protocol does not want yet goes to the
//! incoming memory BIO, as CPython's code would have it. Writing: [`write`] encrypts at once and hands the ciphertext
//! to the socket's transport, until that one says that it has enough; from then on plaintext waits in
//! `_write_backlog`, unencrypted, and is encrypted when there is room for it.
//!
//! The engine is in `engine` (with `openssl` and `bio` below it), the transport that programs see in `transport`,
//! memory that connections share in `buffers`.

mod bio;
mod buffers;
mod engine;
mod openssl;
mod transport;

use std::mem::MaybeUninit;
use std::sync::OnceLock;
use std::{ptr, slice};

use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::{PyException, PyRuntimeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};
use pyo3::{Borrowed, ffi, intern};

pub(crate) use self::buffers::with_input;
use self::buffers::{PLAIN, PORTION, with_output, with_plain};
use self::engine::{Engine, Outcome};
pub(crate) use self::transport::register;
use crate::call::{call_method, ends_the_run};
use crate::guard::Guarded;
use crate::object::Obj;
use crate::transport::{Style, TransportRef, deliver, style_of};

/// What one delivery of decrypted data takes at most; under glibc's threshold with the object's head.
const BULK: usize = 120 * 1024;
/// Plaintext of one record, at most.
const RECORD: usize = 16 * 1024;
/// Input up to this size is decrypted to the shared buffer and copied out of it.
const SMALL: usize = PLAIN - RECORD;

/// The native half of `ropewalk.asyncio`'s TLS protocol.
#[pyclass(subclass, frozen, module = "ropewalk._core")]
pub(crate) struct Tls {
    state: Guarded<State>,
    /// Made when the handshake is done.
    engine: OnceLock<Engine>,
}

/// `SSLProtocolState`, as far as the hot half wants to know it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Wrapped,
    /// Closing, and reading what is left.
    Flushing,
    /// Handshake, shutdown, none.
    Other,
}

/// The transport below.
#[derive(Clone)]
enum Lower {
    None,
    Native(TransportRef),
    /// Another TLS session, most likely.
    Foreign(Obj),
}

#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of CPython's SSLProtocol"
)]
struct State {
    phase: Phase,
    /// The member of `SSLProtocolState` that `phase` was made of.
    phase_object: Option<Obj>,
    app: Option<Obj>,
    style: Style,
    lower: Lower,
    /// The deque of what waits to be encrypted, and how many bytes that is.
    backlog: Option<Obj>,
    waiting: usize,
    /// A call on the session is under way: a callback of OpenSSL's must not make another one.
    busy: bool,
    app_reading_paused: bool,
    app_writing_paused: bool,
    lower_reading_paused: bool,
    lower_writing_paused: bool,
    outgoing_high: usize,
    outgoing_low: usize,
    incoming_high: usize,
    incoming_low: usize,
}

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
    #[inline]
    fn with<R>(&self, py: Python<'_>, f: impl FnOnce(&mut State) -> R) -> R {
        self.state.with(py, f)
    }

    /// Makes one call on the session, unless one is under way already.
    #[inline]
    fn call(&self, py: Python<'_>, f: impl FnOnce() -> Outcome) -> Outcome {
        if self.with(py, |state| std::mem::replace(&mut state.busy, true)) {
            return Outcome::Again;
        }
        let outcome = f();
        self.with(py, |state| state.busy = false);
        outcome
    }

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

    /// Fills `place` with decrypted data; how much of it, and why no more.
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
                let more = nothing_left()
                    .and_then(|nothing| Ok(!nothing || engine.decrypted(py)? > 0));
                return match more {
                    Ok(true) => (count, Filled::Full),
                    Ok(false) => (count, Filled::Drained),
                    Err(error) => (count, Filled::Failed(error)),
                };
            }
            let room = &mut place[count..];
            match self.call(py, || engine.read(py, room)) {
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

    /// Decrypted data as a bytes object of its size; `size` is how much ciphertext there is.
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
fn read(this: &Bound<'_, Tls>, engine: &Engine, input: &[u8]) -> PyResult<()> {
    match receive(this, engine, input) {
        Ok(()) => Ok(()),
        Err(error) => fatal(this, error),
    }
}

/// An `Exception` is the end of the connection; anything else is the caller's.
#[cold]
fn fatal(this: &Bound<'_, Tls>, error: PyErr) -> PyResult<()> {
    let py = this.py();
    if !error.is_instance_of::<PyException>(py) {
        return Err(error);
    }
    let args = (error.into_value(py), "Fatal error on SSL protocol");
    this.call_method1(intern!(py, "_fatal_error"), args)
        .map(drop)
}

#[inline]
fn receive(this: &Bound<'_, Tls>, engine: &Engine, input: &[u8]) -> PyResult<()> {
    let py = this.py();
    let tls = this.get();
    // SAFETY: `input` is the caller's for the length of this call, in which the loan ends.
    unsafe { engine.lend(py, input)? };
    let mut lent = true;
    let mut reads = true;
    let mut last = Filled::Drained;
    let mut heard = Ok(());
    while reads && let Some((app, style)) = tls.reader(py) {
        let size = engine.unread(py)?;
        if size == 0 && engine.decrypted(py)? == 0 {
            break;
        }
        let got = match style {
            Style::Data | Style::Tls => tls.fill_bytes(py, engine, size).map(|(bytes, filled)| {
                last = filled;
                bytes.map(Delivery::Bytes)
            }),
            Style::Buffer => {
                deliver::get_buffer(py, &app, size.cast_signed()).map(|mut buffer| {
                    let (count, filled) = tls.fill(py, engine, buffer.space());
                    last = filled;
                    (count > 0).then_some(Delivery::Count(count))
                })
            }
        };
        // The protocol may do anything when it is called: from here on nothing is lent.
        if std::mem::take(&mut lent) {
            engine.take_back(py, input)?;
        }
        reads = matches!(last, Filled::Full);
        heard = match got {
            Ok(Some(Delivery::Bytes(bytes))) if style == Style::Tls => {
                let bytes = bytes.into_bound(py).cast_into::<PyBytes>()?;
                feed(py, &app, bytes.as_bytes())
            }
            Ok(Some(Delivery::Bytes(bytes))) => deliver::data(py, &app, bytes),
            Ok(Some(Delivery::Count(count))) => deliver::buffer_updated(py, &app, count),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        reads &= heard.is_ok();
    }
    if lent {
        engine.take_back(py, input)?;
    }
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
    if engine.unsent(py)? > 0 || tls.with(py, |state| state.waiting > 0) {
        send_waiting(this, engine, Pace::AsThereIsRoom)?;
        control_app_writing(this, engine)?;
    }
    control_lower_reading(this, engine)
}

/// What a protocol is told.
enum Delivery {
    Bytes(Obj),
    Count(usize),
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

impl Lower {
    fn object(&self) -> Option<&Obj> {
        match self {
            Self::None => None,
            Self::Native(transport) => Some(transport.as_obj()),
            Self::Foreign(transport) => Some(transport),
        }
    }

    /// Sends ciphertext; `false` if it is lost.
    #[inline]
    fn send(&self, py: Python<'_>, bytes: &[u8]) -> PyResult<bool> {
        match self {
            Self::None => Ok(false),
            Self::Native(transport) => transport.send(py, bytes),
            Self::Foreign(transport) => {
                let bytes = PyBytes::new(py, bytes);
                call_method(&transport.bind(py), intern!(py, "write"), [&bytes])?;
                Ok(true)
            }
        }
    }
}

/// Whether the transport below may be given more than it wants.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pace {
    AsThereIsRoom,
    /// Before the connection is shut down, what was written goes out.
    Regardless,
}

/// How far a portion came.
enum Sent {
    /// All of it is encrypted.
    All,
    /// So much of it, and no more for now.
    Part(usize),
    /// The connection is lost.
    Lost,
}

/// Encrypts and sends.
#[inline]
fn send(this: &Bound<'_, Tls>, engine: &Engine, bytes: &[u8], pace: Pace) -> PyResult<Sent> {
    let py = this.py();
    let tls = this.get();
    with_output(|output| {
        let mut done = 0;
        while done < bytes.len() {
            let portion = &bytes[done..bytes.len().min(done + PORTION)];
            output.clear();
            let outcome = tls.call(py, || engine.write(py, portion, output));
            // Also what a call says that fails.
            let lower = tls.with(py, |state| state.lower.clone());
            let alive = output.is_empty() || lower.send(py, output)?;
            match outcome {
                Outcome::Done(count) => done += count,
                Outcome::Again | Outcome::End => return Ok(Sent::Part(done)),
                Outcome::Failed(error) => return Err(error),
            }
            if !alive {
                return Ok(Sent::Lost);
            }
            if done < bytes.len()
                && pace == Pace::AsThereIsRoom
                && tls.with(py, |state| state.lower_writing_paused)
            {
                return Ok(Sent::Part(done));
            }
        }
        Ok(Sent::All)
    })
}

/// Sends what is in the outgoing memory BIO, then what waits in the backlog.
fn send_waiting(this: &Bound<'_, Tls>, engine: &Engine, pace: Pace) -> PyResult<()> {
    let py = this.py();
    let tls = this.get();
    let goes_on = || {
        tls.with(py, |state| {
            !state.busy && (pace == Pace::Regardless || !state.lower_writing_paused)
        })
    };
    while goes_on() && engine.unsent(py)? > 0 {
        with_output(|output| {
            engine.take_output(py, PORTION, output)?;
            let lower = tls.with(py, |state| state.lower.clone());
            lower.send(py, output)
        })?;
    }
    while goes_on() {
        let Some(backlog) = tls.with(py, |state| {
            let wanted = state.phase != Phase::Other && state.waiting > 0;
            wanted.then(|| state.backlog.clone()).flatten()
        }) else {
            return Ok(());
        };
        let backlog = backlog.bind(py);
        if backlog.is_empty()? {
            tls.with(py, |state| state.waiting = 0);
            return Ok(());
        }
        let first = backlog.get_item(0)?;
        let view = contiguous(&first)?;
        let sent = send(this, engine, view.bytes(), pace)?;
        let size = view.bytes().len();
        drop(view);
        let part = match sent {
            Sent::All => {
                backlog.call_method0(intern!(py, "popleft"))?;
                size
            }
            Sent::Part(count) => {
                if count > 0 {
                    backlog.set_item(0, rest(&first, count)?)?;
                }
                count
            }
            Sent::Lost => {
                backlog.call_method0(intern!(py, "clear"))?;
                tls.with(py, |state| state.waiting = 0);
                return Ok(());
            }
        };
        tls.with(py, |state| state.waiting = state.waiting.saturating_sub(part));
        if let Sent::Part(_) = sent {
            return Ok(());
        }
    }
    Ok(())
}

/// What is left of `data` behind the first `count` bytes: a view of a bytes object, which cannot change, else a copy.
fn rest<'py>(data: &Bound<'py, PyAny>, count: usize) -> PyResult<Bound<'py, PyAny>> {
    let py = data.py();
    if data.is_exact_instance_of::<PyBytes>() || data.is_exact_instance_of::<pyo3::types::PyMemoryView>() {
        let view = pyo3::types::PyMemoryView::from(data)?;
        return view.get_item(pyo3::types::PySlice::new(
            py,
            count.cast_signed(),
            isize::MAX,
            1,
        ));
    }
    Ok(PyBytes::new(py, &contiguous(data)?.bytes()[count..]).into_any())
}

/// The bytes of an object.
struct View(PyUntypedBuffer);

impl View {
    #[inline]
    fn bytes(&self) -> &[u8] {
        // SAFETY: the view keeps the memory in place; that somebody may write into it meanwhile is the caller's, as
        // with `socket.send`, and changes bytes only.
        unsafe { slice::from_raw_parts(self.0.buf_ptr().cast::<u8>(), self.0.len_bytes()) }
    }
}

fn contiguous(data: &Bound<'_, PyAny>) -> PyResult<View> {
    let view = PyUntypedBuffer::get(data)?;
    if !view.is_c_contiguous() {
        return Err(pyo3::exceptions::PyBufferError::new_err(
            "memoryview: underlying buffer is not C-contiguous",
        ));
    }
    Ok(View(view))
}

/// Sends plaintext, or keeps what there is no room for. `data` is what `bytes` belongs to.
fn write(this: &Bound<'_, Tls>, data: &Bound<'_, PyAny>, bytes: &[u8]) -> PyResult<()> {
    let py = this.py();
    let tls = this.get();
    let (phase, waits) = tls.with(py, |state| {
        let waits = state.lower_writing_paused || state.waiting > 0 || state.busy;
        (state.phase, waits)
    });
    let Some(engine) = tls.engine.get().filter(|_| phase == Phase::Wrapped) else {
        let list = PyTuple::new(py, [data])?;
        return call_method(this, intern!(py, "_write_appdata"), [&list]).map(drop);
    };
    let sent = if waits || engine.unsent(py)? > 0 {
        Ok(Sent::Part(0))
    } else {
        send(this, engine, bytes, Pace::AsThereIsRoom)
    };
    let kept = match sent {
        Ok(Sent::All | Sent::Lost) => Ok(()),
        Ok(Sent::Part(count)) => keep(this, data, bytes, count),
        Err(error) => return fatal(this, error),
    };
    kept?;
    control_app_writing(this, engine)
}

/// Puts what is left of `bytes` behind the first `count` into the backlog.
#[cold]
fn keep(
    this: &Bound<'_, Tls>,
    data: &Bound<'_, PyAny>,
    bytes: &[u8],
    count: usize,
) -> PyResult<()> {
    let py = this.py();
    let kept = if data.is_exact_instance_of::<PyBytes>() {
        if count == 0 {
            data.clone()
        } else {
            rest(data, count)?
        }
    } else {
        PyBytes::new(py, &bytes[count..]).into_any()
    };
    let backlog = this.get().with(py, |state| {
        state.waiting += bytes.len() - count;
        state.backlog.clone()
    });
    if let Some(backlog) = backlog {
        call_method(&backlog.bind(py), intern!(py, "append"), [&kept])?;
    }
    Ok(())
}

/// Tells the protocol when to stop writing and when to go on.
#[inline]
fn control_app_writing(this: &Bound<'_, Tls>, engine: &Engine) -> PyResult<()> {
    let py = this.py();
    let unsent = engine.unsent(py)?;
    let told = this.get().with(py, |state| {
        let size = state.waiting + unsent;
        if size > 0 && size >= state.outgoing_high && !state.app_writing_paused {
            state.app_writing_paused = true;
            state.app.clone().map(|app| (app, true))
        } else if state.app_writing_paused && size <= state.outgoing_low {
            state.app_writing_paused = false;
            state.app.clone().map(|app| (app, false))
        } else {
            None
        }
    });
    let Some((app, pause)) = told else {
        return Ok(());
    };
    let name = if pause {
        intern!(py, "pause_writing")
    } else {
        intern!(py, "resume_writing")
    };
    match call_method(&app.bind(py), name, []) {
        Ok(_) => Ok(()),
        Err(error) if ends_the_run(py, &error) => Err(error),
        Err(error) => {
            let args = (format!("protocol.{name}() failed"), error.into_value(py));
            this.call_method1(intern!(py, "_complain"), args).map(drop)
        }
    }
}

/// The attributes of CPython's `SSLProtocol` that the hot half shares, and the methods that it does itself.
#[pymethods]
impl Tls {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self {
            state: Guarded::new(State {
                phase: Phase::Other,
                phase_object: None,
                app: None,
                style: Style::Data,
                lower: Lower::None,
                backlog: None,
                waiting: 0,
                busy: false,
                app_reading_paused: false,
                app_writing_paused: false,
                lower_reading_paused: false,
                lower_writing_paused: false,
                outgoing_high: 0,
                outgoing_low: 0,
                incoming_high: 0,
                incoming_low: 0,
            }),
            engine: OnceLock::new(),
        }
    }

    #[getter]
    fn _state(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let object = self.with(py, |state| state.phase_object.clone());
        object.map(|object| object.into_bound(py).unbind())
    }

    #[setter(_state)]
    fn set_state(slf: &Bound<'_, Self>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let phase = match value
            .getattr(intern!(py, "value"))?
            .extract::<String>()?
            .as_str()
        {
            "WRAPPED" => Phase::Wrapped,
            "FLUSHING" => Phase::Flushing,
            _ => Phase::Other,
        };
        if phase == Phase::Wrapped && this.engine.get().is_none() {
            let engine = Engine::new(
                py,
                &slf.getattr(intern!(py, "_sslobj"))?,
                &slf.getattr(intern!(py, "_incoming"))?,
                &slf.getattr(intern!(py, "_outgoing"))?,
                slf.getattr(intern!(py, "wants_openssl"))?.is_truthy()?,
            )?;
            let _ = this.engine.set(engine);
        }
        let value = value.into();
        let old = this.with(py, |state| {
            state.phase = phase;
            state.phase_object.replace(value)
        });
        drop(old);
        Ok(())
    }

    #[getter]
    fn _app_protocol(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let app = self.with(py, |state| state.app.clone());
        app.map(|app| app.into_bound(py).unbind())
    }

    #[setter(_app_protocol)]
    fn set_app_protocol(&self, py: Python<'_>, value: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let app = value.map(Obj::from);
        let style = match &app {
            Some(app) => style_of(py, app)?,
            None => Style::Data,
        };
        let old = self.with(py, |state| {
            state.style = style;
            std::mem::replace(&mut state.app, app)
        });
        drop(old);
        Ok(())
    }

    #[getter]
    fn _transport(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let lower = self.with(py, |state| state.lower.clone());
        lower.object().map(|lower| lower.bind(py).to_owned().unbind())
    }

    #[setter(_transport)]
    fn set_transport(&self, py: Python<'_>, value: Option<&Bound<'_, PyAny>>) {
        let lower = match value {
            None => Lower::None,
            Some(value) => TransportRef::from_object(value)
                .map_or_else(|| Lower::Foreign(value.into()), Lower::Native),
        };
        let old = self.with(py, |state| std::mem::replace(&mut state.lower, lower));
        drop(old);
    }

    #[getter]
    fn _write_backlog(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let backlog = self.with(py, |state| state.backlog.clone());
        backlog.map(|backlog| backlog.into_bound(py).unbind())
    }

    #[setter(_write_backlog)]
    fn set_write_backlog(&self, value: &Bound<'_, PyAny>) {
        let backlog = value.into();
        let old = self.with(value.py(), |state| state.backlog.replace(backlog));
        drop(old);
    }

    #[getter]
    fn _write_buffer_size(&self, py: Python<'_>) -> usize {
        self.with(py, |state| state.waiting)
    }

    #[setter(_write_buffer_size)]
    fn set_write_buffer_size(&self, py: Python<'_>, value: usize) {
        self.with(py, |state| state.waiting = value);
    }

    #[getter]
    fn _app_reading_paused(&self, py: Python<'_>) -> bool {
        self.with(py, |state| state.app_reading_paused)
    }

    #[setter(_app_reading_paused)]
    fn set_app_reading_paused(&self, py: Python<'_>, value: bool) {
        self.with(py, |state| state.app_reading_paused = value);
    }

    #[getter]
    fn _app_writing_paused(&self, py: Python<'_>) -> bool {
        self.with(py, |state| state.app_writing_paused)
    }

    #[setter(_app_writing_paused)]
    fn set_app_writing_paused(&self, py: Python<'_>, value: bool) {
        self.with(py, |state| state.app_writing_paused = value);
    }

    #[getter]
    fn _ssl_reading_paused(&self, py: Python<'_>) -> bool {
        self.with(py, |state| state.lower_reading_paused)
    }

    #[setter(_ssl_reading_paused)]
    fn set_ssl_reading_paused(&self, py: Python<'_>, value: bool) {
        self.with(py, |state| state.lower_reading_paused = value);
    }

    #[getter]
    fn _ssl_writing_paused(&self, py: Python<'_>) -> bool {
        self.with(py, |state| state.lower_writing_paused)
    }

    #[setter(_ssl_writing_paused)]
    fn set_ssl_writing_paused(&self, py: Python<'_>, value: bool) {
        self.with(py, |state| state.lower_writing_paused = value);
    }

    #[getter]
    fn _outgoing_high_water(&self, py: Python<'_>) -> usize {
        self.with(py, |state| state.outgoing_high)
    }

    #[setter(_outgoing_high_water)]
    fn set_outgoing_high_water(&self, py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let value = mark(value)?;
        self.with(py, |state| state.outgoing_high = value);
        Ok(())
    }

    #[getter]
    fn _outgoing_low_water(&self, py: Python<'_>) -> usize {
        self.with(py, |state| state.outgoing_low)
    }

    #[setter(_outgoing_low_water)]
    fn set_outgoing_low_water(&self, py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let value = mark(value)?;
        self.with(py, |state| state.outgoing_low = value);
        Ok(())
    }

    #[getter]
    fn _incoming_high_water(&self, py: Python<'_>) -> usize {
        self.with(py, |state| state.incoming_high)
    }

    #[setter(_incoming_high_water)]
    fn set_incoming_high_water(&self, py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let value = mark(value)?;
        self.with(py, |state| state.incoming_high = value);
        Ok(())
    }

    #[getter]
    fn _incoming_low_water(&self, py: Python<'_>) -> usize {
        self.with(py, |state| state.incoming_low)
    }

    #[setter(_incoming_low_water)]
    fn set_incoming_low_water(&self, py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let value = mark(value)?;
        self.with(py, |state| state.incoming_low = value);
        Ok(())
    }

    /// Which engine does the work: "openssl", "memory", or None before the handshake is done.
    #[getter]
    fn _engine(&self) -> Option<&'static str> {
        self.engine.get().map(Engine::name)
    }

    /// Hands over what was received and not read yet.
    fn _do_read(slf: &Bound<'_, Self>) -> PyResult<()> {
        let reads = slf.get().with(slf.py(), |state| state.phase != Phase::Other);
        match slf.get().engine.get() {
            Some(engine) if reads => read(slf, engine, &[]),
            _ => Ok(()),
        }
    }

    /// Encrypts and sends everything that was written, whether there is room for it or not.
    fn _do_write(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        match slf.get().engine.get() {
            Some(engine) => send_waiting(slf, engine, Pace::Regardless)
                .and_then(|()| control_app_writing(slf, engine)),
            // Nothing can be encrypted before the handshake; what OpenSSL has to say can be sent.
            None => call_method(slf, intern!(py, "_process_outgoing"), []).map(drop),
        }
    }

    /// The transport below has enough.
    fn pause_writing(&self, py: Python<'_>) {
        self.with(py, |state| state.lower_writing_paused = true);
    }

    /// The transport below wants more.
    fn resume_writing(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        slf.get().with(py, |state| state.lower_writing_paused = false);
        let Some(engine) = slf.get().engine.get() else {
            return call_method(slf, intern!(py, "_process_outgoing"), []).map(drop);
        };
        match send_waiting(slf, engine, Pace::AsThereIsRoom) {
            Ok(()) => control_app_writing(slf, engine),
            Err(error) => fatal(slf, error),
        }
    }

    /// A transport of class `class` for the application.
    fn _make_app_transport(slf: &Bound<'_, Self>, class: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        let class = class.cast::<pyo3::types::PyType>()?;
        transport::make(slf, class).map(|made| made.into_bound(slf.py()).unbind())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        for object in self.engine.get().into_iter().flat_map(Engine::objects).flatten() {
            visit.call(object.as_py())?;
        }
        self.state
            .try_look(|state| {
                [
                    state.phase_object.as_ref(),
                    state.app.as_ref(),
                    state.backlog.as_ref(),
                    state.lower.object(),
                ]
                .into_iter()
                .flatten()
                .try_for_each(|object| visit.call(object.as_py()))
            })
            .unwrap_or(Ok(()))
    }

    fn __clear__(&self, py: Python<'_>) {
        let taken = self.with(py, |state| {
            (
                state.app.take(),
                state.backlog.take(),
                std::mem::replace(&mut state.lower, Lower::None),
            )
        });
        drop(taken);
    }
}

/// A water mark; one that no number of bytes reaches is as good as the largest.
fn mark(value: &Bound<'_, PyAny>) -> PyResult<usize> {
    let value = value.extract::<f64>()?;
    if value.is_nan() {
        return Err(PyRuntimeError::new_err("a water mark is a number"));
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "`as` saturates, as said above"
    )]
    Ok(value as usize)
}
