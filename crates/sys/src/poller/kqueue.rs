//! The [contract](super) on kqueue: macOS and the BSDs.
//!
//! A kqueue registers *filters*, one for each direction of a descriptor, so both the registrations
//! and the events come by the direction. It is not inherited by `fork`, and its number may be
//! another file's in the child.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::time::Duration;

use super::{Event, Interest, Mode, Readiness};
use crate::fork;

/// Filled by the kernel; its capacity is what one wait may give.
pub(super) type List = Vec<libc::kevent>;

#[derive(Debug)]
pub(crate) struct Selector {
    queue: Option<OwnedFd>,
    born: u64,
}

impl Selector {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: no argument.
        let queue = unsafe { libc::kqueue() };
        if queue < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just given us this descriptor.
        let queue = unsafe { OwnedFd::from_raw_fd(queue) };
        rustix::io::fcntl_setfd(&queue, rustix::io::FdFlags::CLOEXEC)?;
        Ok(Self {
            queue: Some(queue),
            born: fork::generation(),
        })
    }

    pub(super) fn add(
        &self,
        fd: RawFd,
        token: u64,
        interest: Interest,
        mode: Mode,
    ) -> io::Result<()> {
        let flags = match mode {
            Mode::Level => libc::EV_ADD,
            Mode::Edge => libc::EV_ADD | libc::EV_CLEAR,
        };
        for (side, filter) in SIDES {
            if interest.contains(side) {
                self.change(fd as _, filter, flags, 0, token)?;
            }
        }
        Ok(())
    }

    pub(super) fn modify(
        &self,
        fd: RawFd,
        token: u64,
        interest: Interest,
        mode: Mode,
    ) -> io::Result<()> {
        for (side, filter) in SIDES {
            if !interest.contains(side) {
                self.forget(fd, filter)?;
            }
        }
        self.add(fd, token, interest, mode)
    }

    pub(super) fn delete(&self, fd: RawFd) -> io::Result<()> {
        SIDES
            .into_iter()
            .try_for_each(|(_, filter)| self.forget(fd, filter))
    }

    /// Tells, once, that a process has ended.
    pub(crate) fn add_process(&self, pid: i32) -> io::Result<()> {
        self.change(
            pid as _,
            libc::EVFILT_PROC,
            libc::EV_ADD,
            libc::NOTE_EXIT,
            0,
        )
    }

    fn forget(&self, fd: RawFd, filter: Filter) -> io::Result<()> {
        match self.change(fd as _, filter, libc::EV_DELETE, 0, 0) {
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            result => result,
        }
    }

    fn change(
        &self,
        ident: libc::uintptr_t,
        filter: Filter,
        flags: Flags,
        notes: u32,
        token: u64,
    ) -> io::Result<()> {
        // SAFETY: a kevent is plain integers and a pointer, for which zero is a value.
        let mut change: libc::kevent = unsafe { std::mem::zeroed() };
        change.ident = ident as _;
        change.filter = filter as _;
        change.flags = flags as _;
        change.fflags = notes as _;
        change.udata = token as usize as _;
        // SAFETY: one change of this frame, no room for events, no timeout.
        let done = unsafe {
            libc::kevent(
                self.as_raw_fd(),
                &raw const change,
                1,
                std::ptr::null_mut(),
                0,
                std::ptr::null(),
            )
        };
        if done < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    pub(super) fn wait(&self, list: &mut List, timeout: Option<Duration>) -> io::Result<()> {
        let timeout = timeout.map(|timeout| {
            // SAFETY: a timespec is plain integers (with padding on some targets).
            let mut spec: libc::timespec = unsafe { std::mem::zeroed() };
            // Some kernels refuse what is far away; a day is as good as "later".
            spec.tv_sec = timeout.as_secs().min(86_400) as _;
            spec.tv_nsec = timeout.subsec_nanos() as _;
            spec
        });
        let timeout = timeout
            .as_ref()
            .map_or(std::ptr::null(), std::ptr::from_ref);
        let room = list.capacity() - list.len();
        // SAFETY: no changes; `room` spare events; null or a timespec of this frame.
        let n = unsafe {
            let spare = list.as_mut_ptr().add(list.len());
            libc::kevent(
                self.as_raw_fd(),
                std::ptr::null(),
                0,
                spare,
                room as _,
                timeout,
            )
        };
        let n = usize::try_from(n).map_err(|_| io::Error::last_os_error())?;
        // SAFETY: the kernel has filled in that many of the spare events.
        unsafe { list.set_len(list.len() + n) };
        Ok(())
    }
}

impl AsRawFd for Selector {
    fn as_raw_fd(&self) -> RawFd {
        self.queue.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }
}

impl Drop for Selector {
    fn drop(&mut self) {
        if fork::generation() != self.born {
            // Not inherited: by now the number may be another file's.
            let _ = self.queue.take().map(IntoRawFd::into_raw_fd);
        }
    }
}

#[cfg(not(target_os = "netbsd"))]
type Filter = i16;
#[cfg(target_os = "netbsd")]
type Filter = u32;

#[cfg(not(target_os = "netbsd"))]
type Flags = u16;
#[cfg(target_os = "netbsd")]
type Flags = u32;

const SIDES: [(Interest, Filter); 2] = [
    (Interest::READ, libc::EVFILT_READ),
    (Interest::WRITE, libc::EVFILT_WRITE),
];

pub(super) fn event(raw: &libc::kevent) -> Event {
    let (filter, flags) = (raw.filter as Filter, raw.flags as Flags);
    let (ready, closed) = if filter == libc::EVFILT_WRITE {
        (Readiness::WRITE, Readiness::HANGUP)
    } else {
        (Readiness::READ, Readiness::READ_CLOSED)
    };
    let mut readiness = ready;
    if flags & libc::EV_EOF != 0 {
        readiness = readiness.union(closed);
        // With the end comes the reason, if there is one.
        if raw.fflags != 0 {
            readiness = readiness.union(Readiness::ERROR);
        }
    }
    if flags & libc::EV_ERROR != 0 {
        readiness = readiness.union(Readiness::ERROR);
    }
    Event {
        token: raw.udata as usize as u64,
        readiness,
    }
}
