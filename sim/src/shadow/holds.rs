//! Holds, by the rules.

use model::record::{HoldBody, SettleHoldBody};
use model::{AccountKind, Outcome, ShardId, Time, ids};

use super::Books;

pub(super) struct Hold {
    /// Whose main account; `None`: another kind, of which only the shards know.
    account: Option<(u64, u16)>,
    currency: u16,
    left: i128,
    deadline: u64,
}

impl Hold {
    /// When it is released; 0: never.
    pub(super) fn moment(&self) -> u64 {
        if self.left > 0 { self.deadline } else { 0 }
    }
}

impl Books {
    pub(super) fn hold(
        &mut self,
        key: (u64, u128),
        body: &HoldBody,
        time: Time,
        outcome: Outcome,
    ) -> Outcome {
        let (currency, amount) = (body.currency.get(), i128::from(body.held.get()));
        let account = (key.0, currency);
        let deadline = body.deadline.get();
        let is_main = body.kind == AccountKind::Main as u8;
        let wanted = match is_main {
            false => outcome,
            true if !self.accounts.contains_key(&account) => Outcome::UnknownAccount,
            true if deadline != 0 && deadline <= time.0 => Outcome::WrongState,
            true if self.can_spend(account) < amount => Outcome::InsufficientFunds,
            true => Outcome::Ok,
        };
        if wanted == Outcome::Ok {
            let account = is_main.then_some(account);
            if let Some(account) = account {
                *self.held.entry(account).or_default() += amount;
            }
            self.holds.insert(key, Hold { account, currency, left: amount, deadline });
        }
        wanted
    }

    pub(super) fn settle_hold(
        &mut self,
        party: u64,
        body: &SettleHoldBody,
        (shard, shards): (ShardId, u16),
        time: Time,
        outcome: Outcome,
    ) -> Outcome {
        let Some(hold) = self.holds.get_mut(&(party, body.hold.get())) else {
            return Outcome::UnknownAccount;
        };
        let overdue = hold.deadline != 0 && hold.deadline <= time.0;
        if hold.left == 0 || overdue {
            return Outcome::WrongState;
        }
        let amount = match (body.op, i128::from(body.captured.get())) {
            (0, _) | (_, 0) => hold.left,
            (_, amount) if amount > hold.left => return Outcome::WrongState,
            (_, amount) => amount,
        };
        let credited = (body.credit_party.get(), hold.currency);
        let credits_main = body.op == 1 && body.credit_kind == AccountKind::Main as u8;
        let is_here = ids::shard_of(model::Party(credited.0), shards) == shard;
        if credits_main && is_here && !self.accounts.contains_key(&credited) {
            return Outcome::UnknownAccount;
        }
        // Of other accounts only the shards know whether they are there.
        if body.op == 1 && !credits_main && outcome == Outcome::UnknownAccount {
            return outcome;
        }
        hold.left -= amount;
        if let Some(account) = hold.account {
            *self.held.entry(account).or_default() -= amount;
            if body.op == 1 {
                *self.accounts.entry(account).or_default() -= amount;
            }
        }
        if credits_main && is_here {
            *self.accounts.entry(credited).or_default() += amount;
        }
        Outcome::Ok
    }

    pub(super) fn fire_hold(&mut self, key: (u64, u128), due: u64, time: Time) -> bool {
        let Some(hold) = self.holds.get_mut(&key) else { return false };
        if hold.moment() != due || due > time.0 {
            return false;
        }
        if let Some(account) = hold.account {
            *self.held.entry(account).or_default() -= hold.left;
        }
        hold.left = 0;
        true
    }
}
