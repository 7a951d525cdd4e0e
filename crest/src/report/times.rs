//! Where the time went: the platform's stages and threads between two moments.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use loadgen::{Connection, Target};
use node::stages::{Figures, Stage, StageTimes};
use serde::Serialize;

use crate::Failure;
use crate::watch::on_reactor;

/// What the stages of writes took, and what threads did meanwhile.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Times {
    /// In the order in which a request goes through them; the last is the whole, measured apart.
    pub(crate) stages: Vec<StageFigures>,
    /// The stages' sum over the whole.
    pub(crate) accounted: f64,
    /// Shares of the time, by thread and state.
    pub(crate) threads: BTreeMap<String, BTreeMap<&'static str, f64>>,
}

/// One stage.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct StageFigures {
    stage: &'static str,
    requests: u64,
    orders: u64,
    mean_us: f64,
    p50_us: f64,
    p99_us: f64,
    /// Of the whole.
    share: f64,
    /// Its time over all requests, divided by their orders.
    per_order_ns: f64,
    /// The same by place, the reactor that was asked; the mean in µs.
    by_place: BTreeMap<String, f64>,
}

/// Asks a platform's admin port.
pub(crate) fn fetch(admin: SocketAddr) -> Result<Figures, Failure> {
    let target = Target::from_url(&format!("http://{admin}"))?;
    on_reactor(async move {
        let mut connection = Connection::open(&target).await?;
        let mut request = Vec::new();
        target.get("/stages", &mut request);
        connection.send(&request, &[]).await?;
        let (status, body) = connection.receive().await?;
        match status {
            200 => Ok(sonic_rs::from_slice(body)?),
            _ => Err(format!("http://{admin}/stages: status {status}").into()),
        }
    })?
}

impl Times {
    /// Between two readings. `None` where nothing was written.
    pub(crate) fn between(before: &Figures, after: &Figures) -> Option<Times> {
        let since = after.stages.since(&before.stages);
        let whole = since.stage(Stage::Whole).filter(|whole| whole.requests > 0)?;
        let mut stages = Vec::new();
        let mut sum = 0;
        for stage in Stage::ALL {
            let Some(times) = since.stage(stage) else { continue };
            sum += times.sum_ns;
            let places = since.entries.iter().filter(|entry| entry.stage == stage);
            stages.push(StageFigures::of(&times, &whole, places));
        }
        stages.push(StageFigures::of(&whole, &whole, [].iter()));
        let uptime = after.uptime_ns.saturating_sub(before.uptime_ns).max(1) as f64;
        let mut threads = BTreeMap::new();
        for thread in &after.threads {
            let Some(then) = before.threads.iter().find(|then| then.thread == thread.thread) else {
                continue;
            };
            let since = thread.since(then);
            let shares = node::ThreadState::ALL.iter().filter_map(|&state| {
                let share = since.in_state(state)? as f64 / uptime;
                (share > 0.0005).then_some((state.word(), share))
            });
            threads.insert(thread.thread.clone(), shares.collect());
        }
        Some(Times { stages, accounted: sum as f64 / whole.sum_ns as f64, threads })
    }
}

impl StageFigures {
    fn of<'a>(
        times: &StageTimes,
        whole: &StageTimes,
        places: impl Iterator<Item = &'a StageTimes>,
    ) -> StageFigures {
        let us = |ns: f64| ns / 1e3;
        let of_place = |times: &StageTimes| {
            (times.requests > 0).then(|| (times.place.clone(), us(times.mean())))
        };
        StageFigures {
            stage: times.stage.word(),
            requests: times.requests,
            orders: times.orders,
            mean_us: us(times.mean()),
            p50_us: us(times.quantile(0.5) as f64),
            p99_us: us(times.quantile(0.99) as f64),
            share: times.sum_ns as f64 / whole.sum_ns as f64,
            per_order_ns: times.sum_ns as f64 / times.orders.max(1) as f64,
            by_place: places.filter_map(of_place).collect(),
        }
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\n  where the time went, from a request's first byte read to its answer's last \
             written\n\n  {:<8} {:>11} {:>11} {:>11} {:>7} {:>13}",
            "stage", "mean", "p50", "p99", "share", "per order"
        )?;
        for stage in &self.stages {
            writeln!(
                f,
                "  {:<8} {:>8.1} µs {:>8.1} µs {:>8.1} µs {:>5.1} % {:>10.0} ns",
                stage.stage,
                stage.mean_us,
                stage.p50_us,
                stage.p99_us,
                stage.share * 100.0,
                stage.per_order_ns
            )?;
        }
        writeln!(f, "  the stages account for {:.1} % of the whole\n", self.accounted * 100.0)?;
        for (thread, states) in &self.threads {
            let states = states.iter().map(|(state, share)| {
                format!("{} {:.1} %", state.replace('_', " "), share * 100.0)
            });
            let states: Vec<String> = states.collect();
            writeln!(f, "  {thread:<12} {}", states.join(", "))?;
        }
        Ok(())
    }
}
