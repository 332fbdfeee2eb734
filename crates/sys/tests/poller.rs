//! The poller's contract, promise by promise.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use ropewalk_sys::clock;
use ropewalk_sys::poller::{Event, Events, Interest, Mode, Poller, Readiness};
use ropewalk_sys::waker::Waker;

fn pair() -> (UnixStream, UnixStream) {
    let (a, b) = UnixStream::pair().unwrap();
    a.set_nonblocking(true).unwrap();
    b.set_nonblocking(true).unwrap();
    (a, b)
}

/// What is ready now, bits of one token put together: a backend may give several events for one
/// descriptor.
fn look(poller: &Poller) -> Vec<Event> {
    let mut events = Events::new();
    poller.wait(&mut events, Some(Duration::ZERO)).unwrap();
    let mut all: Vec<Event> = Vec::new();
    for event in events.iter() {
        match all.iter_mut().find(|e| e.token == event.token) {
            Some(e) => e.readiness = e.readiness.union(event.readiness),
            None => all.push(event),
        }
    }
    all
}

#[test]
fn level_tells_while_ready() {
    let poller = Poller::new().unwrap();
    let (mut a, mut b) = pair();
    poller
        .add(a.as_raw_fd(), 7, Interest::READ, Mode::Level)
        .unwrap();
    assert_eq!(look(&poller), []);
    b.write_all(b"x").unwrap();
    let ready = [Event {
        token: 7,
        readiness: Readiness::READ,
    }];
    assert_eq!(look(&poller), ready);
    assert_eq!(look(&poller), ready);
    assert_eq!(a.read(&mut [0; 8]).unwrap(), 1);
    assert_eq!(look(&poller), []);
}

#[test]
fn edge_tells_once_for_each_edge() {
    let poller = Poller::new().unwrap();
    let (a, mut b) = pair();
    b.write_all(b"before").unwrap();
    poller
        .add(a.as_raw_fd(), 7, Interest::READ, Mode::Edge)
        .unwrap();
    assert_eq!(look(&poller).len(), 1); // ready when it was added
    assert_eq!(look(&poller), []);
    b.write_all(b"after").unwrap();
    assert_eq!(look(&poller).len(), 1); // again, though nobody has read
    assert_eq!(look(&poller), []);
}

#[test]
fn modify_replaces_interest_and_token() {
    let poller = Poller::new().unwrap();
    let (a, mut b) = pair();
    b.write_all(b"x").unwrap();
    poller
        .add(a.as_raw_fd(), 1, Interest::READ, Mode::Level)
        .unwrap();
    poller
        .modify(a.as_raw_fd(), 2, Interest::WRITE, Mode::Level)
        .unwrap();
    assert_eq!(
        look(&poller),
        [Event {
            token: 2,
            readiness: Readiness::WRITE
        }]
    );
    poller
        .modify(a.as_raw_fd(), 3, Interest::BOTH, Mode::Level)
        .unwrap();
    let both = Readiness::READ.union(Readiness::WRITE);
    assert_eq!(
        look(&poller),
        [Event {
            token: 3,
            readiness: both
        }]
    );
    poller.delete(a.as_raw_fd()).unwrap();
    assert_eq!(look(&poller), []);
}

#[test]
fn the_end_of_the_peer_s_side_and_of_both() {
    let poller = Poller::new().unwrap();
    let (a, b) = pair();
    poller
        .add(a.as_raw_fd(), 1, Interest::READ, Mode::Level)
        .unwrap();
    b.shutdown(std::net::Shutdown::Write).unwrap();
    let half = look(&poller)[0].readiness;
    assert!(half.contains(Readiness::READ_CLOSED) && half.readable() && !half.writable());
    drop(b);
    let whole = look(&poller)[0].readiness;
    assert!(whole.readable());
    #[cfg(target_os = "linux")]
    assert!(whole.contains(Readiness::HANGUP) && whole.writable());
}

