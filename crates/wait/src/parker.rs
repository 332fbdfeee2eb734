//! How a thread waits: one token, one sleeper.
//!
//! The protocol is that of the standard library's `thread::park`, with three things that it lacks: a signal ends the
//! sleep (a language runs its handlers then), and so does a deadline on the [clock](ropewalk_sys::clock); and
//! a thread for which that has paid lately looks for the token [a moment](ropewalk_sys::awake) before it sleeps.
//!
//! A token may be stale: whoever has left a line can still be woken by somebody who called it before. So a woken
//! thread looks at what it waits for, and parks again if that has not come.
//!
//! # What the waker still holds
//!
//! Who wakes a thread may hold something that the thread needs next, as an interpreter's lock. A thread that was awake
//! would come too soon, and go to sleep for that. So it can be told that it [will be free](Parker::unpark_soon)
//! in a moment, waits awake for that moment, and hears when it [is](Parker::let_go).

#[cfg(not(loom))]
use ropewalk_sys::awake::{self, LOOK, Luck};
#[cfg(not(loom))]
use ropewalk_sys::clock;
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
/// As a token, but the waker still holds something.
const SOON: u32 = 3;

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
    #[cfg(not(loom))]
    luck: Luck,
}

impl Parker {
    /// A parking place for the calling thread, which is known elsewhere by `name` (any number).
    #[must_use]
    pub fn new(name: u64) -> Self {
        Self {
            state: AtomicU32::new(EMPTY),
            thread: fork::this_thread(),
            name,
            #[cfg(not(loom))]
            luck: Luck::default(),
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
        #[cfg(not(loom))]
        if deadline.is_none_or(|deadline| deadline > clock::now() + LOOK) && !self.stay_awake() {
            // A signal that was handled meanwhile would not end the sleep.
            return Parked::Interrupted;
        }
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
            return if self.state.swap(EMPTY, Ordering::Acquire) == PARKED {
                ended
            } else {
                Parked::Woken
            };
        }
    }

    /// Looks for a token before the thread sleeps, if that seems to pay. False: it was long, and in vain.
    #[cfg(not(loom))]
    #[inline]
    fn stay_awake(&self) -> bool {
        let Some(look) = self.luck.begin() else {
            return true;
        };
        let found = look.until(|| self.woken());
        if found == Some(SOON) {
            awake::linger(|| self.woken() != Some(SOON));
        }
        found.is_some()
    }

    /// The word, if it is a token of either kind.
    #[cfg(not(loom))]
    fn woken(&self) -> Option<u32> {
        let word = self.state.load(Ordering::Relaxed);
        (word != EMPTY).then_some(word)
    }

    /// Ends the thread's sleep, or the next one if it does not sleep.
    pub fn unpark(&self) {
        self.wake(TOKEN);
    }

    /// The same, by one who still holds something that the thread needs next. True: the thread is awake, and
    /// [`let_go`](Self::let_go) is to follow as soon as the caller holds it no more. Nothing bad happens if it does not.
    pub fn unpark_soon(&self) -> bool {
        !self.wake(SOON)
    }

    /// The one who called [`unpark_soon`](Self::unpark_soon) holds nothing any more.
    pub fn let_go(&self) {
        // Release: what was held was let go before. It fails if the thread has gone on.
        let _ = self
            .state
            .compare_exchange(SOON, TOKEN, Ordering::Release, Ordering::Relaxed);
    }

    /// Whether the thread slept.
    fn wake(&self, token: u32) -> bool {
        // Release: pairs with the acquires of `park`.
        let slept = self.state.swap(token, Ordering::Release) == PARKED;
        if slept {
            futex::wake_one(&self.state);
        }
        slept
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
                // It may say that a signal might have come.
                while parker.park(None) != Parked::Woken {}
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
