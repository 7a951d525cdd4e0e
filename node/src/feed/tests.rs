//! A log thread that appends faster than anybody can make events of it.

use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};

use model::frame::{Frame, FrameBuilder, FramePlace};
use model::record::{CommandBuffer, RULE_VERSION, set_outcome};
use model::{Amount, Currency, Epoch, Offset, Outcome, Party, ShardId, Time};
use mq::{Disk, FaultyDisk, LocalConfig, LocalLog};
use tokio::sync::mpsc::unbounded_channel;

use super::{EventFilter, Feed, FeedError, FeedReader, FeedStart, FeedWish};
use crate::commit::{Group, Job};
use crate::{LogThread, Placement, Stages};

struct Scene {
    feed: Feed,
    thread: LogThread,
    /// What the next frame of the one shard follows.
    next: Mutex<(u64, u64)>,
}

impl Scene {
    fn new(most_readers: usize) -> Scene {
        let disk: Arc<dyn Disk> = Arc::new(FaultyDisk::new());
        let config = LocalConfig { segment_bytes: 4 << 20, ..LocalConfig::default() };
        let (log, _) = LocalLog::open(disk.clone(), config).unwrap();
        let thread = LogThread::spawn(log, Stages::new().log(), LocalLog::close).unwrap();
        let placement = Placement::new(1, 1, 7);
        let feed = Feed::start(&thread.jobs(), (disk, None), &placement, most_readers).unwrap();
        Scene { feed, thread, next: Mutex::new((1, 0)) }
    }

    fn reader(&self, start: FeedStart, json: bool) -> FeedReader {
        let wish = FeedWish { start, ends: false, filter: EventFilter::all(), json };
        self.feed.read(wish).unwrap()
    }

    /// Appends frames of so many records, one at a time, and waits for the last.
    fn append(&self, frames: u64, records: u64) {
        let (done, mut durable) = unbounded_channel();
        let jobs: Arc<Sender<Job>> = self.thread.jobs();
        let mut next = self.next.lock().unwrap();
        for _ in 0..frames {
            let (first_offset, previous) = *next;
            let mut builder = FrameBuilder::default();
            for offset in first_offset..first_offset + records {
                let mut commands = CommandBuffer::default();
                commands.create_account(Party(offset), Currency::GBP, Amount(1));
                let record = builder.push(commands.bytes());
                set_outcome(record, Outcome::Ok, 0, 0, 1);
            }
            let place = FramePlace {
                shard: ShardId(0),
                epoch: Epoch(1),
                first_offset: Offset(first_offset),
                time: Time(1_700_000_000_000_000),
                previous,
            };
            let (frame, hash) = builder.finish(place, RULE_VERSION);
            *next = (first_offset + records, hash);
            jobs.send(Job::Append(Group { frames: vec![frame], records, done: done.clone() }))
                .unwrap();
        }
        for _ in 0..frames {
            durable.blocking_recv().unwrap();
        }
    }

    fn end(self) {
        let Scene { feed, thread, .. } = self;
        drop(feed);
        assert!(thread.join().failed.is_none());
    }
}

/// Offsets of a reader's events, or of the records in its frames, up to `last`.
fn offsets(mut reader: FeedReader, json: bool, last: u64) -> Vec<u64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let patience = std::time::Duration::from_secs(60);
    let mut seen: Vec<u64> = Vec::new();
    while seen.last() != Some(&last) {
        let next = runtime.block_on(async { tokio::time::timeout(patience, reader.next()).await });
        let chunk = next.expect("nothing comes any more").unwrap().unwrap();
        if json {
            seen.extend(chunk.events().iter().map(|event| event.id.offset.0));
            let lines = chunk.json().iter().filter(|byte| **byte == b'\n').count();
            assert_eq!(lines, chunk.events().len());
            continue;
        }
        let mut rest = chunk.frames();
        while !rest.is_empty() {
            let (frame, after) = Frame::split(rest).unwrap();
            seen.extend(frame.place().first_offset.0..frame.next_offset().0);
            rest = after;
        }
    }
    seen
}

