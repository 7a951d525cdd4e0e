//! `cargo xtask bench`: what the parts do, each beside a peer that does the least that could be
//! done for the same job. Rounds alternate between the two, because the machine's speed drifts
//! within minutes; what counts is the ratio of the medians.

mod peer;

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use loadgen::drive::{Progress, unix_ms};
use loadgen::{Drive, Lines, Pace, Profile, RunId, Target, drive};
use model::frame::{FrameBuilder, FramePlace};
use model::json::decode::{Request, decode};
use model::record::{CommandBuffer, RULE_VERSION};
use model::{
    Amount, Currency, Epoch, Offset, OrderId, Party, PaymentMethod, Quantity, ShardId, Time,
};
use mq::{DirDisk, LocalConfig, LocalLog, Log};
use txn_core::{Capacity, Shard};

use crate::run::{Failure, cargo, output, root, run};

/// Alternations between a part and its peer.
const ROUNDS: usize = 5;
/// The default profile of a drill.
const BUYERS: u64 = 1_000_000;
const ITEMS: u64 = 100_000;
const BATCH: u64 = 1_000;

pub(crate) use peer::serve_bare;

/// What was measured, in one line of a table.
struct Row {
    what: String,
    ours: Vec<f64>,
    peer_name: &'static str,
    peer: Vec<f64>,
    unit: &'static str,
    /// Latencies of ours, and of the peer where it has some.
    latency: Option<[Histogram<u64>; 2]>,
}

impl Row {
    fn new(what: impl Into<String>, unit: &'static str, peer_name: &'static str) -> Row {
        Row {
            what: what.into(),
            ours: Vec::new(),
            peer_name,
            peer: Vec::new(),
            unit,
            latency: None,
        }
    }
}

pub(crate) fn bench(write: bool, only: Option<&str>) -> Result<(), Failure> {
    if cfg!(debug_assertions) {
        // Figures of a debug build say nothing.
        let mut args = vec!["run", "--release", "--quiet", "--package", "xtask", "--", "bench"];
        args.extend(write.then_some("--write"));
        args.extend(only.iter().flat_map(|name| ["--only", name]));
        return run(&mut cargo(&args));
    }
    type Part = fn() -> Result<Vec<Row>, Failure>;
    let parts: [(&str, Part); 4] = [
        ("apply", bench_apply),
        ("append", bench_append),
        ("decode", bench_decode),
        ("drill", bench_drill),
    ];
    let mut rows = Vec::new();
    for (name, part) in parts {
        if only.is_none_or(|only| name.contains(only)) {
            eprintln!("{name} …");
            rows.append(&mut part()?);
        }
    }
    let text = table(&rows, only)?;
    println!("{text}");
    if write {
        let mut file =
            OpenOptions::new().create(true).append(true).open(root().join("BENCHMARKS.md"))?;
        file.write_all(text.as_bytes())?;
    }
    Ok(())
}

