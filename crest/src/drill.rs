//! `crest drill`: load, then proof.

mod plan;
mod read_back;
mod scene;
mod trace;

use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use loadgen::engine::unix_ms;
use loadgen::{Acks, Orders, Plan, Profile, Progress, RunId, engine, setup};
use model::Outcome;
use model::record::Body;
use node::{Access, ArchiveLocation, AuditFrom};

use crate::profile::Sampler;
use crate::report::times::Times;
use crate::report::{Report, Verdict, thousands};
use crate::watch::{interrupts, on_reactor, say, watched};
use crate::{Failure, args};
use loadgen::acks::Change;
use scene::{Data, Scene};

/// How long an answer is awaited.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// A request is resent for so long before its orders count as errors.
const RETRY_FOR: Duration = Duration::from_secs(10);
/// Orders a second to prepare a platform's tables for in a closed loop.
const EXPECTED_RATE: f64 = 800_000.0;
/// And no more than that, however long it is: a gigabyte of index, taken before the first order.
const EXPECTED_MAX: f64 = 50e6;

pub(crate) fn drill(args: &args::Drill) -> Result<ExitCode, Failure> {
    args.files.check(&args.profile_out)?;
    if let Some(file) = &args.trace {
        if args.is_binary() {
            return Err("a trace is replayed as JSON: --http 1.1, 2 or 3".into());
        }
        return trace::drill(args, file);
    }
    let plan::Drill { settings, pace, protocol } = plan::of(args)?;
    let expected = match &pace {
        engine::Pace::Max(duration) => EXPECTED_RATE * duration.as_secs_f64(),
        engine::Pace::Count(orders) => *orders as f64,
        engine::Pace::Schedule(schedule) => schedule.expected(),
    };
    let expected = expected.min(EXPECTED_MAX);
    let profile = Arc::new(Profile::of(settings));
    let settings = profile.settings();
    let requests = &settings.requests;
    tell!(
        "crest drill: {}, {} buyers, {} items, {} orders per request over {} connections, seed {}\n",
        settings.name,
        thousands(profile.buyers()),
        thousands(profile.items()),
        thousands(requests.batch),
        requests.connections,
        settings.seed
    );
    let scene = Scene::set(args, profile.buyers(), profile.items(), expected as u64)?;
    let stop = interrupts(scene.killer())?;
    let started = Instant::now();
    let shared = Rc::new(Profile::clone(&profile));
    on_reactor(setup::set_up(&scene.target, &shared, requests.connections.min(8)))?
        .map_err(|error| format!("{}: {error}", scene.target.authority))?;
    drop(shared);
    say(&format!("set up in {:.1} s", started.elapsed().as_secs_f64()));

    let run = RunId::new(unix_ms() ^ settings.seed << 48);
    let in_requests = 1.0 / settings.orders_per_request();
    let plan = Plan {
        target: scene.loaded.clone(),
        protocol,
        trust: scene.trust.clone(),
        connections: requests.connections,
        threads: requests.threads.min(requests.connections),
        pace: match pace {
            engine::Pace::Schedule(orders) => engine::Pace::Schedule(orders.scaled(in_requests)),
            engine::Pace::Count(orders) => {
                engine::Pace::Count((orders as f64 * in_requests).ceil() as u64)
            }
            max => max,
        },
        grain: engine::GRAIN,
        timeout: ANSWER_MAX,
        retry_for: RETRY_FOR,
        keep_bodies: true,
        stop,
    };
    let progress = Arc::new(Progress::default());
    let sampler = match &args.profile_out {
        Some(svg) => Some((Sampler::start(scene.pid()?)?, svg)),
        None => None,
    };
    let before = scene.cpu();
    let figures = scene.figures();
    let duration = match &plan.pace {
        engine::Pace::Count(_) => Duration::from_secs_f64(expected / EXPECTED_RATE),
        pace => pace.duration(),
    };
    let ran = watched(&progress, duration, "orders", || {
        let orders = || Orders::new(profile.clone(), run);
        let orders = |_| if args.is_binary() { orders().in_binary() } else { orders() };
        engine::run(&plan, orders, &progress)
    })??;
    let cpu = scene.cpu().since(&before);
    let times = figures.zip(scene.figures());
    if let Some((sampler, svg)) = sampler {
        let profile = sampler.finish(svg)?;
        say(&format!("{} samples in {}", thousands(profile.samples), svg.display()));
    }

    let mut report = Report::new();
    report.profile = Some(settings.name.clone());
    report.seed = Some(settings.seed);
    report.stopped = ran.stopped;
    report.cpu_s = Some(cpu);
    report.times = times.and_then(|(before, after)| Times::between(&before, &after));
    let mut thresholds = settings.thresholds.clone();
    thresholds.extend(args.threshold.iter().cloned());
    report.add_load(&ran.recorder, ran.elapsed, &thresholds);
    report.add_sale(&profile, &ran.recorder, args.target.is_none());
    let mut acks = Acks::new(run, requests.batch);
    ran.loads.into_iter().for_each(|load| acks.merge(load.acks));
    if let Some(data) = scene.stop(&mut report)? {
        audit(&mut report, &data, &args.open.access()?, &profile, acks)?;
        say("audited");
    } else {
        let connections = requests.connections.min(64);
        let read = on_reactor(read_back::read_acks(&scene.target, connections, &profile, &acks))??;
        report.add_read_back(read);
    }
    report.judge_schedule(&ran.recorder, plan.threads, ran.elapsed);
    report.judge(&thresholds, &ran.recorder, ran.elapsed);
    conclude(args, report, scene.data)
}

