//! OpenSSL itself: the copy of it that the interpreter's `_ssl` works with, and the session inside an object of it.
//!
//! A session belongs to a Python object, made by the user's `SSLContext`, and stays its own: nothing of it is
//! configured here, so whatever the context says (versions, ciphers, certificates, callbacks) holds. What this
//! reaches past is only Python's memory BIO, with its bytes objects, exceptions and copies around each record.
//!
//! Two things must be right for that, and are checked once per process, in this order:
//! 1. Which OpenSSL: its functions are looked up through the very file of `_ssl`, and the version that they tell
//!    is the one that `_ssl` tells. No such file (an interpreter with everything linked in), a library that is not
//!    OpenSSL or lacks a function: no direct sessions in this process.
//! 2. Where the session is: `_ssl._SSLSocket` has begun with the object's head, a weak reference and the session in
//!    every version so far; a version and a size of it that are not in the table are not looked into. And `_ssl`
//!    leaves the object's own address in the session's application data, which has to be found there.

use std::ffi::{CStr, c_char, c_int, c_long, c_ulong, c_void};
use std::ptr::NonNull;
use std::sync::OnceLock;

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyString;
use pyo3::{ffi, intern};
use ropewalk_sys::library::Library;

/// `SSL *`
pub(super) type Ssl = NonNull<c_void>;
/// `BIO *`
pub(super) type Bio = *mut c_void;
/// `BIO_METHOD *`
pub(super) type BioMethod = *mut c_void;

pub(super) type BioWrite = unsafe extern "C" fn(Bio, *const c_char, c_int) -> c_int;
pub(super) type BioRead = unsafe extern "C" fn(Bio, *mut c_char, c_int) -> c_int;
pub(super) type BioControl = unsafe extern "C" fn(Bio, c_int, c_long, *mut c_void) -> c_long;
pub(super) type BioDestroy = unsafe extern "C" fn(Bio) -> c_int;

// From openssl/ssl.h and openssl/bio.h, unchanged since OpenSSL 1.1.
pub(super) const ERROR_WANT_READ: c_int = 2;
pub(super) const ERROR_WANT_WRITE: c_int = 3;
pub(super) const ERROR_ZERO_RETURN: c_int = 6;
pub(super) const RECEIVED_SHUTDOWN: c_int = 2;
pub(super) const BIO_CTRL_PUSH: c_int = 6;
pub(super) const BIO_CTRL_POP: c_int = 7;
pub(super) const BIO_CTRL_FLUSH: c_int = 11;
pub(super) const BIO_CTRL_DUP: c_int = 12;
pub(super) const BIO_TYPE_FILTER: c_int = 0x0200;
/// Whatever a BIO says of trying again.
pub(super) const BIO_FLAGS_ALL: c_int = 0x0f;
/// "Try to read again."
pub(super) const BIO_FLAGS_READ_AGAIN: c_int = 0x01 | 0x08;

macro_rules! functions {
    ($($name:ident: fn($($argument:ty),*) $(-> $result:ty)?;)*) => {
        /// The functions of OpenSSL that are used here, under their own names.
        #[allow(non_snake_case)]
        pub(super) struct Functions { $(pub(super) $name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)* }

        impl Functions {
            fn find(library: &Library) -> Option<Self> {
                Some(Self { $($name: {
                    const NAME: &CStr = match CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                        Ok(name) => name,
                        Err(_) => c"",
                    };
                    let symbol = library.symbol(NAME)?;
                    // SAFETY: OpenSSL's function of that name, with the signature of its header.
                    unsafe {
                        std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($argument),*) $(-> $result)?>(
                            symbol.as_ptr(),
                        )
                    }
                },)* })
            }
        }
    };
}

