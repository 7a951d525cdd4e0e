//! Keys of parties. What an order keeps private is encrypted under its buyer's key, and nobody can
//! read it any more once that is erased.
//!
//! No party has a key that is kept. All keys are leaves of one binary tree, 64 levels deep, whose
//! path to a leaf is the party's id: each seed yields the two below it by a one-way function
//! (O. Goldreich, S. Goldwasser, S. Micali, "How to construct random functions", JACM 33(4),
//! 1986). Only the root's seed is kept. So a key costs 64 hashes, and writes nothing.
//!
//! Erasing a key replaces the seed that leads to it by the seeds beside the way to it, 64 at most:
//! every other key can still be derived, and that one never again (D. Boneh, B. Waters,
//! "Constrained pseudorandom functions and their applications", ASIACRYPT 2013). The seeds are a
//! small file, encrypted under the directory's key, and written anew whenever a key is erased.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, RwLock};

use model::record::{Body, PRIVATE_NONCE_BYTES, PRIVATE_TAG_BYTES, Record};
use model::{Offset, OrderId, Party, Realm, ShardId};
use mq::DirectoryKey;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::{digest, hmac};
use zeroize::Zeroizing;

use crate::{GroupHandle, SubmitError};

/// The file, what it is before it takes the old one's place, and what that is then.
const FILE: &str = "parties.keys";
pub(crate) const NEW: &str = "parties.keys.new";
const OLD: &str = "parties.keys.old";
/// What it begins with.
const MAGIC: [u8; 16] = *b"crest parties 1\n";
/// Bytes of a seed in it: the first party below it, its depth, and the seed.
const ENTRY_BYTES: usize = 8 + 1 + 32;

type Seed = Zeroizing<[u8; 32]>;

/// Why a party's keys can't be had.
#[derive(Debug, thiserror::Error)]
pub enum PartyKeysError {
    /// The file can't be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file isn't what was written. Without it nothing private can be read.
    #[error("{} is damaged: what is private can't be read without it", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
    },
}

/// Why something private can't be encrypted, or read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unopened {
    /// The party's key was erased.
    #[error("the key was erased")]
    Erased,
    /// It isn't what was encrypted.
    #[error("it isn't what was encrypted")]
    Damaged,
}

/// The keys of all parties of a data directory.
pub struct PartyKeys {
    directory: PathBuf,
    key: DirectoryKey,
    seeds: RwLock<Seeds>,
    /// Held while a key is erased, and the file written. Whether that failed the last time.
    erasing: Mutex<bool>,
}

impl PartyKeys {
    /// Makes the file, with a root that is drawn, under the name of one that is to take its place:
    /// it does so when the directory is opened.
    pub(crate) fn make(directory: &Path, key: &DirectoryKey) -> Result<(), PartyKeysError> {
        let new = directory.join(NEW);
        let made = Seeds::draw().and_then(|seeds| write_new(&new, key, &seeds));
        made.map_err(io_at(&new))
    }

    /// Reads the file, and ends what a crash may have left unfinished.
    pub(crate) fn open(directory: &Path, key: &DirectoryKey) -> Result<PartyKeys, PartyKeysError> {
        let (path, new) = (directory.join(FILE), directory.join(NEW));
        if !path.exists() && new.exists() {
            let renamed = fs::rename(&new, &path).and_then(|()| sync_dir(directory));
            renamed.map_err(io_at(&path))?;
        }
        let bytes = fs::read(&path).map_err(io_at(&path))?;
        let opened = bytes.strip_prefix(&MAGIC).and_then(|sealed| key.open(&MAGIC, sealed));
        let seeds = opened.and_then(|plain| Seeds::parse(&plain));
        let seeds = seeds.ok_or(PartyKeysError::Damaged { path })?;
        for name in [NEW, OLD] {
            let path = directory.join(name);
            destroy(&path).map_err(io_at(&path))?;
        }
        let (directory, key, seeds) = (directory.to_path_buf(), key.clone(), RwLock::new(seeds));
        Ok(PartyKeys { directory, key, seeds, erasing: Mutex::new(false) })
    }

    /// Encrypts the private part of an order in place: room for a nonce, the text, room for a tag.
    /// The same text of the same order gives the same bytes, so that a repeat is one.
    pub fn seal(
        &self,
        realm: Realm,
        party: Party,
        order: OrderId,
        part: &mut [u8],
    ) -> Result<(), Unopened> {
        let key = self.key_of(party)?;
        let (nonce, rest) = part.split_at_mut(PRIVATE_NONCE_BYTES);
        let (text, tag) = rest.split_at_mut(rest.len() - PRIVATE_TAG_BYTES);
        let about = about(realm, party, order);
        let drawn = key.part(b"nonce", &[&about, text]);
        nonce.copy_from_slice(&drawn[..PRIVATE_NONCE_BYTES]);
        let nonce = Nonce::try_assume_unique_for_key(nonce).expect("a nonce has 12 bytes");
        let sealed = key.cipher().seal_in_place_separate_tag(nonce, Aad::from(&about), text);
        tag.copy_from_slice(sealed.expect("a text is shorter than 64 GiB").as_ref());
        Ok(())
    }

