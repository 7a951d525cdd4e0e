//! A data directory: what it says of itself, how its files are read, and that one process at a
//! time owns it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mq::{
    Archive, ArchiveError, DataKey, DirDisk, DirectoryKey, Disk, EncryptedDisk, NatsConfig,
    NatsError, NatsStream, StreamDisk,
};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use txn_core::{Capacity, Seat};

use crate::Placement;
use crate::archiver::ArchiveLocation;
use crate::encryption::Encryption;
use crate::private::{self, PartyKeys, PartyKeysError};

/// What may be there of a directory that somebody began to make.
const OURS: [&str; 3] = [LOCK, "crest.json.new", private::NEW];

/// The version of the directory's arrangement.
const LAYOUT: u32 = 2;
/// Ten years.
const SETTLE_STEP_MAX_S: u64 = 10 * 366 * 24 * 60 * 60;
/// Shards of a directory, unless told otherwise.
const SHARDS: u16 = 16;
/// Segments of 64 MiB: some tenths of a second of the busiest log, made ahead in less.
const SEGMENT_BYTES: u64 = 64 << 20;
const META: &str = "crest.json";
/// Before what a stream says of a directory that is encrypted.
const ENCRYPTED: &str = "encrypted ";
const LOCK: &str = "lock";
const LOG: &str = "log";
const INDEX: &str = "index";
const SNAPSHOTS: &str = "snapshots";

/// What is fixed when a data directory is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Meta {
    layout: u32,
    shards: u16,
    /// Bytes of a segment of the log.
    segment_bytes: u64,
    /// The length of a settlement step in seconds.
    settle_step_s: u64,
    /// Seeds the shards' hash tables, so that nobody can choose ids that collide.
    hash_seed: String,
    /// Without it nothing is encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    encryption: Option<Encryption>,
    /// The stream on NATS servers that its log is; without it the log is in the directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stream: Option<String>,
}

/// What it takes to open a data directory.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// The key of one that is encrypted.
    pub data_key: Option<DataKey>,
    /// The servers of one whose log is a stream. Which stream, a directory knows that was made.
    pub nats: Option<NatsConfig>,
}

impl Access {
    /// With this data key, and nothing else.
    pub fn with_key(data_key: Option<DataKey>) -> Access {
        Access { data_key, nats: None }
    }
}

/// A data directory that this process owns until it is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    meta: Meta,
    key: Option<DirectoryKey>,
    /// Of its log, if that is a stream.
    nats: Option<NatsConfig>,
    _lock: File,
}

