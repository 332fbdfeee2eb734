//! Pushing from other threads, and forking while they do.

#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use ropewalk_reactor::{Events, Plan, Reactor, Side, now};
use ropewalk_sys::child::{ChildWatch, Exit, reap};
use ropewalk_sys::poller::{Interest, Mode, Poller};

const HOUR: u64 = 3600 * 1_000_000_000;

fn turn<H: Clone>(reactor: &mut Reactor<H>, events: &mut Events) -> Vec<H> {
    let plan = reactor.prepare(true);
    reactor.sleeper().poll(events, &plan).unwrap();
    reactor.collect(events);
    std::iter::from_fn(|| reactor.pop())
        .map(|job| job.handle)
        .collect()
}

#[test]
fn pushes_from_many_threads_all_arrive_and_each_thread_s_in_order() {
    const THREADS: usize = 4;
    const PUSHES: usize = 20_000;
    let (mut reactor, mut events) = (Reactor::new().unwrap(), Events::new());
    let start = Barrier::new(THREADS + 1);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (remote, start) = (reactor.remote(), &start);
            scope.spawn(move || {
                start.wait();
                for i in 0..PUSHES {
                    remote.push((thread, i)).unwrap();
                    if i % 64 == 0 {
                        std::thread::yield_now(); // let the loop fall asleep now and then
                    }
                }
            });
        }
        start.wait();
        let mut next = [0; THREADS];
        while next != [PUSHES; THREADS] {
            for (thread, i) in turn(&mut reactor, &mut events) {
                assert_eq!(next[thread], i);
                next[thread] += 1;
            }
        }
    });
    assert_eq!(reactor.collect(&mut events), 0);
}

#[test]
fn a_push_wakes_a_sleep_every_time() {
    // Ping-pong: one lost wake-up, and it stands still.
    let (mut reactor, mut events) = (Reactor::new().unwrap(), Events::new());
    let remote = reactor.remote();
    let answered = Arc::new(AtomicUsize::new(0));
    let pusher = std::thread::spawn({
        let answered = answered.clone();
        move || {
            for i in 1..=20_000 {
                remote.push(i).unwrap();
                while answered.load(Ordering::Acquire) < i {
                    std::thread::yield_now();
                }
            }
        }
    });
    let mut last = 0;
    while last < 20_000 {
        for i in turn(&mut reactor, &mut events) {
            assert_eq!(i, last + 1);
            last = i;
            answered.store(i, Ordering::Release);
        }
    }
    pusher.join().unwrap();
}

#[test]
fn a_burst_of_pushes_rings_once() {
    let (mut reactor, mut events) = (Reactor::new().unwrap(), Events::new());
    let remote = reactor.remote();
    for i in 0..1000 {
        remote.push(i).unwrap(); // awake: no ring
    }
    assert_eq!(turn(&mut reactor, &mut events).len(), 1000);
    // Nothing rang, so nothing ends a look.
    reactor.sleeper().poll(&mut events, &Plan::Look).unwrap();
    assert!(events.is_empty());
}

#[test]
fn a_sleeper_is_polled_while_the_reactor_is_changed() {
    let mut reactor = Reactor::new().unwrap();
    let (a, mut b) = UnixStream::pair().unwrap();
    let sleeper = reactor.sleeper();
    assert_eq!(reactor.prepare(true), Plan::Sleep(None));
    let sleeping = std::thread::spawn(move || {
        let mut events = Events::new();
        sleeper
            .poll(&mut events, &Plan::Sleep(None))
            .map(|()| events)
    });
    // None of these ends the sleep by itself; the last one is told.
    reactor.push("pushed");
    let key = reactor.add_timer(now() + HOUR, "timer");
    reactor.cancel_timer(key);
    reactor.watch(a.as_raw_fd(), Side::Read, "read").unwrap();
    b.write_all(b"x").unwrap();
    let mut events = sleeping.join().unwrap().unwrap();
    assert_eq!(reactor.collect(&mut events), 2);
    assert_eq!(reactor.pop().unwrap().handle, "pushed");
    assert_eq!(reactor.pop().unwrap().handle, "read");
}

#[test]
fn a_bare_wake_ends_the_sleep_or_keeps_it_from_beginning() {
    let (mut reactor, mut events) = (Reactor::<()>::new().unwrap(), Events::new());
    for _ in 0..1000 {
        let sleeper = reactor.sleeper();
        let waker = std::thread::spawn(move || sleeper.wake());
        let plan = reactor.prepare(true);
        reactor.sleeper().poll(&mut events, &plan).unwrap(); // without the wake: for ever
        waker.join().unwrap();
        assert_eq!(reactor.collect(&mut events), 0);
    }
}

