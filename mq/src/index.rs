//! Where in the log a key is: sorted runs with filters, beside the log.
//!
//! The index is made of the log, and can be made again of it. What was logged lately is kept in
//! memory, in sorted chunks. When that is a lot, or is asked for, it becomes a run: a file of
//! entries in the order of their keys, in blocks that carry their checks. In memory are kept the
//! first key of every block and a filter for it (B. H. Bloom, "Space/time trade-offs in hash
//! coding with allowable errors", CACM 13(7), 1970): some 12 bits a key. So a key that isn't there
//! costs a search among first keys, and one look into a filter, of which one in 250 has a block
//! read for nothing; and one that is there a read of one block. A filter for each block, and not
//! for the whole run, is made in a core's cache, for entries come in their order. Eight runs of
//! a size become one of the next.
//!
//! A run says of which records it is: by shard, those from one offset to another. Runs follow
//! each other without a gap. One that is damaged is named, and it and all after it are made again.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use model::{Offset, ShardId};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::aligned::{AlignedBuf, BLOCK_BYTES};
use crate::disk::{Disk, DiskFile};
use crate::encrypted::Undecipherable;

/// Entries in memory that become a run.
const RUN_ENTRIES: usize = 1 << 20;
/// Entries that are sorted together while they are in memory.
const CHUNK_ENTRIES: usize = 1 << 14;
/// Words and bits of a block's filter, 12 bits a key; how many of them a key sets, and what
/// spreads them.
const FILTER_WORDS: usize = BLOCK_ENTRIES * 12 / 64 + 1;
const FILTER_BITS: usize = FILTER_WORDS * 64;
const FILTER_HASHES: u32 = 6;
const FILTER_SEED: u64 = 0x6372_6573_7420_6978;
/// Runs of a size that become one.
const MERGE: usize = 8;
/// Blocks that are written, and that are read by a merge, at once.
const WRITE_BLOCKS: usize = 256;
const READ_BLOCKS: usize = 32;
const COPY_BIT: u32 = 47;
const MAGIC: [u8; 4] = *b"CRIX";
const VERSION: u16 = 1;

/// Where a key is: the shard, in the highest 16 bits; whether it is a copy; and the offset.
#[derive(
    FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, PartialEq, Eq, Debug,
)]
#[repr(C)]
struct Entry {
    key: U64,
    place: U64,
}

impl Entry {
    fn order(&self) -> (u64, u64) {
        (self.key.get(), self.place.get())
    }
}

const BLOCK_ENTRIES: usize = BLOCK_BYTES / size_of::<Entry>() - 1;

/// A block of a run.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Block {
    entries: [Entry; BLOCK_ENTRIES],
    count: U32,
    number: U32,
    check: U64,
}

const _: () = assert!(size_of::<Block>() == BLOCK_BYTES);

impl Block {
    fn computed_check(&self, run: u64) -> u64 {
        let bytes = self.as_bytes();
        xxh3_64_with_seed(&bytes[..BLOCK_BYTES - size_of::<U64>()], run)
    }
}

/// What a run ends with: the last block.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct Trailer {
    magic: [u8; 4],
    version: U32,
    /// Blocks of entries before what the run says of itself.
    blocks: U32,
    /// Bytes of that.
    about: U32,
    about_hash: U64,
    check: U64,
}

impl Trailer {
    fn computed_check(&self, run: u64) -> u64 {
        xxh3_64_with_seed(Trailer { check: 0.into(), ..*self }.as_bytes(), run)
    }
}

/// What a run says of itself.
#[derive(Serialize, Deserialize)]
struct About {
    /// By shard: its first offset, and the one behind its last.
    covers: Vec<(u16, u64, u64)>,
    /// The first key of each block.
    fences: Vec<u64>,
    entries: u64,
    /// By block: the words of its filter.
    filter: Vec<u8>,
}

/// The bits of a key in the filter of its block.
fn filter_bits(key: u64) -> impl Iterator<Item = usize> {
    // A. Kirsch and M. Mitzenmacher, "Less hashing, same performance: building a better Bloom
    // filter", ESA 2006.
    let mixed = u128::from(key ^ FILTER_SEED) * 0x9e37_79b9_7f4a_7c15;
    let (first, step) = ((mixed >> 64) as u32 ^ mixed as u32, (mixed >> 32) as u32 | 1);
    (0..FILTER_HASHES).map(move |number| {
        let hash = first.wrapping_add(step.wrapping_mul(number));
        ((u64::from(hash) * FILTER_BITS as u64) >> 32) as usize
    })
}

