//! What a worker does: a call for a future, a task of a worker's context, an item of a `map`, a call for a loop.

use std::sync::Arc;

use pyo3::prelude::*;

use super::crew::Worker;
use super::future::{self, Outcome};
use super::given::Given;
use super::map::Map;
use super::onloop::LoopCall;
use super::originals;
use super::state::Wakes;
use crate::call::in_context;
use crate::object::Obj;

pub(super) enum Job {
    Call(Call),
    /// What `_resolve_work_item_task` made of a call, for the worker's context to run.
    Task {
        future: Obj,
        task: Obj,
    },
    Map(Arc<Map>),
    Loop(Box<LoopCall>),
}

/// `function(*args, **kwargs)`, whose outcome is the future's.
pub(super) struct Call {
    pub(super) future: Obj,
    pub(super) function: Obj,
    pub(super) args: Given,
    pub(super) context: Option<Obj>,
}

/// Calls, in the context if there is one.
#[inline]
pub(super) fn call(py: Python<'_>, function: &Obj, args: &Given, context: Option<&Obj>) -> Outcome {
    let called = match context {
        None => args.call(py, function),
        Some(context) => in_context(py, context, || args.call(py, function)),
    };
    outcome(py, called.map(Obj::from))
}

#[inline]
pub(super) fn outcome(py: Python<'_>, called: PyResult<Obj>) -> Outcome {
    match called {
        Ok(result) => Outcome::Result(result),
        Err(error) => Outcome::Exception(error.into_value(py).into_bound(py).into_any().into()),
    }
}

impl Job {
    #[inline]
    pub(super) fn run(self, py: Python<'_>, worker: &Worker, wakes: &mut Wakes) {
        // Nobody is kept waiting behind what may take its time.
        wakes.flush(py);
        let done = match self {
            Self::Call(job) => {
                let future = job.future;
                Self::fulfil(py, &future, wakes, || {
                    let noted = worker.note(py, &job.function);
                    let outcome = call(py, &job.function, &job.args, job.context.as_ref());
                    drop(noted);
                    // Gone before anybody is told: who has the result finds the arguments free.
                    drop((job.args, job.function, job.context));
                    outcome
                })
            }
            Self::Task { future, task } => Self::fulfil(py, &future, wakes, || {
                let noted = worker.note(py, &task);
                let outcome = worker.run_task(py, &task);
                drop(noted);
                outcome
            }),
            Self::Map(map) => {
                map.work(py, worker, wakes);
                Ok(())
            }
            Self::Loop(call) => {
                call.run(py, worker);
                Ok(())
            }
        };
        if let Err(error) = done {
            // Somebody else has finished the future, or a callback raised what is no `Exception`.
            originals::log_exception(py, "critical", "Exception in worker", &[], error);
        }
    }

    #[inline]
    fn fulfil(
        py: Python<'_>,
        future: &Obj,
        wakes: &mut Wakes,
        call: impl FnOnce() -> Outcome,
    ) -> PyResult<()> {
        if !future::begin(py, future.bind(py), wakes)? {
            return Ok(());
        }
        let outcome = call();
        future::settle(py, future.bind(py), outcome, wakes)
    }

    /// Ends a job that nobody has begun: it is cancelled.
    pub(super) fn cancel(self, py: Python<'_>) -> PyResult<()> {
        match self {
            Self::Call(Call { future, .. }) | Self::Task { future, .. } => {
                future::cancel(py, future.bind(py)).map(drop)
            }
            Self::Map(map) => {
                map.cancel(py);
                Ok(())
            }
            Self::Loop(call) => {
                call.cancel(py);
                Ok(())
            }
        }
    }

    /// Ends a job that nobody will ever do: it fails.
    pub(super) fn fail(self, py: Python<'_>, error: PyErr) -> PyResult<()> {
        match self {
            Self::Call(Call { future, .. }) | Self::Task { future, .. } => {
                let mut wakes = Wakes::default();
                let settled =
                    future::settle(py, future.bind(py), outcome(py, Err(error)), &mut wakes);
                wakes.flush(py);
                settled
            }
            Self::Map(map) => {
                map.fail(py, error);
                Ok(())
            }
            Self::Loop(call) => {
                call.fail(py, error);
                Ok(())
            }
        }
    }
}
