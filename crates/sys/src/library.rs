//! The functions of a library that this process has loaded already.
//!
//! Where a program's host (an interpreter, say) has linked a library, whoever wants to work on the
//! host's own objects must call that very copy of it and no other. [`Library::loaded`] finds it by
//! way of a file that is linked to it, and loads nothing.

use std::ffi::{CStr, CString, OsStr, c_void};
use std::os::unix::ffi::OsStrExt;
use std::ptr::NonNull;

/// A library in this process, with the libraries it is linked to. It is never unloaded.
#[derive(Debug)]
pub struct Library(NonNull<c_void>);

// SAFETY: a handle names a loaded library for as long as the process lives, in every thread.
unsafe impl Send for Library {}
// SAFETY: as above; looking a symbol up is thread-safe by POSIX.
unsafe impl Sync for Library {}

impl Library {
    /// The library that was loaded from `path`; `None` if none was.
    #[must_use]
    pub fn loaded(path: &OsStr) -> Option<Self> {
        let path = CString::new(path.as_bytes()).ok()?;
        // SAFETY: a C string; with NOLOAD nothing is loaded and so no code of a library runs.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_NOLOAD) };
        NonNull::new(handle).map(Self)
    }

    /// The address of a function of the library, or of one that it is linked to.
    #[must_use]
    pub fn symbol(&self, name: &CStr) -> Option<NonNull<c_void>> {
        // SAFETY: the handle is a loaded library's, the name a C string.
        NonNull::new(unsafe { libc::dlsym(self.0.as_ptr(), name.as_ptr()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_loaded() {
        assert!(Library::loaded(OsStr::new("/no/such/library.so")).is_none());
        assert!(Library::loaded(OsStr::new("with\0nul")).is_none());
    }
}
