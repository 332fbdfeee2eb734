//! Who holds a lock, and the lock itself as `Lock` and `RLock` share it.
//!
//! A holder is a thread or a task, told apart by one number: a thread's identifier, or a task's address with the lowest
//! bit set (both are addresses of something larger than a byte, so the bit is free). A number can be compared
//! without the guard, which is all that a reentrant lock's fast path needs. The task itself is kept beside it, so
//! that the address stays its own.

use std::ffi::c_int;
use std::sync::atomic::{AtomicUsize, Ordering};

use pyo3::prelude::*;
use ropewalk_sys::fork;
use ropewalk_wait::{Permits, Ticket};

use crate::guard::Guarded;
use crate::object::Obj;
use crate::wait::{self, Waiter};

/// The bit that tells a task from a thread.
const TASK: usize = 1;

/// A thread or a task, as the holder of a lock.
#[derive(Clone, Debug)]
pub(crate) struct Holder {
    number: usize,
    task: Option<Obj>,
}

impl Holder {
    /// The calling thread.
    #[inline]
    pub(crate) fn thread() -> Self {
        Self {
            number: fork::this_thread(),
            task: None,
        }
    }

    /// The running task, or the thread where none runs.
    pub(crate) fn task(py: Python<'_>) -> Self {
        match wait::current_task(py) {
            Some(task) => Self {
                number: task.as_ptr() as usize | TASK,
                task: Some(task),
            },
            None => Self::thread(),
        }
    }

    /// The holder that a lock knows by this number.
    pub(crate) fn known(number: usize, task: Option<Obj>) -> Self {
        Self { number, task }
    }

    /// Whether the number is a task's.
    #[inline]
    pub(crate) fn is_task(number: usize) -> bool {
        number & TASK != 0
    }

    /// Who drives an operation.
    pub(crate) fn of(py: Python<'_>, who: &Waiter) -> Self {
        match who {
            Waiter::Thread(_) => Self::thread(),
            Waiter::Task(_) => Self::task(py),
        }
    }

    #[inline]
    pub(crate) fn number(&self) -> usize {
        self.number
    }

    /// Shows the task to the collector.
    pub(crate) fn visit(&self, visit: &mut dyn FnMut(&Obj) -> c_int) -> c_int {
        self.task.as_ref().map_or(0, visit)
    }
}

/// A lock that knows its holder and its line.
#[derive(Default)]
pub(crate) struct Held {
    lock: ropewalk_wait::Lock,
    /// The holder's number; 0 while there is none.
    holder: AtomicUsize,
    queue: Guarded<Queue>,
}

struct Queue {
    permits: Permits<Waiter>,
    /// The holder, if it is a task.
    task: Option<Obj>,
}

impl Default for Guarded<Queue> {
    fn default() -> Self {
        Self::new(Queue {
            permits: Permits::new(0),
            task: None,
        })
    }
}

impl Held {
    /// The holder's number. Whoever finds its own there is the holder; any other may be the past.
    #[inline]
    pub(crate) fn holder(&self) -> usize {
        self.holder.load(Ordering::Relaxed)
    }

    /// Takes the lock for the calling thread if it is free: the shortcut.
    ///
    /// # Safety
    /// Attached.
    #[inline]
    pub(crate) unsafe fn take_quickly(&self) -> bool {
        // SAFETY: says the caller.
        let taken = self.lock.take_quickly() || unsafe { self.take_in_line() };
        if taken {
            self.holder.store(fork::this_thread(), Ordering::Relaxed);
        }
        taken
    }

    /// The shortcut where others wait, as they do for as long as a thread that has been woken waits for the GIL.
    ///
    /// # Safety
    /// Attached.
    #[inline(never)]
    unsafe fn take_in_line(&self) -> bool {
        if self.lock.is_held_quickly() == Some(true) {
            return false;
        }
        // SAFETY: says the caller.
        let py = unsafe { Python::assume_attached() };
        let taken = self
            .queue
            .try_with(py, |queue| self.lock.take(&mut queue.permits));
        taken == Some(true)
    }

    /// Lets go if nobody has to be woken and the holder is no task: the shortcut.
    ///
    /// # Safety
    /// Attached.
    #[inline]
    pub(crate) unsafe fn free_quickly(&self) -> bool {
        let holder = self.holder();
        if Holder::is_task(holder) {
            return false;
        }
        self.holder.store(0, Ordering::Relaxed);
        // SAFETY: says the caller.
        let free = self.lock.free_quickly() || unsafe { self.free_in_line() };
        if !free {
            // The name stays until the lock is really let go.
            self.holder.store(holder, Ordering::Relaxed);
        }
        free
    }

    /// As `take_in_line`.
    ///
    /// # Safety
    /// Attached.
    #[inline(never)]
    unsafe fn free_in_line(&self) -> bool {
        // SAFETY: says the caller.
        let py = unsafe { Python::assume_attached() };
        let free = self
            .queue
            .try_with(py, |queue| self.lock.free_unheard(&mut queue.permits));
        free == Some(true)
    }

    /// Takes the lock for the calling thread if it is free.
    #[inline]
    pub(crate) fn take(&self, py: Python<'_>) -> bool {
        let taken = self.lock.take_quickly() || self.take_slowly(py);
        if taken {
            self.holder.store(fork::this_thread(), Ordering::Relaxed);
        }
        taken
    }

    #[cold]
    fn take_slowly(&self, py: Python<'_>) -> bool {
        self.lock.is_held_quickly() != Some(true)
            && self
                .queue
                .with(py, |queue| self.lock.take(&mut queue.permits))
    }

