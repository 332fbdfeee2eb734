//! TLS: the hot half of asyncio's `SSLProtocol`.
//!
//! The class `Tls` is the base of the Python class `TLSProtocol`, whose other base is CPython's own `SSLProtocol`.
//! That one shakes hands, shuts down, keeps the timeouts and reports errors; this one moves the bytes in between,
//! and keeps the state that both look at: CPython's attributes (`_state`, `_app_reading_paused`, ...) are properties
//! of ours, so that its methods and these read and write the same fields.
//!
//! Reading: the socket's transport hands ciphertext to [`feed`] where it lies, the [`Engine`] decrypts it into the
//! bytes object or the buffer that the protocol gets, and what a paused protocol does not want yet goes to the
//! incoming memory BIO, as CPython's code would have it. Writing: [`send::write`] encrypts at once and hands the ciphertext
//! to the socket's transport, until that one says that it has enough; from then on plaintext waits in
//! `_write_backlog`, unencrypted, and is encrypted when there is room for it.
//!
//! Reading is in `receive`, writing in `send`, what Python sees in `attributes` and `transport`, the engine in `engine`
//! with `openssl` and `bio` below it, memory that connections share in `buffers`.

mod attributes;
mod bio;
mod buffers;
mod engine;
mod openssl;
mod receive;
mod send;
mod transport;

use std::sync::OnceLock;

use pyo3::exceptions::PyException;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

pub(crate) use self::buffers::with_input;
use self::engine::Engine;
pub(crate) use self::receive::feed;
pub(crate) use self::transport::{flows, register};
use crate::call::call_method;
use crate::guard::Guarded;
use crate::object::Obj;
use crate::transport::{Style, TransportRef};

/// Plaintext of one record, at most.
const RECORD: usize = 16 * 1024;

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
    /// Somebody works on the session: a callback of OpenSSL's, or another thread, must not do so meanwhile.
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

impl State {
    /// Whether what is written has to wait.
    #[inline]
    fn waits(&self) -> bool {
        self.lower_writing_paused || self.waiting > 0 || self.busy
    }
}

impl Tls {
    #[inline]
    fn with<R>(&self, py: Python<'_>, f: impl FnOnce(&mut State) -> R) -> R {
        self.state.with(py, f)
    }

    /// Works on the session, unless somebody does already: `None` then.
    #[inline]
    fn exclusively<R>(&self, py: Python<'_>, f: impl FnOnce() -> R) -> Option<R> {
        /// Also when `f` panics.
        struct Claim<'a, 'py>(&'a Tls, Python<'py>);
        impl Drop for Claim<'_, '_> {
            fn drop(&mut self) {
                self.0.with(self.1, |state| state.busy = false);
            }
        }
        if self.with(py, |state| std::mem::replace(&mut state.busy, true)) {
            return None;
        }
        let _claim = Claim(self, py);
        Some(f())
    }
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
