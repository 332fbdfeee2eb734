//! Which of a loop's thread-safe handles runs just now.
//!
//! From Python 3.14 on, `cancel()` and `cancelled()` of what `call_soon_threadsafe` returned wait, in another
//! thread, until a callback that has begun is done. A loop runs one callback at a time, so one place per loop
//! is enough, and handles need no lock of their own.
//!
//! The place is written under its lock before the handle looks whether it is cancelled, and another thread
//! cancels with the lock held: so either it finds the callback running and waits, or the callback finds
//! itself cancelled. The lock is held over no Python code.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often one who waits looks for signals.
const PATIENCE: Duration = Duration::from_millis(50);

#[derive(Default)]
pub(crate) struct Shared {
    /// The running handle's address, or 0.
    running: Mutex<usize>,
    idle: Condvar,
}

/// The handle runs as long as this lives.
pub(crate) struct Entered<'a>(&'a Shared);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, usize> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn enter(&self, handle: usize) -> Entered<'_> {
        *self.lock() = handle;
        Entered(self)
    }

    /// Calls `f` with the place locked, if `handle` does not run now.
    pub(crate) fn is_idle<R>(&self, handle: usize, f: impl FnOnce() -> R) -> Option<R> {
        let running = self.lock();
        (*running != handle).then(f)
    }

    /// Waits a while for `handle` to be done.
    pub(crate) fn wait(&self, handle: usize) {
        let running = self.lock();
        let waited = self
            .idle
            .wait_timeout_while(running, PATIENCE, |running| *running == handle);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        *self.0.lock() = 0;
        self.0.idle.notify_all();
    }
}
