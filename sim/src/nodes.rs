//! A node: shards in groups, a log on a disk that fails, a clock that jumps.

use std::sync::Arc;
use std::time::Duration;

use model::frame::{Frame, FrameBuilder};
use model::record::{RULE_VERSION, Records, RowKey, clear_outcome};
use model::{Offset, Realm, ShardId, Time};
use mq::{
    AlignedBuf, Disk, FaultyDisk, FaultyStream, IndexError, LocalConfig, LocalLog, LocalReader,
    Log, LogError, LogIndex, LogSegment, Prepare, SnapshotWriter, Snapshots, StreamDisk, UnionDisk,
};
use node::{
    Clock, IndexedFrames, KeySeed, Lookup, Now, OpenError, Placement, ShardGroup, Token, Wanted,
    newest_row, recover_local, trimmable,
};
use txn_core::{Shard, SpareRegions};

use crate::random::Random;

/// Frames stay below: submissions and messages are small here.
const FRAME_BYTES_MAX: usize = 256 << 10;
const SEGMENT_BYTES: u64 = 544 << 10;

/// Which request of which client an answer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asker {
    pub(crate) client: usize,
    pub(crate) request: u64,
}

impl Token for Asker {}

/// A node that may be down.
pub(crate) struct Node {
    pub(crate) number: usize,
    pub(crate) shards: Vec<ShardId>,
    groups: usize,
    pub(crate) disk: FaultyDisk,
    /// Its log, if that isn't on the disk.
    pub(crate) stream: Option<FaultyStream>,
    /// Where segments go that its log needs no longer: a store that never fails.
    archive: FaultyDisk,
    /// By how much its wall clock is off, in µs.
    pub(crate) clock_off_us: i64,
    pub(crate) up: Option<Up>,
    /// Grows with every start: what was meant for an earlier one is lost.
    pub(crate) life: u64,
    /// At the last start: shards that were made of snapshots, and snapshots that were no good.
    pub(crate) restored: (usize, usize),
    /// And runs of the index that were no good.
    pub(crate) damaged_runs: usize,
    /// Words that each shard keeps of orders and of changes.
    keep: [u64; 2],
    salt: u64,
}

/// What is gone when a node crashes.
pub(crate) struct Up {
    pub(crate) groups: Vec<ShardGroup<Asker>>,
    pub(crate) log: LocalLog,
    clock: Clock,
    /// By group: what is being appended.
    pub(crate) appending: Vec<Option<Vec<Vec<u8>>>>,
    snapshots: Snapshots,
    index: LogIndex,
    seed: KeySeed,
    settle_step: Duration,
    /// By group: the snapshot that is being written.
    saving: Vec<Option<SnapshotWriter>>,
    /// Segments up to this one are archived.
    archived: Option<LogSegment>,
}

/// How a step of taking snapshots went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Saved {
    Something,
    /// A snapshot is there.
    Whole,
    /// It can't be written, and is given up.
    Failed,
}

/// Why a node doesn't come up.
#[derive(Debug)]
pub(crate) enum Down {
    /// Its disk has lost or changed what was durable, and it says so.
    Damaged(String),
    /// Its log doesn't execute to what it records.
    Differs(String),
    /// A scripted fault while it started: it tries again.
    Fault,
}

impl Node {
    pub(crate) fn new(
        number: usize,
        shards: Vec<ShardId>,
        groups: usize,
        keep: [u64; 2],
        on_stream: bool,
    ) -> Node {
        Node {
            number,
            shards,
            groups,
            disk: FaultyDisk::new(),
            stream: on_stream.then(FaultyStream::new),
            archive: FaultyDisk::new(),
            clock_off_us: 0,
            up: None,
            life: 0,
            restored: (0, 0),
            damaged_runs: 0,
            keep,
            salt: 0,
        }
    }

