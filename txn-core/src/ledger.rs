//! Accounts, and the only way money moves: a debit here, the same credit there.
//!
//! Money that leaves for another shard is credited to nobody here, and money that comes from one
//! debited to nobody: the sums of both are kept by currency ([`Balance::in_transit`]), and over
//! all shards they differ by what is under way.
//!
//! What a seller earns is pending for a while. Time is cut into steps; what was earned in this
//! step and in the one before is pending, and becomes available when both are over. So the timer
//! of each sale is a comparison when its account is next touched, and never a thing of its own.

use foldhash::fast::FixedState;
use model::reply::Listed;
use model::{AccountKind, AccountView, Amount, Currency, Offset, Party};
use std::collections::BTreeMap;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::arena::{Arena, Pos, SpareRegions};
use crate::index::Grown;
use crate::shard::{LIST_LOOKS, checked};
use crate::table::{Row, Table};

/// One account: a cache line.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Account {
    party: u64,
    currency: u16,
    kind: u8,
    /// [`OPENED`], [`CLOSED`], [`SWEPT`].
    flags: u8,
    /// Of a seller: the step in which it was touched last.
    step: u32,
    debits_posted: u64,
    credits_posted: u64,
    debits_held: u64,
    /// Of a seller: earned in `step`. Of an account that was opened: the hash of how, to tell a
    /// repeat from another request.
    earned: u64,
    /// Of a seller: earned in the step before. Of an account whose party disposes of it: offset
    /// of the newest record that moved its money.
    earned_before: u64,
    /// How far it may go below zero.
    overdraft: u64,
}

/// A command opened it; others come into being when they are first needed.
const OPENED: u8 = 1;
/// It takes and gives nothing any more.
const CLOSED: u8 = 2;
/// It is swept.
const SWEPT: u8 = 4;

const _: () = assert!(size_of::<Account>() == 64);

/// What an account is named by.
pub(crate) type AccountKey = (Party, Currency, AccountKind);

impl Row for Account {
    type Key = (u64, u64);

    fn key(&self) -> (u64, u64) {
        (self.party, u64::from(self.currency) << 8 | u64::from(self.kind))
    }
}

fn row_key((party, currency, kind): AccountKey) -> (u64, u64) {
    (party.0, u64::from(currency.numeric()) << 8 | kind as u64)
}

/// All accounts of a shard.
pub(crate) struct Ledger {
    accounts: Table<Account>,
    /// Accounts that are swept: what sellers have earned, and what coupons have cost. They stand
    /// in the order in which they were first used, for an account may come into being with an
    /// order that is not decided after all.
    payables: Vec<Pos>,
    /// By currency: what left for other shards, less what came from them.
    in_transit: BTreeMap<u16, i128>,
}

/// The sums over all accounts of a currency.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Balance {
    /// All that was taken from accounts, in minor units.
    pub debits: u128,
    /// All that was put into accounts.
    pub credits: u128,
    /// What left for other shards, less what came from them. Always debits less credits.
    pub in_transit: i128,
    /// Accounts that are further below zero than they may be.
    pub overdrawn: u64,
}

impl Balance {
    /// Whether no money came from nowhere or went there.
    pub fn is_balanced(&self) -> bool {
        self.debits as i128 - self.credits as i128 == self.in_transit
    }
}

impl Ledger {
    pub(crate) fn new(hasher: &FixedState, spare: &SpareRegions) -> Ledger {
        Ledger {
            accounts: Table::new(hasher, spare),
            payables: Vec::new(),
            in_transit: BTreeMap::new(),
        }
    }

    /// The accounts' memory, to save and to restore.
    pub(crate) fn rows(&mut self) -> &mut Arena {
        self.accounts.rows()
    }

    /// Some of the accounts that are swept, from the `first` on.
    pub(crate) fn swept(&self, first: usize, most: usize) -> Vec<u64> {
        self.payables[first..].iter().take(most).map(|pos| pos.0.into()).collect()
    }

    /// Money in transit by currency (ISO 4217 numeric).
    pub(crate) fn in_transit(&self) -> &BTreeMap<u16, i128> {
        &self.in_transit
    }

    /// Makes the index again, after all accounts were restored.
    pub(crate) fn rebuild(&mut self, swept: Vec<Pos>, in_transit: BTreeMap<u16, i128>) {
        self.accounts.rebuild();
        (self.payables, self.in_transit) = (swept, in_transit);
    }

