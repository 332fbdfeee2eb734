//! The one place where a descriptor number becomes something that rustix takes.

use std::io;
use std::os::fd::{BorrowedFd, RawFd};

/// Lends `fd` to a system call.
///
/// A negative number is refused here: `BorrowedFd` uses -1 as its niche.
#[inline]
pub(crate) fn borrow(fd: RawFd) -> io::Result<BorrowedFd<'static>> {
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: the number is not -1, so the niche holds. The borrow is only ever passed to the
    // system call of the function that asked for it, which answers EBADF if nothing is open there:
    // no memory depends on the number.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) })
}

/// A non-blocking pipe, closed on exec: reading end, writing end.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn pipe() -> io::Result<(std::os::fd::OwnedFd, std::os::fd::OwnedFd)> {
    #[cfg(not(target_vendor = "apple"))]
    {
        use rustix::pipe::PipeFlags;
        Ok(rustix::pipe::pipe_with(
            PipeFlags::CLOEXEC | PipeFlags::NONBLOCK,
        )?)
    }
    #[cfg(target_vendor = "apple")] // no pipe2
    {
        let ends = rustix::pipe::pipe()?;
        for end in [&ends.0, &ends.1] {
            rustix::io::fcntl_setfd(end, rustix::io::FdFlags::CLOEXEC)?;
            rustix::io::ioctl_fionbio(end, true)?;
        }
        Ok(ends)
    }
}
