//! One monotonic clock, in nanoseconds: the one that Python's `time.monotonic()` reads, so that
//! deadlines computed on either side compare.

/// Nanoseconds on the monotonic clock. 64 bits last for 584 years of uptime.
pub type Nanos = u64;

/// Nanoseconds in a second.
pub const SECOND: Nanos = 1_000_000_000;

/// The time now. It never runs backwards; its zero means nothing (usually the system's start).
#[cfg(not(target_vendor = "apple"))]
#[inline]
#[must_use]
pub fn now() -> Nanos {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    // Neither part is ever negative on this clock.
    (t.tv_sec as Nanos) * SECOND + t.tv_nsec as Nanos
}

/// The time now. It never runs backwards; its zero means nothing (usually the system's start).
///
/// Apple's `CLOCK_MONOTONIC` goes on while the machine sleeps; Python reads the clock that does
/// not.
#[cfg(target_vendor = "apple")]
#[inline]
#[must_use]
pub fn now() -> Nanos {
    let mut t = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: writes into this frame. It cannot fail: the clock exists since macOS 10.12.
    unsafe { libc::clock_gettime(libc::CLOCK_UPTIME_RAW, &raw mut t) };
    (t.tv_sec as Nanos) * SECOND + t.tv_nsec as Nanos
}

/// A reading of a counter that is cheaper than the clock, for "has a moment passed?".
///
/// On x86-64 the time stamp counter, whose unit is a fraction of a nanosecond that depends on the
/// machine; elsewhere the clock. Only [`Ticks::elapsed`] looks at it, in units of at most a
/// nanosecond: what it calls a nanosecond is never longer than one.
#[derive(Clone, Copy, Debug)]
pub struct Ticks(u64);

impl Ticks {
    /// The counter now.
    #[inline]
    #[must_use]
    pub fn now() -> Self {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: every x86-64 processor has the instruction, and reading it touches nothing.
        let ticks = unsafe { core::arch::x86_64::_rdtsc() };
        #[cfg(not(target_arch = "x86_64"))]
        let ticks = now();
        Self(ticks)
    }

    /// How many units have passed since: on machines of 1 to 5 GHz, 0.2 to 1 ns each. A counter that
    /// was set back, or belongs to another processor that is behind, gives a very large number.
    #[inline]
    #[must_use]
    pub fn elapsed(self) -> u64 {
        Self::now().0.wrapping_sub(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_forwards_at_the_pace_of_the_standard_clock() {
        let (ours, theirs) = (now(), std::time::Instant::now());
        while theirs.elapsed().as_millis() < 5 {
            let earlier = now();
            assert!(now() >= earlier);
        }
        let (ours, theirs) = (now() - ours, theirs.elapsed().as_nanos() as Nanos);
        assert!(ours.abs_diff(theirs) < SECOND, "{ours} against {theirs}");
    }

    #[test]
    fn ticks_pass_at_least_once_in_a_nanosecond_or_nearly_so() {
        let (ticks, start) = (Ticks::now(), now());
        while now() - start < 2_000_000 {}
        // The slowest counters of this kind run at 1 GHz, give or take their rounding.
        assert!(ticks.elapsed() > 1_900_000, "{}", ticks.elapsed());
    }
}