    pub(crate) fn find(&self, key: AccountKey) -> Option<Pos> {
        self.accounts.find(row_key(key))
    }

    /// The account, made if it isn't there: for those that need no opening.
    pub(crate) fn find_or_make(&mut self, key: AccountKey) -> Pos {
        if let Some(pos) = self.find(key) {
            return pos;
        }
        let (party, currency, kind) = key;
        let account = Account {
            party: party.0,
            currency: currency.numeric(),
            kind: kind as u8,
            ..Account::default()
        };
        self.accounts.insert(account)
    }

    /// The account, unless it is closed, or came into being and was never used: that is no
    /// different from none.
    pub(crate) fn find_open(&self, key: AccountKey) -> Option<Pos> {
        self.find(key).filter(|pos| {
            let account = self.accounts.get(*pos);
            account.is_used() && account.flags & CLOSED == 0
        })
    }

    /// Has the account swept from now on.
    pub(crate) fn list_swept(&mut self, pos: Pos) {
        let account = self.accounts.get_mut(pos);
        if account.flags & SWEPT == 0 {
            account.flags |= SWEPT;
            self.payables.push(pos);
        }
    }

    pub(crate) fn is_closed(&self, pos: Pos) -> bool {
        self.accounts.get(pos).flags & CLOSED != 0
    }

    /// Whose account it is.
    pub(crate) fn party(&self, pos: Pos) -> Party {
        Party(self.accounts.get(pos).party)
    }

    /// By what command the account was opened, as a hash, if one did.
    pub(crate) fn opening(&self, pos: Pos) -> Option<u64> {
        let account = self.accounts.get(pos);
        (account.flags & OPENED != 0).then_some(account.earned)
    }

    /// Marks the account as opened by a command.
    pub(crate) fn set_opened(&mut self, pos: Pos, opening: u64) {
        let account = self.accounts.get_mut(pos);
        account.flags |= OPENED;
        account.earned = opening;
    }

    /// Says how far it may go below zero. `false`: it is further down already, and nothing
    /// changed.
    pub(crate) fn set_overdraft(&mut self, pos: Pos, overdraft: Amount) -> bool {
        let account = self.accounts.get_mut(pos);
        let before = std::mem::replace(&mut account.overdraft, overdraft.0);
        let fits = self.available(pos) >= 0;
        if !fits {
            self.accounts.get_mut(pos).overdraft = before;
        }
        fits
    }

    /// Closes an account that is empty. Says whether it was.
    pub(crate) fn close(&mut self, pos: Pos) -> bool {
        let account = self.accounts.get_mut(pos);
        let empty = account.debits_posted == account.credits_posted && account.debits_held == 0;
        if empty {
            account.flags |= CLOSED;
        }
        empty
    }

    /// Whether nothing is in the account.
    pub(crate) fn is_even(&self, pos: Pos) -> bool {
        let account = self.accounts.get(pos);
        account.debits_posted == account.credits_posted
    }

    /// Money that the account can still give: what is in it and not held, and what it may owe.
    pub(crate) fn available(&self, pos: Pos) -> i128 {
        let account = self.accounts.get(pos);
        i128::from(account.credits_posted) + i128::from(account.overdraft)
            - i128::from(account.debits_posted)
            - i128::from(account.debits_held)
    }

    /// Holds money. The caller has asked [`Ledger::available`]; more than 2⁶⁴ − 1 can't be held.
    pub(crate) fn hold(&mut self, pos: Pos, amount: u64) -> bool {
        let account = self.accounts.get_mut(pos);
        match account.debits_held.checked_add(amount) {
            Some(held) => account.debits_held = held,
            None => return false,
        }
        true
    }

    /// Holds so much less.
    pub(crate) fn release(&mut self, pos: Pos, amount: u64) {
        self.accounts.get_mut(pos).debits_held -= amount;
    }

    /// Links the record at `offset` to the account's statement, and returns the one before. Only
    /// accounts of which their parties dispose have statements.
    pub(crate) fn link(&mut self, pos: Pos, offset: Offset) -> u64 {
        let account = self.accounts.get_mut(pos);
        match account.is_own() {
            true => std::mem::replace(&mut account.earned_before, offset.0),
            false => 0,
        }
    }

    /// Whether the account's sums can take so much more.
    pub(crate) fn can_debit(&self, pos: Pos, amount: u64) -> bool {
        self.accounts.get(pos).debits_posted.checked_add(amount).is_some()
    }

