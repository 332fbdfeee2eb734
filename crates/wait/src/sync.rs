//! The standard library's atomics and the system's futex, or the model checker's under `cfg(loom)`.

#[cfg(not(loom))]
pub(crate) use {ropewalk_sys::futex, std::sync::atomic};

#[cfg(loom)]
pub(crate) use loom::sync::atomic;

/// A futex for the model checker: one address space of sleepers, woken all at once.
#[cfg(loom)]
pub(crate) mod futex {
    use std::sync::PoisonError;

    use loom::sync::atomic::{AtomicU32, Ordering};
    use loom::sync::{Condvar, Mutex};
    pub(crate) use ropewalk_sys::futex::Slept;

    loom::lazy_static! {
        static ref SLEEPERS: (Mutex<()>, Condvar) = (Mutex::new(()), Condvar::new());
    }

    /// Sleeps while the word is `expected`. A deadline in a model has always passed.
    pub(crate) fn wait(word: &AtomicU32, expected: u32, deadline: Option<u64>) -> Slept {
        let lock = SLEEPERS.0.lock().unwrap_or_else(PoisonError::into_inner);
        if word.load(Ordering::SeqCst) != expected {
            return Slept::Woken;
        }
        if deadline.is_some() {
            return Slept::TimedOut;
        }
        drop(
            SLEEPERS
                .1
                .wait(lock)
                .unwrap_or_else(PoisonError::into_inner),
        );
        Slept::Woken
    }

    pub(crate) fn wake_one(_word: &AtomicU32) {
        drop(SLEEPERS.0.lock().unwrap_or_else(PoisonError::into_inner));
        SLEEPERS.1.notify_all();
    }
}