#[test]
fn what_the_tail_misses_is_read_from_the_log() {
    for round in 0..5 {
        let scene = Scene::new(8);
        scene.append(3, 10);
        let now = [scene.reader(FeedStart::Now, true), scene.reader(FeedStart::Now, false)];
        let all =
            [scene.reader(FeedStart::Earliest, true), scene.reader(FeedStart::Earliest, false)];
        // Bursts that end while the tail is behind: nothing comes after to tell of what was missed.
        scene.append(40 + round, 5_000);
        let last = 30 + (40 + round) * 5_000;
        let [a, b] = now;
        assert_eq!(offsets(a, true, last), (31..=last).collect::<Vec<_>>(), "events from now");
        assert_eq!(offsets(b, false, last), (31..=last).collect::<Vec<_>>(), "frames from now");
        let [a, b] = all;
        assert_eq!(offsets(a, true, last), (1..=last).collect::<Vec<_>>(), "all events");
        assert_eq!(offsets(b, false, last), (1..=last).collect::<Vec<_>>(), "all frames");
        assert!(scene.feed.figures().missed > 0, "the tail kept up: the test shows nothing");
        scene.end();
    }
}

#[test]
fn places_are_free_again_and_the_tail_is_empty_without_readers() {
    let scene = Scene::new(2);
    scene.append(2, 10);
    let readers = [scene.reader(FeedStart::Now, true), scene.reader(FeedStart::Earliest, false)];
    let wish =
        FeedWish { start: FeedStart::Now, ends: false, filter: EventFilter::all(), json: false };
    let refused = scene.feed.read(wish.clone());
    assert!(matches!(refused, Err(FeedError::TooManyReaders { most: 2 })));
    drop(readers);
    for _ in 0..5 {
        let ends = FeedWish { start: FeedStart::Earliest, ends: true, ..wish.clone() };
        let mut reader = scene.feed.read(ends).unwrap();
        let mut found = 0;
        while let Some(chunk) = futures_executor::block_on(reader.next()).unwrap() {
            found += chunk.frames().len();
        }
        assert!(found > 0);
        // Nobody reads this: it goes to nobody, and the next reader sees it in the log.
        drop(reader);
        scene.append(1, 10);
    }
    scene.end();
}

/// A reader whose place in the log is gone is told, and isn't shown what stands behind it.
#[test]
fn what_was_trimmed_is_said() {
    let disk: Arc<dyn Disk> = Arc::new(FaultyDisk::new());
    let config = LocalConfig { segment_bytes: 4 << 20, ..LocalConfig::default() };
    let (log, _) = LocalLog::open(disk.clone(), config).unwrap();
    let thread = LogThread::spawn(log, Stages::new().log(), LocalLog::close).unwrap();
    let feed = Feed::start(&thread.jobs(), (disk, None), &Placement::new(1, 1, 7), 4).unwrap();
    let scene = Scene { feed, thread, next: Mutex::new((1, 0)) };
    scene.append(30, 5_000);
    let wish = |start| FeedWish { start, ends: true, filter: EventFilter::all(), json: true };
    let mut held = scene.feed.read(wish(FeedStart::Earliest)).unwrap();
    let (answer, answered) = std::sync::mpsc::channel();
    let before = vec![(ShardId(0), Offset(140_000))];
    scene.thread.jobs().send(Job::Trimmable(before, answer)).unwrap();
    let segment = *answered.recv().unwrap().last().expect("segments that may go");
    scene.thread.jobs().send(Job::Trim(segment)).unwrap();
    scene.append(1, 10);
    let read = futures_executor::block_on(async {
        while held.next().await?.is_some() {}
        Ok(())
    });
    assert!(matches!(read, Err(FeedError::Trimmed)), "{read:?}");
    let id = model::event::EventId { shard: ShardId(0), offset: Offset(5), part: 0 };
    let refused = scene.feed.read(wish(FeedStart::After(id))).map(drop);
    assert!(matches!(refused, Err(FeedError::Trimmed)), "{refused:?}");
    let mut kept = scene.feed.read(wish(FeedStart::Earliest)).unwrap();
    let first = futures_executor::block_on(kept.next()).unwrap().unwrap();
    assert!(first.events()[0].id.offset > Offset(1));
    drop((held, kept, first));
    scene.end();
}
