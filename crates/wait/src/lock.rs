//! A lock whose uncontended half is one atomic word.
//!
//! While nobody waits, taking and letting go are one compare-and-swap each, without the guard. As soon as somebody
//! wants to wait, the word becomes [`LINE`], which makes every shortcut fail, and the truth moves into the
//! [`Permits`] (one permit, free or not), which are guarded. When the last has left the line the truth moves back.
//!
//! Only the guarded half ever writes `LINE` or leaves it, so those who hold the guard see a word that others change
//! only between `FREE` and `HELD`, and not at all while it is `LINE`.

use crate::line::{Call, Ticket, Waiter};
use crate::permits::Permits;
use crate::sync::atomic::{AtomicU32, Ordering};

/// Nobody holds the lock, nobody waits.
const FREE: u32 = 0;
/// Somebody holds it, nobody waits.
const HELD: u32 = 1;
/// There is a line: the permits say whether the lock is held.
const LINE: u32 = 2;

/// The lock's word. The line that belongs to it is the owner's to keep, behind a guard.
#[derive(Debug, Default)]
pub struct Lock {
    word: AtomicU32,
}

impl Lock {
    /// A lock that is free.
    #[must_use]
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self {
            word: AtomicU32::new(FREE),
        }
    }

    /// A lock that is free.
    #[must_use]
    #[cfg(loom)]
    pub fn new() -> Self {
        Self {
            word: AtomicU32::new(FREE),
        }
    }

    /// Takes the lock if it is free and nobody waits. The shortcut: if it fails, the guarded half decides.
    #[inline]
    pub fn take_quickly(&self) -> bool {
        // Acquire: what the last holder did is seen. Pairs with the releases below, and with the guard.
        self.word
            .compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    /// Lets go if nobody waits. The shortcut: if it fails, the guarded half decides.
    #[inline]
    pub fn free_quickly(&self) -> bool {
        self.word
            .compare_exchange(HELD, FREE, Ordering::Release, Ordering::Relaxed)
            .is_ok()
    }

    /// Whether somebody holds the lock; `None` if only the guarded half knows.
    #[inline]
    pub fn is_held_quickly(&self) -> Option<bool> {
        match self.word.load(Ordering::Relaxed) {
            LINE => None,
            word => Some(word == HELD),
        }
    }

    /// Whether somebody holds the lock. Guarded.
    pub fn is_held<W>(&self, permits: &Permits<W>) -> bool {
        self.is_held_quickly().unwrap_or(permits.free() == 0)
    }

    /// Takes the lock if it is free and owed to nobody. Guarded.
    pub fn take<W: Waiter>(&self, permits: &mut Permits<W>) -> bool {
        if self.take_quickly() {
            return true;
        }
        if self.word.load(Ordering::Relaxed) != LINE {
            return false;
        }
        let taken = permits.take();
        self.settle(permits);
        taken
    }

    /// Tries for a waiter, or gives it a place in line. True: it has the lock. Guarded; [`next_call`](Self::next_call)
    /// follows.
    pub fn poll<W: Waiter>(
        &self,
        permits: &mut Permits<W>,
        place: &mut Option<Ticket>,
        waiter: &W,
    ) -> bool {
        // A loop, for the holder may let go, and others take it, by the shortcut in between.
        loop {
            if self.take_quickly() {
                // Without a line there is no place either: what is here was lost in a fork.
                *place = None;
                return true;
            }
            // Acquire: if the permit is found free after all, what its last holder did is seen.
            let line = self
                .word
                .compare_exchange(HELD, LINE, Ordering::Acquire, Ordering::Acquire);
            match line {
                Ok(_) => {
                    permits.drain();
                    break;
                }
                Err(LINE) => break,
                Err(_) => {}
            }
        }
        let taken = permits.poll(place, waiter);
        self.settle(permits);
        taken
    }

    /// Gives up a place. True: the lock had been granted, and is the caller's, to use or to let go. Guarded;
    /// [`next_call`](Self::next_call) follows.
    #[must_use]
    pub fn leave<W: Waiter>(&self, permits: &mut Permits<W>, ticket: &Ticket) -> bool {
        let granted = permits.leave(ticket);
        self.settle(permits);
        granted
    }

    /// Lets go. False: nobody held the lock. Guarded; [`next_call`](Self::next_call) follows.
    #[must_use]
    pub fn free<W: Waiter>(&self, permits: &mut Permits<W>) -> bool {
        if self.free_quickly() {
            return true;
        }
        if self.word.load(Ordering::Relaxed) != LINE || permits.free() > 0 {
            return false;
        }
        permits.give(1);
        self.settle(permits);
        true
    }

    /// Lets go if there is a line and nobody in it has to be called: somebody is on the way already, and the holder
    /// that comes and goes meanwhile does not wake another each time. False: nothing was done. Guarded.
    #[must_use]
    pub fn free_unheard<W: Waiter>(&self, permits: &mut Permits<W>) -> bool {
        self.word.load(Ordering::Relaxed) == LINE
            && permits.free() == 0
            && !permits.line().owes_the_first()
            && permits.is_answered()
            && self.free(permits)
    }

    /// Whom to wake next, if anybody. Guarded.
    #[inline]
    pub fn next_call<W: Waiter>(&self, permits: &mut Permits<W>) -> Option<Call<W>> {
        permits.next_call()
    }

    /// Forgets holder and line: the lock of a thread that a fork left behind. Guarded.
    pub fn reset<W>(&self, permits: &mut Permits<W>) -> Permits<W> {
        self.word.store(FREE, Ordering::Release);
        std::mem::replace(permits, Permits::new(0))
    }

    /// Moves the truth back into the word when the line is empty.
    fn settle<W>(&self, permits: &mut Permits<W>) {
        if !permits.line().is_empty() || self.word.load(Ordering::Relaxed) != LINE {
            return;
        }
        // Release: whoever takes the lock by the shortcut sees what was done by those who held it through the line.
        let word = if permits.drain() > 0 { FREE } else { HELD };
        self.word.store(word, Ordering::Release);
    }
}
