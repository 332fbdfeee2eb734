//! `ropewalk._core`: the reactor's door to Python.
//!
//! The only crate that knows Python. `heap`, `object`, `guard` and `call` are the ground: raw types, owned
//! references, locks, calls, and `spare` keeps dead objects' memory. On it stand `handle`, `eventloop` (with `turn`,
//! `watch`, `offspring`, `flood` and `shared`) and the sockets, `transport`, `listener`, `datagram` and `sock`; `names`
//! asks the resolver. On the transports stand `stream` and `tls`. `python/ropewalk/asyncio` is the face in front of it.
//!
//! `native` makes raw types that programs make instances of, `coroutine` what they await. `wait` is how threads and
//! tasks wait, and `sync` the primitives on it, whose face is `python/ropewalk/threading`.

mod address;
mod call;
mod coroutine;
mod datagram;
mod error;
mod eventloop;
mod flood;
mod guard;
mod handle;
mod heap;
mod listener;
mod names;
mod native;
mod object;
mod offspring;
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

use pyo3::prelude::*;

#[pymodule(gil_used = false)]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_function(wrap_pyfunction!(address::numeric_address, module)?)?;
    handle::register(module)?;
    transport::register(module)?;
    stream::register(module)?;
    tls::register(module)?;
    datagram::register(module)?;
    eventloop::register(module)?;
    wait::register(module)?;
    sync::register(module)
}
