//! Money of accounts that is held: set aside, to be captured or released.
//!
//! Held money is still its account's; it can't be spent. A capture moves all or a part of it, and
//! the rest stays held until it is captured, released, or its deadline comes.

use foldhash::fast::FixedState;
use model::record::{HoldBody, SettleHoldBody, TimerKind, TransferBody};
use model::reply::HoldView;
use model::{AccountKind, Amount, ChangeId, Outcome, Party, Time};
use std::hash::BuildHasher;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::arena::{Arena, Pos, SpareRegions};
use crate::index::{Grown, Hash32, Index};
use crate::orders::halves;
use crate::realm::{Decision, RealmState};
use crate::shard::checked;

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

/// All holds of a shard.
pub(crate) struct Holds {
    holds: Arena,
    /// Most shards never need one.
    index: Option<Index>,
    hasher: FixedState,
    spare: SpareRegions,
}

impl Holds {
    pub(crate) fn new(hasher: FixedState, spare: &SpareRegions) -> Holds {
        Holds { holds: Arena::new(spare), index: None, hasher, spare: spare.clone() }
    }

    fn hash(&self, party: Party, id: u128) -> Hash32 {
        self.hasher.hash_one((party.0, id)).into()
    }

    pub(crate) fn find(&self, party: Party, id: u128) -> Option<Pos> {
        self.index.as_ref()?.find(self.hash(party, id), |pos| {
            let hold: &OneHold = self.holds.get(pos);
            hold.party == party.0 && hold.id == halves(id)
        })
    }

    pub(crate) fn get(&self, pos: Pos) -> &OneHold {
        self.holds.get(pos)
    }

    fn insert(&mut self, hold: OneHold, id: u128) -> Pos {
        let pos = self.holds.push(hold);
        let hash = self.hash(Party(hold.party), id);
        self.index.get_or_insert_with(|| Index::new(&self.spare)).insert(hash, pos);
        pos
    }

    pub(crate) fn view(&self, party: Party, id: ChangeId) -> Option<HoldView> {
        let hold = self.get(self.find(party, id.0)?);
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

    pub(crate) fn state_hash(&self) -> u64 {
        self.holds.iter::<OneHold>().fold(0, |sum, hold| {
            // Where an account lies depends on what else there is.
            let hold = OneHold { account: 0, ..*hold };
            sum.wrapping_add(xxhash_rust::xxh3::xxh3_64(hold.as_bytes()))
        })
    }

    /// How far its tables have grown.
    pub(crate) fn grown(&self) -> Grown {
        self.index.as_ref().map_or(Grown::default(), Index::grown).with(&self.holds)
    }

    pub(crate) fn has_room(&self) -> bool {
        self.holds.has_room()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.holds.bytes() + self.index.as_ref().map_or(0, Index::bytes)
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
        let pos = self.holds.insert(hold, id);
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
        let Some(pos) = self.holds.find(party, body.hold.get()) else {
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
        let pos = self.holds.find(party, id).expect("a timer's hold is there");
        let left = self.holds.get(pos).left;
        self.let_go(pos, left);
        Decision::ok(left)
    }

    /// Held -> released.
    fn let_go(&mut self, pos: Pos, amount: u64) {
        let hold = self.holds.holds.get_mut::<OneHold>(pos);
        hold.left -= amount;
        let hold = *hold;
        self.ledger.release(Pos(hold.account), amount);
        if hold.left == 0 && hold.deadline != 0 {
            self.timers.remove(&(hold.deadline, TimerKind::Hold, pos.0));
        }
    }
}
