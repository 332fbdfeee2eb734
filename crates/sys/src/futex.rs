//! Sleep while a word has a value: the one thing that threads need of the system to wait for each other.
//!
//! # The contract
//!
//! [`wait`] sleeps if `*word == expected` at a moment that no [`wake_one`] of the same word can slip past. It ends
//! when somebody calls `wake_one` after changing the word, when the deadline has passed, or when a signal was
//! handled in the thread; it may also end for no reason. `wake_one` wakes at least one sleeper, if there is one.
//! Words are private to the process.
//!
//! - Linux: `futex(2)`, with an absolute deadline on the monotonic clock. A signal handler ends the sleep even
//!   with `SA_RESTART`.
//! - Elsewhere: condition variables, shared by the words that hash to them. They do not hear signals, so a sleep is
//!   cut into slices and says after each that a signal might have come.

use std::sync::atomic::AtomicU32;

use crate::clock::Nanos;

/// Why a sleep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slept {
    /// The word was another, somebody woke us, or nothing happened at all.
    Woken,
    /// The deadline has passed.
    TimedOut,
    /// A signal was handled, or might have been.
    Interrupted,
}

/// Sleeps while the word is `expected`, until `deadline` on the [clock](crate::clock).
pub fn wait(word: &AtomicU32, expected: u32, deadline: Option<Nanos>) -> Slept {
    system::wait(word, expected, deadline)
}

/// Wakes one of those who sleep on the word.
pub fn wake_one(word: &AtomicU32) {
    system::wake_one(word);
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod system {
    use std::sync::atomic::AtomicU32;

    use rustix::io::Errno;
    use rustix::thread::futex::{self, Flags, Timespec};

    use super::Slept;
    use crate::clock::{Nanos, SECOND};

    pub(super) fn wait(word: &AtomicU32, expected: u32, deadline: Option<Nanos>) -> Slept {
        // A bitset wait is the one whose deadline is absolute. What the clock cannot count to is never.
        let until = deadline.and_then(|nanos| {
            Some(Timespec {
                tv_sec: i64::try_from(nanos / SECOND).ok()?,
                tv_nsec: i64::try_from(nanos % SECOND).ok()?,
            })
        });
        match futex::wait_bitset(
            word,
            Flags::PRIVATE,
            expected,
            until.as_ref(),
            std::num::NonZeroU32::MAX,
        ) {
            Err(Errno::TIMEDOUT) => Slept::TimedOut,
            Err(Errno::INTR) => Slept::Interrupted,
            _ => Slept::Woken,
        }
    }

    pub(super) fn wake_one(word: &AtomicU32) {
        // It fails only for addresses that are no memory.
        let _ = futex::wake(word, Flags::PRIVATE, 1);
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod system {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::{Condvar, Mutex, PoisonError};
    use std::time::Duration;

    use super::Slept;
    use crate::clock::{self, Nanos};

    /// How long a signal may go unheard.
    const SLICE: Nanos = 50_000_000;

    struct Bucket(Mutex<()>, Condvar);
    static BUCKETS: [Bucket; 64] = [const { Bucket(Mutex::new(()), Condvar::new()) }; 64];

    fn bucket(word: &AtomicU32) -> &'static Bucket {
        let address = std::ptr::from_ref(word) as usize;
        &BUCKETS[(address >> 4).wrapping_mul(0x9E37_79B9) % BUCKETS.len()]
    }

    pub(super) fn wait(word: &AtomicU32, expected: u32, deadline: Option<Nanos>) -> Slept {
        let Bucket(lock, sleepers) = bucket(word);
        let left = deadline.map_or(Nanos::MAX, |until| until.saturating_sub(clock::now()));
        if left == 0 {
            return Slept::TimedOut;
        }
        let guard = lock.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever changes the word takes the lock before waking, so it cannot happen from here to the sleep.
        if word.load(Ordering::SeqCst) != expected {
            return Slept::Woken;
        }
        let slice = Duration::from_nanos(left.min(SLICE));
        let slept = sleepers.wait_timeout(guard, slice);
        let (_guard, ended) = slept.unwrap_or_else(PoisonError::into_inner);
        match ended.timed_out() {
            true if left <= SLICE => Slept::TimedOut,
            true => Slept::Interrupted,
            false => Slept::Woken,
        }
    }

    pub(super) fn wake_one(word: &AtomicU32) {
        let Bucket(lock, sleepers) = bucket(word);
        drop(lock.lock().unwrap_or_else(PoisonError::into_inner));
        // All: the sleepers of other words share the bucket.
        sleepers.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::clock;

    #[test]
    fn a_word_that_is_another_is_not_waited_for() {
        assert_eq!(wait(&AtomicU32::new(1), 0, None), Slept::Woken);
    }

    #[test]
    fn a_deadline_that_has_passed_ends_it() {
        assert_eq!(
            wait(&AtomicU32::new(0), 0, Some(clock::now())),
            Slept::TimedOut
        );
    }

    #[test]
    fn a_change_and_a_wake_end_it() {
        let word = Arc::new(AtomicU32::new(0));
        let other = Arc::clone(&word);
        let sleeper = std::thread::spawn(move || {
            while other.load(Ordering::SeqCst) == 0 {
                wait(&other, 0, None);
            }
        });
        word.store(1, Ordering::SeqCst);
        wake_one(&word);
        assert!(sleeper.join().is_ok());
    }
}
