//! Any bytes as a frame, and once more with the hash that they should have: no search would get
//! past the hash by itself.
#![no_main]

use std::mem::offset_of;

use libfuzzer_sys::fuzz_target;
use model::frame::{Frame, FrameError, FrameHeader};

fuzz_target!(|bytes: &[u8]| {
    if let Err(FrameError::Hash { computed, .. }) = Frame::split(bytes) {
        let mut hashed = bytes.to_vec();
        hashed[offset_of!(FrameHeader, hash)..][..8].copy_from_slice(&computed.to_le_bytes());
        Frame::split(&hashed).expect("it has the hash that was asked for");
        walk(&hashed);
    }
    walk(bytes);
});

fn walk(mut bytes: &[u8]) {
    while let Ok((frame, rest)) = Frame::split(bytes) {
        assert_eq!([frame.bytes, rest].concat(), bytes);
        assert!(frame.bytes.ends_with(frame.records));
        let _ = (frame.place(), frame.records().count());
        bytes = rest;
    }
}
