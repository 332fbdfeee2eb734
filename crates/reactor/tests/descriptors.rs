//! Watches, attachments and children, and what becomes of them when descriptors go and come.

#![cfg(not(loom))]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::zombie_processes,
    reason = "tests; what is spawned here is reaped by `reap`"
)]

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use ropewalk_reactor::{Events, Plan, Reactor, Readiness, Side};
use ropewalk_sys::child::{Exit, reap};

fn reactor<H: Clone>() -> (Reactor<H>, Events) {
    (Reactor::new().unwrap(), Events::new())
}

fn pair() -> (UnixStream, UnixStream) {
    let (a, b) = UnixStream::pair().unwrap();
    a.set_nonblocking(true).unwrap();
    b.set_nonblocking(true).unwrap();
    (a, b)
}

/// Reading end, writing end.
fn pipe() -> (OwnedFd, OwnedFd) {
    let mut ends = [-1; 2];
    // SAFETY: the call writes two numbers into this frame, of descriptors that are then ours.
    unsafe {
        assert_eq!(libc::pipe(ends.as_mut_ptr()), 0);
        (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1]))
    }
}

/// What is ready now, in order of handles, a descriptor's events put together.
fn look<H: Clone + Ord>(reactor: &mut Reactor<H>, events: &mut Events) -> Vec<H> {
    reactor.sleeper().poll(events, &Plan::Look).unwrap();
    reactor.collect(events);
    let mut all: Vec<H> = std::iter::from_fn(|| reactor.pop())
        .map(|job| job.handle)
        .collect();
    all.sort();
    all.dedup();
    all
}

/// Moves a socket to a number that only this test uses: the kernel gives the lowest free ones to
/// all others.
fn high(socket: UnixStream, number: RawFd) -> UnixStream {
    // SAFETY: no pointer is passed, and nobody owns what is at the number: the test has closed it,
    // or never used it.
    unsafe {
        assert_eq!(libc::dup2(socket.as_raw_fd(), number), number);
        UnixStream::from_raw_fd(number)
    }
}

#[test]
fn a_watch_tells_every_turn_while_its_side_is_ready() {
    let (mut reactor, mut events) = reactor();
    let (mut a, mut b) = pair();
    let fd = a.as_raw_fd();
    assert_eq!(reactor.watch(fd, Side::Read, "r").unwrap(), None);
    assert_eq!(look(&mut reactor, &mut events), [""; 0]);
    b.write_all(b"xy").unwrap();
    assert_eq!(look(&mut reactor, &mut events), ["r"]);
    assert_eq!(look(&mut reactor, &mut events), ["r"]);
    assert_eq!(reactor.watch(fd, Side::Write, "w").unwrap(), None);
    assert_eq!(look(&mut reactor, &mut events), ["r", "w"]);
    assert_eq!(reactor.watch(fd, Side::Read, "r2").unwrap(), Some("r"));
    assert_eq!(reactor.watched(fd, Side::Read), Some(&"r2"));
    assert_eq!(a.read(&mut [0; 8]).unwrap(), 2);
    assert_eq!(look(&mut reactor, &mut events), ["w"]);
    assert_eq!(reactor.unwatch(fd, Side::Write), Some("w"));
    assert_eq!(reactor.unwatch(fd, Side::Write), None);
    assert_eq!(look(&mut reactor, &mut events), [""; 0]);
    b.write_all(b"z").unwrap();
    assert_eq!(look(&mut reactor, &mut events), ["r2"]);
    assert_eq!(reactor.unwatch(fd, Side::Read), Some("r2"));
    assert_eq!(look(&mut reactor, &mut events), [""; 0]);
    assert_eq!(reactor.watched(fd, Side::Read), None);
    assert_eq!(reactor.unwatch(fd, Side::Read), None);
}

