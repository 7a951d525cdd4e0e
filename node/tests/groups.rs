//! Shards that have something for each other: what one sends the other takes, once, whatever is
//! lost on the way and whoever ends in between; who waits is answered; no unit is sold twice.
//!
//! Here is no clock, no thread and no disk: time is a number, and messages are carried by hand.
//! `CREST_SEEDS` says how many worlds the last test runs, `CREST_SEED` which is the first.

// What a test does not expect is a failure.
#![allow(clippy::unwrap_used)]

#[path = "groups/random.rs"]
mod random;
#[path = "groups/task.rs"]
mod task;
#[path = "groups/world.rs"]
mod world;

use std::time::Duration;

use model::record::{CommandBuffer, Sale};
use model::reply::{Query, View};
use model::{
    AccountKind, Amount, ChangeId, Currency, ItemId, OrderId, OrderState, Outcome, Party,
    PaymentMethod, Quantity, Realm, ShardId, Time, ids,
};
use world::World;

const GBP: Currency = Currency::GBP;

/// The `n`-th party that lives on this shard, from 1 on.
fn party_on(shard: u16, shards: u16, n: usize) -> Party {
    let lives_there = |party: &Party| ids::shard_of(*party, shards) == ShardId(shard);
    (1..).map(Party).filter(lives_there).nth(n - 1).unwrap()
}

/// The `n`-th item whose home is this shard, from 1 on.
fn item_at(shard: u16, shards: u16, n: usize) -> ItemId {
    let is_home = |item: &ItemId| ids::item_home(*item, shards) == ShardId(shard);
    (1..).map(ItemId).filter(is_home).nth(n - 1).unwrap()
}

fn command(write: impl FnOnce(&mut CommandBuffer)) -> CommandBuffer {
    let mut commands = CommandBuffer::default();
    write(&mut commands);
    commands
}

fn account(party: Party, balance: u64) -> CommandBuffer {
    command(|commands| commands.create_account(party, GBP, Amount(balance)))
}

fn item(item: ItemId, seller: Party, stock: u64) -> CommandBuffer {
    command(|commands| commands.create_item(item, seller, GBP, Amount(10), stock, Sale::default()))
}

fn order(id: u128, buyer: Party, lines: &[(ItemId, u32)]) -> CommandBuffer {
    order_paid(id, buyer, lines, PaymentMethod::External)
}

fn order_paid(
    id: u128,
    buyer: Party,
    lines: &[(ItemId, u32)],
    method: PaymentMethod,
) -> CommandBuffer {
    command(|commands| {
        let mut place = commands.place();
        for &(item, quantity) in lines {
            place.line(item, Quantity(quantity), None);
        }
        place.finish(buyer, OrderId(id), GBP, method);
    })
}

fn transfer(
    id: u128,
    from: (Party, AccountKind),
    to: (Party, AccountKind),
    amount: u64,
) -> CommandBuffer {
    command(|commands| commands.transfer(ChangeId(id), from, to, GBP, Amount(amount)))
}

fn main_of(party: Party) -> (Party, AccountKind) {
    (party, AccountKind::Main)
}

const OUTSIDE: (Party, AccountKind) = (Party(0), AccountKind::Clearing);

#[test]
fn a_transfer_arrives_in_another_group() {
    let mut world = World::new(4, 2);
    // Shard 0 is in the first group, shard 1 in the second.
    let (from, to) = (party_on(0, 4, 1), party_on(1, 4, 1));
    world.done(account(from, 100));
    world.done(account(to, 5));
    let asked = world.submit(transfer(1, main_of(from), main_of(to), 60));
    world.commit_all();
    // It is answered as soon as it is durable where the money was; it is under way then.
    assert_eq!(world.outcomes(asked), Some(vec![Outcome::Ok]));
    assert_eq!((world.balance(from), world.balance(to)), (40, 5));
    world.check();
    world.settle();
    assert_eq!((world.balance(from), world.balance(to)), (40, 65));

    // A repeat moves nothing, and what isn't there can't be sent.
    let repeated = world.submit(transfer(1, main_of(from), main_of(to), 60));
    let more = world.submit(transfer(2, main_of(from), main_of(to), 41));
    world.settle();
    assert_eq!(world.outcomes(repeated), Some(vec![Outcome::AlreadyDone]));
    assert_eq!(world.outcomes(more), Some(vec![Outcome::InsufficientFunds]));
    assert_eq!((world.balance(from), world.balance(to)), (40, 65));
    world.check();
}

