//! The generators: how each is asked for the same load, and what a run of it cost.
//!
//! The cost is the CPU time, in user and system mode, of the generator's process and what it
//! started, as the kernel counts it when the process is waited for (getrusage(2),
//! `RUSAGE_CHILDREN`), the same way for all. Starting up is in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;

use super::answers::{self, Said};
use crate::bench::bare_server::Http;
use crate::run::Failure;
use crate::tools::{self, H2LOAD, K6, OHA, Tool, WRK};

/// A program that sends requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Generator {
    Crest,
    /// It, sending in steps of a millisecond.
    CrestGrain,
    Wrk,
    H2load,
    Oha,
    /// oha that counts latency from when a request was due.
    OhaCorrected,
    K6,
}

/// What each of them is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load<'a> {
    pub(super) url: &'a str,
    pub(super) http: Http,
    pub(super) connections: usize,
    /// Requests a second; none: as fast as answers come.
    pub(super) rate: Option<f64>,
    pub(super) duration: Duration,
    /// How long wrk's connections wait on average before each request to come to that rate.
    pub(super) wrk_delay_ms: f64,
    /// Whether h2load writes the log that its percentiles come from.
    pub(super) logged: bool,
}

/// What came of a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) said: Said,
    pub(super) cpu_s: f64,
}

impl Sent {
    /// CPU seconds for a million answers, which is as many µs for each.
    pub(super) fn cpu_s_per_million(&self) -> f64 {
        self.cpu_s / self.said.answered as f64 * 1e6
    }
}

/// Streams at a time on a connection of HTTP/2.
pub(super) const STREAMS: usize = 100;

/// Those that are here.
pub(super) struct Contestants<'a> {
    /// For scripts and what is written to files.
    folder: &'a Path,
    programs: Vec<(Generator, PathBuf, String)>,
    /// What is not here, and why.
    pub(super) missing: Vec<String>,
}

impl Contestants<'_> {
    /// Finds them, or installs them.
    pub(super) fn find(folder: &Path, crest: PathBuf) -> Result<Contestants<'_>, Failure> {
        let mut contestants = Contestants { folder, programs: Vec::new(), missing: Vec::new() };
        let version = tools::version(&crest)?;
        for generator in [Generator::Crest, Generator::CrestGrain] {
            contestants.programs.push((generator, crest.clone(), version.clone()));
        }
        let peers: [(Tool, &str, &str, &[Generator]); 4] = [
            (WRK, "wrk", "--version", &[Generator::Wrk]),
            (H2LOAD, "h2load", "--version", &[Generator::H2load]),
            (OHA, "oha", "--version", &[Generator::Oha, Generator::OhaCorrected]),
            (K6, "k6", "version", &[Generator::K6]),
        ];
        for (tool, name, flag, generators) in peers {
            match tool.get() {
                Ok(program) => {
                    let version = tools::version_by(&program, flag)?;
                    let found = |&generator| (generator, program.clone(), version.clone());
                    contestants.programs.extend(generators.iter().map(found));
                }
                Err(why) => {
                    eprintln!("\n*** {name} is left out of everything: {why} ***\n");
                    contestants.missing.push(format!("{name} is left out: {why}"));
                }
            }
        }
        fs::write(folder.join("wrk.lua"), include_str!("wrk.lua"))?;
        fs::write(folder.join("k6.js"), include_str!("k6.js"))?;
        Ok(contestants)
    }

    pub(super) fn has(&self, generator: Generator) -> bool {
        self.programs.iter().any(|(found, ..)| *found == generator)
    }

    /// What they say they are, each program once.
    pub(super) fn versions(&self) -> String {
        let mut versions: Vec<&str> =
            self.programs.iter().map(|(.., said)| said.as_str()).collect();
        versions.dedup();
        versions.join("; ")
    }

    /// Runs one that is here. How it ends is not asked for: `crest load` ends with the verdict
    /// "invalid" where it was late, and what any of them did is in what it says.
    pub(super) fn run(&self, generator: Generator, load: &Load<'_>) -> Result<Sent, Failure> {
        let found = self.programs.iter().find(|(found, ..)| *found == generator);
        let (_, program, _) = found.ok_or_else(|| format!("{generator:?} is not here"))?;
        let mut command = Command::new(program);
        let file = self.folder.join("figures");
        // What an earlier run left must not pass for this one's.
        if file.exists() {
            fs::remove_file(&file)?;
        }
        ask(&mut command, generator, load, self.folder, &file);
        let before = children_cpu_s()?;
        let output = command.output()?;
        let cpu_s = children_cpu_s()? - before;
        let printed = String::from_utf8_lossy(&output.stdout);
        let written = || fs::read_to_string(&file);
        let said = match generator {
            Generator::Crest | Generator::CrestGrain => {
                written().map_err(Failure::from).and_then(|json| answers::crest(&json))
            }
            Generator::Wrk => answers::wrk(&printed),
            Generator::H2load if load.logged => answers::h2load(&printed, Some(&written()?)),
            Generator::H2load => answers::h2load(&printed, None),
            Generator::Oha | Generator::OhaCorrected => answers::oha(&printed),
            Generator::K6 => written().map_err(Failure::from).and_then(|json| answers::k6(&json)),
        };
        let said = said.map_err(|error| {
            let errors = String::from_utf8_lossy(&output.stderr);
            let errors = errors.trim();
            format!("{generator:?} ended with {}: {error}. {errors}", output.status)
        })?;
        match said.answered {
            0 => Err(format!("{generator:?} had no answer from {}", load.url).into()),
            _ => Ok(Sent { said, cpu_s }),
        }
    }
}

