//! The time that frames carry.
//!
//! It follows the wall clock, but never goes back, and never leaps ahead of the monotonic clock
//! by more than a second at a time: an operator's slip with the date doesn't expire every order
//! that waits.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use model::Time;

/// How far the wall clock may gain on the monotonic one between two frames.
const STEP_MAX: Duration = Duration::from_secs(1);

pub(crate) struct Clock {
    last: Time,
    /// `None` until the first frame: how long the log stood still isn't known.
    read_at: Option<Instant>,
}

impl Clock {
    /// Goes on from the time of the log's last frame.
    pub(crate) fn new(last: Time) -> Clock {
        Clock { last, read_at: None }
    }

    pub(crate) fn now(&mut self) -> Time {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.advance(Time(wall.as_micros() as u64), Instant::now())
    }

    fn advance(&mut self, wall: Time, monotonic: Instant) -> Time {
        let most = match self.read_at {
            Some(before) => {
                let step = monotonic.saturating_duration_since(before) + STEP_MAX;
                Time(self.last.0.saturating_add(step.as_micros() as u64))
            }
            None => Time(u64::MAX),
        };
        self.last = wall.min(most).max(self.last);
        self.read_at = Some(monotonic);
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_never_goes_back_and_never_leaps() {
        let start = Instant::now();
        let mut clock = Clock::new(Time(5_000_000));
        assert_eq!(clock.advance(Time(1), start), Time(5_000_000));
        assert_eq!(clock.advance(Time(5_000_010), start), Time(5_000_010));
        let year = Time(31_536_000_000_000);
        let later = start + Duration::from_millis(500);
        assert_eq!(clock.advance(year, later), Time(6_500_010));
    }

    #[test]
    fn the_first_reading_follows_the_wall() {
        let mut clock = Clock::new(Time(5));
        assert_eq!(clock.advance(Time(1_000_000_000), Instant::now()), Time(1_000_000_000));
    }
}
