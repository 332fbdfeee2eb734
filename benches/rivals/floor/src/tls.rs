//! TLS by the OpenSSL that the interpreter uses.
//!
//! Loaded at run time, from the very files the interpreter has loaded, so that floor and loops
//! differ in nothing but what lies above the library.

use std::ffi::{CString, c_char, c_int, c_long, c_uint, c_void};
use std::io::{self, Read, Write};
use std::mem;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr::{self, NonNull};

type Method = *const c_void;
type RawContext = *mut c_void;
type RawSession = *mut c_void;

// From openssl/ssl.h; the macros around them are not symbols.
const CTRL_MODE: c_int = 33;
const CTRL_READ_AHEAD: c_int = 41;
const MODE_PARTIAL_WRITE: c_long = 1;
const MODE_MOVING_BUFFER: c_long = 2;
const FILETYPE_PEM: c_int = 1;
const ERROR_WANT_READ: c_int = 2;
const ERROR_WANT_WRITE: c_int = 3;
const ERROR_ZERO_RETURN: c_int = 6;

macro_rules! library {
    ($($name:ident: fn($($argument:ty),*) -> $result:ty;)*) => {
        /// The functions of OpenSSL that are used here.
        #[allow(non_snake_case)]
        struct Library { $($name: unsafe extern "C" fn($($argument),*) -> $result,)* }

        impl Library {
            fn load(path: &str) -> io::Result<Self> {
                let handle = open(path)?;
                // SAFETY: each symbol is OpenSSL's function of that name, and the signatures are
                // those of its headers; the library is never unloaded.
                unsafe {
                    Ok(Self { $($name: mem::transmute::<
                        *mut c_void,
                        unsafe extern "C" fn($($argument),*) -> $result,
                    >(symbol(handle, stringify!($name))?),)* })
                }
            }
        }
    };
}

library! {
    TLS_server_method: fn() -> Method;
    TLS_client_method: fn() -> Method;
    SSL_CTX_new: fn(Method) -> RawContext;
    SSL_CTX_ctrl: fn(RawContext, c_int, c_long, *mut c_void) -> c_long;
    SSL_CTX_use_certificate_chain_file: fn(RawContext, *const c_char) -> c_int;
    SSL_CTX_use_PrivateKey_file: fn(RawContext, *const c_char, c_int) -> c_int;
    SSL_new: fn(RawContext) -> RawSession;
    SSL_free: fn(RawSession) -> ();
    SSL_set_fd: fn(RawSession, c_int) -> c_int;
    SSL_set_accept_state: fn(RawSession) -> ();
    SSL_set_connect_state: fn(RawSession) -> ();
    SSL_do_handshake: fn(RawSession) -> c_int;
    SSL_read: fn(RawSession, *mut c_void, c_int) -> c_int;
    SSL_write: fn(RawSession, *const c_void, c_int) -> c_int;
    SSL_get_error: fn(RawSession, c_int) -> c_int;
    SSL_has_pending: fn(RawSession) -> c_int;
}

fn open(path: &str) -> io::Result<NonNull<c_void>> {
    let name = CString::new(path)?;
    // SAFETY: the name is a C string; the flags are dlopen's. Global, so that libssl finds the
    // libcrypto that was opened before it.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    NonNull::new(handle).ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, path))
}

fn symbol(handle: NonNull<c_void>, name: &str) -> io::Result<*mut c_void> {
    let symbol = CString::new(name)?;
    // SAFETY: the handle is an open library's, the name a C string.
    let found = unsafe { libc::dlsym(handle.as_ptr(), symbol.as_ptr()) };
    if found.is_null() {
        Err(io::Error::new(io::ErrorKind::NotFound, name))
    } else {
        Ok(found)
    }
}

/// Which end of the connection we are.
enum Side {
    Server,
    Client,
}

/// OpenSSL and one context in it.
///
/// Lives as long as the process: what is made from it borrows it for ever.
pub struct Context {
    library: Library,
    raw: RawContext,
    side: Side,
}

impl Context {
    fn new(libraries: &str, side: Side) -> io::Result<Self> {
        let (crypto, ssl) = libraries.split_once(',').unwrap_or(("", libraries));
        if !crypto.is_empty() {
            open(crypto)?;
        }
        let library = Library::load(ssl)?;
        // SAFETY: methods are static; the context is checked before use; each control takes a
        // number and no pointer.
        let raw = unsafe {
            let raw = (library.SSL_CTX_new)(match side {
                Side::Server => (library.TLS_server_method)(),
                Side::Client => (library.TLS_client_method)(),
            });
            if raw.is_null() {
                return Err(io::ErrorKind::OutOfMemory.into());
            }
            let mode = MODE_PARTIAL_WRITE | MODE_MOVING_BUFFER;
            (library.SSL_CTX_ctrl)(raw, CTRL_MODE, mode, ptr::null_mut());
            // One read for each record instead of two, for its head and for its body.
            (library.SSL_CTX_ctrl)(raw, CTRL_READ_AHEAD, 1, ptr::null_mut());
            raw
        };
        Ok(Self { library, raw, side })
    }

