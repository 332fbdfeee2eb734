//! Jobs from other threads: a queue behind a lock, and the [sleep protocol](crate::sleep) around
//! it.

use std::sync::{Arc, OnceLock, PoisonError, TryLockError};

use crate::sleep::{Bell, Sleeper};
use crate::sync::{Mutex, MutexGuard};

struct Queue<H> {
    handles: Vec<H>,
    closed: bool,
}

/// Held by the reactor, and by every [`Remote`].
pub(crate) struct Inbox<H, B> {
    bell: Arc<B>,
    queue: Mutex<Queue<H>>,
    /// Set when the reactor was opened again: the inbox that took this one's place. A lock cannot be made anew in
    /// place, and this one may be held by a thread that the fork left behind.
    successor: OnceLock<Arc<Self>>,
}

impl<H, B: Bell> Inbox<H, B> {
    pub(crate) fn new(bell: Arc<B>) -> Self {
        let queue = Mutex::new(Queue {
            handles: Vec::new(),
            closed: false,
        });
        Self {
            bell,
            queue,
            successor: OnceLock::new(),
        }
    }

    /// Pushes from any thread, and wakes the loop if it sleeps. Tells how many handles wait now;
    /// gives the handle back if the inbox is closed.
    pub(crate) fn push(&self, handle: H) -> Result<usize, H> {
        let mut inbox = self;
        loop {
            while let Some(next) = inbox.successor.get() {
                inbox = next;
            }
            let Some(mut queue) = inbox.lock() else {
                return Err(handle);
            };
            if queue.closed {
                drop(queue);
                if inbox.successor.get().is_some() {
                    continue;
                }
                return Err(handle);
            }
            queue.handles.push(handle);
            // Under the lock, a queue with something in it means NOTIFIED: only the first has to
            // tell.
            let waiting = queue.handles.len();
            let ring = waiting == 1 && inbox.bell.sleep().notify();
            // The system call is made outside: the loop that it wakes will want the lock.
            drop(queue);
            if ring {
                inbox.bell.ring();
            }
            return Ok(waiting);
        }
    }

    /// Takes all that was pushed, into the empty `taken`, whose memory the queue uses from then on.
    pub(crate) fn take(&self, taken: &mut Vec<H>) {
        if let Some(mut queue) = self.lock() {
            self.bell.sleep().acknowledge();
            std::mem::swap(&mut queue.handles, taken);
        }
    }

    /// Takes all that was pushed; from now on pushes are refused.
    pub(crate) fn close(self: &Arc<Self>, taken: &mut Vec<H>) {
        match self.lock() {
            Some(mut queue) => {
                queue.closed = true;
                taken.append(&mut queue.handles);
            }
            None => self.leave_as_it_is(),
        }
    }

    /// Has `next` take this inbox's place and takes what is in it; in a forked child, if the lock is
    /// not one of a vanished thread.
    pub(crate) fn succeed(self: &Arc<Self>, next: &Arc<Self>, taken: &mut Vec<H>) {
        let queue = self.lock();
        let _ = self.successor.set(Arc::clone(next));
        match queue {
            Some(mut queue) => {
                taken.append(&mut queue.handles);
                if queue.closed {
                    next.close(&mut Vec::new());
                }
                queue.closed = true;
            }
            None => self.leave_as_it_is(),
        }
    }

    /// The lock's holder vanished in the middle of a push, so what it guards is in no state to be
    /// looked at or even freed: it is leaked.
    fn leave_as_it_is(self: &Arc<Self>) {
        std::mem::forget(Arc::clone(self));
    }

    /// `None` only in a forked child, if a thread that the fork left behind held the lock.
    fn lock(&self) -> Option<MutexGuard<'_, Queue<H>>> {
        if self.bell.is_forked() {
            return self.try_lock();
        }
        Some(self.queue.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn try_lock(&self) -> Option<MutexGuard<'_, Queue<H>>> {
        match self.queue.try_lock() {
            Ok(queue) => Some(queue),
            Err(TryLockError::Poisoned(e)) => Some(e.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

/// Pushes jobs to a reactor from any thread. Cheap to clone; outlives the reactor.
pub struct Remote<H> {
    inbox: Arc<Inbox<H, Sleeper>>,
}

impl<H> Remote<H> {
    pub(crate) fn new(inbox: Arc<Inbox<H, Sleeper>>) -> Self {
        Self { inbox }
    }

    /// Makes `handle` ready in the next turn, after what was pushed before, and wakes the loop if
    /// it sleeps.
    ///
    /// Gives the handle back once the reactor has been drained or dropped.
    pub fn push(&self, handle: H) -> Result<(), H> {
        self.inbox.push(handle).map(drop)
    }
}

// Threads share a remote, and a handle only has to bear being sent.
#[cfg(not(loom))]
const _: () = {
    const fn shareable<T: Send + Sync>() {}
    shareable::<Remote<Box<dyn FnOnce() + Send>>>();
    shareable::<Sleeper>();
};

impl<H> Clone for Remote<H> {
    fn clone(&self) -> Self {
        Self {
            inbox: Arc::clone(&self.inbox),
        }
    }
}

impl<H> std::fmt::Debug for Remote<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remote").finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::mpsc;

    use ropewalk_sys::child::{Exit, reap};

    use super::*;

    #[test]
    fn in_a_forked_child_a_lock_that_a_vanished_thread_held_is_in_nobody_s_way() {
        let bell = Arc::new(Sleeper::new().unwrap());
        let inbox = Arc::new(Inbox::new(bell));
        inbox.push(1).unwrap();
        let (held, is_held) = mpsc::channel();
        let (release, is_released) = mpsc::channel::<()>();
        let holder = std::thread::spawn({
            let inbox = inbox.clone();
            move || {
                let queue = inbox.queue.lock().unwrap();
                held.send(()).unwrap();
                is_released.recv().unwrap();
                drop(queue);
            }
        });
        is_held.recv().unwrap();

        // SAFETY: the child uses the allocator, which the C library makes usable after a fork, and
        // leaves by `_exit`, so that nothing of the parent's is run twice.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let mut taken = Vec::new();
            let refused = inbox.push(2) == Err(2);
            let next = Arc::new(Inbox::new(Arc::new(Sleeper::new().unwrap())));
            inbox.succeed(&next, &mut taken);
            let nothing = taken.is_empty();
            let accepted = inbox.push(3).is_ok();
            next.take(&mut taken);
            let held = refused && nothing && accepted && taken == [3];
            drop(inbox); // leaves what the vanished thread was at alone
            // SAFETY: as above.
            unsafe { libc::_exit(i32::from(!held)) };
        }
        let mut exit = None;
        while exit.is_none() {
            exit = reap(pid).unwrap();
            std::thread::yield_now();
        }
        assert_eq!(exit, Some(Exit::Code(0)));

        release.send(()).unwrap();
        holder.join().unwrap();
        let mut taken = Vec::new();
        inbox.take(&mut taken);
        assert_eq!(taken, [1]);
    }
}
