//! Accounts, transfers, holds and coupons.

use super::*;

impl Shadow {
    /// Whether it would open an account that was opened and closed before.
    pub(super) fn is_closed_again(&self, command: &Command) -> bool {
        match *command {
            Command::CreateAccount { party, currency, .. } => {
                self.sums(main_of(party, currency)).is_closed
            }
            _ => false,
        }
    }

    pub(super) fn open(&self, account: AccountName, balance: u128, overdraft: u128) -> Verdict {
        if self.sums(account).is_closed {
            return Verdict::of(Outcome::WrongState);
        }
        let effects = vec![
            Effect::Open { account, overdraft },
            Effect::Debit(clearing(account.1), balance),
            Effect::Credit(account, balance),
        ];
        Verdict { statement: Some(account), ..Verdict::done(balance, effects) }
    }

    pub(super) fn set_overdraft(&self, account: AccountName, overdraft: u128) -> Verdict {
        if !self.is_open(account) {
            return Verdict::of(Outcome::UnknownAccount);
        }
        // What it owes and what of it is held must stay within the limit.
        match (Sums { overdraft, ..self.sums(account) }).available() < 0 {
            true => Verdict::of(Outcome::WrongState),
            false => Verdict::done(overdraft, vec![Effect::Overdraw { account, overdraft }]),
        }
    }

    /// An account closes when nothing is in it, nothing of it is held, and nothing that was paid
    /// towards an order may come back to it.
    pub(super) fn close(&self, account: AccountName) -> Verdict {
        if !self.is_open(account) {
            return Verdict::of(Outcome::UnknownAccount);
        }
        let (party, currency, kind) = account;
        let expects =
            kind == AccountKind::Main && self.balance((party, currency, AccountKind::Deposit)) != 0;
        if self.balance(account) != 0 || self.sums(account).held != 0 || expects {
            return Verdict::of(Outcome::WrongState);
        }
        Verdict::done(0, vec![Effect::Close(account)])
    }

    /// An account as transfers and captures name it.
    fn named(
        &self,
        (party, kind): (Party, AccountKind),
        currency: Currency,
    ) -> Option<AccountName> {
        match kind {
            AccountKind::Clearing => Some(clearing(currency)),
            _ => Some((party, currency, kind)).filter(|account| self.is_open(*account)),
        }
    }

    /// Moves money, of which so much may be held money.
    pub(super) fn transfer(
        &self,
        debit: (Party, AccountKind),
        credit: (Party, AccountKind),
        currency: Currency,
        amount: u128,
        held: u128,
    ) -> Verdict {
        let accounts = (self.named(debit, currency), self.named(credit, currency));
        let (Some(debit), Some(credit)) = accounts else {
            return Verdict::of(Outcome::UnknownAccount);
        };
        // Money enters through clearing; from elsewhere only what is there can go.
        let available = self.sums(debit).available() + held as i128;
        if debit.2 != AccountKind::Clearing && available < amount as i128 {
            return Verdict::of(Outcome::InsufficientFunds);
        }
        let effects = vec![Effect::Debit(debit, amount), Effect::Credit(credit, amount)];
        let (statement, credited) = (Some(debit), Some(credit));
        Verdict { statement, credited, ..Verdict::done(amount, effects) }
    }

    pub(super) fn hold(
        &self,
        id: ChangeId,
        account: AccountName,
        amount: u128,
        deadline: Time,
    ) -> Verdict {
        if !self.is_open(account) {
            return Verdict::of(Outcome::UnknownAccount);
        }
        if deadline != Time(0) && deadline <= self.now {
            return Verdict::of(Outcome::WrongState);
        }
        if self.sums(account).available() < amount as i128 {
            return Verdict::of(Outcome::InsufficientFunds);
        }
        let hold = Hold { account, amount, left: amount, deadline, made: 0 };
        let effects =
            vec![Effect::Held(account, amount as i128), Effect::KeepHold((account.0, id), hold)];
        Verdict::done(amount, effects)
    }

    /// A hold of which something is left, and whose deadline hasn't come.
    fn live_hold(&self, party: Party, id: ChangeId) -> Result<Hold, Outcome> {
        let hold = *self.holds.get(&(party, id)).ok_or(Outcome::UnknownAccount)?;
        let overdue = hold.deadline != Time(0) && hold.deadline <= self.now;
        match hold.left == 0 || overdue {
            true => Err(Outcome::WrongState),
            false => Ok(hold),
        }
    }

    pub(super) fn capture(
        &self,
        party: Party,
        id: ChangeId,
        credit: (Party, AccountKind),
        amount: Option<Amount>,
    ) -> Result<Verdict, Outcome> {
        let hold = self.live_hold(party, id)?;
        let amount = amount.map_or(hold.left, |amount| u128::from(amount.0));
        if amount > hold.left {
            return Err(Outcome::WrongState);
        }
        let (_, currency, kind) = hold.account;
        let mut verdict = self.transfer((party, kind), credit, currency, amount, amount);
        if verdict.outcome == Outcome::Ok {
            verdict.effects.extend(let_go(party, id, hold, amount));
        }
        Ok(verdict)
    }

    pub(super) fn release_hold(&self, party: Party, id: ChangeId) -> Result<Verdict, Outcome> {
        let hold = self.live_hold(party, id)?;
        Ok(Verdict::done(hold.left, let_go(party, id, hold, hold.left).into()))
    }

    /// Its deadline has come.
    pub(super) fn end_hold(&self, party: Party, id: ChangeId) -> Verdict {
        let hold = self.holds[&(party, id)];
        Verdict::done(hold.left, let_go(party, id, hold, hold.left).into())
    }
}

/// So much of a hold is held no longer.
fn let_go(party: Party, id: ChangeId, hold: Hold, amount: u128) -> [Effect; 2] {
    let left = hold.left - amount;
    [
        Effect::Held(hold.account, -(amount as i128)),
        Effect::KeepHold((party, id), Hold { left, ..hold }),
    ]
}
