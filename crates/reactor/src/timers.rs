//! Timers: cheap to add and cheap to cancel, for most are cancelled (a timeout that was not
//! needed).
//!
//! The handle lives in a slab, its deadline in a heap. Cancelling takes the handle out of the slab
//! and leaves the heap's entry behind as *dead*, so it costs no search and no sifting. The dead go
//! when they come to the top, or all at once when they outnumber the living: that pass costs as
//! much as the cancels that led to it, so it is constant per cancel, and memory stays within twice
//! of what lives.
//!
//! Every timer has a sequence number, never used again. It breaks ties, so that equal deadlines
//! fire in the order in which they were added, and it is the slab's generation: an entry or a key
//! whose number is not the slot's is of the past.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use ropewalk_sys::clock::Nanos;

/// A few dead entries are cheaper to keep than to look for.
const DEAD_ALLOWED: usize = 64;

/// Names one timer, for ever: a key of a timer that fired or was cancelled names nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimerKey {
    slot: usize,
    sequence: u64,
}

/// Ordered by deadline, then by age; `slot` never decides, for sequences differ.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    at: Nanos,
    sequence: u64,
    slot: usize,
}

struct Slot<H> {
    /// Of the last timer that was here.
    sequence: u64,
    /// `None`: free.
    handle: Option<H>,
}

pub(crate) struct Timers<H> {
    heap: BinaryHeap<Reverse<Entry>>,
    slots: Vec<Slot<H>>,
    free: Vec<usize>,
    sequence: u64,
}

impl<H> Timers<H> {
    pub(crate) fn new() -> Self {
        Self {
            heap: BinaryHeap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            sequence: 0,
        }
    }

    /// How many are to fire.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    #[inline]
    pub(crate) fn add(&mut self, at: Nanos, handle: H) -> TimerKey {
        self.sequence += 1;
        let sequence = self.sequence;
        let occupied = Slot {
            sequence,
            handle: Some(handle),
        };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot] = occupied;
                slot
            }
            None => {
                self.slots.push(occupied);
                self.slots.len() - 1
            }
        };
        self.heap.push(Reverse(Entry { at, sequence, slot }));
        TimerKey { slot, sequence }
    }

    #[inline]
    pub(crate) fn cancel(&mut self, key: TimerKey) -> Option<H> {
        let handle = self.take(key.slot, key.sequence)?;
        if self.heap.len() > 2 * self.len() + DEAD_ALLOWED {
            let slots = &self.slots;
            self.heap.retain(|Reverse(entry)| is_alive(slots, entry));
        }
        Some(handle)
    }

    /// The earliest deadline.
    #[inline]
    pub(crate) fn next(&mut self) -> Option<Nanos> {
        while let Some(Reverse(entry)) = self.heap.peek() {
            if is_alive(&self.slots, entry) {
                return Some(entry.at);
            }
            self.heap.pop();
        }
        None
    }

    /// Whether another timer follows the earliest within `span`. Of the dead it may say so, too.
    #[inline]
    pub(crate) fn crowded(&self, span: Nanos) -> bool {
        // The second in order is one of the first's two children.
        match self.heap.as_slice() {
            [Reverse(first), rest @ ..] => rest
                .iter()
                .take(2)
                .any(|Reverse(entry)| entry.at - first.at <= span),
            [] => false,
        }
    }

    /// The earliest timer, if its deadline is not after `now`.
    #[inline]
    pub(crate) fn pop_due(&mut self, now: Nanos) -> Option<H> {
        while let Some(Reverse(entry)) = self.heap.peek() {
            let &Entry { at, sequence, slot } = entry;
            if at > now {
                // Dead or alive: nothing behind it is due either.
                return None;
            }
            self.heap.pop();
            if let Some(handle) = self.take(slot, sequence) {
                return Some(handle);
            }
        }
        None
    }

    /// Every handle here.
    pub(crate) fn handles(&self) -> impl Iterator<Item = &H> {
        self.slots.iter().filter_map(|slot| slot.handle.as_ref())
    }

    /// Hands back all handles, earliest first.
    pub(crate) fn drain(&mut self, into: &mut Vec<H>) {
        while let Some(handle) = self.pop_due(Nanos::MAX) {
            into.push(handle);
        }
    }

    /// Empties a slot, if the timer there is the one meant.
    #[inline]
    fn take(&mut self, slot: usize, sequence: u64) -> Option<H> {
        let occupant = self
            .slots
            .get_mut(slot)
            .filter(|s| s.sequence == sequence)?;
        let handle = occupant.handle.take()?;
        self.free.push(slot);
        Some(handle)
    }
}

