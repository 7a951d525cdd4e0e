//! The shard: one command after the other, each to its outcome.
//!
//! For every command the same three steps. Is its id known? Then the first outcome stands, or
//! the id was reused. Otherwise decide, without changing anything before the decision is sure.
//! Then remember the id, and log the record with its outcome.

use std::collections::BTreeMap;

use model::frame::FrameBuilder;
use model::planted::{Bug, is_planted};
use model::record::entry::Entry;
use model::record::{
    Body, CommandBuffer, RECORD_BYTES_MAX, Record, RecordError, Records, RowKey, TimerKind,
};
use model::reply::{List, Listed, Query, View};
use model::{
    AccountKind, Currency, ItemId, ItemView, LineKind, Offset, OrderId, Outcome, Party, Realm,
    Reply, ShardId, Time,
};
use xxhash_rust::xxh3::xxh3_64;

use crate::arena::{Pos, SpareRegions};
use crate::eviction::{Need, RowTable, Unready};
use crate::index::Grown;
use crate::ledger::Balance;
use crate::realm::{Decision, RealmState, Seat};
use crate::signals::Signals;
use crate::snapshot::{ARENAS, Malformed, Meta, PAGE_WORDS, Parts, Piece, RealmMeta, Saved, Sink};
use crate::streams::StreamEnds;

/// Rows that are looked at for a page: 2 MiB of accounts, 4 MiB of items. A shard does nothing else
/// for some 2 ms then, if none of it is in its caches.
pub(crate) const LIST_LOOKS: usize = 32 << 10;

/// How much a shard should be ready for, so that no table grows under load.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Capacity {
    /// Accounts.
    pub accounts: u64,
    /// Items.
    pub items: u64,
    /// Orders that are remembered.
    pub orders: u64,
}

/// The state of one shard, and the rules by which it changes.
pub struct Shard {
    seat: Seat,
    seed: u64,
    next_offset: Offset,
    spare: SpareRegions,
    /// Trade, and rehearsal from its first command on.
    realms: [Option<Box<RealmState>>; 2],
    signals: Signals,
    touched: Vec<(Realm, ShardId)>,
    saving: Option<Saving>,
}

/// A snapshot that is being taken.
struct Saving {
    sink: Sink,
    /// By realm, accounts that are swept: those that are saved, and all that were there.
    swept: [(usize, usize); 2],
}

/// Accounts that are swept, in one part.
const SWEPT_MOST: usize = 4_096;

impl Shard {
    /// An empty shard. `seed` keeps callers from choosing ids that collide in its tables; it
    /// changes no outcome. It grows into `spare` first.
    pub fn new(seat: Seat, seed: u64, spare: SpareRegions) -> Shard {
        assert!((1..=Seat::SHARDS_MAX).contains(&seat.shards) && seat.id.0 < seat.shards);
        assert!(seat.settle_step.as_secs() >= 1, "a step is a second at least");
        let live = RealmState::new(Realm::Live, seat, seed, &spare);
        Shard {
            seat,
            seed,
            next_offset: Offset(1),
            spare,
            realms: [Some(Box::new(live)), None],
            signals: Signals::default(),
            touched: Vec::new(),
            saving: None,
        }
    }

    /// Which shard it is.
    pub fn seat(&self) -> Seat {
        self.seat
    }

    /// Makes room ahead, so that no table splits before it holds so much.
    pub fn reserve(&mut self, capacity: Capacity) {
        let live = self.realm_mut(Realm::Live);
        live.ledger.reserve(capacity.accounts);
        live.inventory.reserve(capacity.items);
        live.orders.reserve(capacity.orders);
    }

    /// Memory that it will take when it grows. Whoever keeps some ready, on another thread,
    /// spares it the first touch of its pages, which costs more than the orders on them.
    pub fn spare_regions(&self) -> &SpareRegions {
        &self.spare
    }

    fn realm(&self, realm: Realm) -> Option<&RealmState> {
        self.realms[realm as usize].as_deref()
    }

    fn realm_mut(&mut self, realm: Realm) -> &mut RealmState {
        let (seat, seed, spare) = (self.seat, self.seed, &self.spare);
        self.realms[realm as usize]
            .get_or_insert_with(|| Box::new(RealmState::new(realm, seat, seed, spare)))
    }

