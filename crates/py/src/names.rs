//! `getaddrinfo` without the executor: addresses in numbers at once, names by threads that need no interpreter.
//!
//! Nearly all of what a name costs through the default executor is handing a Python callable to another thread and
//! its result back: locks, futures, and the interpreter changing hands twice. The system's resolver knows nothing of
//! Python, so a thread of ours asks it and sends the loop what it says, and the loop makes objects of it.
//!
//! Threads are started as lookups wait for one, up to as many as asyncio's executor has, and end when they have had
//! nothing to do for a while, or when the loop is closed. They are never waited for: a name server that does not
//! answer delays no exit.

use std::collections::{HashMap, VecDeque};
use std::ffi::{CStr, CString, c_char, c_int};
use std::net::IpAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyInt, PyList, PyString, PyTuple};
use pyo3::{ffi, intern};
use ropewalk_reactor::Remote;
use ropewalk_sys::address::{INET, INET6, text};
use ropewalk_sys::fork;
use ropewalk_sys::names::{self, Failure, Found, Query};

use crate::address;
use crate::call::{borrowed, call_method};
use crate::error::os_error;
use crate::eventloop::{Loop, Task};
use crate::heap::{Arguments, Ref, Returned, method};
use crate::object::Obj;
use crate::offspring::create_future;

/// How long a thread waits for another lookup.
const PATIENCE: Duration = Duration::from_secs(10);
/// As many threads as asyncio's default executor has at most.
const MOST_THREADS: usize = 32;

/// The lookups of a loop that are under way.
#[derive(Default)]
pub(crate) struct Lookups {
    waiting: HashMap<u64, Obj>,
    serial: u64,
    desk: Option<Arc<Desk>>,
}

/// What a resolver thread found; it holds nothing of Python.
pub(crate) struct Answer {
    serial: u64,
    found: Result<Vec<Found>, Failure>,
}

/// Where lookups wait for a thread.
struct Desk {
    state: Mutex<State>,
    arrived: Condvar,
    /// `fork::generation()` of the process whose threads these are.
    generation: u64,
}

struct State {
    /// Where answers go; `None` once the loop is closed, whose descriptors a slow lookup must not keep.
    answers: Option<Remote<Task>>,
    queue: VecDeque<(u64, Query)>,
    threads: usize,
    idle: usize,
}

impl Lookups {
    /// The futures, for the garbage collector.
    pub(crate) fn objects(&self) -> impl Iterator<Item = &Obj> {
        self.waiting.values()
    }
}

impl Drop for Lookups {
    fn drop(&mut self) {
        let Some(desk) = self.desk.take() else { return };
        // A forked child's copy may be locked by a thread that is not there.
        let state = if desk.generation == fork::generation() {
            Some(desk.lock())
        } else {
            desk.state.try_lock().ok()
        };
        if let Some(mut state) = state {
            state.answers = None;
            state.queue.clear();
        }
        desk.arrived.notify_all();
    }
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a lookup to a thread. False if there is none and none can be had.
    fn hand_in(self: &Arc<Self>, serial: u64, query: Query) -> bool {
        let mut state = self.lock();
        state.queue.push_back((serial, query));
        if state.idle >= state.queue.len() {
            drop(state);
            self.arrived.notify_one();
            return true;
        }
        let most = std::thread::available_parallelism()
            .map_or(MOST_THREADS, |cores| MOST_THREADS.min(cores.get() + 4));
        if state.threads >= most {
            return true;
        }
        let desk = Arc::clone(self);
        let started = std::thread::Builder::new()
            .name("ropewalk-names".to_owned())
            .spawn(move || desk.serve());
        if started.is_ok() {
            state.threads += 1;
        } else if state.threads == 0 {
            state.queue.pop_back();
            return false;
        }
        true
    }

    /// A thread's life.
    fn serve(&self) {
        let mut state = self.lock();
        loop {
            while let Some((serial, query)) = state.queue.pop_front() {
                drop(state);
                let found = names::look_up(&query);
                let answer = Task::Named(Arc::new(Answer { serial, found }));
                state = self.lock();
                if let Some(answers) = &state.answers {
                    // Of a closed loop nobody wants to know.
                    drop(answers.push(answer));
                }
            }
            state.idle += 1;
            let (woken, waited) = self
                .arrived
                .wait_timeout_while(state, PATIENCE, |state| {
                    state.queue.is_empty() && state.answers.is_some()
                })
                .unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            if state.queue.is_empty() && (waited.timed_out() || state.answers.is_none()) {
                state.threads -= 1;
                return;
            }
        }
    }
}

pub(crate) fn methods() -> Vec<ffi::PyMethodDef> {
    vec![method!(
        c"_begin_lookup",
        c"Internal.",
        keywords,
        begin_lookup
    )]
}

