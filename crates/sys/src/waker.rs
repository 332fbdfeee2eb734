//! End another thread's wait.
//!
//! What a backend supplies: a descriptor that turns readable when any thread calls [`Waker::wake`],
//! which never blocks and may be called from a signal handler. Wakes that nobody has taken yet
//! count as one.
//!
//! Registered edge-triggered, a waker need not be drained: each wake is an edge of its own.
//! Registered level-triggered, call [`Waker::drain`] or the poller will tell of it for ever.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

/// See the [module](self).
#[derive(Debug)]
pub struct Waker {
    /// An eventfd, or the reading end of a pipe.
    reader: OwnedFd,
    /// The writing end of the pipe.
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    writer: OwnedFd,
}

impl Waker {
    /// A waker of its own descriptor(s), closed on exec.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub fn new() -> io::Result<Self> {
        use rustix::event::{EventfdFlags, eventfd};
        Ok(Self {
            reader: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    /// A waker of its own descriptor(s), closed on exec.
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    pub fn new() -> io::Result<Self> {
        let (reader, writer) = crate::fd::pipe()?;
        Ok(Self { reader, writer })
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn writer(&self) -> &OwnedFd {
        &self.reader
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn writer(&self) -> &OwnedFd {
        &self.writer
    }

    /// Makes the descriptor readable. Never blocks.
    pub fn wake(&self) {
        // Eight bytes are what an eventfd takes; a pipe takes any.
        let one = 1u64.to_ne_bytes();
        loop {
            match rustix::io::write(self.writer(), &one) {
                Err(Errno::INTR) => {}
                // Full of wakes that nobody drained (edge-triggered use): make room, so that this
                // one is an edge.
                Err(Errno::AGAIN) => self.drain(),
                // Nothing else can be wrong with a descriptor that we own.
                _ => return,
            }
        }
    }

    /// Takes all wakes so far, so that the descriptor is not readable until the next one.
    pub fn drain(&self) {
        let mut buffer = [0u8; 256];
        loop {
            match rustix::io::read(&self.reader, &mut buffer) {
                Err(Errno::INTR) => {}
                // An eventfd gives all in one read; a pipe may hold more than the buffer.
                Ok(n) if n == buffer.len() => {}
                _ => return,
            }
        }
    }
}

impl AsRawFd for Waker {
    fn as_raw_fd(&self) -> RawFd {
        self.reader.as_raw_fd()
    }
}
