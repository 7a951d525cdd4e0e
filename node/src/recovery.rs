//! Makes shards of snapshots and of the log behind them.
//!
//! The log is read once: what opens it lends its frames, and each thread executes those of its own
//! shards. Frames go from thread to thread by the megabyte.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};

use model::frame::Frame;
use model::{Offset, ShardId};
use mq::{
    Archive, ArchiveDisk, Disk, FrameSource, LocalLog, LocalReader, Log, LogEnd, LogError,
    LogIndex, Opening, Recovered, SnapshotError, SnapshotId, Snapshots, UnionDisk,
};
use txn_core::{Shard, SpareRegions};

use crate::lookups::{IndexedFrames, KeySeed};
use crate::replay::{Difference, Replay};
use crate::snapshots::{RestoredShard, restore_shard};
use crate::{OpenError, Placement};

/// Bytes of frames that a thread is given at once.
const BATCH_BYTES: usize = 1 << 20;
/// Batches that wait for a thread.
const BATCHES: usize = 4;

/// What is beside a log, and what keys of its index are made with.
pub type Beside<'a> = (&'a Snapshots, &'a mut LogIndex, KeySeed);

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
    seeks: Vec<Seek>,
}

/// What a recovery is to make, and of what memory.
pub struct Wanted<'a> {
    /// How shards are made. One thread is started for each group.
    pub placement: &'a Placement,
    /// Which.
    pub shards: &'a [ShardId],
    /// Memory for them.
    pub spare: &'a SpareRegions,
    /// Called after each frame that was read.
    pub after_frame: &'a dyn Fn(),
}

/// Opens a log, and makes shards of their newest good snapshots and of what it has behind them:
/// where a shard has no good one and its log was trimmed, with what `history` has of it. Records
/// that the index lacks are added to it.
pub fn recover_local(
    mut log: Opening,
    (snapshots, index, seed): Beside<'_>,
    history: impl FnOnce() -> Result<LocalReader, LogError>,
    wanted: &Wanted<'_>,
) -> Result<(LocalLog, Recovered, Recovery), OpenError> {
    let first = wanted.recover(&mut log, Some((snapshots, &mut *index, seed)));
    let lacks = |error: &OpenError| {
        matches!(error, OpenError::NoBeginning { .. } | OpenError::NoIndex { .. })
    };
    let first = match first {
        Err(error) if !lacks(&error) => return Err(error),
        first => first,
    };
    while log.next()?.is_some() {}
    let settled = first.and_then(|recovery| recovery.settled(|id| log.end(id), Some(index)));
    let recovery = match settled {
        Err(error) if lacks(&error) => {
            let mut history = history()?;
            if !history.is_whole() {
                return Err(error);
            }
            let recovery = wanted.recover(&mut history, Some((snapshots, &mut *index, seed)))?;
            recovery.settled(|id| log.end(id), Some(index))?
        }
        settled => settled?,
    };
    // Whoever reads a log needs it to rest, so nothing was changed before.
    let (log, found) = log.finish()?;
    // They would only take the place of good ones.
    for (id, _) in &recovery.passed_over {
        snapshots.remove(*id)?;
    }
    snapshots.remove_old()?;
    index.remove_useless()?;
    Ok((log, found, recovery))
}

/// Makes shards of a log alone.
pub fn recover(log: &impl Log, wanted: &Wanted<'_>) -> Result<Recovery, OpenError> {
    wanted.recover(&mut *log.read_all()?, None)?.settled(|id| log.end(id), None)
}

