//! Watches how much room is left on the disk.
//!
//! A log that can't be written ends the process. So before that, new orders, and all else that
//! isn't needed to end what was begun, are refused, while reads, payments, cancels, refunds,
//! snapshots and trimming go on. When there is room again, everything does.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use model::record::{CommandBuffer, Kind};

/// How often it is looked at. A disk writes some hundred MiB meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The room on a data directory's disk.
#[derive(Debug)]
pub struct DiskSpace {
    path: PathBuf,
    reserve: u64,
    free: AtomicU64,
    is_low: AtomicBool,
}

impl DiskSpace {
    fn look(&self) -> io::Result<()> {
        let found = rustix::fs::statvfs(&self.path)?;
        let free = found.f_bavail.saturating_mul(found.f_frsize);
        self.free.store(free, Relaxed);
        // A little more than what made it low, so that it doesn't change with every look.
        let was_low = self.is_low.load(Relaxed);
        let is_low = free < if was_low { self.reserve + self.reserve / 4 } else { self.reserve };
        self.is_low.store(is_low, Relaxed);
        match (was_low, is_low) {
            (false, true) => tracing::warn!(
                free,
                reserve = self.reserve,
                "the disk is nearly full: new orders are refused"
            ),
            (true, false) => tracing::warn!(free, "the disk has room again"),
            _ => {}
        }
        Ok(())
    }

    /// Bytes that are free.
    pub fn free(&self) -> u64 {
        self.free.load(Relaxed)
    }

    /// Whether they are less than the reserve.
    pub fn is_low(&self) -> bool {
        self.is_low.load(Relaxed)
    }

    /// Whether there is room for so much, beside the part of the reserve that the log needs.
    pub(crate) fn has_room_for(&self, bytes: u64) -> bool {
        self.free() >= bytes + self.reserve / 4
    }

    /// Whether commands have to be refused.
    pub(crate) fn refuses(&self, commands: &CommandBuffer) -> bool {
        let ends = [Kind::Pay, Kind::Cancel, Kind::Refund, Kind::Receive, Kind::SettleHold];
        let is_end = |kind: u8| Kind::from_byte(kind).is_some_and(|kind| ends.contains(&kind));
        self.is_low() && !commands.records().flatten().all(|command| is_end(command.header.kind))
    }
}

/// The thread that looks. It ends when this is dropped.
pub(crate) struct SpaceThread {
    space: Arc<DiskSpace>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl SpaceThread {
    pub(crate) fn spawn(path: &Path, reserve: u64) -> io::Result<SpaceThread> {
        let (free, is_low) = Default::default();
        let space = Arc::new(DiskSpace { path: path.to_path_buf(), reserve, free, is_low });
        space.look()?;
        let stop = Arc::<AtomicBool>::default();
        let thread = std::thread::Builder::new().name("crest-space".to_string());
        let (looked_at, stopped) = (space.clone(), stop.clone());
        let thread = thread.spawn(move || {
            while !stopped.load(Relaxed) {
                std::thread::park_timeout(LOOK_EVERY);
                // What can't be looked at now may be later.
                let _ = looked_at.look();
            }
        })?;
        Ok(SpaceThread { space, stop, thread: Some(thread) })
    }

    pub(crate) fn space(&self) -> Arc<DiskSpace> {
        self.space.clone()
    }
}

impl Drop for SpaceThread {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It may have panicked; there is nobody left to tell.
            drop(thread.join());
        }
    }
}