    fn states(&self) -> impl Iterator<Item = &RealmState> {
        self.realms.iter().flatten().map(Box::as_ref)
    }

    /// Whether it can take more commands. The shell asks before it takes a batch.
    pub fn has_room(&self) -> bool {
        self.states().all(RealmState::has_room)
    }

    /// How far its tables have grown.
    pub fn grown(&self) -> Grown {
        self.states().map(RealmState::grown).sum()
    }

    /// The offset of the next record.
    pub fn next_offset(&self) -> Offset {
        self.next_offset
    }

    /// Executes commands until none is left or the frame is full, appends a record for each
    /// that is new, and a reply for each. `now` is the frame's time, and never goes back.
    ///
    /// An order that lacks units gets no record, and its reply is [`Outcome::Busy`]:
    /// [`Shard::signals`] says which ones those are, and [`Shard::execute`] tries them again. So
    /// does what is about rows that aren't in memory.
    ///
    /// An error means that the bytes are no commands; those before it were executed.
    pub fn apply(
        &mut self,
        now: Time,
        commands: &mut Records<'_>,
        frame: &mut FrameBuilder,
        replies: &mut Vec<Reply>,
    ) -> Result<(), RecordError> {
        // Commands are read once; with each, what follows it.
        let mut window = [None; PREFETCH_COMMANDS];
        loop {
            let (mut ahead, mut read, mut failed) = (*commands, 0, None);
            while read < PREFETCH_COMMANDS
                && let Some(command) = ahead.next()
            {
                let command = match command {
                    Ok(command) => command,
                    Err(error) => {
                        failed = Some(error);
                        break;
                    }
                };
                if let Err(error) = command.check_undecided() {
                    failed = Some(error);
                    break;
                }
                self.prefetch_slots(&command);
                window[read] = Some((command, ahead));
                read += 1;
            }
            for (command, _) in window[..read].iter().flatten() {
                self.prefetch_blocks(command);
            }
            for (command, _) in window[..read].iter().flatten() {
                self.prefetch_named(command);
            }
            for (command, after) in window[..read].iter().flatten() {
                if frame.is_full_for(RECORD_BYTES_MAX) {
                    return Ok(());
                }
                let reply = match self.execute(now, command, None, frame) {
                    Ok(reply) => reply,
                    Err(unready) => {
                        if let Unready::Lacks(shortage) = unready {
                            self.signals.waits.push((replies.len(), shortage));
                        }
                        Decision::of(Outcome::Busy).unlogged()
                    }
                };
                replies.push(reply);
                *commands = *after;
            }
            if let Some(error) = failed {
                return Err(error);
            }
            if read < PREFETCH_COMMANDS {
                return Ok(());
            }
        }
    }

    /// Executes one command, for which the frame has room: [`FrameBuilder::is_full_for`]
    /// [`RECORD_BYTES_MAX`] is false. What can't be decided gets no record.
    ///
    /// `turn` is for an order that has waited for this item, and is the first of those who wait.
    pub fn execute(
        &mut self,
        now: Time,
        command: &Record<'_>,
        turn: Option<ItemId>,
        frame: &mut FrameBuilder,
    ) -> Result<Reply, Unready> {
        let offset = self.next_offset;
        let records = frame.count();
        let realm = self.realm_mut(command.realm());
        realm.set_now(now);
        (realm.offset, realm.turn) = (offset, turn);
        let reply = realm.execute(command, frame);
        self.next_offset.0 += u64::from(frame.count() - records);
        if is_planted(Bug::DrillTimer) {
            self.free_in_trade(command);
        }
        reply
    }

    /// What a command is about, and isn't in memory: an order, and the id of a change. Each is to
    /// be looked for among the records before [`Shard::next_offset`], and what was found to be
    /// loaded right before the command.
    pub fn needs(&self, command: &Record<'_>) -> [Option<Need>; 2] {
        self.realm(command.realm()).map_or([None; 2], |state| state.needs(command))
    }

