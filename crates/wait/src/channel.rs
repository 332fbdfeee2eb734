//! Items for whoever comes, and those who wait for one.
//!
//! An item lies in the open until somebody takes it: it is never taken for a sleeper, who might not live to use it.
//! One sleeper an item is told to try; one that finds nothing keeps its place. Newcomers may overtake, for a sleeper
//! needs longer to wake up than they to pass.
//!
//! # Why no item is left lying
//!
//! After each change the owner calls [`Channel::next_call`] until it gives nothing. Then as many are notified as there
//! are items, or all who wait. Whoever leaves without having used what it was told, tells the next by the same rule.

use std::collections::VecDeque;

use crate::line::{Call, Line, Ticket, Waiter};

/// An unbounded queue of items, and those who wait for one. Guarded by whoever owns it.
pub struct Channel<T, W> {
    items: VecDeque<T>,
    line: Line<W>,
}

impl<T, W> Default for Channel<T, W> {
    fn default() -> Self {
        Self::new()
    }
}

/// Room for so many items is kept when the channel is emptied.
const KEPT: usize = 64;

impl<T, W> Channel<T, W> {
    /// An empty channel.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            items: VecDeque::new(),
            line: Line::new(),
        }
    }

    /// The items that nobody has taken, the oldest first.
    #[inline]
    pub fn items(&self) -> &VecDeque<T> {
        &self.items
    }

    /// Those who wait.
    #[inline]
    pub fn line(&self) -> &Line<W> {
        &self.line
    }

    /// Adds an item. [`next_call`](Self::next_call) follows.
    #[inline]
    pub fn put(&mut self, item: T) {
        self.items.push_back(item);
    }

    /// Takes the oldest item.
    #[inline]
    pub fn take(&mut self) -> Option<T> {
        let item = self.items.pop_front();
        if self.items.capacity() > KEPT {
            self.shrink();
        }
        item
    }

    /// Gives back room that is not in use.
    fn shrink(&mut self) {
        let capacity = self.items.capacity();
        if self.items.len() < capacity / 4 {
            // A quarter is in use and half is kept, so as many items are moved as have been taken before.
            self.items.shrink_to(capacity / 2);
        }
    }

    /// Takes all items away.
    #[must_use]
    pub fn drain(&mut self) -> VecDeque<T> {
        std::mem::take(&mut self.items)
    }
}

impl<T, W: Waiter> Channel<T, W> {
    /// Takes an item for a waiter, who then has no place any more, or gives it a place.
    ///
    /// [`next_call`](Self::next_call) follows: the waiter may have been told of one item and have taken another.
    pub fn poll(&mut self, place: &mut Option<Ticket>, waiter: &W) -> Option<T> {
        if let Some(item) = self.take() {
            if let Some(ticket) = place.take() {
                self.line.leave(&ticket);
            }
            return Some(item);
        }
        match place {
            Some(ticket) if self.line.knows(ticket) => self.line.rearm(ticket),
            _ => *place = Some(self.line.join(waiter.clone())),
        }
        None
    }

    /// Gives up a place. [`next_call`](Self::next_call) follows.
    pub fn leave(&mut self, ticket: &Ticket) {
        self.line.leave(ticket);
    }

    /// Whom to wake next, if anybody; asked again and again, outside the guard in between, until it is nobody.
    #[inline]
    pub fn next_call(&mut self) -> Option<Call<W>> {
        if !self.line.has_uncalled() || self.line.notified() >= self.items.len() {
            return None;
        }
        self.line.notify()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[derive(Clone)]
    struct Nobody;

    impl Waiter for Nobody {
        fn wake(&self) -> bool {
            true
        }

        fn survives_fork(&self) -> bool {
            true
        }

        fn thread(&self) -> usize {
            0
        }

        fn blocks(&self) -> bool {
            false
        }
    }

    /// How many are called now.
    fn calls(channel: &mut Channel<u32, Nobody>) -> usize {
        std::iter::from_fn(|| channel.next_call()).count()
    }

    #[test]
    fn an_item_calls_one_and_waits_for_it() {
        let mut channel = Channel::new();
        let (mut first, mut second) = (None, None);
        assert_eq!(channel.poll(&mut first, &Nobody), None);
        assert_eq!(channel.poll(&mut second, &Nobody), None);
        channel.put(1);
        assert_eq!(calls(&mut channel), 1);
        assert_eq!(channel.items().len(), 1);
        assert_eq!(channel.poll(&mut first, &Nobody), Some(1));
        assert!(first.is_none());
        assert_eq!(channel.line().len(), 1);
    }

    #[test]
    fn a_called_one_that_leaves_has_the_next_called() {
        let mut channel = Channel::new();
        let (mut first, mut second) = (None, None);
        channel.poll(&mut first, &Nobody);
        channel.poll(&mut second, &Nobody);
        channel.put(1);
        assert_eq!(calls(&mut channel), 1);
        if let Some(ticket) = first {
            channel.leave(&ticket);
        }
        assert_eq!(calls(&mut channel), 1);
        assert_eq!(channel.poll(&mut second, &Nobody), Some(1));
        assert!(channel.line().is_empty());
    }

    #[test]
    fn one_that_is_overtaken_keeps_its_place() {
        let mut channel = Channel::new();
        let (mut first, mut second) = (None, None);
        channel.poll(&mut first, &Nobody);
        channel.poll(&mut second, &Nobody);
        channel.put(1);
        assert_eq!(calls(&mut channel), 1);
        assert_eq!(channel.take(), Some(1));
        assert_eq!(channel.poll(&mut first, &Nobody), None);
        channel.put(2);
        let called = channel.next_call().map(|call| call.ticket());
        assert_eq!(called, first);
    }

    #[test]
    fn a_burst_leaves_no_memory_behind() {
        let mut channel: Channel<u32, Nobody> = Channel::new();
        for number in 0..10_000 {
            channel.put(number);
        }
        for number in 0..10_000 {
            assert_eq!(channel.take(), Some(number));
        }
        assert!(channel.items.capacity() <= 2 * KEPT);
    }
}
