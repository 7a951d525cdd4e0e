//! The parts, each beside the least that could be done for the same job.

use std::sync::Arc;
use std::time::{Duration, Instant};

use model::frame::{FrameBuilder, FramePlace};
use model::json::decode::{Request, decode};
use model::record::{CommandBuffer, RULE_VERSION, Sale};
use model::{Amount, Currency, Epoch, ItemId, Offset, Party, ShardId, Time};
use mq::{DirDisk, LocalConfig, LocalLog, Log};
use txn_core::{Capacity, Seat, Shard, SpareRegions};

use super::bare;
use super::bare_server::{BareServer, Http};
use super::crest;
use super::load::{Load, Population, drive_apart};
use super::table::{Row, histogram, quantiles, typical};
use super::{BATCH, CONNECTIONS};
use crate::run::{Failure, root};

/// Alternations between a part and its peer.
pub(super) const ROUNDS: usize = 5;
/// The default profile of a drill.
pub(super) const BUYERS: u64 = 1_000_000;
pub(super) const ITEMS: u64 = 100_000;

/// Applying alone: batches of the default profile, decoded before, decided and framed.
pub(super) fn apply() -> Result<Vec<Row>, Failure> {
    const BATCHES: u64 = 300;
    let mut row = Row::new(
        "apply: decide and frame an order, one thread",
        "orders/s",
        "a hash set of ids and two arrays",
    );
    let population = Population::new(BUYERS, ITEMS);
    let mut shard = Shard::new(Seat::alone(), 1, SpareRegions::default());
    let orders = BATCHES * BATCH * ROUNDS as u64;
    shard.reserve(Capacity { accounts: BUYERS, items: ITEMS, orders });
    let mut replies = Vec::new();
    let mut frame = FrameBuilder::default();
    let mut commands = CommandBuffer::default();
    for item in 1..=ITEMS {
        let (seller, price) = (Party(population.seller(item)), Amount(population.price(item)));
        commands.create_item(ItemId(item), seller, Currency::GBP, price, 1 << 40, Sale::default());
    }
    for buyer in 1..=BUYERS {
        commands.create_account(Party(buyer), Currency::GBP, Amount(10_000_000_000));
    }
    apply_all(&mut shard, &commands, &mut frame, &mut replies)?;
    while shard.spare_regions().count() < 4 {
        shard.spare_regions().add();
    }
    let mut bare = bare::Bare::new(BUYERS, ITEMS, orders);

    for round in 0..ROUNDS as u64 {
        let batches: Vec<CommandBuffer> =
            (0..BATCHES).map(|n| population.commands(round * BATCHES + n, BATCH)).collect();
        let start = Instant::now();
        for commands in &batches {
            apply_all(&mut shard, commands, &mut frame, &mut replies)?;
        }
        row.ours.push((BATCHES * BATCH) as f64 / start.elapsed().as_secs_f64());
        let start = Instant::now();
        for commands in &batches {
            bare.apply(commands);
        }
        row.peer.push((BATCHES * BATCH) as f64 / start.elapsed().as_secs_f64());
    }
    Ok(vec![row])
}

pub(super) fn apply_all(
    shard: &mut Shard,
    commands: &CommandBuffer,
    frame: &mut FrameBuilder,
    replies: &mut Vec<model::Reply>,
) -> Result<(), Failure> {
    replies.clear();
    let mut records = commands.records();
    while replies.len() < commands.count() as usize {
        *frame = FrameBuilder::reuse(std::mem::take(frame).into_bytes());
        shard.apply(Time(1), &mut records, frame, replies)?;
    }
    match replies.iter().all(|reply| reply.outcome.is_done()) {
        true => Ok(()),
        false => Err("an order of the benchmark was refused".into()),
    }
}

/// Appending with sync: frames of several sizes, beside the same writes on a bare file.
pub(super) fn append() -> Result<Vec<Row>, Failure> {
    const APPENDS: usize = 400;
    let dir = tempfile::tempdir_in(root().join("target"))?;
    let mut rows = Vec::new();
    for frame_bytes in [4 << 10, 64 << 10, 256 << 10] {
        let kib = frame_bytes >> 10;
        let mut row = Row::new(
            format!("append: {kib} KiB frames, each synced"),
            "MB/s",
            "pwrite + fdatasync of a preallocated file",
        );
        let disk = Arc::new(DirDisk::open(dir.path().join(format!("log-{kib}")))?);
        let (mut log, _) = LocalLog::open(disk, LocalConfig::default())?;
        let mut bare =
            bare::BareFile::create(&dir.path().join(format!("bare-{kib}")), frame_bytes)?;
        let mut latency = [histogram(), histogram()];
        for _ in 0..ROUNDS {
            let mut took = [Duration::ZERO; 2];
            for _ in 0..APPENDS {
                let frame = next_frame(&log, frame_bytes); // What the shard does, not the log.
                let began = Instant::now();
                log.append(&[&frame])?;
                if log.segments().len() > 2 {
                    // As a log that is trimmed: segments are used again, and not made of zeros.
                    log.trim(&[(ShardId(0), log.end(ShardId(0)).next)])?;
                }
                let appended = Instant::now();
                bare.append(frame_bytes)?;
                let times = [appended - began, appended.elapsed()];
                for (side, time) in times.into_iter().enumerate() {
                    took[side] += time;
                    latency[side].saturating_record(time.as_micros() as u64);
                }
            }
            let rate = |took: Duration| (APPENDS * frame_bytes) as f64 / took.as_secs_f64() / 1e6;
            row.ours.push(rate(took[0]));
            row.peer.push(rate(took[1]));
        }
        log.close()?;
        row.latency = Some(latency.map(|latency| quantiles(&latency)));
        rows.push(row);
    }
    Ok(rows)
}