/// Holds the log against every acknowledgement.
fn audit(
    report: &mut Report,
    data: &std::path::Path,
    access: &Access,
    profile: &Profile,
    mut acks: Acks,
) -> Result<(), Failure> {
    let mut lost = Vec::new();
    let from = AuditFrom::Beginning;
    let audit = node::audit(data, access, &ArchiveLocation::Beside, from, |record, _, _| {
        let (Some(id), Some(outcome)) = (record.order(), record.outcome()) else { return };
        match record.body {
            Body::Place { .. } => lost.extend(acks.check(profile, record.party(), id, outcome)),
            Body::Pay(_) if outcome.is_done() => acks.check_change(id, Change::Pay),
            Body::Cancel(_) if outcome.is_done() => acks.check_change(id, Change::Cancel),
            Body::Refund { .. } if outcome.is_done() => acks.check_change(id, Change::Refund),
            _ => {}
        }
    })?;
    lost.extend(acks.unseen());
    let changes = acks.unseen_changes();
    report.add_audit(&audit, Some(lost.len() as u64 + changes));
    report.add_disk(data);
    for lost in lost.iter().take(10) {
        let logged = lost.logged.map_or("nothing", Outcome::word);
        let acknowledged = lost.acknowledged.word();
        report.problem(format!(
            "order {} ({}) was acknowledged as {acknowledged}; the log has {logged}",
            lost.n, lost.id
        ));
    }
    if changes > 0 {
        report.problem(format!("{changes} acknowledged changes of orders are not in the log"));
    }
    Ok(())
}

/// Prints the report, writes what was asked for, and decides the exit status.
fn conclude(args: &args::Drill, report: Report, data: Option<Data>) -> Result<ExitCode, Failure> {
    tell!("\n");
    tell!("{report}");
    match data {
        Some(Data::Temporary(dir)) if report.verdict != Verdict::Pass => {
            tell!("  {:<10} {} (kept, to be looked at)\n", "data", dir.keep().display());
        }
        Some(Data::Kept(path)) => tell!("  {:<10} {}\n", "data", path.display()),
        _ => {}
    }
    report.write_all(&args.files)?;
    Ok(report.verdict.exit_code())
}
