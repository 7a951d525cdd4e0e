//! The deterministic shard.
//!
//! A [`Shard`] takes commands as the bytes that [`model::record`] lays out, decides each of them
//! against its state, and appends to a frame the record with its outcome. The same commands in
//! the same order give the same records and the same state, on every machine: there is no clock,
//! no I/O, no randomness and no thread in here. Time, where a rule needs it, comes in a frame.
//!
//! Calling order: [`Shard::apply`] for every batch; when the frame is full it returns early, and
//! goes on with the next frame. Nothing that `apply` answered may leave the machine before the
//! frame is durable.

mod arena;
mod changes;
mod coupons;
mod escrow;
mod eviction;
mod holds;
mod index;
mod inventory;
mod ledger;
mod limits;
mod money;
mod orders;
mod payment;
mod place;
mod realm;
mod shard;
mod shard_set;
mod signals;
mod snapshot;
mod streams;
mod table;

pub use arena::SpareRegions;
pub use eviction::{
    Need, RowTable, Unready, for_each_row, images_in, refunded_in, row_in, view_of_row,
};
pub use index::Grown;
pub use ledger::Balance;
pub use realm::Seat;
pub use shard::{Capacity, PREFETCH_COMMANDS, Restoring, Shard};
pub use signals::{Shortage, Signals};
pub use snapshot::{Malformed, Piece};
pub use streams::StreamEnds;
