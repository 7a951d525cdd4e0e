//! Snapshots of shards, as files of a [`Disk`].
//!
//! A file is a header, pieces, and an end, each a whole number of blocks and with a hash of its
//! own. Which bytes a piece holds is for the shard to say. The header names the frame after which
//! the shard stood as it was saved: its log goes on there. A file gets its name when all of it is
//! durable, so one that is there is whole, unless somebody damaged it; and that is found when it
//! is read, and the one before it is as good, with more of the log behind it.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use model::ShardId;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::LogEnd;
use crate::aligned::{AlignedBuf, BLOCK_BYTES, whole_blocks};
use crate::disk::{Disk, DiskFile};
use crate::encrypted::Undecipherable;
use crate::local::layout::MarkEntry;

/// The most bytes of a piece.
pub const PIECE_BYTES_MAX: usize = 2 << 20;
/// Snapshots of a shard that are kept: the newest, and the one to fall back to.
pub const SNAPSHOTS_KEPT: usize = 2;

const HEADER_MAGIC: [u8; 4] = *b"CRSN";
const PIECE_MAGIC: [u8; 4] = *b"CRSP";
const VERSION: u16 = 1;

/// What a file begins with.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct FileHeader {
    magic: [u8; 4],
    version: U16,
    reserved: U16,
    number: U64,
    end: MarkEntry,
    /// The rules by which the shard decided.
    rules: U64,
    check: U64,
}

/// What a piece begins with.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct PieceHeader {
    magic: [u8; 4],
    /// 0: a piece; 1: the end of the file.
    kind: U16,
    reserved: U16,
    length: U32,
    /// From 0; of the end, how many there are.
    number: U32,
    /// Of the piece; of the end, over the hashes of all pieces.
    hash: U64,
    unused: [u8; 32],
    check: U64,
}

const PIECE_HEADER_BYTES: usize = size_of::<PieceHeader>();
const _: () = assert!(PIECE_HEADER_BYTES == 64);

impl FileHeader {
    fn computed_check(&self) -> u64 {
        xxh3_64(FileHeader { check: 0.into(), ..*self }.as_bytes())
    }
}

impl PieceHeader {
    /// Seeded with the file's number, so that a block of another file never passes.
    fn computed_check(&self, number: u64) -> u64 {
        xxh3_64_with_seed(PieceHeader { check: 0.into(), ..*self }.as_bytes(), number)
    }
}

/// Why a snapshot can't be written or read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The store failed.
    #[error("{doing} {name} failed: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With which file.
        name: String,
        /// What the store said.
        source: io::Error,
    },
    /// It isn't what was written.
    #[error("{name} is damaged: {what}")]
    Damaged {
        /// The file.
        name: String,
        /// What is wrong.
        what: String,
    },
}

/// A snapshot that is there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct SnapshotId {
    /// Of which shard.
    pub shard: ShardId,
    /// Newer ones have higher numbers.
    pub number: u64,
}

impl SnapshotId {
    /// Its file.
    pub fn name(&self) -> String {
        format!("{:05}-{:016}.snapshot", self.shard.0, self.number)
    }

    fn parse(name: &str) -> Option<SnapshotId> {
        let (shard, number) = name.strip_suffix(".snapshot")?.split_once('-')?;
        let id = SnapshotId { shard: ShardId(shard.parse().ok()?), number: number.parse().ok()? };
        (id.name() == name).then_some(id)
    }
}

/// What a snapshot says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotPlace {
    /// Where the log of its shard goes on.
    pub end: LogEnd,
    /// The version of the rules by which the shard decided.
    pub rules: u16,
    /// Bytes of the file.
    pub bytes: u64,
}

/// The snapshots in a directory.
#[derive(Clone)]
pub struct Snapshots {
    disk: Arc<dyn Disk>,
}

impl Snapshots {
    /// Those on a disk. What was never finished is removed.
    pub fn open(disk: Arc<dyn Disk>) -> Result<Snapshots, SnapshotError> {
        let snapshots = Snapshots { disk };
        for name in snapshots.names()? {
            if name.strip_suffix(".new").is_some_and(|name| SnapshotId::parse(name).is_some()) {
                snapshots.disk.remove(&name).map_err(at("removing", &name))?;
            }
        }
        Ok(snapshots)
    }

    /// Those on a disk that is only looked at.
    pub fn read_only(disk: Arc<dyn Disk>) -> Snapshots {
        Snapshots { disk }
    }

    fn names(&self) -> Result<Vec<String>, SnapshotError> {
        self.disk.list().map_err(at("listing", "the snapshots"))
    }