#[test]
fn a_job_says_what_its_descriptor_is_ready_for() {
    let (mut reactor, mut events) = reactor();
    let (a, mut b) = pair();
    reactor.attach(a.as_raw_fd(), ()).unwrap();
    b.write_all(b"x").unwrap();
    drop(b);
    reactor.sleeper().poll(&mut events, &Plan::Look).unwrap();
    reactor.collect(&mut events);
    let readiness = std::iter::from_fn(|| reactor.pop())
        .fold(Readiness::empty(), |all, job| all.union(job.readiness));
    assert!(readiness.contains(Readiness::READ.union(Readiness::READ_CLOSED)));
    assert!(readiness.readable() && readiness.writable());
}

#[test]
fn a_hang_up_is_told_to_both_sides() {
    let (mut reactor, mut events) = reactor();
    // A pipe's reading end cannot be written and its writing end not read, but both must learn of
    // the other's end.
    let (reader, writer) = pipe();
    let fd = reader.as_raw_fd();
    reactor.watch(fd, Side::Read, "r").unwrap();
    drop(writer);
    assert_eq!(look(&mut reactor, &mut events), ["r"]);

    let (reader, writer) = pipe();
    let fd = writer.as_raw_fd();
    reactor.watch(fd, Side::Read, "writer's r").unwrap();
    drop(reader);
    let told = look(&mut reactor, &mut events);
    #[cfg(target_os = "linux")]
    assert!(told.contains(&"writer's r"));
    #[cfg(not(target_os = "linux"))]
    let _ = told;

    let (a, b) = pair();
    reactor.watch(a.as_raw_fd(), Side::Read, "both r").unwrap();
    reactor.watch(a.as_raw_fd(), Side::Write, "both w").unwrap();
    drop(b);
    let told = look(&mut reactor, &mut events);
    assert!(told.contains(&"both r") && told.contains(&"both w"));
}

#[test]
fn an_attachment_tells_of_each_edge_on_either_side() {
    let (mut reactor, mut events) = reactor();
    let (mut a, mut b) = pair();
    let token = reactor.attach(a.as_raw_fd(), "t").unwrap();
    assert!(reactor.is_attached(a.as_raw_fd()) && !reactor.is_attached(b.as_raw_fd()));
    assert_eq!(look(&mut reactor, &mut events), ["t"]); // room to write
    assert_eq!(look(&mut reactor, &mut events), [""; 0]);
    b.write_all(b"x").unwrap();
    assert_eq!(look(&mut reactor, &mut events), ["t"]);
    assert_eq!(look(&mut reactor, &mut events), [""; 0]);
    let full = std::iter::repeat_with(|| a.write(&[0; 65536]))
        .find_map(Result::err)
        .unwrap();
    assert_eq!(full.kind(), ErrorKind::WouldBlock);
    while b.read(&mut [0; 65536]).is_ok() {}
    assert_eq!(look(&mut reactor, &mut events), ["t"]); // room again
    assert_eq!(reactor.detach(token), Some("t"));
    assert_eq!(reactor.detach(token), None);
    assert!(!reactor.is_attached(a.as_raw_fd()));
    b.write_all(b"x").unwrap();
    assert_eq!(look(&mut reactor, &mut events), [""; 0]);
}

#[test]
fn a_descriptor_is_watched_or_attached_and_not_both() {
    let (mut reactor, mut events) = reactor();
    let (a, b) = pair();
    reactor.attach(a.as_raw_fd(), 'a').unwrap();
    let (error, handle) = reactor.watch(a.as_raw_fd(), Side::Read, 'x').unwrap_err();
    assert_eq!((error.kind(), handle), (ErrorKind::InvalidInput, 'x'));
    let (error, handle) = reactor.attach(a.as_raw_fd(), 'x').unwrap_err();
    assert_eq!((error.kind(), handle), (ErrorKind::InvalidInput, 'x'));
    assert_eq!(reactor.unwatch(a.as_raw_fd(), Side::Read), None);

    reactor.watch(b.as_raw_fd(), Side::Write, 'b').unwrap();
    let (error, handle) = reactor.attach(b.as_raw_fd(), 'x').unwrap_err();
    assert_eq!((error.kind(), handle), (ErrorKind::InvalidInput, 'x'));
    assert_eq!(look(&mut reactor, &mut events), ['a', 'b']); // both untouched
}

