//! What a future is made of, and who is to be told when it changes.
//!
//! # Touched and untouched
//!
//! A future of the standard library is a condition variable and six attributes, which other code reaches into: the
//! library's own `wait` locks `_condition` and appends to `_waiters`, tests and other executors set `_state`.
//! Ours has none of that until somebody asks. From then on it is *touched*: its condition exists, and whoever
//! changes or reads the state holds it, so that who holds the condition excludes changes as he expects; its waiters
//! and callbacks are the lists that he got.
//!
//! [`change`] is the one way to the state, and knows both.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyList;
use pyo3::{ffi, intern};
use ropewalk_wait::{Parker, Waiter as _};

use super::future::Body;
use super::gather::Gather;
use super::originals;
use crate::call::call_method;
use crate::heap::Ref;
use crate::object::Obj;
use crate::wait::Waiter;

/// How far a future has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Pending,
    Running,
    /// By the user.
    Cancelled,
    /// And whoever was to run it knows.
    Notified,
    Finished,
}

impl Phase {
    const ALL: [Self; 5] = [
        Self::Pending,
        Self::Running,
        Self::Cancelled,
        Self::Notified,
        Self::Finished,
    ];

    /// As `_state` has it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Running => "RUNNING",
            Self::Cancelled => "CANCELLED",
            Self::Notified => "CANCELLED_AND_NOTIFIED",
            Self::Finished => "FINISHED",
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.name() == name)
    }

    /// As `repr` has it.
    pub(super) fn description(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Cancelled | Self::Notified => "cancelled",
            Self::Finished => "finished",
        }
    }

    #[inline]
    pub(super) fn is_cancelled(self) -> bool {
        matches!(self, Self::Cancelled | Self::Notified)
    }

    /// What `done()` says.
    #[inline]
    pub(super) fn is_done(self) -> bool {
        !matches!(self, Self::Pending | Self::Running)
    }

    /// What `wait` and `as_completed` take for done: a future that was merely cancelled is not.
    #[inline]
    pub(super) fn is_settled(self) -> bool {
        matches!(self, Self::Notified | Self::Finished)
    }
}

/// Who is to be told.
pub(super) enum Watcher {
    /// Waits for this future: told once it is done.
    Alone(Waiter),
    /// Waits for several, of which this is the one at the index: told once it is settled.
    Among(Arc<Gather>, u32),
}

#[derive(Default)]
struct Rare {
    /// Those after the first.
    callbacks: Vec<Obj>,
    watchers: Vec<(u32, Watcher)>,
    serial: u32,
    touched: Option<Touched>,
}

/// What others have got hold of.
#[derive(Clone)]
pub(super) struct Touched {
    pub(super) condition: Obj,
    pub(super) waiters: Obj,
    pub(super) callbacks: Obj,
}

/// The state. What few futures ever need is behind a pointer.
pub(super) struct State {
    pub(super) phase: Phase,
    pub(super) result: Option<Obj>,
    pub(super) exception: Option<Obj>,
    callback: Option<Obj>,
    rare: Option<Box<Rare>>,
}

impl State {
    pub(super) const fn new() -> Self {
        Self {
            phase: Phase::Pending,
            result: None,
            exception: None,
            callback: None,
            rare: None,
        }
    }

    #[inline]
    pub(super) fn touched(&self) -> Option<&Touched> {
        self.rare.as_ref()?.touched.as_ref()
    }

    pub(super) fn touched_mut(&mut self) -> Option<&mut Touched> {
        self.rare.as_mut()?.touched.as_mut()
    }

    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Notes a watcher, under a number to forget it by.
    pub(super) fn watch(&mut self, watcher: Watcher) -> u32 {
        let rare = self.rare();
        rare.serial = rare.serial.wrapping_add(1);
        rare.watchers.push((rare.serial, watcher));
        rare.serial
    }

    /// Forgets a watcher, if it is still there.
    pub(super) fn unwatch(&mut self, serial: u32) -> Option<Watcher> {
        let watchers = &mut self.rare.as_mut()?.watchers;
        let index = watchers.iter().position(|(number, _)| *number == serial)?;
        Some(watchers.remove(index).1)
    }