    /// By shard, the newest first.
    pub fn list(&self) -> Result<BTreeMap<ShardId, Vec<SnapshotId>>, SnapshotError> {
        let mut found = BTreeMap::<ShardId, Vec<SnapshotId>>::new();
        for id in self.names()?.iter().filter_map(|name| SnapshotId::parse(name)) {
            found.entry(id.shard).or_default().push(id);
        }
        found.values_mut().for_each(|ids| ids.sort_unstable_by(|a, b| b.cmp(a)));
        Ok(found)
    }

    /// Begins a snapshot of a shard whose log goes on at `end`.
    pub fn create(
        &self,
        shard: ShardId,
        end: LogEnd,
        rules: u16,
    ) -> Result<SnapshotWriter, SnapshotError> {
        let newest = self.list()?.into_values().flatten().map(|id| id.number).max();
        let id = SnapshotId { shard, number: newest.unwrap_or_default() + 1 };
        let name = format!("{}.new", id.name());
        let file = self.disk.create(&name, 0).map_err(at("making", &name))?;
        let mut writer = SnapshotWriter {
            disk: self.disk.clone(),
            file,
            id,
            buffer: AlignedBuf::new(BLOCK_BYTES),
            written: 0,
            pieces: 0,
            hash: 0,
        };
        let mut header = FileHeader {
            magic: HEADER_MAGIC,
            version: VERSION.into(),
            reserved: 0.into(),
            number: id.number.into(),
            end: MarkEntry::new(shard, end),
            rules: u64::from(rules).into(),
            check: 0.into(),
        };
        header.check = header.computed_check().into();
        writer.write(header.as_bytes(), &[])?;
        Ok(writer)
    }

    /// Reads a snapshot.
    pub fn read(&self, id: SnapshotId) -> Result<SnapshotReader, SnapshotError> {
        let name = id.name();
        let file = self.disk.open(&name).map_err(|error| match Undecipherable::of(&error) {
            Some(why) => SnapshotError::Damaged { name: name.clone(), what: why.to_string() },
            None => at("opening", &name)(error),
        })?;
        let bytes = file.len().map_err(at("asking the length of", &name))?;
        let mut window = AlignedBuf::new(PIECE_BYTES_MAX + BLOCK_BYTES);
        let block = &mut window.bytes_mut()[..BLOCK_BYTES];
        let read = file.read_at(block, 0).map_err(at("reading", &name))?;
        let damaged =
            |what: &str| Err(SnapshotError::Damaged { name: name.clone(), what: what.into() });
        let Ok((header, _)) = FileHeader::read_from_prefix(&block[..read]) else {
            return damaged("it is too short");
        };
        if header.magic != HEADER_MAGIC || header.check.get() != header.computed_check() {
            return damaged("its header is not what was written");
        }
        if header.version.get() != VERSION {
            let what = format!("version {}; this program reads {VERSION}", header.version);
            return damaged(&what);
        }
        if (header.end.shard(), header.number.get()) != (id.shard, id.number) {
            return damaged("it is another one's content");
        }
        let rules = header.rules.get() as u16;
        let place = SnapshotPlace { end: header.end.end(), rules, bytes };
        Ok(SnapshotReader {
            name,
            file,
            id,
            place,
            window,
            at: BLOCK_BYTES as u64,
            pieces: 0,
            hash: 0,
        })
    }

    /// Removes all but the newest [`SNAPSHOTS_KEPT`] of each shard. A crash can have left more,
    /// and the log is trimmed as if there were none.
    pub fn remove_old(&self) -> Result<(), SnapshotError> {
        let all = self.list()?.into_values();
        let mut old = all.flat_map(|ids| ids.into_iter().skip(SNAPSHOTS_KEPT));
        old.try_for_each(|id| self.remove(id))
    }

    /// Removes a snapshot.
    pub fn remove(&self, id: SnapshotId) -> Result<(), SnapshotError> {
        let name = id.name();
        self.disk.remove(&name).map_err(at("removing", &name))
    }
}

/// A snapshot that is being written. Dropped before [`SnapshotWriter::finish`], it is none.
pub struct SnapshotWriter {
    disk: Arc<dyn Disk>,
    file: Box<dyn DiskFile>,
    id: SnapshotId,
    buffer: AlignedBuf,
    written: u64,
    pieces: u32,
    hash: u64,
}

impl SnapshotWriter {
    fn name(&self) -> String {
        format!("{}.new", self.id.name())
    }

