//! `crest drill`: load, then proof.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use loadgen::drive::{Progress, unix_ms};
use loadgen::{Acks, ClientError, Connection, Drive, Lines, Pace, Profile, RunId, Target, drive};
use model::record::Body;
use model::{OrderId, Outcome, Party};
use tokio::task::LocalSet;

use crate::machine::{self, cpu_s};
use crate::platform::Platform;
use crate::profile::{self, Sampler};
use crate::report::{CpuFigures, ReadBack, Report, Verdict, thousands};
use crate::{Failure, args, trace_drill};

/// A request is resent for so long before its orders count as errors.
const RETRY_FOR: Duration = Duration::from_secs(10);
/// The generator kept its schedule if it sent 99 in 100 requests no later than this after they
/// were due and a connection was free. Timers have a resolution of 1 ms.
const LATE_MAX: Duration = Duration::from_millis(20);
/// Orders a second to prepare a platform's tables for when no rate is given.
const EXPECTED_RATE: f64 = 800_000.0;
/// Reads sent ahead of their answers when acknowledged orders are read back.
const READS_AHEAD: usize = 64;

pub(crate) fn drill(args: &args::Drill) -> Result<ExitCode, Failure> {
    if let Some(trace) = &args.trace {
        return trace_drill::drill(args, trace);
    }
    let lines = args.lines.map_or(Lines::Mix, Lines::Fixed);
    let profile = Arc::new(Profile::new(args.buyers, args.items, lines, args.seed));
    let expected = args.rate.unwrap_or(EXPECTED_RATE) * args.duration.as_secs_f64();
    let scene = Scene::set(args, args.buyers, args.items, expected as u64)?;
    let connections = args.connections.get();

    println!(
        "crest drill: {} buyers, {} items, {} orders per request over {connections} connections, seed {}",
        thousands(args.buyers),
        thousands(args.items),
        thousands(args.batch),
        args.seed
    );
    let steps = Steps::new();
    let started = Instant::now();
    let shared = Rc::new(Profile::clone(&profile));
    on_reactor(loadgen::setup::set_up(&scene.target, &shared, connections.min(8)))??;
    drop(shared);
    steps.say(&format!("set up in {:.1} s", started.elapsed().as_secs_f64()));

    let plan = Drive {
        target: scene.target.clone(),
        profile: profile.clone(),
        run: RunId::new(unix_ms() ^ args.seed << 48),
        batch: args.batch,
        connections,
        threads: args.threads.get().min(connections),
        pace: args.rate.map_or(Pace::Max, Pace::Rate),
        duration: args.duration,
        retry_for: RETRY_FOR,
    };
    let progress = Arc::new(Progress::default());
    let sampler = match &args.profile_out {
        Some(svg) => Some((Sampler::start(scene.pid()?)?, svg)),
        None => None,
    };
    let before = scene.cpu();
    let driven = watched(&progress, args.duration, || drive(&plan, &progress))??;
    let cpu = scene.cpu().since(&before);
    if let Some((sampler, svg)) = sampler {
        let profile = sampler.finish(svg)?;
        steps.say(&format!("{} samples in {}", thousands(profile.samples), svg.display()));
    }
    let mut acks = driven.acks;

    let mut report = Report::new();
    report.cpu_s = Some(cpu);
    report.add_load(&driven.recorder, driven.elapsed);
    if let Some(data) = scene.stop(&mut report)? {
        let mut lost = Vec::new();
        let audit = node::audit(&data, |record, _| {
            if let (Body::Place { .. }, Some(id), Some(outcome)) =
                (record.body, record.order(), record.outcome())
            {
                lost.extend(acks.check(&profile, record.party(), id, outcome));
            }
        })?;
        lost.extend(acks.unseen());
        report.add_audit(&audit, Some(lost.len() as u64));
        report.add_disk(&data);
        for lost in lost.iter().take(10) {
            let logged = lost.logged.map_or("nothing", Outcome::word);
            let acknowledged = lost.acknowledged.word();
            report.problem(format!(
                "order {} ({}) was acknowledged as {acknowledged}; the log has {logged}",
                lost.n, lost.id
            ));
        }
        steps.say("audited");
    } else {
        let read = on_reactor(read_back(&plan, acks))??;
        if read.lost > 0 {
            report.problem(format!("{} acknowledged orders can't be read back", read.lost));
        }
        report.read_back = Some(read);
    }
    let late = Duration::from_micros(driven.recorder.late.value_at_quantile(0.99));
    if late > LATE_MAX && report.verdict == Verdict::Pass {
        report.verdict = Verdict::Invalid;
        report.problems.push(format!(
            "the generator sent 1 in 100 requests {late:?} or more after they were due although \
             a connection was free: lower --rate, raise --batch or --threads, or give it a \
             machine of its own"
        ));
    }
    conclude(args, report, scene.data)
}

