//! The clock of the stages: the processor's own counter, read in a few instructions.
//!
//! A reading is kept raw and turned into nanoseconds once, when the time between two of them is
//! recorded. Where the counter can't be trusted, `quanta` reads the monotonic clock instead.

use std::sync::OnceLock;

/// A reading of the clock. Only the distance between two of them says something.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Ticks(pub(crate) u64);

/// Nanoseconds are kept as multiples of 2⁻³² while they are worked out.
const FRACTION_BITS: u32 = 32;

pub(crate) struct StageClock {
    clock: quanta::Clock,
    /// Nanoseconds of a tick, times 2³².
    ns_per_tick: u64,
}

impl StageClock {
    /// The clock of this process. Compares the counter with the monotonic clock first, once: that
    /// takes up to 0.2 s.
    pub(crate) fn shared() -> &'static StageClock {
        static CLOCK: OnceLock<StageClock> = OnceLock::new();
        CLOCK.get_or_init(StageClock::new)
    }

    fn new() -> StageClock {
        let clock = quanta::Clock::new();
        let ns_per_tick = clock.delta_as_nanos(0, 1 << FRACTION_BITS).max(1);
        StageClock { clock, ns_per_tick }
    }

    #[inline]
    pub(crate) fn now(&self) -> Ticks {
        Ticks(self.clock.raw())
    }

    /// From one reading to a later one; 0 where cores disagree by a hair about which is later.
    #[inline]
    pub(crate) fn ns(&self, from: Ticks, to: Ticks) -> u64 {
        let ticks = to.0.saturating_sub(from.0);
        ((u128::from(ticks) * u128::from(self.ns_per_tick)) >> FRACTION_BITS) as u64
    }

    /// The reading so many nanoseconds before another.
    pub(crate) fn before(&self, at: Ticks, ns: u64) -> Ticks {
        let ticks = (u128::from(ns) << FRACTION_BITS) / u128::from(self.ns_per_tick);
        Ticks(at.0.saturating_sub(ticks as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_those_of_the_library_to_one_in_a_million() {
        let clock = StageClock::new();
        let start = clock.now();
        for ticks in [0, 1, 1_000, 3_000_000, 10_u64.pow(13)] {
            let end = Ticks(start.0 + ticks);
            let expected = clock.clock.delta_as_nanos(start.0, end.0);
            let found = clock.ns(start, end);
            assert!(found.abs_diff(expected) <= 1 + expected / 1_000_000, "{ticks} ticks");
            assert!(clock.before(end, found).0.abs_diff(start.0) <= 1 + ticks / 1_000_000 + 8);
        }
        assert_eq!(clock.ns(Ticks(9), Ticks(3)), 0);
    }
}