#[test]
fn money_for_an_account_that_is_not_there_comes_back() {
    let mut world = World::new(4, 2);
    let (from, nobody) = (party_on(0, 4, 1), party_on(3, 4, 1));
    world.done(account(from, 100));
    // The shard of the debited can't know; it says what it did.
    let asked = world.submit(transfer(1, main_of(from), main_of(nobody), 60));
    world.commit_all();
    assert_eq!(world.outcomes(asked), Some(vec![Outcome::Ok]));
    assert_eq!(world.balance(from), 40);
    world.settle();
    assert_eq!(world.balance(from), 100);
    world.check();
}

#[test]
fn an_order_waits_for_a_grant_and_is_answered() {
    let mut world = World::new(4, 2);
    let (buyer, it) = (party_on(1, 4, 1), item_at(0, 4, 1));
    // Too few to be granted ahead: all of them are in the pool of the item's home.
    world.done(item(it, Party(9), 3));
    world.settle();
    let asked = world.submit(order(1, buyer, &[(it, 2)]));
    world.commit_all();
    assert_eq!(world.outcomes(asked), None, "it asks the item's home");
    assert_eq!(world.waiting(), 1);
    // A copy that comes meanwhile gets the same answer, and another order by this id doesn't.
    let copy = world.submit(order(1, buyer, &[(it, 2)]));
    let other = world.submit(order(1, buyer, &[(it, 1)]));
    world.commit_all();
    assert_eq!((world.outcomes(copy), world.waiting()), (None, 1));
    assert_eq!(world.outcomes(other), Some(vec![Outcome::IdReused]));
    world.settle();
    assert_eq!(world.outcomes(asked), Some(vec![Outcome::Ok]));
    assert_eq!(world.outcomes(copy), Some(vec![Outcome::AlreadyDone]));
    assert_eq!((world.waiting(), world.units(it)), (0, (3, 2)));
    world.check();
}

#[test]
fn orders_that_take_from_each_other_don_t_wait_in_a_circle() {
    let mut world = World::new(2, 2);
    // One unit of each, the lower one at home on shard 1, the other one on shard 0.
    let (low, high) = (1..100)
        .map(|n| (item_at(1, 2, n), item_at(0, 2, n)))
        .find(|(low, high)| low < high)
        .unwrap();
    world.done(item(low, Party(9), 1));
    world.done(item(high, Party(9), 1));
    world.settle();
    // Two want both. Each finds one at home and asks the other's home for the other one: their
    // questions cross, and so do the units.
    let want = |id, shard| order(id, party_on(shard, 2, 1), &[(low, 1), (high, 1)]);
    let asked = [world.submit(want(1, 0)), world.submit(want(2, 1))];
    world.settle();
    let mut outcomes: Vec<_> = asked.into_iter().flat_map(|asked| world.outcomes(asked)).collect();
    outcomes.sort();
    assert_eq!(outcomes, [[Outcome::Ok], [Outcome::SoldOut]]);
    assert_eq!((world.units(low), world.units(high)), ((1, 1), (1, 1)));
    world.check();
}

#[test]
fn an_order_that_waits_too_long_is_told_to_come_again() {
    let mut world = World::new(4, 2);
    let (buyer, it) = (party_on(1, 4, 1), item_at(0, 4, 1));
    world.done(item(it, Party(9), 3));
    world.settle();
    world.is_cut = true;
    let asked = world.submit(order(1, buyer, &[(it, 3)]));
    world.settle();
    assert_eq!(world.outcomes(asked), None);
    world.pass(Duration::from_millis(249));
    assert_eq!(world.outcomes(asked), None);
    world.pass(Duration::from_millis(1));
    assert_eq!(world.outcomes(asked), Some(vec![Outcome::Busy]));
    assert_eq!(world.units(it), (3, 0));
    // The id is as new as before.
    world.is_cut = false;
    world.pass(Duration::from_secs(2));
    let again = world.submit(order(1, buyer, &[(it, 3)]));
    world.settle();
    assert_eq!(world.outcomes(again), Some(vec![Outcome::Ok]));
    world.check();
}