/// A file of entries.
struct Run {
    id: RunId,
    file: Box<dyn DiskFile>,
    about: About,
    filter: Vec<u64>,
}

/// Its file's name: which of the runs that were flushed are in it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct RunId {
    first: u32,
    last: u32,
}

impl RunId {
    fn name(&self) -> String {
        format!("{:010}-{:010}.index", self.first, self.last)
    }

    fn parse(name: &str) -> Option<RunId> {
        let (first, last) = name.strip_suffix(".index")?.split_once('-')?;
        let id = RunId { first: first.parse().ok()?, last: last.parse().ok()? };
        (id.name() == name && id.first <= id.last).then_some(id)
    }

    /// What its blocks' checks are seeded with.
    fn seed(&self) -> u64 {
        u64::from(self.first) << 32 | u64::from(self.last)
    }

    /// Runs of the first size that are in it.
    fn size(&self) -> u32 {
        self.last - self.first + 1
    }
}

/// Why the index can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
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
    /// A run isn't what was written.
    #[error("{name} is damaged: {what}")]
    Damaged {
        /// The file.
        name: String,
        /// What is wrong.
        what: &'static str,
    },
}

/// The index of a log.
pub struct LogIndex {
    disk: Arc<dyn Disk>,
    /// The oldest first.
    runs: Vec<Arc<Run>>,
    /// Sorted, the oldest first.
    chunks: Vec<Vec<Entry>>,
    open: Vec<Entry>,
    /// Memory of chunks, and of a run, to use again.
    spare_chunks: Vec<Vec<Entry>>,
    spare_run: Vec<Entry>,
    /// Files that are of no use: to be removed.
    useless: Vec<String>,
    /// Whether merges are to be given up.
    stop: Arc<AtomicBool>,
    /// By shard: the offset behind the last that is in a run, and behind the last that is known.
    covered: BTreeMap<ShardId, Offset>,
    known: BTreeMap<ShardId, Offset>,
}

impl LogIndex {
    /// That on a disk, which stays as it is until the first [`LogIndex::flush`] or
    /// [`LogIndex::remove_useless`]. Runs that are no good are left out, with all after them: their
    /// records are to be added again.
    pub fn open(disk: Arc<dyn Disk>) -> Result<(LogIndex, Vec<IndexError>), IndexError> {
        let mut index = LogIndex {
            disk: disk.clone(),
            runs: Vec::new(),
            chunks: Vec::new(),
            open: Vec::with_capacity(CHUNK_ENTRIES),
            spare_chunks: Vec::new(),
            spare_run: Vec::new(),
            useless: Vec::new(),
            stop: Arc::default(),
            covered: BTreeMap::new(),
            known: BTreeMap::new(),
        };
        let names = disk.list().map_err(at("listing", "the index"))?;
        let mut ids: Vec<RunId> = names.iter().filter_map(|name| RunId::parse(name)).collect();
        // Of what was merged, the largest comes first.
        ids.sort_unstable_by_key(|id| (id.first, std::cmp::Reverse(id.last)));
        index.useless = names.into_iter().filter(|name| name.ends_with(".new")).collect();
        let mut damaged = Vec::new();
        for id in ids {
            let next = index.runs.last().map_or(0, |run| run.id.last + 1);
            let run = if id.first == next && damaged.is_empty() {
                Run::open(&*disk, id).and_then(|run| match index.follows(&run) {
                    true => Ok(run),
                    false => Err(damage(&id.name(), "it doesn't follow the run before")),
                })
            } else {
                index.useless.push(id.name()); // It was merged, or what is before it is gone.
                continue;
            };
            match run {
                Ok(run) => index.add_run(run),
                Err(error @ IndexError::Io { .. }) => return Err(error),
                Err(error) => {
                    index.useless.push(id.name());
                    damaged.push(error);
                }
            }
        }
        index.known = index.covered.clone();
        Ok((index, damaged))
    }

