//! From JSON to commands.
//!
//! The first pass parses straight into the command's layout and keeps no track of where it is.
//! Only when it fails does a second pass, with its path tracked, find the name of the field for
//! the caller: good requests don't pay for bad ones.
//!
//! Values are asked for with `deserialize_any`, whatever is expected. Asked for one type and
//! finding an array or object instead, the parser would skip that, one call deep for each level
//! of it: a few kilobytes of `[` would overflow the stack, and nothing survives that.

use std::fmt;

use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use crate::money::STOCK_MAX;
use crate::record::{CommandBuffer, LINES_MAX, PlaceWriter, RefundLine};
use crate::{
    AccountKind, Amount, ChangeId, Currency, ItemId, OrderId, Party, PaymentMethod, Quantity,
};

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
            Request::Item => {
                object::<_, ItemBody>(json)?.push(commands);
                Ok(())
            }
            Request::Items => {
                for item in object::<_, ItemsBody>(json)?.items.0 {
                    item.push(commands);
                }
                Ok(())
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
        }
        let mut place = self.0.place();
        let (mut buyer, mut id, mut currency, mut payment) = (None, None, None, None);
        let mut lines = false;
        while let Some(field) = map.next_key()? {
            match field {
                Field::Buyer => set::<PartyId, _>("buyer", &mut buyer, &mut map)?,
                Field::Id => set::<Id, _>("id", &mut id, &mut map)?,
                Field::Currency => set::<CurrencyCode, _>("currency", &mut currency, &mut map)?,
                Field::Payment => set::<Payment, _>("payment", &mut payment, &mut map)?,
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
}

impl ItemBody {
    fn push(&self, commands: &mut CommandBuffer) {
        let (item, seller) = (ItemId(self.item.0), Party(self.seller.0));
        commands.create_item(item, seller, self.currency.0, Amount(self.price.0), self.stock.0);
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ItemsBody {
    items: Some1<ItemBody>,
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

/// A struct given as an object. Derived code alone would take an array of its fields, too.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Object<T>, D::Error> {
        struct Fields<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(de::value::MapAccessDeserializer::new(map))
            }
        }
        json.deserialize_any(Fields(std::marker::PhantomData)).map(Object)
    }
}

fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(json: D) -> Result<T, D::Error> {
    Object::deserialize(json).map(|Object(value)| value)
}

/// An array of 1 to [`BATCH_MAX`].
struct Some1<T>(Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Some1<T> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Some1<T>, D::Error> {
        struct Values<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Values<T> {
            type Value = Vec<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
                let mut values = Vec::new();
                while let Some(Object(value)) = seq.next_element()? {
                    within_batch(values.len() + 1)?;
                    values.push(value);
                }
                not_empty(values.len())?;
                Ok(values)
            }
        }
        json.deserialize_any(Values(std::marker::PhantomData)).map(Some1)
    }
}