#[test]
fn an_order_that_is_cancelled_while_it_waits_takes_nothing() {
    let mut world = World::new(4, 2);
    let (buyer, it) = (party_on(1, 4, 1), item_at(0, 4, 1));
    world.done(item(it, Party(9), 3));
    world.settle();
    let placed = world.submit(order_paid(1, buyer, &[(it, 2)], PaymentMethod::Awaited));
    let cancelled =
        world.submit(command(|commands| commands.cancel(ChangeId(7), buyer, OrderId(1))));
    world.settle();
    assert_eq!(world.outcomes(placed), Some(vec![Outcome::WrongState]));
    assert_eq!(world.outcomes(cancelled), Some(vec![Outcome::Ok]));
    let View::Order(view) = world.query(buyer, Query::Order(buyer, OrderId(1))) else {
        panic!("it is remembered as cancelled");
    };
    assert_eq!(view.state, OrderState::Cancelled);
    assert_eq!(world.units(it), (3, 0));
    world.check();
}

#[test]
fn sold_out_is_exact_wherever_the_units_are() {
    for (shards, groups, stock) in [(2, 2, 1), (4, 2, 7), (16, 2, 40), (16, 3, 100)] {
        let mut world = World::new(shards, groups);
        let it = item_at(1, shards, 1);
        world.done(item(it, Party(9), stock));
        world.settle();
        // More want one unit than there are, and they come from everywhere at once.
        let mut asked = Vec::new();
        for n in 0..2 * stock {
            let buyer = party_on((n % u64::from(shards)) as u16, shards, 1 + n as usize % 3);
            asked.push(world.submit(order(n.into(), buyer, &[(it, 1)])));
            if n % 7 == 0 {
                world.commit_all();
            }
            if n % 11 == 0 {
                world.carry();
            }
        }
        world.settle();
        let outcomes: Vec<Outcome> =
            asked.iter().map(|asked| world.outcomes(*asked).unwrap()[0]).collect();
        let count = |outcome| outcomes.iter().filter(|found| **found == outcome).count() as u64;
        let found = (count(Outcome::Ok), count(Outcome::SoldOut));
        assert_eq!(found, (stock, stock), "{stock} units over {shards} shards: {outcomes:?}");
        assert_eq!(world.units(it), (stock, stock));
        world.check();
        // What is refunded can be sold again, by anybody.
        let (first, n) = (outcomes.iter().position(|found| *found == Outcome::Ok).unwrap(), 999);
        let buyer = party_on((first as u64 % u64::from(shards)) as u16, shards, 1 + first % 3);
        let refund = |commands: &mut CommandBuffer| {
            commands.refund(ChangeId(1), buyer, OrderId(first as u128), true, &[]);
        };
        world.done(command(refund));
        world.settle();
        let again = world.submit(order(n, party_on(0, shards, 5), &[(it, 1)]));
        world.settle();
        assert_eq!(world.outcomes(again), Some(vec![Outcome::Ok]));
        world.check();
    }
}

