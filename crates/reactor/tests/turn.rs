//! The turn: when it sleeps, looks or skips, and what comes in which order.

#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::io::{ErrorKind, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ropewalk_reactor::{Events, Job, LOOK_NANOS, LOOK_TURNS, Plan, Reactor, Readiness, Side, now};

const MILLISECOND: u64 = 1_000_000;

fn reactor<H: Clone>() -> (Reactor<H>, Events) {
    let mut reactor = Reactor::new().unwrap();
    reactor.begin_run();
    (reactor, Events::new())
}

/// One turn; returns its batch.
fn turn<H: Clone>(reactor: &mut Reactor<H>, events: &mut Events) -> Vec<H> {
    let plan = reactor.prepare(true);
    reactor.sleeper().poll(events, &plan).unwrap();
    let batch = reactor.collect(events);
    (0..batch)
        .map_while(|_| reactor.pop())
        .map(|job| job.handle)
        .collect()
}

#[test]
fn the_ready_queue_is_first_in_first_out() {
    let (mut reactor, _) = reactor();
    reactor.push("a");
    reactor.push_job(Job {
        handle: "b",
        readiness: Readiness::READ,
    });
    reactor.push("c");
    assert_eq!(reactor.ready_len(), 3);
    assert_eq!(
        reactor.pop(),
        Some(Job {
            handle: "a",
            readiness: Readiness::empty()
        })
    );
    assert_eq!(
        reactor.pop(),
        Some(Job {
            handle: "b",
            readiness: Readiness::READ
        })
    );
    assert_eq!(reactor.pop().unwrap().handle, "c");
    assert_eq!(reactor.pop(), None);
}

#[test]
fn with_nothing_ready_it_sleeps_until_the_next_timer() {
    let (mut reactor, _) = reactor::<()>();
    assert_eq!(reactor.prepare(true), Plan::Sleep(None));
    assert_eq!(reactor.prepare(false), Plan::Look);
    let hour = 3600 * Duration::from_secs(1);
    let key = reactor.add_timer(now() + hour.as_nanos() as u64, ());
    let Plan::Sleep(Some(timeout)) = reactor.prepare(true) else {
        panic!("no sleep")
    };
    assert!(timeout <= hour && timeout > hour / 2);
    reactor.cancel_timer(key);
    assert_eq!(reactor.prepare(true), Plan::Sleep(None));
    reactor.add_timer(now(), ());
    assert!(matches!(reactor.prepare(true), Plan::Look | Plan::Skip));
    reactor.push(());
    assert!(matches!(reactor.prepare(true), Plan::Look | Plan::Skip));
}

#[test]
fn an_owner_with_a_clock_of_its_own_says_what_is_due() {
    let (mut reactor, mut events) = reactor();
    let hour = 3_600_000_000_000;
    reactor.tell_time(Some(7));
    reactor.add_timer(7 + hour, "in an hour");
    assert_eq!(
        reactor.prepare(true),
        Plan::Sleep(Some(Duration::from_nanos(hour)))
    );
    // In any turn, also in one that does not ask the system, and however far the clock went.
    for _ in 0..50 {
        reactor.push("ready");
        assert_eq!(turn(&mut reactor, &mut events), ["ready"]);
    }
    reactor.tell_time(Some(7 + hour));
    reactor.push("ready");
    assert_eq!(turn(&mut reactor, &mut events), ["ready", "in an hour"]);
    reactor.tell_time(Some(7));
    reactor.add_timer(now(), "by the system's clock");
    reactor.push("ready");
    assert_eq!(turn(&mut reactor, &mut events), ["ready"]);
    reactor.tell_time(None);
    assert_eq!(turn(&mut reactor, &mut events), ["by the system's clock"]);
}

