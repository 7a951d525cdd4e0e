//! The shards that run together on a core, without a clock, a thread or a socket.
//!
//! A [`ShardGroup`] decides what a reactor does with its shards: which commands go to which of
//! them, who waits and who goes on, what becomes of the answers, what is sent to other shards and
//! when. It is told the time and what happens, and yields what is to be done, so that the same
//! code runs on a reactor and in a simulation.
//!
//! Calling order: hand in what there is ([`ShardGroup::submit`], [`ShardGroup::query`],
//! [`ShardGroup::deliver`], [`ShardGroup::tick`] at [`ShardGroup::next_wake`]). While nothing is
//! in flight, [`ShardGroup::take_frames`] and append them; when they are durable,
//! [`ShardGroup::durable`]. Then [`ShardGroup::released`] are the answers that may go out, and
//! [`ShardGroup::messages`] what may be sent.

mod host;
mod links;
mod parked;
mod saving;
mod waiting;

use std::collections::BTreeMap;
use std::time::Duration;

use model::planted::{Bug, is_planted};
use model::record::entry::StockOp;
use model::record::{
    Body, CommandBuffer, Kind, Record, RecordError, STOCK_OPS_MAX, SWEEP_MAX, set_withdrawn,
};
use model::reply::{List, Listed, Query, View};
use model::{ItemId, LineKind, Outcome, Realm, Reply, ShardId, Time};
use mq::LogEnd;
use slab::Slab;
use txn_core::{PREFETCH_COMMANDS, Shard, Shortage, Unready};

use crate::Now;
use host::{Host, Hosts};
pub use links::Message;
pub use parked::Lookup;
use parked::Lookups;
use saving::Saving;
use waiting::{ItemKey, Moved, ReplyPlace};

/// Timers that fire at one moment. More go on with the next.
const TIMERS_AT_ONCE: usize = 256;
/// Bytes of messages whose entries' memory is fetched together.
const PREFETCH_BYTES: usize = 8 << 10;
/// Sweeps that are done one after the other: each ends with a seller that is at home here.
const SWEEPS_AT_ONCE: usize = 64;

/// Who asked. The group keeps it with the answer.
pub trait Token {
    /// All that was asked for is decided. It isn't durable yet.
    fn decided(&mut self) {}
}

/// What was asked for.
#[derive(Debug)]
pub enum Found {
    /// The commands that were submitted, and what became of each.
    Commands(CommandBuffer, Vec<Reply>),
    /// What a read found.
    View(View),
    /// What a list came to.
    Listed(Listed),
    /// What a read asks for has left memory, and can't be read now.
    Unreadable,
}

/// A peer knows of more than this shard has: what was durable here was lost. Nothing may be
/// served on top of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "shard {shard} has lost what was durable: it stands at {have} of its stream {direction} \
     shard {peer}, which knows of {known}"
)]
pub struct Lost {
    /// Whose log is short.
    pub shard: ShardId,
    /// Who knows.
    pub peer: ShardId,
    /// `to` or `from` that peer.
    pub direction: &'static str,
    /// Where the shard stands.
    pub have: u64,
    /// Where it stood.
    pub known: u64,
}

/// Commands of which some aren't decided.
struct Submission<T> {
    token: T,
    commands: CommandBuffer,
    replies: Vec<Reply>,
    undecided: usize,
}

/// The shards of a reactor.
pub struct ShardGroup<T> {
    shards: u16,
    hosts: Hosts,
    /// Which of the hosts has a shard.
    slots: Vec<Option<usize>>,
    /// Hosts that have executed something since it was followed up.
    touched: Vec<usize>,
    /// Orders that wait.
    waiting: usize,
    /// Hosts that have decided something that isn't handed over yet.
    unwritten: Vec<usize>,
    /// Whether the shards that decided something can take more commands.
    has_room: bool,
    submissions: Slab<Submission<T>>,
    /// Answers that depend on what isn't handed over yet,
    held: Vec<(T, Found)>,
    /// on what is being written,
    in_flight: Option<Vec<(T, Found)>>,
    /// and on nothing any more.
    released: Vec<(T, Found)>,
    /// Streams that are durable once what is in flight is.
    streams: Vec<(usize, (Realm, ShardId), txn_core::StreamEnds)>,
    spare_frames: Vec<Vec<u8>>,
    spare_held: Vec<(T, Found)>,
    drill_stopped: bool,
    saving: Option<Saving>,
    lookups: Lookups<T>,
    /// By table: how many words of rows each shard keeps, about.
    keep_words: [u64; 2],
    /// Whose turn it is now that somebody has moved. Empty but while that is seen to.
    moved: Moved,
}

