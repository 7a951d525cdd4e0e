//! Where segments go when the log needs them no longer: an object store.
//!
//! An archived segment is one object: its content in pieces of 1 MiB, each compressed by itself,
//! so that a reader gets to any place without the rest; a footer that says where the pieces are,
//! what they hash to, and where all shards' logs end with this segment; and a trailer that leads
//! to the footer. Before a segment is archived all of it is read and checked.
//!
//! Of a directory that is encrypted, pieces and footer are, each by itself (AES-256-GCM), with a key
//! of the object's own; the salt from which and the directory's key it is derived lies before the
//! footer.
//!
//! Calls wait for the store; they are for threads that may wait.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use futures_util::TryStreamExt;
use model::frame::Frame;
use model::{Offset, ShardId, Time};
use object_store::buffered::BufWriter;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::runtime::Runtime;
use xxhash_rust::xxh3::xxh3_64;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::aligned::{AlignedBuf, BLOCK_BYTES};
use crate::disk::{Disk, DiskFile};
use crate::keys::{self, DirectoryKey, SALT_BYTES, TAG_BYTES};
use crate::local::layout::{Kind, MarkEntry, Name, SegmentHeader, SegmentId, segment_name};
use crate::local::open_segment;
use crate::local::scan::{PIECE_BYTES, Scan, Step};
use crate::{Damage, LogError, LogSegment, SegmentReader};

/// Bytes of a piece before it is compressed.
const PIECE: usize = 1 << 20;
/// Pieces that are kept in memory.
const PIECES_KEPT: usize = 32;
/// What so many segments say of themselves is kept in memory: some 10 KB each, of 16 shards.
const KNOWN_MAX: usize = 4_096;
/// Objects that are larger are uploaded in parts of this size.
const PART: usize = 8 << 20;
/// What a new object's name begins with.
const SEGMENTS: &str = "segments";
/// zstd's fastest level with entropy coding: what the log holds gets little smaller with higher
/// ones.
const LEVEL: i32 = 1;
const MAGIC: [u8; 4] = *b"CRAR";
const VERSION: u16 = 1;
/// Of an object that is encrypted.
const VERSION_ENCRYPTED: u16 = 2;
/// The footer's number among the parts that are encrypted; pieces have theirs.
const FOOTER: u32 = u32::MAX;

const UNDECIPHERABLE: &str =
    "its footer can't be decrypted: it isn't what was written, or is of another data directory";

/// A segment's number, and a piece's in it.
type PieceKey = (u32, usize);

/// What an object ends with.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct Trailer {
    magic: [u8; 4],
    version: U16,
    reserved: U16,
    /// Bytes of the footer before it, with the salt before that.
    footer: U32,
    unused: U32,
    footer_hash: U64,
    check: U64,
}

const TRAILER_BYTES: u64 = size_of::<Trailer>() as u64;

/// What an archived segment says of itself.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct ArchivedSegment {
    /// Its number in the log.
    pub index: u32,
    generation: u64,
    segment_bytes: u64,
    /// Bytes of its content.
    pub bytes: u64,
    /// Bytes of the object.
    #[serde(skip)]
    pub stored_bytes: u64,
    /// What its key is derived from, if it is encrypted.
    #[serde(skip)]
    salt: Option<[u8; SALT_BYTES]>,
    /// Where the logs of all shards go on behind it.
    ends: Vec<(u16, u64)>,
    /// By piece: the first write that begins in it or behind, and where the shards' logs go on
    /// there, in the order of `ends`.
    points: Vec<(u64, Vec<u64>)>,
    /// By piece: its compressed bytes, and their hash.
    pieces: Vec<(u32, u64)>,
}

impl ArchivedSegment {
    pub(crate) fn id(&self) -> SegmentId {
        let ArchivedSegment { index, generation, segment_bytes, .. } = *self;
        SegmentId { index, generation, segment_bytes }
    }

    fn place_of(&self, shard: ShardId) -> Option<usize> {
        self.ends.iter().position(|(id, _)| *id == shard.0)
    }

    /// As a part of the log.
    pub fn known(&self) -> LogSegment {
        LogSegment { id: self.id(), end: self.id().base() + self.bytes }
    }

