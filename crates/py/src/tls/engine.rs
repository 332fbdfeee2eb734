//! What encrypts and decrypts, of two kinds with one contract: OpenSSL itself, and Python's `ssl.SSLObject`.
//!
//! The contract: [`Engine::lending`] gives ciphertext for some reads and puts what they leave where Python's own code
//! looks for it, into the incoming memory BIO. [`Engine::read`] gives plaintext, one record at most. [`Engine::write`] appends ciphertext to the caller's buffer; what OpenSSL wants to
//! say on its own (answers to a key update, alerts) goes to the outgoing memory BIO and is fetched by
//! [`Engine::take_output`].
//!
//! The interpreter stays attached during all of this. Letting go of it and taking it back costs 80 ns, a few percent
//! of a small message, and a call lasts from a third of a microsecond to some thirty: as long as any callback does. No
//! gain from letting go could be measured, with a thread that computes or without.

use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::ptr;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::sync::critical_section::with_critical_section;
use pyo3::types::PyBytes;
use pyo3::{ffi, intern};

use super::RECORD;
use super::bio::Lender;
use super::openssl::{
    self, Bio, ERROR_WANT_READ, ERROR_WANT_WRITE, ERROR_ZERO_RETURN, Functions, RECEIVED_SHUTDOWN,
    Ssl,
};
use crate::call::call_method;
use crate::object::Obj;

/// How a read or a write ended.
pub(super) enum Outcome {
    /// So many bytes.
    Done(usize),
    /// Not without more from the peer.
    Again,
    /// The peer has said that it is done: `close_notify`.
    End,
    Failed(PyErr),
}

pub(super) enum Engine {
    Direct(Direct),
    Memory(Memory),
}

impl Engine {
    /// An engine for a session that has shaken hands.
    pub(super) fn new(
        py: Python<'_>,
        sslobj: &Bound<'_, PyAny>,
        incoming: &Bound<'_, PyAny>,
        outgoing: &Bound<'_, PyAny>,
        wants_direct: bool,
    ) -> PyResult<Self> {
        if wants_direct
            && !has_callbacks(&sslobj.getattr(intern!(py, "context"))?)?
            && let Some(direct) = Direct::new(py, &sslobj.getattr(intern!(py, "_sslobj"))?)
        {
            return Ok(Self::Direct(direct));
        }
        Ok(Self::Memory(Memory {
            sslobj: sslobj.into(),
            incoming: incoming.into(),
            outgoing: outgoing.into(),
        }))
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Direct(_) => "openssl",
            Self::Memory(_) => "memory",
        }
    }

    /// For the garbage collector.
    pub(super) fn objects(&self) -> [Option<&Obj>; 3] {
        match self {
            Self::Direct(this) => [Some(&this.object), None, None],
            Self::Memory(this) => [
                Some(&this.sslobj),
                Some(&this.incoming),
                Some(&this.outgoing),
            ],
        }
    }

    /// Lends ciphertext to the reads that `f` makes, behind what there was, and keeps what they leave.
    ///
    /// `f` runs no Python code but what OpenSSL's callbacks are.
    #[inline]
    pub(super) fn lending<R>(
        &self,
        py: Python<'_>,
        input: &[u8],
        f: impl FnOnce() -> R,
    ) -> PyResult<R> {
        match self {
            Self::Direct(this) => this.lending(py, input, f),
            Self::Memory(this) => {
                this.keep(py, input)?;
                Ok(f())
            }
        }
    }

    /// Keeps ciphertext for later, in the incoming memory BIO.
    #[inline]
    pub(super) fn keep(&self, py: Python<'_>, input: &[u8]) -> PyResult<()> {
        if input.is_empty() {
            return Ok(());
        }
        match self {
            Self::Direct(this) => this.keep(py, input),
            Self::Memory(this) => this.keep(py, input),
        }
    }

    /// Ciphertext that was not read yet, in bytes.
    pub(super) fn unread(&self, py: Python<'_>) -> PyResult<usize> {
        match self {
            Self::Direct(this) => Ok(this.reads().left() + this.pending(py, this.incoming)),
            Self::Memory(this) => pending(py, &this.incoming),
        }
    }

    /// Plaintext that was decrypted and not read yet, in bytes.
    pub(super) fn decrypted(&self, py: Python<'_>) -> PyResult<usize> {
        match self {
            Self::Direct(this) => {
                // SAFETY: a live session.
                let count = this.locked(py, || unsafe {
                    (this.functions.SSL_pending)(this.ssl.as_ptr())
                });
                Ok(usize::try_from(count).unwrap_or(0))
            }
            Self::Memory(this) => {
                call_method(&this.sslobj.bind(py), intern!(py, "pending"), [])?.extract()
            }
        }
    }

    /// Ciphertext in the outgoing memory BIO, in bytes.
    #[inline]
    pub(super) fn unsent(&self, py: Python<'_>) -> PyResult<usize> {
        match self {
            Self::Direct(this) => Ok(this.pending(py, this.outgoing)),
            Self::Memory(this) => pending(py, &this.outgoing),
        }
    }

    /// Decrypts to `place`: no more than fits, and one record at most.
    #[inline]
    pub(super) fn read(&self, py: Python<'_>, place: &mut [MaybeUninit<u8>]) -> Outcome {
        match self {
            Self::Direct(this) => this.read(py, place),
            Self::Memory(this) => this.read(py, place),
        }
    }

    /// Encrypts `bytes` and appends them to `output`.
    #[inline]
    pub(super) fn write(&self, py: Python<'_>, bytes: &[u8], output: &mut Vec<u8>) -> Outcome {
        match self {
            Self::Direct(this) => this.write(py, bytes, output),
            Self::Memory(this) => this.write(py, bytes, output),
        }
    }

    /// Moves up to `limit` bytes out of the outgoing memory BIO to the end of `output`.
    pub(super) fn take_output(
        &self,
        py: Python<'_>,
        limit: usize,
        output: &mut Vec<u8>,
    ) -> PyResult<()> {
        match self {
            Self::Direct(this) => {
                this.take_output(py, limit, output);
                Ok(())
            }
            Self::Memory(this) => this.take_output(py, limit, output),
        }
    }
}

