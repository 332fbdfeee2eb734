//! What OpenSSL reads from and writes to: for the length of one call our own memory, else Python's memory BIO.
//!
//! The cold half of TLS (handshake, shutdown) is CPython's and works with a pair of memory BIOs. Records on the hot
//! path need not be copied through them. So in front of each stands a filter, a [`Lender`]: while something is lent
//! to it, OpenSSL gets that; otherwise the filter passes everything on, and the session is just what `wrap_bio` made.
//!
//! Order is kept: reading takes what the memory BIO still has before it takes what is lent, and writing is lent only
//! while the memory BIO is empty.

use std::cell::Cell;
use std::ffi::{c_char, c_int, c_long, c_void};
use std::ptr;
use std::slice;

use pyo3::Python;
use pyo3::sync::PyOnceLock;

use super::openssl::{
    BIO_CTRL_DUP, BIO_CTRL_FLUSH, BIO_CTRL_POP, BIO_CTRL_PUSH, BIO_FLAGS_ALL, BIO_FLAGS_READ_AGAIN,
    BIO_TYPE_FILTER, Bio, BioMethod, Functions,
};

/// The Rust half of a filter. It belongs to the BIO, which frees it.
pub(super) struct Lender {
    functions: &'static Functions,
    input: Cell<(*const u8, usize)>,
    output: Cell<*mut Vec<u8>>,
    /// The memory BIO had something when the input was lent.
    older: Cell<bool>,
}

impl Lender {
    /// Puts a filter in front of `memory`, whose reference passes to it. `None` if OpenSSL has no memory left.
    ///
    /// # Safety
    /// `memory` is a live memory BIO.
    pub(super) unsafe fn before(
        py: Python<'_>,
        functions: &'static Functions,
        memory: Bio,
    ) -> Option<(Bio, *const Self)> {
        let method = method(py, functions)?;
        // SAFETY: the method is whole; the new BIO is checked before use; `memory` is live, says the caller.
        unsafe {
            let filter = (functions.BIO_new)(method);
            if filter.is_null() {
                return None;
            }
            let lender = Box::into_raw(Box::new(Self {
                functions,
                input: Cell::new((ptr::null(), 0)),
                output: Cell::new(ptr::null_mut()),
                older: Cell::new(false),
            }));
            (functions.BIO_set_data)(filter, lender.cast());
            (functions.BIO_set_init)(filter, 1);
            (functions.BIO_push)(filter, memory);
            Some((filter, lender))
        }
    }

    /// Lends bytes to read, behind what the memory BIO has (`older`: whether it has anything).
    ///
    /// # Safety
    /// They stay where they are until [`Self::take_input_back`].
    #[inline]
    pub(super) unsafe fn lend_input(&self, bytes: &[u8], older: bool) {
        self.input.set((bytes.as_ptr(), bytes.len()));
        self.older.set(older);
    }

    /// How much of what is lent was not read yet: its last so many bytes.
    #[inline]
    pub(super) fn left(&self) -> usize {
        self.input.get().1
    }

    #[inline]
    pub(super) fn take_input_back(&self) {
        self.input.set((ptr::null(), 0));
    }

    /// Lends a place to write to.
    ///
    /// # Safety
    /// It stays where it is, and nobody else touches it, until [`Self::take_output_back`].
    #[inline]
    pub(super) unsafe fn lend_output(&self, bytes: &mut Vec<u8>) {
        self.output.set(bytes);
    }

    #[inline]
    pub(super) fn take_output_back(&self) {
        self.output.set(ptr::null_mut());
    }
}

