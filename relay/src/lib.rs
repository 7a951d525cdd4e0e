//! Carries the feed elsewhere.
//!
//! Whoever does that is a process of its own, and a reader of the feed like any other
//! ([`Feed`]): it can be slow, or gone, and nobody who orders sees anything of it. What it has
//! done it keeps where that is, and goes on from there. [`webhook`] posts events to a URL,
//! [`postgres`] writes them into tables.

mod feed;
pub mod postgres;
pub mod webhook;

pub use feed::{Event, Feed, FeedError, Form, Frames, Lines, NotThis, Platform, Read, Taken};
pub use reqwest::Url;
pub use tokio_postgres::Config as Database;
