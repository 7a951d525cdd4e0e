//! Money between accounts, and between shards.
//!
//! Money that leaves for another shard rides on the stream. A transfer that can't be taken there
//! comes back. What is swept to a seller's home never does: where it can't be booked as it
//! should, it is booked to suspense.

use model::frame::FrameBuilder;
use model::planted::{Bug, is_planted};
use model::record::entry::Entries;
use model::record::entry::{Entry, Moved, set_entry_outcome};
use model::record::{
    ACCOUNT_OVERDRAFT, CreateAccountBody, DeliverBody, Record, SweepBody, TransferBody,
    UpdateAccountBody, deliver_mut, set_outcome, set_statements, sweep_mut,
};
use model::{AccountKind, Amount, Currency, Outcome, Party, Reply, ShardId, ids};

use crate::arena::Pos;
use crate::ledger::AccountKey;
use crate::realm::{Decision, RealmState};
use crate::shard::checked;
use crate::streams::NotTaken;

impl RealmState {
    pub(crate) fn create_account(
        &mut self,
        party: Party,
        body: &CreateAccountBody,
        digest: u64,
    ) -> Decision {
        let currency = checked(body.currency.get());
        let balance = body.balance.get();
        let key = (party, currency, AccountKind::Main);
        if let Some(pos) = self.ledger.find(key)
            && let Some(opening) = self.ledger.opening(pos)
        {
            return match (opening == digest, self.ledger.is_closed(pos)) {
                (false, _) => Decision::of(Outcome::IdReused),
                (true, true) => Decision::of(Outcome::WrongState),
                (true, false) => Decision { amount: balance, ..Decision::of(Outcome::AlreadyDone) },
            };
        }
        let clearing = self.clearing(currency);
        if !self.ledger.can_debit(clearing, balance) {
            return Decision::of(Outcome::Invalid);
        }
        let account = self.ledger.find_or_make(key);
        self.ledger.set_opened(account, digest);
        self.ledger.set_overdraft(account, Amount(body.overdraft.get()));
        self.ledger.post(clearing, account, balance);
        let statement = self.ledger.link(account, self.offset);
        Decision { statement, ..Decision::ok(balance) }
    }

    pub(crate) fn update_account(&mut self, party: Party, body: &UpdateAccountBody) -> Decision {
        let currency = checked(body.currency.get());
        let Some(account) = self.ledger.find_open((party, currency, kind(body.kind))) else {
            return Decision::of(Outcome::UnknownAccount);
        };
        if body.flags == ACCOUNT_OVERDRAFT {
            return match self.ledger.set_overdraft(account, Amount(body.overdraft.get())) {
                true => Decision::ok(body.overdraft.get()),
                false => Decision::of(Outcome::WrongState), // It owes more than that.
            };
        }
        // What was paid towards orders that may still come to nothing comes back to the account.
        let deposit = self.ledger.find((party, currency, AccountKind::Deposit));
        let expects = kind(body.kind) == AccountKind::Main
            && deposit.is_some_and(|deposit| !self.ledger.is_even(deposit));
        match !expects && self.ledger.close(account) {
            true => Decision::ok(0),
            false => Decision::of(Outcome::WrongState),
        }
    }

    pub(crate) fn transfer(&mut self, debited: Party, id: u128, body: &TransferBody) -> Decision {
        let currency = checked(body.currency.get());
        let amount = body.moved.get();
        let (debit_kind, credit_kind) = (kind(body.debit_kind), kind(body.credit_kind));
        let credited = Party(body.credit_party.get());
        let Some(debit) = self.account(debited, currency, debit_kind) else {
            return Decision::of(Outcome::UnknownAccount);
        };
        let home = ids::shard_of(credited, self.seat.shards);
        let is_here = home == self.seat.id || credit_kind == AccountKind::Clearing;
        let credit = match is_here {
            true => self.account(credited, currency, credit_kind),
            false => None,
        };
        if is_here && credit.is_none() {
            return Decision::of(Outcome::UnknownAccount);
        }
        // Only what enters from outside may be owed: a seller can't pay out what isn't there.
        let may_go_negative = debit_kind == AccountKind::Clearing;
        if !may_go_negative && self.ledger.available(debit) < i128::from(amount) {
            return Decision::of(Outcome::InsufficientFunds);
        }
        let credit_takes = credit.is_none_or(|credit| self.ledger.can_credit(credit, amount));
        if !self.ledger.can_debit(debit, amount) || !credit_takes {
            return Decision::of(Outcome::Invalid);
        }
        let statement = self.ledger.link(debit, self.offset);
        let mut credit_statement = 0;
        match credit {
            Some(credit) => {
                self.ledger.post(debit, credit, amount);
                credit_statement = self.ledger.link(credit, self.offset);
            }
            None => {
                self.ledger.debit(debit, amount);
                self.ledger.send(currency, i128::from(amount));
                let moved = Moved {
                    party: credited.0.into(),
                    from: debited.0.into(),
                    amount: amount.into(),
                    id: id.into(),
                    currency: currency.numeric().into(),
                    kind: body.credit_kind,
                    from_kind: body.debit_kind,
                    ..Moved::default()
                };
                self.streams.push(home, &Entry::Transfer(&moved));
            }
        }
        Decision { statement, credit_statement, ..Decision::ok(amount) }
    }

