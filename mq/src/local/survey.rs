//! Finds out which parts of which segments are the log. Changes nothing.
//!
//! The newest segment with a valid first write is the last one, and the log ends at its first
//! invalid write. Going back, each segment's first write names where the write before it ends:
//! that is the end of the segment before, whatever stands behind it, and segments that this
//! passes over were superseded by a recovery. It stops at a write that names nothing before it,
//! or that names a segment which was trimmed.
//!
//! What stands behind the end is either a write that nobody was told of, torn or lost, or the
//! end isn't one: a write further on names it synced. Only the second is damage, and so every
//! block behind the end is looked at.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::aligned::{AlignedBuf, BLOCK_BYTES};
use crate::disk::Disk;
use crate::encrypted::Undecipherable;
use crate::local::layout::{
    BLOCK, Name, SEGMENT_BYTES_MAX, SegmentHeader, SegmentId, WriteHeader, segment_of_end,
};
use crate::local::open_segment;
use crate::local::scan::{GLANCE_BYTES, PIECE_BYTES, Scan, Step};
use crate::{Broken, Damage, LogError};

/// What a directory holds.
pub(super) struct Survey {
    /// Segments of the log, oldest first.
    pub live: Vec<Live>,
    /// The last valid write.
    pub last: Option<WriteHeader>,
    /// What stands behind the end and was never acknowledged.
    pub tail: Option<Tail>,
    /// Segments that are no part of the log: superseded, trimmed, or made ahead.
    pub unneeded: Vec<u32>,
    /// Files that were segments and may be again.
    pub spares: Vec<String>,
    /// Files that somebody began to make.
    pub unfinished: Vec<String>,
    /// Above every segment there is.
    pub next_index: u32,
    /// Above every counter there is.
    pub next_counter: u64,
    /// Size of the segments, unless there is none.
    pub segment_bytes: Option<u64>,
}

/// A segment of the log.
#[derive(Clone, Copy)]
pub(super) struct Live {
    pub id: SegmentId,
    /// Where its valid writes end.
    pub end: u64,
    /// The write that names the end; 0 for the last segment.
    pub named_at: u64,
    /// Where the segment before it ends; 0: the log begins here.
    pub before: u64,
}

/// An unacknowledged rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tail {
    pub position: u64,
    pub bytes: u64,
}

struct Surveyor {
    disk: Arc<dyn Disk>,
    /// All segments; `None` where the header can't be read.
    segments: BTreeMap<u32, Option<SegmentId>>,
    segment_bytes: Option<u64>,
    window: AlignedBuf,
    whole: bool,
}

/// Looks at everything; with `whole` also at segments that the log needs no longer, as far back
/// as there are any.
pub(super) fn survey(disk: &Arc<dyn Disk>, whole: bool) -> Result<Survey, LogError> {
    let mut surveyor = Surveyor {
        disk: disk.clone(),
        segments: BTreeMap::new(),
        segment_bytes: None,
        window: AlignedBuf::default(),
        whole,
    };
    let mut survey = Survey {
        live: Vec::new(),
        last: None,
        tail: None,
        unneeded: Vec::new(),
        spares: Vec::new(),
        unfinished: Vec::new(),
        next_index: 0,
        next_counter: 0,
        segment_bytes: None,
    };
    surveyor.list(&mut survey)?;
    let newest = surveyor.newest_written()?;
    let mut end = 0;
    if let Some((id, before)) = newest {
        let last = surveyor.last_write(id)?;
        end = last.position() + last.total();
        survey.live = surveyor.chain(Live { id, end, named_at: 0, before }, last.oldest())?;
        survey.last = Some(last);
    }
    survey.tail = surveyor.look_ahead(newest.map(|(id, _)| id), end)?;
    let live = &survey.live;
    survey.unneeded.extend(
        surveyor.segments.keys().filter(|index| live.iter().all(|l| l.id.index != **index)),
    );
    Ok(survey)
}

