//! PostgreSQL with the same order as one function.
//!
//! How many connections suit it best, and whether it should wait a moment before it syncs,
//! depends on the machine and the load; a short trial decides, for each load apart.

use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::task::spawn_local;
use tokio_postgres::{Client, Statement};
use uuid::Uuid;

use crate::bench::cluster::{Cluster, SETTINGS, on_reactor};
use crate::bench::load::{BUYER_BALANCE, ITEM_STOCK, Population, Sustained};
use crate::bench::table::histogram;
use crate::run::Failure;

const BOOKS: &str = include_str!("order.sql");
/// What is tried.
const CONNECTIONS: [usize; 3] = [8, 32, 64];
const COMMIT_DELAYS_US: [u32; 2] = [0, 100];
const TRIAL: Duration = Duration::from_millis(1_500);
/// Orders in flight on a connection, so that the server never waits for the client.
const PIPELINE: usize = 4;
/// Segments of its log (16 MiB each) that are there before the first order. A new cluster has none
/// to use again, and would fill each with zeros while orders wait; one that has run for a day
/// doesn't, and Crest doesn't either.
const SEGMENTS_AHEAD: usize = 63;

/// A cluster with the order's tables.
pub(super) struct Postgres {
    cluster: Cluster,
    next: AtomicU64,
    acknowledged: u64,
    initial_balance: u64,
}

/// How a load is offered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setup {
    pub(super) connections: usize,
    commit_delay_us: u32,
}

impl std::fmt::Display for Setup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} connections, `commit_delay {}`", self.connections, self.commit_delay_us)
    }
}

impl Postgres {
    /// Starts one with its data below `folder`, with the population's buyers and items.
    pub(super) fn start(folder: &Path, population: &Population) -> Result<Postgres, Failure> {
        let cluster = Cluster::start(folder)?;
        let mut postgres = Postgres {
            cluster,
            next: AtomicU64::new(0),
            acknowledged: 0,
            initial_balance: population.buyers() * BUYER_BALANCE,
        };
        on_reactor(postgres.fill(population))??;
        postgres.cluster.is_up()?;
        Ok(postgres)
    }

    async fn connect(&self, commit_delay_us: u32) -> Result<Client, tokio_postgres::Error> {
        self.cluster.connect(&format!("-c commit_delay={commit_delay_us}")).await
    }

    async fn fill(&self, population: &Population) -> Result<(), Failure> {
        let client = self.connect(0).await?;
        client.batch_execute(BOOKS).await?;
        let (buyers, balance) = (population.buyers() as i64, BUYER_BALANCE as i64);
        let accounts = "INSERT INTO account SELECT party, $2::bigint \
                        FROM generate_series(1, $1::bigint) party";
        client.execute(accounts, &[&buyers, &balance]).await?;
        let of_items = |figure: &dyn Fn(u64) -> u64| -> Vec<i64> {
            (1..=population.items()).map(|item| figure(item) as i64).collect()
        };
        let items = of_items(&|item| item);
        let (sellers, prices) =
            (of_items(&|item| population.seller(item)), of_items(&|item| population.price(item)));
        let stocked = "INSERT INTO item SELECT i, s, p, $4::bigint \
                       FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS l (i, s, p)";
        client.execute(stocked, &[&items, &sellers, &prices, &(ITEM_STOCK as i64)]).await?;
        client.execute("INSERT INTO payable SELECT DISTINCT seller, 0 FROM item", &[]).await?;
        client.batch_execute("VACUUM ANALYZE").await?;
        for _ in 0..SEGMENTS_AHEAD {
            // A segment without a record in it can't be left.
            client.batch_execute("SELECT pg_logical_emit_message(true, '', '')").await?;
            client.batch_execute("SELECT pg_switch_wal()").await?;
        }
        // What lies behind a checkpoint is kept to be used again, up to `min_wal_size`.
        client.batch_execute("CHECKPOINT").await?;
        Ok(())
    }

    /// The setup that orders of this population go through most quickly.
    pub(super) fn best_setup(&mut self, population: &Population) -> Result<Setup, Failure> {
        // The first writes to a page after a checkpoint log all of it: they count for no setup.
        let warm = Setup { connections: CONNECTIONS[1], commit_delay_us: 0 };
        self.measure(population, warm, 2 * TRIAL)?;
        let mut best: Option<(f64, Setup)> = None;
        for connections in CONNECTIONS {
            for commit_delay_us in COMMIT_DELAYS_US {
                let setup = Setup { connections, commit_delay_us };
                let rate = self.measure(population, setup, TRIAL)?.orders_per_s;
                eprintln!("  postgres, {setup}: {rate:.0} orders/s");
                if best.is_none_or(|(before, _)| rate > before) {
                    best = Some((rate, setup));
                }
            }
        }
        best.map(|(_, setup)| setup).ok_or_else(|| "no setup was tried".into())
    }

