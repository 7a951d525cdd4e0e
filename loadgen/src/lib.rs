//! The drill: load, schedule, recorder, trace replay, verdict.

pub mod trace;