    pub(crate) fn start(
        &mut self,
        placement: &Placement,
        spare: &SpareRegions,
    ) -> Result<(), Down> {
        self.life += 1;
        self.salt += 1;
        let config = LocalConfig {
            segment_bytes: SEGMENT_BYTES,
            frame_bytes_max: FRAME_BYTES_MAX,
            salt: self.salt << 8 | self.number as u64,
            prepare: Prepare::Inline,
            ..LocalConfig::default()
        };
        if let Some(stream) = &self.stream {
            stream.impatient(false);
        }
        let owned = match &self.stream {
            Some(stream) => StreamDisk::own(Arc::new(stream.clone()), config.salt)
                .map(|disk| Arc::new(disk) as Arc<dyn Disk>),
            None => Ok(Arc::new(self.disk.clone()) as Arc<dyn Disk>),
        };
        let Ok(log_disk) = owned else { return Err(Down::Fault) };
        let opening = match LocalLog::begin(log_disk, config) {
            Ok(opening) => opening,
            Err(LogError::Io { .. } | LogError::Poisoned) => return Err(Down::Fault),
            Err(error) => return Err(Down::Damaged(error.to_string())),
        };
        let snapshots = match Snapshots::open(Arc::new(self.disk.clone())) {
            Ok(snapshots) => snapshots,
            Err(_) => return Err(Down::Fault),
        };
        let (mut index, damaged) = match LogIndex::open(Arc::new(self.disk.clone())) {
            Ok(opened) => opened,
            Err(_) => return Err(Down::Fault),
        };
        self.damaged_runs = damaged.len();
        let seed = KeySeed(placement.hash_seed);
        let beside = (&snapshots, &mut index, seed);
        let wanted = Wanted { placement, shards: &self.shards, spare, after_frame: &|| {} };
        let recovered = recover_local(opening, beside, || self.history(), &wanted);
        let (log, recovery) = match recovered {
            Ok((log, _, recovery)) => (log, recovery),
            Err(OpenError::Difference(difference)) => {
                return Err(Down::Differs(difference.to_string()));
            }
            Err(OpenError::Index(_) | OpenError::Log(LogError::Io { .. } | LogError::Poisoned)) => {
                return Err(Down::Fault);
            }
            Err(error) => return Err(Down::Damaged(error.to_string())),
        };
        let mut members: Vec<Vec<_>> = (0..self.groups).map(|_| Vec::new()).collect();
        let mut newest = Time(0);
        self.restored = (recovery.restored, recovery.passed_over.len());
        for (at, shard) in recovery.shards.into_iter().enumerate() {
            let end = log.end(shard.seat().id);
            newest = newest.max(end.time);
            members[at % self.groups].push((shard, end));
        }
        let group = |members| {
            let mut group = ShardGroup::new(placement.shards, members);
            group.keep(self.keep);
            group
        };
        let groups: Vec<ShardGroup<Asker>> = members.into_iter().map(group).collect();
        let appending = groups.iter().map(|_| None).collect();
        let saving = groups.iter().map(|_| None).collect();
        let clock = Clock::new(newest);
        self.up = Some(Up {
            groups,
            log,
            clock,
            appending,
            snapshots,
            index,
            seed,
            settle_step: placement.settle_step,
            saving,
            archived: None,
        });
        Ok(())
    }

    /// What its frames would say of the time.
    pub(crate) fn now(&mut self, world: Time) -> Now {
        let wall = Time(world.0.saturating_add_signed(self.clock_off_us));
        let up = self.up.as_mut().expect("it is up");
        let monotonic = Duration::from_micros(world.0);
        Now { time: up.clock.advance(wall, monotonic), monotonic }
    }

    /// Its log's files, to be read.
    fn log_disk(&self) -> Result<Arc<dyn Disk>, LogError> {
        let Some(stream) = &self.stream else { return Ok(Arc::new(self.disk.clone())) };
        let opened = StreamDisk::read_only(Arc::new(stream.clone()));
        let failed = |source| LogError::Io { doing: "reading a stream", source };
        Ok(Arc::new(opened.map_err(failed)?))
    }

    /// Its log from the beginning.
    pub(crate) fn history(&self) -> Result<LocalReader, LogError> {
        let (disk, archive) = (self.log_disk()?, Arc::new(self.archive.clone()));
        let union = UnionDisk::new(disk, archive).expect("both are in memory");
        LocalReader::whole(Arc::new(union))
    }

