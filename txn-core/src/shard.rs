//! The shard: one command after the other, each to its outcome.
//!
//! For every command the same three steps. Is its id known? Then the first outcome stands, or
//! the id was reused. Otherwise decide, without changing anything before the decision is sure.
//! Then remember the id, and log the record with its outcome.

use std::collections::BTreeMap;

use foldhash::fast::FixedState;
use model::frame::FrameBuilder;
use model::record::{
    self, Body, CreateAccountBody, CreateItemBody, Kind, RECORD_BYTES_MAX, Record, RecordError,
    Records, RestockBody, TransferBody,
};
use model::reply::{Query, View};
use model::{
    AccountKind, Amount, Currency, ItemId, ItemView, Offset, OrderId, OrderState, Outcome, Party,
    Reply,
};
use xxhash_rust::xxh3::xxh3_64;

use crate::arena::SpareRegions;
use crate::changes::{Change, ChangeScope, Changes};
use crate::index::Grown;
use crate::inventory::Inventory;
use crate::ledger::{Balance, Ledger};
use crate::orders::Orders;
use crate::place::Resolved;

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
    pub(crate) ledger: Ledger,
    pub(crate) inventory: Inventory,
    pub(crate) orders: Orders,
    pub(crate) changes: Changes,
    next_offset: Offset,
    spare: SpareRegions,
    pub(crate) resolved: Vec<Resolved>,
}

/// What a decision comes to, before it is logged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decision {
    pub outcome: Outcome,
    pub state: Option<OrderState>,
    pub line: Option<u16>,
    pub amount: u64,
    /// The record before it for the same order.
    pub previous: u64,
}

impl Decision {
    pub(crate) fn of(outcome: Outcome) -> Decision {
        Decision { outcome, state: None, line: None, amount: 0, previous: 0 }
    }

    pub(crate) fn ok(amount: u64) -> Decision {
        Decision { amount, ..Decision::of(Outcome::Ok) }
    }

    /// The reply of a command that leaves no record.
    pub(crate) fn unlogged(self) -> Reply {
        self.reply(None)
    }

    pub(crate) fn reply(self, offset: Option<Offset>) -> Reply {
        Reply {
            outcome: self.outcome,
            state: self.state,
            line: self.line,
            amount: Amount(self.amount),
            offset,
        }
    }
}

impl Shard {
    /// An empty shard. `seed` keeps callers from choosing ids that collide in its tables; it
    /// changes no outcome.
    pub fn new(seed: u64) -> Shard {
        let hasher = FixedState::with_seed(seed);
        let spare = SpareRegions::default();
        Shard {
            ledger: Ledger::new(hasher.clone(), &spare),
            inventory: Inventory::new(hasher.clone(), &spare),
            orders: Orders::new(hasher.clone(), &spare),
            changes: Changes::new(hasher, &spare),
            next_offset: Offset(1),
            spare,
            resolved: Vec::new(),
        }
    }

    /// Makes room ahead, so that no table splits before it holds so much.
    pub fn reserve(&mut self, capacity: Capacity) {
        self.ledger.reserve(capacity.accounts);
        self.inventory.reserve(capacity.items);
        self.orders.reserve(capacity.orders);
    }

    /// Memory that it will take when it grows. Whoever keeps some ready, on another thread,
    /// spares it the first touch of its pages, which costs more than the orders on them.
    pub fn spare_regions(&self) -> &SpareRegions {
        &self.spare
    }

    /// Whether it can take more commands. The shell asks before it takes a batch.
    pub fn has_room(&self) -> bool {
        self.ledger.has_room()
            && self.inventory.has_room()
            && self.orders.has_room()
            && self.changes.has_room()
    }

    /// How far its tables have grown.
    pub fn grown(&self) -> Grown {
        let tables = [
            self.ledger.grown(),
            self.inventory.grown(),
            self.orders.grown(),
            self.changes.grown(),
        ];
        tables.into_iter().sum()
    }

    /// The offset of the next record.
    pub fn next_offset(&self) -> Offset {
        self.next_offset
    }

