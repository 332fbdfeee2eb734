//! Streams: the native half of `StreamReader` and `StreamWriter`.
//!
//! A reader is a Python object of an ordinary Python class (so that programs may subclass it, and so that a
//! reader which asyncio's own code has made can be given our class); its state is a [`Stream`], kept in its
//! attribute `_native`. A transport whose protocol is a plain `StreamReaderProtocol` feeds the reader without
//! calling the protocol, and `read` and its like are awaitables of ours: nothing of a chunk's way from the
//! socket to the task that waits for it is Python code.
//!
//! `buffer` keeps the bytes, `work` takes them out (`search` where a line ends), `awaitable` is what `read()` gives; `methods` are the classes' methods, of which those that one awaits are
//! `asyncmethod`s.

mod asyncmethod;
mod awaitable;
mod buffer;
mod methods;
mod search;
mod work;

use pyo3::exceptions::{PyAssertionError, PyTypeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyByteArray, PyBytes};
use pyo3::{ffi, intern};

use self::buffer::{Buffer, new_bytes};
use crate::call::call_method;
use crate::eventloop::Loop;
use crate::guard::Guarded;
use crate::heap::Ref;
use crate::object::Obj;
use crate::offspring;

/// A stream reader's state.
#[pyclass(frozen, module = "ropewalk._core")]
pub(crate) struct Stream {
    owner: Obj,
    state: Guarded<State>,
}

struct State {
    buffer: Buffer,
    limit: Limit,
    eof: bool,
    /// The future that a reading task waits for.
    waiter: Option<Obj>,
    exception: Option<Obj>,
    transport: Option<Obj>,
    /// The transport was asked to pause, for the buffer is full.
    paused: bool,
    /// So much would satisfy the one who waits.
    wanted: usize,
}

/// The `limit` of a reader: any number in Python, bytes here.
struct Limit {
    given: Obj,
    bytes: usize,
}

impl Limit {
    fn new(given: &Bound<'_, PyAny>) -> PyResult<Self> {
        let bytes = match given.extract::<usize>() {
            Ok(bytes) => bytes,
            // Infinity, or more than there is memory.
            Err(_) if given.gt(0)? => {
                let number: f64 = given.extract().unwrap_or(f64::INFINITY);
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "`as` saturates, and the number is above zero"
                )]
                let bytes = number as usize;
                bytes
            }
            Err(_) => 0,
        };
        Ok(Self {
            given: given.into(),
            bytes,
        })
    }
}

impl State {
    /// The transport to resume, if there is room again.
    fn resumable(&mut self, py: Python<'_>) -> Option<Obj> {
        let resumes = self.paused && self.buffer.len(py) <= self.limit.bytes;
        self.paused &= !resumes;
        self.transport.clone().filter(|_| resumes)
    }
}

impl Stream {
    fn with<R>(&self, py: Python<'_>, f: impl FnOnce(&mut State) -> R) -> R {
        self.state.with(py, f)
    }

    /// The state of a reader of ours.
    #[inline]
    fn of<'py>(reader: Ref<'_, 'py>) -> PyResult<Bound<'py, Self>> {
        let py = reader.py();
        reader
            .getattr(intern!(py, "_native"))
            .and_then(|native| native.cast_into::<Self>().map_err(PyErr::from))
            .map_err(|error| {
                let refused = PyTypeError::new_err("this is no initialised StreamReader");
                refused.set_cause(py, Some(error));
                refused
            })
    }

    /// Appends a non-empty `bytes` object, wakes who waits, and pauses the transport when the buffer is full.
    #[inline]
    pub(crate) fn feed(&self, py: Python<'_>, bytes: Obj) -> PyResult<()> {
        let (spent, waiter, pause) = self.with(py, |state| {
            if state.eof {
                return Err(PyAssertionError::new_err("feed_data after feed_eof"));
            }
            let spent = state.buffer.push(py, bytes)?;
            let full = state.buffer.len(py) > state.limit.bytes.saturating_mul(2);
            let pause = state.transport.clone().filter(|_| full && !state.paused);
            Ok((spent, state.waiter.take(), pause))
        })?;
        drop(spent);
        if let Some(waiter) = waiter {
            wake(py, &waiter)?;
        }
        match pause {
            Some(transport) => self.pause(py, &transport),
            None => Ok(()),
        }
    }