    fn write(&mut self, header: &[u8], payload: &[u8]) -> Result<(), SnapshotError> {
        let length = header.len() + payload.len();
        let total = whole_blocks(length as u64) as usize;
        self.buffer.grow(total);
        let buffer = &mut self.buffer.bytes_mut()[..total];
        buffer[..header.len()].copy_from_slice(header);
        buffer[header.len()..length].copy_from_slice(payload);
        buffer[length..].fill(0);
        let written = self.file.write_at(buffer, self.written);
        written.map_err(at("writing", &self.name()))?;
        self.written += total as u64;
        Ok(())
    }

    fn write_piece(&mut self, kind: u16, hash: u64, piece: &[u8]) -> Result<(), SnapshotError> {
        assert!(piece.len() <= PIECE_BYTES_MAX, "a piece is at most {PIECE_BYTES_MAX} bytes");
        let mut header = PieceHeader {
            magic: PIECE_MAGIC,
            kind: kind.into(),
            reserved: 0.into(),
            length: (piece.len() as u32).into(),
            number: self.pieces.into(),
            hash: hash.into(),
            unused: [0; 32],
            check: 0.into(),
        };
        header.check = header.computed_check(self.id.number).into();
        self.write(header.as_bytes(), piece)
    }

    /// Adds a piece of at most [`PIECE_BYTES_MAX`] bytes.
    pub fn add(&mut self, piece: &[u8]) -> Result<(), SnapshotError> {
        let hash = xxh3_64(piece);
        self.write_piece(0, hash, piece)?;
        self.pieces += 1;
        self.hash = xxh3_64_with_seed(&hash.to_le_bytes(), self.hash);
        Ok(())
    }

    /// Makes it durable and gives it its name. Of the shard's others, only the newest is kept.
    pub fn finish(mut self) -> Result<(SnapshotId, u64), SnapshotError> {
        self.write_piece(1, self.hash, &[])?;
        let (new, name) = (self.name(), self.id.name());
        self.file.sync().map_err(at("syncing", &new))?;
        self.disk.rename(&new, &name).map_err(at("renaming", &new))?;
        self.disk.sync_dir().map_err(at("syncing the directory of", &name))?;
        Snapshots { disk: self.disk }.remove_old()?;
        Ok((self.id, self.written))
    }

    /// Removes what was written of it.
    pub fn abandon(self) -> Result<(), SnapshotError> {
        let name = self.name();
        self.disk.remove(&name).map_err(at("removing", &name))
    }
}

/// A snapshot that is being read.
pub struct SnapshotReader {
    name: String,
    file: Box<dyn DiskFile>,
    id: SnapshotId,
    place: SnapshotPlace,
    window: AlignedBuf,
    at: u64,
    pieces: u32,
    hash: u64,
}

impl SnapshotReader {
    /// Where it stands.
    pub fn place(&self) -> SnapshotPlace {
        self.place
    }

    /// Its file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The next piece, at an address that is a multiple of 8; `None` at the end, where it is sure
    /// that nothing is missing.
    pub fn next_piece(&mut self) -> Result<Option<&[u8]>, SnapshotError> {
        let room = self.window.bytes().len() as u64;
        let rest = self.place.bytes.saturating_sub(self.at).min(room) as usize;
        let window = &mut self.window.bytes_mut()[..rest / BLOCK_BYTES * BLOCK_BYTES];
        let read = self.file.read_at(window, self.at).map_err(at("reading", &self.name))?;
        let number = self.pieces;
        let name = &self.name;
        let damaged = |what: &str| {
            let what = format!("piece {number}: {what}");
            Err(SnapshotError::Damaged { name: name.clone(), what })
        };
        let Ok((header, after)) = PieceHeader::read_from_prefix(&self.window.bytes()[..read])
        else {
            return damaged("it is missing");
        };
        if header.magic != PIECE_MAGIC
            || header.check.get() != header.computed_check(self.id.number)
            || header.number.get() != number
        {
            return damaged("its header is not what was written");
        }
        let length = header.length.get() as usize;
        let Some(piece) = after.get(..length) else { return damaged("it is cut short") };
        if header.kind.get() == 1 {
            return match header.hash.get() == self.hash {
                true => Ok(None),
                false => damaged("the end is another's"),
            };
        }
        let hash = xxh3_64(piece);
        if header.hash.get() != hash {
            return damaged("its content is not what was hashed");
        }
        self.hash = xxh3_64_with_seed(&hash.to_le_bytes(), self.hash);
        self.pieces += 1;
        self.at += whole_blocks((PIECE_HEADER_BYTES + length) as u64);
        Ok(Some(&self.window.bytes()[PIECE_HEADER_BYTES..PIECE_HEADER_BYTES + length]))
    }
}

fn at(doing: &'static str, name: &str) -> impl FnOnce(io::Error) -> SnapshotError {
    let name = name.to_string();
    move |source| SnapshotError::Io { doing, name, source }
}

