//! What the platform's threads did with their time, on a core and off it.
//!
//! The kernel says how long a thread ran and how long it was ready to run while others had the
//! core (`/proc/self/task/TID/schedstat`, proc(5); it may be some milliseconds behind for a
//! thread that runs just now). What is left of the time that passed, it waited. A reactor waits
//! for work: for a socket, the inbox or the log thread. What the log thread waits for, it knows
//! itself.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::stages::LogFigures;

/// How the names of the platform's threads begin.
pub const THREAD_PREFIX: &str = "crest-";
/// The thread that writes the log.
pub(crate) const LOG_THREAD: &str = "crest-log";

/// How much of a core a thread gets while others want it, too.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Priority {
    /// Everyone waits for it. Needs the right to it (`CAP_SYS_NICE`), and is like others without.
    Urgent,
    /// Nobody waits for it, as long as it keeps up.
    Background,
}

/// Starts a thread. On Linux each has a nice value of its own: sched(7).
pub(crate) fn spawn<T: Send + 'static>(
    name: &str,
    priority: Priority,
    run: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<JoinHandle<T>> {
    let nice = match priority {
        Priority::Urgent => -5,
        Priority::Background => 5,
    };
    std::thread::Builder::new().name(name.to_string()).spawn(move || {
        // Without it all is right, and only slower.
        let _ = rustix::process::setpriority_process(None, nice);
        run()
    })
}

/// What a thread does at a moment. One of these at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThreadState {
    /// It runs.
    OnCore,
    /// It could run, and others have the cores.
    WaitingForCore,
    /// It waits for a write to reach the disk, past the page cache. Only the log thread does.
    WaitingForWrite,
    /// It waits for `fdatasync`. Only the log thread does.
    WaitingForSync,
    /// It waits for something to do: a request, an answer, a group of frames.
    WaitingForWork,
}

impl ThreadState {
    /// Every state.
    pub const ALL: [ThreadState; 5] = [
        ThreadState::OnCore,
        ThreadState::WaitingForCore,
        ThreadState::WaitingForWrite,
        ThreadState::WaitingForSync,
        ThreadState::WaitingForWork,
    ];

    /// The word for it, in JSON and on `/metrics`.
    pub fn word(self) -> &'static str {
        match self {
            ThreadState::OnCore => "on_core",
            ThreadState::WaitingForCore => "waiting_for_core",
            ThreadState::WaitingForWrite => "waiting_for_write",
            ThreadState::WaitingForSync => "waiting_for_sync",
            ThreadState::WaitingForWork => "waiting_for_work",
        }
    }
}

/// A thread's time since the platform started, in nanoseconds by state; the states add up to
/// that time. `None` where the kernel keeps no such figures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThreadTimes {
    /// Its name: `crest-0` is the first reactor, `crest-log` the log thread.
    pub thread: String,
    /// [`ThreadState::OnCore`].
    pub on_core_ns: Option<u64>,
    /// [`ThreadState::WaitingForCore`].
    pub waiting_for_core_ns: Option<u64>,
    /// [`ThreadState::WaitingForWrite`].
    pub waiting_for_write_ns: Option<u64>,
    /// [`ThreadState::WaitingForSync`].
    pub waiting_for_sync_ns: Option<u64>,
    /// [`ThreadState::WaitingForWork`].
    pub waiting_for_work_ns: Option<u64>,
}

impl ThreadTimes {
    /// Nanoseconds in a state.
    pub fn in_state(&self, state: ThreadState) -> Option<u64> {
        match state {
            ThreadState::OnCore => self.on_core_ns,
            ThreadState::WaitingForCore => self.waiting_for_core_ns,
            ThreadState::WaitingForWrite => self.waiting_for_write_ns,
            ThreadState::WaitingForSync => self.waiting_for_sync_ns,
            ThreadState::WaitingForWork => self.waiting_for_work_ns,
        }
    }

    /// What was added since an earlier reading of the same thread.
    pub fn since(&self, earlier: &ThreadTimes) -> ThreadTimes {
        let added = |state| Some(self.in_state(state)?.saturating_sub(earlier.in_state(state)?));
        let total =
            |times: &ThreadTimes| ThreadState::ALL.iter().flat_map(|&s| times.in_state(s)).sum();
        let wall = u64::saturating_sub(total(self), total(earlier));
        let schedule = added(ThreadState::OnCore).zip(added(ThreadState::WaitingForCore));
        let disk = [ThreadState::WaitingForWrite, ThreadState::WaitingForSync]
            .map(|state| added(state).unwrap_or(0));
        ThreadTimes::divide(self.thread.clone(), Duration::from_nanos(wall), schedule, disk)
    }