#[test]
fn with_work_ready_it_looks_first_and_then_at_least_every_so_many_turns() {
    let (mut reactor, mut events) = reactor();
    reactor.push(());
    for _ in 0..50 {
        let mut skipped = 0;
        while reactor.prepare(true) == Plan::Skip {
            skipped += 1;
            reactor.collect(&mut events);
        }
        assert!(skipped < LOOK_TURNS);
        reactor.collect(&mut events);
    }
    // A run that begins looks at once, whenever the last look was.
    for _ in 0..50 {
        reactor.begin_run();
        assert_eq!(reactor.prepare(true), Plan::Look);
        reactor.collect(&mut events);
    }
}

#[test]
fn with_work_ready_it_looks_after_so_much_time_whatever_the_turns() {
    let (mut reactor, mut events) = reactor();
    reactor.push(());
    for _ in 0..5 {
        let plan = reactor.prepare(true);
        reactor.collect(&mut events);
        let looked = now();
        assert_eq!(plan, Plan::Look);
        while now() - looked < LOOK_NANOS {}
    }
}

#[test]
fn short_turns_do_skip() {
    let (mut reactor, mut events) = reactor();
    reactor.push(());
    // A busy machine may stretch some turns beyond LOOK_NANOS, not ten thousand of them.
    let skips = (0..10_000).filter(|_| {
        let plan = reactor.prepare(true);
        reactor.collect(&mut events);
        plan == Plan::Skip
    });
    assert!(skips.count() > 1000);
}

#[test]
fn events_then_remote_jobs_then_timers() {
    let (mut reactor, mut events) = reactor();
    let (a, mut b) = UnixStream::pair().unwrap();
    reactor.push("ready before");
    reactor.add_timer(now(), "timer");
    reactor.remote().push("remote").unwrap();
    reactor.watch(a.as_raw_fd(), Side::Read, "event").unwrap();
    b.write_all(b"x").unwrap();
    assert_eq!(
        turn(&mut reactor, &mut events),
        ["ready before", "event", "remote", "timer"]
    );
}

#[test]
fn a_skipped_turn_still_takes_remote_jobs_and_timers() {
    let (mut reactor, mut events) = reactor();
    let remote = reactor.remote();
    let mut skips = 0;
    for _ in 0..10_000 {
        remote.push(1).unwrap();
        reactor.add_timer(now(), 2);
        reactor.push(0);
        let plan = reactor.prepare(true);
        skips += u32::from(plan == Plan::Skip);
        reactor.sleeper().poll(&mut events, &plan).unwrap();
        assert_eq!(reactor.collect(&mut events), 3);
        for expected in 0..3 {
            assert_eq!(reactor.pop().unwrap().handle, expected);
        }
    }
    assert!(skips > 1000);
}

#[test]
fn a_slept_for_timer_is_due_at_once() {
    for nanos in [1, 1000, 60_000, 999_999, MILLISECOND, 3 * MILLISECOND + 1] {
        // A new one, whose first sleep begins without a look for news, which makes a turn of its own.
        let (mut reactor, mut events) = reactor();
        let at = now() + nanos;
        reactor.add_timer(at, nanos);
        let mut turns = 0;
        while turn(&mut reactor, &mut events).is_empty() {
            turns += 1;
        }
        assert!(now() >= at);
        assert_eq!(turns, 0, "{nanos} ns took extra turns");
    }
}

#[test]
fn timers_fire_by_deadline_and_then_by_age() {
    let (mut reactor, mut events) = reactor();
    let start = now();
    let late = reactor.add_timer(start + 3, "late");
    reactor.add_timer(start + 2, "second");
    let cancelled = reactor.add_timer(start + 2, "cancelled");
    reactor.add_timer(start + 2, "third");
    reactor.add_timer(start + 1, "first");
    assert_eq!(reactor.cancel_timer(cancelled), Some("cancelled"));
    assert_eq!(reactor.cancel_timer(cancelled), None);
    assert_eq!(reactor.timer_len(), 4);
    while now() <= start + 3 {}
    assert_eq!(
        turn(&mut reactor, &mut events),
        ["first", "second", "third", "late"]
    );
    assert_eq!(reactor.cancel_timer(late), None);
}