    #[cold]
    fn pause(&self, py: Python<'_>, transport: &Obj) -> PyResult<()> {
        match call_method(&transport.bind(py), intern!(py, "pause_reading"), []) {
            Ok(_) => {
                self.with(py, |state| state.paused = true);
                Ok(())
            }
            // It cannot be paused: everything has to be kept. Not asked again.
            Err(error) if error.is_instance_of::<pyo3::exceptions::PyNotImplementedError>(py) => {
                let transport = self.with(py, |state| state.transport.take());
                drop(transport);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// How much a read should ask the socket for: what somebody waits for, or 0.
    #[inline]
    pub(crate) fn wanted(&self, py: Python<'_>) -> usize {
        self.with(py, |state| match state.waiter {
            Some(_) => state.wanted,
            None => 0,
        })
    }

    /// A future of the reader's loop.
    fn future(&self, py: Python<'_>) -> PyResult<Obj> {
        let owner = self.owner.bind(py);
        if owner.is_instance_of::<Loop>() {
            // SAFETY: a new reference.
            let future = unsafe { Obj::from_owned(offspring::create_future(py, owner)?) };
            return future.ok_or_else(|| PyErr::fetch(py));
        }
        Ok(call_method(&owner, intern!(py, "create_future"), [])?.into())
    }
}

/// Tells the future that something has happened, unless it was cancelled.
#[inline]
fn wake(py: Python<'_>, waiter: &Obj) -> PyResult<()> {
    let waiter = waiter.bind(py);
    let none = py.None();
    match call_method(&waiter, intern!(py, "set_result"), [none.bind(py)]) {
        Ok(_) => Ok(()),
        // Only a future that is done refuses, and then nobody waits any more.
        Err(_) if call_method(&waiter, intern!(py, "cancelled"), [])?.is_truthy()? => Ok(()),
        Err(error) => Err(error),
    }
}

/// The `bytes` of anything that gives its bytes; the object itself if it is exactly that.
fn bytes_of(data: &Bound<'_, PyAny>) -> PyResult<Obj> {
    if data.is_exact_instance_of::<PyBytes>() {
        return Ok(data.into());
    }
    let view = pyo3::buffer::PyUntypedBuffer::get(data)?;
    if !view.is_c_contiguous() {
        // Rare; Python gathers it.
        return Ok(data.py().get_type::<PyBytes>().call1((data,))?.into());
    }
    // SAFETY: the view keeps that much memory in place; it is copied before anybody runs.
    let bytes = unsafe {
        std::slice::from_raw_parts(view.buf_ptr().cast::<u8>().cast_const(), view.len_bytes())
    };
    new_bytes(data.py(), bytes)
}

#[pymethods]
impl Stream {
    /// The state of a reader on `owner`, an event loop.
    #[new]
    #[pyo3(signature = (owner, limit))]
    fn new(owner: &Bound<'_, PyAny>, limit: &Bound<'_, PyAny>) -> PyResult<Self> {
        Ok(Self {
            owner: owner.into(),
            state: Guarded::new(State {
                buffer: Buffer::new(),
                limit: Limit::new(limit)?,
                eof: false,
                waiter: None,
                exception: None,
                transport: None,
                paused: false,
                wanted: 0,
            }),
        })
    }

    /// How many bytes wait to be read. Does not turn the buffer into a ``bytearray``.
    fn __len__(&self, py: Python<'_>) -> usize {
        self.with(py, |state| state.buffer.len(py))
    }

    /// Whether everything up to the end of the stream was read.
    fn at_eof(&self, py: Python<'_>) -> bool {
        self.with(py, |state| state.eof && state.buffer.len(py) == 0)
    }

    /// Appends bytes.
    fn feed_data(&self, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = data.py();
        let bytes = bytes_of(data)?;
        // SAFETY: `bytes_of` gives nothing else.
        let empty = unsafe { ffi::PyBytes_Size(bytes.as_ptr()) } == 0;
        if !empty {
            return self.feed(py, bytes);
        }
        if self.with(py, |state| state.eof) {
            return Err(PyAssertionError::new_err("feed_data after feed_eof"));
        }
        Ok(())
    }

    /// Resumes the transport if it was paused and there is room again.
    fn resume(&self, py: Python<'_>) -> PyResult<()> {
        match self.with(py, |state| state.resumable(py)) {
            Some(transport) => resume(py, &transport),
            None => Ok(()),
        }
    }

    #[getter]
    fn buffer<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        let (array, old) = self.with(py, |state| state.buffer.share(py));
        drop(old);
        array
    }

    #[setter]
    fn set_buffer(&self, array: &Bound<'_, PyByteArray>) {
        let old = self.with(array.py(), |state| {
            state.buffer.replace(array.as_any().into())
        });
        drop(old);
    }

    #[getter]
    fn limit(&self, py: Python<'_>) -> Py<PyAny> {
        let limit = self.with(py, |state| state.limit.given.clone());
        limit.into_bound(py).unbind()
    }

    #[setter]
    fn set_limit(&self, limit: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = limit.py();
        let limit = Limit::new(limit)?;
        let old = self.with(py, |state| std::mem::replace(&mut state.limit, limit));
        drop(old);
        Ok(())
    }

    #[getter]
    fn eof<'py>(&self, py: Python<'py>) -> Bound<'py, PyBool> {
        PyBool::new(py, self.with(py, |state| state.eof)).to_owned()
    }

