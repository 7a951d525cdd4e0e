//! Runs shards: takes commands in, has the core decide them, makes the decisions durable, and
//! only then lets the answers out.
//!
//! ```text
//! ShardHandle::submit ─▶ inbox ─▶ apply ─▶ frame ─▶ log thread: append + sync ─▶ release
//! ```
//!
//! A reactor submits through a [`LocalHandle`], whose [`Courier`] takes what all its tasks have as
//! one message, and brings the answers back as one.
//!
//! A [`ShardTask`] is the only writer of its shard. It runs on whatever reactor spawns it, and
//! never waits for the disk: a thread beside it does. Group commit needs no timer: what arrives
//! while a sync is in flight is the next group.
//!
//! [`stages`] says where the time of a request went, and [`ThreadTimes`] that of a thread.
//!
//! [`DataDir`] is what a directory says of itself; [`open`] recovers it; [`audit`] proves it;
//! [`rerun`] executes it again for whoever measures.

mod audit;
mod clock;
mod commit;
mod data_dir;
mod inbox;
mod memory;
mod open;
mod reactor;
mod replay;
mod rerun;
mod shard_task;
pub mod stages;
mod threads;

pub use audit::{Audit, AuditError, AuditLog, audit};
pub use commit::{CommitStats, LogThread};
pub use data_dir::{DataDir, DataDirError};
pub use inbox::{Answer, Inbox, Overloaded, ShardHandle, SubmitError};
pub use open::{OpenError, Opened, open, open_log};
pub use reactor::{Courier, LocalHandle};
pub use replay::{Difference, Replay};
pub use rerun::{Ran, RerunError, Step, rerun};
pub use shard_task::{ShardFailed, ShardTask};
pub use stages::Stages;
pub use threads::{THREAD_PREFIX, ThreadState, ThreadTimes};
