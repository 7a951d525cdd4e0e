//! A disk whose files are encrypted: what lies below it shows nothing of what was written above.
//!
//! A file begins with a block of its own, which says how to read it: a salt, from which and the
//! directory's key its keys are derived, and a value by which a wrong key is known. All else moves
//! back by that block and is encrypted block by block ([`crate::xts`]). The salt stays with the
//! file, whatever name it gets and however often it is written over.
//!
//! Blocks that were never written are zeros below as above, so a new file costs no cipher, and a
//! file that grows has no garbage in between. That no block of ciphertext is all zeros is as sure
//! as that no key is guessed. What still shows is how long files are, which blocks were written,
//! and when.
//!
//! It hides, and doesn't vouch: who can write to the disk can put back what a block was before.
//! Damage garbles 16 bytes, or a file whose first block it is, and is found as it always was, by
//! the checksums of what was written.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use xxhash_rust::xxh3::xxh3_64;
use zerocopy::byteorder::little_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::aligned::{AlignedBuf, BLOCK_BYTES};
use crate::disk::{Disk, DiskFile};
use crate::keys::{self, DirectoryKey, SALT_BYTES};
use crate::xts::{XTS_KEY_BYTES, Xts};

const MAGIC: [u8; 4] = *b"CREN";
const VERSION: u16 = 1;
const BLOCK: u64 = BLOCK_BYTES as u64;
/// Bytes of the value by which keys are known.
const KNOWN_BYTES: usize = 16;
/// Bytes that are encrypted, and written, at once: what a core's cache holds.
const PIECE_BYTES: usize = 1 << 20;
/// Files whose keys are kept: a kilobyte each, and more than a directory has for long.
const OPENED_MAX: usize = 1 << 12;

/// What a file begins with.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct FileHeader {
    magic: [u8; 4],
    version: U16,
    reserved: U16,
    salt: [u8; SALT_BYTES],
    /// Derived as the keys are, and beside them.
    known: [u8; KNOWN_BYTES],
    check: U64,
}

impl FileHeader {
    fn computed_check(&self) -> u64 {
        xxh3_64(FileHeader { check: 0.into(), ..*self }.as_bytes())
    }
}

/// Why a file that is there can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Undecipherable {
    #[error("its encryption header is not what was written")]
    Header,
    #[error("its encryption is of another version")]
    Version,
    #[error("it was encrypted in another data directory")]
    Key,
}

impl Undecipherable {
    /// Whether this is why a disk refused.
    pub fn of(error: &io::Error) -> Option<Undecipherable> {
        error.get_ref()?.downcast_ref().copied()
    }
}

/// A disk below which everything is encrypted, names and lengths excepted.
pub struct EncryptedDisk {
    disk: Arc<dyn Disk>,
    key: DirectoryKey,
    /// Keys of files that were opened before, so that a look-up reads no header: no more than
    /// [`OPENED_MAX`]. Locked while names change.
    opened: Mutex<BTreeMap<String, Arc<Xts>>>,
    scratch: Arc<Scratch>,
}

/// Memory for what is being written, reused: as many pieces as there are writers at a time.
#[derive(Default)]
struct Scratch(Mutex<Vec<AlignedBuf>>);

impl Scratch {
    fn take(&self) -> AlignedBuf {
        self.0.lock().expect("nothing panics while it holds the lock").pop().unwrap_or_default()
    }

    fn give(&self, buffer: AlignedBuf) {
        self.0.lock().expect("nothing panics while it holds the lock").push(buffer);
    }
}

impl EncryptedDisk {
    /// On a disk that nobody writes to but through this, with this key.
    pub fn new(disk: Arc<dyn Disk>, key: DirectoryKey) -> EncryptedDisk {
        let (opened, scratch) = Default::default();
        EncryptedDisk { disk, key, opened, scratch }
    }

