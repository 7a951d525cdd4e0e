//! The vocabulary of Crest: ids, money, commands, outcomes, and the bytes that carry them.
//!
//! A command is written once, as little-endian bytes ([`record`]), by whoever receives it. The
//! same bytes are what the core reads, what the log stores and what its consumers read back; the
//! core only fills in the fields that say what became of the command. [`frame`] wraps a batch of
//! records for the log. [`event`] is what a record means to those who only read, and [`json`] the
//! human form of commands, answers and events.

pub mod event;
pub mod frame;
pub mod ids;
pub mod json;
pub mod money;
pub mod outcome;
pub mod planted;
pub mod record;
pub mod reply;

use ids::home_of;
pub use ids::{ChangeId, Epoch, ItemId, Offset, OrderId, Party, ShardId, Time};
pub use money::{Amount, Currency, Quantity};
pub use outcome::{
    AccountKind, LegState, LineKind, OrderState, Outcome, PayStep, PaymentMethod, Realm,
};
pub use reply::{AccountView, CouponView, HoldView, ItemView, LegView, LineView, OrderView, Reply};