/// Forks; the child runs `check` and leaves with 0 if that held. A child that hangs is ended by its
/// alarm.
fn in_child(check: impl FnOnce() -> bool) -> Exit {
    // SAFETY: the child uses the allocator, which the C library makes usable after a fork, and what
    // the test says; it leaves by `_exit`, so that nothing of the parent's is run twice.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: as above.
        unsafe {
            libc::alarm(60);
            libc::_exit(i32::from(!check()));
        }
    }
    let watch = ChildWatch::open(pid).unwrap();
    let (poller, mut events) = (Poller::new().unwrap(), Events::new());
    poller
        .add(watch.as_raw_fd(), 0, Interest::READ, Mode::Level)
        .unwrap();
    poller
        .wait(&mut events, Some(Duration::from_secs(120)))
        .unwrap();
    reap(pid).unwrap().unwrap()
}

#[test]
fn a_forked_child_reopens_and_leaves_the_parent_s_poller_alone() {
    let (mut reactor, mut events) = (Reactor::new().unwrap(), Events::new());
    let (watched, mut feed_watched) = UnixStream::pair().unwrap();
    let (attached, mut feed_attached) = UnixStream::pair().unwrap();
    let (gone, _gone_peer) = UnixStream::pair().unwrap();
    reactor
        .watch(watched.as_raw_fd(), Side::Read, "watched")
        .unwrap();
    let token = reactor.attach(attached.as_raw_fd(), "attached").unwrap();
    reactor.watch(gone.as_raw_fd(), Side::Read, "gone").unwrap();
    assert_eq!(turn(&mut reactor, &mut events), ["attached"]); // room to write
    let remote = reactor.remote();
    remote.push("pushed before").unwrap();
    let timer = reactor.add_timer(now(), "timer");
    reactor.push("ready");

    let exit = in_child(|| {
        let before = reactor.sleeper();
        // Before it is reopened: removing leaves the parent's poller alone, adding and polling are
        // refused.
        let unwatched = reactor.unwatch(watched.as_raw_fd(), Side::Read) == Some("watched");
        let refused = reactor.watch(watched.as_raw_fd(), Side::Read, "x").is_err()
            && reactor.attach(watched.as_raw_fd(), "x").is_err()
            && reactor.watch_child(1, "x").is_err()
            && before.poll(&mut Events::new(), &Plan::Look).is_err();
        // SAFETY: closes the child's copy; the owner leaves by `_exit` and never looks again.
        unsafe { libc::close(gone.as_raw_fd()) };
        reactor.reopen().unwrap();
        let rewatched = reactor
            .watch(watched.as_raw_fd(), Side::Read, "rewatched")
            .is_ok();
        remote.push("pushed after").unwrap(); // by the remote of before
        feed_watched.write_all(b"x").unwrap();
        let mut all = turn(&mut reactor, &mut events);
        let first = all.remove(0) == "ready";
        all.sort_unstable();
        let told = all
            == [
                "attached",
                "pushed after",
                "pushed before",
                "rewatched",
                "timer",
            ];
        // What was read here the parent must not find.
        let token_holds = reactor.detach(token) == Some("attached");
        let lost = reactor.drain();
        unwatched
            && refused
            && rewatched
            && first
            && told
            && token_holds
            && lost == ["rewatched", "gone"]
    });
    assert_eq!(exit, Exit::Code(0));

    // Here everything is as it was.
    assert_eq!(reactor.cancel_timer(timer), Some("timer"));
    feed_attached.write_all(b"x").unwrap();
    let mut all = turn(&mut reactor, &mut events);
    all.sort_unstable();
    assert_eq!(all, ["attached", "pushed before", "ready", "watched"]);
    assert_eq!(reactor.unwatch(gone.as_raw_fd(), Side::Read), Some("gone"));
}

#[test]
fn a_child_forked_while_threads_push_reopens_or_closes() {
    let mut reactor = Reactor::new().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let pushers: Vec<_> = (0..2)
        .map(|_| {
            let (remote, stop) = (reactor.remote(), stop.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    remote.push(0).unwrap();
                    std::thread::yield_now();
                }
            })
        })
        .collect();
    let mut events = Events::new();
    let remote = reactor.remote();
    for round in 0..30 {
        let exit = in_child(|| {
            // Refused, if a vanished thread holds the lock, rather than waiting for ever.
            let early = remote.push(1);
            if round % 2 == 0 {
                reactor.reopen().unwrap();
                remote.push(2).unwrap();
                reactor.sleeper().poll(&mut events, &Plan::Look).unwrap();
                reactor.collect(&mut events);
                let all: Vec<_> = std::iter::from_fn(|| reactor.pop())
                    .map(|job| job.handle)
                    .collect();
                all.last() == Some(&2) && (early.is_err() || all.contains(&1))
            } else {
                // Never reopened, only closed.
                let drained = reactor.drain();
                remote.push(3) == Err(3) && (early.is_err() || drained.contains(&1))
            }
        });
        assert_eq!(exit, Exit::Code(0), "round {round}");
        reactor.sleeper().poll(&mut events, &Plan::Look).unwrap();
        reactor.collect(&mut events);
        while reactor.pop().is_some() {}
    }
    stop.store(true, Ordering::Relaxed);
    for pusher in pushers {
        pusher.join().unwrap();
    }
}
