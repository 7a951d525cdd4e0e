//! Some shards, and streams between them that lose, repeat and delay what they carry.
//!
//! Everything comes from one seed: what clients ask for, when a message is sent, which one
//! arrives next, what a shard does first.

use std::collections::BTreeMap;
use std::time::Duration;

use model::record::{CommandBuffer, Record, StreamPlace};
use model::{Outcome, Realm, Reply, ShardId, Time};
use txn_core::{RowTable, Seat};

use crate::audit::assert_adds_up;
use crate::node::{Node, Turn};

/// The length of a step of settlement.
pub const STEP_MICROS: u64 = 1_000_000;
/// Messages under way beyond this are lost.
const NETWORK_MAX: usize = 60;

pub struct World {
    pub nodes: Vec<Node>,
    pub now: Time,
    pub random: Random,
    network: Vec<Message>,
    /// What became of each order when it was placed.
    pub outcomes: BTreeMap<(Realm, u64, u128), Outcome>,
    /// Nothing is compared on the way: for runs in which that would take too long.
    pub audits: bool,
}

/// Entries of one stream, as they travel.
struct Message {
    realm: Realm,
    from: ShardId,
    to: ShardId,
    at: StreamPlace,
    count: u32,
    entries: Vec<u8>,
}

/// G. L. Steele Jr. et al., "Fast splittable pseudorandom number generators", OOPSLA 2014.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

impl World {
    pub fn new(shards: u16, seed: u64) -> World {
        let settle_step = Duration::from_micros(STEP_MICROS);
        let seat = |id| Seat { id: ShardId(id), shards, settle_step };
        World {
            nodes: (0..shards).map(|id| Node::new(seat(id))).collect(),
            now: Time(1_000 * STEP_MICROS),
            random: Random(seed),
            network: Vec::new(),
            outcomes: BTreeMap::new(),
            audits: true,
        }
    }

    pub fn shards(&self) -> u16 {
        self.nodes.len() as u16
    }

    /// Gives a command to the shard that decides it.
    pub fn ask(&mut self, realm: Realm, write: impl FnOnce(&mut CommandBuffer)) -> Option<Reply> {
        let mut commands = CommandBuffer::default();
        commands.set_realm(realm);
        write(&mut commands);
        let (record, _) = Record::split(commands.bytes()).expect("this is a command");
        let home = record.home(self.shards()).expect("clients ask for it");
        let reply = self.nodes[usize::from(home.0)].submit(self.now, commands.bytes());
        self.after();
        reply
    }

    /// Gives one shard what it tells itself.
    pub fn tell(&mut self, node: usize, realm: Realm, write: impl FnOnce(&mut CommandBuffer)) {
        let mut commands = CommandBuffer::default();
        commands.set_realm(realm);
        write(&mut commands);
        let reply = self.nodes[node].submit(self.now, commands.bytes());
        assert_eq!(reply.map(|reply| reply.outcome), Some(Outcome::Ok));
        self.after();
    }

    fn after(&mut self) {
        for node in &mut self.nodes {
            node.assert_recalls_known();
            for (realm, buyer, order, reply) in std::mem::take(&mut node.decided) {
                let name = (realm, buyer.0, order.0);
                self.outcomes.entry(name).or_insert(reply.outcome);
            }
        }
        if self.audits {
            assert_adds_up(&self.nodes);
        }
    }

