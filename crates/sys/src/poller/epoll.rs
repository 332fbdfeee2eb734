//! The [contract](super) on Linux's epoll.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

use super::{Event, Interest, Mode, Readiness};
use crate::fd::borrow;

/// Filled by the kernel; its capacity is what one wait may give.
pub(super) type List = Vec<epoll::Event>;

/// Set for good once the kernel, or a container's filter, has refused `epoll_pwait2` (Linux 5.11).
static MILLISECONDS_ONLY: AtomicBool = AtomicBool::new(false);

#[derive(Debug)]
pub(super) struct Selector(OwnedFd);

impl Selector {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(epoll::CreateFlags::CLOEXEC)?))
    }

    pub(super) fn add(
        &self,
        fd: RawFd,
        token: u64,
        interest: Interest,
        mode: Mode,
    ) -> io::Result<()> {
        Ok(epoll::add(
            &self.0,
            borrow(fd)?,
            epoll::EventData::new_u64(token),
            flags(interest, mode),
        )?)
    }

    pub(super) fn modify(
        &self,
        fd: RawFd,
        token: u64,
        interest: Interest,
        mode: Mode,
    ) -> io::Result<()> {
        Ok(epoll::modify(
            &self.0,
            borrow(fd)?,
            epoll::EventData::new_u64(token),
            flags(interest, mode),
        )?)
    }

    pub(super) fn delete(&self, fd: RawFd) -> io::Result<()> {
        Ok(epoll::delete(&self.0, borrow(fd)?)?)
    }

    pub(super) fn wait(&self, list: &mut List, timeout: Option<Duration>) -> io::Result<()> {
        match timeout {
            None => self.wait_milliseconds(list, None),
            Some(Duration::ZERO) => self.wait_milliseconds(list, Some(0)),
            Some(timeout) => {
                if !MILLISECONDS_ONLY.load(Ordering::Relaxed) {
                    match self.wait_nanoseconds(list, timeout) {
                        // ENOSYS from an old kernel, EPERM from a seccomp filter; neither will
                        // change its mind.
                        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {
                            MILLISECONDS_ONLY.store(true, Ordering::Relaxed);
                        }
                        result => return result,
                    }
                }
                // Up, or the last fraction of a millisecond would be spent in a spin.
                let up = timeout.as_nanos().div_ceil(1_000_000);
                self.wait_milliseconds(list, Some(i32::try_from(up).unwrap_or(i32::MAX)))
            }
        }
    }

    fn wait_milliseconds(&self, list: &mut List, timeout: Option<i32>) -> io::Result<()> {
        let timeout = timeout.map(|ms| Timespec {
            tv_sec: (ms / 1000).into(),
            tv_nsec: (ms % 1000 * 1_000_000).into(),
        });
        epoll::wait(&self.0, spare_capacity(list), timeout.as_ref())?;
        Ok(())
    }

    fn wait_nanoseconds(&self, list: &mut List, timeout: Duration) -> io::Result<()> {
        // The kernel's own 64-bit timespec, whatever libc's looks like here.
        let timeout = Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        let room = list.capacity() - list.len();
        // SAFETY: the pointers are to `room` spare events, laid out as the kernel wants them, and
        // to a timespec of this frame; the null signal mask has no size.
        let n = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.0.as_raw_fd(),
                list.as_mut_ptr().add(list.len()),
                room as libc::c_int,
                &raw const timeout,
                std::ptr::null::<libc::sigset_t>(),
                0usize,
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
        self.0.as_raw_fd()
    }
}

fn flags(interest: Interest, mode: Mode) -> epoll::EventFlags {
    let mut flags = epoll::EventFlags::empty();
    if interest.contains(Interest::READ) {
        // RDHUP belongs to reading: told to a level-triggered writer alone, it would never stop.
        flags |= epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
    }
    if interest.contains(Interest::WRITE) {
        flags |= epoll::EventFlags::OUT;
    }
    if mode == Mode::Edge {
        flags |= epoll::EventFlags::ET;
    }
    flags
}

/// Kernel bits and ours, pair by pair.
const BITS: [(epoll::EventFlags, Readiness); 6] = [
    (epoll::EventFlags::IN, Readiness::READ),
    (epoll::EventFlags::PRI, Readiness::READ),
    (epoll::EventFlags::OUT, Readiness::WRITE),
    (epoll::EventFlags::RDHUP, Readiness::READ_CLOSED),
    (epoll::EventFlags::HUP, Readiness::HANGUP),
    (epoll::EventFlags::ERR, Readiness::ERROR),
];

#[inline]
pub(super) fn event(raw: &epoll::Event) -> Event {
    // By value: the kernel's event is packed on x86-64.
    let (flags, data) = (raw.flags, raw.data);
    let readiness = BITS
        .iter()
        .fold(Readiness::empty(), |readiness, &(theirs, ours)| {
            if flags.contains(theirs) {
                readiness.union(ours)
            } else {
                readiness
            }
        });
    Event {
        token: data.u64(),
        readiness,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_the_kernel_counts_milliseconds_a_sleep_is_not_short_either() {
        let selector = Selector::new().unwrap();
        let mut list = List::with_capacity(1);
        MILLISECONDS_ONLY.store(true, Ordering::Relaxed);
        for nanos in [1, 900_000, 1_000_001, 2_999_999] {
            let start = crate::clock::now();
            selector
                .wait(&mut list, Some(Duration::from_nanos(nanos)))
                .unwrap();
            let slept = crate::clock::now() - start;
            assert!(slept >= nanos, "{slept} of {nanos}");
        }
        MILLISECONDS_ONLY.store(false, Ordering::Relaxed);
    }
}
