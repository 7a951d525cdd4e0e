//! The platform as its users have it, killed, stopped, starved and damaged: what it acknowledged
//! is in its log, once, and nothing else is.
//!
//! A round starts the platform on a data directory that lives through many rounds, reads every
//! order back, repeats every command that got no answer, drives new load, and ends the platform
//! at a moment that the seed says. Then the log is audited and held against all that clients
//! ever sent and were ever told. Processes and clocks are real, so a seed repeats the commands
//! and the moments, not the interleaving.
//!
//! `CREST_ROUNDS` says how many rounds there are, `CREST_SEED` which. A failure prints the line
//! that runs the rounds of its data directory again, and keeps the directory.

// What a test does not expect is a failure.
#![allow(clippy::unwrap_used)]

#[path = "crash/asks.rs"]
mod asks;
#[path = "crash/book.rs"]
mod book;
#[path = "crash/load.rs"]
mod load;
#[path = "../../mq/tests/common/nats.rs"]
mod nats;
#[path = "crash/platform.rs"]
mod platform;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use asks::Ask;
use book::{Book, LogImage};
use load::{How, Load, Request, When, Work, deal, mix, requests};
use loadgen::profile::Random;
use model::OrderState;
use model::json::decode::parse_uuid;
use nats::{Cluster, Settings};
use platform::{
    Audited, NO_SNAPSHOTS, Platform, SEGMENT_BYTES, Starting, audit, audit_from, key_file,
    stream_file, verify_archive,
};

/// Rounds unless told.
const ROUNDS: u64 = 20;
/// The same with the log on servers, where a round takes longer.
const STREAM_ROUNDS: u64 = 6;
/// Rounds of one data directory.
const LIFE_ROUNDS: u64 = 25;
/// Connections of a load.
const CONNECTIONS: usize = 5;
/// Requests of a connection in one round, at most.
const REQUESTS_MAX: u64 = 300;

/// Repeats of a command that finds shards busy.
const REPEATS_MAX: usize = 20;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// The seed of this run: told, or any.
fn seed() -> u64 {
    number("CREST_SEED").unwrap_or_else(|| loadgen::engine::unix_ms() % 1_000_000)
}

/// Prints how to repeat what failed, where the data is, and which commit it was.
struct Repeat {
    test: &'static str,
    seed: u64,
    from: u64,
    round: u64,
    data: Option<tempfile::TempDir>,
}

impl Repeat {
    fn new(test: &'static str, seed: u64) -> Repeat {
        let data = tempfile::Builder::new().prefix("crest-crash-").tempdir().unwrap();
        Repeat { test, seed, from: 0, round: 0, data: Some(data) }
    }

    fn data(&self) -> PathBuf {
        self.data.as_ref().expect("it is kept until the end").path().join("data")
    }
}

impl Drop for Repeat {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let mut git = std::process::Command::new("git");
        let commit = git.args(["rev-parse", "--short", "HEAD"]).output();
        let commit = commit.map(|output| output.stdout).unwrap_or_default();
        let &mut Repeat { test, seed, from, round, .. } = self;
        let rounds = round - from + 1;
        eprintln!(
            "CREST_SEED={seed} CREST_FROM={from} CREST_ROUNDS={rounds} \
             cargo test -p crest --test crash {test} # round {round}, commit {}",
            String::from_utf8_lossy(&commit).trim()
        );
        if let Some(data) = self.data.take() {
            eprintln!("the data directory is kept: {}", data.keep().display());
        }
    }
}

/// A page of a buyer's orders.
#[derive(serde::Deserialize)]
struct OrderList {
    orders: Vec<Listed>,
    next: Option<u64>,
}

#[derive(serde::Deserialize)]
struct Listed {
    id: String,
    state: String,
}

/// One data directory and its clients, from round to round.
struct Life {
    data: PathBuf,
    /// What the platform is started with.
    options: Vec<String>,
    book: Rc<RefCell<Book>>,
    image: LogImage,
}

impl Life {
    /// A new one, whose accounts and items wait to be made.
    fn new(data: &Path, seed: u64) -> Life {
        let mut book = Book::new(seed);
        asks::world().iter().for_each(|ask| book.sending(ask));
        // An empty log, for the first look back.
        let image = LogImage::none();
        let options = vec!["--segment-bytes".to_string(), SEGMENT_BYTES.to_string()];
        Life { data: data.to_path_buf(), options, book: Rc::new(RefCell::new(book)), image }
    }

    /// Starts the platform, and ends it during that up to three times before.
    fn start(&self, random: &mut Random, kills: u64) -> Platform {
        let options: Vec<&str> = self.options.iter().map(String::as_str).collect();
        for _ in 0..kills {
            // Long enough to be anywhere between the first file and the first answer.
            let time = Duration::from_micros(random.below(60_000));
            Starting::spawn(&self.data, &options).kill_after(time);
        }
        Starting::spawn(&self.data, &options).ready().unwrap()
    }

