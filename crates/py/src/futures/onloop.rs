//! `run_in_executor` without a future of the pool's: the worker hands the outcome to the loop, which completes the
//! loop's future. `asyncio.to_thread` comes by here, too.

use std::sync::Arc;

use pyo3::intern;
use pyo3::prelude::*;

use super::crew::Worker;
use super::future::Outcome;
use super::given::Given;
use super::job::{self, Job};
use super::pool;
use crate::call::call_method;
use crate::eventloop::{Loop, Task, delegate};
use crate::guard::Guarded;
use crate::heap::{Arguments, Ref, Returned};
use crate::object::Obj;
use crate::offspring::create_future;
use crate::turn::report;

/// A call that a loop waits for.
pub(super) struct LoopCall {
    future: Obj,
    owner: Obj,
    function: Obj,
    args: Given,
}

/// A call that was made, or never will be, on its way to the loop.
pub(crate) struct Ran {
    future: Obj,
    end: Guarded<Option<End>>,
}

enum End {
    Outcome(Outcome),
    Cancelled,
}

impl Ran {
    pub(crate) fn future(&self) -> &Obj {
        &self.future
    }
}

impl LoopCall {
    pub(super) fn run(self, py: Python<'_>, worker: &Worker) {
        // The loop's own thread may cancel it in this moment: then the result is dropped there.
        let cancelled = call_method(&self.future.bind(py), intern!(py, "cancelled"), [])
            .and_then(|cancelled| cancelled.is_truthy());
        match cancelled {
            Ok(true) => {}
            Ok(false) => {
                let noted = worker.note(py, &self.function);
                let outcome = job::call(py, &self.function, &self.args, None);
                drop(noted);
                self.post(py, End::Outcome(outcome));
            }
            Err(error) => self.fail(py, error),
        }
    }

    pub(super) fn fail(self, py: Python<'_>, error: PyErr) {
        let outcome = job::outcome(py, Err(error));
        self.post(py, End::Outcome(outcome));
    }

    pub(super) fn cancel(self, py: Python<'_>) {
        self.post(py, End::Cancelled);
    }

    fn post(self, py: Python<'_>, end: End) {
        let Self {
            future,
            owner,
            function,
            args,
        } = self;
        drop((function, args));
        let end = Guarded::new(Some(end));
        let ran = Task::Ran(Arc::new(Ran { future, end }));
        // A closed loop waits for nothing.
        drop(Loop::from_obj(py, &owner).enqueue(py, ran));
    }
}

/// Completes the loop's future, in the loop's thread.
pub(crate) fn settle(slf: &Bound<'_, Loop>, ran: &Ran) -> PyResult<()> {
    let py = slf.py();
    let Some(end) = ran.end.with(py, Option::take) else {
        return Ok(());
    };
    let future = ran.future.bind(py);
    let settled = (|| {
        if call_method(&future, intern!(py, "done"), [])?.is_truthy()? {
            return Ok(());
        }
        match end {
            End::Outcome(Outcome::Result(result)) => {
                call_method(&future, intern!(py, "set_result"), [&result.bind(py)])
            }
            End::Outcome(Outcome::Exception(exception)) => {
                let exception = as_of_asyncio(exception.into_bound(py))?;
                call_method(&future, intern!(py, "set_exception"), [&exception])
            }
            End::Cancelled => call_method(&future, intern!(py, "cancel"), []),
        }
        .map(drop)
    })();
    match settled {
        Ok(()) => Ok(()),
        Err(error) => report(
            slf,
            "A call in an executor could not be completed",
            error,
            &[("future", future.to_owned())],
        ),
    }
}

/// The exceptions that `concurrent.futures` and asyncio both have, each as its own, become asyncio's.
fn as_of_asyncio(exception: Bound<'_, PyAny>) -> PyResult<Bound<'_, PyAny>> {
    let py = exception.py();
    let convert = py
        .import("asyncio.futures")?
        .getattr(intern!(py, "_convert_future_exc"));
    match convert {
        Ok(convert) => convert.call1((exception,)),
        Err(_) => Ok(exception),
    }
}

/// `loop.run_in_executor(executor, func, *args)`.
pub(crate) fn run_in_executor(
    py: Python<'_>,
    this: Ref<'_, '_>,
    given: Arguments<'_, '_>,
) -> Returned {
    let owner = Loop::of(this);
    owner.check_open()?;
    let plain = intern!(py, "_plain_run_in_executor");
    let (&[executor, function, ..], None) = (given.positional(), given.names()) else {
        return delegate(py, this, plain, given);
    };
    if owner.debug() {
        return delegate(py, this, plain, given);
    }
    // SAFETY: an argument of the call that is being served.
    let mut executor = unsafe { Bound::from_borrowed_ptr(py, executor) };
    if executor.is_none() {
        executor = call_default(this)?;
    }
    let Some(pool) = pool::plain(&executor)? else {
        return delegate(py, this, plain, given);
    };
    pool.crew().check_open(py)?;
    // SAFETY: as above; the future is a new reference.
    let (function, future) = unsafe {
        let function = Obj::from_borrowed(function);
        let future = Obj::from_owned(create_future(py, this)?).ok_or_else(|| PyErr::fetch(py))?;
        (function, future)
    };
    let call = LoopCall {
        future: future.clone(),
        // SAFETY: the object that the method was called on.
        owner: unsafe { Obj::from_borrowed(this.as_ptr()) },
        function,
        args: Given::after(py, given, 2)?,
    };
    pool.crew()
        .submit(py, &executor, Job::Loop(Box::new(call)))?;
    Ok(future.into_ptr())
}

/// The loop's default executor, made if there is none.
fn call_default<'py>(this: Ref<'_, 'py>) -> PyResult<Bound<'py, PyAny>> {
    let py = this.py();
    let shut = this.getattr(intern!(py, "_executor_shutdown_called"))?;
    let executor = this.getattr(intern!(py, "_default_executor"))?;
    if executor.is_none() || shut.is_truthy()? {
        return call_method(&this, intern!(py, "_make_default_executor"), []);
    }
    Ok(executor)
}