    /// Archives what its log needs no longer, or has it forgotten what was archived: how many
    /// segments. An error is a fault of its disk, or says that what it holds is damaged.
    pub(crate) fn trim(&mut self) -> Result<usize, LogError> {
        let up = self.up.as_mut().expect("it is up");
        let before = match trimmable(&up.snapshots) {
            Ok(before) => before,
            Err(_) => return Ok(0),
        };
        // What isn't indexed durably is kept.
        let covered = |(shard, next): (ShardId, Offset)| (shard, next.min(up.index.covered(shard)));
        let before: Vec<_> = before.into_iter().map(covered).collect();
        let segments = up.log.trimmable(&before);
        if let Some(archived) = up.archived.take() {
            up.log.trim_through(&archived)?;
            return Ok(segments.iter().filter(|other| other.index() <= archived.index()).count());
        }
        let disk = match segments.is_empty() {
            true => return Ok(0),
            false => self.log_disk()?,
        };
        for segment in &segments {
            segment.check(&*disk)?;
            let there = "it is there until it is trimmed";
            let from = disk.open(&segment.name()).expect(there);
            let mut content = AlignedBuf::new(from.len().expect(there) as usize);
            from.read_at(content.bytes_mut(), 0).expect(there);
            let file = self.archive.create(&segment.name(), 0).expect("the store never fails");
            file.write_at(content.bytes(), 0).expect("the store never fails");
        }
        let up = self.up.as_mut().expect("it is up");
        up.archived = segments.last().copied();
        Ok(0)
    }

    /// Flips a bit of one of its snapshots, of the shard that `pick` says. Never of both that
    /// there are.
    pub(crate) fn flip_snapshot(&self, random: &mut Random) {
        let snapshots = Snapshots::read_only(Arc::new(self.disk.clone()));
        let found = snapshots.list().expect("it is listed from memory");
        let Some(ids) = found.values().nth(random.below(found.len().max(1) as u64) as usize) else {
            return;
        };
        let name = ids[0].name();
        let length = self.disk.content(&name).map_or(0, |content| content.len() as u64);
        if length > 0 {
            self.disk.flip(&name, random.below(length) as usize, random.below(8) as u8);
        }
    }

    /// What the log says of rows that have left memory. `None`: it can't be read.
    pub(crate) fn look_up(&self, lookup: &Lookup) -> Option<Vec<Vec<u64>>> {
        let rows =
            lookup.needs.iter().map(|need| self.look_for(lookup.shard, lookup.realm, &need.row));
        rows.collect()
    }

    pub(crate) fn look_for(&self, shard: ShardId, realm: Realm, row: &RowKey) -> Option<Vec<u64>> {
        let up = self.up.as_ref().expect("it is up");
        let places = match up.index.find(up.seed.key(realm, row), shard) {
            Ok(places) => places,
            Err(IndexError::Damaged { name, .. }) => {
                // It may be gone already.
                let _ = up.index.give_up(&name);
                return None;
            }
            Err(_) => return None,
        };
        let read = |offset| self.record(shard, offset).ok_or("it can't be read".to_string());
        newest_row(realm, row, &places, up.settle_step, read).ok()
    }

