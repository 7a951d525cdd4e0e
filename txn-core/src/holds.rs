//! Money of accounts that is held: set aside, to be captured or released.
//!
//! Held money is still its account's; it can't be spent. A capture moves all or a part of it, and
//! the rest stays held until it is captured, released, or its deadline comes.

use model::record::{HoldBody, SettleHoldBody, TimerKind, TransferBody};
use model::reply::HoldView;
use model::{AccountKind, Amount, ChangeId, Outcome, Party, Time};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::arena::Pos;
use crate::orders::halves;
use crate::realm::{Decision, RealmState};
use crate::shard::checked;
use crate::table::{Row, Table};

/// One hold.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct OneHold {
    pub party: u64,
    pub id: [u64; 2],
    pub amount: u64,
    /// What is still held.
    pub left: u64,
    /// When that is released, or 0.
    pub deadline: u64,
    /// Where its account is.
    pub account: u32,
    pub currency: u16,
    pub kind: u8,
    pub unused: u8,
}

impl Row for OneHold {
    type Key = (u64, [u64; 2]);

    fn key(&self) -> Self::Key {
        (self.party, self.id)
    }
}

/// All holds of a shard.
pub(crate) type Holds = Table<OneHold>;

impl Holds {
    pub(crate) fn find_hold(&self, party: Party, id: u128) -> Option<Pos> {
        self.find((party.0, halves(id)))
    }

    pub(crate) fn view(&self, party: Party, id: ChangeId) -> Option<HoldView> {
        let hold = self.get(self.find_hold(party, id.0)?);
        Some(HoldView {
            party,
            id,
            kind: AccountKind::from_byte(hold.kind).expect("the core wrote it"),
            currency: checked(hold.currency),
            amount: Amount(hold.amount),
            left: Amount(hold.left),
            deadline: Time(hold.deadline),
        })
    }
}

impl RealmState {
    pub(crate) fn hold(&mut self, party: Party, id: u128, body: &HoldBody) -> Decision {
        let currency = checked(body.currency.get());
        let kind = AccountKind::from_byte(body.kind).expect("the record was checked");
        let (amount, deadline) = (body.held.get(), body.deadline.get());
        let Some(account) = self.ledger.find_open((party, currency, kind)) else {
            return Decision::of(Outcome::UnknownAccount);
        };
        if deadline != 0 && deadline <= self.now.0 {
            return Decision::of(Outcome::WrongState);
        }
        if self.ledger.available(account) < i128::from(amount) {
            return Decision::of(Outcome::InsufficientFunds);
        }
        if !self.ledger.hold(account, amount) {
            return Decision::of(Outcome::Invalid);
        }
        let hold = OneHold {
            party: party.0,
            id: halves(id),
            amount,
            left: amount,
            deadline,
            account: account.0,
            currency: currency.numeric(),
            kind: body.kind,
            ..OneHold::default()
        };
        let pos = self.holds.insert(hold);
        if deadline != 0 {
            self.timers.insert((deadline, TimerKind::Hold, pos.0));
        }
        Decision::ok(amount)
    }

    pub(crate) fn settle_hold(
        &mut self,
        party: Party,
        id: u128,
        body: &SettleHoldBody,
    ) -> Decision {
        let Some(pos) = self.holds.find_hold(party, body.hold.get()) else {
            return Decision::of(Outcome::UnknownAccount);
        };
        let hold = *self.holds.get(pos);
        let overdue = hold.deadline != 0 && hold.deadline <= self.now.0;
        if hold.left == 0 || overdue {
            return Decision::of(Outcome::WrongState);
        }
        if body.op == 0 {
            self.let_go(pos, hold.left);
            return Decision::ok(hold.left);
        }
        let captured = match body.captured.get() {
            0 => hold.left,
            captured if captured <= hold.left => captured,
            _ => return Decision::of(Outcome::WrongState),
        };
        let transfer = TransferBody {
            currency: hold.currency.into(),
            debit_kind: hold.kind,
            credit_kind: body.credit_kind,
            credit_party: body.credit_party,
            moved: captured.into(),
            ..TransferBody::default()
        };
        // Held -> captured: what was held can be spent for this, and for nothing else.
        self.ledger.release(Pos(hold.account), captured);
        let decision = self.transfer(party, id, &transfer);
        let held_again = self.ledger.hold(Pos(hold.account), captured);
        assert!(held_again, "it was held before");
        if decision.outcome == Outcome::Ok {
            self.let_go(pos, captured);
        }
        decision
    }

    /// A hold's deadline has come.
    pub(crate) fn release_overdue(&mut self, party: Party, id: u128) -> Decision {
        let pos = self.holds.find_hold(party, id).expect("a timer's hold is there");
        let left = self.holds.get(pos).left;
        self.let_go(pos, left);
        Decision::ok(left)
    }

    /// Held -> released.
    fn let_go(&mut self, pos: Pos, amount: u64) {
        let hold = self.holds.get_mut(pos);
        hold.left -= amount;
        let hold = *hold;
        self.ledger.release(Pos(hold.account), amount);
        if hold.left == 0 && hold.deadline != 0 {
            self.timers.remove(&(hold.deadline, TimerKind::Hold, pos.0));
        }
    }
}
