//! Snapshots of a group's shards, one at a time, taken while they go on.

use model::ShardId;
use model::planted::{Bug, is_planted};
use mq::LogEnd;
use txn_core::Piece;

use super::{ShardGroup, Token};

/// The snapshot that is being taken.
pub(super) struct Saving {
    slot: usize,
    /// What it stands on is durable.
    pub(super) is_durable: bool,
}

impl<T: Token> ShardGroup<T> {
    /// Begins a snapshot of one of its shards as it is now: where its log will go on. `None` if
    /// the shard has decided something that isn't handed over, or isn't here.
    pub fn begin_snapshot(&mut self, shard: ShardId) -> Option<LogEnd> {
        self.stop_snapshot();
        let slot = self.slots[usize::from(shard.0)]?;
        let host = &mut self.hosts[slot];
        if host.has_unwritten() {
            return None;
        }
        host.shard.begin_snapshot();
        let end = host.end();
        let is_durable = !self.is_in_flight() || is_planted(Bug::SnapshotAhead);
        self.saving = Some(Saving { slot, is_durable });
        Some(end)
    }

    /// Saves up to so many KiB of the snapshot that is being taken: what is to be written down,
    /// and whether that was all and may be used, because the log is durable up to there.
    pub fn save_some(&mut self, kib: usize) -> (Vec<Piece>, bool) {
        let Some(Saving { slot, is_durable }) = self.saving else { return (Vec::new(), false) };
        let shard = &mut self.hosts[slot].shard;
        let is_whole = !shard.save_some(kib);
        let pieces = shard.saved(is_whole);
        let is_over = is_whole && is_durable;
        if is_over {
            self.stop_snapshot();
        }
        (pieces, is_over)
    }

    /// Whether a snapshot is being taken.
    pub fn is_saving(&self) -> bool {
        self.saving.is_some()
    }

    /// Ends the snapshot, whole or not.
    pub fn stop_snapshot(&mut self) {
        if let Some(Saving { slot, .. }) = self.saving.take() {
            self.hosts[slot].shard.stop_snapshot();
        }
    }
}
