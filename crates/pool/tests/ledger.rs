//! The ledger's promises, one by one and under random sequences.

use proptest::prelude::*;
use ropewalk_pool::{Arrival, Counts, Ledger, Next, Step};

#[test]
fn a_worker_is_started_for_each_job_that_nobody_is_there_for() {
    let mut ledger: Ledger<u32, u32> = Ledger::new(2);
    assert_eq!(ledger.submit(1), Step::Start);
    assert_eq!(ledger.submit(2), Step::Start);
    assert_eq!(ledger.submit(3), Step::Nothing, "the limit is two");
    assert_eq!(ledger.counts().workers, 2);
}

#[test]
fn a_sleeper_is_woken_rather_than_another_started() {
    let mut ledger: Ledger<u32, &str> = Ledger::new(8);
    assert_eq!(ledger.submit(1), Step::Start);
    assert_eq!(ledger.next(Arrival::Started, &"a").0, Next::Job(1));
    assert_eq!(ledger.next(Arrival::Busy, &"a").0, Next::Sleep);
    assert_eq!(ledger.submit(2), Step::Wake("a"));
    assert_eq!(ledger.submit(3), Step::Start, "that one is for job 2");
}

#[test]
fn one_wake_up_is_in_flight_and_the_woken_wakes_the_next() {
    let mut ledger: Ledger<u32, &str> = Ledger::new(3);
    for name in ["a", "b", "c"] {
        assert_eq!(ledger.submit(0), Step::Start);
        assert_eq!(ledger.next(Arrival::Started, &name).0, Next::Job(0));
    }
    for name in ["a", "b", "c"] {
        assert_eq!(ledger.next(Arrival::Busy, &name).0, Next::Sleep);
    }
    assert_eq!(ledger.submit(1), Step::Wake("c"));
    assert_eq!(ledger.submit(2), Step::Nothing);
    assert_eq!(ledger.submit(3), Step::Nothing);
    assert_eq!(
        ledger.next(Arrival::Woken, &"c"),
        (Next::Job(1), Step::Wake("b"))
    );
    assert_eq!(
        ledger.next(Arrival::Busy, &"c"),
        (Next::Job(2), Step::Nothing),
        "b is on its way"
    );
    assert_eq!(
        ledger.next(Arrival::Woken, &"b"),
        (Next::Job(3), Step::Nothing),
        "nothing is left for a"
    );
}

#[test]
fn a_closed_ledger_ends_its_workers_when_nothing_is_left() {
    let mut ledger: Ledger<u32, &str> = Ledger::new(1);
    assert_eq!(ledger.submit(1), Step::Start);
    assert!(ledger.close().is_empty(), "nobody sleeps");
    assert_eq!(ledger.next(Arrival::Started, &"a").0, Next::Job(1));
    assert_eq!(ledger.next(Arrival::Busy, &"a").0, Next::End);
    assert_eq!(
        ledger.counts(),
        Counts {
            done: 1,
            ..Counts::default()
        }
    );
}

#[test]
fn a_worker_that_could_not_be_started_is_not_counted() {
    let mut ledger: Ledger<u32, &str> = Ledger::new(1);
    assert_eq!(ledger.submit(1), Step::Start);
    ledger.start_failed();
    assert_eq!(ledger.counts().workers, 0);
    assert_eq!(ledger.submit(2), Step::Start);
    assert_eq!(ledger.next(Arrival::Started, &"a").0, Next::Job(1));
}

#[test]
fn a_child_s_ledger_begins_anew() {
    let mut ledger: Ledger<u32, &str> = Ledger::new(1);
    assert_eq!(ledger.submit(1), Step::Start);
    assert_eq!(ledger.submit(2), Step::Nothing);
    let (jobs, sleepers) = ledger.forget_workers();
    assert_eq!((jobs.len(), sleepers.len()), (2, 0));
    assert_eq!(ledger.submit(3), Step::Start);
    assert_eq!(ledger.next(Arrival::Started, &"a").0, Next::Job(3));
}

#[derive(Clone, Debug)]
enum Move {
    Submit,
    /// A worker that can move makes its next move.
    Advance(usize),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        Just(Move::Submit),
        (0usize..8).prop_map(Move::Advance),
        (0usize..8).prop_map(Move::Advance),
    ];
    prop::collection::vec(one, 0..200)
}

/// What a worker of the test is about to say when it asks.
#[derive(Clone, Copy, PartialEq)]
enum State {
    Moves(Arrival),
    Sleeps,
    Ended,
}

proptest! {
    /// Whatever the order: a job that waits while a worker sleeps has somebody coming for it, jobs are begun in
    /// their order, and in the end all are done and everybody has gone.
    #[test]
    fn no_job_waits_beside_a_sleeper(moves in moves(), most in 1usize..4) {
        let mut ledger: Ledger<u32, usize> = Ledger::new(most);
        let mut workers: Vec<State> = Vec::new();
        let (mut submitted, mut begun) = (0u32, Vec::new());
        let act = |step: Step<usize>, workers: &mut Vec<State>| match step {
            Step::Nothing => {}
            Step::Start => workers.push(State::Moves(Arrival::Started)),
            Step::Wake(who) => {
                assert!(workers[who] == State::Sleeps);
                workers[who] = State::Moves(Arrival::Woken);
            }
        };
        let mut advance = |ledger: &mut Ledger<u32, usize>, workers: &mut Vec<State>, who: usize| {
            let Some(State::Moves(arrival)) = workers.get(who).copied() else { return false };
            let (next, step) = ledger.next(arrival, &who);
            workers[who] = match next {
                Next::Job(job) => {
                    begun.push(job);
                    State::Moves(Arrival::Busy)
                }
                Next::Sleep => State::Sleeps,
                Next::End => State::Ended,
            };
            act(step, workers);
            true
        };
        for step in moves {
            match step {
                Move::Submit => {
                    let step = ledger.submit(submitted);
                    submitted += 1;
                    act(step, &mut workers);
                }
                Move::Advance(who) => {
                    advance(&mut ledger, &mut workers, who);
                }
            }
            prop_assert!(workers.len() <= most);
            let coming = workers.iter().any(|state| matches!(state, State::Moves(_)));
            prop_assert!(ledger.counts().queued == 0 || coming);
        }
        for who in ledger.close() {
            workers[who] = State::Moves(Arrival::Woken);
        }
        while (0..workers.len()).any(|who| advance(&mut ledger, &mut workers, who)) {}
        prop_assert!(workers.iter().all(|state| *state == State::Ended));
        prop_assert_eq!(begun, (0..submitted).collect::<Vec<_>>());
        prop_assert_eq!(ledger.counts(), Counts { done: submitted.into(), ..Counts::default() });
    }
}