    /// Takes out the watchers that are to be told of the phase that was just set.
    #[inline]
    pub(super) fn take_watchers(&mut self) -> Vec<Watcher> {
        let settled = self.phase.is_settled();
        let Some(rare) = &mut self.rare else {
            return Vec::new();
        };
        let mut told = Vec::new();
        for (serial, watcher) in std::mem::take(&mut rare.watchers) {
            if settled || matches!(watcher, Watcher::Alone(_)) {
                told.push(watcher);
            } else {
                rare.watchers.push((serial, watcher));
            }
        }
        told
    }

    /// Whether there is anything to call once it is done.
    #[inline]
    pub(super) fn has_callbacks(&self) -> bool {
        self.callback.is_some() || self.touched().is_some()
    }

    #[inline]
    fn push_callback(&mut self, callback: Obj) {
        if self.callback.is_none() {
            self.callback = Some(callback);
        } else {
            self.rare().callbacks.push(callback);
        }
    }

    /// Takes out the callbacks, in their order.
    pub(super) fn take_callbacks(&mut self) -> Vec<Obj> {
        let first = self.callback.take();
        let rest = self
            .rare
            .as_mut()
            .map(|rare| std::mem::take(&mut rare.callbacks));
        first.into_iter().chain(rest.unwrap_or_default()).collect()
    }

    /// Those who wait for this future alone.
    pub(super) fn waiters(&self) -> Vec<Waiter> {
        let watchers = self.rare.iter().flat_map(|rare| &rare.watchers);
        watchers
            .filter_map(|(_, watcher)| match watcher {
                Watcher::Alone(waiter) => Some(waiter.clone()),
                Watcher::Among(..) => None,
            })
            .collect()
    }

    /// How many callbacks there are that nobody else has got hold of.
    pub(super) fn count_callbacks(&self) -> usize {
        let rest = self.rare.as_ref().map_or(0, |rare| rare.callbacks.len());
        usize::from(self.callback.is_some()) + rest
    }

    /// What the garbage collector is told of.
    pub(super) fn objects(&self) -> impl Iterator<Item = &Obj> {
        let touched = self
            .touched()
            .into_iter()
            .flat_map(|touched| [&touched.condition, &touched.waiters, &touched.callbacks]);
        [&self.result, &self.exception, &self.callback]
            .into_iter()
            .flatten()
            .chain(self.rare.iter().flat_map(|rare| &rare.callbacks))
            .chain(touched)
            .chain(
                self.rare
                    .iter()
                    .flat_map(|rare| &rare.watchers)
                    .filter_map(|(_, watcher)| match watcher {
                        Watcher::Alone(Waiter::Task(wait)) => Some(wait),
                        _ => None,
                    }),
            )
    }
}

/// Reads or changes the state: `f` under the guard, with the condition held if there is one; then `inside`, if so,
/// before it is let go.
#[inline]
pub(super) fn change<R>(
    py: Python<'_>,
    future: Ref<'_, '_>,
    mut f: impl FnMut(&mut State) -> R,
    inside: impl FnOnce(&R, &Touched) -> PyResult<()>,
) -> PyResult<R> {
    let body = Body::of(future);
    let tried = body.with(py, |state| match state.touched() {
        None => Ok(f(state)),
        Some(touched) => Err(touched.clone()),
    });
    match tried {
        Ok(done) => Ok(done),
        Err(touched) => change_touched(py, body, &touched, f, inside),
    }
}

#[cold]
fn change_touched<R>(
    py: Python<'_>,
    body: &Body,
    touched: &Touched,
    mut f: impl FnMut(&mut State) -> R,
    inside: impl FnOnce(&R, &Touched) -> PyResult<()>,
) -> PyResult<R> {
    let condition = touched.condition.bind(py);
    call_method(&condition, intern!(py, "acquire"), [])?;
    let done = body.with(py, &mut f);
    let told = inside(&done, touched);
    let let_go = call_method(&condition, intern!(py, "release"), []).map(drop);
    told.and(let_go)?;
    Ok(done)
}

/// Reads the state.
#[inline]
pub(super) fn look<R>(
    py: Python<'_>,
    future: Ref<'_, '_>,
    f: impl FnMut(&mut State) -> R,
) -> PyResult<R> {
    change(py, future, f, |_, _| Ok(()))
}

