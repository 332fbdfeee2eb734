//! The workers of a pool, and the ledger that they work from.
//!
//! A [`Crew`] is what the executor, its workers and its iterators share. The workers do not hold the executor: one
//! that nobody knows any more is collected, and that ends them when they have done what is queued.
//!
//! A worker is a Python thread inside [`Crew::work`]. It wakes whom it has made happy before it runs user code or
//! sleeps, not at once: with the GIL a thread that is woken earlier only waits for it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use ropewalk_pool::{Arrival, Counts, Ledger, Next, Step};
#[cfg(not(Py_GIL_DISABLED))]
use ropewalk_sys::clock::Ticks;
use ropewalk_sys::fork;
use ropewalk_wait::{Parked, Parker};

use super::future::Outcome;
use super::job::{self, Job};
use super::map::Map;
use super::state::Wakes;
use crate::call::{call_method, call_one};
use crate::guard::Guarded;
use crate::object::Obj;
use crate::wait::{asleep, wake};

/// The interpreter ends: nothing new is taken by any pool.
static EXITING: AtomicBool = AtomicBool::new(false);
/// Every crew there is, to end them with the interpreter.
static CREWS: Mutex<Vec<Weak<Crew>>> = Mutex::new(Vec::new());

/// How many ticks a worker keeps the interpreter before it offers it to others: CPython's switch interval, or less.
/// Calls of C functions do not pass where the interpreter would offer it itself.
#[cfg(not(Py_GIL_DISABLED))]
const TURN: u64 = 5_000_000;

type Book = Ledger<Job, Arc<Berth>>;

/// Where a worker sleeps, and what it does. Nobody unparks it but whoever took it out of the ledger, once.
pub(super) struct Berth {
    parker: Arc<Parker>,
    name: Obj,
    now: Guarded<Option<Obj>>,
}

pub(crate) struct Crew {
    ledger: Guarded<Book>,
    /// The maps that have items nobody has begun.
    maps: Guarded<Vec<Weak<Map>>>,
    berths: Guarded<Vec<Weak<Berth>>>,
    /// `shutdown` was called, or the executor is gone: nothing new is taken.
    shut: AtomicBool,
    /// Why the pool is broken: an exception class, and what it is told.
    broken: Guarded<Option<(Obj, Obj)>>,
    generation: AtomicU64,
}

/// A worker, as what it does sees it.
pub(super) struct Worker {
    berth: Arc<Berth>,
    /// The `run` of a worker's context that does not simply call.
    run: Option<Obj>,
    #[cfg(not(Py_GIL_DISABLED))]
    since: std::cell::Cell<Ticks>,
}

/// What a worker runs, for as long as this lives.
pub(super) struct Noted<'a, 'py>(&'a Berth, Python<'py>);

impl Drop for Noted<'_, '_> {
    #[inline]
    fn drop(&mut self) {
        let old = self.0.now.with(self.1, Option::take);
        drop(old);
    }
}

impl Worker {
    /// Notes what is run, for `statistics()`.
    #[inline]
    pub(super) fn note<'a, 'py>(&'a self, py: Python<'py>, what: &Obj) -> Noted<'a, 'py> {
        let what = what.clone();
        let old = self.berth.now.with(py, |now| now.replace(what));
        drop(old);
        Noted(&self.berth, py)
    }

    /// Has the worker's context run a task.
    pub(super) fn run_task(&self, py: Python<'_>, task: &Obj) -> Outcome {
        let ran = match &self.run {
            Some(run) => call_one(&run.bind(py), &task.bind(py)).map(Obj::from),
            None => Err(PyRuntimeError::new_err("the worker has no context")),
        };
        job::outcome(py, ran)
    }

    /// Offers the interpreter to other threads, if it was not for a while.
    #[inline]
    #[cfg(not(Py_GIL_DISABLED))]
    pub(super) fn breathe(&self, py: Python<'_>) {
        if self.since.get().elapsed() > TURN {
            py.detach(|| {});
            self.since.set(Ticks::now());
        }
    }

    /// Every thread has its own.
    #[inline]
    #[cfg(Py_GIL_DISABLED)]
    pub(super) fn breathe(&self, _py: Python<'_>) {}
}

impl Crew {
    pub(super) fn new(most: usize) -> Arc<Self> {
        let crew = Arc::new(Self {
            ledger: Guarded::new(Ledger::new(most)),
            maps: Guarded::new(Vec::new()),
            berths: Guarded::new(Vec::new()),
            shut: AtomicBool::new(false),
            broken: Guarded::new(None),
            generation: AtomicU64::new(fork::generation()),
        });
        let mut crews = CREWS.lock().unwrap_or_else(PoisonError::into_inner);
        crews.retain(|crew| crew.strong_count() > 0);
        crews.push(Arc::downgrade(&crew));
        crew
    }