/// A frame that follows the log's last one, and fills about so many bytes.
pub(super) fn next_frame(log: &LocalLog, bytes: usize) -> Vec<u8> {
    let end = log.end(ShardId(0));
    let mut commands = CommandBuffer::default();
    let mut builder = FrameBuilder::default();
    commands.create_account(Party(1), Currency::GBP, Amount(1));
    // The envelope of the write takes the rest of the last block.
    while builder.len() + commands.bytes().len() + 128 <= bytes {
        builder.push(commands.bytes());
    }
    let place = FramePlace {
        shard: ShardId(0),
        epoch: Epoch(1),
        first_offset: Offset(end.next.0),
        time: Time(1),
        previous: end.previous,
    };
    builder.finish(place, RULE_VERSION).0
}

/// Decoding JSON bodies of 1,000 orders into commands, beside only finding their tokens.
pub(super) fn decode_orders() -> Result<Vec<Row>, Failure> {
    const BODIES: u64 = 300;
    let population = Population::new(BUYERS, ITEMS);
    let bodies: Vec<Vec<u8>> = (0..16).map(|n| population.body(n, BATCH)).collect();
    let bytes: usize = bodies.iter().map(Vec::len).sum();
    let mut row = Row::new(
        format!("decode: JSON orders of {} bytes", bytes / bodies.len() / BATCH as usize),
        "orders/s",
        "the JSON library skipping over the values",
    );
    let mut commands = CommandBuffer::default();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for n in 0..BODIES {
            commands.clear();
            decode(Request::Orders, &bodies[n as usize % bodies.len()], &mut commands)?;
        }
        row.ours.push((BODIES * BATCH) as f64 / start.elapsed().as_secs_f64());
        let start = Instant::now();
        for n in 0..BODIES {
            bare::skip(&bodies[n as usize % bodies.len()])?;
        }
        row.peer.push((BODIES * BATCH) as f64 / start.elapsed().as_secs_f64());
    }
    Ok(vec![row])
}

/// The drill, beside the same load on a server that reads bodies and answers a constant, with as
/// many threads as the platform has.
pub(super) fn drill() -> Result<Vec<Row>, Failure> {
    let crest = crest::build()?;
    let threads = std::thread::available_parallelism()?.get();
    let load = Load {
        buyers: BUYERS,
        items: ITEMS,
        batch: BATCH,
        connections: CONNECTIONS,
        duration: Duration::from_secs(4),
    };
    let mut row = Row::new(
        "drill: JSON batches of 1,000 over 8 connections, durable, generator included",
        "orders/s",
        format!("a bare hyper server on {threads} threads that reads and answers a constant"),
    );
    let mut latencies = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        let drilled = crest::drill(&crest, &root().join("target"), &["--duration", "8s"])?;
        let server = BareServer::start(threads, BATCH, Http::One)?;
        let bare = drive_apart(&server.url, &load)?;
        row.ours.push(drilled.orders_per_s);
        row.peer.push(bare.orders_per_s);
        for (all, one) in latencies.iter_mut().zip([drilled.latency_ms, bare.latency_ms]) {
            all.push(one);
        }
    }
    row.latency = Some(latencies.map(|rounds| typical(&rounds)));
    Ok(vec![row])
}

/// The drill on many shards, beside one.
pub(super) fn drill_shards() -> Result<Vec<Row>, Failure> {
    let crest = crest::build()?;
    let mut rows = [16, 64].map(|shards| {
        let what = format!("drill of 8 s on {shards} shards, JSON batches of 1,000");
        Row::new(what, "orders/s", "on one shard")
    });
    for _ in 0..ROUNDS {
        let mut rates = Vec::new();
        for shards in ["1", "16", "64"] {
            let args = ["--duration", "8s", "--shards", shards];
            rates.push(crest::drill(&crest, &root().join("target"), &args)?.orders_per_s);
        }
        for (row, rate) in rows.iter_mut().zip(&rates[1..]) {
            row.ours.push(*rate);
            row.peer.push(rates[0]);
        }
    }
    Ok(rows.into())
}