    /// Reads every order of the log, before anything else is written.
    fn read_back(&self, load: &Rc<Load>) {
        let gets = self.image.orders.keys().map(|&(buyer, id)| Request::Get(buyer, id));
        let before = self.book.borrow().reads.len();
        load.run(deal(gets.collect(), CONNECTIONS));
        let book = self.book.borrow();
        let reads = &book.reads[before..];
        if !load.struck.get() {
            assert_eq!(reads.len(), self.image.orders.len());
        }
        self.image.check_reads(reads);
    }

    /// Reads all orders of some buyers page by page, with nobody writing.
    fn list_back(&self, load: &Load) {
        let target = load.platform.borrow().target.clone();
        let buyers: BTreeSet<u64> = self.image.orders.keys().map(|(buyer, _)| *buyer).collect();
        for buyer in buyers.into_iter().take(6) {
            let of_buyer = self.image.orders.iter().filter(|((other, _), _)| *other == buyer);
            let logged: BTreeMap<u128, OrderState> =
                of_buyer.map(|((_, id), seen)| (*id, seen.state)).collect();
            let (mut listed, mut from) = (BTreeMap::new(), String::new());
            loop {
                let path = format!("/v1/buyers/{buyer}/orders?limit=7{from}");
                let (status, body) = asks::get(&target, &path);
                assert_eq!(status, 200, "{body}");
                let page: OrderList = sonic_rs::from_str(&body).unwrap();
                for order in page.orders {
                    let id = parse_uuid(&order.id).unwrap();
                    let state = OrderState::from_word(&order.state).unwrap();
                    assert_eq!(listed.insert(id, state), None, "{id:x} is listed twice");
                }
                let Some(next) = page.next else { break };
                from = format!("&from={next}");
            }
            assert_eq!(listed, logged, "orders of buyer {buyer}");
        }
    }

    /// Repeats every command that has no outcome, and again where shards were busy.
    fn retry(&self, load: &Rc<Load>, random: &mut Random) {
        for _ in 0..REPEATS_MAX {
            let unclear = self.book.borrow().unclear();
            if unclear.is_empty() || load.struck.get() {
                return;
            }
            load.run(deal(requests(unclear, random), CONNECTIONS));
        }
        let unclear = self.book.borrow().unclear();
        assert!(load.struck.get() || unclear.is_empty(), "never answered: {unclear:?}");
    }

    /// Audits the log, in a process of its own and in this one, and checks every claim.
    fn check(&mut self) -> Audited {
        let audited = audit(&self.data);
        let report = audited.report.as_ref().unwrap_or_else(|| panic!("{}", audited.words));
        let fine = audited.code == 0 && report.verdict == "pass" && report.audit.ok;
        assert!(fine && report.problems.is_empty(), "{}", audited.words);
        assert_eq!(report.audit.duplicated, 0);
        let mut book = self.book.borrow_mut();
        self.image = LogImage::read(&self.data, &book);
        assert_eq!(report.audit.records, self.image.audit.records);
        assert_eq!(report.audit.state_hash, format!("{:016x}", self.image.audit.state_hash));
        self.image.check(&book);
        book.reads.clear();
        drop(book);
        // Whatever it begins with leads to the same state.
        for from in ["oldest", "newest"] {
            let snapshots = audit_from(&self.data, from);
            assert_eq!(snapshots.code, 0, "from the {from}: {}", snapshots.words);
            let found = snapshots.report.unwrap().audit;
            assert!(found.ok && found.records <= self.image.audit.records);
            assert_eq!(found.state_hash, format!("{:016x}", self.image.audit.state_hash));
        }
        let (code, words) = verify_archive(&self.data);
        assert_eq!(code, 0, "{words}");
        audited
    }

    /// The last round: everything gets its outcome, and the platform stops as it should.
    fn end(&mut self, random: &mut Random) {
        let load = Load::new(self.start(random, 0), &self.book, How::Terminate, When::Never);
        self.read_back(&load);
        self.list_back(&load);
        self.retry(&load, random);
        load.strike();
        let status = load.platform.borrow_mut().wait();
        assert!(status.success(), "{status}\n{}", load.platform.borrow().words());
        let audited = self.check();
        assert_eq!(audited.report.unwrap().log.torn_bytes, 0);
        self.image.check_complete(&self.book.borrow());
    }
}

/// When a platform is struck in a round: while it recovers, while clients repeat, under load.
fn moment(random: &mut Random) -> When {
    match random.below(8) {
        0 => When::Answers(1 + random.below(3)),
        1 | 2 => When::Time(Duration::from_micros(random.below(20_000))),
        3..=5 => When::Answers(1 + random.below(CONNECTIONS as u64 * REQUESTS_MAX)),
        _ => When::Time(Duration::from_micros(random.below(400_000))),
    }
}

