//! A place where a number of parties wait for one another, again and again.
//!
//! Each time is a *round*. A party that has come is told how its round ended by the round itself, which it holds; so
//! the next round begins the moment that one has ended, while the parties of the last are still waking up.
//!
//! ```text
//!             the last party comes            its action is done
//!   filling ──────────────────────► tripping ────────────────────► filling, a new round
//!      │                               │
//!      │ abort, a party gives up       │ the action failed, or
//!      ▼                               ▼ abort came meanwhile
//!    broken ◄────────────────────────────
//!      │ reset
//!      ▼
//!   filling, a new round
//! ```
//!
//! While the barrier trips, the last party runs whatever its user wants to be run just then. Nothing can go wrong for
//! the round any more but by that: so who comes meanwhile stands outside until it is done, who gives up only leaves,
//! and what else is asked of the barrier is put off.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::line::{Call, Line, Ticket, Waiter};

/// How a round stands.
#[derive(Debug)]
struct Round(AtomicU8);

const OPEN: u8 = 0;
const PASSED: u8 = 1;
const BROKEN: u8 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Filling,
    Tripping,
    Broken,
}

/// What to do when the barrier has tripped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Later {
    Nothing,
    Abort,
    Reset,
}

/// One party's way through one round.
#[derive(Debug, Default)]
pub struct Party {
    /// Its round and its number in it; none while it stands outside.
    joined: Option<(Arc<Round>, usize)>,
    place: Option<Ticket>,
}

/// What has become of a party.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It waits.
    Pending,
    /// It is the last one, and everybody waits for its [`Barrier::tripped`].
    Trips(usize),
    /// All have come. Its number is how many were there before it.
    Passed(usize),
    /// The barrier is broken, or was while the party waited.
    Broken,
}

/// The barrier's state, guarded by whoever owns it.
pub struct Barrier<W> {
    parties: usize,
    /// Parties of the round that are here.
    count: usize,
    state: State,
    later: Later,
    round: Arc<Round>,
    line: Line<W>,
}

impl<W> Barrier<W> {
    /// A barrier for so many parties.
    #[must_use]
    pub fn new(parties: usize) -> Self {
        Self {
            parties,
            count: 0,
            state: State::Filling,
            later: Later::Nothing,
            round: Arc::new(Round(AtomicU8::new(OPEN))),
            line: Line::new(),
        }
    }

    /// How many parties a round has.
    pub fn parties(&self) -> usize {
        self.parties
    }

    /// How many have come. None while the barrier is broken.
    pub fn waiting(&self) -> usize {
        match self.state {
            State::Broken => 0,
            State::Filling | State::Tripping => self.count,
        }
    }

    /// Whether every wait fails.
    pub fn is_broken(&self) -> bool {
        self.state == State::Broken
    }

    /// Whether the next one to come is the last.
    pub fn lacks_one(&self) -> bool {
        self.state == State::Filling && self.count + 1 == self.parties
    }

    /// Those who wait, whichever side of the entrance.
    pub fn line(&self) -> &Line<W> {
        &self.line
    }

    /// The same, to take away who cannot be woken any more.
    pub fn line_mut(&mut self) -> &mut Line<W> {
        &mut self.line
    }
}

impl<W: Waiter> Barrier<W> {
    /// Lets a party come, or looks what has become of it. `waiter` is asked for only if it has to wait.
    pub fn poll(&mut self, party: &mut Party, waiter: impl FnOnce() -> W) -> Outcome {
        if let Some((round, number)) = &party.joined {
            match round.0.load(Ordering::Relaxed) {
                PASSED => return self.ended(party, Outcome::Passed(*number)),
                BROKEN => return self.ended(party, Outcome::Broken),
                _ => {}
            }
        } else {
            match self.state {
                State::Tripping => {}
                State::Broken => return self.ended(party, Outcome::Broken),
                State::Filling => {
                    let number = self.count;
                    self.count += 1;
                    if self.count == self.parties {
                        self.state = State::Tripping;
                        return self.ended(party, Outcome::Trips(number));
                    }
                    party.joined = Some((Arc::clone(&self.round), number));
                }
            }
        }
        // A granted place is good for one call; whoever has to wait on needs one that can be called.
        let stands = party
            .place
            .as_ref()
            .is_some_and(|place| self.line.knows(place) && !self.line.is_granted(place));
        if !stands {
            self.free(party);
            party.place = Some(self.line.join(waiter()));
        }
        Outcome::Pending
    }

    /// The last party has done what was to be done: everybody passes. Says whom to wake.
    pub fn tripped(&mut self) -> Vec<Call<W>> {
        self.next_round(PASSED);
        self.state = State::Filling;
        self.catch_up()
    }

