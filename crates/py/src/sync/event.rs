//! `Event`: a flag to be waited for, by threads and by tasks.

use std::ffi::{CStr, c_int, c_void};
use std::sync::OnceLock;
use std::task::Poll;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use pyo3::{Borrowed, ffi, intern};
use ropewalk_wait::{Line, Ticket};

use super::arguments::parameters;
use super::inside::{self, Inside};
use super::{look, waiters};
use crate::call::call_method;
use crate::guard::Guarded;
use crate::heap::{self, Arguments, Quick, RawType, Ref, Returned, getter, method};
use crate::native::{self, Body, Description, body, raw_body};
use crate::object::Obj;
use crate::wait::{self, Operation, Timeout, Waiter, awaitable, block, ready};

static CLASS: OnceLock<RawType> = OnceLock::new();

#[derive(Default)]
pub(crate) struct Event {
    flag: ropewalk_wait::Event,
    line: Guarded<Line<Waiter>>,
    inside: Inside,
}

impl Body for Event {
    fn class() -> &'static OnceLock<RawType> {
        &CLASS
    }

    const BORN_READY: bool = true;

    fn visit(&self, visit: &mut dyn FnMut(&Obj) -> c_int) -> c_int {
        let answer = self.inside.held().map_or(0, &mut *visit);
        match answer {
            0 => waiters::visit(&self.line, |line| line, visit),
            answer => answer,
        }
    }

    fn init(
        this: Ref<'_, '_>,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        let [] = parameters(args, kwargs, "Event.__init__", [])?;
        of(this).flag.clear();
        Ok(())
    }
}

impl Event {
    /// Raises the flag and wakes everybody.
    pub(crate) fn set(&self, py: Python<'_>) {
        let called = self.line.with(py, |line| self.flag.set(line));
        waiters::wake(py, called, &self.line, |line| line);
    }
}

/// The body of an event, the receiver of a method.
#[inline]
fn of<'a>(this: Ref<'a, '_>) -> &'a Event {
    // SAFETY: the method's descriptor checked the type; an operation's target was a receiver.
    unsafe { body::<Event>(this) }
}

/// One call of `wait`.
struct Wait {
    place: Option<Ticket>,
}

impl Wait {
    /// Gives up the place in line. True: the flag was raised meanwhile.
    fn give_up(&mut self, py: Python<'_>, target: Ref<'_, '_>) -> bool {
        let event = of(target);
        let place = self.place.take();
        place.is_some_and(|place| {
            event
                .line
                .with(py, |line| ropewalk_wait::Event::leave(line, &place))
        })
    }
}

impl Operation for Wait {
    fn poll(&mut self, py: Python<'_>, target: Ref<'_, '_>, who: &Waiter) -> PyResult<Poll<Obj>> {
        let event = of(target);
        let raised = event
            .line
            .with(py, |line| event.flag.poll(line, &mut self.place, who));
        if raised {
            return ready(py, true);
        }
        Ok(Poll::Pending)
    }

    fn expire(&mut self, py: Python<'_>, target: Ref<'_, '_>) -> PyResult<Option<Obj>> {
        let raised = self.give_up(py, target);
        Ok(Some(wait::boolean(py, raised)))
    }

    fn leave(&mut self, py: Python<'_>, target: Ref<'_, '_>) -> bool {
        self.give_up(py, target);
        true
    }
}

/// The flag, for a shortcut.
#[inline]
unsafe fn looked_at(this: *mut ffi::PyObject) -> bool {
    // SAFETY: the receiver of a call.
    unsafe { raw_body::<Event>(this) }.flag.is_set()
}

/// `is_set()`, which programs ask in tight loops.
#[inline]
unsafe fn is_set_quickly(this: *mut ffi::PyObject) -> Option<Quick> {
    // SAFETY: the receiver of a call.
    Some(unsafe { looked_at(this) }.into())
}

/// `wait()` for a flag that is up.
#[inline]
unsafe fn wait_quickly(this: *mut ffi::PyObject) -> Option<Quick> {
    // SAFETY: the receiver of a call.
    unsafe { looked_at(this) }.then_some(Quick::True)
}

/// `clear()`.
#[inline]
unsafe fn clear_quickly(this: *mut ffi::PyObject) -> Option<Quick> {
    // SAFETY: the receiver of a call.
    unsafe { raw_body::<Event>(this) }.flag.clear();
    Some(Quick::None)
}

/// `set()` where nobody waits.
#[inline]
unsafe fn set_quickly(this: *mut ffi::PyObject) -> Option<Quick> {
    // SAFETY: the receiver of a call.
    let event = unsafe { raw_body::<Event>(this) };
    if event.inside.held().is_some() {
        return None;
    }
    // A look that cannot fail: there is no door here to catch a panic. And no one joins the line meanwhile.
    let done = event.line.try_look(|line| {
        let nobody = line.is_empty();
        if nobody {
            event.flag.put(true);
        }
        nobody
    });
    (done == Some(true)).then_some(Quick::None)
}

fn is_set(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    heap::boolean(py, of(this).flag.is_set())
}

fn set(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    of(this).set(py);
    of(this).inside.notify(py)?;
    heap::none(py)
}

