//! Where a reader of the feed begins.

use model::event::EventId;
use model::frame::Frame;
use model::{Offset, Time};

use super::history::{PAUSE, Seen, Source, TRIES, first_time};
use super::{FeedError, FeedWish};

/// Where a reader begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedStart {
    /// With the oldest event that the log or its archive keeps.
    Earliest,
    /// With what happens from now on.
    Now,
    /// With the first event of this time or later, and all that stand behind it. The clocks of
    /// shards differ by a little, so some of these may be a little older. Where a clock was set back
    /// by more than a minute, events of that time may be left out.
    At(Time),
    /// With this event, or the first one behind it.
    From(EventId),
    /// Behind this event.
    After(EventId),
}

/// How much clocks of shards may differ for [`FeedStart::At`].
const CLOCKS_DIFFER_US: u64 = 60_000_000;

/// Records that stand before a reader's first one in the same write, or before in the log.
#[derive(Clone, Copy, Debug)]
pub(super) enum Skip {
    /// All before this event.
    Before(EventId),
    /// Frames up to the one that ends with this record. One that goes on behind it isn't skipped.
    UpTo(EventId),
    /// Frames before this time.
    Older(Time),
}

/// What is skipped of a frame, and behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Skipped {
    /// All of it, and more.
    Whole,
    /// All of it, and no more.
    Last,
    /// It holds the first record that isn't skipped.
    No,
}

impl Skip {
    /// What is skipped of a frame.
    pub(super) fn of(&self, frame: &Frame<'_>) -> Result<Skipped, FeedError> {
        let place = frame.place();
        let (Skip::Before(id) | Skip::UpTo(id)) = self else {
            let Skip::Older(time) = self else { return Ok(Skipped::No) };
            return Ok(if place.time >= *time { Skipped::No } else { Skipped::Whole });
        };
        if place.shard != id.shard || frame.next_offset() <= id.offset {
            return Ok(Skipped::Whole);
        }
        // A shard's offsets have no gaps: what should stand before this frame isn't there.
        if place.first_offset > id.offset.max(Offset(1)) {
            return Err(FeedError::Trimmed);
        }
        let is_last = frame.next_offset().0 == id.offset.0 + 1;
        Ok(if matches!(self, Skip::UpTo(_)) && is_last { Skipped::Last } else { Skipped::No })
    }

    /// The first event of that frame that isn't skipped.
    pub(super) fn first(&self) -> EventId {
        match self {
            Skip::Before(id) => *id,
            Skip::UpTo(_) | Skip::Older(_) => EventId::default(),
        }
    }
}

/// What was found.
pub(super) struct Begin {
    pub position: u64,
    pub skip: Option<Skip>,
    /// Where the log ends.
    pub end: u64,
}

/// Finds the position of a start.
pub(super) fn find(source: &Source, wish: &FeedWish) -> Result<Begin, FeedError> {
    match wish.start {
        FeedStart::Earliest => {
            let Seen { segments, end, .. } = source.look(None)?;
            let archived = source.archived_before(&segments)?.first().copied();
            let archived = archived.map(|index| source.archived(index)).transpose()?;
            let first = archived.as_ref().or(segments.first()).ok_or(FeedError::Stopped)?;
            Ok(Begin { position: first.start().min(end), skip: None, end })
        }
        FeedStart::Now => {
            let end = source.look(None)?.end;
            Ok(Begin { position: end, skip: None, end })
        }
        FeedStart::At(time) => {
            let mut tried = 0;
            loop {
                match at(source, time) {
                    // A segment was trimmed while it was looked at.
                    Err(FeedError::Log(_)) if tried < TRIES => tried += 1,
                    found => return found,
                }
                std::thread::sleep(PAUSE);
            }
        }
        FeedStart::From(id) => from(source, id, Skip::Before(id)),
        // Frames come whole, so they go on with the next one in the log, whose ever that is.
        FeedStart::After(id) if !wish.json => from(source, id, Skip::UpTo(id)),
        FeedStart::After(id) => {
            let next = EventId { part: id.part.saturating_add(1), ..id };
            from(source, id, Skip::Before(next))
        }
    }
}

/// At the record of `id`, of which something is skipped.
fn from(source: &Source, id: EventId, skip: Skip) -> Result<Begin, FeedError> {
    let EventId { shard, offset, .. } = id;
    if shard.0 >= source.shards {
        return Err(FeedError::NoShard { shard, shards: source.shards });
    }
    let offset = offset.max(Offset(1));
    let Seen { end, sought, .. } = source.look(Some((shard, offset)))?;
    let (next, position) = sought.ok_or(FeedError::Stopped)?;
    let position = match position {
        Ok(Some(position)) => position,
        Ok(None) => return Err(FeedError::NotYet { shard, offset, next }),
        Err(mq::LogError::Trimmed { .. }) => {
            let archive = source.archive.as_ref().ok_or(FeedError::Trimmed)?;
            archive.seek(shard, offset)?.ok_or(FeedError::Trimmed)?
        }
        Err(error) => return Err(error.into()),
    };
    let skip = (offset < next).then_some(skip);
    Ok(Begin { position, skip, end })
}

/// In the last segment that begins well before a time.
fn at(source: &Source, time: Time) -> Result<Begin, FeedError> {
    let now = std::time::UNIX_EPOCH.elapsed().map_or(u64::MAX, |now| now.as_micros() as u64);
    if time.0 > now.saturating_add(CLOCKS_DIFFER_US) {
        return Err(FeedError::NotNow);
    }
    let Seen { segments: live, end, .. } = source.look(None)?;
    let archived = source.archived_before(&live)?;
    let count = archived.len() + live.len();
    let segment = |number: usize| match archived.get(number) {
        Some(index) => source.archived(*index),
        None => Ok(live[number - archived.len()]),
    };
    let well_before = Time(time.0.saturating_sub(CLOCKS_DIFFER_US));
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = (low + high) / 2;
        let first = first_time(source, &segment(middle)?)?;
        // One without frames tells nothing, and only the last one can be so.
        if first.is_some_and(|first| first < well_before) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    let position = segment(low.saturating_sub(1))?.start().min(end);
    Ok(Begin { position, skip: Some(Skip::Older(time)), end })
}