    /// A server's context. `libraries` is libcrypto's and libssl's path with a comma between, or
    /// libssl's alone; `certificate` a PEM file with key and chain.
    ///
    /// # Errors
    ///
    /// When a library does not load or the certificate does not serve.
    pub fn server(libraries: &str, certificate: &str) -> io::Result<Self> {
        let context = Self::new(libraries, Side::Server)?;
        let file = CString::new(certificate)?;
        // SAFETY: the context is live, the file name a C string.
        let loaded = unsafe {
            (context.library.SSL_CTX_use_certificate_chain_file)(context.raw, file.as_ptr()) == 1
                && (context.library.SSL_CTX_use_PrivateKey_file)(
                    context.raw,
                    file.as_ptr(),
                    FILETYPE_PEM,
                ) == 1
        };
        if loaded {
            Ok(context)
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidInput, certificate))
        }
    }

    /// A client's context, which trusts anybody: it talks to our own server only.
    ///
    /// # Errors
    ///
    /// When a library does not load.
    pub fn client(libraries: &str) -> io::Result<Self> {
        Self::new(libraries, Side::Client)
    }

    /// Put TLS on a connected socket.
    ///
    /// # Errors
    ///
    /// When OpenSSL has no memory.
    pub fn wrap(&'static self, stream: TcpStream) -> io::Result<Session> {
        // SAFETY: the context is live; the session is checked before use.
        let raw = unsafe { (self.library.SSL_new)(self.raw) };
        if raw.is_null() {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let session = Session {
            context: self,
            raw,
            stream,
        };
        // SAFETY: the session is live, and owns the socket, which thus outlives it.
        unsafe {
            (self.library.SSL_set_fd)(raw, session.stream.as_raw_fd());
            match self.side {
                Side::Server => (self.library.SSL_set_accept_state)(raw),
                Side::Client => (self.library.SSL_set_connect_state)(raw),
            }
        }
        Ok(session)
    }
}

/// One TLS connection.
pub struct Session {
    context: &'static Context,
    raw: RawSession,
    stream: TcpStream,
}

impl Session {
    fn result(&self, returned: c_int) -> io::Result<usize> {
        if returned > 0 {
            return Ok(returned.unsigned_abs() as usize);
        }
        // SAFETY: the session is live, and `returned` is what its last call gave.
        match unsafe { (self.context.library.SSL_get_error)(self.raw, returned) } {
            ERROR_WANT_READ | ERROR_WANT_WRITE => Err(io::ErrorKind::WouldBlock.into()),
            ERROR_ZERO_RETURN => Ok(0),
            _ => Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }

    /// Shake hands; on a socket that blocks.
    ///
    /// # Errors
    ///
    /// When the peer is not of our mind.
    pub fn shake_hands(&mut self) -> io::Result<()> {
        // SAFETY: the session is live.
        let returned = unsafe { (self.context.library.SSL_do_handshake)(self.raw) };
        self.result(returned).map(|_| ())
    }

    /// The socket below.
    #[must_use]
    pub fn socket(&self) -> &TcpStream {
        &self.stream
    }

    /// Whether bytes were taken from the socket that nobody has read yet.
    #[must_use]
    pub fn pending(&self) -> bool {
        // SAFETY: the session is live.
        unsafe { (self.context.library.SSL_has_pending)(self.raw) != 0 }
    }
}

fn length(buffer: &[u8]) -> c_int {
    buffer.len().min(c_uint::MAX as usize / 2) as c_int
}

impl Read for Session {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // SAFETY: the session is live, the buffer as long as we say.
        let returned = unsafe {
            (self.context.library.SSL_read)(self.raw, buffer.as_mut_ptr().cast(), length(buffer))
        };
        self.result(returned)
    }
}

impl Write for Session {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        // SAFETY: the session is live, the buffer as long as we say.
        let returned = unsafe {
            (self.context.library.SSL_write)(self.raw, buffer.as_ptr().cast(), length(buffer))
        };
        self.result(returned)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsRawFd for Session {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: the session is live, and nobody uses it after this.
        unsafe { (self.context.library.SSL_free)(self.raw) }
    }
}