#[test]
fn what_cannot_be_polled_is_refused_and_handed_back() {
    let (mut reactor, _) = reactor();
    for fd in [-1, i32::MIN, i32::MAX] {
        let (error, handle) = reactor.watch(fd, Side::Read, 'h').unwrap_err();
        assert_eq!((error.raw_os_error(), handle), (Some(libc::EBADF), 'h'));
        let (error, handle) = reactor.attach(fd, 'h').unwrap_err();
        assert_eq!((error.raw_os_error(), handle), (Some(libc::EBADF), 'h'));
        assert_eq!(reactor.unwatch(fd, Side::Read), None);
        assert_eq!(reactor.watched(fd, Side::Read), None);
        assert!(!reactor.is_attached(fd));
    }
    #[cfg(target_os = "linux")]
    {
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        let (error, handle) = reactor
            .watch(file.as_raw_fd(), Side::Read, 'h')
            .unwrap_err();
        assert_eq!((error.raw_os_error(), handle), (Some(libc::EPERM), 'h'));
        assert_eq!(reactor.watched(file.as_raw_fd(), Side::Read), None);
    }
    assert_eq!(reactor.drain(), []);
}

#[test]
fn a_watched_descriptor_that_was_closed_can_be_unwatched_and_is_silent() {
    let (mut reactor, mut events) = reactor();
    let (a, b) = pair();
    let a = high(a, 900);
    reactor.watch(900, Side::Read, "r").unwrap();
    reactor.watch(900, Side::Write, "w").unwrap();
    drop((a, b));
    assert_eq!(look(&mut reactor, &mut events), [""; 0]);
    assert_eq!(reactor.unwatch(900, Side::Read), Some("r"));
    assert_eq!(reactor.unwatch(900, Side::Write), Some("w"));
}

#[test]
fn a_number_that_was_closed_under_a_watch_and_is_used_again_is_watched_again() {
    let (mut reactor, mut events) = reactor();
    let (old, old_peer) = pair();
    let old = high(old, 910);
    reactor.watch(910, Side::Read, "old r").unwrap();
    drop(old);
    let (new, mut new_peer) = pair();
    let new = high(new, 910);
    // The table has this side, the kernel nothing: modify must turn into add.
    assert_eq!(
        reactor.watch(910, Side::Read, "new r").unwrap(),
        Some("old r")
    );
    new_peer.write_all(b"x").unwrap();
    drop(old_peer);
    assert_eq!(look(&mut reactor, &mut events), ["new r"]);
    // And the same for the other side.
    drop(new);
    let (newer, _newer_peer) = pair();
    let _newer = high(newer, 910);
    assert_eq!(reactor.watch(910, Side::Write, "newer w").unwrap(), None);
    assert_eq!(look(&mut reactor, &mut events), ["newer w"]);
}

#[test]
fn a_number_that_was_closed_under_a_watch_can_be_attached_and_the_stale_handles_come_with_drain() {
    let (mut reactor, mut events) = reactor();
    let (old, _old_peer) = pair();
    let old = high(old, 920);
    reactor.watch(920, Side::Read, "stale").unwrap();
    drop(old);
    let (new, _new_peer) = pair();
    let new = high(new, 920);
    let token = reactor.attach(920, "attached").unwrap();
    assert_eq!(look(&mut reactor, &mut events), ["attached"]);
    assert_eq!(reactor.watched(920, Side::Read), None);
    // Closed without detaching, and the number attached again: the first token is of the past.
    drop(new);
    let (newer, _newer_peer) = pair();
    let _newer = high(newer, 920);
    let second = reactor.attach(920, "second").unwrap();
    assert_ne!(token, second);
    assert_eq!(reactor.detach(token), None);
    let mut left = reactor.drain();
    left.sort_unstable();
    assert_eq!(left, ["attached", "second", "stale"]);
}

