//! `map` without a future for each item: one list of arguments, one of results.
//!
//! Workers come to a [`Map`] by tickets in the pool's queue, as many as there are workers and items for them. One
//! that has come takes item after item, and leaves when there is none. So the queue is touched a few times for a
//! whole map, and what was submitted before it is still begun before it.
//!
//! The iterator, [`Results`], keeps what CPython's generator promises: the items are submitted before it is first
//! asked; the time counts from the call; once iteration has begun, an exception, `close()` or the iterator's end
//! cancels what was not begun.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use pyo3::exceptions::{PyStopAsyncIteration, PyTimeoutError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyFloat, PyTuple, PyWeakrefMethods, PyWeakrefReference};

use super::crew::{Crew, Worker};
use super::future::Outcome;
use super::given::Given;
use super::job::{self, Job};
use super::originals;
use super::pool::ThreadPool;
use super::state::Wakes;
use crate::call::Args;
use crate::eventloop::seconds;
use crate::guard::Guarded;
use crate::heap::Ref;
use crate::object::Obj;
use crate::wait::{self, Operation, Timeout, Waiter};

/// What the iterator and the workers share.
pub(super) struct Map {
    function: Obj,
    /// There is one iterable: an item is the argument, not a tuple of them.
    single: bool,
    ordered: bool,
    /// How many workers may be at it.
    most: usize,
    state: Guarded<State>,
}

struct Item {
    args: Obj,
    context: Option<Obj>,
}

enum Slot {
    /// Not done yet, or never to be.
    Open,
    Done(Outcome),
    Cancelled,
}

#[derive(Default)]
struct State {
    /// Not begun; the first one's number is `begun`.
    items: VecDeque<Item>,
    begun: usize,
    /// In order: of all that were not given out, the first one's number is `given`. Else those that are done.
    slots: VecDeque<Slot>,
    given: usize,
    /// Items that were not given out.
    left: usize,
    /// Workers that are here, and those that a ticket in the queue is for.
    tickets: usize,
    /// Workers that are at an item: for all we know, for ever.
    busy: usize,
    waiter: Option<Waiter>,
}

impl Map {
    /// Adds an item. Returns whether a worker should come for it.
    #[inline]
    fn add(&self, py: Python<'_>, item: Item) -> bool {
        self.state.with(py, |state| {
            state.items.push_back(item);
            state.left += 1;
            if self.ordered {
                state.slots.push_back(Slot::Open);
            }
            let coming = state.tickets - state.busy;
            let wants = state.tickets < self.most && coming < state.items.len();
            state.tickets += usize::from(wants);
            wants
        })
    }

    /// A worker's visit.
    pub(super) fn work(&self, py: Python<'_>, worker: &Worker, wakes: &mut Wakes) {
        let _noted = worker.note(py, &self.function);
        loop {
            let taken = self.state.with(py, |state| {
                let item = state.items.pop_front();
                match item {
                    Some(item) => {
                        state.begun += 1;
                        state.busy += 1;
                        Some((state.begun - 1, item))
                    }
                    None => {
                        state.tickets -= 1;
                        None
                    }
                }
            });
            let Some((number, item)) = taken else { return };
            wakes.flush(py);
            let args = Given::Positional(if self.single {
                Args::One([item.args])
            } else {
                Args::Many(item.args)
            });
            let outcome = job::call(py, &self.function, &args, item.context.as_ref());
            drop((args, item.context));
            let (waiter, unwanted) = self.state.with(py, |state| {
                state.busy -= 1;
                self.put(state, number, Slot::Done(outcome))
            });
            drop(unwanted);
            if let Some(waiter) = waiter {
                wakes.push(waiter);
            }
            worker.breathe(py);
        }
    }

    /// Notes an item's end. Returns whom to wake, and what nobody wants.
    #[inline]
    fn put(&self, state: &mut State, number: usize, slot: Slot) -> (Option<Waiter>, Option<Slot>) {
        if self.ordered {
            let place = number
                .checked_sub(state.given)
                .and_then(|index| state.slots.get_mut(index));
            let Some(place) = place else {
                return (None, Some(slot));
            };
            *place = slot;
            let waiter = (number == state.given).then(|| state.waiter.take());
            return (waiter.flatten(), None);
        }
        if state.left == 0 {
            return (None, Some(slot));
        }
        state.slots.push_back(slot);
        (state.waiter.take(), None)
    }

