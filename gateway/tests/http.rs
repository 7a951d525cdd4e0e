//! The front door over real sockets: what a caller sends, byte for byte, and what comes back.
//!
//! Every test starts a gateway of its own on a free port, in front of shards whose log is in
//! memory. HTTP/1.1 is written by hand, so that requests can be split, pipelined and malformed;
//! HTTP/2 comes from hyper's client and from curl.

// Clippy's allowance for tests covers the tests themselves, not the functions that they share.
#![allow(clippy::unwrap_used)]

#[path = "http/changes.rs"]
mod changes;
#[path = "http/client.rs"]
mod client;
#[path = "http/coding.rs"]
mod coding;
#[path = "http/drill.rs"]
mod drill;
#[path = "http/ending.rs"]
mod ending;
#[path = "http/http2.rs"]
mod http2;
#[path = "http/listing.rs"]
mod listing;
#[path = "http/noise.rs"]
mod noise;
#[path = "http/payments.rs"]
mod payments;
#[path = "http/platform.rs"]
mod platform;
#[path = "http/refusals.rs"]
mod refusals;
#[path = "http/sales.rs"]
mod sales;
#[path = "http/shards.rs"]
mod shards;
#[path = "http/wire.rs"]
mod wire;
