//! How a thread waits: one token, one sleeper.
//!
//! The protocol is that of the standard library's `thread::park`, with two things that it lacks: a signal ends the
//! sleep (a language runs its handlers then), and so does a deadline on the [clock](ropewalk_sys::clock).
//!
//! A token may be stale: whoever has left a line can still be woken by somebody who called it before. So a woken
//! thread looks at what it waits for, and parks again if that has not come.

use ropewalk_sys::clock::Nanos;
use ropewalk_sys::fork;
use ropewalk_sys::futex::Slept;

use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::futex;

/// Nobody sleeps, nothing has happened.
const EMPTY: u32 = 0;
/// Somebody was woken who did not sleep: the next park takes this and returns at once.
const TOKEN: u32 = 1;
/// The owner sleeps, or is about to.
const PARKED: u32 = 2;

/// Why a park ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parked {
    /// By [`Parker::unpark`], now or before.
    Woken,
    /// The deadline has passed.
    TimedOut,
    /// A signal was handled in this thread, or might have been.
    Interrupted,
}

/// Where one thread sleeps. Only the thread it was made by parks on it; anybody may unpark it.
#[derive(Debug)]
pub struct Parker {
    state: AtomicU32,
    thread: usize,
    name: u64,
}

impl Parker {
    /// A parking place for the calling thread, which is known elsewhere by `name` (any number).
    #[must_use]
    pub fn new(name: u64) -> Self {
        Self {
            state: AtomicU32::new(EMPTY),
            thread: fork::this_thread(),
            name,
        }
    }

    /// The number that the thread is known by.
    pub fn name(&self) -> u64 {
        self.name
    }

    /// The thread, as `fork::this_thread` names it.
    pub fn thread(&self) -> usize {
        self.thread
    }

    /// Whether the thread still exists, as far as forks are concerned: in a forked child only one thread does.
    pub fn survives_fork(&self) -> bool {
        fork::survives(self.thread)
    }

    /// Sleeps until [`unpark`](Self::unpark), the deadline or a signal.
    pub fn park(&self, deadline: Option<Nanos>) -> Parked {
        // Acquire, here and below: what was done before the unpark is seen after the park.
        let begun =
            self.state
                .compare_exchange(EMPTY, PARKED, Ordering::Acquire, Ordering::Acquire);
        if begun.is_err() {
            // Only this thread parks, so there is a token. It is taken.
            self.state.swap(EMPTY, Ordering::Acquire);
            return Parked::Woken;
        }
        loop {
            let slept = futex::wait(&self.state, PARKED, deadline);
            // A token counts even if the deadline has passed as well: it may be the only one that is meant for us.
            let ended = match slept {
                Slept::Woken if self.state.load(Ordering::Relaxed) == PARKED => continue,
                Slept::Woken => Parked::Woken,
                Slept::TimedOut => Parked::TimedOut,
                Slept::Interrupted => Parked::Interrupted,
            };
            return if self.state.swap(EMPTY, Ordering::Acquire) == TOKEN {
                Parked::Woken
            } else {
                ended
            };
        }
    }

    /// Ends the thread's sleep, or the next one if it does not sleep.
    pub fn unpark(&self) {
        // Release: pairs with the acquires of `park`.
        if self.state.swap(TOKEN, Ordering::Release) == PARKED {
            futex::wake_one(&self.state);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use ropewalk_sys::clock;

    use super::*;

    #[test]
    fn a_token_given_before_is_taken_at_once_and_once() {
        let parker = Parker::new(7);
        parker.unpark();
        parker.unpark();
        assert_eq!(parker.park(None), Parked::Woken);
        assert_eq!(parker.park(Some(clock::now())), Parked::TimedOut);
        assert_eq!(parker.name(), 7);
    }

    #[test]
    fn a_deadline_ends_the_sleep_and_not_before() {
        let parker = Parker::new(0);
        let until = clock::now() + 5_000_000;
        assert_eq!(parker.park(Some(until)), Parked::TimedOut);
        assert!(clock::now() >= until);
        // Far beyond what the system's clock can count to.
        parker.unpark();
        assert_eq!(parker.park(Some(clock::Nanos::MAX)), Parked::Woken);
    }

    #[test]
    fn another_thread_ends_the_sleep() {
        let (tell, told) = std::sync::mpsc::channel();
        let sleeper = thread::spawn(move || {
            let parker = Arc::new(Parker::new(0));
            assert!(tell.send(Arc::clone(&parker)).is_ok());
            for _ in 0..1000 {
                assert_eq!(parker.park(None), Parked::Woken);
                assert!(tell.send(Arc::clone(&parker)).is_ok());
            }
        });
        for _ in 0..=1000 {
            let Ok(parker) = told.recv() else { break };
            parker.unpark();
        }
        assert!(sleeper.join().is_ok());
    }
}
