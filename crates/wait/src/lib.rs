//! Parking and waking: one wait queue for everybody who can wait.
//!
//! A thread waits on a futex, a coroutine on its event loop, a greenlet on its hub. What they wait *for*, a lock or
//! an item, should not care. So this crate knows only a [`Waiter`]: somebody who can be woken. On it stand
//!
//! | module | promise |
//! |---|---|
//! | [`line`](mod@line) | who waits, first come first served: the one queue under everything |
//! | [`channel`] | items for whoever comes: a queue |
//! | [`permits`] | a counter that can be waited for: a semaphore, the inside of a lock |
//! | [`lock`] | a lock whose uncontended half is one atomic word |
//! | [`event`] | a flag that can be waited for |
//! | [`barrier`] | a number of parties that wait for one another |
//! | [`parker`] | how a thread waits: a futex that hears signals |
//!
//! The protocol, who may do what when, and why no wake-up is lost, is in the crate's `README.md`.
//!
//! # State machines, not locks
//!
//! But for the two atomic words, of the parker and the lock, everything here is plain data behind `&mut self`. Whoever
//! owns a primitive guards it: with a mutex, or with something cheaper where there is a global lock anyway. Two
//! rules go with that: **nobody is woken while the guard is held** (a wake-up may run any code, which may come back
//! to the same primitive), and nothing is dropped there that could run code.
//!
//! # Non-goals
//!
//! Spinning for a lock's word: on a busy machine that takes the time from whoever would let go, so a thread looks for a
//! moment before it sleeps only while that pays (see [`awake`](ropewalk_sys::awake)). Fairness that was never promised: a
//! newcomer may overtake those who sleep, since handing over to a sleeper costs a switch of threads each time; but
//! nobody is overtaken again after having been woken for nothing once.

pub mod barrier;
pub mod channel;
pub mod event;
pub mod line;
pub mod lock;
#[cfg(all(test, loom))]
mod loom;
pub mod parker;
pub mod permits;
mod sync;

pub use barrier::Barrier;
pub use channel::Channel;
pub use event::Event;
pub use line::{Left, Line, Ticket, Waiter};
pub use lock::Lock;
pub use parker::{Parked, Parker};
pub use permits::Permits;
