//! Statements as JSON.

use std::io::Write as _;

use model::record::Kind;
use node::{Movement, Statement};

use crate::route::Page;

/// A page: `{"party":…,"movements":[…],"next":…}`.
pub(crate) fn json(page: &Page, statement: &Statement) -> Vec<u8> {
    let mut text = Vec::with_capacity(256 + statement.movements.len() * 192);
    let (code, kind) = (page.currency.code(), page.kind.word());
    let party = integer(page.party.0.into());
    write(&mut text, format_args!(r#"{{"party":{party},"currency":"{code}","kind":"{kind}","#));
    write(&mut text, format_args!(r#""movements":["#));
    for (number, movement) in statement.movements.iter().enumerate() {
        write(&mut text, format_args!("{}", if number > 0 { "," } else { "" }));
        one(&mut text, movement);
    }
    match statement.next {
        Some(next) => write(&mut text, format_args!(r#"],"next":{}}}"#, integer(next.0.into()))),
        None => write(&mut text, format_args!("]}}")),
    }
    text
}

fn one(text: &mut Vec<u8>, movement: &Movement) {
    let Movement { offset, time, kind, amount, order, id, .. } = movement;
    let (offset, amount) = (integer(offset.0.into()), integer(*amount));
    let (time_ms, word) = (time.0 / 1_000, word(*kind));
    write(text, format_args!(r#"{{"offset":{offset},"time_ms":{time_ms},"type":"{word}","#));
    write(text, format_args!(r#""amount":{amount}"#));
    if let Some(order) = order {
        write(text, format_args!(r#","order":"{order}""#));
    }
    // What places an order has its id.
    if id.0 != 0 && *kind != Kind::Place {
        write(text, format_args!(r#","id":"{id}""#));
    }
    write(text, format_args!("}}"));
}

/// Past 2⁵³ as a string, as everywhere.
fn integer(value: i128) -> String {
    if value.unsigned_abs() <= 1 << 53 { value.to_string() } else { format!("\"{value}\"") }
}

fn write(text: &mut Vec<u8>, what: std::fmt::Arguments<'_>) {
    let _ = text.write_fmt(what); // A vector takes everything.
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::CreateAccount => "opened",
        Kind::Transfer => "transfer",
        Kind::Place => "order",
        Kind::Pay => "payment",
        Kind::Cancel => "cancelled",
        Kind::Timer => "expired",
        Kind::Refund => "refund",
        Kind::Deliver => "arrived",
        Kind::Sweep => "settlement",
        Kind::SettleHold => "captured",
        _ => "other",
    }
}
