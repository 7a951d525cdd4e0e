//! Worlds drawn from a seed: clients, messages that are lost, doubled and overtaken, groups that
//! end at any moment.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use model::record::{Body, CommandBuffer, Record, RefundLine};
use model::{AccountKind, ChangeId, ItemId, OrderId, Outcome, Party, PaymentMethod, ids};

use crate::world::World;
use crate::{OUTSIDE, account, command, item, main_of, order_paid, transfer};

/// Vigna's SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

const PARTIES: u64 = 12;
const ITEMS: u64 = 5;
const COMMANDS: usize = 150;
const SELLER: Party = Party(77);

/// What makes two commands the same one.
type Key = (u8, u64, u128, u128);

fn key(record: &Record<'_>) -> Key {
    let order = match record.body {
        Body::Place { .. } => None,
        _ => record.order(),
    };
    let order = order.map_or(0, |order| order.0);
    (record.header.kind, record.header.scope.get(), order, record.header.id.get())
}

/// A command of a client, who asks until it has an outcome.
struct Wanted {
    command: CommandBuffer,
    asked: Option<usize>,
    outcome: Option<Outcome>,
}

impl Wanted {
    fn words(&self) -> String {
        format!("{:?}", self.command.records().next().unwrap().unwrap().body)
    }
}

fn draw(random: &mut Random, id: u128, placed: &[(Party, OrderId)]) -> CommandBuffer {
    let (buyer, change) = (Party(1 + random.below(PARTIES)), ChangeId(id));
    let newest = placed.len().checked_sub(1 + random.below(8) as usize).map(|at| placed[at]);
    match (random.below(12), newest) {
        (0 | 1, _) => {
            let to = Party(1 + (buyer.0 + random.below(PARTIES - 1)) % PARTIES);
            transfer(id, main_of(buyer), main_of(to), 1 + random.below(200))
        }
        (2, _) => transfer(id, OUTSIDE, main_of(buyer), 1 + random.below(200)),
        // There may be no such account.
        (3, _) => {
            let nobody = Party(1_000 + random.below(20));
            transfer(id, main_of(buyer), (nobody, AccountKind::Main), 1 + random.below(50))
        }
        (4, _) => command(|it| {
            it.restock(change, ItemId(1 + random.below(ITEMS)), 1 + random.below(6));
        }),
        (5, Some((buyer, order))) => command(|it| it.cancel(change, buyer, order)),
        (6, Some((buyer, order))) => {
            let method = PaymentMethod::ALL[1 + random.below(2) as usize];
            command(|it| it.pay(change, buyer, order, method))
        }
        (7, Some((buyer, order))) => {
            let line = RefundLine { quantity: 1.into(), ..RefundLine::default() };
            let lines = &[line][..random.below(2) as usize];
            command(|it| it.refund(change, buyer, order, random.one_in(2), lines))
        }
        _ => {
            let line =
                |random: &mut Random| (ItemId(1 + random.below(ITEMS)), 1 + random.below(3) as u32);
            let lines: Vec<_> = (0..1 + random.below(3)).map(|_| line(random)).collect();
            let method = PaymentMethod::ALL[random.below(3) as usize];
            order_paid(id, buyer, &lines, method)
        }
    }
}

struct Clients {
    wanted: Vec<Wanted>,
    open: VecDeque<usize>,
    placed: Vec<(Party, OrderId)>,
}

impl Clients {
    /// Notes answers. What is told once stays so.
    fn listen(&mut self, world: &World) {
        let wanted = &mut self.wanted;
        self.open.retain(|&number| {
            let it = &mut wanted[number];
            let Some(outcomes) = it.asked.and_then(|asked| world.outcomes(asked)) else {
                return true;
            };
            it.asked = None;
            let outcome = match outcomes[0] {
                Outcome::Busy => return true,
                Outcome::AlreadyDone => Outcome::Ok,
                outcome => outcome,
            };
            assert_eq!(*it.outcome.get_or_insert(outcome), outcome, "told otherwise before");
            let record = it.command.records().next().unwrap().unwrap();
            if let (Body::Place { .. }, Outcome::Ok) = (record.body, outcome) {
                self.placed.push((record.party(), record.order().unwrap()));
            }
            false
        });
    }

    fn ask(&mut self, world: &mut World, number: usize) {
        let asked = world.submit(self.wanted[number].command.clone());
        self.wanted[number].asked = Some(asked);
    }