    pub(super) fn is_shut(&self) -> bool {
        self.shut.load(Ordering::Acquire)
    }

    /// # Errors
    /// Why nothing new is taken, as the standard library's executor says it.
    #[inline]
    pub(super) fn check_open(&self, py: Python<'_>) -> PyResult<()> {
        if self.generation.load(Ordering::Relaxed) != fork::generation() {
            self.begin_anew(py);
        }
        let broken = self.broken.with(py, |broken| broken.clone());
        if let Some((class, why)) = broken {
            return Err(PyErr::from_value(call_one(&class.bind(py), &why.bind(py))?));
        }
        if self.is_shut() {
            return Err(PyRuntimeError::new_err(
                "cannot schedule new futures after shutdown",
            ));
        }
        if EXITING.load(Ordering::Acquire) {
            return Err(PyRuntimeError::new_err(
                "cannot schedule new futures after interpreter shutdown",
            ));
        }
        Ok(())
    }

    /// In a forked child: its copy of the pool has no workers. What was queued is the parent's to do, so here it is
    /// cancelled.
    #[cold]
    fn begin_anew(&self, py: Python<'_>) {
        self.generation.store(fork::generation(), Ordering::Relaxed);
        let (jobs, sleepers) = self.ledger.with(py, Ledger::forget_workers);
        let berths = self.berths.with(py, std::mem::take);
        drop((sleepers, berths));
        for job in jobs {
            report(py, job.cancel(py));
        }
        self.cancel_maps(py);
    }

    /// Queues a job of `executor`, and has it start a worker for it if there is need.
    #[inline]
    pub(super) fn submit(
        &self,
        py: Python<'_>,
        executor: &Bound<'_, PyAny>,
        job: Job,
    ) -> PyResult<()> {
        match self.ledger.with(py, |ledger| ledger.submit(job)) {
            Step::Nothing => Ok(()),
            Step::Wake(berth) => {
                wake(&berth.parker);
                Ok(())
            }
            Step::Start => self.start(py, executor),
        }
    }

    #[cold]
    fn start(&self, py: Python<'_>, executor: &Bound<'_, PyAny>) -> PyResult<()> {
        let started = call_method(executor, intern!(py, "_start_worker"), []);
        if started.is_err() {
            self.ledger.with(py, Ledger::start_failed);
        }
        started.map(drop)
    }

    /// A worker's life, from its start to its end.
    pub(super) fn work(&self, py: Python<'_>, name: Obj, run: Option<Obj>) {
        let berth = Arc::new(Berth {
            parker: Arc::new(Parker::new(fork::this_thread() as u64)),
            name,
            now: Guarded::new(None),
        });
        let weak = Arc::downgrade(&berth);
        self.berths.with(py, |berths| {
            berths.retain(|berth| berth.strong_count() > 0);
            berths.push(weak);
        });
        let worker = Worker {
            berth,
            run,
            #[cfg(not(Py_GIL_DISABLED))]
            since: std::cell::Cell::new(Ticks::now()),
        };
        let mut wakes = Wakes::default();
        let mut arrival = Arrival::Started;
        loop {
            let (next, step) = self
                .ledger
                .with(py, |ledger| ledger.next(arrival, &worker.berth));
            if let Step::Wake(other) = step {
                wake(&other.parker);
            }
            arrival = match next {
                Next::Job(job) => {
                    job.run(py, &worker, &mut wakes);
                    worker.breathe(py);
                    Arrival::Busy
                }
                Next::Sleep => {
                    sleep(py, &worker.berth.parker, wakes.take_threads());
                    #[cfg(not(Py_GIL_DISABLED))]
                    worker.since.set(Ticks::now());
                    Arrival::Woken
                }
                Next::End => break,
            };
        }
        wakes.flush(py);
    }

    /// A worker could not be made ready: the pool is broken, and what is queued fails. `class` is of an exception
    /// that takes `why`.
    pub(super) fn break_up(&self, py: Python<'_>, class: Obj, why: Obj) {
        let (told, text) = (class.clone(), why.clone());
        let (jobs, step) = self.ledger.with(py, |ledger| {
            let jobs = ledger.take_queued();
            (jobs, ledger.lost(Arrival::Started))
        });
        let old = self.broken.with(py, |broken| broken.replace((class, why)));
        drop((old, step));
        let error = || match call_one(&told.bind(py), &text.bind(py)) {
            Ok(error) => PyErr::from_value(error),
            Err(error) => error,
        };
        for map in self.take_maps(py) {
            map.fail(py, error());
        }
        for job in jobs {
            report(py, job.fail(py, error()));
        }
    }