#[test]
fn an_event_that_was_on_its_way_to_a_removed_registration_is_dropped() {
    let (mut reactor, mut events) = reactor();
    let (a, mut b) = pair();
    let a = high(a, 930);
    let token = reactor.attach(930, "old").unwrap();
    b.write_all(b"x").unwrap();
    reactor.sleeper().poll(&mut events, &Plan::Look).unwrap();
    assert!(!events.is_empty());
    // Between the second phase and the third, another thread may do this.
    assert_eq!(reactor.detach(token), Some("old"));
    drop(a);
    let (new, _new_peer) = pair();
    let _new = high(new, 930);
    reactor.watch(930, Side::Read, "new").unwrap();
    assert_eq!(reactor.collect(&mut events), 0);
}

#[test]
fn a_child_s_end_is_told_once() {
    let (mut reactor, mut events) = reactor();
    let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    let pid = child.id() as i32;
    let key = reactor.watch_child(pid, "ended").unwrap();
    let other = reactor.watch_child(pid, "other").unwrap(); // two may watch one
    assert_eq!(look(&mut reactor, &mut events), [""; 0]);
    assert_eq!(reactor.unwatch_child(other), Some("other"));
    assert_eq!(reactor.unwatch_child(other), None);
    drop(child.stdin.take());
    let plan = reactor.prepare(true);
    assert_eq!(plan, Plan::Sleep(None));
    while let Err(error) = reactor.sleeper().poll(&mut events, &plan) {
        assert_eq!(error.kind(), std::io::ErrorKind::Interrupted); // by the end of another test's child
    }
    assert_eq!(reactor.collect(&mut events), 1);
    let job = reactor.pop().unwrap();
    assert!(job.handle == "ended" && job.readiness.is_empty());
    assert_eq!(reap(pid).unwrap(), Some(Exit::Code(0)));
    assert_eq!(look(&mut reactor, &mut events), [""; 0]);
    assert_eq!(reactor.unwatch_child(key), None);
}

#[test]
fn a_child_that_has_ended_already_is_told_too_and_none_is_an_error() {
    let (mut reactor, mut events) = reactor();
    let child = Command::new("true").spawn().unwrap();
    let pid = child.id() as i32;
    let mut ended = std::mem::MaybeUninit::uninit();
    // SAFETY: waits for our own child without reaping it, and writes into this frame.
    let waited = unsafe {
        libc::waitid(
            libc::P_PID,
            pid as _,
            ended.as_mut_ptr(),
            libc::WEXITED | libc::WNOWAIT,
        )
    };
    assert_eq!(waited, 0);
    reactor.watch_child(pid, "ended").unwrap();
    assert_eq!(look(&mut reactor, &mut events), ["ended"]);
    assert_eq!(reap(pid).unwrap(), Some(Exit::Code(0)));
    let (error, handle) = reactor.watch_child(-5, "none").unwrap_err();
    assert_eq!((error.raw_os_error(), handle), (Some(libc::ESRCH), "none"));
}

#[test]
fn a_kept_registration_tells_once_each_time_that_its_descriptor_turns_ready() {
    let (mut reactor, mut events) = reactor();
    let (mut a, mut b) = pair();
    let token = reactor.keep(a.as_raw_fd(), "k").unwrap();
    assert!(reactor.is_kept(token) && !reactor.is_attached(a.as_raw_fd()));
    assert_eq!(look(&mut reactor, &mut events), ["k"]);
    assert_eq!(look(&mut reactor, &mut events), [""; 0]);
    b.write_all(b"x").unwrap();
    assert_eq!(look(&mut reactor, &mut events), ["k"]);
    assert_eq!(look(&mut reactor, &mut events), [""; 0]);
    assert_eq!(a.read(&mut [0; 8]).unwrap(), 1);
    assert_eq!(reactor.detach(token), Some("k"));
    assert!(!reactor.is_kept(token));
    b.write_all(b"x").unwrap();
    assert_eq!(look(&mut reactor, &mut events), [""; 0]);
}

