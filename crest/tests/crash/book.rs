//! What clients remember, and what the log must therefore hold.
//!
//! The book outlives every process. A command enters it before it is sent, and an answer when it
//! arrives; nothing is ever taken out. [`LogImage`] is the other side: what is in the log,
//! read without the platform.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use loadgen::RunId;
use model::record::{Body, Kind, clear_outcome};
use model::{Offset, OrderState, Outcome, Party, ShardId, ids};
use node::{Access, ArchiveLocation, AuditFrom, DataKey};
use serde::Deserialize;

use crate::asks::{Ask, Key, Order};
use crate::platform::{key_file, stream};

/// The parts of an answer that are held against the log.
#[derive(Clone, Debug, Deserialize)]
pub struct Answer {
    pub outcome: Option<String>,
    pub state: Option<String>,
    pub offset: Option<u64>,
}

/// The answer to a batch.
#[derive(Debug, Deserialize)]
pub struct Answers {
    pub results: Vec<Answer>,
}

/// The acknowledged outcome of a command, and where its record is if the answer said so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Acknowledged {
    outcome: Outcome,
    offset: Option<u64>,
}

struct Entry {
    ask: Ask,
    acknowledged: Option<Acknowledged>,
}

/// Shards of a data directory, unless it is told otherwise.
pub const SHARDS: u16 = 16;

/// Where a record is: offsets are those of its shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Place {
    shard: ShardId,
    offset: u64,
}

/// What a read showed of an order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen {
    pub outcome: Outcome,
    pub state: OrderState,
    /// Its newest record.
    pub offset: u64,
}

/// A read that was answered. `None`: there was no such order.
#[derive(Clone, Copy, Debug)]
pub struct Read {
    pub buyer: u64,
    pub order: u128,
    pub seen: Option<Seen>,
}

/// All that was ever sent to one data directory.
pub struct Book {
    run: RunId,
    ids: u64,
    entries: BTreeMap<Key, Entry>,
    unclear: BTreeSet<Key>,
    /// Orders that were accepted.
    pub placed: Vec<Order>,
    /// Every order that was sent: whose, and its id.
    pub sent_orders: Vec<(u64, u128)>,
    pub reads: Vec<Read>,
}

impl Book {
    pub fn new(seed: u64) -> Book {
        Book {
            run: RunId::new(seed),
            ids: 0,
            entries: BTreeMap::new(),
            unclear: BTreeSet::new(),
            placed: Vec::new(),
            sent_orders: Vec::new(),
            reads: Vec::new(),
        }
    }

    /// An id that was never used.
    pub fn draw_id(&mut self) -> u128 {
        self.ids += 1;
        // 2026-01-01: what time it is matters to nothing here.
        self.run.order_id(1_767_225_600_000 + self.ids, self.ids).0
    }

    /// Notes that this is being sent, for the first time or again.
    pub fn sending(&mut self, ask: &Ask) {
        let key = ask.key();
        if self.entries.contains_key(&key) {
            return;
        }
        if let Ask::Place(order) = ask {
            self.sent_orders.push((order.buyer, order.id));
        }
        self.entries.insert(key, Entry { ask: ask.clone(), acknowledged: None });
        self.unclear.insert(key);
    }

    /// Commands without an outcome.
    pub fn unclear(&self) -> Vec<Ask> {
        self.unclear.iter().map(|key| self.entries[key].ask.clone()).collect()
    }

    /// How many commands have an outcome.
    pub fn acknowledged(&self) -> usize {
        self.entries.len() - self.unclear.len()
    }

    /// A command that has an outcome: the `n`-th, counted around.
    pub fn acknowledged_ask(&self, n: u64) -> Option<Ask> {
        let (key, entry) = self.entries.iter().nth(n as usize % self.entries.len().max(1))?;
        (!self.unclear.contains(key)).then(|| entry.ask.clone())
    }

    /// Whether this order was answered.
    pub fn knows(&self, buyer: u64, order: u128) -> bool {
        let key = Key { kind: model::record::Kind::Place as u8, scope: buyer, order: 0, id: order };
        self.entries.contains_key(&key) && !self.unclear.contains(&key)
    }

    /// Keeps an answer. It must agree with every earlier one.
    pub fn answered(&mut self, ask: &Ask, answer: &Answer) {
        let key = ask.key();
        let word = answer.outcome.as_deref().unwrap_or("nothing");
        let outcome = Outcome::from_word(word);
        let outcome = outcome.unwrap_or_else(|| panic!("{ask:?} was answered by {answer:?}"));
        let repeat = outcome == Outcome::AlreadyDone;
        let outcome = if repeat { Outcome::Ok } else { outcome };
        if outcome == Outcome::Busy {
            return; // It is as unclear as before.
        }
        assert!(outcome.is_logged(), "{ask:?} was answered by {answer:?}");
        // The answer to a repeated order names its newest record, not its first one.
        let first_offset = !key.is_order() || (outcome == Outcome::Ok && !repeat);
        let offset = answer.offset.filter(|_| first_offset);
        let entry = self.entries.get_mut(&key).unwrap();
        let before = entry.acknowledged.replace(Acknowledged { outcome, offset });
        match before {
            None => {
                self.unclear.remove(&key);
                if let (Ask::Place(order), Outcome::Ok) = (ask, outcome) {
                    self.placed.push(order.clone());
                }
            }
            Some(before) => {
                assert_eq!(before.outcome, outcome, "{ask:?} was answered otherwise before");
                if let (Some(before), Some(now)) = (before.offset, offset) {
                    assert_eq!(before, now, "{ask:?} was at another offset before");
                }
                entry.acknowledged =
                    Some(Acknowledged { offset: before.offset.or(offset), ..before });
            }
        }
    }
}

