//! The time that frames carry.
//!
//! It follows the wall clock, but never goes back, and gains on the monotonic clock by an eighth at
//! most: an operator's slip with the date doesn't expire every order that waits.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use model::Time;

/// The moment at which something happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Now {
    /// What frames say of it. Orders expire by this time; it may stand still for a while.
    pub time: Time,
    /// By the monotonic clock, from any moment on. Waiting and sending again go by this one.
    pub monotonic: Duration,
}

/// By how much of the time that has passed the wall clock may gain on the monotonic one.
const GAIN_MAX: u32 = 8;

/// Makes the time of frames of what clocks say.
pub struct Clock {
    last: Time,
    /// `None` until the first frame: how long the log stood still isn't known.
    read_at: Option<Duration>,
}

impl Clock {
    /// Goes on from the time of the log's last frame.
    pub fn new(last: Time) -> Clock {
        Clock { last, read_at: None }
    }

    /// The time now: what the wall clock says, within bounds. `monotonic` counts from any moment,
    /// always the same.
    pub fn advance(&mut self, wall: Time, monotonic: Duration) -> Time {
        let most = match self.read_at {
            Some(before) => {
                let passed = monotonic.saturating_sub(before);
                self.last.after(passed + passed / GAIN_MAX)
            }
            None => Time(u64::MAX),
        };
        self.last = wall.min(most).max(self.last);
        self.read_at = Some(monotonic);
        self.last
    }
}

/// A [`Clock`] on the clocks of this machine.
pub(crate) struct MachineClock {
    clock: Clock,
    started: Instant,
}

impl MachineClock {
    pub(crate) fn new(last: Time) -> MachineClock {
        MachineClock { clock: Clock::new(last), started: Instant::now() }
    }

    pub(crate) fn now(&mut self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let monotonic = self.started.elapsed();
        Now { time: self.clock.advance(Time(wall.as_micros() as u64), monotonic), monotonic }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_never_goes_back_and_never_leaps() {
        let mut clock = Clock::new(Time(5_000_000));
        assert_eq!(clock.advance(Time(1), Duration::ZERO), Time(5_000_000));
        let mut passed = Duration::from_micros(80);
        assert_eq!(clock.advance(Time(5_000_010), passed), Time(5_000_010));
        // However often it is read: 0.8 s on, a year ahead is 0.9 s.
        let year = Time(31_536_000_000_000);
        for _ in 0..8 {
            passed += Duration::from_millis(100);
            clock.advance(year, passed);
        }
        assert_eq!(clock.advance(year, passed), Time(5_900_010));
    }

    #[test]
    fn the_first_reading_follows_the_wall() {
        let mut clock = Clock::new(Time(5));
        assert_eq!(clock.advance(Time(1_000_000_000), Duration::ZERO), Time(1_000_000_000));
    }
}