fn clear(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    of(this).flag.clear();
    heap::none(py)
}

fn wait(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    let [timeout] = given.named_or_positional(py, "wait", ["timeout"])?;
    if of(this).flag.is_set() {
        return heap::boolean(py, true);
    }
    match Timeout::of_wait(timeout.as_ref())? {
        Timeout::Now => heap::boolean(py, false),
        timeout => Ok(block(py, this, &mut Wait { place: None }, timeout)?.into_ptr()),
    }
}

fn wait_async(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    let [timeout] = given.named_or_positional(py, "wait_async", ["timeout"])?;
    let timeout = Timeout::of_wait(timeout.as_ref())?;
    let wait = Box::new(Wait { place: None });
    Ok(awaitable(py, this, wait, timeout, "Event.wait_async")?.into_ptr())
}

fn at_fork_reinit(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    let old = of(this).line.with(py, std::mem::take);
    drop(old);
    if let Some(condition) = of(this).inside.held() {
        call_method(&condition.bind(py), intern!(py, "_at_fork_reinit"), [])?;
    }
    heap::none(py)
}

/// `_flag = value`: the flag alone, nobody is woken.
unsafe extern "C" fn set_flag(
    this: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
    _: *mut c_void,
) -> c_int {
    // SAFETY: called by CPython on a live instance, attached; the value is NULL or alive.
    let raised = unsafe {
        match value.is_null() {
            true => 0,
            false => ffi::PyObject_IsTrue(value),
        }
    };
    if raised >= 0 {
        // SAFETY: as above.
        let event = unsafe { of(Borrowed::from_ptr(Python::assume_attached(), this)) };
        event.flag.put(raised > 0);
    }
    raised.min(0)
}

/// `_let_go(n)`: as many of those who wait go on, as if notified through the original's condition.
fn let_go(py: Python<'_>, this: Ref<'_, '_>, count: Ref<'_, '_>) -> Returned {
    let count: usize = count.extract()?;
    let line = &of(this).line;
    let called: Vec<_> = line.with(py, |line| {
        std::iter::from_fn(|| line.grant()).take(count).collect()
    });
    waiters::wake(py, called, line, |line| line);
    heap::none(py)
}

fn adopt(_py: Python<'_>, this: Ref<'_, '_>, condition: Ref<'_, '_>) -> Returned {
    of(this).inside.adopt(condition)
}

fn kept(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    of(this).inside.get(py)
}

fn statistics(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    let event = of(this);
    let waiters = waiters::list(py, &event.line, |line| line)?;
    look(py, "EventStatistics", (event.flag.is_set(), waiters))
}

/// Makes the type.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    native::register::<Event>(
        module,
        Description {
            name: c"ropewalk._core.Event",
            doc: c"Event()\n--\n\nThe native half of ropewalk.threading.Event.",
            methods: vec![
                method!(c"is_set", IS_SET, noargs is_set_quickly, is_set),
                method!(c"set", SET, noargs set_quickly, set),
                method!(c"clear", CLEAR, noargs clear_quickly, clear),
                method!(c"wait", WAIT, keywords wait_quickly, wait),
                method!(c"wait_async", WAIT_ASYNC, keywords, wait_async),
                method!(
                    c"_at_fork_reinit",
                    c"_at_fork_reinit($self)\n--\n\nForget who waits.",
                    noargs,
                    at_fork_reinit
                ),
                method!(c"statistics", STATISTICS, noargs, statistics),
                method!(c"_let_go", LET_GO, one "n", let_go),
                method!(c"_adopt", inside::ADOPT, one "condition", adopt),
            ],
            getters: vec![
                ffi::PyGetSetDef {
                    set: Some(set_flag),
                    ..getter!(c"_flag", is_set)
                },
                getter!(c"_inside", kept),
            ],
            slots: Vec::new(),
        },
    )
}

const IS_SET: &CStr = c"is_set($self)\n--\n\nWhether the flag is up. Takes no lock.";
const SET: &CStr = c"set($self)\n--\n\n\
Raise the flag, and let go everybody who waits for it.\n\n\
Those who wait now return True even if the flag is lowered before they run. May be called from any\n\
thread, from tasks, and from signal handlers.";
const CLEAR: &CStr = c"clear($self)\n--\n\n\
Lower the flag: who waits from now on waits until it is raised again.";
const WAIT: &CStr = c"wait($self, timeout=None)\n--\n\n\
Block until the flag is up, for at most `timeout` seconds; None is for ever.\n\n\
Returns True, or False if the time was up first. A `timeout` that is not more than 0 does not block.\n\
An exception of a signal handler, Ctrl-C's for one, ends the wait. TypeError for a `timeout` that is no\n\
number, OverflowError for one above threading.TIMEOUT_MAX; neither if the flag is up.";
const STATISTICS: &CStr = c"statistics($self)\n--\n\n\
Return an EventStatistics: whether the flag is up, and who waits for it. Thread-safe.";
const LET_GO: &CStr =
    c"_let_go($self, n)\n--\n\nLet n of those who wait go on, whatever the flag is.";
const WAIT_ASYNC: &CStr = c"wait_async($self, timeout=None)\n--\n\n\
Wait as `wait` does, without blocking the event loop: to be awaited, in any of them.";
