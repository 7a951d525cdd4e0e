//! Puts archived segments in the place of local ones that are damaged.
//!
//! A segment is archived before it is forgotten, so for a while it is in both places; after a
//! crash between the two, or where an older copy of the directory was put back, for longer. A
//! damaged one of these needs nobody's help. First the log is read to its end with the archive's
//! copies in place of what is damaged: they must be of the same generation, as far as the local
//! ones still say, and lead on to what follows, frame by frame. Only then is anything changed.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::aligned::AlignedBuf;
use crate::archive::{Archive, ArchiveDisk, UnionDisk};
use crate::disk::Disk;
use crate::local::layout::{new_name, segment_name};
use crate::local::{LocalReader, segment_header};
use crate::{Damage, LogError};

/// Bytes that are copied at once.
const PIECE_BYTES: u64 = 1 << 20;

/// What would make a damaged log whole.
pub struct Repair {
    disk: Arc<dyn Disk>,
    archived: Arc<ArchiveDisk>,
    /// By segment, the position of its damage.
    damaged: Vec<(u32, u64)>,
}

impl Repair {
    /// Finds out whether the archive can make a log whole that was found damaged; `None` if it
    /// can't. Changes nothing.
    pub fn plan(
        disk: &Arc<dyn Disk>,
        archive: &Arc<Archive>,
        segment_bytes: u64,
        found: &LogError,
    ) -> Result<Option<Repair>, LogError> {
        // Whoever keeps such a disk keeps copies of it.
        if disk.is_append_only() {
            return Ok(None);
        }
        let archived = Arc::new(ArchiveDisk(archive.clone()));
        let mut repair = Repair { disk: disk.clone(), archived, damaged: Vec::new() };
        let Some(damage) = place(found, segment_bytes) else { return Ok(None) };
        let mut next = Some(damage);
        while let Some((index, position)) = next {
            let is_known = repair.damaged.iter().any(|(known, _)| *known == index);
            if is_known || !repair.has(archive, index)? {
                return Ok(None);
            }
            repair.damaged.push((index, position));
            next = match repair.read() {
                Ok(()) => None,
                Err(error) => match place(&error, segment_bytes) {
                    Some(damage) => Some(damage),
                    None => return Err(error),
                },
            };
        }
        Ok(Some(repair))
    }

    /// The segments that are damaged, and the positions at which that was found.
    pub fn damaged(&self) -> &[(u32, u64)] {
        &self.damaged
    }

    /// Replaces them, durably.
    pub fn run(self) -> Result<(), LogError> {
        let io = LogError::io;
        for (index, _) in &self.damaged {
            let (name, new) = (segment_name(*index), new_name(*index));
            let from = self.archived.open(&name).map_err(io("opening an archived segment"))?;
            let length = from.len().map_err(io("asking a segment's length"))?;
            let to = self.disk.create(&new, 0).map_err(io("making a segment"))?;
            let mut buffer = AlignedBuf::new(PIECE_BYTES as usize);
            let mut position = 0;
            while position < length {
                let piece = &mut buffer.bytes_mut()[..PIECE_BYTES.min(length - position) as usize];
                let read = from.read_at(piece, position);
                let read = read.map_err(io("reading an archived segment"))?;
                if read != piece.len() {
                    let gone = std::io::ErrorKind::UnexpectedEof.into();
                    return Err(io("reading an archived segment")(gone));
                }
                to.write_at(piece, position).map_err(io("writing"))?;
                position += read as u64;
            }
            to.sync().map_err(io("syncing"))?;
            self.disk.rename(&new, &name).map_err(io("renaming a segment"))?;
        }
        self.disk.sync_dir().map_err(io("syncing the log's directory"))
    }

    /// Whether the archive has what this segment was, as far as that can still be told.
    fn has(&self, archive: &Archive, index: u32) -> Result<bool, LogError> {
        let found = archive.segment(index).map_err(std::io::Error::other);
        let Some(found) = found.map_err(LogError::io("looking into the archive"))? else {
            return Ok(false);
        };
        let local = segment_header(&*self.disk, &segment_name(index))?;
        Ok(local.is_none_or(|header| header.id() == found.id()))
    }

    /// Reads the log as it would be.
    fn read(&self) -> Result<(), LogError> {
        let names: BTreeSet<String> =
            self.damaged.iter().map(|(index, _)| segment_name(*index)).collect();
        let union = UnionDisk::with(self.disk.clone(), self.archived.clone(), names);
        let mut reader = LocalReader::open(Arc::new(union))?;
        while reader.next_frame()?.is_some() {}
        Ok(())
    }
}

/// The segment that damage was found in, and where.
fn place(error: &LogError, segment_bytes: u64) -> Option<(u32, u64)> {
    let LogError::Damage { position, what } = error else { return None };
    let index = match what {
        Damage::SegmentMissing { index } | Damage::SegmentHeader { index } => *index,
        _ => (position / segment_bytes) as u32,
    };
    Some((index, *position))
}
