//! Statements: what moved the money of an account, newest first.
//!
//! Every record that moves money of an account of which its party disposes links to the record
//! that did so before. So a statement is read from the log, backwards from the newest, and is
//! kept nowhere else.

use model::record::entry::{Entries, Entry, Moved};
use model::record::{Body, Kind, Leg, PayBody, Record};
use model::{
    AccountKind, ChangeId, Currency, Offset, OrderId, Outcome, Party, PayStep, PaymentMethod,
    Realm, ShardId, Time,
};

use crate::{GroupHandle, SubmitError};

/// The most movements of one page.
pub const MOVEMENTS_MAX: usize = 100;

/// A record that moved money of an account.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Movement {
    /// Where it is in the log of the account's shard.
    pub offset: Offset,
    /// When it was decided.
    pub time: Time,
    /// What it is.
    pub kind: Kind,
    /// What came (positive) or went, all entries of the record together.
    pub amount: i128,
    /// The order that it is about.
    pub order: Option<OrderId>,
    /// The change's id; nil for what shards tell themselves and each other.
    pub id: ChangeId,
    /// The movement before it; 0: there is none.
    previous: Offset,
}

/// A page of a statement.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Statement {
    /// Newest first.
    pub movements: Vec<Movement>,
    /// Where the next page begins, if there is one.
    pub next: Option<Offset>,
}

/// Whose statement it is: party, currency and kind.
type AccountKey = (Party, Currency, AccountKind);

/// Reads up to `most` movements from `newest` on, which is the newest of the account or where a
/// page ended. `None`: the record there moved no money of that account. What a record names as
/// the one before it must be there.
pub async fn statement(
    shard: &GroupHandle,
    (id, realm): (ShardId, Realm),
    account: AccountKey,
    newest: Offset,
    most: usize,
) -> Result<Option<Statement>, SubmitError> {
    let mut page = Statement::default();
    let mut at = newest;
    while at.0 != 0 {
        if page.movements.len() == most.min(MOVEMENTS_MAX) {
            page.next = Some(at);
            break;
        }
        let found = shard.record(id, at).await?;
        let found = found.and_then(|(time, bytes)| {
            let (record, _) = Record::split(&bytes).ok()?;
            movement(&record, realm, account, (at, time))
        });
        let movement = match found {
            Some(movement) => movement,
            None if at == newest => return Ok(None),
            None => return Err(SubmitError::Unreadable),
        };
        at = movement.previous;
        page.movements.push(movement);
    }
    Ok(Some(page))
}

/// What a record did to an account, if it did anything.
fn movement(
    record: &Record<'_>,
    realm: Realm,
    account: AccountKey,
    (offset, time): (Offset, Time),
) -> Option<Movement> {
    let (party, currency, kind) = account;
    let header = record.header;
    let done = matches!(record.outcome(), Some(Outcome::Ok | Outcome::Suspended));
    if !done || record.realm() != realm {
        return None;
    }
    let amount = i128::from(header.amount.get());
    let own = (-amount, header.statement.get());
    let is_buyer = record.party() == party;
    let is_main = is_buyer && kind == AccountKind::Main;
    // What can't go back to a main account goes to suspense.
    let is_payer = is_main || is_buyer && kind == AccountKind::Suspense;
    let in_currency = |numeric: u16| numeric == currency.numeric();
    let to_here = |credit: u64, of_kind: u8| (Party(credit), of_kind) == (party, kind as u8);
    let (amount, previous) = match record.body {
        Body::CreateAccount(body) if is_main && in_currency(body.currency.get()) => (amount, own.1),
        Body::Transfer(body) if in_currency(body.currency.get()) => {
            let credits = to_here(body.credit_party.get(), body.credit_kind);
            let debits = is_buyer && body.debit_kind == kind as u8;
            between(debits, credits, own, body.credit_statement.get(), offset)?
        }
        Body::SettleHold(body) => {
            let credits = to_here(body.credit_party.get(), body.credit_kind);
            // Which account's money was held, the hold alone knows; the chain led here.
            let debits = is_buyer && (!credits || body.credit_statement.get() == offset.0);
            between(debits, credits, own, body.credit_statement.get(), offset)?
        }
        Body::Place { order, legs, .. } if is_main && in_currency(order.currency.get()) => {
            let from_balance = |leg: &&Leg| leg.method == PaymentMethod::Balance as u8;
            let paid = legs.iter().filter(from_balance).map(|leg| i128::from(leg.amount.get()));
            (-paid.sum::<i128>(), own.1)
        }
        Body::Pay(body) if is_payer => (paid(body, record, amount), own.1),
        Body::Cancel(body) if is_payer => (body.returned.get().into(), own.1),
        Body::Timer(body) if is_payer => (body.returned.get().into(), own.1),
        Body::Refund { refund, .. } if is_payer => (refund.returned.get().into(), own.1),
        Body::Deliver { entries, .. } => arrived(entries, account)?,
        Body::Sweep(body)
            if (body.seller.get(), body.currency.get()) == (party.0, currency.numeric()) =>
        {
            (if body.owed == 0 { amount } else { -amount }, own.1)
        }
        _ => return None,
    };
    let kind = Kind::from_byte(header.kind)?;
    let id = ChangeId(header.id.get());
    let (order, previous) = (record.order(), Offset(previous));
    Some(Movement { offset, time, kind, amount, order, id, previous })
}

/// Money that left one account for another, of which one is the one at hand, or both are.
fn between(
    debits: bool,
    credits: bool,
    (debited, statement): (i128, u64),
    credit_statement: u64,
    offset: Offset,
) -> Option<(i128, u64)> {
    match (debits, credits) {
        // From the account to itself: the link of the credit leads to the debit.
        (true, true) if credit_statement == offset.0 => Some((0, statement)),
        (_, true) => Some((-debited, credit_statement)),
        (true, false) => Some((debited, statement)),
        (false, false) => None,
    }
}

/// What a payment step moved: from the balance, or into suspense what the order didn't take.
fn paid(body: &PayBody, record: &Record<'_>, amount: i128) -> i128 {
    match PayStep::from_byte(body.step) {
        Some(PayStep::Balance) => -amount,
        _ if record.outcome() == Some(Outcome::Suspended) => amount,
        _ => i128::from(body.stated.get()) - amount,
    }
}

/// What entries of a stream brought for an account, and the link of the first.
fn arrived(entries: Entries<'_>, (party, currency, kind): AccountKey) -> Option<(i128, u64)> {
    let mut found = None::<(i128, u64)>;
    for (bytes, entry) in entries {
        let (moved, sign): (&Moved, i128) = match entry {
            Entry::Sweep(moved) | Entry::Transfer(moved) | Entry::Back(moved) => (moved, 1),
            Entry::Owed(moved) => (moved, -1),
            _ => continue,
        };
        let outcome = bytes[std::mem::offset_of!(model::record::entry::EntryHeader, outcome)];
        let got = match Outcome::from_byte(outcome) {
            Some(Outcome::Ok) => moved.kind,
            Some(Outcome::WrongState) => AccountKind::Suspense as u8,
            _ => continue,
        };
        let to = (moved.party.get(), moved.currency.get(), got);
        if to == (party.0, currency.numeric(), kind as u8) {
            let (sum, _) = found.get_or_insert((0, moved.statement.get()));
            *sum += sign * i128::from(moved.amount.get());
        }
    }
    found
}