    /// Decrypts it.
    pub fn open_part(
        &self,
        realm: Realm,
        party: Party,
        order: OrderId,
        part: &[u8],
    ) -> Result<String, Unopened> {
        let key = self.key_of(party)?;
        let damaged = Unopened::Damaged;
        let (nonce, rest) = part.split_at_checked(PRIVATE_NONCE_BYTES).ok_or(damaged)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).expect("a nonce has 12 bytes");
        let about = about(realm, party, order);
        let mut sealed = rest.to_vec();
        let text = key.cipher().open_in_place(nonce, Aad::from(&about), &mut sealed);
        let text = text.map_err(|_| damaged)?;
        String::from_utf8(text.to_vec()).map_err(|_| damaged)
    }

    /// Erases a party's key, durably: false if it was erased before. Blocks. After an error it may
    /// be erased or not; erasing it again finds out.
    pub fn erase(&self, party: Party) -> Result<bool, PartyKeysError> {
        let mut failed = self.erasing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seeds = self.seeds.read().unwrap_or_else(PoisonError::into_inner).clone();
        let had = seeds.erase(party);
        if !had && !*failed {
            return Ok(false);
        }
        *failed = true;
        let [path, new, old] = [FILE, NEW, OLD].map(|name| self.directory.join(name));
        write_new(&new, &self.key, &seeds).map_err(io_at(&new))?;
        destroy(&old).and_then(|()| fs::hard_link(&path, &old)).map_err(io_at(&old))?;
        fs::rename(&new, &path).map_err(io_at(&path))?;
        // From here on a restart wouldn't have the key any more.
        *self.seeds.write().unwrap_or_else(PoisonError::into_inner) = seeds;
        let settled = sync_dir(&self.directory).and_then(|()| destroy(&old));
        settled.and_then(|()| sync_dir(&self.directory)).map_err(io_at(&old))?;
        *failed = false;
        Ok(had)
    }

    fn key_of(&self, party: Party) -> Result<PartyKey, Unopened> {
        let seeds = self.seeds.read().unwrap_or_else(PoisonError::into_inner);
        seeds.leaf(party).map(PartyKey).ok_or(Unopened::Erased)
    }
}

/// The private part of an order whose newest record is at `newest`, as it was encrypted. `None`: it
/// has none.
pub async fn private_part(
    group: &GroupHandle,
    (shard, realm): (ShardId, Realm),
    (buyer, order): (Party, OrderId),
    newest: Offset,
) -> Result<Option<Vec<u8>>, SubmitError> {
    let mut at = newest;
    loop {
        let (_, bytes) = group.record(shard, at).await?.ok_or(SubmitError::Unreadable)?;
        let Ok((record, _)) = Record::split(&bytes) else { return Err(SubmitError::Unreadable) };
        let is_its = (record.realm(), record.party()) == (realm, buyer);
        if !is_its || record.order() != Some(order) {
            return Err(SubmitError::Unreadable);
        }
        if let Body::Place { private, .. } = record.body {
            return Ok((!private.is_empty()).then(|| private.to_vec()));
        }
        at = Offset(record.header.previous.get());
    }
}

/// What a private part is bound to.
fn about(realm: Realm, party: Party, order: OrderId) -> [u8; 25] {
    let mut about = [0; 25];
    about[0] = realm as u8;
    about[1..9].copy_from_slice(&party.0.to_le_bytes());
    about[9..].copy_from_slice(&order.0.to_le_bytes());
    about
}

/// Writes seeds to a file of this name, durably. One that is there is destroyed.
fn write_new(path: &Path, key: &DirectoryKey, seeds: &Seeds) -> io::Result<()> {
    destroy(path)?;
    let sealed = key.seal(&MAGIC, &seeds.bytes())?;
    let mut file = File::create(path)?;
    file.write_all(&MAGIC)?;
    file.write_all(&sealed)?;
    file.sync_all()
}

/// Removes a file, if it is there, and overwrites it before, as far as the disk does so in place:
/// what was removed alone can be found on the disk. One that has another name, too, is somebody
/// else's.
fn destroy(path: &Path) -> io::Result<()> {
    let mut file = match OpenOptions::new().write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    let found = file.metadata()?;
    if found.nlink() == 1 {
        file.write_all(&vec![0; found.len() as usize])?;
        file.sync_all()?;
    }
    fs::remove_file(path)
}

fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> PartyKeysError {
    let path = path.to_path_buf();
    move |source| PartyKeysError::Io { path, source }
}

