//! The statements of accounts: each record that moves an account's money names the one before.

use model::record::{Body, Record, Records};
use model::reply::{Query, View};
use model::{AccountKind, Currency, Party};
use txn_core::Shard;

use crate::shadow::Model;

/// From the newest record of each account the links lead through all that moved its money.
pub fn assert_statements(shard: &Shard, model: &Model, records: &[u8]) {
    let records: Vec<Record<'_>> = Records::new(records).flatten().collect();
    for (realm, shadow) in model.realms() {
        for (account, wanted, moved) in shadow.statements() {
            let (party, currency, kind) = account;
            let View::Account(view) = shard.query_in(realm, Query::Account(party, currency, kind))
            else {
                assert!(wanted.is_empty(), "{account:?} has a statement");
                continue;
            };
            let mut walked = walk(&records, account, view.statement.0);
            walked.reverse();
            assert_eq!(walked, wanted, "statement of {account:?}, {realm:?}");
            assert!(moved.iter().all(|record| walked.contains(record)), "{account:?}: {moved:?}");
        }
    }
}

/// The records of a statement, newest first.
pub fn walk(
    records: &[Record<'_>],
    account: (Party, Currency, AccountKind),
    newest: u64,
) -> Vec<u64> {
    let mut walked = Vec::new();
    let mut next = newest;
    while next != 0 {
        assert!(walked.last().is_none_or(|last| next < *last), "a statement goes forward");
        walked.push(next);
        next = link_of(&records[next as usize - 1], account, next);
    }
    walked
}

/// The record before this one on an account's statement. Where an account is debited and
/// credited at once, the link of what was credited is the record itself.
fn link_of(
    record: &Record<'_>,
    (party, _, kind): (Party, Currency, AccountKind),
    offset: u64,
) -> u64 {
    let (to, to_kind, link) = match record.body {
        Body::Transfer(body) => (body.credit_party, body.credit_kind, body.credit_statement),
        Body::SettleHold(body) => (body.credit_party, body.credit_kind, body.credit_statement),
        _ => return record.header.statement.get(),
    };
    let is_credited = (to.get(), to_kind) == (party.0, kind as u8);
    match is_credited && link.get() != offset {
        true => link.get(),
        false => record.header.statement.get(),
    }
}
