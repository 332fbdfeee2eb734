//! `Condition`: wait, with a lock let go, until somebody says that something has changed.
//!
//! A notification is *granted*: it goes to one waiter, who takes it along or, ended by an exception, passes it on.
//! So there is no moment in which it can be lost between a waiter whose time is up and the next one.
//!
//! Its own two kinds of lock are taken and let go in Rust, by threads and tasks. Any other object with `acquire` and
//! `release` is used as `threading` uses it, by threads alone: it has no way to be awaited.

use std::ffi::c_int;
use std::sync::OnceLock;
use std::task::Poll;

use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};
use pyo3::{ffi, intern};
use ropewalk_wait::line::{Call, Left};
use ropewalk_wait::{Line, Ticket};

use super::acquire::{Lockable, acquire_async};
use super::holder::Holder;
use super::lock::Lock;
use super::rlock::{RLock, Saved};
use super::{lock, look, rlock};
use crate::call::call_method;
use crate::guard::Guarded;
use crate::heap::{self, Arguments, Quick, RawType, Ref, Returned, getter, method};
use crate::native::{self, Body, Description, body, raw_body};
use crate::object::Obj;
use crate::wait::{self, Operation, Timeout, Waiter, awaitable, block};

/// The body of a `Condition`.
#[derive(Default)]
pub(crate) struct Condition {
    /// Set by `__init__`.
    lock: OnceLock<Obj>,
    line: Guarded<Line<Waiter>>,
}

impl Default for Guarded<Line<Waiter>> {
    fn default() -> Self {
        Self::new(Line::new())
    }
}

static CLASS: OnceLock<RawType> = OnceLock::new();

impl Body for Condition {
    fn class() -> &'static OnceLock<RawType> {
        &CLASS
    }

    const BORN_READY: bool = false;

    fn visit(&self, visit: &mut dyn FnMut(&Obj) -> c_int) -> c_int {
        let answer = self.lock.get().map_or(0, &mut *visit);
        if answer != 0 {
            return answer;
        }
        let line = |line: &Line<Waiter>| {
            let answers = line.iter().map(|waiter| waiter.visit(visit));
            answers.into_iter().find(|answer| *answer != 0)
        };
        self.line.try_look(line).flatten().unwrap_or(0)
    }

    fn init(
        this: Ref<'_, '_>,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        let by_name = kwargs.map_or(Ok(None), |kwargs| kwargs.get_item("lock"))?;
        let known = usize::from(by_name.is_some());
        if args.len() + known > 1 || kwargs.is_some_and(|kwargs| kwargs.len() != known) {
            return Err(PyTypeError::new_err(
                "Condition() takes one argument at most: lock",
            ));
        }
        let given = match args.is_empty() {
            true => by_name,
            false => Some(args.get_item(0)?),
        };
        let lock = match given.filter(|lock| !lock.is_none()) {
            Some(lock) => lock.into(),
            None => native::make::<RLock>(this.py())?,
        };
        // The first one stays: who waits has let go of that one, and must get it back.
        let _ = of(this).lock.set(lock);
        Ok(())
    }
}

