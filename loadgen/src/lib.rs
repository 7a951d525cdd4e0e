//! The drill: load, its schedule, and what came of it.
//!
//! A [`Profile`] says which orders there are: number *n* is the same for the same seed, on any
//! machine, so nothing about it needs to be kept but its outcome. A [`Schedule`] says when they
//! are due. [`engine`] sends them, each at its intended time or as fast as answers come, and
//! counts latency from the intended time. [`Acks`] remembers what the platform acknowledged, to
//! be held against its log afterwards.
//!
//! The same engine sends any other load that implements [`engine::Load`]. [`trace`] and
//! [`replay`] send recorded purchases.

pub mod acks;
pub mod alias;
pub mod baskets;
pub mod client;
pub mod engine;
pub mod junit;
mod lane;
pub mod orders;
mod pacer;
pub mod profile;
mod queue;
mod quic;
pub mod recorder;
pub mod replay;
pub mod results;
pub mod schedule;
pub mod setup;
pub mod summary;
pub mod target;
pub mod template;
pub mod threshold;
pub mod tls;
pub mod trace;
pub mod url;
pub mod wire;

pub use acks::Acks;
pub use client::{ClientError, Connection};
pub use engine::{Pace, Plan, Progress, Protocol};
pub use orders::Orders;
pub use profile::{Lines, Profile, RunId, Settings};
pub use recorder::Recorder;
pub use schedule::{Arrivals, Schedule, Stage};
pub use target::Target;
pub use tls::Trust;
pub use url::{UrlLoad, UrlRequest};
