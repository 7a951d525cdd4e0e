//! Events of some writes, made once for everybody who reads them.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use jiff::Timestamp;
use model::event::{EventId, EventType, Mention, Subject, for_each_event};
use model::frame::Frame;
use model::json::encode::JsonWriter;
use model::json::event::EventPlace;
use model::{ItemId, OrderId, Party, Realm};
use mq::LogWrite;

use super::start::{Skip, Skipped};
use super::{EventFilter, FeedError};

/// Buffers that are kept for the next chunks: fresh memory costs more than what is written to it.
const SPARE_MAX: usize = 16;
/// Larger ones aren't kept.
const SPARE_BYTES_MAX: usize = 4 << 20;

/// An event in a chunk.
#[derive(Clone, Debug)]
pub struct FeedEvent {
    /// Where it is.
    pub id: EventId,
    /// Trade or rehearsal.
    pub realm: Realm,
    /// What happened.
    pub event_type: EventType,
    /// Whose it is.
    pub subject: Subject,
    /// Who else's it is: whose account a transfer or a capture credits.
    pub credited: Option<Party>,
    /// The order that it changes, of which its record says nothing more.
    pub changed_order: Option<OrderId>,
    items: Range<u32>,
    sellers: Range<u32>,
    json: Range<u32>,
}

/// What was written to the log between two positions.
pub struct FeedChunk {
    /// Where it begins and ends in the log.
    pub positions: Range<u64>,
    buffers: Buffers,
    /// Whether there are events, and not only frames.
    pub(super) has_json: bool,
    spare: Arc<Spare>,
}

#[derive(Default)]
struct Buffers {
    frames: Vec<u8>,
    json: Vec<u8>,
    events: Vec<FeedEvent>,
    items: Vec<ItemId>,
    sellers: Vec<Party>,
    /// Events of trade and of rehearsal.
    of_realm: [usize; 2],
}

/// Memory of chunks that nobody reads any more.
#[derive(Default)]
pub(super) struct Spare(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    buffers: Vec<Buffers>,
    /// Somebody reads.
    is_wanted: bool,
}

impl Spare {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().expect("nothing panics while it holds the lock")
    }

    fn take(&self) -> Buffers {
        self.kept().buffers.pop().unwrap_or_default()
    }

    fn give(&self, mut buffers: Buffers) {
        buffers.frames.clear();
        buffers.json.clear();
        buffers.events.clear();
        buffers.items.clear();
        buffers.sellers.clear();
        buffers.of_realm = [0; 2];
        let bytes = buffers.frames.capacity() + buffers.json.capacity();
        let mut kept = self.kept();
        if kept.is_wanted && bytes <= SPARE_BYTES_MAX && kept.buffers.len() < SPARE_MAX {
            kept.buffers.push(buffers);
        }
    }

    /// Whether any are kept.
    pub(super) fn keep(&self, is_wanted: bool) {
        let mut kept = self.kept();
        kept.is_wanted = is_wanted;
        let old = if is_wanted { Vec::new() } else { std::mem::take(&mut kept.buffers) };
        drop(kept);
        drop(old);
    }
}

impl Drop for FeedChunk {
    fn drop(&mut self) {
        self.spare.give(std::mem::take(&mut self.buffers));
    }
}

impl FeedChunk {
    /// Its frames, back to back, as the log has them.
    pub fn frames(&self) -> &[u8] {
        &self.buffers.frames
    }

    /// Its events as lines of JSON.
    pub fn json(&self) -> &[u8] {
        &self.buffers.json
    }

    /// Its events, in the order of the log.
    pub fn events(&self) -> &[FeedEvent] {
        &self.buffers.events
    }

    /// Whether all events are of this realm.
    pub fn is_of(&self, realm: Realm) -> bool {
        self.buffers.of_realm[realm as usize] == self.buffers.events.len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.buffers.frames.is_empty() && self.buffers.events.is_empty()
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.buffers.frames.len() + self.buffers.json.len()
    }

    /// An event as a line of JSON, with its end.
    pub fn line(&self, event: &FeedEvent) -> &[u8] {
        &self.buffers.json[event.json.start as usize..event.json.end as usize]
    }

    /// The items that an event's record names.
    pub fn items(&self, event: &FeedEvent) -> &[ItemId] {
        &self.buffers.items[event.items.start as usize..event.items.end as usize]
    }

    /// The sellers that an event's record names.
    pub fn sellers(&self, event: &FeedEvent) -> &[Party] {
        &self.buffers.sellers[event.sellers.start as usize..event.sellers.end as usize]
    }
}

/// Makes chunks of frames.
pub(super) struct Chunks {
    /// Whose events they are.
    pub(super) source: Arc<str>,
    spare: Arc<Spare>,
}

impl Chunks {
    pub(super) fn new(source: Arc<str>, spare: Arc<Spare>) -> Chunks {
        Chunks { source, spare }
    }

