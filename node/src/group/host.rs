//! The shards of a group, each with its frames, its links and its waiting room.

use std::cell::Cell;
use std::ops::{Deref, Index, IndexMut};
use std::time::Duration;

use model::frame::{FrameBuilder, FramePlace};
use model::planted::{Bug, is_planted};
use model::record::entry::StockOp;
use model::record::{RECORD_BYTES_MAX, RULE_VERSION, Record};
use model::{Epoch, ItemId, Offset, Realm, Reply, ShardId, Time};
use mq::LogEnd;
use txn_core::{Shard, StreamEnds, Unready};

use super::links::Links;
use super::waiting::WaitingRoom;
use crate::Now;

/// A frame that is finished: its bytes, its records, and how far streams are durable with it.
pub(super) struct Finished {
    pub(super) bytes: Vec<u8>,
    pub(super) records: u32,
    pub(super) streams: Vec<((Realm, ShardId), StreamEnds)>,
}

/// When a host has something to do though nothing happens; the maximum: never. Plain numbers,
/// because all hosts' are compared whenever a group comes to rest.
#[derive(Clone, Copy)]
struct Wake {
    /// By the wall clock, for each realm, in µs since 1970.
    due_us: [u64; 2],
    /// By the monotonic one, in ns.
    at_ns: u64,
}

impl Wake {
    const NEVER: Wake = Wake { due_us: [u64::MAX; 2], at_ns: u64::MAX };

    fn earlier(self, other: Wake) -> Wake {
        let [live, drill] = [0, 1].map(|realm| self.due_us[realm].min(other.due_us[realm]));
        Wake { due_us: [live, drill], at_ns: self.at_ns.min(other.at_ns) }
    }
}

/// All shards of a group. Whoever gets one of them to change it makes it unknown when that wakes
/// next, so that asking all of them costs little while nothing happens to most.
pub(super) struct Hosts(Vec<Host>);

impl Hosts {
    pub(super) fn new(hosts: Vec<Host>) -> Hosts {
        Hosts(hosts)
    }

    /// How long none has anything to do in these realms, if nothing happens.
    pub(super) fn next_wake(&self, now: Now, realms: &[Realm]) -> Option<Duration> {
        let next = self.0.iter().fold(Wake::NEVER, |next, host| {
            next.earlier(host.wake.get().unwrap_or_else(|| host.look_ahead()))
        });
        let is_ever = |time: &u64| *time < u64::MAX;
        let due = realms.iter().map(|realm| next.due_us[*realm as usize]).filter(is_ever);
        let due = due.map(|due| Duration::from_micros(due.saturating_sub(now.time.0)));
        let at = Some(next.at_ns).filter(is_ever).map(Duration::from_nanos);
        due.chain(at.map(|at| at.saturating_sub(now.monotonic))).min()
    }
}

impl Deref for Hosts {
    type Target = [Host];

    fn deref(&self) -> &[Host] {
        &self.0
    }
}

impl Index<usize> for Hosts {
    type Output = Host;

    fn index(&self, slot: usize) -> &Host {
        &self.0[slot]
    }
}

impl IndexMut<usize> for Hosts {
    fn index_mut(&mut self, slot: usize) -> &mut Host {
        let host = &mut self.0[slot];
        host.wake.set(None);
        host
    }
}

pub(super) struct Host {
    pub(super) shard: Shard,
    pub(super) links: Links,
    pub(super) room: WaitingRoom,
    /// What the homes of items are to be asked for, by realm.
    pub(super) asks: [Vec<StockOp>; 2],
    frame: FrameBuilder,
    /// The time of the frame in the making.
    time: Time,
    epoch: Epoch,
    /// Hash of the newest finished frame.
    previous: u64,
    pub(super) finished: Vec<Finished>,
    /// It has executed something since the group looked.
    pub(super) is_touched: bool,
    /// It has decided something that isn't handed over.
    pub(super) is_unwritten: bool,
    /// When it wakes next, unless it has changed since somebody asked.
    wake: Cell<Option<Wake>>,
}

