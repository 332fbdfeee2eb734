//! A descriptor that tells the end of a process, and reaping.
//!
//! A process's end is usually told by `SIGCHLD`, of which a program has one: two runtimes that both
//! want it break each other. A descriptor for each child has no such owner.
//!
//! What a backend supplies: [`ChildWatch::open`] gives a descriptor, closed on exec, that turns
//! readable when the process has ended, also if that was before the call, and stays so. It takes
//! nothing from the process: the child remains to be reaped, by [`reap`] or by whoever else may.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use rustix::process::{Pid, WaitOptions};

#[cfg(any(target_os = "linux", target_os = "android"))]
use pidfd as backend;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
use proc_filter as backend;

/// A watch on the end of one process. See the [module](self).
#[derive(Debug)]
pub struct ChildWatch(backend::Watch);

impl ChildWatch {
    /// Watches process `pid`, which must not have been reaped yet.
    ///
    /// A number that is no process is an error (`ESRCH`) with pidfds. A kqueue cannot tell such a
    /// number from a child that has ended; there the watch is readable at once, and [`reap`] says
    /// what it was.
    pub fn open(pid: i32) -> io::Result<Self> {
        backend::Watch::open(to_pid(pid)?).map(Self)
    }
}

impl AsRawFd for ChildWatch {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It called `exit` with this status.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

/// Reaps child `pid` if it has ended; `None` while it runs.
///
/// If it is not ours to reap (no child, or someone else reaped it), the error is `ECHILD`.
pub fn reap(pid: i32) -> io::Result<Option<Exit>> {
    let pid = to_pid(pid)?;
    let ended =
        rustix::io::retry_on_intr(|| rustix::process::waitpid(Some(pid), WaitOptions::NOHANG))?;
    Ok(ended.and_then(|(_, status)| {
        status
            .exit_status()
            .map(Exit::Code)
            .or_else(|| status.terminating_signal().map(Exit::Signal))
    }))
}

fn to_pid(pid: i32) -> io::Result<Pid> {
    // Zero and negative numbers name groups, not processes.
    let positive = if pid > 0 { Pid::from_raw(pid) } else { None };
    positive.ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod pidfd {
    use std::io;
    use std::os::fd::{AsRawFd, OwnedFd, RawFd};

    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    /// A pidfd: close-on-exec by itself, readable once the process is a zombie.
    #[derive(Debug)]
    pub(super) struct Watch(OwnedFd);

    impl Watch {
        pub(super) fn open(pid: Pid) -> io::Result<Self> {
            Ok(Self(pidfd_open(pid, PidfdFlags::empty())?))
        }
    }

    impl AsRawFd for Watch {
        fn as_raw_fd(&self) -> RawFd {
            self.0.as_raw_fd()
        }
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod proc_filter {
    use std::io;
    use std::os::fd::{AsRawFd, OwnedFd, RawFd};

    use rustix::process::Pid;

    use crate::poller::Kqueue;

    /// A kqueue with one filter, which is itself a descriptor that can be polled.
    #[derive(Debug)]
    pub(super) enum Watch {
        Running(Kqueue),
        /// The reading end of a pipe without a writer: readable for ever.
        Ended(OwnedFd),
    }

    impl Watch {
        pub(super) fn open(pid: Pid) -> io::Result<Self> {
            let queue = Kqueue::new()?;
            match queue.add_process(pid.as_raw_nonzero().get()) {
                Ok(()) => Ok(Self::Running(queue)),
                // A zombie is not found.
                Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {
                    Ok(Self::Ended(crate::fd::pipe()?.0))
                }
                Err(e) => Err(e),
            }
        }
    }

    impl AsRawFd for Watch {
        fn as_raw_fd(&self) -> RawFd {
            match self {
                Self::Running(queue) => queue.as_raw_fd(),
                Self::Ended(end) => end.as_raw_fd(),
            }
        }
    }
}