/// Why a directory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// The file system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process serves or audits it.
    #[error("{} is in use by another process", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// No directory of Crest's.
    #[error("{} holds no data of Crest: it has no {META}", path.display())]
    NoData {
        /// The directory.
        path: PathBuf,
    },
    /// There are files, but not those of Crest.
    #[error("{} is not empty and holds no data of Crest; name a new directory", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
    },
    /// Its description can't be read.
    #[error("{} can't be read: {detail}", path.display())]
    Meta {
        /// The file.
        path: PathBuf,
        /// Why.
        detail: String,
    },
    /// Made by another version.
    #[error("{} has layout {found}; this program reads layout {LAYOUT}", path.display())]
    Layout {
        /// The directory.
        path: PathBuf,
        /// Its layout.
        found: u32,
    },
    /// It is encrypted, and no data key was given.
    #[error(
        "{} is encrypted: its data key is needed (--data-key, or CREST_DATA_KEY)",
        path.display()
    )]
    NeedsKey {
        /// The directory.
        path: PathBuf,
    },
    /// Another data key was given than the one that it was made with, or last given.
    #[error(
        "the data key isn't that of {}: give the one that it was made with, or last got by \
         `crest rekey`",
        path.display()
    )]
    OtherKey {
        /// The directory.
        path: PathBuf,
    },
    /// A data key was given, and nothing in it is encrypted.
    #[error(
        "{} was made without encryption and stays so: leave the data key out, or import into a \
         new directory",
        path.display()
    )]
    NotEncrypted {
        /// The directory.
        path: PathBuf,
    },
    /// The keys of its parties.
    #[error(transparent)]
    PartyKeys(#[from] PartyKeysError),
    /// Its log is a stream, and nobody said where.
    #[error(
        "the log of {} is the stream {stream} on NATS servers: --nats says where they are",
        path.display()
    )]
    NeedsNats {
        /// The directory.
        path: PathBuf,
        /// The stream.
        stream: String,
    },
    /// Its log is in it.
    #[error("{} was made with its log in it, and keeps it there", path.display())]
    NotOnNats {
        /// The directory.
        path: PathBuf,
    },
    /// The servers, or the stream.
    #[error(transparent)]
    Nats(#[from] NatsError),
    /// The stream is another directory's log.
    #[error(
        "stream {stream} is the log of another data directory than {}; in the place of one that \
         was encrypted comes a copy of its crest.json and parties.keys",
        path.display()
    )]
    OtherStream {
        /// The directory.
        path: PathBuf,
        /// The stream.
        stream: String,
    },
    /// A number of shards that can't be, or isn't that of the directory.
    #[error("{shards} shards: {why}")]
    Shards {
        /// How many.
        shards: u16,
        /// Why not.
        why: String,
    },
    /// A settlement step that can't be, or isn't that of the directory.
    #[error("a settlement step of {seconds} s: {why}")]
    SettleStep {
        /// How long.
        seconds: u64,
        /// Why not.
        why: String,
    },
}

/// What a directory is made with. What isn't told has a default; an existing directory keeps what
/// it was made with, and asking it for something else is refused.
#[derive(Clone, Copy, Debug, Default)]
pub struct MakeDir {
    /// Over how many shards its parties are spread: 1 to 256, 16 unless told.
    pub shards: Option<u16>,
    /// Bytes of a segment of its log; 64 MiB unless told.
    pub segment_bytes: Option<u64>,
    /// Seconds of a settlement step, 1 to ten years: what sellers earn is pending until the step
    /// in which they earned it and the next one are over. A day unless told.
    pub settle_step_s: Option<u64>,
    /// Whether its log is a stream on NATS servers ([`Access::nats`]). If that stream was the log
    /// of a directory that is gone, this one takes its place.
    pub on_nats: bool,
    /// Whether a stream that was a log before is refused.
    pub new_stream: bool,
}

/// Why a directory's archive can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveOfError {
    /// The directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The archive.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