/// What the drill is driven against.
pub(crate) struct Scene {
    platform: std::cell::RefCell<Option<Platform>>,
    pub(crate) target: Target,
    pub(crate) data: Option<Data>,
}

/// Where the platform's data is.
pub(crate) enum Data {
    Temporary(tempfile::TempDir),
    Kept(PathBuf),
}

impl Data {
    fn path(&self) -> &Path {
        match self {
            Data::Temporary(dir) => dir.path(),
            Data::Kept(path) => path,
        }
    }
}

/// A new directory for temporary files, on a disk if there is one: where temporary files are kept
/// in memory, here.
fn temporary() -> std::io::Result<tempfile::TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("crest-drill-");
    match machine::is_in_memory(&std::env::temp_dir()) {
        false => builder.tempdir(),
        true => builder.tempdir_in("."),
    }
}

/// CPU so far, of the platform and of this process.
pub(crate) struct Cpu {
    platform: Option<f64>,
    generator: f64,
}

impl Cpu {
    pub(crate) fn since(&self, before: &Cpu) -> CpuFigures {
        let platform = self.platform.zip(before.platform).map(|(now, before)| now - before);
        CpuFigures { platform, generator: self.generator - before.generator }
    }
}

impl Scene {
    /// Starts a platform, or finds the one that runs.
    pub(crate) fn set(
        args: &args::Drill,
        accounts: u64,
        items: u64,
        orders: u64,
    ) -> Result<Scene, Failure> {
        if let Some(url) = &args.target {
            let target = Target::from_url(url)?;
            return Ok(Scene { platform: None.into(), target, data: None });
        }
        let data = match &args.data {
            Some(path) if path.join("crest.json").exists() => {
                let path = path.display();
                return Err(format!("{path} holds data already; a drill wants a new one").into());
            }
            Some(path) => Data::Kept(path.clone()),
            None => Data::Temporary(temporary()?),
        };
        let mut options = Vec::new();
        for (name, value) in [("accounts", accounts), ("items", items), ("orders", orders)] {
            options.extend([format!("--{name}"), value.to_string()]);
        }
        if let Some(reactors) = args.reactors {
            options.extend(["--reactors".to_string(), reactors.to_string()]);
        }
        let platform = Platform::start(data.path(), &options)?;
        let target = platform.target.clone();
        Ok(Scene { platform: Some(platform).into(), target, data: Some(data) })
    }

    pub(crate) fn cpu(&self) -> Cpu {
        Cpu {
            platform: self.platform.borrow().as_ref().and_then(Platform::cpu_s),
            generator: cpu_s(std::process::id()).unwrap_or(0.0),
        }
    }

    /// The platform's process: its own, or the only one of this machine.
    fn pid(&self) -> Result<u32, Failure> {
        match &*self.platform.borrow() {
            Some(platform) => Ok(platform.pid()),
            None => profile::platform_pid(),
        }
    }

    /// Stops the platform, if it is ours, and says where its data is.
    pub(crate) fn stop(&self, report: &mut Report) -> Result<Option<PathBuf>, Failure> {
        let Some(mut platform) = self.platform.borrow_mut().take() else { return Ok(None) };
        match platform.ended()? {
            Some(status) => report.problem(format!("the platform ended on its own: {status}")),
            None => platform.stop()?,
        }
        Ok(self.data.as_ref().map(|data| data.path().to_path_buf()))
    }
}

/// Prints the report and decides the exit status.
pub(crate) fn conclude(
    args: &args::Drill,
    report: Report,
    data: Option<Data>,
) -> Result<ExitCode, Failure> {
    println!();
    print!("{report}");
    if let Some(path) = &args.json {
        report.write(path)?;
    }
    match data {
        Some(Data::Temporary(dir)) if report.verdict != Verdict::Pass => {
            println!("  {:<10} {} (kept, to be looked at)", "data", dir.keep().display());
        }
        Some(Data::Kept(path)) => println!("  {:<10} {}", "data", path.display()),
        _ => {}
    }
    Ok(match report.verdict {
        Verdict::Pass => ExitCode::SUCCESS,
        Verdict::Fail => ExitCode::from(1),
        Verdict::Invalid => ExitCode::from(3),
    })
}

