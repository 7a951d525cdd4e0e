//! One shard with its log and a waiting room: as little of a shell as orders need to wait.
//!
//! Orders wait by item, first in, first out. For the first of them the node asks the item's home;
//! when units come it tries again, and behind it the others. Recalls it answers. When it does
//! each of these is for the test to say.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use model::frame::{Frame, FrameBuilder, FramePlace};
use model::record::entry::{StockOp, UNITS_MAX};
use model::record::{
    Body, CommandBuffer, RECORD_BYTES_MAX, RULE_VERSION, Record, Records, RowKey, RowKind,
    clear_outcome, set_withdrawn,
};
use model::reply::{Query, View};
use model::{Epoch, ItemId, Offset, OrderId, Outcome, Party, Realm, Reply, Time};
use txn_core::{
    Piece, Restoring, RowTable, Seat, Shard, Shortage, Signals, SpareRegions, Unready,
    for_each_row, row_in, view_of_row,
};

/// An item in its realm.
pub type Key = (Realm, ItemId);

/// So often an order goes from one item's queue to another's, before it is given up.
const MOVES_MAX: u32 = 6;

pub struct Node {
    pub shard: Shard,
    /// Orders by the item that they wait for.
    queues: BTreeMap<Key, VecDeque<Waiting>>,
    /// What there is to do.
    woken: BTreeSet<Key>,
    recalled: BTreeSet<Key>,
    asks: BTreeMap<Key, StockOp>,
    /// Orders that were decided since somebody looked.
    pub decided: Vec<(Realm, Party, OrderId, Reply)>,
    frame: FrameBuilder,
    frames: Vec<Vec<u8>>,
    /// Frames that were finished when the snapshot that is being taken began, and its pieces.
    snapshot: Option<(usize, Vec<Piece>)>,
    first_offset: Offset,
    previous: u64,
    /// The time of the frame at hand.
    now: Time,
}

struct Waiting {
    bytes: Vec<u8>,
    shortage: Shortage,
    moves: u32,
}

/// In which order a node does what there is to do. All must be right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    Tries,
    Asks,
    Answers,
}

impl Node {
    pub fn new(seat: Seat) -> Node {
        Node {
            shard: Shard::new(seat, u64::from(seat.id.0), SpareRegions::default()),
            queues: BTreeMap::new(),
            woken: BTreeSet::new(),
            recalled: BTreeSet::new(),
            asks: BTreeMap::new(),
            decided: Vec::new(),
            frame: FrameBuilder::default(),
            frames: Vec::new(),
            snapshot: None,
            first_offset: Offset(1),
            previous: 0,
            now: Time(0),
        }
    }

    /// The bytes of all records, the last frame's too.
    pub fn records(&mut self) -> Vec<u8> {
        self.cut();
        let frames = self.frames.iter().map(|bytes| Frame::split(bytes).expect("it is whole").0);
        frames.flat_map(|frame| frame.records.iter().copied()).collect()
    }

    /// Gives a command to the shard. `None`: it is an order, and waits.
    pub fn submit(&mut self, now: Time, bytes: &[u8]) -> Option<Reply> {
        self.make_room(now);
        let record = parsed(bytes);
        if self.waits(&record) {
            return None; // It is attached to the one that waits.
        }
        self.load_what_it_needs(now, &record);
        let mut replies = Vec::new();
        let mut commands = Records::new(bytes);
        let result = self.shard.apply(now, &mut commands, &mut self.frame, &mut replies);
        result.expect("these are commands");
        let signals = self.shard.signals();
        let waits = signals.waits.first().copied();
        self.note(signals);
        let reply = replies[0];
        if let Some((_, shortage)) = waits {
            assert_eq!(reply.outcome, Outcome::Busy);
            self.wait(record.realm(), Waiting { bytes: bytes.to_vec(), shortage, moves: 0 });
            return None;
        }
        if let Body::Place { lines, .. } = record.body {
            for line in lines.iter().filter(|_| reply.outcome == Outcome::Ok) {
                let key = (record.realm(), ItemId(line.item.get()));
                assert!(!self.queues.contains_key(&key), "an order overtakes others at {key:?}");
            }
            self.decide(&record, reply);
        }
        Some(reply)
    }

