//! Waits until an instant, to some tens of microseconds.
//!
//! The runtime's own timers go by milliseconds. A timer descriptor (timerfd_create(2)) that the
//! reactor waits for beside the sockets goes by the kernel's high-resolution clock.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A timer of one thread.
pub(crate) struct Pacer {
    timer: AsyncFd<OwnedFd>,
}

impl Pacer {
    /// On the current runtime.
    pub(crate) fn new() -> io::Result<Pacer> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        // SAFETY: the descriptor is open, and owned by what owns it: it closes after the
        // registration ends, and nothing puts another one in its place.
        let timer = unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) }?;
        Ok(Pacer { timer })
    }

    /// Returns at `due`, or at once where that is past.
    pub(crate) async fn wait_until(&self, due: Instant) -> io::Result<()> {
        loop {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.set(left)?;
            let mut ready = self.timer.readable().await?;
            ready.clear_ready();
        }
    }

    /// Setting it also takes back that it rang before.
    fn set(&self, after: Duration) -> io::Result<()> {
        let once = Itimerspec {
            it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: Timespec {
                tv_sec: after.as_secs() as i64,
                tv_nsec: i64::from(after.subsec_nanos()).max(1),
            },
        };
        timerfd_settime(self.timer.get_ref(), TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn it_never_returns_early() {
        let pacer = Pacer::new().unwrap();
        for micros in [0, 1, 30, 300, 3000, 70] {
            let due = Instant::now() + Duration::from_micros(micros);
            pacer.wait_until(due).await.unwrap();
            assert!(Instant::now() >= due);
        }
    }
}