/// Whether the context has callbacks whose exceptions only `_ssl`'s own methods pass on.
fn has_callbacks(context: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = context.py();
    let set = |name| PyResult::Ok(!context.getattr(name)?.is_none());
    Ok(set(intern!(py, "_msg_callback"))? || set(intern!(py, "keylog_filename"))?)
}

/// OpenSSL on the session inside an `_ssl._SSLSocket`.
pub(super) struct Direct {
    functions: &'static Functions,
    /// The object that owns the session, and by way of it the filters, their lenders and the memory BIOs.
    object: Obj,
    ssl: Ssl,
    reads: *const Lender,
    writes: *const Lender,
    incoming: Bio,
    outgoing: Bio,
}

// SAFETY: the session is used by one thread at a time: the one that holds the GIL or, free-threaded, the object's
// critical section; and by the contract of asyncio's transports only the event loop's thread uses it at all.
unsafe impl Send for Direct {}
// SAFETY: as above.
unsafe impl Sync for Direct {}

impl Direct {
    fn new(py: Python<'_>, object: &Bound<'_, PyAny>) -> Option<Self> {
        let (functions, ssl) = openssl::session(py, object)?;
        let session = ssl.as_ptr();
        // SAFETY: a live session, made on two memory BIOs by `wrap_bio`. `before` takes a reference to the BIO, so
        // one is made for it; `SSL_set0_*` takes the filter and lets go of the one before.
        unsafe {
            // With a read ahead, what is lent would hide in the session, where nobody sees it.
            if (functions.SSL_get_read_ahead)(session) != 0 {
                return None;
            }
            let incoming = (functions.SSL_get_rbio)(session);
            let outgoing = (functions.SSL_get_wbio)(session);
            if incoming.is_null() || outgoing.is_null() {
                return None;
            }
            let (reading, reads) = Lender::before(py, functions, incoming)?;
            let Some((writing, writes)) = Lender::before(py, functions, outgoing) else {
                (functions.BIO_free)(reading);
                return None;
            };
            (functions.BIO_up_ref)(incoming);
            (functions.BIO_up_ref)(outgoing);
            (functions.SSL_set0_rbio)(session, reading);
            (functions.SSL_set0_wbio)(session, writing);
            Some(Self {
                functions,
                object: object.into(),
                ssl,
                reads,
                writes,
                incoming,
                outgoing,
            })
        }
    }

