//! Shards that share items and parties, over streams that lose, repeat and delay.
//!
//! After every step units and money add up over all shards and streams. When everything has
//! arrived nobody waits, and where more was asked for than there was, exactly that was sold.
//!
//! `STREAMS_SEED` runs one seed; `STREAMS_CASES` says how many are run.

mod audit;
mod clients;
mod crossings;
mod node;
mod world;

use model::record::ItemUpdate;
use model::{Outcome, Realm};

use audit::{assert_at_rest, units_of};
use clients::Clients;
use world::{Random, World};

/// Runs a scenario for many seeds, and says which one it was that failed.
fn for_each_seed(name: &str, cases: u64, scenario: impl Fn(u64)) {
    let number = |name| std::env::var(name).ok().map(|value| value.parse::<u64>());
    let number = |name| number(name).map(|value| value.expect("it is a number"));
    if let Some(seed) = number("STREAMS_SEED") {
        return scenario(seed);
    }
    for seed in 0..number("STREAMS_CASES").unwrap_or(cases) {
        let _hint =
            OnPanic(format!("STREAMS_SEED={seed} cargo test -p txn-core --test streams {name}"));
        scenario(seed);
    }
}

/// Says how to see a failure again.
struct OnPanic(String);

impl Drop for OnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("again with: {}", self.0);
        }
    }
}

fn shards(random: &mut Random) -> u16 {
    2 + random.below(4) as u16
}

/// Everything that clients can ask for, in both realms.
#[test]
fn nothing_is_lost_and_nobody_waits_for_ever() {
    for_each_seed("nothing_is_lost", 60, |seed| {
        let mut random = Random(seed);
        let mut world = World::new(shards(&mut random), seed);
        let mut clients = Clients::new(&mut world);
        for _ in 0..400 {
            clients.act(&mut world);
            for _ in 0..random.below(6) {
                world.stir();
            }
        }
        world.drain();
        assert_at_rest(&mut world.nodes);
    });
}

/// When all is quiet, one order can have all units that are left, whoever holds them.
#[test]
fn what_is_unspent_can_be_bought_anywhere() {
    for_each_seed("what_is_unspent", 60, |seed| {
        let mut random = Random(seed ^ 0x5eed);
        let mut world = World::new(shards(&mut random), seed);
        let mut clients = Clients::new(&mut world);
        for _ in 0..random.below(200) {
            clients.act(&mut world);
            for _ in 0..random.below(6) {
                world.stir();
            }
        }
        world.drain();
        for item in 1..=2 {
            let (_, unspent, _, _) = units_of(&world.nodes, Realm::Live, model::ItemId(item));
            if unspent == 0 {
                continue;
            }
            let free = ItemUpdate { limit: Some(0), ..ItemUpdate::default() };
            let id = model::ChangeId(1 << 100);
            world.ask(Realm::Live, |commands| {
                commands.update_item(id, model::ItemId(item), free);
            });
            world.drain();
            let (buyer, order) = (1 + random.below(20), 1 << 100);
            clients::buy(&mut world, Realm::Live, buyer, order, &[(item, unspent as u32)]);
            world.drain();
            let name = (Realm::Live, buyer, order);
            assert_eq!(world.outcomes.get(&name), Some(&Outcome::Ok), "item {item}, {unspent}");
        }
        assert_at_rest(&mut world.nodes);
    });
}

/// Orders of one unit that are paid at once: as many as there are units, whoever asks where.
#[test]
fn exactly_the_stock_is_sold() {
    for_each_seed("exactly_the_stock", 150, |seed| {
        let mut random = Random(!seed);
        let mut world = World::new(shards(&mut random), seed);
        let stock = random.below(40);
        let demand = stock + 1 + random.below(40);
        let calm = random.below(8);
        clients::list(&mut world, Realm::Live, 1, 10, stock);
        for order in 0..demand {
            let buyer = random.below(20);
            clients::buy(&mut world, Realm::Live, buyer, order.into(), &[(1, 1)]);
            for _ in 0..random.below(1 + calm) {
                world.stir();
            }
        }
        world.drain();
        assert_at_rest(&mut world.nodes);
        let (stocked, unspent, reserved, sold) =
            units_of(&world.nodes, Realm::Live, model::ItemId(1));
        assert_eq!((stocked, unspent, reserved, sold), (stock, 0, 0, stock));
        let refused = demand - stock;
        let outcomes = world.outcomes.values();
        let sold_out = outcomes.filter(|outcome| **outcome == Outcome::SoldOut).count() as u64;
        assert_eq!((world.outcomes.len() as u64, sold_out), (demand, refused));
    });
}