impl Wanted<'_> {
    /// Makes the shards. The log's end isn't looked at yet: see [`Recovery::settled`].
    fn recover(
        &self,
        log: &mut dyn FrameSource,
        beside: Option<Beside<'_>>,
    ) -> Result<Recovery, OpenError> {
        let (restored, mut index) = match beside {
            Some((snapshots, index, seed)) => (self.restore_all(snapshots)?, Some((index, seed))),
            None => {
                let shard = |id: &ShardId| self.placement.shard(*id, self.spare);
                let restored = self.shards.iter().map(|id| RestoredShard::empty(shard(id)));
                (restored.collect(), None)
            }
        };
        let threads = self.threads();
        let mut executors: Vec<Executor> = (0..threads).map(|_| Executor::default()).collect();
        let mut recovery = Recovery {
            shards: Vec::new(),
            replayed: 0,
            restored: 0,
            lags: vec![0; self.shards.len()],
            passed_over: Vec::new(),
            seeks: Vec::new(),
        };
        for (at, RestoredShard { shard, place, passed_over }) in restored.into_iter().enumerate() {
            recovery.restored += usize::from(place.is_some());
            recovery.passed_over.extend(passed_over);
            recovery.seeks.push(Seek::new(place.map(|place| place.end)));
            executors[at % threads].shards.push(shard);
        }
        let executed: Result<Vec<Executor>, OpenError> = std::thread::scope(|scope| {
            let spawn = |executor: Executor| executor.spawn(scope);
            let mut lanes: Vec<Lane<'_>> = executors.into_iter().map(spawn).collect();
            let read = self.read(log, &mut index, &mut lanes, &mut recovery);
            let executed: Result<_, Difference> = lanes.into_iter().map(Lane::finish).collect();
            // Frames that were executed come before what can't be read.
            let executed = executed?;
            read.map(|()| executed)
        });
        let mut parts: Vec<_> = executed?.into_iter().map(|e| e.shards.into_iter()).collect();
        recovery.shards =
            (0..self.shards.len()).filter_map(|at| parts[at % threads].next()).collect();
        Ok(recovery)
    }

    fn threads(&self) -> usize {
        self.placement.groups.clamp(1, self.shards.len().max(1))
    }

    /// Reads the log: shows all of it to the index, and what is behind snapshots to the lanes.
    fn read(
        &self,
        log: &mut dyn FrameSource,
        index: &mut Option<(&mut LogIndex, KeySeed)>,
        lanes: &mut [Lane<'_>],
        recovery: &mut Recovery,
    ) -> Result<(), OpenError> {
        let places = self.shards.iter().zip(0..).collect::<BTreeMap<&ShardId, usize>>();
        let mut bytes = 0;
        let mut saved_at = vec![0; self.shards.len()];
        loop {
            if let Some((index, _)) = index
                && index.is_full()
                && log.is_settled()
            {
                index.flush()?;
            }
            let Some(frame) = log.next()? else { break };
            let (shard, first) = (frame.place().shard, frame.place().first_offset);
            let at = *places.get(&shard).ok_or_else(|| Difference::foreign(&frame))?;
            let known = index.as_ref().map(|(index, _)| index.known(shard));
            let seek = &mut recovery.seeks[at];
            if !seek.is_met {
                seek.begins_at(shard, first, known)?;
            }
            bytes += frame.bytes.len() as u64;
            if let Some((index, seed)) = index
                && known.is_some_and(|known| first >= known)
            {
                let mut found = IndexedFrames::default();
                seed.index(&frame, &mut found);
                found.add_to(index);
            }
            if seek.is_behind(&frame)? {
                saved_at[at] = bytes;
            } else {
                recovery.replayed += u64::from(frame.header.count.get());
                let lanes_count = lanes.len();
                if !lanes[at % lanes_count].give(&frame) {
                    break;
                }
            }
            (self.after_frame)();
        }
        recovery.lags = saved_at.iter().map(|saved_at| bytes - saved_at).collect();
        Ok(())
    }

    /// Makes shards of snapshots: several at once, for that is reading and copying.
    fn restore_all(&self, snapshots: &Snapshots) -> Result<Vec<RestoredShard>, OpenError> {
        let found = snapshots.list()?;
        let threads = self.threads();
        let restore = |first: usize| {
            let theirs = self.shards.iter().skip(first).step_by(threads);
            let ids = |id: &ShardId| found.get(id).map_or(&[][..], Vec::as_slice);
            let restore =
                |id: &ShardId| restore_shard(snapshots, ids(id), self.placement, *id, self.spare);
            theirs.map(restore).collect::<Result<Vec<_>, SnapshotError>>()
        };
        let parts: Result<Vec<_>, _> = std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|n| scope.spawn(move || restore(n))).collect();
            let join = |thread: ScopedJoinHandle<'_, _>| thread.join().expect("it doesn't panic");
            let first = restore(0);
            std::iter::once(first).chain(others.into_iter().map(join)).collect()
        });
        let mut parts: Vec<_> = parts?.into_iter().map(Vec::into_iter).collect();
        Ok((0..self.shards.len()).filter_map(|at| parts[at % threads].next()).collect())
    }
}

