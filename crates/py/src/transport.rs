//! `StreamTransport`: TCP and Unix stream sockets, with asyncio's transport contract.
//!
//! A subclass of `asyncio.Transport`, finished by the Python class `SocketTransport` (what is cold and reads
//! better there). Reading is in `read`, writing in `write`, what Python calls in `methods`, the object's layout in
//! `object`; here are its state and its life:
//!
//! `connect` or `accept` makes it and schedules `start` (`connection_made`, then reading begins) → readiness
//! arrives edge-triggered, on both sides, by one registration for the connection's whole life → `close`,
//! `abort` or an error schedules `lost` (`connection_lost`, the socket closed, the server told). Like
//! asyncio's, the schedule of `lost` happens once: `conn_lost` counts from then on.

pub(crate) mod deliver;
mod methods;
mod object;
mod read;
mod write;

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;

use pyo3::exceptions::{PyConnectionError, PyImportError, PyOSError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyType};
use pyo3::{ffi, intern};
use ropewalk_reactor::{Job, Token};
use ropewalk_sys::address::{self, Address};
use ropewalk_sys::poller::Readiness;
use ropewalk_sys::stream as socket;

pub(crate) use self::methods::register;
use self::object::TransportObject;
pub(crate) use self::read::ReadBuffer;
use self::write::Output;
pub(crate) use self::write::write;
use crate::call::{call_method, copy_context, in_context};
use crate::error::os_error;
use crate::eventloop::{Loop, Task};
use crate::guard::Guarded;
use crate::heap::{RawType, Ref};
use crate::object::Obj;
use crate::stream;
use crate::tls::Tls;
use crate::turn::report;

/// A transport's Rust half.
pub(crate) struct Body {
    owner: Obj,
    /// Every call of the protocol is made in this context.
    context: Obj,
    fd: RawFd,
    state: Guarded<State>,
}

/// How the protocol takes bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// `data_received(bytes)`
    Data,
    /// `get_buffer(hint)`, `buffer_updated(count)`: asyncio.BufferedProtocol
    Buffer,
    /// What `data_received` of asyncio's StreamReaderProtocol would do, without calling it
    Stream,
    /// A TLS session of ours, which takes ciphertext where it lies.
    Tls,
}

/// What keeps the descriptor open.
enum Socket {
    /// A Python socket, closed by its own method.
    Python(Obj),
    /// A descriptor that no Python object has seen yet.
    Bare(OwnedFd),
    Closed,
}

#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a documented state of the transport's contract"
)]
struct State {
    socket: Socket,
    token: Option<Token>,
    protocol: Option<Obj>,
    style: Style,
    server: Option<Obj>,
    waiter: Option<Obj>,
    /// What the maker knew of the connection, then the whole of `get_extra_info` once it was asked for.
    extra: Option<Obj>,
    extra_is_whole: bool,
    local: Option<Address>,
    peer: Option<Address>,

    /// `connection_made` has been called.
    started: bool,
    /// `pause_reading()`
    paused: bool,
    /// The peer ended its stream.
    read_eof: bool,
    /// An edge said so and no read has found otherwise since.
    readable: bool,
    /// The peer hung up: reads go on until they meet its end.
    hangup: bool,
    /// The last read filled the buffer: the next goes straight into a bytes object.
    bulk: bool,

    output: Output,
    /// An edge said so and no write has found otherwise since.
    writable: bool,
    high: usize,
    low: usize,
    /// `pause_writing()` was the last that the protocol heard.
    protocol_paused: bool,
    /// `write_eof()`
    eof: bool,
    /// sendfile waits for the output to be written.
    empty_waiter: Option<Obj>,

    closing: bool,
    /// 1 when `connection_lost` is scheduled; later writes count on, for the log.
    conn_lost: u32,
    lost_because: Option<Obj>,
}

/// A reference to a transport.
#[derive(Clone, Debug)]
pub(crate) struct TransportRef(Obj);

static CLASS: OnceLock<RawType> = OnceLock::new();

