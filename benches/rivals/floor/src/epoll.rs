//! A thin owner of an epoll descriptor.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Bits of interest, and of readiness.
pub use libc::{EPOLLET, EPOLLIN, EPOLLOUT};

/// An epoll descriptor and the buffer its events arrive in.
pub struct Epoll {
    fd: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Epoll {
    /// A new epoll descriptor.
    ///
    /// # Errors
    ///
    /// When the process or the system has no descriptor left.
    pub fn new() -> io::Result<Self> {
        // SAFETY: takes no pointer.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self {
            fd,
            events: Vec::with_capacity(256),
        })
    }

    fn control(&self, operation: i32, fd: RawFd, token: u64, interest: i32) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: interest as u32,
            u64: token,
        };
        // SAFETY: the event outlives the call; the kernel copies it.
        let result = unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), operation, fd, &mut event) };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Watch a descriptor under `token`.
    ///
    /// # Errors
    ///
    /// As `epoll_ctl(2)`.
    pub fn add(&self, fd: &impl AsRawFd, token: u64, interest: i32) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd.as_raw_fd(), token, interest)
    }

    /// Watch a descriptor for something else from now on.
    ///
    /// # Errors
    ///
    /// As `epoll_ctl(2)`.
    pub fn modify(&self, fd: &impl AsRawFd, token: u64, interest: i32) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd.as_raw_fd(), token, interest)
    }

    /// Sleep until something is ready; return how many are.
    ///
    /// # Errors
    ///
    /// As `epoll_wait(2)`, except that an interrupted call is repeated.
    pub fn wait(&mut self) -> io::Result<usize> {
        loop {
            // SAFETY: the buffer has room for as many events as we say it has.
            let count = unsafe {
                libc::epoll_wait(
                    self.fd.as_raw_fd(),
                    self.events.as_mut_ptr(),
                    self.events.capacity() as i32,
                    -1,
                )
            };
            if let Ok(count) = usize::try_from(count) {
                // SAFETY: the kernel has written the first `count` events, within capacity.
                unsafe { self.events.set_len(count) };
                return Ok(count);
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }

    /// The token and readiness of one of the events that `wait` counted.
    #[must_use]
    pub fn event(&self, index: usize) -> (u64, i32) {
        let event = self.events[index];
        (event.u64, event.events as i32)
    }
}