    /// Removes runs that are no good or were merged, and what was begun.
    pub fn remove_useless(&mut self) -> Result<(), IndexError> {
        for name in std::mem::take(&mut self.useless) {
            self.disk.remove(&name).map_err(at("removing", &name))?;
        }
        Ok(())
    }

    fn follows(&self, run: &Run) -> bool {
        let mut covers = run.about.covers.iter();
        covers.all(|&(shard, from, to)| self.covered(ShardId(shard)).0 == from && from <= to)
    }

    fn add_run(&mut self, run: Run) {
        for &(shard, _, to) in &run.about.covers {
            self.covered.insert(ShardId(shard), Offset(to));
        }
        self.runs.push(Arc::new(run));
    }

    /// Where a shard's log goes on behind what is in runs, which are durable.
    pub fn covered(&self, shard: ShardId) -> Offset {
        self.covered.get(&shard).copied().unwrap_or(Offset(1))
    }

    /// The same of all shards that are in any run.
    pub fn all_covered(&self) -> Vec<(ShardId, Offset)> {
        self.covered.iter().map(|(shard, next)| (*shard, *next)).collect()
    }

    /// Where a shard's log goes on behind all that was added.
    pub fn known(&self, shard: ShardId) -> Offset {
        self.known.get(&shard).copied().unwrap_or(Offset(1))
    }

    /// Adds a key of a record: of the one that was the first with it, or of one that has a copy of
    /// what it names.
    pub fn add(&mut self, key: u64, shard: ShardId, offset: Offset, is_copy: bool) {
        let place = u64::from(shard.0) << 48 | u64::from(is_copy) << COPY_BIT | offset.0;
        self.open.push(Entry { key: key.into(), place: place.into() });
        if self.open.len() == CHUNK_ENTRIES {
            let next = self.spare_chunks.pop();
            let next = next.unwrap_or_else(|| Vec::with_capacity(CHUNK_ENTRIES));
            let mut chunk = std::mem::replace(&mut self.open, next);
            chunk.sort_unstable_by_key(Entry::order);
            self.chunks.push(chunk);
        }
    }

    /// All records of a shard before `next` were added.
    pub fn cover(&mut self, shard: ShardId, next: Offset) {
        self.known.insert(shard, next);
    }

    /// Whether so much is in memory that it should become a run.
    pub fn is_full(&self) -> bool {
        self.chunks.len() * CHUNK_ENTRIES >= RUN_ENTRIES
    }

    /// Makes a run of what is in memory, durably.
    pub fn flush(&mut self) -> Result<(), IndexError> {
        let covers = self.known.iter().map(|(shard, to)| (shard.0, self.covered(*shard).0, to.0));
        let covers: Vec<_> = covers.filter(|(_, from, to)| from < to).collect();
        if covers.is_empty() {
            return Ok(());
        }
        self.remove_useless()?;
        let mut entries = std::mem::take(&mut self.spare_run);
        entries.clear();
        self.chunks.iter().for_each(|chunk| entries.extend_from_slice(chunk));
        entries.extend_from_slice(&self.open);
        // It finds the chunks, which are sorted, and merges them.
        entries.sort_by_key(Entry::order);
        let number = self.runs.last().map_or(0, |run| run.id.last + 1);
        let id = RunId { first: number, last: number };
        let mut sorted = entries.iter().copied().map(Ok);
        let run = Run::write(&*self.disk, id, covers, entries.len(), &mut sorted)?;
        self.add_run(run);
        self.spare_run = entries;
        self.spare_chunks.append(&mut self.chunks);
        self.spare_chunks.iter_mut().for_each(Vec::clear);
        self.open.clear();
        Ok(())
    }

    /// Eight runs of a size, if there are so many, to become one.
    pub fn to_merge(&self) -> Option<Merge> {
        let is_one = |runs: &&[Arc<Run>]| runs.iter().all(|run| run.id.size() == runs[0].id.size());
        let runs = self.runs.windows(MERGE).rfind(is_one)?.to_vec();
        Some(Merge { disk: self.disk.clone(), runs, stop: self.stop.clone() })
    }

    /// Has merges that are running fail.
    pub fn stop_merges(&self) {
        self.stop.store(true, Relaxed);
    }

