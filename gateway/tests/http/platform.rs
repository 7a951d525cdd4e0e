//! A gateway in a thread of its own, with its shards and a log that does as it is told.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

use gateway::{Door, DrillDoor, Gateway, Limits, Router};
use model::frame::Frame;
use model::{Offset, ShardId};
use mq::{FrameSource, Log, LogEnd, LogError, LogStats, MemoryLog};
use node::{Opened, Placement, ShardFailed};
use tokio::sync::watch;
use tokio::task::{LocalSet, spawn_local};

use crate::client::{Answer, Connection};

pub struct Platform {
    pub address: SocketAddr,
    /// What the log may do.
    pub log: Arc<Valve>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<Result<(), ShardFailed>>>,
}

impl Platform {
    pub fn start() -> Platform {
        Platform::with(Limits::default())
    }

    pub fn with(limits: Limits) -> Platform {
        Platform::on(1, 1, limits)
    }

    /// With so many shards in so many groups, all on the gateway's reactor.
    pub fn on(shards: u16, groups: usize, limits: Limits) -> Platform {
        Platform::open(shards, groups, limits, DrillDoor::default())
    }

    /// That takes drills.
    pub fn rehearsing(shards: u16, groups: usize, door: DrillDoor) -> Platform {
        Platform::open(shards, groups, Limits::default(), door)
    }

    fn open(shards: u16, groups: usize, limits: Limits, drills: DrillDoor) -> Platform {
        let valve = Arc::new(Valve::default());
        let log = ValveLog { log: MemoryLog::new(), valve: valve.clone() };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        let thread = std::thread::spawn(move || {
            let opened = node::open_log(log, |_| Ok(()), Placement::new(shards, groups, 1));
            let Opened { tasks, handles, log, .. } = opened.unwrap();
            let door = Door::for_all(vec![listener]).remove(0);
            let gateway = Gateway::new(Router::new(handles), limits, 0).with_drills(drills);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let ended = LocalSet::new().block_on(&runtime.unwrap(), async move {
                let groups: Vec<_> =
                    tasks.into_iter().map(|task| spawn_local(task.run())).collect();
                gateway.serve(door, stopped).await.unwrap();
                let mut ended = Ok(());
                for group in groups {
                    ended = ended.and(group.await.unwrap());
                }
                ended
            });
            assert_eq!(log.join().failed.is_some(), ended.is_err());
            ended
        });
        Platform { address, log: valve, stop, thread: Some(thread) }
    }

    /// With goods and money. Its records take offsets 1 to 6.
    ///
    /// Buyer 1 has 10,000 GBP in minor units and buyer 2 has 100. Seller 9 sells, in GBP, item 1
    /// at 250 (10 in stock) and item 2 at 100 (3 in stock), item 3 at 0 (5), and item 4 at 50 EUR.
    pub fn shop() -> Platform {
        Platform::shop_with(Limits::default())
    }

    pub fn shop_with(limits: Limits) -> Platform {
        let platform = Platform::with(limits);
        platform.furnish();
        platform
    }