functions! {
    OpenSSL_version_num: fn() -> c_ulong;
    ERR_peek_error: fn() -> c_ulong;
    ERR_clear_error: fn();
    ERR_reason_error_string: fn(c_ulong) -> *const c_char;
    SSL_get_ex_data: fn(*const c_void, c_int) -> *mut c_void;
    SSL_read_ex: fn(*mut c_void, *mut c_void, usize, *mut usize) -> c_int;
    SSL_write_ex: fn(*mut c_void, *const c_void, usize, *mut usize) -> c_int;
    SSL_get_error: fn(*const c_void, c_int) -> c_int;
    SSL_get_shutdown: fn(*const c_void) -> c_int;
    SSL_get_read_ahead: fn(*const c_void) -> c_int;
    SSL_pending: fn(*const c_void) -> c_int;
    SSL_get_rbio: fn(*const c_void) -> Bio;
    SSL_get_wbio: fn(*const c_void) -> Bio;
    SSL_set0_rbio: fn(*mut c_void, Bio);
    SSL_set0_wbio: fn(*mut c_void, Bio);
    BIO_get_new_index: fn() -> c_int;
    BIO_meth_new: fn(c_int, *const c_char) -> BioMethod;
    BIO_meth_set_write: fn(BioMethod, BioWrite) -> c_int;
    BIO_meth_set_read: fn(BioMethod, BioRead) -> c_int;
    BIO_meth_set_ctrl: fn(BioMethod, BioControl) -> c_int;
    BIO_meth_set_destroy: fn(BioMethod, BioDestroy) -> c_int;
    BIO_new: fn(BioMethod) -> Bio;
    BIO_free: fn(Bio) -> c_int;
    BIO_up_ref: fn(Bio) -> c_int;
    BIO_push: fn(Bio, Bio) -> Bio;
    BIO_next: fn(Bio) -> Bio;
    BIO_set_data: fn(Bio, *mut c_void);
    BIO_get_data: fn(Bio) -> *mut c_void;
    BIO_set_init: fn(Bio, c_int);
    BIO_set_flags: fn(Bio, c_int);
    BIO_clear_flags: fn(Bio, c_int);
    BIO_copy_next_retry: fn(Bio);
    BIO_read: fn(Bio, *mut c_void, c_int) -> c_int;
    BIO_write: fn(Bio, *const c_void, c_int) -> c_int;
    BIO_ctrl: fn(Bio, c_int, c_long, *mut c_void) -> c_long;
    BIO_ctrl_pending: fn(Bio) -> usize;
}

static FUNCTIONS: OnceLock<Functions> = OnceLock::new();

/// The functions, once they have been found.
#[inline]
pub(super) fn functions() -> Option<&'static Functions> {
    FUNCTIONS.get()
}

/// The functions and the session inside `object`, an `_ssl._SSLSocket`, if both can be reached safely.
pub(super) fn session(
    py: Python<'_>,
    object: &Bound<'_, PyAny>,
) -> Option<(&'static Functions, Ssl)> {
    /// The class whose layout is known.
    static CLASS: PyOnceLock<Option<Py<PyAny>>> = PyOnceLock::new();
    // Whatever goes wrong in looking is an answer: no.
    let class = CLASS.get_or_init(py, || find(py).ok().flatten()).as_ref()?;
    let functions = functions()?;
    if !object.get_type().is(class) {
        return None;
    }
    let session = session_of(object)?;
    // SAFETY: the class and its layout are checked, so this is a session, alive as long as the object. Its
    // application data, which `_ssl` sets when it makes the object, is in place 0.
    let owner = unsafe { (functions.SSL_get_ex_data)(session.as_ptr(), 0) };
    (owner.cast() == object.as_ptr()).then_some((functions, session))
}

/// The sizes of `_ssl._SSLSocket` behind the object's head in the versions whose layout is known.
const SIZES: &[(u8, usize)] = &[(11, 80), (12, 64), (13, 64), (14, 64), (14, 72), (15, 56)];

