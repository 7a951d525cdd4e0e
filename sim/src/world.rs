//! The world: what happens, and when.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use model::frame::Frame;
use model::record::{Body, CommandBuffer, Record};
use model::{Outcome, ShardId, Time};
use mq::{LogError, StreamEnd, StreamFault};
use node::{Found, Message, Placement};
use txn_core::{Capacity, Shard, SpareRegions};

use crate::clients::Client;
use crate::nodes::{Asker, Down, Node, Saved};
use crate::plan::Plan;
use crate::random::Random;
use crate::shadow::Shadow;
use crate::{Ran, Violation};

/// When every world begins: µs since 1970.
const BEGINNING: u64 = 1_700_000_000_000_000;
/// How long a world may take to come to rest once nothing fails any more.
const REST_MAX: Duration = Duration::from_secs(300);
/// Beyond this a run is stuck.
const EVENTS_MAX: u64 = 2_000_000;

/// How a run is to be done.
#[derive(Clone, Default)]
pub struct Options {
    /// Tell what happens, line by line.
    pub trace: bool,
    /// Memory of runs before, to be used again.
    pub spare: SpareRegions,
    /// Who looks at all shards, and at the frames of one log behind the other, when the world is at
    /// rest.
    pub inspect: Option<Inspect>,
}

/// See [`Options::inspect`]. An error is a violation.
pub type Inspect = fn(&[&Shard], &[Vec<u8>]) -> Result<(), String>;

/// Something that happens.
#[derive(Debug)]
enum Event {
    /// A client's request arrives where it should go.
    Request(usize, u64),
    /// A client is told what became of one.
    Answer(Asker, Outcome),
    /// A client doesn't wait for an answer any longer.
    Timeout(usize, u64, u32),
    /// A client asks for something more.
    Ask(usize),
    /// A message arrives at a node.
    Stream(Message),
    /// A group's append is done, or has failed.
    Appended(usize, u64, usize),
    /// A node's timers.
    Wake(usize, u64),
    Start(usize),
    /// What a look-up found reaches its group.
    Found(usize, u64, usize, usize, Option<Vec<Vec<u64>>>),
    /// A step of taking a snapshot.
    Save,
    Crash,
    Cut,
    Jump,
    /// A disk begins to lie, or misplaces a write.
    Lie,
    Misdirect,
}

/// What is wrong with a log that was read back.
enum ReadBack {
    /// It can't be read.
    Damaged(String),
    /// It isn't what was durable.
    Wrong(String),
}

pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) random: Random,
    pub(crate) now: Time,
    queue: BinaryHeap<Reverse<(Time, u64)>>,
    events: BTreeMap<u64, Event>,
    next_event: u64,
    pub(crate) placement: Placement,
    pub(crate) nodes: Vec<Node>,
    pub(crate) clients: Vec<Client>,
    pub(crate) shadow: Shadow,
    /// Links that lose everything, from node to node, and until when.
    cuts: BTreeMap<(usize, usize), Time>,
    wakes: BTreeMap<usize, Time>,
    left: u64,
    /// Nothing fails any more.
    pub(crate) is_calm: bool,
    calm_since: Time,
    /// The node whose disk can't be trusted.
    pub(crate) liar: Option<usize>,
    pub(crate) ran: Ran,
    pub(crate) options: Options,
}

/// Runs the world of a seed to its end.
pub fn run(seed: u64, options: &Options) -> Result<Ran, Box<Violation>> {
    let mut world = World::new(seed, options.clone());
    let run = catch_unwind(AssertUnwindSafe(|| world.run())).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(format!("a panic: {}", text.unwrap_or("of no words")))
    });
    let event = world.ran.events;
    run.map_err(|what| Box::new(Violation { seed, event, what }))?;
    Ok(world.ran)
}

