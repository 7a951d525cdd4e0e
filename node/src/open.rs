//! Opening a data directory: recover the log, execute it again, take ownership.

use std::sync::Arc;
use std::time::Duration;

use model::{Offset, ShardId};
use mq::{
    Archive, ArchiveError, Disk, IndexError, LocalConfig, LocalLog, Log, LogError, LogIndex,
    Recovered, Repair, SnapshotError, SnapshotId, Snapshots,
};
use txn_core::{Capacity, Seat, Shard, SpareRegions};

use crate::archiver::{ArchiveLocation, Archiver};
use crate::lookups::{KeySeed, LookupThreads, Records};
use crate::memory::MemoryThread;
use crate::recovery::{Recovery, Wanted, recover, recover_local, whole_log};
use crate::replay::Difference;
use crate::snapshots::{SnapshotPolicy, SnapshotThread};
use crate::space::SpaceThread;
use crate::{DataDir, DataDirError, Feed, GroupHandle, GroupTask, LogThread, Stages};

/// Why a data directory can't be served.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory itself.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// Its log is damaged, or can't be read or written.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Its snapshots can't be read. Damage is none of it: an older one, or the log, stands in.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The log executes to something else than it says.
    #[error("the log does not execute to what it records, at {0}")]
    Difference(#[from] Difference),
    /// The archive can't be opened.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A shard has to be made from its log alone, and that doesn't begin at its beginning.
    #[error(
        "shard {shard} has no good snapshot, and the beginning of its log was trimmed and isn't in \
         the archive"
    )]
    NoBeginning {
        /// The shard.
        shard: ShardId,
    },
    /// Records aren't in the index, and can't be added to it.
    #[error(
        "the index lacks records of shard {shard}, and these were trimmed and aren't in the \
         archive: what has left memory can't be found"
    )]
    NoIndex {
        /// The shard.
        shard: ShardId,
    },
    /// The index can't be read or written. Damage is none of it: it is made of the log again.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// A snapshot, or the index, knows of more than the log has: what was durable was lost.
    #[error(
        "the log of shard {shard} ends before offset {next}, and a snapshot or the index goes on \
         at {offset}: what was durable was lost"
    )]
    LogBehind {
        /// The shard.
        shard: ShardId,
        /// Where that goes on.
        offset: Offset,
        /// Where its log ends.
        next: Offset,
    },
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
        let mut shard = self.empty_shard(id, spare);
        self.reserve(&mut shard);
        shard
    }

    pub(crate) fn empty_shard(&self, id: ShardId, spare: &SpareRegions) -> Shard {
        Shard::new(self.seat(id), self.hash_seed, spare.clone())
    }

    /// Recovers all shards.
    fn recovering<T>(
        &self,
        memory: &MemoryThread,
        recover: impl FnOnce(&Wanted<'_>) -> Result<T, OpenError>,
    ) -> Result<T, OpenError> {
        let shards: Vec<ShardId> = (0..self.shards).map(ShardId).collect();
        let (spare, after_frame) = (memory.spare(), &|| memory.look());
        recover(&Wanted { placement: self, shards: &shards, spare, after_frame })
    }

    /// Makes a shard ready for its part.
    pub(crate) fn reserve(&self, shard: &mut Shard) {
        let shards = u64::from(self.shards);
        let Capacity { accounts, items, orders } = self.capacity;
        // Every shard has a row for every item.
        let (accounts, orders) = (accounts.div_ceil(shards), orders.div_ceil(shards));
        shard.reserve(Capacity { accounts, items, orders });
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
    /// To be dropped before the log is joined. `None` without snapshots.
    pub snapshots: Option<SnapshotThread>,
    /// What became durable, for those who only read. `None` on a log that has no segments.
    pub feed: Option<Feed>,
    /// Records that were executed again.
    pub replayed: u64,
    /// Shards that were made of a snapshot.
    pub restored: usize,
    /// Snapshots that were no good, and why: older ones, or more of the log, stood in. They were
    /// removed.
    pub passed_over: Vec<(SnapshotId, SnapshotError)>,
}

/// How a data directory is kept small, and how fast it starts.
#[derive(Clone, Debug, Default)]
pub struct Keeping {
    /// When shards are saved.
    pub snapshots: SnapshotPolicy,
    /// Where segments go that the log needs no longer.
    pub archive: ArchiveLocation,
    /// Bytes of memory for orders and ids of changes, beyond which the oldest leave it. Default:
    /// a sixteenth of the machine's, 256 MiB at least.
    pub rows_bytes: Option<u64>,
    /// Bytes of the disk below which new orders are refused. Default: four segments of the log.
    pub disk_reserve: Option<u64>,
    /// The most readers of the feed. Default 64.
    pub feed_readers: Option<usize>,
}

/// Readers of the feed unless it is said how many.
const FEED_READERS: usize = 64;

impl Keeping {
    /// How many words each of so many shards keeps of orders, and of changes.
    fn words(&self, shards: u16) -> [u64; 2] {
        let bytes = self.rows_bytes.unwrap_or_else(|| (machine_bytes() / 16).max(ROWS_BYTES_MIN));
        let words = bytes / 8 / u64::from(shards);
        [words / 4 * 3, words / 4]
    }
}

const ROWS_BYTES_MIN: u64 = 256 << 20;

/// Bytes of the machine's memory.
fn machine_bytes() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram * u64::from(info.mem_unit)
}

