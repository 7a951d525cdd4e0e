//! The generator, as the benchmarks use it: its orders for those who are not Crest, and its
//! closed loop against servers that answer anything.
//!
//! Everything that the benchmarks want of `loadgen` is here.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use loadgen::engine::{self, unix_ms};
use loadgen::orders::write_orders;
use loadgen::{Orders, Pace, Plan, Profile, Progress, Protocol, RunId, Settings, Target, Trust};
use model::record::CommandBuffer;
use model::{Currency, ItemId, OrderId, PaymentMethod, Quantity};
use serde::{Deserialize, Serialize};

use crate::run::{Failure, output};

pub(super) use loadgen::profile::{BUYER_BALANCE, ITEM_STOCK, SELLERS};

/// Threads of a drill's generator unless it is told otherwise.
const THREADS: usize = 1;

/// Buyers, items, and the orders that a drill of them places.
#[derive(Clone)]
pub(super) struct Population {
    profile: Arc<Profile>,
    run: RunId,
}

/// An order of a drill, in plain numbers.
pub(super) struct PlainOrder {
    pub(super) buyer: u64,
    pub(super) id: u128,
    /// Item and quantity; an item may stand on several.
    pub(super) lines: Vec<(u64, u32)>,
}

impl Population {
    pub(super) fn new(buyers: u64, items: u64) -> Population {
        Population::in_batches(buyers, items, 1_000)
    }

    fn in_batches(buyers: u64, items: u64, batch: u64) -> Population {
        let mut settings = Settings::default();
        settings.buyers.count = buyers;
        settings.items.count = items;
        settings.requests.batch = batch;
        Population { profile: Arc::new(Profile::of(settings)), run: RunId::new(unix_ms()) }
    }

    pub(super) fn buyers(&self) -> u64 {
        self.profile.buyers()
    }

    pub(super) fn items(&self) -> u64 {
        self.profile.items()
    }

    /// In pence.
    pub(super) fn price(&self, item: u64) -> u64 {
        self.profile.price(ItemId(item))
    }

    /// The party that sells an item.
    pub(super) fn seller(&self, item: u64) -> u64 {
        self.profile.seller(ItemId(item)).0
    }

    /// Order `n`, under an id of its own.
    pub(super) fn order(&self, n: u64) -> PlainOrder {
        let order = self.profile.order(n);
        PlainOrder {
            buyer: order.buyer.0,
            id: self.run.order_id(unix_ms(), n).0,
            lines: order.map(|(item, quantity)| (item.0, quantity)).collect(),
        }
    }

    /// Batch `number` of so many orders, as commands.
    pub(super) fn commands(&self, number: u64, orders: u64) -> CommandBuffer {
        let mut commands = CommandBuffer::default();
        for n in number * orders..(number + 1) * orders {
            let order = self.profile.order(n);
            let (buyer, id) = (order.buyer, self.run.order_id(1_700_000_000_000, n));
            let mut place = commands.place();
            for (item, quantity) in order {
                place.line(item, Quantity(quantity), None);
            }
            place.finish(buyer, OrderId(id.0), Currency::GBP, PaymentMethod::Balance);
        }
        commands
    }

    /// The same batch as the body of a request.
    pub(super) fn body(&self, number: u64, orders: u64) -> Vec<u8> {
        let mut body = Vec::new();
        let first = number * orders;
        write_orders(&self.profile, self.run, first, orders, unix_ms(), &mut body);
        body
    }
}

/// Orders that a server was sent, flat out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) buyers: u64,
    pub(super) items: u64,
    /// Orders per request.
    pub(super) batch: u64,
    pub(super) connections: usize,
    pub(super) duration: Duration,
}

/// What a server made of a load.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Sustained {
    pub(super) orders_per_s: f64,
    /// p50, p99 and p99.9 of an order, in ms.
    pub(super) latency_ms: [f64; 3],
}

/// Sends orders to a server from a process of its own, with as many threads as a drill's
/// generator has: so it has the same share of the machine as it has in a drill.
pub(super) fn drive_apart(url: &str, load: &Load) -> Result<Sustained, Failure> {
    let numbers = [
        load.buyers,
        load.items,
        load.batch,
        load.connections as u64,
        load.duration.as_millis() as u64,
    ];
    let mut driver = Command::new(std::env::current_exe()?);
    driver.args(["drive-bare", url]).args(numbers.map(|number| number.to_string()));
    Ok(serde_json::from_str(&output(driver.stderr(Stdio::inherit()))?)?)
}

/// The process that [`drive_apart`] starts: prints what the server made of it.
pub(crate) fn drive_bare(url: &str, numbers: &[u64]) -> Result<(), Failure> {
    let &[buyers, items, batch, connections, milliseconds] = numbers else {
        return Err("buyers, items, batch, connections and milliseconds are needed".into());
    };
    let Population { profile, run } = Population::in_batches(buyers, items, batch);
    let plan = Plan {
        target: Target::from_url(url)?,
        protocol: Protocol::Http1,
        trust: Trust::System,
        connections: connections as usize,
        threads: THREADS,
        pace: Pace::Max(Duration::from_millis(milliseconds)),
        grain: engine::GRAIN,
        timeout: Duration::from_secs(10),
        retry_for: Duration::ZERO,
        keep_bodies: true,
        stop: Arc::default(),
    };
    let progress = Arc::new(Progress::default());
    let ran = engine::run(&plan, |_| Orders::new(profile.clone(), run), &progress)?;
    let recorder = &ran.recorder;
    if recorder.errors() > 0 {
        let main = recorder.main_reason().unwrap_or_default();
        return Err(format!("{} errors, most of them: {main}", recorder.errors()).into());
    }
    let at = |quantile| recorder.kinds[0].latency.value_at_quantile(quantile) as f64 / 1e6;
    let sustained = Sustained {
        orders_per_s: recorder.accepted() as f64 / ran.elapsed.as_secs_f64(),
        latency_ms: [at(0.5), at(0.99), at(0.999)],
    };
    println!("{}", serde_json::to_string(&sustained)?);
    Ok(())
}