    /// A position from which on all records of a shard from `from` on stand that it has.
    fn seek(&self, shard: ShardId, from: Offset) -> u64 {
        let is_before = |(_, nexts): &(u64, Vec<u64>)| {
            let place = self.place_of(shard);
            place.is_some_and(|place| nexts.get(place).is_none_or(|next| *next <= from.0))
        };
        let point = self.points.partition_point(is_before).saturating_sub(1);
        self.points.get(point).map_or(self.id().first(), |point| point.0)
    }

    /// The first offset of a shard in it, or behind it.
    fn first(&self, shard: ShardId) -> Offset {
        let nexts = self.points.first().map(|(_, nexts)| nexts);
        let next = nexts.zip(self.place_of(shard)).and_then(|(nexts, place)| nexts.get(place));
        Offset(next.copied().unwrap_or(1))
    }

    /// Where a shard's log goes on behind it.
    fn end(&self, shard: ShardId) -> Offset {
        Offset(self.place_of(shard).map_or(1, |place| self.ends[place].1))
    }
}

/// Why the archive can't do what it is asked for.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// Its location can't be understood.
    #[error("the archive's location {location}: {source}")]
    Location {
        /// As it was given.
        location: String,
        /// What is wrong.
        source: object_store::Error,
    },
    /// The store failed.
    #[error("{doing} {name} in the archive failed: {source}")]
    Store {
        /// What was tried.
        doing: &'static str,
        /// With which object.
        name: String,
        /// What the store said.
        source: object_store::Error,
    },
    /// Something there isn't what was written.
    #[error("{name} in the archive is damaged: {what}")]
    Damaged {
        /// The object.
        name: String,
        /// What is wrong.
        what: &'static str,
    },
    /// It is encrypted, and there is no key.
    #[error("{name} in the archive is encrypted: the data key is needed (--data-key)")]
    NeedsKey {
        /// The object.
        name: String,
    },
    /// Another log has its segments there.
    #[error("{name} in the archive is of another log; every log needs a location of its own")]
    Foreign {
        /// The object.
        name: String,
    },
    /// The segment that was to be archived.
    #[error(transparent)]
    Log(#[from] LogError),
    /// No runtime to wait with.
    #[error("no runtime for the archive: {0}")]
    Runtime(io::Error),
}

/// A place for old segments.
pub struct Archive {
    store: Arc<dyn ObjectStore>,
    root: Path,
    /// Of the directory, if it is encrypted.
    key: Option<DirectoryKey>,
    /// There until it is dropped.
    runtime: Option<Runtime>,
    known: Mutex<BTreeMap<u32, Arc<ArchivedSegment>>>,
    /// Segments that were there when that was asked last.
    listed: Mutex<Vec<u32>>,
    /// Pieces by segment and number, the newest first.
    pieces: Mutex<VecDeque<(PieceKey, Arc<Vec<u8>>)>>,
}

impl Archive {
    /// In a directory, which is made if it isn't there.
    pub fn directory(path: &std::path::Path) -> Result<Archive, ArchiveError> {
        let location = || path.display().to_string();
        let wrong = |source| ArchiveError::Location { location: location(), source };
        let generic = |source: io::Error| {
            wrong(object_store::Error::Generic { store: "directory", source: source.into() })
        };
        std::fs::create_dir_all(path).map_err(generic)?;
        let store = LocalFileSystem::new_with_prefix(path).map_err(wrong)?;
        Archive::new(Arc::new(store.with_fsync(true)), Path::default())
    }

    /// At a URL: `s3://bucket/path`, `file:///path`. Settings of S3 are taken from `settings`, by
    /// the names that its own tools use: `AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT` and so on.
    pub fn at(
        url: &str,
        settings: impl Iterator<Item = (String, String)>,
    ) -> Result<Archive, ArchiveError> {
        // Whoever installed one before did it for the same reason.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let wrong = |source| ArchiveError::Location { location: url.to_string(), source };
        let generic = |source: url::ParseError| {
            wrong(object_store::Error::Generic { store: "archive", source: source.into() })
        };
        let parsed = url::Url::parse(url).map_err(generic)?;
        if parsed.scheme() == "file" {
            return Archive::directory(std::path::Path::new(parsed.path()));
        }
        let aws = settings.filter(|(name, _)| name.starts_with("AWS_"));
        let (store, root) = object_store::parse_url_opts(&parsed, aws).map_err(wrong)?;
        Archive::new(store.into(), root)
    }

