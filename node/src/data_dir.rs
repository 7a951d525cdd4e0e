//! A data directory: what it says of itself, and that one process at a time owns it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

/// The version of the directory's arrangement.
const LAYOUT: u32 = 1;
/// Segments of 64 MiB: some tenths of a second of the busiest log, made ahead in less.
const SEGMENT_BYTES: u64 = 64 << 20;
const META: &str = "crest.json";
const LOCK: &str = "lock";
const LOG: &str = "log";

/// What is fixed when a data directory is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Meta {
    layout: u32,
    shards: u16,
    /// Bytes of a segment of the log.
    segment_bytes: u64,
    /// Seeds the shards' hash tables, so that nobody can choose ids that collide.
    hash_seed: String,
}

/// A data directory that this process owns until it is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    meta: Meta,
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
    /// More shards than this version runs.
    #[error(
        "{shards} shards: this version runs one; more need the streams between shards, \
         which it doesn't have yet"
    )]
    Shards {
        /// How many.
        shards: u16,
    },
}

impl DataDirError {
    /// An error of the file system with `dir`'s log.
    pub(crate) fn at(dir: &DataDir) -> impl Fn(io::Error) -> DataDirError {
        let path = dir.log_path();
        move |source| DataDirError::Io { path: path.clone(), source }
    }
}

impl DataDir {
    /// Opens the directory, or makes it with `shards` shards. The number of an existing
    /// directory stays; asking it for another is refused.
    pub fn create_or_open(
        path: &Path,
        shards: Option<u16>,
        segment_bytes: Option<u64>,
    ) -> Result<DataDir, DataDirError> {
        let shards_wanted = shards.unwrap_or(1);
        supported(shards_wanted)?;
        make_durably(path)?;
        let meta_path = path.join(META);
        if !meta_path.exists() {
            let mut entries = fs::read_dir(path).map_err(|source| io_at(path, source))?;
            let ours = |name: &std::ffi::OsStr| name == LOCK || name == "crest.json.new";
            if entries.any(|entry| entry.is_ok_and(|entry| !ours(&entry.file_name()))) {
                return Err(DataDirError::Foreign { path: path.to_path_buf() });
            }
            let lock = lock(path)?;
            // Another process may have made it, and ended, before this one had the lock.
            if !meta_path.exists() {
                let meta = Meta {
                    layout: LAYOUT,
                    shards: shards_wanted,
                    segment_bytes: segment_bytes.unwrap_or(SEGMENT_BYTES),
                    hash_seed: format!("{:016x}", random(path)?),
                };
                write_meta(path, &meta)?;
                let log = path.join(LOG);
                fs::create_dir_all(&log).map_err(|source| io_at(&log, source))?;
                sync_dir(path)?;
                sync_dir(&path.join(".."))?;
                return Ok(DataDir { path: path.to_path_buf(), meta, _lock: lock });
            }
        }
        let dir = DataDir::open(path)?;
        match shards {
            Some(shards) if shards != dir.meta.shards => Err(DataDirError::Shards { shards }),
            _ => Ok(dir),
        }
    }

    /// Opens an existing directory.
    pub fn open(path: &Path) -> Result<DataDir, DataDirError> {
        let meta_path = path.join(META);
        let text = match fs::read(&meta_path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(DataDirError::NoData { path: path.to_path_buf() });
            }
            Err(source) => return Err(io_at(&meta_path, source)),
        };
        let lock = lock(path)?;
        let unreadable = |error: sonic_rs::Error| DataDirError::Meta {
            path: meta_path.clone(),
            detail: error.to_string().lines().next().unwrap_or_default().to_string(),
        };
        let meta: Meta = sonic_rs::from_slice(&text).map_err(unreadable)?;
        if meta.layout != LAYOUT {
            return Err(DataDirError::Layout { path: path.to_path_buf(), found: meta.layout });
        }
        supported(meta.shards)?;
        let log = path.join(LOG);
        fs::create_dir_all(&log).map_err(|source| io_at(&log, source))?;
        Ok(DataDir { path: path.to_path_buf(), meta, _lock: lock })
    }

    /// How many shards its parties are spread over.
    pub fn shards(&self) -> u16 {
        self.meta.shards
    }

    /// Bytes of a segment of its log.
    pub fn segment_bytes(&self) -> u64 {
        self.meta.segment_bytes
    }

    /// What its shards' tables are seeded with.
    pub fn hash_seed(&self) -> u64 {
        u64::from_str_radix(&self.meta.hash_seed, 16).unwrap_or_default()
    }

    /// Where its log is.
    pub fn log_path(&self) -> PathBuf {
        self.path.join(LOG)
    }

    /// A number that no other start of any process has drawn.
    pub fn draw_salt(&self) -> Result<u64, DataDirError> {
        random(&self.path)
    }
}

fn supported(shards: u16) -> Result<(), DataDirError> {
    // Buyers are hashed over any number; units and money can't travel between shards yet.
    if shards == 1 { Ok(()) } else { Err(DataDirError::Shards { shards }) }
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
    let mut text = sonic_rs::to_string_pretty(meta).expect("three plain fields have a JSON form");
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

    #[test]
    fn a_directory_keeps_what_it_was_made_with_and_has_one_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        let seed = {
            let made = DataDir::create_or_open(&path, None, None).unwrap();
            assert!(matches!(DataDir::open(&path), Err(DataDirError::InUse { .. })));
            made.hash_seed()
        };
        let again = DataDir::create_or_open(&path, Some(1), None).unwrap();
        assert_eq!((again.shards(), again.hash_seed()), (1, seed));
    }

    #[test]
    fn what_it_can_not_use_it_refuses_with_words() {
        let dir = tempfile::tempdir().unwrap();
        let error = DataDir::create_or_open(dir.path(), Some(16), None).unwrap_err().to_string();
        assert!(error.starts_with("16 shards: this version runs one"), "{error}");
        let error = DataDir::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("holds no data of Crest"), "{error}");
        fs::write(dir.path().join("holiday.jpg"), "x").unwrap();
        let error = DataDir::create_or_open(dir.path(), None, None).unwrap_err().to_string();
        assert!(error.contains("is not empty"), "{error}");
        fs::write(
            dir.path().join(META),
            r#"{"layout":9,"shards":1,"segment_bytes":1,"hash_seed":"0"}"#,
        )
        .unwrap();
        let error = DataDir::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("has layout 9"), "{error}");
    }
}
