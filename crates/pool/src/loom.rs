//! The [wake-up protocol](crate) under the model checker: every interleaving of submitters and workers.
//!
//! A lost wake-up shows as a deadlock, which the checker reports.

use std::sync::PoisonError;

use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use crate::{Arrival, Ledger, Next, Step};

/// A place to sleep at.
struct Bed {
    woken: Mutex<bool>,
    bell: Condvar,
}

impl Bed {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            woken: Mutex::new(false),
            bell: Condvar::new(),
        })
    }

    fn sleep(&self) {
        let mut woken = self.woken.lock().unwrap_or_else(PoisonError::into_inner);
        while !*woken {
            woken = self
                .bell
                .wait(woken)
                .unwrap_or_else(PoisonError::into_inner);
        }
        *woken = false;
    }

    fn wake(&self) {
        *self.woken.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.bell.notify_one();
    }
}

type Shared = Mutex<Ledger<u32, Arc<Bed>>>;

fn look<R>(shared: &Shared, f: impl FnOnce(&mut Ledger<u32, Arc<Bed>>) -> R) -> R {
    f(&mut shared.lock().unwrap_or_else(PoisonError::into_inner))
}

/// A worker's whole life. Returns what it has done.
fn work(shared: &Shared, first: Arrival) -> Vec<u32> {
    let (me, mut arrival, mut done) = (Bed::new(), first, Vec::new());
    loop {
        let (next, step) = look(shared, |ledger| ledger.next(arrival, &me));
        if let Step::Wake(other) = step {
            other.wake();
        }
        arrival = match next {
            Next::Job(job) => {
                done.push(job);
                Arrival::Busy
            }
            Next::Sleep => {
                me.sleep();
                Arrival::Woken
            }
            Next::End => return done,
        };
    }
}

/// Submits, and starts the worker that the ledger asks for.
fn submit(shared: &Arc<Shared>, job: u32) -> Option<thread::JoinHandle<Vec<u32>>> {
    match look(shared, |ledger| ledger.submit(job)) {
        Step::Nothing => None,
        Step::Wake(worker) => {
            worker.wake();
            None
        }
        Step::Start => {
            let shared = shared.clone();
            Some(thread::spawn(move || work(&shared, Arrival::Started)))
        }
    }
}

fn close(shared: &Shared) {
    for worker in look(shared, Ledger::close) {
        worker.wake();
    }
}

fn every_job_is_done_once(workers: usize, jobs: u32, preemptions: usize) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.check(move || {
        let shared: Arc<Shared> = Arc::new(Mutex::new(Ledger::new(workers)));
        let threads: Vec<_> = (0..jobs).filter_map(|job| submit(&shared, job)).collect();
        close(&shared);
        let mut done: Vec<u32> = threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect();
        done.sort_unstable();
        assert_eq!(done, (0..jobs).collect::<Vec<_>>());
        let counts = look(&shared, |ledger| ledger.counts());
        assert_eq!((counts.workers, counts.running, counts.queued), (0, 0, 0));
    });
}

#[test]
fn one_worker_misses_no_job() {
    every_job_is_done_once(1, 3, 4);
}

#[test]
fn two_workers_miss_no_job_and_no_end() {
    every_job_is_done_once(2, 3, 3);
}

/// A job that only ends once another has begun: the wake-up for the other must not wait for it.
#[test]
fn a_job_that_blocks_does_not_keep_the_next_from_a_sleeper() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let shared: Arc<Shared> = Arc::new(Mutex::new(Ledger::new(2)));
        let met = Bed::new();
        let worker = |first| {
            let (shared, met) = (shared.clone(), met.clone());
            thread::spawn(move || {
                let (me, mut arrival) = (Bed::new(), first);
                loop {
                    let (next, step) = look(&shared, |ledger| ledger.next(arrival, &me));
                    if let Step::Wake(other) = step {
                        other.wake();
                    }
                    arrival = match next {
                        Next::Job(0) => {
                            met.sleep(); // until job 1 runs
                            Arrival::Busy
                        }
                        Next::Job(_) => {
                            met.wake();
                            Arrival::Busy
                        }
                        Next::Sleep => {
                            me.sleep();
                            Arrival::Woken
                        }
                        Next::End => return,
                    };
                }
            })
        };
        let mut threads = Vec::new();
        for job in [0, 1] {
            match look(&shared, |ledger| ledger.submit(job)) {
                Step::Start => threads.push(worker(Arrival::Started)),
                Step::Wake(other) => other.wake(),
                Step::Nothing => {}
            }
        }
        close(&shared);
        for thread in threads {
            thread.join().unwrap();
        }
    });
}
