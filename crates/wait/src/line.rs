//! Who waits, first come first served.
//!
//! A waiter's way through the line:
//!
//! ```text
//!   join ──► waiting ──notify──► notified ──leave──► gone
//!              ▲  │                │  │
//!              │  │            rearm  └──grant──┐
//!              │  │ grant          │            ▼
//!              │  └────────────────┼────────► granted ──leave──► gone
//!              └───────────────────┘
//! ```
//!
//! *Notified* is a permission to try again, as a poll of Rust's futures is: what is waited for may be taken by somebody
//! else first, and then the waiter is *rearmed* where it stood. *Granted* is the thing itself: nobody else can take it,
//! and a granted waiter no longer stands in anybody's way. Where a grant is no more than a word (a condition's), one
//! that finds nothing is [put back](Line::put_back) to where it stood. Whoever is to leave without having used what it
//! was told or given learns that from [`Line::leave`], and passes it on.

use ropewalk_sys::fork;

/// Somebody who can be woken: a parked thread, a task of an event loop, a greenlet.
pub trait Waiter: Clone {
    /// Lets the waiter look again at what it waits for. Called without any guard of a primitive held, since it
    /// may run any code. It may be called when nobody waits any more, and then does nothing.
    ///
    /// False if the waiter can never be reached again (its event loop is closed): whoever called it then lets its
    /// place be left.
    fn wake(&self) -> bool;

    /// Whether it still exists in the child of a fork.
    fn survives_fork(&self) -> bool;

    /// The thread in which it goes on, as `fork::this_thread` names it.
    fn thread(&self) -> usize;

    /// Whether that thread does nothing else until the waiter is woken: a thread that parks, but no task.
    fn blocks(&self) -> bool;
}

/// A place in a [`Line`]. It stays the waiter's until it leaves.
#[derive(Debug, PartialEq, Eq)]
pub struct Ticket {
    index: u32,
    /// Tells the place from a later one at the same index.
    serial: u64,
}

/// Where on its way the waiter was that left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// Nobody had called it.
    Waiting,
    /// It had been told to try again. If it did not, the next one should.
    Notified,
    /// It had been given what it waited for, which is the leaver's now, to use or to pass on.
    Granted,
    /// The line does not know it: it was lost in a fork.
    Unknown,
}

/// A waiter whom the owner of the line must wake, once the guard is released.
#[derive(Debug)]
pub struct Call<W> {
    /// Whom to wake.
    pub waiter: W,
    index: u32,
    serial: u64,
}

