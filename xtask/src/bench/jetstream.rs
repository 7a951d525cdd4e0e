//! The log on JetStream, beside the same servers driven bare with the same messages.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::context::{Context, ContextBuilder};
use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use async_nats::{ConnectOptions, ServerAddr};
use hdrhistogram::Histogram;
use mq::{LocalConfig, LocalLog, Log, NatsStream, StreamDisk};
use tokio::runtime::Runtime;

use super::crest;
use super::parts::{ROUNDS, next_frame};
use super::table::{Row, histogram, quantiles, typical};
use crate::run::{Failure, root};
use crate::tools::NATS;

#[path = "../../../mq/tests/common/nats.rs"]
mod nats;

/// Messages of a bare client that are on their way at once, which is as many as helps.
const AHEAD: usize = 8;

pub(super) fn measure() -> Result<Vec<Row>, Failure> {
    let servers = nats::Cluster::start(NATS.get()?, &nats::Settings::default());
    drop(nats::connect(&nats::config(&servers, "ready")));
    let bare = Bare::connect(&servers.url())?;
    let mut rows = append(&servers, &bare)?;
    rows.append(&mut drill(&servers, &bare)?);
    Ok(rows)
}

/// A client of the servers and nothing else.
struct Bare {
    runtime: Runtime,
    context: Context,
}

/// What a bare client took for some messages.
struct Took {
    time: Duration,
    latency: Histogram<u64>,
}

impl Bare {
    fn connect(url: &str) -> Result<Bare, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let servers = url.split(',').map(str::parse).collect::<Result<Vec<ServerAddr>, _>>()?;
        let options = ConnectOptions::with_user_and_password("shop".into(), "shop".into());
        let context = runtime.block_on(async {
            let client = options.connect(servers).await?;
            let context = ContextBuilder::new().timeout(Duration::from_secs(30)).build(client);
            Ok::<_, Failure>(context)
        })?;
        Ok(Bare { runtime, context })
    }

    /// The messages of a stream that it got in its last so many seconds, as they are stored.
    fn messages(&self, stream: &str, last: Duration) -> Result<Vec<StreamMessage>, Failure> {
        self.runtime.block_on(async {
            let stream = self.context.get_stream(stream).await?;
            let state = &stream.cached_info().state;
            let mut messages = Vec::new();
            let mut begin = None;
            for sequence in (state.first_sequence..=state.last_sequence).rev() {
                let message = stream.get_raw_message(sequence).await?;
                if message.time < *begin.get_or_insert(message.time - last) {
                    break;
                }
                messages.push(message);
            }
            messages.reverse();
            Ok(messages)
        })
    }

    /// Publishes them to a stream of the same settings, so many on their way at once.
    fn publish(
        &self,
        like: &str,
        messages: &[StreamMessage],
        ahead: usize,
    ) -> Result<Took, Failure> {
        self.runtime.block_on(async {
            let mut config = self.context.get_stream(like).await?.cached_info().config.clone();
            config.name = "bare".to_string();
            config.subjects = vec!["bare.>".to_string()];
            self.context.create_stream(config).await?;
            let mut latency = histogram();
            let mut on_their_way = VecDeque::with_capacity(ahead);
            let began = Instant::now();
            for message in messages {
                if on_their_way.len() == ahead {
                    settle(&mut on_their_way, &mut latency).await?;
                }
                let payload = message.payload.clone();
                let publish = PublishMessage::build().payload(payload);
                let sent = Instant::now();
                let answer = self.context.send_publish("bare.log", publish).await?;
                on_their_way.push_back((sent, answer));
            }
            while !on_their_way.is_empty() {
                settle(&mut on_their_way, &mut latency).await?;
            }
            let time = began.elapsed();
            self.context.delete_stream("bare").await?;
            Ok(Took { time, latency })
        })
    }

    fn remove(&self, stream: &str) -> Result<(), Failure> {
        self.runtime.block_on(self.context.delete_stream(stream))?;
        Ok(())
    }
}

type Sent = (Instant, async_nats::jetstream::context::PublishAckFuture);