#[test]
fn a_kept_registration_gives_way_to_a_watch() {
    let (mut reactor, mut events) = reactor();
    let (a, mut b) = pair();
    let fd = a.as_raw_fd();
    let token = reactor.keep(fd, "k").unwrap();
    assert_eq!(reactor.unwatch(fd, Side::Read), None);
    assert_eq!(reactor.watch(fd, Side::Read, "r").unwrap(), Some("k"));
    assert!(!reactor.is_kept(token));
    assert_eq!(reactor.detach(token), None);
    b.write_all(b"x").unwrap();
    assert_eq!(look(&mut reactor, &mut events), ["r"]);
    assert_eq!(look(&mut reactor, &mut events), ["r"], "by level");
    let refused = reactor.keep(fd, "k").unwrap_err();
    assert_eq!(
        (refused.0.kind(), refused.1),
        (ErrorKind::InvalidInput, "k")
    );
    assert_eq!(reactor.unwatch(fd, Side::Read), Some("r"));
    assert!(reactor.keep(fd, "k").is_ok());
}

#[test]
fn a_kept_registration_gives_way_to_a_transport_and_to_the_next_one() {
    let (mut reactor, mut events) = reactor();
    let (a, mut b) = pair();
    let fd = a.as_raw_fd();
    let first = reactor.keep(fd, "k1").unwrap();
    let second = reactor.keep(fd, "k2").unwrap();
    assert!(!reactor.is_kept(first) && reactor.is_kept(second));
    assert_eq!(reactor.take_lost(), ["k1"]);
    let token = reactor.attach(fd, "t").unwrap();
    assert!(reactor.is_attached(fd) && !reactor.is_kept(second));
    assert_eq!(reactor.take_lost(), ["k2"]);
    assert_eq!(look(&mut reactor, &mut events), ["t"]);
    b.write_all(b"x").unwrap();
    assert_eq!(look(&mut reactor, &mut events), ["t"]);
    let refused = reactor.keep(fd, "k3").unwrap_err();
    assert_eq!(
        (refused.0.kind(), refused.1),
        (ErrorKind::InvalidInput, "k3")
    );
    assert_eq!(reactor.detach(token), Some("t"));
}

#[test]
fn a_kept_registration_of_a_closed_descriptor_is_no_obstacle_to_the_next_of_its_number() {
    const NUMBER: RawFd = 814;
    let (mut reactor, mut events) = reactor();
    let (a, _b) = pair();
    let a = high(a, NUMBER);
    let kept = reactor.keep(NUMBER, "k").unwrap();
    drop(a);
    let (c, mut d) = pair();
    let c = high(c, NUMBER);
    assert!(reactor.is_kept(kept), "nobody has said a word");
    assert_eq!(look(&mut reactor, &mut events), [""; 0]);
    let next = reactor.keep(NUMBER, "l").unwrap();
    assert!(!reactor.is_kept(kept) && reactor.is_kept(next));
    assert_eq!(look(&mut reactor, &mut events), ["l"]);
    d.write_all(b"x").unwrap();
    assert_eq!(look(&mut reactor, &mut events), ["l"]);
    drop(c);
    let (e, mut f) = pair();
    let e = high(e, NUMBER);
    assert_eq!(reactor.watch(NUMBER, Side::Read, "r").unwrap(), Some("l"));
    f.write_all(b"x").unwrap();
    assert_eq!(look(&mut reactor, &mut events), ["r"]);
    assert_eq!(reactor.unwatch(NUMBER, Side::Read), Some("r"));
    drop(e);
}