    /// Ends the items that nobody has begun, each with what `end` says, which runs no Python code.
    fn end(&self, py: Python<'_>, mut end: impl FnMut() -> Slot) {
        let (items, unwanted, waiter) = self.state.with(py, |state| {
            let items = std::mem::take(&mut state.items);
            let mut unwanted = Vec::new();
            let waiter = state.waiter.take();
            for _ in &items {
                let number = state.begun;
                state.begun += 1;
                unwanted.extend(self.put(state, number, end()).1);
            }
            (items, unwanted, waiter)
        });
        drop((items, unwanted));
        if let Some(waiter) = waiter {
            // One that cannot be reached any more waits for nothing.
            let _reached = ropewalk_wait::Waiter::wake(&waiter);
        }
    }

    /// The pool is shut down: what was not begun is cancelled.
    pub(super) fn cancel(&self, py: Python<'_>) {
        self.end(py, || Slot::Cancelled);
    }

    /// The pool is broken.
    pub(super) fn fail(&self, py: Python<'_>, error: PyErr) {
        let error: Obj = error.into_value(py).into_bound(py).into_any().into();
        self.end(py, || Slot::Done(Outcome::Exception(error.clone())));
    }

    /// How many items nobody has begun.
    pub(super) fn waiting(&self, py: Python<'_>) -> usize {
        self.state.with(py, |state| state.items.len())
    }

    /// Nobody wants the rest.
    fn drop_rest(&self, py: Python<'_>) {
        let rest = self.state.with(py, |state| {
            state.left = 0;
            state.given = usize::MAX;
            (
                std::mem::take(&mut state.items),
                std::mem::take(&mut state.slots),
            )
        });
        drop(rest);
    }

    /// The next result, if it is there: the first one in order, or whichever.
    #[inline]
    fn take(&self, py: Python<'_>, who: Option<&Waiter>) -> Option<Slot> {
        let (slot, old) = self.state.with(py, |state| {
            if let None | Some(Slot::Open) = state.slots.front() {
                return (None, who.and_then(|who| state.waiter.replace(who.clone())));
            }
            state.given = state.given.wrapping_add(1);
            state.left = state.left.saturating_sub(1);
            (state.slots.pop_front(), None)
        });
        drop(old);
        slot
    }
}

/// What `map` was called with.
pub(super) struct Wish<'a, 'py> {
    pub(super) function: &'a Bound<'py, PyAny>,
    pub(super) iterables: &'a Bound<'py, PyTuple>,
    /// When the time is up, in seconds of the monotonic clock.
    pub(super) end: Option<f64>,
    pub(super) item_timeout: Option<&'a Bound<'py, PyAny>>,
    pub(super) buffersize: Option<usize>,
    pub(super) ordered: bool,
}

/// Submits what is to be submitted before the iterator is asked.
pub(super) fn start<'py>(
    slf: &Bound<'py, ThreadPool>,
    wish: Wish<'_, 'py>,
) -> PyResult<Bound<'py, Results>> {
    let py = slf.py();
    let pool = slf.get();
    let single = wish.iterables.len() == 1;
    let source = if single {
        wish.iterables.get_borrowed_item(0)?.try_iter()?.into_any()
    } else {
        py.import("builtins")?
            .getattr(intern!(py, "zip"))?
            .call1(wish.iterables)?
    };
    let map = Arc::new(Map {
        function: wish.function.into(),
        single,
        ordered: wish.ordered,
        most: pool.crew().most(py),
        state: Guarded::new(State::default()),
    });
    let mut noted = false;
    let mut room = wish.buffersize.unwrap_or(usize::MAX);
    while room > 0 {
        room -= 1;
        let Some(args) = next_of(&source)? else { break };
        pool.crew().check_open(py)?;
        let context = pool.context(py)?;
        if !noted {
            pool.crew().note_map(py, &map);
            noted = true;
        }
        if map.add(py, Item { args, context }) {
            pool.crew().submit(py, slf, Job::Map(map.clone()))?;
        }
    }
    let results = Results {
        map,
        crew: pool.crew().clone(),
        executor: PyWeakrefReference::new(slf.as_any())?.into_any().into(),
        source: Guarded::new(wish.buffersize.map(|_| source.into())),
        context: pool.context(py)?.is_some(),
        end: wish.end,
        item_timeout: wish.item_timeout.map(Obj::from),
        begun: AtomicBool::new(false),
        busy: AtomicBool::new(false),
    };
    Bound::new(py, results)
}

