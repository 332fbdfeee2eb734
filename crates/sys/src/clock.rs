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
}