    fn record(&self, shard: ShardId, offset: Offset) -> Option<(Time, Vec<u8>)> {
        let up = self.up.as_ref().expect("it is up");
        let in_frame = |frame: &Frame<'_>| {
            let at = offset.0.checked_sub(frame.place().first_offset.0)?;
            let is_here = frame.place().shard == shard && offset < frame.next_offset();
            let record = frame.records().nth(at as usize).filter(|_| is_here)?.ok()?;
            Some((frame.place().time, record.bytes.to_vec()))
        };
        if let Ok(mut frames) = up.log.read(shard, offset) {
            while let Some(frame) = frames.next().ok()? {
                if let Some(found) = in_frame(&frame) {
                    return Some(found);
                }
            }
        }
        let mut frames = self.history().ok()?;
        while let Some((_, frame)) = frames.next_frame().ok()? {
            if let Some(found) = in_frame(&frame) {
                return Some(found);
            }
        }
        None
    }

    /// The group that has a shard.
    pub(crate) fn group_of(&self, shard: ShardId) -> usize {
        let at = self.shards.iter().position(|other| *other == shard);
        at.expect("the shard is on this node") % self.groups
    }

    /// Hashes of the trade of shards whose logs are executed without rehearsal's records.
    pub(crate) fn trade_alone(
        &self,
        placement: &Placement,
        spare: &SpareRegions,
    ) -> Result<Vec<u64>, LogError> {
        let (ids, mut history) = (&self.shards, self.history()?);
        let new = |id: &ShardId| Shard::new(placement.seat(*id), 0, spare.clone());
        let mut shards: Vec<Shard> = ids.iter().map(new).collect();
        while let Some((_, frame)) = history.next_frame()? {
            let place = frame.place();
            let at = ids.iter().position(|id| *id == place.shard);
            let shard = &mut shards[at.expect("a node's log has its shards")];
            let mut commands = Vec::new();
            let records = frame.records().map(|record| record.expect("it was read before"));
            for record in records.filter(|record| record.realm() == Realm::Live) {
                let start = commands.len();
                commands.extend_from_slice(record.bytes);
                clear_outcome(&mut commands[start..]);
            }
            let (mut decided, mut replies) = (FrameBuilder::default(), Vec::new());
            let mut commands = Records::new(&commands);
            let applied = shard.apply(place.time, &mut commands, &mut decided, &mut replies);
            applied.expect("these are commands");
            drop(shard.signals());
        }
        Ok(shards.iter().map(|shard| shard.realm_hash(Realm::Live)).collect())
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = &Shard> {
        self.up.iter().flat_map(|up| up.groups.iter().flat_map(ShardGroup::members))
    }
}

impl Up {
    /// Adds frames that are durable to the index.
    pub(crate) fn index(&mut self, frames: &[Vec<u8>]) {
        let mut found = IndexedFrames::default();
        for bytes in frames {
            let (frame, _) = Frame::split(bytes).expect("a group made it");
            self.seed.index(&frame, &mut found);
        }
        found.add_to(&mut self.index);
    }

    /// Makes the index durable. Whether that worked.
    pub(crate) fn flush_index(&mut self) -> bool {
        self.index.flush().and_then(|()| self.index.merge()).is_ok()
    }

    /// Begins a snapshot of a shard of a group, or goes on with the one that is being taken.
    pub(crate) fn save(&mut self, group: usize, shard: ShardId, kib: usize) -> Saved {
        let shards = &mut self.groups[group];
        let Some(writer) = &mut self.saving[group] else {
            if let Some(end) = shards.begin_snapshot(shard) {
                let created = self.snapshots.create(shard, end, RULE_VERSION);
                if created.is_err() {
                    shards.stop_snapshot();
                    return Saved::Failed;
                }
                self.saving[group] = created.ok();
            }
            return Saved::Something;
        };
        let (pieces, is_over) = shards.save_some(kib);
        let mut written = pieces.iter().try_for_each(|piece| writer.add(piece.bytes()));
        if is_over && written.is_ok() {
            let writer = self.saving[group].take().expect("it is being written");
            written = writer.finish().map(drop);
        }
        match written {
            Ok(()) if is_over => Saved::Whole,
            Ok(()) => Saved::Something,
            Err(_) => {
                shards.stop_snapshot();
                if let Some(writer) = self.saving[group].take() {
                    // What isn't removed now is removed at the next start.
                    drop(writer.abandon());
                }
                Saved::Failed
            }
        }
    }

    /// Appends what a group has handed over.
    pub(crate) fn append(&mut self, group: usize) -> Result<Vec<Vec<u8>>, LogError> {
        let frames = self.appending[group].take().expect("something is being appended");
        let bytes: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
        self.log.append(&bytes)?;
        Ok(frames)
    }
}
