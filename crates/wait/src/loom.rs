//! The protocols under the model checker: every interleaving of a few threads.
//!
//! A lost wake-up shows as a deadlock, which the checker reports; a doubled permit as a broken count.

use std::sync::{Arc, PoisonError};

use loom::cell::UnsafeCell;
use loom::sync::Mutex;
use loom::thread;

use crate::line::{Call, Left, Line, Ticket, Waiter};
use crate::lock::Lock;
use crate::parker::{Parked, Parker};
use crate::permits::Permits;

#[derive(Clone)]
struct Sleeper(Arc<Parker>);

impl Sleeper {
    fn new() -> Self {
        Self(Arc::new(Parker::new(0)))
    }

    fn sleep(&self) {
        while self.0.park(None) != Parked::Woken {}
    }
}

impl Waiter for Sleeper {
    fn wake(&self) -> bool {
        self.0.unpark();
        true
    }

    fn survives_fork(&self) -> bool {
        true
    }

    fn thread(&self) -> usize {
        self.0.thread()
    }

    fn blocks(&self) -> bool {
        true
    }
}

/// State behind the guard that its owner keeps.
struct Guarded<T>(Mutex<T>);

impl<T> Guarded<T> {
    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A waker that still holds something, and one that does not: each token ends a sleep, whatever the first one says later.
#[test]
fn a_token_is_a_token_whoever_lets_go_when() {
    model(3, || {
        let sleeper = Sleeper::new();
        let soon = {
            let sleeper = sleeper.clone();
            thread::spawn(move || {
                sleeper.0.unpark_soon();
                sleeper.0.let_go();
            })
        };
        sleeper.sleep();
        assert!(soon.join().is_ok());
        // It said so too late, and has left nothing behind; or else it is a token like any other.
        sleeper.0.let_go();
        let now = {
            let sleeper = sleeper.clone();
            thread::spawn(move || sleeper.0.unpark())
        };
        sleeper.sleep();
        assert!(now.join().is_ok());
    });
}

/// A semaphore as every owner of permits writes it.
struct Semaphore(Guarded<Permits<Sleeper>>);

impl Semaphore {
    fn new(free: usize) -> Arc<Self> {
        Arc::new(Self(Guarded(Mutex::new(Permits::new(free)))))
    }

    fn call_all(&self, mut call: Option<Call<Sleeper>>) {
        while let Some(called) = call {
            called.waiter.wake();
            call = self.0.with(Permits::next_call);
        }
    }

    fn release(&self) {
        let call = self.0.with(|permits| {
            permits.give(1);
            permits.next_call()
        });
        self.call_all(call);
    }

    fn poll(&self, place: &mut Option<Ticket>, who: &Sleeper) -> bool {
        let (taken, call) = self
            .0
            .with(|permits| (permits.poll(place, who), permits.next_call()));
        self.call_all(call);
        taken
    }

    fn acquire(&self) {
        let (who, mut place) = (Sleeper::new(), None);
        while !self.poll(&mut place, &who) {
            who.sleep();
        }
    }

    /// Waits, and gives up as soon as it would sleep: a cancellation at any moment after.
    fn acquire_and_cancel(&self) -> bool {
        let (who, mut place) = (Sleeper::new(), None);
        if self.poll(&mut place, &who) {
            return true;
        }
        thread::yield_now();
        let Some(ticket) = place else { return false };
        let call = self.0.with(|permits| {
            if permits.leave(&ticket) {
                permits.give(1);
            }
            permits.next_call()
        });
        self.call_all(call);
        false
    }
}

fn model(bound: usize, f: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(bound);
    builder.check(f);
}

#[test]
fn a_parked_thread_is_unparked() {
    model(4, || {
        let sleeper = Sleeper::new();
        let waker = {
            let sleeper = sleeper.clone();
            thread::spawn(move || sleeper.wake())
        };
        sleeper.sleep();
        assert!(waker.join().is_ok());
    });
}

#[test]
fn a_permit_goes_round() {
    model(3, || {
        let semaphore = Semaphore::new(1);
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let semaphore = Arc::clone(&semaphore);
                thread::spawn(move || {
                    semaphore.acquire();
                    semaphore.release();
                })
            })
            .collect();
        semaphore.acquire();
        semaphore.release();
        assert!(threads.into_iter().all(|thread| thread.join().is_ok()));
        assert_eq!(semaphore.0.with(|permits| permits.free()), 1);
    });
}

#[test]
fn a_cancelled_waiter_passes_its_permit_on() {
    model(3, || {
        let semaphore = Semaphore::new(0);
        let waiting = {
            let semaphore = Arc::clone(&semaphore);
            thread::spawn(move || semaphore.acquire())
        };
        let cancelled = {
            let semaphore = Arc::clone(&semaphore);
            thread::spawn(move || semaphore.acquire_and_cancel())
        };
        semaphore.release();
        // If it got the permit before it could be cancelled, there is another one.
        if matches!(cancelled.join(), Ok(true)) {
            semaphore.release();
        }
        assert!(waiting.join().is_ok());
        assert_eq!(semaphore.0.with(|permits| permits.free()), 0);
        assert!(semaphore.0.with(|permits| permits.line().is_empty()));
    });
}