    /// The same of what a read asks for.
    pub fn need_of(&self, realm: Realm, query: &Query) -> Option<Need> {
        let Query::Order(buyer, order) = *query else { return None };
        self.realm(realm)?.need(RowKey::of_order(buyer, order))
    }

    /// Words of memory that the rows of a table take, from the oldest to the newest.
    pub fn span(&self, realm: Realm, table: RowTable) -> u64 {
        let span = self.realm(realm).map_or((0, 0), |state| state.span(table));
        span.1 - span.0
    }

    /// Rows that have left memory.
    pub fn evicted(&self) -> u64 {
        let rows = |state: &RealmState| state.evicted.iter().map(|table| table.rows).sum::<u64>();
        self.states().map(rows).sum()
    }

    /// Writes the command that has up to `most` of a table's oldest rows leave memory, to be
    /// executed next: orders that are over, and ids of changes, unless they carry a time after
    /// `cutoff`, in ms since 1970. `false` if there are no rows.
    pub fn write_evict(
        &self,
        realm: Realm,
        table: RowTable,
        most: u32,
        cutoff: u64,
        command: &mut CommandBuffer,
    ) -> bool {
        let state = self.realm(realm);
        state.is_some_and(|state| state.write_evict(table, most, cutoff, command))
    }

    /// A bug that can be planted.
    fn free_in_trade(&mut self, command: &Record<'_>) {
        let (Realm::Drill, Body::Timer(timer)) = (command.realm(), command.body) else { return };
        let query = Query::Order(command.party(), OrderId(timer.order.get()));
        let View::Order(order) = self.query_in(Realm::Drill, query) else { return };
        let live = self.realm_mut(Realm::Live);
        for line in order.lines.iter().filter(|line| line.kind == LineKind::Goods) {
            if let Some(pos) = live.inventory.find(line.item) {
                live.inventory.get_mut(pos).available += u64::from(line.quantity.0);
            }
        }
    }

    /// Whether there is anything to learn.
    pub fn has_signals(&self) -> bool {
        !self.signals.waits.is_empty() || self.states().any(|state| !state.signals.is_empty())
    }

    /// What was learned since this was asked last. Executing a log again, it is to be dropped.
    pub fn signals(&mut self) -> Signals {
        let mut signals = std::mem::take(&mut self.signals);
        for realm in self.realms.iter_mut().flatten() {
            signals.woken.append(&mut realm.signals.woken);
            signals.recalled.append(&mut realm.signals.recalled);
        }
        signals
    }

    /// Says whether orders wait for an item, so that others don't overtake them.
    pub fn set_queued(&mut self, realm: Realm, item: ItemId, queued: bool) {
        let state = self.realm_mut(realm);
        if let Some(pos) = state.inventory.find(item) {
            state.inventory.get_mut(pos).queued = u8::from(queued);
        }
    }

    /// Says whether an item's home was asked for units, so that the shell learns of the answer
    /// though nobody waits for it.
    pub fn set_asked(&mut self, realm: Realm, item: ItemId, asked: bool) {
        let state = self.realm_mut(realm);
        if let Some(pos) = state.inventory.find(item) {
            state.inventory.get_mut(pos).asked = u8::from(asked);
        }
    }

    /// What an order that wants `whole` units of an item would have to ask its home for: 0 where
    /// there are enough, or where asking can't help.
    pub fn lacking(&self, realm: Realm, item: ItemId, whole: u64) -> u64 {
        let Some(state) = self.realm(realm) else { return 0 };
        let Some(pos) = state.inventory.find(item) else { return 0 };
        let lacking = whole.saturating_sub(state.inventory.get(pos).available);
        let is_here = lacking == 0 || state.can_take_from_pool(pos, lacking);
        if is_here || state.is_sold_out(pos, whole) { 0 } else { lacking }
    }

    /// Whether it would refuse an order of `whole` units of an item, because fewer were unspent
    /// anywhere.
    pub fn is_sold_out(&self, realm: Realm, item: ItemId, whole: u64) -> bool {
        let Some(state) = self.realm(realm) else { return false };
        let is_short = |pos: &Pos| state.inventory.get(*pos).available < whole;
        let found = state.inventory.find(item).filter(is_short);
        found.is_some_and(|pos| state.is_sold_out(pos, whole))
    }