    /// Takes up what eight runs became.
    pub fn merged(&mut self, Merged(run): Merged) -> Result<(), IndexError> {
        let is_in = |other: &Arc<Run>| (run.id.first..=run.id.last).contains(&other.id.first);
        let first = self.runs.iter().position(is_in).unwrap_or(self.runs.len());
        let old: Vec<_> = self.runs.extract_if(.., |other| is_in(other)).collect();
        self.runs.insert(first, Arc::new(run));
        for old in old {
            let name = old.id.name();
            self.disk.remove(&name).map_err(at("removing", &name))?;
        }
        Ok(())
    }

    /// Merges what there is to merge.
    pub fn merge(&mut self) -> Result<(), IndexError> {
        while let Some(merge) = self.to_merge() {
            self.merged(merge.run()?)?;
        }
        Ok(())
    }

    /// Removes a run that turned out to be damaged: with the next start it is made again, and all
    /// after it.
    pub fn give_up(&self, name: &str) -> Result<(), IndexError> {
        self.disk.remove(name).map_err(at("removing", name))
    }

    /// Offsets of a shard's records that have a key, the newest first. Others may be among them.
    pub fn find(&self, key: u64, shard: ShardId) -> Result<Vec<Offset>, IndexError> {
        let mut found = Vec::new();
        self.scan(key, key, |entry| found.extend(entry.of(shard)), Some(key))?;
        found.sort_unstable_by(|a: &Offset, b| b.cmp(a));
        Ok(found)
    }

    /// The same of all keys with this upper half, without copies.
    pub fn find_all(&self, upper: u32, shard: ShardId) -> Result<Vec<Offset>, IndexError> {
        let first = u64::from(upper) << 32;
        let mut found = Vec::new();
        let first_of = |entry: &Entry| entry.of(shard).filter(|_| !entry.is_copy());
        let visit = |entry: &Entry| found.extend(first_of(entry));
        self.scan(first, first | u64::from(u32::MAX), visit, None)?;
        found.sort_unstable_by(|a: &Offset, b| b.cmp(a));
        Ok(found)
    }

    fn scan(
        &self,
        first: u64,
        last: u64,
        mut visit: impl FnMut(&Entry),
        filtered: Option<u64>,
    ) -> Result<(), IndexError> {
        let is_in = |entry: &&Entry| (first..=last).contains(&entry.key.get());
        self.open.iter().filter(is_in).for_each(&mut visit);
        for chunk in &self.chunks {
            let start = chunk.partition_point(|entry| entry.key.get() < first);
            chunk[start..].iter().take_while(is_in).for_each(&mut visit);
        }
        let mut buffer = AlignedBuf::new(BLOCK_BYTES);
        for run in &self.runs {
            // The block before the first that begins with it may end with it.
            let fences = &run.about.fences;
            let start = fences.partition_point(|fence| *fence < first).saturating_sub(1);
            for (number, fence) in fences.iter().enumerate().skip(start) {
                if *fence > last {
                    break;
                }
                if filtered.is_some_and(|key| !run.may_have(number, key)) {
                    continue;
                }
                let block = run.block(number, &mut buffer)?;
                block.iter().filter(is_in).for_each(&mut visit);
            }
        }
        Ok(())
    }

    /// Entries in runs and in memory, and files.
    pub fn figures(&self) -> IndexFigures {
        let runs = self.runs.iter();
        let (entries, fences) = runs.fold((0, 0), |(entries, fences), run| {
            (entries + run.about.entries, fences + run.about.fences.len())
        });
        let filters: usize = self.runs.iter().map(|run| run.filter.len() * 8).sum();
        let in_memory = self.chunks.len() * CHUNK_ENTRIES + self.open.len();
        IndexFigures {
            entries: entries + in_memory as u64,
            runs: self.runs.len() as u64,
            memory_bytes: (filters + fences * 8 + in_memory * size_of::<Entry>()) as u64,
        }
    }
}

/// Runs that become one. It takes seconds, on whatever thread; the index is used meanwhile.
pub struct Merge {
    disk: Arc<dyn Disk>,
    runs: Vec<Arc<Run>>,
    stop: Arc<AtomicBool>,
}

/// What runs became, durably: for [`LogIndex::merged`].
pub struct Merged(Run);