    /// Executes commands until none is left or the frame is full, appends a record for each
    /// that is new, and a reply for each.
    ///
    /// An error means that the bytes are no commands; those before it were executed.
    pub fn apply(
        &mut self,
        commands: &mut Records<'_>,
        frame: &mut FrameBuilder,
        replies: &mut Vec<Reply>,
    ) -> Result<(), RecordError> {
        loop {
            self.prefetch(*commands);
            for _ in 0..PREFETCH_COMMANDS {
                if frame.is_full_for(RECORD_BYTES_MAX) {
                    return Ok(());
                }
                let Some(command) = commands.next() else { return Ok(()) };
                let command = command?;
                command.check_undecided()?;
                replies.push(self.execute(&command, frame));
            }
        }
    }

    /// Asks the processor to fetch what the next commands will need, in two rounds: the index
    /// slots of all, then the blocks that they name. Cold memory is most of what an order costs.
    fn prefetch(&self, commands: Records<'_>) {
        for command in commands.take(PREFETCH_COMMANDS).flatten() {
            let Body::Place { order, lines, .. } = command.body else { continue };
            let Some(currency) = Currency::from_numeric(order.currency.get()) else { continue };
            let buyer = command.party();
            self.orders.prefetch_slot(buyer, OrderId(command.header.id.get()));
            self.ledger.prefetch_slot((buyer, currency, AccountKind::Main));
            for line in lines.iter().take(PREFETCH_LINES) {
                self.inventory.prefetch_slot(ItemId(line.item.get()));
            }
        }
        for command in commands.take(PREFETCH_COMMANDS).flatten() {
            let Body::Place { order, lines, .. } = command.body else { continue };
            let Some(currency) = Currency::from_numeric(order.currency.get()) else { continue };
            self.ledger.prefetch_account((command.party(), currency, AccountKind::Main));
            for line in lines.iter().take(PREFETCH_LINES) {
                self.inventory.prefetch_item(ItemId(line.item.get()));
            }
        }
    }

    fn execute(&mut self, command: &Record<'_>, frame: &mut FrameBuilder) -> Reply {
        let digest = xxh3_64(command.bytes);
        match command.body {
            Body::CreateAccount(body) => {
                let decision = self.create_account(command.party(), body);
                self.log(command, decision, frame)
            }
            Body::CreateItem(body) => {
                let decision = self.create_item(ItemId(command.header.scope.get()), body);
                self.log(command, decision, frame)
            }
            Body::Place { order, leg, lines } => {
                self.place(command, digest, order, leg, lines, frame)
            }
            Body::Transfer(body) => {
                self.change(command, Kind::Transfer, 0, digest, frame, |shard, command| {
                    shard.transfer(command.party(), body)
                })
            }
            Body::Restock(body) => {
                self.change(command, Kind::Restock, 0, digest, frame, |shard, command| {
                    shard.restock(ItemId(command.header.scope.get()), body)
                })
            }
            Body::Pay(body) => self.change(
                command,
                Kind::Pay,
                body.order.get(),
                digest,
                frame,
                |shard, command| shard.pay(command.party(), body),
            ),
            Body::Cancel(body) => {
                let order = body.order.get();
                self.change(command, Kind::Cancel, order, digest, frame, |shard, command| {
                    shard.cancel(command.party(), OrderId(order))
                })
            }
            Body::Refund { refund, lines } => {
                let order = refund.order.get();
                self.change(command, Kind::Refund, order, digest, frame, |shard, command| {
                    shard.refund(command.party(), refund, lines)
                })
            }
        }
    }