/// The lock as its owner writes it, and a value that two threads at once would be caught at.
struct Locked {
    lock: Lock,
    permits: Guarded<Permits<Sleeper>>,
    value: UnsafeCell<usize>,
}

// SAFETY: the value is reached by holders of the lock alone, which is what the model checks.
unsafe impl Send for Locked {}
// SAFETY: as above.
unsafe impl Sync for Locked {}

impl Locked {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            lock: Lock::new(),
            permits: Guarded(Mutex::new(Permits::new(0))),
            value: UnsafeCell::new(0),
        })
    }

    fn call_all(&self, mut call: Option<Call<Sleeper>>) {
        while let Some(called) = call {
            called.waiter.wake();
            call = self.permits.with(|permits| self.lock.next_call(permits));
        }
    }

    fn poll(&self, place: &mut Option<Ticket>, who: &Sleeper) -> bool {
        let (taken, call) = self.permits.with(|permits| {
            let taken = self.lock.poll(permits, place, who);
            (taken, self.lock.next_call(permits))
        });
        self.call_all(call);
        taken
    }

    fn acquire(&self) {
        if self.lock.take_quickly() {
            return;
        }
        let (who, mut place) = (Sleeper::new(), None);
        while !self.poll(&mut place, &who) {
            who.sleep();
        }
    }

    fn release(&self) {
        if self.lock.free_quickly() || self.permits.with(|permits| self.lock.free_unheard(permits))
        {
            return;
        }
        let (held, call) = self
            .permits
            .with(|permits| (self.lock.free(permits), self.lock.next_call(permits)));
        assert!(held);
        self.call_all(call);
    }

    fn count(&self) {
        // SAFETY: holders alone; the model checker would see two at once.
        self.value.with_mut(|value| unsafe { *value += 1 });
    }

    fn cancel(&self, ticket: &Ticket) {
        let call = self.permits.with(|permits| {
            if self.lock.leave(permits, ticket) {
                assert!(self.lock.free(permits));
            }
            self.lock.next_call(permits)
        });
        self.call_all(call);
    }
}

#[test]
fn a_lock_has_one_holder_and_sees_what_the_last_one_did() {
    model(3, || {
        let locked = Locked::new();
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let locked = Arc::clone(&locked);
                thread::spawn(move || {
                    locked.acquire();
                    locked.count();
                    locked.release();
                })
            })
            .collect();
        locked.acquire();
        locked.count();
        locked.release();
        assert!(threads.into_iter().all(|thread| thread.join().is_ok()));
        // Everybody has left: the word tells the truth again, and the shortcut works.
        assert!(locked.lock.take_quickly());
        // SAFETY: this thread is the last.
        assert_eq!(locked.value.with(|value| unsafe { *value }), 3);
    });
}

#[test]
fn a_cancelled_waiter_leaves_the_lock_to_the_next() {
    model(3, || {
        let locked = Locked::new();
        locked.acquire();
        let waiting = {
            let locked = Arc::clone(&locked);
            thread::spawn(move || {
                locked.acquire();
                locked.count();
                locked.release();
            })
        };
        let cancelled = {
            let locked = Arc::clone(&locked);
            thread::spawn(move || {
                let (who, mut place) = (Sleeper::new(), None);
                if locked.poll(&mut place, &who) {
                    locked.release();
                } else if let Some(ticket) = place {
                    locked.cancel(&ticket);
                }
            })
        };
        locked.count();
        locked.release();
        assert!(waiting.join().is_ok());
        assert!(cancelled.join().is_ok());
        assert!(locked.lock.take_quickly());
    });
}

/// A condition's half: those who wait are granted what they wait for, and one that leaves granted passes it on.
#[test]
fn a_notification_reaches_somebody_although_one_is_cancelled() {
    model(3, || {
        let line = Arc::new(Guarded(Mutex::new(Line::<Sleeper>::new())));
        let join = |line: &Guarded<Line<Sleeper>>| {
            let who = Sleeper::new();
            let ticket = line.with(|line| line.join(who.clone()));
            (who, ticket)
        };
        let (first, first_place) = join(&line);
        let (second, second_place) = join(&line);
        let waiting = {
            let line = Arc::clone(&line);
            thread::spawn(move || {
                while !line.with(|line| line.is_granted(&second_place)) {
                    second.sleep();
                }
                line.with(|line| line.leave(&second_place))
            })
        };
        let cancelled = {
            let line = Arc::clone(&line);
            thread::spawn(move || {
                drop(first);
                let call = line.with(|line| match line.leave(&first_place) {
                    Left::Granted => line.grant(),
                    _ => None,
                });
                if let Some(call) = call {
                    call.waiter.wake();
                }
            })
        };
        let call = line.with(Line::grant);
        if let Some(call) = call {
            call.waiter.wake();
        }
        assert!(cancelled.join().is_ok());
        assert!(matches!(waiting.join(), Ok(Left::Granted)));
        assert!(line.with(|line| line.is_empty()));
    });
}
