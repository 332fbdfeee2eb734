//! The ledger: see the crate's text for the protocol.

use std::collections::VecDeque;

/// What the owner is to do once the guard is released.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a worker that is not woken or started leaves jobs undone"]
pub enum Step<W> {
    /// Nothing.
    Nothing,
    /// Wake this worker, which then calls [`Ledger::next`] as [`Arrival::Woken`].
    Wake(W),
    /// Start one more worker, which then calls [`Ledger::next`] as [`Arrival::Started`]. Where that fails, say so
    /// by [`Ledger::start_failed`].
    Start,
}

/// Where a worker that asks for its next job comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It was just started.
    Started,
    /// It slept and was woken.
    Woken,
    /// It has done a job.
    Busy,
}

/// What a worker does next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<J> {
    /// This job.
    Job(J),
    /// It sleeps until it is woken. It is noted as asleep already: a wake-up may come before it really sleeps.
    Sleep,
    /// It ends, and is forgotten.
    End,
}

/// How many there are of what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Workers, those that are just being started included.
    pub workers: usize,
    /// Workers that sleep.
    pub idle: usize,
    /// Jobs that nobody has begun.
    pub queued: usize,
    /// Jobs that run.
    pub running: usize,
    /// Jobs that are done.
    pub done: u64,
}

/// Who has which job to do, and who is to be told.
#[derive(Debug)]
pub struct Ledger<J, W> {
    queue: VecDeque<J>,
    /// Who sleeps. The last one is woken first: its caches are warm.
    idle: Vec<W>,
    workers: usize,
    most: usize,
    /// Workers that were woken or started and have not arrived yet.
    coming: usize,
    /// One of those was woken: nobody else is until it arrives.
    waking: bool,
    running: usize,
    done: u64,
    closed: bool,
}

impl<J, W: Clone> Ledger<J, W> {
    /// A ledger for at most `most` workers.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self {
            queue: VecDeque::new(),
            idle: Vec::new(),
            workers: 0,
            most,
            coming: 0,
            waking: false,
            running: 0,
            done: 0,
            closed: false,
        }
    }

    /// Queues a job.
    pub fn submit(&mut self, job: J) -> Step<W> {
        self.queue.push_back(job);
        if self.queue.len() > self.idle.len() + self.coming && self.workers < self.most {
            self.workers += 1;
            self.coming += 1;
            return Step::Start;
        }
        self.wake_one()
    }

    /// The worker that was to be started does not exist. The job stays queued.
    pub fn start_failed(&mut self) {
        self.workers = self.workers.saturating_sub(1);
        self.coming = self.coming.saturating_sub(1);
    }

    /// What a worker does next, and whom it has to wake before.
    pub fn next(&mut self, arrival: Arrival, who: &W) -> (Next<J>, Step<W>) {
        self.note(arrival);
        if let Some(job) = self.queue.pop_front() {
            self.running += 1;
            return (Next::Job(job), self.wake_one());
        }
        if self.closed {
            self.workers = self.workers.saturating_sub(1);
            return (Next::End, Step::Nothing);
        }
        self.idle.push(who.clone());
        (Next::Sleep, Step::Nothing)
    }

    /// A worker ends without asking for more: it could not be made ready, for example.
    pub fn lost(&mut self, arrival: Arrival) -> Step<W> {
        self.note(arrival);
        self.workers = self.workers.saturating_sub(1);
        self.wake_one()
    }

    /// Lets the workers end once the queue is empty, and returns those that sleep: wake them all.
    pub fn close(&mut self) -> Vec<W> {
        self.closed = true;
        self.coming += self.idle.len();
        std::mem::take(&mut self.idle)
    }

    /// Takes out the jobs that nobody has begun.
    pub fn take_queued(&mut self) -> VecDeque<J> {
        std::mem::take(&mut self.queue)
    }

    /// Forgets every worker, as in a forked child, where there are none. Returns the jobs that nobody had begun
    /// (the parent's workers do those) and what the sleepers were reached by.
    pub fn forget_workers(&mut self) -> (VecDeque<J>, Vec<W>) {
        self.workers = 0;
        self.coming = 0;
        self.waking = false;
        self.running = 0;
        (self.take_queued(), std::mem::take(&mut self.idle))
    }

    /// The limit of workers.
    #[must_use]
    pub fn most(&self) -> usize {
        self.most
    }

    /// Sets the limit. Workers beyond a lower one stay until the end.
    pub fn set_most(&mut self, most: usize) {
        self.most = most;
    }

    /// Whether [`close`](Self::close) was called.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// How many there are of what, just now.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            workers: self.workers,
            idle: self.idle.len(),
            queued: self.queue.len(),
            running: self.running,
            done: self.done,
        }
    }

    /// The jobs that nobody has begun.
    pub fn queued(&self) -> impl Iterator<Item = &J> {
        self.queue.iter()
    }

    fn note(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Busy => {
                self.running = self.running.saturating_sub(1);
                self.done += 1;
            }
            Arrival::Started => self.coming = self.coming.saturating_sub(1),
            Arrival::Woken => {
                self.coming = self.coming.saturating_sub(1);
                self.waking = false;
            }
        }
    }

    /// Whom to wake for the jobs that are queued: nobody if there are none, or if somebody is on the way.
    fn wake_one(&mut self) -> Step<W> {
        if self.waking || self.queue.is_empty() {
            return Step::Nothing;
        }
        match self.idle.pop() {
            Some(worker) => {
                self.waking = true;
                self.coming += 1;
                Step::Wake(worker)
            }
            None => Step::Nothing,
        }
    }
}