/// What one is told on its command line.
fn ask(command: &mut Command, generator: Generator, load: &Load<'_>, folder: &Path, file: &Path) {
    let connections = load.connections.to_string();
    let seconds = load.duration.as_secs_f64();
    let rate = load.rate.map(|rate| rate.to_string());
    let streams = STREAMS.to_string();
    match generator {
        Generator::Crest | Generator::CrestGrain => {
            command.args(["load", load.url, "--insecure", "-t", "1", "-c", &connections]);
            command.arg("-z").arg(format!("{seconds}s")).arg("--json").arg(file);
            match &rate {
                Some(rate) => command.args(["--rate", rate]),
                None => command.arg("--max"),
            };
            if load.http == Http::Two {
                command.args(["--http", "2", "-m", &streams]);
            }
            if generator == Generator::CrestGrain {
                command.args(["--grain", "1ms"]);
            }
        }
        Generator::Wrk => {
            command.args(["-t1", "-c", &connections, "-d", &format!("{seconds}s"), "--latency"]);
            command.arg("-s").arg(folder.join("wrk.lua")).arg(load.url);
            if load.rate.is_some() {
                command.args(["--", &load.wrk_delay_ms.to_string()]);
            }
        }
        Generator::H2load => {
            command.args(["-t1", "-c", &connections, "-D", &seconds.to_string()]);
            match load.http {
                Http::One => command.arg("--h1"),
                Http::Two => command.args(["-m", &streams]),
            };
            if let Some(rate) = load.rate {
                let of_each = rate / load.connections as f64;
                command.arg(format!("--rps={of_each}"));
            }
            if load.logged {
                command.arg("--log-file").arg(file);
            }
            command.arg(load.url);
        }
        Generator::Oha | Generator::OhaCorrected => {
            command.args(["--no-tui", "--output-format", "json", "-w", "--insecure"]);
            command.args(["-c", &connections, "-z", &format!("{}ms", seconds * 1e3)]);
            if load.http == Http::Two {
                command.args(["--http2", "-p", &streams]);
            }
            if let Some(rate) = &rate {
                command.args(["-q", rate]);
            }
            if generator == Generator::OhaCorrected {
                command.arg("--latency-correction");
            }
            command.arg(load.url);
        }
        Generator::K6 => {
            command.args(["run", "--quiet", "--no-usage-report", "--no-color"]);
            command.arg("--summary-export").arg(file).arg(folder.join("k6.js"));
            command.env("URL", load.url).env("CONNECTIONS", &connections);
            command.env("DURATION", format!("{}ms", seconds * 1e3));
            command.env("RATE", rate.unwrap_or_default());
        }
    }
}

/// CPU seconds of every process that was started here and has been waited for.
fn children_cpu_s() -> Result<f64, Failure> {
    let used = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let us = used.user_time().num_microseconds() + used.system_time().num_microseconds();
    Ok(us as f64 / 1e6)
}
