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
use crate::record::{
    CommandBuffer, Coupon, ItemUpdate, LEGS_MAX, LINES_MAX, NewLeg, NewLine, PlaceWriter, Price,
    RefundLine, Sale,
};
use crate::{
    AccountKind, Amount, ChangeId, Currency, ItemId, LineKind, OrderId, Party, PayStep,
    PaymentMethod, Quantity, Time,
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
            Payments,
            Lines,
            DeadlineMs,
            Forfeit,
        }
        let mut place = self.0.place();
        let (mut buyer, mut id, mut currency, mut payment) = (None, None, None, None);
        let (mut deadline, mut payments, mut forfeit) = (None, None, None);
        let mut lines = false;
        while let Some(field) = map.next_key()? {
            match field {
                Field::Buyer => set::<PartyId, _>("buyer", &mut buyer, &mut map)?,
                Field::Id => set::<Id, _>("id", &mut id, &mut map)?,
                Field::Currency => set::<CurrencyCode, _>("currency", &mut currency, &mut map)?,
                Field::Payment => set::<Payment, _>("payment", &mut payment, &mut map)?,
                Field::Payments => set::<Legs, _>("payments", &mut payments, &mut map)?,
                Field::Forfeit => set::<Flag, _>("forfeit", &mut forfeit, &mut map)?,
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
        if !lines {
            return Err(A::Error::missing_field("lines"));
        }
        let (buyer, id, currency) = (Party(buyer.0), OrderId(id.0), currency.0);
        let awaits = match (&payment, &payments) {
            (Some(Payment(method)), None) => *method == PaymentMethod::Awaited,
            (None, Some(Legs(legs))) => {
                legs.iter().any(|leg| matches!(leg, NewLeg::Awaited(..))) && deadline.is_none()
            }
            (None, None) => return Err(A::Error::missing_field("payment")),
            (Some(_), Some(_)) => {
                return Err(A::Error::custom("`payment` and `payments` exclude each other"));
            }
        };
        if let Some(deadline) = deadline {
            if !awaits {
                let text = "`deadline_ms` is for orders that wait for payment; among `payments`, \
                            each that is awaited has its own";
                return Err(A::Error::custom(text));
            }
            place.expires(deadline.time());
        }
        if let Some(Flag(true)) = forfeit {
            if !awaits {
                return Err(A::Error::custom("`forfeit` is for orders that wait for payment"));
            }
            place.forfeits();
        }
        match (payment, payments) {
            (_, Some(Legs(legs))) => place.finish_legs(buyer, id, currency, &legs),
            (Some(Payment(method)), _) => place.finish(buyer, id, currency, method),
            (None, None) => unreachable!("one of them was found"),
        }
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
        while let Some(OneLine(line)) = seq.next_element()? {
            if self.0.lines() == LINES_MAX {
                let most = format_args!("more than {LINES_MAX} lines");
                return Err(A::Error::custom(most));
            }
            self.0.add(&line);
        }
        not_empty(self.0.lines())
    }
}

/// A line that was looked at whole while it was read, so that an error names its place.
struct OneLine(NewLine);

