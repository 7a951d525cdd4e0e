//! From JSON to commands.
//!
//! The first pass parses straight into the command's layout and keeps no track of where it is.
//! Only when it fails does a second pass, with its path tracked, find the name of the field for
//! the caller: good requests don't pay for bad ones.
//!
//! Values are asked for with `deserialize_any`, whatever is expected. Asked for one type and
//! finding an array or object instead, the parser would skip that, one call deep for each level
//! of it: a few kilobytes of `[` would overflow the stack, and nothing survives that.

mod bodies;
mod order;
mod values;

use std::fmt;

use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use crate::money::STOCK_MAX;
use crate::record::{
    CommandBuffer, Coupon, ItemUpdate, LEGS_MAX, LINES_MAX, NewLeg, NewLine, PRIVATE_TEXT_MAX,
    PlaceWriter, Price, RefundLine, Sale,
};
use crate::{
    AccountKind, Amount, ChangeId, Currency, ItemId, LineKind, OrderId, Party, PayStep,
    PaymentMethod, Quantity, Time,
};

use bodies::*;
use order::{OrderSeed, OrdersSeed};
pub use values::parse_uuid;
use values::*;

/// The most commands of one body.
pub const BATCH_MAX: usize = 10_000;
/// The most bytes of an error's detail, and of its field: our own messages need about 150.
const EXPLAIN_BYTES_MAX: usize = 300;

/// Why a body was refused. Nothing of it was kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{detail}", .field.as_ref().map(|f| format!("{f}: ")).unwrap_or_default())]
pub struct DecodeError {
    /// The field at fault, as a path: `orders[3].lines[0].quantity`. `None`: the JSON itself.
    pub field: Option<String>,
    /// What is wrong with it.
    pub detail: String,
}

/// What a body holds. The path's ids come from the request's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// One order.
    Order,
    /// `{"orders": […]}`.
    Orders,
    /// One account to open.
    Account,
    /// `{"accounts": […]}`.
    Accounts,
    /// One item to list.
    Item,
    /// `{"items": […]}`.
    Items,
    /// What is to change of an item.
    UpdateItem(ItemId),
    /// Units to add to an item.
    Restock(ItemId),
    /// Money to move.
    Transfer,
    /// `{"transfers": […]}`.
    Transfers,
    /// How far an account may go below zero.
    UpdateAccount(Party),
    /// An account to close.
    CloseAccount(Party),
    /// Money to hold.
    Hold,
    /// Held money to move.
    CaptureHold(Party, ChangeId),
    /// Held money to let go.
    ReleaseHold(Party, ChangeId),
    /// A coupon for a buyer.
    Coupon,
    /// `{"coupons": […]}`.
    Coupons,
    /// Payment of an order, or of one of its legs.
    Pay(Party, OrderId),
    /// A provider's promise to pay a leg.
    Authorise(Party, OrderId),
    /// Money that a provider has collected for a leg.
    Capture(Party, OrderId),
    /// The end of a provider's promise.
    Void(Party, OrderId),
    /// Receipt of an order.
    Receive(Party, OrderId),
    /// Cancellation of an order.
    Cancel(Party, OrderId),
    /// Refund of an order.
    Refund(Party, OrderId),
}

/// Appends the commands of `body` to `commands`, all of them or none.
pub fn decode(
    request: Request,
    body: &[u8],
    commands: &mut CommandBuffer,
) -> Result<(), DecodeError> {
    let before = commands.mark();
    let mut json = sonic_rs::Deserializer::from_slice(body);
    let parsed = RequestSeed { request, commands }.deserialize(&mut json);
    if parsed.and_then(|()| json.end()).is_ok() {
        return Ok(());
    }
    commands.rewind(before);
    Err(explain(request, body))
}

