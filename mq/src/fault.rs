//! A disk in memory that fails as told, and crashes.
//!
//! It keeps what was synced apart from what was only written. A crash leaves all that was
//! synced and, of the rest, any part: blocks of 4 KiB in any combination, for a disk reorders
//! them as it likes, and of the unsynced changes to names a beginning, for a journal keeps those
//! in order. A failed sync drops what it should have made durable while reads still show it, as
//! kernels do; so trying the sync again would succeed and mean nothing.
//!
//! All of it is deterministic: the only randomness is in the seeds that the caller gives.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::aligned::BLOCK_BYTES;
use crate::disk::{Disk, DiskFile};

/// A disk in memory. Clones are handles to the same disk.
#[derive(Clone, Default)]
pub struct FaultyDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Clone, Default)]
struct State {
    files: Vec<Content>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    unsynced_names: Vec<NameChange>,
    /// Grows with each crash: a handle from before is of a process that is gone.
    boots: u64,
    script: Script,
}

#[derive(Clone, Default)]
struct Script {
    fail_write_in: Option<u64>,
    fail_sync_in: Option<u64>,
    lie_after_syncs: Option<u64>,
    misdirect_write_in: Option<u64>,
    space_bytes: Option<u64>,
}

#[derive(Clone, Default)]
struct Content {
    /// What reads show.
    shown: Vec<u8>,
    /// What a crash leaves at least.
    durable: Vec<u8>,
    /// The blocks that were written since they were synced.
    unsynced: BTreeSet<usize>,
    /// The length after an unsynced cut.
    unsynced_cut: Option<usize>,
}

#[derive(Clone)]
enum NameChange {
    Create(String, usize),
    Rename(String, String),
    Remove(String),
}

impl FaultyDisk {
    /// An empty disk without faults.
    pub fn new() -> FaultyDisk {
        FaultyDisk::default()
    }

    /// Another disk with the same content, script included.
    pub fn fork(&self) -> FaultyDisk {
        FaultyDisk { state: Arc::new(Mutex::new(self.state().clone())) }
    }

    /// The power fails and comes back: what was synced stays, and of the rest what the seed
    /// says. The script of faults is over. Handles from before fail.
    pub fn crash(&self, seed: u64) {
        let mut state = self.state();
        let mut random = SplitMix(seed);
        let kept = random.below(state.unsynced_names.len() as u64 + 1) as usize;
        let mut names = std::mem::take(&mut state.durable_names);
        for change in state.unsynced_names.drain(..).take(kept) {
            change.apply(&mut names);
        }
        state.durable_names = names.clone();
        state.names = names;
        let named: BTreeSet<usize> = state.names.values().copied().collect();
        for (file, content) in state.files.iter_mut().enumerate() {
            if named.contains(&file) {
                content.crash(&mut random);
            } else {
                *content = Content::default();
            }
        }
        state.script = Script::default();
        state.boots += 1;
    }

    /// The `n`-th write from now, 1 being the next, writes a part of its blocks and fails.
    pub fn fail_write(&self, n: u64) {
        self.state().script.fail_write_in = Some(n);
    }

    /// The `n`-th sync from now, 1 being the next, fails. Syncs of names count too.
    pub fn fail_sync(&self, n: u64) {
        self.state().script.fail_sync_in = Some(n);
    }

    /// The disk is full after `bytes` more were written, zeros of new files included.
    pub fn full_after(&self, bytes: u64) {
        self.state().script.space_bytes = Some(bytes);
    }

    /// After `n` more syncs they return `Ok` and make nothing durable.
    pub fn lie_after(&self, n: u64) {
        self.state().script.lie_after_syncs = Some(n);
    }

    /// The `n`-th write from now, 1 being the next, lands in another place of its file, where it
    /// replaces what was there, and says that it worked.
    pub fn misdirect_write(&self, n: u64) {
        self.state().script.misdirect_write_in = Some(n);
    }

    /// The bytes of a file, as reads show them.
    pub fn content(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state();
        let file = *state.names.get(name)?;
        Some(state.files[file].shown.clone())
    }

    /// Flips a bit of a file, on the medium and in what reads show.
    pub fn flip(&self, name: &str, position: usize, bit: u8) {
        self.change(name, position..position + 1, |bytes| bytes[0] ^= 1 << bit);
    }

    /// Writes over a part of a file, on the medium and in what reads show.
    pub fn overwrite(&self, name: &str, position: usize, with: &[u8]) {
        self.change(name, position..position + with.len(), |bytes| bytes.copy_from_slice(with));
    }

