//! Where rows come from: a file, standard input, or a query of PostgreSQL.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use flate2::read::MultiGzDecoder;
use serde::{Deserialize, Serialize};

use crate::BulkError;
use crate::reader::Place;

/// Bytes of a file's beginning that tell it from another one.
const HEAD_BYTES: u64 = 64 << 10;
const READ_BYTES: usize = 256 << 10;

/// Where rows come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// A CSV file; one whose name ends in `.gz` is unpacked.
    File(PathBuf),
    /// CSV from standard input.
    Stdin,
    /// A query of PostgreSQL, or a table's name.
    Postgres {
        /// Such as `postgres://user@host/database`.
        url: String,
        /// What is selected.
        query: String,
    },
}

/// What tells a file from another one, or from itself after it was changed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Fingerprint {
    pub(crate) bytes: u64,
    pub(crate) modified_ns: u64,
    pub(crate) head: u64,
}

impl Input {
    /// A file, or standard input for `-`.
    pub fn csv(text: &str) -> Input {
        if text == "-" { Input::Stdin } else { Input::File(text.into()) }
    }

    /// As errors name it.
    pub fn name(&self) -> String {
        match self {
            Input::File(path) => path.display().to_string(),
            Input::Stdin => "standard input".to_string(),
            Input::Postgres { query, .. } => format!("PostgreSQL, {query}"),
        }
    }

    /// Where its progress is kept unless a folder is named: beside it. Only files can be read
    /// again from the middle.
    pub(crate) fn progress_file(&self, folder: Option<&Path>) -> Option<PathBuf> {
        let Input::File(path) = self else { return None };
        let mut name = path.file_name()?.to_os_string();
        name.push(".progress");
        Some(match folder {
            Some(folder) => folder.join(name),
            None => path.with_file_name(name),
        })
    }

    pub(crate) fn is_packed(&self) -> bool {
        matches!(self, Input::File(path) if path.extension().is_some_and(|end| end == "gz"))
    }
}

/// A CSV file's bytes, unpacked. From `place` on where it can begin there; else from its first.
pub(crate) fn open_file(
    path: &Path,
    place: Option<Place>,
) -> Result<Box<dyn Read + Send>, BulkError> {
    let mut file = File::open(path).map_err(BulkError::file(path))?;
    if path.extension().is_some_and(|end| end == "gz") {
        return Ok(Box::new(MultiGzDecoder::new(BufReader::with_capacity(READ_BYTES, file))));
    }
    if let Some(place) = place {
        file.seek(SeekFrom::Start(place.byte)).map_err(BulkError::file(path))?;
    }
    Ok(Box::new(file))
}

impl Fingerprint {
    pub(crate) fn of(path: &Path) -> Result<Fingerprint, BulkError> {
        let read = || -> io::Result<Fingerprint> {
            let file = File::open(path)?;
            let about = file.metadata()?;
            if !about.is_file() {
                let words = "it is no file that can be read twice: import it from standard input";
                return Err(io::Error::other(words));
            }
            let modified = about.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
            let mut head = Vec::new();
            file.take(HEAD_BYTES).read_to_end(&mut head)?;
            Ok(Fingerprint {
                bytes: about.len(),
                modified_ns: modified.as_nanos() as u64,
                head: xxhash_rust::xxh3::xxh3_64(&head),
            })
        };
        read().map_err(BulkError::file(path))
    }
}