/// Rounds of a platform that is killed, `default` of them unless told, its log on these servers if
/// there are any. They fail too.
fn killed_at_any_moment(test: &'static str, default: u64, mut servers: Option<Cluster>) {
    let rounds = number("CREST_ROUNDS").unwrap_or(default);
    let from = number("CREST_FROM").unwrap_or(0);
    let seed = seed();
    let started = Instant::now();
    let (mut answered, mut records, mut torn, mut unclear) = (0, 0, 0, 0);
    let mut round = from;
    while round < from + rounds {
        let mut repeat = Repeat::new(test, seed);
        repeat.from = round;
        let mut life = Life::new(&repeat.data(), seed ^ round << 32);
        if (seed + round / LIFE_ROUNDS).is_multiple_of(2) {
            std::fs::write(key_file(&life.data), "0123456789abcdef".repeat(4)).unwrap();
        }
        if let Some(servers) = &servers {
            let (url, system) = (servers.url(), servers.system_url());
            let text = format!("crest-{round}\n{url}\n{system}\n");
            std::fs::write(stream_file(&life.data), text).unwrap();
        }
        for _ in 0..LIFE_ROUNDS.min(from + rounds - round) {
            repeat.round = round;
            let random = &mut Random(seed ^ round << 32);
            // A directory is also killed while it is being made.
            let kills = if round == repeat.from { 3 } else { random.below(4).saturating_sub(2) };
            let retry = random.below(4) == 0;
            let platform = life.start(random, kills);
            let when = |now, random: &mut Random| if now { moment(random) } else { When::Never };
            let load = Load::new(platform, &life.book, How::Kill, When::Never);
            life.read_back(&load);
            let mut load = load.then(How::Kill, when(retry, random));
            unclear += life.book.borrow().unclear().len();
            life.retry(&load, random);
            if !load.struck.get() {
                load = load.then(How::Kill, when(true, random));
                let work = mix(random, CONNECTIONS, REQUESTS_MAX);
                std::thread::scope(|scope| {
                    if let Some(servers) = &mut servers {
                        let mut random = Random(random.next_u64());
                        scope.spawn(move || fail(servers, &mut random));
                    }
                    load.run(work);
                });
            }
            load.strike();
            load.platform.borrow_mut().wait();
            let report = life.check().report.unwrap();
            torn += u64::from(report.log.torn_bytes > 0);
            round += 1;
        }
        life.end(&mut Random(seed ^ round << 32));
        answered += life.book.borrow().acknowledged();
        records += life.image.audit.records;
    }
    println!(
        "{rounds} rounds of seed {seed} in {:.1} s: {answered} commands, {unclear} times one was \
         unclear and repeated, {torn} torn tails, {records} records",
        started.elapsed().as_secs_f64()
    );
}

/// Kills some of the servers, or lets one pause, and brings them back.
fn fail(servers: &mut Cluster, random: &mut Random) {
    std::thread::sleep(Duration::from_micros(random.below(300_000)));
    let failing = match random.below(4) {
        0 => return servers.pause(random.below(3) as usize, Duration::from_millis(500)),
        1 => 0..3,
        _ => {
            let one = random.below(3) as usize;
            one..one + 1
        }
    };
    failing.clone().for_each(|number| servers.kill(number));
    std::thread::sleep(Duration::from_micros(random.below(300_000)));
    failing.for_each(|number| servers.restart(number));
}

#[test]
fn killed_at_any_moment_it_loses_nothing_and_does_nothing_twice() {
    killed_at_any_moment("killed_at_any_moment", ROUNDS, None);
}

#[test]
fn killed_with_its_log_on_servers_that_fail_it_loses_nothing_either() {
    let Some(program) = nats::server() else { return };
    let servers = Cluster::start(program, &Settings::default());
    drop(nats::connect(&nats::config(&servers, "ready")));
    killed_at_any_moment("killed_with_its_log_on_servers", STREAM_ROUNDS, Some(servers));
}

#[test]
fn told_to_stop_under_load_it_answers_and_ends_cleanly() {
    let seed = seed();
    let mut repeat = Repeat::new("told_to_stop", seed);
    let mut life = Life::new(&repeat.data(), seed);
    for round in 0..6 {
        repeat.round = round;
        let random = &mut Random(seed ^ round << 32);
        let load = Load::new(life.start(random, 0), &life.book, How::Terminate, When::Never);
        life.read_back(&load);
        life.retry(&load, random);
        // A connection that idles must not keep it from stopping.
        let _idle = std::net::TcpStream::connect(load.platform.borrow().target.address).unwrap();
        let load = load.then(How::Terminate, moment(random));
        load.run(mix(random, CONNECTIONS, REQUESTS_MAX));
        load.strike();
        let mut platform = load.platform.borrow_mut();
        let status = platform.wait();
        assert!(status.success(), "{status}\n{}", platform.words());
        let audited = life.check();
        assert_eq!(audited.report.unwrap().log.torn_bytes, 0, "a clean end");
    }
    life.end(&mut Random(seed));
}