    /// One thing happens that no client asked for.
    pub fn stir(&mut self) {
        let shards = u64::from(self.shards());
        let node = self.random.below(shards) as usize;
        let realm = if self.random.one_in(5) { Realm::Drill } else { Realm::Live };
        match self.random.below(24) {
            0..8 => self.send_some(realm),
            8..14 => self.receive_some(),
            14 => self.lose_some(),
            15 => self.nodes[node].try_again(),
            16..19 => {
                let turn = self.random.pick(&[Turn::Tries, Turn::Asks, Turn::Answers]);
                self.nodes[node].work(self.now, turn);
            }
            19 => self.nodes[node].cut(),
            20 => {
                let table = self.random.pick(&RowTable::ALL);
                let cutoff = (self.now.0 / 1_000).saturating_sub(self.random.below(3_000));
                let rows = 1 + self.random.below(12) as u32;
                self.nodes[node].evict(self.now, realm, table, rows, cutoff);
            }
            _ => {
                let pages = 1 + self.random.below(3) as usize;
                self.nodes[node].snapshot(pages);
            }
        }
        self.after();
    }

    /// Time passes, and what is due happens.
    pub fn pass(&mut self, micros: u64) {
        self.now.0 += micros;
        for node in 0..self.nodes.len() {
            for &realm in Realm::ALL {
                while let Some((kind, party, id, due)) = self.nodes[node].shard.due(realm, self.now)
                {
                    self.tell(node, realm, |commands| commands.timer(kind, party, id, due));
                }
            }
        }
    }

    /// A message with some of what isn't known to have arrived.
    fn send_some(&mut self, realm: Realm) {
        let shards = u64::from(self.shards());
        let (from, to) = (self.random.below(shards), self.random.below(shards));
        if from == to {
            return;
        }
        let (from, to) = (ShardId(from as u16), ShardId(to as u16));
        let shard = &self.nodes[usize::from(from.0)].shard;
        let ends = shard.stream(realm, to);
        let under_way = ends.next_out - ends.acked;
        let first = ends.acked + self.random.below(under_way.min(4) + 1);
        let last = if self.random.one_in(3) { first + self.random.below(4) } else { ends.next_out };
        let room = if self.random.one_in(4) { 120 } else { 64 << 10 };
        let mut entries = Vec::new();
        let count = shard.copy_entries(realm, to, (first, last), room, &mut entries);
        assert!(u64::from(count) <= last.saturating_sub(first) && entries.len() <= room);
        let at = StreamPlace { first, base: ends.acked, acked: ends.next_in };
        self.network.push(Message { realm, from, to, at, count, entries });
        if self.network.len() > NETWORK_MAX {
            self.lose_some();
        }
    }

    fn receive_some(&mut self) {
        if self.network.is_empty() {
            return;
        }
        let at = self.random.below(self.network.len() as u64) as usize;
        let message = self.network.swap_remove(at);
        self.receive(&message);
        if self.random.one_in(4) {
            self.network.push(message); // It will come again.
        }
    }

    fn lose_some(&mut self) {
        if !self.network.is_empty() {
            let at = self.random.below(self.network.len() as u64) as usize;
            self.network.swap_remove(at);
        }
    }

    fn receive(&mut self, message: &Message) {
        let Message { realm, from, to, at, count, ref entries } = *message;
        let StreamPlace { first, acked, .. } = at;
        let node = &mut self.nodes[usize::from(to.0)];
        let before = node.shard.stream(realm, from);
        let hash = node.shard.state_hash();
        let mut commands = CommandBuffer::default();
        commands.set_realm(realm);
        commands.deliver(from, at, entries, count);
        let reply = node.submit(self.now, commands.bytes()).expect("it is no order");
        let after = node.shard.stream(realm, from);
        let next = first + u64::from(count);
        let wanted = if first > before.next_in || acked > before.next_out {
            Outcome::Busy
        } else if next <= before.next_in && acked <= before.acked {
            Outcome::AlreadyDone
        } else {
            Outcome::Ok
        };
        assert_eq!(reply.outcome, wanted, "{first} + {count}, {acked} on {before:?}");
        if wanted == Outcome::Ok {
            let numbers = (before.next_in.max(next), before.acked.max(acked));
            assert_eq!((after.next_in, after.acked), numbers);
        } else {
            assert_eq!(hash, node.shard.state_hash());
        }
    }