    fn furnish(&self) {
        let accounts = r#"{"accounts":[{"party":1,"currency":"GBP","balance":10000},
            {"party":2,"currency":"GBP","balance":100}]}"#;
        let items = r#"{"items":[{"item":1,"seller":9,"currency":"GBP","price":250,"stock":10},
            {"item":2,"seller":9,"currency":"GBP","price":100,"stock":3},
            {"item":3,"seller":9,"currency":"GBP","price":0,"stock":5},
            {"item":4,"seller":9,"currency":"EUR","price":50,"stock":5}]}"#;
        assert_eq!(self.post("/v1/accounts/batch", accounts).status, 200);
        assert_eq!(self.post("/v1/items/batch", items).status, 200);
    }

    pub fn connect(&self) -> Connection {
        Connection::to(self.address)
    }

    pub fn get(&self, path: &str) -> Answer {
        self.connect().get(path)
    }

    pub fn post(&self, path: &str, body: impl AsRef<[u8]>) -> Answer {
        self.connect().post(path, body)
    }

    /// The shop's accounts and items, as reads show them.
    pub fn books(&self) -> String {
        let mut connection = self.connect();
        let mut books = String::new();
        for path in [
            "/v1/accounts/1?currency=GBP",
            "/v1/accounts/2?currency=GBP",
            "/v1/accounts/9?currency=GBP&kind=payable",
            "/v1/accounts/0?currency=GBP&kind=clearing",
            "/v1/items/1",
            "/v1/items/2",
            "/v1/items/3",
            "/v1/items/4",
        ] {
            books.push_str(&connection.get(path).body);
            books.push('\n');
        }
        books
    }

    /// The offset of the next record. Spends it on an item that nobody asks for.
    pub fn next_offset(&self) -> u64 {
        static ITEM: AtomicU64 = AtomicU64::new(1_000_000);
        let item = ITEM.fetch_add(1, Ordering::Relaxed);
        let body = format!(r#"{{"item":{item},"seller":9,"currency":"GBP","price":1}}"#);
        let answer = self.post("/v1/items", body);
        let (_, offset) = answer.body.split_once(r#""offset":"#).expect("a new item has a record");
        offset.trim_end_matches('}').parse().unwrap()
    }

    /// Tells it to stop, without waiting for it.
    pub fn begin_to_stop(&self) {
        // Nobody hears it when it has stopped already.
        let _ = self.stop.send(true);
    }

    /// Stops it and waits until gateway, shard and log thread have ended.
    pub fn stop(mut self) -> Result<(), ShardFailed> {
        self.begin_to_stop();
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        self.begin_to_stop();
        self.log.open();
        let ended = thread.join();
        if !std::thread::panicking() {
            ended.unwrap().unwrap();
        }
    }
}

/// Lets frames with records into a log, keeps them waiting, or makes the log fail.
#[derive(Default)]
pub struct Valve {
    state: Mutex<ValveState>,
    changed: Condvar,
}

#[derive(Default)]
struct ValveState {
    is_shut: bool,
    is_broken: bool,
    is_waited_for: bool,
}

impl Valve {
    /// From now on frames with records wait.
    pub fn shut(&self) {
        self.state.lock().unwrap().is_shut = true;
    }

    /// What waits goes on.
    pub fn open(&self) {
        self.state.lock().unwrap().is_shut = false;
        self.changed.notify_all();
    }

    /// What waits, or comes next, fails.
    pub fn break_down(&self) {
        let mut state = self.state.lock().unwrap();
        (state.is_shut, state.is_broken) = (false, true);
        self.changed.notify_all();
    }

    /// Returns when a frame with records waits.
    pub fn await_frame(&self) {
        let state = self.state.lock().unwrap();
        drop(self.changed.wait_while(state, |state| !state.is_waited_for).unwrap());
    }

    fn pass(&self) -> Result<(), LogError> {
        let mut state = self.state.lock().unwrap();
        state.is_waited_for = state.is_shut;
        self.changed.notify_all();
        let mut state = self.changed.wait_while(state, |state| state.is_shut).unwrap();
        state.is_waited_for = false;
        match state.is_broken {
            true => Err(LogError::Io { doing: "write", source: io::ErrorKind::StorageFull.into() }),
            false => Ok(()),
        }
    }
}

struct ValveLog {
    log: MemoryLog,
    valve: Arc<Valve>,
}

impl Log for ValveLog {
    fn append(&mut self, frames: &[&[u8]]) -> Result<(), LogError> {
        let has_records = |frame: &&[u8]| !Frame::split(frame).unwrap().0.records.is_empty();
        if frames.iter().any(has_records) {
            self.valve.pass()?;
        }
        self.log.append(frames)
    }

    fn read(&self, shard: ShardId, from: Offset) -> Result<Box<dyn FrameSource + '_>, LogError> {
        self.log.read(shard, from)
    }

    fn read_all(&self) -> Result<Box<dyn FrameSource + '_>, LogError> {
        self.log.read_all()
    }

    fn trim(&mut self, before: &[(ShardId, Offset)]) -> Result<(), LogError> {
        self.log.trim(before)
    }

    fn end(&self, shard: ShardId) -> LogEnd {
        self.log.end(shard)
    }

    fn stats(&self) -> LogStats {
        self.log.stats()
    }
}
