//! Opening a data directory: recover the log, execute it again, take ownership.

use std::sync::Arc;

use model::ShardId;
use mq::{DirDisk, LocalConfig, LocalLog, Log, LogError, Recovered};
use txn_core::{Capacity, Shard};

use crate::replay::{Difference, Replay};
use crate::{DataDir, DataDirError, LogThread, ShardHandle, ShardTask, Stages};

/// Why a data directory can't be served.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory itself.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// Its log is damaged, or can't be read or written.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The log executes to something else than it says.
    #[error("the log does not execute to what it records, at {0}")]
    Difference(#[from] Difference),
    /// No thread for the log.
    #[error("no thread for the log: {0}")]
    Thread(#[from] std::io::Error),
}

/// A shard that is ready to serve.
pub struct Opened {
    /// Spawn its future on a reactor.
    pub task: ShardTask,
    /// Submits to it, from any thread.
    pub handle: ShardHandle,
    /// To be joined after the task ended.
    pub log: LogThread,
    /// What recovery found.
    pub recovered: Recovered,
    /// Records that were executed again.
    pub replayed: u64,
}

/// Recovers the directory's shard and makes this process its owner.
pub fn open(dir: &DataDir, capacity: Capacity) -> Result<Opened, OpenError> {
    let disk = Arc::new(DirDisk::open(dir.log_path()).map_err(DataDirError::at(dir))?);
    let config = LocalConfig {
        segment_bytes: dir.segment_bytes(),
        salt: dir.draw_salt()?,
        ..LocalConfig::default()
    };
    let (log, recovered) = LocalLog::open(disk, config)?;
    let (task, handle, log, replayed) = open_log(log, LocalLog::close, dir.hash_seed(), capacity)?;
    Ok(Opened { task, handle, log, recovered, replayed })
}

/// The same on any log.
pub fn open_log<L: Log + 'static>(
    log: L,
    close: impl FnOnce(L) -> Result<(), LogError> + Send + 'static,
    hash_seed: u64,
    capacity: Capacity,
) -> Result<(ShardTask, ShardHandle, LogThread, u64), OpenError> {
    let id = ShardId(0);
    let mut shard = Shard::new(hash_seed);
    shard.reserve(capacity);
    let mut replay = Replay::default();
    {
        let mut frames = log.read(id, model::Offset(1))?;
        while let Some(frame) = frames.next()? {
            replay.apply(&mut shard, frame)?;
        }
    }
    let replayed = shard.next_offset().0 - 1;
    let end = log.end(id);
    let stages = Stages::new();
    let log = LogThread::spawn(log, stages.log(), close)?;
    let (task, handle) = ShardTask::new(id, shard, end, &log, stages)?;
    Ok((task, handle, log, replayed))
}