/// Seeds of subtrees that have all keys that weren't erased: by the first party of each, its depth
/// and its seed. They don't overlap.
#[derive(Clone)]
struct Seeds(BTreeMap<u64, (u8, Seed)>);

impl Seeds {
    fn draw() -> io::Result<Seeds> {
        let mut root = Seed::new([0; 32]);
        getrandom::fill(&mut root[..]).map_err(io::Error::other)?;
        Ok(Seeds(BTreeMap::from([(0, (0, root))])))
    }

    /// The subtree that a party is in.
    fn around(&self, party: Party) -> Option<(u64, u8, &Seed)> {
        let (first, (depth, seed)) = self.0.range(..=party.0).next_back()?;
        let last = first | below(*depth);
        (party.0 <= last).then_some((*first, *depth, seed))
    }

    fn leaf(&self, party: Party) -> Option<Seed> {
        let (_, depth, seed) = self.around(party)?;
        Some((depth..64).fold(seed.clone(), |seed, depth| child(&seed, bit(party, depth))))
    }

    /// False if the key was erased before.
    fn erase(&mut self, party: Party) -> bool {
        let Some((first, depth, seed)) = self.around(party) else { return false };
        let mut seed = seed.clone();
        self.0.remove(&first);
        for depth in depth..64 {
            let way = bit(party, depth);
            // The first party of the half that this one isn't in.
            let other = party.0 & !below(depth) | u64::from(!way) << (63 - depth);
            self.0.insert(other, (depth + 1, child(&seed, !way)));
            seed = child(&seed, way);
        }
        true
    }

    fn bytes(&self) -> Zeroizing<Vec<u8>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(self.0.len() * ENTRY_BYTES));
        for (first, (depth, seed)) in &self.0 {
            bytes.extend_from_slice(&first.to_le_bytes());
            bytes.push(*depth);
            bytes.extend_from_slice(&seed[..]);
        }
        bytes
    }

    fn parse(bytes: &[u8]) -> Option<Seeds> {
        let entry = |entry: &[u8]| {
            let (first, rest) = entry.split_first_chunk::<8>()?;
            let (depth, seed) = rest.split_first()?;
            let seed: [u8; 32] = seed.try_into().ok()?;
            let first = u64::from_le_bytes(*first);
            (*depth <= 64 && first & below(*depth) == 0)
                .then_some((first, (*depth, Seed::new(seed))))
        };
        let entries = bytes.chunks(ENTRY_BYTES).map(entry);
        entries.collect::<Option<BTreeMap<_, _>>>().map(Seeds)
    }
}

/// The bits that differ between the parties below a seed.
fn below(depth: u8) -> u64 {
    u64::MAX.checked_shr(depth.into()).unwrap_or(0)
}

/// Which half of a subtree of that depth a party is in.
fn bit(party: Party, depth: u8) -> bool {
    party.0 >> (63 - depth) & 1 == 1
}

/// The seed of a half of a subtree.
fn child(seed: &Seed, half: bool) -> Seed {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&seed[..]);
    context.update(&[u8::from(half)]);
    Seed::new(context.finish().as_ref().try_into().expect("SHA-256 yields 32 bytes"))
}

/// A leaf.
struct PartyKey(Seed);

