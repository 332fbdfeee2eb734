//! `Barrier`: parties that wait for one another, threads and tasks alike.

use std::ffi::{CStr, c_int};
use std::sync::OnceLock;
use std::task::Poll;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple};
use pyo3::{Borrowed, ffi};
use ropewalk_wait::barrier::{Outcome, Party};

use super::arguments::parameters;
use super::deadline::of_deadline;
use super::{look, waiters};
use crate::call::call_function;
use crate::guard::Guarded;
use crate::heap::{self, Arguments, RawType, Ref, Returned, getter, method};
use crate::native::{self, Body, Description, body};
use crate::object::Obj;
use crate::wait::{Operation, Timeout, Waiter, awaitable, block};

type State = ropewalk_wait::Barrier<Waiter>;

static CLASS: OnceLock<RawType> = OnceLock::new();

pub(crate) struct Barrier {
    state: Guarded<State>,
    settings: Guarded<Settings>,
}

/// What `__init__` was given.
#[derive(Clone, Default)]
struct Settings {
    action: Option<Obj>,
    timeout: Option<Obj>,
}

impl Default for Barrier {
    fn default() -> Self {
        Self {
            state: Guarded::new(State::new(1)),
            settings: Guarded::new(Settings::default()),
        }
    }
}

impl Body for Barrier {
    fn class() -> &'static OnceLock<RawType> {
        &CLASS
    }

    const BORN_READY: bool = false;

    fn visit(&self, visit: &mut dyn FnMut(&Obj) -> c_int) -> c_int {
        let answer = self.settings.try_look(|settings| {
            [&settings.action, &settings.timeout]
                .into_iter()
                .flatten()
                .map(&mut *visit)
                .find(|answer| *answer != 0)
        });
        match answer.flatten() {
            Some(answer) => answer,
            None => waiters::visit(&self.state, State::line, visit),
        }
    }

    fn clear(&self, py: Python<'_>) -> Vec<Obj> {
        let settings = self.settings.with(py, std::mem::take);
        [settings.action, settings.timeout]
            .into_iter()
            .flatten()
            .collect()
    }

    fn init(
        this: Ref<'_, '_>,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        let py = this.py();
        let names = ["parties", "action", "timeout"];
        let [parties, action, timeout] = parameters(args, kwargs, "Barrier.__init__", names)?;
        let parties = parties.ok_or_else(|| {
            PyTypeError::new_err(
                "Barrier.__init__() missing 1 required positional argument: 'parties'",
            )
        })?;
        let parties = if let Ok(number) = parties.extract::<usize>()
            && number > 0
        {
            number
        } else if parties.lt(1)? {
            if cfg!(Py_3_13) {
                return Err(PyValueError::new_err("parties must be >= 1"));
            }
            0 // it never trips
        } else {
            parties.extract()?
        };
        let barrier = of(this);
        let given =
            |value: Option<Bound<'_, PyAny>>| value.filter(|value| !value.is_none()).map(Obj::from);
        let new = Settings {
            action: given(action),
            timeout: given(timeout),
        };
        let old = barrier
            .settings
            .with(py, |settings| std::mem::replace(settings, new));
        let (called, before) = barrier.state.with(py, |state| {
            let called = state.abort();
            (called, std::mem::replace(state, State::new(parties)))
        });
        drop((old, before));
        barrier.wake(py, called);
        Ok(())
    }
}

impl Barrier {
    #[inline]
    fn wake(&self, py: Python<'_>, called: Vec<ropewalk_wait::line::Call<Waiter>>) {
        waiters::wake(py, called, &self.state, State::line_mut);
    }

    /// Does what is to be done when all have come, and lets them pass; the caller's number is `number`.
    fn trip(&self, py: Python<'_>, number: usize) -> PyResult<Poll<Obj>> {
        let action = self.settings.with(py, |settings| settings.action.clone());
        let done = act(py, action);
        let called = self.state.with(py, |state| match done {
            Ok(()) => state.tripped(),
            Err(_) => state.failed(),
        });
        self.wake(py, called);
        done?;
        passed(py, number)
    }
}

