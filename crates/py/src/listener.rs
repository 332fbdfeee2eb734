//! A listening socket: accepts what waits, each connection with a transport and a protocol of its own.

use std::io::ErrorKind;
use std::os::fd::RawFd;

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyType;
use ropewalk_reactor::Side;
use ropewalk_sys::stream;

use crate::call::{call_function, call_method, copy_context, in_context};
use crate::error::os_error;
use crate::eventloop::{Loop, Task};
use crate::object::Obj;
use crate::transport;
use crate::turn::report;

/// What the job `Accept` needs.
#[pyclass(frozen, module = "ropewalk._core")]
struct Listener {
    class: Py<PyType>,
    sock: Py<PyAny>,
    fd: RawFd,
    factory: Py<PyAny>,
    server: Option<Py<PyAny>>,
    /// Connections taken in one turn, at most: the others' turn comes between.
    backlog: usize,
    /// What `create_server` ran in; every connection gets a copy.
    context: Obj,
}

#[pymethods]
impl Listener {
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.class)?;
        visit.call(&self.sock)?;
        visit.call(&self.factory)?;
        visit.call(&self.server)?;
        visit.call(self.context.as_py())
    }
}

/// Begins to accept.
pub(crate) fn listen(
    slf: &Bound<'_, Loop>,
    class: &Bound<'_, PyType>,
    sock: &Bound<'_, PyAny>,
    factory: &Bound<'_, PyAny>,
    server: Option<&Bound<'_, PyAny>>,
    backlog: usize,
    context: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    let py = slf.py();
    let fd = crate::watch::number(sock)?;
    let listener = Listener {
        class: class.clone().unbind(),
        sock: sock.clone().unbind(),
        fd,
        factory: factory.clone().unbind(),
        server: server.map(|server| server.clone().unbind()),
        backlog,
        context: match context {
            Some(context) => context.into(),
            None => copy_context(py)?,
        },
    };
    let task = Task::Accept(Bound::new(py, listener)?.into_any().into());
    match slf
        .get()
        .reactor(py, |reactor| reactor.watch(fd, Side::Read, task))?
    {
        Ok(replaced) => {
            drop(replaced);
            Ok(())
        }
        Err((error, task)) => {
            drop::<Task>(task);
            Err(os_error(py, &error))
        }
    }
}

/// The job `Accept`.
pub(crate) fn accept(slf: &Bound<'_, Loop>, listener: &Obj) -> PyResult<()> {
    let py = slf.py();
    let ours = listener.as_ptr();
    let listener = listener
        .bind(py)
        .to_owned()
        .cast_into::<Listener>()
        .map_err(PyErr::from)?;
    let this = listener.get();
    for _ in 0..=this.backlog {
        // What the last connection called may have closed the server, and opened another one on its number.
        let goes_on = slf.get().reactor(py, |reactor| {
            matches!(reactor.watched(this.fd, Side::Read), Some(Task::Accept(listener)) if listener.as_ptr() == ours)
        })?;
        if !goes_on {
            return Ok(());
        }
        match stream::accept(this.fd) {
            Ok(connection) => connected(slf, this, connection)?,
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::Interrupted => return Ok(()),
                // Given up by the peer before it was accepted.
                ErrorKind::ConnectionAborted => {}
                _ => return refused(slf, this, os_error(py, &error)),
            },
        }
    }
    Ok(())
}

fn connected(
    slf: &Bound<'_, Loop>,
    this: &Listener,
    connection: std::os::fd::OwnedFd,
) -> PyResult<()> {
    let py = slf.py();
    let made = (|| {
        // SAFETY: attached, on a live context; a new reference or NULL with an exception set.
        let context = unsafe { Obj::from_owned(pyo3::ffi::PyContext_Copy(this.context.as_ptr())) }
            .ok_or_else(|| PyErr::fetch(py))?;
        let protocol = in_context(py, &context, || call_function(this.factory.bind(py)))?;
        let server = this
            .server
            .as_ref()
            .map(|server| Obj::from(server.bind(py)));
        transport::accepted(
            slf,
            this.class.bind(py),
            connection,
            protocol.into(),
            server,
            context,
        )
    })();
    match made {
        Ok(()) => Ok(()),
        Err(error) => report(
            slf,
            "Error on transport creation for incoming connection",
            error,
            &[],
        ),
    }
}

/// Out of descriptors or memory, most often: the face tells the exception handler and tries again later.
#[cold]
fn refused(slf: &Bound<'_, Loop>, this: &Listener, error: PyErr) -> PyResult<()> {
    let py = slf.py();
    let server = this
        .server
        .as_ref()
        .map_or_else(|| py.None(), |server| server.clone_ref(py));
    let told = this
        .backlog
        .into_pyobject(py)
        .map_err(PyErr::from)
        .and_then(|backlog| {
            let again: [&Bound<'_, PyAny>; 6] = [
                error.value(py),
                this.sock.bind(py),
                this.factory.bind(py),
                server.bind(py),
                &backlog,
                &this.context.bind(py),
            ];
            call_method(slf, intern!(py, "_accept_failed"), again)
        });
    match told {
        Ok(_) => Ok(()),
        Err(error) => report(slf, "Exception while accepting connections", error, &[]),
    }
}