#[test]
fn told_to_stop_as_soon_as_it_listens_it_ends_cleanly() {
    let repeat = Repeat::new("told_to_stop_as_soon", seed());
    for _ in 0..10 {
        let mut platform = Platform::start(&repeat.data());
        platform.terminate();
        let status = platform.wait();
        assert!(status.success(), "{status}\n{}", platform.words());
    }
}

#[test]
fn a_stderr_that_is_full_stops_nothing() {
    let repeat = Repeat::new("a_stderr_that_is_full", seed());
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut serve = std::process::Command::new(env!("CARGO_BIN_EXE_crest"));
    serve.args(["serve", "--segment-bytes", "1", "--data"]).arg(repeat.data());
    let status = serve.stdout(std::process::Stdio::null()).stderr(full).status().unwrap();
    assert_eq!(status.code(), Some(2), "{status}");
}

/// Every file below a directory and what is in it.
fn content(data: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(data).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files.extend(content(&path)),
            false => drop(files.insert(path.clone(), std::fs::read(&path).unwrap())),
        }
    }
    files
}

/// The files that two contents don't share.
fn changed(one: &BTreeMap<PathBuf, Vec<u8>>, other: &BTreeMap<PathBuf, Vec<u8>>) -> Vec<String> {
    let paths: BTreeSet<&PathBuf> = one.keys().chain(other.keys()).collect();
    let changed = paths.into_iter().filter(|path| one.get(*path) != other.get(*path));
    changed.map(|path| path.display().to_string()).collect()
}

/// A directory with some load in it, stopped as it should be.
fn stopped(repeat: &Repeat, rounds: u64) -> Life {
    let mut life = Life::new(&repeat.data(), repeat.seed);
    for round in 0..rounds {
        let random = &mut Random(repeat.seed ^ round << 32);
        let load = Load::new(life.start(random, 0), &life.book, How::Terminate, When::Never);
        life.retry(&load, random);
        load.run(mix(random, CONNECTIONS, REQUESTS_MAX / 2));
        load.strike();
        assert!(load.platform.borrow_mut().wait().success());
    }
    life.check();
    life
}

/// Starts on a directory that can't be served: its exit status and its words.
fn refused(data: &Path, options: &[&str]) -> (i32, String) {
    match Starting::spawn(data, options).ready() {
        Ok(_) => panic!("it serves {}", data.display()),
        Err(refused) => (refused.status.code().unwrap(), refused.words),
    }
}

/// Where the writes with frames are in a segment's file: the block that each begins with. What a
/// file held when it was another segment is of another generation.
fn writes(segment: &[u8]) -> Vec<usize> {
    const BLOCK: usize = 4096;
    let is_write = |at: &usize| {
        let header = &segment[*at..];
        let is_of_this = header[40..48] == segment[32..40];
        header.starts_with(b"CRWR") && header[6..8] == [0, 0] && is_of_this
    };
    (BLOCK..segment.len()).step_by(BLOCK).filter(is_write).collect()
}

