//! One shard of a group: its frames, its links and its waiting room.

use std::time::Duration;

use model::frame::{FrameBuilder, FramePlace};
use model::planted::{Bug, is_planted};
use model::record::{RECORD_BYTES_MAX, RULE_VERSION, Record};
use model::{Epoch, ItemId, Offset, Realm, Reply, ShardId, Time};
use mq::LogEnd;
use txn_core::{Shard, Shortage, StreamEnds};

use super::links::Links;
use super::waiting::WaitingRoom;
use crate::Now;

/// A frame that is finished: its bytes, its records, and how far streams are durable with it.
pub(super) struct Finished {
    pub(super) bytes: Vec<u8>,
    pub(super) records: u32,
    pub(super) streams: Vec<((Realm, ShardId), StreamEnds)>,
}

pub(super) struct Host {
    pub(super) shard: Shard,
    pub(super) links: Links,
    pub(super) room: WaitingRoom,
    frame: FrameBuilder,
    /// The time of the frame in the making.
    time: Time,
    epoch: Epoch,
    /// Hash of the newest finished frame.
    previous: u64,
    pub(super) finished: Vec<Finished>,
    /// It has executed something since the group looked.
    pub(super) is_touched: bool,
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
            frame: FrameBuilder::default(),
            time: end.time,
            epoch: Epoch(end.epoch.0 + 1),
            previous: end.previous,
            finished: Vec::new(),
            is_touched: false,
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

    /// Bytes of the frame in the making, none if it has no record.
    pub(super) fn unfinished(&self) -> usize {
        if self.frame.is_empty() { 0 } else { self.frame.len() }
    }

    pub(super) fn execute(
        &mut self,
        now: Time,
        command: &Record<'_>,
        turn: Option<ItemId>,
    ) -> Result<Reply, Shortage> {
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

    /// How long it has nothing to do in these realms, if nothing happens.
    pub(super) fn next_wake(&self, now: Now, realms: &[Realm]) -> Option<Duration> {
        let of_realm = |realm: &Realm| [self.shard.next_due(*realm), self.shard.next_sweep(*realm)];
        let due = realms.iter().flat_map(of_realm).flatten();
        let due = due.map(|due| Duration::from_micros(due.0.saturating_sub(now.time.0)));
        let others = [self.links.next_wake(), self.room.next_wake()].into_iter().flatten();
        due.chain(others.map(|at| at.saturating_sub(now.monotonic))).min()
    }
}
