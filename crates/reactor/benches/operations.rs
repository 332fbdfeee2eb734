//! What one operation costs, in nanoseconds: `cargo bench -p ropewalk-reactor`.
//!
//! Plain timing, best of several rounds: these are a few instructions each, and the best round is
//! the one that nothing else disturbed.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::hint::black_box;
use std::io;
use std::time::Instant;

use ropewalk_reactor::{Events, Plan, Reactor, now};

const OPERATIONS: u64 = 1_000_000;
const ROUNDS: u32 = 7;

fn report(name: &str, mut round: impl FnMut()) {
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        round();
        best = best.min(start.elapsed().as_nanos() as f64 / OPERATIONS as f64);
    }
    println!("{name:<44}{best:>8.1} ns");
}

fn main() -> io::Result<()> {
    let mut reactor: Reactor<usize> = Reactor::new()?;
    let mut events = Events::new();
    let sleeper = reactor.sleeper();

    report("clock: now", || {
        for _ in 0..OPERATIONS {
            black_box(now());
        }
    });

    report("ready queue: push, pop", || {
        for i in 0..OPERATIONS as usize {
            reactor.push(black_box(i));
            black_box(reactor.pop());
        }
    });

    report("timers: add, cancel", || {
        for i in 0..OPERATIONS {
            let key = reactor.add_timer(black_box(i << 20), 0);
            black_box(reactor.cancel_timer(key));
        }
    });

    let standing: Vec<_> = (0..100_000)
        .map(|i| reactor.add_timer(u64::MAX - i * 7919 % 100_000, 0))
        .collect();
    report("timers: add, cancel, with 100,000 others", || {
        for i in 0..OPERATIONS {
            let key = reactor.add_timer(black_box(i << 20), 0);
            black_box(reactor.cancel_timer(key));
        }
    });
    for key in standing {
        reactor.cancel_timer(key);
    }

    let mut keys = Vec::with_capacity(OPERATIONS as usize);
    report("timers: add a million, cancel them", || {
        keys.extend((0..OPERATIONS).map(|i| reactor.add_timer(black_box(i << 20), 0)));
        for key in keys.drain(..) {
            black_box(reactor.cancel_timer(key));
        }
    });

    report("timers: add a million, fire them", || {
        for i in 0..OPERATIONS {
            reactor.add_timer(black_box(i), 0);
        }
        reactor.collect(&mut events);
        while reactor.pop().is_some() {}
    });

    let remote = reactor.remote();
    report("remote: push a million, then collect", || {
        for i in 0..OPERATIONS as usize {
            black_box(remote.push(i).is_ok());
        }
        reactor.collect(&mut events);
        while reactor.pop().is_some() {}
    });

    report("remote: push, collect, pop, one by one", || {
        for i in 0..OPERATIONS as usize {
            black_box(remote.push(i).is_ok());
            reactor.collect(&mut events);
            black_box(reactor.pop());
        }
    });

    report("turn: push, prepare, poll, collect, pop", || {
        for i in 0..OPERATIONS as usize {
            reactor.push(i);
            let plan = reactor.prepare(true);
            black_box(sleeper.poll(&mut events, &plan).is_ok());
            reactor.collect(&mut events);
            black_box(reactor.pop());
        }
    });

    report("system: look", || {
        for _ in 0..OPERATIONS {
            black_box(sleeper.poll(&mut events, &Plan::Look).is_ok());
        }
    });
    Ok(())
}