#[test]
fn what_a_batch_pushes_waits_for_the_next() {
    let (mut reactor, mut events) = reactor();
    reactor.push(1);
    let plan = reactor.prepare(true);
    reactor.sleeper().poll(&mut events, &plan).unwrap();
    let batch = reactor.collect(&mut events);
    assert_eq!(batch, 1);
    reactor.push(2);
    assert_eq!(reactor.pop().unwrap().handle, 1);
    assert_eq!(turn(&mut reactor, &mut events), [2]);
}

#[test]
fn more_events_than_one_look_takes_are_looked_for_again_at_once() {
    let (mut reactor, mut events) = reactor();
    let pairs: Vec<_> = (0..1500).map(|_| UnixStream::pair().unwrap()).collect();
    for (i, (a, b)) in pairs.iter().enumerate() {
        (&*b).write_all(b"x").unwrap();
        reactor.attach(a.as_raw_fd(), i).unwrap();
    }
    let mut all = turn(&mut reactor, &mut events);
    assert_eq!(all.len(), 1024);
    reactor.push(1500);
    assert_eq!(reactor.prepare(true), Plan::Look);
    reactor.sleeper().poll(&mut events, &Plan::Look).unwrap();
    reactor.collect(&mut events);
    while let Some(job) = reactor.pop() {
        all.push(job.handle);
    }
    all.sort_unstable();
    assert!(all.into_iter().eq(0..=1500));
}

#[test]
fn a_signal_ends_the_sleep_and_the_turn_goes_on() {
    extern "C" fn handler(_: libc::c_int) {}
    // SAFETY: the handler does nothing; the structure is filled as sigaction wants it.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as extern "C" fn(libc::c_int) as libc::sighandler_t;
        assert_eq!(
            libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()),
            0
        );
    }
    let (mut reactor, mut events) = reactor::<()>();
    // SAFETY: no argument.
    let sleeping = unsafe { libc::pthread_self() } as usize;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                // SAFETY: that thread is in this scope, so it is alive.
                unsafe { libc::pthread_kill(sleeping as libc::pthread_t, libc::SIGUSR1) };
                std::thread::yield_now();
            }
        });
        let plan = reactor.prepare(true);
        let error = reactor.sleeper().poll(&mut events, &plan).unwrap_err();
        done.store(true, Ordering::Release);
        assert_eq!(
            (plan, error.kind()),
            (Plan::Sleep(None), ErrorKind::Interrupted)
        );
    });
    assert_eq!(reactor.collect(&mut events), 0);
    reactor.remote().push(()).unwrap();
    assert_eq!(turn(&mut reactor, &mut events), [()]);
}

#[test]
fn drain_hands_everything_back_and_remotes_refuse_from_then_on() {
    let (mut reactor, _) = reactor();
    let (a, b) = UnixStream::pair().unwrap();
    let remote = reactor.remote();
    reactor.push(1);
    reactor.add_timer(now() + MILLISECOND, 2);
    reactor.watch(a.as_raw_fd(), Side::Read, 3).unwrap();
    reactor.watch(a.as_raw_fd(), Side::Write, 4).unwrap();
    let token = reactor.attach(b.as_raw_fd(), 5).unwrap();
    let child = reactor.watch_child(std::process::id() as i32, 6).unwrap();
    remote.push(7).unwrap();
    let mut all = reactor.drain();
    all.sort_unstable();
    assert_eq!(all, [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(remote.push(8), Err(8));
    assert_eq!(remote.clone().push(8), Err(8));
    assert_eq!((reactor.ready_len(), reactor.timer_len()), (0, 0));
    assert_eq!(
        (reactor.detach(token), reactor.unwatch_child(child)),
        (None, None)
    );
    assert_eq!(reactor.unwatch(a.as_raw_fd(), Side::Read), None);
    assert_eq!(reactor.drain(), []);

    let remote = Reactor::new().unwrap().remote(); // dropped without being drained
    assert_eq!(remote.push(9), Err(9));
}