#[test]
fn a_damaged_log_is_refused_and_named_and_left_as_it_is() {
    let seed = seed();
    let repeat = Repeat::new("a_damaged_log", seed);
    let mut life = stopped(&repeat, 2);
    let mut random = Random(seed);
    let sound = content(&life.data);
    let (log, archive) = (life.data.join("log"), life.data.join("archive/segments"));
    let segments: Vec<(PathBuf, Vec<usize>)> = sound
        .iter()
        .filter(|(path, _)| path.parent() == Some(&log))
        // One that was archived already is read from there.
        .filter(|(path, _)| !archive.join(path.file_name().unwrap()).exists())
        .filter(|(path, _)| path.extension().is_some_and(|extension| extension == "segment"))
        .map(|(path, bytes)| (path.clone(), writes(bytes)))
        .filter(|(_, writes)| !writes.is_empty())
        .collect();
    assert!(segments.iter().map(|(_, writes)| writes.len()).sum::<usize>() > 20, "a long log");

    let check = |what: &str| {
        let damaged = content(&life.data);
        let (code, words) = refused(&life.data, &[]);
        assert_eq!(code, 2, "{what}: {words}");
        assert!(words.contains("the log is damaged at position "), "{what}: {words}");
        assert_eq!(changed(&damaged, &content(&life.data)), [""; 0], "{what}: by a refused start");
        let audited = audit(&life.data);
        assert_eq!(audited.code, 1, "{what}: {}", audited.words);
        assert!(audited.words.contains("the log is damaged at position "), "{}", audited.words);
        assert_eq!(audited.report.unwrap().verdict, "fail");
        assert_eq!(changed(&damaged, &content(&life.data)), [""; 0], "{what}: by an audit");
    };
    for _ in 0..12 {
        let (path, writes) = &segments[random.below(segments.len() as u64) as usize];
        let at = writes[random.below(writes.len() as u64) as usize];
        // In the write's header, or in its first frame.
        let at = at + random.below(64 + 100) as usize;
        let mut bytes = sound[path].clone();
        bytes[at] ^= 1 << random.below(8);
        std::fs::write(path, &bytes).unwrap();
        check(&format!("{} at {at}", path.display()));
        std::fs::write(path, &sound[path]).unwrap();
    }
    // The last write with records is no exception: a mark stands behind it.
    let (path, writes) = segments.last().unwrap();
    let mut bytes = sound[path].clone();
    bytes[writes.last().unwrap() + 70] ^= 1;
    std::fs::write(path, &bytes).unwrap();
    check("the last write");
    std::fs::write(path, &sound[path]).unwrap();
    // A whole segment.
    let (path, _) = &segments[0];
    let aside = log.join("aside");
    std::fs::rename(path, &aside).unwrap();
    check("a missing segment");
    std::fs::rename(&aside, path).unwrap();
    // And as it was, it is served again.
    life.end(&mut random);
}

/// A kill between archiving a segment and forgetting it leaves it in both places, for one segment
/// and a moment. So that it is sure and for several, a directory that was never trimmed gets the
/// archive of what became of its copy.
#[test]
fn a_damaged_segment_that_is_archived_is_repaired() {
    let seed = seed();
    let repeat = Repeat::new("a_damaged_segment_that_is_archived", seed);
    let mut life = Life::new(&repeat.data(), seed);
    let older = life.data.with_file_name("older");
    let is_encrypted = seed % 2 == 1;
    if is_encrypted {
        for data in [&life.data, &older] {
            std::fs::write(key_file(data), "0123456789abcdef".repeat(4)).unwrap();
        }
    }
    let run = |life: &Life, round: u64| {
        let random = &mut Random(seed ^ round << 32);
        let load = Load::new(life.start(random, 0), &life.book, How::Terminate, When::Never);
        life.retry(&load, random);
        load.run(mix(random, CONNECTIONS, REQUESTS_MAX));
        load.strike();
        assert!(load.platform.borrow_mut().wait().success());
    };
    let trims = life.options.len();
    life.options.extend(NO_SNAPSHOTS.map(String::from));
    (0..4).for_each(|round| run(&life, round));
    let sound = content(&life.data);
    let mut segments: Vec<&PathBuf> =
        sound.keys().filter(|path| path.extension().is_some_and(|e| e == "segment")).collect();
    // What is written to, and what is made ahead of it, are not archived.
    segments.truncate(segments.len() - 2);
    life.options.truncate(trims);
    let archive = life.data.join("archive/segments");
    let mut round = 4;
    let archived = loop {
        run(&life, round);
        round += 1;
        let is_archived = |path: &&&PathBuf| archive.join(path.file_name().unwrap()).exists();
        let archived: Vec<&PathBuf> = segments.iter().filter(is_archived).copied().collect();
        if archived.len() >= 2 {
            break archived;
        }
        assert!(round < 20, "nothing is archived");
    };

    // Writes the directory as it was, with what is archived of it: where a segment is.
    let restore = |number: usize| {
        let _ = std::fs::remove_dir_all(&older); // There is none at first.
        for (path, bytes) in &sound {
            let to = older.join(path.strip_prefix(&life.data).unwrap());
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::write(to, bytes).unwrap();
        }
        std::fs::create_dir_all(older.join("archive/segments")).unwrap();
        for path in &archived {
            let name = path.file_name().unwrap();
            std::fs::copy(archive.join(name), older.join("archive/segments").join(name)).unwrap();
        }
        older.join("log").join(archived[number].file_name().unwrap())
    };
    let flip = |path: &Path| {
        let mut bytes = std::fs::read(path).unwrap();
        // In the first frame of its first write.
        bytes[if is_encrypted { 8192 } else { 4096 } + 200] ^= 1;
        std::fs::write(path, bytes).unwrap();
    };
    let cut = |path: &Path| {
        std::fs::File::options().write(true).open(path).unwrap().set_len(4096).unwrap();
    };
    let remove = |path: &Path| std::fs::remove_file(path).unwrap();
    restore(0);
    let records = audit(&older).report.unwrap().audit.records;
    let all: [&dyn Fn(&Path); 3] = [&flip, &cut, &remove];
    for (number, damage) in all.into_iter().enumerate() {
        let path = restore(number % archived.len());
        damage(&path);
        let damaged = content(&older);
        let audited = audit_from(&older, "newest");
        let says = "serving it will repair that from the archive";
        assert!(audited.code == 1 && audited.words.contains(says), "{}", audited.words);
        assert!(content(&older) == damaged, "the audit changed something");
        let mut platform = Starting::spawn(&older, &NO_SNAPSHOTS).ready().unwrap();
        platform.terminate();
        assert!(platform.wait().success());
        let words = platform.words();
        let index: u32 = path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
        let named = words.contains("was replaced by its archived copy")
            && words.contains(&format!("segment={index}"));
        assert!(named, "{words}");
        // There are no snapshots, so this reads the whole log, without the archive.
        let audited = audit_from(&older, "newest");
        assert_eq!(audited.code, 0, "{}", audited.words);
        assert!(audited.report.unwrap().audit.records >= records);

        // What isn't archived is refused, as ever.
        let path = restore(number % archived.len());
        damage(&path);
        std::fs::remove_file(older.join("archive/segments").join(path.file_name().unwrap()))
            .unwrap();
        let (code, words) = refused(&older, &[]);
        assert!(code == 2 && words.contains("the log is damaged at position "), "{words}");
    }
}

