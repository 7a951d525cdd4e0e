//! Opening a data directory: recover the log, execute it again, take ownership.

use std::sync::Arc;
use std::time::Duration;

use model::ShardId;
use mq::{DirDisk, LocalConfig, LocalLog, Log, LogError, Recovered};
use txn_core::{Capacity, Seat, Shard, SpareRegions};

use crate::memory::MemoryThread;
use crate::replay::{Difference, Replay};
use crate::{DataDir, DataDirError, GroupHandle, GroupTask, LogThread, Stages};

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
    /// No thread for the log or for memory.
    #[error("no thread beside the shards: {0}")]
    Thread(#[from] std::io::Error),
}

/// How shards are made, and on how many groups they are placed.
#[derive(Clone, Copy, Debug)]
pub struct Placement {
    /// How many shards there are, 1 to 256.
    pub shards: u16,
    /// How many groups, at least 1: one for each reactor. Shards are dealt out in turn.
    pub groups: usize,
    /// The length of a settlement step; see [`Seat`].
    pub settle_step: Duration,
    /// What shards seed their tables with.
    pub hash_seed: u64,
    /// What all shards together should be ready for.
    pub capacity: Capacity,
}

impl Placement {
    /// With the usual step, and ready for nothing in particular.
    pub fn new(shards: u16, groups: usize, hash_seed: u64) -> Placement {
        let settle_step = Seat::SETTLE_STEP;
        Placement { shards, groups, settle_step, hash_seed, capacity: Capacity::default() }
    }

    /// The seat of a shard.
    pub fn seat(&self, id: ShardId) -> Seat {
        Seat { id, shards: self.shards, settle_step: self.settle_step }
    }

    pub(crate) fn shard(&self, id: ShardId, spare: &SpareRegions) -> Shard {
        let mut shard = Shard::new(self.seat(id), self.hash_seed, spare.clone());
        let shards = u64::from(self.shards);
        let Capacity { accounts, items, orders } = self.capacity;
        // Every shard has a row for every item.
        let (accounts, orders) = (accounts.div_ceil(shards), orders.div_ceil(shards));
        shard.reserve(Capacity { accounts, items, orders });
        shard
    }
}

/// Shards that are ready to serve.
pub struct Opened {
    /// Spawn the future of each on a reactor.
    pub tasks: Vec<GroupTask>,
    /// By shard: submits to the group that has it, from any thread.
    pub handles: Vec<(u16, GroupHandle)>,
    /// To be joined after the tasks ended.
    pub log: LogThread,
    /// Records that were executed again.
    pub replayed: u64,
}

/// Recovers the directory's shards and makes this process their owner.
pub fn open(
    dir: &DataDir,
    groups: usize,
    capacity: Capacity,
) -> Result<(Opened, Recovered), OpenError> {
    let disk = Arc::new(DirDisk::open(dir.log_path()).map_err(DataDirError::at(dir))?);
    let config = LocalConfig {
        segment_bytes: dir.segment_bytes(),
        salt: dir.draw_salt()?,
        ..LocalConfig::default()
    };
    let (log, recovered) = LocalLog::open(disk, config)?;
    let opened = open_log(log, LocalLog::close, dir.placement(groups, capacity))?;
    Ok((opened, recovered))
}

/// The same on any log.
pub fn open_log<L: Log + 'static>(
    log: L,
    close: impl FnOnce(L) -> Result<(), LogError> + Send + 'static,
    placement: Placement,
) -> Result<Opened, OpenError> {
    let spare = SpareRegions::default();
    let memory = MemoryThread::spawn(spare.clone())?;
    let ids = || (0..placement.shards).map(ShardId);
    let shards = recover(&log, &placement, ids(), &spare, || memory.look())?;
    let replayed = shards.iter().map(|shard| shard.next_offset().0 - 1).sum();
    let groups = placement.groups.clamp(1, placement.shards.into());
    let mut members: Vec<Vec<_>> = (0..groups).map(|_| Vec::new()).collect();
    for shard in shards {
        let id = shard.seat().id;
        members[usize::from(id.0) % groups].push((shard, log.end(id)));
    }
    let stages = Stages::new();
    let log = LogThread::spawn(log, stages.log(), close)?;
    let started = members.into_iter().zip(0u16..).map(|(members, number)| {
        let (memory, stages) = (memory.clone(), stages.clone());
        GroupTask::new(number, placement.shards, members, &log, memory, stages)
    });
    let (mut tasks, of_group): (Vec<GroupTask>, Vec<GroupHandle>) = started.unzip();
    let handle = |id: ShardId| {
        let group = usize::from(id.0) % groups;
        (group as u16, of_group[group].clone())
    };
    let handles: Vec<(u16, GroupHandle)> = ids().map(handle).collect();
    tasks.iter_mut().for_each(|task| task.connect(&handles));
    Ok(Opened { tasks, handles, log, replayed })
}

/// Executes a log again, for the shards that are wanted of it. `after_frame` is called after each
/// frame.
pub fn recover(
    log: &impl Log,
    placement: &Placement,
    wanted: impl Iterator<Item = ShardId>,
    spare: &SpareRegions,
    mut after_frame: impl FnMut(),
) -> Result<Vec<Shard>, OpenError> {
    let mut shards: Vec<Shard> = wanted.map(|id| placement.shard(id, spare)).collect();
    let mut by_id = vec![None; placement.shards.into()];
    for (at, shard) in shards.iter().enumerate() {
        by_id[usize::from(shard.seat().id.0)] = Some(at);
    }
    let mut replay = Replay::default();
    let mut frames = log.read_all()?;
    while let Some(frame) = frames.next()? {
        let id = frame.place().shard;
        let shard = by_id.get(usize::from(id.0)).copied().flatten().map(|at| &mut shards[at]);
        replay.apply(shard.ok_or_else(|| Difference::foreign(&frame))?, frame)?;
        after_frame();
    }
    Ok(shards)
}
