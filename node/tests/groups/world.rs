//! All shards of a directory, in groups, with a log for each group and the messages between them.

use std::collections::BTreeMap;
use std::time::Duration;

use model::record::{CommandBuffer, Kind, Record};
use model::reply::{Query, View};
use model::{AccountKind, ItemId, Offset, Outcome, Party, Realm, ShardId, Time, ids};
use mq::{Log, MemoryLog};
use node::{Found, Imbalance, Lost, Message, Now, Replay, ShardGroup, Token};
use txn_core::{Seat, Shard, SpareRegions};

use crate::GBP;

/// When worlds begin: a day in 2023.
const BEGINNING: Time = Time(1_700_000_000_000_000);

/// A submission, by its number.
pub struct Ask(usize);

impl Token for Ask {}

pub struct World {
    pub shards: u16,
    step: Duration,
    pub now: Time,
    pub groups: Vec<ShardGroup<Ask>>,
    /// One for each group: what a process would find when it starts again.
    logs: Vec<MemoryLog>,
    /// Frames that were appended, and that their group doesn't know to be durable.
    appended: Vec<Option<Vec<Vec<u8>>>>,
    pub mail: Vec<Message>,
    /// No message is carried.
    pub is_cut: bool,
    asked: usize,
    answers: BTreeMap<usize, Vec<Outcome>>,
}

impl World {
    pub fn new(shards: u16, groups: usize) -> World {
        World::with_step(shards, groups, Seat::SETTLE_STEP)
    }

    pub fn with_step(shards: u16, groups: usize, step: Duration) -> World {
        let mut world = World {
            shards,
            step,
            now: BEGINNING,
            groups: Vec::new(),
            logs: (0..groups).map(|_| MemoryLog::new()).collect(),
            appended: (0..groups).map(|_| None).collect(),
            mail: Vec::new(),
            is_cut: false,
            asked: 0,
            answers: BTreeMap::new(),
        };
        for group in 0..groups {
            let opened = world.open(group);
            world.groups.push(opened);
        }
        world.commit_all();
        world
    }

    pub fn group_of(&self, shard: ShardId) -> usize {
        usize::from(shard.0) % self.logs.len()
    }

    /// A group as it starts on its log.
    fn open(&self, group: usize) -> ShardGroup<Ask> {
        let ids = (0..self.shards).map(ShardId).filter(|shard| self.group_of(*shard) == group);
        let members = ids.map(|id| {
            let seat = Seat { id, shards: self.shards, settle_step: self.step };
            let mut shard = Shard::new(seat, 7, SpareRegions::default());
            let mut frames = self.logs[group].read(id, Offset(1)).unwrap();
            let mut replay = Replay::default();
            while let Some(frame) = frames.next().unwrap() {
                replay.apply(&mut shard, frame).unwrap();
            }
            (shard, self.logs[group].end(id))
        });
        ShardGroup::new(self.shards, members.collect())
    }

    /// A group's process ends, and another one starts.
    pub fn restart(&mut self, group: usize) {
        self.groups[group] = self.open(group);
        self.appended[group] = None;
    }

    /// The log of a group as it is now.
    pub fn log_of(&self, group: usize) -> MemoryLog {
        let mut copy = MemoryLog::new();
        let mut frames = self.logs[group].read_all().unwrap();
        while let Some(frame) = frames.next().unwrap() {
            copy.append(&[frame.bytes]).unwrap();
        }
        copy
    }

    /// A group's process ends, and another one starts on another log.
    pub fn restart_on(&mut self, group: usize, log: MemoryLog) {
        self.logs[group] = log;
        self.restart(group);
    }

    pub fn lose_messages(&mut self) {
        self.mail.clear();
    }

    /// The time, by both clocks.
    pub fn moment(&self) -> Now {
        Now { time: self.now, monotonic: Duration::from_micros(self.now.0) }
    }

    /// Submits commands that are all for one group.
    pub fn submit(&mut self, commands: CommandBuffer) -> usize {
        let first = commands.records().next().unwrap().unwrap();
        let group = self.group_of(first.home(self.shards).unwrap());
        self.asked += 1;
        let now = self.moment();
        self.groups[group].submit(now, Ask(self.asked), commands, Vec::new()).unwrap();
        self.collect(group);
        self.asked
    }

