//! Drills of a built `crest`, and what they say in their JSON.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::run::{Failure, cargo, root, run};

/// Figures of one drill.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drilled {
    pub(super) orders_per_s: f64,
    /// p50, p99 and p99.9 of an order, in ms.
    pub(super) latency_ms: [f64; 3],
    /// Of the platform, for a million orders.
    pub(super) cpu_s_per_million: f64,
    /// Of the log, setting up included.
    pub(super) log_bytes: f64,
    pub(super) log_syncs: f64,
    pub(super) duration_s: f64,
}

/// Builds the `crest` of this workspace.
pub(super) fn build() -> Result<PathBuf, Failure> {
    run(&mut cargo(&["build", "--release", "--quiet", "--locked", "--package", "crest"]))?;
    Ok(root().join("target/release/crest"))
}

/// Drills flat out, with the data in a directory of its own below `folder`; every drill ends
/// with an audit, and one that doesn't pass is an error.
pub(super) fn drill(crest: &Path, folder: &Path, args: &[&str]) -> Result<Drilled, Failure> {
    let dir = tempfile::Builder::new().prefix("drill-").tempdir_in(folder)?;
    let json = dir.path().join("report.json");
    let mut drill = Command::new(crest);
    drill.args(["drill", "--max"]).args(args).arg("--json").arg(&json);
    let passed = run(drill.arg("--data").arg(dir.path().join("data")).stdout(Stdio::null()));
    let text = std::fs::read_to_string(&json).map_err(|error| match &passed {
        Err(failed) => failed.to_string(),
        Ok(()) => format!("a drill without a report: {error}"),
    })?;
    let report: Value = serde_json::from_str(&text)?;
    passed.map_err(|failed| format!("{failed}: {}", report["problems"]))?;
    let number = |path: &str| {
        let found = report.pointer(path).and_then(Value::as_f64);
        found.ok_or_else(|| format!("a drill's report without {path}"))
    };
    Ok(Drilled {
        orders_per_s: number("/orders_per_s/mean")?,
        latency_ms: [
            number("/latency_ms/p50")?,
            number("/latency_ms/p99")?,
            number("/latency_ms/p999")?,
        ],
        cpu_s_per_million: number("/cpu_s/platform")? / number("/accepted")? * 1e6,
        log_bytes: number("/log/bytes")?,
        log_syncs: number("/log/syncs")?,
        duration_s: number("/duration_s")?,
    })
}