    fn change(&self, name: &str, range: Range<usize>, change: impl Fn(&mut [u8])) {
        let mut state = self.state();
        let Some(&file) = state.names.get(name) else { return };
        let content = &mut state.files[file];
        for bytes in [&mut content.shown, &mut content.durable] {
            if let Some(bytes) = bytes.get_mut(range.clone()) {
                change(bytes);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the lock panics")
    }

    fn change_names(&self, change: NameChange) {
        let mut state = self.state();
        change.apply(&mut state.names);
        state.unsynced_names.push(change);
    }

    fn handle(&self, file: usize) -> Box<dyn DiskFile> {
        let boot = self.state().boots;
        Box::new(FaultyFile { disk: self.clone(), file, boot })
    }

    fn find(&self, name: &str) -> io::Result<usize> {
        self.state().names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Disk for FaultyDisk {
    fn create(&self, name: &str, bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        let file = {
            let mut state = self.state();
            state.files.push(Content::default());
            state.files.len() - 1
        };
        self.change_names(NameChange::Create(name.into(), file));
        self.handle(file).write_at(&vec![0; bytes as usize], 0)?;
        Ok(self.handle(file))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.handle(self.find(name)?))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.state().names.keys().cloned().collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.find(from)?;
        self.change_names(NameChange::Rename(from.into(), to.into()));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.find(name)?;
        self.change_names(NameChange::Remove(name.into()));
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.state();
        match state.script.next_sync() {
            Sync::Works => {
                state.durable_names = state.names.clone();
                state.unsynced_names.clear();
                Ok(())
            }
            Sync::Lies => Ok(()),
            Sync::Fails => Err(broken("sync")),
        }
    }
}

struct FaultyFile {
    disk: FaultyDisk,
    file: usize,
    boot: u64,
}

impl FaultyFile {
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.state();
        if state.boots == self.boot { Ok(state) } else { Err(broken("handle after a crash")) }
    }
}

impl DiskFile for FaultyFile {
    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        let aligned = |n: usize| n.is_multiple_of(BLOCK_BYTES);
        assert!(aligned(bytes.len()) && aligned(position as usize), "direct I/O is aligned");
        let mut state = self.state()?;
        let (room, error) = state.script.next_write(bytes.len());
        let length = state.files[self.file].shown.len();
        let position = match count_down(&mut state.script.misdirect_write_in) {
            true => astray(position as usize, length),
            false => position as usize,
        };
        state.files[self.file].write(&bytes[..room], position);
        error.map_or(Ok(()), Err)
    }

    fn read_at(&self, bytes: &mut [u8], position: u64) -> io::Result<usize> {
        let state = self.state()?;
        let shown = &state.files[self.file].shown;
        let start = shown.len().min(position as usize);
        let read = bytes.len().min(shown.len() - start);
        bytes[..read].copy_from_slice(&shown[start..start + read]);
        Ok(read)
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.state()?;
        match state.script.next_sync() {
            Sync::Works => {
                state.files[self.file].sync();
                Ok(())
            }
            Sync::Lies => Ok(()),
            Sync::Fails => {
                // The pages are clean from here on, and nobody wrote them.
                let content = &mut state.files[self.file];
                content.unsynced.clear();
                content.unsynced_cut = None;
                Err(broken("sync"))
            }
        }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.state()?.files[self.file].shown.len() as u64)
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.state()?.files[self.file].cut(bytes as usize);
        Ok(())
    }
}

impl Content {
    fn write(&mut self, bytes: &[u8], position: usize) {
        let end = position + bytes.len();
        if self.shown.len() < end {
            self.shown.resize(end, 0);
        }
        self.shown[position..end].copy_from_slice(bytes);
        self.unsynced.extend(position / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES));
    }

    fn cut(&mut self, bytes: usize) {
        self.shown.truncate(bytes);
        self.unsynced.retain(|block| block * BLOCK_BYTES < bytes);
        self.unsynced_cut = Some(self.unsynced_cut.map_or(bytes, |cut| cut.min(bytes)));
    }

    fn sync(&mut self) {
        if let Some(cut) = self.unsynced_cut.take() {
            self.durable.truncate(cut);
        }
        for block in std::mem::take(&mut self.unsynced) {
            self.keep(block);
        }
    }

    fn crash(&mut self, random: &mut SplitMix) {
        if self.unsynced_cut.take().is_some_and(|_| random.below(2) == 0) {
            self.durable.truncate(self.shown.len());
        }
        // Nothing, everything and every mixture between them are all likely.
        let share = random.below(5);
        for block in std::mem::take(&mut self.unsynced) {
            if random.below(4) < share {
                self.keep(block);
            }
        }
        self.shown.clone_from(&self.durable);
    }

    fn keep(&mut self, block: usize) {
        let start = block * BLOCK_BYTES;
        let end = self.shown.len().min(start + BLOCK_BYTES);
        if self.durable.len() < end {
            self.durable.resize(end, 0);
        }
        self.durable[start..end].copy_from_slice(&self.shown[start..end]);
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            NameChange::Create(name, file) => {
                names.insert(name.clone(), *file);
            }
            NameChange::Rename(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
            NameChange::Remove(name) => {
                names.remove(name);
            }
        }
    }
}

