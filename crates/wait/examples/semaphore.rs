//! A semaphore of one's own, in a few lines: permits behind a mutex, threads that park.
//!
//! `cargo run -p ropewalk-wait --example semaphore`

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ropewalk_wait::{Parker, Permits, Waiter};

#[derive(Clone)]
struct Sleeper(Arc<Parker>);

impl Waiter for Sleeper {
    fn wake(&self) -> bool {
        self.0.unpark();
        true
    }

    fn survives_fork(&self) -> bool {
        self.0.survives_fork()
    }

    fn thread(&self) -> usize {
        self.0.thread()
    }

    fn blocks(&self) -> bool {
        true
    }
}

struct Semaphore(Mutex<Permits<Sleeper>>);

impl Semaphore {
    fn with<R>(&self, f: impl FnOnce(&mut Permits<Sleeper>) -> R) -> R {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Wakes whom a change has called, each with the guard released.
    fn call_all(&self) {
        while let Some(call) = self.with(Permits::next_call) {
            call.waiter.wake();
        }
    }

    fn acquire(&self) {
        let (who, mut place) = (Sleeper(Arc::new(Parker::new(0))), None);
        while !self.with(|permits| permits.poll(&mut place, &who)) {
            self.call_all();
            who.0.park(None);
        }
        self.call_all();
    }

    fn release(&self) {
        self.with(|permits| permits.give(1));
        self.call_all();
    }
}

fn main() {
    let semaphore = Arc::new(Semaphore(Mutex::new(Permits::new(2))));
    let begun = Instant::now();
    let threads: Vec<_> = (0..6)
        .map(|number| {
            let semaphore = Arc::clone(&semaphore);
            thread::spawn(move || {
                semaphore.acquire();
                thread::sleep(Duration::from_millis(20));
                semaphore.release();
                number
            })
        })
        .collect();
    let done = threads.into_iter().filter_map(|thread| thread.join().ok());
    assert_eq!(done.sum::<usize>(), 15);
    // Six times 20 ms, two at a time.
    assert!(begun.elapsed() >= Duration::from_millis(60));
}