/// Parses again, and remembers where it stopped.
fn explain(request: Request, body: &[u8]) -> DecodeError {
    let mut scratch = CommandBuffer::default();
    let mut json = sonic_rs::Deserializer::from_slice(body);
    let mut track = serde_path_to_error::Track::new();
    let seed = RequestSeed { request, commands: &mut scratch };
    let error =
        match seed.deserialize(serde_path_to_error::Deserializer::new(&mut json, &mut track)) {
            Ok(()) => {
                return DecodeError {
                    field: None,
                    detail: "something follows after the end of the JSON".to_string(),
                };
            }
            Err(error) => error,
        };
    // The parser appends an excerpt of the body on further lines: the caller has it.
    let text = error.to_string();
    let detail = text.lines().next().unwrap_or("not valid JSON").trim().to_string();
    let detail = match detail.find(" at line ") {
        Some(end) if !error.is_syntax() && !error.is_eof() => detail[..end].to_string(),
        _ => detail,
    };
    let path = track.path().to_string();
    let mut field = if path == "." || path.contains('?') { String::new() } else { path };
    if let Some(name) = named_field(&detail) {
        // Tracked paths end at the key for unknown fields, before it for missing ones.
        if field != name && !field.ends_with(&format!(".{name}")) {
            let dot = if field.is_empty() { "" } else { "." };
            field = format!("{field}{dot}{name}");
        }
    }
    DecodeError {
        field: Some(field).filter(|field| !field.is_empty()).map(clip),
        detail: clip(detail),
    }
}

/// Cuts what quotes the body: an answer must not grow with what was sent.
fn clip(mut text: String) -> String {
    if text.len() > EXPLAIN_BYTES_MAX {
        let end = (0..=EXPLAIN_BYTES_MAX).rev().find(|&end| text.is_char_boundary(end));
        text.truncate(end.unwrap_or(0));
        text.push('…');
    }
    text
}

/// The field that serde's own messages name.
fn named_field(detail: &str) -> Option<&str> {
    ["missing field `", "unknown field `", "duplicate field `"].iter().find_map(|start| {
        let rest = detail.strip_prefix(start)?;
        rest.split('`').next()
    })
}

/// Parses the body of `request` into `commands`.
struct RequestSeed<'b> {
    request: Request,
    commands: &'b mut CommandBuffer,
}