/// The next item of an iterator.
#[inline]
fn next_of(source: &Bound<'_, PyAny>) -> PyResult<Option<Obj>> {
    let py = source.py();
    // SAFETY: an iterator, as `iter()` and `zip()` make them.
    let item = unsafe { Obj::from_owned(pyo3::ffi::PyIter_Next(source.as_ptr())) };
    match item {
        Some(item) => Ok(Some(item)),
        None => PyErr::take(py).map_or(Ok(None), Err),
    }
}

/// The iterator that `map` returns.
///
/// It can be iterated by `for`, and by `async for` in a task. `close()` cancels what was not begun.
#[pyclass(frozen, module = "ropewalk._core")]
pub(super) struct Results {
    map: Arc<Map>,
    crew: Arc<Crew>,
    /// Weakly: an executor that only its iterators know is collected.
    executor: Obj,
    /// What is yet to be submitted, if there is a limit to what is ahead.
    source: Guarded<Option<Obj>>,
    context: bool,
    end: Option<f64>,
    item_timeout: Option<Obj>,
    begun: AtomicBool,
    /// Somebody is in `next()`.
    busy: AtomicBool,
}

/// Waits for the next result.
struct Taking {
    asynchronous: bool,
}

/// Lets the next one in.
struct Turn<'a>(&'a AtomicBool);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Results {
    fn of<'a>(object: Ref<'a, '_>) -> &'a Self {
        // SAFETY: operations are made by methods of this class, for their own objects.
        let this = unsafe { object.cast_unchecked::<Self>() };
        // SAFETY: the value is inside the object, which somebody holds for 'a.
        unsafe { &*std::ptr::from_ref(this.get()) }
    }

    /// Submits one more item in the place of the one that is about to be given out.
    fn refill(&self, py: Python<'_>) -> PyResult<()> {
        let Some(source) = self.source.with(py, |source| source.clone()) else {
            return Ok(());
        };
        let executor = self
            .executor
            .bind(py)
            .cast::<PyWeakrefReference>()?
            .upgrade();
        let Some(executor) = executor else {
            return Ok(());
        };
        match next_of(&source.bind(py))? {
            None => {
                let source = self.source.with(py, Option::take);
                drop(source);
            }
            Some(args) => {
                self.crew.check_open(py)?;
                let context = if self.context {
                    Some(crate::call::copy_context(py)?)
                } else {
                    None
                };
                if self.map.add(py, Item { args, context }) {
                    self.crew
                        .submit(py, &executor, Job::Map(self.map.clone()))?;
                }
            }
        }
        Ok(())
    }

    fn is_over(&self, py: Python<'_>) -> bool {
        self.map.state.with(py, |state| state.left == 0)
    }

    /// What is left of the time: the whole map's, or the item's.
    fn timeout(&self, py: Python<'_>) -> PyResult<Timeout> {
        let item = self.item_timeout.as_ref().map(|limit| limit.bind(py));
        let one = Timeout::of_wait(item.as_deref())?;
        let Some(end) = self.end else { return Ok(one) };
        let left = PyFloat::new(py, end - seconds(ropewalk_sys::clock::now()));
        let all = Timeout::of_wait(Some(left.as_any()))?;
        Ok(match (one, all) {
            (Timeout::At(one), Timeout::At(all)) => Timeout::At(one.min(all)),
            (Timeout::Now, _) | (_, Timeout::Now) => Timeout::Now,
            (Timeout::Forever, other) | (other, Timeout::Forever) => other,
        })
    }

    /// Ends the iteration: what was not begun never will be.
    fn finish(&self, py: Python<'_>) {
        let source = self.source.with(py, Option::take);
        drop(source);
        self.map.drop_rest(py);
    }

    fn give(&self, py: Python<'_>, slot: Slot) -> PyResult<Obj> {
        let error = match slot {
            Slot::Done(Outcome::Result(result)) => return Ok(result),
            Slot::Done(Outcome::Exception(exception)) => {
                PyErr::from_value(exception.into_bound(py))
            }
            Slot::Cancelled | Slot::Open => originals::cancelled(py),
        };
        self.finish(py);
        Err(error)
    }

    fn turn(&self) -> PyResult<Turn<'_>> {
        if self.busy.swap(true, Ordering::Acquire) {
            return Err(PyValueError::new_err("generator already executing"));
        }
        Ok(Turn(&self.busy))
    }
}