impl DataDir {
    /// Opens the directory, or makes it: with a data key, encrypted.
    pub fn create_or_open(
        path: &Path,
        make: MakeDir,
        access: &Access,
    ) -> Result<DataDir, DataDirError> {
        let data_key = access.data_key.as_ref();
        let shards = make.shards.unwrap_or(SHARDS);
        let settle_step_s = make.settle_step_s.unwrap_or(Seat::SETTLE_STEP.as_secs());
        supported(shards, settle_step_s)?;
        make_durably(path)?;
        let meta_path = path.join(META);
        if !meta_path.exists() {
            let mut entries = fs::read_dir(path).map_err(|source| io_at(path, source))?;
            let ours = |name: &OsStr| OURS.iter().any(|ours| name == *ours);
            if entries.any(|entry| entry.is_ok_and(|entry| !ours(&entry.file_name()))) {
                return Err(DataDirError::Foreign { path: path.to_path_buf() });
            }
            let lock = lock(path)?;
            // Another process may have made it, and ended, before this one had the lock.
            if !meta_path.exists() {
                let mut meta = Meta {
                    layout: LAYOUT,
                    shards,
                    segment_bytes: make.segment_bytes.unwrap_or(SEGMENT_BYTES),
                    settle_step_s,
                    hash_seed: format!("{:016x}", random(path)?),
                    encryption: None,
                    stream: None,
                };
                let stream = make.on_nats.then(|| connect(path, access)).transpose()?;
                if let Some((name, stream)) = &stream {
                    if make.new_stream && stream.described().is_some() {
                        let (path, stream) = (path.to_path_buf(), name.clone());
                        return Err(DataDirError::OtherStream { path, stream });
                    }
                    meta = meta.on_stream(path, name, stream, data_key)?;
                }
                let drawn = |_: &DataKey| DirectoryKey::draw().map_err(|e| io_at(path, e));
                let key = data_key.map(drawn).transpose()?;
                if let (Some(key), Some(data_key)) = (&key, data_key) {
                    PartyKeys::make(path, key)?;
                    meta.keep(path, key, data_key)?;
                }
                write_meta(path, &meta)?;
                if let Some((_, stream)) = &stream {
                    stream.describe(&meta.described())?;
                }
                let log = path.join(LOG);
                fs::create_dir_all(&log).map_err(|source| io_at(&log, source))?;
                sync_dir(path)?;
                sync_dir(&path.join(".."))?;
                let nats = access.nats.clone();
                return Ok(DataDir { path: path.to_path_buf(), meta, key, nats, _lock: lock });
            }
        }
        let dir = DataDir::open(path, access)?;
        if make.on_nats && dir.meta.stream.is_none() {
            return Err(DataDirError::NotOnNats { path: path.to_path_buf() });
        }
        if let Some(shards) = make.shards.filter(|shards| *shards != dir.meta.shards) {
            let why = format!("{} was made with {}", path.display(), dir.meta.shards);
            return Err(DataDirError::Shards { shards, why });
        }
        let step = make.settle_step_s.filter(|step| *step != dir.meta.settle_step_s);
        if let Some(seconds) = step {
            let why = format!("{} was made with {} s", path.display(), dir.meta.settle_step_s);
            return Err(DataDirError::SettleStep { seconds, why });
        }
        Ok(dir)
    }

    /// Opens an existing directory: with its data key, if it was made with one.
    pub fn open(path: &Path, access: &Access) -> Result<DataDir, DataDirError> {
        if !path.join(META).exists() {
            return Err(DataDirError::NoData { path: path.to_path_buf() });
        }
        let lock = lock(path)?;
        let meta = Meta::read(path)?;
        let key = meta.key(path, access.data_key.as_ref())?;
        let log = path.join(LOG);
        fs::create_dir_all(&log).map_err(|source| io_at(&log, source))?;
        let nats = access.nats.clone();
        Ok(DataDir { path: path.to_path_buf(), meta, key, nats, _lock: lock })
    }

    /// Has a directory's data key replaced, durably. Nothing but what it says of itself is
    /// written again.
    pub fn rekey(path: &Path, old: &DataKey, new: &DataKey) -> Result<(), DataDirError> {
        let access = Access { data_key: Some(old.clone()), nats: None };
        let mut dir = DataDir::open(path, &access)?;
        let key = dir.key.as_ref().expect("a directory that takes a data key has one");
        dir.meta.keep(path, key, new)?;
        write_meta(path, &dir.meta)?;
        sync_dir(path)
    }

    /// The archive of the directory at `path`, which another process may own: `None` if nothing
    /// is kept. Where there is no directory any more, its archive can be read without a key if
    /// it isn't encrypted.
    pub fn archive_of(
        path: &Path,
        location: &ArchiveLocation,
        data_key: Option<&DataKey>,
    ) -> Result<Option<Arc<Archive>>, ArchiveOfError> {
        let key = match path.join(META).exists() {
            true => Meta::read(path)?.key(path, data_key)?,
            false => None,
        };
        Ok(location.open(path, key)?)
    }

    /// How many shards its parties are spread over.
    pub fn shards(&self) -> u16 {
        self.meta.shards
    }

    /// Bytes of a segment of its log.
    pub fn segment_bytes(&self) -> u64 {
        self.meta.segment_bytes
    }