#[test]
fn what_is_under_way_when_a_group_ends_arrives() {
    let (from, to) = (party_on(0, 4, 1), party_on(1, 4, 1));
    let (buyer, it) = (party_on(1, 4, 2), item_at(2, 4, 1));
    for ending in 0..8 {
        let mut world = World::new(4, 2);
        world.done(account(from, 100));
        world.done(account(to, 5));
        world.done(item(it, Party(9), 3));
        world.settle();
        let moved = world.submit(transfer(1, main_of(from), main_of(to), 60));
        let asked = world.submit(order(1, buyer, &[(it, 2)]));
        world.commit_all();
        assert_eq!(world.outcomes(moved), Some(vec![Outcome::Ok]));
        // Here or there, or both; with the messages that are under way, or without.
        let ends = |world: &mut World| {
            (0..2).filter(|group| ending >> group & 1 == 1).for_each(|group| world.restart(group));
            if ending & 4 != 0 {
                world.lose_messages();
            }
        };
        ends(&mut world);
        world.check();
        world.carry();
        ends(&mut world);
        world.check();
        // What isn't acknowledged is sent again after a while.
        world.pass(Duration::from_secs(3));
        assert_eq!((world.balance(from), world.balance(to)), (40, 65), "ending {ending}");
        // The client of an order that waited asks again.
        let again = match world.outcomes(asked) {
            Some(found) if found == [Outcome::Ok] => asked,
            _ => world.submit(order(1, buyer, &[(it, 2)])),
        };
        world.settle();
        assert_eq!(world.outcomes(again), Some(vec![Outcome::Ok]), "ending {ending}");
        assert_eq!(world.units(it), (3, 2), "ending {ending}");
        world.check();
    }
}

#[test]
fn a_shard_that_lost_what_its_peers_know_of_is_told() {
    let mut world = World::new(2, 2);
    let (from, to) = (party_on(0, 2, 1), party_on(1, 2, 1));
    world.done(account(from, 100));
    world.done(account(to, 5));
    let before = world.log_of(1);
    world.done(transfer(1, main_of(from), main_of(to), 60));
    world.settle();
    world.pass(Duration::from_secs(1)); // The receiver has acknowledged.
    // The receiver's log is one of an earlier day.
    world.restart_on(1, before);
    world.submit(transfer(2, main_of(from), main_of(to), 1));
    world.commit_all();
    let lost = world.try_carry().unwrap_err();
    assert_eq!((lost.shard, lost.peer, lost.direction), (ShardId(1), ShardId(0), "from"));
    assert!(lost.have < lost.known, "{lost}");
}

#[test]
fn what_a_seller_earned_comes_home_when_the_next_step_is_over() {
    let step = Duration::from_secs(100);
    for shards in [1, 4] {
        let groups = usize::from(shards).min(2);
        let mut world = World::with_step(shards, groups, step);
        let seller = party_on(0, shards, 3);
        let it = item_at(0, shards, 1);
        world.done(item(it, seller, 1_000));
        world.settle();
        for shard in 0..shards {
            world.done(order(1, party_on(shard, shards, 1), &[(it, 2)]));
        }
        let earned = 20 * u64::from(shards);
        let settled = |world: &World| world.balance_of(seller, AccountKind::Settlement);
        world.settle();
        // It is earned in the step that runs now; that one and the next must be over.
        let begun = world.now.0 / step.as_micros() as u64;
        let over = Time((begun + 2) * step.as_micros() as u64);
        world.pass_until(Time(over.0 - 1));
        assert_eq!(settled(&world), 0, "{shards} shards");
        let swept = world.count_records(model::record::Kind::Sweep);
        // Nobody asks for anything: the groups wake by themselves.
        world.pass_until(over);
        world.settle();
        assert_eq!(settled(&world), i128::from(earned), "{shards} shards");
        let sweeps = world.count_records(model::record::Kind::Sweep) - swept;
        assert_eq!(sweeps, usize::from(shards) + 1, "one for each shard, one more at home");
        world.check();
        // Now it can be paid out, and no more than that.
        let settlement = (seller, AccountKind::Settlement);
        let much = world.submit(transfer(1, settlement, OUTSIDE, earned + 1));
        let all = world.submit(transfer(2, settlement, OUTSIDE, earned));
        world.settle();
        assert_eq!(world.outcomes(much), Some(vec![Outcome::InsufficientFunds]));
        assert_eq!(world.outcomes(all), Some(vec![Outcome::Ok]));
        assert_eq!(settled(&world), 0);
        world.check();
    }
}