impl Merge {
    /// Makes one of them.
    pub fn run(&self) -> Result<Merged, IndexError> {
        let (first, last) = (&self.runs[0], &self.runs[self.runs.len() - 1]);
        let id = RunId { first: first.id.first, last: last.id.last };
        let mut covers = BTreeMap::<u16, (u64, u64)>::new();
        for &(shard, from, to) in self.runs.iter().flat_map(|run| &run.about.covers) {
            covers.entry(shard).or_insert((from, to)).1 = to;
        }
        let covers = covers.into_iter().map(|(shard, (from, to))| (shard, from, to)).collect();
        let entries = self.runs.iter().map(|run| run.about.entries).sum::<u64>() as usize;
        let mut sorted = InOrder::new(&self.runs, &self.stop);
        Run::write(&*self.disk, id, covers, entries, &mut sorted).map(Merged)
    }
}

/// How large an index is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct IndexFigures {
    /// Entries in it.
    pub entries: u64,
    /// Files.
    pub runs: u64,
    /// Bytes of memory that it takes.
    pub memory_bytes: u64,
}

impl Entry {
    fn of(&self, shard: ShardId) -> Option<Offset> {
        let place = self.place.get();
        (place >> 48 == u64::from(shard.0)).then_some(Offset(place & ((1 << COPY_BIT) - 1)))
    }

    fn is_copy(&self) -> bool {
        self.place.get() >> COPY_BIT & 1 == 1
    }
}

impl Run {
    fn open(disk: &dyn Disk, id: RunId) -> Result<Run, IndexError> {
        let name = id.name();
        let file = disk.open(&name).map_err(|error| match Undecipherable::of(&error) {
            Some(_) => damage(&name, "it can't be decrypted"),
            None => at("opening", &name)(error),
        })?;
        let length = file.len().map_err(at("asking the length of", &name))?;
        let mut buffer = AlignedBuf::new(BLOCK_BYTES);
        let Some(end) = length.checked_sub(BLOCK_BYTES as u64) else {
            return Err(damage(&name, "it is too short"));
        };
        let end = end / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
        file.read_at(buffer.bytes_mut(), end).map_err(at("reading", &name))?;
        let (trailer, _) = Trailer::read_from_prefix(buffer.bytes()).expect("a block has room");
        if trailer.magic != MAGIC || trailer.check.get() != trailer.computed_check(id.seed()) {
            return Err(damage(&name, "its trailer is not what was written"));
        }
        if trailer.version.get() != u32::from(VERSION) {
            return Err(damage(&name, "it is of another version"));
        }
        let (start, bytes) = (u64::from(trailer.blocks.get()), trailer.about.get() as usize);
        let start = start * BLOCK_BYTES as u64;
        if start + bytes as u64 > end {
            return Err(damage(&name, "it is cut short"));
        }
        buffer.grow(bytes);
        let room = &mut buffer.bytes_mut()[..bytes.next_multiple_of(BLOCK_BYTES)];
        file.read_at(room, start).map_err(at("reading", &name))?;
        let about = &buffer.bytes()[..bytes];
        if xxh3_64_with_seed(about, id.seed()) != trailer.about_hash.get() {
            return Err(damage(&name, "what it says of itself is not what was hashed"));
        }
        let about = postcard::from_bytes::<About>(about);
        let mut about = about.map_err(|_| damage(&name, "what it says of itself can't be read"))?;
        if about.fences.len() != trailer.blocks.get() as usize {
            return Err(damage(&name, "it has another number of blocks"));
        }
        let words = std::mem::take(&mut about.filter);
        let words = words.chunks_exact(8);
        let words = words.map(|word| u64::from_ne_bytes(word.try_into().expect("eight bytes")));
        let words: Vec<u64> = words.collect();
        if words.len() != about.fences.len() * FILTER_WORDS {
            return Err(damage(&name, "it has another number of filters"));
        }
        Ok(Run { id, file, about, filter: words })
    }

