//! Asks, grants and recalls that cross each other: what random runs have found, step by step.

use model::{ChangeId, ItemId, Outcome, Party, Realm, ShardId, ids};

use crate::audit::{assert_at_rest, units_of};
use crate::clients::{buy, list};
use crate::node::Turn;
use crate::world::World;

const LIVE: Realm = Realm::Live;
/// Larger than the stock of any item here.
const TOO_MANY: u32 = 1_000;

/// Some shards and one item: its home, the other shards, and buyers at each.
struct Stage {
    world: World,
    item: u64,
    home: ShardId,
    others: Vec<ShardId>,
    orders: u128,
}

impl Stage {
    /// The item's listing has arrived everywhere.
    fn new(shards: u16, stock: u64) -> Stage {
        let item = 1;
        let home = ids::item_home(ItemId(item), shards);
        let others: Vec<_> = (0..shards).map(ShardId).filter(|id| *id != home).collect();
        let mut stage = Stage { world: World::new(shards, 0), item, home, others, orders: 0 };
        list(&mut stage.world, LIVE, item, 10, stock);
        stage.world.drain();
        stage
    }

    /// A buyer who lives there.
    fn buyer(&self, at: ShardId) -> u64 {
        let lives_there = |party: &u64| ids::shard_of(Party(*party), self.world.shards()) == at;
        (1..).find(lives_there).expect("every shard has its share of parties")
    }

    /// Somebody at a shard orders units. `None`: the order waits.
    fn order(&mut self, at: ShardId, units: u32) -> Option<Outcome> {
        self.orders += 1;
        let (buyer, item) = (self.buyer(at), self.item);
        let reply = buy(&mut self.world, LIVE, buyer, self.orders, &[(item, units)]);
        reply.map(|reply| reply.outcome)
    }

    /// What became of the newest order, which was placed there.
    fn newest(&self, at: ShardId) -> Option<Outcome> {
        self.world.outcomes.get(&(LIVE, self.buyer(at), self.orders)).copied()
    }

    fn unspent(&self) -> u64 {
        units_of(&self.world.nodes, LIVE, ItemId(self.item)).1
    }
}

/// A shard that answers a recall and is granted units of the same round afterwards holds them:
/// the home has to recall them in the next one.
#[test]
fn units_granted_during_a_round_are_recalled_in_the_next() {
    let mut stage = Stage::new(3, 12);
    let (home, asker, third) = (stage.home, stage.others[0], stage.others[1]);
    assert_eq!(stage.order(asker, 9), None);
    stage.world.work(asker, Turn::Asks);
    stage.world.carry(asker, home, 9); // A round begins: the pool has 6, the asker 2.
    assert_eq!(stage.order(third, 3), None);
    assert_eq!(stage.order(third, 4), None);
    stage.world.ask_again(third);
    stage.world.carry(home, third, 9); // The recall, which the ask crosses.
    stage.world.carry(third, home, 9);
    stage.world.work(home, Turn::Answers);
    stage.world.carry(home, asker, 9);
    stage.world.work(asker, Turn::Answers);
    stage.world.carry(asker, home, 9);
    // The asker has its grant. Now there is enough for the third one, which hasn't answered yet.
    let item = ItemId(stage.item);
    stage.world.ask(LIVE, |commands| commands.restock(ChangeId(1), item, 6));
    stage.world.work(third, Turn::Answers);
    stage.world.carry(third, home, 9);
    stage.world.carry(home, third, 9);
    stage.world.withdraw(third);
    stage.world.withdraw(third);
    stage.world.drain();
    assert!(stage.world.nodes[usize::from(third.0)].shard.items(LIVE).all(|at| at.available > 0));
    let unspent = stage.unspent();
    assert_eq!(stage.order(asker, unspent as u32), None);
    stage.world.drain();
    assert_eq!(stage.newest(asker), Some(Outcome::Ok));
    assert_at_rest(&mut stage.world.nodes);
}

/// A shard may hold more than when it asked: a grant was under way. Nothing is sold out then.
#[test]
fn a_grant_that_an_ask_crosses_counts() {
    let mut stage = Stage::new(2, 12);
    let (home, asker) = (stage.home, stage.others[0]);
    assert_eq!(stage.order(home, 3), Some(Outcome::Ok));
    assert_eq!(stage.order(asker, 4), None);
    assert_eq!(stage.order(asker, 6), None);
    stage.world.ask_again(asker);
    stage.world.carry(asker, home, 9); // All 6 of the pool are granted.
    stage.world.withdraw(asker);
    stage.world.work(asker, Turn::Tries);
    stage.world.work(asker, Turn::Asks); // It holds 3, and doesn't know of the 6.
    stage.world.carry(asker, home, 9);
    stage.world.work(home, Turn::Answers);
    stage.world.carry(home, asker, 9);
    stage.world.drain();
    assert_eq!(stage.newest(asker), Some(Outcome::Ok));
    assert_at_rest(&mut stage.world.nodes);
}

/// An order that needs the pool and what its own shard holds. If its shard asks for the rest and
/// then answers a recall, each gets what the other had, over and over.
#[test]
fn an_ask_that_crosses_a_recall_is_for_the_whole_order() {
    let mut stage = Stage::new(2, 40);
    let (home, asker) = (stage.home, stage.others[0]);
    assert_eq!(stage.order(home, 10), Some(Outcome::Ok));
    assert_eq!(stage.order(asker, TOO_MANY), None);
    stage.world.work(asker, Turn::Asks);
    stage.world.carry(asker, home, 9);
    stage.world.work(home, Turn::Answers);
    stage.world.carry(home, asker, 9); // Its own units are recalled.
    stage.world.withdraw(asker);
    assert_eq!(stage.order(asker, 30), None);
    // A shell that asks whenever something came, and again when it has answered.
    for _ in 0..20 {
        stage.world.ask_again(asker);
        stage.world.work(asker, Turn::Answers);
        stage.world.ask_again(asker);
        stage.world.carry(asker, home, 9);
        stage.world.work(home, Turn::Answers);
        stage.world.carry(home, asker, 9);
    }
    assert_eq!(stage.newest(asker), Some(Outcome::Ok));
    stage.world.drain();
    assert_at_rest(&mut stage.world.nodes);
}