impl Surveyor {
    /// Sorts the files and reads the headers.
    fn list(&mut self, survey: &mut Survey) -> Result<(), LogError> {
        let mut names = self.disk.list().map_err(LogError::io("listing the log's directory"))?;
        names.sort_unstable();
        for name in names {
            match Name::parse(&name) {
                Name::Segment(index) => {
                    let header = self.header(&name)?;
                    survey.next_index = survey.next_index.max(index + 1);
                    survey.note_counter(header.as_ref());
                    let id = header.map(|h| h.id()).filter(|id| id.index == index);
                    self.note_segment_bytes(id)?;
                    self.segments.insert(index, id);
                }
                Name::New => survey.unfinished.push(name),
                Name::Spare => {
                    survey.note_counter(self.header(&name)?.as_ref());
                    survey.spares.push(name);
                }
                Name::Foreign => {}
            }
        }
        survey.segment_bytes = self.segment_bytes;
        Ok(())
    }

    fn header(&mut self, name: &str) -> Result<Option<SegmentHeader>, LogError> {
        let file = match self.disk.open(name) {
            Ok(file) => file,
            Err(error) if Undecipherable::of(&error).is_some() => return Ok(None),
            Err(error) => return Err(LogError::io("opening a segment")(error)),
        };
        self.window.grow(BLOCK_BYTES);
        let block = &mut self.window.bytes_mut()[..BLOCK_BYTES];
        let read = file.read_at(block, 0).map_err(LogError::io("reading a segment"))?;
        Ok(SegmentHeader::parse(&block[..read]))
    }

    /// All segments must be of one size, or positions mean nothing.
    fn note_segment_bytes(&mut self, id: Option<SegmentId>) -> Result<(), LogError> {
        let Some(id) = id else { return Ok(()) };
        if *self.segment_bytes.get_or_insert(id.segment_bytes) != id.segment_bytes {
            let what = Damage::SegmentHeader { index: id.index };
            return Err(LogError::Damage { position: id.base(), what });
        }
        Ok(())
    }

    fn scan(&mut self, id: SegmentId, piece_bytes: u64) -> Result<Scan, LogError> {
        let file = open_segment(&*self.disk, id)?;
        Scan::new(file, id, piece_bytes, std::mem::take(&mut self.window))
    }

    /// What the segment's first write names as the end before it, or why there is no such write.
    fn first_write(&mut self, id: SegmentId) -> Result<Result<u64, Broken>, LogError> {
        let mut scan = self.scan(id, GLANCE_BYTES)?;
        let step = scan.step()?;
        self.window = scan.into_window();
        Ok(match step {
            Step::Write(header, _) => Ok(header.synced()),
            Step::End(broken) => Err(broken),
        })
    }

    fn newest_written(&mut self) -> Result<Option<(SegmentId, u64)>, LogError> {
        let ids: Vec<SegmentId> = self.segments.values().rev().filter_map(|id| *id).collect();
        for id in ids {
            if let Ok(before) = self.first_write(id)? {
                return Ok(Some((id, before)));
            }
        }
        Ok(None)
    }

    fn last_write(&mut self, id: SegmentId) -> Result<WriteHeader, LogError> {
        let mut scan = self.scan(id, PIECE_BYTES)?;
        let mut last = None;
        while let Step::Write(header, _) = scan.step()? {
            last = Some(header);
        }
        self.window = scan.into_window();
        // Read a moment ago. A device that answers otherwise now is no ground to stand on.
        let what = Damage::SyncedWrite { named_at: 0, found: Broken::Header };
        last.ok_or(LogError::Damage { position: id.first(), what })
    }

