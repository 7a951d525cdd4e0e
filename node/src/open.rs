//! Opening a data directory: recover the log, execute it again, take ownership.

use std::sync::Arc;
use std::thread::ScopedJoinHandle;
use std::time::Duration;

use model::frame::Frame;
use model::{Offset, ShardId};
use mq::{
    Archive, ArchiveDisk, ArchiveError, DirDisk, Disk, IndexError, LocalConfig, LocalLog,
    LocalReader, Log, LogEnd, LogError, LogIndex, Recovered, SnapshotError, SnapshotId, Snapshots,
    UnionDisk,
};
use txn_core::{Capacity, Seat, Shard, SpareRegions};

use crate::archiver::{ArchiveLocation, Archiver};
use crate::lookups::{IndexedFrames, KeySeed, LookupThreads, Records};
use crate::memory::MemoryThread;
use crate::replay::{Difference, Replay};
use crate::snapshots::{RestoredShard, SnapshotPolicy, SnapshotThread, restore_shard};
use crate::space::SpaceThread;
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
        "the index lacks records of shard {shard}, and these were trimmed and aren't in the          archive: what has left memory can't be found"
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
}

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
}

/// A log from its beginning, as far back as it is kept anywhere.
pub(crate) fn whole_log(
    disk: Arc<dyn Disk>,
    archive: Option<Arc<Archive>>,
) -> Result<LocalReader, LogError> {
    match archive {
        Some(archive) => {
            let union = UnionDisk::new(disk, Arc::new(ArchiveDisk(archive)));
            let listing = |source| LogError::Io { doing: "listing the archive", source };
            LocalReader::whole(Arc::new(union.map_err(listing)?))
        }
        None => LocalReader::whole(disk),
    }
}

/// Recovers the directory's shards and makes this process their owner.
pub fn open(
    dir: &DataDir,
    groups: usize,
    capacity: Capacity,
    keeping: &Keeping,
) -> Result<(Opened, Recovered), OpenError> {
    let disk = Arc::new(DirDisk::open(dir.log_path()).map_err(DataDirError::at(dir))?);
    let config = LocalConfig {
        segment_bytes: dir.segment_bytes(),
        salt: dir.draw_salt()?,
        ..LocalConfig::default()
    };
    let archive = keeping.archive.open(dir.path())?;
    let (log, recovered) = LocalLog::open(disk, config)?;
    let saved = Arc::new(DirDisk::open(dir.snapshots_path()).map_err(DataDirError::at(dir))?);
    let indexed = Arc::new(DirDisk::open(dir.index_path()).map_err(DataDirError::at(dir))?);
    let (index, damaged) = LogIndex::open(indexed)?;
    for error in damaged {
        tracing::error!(%error, "the index is made of the log again");
    }
    let reserve = keeping.disk_reserve.unwrap_or(4 * dir.segment_bytes());
    let beside = Beside {
        space: SpaceThread::spawn(dir.path(), reserve)?,
        index,
        keep_words: keeping.words(dir.shards()),
        snapshots: Snapshots::open(saved)?,
        policy: keeping.snapshots,
        disk: Arc::new(DirDisk::read_only(dir.log_path()).map_err(DataDirError::at(dir))?),
        archive,
    };
    let opened = open_with(log, LocalLog::close, dir.placement(groups, capacity), Some(beside))?;
    Ok((opened, recovered))
}

/// The same on any log, without snapshots.
pub fn open_log<L: Log + 'static>(
    log: L,
    close: impl FnOnce(L) -> Result<(), LogError> + Send + 'static,
    placement: Placement,
) -> Result<Opened, OpenError> {
    open_with(log, close, placement, None)
}