    /// In any store, below `root`.
    pub fn new(store: Arc<dyn ObjectStore>, root: Path) -> Result<Archive, ArchiveError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(ArchiveError::Runtime)?;
        let (known, listed, pieces) = Default::default();
        let key = None;
        Ok(Archive { store, root, key, runtime: Some(runtime), known, listed, pieces })
    }

    /// Encrypted, if there is a key.
    pub fn with_key(mut self, key: Option<DirectoryKey>) -> Archive {
        self.key = key;
        self
    }

    /// Waits for the store.
    fn wait<F: Future>(&self, future: F) -> F::Output {
        self.runtime.as_ref().expect("it is there until this is dropped").block_on(future)
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<u32, Arc<ArchivedSegment>>> {
        self.known.lock().expect("nothing panics while it holds the lock")
    }

    fn path(&self, index: u32) -> Path {
        self.root.clone().join(SEGMENTS).join(segment_name(index))
    }

    /// The segments that are there.
    pub fn segments(&self) -> Result<Vec<u32>, ArchiveError> {
        let prefix = self.root.clone().join(SEGMENTS);
        let found = self.wait(self.store.list(Some(&prefix)).try_collect::<Vec<_>>());
        let found = found.map_err(failed("listing", &prefix))?;
        let index = |name: &str| match Name::parse(name) {
            Name::Segment(index) => Some(index),
            _ => None,
        };
        let names = found.iter().filter_map(|object| index(object.location.filename()?));
        let mut indexes: Vec<u32> = names.collect();
        indexes.sort_unstable();
        Ok(indexes)
    }

    /// What an archived segment says of itself; `None` if it isn't there.
    pub fn segment(&self, index: u32) -> Result<Option<Arc<ArchivedSegment>>, ArchiveError> {
        if let Some(known) = self.known().get(&index) {
            return Ok(Some(known.clone()));
        }
        let path = self.path(index);
        let read = async {
            let bytes = match self.store.head(&path).await {
                Ok(meta) => meta.size,
                Err(object_store::Error::NotFound { .. }) => return Ok(None),
                Err(error) => return Err(failed("looking at", &path)(error)),
            };
            let damaged = |what| ArchiveError::Damaged { name: path.to_string(), what };
            let get = async |range| {
                let found = self.store.get_range(&path, range).await;
                found.map_err(failed("reading", &path))
            };
            let start = bytes.checked_sub(TRAILER_BYTES).ok_or(damaged("it is too short"))?;
            let trailer = get(start..bytes).await?;
            let trailer = Trailer::read_from_bytes(&trailer);
            let trailer = trailer.map_err(|_| damaged("its trailer is cut short"))?;
            let computed = xxh3_64(Trailer { check: 0.into(), ..trailer }.as_bytes());
            if trailer.magic != MAGIC || trailer.check.get() != computed {
                return Err(damaged("its trailer is not what was written"));
            }
            let key = match (trailer.version.get(), &self.key) {
                (VERSION, None) => None,
                (VERSION, Some(_)) => return Err(damaged("it isn't encrypted, and its log is")),
                (VERSION_ENCRYPTED, Some(key)) => Some(key),
                (VERSION_ENCRYPTED, None) => {
                    return Err(ArchiveError::NeedsKey { name: path.to_string() });
                }
                _ => return Err(damaged("it is of another version")),
            };
            let first = start.checked_sub(trailer.footer.get().into());
            let footer = get(first.ok_or(damaged("it has no footer"))?..start).await?;
            if xxh3_64(&footer) != trailer.footer_hash.get() {
                return Err(damaged("its footer is not what was hashed"));
            }
            let mut footer = footer.to_vec();
            let (salt, footer) = match key {
                Some(key) => {
                    let (salt, sealed) = footer
                        .split_first_chunk_mut::<SALT_BYTES>()
                        .ok_or(damaged("its footer is too short"))?;
                    let opened = key.of_object(salt).open(FOOTER, &index.to_le_bytes(), sealed);
                    (Some(*salt), opened.ok_or(damaged(UNDECIPHERABLE))?)
                }
                None => (None, &footer[..]),
            };
            let segment = postcard::from_bytes::<ArchivedSegment>(footer);
            let segment = segment.map_err(|_| damaged("its footer can't be read"))?;
            if segment.index != index {
                return Err(damaged("it is another segment's content"));
            }
            Ok(Some(ArchivedSegment { stored_bytes: bytes, salt, ..segment }))
        };
        let Some(segment) = self.wait(read)? else { return Ok(None) };
        let segment = Arc::new(segment);
        let mut known = self.known();
        if known.len() >= KNOWN_MAX {
            known.pop_first();
        }
        known.insert(index, segment.clone());
        Ok(Some(segment))
    }

    /// Archives a segment of a log on `disk`: checks all of it, and returns when it is durable.
    /// One that is there already is left as it is.
    pub fn put(
        &self,
        disk: &dyn Disk,
        sealed: &LogSegment,
    ) -> Result<Arc<ArchivedSegment>, ArchiveError> {
        let path = self.path(sealed.id.index);
        if let Some(there) = self.segment(sealed.id.index)? {
            let is_it = there.generation == sealed.id.generation;
            return if is_it { Ok(there) } else { Err(foreign(&path)) };
        }
        let before = self.segments()?.into_iter().rfind(|index| *index < sealed.id.index);
        let before = before.map(|index| self.segment(index)).transpose()?.flatten();
        let ends = before.map_or(Vec::new(), |before| before.ends.clone());
        let mut segment = describe(disk, sealed, ends)?;
        let salted = |key| -> io::Result<_> { Ok((key, keys::draw::<SALT_BYTES>()?)) };
        let salted = self.key.as_ref().map(salted).transpose();
        let salted = salted.map_err(LogError::io("drawing a salt"))?;
        let sealer = salted.map(|(key, salt)| (salt, key.of_object(&salt)));
        let about = sealed.id.index.to_le_bytes();
        let write = async {
            let mut writer = BufWriter::with_capacity(self.store.clone(), path.clone(), PART);
            let mut pieces = Pieces::new(disk, sealed)?;
            while let Some(packed) = pieces.next()? {
                if let Some((_, sealer)) = &sealer {
                    sealer.seal(segment.pieces.len() as u32, &about, packed);
                }
                segment.pieces.push((packed.len() as u32, xxh3_64(packed)));
                writer.write_all(packed).await.map_err(upload(&path))?;
            }
            let mut footer = postcard::to_stdvec(&segment).expect("plain fields have a form");
            if let Some((salt, sealer)) = &sealer {
                sealer.seal(FOOTER, &about, &mut footer);
                footer.splice(..0, *salt);
            }
            let mut trailer = Trailer {
                magic: MAGIC,
                version: if sealer.is_some() { VERSION_ENCRYPTED } else { VERSION }.into(),
                reserved: 0.into(),
                footer: (footer.len() as u32).into(),
                unused: 0.into(),
                footer_hash: xxh3_64(&footer).into(),
                check: 0.into(),
            };
            trailer.check = xxh3_64(trailer.as_bytes()).into();
            writer.write_all(&footer).await.map_err(upload(&path))?;
            writer.write_all(trailer.as_bytes()).await.map_err(upload(&path))?;
            writer.shutdown().await.map_err(upload(&path))
        };
        self.wait(write)?;
        // Read back, so that nothing is trimmed that the store doesn't show.
        match self.segment(sealed.id.index)? {
            Some(there) if there.generation == segment.generation => Ok(there),
            Some(_) => Err(foreign(&path)),
            None => {
                let what = "it isn't there after it was written";
                Err(ArchiveError::Damaged { name: path.to_string(), what })
            }
        }
    }

    /// The content of a piece. Those that were read last are kept: who looks for one old record
    /// often looks for its neighbours.
    fn piece(
        &self,
        segment: &ArchivedSegment,
        number: usize,
    ) -> Result<Arc<Vec<u8>>, ArchiveError> {
        let key = (segment.index, number);
        let lock = || self.pieces.lock().expect("nothing panics while it holds the lock");
        if let Some((_, piece)) = lock().iter().find(|(other, _)| *other == key) {
            return Ok(piece.clone());
        }
        let piece = Arc::new(self.read_piece(segment, number)?);
        let mut pieces = lock();
        pieces.truncate(PIECES_KEPT - 1);
        pieces.push_front((key, piece.clone()));
        Ok(piece)
    }

    fn read_piece(
        &self,
        segment: &ArchivedSegment,
        number: usize,
    ) -> Result<Vec<u8>, ArchiveError> {
        let path = self.path(segment.index);
        let damaged = |what| ArchiveError::Damaged { name: path.to_string(), what };
        let &(length, hash) = segment.pieces.get(number).ok_or(damaged("it ends early"))?;
        let start: u64 =
            segment.pieces[..number].iter().map(|(length, _)| u64::from(*length)).sum();
        let range = start..start + u64::from(length);
        let packed = self.wait(self.store.get_range(&path, range));
        let packed = packed.map_err(failed("reading", &path))?;
        if xxh3_64(&packed) != hash {
            return Err(damaged("a piece is not what was hashed"));
        }
        let mut packed = packed.to_vec();
        let packed = match (segment.salt, &self.key) {
            (Some(salt), Some(key)) => {
                let about = segment.index.to_le_bytes();
                let opened = key.of_object(&salt).open(number as u32, &about, &mut packed);
                opened.ok_or(damaged("a piece can't be decrypted"))?
            }
            _ => &packed[..],
        };
        zstd::bulk::decompress(packed, PIECE).map_err(|_| damaged("a piece can't be unpacked"))
    }

    /// A position in the log from which on all archived records of a shard from `from` on stand;
    /// `None` if that one isn't archived.
    pub fn seek(&self, shard: ShardId, from: Offset) -> Result<Option<u64>, ArchiveError> {
        let found = self.find(shard, from)?.filter(|segment| segment.first(shard) <= from);
        Ok(found.map(|segment| segment.seek(shard, from)))
    }

    /// A record of a shard, and when it was decided; `None` if it isn't there.
    pub fn record(
        self: &Arc<Archive>,
        shard: ShardId,
        offset: Offset,
    ) -> Result<Option<(Time, Vec<u8>)>, ArchiveError> {
        let Some(segment) = self.find(shard, offset)? else { return Ok(None) };
        let start = segment.seek(shard, offset);
        let disk = ArchiveDisk(self.clone());
        let mut reader = SegmentReader::open(&disk, &segment.known(), start)?;
        while let Some(write) = reader.next_write()? {
            let mut rest = write.frames;
            while let Ok((frame, after)) = Frame::split(rest) {
                rest = after;
                let place = frame.place();
                let at = offset.0.checked_sub(place.first_offset.0);
                if let Some(at) = at
                    && place.shard == shard
                    && offset < frame.next_offset()
                {
                    let record = frame.records().nth(at as usize).and_then(Result::ok);
                    return Ok(record.map(|record| (place.time, record.bytes.to_vec())));
                }
            }
        }
        Ok(None)
    }

    /// The segment that holds a record of a shard.
    fn find(
        &self,
        shard: ShardId,
        offset: Offset,
    ) -> Result<Option<Arc<ArchivedSegment>>, ArchiveError> {
        let listed = self.listed.lock().expect("nothing panics while it holds the lock").clone();
        if let Some(found) = self.find_among(&listed, shard, offset)? {
            return Ok(Some(found));
        }
        // Others may have come since.
        let all = self.segments()?;
        let found = self.find_among(&all, shard, offset)?;
        *self.listed.lock().expect("nothing panics while it holds the lock") = all;
        Ok(found)
    }

    fn find_among(
        &self,
        all: &[u32],
        shard: ShardId,
        offset: Offset,
    ) -> Result<Option<Arc<ArchivedSegment>>, ArchiveError> {
        let (mut low, mut high) = (0, all.len());
        while low < high {
            let middle = (low + high) / 2;
            let segment = self.segment(all[middle])?;
            let is_before = segment.is_none_or(|segment| segment.end(shard) <= offset);
            if is_before { low = middle + 1 } else { high = middle }
        }
        let found = all.get(low).map(|index| self.segment(*index)).transpose()?;
        Ok(found.flatten())
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        // Whoever drops it last may be a task, which must not wait for the runtime's end.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(object_store::Error) -> ArchiveError {
    let name = path.to_string();
    move |source| ArchiveError::Store { doing, name, source }
}

fn upload(path: &Path) -> impl FnOnce(io::Error) -> ArchiveError {
    let failed = failed("writing", path);
    move |error| failed(object_store::Error::Generic { store: "archive", source: error.into() })
}

fn foreign(path: &Path) -> ArchiveError {
    ArchiveError::Foreign { name: path.to_string() }
}

/// Reads a sealed segment and checks all of it: what there is to say of it, but for its pieces.
pub(crate) fn describe(
    disk: &dyn Disk,
    sealed: &LogSegment,
    ends: Vec<(u16, u64)>,
) -> Result<ArchivedSegment, LogError> {
    let LogSegment { id, end } = *sealed;
    let file = open_segment(disk, id)?;
    let mut block = AlignedBuf::new(BLOCK_BYTES);
    let read = file.read_at(block.bytes_mut(), 0).map_err(LogError::io("reading a segment"))?;
    let header = SegmentHeader::parse(&block.bytes()[..read]);
    if header.is_none_or(|header| header.id() != id) {
        let what = Damage::SegmentHeader { index: id.index };
        return Err(LogError::Damage { position: id.base(), what });
    }
    let mut scan = Scan::new(file, id, PIECE_BYTES, AlignedBuf::default())?;
    scan.limit(id.first(), end);
    let mut ends: Vec<(u16, u64)> = ends;
    let set = |ends: &mut Vec<(u16, u64)>, shard: u16, next| match ends
        .iter_mut()
        .find(|(id, _)| *id == shard)
    {
        Some((_, end)) => *end = next,
        None => ends.push((shard, next)),
    };
    let mut points = Vec::new();
    while scan.position() < end {
        let position = scan.position();
        if (position - id.base()) as usize >= points.len() * PIECE {
            let nexts = ends.iter().map(|(_, next)| *next).collect();
            points.push((position, nexts));
        }
        let (header, payload) = match scan.step()? {
            Step::Write(header, payload) => (header, payload),
            Step::End(found) => return Err(crate::local::damage(position, found, end)),
        };
        let mut rest = &scan.bytes()[payload];
        if header.kind() == Kind::Mark {
            for entry in <[MarkEntry]>::ref_from_bytes(rest).unwrap_or_default() {
                set(&mut ends, entry.shard().0, entry.end().next.0);
            }
            continue;
        }
        while !rest.is_empty() {
            let (frame, after) = Frame::split(rest)
                .map_err(|error| LogError::Damage { position, what: Damage::Frame(error) })?;
            set(&mut ends, frame.place().shard.0, frame.next_offset().0);
            rest = after;
        }
    }
    let SegmentId { index, generation, segment_bytes } = id;
    let bytes = end - id.base();
    let pieces = Vec::new();
    let (stored_bytes, salt) = (0, None);
    Ok(ArchivedSegment {
        index,
        generation,
        segment_bytes,
        bytes,
        stored_bytes,
        salt,
        ends,
        points,
        pieces,
    })
}

/// A segment's content, compressed piece by piece.
struct Pieces {
    file: Box<dyn DiskFile>,
    left: u64,
    position: u64,
    content: AlignedBuf,
    compressor: zstd::bulk::Compressor<'static>,
    packed: Vec<u8>,
}

impl Pieces {
    fn new(disk: &dyn Disk, sealed: &LogSegment) -> Result<Pieces, LogError> {
        let compressor = zstd::bulk::Compressor::new(LEVEL);
        Ok(Pieces {
            file: open_segment(disk, sealed.id)?,
            left: sealed.end - sealed.id.base(),
            position: 0,
            content: AlignedBuf::new(PIECE),
            compressor: compressor.map_err(LogError::io("making a compressor"))?,
            packed: Vec::with_capacity(zstd::zstd_safe::compress_bound(PIECE) + TAG_BYTES),
        })
    }

    /// The next piece, compressed.
    fn next(&mut self) -> Result<Option<&mut Vec<u8>>, LogError> {
        if self.left == 0 {
            return Ok(None);
        }
        let length = self.left.min(PIECE as u64) as usize;
        let content = &mut self.content.bytes_mut()[..length];
        let read = self.file.read_at(content, self.position);
        if read.map_err(LogError::io("reading a segment"))? != length {
            let gone = io::ErrorKind::UnexpectedEof.into();
            return Err(LogError::io("reading a segment")(gone));
        }
        self.packed.clear();
        let packed = self.compressor.compress_to_buffer(content, &mut self.packed);
        packed.map_err(LogError::io("compressing a segment"))?;
        self.left -= length as u64;
        self.position += length as u64;
        Ok(Some(&mut self.packed))
    }
}

/// The archived segments as files that can be read.
pub struct ArchiveDisk(pub Arc<Archive>);

struct ArchivedFile {
    archive: Arc<Archive>,
    segment: Arc<ArchivedSegment>,
    /// The piece that was read last.
    last: Mutex<Option<(usize, Arc<Vec<u8>>)>>,
}

impl ArchivedFile {
    fn new(archive: Arc<Archive>, segment: Arc<ArchivedSegment>) -> ArchivedFile {
        ArchivedFile { archive, segment, last: Mutex::default() }
    }
}

fn only_read<T>() -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "an archived segment is only read"))
}