    /// Takes the lock for the running task if it is free.
    pub(crate) fn take_for_task(&self, py: Python<'_>) -> bool {
        let taken = self.lock.take_quickly() || self.take_slowly(py);
        if taken {
            self.rename(py, Holder::task(py));
        }
        taken
    }

    /// Tries for a waiter, who holds the lock as `holder` then; or gives it a place.
    pub(crate) fn poll(
        &self,
        py: Python<'_>,
        place: &mut Option<Ticket>,
        who: &Waiter,
        holder: &Holder,
    ) -> bool {
        let (taken, call) = self.queue.with(py, |queue| {
            let taken = self.lock.poll(&mut queue.permits, place, who);
            if taken {
                queue.task.clone_from(&holder.task);
            }
            (taken, self.lock.next_call(&mut queue.permits))
        });
        if taken {
            self.holder.store(holder.number, Ordering::Relaxed);
        }
        self.call_all(py, call);
        taken
    }

    /// Gives up a place; a lock that had been granted goes to the next.
    pub(crate) fn leave(&self, py: Python<'_>, ticket: &Ticket) {
        let call = self.queue.with(py, |queue| {
            if self.lock.leave(&mut queue.permits, ticket) {
                // Granted is held, so this cannot fail.
                let _ = self.lock.free(&mut queue.permits);
            }
            self.lock.next_call(&mut queue.permits)
        });
        self.call_all(py, call);
    }

    /// Lets go, whoever the holder is. False: nobody held the lock.
    #[inline]
    pub(crate) fn free(&self, py: Python<'_>) -> bool {
        if self.holder() & TASK != 0 {
            let task = self.queue.with(py, |queue| queue.task.take());
            drop(task);
        }
        self.holder.store(0, Ordering::Relaxed);
        self.lock.free_quickly() || self.free_slowly(py)
    }

    #[cold]
    fn free_slowly(&self, py: Python<'_>) -> bool {
        let (held, call) = self.queue.with(py, |queue| {
            let held = self.lock.free(&mut queue.permits);
            (held, self.lock.next_call(&mut queue.permits))
        });
        self.call_all(py, call);
        held
    }

    fn call_all(&self, py: Python<'_>, call: Option<ropewalk_wait::line::Call<Waiter>>) {
        if call.is_some() {
            wait::call_all(
                call,
                |ticket| self.leave(py, ticket),
                || {
                    self.queue
                        .with(py, |queue| self.lock.next_call(&mut queue.permits))
                },
            );
        }
    }

    /// Whether somebody holds the lock; `None` if that takes the guard.
    #[inline]
    pub(crate) fn is_held_quickly(&self) -> Option<bool> {
        self.lock.is_held_quickly()
    }

    /// Whether somebody holds the lock.
    #[inline]
    pub(crate) fn is_held(&self, py: Python<'_>) -> bool {
        match self.lock.is_held_quickly() {
            Some(held) => held,
            None => self
                .queue
                .with(py, |queue| self.lock.is_held(&queue.permits)),
        }
    }

    /// A free lock with nobody waiting, in a forked child whose other threads are gone.
    pub(crate) fn reset(&self, py: Python<'_>) {
        let old = self.queue.with(py, |queue| {
            (self.lock.reset(&mut queue.permits), queue.task.take())
        });
        self.holder.store(0, Ordering::Relaxed);
        drop(old);
    }

    /// Passes the lock, which is held, to another name.
    pub(crate) fn rename(&self, py: Python<'_>, holder: Holder) {
        self.holder.store(holder.number, Ordering::Relaxed);
        let old = self
            .queue
            .with(py, |queue| std::mem::replace(&mut queue.task, holder.task));
        drop(old);
    }

    /// The holder as a task, if it is one.
    pub(crate) fn task(&self, py: Python<'_>) -> Option<Obj> {
        self.queue.with(py, |queue| queue.task.clone())
    }

    /// `(locked, holder, waiters)`: a thread by its identifier, a task by itself.
    pub(crate) fn look(&self, py: Python<'_>) -> PyResult<(bool, Obj, Vec<Obj>)> {
        let held = self.is_held(py);
        let (task, waiters) = self.queue.with(py, |queue| {
            let waiters: Vec<_> = queue.permits.line().iter().cloned().collect();
            (queue.task.clone(), waiters)
        });
        let number = self.holder();
        let holder = match task {
            _ if !held => None,
            Some(task) => Some(task),
            None if number == 0 => None,
            None => Some(number.into_pyobject(py)?.into_any().into()),
        };
        let holder = holder.unwrap_or_else(|| py.None().into_bound(py).into());
        let waiters = waiters
            .iter()
            .map(|waiter| waiter.who(py))
            .collect::<PyResult<_>>()?;
        Ok((held, holder, waiters))
    }

    /// Shows what it holds to the collector.
    pub(crate) fn visit(&self, visit: &mut dyn FnMut(&Obj) -> c_int) -> c_int {
        self.queue
            .try_look(|queue| {
                let waiters = queue.permits.line().iter();
                queue
                    .task
                    .iter()
                    .map(&mut *visit)
                    .find(|answer| *answer != 0)
                    .or_else(|| {
                        waiters
                            .map(|waiter| waiter.visit(visit))
                            .find(|answer| *answer != 0)
                    })
                    .unwrap_or(0)
            })
            .unwrap_or(0)
    }
}