    #[inline]
    fn reads(&self) -> &Lender {
        // SAFETY: the filter lives as long as the session, which `object` keeps.
        unsafe { &*self.reads }
    }

    #[inline]
    fn writes(&self) -> &Lender {
        // SAFETY: as above.
        unsafe { &*self.writes }
    }

    /// Runs `f` while no other thread is in a call on the session, of ours or of `_ssl`'s own.
    #[inline]
    fn locked<R>(&self, py: Python<'_>, f: impl FnOnce() -> R) -> R {
        with_critical_section(&self.object.bind(py), f)
    }

    #[inline]
    fn pending(&self, py: Python<'_>, memory: Bio) -> usize {
        // SAFETY: a live BIO.
        self.locked(py, || unsafe { (self.functions.BIO_ctrl_pending)(memory) })
    }

    #[inline]
    fn lending<R>(&self, py: Python<'_>, input: &[u8], f: impl FnOnce() -> R) -> PyResult<R> {
        /// Ends the loan, also when `f` panics.
        struct Loan<'a>(&'a Lender);
        impl Drop for Loan<'_> {
            fn drop(&mut self) {
                self.0.take_input_back();
            }
        }
        let older = self.pending(py, self.incoming) > 0;
        // SAFETY: the bytes are the caller's for longer than the loan.
        unsafe { self.reads().lend_input(input, older) };
        let loan = Loan(self.reads());
        let result = f();
        let left = self.reads().left();
        drop(loan);
        if left > 0 {
            self.keep(py, &input[input.len() - left..])?;
        }
        Ok(result)
    }

    #[cold]
    fn keep(&self, py: Python<'_>, bytes: &[u8]) -> PyResult<()> {
        let count = c_int::try_from(bytes.len())?;
        let kept = self.locked(py, || {
            // SAFETY: a live BIO and that many bytes, which it copies.
            unsafe { (self.functions.BIO_write)(self.incoming, bytes.as_ptr().cast(), count) }
        });
        if kept == count {
            Ok(())
        } else {
            Err(pyo3::exceptions::PyMemoryError::new_err(()))
        }
    }

    /// Makes one call on the session. An exception that a callback of Python's left is its failure.
    #[inline]
    fn call(
        &self,
        py: Python<'_>,
        call: impl FnOnce(&Functions, *mut std::ffi::c_void) -> (c_int, usize),
    ) -> Outcome {
        let (result, count, error) = self.locked(py, || {
            self.functions.forget_errors();
            let session = self.ssl.as_ptr();
            let (result, count) = call(self.functions, session);
            let error = if result > 0 {
                0
            } else {
                // SAFETY: a live session, and what its last call gave.
                unsafe { (self.functions.SSL_get_error)(session, result) }
            };
            (result, count, error)
        });
        // SAFETY: attached.
        if !unsafe { ffi::PyErr_Occurred() }.is_null() {
            return Outcome::Failed(PyErr::fetch(py));
        }
        if result > 0 {
            return Outcome::Done(count);
        }
        match error {
            ERROR_WANT_READ | ERROR_WANT_WRITE => Outcome::Again,
            ERROR_ZERO_RETURN if self.ended_by_peer_alone() => Outcome::End,
            _ => Outcome::Failed(self.functions.failure(py, &self.object.bind(py))),
        }
    }

    #[cold]
    fn ended_by_peer_alone(&self) -> bool {
        // SAFETY: a live session.
        unsafe { (self.functions.SSL_get_shutdown)(self.ssl.as_ptr()) == RECEIVED_SHUTDOWN }
    }

    #[inline]
    fn read(&self, py: Python<'_>, place: &mut [MaybeUninit<u8>]) -> Outcome {
        self.call(py, |functions, session| {
            let mut count = 0;
            // SAFETY: a live session, and a place with that much room.
            let result = unsafe {
                (functions.SSL_read_ex)(
                    session,
                    place.as_mut_ptr().cast(),
                    place.len(),
                    &raw mut count,
                )
            };
            (result, count)
        })
    }

    #[inline]
    fn write(&self, py: Python<'_>, bytes: &[u8], output: &mut Vec<u8>) -> Outcome {
        self.call(py, |functions, session| {
            let mut count = 0;
            // SAFETY: a live session, and that many bytes. The output is lent for this one call.
            let result = unsafe {
                self.writes().lend_output(output);
                (functions.SSL_write_ex)(
                    session,
                    bytes.as_ptr().cast(),
                    bytes.len(),
                    &raw mut count,
                )
            };
            self.writes().take_output_back();
            (result, count)
        })
    }

    #[cold]
    fn take_output(&self, py: Python<'_>, limit: usize, output: &mut Vec<u8>) {
        output.reserve(limit);
        let room = &mut output.spare_capacity_mut()[..limit];
        let size = c_int::try_from(limit).unwrap_or(c_int::MAX);
        let count = self.locked(py, || {
            // SAFETY: a live BIO and a place with that much room.
            unsafe { (self.functions.BIO_read)(self.outgoing, room.as_mut_ptr().cast(), size) }
        });
        let count = usize::try_from(count).unwrap_or(0);
        // SAFETY: so many bytes were written behind the others, within what was reserved.
        unsafe { output.set_len(output.len() + count) };
    }
}

