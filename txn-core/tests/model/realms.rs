//! Trade and rehearsal share a log and nothing else.