impl Recovery {
    /// Holds what was made against the log's end: it must have all that snapshots and the index
    /// know of, and they all that it has no longer.
    fn settled(
        self,
        end: impl Fn(ShardId) -> LogEnd,
        index: Option<&LogIndex>,
    ) -> Result<Recovery, OpenError> {
        for (seek, shard) in self.seeks.iter().zip(&self.shards) {
            let shard = shard.seat().id;
            let next = end(shard).next;
            let known = index.map(|index| index.known(shard));
            let behind = |offset| Err(OpenError::LogBehind { shard, offset, next });
            if let Some(known) = known
                && known > next
            {
                return behind(known);
            }
            // All frames before may have been trimmed, and none have come since.
            if let Some(saved) = seek.end
                && (next < saved.next || seek.is_met)
            {
                return behind(saved.next);
            }
            if !seek.is_met {
                seek.begins_at(shard, next, known)?;
            }
        }
        Ok(self)
    }
}

/// Executes frames of some shards.
#[derive(Default)]
struct Executor {
    shards: Vec<Shard>,
    replay: Replay,
}

impl Executor {
    fn spawn<'scope>(mut self, scope: &'scope Scope<'scope, '_>) -> Lane<'scope> {
        let (give, given) = sync_channel::<Vec<u8>>(BATCHES);
        let (give_back, empty) = channel();
        let run = move || {
            for batch in given {
                self.execute(&batch)?;
                // Nobody wants it at the end.
                let _ = give_back.send(batch);
            }
            Ok(self)
        };
        Lane { batch: Vec::new(), full: give, empty, thread: scope.spawn(run) }
    }

    fn execute(&mut self, mut batch: &[u8]) -> Result<(), Difference> {
        while !batch.is_empty() {
            let (frame, rest) = Frame::split(batch).expect("it was read as a frame");
            let id = frame.place().shard;
            let shard = self.shards.iter_mut().find(|shard| shard.seat().id == id);
            self.replay.apply(shard.expect("it is one of this thread's"), frame)?;
            batch = rest;
        }
        Ok(())
    }
}

/// The way to an [`Executor`].
struct Lane<'scope> {
    batch: Vec<u8>,
    full: SyncSender<Vec<u8>>,
    empty: Receiver<Vec<u8>>,
    thread: ScopedJoinHandle<'scope, Result<Executor, Difference>>,
}

impl Lane<'_> {
    /// Gives a frame; false when no more are wanted.
    fn give(&mut self, frame: &Frame<'_>) -> bool {
        self.batch.extend_from_slice(frame.bytes);
        self.batch.len() < BATCH_BYTES || self.send()
    }

    fn send(&mut self) -> bool {
        let mut next = self.empty.try_recv().unwrap_or_default();
        next.clear();
        self.full.send(std::mem::replace(&mut self.batch, next)).is_ok()
    }

    fn finish(mut self) -> Result<Executor, Difference> {
        self.send();
        let Lane { full, thread, .. } = self;
        drop(full);
        thread.join().expect("executing doesn't panic")
    }
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

    /// The shard's log begins at `first`, or ends there without a frame: what is before must be in
    /// a snapshot, and in the index.
    fn begins_at(
        &self,
        shard: ShardId,
        first: Offset,
        known: Option<Offset>,
    ) -> Result<(), OpenError> {
        if self.end.map_or(Offset(1), |end| end.next) < first {
            return Err(OpenError::NoBeginning { shard });
        }
        if known.is_some_and(|known| known < first) {
            return Err(OpenError::NoIndex { shard });
        }
        Ok(())
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