    /// Orders flat out for a while.
    pub(super) fn measure(
        &mut self,
        population: &Population,
        setup: Setup,
        duration: Duration,
    ) -> Result<Sustained, Failure> {
        let (latency, elapsed) = on_reactor(self.drive(population, setup, duration))??;
        self.acknowledged += latency.len();
        let at = |quantile| latency.value_at_quantile(quantile) as f64 / 1e3;
        Ok(Sustained {
            orders_per_s: latency.len() as f64 / elapsed.as_secs_f64(),
            latency_ms: [at(0.5), at(0.99), at(0.999)],
        })
    }

    async fn drive(
        &self,
        population: &Population,
        setup: Setup,
        duration: Duration,
    ) -> Result<(Histogram<u64>, Duration), Failure> {
        let mut clients = Vec::new();
        for _ in 0..setup.connections {
            let client = self.connect(setup.commit_delay_us).await?;
            let place = client.prepare("SELECT place_order($1, $2, $3, $4)").await?;
            clients.push(Rc::new((client, place)));
        }
        let next = Rc::new(AtomicU64::new(self.next.load(Ordering::Relaxed)));
        let start = Instant::now();
        let mut lanes = Vec::new();
        for client in &clients {
            for _ in 0..PIPELINE {
                let (client, next) = (client.clone(), next.clone());
                let orders = population.clone();
                lanes.push(spawn_local(async move {
                    lane(&client.0, &client.1, &orders, &next, start + duration).await
                }));
            }
        }
        let mut latency = histogram();
        for lane in lanes {
            latency.add(lane.await??)?;
        }
        self.next.store(next.load(Ordering::Relaxed), Ordering::Relaxed);
        Ok((latency, start.elapsed()))
    }

    /// Whether every acknowledged order is there, what buyers lost is what sellers got, and
    /// what left the stock is what was ordered.
    pub(super) fn audit(&self) -> Result<(), Failure> {
        let query = "SELECT (SELECT count(*) FROM placed WHERE outcome = 'ok'),
            ((SELECT sum(balance) FROM account) + (SELECT sum(balance) FROM payable))::bigint,
            (SELECT sum($1::bigint - stock) FROM item)::bigint,
            (SELECT sum(q) FROM placed, unnest(quantities) AS q)::bigint";
        let row = on_reactor(async {
            let client = self.connect(0).await?;
            client.query_one(query, &[&(ITEM_STOCK as i64)]).await
        })??;
        let [orders, held, taken, ordered] = [0, 1, 2, 3].map(|at| row.get::<_, i64>(at));
        let orders_kept = orders as u64 == self.acknowledged;
        match orders_kept && held as u64 == self.initial_balance && taken == ordered {
            true => Ok(()),
            false => Err(format!(
                "PostgreSQL holds {orders} orders of {}, {held} pence of {}, and took {taken} \
                 units for {ordered} ordered",
                self.acknowledged, self.initial_balance
            )
            .into()),
        }
    }

    /// Its configuration, for those who read the table.
    pub(super) fn note(&self, setups: &[(&str, Setup)]) -> String {
        let hidden = ["listen_addresses", "log_min_messages", "max_connections"];
        let settings: Vec<String> = SETTINGS
            .iter()
            .filter(|(name, _)| !hidden.contains(name))
            .map(|(name, value)| format!("`{name} {value}`"))
            .collect();
        let setups: Vec<String> =
            setups.iter().map(|(load, setup)| format!("{load}: {setup}")).collect();
        format!(
            "{}; {}; a Unix socket; a prepared call of one function, {PIPELINE} in \
             flight on each connection; {SEGMENTS_AHEAD} segments of its log there before; the best of {CONNECTIONS:?} connections and \
             `commit_delay` {COMMIT_DELAYS_US:?} µs in a trial before, {}. Lines lie in their \
             order's row, items are locked in order; latency is an order's.",
            self.cluster.version,
            settings.join(", "),
            setups.join("; ")
        )
    }
}

/// One order after the other: how long each took, in µs.
async fn lane(
    client: &Client,
    place: &Statement,
    orders: &Population,
    next: &AtomicU64,
    end: Instant,
) -> Result<Histogram<u64>, Failure> {
    let mut latency = histogram();
    while Instant::now() < end {
        let mut order = orders.order(next.fetch_add(1, Ordering::Relaxed));
        order.lines.sort_unstable();
        let (buyer, id) = (order.buyer as i64, Uuid::from_u128(order.id));
        let items: Vec<i64> = order.lines.iter().map(|(item, _)| *item as i64).collect();
        let quantities: Vec<i32> =
            order.lines.iter().map(|(_, quantity)| *quantity as i32).collect();
        let sent = Instant::now();
        let row = client.query_one(place, &[&buyer, &id, &items, &quantities]).await?;
        let outcome: &str = row.get(0);
        if outcome != "ok" {
            return Err(format!("an order was answered {outcome:?}").into());
        }
        latency.saturating_record(sent.elapsed().as_micros() as u64);
    }
    Ok(latency)
}
