//! From JSON to commands.
//!
//! The first pass parses straight into the command's layout and keeps no track of where it is.
//! Only when it fails does a second pass, with its path tracked, find the name of the field for
//! the caller: good requests don't pay for bad ones.
//!
//! Values are asked for with `deserialize_any`, whatever is expected. Asked for one type and
//! finding an array or object instead, the parser would skip that, one call deep for each level
//! of it: a few kilobytes of `[` would overflow the stack, and nothing survives that.

mod values;

use std::fmt;

use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use crate::money::STOCK_MAX;
use crate::record::{CommandBuffer, ItemUpdate, LINES_MAX, PlaceWriter, RefundLine, Sale};
use crate::{
    AccountKind, Amount, ChangeId, Currency, ItemId, OrderId, Party, PaymentMethod, Quantity, Time,
};

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
    /// Payment of an order.
    Pay(Party, OrderId),
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
            Request::Pay(buyer, order) => {
                let body = object::<_, PayBody>(json)?;
                commands.pay(ChangeId(body.id.0), buyer, order, body.payment.0);
                Ok(())
            }
            Request::Cancel(buyer, order) => {
                let body = object::<_, CancelBody>(json)?;
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

/// `{"orders": […]}`, each order straight into the buffer.
struct OrdersSeed<'b>(&'b mut CommandBuffer);

impl<'de> DeserializeSeed<'de> for OrdersSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for OrdersSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with `orders`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        #[derive(Deserialize)]
        #[serde(field_identifier, rename_all = "snake_case")]
        enum Field {
            Orders,
        }
        let mut seen = false;
        while let Some(Field::Orders) = map.next_key()? {
            once("orders", &mut seen)?;
            map.next_value_seed(Each { commands: &mut *self.0 })?;
        }
        if seen { Ok(()) } else { Err(A::Error::missing_field("orders")) }
    }
}

/// An array of orders.
struct Each<'b> {
    commands: &'b mut CommandBuffer,
}

impl<'de> DeserializeSeed<'de> for Each<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Each<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of orders")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let mut count = 0;
        while seq.next_element_seed(OrderSeed(self.commands))?.is_some() {
            count += 1;
            within_batch(count)?;
        }
        not_empty(count)
    }
}

/// One order: its lines go into the buffer as they come, its fixed part when it ends.
struct OrderSeed<'b>(&'b mut CommandBuffer);

impl<'de> DeserializeSeed<'de> for OrderSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for OrderSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an order")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        #[derive(Deserialize)]
        #[serde(field_identifier, rename_all = "snake_case")]
        enum Field {
            Buyer,
            Id,
            Currency,
            Payment,
            Lines,
            DeadlineMs,
        }
        let mut place = self.0.place();
        let (mut buyer, mut id, mut currency, mut payment) = (None, None, None, None);
        let mut deadline = None;
        let mut lines = false;
        while let Some(field) = map.next_key()? {
            match field {
                Field::Buyer => set::<PartyId, _>("buyer", &mut buyer, &mut map)?,
                Field::Id => set::<Id, _>("id", &mut id, &mut map)?,
                Field::Currency => set::<CurrencyCode, _>("currency", &mut currency, &mut map)?,
                Field::Payment => set::<Payment, _>("payment", &mut payment, &mut map)?,
                Field::DeadlineMs => set::<TimeMs, _>("deadline_ms", &mut deadline, &mut map)?,
                Field::Lines => {
                    once("lines", &mut lines)?;
                    map.next_value_seed(LinesSeed(&mut place))?;
                }
            }
        }
        let buyer = buyer.ok_or_else(|| A::Error::missing_field("buyer"))?;
        let id = id.ok_or_else(|| A::Error::missing_field("id"))?;
        let currency = currency.ok_or_else(|| A::Error::missing_field("currency"))?;
        let payment = payment.ok_or_else(|| A::Error::missing_field("payment"))?;
        if !lines {
            return Err(A::Error::missing_field("lines"));
        }
        if let Some(deadline) = deadline {
            if payment.0 != PaymentMethod::Awaited {
                let text = "`deadline_ms` is for orders that wait for payment";
                return Err(A::Error::custom(text));
            }
            place.expires(deadline.time());
        }
        place.finish(Party(buyer.0), OrderId(id.0), currency.0, payment.0);
        Ok(())
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

/// The lines of an order.
struct LinesSeed<'a, 'b>(&'a mut PlaceWriter<'b>);