    fn opened(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Xts>>> {
        let mut opened = self.opened.lock().expect("nothing panics while it holds the lock");
        if opened.len() >= OPENED_MAX {
            opened.clear();
        }
        opened
    }

    /// A file's keys, and how it says that they are its own.
    fn keys(&self, salt: &[u8; SALT_BYTES]) -> (Xts, [u8; KNOWN_BYTES]) {
        let derived = self.key.of_file::<{ XTS_KEY_BYTES + KNOWN_BYTES }>(salt);
        let (keys, known) = derived.split_at(XTS_KEY_BYTES);
        let of_length = "it was derived with that length";
        (Xts::new(keys.try_into().expect(of_length)), known.try_into().expect(of_length))
    }

    fn file(&self, file: Box<dyn DiskFile>, xts: Option<Arc<Xts>>) -> Box<dyn DiskFile> {
        Box::new(EncryptedFile { file, xts, scratch: self.scratch.clone() })
    }
}

impl Disk for EncryptedDisk {
    fn create(&self, name: &str, bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        let salt = keys::draw()?;
        let (xts, known) = self.keys(&salt);
        let mut header = FileHeader {
            magic: MAGIC,
            version: VERSION.into(),
            reserved: 0.into(),
            salt,
            known,
            check: 0.into(),
        };
        header.check = header.computed_check().into();
        self.opened().remove(name);
        let file = self.disk.create(name, bytes + BLOCK)?;
        let mut block = AlignedBuf::new(BLOCK_BYTES);
        block.bytes_mut()[..size_of::<FileHeader>()].copy_from_slice(header.as_bytes());
        file.write_at(block.bytes(), 0)?;
        let xts = Arc::new(xts);
        self.opened().insert(name.to_string(), xts.clone());
        Ok(self.file(file, Some(xts)))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let refused = |why| Err(io::Error::new(io::ErrorKind::InvalidData, why));
        let mut opened = self.opened();
        let file = self.disk.open(name)?;
        if let Some(xts) = opened.get(name) {
            return Ok(self.file(file, Some(xts.clone())));
        }
        let mut block = AlignedBuf::new(BLOCK_BYTES);
        if file.read_at(block.bytes_mut(), 0)? < BLOCK_BYTES {
            return Ok(self.file(file, None));
        }
        let (header, _) = FileHeader::read_from_prefix(block.bytes()).expect("it is a block");
        if header.magic != MAGIC || header.check.get() != header.computed_check() {
            return refused(Undecipherable::Header);
        }
        if header.version.get() != VERSION {
            return refused(Undecipherable::Version);
        }
        let (xts, value) = self.keys(&header.salt);
        if value != header.known {
            return refused(Undecipherable::Key);
        }
        let xts = Arc::new(xts);
        opened.insert(name.to_string(), xts.clone());
        Ok(self.file(file, Some(xts)))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut opened = self.opened();
        self.disk.rename(from, to)?;
        match opened.remove(from) {
            Some(xts) => drop(opened.insert(to.to_string(), xts)),
            None => drop(opened.remove(to)),
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut opened = self.opened();
        self.disk.remove(name)?;
        opened.remove(name);
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.disk.sync_dir()
    }

    fn is_append_only(&self) -> bool {
        self.disk.is_append_only()
    }

    fn write_bytes_max(&self) -> u64 {
        self.disk.write_bytes_max()
    }
}

struct EncryptedFile {
    file: Box<dyn DiskFile>,
    /// `None`: it was cut within its header, and there is nothing in it.
    xts: Option<Arc<Xts>>,
    scratch: Arc<Scratch>,
}

impl EncryptedFile {
    fn xts(&self) -> io::Result<&Xts> {
        let cut = || io::Error::new(io::ErrorKind::InvalidData, Undecipherable::Header);
        self.xts.as_deref().ok_or_else(cut)
    }
}

impl DiskFile for EncryptedFile {
    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        assert!(position.is_multiple_of(BLOCK), "a write begins with a block");
        let xts = self.xts()?;
        let mut scratch = self.scratch.take();
        scratch.grow(bytes.len().min(PIECE_BYTES));
        let mut position = position;
        let mut write = |piece: &[u8]| {
            let encrypted = &mut scratch.bytes_mut()[..piece.len()];
            encrypted.copy_from_slice(piece);
            for (number, block) in (position / BLOCK..).zip(encrypted.chunks_mut(BLOCK_BYTES)) {
                xts.encrypt(number, block);
            }
            self.file.write_at(encrypted, position + BLOCK)?;
            position += piece.len() as u64;
            Ok(())
        };
        let written = bytes.chunks(PIECE_BYTES).try_for_each(&mut write);
        self.scratch.give(scratch);
        written
    }