    /// Writes so many entries, which come in their order.
    fn write(
        disk: &dyn Disk,
        id: RunId,
        covers: Vec<(u16, u64, u64)>,
        count: usize,
        entries: &mut dyn Iterator<Item = Result<Entry, IndexError>>,
    ) -> Result<Run, IndexError> {
        let (name, new) = (id.name(), format!("{}.new", id.name()));
        let file = disk.create(&new, 0).map_err(at("making", &new))?;
        let mut buffer = AlignedBuf::new(WRITE_BLOCKS * BLOCK_BYTES);
        let (mut filled, mut written) = (0, 0u64);
        let mut fences = Vec::with_capacity(count.div_ceil(BLOCK_ENTRIES));
        let mut filter = vec![0u64; count.div_ceil(BLOCK_ENTRIES) * FILTER_WORDS];
        let mut about = About { covers, fences: Vec::new(), filter: Vec::new(), entries: 0 };
        let mut block = Block::new_zeroed_block();
        loop {
            let entry = entries.next().transpose()?;
            if let Some(entry) = entry {
                let count = block.count.get() as usize;
                if count == 0 {
                    fences.push(entry.key.get());
                }
                block.entries[count] = entry;
                block.count = (count as u32 + 1).into();
                about.entries += 1;
                let of_block = &mut filter[(fences.len() - 1) * FILTER_WORDS..][..FILTER_WORDS];
                filter_bits(entry.key.get()).for_each(|bit| of_block[bit / 64] |= 1 << (bit % 64));
            }
            let count = block.count.get() as usize;
            if count == BLOCK_ENTRIES || (entry.is_none() && count > 0) {
                block.number = (fences.len() as u32 - 1).into();
                block.check = block.computed_check(id.seed()).into();
                let room = &mut buffer.bytes_mut()[filled * BLOCK_BYTES..][..BLOCK_BYTES];
                room.copy_from_slice(block.as_bytes());
                filled += 1;
                block = Block::new_zeroed_block();
            }
            if filled == WRITE_BLOCKS || (entry.is_none() && filled > 0) {
                let bytes = &buffer.bytes()[..filled * BLOCK_BYTES];
                file.write_at(bytes, written).map_err(at("writing", &new))?;
                written += bytes.len() as u64;
                filled = 0;
            }
            if entry.is_none() {
                break;
            }
        }
        filter.truncate(fences.len() * FILTER_WORDS);
        about.filter = filter.as_bytes().to_vec();
        about.fences = fences;
        let bytes = postcard::to_stdvec(&about).expect("plain fields have a form");
        let mut trailer = Trailer {
            magic: MAGIC,
            version: u32::from(VERSION).into(),
            blocks: (about.fences.len() as u32).into(),
            about: (bytes.len() as u32).into(),
            about_hash: xxh3_64_with_seed(&bytes, id.seed()).into(),
            check: 0.into(),
        };
        trailer.check = trailer.computed_check(id.seed()).into();
        let rest = bytes.len().next_multiple_of(BLOCK_BYTES);
        buffer.grow(rest + BLOCK_BYTES);
        let room = &mut buffer.bytes_mut()[..rest + BLOCK_BYTES];
        room.fill(0);
        room[..bytes.len()].copy_from_slice(&bytes);
        room[rest..rest + size_of::<Trailer>()].copy_from_slice(trailer.as_bytes());
        file.write_at(room, written).map_err(at("writing", &new))?;
        file.sync().map_err(at("syncing", &new))?;
        disk.rename(&new, &name).map_err(at("renaming", &new))?;
        disk.sync_dir().map_err(at("syncing the directory of", &name))?;
        about.filter = Vec::new();
        Ok(Run { id, file, about, filter })
    }

    /// Whether a block may have a key.
    fn may_have(&self, block: usize, key: u64) -> bool {
        let filter = &self.filter[block * FILTER_WORDS..][..FILTER_WORDS];
        filter_bits(key).all(|bit| filter[bit / 64] >> (bit % 64) & 1 == 1)
    }

