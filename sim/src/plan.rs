//! What a seed decides of a world before it begins: its size, and what goes wrong in it.

use crate::random::Random;

const STREAMS: u64 = 0x5354_5245_414d_5321;

/// The settings of one run, all drawn from its seed.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) nodes: usize,
    pub(crate) shards: u16,
    /// Groups of shards on a node.
    pub(crate) groups: usize,
    pub(crate) items: u64,
    pub(crate) buyers: u64,
    /// Units that an item is created with, at most.
    pub(crate) stock_max: u64,
    /// What clients ask for before they rest.
    pub(crate) requests: u64,
    /// All orders are for single units, paid at once, and retried until they are final: exactly
    /// what was stocked must be sold.
    pub(crate) is_sale: bool,
    /// Microseconds between steps of taking snapshots; 0: none are taken.
    pub(crate) save_every_us: u64,
    /// Words that each shard keeps of orders and of changes, before the oldest leave memory.
    pub(crate) keep: [u64; 2],
    /// Logs are streams that other machines keep, and not files.
    pub(crate) on_streams: bool,
    pub(crate) faults: Faults,
}

/// What goes wrong, and how often.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    /// Of a hundred messages between nodes: lost, doubled, and much delayed ones.
    pub(crate) lose: u64,
    pub(crate) double: u64,
    pub(crate) delay: u64,
    /// Of a hundred answers and requests of clients: lost ones.
    pub(crate) lose_answers: u64,
    /// Microseconds between crashes, cuts of a link, and jumps of a clock; 0: none.
    pub(crate) crash_every_us: u64,
    pub(crate) cut_every_us: u64,
    pub(crate) jump_every_us: u64,
    /// Of a hundred appends: those whose write or sync fails, and those that are slow.
    pub(crate) fail_append: u64,
    pub(crate) slow_append: u64,
    /// A disk whose syncs say that they worked, and don't, from some moment on.
    pub(crate) lying_disk: bool,
    /// A disk that once writes to another place than it is told.
    pub(crate) misdirected: bool,
    /// Of a hundred crashes: those after which a bit of a snapshot is another.
    pub(crate) flip: u64,
    /// Where logs are streams: of so many calls one goes wrong; 0: none.
    pub(crate) stream_one_in: u64,
}

impl Plan {
    pub(crate) fn of(random: &mut Random) -> Plan {
        let nodes = random.range(1, 3) as usize;
        let shards = *random.pick(&[1, 2, 2, 3, 3, 4, 5, 8]);
        // Apart, so that what a seed decides of the rest stays.
        let mut apart = Random::new(random.clone().next() ^ STREAMS);
        let is_calm = random.percent(10);
        let chance = |random: &mut Random, share| !is_calm && random.percent(share);
        let every = |random: &mut Random, share, low, high| match chance(random, share) {
            true => random.range(low, high),
            false => 0,
        };
        let faults = Faults {
            lose: every(random, 50, 1, 20),
            double: every(random, 50, 1, 20),
            delay: every(random, 50, 1, 20),
            lose_answers: every(random, 50, 1, 20),
            crash_every_us: every(random, 60, 20_000, 500_000),
            cut_every_us: every(random, 40, 20_000, 500_000),
            jump_every_us: every(random, 30, 50_000, 500_000),
            fail_append: every(random, 30, 1, 3),
            slow_append: every(random, 40, 1, 20),
            lying_disk: chance(random, 8),
            misdirected: chance(random, 8),
            flip: every(random, 40, 10, 60),
            stream_one_in: every(&mut apart, 70, 3, 40),
        };
        let is_sale = random.percent(40);
        Plan {
            nodes: nodes.min(shards.into()),
            shards,
            groups: random.range(1, 2) as usize,
            items: if is_sale { random.range(1, 3) } else { random.range(2, 6) },
            buyers: random.range(3, 16),
            stock_max: *random.pick(&[2, 5, 10, 40, 400]),
            requests: random.range(60, 300),
            is_sale,
            keep: match random.percent(60) {
                true => [random.range(0, 300), random.range(0, 200)],
                false => [u64::MAX; 2],
            },
            on_streams: apart.percent(30),
            save_every_us: if random.percent(80) { random.range(200, 20_000) } else { 0 },
            faults,
        }
    }
}
