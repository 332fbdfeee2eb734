//! The ledger of a pool of workers: what waits, who runs, who is to be woken or started.
//!
//! [`Ledger<J, W>`](Ledger) is generic over the job and over what a sleeping worker is reached by. It is plain
//! data: it runs no job, holds no lock, wakes nobody. Whoever owns it guards it, and does what it says after the
//! guard is released; a language binding can so keep its interpreter out of the guard.
//!
//! ```
//! use ropewalk_pool::{Arrival, Ledger, Next, Step};
//!
//! let mut ledger: Ledger<&str, u32> = Ledger::new(2);
//! assert!(matches!(ledger.submit("first"), Step::Start)); // the caller starts a worker
//! let (next, step) = ledger.next(Arrival::Started, &1); // and this is it
//! assert!(matches!(next, Next::Job("first")) && matches!(step, Step::Nothing));
//! let (next, _) = ledger.next(Arrival::Busy, &1); // done, and nothing is left: it sleeps
//! assert!(matches!(next, Next::Sleep));
//! assert!(matches!(ledger.submit("second"), Step::Wake(1)));
//! ```
//!
//! # One wake-up in flight
//!
//! Waking a thread costs more than a small job, and threads that wake together fight for the same lock. So at
//! most one sleeper is on its way at a time: a submitter wakes one only if none is, and the one that arrives
//! wakes the next if jobs are left. A burst of a thousand jobs costs one wake-up of the submitter; if the first
//! worker is quick, it may be the only one.
//!
//! No job is forgotten by that. A job is pushed either while nobody is on the way, and then somebody is woken,
//! or while somebody is; that one has not looked at the queue yet, will find the job or another, and, finding
//! more than its own, wakes the next. A worker goes to sleep only with the queue empty, in the same step in
//! which it looked.
//!
//! Workers are started by the submitter, one for each job that no sleeping or coming worker is there for, up to
//! the limit: a pool whose first jobs block has a thread for each at once.
//!
//! # Non-goals
//!
//! Priorities, work stealing, affinity. Jobs are handed out first come first served, one at a time.

mod ledger;
#[cfg(all(test, loom))]
mod loom;

pub use ledger::{Arrival, Counts, Ledger, Next, Step};