    fn block<'b>(
        &self,
        number: usize,
        buffer: &'b mut AlignedBuf,
    ) -> Result<&'b [Entry], IndexError> {
        self.read(number, 1, buffer)?;
        self.checked(number, &buffer.bytes()[..BLOCK_BYTES])
    }

    /// Reads so many blocks.
    fn read(&self, first: usize, count: usize, buffer: &mut AlignedBuf) -> Result<(), IndexError> {
        let room = &mut buffer.bytes_mut()[..count * BLOCK_BYTES];
        let read = self.file.read_at(room, (first * BLOCK_BYTES) as u64);
        read.map(drop).map_err(at("reading", &self.id.name()))
    }

    /// The entries of a block that was read.
    fn checked<'b>(&self, number: usize, block: &'b [u8]) -> Result<&'b [Entry], IndexError> {
        let block = Block::ref_from_bytes(block).expect("it is a block");
        let is_it = block.number.get() as usize == number
            && block.check.get() == block.computed_check(self.id.seed());
        let entries = block.entries.get(..block.count.get() as usize).filter(|_| is_it);
        entries.ok_or_else(|| damage(&self.id.name(), "a block is not what was written"))
    }
}

impl Block {
    fn new_zeroed_block() -> Block {
        Block::read_from_bytes(&[0; BLOCK_BYTES]).expect("any bytes are a block")
    }
}

/// The entries of several runs in their order.
struct InOrder<'a> {
    stop: &'a AtomicBool,
    runs: Vec<Cursor<'a>>,
}

/// The next entries of a run.
struct Cursor<'a> {
    run: &'a Run,
    entries: Vec<Entry>,
    at: usize,
    next_block: usize,
    buffer: AlignedBuf,
}

impl Cursor<'_> {
    fn peek(&mut self) -> Result<Option<Entry>, IndexError> {
        if self.at == self.entries.len() {
            if self.next_block == self.run.about.fences.len() {
                return Ok(None);
            }
            let left = self.run.about.fences.len() - self.next_block;
            let count = left.min(READ_BLOCKS);
            self.run.read(self.next_block, count, &mut self.buffer)?;
            self.entries.clear();
            let blocks = self.buffer.bytes()[..count * BLOCK_BYTES].chunks_exact(BLOCK_BYTES);
            for (number, block) in (self.next_block..).zip(blocks) {
                self.entries.extend_from_slice(self.run.checked(number, block)?);
            }
            (self.at, self.next_block) = (0, self.next_block + count);
        }
        Ok(self.entries.get(self.at).copied())
    }
}

impl<'a> InOrder<'a> {
    fn new(runs: &'a [Arc<Run>], stop: &'a AtomicBool) -> InOrder<'a> {
        let cursor = |run: &'a Arc<Run>| Cursor {
            run,
            entries: Vec::new(),
            at: 0,
            next_block: 0,
            buffer: AlignedBuf::new(READ_BLOCKS * BLOCK_BYTES),
        };
        InOrder { stop, runs: runs.iter().map(cursor).collect() }
    }
}

impl Iterator for InOrder<'_> {
    type Item = Result<Entry, IndexError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.stop.load(Relaxed) {
            return Some(Err(at("merging", "the index")(io::ErrorKind::Interrupted.into())));
        }
        let mut first: Option<(usize, Entry)> = None;
        for (number, cursor) in self.runs.iter_mut().enumerate() {
            match cursor.peek() {
                Ok(Some(entry)) if first.is_none_or(|(_, f)| entry.order() < f.order()) => {
                    first = Some((number, entry));
                }
                Ok(_) => {}
                Err(error) => return Some(Err(error)),
            }
        }
        let (number, entry) = first?;
        self.runs[number].at += 1;
        Some(Ok(entry))
    }
}

fn at(doing: &'static str, name: &str) -> impl FnOnce(io::Error) -> IndexError {
    let name = name.to_string();
    move |source| IndexError::Io { doing, name, source }
}