/// The same by Python's objects, where OpenSSL cannot be reached.
pub(super) struct Memory {
    sslobj: Obj,
    incoming: Obj,
    outgoing: Obj,
}

fn pending(py: Python<'_>, bio: &Obj) -> PyResult<usize> {
    bio.bind(py).getattr(intern!(py, "pending"))?.extract()
}

impl Memory {
    fn keep(&self, py: Python<'_>, bytes: &[u8]) -> PyResult<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let bytes = PyBytes::new(py, bytes);
        call_method(&self.incoming.bind(py), intern!(py, "write"), [&bytes]).map(drop)
    }

    fn outcome(py: Python<'_>, error: PyErr) -> Outcome {
        let again = (|| {
            let ssl = py.import(intern!(py, "ssl"))?;
            PyResult::Ok(
                error.is_instance(py, &ssl.getattr(intern!(py, "SSLWantReadError"))?)
                    || error.is_instance(py, &ssl.getattr(intern!(py, "SSLWantWriteError"))?)
                    || error.is_instance(py, &ssl.getattr(intern!(py, "SSLSyscallError"))?),
            )
        })();
        match again {
            Ok(true) => Outcome::Again,
            Ok(false) => Outcome::Failed(error),
            Err(error) => Outcome::Failed(error),
        }
    }

    fn read(&self, py: Python<'_>, place: &mut [MaybeUninit<u8>]) -> Outcome {
        let read = (|| {
            let size = place.len().min(RECORD).into_pyobject(py)?;
            let bytes = call_method(&self.sslobj.bind(py), intern!(py, "read"), [size.as_any()])?;
            Ok(bytes.cast_into::<PyBytes>()?)
        })();
        let bytes = match read {
            Ok(bytes) => bytes,
            Err(error) => return Self::outcome(py, error),
        };
        let bytes = bytes.as_bytes();
        if bytes.is_empty() {
            return Outcome::End;
        }
        if bytes.len() > place.len() {
            return Outcome::Failed(PyRuntimeError::new_err(
                "SSLObject.read() returned too much",
            ));
        }
        // SAFETY: two places, the second with room for the first.
        unsafe {
            ptr::copy_nonoverlapping(bytes.as_ptr(), place.as_mut_ptr().cast(), bytes.len());
        }
        Outcome::Done(bytes.len())
    }

    fn write(&self, py: Python<'_>, bytes: &[u8], output: &mut Vec<u8>) -> Outcome {
        let written = (|| {
            let bytes = PyBytes::new(py, bytes);
            let count =
                call_method(&self.sslobj.bind(py), intern!(py, "write"), [&bytes])?.extract()?;
            self.take_output(py, usize::MAX, output)?;
            PyResult::Ok(count)
        })();
        match written {
            Ok(count) => Outcome::Done(count),
            Err(error) => Self::outcome(py, error),
        }
    }

    fn take_output(&self, py: Python<'_>, limit: usize, output: &mut Vec<u8>) -> PyResult<()> {
        let limit = isize::try_from(limit).unwrap_or(-1).into_pyobject(py)?;
        let bytes = call_method(
            &self.outgoing.bind(py),
            intern!(py, "read"),
            [limit.as_any()],
        )?
        .cast_into::<PyBytes>()?;
        output.extend_from_slice(bytes.as_bytes());
        Ok(())
    }
}
