//! A shard with the log that it writes, and what must be true of both.

use std::collections::BTreeMap;
use std::time::Duration;

use model::frame::{Frame, FrameBuilder, FramePlace};
use model::record::{
    CommandBuffer, RULE_VERSION, RecordError, Records, clear_outcome, set_statements,
};
use model::reply::View;
use model::{AccountKind, Amount, Epoch, Offset, Outcome, Realm, Reply, ShardId, Time};
use txn_core::{Seat, Shard, SpareRegions};

use crate::command::{Command, START, STEP_MICROS};
use crate::shadow::Shadow;

/// A shard at work: commands go in, replies and frames come out.
pub struct Writer {
    pub shard: Shard,
    pub replies: Vec<Reply>,
    /// Time of the frame at hand. It moves when a frame ends, and only as it is told.
    pub now: Time,
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

/// The only shard there is, with short steps.
pub fn seat() -> Seat {
    Seat { settle_step: Duration::from_micros(STEP_MICROS), ..Seat::alone() }
}

impl Writer {
    pub fn new(seed: u64) -> Writer {
        Writer {
            shard: Shard::new(seat(), seed, SpareRegions::default()),
            replies: Vec::new(),
            now: START,
            frame: FrameBuilder::default(),
            first_offset: Offset(1),
            previous: 0,
            log: Log::default(),
        }
    }

    /// Hands over one batch, and goes on with a new frame whenever one is full or time passes.
    pub fn apply(&mut self, batch: &[Command]) {
        let live = batch.iter().map(|command| (Realm::Live, command));
        self.apply_in(live);
    }

    /// The same, for commands of both realms.
    pub fn apply_in<'a>(&mut self, batch: impl IntoIterator<Item = (Realm, &'a Command)>) {
        let mut buffer = CommandBuffer::default();
        for (realm, command) in batch {
            match *command {
                Command::Wait { micros } => {
                    self.flush(&mut buffer);
                    self.cut();
                    self.now.0 += micros;
                }
                Command::Due => {
                    // Which one it is depends on all before.
                    self.flush(&mut buffer);
                    if let Some((kind, party, id, due)) = self.shard.due(realm, self.now) {
                        Command::Timer { kind, party, id, due }.write(realm, &mut buffer);
                    }
                }
                _ => command.write(realm, &mut buffer),
            }
        }
        self.flush(&mut buffer);
    }

    fn flush(&mut self, buffer: &mut CommandBuffer) {
        self.apply_bytes(buffer.bytes(), buffer.count() as usize);
        buffer.clear();
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
            self.shard.apply(self.now, &mut commands, &mut self.frame, &mut self.replies)?;
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
            time: self.now,
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
        let mut time = Time(0);
        self.frames.iter().map(move |bytes| {
            let (frame, rest) = Frame::split(bytes).expect("a finished frame is whole");
            assert!(rest.is_empty());
            assert_eq!((frame.place().first_offset, frame.place().previous), next);
            assert_eq!(frame.records().count() as u32, frame.header.count.get());
            assert!(frame.place().time >= time, "time goes back");
            next = (frame.next_offset(), frame.header.hash.get());
            time = frame.place().time;
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
        for frame in self.frames() {
            writer.execute_again(&frame, |_| true);
            assert_eq!(writer.shard.next_offset(), frame.next_offset());
        }
        let (shard, _, again) = writer.finish();
        assert_same_records(&again.records(), &self.records());
        shard
    }

    /// Executes again what happened in one realm, as if the other had never been. Frames stay,
    /// and their times.
    pub fn replay_of(&self, realm: Realm, seed: u64) -> (Shard, Log) {
        let mut writer = Writer::new(seed);
        for frame in self.frames() {
            writer.execute_again(&frame, |of| of == realm);
        }
        let (shard, _, log) = writer.finish();
        (shard, log)
    }

    /// The records of one realm, without the offsets of records before them: those of the order
    /// and those of statements.
    pub fn records_of(&self, realm: Realm) -> Vec<Vec<u8>> {
        let records = self.records();
        let of_realm = Records::new(&records).filter_map(|record| {
            let record = record.expect("the log holds records");
            let mut bytes = record.bytes.to_vec();
            header_of(&mut bytes).previous = 0.into();
            set_statements(&mut bytes, 0, 0);
            (record.realm() == realm).then_some(bytes)
        });
        of_realm.collect()
    }
}

/// The header of the record at the start of `bytes`.
pub fn header_of(bytes: &mut [u8]) -> &mut model::record::Header {
    use zerocopy::FromBytes;
    model::record::Header::mut_from_prefix(bytes).expect("a record has a header").0
}

impl Writer {
    fn execute_again(&mut self, frame: &Frame<'_>, wanted: impl Fn(Realm) -> bool) {
        let (mut commands, mut count) = (Vec::new(), 0);
        for record in frame.records() {
            let record = record.expect("the log holds records");
            if wanted(record.realm()) {
                let start = commands.len();
                commands.extend_from_slice(record.bytes);
                clear_outcome(&mut commands[start..]);
                count += 1;
            }
        }
        self.now = frame.place().time;
        self.apply_bytes(&commands, count);
        self.cut();
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
        let of = record.order().map(|order| (record.realm(), record.party(), order));
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

/// What is true of every shard that is alone, at any time.
pub fn assert_sound(shard: &Shard) {
    for &realm in Realm::ALL {
        for (currency, balance) in shard.balances(realm) {
            assert!(balance.is_balanced(), "{currency}: {balance:?}");
            assert_eq!((balance.in_transit, balance.overdrawn), (0, 0), "{currency}");
        }
        for item in shard.items(realm) {
            let found = item.pool + item.available + item.reserved + item.sold;
            assert_eq!(found, item.stocked, "{item:?}");
            assert_eq!(item.pool, 0, "alone, there is nobody to keep units for");
        }
        assert!(shard.is_settled(realm));
    }
}

/// The shard shows what the model of a realm knows, and holds nothing beside it.
pub fn assert_same_views(shard: &Shard, realm: Realm, shadow: &Shadow) {
    for query in shadow.queries() {
        let (ours, wanted) = (shard.query_in(realm, query), shadow.view(query));
        assert_eq!(unless_unused(ours), unless_unused(wanted), "{query:?}");
    }
    assert_eq!(shard.items(realm).count(), shadow.held().1);
    assert_eq!(shard.next_due(realm), shadow.next_due());
    let sums = shadow.totals();
    for (currency, balance) in shard.balances(realm) {
        let wanted = sums.get(currency).copied().unwrap_or_default();
        assert_eq!((balance.debits, balance.credits), wanted, "{currency}");
    }
}

/// An account that needs no opening and holds nothing yet is no different from none.
fn unless_unused(view: View) -> View {
    match view {
        View::Account(account)
            if account.kind != AccountKind::Main
                && (account.debits_posted, account.credits_posted) == (Amount(0), Amount(0)) =>
        {
            View::Missing
        }
        view => view,
    }
}