    /// A change with an id of its own: decided once, remembered, logged.
    fn change(
        &mut self,
        command: &Record<'_>,
        kind: Kind,
        order: u128,
        digest: u64,
        frame: &mut FrameBuilder,
        decide: impl FnOnce(&mut Shard, &Record<'_>) -> Decision,
    ) -> Reply {
        let scope = ChangeScope::new(kind, command.header.scope.get(), order);
        let id = command.header.id.get();
        if let Some(change) = self.changes.find(scope, id) {
            return repeat_of(change, digest);
        }
        let decision = decide(self, command);
        if !decision.outcome.is_logged() {
            return decision.unlogged();
        }
        let change = Change {
            digest,
            amount: decision.amount,
            offset: self.next_offset.0,
            outcome: decision.outcome as u8,
            state: decision.state.map_or(0, |state| state as u8),
            refused_line: decision.line.map_or(0, |line| line + 1),
            ..Change::default()
        };
        self.changes.insert(scope, id, change);
        if let Some(pos) = command.order().and_then(|id| self.orders.find(command.party(), id)) {
            self.orders.head_mut(pos).last = self.next_offset.0;
        }
        self.log(command, decision, frame)
    }

    /// Appends the record of a decision, unless it isn't one to be logged.
    pub(crate) fn log(
        &mut self,
        command: &Record<'_>,
        decision: Decision,
        frame: &mut FrameBuilder,
    ) -> Reply {
        if !decision.outcome.is_logged() {
            return decision.unlogged();
        }
        let bytes = frame.push(command.bytes);
        let state = decision.state.map_or(0, |state| state as u8);
        record::set_outcome(bytes, decision.outcome, state, decision.previous, decision.amount);
        if let (Body::Refund { .. }, Some(line)) = (command.body, decision.line) {
            record::refund_mut(bytes).refused_line = (line + 1).into();
        }
        decision.reply(Some(self.take_offset()))
    }

    pub(crate) fn take_offset(&mut self) -> Offset {
        let offset = self.next_offset;
        self.next_offset.0 += 1;
        offset
    }

    fn create_account(&mut self, party: Party, body: &CreateAccountBody) -> Decision {
        let currency = checked(body.currency.get());
        let balance = body.balance.get();
        let key = (party, currency, AccountKind::Main);
        let found = self.ledger.find(key);
        if let Some(opening) = found.and_then(|pos| self.ledger.opening(pos)) {
            let same = opening == Amount(balance);
            return match same {
                true => Decision { amount: balance, ..Decision::of(Outcome::AlreadyDone) },
                false => Decision::of(Outcome::IdReused),
            };
        }
        let clearing = self.ledger.find_or_make((Party(0), currency, AccountKind::Clearing));
        if !self.ledger.can_debit(clearing, balance) {
            return Decision::of(Outcome::Invalid);
        }
        let account = self.ledger.find_or_make(key);
        self.ledger.set_opened(account, Amount(balance));
        self.ledger.post(clearing, account, balance);
        Decision::ok(balance)
    }

    fn create_item(&mut self, item: ItemId, body: &CreateItemBody) -> Decision {
        let (seller, price, stock) = (body.seller.get(), body.price.get(), body.stock.get());
        let currency = checked(body.currency.get());
        if let Some(pos) = self.inventory.find(item) {
            let found = self.inventory.get(pos);
            let same = found.seller == seller
                && found.price == price
                && found.first_stock == stock
                && found.currency == currency.numeric();
            return Decision::of(if same { Outcome::AlreadyDone } else { Outcome::IdReused });
        }
        self.inventory.create(
            &mut self.ledger,
            item,
            Party(seller),
            Amount(price),
            currency,
            stock,
        );
        Decision::ok(0)
    }

    fn restock(&mut self, item: ItemId, body: &RestockBody) -> Decision {
        let Some(pos) = self.inventory.find(item) else {
            return Decision::of(Outcome::UnknownItem);
        };
        let item = self.inventory.get_mut(pos);
        let Some(stocked) = item.stocked.checked_add(body.quantity.get()) else {
            return Decision::of(Outcome::Invalid);
        };
        item.stocked = stocked;
        item.available += body.quantity.get();
        Decision::ok(0)
    }

    fn transfer(&mut self, debited: Party, body: &TransferBody) -> Decision {
        let currency = checked(body.currency.get());
        let amount = body.moved.get();
        let kind = |byte| AccountKind::from_byte(byte).expect("the record was checked");
        let credited = Party(body.credit_party.get());
        let debit = self.account(debited, currency, kind(body.debit_kind));
        let credit = self.account(credited, currency, kind(body.credit_kind));
        let (Some(debit), Some(credit)) = (debit, credit) else {
            return Decision::of(Outcome::UnknownAccount);
        };
        // Only what enters from outside may be owed: a seller can't pay out what isn't there.
        let may_go_negative = kind(body.debit_kind) == AccountKind::Clearing;
        if !may_go_negative && self.ledger.available(debit) < i128::from(amount) {
            return Decision::of(Outcome::InsufficientFunds);
        }
        if !self.ledger.can_debit(debit, amount) || !self.ledger.can_credit(credit, amount) {
            return Decision::of(Outcome::Invalid);
        }
        self.ledger.post(debit, credit, amount);
        Decision::ok(amount)
    }

    /// An account that a command names. The clearing account is always there.
    fn account(
        &mut self,
        party: Party,
        currency: Currency,
        kind: AccountKind,
    ) -> Option<crate::arena::Pos> {
        match kind {
            AccountKind::Clearing => Some(self.clearing(currency)),
            _ => self.ledger.find((party, currency, kind)),
        }
    }

    pub(crate) fn clearing(&mut self, currency: Currency) -> crate::arena::Pos {
        self.ledger.find_or_make((Party(0), currency, AccountKind::Clearing))
    }

    /// Reads. What it shows may not be durable yet: the shell releases it with the frame.
    pub fn query(&self, query: Query) -> View {
        let found = match query {
            Query::Order(buyer, id) => self.orders.view(buyer, id).map(View::Order),
            Query::Account(party, currency, kind) => {
                self.ledger.view((party, currency, kind)).map(View::Account)
            }
            Query::Item(item) => self.inventory.view(item).map(View::Item),
        };
        found.unwrap_or(View::Missing)
    }

    /// Every item as it stands, and whether its units add up.
    pub fn items(&self) -> impl Iterator<Item = (ItemView, bool)> + '_ {
        self.inventory.iter().map(|item| {
            let view = self.inventory.view(ItemId(item.id)).expect("an item finds itself");
            (view, item.is_balanced())
        })
    }

