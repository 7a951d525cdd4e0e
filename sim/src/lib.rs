//! The simulator: shards, logs and the streams between them in one seeded world.
//!
//! A [`World`](world::World) has nodes with disks and clocks, a network between them, and clients.
//! Everything that happens is an event at a moment, and everything that is random is drawn from
//! the seed, so a run is a function of its seed: the same events, the same bytes. What runs on the
//! nodes is the platform's own code, from the waiting room down to the segments of the log; only
//! disks, clocks and wires are played.
//!
//! After every event, what must always hold is looked at ([`checks`]). When the clients have asked
//! for all they wanted, faults stop, and the world must come to rest: every client answered,
//! nobody waiting, nothing under way. Then the logs are executed once more, and every answer that
//! a client was given is held against them.

mod checks;
mod clients;
mod nodes;
mod plan;
mod random;
mod shadow;
mod world;

use std::collections::BTreeMap;
use std::fmt;

pub use world::{Inspect, Options, run};

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ran {
    /// Events.
    pub events: u64,
    /// Orders that were placed, refused ones included.
    pub orders: u64,
    /// Records in all logs.
    pub records: u64,
    /// Units that were sold.
    pub sold: u64,
    /// Snapshots that were taken.
    pub snapshots: u64,
    /// Look-ups of what had left memory.
    pub lookups: u64,
    /// Orders that had left it at the end.
    pub left_memory: u64,
    /// Segments that were archived and trimmed.
    pub trimmed: u64,
    /// Shards that were made of a snapshot when their node started.
    pub restored: u64,
    /// Snapshots that were no good then.
    pub passed_over: u64,
    /// What went wrong, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// A hash over all that happened.
    pub trace_hash: u64,
    /// A disk that lied was found out, and its node refused to serve.
    pub refused: bool,
}

/// What must hold and doesn't.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The seed of the run.
    pub seed: u64,
    /// Which event it was.
    pub event: u64,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Violation { seed, event, what } = self;
        write!(f, "event {event}: {what}\n  replay: cargo xtask sim --seed {seed}")
    }
}

impl std::error::Error for Violation {}