    /// Everybody does what there is to do, and every message arrives, until all is quiet.
    pub fn drain(&mut self) {
        self.network.clear();
        for _ in 0..ROUNDS_MAX {
            if !self.round() {
                return;
            }
        }
        panic!("it doesn't come to rest in {ROUNDS_MAX} rounds");
    }

    fn round(&mut self) -> bool {
        let mut busy = false;
        for node in &mut self.nodes {
            while [Turn::Tries, Turn::Asks, Turn::Answers]
                .into_iter()
                .any(|turn| node.work(self.now, turn))
            {
                busy = true;
            }
        }
        for (from, to) in self.pairs() {
            for &realm in Realm::ALL {
                let sender = &self.nodes[usize::from(from.0)].shard;
                let receiver = &self.nodes[usize::from(to.0)].shard;
                let (ours, theirs) = (sender.stream(realm, to), receiver.stream(realm, from));
                if (theirs.next_in, theirs.acked) == (ours.next_out, ours.next_in) {
                    continue;
                }
                let (first, mut entries) = (theirs.next_in, Vec::new());
                let range = (first, ours.next_out);
                let count = sender.copy_entries(realm, to, range, 64 << 10, &mut entries);
                let at = StreamPlace { first, base: ours.acked, acked: ours.next_in };
                self.receive(&Message { realm, from, to, at, count, entries });
                busy = true;
            }
        }
        self.after();
        busy
    }

    /// The next entries of one stream arrive, at most so many. For tests that say what happens
    /// when.
    pub fn carry(&mut self, from: ShardId, to: ShardId, most: u64) {
        let realm = Realm::Live;
        let sender = &self.nodes[usize::from(from.0)].shard;
        let first = self.nodes[usize::from(to.0)].shard.stream(realm, from).next_in;
        let (ends, mut entries) = (sender.stream(realm, to), Vec::new());
        let at = StreamPlace { first, base: ends.acked, acked: ends.next_in };
        let count = sender.copy_entries(realm, to, (first, first + most), 64 << 10, &mut entries);
        self.receive(&Message { realm, from, to, at, count, entries });
        self.after();
    }

    /// One shard does one kind of what there is to do.
    pub fn work(&mut self, node: ShardId, turn: Turn) {
        while self.nodes[usize::from(node.0)].work(self.now, turn) {}
        self.after();
    }

    /// A shard tries again for all who wait, and asks.
    pub fn ask_again(&mut self, node: ShardId) {
        self.nodes[usize::from(node.0)].try_again();
        self.work(node, Turn::Tries);
        self.work(node, Turn::Asks);
    }

    /// The first order that waits at a shard is cancelled.
    pub fn withdraw(&mut self, node: ShardId) {
        self.nodes[usize::from(node.0)].withdraw(self.now, 0).expect("one waits");
        self.after();
    }

    pub fn pairs(&self) -> Vec<(ShardId, ShardId)> {
        let all = || (0..self.shards()).map(ShardId);
        all().flat_map(|from| all().map(move |to| (from, to))).filter(|(a, b)| a != b).collect()
    }

    /// Cancels an order that waits somewhere, if one does.
    pub fn withdraw_some(&mut self) {
        let node = self.random.below(u64::from(self.shards())) as usize;
        let waiting = self.nodes[node].waiting() as u64;
        if waiting == 0 {
            return;
        }
        let number = self.random.below(waiting) as usize;
        let withdrawn = self.nodes[node].withdraw(self.now, number);
        let (realm, buyer, order) = withdrawn.expect("so many wait");
        self.after();
        let id = model::ChangeId(u128::from(self.random.next()));
        let reply = self.ask(realm, |commands| commands.cancel(id, buyer, order));
        assert_eq!(reply.map(|reply| reply.outcome), Some(Outcome::Ok));
    }
}

/// A shard at a time asks for an item, and every question takes some rounds.
const ROUNDS_MAX: usize = 20_000;