/// `(host, port, family, type, proto, flags)`: the answer, a future of it, or `NotImplemented` for what only
/// `socket.getaddrinfo` takes or refuses.
fn begin_lookup(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    let unusual = || Ok(py.NotImplemented().into_ptr());
    let &[host, port, family, kind, protocol, flags] = given.positional() else {
        return unusual();
    };
    // SAFETY: arguments of the call that is being served.
    let [host, port, family, kind, protocol, flags] =
        [host, port, family, kind, protocol, flags].map(|value| unsafe { borrowed(py, value) });
    let Some(numbers) = numbers([family, kind, protocol, flags]) else {
        return unusual();
    };
    let [family, kind, protocol, flags] = numbers;
    let mut query = Query {
        host: None,
        service: None,
        family,
        kind,
        protocol,
        flags,
    };
    if let Some(answer) = numeric(py, host, port, &query)? {
        audit(py, host, port, numbers)?;
        return Ok(answer.into_ptr());
    }
    let (Some(name), Some(service)) = (host_name(host), service(port)) else {
        return unusual();
    };
    if name.is_none() && service.is_none() {
        return unusual();
    }
    (query.host, query.service) = (name, service);
    audit(py, host, port, numbers)?;
    let owner = Loop::of(this);
    let (desk, serial) = desk(py, owner)?;
    // SAFETY: an owned reference, just made.
    let future = unsafe { Bound::from_owned_ptr(py, create_future(py, this)?) };
    let kept: Obj = (&future).into();
    owner
        .lookups
        .with(py, |lookups| lookups.waiting.insert(serial, kept));
    if !desk.hand_in(serial, query) {
        let kept = owner
            .lookups
            .with(py, |lookups| lookups.waiting.remove(&serial));
        drop(kept);
        return unusual();
    }
    Ok(future.into_ptr())
}

/// The desk of this process, and a number for the next lookup.
fn desk(py: Python<'_>, owner: &Loop) -> PyResult<(Arc<Desk>, u64)> {
    let answers = owner.reactor(py, |reactor| reactor.remote())?;
    Ok(owner.lookups.with(py, |lookups| {
        lookups.serial += 1;
        let generation = fork::generation();
        let desk = match lookups.desk.take() {
            Some(desk) if desk.generation == generation => desk,
            // A forked child has none of its parent's threads.
            _ => Arc::new(Desk {
                state: Mutex::new(State {
                    answers: Some(answers),
                    queue: VecDeque::new(),
                    threads: 0,
                    idle: 0,
                }),
                arrived: Condvar::new(),
                generation,
            }),
        };
        lookups.desk = Some(Arc::clone(&desk));
        (desk, lookups.serial)
    }))
}

/// The job `Named`.
pub(crate) fn answered(slf: &Bound<'_, Loop>, answer: &Answer) -> PyResult<()> {
    let py = slf.py();
    let future = slf
        .get()
        .lookups
        .with(py, |lookups| lookups.waiting.remove(&answer.serial));
    let Some(future) = future else {
        return Ok(());
    };
    let future = future.into_bound(py);
    if call_method(&future, intern!(py, "done"), [])?.is_truthy()? {
        return Ok(());
    }
    let list = match &answer.found {
        Ok(found) => list(py, found),
        Err(Failure::System(error)) => Err(os_error(py, error)),
        Err(Failure::Resolver(code)) => Err(gaierror(py, *code)),
    };
    match list {
        Ok(list) => call_method(&future, intern!(py, "set_result"), [list.as_any()])?,
        Err(error) => call_method(
            &future,
            intern!(py, "set_exception"),
            [error.value(py).as_any()],
        )?,
    };
    Ok(())
}

fn gaierror(py: Python<'_>, code: i32) -> PyErr {
    let made = (|| {
        py.import(intern!(py, "socket"))?
            .getattr(intern!(py, "gaierror"))?
            .call1((code, names::explain(code)))
    })();
    made.map_or_else(|error| error, PyErr::from_value)
}

/// The host as the resolver takes it; `None` where only Python can tell: other types, names that are not ASCII or
/// not well-formed, which its `idna` codec encodes or refuses.
fn host_name(host: Ref<'_, '_>) -> Option<Option<CString>> {
    if host.is_none() {
        return Some(None);
    }
    if let Ok(bytes) = host.cast_exact::<PyBytes>() {
        return CString::new(bytes.as_bytes()).ok().map(Some);
    }
    let host = host.cast_exact::<PyString>().ok()?;
    let host = host.to_str().ok()?;
    let mut labels = host.split('.').rev();
    let last = labels.next()?;
    let fits =
        host.is_ascii() && last.len() < 64 && labels.all(|label| (1..64).contains(&label.len()));
    if !fits {
        return None;
    }
    CString::new(host).ok().map(Some)
}

/// The port as the resolver takes it.
fn service(port: Ref<'_, '_>) -> Option<Option<CString>> {
    if port.is_none() {
        return Some(None);
    }
    let text = if port.is_exact_instance_of::<PyInt>() {
        port.extract::<i64>().ok()?.to_string().into_bytes()
    } else if let Ok(text) = port.cast_exact::<PyString>() {
        text.to_str().ok()?.as_bytes().to_vec()
    } else {
        port.cast_exact::<PyBytes>().ok()?.as_bytes().to_vec()
    };
    CString::new(text).ok().map(Some)
}