#[test]
fn a_damaged_snapshot_is_named_and_what_was_before_it_stands_in() {
    let seed = seed();
    let repeat = Repeat::new("a_damaged_snapshot", seed);
    let mut life = stopped(&repeat, 3);
    let mut random = Random(seed);
    // The newest of each shard, then all of them; a bit, or the file's end.
    for all in [false, true] {
        let saved = content(&life.data.join("snapshots"));
        assert!(saved.len() > 20, "two of most shards: {}", saved.len());
        let shard = |path: &Path| path.file_name().unwrap().to_string_lossy()[..5].to_string();
        let newest: BTreeMap<String, &PathBuf> =
            saved.keys().map(|path| (shard(path), path)).collect();
        let is_damaged = |path: &&PathBuf| all || newest[&shard(path)] == *path;
        let damaged: Vec<&PathBuf> = saved.keys().filter(is_damaged).collect();
        for path in &damaged {
            let mut bytes = saved[*path].clone();
            match random.below(2) {
                0 => bytes[4096 + random.below(64) as usize] ^= 1 << random.below(8),
                _ => bytes.truncate(bytes.len() - 4096),
            }
            std::fs::write(path, &bytes).unwrap();
        }
        let load = Load::new(life.start(&mut random, 0), &life.book, How::Terminate, When::Never);
        life.read_back(&load);
        load.strike();
        let mut platform = load.platform.borrow_mut();
        assert!(platform.wait().success(), "{}", platform.words());
        for path in &damaged {
            let name = path.file_name().unwrap().to_string_lossy();
            let named = format!("{name} is damaged: piece ");
            assert!(platform.words().contains(&named), "{named}\n{}", platform.words());
        }
        drop(platform);
        life.check();
    }
    life.end(&mut random);
}

#[test]
fn a_damaged_index_is_named_and_made_again() {
    let seed = seed();
    let repeat = Repeat::new("a_damaged_index", seed);
    let mut life = stopped(&repeat, 3);
    let mut random = Random(seed);
    for round in 0..4 {
        let runs = content(&life.data.join("index"));
        // The largest is sure to be looked into.
        let any = runs.iter().nth(random.below(runs.len() as u64) as usize);
        let largest = runs.iter().max_by_key(|(_, bytes)| bytes.len());
        let (path, bytes) = if round == 3 { largest } else { any }.unwrap();
        let mut damaged = bytes.clone();
        match round {
            0 => std::fs::remove_file(path).unwrap(),
            1 => damaged[bytes.len() - 4096 + random.below(32) as usize] ^= 1 << random.below(8),
            2 => damaged.truncate(bytes.len() - 4096),
            // Entries are looked at when they are needed, and the run is given up then.
            _ => (0..bytes.len() - 8192).step_by(64).for_each(|at| damaged[at] ^= 1),
        }
        if round > 0 {
            std::fs::write(path, &damaged).unwrap();
        }
        let load = Load::new(life.start(&mut random, 0), &life.book, How::Terminate, When::Never);
        if round == 3 {
            let target = load.platform.borrow().target.clone();
            for &(buyer, order) in life.image.orders.keys().take(1_000) {
                let (status, body) = asks::get(&target, &asks::order_path(buyer, order));
                assert!(status == 200 || status == 500, "{status}: {body}");
            }
        } else {
            life.read_back(&load);
            life.list_back(&load);
        }
        load.strike();
        let mut platform = load.platform.borrow_mut();
        assert!(platform.wait().success(), "{}", platform.words());
        if round > 0 {
            let named = format!("{} is damaged: ", path.file_name().unwrap().to_string_lossy());
            assert!(platform.words().contains(&named), "{named}\n{}", platform.words());
        }
        drop(platform);
        life.check();
    }
    life.end(&mut random);
}

