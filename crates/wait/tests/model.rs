//! Random sequences of operations on a line of permits, against a model that is too simple to be wrong.

use std::cell::RefCell;
use std::rc::Rc;

use proptest::prelude::*;
use ropewalk_wait::{Permits, Ticket, Waiter};

/// A waiter that notes that it was woken.
#[derive(Clone)]
struct Noted {
    number: usize,
    thread: usize,
    /// It is the thread itself, and no task of it.
    blocks: bool,
    woken: Rc<RefCell<Vec<usize>>>,
    reachable: bool,
}

impl Waiter for Noted {
    fn wake(&self) -> bool {
        if self.reachable {
            self.woken.borrow_mut().push(self.number);
        }
        self.reachable
    }

    fn survives_fork(&self) -> bool {
        true
    }

    fn thread(&self) -> usize {
        self.thread
    }

    fn blocks(&self) -> bool {
        self.blocks
    }
}

#[derive(Clone, Debug)]
enum Deed {
    /// A newcomer who does not wait.
    Try,
    /// A newcomer who does, unless it is a thread's that blocks.
    Come {
        reachable: bool,
        thread: usize,
        blocks: bool,
    },
    /// One of those who were woken looks again.
    Look(usize),
    /// One of those who wait gives up.
    Leave(usize),
    Give,
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        2 => Just(Deed::Try),
        4 => (prop::bool::weighted(0.9), 0..3_usize, any::<bool>())
            .prop_map(|(reachable, thread, blocks)| Deed::Come { reachable, thread, blocks }),
        4 => any::<usize>().prop_map(Deed::Look),
        2 => any::<usize>().prop_map(Deed::Leave),
        4 => Just(Deed::Give),
    ]
}

struct Hall {
    permits: Permits<Noted>,
    /// Those who wait: their places and themselves.
    waiting: Vec<(Option<Ticket>, Noted)>,
    woken: Rc<RefCell<Vec<usize>>>,
    /// Permits that are with those who took them.
    taken: usize,
    came: usize,
}

impl Hall {
    /// Whether the waiter can look: it is no task of a thread that blocks here.
    fn can_look(&self, waiter: &Noted) -> bool {
        waiter.blocks || !self.is_blocked(waiter.thread)
    }

    fn is_blocked(&self, thread: usize) -> bool {
        self.waiting
            .iter()
            .any(|(_, waiter)| waiter.blocks && waiter.thread == thread)
    }

    fn call_all(&mut self) {
        while let Some(call) = self.permits.next_call() {
            if !call.waiter.wake() {
                if self.permits.leave(&call.ticket()) {
                    self.permits.give(1);
                }
                self.waiting
                    .retain(|(_, waiter)| waiter.number != call.waiter.number);
            }
        }
    }

    fn look(&mut self, index: usize) {
        let (place, waiter) = &mut self.waiting[index];
        if self.permits.poll(place, waiter) {
            self.taken += 1;
            self.waiting.remove(index);
        }
        self.call_all();
    }

    fn act(&mut self, deed: &Deed, total: usize) {
        match *deed {
            Deed::Try => self.taken += usize::from(self.permits.take()),
            Deed::Come { thread, .. } if self.is_blocked(thread) => {}
            Deed::Come {
                reachable,
                thread,
                blocks,
            } => {
                self.came += 1;
                let waiter = Noted {
                    number: self.came,
                    thread,
                    blocks,
                    woken: Rc::clone(&self.woken),
                    reachable,
                };
                self.waiting.push((None, waiter));
                self.look(self.waiting.len() - 1);
            }
            Deed::Look(which) => {
                let woken = std::mem::take(&mut *self.woken.borrow_mut());
                let awake: Vec<_> = self
                    .waiting
                    .iter()
                    .enumerate()
                    .filter(|(_, (_, waiter))| {
                        woken.contains(&waiter.number) && self.can_look(waiter)
                    })
                    .map(|(index, _)| index)
                    .collect();
                let Some(&chosen) = awake.get(which % awake.len().max(1)) else {
                    self.woken.borrow_mut().extend(woken);
                    return;
                };
                let number = self.waiting[chosen].1.number;
                self.woken
                    .borrow_mut()
                    .extend(woken.into_iter().filter(|other| *other != number));
                self.look(chosen);
            }
            Deed::Leave(which) if !self.waiting.is_empty() => {
                let index = which % self.waiting.len();
                if !self.can_look(&self.waiting[index].1) {
                    return;
                }
                if let (Some(ticket), _) = self.waiting.remove(index)
                    && self.permits.leave(&ticket)
                {
                    self.permits.give(1);
                }
                self.call_all();
            }
            Deed::Leave(_) => {}
            Deed::Give if self.taken > 0 => {
                self.taken -= 1;
                self.permits.give(1);
                self.call_all();
            }
            Deed::Give => {}
        }
        assert!(self.permits.free() + self.taken <= total);
    }
}

