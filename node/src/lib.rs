//! Runs shards: takes commands in, has the core decide them, makes the decisions durable, and
//! only then lets the answers out.
//!
//! ```text
//! GroupHandle::submit ─▶ inbox ─▶ apply ─▶ frame ─▶ log thread: append + sync ─▶ release
//! ```
//!
//! A reactor submits through a [`LocalHandle`], whose [`Courier`] takes what all its tasks have as
//! one message, and brings the answers back as one.
//!
//! A [`ShardGroup`] is what one reactor decides for its shards, without a clock or a socket. A
//! [`GroupTask`] runs it and is the only writer of its shards. It runs on whatever reactor spawns
//! it, and never waits for the disk: a thread beside it does. Group commit needs no timer: what
//! arrives while a sync is in flight is the next group.
//!
//! [`stages`] says where the time of a request went, and [`ThreadTimes`] that of a thread.
//!
//! [`DataDir`] is what a directory says of itself; [`open`] recovers it; [`audit`] proves it;
//! [`rerun`] executes it again for whoever measures.

mod archiver;
mod audit;
mod clock;
mod commit;
mod conservation;
mod data_dir;
mod encryption;
mod feed;
mod group;
mod group_task;
mod inbox;
mod lookups;
mod memory;
mod open;
mod order_list;
mod private;
mod reactor;
mod recovery;
mod replay;
mod rerun;
mod snapshots;
mod space;
pub mod stages;
mod statement;
mod threads;

pub use archiver::{ArchiveFigures, ArchiveLocation, TrimFigures, verify_archive};
pub use audit::{Audit, AuditError, AuditFrom, AuditLog, Sales, audit};
pub use clock::{Clock, Now};
pub use commit::{CommitStats, LogThread};
pub use conservation::Imbalance;
pub use data_dir::{Access, ArchiveOfError, DataDir, DataDirError, MakeDir};
pub use feed::{
    EventFilter, Feed, FeedChunk, FeedError, FeedEvent, FeedFigures, FeedReader, FeedStart,
    FeedWish, Matches,
};
pub use group::{Found, Lookup, Lost, Message, ShardGroup, Token};
pub use group_task::{GroupTask, ShardFailed};
pub use inbox::{Answer, DrillSwitch, GroupHandle, Inbox, Overloaded, SubmitError};
pub use lookups::{IndexedFrames, KeySeed, RowFigures, newest_row};
pub use mq::{DataKey, DataKeyLength, NatsConfig};
pub use open::{Keeping, OpenError, Opened, Placement, open, open_log};
pub use order_list::{ORDERS_MAX, OrderPage, order_page};
pub use private::{PartyKeys, PartyKeysError, Unopened, private_part};
pub use reactor::{Courier, LocalHandle};
pub use recovery::{Beside, Recovery, Wanted, recover, recover_local};
pub use replay::{Difference, Replay};
pub use rerun::{Ran, RerunError, Step, rerun};
pub use snapshots::{
    RestoredShard, SnapshotFigures, SnapshotPolicy, SnapshotThread, restore_shard, trimmable,
};
pub use space::DiskSpace;
pub use stages::Stages;
pub use statement::{MOVEMENTS_MAX, Movement, Statement, statement};
pub use threads::{THREAD_PREFIX, ThreadState, ThreadTimes};