/// What is beside a log: snapshots of its shards, and its old segments.
struct Beside {
    snapshots: Snapshots,
    policy: SnapshotPolicy,
    /// The log's directory, to read from.
    disk: Arc<dyn Disk>,
    archive: Option<Arc<Archive>>,
    index: LogIndex,
    keep_words: [u64; 2],
    space: SpaceThread,
    feed_readers: usize,
}

/// Recovers the directory's shards and makes this process their owner.
pub fn open(
    dir: &DataDir,
    groups: usize,
    capacity: Capacity,
    keeping: &Keeping,
) -> Result<(Opened, Recovered), OpenError> {
    let config = LocalConfig {
        segment_bytes: dir.segment_bytes(),
        salt: dir.draw_salt()?,
        ..LocalConfig::default()
    };
    let archive = dir.archive(&keeping.archive)?;
    let log_disk = dir.log()?;
    let snapshots = Snapshots::open(dir.snapshots()?)?;
    let (mut index, damaged) = LogIndex::open(dir.index()?)?;
    for error in damaged {
        tracing::error!(%error, "the index is made of the log again");
    }
    let reserve = keeping.disk_reserve.unwrap_or(4 * dir.segment_bytes());
    let space = SpaceThread::spawn(dir.path(), reserve)?;

    let placement = dir.placement(groups, capacity);
    let seed = KeySeed(placement.hash_seed);
    let memory = MemoryThread::spawn(SpareRegions::default())?;
    let mut recover = || {
        let opening = LocalLog::begin(log_disk.clone(), config)?;
        let beside = (&snapshots, &mut index, seed);
        let history = || whole_log(log_disk.clone(), archive.clone());
        placement.recovering(&memory, |wanted| recover_local(opening, beside, history, wanted))
    };
    let (log, recovered, recovery) = match (recover(), &archive) {
        (Err(OpenError::Log(error)), Some(archive))
            if repair(&log_disk, archive, config.segment_bytes, &error) =>
        {
            recover()?
        }
        (recovered, _) => recovered?,
    };
    // Only now: a segment that was repaired has another key.
    let disk = dir.log_read_only()?;
    let (policy, keep_words) = (keeping.snapshots, keeping.words(dir.shards()));
    let feed_readers = keeping.feed_readers.unwrap_or(FEED_READERS);
    let beside =
        Beside { snapshots, policy, disk, archive, index, keep_words, space, feed_readers };
    let opened = start(log, LocalLog::close, placement, memory, recovery, Some(beside))?;
    Ok((opened, recovered))
}