/// The lock of a condition, by what can be done with it.
enum Kind<'a, 'py> {
    Plain(&'a Lock),
    Reentrant(&'a RLock),
    Foreign(Ref<'a, 'py>),
}

/// What is needed to take the lock again.
enum Before {
    Native(Saved),
    /// What `_release_save()` gave, if the lock has it.
    Foreign(Option<Obj>),
}

impl Condition {
    /// Those who wait, for those who build on it in Rust: they hold the lock when they join.
    #[inline]
    pub(crate) fn line(&self) -> &Guarded<Line<Waiter>> {
        &self.line
    }

    /// The lock.
    fn lock(&self) -> PyResult<&Obj> {
        self.lock
            .get()
            .ok_or_else(|| PyRuntimeError::new_err("Condition.__init__() was not called"))
    }

    #[inline]
    fn kind<'a, 'py>(&'a self, py: Python<'py>) -> PyResult<Kind<'a, 'py>> {
        let lock = self.lock()?.bind(py);
        Ok(if let Some(lock) = native::exactly::<RLock>(lock) {
            Kind::Reentrant(lock)
        } else if let Some(lock) = native::exactly::<Lock>(lock) {
            Kind::Plain(lock)
        } else {
            Kind::Foreign(lock)
        })
    }

    /// Whether the lock is the caller's; a plain lock has no owner, and only tells that it is somebody's.
    fn is_owned(&self, py: Python<'_>) -> PyResult<bool> {
        match self.kind(py)? {
            Kind::Reentrant(lock) => Ok(lock.is_owned(py)),
            Kind::Plain(lock) => Ok(lock.held.is_held(py)),
            Kind::Foreign(lock) => {
                if let Some(is_owned) = lock.getattr_opt(intern!(py, "_is_owned"))? {
                    return is_owned.call0()?.is_truthy();
                }
                if lock
                    .call_method1(intern!(py, "acquire"), (false,))?
                    .is_truthy()?
                {
                    call_method(&lock, intern!(py, "release"), [])?;
                    return Ok(false);
                }
                Ok(true)
            }
        }
    }

    /// Lets the lock go.
    fn save(&self, py: Python<'_>) -> PyResult<Before> {
        Ok(match self.kind(py)? {
            Kind::Reentrant(lock) => Before::Native(lock.save(py)),
            Kind::Plain(lock) => {
                let holder = Holder::known(lock.held.holder(), lock.held.task(py));
                lock.held.free(py);
                Before::Native(Saved::once(holder))
            }
            Kind::Foreign(lock) => {
                if let Some(save) = lock.getattr_opt(intern!(py, "_release_save"))? {
                    return Ok(Before::Foreign(Some(save.call0()?.into())));
                }
                call_method(&lock, intern!(py, "release"), [])?;
                Before::Foreign(None)
            }
        })
    }

    /// Takes the lock again as it was, or gets a place in its line. A foreign one is waited for here.
    fn restore(
        &self,
        py: Python<'_>,
        place: &mut Option<Ticket>,
        who: &Waiter,
        before: &Before,
    ) -> PyResult<bool> {
        match (self.kind(py)?, before) {
            (Kind::Reentrant(lock), Before::Native(saved)) => {
                Ok(lock.poll_as(py, place, who, saved))
            }
            (Kind::Plain(lock), Before::Native(saved)) => {
                Ok(lock.held.poll(py, place, who, saved.holder()))
            }
            (Kind::Foreign(lock), Before::Foreign(Some(state))) => {
                call_method(&lock, intern!(py, "_acquire_restore"), [&state.bind(py)])?;
                Ok(true)
            }
            (Kind::Foreign(lock), _) => {
                call_method(&lock, intern!(py, "acquire"), [])?;
                Ok(true)
            }
            // A condition keeps the lock that it was made with.
            (_, Before::Foreign(_)) => Ok(true),
        }
    }

    /// Gives up the place in the lock's line.
    fn leave_lock(&self, py: Python<'_>, place: Option<Ticket>) {
        match (self.kind(py), place) {
            (Ok(Kind::Reentrant(lock)), Some(ticket)) => lock.leave(py, &ticket),
            (Ok(Kind::Plain(lock)), Some(ticket)) => lock.held.leave(py, &ticket),
            _ => {}
        }
    }

    /// Notifies the next who waits. False: nobody does.
    pub(crate) fn notify_one(&self, py: Python<'_>) -> bool {
        let call = self.line.with(py, Line::grant);
        let any = call.is_some();
        self.call_all(py, call);
        any
    }

    /// Notifies those who wait now: one that is woken may wait again at once.
    pub(crate) fn notify_everybody(&self, py: Python<'_>) {
        let waiting = self.line.with(py, |line| line.len());
        for _ in 0..waiting {
            self.notify_one(py);
        }
    }

    /// Those who wait, as `statistics()` names them.
    pub(crate) fn waiters(&self, py: Python<'_>) -> PyResult<Vec<Obj>> {
        let waiters: Vec<_> = self.line.with(py, |line| line.iter().cloned().collect());
        waiters.iter().map(|waiter| waiter.who(py)).collect()
    }

    /// Wakes one that was notified; if it cannot be reached, the next one is notified instead.
    pub(crate) fn call_all(&self, py: Python<'_>, call: Option<Call<Waiter>>) {
        let next = std::cell::Cell::new(None);
        wait::call_all(
            call,
            |ticket| {
                next.set(self.line.with(py, |line| {
                    line.leave(ticket);
                    line.grant()
                }))
            },
            || next.take(),
        );
    }

    /// Gives up a place. True if it had been notified.
    fn leave(&self, py: Python<'_>, ticket: &Ticket) -> bool {
        self.line.with(py, |line| line.leave(ticket)) == Left::Granted
    }
}

/// `wait`.
enum Waiting {
    /// The lock is held.
    New,
    /// The lock is let go.
    InLine(Ticket, Before),
    /// Woken, or its time is up: it takes the lock again.
    Returning {
        before: Before,
        place: Option<Ticket>,
        notified: bool,
    },
    Ended,
}

impl Waiting {
    /// Goes from the line to the lock.
    fn turn_back(&mut self, py: Python<'_>, condition: &Condition) -> bool {
        match std::mem::replace(self, Self::Ended) {
            Self::InLine(ticket, before) => {
                let notified = condition.leave(py, &ticket);
                *self = Self::Returning {
                    before,
                    place: None,
                    notified,
                };
                notified
            }
            other => {
                *self = other;
                false
            }
        }
    }
}

impl Operation for Waiting {
    fn poll(&mut self, py: Python<'_>, target: Ref<'_, '_>, who: &Waiter) -> PyResult<Poll<Obj>> {
        let condition = of(target);
        match self {
            Self::New => {
                if !condition.is_owned(py)? {
                    return Err(PyRuntimeError::new_err("cannot wait on un-acquired lock"));
                }
                // In line before the lock is free: whoever changes something holds it, and finds us there.
                let ticket = condition.line.with(py, |line| line.join(who.clone()));
                match condition.save(py) {
                    Ok(before) => *self = Self::InLine(ticket, before),
                    Err(error) => {
                        condition.leave(py, &ticket);
                        return Err(error);
                    }
                }
                return Ok(Poll::Pending);
            }
            Self::InLine(ticket, _) => {
                let waits = condition
                    .line
                    .with(py, |line| line.knows(ticket) && !line.is_granted(ticket));
                if waits {
                    return Ok(Poll::Pending);
                }
                self.turn_back(py, condition);
            }
            Self::Returning { .. } | Self::Ended => {}
        }
        let Self::Returning {
            before,
            place,
            notified,
        } = self
        else {
            return wait::ready(py, false);
        };
        if condition.restore(py, place, who, before)? {
            let notified = *notified;
            *self = Self::Ended;
            return wait::ready(py, notified);
        }
        Ok(Poll::Pending)
    }

    fn expire(&mut self, py: Python<'_>, target: Ref<'_, '_>) -> PyResult<Option<Obj>> {
        self.turn_back(py, of(target));
        Ok(None)
    }

    fn leave(&mut self, py: Python<'_>, target: Ref<'_, '_>) -> bool {
        if self.turn_back(py, of(target)) {
            of(target).notify_one(py);
        }
        matches!(self, Self::New | Self::Ended)
    }

    fn abandon(&mut self, py: Python<'_>, target: Ref<'_, '_>) {
        self.leave(py, target);
        if let Self::Returning { place, .. } = std::mem::replace(self, Self::Ended) {
            of(target).leave_lock(py, place);
        }
    }

    fn visit(&self, visit: &mut dyn FnMut(&Obj) -> c_int) -> c_int {
        match self {
            Self::InLine(_, before) | Self::Returning { before, .. } => match before {
                Before::Native(saved) => saved.visit(visit),
                Before::Foreign(state) => state.as_ref().map_or(0, visit),
            },
            Self::New | Self::Ended => 0,
        }
    }
}

/// The body of a condition, the receiver of a method.
#[inline]
fn of<'a>(this: Ref<'a, '_>) -> &'a Condition {
    // SAFETY: the method's descriptor checked the type; an operation's target was a receiver.
    unsafe { body::<Condition>(this) }
}

/// The lock of a condition that has one of ours, and which of the two it is.
#[inline]
unsafe fn quick_lock(this: *mut ffi::PyObject) -> Option<(*mut ffi::PyObject, bool)> {
    // SAFETY: the method's descriptor checked the type; the lock is alive as long as its condition.
    let lock = unsafe { raw_body::<Condition>(this) }.lock.get()?.as_ptr();
    if native::is_exactly::<RLock>(lock) {
        Some((lock, true))
    } else {
        native::is_exactly::<Lock>(lock).then_some((lock, false))
    }
}

/// `acquire()` and `__enter__()` of a lock that can be had at once.
#[inline]
unsafe fn take(this: *mut ffi::PyObject) -> Option<Quick> {
    // SAFETY: the receiver, and a lock of the type that was just looked at.
    unsafe {
        match quick_lock(this)? {
            (lock, true) => rlock::take(lock),
            (lock, false) => lock::take(lock),
        }
    }
}

/// `release()` and `__exit__()` of a lock that nobody waits for.
#[inline]
unsafe fn free(this: *mut ffi::PyObject) -> Option<Quick> {
    // SAFETY: as above.
    unsafe {
        match quick_lock(this)? {
            (lock, true) => rlock::free(lock),
            (lock, false) => lock::free(lock),
        }
    }
}

fn acquire(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    let lock = of(this).lock()?.bind(py);
    match of(this).kind(py)? {
        Kind::Reentrant(_) => rlock::acquire(py, lock, given),
        Kind::Plain(_) => lock::acquire(py, lock, given),
        Kind::Foreign(lock) => given.call_method(py, lock, intern!(py, "acquire")),
    }
}

fn enter(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    let lock = of(this).lock()?.bind(py);
    match of(this).kind(py)? {
        Kind::Reentrant(_) => rlock::enter(py, lock),
        Kind::Plain(_) => lock::enter(py, lock),
        Kind::Foreign(lock) => Ok(call_method(&lock, intern!(py, "__enter__"), [])?.into_ptr()),
    }
}

fn release(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    let lock = of(this).lock()?.bind(py);
    match of(this).kind(py)? {
        Kind::Reentrant(_) => rlock::release(py, lock),
        Kind::Plain(_) => lock::release(py, lock),
        Kind::Foreign(lock) => Ok(call_method(&lock, intern!(py, "release"), [])?.into_ptr()),
    }
}

fn exit(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    match of(this).kind(py)? {
        Kind::Foreign(lock) => given.call_method(py, lock, intern!(py, "__exit__")),
        _ => release(py, this),
    }
}

fn locked(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    match of(this).kind(py)? {
        Kind::Reentrant(lock) => heap::boolean(py, lock.is_held(py)),
        Kind::Plain(lock) => heap::boolean(py, lock.held.is_held(py)),
        Kind::Foreign(lock) => Ok(call_method(&lock, intern!(py, "locked"), [])?.into_ptr()),
    }
}

fn wait_(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    let [timeout] = given.named_or_positional(py, "wait", ["timeout"])?;
    let condition = of(this);
    // First of all, as in the original: whoever has no lock hears that, whatever the timeout is.
    if !condition.is_owned(py)? {
        return Err(PyRuntimeError::new_err("cannot wait on un-acquired lock"));
    }
    let timeout = Timeout::of_wait(timeout.as_ref())?;
    Ok(block(py, this, &mut Waiting::New, timeout)?.into_ptr())
}

fn wait_async(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    let [timeout] = given.named_or_positional(py, "wait_async", ["timeout"])?;
    let timeout = Timeout::of_wait(timeout.as_ref())?;
    awaitable_lock(py, this)?;
    let operation = Box::new(Waiting::New);
    Ok(awaitable(py, this, operation, timeout, "Condition.wait_async")?.into_ptr())
}

/// The lock, if it can be awaited.
fn awaitable_lock<'a, 'py>(py: Python<'py>, this: Ref<'a, 'py>) -> PyResult<Ref<'a, 'py>> {
    let lock = of(this).lock()?.bind(py);
    match of(this).kind(py)? {
        Kind::Foreign(lock) => Err(PyTypeError::new_err(format!(
            "the Condition's lock cannot be awaited: {} (hint: make the Condition with a \
             ropewalk.threading.Lock or RLock, or without a lock)",
            lock.repr()?
        ))),
        _ => Ok(lock),
    }
}

fn acquire_lock_async(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    let lock = awaitable_lock(py, this)?;
    match of(this).kind(py)? {
        Kind::Plain(_) => acquire_async::<Lock>(py, lock, given),
        _ => acquire_async::<RLock>(py, lock, given),
    }
}

fn enter_async(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    let lock = awaitable_lock(py, this)?;
    match of(this).kind(py)? {
        Kind::Plain(_) => lock::enter_async(py, lock),
        _ => rlock::enter_async(py, lock),
    }
}

fn exit_async(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    let lock = awaitable_lock(py, this)?;
    match of(this).kind(py)? {
        Kind::Plain(_) => lock::exit_async(py, lock, given),
        _ => rlock::exit_async(py, lock, given),
    }
}

fn check_owned(py: Python<'_>, condition: &Condition) -> PyResult<()> {
    if condition.is_owned(py)? {
        return Ok(());
    }
    Err(PyRuntimeError::new_err("cannot notify on un-acquired lock"))
}

/// `notify()` and `notify_all()` where nobody waits.
#[inline]
unsafe fn notify_nobody(this: *mut ffi::PyObject) -> Option<Quick> {
    // SAFETY: the receiver of a call, on an attached thread.
    let condition = unsafe { raw_body::<Condition>(this) };
    // SAFETY: as above.
    let owned = match unsafe { quick_lock(this)? } {
        // SAFETY: a lock of that type, which its condition keeps alive.
        (lock, true) => unsafe { raw_body::<RLock>(lock) }.is_this_threads(),
        // SAFETY: the same.
        (lock, false) => unsafe { raw_body::<Lock>(lock) }
            .held
            .is_held_quickly()
            .unwrap_or(false),
    };
    // A look that cannot fail: there is no door here to catch a panic.
    let nobody = condition.line.try_look(Line::is_empty);
    (owned && nobody == Some(true)).then_some(Quick::None)
}

fn notify(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    let condition = of(this);
    check_owned(py, condition)?;
    if given.all().is_empty() {
        condition.notify_one(py);
        return heap::none(py);
    }
    let [count] = given.named_or_positional(py, "notify", ["n"])?;
    let count: isize = count.map_or(Ok(1), |count| count.extract())?;
    for _ in 0..count {
        if !condition.notify_one(py) {
            break;
        }
    }
    heap::none(py)
}

fn notify_all(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    let condition = of(this);
    check_owned(py, condition)?;
    condition.notify_everybody(py);
    heap::none(py)
}

fn is_owned(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    heap::boolean(py, of(this).is_owned(py)?)
}

/// Asks the lock for `_release_save()` and its like, of which a plain lock has the simple half alone.
fn ask_lock(
    py: Python<'_>,
    this: Ref<'_, '_>,
    name: &Bound<'_, PyString>,
    simple: &Bound<'_, PyString>,
    given: Arguments<'_, '_>,
) -> Returned {
    let lock = of(this).lock()?.bind(py);
    if lock.hasattr(name)? {
        return given.call_method(py, lock, name);
    }
    Ok(call_method(&lock, simple, [])?.into_ptr())
}

fn release_save(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    let names = (intern!(py, "_release_save"), intern!(py, "release"));
    ask_lock(py, this, names.0, names.1, given)
}

fn acquire_restore(py: Python<'_>, this: Ref<'_, '_>, given: Arguments<'_, '_>) -> Returned {
    let names = (intern!(py, "_acquire_restore"), intern!(py, "acquire"));
    ask_lock(py, this, names.0, names.1, given)
}

fn repr(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    let count = of(this).line.with(py, |line| line.len());
    let lock = of(this).lock()?.bind(py).repr()?;
    Ok(format!("<Condition({lock}, {count})>")
        .into_pyobject(py)?
        .into_any()
        .into_ptr())
}

fn reinit(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    let condition = of(this);
    let lock = condition.lock()?.bind(py);
    call_method(&lock, intern!(py, "_at_fork_reinit"), [])?;
    let old = condition.line.with(py, std::mem::take);
    drop(old);
    heap::none(py)
}

fn the_lock(_py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    Ok(of(this).lock()?.clone().into_ptr())
}

fn waiter_list(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    Ok(of(this)
        .waiters(py)?
        .into_pyobject(py)?
        .into_any()
        .into_ptr())
}

fn statistics(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    let waiters = of(this).waiters(py)?;
    let lock = of(this).lock()?.bind(py);
    let lock = match lock.getattr_opt(intern!(py, "statistics"))? {
        Some(statistics) => statistics.call0()?,
        None => py.None().into_bound(py),
    };
    look(py, "ConditionStatistics", (waiters, lock))
}

/// Makes the type.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    native::register::<Condition>(
        module,
        Description {
            name: c"ropewalk._core.Condition",
            doc: c"Condition(lock=None)\n--\n\nThe native half of ropewalk.threading.Condition.",
            methods: vec![
                method!(c"acquire", c"acquire($self, /, *args, **kwargs)\n--\n\nAcquire the lock; the parameters are those of the lock's acquire().", keywords take, acquire),
                method!(c"release", c"release($self, /)\n--\n\nRelease the lock. Raises what the lock raises if it is not the caller's.", noargs free, release),
                method!(c"locked", c"locked($self, /)\n--\n\nReturn whether the lock is locked.", noargs, locked),
                method!(c"__enter__", c"__enter__($self, /)\n--\n\nAcquire the lock.", noargs take, enter),
                method!(c"__exit__", c"__exit__($self, /, *exc_info)\n--\n\nRelease the lock.", exit free, exit),
                method!(c"wait", c"wait($self, /, timeout=None)\n--\n\nRelease the lock, wait until notified, and acquire the lock again.\n\ntimeout: seconds to wait at most; None waits without limit. Returns True, or False if the time was up.\nRaises RuntimeError if the caller does not hold the lock. An exception of a signal handler ends the wait as\nsoon as the lock is acquired again. See threading.Condition.wait in CPython's documentation.", keywords, wait_),
                method!(c"notify", c"notify($self, /, n=1)\n--\n\nWake n of those who wait, those who came first.\n\nRaises RuntimeError if the caller does not hold the lock. See threading.Condition.notify in CPython's\ndocumentation.", keywords notify_nobody, notify),
                method!(c"notify_all", c"notify_all($self, /)\n--\n\nWake all who wait. Raises RuntimeError if the caller does not hold the lock.", noargs notify_nobody, notify_all),
                method!(c"acquire_async", c"acquire_async($self, /, blocking=True, timeout=-1)\n--\n\nacquire() to be awaited. Raises TypeError if the lock is none of ropewalk's, which cannot be awaited.", keywords, acquire_lock_async),
                method!(c"wait_async", c"wait_async($self, /, timeout=None)\n--\n\nwait() to be awaited: same parameters, results and exceptions.\n\nA cancelled task passes a notification that was on its way to it on to the next who waits; it ends as soon as\nit holds the lock again. Raises TypeError if the lock is none of ropewalk's, which cannot be awaited.", keywords, wait_async),
                method!(c"__aenter__", c"__aenter__($self, /)\n--\n\nAcquire the lock, to be awaited.", noargs, enter_async),
                method!(c"__aexit__", c"__aexit__($self, /, *exc_info)\n--\n\nRelease the lock.", keywords, exit_async),
                method!(c"statistics", c"statistics($self, /)\n--\n\nReturn a ConditionStatistics: who waits, and the statistics of the lock. Thread-safe.", noargs, statistics),
                method!(c"_is_owned", c"_is_owned($self, /)\n--\n\nReturn whether the caller holds the lock.", noargs, is_owned),
                method!(c"_release_save", c"_release_save($self, /)\n--\n\nRelease the lock altogether, and return what _acquire_restore() takes.", keywords, release_save),
                method!(c"_acquire_restore", c"_acquire_restore($self, state, /)\n--\n\nAcquire the lock as it was before _release_save().", keywords, acquire_restore),
                method!(c"_at_fork_reinit", c"_at_fork_reinit($self, /)\n--\n\nForget lock and waiters, in a forked child whose other threads are gone.", noargs, reinit),
            ],
            getters: vec![getter!(c"_lock", the_lock), getter!(c"_waiters", waiter_list)],
            slots: vec![heap::repr_slot!(repr)],
        },
    )
}