    /// How its shards are made.
    pub fn placement(&self, groups: usize, capacity: Capacity) -> Placement {
        Placement {
            shards: self.meta.shards,
            groups,
            settle_step: Duration::from_secs(self.meta.settle_step_s),
            hash_seed: u64::from_str_radix(&self.meta.hash_seed, 16).unwrap_or_default(),
            capacity,
        }
    }

    /// The keys of its parties; `None` if it isn't encrypted.
    pub fn party_keys(&self) -> Result<Option<PartyKeys>, PartyKeysError> {
        self.key.as_ref().map(|key| PartyKeys::open(&self.path, key)).transpose()
    }

    /// Where its log is.
    pub fn log_path(&self) -> PathBuf {
        self.path.join(LOG)
    }

    /// The disk of its log, whose writer this process is from now on.
    pub fn log(&self) -> Result<Arc<dyn Disk>, DataDirError> {
        let Some(name) = &self.meta.stream else { return self.disk(LOG, DirDisk::open) };
        let stream = Arc::new(NatsStream::connect(&self.stream(name)?)?);
        let is_ours = |text: String| {
            let described = Meta::of_stream(&text).0;
            if described.is_ok_and(|meta| meta.hash_seed == self.meta.hash_seed) {
                return Ok(());
            }
            let (path, stream) = (self.path.clone(), name.clone());
            Err(DataDirError::OtherStream { path, stream })
        };
        match stream.described() {
            Some(text) => is_ours(text)?,
            // It was made, and the process that made it ended.
            None => stream.describe(&self.meta.described())?,
        }
        let disk = StreamDisk::own(stream.clone(), self.draw_salt()?);
        let disk = disk.map_err(|source| io_at(&self.path, source))?;
        // Two new directories may have said at the same moment that it is theirs.
        is_ours(stream.described_now()?.unwrap_or_default())?;
        Ok(self.covered(disk))
    }

    /// The same, only to be read.
    pub fn log_read_only(&self) -> Result<Arc<dyn Disk>, DataDirError> {
        let Some(name) = &self.meta.stream else { return self.disk(LOG, DirDisk::read_only) };
        let stream = Arc::new(NatsStream::read_only(&self.stream(name)?)?);
        let disk = StreamDisk::read_only(stream).map_err(|source| io_at(&self.path, source))?;
        Ok(self.covered(disk))
    }

    /// Whether its log is a JetStream stream.
    pub(crate) fn is_on_stream(&self) -> bool {
        self.meta.stream.is_some()
    }

    fn stream(&self, name: &str) -> Result<NatsConfig, DataDirError> {
        let nats = self.nats.clone().ok_or_else(|| needs_nats(&self.path, name))?;
        Ok(NatsConfig { stream: name.to_string(), ..nats })
    }

    /// The disk of the index of its log.
    pub fn index(&self) -> Result<Arc<dyn Disk>, DataDirError> {
        self.disk(INDEX, DirDisk::open)
    }

    /// The disk of its snapshots.
    pub fn snapshots(&self) -> Result<Arc<dyn Disk>, DataDirError> {
        self.disk(SNAPSHOTS, DirDisk::open)
    }

    /// The same, only to be read.
    pub fn snapshots_read_only(&self) -> Result<Arc<dyn Disk>, DataDirError> {
        self.disk(SNAPSHOTS, DirDisk::read_only)
    }

    /// Its archive; `None` if nothing is kept.
    pub fn archive(
        &self,
        location: &ArchiveLocation,
    ) -> Result<Option<Arc<Archive>>, ArchiveError> {
        location.open(&self.path, self.key.clone())
    }

    fn disk(
        &self,
        name: &str,
        open: impl FnOnce(PathBuf) -> io::Result<DirDisk>,
    ) -> Result<Arc<dyn Disk>, DataDirError> {
        let path = self.path.join(name);
        Ok(self.covered(open(path.clone()).map_err(|source| io_at(&path, source))?))
    }