impl TransportRef {
    /// `object` as a transport, if it is one of ours.
    pub(crate) fn from_object(object: &Bound<'_, PyAny>) -> Option<Self> {
        let class = CLASS.get()?.as_ptr();
        // SAFETY: live objects, the second a type.
        let ours = unsafe { ffi::PyObject_TypeCheck(object.as_ptr(), class) != 0 };
        ours.then(|| Self(object.into()))
    }

    /// Sends bytes as `write()` does, without an object: what the socket does not take is copied to the queue.
    /// `false` if the connection is lost.
    #[inline]
    pub(crate) fn send(&self, py: Python<'_>, bytes: &[u8]) -> PyResult<bool> {
        write::send(py, self, bytes)
    }

    pub(crate) fn as_obj(&self) -> &Obj {
        &self.0
    }

    #[inline]
    fn body(&self) -> PyResult<&Body> {
        // SAFETY: an instance by construction; the body never changes once written, and lives as long as the
        // object, to which we hold a reference.
        unsafe { (*self.0.as_ptr().cast::<TransportObject>()).body.as_deref() }
            .ok_or_else(|| PyRuntimeError::new_err("the transport was never connected"))
    }

    /// Neither closed nor about to be.
    pub(crate) fn is_open(&self, py: Python<'_>) -> bool {
        let open = |state: &mut State| !state.closing && state.conn_lost == 0;
        self.body().is_ok_and(|body| body.with(py, open))
    }

    #[inline]
    fn owner<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, Loop>> {
        let owner = self.body()?.owner.bind(py).to_owned();
        // SAFETY: owners are loops by construction.
        Ok(unsafe { owner.cast_into_unchecked() })
    }
}

impl Body {
    #[inline]
    fn with<R>(&self, py: Python<'_>, f: impl FnOnce(&mut State) -> R) -> R {
        self.state.with(py, f)
    }
}

/// Makes a transport, registers its descriptor and schedules its start.
#[expect(clippy::too_many_arguments, reason = "what a connection is made of")]
fn make<'py>(
    slf: &Bound<'py, Loop>,
    class: &Bound<'py, PyType>,
    socket: Socket,
    fd: RawFd,
    protocol: Obj,
    waiter: Option<Obj>,
    extra: Option<Obj>,
    server: Option<Obj>,
    context: Obj,
) -> PyResult<TransportRef> {
    let py = slf.py();
    let raw = CLASS
        .get()
        .ok_or_else(|| PyImportError::new_err("ropewalk._core is not initialised"))?;
    if !class.is_subclass(&raw.bind(py))? {
        return Err(PyRuntimeError::new_err(
            "a transport's class derives from ropewalk._core.StreamTransport",
        ));
    }
    let style = style_of(py, &protocol)?;
    let body = Body {
        owner: slf.as_any().into(),
        context,
        fd,
        state: Guarded::new(State {
            local: address::local(fd).ok(),
            peer: address::peer(fd).ok(),
            socket,
            token: None,
            protocol: Some(protocol),
            style,
            server: server.clone(),
            waiter,
            extra,
            extra_is_whole: false,
            started: false,
            paused: false,
            read_eof: false,
            readable: false,
            hangup: false,
            bulk: false,
            output: Output::default(),
            writable: true,
            high: 64 * 1024,
            low: 16 * 1024,
            protocol_paused: false,
            eof: false,
            empty_waiter: None,
            closing: false,
            conn_lost: 0,
            lost_because: None,
        }),
    };
    // SAFETY: a ready heap type has an allocator; what it returns is zeroed, and a zeroed body is `None`
    // (a null box), so whoever sees the object from here on sees it whole.
    let transport = unsafe {
        let object = ffi::PyType_GenericAlloc(class.as_type_ptr(), 0);
        let transport = TransportRef(Obj::from_owned(object).ok_or_else(|| PyErr::fetch(py))?);
        (*object.cast::<TransportObject>()).body = Some(Box::new(body));
        transport
    };
    // Small writes leave at once, without waiting for the last one's acknowledgement. Not TCP: no matter.
    drop(socket::set_nodelay(fd));
    let owner = slf.get();
    if let Err(error) = attach(py, &transport) {
        let socket = transport.body()?.with(py, |state| {
            std::mem::replace(&mut state.socket, Socket::Closed)
        });
        drop(socket);
        return Err(error);
    }
    if let Some(server) = server
        && let Err(error) = call_method(
            &transport.0.bind(py),
            intern!(py, "_attach_to"),
            [&server.bind(py)],
        )
    {
        release(py, &transport)?;
        return Err(error);
    }
    owner.reactor(py, |reactor| reactor.push(Task::Start(transport.clone())))?;
    Ok(transport)
}

