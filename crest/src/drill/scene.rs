//! What a drill is driven against: a platform of its own, or one that runs already.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gateway::{DRILL_HEADER, OWN_CERTIFICATE};
use loadgen::engine::unix_ms;
use loadgen::{Target, Trust};
use node::stages::Figures;

use crate::data_key::{NATS_SYSTEM_VARIABLE, NATS_VARIABLE};
use crate::machine::{self, cpu_s};
use crate::platform::Platform;
use crate::profile;
use crate::report::{CpuFigures, Report, times};
use crate::serve::{TLS, read_drill_key};
use crate::watch::say;
use crate::{Failure, args};

/// How long a drill's mark is good: longer than a drill takes.
const MARK_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// What the drill is driven against.
pub(crate) struct Scene {
    platform: std::cell::RefCell<Option<Platform>>,
    /// Where it is set up and read back.
    pub(crate) target: Target,
    /// Where its load goes, and who is to be there.
    pub(crate) loaded: Target,
    pub(crate) trust: Trust,
    admin: Option<SocketAddr>,
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
            let mut target = Target::from_url(url)?;
            if let Some(file) = &args.drill_key {
                let mark = read_drill_key(file)?.mark(unix_ms() / 1_000 + MARK_FOR.as_secs());
                target.headers = format!("{DRILL_HEADER}: {mark}\r\n");
            }
            if target.tls {
                return Err(format!("{url}: of a platform that runs, http:// is driven").into());
            }
            let (loaded, trust) = (target.clone(), Trust::System);
            let (platform, admin) = (None.into(), args.admin);
            return Ok(Scene { platform, target, loaded, trust, admin, data: None });
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
        if let Some(shards) = args.shards {
            options.extend(["--shards".to_string(), shards.to_string()]);
        }
        if let Some(file) = &args.open.data_key.data_key {
            options.extend(["--data-key".to_string(), file.display().to_string()]);
        }
        if args.log.log == Some(args::LogEngine::Jetstream) {
            options.extend(["--log".to_string(), "jetstream".to_string()]);
        }
        let (open, log) = (&args.open, &args.log);
        let replicas = log.nats_replicas.map(|replicas| replicas.to_string());
        // Never the stream that a shop is served with, unless it is named, and then it must be new.
        let drawn = format!("crest-drill-{}", unix_ms());
        let stream = Some(log.nats_stream.clone().unwrap_or(drawn));
        let stream = stream.filter(|_| log.log == Some(args::LogEngine::Jetstream));
        if let Some(stream) = &stream {
            options.push("--new-stream".to_string());
            say(&format!("its log is the stream {stream}"));
        }
        // URLs have passwords in them, and anybody sees a command line.
        let variables = [(NATS_VARIABLE, &open.nats), (NATS_SYSTEM_VARIABLE, &open.nats_system)];
        for (name, value) in [("--nats-stream", &stream), ("--nats-replicas", &replicas)] {
            options.extend(value.iter().flat_map(|value| [name.to_string(), value.clone()]));
        }
        let platform = Platform::start(data.path(), &options, &variables)?;
        let (target, admin) = (platform.target.clone(), platform.admin);
        let (loaded, trust) = match args.is_secure() {
            true => {
                let certificate = data.path().join(TLS).join(OWN_CERTIFICATE);
                let url = format!("https://{}", target.authority);
                (Target::from_url(&url)?, Trust::File(certificate))
            }
            false => (target.clone(), Trust::System),
        };
        let platform = Some(platform).into();
        Ok(Scene { platform, target, loaded, trust, admin, data: Some(data) })
    }

    pub(crate) fn cpu(&self) -> Cpu {
        Cpu {
            platform: self.platform.borrow().as_ref().and_then(Platform::cpu_s),
            generator: cpu_s(std::process::id()).unwrap_or(0.0),
        }
    }

    /// The platform's process.
    pub(crate) fn pid(&self) -> Result<u32, Failure> {
        match &*self.platform.borrow() {
            Some(platform) => Ok(platform.pid()),
            None => profile::platform_pid(),
        }
    }

    /// What the platform says of its time so far; `None` where it can't be asked.
    pub(crate) fn figures(&self) -> Option<Figures> {
        let admin = self.admin?;
        let fetched = times::fetch(admin);
        fetched.inspect_err(|error| say(&format!("the admin port, {admin}: {error}"))).ok()
    }

    /// Kills the platform, if it is ours: for when this process ends at once.
    pub(crate) fn killer(&self) -> impl Fn() + Send + 'static {
        let pid = self.platform.borrow().as_ref().map(Platform::pid);
        move || {
            if let Some(pid) = pid.and_then(|pid| rustix::process::Pid::from_raw(pid as i32)) {
                // It may have ended by itself.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
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