    fn decide(&mut self, record: &Record<'_>, reply: Reply) {
        if reply.outcome == Outcome::Invalid {
            return; // As if it had never been asked for.
        }
        let order = record.order().expect("it places one");
        self.decided.push((record.realm(), record.party(), order, reply));
    }

    fn waits(&self, record: &Record<'_>) -> bool {
        let same = |waiting: &Waiting| {
            let other = parsed(&waiting.bytes);
            let name = |record: &Record<'_>| (record.realm(), record.party(), record.order());
            name(&other) == name(record)
        };
        let is_order = matches!(record.body, Body::Place { .. });
        is_order && self.queues.values().flatten().any(same)
    }

    /// Remembers what there is to do.
    fn note(&mut self, signals: Signals) {
        for key in &signals.woken {
            self.mark(*key);
        }
        self.woken.extend(signals.woken);
        self.recalled.extend(signals.recalled);
    }

    /// What is to be answered is what was told, also after a restart.
    pub fn assert_recalls_known(&self) {
        assert_eq!(self.recalled, self.shard.recalled().into_iter().collect());
    }

    /// Tells the shard whether orders wait for an item.
    fn mark(&mut self, (realm, item): Key) {
        let queued = self.queues.contains_key(&(realm, item));
        self.shard.set_queued(realm, item, queued);
    }

    fn wait(&mut self, realm: Realm, waiting: Waiting) {
        let key = (realm, waiting.shortage.item);
        self.queues.entry(key).or_default().push_back(waiting);
        self.mark(key);
        if self.queues[&key].len() == 1 {
            self.plan_ask(key);
        }
    }

    /// Tries again for all who wait, and so asks again, as a shell may at any time.
    pub fn try_again(&mut self) {
        self.woken.extend(self.queues.keys());
    }

    /// Asks for what the first who waits lacks, if it lacks something.
    fn plan_ask(&mut self, key: Key) {
        let Some(queue) = self.queues.get(&key) else { return };
        let first = queue[0].shortage;
        if first.lacking > 0 {
            let others: u64 = queue.iter().skip(1).map(|waiting| waiting.shortage.whole).sum();
            let wanted = (first.lacking + others).min(UNITS_MAX);
            let ask = StockOp::ask(key.1, first.lacking, first.whole, wanted);
            self.asks.insert(key, ask);
        }
    }

    /// Tries those again who wait for an item, the first first.
    fn try_queue(&mut self, now: Time, key: Key) {
        while let Some(queue) = self.queues.get_mut(&key) {
            let mut waiting = queue.pop_front().expect("a queue that is there holds somebody");
            let is_last = queue.is_empty();
            self.make_room(now);
            let record = parsed(&waiting.bytes);
            self.load_what_it_needs(now, &record);
            let result = self.shard.execute(now, &record, Some(key.1), &mut self.frame);
            let signals = self.shard.signals();
            match result {
                Ok(reply) => self.decide(&record, reply),
                Err(Unready::Needs) => panic!("what it needs was loaded"),
                Err(Unready::Lacks(shortage)) if shortage.item == key.1 => {
                    waiting.shortage = shortage;
                    let queue = self.queues.get_mut(&key).expect("it was there");
                    queue.push_front(waiting);
                    self.note(signals);
                    self.plan_ask(key);
                    return;
                }
                Err(Unready::Lacks(shortage)) => {
                    waiting.moves += 1;
                    if waiting.moves <= MOVES_MAX {
                        waiting.shortage = shortage;
                        self.wait(key.0, waiting);
                    }
                    // Else its caller is told to try again later.
                }
            }
            if is_last {
                self.queues.remove(&key);
            }
            self.mark(key);
            self.note(signals);
        }
    }

