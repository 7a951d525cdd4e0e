//! The human form of commands and answers: JSON (RFC 8259).
//!
//! [`decode`] parses a body straight into the bytes of its commands, with no value in between;
//! [`encode`] writes answers, [`event`] events. Integers are JSON numbers; those that can pass 2⁵³ may also be
//! given as strings of digits, and are answered as strings when they do.

pub mod decode;
pub mod encode;
pub mod event;
