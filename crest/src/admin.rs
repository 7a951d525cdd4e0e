//! The admin port: is it alive, is it ready, what did it do, where did the time go; and the kill
//! switch for drills.
//!
//! It runs on the main thread, beside the reactors and not on them. Figures are read when they
//! are asked for: a scrape copies counters, and nobody who places an order waits for it.

use std::fmt;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use gateway::DrillDoor;
use node::stages::{Figures, StageTimes};
use node::{
    DiskSpace, DrillSwitch, Feed, Inbox, RowFigures, SnapshotFigures, Stages, ThreadState,
    TrimFigures,
};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use tokio::sync::watch;

/// Bounds of the buckets on `/metrics`, as powers of two of a nanosecond: 256 ns to 34 s.
const STAGE_OCTAVES: std::ops::RangeInclusive<u32> = 8..=35;
/// Bounds of the buckets for the orders of a group: 1 to a million.
const GROUP_OCTAVES: std::ops::RangeInclusive<u32> = 0..=20;
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the admin port looks at.
#[derive(Clone)]
pub(crate) struct Admin {
    stages: Arc<Stages>,
    /// By shard.
    inboxes: Vec<Inbox>,
    kept: Option<Kept>,
    stopping: watch::Receiver<bool>,
    drills: Drills,
}

/// What is beside the log.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(crate) snapshots: Arc<SnapshotFigures>,
    pub(crate) trims: Arc<TrimFigures>,
    /// What left memory.
    pub(crate) rows: Arc<RowFigures>,
    /// The room on the disk.
    pub(crate) space: Arc<DiskSpace>,
    pub(crate) feed: Feed,
}

/// The switch for drills: at the doors, and at every group behind them.
#[derive(Clone)]
pub(crate) struct Drills {
    pub(crate) door: DrillDoor,
    pub(crate) groups: Vec<DrillSwitch>,
}

impl Drills {
    fn stop(&self, stopped: bool) {
        self.door.stop(stopped);
        self.groups.iter().for_each(|group| group.stop(stopped));
        tracing::warn!(stopped, "drills were switched");
    }
}

impl Admin {
    /// `stopping` says when the platform stops.
    pub(crate) fn new(
        stages: Arc<Stages>,
        inboxes: Vec<Inbox>,
        kept: Option<Kept>,
        stopping: watch::Receiver<bool>,
        drills: Drills,
    ) -> Admin {
        Admin { stages, inboxes, kept, stopping, drills }
    }

    /// Answers on a task of the current runtime, as long as that runs. The listener must not
    /// block.
    pub(crate) fn serve(self, listener: TcpListener) -> std::io::Result<()> {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let routes = Router::new()
            .route("/healthz", get(async || "alive\n"))
            .route("/readyz", get(ready))
            .route("/metrics", get(metrics))
            .route("/stages", get(stages))
            .route("/drill", get(drill))
            .route("/drill/stop", post(stop_drill))
            .route("/drill/start", post(start_drill))
            .with_state(Arc::new(self));
        tokio::spawn(async move {
            // It ends with the runtime; a connection that breaks is its client's business.
            let _ = axum::serve(listener, routes).await;
        });
        Ok(())
    }
}

async fn ready(State(admin): State<Arc<Admin>>) -> (StatusCode, &'static str) {
    match *admin.stopping.borrow() {
        false => (StatusCode::OK, "ready\n"),
        true => (StatusCode::SERVICE_UNAVAILABLE, "stopping\n"),
    }
}

/// Whether there is a key for drills, and whether they are stopped.
async fn drill(State(admin): State<Arc<Admin>>) -> Response {
    let door = &admin.drills.door;
    let text = format!("{{\"key\":{},\"stopped\":{}}}", door.has_key(), door.is_stopped());
    ([(CONTENT_TYPE, "application/json")], text).into_response()
}

async fn stop_drill(State(admin): State<Arc<Admin>>) -> Response {
    admin.drills.stop(true);
    drill(State(admin)).await
}

async fn start_drill(State(admin): State<Arc<Admin>>) -> Response {
    admin.drills.stop(false);
    drill(State(admin)).await
}