fn act(py: Python<'_>, action: Option<Obj>) -> PyResult<()> {
    if let Some(action) = action
        && action.bind(py).is_truthy()?
    {
        drop(Obj::from(call_function(&action.bind(py))?));
    }
    Ok(())
}

fn passed(py: Python<'_>, number: usize) -> PyResult<Poll<Obj>> {
    Ok(Poll::Ready(number.into_pyobject(py)?.into_any().into()))
}

/// `threading.BrokenBarrierError`, without arguments.
#[cold]
fn broken_error(py: Python<'_>) -> PyErr {
    static ERROR: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let made = ERROR
        .get_or_try_init(py, || {
            let threading = py.import("threading")?;
            PyResult::Ok(threading.getattr("BrokenBarrierError")?.unbind())
        })
        .and_then(|class| class.bind(py).call0());
    made.map_or_else(|error| error, PyErr::from_value)
}

/// The body of a barrier, the receiver of a method.
#[inline]
fn of<'a>(this: Ref<'a, '_>) -> &'a Barrier {
    // SAFETY: the method's descriptor checked the type; an operation's target was a receiver.
    unsafe { body::<Barrier>(this) }
}

/// One call of `wait`.
struct Wait {
    party: Party,
    /// A task that is cancelled breaks the barrier, as one whose time is up. A thread that a signal handler's exception
    /// throws out leaves as if it had not come, as `threading`'s does.
    task: bool,
    /// The time was up when nobody could be thrown out any more.
    expired: bool,
}

impl Wait {
    fn new(task: bool) -> Self {
        Self {
            party: Party::default(),
            task,
            expired: false,
        }
    }
}

impl Operation for Wait {
    fn poll(&mut self, py: Python<'_>, target: Ref<'_, '_>, who: &Waiter) -> PyResult<Poll<Obj>> {
        let barrier = of(target);
        let (outcome, called) = barrier.state.with(py, |state| {
            match state.poll(&mut self.party, || who.clone()) {
                Outcome::Pending if self.expired => state.expired(&mut self.party),
                outcome => (outcome, Vec::new()),
            }
        });
        barrier.wake(py, called);
        match outcome {
            Outcome::Pending => Ok(Poll::Pending),
            Outcome::Trips(number) => barrier.trip(py, number),
            Outcome::Passed(number) => passed(py, number),
            Outcome::Broken => Err(broken_error(py)),
        }
    }

    fn expire(&mut self, _py: Python<'_>, _target: Ref<'_, '_>) -> PyResult<Option<Obj>> {
        self.expired = true;
        Ok(None)
    }

    fn leave(&mut self, py: Python<'_>, target: Ref<'_, '_>) -> bool {
        let barrier = of(target);
        let called = barrier.state.with(py, |state| {
            if self.task {
                state.give_up(&mut self.party)
            } else {
                state.step_back(&mut self.party);
                Vec::new()
            }
        });
        barrier.wake(py, called);
        true
    }
}

/// How long `wait` and its twin may wait.
fn patience(
    py: Python<'_>,
    barrier: &Barrier,
    name: &str,
    given: Arguments<'_, '_>,
) -> PyResult<Timeout> {
    let [timeout] = given.named_or_positional(py, name, ["timeout"])?;
    // The last one does not wait, whatever it says.
    if barrier.state.with(py, |state| state.lacks_one()) {
        return Ok(Timeout::Forever);
    }
    let timeout = timeout.or_else(|| {
        let standing = barrier
            .settings
            .with(py, |settings| settings.timeout.clone());
        standing.map(|timeout| timeout.into_bound(py))
    });
    of_deadline(timeout.as_ref())
}

fn wait(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    let timeout = patience(py, of(this), "wait", given)?;
    Ok(block(py, this, &mut Wait::new(false), timeout)?.into_ptr())
}

fn wait_async(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    let timeout = patience(py, of(this), "wait_async", given)?;
    let wait = Box::new(Wait::new(true));
    Ok(awaitable(py, this, wait, timeout, "Barrier.wait_async")?.into_ptr())
}

fn reset(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    let barrier = of(this);
    barrier.wake(py, barrier.state.with(py, State::reset));
    heap::none(py)
}

