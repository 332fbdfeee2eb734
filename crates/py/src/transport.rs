//! `StreamTransport`: TCP and Unix stream sockets, with asyncio's transport contract.
//!
//! A subclass of `asyncio.Transport`, finished by the Python class `SocketTransport` (what is cold and reads
//! better there). Reading is in `read`, writing in `write`; here are its state and its life:
//!
//! `connect` or `accept` makes it and schedules `start` (`connection_made`, then reading begins) → readiness
//! arrives edge-triggered, on both sides, by one registration for the connection's whole life → `close`,
//! `abort` or an error schedules `lost` (`connection_lost`, the socket closed, the server told). Like
//! asyncio's, the schedule of `lost` happens once: `conn_lost` counts from then on.

mod read;
mod write;

use std::ffi::{c_int, c_void};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;

use pyo3::exceptions::{PyConnectionError, PyImportError, PyOSError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyType};
use pyo3::{ffi, intern};
use ropewalk_reactor::{Job, Token};
use ropewalk_sys::address::{self, Address};
use ropewalk_sys::poller::Readiness;
use ropewalk_sys::stream;

pub(crate) use self::read::ReadBuffer;
use self::write::Output;
use crate::call::{call_method, copy_context, in_context};
use crate::error::os_error;
use crate::eventloop::{Loop, Task};
use crate::guard::Guarded;
use crate::heap::{self, Arguments, Plan, RawType, Ref, Returned, getter, method};
use crate::object::Obj;
use crate::turn::report;

/// Room for an instance of asyncio's `_FlowControlMixin`, the transport that sendfile's fallback asks for: its
/// five slots behind the largest object header (32 bytes, free-threaded).
const HEADER: usize = 80;

