//! The [sleep protocol](crate::sleep) under the model checker: every interleaving of pushers, loop
//! and bell.
//!
//! A lost wake-up shows as a deadlock, which the checker reports.

use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::{Condvar, Mutex};
use loom::thread;
use std::sync::{Arc, PoisonError};

use crate::inbox::Inbox;
use crate::sleep::{Bell, Sleep};

/// Stands for poller and eventfd: a poll lasts until there was a ring that no poll has taken.
struct ModelBell {
    sleep: Sleep,
    rung: Mutex<bool>,
    ringing: Condvar,
    rings: AtomicUsize,
}

impl ModelBell {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            sleep: Sleep::new(),
            rung: Mutex::new(false),
            ringing: Condvar::new(),
            rings: AtomicUsize::new(0),
        })
    }

    /// The middle phase of a turn. True if it slept.
    fn poll(&self) -> bool {
        let sleeps = self.sleep.begin();
        if sleeps {
            let mut rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
            while !*rung {
                rung = self
                    .ringing
                    .wait(rung)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            *rung = false;
            drop(rung);
            self.sleep.end();
        }
        sleeps
    }
}

impl Bell for ModelBell {
    fn sleep(&self) -> &Sleep {
        &self.sleep
    }

    fn ring(&self) {
        self.rings.fetch_add(1, Ordering::Relaxed);
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.ringing.notify_one();
    }

    fn is_forked(&self) -> bool {
        false
    }
}

type ModelInbox = Inbox<u32, ModelBell>;

/// Turns of a loop that does nothing else, until `count` handles have come. Returns them, and the
/// sleeps it took.
fn run(inbox: &ModelInbox, bell: &ModelBell, count: usize) -> (Vec<u32>, usize) {
    let (mut all, mut taken, mut sleeps) = (Vec::new(), Vec::new(), 0);
    while all.len() < count {
        sleeps += usize::from(bell.poll());
        if bell.sleep.is_notified() {
            inbox.take(&mut taken);
            all.append(&mut taken);
        }
    }
    (all, sleeps)
}

#[test]
fn no_push_is_missed_and_a_sleep_is_rung_once() {
    loom::model(|| {
        let bell = ModelBell::new();
        let inbox = Arc::new(Inbox::new(bell.clone()));
        let pushers: Vec<_> = [1, 2]
            .map(|handle| {
                let inbox = inbox.clone();
                thread::spawn(move || assert!(inbox.push(handle).is_ok()))
            })
            .into();
        let (mut all, sleeps) = run(&inbox, &bell, 2);
        for pusher in pushers {
            pusher.join().unwrap();
        }
        all.sort_unstable();
        assert_eq!(all, [1, 2]);
        assert!(bell.rings.load(Ordering::Relaxed) <= sleeps);
    });
}

#[test]
fn one_thread_s_pushes_arrive_in_order() {
    loom::model(|| {
        let bell = ModelBell::new();
        let inbox = Arc::new(Inbox::new(bell.clone()));
        let pusher = {
            let inbox = inbox.clone();
            thread::spawn(move || (1..=3).for_each(|handle| assert!(inbox.push(handle).is_ok())))
        };
        let (all, sleeps) = run(&inbox, &bell, 3);
        pusher.join().unwrap();
        assert_eq!(all, [1, 2, 3]);
        assert!(bell.rings.load(Ordering::Relaxed) <= sleeps);
    });
}

#[test]
fn a_push_beside_close_is_refused_or_handed_back() {
    loom::model(|| {
        let bell = ModelBell::new();
        let inbox: Arc<ModelInbox> = Arc::new(Inbox::new(bell));
        let pusher = {
            let inbox = inbox.clone();
            thread::spawn(move || inbox.push(7))
        };
        let mut left = Vec::new();
        inbox.close(&mut left);
        match pusher.join().unwrap() {
            Ok(_) => assert_eq!(left, [7]),
            Err(handle) => assert!(handle == 7 && left.is_empty()),
        }
        assert_eq!(inbox.push(8), Err(8));
    });
}

/// News without the queue, as [`Sleeper::wake`](crate::Sleeper::wake) brings it: what was written
/// before it is seen by the turn that it brings about, by the orderings of the state alone.
#[test]
fn what_was_written_before_a_bare_wake_is_seen() {
    loom::model(|| {
        let bell = ModelBell::new();
        let written = Arc::new(AtomicUsize::new(0));
        let waker = {
            let (bell, written) = (bell.clone(), written.clone());
            thread::spawn(move || {
                written.store(1, Ordering::Relaxed);
                if bell.sleep.notify() {
                    bell.ring();
                }
            })
        };
        while !bell.sleep.is_notified() {
            bell.poll();
        }
        assert_eq!(written.load(Ordering::Relaxed), 1);
        bell.sleep.acknowledge();
        waker.join().unwrap();
    });
}

/// A forked child's hand-over, without the fork: whoever knows only the old inbox reaches the new
/// one.
#[test]
fn pushes_after_a_succession_reach_the_new_inbox() {
    loom::model(|| {
        let old: Arc<ModelInbox> = Arc::new(Inbox::new(ModelBell::new()));
        let new: Arc<ModelInbox> = Arc::new(Inbox::new(ModelBell::new()));
        old.push(7).unwrap();
        let mut taken = Vec::new();
        old.succeed(&new, &mut taken);
        assert_eq!(taken, [7]);
        taken.clear();
        let pusher = {
            let old = old.clone();
            thread::spawn(move || assert!(old.push(8).is_ok()))
        };
        new.push(9).unwrap();
        pusher.join().unwrap();
        new.take(&mut taken);
        taken.sort_unstable();
        assert_eq!(taken, [8, 9]);
    });
}
