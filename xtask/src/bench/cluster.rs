//! A PostgreSQL cluster of our own: made, started, stopped and removed here, on a Unix socket, so
//! that no other one is touched. It is in our process group: an interrupt stops it too.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tokio::task::{LocalSet, spawn_local};
use tokio_postgres::{Client, NoTls};

use crate::run::{Failure, output};
use crate::tools::{self, INITDB, POSTGRES};

/// Settings that differ from those that it comes with. Durable; memory for all of it; nothing
/// that rewrites pages while it is measured; no more in the log than recovery needs.
pub(super) const SETTINGS: [(&str, &str); 19] = [
    ("fsync", "on"),
    ("synchronous_commit", "on"),
    ("full_page_writes", "on"),
    ("shared_buffers", "2GB"),
    ("wal_compression", "off"),
    ("wal_buffers", "64MB"),
    ("wal_level", "minimal"),
    ("max_wal_senders", "0"),
    ("max_wal_size", "64GB"),
    ("min_wal_size", "1GB"),
    ("checkpoint_timeout", "1d"),
    ("autovacuum", "off"),
    ("bgwriter_lru_maxpages", "0"),
    ("jit", "off"),
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("max_connections", "100"),
    ("listen_addresses", ""),
    ("log_min_messages", "panic"),
];
const START_MAX: Duration = Duration::from_secs(30);
const STOP_MAX: Duration = Duration::from_secs(60);

/// Stopped when dropped.
pub(super) struct Cluster {
    server: Child,
    /// The socket, below the system's temporary directory: its path must be short.
    socket: tempfile::TempDir,
    data: tempfile::TempDir,
    pub(super) version: String,
}

impl Cluster {
    /// Starts one with its data below `folder`.
    pub(super) fn start(folder: &Path) -> Result<Cluster, Failure> {
        let (initdb, program) = (INITDB.get()?, POSTGRES.get()?);
        let temporary =
            |folder: &Path| tempfile::Builder::new().prefix("postgres-").tempdir_in(folder);
        let (data, socket) = (temporary(folder)?, temporary(&std::env::temp_dir())?);
        let user = unprivileged()?;
        let mut init = Command::new(initdb);
        init.args(["--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C"]);
        init.args(["--username=crest", "--pgdata"]).arg(data.path());
        let mut server = Command::new(&program);
        server.arg("-D").arg(data.path()).arg("-k").arg(socket.path());
        for (name, value) in SETTINGS {
            server.arg("-c").arg(format!("{name}={value}"));
        }
        if let Some((user, group)) = user {
            for dir in [&data, &socket] {
                chown(dir.path(), Some(user), Some(group))?;
            }
            for command in [&mut init, &mut server] {
                command.uid(user).gid(group);
            }
        }
        output(init.current_dir("/")).map_err(|error| {
            format!("{error}; {} must be within reach of its user", folder.display())
        })?;
        server.current_dir("/").stdout(Stdio::null());
        let version = tools::version(&program)?;
        let mut cluster = Cluster { server: server.spawn()?, socket, data, version };
        on_reactor(cluster.wait())??;
        cluster.is_up()?;
        Ok(cluster)
    }

    /// Where its data is: a folder in which it may write.
    pub(super) fn data(&self) -> &Path {
        self.data.path()
    }

    /// As `crest` takes it.
    pub(super) fn url(&self) -> String {
        let socket = self.socket.path().display().to_string().replace('/', "%2F");
        format!("postgres://crest@{socket}/postgres")
    }

    /// A connection, for as long as the reactor runs.
    pub(super) async fn connect(&self, options: &str) -> Result<Client, tokio_postgres::Error> {
        let mut config = tokio_postgres::Config::new();
        config.host_path(self.socket.path()).user("crest").dbname("postgres").options(options);
        let (client, connection) = config.connect(NoTls).await?;
        // It ends with its client; what goes wrong, the client's next query says.
        spawn_local(async move { drop(connection.await) });
        Ok(client)
    }

    async fn wait(&self) -> Result<(), Failure> {
        let started = Instant::now();
        while let Err(error) = self.connect("").await {
            if started.elapsed() > START_MAX {
                return Err(error.into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Says so if it has ended.
    pub(super) fn is_up(&mut self) -> Result<(), Failure> {
        match self.server.try_wait()? {
            Some(status) => Err(format!("postgres ended with {status}").into()),
            None => Ok(()),
        }
    }

    fn stop(&mut self) -> Result<(), Failure> {
        if let Some(pid) = rustix::process::Pid::from_raw(self.server.id() as i32) {
            // Fast shutdown: open connections are ended, everything is written.
            rustix::process::kill_process(pid, rustix::process::Signal::INT)?;
        }
        let asked = Instant::now();
        while self.server.try_wait()?.is_none() {
            if asked.elapsed() > STOP_MAX {
                return Err(format!("postgres did not stop within {STOP_MAX:?}").into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.stop().is_err() {
            // Its children notice that it is gone, and end.
            let _ = self.server.kill();
            let _ = self.server.wait();
        }
    }
}

/// It refuses to run as root: the user and group to run it as instead.
fn unprivileged() -> Result<Option<(u32, u32)>, Failure> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let id = |which: &str| -> Result<u32, Failure> {
        Ok(output(Command::new("id").args([which, "postgres"]))?.trim().parse()?)
    };
    Ok(Some((id("-u")?, id("-g")?)))
}

/// Runs a future that spawns local tasks.
pub(super) fn on_reactor<F: Future>(future: F) -> std::io::Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(LocalSet::new().block_on(&runtime, future))
}
