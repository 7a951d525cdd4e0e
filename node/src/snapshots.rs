//! Takes snapshots while shards serve, and makes shards of them when a node starts.
//!
//! A thread looks how much was logged since each shard was saved last. The shard that is most
//! overdue is asked for a snapshot; its group saves it slice by slice between its batches, and
//! this thread writes the slices down. One shard at a time: so what a change has to save first is
//! bounded by one shard's tables, and the disk has one writer beside the log.
//!
//! Nothing depends on it: a snapshot that can't be written is given up, and tried again later.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use model::record::RULE_VERSION;
use model::{Offset, ShardId};
use mq::{
    LogEnd, SNAPSHOTS_KEPT, SnapshotError, SnapshotId, SnapshotPlace, SnapshotWriter, Snapshots,
};
use tokio::sync::mpsc::WeakUnboundedSender;
use txn_core::{Piece, Restoring, Shard, SpareRegions};

use crate::archiver::{Archiver, Before, TrimFigures};
use crate::inbox::Parcel;
use crate::lookups::{IndexJob, LookupThreads, RowFigures};
use crate::space::{DiskSpace, SpaceThread};
use crate::stages::Stages;
use crate::threads::{self, Priority};
use crate::{GroupHandle, Placement};

/// A shard is saved again when so much was logged, or as much as all snapshots take, whichever is
/// more: replaying it takes some seconds at most, and no more is written for snapshots than for
/// the log.
const EVERY_MIN: u64 = 256 << 20;
/// How often the thread looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// After a snapshot failed, the next one is tried so much later.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// When snapshots are taken.
#[derive(Clone, Copy, Debug, Default)]
pub struct SnapshotPolicy {
    /// Bytes of log after which a shard is saved again. Default: 256 MiB, or as much as all
    /// snapshots take, whichever is more.
    pub every_bytes: Option<u64>,
}

/// Pieces that may wait to be written before no more than what has to be is saved.
pub(crate) const AHEAD: usize = 8;
/// Unless it is said how often, a snapshot is written half again as fast as the log, no more, so
/// that the disk is the log's: that is enough for as many bytes of snapshots as of the log. This
/// much may be ahead of that,
const PACE_AHEAD: u64 = 4 << 20;
/// and so many bytes a second come on top, for when nothing is logged.
const PACE_IDLE: u64 = 8 << 20;
const PACE_LOOK: Duration = Duration::from_millis(2);

/// Bounds between which steps are counted.
const STEP_BOUNDS: [Duration; 9] = [
    Duration::from_micros(20),
    Duration::from_micros(50),
    Duration::from_micros(100),
    Duration::from_micros(200),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_millis(2),
    Duration::from_millis(5),
    Duration::from_millis(10),
];

/// What a group is asked for.
pub(crate) struct Assignment {
    pub(crate) shard: ShardId,
    pub(crate) parts: Sender<Part>,
    /// Pieces that were handed over and aren't written yet.
    pub(crate) unwritten: Arc<AtomicUsize>,
    pub(crate) figures: Arc<SnapshotFigures>,
}

/// What a group hands over of a snapshot.
pub(crate) enum Part {
    Begun(LogEnd),
    Pieces(Vec<Piece>),
    /// That was all, and the log is durable up to where it stands.
    Whole,
}

/// What was saved since the start.
#[derive(Debug, Default)]
pub struct SnapshotFigures {
    taken: AtomicU64,
    failed: AtomicU64,
    bytes: AtomicU64,
    lag_bytes: AtomicU64,
    steps: [AtomicU64; STEP_BOUNDS.len() + 1],
    steps_ns: AtomicU64,
}

impl SnapshotFigures {
    /// Snapshots that were taken.
    pub fn taken(&self) -> u64 {
        self.taken.load(Relaxed)
    }

    /// Snapshots that were given up.
    pub fn failed(&self) -> u64 {
        self.failed.load(Relaxed)
    }