/// The same on any log, without snapshots.
pub fn open_log<L: Log + 'static>(
    log: L,
    close: impl FnOnce(L) -> Result<(), LogError> + Send + 'static,
    placement: Placement,
) -> Result<Opened, OpenError> {
    let memory = MemoryThread::spawn(SpareRegions::default())?;
    let recovery = placement.recovering(&memory, |wanted| recover(&log, wanted))?;
    start(log, close, placement, memory, recovery, None)
}

/// Puts segments back that are damaged and that the archive has as they were; false if it hasn't.
fn repair(
    disk: &Arc<dyn Disk>,
    archive: &Arc<Archive>,
    segment_bytes: u64,
    error: &LogError,
) -> bool {
    let repaired = Repair::plan(disk, archive, segment_bytes, error).and_then(|plan| {
        let Some(repair) = plan else { return Ok(false) };
        let damaged = repair.damaged().to_vec();
        repair.run()?;
        for (segment, position) in damaged {
            let words = "a damaged segment of the log was replaced by its archived copy";
            tracing::warn!(segment, position, "{words}");
        }
        Ok(true)
    });
    repaired.unwrap_or_else(|failed| {
        tracing::warn!(error = %failed, "the archive can't repair the log");
        false
    })
}

fn start<L: Log + 'static>(
    log: L,
    close: impl FnOnce(L) -> Result<(), LogError> + Send + 'static,
    placement: Placement,
    memory: MemoryThread,
    recovery: Recovery,
    beside: Option<Beside>,
) -> Result<Opened, OpenError> {
    let ids: Vec<ShardId> = (0..placement.shards).map(ShardId).collect();
    let seed = KeySeed(placement.hash_seed);
    let groups = placement.groups.clamp(1, placement.shards.into());
    let mut members: Vec<Vec<_>> = (0..groups).map(|_| Vec::new()).collect();
    for shard in recovery.shards {
        let id = shard.seat().id;
        members[usize::from(id.0) % groups].push((shard, log.end(id)));
    }
    let stages = Stages::new();
    let log = LogThread::spawn(log, stages.log(), close)?;
    let started = members.into_iter().zip(0u16..).map(|(members, number)| {
        let (memory, stages) = (memory.clone(), stages.clone());
        GroupTask::new(number, placement.shards, members, &log, memory, stages)
    });
    let (mut tasks, mut of_group): (Vec<GroupTask>, Vec<GroupHandle>) = started.unzip();
    let jobs = Arc::downgrade(&log.jobs());
    let (mut threads, mut feed) = (None, None);
    if let Some(beside) = beside {
        let Beside { snapshots, policy, disk, archive, index, keep_words, space, feed_readers } =
            beside;
        let places = (disk.clone(), archive.clone());
        feed = Some(Feed::start(&log.jobs(), places, &placement, feed_readers)?);
        let settle_step = placement.settle_step;
        let records = Records { log: jobs.clone(), archive: archive.clone(), settle_step };
        let lookups = LookupThreads::spawn(index, seed, records)?;
        for (task, own) in tasks.iter_mut().zip(&mut of_group) {
            task.keep(keep_words, lookups.way(), own);
            task.watch(space.space());
            (own.archive, own.index) = (archive.clone(), Some(lookups.way()));
        }
        let archiver = Archiver { archive, disk, log: jobs, figures: Arc::default() };
        threads = Some((snapshots, policy, (archiver, lookups, space)));
    }
    let handle = |id: &ShardId| {
        let group = usize::from(id.0) % groups;
        (group as u16, of_group[group].clone())
    };
    let handles: Vec<(u16, GroupHandle)> = ids.iter().map(handle).collect();
    tasks.iter_mut().for_each(|task| task.connect(&handles));
    let lags = recovery.lags;
    let spawn = |(snapshots, policy, threads)| {
        SnapshotThread::spawn(snapshots, policy, &handles, lags, threads, stages)
    };
    let snapshots = threads.map(spawn).transpose()?;
    let Recovery { replayed, restored, passed_over, .. } = recovery;
    Ok(Opened { tasks, handles, log, snapshots, feed, replayed, restored, passed_over })
}