enum Sync {
    Works,
    Lies,
    Fails,
}

impl Script {
    fn next_sync(&mut self) -> Sync {
        if count_down(&mut self.fail_sync_in) {
            return Sync::Fails;
        }
        match &mut self.lie_after_syncs {
            Some(0) => Sync::Lies,
            Some(left) => {
                *left -= 1;
                Sync::Works
            }
            None => Sync::Works,
        }
    }

    /// How many of `bytes` get written, and the error if not all do.
    fn next_write(&mut self, bytes: usize) -> (usize, Option<io::Error>) {
        if count_down(&mut self.fail_write_in) {
            return (bytes / BLOCK_BYTES / 2 * BLOCK_BYTES, Some(broken("write")));
        }
        let Some(space) = &mut self.space_bytes else { return (bytes, None) };
        let room = (*space as usize / BLOCK_BYTES * BLOCK_BYTES).min(bytes);
        *space -= room as u64;
        let full = room < bytes;
        (room, full.then(|| io::ErrorKind::StorageFull.into()))
    }
}

/// Where a write goes that doesn't go where it should.
fn astray(position: usize, length: usize) -> usize {
    let blocks = (length / BLOCK_BYTES).max(2);
    (position / BLOCK_BYTES + blocks / 2) % blocks * BLOCK_BYTES
}

/// Whether this was the one that `left` counted down to.
fn count_down(left: &mut Option<u64>) -> bool {
    match left {
        Some(0 | 1) => {
            *left = None;
            true
        }
        Some(more) => {
            *more -= 1;
            false
        }
        None => false,
    }
}

fn broken(what: &str) -> io::Error {
    io::Error::other(format!("scripted failure: {what}"))
}

/// Vigna's generator: a seed gives the same numbers everywhere.
#[derive(Default)]
pub(crate) struct SplitMix(pub u64);

impl SplitMix {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(byte: u8) -> Vec<u8> {
        vec![byte; BLOCK_BYTES]
    }

    #[test]
    fn a_crash_keeps_what_was_synced() {
        for seed in 0..50 {
            let disk = FaultyDisk::new();
            let file = disk.create("a", 2 * BLOCK_BYTES as u64).unwrap();
            disk.sync_dir().unwrap();
            file.write_at(&block(1), 0).unwrap();
            file.sync().unwrap();
            file.write_at(&block(2), 0).unwrap();
            file.write_at(&block(3), BLOCK_BYTES as u64).unwrap();
            disk.crash(seed);
            assert!(file.len().is_err());
            let content = disk.content("a").unwrap();
            assert!([1, 2].contains(&content[0]) && [0, 3].contains(&content[BLOCK_BYTES]));
        }
    }

    #[test]
    fn a_failed_sync_is_no_sync_and_neither_is_the_next() {
        let disk = FaultyDisk::new();
        let file = disk.create("a", BLOCK_BYTES as u64).unwrap();
        file.sync().unwrap();
        disk.sync_dir().unwrap();
        file.write_at(&block(1), 0).unwrap();
        disk.fail_sync(1);
        assert!(file.sync().is_err());
        file.sync().unwrap();
        assert_eq!(disk.content("a").unwrap()[0], 1);
        disk.crash(0);
        assert_eq!(disk.content("a").unwrap()[0], 0);
    }

    #[test]
    fn a_full_disk_writes_what_fits() {
        let disk = FaultyDisk::new();
        disk.full_after(3 * BLOCK_BYTES as u64);
        disk.create("a", 2 * BLOCK_BYTES as u64).unwrap();
        let error = disk.create("b", 2 * BLOCK_BYTES as u64).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(disk.content("b").unwrap().len(), BLOCK_BYTES);
    }
}