    fn read_at(&self, bytes: &mut [u8], position: u64) -> io::Result<usize> {
        assert!(position.is_multiple_of(BLOCK), "a read begins with a block");
        let Ok(xts) = self.xts() else { return Ok(0) };
        let read = self.file.read_at(bytes, position + BLOCK)?;
        let blocks = bytes[..read].chunks_mut(BLOCK_BYTES);
        for (number, block) in (position / BLOCK..).zip(blocks) {
            if block.iter().any(|byte| *byte != 0) {
                xts.decrypt(number, block);
            }
        }
        Ok(read)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.len()?.saturating_sub(BLOCK))
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.file.truncate(bytes + BLOCK)
    }
}

/// What a test's files lie on.
#[cfg(test)]
pub(crate) type Cover = Box<dyn Fn(&crate::FaultyDisk) -> Arc<dyn Disk>>;

/// A disk as it is, and encrypted.
#[cfg(test)]
pub(crate) fn covers() -> [Cover; 2] {
    let key = DirectoryKey::draw().expect("there is randomness");
    let encrypted = move |disk: &crate::FaultyDisk| -> Arc<dyn Disk> {
        Arc::new(EncryptedDisk::new(Arc::new(disk.clone()), key.clone()))
    };
    [Box::new(|disk| Arc::new(disk.clone())), Box::new(encrypted)]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{DirDisk, FaultyDisk};

    fn encrypted(disk: &FaultyDisk, key: &DirectoryKey) -> EncryptedDisk {
        EncryptedDisk::new(Arc::new(disk.clone()), key.clone())
    }

    fn content(disk: &dyn Disk, name: &str) -> Vec<u8> {
        let file = disk.open(name).unwrap();
        let mut buffer = AlignedBuf::new(file.len().unwrap() as usize + BLOCK_BYTES);
        let read = file.read_at(buffer.bytes_mut(), 0).unwrap();
        buffer.bytes()[..read].to_vec()
    }

    #[test]
    fn nothing_that_is_written_shows() {
        let directory = tempfile::tempdir().unwrap();
        let below = Arc::new(DirDisk::open(directory.path()).unwrap());
        let disk = EncryptedDisk::new(below, DirectoryKey::draw().unwrap());
        let file = disk.create("a", 3 * BLOCK).unwrap();
        assert!(content(&disk, "a").iter().all(|byte| *byte == 0));
        let mut buffer = AlignedBuf::new(2 * BLOCK_BYTES);
        buffer.bytes_mut().fill(b'x');
        file.write_at(buffer.bytes(), BLOCK).unwrap();
        file.sync().unwrap();
        assert!(content(&disk, "a") == [&[0; BLOCK_BYTES][..], &[b'x'; 2 * BLOCK_BYTES]].concat());
        let below = std::fs::read(directory.path().join("a")).unwrap();
        assert_eq!(below.len(), 4 * BLOCK_BYTES);
        assert!(!below.windows(4).any(|four| four == b"xxxx"));
        // The same content in another block is other bytes.
        assert_ne!(below[2 * BLOCK_BYTES..][..16], below[3 * BLOCK_BYTES..][..16]);
        // As is the same content in the same block of another file.
        let other = disk.create("b", 3 * BLOCK).unwrap();
        other.write_at(buffer.bytes(), BLOCK).unwrap();
        let other = std::fs::read(directory.path().join("b")).unwrap();
        assert_ne!(below[2 * BLOCK_BYTES..][..16], other[2 * BLOCK_BYTES..][..16]);
    }

    #[test]
    fn what_can_not_be_read_says_why() {
        let (disk, key) = (FaultyDisk::new(), DirectoryKey::draw().unwrap());
        encrypted(&disk, &key).create("a", BLOCK).unwrap();
        let open = |disk: &FaultyDisk, key: &DirectoryKey| encrypted(disk, key).open("a").map(drop);
        assert!(open(&disk, &key).is_ok());
        let error = open(&disk, &DirectoryKey::draw().unwrap()).unwrap_err();
        assert_eq!(Undecipherable::of(&error), Some(Undecipherable::Key));
        assert_eq!(error.to_string(), "it was encrypted in another data directory");
        for bit in 0..size_of::<FileHeader>() * 8 {
            let damaged = disk.fork();
            damaged.flip("a", bit / 8, (bit % 8) as u8);
            let error = open(&damaged, &key).unwrap_err();
            assert_eq!(Undecipherable::of(&error), Some(Undecipherable::Header), "bit {bit}");
        }
        let plain = FaultyDisk::new();
        plain.create("a", BLOCK).unwrap();
        let error = open(&plain, &key).unwrap_err();
        assert_eq!(error.to_string(), "its encryption header is not what was written");
        // One that was cut within its header is empty, and stays so.
        disk.open("a").unwrap().truncate(100).unwrap();
        let file = encrypted(&disk, &key).open("a").unwrap();
        assert_eq!((file.len().unwrap(), content(&encrypted(&disk, &key), "a").len()), (0, 0));
        assert!(file.write_at(&[0; BLOCK_BYTES], 0).is_err());
    }

    /// What is done to both disks. Positions and lengths are blocks.
    #[derive(Clone, Debug)]
    enum Do {
        Create(usize, u64),
        Write(usize, u64, usize, u8),
        Truncate(usize, u64),
        Rename(usize, usize),
        Remove(usize),
        Crash(u64),
    }

    const NAMES: [&str; 3] = ["a", "b", "c"];

    fn any_do() -> impl Strategy<Value = Do> {
        let (name, at) = (|| 0..NAMES.len(), || 0..9u64);
        prop_oneof![
            1 => (name(), at()).prop_map(|(name, bytes)| Do::Create(name, bytes)),
            // Some are longer than what is encrypted at once.
            6 => (name(), at(), prop_oneof![9 => 1..6usize, 1 => 250..300usize], any::<u8>())
                .prop_map(|(name, at, length, byte)| Do::Write(name, at, length, byte)),
            1 => (name(), at()).prop_map(|(name, at)| Do::Truncate(name, at)),
            1 => (name(), name()).prop_map(|(from, to)| Do::Rename(from, to)),
            1 => name().prop_map(Do::Remove),
            1 => any::<u64>().prop_map(Do::Crash),
        ]
    }

    /// Does it and says what came of it.
    fn run(disk: &dyn Disk, what: &Do) -> Result<(), io::ErrorKind> {
        let done = match *what {
            Do::Create(name, blocks) => disk.create(NAMES[name], blocks * BLOCK).map(drop),
            Do::Write(name, at, length, byte) => disk.open(NAMES[name]).and_then(|file| {
                let mut buffer = AlignedBuf::new(length * BLOCK_BYTES);
                for (n, into) in buffer.bytes_mut().iter_mut().enumerate() {
                    *into = byte.wrapping_mul((n / 512) as u8);
                }
                file.write_at(buffer.bytes(), at * BLOCK)
            }),
            // Files are only cut.
            Do::Truncate(name, at) => {
                disk.open(NAMES[name]).and_then(|file| file.truncate((at * BLOCK).min(file.len()?)))
            }
            Do::Rename(from, to) => disk.rename(NAMES[from], NAMES[to]),
            Do::Remove(name) => disk.remove(NAMES[name]),
            Do::Crash(_) => Ok(()),
        };
        done.map_err(|error| error.kind())
    }

    proptest! {
        /// Whatever is done, the encrypted disk shows what the plain one shows.
        #[test]
        fn it_behaves_as_what_is_below(all in prop::collection::vec(any_do(), 1..40)) {
            let (plain, below) = (FaultyDisk::new(), FaultyDisk::new());
            let key = DirectoryKey::draw().unwrap();
            let mut disk = encrypted(&below, &key);
            for what in &all {
                prop_assert_eq!(run(&plain, what), run(&disk, what));
                if let Do::Crash(seed) = what {
                    // Synced before, so that there is nothing left to chance.
                    for disk in [&plain as &dyn Disk, &disk] {
                        for name in disk.list().unwrap() {
                            disk.open(&name).unwrap().sync().unwrap();
                        }
                        disk.sync_dir().unwrap();
                    }
                    plain.crash(*seed);
                    below.crash(*seed);
                    disk = encrypted(&below, &key);
                }
                let of = |disk: &dyn Disk| -> BTreeMap<String, Vec<u8>> {
                    let names = disk.list().unwrap().into_iter();
                    names.map(|name| (name.clone(), content(disk, &name))).collect()
                };
                prop_assert!(of(&plain) == of(&disk));
                prop_assert!(of(&plain) == of(&encrypted(&below, &key)));
            }
        }
    }
}
