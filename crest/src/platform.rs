//! The platform as a process of its own, for drills.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use loadgen::Target;

use crate::{Failure, machine};

/// How long it may take to start: replaying a log takes a while.
const START_MAX: Duration = Duration::from_secs(120);
/// How long it may take to answer what is open and stop.
const STOP_MAX: Duration = Duration::from_secs(60);

/// A platform that was started. Killed when dropped.
pub(crate) struct Platform {
    child: Child,
    pub(crate) target: Target,
    /// Its admin port.
    pub(crate) admin: Option<SocketAddr>,
}

impl Platform {
    /// Starts `crest serve` with `options` and environment variables on free ports and waits until
    /// it listens.
    pub(crate) fn start(
        data: &Path,
        options: &[String],
        variables: &[(&str, &Option<String>)],
    ) -> Result<Platform, Failure> {
        let mut serve = Command::new(std::env::current_exe()?);
        serve
            .args(["serve", "--http", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data"])
            .arg(data)
            .args(options)
            .envs(variables.iter().filter_map(|(name, value)| Some((name, value.as_ref()?))))
            .env("CREST_LOG", std::env::var("CREST_LOG").unwrap_or_else(|_| "warn".to_string()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // Ctrl-C is for the drill, which stops it in its own time.
            .process_group(0);
        let end_with_us = || {
            let term = rustix::process::Signal::TERM;
            Ok(rustix::process::set_parent_process_death_signal(Some(term))?)
        };
        // SAFETY: between fork and exec it makes one system call, which is safe after a fork, and
        // touches no memory.
        unsafe { serve.pre_exec(end_with_us) };
        let mut child = serve.spawn()?;
        let stdout = child.stdout.take().expect("it is piped");
        let (said, says) = mpsc::channel();
        std::thread::spawn(move || {
            let (mut stdout, mut lines) = (BufReader::new(stdout), [String::new(), String::new()]);
            for line in &mut lines {
                // An end without a word reads as an empty line.
                let _ = stdout.read_line(line);
            }
            let _ = said.send(lines);
        });
        let lines = says.recv_timeout(START_MAX).unwrap_or_default();
        let [target, admin] = lines.each_ref().map(|line| line.trim().split(' ').next_back());
        let admin = admin.and_then(|url| url.strip_prefix("http://")?.parse().ok());
        match target.map(Target::from_url) {
            Some(Ok(target)) => {
                let platform = Platform { child, target, admin };
                tracing::debug!(pid = platform.pid(), admin = ?platform.admin, "started");
                Ok(platform)
            }
            _ => {
                // What it had to say is on stderr.
                let _ = child.kill();
                let status = child.wait()?;
                Err(format!("the platform did not start ({status})").into())
            }
        }
    }

    /// The number of its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Seconds of CPU that it took so far.
    pub(crate) fn cpu_s(&self) -> Option<f64> {
        machine::cpu_s(self.pid())
    }

    /// Its status, if it has ended on its own.
    pub(crate) fn ended(&mut self) -> std::io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Asks it to stop and waits until it has.
    pub(crate) fn stop(mut self) -> Result<(), Failure> {
        if let Some(pid) = rustix::process::Pid::from_raw(self.pid() as i32) {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        }
        let start = Instant::now();
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(format!("the platform stopped with {status}").into()),
                None if start.elapsed() > STOP_MAX => {
                    return Err(format!("the platform did not stop within {STOP_MAX:?}").into());
                }
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        // Ended processes can't be killed; that is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