/// Finds the functions, and the class of sessions if all is as it has to be.
fn find(py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
    let module = py.import("_ssl")?;
    if !module
        .getattr("OPENSSL_VERSION")?
        .extract::<String>()?
        .starts_with("OpenSSL ")
    {
        return Ok(None);
    }
    let class = module.getattr("_SSLSocket")?;
    let size: usize = class.getattr("__basicsize__")?.extract()?;
    let version = py.version_info();
    let body = size.checked_sub(size_of::<ffi::PyObject>());
    let known = SIZES
        .iter()
        .any(|(minor, size)| version.minor == *minor && Some(*size) == body);
    if version.major != 3 || !known {
        return Ok(None);
    }
    let file = module.getattr("__file__")?.cast_into::<PyString>()?;
    let path: std::path::PathBuf = file.extract()?;
    let Some(functions) =
        Library::loaded(path.as_os_str()).and_then(|library| Functions::find(&library))
    else {
        return Ok(None);
    };
    // SAFETY: takes nothing, touches nothing.
    let number = unsafe { (functions.OpenSSL_version_num)() };
    if module
        .getattr("OPENSSL_VERSION_NUMBER")?
        .extract::<c_ulong>()?
        != number
    {
        return Ok(None);
    }
    let _ = FUNCTIONS.set(functions);
    Ok(Some(class.unbind()))
}

fn session_of(object: &Bound<'_, PyAny>) -> Option<Ssl> {
    #[repr(C)]
    struct Layout {
        head: ffi::PyObject,
        socket: *mut ffi::PyObject,
        ssl: *mut c_void,
    }
    // SAFETY: an instance of the class whose layout was checked; it holds its session from its making on.
    NonNull::new(unsafe { (*object.as_ptr().cast::<Layout>()).ssl })
}

impl Functions {
    /// Forgets what other code left in this thread's error queue, which would be taken for ours.
    #[inline]
    pub(super) fn forget_errors(&self) {
        // SAFETY: the queue is the thread's own.
        unsafe {
            if (self.ERR_peek_error)() != 0 {
                (self.ERR_clear_error)();
            }
        }
    }

    /// The failure of the last call on the session in `object`, as the exception that `_ssl` makes of it.
    ///
    /// `_ssl` itself is asked: as long as an error is in the thread's queue, OpenSSL says of any further call that
    /// it has failed, so that the object's own method finds the error there and names it. Where a version of
    /// Python empties the queue first, the exception is made here.
    #[cold]
    pub(super) fn failure(&self, py: Python<'_>, object: &Bound<'_, PyAny>) -> PyErr {
        // SAFETY: the queue is the thread's own.
        let code = unsafe { (self.ERR_peek_error)() };
        let told = object.call_method1(intern!(py, "read"), (1,));
        self.forget_errors();
        match told {
            Err(error)
                if code == 0
                    || !error
                        .value(py)
                        .getattr(intern!(py, "reason"))
                        .is_ok_and(|reason| reason.is_none()) =>
            {
                error
            }
            _ => self.describe(py, code),
        }
    }

    /// `ssl.SSLError` with OpenSSL's own words.
    #[cold]
    fn describe(&self, py: Python<'_>, code: c_ulong) -> PyErr {
        const ERROR_SSL: c_int = 1;
        // SAFETY: answers for any code, with a static string or NULL.
        let reason = unsafe { (self.ERR_reason_error_string)(code) };
        let text = if reason.is_null() {
            "A failure in the SSL library occurred".into()
        } else {
            // SAFETY: a static C string.
            unsafe { CStr::from_ptr(reason) }.to_string_lossy()
        };
        let name = text.to_uppercase().replace(' ', "_");
        let made = (|| {
            let error = py
                .import("ssl")?
                .getattr("SSLError")?
                .call1((ERROR_SSL, format!("[SSL: {name}] {text}")))?;
            error.setattr("library", "SSL")?;
            error.setattr("reason", name)?;
            PyResult::Ok(PyErr::from_value(error))
        })();
        made.unwrap_or_else(|error| error)
    }
}