    /// Bytes that were written for them.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// For how long shards stood still to be saved, step by step: how many steps took no longer
    /// than each of these, and longer than the one before, and all of them together. What a
    /// change copies first is in the time of what changes.
    pub fn steps(&self) -> (Vec<(Duration, u64)>, Duration) {
        let bounds = STEP_BOUNDS.into_iter().chain([Duration::MAX]);
        let counts = bounds.zip(&self.steps).map(|(bound, count)| (bound, count.load(Relaxed)));
        (counts.collect(), Duration::from_nanos(self.steps_ns.load(Relaxed)))
    }

    pub(crate) fn step(&self, took: Duration) {
        let at = STEP_BOUNDS.partition_point(|bound| *bound < took);
        self.steps[at].fetch_add(1, Relaxed);
        self.steps_ns.fetch_add(took.as_nanos() as u64, Relaxed);
    }

    /// Bytes of log behind the oldest of the shards' newest snapshots: at most so much a restart
    /// has to execute again.
    pub fn lag_bytes(&self) -> u64 {
        self.lag_bytes.load(Relaxed)
    }
}

/// The thread that has snapshots taken. It ends when this is dropped.
pub struct SnapshotThread {
    stop: Arc<AtomicBool>,
    figures: Arc<SnapshotFigures>,
    thread: Option<JoinHandle<()>>,
    trims: Arc<TrimFigures>,
    lookups: LookupThreads,
    space: SpaceThread,
}

impl SnapshotThread {
    /// `lags` says, by shard, how much of the log is behind its newest snapshot.
    pub(crate) fn spawn(
        snapshots: Snapshots,
        policy: SnapshotPolicy,
        handles: &[(u16, GroupHandle)],
        lags: Vec<u64>,
        (archiver, lookups, space): (Archiver, LookupThreads, SpaceThread),
        stages: Arc<Stages>,
    ) -> std::io::Result<SnapshotThread> {
        let trims = archiver.figures.clone();
        let trim = archiver.spawn()?;
        let stop = Arc::<AtomicBool>::default();
        let figures = Arc::<SnapshotFigures>::default();
        let keeper = Keeper {
            snapshots,
            policy,
            groups: handles.iter().map(|(_, handle)| handle.parcels.downgrade()).collect(),
            saved_at: lags.iter().map(|lag| -(*lag as i64)).collect(),
            sizes: vec![0; handles.len()],
            stages,
            trim,
            index: lookups.way().jobs,
            space: space.space(),
            stop: stop.clone(),
            figures: figures.clone(),
        };
        let run = move || keeper.run();
        let thread = Some(threads::spawn("crest-snapshot", Priority::Background, run)?);
        Ok(SnapshotThread { stop, figures, thread, trims, lookups, space })
    }

    /// What was trimmed so far.
    pub fn trims(&self) -> Arc<TrimFigures> {
        self.trims.clone()
    }

    /// What left memory, and what was looked up.
    pub fn rows(&self) -> Arc<RowFigures> {
        self.lookups.figures()
    }

    /// The room on the disk.
    pub fn space(&self) -> Arc<DiskSpace> {
        self.space.space()
    }

    /// What it did so far.
    pub fn figures(&self) -> Arc<SnapshotFigures> {
        self.figures.clone()
    }
}

impl Drop for SnapshotThread {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            // It may have panicked; there is nobody left to tell.
            drop(thread.join());
        }
    }
}

struct Keeper {
    snapshots: Snapshots,
    policy: SnapshotPolicy,
    /// By shard: the way to its group.
    groups: Vec<WeakUnboundedSender<Parcel>>,
    /// By shard: where the log was when it was saved last, from the start on; negative: before.
    saved_at: Vec<i64>,
    /// By shard: bytes of its newest snapshot.
    sizes: Vec<u64>,
    stages: Arc<Stages>,
    /// Told what may be trimmed.
    trim: Sender<Before>,
    index: Sender<IndexJob>,
    space: Arc<DiskSpace>,
    stop: Arc<AtomicBool>,
    figures: Arc<SnapshotFigures>,
}