    /// One to which nothing was added yet.
    pub(super) fn begin(&self, position: u64, json: bool) -> FeedChunk {
        let (buffers, spare) = (self.spare.take(), self.spare.clone());
        FeedChunk { positions: position..position, buffers, has_json: json, spare }
    }

    /// Makes events of the frames that `frames` consists of, and takes its memory for other
    /// memory.
    pub(super) fn of_frames(
        &self,
        positions: Range<u64>,
        frames: &mut Vec<u8>,
        json: bool,
    ) -> Result<FeedChunk, FeedError> {
        let mut chunk = self.begin(positions.start, json);
        std::mem::swap(&mut chunk.buffers.frames, frames);
        chunk.positions = positions;
        if json {
            let bytes = std::mem::take(&mut chunk.buffers.frames);
            let read = self.add_events(&mut chunk, &bytes, None, &mut None);
            chunk.buffers.frames = bytes;
            read?;
        }
        Ok(chunk)
    }

    /// Adds a write: the events that a reader may want, or the frames.
    pub(super) fn add(
        &self,
        chunk: &mut FeedChunk,
        write: &LogWrite<'_>,
        filter: Option<&EventFilter>,
        skip: &mut Option<Skip>,
    ) -> Result<(), FeedError> {
        chunk.positions.end = write.positions.end;
        let mut frames = write.frames;
        if chunk.has_json {
            self.add_events(chunk, frames, filter, skip)?;
            // Who has a filter reads for itself, and wants events alone.
            if filter.is_some() {
                return Ok(());
            }
        }
        while let Some(skipping) = skip
            && !frames.is_empty()
        {
            let (frame, rest) = split(frames, write.positions.start)?;
            let skipped = skipping.of(&frame)?;
            if skipped != Skipped::No {
                frames = rest;
            }
            if skipped != Skipped::Whole {
                *skip = None;
            }
        }
        chunk.buffers.frames.extend_from_slice(frames);
        Ok(())
    }

    fn add_events(
        &self,
        chunk: &mut FeedChunk,
        mut frames: &[u8],
        filter: Option<&EventFilter>,
        skip: &mut Option<Skip>,
    ) -> Result<(), FeedError> {
        let position = chunk.positions.start;
        let unreadable = |what: String| FeedError::Unreadable { position, what };
        let buffers = &mut chunk.buffers;
        let mut json = JsonWriter::new(std::mem::take(&mut buffers.json));
        while !frames.is_empty() {
            let (frame, rest) = split(frames, position)?;
            frames = rest;
            let place = frame.place();
            let mut first = None;
            if let Some(skipping) = skip {
                match skipping.of(&frame)? {
                    Skipped::Whole => continue,
                    Skipped::Last => {
                        *skip = None;
                        continue;
                    }
                    Skipped::No => first = Some(skipping.first()),
                }
                *skip = None;
            }
            let time = Timestamp::from_microsecond(place.time.0 as i64);
            let time = time.map(|time| format!("{time:.6}")).unwrap_or_default();
            let source = &*self.source;
            for (offset, record) in (place.first_offset.0..).zip(frame.records()) {
                let record = record.map_err(|error| unreadable(error.to_string()))?;
                let offset = model::Offset(offset);
                let of_record = EventPlace { source, time: &time, shard: place.shard, offset };
                let realm = record.realm();
                for_each_event(&record, |event| {
                    let id = EventId { shard: place.shard, offset, part: event.part };
                    if first.is_some_and(|first| id < first)
                        || filter.is_some_and(|filter| !filter.may_want(realm, &event))
                    {
                        return;
                    }
                    let items = buffers.items.len() as u32;
                    let sellers = buffers.sellers.len() as u32;
                    event.for_each_mention(|mention| match mention {
                        Mention::Item(item) => buffers.items.push(item),
                        Mention::Seller(seller) => buffers.sellers.push(seller),
                    });
                    let start = json.length() as u32;
                    json.event(&event, &of_record);
                    json.end_line();
                    buffers.of_realm[realm as usize] += 1;
                    buffers.events.push(FeedEvent {
                        id,
                        realm,
                        event_type: event.event_type,
                        subject: event.subject,
                        credited: event.credited(),
                        changed_order: event.order().filter(|_| event.is_order_change()),
                        items: items..buffers.items.len() as u32,
                        sellers: sellers..buffers.sellers.len() as u32,
                        json: start..json.length() as u32,
                    });
                });
            }
        }
        buffers.json = json.finish();
        Ok(())
    }
}

fn split(frames: &[u8], position: u64) -> Result<(Frame<'_>, &[u8]), FeedError> {
    let unreadable = |what: String| FeedError::Unreadable { position, what };
    Frame::split(frames).map_err(|error| unreadable(error.to_string()))
}