    /// Divides a time. `schedule`: on a core, and ready for one. Then the nanoseconds that it was
    /// busy with writing and with syncing.
    fn divide(
        thread: String,
        wall: Duration,
        schedule: Option<(u64, u64)>,
        [writing, syncing]: [u64; 2],
    ) -> ThreadTimes {
        let mut times = ThreadTimes {
            thread,
            on_core_ns: None,
            waiting_for_core_ns: None,
            waiting_for_write_ns: None,
            waiting_for_sync_ns: None,
            waiting_for_work_ns: None,
        };
        let Some((on_core, for_core)) = schedule else { return times };
        let waiting = (wall.as_nanos() as u64).saturating_sub(on_core + for_core);
        // While it writes and syncs it waits for nothing else, but it is on a core for a part of
        // that, which isn't waiting.
        let for_disk = waiting.min(writing + syncing);
        let share =
            u128::from(for_disk) * u128::from(syncing) / u128::from(writing + syncing).max(1);
        let for_sync = share as u64;
        times.on_core_ns = Some(on_core);
        times.waiting_for_core_ns = Some(for_core);
        times.waiting_for_write_ns = Some(for_disk - for_sync);
        times.waiting_for_sync_ns = Some(for_sync);
        times.waiting_for_work_ns = Some(waiting - for_disk);
        times
    }
}

/// The platform's threads that run now, by name. Without the main one, which bears the name of
/// the program and waits for signals and scrapes. Empty where there is no `/proc`.
pub(crate) fn threads(wall: Duration, log: &LogFigures) -> Vec<ThreadTimes> {
    let Ok(tasks) = fs::read_dir("/proc/self/task") else { return Vec::new() };
    let main = OsString::from(std::process::id().to_string());
    let mut threads: Vec<_> = tasks
        .filter_map(|task| {
            let path = task.ok()?.path();
            if path.file_name().is_some_and(|number| *number == *main) {
                return None;
            }
            // A thread that has ended in between is left out.
            let name = fs::read_to_string(path.join("comm")).ok()?.trim_end().to_string();
            let ours = name.starts_with(THREAD_PREFIX);
            let disk = match name == LOG_THREAD {
                true => [log.writing_ns, log.syncing_ns],
                false => [0; 2],
            };
            ours.then(|| ThreadTimes::divide(name, wall, schedule(&path), disk))
        })
        .collect();
    threads.sort_by(|a, b| a.thread.cmp(&b.thread));
    threads
}

/// Nanoseconds on a core, and ready for one.
fn schedule(task: &Path) -> Option<(u64, u64)> {
    let text = fs::read_to_string(task.join("schedstat")).ok()?;
    let mut fields = text.split_ascii_whitespace().map(str::parse);
    Some((fields.next()?.ok()?, fields.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn divided(wall: u64, schedule: Option<(u64, u64)>, disk: [u64; 2]) -> ThreadTimes {
        ThreadTimes::divide(String::new(), Duration::from_nanos(wall), schedule, disk)
    }

    fn states(times: &ThreadTimes) -> [Option<u64>; 5] {
        ThreadState::ALL.map(|state| times.in_state(state))
    }

    #[test]
    fn the_states_add_up_to_the_time_that_passed() {
        let reactor = divided(1000, Some((300, 50)), [0, 0]);
        assert_eq!(states(&reactor), [300, 50, 0, 0, 650].map(Some));
        let log = divided(1000, Some((300, 50)), [100, 300]);
        assert_eq!(states(&log), [300, 50, 100, 300, 250].map(Some));
        // Some of the disk's time was spent on a core.
        let busy = divided(1000, Some((500, 100)), [200, 600]);
        assert_eq!(states(&busy), [500, 100, 100, 300, 0].map(Some));
        assert_eq!(states(&divided(1000, None, [0, 0])), [None; 5]);
        // And in an interval more of it than there is to wait.
        let later = divided(2000, Some((600, 600)), [200, 1400]);
        assert_eq!(states(&later.since(&log)), [300, 550, 0, 150, 0].map(Some));
    }

    #[test]
    fn threads_are_found_by_name() {
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::Builder::new().name("crest-test".to_string());
        let thread = thread.spawn(move || wait.recv()).unwrap();
        // The name is set by the thread itself, when it begins.
        let found = loop {
            let found = threads(Duration::from_secs(1), &LogFigures::default());
            if let Some(found) = found.into_iter().find(|times| times.thread == "crest-test") {
                break found;
            }
            std::thread::yield_now();
        };
        assert!(found.thread.starts_with(THREAD_PREFIX));
        drop(go);
        assert!(thread.join().unwrap().is_err());
    }
}