/// Registers the descriptor, for both directions and for as long as the connection lives.
fn attach(py: Python<'_>, transport: &TransportRef) -> PyResult<()> {
    let body = transport.body()?;
    let task = Task::Io(transport.clone());
    match Loop::from_obj(py, &body.owner).reactor(py, |reactor| reactor.attach(body.fd, task))? {
        Ok(token) => {
            body.with(py, |state| state.token = Some(token));
            Ok(())
        }
        Err((error, task)) => {
            drop::<Task>(task);
            Err(os_error(py, &error))
        }
    }
}

pub(crate) fn style_of(py: Python<'_>, protocol: &Obj) -> PyResult<Style> {
    if protocol.bind(py).is_instance_of::<Tls>() {
        return Ok(Style::Tls);
    }
    static BUFFERED: pyo3::sync::PyOnceLock<Py<PyAny>> = pyo3::sync::PyOnceLock::new();
    let buffered = BUFFERED.get_or_try_init(py, || {
        PyResult::Ok(
            py.import("asyncio.protocols")?
                .getattr("BufferedProtocol")?
                .unbind(),
        )
    })?;
    Ok(if protocol.bind(py).is_instance(buffered.bind(py))? {
        Style::Buffer
    } else if stream::feeds_stream(&protocol.bind(py))? {
        Style::Stream
    } else {
        Style::Data
    })
}

/// Whether the object is one of these transports.
#[inline]
pub(crate) fn is_native(object: Ref<'_, '_>) -> bool {
    // SAFETY: live objects; compared by type, then by CPython's rules for subclasses.
    CLASS.get().is_some_and(|class| unsafe {
        ffi::PyObject_TypeCheck(object.as_ptr(), class.as_ptr()) != 0
    })
}

/// Whether bytes flow: the transport is not closing, and its protocol was not told to pause. `None` if it is not
/// one of these transports.
#[inline]
pub(crate) fn flows(object: Ref<'_, '_>) -> Option<bool> {
    if !is_native(object) {
        return None;
    }
    methods::look(object.py(), object, |state| {
        !state.closing && !state.protocol_paused && state.conn_lost == 0
    })
    .ok()
}

/// A transport on a connected Python socket.
#[expect(
    clippy::too_many_arguments,
    reason = "asyncio's own constructor takes these"
)]
pub(crate) fn connect<'py>(
    slf: &Bound<'py, Loop>,
    class: &Bound<'py, PyType>,
    sock: &Bound<'py, PyAny>,
    protocol: &Bound<'py, PyAny>,
    waiter: Option<&Bound<'py, PyAny>>,
    extra: Option<&Bound<'py, PyDict>>,
    server: Option<&Bound<'py, PyAny>>,
    context: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = slf.py();
    let fd = crate::watch::number(sock)?;
    let context = match context {
        Some(context) => context.into(),
        None => copy_context(py)?,
    };
    let transport = make(
        slf,
        class,
        Socket::Python(sock.into()),
        fd,
        protocol.into(),
        waiter.map(Obj::from),
        extra.map(Obj::from),
        server.map(Obj::from),
        context,
    )?;
    Ok(transport.0.into_bound(py))
}