impl<W> Call<W> {
    /// The place of the waiter, for [`Line::leave`] if it could not be woken.
    pub fn ticket(&self) -> Ticket {
        Ticket {
            index: self.index,
            serial: self.serial,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Notified,
    Granted,
}

const NONE: u32 = u32::MAX;

struct Slot<W> {
    /// None: the slot is free, and `next` is the next free one.
    waiter: Option<W>,
    state: State,
    /// Woken once, and what it waited for was gone.
    passed_over: bool,
    /// It is a task: its thread may do something else, even block here.
    is_task: bool,
    /// It is a thread, and tasks of it were here before it.
    blocks_tasks: bool,
    serial: u64,
    previous: u32,
    next: u32,
}

/// The waiters of one primitive, in the order in which they came. Costs a word while nobody waits.
pub struct Line<W> {
    inner: Option<Box<Inner<W>>>,
}

struct Inner<W> {
    slots: Vec<Slot<W>>,
    free: u32,
    first: u32,
    last: u32,
    /// The first in state `Waiting`. Everybody in front of it is notified.
    next_up: u32,
    waiting: usize,
    notified: usize,
    granted: usize,
    /// How many of all these are tasks.
    tasks: usize,
    /// How many of all these block tasks.
    blockers: usize,
    serial: u64,
    /// Of which copy of the process the waiters are.
    generation: u64,
}

impl<W> Default for Line<W> {
    fn default() -> Self {
        Self::new()
    }
}

impl<W> Line<W> {
    /// A line of nobody.
    #[must_use]
    pub const fn new() -> Self {
        Self { inner: None }
    }

    /// Whether nobody has a place, not even a granted one.
    #[inline]
    pub fn is_empty(&self) -> bool {
        match &self.inner {
            None => true,
            Some(inner) => inner.waiting + inner.notified + inner.granted == 0,
        }
    }

    /// How many wait for something they have not been given.
    #[inline]
    pub fn len(&self) -> usize {
        self.inner
            .as_ref()
            .map_or(0, |inner| inner.waiting + inner.notified)
    }

    /// How many of [`len`](Self::len) were told to try again.
    #[inline]
    pub fn notified(&self) -> usize {
        self.inner.as_ref().map_or(0, |inner| inner.notified)
    }

    /// Whether somebody waits who was told nothing: whether there is anybody to [`notify`](Self::notify).
    #[inline]
    pub fn has_uncalled(&self) -> bool {
        self.inner.as_ref().is_some_and(|inner| inner.waiting > 0)
    }

    /// Those who wait, the first to come first; then those who were granted and have not left.
    pub fn iter(&self) -> impl Iterator<Item = &W> {
        let inner = self.inner.as_deref();
        let mut at = inner.map_or(NONE, |inner| inner.first);
        let ordered = std::iter::from_fn(move || {
            let slot = inner?.slots.get(at as usize)?;
            at = slot.next;
            slot.waiter.as_ref()
        });
        let granted = inner
            .into_iter()
            .flat_map(|inner| &inner.slots)
            .filter(|slot| slot.state == State::Granted)
            .filter_map(|slot| slot.waiter.as_ref());
        ordered.chain(granted)
    }
}

impl<W: Waiter> Line<W> {
    /// Takes a place at the end.
    pub fn join(&mut self, waiter: W) -> Ticket {
        self.forget_the_dead();
        let inner = self.inner.get_or_insert_with(Inner::new);
        let is_task = !waiter.blocks();
        let blocks_tasks = !is_task && inner.tasks > 0 && inner.call_back(waiter.thread());
        inner.tasks += usize::from(is_task);
        inner.blockers += usize::from(blocks_tasks);
        inner.serial += 1;
        let slot = Slot {
            waiter: Some(waiter),
            state: State::Waiting,
            passed_over: false,
            is_task,
            blocks_tasks,
            serial: inner.serial,
            previous: inner.last,
            next: NONE,
        };
        let index = match inner.slots.get(inner.free as usize) {
            Some(free) => {
                let index = inner.free;
                inner.free = free.next;
                inner.slots[index as usize] = slot;
                index
            }
            None => {
                inner.slots.push(slot);
                // Four thousand million waiters do not fit into memory.
                (inner.slots.len() - 1) as u32
            }
        };
        match inner.slots.get_mut(inner.last as usize) {
            Some(last) => last.next = index,
            None => inner.first = index,
        }
        inner.last = index;
        if inner.next_up == NONE {
            inner.next_up = index;
        }
        inner.waiting += 1;
        Ticket {
            index,
            serial: inner.serial,
        }
    }

    /// Tells the first who does not know yet to try again. The caller wakes it, after the guard.
    pub fn notify(&mut self) -> Option<Call<W>> {
        self.forget_the_dead();
        let inner = self.inner.as_deref_mut()?;
        let index = inner.hearing(inner.next_up, |state| state == State::Waiting)?;
        let call = inner.call(index)?;
        inner.slots[index as usize].state = State::Notified;
        inner.waiting -= 1;
        inner.notified += 1;
        if inner.next_up == index {
            inner.advance(index);
        }
        Some(call)
    }

    /// Gives the first in line what it waits for. The caller wakes it, after the guard; a waiter that was notified
    /// before may be awake already, and then that does no harm.
    pub fn grant(&mut self) -> Option<Call<W>> {
        self.forget_the_dead();
        let inner = self.inner.as_deref_mut()?;
        let index = inner.hearing(inner.first, |_| true).unwrap_or(inner.first);
        inner.give(index)
    }

    /// The same, but nobody is given it whose thread blocks in this line, and could use it only later.
    pub fn grant_at_once(&mut self) -> Option<Call<W>> {
        self.forget_the_dead();
        let inner = self.inner.as_deref_mut()?;
        let index = inner.hearing(inner.first, |_| true)?;
        inner.give(index)
    }

    /// Takes back what was granted to tasks of the caller's own thread, which is about to block in this line, and says
    /// how many grants these were: the tasks could not use them before the caller is woken. They stand where they stood.
    pub fn revoke(&mut self, waiter: &W) -> usize {
        let Some(inner) = self.inner.as_deref_mut() else {
            return 0;
        };
        if inner.granted == 0 || inner.tasks == 0 || !waiter.blocks() {
            return 0;
        }
        let thread = waiter.thread();
        let mut revoked = 0;
        for index in 0..inner.slots.len() {
            let slot = &inner.slots[index];
            if slot.state == State::Granted && slot.is_task_of(thread) {
                inner.restore(index as u32);
                revoked += 1;
            }
        }
        revoked
    }

    /// Whether the first in line was woken once for nothing.
    #[inline]
    pub fn owes_the_first(&self) -> bool {
        let Some(inner) = &self.inner else {
            return false;
        };
        inner
            .slots
            .get(inner.first as usize)
            .is_some_and(|slot| slot.passed_over)
    }

    /// Whether the waiter was notified and may try.
    pub fn is_notified(&self, ticket: &Ticket) -> bool {
        self.state(ticket) == Some(State::Notified)
    }

    /// Whether the waiter was given what it waits for.
    pub fn is_granted(&self, ticket: &Ticket) -> bool {
        self.state(ticket) == Some(State::Granted)
    }

    /// Whether the line knows the place; it may have been lost in a fork.
    pub fn knows(&self, ticket: &Ticket) -> bool {
        self.state(ticket).is_some()
    }

    fn state(&self, ticket: &Ticket) -> Option<State> {
        let inner = self.inner.as_deref()?;
        Some(inner.slot(ticket)?.state)
    }

    /// What the waiter was notified of is gone: it goes on waiting where it stood.
    pub fn rearm(&mut self, ticket: &Ticket) {
        let Some(inner) = self.inner.as_deref_mut() else {
            return;
        };
        if inner.slot(ticket).map(|slot| slot.state) != Some(State::Notified) {
            return;
        }
        inner.recall(ticket.index);
        inner.slots[ticket.index as usize].passed_over = true;
    }

    /// What the waiter was told of, or given, has been taken by somebody else: it goes on waiting where it stood.
    pub fn put_back(&mut self, ticket: &Ticket) {
        let Some(inner) = self.inner.as_deref_mut() else {
            return;
        };
        if inner.slot(ticket).map(|slot| slot.state) != Some(State::Granted) {
            self.rearm(ticket);
            return;
        }
        inner.restore(ticket.index);
        inner.slots[ticket.index as usize].passed_over = true;
    }

    /// Gives the place up. The caller holds the waiter itself, whose copy here is dropped.
    pub fn leave(&mut self, ticket: &Ticket) -> Left {
        let Some(inner) = self.inner.as_deref_mut() else {
            return Left::Unknown;
        };
        let Some(state) = inner.slot(ticket).map(|slot| slot.state) else {
            return Left::Unknown;
        };
        let left = match state {
            State::Waiting => {
                inner.waiting -= 1;
                Left::Waiting
            }
            State::Notified => {
                inner.notified -= 1;
                Left::Notified
            }
            State::Granted => {
                inner.granted -= 1;
                Left::Granted
            }
        };
        if state != State::Granted {
            inner.unlink(ticket.index);
        }
        inner.release(ticket.index);
        left
    }

    /// Drops the waiters of threads that a fork has left behind.
    #[inline]
    fn forget_the_dead(&mut self) {
        if let Some(inner) = &mut self.inner {
            let generation = fork::generation();
            if inner.generation != generation {
                inner.generation = generation;
                inner.bury();
            }
        }
    }
}

impl<W: Waiter> Slot<W> {
    fn is_task_of(&self, thread: usize) -> bool {
        self.is_task
            && self
                .waiter
                .as_ref()
                .is_some_and(|waiter| waiter.thread() == thread)
    }
}

impl<W: Waiter> Inner<W> {
    fn new() -> Box<Self> {
        Box::new(Self {
            slots: Vec::new(),
            free: NONE,
            first: NONE,
            last: NONE,
            next_up: NONE,
            waiting: 0,
            notified: 0,
            granted: 0,
            tasks: 0,
            blockers: 0,
            serial: 0,
            generation: fork::generation(),
        })
    }

    fn slot(&self, ticket: &Ticket) -> Option<&Slot<W>> {
        self.slots
            .get(ticket.index as usize)
            .filter(|slot| slot.serial == ticket.serial && slot.waiter.is_some())
    }

    fn call(&self, index: u32) -> Option<Call<W>> {
        let slot = self.slots.get(index as usize)?;
        Some(Call {
            waiter: slot.waiter.clone()?,
            index,
            serial: slot.serial,
        })
    }

    /// Whether a thread that comes to block has tasks here. None of them counts as called any more.
    fn call_back(&mut self, thread: usize) -> bool {
        let mut any = false;
        for index in 0..self.slots.len() {
            let slot = &self.slots[index];
            if slot.is_task_of(thread) {
                any = true;
                if slot.state == State::Notified {
                    self.recall(index as u32);
                }
            }
        }
        any
    }

    /// The first from `index` on that may be called, and hears it.
    #[inline]
    fn hearing(&self, index: u32, may: fn(State) -> bool) -> Option<u32> {
        if self.blockers == 0 {
            return Some(index);
        }
        self.find_hearing(index, may)
    }

    #[cold]
    fn find_hearing(&self, index: u32, may: fn(State) -> bool) -> Option<u32> {
        let mut at = index;
        while let Some(slot) = self.slots.get(at as usize) {
            if may(slot.state) && !(slot.is_task && self.is_blocked(slot.waiter.as_ref()?.thread()))
            {
                return Some(at);
            }
            at = slot.next;
        }
        None
    }

    fn is_blocked(&self, thread: usize) -> bool {
        let blockers = self.slots.iter().filter(|slot| slot.blocks_tasks);
        blockers
            .filter_map(|slot| slot.waiter.as_ref())
            .any(|waiter| waiter.thread() == thread)
    }

    /// Makes one that was notified wait again.
    fn recall(&mut self, index: u32) {
        self.notified -= 1;
        self.wait_again(index);
    }

    /// Makes one that was granted wait again, where it stood.
    fn restore(&mut self, index: u32) {
        self.granted -= 1;
        self.link(index);
        self.wait_again(index);
    }

    fn wait_again(&mut self, index: u32) {
        self.waiting += 1;
        let slot = &mut self.slots[index as usize];
        slot.state = State::Waiting;
        let serial = slot.serial;
        let next_up = self.slots.get(self.next_up as usize);
        if next_up.is_none_or(|next_up| serial < next_up.serial) {
            self.next_up = index;
        }
        self.block_tasks(index);
    }

    /// A thread that blocks, or blocks again, where tasks of it are: none of them counts as called any more.
    #[inline]
    fn block_tasks(&mut self, index: u32) {
        let slot = &self.slots[index as usize];
        if slot.blocks_tasks
            && let Some(waiter) = &slot.waiter
        {
            let thread = waiter.thread();
            self.call_back(thread);
        }
    }

    fn give(&mut self, index: u32) -> Option<Call<W>> {
        let call = self.call(index)?;
        match self.slots[index as usize].state {
            State::Waiting => self.waiting -= 1,
            State::Notified => self.notified -= 1,
            State::Granted => return None, // it is in no order, so nobody finds it there
        }
        self.unlink(index);
        self.slots[index as usize].state = State::Granted;
        self.granted += 1;
        Some(call)
    }

    /// Takes a slot out of the order.
    fn unlink(&mut self, index: u32) {
        if self.next_up == index {
            self.advance(index);
        }
        let (previous, next) = {
            let slot = &self.slots[index as usize];
            (slot.previous, slot.next)
        };
        match self.slots.get_mut(previous as usize) {
            Some(slot) => slot.next = next,
            None => self.first = next,
        }
        match self.slots.get_mut(next as usize) {
            Some(slot) => slot.previous = previous,
            None => self.last = previous,
        }
    }

    /// Puts a slot back into the order, from which it was taken: in front of all who came later.
    fn link(&mut self, index: u32) {
        let serial = self.slots[index as usize].serial;
        // Who was granted first came first, so there are hardly any to pass.
        let mut next = self.first;
        let mut previous = NONE;
        while let Some(slot) = self.slots.get(next as usize) {
            if slot.serial > serial {
                break;
            }
            previous = next;
            next = slot.next;
        }
        let slot = &mut self.slots[index as usize];
        slot.previous = previous;
        slot.next = next;
        match self.slots.get_mut(previous as usize) {
            Some(slot) => slot.next = index,
            None => self.first = index,
        }
        match self.slots.get_mut(next as usize) {
            Some(slot) => slot.previous = index,
            None => self.last = index,
        }
    }

    /// Finds the first behind `index` that waits.
    fn advance(&mut self, index: u32) {
        let mut at = self.slots[index as usize].next;
        while let Some(slot) = self.slots.get(at as usize) {
            if slot.state == State::Waiting {
                break;
            }
            at = slot.next;
        }
        self.next_up = at;
    }

    /// Frees a slot that is in no order.
    fn release(&mut self, index: u32) {
        self.vacate(index);
        if self.waiting + self.notified + self.granted == 0 && self.slots.len() > KEPT {
            self.slots = Vec::new();
            self.free = NONE;
        }
    }

    fn bury(&mut self) {
        for index in 0..self.slots.len() {
            let slot = &self.slots[index];
            if slot.waiter.as_ref().is_none_or(Waiter::survives_fork) {
                continue;
            }
            let state = slot.state;
            match state {
                State::Waiting => self.waiting -= 1,
                State::Notified => self.notified -= 1,
                State::Granted => self.granted -= 1,
            }
            let index = index as u32;
            if state != State::Granted {
                self.unlink(index);
            }
            // The waiter itself is leaked: dropping it could run code under the guard, and this happens once a fork.
            std::mem::forget(self.slots[index as usize].waiter.take());
            self.vacate(index);
        }
    }

    fn vacate(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        slot.waiter = None;
        slot.state = State::Waiting;
        slot.next = self.free;
        self.free = index;
        self.tasks -= usize::from(slot.is_task);
        self.blockers -= usize::from(slot.blocks_tasks);
    }
}

/// Slots that an empty line keeps; more are given back, for a crowd comes once.
const KEPT: usize = 64;