impl<T: Token> ShardGroup<T> {
    /// A group of these shards, of `shards` in all, each at the end of its log.
    pub fn new(shards: u16, members: Vec<(Shard, LogEnd)>) -> ShardGroup<T> {
        let hosts: Vec<Host> =
            members.into_iter().map(|(shard, end)| Host::new(shard, end)).collect();
        let mut slots = vec![None; shards.into()];
        for (slot, host) in hosts.iter().enumerate() {
            slots[usize::from(host.id().0)] = Some(slot);
        }
        let mut group = ShardGroup {
            shards,
            has_room: hosts.iter().all(|host| host.shard.has_room()),
            hosts: Hosts::new(hosts),
            slots,
            touched: Vec::new(),
            waiting: 0,
            unwritten: Vec::new(),
            submissions: Slab::new(),
            held: Vec::new(),
            in_flight: None,
            released: Vec::new(),
            streams: Vec::new(),
            spare_frames: Vec::new(),
            spare_held: Vec::new(),
            drill_stopped: false,
            saving: None,
            lookups: Lookups::default(),
            keep_words: [u64::MAX; 2],
            moved: Moved::default(),
        };
        for slot in 0..group.hosts.len() {
            // A recall that came before the last stop is still to be answered.
            let recalled = group.hosts[slot].shard.recalled();
            group.answer_recalls(Now::default(), slot, &recalled);
            // The epoch's first frame fences whoever wrote before.
            group.hosts[slot].finish_frame(Time(0), Vec::new());
            group.note_unwritten(slot);
        }
        group
    }

    /// The shards, to look at.
    pub fn members(&self) -> impl Iterator<Item = &Shard> {
        self.hosts.iter().map(|host| &host.shard)
    }

    /// Orders that wait.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Whether all shards could take more commands when frames were handed over last.
    pub fn has_room(&self) -> bool {
        self.has_room
    }

    /// Stops all rehearsal, or lets it go on: no command, timer or message of the drill realm is
    /// taken, and so none gets into the log. Orders of it that wait are told to try again.
    pub fn stop_drill(&mut self, now: Now, stopped: bool) {
        if std::mem::replace(&mut self.drill_stopped, stopped) == stopped {
            return;
        }
        for slot in 0..self.hosts.len() {
            if !stopped {
                // What was recalled before the stop is still to be answered.
                let recalled = self.hosts[slot].shard.recalled();
                let drill = |item: &(Realm, ItemId)| item.0 == Realm::Drill;
                let recalled: Vec<_> = recalled.into_iter().filter(drill).collect();
                self.answer_recalls(now, slot, &recalled);
                // And nothing that was sent since has left.
                self.hosts[slot].links.send_again(Realm::Drill);
                continue;
            }
            for ticket in self.hosts[slot].room.tickets(Realm::Drill) {
                let mut moved = Moved::default();
                self.let_go(slot, ticket, Reply::unlogged(Outcome::Busy), &mut moved);
                for (realm, item) in moved.emptied {
                    self.hosts[slot].shard.set_queued(realm, item, false);
                }
            }
        }
        self.follow_up(now);
    }

    fn slot_of(&self, command: &Record<'_>) -> Option<usize> {
        let home = match self.shards {
            1 => ShardId(0),
            shards => command.home(shards)?,
        };
        self.slots[usize::from(home.0)]
    }