/// Runs a future that spawns local tasks.
pub(crate) fn on_reactor<F: Future>(future: F) -> std::io::Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(LocalSet::new().block_on(&runtime, future))
}

/// Lines about what was done, where a person sees them.
pub(crate) struct Steps;

impl Steps {
    pub(crate) fn new() -> Steps {
        Steps
    }

    pub(crate) fn say(&self, text: &str) {
        eprintln!("  {text}");
    }
}

/// Shows how `run` is getting on while it runs.
pub(crate) fn watched<T: Send>(
    progress: &Arc<Progress>,
    duration: Duration,
    run: impl FnOnce() -> T + Send,
) -> Result<T, Failure> {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let runner = scope.spawn(|| {
            let result = run();
            done.store(true, Ordering::Release);
            result
        });
        let bar = ProgressBar::new(duration.as_millis() as u64);
        let style =
            ProgressStyle::with_template("  {bar:30} {msg}").map_err(|error| error.to_string())?;
        bar.set_style(style);
        let start = Instant::now();
        let (mut last, mut last_at) = (0, start);
        let mut said_at = start;
        while !done.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(50));
            if last_at.elapsed() < Duration::from_secs(1) {
                continue;
            }
            let accepted = progress.accepted.load(Ordering::Relaxed);
            let refused = progress.refused.load(Ordering::Relaxed);
            let answered = accepted + refused;
            let rate = (answered - last) as f64 / last_at.elapsed().as_secs_f64();
            (last, last_at) = (answered, Instant::now());
            let text = format!(
                "{:>3} s  {:>9} orders/s  {} accepted, {} refused",
                start.elapsed().as_secs(),
                thousands(rate as u64),
                thousands(accepted),
                thousands(refused)
            );
            bar.set_position(start.elapsed().as_millis() as u64);
            bar.set_message(text.clone());
            // Where there is no terminal, a line now and then.
            if bar.is_hidden() && said_at.elapsed() > Duration::from_millis(4900) {
                said_at = Instant::now();
                eprintln!("  {text}");
            }
        }
        bar.finish_and_clear();
        runner.join().map_err(|_| "the load panicked".into())
    })
}

/// Reads every acknowledged order again.
async fn read_back(plan: &Drive, acks: Acks) -> Result<ReadBack, Failure> {
    let profile = plan.profile.clone();
    let orders: Vec<_> =
        acks.acknowledged().map(|(n, id, outcome)| (profile.buyer(n), id, outcome)).collect();
    read_orders(&plan.target, plan.connections, orders).await
}

/// Reads orders, and counts those that aren't there or have become something else. Runs on the
/// current thread's `LocalSet`.
pub(crate) async fn read_orders(
    target: &Target,
    connections: usize,
    orders: Vec<(Party, OrderId, Outcome)>,
) -> Result<ReadBack, Failure> {
    let orders = Rc::new(orders);
    let next = Rc::new(Cell::new(0));
    let lanes: Vec<_> = (0..connections)
        .map(|_| {
            let lane = read_lane(target.clone(), orders.clone(), next.clone());
            tokio::task::spawn_local(lane)
        })
        .collect();
    let mut read = ReadBack { orders: orders.len() as u64, lost: 0 };
    for lane in lanes {
        read.lost += lane.await??;
    }
    Ok(read)
}

/// One connection's share; how many of them are lost.
async fn read_lane(
    target: Target,
    orders: Rc<Vec<(Party, OrderId, Outcome)>>,
    next: Rc<Cell<usize>>,
) -> Result<u64, ClientError> {
    let mut connection = Connection::open(&target).await?;
    let (mut request, mut found) = (Vec::new(), Vec::new());
    let mut lost = 0;
    loop {
        let start = next.get();
        let end = (start + READS_AHEAD).min(orders.len());
        if start == end {
            return Ok(lost);
        }
        next.set(end);
        request.clear();
        for (buyer, id, _) in &orders[start..end] {
            target.get(&format!("/v1/buyers/{buyer}/orders/{id}"), &mut request);
        }
        connection.send(&request, &[]).await?;
        for &(_, _, outcome) in &orders[start..end] {
            let (status, body) = connection.receive().await?;
            found.clear();
            let parsed = loadgen::drive::parse_single(body, &mut found).is_ok();
            let first = if outcome == Outcome::AlreadyDone { Outcome::Ok } else { outcome };
            let kept = status == 200 && parsed && found == [first as u8];
            lost += u64::from(!kept);
        }
    }
}