/// Applying alone: batches of the default profile, decoded before, decided and framed.
fn bench_apply() -> Result<Vec<Row>, Failure> {
    const BATCHES: u64 = 300;
    let mut row = Row::new(
        "apply: decide and frame an order, one thread",
        "orders/s",
        "a hash set of ids and two arrays",
    );
    let profile = Profile::new(BUYERS, ITEMS, Lines::Mix, 1);
    let mut shard = Shard::new(1);
    let orders = BATCHES * BATCH * ROUNDS as u64;
    shard.reserve(Capacity { accounts: BUYERS, items: ITEMS, orders });
    let mut replies = Vec::new();
    let mut frame = FrameBuilder::default();
    let mut commands = CommandBuffer::default();
    for item in (1..=ITEMS).map(model::ItemId) {
        let (seller, price) = (profile.seller(item), profile.price(item));
        commands.create_item(item, seller, Currency::GBP, Amount(price), 1 << 40);
    }
    for buyer in 1..=BUYERS {
        commands.create_account(Party(buyer), Currency::GBP, Amount(10_000_000_000));
    }
    apply_all(&mut shard, &commands, &mut frame, &mut replies)?;
    while shard.spare_regions().count() < 4 {
        shard.spare_regions().add();
    }
    let mut bare = peer::Bare::new(BUYERS, ITEMS, orders);

    for round in 0..ROUNDS as u64 {
        let batches: Vec<CommandBuffer> =
            (0..BATCHES).map(|n| batch(&profile, round * BATCHES + n)).collect();
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

fn apply_all(
    shard: &mut Shard,
    commands: &CommandBuffer,
    frame: &mut FrameBuilder,
    replies: &mut Vec<model::Reply>,
) -> Result<(), Failure> {
    replies.clear();
    let mut records = commands.records();
    while replies.len() < commands.count() as usize {
        *frame = FrameBuilder::reuse(std::mem::take(frame).into_bytes());
        shard.apply(&mut records, frame, replies)?;
    }
    match replies.iter().all(|reply| reply.outcome.is_done()) {
        true => Ok(()),
        false => Err("an order of the benchmark was refused".into()),
    }
}

/// Batch `number` of a profile, as commands.
fn batch(profile: &Profile, number: u64) -> CommandBuffer {
    let mut commands = CommandBuffer::default();
    let run = RunId::new(7);
    for n in number * BATCH..(number + 1) * BATCH {
        let order = profile.order(n);
        let (buyer, id) = (order.buyer, run.order_id(1_700_000_000_000, n));
        let mut place = commands.place();
        for (item, quantity) in order {
            place.line(item, Quantity(quantity), None);
        }
        place.finish(buyer, OrderId(id.0), Currency::GBP, PaymentMethod::Balance);
    }
    commands
}

/// Appending with sync: frames of several sizes, beside the same writes on a bare file.
fn bench_append() -> Result<Vec<Row>, Failure> {
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
        let mut bare = peer::BareFile::create(&dir.path().join(format!("bare-{kib}")))?;
        let mut latency = [histogram(), histogram()];
        for _ in 0..ROUNDS {
            let mut took = [Duration::ZERO; 2];
            for _ in 0..APPENDS {
                let frame = next_frame(&log, frame_bytes); // What the shard does, not the log.
                let began = Instant::now();
                log.append(&[&frame])?;
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
        row.latency = Some(latency);
        rows.push(row);
    }
    Ok(rows)
}

/// A frame that follows the log's last one, and fills about so many bytes.
fn next_frame(log: &LocalLog, bytes: usize) -> Vec<u8> {
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
fn bench_decode() -> Result<Vec<Row>, Failure> {
    const BODIES: u64 = 300;
    let profile = Profile::new(BUYERS, ITEMS, Lines::Mix, 1);
    let bodies: Vec<Vec<u8>> =
        (0..16).map(|n| loadgen::drive::batch_body(&profile, RunId::new(7), n, BATCH)).collect();
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
            peer::skip(&bodies[n as usize % bodies.len()])?;
        }
        row.peer.push((BODIES * BATCH) as f64 / start.elapsed().as_secs_f64());
    }
    Ok(vec![row])
}

/// The drill, beside the same load on a server that reads bodies and answers a constant.
fn bench_drill() -> Result<Vec<Row>, Failure> {
    const ROUND: &str = "8s";
    let crest = output(&mut cargo(&["metadata", "--format-version", "1", "--no-deps"]))
        .map(|_| root().join("target/release/crest"))?;
    run(&mut cargo(&["build", "--release", "--quiet", "--locked"]))?;
    let dir = tempfile::tempdir()?;
    let mut row = Row::new(
        "drill: JSON batches of 1,000 over 8 connections, durable, generator included",
        "orders/s",
        "a bare hyper server that reads and answers a constant",
    );
    let mut best = Vec::new();
    for round in 0..ROUNDS {
        let json = dir.path().join(format!("{round}.json"));
        let mut drill = Command::new(&crest);
        drill.args(["drill", "--max", "--duration", ROUND, "--json"]).arg(&json);
        run(drill.stdout(Stdio::null()))?;
        let report: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&json)?)?;
        let mean = report["orders_per_s"]["mean"].as_f64().ok_or("a report without a rate")?;
        let latency = &report["latency_ms"];
        best.push((mean, latency.clone()));
        row.ours.push(mean);
        row.peer.push(drive_bare(Duration::from_secs(4))?);
    }
    best.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (_, latency) = &best[best.len() / 2];
    let at = |name: &str| latency[name].as_f64().unwrap_or(f64::NAN);
    let _ = write!(
        row.what,
        " (median round: p50 {:.1} ms, p99 {:.1} ms, p99.9 {:.1} ms)",
        at("p50"),
        at("p99"),
        at("p999")
    );
    Ok(vec![row])
}