    /// Items whose recall waits for an answer: what a shell has to see to when it starts.
    pub fn recalled(&self) -> Vec<(Realm, ItemId)> {
        let open = |state: &RealmState| {
            let realm = state.realm;
            let recalled = state.inventory.iter().filter(|item| item.recalled != 0);
            recalled.map(move |item| (realm, ItemId(item.id))).collect::<Vec<_>>()
        };
        self.states().flat_map(open).collect()
    }

    /// The order or hold of a realm that is due first, if it is at `now`: the next
    /// [`Kind::Timer`].
    ///
    /// [`Kind::Timer`]: model::record::Kind::Timer
    pub fn due(&self, realm: Realm, now: Time) -> Option<(TimerKind, Party, u128, Time)> {
        self.realm(realm)?.due(now)
    }

    /// When the first timer of a realm is due.
    pub fn next_due(&self, realm: Realm) -> Option<Time> {
        self.realm(realm)?.timers.first().map(|(due, ..)| Time(*due))
    }

    /// Whether sellers' accounts of a realm have not been swept since the step of `now` began.
    pub fn wants_sweep(&self, realm: Realm, now: Time) -> bool {
        let Some(state) = self.realm(realm) else { return false };
        state.ledger.payables() > 0 && state.swept_step < state.step_of(now)
    }

    /// When [`Shard::wants_sweep`] is true next.
    pub fn next_sweep(&self, realm: Realm) -> Option<Time> {
        let state = self.realm(realm).filter(|state| state.ledger.payables() > 0)?;
        Some(state.end_of(state.swept_step))
    }