/// A transport on a connection that the reactor accepted.
pub(crate) fn accepted<'py>(
    slf: &Bound<'py, Loop>,
    class: &Bound<'py, PyType>,
    connection: OwnedFd,
    protocol: Obj,
    server: Option<Obj>,
    context: Obj,
) -> PyResult<()> {
    let fd = connection.as_raw_fd();
    make(
        slf,
        class,
        Socket::Bare(connection),
        fd,
        protocol,
        None,
        None,
        server,
        context,
    )
    .map(drop)
}

/// The job `Start`. Whatever the protocol raises, reading begins and the waiter is told.
pub(crate) fn start(slf: &Bound<'_, Loop>, transport: &TransportRef) -> PyResult<()> {
    let py = slf.py();
    let body = transport.body()?;
    let (protocol, waiter) = body.with(py, |state| (state.protocol.clone(), state.waiter.take()));
    let made = protocol.map_or(Ok(()), |protocol| {
        in_context(py, &body.context, || {
            call_method(
                &protocol.bind(py),
                intern!(py, "connection_made"),
                [&transport.0.bind(py)],
            )
            .map(drop)
        })
    });
    let told = made.or_else(|error| {
        complain(
            slf,
            transport,
            "Exception in protocol.connection_made()",
            error,
        )
    });
    body.with(py, |state| state.started = true);
    // Only now may the one who waits for the connection go on.
    let woken = waiter.map_or(Ok(()), |waiter| {
        settle(py, &waiter, intern!(py, "set_result"), &py.None())
    });
    let reads = read::go_on(slf, transport);
    told.and(woken).and(reads)
}

/// Gives a future its result or exception, unless it is done or cancelled already.
fn settle(
    py: Python<'_>,
    future: &Obj,
    how: &Bound<'_, PyString>,
    value: &Py<PyAny>,
) -> PyResult<()> {
    let future = future.bind(py);
    if !call_method(&future, intern!(py, "done"), [])?.is_truthy()? {
        call_method(&future, how, [value.bind(py)])?;
    }
    Ok(())
}

/// The job `Io`.
#[inline]
pub(crate) fn ready(
    slf: &Bound<'_, Loop>,
    transport: &TransportRef,
    readiness: Readiness,
) -> PyResult<()> {
    let py = slf.py();
    let body = transport.body()?;
    let read = body.with(py, |state| {
        if readiness.readable() {
            state.readable = true;
            state.hangup |= readiness.intersects(
                Readiness::READ_CLOSED
                    .union(Readiness::HANGUP)
                    .union(Readiness::ERROR),
            );
        }
        if readiness.writable() {
            state.writable = true;
        }
        state.wants_read()
    });
    if read {
        read::once(slf, transport)?;
    }
    // Asked after the read, which may have ended the connection: a protocol that waits for room must not hear then
    // that there is some.
    if body.with(py, |state| state.wants_write()) {
        write::flush(slf, transport)?;
    }
    Ok(())
}

impl State {
    #[inline]
    fn wants_read(&self) -> bool {
        self.readable
            && self.started
            && !self.paused
            && !self.closing
            && !self.read_eof
            && self.conn_lost == 0
            && self.empty_waiter.is_none()
    }

    #[inline]
    fn wants_write(&self) -> bool {
        self.writable && self.conn_lost == 0 && !self.output.is_empty()
    }
}

/// Schedules the end: `connection_lost(because)`. Only the first call counts.
fn force_close(
    slf: &Bound<'_, Loop>,
    transport: &TransportRef,
    because: Option<Obj>,
) -> PyResult<()> {
    let py = slf.py();
    let dropped = transport.body()?.with(py, |state| {
        if state.conn_lost > 0 {
            return Err(because);
        }
        state.conn_lost = 1;
        state.closing = true;
        state.lost_because = because;
        Ok(state.output.clear())
    });
    match dropped {
        Ok(output) => {
            drop(output);
            slf.get().enqueue(py, Task::Lost(transport.clone()))
        }
        Err(because) => {
            drop(because);
            Ok(())
        }
    }
}

