//! A cluster of three NATS servers, on free ports and in a directory of its own.
//!
//! The server's program is named by `CREST_NATS_SERVER`; `cargo xtask test` installs one.
#![allow(dead_code, reason = "each test uses a part")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use mq::{NatsConfig, NatsStream};

/// Where the server's program is; `None` says that the test is skipped.
pub fn server() -> Option<PathBuf> {
    let found = std::env::var_os("CREST_NATS_SERVER").map(PathBuf::from);
    if found.is_none() {
        eprintln!("skipped: CREST_NATS_SERVER names no nats-server (`cargo xtask test` sets it)");
    }
    found
}

/// What servers are started with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// 1 or 3.
    pub servers: usize,
    /// As `sync_interval` says it.
    pub sync: &'static str,
    /// Bytes of a message.
    pub max_payload: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { servers: 3, sync: "always", max_payload: 1 << 20 }
    }
}

/// Servers that end with this.
pub struct Cluster {
    program: PathBuf,
    directory: tempfile::TempDir,
    ports: Vec<u16>,
    servers: Vec<Option<Child>>,
}

/// So many, all different: each is held until all are found.
fn free_ports(count: usize) -> Vec<u16> {
    let held: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    held.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

impl Cluster {
    /// Starts them, and waits until they have a leader.
    pub fn start(program: PathBuf, settings: &Settings) -> Cluster {
        let directory = tempfile::tempdir().unwrap();
        let count = settings.servers;
        let mut ports = free_ports(2 * count);
        let routes = ports.split_off(count);
        let urls: Vec<String> =
            routes.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
        for number in 0..count {
            let store = directory.path().join(format!("store-{number}"));
            let cluster = match count {
                1 => String::new(),
                _ => format!(
                    "cluster {{ name: crest, listen: \"127.0.0.1:{}\", routes: [{}] }}\n",
                    routes[number],
                    urls.join(", ")
                ),
            };
            let config = format!(
                "server_name: n{number}\nlisten: \"127.0.0.1:{}\"\nmax_payload: {}\n\
                 jetstream {{ store_dir: {:?}, sync_interval: {} }}\n{cluster}\
                 accounts {{\n  $SYS {{ users: [{{ user: sys, password: \"s@ys\" }}] }}\n  \
                 SHOP {{ jetstream: enabled, users: [{{ user: shop, password: shop }}] }}\n}}\n",
                ports[number], settings.max_payload, store, settings.sync
            );
            fs::write(directory.path().join(format!("n{number}.conf")), config).unwrap();
        }
        let servers = (0..count).map(|_| None).collect();
        let mut cluster = Cluster { program, directory, ports, servers };
        (0..count).for_each(|number| cluster.restart(number));
        cluster
    }

    /// Starts a server that was killed, and waits until it takes connections.
    pub fn restart(&mut self, number: usize) {
        let log = fs::File::create(self.directory.path().join(format!("n{number}.log"))).unwrap();
        let server = Command::new(&self.program)
            .arg("-c")
            .arg(self.directory.path().join(format!("n{number}.conf")))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.servers[number] = Some(server);
        let until = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", self.ports[number])).is_err() {
            assert!(Instant::now() < until, "server {number} doesn't start: {}", self.log(number));
            sleep(Duration::from_millis(20));
        }
    }

    /// What a server said.
    pub fn log(&self, number: usize) -> String {
        fs::read_to_string(self.directory.path().join(format!("n{number}.log"))).unwrap()
    }

    /// Kills a server, without a word to it.
    pub fn kill(&mut self, number: usize) {
        let mut server = self.servers[number].take().unwrap();
        server.kill().unwrap();
        server.wait().unwrap();
    }

    /// Stops a server's process for a while, as a long pause does.
    pub fn pause(&self, number: usize, for_so_long: Duration) {
        let signal = |name: &str| {
            let id = self.servers[number].as_ref().unwrap().id().to_string();
            assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
        };
        signal("-STOP");
        sleep(for_so_long);
        signal("-CONT");
    }

    /// Where clients connect.
    pub fn url(&self) -> String {
        self.urls("shop:shop")
    }

    /// The same for a user of the system account.
    pub fn system_url(&self) -> String {
        self.urls("sys:s%40ys")
    }

    fn urls(&self, user: &str) -> String {
        let url = |port: &u16| format!("nats://{user}@127.0.0.1:{port}");
        self.ports.iter().map(url).collect::<Vec<_>>().join(",")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for server in self.servers.iter_mut().flatten() {
            // It may have ended.
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

/// A stream of a cluster's.
pub fn config(cluster: &Cluster, stream: &str) -> NatsConfig {
    NatsConfig {
        url: cluster.url(),
        system_url: Some(cluster.system_url()),
        stream: stream.to_string(),
        replicas: 3,
    }
}

/// Connects to it. Servers take a while to agree on who leads.
pub fn connect(config: &NatsConfig) -> Arc<NatsStream> {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        match NatsStream::connect(config) {
            Ok(stream) => return Arc::new(stream),
            Err(error) if Instant::now() > until => panic!("{error}"),
            Err(_) => sleep(Duration::from_millis(200)),
        }
    }
}