impl Keeper {
    fn run(mut self) {
        self.trim();
        while !self.stop.load(Relaxed) {
            let logged = self.stages.log_bytes() as i64;
            let oldest = (0..self.saved_at.len()).min_by_key(|shard| self.saved_at[*shard]);
            let Some(shard) = oldest else { return };
            let lag = (logged - self.saved_at[shard]) as u64;
            self.figures.lag_bytes.store(lag, Relaxed);
            let every = self.policy.every_bytes;
            let every = every.unwrap_or_else(|| EVERY_MIN.max(self.sizes.iter().sum()));
            // What the disk has no room for would take it from the log.
            if lag < every || !self.space.has_room_for(self.sizes[shard]) {
                std::thread::park_timeout(LOOK_EVERY);
                continue;
            }
            match self.take(shard) {
                Ok(Some(bytes)) => {
                    self.saved_at[shard] = logged;
                    self.sizes[shard] = bytes;
                    self.figures.taken.fetch_add(1, Relaxed);
                    self.figures.bytes.fetch_add(bytes, Relaxed);
                    self.trim();
                }
                Ok(None) => return, // The group has ended.
                Err(error) => {
                    tracing::warn!(shard, %error, "no snapshot was taken");
                    self.figures.failed.fetch_add(1, Relaxed);
                    let again = Instant::now() + AFTER_FAILURE;
                    while Instant::now() < again && !self.stop.load(Relaxed) {
                        std::thread::park_timeout(LOOK_EVERY);
                    }
                }
            }
        }
    }

    /// Has trimmed what both snapshots of each shard are past, and is durable in the index.
    fn trim(&self) {
        let before = match trimmable(&self.snapshots) {
            Ok(before) => before,
            Err(error) => return tracing::warn!(%error, "nothing is trimmed"),
        };
        let (answer, answered) = channel();
        if before.is_empty() || self.index.send(IndexJob::Flush(answer)).is_err() {
            return;
        }
        // Without an index, or an archiver, the process ends.
        let Ok(indexed) = answered.recv() else { return };
        // A shard without records has none that would have to be indexed.
        let before = before.into_iter().map(|(shard, offset)| {
            let covered = indexed.iter().find(|(other, _)| *other == shard);
            (shard, offset.min(covered.map_or(Offset(1), |(_, next)| *next)))
        });
        drop(self.trim.send(before.collect()));
    }

    /// Has one snapshot taken: its bytes. `None`: nobody takes one any more.
    fn take(&self, shard: usize) -> Result<Option<u64>, SnapshotError> {
        let Some(group) = self.groups[shard].upgrade() else { return Ok(None) };
        let (parts, taken) = channel();
        let unwritten = Arc::<AtomicUsize>::default();
        let shard = ShardId(shard as u16);
        let assignment = Assignment {
            shard,
            parts,
            unwritten: unwritten.clone(),
            figures: self.figures.clone(),
        };
        if group.send(Parcel::Snapshot(assignment)).is_err() {
            return Ok(None);
        }
        drop(group);
        let Ok(Part::Begun(end)) = taken.recv() else { return Ok(None) };
        let mut writer = self.snapshots.create(shard, end, RULE_VERSION)?;
        match self.write(&mut writer, &taken, &unwritten) {
            Ok(true) => writer.finish().map(|(_, bytes)| Some(bytes)),
            Ok(false) => writer.abandon().map(|()| None),
            Err(error) => {
                // Why it failed says more than that its rest stays until the next start.
                drop(writer.abandon());
                Err(error)
            }
        }
    }

