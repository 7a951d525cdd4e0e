//! `crest profile`: where the time goes, to the function and the line.
//!
//! Three views of the same question. [`sample`](self) watches a platform that runs, through
//! perf; [`replay`] executes a captured log again and times the core frame by frame; [`diff`]
//! compares two profiles. All of them leave files behind that other tools read: folded stacks,
//! SVG, JSON.

mod diff;
mod fold;
mod perf;
mod replay;
mod stages;
mod svg;
mod symbols;
mod threads;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) use perf::{ProfileSummary, Sampler};

use crate::machine::Machine;
use crate::{Failure, args};
use fold::Row;
use stages::Stages;
use threads::ThreadStates;

pub(crate) fn profile(args: &args::Profile) -> Result<ExitCode, Failure> {
    match &args.command {
        None => sample(&args.sample),
        Some(args::ProfileCommand::Replay(args)) => replay::replay(args),
        Some(args::ProfileCommand::Diff(args)) => diff::diff(args),
    }
}

/// The only platform that runs on this machine.
pub(crate) fn platform_pid() -> Result<u32, Failure> {
    Ok(threads::find(None)?.pid)
}

/// What a profile's directory says of itself.
#[derive(Serialize)]
struct Description<'a> {
    command: String,
    version: &'static str,
    machine: Machine,
    /// When it was begun, UTC.
    time: String,
    pid: u32,
    samples_per_s: u32,
    #[serde(flatten)]
    summary: &'a ProfileSummary,
}

/// Samples a platform that runs.
fn sample(args: &args::ProfileSample) -> Result<ExitCode, Failure> {
    let served = threads::find(args.pid)?;
    let admin = args.admin.map(|admin| admin.to_string()).or(served.admin.clone());
    let time = jiff::Timestamp::now();
    let mut sampler = Sampler::start(served.pid)?;
    // Stages are a part of the profile that it can do without.
    let ask = |admin: &String| match Stages::fetch(admin) {
        Ok(stages) => Some(stages),
        Err(error) => {
            tracing::warn!("no stages in this profile: {error}");
            None
        }
    };
    let stages_before = admin.as_ref().and_then(ask);
    tell!("crest profile: {served}, {:?}\n", args.seconds);
    wait(&mut sampler, args.seconds)?;
    let stages_after = admin.as_ref().filter(|_| stages_before.is_some()).and_then(ask);
    let summary = sampler.stop(|_| true)?;
    let out = new_folder(args.out.as_deref(), "profile", time)?;
    summary.draw(&out.join("flame.svg"))?;
    write(&out.join("stacks.folded"), &summary.stacks.folded())?;
    let stages = stages_before.zip(stages_after).map(|(before, after)| after.since(&before));
    if let Some(stages) = &stages {
        write_json(&out.join("stages.json"), stages)?;
    }
    let description = Description {
        command: std::env::args().collect::<Vec<_>>().join(" "),
        version: env!("CARGO_PKG_VERSION"),
        machine: Machine::read(),
        time: time.to_string(),
        pid: served.pid,
        samples_per_s: perf::SAMPLES_PER_S,
        summary: &summary,
    };
    write_json(&out.join("profile.json"), &description)?;
    tell!("{}", tables(&summary));
    if let Some(stages) = &stages {
        tell!("{}", stages.table());
    }
    tell!("\n  files      {}\n", out.display());
    Ok(ExitCode::SUCCESS)
}

/// Waits while perf samples; an end of perf before its time is an error.
fn wait(sampler: &mut Sampler, duration: Duration) -> Result<(), Failure> {
    let until = Instant::now() + duration;
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        if sampler.has_ended() {
            tracing::warn!("the process ended before the profile");
            return Ok(());
        }
        std::thread::sleep(left.min(Duration::from_millis(100)));
    }
    Ok(())
}

/// The summary in words.
fn tables(summary: &ProfileSummary) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    let ProfileSummary { samples, seconds, lost, .. } = summary;
    let _ = writeln!(text, "\n  {samples} samples in {seconds:.1} s, {lost} lost");
    let shares: [(&str, &[Row]); 4] = [
        ("functions, self", &summary.own),
        ("functions, with what they call", &summary.inclusive),
        ("lines", &summary.lines),
        ("threads, of the samples", &summary.thread_samples),
    ];
    for (what, rows) in shares {
        let _ = writeln!(text, "\n  {what}");
        for Row { name, percent, .. } in rows {
            let _ = writeln!(text, "  {percent:6.2}%  {name}");
        }
    }
    let _ = writeln!(text, "\n  threads, of the time     on a core   waiting for one   asleep");
    for ThreadStates { name, on_core_percent, waiting_for_core_percent, asleep_percent } in
        &summary.threads
    {
        let _ = writeln!(
            text,
            "  {name:<22} {on_core_percent:10.1}% {waiting_for_core_percent:16.1}% \
             {asleep_percent:7.1}%"
        );
    }
    text
}

/// A new directory for a profile's files.
fn new_folder(
    asked: Option<&Path>,
    prefix: &str,
    time: jiff::Timestamp,
) -> Result<PathBuf, Failure> {
    let path = match asked {
        Some(path) => path.to_path_buf(),
        None => PathBuf::from(time.strftime(&format!("{prefix}-%Y%m%dT%H%M%SZ")).to_string()),
    };
    fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(path)
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()).into())
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), Failure> {
    let mut text = sonic_rs::to_string_pretty(value)?;
    text.push('\n');
    write(path, &text)
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, Failure> {
    let text = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    sonic_rs::from_slice(&text).map_err(|error| {
        let detail = error.to_string().lines().next().unwrap_or_default().to_string();
        format!("{}: {detail}", path.display()).into()
    })
}