    /// Takes nothing new, and lets the workers end when they have done what is queued, or what they have begun if
    /// the rest is to be cancelled.
    pub(super) fn shut(&self, py: Python<'_>, cancel: bool) -> PyResult<()> {
        if self.generation.load(Ordering::Relaxed) != fork::generation() {
            self.begin_anew(py);
        }
        self.shut.store(true, Ordering::Release);
        let sleepers = self.close(py);
        if cancel {
            let jobs = self.ledger.with(py, Ledger::take_queued);
            self.cancel_maps(py);
            for job in jobs {
                job.cancel(py)?;
            }
        }
        drop(sleepers);
        Ok(())
    }

    fn close(&self, py: Python<'_>) -> Vec<Arc<Berth>> {
        let sleepers = self.ledger.with(py, Ledger::close);
        for berth in &sleepers {
            wake(&berth.parker);
        }
        sleepers
    }

    /// The executor is gone.
    pub(super) fn orphan(&self, py: Python<'_>) {
        self.shut.store(true, Ordering::Release);
        drop(self.close(py));
        let jobs = self.ledger.with(py, |ledger| {
            // No worker could be started: nobody will ever do these.
            (ledger.counts().workers == 0).then(|| ledger.take_queued())
        });
        drop(jobs);
    }

    pub(super) fn counts(&self, py: Python<'_>) -> Counts {
        let mut counts = self.ledger.with(py, |ledger| {
            let tickets = ledger
                .queued()
                .filter(|job| matches!(job, Job::Map(_)))
                .count();
            let mut counts = ledger.counts();
            counts.queued -= tickets;
            counts
        });
        counts.queued += self
            .live_maps(py)
            .iter()
            .map(|map| map.waiting(py))
            .sum::<usize>();
        counts
    }

    /// What each worker runs: its name, and the function.
    pub(super) fn running(&self, py: Python<'_>) -> Vec<(Obj, Obj)> {
        let berths = self.berths.with(py, |berths| {
            berths.iter().filter_map(Weak::upgrade).collect::<Vec<_>>()
        });
        berths
            .iter()
            .filter_map(|berth| {
                let now = berth.now.with(py, |now| now.clone())?;
                Some((berth.name.clone(), now))
            })
            .collect()
    }

    pub(super) fn most(&self, py: Python<'_>) -> usize {
        self.ledger.with(py, |ledger| ledger.most())
    }

    pub(super) fn set_most(&self, py: Python<'_>, most: usize) {
        self.ledger.with(py, |ledger| ledger.set_most(most));
    }

    pub(super) fn why_broken(&self, py: Python<'_>) -> Option<Obj> {
        self.broken
            .with(py, |broken| broken.as_ref().map(|(_, why)| why.clone()))
    }

    pub(super) fn note_map(&self, py: Python<'_>, map: &Arc<Map>) {
        let map = Arc::downgrade(map);
        self.maps.with(py, |maps| {
            maps.retain(|map| map.strong_count() > 0);
            maps.push(map);
        });
    }

    fn live_maps(&self, py: Python<'_>) -> Vec<Arc<Map>> {
        self.maps
            .with(py, |maps| maps.iter().filter_map(Weak::upgrade).collect())
    }

    fn take_maps(&self, py: Python<'_>) -> Vec<Arc<Map>> {
        let live = self.live_maps(py);
        self.maps.with(py, Vec::clear);
        live
    }

    fn cancel_maps(&self, py: Python<'_>) {
        for map in self.take_maps(py) {
            map.cancel(py);
        }
    }
}

/// Sleeps without the interpreter, after waking `first`.
fn sleep(py: Python<'_>, parker: &Parker, first: Vec<Arc<Parker>>) {
    asleep(py, || {
        for other in first {
            other.unpark();
        }
        // Signals are the main thread's.
        while parker.park(None) != Parked::Woken {}
    });
}

/// What a callback of a job that was ended raised, where nobody can be told.
fn report(py: Python<'_>, ended: PyResult<()>) {
    if let Err(error) = ended {
        error.write_unraisable(py, None);
    }
}

/// The interpreter is about to end: every pool does what is queued, and its workers end.
#[pyfunction]
pub(super) fn _end_pools(py: Python<'_>) {
    EXITING.store(true, Ordering::Release);
    let crews: Vec<_> = CREWS
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .iter()
        .filter_map(Weak::upgrade)
        .collect();
    for crew in crews {
        if crew.generation.load(Ordering::Relaxed) == fork::generation() {
            drop(crew.close(py));
        }
    }
}