impl Operation for Taking {
    fn poll(&mut self, py: Python<'_>, target: Ref<'_, '_>, who: &Waiter) -> PyResult<Poll<Obj>> {
        let this = Results::of(target);
        if self.asynchronous && this.is_over(py) {
            return Err(PyStopAsyncIteration::new_err(()));
        }
        match this.map.take(py, Some(who)) {
            Some(slot) => this.give(py, slot).map(Poll::Ready),
            None => Ok(Poll::Pending),
        }
    }

    fn expire(&mut self, py: Python<'_>, target: Ref<'_, '_>) -> PyResult<Option<Obj>> {
        self.leave(py, target);
        Err(PyTimeoutError::new_err(()))
    }

    /// An exception ends the iteration.
    fn leave(&mut self, py: Python<'_>, target: Ref<'_, '_>) -> bool {
        let this = Results::of(target);
        let waiter = this.map.state.with(py, |state| state.waiter.take());
        drop(waiter);
        this.finish(py);
        true
    }
}

#[pymethods]
impl Results {
    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__(slf: &Bound<'_, Self>) -> PyResult<Option<Py<PyAny>>> {
        let (py, this) = (slf.py(), slf.get());
        let _turn = this.turn()?;
        this.begun.store(true, Ordering::Relaxed);
        this.refill(py).inspect_err(|_| this.finish(py))?;
        if let Some(slot) = this.map.take(py, None) {
            return Ok(Some(this.give(py, slot)?.into_bound(py).unbind()));
        }
        if this.is_over(py) {
            return Ok(None);
        }
        let timeout = this.timeout(py).inspect_err(|_| this.finish(py))?;
        let mut taking = Taking {
            asynchronous: false,
        };
        let target = slf.as_any().as_borrowed();
        let taken = wait::block(py, target, &mut taking, timeout)?;
        Ok(Some(taken.into_bound(py).unbind()))
    }

    fn __aiter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __anext__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let (py, this) = (slf.py(), slf.get());
        this.begun.store(true, Ordering::Relaxed);
        this.refill(py).inspect_err(|_| this.finish(py))?;
        let timeout = this.timeout(py).inspect_err(|_| this.finish(py))?;
        let taking = Box::new(Taking { asynchronous: true });
        let target = slf.as_any().as_borrowed();
        let name = "ThreadPoolExecutor.map";
        Ok(wait::awaitable(py, target, taking, timeout, name)?.into_bound(py))
    }

    /// End the iteration: what was not begun is cancelled, if iteration has begun.
    fn close(&self, py: Python<'_>) {
        if self.begun.load(Ordering::Relaxed) {
            self.finish(py);
        } else {
            // As a generator that was never asked: its items are done, and nobody sees the results.
            let state = self.map.state.with(py, |state| {
                state.left = 0;
                state.given = usize::MAX;
                std::mem::take(&mut state.slots)
            });
            let source = self.source.with(py, Option::take);
            drop((state, source));
        }
    }

    // While workers are at it, or a ticket is queued, they hold the map; then nothing of it is shown.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.source
            .try_look(|source| match source {
                Some(source) => visit.call(source.as_py()),
                None => Ok(()),
            })
            .unwrap_or(Ok(()))?;
        if let Some(limit) = &self.item_timeout {
            visit.call(limit.as_py())?;
        }
        let alone = |state: &State| {
            if state.tickets > 0 {
                return Ok(false);
            }
            state
                .items
                .iter()
                .try_for_each(|item| visit.call(item.args.as_py()))?;
            state.slots.iter().try_for_each(|slot| match slot {
                Slot::Done(Outcome::Result(object) | Outcome::Exception(object)) => {
                    visit.call(object.as_py())
                }
                Slot::Open | Slot::Cancelled => Ok(()),
            })?;
            Ok(true)
        };
        if self.map.state.try_look(alone).unwrap_or(Ok(false))? {
            visit.call(self.map.function.as_py())?;
        }
        Ok(())
    }

    fn __clear__(&self, py: Python<'_>) {
        self.finish(py);
    }
}

impl Drop for Results {
    fn drop(&mut self) {
        if *self.begun.get_mut() {
            // SAFETY: an object dies in a thread that is attached.
            let py = unsafe { Python::assume_attached() };
            self.finish(py);
        }
    }
}