    /// An account as a transfer names it. Clearing is always there.
    fn account(&mut self, party: Party, currency: Currency, kind: AccountKind) -> Option<Pos> {
        match kind {
            AccountKind::Clearing => Some(self.clearing(currency)),
            _ => self.ledger.find_open((party, currency, kind)),
        }
    }

    pub(crate) fn clearing(&mut self, currency: Currency) -> Pos {
        self.ledger.find_or_make((Party(0), currency, AccountKind::Clearing))
    }

    /// Sends what the next sellers have available to their homes.
    pub(crate) fn sweep(
        &mut self,
        command: &Record<'_>,
        body: &SweepBody,
        frame: &mut FrameBuilder,
    ) -> Reply {
        let step = self.step;
        let mut logged = SweepBody { count: body.count, ..SweepBody::default() };
        let (mut swept, mut moved, mut statement) = (0u64, 0, 0);
        for _ in 0..body.count.get() {
            if self.sweep_next == 0 {
                self.sweep_began = step;
            }
            if self.sweep_next >= self.ledger.payables() {
                (self.sweep_next, self.swept_step) = (0, self.sweep_began);
                break;
            }
            let found = self.ledger.sweep(self.sweep_next, step);
            self.sweep_next += 1;
            let Some((key, amount)) = found else { continue };
            swept += 1;
            if let Some(link) = self.send_earnings(key, amount) {
                // Amounts were differences of 64-bit sums.
                (statement, moved) = (link, amount.unsigned_abs() as u64);
                logged.seller = key.0.0.into();
                logged.currency = key.1.numeric().into();
                logged.owed = u8::from(amount < 0);
                break;
            }
        }
        let bytes = frame.push(command.bytes);
        set_outcome(bytes, Outcome::Ok, 0, 0, moved);
        set_statements(bytes, statement, 0);
        logged.swept = swept.into();
        *sweep_mut(bytes) = logged;
        Decision::ok(moved).reply(Some(self.offset))
    }

    /// Sends what was swept to its party's home. If that is here, it is booked: the link of the
    /// statement of the account that got it.
    fn send_earnings(&mut self, (party, currency, from): AccountKey, amount: i128) -> Option<u64> {
        self.ledger.send(currency, amount);
        let moved = Moved {
            party: party.0.into(),
            from: party.0.into(),
            amount: (amount.unsigned_abs() as u64).into(), // It was a difference of 64-bit sums.
            currency: currency.numeric().into(),
            kind: AccountKind::Settlement as u8,
            from_kind: from as u8,
            ..Moved::default()
        };
        let entry = if amount > 0 { Entry::Sweep(&moved) } else { Entry::Owed(&moved) };
        let home = ids::shard_of(party, self.seat.shards);
        if home == self.seat.id {
            return Some(self.take_money(home, &entry).1);
        }
        self.streams.push(home, &entry);
        None
    }