#[test]
fn an_order_that_is_not_paid_in_time_gives_its_units_back() {
    let mut world = World::new(4, 2);
    let (buyer, it) = (party_on(1, 4, 1), item_at(0, 4, 1));
    world.done(item(it, Party(9), 1_000));
    world.settle();
    let due = world.now.after(Duration::from_secs(60));
    let reserve = |commands: &mut CommandBuffer| {
        let mut place = commands.place();
        place.line(it, Quantity(5), None);
        place.expires(due);
        place.finish(buyer, OrderId(1), GBP, PaymentMethod::Awaited);
    };
    world.done(command(reserve));
    let state = |world: &World| match world.query(buyer, Query::Order(buyer, OrderId(1))) {
        View::Order(view) => view.state,
        view => panic!("{view:?}"),
    };
    world.pass_until(Time(due.0 - 1));
    assert_eq!((state(&world), world.units(it)), (OrderState::Reserved, (1_000, 5)));
    world.pass_until(due);
    assert_eq!((state(&world), world.units(it)), (OrderState::Expired, (1_000, 0)));
    world.check();
}

#[test]
fn rehearsal_that_is_stopped_stands_still_and_wakes_nobody() {
    let mut world = World::new(1, 1);
    let due = world.now.after(Duration::from_secs(60));
    let rehearse = |commands: &mut CommandBuffer| {
        commands.set_realm(Realm::Drill);
        commands.create_item(ItemId(1), Party(9), GBP, Amount(10), 5, Sale::default());
        let mut place = commands.place();
        place.line(ItemId(1), Quantity(1), None);
        place.expires(due);
        place.finish(Party(1), OrderId(1), GBP, PaymentMethod::Awaited);
    };
    world.done(command(rehearse));
    let wait = Duration::from_micros(due.0 - world.now.0);
    assert_eq!(world.groups[0].next_wake(world.moment()), Some(wait));
    let moment = world.moment();
    world.groups[0].stop_drill(moment, true);
    assert_eq!(world.groups[0].next_wake(world.moment()), None);
    let refused = world.submit(command(|commands| {
        commands.set_realm(Realm::Drill);
        commands.create_account(Party(1), GBP, Amount(10));
    }));
    world.pass_until(due);
    assert_eq!(world.outcomes(refused), Some(vec![Outcome::Busy]));
    let records = world.count_records(model::record::Kind::Timer);
    assert_eq!(records, 0, "nothing of it gets into the log");
    let moment = world.moment();
    world.groups[0].stop_drill(moment, false);
    world.settle();
    assert_eq!(world.count_records(model::record::Kind::Timer), 1);
    world.check();
}

#[test]
fn who_waits_when_rehearsal_is_stopped_is_told_to_try_again() {
    let mut world = World::new(2, 2);
    let (buyer, it) = (party_on(1, 2, 1), item_at(0, 2, 1));
    let listed = command(|commands| {
        commands.set_realm(Realm::Drill);
        commands.create_item(it, Party(9), GBP, Amount(10), 4, Sale::default());
    });
    world.done(listed);
    world.settle();
    // One unit is at the buyer's shard, and nobody can be asked for more.
    world.is_cut = true;
    let order = || {
        command(|commands| {
            commands.set_realm(Realm::Drill);
            let mut place = commands.place();
            place.line(it, Quantity(3), None);
            place.finish(buyer, OrderId(1), GBP, PaymentMethod::External);
        })
    };
    let asked = world.submit(order());
    assert_eq!(world.outcomes(asked), None);
    let moment = world.moment();
    world.groups.iter_mut().for_each(|group| group.stop_drill(moment, true));
    world.is_cut = false;
    world.settle();
    assert_eq!(world.outcomes(asked), Some(vec![Outcome::Busy]));
    assert_eq!(world.groups.iter().map(node::ShardGroup::waiting).sum::<usize>(), 0);
    let moment = world.moment();
    world.groups.iter_mut().for_each(|group| group.stop_drill(moment, false));
    let asked = world.submit(order());
    world.settle();
    assert_eq!(world.outcomes(asked), Some(vec![Outcome::Ok]));
    world.check();
}
