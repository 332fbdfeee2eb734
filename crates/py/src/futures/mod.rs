//! `concurrent.futures` for threads: the future, the pool, `map`, `wait` and `as_completed`.
//!
//! | module | |
//! |---|---|
//! | [`state`] | what a future is made of, and who is to be told when it changes |
//! | [`future`] | the Python type in front of it |
//! | [`outcome`] | waiting for one future: `result`, `exception`, `await` |
//! | [`gather`] | waiting for many: `wait`, `as_completed` |
//! | [`crew`] | the workers of a pool, and the ledger that they work from |
//! | [`job`] | what a worker does: a call, an item of a `map`, a call for an event loop |
//! | [`given`] | the arguments that a call was submitted with |
//! | [`pool`] | the Python type that executors derive from |
//! | [`map`] | `map` without a future for each item |
//! | [`onloop`] | `run_in_executor` without a future of the pool's |
//!
//! The classes that programs see are Python's: `ropewalk/_pool.py` derives them from these types and from
//! `concurrent.futures`' own, so that they are those, too.

mod crew;
mod future;
mod gather;
mod given;
mod job;
mod map;
mod onloop;
mod originals;
mod outcome;
mod pool;
mod state;

use pyo3::prelude::*;

pub(crate) use onloop::{Ran, run_in_executor, settle as settle_on_loop};

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    future::register(module)?;
    gather::register(module)?;
    pool::register(module)
}
