//! A PostgreSQL that a test starts.
//!
//! Its programs are looked for where Debian 12 has them, or in `CREST_POSTGRES`, a folder.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(120);

/// On a socket in a folder. Killed when dropped.
pub struct Postgres {
    server: Child,
    socket: tempfile::TempDir,
    data: tempfile::TempDir,
    programs: PathBuf,
}

impl Postgres {
    /// `None`: there is none on this machine.
    pub fn start() -> Option<Postgres> {
        let programs = std::env::var_os("CREST_POSTGRES").map(PathBuf::from);
        let programs = programs.unwrap_or_else(|| "/usr/lib/postgresql/15/bin".into());
        if !programs.join("postgres").exists() {
            eprintln!("skipped: no PostgreSQL in {}", programs.display());
            return None;
        }
        let temporary = || tempfile::Builder::new().prefix("crest-pg-").tempdir().unwrap();
        let (data, socket) = (temporary(), temporary());
        let mut init = as_postgres(Command::new(programs.join("initdb")), &[&data, &socket]);
        init.args(["--no-sync", "--auth=trust", "--username=crest", "--pgdata"]).arg(data.path());
        assert!(init.current_dir("/").stdout(Stdio::null()).status().unwrap().success());
        let server = serve(&programs, &data, &socket);
        let postgres = Postgres { server, socket, data, programs };
        postgres.wait();
        Some(postgres)
    }

    fn wait(&self) {
        let start = Instant::now();
        while !self.psql("SELECT 1").status.success() {
            assert!(start.elapsed() < PATIENCE, "PostgreSQL doesn't listen");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends it at once, as a crash would, and starts it again.
    #[allow(dead_code)] // Each test that has this module uses a part of it.
    pub fn crash(&mut self) {
        let stop = Command::new(self.programs.join("pg_ctl"));
        let mut stop = as_postgres(stop, &[]);
        stop.args(["stop", "--mode=immediate", "--pgdata"]).arg(self.data.path());
        assert!(stop.current_dir("/").stdout(Stdio::null()).status().unwrap().success());
        self.server.wait().unwrap();
        self.server = serve(&self.programs, &self.data, &self.socket);
        self.wait();
    }

    pub fn psql(&self, sql: &str) -> Output {
        let mut psql = Command::new(self.programs.join("psql"));
        psql.arg("-h").arg(self.socket.path()).args(["-U", "crest", "-d", "postgres"]);
        psql.args(["-v", "ON_ERROR_STOP=1", "-Atqc", sql]).output().unwrap()
    }

    /// What a query that works answers.
    pub fn run(&self, sql: &str) -> String {
        let output = self.psql(sql);
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_string()
    }

    pub fn url(&self) -> String {
        let folder = self.socket.path().to_str().unwrap().replace('/', "%2F");
        format!("postgres://crest@{folder}/postgres")
    }
}

fn serve(programs: &Path, data: &tempfile::TempDir, socket: &tempfile::TempDir) -> Child {
    let mut server = as_postgres(Command::new(programs.join("postgres")), &[]);
    server.arg("-D").arg(data.path()).arg("-k").arg(socket.path());
    server.args(["-c", "listen_addresses="]).current_dir("/");
    server.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// It refuses to run as root.
fn as_postgres(mut command: Command, folders: &[&tempfile::TempDir]) -> Command {
    use std::os::unix::process::CommandExt;
    if rustix::process::geteuid().is_root() {
        let id = |which: &str| -> u32 {
            let output = Command::new("id").args([which, "postgres"]).output().unwrap();
            String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
        };
        let (user, group) = (id("-u"), id("-g"));
        for folder in folders {
            std::os::unix::fs::chown(folder.path(), Some(user), Some(group)).unwrap();
        }
        command.uid(user).gid(group);
    }
    command
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // One that has ended can't be killed; that is fine.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
