//! The drill: load, its schedule, and what came of it.
//!
//! A [`Profile`] says which orders there are: number *n* is the same for the same seed, on any
//! machine, so nothing about it needs to be kept but its outcome. [`drive`] sends them, each at
//! its intended time or as fast as answers come, and counts latency from the intended time.
//! [`Acks`] remembers what the platform acknowledged, to be held against its log afterwards.
//! [`trace`] and [`replay`] do the same with recorded purchases.

pub mod acks;
pub mod drive;
pub mod http1;
pub mod profile;
pub mod recorder;
pub mod replay;
pub mod setup;
pub mod trace;

pub use acks::Acks;
pub use drive::{Drive, Driven, Pace, drive};
pub use http1::{ClientError, Connection, Target};
pub use profile::{Lines, Profile, RunId};
pub use recorder::Recorder;