    /// Goes back from the last segment to where the log begins or was trimmed.
    fn chain(&mut self, last: Live, oldest: u32) -> Result<Vec<Live>, LogError> {
        let segment_bytes = last.id.segment_bytes;
        let mut chain = vec![last];
        let mut newer = last;
        while newer.before != 0 {
            let (end, named_at) = (newer.before, newer.id.first());
            let index = segment_of_end(end, segment_bytes) as u32;
            if index < oldest && !(self.whole && self.segments.contains_key(&index)) {
                break;
            }
            let damage = |position, what| Err(LogError::Damage { position, what });
            let base = u64::from(index) * segment_bytes;
            let id = match self.segments.get(&index) {
                Some(Some(id)) => *id,
                Some(None) => return damage(base, Damage::SegmentHeader { index }),
                None => return damage(base, Damage::SegmentMissing { index }),
            };
            let before = match self.first_write(id)? {
                Ok(before) => before,
                Err(found) => {
                    return damage(id.first(), Damage::SyncedWrite { named_at, found });
                }
            };
            newer = Live { id, end, named_at, before };
            chain.push(newer);
        }
        chain.reverse();
        Ok(chain)
    }

    /// Looks at all that stands behind the log's `end`, in its last segment and in later ones.
    fn look_ahead(&mut self, last: Option<SegmentId>, end: u64) -> Result<Option<Tail>, LogError> {
        let first_index = last.map_or(0, |id| id.index);
        let behind: Vec<_> = self.segments.range(first_index..).map(|(i, id)| (*i, *id)).collect();
        let mut tail = None;
        for (index, id) in behind {
            // Without its header, a segment's writes still tell that they are of this segment.
            let Some(id) = id else {
                self.refuse_writes(index)?;
                continue;
            };
            let is_last = last == Some(id);
            let start = if is_last { end } else { id.first() };
            let mut scan = self.scan(id, PIECE_BYTES)?;
            scan.limit(start, id.limit());
            while let Some((position, block)) = scan.block()? {
                let header = WriteHeader::parse(block).filter(|h| h.belongs(id, position));
                if let Some(header) = header
                    && header.synced() > end
                {
                    scan.limit(start, id.limit());
                    let found = match scan.step()? {
                        Step::Write(..) => Broken::Order,
                        Step::End(broken) => broken,
                    };
                    let what = Damage::SyncedWrite { named_at: position, found };
                    return Err(LogError::Damage { position: start, what });
                }
                if position != start {
                    continue;
                }
                // What is only appended to is there as a whole or not at all.
                if self.disk.is_append_only() {
                    let found = if header.is_some() { Broken::Payload } else { Broken::Header };
                    let what = Damage::SyncedWrite { named_at: position, found };
                    return Err(LogError::Damage { position, what });
                }
                if WriteHeader::resembles(block, id, position) && tail.is_none() {
                    let bytes = header.map_or(BLOCK, |header| header.total());
                    tail = Some(Tail { position, bytes });
                }
            }
            self.window = scan.into_window();
        }
        Ok(tail)
    }

    /// A segment whose header can't be read is one that was never used, or damage.
    fn refuse_writes(&mut self, index: u32) -> Result<(), LogError> {
        let segment_bytes = self.segment_bytes;
        let size = segment_bytes.unwrap_or(SEGMENT_BYTES_MAX);
        let id = SegmentId { index, generation: 0, segment_bytes: size };
        let mut scan = self.scan(id, PIECE_BYTES)?;
        while let Some((position, block)) = scan.block()? {
            let Some(header) = WriteHeader::parse(block) else { continue };
            if segment_bytes.is_none() || header.position() == position {
                let what = Damage::SegmentHeader { index };
                return Err(LogError::Damage { position: id.base(), what });
            }
        }
        self.window = scan.into_window();
        Ok(())
    }
}

impl Survey {
    fn note_counter(&mut self, header: Option<&SegmentHeader>) {
        let above = header.map_or(0, |header| header.counter().saturating_add(1));
        self.next_counter = self.next_counter.max(above);
    }

    /// Where the log ends.
    pub fn end(&self) -> u64 {
        self.live.last().map_or(0, |live| live.end)
    }

    /// The oldest segment that the log needs.
    pub fn oldest(&self) -> u32 {
        self.last.map_or(0, |last| last.oldest())
    }
}