    /// Realms that have any state.
    pub fn realms(&self) -> impl Iterator<Item = Realm> + '_ {
        self.states().map(|state| state.realm)
    }

    /// Streams of which something changed since this was asked last.
    pub fn touched(&mut self) -> &mut Vec<(Realm, ShardId)> {
        for realm in self.realms.iter_mut().flatten() {
            self.touched.append(realm.streams.touched());
        }
        &mut self.touched
    }

    /// Where the streams to and from another shard stand.
    pub fn stream(&self, realm: Realm, peer: ShardId) -> StreamEnds {
        let none = StreamEnds { next_out: 1, acked: 1, next_in: 1, ..StreamEnds::default() };
        self.realm(realm).map_or(none, |state| state.streams.ends(peer))
    }

    /// A bug that can be planted: forgets the number of the last entry taken.
    pub fn forget_number(&mut self) {
        for realm in self.realms.iter_mut().flatten() {
            realm.streams.forget_number();
        }
    }

    /// Copies what is to be sent to `peer`: entries from number `from` on and before `to`, as
    /// many as fit in `room` bytes. Returns how many.
    pub fn copy_entries(
        &self,
        realm: Realm,
        peer: ShardId,
        (from, to): (u64, u64),
        room: usize,
        out: &mut Vec<u8>,
    ) -> u32 {
        self.realm(realm).map_or(0, |state| state.streams.copy(peer, from, to, room, out))
    }

    /// Hash over all entries sent to `peer` before `number`. `None` before what is
    /// acknowledged, and past what was sent.
    pub fn sent_hash(&self, realm: Realm, peer: ShardId, number: u64) -> Option<u64> {
        match self.realm(realm) {
            Some(state) => state.streams.hash_at(peer, number),
            None => (number == 1).then_some(0),
        }
    }

    /// Shows the entries for `peer` from number `from` on: what is under way.
    pub fn for_each_entry(
        &self,
        realm: Realm,
        peer: ShardId,
        from: u64,
        mut visit: impl FnMut(Entry<'_>),
    ) {
        let Some(state) = self.realm(realm) else { return };
        for (_, bytes) in state.streams.entries(peer, from) {
            let entries = model::record::entry::Entries::parse(bytes, 1);
            entries.expect("the shard wrote it").for_each(|(_, entry)| visit(entry));
        }
    }

    /// Whether nobody asks for units and no round is running: what must come about when
    /// everybody can be reached.
    pub fn is_settled(&self, realm: Realm) -> bool {
        self.realm(realm).is_none_or(|state| {
            state.contended.is_empty() && state.inventory.iter().all(|item| item.recalled == 0)
        })
    }

    /// Asks the processor to fetch the index slots that a command needs. Cold memory is most of
    /// what an order costs, so whoever executes many fetches for [`PREFETCH_COMMANDS`] of them
    /// first, and then what the slots name.
    pub fn prefetch_slots(&self, command: &Record<'_>) {
        let Some(state) = self.realm(command.realm()) else { return };
        match command.body {
            Body::Place { order, lines, .. } => {
                let Some(currency) = Currency::from_numeric(order.currency.get()) else { return };
                let buyer = command.party();
                state.orders.prefetch_slot(buyer, OrderId(command.header.id.get()));
                state.ledger.prefetch_slot((buyer, currency, AccountKind::Main));
                for line in lines.iter().take(PREFETCH_LINES) {
                    state.inventory.prefetch_slot(ItemId(line.item.get()));
                }
            }
            Body::Deliver { entries, .. } => {
                let items = entries.take(PREFETCH_ENTRIES).filter_map(|(_, entry)| entry.item());
                items.for_each(|item| state.inventory.prefetch_slot(item));
            }
            Body::CreateAccount(body) => {
                let Some(currency) = Currency::from_numeric(body.currency.get()) else { return };
                state.ledger.prefetch_slot((command.party(), currency, AccountKind::Main));
            }
            _ => {}
        }
    }

    /// Asks the processor to fetch the blocks that the slots of a command name.
    pub fn prefetch_blocks(&self, command: &Record<'_>) {
        let Some(state) = self.realm(command.realm()) else { return };
        match command.body {
            Body::Place { order, lines, .. } => {
                let Some(currency) = Currency::from_numeric(order.currency.get()) else { return };
                state.ledger.prefetch_account((command.party(), currency, AccountKind::Main));
                for line in lines.iter().take(PREFETCH_LINES) {
                    state.inventory.prefetch_item(ItemId(line.item.get()));
                }
            }
            Body::Deliver { entries, .. } => {
                let items = entries.take(PREFETCH_ENTRIES).filter_map(|(_, entry)| entry.item());
                items.for_each(|item| state.inventory.prefetch_item(item));
            }
            _ => {}
        }
    }

    /// Asks the processor to fetch what those blocks name: the accounts of sellers, and the pools
    /// of items.
    pub fn prefetch_named(&self, command: &Record<'_>) {
        let Some(state) = self.realm(command.realm()) else { return };
        match command.body {
            Body::Place { lines, .. } => {
                for line in lines.iter().take(PREFETCH_LINES) {
                    if let Some(seller) = state.inventory.guess_payable(ItemId(line.item.get())) {
                        state.ledger.prefetch_block(seller);
                    }
                }
            }
            Body::Deliver { entries, .. } => {
                let entries = entries.take(PREFETCH_ENTRIES).map(|(_, entry)| entry);
                for entry in entries.filter(Entry::is_for_home) {
                    entry.item().into_iter().for_each(|item| state.inventory.prefetch_home(item));
                }
            }
            _ => {}
        }
    }

    /// Reads. What it shows may not be durable yet: the shell releases it with the frame.
    pub fn query(&self, query: Query) -> View {
        self.query_in(Realm::Live, query)
    }

    /// Reads in a realm.
    pub fn query_in(&self, realm: Realm, query: Query) -> View {
        let Some(state) = self.realm(realm) else { return View::Missing };
        let found = match query {
            Query::Order(buyer, id) => state.orders.view(buyer, id).map(View::Order),
            Query::Account(party, currency, kind) => {
                state.ledger.view((party, currency, kind)).map(View::Account)
            }
            Query::Item(item) => state.inventory.view(item).map(View::Item),
            Query::Hold(party, id) => state.holds.view(party, id).map(View::Hold),
            Query::Coupon(buyer, number) => state.coupons.view(buyer, number).map(View::Coupon),
        };
        found.unwrap_or(View::Missing)
    }

    /// Reads a page of rows of a realm.
    pub fn list_in(&self, realm: Realm, list: &List) -> Listed {
        let state = self.realm(realm);
        match (list, state) {
            (List::Accounts(kind, behind, most), Some(state)) => {
                state.ledger.list(*kind, *behind, *most)
            }
            (List::Items(behind, most), Some(state)) => state.inventory.list(*behind, *most),
            (List::Named(items), Some(state)) => state.inventory.named(items),
            (List::Accounts(_, None, _), None) => Listed::Accounts(Vec::new(), None),
            (List::Items(None, _), None) => Listed::Items(Vec::new(), None),
            (List::Accounts(..) | List::Items(..), None) => Listed::NotThere,
            (List::Named(items), None) => Listed::Named(vec![None; items.len()]),
        }
    }

    /// Every item of a realm as it stands on this shard.
    pub fn items(&self, realm: Realm) -> impl Iterator<Item = ItemView> + '_ {
        self.realm(realm).into_iter().flat_map(|state| {
            let view = |id| state.inventory.view(ItemId(id)).expect("an item finds itself");
            state.inventory.iter().map(move |item| view(item.id))
        })
    }

    /// Orders of a realm of which units were refunded, and how many of each line.
    pub fn partly_refunded(
        &self,
        realm: Realm,
    ) -> impl Iterator<Item = (Party, OrderId, Vec<u64>)> + '_ {
        self.realm(realm).into_iter().flat_map(|state| state.orders.refunded())
    }

    /// The sums of all accounts of a realm by currency.
    pub fn balances(&self, realm: Realm) -> BTreeMap<&'static str, Balance> {
        let balances = self.realm(realm).map(|state| state.ledger.balances()).unwrap_or_default();
        let code = |(numeric, balance)| (checked(numeric).code(), balance);
        balances.into_iter().map(code).collect()
    }

    /// A hash of the whole state, the same whatever the order in which tables hold it.
    pub fn state_hash(&self) -> u64 {
        let parts = [Realm::Live, Realm::Drill].map(|realm| self.realm_hash(realm));
        xxh3_64(&parts.map(u64::to_le_bytes).concat())
    }

    /// A hash of all that there is of a realm; the other one doesn't enter into it.
    pub fn realm_hash(&self, realm: Realm) -> u64 {
        self.realm(realm).map_or(0, RealmState::state_hash)
    }

    /// Orders, accounts and items that it holds.
    pub fn held(&self) -> Capacity {
        self.states().fold(Capacity::default(), |held, state| Capacity {
            accounts: held.accounts + state.ledger.len(),
            items: held.items + state.inventory.len(),
            orders: held.orders + state.orders.len(),
        })
    }

    /// Begins a snapshot of the state as it is now. From here on a page of its tables is saved
    /// before it changes.
    pub fn begin_snapshot(&mut self) {
        self.stop_snapshot();
        let sink = Sink::new(&self.spare);
        let mut realms = [None, None];
        for state in self.realms.iter_mut().flatten() {
            realms[state.realm as usize] = Some(state.begin_saving(&sink));
        }
        let swept = [0, 1].map(|realm: usize| {
            (0, realms[realm].as_ref().map_or(0, |meta: &RealmMeta| meta.swept as usize))
        });
        let (shard, shards) = (self.seat.id.0, self.seat.shards);
        let seat = (shard, shards, self.seat.settle_step.as_secs());
        sink.put_meta(&Meta { seat, next_offset: self.next_offset.0, realms });
        self.saving = Some(Saving { sink, swept });
    }

    /// Saves up to so many KiB of the snapshot that is being taken. Says whether more may be left.
    pub fn save_some(&mut self, kib: usize) -> bool {
        let Some(saving) = &mut self.saving else { return false };
        let most = kib * 1024 / (PAGE_WORDS * 8);
        let mut saved = 0;
        for state in self.realms.iter_mut().flatten() {
            let (done, all) = &mut saving.swept[state.realm as usize];
            while saved < most && done < all {
                let swept = state.ledger.swept(*done, SWEPT_MOST.min(*all - *done));
                saving.sink.put_swept(state.realm as u8, *done, &swept);
                *done += swept.len();
                saved += swept.len().div_ceil(PAGE_WORDS);
            }
            saved += state.save_pages(most.saturating_sub(saved));
        }
        saved >= most
    }

    /// What was saved since this was asked last, in whole pieces; with `all`, also the one that
    /// isn't full.
    pub fn saved(&mut self, all: bool) -> Vec<Piece> {
        self.saving.as_ref().map_or(Vec::new(), |saving| saving.sink.take(all))
    }

    /// Ends the snapshot, whole or not.
    pub fn stop_snapshot(&mut self) {
        if self.saving.take().is_some() {
            self.realms.iter_mut().flatten().for_each(|state| state.stop_saving());
        }
    }

    /// Whether a snapshot is being taken.
    pub fn is_saving(&self) -> bool {
        self.saving.is_some()
    }

    /// Bytes of its state.
    pub fn bytes(&self) -> u64 {
        self.states().map(RealmState::bytes).sum()
    }
}

