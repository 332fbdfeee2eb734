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
    place: Mutex<Place>,
    idle: Condvar,
}

#[derive(Default)]
struct Place {
    /// The running handle's address, or 0.
    running: usize,
    /// Threads that wait for it. Telling nobody would be a system call for each callback.
    waiting: usize,
}

/// The handle runs as long as this lives.
pub(crate) struct Entered<'a>(&'a Shared);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn enter(&self, handle: usize) -> Entered<'_> {
        self.lock().running = handle;
        Entered(self)
    }

    /// Calls `f` with the place locked, if `handle` does not run now.
    pub(crate) fn is_idle<R>(&self, handle: usize, f: impl FnOnce() -> R) -> Option<R> {
        let place = self.lock();
        (place.running != handle).then(f)
    }

    /// Waits a while for `handle` to be done.
    pub(crate) fn wait(&self, handle: usize) {
        let mut place = self.lock();
        place.waiting += 1;
        let (mut place, _) = self
            .idle
            .wait_timeout_while(place, PATIENCE, |place| place.running == handle)
            .unwrap_or_else(PoisonError::into_inner);
        place.waiting -= 1;
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let mut place = self.0.lock();
        place.running = 0;
        if place.waiting > 0 {
            self.0.idle.notify_all();
        }
    }
}