impl World {
    fn new(seed: u64, options: Options) -> World {
        let mut random = Random::new(seed);
        let plan = Plan::of(&mut random);
        let placement = Placement {
            shards: plan.shards,
            groups: 1,
            settle_step: Duration::from_secs(random.range(1, 3)),
            hash_seed: seed,
            capacity: Capacity::default(),
        };
        let nodes = (0..plan.nodes).map(|number| {
            let ours = |shard: &ShardId| usize::from(shard.0) % plan.nodes == number;
            let shards = (0..plan.shards).map(ShardId).filter(ours).collect();
            let node = Node::new(number, shards, plan.groups, plan.keep, plan.on_streams);
            if let Some(stream) = &node.stream {
                stream.misbehave(seed ^ number as u64, plan.faults.stream_one_in);
            }
            node
        });
        World {
            now: Time(BEGINNING),
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            next_event: 0,
            placement,
            nodes: nodes.collect(),
            clients: (0..random.range(1, 6)).map(|_| Client::default()).collect(),
            shadow: Shadow::new(plan.shards, plan.is_sale),
            cuts: BTreeMap::new(),
            wakes: BTreeMap::new(),
            left: plan.requests,
            is_calm: false,
            calm_since: Time(0),
            liar: None,
            ran: Ran::default(),
            options,
            random,
            plan,
        }
    }

    fn run(&mut self) -> Result<(), String> {
        if self.options.trace {
            println!("{:?}", self.plan);
        }
        for node in 0..self.nodes.len() {
            self.at(0, Event::Start(node));
        }
        self.clients[0].set_up(&self.plan, &mut self.random);
        for request in self.clients[0].open.clone() {
            let delay = self.random.range(100, 20_000);
            self.at(delay, Event::Request(0, request));
            self.at(delay + 300_000, Event::Timeout(0, request, 0));
        }
        for client in 0..self.clients.len() {
            let delay = self.random.range(10_000, 60_000);
            self.at(delay, Event::Ask(client));
        }
        if self.plan.save_every_us > 0 {
            self.at(self.plan.save_every_us, Event::Save);
        }
        let faults = self.plan.faults.clone();
        self.every(faults.crash_every_us, || Event::Crash);
        self.every(faults.cut_every_us, || Event::Cut);
        self.every(faults.jump_every_us, || Event::Jump);
        let moment = self.random.range(50_000, 1_000_000);
        if faults.lying_disk {
            self.at(moment, Event::Lie);
        } else if faults.misdirected {
            self.at(moment, Event::Misdirect);
        }
        while let Some(Reverse((time, number))) = self.queue.pop() {
            let event = self.events.remove(&number).expect("every number has its event");
            self.now = time;
            self.ran.events += 1;
            if self.ran.events > EVENTS_MAX {
                return Err("the world doesn't end".to_string());
            }
            self.note(time, &event);
            self.happen(event)?;
            if self.ran.refused {
                return Ok(());
            }
            self.check()?;
            if self.is_calm && self.is_at_rest() {
                return self.conclude();
            }
            if self.is_calm && self.now > self.calm_since.after(REST_MAX) {
                return Err(format!("no rest: {}", self.unrest()));
            }
        }
        Err("nothing happens any more, and the world isn't at rest".to_string())
    }