#[test]
fn a_damaged_archive_is_named_and_stops_nothing_but_what_needs_it() {
    let seed = seed();
    let repeat = Repeat::new("a_damaged_archive", seed);
    let mut life = stopped(&repeat, 4);
    let mut random = Random(seed);
    let sound = content(&life.data.join("archive"));
    assert!(!sound.is_empty(), "something was trimmed");
    for _ in 0..6 {
        let (path, bytes) = sound.iter().nth(random.below(sound.len() as u64) as usize).unwrap();
        let mut damaged = bytes.clone();
        damaged[random.below(bytes.len() as u64) as usize] ^= 1 << random.below(8);
        std::fs::write(path, &damaged).unwrap();
        let name = path.file_name().unwrap().to_string_lossy();
        let (code, words) = verify_archive(&life.data);
        assert!(code == 1 && words.contains(&*name), "{name}: {code} {words}");
        let audited = audit(&life.data);
        assert_eq!(audited.code, 1, "{}", audited.words);
        // From a snapshot on, all is proven.
        assert_eq!(audit_from(&life.data, "oldest").code, 0);
        std::fs::write(path, bytes).unwrap();
    }
    life.check();
    life.end(&mut random);
}

#[test]
fn what_it_does_not_do_it_says_in_words() {
    let repeat = Repeat::new("what_it_does_not_do", seed());
    let data = repeat.data();
    let (code, words) = refused(&data, &["--shards", "257"]);
    assert_eq!(code, 2);
    assert!(words.contains("257 shards: there can be 1 to 256"), "{words}");
    assert!(!data.exists() || content(&data).is_empty(), "it made something");
    let (code, words) = refused(&data, &["--segment-bytes", "4097"]);
    assert_eq!(code, 2);
    assert!(words.contains("segment_bytes is 4097"), "{words}");

    let audited = audit(&repeat.data().join("nowhere"));
    assert_eq!((audited.code, audited.report.is_none()), (2, true), "{}", audited.words);
    let data = repeat.data().with_file_name("served");
    let platform = Platform::start(&data);
    let audited = audit(&data);
    assert_eq!((audited.code, audited.report.is_none()), (2, true), "{}", audited.words);
    assert!(audited.words.contains("is in use by another process"), "{}", audited.words);
    let (code, words) = refused(&data, &[]);
    assert_eq!(code, 2);
    assert!(words.contains("is in use by another process"), "{words}");
    drop(platform);
    let (code, words) = refused(&data, &["--shards", "4"]);
    assert_eq!(code, 2);
    assert!(words.contains("4 shards: ") && words.contains("was made with 16"), "{words}");
    assert_eq!(audit(&data).code, 0, "free again as soon as the process is gone");
}

/// Fails with the log, after a load that made it fail: nothing was acknowledged that isn't there.
fn check_failed(life: &mut Life, load: &Rc<Load>) {
    load.strike();
    let mut platform = load.platform.borrow_mut();
    let status = platform.wait();
    assert_eq!(status.code(), Some(70), "{status}\n{}", platform.words());
    let words = platform.words();
    assert!(words.contains("nothing after this was acknowledged: the log failed"), "{words}");
    drop(platform);
    life.check();
}

#[test]
fn a_write_that_fails_ends_it_before_anything_false_is_said() {
    let seed = seed();
    let mut repeat = Repeat::new("a_write_that_fails", seed);
    let mut life = Life::new(&repeat.data(), seed);
    let [every, never] = NO_SNAPSHOTS;
    let options = ["--segment-bytes", &SEGMENT_BYTES.to_string(), every, never];
    for round in 0..6 {
        repeat.round = round;
        let random = &mut Random(seed ^ round << 32);
        let platform = Starting::spawn_under_limits(&life.data, &options).ready().unwrap();
        let load = Load::new(platform, &life.book, How::Kill, When::Never);
        life.read_back(&load);
        life.retry(&load, random);
        let limit = match round % 3 {
            // No write at all, one that comes in the middle of the segment and may be cut short,
            // and none to a new segment's last bytes.
            0 => 0,
            1 => random.below(SEGMENT_BYTES / 4),
            _ => SEGMENT_BYTES - 4096,
        };
        let how = How::LimitFiles(limit);
        let load = load.then(how, When::Answers(1 + random.below(50)));
        let work =
            (0..CONNECTIONS).map(|_| Work::Mix { random: Random(random.next_u64()), left: 20_000 });
        load.run(work.collect());
        check_failed(&mut life, &load);
    }
    life.end(&mut Random(seed));
}