impl<'de> DeserializeSeed<'de> for LinesSeed<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for LinesSeed<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of lines")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(Object(line)) = seq.next_element::<Object<LineBody>>()? {
            if self.0.lines() == LINES_MAX {
                let most = format_args!("more than {LINES_MAX} lines");
                return Err(A::Error::custom(most));
            }
            let price = line.unit_price.map(|price| Amount(price.0));
            self.0.line(ItemId(line.item.0), Quantity(line.quantity.0 as u32), price);
        }
        not_empty(self.0.lines())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LineBody {
    item: Word,
    quantity: Units,
    #[serde(default)]
    unit_price: Option<Money>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AccountBody {
    party: PartyId,
    currency: CurrencyCode,
    #[serde(default)]
    balance: Money,
}

impl AccountBody {
    fn push(&self, commands: &mut CommandBuffer) {
        commands.create_account(Party(self.party.0), self.currency.0, Amount(self.balance.0));
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AccountsBody {
    accounts: Some1<AccountBody>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ItemBody {
    item: Word,
    seller: PartyId,
    currency: CurrencyCode,
    price: Money,
    #[serde(default)]
    stock: Stock,
    #[serde(default)]
    opens_ms: TimeMs,
    #[serde(default)]
    closes_ms: TimeMs,
    #[serde(default)]
    limit: Limit,
}

impl ItemBody {
    fn push<E: de::Error>(&self, commands: &mut CommandBuffer) -> Result<(), E> {
        let (item, seller) = (ItemId(self.item.0), Party(self.seller.0));
        let (opens, closes) = window(&self.opens_ms, &self.closes_ms).map_err(E::custom)?;
        let sale = Sale { opens, closes, limit: self.limit.0 as u32 };
        let price = Amount(self.price.0);
        commands.create_item(item, seller, self.currency.0, price, self.stock.0, sale);
        Ok(())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ItemsBody {
    items: Some1<ItemBody>,
}

/// When a sale begins and ends.
fn window(opens: &TimeMs, closes: &TimeMs) -> Result<(Time, Time), &'static str> {
    match closes.0 == 0 || opens.0 < closes.0 {
        true => Ok((opens.time(), closes.time())),
        false => Err("`closes_ms` must be after `opens_ms`"),
    }
}

/// What isn't named stays as it is; of the window, both ends are named or none.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UpdateItemBody {
    id: Id,
    #[serde(default)]
    price: Option<Money>,
    #[serde(default)]
    opens_ms: Option<TimeMs>,
    #[serde(default)]
    closes_ms: Option<TimeMs>,
    #[serde(default)]
    limit: Option<Limit>,
}

impl UpdateItemBody {
    fn update(&self) -> Result<ItemUpdate, &'static str> {
        let window = match (&self.opens_ms, &self.closes_ms) {
            (None, None) => None,
            (Some(opens), Some(closes)) => Some(window(opens, closes)?),
            _ => return Err("`opens_ms` and `closes_ms` go together; 0 is no bound"),
        };
        let update = ItemUpdate {
            price: self.price.as_ref().map(|price| Amount(price.0)),
            window,
            limit: self.limit.as_ref().map(|limit| limit.0 as u32),
        };
        match update == ItemUpdate::default() {
            true => {
                Err("nothing is to change: name `price`, `limit`, or `opens_ms` and `closes_ms`")
            }
            false => Ok(update),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RestockBody {
    id: Id,
    quantity: StockAdded,
}

struct Transfer {
    id: Id,
    from: AccountName,
    to: AccountName,
    currency: CurrencyCode,
    amount: MoneyMoved,
}

impl<'de> Deserialize<'de> for Transfer {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Transfer, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Body {
            id: Id,
            from: AccountName,
            to: AccountName,
            currency: CurrencyCode,
            amount: MoneyMoved,
        }
        let Body { id, from, to, currency, amount } = object::<_, Body>(json)?;
        if from == to {
            return Err(D::Error::custom("`from` and `to` name the same account"));
        }
        Ok(Transfer { id, from, to, currency, amount })
    }
}

impl Transfer {
    fn push(&self, commands: &mut CommandBuffer) {
        let (id, amount) = (ChangeId(self.id.0), Amount(self.amount.0));
        commands.transfer(id, self.from.0, self.to.0, self.currency.0, amount);
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TransfersBody {
    transfers: Some1<Transfer>,
}

#[derive(PartialEq)]
struct AccountName((Party, AccountKind));

impl<'de> Deserialize<'de> for AccountName {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<AccountName, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Body {
            #[serde(default)]
            party: Option<PartyId>,
            #[serde(default)]
            kind: Kind,
        }
        let body = object::<_, Body>(json)?;
        match (body.kind.0, body.party) {
            (AccountKind::Clearing, None) => Ok(AccountName((Party(0), AccountKind::Clearing))),
            (AccountKind::Clearing, Some(_)) => {
                Err(D::Error::custom("the clearing account has no `party`"))
            }
            (kind, Some(party)) => Ok(AccountName((Party(party.0), kind))),
            (_, None) => Err(D::Error::missing_field("party")),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PayBody {
    id: Id,
    payment: PaymentNow,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CancelBody {
    id: Id,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RefundBody {
    id: Id,
    #[serde(default)]
    lines: Option<RefundLines>,
    #[serde(default)]
    restock: Flag,
}

/// `true` or `false`.
#[derive(Default)]
struct Flag(bool);

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Flag, D::Error> {
        struct Value;
        impl Visitor<'_> for Value {
            type Value = Flag;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a boolean")
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Flag, E> {
                Ok(Flag(value))
            }
        }
        json.deserialize_any(Value)
    }
}

struct RefundLines(Vec<RefundLine>);

impl<'de> Deserialize<'de> for RefundLines {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<RefundLines, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Body {
            line: LineNumber,
            quantity: Units,
        }
        let lines = Some1::<Body>::deserialize(json)?.0;
        if lines.len() > LINES_MAX {
            return Err(D::Error::custom(format_args!("more than {LINES_MAX} lines")));
        }
        let lines = lines.iter().map(|line| RefundLine {
            line: (line.line.0 as u16).into(),
            quantity: (line.quantity.0 as u32).into(),
            ..RefundLine::default()
        });
        Ok(RefundLines(lines.collect()))
    }
}

#[cfg(test)]
mod tests;