    /// Whether the account's sums can take so much more.
    pub(crate) fn can_credit(&self, pos: Pos, amount: u64) -> bool {
        self.accounts.get(pos).credits_posted.checked_add(amount).is_some()
    }

    /// Moves money. The caller has asked `can_debit` and `can_credit`.
    pub(crate) fn post(&mut self, debit: Pos, credit: Pos, amount: u64) {
        self.debit(debit, amount);
        self.credit(credit, amount);
    }

    /// One half of a movement whose other halves follow.
    pub(crate) fn debit(&mut self, pos: Pos, amount: u64) {
        let account = self.accounts.get_mut(pos);
        account.debits_posted =
            account.debits_posted.checked_add(amount).expect("the caller asked can_debit");
    }

    /// One half of a movement whose other halves come before.
    pub(crate) fn credit(&mut self, pos: Pos, amount: u64) {
        let account = self.accounts.get_mut(pos);
        account.credits_posted =
            account.credits_posted.checked_add(amount).expect("the caller asked can_credit");
    }

    /// Credits a seller with a sale of this step.
    pub(crate) fn earn(&mut self, pos: Pos, amount: u64, step: u32) {
        let account = self.accounts.get_mut(pos);
        let credits = account.credits_posted.checked_add(amount);
        account.credits_posted = credits.expect("the caller asked can_credit");
        account.turn(step);
        account.earned += amount; // Never more than was credited.
        if account.flags & SWEPT == 0 {
            self.list_swept(pos);
        }
    }

    /// Makes a seller's money of a sale in step `sold` available at once.
    pub(crate) fn ripen(&mut self, pos: Pos, amount: u64, sold: u32, step: u32) {
        let account = self.accounts.get_mut(pos);
        account.turn(step);
        account.drop_pending(amount, sold);
    }

    /// Debits a seller with a refund of a sale that was made in step `sold`.
    pub(crate) fn give_back(&mut self, pos: Pos, amount: u64, sold: u32, step: u32) {
        self.debit(pos, amount);
        let account = self.accounts.get_mut(pos);
        account.turn(step);
        account.drop_pending(amount, sold);
    }

    /// Takes what is available out of the `number`-th account of those that are swept, or settles
    /// what it owes: its name and the signed amount; `None` if there is nothing to do.
    pub(crate) fn sweep(&mut self, number: usize, step: u32) -> Option<(AccountKey, i128)> {
        let account = self.accounts.get_mut(self.payables[number]);
        account.turn(step);
        let pending = i128::from(account.earned) + i128::from(account.earned_before);
        let amount =
            i128::from(account.credits_posted) - i128::from(account.debits_posted) - pending;
        let side =
            if amount > 0 { &mut account.debits_posted } else { &mut account.credits_posted };
        // A sum that is full stays as it is, until somebody has fewer than 2⁶⁴ pence.
        *side = side.checked_add(u64::try_from(amount.unsigned_abs()).ok()?)?;
        let currency = Currency::from_numeric(account.currency).expect("it was opened with one");
        let kind = AccountKind::from_byte(account.kind).expect("the core wrote it");
        (amount != 0).then_some(((Party(account.party), currency, kind), amount))
    }

    /// How many accounts are swept.
    pub(crate) fn payables(&self) -> usize {
        self.payables.len()
    }

    /// Counts money that left for another shard, or, if negative, came from one.
    pub(crate) fn send(&mut self, currency: Currency, amount: i128) {
        *self.in_transit.entry(currency.numeric()).or_default() += amount;
    }

    pub(crate) fn view(&self, key: AccountKey) -> Option<AccountView> {
        Some(self.accounts.get(self.find(key)?).view())
    }

    /// Accounts of a kind, behind one. What came into being in passing isn't there.
    pub(crate) fn list(
        &self,
        kind: AccountKind,
        behind: Option<AccountKey>,
        most: usize,
    ) -> Listed {
        let behind = match behind.map(|key| self.find(key)) {
            Some(None) => return Listed::NotThere,
            found => found.flatten(),
        };
        let mut found = Vec::new();
        let (mut last, mut last_used, mut last_firm) = (behind, None, None);
        for (pos, account) in self.accounts.iter_behind(behind).take(LIST_LOOKS) {
            last = Some(pos);
            if !account.is_used() {
                continue;
            }
            last_used = last;
            if account.kind == kind as u8 {
                found.push(account.view());
                last_firm = last;
            } else if account.flags & OPENED != 0 {
                last_firm = last;
            }
            if found.len() == most {
                break;
            }
        }
        let has_more = self.accounts.iter_behind(last).next().is_some();
        // One that came into being in passing may be gone after a restart, or stand elsewhere.
        let next = last_firm.or(last_used).or(last).filter(|_| has_more);
        Listed::Accounts(found, next.map(|pos| self.accounts.get(pos).view().name()))
    }