/// `int`s, enums among them.
fn numbers(values: [Ref<'_, '_>; 4]) -> Option<[c_int; 4]> {
    let mut numbers = [0; 4];
    for (number, value) in numbers.iter_mut().zip(values) {
        if !value.is_instance_of::<PyInt>() {
            return None;
        }
        *number = value.extract().ok()?;
    }
    // Apple's resolver is told another port then.
    let quirk = cfg!(target_vendor = "apple") && numbers[3] != 0;
    (!quirk).then_some(numbers)
}

/// The answer for a host and a port in numbers.
fn numeric(
    py: Python<'_>,
    host: Ref<'_, '_>,
    port: Ref<'_, '_>,
    query: &Query,
) -> PyResult<Option<Obj>> {
    let Ok(host) = host.cast_exact::<PyString>() else {
        return Ok(None);
    };
    let Ok(ip) = host.to_str()?.parse::<IpAddr>() else {
        return Ok(None);
    };
    let number = if port.is_none() {
        0
    } else if let (true, Ok(number)) = (port.is_exact_instance_of::<PyInt>(), port.extract::<u16>())
    {
        number
    } else {
        return Ok(None);
    };
    let Some(kinds) = names::kinds(ip, !port.is_none(), query) else {
        return Ok(None);
    };
    let (family, address) = match ip {
        // There is one way to write such an address that both we and the system read.
        IpAddr::V4(_) => (INET, (host, number).into_pyobject(py)?),
        IpAddr::V6(ip) => (INET6, (text(&ip), number, 0, 0).into_pyobject(py)?),
    };
    let empty = PyString::intern(py, "");
    let mut found = Vec::with_capacity(kinds.len());
    for (kind, protocol) in kinds {
        let one = (
            member(py, family, false)?,
            member(py, kind, true)?,
            protocol,
            &empty,
            &address,
        );
        found.push(one.into_pyobject(py)?);
    }
    Ok(Some(PyList::new(py, found)?.into_any().into()))
}

/// The answer as `socket.getaddrinfo` gives it.
fn list<'py>(py: Python<'py>, found: &[Found]) -> PyResult<Bound<'py, PyList>> {
    let list = PyList::empty(py);
    for one in found {
        let name = match &one.name {
            Some(name) => PyString::new(py, &name.to_string_lossy()),
            None => PyString::intern(py, ""),
        };
        let address = address::to_python(py, Some(one.address.clone()))?;
        let entry: Bound<'_, PyTuple> = (
            member(py, one.family, false)?,
            member(py, one.kind, true)?,
            one.protocol,
            name,
            address,
        )
            .into_pyobject(py)?;
        list.append(entry)?;
    }
    Ok(list)
}

/// The member of `AddressFamily`, or of `SocketKind`, with this value; the number where there is none.
fn member<'py>(py: Python<'py>, value: i32, is_kind: bool) -> PyResult<Bound<'py, PyAny>> {
    const FEW: usize = 16;
    static FAMILIES: [PyOnceLock<Py<PyAny>>; FEW] = [const { PyOnceLock::new() }; FEW];
    static KINDS: [PyOnceLock<Py<PyAny>>; FEW] = [const { PyOnceLock::new() }; FEW];
    let make = || -> PyResult<Py<PyAny>> {
        let socket = py.import(intern!(py, "socket"))?;
        let class = if is_kind {
            "SocketKind"
        } else {
            "AddressFamily"
        };
        match socket.getattr(class)?.call1((value,)) {
            Ok(member) => Ok(member.unbind()),
            Err(_) => Ok(value.into_pyobject(py)?.into_any().unbind()),
        }
    };
    let known = if is_kind { &KINDS } else { &FAMILIES };
    match usize::try_from(value)
        .ok()
        .and_then(|value| known.get(value))
    {
        Some(place) => Ok(place.get_or_try_init(py, make)?.bind(py).clone()),
        None => Ok(make()?.into_bound(py)),
    }
}

/// Raises the audit event of `socket.getaddrinfo`.
fn audit(
    py: Python<'_>,
    host: Ref<'_, '_>,
    port: Ref<'_, '_>,
    [family, kind, protocol, flags]: [c_int; 4],
) -> PyResult<()> {
    unsafe extern "C" {
        /// Documented in CPython's "System Functions"; PyO3 does not pass it on.
        fn PySys_Audit(event: *const c_char, format: *const c_char, ...) -> c_int;
    }
    const EVENT: &CStr = c"socket.getaddrinfo";
    // SAFETY: attached; two live objects and four numbers, as the format says.
    let answer = unsafe {
        PySys_Audit(
            EVENT.as_ptr(),
            c"OOiiii".as_ptr(),
            host.as_ptr(),
            port.as_ptr(),
            family,
            kind,
            protocol,
            flags,
        )
    };
    if answer != 0 {
        return Err(PyErr::fetch(py));
    }
    Ok(())
}
