//! A pool of operating system threads on the ledger: jobs are boxed closures, sleepers are std's own threads.
//!
//! `cargo run --example threads -p ropewalk-pool`

use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;

use ropewalk_pool::{Arrival, Ledger, Next, Step};

type Job = Box<dyn FnOnce() + Send>;
type Book = Ledger<Job, thread::Thread>;

struct Pool(Arc<Mutex<Book>>);

fn book<R>(book: &Mutex<Book>, f: impl FnOnce(&mut Book) -> R) -> R {
    f(&mut book.lock().unwrap_or_else(PoisonError::into_inner))
}

fn work(shared: &Mutex<Book>) {
    let (me, mut arrival) = (thread::current(), Arrival::Started);
    loop {
        let (next, step) = book(shared, |book| book.next(arrival, &me));
        if let Step::Wake(other) = step {
            other.unpark();
        }
        arrival = match next {
            Next::Job(job) => {
                job();
                Arrival::Busy
            }
            Next::Sleep => {
                // A real one looks again after a wake-up for nothing; std's parking may make some.
                thread::park();
                Arrival::Woken
            }
            Next::End => return,
        };
    }
}

impl Pool {
    fn submit(&self, job: impl FnOnce() + Send + 'static) -> Option<thread::JoinHandle<()>> {
        match book(&self.0, |book| book.submit(Box::new(job))) {
            Step::Nothing => None,
            Step::Wake(worker) => {
                worker.unpark();
                None
            }
            Step::Start => {
                let shared = self.0.clone();
                Some(thread::spawn(move || work(&shared)))
            }
        }
    }
}

fn main() {
    let pool = Pool(Arc::new(Mutex::new(Ledger::new(4))));
    let (sender, results) = mpsc::channel();
    let threads: Vec<_> = (1..=1000u64)
        .filter_map(|number| {
            let sender = sender.clone();
            pool.submit(move || {
                let _ = sender.send(number * number);
            })
        })
        .collect();
    drop(sender);
    for worker in book(&pool.0, Ledger::close) {
        worker.unpark();
    }
    let sum: u64 = results.iter().sum();
    let started = threads.len();
    for thread in threads {
        drop(thread.join());
    }
    assert_eq!(sum, 333_833_500);
    let line = format!("{sum} by {started} threads\n");
    drop(std::io::Write::write_all(
        &mut std::io::stdout(),
        line.as_bytes(),
    ));
}