impl Disk for ArchiveDisk {
    fn create(&self, _: &str, _: u64) -> io::Result<Box<dyn DiskFile>> {
        only_read()
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let Name::Segment(index) = Name::parse(name) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let segment = self.0.segment(index).map_err(io::Error::other)?;
        let segment = segment.ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(ArchivedFile::new(self.0.clone(), segment)))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let segments = self.0.segments().map_err(io::Error::other)?;
        Ok(segments.into_iter().map(segment_name).collect())
    }

    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        only_read()
    }

    fn remove(&self, _: &str) -> io::Result<()> {
        only_read()
    }

    fn sync_dir(&self) -> io::Result<()> {
        only_read()
    }
}

impl DiskFile for ArchivedFile {
    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        only_read()
    }

    fn read_at(&self, bytes: &mut [u8], position: u64) -> io::Result<usize> {
        let mut last = self.last.lock().expect("nothing panics while it holds the lock");
        let mut read = 0;
        while read < bytes.len() && position + (read as u64) < self.segment.bytes {
            let at = position as usize + read;
            let number = at / PIECE;
            if last.as_ref().is_none_or(|(known, _)| *known != number) {
                let piece = self.archive.piece(&self.segment, number);
                *last = Some((number, piece.map_err(io::Error::other)?));
            }
            let (_, piece) = last.as_ref().expect("it was just read");
            let rest = piece.get(at % PIECE..).unwrap_or_default();
            let length = rest.len().min(bytes.len() - read);
            if length == 0 {
                break;
            }
            bytes[read..read + length].copy_from_slice(&rest[..length]);
            read += length;
        }
        Ok(read)
    }

    fn sync(&self) -> io::Result<()> {
        only_read()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.segment.bytes)
    }

    fn truncate(&self, _: u64) -> io::Result<()> {
        only_read()
    }
}