proptest! {
    /// Whatever happens, permits are neither lost nor made, and one that nobody has taken is known to somebody who waits and
    /// can look: not only to tasks of a thread that blocks in the same line.
    #[test]
    fn permits_are_conserved_and_offered(total in 0_usize..4, deeds in prop::collection::vec(deed(), 1..200)) {
        let mut hall = Hall {
            permits: Permits::new(total),
            waiting: Vec::new(),
            woken: Rc::default(),
            taken: 0,
            came: 0,
        };
        for deed in &deeds {
            hall.act(deed, total);
            let woken = hall.woken.borrow();
            let (mut awake, mut idle) = (0, 0);
            for (_, waiter) in hall.waiting.iter().filter(|(_, waiter)| hall.can_look(waiter)) {
                if woken.contains(&waiter.number) { awake += 1 } else { idle += 1 }
            }
            prop_assert!(hall.permits.free() == 0 || idle == 0 || awake >= hall.permits.free());
            prop_assert!(hall.taken == total || hall.waiting.is_empty() || awake > 0);
        }
        // Everybody who was woken looks, until nobody is woken any more; then every permit is back.
        for _ in 0..deeds.len() * 2 {
            hall.act(&Deed::Look(0), total);
            hall.act(&Deed::Give, total);
        }
        prop_assert!(hall.waiting.is_empty() || total == 0);
        prop_assert_eq!(hall.permits.free() + hall.taken, total);
    }
}

/// The order of coming is the order of being called, and one who was woken for nothing keeps its place.
#[test]
fn one_who_was_woken_for_nothing_is_served_next() {
    let woken = Rc::default();
    let waiter = |number| Noted {
        number,
        thread: 0,
        blocks: false,
        woken: Rc::clone(&woken),
        reachable: true,
    };
    let mut permits = Permits::new(0);
    let (first, second) = (waiter(1), waiter(2));
    let (mut first_place, mut second_place) = (None, None);
    assert!(!permits.poll(&mut first_place, &first));
    assert!(!permits.poll(&mut second_place, &second));
    permits.give(1);
    assert_eq!(permits.next_call().map(|call| call.waiter.number), Some(1));
    assert!(permits.take(), "a newcomer is quicker");
    assert!(!permits.poll(&mut first_place, &first));
    permits.give(1);
    assert_eq!(permits.next_call().map(|call| call.waiter.number), Some(1));
    assert!(!permits.take(), "it is the first one's now");
    assert!(permits.poll(&mut first_place, &first));
    assert!(permits.next_call().is_none());
}

/// A thread that blocks where tasks of it wait is called before them: they cannot go on before it does.
#[test]
fn a_thread_comes_before_its_tasks() {
    let woken = Rc::default();
    let waiter = |number, blocks| Noted {
        number,
        thread: 7,
        blocks,
        woken: Rc::clone(&woken),
        reachable: true,
    };
    let mut permits = Permits::new(0);
    let (task, thread) = (waiter(1, false), waiter(2, true));
    let (mut place, mut threads_place) = (None, None);
    assert!(!permits.poll(&mut place, &task));
    // In line behind the task, but called first.
    assert!(!permits.poll(&mut threads_place, &thread));
    permits.give(1);
    assert_eq!(permits.next_call().map(|call| call.waiter.number), Some(2));
    assert!(permits.poll(&mut threads_place, &thread));
    permits.give(1);
    assert_eq!(permits.next_call().map(|call| call.waiter.number), Some(1));
    // Granted to the task, and taken back.
    assert!(permits.take());
    assert!(!permits.poll(&mut place, &task));
    permits.give(1);
    assert_eq!(permits.next_call().map(|call| call.waiter.number), Some(1));
    assert!(!permits.take());
    assert!(permits.poll(&mut threads_place, &thread));
    assert!(!permits.poll(&mut place, &task), "it is the thread's now");
    permits.give(1);
    assert_eq!(permits.next_call().map(|call| call.waiter.number), Some(1));
    assert!(permits.poll(&mut place, &task));
    assert!(permits.next_call().is_none());
}
