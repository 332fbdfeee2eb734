//! A reactor without a language: ready queue, timers, readiness, children, cross-thread wake-ups.
//!
//! [`Reactor<H>`](Reactor) serves one event loop on one thread and is generic over `H`, the handle
//! of what is to be called. It calls nothing itself. It is a data structure with a turn in three
//! phases, made for language bindings, which must give up their interpreter's lock for the sleep
//! alone and must never hold a lock of ours while user code runs:
//!
//! 1. [`Reactor::prepare`] decides whether this turn sleeps, looks or skips asking the system;
//! 2. [`Sleeper::poll`] does so, *without the reactor*: nothing of it is borrowed meanwhile;
//! 3. [`Reactor::collect`] turns what came into ready jobs, which the caller then pops and runs.
//!
//! ```
//! use ropewalk_reactor::{Events, Reactor, now};
//!
//! let mut reactor: Reactor<fn() -> bool> = Reactor::new()?;
//! let mut events = Events::new();
//! reactor.push(|| false);
//! reactor.add_timer(now() + 1_000_000, || true); // in a millisecond: stop
//! reactor.begin_run();
//! 'run: loop {
//!     let plan = reactor.prepare(true);
//!     match reactor.sleeper().poll(&mut events, &plan) {
//!         Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {} // run signal handlers here
//!         result => result?,
//!     }
//!     // The batch: what these call is pushed for the next turn.
//!     for _ in 0..reactor.collect(&mut events) {
//!         let Some(job) = reactor.pop() else { break };
//!         if (job.handle)() {
//!             break 'run;
//!         }
//!     }
//! }
//! # std::io::Result::Ok(())
//! ```
//!
//! # Handles are handed back
//!
//! Dropping an `H` may run user code (a finaliser), which may call the reactor again. So no method
//! drops one: what is replaced, cancelled or removed is returned, and [`Reactor::drain`] returns
//! all that is left.
//!
//! # Non-goals
//!
//! Running the handles; signals (a binding has the language's own wake-up descriptor and watches
//! it); name resolution and files (thread pools); several reactors balancing work between them.

mod inbox;
#[cfg(all(test, loom))]
mod loom;
mod reactor;
mod registrations;
pub mod sleep;
mod sync;
mod timers;

pub use inbox::Remote;
pub use reactor::{CROWD_NANOS, Job, LOOK_NANOS, LOOK_TURNS, Plan, Reactor};
pub use registrations::{ChildKey, Refused, Side, Token};
pub use ropewalk_sys::clock::{Nanos, now};
pub use ropewalk_sys::poller::{Events, Readiness};
pub use sleep::Sleeper;
pub use timers::TimerKey;
