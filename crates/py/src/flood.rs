//! Threads that post faster than the loop runs, and how they are slowed down.
//!
//! A post takes a fraction of a callback's time and, with the GIL, each posting thread has as large a share of it
//! as the loop. asyncio's loop makes a system call for each post, which slows everybody down; ours makes one for
//! each sleep, so a few threads that do nothing else would queue up a million calls and keep the loop from
//! everything else meanwhile.
//!
//! So with [`MANY`] calls uncollected each [`STEP`]th post waits until the loop collects them. That cannot
//! deadlock, for a wait ends as well once the loop has finished no job for [`PATIENCE`]: its callback may wait for
//! something that the poster holds. Then a post costs 10 µs on average, and the queue grows.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

const MANY: usize = 8192;
const STEP: usize = 512;
const PATIENCE: Duration = Duration::from_millis(5);

#[derive(Default)]
pub(crate) struct Flood {
    /// Turns in which the loop collected, changed under the lock.
    turns: Mutex<usize>,
    collected: Condvar,
    /// Threads that wait for that. Telling nobody would be a system call for each turn.
    waiting: AtomicUsize,
    /// Jobs that the loop has run. All that counts is whether it changes.
    jobs: AtomicUsize,
}

impl Flood {
    /// Whether a post waits that found so many calls uncollected, its own among them.
    #[inline]
    pub(crate) fn holds(calls: usize) -> bool {
        calls >= MANY && calls.is_multiple_of(STEP)
    }

    /// Waits until the loop collects, or does not move. Not for the loop's own thread, nor for one that is
    /// attached to the interpreter.
    #[cold]
    pub(crate) fn wait(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = *turns;
        loop {
            let jobs = self.jobs.load(Ordering::Relaxed);
            let (now, wait) = self
                .collected
                .wait_timeout_while(turns, PATIENCE, |now| *now == turn)
                .unwrap_or_else(PoisonError::into_inner);
            if !wait.timed_out() || self.jobs.load(Ordering::Relaxed) == jobs {
                break;
            }
            turns = now;
        }
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    /// The loop has collected. A thread that begins to wait just now may miss it, and waits in vain for a moment.
    #[inline]
    pub(crate) fn let_go(&self) {
        if self.waiting.load(Ordering::Relaxed) != 0 {
            self.next_turn();
        }
    }

    #[cold]
    fn next_turn(&self) {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        *turns = turns.wrapping_add(1);
        self.collected.notify_all();
    }

    /// The loop has run a job, its `jobs`th.
    #[inline]
    pub(crate) fn ran(&self, jobs: usize) {
        self.jobs.store(jobs, Ordering::Relaxed);
    }
}
