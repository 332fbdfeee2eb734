//! A flag that can be waited for.
//!
//! Raising it lets go everybody who waits at that moment, also those who only get to run when it has been lowered
//! again: they are granted, not notified. So the flag is raised and the line let go under one guard; it is read,
//! and lowered, without any.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::line::{Call, Left, Line, Ticket, Waiter};

/// The flag. Those who wait for it stand in a line beside it, which its owner guards.
#[derive(Debug, Default)]
pub struct Event {
    raised: AtomicBool,
}

impl Event {
    /// A flag that is down.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            raised: AtomicBool::new(false),
        }
    }

    /// Whether the flag is up.
    #[inline]
    pub fn is_set(&self) -> bool {
        // Acquire: what was done before the flag was raised is seen.
        self.raised.load(Ordering::Acquire)
    }

    /// Lowers the flag.
    #[inline]
    pub fn clear(&self) {
        self.put(false);
    }

    /// Raises or lowers the flag, and lets nobody go.
    #[inline]
    pub fn put(&self, raised: bool) {
        // Not a plain store: who sees the flag raised later must also see what came before an earlier raising.
        self.raised.swap(raised, Ordering::AcqRel);
    }

    /// Raises the flag, and says whom to wake. Guarded.
    #[inline]
    pub fn set<W: Waiter>(&self, line: &mut Line<W>) -> Vec<Call<W>> {
        // Also when it is up: what was done before this call is to be seen, too.
        self.put(true);
        if line.is_empty() {
            return Vec::new();
        }
        std::iter::from_fn(|| line.grant()).collect()
    }

    /// Looks for a waiter, or gives it a place in line. True: it need not wait, and has no place any more. Guarded.
    pub fn poll<W: Waiter>(
        &self,
        line: &mut Line<W>,
        place: &mut Option<Ticket>,
        waiter: &W,
    ) -> bool {
        let Some(ticket) = place.as_ref().filter(|ticket| line.knows(ticket)) else {
            let raised = self.is_set();
            *place = (!raised).then(|| line.join(waiter.clone()));
            return raised;
        };
        let granted = line.is_granted(ticket);
        if granted {
            line.leave(ticket);
            *place = None;
        }
        granted
    }

    /// Gives up a place. True: the flag was raised while the waiter had it. Guarded.
    pub fn leave<W: Waiter>(line: &mut Line<W>, ticket: &Ticket) -> bool {
        line.leave(ticket) == Left::Granted
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    struct Nobody(u32);

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

    #[test]
    fn who_waits_when_it_is_raised_need_not_see_it_raised() {
        let (event, mut line) = (Event::new(), Line::new());
        let mut places = [None, None];
        for (number, place) in (0..).zip(&mut places) {
            assert!(!event.poll(&mut line, place, &Nobody(number)));
        }
        let called: Vec<_> = event
            .set(&mut line)
            .into_iter()
            .map(|call| call.waiter)
            .collect();
        assert_eq!(called, [Nobody(0), Nobody(1)]);
        event.clear();
        let mut late = None;
        assert!(!event.poll(&mut line, &mut late, &Nobody(2)));
        for place in &mut places {
            assert!(event.poll(&mut line, place, &Nobody(9)));
            assert!(place.is_none());
        }
        assert!(!event.poll(&mut line, &mut late, &Nobody(2)));
        assert_eq!(line.len(), 1);
    }

    #[test]
    fn who_leaves_learns_whether_it_was_raised() {
        let (event, mut line) = (Event::new(), Line::new());
        let mut place = None;
        assert!(!event.poll(&mut line, &mut place, &Nobody(0)));
        let ticket = place.take();
        assert!(ticket.is_some_and(|ticket| !Event::leave(&mut line, &ticket)));
        assert!(!event.poll(&mut line, &mut place, &Nobody(0)));
        assert_eq!(event.set(&mut line).len(), 1);
        assert!(place.is_some_and(|ticket| Event::leave(&mut line, &ticket)));
        assert!(line.is_empty());
        assert!(event.set(&mut line).is_empty());
    }

    #[test]
    fn a_raised_flag_keeps_nobody() {
        let (event, mut line) = (Event::new(), Line::new());
        assert!(event.set(&mut line).is_empty() && event.is_set());
        let mut place = None;
        assert!(event.poll(&mut line, &mut place, &Nobody(0)));
        assert!(place.is_none() && line.is_empty());
        event.clear();
        assert!(!event.is_set());
    }
}