/// A file system of its own, unmounted when it is dropped.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(at: &Path, bytes: u64) -> Option<Tmpfs> {
        std::fs::create_dir_all(at).unwrap();
        let size = format!("size={bytes}");
        Tmpfs::run("mount", &["-t", "tmpfs", "-o", &size, "crest-test"], at)
            .then(|| Tmpfs(at.to_path_buf()))
    }

    fn grow(&self, bytes: u64) {
        let options = format!("remount,size={bytes}");
        assert!(Tmpfs::run("mount", &["-o", &options], &self.0));
    }

    fn run(command: &str, options: &[&str], at: &Path) -> bool {
        let output = std::process::Command::new(command).args(options).arg(at).output();
        output.is_ok_and(|output| output.status.success())
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        Tmpfs::run("umount", &["--lazy"], &self.0);
    }
}

#[test]
fn a_full_disk_ends_it_and_room_brings_everything_back() {
    let seed = seed();
    let repeat = Repeat::new("a_full_disk", seed);
    // Room for four segments, and not for a fifth.
    let room = 4 * SEGMENT_BYTES + (1 << 20);
    let data = repeat.data();
    let Some(disk) = Tmpfs::mount(data.parent().unwrap(), room) else {
        println!("skipped: mounting a small file system takes root");
        return;
    };
    let mut life = Life::new(&data, seed);
    life.options.extend(NO_SNAPSHOTS.map(String::from));
    // Without a reserve it is full before anybody notices.
    life.options.extend(["--disk-reserve", "0"].map(String::from));
    let random = &mut Random(seed);
    let mut room = room;
    for _ in 0..2 {
        let load = Load::new(life.start(random, 0), &life.book, How::Kill, When::Never);
        life.read_back(&load);
        life.retry(&load, random);
        load.struck.set(true);
        load.run(mix(random, CONNECTIONS, 20_000));
        check_failed(&mut life, &load);
        // As long as it is full it doesn't serve, and says why, and harms nothing.
        let (code, words) = refused(&life.data, &[]);
        assert_eq!(code, 2, "{words}");
        assert!(words.contains("making a segment failed"), "{words}");
        life.check();
        room += 4 * SEGMENT_BYTES;
        disk.grow(room);
    }
    life.end(random);
}

#[test]
fn a_disk_that_is_nearly_full_takes_no_new_orders_until_there_is_room() {
    let seed = seed();
    let repeat = Repeat::new("a_disk_that_is_nearly_full", seed);
    let room = 12 * SEGMENT_BYTES;
    let data = repeat.data();
    let Some(disk) = Tmpfs::mount(data.parent().unwrap(), room) else {
        println!("skipped: mounting a small file system takes root");
        return;
    };
    let mut life = Life::new(&data, seed);
    life.options.extend(NO_SNAPSHOTS.map(String::from));
    let random = &mut Random(seed);
    let load = Load::new(life.start(random, 0), &life.book, How::Terminate, When::Never);
    life.retry(&load, random);
    let target = load.platform.borrow().target.clone();
    // Somebody else fills the disk.
    let other = data.parent().unwrap().join("other");
    let free = || rustix::fs::statvfs(&data).map(|found| found.f_bavail * found.f_frsize).unwrap();
    std::fs::write(&other, vec![1; (free() - 3 * SEGMENT_BYTES) as usize]).unwrap();
    // Until it is refused for want of room, or isn't any more.
    let ask = |ask: &Ask, is_refused: bool| {
        let started = Instant::now();
        loop {
            let (status, text) = asks::post(&target, &ask.path(), &ask.json());
            if (status == 503 && text.contains("disk_low")) == is_refused {
                return status;
            }
            assert!(started.elapsed() < Duration::from_secs(20), "{status}: {text}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let id = life.book.borrow_mut().draw_id();
    let order = asks::order(random, id);
    let cancel = Ask::Cancel { buyer: order.buyer, order: id, id };
    let place = Ask::Place(order);
    ask(&place, true);
    // What was begun can be ended, and reads go on.
    let cancelled = ask(&cancel, false);
    assert!(cancelled < 500, "{cancelled}");
    assert_eq!(asks::get(&target, "/v1/items/1").0, 200);
    std::fs::remove_file(&other).unwrap();
    assert!(ask(&place, false) < 500);
    let words = load.platform.borrow().words();
    for said in ["the disk is nearly full", "the disk has room again"] {
        assert!(words.contains(said), "{words}");
    }
    load.strike();
    let status = load.platform.borrow_mut().wait();
    assert!(status.success(), "{status}");
    drop(disk);
}