#[cfg(target_os = "linux")]
#[test]
fn what_the_kernel_does_not_know_is_an_error() {
    let poller = Poller::new().unwrap();
    let (a, _b) = pair();
    let fd = a.as_raw_fd();
    let kind = |result: std::io::Result<()>| result.unwrap_err().kind();
    assert_eq!(
        kind(poller.modify(fd, 1, Interest::READ, Mode::Level)),
        ErrorKind::NotFound
    );
    assert_eq!(kind(poller.delete(fd)), ErrorKind::NotFound);
    poller.add(fd, 1, Interest::READ, Mode::Level).unwrap();
    assert_eq!(
        kind(poller.add(fd, 1, Interest::READ, Mode::Level)),
        ErrorKind::AlreadyExists
    );
    let errno = |result: std::io::Result<()>| result.unwrap_err().raw_os_error();
    for fd in [-1, i32::MIN, i32::MAX] {
        assert_eq!(
            errno(poller.add(fd, 1, Interest::READ, Mode::Level)),
            Some(libc::EBADF)
        );
    }
    let file = std::fs::File::open("/proc/self/exe").unwrap();
    let added = poller.add(file.as_raw_fd(), 1, Interest::READ, Mode::Level);
    assert_eq!(errno(added), Some(libc::EPERM));
}

#[test]
fn closing_ends_the_registration() {
    let poller = Poller::new().unwrap();
    let (a, mut b) = pair();
    poller
        .add(a.as_raw_fd(), 1, Interest::BOTH, Mode::Level)
        .unwrap();
    assert_eq!(look(&poller).len(), 1);
    drop(a);
    assert_eq!(look(&poller), []);
    let _ = b.write(b"x");
    assert_eq!(look(&poller), []);
}

#[test]
fn a_sleep_is_never_short() {
    let poller = Poller::new().unwrap();
    let mut events = Events::new();
    for nanos in [1, 999, 50_000, 999_999, 1_000_001, 3_400_000] {
        let start = clock::now();
        poller
            .wait(&mut events, Some(Duration::from_nanos(nanos)))
            .unwrap();
        let slept = clock::now() - start;
        assert!(slept >= nanos, "{slept} of {nanos}");
        assert!(events.is_empty());
    }
}

#[test]
fn a_timeout_out_of_all_bounds_is_long() {
    let poller = Poller::new().unwrap();
    let waker = Waker::new().unwrap();
    poller
        .add(waker.as_raw_fd(), 1, Interest::READ, Mode::Level)
        .unwrap();
    waker.wake();
    for timeout in [Duration::MAX, Duration::from_nanos(u64::MAX)] {
        let mut events = Events::new();
        poller.wait(&mut events, Some(timeout)).unwrap();
        assert_eq!(events.len(), 1);
    }
}

#[test]
fn one_wait_takes_no_more_than_the_buffer_holds_and_the_next_takes_the_rest() {
    let poller = Poller::new().unwrap();
    let wakers: Vec<_> = (0..1500).map(|_| Waker::new().unwrap()).collect();
    for (token, waker) in (0..).zip(&wakers) {
        waker.wake();
        poller
            .add(waker.as_raw_fd(), token, Interest::READ, Mode::Edge)
            .unwrap();
    }
    let mut events = Events::new();
    let mut tokens = Vec::new();
    for expected in [1024, 476, 0] {
        poller.wait(&mut events, Some(Duration::ZERO)).unwrap();
        assert_eq!(events.len(), expected);
        tokens.extend(events.iter().map(|event| event.token));
    }
    tokens.sort_unstable();
    assert!(tokens.into_iter().eq(0..1500));
}