    /// Executes commands, whose shards must be in this group. The answer is released when all of
    /// them are decided and durable; `replies` is memory to use again.
    ///
    /// An error means that the bytes are no commands, which they were checked to be: the group is
    /// not to be used any more.
    pub fn submit(
        &mut self,
        now: Now,
        mut token: T,
        commands: CommandBuffer,
        mut replies: Vec<Reply>,
    ) -> Result<(), RecordError> {
        replies.clear();
        if self.waiting > 0 {
            self.withdraw(now, &commands);
        }
        // Where it will be if orders wait.
        let submission = self.submissions.vacant_key();
        let mut undecided = 0;
        let mut rest = commands.records();
        // Commands are read once; with each, which of the hosts it is for.
        let mut window = [None; PREFETCH_COMMANDS];
        loop {
            let mut read = 0;
            while read < PREFETCH_COMMANDS
                && let Some(command) = rest.next()
            {
                let command = command?;
                command.check_undecided()?;
                let slot = self.slot_of(&command);
                if let Some(slot) = slot {
                    self.hosts[slot].shard.prefetch_slots(&command);
                }
                window[read] = Some((command, slot));
                read += 1;
            }
            for (command, slot) in window[..read].iter().flatten() {
                if let Some(slot) = slot {
                    self.hosts[*slot].shard.prefetch_blocks(command);
                }
            }
            for (command, slot) in window[..read].iter().flatten() {
                if let Some(slot) = slot {
                    self.hosts[*slot].shard.prefetch_named(command);
                }
            }
            for (command, slot) in window[..read].iter().flatten() {
                let reply = match self.execute(now, *slot, command) {
                    Ok(reply) => reply,
                    Err((slot, unready)) => {
                        let place = ReplyPlace { submission, index: replies.len() };
                        let of = (command, &commands);
                        let stays = match unready {
                            Unready::Needs => self.park(slot, place, of, Vec::new()),
                            Unready::Lacks(shortage) => {
                                let loads = CommandBuffer::default();
                                self.wait(now, slot, place, of, shortage, loads)
                            }
                        };
                        undecided += usize::from(stays.is_ok());
                        Reply::unlogged(stays.err().unwrap_or(Outcome::Busy))
                    }
                };
                replies.push(reply);
            }
            if read < PREFETCH_COMMANDS {
                break;
            }
        }
        if undecided == 0 {
            token.decided();
            self.hold(token, Found::Commands(commands, replies));
        } else {
            self.submissions.insert(Submission { token, commands, replies, undecided });
        }
        self.follow_up(now);
        Ok(())
    }

    fn execute(
        &mut self,
        now: Now,
        slot: Option<usize>,
        command: &Record<'_>,
    ) -> Result<Reply, (usize, Unready)> {
        let Some(slot) = slot else { return Ok(Reply::unlogged(Outcome::Invalid)) };
        if self.drill_stopped && command.realm() == Realm::Drill {
            return Ok(Reply::unlogged(Outcome::Busy));
        }
        self.execute_on(now, slot, command, None).map_err(|unready| (slot, unready))
    }

    fn execute_on(
        &mut self,
        now: Now,
        slot: usize,
        command: &Record<'_>,
        turn: Option<ItemId>,
    ) -> Result<Reply, Unready> {
        self.touch(slot);
        let host = &mut self.hosts[slot];
        let reply = host.execute(now.time, command, turn);
        if host.has_unwritten() {
            self.note_unwritten(slot);
        }
        reply
    }

    /// The same of a command for which something was looked up.
    fn execute_loaded(
        &mut self,
        now: Now,
        slot: usize,
        loads: &CommandBuffer,
        command: &Record<'_>,
        turn: Option<ItemId>,
    ) -> Result<Reply, Unready> {
        for load in loads.records() {
            // What is of no use any more isn't logged, and the command says what it needs.
            let _ = self.execute_on(now, slot, &load.expect("it was written"), None);
        }
        self.execute_on(now, slot, command, turn)
    }

    fn touch(&mut self, slot: usize) {
        if !std::mem::replace(&mut self.hosts[slot].is_touched, true) {
            self.touched.push(slot);
        }
    }

    fn note_unwritten(&mut self, slot: usize) {
        if !std::mem::replace(&mut self.hosts[slot].is_unwritten, true) {
            self.unwritten.push(slot);
        }
    }