    /// The sums of all accounts by currency.
    pub fn balances(&self) -> BTreeMap<&'static str, Balance> {
        let balances = self.ledger.balances().into_iter();
        balances.map(|(numeric, balance)| (checked(numeric).code(), balance)).collect()
    }

    /// A hash of the whole state, the same whatever the order in which tables hold it.
    pub fn state_hash(&self) -> u64 {
        let parts = [
            self.ledger.state_hash(),
            self.inventory.state_hash(),
            self.orders.state_hash(),
            self.changes.state_hash(),
        ];
        xxh3_64(&parts.map(u64::to_le_bytes).concat())
    }

    /// Orders, accounts and items that it holds.
    pub fn held(&self) -> Capacity {
        Capacity {
            accounts: self.ledger.len(),
            items: self.inventory.len(),
            orders: self.orders.len(),
        }
    }

    /// Bytes of its state.
    pub fn bytes(&self) -> u64 {
        self.ledger.bytes() + self.inventory.bytes() + self.orders.bytes() + self.changes.bytes()
    }
}

/// Commands whose memory is fetched together: enough for the fetches to overlap, and few enough
/// for what they bring to be there still when its command's turn comes.
const PREFETCH_COMMANDS: usize = 32;
/// Baskets beyond this are rare, and their lines would push each other out of the cache.
const PREFETCH_LINES: usize = 8;

/// A currency from a record: records are checked against ISO 4217 before they come here.
pub(crate) fn checked(numeric: u16) -> Currency {
    Currency::from_numeric(numeric).expect("the record was checked")
}

fn repeat_of(change: &Change, digest: u64) -> Reply {
    if change.digest != digest {
        return Decision::of(Outcome::IdReused).unlogged();
    }
    let first = Outcome::from_byte(change.outcome).expect("the core wrote it");
    Reply {
        outcome: if first == Outcome::Ok { Outcome::AlreadyDone } else { first },
        state: OrderState::from_byte(change.state),
        line: change.refused_line.checked_sub(1),
        amount: Amount(change.amount),
        offset: Some(Offset(change.offset)),
    }
}
