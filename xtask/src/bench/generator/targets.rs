//! What the generators are let loose on: nginx with a small static page, and the bare server.
//!
//! nginx runs with a configuration, keys and a folder of its own, which go when it does. It
//! listens on four ports: HTTP/1.1 and HTTP/2, each without TLS and with it. Without TLS it takes
//! HTTP/2 by prior knowledge only.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::bench::bare_server::{BareServer, Http};
use crate::run::{Failure, output};
use crate::tools::{NGINX, OPENSSL};

/// As many as the machine of the benchmarks has cores.
pub(super) const WORKERS: usize = 2;
/// As long as the page that nginx comes with used to be.
pub(super) const PAGE_BYTES: usize = 612;
const START_MAX: Duration = Duration::from_secs(10);

/// Where a load goes, and how.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Target {
    pub(super) server: Server,
    pub(super) http: Http,
    pub(super) tls: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Server {
    Nginx,
    Bare,
}

/// All of them. They end when this is dropped.
pub(super) struct Targets {
    child: Child,
    _folder: TempDir,
    ports: [u16; 4],
    bare: [BareServer; 2],
}

impl Targets {
    /// Starts them with what they need below `folder`.
    pub(super) fn start(folder: &Path) -> Result<Targets, Failure> {
        let (nginx, openssl) = (NGINX.get()?, OPENSSL.get()?);
        let folder = tempfile::Builder::new().prefix("nginx-").tempdir_in(folder)?;
        let mut request = Command::new(openssl);
        request.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
        request.args(["-nodes", "-days", "2", "-subj", "/CN=localhost"]);
        request.args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]);
        request.args(["-keyout", "key.pem", "-out", "cert.pem"]).current_dir(folder.path());
        output(request.stderr(Stdio::null()))?;
        fs::create_dir(folder.path().join("page"))?;
        fs::write(folder.path().join("page/index.html"), "x".repeat(PAGE_BYTES))?;
        let ports = free_ports()?;
        fs::write(folder.path().join("nginx.conf"), configuration(ports))?;

        let mut server = Command::new(nginx);
        server.arg("-p").arg(folder.path()).args(["-c", "nginx.conf", "-e", "stderr"]);
        let child = server.stdout(Stdio::null()).spawn()?;
        let bare =
            [BareServer::start(WORKERS, 1, Http::One)?, BareServer::start(WORKERS, 1, Http::Two)?];
        let mut targets = Targets { child, _folder: folder, ports, bare };
        let started = Instant::now();
        for port in ports {
            while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
                if let Some(status) = targets.child.try_wait()? {
                    return Err(format!("nginx ended with {status}").into());
                }
                if started.elapsed() > START_MAX {
                    return Err(format!("nginx does not listen on port {port}").into());
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(targets)
    }

    pub(super) fn url(&self, target: Target) -> String {
        let second = usize::from(target.http == Http::Two);
        match (target.server, target.tls) {
            (Server::Bare, _) => format!("{}/", self.bare[second].url),
            (Server::Nginx, false) => format!("http://127.0.0.1:{}/", self.ports[second]),
            (Server::Nginx, true) => format!("https://127.0.0.1:{}/", self.ports[2 + second]),
        }
    }
}

impl Drop for Targets {
    fn drop(&mut self) {
        // Its workers end with it only if it is asked: a killed one leaves them behind.
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id() as i32) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.child.wait();
    }
}

fn free_ports() -> std::io::Result<[u16; 4]> {
    // All are held until all are known, so that they differ.
    let held: Vec<_> =
        (0..4).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect::<Result<_, _>>()?;
    let mut ports = [0; 4];
    for (port, listener) in ports.iter_mut().zip(&held) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}

fn configuration(ports: [u16; 4]) -> String {
    let kinds = ["", " http2", " ssl", " ssl http2"];
    let servers: String = ports
        .iter()
        .zip(kinds)
        .map(|(port, kind)| format!("  server {{ listen 127.0.0.1:{port}{kind}; root page; }}\n"))
        .collect();
    // The folder is its owner's alone, whom workers would not be.
    let user = if rustix::process::geteuid().is_root() { "user root;\n" } else { "" };
    let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|path| format!("  {path}_temp_path temp;\n"))
        .concat();
    format!(
        "{user}daemon off;\nworker_processes {WORKERS};\npid nginx.pid;\nerror_log stderr error;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n  access_log off;\n  keepalive_requests 1000000000;\n  \
         keepalive_timeout 600s;\n  open_file_cache max=16 inactive=600s;\n  \
         types {{ text/html html; }}\n  ssl_certificate cert.pem;\n  \
         ssl_certificate_key key.pem;\n{paths}{servers}}}\n"
    )
}
