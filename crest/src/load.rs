//! `crest load`: load for any URL.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use loadgen::template::CsvTable;
use loadgen::{
    Pace, Plan, Progress, Schedule, Stage, Target, Trust, UrlLoad, UrlRequest, engine, summary,
};

use crate::machine::cpu_s;
use crate::report::{CpuFigures, Report};
use crate::watch::{interrupts, say, watched};
use crate::{Failure, args};

/// How long a load goes on unless something else is said.
const DURATION: Duration = Duration::from_secs(10);

pub(crate) fn load(args: &args::Load) -> Result<ExitCode, Failure> {
    let (target, path) = Target::with_path(&args.url)?;
    let table = args.csv.as_deref().map(CsvTable::open).transpose()?.map(Arc::new);
    let body = body(args.body.as_deref())?;
    let method = match &args.method {
        Some(method) => http::Method::from_bytes(method.as_bytes())?,
        None if body.is_empty() => http::Method::GET,
        None => http::Method::POST,
    };
    args.files.check(&args.hgrm)?;
    let request = UrlRequest::new(method, &path, &args.header, &body, table.as_ref(), args.seed)?;
    let request = Arc::new(request);
    let connections = args.connections.get();
    let plan = Plan {
        target,
        protocol: args.http.protocol(args.streams.get()),
        trust: match &args.cacert {
            _ if args.insecure => Trust::Anyone,
            Some(file) => Trust::File(file.clone()),
            None => Trust::System,
        },
        connections,
        threads: args.threads.get().min(connections),
        pace: pace(args)?,
        grain: args.grain,
        timeout: args.timeout,
        retry_for: Duration::ZERO,
        keep_bodies: false,
        stop: interrupts(|| {})?,
    };
    if let Pace::Schedule(schedule) = &plan.pace {
        say(&format!(
            "{:.0} requests in {:.1?}, {:.0} a second at the peak",
            schedule.expected(),
            schedule.duration(),
            schedule.peak()
        ));
    }
    let progress = Arc::new(Progress::default());
    let cpu = || cpu_s(std::process::id()).unwrap_or(0.0);
    let before = cpu();
    let ran = watched(&progress, plan.pace.duration(), "requests", || {
        engine::run(&plan, |_| UrlLoad(request.clone()), &progress)
    })??;

    let mut report = Report::new();
    report.profile = Some(args.url.clone());
    report.seed = Some(args.seed);
    report.stopped = ran.stopped;
    report.cpu_s = Some(CpuFigures { platform: None, generator: cpu() - before });
    report.add_requests(&ran.recorder, ran.elapsed, &args.threshold);
    report.judge_schedule(&ran.recorder, plan.threads, ran.elapsed);
    report.judge(&args.threshold, &ran.recorder, ran.elapsed);
    tell!("\n{report}\n");
    let latency = &ran.recorder.kinds[0].latency;
    let lines = summary::histogram_lines(latency, 1);
    lines.iter().for_each(|line| tell!("  {line}\n"));
    tell!("\n");
    summary::percentile_lines(latency, 1).iter().for_each(|line| tell!("  {line}\n"));
    report.write_all(&args.files)?;
    if let Some(path) = &args.hgrm {
        let mut file = fs::File::create(path).map_err(|e| format!("{}: {e}", path.display()))?;
        summary::write_hgrm(latency, 1, &mut file)?;
    }
    Ok(report.verdict.exit_code())
}

/// The body's text, or that of the file behind an `@`.
fn body(text: Option<&str>) -> Result<String, Failure> {
    match text.map(|text| text.strip_prefix('@').ok_or(text)) {
        None => Ok(String::new()),
        Some(Err(text)) => Ok(text.to_string()),
        Some(Ok(path)) => {
            fs::read_to_string(path).map_err(|error| format!("{path}: {error}").into())
        }
    }
}

fn pace(args: &args::Load) -> Result<Pace, Failure> {
    let stages = match (&args.stages, &args.shape, args.rate) {
        (Some(stages), _, _) => stages.0.clone(),
        (_, Some(file), _) => shape(file)?,
        (_, _, Some(rate)) => vec![Stage::constant(rate, args.duration.unwrap_or(DURATION))],
        _ => return Ok(Pace::Max(args.duration.unwrap_or(DURATION))),
    };
    let schedule = Schedule { stages, arrivals: args.arrivals, seed: args.seed };
    match schedule.expected() >= 1.0 {
        true => Ok(Pace::Schedule(schedule)),
        false => Err("not one request falls due".into()),
    }
}

/// A recorded shape: lines of `seconds,rate`, in straight lines from one to the next.
fn shape(path: &Path) -> Result<Vec<Stage>, Failure> {
    let name = path.display();
    let text = fs::read_to_string(path).map_err(|error| format!("{name}: {error}"))?;
    let mut points: Vec<(f64, f64)> = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let numbers: Vec<f64> = line.split(',').filter_map(|n| n.trim().parse().ok()).collect();
        let last = points.last().map_or(0.0, |point| point.0);
        match numbers[..] {
            [at, rate] if at >= last && (0.0..=1e9).contains(&rate) => points.push((at, rate)),
            _ if line.trim().is_empty() => {}
            _ if number == 1 && !line.trim_start().starts_with(|c: char| c.is_ascii_digit()) => {
                // A heading.
            }
            _ => {
                return Err(format!(
                    "{name}, line {number}: {line:?} is not \"seconds,rate\", or goes back in time"
                )
                .into());
            }
        }
    }
    let stage = |pair: &[(f64, f64)]| Stage {
        from: pair[0].1,
        to: pair[1].1,
        time: Duration::from_secs_f64(pair[1].0 - pair[0].0),
    };
    Ok(points.windows(2).map(stage).collect())
}