/// The one description of filters, made when the first is.
fn method(py: Python<'_>, functions: &Functions) -> Option<BioMethod> {
    static METHOD: PyOnceLock<usize> = PyOnceLock::new();
    let address = METHOD.get_or_init(py, || {
        // SAFETY: plain calls; the functions have the signatures that OpenSSL names.
        unsafe {
            let kind = (functions.BIO_get_new_index)() | BIO_TYPE_FILTER;
            let method = (functions.BIO_meth_new)(kind, c"ropewalk".as_ptr());
            if !method.is_null() {
                (functions.BIO_meth_set_read)(method, read);
                (functions.BIO_meth_set_write)(method, write);
                (functions.BIO_meth_set_ctrl)(method, control);
                (functions.BIO_meth_set_destroy)(method, destroy);
            }
            method as usize
        }
    });
    (*address != 0).then_some(*address as BioMethod)
}

/// The lender of a filter.
///
/// # Safety
/// `bio` is a filter of ours, alive for `'a`.
unsafe fn lender<'a>(bio: Bio) -> Option<&'a Lender> {
    let functions = super::openssl::functions()?;
    // SAFETY: a filter's data is its lender or, before it is set, NULL.
    unsafe { (functions.BIO_get_data)(bio).cast::<Lender>().as_ref() }
}

unsafe extern "C" fn read(bio: Bio, place: *mut c_char, room: c_int) -> c_int {
    // SAFETY: OpenSSL calls with a filter of ours and a place with that much room; what is lent is alive until it is
    // taken back.
    unsafe {
        let Some(this) = lender(bio) else { return -1 };
        let functions = this.functions;
        (functions.BIO_clear_flags)(bio, BIO_FLAGS_ALL);
        let (input, left) = this.input.get();
        if left == 0 || this.older.get() {
            let next = (functions.BIO_next)(bio);
            let count = (functions.BIO_read)(next, place.cast(), room);
            if count > 0 || left == 0 {
                (functions.BIO_copy_next_retry)(bio);
                return count;
            }
            this.older.set(false);
        }
        let count = left.min(usize::try_from(room).unwrap_or(0));
        if count == 0 {
            (functions.BIO_set_flags)(bio, BIO_FLAGS_READ_AGAIN);
            return -1;
        }
        ptr::copy_nonoverlapping(input, place.cast::<u8>(), count);
        this.input.set((input.add(count), left - count));
        // It fits: no more than `room`.
        count as c_int
    }
}

unsafe extern "C" fn write(bio: Bio, bytes: *const c_char, count: c_int) -> c_int {
    // SAFETY: as for `read`.
    unsafe {
        let Some(this) = lender(bio) else { return -1 };
        let functions = this.functions;
        (functions.BIO_clear_flags)(bio, BIO_FLAGS_ALL);
        if let Some(output) = this.output.get().as_mut() {
            let bytes =
                slice::from_raw_parts(bytes.cast::<u8>(), usize::try_from(count).unwrap_or(0));
            output.extend_from_slice(bytes);
            return count;
        }
        let next = (functions.BIO_next)(bio);
        let count = (functions.BIO_write)(next, bytes.cast(), count);
        (functions.BIO_copy_next_retry)(bio);
        count
    }
}

unsafe extern "C" fn control(
    bio: Bio,
    command: c_int,
    number: c_long,
    pointer: *mut c_void,
) -> c_long {
    match command {
        // Memory needs no flushing.
        BIO_CTRL_FLUSH => 1,
        BIO_CTRL_PUSH | BIO_CTRL_POP | BIO_CTRL_DUP => 0,
        // SAFETY: as for `read`; the rest is the memory BIO's.
        _ => unsafe {
            let Some(this) = lender(bio) else { return 0 };
            let next = (this.functions.BIO_next)(bio);
            if next.is_null() {
                return 0;
            }
            (this.functions.BIO_ctrl)(next, command, number, pointer)
        },
    }
}

unsafe extern "C" fn destroy(bio: Bio) -> c_int {
    // SAFETY: OpenSSL destroys a BIO once; its data is a lender's box or NULL.
    unsafe {
        if let Some(this) = lender(bio) {
            let functions = this.functions;
            let lender = (functions.BIO_get_data)(bio).cast::<Lender>();
            (functions.BIO_set_data)(bio, ptr::null_mut());
            drop(Box::from_raw(lender));
        }
    }
    1
}
