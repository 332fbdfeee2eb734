//! Threads and reactors that get in each other's way: made for a run under ThreadSanitizer
//! (`./dev test --only tsan`), and no waste without one.

#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ropewalk_reactor::{Events, Plan, Reactor, Remote, now};

const THREADS: usize = 4;

fn turn<H: Clone>(reactor: &mut Reactor<H>, events: &mut Events, plan: &Plan) -> Vec<H> {
    reactor.sleeper().poll(events, plan).unwrap();
    reactor.collect(events);
    std::iter::from_fn(|| reactor.pop())
        .map(|job| job.handle)
        .collect()
}

fn sleep<H: Clone>(reactor: &mut Reactor<H>, events: &mut Events) -> Vec<H> {
    let plan = reactor.prepare(true);
    turn(reactor, events, &plan)
}

#[test]
fn what_was_accepted_before_a_reactor_closed_arrives_or_is_handed_back() {
    for round in 0..50 {
        let mut reactor = Reactor::new().unwrap();
        let mut events = Events::new();
        let accepted = AtomicUsize::new(0);
        let start = Barrier::new(THREADS + 1);
        let seen = std::thread::scope(|scope| {
            for _ in 0..THREADS {
                let remote = reactor.remote();
                let (start, accepted) = (&start, &accepted);
                scope.spawn(move || {
                    start.wait();
                    for _ in 0..10_000 {
                        // Boxed: what is dropped twice, a sanitizer sees.
                        if remote.push(Box::new(1)).is_err() {
                            break;
                        }
                        accepted.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            start.wait();
            let mut seen = 0;
            for _ in 0..round % 5 {
                let timer = reactor.add_timer(now() + 200_000, Box::new(0)); // no sleep for ever
                let jobs = sleep(&mut reactor, &mut events);
                reactor.cancel_timer(timer);
                seen += jobs.iter().filter(|job| ***job == 1).count();
            }
            // Drained, or only dropped.
            seen + if round % 2 == 0 {
                reactor.drain().len()
            } else {
                let remote = reactor.remote();
                drop(reactor);
                assert!(remote.push(Box::new(0)).is_err());
                0
            }
        });
        let accepted = accepted.load(Ordering::Relaxed);
        if round % 2 == 0 {
            assert_eq!(seen, accepted);
        } else {
            assert!(seen <= accepted);
        }
    }
}

#[test]
fn pushes_beside_a_reopening_arrive_in_each_thread_s_order() {
    const PUSHES: usize = 5000;
    let (mut reactor, mut events) = (Reactor::new().unwrap(), Events::new());
    let start = Barrier::new(THREADS + 1);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (remote, start) = (reactor.remote(), &start);
            scope.spawn(move || {
                start.wait();
                for i in 0..PUSHES {
                    remote.push((thread, i)).unwrap();
                    if i % 16 == 0 {
                        std::thread::yield_now();
                    }
                }
            });
        }
        start.wait();
        let mut next = [0; THREADS];
        let mut turns = 0;
        while next != [PUSHES; THREADS] {
            turns += 1;
            if turns % 3 == 0 && turns < 600 {
                reactor.reopen().unwrap();
            }
            for (thread, i) in sleep(&mut reactor, &mut events) {
                assert_eq!(next[thread], i);
                next[thread] += 1;
            }
        }
    });
    assert_eq!(reactor.drain(), []);
}

#[test]
fn reactors_in_threads_hand_tokens_round_until_each_is_closed() {
    const TOKENS: usize = 16;
    const LAPS: usize = 500;
    let mut reactors: Vec<Reactor<usize>> = (0..THREADS).map(|_| Reactor::new().unwrap()).collect();
    let remotes: Vec<Remote<usize>> = reactors.iter().map(Reactor::remote).collect();
    for _ in 0..TOKENS {
        remotes[0].push(LAPS * THREADS).unwrap();
    }
    std::thread::scope(|scope| {
        for (place, mut reactor) in reactors.drain(..).enumerate() {
            let next = remotes[(place + 1) % THREADS].clone();
            scope.spawn(move || {
                let mut events = Events::new();
                let mut ended = 0;
                // A token that has no hops left goes round once more and is counted everywhere.
                while ended < TOKENS {
                    let timer = reactor.add_timer(now() + 3_600_000_000_000, 0);
                    let tokens = sleep(&mut reactor, &mut events);
                    assert_eq!(reactor.cancel_timer(timer), Some(0));
                    for hops in tokens {
                        ended += usize::from(hops < THREADS);
                        if hops > 0 {
                            // The last ones' next reactor may be closed already, which is refused.
                            assert!(next.push(hops - 1).is_ok() || hops < THREADS);
                        }
                    }
                }
                assert_eq!(reactor.drain(), []);
            });
        }
    });
    for remote in remotes {
        assert_eq!(remote.push(1), Err(1));
    }
}

#[test]
fn sleeps_of_every_length_and_wakes_from_everywhere() {
    let (mut reactor, mut events) = (Reactor::<u32>::new().unwrap(), Events::new());
    let running = AtomicUsize::new(THREADS);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (remote, sleeper, running) = (reactor.remote(), reactor.sleeper(), &running);
            scope.spawn(move || {
                for i in 0..300 {
                    match (thread + i) % 3 {
                        0 => sleeper.wake(),
                        1 => remote.push(1).unwrap(),
                        _ => std::thread::sleep(Duration::from_micros(50)),
                    }
                }
                running.fetch_sub(1, Ordering::Release);
                sleeper.wake();
            });
        }
        let mut pushed = 0;
        while running.load(Ordering::Acquire) > 0 || pushed < THREADS * 100 {
            let until = now() + (pushed as u64 % 7) * 30_000;
            let timer = reactor.add_timer(until, 0);
            let jobs = sleep(&mut reactor, &mut events);
            pushed += jobs.iter().filter(|job| **job == 1).count();
            if !jobs.contains(&0) {
                assert_eq!(reactor.cancel_timer(timer), Some(0));
            }
        }
        assert_eq!(pushed, THREADS * 100);
    });
}