fn damage(name: &str, what: &'static str) -> IndexError {
    IndexError::Damaged { name: name.to_string(), what }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FaultyDisk;
    use crate::encrypted::{Cover, covers};

    const SHARD: ShardId = ShardId(5);

    /// Spreads numbers over keys, a few of which are the same.
    fn key(n: u64) -> u64 {
        (n % 90_000).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    fn filled(disk: Arc<dyn Disk>, runs: u64, each: u64) -> LogIndex {
        let (mut index, damaged) = LogIndex::open(disk).unwrap();
        assert!(damaged.is_empty());
        for run in 0..runs {
            for n in run * each + 1..=(run + 1) * each {
                index.add(key(n), SHARD, Offset(n), n % 5 == 0);
            }
            index.cover(SHARD, Offset((run + 1) * each + 1));
            if run + 1 < runs {
                index.flush().unwrap();
                index.merge().unwrap();
            }
        }
        index
    }

    #[test]
    fn a_shard_without_records_makes_no_runs() {
        let disk = FaultyDisk::new();
        let mut index = filled(Arc::new(disk), 1, 10);
        index.cover(ShardId(9), Offset(1));
        index.flush().unwrap();
        index.cover(ShardId(9), Offset(1));
        index.flush().unwrap();
        assert_eq!((index.figures().runs, index.covered(ShardId(9))), (1, Offset(1)));
    }

    fn assert_finds(index: &LogIndex, all: u64) {
        for n in (1..=all).step_by(1_009) {
            let of_key = (1..=all).filter(|other| key(*other) == key(n)).map(Offset);
            let mut wanted: Vec<Offset> = of_key.collect();
            wanted.reverse();
            assert_eq!(index.find(key(n), SHARD).unwrap(), wanted);
            assert!(index.find(key(n), ShardId(6)).unwrap().is_empty());
            let upper = (key(n) >> 32) as u32;
            assert_eq!(index.find_all(upper, SHARD).unwrap().contains(&Offset(n)), n % 5 != 0);
        }
        assert!(index.find(12345, SHARD).unwrap().is_empty());
    }

    #[test]
    fn what_was_added_is_found_in_memory_in_runs_and_after_merges() {
        let disk = FaultyDisk::new();
        let (runs, each) = (20, 9_000);
        let mut index = filled(Arc::new(disk.clone()), runs, each);
        assert_finds(&index, runs * each);
        assert_eq!(index.figures().runs, 2 + 3);
        index.flush().unwrap();
        drop(index);
        let (index, damaged) = LogIndex::open(Arc::new(disk.clone())).unwrap();
        assert!(damaged.is_empty());
        assert_eq!(index.covered(SHARD), Offset(runs * each + 1));
        assert_eq!(index.figures().entries, runs * each);
        assert_finds(&index, runs * each);
    }

    #[test]
    fn damage_is_found_and_what_is_after_it_is_given_up() {
        covers().iter().for_each(damages);
    }

    fn damages(cover: &Cover) {
        let disk = FaultyDisk::new();
        let mut index = filled(cover(&disk), 3, 600);
        index.flush().unwrap();
        drop(index);
        let names = disk.list().unwrap();
        assert_eq!(names.len(), 3);
        let name = RunId { first: 1, last: 1 }.name();
        let length = disk.content(&name).unwrap().len();
        for position in (0..length).step_by(61) {
            let damaged = disk.fork();
            damaged.flip(&name, position, (position % 8) as u8);
            let (mut index, found) = LogIndex::open(cover(&damaged)).unwrap();
            assert_eq!(damaged.list().unwrap().len(), 3, "opening it changes nothing");
            index.remove_useless().unwrap();
            assert_eq!(damaged.list().unwrap().len(), if found.is_empty() { 3 } else { 1 });
            if !found.is_empty() {
                assert!(found[0].to_string().contains(&name), "{}", found[0]);
                assert_eq!(index.covered(SHARD), Offset(601));
                assert_eq!(index.figures().runs, 1);
                continue;
            }
            // A block of entries, which is read when it is needed; or where nothing is.
            for n in 601..=1_200 {
                match index.find(key(n), SHARD) {
                    Ok(found) => assert!(found.contains(&Offset(n))),
                    Err(error) => assert!(error.to_string().contains(&name), "{error}"),
                }
            }
        }
    }

    #[test]
    fn a_crash_loses_nothing_that_is_covered() {
        let covers = covers();
        for seed in 0..60 {
            let (disk, cover) = (FaultyDisk::new(), &covers[seed as usize / 3 % 2]);
            let mut index = filled(cover(&disk), 8, 100);
            disk.fail_sync(1 + seed % 3);
            let flushed = index.flush().and_then(|()| index.merge());
            drop(index);
            disk.crash(seed);
            let (index, damaged) = LogIndex::open(cover(&disk)).unwrap();
            assert!(damaged.is_empty());
            let covered = index.covered(SHARD).0;
            assert!(covered == 801 || flushed.is_err() && covered == 701);
            for n in 1..covered {
                assert!(index.find(key(n), SHARD).unwrap().contains(&Offset(n)));
            }
        }
    }
}