    /// The last party could not do what was to be done. Says whom to wake.
    pub fn failed(&mut self) -> Vec<Call<W>> {
        self.next_round(BROKEN);
        self.state = State::Broken;
        self.catch_up()
    }

    /// Breaks the barrier: all who wait, and all who will come. Says whom to wake.
    pub fn abort(&mut self) -> Vec<Call<W>> {
        if self.state == State::Tripping {
            self.later = Later::Abort;
            return Vec::new();
        }
        self.next_round(BROKEN);
        self.state = State::Broken;
        self.everybody()
    }

    /// Mends the barrier; the round is broken for those who wait. Says whom to wake.
    pub fn reset(&mut self) -> Vec<Call<W>> {
        if self.state == State::Tripping {
            self.later = Later::Reset;
            return Vec::new();
        }
        self.next_round(BROKEN);
        self.state = State::Filling;
        self.everybody()
    }

    /// The party's time is over. [`Outcome::Pending`]: it has to wait on, for what has begun will end.
    pub fn expired(&mut self, party: &mut Party) -> (Outcome, Vec<Call<W>>) {
        if let Some((round, number)) = &party.joined {
            match round.0.load(Ordering::Relaxed) {
                PASSED => return (self.ended(party, Outcome::Passed(*number)), Vec::new()),
                BROKEN => return (self.ended(party, Outcome::Broken), Vec::new()),
                _ => {}
            }
        }
        if self.state == State::Tripping {
            return (Outcome::Pending, Vec::new());
        }
        self.free(party);
        (Outcome::Broken, self.abort())
    }

    /// The party leaves, and what it leaves is no round any more: as [`expired`](Self::expired), at once.
    pub fn give_up(&mut self, party: &mut Party) -> Vec<Call<W>> {
        self.free(party);
        if self.still_counts(party) {
            return self.abort();
        }
        Vec::new()
    }

    /// The party leaves as if it had not come.
    pub fn step_back(&mut self, party: &mut Party) {
        self.free(party);
        if self.still_counts(party) {
            self.count -= 1;
        }
    }

    /// Whether the party is one of those that are here, and not all are yet.
    fn still_counts(&self, party: &Party) -> bool {
        let open = |(round, _): &(Arc<Round>, usize)| round.0.load(Ordering::Relaxed) == OPEN;
        self.state == State::Filling && party.joined.as_ref().is_some_and(open)
    }

    fn ended(&mut self, party: &mut Party, outcome: Outcome) -> Outcome {
        self.free(party);
        outcome
    }

    fn free(&mut self, party: &mut Party) {
        if let Some(place) = party.place.take() {
            self.line.leave(&place);
        }
    }

    /// Tells the parties of the round how it ended, and begins another one.
    fn next_round(&mut self, how: u8) {
        // Relaxed, as all of them: read under the guard.
        self.round.0.store(how, Ordering::Relaxed);
        self.round = Arc::new(Round(AtomicU8::new(OPEN)));
        self.count = 0;
    }

    /// Does what was put off.
    fn catch_up(&mut self) -> Vec<Call<W>> {
        match std::mem::replace(&mut self.later, Later::Nothing) {
            Later::Nothing => self.everybody(),
            Later::Abort => self.abort(),
            Later::Reset => self.reset(),
        }
    }