fn open_with<L: Log + 'static>(
    log: L,
    close: impl FnOnce(L) -> Result<(), LogError> + Send + 'static,
    placement: Placement,
    mut beside: Option<Beside>,
) -> Result<Opened, OpenError> {
    let spare = SpareRegions::default();
    let memory = MemoryThread::spawn(spare.clone())?;
    let ids: Vec<ShardId> = (0..placement.shards).map(ShardId).collect();
    let seed = KeySeed(placement.hash_seed);
    let look = || memory.look();
    let recovery = match &mut beside {
        Some(Beside { snapshots, disk, archive, index, .. }) => {
            let history = || whole_log(disk.clone(), archive.clone()).map(Some);
            let beside = Some((&*snapshots, &mut *index, seed));
            recover(&log, beside, history, &placement, &ids, &spare, look)?
        }
        None => recover(&log, None, || Ok(None), &placement, &ids, &spare, look)?,
    };
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
    let mut threads = None;
    if let Some(beside) = beside {
        let Beside { snapshots, policy, disk, archive, index, keep_words, space } = beside;
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
    Ok(Opened { tasks, handles, log, snapshots, replayed, restored, passed_over })
}

/// What was made of a log and of snapshots.
pub struct Recovery {
    /// The shards that were wanted, in that order, each at the end of its log.
    pub shards: Vec<Shard>,
    /// Records that were executed again.
    pub replayed: u64,
    /// Shards that were made of a snapshot.
    pub restored: usize,
    /// By shard as in `shards`: bytes of the whole log behind its snapshot.
    pub lags: Vec<u64>,
    /// Snapshots that were no good, and why. They were removed.
    pub passed_over: Vec<(SnapshotId, SnapshotError)>,
}

/// Makes shards of their newest good snapshots, and executes the rest of the log again: where a
/// shard has no good one and its log was trimmed, with what `history` has of it. Records that the
/// index lacks are added to it. `after_frame` is called after each frame.
pub fn recover(
    log: &impl Log,
    beside: Option<(&Snapshots, &mut LogIndex, KeySeed)>,
    history: impl FnOnce() -> Result<Option<LocalReader>, LogError>,
    placement: &Placement,
    wanted: &[ShardId],
    spare: &SpareRegions,
    mut after_frame: impl FnMut(),
) -> Result<Recovery, OpenError> {
    let (snapshots, mut index) = match beside {
        Some((snapshots, index, seed)) => (Some(snapshots), Some((index, seed))),
        None => (None, None),
    };
    let restored = match snapshots {
        Some(snapshots) => restore_all(snapshots, placement, wanted, spare)?,
        None => {
            let empty = |id: &ShardId| RestoredShard::empty(placement.shard(*id, spare));
            wanted.iter().map(empty).collect()
        }
    };
    let mut by_id = vec![None; placement.shards.into()];
    for (at, id) in wanted.iter().enumerate() {
        by_id[usize::from(id.0)] = Some(at);
    }
    let mut recovery = Recovery {
        shards: Vec::new(),
        replayed: 0,
        restored: 0,
        lags: Vec::new(),
        passed_over: Vec::new(),
    };
    let mut seeks = Vec::new();
    for RestoredShard { shard, place, passed_over } in restored {
        recovery.restored += usize::from(place.is_some());
        recovery.shards.push(shard);
        recovery.passed_over.extend(passed_over);
        seeks.push(Seek::new(place.map(|place| place.end)));
    }
    let is_trimmed =
        |id: ShardId, first: Offset| matches!(log.read(id, first), Err(LogError::Trimmed { .. }));
    let lacks = |(id, seek): (&ShardId, &Seek)| {
        let first = seek.end.map_or(Offset(1), |end| end.next);
        let known = index.as_ref().map_or(first, |(index, _)| index.known(*id));
        if is_trimmed(*id, first) {
            Some(OpenError::NoBeginning { shard: *id })
        } else {
            is_trimmed(*id, known).then_some(OpenError::NoIndex { shard: *id })
        }
    };
    let mut frames = match wanted.iter().zip(&seeks).find_map(lacks) {
        None => log.read_all()?,
        Some(error) => match history()? {
            Some(history) if history.is_whole() => Box::new(history),
            _ => return Err(error),
        },
    };
    let mut replay = Replay::default();
    let mut bytes = 0;
    let mut saved_at = vec![0; wanted.len()];
    while let Some(frame) = frames.next()? {
        let at = by_id.get(usize::from(frame.place().shard.0)).copied().flatten();
        let at = at.ok_or_else(|| Difference::foreign(&frame))?;
        bytes += frame.bytes.len() as u64;
        if let Some((index, seed)) = &mut index
            && frame.place().first_offset >= index.known(frame.place().shard)
        {
            let mut found = IndexedFrames::default();
            seed.index(&frame, &mut found);
            found.add_to(index);
            if index.is_full() {
                index.flush()?;
            }
        }
        if seeks[at].is_behind(&frame)? {
            saved_at[at] = bytes;
        } else {
            replay.apply(&mut recovery.shards[at], frame)?;
            recovery.replayed += u64::from(frame.header.count.get());
        }
        after_frame();
    }
    recovery.lags = saved_at.iter().map(|saved_at| bytes - saved_at).collect();
    for shard in &recovery.shards {
        let (shard, next) = (shard.seat().id, log.end(shard.seat().id).next);
        let offset = index.as_ref().map_or(next, |(index, _)| index.known(shard));
        if offset > next {
            return Err(OpenError::LogBehind { shard, offset, next });
        }
    }
    for (seek, shard) in seeks.iter().zip(&recovery.shards) {
        let Some(saved) = seek.end else { continue };
        // All frames before may have been trimmed, and none have come since.
        let end = log.end(shard.seat().id);
        if end.next < saved.next || seek.is_met {
            let (shard, offset) = (shard.seat().id, saved.next);
            return Err(OpenError::LogBehind { shard, offset, next: end.next });
        }
    }
    // They would only take the place of good ones.
    for (id, _) in &recovery.passed_over {
        snapshots.map_or(Ok(()), |snapshots| snapshots.remove(*id))?;
    }
    snapshots.map_or(Ok(()), Snapshots::remove_old)?;
    Ok(recovery)
}

/// Where a shard's log is looked for that its snapshot goes on with.
#[derive(Default)]
pub(crate) struct Seek {
    /// Where the snapshot goes on, until the frame before that was met: then the log leads there.
    end: Option<LogEnd>,
    /// Whether any frame of the shard was met.
    is_met: bool,
}

impl Seek {
    pub(crate) fn new(end: Option<LogEnd>) -> Seek {
        Seek { end, is_met: false }
    }

    /// Whether what a frame says is in the snapshot already.
    pub(crate) fn is_behind(&mut self, frame: &Frame<'_>) -> Result<bool, Difference> {
        let is_first = !std::mem::replace(&mut self.is_met, true);
        let Some(end) = self.end else { return Ok(false) };
        let place = frame.place();
        if (frame.next_offset(), frame.header.hash.get()) == (end.next, end.previous) {
            self.end = None;
            return Ok(true);
        }
        // What was before it was trimmed: frames without records may have been behind the one
        // that the snapshot stands at.
        let follows = place.first_offset == end.next && place.epoch >= end.epoch;
        if follows && (is_first || place.previous == end.previous) {
            self.end = None;
            return Ok(false);
        }
        if frame.next_offset() <= end.next {
            return Ok(true);
        }
        let detail = "a snapshot goes on here, and the log goes on otherwise".to_string();
        Err(Difference { shard: place.shard, offset: end.next, detail, repeated: false })
    }
}

/// Makes shards of snapshots: several at once, for that is reading and copying.
fn restore_all(
    snapshots: &Snapshots,
    placement: &Placement,
    wanted: &[ShardId],
    spare: &SpareRegions,
) -> Result<Vec<RestoredShard>, OpenError> {
    let found = snapshots.list()?;
    let threads = placement.groups.clamp(1, wanted.len().max(1));
    let restore = |first: usize| {
        let theirs = wanted.iter().skip(first).step_by(threads);
        let ids = |id: &ShardId| found.get(id).map_or(&[][..], Vec::as_slice);
        let shards = theirs.map(|id| restore_shard(snapshots, ids(id), placement, *id, spare));
        shards.collect::<Result<Vec<_>, SnapshotError>>()
    };
    let mut parts: Vec<_> = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|n| scope.spawn(move || restore(n))).collect();
        let join = |thread: ScopedJoinHandle<'_, _>| thread.join().expect("it doesn't panic");
        let first = restore(0);
        std::iter::once(first).chain(others.into_iter().map(join)).collect::<Result<Vec<_>, _>>()
    })?
    .into_iter()
    .map(Vec::into_iter)
    .collect();
    Ok((0..wanted.len()).filter_map(|at| parts[at % threads].next()).collect())
}