    /// The sums by currency (ISO 4217 numeric).
    pub(crate) fn balances(&self) -> BTreeMap<u16, Balance> {
        let mut balances = BTreeMap::<u16, Balance>::new();
        for (&currency, &in_transit) in &self.in_transit {
            balances.insert(currency, Balance { in_transit, ..Balance::default() });
        }
        for account in self.accounts.iter().filter(|account| account.is_used()) {
            let balance = balances.entry(account.currency).or_default();
            balance.debits += u128::from(account.debits_posted);
            balance.credits += u128::from(account.credits_posted);
            let is_main = account.kind == AccountKind::Main as u8;
            balance.overdrawn += u64::from(is_main && account.is_overdrawn());
        }
        balances
    }

    pub(crate) fn state_hash(&self) -> u64 {
        let accounts = self.accounts.state_hash(|account| {
            // Offsets count all records of the log; the state is without them.
            let earned_before = if account.is_own() { 0 } else { account.earned_before };
            account.is_used().then_some(Account { earned_before, ..*account })
        });
        self.in_transit.iter().fold(accounts, |sum, (currency, amount)| {
            let bytes = [&currency.to_le_bytes()[..], &amount.to_le_bytes()[..]].concat();
            sum.wrapping_add(xxhash_rust::xxh3::xxh3_64(&bytes))
        })
    }

    /// How far its tables have grown.
    pub(crate) fn grown(&self) -> Grown {
        self.accounts.grown()
    }

    pub(crate) fn has_room(&self) -> bool {
        self.accounts.has_room()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.accounts.bytes()
    }

    pub(crate) fn len(&self) -> u64 {
        self.accounts.len()
    }

    pub(crate) fn reserve(&mut self, accounts: u64) {
        self.accounts.reserve(accounts);
    }

    pub(crate) fn prefetch_slot(&self, key: AccountKey) {
        self.accounts.prefetch_slot(row_key(key));
    }

    pub(crate) fn prefetch_account(&self, key: AccountKey) {
        if let Some(pos) = self.accounts.guess(row_key(key)) {
            self.prefetch_block(pos);
        }
    }

    pub(crate) fn prefetch_block(&self, pos: Pos) {
        self.accounts.prefetch(pos);
    }
}

impl Account {
    fn view(&self) -> AccountView {
        AccountView {
            party: Party(self.party),
            currency: checked(self.currency),
            kind: AccountKind::from_byte(self.kind).expect("the core wrote it"),
            debits_posted: Amount(self.debits_posted),
            credits_posted: Amount(self.credits_posted),
            held: Amount(self.debits_held),
            overdraft: Amount(self.overdraft),
            closed: self.flags & CLOSED != 0,
            statement: Offset(if self.is_own() { self.earned_before } else { 0 }),
        }
    }

    /// An account that came into being and holds nothing yet is no different from none.
    fn is_used(&self) -> bool {
        self.flags != 0 || self.debits_posted != 0 || self.credits_posted != 0
    }

    /// Whether it is further below zero than it may be.
    fn is_overdrawn(&self) -> bool {
        let lowest = u128::from(self.credits_posted) + u128::from(self.overdraft);
        u128::from(self.debits_posted) > lowest
    }

    /// Whether its party disposes of it.
    fn is_own(&self) -> bool {
        AccountKind::from_byte(self.kind).is_some_and(AccountKind::is_own)
    }

    /// So much of what was earned in step `sold` is pending no longer.
    fn drop_pending(&mut self, amount: u64, sold: u32) {
        if sold == self.step {
            self.earned -= amount;
        } else if sold.wrapping_add(1) == self.step {
            self.earned_before -= amount;
        }
    }

    /// Goes on to `step`: what was earned two steps ago and before is pending no longer.
    fn turn(&mut self, step: u32) {
        if self.step != step {
            self.earned_before = if self.step.wrapping_add(1) == step { self.earned } else { 0 };
            self.earned = 0;
            self.step = step;
        }
    }
}
