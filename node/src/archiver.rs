//! Trims the log: archives what it needs no longer, then has it forgotten.
//!
//! A segment is trimmed when each of its records is before the older of the two snapshots that
//! are kept of its shard, and it is in the archive. Nothing else holds it back: every shard is
//! saved after so much of the shared log, idle or not, and whoever reads the log and is slower
//! than that reads the archive.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Weak};
use std::time::Duration;

use model::{Offset, ShardId};
use mq::{Archive, ArchiveDisk, ArchiveError, DirectoryKey, Disk, LocalReader, LogError};

use crate::commit::Job;
use crate::threads::{self, Priority};

/// The default's name in a data directory.
const BESIDE: &str = "archive";
/// After the archive failed, it is tried again so much later.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// Where segments go that the log needs no longer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ArchiveLocation {
    /// A directory beside the log.
    #[default]
    Beside,
    /// A path, or a URL: `s3://bucket/path`, `file:///path`.
    At(String),
    /// Nowhere: what is trimmed is gone.
    Discard,
}

impl ArchiveLocation {
    /// `discard`, a path or a URL.
    pub fn parse(text: &str) -> ArchiveLocation {
        match text {
            "discard" => ArchiveLocation::Discard,
            _ => ArchiveLocation::At(text.to_string()),
        }
    }

    /// Opens it for the data directory `data`, encrypted if that has a key. S3's settings come
    /// from the environment. `None`: nothing is kept.
    pub(crate) fn open(
        &self,
        data: &Path,
        key: Option<DirectoryKey>,
    ) -> Result<Option<Arc<Archive>>, ArchiveError> {
        let archive = match self {
            ArchiveLocation::Beside => Archive::directory(&data.join(BESIDE))?,
            ArchiveLocation::At(url) if url.contains("://") => Archive::at(url, std::env::vars())?,
            ArchiveLocation::At(path) => Archive::directory(Path::new(path))?,
            ArchiveLocation::Discard => return Ok(None),
        };
        Ok(Some(Arc::new(archive.with_key(key))))
    }
}

/// What was trimmed since the start.
#[derive(Debug, Default)]
pub struct TrimFigures {
    segments: AtomicU64,
    archived_bytes: AtomicU64,
    failed: AtomicU64,
}

impl TrimFigures {
    /// Segments that were trimmed.
    pub fn segments(&self) -> u64 {
        self.segments.load(Relaxed)
    }

    /// Bytes that the archive took for them.
    pub fn archived_bytes(&self) -> u64 {
        self.archived_bytes.load(Relaxed)
    }

    /// Times the archive failed.
    pub fn failed(&self) -> u64 {
        self.failed.load(Relaxed)
    }
}

/// The thread that archives and trims. It ends when all senders of what may be trimmed are gone.
pub(crate) struct Archiver {
    pub(crate) archive: Option<Arc<Archive>>,
    /// The log's directory, to read from.
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) log: Weak<Sender<Job>>,
    pub(crate) figures: Arc<TrimFigures>,
}

/// By shard, the offset before which nothing is needed.
pub(crate) type Before = Vec<(ShardId, Offset)>;

impl Archiver {
    /// Starts it. Nobody waits for its end: a store may take long to answer, and what it does is
    /// whole or nothing.
    pub(crate) fn spawn(self) -> std::io::Result<Sender<Before>> {
        let (sender, trimmable) = channel();
        let run = move || self.run(&trimmable);
        drop(threads::spawn("crest-archive", Priority::Background, run)?);
        Ok(sender)
    }

    fn run(self, trimmable: &Receiver<Before>) {
        let mut next = trimmable.recv().ok();
        while let Some(before) = next.take() {
            // The newest says all that the others do.
            let before = trimmable.try_iter().last().unwrap_or(before);
            next = match self.trim(&before) {
                Ok(()) => trimmable.recv().ok(),
                Err(error) => {
                    tracing::warn!(%error, "nothing is trimmed until the archive works again");
                    self.figures.failed.fetch_add(1, Relaxed);
                    match trimmable.recv_timeout(AFTER_FAILURE) {
                        Ok(newer) => Some(newer),
                        Err(RecvTimeoutError::Timeout) => Some(before),
                        Err(RecvTimeoutError::Disconnected) => None,
                    }
                }
            };
        }
    }

    fn trim(&self, before: &Before) -> Result<(), ArchiveError> {
        let (answer, answered) = channel();
        let ask = |job| self.log.upgrade().is_some_and(|log| log.send(job).is_ok());
        if !ask(Job::Trimmable(before.clone(), answer)) {
            return Ok(()); // The log has ended.
        }
        let Ok(segments) = answered.recv() else { return Ok(()) };
        for segment in segments {
            if let Some(archive) = &self.archive {
                let archived = archive.put(&*self.disk, &segment)?;
                self.figures.archived_bytes.fetch_add(archived.stored_bytes, Relaxed);
            }
            self.figures.segments.fetch_add(1, Relaxed);
            ask(Job::Trim(segment));
        }
        Ok(())
    }
}

/// What an archive holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArchiveFigures {
    /// Segments.
    pub segments: u64,
    /// Frames in them.
    pub frames: u64,
    /// Records in those.
    pub records: u64,
    /// Bytes of the log.
    pub bytes: u64,
    /// Bytes that the archive takes for them.
    pub stored_bytes: u64,
    /// What is wrong, if anything is. What was counted is what is before it.
    pub problem: Option<String>,
}

/// Reads all of an archive: every piece must be what was hashed, and every frame follow its
/// shard's last.
pub fn verify_archive(archive: Arc<Archive>) -> Result<ArchiveFigures, ArchiveError> {
    let mut figures = ArchiveFigures::default();
    for index in archive.segments()? {
        match archive.segment(index) {
            Ok(segment) => {
                figures.segments += 1;
                figures.stored_bytes += segment.map_or(0, |segment| segment.stored_bytes);
            }
            Err(error @ (ArchiveError::Store { .. } | ArchiveError::NeedsKey { .. })) => {
                return Err(error);
            }
            Err(error) => {
                figures.problem = Some(error.to_string());
                return Ok(figures);
            }
        }
    }
    let read = || -> Result<(), LogError> {
        let mut reader = LocalReader::whole(Arc::new(ArchiveDisk(archive)))?;
        while let Some((_, frame)) = reader.next_frame()? {
            figures.records += u64::from(frame.header.count.get());
        }
        (figures.frames, figures.bytes) = (reader.stats().frames, reader.stats().bytes);
        Ok(())
    };
    if let Err(error) = read() {
        figures.problem = Some(error.to_string());
    }
    Ok(figures)
}
