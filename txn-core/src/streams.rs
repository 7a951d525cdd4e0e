//! The streams between this shard and each other one.
//!
//! What this shard tells another waits here, numbered, until the other says that it has it. What
//! comes from another is taken only in the order of its numbers. Each direction carries a running
//! hash over all of its entries, so that an audit sees whether what arrived is what was sent.

use std::collections::VecDeque;

use model::record::entry::{Entries, Entry, length_of};
use model::{Realm, ShardId};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::snapshot::Malformed;

/// Entries are kept in pieces of about this many bytes. Whoever looks for a number walks through
/// its piece, so a piece is some tens of entries.
const PIECE_BYTES: usize = 1 << 10;

/// No entry is longer, header included.
const ENTRY_BYTES: usize = 64;

/// Where the two directions between this shard and another stand.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StreamEnds {
    /// The number of the next entry that is sent.
    pub next_out: u64,
    /// All before this number have arrived at the other, durably.
    pub acked: u64,
    /// The number of the next entry that is taken.
    pub next_in: u64,
    /// Hash over all entries that were sent, up to `acked`.
    pub acked_hash: u64,
    /// Hash over all entries that were taken.
    pub in_hash: u64,
}

/// The streams of one realm.
pub(crate) struct Streams {
    realm: Realm,
    peers: Vec<Peer>,
    /// Peers of which something changed since somebody asked.
    touched: Vec<(Realm, ShardId)>,
}

struct Peer {
    ends: StreamEnds,
    pieces: VecDeque<Piece>,
    is_touched: bool,
}

struct Piece {
    /// Number of its first entry that isn't acknowledged,
    first: u64,
    /// and where that begins.
    start: usize,
    /// Entries from there on.
    count: u64,
    bytes: Vec<u8>,
}

/// The two directions between this shard and another, in a snapshot.
#[derive(Serialize, Deserialize)]
pub(crate) struct PeerState {
    ends: StreamEnds,
    /// What isn't acknowledged.
    entries: Vec<u8>,
}

/// Why what arrived isn't taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NotTaken {
    /// It says nothing new.
    Known,
    /// Something before it is missing, or more is acknowledged than was sent.
    Gap,
}

impl Streams {
    pub(crate) fn new(realm: Realm, shards: u16) -> Streams {
        let peer = || Peer {
            ends: StreamEnds { next_out: 1, acked: 1, next_in: 1, ..StreamEnds::default() },
            pieces: VecDeque::new(),
            is_touched: false,
        };
        Streams { realm, peers: (0..shards).map(|_| peer()).collect(), touched: Vec::new() }
    }

    pub(crate) fn save(&self) -> Vec<PeerState> {
        let save = |peer: &Peer| {
            let entries = peer.entries(peer.ends.acked).map(|(_, entry)| entry);
            PeerState { ends: peer.ends, entries: entries.collect::<Vec<_>>().concat() }
        };
        self.peers.iter().map(save).collect()
    }

    pub(crate) fn restore(&mut self, saved: Vec<PeerState>) -> Result<(), Malformed> {
        const WRONG: Malformed = Malformed("a stream");
        if saved.len() != self.peers.len() {
            return Err(WRONG);
        }
        for (peer, PeerState { ends, entries }) in self.peers.iter_mut().zip(saved) {
            let count = ends.next_out.checked_sub(ends.acked).and_then(|n| u32::try_from(n).ok());
            let count = count.ok_or(WRONG)?;
            let entries = Entries::parse(&entries, count).map_err(|_| WRONG)?;
            peer.ends = StreamEnds { next_out: ends.acked, ..ends };
            entries.for_each(|(bytes, _)| peer.push(bytes));
        }
        Ok(())
    }

    pub(crate) fn ends(&self, peer: ShardId) -> StreamEnds {
        self.peers[usize::from(peer.0)].ends
    }

    /// Appends an entry for `peer`.
    pub(crate) fn push(&mut self, to: ShardId, entry: &Entry<'_>) {
        entry.write(self.peers[usize::from(to.0)].next());
        self.touch(to);
    }

    /// Whether what arrived goes on where this shard stands: how many of its entries are known
    /// already.
    pub(crate) fn check(
        &self,
        from: ShardId,
        first: u64,
        count: u32,
        acked: u64,
    ) -> Result<u64, NotTaken> {
        let Some(peer) = self.peers.get(usize::from(from.0)) else { return Err(NotTaken::Gap) };
        let ends = &peer.ends;
        if first > ends.next_in || acked > ends.next_out {
            return Err(NotTaken::Gap);
        }
        let known = ends.next_in - first;
        if known >= u64::from(count) && acked <= ends.acked {
            return Err(NotTaken::Known);
        }
        Ok(known.min(count.into()))
    }

    /// The next entry was taken.
    pub(crate) fn took(&mut self, from: ShardId, entry: &[u8]) {
        let ends = &mut self.peers[usize::from(from.0)].ends;
        ends.next_in += 1;
        ends.in_hash = xxh3_64_with_seed(entry, ends.in_hash);
        self.touch(from);
    }