/// A record, as far as clients could know it.
#[derive(Clone, Copy, Debug)]
struct Logged {
    outcome: Outcome,
    at: Place,
}

/// The order that a record places or changes, and its state after that.
type Step = Option<(u64, u128, Option<OrderState>)>;

/// What is in the log of a data directory that nobody serves.
pub struct LogImage {
    pub audit: node::Audit,
    records: HashMap<Key, Logged>,
    /// By shard and offset, from 1.
    steps: Vec<Vec<Step>>,
    pub orders: BTreeMap<(u64, u128), Seen>,
    twice: Vec<Key>,
    /// Records of commands that nobody sent, or not with this content.
    strange: Vec<String>,
}

impl LogImage {
    /// Of an empty log.
    pub fn none() -> LogImage {
        LogImage {
            audit: node::Audit::default(),
            records: HashMap::new(),
            steps: vec![vec![None]; SHARDS.into()],
            orders: BTreeMap::new(),
            twice: Vec::new(),
            strange: Vec::new(),
        }
    }

    /// Executes the log again and keeps what matters here.
    pub fn read(data: &Path, book: &Book) -> LogImage {
        let mut image = LogImage::none();
        let key = std::fs::read(key_file(data)).ok();
        let data_key = key.map(|secret| DataKey::new(&secret).unwrap());
        let access = Access { data_key, nats: stream(data) };
        let audit = node::audit(
            data,
            &access,
            &ArchiveLocation::Beside,
            AuditFrom::Beginning,
            |record, shard, Offset(offset)| {
                image.add(record, Place { shard, offset }, book);
            },
        );
        image.audit = audit.unwrap();
        image
    }

    fn add(&mut self, record: &model::record::Record<'_>, at: Place, book: &Book) {
        let steps = &mut self.steps[usize::from(at.shard.0)];
        assert_eq!(at.offset, steps.len() as u64, "offsets go on without a gap: {at:?}");
        let Some(home) = record.home(SHARDS) else {
            // What shards tell themselves and each other. No order of these clients expires.
            assert_ne!(record.header.kind, Kind::Timer as u8);
            return steps.push(None);
        };
        assert_eq!(home, at.shard, "{record:?} is on another shard than its own");
        let key = Key::of(record);
        let outcome = record.outcome().expect("a logged record has an outcome");
        if self.records.insert(key, Logged { outcome, at }).is_some() {
            self.twice.push(key);
        }
        let mut command = record.bytes.to_vec();
        clear_outcome(&mut command);
        match book.entries.get(&key) {
            Some(entry) if entry.ask.commands().bytes() == command => {}
            Some(entry) => self.strange.push(format!("{record:?}, where {:?} was sent", entry.ask)),
            None => self.strange.push(format!("{record:?}, which nobody sent")),
        }
        let state = OrderState::from_byte(record.header.state);
        let order = record.order().map(|id| (record.party().0, id.0));
        self.steps[usize::from(at.shard.0)].push(order.map(|(buyer, id)| (buyer, id, state)));
        let offset = at.offset;
        if let (Body::Place { .. }, Some(order), Some(state)) = (record.body, order, state) {
            self.orders.insert(order, Seen { outcome, state, offset });
        } else if let Some(seen) = order.and_then(|order| self.orders.get_mut(&order)) {
            seen.offset = offset;
            seen.state = state.expect("a change of an order states what it is then");
        }
    }

    /// Holds the log against everything that clients were told.
    pub fn check(&self, book: &Book) {
        assert_eq!(self.twice, [], "these commands are in the log twice");
        assert!(self.strange.is_empty(), "the log has {:#?}", self.strange);
        for (key, entry) in &book.entries {
            let Some(acknowledged) = entry.acknowledged else { continue };
            let Some(logged) = self.records.get(key) else {
                panic!("acknowledged as {acknowledged:?} and not in the log: {:?}", entry.ask);
            };
            let same = acknowledged.outcome == logged.outcome
                && acknowledged.offset.is_none_or(|offset| offset == logged.at.offset);
            assert!(same, "{acknowledged:?}, and the log has {logged:?}: {:?}", entry.ask);
        }
        for read in &book.reads {
            let Some(seen) = read.seen else { continue };
            let home = ids::shard_of(Party(read.buyer), SHARDS);
            let steps = &self.steps[usize::from(home.0)];
            let step = steps.get(seen.offset as usize).copied().flatten();
            let expected = Some((read.buyer, read.order, Some(seen.state)));
            assert_eq!(step, expected, "{read:?} showed what the log doesn't have");
        }
    }

    /// Holds what was just read, with nobody writing, against the log.
    pub fn check_reads(&self, reads: &[Read]) {
        for read in reads {
            let logged = self.orders.get(&(read.buyer, read.order)).copied();
            assert_eq!(read.seen, logged, "order {:x} of buyer {}", read.order, read.buyer);
        }
    }

    /// With no command unclear: each is there.
    pub fn check_complete(&self, book: &Book) {
        assert_eq!(book.unclear.len(), 0);
        assert_eq!(self.records.len(), book.entries.len(), "each exactly once");
    }
}