    /// A disk as the directory uses it.
    fn covered(&self, disk: impl Disk + 'static) -> Arc<dyn Disk> {
        match &self.key {
            Some(key) => Arc::new(EncryptedDisk::new(Arc::new(disk), key.clone())),
            None => Arc::new(disk),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A number that no other start of any process has drawn.
    pub fn draw_salt(&self) -> Result<u64, DataDirError> {
        random(&self.path)
    }
}

impl Meta {
    fn read(path: &Path) -> Result<Meta, DataDirError> {
        let meta_path = path.join(META);
        let text = fs::read(&meta_path).map_err(|source| io_at(&meta_path, source))?;
        let unreadable = |detail| DataDirError::Meta { path: meta_path.clone(), detail };
        let meta = Meta::parse(&text).map_err(unreadable)?;
        if meta.layout != LAYOUT {
            return Err(DataDirError::Layout { path: path.to_path_buf(), found: meta.layout });
        }
        supported(meta.shards, meta.settle_step_s)?;
        Ok(meta)
    }

    fn parse(text: &[u8]) -> Result<Meta, String> {
        let first = |text: &str| text.lines().next().unwrap_or_default().to_string();
        sonic_rs::from_slice(text).map_err(|error| first(&error.to_string()))
    }

    /// What a stream says of the directory whose log it is: nothing by which it could be read.
    fn described(&self) -> String {
        let open = Meta { encryption: None, ..self.clone() };
        let text = sonic_rs::to_string(&open).expect("plain fields have a form");
        if self.encryption.is_some() { format!("{ENCRYPTED}{text}") } else { text }
    }

    /// The same back, and whether that directory is encrypted.
    fn of_stream(text: &str) -> (Result<Meta, String>, bool) {
        match text.strip_prefix(ENCRYPTED) {
            Some(text) => (Meta::parse(text.as_bytes()), true),
            None => (Meta::parse(text.as_bytes()), false),
        }
    }

    /// Of a directory whose log is this stream: that of the directory it was before, if any.
    fn on_stream(
        self,
        path: &Path,
        name: &str,
        stream: &NatsStream,
        data_key: Option<&DataKey>,
    ) -> Result<Meta, DataDirError> {
        let Some(text) = stream.described() else {
            return Ok(Meta { stream: Some(name.to_string()), ..self });
        };
        match Meta::of_stream(&text) {
            // What is encrypted needs keys that were in the directory.
            (Ok(meta), false) if data_key.is_none() && meta.layout == LAYOUT => {
                supported(meta.shards, meta.settle_step_s)?;
                Ok(meta)
            }
            _ => {
                let (path, stream) = (path.to_path_buf(), name.to_string());
                Err(DataDirError::OtherStream { path, stream })
            }
        }
    }

    /// The directory's key.
    fn key(
        &self,
        path: &Path,
        data_key: Option<&DataKey>,
    ) -> Result<Option<DirectoryKey>, DataDirError> {
        let path = path.to_path_buf();
        match (&self.encryption, data_key) {
            (None, None) => Ok(None),
            (None, Some(_)) => Err(DataDirError::NotEncrypted { path }),
            (Some(_), None) => Err(DataDirError::NeedsKey { path }),
            (Some(encryption), Some(data_key)) => {
                let key = encryption.unwrap(data_key, &self.hash_seed);
                key.map(Some).ok_or(DataDirError::OtherKey { path })
            }
        }
    }

    /// Keeps the directory's key under a data key.
    fn keep(
        &mut self,
        path: &Path,
        key: &DirectoryKey,
        data_key: &DataKey,
    ) -> Result<(), DataDirError> {
        let encryption = Encryption::wrap(key, data_key, &self.hash_seed);
        self.encryption = Some(encryption.map_err(|source| io_at(path, source))?);
        Ok(())
    }
}

fn supported(shards: u16, settle_step_s: u64) -> Result<(), DataDirError> {
    if !(1..=Seat::SHARDS_MAX).contains(&shards) {
        let why = format!("there can be 1 to {}", Seat::SHARDS_MAX);
        return Err(DataDirError::Shards { shards, why });
    }
    if !(1..=SETTLE_STEP_MAX_S).contains(&settle_step_s) {
        let why = format!("it can be 1 to {SETTLE_STEP_MAX_S} s");
        return Err(DataDirError::SettleStep { seconds: settle_step_s, why });
    }
    Ok(())
}

fn needs_nats(path: &Path, stream: &str) -> DataDirError {
    DataDirError::NeedsNats { path: path.to_path_buf(), stream: stream.to_string() }
}

/// The stream of a new directory's log, and its name.
fn connect(path: &Path, access: &Access) -> Result<(String, NatsStream), DataDirError> {
    let nats = access.nats.as_ref().ok_or_else(|| needs_nats(path, "to be"))?;
    Ok((nats.stream.clone(), NatsStream::connect(nats)?))
}

fn io_at(path: &Path, source: io::Error) -> DataDirError {
    DataDirError::Io { path: path.to_path_buf(), source }
}

fn random(path: &Path) -> Result<u64, DataDirError> {
    getrandom::u64().map_err(|error| io_at(path, io::Error::other(error)))
}

fn lock(path: &Path) -> Result<File, DataDirError> {
    let lock_path = path.join(LOCK);
    let file = File::options().create(true).truncate(false).write(true).open(&lock_path);
    let file = file.map_err(|source| io_at(&lock_path, source))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(_) => Err(DataDirError::InUse { path: path.to_path_buf() }),
    }
}

fn write_meta(path: &Path, meta: &Meta) -> Result<(), DataDirError> {
    let new = path.join("crest.json.new");
    let mut text = sonic_rs::to_string_pretty(meta).expect("plain fields have a JSON form");
    text.push('\n');
    let write = || -> io::Result<()> {
        let mut file = File::create(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path.join(META))
    };
    write().map_err(|source| io_at(&new, source))
}

/// Makes the directory, and the names of all that are made above it durable: with a name, a crash
/// would take everything below it.
fn make_durably(path: &Path) -> Result<(), DataDirError> {
    let missing = |dir: &&Path| !dir.as_os_str().is_empty() && !dir.exists();
    let made: Vec<&Path> = path.ancestors().take_while(missing).collect();
    fs::create_dir_all(path).map_err(|source| io_at(path, source))?;
    made.iter().try_for_each(|dir| sync_dir(&dir.join("..")))
}

fn sync_dir(path: &Path) -> Result<(), DataDirError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(|source| io_at(path, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: MakeDir = MakeDir {
        shards: None,
        segment_bytes: None,
        settle_step_s: None,
        on_nats: false,
        new_stream: false,
    };

    fn with(key: &DataKey) -> Access {
        Access::with_key(Some(key.clone()))
    }

    #[test]
    fn a_directory_keeps_what_it_was_made_with_and_has_one_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        let seed = |dir: &DataDir| dir.placement(1, Capacity::default()).hash_seed;
        let made = DataDir::create_or_open(&path, NEW, &Access::default()).unwrap();
        assert!(matches!(
            DataDir::open(&path, &Access::default()),
            Err(DataDirError::InUse { .. })
        ));
        let first = seed(&made);
        drop(made);
        let again =
            DataDir::create_or_open(&path, MakeDir { shards: Some(16), ..NEW }, &Access::default());
        let again = again.unwrap();
        assert_eq!((again.shards(), seed(&again)), (16, first));
    }

    #[test]
    fn what_it_can_not_use_it_refuses_with_words() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |path: &Path, make| {
            DataDir::create_or_open(path, make, &Access::default())
                .map(|_| ())
                .unwrap_err()
                .to_string()
        };
        let error = refused(dir.path(), MakeDir { shards: Some(257), ..NEW });
        assert!(error.starts_with("257 shards: there can be 1 to 256"), "{error}");
        let error = refused(dir.path(), MakeDir { settle_step_s: Some(0), ..NEW });
        assert!(error.starts_with("a settlement step of 0 s: it can be 1 to"), "{error}");
        let error = DataDir::open(dir.path(), &Access::default()).unwrap_err().to_string();
        assert!(error.contains("holds no data of Crest"), "{error}");
        fs::write(dir.path().join("holiday.jpg"), "x").unwrap();
        let error = refused(dir.path(), NEW);
        assert!(error.contains("is not empty"), "{error}");

        let made = dir.path().join("data");
        drop(
            DataDir::create_or_open(&made, MakeDir { shards: Some(4), ..NEW }, &Access::default())
                .unwrap(),
        );
        let error = refused(&made, MakeDir { shards: Some(16), ..NEW });
        assert!(error.contains("was made with 4"), "{error}");
        let error = refused(&made, MakeDir { settle_step_s: Some(7), ..NEW });
        assert!(error.contains("was made with 86400 s"), "{error}");
        let meta = r#"{"layout":9,"shards":1,"segment_bytes":1,"settle_step_s":1,"hash_seed":"0"}"#;
        fs::write(made.join(META), meta).unwrap();
        let error = DataDir::open(&made, &Access::default()).unwrap_err().to_string();
        assert!(error.contains("has layout 9"), "{error}");
    }