    /// Submits what must be done at once.
    pub fn done(&mut self, commands: CommandBuffer) {
        let asked = self.submit(commands);
        self.commit_all();
        let outcomes = self.outcomes(asked).expect("it waits for nothing");
        assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Ok), "{outcomes:?}");
    }

    /// What became of a submission, once that may be told.
    pub fn outcomes(&self, asked: usize) -> Option<Vec<Outcome>> {
        self.answers.get(&asked).cloned()
    }

    fn collect(&mut self, group: usize) {
        for (Ask(asked), found) in self.groups[group].released() {
            let Found::Commands(_, replies) = found else { panic!("nobody reads") };
            let outcomes = replies.iter().map(|reply| reply.outcome).collect();
            assert!(self.answers.insert(asked, outcomes).is_none(), "answered twice");
        }
    }

    /// Appends what a group has. Its process may end before it hears that this is durable.
    pub fn append(&mut self, group: usize) {
        if self.appended[group].is_some() || !self.groups[group].has_unwritten() {
            return;
        }
        let now = self.moment();
        let (frames, _) = self.groups[group].take_frames(now);
        let bytes: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
        self.logs[group].append(&bytes).unwrap();
        self.appended[group] = Some(frames);
    }

    /// Tells a group what is durable.
    pub fn durable(&mut self, group: usize) {
        if let Some(frames) = self.appended[group].take() {
            let now = self.moment();
            self.groups[group].durable(now, frames);
        }
        let now = self.moment();
        self.groups[group].messages(now, &mut self.mail);
        self.collect(group);
    }

    pub fn commit_all(&mut self) {
        for group in 0..self.groups.len() {
            self.append(group);
            self.durable(group);
        }
    }

    /// Gives a message to whom it is for.
    pub fn deliver(&mut self, message: &Message) -> Result<(), Lost> {
        let group = self.group_of(message.to);
        let now = self.moment();
        self.groups[group].deliver(now, std::slice::from_ref(message))?;
        self.collect(group);
        Ok(())
    }

    /// Carries all messages that are under way now.
    pub fn try_carry(&mut self) -> Result<(), Lost> {
        let mail = std::mem::take(&mut self.mail);
        match self.is_cut {
            true => Ok(()),
            false => mail.iter().try_for_each(|message| self.deliver(message)),
        }
    }

    pub fn carry(&mut self) {
        self.try_carry().unwrap();
    }

    pub fn tick(&mut self) {
        for group in 0..self.groups.len() {
            let now = self.moment();
            if self.groups[group].next_wake(now).is_some_and(|wake| wake.is_zero()) {
                self.groups[group].tick(now);
            }
        }
    }

    /// Does all that can be done without time passing.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            self.tick();
            self.commit_all();
            if self.mail.is_empty() && !self.groups.iter().any(ShardGroup::has_unwritten) {
                return;
            }
            self.carry();
        }
        panic!("it goes on for ever");
    }

    /// Lets time pass, and everything happen when it is due.
    pub fn pass_until(&mut self, end: Time) {
        loop {
            self.settle();
            let now = self.moment();
            let wake = self.groups.iter().filter_map(|group| group.next_wake(now)).min();
            let wake = wake.map(|wake| self.now.after(wake));
            match wake.filter(|wake| *wake <= end) {
                Some(wake) => {
                    assert!(wake > self.now, "it wakes for nothing, at {wake}");
                    self.now = wake;
                }
                None => {
                    self.now = end;
                    return;
                }
            }
        }
    }

    pub fn pass(&mut self, time: Duration) {
        self.pass_until(self.now.after(time));
    }

    /// Orders that wait.
    pub fn waiting(&self) -> usize {
        self.groups.iter().map(ShardGroup::waiting).sum()
    }

    /// The shards, in order.
    pub fn members(&self) -> Vec<&Shard> {
        let mut members: Vec<&Shard> = self.groups.iter().flat_map(ShardGroup::members).collect();
        members.sort_by_key(|shard| shard.seat().id);
        members
    }

    /// What the shard of a party shows.
    pub fn query(&self, party: Party, query: Query) -> View {
        let shard = ids::shard_of(party, self.shards);
        self.members()[usize::from(shard.0)].query_in(Realm::Live, query)
    }

    pub fn balance_of(&self, party: Party, kind: AccountKind) -> i128 {
        match self.query(party, Query::Account(party, GBP, kind)) {
            View::Account(view) => {
                i128::from(view.credits_posted.0) - i128::from(view.debits_posted.0)
            }
            _ => 0,
        }
    }

    pub fn balance(&self, party: Party) -> i128 {
        self.balance_of(party, AccountKind::Main)
    }

    /// Units of an item that were stocked, and those that are reserved or sold, over all shards.
    pub fn units(&self, item: ItemId) -> (u64, u64) {
        let rows = self.members().into_iter().flat_map(|shard| shard.items(Realm::Live));
        rows.filter(|row| row.item == item).fold((0, 0), |(stocked, out), row| {
            (stocked + row.stocked, out + row.reserved + row.sold)
        })
    }

    /// Shows every record of the logs.
    pub fn for_each_record(&self, mut visit: impl FnMut(&Record<'_>)) {
        for log in &self.logs {
            let mut frames = log.read_all().unwrap();
            while let Some(frame) = frames.next().unwrap() {
                frame.records().for_each(|record| visit(&record.unwrap()));
            }
        }
    }

    pub fn count_records(&self, kind: Kind) -> usize {
        let mut count = 0;
        self.for_each_record(|record| count += usize::from(record.header.kind == kind as u8));
        count
    }

    /// Not a unit and not a penny is missing, in the groups' memory and in their logs.
    pub fn check(&self) {
        for realm in [Realm::Live, Realm::Drill] {
            let found = Imbalance::of(&self.members(), realm);
            assert!(found.is_none(), "{found:#?}");
        }
    }
}
