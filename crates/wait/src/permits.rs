//! A counter that can be waited for: what a semaphore is, and the inside of a lock.
//!
//! # Who gets a permit
//!
//! A permit that is given back lies in the open: a newcomer takes it although others wait, for they sleep, and a
//! lock that is handed to a sleeper is idle for as long as it takes to wake up (with two threads that take turns,
//! a switch for each turn; this has cost others a factor of 50). One sleeper a permit is told to try. If it finds
//! nothing, it is owed: from then on permits are *granted* to the first in line, past everybody, until nobody is
//! owed any more. So nobody is overtaken for longer than it takes to wake up once.
//!
//! # Why no permit is lost
//!
//! After each change the owner calls [`Permits::next_call`] until it gives nothing. Then as many are notified as there
//! are permits in the open, or all who wait. Whoever leaves notified or granted has its permit put back or told to
//! the next by the same rule.

use crate::line::{Call, Left, Line, Ticket, Waiter};

/// A number of permits, and those who wait for one. Guarded by whoever owns it.
pub struct Permits<W> {
    free: usize,
    line: Line<W>,
}

impl<W> Permits<W> {
    /// `free` permits.
    #[must_use]
    pub const fn new(free: usize) -> Self {
        Self {
            free,
            line: Line::new(),
        }
    }

    /// Permits that a newcomer could take.
    #[inline]
    pub fn free(&self) -> usize {
        self.free
    }

    /// Those who wait.
    #[inline]
    pub fn line(&self) -> &Line<W> {
        &self.line
    }

    /// Takes the permits that are free away, however many, and says how many there were.
    pub fn drain(&mut self) -> usize {
        std::mem::take(&mut self.free)
    }
}

impl<W: Waiter> Permits<W> {
    /// Takes a permit if there is one that nobody is owed.
    #[inline]
    pub fn take(&mut self) -> bool {
        if self.free == 0 || self.line.owes_the_first() {
            return false;
        }
        self.free -= 1;
        true
    }

    /// Tries for a waiter that has a place, or gives it one. True: it has its permit and no place any more.
    ///
    /// Whichever it is, [`next_call`](Self::next_call) follows.
    pub fn poll(&mut self, place: &mut Option<Ticket>, waiter: &W) -> bool {
        let Some(ticket) = place.as_ref().filter(|ticket| self.line.knows(ticket)) else {
            if self.take() || self.take_back(waiter) {
                *place = None;
                return true;
            }
            *place = Some(self.line.join(waiter.clone()));
            return false;
        };
        if self.line.is_granted(ticket) {
            self.line.leave(ticket);
        } else if self.line.is_notified(ticket) && self.free > 0 {
            self.free -= 1;
            self.line.leave(ticket);
        } else if self.take_back(waiter) {
            self.line.leave(ticket);
        } else {
            self.line.rearm(ticket);
            return false;
        }
        *place = None;
        true
    }

    /// Takes a permit that was granted to a task of the waiter's own thread, which is about to block.
    #[inline]
    fn take_back(&mut self, waiter: &W) -> bool {
        let revoked = self.line.revoke(waiter);
        self.free += revoked.saturating_sub(1);
        revoked > 0
    }

    /// Gives up a place. True: a permit had been granted, and is the caller's now.
    ///
    /// [`next_call`](Self::next_call) follows, after the permit was used or given back.
    #[must_use]
    pub fn leave(&mut self, ticket: &Ticket) -> bool {
        self.line.leave(ticket) == Left::Granted
    }

    /// Puts `count` permits back. [`next_call`](Self::next_call) follows.
    #[inline]
    pub fn give(&mut self, count: usize) {
        self.free += count;
    }

    /// Whether one more permit in the open would call nobody: nobody waits, or somebody is on the way for it.
    #[inline]
    pub fn is_answered(&self) -> bool {
        !self.line.has_uncalled()
            || (self.line.notified() > self.free && !self.line.owes_the_first())
    }

    /// Whom to wake next, if anybody; asked again and again, outside the guard in between, until it is nobody.
    #[inline]
    pub fn next_call(&mut self) -> Option<Call<W>> {
        if self.free == 0 || self.line.is_empty() {
            return None;
        }
        self.call()
    }

    #[cold]
    fn call(&mut self) -> Option<Call<W>> {
        if self.line.owes_the_first() {
            // Those who are owed may all have been lost in a fork.
            let call = self.line.grant_at_once()?;
            self.free -= 1;
            return Some(call);
        }
        if self.line.notified() < self.free {
            return self.line.notify();
        }
        None
    }
}
