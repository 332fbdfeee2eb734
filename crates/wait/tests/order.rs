//! The order of a line under random sequences: whoever goes back, goes back to where it stood.

use proptest::prelude::*;
use ropewalk_wait::{Left, Line, Ticket, Waiter};

#[derive(Clone, Debug, PartialEq)]
struct Number(usize);

impl Waiter for Number {
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
enum Deed {
    Join,
    Notify,
    Grant,
    /// One of those in line, or granted, goes back.
    PutBack(usize),
    Leave(usize),
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        3 => Just(Deed::Join),
        2 => Just(Deed::Notify),
        3 => Just(Deed::Grant),
        4 => any::<usize>().prop_map(Deed::PutBack),
        2 => any::<usize>().prop_map(Deed::Leave),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Waiting,
    Notified,
    Granted,
}

proptest! {
    #[test]
    fn places_are_kept(deeds in prop::collection::vec(deed(), 1..200)) {
        let mut line = Line::new();
        // In the order of coming, whatever has happened to them since.
        let mut model: Vec<(usize, State, Ticket)> = Vec::new();
        let mut came = 0;
        for deed in &deeds {
            match *deed {
                Deed::Join => {
                    let ticket = line.join(Number(came));
                    model.push((came, State::Waiting, ticket));
                    came += 1;
                }
                Deed::Notify => {
                    let expected = model.iter_mut().find(|one| one.1 == State::Waiting);
                    let called = line.notify().map(|call| call.waiter.0);
                    prop_assert_eq!(called, expected.as_ref().map(|one| one.0));
                    if let Some(one) = expected {
                        one.1 = State::Notified;
                    }
                }
                Deed::Grant => {
                    let expected = model.iter_mut().find(|one| one.1 != State::Granted);
                    let called = line.grant().map(|call| call.waiter.0);
                    prop_assert_eq!(called, expected.as_ref().map(|one| one.0));
                    if let Some(one) = expected {
                        one.1 = State::Granted;
                    }
                }
                Deed::PutBack(which) if !model.is_empty() => {
                    let index = which % model.len();
                    line.put_back(&model[index].2);
                    model[index].1 = State::Waiting;
                }
                Deed::Leave(which) if !model.is_empty() => {
                    let (_, state, ticket) = model.remove(which % model.len());
                    let expected = match state {
                        State::Waiting => Left::Waiting,
                        State::Notified => Left::Notified,
                        State::Granted => Left::Granted,
                    };
                    prop_assert_eq!(line.leave(&ticket), expected);
                    prop_assert!(!line.knows(&ticket));
                }
                Deed::PutBack(_) | Deed::Leave(_) => {}
            }
            let in_line: Vec<_> = model.iter().filter(|one| one.1 != State::Granted).map(|one| one.0).collect();
            let found: Vec<_> = line.iter().take(line.len()).map(|waiter| waiter.0).collect();
            prop_assert_eq!(found, in_line);
            prop_assert_eq!(line.is_empty(), model.is_empty());
        }
    }
}