/// The generator against [`serve_bare`] in a process of its own.
fn drive_bare(duration: Duration) -> Result<f64, Failure> {
    let mut server = Server(
        Command::new(std::env::current_exe()?).arg("serve-bare").stdout(Stdio::piped()).spawn()?,
    );
    let mut line = String::new();
    let stdout = server.0.stdout.take().ok_or("the bare server has no output")?;
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line)?;
    let plan = Drive {
        target: Target::from_url(line.trim())?,
        profile: Arc::new(Profile::new(BUYERS, ITEMS, Lines::Mix, 1)),
        run: RunId::new(unix_ms()),
        batch: BATCH,
        connections: 8,
        threads: 1,
        pace: Pace::Max,
        duration,
        retry_for: Duration::ZERO,
    };
    let driven = drive(&plan, &Arc::new(Progress::default()))?;
    Ok(driven.recorder.accepted() as f64 / driven.elapsed.as_secs_f64())
}

/// Killed when dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // One that has ended can't be killed; that is fine.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds are in order")
}

/// The results as a section of BENCHMARKS.md.
fn table(rows: &[Row], only: Option<&str>) -> Result<String, Failure> {
    let now = jiff::Zoned::now();
    let commit =
        output(Command::new("git").args(["rev-parse", "--short", "HEAD"]).current_dir(root()))
            .unwrap_or_else(|_| "no repository".to_string());
    let only = only.map_or(String::new(), |only| format!(" --only {only}"));
    let mut text = format!(
        "\n## {}, {}\n\n`cargo xtask bench{only}` at {}. Medians of {ROUNDS} alternating rounds, \
         lowest and highest in brackets.\n\n\
         | what | Crest | peer | ratio |\n|---|---|---|---|\n",
        now.date(),
        machine(),
        commit.trim()
    );
    for row in rows {
        let (ours, peer) = (spread(&row.ours), spread(&row.peer));
        let _ = writeln!(
            text,
            "| {} | {} {} | {} {} ({}) | {:.2} |",
            row.what,
            ours.text,
            row.unit,
            peer.text,
            row.unit,
            row.peer_name,
            ours.median / peer.median
        );
        if let Some([ours, peer]) = &row.latency {
            let _ = writeln!(
                text,
                "| – its latency: p50, p99, p99.9 | {} | {} | |",
                quantiles(ours),
                quantiles(peer)
            );
        }
    }
    Ok(text)
}

struct Spread {
    median: f64,
    text: String,
}

fn spread(values: &[f64]) -> Spread {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (low, median, high) = (sorted[0], sorted[sorted.len() / 2], sorted[sorted.len() - 1]);
    let text = format!("{} [{}–{}]", round(median), round(low), round(high));
    Spread { median, text }
}

/// Three digits that mean something, with separators.
fn round(value: f64) -> String {
    let value = value.round() as u64;
    let digits = value.to_string();
    let unit = 10u64.pow(digits.len().saturating_sub(3) as u32);
    let digits = ((value + unit / 2) / unit * unit).to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn quantiles(histogram: &Histogram<u64>) -> String {
    let at = |quantile| histogram.value_at_quantile(quantile);
    format!("{}, {}, {} µs", at(0.5), at(0.99), at(0.999))
}

fn machine() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: String, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).map(str::to_string);
        line.and_then(|line| Some(line.split_once(':')?.1.trim().to_string())).unwrap_or_default()
    };
    let kib = field(read("/proc/meminfo"), "MemTotal");
    let kib: f64 = kib.split(' ').next().and_then(|kib| kib.parse().ok()).unwrap_or(0.0);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    format!(
        "{}, {cores} cores, {:.0} GiB, Linux {}",
        field(read("/proc/cpuinfo"), "model name"),
        kib / (1 << 20) as f64,
        kernel.trim()
    )
}