    /// Holds the logs against what clients were told.
    fn check(&self, world: &World) {
        let mut logged = BTreeMap::new();
        world.for_each_record(|record| {
            if record.home(world.shards).is_some() {
                let outcome = record.outcome().unwrap();
                assert_eq!(logged.insert(key(record), outcome), None, "twice: {record:?}");
            }
        });
        for wanted in &self.wanted {
            let record = wanted.command.records().next().unwrap().unwrap();
            let found = logged.get(&key(&record)).copied();
            if let Some(outcome) = wanted.outcome
                && outcome.is_logged()
            {
                assert_eq!(found, Some(outcome), "{record:?}");
            }
        }
    }
}

fn live(seed: u64) {
    let random = &mut Random(seed);
    let shards = [2, 3, 5, 16][random.below(4) as usize];
    let groups = 1 + random.below(3).min(u64::from(shards) - 1) as usize;
    let mut world = World::new(shards, groups);
    for party in 1..=PARTIES {
        world.done(account(Party(party), 400));
    }
    for number in 1..=ITEMS {
        world.done(item(ItemId(number), SELLER, 5 + random.below(60)));
    }
    if random.one_in(2) {
        world.settle();
    }
    let mut clients = Clients { wanted: Vec::new(), open: VecDeque::new(), placed: Vec::new() };
    while clients.wanted.len() < COMMANDS {
        match random.below(16) {
            0..=5 => {
                let number = clients.wanted.len();
                let command = draw(random, 1 + number as u128, &clients.placed);
                clients.wanted.push(Wanted { command, asked: None, outcome: None });
                clients.open.push_back(number);
                clients.ask(&mut world, number);
            }
            // Somebody asks again, whether an answer is on its way or not.
            6 if !clients.open.is_empty() => {
                let at = random.below(clients.open.len() as u64) as usize;
                let number = clients.open[at];
                clients.ask(&mut world, number);
            }
            7..=9 => world.append(random.below(groups as u64) as usize),
            10 | 11 => world.durable(random.below(groups as u64) as usize),
            12 | 13 => {
                for _ in 0..random.below(8) {
                    let Some(last) = world.mail.len().checked_sub(1) else { break };
                    let message = world.mail.swap_remove(random.below(last as u64 + 1) as usize);
                    match random.below(12) {
                        0 => continue, // Lost.
                        1 => world.mail.push(message.clone()),
                        _ => {}
                    }
                    world.deliver(&message).unwrap();
                }
            }
            14 => {
                world.now = world.now.after(Duration::from_micros(random.below(150_000)));
                world.tick();
            }
            _ if random.one_in(4) => {
                world.restart(random.below(groups as u64) as usize);
                world.check();
            }
            _ => clients.listen(&world),
        }
    }
    // From here on nothing is lost, and everybody asks until there is an answer.
    for _ in 0..100 {
        world.commit_all();
        world.pass(Duration::from_millis(500));
        clients.listen(&world);
        clients.check(&world);
        if clients.open.is_empty() && world.waiting() == 0 {
            break;
        }
        for number in clients.open.clone() {
            clients.ask(&mut world, number);
        }
    }
    let open: Vec<String> = clients.open.iter().map(|n| clients.wanted[*n].words()).collect();
    assert!(open.is_empty() && world.waiting() == 0, "never answered: {open:#?}");
    world.pass(Duration::from_secs(60));
    world.check();
    // Nothing is under way any more: each shard has what the others sent it.
    for (from, to) in world.members().iter().flat_map(|a| {
        let shards = world.members();
        shards.into_iter().map(move |b| (*a, b)).collect::<Vec<_>>()
    }) {
        let realm = model::Realm::Live;
        let (a, b) = (from.seat().id, to.seat().id);
        assert_eq!(from.stream(realm, b).next_out, to.stream(realm, a).next_in, "{a} to {b}");
        assert!(from.is_settled(realm), "shard {a} still waits for units");
    }
    // What is in the logs is what the groups have in memory.
    let before: Vec<u64> = world.members().iter().map(|shard| shard.state_hash()).collect();
    (0..groups).for_each(|group| world.restart(group));
    let after: Vec<u64> = world.members().iter().map(|shard| shard.state_hash()).collect();
    assert_eq!(before, after);
    clients.check(&world);
    assert!(ids::shard_of(SELLER, shards).0 < shards);
}

#[test]
fn whatever_is_lost_and_whoever_ends_nothing_is_done_twice_or_forgotten() {
    let number = |name: &str, default| {
        std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
    };
    let first = number("CREST_SEED", 1);
    for seed in first..first + number("CREST_SEEDS", 60) {
        if let Err(panic) = std::panic::catch_unwind(|| live(seed)) {
            eprintln!("CREST_SEED={seed} CREST_SEEDS=1 cargo test -p node --test groups whatever");
            std::panic::resume_unwind(panic);
        }
    }
}