fn abort(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    let barrier = of(this);
    barrier.wake(py, barrier.state.with(py, State::abort));
    heap::none(py)
}

/// A property that is looked at, not asked for: no [door](heap::door), for nothing here can raise or panic.
macro_rules! property {
    ($name:literal, $look:expr, $object:path) => {{
        unsafe extern "C" fn get(
            this: *mut ffi::PyObject,
            _: *mut std::ffi::c_void,
        ) -> *mut ffi::PyObject {
            // SAFETY: called by CPython on a live instance, attached.
            unsafe {
                let py = Python::assume_attached();
                let barrier = of(Borrowed::from_ptr(py, this));
                let look: fn(&State) -> _ = $look;
                let value = barrier.state.with(py, |state| look(state));
                $object(value.into())
            }
        }
        ffi::PyGetSetDef {
            name: $name.as_ptr(),
            get: Some(get),
            set: None,
            doc: std::ptr::null(),
            closure: std::ptr::null_mut(),
        }
    }};
}

/// One of the settings, or `None`.
fn setting(py: Python<'_>, this: Ref<'_, '_>, f: impl FnOnce(Settings) -> Option<Obj>) -> Returned {
    let barrier = of(this);
    let settings = barrier.settings.with(py, |settings| settings.clone());
    match f(settings) {
        Some(value) => Ok(value.into_ptr()),
        None => heap::none(py),
    }
}

fn action(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    setting(py, this, |settings| settings.action)
}

fn timeout(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    setting(py, this, |settings| settings.timeout)
}

fn statistics(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    let barrier = of(this);
    let waiters = waiters::list(py, &barrier.state, State::line)?;
    let (parties, waiting, broken) = barrier.state.with(py, |state| {
        (state.parties(), state.waiting(), state.is_broken())
    });
    look(py, "BarrierStatistics", (parties, waiting, broken, waiters))
}

/// Makes the type.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    native::register::<Barrier>(
        module,
        Description {
            name: c"ropewalk._core.Barrier",
            doc: c"Barrier(parties, action=None, timeout=None)\n--\n\nThe native half of ropewalk.threading.Barrier.",
            methods: vec![
                method!(c"wait", WAIT, keywords, wait),
                method!(c"wait_async", WAIT_ASYNC, keywords, wait_async),
                method!(c"reset", RESET, noargs, reset),
                method!(c"abort", ABORT, noargs, abort),
                method!(c"statistics", STATISTICS, noargs, statistics),
            ],
            getters: vec![
                property!(c"parties", State::parties, ffi::PyLong_FromSize_t),
                property!(c"n_waiting", State::waiting, ffi::PyLong_FromSize_t),
                property!(c"broken", State::is_broken, ffi::PyBool_FromLong),
                property!(c"_parties", State::parties, ffi::PyLong_FromSize_t),
                getter!(c"_action", action),
                getter!(c"_timeout", timeout),
            ],
            slots: Vec::new(),
        },
    )
}

const WAIT: &CStr = c"wait($self, timeout=None)\n--\n\n\
Come, and block until all parties have, for at most `timeout` seconds (None: the barrier's own timeout).\n\n\
Returns how many were there before: 0 to parties - 1. Whose time is up breaks the barrier. \
BrokenBarrierError\n\
if the barrier is broken, or breaks or is reset meanwhile; what the action raises, in the party that runs\n\
it. An exception of a signal handler, Ctrl-C's for one, ends the wait as if the party had not come.";
const WAIT_ASYNC: &CStr = c"wait_async($self, timeout=None)\n--\n\n\
Come, and wait as `wait` does, without blocking the event loop: to be awaited, in any of them.\n\n\
Tasks and threads may be parties of one barrier. A task that is cancelled while it waits breaks it.";
const RESET: &CStr = c"reset($self)\n--\n\n\
Mend the barrier. Those who wait get BrokenBarrierError; whoever comes now begins anew.";
const STATISTICS: &CStr = c"statistics($self)\n--\n\n\
Return a BarrierStatistics: how many parties there are, how many have come, and who waits. Thread-safe.";
const ABORT: &CStr = c"abort($self)\n--\n\n\
Break the barrier: those who wait, and all who come until `reset`, get BrokenBarrierError.";