/// An error that ends the connection: reported if it is not the network's, then `connection_lost` gets it.
#[cold]
fn fatal(
    slf: &Bound<'_, Loop>,
    transport: &TransportRef,
    message: &str,
    error: PyErr,
) -> PyResult<()> {
    let py = slf.py();
    let value: Obj = error.value(py).into();
    if error.is_instance_of::<PyOSError>(py) {
        if slf.get().debug() {
            let log = intern!(py, "_log_transport_error");
            slf.call_method1(log, (transport.0.bind(py), message, value.bind(py)))?;
        }
    } else {
        complain(slf, transport, message, error)?;
    }
    force_close(slf, transport, Some(value))
}

/// Tells the loop's exception handler about `transport`.
#[cold]
fn complain(
    slf: &Bound<'_, Loop>,
    transport: &TransportRef,
    message: &str,
    error: PyErr,
) -> PyResult<()> {
    let py = slf.py();
    let protocol = transport.body()?.with(py, |state| state.protocol.clone());
    let mut about = vec![("transport", transport.0.bind(py).to_owned())];
    if let Some(protocol) = protocol {
        about.push(("protocol", protocol.into_bound(py)));
    }
    report(slf, message, error, &about)
}

/// The job `Lost`.
pub(crate) fn lost(slf: &Bound<'_, Loop>, transport: &TransportRef) -> PyResult<()> {
    let py = slf.py();
    let body = transport.body()?;
    let (protocol, because) = body.with(py, |state| {
        (state.protocol.clone(), state.lost_because.take())
    });
    let said = match protocol {
        Some(protocol) => in_context(py, &body.context, || {
            let because =
                because.map_or_else(|| py.None().into_bound(py), |error| error.into_bound(py));
            call_method(
                &protocol.bind(py),
                intern!(py, "connection_lost"),
                [&because],
            )
            .map(drop)
        }),
        None => Ok(()),
    };
    let told = match said {
        Ok(()) => Ok(()),
        Err(error) => complain(
            slf,
            transport,
            "Exception in protocol.connection_lost()",
            error,
        ),
    };
    let waiter = body.with(py, |state| state.empty_waiter.take());
    let released = release(py, transport);
    let failed = waiter.map_or(Ok(()), |waiter| {
        let error = PyConnectionError::new_err("Connection is closed by peer").into_value(py);
        settle(py, &waiter, intern!(py, "set_exception"), &error.into_any())
    });
    told.and(released).and(failed)
}

/// Lets go of the descriptor, the protocol and the server. Harmless when done already.
fn release(py: Python<'_>, transport: &TransportRef) -> PyResult<()> {
    let body = transport.body()?;
    let (token, socket, protocol, server, output) = body.with(py, |state| {
        state.closing = true;
        state.conn_lost = state.conn_lost.max(1);
        (
            state.token.take(),
            std::mem::replace(&mut state.socket, Socket::Closed),
            state.protocol.take(),
            state.server.take(),
            state.output.clear(),
        )
    });
    if let Some(token) = token {
        // A closed loop has forgotten the registration with all others.
        let task = Loop::from_obj(py, &body.owner)
            .reactor(py, |reactor| reactor.detach(token))
            .ok()
            .flatten();
        drop(task);
    }
    drop((protocol, output));
    let closed = match socket {
        Socket::Python(sock) => call_method(&sock.bind(py), intern!(py, "close"), []).map(drop),
        Socket::Bare(fd) => {
            drop(fd);
            Ok(())
        }
        Socket::Closed => Ok(()),
    };
    if let Some(server) = server {
        call_method(
            &transport.0.bind(py),
            intern!(py, "_detach_from"),
            [&server.bind(py)],
        )?;
    }
    closed
}

/// Puts a job of this transport behind what is ready.
fn again(slf: &Bound<'_, Loop>, transport: &TransportRef, readiness: Readiness) -> PyResult<()> {
    let job = Job {
        handle: Task::Io(transport.clone()),
        readiness,
    };
    slf.get().reactor(slf.py(), |reactor| reactor.push_job(job))
}