#[inline]
fn is_alive<H>(slots: &[Slot<H>], entry: &Entry) -> bool {
    slots
        .get(entry.slot)
        .is_some_and(|s| s.sequence == entry.sequence && s.handle.is_some())
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_is_crowded_where_two_are_near() {
        let mut timers = Timers::new();
        assert!(!timers.crowded(10));
        timers.add(100, ());
        assert!(!timers.crowded(10));
        timers.add(300, ());
        timers.add(200, ());
        assert!(!timers.crowded(99));
        assert!(timers.crowded(100));
    }

    #[derive(Clone, Debug)]
    enum Operation {
        Add(Nanos),
        /// The key given out so many additions ago, whatever became of it.
        Cancel(usize),
        FireUntil(Nanos),
        Next,
    }

    fn operation() -> impl Strategy<Value = Operation> {
        // Few deadlines, so that many are equal.
        prop_oneof![
            4 => (0..20u64).prop_map(Operation::Add),
            4 => (0..40usize).prop_map(Operation::Cancel),
            1 => (0..20u64).prop_map(Operation::FireUntil),
            1 => Just(Operation::Next),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn as_a_list_sorted_by_deadline_and_age(
            operations in prop::collection::vec(operation(), 0..400),
        ) {
            let mut timers = Timers::new();
            let mut keys = Vec::new();
            let mut model: Vec<(Nanos, usize)> = Vec::new();
            for operation in operations {
                match operation {
                    Operation::Add(at) => {
                        model.push((at, keys.len()));
                        keys.push(timers.add(at, keys.len()));
                    }
                    Operation::Cancel(ago) => {
                        let Some(id) = keys.len().checked_sub(ago + 1) else { continue };
                        let place = model.iter().position(|&(_, i)| i == id);
                        let expected = place.map(|place| model.remove(place).1);
                        prop_assert_eq!(timers.cancel(keys[id]), expected);
                        prop_assert_eq!(timers.cancel(keys[id]), None);
                    }
                    Operation::FireUntil(now) => {
                        model.sort_unstable();
                        let due = model.partition_point(|&(at, _)| at <= now);
                        for (_, id) in model.drain(..due) {
                            prop_assert_eq!(timers.pop_due(now), Some(id));
                        }
                        prop_assert_eq!(timers.pop_due(now), None);
                    }
                    Operation::Next => {
                        prop_assert_eq!(timers.next(), model.iter().map(|&(at, _)| at).min());
                    }
                }
                prop_assert_eq!(timers.len(), model.len());
                prop_assert!(timers.heap.len() <= 2 * timers.len() + DEAD_ALLOWED + 1);
            }
            model.sort_unstable();
            let mut left = Vec::new();
            timers.drain(&mut left);
            prop_assert_eq!(left, model.into_iter().map(|(_, id)| id).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_hundred_thousand_set_and_cancelled_take_no_room() {
        let mut timers = Timers::new();
        for i in 0..100_000u64 {
            let key = timers.add(i, ());
            assert_eq!(timers.cancel(key), Some(()));
        }
        assert_eq!(timers.len(), 0);
        assert!(timers.slots.len() == 1 && timers.heap.capacity() <= 4 * DEAD_ALLOWED);
    }

    #[test]
    fn a_hundred_thousand_at_once_cancelled_in_any_order_leave_the_rest_in_order() {
        let mut timers = Timers::new();
        let mut keys: HashMap<u64, _> = (0..100_000u64)
            .map(|i| (i, timers.add(i * 7919 % 100_003, i)))
            .collect();
        for i in (0..100_000).filter(|i| i % 10 != 0) {
            assert_eq!(keys.remove(&i).and_then(|key| timers.cancel(key)), Some(i));
        }
        assert_eq!(timers.len(), 10_000);
        assert!(timers.heap.len() <= 20_000 + DEAD_ALLOWED + 1);
        let mut left = Vec::new();
        timers.drain(&mut left);
        assert_eq!(left.len(), 10_000);
        assert!(left.is_sorted_by_key(|i| i * 7919 % 100_003));
    }

    #[test]
    fn a_slot_s_next_tenant_is_not_cancelled_by_the_last_one_s_key() {
        let mut timers = Timers::new();
        let first = timers.add(1, 'a');
        assert_eq!(timers.cancel(first), Some('a'));
        let second = timers.add(1, 'b');
        assert_eq!(first.slot, second.slot);
        assert_eq!(timers.cancel(first), None);
        assert_eq!(timers.pop_due(1), Some('b'));
        assert_eq!(timers.cancel(second), None);
    }

    #[test]
    fn deadlines_to_the_end_of_time() {
        let mut timers = Timers::new();
        timers.add(Nanos::MAX, "last");
        timers.add(0, "first");
        assert_eq!(timers.pop_due(0), Some("first"));
        assert_eq!(timers.pop_due(Nanos::MAX - 1), None);
        assert_eq!(timers.next(), Some(Nanos::MAX));
        assert_eq!(timers.pop_due(Nanos::MAX), Some("last"));
        assert_eq!(timers.next(), None);
    }
}
