//! `ropewalk._core`: the reactor's door to Python.
//!
//! The only crate that knows Python. `heap`, `object`, `guard` and `call` are the ground: raw types, owned
//! references, locks, calls, and `spare` keeps dead objects' memory. On it stand `handle`, `eventloop` (with `turn`,
//! `watch`, `offspring`, `flood` and `shared`) and the sockets, `transport`, `listener`, `datagram` and `sock`; `names`
//! asks the resolver. On the transports stand `stream` and `tls`. `python/ropewalk/asyncio` is the face in front of it.
//!
//! `native` makes raw types that programs make instances of, `coroutine` what they await. `wait` is how threads and
//! tasks wait, and `sync` the primitives on it, whose face is `python/ropewalk/threading`; `futures` the thread pool, whose
//! face is `python/ropewalk/futures`; `queue` the queues, whose face is `python/ropewalk/queue.py`.

mod address;
mod call;
mod coroutine;
mod datagram;
mod error;
mod eventloop;
mod flood;
mod futures;
mod guard;
mod handle;
mod heap;
mod listener;
mod names;
mod native;
mod object;
mod offspring;
mod queue;
mod returning;
mod shared;
mod sock;
mod spare;
mod stream;
mod sync;
mod tls;
mod transport;
mod turn;
mod wait;
mod watch;

use pyo3::exceptions::PyAttributeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyString;

/// The names that are asyncio's face's alone. What they name is built on asyncio's own classes, and importing those
/// takes longer than all else that a program does at its start: it is made when the first of them is asked for.
const FOR_ASYNCIO: &[&str] = &[
    "Datagrams",
    "Handle",
    "Loop",
    "Stream",
    "StreamCall",
    "StreamTransport",
    #[cfg(Py_3_14)]
    "ThreadSafeHandle",
    "TimerHandle",
    "Tls",
    "TlsTransport",
    "_async_method",
    "_complete_streams",
    "_set_stream_classes",
];

#[pymodule(gil_used = false)]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_function(wrap_pyfunction!(address::numeric_address, module)?)?;
    wait::register(module)?;
    sync::register(module)?;
    futures::register(module)?;
    queue::register(module)?;
    for name in FOR_ASYNCIO {
        module.index()?.append(name)?;
    }
    // Not by add_function, which would list it among the public names.
    module.setattr("__getattr__", wrap_pyfunction!(missing, module)?)
}

/// The module's `__getattr__`: a name that is not there, or not yet.
#[pyfunction(pass_module)]
fn missing<'py>(
    module: &Bound<'py, PyModule>,
    name: &Bound<'py, PyString>,
) -> PyResult<Bound<'py, PyAny>> {
    static MADE: PyOnceLock<()> = PyOnceLock::new();

    let py = module.py();
    if FOR_ASYNCIO.contains(&name.to_str()?) {
        // Before the lock: under `ropewalk run` this import brings the face with it, which asks for its names.
        py.import("asyncio")?;
        MADE.get_or_try_init(py, || for_asyncio(module))?;
        if let Some(value) = module.dict().get_item(name)? {
            return Ok(value);
        }
    }
    Err(PyAttributeError::new_err(format!(
        "module 'ropewalk._core' has no attribute '{name}'"
    )))
}

/// Makes what is asyncio's face's, and lets it be seen when all of it is there.
fn for_asyncio(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let made = PyModule::new(module.py(), "ropewalk._core")?;
    handle::register(&made)?;
    transport::register(&made)?;
    stream::register(&made)?;
    tls::register(&made)?;
    datagram::register(&made)?;
    eventloop::register(&made)?;
    for name in FOR_ASYNCIO {
        module.setattr(*name, made.getattr(*name)?)?;
    }
    Ok(())
}