    fn everybody(&mut self) -> Vec<Call<W>> {
        std::iter::from_fn(|| self.line.grant()).collect()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    struct Nobody(usize);

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

    fn come(barrier: &mut Barrier<Nobody>, number: usize) -> (Party, Outcome) {
        let mut party = Party::default();
        let outcome = barrier.poll(&mut party, || Nobody(number));
        (party, outcome)
    }

    fn look(barrier: &mut Barrier<Nobody>, party: &mut Party) -> Outcome {
        barrier.poll(party, || Nobody(99))
    }

    #[test]
    fn all_pass_when_the_last_one_has_come() {
        let mut barrier = Barrier::new(3);
        for _ in 0..3 {
            let (mut first, outcome) = come(&mut barrier, 0);
            assert_eq!(outcome, Outcome::Pending);
            let (mut second, outcome) = come(&mut barrier, 1);
            assert_eq!((outcome, barrier.waiting()), (Outcome::Pending, 2));
            assert_eq!(come(&mut barrier, 2).1, Outcome::Trips(2));
            assert_eq!(barrier.waiting(), 3);
            assert_eq!(look(&mut barrier, &mut first), Outcome::Pending);
            assert_eq!(barrier.tripped().len(), 2);
            assert_eq!(barrier.waiting(), 0);
            // The next round does not wait for those who have not looked yet.
            let (mut early, outcome) = come(&mut barrier, 3);
            assert_eq!(outcome, Outcome::Pending);
            assert_eq!(look(&mut barrier, &mut second), Outcome::Passed(1));
            assert_eq!(look(&mut barrier, &mut first), Outcome::Passed(0));
            barrier.step_back(&mut early);
            assert!(barrier.line().is_empty());
        }
    }

    #[test]
    fn who_comes_while_it_trips_belongs_to_the_next_round() {
        let mut barrier = Barrier::new(2);
        let (mut first, _) = come(&mut barrier, 0);
        assert_eq!(come(&mut barrier, 1).1, Outcome::Trips(1));
        let (mut outside, outcome) = come(&mut barrier, 2);
        assert_eq!((outcome, barrier.waiting()), (Outcome::Pending, 2));
        // Its time may be over, but not because of the others.
        assert_eq!(barrier.expired(&mut outside).0, Outcome::Pending);
        assert_eq!(barrier.tripped().len(), 2);
        assert_eq!(look(&mut barrier, &mut outside), Outcome::Pending);
        assert_eq!(barrier.waiting(), 1);
        assert_eq!(look(&mut barrier, &mut first), Outcome::Passed(0));
        let (outcome, _) = barrier.expired(&mut outside);
        assert_eq!((outcome, barrier.is_broken()), (Outcome::Broken, true));
    }

    #[test]
    fn one_party_alone_trips_each_time_and_others_wait_outside() {
        let mut barrier = Barrier::new(1);
        assert_eq!(come(&mut barrier, 0).1, Outcome::Trips(0));
        let (mut outside, outcome) = come(&mut barrier, 1);
        assert_eq!(outcome, Outcome::Pending);
        assert_eq!(barrier.tripped().len(), 1);
        assert_eq!(look(&mut barrier, &mut outside), Outcome::Trips(0));
        assert!(barrier.tripped().is_empty() && barrier.line().is_empty());
    }

    #[test]
    fn a_broken_barrier_fails_everybody_until_it_is_reset() {
        let mut barrier = Barrier::new(3);
        let (mut first, _) = come(&mut barrier, 0);
        let (mut second, _) = come(&mut barrier, 1);
        let (outcome, called) = barrier.expired(&mut second);
        assert_eq!((outcome, called.len()), (Outcome::Broken, 1));
        assert_eq!(come(&mut barrier, 2).1, Outcome::Broken);
        assert_eq!(barrier.waiting(), 0);
        assert!(barrier.reset().is_empty());
        assert_eq!(come(&mut barrier, 2).1, Outcome::Pending);
        assert_eq!(look(&mut barrier, &mut first), Outcome::Broken);
        assert_eq!((barrier.waiting(), barrier.is_broken()), (1, false));
    }

    #[test]
    fn a_reset_breaks_the_round_and_not_the_barrier() {
        let mut barrier = Barrier::new(2);
        let (mut first, _) = come(&mut barrier, 0);
        assert_eq!(barrier.reset().len(), 1);
        assert!(!barrier.is_broken());
        let (mut second, _) = come(&mut barrier, 1);
        assert_eq!(look(&mut barrier, &mut first), Outcome::Broken);
        assert_eq!(barrier.waiting(), 1);
        barrier.step_back(&mut second);
        assert_eq!(barrier.waiting(), 0);
    }

    #[test]
    fn what_is_asked_while_it_trips_is_done_afterwards() {
        for reset in [false, true] {
            for works in [false, true] {
                let mut barrier = Barrier::new(2);
                let (mut first, _) = come(&mut barrier, 0);
                assert_eq!(come(&mut barrier, 1).1, Outcome::Trips(1));
                let called = if reset {
                    barrier.reset()
                } else {
                    barrier.abort()
                };
                assert!(called.is_empty());
                let called = if works {
                    barrier.tripped()
                } else {
                    barrier.failed()
                };
                assert_eq!(called.len(), 1);
                let expected = if works {
                    Outcome::Passed(0)
                } else {
                    Outcome::Broken
                };
                assert_eq!(look(&mut barrier, &mut first), expected);
                assert_eq!(barrier.is_broken(), !reset);
            }
        }
    }

    #[test]
    fn who_gives_up_breaks_it_unless_all_have_come() {
        let mut barrier = Barrier::new(2);
        let (mut first, _) = come(&mut barrier, 0);
        assert_eq!(come(&mut barrier, 1).1, Outcome::Trips(1));
        assert!(barrier.give_up(&mut first).is_empty());
        assert!(barrier.tripped().is_empty() && !barrier.is_broken());
        let (mut first, _) = come(&mut barrier, 0);
        assert!(barrier.give_up(&mut first).is_empty());
        assert!(barrier.is_broken() && barrier.line().is_empty());
    }
}