    /// Reads from one of its shards.
    pub fn query(&mut self, token: T, shard: ShardId, realm: Realm, query: Query) {
        let Some(slot) = self.slots[usize::from(shard.0)] else {
            return self.hold(token, Found::View(View::Missing));
        };
        let shard = &self.hosts[slot].shard;
        let found = match shard.need_of(realm, &query) {
            None => (token, Found::View(shard.query_in(realm, query))),
            Some(need) => match self.park_read(token, slot, realm, (query, need)) {
                Ok(()) => return,
                Err(token) => (token, Found::Unreadable),
            },
        };
        self.hold(found.0, found.1);
    }

    /// Reads a page of rows from one of its shards.
    pub fn list(&mut self, token: T, shard: ShardId, realm: Realm, list: &List) {
        let found = match self.slots[usize::from(shard.0)] {
            Some(slot) => self.hosts[slot].shard.list_in(realm, list),
            None => Listed::NotThere,
        };
        self.hold(token, Found::Listed(found));
    }

    /// Takes messages from other shards: `Deliver` commands for shards of this group.
    pub fn deliver(&mut self, now: Now, messages: &[Message]) -> Result<(), Lost> {
        let mut rest = messages;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = rest.iter().take(PREFETCH_COMMANDS).take_while(|message| {
                bytes += message.record.len();
                bytes <= PREFETCH_BYTES
            });
            let (these, others) = rest.split_at(fits.count().max(1));
            rest = others;
            let mut window = [None; PREFETCH_COMMANDS];
            for (place, message) in window.iter_mut().zip(these) {
                *place = self.read(message);
            }
            let commands = || window.iter().flatten();
            let shard = |slot: &usize| &self.hosts[*slot].shard;
            commands().for_each(|(slot, command)| shard(slot).prefetch_slots(command));
            commands().for_each(|(slot, command)| shard(slot).prefetch_blocks(command));
            commands().for_each(|(slot, command)| shard(slot).prefetch_named(command));
            for (slot, command) in commands() {
                self.take(now, *slot, command)?;
            }
        }
        self.follow_up(now);
        Ok(())
    }

    /// A message that a shard of this group is to take.
    fn read<'m>(&self, message: &'m Message) -> Option<(usize, Record<'m>)> {
        let slot = self.slots[usize::from(message.to.0)]?;
        let (command, _) = Record::split(&message.record).ok()?;
        let stopped = self.drill_stopped && command.realm() == Realm::Drill;
        let is_one = matches!(command.body, Body::Deliver { .. });
        (is_one && !stopped && command.check_undecided().is_ok()).then_some((slot, command))
    }

    fn take(&mut self, now: Now, slot: usize, command: &Record<'_>) -> Result<(), Lost> {
        let Body::Deliver { deliver, .. } = command.body else { return Ok(()) };
        let host = &self.hosts[slot];
        let peer = (command.realm(), ShardId(command.header.scope.get() as u16));
        let ends = host.shard.stream(peer.0, peer.1);
        let shard = host.id();
        let lost =
            |direction, have, known| Err(Lost { shard, peer: peer.1, direction, have, known });
        if deliver.base.get() > ends.next_in {
            return lost("from", ends.next_in, deliver.base.get());
        }
        if deliver.acked.get() > ends.next_out {
            return lost("to", ends.next_out, deliver.acked.get());
        }
        let reply = self.execute_on(now, slot, command, None);
        if reply.is_ok_and(|reply| reply.outcome == Outcome::AlreadyDone) {
            self.hosts[slot].links.tell_again(now.monotonic, peer);
        }
        Ok(())
    }

    /// How long [`ShardGroup::tick`] has nothing to do, if nothing happens.
    pub fn next_wake(&self, now: Now) -> Option<Duration> {
        self.hosts.next_wake(now, self.realms())
    }

    /// The realms that go on.
    fn realms(&self) -> &'static [Realm] {
        if self.drill_stopped { &[Realm::Live] } else { &[Realm::Live, Realm::Drill] }
    }

    /// Does what is due: timers, sweeps, and who has waited too long.
    pub fn tick(&mut self, now: Now) {
        for slot in 0..self.hosts.len() {
            while let Some(ticket) = self.hosts[slot].room.overdue(now.monotonic) {
                let is_wrong = is_planted(Bug::BusyIsSoldOut);
                let outcome = if is_wrong { Outcome::SoldOut } else { Outcome::Busy };
                self.left(slot, ticket, Reply::unlogged(outcome));
                self.retry(now, slot);
            }
            for &realm in self.realms() {
                self.fire(now, slot, realm);
                for _ in 0..SWEEPS_AT_ONCE {
                    let host = &self.hosts[slot];
                    if !host.shard.wants_sweep(realm, host.time(now.time)) {
                        break;
                    }
                    let mut command = command_of(realm);
                    command.sweep(SWEEP_MAX);
                    self.execute_own(now, slot, &command);
                }
            }
        }
        self.follow_up(now);
    }

    fn fire(&mut self, now: Now, slot: usize, realm: Realm) {
        for _ in 0..TIMERS_AT_ONCE {
            let host = &self.hosts[slot];
            let Some((kind, party, id, due)) = host.shard.due(realm, host.time(now.time)) else {
                break;
            };
            let mut command = command_of(realm);
            command.timer(kind, party, id, due);
            self.execute_own(now, slot, &command);
        }
    }

    /// Executes a command that the group gives one of its shards.
    fn execute_own(&mut self, now: Now, slot: usize, command: &CommandBuffer) {
        let command = command.records().next().expect("it was written");
        let executed = self.execute_on(now, slot, &command.expect("it is valid"), None);
        executed.expect("only what callers ask for waits");
    }

    /// Does what was learned: orders that may go on, recalls to answer, homes to ask.
    fn follow_up(&mut self, now: Now) {
        while let Some(slot) = self.touched.pop() {
            self.hosts[slot].is_touched = false;
            while self.hosts[slot].shard.has_signals() {
                let signals = self.hosts[slot].shard.signals();
                for woken in signals.woken.chunks(PREFETCH_COMMANDS) {
                    self.wake(now, slot, woken);
                }
                self.answer_recalls(now, slot, &signals.recalled);
            }
            // What an item's home learns from itself is one of the next things to follow up.
            self.send_asks(now, slot);
        }
    }

    /// Tries those again who wait for these items.
    fn wake(&mut self, now: Now, slot: usize, woken: &[ItemKey]) {
        let Host { room, shard, .. } = &mut self.hosts[slot];
        let mut window = [None; PREFETCH_COMMANDS];
        for (place, item) in window.iter_mut().zip(woken) {
            *place = room.woken(*item).and_then(|ticket| {
                let waiting = room.get(ticket);
                let commands = &self.submissions[waiting.place.submission].commands;
                Some(Record::split(&commands.bytes()[waiting.bytes.clone()]).ok()?.0)
            });
        }
        window.iter().flatten().for_each(|command| shard.prefetch_slots(command));
        window.iter().flatten().for_each(|command| shard.prefetch_blocks(command));
        window.iter().flatten().for_each(|command| shard.prefetch_named(command));
        let has_queue = window.map(|first| first.is_some());
        for (item, _) in woken.iter().zip(has_queue).filter(|(_, has_queue)| *has_queue) {
            self.moved.items.push(*item);
            self.retry(now, slot);
        }
    }

    fn answer_recalls(&mut self, now: Now, slot: usize, recalled: &[(Realm, ItemId)]) {
        for realm in [Realm::Live, Realm::Drill] {
            let room = &mut self.hosts[slot].room;
            let items = recalled.iter().filter(|item| item.0 == realm && room.recall(**item));
            let ops: Vec<StockOp> = items.map(|item| StockOp::answer(item.1)).collect();
            self.give_back(now, slot, realm, &ops);
        }
    }

    /// Answers to recalls. What was asked before goes out before.
    fn give_back(&mut self, now: Now, slot: usize, realm: Realm, ops: &[StockOp]) {
        if !ops.is_empty() {
            self.send_asks(now, slot);
            self.stock(now, slot, realm, ops);
        }
    }

    fn send_asks(&mut self, now: Now, slot: usize) {
        for realm in [Realm::Live, Realm::Drill] {
            let mut asks = std::mem::take(&mut self.hosts[slot].asks[realm as usize]);
            self.stock(now, slot, realm, &asks);
            // Nobody asks meanwhile: what it leads to is followed up later.
            asks.clear();
            self.hosts[slot].asks[realm as usize] = asks;
        }
    }

    fn stock(&mut self, now: Now, slot: usize, realm: Realm, ops: &[StockOp]) {
        for ops in ops.chunks(STOCK_OPS_MAX) {
            let mut command = command_of(realm);
            command.stock(ops);
            self.execute_own(now, slot, &command);
        }
    }

    /// Puts an order that lacks units where it waits, or says why it doesn't wait.
    fn wait(
        &mut self,
        now: Now,
        slot: usize,
        place: ReplyPlace,
        (command, commands): (&Record<'_>, &CommandBuffer),
        shortage: Shortage,
        loads: CommandBuffer,
    ) -> Result<(), Outcome> {
        let realm = command.realm();
        let order = (realm, command.party(), command.order().expect("only orders wait"));
        let Host { shard, room, .. } = &mut self.hosts[slot];
        if let Some(ticket) = room.find(order) {
            let first = room.get(ticket);
            let theirs = match first.place.submission == place.submission {
                true => commands, // Both came together.
                false => &self.submissions[first.place.submission].commands,
            };
            if theirs.bytes()[first.bytes.clone()] != *command.bytes {
                return Err(Outcome::IdReused);
            }
            room.repeat(ticket, place);
            return Ok(());
        }
        if room.is_full() {
            return Err(Outcome::Busy);
        }
        self.waiting += 1;
        let start = command.bytes.as_ptr() as usize - commands.bytes().as_ptr() as usize;
        let bytes = start..start + command.bytes.len();
        let ticket = room.enter(now.monotonic, order, place, bytes, shortage, loads);
        shard.set_queued(realm, shortage.item, true);
        self.ask(slot, realm, ticket, shortage);
        self.ask_ahead(slot, realm, higher_items(command, shortage.item));
        Ok(())
    }

    /// Asks the homes of what an order lacks beside the item that it waits for first.
    fn ask_ahead(&mut self, slot: usize, realm: Realm, items: BTreeMap<ItemId, u64>) {
        if items.is_empty() {
            return;
        }
        let Host { shard, room, asks, .. } = &mut self.hosts[slot];
        for (item, whole) in items {
            let lacking = shard.lacking(realm, item, whole);
            if lacking > 0 && room.ask_ahead((realm, item)) {
                shard.set_asked(realm, item, true);
                asks[realm as usize].push(StockOp::ask(item, lacking, whole, lacking));
            }
        }
        self.touch(slot);
    }

    /// Asks the item's home for what the first in line lacks, with the others that are to be
    /// asked now: what many orders lack is one record.
    fn ask(&mut self, slot: usize, realm: Realm, ticket: usize, shortage: Shortage) {
        if shortage.lacking == 0 {
            return;
        }
        let Host { shard, room, asks, .. } = &mut self.hosts[slot];
        if let Some(wanted) = room.ask((realm, shortage.item), ticket, &shortage) {
            shard.set_asked(realm, shortage.item, true);
            let op = StockOp::ask(shortage.item, shortage.lacking, shortage.whole, wanted);
            asks[realm as usize].push(op);
            self.touch(slot);
        }
    }

    /// Tries those who are first in line where somebody has moved, and who comes after them.
    fn retry(&mut self, now: Now, slot: usize) {
        loop {
            for (realm, item) in self.moved.emptied.drain(..) {
                self.hosts[slot].shard.set_queued(realm, item, false);
            }
            if !self.moved.recalled.is_empty() {
                // What was kept for the moment goes home, before anybody else takes it.
                let recalled = std::mem::take(&mut self.moved.recalled);
                for realm in [Realm::Live, Realm::Drill] {
                    let items = recalled.iter().filter(|key| key.0 == realm);
                    let ops: Vec<StockOp> = items.map(|key| StockOp::answer(key.1)).collect();
                    self.give_back(now, slot, realm, &ops);
                }
            }
            let Some((realm, item)) = self.moved.items.pop() else { return };
            let Some(ticket) = self.hosts[slot].room.first((realm, item)) else { continue };
            let waiting = self.hosts[slot].room.get(ticket);
            if waiting.turn != item {
                continue; // It keeps units of this one, and waits for another.
            }
            let (place, bytes) = (waiting.place, waiting.bytes.clone());
            let loads = waiting.loads.clone();
            let commands = std::mem::take(&mut self.submissions[place.submission].commands);
            let (command, _) = Record::split(&commands.bytes()[bytes]).expect("it was checked");
            let tried = self.execute_loaded(now, slot, &loads, &command, Some(item));
            self.submissions[place.submission].commands = commands;
            match tried {
                Ok(reply) => self.left(slot, ticket, reply),
                Err(Unready::Needs) => self.left(slot, ticket, Reply::unlogged(Outcome::Busy)),
                Err(Unready::Lacks(shortage)) => {
                    let Host { shard, room, .. } = &mut self.hosts[slot];
                    room.line_up(now.monotonic, ticket, shortage, &mut self.moved);
                    // Of an item that has only now become known the shard doesn't know it yet.
                    shard.set_queued(realm, item, room.first((realm, item)).is_some());
                    shard.set_queued(realm, shortage.item, true);
                    self.ask(slot, realm, ticket, shortage);
                }
            }
        }
    }

    /// An order waits no longer, and has its answer. Whoever stood behind it is to be tried.
    fn left(&mut self, slot: usize, ticket: usize, reply: Reply) {
        let mut moved = std::mem::take(&mut self.moved);
        self.let_go(slot, ticket, reply, &mut moved);
        self.moved = moved;
    }

    /// Gives an order's answer to all who asked.
    fn let_go(&mut self, slot: usize, ticket: usize, reply: Reply, moved: &mut Moved) {
        let waiting = self.hosts[slot].room.leave(ticket, moved);
        self.waiting -= 1;
        self.reply(waiting.place, reply);
        let again = match reply.outcome {
            Outcome::Ok => Reply { outcome: Outcome::AlreadyDone, ..reply },
            _ => reply,
        };
        for place in waiting.repeats {
            self.reply(place, again);
        }
    }

    fn reply(&mut self, place: ReplyPlace, reply: Reply) {
        let submission = &mut self.submissions[place.submission];
        submission.replies[place.index] = reply;
        submission.undecided -= 1;
        if submission.undecided == 0 {
            let mut submission = self.submissions.remove(place.submission);
            submission.token.decided();
            let found = Found::Commands(submission.commands, submission.replies);
            self.hold(submission.token, found);
        }
    }

    /// Orders that wait and that these commands cancel are recorded as cancelled.
    fn withdraw(&mut self, now: Now, commands: &CommandBuffer) {
        for command in commands.records().flatten() {
            if command.header.kind != Kind::Cancel as u8 {
                continue;
            }
            let (Some(slot), Some(order)) = (self.slot_of(&command), command.order()) else {
                continue;
            };
            let key = (command.realm(), command.party(), order);
            let Some(ticket) = self.hosts[slot].room.find(key) else { continue };
            let waiting = self.hosts[slot].room.get(ticket);
            let commands = &self.submissions[waiting.place.submission].commands;
            let mut bytes = commands.bytes()[waiting.bytes.clone()].to_vec();
            set_withdrawn(&mut bytes, true);
            let (withdrawn, _) = Record::split(&bytes).expect("it was checked");
            let loads = self.hosts[slot].room.get(ticket).loads.clone();
            let reply = self.execute_loaded(now, slot, &loads, &withdrawn, None);
            // What is of no use any more has to be looked up again.
            self.left(slot, ticket, reply.unwrap_or(Reply::unlogged(Outcome::Busy)));
            self.retry(now, slot);
        }
    }

    /// Keeps an answer until what it depends on is durable.
    fn hold(&mut self, token: T, found: Found) {
        match &mut self.in_flight {
            _ if is_planted(Bug::EarlyRelease) => self.released.push((token, found)),
            _ if !self.unwritten.is_empty() => self.held.push((token, found)),
            Some(in_flight) => in_flight.push((token, found)),
            None => self.released.push((token, found)),
        }
    }

    /// Whether anything was decided that isn't handed over yet.
    pub fn has_unwritten(&self) -> bool {
        !self.unwritten.is_empty()
    }

    /// Bytes that were decided and aren't handed over yet.
    pub fn unwritten_bytes(&self) -> usize {
        self.unwritten.iter().map(|&slot| self.hosts[slot].unwritten_bytes()).sum()
    }

    /// Whether what was handed over isn't durable yet.
    pub fn is_in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Adds an empty frame: it names what was written before as synced.
    pub fn mark(&mut self, now: Now) {
        if !self.hosts.is_empty() {
            let spare = self.spare_frames.pop().unwrap_or_default();
            self.hosts[0].finish_frame(now.time, spare);
            self.note_unwritten(0);
        }
    }

    /// Hands over what was decided: frames to append together, and their records. The group
    /// before must be durable.
    pub fn take_frames(&mut self, now: Now) -> (Vec<Vec<u8>>, u64) {
        assert!(self.in_flight.is_none(), "one group at a time");
        for at in 0..self.unwritten.len() {
            self.evict(now, self.unwritten[at]);
        }
        self.follow_up(now);
        let (mut frames, mut records) = (Vec::new(), 0);
        if self.has_unwritten() {
            let spare = std::mem::take(&mut self.spare_held);
            self.in_flight = Some(std::mem::replace(&mut self.held, spare));
            self.lookups.handed_over();
        }
        for slot in self.unwritten.drain(..) {
            let host = &mut self.hosts[slot];
            host.is_unwritten = false;
            if host.unfinished() > 0 {
                host.finish_frame(now.time, self.spare_frames.pop().unwrap_or_default());
            }
            for frame in host.finished.drain(..) {
                frames.push(frame.bytes);
                records += u64::from(frame.records);
                self.streams
                    .extend(frame.streams.into_iter().map(|(peer, ends)| (slot, peer, ends)));
            }
            // Tables never shrink.
            self.has_room &= host.shard.has_room();
        }
        (frames, records)
    }

    /// What was handed over is durable. `frames` is memory to use again.
    pub fn durable(&mut self, now: Now, frames: Vec<Vec<u8>>) {
        let mut released = self.in_flight.take().expect("something was handed over");
        self.released.append(&mut released);
        self.saving.iter_mut().for_each(|saving| saving.is_durable = true);
        self.spare_held = released;
        self.lookups.durable();
        self.spare_frames.extend(frames);
        self.spare_frames.truncate(2 * self.hosts.len());
        for (slot, peer, ends) in self.streams.drain(..) {
            self.hosts[slot].links.durable(now.monotonic, peer, ends);
        }
    }

    /// Answers that may go out.
    pub fn released(&mut self) -> std::vec::Drain<'_, (T, Found)> {
        self.released.drain(..)
    }

    /// What is to be sent to other shards now, also to those of this group.
    pub fn messages(&mut self, now: Now, out: &mut Vec<Message>) {
        for slot in 0..self.hosts.len() {
            if self.hosts[slot].links.has_messages(now.monotonic) {
                let host = &mut self.hosts[slot];
                host.links.messages(now.monotonic, &host.shard, out);
            }
        }
        if self.drill_stopped {
            out.retain(|message| !is_drill(message));
        }
    }
}

/// Units that an order wants of each item above `item`.
fn higher_items(command: &Record<'_>, item: ItemId) -> BTreeMap<ItemId, u64> {
    let mut wanted = BTreeMap::new();
    let Body::Place { lines, .. } = command.body else { return wanted };
    let goods = lines.iter().filter(|line| line.kind == LineKind::Goods as u8);
    for line in goods.filter(|line| line.item.get() > item.0) {
        *wanted.entry(ItemId(line.item.get())).or_default() += u64::from(line.quantity.get());
    }
    wanted
}

fn is_drill(message: &Message) -> bool {
    Record::split(&message.record).is_ok_and(|(record, _)| record.realm() == Realm::Drill)
}

fn command_of(realm: Realm) -> CommandBuffer {
    let mut command = CommandBuffer::default();
    command.set_realm(realm);
    command
}