    #[test]
    fn a_data_key_is_given_always_or_never() {
        let dir = tempfile::tempdir().unwrap();
        let key = |byte| DataKey::new(&[byte; 64]).unwrap();
        let (ours, other) = (key(b'a'), key(b'b'));
        let (plain, encrypted) = (dir.path().join("plain"), dir.path().join("encrypted"));
        drop(DataDir::create_or_open(&plain, NEW, &Access::default()).unwrap());
        drop(DataDir::create_or_open(&encrypted, NEW, &with(&ours)).unwrap());
        // Of one without, nothing is said of encryption: other versions read it.
        let text = fs::read_to_string(plain.join(META)).unwrap();
        let names = ["layout", "shards", "segment_bytes", "settle_step_s", "hash_seed"];
        assert!(
            names.iter().all(|name| text.contains(name)) && text.lines().count() == 7,
            "{text}"
        );

        let refused = |path: &Path, key: Option<&DataKey>| {
            let open = DataDir::open(path, &Access::with_key(key.cloned()))
                .map(drop)
                .unwrap_err()
                .to_string();
            let made = DataDir::create_or_open(path, NEW, &Access::with_key(key.cloned()))
                .map(drop)
                .unwrap_err()
                .to_string();
            let at = ArchiveLocation::Beside;
            let archive = DataDir::archive_of(path, &at, key).map(drop).unwrap_err().to_string();
            assert!(open == made && open == archive, "{open}, {made}, {archive}");
            open
        };
        let words = refused(&plain, Some(&ours));
        assert!(
            words.ends_with("leave the data key out, or import into a new directory"),
            "{words}"
        );
        let words = refused(&encrypted, None);
        assert!(words.ends_with("is needed (--data-key, or CREST_DATA_KEY)"), "{words}");
        assert!(refused(&encrypted, Some(&other)).starts_with("the data key isn't that of"));

        let file = |key| {
            let disk = DataDir::open(&encrypted, &with(key)).unwrap().log().unwrap();
            disk.open("file").or_else(|_| disk.create("file", 4096)).map(drop).unwrap();
        };
        file(&ours);
        assert!(DataDir::rekey(&encrypted, &other, &ours).is_err());
        DataDir::rekey(&encrypted, &ours, &other).unwrap();
        assert!(refused(&encrypted, Some(&ours)).contains("crest rekey"));
        file(&other);
        let words = DataDir::rekey(&plain, &ours, &other).unwrap_err().to_string();
        assert!(words.contains("made without encryption"), "{words}");
    }
}
