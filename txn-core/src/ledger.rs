//! Accounts, and the only way money moves: a debit here, the same credit there.

use foldhash::fast::FixedState;
use model::{AccountKind, AccountView, Amount, Currency, Party};
use std::collections::BTreeMap;
use std::hash::BuildHasher;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::arena::{Arena, Pos, SpareRegions};
use crate::index::{Grown, Hash32, Index, prefetch};

/// One account: a cache line.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Account {
    party: u64,
    currency: u16,
    kind: u8,
    /// 1 once it was opened by a command; others come into being when they are first needed.
    opened: u8,
    reserved: u32,
    debits_posted: u64,
    credits_posted: u64,
    debits_held: u64,
    credits_held: u64,
    /// What it was opened with, to tell a repeat from another request.
    opening: u64,
    reserved_end: u64,
}

const _: () = assert!(size_of::<Account>() == 64);

/// What an account is named by.
pub(crate) type AccountKey = (Party, Currency, AccountKind);

/// All accounts of a shard.
pub(crate) struct Ledger {
    accounts: Arena,
    index: Index,
    hasher: FixedState,
}

/// The sums over all accounts of a currency.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Balance {
    /// All that was taken from accounts, in minor units.
    pub debits: u128,
    /// All that was put into accounts. Always the same.
    pub credits: u128,
    /// Accounts that are negative and may not be.
    pub overdrawn: u64,
}

impl Ledger {
    pub(crate) fn new(hasher: FixedState, spare: &SpareRegions) -> Ledger {
        Ledger { accounts: Arena::new(spare), index: Index::new(spare), hasher }
    }

    pub(crate) fn hash(&self, (party, currency, kind): AccountKey) -> Hash32 {
        let small = u64::from(currency.numeric()) << 8 | kind as u64;
        self.hasher.hash_one((party.0, small)).into()
    }

    pub(crate) fn find(&self, key: AccountKey) -> Option<Pos> {
        let (party, currency, kind) = key;
        self.index.find(self.hash(key), |pos| {
            let account: &Account = self.accounts.get(pos);
            account.party == party.0
                && account.currency == currency.numeric()
                && account.kind == kind as u8
        })
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
        let pos = self.accounts.push(account);
        self.index.insert(self.hash(key), pos);
        pos
    }

    /// What the account was opened with, if a command opened it.
    pub(crate) fn opening(&self, pos: Pos) -> Option<Amount> {
        let account: &Account = self.accounts.get(pos);
        (account.opened != 0).then_some(Amount(account.opening))
    }

    /// Marks the account as opened by a command.
    pub(crate) fn set_opened(&mut self, pos: Pos, opening: Amount) {
        let account: &mut Account = self.accounts.get_mut(pos);
        account.opened = 1;
        account.opening = opening.0;
    }

    /// Money that the account can still give: what is in it and not held.
    pub(crate) fn available(&self, pos: Pos) -> i128 {
        let account: &Account = self.accounts.get(pos);
        i128::from(account.credits_posted)
            - i128::from(account.debits_posted)
            - i128::from(account.debits_held)
    }

    /// Whether the account's sums can take so much more.
    pub(crate) fn can_debit(&self, pos: Pos, amount: u64) -> bool {
        self.accounts.get::<Account>(pos).debits_posted.checked_add(amount).is_some()
    }

    /// Whether the account's sums can take so much more.
    pub(crate) fn can_credit(&self, pos: Pos, amount: u64) -> bool {
        self.accounts.get::<Account>(pos).credits_posted.checked_add(amount).is_some()
    }

    /// Moves money. The caller has asked `can_debit` and `can_credit`.
    pub(crate) fn post(&mut self, debit: Pos, credit: Pos, amount: u64) {
        self.debit(debit, amount);
        self.credit(credit, amount);
    }

    /// One half of a movement whose other halves follow.
    pub(crate) fn debit(&mut self, pos: Pos, amount: u64) {
        let account: &mut Account = self.accounts.get_mut(pos);
        account.debits_posted =
            account.debits_posted.checked_add(amount).expect("the caller asked can_debit");
    }

    /// One half of a movement whose other halves come before.
    pub(crate) fn credit(&mut self, pos: Pos, amount: u64) {
        let account: &mut Account = self.accounts.get_mut(pos);
        account.credits_posted =
            account.credits_posted.checked_add(amount).expect("the caller asked can_credit");
    }

    pub(crate) fn view(&self, (party, currency, kind): AccountKey) -> Option<AccountView> {
        let account: &Account = self.accounts.get(self.find((party, currency, kind))?);
        Some(AccountView {
            party,
            currency,
            kind,
            debits_posted: Amount(account.debits_posted),
            credits_posted: Amount(account.credits_posted),
        })
    }

    /// The sums by currency (ISO 4217 numeric).
    pub(crate) fn balances(&self) -> BTreeMap<u16, Balance> {
        let mut balances = BTreeMap::<u16, Balance>::new();
        for account in self.accounts.iter::<Account>() {
            let balance = balances.entry(account.currency).or_default();
            balance.debits += u128::from(account.debits_posted);
            balance.credits += u128::from(account.credits_posted);
            let negative = account.debits_posted > account.credits_posted;
            balance.overdrawn += u64::from(negative && account.kind == AccountKind::Main as u8);
        }
        balances
    }

    pub(crate) fn state_hash(&self) -> u64 {
        // An account that came into being and holds nothing yet is no different from none.
        let used = |account: &&Account| {
            account.opened != 0 || account.debits_posted != 0 || account.credits_posted != 0
        };
        self.accounts.iter::<Account>().filter(used).fold(0, |sum, account| {
            sum.wrapping_add(xxhash_rust::xxh3::xxh3_64(account.as_bytes()))
        })
    }

    /// How far its tables have grown.
    pub(crate) fn grown(&self) -> Grown {
        self.index.grown().with(&self.accounts)
    }

    pub(crate) fn has_room(&self) -> bool {
        self.accounts.has_room()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.accounts.bytes() + self.index.bytes()
    }

    pub(crate) fn len(&self) -> u64 {
        self.index.len()
    }

    pub(crate) fn reserve(&mut self, accounts: u64) {
        self.index.reserve(accounts);
    }

    pub(crate) fn prefetch_slot(&self, key: AccountKey) {
        self.index.prefetch(self.hash(key));
    }

    pub(crate) fn prefetch_account(&self, key: AccountKey) {
        if let Some(pos) = self.index.guess(self.hash(key)) {
            prefetch(&self.accounts.words(pos)[0]);
        }
    }
}