#[cfg(test)]
mod tests {
    use model::{Epoch, Offset, Time};

    use super::*;
    use crate::FaultyDisk;
    use crate::encrypted::{Cover, covers};

    const SHARD: ShardId = ShardId(3);

    fn place(next: u64) -> LogEnd {
        LogEnd { next: Offset(next), epoch: Epoch(2), previous: 77, time: Time(5) }
    }

    fn written(disk: Arc<dyn Disk>, pieces: &[Vec<u8>]) -> SnapshotId {
        let snapshots = Snapshots::open(disk).unwrap();
        let mut writer = snapshots.create(SHARD, place(9), 4).unwrap();
        pieces.iter().for_each(|piece| writer.add(piece).unwrap());
        writer.finish().unwrap().0
    }

    fn read_back(disk: Arc<dyn Disk>, id: SnapshotId) -> Result<Vec<Vec<u8>>, SnapshotError> {
        let mut reader = Snapshots::read_only(disk).read(id)?;
        assert_eq!((reader.place().end, reader.place().rules), (place(9), 4));
        let mut pieces = Vec::new();
        while let Some(piece) = reader.next_piece()? {
            pieces.push(piece.to_vec());
        }
        Ok(pieces)
    }

    #[test]
    fn what_was_written_is_read_back_and_damage_is_found_wherever_it_is() {
        covers().iter().for_each(damages);
    }

    fn damages(cover: &Cover) {
        let disk = FaultyDisk::new();
        let pieces = [vec![1; 9_000], Vec::new(), vec![7; 4_032], vec![9; 8]];
        let id = written(cover(&disk), &pieces);
        assert_eq!(read_back(cover(&disk), id).unwrap(), pieces);
        let bytes = disk.content(&id.name()).unwrap();
        for at in (0..bytes.len()).step_by(13) {
            let damaged = disk.fork();
            damaged.flip(&id.name(), at, (at % 8) as u8);
            match read_back(cover(&damaged), id) {
                Ok(read) => assert_eq!(read, pieces, "a flip at {at}, where nothing is"),
                Err(error) => assert!(error.to_string().contains(&id.name()), "{error}"),
            }
        }
        for length in (0..bytes.len()).step_by(BLOCK_BYTES) {
            let cut = disk.fork();
            cut.open(&id.name()).unwrap().truncate(length as u64).unwrap();
            assert!(read_back(cover(&cut), id).is_err(), "cut to {length}");
        }
    }

    #[test]
    fn a_crash_leaves_it_whole_or_not_there() {
        let covers = covers();
        for seed in 0..200 {
            let (disk, cover) = (FaultyDisk::new(), &covers[seed as usize / 4 % 2]);
            let first = written(cover(&disk), &[vec![5; 5_000]]);
            let snapshots = Snapshots::open(cover(&disk)).unwrap();
            let mut writer = snapshots.create(SHARD, place(9), 4).unwrap();
            writer.add(&[6; 5_000]).unwrap();
            if seed % 2 == 0 {
                disk.fail_sync(1 + seed / 2 % 2);
                assert!(writer.finish().is_err());
            }
            disk.crash(seed);
            let snapshots = Snapshots::open(cover(&disk)).unwrap();
            let found = snapshots.list().unwrap().remove(&SHARD).unwrap();
            assert!(found.contains(&first));
            for id in found {
                read_back(cover(&disk), id).unwrap();
            }
        }
    }

    #[test]
    fn two_of_a_shard_are_kept_though_a_crash_left_more() {
        let disk = FaultyDisk::new();
        let ids: Vec<SnapshotId> =
            (0..4).map(|n| written(Arc::new(disk.clone()), &[vec![n; 100]])).collect();
        let snapshots = Snapshots::read_only(Arc::new(disk.clone()));
        assert_eq!(snapshots.list().unwrap()[&SHARD], [ids[3], ids[2]]);
        assert_eq!(disk.list().unwrap().len(), 2);
        // The oldest is back, as if it had been killed before that was removed.
        let oldest = disk.content(&ids[2].name()).unwrap();
        let newest = written(Arc::new(disk.clone()), &[vec![9; 100]]);
        let mut bytes = AlignedBuf::new(oldest.len());
        bytes.bytes_mut()[..oldest.len()].copy_from_slice(&oldest);
        disk.create(&ids[2].name(), 0).unwrap().write_at(bytes.bytes(), 0).unwrap();
        assert_eq!(snapshots.list().unwrap()[&SHARD].len(), 3);
        snapshots.remove_old().unwrap();
        assert_eq!(snapshots.list().unwrap()[&SHARD], [newest, ids[3]]);
    }
}
