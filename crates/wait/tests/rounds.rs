//! Random sequences of what may happen at a barrier and at an event, checked against models that say only what the
//! parties are promised.

use proptest::prelude::*;
use ropewalk_wait::barrier::{Barrier, Outcome, Party};
use ropewalk_wait::{Event, Line, Ticket, Waiter};

#[derive(Clone, Debug, PartialEq)]
struct Somebody(usize);

impl Waiter for Somebody {
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

#[derive(Clone, Debug)]
enum Step {
    Come,
    Look(usize),
    Expire(usize),
    GiveUp(usize),
    Withdraw(usize),
    Tripped,
    Failed,
    Abort,
    Reset,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => Just(Step::Come),
        3 => any::<usize>().prop_map(Step::Look),
        1 => any::<usize>().prop_map(Step::Expire),
        1 => any::<usize>().prop_map(Step::GiveUp),
        1 => any::<usize>().prop_map(Step::Withdraw),
        4 => Just(Step::Tripped),
        1 => Just(Step::Failed),
        1 => Just(Step::Abort),
        1 => Just(Step::Reset),
    ]
}

/// A party that has come and has not been told what became of it.
struct Waiting {
    party: Party,
    name: usize,
    woken: bool,
}

proptest! {
    /// Whoever has an answer has been woken to fetch it; nobody who was not woken would get one. So a party
    /// that sleeps until it is called never sleeps too long.
    #[test]
    fn whoever_has_an_answer_has_been_called(parties in 1_usize..4, steps in prop::collection::vec(step(), 1..60)) {
        let mut barrier = Barrier::new(parties);
        let mut waiting: Vec<Waiting> = Vec::new();
        let mut trips = false;
        for (name, step) in steps.into_iter().enumerate() {
            let mut called = Vec::new();
            match step {
                Step::Come => {
                    let mut party = Party::default();
                    match barrier.poll(&mut party, || Somebody(name)) {
                        Outcome::Pending => waiting.push(Waiting { party, name, woken: false }),
                        Outcome::Trips(number) => {
                            prop_assert!(!trips && number == parties - 1);
                            trips = true;
                        }
                        Outcome::Passed(_) => prop_assert!(false, "passed alone"),
                        Outcome::Broken => prop_assert!(barrier.is_broken()),
                    }
                }
                Step::Look(which) if !waiting.is_empty() => {
                    let which = which % waiting.len();
                    let mut one = waiting.swap_remove(which);
                    let name = one.name;
                    match barrier.poll(&mut one.party, || Somebody(name)) {
                        Outcome::Pending => waiting.push(Waiting { woken: false, ..one }),
                        Outcome::Trips(number) => {
                            prop_assert!(one.woken && !trips && number == parties - 1);
                            trips = true;
                        }
                        Outcome::Passed(_) | Outcome::Broken => prop_assert!(one.woken),
                    }
                }
                Step::Expire(which) if !waiting.is_empty() => {
                    let which = which % waiting.len();
                    let (outcome, calls) = barrier.expired(&mut waiting[which].party);
                    called = calls;
                    if outcome == Outcome::Pending {
                        prop_assert!(trips);
                    } else {
                        waiting.swap_remove(which);
                    }
                }
                Step::GiveUp(which) if !waiting.is_empty() => {
                    let mut one = waiting.swap_remove(which % waiting.len());
                    called = barrier.give_up(&mut one.party);
                }
                Step::Withdraw(which) if !waiting.is_empty() => {
                    let mut one = waiting.swap_remove(which % waiting.len());
                    barrier.step_back(&mut one.party);
                }
                Step::Tripped if trips => {
                    called = barrier.tripped();
                    trips = false;
                }
                Step::Failed if trips => {
                    called = barrier.failed();
                    trips = false;
                }
                Step::Abort => called = barrier.abort(),
                Step::Reset => called = barrier.reset(),
                _ => {}
            }
            for call in called {
                for one in &mut waiting {
                    one.woken |= one.name == call.waiter.0;
                }
            }
            prop_assert!(barrier.waiting() <= parties);
            prop_assert_eq!(barrier.line().iter().count(), waiting.len());
        }
        // Nobody sleeps who should not: a broken barrier has called everybody.
        if barrier.is_broken() {
            prop_assert!(waiting.iter().all(|one| one.woken));
        }
    }

    /// An event lets go exactly those who stood in line when it was set.
    #[test]
    fn an_event_lets_go_whoever_is_there(steps in prop::collection::vec(0_u8..4, 1..80)) {
        let (event, mut line) = (Event::new(), Line::<Somebody>::new());
        let mut waiting: Vec<(Option<Ticket>, usize, bool)> = Vec::new();
        let mut up = false;
        for (name, step) in steps.into_iter().enumerate() {
            match step {
                0 => {
                    let called: Vec<_> = event.set(&mut line).into_iter().map(|call| call.waiter.0).collect();
                    let there: Vec<_> = waiting.iter().filter(|one| !one.2).map(|one| one.1).collect();
                    prop_assert_eq!(called, there);
                    waiting.iter_mut().for_each(|one| one.2 = true);
                    up = true;
                }
                1 => {
                    event.clear();
                    up = false;
                }
                2 => {
                    let mut place = None;
                    let seen = event.poll(&mut line, &mut place, &Somebody(name));
                    prop_assert_eq!(seen, up);
                    if !seen {
                        waiting.push((place, name, false));
                    }
                }
                _ if waiting.is_empty() => {}
                _ => {
                    let (mut place, name, let_go) = waiting.remove(name % waiting.len());
                    let seen = event.poll(&mut line, &mut place, &Somebody(name));
                    prop_assert_eq!(seen, let_go);
                    if let Some(place) = place {
                        prop_assert!(!Event::leave(&mut line, &place));
                    }
                }
            }
            prop_assert_eq!(event.is_set(), up);
        }
    }
}