impl<'de> Deserialize<'de> for OneLine {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<OneLine, D::Error> {
        let Object(body) = Object::<LineBody>::deserialize(json)?;
        body.line().map(OneLine).map_err(D::Error::custom)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LineBody {
    #[serde(default)]
    item: Option<Word>,
    #[serde(default)]
    quantity: Option<Units>,
    #[serde(default)]
    unit_price: Option<Money>,
    #[serde(default)]
    list_price: Option<Money>,
    #[serde(default)]
    payee: Option<PartyId>,
    #[serde(default)]
    discount: Money,
    #[serde(default)]
    kind: Option<ChargeKind>,
}

impl LineBody {
    fn line(&self) -> Result<NewLine, &'static str> {
        let price = match (&self.unit_price, &self.list_price) {
            (None, None) => Price::List,
            (Some(agreed), None) => Price::Agreed(Amount(agreed.0)),
            (None, Some(listed)) => Price::Checked(Amount(listed.0)),
            _ => return Err("`unit_price` and `list_price` exclude each other"),
        };
        let kind = self.kind.as_ref().map_or(LineKind::Goods, |kind| kind.0);
        let payee = self.payee.as_ref().map(|payee| Party(payee.0));
        let quantity = self.quantity.as_ref().map(|units| Quantity(units.0 as u32));
        let item = self.item.as_ref().map(|item| item.0);
        let (item, payee, quantity) = match (kind, item, payee) {
            (LineKind::Goods, Some(item), payee) => {
                (item, payee, quantity.ok_or("missing field `quantity`")?)
            }
            (LineKind::Goods, None, _) => return Err("missing field `item`"),
            (_, Some(_), _) => return Err("`item` is for goods"),
            (_, None, None) => return Err("missing field `payee`"),
            (_, None, Some(_)) if self.unit_price.is_none() => {
                return Err("missing field `unit_price`");
            }
            (_, None, Some(payee)) => (payee.0, None, quantity.unwrap_or(Quantity(1))),
        };
        Ok(NewLine { kind, item, quantity, price, payee, discount: Amount(self.discount.0) })
    }
}

/// The payment legs of an order.
struct Legs(Vec<NewLeg>);

impl<'de> Deserialize<'de> for Legs {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Legs, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Body {
            method: LegMethod,
            #[serde(default)]
            amount: Option<Money>,
            #[serde(default)]
            deadline_ms: TimeMs,
            #[serde(default)]
            coupon: Option<Word>,
        }
        let bodies = Some1::<Body>::deserialize(json)?.0;
        if bodies.len() > LEGS_MAX {
            return Err(D::Error::custom(format_args!("more than {LEGS_MAX} payments")));
        }
        let mut legs = Vec::with_capacity(bodies.len());
        let mut rests = 0;
        for body in bodies {
            let amount = body.amount.map(|amount| Amount(amount.0));
            let is_coupon = body.method.0 == PaymentMethod::Coupon;
            rests += u32::from(amount.is_none() && !is_coupon);
            let text = match () {
                () if is_coupon != body.coupon.is_some() => "`coupon` goes with the method coupon",
                () if is_coupon && amount.is_some() => "a coupon has an amount of its own",
                () if body.deadline_ms.0 != 0 && body.method.0 != PaymentMethod::Awaited => {
                    "`deadline_ms` is for what is awaited"
                }
                () if rests > 1 => "one of the payments at most may be without an `amount`",
                () => "",
            };
            if !text.is_empty() {
                return Err(D::Error::custom(text));
            }
            legs.push(match body.method.0 {
                PaymentMethod::Balance => NewLeg::Balance(amount),
                PaymentMethod::External => NewLeg::External(amount),
                PaymentMethod::Awaited => NewLeg::Awaited(amount, body.deadline_ms.time()),
                PaymentMethod::Coupon => NewLeg::Coupon(body.coupon.map_or(0, |it| it.0)),
            });
        }
        Ok(Legs(legs))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AccountBody {
    party: PartyId,
    currency: CurrencyCode,
    #[serde(default)]
    balance: Money,
    #[serde(default)]
    overdraft: Money,
}

impl AccountBody {
    fn push(&self, commands: &mut CommandBuffer) {
        let (balance, overdraft) = (Amount(self.balance.0), Amount(self.overdraft.0));
        commands.create_overdraft(Party(self.party.0), self.currency.0, balance, overdraft);
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UpdateAccountBody {
    id: Id,
    currency: CurrencyCode,
    overdraft: Money,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CloseAccountBody {
    id: Id,
    currency: CurrencyCode,
    #[serde(default)]
    kind: Kind,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HoldBody {
    id: Id,
    account: AccountName,
    currency: CurrencyCode,
    amount: MoneyMoved,
    #[serde(default)]
    deadline_ms: TimeMs,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CaptureHoldBody {
    id: Id,
    to: AccountName,
    #[serde(default)]
    amount: Option<MoneyMoved>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CouponBody {
    buyer: PartyId,
    coupon: Word,
    funder: PartyId,
    #[serde(default)]
    seller: Option<PartyId>,
    currency: CurrencyCode,
    amount: MoneyMoved,
    #[serde(default)]
    minimum: Money,
    #[serde(default)]
    expires_ms: TimeMs,
}

impl CouponBody {
    fn push(&self, commands: &mut CommandBuffer) {
        let coupon = Coupon {
            funder: Party(self.funder.0),
            seller: self.seller.as_ref().map(|seller| Party(seller.0)),
            currency: self.currency.0,
            amount: Amount(self.amount.0),
            minimum: Amount(self.minimum.0),
            expires: self.expires_ms.time(),
        };
        commands.issue_coupon(Party(self.buyer.0), self.coupon.0, &coupon);
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CouponsBody {
    coupons: Some1<CouponBody>,
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
    #[serde(default)]
    leg: Option<LegNumber>,
    #[serde(default)]
    amount: Option<MoneyMoved>,
}

/// What is done about a payment leg; without a number the first that is open, without an amount
/// what is open of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LegBody {
    id: Id,
    #[serde(default)]
    leg: Option<LegNumber>,
    #[serde(default)]
    amount: Option<MoneyMoved>,
}

impl LegBody {
    fn push(&self, step: PayStep, buyer: Party, order: OrderId, commands: &mut CommandBuffer) {
        let leg = self.leg.as_ref().map(|leg| leg.0 as u16);
        let amount = self.amount.as_ref().map(|amount| Amount(amount.0));
        commands.pay_leg(ChangeId(self.id.0), buyer, order, step, leg, amount);
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VoidBody {
    id: Id,
    #[serde(default)]
    leg: Option<LegNumber>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IdBody {
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
