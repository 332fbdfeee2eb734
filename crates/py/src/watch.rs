//! What a program watches itself: readers and writers on descriptors, and children.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyInt, PyTuple};
use ropewalk_reactor::Side;

use crate::error::os_error;
use crate::eventloop::{Loop, Task};
use crate::handle::{Call, Given, HandleRef};

/// The number of a descriptor given as an int or as an object with `fileno()`; the rules and the exceptions
/// are those of the `selectors` module.
pub(crate) fn number(fd: &Bound<'_, PyAny>) -> PyResult<i32> {
    let number = if fd.is_instance_of::<PyInt>() {
        fd.extract::<i32>()
    } else {
        fd.call_method0("fileno")
            .and_then(|number| number.extract::<i32>())
    };
    let number = number.map_err(|error| {
        let py = fd.py();
        let value = PyValueError::new_err(match fd.repr() {
            Ok(fd) => format!("Invalid file object: {fd}"),
            Err(_) => "Invalid file object".to_owned(),
        });
        value.set_cause(py, Some(error));
        value
    })?;
    if number < 0 {
        return Err(PyValueError::new_err(format!(
            "Invalid file descriptor: {number}"
        )));
    }
    Ok(number)
}

fn handle(
    slf: &Bound<'_, Loop>,
    callback: &Bound<'_, PyAny>,
    args: &Bound<'_, PyTuple>,
    context: Option<&Bound<'_, PyAny>>,
) -> PyResult<HandleRef> {
    let call = Call {
        owner: slf.as_ptr(),
        callback: callback.as_ptr(),
        args: if args.is_empty() {
            Given::Values(&[])
        } else {
            Given::Tuple(args.as_ptr())
        },
        context: context.map(|context| context.as_ptr()),
    };
    // SAFETY: all of them are borrowed for the call.
    unsafe { HandleRef::new(slf.py(), call) }
}

/// Watches one side of a descriptor, in place of what watched it before.
pub(crate) fn add(
    slf: &Bound<'_, Loop>,
    fd: &Bound<'_, PyAny>,
    side: Side,
    callback: &Bound<'_, PyAny>,
    args: &Bound<'_, PyTuple>,
    context: Option<&Bound<'_, PyAny>>,
) -> PyResult<Py<PyAny>> {
    let py = slf.py();
    let number = number(fd)?;
    let handle = handle(slf, callback, args, context)?;
    let task = Task::Handle(handle.clone());
    match slf
        .get()
        .reactor(py, |reactor| reactor.watch(number, side, task))?
    {
        Ok(replaced) => {
            cancel(slf.get(), py, replaced, side);
            Ok(handle.into_obj().into_bound(py).unbind())
        }
        Err((error, task)) => {
            drop(task);
            Err(os_error(slf.py(), &error))
        }
    }
}

/// Ends the watch on one side; whether there was one.
pub(crate) fn remove(owner: &Loop, fd: &Bound<'_, PyAny>, side: Side) -> PyResult<bool> {
    let py = fd.py();
    let number = match number(fd) {
        Ok(number) => number,
        // A socket that is closed by now answers -1: nothing of it is watched.
        Err(error) if fd.is_instance_of::<PyInt>() => return Err(error),
        Err(error) => match fd
            .call_method0("fileno")
            .and_then(|number| number.extract::<i32>())
        {
            Ok(_) => return Ok(false),
            Err(_) => return Err(error),
        },
    };
    let Ok(removed) = owner.reactor(py, |reactor| reactor.unwatch(number, side)) else {
        // A closed loop watches nothing.
        return Ok(false);
    };
    let found = removed.is_some();
    cancel(owner, py, removed, side);
    Ok(found)
}

/// Whether the two sides are watched.
pub(crate) fn watched(owner: &Loop, py: Python<'_>, fd: i32) -> PyResult<(bool, bool)> {
    owner.reactor(py, |reactor| {
        (
            reactor.watched(fd, Side::Read).is_some(),
            reactor.watched(fd, Side::Write).is_some(),
        )
    })
}

/// A handle that is not watched any longer must not run if it is ready already.
pub(crate) fn cancel(owner: &Loop, py: Python<'_>, task: Option<Task>, side: Side) {
    match task {
        Some(Task::Handle(handle)) => handle.cancel(py),
        Some(Task::Socket(ticket)) => crate::sock::gave_way(owner, py, ticket, side),
        _ => {}
    }
}

/// Calls back once when a child has ended.
pub(crate) fn child(
    slf: &Bound<'_, Loop>,
    pid: i32,
    callback: &Bound<'_, PyAny>,
    args: &Bound<'_, PyTuple>,
) -> PyResult<()> {
    let handle = handle(slf, callback, args, None)?;
    let task = Task::Handle(handle);
    match slf
        .get()
        .reactor(slf.py(), |reactor| reactor.watch_child(pid, task))?
    {
        Ok(_key) => Ok(()),
        Err((error, task)) => {
            drop::<Task>(task);
            Err(os_error(slf.py(), &error))
        }
    }
}
