//! What `h3` gets to see of a stream: whole frames of a size that it may hold.
//!
//! `h3` keeps a frame that isn't one of DATA in memory until it is whole, however long it says it
//! is, and those of unknown types too, which RFC 9114, 9 has us ignore. So frames are looked at
//! here, as bytes come: what is unknown is skipped, what is too large ends the connection. An empty
//! frame of DATA, which `h3` takes for the end of a body, is left out.

use bytes::{Buf, Bytes, BytesMut};

/// Types of frames (RFC 9114, 11.2.1).
const DATA: u64 = 0x0;
const HEADERS: u64 = 0x1;
/// Types that `h3` knows what to do with: it refuses some of them. 0x2, 0x6, 0x8 and 0x9 are those of
/// HTTP/2, which are errors (RFC 9114, 7.2.8).
const KNOWN: [u64; 11] = [DATA, HEADERS, 0x2, 0x3, 0x4, 0x5, 0x6, 0x7, 0x8, 0x9, 0xd];
/// Bytes of type and length together, at most.
const HEAD_BYTES_MAX: usize = 16;

/// A frame that is larger than it may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a frame of {length} bytes, where there may be {limit}")]
pub(crate) struct TooLarge {
    length: u64,
    limit: u64,
}

/// Where in a stream of frames it is.
#[derive(Debug)]
pub(crate) struct Frames {
    /// The bytes of a frame that isn't DATA, at most.
    limit: u64,
    /// Type and length of a frame, as far as they came.
    head: BytesMut,
    /// Bytes of the frame that are to come, and whether they are of any use.
    left: u64,
    is_wanted: bool,
}

impl Frames {
    pub(crate) fn new(limit: u64) -> Frames {
        Frames { limit, head: BytesMut::new(), left: 0, is_wanted: false }
    }

    /// The next piece for `h3`, of bytes that came; none if there is nothing in them for it.
    pub(crate) fn next(&mut self, bytes: &mut Bytes) -> Result<Option<Bytes>, TooLarge> {
        while !bytes.is_empty() {
            if self.left > 0 {
                let length = self.left.min(bytes.len() as u64);
                self.left -= length;
                // No longer than the bytes that there are.
                let piece = bytes.split_to(length as usize);
                if self.is_wanted {
                    return Ok(Some(piece));
                }
                continue;
            }
            self.head.extend_from_slice(&bytes.split_to(1));
            debug_assert!(self.head.len() <= HEAD_BYTES_MAX);
            let Some((kind, length)) = frame_head(&self.head) else { continue };
            let head = std::mem::take(&mut self.head).freeze();
            self.left = length;
            self.is_wanted = KNOWN.contains(&kind) && (kind != DATA || length > 0);
            if self.is_wanted && kind != DATA && length > self.limit {
                return Err(TooLarge { length, limit: self.limit });
            }
            if self.is_wanted {
                return Ok(Some(head));
            }
        }
        Ok(None)
    }

    /// Whether a stream may end here: not within a frame.
    pub(crate) fn is_between(&self) -> bool {
        self.left == 0 && self.head.is_empty()
    }
}

/// Type and length, if both are there.
fn frame_head(mut bytes: &[u8]) -> Option<(u64, u64)> {
    Some((integer(&mut bytes)?, integer(&mut bytes)?))
}

/// An integer of variable length (RFC 9000, 16).
pub(crate) fn integer(bytes: &mut &[u8]) -> Option<u64> {
    let first = *bytes.first()?;
    let length = 1 << (first >> 6);
    if bytes.len() < length {
        return None;
    }
    let rest = (1..length).fold(u64::from(first & 0x3f), |sum, at| sum << 8 | u64::from(bytes[at]));
    bytes.advance(length);
    Some(rest)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const LIMIT: u64 = 100;

    /// In the fewest bytes, or in more.
    fn written(value: u64, wide: bool) -> Vec<u8> {
        match value {
            _ if wide || value >= 1 << 30 => (value | 3 << 62).to_be_bytes().to_vec(),
            0..0x40 => vec![value as u8],
            0x40..0x4000 => (value as u16 | 1 << 14).to_be_bytes().to_vec(),
            _ => (value as u32 | 2 << 30).to_be_bytes().to_vec(),
        }
    }

    fn frame(kind: u64, content: &[u8], wide: bool) -> Vec<u8> {
        [written(kind, wide), written(content.len() as u64, wide), content.to_vec()].concat()
    }

    /// What is seen of a stream that comes in pieces of these lengths, in turn.
    fn seen(stream: &[u8], pieces: &[usize]) -> Result<(Vec<u8>, bool), TooLarge> {
        let mut frames = Frames::new(LIMIT);
        let (mut seen, mut at) = (Vec::new(), 0);
        for piece in pieces.iter().cycle() {
            if at == stream.len() {
                break;
            }
            let end = (at + piece.max(&1)).min(stream.len());
            let mut bytes = Bytes::copy_from_slice(&stream[at..end]);
            while let Some(piece) = frames.next(&mut bytes)? {
                assert!(!piece.is_empty());
                seen.extend_from_slice(&piece);
            }
            at = end;
        }
        Ok((seen, frames.is_between()))
    }

    proptest! {
        #[test]
        fn known_frames_are_seen_and_nothing_else(
            frames in vec((0_u64..0x12, vec(any::<u8>(), 0..90), any::<bool>()), 0..12),
            pieces in vec(1_usize..40, 1..8),
        ) {
            let written = |(kind, content, wide): &(u64, Vec<u8>, bool)| frame(*kind, content, *wide);
            let stream: Vec<u8> = frames.iter().flat_map(written).collect();
            let wanted = frames.iter().filter(|(kind, content, _)| {
                KNOWN.contains(kind) && (*kind != DATA || !content.is_empty())
            });
            let expected: Vec<u8> = wanted.flat_map(written).collect();
            prop_assert_eq!(seen(&stream, &pieces).unwrap(), (expected, true));
            // Wherever it is cut, what was seen is a part of that.
            for end in 0..stream.len() {
                let (cut, is_between) = seen(&stream[..end], &pieces).unwrap();
                let whole = seen(&stream, &pieces).unwrap().0;
                prop_assert!(whole.starts_with(&cut));
                let mut ends = 0;
                let is_end = frames.iter().any(|one| { let is = ends == end; ends += written(one).len(); is });
                prop_assert_eq!(is_between, is_end);
            }
        }

        #[test]
        fn any_bytes_are_taken(stream in vec(any::<u8>(), 0..400), pieces in vec(1_usize..40, 1..4)) {
            // How it comes in pieces makes no difference.
            prop_assert_eq!(seen(&stream, &pieces), seen(&stream, &[usize::MAX / 2]));
        }
    }

    #[test]
    fn what_is_too_large_is_refused_before_it_comes() {
        for kind in [HEADERS, 0x4, 0x7] {
            let head = [written(kind, false), written(LIMIT + 1, false)].concat();
            assert_eq!(seen(&head, &[1]), Err(TooLarge { length: LIMIT + 1, limit: LIMIT }));
            let huge = [written(kind, true), vec![0xff; 8]].concat();
            assert!(seen(&huge, &[3]).is_err());
        }
        // DATA is taken as it comes, and what is unknown is skipped as it comes.
        for (kind, shown) in [(DATA, 12), (0x21, 0)] {
            let stream = [written(kind, true), vec![0xff; 8], vec![1; 1000]].concat();
            let (seen, is_between) = seen(&stream, &[7]).unwrap();
            let expected = if shown > 0 { stream.len() } else { 0 };
            assert_eq!((seen.len(), is_between), (expected, false));
        }
    }
}
