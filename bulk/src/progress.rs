//! How far an import has come, in a file that outlives it.
//!
//! The file says up to which row everything was acknowledged, and what that came to. It also says
//! up to which row anything may have been *sent*: what comes back as `already_done` before that
//! may be this import's own doing from before it was ended, behind it it's somebody else's.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::BulkError;
use crate::reader::Place;
use crate::source::Fingerprint;
use crate::sums::Sums;

/// What is written down.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// `accounts` or `items`.
    pub(crate) table: String,
    /// The platform, as its URL named it.
    pub(crate) platform: String,
    pub(crate) source: Fingerprint,
    /// Everything before it was acknowledged.
    pub(crate) end: Place,
    /// Rows that may have been sent.
    pub(crate) sent: u64,
    pub(crate) came: Came,
    /// What the platform held before the first row; `None`: nobody looked.
    pub(crate) before: Option<Sums>,
}

/// What became of rows.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Came {
    /// Made by this import.
    pub(crate) new: Sums,
    /// There before, with the same content.
    pub(crate) found: Sums,
    /// There before too, but perhaps by a request of this import whose answer was lost.
    pub(crate) unsure: Sums,
    /// Refused by the platform.
    pub(crate) refused: u64,
    /// Not sent: something is wrong with them.
    pub(crate) set_aside: u64,
}

impl Came {
    pub(crate) fn add(&mut self, other: &Came) {
        self.new.add(&other.new);
        self.found.add(&other.found);
        self.unsure.add(&other.unsure);
        self.refused += other.refused;
        self.set_aside += other.set_aside;
    }
}

impl Progress {
    /// What the file says, if there is one and it is whole.
    pub(crate) fn read(path: &Path) -> Option<Progress> {
        sonic_rs::from_slice(&std::fs::read(path).ok()?).ok()
    }

    /// Replaces the file: whoever reads it finds the old one or the new one.
    pub(crate) fn write(&self, path: &Path) -> Result<(), BulkError> {
        let text = sonic_rs::to_vec(self).expect("numbers and words");
        let new = new_name(path);
        std::fs::write(&new, text).map_err(BulkError::file(&new))?;
        std::fs::rename(&new, path).map_err(BulkError::file(path))
    }
}

fn new_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(".new");
    name.into()
}