/// Gives out what others may hold on to, made now if nobody has asked before.
pub(super) fn touch(py: Python<'_>, future: Ref<'_, '_>) -> PyResult<Touched> {
    let body = Body::of(future);
    if let Some(touched) = body.with(py, |state| state.touched().cloned()) {
        return Ok(touched);
    }
    let list = PyList::empty(py);
    let made = Touched {
        condition: originals::condition(py)?,
        waiters: PyList::empty(py).into_any().into(),
        callbacks: list.clone().into_any().into(),
    };
    let install = |state: &mut State| {
        if let Some(theirs) = state.touched() {
            return Err(theirs.clone());
        }
        state.rare().touched = Some(made.clone());
        Ok(state.take_callbacks())
    };
    // Most have no callbacks yet.
    let alone = body.with(py, |state| (!state.has_callbacks()).then(|| install(state)));
    if let Some(installed) = alone {
        return Ok(installed.err().unwrap_or(made));
    }
    // Held until the callbacks have moved: who finds the condition there waits for them.
    let condition = made.condition.bind(py);
    call_method(&condition, intern!(py, "acquire"), [])?;
    let installed = body.with(py, install);
    let moved = installed.as_ref().map_or(Ok(()), |callbacks| {
        callbacks
            .iter()
            .try_for_each(|callback| list.append(callback.bind(py)))
    });
    call_method(&condition, intern!(py, "release"), [])?;
    moved?;
    Ok(installed.err().unwrap_or_else(|| made.clone()))
}

/// Adds a callback unless the future is done. Returns whether it did.
#[inline]
pub(super) fn add_callback(
    py: Python<'_>,
    future: Ref<'_, '_>,
    callback: Ref<'_, '_>,
) -> PyResult<bool> {
    // A reference of its own before the guard: counting runs nothing, dropping might.
    // SAFETY: an argument of the call that is being served.
    let mut kept = Some(unsafe { Obj::from_borrowed(callback.as_ptr()) });
    change(
        py,
        future,
        |state| {
            let adds = !state.phase.is_done();
            if adds && state.touched().is_none() {
                kept.take()
                    .into_iter()
                    .for_each(|callback| state.push_callback(callback));
            }
            adds
        },
        |adds, touched| {
            if *adds {
                // SAFETY: live objects; CPython checks that the first is a list.
                let answer =
                    unsafe { ffi::PyList_Append(touched.callbacks.as_ptr(), callback.as_ptr()) };
                if answer != 0 {
                    return Err(PyErr::fetch(py));
                }
            }
            Ok(())
        },
    )
}

/// Wake-ups that are put off until whoever makes them is about to do something that takes time.
#[derive(Default)]
pub(super) struct Wakes(Vec<Waiter>);

impl Wakes {
    #[inline]
    pub(super) fn push(&mut self, waiter: Waiter) {
        self.0.push(waiter);
    }

    /// Tells the watchers of a future that has changed.
    #[inline]
    pub(super) fn tell(&mut self, watchers: Vec<Watcher>, raised: bool) {
        for watcher in watchers {
            match watcher {
                Watcher::Alone(waiter) => self.push(waiter),
                Watcher::Among(gather, index) => {
                    if let Some(waiter) = gather.tell(index, raised) {
                        self.push(waiter);
                    }
                }
            }
        }
    }

    /// Makes them now.
    #[inline]
    pub(super) fn flush(&mut self, _py: Python<'_>) {
        for waiter in self.0.drain(..) {
            // One that cannot be reached any more waits for nothing.
            let _reached = waiter.wake();
        }
    }

    /// Makes those of tasks now, and hands out the threads': they can be woken without the interpreter, which they
    /// could not have before it is let go anyway.
    #[inline]
    pub(super) fn take_threads(&mut self) -> Vec<Arc<Parker>> {
        let mut threads = Vec::new();
        for waiter in self.0.drain(..) {
            match waiter {
                Waiter::Thread(parker) => threads.push(parker),
                task @ Waiter::Task(_) => {
                    let _reached = task.wake();
                }
            }
        }
        threads
    }
}
