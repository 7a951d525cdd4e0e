//! A shard with the log that it writes, and what must be true of both.

use std::collections::BTreeMap;

use model::frame::{Frame, FrameBuilder, FramePlace};
use model::record::{RULE_VERSION, RecordError, Records, clear_outcome};
use model::reply::View;
use model::{AccountKind, Amount, Epoch, Offset, Outcome, Reply, ShardId, Time};
use txn_core::Shard;

use crate::command::{Command, bytes_of};
use crate::shadow::Shadow;

/// A shard at work: commands go in, replies and frames come out.
pub struct Writer {
    pub shard: Shard,
    pub replies: Vec<Reply>,
    frame: FrameBuilder,
    first_offset: Offset,
    previous: u64,
    log: Log,
}

/// The frames that a shard wrote.
#[derive(Default)]
pub struct Log {
    frames: Vec<Vec<u8>>,
}

impl Writer {
    pub fn new(seed: u64) -> Writer {
        Writer {
            shard: Shard::new(seed),
            replies: Vec::new(),
            frame: FrameBuilder::default(),
            first_offset: Offset(1),
            previous: 0,
            log: Log::default(),
        }
    }

    /// Hands over one batch, and goes on with a new frame whenever one is full.
    pub fn apply(&mut self, batch: &[Command]) {
        self.apply_bytes(&bytes_of(batch), batch.len());
    }

    /// The same, for `count` commands as bytes.
    pub fn apply_bytes(&mut self, bytes: &[u8], count: usize) {
        self.try_apply(bytes, count).expect("these are commands");
    }

    /// The same, for what may not be commands.
    pub fn try_apply(&mut self, bytes: &[u8], count: usize) -> Result<(), RecordError> {
        let wanted = self.replies.len() + count;
        let mut commands = Records::new(bytes);
        loop {
            self.shard.apply(&mut commands, &mut self.frame, &mut self.replies)?;
            if self.replies.len() == wanted {
                return Ok(());
            }
            assert!(!self.frame.is_empty(), "an empty frame has room for any command");
            self.cut();
        }
    }

    /// Ends the frame; the next record begins another.
    pub fn cut(&mut self) {
        let place = FramePlace {
            shard: ShardId(0),
            epoch: Epoch(1),
            first_offset: self.first_offset,
            time: Time(self.log.frames.len() as u64),
            previous: self.previous,
        };
        let (bytes, hash) = std::mem::take(&mut self.frame).finish(place, RULE_VERSION);
        self.log.frames.push(bytes);
        self.previous = hash;
        self.first_offset = self.shard.next_offset();
    }

    /// The shard, its replies, and its log with the last frame ended.
    pub fn finish(mut self) -> (Shard, Vec<Reply>, Log) {
        self.cut();
        (self.shard, self.replies, self.log)
    }
}

impl Log {
    /// The log's frames, each checked against the one before.
    pub fn frames(&self) -> impl Iterator<Item = Frame<'_>> {
        let mut next = (Offset(1), 0);
        self.frames.iter().map(move |bytes| {
            let (frame, rest) = Frame::split(bytes).expect("a finished frame is whole");
            assert!(rest.is_empty());
            assert_eq!((frame.place().first_offset, frame.place().previous), next);
            assert_eq!(frame.records().count() as u32, frame.header.count.get());
            next = (frame.next_offset(), frame.header.hash.get());
            frame
        })
    }

    /// The bytes of all records, whatever the frames.
    pub fn records(&self) -> Vec<u8> {
        self.frames().flat_map(|frame| frame.records.iter().copied()).collect()
    }

    /// Executes the log again, frame by frame, on a shard that knows nothing: the commands must
    /// give the recorded outcomes.
    pub fn replay(&self, seed: u64) -> Shard {
        let mut writer = Writer::new(seed);
        let mut recorded = Vec::new();
        for frame in self.frames() {
            let mut commands = frame.records.to_vec();
            let mut at = 0;
            for record in frame.records() {
                let length = record.expect("the log holds records").bytes.len();
                clear_outcome(&mut commands[at..at + length]);
                at += length;
            }
            writer.apply_bytes(&commands, frame.header.count.get() as usize);
            assert_eq!(writer.shard.next_offset(), frame.next_offset());
            recorded.extend_from_slice(frame.records);
        }
        let (shard, _, again) = writer.finish();
        assert_same_records(&again.records(), &recorded);
        shard
    }
}

/// Compares records one by one, so that a difference is seen where it is.
pub fn assert_same_records(ours: &[u8], wanted: &[u8]) {
    if ours == wanted {
        return;
    }
    let pairs = Records::new(ours).zip(Records::new(wanted));
    for (offset, (ours, wanted)) in (1..).zip(pairs) {
        let (ours, wanted) = (ours.expect("a record"), wanted.expect("a record"));
        if ours.bytes != wanted.bytes {
            panic!("record {offset} is {ours:?}, and should be {wanted:?}");
        }
    }
    panic!(
        "{} records, and should be {}",
        Records::new(ours).count(),
        Records::new(wanted).count()
    );
}

/// Each record of an order names the one before it, back to the order's placing. A change that
/// found no order belongs to none.
pub fn assert_chains(records: &[u8]) {
    let mut newest = BTreeMap::new();
    for (offset, record) in (1u64..).zip(Records::new(records)) {
        let record = record.expect("the log holds records");
        let previous = record.header.previous.get();
        let of = record.order().map(|order| (record.party(), order));
        match of {
            Some(_) if record.outcome() == Some(Outcome::UnknownOrder) => {
                assert!(!newest.contains_key(&of), "record {offset} missed an order that is there");
                assert_eq!(previous, 0, "of record {offset}");
            }
            Some(_) => {
                let wanted = newest.insert(of, offset).unwrap_or(0);
                assert_eq!(previous, wanted, "the record before {offset}");
            }
            None => assert_eq!(previous, 0, "of record {offset}"),
        }
    }
}

/// What is true of every shard at any time.
pub fn assert_sound(shard: &Shard) {
    for (currency, balance) in shard.balances() {
        assert_eq!(balance.debits, balance.credits, "{currency}");
        assert_eq!(balance.overdrawn, 0, "{currency}");
    }
    for (item, is_balanced) in shard.items() {
        assert!(is_balanced, "{item:?}");
    }
}

/// The shard shows what the model knows, and holds nothing beside it.
pub fn assert_same_views(shard: &Shard, shadow: &Shadow) {
    for query in shadow.queries() {
        let (ours, wanted) = (shard.query(query), shadow.view(query));
        assert_eq!(unless_unused(ours), unless_unused(wanted), "{query:?}");
    }
    let (orders, items) = shadow.held();
    let held = shard.held();
    assert_eq!((held.orders, held.items), (orders as u64, items as u64));
    assert_eq!(shard.items().count(), items);
    let sums = shadow.sums();
    for (currency, balance) in shard.balances() {
        let wanted = sums.get(currency).copied().unwrap_or_default();
        assert_eq!((balance.debits, balance.credits), wanted, "{currency}");
    }
}

/// A clearing account that holds nothing yet is no different from none.
fn unless_unused(view: View) -> View {
    match view {
        View::Account(account)
            if account.kind == AccountKind::Clearing
                && (account.debits_posted, account.credits_posted) == (Amount(0), Amount(0)) =>
        {
            View::Missing
        }
        view => view,
    }
}
