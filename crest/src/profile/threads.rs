//! What a process's threads did with their time, and which processes serve. From `/proc`
//! (proc(5)).
//!
//! A thread is on a core, waits for one, or sleeps until something happens: a timer, a socket,
//! a disk. The kernel counts the first two in `schedstat` (Documentation/scheduler/sched-stats:
//! nanoseconds on a core, nanoseconds runnable and waiting); the rest of the interval is sleep.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::{Failure, args};

/// What the threads of a process had done by some moment.
pub(crate) struct ThreadTimes {
    pid: u32,
    at: Instant,
    /// Name, time on a core, time waiting for one; by thread id.
    threads: BTreeMap<u32, (String, u64, u64)>,
}

/// What a thread did in an interval, in percent of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct ThreadStates {
    pub(crate) name: String,
    pub(crate) on_core_percent: f64,
    pub(crate) waiting_for_core_percent: f64,
    pub(crate) asleep_percent: f64,
}

impl ThreadTimes {
    pub(crate) fn read(pid: u32) -> ThreadTimes {
        let mut threads = BTreeMap::new();
        let at = Instant::now();
        for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            // A thread may end between any two of these steps; then it isn't one of them.
            let Some(tid) = task.file_name().to_str().and_then(|tid| tid.parse().ok()) else {
                continue;
            };
            let name = fs::read_to_string(task.path().join("comm"));
            let times = fs::read_to_string(task.path().join("schedstat"));
            let (Ok(name), Ok(times)) = (name, times) else { continue };
            let mut times = times.split_whitespace().map_while(|time| time.parse().ok());
            if let (Some(on_core), Some(waiting)) = (times.next(), times.next()) {
                threads.insert(tid, (name.trim_end().to_string(), on_core, waiting));
            }
        }
        ThreadTimes { pid, at, threads }
    }

    /// The states since then of the threads that are there now, the busiest first. One that
    /// began in between counts as asleep before.
    pub(crate) fn until_now(&self) -> Vec<ThreadStates> {
        let now = ThreadTimes::read(self.pid);
        let interval = now.at.duration_since(self.at);
        let mut states: Vec<ThreadStates> = now
            .threads
            .into_iter()
            .map(|(tid, (name, on_core, waiting))| {
                let before = self.threads.get(&tid);
                let (core_before, wait_before) = before.map_or((0, 0), |(_, a, b)| (*a, *b));
                states(name, interval, on_core - core_before, waiting - wait_before)
            })
            .collect();
        states.sort_by(|a, b| b.on_core_percent.total_cmp(&a.on_core_percent));
        states
    }
}

fn states(name: String, interval: Duration, on_core: u64, waiting: u64) -> ThreadStates {
    let all = interval.as_nanos().max(1) as f64;
    let percent = |ns: u64| (ns as f64 * 100.0 / all).min(100.0);
    let (on_core_percent, waiting_for_core_percent) = (percent(on_core), percent(waiting));
    let asleep_percent = (100.0 - on_core_percent - waiting_for_core_percent).max(0.0);
    ThreadStates { name, on_core_percent, waiting_for_core_percent, asleep_percent }
}

/// A platform that runs on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Served {
    pub(crate) pid: u32,
    pub(crate) data: Option<PathBuf>,
    /// Its admin address, as its command line has it.
    pub(crate) admin: Option<String>,
}

/// Every `crest serve` of this machine, or the process `pid`, whatever it is.
pub(crate) fn find(pid: Option<u32>) -> Result<Served, Failure> {
    if let Some(pid) = pid {
        let command = command(pid).ok_or_else(|| format!("there is no process {pid}"))?;
        let other = Served { pid, data: None, admin: None };
        return Ok(served(pid, &command).unwrap_or(other));
    }
    let pids = fs::read_dir("/proc")?.flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut all: Vec<Served> = pids.filter_map(|pid| served(pid, &command(pid)?)).collect();
    match (all.pop(), all.is_empty()) {
        (Some(only), true) => Ok(only),
        (None, _) => {
            Err("no crest serve runs on this machine; start one, or name a process by --pid".into())
        }
        (Some(last), false) => {
            all.push(last);
            all.sort_by_key(|served| served.pid);
            let list: String = all.iter().map(|served| format!("\n  {served}")).collect();
            Err(format!("several platforms run here; choose one by --pid:{list}").into())
        }
    }
}

impl std::fmt::Display for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.data {
            Some(data) => write!(f, "process {}, data in {}", self.pid, data.display()),
            None => write!(f, "process {}", self.pid),
        }
    }
}

/// A process's arguments, the first of them its program.
fn command(pid: u32) -> Option<Vec<String>> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words = bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into());
    let mut words: Vec<String> = words.collect();
    words.pop_if(|last: &mut String| last.is_empty());
    Some(words)
}

fn served(pid: u32, command: &[String]) -> Option<Served> {
    let (program, words) = command.split_first()?;
    let name = program.rsplit('/').next()?;
    // A copy that was kept for comparison is often named crest-0.1 or the like.
    let ours = name == "crest" || name.starts_with("crest-");
    if !ours || words.first().map(String::as_str) != Some("serve") {
        return None;
    }
    let value = |option: &str| {
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match word.strip_prefix(option) {
                Some("") => return words.next().cloned(),
                Some(rest) if rest.starts_with('=') => return Some(rest[1..].to_string()),
                _ => {}
            }
        }
        None
    };
    // A path on its command line stands relative to where it runs, not to where we do.
    let here = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
    let data = value("--data").map(|data| here.join(data));
    let admin = value("--admin").unwrap_or_else(|| args::ADMIN.to_string());
    Some(Served { pid, data, admin: (admin != "off").then_some(admin) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_platform_is_known_by_its_command_line() {
        let command = |text: &str| text.split(' ').map(str::to_string).collect::<Vec<_>>();
        let found =
            served(0, &command("/opt/crest-0.1 serve --data=/srv/shop --admin 127.0.0.1:9"));
        let found = found.unwrap();
        assert_eq!(found.data, Some(PathBuf::from("/srv/shop")));
        assert_eq!(found.admin.as_deref(), Some("127.0.0.1:9"));
        assert_eq!(found.to_string(), "process 0, data in /srv/shop");
        let admin = |text| served(0, &command(text)).unwrap().admin;
        assert_eq!(admin("crest serve --data shop").as_deref(), Some("127.0.0.1:9090"));
        assert_eq!(admin("crest serve --admin=off --data shop"), None);
        for other in ["crest drill --data serve", "vim serve", "crest"] {
            assert_eq!(served(0, &command(other)), None, "{other}");
        }
    }

    #[test]
    fn states_add_up_to_the_interval() {
        let found = states("x".to_string(), Duration::from_secs(2), 1_000_000_000, 500_000_000);
        assert_eq!(found.on_core_percent, 50.0);
        assert_eq!(found.waiting_for_core_percent, 25.0);
        assert_eq!(found.asleep_percent, 25.0);
    }

    #[test]
    fn this_process_has_threads() {
        let before = ThreadTimes::read(std::process::id());
        // The kernel books a running thread's time a tick at a time: work until it did.
        let worked = (0..100_000).any(|round: u64| {
            std::hint::black_box((0..100_000u64).fold(round, |sum, n| sum.rotate_left(1) ^ n));
            before.until_now().iter().any(|thread| thread.on_core_percent > 0.0)
        });
        assert!(worked);
    }
}
