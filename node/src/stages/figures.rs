//! What a platform says of its time, whole: for `/stages`, and for those who read it.

use serde::{Deserialize, Serialize};

use super::{Snapshot, Stages};
use crate::threads::{ThreadTimes, threads};

/// Everything at a moment, since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// Nanoseconds since the start.
    pub uptime_ns: u64,
    /// Requests, timed or not.
    pub requests: Requests,
    /// What the stages of writes took.
    pub stages: Snapshot,
    /// What the platform's threads did with their time.
    pub threads: Vec<ThreadTimes>,
    /// What the log thread wrote.
    pub log: LogFigures,
}

impl Stages {
    /// Reads everything.
    pub fn figures(&self) -> Figures {
        let uptime = self.uptime();
        let log = self.log_figures();
        Figures {
            uptime_ns: uptime.as_nanos() as u64,
            requests: self.requests(),
            stages: self.snapshot(),
            threads: threads(uptime, &log),
            log,
        }
    }
}

/// Requests since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requests {
    /// That asked to see something.
    pub reads: u64,
    /// That asked for a change, whatever became of them.
    pub writes: u64,
    /// To a path or with a method that there isn't.
    pub unknown: u64,
    /// That were a drill's, of those that asked to see or to change something. Its orders are
    /// not among [`Requests::orders`].
    #[serde(default)]
    pub drill: u64,
    /// Orders that were to be placed, by what became of them. In the order of [`Outcome::ALL`],
    /// those that never happened left out.
    pub orders: Vec<(String, u64)>,
}

/// What the log thread did since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogFigures {
    /// Times it was handed something to write; all of that is one group.
    pub groups: u64,
    /// Frames that it wrote.
    pub frames: u64,
    /// Bytes that it wrote, with envelope and padding.
    pub bytes: u64,
    /// Times it waited for a sync.
    pub syncs: u64,
    /// Nanoseconds spent writing.
    pub writing_ns: u64,
    /// Nanoseconds spent in `fdatasync`.
    pub syncing_ns: u64,
    /// Records of all groups.
    pub orders: u64,
    /// Groups by how many records they have: a bucket's least value, and how many groups.
    pub group_orders: Vec<(u64, u64)>,
}