    /// Does one kind of what there is to do. Whether there was anything.
    pub fn work(&mut self, now: Time, turn: Turn) -> bool {
        let mut ops = BTreeMap::<Realm, Vec<StockOp>>::new();
        match turn {
            Turn::Tries => {
                let Some(key) = self.woken.pop_first() else { return false };
                self.try_queue(now, key);
                return true;
            }
            Turn::Asks => {
                for ((realm, _), ask) in std::mem::take(&mut self.asks) {
                    ops.entry(realm).or_default().push(ask);
                }
            }
            Turn::Answers => {
                for (realm, item) in std::mem::take(&mut self.recalled) {
                    ops.entry(realm).or_default().push(StockOp::answer(item));
                }
            }
        }
        for (realm, ops) in &ops {
            let mut commands = CommandBuffer::default();
            commands.set_realm(*realm);
            commands.stock(ops);
            self.submit(now, commands.bytes());
        }
        !ops.is_empty()
    }

    /// Cancels the `number`-th order that waits. Its id, if there was one.
    pub fn withdraw(&mut self, now: Time, number: usize) -> Option<(Realm, Party, OrderId)> {
        let places =
            self.queues.iter().flat_map(|(key, queue)| (0..queue.len()).map(move |at| (*key, at)));
        let (key, at) = places.collect::<Vec<_>>().get(number).copied()?;
        let queue = self.queues.get_mut(&key).expect("it was found");
        let mut waiting = queue.remove(at).expect("it was found");
        if queue.is_empty() {
            self.queues.remove(&key);
        }
        self.mark(key);
        self.woken.insert(key);
        set_withdrawn(&mut waiting.bytes, true);
        let reply = self.submit(now, &waiting.bytes).expect("it waits no longer");
        assert_eq!(reply.outcome, Outcome::WrongState);
        let record = parsed(&waiting.bytes);
        Some((record.realm(), record.party(), record.order().expect("it places one")))
    }

    /// How many orders wait.
    pub fn waiting(&self) -> usize {
        self.queues.values().map(VecDeque::len).sum()
    }

    fn make_room(&mut self, now: Time) {
        if self.now != now || self.frame.is_full_for(RECORD_BYTES_MAX) {
            self.cut();
            self.now = now;
        }
    }

    /// Ends the frame.
    pub fn cut(&mut self) {
        let place = FramePlace {
            shard: self.shard.seat().id,
            epoch: Epoch(1),
            first_offset: self.first_offset,
            time: self.now,
            previous: self.previous,
        };
        let (bytes, hash) = std::mem::take(&mut self.frame).finish(place, RULE_VERSION);
        self.frames.push(bytes);
        (self.previous, self.first_offset) = (hash, self.shard.next_offset());
    }

    /// Has the oldest rows of a table leave memory: what the log says of those orders must be
    /// what they were.
    pub fn evict(&mut self, now: Time, realm: Realm, table: RowTable, most: u32, cutoff: u64) {
        self.make_room(now);
        let mut command = CommandBuffer::default();
        command.set_realm(realm);
        if !self.shard.write_evict(realm, table, most, cutoff, &mut command) {
            return;
        }
        let orders: Vec<RowKey> = self.rows(realm, |row| row.kind == RowKind::Order);
        let query = |row: &RowKey| Query::Order(Party(row.scope), OrderId(row.order));
        let view = |node: &Node, row: &RowKey| node.shard.query_in(realm, query(row));
        let before: Vec<View> = orders.iter().map(|row| view(self, row)).collect();
        let span = self.shard.span(realm, table);
        let reply = self.shard.execute(now, &parsed(command.bytes()), None, &mut self.frame);
        assert_eq!(reply.map(|reply| reply.outcome), Ok(Outcome::Ok));
        assert!(self.shard.span(realm, table) <= span);
        for (row, before) in orders.iter().zip(before) {
            if before != View::Missing && view(self, row) == View::Missing {
                let words = self.look_up(realm, row).expect("it was decided");
                assert_eq!(view_of_row(&words), before);
            }
        }
    }

    /// The names of rows in the log.
    fn rows(&mut self, realm: Realm, is_wanted: impl Fn(&RowKey) -> bool) -> Vec<RowKey> {
        self.cut();
        let mut rows = BTreeSet::new();
        for frame in &self.frames {
            let (frame, _) = Frame::split(frame).expect("it is whole");
            let records = frame.records().map(|record| record.expect("the log holds records"));
            for record in records.filter(|record| record.realm() == realm) {
                for_each_row(&record, |row| rows.extend([row]));
            }
        }
        rows.into_iter().filter(is_wanted).collect()
    }