async fn stages(State(admin): State<Arc<Admin>>) -> Response {
    match sonic_rs::to_vec(&admin.stages.figures()) {
        Ok(text) => ([(CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Metrics {
        figures: admin.stages.figures(),
        inboxes: admin.inboxes.iter().map(|inbox| (inbox.messages(), inbox.bytes())).collect(),
        kept: admin.kept.clone(),
    }));
    let mut text = String::new();
    match encode(&mut text, &registry) {
        Ok(()) => ([(CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(fmt::Error) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Figures of one moment, as metrics.
#[derive(Debug)]
struct Metrics {
    figures: Figures,
    /// Messages and bytes that wait, by shard.
    inboxes: Vec<(usize, usize)>,
    kept: Option<Kept>,
}

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.encode_stages(&mut encoder)?;
        self.encode_counts(&mut encoder)?;
        self.encode_log(&mut encoder)?;
        self.encode_snapshots(&mut encoder)?;
        self.encode_threads(&mut encoder)?;
        self.encode_inboxes(&mut encoder)
    }
}

impl Metrics {
    fn encode_stages(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Time that a write spent in a stage; `whole` is their sum";
        let mut family = encoder.encode_descriptor(
            "crest_stage",
            help,
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        for times in &self.figures.stages.entries {
            let StageTimes { stage, place, requests, sum_ns, buckets, .. } = times;
            let labels = [("stage", stage.word()), ("place", place)];
            let octaves = octaves(buckets, STAGE_OCTAVES, 1e-9);
            family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(
                seconds(*sum_ns),
                *requests,
                &octaves,
                None,
            )?;
        }
        Ok(())
    }

    fn encode_counts(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let requests = &self.figures.requests;
        let kinds =
            [("read", requests.reads), ("write", requests.writes), ("unknown", requests.unknown)];
        counters(
            encoder,
            "crest_requests",
            "Requests, by what they ask for; unknown: for a path or method that there isn't",
            kinds.map(|(kind, count)| ([("kind", kind)], count)),
        )?;
        let help = "Requests of a drill, of those that read or write";
        encoder
            .encode_descriptor("crest_drill_requests", help, None, MetricType::Counter)?
            .encode_counter::<NoLabelSet, _, f64>(&requests.drill, None)?;
        counters(
            encoder,
            "crest_orders",
            "Orders that were to be placed, by what became of them; not a drill's",
            requests.orders.iter().map(|(outcome, n)| ([("outcome", outcome.as_str())], *n)),
        )
    }

    fn encode_log(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let log = &self.figures.log;
        for (name, help, count) in [
            ("crest_log_bytes", "Bytes written to the log, with envelope and padding", log.bytes),
            ("crest_log_frames", "Frames written to the log", log.frames),
            ("crest_log_syncs", "Times the log waited for a sync", log.syncs),
        ] {
            encoder
                .encode_descriptor(name, help, None, MetricType::Counter)?
                .encode_counter::<NoLabelSet, _, f64>(&count, None)?;
        }
        let help = "Records that were written and synced together";
        encoder
            .encode_descriptor("crest_log_group_orders", help, None, MetricType::Histogram)?
            .encode_histogram::<NoLabelSet>(
            log.orders as f64,
            log.groups,
            &octaves(&log.group_orders, GROUP_OCTAVES, 1.0),
            None,
        )
    }

    fn encode_snapshots(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Some(Kept { snapshots, trims, rows, space, feed }) = &self.kept else { return Ok(()) };
        let feed = feed.figures();
        for (name, help, count) in [
            ("crest_trimmed_segments", "Segments that were trimmed", trims.segments()),
            ("crest_archived_bytes", "Bytes the archive took", trims.archived_bytes()),
            ("crest_archive_failures", "Times the archive failed", trims.failed()),
            ("crest_snapshots", "Snapshots of shards that were taken", snapshots.taken()),
            ("crest_snapshots_failed", "Snapshots that were given up", snapshots.failed()),
            ("crest_snapshot_bytes", "Bytes written for snapshots", snapshots.bytes()),
            ("crest_evicted_rows", "Orders and ids of changes that left memory", rows.evicted()),
            ("crest_row_lookups", "Look-ups of what had left memory", rows.lookups()),
            ("crest_row_lookups_failed", "Look-ups that came to nothing", rows.failed()),
            ("crest_feed_events", "Events made while somebody read the feed", feed.events),
            ("crest_feed_missed", "Appends that the feed read from the log later", feed.missed),
        ] {
            encoder
                .encode_descriptor(name, help, None, MetricType::Counter)?
                .encode_counter::<NoLabelSet, _, f64>(&count, None)?;
        }
        let (steps, sum) = snapshots.steps();
        let count = steps.iter().map(|(_, count)| count).sum();
        let bound = |bound: Duration| {
            if bound == Duration::MAX { f64::INFINITY } else { bound.as_secs_f64() }
        };
        let steps: Vec<_> = steps.into_iter().map(|(upto, count)| (bound(upto), count)).collect();
        let help = "Time for which a shard stood still to be saved, step by step";
        let unit = Some(&Unit::Seconds);
        encoder
            .encode_descriptor("crest_snapshot_step", help, unit, MetricType::Histogram)?
            .encode_histogram::<NoLabelSet>(sum.as_secs_f64(), count, &steps, None)?;
        let help = "Bytes of log behind the oldest of the shards' newest snapshots";
        let mut gauge =
            encoder.encode_descriptor("crest_snapshot_lag_bytes", help, None, MetricType::Gauge)?;
        gauge.encode_gauge(&snapshots.lag_bytes())?;
        let index = rows.index();
        for (name, help, figure) in [
            ("crest_feed_readers", "Readers of the feed", feed.readers as u64),
            ("crest_feed_behind", "Those that are behind, and read the log", feed.behind as u64),
            ("crest_disk_free_bytes", "Bytes free on the disk", space.free()),
            ("crest_disk_low", "Whether it is nearly full: 1", u64::from(space.is_low())),
            ("crest_index_entries", "Entries of the log's index", index.entries),
            ("crest_index_runs", "Files of the log's index", index.runs),
            ("crest_index_memory_bytes", "Memory of the log's index", index.memory_bytes),
        ] {
            encoder
                .encode_descriptor(name, help, None, MetricType::Gauge)?
                .encode_gauge(&figure)?;
        }
        Ok(())
    }

    fn encode_threads(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let states = self.figures.threads.iter().flat_map(|times| {
            let states = ThreadState::ALL.into_iter();
            states.filter_map(|state| Some((&times.thread, state, times.in_state(state)?)))
        });
        let help = "Time of a thread, by what it did; all states add up to the uptime";
        let unit = Some(&Unit::Seconds);
        let mut family =
            encoder.encode_descriptor("crest_thread", help, unit, MetricType::Counter)?;
        for (thread, state, ns) in states {
            let labels = [("thread", thread.as_str()), ("state", state.word())];
            let mut counter = family.encode_family(&labels)?;
            counter.encode_counter::<NoLabelSet, _, f64>(&seconds(ns), None)?;
        }
        let help = "Time since the platform started";
        let mut gauge = encoder.encode_descriptor("crest_uptime", help, unit, MetricType::Gauge)?;
        gauge.encode_gauge(&seconds(self.figures.uptime_ns))
    }

    fn encode_inboxes(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let messages = self.inboxes.iter().map(|(messages, _)| *messages);
        gauges(encoder, "crest_inbox_messages", "Submissions and reads that wait", messages)?;
        let bytes = self.inboxes.iter().map(|(_, bytes)| *bytes);
        gauges(encoder, "crest_inbox_bytes", "Bytes of commands that wait", bytes)
    }
}

fn counters<L: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    counts: impl IntoIterator<Item = (L, u64)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, count) in counts {
        let mut counter = family.encode_family(&labels)?;
        counter.encode_counter::<NoLabelSet, _, f64>(&count, None)?;
    }
    Ok(())
}

/// A figure of each shard.
fn gauges(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    figures: impl Iterator<Item = usize>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (shard, figure) in figures.enumerate() {
        family.encode_family(&[("shard", shard)])?.encode_gauge(&(figure as u64))?;
    }
    Ok(())
}

fn seconds(ns: u64) -> f64 {
    ns as f64 * 1e-9
}

/// Fine buckets summed up between powers of two: their upper bounds times `scale`, and how many
/// are in each. The last one has no bound.
fn octaves(
    buckets: &[(u64, u64)],
    powers: std::ops::RangeInclusive<u32>,
    scale: f64,
) -> Vec<(f64, u64)> {
    let mut octaves: Vec<_> =
        powers.clone().map(|power| ((1_u64 << power) as f64 * scale, 0)).collect();
    octaves.push((f64::INFINITY, 0));
    for &(lowest, count) in buckets {
        // What is below a power of two is in buckets that begin below it.
        let power = lowest.checked_ilog2().map_or(0, |power| power + 1);
        let at = power.saturating_sub(*powers.start()).min(powers.clone().count() as u32);
        octaves[at as usize].1 += count;
    }
    octaves
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octaves_hold_what_is_below_their_bound() {
        let buckets = [(0, 1), (1, 2), (7, 3), (8, 4), (1 << 20, 5)];
        let found = octaves(&buckets, 2..=4, 1.0);
        assert_eq!(found, [(4.0, 3), (8.0, 3), (16.0, 4), (f64::INFINITY, 5)]);
        assert_eq!(octaves(&[], 0..=0, 1.0), [(1.0, 0), (f64::INFINITY, 0)]);
    }
}