/// Waits for the answer to the oldest one.
async fn settle(
    on_their_way: &mut VecDeque<Sent>,
    latency: &mut Histogram<u64>,
) -> Result<(), Failure> {
    if let Some((sent, answer)) = on_their_way.pop_front() {
        answer.await?;
        latency.saturating_record(sent.elapsed().as_micros() as u64);
    }
    Ok(())
}

/// Appends one after the other, each durable on all servers that it takes.
fn append(servers: &nats::Cluster, bare: &Bare) -> Result<Vec<Row>, Failure> {
    const APPENDS: usize = 300;
    let mut rows = Vec::new();
    for frame_bytes in [64 << 10, 320 << 10] {
        let kib = frame_bytes >> 10;
        let stream = format!("append-{kib}");
        let name = format!("append on JetStream: {kib} KiB frames, one after the other");
        let mut row = Row::new(name, "MB/s", "the same messages, published by a bare client");
        let mut latency = [histogram(), histogram()];
        for _ in 0..ROUNDS {
            let config = nats::config(servers, &stream);
            let disk = StreamDisk::own(Arc::new(NatsStream::connect(&config)?), 1)?;
            let (mut log, _) = LocalLog::open(Arc::new(disk), LocalConfig::default())?;
            let first = bare.messages(&stream, Duration::from_secs(3600))?.len();
            let mut took = Duration::ZERO;
            for _ in 0..APPENDS {
                let frame = next_frame(&log, frame_bytes); // What the shard does, not the log.
                let began = Instant::now();
                log.append(&[&frame])?;
                took += began.elapsed();
                latency[0].saturating_record(began.elapsed().as_micros() as u64);
            }
            log.close()?;
            let stored = bare.messages(&stream, Duration::from_secs(3600))?;
            let found = bare.publish(&stream, &stored[first..first + APPENDS], 1)?;
            latency[1].add(&found.latency)?;
            let rate = |took: Duration| (APPENDS * frame_bytes) as f64 / took.as_secs_f64() / 1e6;
            row.ours.push(rate(took));
            row.peer.push(rate(found.time));
            bare.remove(&stream)?;
        }
        row.latency = Some(latency.map(|latency| quantiles(&latency)));
        rows.push(row);
    }
    Ok(rows)
}

/// The whole platform, generator included.
fn drill(servers: &nats::Cluster, bare: &Bare) -> Result<Vec<Row>, Failure> {
    let crest = crest::build()?;
    let mut rows = Vec::new();
    for (connections, batch) in [("8", "1000"), ("16", "4000")] {
        let name = format!(
            "drill on JetStream, 3 replicas: {connections} connections, batches of {batch}, \
             generator included"
        );
        let peer = format!("the same messages, published by a bare client, {AHEAD} on their way");
        let mut row = Row::new(name, "orders/s", peer);
        let mut latencies = [Vec::new(), Vec::new()];
        for round in 0..ROUNDS {
            let stream = format!("drill-{connections}-{round}");
            let (url, system) = (servers.url(), servers.system_url());
            let at = ["--log", "jetstream", "--nats", &url, "--nats-system", &system];
            let load = ["--connections", connections, "--batch", batch, "--buyers", "100000"];
            let more = ["--nats-stream", &stream, "--duration", "6s"];
            let args = [&at[..], &load, &more].concat();
            let drilled = crest::drill(&crest, &root().join("target"), &args)?;
            let messages = bare.messages(&stream, Duration::from_secs_f64(drilled.duration_s))?;
            let found = bare.publish(&stream, &messages, AHEAD)?;
            let orders = drilled.orders_per_s * drilled.duration_s;
            row.ours.push(drilled.orders_per_s);
            row.peer.push(orders / found.time.as_secs_f64());
            let ms = |quantile| found.latency.value_at_quantile(quantile) as f64 / 1e3;
            latencies[0].push(drilled.latency_ms);
            latencies[1].push([ms(0.5), ms(0.99), ms(0.999)]);
            bare.remove(&stream)?;
        }
        row.latency = Some(latencies.map(|rounds| typical(&rounds)));
        rows.push(row);
    }
    Ok(rows)
}