    fn note(&mut self, time: Time, event: &Event) {
        let text = match event {
            Event::Stream(message) => {
                let (record, _) = Record::split(&message.record).expect("a shard wrote it");
                let Body::Deliver { deliver, entries } = record.body else {
                    unreachable!("nothing else is sent")
                };
                let entries: Vec<_> = entries.map(|(_, entry)| entry).collect();
                let (realm, acked) = (record.realm().word(), deliver.acked);
                format!(
                    "Stream {realm} {} -> {}: from {}, acked {acked}: {entries:?}",
                    message.from, message.to, deliver.first
                )
            }
            Event::Request(client, request) => {
                let bytes = &self.clients[*client].requests[request].bytes;
                let (record, _) = Record::split(bytes).expect("a client wrote it");
                let (realm, id) = (record.realm().word(), record.header.id);
                let scope = record.header.scope;
                format!("Request {client}.{request}: {realm} {scope} {id}: {:?}", record.body)
            }
            event => format!("{event:?}"),
        };
        for byte in text.bytes() {
            self.ran.trace_hash =
                (self.ran.trace_hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if self.options.trace {
            println!("{:>7} {:>12} {text}", self.ran.events, time.0 - BEGINNING);
        }
    }

    fn at(&mut self, delay_us: u64, event: Event) {
        self.next_event += 1;
        self.events.insert(self.next_event, event);
        self.queue.push(Reverse((Time(self.now.0 + delay_us), self.next_event)));
    }

    /// Lets a fault happen about so often.
    fn every(&mut self, every_us: u64, event: impl FnOnce() -> Event) {
        if every_us > 0 && !self.is_calm {
            let delay = self.random.range(every_us / 2, every_us * 3 / 2);
            self.at(delay, event());
        }
    }

    fn fault(&mut self, kind: &'static str) {
        *self.ran.faults.entry(kind).or_default() += 1;
    }

    /// Whether a fault of so many in a hundred happens now.
    fn fails(&mut self, share: u64, kind: &'static str) -> bool {
        let fails = !self.is_calm && share > 0 && self.random.percent(share);
        if fails {
            self.fault(kind);
        }
        fails
    }

    fn happen(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Start(node) => self.start(node),
            Event::Request(client, request) => {
                self.arrive(client, request);
                Ok(())
            }
            Event::Answer(asker, outcome) => self.answer(asker, outcome),
            Event::Timeout(client, request, tries) => {
                self.timeout(client, request, tries);
                Ok(())
            }
            Event::Ask(client) => {
                self.ask(client);
                Ok(())
            }
            Event::Stream(message) => self.stream(message),
            Event::Appended(node, life, group) => self.appended(node, life, group),
            Event::Wake(node, life) => {
                let is_due = self.wakes.get(&node) == Some(&self.now);
                if is_due && self.nodes[node].life == life && self.nodes[node].up.is_some() {
                    self.wakes.remove(&node);
                    let now = self.nodes[node].now(self.now);
                    let up = self.nodes[node].up.as_mut().expect("it is up");
                    up.groups.iter_mut().for_each(|group| group.tick(now));
                    self.pump(node);
                }
                Ok(())
            }
            Event::Found(node, life, group, ticket, rows) => {
                if self.nodes[node].life == life && self.nodes[node].up.is_some() {
                    let now = self.nodes[node].now(self.now);
                    let up = self.nodes[node].up.as_mut().expect("it is up");
                    up.groups[group].found(now, ticket, rows);
                    self.pump(node);
                }
                Ok(())
            }
            Event::Save => self.save(),
            Event::Crash => {
                self.every(self.plan.faults.crash_every_us, || Event::Crash);
                if !self.is_calm {
                    let node = self.random.below(self.nodes.len() as u64) as usize;
                    self.crash(node, "crashes");
                }
                Ok(())
            }
            Event::Cut => {
                self.every(self.plan.faults.cut_every_us, || Event::Cut);
                if !self.is_calm {
                    let nodes = self.nodes.len() as u64;
                    let (from, to) = (self.random.below(nodes), self.random.below(nodes));
                    let until = self.now.0 + self.random.range(1_000, 800_000);
                    self.cuts.insert((from as usize, to as usize), Time(until));
                    self.fault("cuts");
                }
                Ok(())
            }
            Event::Jump => {
                self.every(self.plan.faults.jump_every_us, || Event::Jump);
                if !self.is_calm {
                    let node = self.random.below(self.nodes.len() as u64) as usize;
                    let jump = self.random.range(0, 20_000_000) as i64 - 10_000_000;
                    self.nodes[node].clock_off_us += jump;
                    self.fault("clock jumps");
                }
                Ok(())
            }
            Event::Lie | Event::Misdirect => {
                if !self.is_calm {
                    let node = self.random.below(self.nodes.len() as u64) as usize;
                    self.liar = Some(node);
                    if let Some(stream) = self.nodes[node].stream.clone() {
                        if matches!(event, Event::Lie) {
                            stream.lose(self.random.range(1, 3) as usize);
                            self.fault("streams that lost their ends");
                        } else {
                            let sequences = stream.sequences();
                            if !sequences.is_empty() {
                                let sequence = *self.random.pick(&sequences);
                                stream.flip(sequence, self.random.below(4_000) as usize, 3);
                            }
                            self.fault("damaged messages");
                        }
                    } else if matches!(event, Event::Lie) {
                        self.nodes[node].disk.lie_after(self.random.below(4));
                        self.fault("lying disks");
                    } else {
                        self.nodes[node].disk.misdirect_write(self.random.range(1, 4));
                        self.fault("misdirected writes");
                    }
                }
                Ok(())
            }
        }
    }

    /// A node comes up: what its log holds must be what it held, and what it had acknowledged.
    fn start(&mut self, number: usize) -> Result<(), String> {
        if self.nodes[number].up.is_some() {
            return Ok(());
        }
        let placement = self.placement;
        match self.nodes[number].start(&placement, &self.options.spare) {
            Ok(()) => {
                let (restored, passed_over) = self.nodes[number].restored;
                self.ran.restored += restored as u64;
                self.ran.passed_over += passed_over as u64;
            }
            Err(Down::Fault) => {
                let delay = self.random.range(1_000, 50_000);
                self.at(delay, Event::Start(number));
                return Ok(());
            }
            Err(Down::Damaged(_)) if self.liar == Some(number) => {
                self.ran.refused = true;
                return Ok(());
            }
            Err(Down::Damaged(what) | Down::Differs(what)) => {
                return Err(format!("node {number} doesn't come up: {what}"));
            }
        }
        match self.read_back(number) {
            Ok(()) => {}
            // What the disk did while the node started shows when it is read again.
            Err(ReadBack::Damaged(_)) if self.liar == Some(number) => self.ran.refused = true,
            Err(ReadBack::Damaged(what) | ReadBack::Wrong(what)) => return Err(what),
        }
        if !self.ran.refused {
            self.pump(number);
        }
        Ok(())
    }

    /// Compares a node's log with what was durable before, and takes note of what else is in it.
    fn read_back(&mut self, number: usize) -> Result<(), ReadBack> {
        let node = &self.nodes[number];
        let damaged = |error: LogError| ReadBack::Damaged(error.to_string());
        let mut frames = node.history().map_err(damaged)?;
        let mut seen = BTreeMap::<ShardId, usize>::new();
        let mut ended = BTreeSet::new();
        let mut newer = Vec::new();
        while let Some((_, frame)) = frames.next_frame().map_err(damaged)? {
            let shard = frame.place().shard;
            let at = seen.entry(shard).or_default();
            for record in frame.records().flatten() {
                let hash = hash_of(record.bytes);
                match self.shadow.logs[usize::from(shard.0)].get(*at) {
                    Some(known) if *known == hash => {}
                    Some(_) => {
                        let what = format!("shard {shard}, record {at}: not what was durable");
                        return Err(ReadBack::Wrong(what));
                    }
                    None => {
                        ended.insert(shard);
                        newer.push((shard, frame.place().time, record.bytes.to_vec(), hash));
                    }
                }
                *at += 1;
            }
        }
        for &shard in &node.shards {
            let known = self.shadow.logs[usize::from(shard.0)].len();
            let found = seen.get(&shard).copied().unwrap_or_default();
            if found < known {
                if self.liar == Some(number) {
                    // An exact prefix, and the loss is counted.
                    *self.ran.faults.entry("records lost to lying disks").or_default() +=
                        (known - found) as u64;
                    self.ran.refused = true;
                    return Ok(());
                }
                let what = format!("shard {shard} has lost {} records", known - found);
                return Err(ReadBack::Wrong(what));
            }
        }
        drop(frames);
        for (shard, time, bytes, hash) in newer {
            let (record, _) = Record::split(&bytes).expect("it was in the log");
            self.shadow.add(shard, time, &record, hash).map_err(ReadBack::Wrong)?;
        }
        Ok(())
    }

    /// A node begins a snapshot, or goes on with one; or trims its log.
    fn save(&mut self) -> Result<(), String> {
        let delay = self.random.range(1, self.plan.save_every_us * 2);
        self.at(delay, Event::Save);
        let number = self.random.below(self.nodes.len() as u64) as usize;
        let shard = *self.random.pick(&self.nodes[number].shards);
        let kib = self.random.range(1, 32) as usize;
        if self.nodes[number].up.is_none() {
            return Ok(());
        }
        let (trims, flushes) = (self.random.percent(10), self.random.percent(10));
        if self.fails(self.plan.faults.fail_append, "failed snapshots and trims") {
            match self.random.percent(50) {
                true => self.nodes[number].disk.fail_write(1),
                false => self.nodes[number].disk.fail_sync(1),
            }
        }
        if flushes {
            let up = self.nodes[number].up.as_mut().expect("it is up");
            if !up.flush_index() {
                self.fault("failed runs of the index");
            }
        }
        if trims {
            match self.nodes[number].trim() {
                Ok(segments) => self.ran.trimmed += segments as u64,
                Err(LogError::Io { .. } | LogError::Poisoned) => {
                    self.crash(number, "stops after a failed trim");
                }
                // It is found before the log forgets what was there.
                Err(LogError::Damage { .. }) if self.liar == Some(number) => {
                    self.fault("damages found when archiving");
                }
                Err(LogError::Stream(StreamEnd::Lost { .. })) if self.liar == Some(number) => {
                    self.ran.refused = true;
                }
                Err(error) => return Err(format!("node {number}: {error}")),
            }
            return Ok(());
        }
        let group = self.nodes[number].group_of(shard);
        let up = self.nodes[number].up.as_mut().expect("it is up");
        if up.save(group, shard, kib) == Saved::Whole {
            self.ran.snapshots += 1;
        }
        Ok(())
    }

    fn crash(&mut self, number: usize, kind: &'static str) {
        if self.nodes[number].up.take().is_none() {
            return;
        }
        self.fault(kind);
        self.wakes.remove(&number);
        self.nodes[number].disk.crash(self.random.next());
        if self.fails(self.plan.faults.flip, "damaged snapshots") {
            self.nodes[number].flip_snapshot(&mut self.random);
        }
        let delay = self.random.range(1_000, 300_000);
        self.at(delay, Event::Start(number));
    }

    /// A client's request arrives at the node that has its shard.
    fn arrive(&mut self, client: usize, request: u64) {
        let asked = &self.clients[client].requests[&request];
        let (home, mut commands) = (asked.home, CommandBuffer::default());
        commands.push_record(&asked.bytes);
        let number = self.node_of(home);
        let node = &mut self.nodes[number];
        if node.up.is_none() {
            return;
        }
        let (now, group) = (node.now(self.now), node.group_of(home));
        let up = node.up.as_mut().expect("it is up");
        let submitted =
            up.groups[group].submit(now, Asker { client, request }, commands, Vec::new());
        submitted.expect("a client's commands are valid");
        self.pump(number);
    }

    fn answer(&mut self, asker: Asker, outcome: Outcome) -> Result<(), String> {
        let Asker { client, request } = asker;
        let name = self.clients[client].requests[&request].name;
        let logged = self.shadow.outcome(&name);
        let wanted = match outcome {
            Outcome::Ok | Outcome::AlreadyDone => Some(Outcome::Ok),
            Outcome::Busy | Outcome::Invalid | Outcome::IdReused => logged,
            refusal => Some(refusal),
        };
        if logged != wanted {
            return Err(format!(
                "client {client} is told {} of request {request}; what is durable says {}",
                outcome.word(),
                logged.map_or("nothing", Outcome::word)
            ));
        }
        if self.clients[client].answered(request, outcome) {
            return Ok(());
        }
        if outcome == Outcome::Busy {
            let delay = self.random.range(1_000, 40_000);
            self.send(client, request, delay);
        }
        Ok(())
    }

    /// A client sends a request, which may get lost.
    fn send(&mut self, client: usize, request: u64, delay: u64) {
        let Some(asked) = self.clients[client].requests.get_mut(&request) else { return };
        if asked.answer.is_some() {
            return;
        }
        asked.tries += 1;
        let tries = asked.tries;
        if !self.fails(self.plan.faults.lose_answers, "lost requests") {
            let travel = self.random.range(50, 2_000);
            self.at(delay + travel, Event::Request(client, request));
        }
        // Who has tried often gives up for a while, and tries again later.
        let patience = if tries.is_multiple_of(5) { 1_500_000 } else { 300_000 };
        let wait = self.random.range(patience / 2, patience);
        self.at(delay + wait, Event::Timeout(client, request, tries));
    }

    fn timeout(&mut self, client: usize, request: u64, tries: u32) {
        let asked = &self.clients[client].requests[&request];
        if asked.answer.is_none() && asked.tries == tries {
            self.send(client, request, 0);
        }
    }

    /// A client asks for something more, until all that was planned is asked for.
    fn ask(&mut self, client: usize) {
        if self.left == 0 {
            return self.become_calm();
        }
        if self.random.percent(15)
            && let Some(request) = self.clients[client].some_request(&mut self.random)
        {
            // It asks again for what it may know already.
            let travel = self.random.range(50, 2_000);
            self.at(travel, Event::Request(client, request));
        }
        if self.clients[client].open.len() < 12 || self.plan.is_sale {
            self.left -= 1;
            let known: BTreeSet<u64> = self.clients[client].open.iter().copied().collect();
            let now = self.now;
            self.clients[client].ask_something(now, &self.plan, &mut self.random);
            let new: Vec<u64> = self.clients[client].open.clone();
            for request in new.into_iter().filter(|request| !known.contains(request)) {
                let delay = self.random.range(0, 500);
                self.send(client, request, delay);
            }
        }
        let delay = self.random.range(100, 12_000);
        self.at(delay, Event::Ask(client));
    }

    /// Nothing fails from here on.
    fn become_calm(&mut self) {
        if self.is_calm {
            return;
        }
        self.is_calm = true;
        self.calm_since = self.now;
        self.cuts.clear();
        for node in 0..self.nodes.len() {
            if let Some(stream) = &self.nodes[node].stream {
                stream.misbehave(0, 0);
                stream.deliver();
            }
            if self.nodes[node].up.is_none() {
                self.at(1, Event::Start(node));
            }
        }
    }

    fn stream(&mut self, message: Message) -> Result<(), String> {
        let number = self.node_of(message.to);
        let node = &mut self.nodes[number];
        if node.up.is_none() {
            return Ok(());
        }
        let (now, group) = (node.now(self.now), node.group_of(message.to));
        let up = node.up.as_mut().expect("it is up");
        if let Err(lost) = up.groups[group].deliver(now, std::slice::from_ref(&message)) {
            if self.liar == Some(number) {
                self.ran.refused = true;
                return Ok(());
            }
            return Err(lost.to_string());
        }
        self.pump(number);
        Ok(())
    }

    /// A group's frames are durable, or the node stops.
    fn appended(&mut self, number: usize, life: u64, group: usize) -> Result<(), String> {
        if self.nodes[number].life != life || self.nodes[number].up.is_none() {
            return Ok(());
        }
        if self.fails(self.plan.faults.fail_append, "failed appends") {
            let fault = self.random.below(4);
            match &self.nodes[number].stream {
                // And the process may end with it: what is on its way arrives, or doesn't.
                Some(stream) => {
                    use StreamFault::{Dropped, Late, Stale, Unanswered};
                    stream.fail([Dropped, Late, Stale, Unanswered][fault as usize]);
                    stream.impatient(self.random.percent(50));
                }
                None if fault < 2 => self.nodes[number].disk.fail_write(1),
                None => self.nodes[number].disk.fail_sync(1),
            }
        }
        let now = self.nodes[number].now(self.now);
        let up = self.nodes[number].up.as_mut().expect("it is up");
        match up.append(group) {
            Ok(frames) => {
                for bytes in &frames {
                    self.take_note(bytes)?;
                }
                let up = self.nodes[number].up.as_mut().expect("it is up");
                up.index(&frames);
                up.groups[group].durable(now, frames);
                self.pump(number);
                Ok(())
            }
            Err(LogError::Io { .. } | LogError::Poisoned) => {
                self.crash(number, "stops after a failed append");
                Ok(())
            }
            Err(LogError::Stream(StreamEnd::Lost { .. })) if self.liar == Some(number) => {
                self.ran.refused = true;
                Ok(())
            }
            Err(error) => Err(format!("node {number}: {error}")),
        }
    }

    /// A frame is durable.
    fn take_note(&mut self, bytes: &[u8]) -> Result<(), String> {
        let (frame, _) = Frame::split(bytes).map_err(|error| error.to_string())?;
        let shard = frame.place().shard;
        let next = self.shadow.logs[usize::from(shard.0)].len() as u64 + 1;
        if frame.place().first_offset.0 != next {
            return Err(format!(
                "shard {shard}: a frame at {}, not {next}",
                frame.place().first_offset
            ));
        }
        for record in frame.records() {
            let record = record.map_err(|error| error.to_string())?;
            self.shadow.add(shard, frame.place().time, &record, hash_of(record.bytes))?;
        }
        Ok(())
    }

    pub(crate) fn node_of(&self, shard: ShardId) -> usize {
        usize::from(shard.0) % self.nodes.len()
    }

    /// Does what a node has to do after something happened there.
    fn pump(&mut self, number: usize) {
        let now = self.nodes[number].now(self.now);
        let life = self.nodes[number].life;
        let up = self.nodes[number].up.as_mut().expect("it is up");
        let (mut answers, mut messages, mut appends) = (Vec::new(), Vec::new(), Vec::new());
        let mut lookups = Vec::new();
        let mut wake = None::<Duration>;
        for (number, group) in up.groups.iter_mut().enumerate() {
            group.messages(now, &mut messages);
            if !group.is_in_flight() && group.has_unwritten() {
                let (frames, _) = group.take_frames(now);
                up.appending[number] = Some(frames);
                appends.push(number);
            }
            for (asker, found) in group.released() {
                if let Found::Commands(_, replies) = found {
                    answers.push((asker, replies[0].outcome));
                }
            }
            lookups.extend(group.lookups().map(|lookup| (number, lookup)));
            wake = wake.into_iter().chain(group.next_wake(now)).min();
        }
        let mut is_damaged = false;
        for (group, lookup) in lookups {
            let rows = self.nodes[number].look_up(&lookup);
            self.ran.lookups += 1;
            is_damaged |= rows.is_none();
            let late = self.fails(self.plan.faults.slow_append, "slow look-ups");
            let delay = self.random.range(1, if late { 100_000 } else { 2_000 });
            let rows = if self.fails(1, "failed look-ups") { None } else { rows };
            self.at(delay, Event::Found(number, life, group, lookup.ticket, rows));
        }
        for group in appends {
            let slow = self.fails(self.plan.faults.slow_append, "slow appends");
            let took = self.random.range(100, if slow { 400_000 } else { 3_000 });
            self.at(took, Event::Appended(number, life, group));
        }
        for (asker, outcome) in answers {
            if !self.fails(self.plan.faults.lose_answers, "lost answers") {
                let delay = self.random.range(50, 2_000);
                self.at(delay, Event::Answer(asker, outcome));
            }
        }
        for message in messages {
            self.travel(number, message);
        }
        // Only a disk that can't be trusted damages what is read: it is started again, and makes
        // its index of the log.
        if is_damaged && self.liar == Some(number) {
            return self.crash(number, "stops for a damaged index");
        }
        if let Some(wake) = wake {
            let wake = wake.max(Duration::from_millis(1));
            let (delay, due) = (wake.as_micros() as u64, self.now.after(wake));
            if self.wakes.get(&number).is_none_or(|planned| due < *planned) {
                self.wakes.insert(number, due);
                self.at(delay, Event::Wake(number, life));
            }
        }
    }

    /// A message goes from one node to another, or within one.
    fn travel(&mut self, from: usize, message: Message) {
        let to = self.node_of(message.to);
        if from == to {
            return self.at(1, Event::Stream(message));
        }
        let cut = self.cuts.get(&(from, to)).is_some_and(|until| self.now < *until);
        if cut || self.fails(self.plan.faults.lose, "lost messages") {
            return;
        }
        if self.fails(self.plan.faults.double, "doubled messages") {
            let delay = self.random.range(50, 100_000);
            self.at(delay, Event::Stream(message.clone()));
        }
        let late = self.fails(self.plan.faults.delay, "late messages");
        let delay = self.random.range(50, if late { 500_000 } else { 2_000 });
        self.at(delay, Event::Stream(message));
    }
}

pub(crate) fn hash_of(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(0xcbf2_9ce4_8422_2325, |hash: u64, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        (hash ^ u64::from_le_bytes(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
    })
}