impl PartyKey {
    /// Bytes that only who has the key can know, for one purpose.
    fn part(&self, purpose: &[u8], of: &[&[u8]]) -> Seed {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0[..]);
        let mut context = hmac::Context::with_key(&key);
        context.update(purpose);
        of.iter().for_each(|bytes| context.update(bytes));
        Seed::new(context.sign().as_ref().try_into().expect("HMAC-SHA-256 yields 32 bytes"))
    }

    fn cipher(&self) -> LessSafeKey {
        let key = self.part(b"texts", &[]);
        LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key[..]).expect("it has 32 bytes"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fixed() -> Seeds {
        Seeds(BTreeMap::from([(0, (0, Seed::new([7; 32])))]))
    }

    proptest! {
        #[test]
        fn erasing_takes_that_key_and_no_other(
            erased in prop::collection::btree_set(prop_oneof![0..40u64, any::<u64>()], 1..20),
            others in prop::collection::vec(prop_oneof![0..40u64, any::<u64>()], 1..40),
        ) {
            let (whole, mut seeds) = (fixed(), fixed());
            for &party in &erased {
                prop_assert!(seeds.erase(Party(party)));
                prop_assert!(!seeds.erase(Party(party)));
            }
            let seeds = Seeds::parse(&seeds.bytes()).unwrap();
            for party in others.into_iter().chain(erased.iter().copied()) {
                let key = if erased.contains(&party) { None } else { whole.leaf(Party(party)) };
                prop_assert_eq!(seeds.leaf(Party(party)), key);
            }
        }
    }

    #[test]
    fn the_last_and_the_first_party_have_keys_too() {
        let mut seeds = fixed();
        assert!(seeds.erase(Party(0)) && seeds.erase(Party(u64::MAX)));
        assert!(seeds.leaf(Party(1)).is_some() && seeds.leaf(Party(u64::MAX - 1)).is_some());
        assert_eq!(seeds.0.len(), 63 + 63);
    }

    #[test]
    fn what_is_private_is_opened_by_its_key_alone() {
        let dir = tempfile::tempdir().unwrap();
        let key = DirectoryKey::draw().unwrap();
        PartyKeys::make(dir.path(), &key).unwrap();
        let keys = PartyKeys::open(dir.path(), &key).unwrap();
        let (buyer, order) = (Party(42), OrderId(5));
        let part = [&[0; 12][..], "Ann, 3 Mill Lane".as_bytes(), &[0; 16]].concat();
        let (mut sealed, mut again) = (part.clone(), part.clone());
        keys.seal(Realm::Live, buyer, order, &mut sealed).unwrap();
        keys.seal(Realm::Live, buyer, order, &mut again).unwrap();
        assert_eq!(sealed, again);
        let open = |keys: &PartyKeys, party, order, part: &[u8]| {
            keys.open_part(Realm::Live, party, order, part)
        };
        assert_eq!(open(&keys, buyer, order, &sealed).unwrap(), "Ann, 3 Mill Lane");
        assert_eq!(open(&keys, Party(43), order, &sealed), Err(Unopened::Damaged));
        assert_eq!(open(&keys, buyer, OrderId(6), &sealed), Err(Unopened::Damaged));
        assert_eq!(keys.open_part(Realm::Drill, buyer, order, &sealed), Err(Unopened::Damaged));
        for at in 0..sealed.len() {
            let mut flipped = sealed.clone();
            flipped[at] ^= 1;
            assert_eq!(open(&keys, buyer, order, &flipped), Err(Unopened::Damaged), "byte {at}");
        }
        assert!(keys.erase(buyer).unwrap());
        assert!(!keys.erase(buyer).unwrap());
        let keys = PartyKeys::open(dir.path(), &key).unwrap();
        assert_eq!(open(&keys, buyer, order, &sealed), Err(Unopened::Erased));
        assert_eq!(keys.seal(Realm::Live, buyer, order, &mut again), Err(Unopened::Erased));
        keys.seal(Realm::Live, Party(43), order, &mut part.clone()).unwrap();
    }

    #[test]
    fn nothing_of_an_erased_key_is_left_whatever_was_interrupted() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let key = DirectoryKey::draw().unwrap();
        PartyKeys::make(dir.path(), &key).unwrap();
        let keys = PartyKeys::open(dir.path(), &key).unwrap();
        let whole = fs::read(path(FILE)).unwrap();
        // Before the new file had the name: the old one goes on.
        fs::hard_link(path(FILE), path(OLD)).unwrap();
        fs::write(path(NEW), b"half of it").unwrap();
        drop(keys);
        let keys = PartyKeys::open(dir.path(), &key).unwrap();
        assert_eq!(fs::read(path(FILE)).unwrap(), whole);
        assert!(!path(OLD).exists() && !path(NEW).exists());
        // Behind that: the old one is overwritten, but not where it is a copy of somebody's.
        let open = fs::File::open(path(FILE)).unwrap();
        assert!(keys.erase(Party(1)).unwrap());
        let mut left = Vec::new();
        io::Read::read_to_end(&mut { open }, &mut left).unwrap();
        assert_eq!(left, vec![0; whole.len()]);
        let second = fs::read(path(FILE)).unwrap();
        fs::hard_link(path(FILE), path("copy")).unwrap();
        assert!(keys.erase(Party(2)).unwrap());
        assert_eq!(fs::read(path("copy")).unwrap(), second);
        let keys = PartyKeys::open(dir.path(), &key).unwrap();
        assert!(keys.key_of(Party(1)).is_err() && keys.key_of(Party(2)).is_err());
        assert!(keys.key_of(Party(3)).is_ok());
    }

    #[test]
    fn keys_that_are_damaged_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let key = DirectoryKey::draw().unwrap();
        PartyKeys::make(dir.path(), &key).unwrap();
        drop(PartyKeys::open(dir.path(), &key).unwrap());
        let path = dir.path().join(FILE);
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            fs::write(&path, &flipped).unwrap();
            let error = PartyKeys::open(dir.path(), &key).err().unwrap();
            assert!(matches!(error, PartyKeysError::Damaged { .. }), "byte {at}: {error}");
        }
        fs::write(&path, &whole).unwrap();
        let other = DirectoryKey::draw().unwrap();
        assert!(PartyKeys::open(dir.path(), &other).is_err());
    }
}