/// A shard that is being made of a snapshot.
pub struct Restoring {
    shard: Shard,
    parts: Parts,
    /// By realm: accounts that are swept, and money in transit.
    swept: [Vec<Pos>; 2],
    in_transit: [BTreeMap<u16, i128>; 2],
    began: bool,
}

impl Restoring {
    /// Of an empty shard, as [`Shard::new`] makes it.
    pub fn new(shard: Shard) -> Restoring {
        let (swept, in_transit) = Default::default();
        Restoring { shard, parts: Parts::default(), swept, in_transit, began: false }
    }

    /// Adds the next piece: [`Piece::bytes`], at an address that is a multiple of 8.
    pub fn add(&mut self, piece: &[u8]) -> Result<(), Malformed> {
        let Restoring { shard, parts, swept, in_transit, began } = self;
        parts.read(piece, |part| match part {
            Saved::Meta(meta) => {
                let seat = shard.seat;
                let here = (seat.id.0, seat.shards, seat.settle_step.as_secs());
                if meta.seat != here {
                    return Err(Malformed("of another shard, or of other settings"));
                }
                shard.next_offset = Offset(meta.next_offset);
                for (realm, meta) in [Realm::Live, Realm::Drill].into_iter().zip(meta.realms) {
                    let Some(mut meta) = meta else { continue };
                    in_transit[realm as usize] = std::mem::take(&mut meta.in_transit);
                    swept[realm as usize] = vec![Pos(0); meta.swept as usize];
                    shard.realm_mut(realm).begin_restoring(meta)?;
                }
                *began = true;
                Ok(())
            }
            Saved::Pages(arena, page, words) => {
                let state = shard.realms[arena / ARENAS].as_mut();
                let state = state.ok_or(Malformed("a page before its arena"))?;
                state.restore_pages(arena % ARENAS, page, words)
            }
            Saved::Swept(realm, first, accounts) => {
                let places = swept[realm].get_mut(first..first + accounts.len());
                let places = places.ok_or(Malformed("more accounts are swept than there are"))?;
                for (place, account) in places.iter_mut().zip(accounts) {
                    *place = Pos(*account as u32);
                }
                Ok(())
            }
        })
    }

    /// The shard, once all pieces were added.
    pub fn finish(mut self) -> Result<Shard, Malformed> {
        let is_listed = |pos: &Pos| pos.0 != 0;
        if !self.began || !self.swept.iter().flatten().all(is_listed) {
            return Err(Malformed("it ends early"));
        }
        let rest = self.swept.into_iter().zip(self.in_transit);
        for (state, (swept, in_transit)) in self.shard.realms.iter_mut().zip(rest) {
            if let Some(state) = state {
                state.end_restoring(swept, in_transit)?;
            }
        }
        Ok(self.shard)
    }
}

/// Commands whose memory is fetched together: enough for the fetches to overlap, and few enough
/// for what they bring to be there still when its command's turn comes.
pub const PREFETCH_COMMANDS: usize = 32;
/// Baskets beyond this are rare, and their lines would push each other out of the cache.
const PREFETCH_LINES: usize = 8;
/// So many entries of a message find what they need in the nearer caches.
const PREFETCH_ENTRIES: usize = 512;

/// A currency from a record: records are checked against ISO 4217 before they come here.
pub(crate) fn checked(numeric: u16) -> Currency {
    Currency::from_numeric(numeric).expect("the record was checked")
}