    /// Writes what comes. Says whether all came; if not, the group has ended.
    fn write(
        &self,
        writer: &mut SnapshotWriter,
        parts: &Receiver<Part>,
        unwritten: &AtomicUsize,
    ) -> Result<bool, SnapshotError> {
        let (began, logged) = (Instant::now(), self.stages.log_bytes());
        let mut written = 0;
        // What isn't written yet keeps the group from handing over more, but for pages that
        // changes save first: these aren't to pile up.
        let may_write = |written| {
            let idle = began.elapsed().as_millis() as u64 * PACE_IDLE / 1_000;
            self.policy.every_bytes.is_some()
                || unwritten.load(Relaxed) > AHEAD
                || written <= PACE_AHEAD + idle + (self.stages.log_bytes() - logged) / 2 * 3
        };
        loop {
            match parts.recv() {
                Ok(Part::Pieces(pieces)) => {
                    for piece in pieces {
                        while !may_write(written) && !self.stop.load(Relaxed) {
                            std::thread::park_timeout(PACE_LOOK);
                        }
                        writer.add(piece.bytes())?;
                        written += piece.bytes().len() as u64;
                        unwritten.fetch_sub(1, Relaxed);
                    }
                }
                Ok(Part::Whole) => return Ok(true),
                Ok(Part::Begun(_)) | Err(_) => return Ok(false),
            }
        }
    }
}

/// By shard, the offset before which its log isn't needed: the older of the two snapshots that
/// are kept stands there.
pub fn trimmable(snapshots: &Snapshots) -> Result<Vec<(ShardId, Offset)>, SnapshotError> {
    let mut before = Vec::new();
    for (shard, ids) in snapshots.list()? {
        if ids.len() < SNAPSHOTS_KEPT {
            continue;
        }
        match snapshots.read(ids[SNAPSHOTS_KEPT - 1]) {
            Ok(reader) => before.push((shard, reader.place().end.next)),
            // It is no good: until another one is there, all is kept.
            Err(SnapshotError::Damaged { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(before)
}

/// A shard made of its newest good snapshot, or an empty one.
pub struct RestoredShard {
    /// It.
    pub shard: Shard,
    /// Where its log goes on; `None` without a snapshot.
    pub place: Option<SnapshotPlace>,
    /// Snapshots that were no good, and why.
    pub passed_over: Vec<(SnapshotId, SnapshotError)>,
}

impl RestoredShard {
    pub(crate) fn empty(shard: Shard) -> RestoredShard {
        RestoredShard { shard, place: None, passed_over: Vec::new() }
    }
}

/// Makes a shard of the newest of its snapshots that is good. `ids` are those that there are, the
/// newest first.
pub fn restore_shard(
    snapshots: &Snapshots,
    ids: &[SnapshotId],
    placement: &Placement,
    shard: ShardId,
    spare: &SpareRegions,
) -> Result<RestoredShard, SnapshotError> {
    let mut passed_over = Vec::new();
    for &id in ids {
        match restore(snapshots, id, placement, spare) {
            Ok((shard, place)) => {
                return Ok(RestoredShard { shard, place: Some(place), passed_over });
            }
            Err(error @ SnapshotError::Io { .. }) => return Err(error),
            Err(error) => passed_over.push((id, error)),
        }
    }
    Ok(RestoredShard { passed_over, ..RestoredShard::empty(placement.shard(shard, spare)) })
}

fn restore(
    snapshots: &Snapshots,
    id: SnapshotId,
    placement: &Placement,
    spare: &SpareRegions,
) -> Result<(Shard, SnapshotPlace), SnapshotError> {
    let mut reader = snapshots.read(id)?;
    let place = reader.place();
    let damaged = |what: String| SnapshotError::Damaged { name: id.name(), what };
    if place.rules != RULE_VERSION {
        let rules = place.rules;
        let what = format!("of rules of version {rules}; this program has version {RULE_VERSION}");
        return Err(damaged(what));
    }
    let mut restoring = Restoring::new(placement.empty_shard(id.shard, spare));
    while let Some(piece) = reader.next_piece()? {
        restoring.add(piece).map_err(|error| damaged(error.to_string()))?;
    }
    let mut shard = restoring.finish().map_err(|error| damaged(error.to_string()))?;
    if shard.next_offset() != place.end.next {
        return Err(damaged("it stands elsewhere than its header says".to_string()));
    }
    placement.reserve(&mut shard);
    Ok((shard, place))
}