    /// A bug that can be planted.
    pub(crate) fn forget_number(&mut self) {
        for peer in self.peers.iter_mut().filter(|peer| peer.ends.next_in > 1) {
            peer.ends.next_in -= 1;
        }
    }

    /// Forgets what has arrived at the other.
    pub(crate) fn acknowledge(&mut self, from: ShardId, acked: u64) {
        let peer = &mut self.peers[usize::from(from.0)];
        if acked <= peer.ends.acked {
            return;
        }
        while peer.ends.acked < acked {
            let piece = peer.pieces.front_mut().expect("the caller has checked the number");
            let entry = &piece.bytes[piece.start..];
            let entry = &entry[..length_of(entry)];
            peer.ends.acked_hash = xxh3_64_with_seed(entry, peer.ends.acked_hash);
            peer.ends.acked += 1;
            piece.start += entry.len();
            piece.first += 1;
            piece.count -= 1;
            if piece.count == 0 {
                peer.pieces.pop_front();
            }
        }
        self.touch(from);
    }

    /// The hash over all entries for `peer` before `number`; `None` where they aren't known.
    pub(crate) fn hash_at(&self, peer: ShardId, number: u64) -> Option<u64> {
        self.peers[usize::from(peer.0)].hash_at(number)
    }

    /// Copies entries for `peer` from number `from` on and before `to`, as many as `room` bytes
    /// take. Returns how many.
    pub(crate) fn copy(
        &self,
        peer: ShardId,
        from: u64,
        to: u64,
        room: usize,
        out: &mut Vec<u8>,
    ) -> u32 {
        let start = out.len();
        let mut count = 0;
        for (number, entry) in self.peers[usize::from(peer.0)].entries(from) {
            if number >= to || out.len() - start + entry.len() > room {
                break;
            }
            out.extend_from_slice(entry);
            count += 1;
        }
        count
    }

    /// Entries for `peer` from number `from` on.
    pub(crate) fn entries(&self, peer: ShardId, from: u64) -> impl Iterator<Item = (u64, &[u8])> {
        self.peers[usize::from(peer.0)].entries(from)
    }

    pub(crate) fn touched(&mut self) -> &mut Vec<(Realm, ShardId)> {
        for (_, shard) in &self.touched {
            self.peers[usize::from(shard.0)].is_touched = false;
        }
        &mut self.touched
    }

    fn touch(&mut self, peer: ShardId) {
        if !std::mem::replace(&mut self.peers[usize::from(peer.0)].is_touched, true) {
            self.touched.push((self.realm, peer));
        }
    }

    pub(crate) fn state_hash(&self) -> u64 {
        self.peers.iter().enumerate().fold(0, |sum, (number, peer)| {
            let ends = &peer.ends;
            if ends.next_out == 1 && ends.next_in == 1 {
                return sum; // Nothing was ever said.
            }
            let sent = peer.hash_at(ends.next_out).expect("what isn't acknowledged is there");
            let parts = [ends.next_out, ends.acked, ends.next_in, ends.in_hash, sent];
            let bytes = parts.map(u64::to_le_bytes).concat();
            sum.wrapping_add(xxh3_64_with_seed(&bytes, number as u64))
        })
    }

    /// Bytes that wait to arrive.
    pub(crate) fn bytes(&self) -> u64 {
        let pieces = self.peers.iter().flat_map(|peer| &peer.pieces);
        pieces.map(|piece| piece.bytes.capacity() as u64).sum()
    }
}

impl Peer {
    /// Where the next entry is written.
    fn next(&mut self) -> &mut Vec<u8> {
        if self.pieces.back().is_none_or(|piece| piece.bytes.len() >= PIECE_BYTES) {
            let bytes = Vec::with_capacity(PIECE_BYTES + ENTRY_BYTES);
            self.pieces.push_back(Piece { first: self.ends.next_out, start: 0, count: 0, bytes });
        }
        let piece = self.pieces.back_mut().expect("one was pushed");
        piece.count += 1;
        self.ends.next_out += 1;
        &mut piece.bytes
    }

    fn push(&mut self, entry: &[u8]) {
        self.next().extend_from_slice(entry);
    }

    fn entries(&self, from: u64) -> impl Iterator<Item = (u64, &[u8])> {
        let skipped = self.pieces.partition_point(|piece| piece.first + piece.count <= from);
        self.pieces.range(skipped..).flat_map(Piece::entries).filter(move |(n, _)| *n >= from)
    }

    fn hash_at(&self, number: u64) -> Option<u64> {
        let ends = &self.ends;
        if !(ends.acked..=ends.next_out).contains(&number) {
            return None;
        }
        let entries = self.entries(ends.acked).take((number - ends.acked) as usize);
        Some(entries.fold(ends.acked_hash, |hash, (_, entry)| xxh3_64_with_seed(entry, hash)))
    }
}

impl Piece {
    fn entries(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let (mut rest, mut number) = (&self.bytes[self.start..], self.first);
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let (entry, after) = rest.split_at(length_of(rest));
            rest = after;
            number += 1;
            Some((number - 1, entry))
        })
    }
}