impl<'de> DeserializeSeed<'de> for RequestSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        let commands = self.commands;
        match self.request {
            Request::Order => OrderSeed(commands).deserialize(json),
            Request::Orders => OrdersSeed(commands).deserialize(json),
            Request::Account => {
                object::<_, AccountBody>(json)?.push(commands);
                Ok(())
            }
            Request::Accounts => {
                for account in object::<_, AccountsBody>(json)?.accounts.0 {
                    account.push(commands);
                }
                Ok(())
            }
            Request::Item => object::<_, ItemBody>(json)?.push(commands),
            Request::Items => {
                let items = object::<_, ItemsBody>(json)?.items.0;
                items.iter().try_for_each(|item| item.push(commands))
            }
            Request::Transfer => {
                Transfer::deserialize(json)?.push(commands);
                Ok(())
            }
            Request::Transfers => {
                for transfer in object::<_, TransfersBody>(json)?.transfers.0 {
                    transfer.push(commands);
                }
                Ok(())
            }
            Request::UpdateItem(item) => {
                let body = object::<_, UpdateItemBody>(json)?;
                let update = body.update().map_err(D::Error::custom)?;
                commands.update_item(ChangeId(body.id.0), item, update);
                Ok(())
            }
            Request::Restock(item) => {
                let body = object::<_, RestockBody>(json)?;
                commands.restock(ChangeId(body.id.0), item, body.quantity.0);
                Ok(())
            }
            Request::UpdateAccount(party) => {
                let body = object::<_, UpdateAccountBody>(json)?;
                let (id, overdraft) = (ChangeId(body.id.0), Amount(body.overdraft.0));
                commands.set_overdraft(id, party, body.currency.0, overdraft);
                Ok(())
            }
            Request::CloseAccount(party) => {
                let body = object::<_, CloseAccountBody>(json)?;
                let kind = body.kind.0;
                if ![AccountKind::Main, AccountKind::Settlement].contains(&kind) {
                    return Err(D::Error::custom("`kind` must be `main` or `settlement`"));
                }
                commands.close_account(ChangeId(body.id.0), party, body.currency.0, kind);
                Ok(())
            }
            Request::Hold => {
                let body = object::<_, HoldBody>(json)?;
                let (party, kind) = body.account.0;
                if !kind.is_own() {
                    return Err(D::Error::custom("`account` must be one of a party"));
                }
                let amount = Amount(body.amount.0);
                let (id, deadline) = (ChangeId(body.id.0), body.deadline_ms.time());
                commands.hold(id, (party, kind), body.currency.0, amount, deadline);
                Ok(())
            }
            Request::CaptureHold(party, hold) => {
                let body = object::<_, CaptureHoldBody>(json)?;
                let amount = body.amount.map(|amount| Amount(amount.0));
                commands.capture_hold(ChangeId(body.id.0), party, hold, body.to.0, amount);
                Ok(())
            }
            Request::ReleaseHold(party, hold) => {
                let body = object::<_, IdBody>(json)?;
                commands.release_hold(ChangeId(body.id.0), party, hold);
                Ok(())
            }
            Request::Coupon => {
                object::<_, CouponBody>(json)?.push(commands);
                Ok(())
            }
            Request::Coupons => {
                for coupon in object::<_, CouponsBody>(json)?.coupons.0 {
                    coupon.push(commands);
                }
                Ok(())
            }
            Request::Pay(buyer, order) => {
                let body = object::<_, PayBody>(json)?;
                let external = body.payment.0 == PaymentMethod::External;
                let step = if external { PayStep::External } else { PayStep::Balance };
                let body = LegBody { id: body.id, leg: body.leg, amount: body.amount };
                body.push(step, buyer, order, commands);
                Ok(())
            }
            Request::Authorise(buyer, order) => {
                let body = object::<_, LegBody>(json)?;
                body.push(PayStep::Authorise, buyer, order, commands);
                Ok(())
            }
            Request::Capture(buyer, order) => {
                let body = object::<_, LegBody>(json)?;
                body.push(PayStep::External, buyer, order, commands);
                Ok(())
            }
            Request::Void(buyer, order) => {
                let body = object::<_, VoidBody>(json)?;
                let leg = body.leg.map(|leg| leg.0 as u16);
                commands.pay_leg(ChangeId(body.id.0), buyer, order, PayStep::Void, leg, None);
                Ok(())
            }
            Request::Receive(buyer, order) => {
                let body = object::<_, IdBody>(json)?;
                commands.receive(ChangeId(body.id.0), buyer, order);
                Ok(())
            }
            Request::Cancel(buyer, order) => {
                let body = object::<_, IdBody>(json)?;
                commands.cancel(ChangeId(body.id.0), buyer, order);
                Ok(())
            }
            Request::Refund(buyer, order) => {
                let body = object::<_, RefundBody>(json)?;
                let lines = body.lines.map_or(Vec::new(), |lines| lines.0);
                commands.refund(ChangeId(body.id.0), buyer, order, body.restock.0, &lines);
                Ok(())
            }
        }
    }
}

fn set<'de, T: Deserialize<'de>, A: MapAccess<'de>>(
    name: &'static str,
    slot: &mut Option<T>,
    map: &mut A,
) -> Result<(), A::Error> {
    if slot.is_some() {
        return Err(A::Error::duplicate_field(name));
    }
    *slot = Some(map.next_value()?);
    Ok(())
}

fn once<E: de::Error>(name: &'static str, seen: &mut bool) -> Result<(), E> {
    if std::mem::replace(seen, true) { Err(E::duplicate_field(name)) } else { Ok(()) }
}

fn within_batch<E: de::Error>(count: usize) -> Result<(), E> {
    match count <= BATCH_MAX {
        true => Ok(()),
        false => Err(E::custom(format_args!("more than {BATCH_MAX} in one request"))),
    }
}

fn not_empty<E: de::Error>(count: usize) -> Result<(), E> {
    if count > 0 { Ok(()) } else { Err(E::custom("must not be empty")) }
}

#[cfg(test)]
mod tests;