/// Declares an integer with its range, given as a number or a string of digits.
macro_rules! ranged {
    ($($(#[$attr:meta])* $name:ident($low:expr, $high:expr),)*) => {$(
        $(#[$attr])*
        struct $name(u64);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(json: D) -> Result<$name, D::Error> {
                json.deserialize_any(Integer { low: $low, high: $high }).map($name)
            }
        }
    )*};
}

ranged! {
    PartyId(1, u64::MAX),
    Word(0, u64::MAX),
    Units(1, Quantity::MAX.0 as u64),
    LineNumber(0, LINES_MAX as u64 - 1),
    #[derive(Default)]
    Money(0, Amount::MAX.0),
    MoneyMoved(1, Amount::MAX.0),
    #[derive(Default)]
    Stock(0, STOCK_MAX),
    StockAdded(1, STOCK_MAX),
}

struct Integer {
    low: u64,
    high: u64,
}

impl Integer {
    fn check<E: de::Error>(&self, value: u64) -> Result<u64, E> {
        match (self.low..=self.high).contains(&value) {
            true => Ok(value),
            false => Err(E::custom(format_args!("{value} is not {}", self.range()))),
        }
    }

    fn range(&self) -> String {
        format!("an integer from {} to {}", self.low, self.high)
    }
}

impl Visitor<'_> for Integer {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.range())
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<u64, E> {
        self.check(value)
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<u64, E> {
        match u64::try_from(value) {
            Ok(value) => self.check(value),
            Err(_) => Err(E::custom(format_args!("{value} is not {}", self.range()))),
        }
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<u64, E> {
        // `parse` alone would take a plus sign.
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse() {
            Ok(value) if digits => self.check(value),
            _ => Err(E::custom(format_args!("{text:?} is not {}", self.range()))),
        }
    }
}

/// A UUID in its hyphenated form, not nil.
struct Id(u128);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Id, D::Error> {
        words(json, "a UUID such as 01890a5d-ac96-774b-bcce-b302099a8057", |text| {
            parse_uuid(text).map(Id)
        })
    }
}

/// A hyphenated UUID that isn't nil, as a number.
pub fn parse_uuid(text: &str) -> Option<u128> {
    if text.len() != 36 {
        return None;
    }
    let id = uuid::Uuid::try_parse_ascii(text.as_bytes()).ok()?.as_u128();
    (id != 0).then_some(id)
}

struct CurrencyCode(Currency);

impl<'de> Deserialize<'de> for CurrencyCode {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<CurrencyCode, D::Error> {
        words(json, "an ISO 4217 code such as GBP", |text| {
            Currency::from_code(text).map(CurrencyCode)
        })
    }
}

struct Payment(PaymentMethod);

impl<'de> Deserialize<'de> for Payment {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Payment, D::Error> {
        words(json, "`balance`, `external` or `await`", |text| {
            PaymentMethod::from_word(text).map(Payment)
        })
    }
}

/// How an order that waits is paid.
struct PaymentNow(PaymentMethod);

impl<'de> Deserialize<'de> for PaymentNow {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<PaymentNow, D::Error> {
        words(json, "`balance` or `external`", |text| {
            let method = PaymentMethod::from_word(text);
            method.filter(|method| *method != PaymentMethod::Awaited).map(PaymentNow)
        })
    }
}

struct Kind(AccountKind);

impl Default for Kind {
    fn default() -> Kind {
        Kind(AccountKind::Main)
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Kind, D::Error> {
        words(json, "`main`, `payable` or `clearing`", |text| {
            AccountKind::from_word(text).map(Kind)
        })
    }
}

/// A string that `parse` understands.
fn words<'de, D: Deserializer<'de>, T>(
    json: D,
    expected: &'static str,
    parse: fn(&str) -> Option<T>,
) -> Result<T, D::Error> {
    struct Words<T> {
        expected: &'static str,
        parse: fn(&str) -> Option<T>,
    }
    impl<T> Visitor<'_> for Words<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.expected)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            (self.parse)(text)
                .ok_or_else(|| E::custom(format_args!("{text:?} is not {}", self.expected)))
        }
    }
    json.deserialize_any(Words { expected, parse })
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::*;
    use crate::record::Body;

    const ID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

    fn decoded(request: Request, body: &str) -> Result<CommandBuffer, DecodeError> {
        let mut commands = CommandBuffer::default();
        decode(request, body.as_bytes(), &mut commands)?;
        for record in commands.records() {
            record.expect("what was decoded is a record");
        }
        Ok(commands)
    }

    fn refused(request: Request, body: &str, expected: Expect) {
        let error = decoded(request, &body.replace("ID", ID)).unwrap_err();
        expected.assert_eq(&error.to_string());
    }

    #[test]
    fn an_order_becomes_its_bytes_whatever_the_order_of_its_fields() {
        let body = format!(
            r#"{{"lines":[{{"quantity":2,"item":7}},{{"item":"18446744073709551615","quantity":1,"unit_price":0}}],
                "payment":"external","currency":"GBP","id":"{ID}","buyer":9}}"#
        );
        let commands = decoded(Request::Order, &body).unwrap();
        let record = commands.records().next().unwrap().unwrap();
        assert_eq!((record.party(), record.order().unwrap().to_string()), (Party(9), ID.into()));
        let Body::Place { leg, lines, .. } = record.body else { panic!("{record:?}") };
        assert_eq!(leg.method, PaymentMethod::External as u8);
        let lines: Vec<_> =
            lines.iter().map(|l| (l.item.get(), l.quantity.get(), l.flags)).collect();
        assert_eq!(lines, [(7, 2, 0), (u64::MAX, 1, 1)]);
    }

    #[test]
    fn a_bad_order_is_named_by_its_field() {
        let order = |lines: &str| {
            format!(
                r#"{{"orders":[{{"buyer":1,"id":"ID","currency":"GBP","payment":"balance","lines":{lines}}}]}}"#
            )
        };
        refused(
            Request::Orders,
            &order(r#"[{"item":1,"quantity":0}]"#),
            expect![["orders[0].lines[0].quantity: 0 is not an integer from 1 to 1000000000"]],
        );
        refused(
            Request::Orders,
            &order(r#"[{"item":1,"quantity":-1}]"#),
            expect![["orders[0].lines[0].quantity: -1 is not an integer from 1 to 1000000000"]],
        );
        refused(
            Request::Orders,
            &order(r#"[{"item":1,"quantity":1.5}]"#),
            expect![
                "orders[0].lines[0].quantity: invalid type: floating point `1.5`, expected an integer from 1 to 1000000000"
            ],
        );
        refused(
            Request::Orders,
            &order(r#"[{"item":1}]"#),
            expect!["orders[0].lines[0].quantity: missing field `quantity`"],
        );
        refused(
            Request::Orders,
            &order(r#"[{"item":1,"quantity":1,"colour":2}]"#),
            expect![
                "orders[0].lines[0].colour: unknown field `colour`, expected one of `item`, `quantity`, `unit_price`"
            ],
        );
        refused(
            Request::Orders,
            &order(r#"[{"item":1,"quantity":1,"item":2}]"#),
            expect!["orders[0].lines[0].item: duplicate field `item`"],
        );
        refused(
            Request::Orders,
            &order(r#"[[1,1]]"#),
            expect!["orders[0].lines[0]: invalid type: sequence, expected an object"],
        );
        refused(Request::Orders, &order(r#"[]"#), expect!["orders[0].lines: must not be empty"]);
        refused(
            Request::Orders,
            &order(r#"[{"item":1,"quantity":1,"unit_price":1000000000000001}]"#),
            expect![
                "orders[0].lines[0].unit_price: 1000000000000001 is not an integer from 0 to 1000000000000000"
            ],
        );
        refused(
            Request::Orders,
            &order(r#"[{"item":99999999999999999999,"quantity":1}]"#),
            expect![
                "orders[0].lines[0].item: invalid type: floating point `100000000000000000000.0`, expected an integer from 0 to 18446744073709551615"
            ],
        );
        refused(Request::Orders, r#"{"orders":[]}"#, expect!["orders: must not be empty"]);
        refused(
            Request::Orders,
            r#"{"order":[]}"#,
            expect!["order: unknown field `order`, expected `orders`"],
        );
        refused(Request::Orders, r#"{}"#, expect!["orders: missing field `orders`"]);
        refused(
            Request::Orders,
            r#"{"orders":[{"buyer":1]}"#,
            expect![
                "Expected this character to be either a ',' or a '}' while parsing at line 1 column 22"
            ],
        );
        refused(Request::Order, r#""#, expect!["EOF while parsing at line 1 column 1"]);
        refused(Request::Order, r#"[]"#, expect!["invalid type: sequence, expected an order"]);
        refused(
            Request::Order,
            r#"{"buyer":0}"#,
            expect!["buyer: 0 is not an integer from 1 to 18446744073709551615"],
        );
        refused(
            Request::Order,
            r#"{"buyer":1,"buyer":1}"#,
            expect!["buyer: duplicate field `buyer`"],
        );
        refused(
            Request::Order,
            r#"{"id":"00000000-0000-0000-0000-000000000000"}"#,
            expect![[
                r#"id: "00000000-0000-0000-0000-000000000000" is not a UUID such as 01890a5d-ac96-774b-bcce-b302099a8057"#
            ]],
        );
        refused(
            Request::Order,
            r#"{"currency":"gbp"}"#,
            expect![[r#"currency: "gbp" is not an ISO 4217 code such as GBP"#]],
        );
        refused(
            Request::Order,
            r#"{"payment":"card"}"#,
            expect![[r#"payment: "card" is not `balance`, `external` or `await`"#]],
        );
    }

    #[test]
    fn other_bodies_are_named_by_their_field() {
        let refund = Request::Refund(Party(1), OrderId(1));
        refused(
            refund,
            r#"{"id":"ID","lines":[{"line":0,"quantity":1},{"line":2000,"quantity":1}]}"#,
            expect!["lines[1].line: 2000 is not an integer from 0 to 1999"],
        );
        refused(refund, r#"{"id":"ID","lines":[]}"#, expect!["lines: must not be empty"]);
        refused(
            Request::Transfer,
            r#"{"id":"ID","from":{"kind":"clearing","party":1},"to":{"party":2},"currency":"GBP","amount":1}"#,
            expect!["from: the clearing account has no `party`"],
        );
        refused(
            Request::Transfer,
            r#"{"id":"ID","from":{"party":2},"to":{"party":2},"currency":"GBP","amount":1}"#,
            expect!["`from` and `to` name the same account"],
        );
        refused(
            Request::Transfers,
            r#"{"transfers":[{"id":"ID","from":{"party":1},"to":{"party":2},"currency":"GBP","amount":1},{"id":"ID","from":{"party":2},"to":{},"currency":"GBP","amount":1}]}"#,
            expect!["transfers[1].to.party: missing field `party`"],
        );
        refused(
            Request::Transfers,
            r#"{"transfers":[{"id":"ID","from":{"party":2},"to":{"party":2},"currency":"GBP","amount":1}]}"#,
            expect!["transfers[0]: `from` and `to` name the same account"],
        );
        refused(
            Request::Accounts,
            r#"{"accounts":[{"party":1,"currency":"GBP","balance":-5}]}"#,
            expect!["accounts[0].balance: -5 is not an integer from 0 to 1000000000000000"],
        );
        refused(
            Request::Pay(Party(1), OrderId(1)),
            r#"{"id":"ID","payment":"await"}"#,
            expect![[r#"payment: "await" is not `balance` or `external`"#]],
        );
        refused(
            Request::Cancel(Party(1), OrderId(1)),
            r#"{"id":"ID"} x"#,
            expect!["something follows after the end of the JSON"],
        );
    }

    #[test]
    fn a_body_that_fails_leaves_nothing() {
        let mut commands = decoded(Request::Account, r#"{"party":1,"currency":"GBP"}"#).unwrap();
        let before = commands.bytes().to_vec();
        let bad = r#"{"accounts":[{"party":1,"currency":"GBP"},{"party":1}]}"#;
        decode(Request::Accounts, bad.as_bytes(), &mut commands).unwrap_err();
        assert_eq!((commands.bytes(), commands.count()), (&before[..], 1));
    }

    #[test]
    fn bounds_are_exact() {
        let order = |lines: usize| {
            let lines = vec![r#"{"item":1,"quantity":1}"#; lines].join(",");
            format!(
                r#"{{"buyer":1,"id":"{ID}","currency":"GBP","payment":"await","lines":[{lines}]}}"#
            )
        };
        decoded(Request::Order, &order(LINES_MAX)).unwrap();
        refused(Request::Order, &order(LINES_MAX + 1), expect!["lines: more than 2000 lines"]);
        let orders = |n: usize| format!(r#"{{"orders":[{}]}}"#, vec![order(1); n].join(","));
        assert_eq!(decoded(Request::Orders, &orders(BATCH_MAX)).unwrap().count(), 10_000);
        refused(
            Request::Orders,
            &orders(BATCH_MAX + 1),
            expect!["orders: more than 10000 in one request"],
        );
    }

    #[test]
    fn depth_is_refused_and_not_followed() {
        let order = Request::Pay(Party(1), OrderId(1));
        let refund = Request::Refund(Party(1), OrderId(1));
        let bodies = [
            (Request::Order, "DEEP"),
            (Request::Order, r#"{"buyer":DEEP"#),
            (Request::Order, r#"{"id":DEEP"#),
            (Request::Order, r#"{"lines":DEEP"#),
            (Request::Order, r#"{"lines":[{"item":DEEP"#),
            (Request::Order, r#"{"lines":[{"unit_price":DEEP"#),
            (Request::Order, r#"{"other":DEEP"#),
            (Request::Orders, "DEEP"),
            (Request::Orders, r#"{"orders":DEEP"#),
            (Request::Account, "DEEP"),
            (Request::Accounts, r#"{"accounts":DEEP"#),
            (Request::Item, r#"{"currency":DEEP"#),
            (Request::Restock(ItemId(1)), r#"{"quantity":DEEP"#),
            (Request::Transfer, r#"{"from":DEEP"#),
            (Request::Transfer, r#"{"from":{"kind":DEEP"#),
            (Request::Transfer, r#"{"from":{"party":DEEP"#),
            (order, r#"{"payment":DEEP"#),
            (refund, r#"{"restock":DEEP"#),
            (refund, r#"{"lines":DEEP"#),
            (refund, r#"{"lines":[{"line":DEEP"#),
        ];
        for (request, body) in bodies {
            for deep in ["[", r#"{"a":"#, r#"[{"lines":"#] {
                let body = body.replace("DEEP", &deep.repeat(200_000));
                decoded(request, &body).unwrap_err();
            }
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(body in ".{0,200}") {
            let _ = decoded(Request::Orders, &body);
        }

        #[test]
        fn a_changed_byte_is_refused_or_still_an_order(at in 0usize..150, byte: u8) {
            let mut body = format!(
                r#"{{"orders":[{{"buyer":1,"id":"{ID}","currency":"GBP","payment":"balance","lines":[{{"item":1,"quantity":1}}]}}]}}"#
            ).into_bytes();
            let at = at % body.len();
            body[at] = byte;
            let mut commands = CommandBuffer::default();
            let done = decode(Request::Orders, &body, &mut commands);
            prop_assert_eq!(commands.count(), u32::from(done.is_ok()));
            prop_assert!(commands.records().all(|record| record.is_ok()));
        }
    }
}
