//! Executing a data directory's log again, frame by frame, for whoever measures.
//!
//! The core is deterministic, so what it did once it does again: the same commands find the same
//! tables, split the same segments, walk the same blocks. A slow batch of last night can be timed
//! today, as often as one likes. What differs is the machine, and what the shell did beside it.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use model::ShardId;
use model::frame::Frame;
use mq::{ArchiveError, LogError};
use txn_core::{Capacity, Grown, Shard, SpareRegions};

use crate::archiver::ArchiveLocation;
use crate::memory;
use crate::recovery::whole_log;
use crate::replay::{Difference, Replay};
use crate::{Access, DataDir, DataDirError};

/// Why a log can't be executed again.
#[derive(Debug, thiserror::Error)]
pub enum RerunError {
    /// The directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// Its log is damaged or can't be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Its archive.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The beginning of its log is kept nowhere.
    #[error("the log's beginning was trimmed, and isn't in the archive beside it")]
    NoBeginning,
    /// The log executes to something else than it says.
    #[error("the log does not execute to what it records, at {0}")]
    Difference(#[from] Difference),
}

/// The next frame of a log, and the shard that stands before it.
pub struct Step<'a> {
    /// The frame as it was logged.
    pub frame: Frame<'a>,
    shard: &'a mut Shard,
    replay: &'a mut Replay,
}

/// What executing a frame took.
#[derive(Clone, Copy, Debug)]
pub struct Ran {
    /// The core's time, without reading, checking and comparing.
    pub took: Duration,
    /// By how much its tables grew.
    pub grown: Grown,
}

impl Step<'_> {
    /// Has the core decide the frame's commands, and checks that it decides as it did.
    pub fn run(self) -> Result<Ran, Difference> {
        // As the platform does it beside the shard: no first touch of memory in what is timed.
        memory::fill(self.shard.spare_regions());
        self.replay.prepare(self.shard, self.frame)?;
        let before = self.shard.grown();
        let start = Instant::now();
        self.replay.execute(self.shard, self.frame.place().time);
        let took = start.elapsed();
        self.replay.compare(self.frame)?;
        Ok(Ran { took, grown: self.shard.grown().since(before) })
    }
}

/// Shows `visit` every frame of a directory that nobody serves, until it breaks off. It has to
/// run each [`Step`]: the next one stands on it. The log is only read.
///
/// `capacity` is what the platform was told to be ready for; with another one, tables grow at
/// other moments than they did.
/// `access` is what it takes to open the directory.
pub fn rerun<E: From<RerunError>>(
    path: &Path,
    access: &Access,
    capacity: Capacity,
    mut visit: impl FnMut(Step<'_>) -> Result<ControlFlow<()>, E>,
) -> Result<(), E> {
    let dir = DataDir::open(path, access).map_err(RerunError::from)?;
    let disk = dir.log_read_only().map_err(RerunError::from)?;
    let archive = dir.archive(&ArchiveLocation::Beside).map_err(RerunError::from)?;
    let mut reader = whole_log(disk, archive).map_err(RerunError::from)?;
    if !reader.is_whole() {
        return Err(RerunError::NoBeginning.into());
    }
    let spare = SpareRegions::default();
    memory::fill(&spare);
    let placement = dir.placement(1, capacity);
    let mut shards: Vec<Shard> =
        (0..placement.shards).map(|id| placement.shard(ShardId(id), &spare)).collect();
    let mut replay = Replay::default();
    while let Some((_, frame)) = reader.next_frame().map_err(RerunError::from)? {
        let shard = shards.get_mut(usize::from(frame.header.shard.get()));
        let foreign = || RerunError::from(Difference::foreign(&frame));
        let step = Step { frame, shard: shard.ok_or_else(foreign)?, replay: &mut replay };
        if visit(step)?.is_break() {
            break;
        }
    }
    Ok(())
}