    /// Takes what another shard sent, in the order of its numbers.
    pub(crate) fn deliver(
        &mut self,
        command: &Record<'_>,
        deliver: &DeliverBody,
        entries: Entries<'_>,
        frame: &mut FrameBuilder,
    ) -> Reply {
        let scope = command.header.scope.get();
        let from = ShardId(scope as u16);
        if scope >= u64::from(self.seat.shards) || from == self.seat.id {
            return Decision::of(Outcome::Invalid).unlogged();
        }
        let (first, acked) = (deliver.first.get(), deliver.acked.get());
        let known = match self.streams.check(from, first, deliver.count.get(), acked) {
            Ok(known) => known as usize,
            Err(NotTaken::Known) => {
                if is_planted(Bug::GrantTwice) {
                    self.take_grants_again(from, entries);
                }
                return Decision::of(Outcome::AlreadyDone).unlogged();
            }
            Err(NotTaken::Gap) => return Decision::of(Outcome::Busy).unlogged(),
        };
        let bytes = frame.push(command.bytes);
        set_outcome(bytes, Outcome::Ok, 0, 0, 0);
        let (_, logged) = deliver_mut(bytes);
        self.streams.acknowledge(from, acked);
        if is_planted(Bug::RecallOvertakes) {
            let recalls = entries.filter(|(_, entry)| matches!(entry, Entry::Recall(_)));
            recalls.for_each(|(_, entry)| self.take_recall_early(&entry));
        }
        let mut position = 0;
        for (number, (entry_bytes, entry)) in entries.enumerate() {
            let (outcome, statement) = if number < known {
                (Outcome::AlreadyDone, 0)
            } else {
                self.streams.took(from, entry_bytes);
                self.take_entry(from, &entry)
            };
            set_entry_outcome(logged, position, outcome, statement);
            position += entry_bytes.len();
        }
        Decision::ok(0).reply(Some(self.offset))
    }

    fn take_entry(&mut self, from: ShardId, entry: &Entry<'_>) -> (Outcome, u64) {
        match entry {
            Entry::Sweep(_) | Entry::Owed(_) | Entry::Transfer(_) | Entry::Back(_) => {
                self.take_money(from, entry)
            }
            _ => {
                self.take_stock_entry(from, entry);
                (Outcome::Ok, 0)
            }
        }
    }

    /// What became of money that came, and the link of the statement of the account that got it.
    fn take_money(&mut self, from: ShardId, entry: &Entry<'_>) -> (Outcome, u64) {
        let (Entry::Sweep(moved)
        | Entry::Owed(moved)
        | Entry::Transfer(moved)
        | Entry::Back(moved)) = entry
        else {
            unreachable!("the caller passes money on")
        };
        let currency = checked(moved.currency.get());
        let amount = moved.amount.get();
        let key = (Party(moved.party.get()), currency, kind(moved.kind));
        match entry {
            Entry::Sweep(_) | Entry::Owed(_) => {
                let account = self.ledger.find_or_make(key);
                self.book(account, key, amount, matches!(entry, Entry::Sweep(_)))
            }
            Entry::Transfer(_) => match self.ledger.find_open(key) {
                Some(account) if self.ledger.can_credit(account, amount) => {
                    self.book(account, key, amount, true)
                }
                _ => {
                    let back = Moved {
                        party: moved.from,
                        from: moved.party,
                        kind: moved.from_kind,
                        from_kind: moved.kind,
                        ..**moved
                    };
                    self.streams.push(from, &Entry::Back(&back));
                    (Outcome::UnknownAccount, 0)
                }
            },
            _ => match self.ledger.find_open(key) {
                Some(account) => self.book(account, key, amount, true),
                None => self.suspend(key, amount, true),
            },
        }
    }

    /// Books money that came from another shard.
    fn book(
        &mut self,
        account: Pos,
        key: AccountKey,
        amount: u64,
        is_credit: bool,
    ) -> (Outcome, u64) {
        let takes = match is_credit {
            true => self.ledger.can_credit(account, amount),
            false => self.ledger.can_debit(account, amount),
        };
        if !takes || self.ledger.is_closed(account) {
            return self.suspend(key, amount, is_credit);
        }
        match is_credit {
            true => self.ledger.credit(account, amount),
            false => self.ledger.debit(account, amount),
        }
        let came = if is_credit { -i128::from(amount) } else { i128::from(amount) };
        self.ledger.send(key.1, came);
        (Outcome::Ok, self.ledger.link(account, self.offset))
    }

    /// Books money that can't be booked where it belongs. Where not even this account's sums can
    /// take it, it stays under way for good, which the sums over all shards show.
    fn suspend(&mut self, key: AccountKey, amount: u64, is_credit: bool) -> (Outcome, u64) {
        let (party, currency, kind) = key;
        if kind == AccountKind::Suspense {
            return (Outcome::WrongState, 0);
        }
        let key = (party, currency, AccountKind::Suspense);
        let account = self.ledger.find_or_make(key);
        let (_, statement) = self.book(account, key, amount, is_credit);
        (Outcome::WrongState, statement)
    }
}

fn kind(byte: u8) -> AccountKind {
    AccountKind::from_byte(byte).expect("the record was checked")
}
