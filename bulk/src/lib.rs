//! Import and export: accounts and items from CSV or PostgreSQL into a running platform, and back.
//!
//! An [`import()`] is a client like any other. It sends rows in batches over the paths that
//! anybody may use, where the same row again is `already_done`; so it can be sent again after
//! whatever happened, and a progress file is only there to save the time. An [`export()`] pages
//! through the lists that anybody may read.
//!
//! A [`shadow()`] mirrors what a shop asked its own system, and compares the answers.
//!
//! Import and export end with sums: how many rows there are, and what their amounts come to, by currency. After
//! an import the source's are held against what the platform then holds, which is read back, and
//! after an export what was written is read again.

mod export;
mod fields;
mod held;
mod import;
mod postgres;
mod progress;
mod reader;
mod sender;
mod shadow;
mod source;
mod sums;
mod table;

pub use export::{ExportOptions, Exported, Output, export};
pub use import::{ImportOptions, Imported, check, import};
pub use reader::RowError;
pub use shadow::{Day, Days, ShadowOptions, shadow};
pub use source::Input;
pub use sums::{Sum, Sums};
pub use table::Table;

use std::io;
use std::path::PathBuf;

/// Why an import or an export ended before it could say what came of it. Nothing that was
/// acknowledged is lost: beginning again goes on.
#[derive(Debug, thiserror::Error)]
pub enum BulkError {
    /// A row of the source can't be taken.
    #[error(transparent)]
    Row(#[from] RowError),
    /// A row that the platform refused.
    #[error("{source_name}, line {line}: refused: {outcome} ({why})")]
    Refused {
        /// Where it is from.
        source_name: String,
        /// Its line.
        line: u64,
        /// What the platform said.
        outcome: &'static str,
        /// What that means.
        why: String,
    },
    /// A line of the source is none.
    #[error("{source_name}, line {number}: {why}")]
    Line {
        /// Where it is from.
        source_name: String,
        /// Which.
        number: u64,
        /// What is wrong with it.
        why: String,
    },
    /// A file.
    #[error("{}: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        error: io::Error,
    },
    /// The source could not be read on.
    #[error("{name}: {error}")]
    Source {
        /// Which.
        name: String,
        /// What is wrong with it.
        error: io::Error,
    },
    /// PostgreSQL.
    #[error("PostgreSQL: {0}")]
    Postgres(String),
    /// The platform answers in a way that trying again doesn't help.
    #[error("the platform answers {status}: {body}")]
    Answer {
        /// HTTP status.
        status: u16,
        /// The beginning of the answer.
        body: String,
    },
    /// The platform couldn't be reached, or was busy, for as long as that was borne.
    #[error("the platform took nothing for {0:?}: {1}")]
    Gone(std::time::Duration, String),
    /// The answer is none that is understood here.
    #[error("the platform's answer isn't understood: {0}")]
    NotUnderstood(String),
    /// It was told to stop.
    #[error("stopped; what was acknowledged stays, and beginning again goes on from there")]
    Stopped,
}

impl BulkError {
    fn file(path: &std::path::Path) -> impl FnOnce(io::Error) -> BulkError {
        let path = path.to_path_buf();
        move |error| BulkError::File { path, error }
    }
}

/// The beginning of an answer, for people.
fn beginning(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(300)]).into_owned()
}