    /// What the log says of a row last.
    fn look_up(&mut self, realm: Realm, row: &RowKey) -> Option<Vec<u64>> {
        self.cut();
        let step = self.shard.seat().settle_step;
        let mut found = None;
        for frame in &self.frames {
            let (frame, _) = Frame::split(frame).expect("it is whole");
            let (place, records) = (frame.place(), frame.records());
            for (offset, record) in (place.first_offset.0..).zip(records) {
                let record = record.expect("the log holds records");
                let mut is_it = false;
                for_each_row(&record, |other| is_it |= other == *row);
                let words = row_in(&record, (Offset(offset), place.time), step, row);
                assert_eq!(words.is_some(), is_it);
                if record.realm() == realm {
                    found = words.or(found);
                }
            }
        }
        found
    }

    fn load_what_it_needs(&mut self, now: Time, record: &Record<'_>) {
        for need in self.shard.needs(record).into_iter().flatten() {
            let row = self.look_up(record.realm(), &need.row).unwrap_or_default();
            let mut command = CommandBuffer::default();
            command.set_realm(record.realm());
            command.load(need.row, need.as_of, &row);
            self.make_room(now);
            let reply = self.shard.execute(now, &parsed(command.bytes()), None, &mut self.frame);
            assert_eq!(reply.map(|reply| reply.outcome), Ok(Outcome::Ok));
        }
    }

    /// Begins a snapshot or goes on with one. When it is whole, a shard that is made of it and
    /// executes the rest of the log must stand where this one does.
    pub fn snapshot(&mut self, pages: usize) {
        let Some((frames, pieces)) = &mut self.snapshot else {
            self.cut();
            self.shard.begin_snapshot();
            self.snapshot = Some((self.frames.len(), Vec::new()));
            return;
        };
        let is_whole = !self.shard.save_some(pages);
        pieces.extend(self.shard.saved(is_whole));
        if is_whole {
            let frames = *frames;
            let (_, pieces) = self.snapshot.take().expect("one is being taken");
            self.shard.stop_snapshot();
            let empty = Shard::new(self.shard.seat(), 78, SpareRegions::default());
            let mut restoring = Restoring::new(empty);
            for piece in &pieces {
                restoring.add(piece.bytes()).expect("a shard wrote it");
            }
            let restored = restoring.finish().expect("it is whole");
            self.assert_leads_here(restored, frames);
        }
    }

    /// Executes the log again on a shard that knows nothing: every outcome and the state must be
    /// what they were, though nobody waits there and nothing is asked twice.
    pub fn assert_replays(&mut self) {
        self.assert_leads_here(Shard::new(self.shard.seat(), 77, SpareRegions::default()), 0);
    }

    fn assert_leads_here(&mut self, mut again: Shard, frames: usize) {
        self.cut();
        for bytes in &self.frames[frames..] {
            let (frame, _) = Frame::split(bytes).expect("a finished frame is whole");
            let mut commands = frame.records.to_vec();
            let mut at = 0;
            for record in frame.records() {
                let length = record.expect("the log holds records").bytes.len();
                clear_outcome(&mut commands[at..at + length]);
                at += length;
            }
            let (mut redone, mut replies) = (FrameBuilder::default(), Vec::new());
            let time = frame.place().time;
            let result = again.apply(time, &mut Records::new(&commands), &mut redone, &mut replies);
            result.expect("the log holds records");
            assert!(redone.records() == frame.records, "a record comes out otherwise");
        }
        assert_eq!(again.next_offset(), self.shard.next_offset());
        assert_eq!(again.state_hash(), self.shard.state_hash());
        assert_eq!(again.recalled(), self.shard.recalled());
        for realm in [Realm::Live, Realm::Drill] {
            assert_eq!(again.next_due(realm), self.shard.next_due(realm));
            assert_eq!(again.next_sweep(realm), self.shard.next_sweep(realm));
        }
    }
}

fn parsed(bytes: &[u8]) -> Record<'_> {
    let (record, rest) = Record::split(bytes).expect("these are commands");
    assert!(rest.is_empty());
    record
}