#[repr(C)]
struct TransportObject {
    header: [u64; HEADER / 8],
    /// Boxed: NULL until the transport is made, which is before anybody sees it.
    body: Option<Box<Body>>,
}

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
enum Style {
    /// `data_received(bytes)`
    Data,
    /// `get_buffer(hint)`, `buffer_updated(count)`: asyncio.BufferedProtocol
    Buffer,
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
    drop(stream::set_nodelay(fd));
    let owner = slf.get();
    let task = Task::Io(transport.clone());
    match owner.reactor(py, |reactor| reactor.attach(fd, task))? {
        Ok(token) => transport
            .body()?
            .with(py, |state| state.token = Some(token)),
        Err((error, task)) => {
            drop::<Task>(task);
            let socket = transport.body()?.with(py, |state| {
                std::mem::replace(&mut state.socket, Socket::Closed)
            });
            drop(socket);
            return Err(os_error(py, &error));
        }
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

fn style_of(py: Python<'_>, protocol: &Obj) -> PyResult<Style> {
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
    } else {
        Style::Data
    })
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
    let (read, write) = body.with(py, |state| {
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
        (state.wants_read(), state.wants_write())
    });
    if read {
        read::once(slf, transport)?;
    }
    if write {
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

/// Makes the type.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    let base: Bound<'_, PyType> = py
        .import("asyncio.transports")?
        .getattr("_FlowControlMixin")?
        .cast_into()?;
    let mut methods = vec![
        method!(c"get_protocol", c"get_protocol($self)\n--\n\nReturn the current protocol.", noargs, get_protocol),
        method!(c"set_protocol", c"set_protocol($self, protocol)\n--\n\nSwitch to another protocol; it is not told of the connection.", one "protocol", set_protocol),
        method!(c"is_closing", c"is_closing($self)\n--\n\nReturn True if the transport is closing or closed.", noargs, is_closing),
        method!(c"is_reading", c"is_reading($self)\n--\n\nReturn True if the transport is receiving.", noargs, is_reading),
        method!(c"pause_reading", c"pause_reading($self)\n--\n\nPause receiving. The protocol gets no data until resume_reading(). Again is no error.", noargs, pause_reading),
        method!(c"resume_reading", c"resume_reading($self)\n--\n\nResume receiving. Again is no error.", noargs, resume_reading),
        method!(c"close", c"close($self)\n--\n\nClose the transport: what is buffered is sent, then the protocol's connection_lost(None) is called.", noargs, close),
        method!(c"abort", c"abort($self)\n--\n\nClose the transport at once. What is buffered is lost; connection_lost(None) is called.", noargs, abort),
        method!(c"_force_close", c"_force_close($self, exc)\n--\n\nInternal.", one "exc", force_close_with),
        method!(c"_fatal_error", c"_fatal_error($self, exc, message=\"Fatal error on transport\")\n--\n\nInternal.", keywords, fatal_error),
        method!(c"_abandon", c"_abandon($self)\n--\n\nInternal.", noargs, abandon),
        method!(c"_addresses", c"_addresses($self)\n--\n\nInternal.", noargs, addresses),
        method!(c"_suspend", c"_suspend($self)\n--\n\nInternal.", noargs, suspend),
        method!(c"_resume", c"_resume($self)\n--\n\nInternal.", noargs, resume),
        method!(c"_set_extra", c"_set_extra($self, extra)\n--\n\nInternal.", one "extra", set_extra),
    ];
    methods.extend(write::methods());
    let raw = RawType::new(
        &base,
        Plan {
            name: c"ropewalk._core.StreamTransport",
            doc: c"A stream socket on the reactor; see ropewalk.asyncio.SocketTransport.",
            header: HEADER,
            size: size_of::<TransportObject>(),
            subclassable: true,
            methods,
            getters: vec![
                getter!(c"_extra", extra),
                getter!(c"_sock", sock),
                getter!(c"_sock_fd", sock_fd),
                getter!(c"_loop", loop_of),
                getter!(c"_protocol", get_protocol),
                getter!(c"_closing", is_closing),
                getter!(c"_paused", is_paused),
                getter!(c"_conn_lost", conn_lost),
                getter!(c"_protocol_paused", protocol_paused),
                getter!(c"_is_open", is_open),
            ],
            dealloc,
            traverse,
            clear,
        },
    )?;
    module.add("StreamTransport", CLASS.get_or_init(|| raw).bind(py))
}

/// The transport that a method was called on.
#[inline]
fn this(object: Ref<'_, '_>) -> TransportRef {
    // SAFETY: CPython checked the type before it called the method; the object is alive.
    TransportRef(unsafe { Obj::from_borrowed(object.as_ptr()) })
}

/// Answers from the state.
#[inline]
fn look<R>(py: Python<'_>, object: Ref<'_, '_>, f: impl FnOnce(&mut State) -> R) -> PyResult<R> {
    Ok(this(object).body()?.with(py, f))
}

fn give(py: Python<'_>, object: Option<Obj>) -> Returned {
    object.map_or_else(|| heap::none(py), |object| Ok(object.into_ptr()))
}

fn get_protocol(py: Python<'_>, object: Ref<'_, '_>) -> Returned {
    give(py, look(py, object, |state| state.protocol.clone())?)
}

fn set_protocol(py: Python<'_>, object: Ref<'_, '_>, protocol: Ref<'_, '_>) -> Returned {
    // SAFETY: an argument of the call that is being served.
    let protocol = unsafe { Obj::from_borrowed(protocol.as_ptr()) };
    let style = style_of(py, &protocol)?;
    let old = look(py, object, |state| {
        state.style = style;
        state.protocol.replace(protocol)
    })?;
    drop(old);
    heap::none(py)
}

fn is_closing(py: Python<'_>, object: Ref<'_, '_>) -> Returned {
    heap::boolean(py, look(py, object, |state| state.closing)?)
}

fn is_reading(py: Python<'_>, object: Ref<'_, '_>) -> Returned {
    heap::boolean(
        py,
        look(py, object, |state| !state.closing && !state.paused)?,
    )
}

fn is_paused(py: Python<'_>, object: Ref<'_, '_>) -> Returned {
    heap::boolean(py, look(py, object, |state| state.paused)?)
}

fn is_open(py: Python<'_>, object: Ref<'_, '_>) -> Returned {
    let open = this(object)
        .body()
        .is_ok_and(|body| body.with(py, |state| !matches!(state.socket, Socket::Closed)));
    heap::boolean(py, open)
}

fn protocol_paused(py: Python<'_>, object: Ref<'_, '_>) -> Returned {
    heap::boolean(py, look(py, object, |state| state.protocol_paused)?)
}

fn conn_lost(py: Python<'_>, object: Ref<'_, '_>) -> Returned {
    let count = look(py, object, |state| state.conn_lost)?;
    Ok(count.into_pyobject(py)?.into_any().into_ptr())
}

fn sock_fd(py: Python<'_>, object: Ref<'_, '_>) -> Returned {
    let fd = this(object).body()?.fd;
    Ok(fd.into_pyobject(py)?.into_any().into_ptr())
}

/// The loop, or `None` once the connection is lost, as asyncio's transports answer.
fn loop_of(py: Python<'_>, object: Ref<'_, '_>) -> Returned {
    let transport = this(object);
    let body = transport.body()?;
    let open = body.with(py, |state| !matches!(state.socket, Socket::Closed));
    give(py, open.then(|| body.owner.clone()))
}

/// The Python socket, made now if nobody asked before; `None` once closed.
fn sock(py: Python<'_>, object: Ref<'_, '_>) -> Returned {
    let transport = this(object);
    let body = transport.body()?;
    let known = body.with(py, |state| match &state.socket {
        Socket::Python(sock) => Some(Some(sock.clone())),
        Socket::Bare(_) => None,
        Socket::Closed => Some(None),
    });
    if let Some(known) = known {
        return give(py, known);
    }
    // `socket.socket(fileno=...)` asks the kernel for family, type and protocol.
    let options = PyDict::new(py);
    options.set_item("fileno", body.fd)?;
    let made = py
        .import(intern!(py, "socket"))?
        .getattr(intern!(py, "socket"))?
        .call((), Some(&options))?;
    let ours: Obj = (&made).into();
    let before = body.with(py, |state| match state.socket {
        Socket::Bare(_) => std::mem::replace(&mut state.socket, Socket::Python(ours)),
        _ => Socket::Python(ours),
    });
    match before {
        // Now the Python socket owns the descriptor.
        Socket::Bare(fd) => {
            let _ = std::os::fd::IntoRawFd::into_raw_fd(fd);
            Ok(made.into_ptr())
        }
        // Somebody was faster: theirs owns it, ours must not close it.
        _ => {
            made.call_method0(intern!(py, "detach"))?;
            sock(py, object)
        }
    }
}

/// `get_extra_info`'s dictionary, made when first asked for.
fn extra(py: Python<'_>, object: Ref<'_, '_>) -> Returned {
    let transport = this(object);
    let body = transport.body()?;
    let (given, whole) = body.with(py, |state| (state.extra.clone(), state.extra_is_whole));
    if let (Some(extra), true) = (&given, whole) {
        return Ok(extra.clone().into_ptr());
    }
    let given = give(py, given)?;
    // SAFETY: an owned reference, just made.
    let given = unsafe { Bound::from_owned_ptr(py, given) };
    let made = transport
        .0
        .bind(py)
        .call_method1(intern!(py, "_make_extra"), (given,))?;
    let ours: Obj = (&made).into();
    let old = body.with(py, |state| {
        state.extra_is_whole = true;
        state.extra.replace(ours)
    });
    drop(old);
    Ok(made.into_ptr())
}

fn set_extra(py: Python<'_>, object: Ref<'_, '_>, extra: Ref<'_, '_>) -> Returned {
    // SAFETY: an argument of the call that is being served.
    let extra = unsafe { Obj::from_borrowed(extra.as_ptr()) };
    let old = look(py, object, |state| {
        state.extra_is_whole = true;
        state.extra.replace(extra)
    })?;
    drop(old);
    heap::none(py)
}

/// `(sockname, peername)` as the `socket` module shows them.
fn addresses(py: Python<'_>, object: Ref<'_, '_>) -> Returned {
    let (local, peer) = look(py, object, |state| {
        (state.local.clone(), state.peer.clone())
    })?;
    let pair = (
        crate::address::to_python(py, local)?,
        crate::address::to_python(py, peer)?,
    );
    Ok(pair.into_pyobject(py)?.into_any().into_ptr())
}

fn pause_reading(py: Python<'_>, object: Ref<'_, '_>) -> Returned {
    look(py, object, |state| state.paused |= !state.closing)?;
    heap::none(py)
}

fn resume_reading(py: Python<'_>, object: Ref<'_, '_>) -> Returned {
    let transport = this(object);
    let body = transport.body()?;
    let resumed = body.with(py, |state| {
        let resumed = state.paused && !state.closing;
        state.paused &= !resumed;
        resumed
    });
    if resumed {
        read::go_on(&transport.owner(py)?, &transport)?;
    }
    heap::none(py)
}

fn close(py: Python<'_>, object: Ref<'_, '_>) -> Returned {
    let transport = this(object);
    let body = transport.body()?;
    let ends_now = body.with(py, |state| {
        if state.closing {
            return false;
        }
        state.closing = true;
        let ends_now = state.output.is_empty();
        if ends_now {
            state.conn_lost += 1;
        }
        ends_now
    });
    if ends_now {
        transport
            .owner(py)?
            .get()
            .enqueue(py, Task::Lost(transport.clone()))?;
    }
    heap::none(py)
}

fn abort(py: Python<'_>, object: Ref<'_, '_>) -> Returned {
    let transport = this(object);
    force_close(&transport.owner(py)?, &transport, None)?;
    heap::none(py)
}

fn force_close_with(py: Python<'_>, object: Ref<'_, '_>, because: Ref<'_, '_>) -> Returned {
    let transport = this(object);
    // SAFETY: an argument of the call that is being served.
    let because = (!because.is_none()).then(|| unsafe { Obj::from_borrowed(because.as_ptr()) });
    force_close(&transport.owner(py)?, &transport, because)?;
    heap::none(py)
}

/// `_fatal_error(exc, message='Fatal error on transport')`, which sslproto calls.
fn fatal_error(py: Python<'_>, object: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    let transport = this(object);
    // SAFETY: arguments of the call that is being served.
    let mut values = given
        .all()
        .iter()
        .map(|value| unsafe { crate::call::borrowed(py, *value) });
    let error = values.next().ok_or_else(|| {
        pyo3::exceptions::PyTypeError::new_err("_fatal_error() needs an exception")
    })?;
    let message = match values.next() {
        Some(message) => message.extract::<String>()?,
        None => "Fatal error on transport".to_owned(),
    };
    fatal(
        &transport.owner(py)?,
        &transport,
        &message,
        PyErr::from_value(error.to_owned()),
    )?;
    heap::none(py)
}

/// Closes the socket of a transport that nobody holds any more, without a word to its protocol.
fn abandon(py: Python<'_>, object: Ref<'_, '_>) -> Returned {
    release(py, &this(object))?;
    heap::none(py)
}

/// Takes the descriptor out of the reactor for a while: sendfile watches it itself.
fn suspend(py: Python<'_>, object: Ref<'_, '_>) -> Returned {
    let transport = this(object);
    let body = transport.body()?;
    if let Some(token) = body.with(py, |state| state.token.take()) {
        let task = Loop::from_obj(py, &body.owner).reactor(py, |reactor| reactor.detach(token))?;
        drop(task);
    }
    heap::none(py)
}

/// Registers the descriptor again. A fresh registration reports what is ready as an edge.
fn resume(py: Python<'_>, object: Ref<'_, '_>) -> Returned {
    let transport = this(object);
    let body = transport.body()?;
    let wanted = body.with(py, |state| {
        state.token.is_none() && !matches!(state.socket, Socket::Closed)
    });
    if wanted {
        let task = Task::Io(transport.clone());
        match Loop::from_obj(py, &body.owner)
            .reactor(py, |reactor| reactor.attach(body.fd, task))?
        {
            Ok(token) => body.with(py, |state| state.token = Some(token)),
            Err((error, task)) => {
                drop::<Task>(task);
                return Err(os_error(py, &error));
            }
        }
    }
    heap::none(py)
}

/// Puts a job of this transport behind what is ready.
fn again(slf: &Bound<'_, Loop>, transport: &TransportRef, readiness: Readiness) -> PyResult<()> {
    let job = Job {
        handle: Task::Io(transport.clone()),
        readiness,
    };
    slf.get().reactor(slf.py(), |reactor| reactor.push_job(job))
}

unsafe extern "C" fn dealloc(object: *mut ffi::PyObject) {
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

unsafe extern "C" fn traverse(
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

unsafe extern "C" fn clear(object: *mut ffi::PyObject) -> c_int {
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