impl Host {
    /// A shard that goes on at the end of its log, under a new epoch.
    pub(super) fn new(mut shard: Shard, end: LogEnd) -> Host {
        if is_planted(Bug::ForgottenNumber) {
            shard.forget_number();
        }
        let mut host = Host {
            links: Links::default(),
            room: WaitingRoom::default(),
            asks: Default::default(),
            frame: FrameBuilder::default(),
            time: end.time,
            epoch: Epoch(end.epoch.0 + 1),
            previous: end.previous,
            finished: Vec::new(),
            is_touched: false,
            is_unwritten: false,
            wake: Cell::new(None),
            shard,
        };
        // All that it has executed is durable.
        let streams = host.streams(true);
        for (peer, ends) in streams {
            host.links.durable(Duration::ZERO, peer, ends);
        }
        host
    }

    pub(super) fn id(&self) -> ShardId {
        self.shard.seat().id
    }

    /// Where its log goes on, when all that it has decided is in finished frames.
    pub(super) fn end(&self) -> LogEnd {
        let next = self.shard.next_offset();
        LogEnd { next, epoch: self.epoch, previous: self.previous, time: self.time }
    }

    /// Bytes of the frame in the making, none if it has no record.
    pub(super) fn unfinished(&self) -> usize {
        if self.frame.is_empty() { 0 } else { self.frame.len() }
    }

    /// Whether it has decided something that isn't handed over.
    pub(super) fn has_unwritten(&self) -> bool {
        !self.frame.is_empty() || !self.finished.is_empty()
    }

    /// Bytes of what isn't handed over.
    pub(super) fn unwritten_bytes(&self) -> usize {
        let finished: usize = self.finished.iter().map(|frame| frame.bytes.len()).sum();
        self.unfinished() + finished
    }

    pub(super) fn execute(
        &mut self,
        now: Time,
        command: &Record<'_>,
        turn: Option<ItemId>,
    ) -> Result<Reply, Unready> {
        if self.frame.is_full_for(RECORD_BYTES_MAX) {
            self.finish_frame(now, Vec::new());
        }
        self.time = self.time(now);
        self.shard.execute(self.time, command, turn, &mut self.frame)
    }

    /// The time of a command that is executed now: all of a frame are of one time.
    pub(super) fn time(&self, now: Time) -> Time {
        if self.frame.is_empty() { now.max(self.time) } else { self.time }
    }

    /// Completes the frame in the making, be it empty, and begins another in the memory of
    /// `spare`.
    pub(super) fn finish_frame(&mut self, now: Time, spare: Vec<u8>) {
        self.time = self.time(now);
        let frame = std::mem::replace(&mut self.frame, FrameBuilder::reuse(spare));
        let records = frame.count();
        let place = FramePlace {
            shard: self.id(),
            epoch: self.epoch,
            first_offset: Offset(self.shard.next_offset().0 - u64::from(records)),
            time: self.time,
            previous: self.previous,
        };
        let (bytes, hash) = frame.finish(place, RULE_VERSION);
        self.previous = hash;
        let streams = self.streams(false);
        self.finished.push(Finished { bytes, records, streams });
    }

    /// Where streams stand: all of them, or those of which something changed.
    fn streams(&mut self, all: bool) -> Vec<((Realm, ShardId), StreamEnds)> {
        let peers: Vec<(Realm, ShardId)> = if all {
            self.shard.touched().clear();
            let shards = self.shard.seat().shards;
            let of_realm = |realm| (0..shards).map(move |peer| (realm, ShardId(peer)));
            self.shard.realms().flat_map(of_realm).collect()
        } else {
            self.shard.touched().drain(..).collect()
        };
        let ends = |peer: (Realm, ShardId)| (peer, self.shard.stream(peer.0, peer.1));
        let said = |ends: &StreamEnds| ends.next_out > 1 || ends.next_in > 1;
        peers.into_iter().map(ends).filter(|(_, ends)| said(ends)).collect()
    }

    /// Finds out when it wakes next.
    fn look_ahead(&self) -> Wake {
        let due = |realm| {
            let times = [self.shard.next_due(realm), self.shard.next_sweep(realm)];
            times.into_iter().flatten().min().map_or(u64::MAX, |due| due.0)
        };
        let others = [self.links.next_wake(), self.room.next_wake()];
        let wake = Wake {
            due_us: [due(Realm::Live), due(Realm::Drill)],
            at_ns: others.into_iter().flatten().min().map_or(u64::MAX, |at| at.as_nanos() as u64),
        };
        self.wake.set(Some(wake));
        wake
    }
}