#[test]
fn registrations_change_while_another_thread_waits() {
    let poller = Poller::new().unwrap();
    let (a, mut b) = pair();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let mut events = Events::new();
            poller.wait(&mut events, None).unwrap();
            events.iter().next().map(|event| event.token)
        });
        poller
            .add(a.as_raw_fd(), 9, Interest::READ, Mode::Level)
            .unwrap();
        b.write_all(b"x").unwrap();
        assert_eq!(waiting.join().unwrap(), Some(9));
    });
}

#[test]
fn a_signal_ends_the_wait() {
    static HANDLED: AtomicUsize = AtomicUsize::new(0);
    extern "C" fn handler(_: libc::c_int) {
        HANDLED.fetch_add(1, Ordering::Relaxed);
    }
    // SAFETY: the handler only adds to an atomic; the structure is filled as sigaction wants it.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as extern "C" fn(libc::c_int) as libc::sighandler_t;
        assert_eq!(
            libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()),
            0
        );
    }
    let poller = Poller::new().unwrap();
    // SAFETY: no argument.
    let waiting_thread = unsafe { libc::pthread_self() } as usize;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Again and again: the first may come before the wait has begun.
            while !done.load(Ordering::Acquire) {
                // SAFETY: that thread is in this scope, so it is alive.
                unsafe { libc::pthread_kill(waiting_thread as libc::pthread_t, libc::SIGUSR1) };
                std::thread::yield_now();
            }
        });
        for timeout in [None, Some(Duration::from_secs(600))] {
            let mut events = Events::new();
            let error = poller.wait(&mut events, timeout).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Interrupted);
            assert!(events.is_empty());
        }
        done.store(true, Ordering::Release);
    });
    assert!(HANDLED.load(Ordering::Relaxed) > 0);
}

#[test]
fn a_waker_s_wakes_count_as_one_and_each_is_an_edge() {
    let poller = Poller::new().unwrap();
    let waker = Waker::new().unwrap();
    poller
        .add(waker.as_raw_fd(), 1, Interest::READ, Mode::Edge)
        .unwrap();
    for _ in 0..3 {
        waker.wake();
        waker.wake();
        assert_eq!(look(&poller).len(), 1); // never drained
    }
    waker.drain();
    poller
        .modify(waker.as_raw_fd(), 1, Interest::READ, Mode::Level)
        .unwrap();
    assert_eq!(look(&poller), []);
    waker.wake();
    assert_eq!(look(&poller).len(), 1);
    waker.drain();
    waker.drain(); // does not block
    assert_eq!(look(&poller), []);
}

#[cfg(target_os = "linux")]
#[test]
fn a_waker_full_of_wakes_still_wakes() {
    let poller = Poller::new().unwrap();
    let waker = Waker::new().unwrap();
    poller
        .add(waker.as_raw_fd(), 1, Interest::READ, Mode::Edge)
        .unwrap();
    let most = u64::MAX - 1;
    // SAFETY: eight bytes of this frame.
    let written = unsafe { libc::write(waker.as_raw_fd(), (&raw const most).cast(), 8) };
    assert_eq!(written, 8);
    assert_eq!(look(&poller).len(), 1);
    waker.wake();
    assert_eq!(look(&poller).len(), 1);
}

#[test]
fn nothing_is_inherited_by_another_program() {
    let poller = Poller::new().unwrap();
    let waker = Waker::new().unwrap();
    for fd in [poller.as_raw_fd(), waker.as_raw_fd()] {
        // SAFETY: no pointer is passed.
        let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
        assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
    }
}

#[test]
fn pollers_nest() {
    let (inner, outer) = (Poller::new().unwrap(), Poller::new().unwrap());
    let (a, mut b) = pair();
    outer
        .add(inner.as_raw_fd(), 1, Interest::READ, Mode::Level)
        .unwrap();
    inner
        .add(a.as_raw_fd(), 2, Interest::READ, Mode::Level)
        .unwrap();
    assert_eq!(look(&outer), []);
    b.write_all(b"x").unwrap();
    assert_eq!(look(&outer).len(), 1);
}