/// A log's directory and its archive, read as one. What was archived is read from there: it was
/// checked then, and what is left of it in the directory may be on its way out.
pub struct UnionDisk {
    local: Arc<dyn Disk>,
    archive: Arc<dyn Disk>,
    archived: BTreeSet<String>,
}

impl UnionDisk {
    /// Both as they are now.
    pub fn new(local: Arc<dyn Disk>, archive: Arc<dyn Disk>) -> io::Result<UnionDisk> {
        let archived = archive.list()?.into_iter().collect();
        Ok(UnionDisk::with(local, archive, archived))
    }

    /// Of what is archived, with these alone.
    pub(crate) fn with(
        local: Arc<dyn Disk>,
        archive: Arc<dyn Disk>,
        archived: BTreeSet<String>,
    ) -> UnionDisk {
        UnionDisk { local, archive, archived }
    }
}

impl Disk for UnionDisk {
    fn create(&self, _: &str, _: u64) -> io::Result<Box<dyn DiskFile>> {
        only_read()
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let disk = if self.archived.contains(name) { &self.archive } else { &self.local };
        disk.open(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names: BTreeSet<String> = self.local.list()?.into_iter().collect();
        names.extend(self.archived.iter().cloned());
        Ok(names.into_iter().collect())
    }

    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        only_read()
    }

    fn remove(&self, _: &str) -> io::Result<()> {
        only_read()
    }

    fn sync_dir(&self) -> io::Result<()> {
        only_read()
    }

    fn is_append_only(&self) -> bool {
        self.local.is_append_only()
    }
}
