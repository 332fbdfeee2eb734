//! Which of a loop's thread-safe handles runs just now.
//!
//! From Python 3.14 on, `cancel()` and `cancelled()` of what `call_soon_threadsafe` returned wait, in another
//! thread, until a callback that has begun is done. A loop runs one callback at a time, so one place per loop
//! is enough, and handles need no lock of their own.
//!
//! The loop writes the place before it looks whether the handle is cancelled; another thread cancels before it
//! looks at the place. Cancelling and looking at a handle exclude each other (by the GIL, or by the handle's
//! critical section), and order what was written before: so either the loop finds the handle cancelled, or the
//! other thread finds it running and waits.
//!
//! The end is told to those who wait by a condition variable. The loop empties the place and then looks for
//! waiters; a waiter counts itself and then looks at the place. All four are sequentially consistent, so one of
//! them sees the other; and the waiter holds the lock from before its look until it waits, so it is not told in
//! between. Nothing is locked for a callback that nobody waits for.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How often one who waits looks for signals.
const PATIENCE: Duration = Duration::from_millis(50);

#[derive(Default)]
pub(crate) struct Shared {
    /// The running handle's address, or 0.
    running: AtomicUsize,
    /// Threads that wait for it to be another.
    waiting: AtomicUsize,
    lock: Mutex<()>,
    idle: Condvar,
}

/// The handle runs as long as this lives.
pub(crate) struct Entered<'a>(&'a Shared);

impl Shared {
    #[inline]
    pub(crate) fn enter(&self, handle: usize) -> Entered<'_> {
        self.running.store(handle, Ordering::Release);
        Entered(self)
    }

    #[inline]
    pub(crate) fn runs(&self, handle: usize) -> bool {
        self.running.load(Ordering::SeqCst) == handle
    }

    /// Waits a while for `handle` to be done.
    pub(crate) fn wait(&self, handle: usize) {
        let lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let waited = self
            .idle
            .wait_timeout_while(lock, PATIENCE, |()| self.runs(handle));
        drop(waited.unwrap_or_else(PoisonError::into_inner));
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    #[cold]
    fn tell(&self) {
        drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
        self.idle.notify_all();
    }
}

impl Drop for Entered<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.running.store(0, Ordering::SeqCst);
        if self.0.waiting.load(Ordering::SeqCst) > 0 {
            self.0.tell();
        }
    }
}
