//! Whether a thread looks for a moment whether what it waits for comes, before it sleeps.
//!
//! To put a thread to sleep and wake it takes the system 5 to 50 microseconds, most of them until the other core has come out
//! of its idle state. Where threads take turns, what is waited for often comes within two. Who looks for it for
//! about as long as a sleep takes, loses about as much as it may gain.
//!
//! On a machine that has something better to do, looking takes the time from those who could let go. So
//! - a thread looks only for as long as it has had luck with that lately; after failures it tries again more and more
//!   rarely, down to once in [`RARELY`] sleeps;
//! - luck is only what came within the time: a thread that is stopped while it looks, because its core has other work,
//!   counts that as a failure whatever it finds;
//! - not more threads look at a time than half of the processors, and none where there is only one.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::thread::available_parallelism;

use crate::clock::{self, Nanos};
use crate::fork;

/// How long a thread looks: about what a sleep takes.
pub const LOOK: Nanos = 50_000;
/// How long it looks for the one who brought it to let go of what he holds.
const MOMENT: Nanos = 5_000;
/// A thread that has not come round for so long has been stopped: its core had other work.
const STOPPED: Nanos = 2_000;
/// What a thread that has luck gains hope up to, one a look, and what a failure costs: it is discouraged unless two of
/// three looks are lucky.
const HOPE: u32 = 4;
const PRICE: u32 = 2;
/// How many sleeps a discouraged thread waits, at first and at most, before it looks again.
const SELDOM: u32 = 8;
const RARELY: u32 = 1024;

/// One thread's experience. The thread alone changes it.
#[derive(Debug)]
pub struct Luck {
    hope: AtomicU32,
    /// For so many sleeps it does not look.
    pause: AtomicU32,
    next_pause: AtomicU32,
}

impl Default for Luck {
    /// A thread that has no experience yet.
    fn default() -> Self {
        Self {
            hope: AtomicU32::new(0),
            pause: AtomicU32::new(1), // the first sleep of a thread is often its only one
            next_pause: AtomicU32::new(SELDOM),
        }
    }
}

impl Luck {
    /// Begins to look, if that seems to be worth it.
    #[inline]
    pub fn begin(&self) -> Option<Look<'_>> {
        let pause = self.pause.load(Relaxed);
        if pause > 0 {
            self.pause.store(pause - 1, Relaxed);
            return None;
        }
        Some(Look {
            luck: self,
            place: Place::take_soon()?,
        })
    }

    fn learn(&self, lucky: bool) {
        let (hope, pause) = (self.hope.load(Relaxed), self.next_pause.load(Relaxed));
        if lucky {
            self.hope.store((hope + 1).min(HOPE), Relaxed);
            self.next_pause.store((pause / 2).max(SELDOM), Relaxed);
        } else if hope > PRICE {
            self.hope.store(hope - PRICE, Relaxed);
            self.pause.store(1, Relaxed); // it parks at once again
        } else {
            self.hope.store(0, Relaxed);
            self.pause.store(pause, Relaxed);
            self.next_pause.store((pause * 2).min(RARELY), Relaxed);
        }
    }
}

/// A thread that looks.
#[must_use]
#[derive(Debug)]
pub struct Look<'a> {
    luck: &'a Luck,
    place: Place,
}

impl Look<'_> {
    /// Calls `seen` until it gives something, for a while at most. A signal that is handled meanwhile ends no sleep that
    /// begins after it, so whoever has seen nothing looks for signals.
    pub fn until<R>(self, seen: impl Fn() -> Option<R>) -> Option<R> {
        let (found, in_time) = look_for(LOOK, seen);
        drop(self.place);
        self.luck.learn(in_time);
        found
    }
}

/// What was waited for has come, but the one who brought it still holds what the thread needs next, and lets go of it in a
/// moment: looks for that, and for no longer.
pub fn linger(let_go: impl Fn() -> bool) {
    look_for(MOMENT, || let_go().then_some(()));
}

/// Calls `seen` for `time` at most: what it gave, and whether it gave it in time and without the thread being stopped.
fn look_for<R>(time: Nanos, seen: impl Fn() -> Option<R>) -> (Option<R>, bool) {
    let begun = clock::now();
    let (mut before, mut stopped) = (begun, false);
    loop {
        // The clock takes longer to read than the word.
        let found = (0..16).find_map(|_| {
            std::hint::spin_loop();
            seen()
        });
        let now = clock::now();
        stopped |= now - before > STOPPED;
        before = now;
        if found.is_some() || now - begun >= time {
            let in_time = found.is_some() && !stopped;
            return (found, in_time);
        }
    }
}

/// One of the places for threads that look.
#[derive(Debug)]
struct Place;

/// How many are taken, and below that of which copy of the process these are: those of threads that a fork has left
/// behind are free.
static TAKEN: AtomicU64 = AtomicU64::new(0);
const ONE: u64 = 1 << 32;

/// How many there are. No lock guards that: another thread's might be held for ever in a forked child.
fn places() -> u64 {
    const UNKNOWN: u64 = u64::MAX;
    static PLACES: AtomicU64 = AtomicU64::new(UNKNOWN);
    let places = PLACES.load(Relaxed);
    if places != UNKNOWN {
        return places;
    }
    let places = available_parallelism().map_or(0, |count| count.get() as u64 / 2);
    PLACES.store(places, Relaxed);
    places
}

impl Place {
    /// Takes a place, and waits for it as long as one needs that has just found what it looked for: where two take turns,
    /// one comes when the other goes.
    fn take_soon() -> Option<Self> {
        (0..32).find_map(|_| {
            Self::take().or_else(|| {
                std::hint::spin_loop();
                None
            })
        })
    }

    fn take() -> Option<Self> {
        let now = fork::generation() & (ONE - 1);
        let taken = TAKEN.load(Relaxed);
        let count = if taken % ONE == now { taken / ONE } else { 0 };
        let more = (count + 1) * ONE + now;
        let taken = count < places()
            && TAKEN
                .compare_exchange(taken, more, Relaxed, Relaxed)
                .is_ok();
        taken.then(|| Self) // lazily: dropping one gives a place back
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        TAKEN.fetch_sub(ONE, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often of `sleeps` a thread looks whose looks are all lucky, or all not.
    fn looks(luck: &Luck, sleeps: u32, lucky: bool) -> u32 {
        (0..sleeps)
            .filter_map(|_| luck.begin())
            .map(|_| luck.learn(lucky))
            .fold(0, |count, ()| count + 1)
    }

    #[test]
    fn who_has_luck_looks_each_time_and_who_has_none_hardly_ever() {
        let luck = Luck::default();
        if places() == 0 {
            assert_eq!(looks(&luck, 100, true), 0);
            return;
        }
        assert_eq!(looks(&luck, 100, true), 99);
        assert!(looks(&luck, 3000, false) < 15);
        assert!(looks(&luck, 2000, true) > 900, "it comes back");
        // In the same test, for the places are the process's.
        let taken: Vec<_> = std::iter::from_fn(Place::take).take(1000).collect();
        assert_eq!(taken.len() as u64, places());
        assert_eq!(looks(&luck, 100, true), 0);
    }

    #[test]
    fn a_look_gives_what_it_sees_and_ends_without() {
        assert_eq!(look_for(LOOK, || Some(1)).0, Some(1));
        assert_eq!(look_for(LOOK, || None::<u32>), (None, false));
    }
}