    #[setter]
    fn set_eof(&self, py: Python<'_>, eof: bool) {
        self.with(py, |state| state.eof = eof);
    }

    #[getter]
    fn paused(&self, py: Python<'_>) -> bool {
        self.with(py, |state| state.paused)
    }

    #[setter]
    fn set_paused(&self, py: Python<'_>, paused: bool) {
        self.with(py, |state| state.paused = paused);
    }

    #[getter]
    fn waiter(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let waiter = self.with(py, |state| state.waiter.clone());
        waiter.map(|waiter| waiter.into_bound(py).unbind())
    }

    #[setter]
    fn set_waiter(&self, py: Python<'_>, waiter: Option<&Bound<'_, PyAny>>) {
        let waiter = waiter.map(Obj::from);
        let old = self.with(py, |state| std::mem::replace(&mut state.waiter, waiter));
        drop(old);
    }

    #[getter]
    fn exception(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let exception = self.with(py, |state| state.exception.clone());
        exception.map(|exception| exception.into_bound(py).unbind())
    }

    #[setter]
    fn set_exception(&self, py: Python<'_>, exception: Option<&Bound<'_, PyAny>>) {
        let exception = exception.map(Obj::from);
        let old = self.with(py, |state| {
            std::mem::replace(&mut state.exception, exception)
        });
        drop(old);
    }

    #[getter]
    fn transport(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let transport = self.with(py, |state| state.transport.clone());
        transport.map(|transport| transport.into_bound(py).unbind())
    }

    #[setter]
    fn set_transport(&self, py: Python<'_>, transport: Option<&Bound<'_, PyAny>>) {
        let transport = transport.map(Obj::from);
        let old = self.with(py, |state| {
            std::mem::replace(&mut state.transport, transport)
        });
        drop(old);
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(self.owner.as_py())?;
        self.state
            .try_look(|state| {
                [&state.waiter, &state.exception, &state.transport]
                    .into_iter()
                    .filter_map(Option::as_ref)
                    .chain(state.buffer.object())
                    .chain([&state.limit.given])
                    .try_for_each(|held| visit.call(held.as_py()))
            })
            .unwrap_or(Ok(()))
    }

    fn __clear__(&self, py: Python<'_>) {
        let taken = self.with(py, |state| {
            (
                state.waiter.take(),
                state.exception.take(),
                state.transport.take(),
            )
        });
        drop(taken);
    }
}

fn resume(py: Python<'_>, transport: &Obj) -> PyResult<()> {
    call_method(&transport.bind(py), intern!(py, "resume_reading"), []).map(drop)
}

/// The classes that a transport looks for, told by the Python face.
struct Classes {
    protocol: Py<PyAny>,
    adopt: Py<PyAny>,
}

static CLASSES: PyOnceLock<Classes> = PyOnceLock::new();

/// Tells which class is asyncio's plain stream protocol, and the function that gives the reader of such a one our
/// class.
#[pyfunction]
fn _set_stream_classes(py: Python<'_>, protocol: Py<PyAny>, adopt: Py<PyAny>) {
    // A second call comes from a module that was imported anew; the first classes stay.
    let _ = CLASSES.set(py, Classes { protocol, adopt });
}

/// Whether `protocol` does nothing but feed a reader of ours, after asyncio's reader was made one.
pub(crate) fn feeds_stream(protocol: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = protocol.py();
    let Some(classes) = CLASSES.get(py) else {
        return Ok(false);
    };
    if !protocol.get_type().is(&classes.protocol) {
        return Ok(false);
    }
    classes.adopt.bind(py).call1((protocol,))?.is_truthy()
}

/// The reader that such a protocol feeds just now; `None` if there is none any more.
#[inline]
pub(crate) fn fed_by<'py>(protocol: Ref<'_, 'py>) -> PyResult<Option<Bound<'py, Stream>>> {
    let py = protocol.py();
    let reference = protocol.getattr(intern!(py, "_stream_reader_wr"))?;
    if reference.is_none() {
        return Ok(None);
    }
    let mut reader = std::ptr::null_mut();
    // SAFETY: checked by CPython, which raises for what is no weak reference; a new reference or NULL.
    let reader = unsafe {
        if ffi::compat::PyWeakref_GetRef(reference.as_ptr(), &raw mut reader) < 0 {
            return Err(PyErr::fetch(py));
        }
        Bound::from_owned_ptr_or_opt(py, reader)
    };
    match reader {
        Some(reader) => Stream::of(reader.as_borrowed()).map(Some),
        None => Ok(None),
    }
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Stream>()?;
    module.add_function(wrap_pyfunction!(_set_stream_classes, module)?)?;
    awaitable::register(module)?;
    asyncmethod::register(module)?;
    methods::register(module)
}
