//! Events as CloudEvents 1.0 in their JSON format.
//!
//! <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md>; with the
//! extension attribute `partitionkey` of its partitioning extension.

use crate::event::{Event, EventId, EventType, Subject};
use crate::json::encode::JsonWriter;
use crate::record::{
    ACCOUNT_OVERDRAFT, ANY_LEG, Body, Leg, Line, PAY_STATED, PLACE_FORFEIT, UPDATE_LIMIT,
    UPDATE_PRICE, UPDATE_WINDOW,
};
use crate::{
    AccountKind, Currency, LineKind, Offset, OrderState, Outcome, PayStep, PaymentMethod, ShardId,
};

/// What a type is called in CloudEvents: this, its own word, and the version of its data.
pub const EVENT_TYPE_PREFIX: &str = "crest.";
/// See [`EVENT_TYPE_PREFIX`].
pub const EVENT_TYPE_VERSION: &str = ".v1";

/// Where and when the record of an event was decided.
#[derive(Clone, Copy, Debug)]
pub struct EventPlace<'a> {
    /// Whose events they are: a URI.
    pub source: &'a str,
    /// RFC 3339, in UTC.
    pub time: &'a str,
    /// The shard.
    pub shard: ShardId,
    /// Of the record.
    pub offset: Offset,
}

impl JsonWriter {
    /// An event.
    pub fn event(&mut self, event: &Event<'_>, place: &EventPlace<'_>) {
        let EventPlace { source, time, shard, offset } = *place;
        self.raw("{\"specversion\":\"1.0\",\"id\":\"");
        self.event_id(&EventId { shard, offset, part: event.part });
        self.raw("\",\"source\":\"").raw(source);
        self.raw("\",\"type\":\"").raw(EVENT_TYPE_PREFIX).raw(event.event_type.word());
        self.raw(EVENT_TYPE_VERSION).raw("\",\"subject\":\"").subject(event);
        self.raw("\",\"time\":\"").raw(time).raw("\",\"partitionkey\":\"");
        match event.subject {
            Subject::Party(party) => self.digits(party.0),
            Subject::Item(item) => self.raw("item-").digits(item.0),
        };
        self.raw("\",\"data\":{").data(event);
        self.raw("}}");
    }

    /// The id of an event, as text.
    pub fn event_id(&mut self, id: &EventId) {
        self.digits(id.shard.0.into()).raw("-").digits(id.offset.0);
        if id.part > 0 {
            self.raw("-").digits(id.part.into());
        }
    }

    /// The path below `/v1/` of what it is about.
    fn subject(&mut self, event: &Event<'_>) -> &mut JsonWriter {
        let record = event.record;
        let party = match event.subject {
            Subject::Item(item) => return self.raw("items/").digits(item.0),
            Subject::Party(party) => party.0,
        };
        if let Some(order) = event.order() {
            return self.raw("buyers/").digits(party).raw("/orders/").uuid(order.0);
        }
        let hold = match record.body {
            Body::IssueCoupon(body) => {
                return self
                    .raw("buyers/")
                    .digits(party)
                    .raw("/coupons/")
                    .digits(body.number.get());
            }
            Body::Hold(_) => record.header.id.get(),
            Body::SettleHold(body) => body.hold.get(),
            Body::Timer(body) => body.order.get(),
            _ => return self.raw("accounts/").digits(party),
        };
        self.raw("accounts/").digits(party).raw("/holds/").uuid(hold)
    }

    fn data(&mut self, event: &Event<'_>) {
        if let Some((moved, kind)) = event.moved {
            self.raw("\"party\":").integer(moved.party.get());
            self.word("kind", kind.word()).currency(moved.currency.get());
            self.field("amount", moved.amount.get());
            if moved.id.get() != 0 {
                self.raw(",\"id\":\"").uuid(moved.id.get()).raw("\"");
                self.field("from", moved.from.get());
                self.kind("from_kind", moved.from_kind);
            }
            return;
        }
        let header = event.record.header;
        let name = match (event.subject, event.record.body) {
            (Subject::Item(_), _) => "\"item\":",
            (_, Body::IssueCoupon(_)) => "\"buyer\":",
            _ if event.order().is_some() => "\"buyer\":",
            _ => "\"party\":",
        };
        match event.subject {
            Subject::Party(party) => self.raw(name).integer(party.0),
            Subject::Item(item) => self.raw(name).integer(item.0),
        };
        if let Some(order) = event.order() {
            self.raw(",\"order\":\"").uuid(order.0).raw("\"");
        }
        let outcome = event.record.outcome().unwrap_or(Outcome::Ok);
        if outcome != Outcome::Ok {
            self.word("outcome", outcome.word());
        }
        if let Some(state) = OrderState::from_byte(header.state) {
            self.word("state", state.word());
        }
        self.body(event, outcome == Outcome::Ok);
    }

    /// What a record has beyond whose it is, of which order, and what became of it.
    fn body(&mut self, event: &Event<'_>, done: bool) {
        let header = event.record.header;
        let amount = header.amount.get();
        // Only an order has its own as its id.
        let id = header.id.get();
        if id != 0 && !matches!(event.record.body, Body::Place { .. } | Body::Timer(_)) {
            self.raw(",\"id\":\"").uuid(id).raw("\"");
        }
        match event.record.body {
            Body::Place { order, legs, lines, extras, .. } => {
                self.currency(order.currency.get());
                if order.refused_line.get() > 0 {
                    self.field("line", u64::from(order.refused_line.get()) - 1);
                }
                if done {
                    self.field("total", amount);
                }
                if order.flags & PLACE_FORFEIT != 0 {
                    self.raw(",\"forfeit\":true");
                }
                self.raw(",\"payments\":[");
                for (number, leg) in legs.iter().enumerate() {
                    self.raw(if number > 0 { "," } else { "" }).placed_leg(leg, done);
                }
                self.raw("],\"lines\":[");
                let mut extras = extras.iter().peekable();
                for (number, line) in lines.iter().enumerate() {
                    self.raw(if number > 0 { "," } else { "" }).placed_line(line, done);
                    if let Some(extra) =
                        extras.next_if(|extra| usize::from(extra.line.get()) == number)
                    {
                        for (name, value) in
                            [("payee", extra.payee.get()), ("discount", extra.discount.get())]
                        {
                            if value != 0 {
                                self.field(name, value);
                            }
                        }
                    }
                    self.raw("}");
                }
                self.raw("]");
            }
            Body::Pay(body) => {
                let step = PayStep::from_byte(body.step).unwrap_or(PayStep::External);
                self.word("step", step.word());
                if body.leg.get() != ANY_LEG {
                    self.field("leg", body.leg.get().into());
                }
                self.field("amount", amount);
                let beyond = body.stated.get().saturating_sub(amount);
                if done && step == PayStep::External && body.flags & PAY_STATED != 0 && beyond > 0 {
                    self.field("suspended", beyond);
                }
            }
            Body::Cancel(body) if done => drop(self.returned(amount, body.returned.get())),
            Body::Timer(body) if event.event_type == EventType::OrderExpired => {
                self.returned(amount, body.returned.get());
            }
            Body::Timer(_) => {
                self.raw(",\"hold\":\"").subject_hold(event).field("amount", amount);
            }
            Body::Cancel(_) => drop(self.word("change", "cancel")),
            Body::Receive(_) if done => {}
            Body::Receive(_) => drop(self.word("change", "receive")),
            Body::Refund { refund, lines } => {
                if !done {
                    self.word("change", "refund");
                }
                if refund.refused_line.get() > 0 {
                    self.field("line", u64::from(refund.refused_line.get()) - 1);
                }
                if done {
                    self.returned(amount, refund.returned.get());
                }
                if refund.flags & crate::record::REFUND_RESTOCK != 0 {
                    self.raw(",\"restock\":true");
                }
                if !lines.is_empty() {
                    self.raw(",\"lines\":[");
                    for (number, line) in lines.iter().enumerate() {
                        self.raw(if number > 0 { ",{\"line\":" } else { "{\"line\":" });
                        self.integer(line.line.get().into());
                        self.field("quantity", line.quantity.get().into()).raw("}");
                    }
                    self.raw("]");
                }
            }
            Body::CreateAccount(body) => {
                self.kind("kind", body.kind).currency(body.currency.get());
                self.field("balance", body.balance.get());
                self.field("overdraft", body.overdraft.get());
            }
            Body::UpdateAccount(body) => {
                self.kind("kind", body.kind).currency(body.currency.get());
                if body.flags & ACCOUNT_OVERDRAFT != 0 {
                    self.field("overdraft", body.overdraft.get());
                }
            }
            Body::Transfer(body) => {
                self.currency(body.currency.get()).field("amount", body.moved.get());
                self.field("debit", header.scope.get()).kind("debit_kind", body.debit_kind);
                self.field("credit", body.credit_party.get());
                self.kind("credit_kind", body.credit_kind);
            }
            Body::CreateItem(body) => {
                self.field("seller", body.seller.get()).currency(body.currency.get());
                self.field("price", body.price.get()).field("stock", body.stock.get());
                self.window(body.opens.get(), body.closes.get());
                if body.limit.get() != 0 {
                    self.field("limit", body.limit.get().into());
                }
            }
            Body::Restock(body) => drop(self.field("quantity", body.quantity.get())),
            Body::UpdateItem(body) => {
                if body.flags & UPDATE_PRICE != 0 {
                    self.field("price", body.price.get());
                }
                if body.flags & UPDATE_WINDOW != 0 {
                    self.raw(",\"window\":true").window(body.opens.get(), body.closes.get());
                }
                if body.flags & UPDATE_LIMIT != 0 {
                    self.field("limit", body.limit.get().into());
                }
            }
            Body::Hold(body) => {
                self.kind("kind", body.kind).currency(body.currency.get());
                self.field("amount", body.held.get()).milliseconds("deadline", body.deadline.get());
            }
            Body::SettleHold(body) => {
                self.raw(",\"hold\":\"").subject_hold(event).field("amount", amount);
                if body.op != 0 {
                    self.field("credit", body.credit_party.get());
                    self.kind("credit_kind", body.credit_kind);
                }
            }
            Body::IssueCoupon(body) => {
                self.field("coupon", body.number.get()).field("funder", body.funder.get());
                if body.seller.get() != 0 {
                    self.field("seller", body.seller.get());
                }
                self.currency(body.currency.get()).field("amount", body.amount.get());
                self.field("minimum", body.minimum.get());
                self.milliseconds("expires", body.expires.get());
            }
            Body::Sweep(body) => {
                self.currency(body.currency.get()).field("amount", amount);
            }
            Body::Deliver { .. } | Body::Stock(_) | Body::Evict { .. } | Body::Load { .. } => {}
        }
    }

    fn subject_hold(&mut self, event: &Event<'_>) -> &mut JsonWriter {
        let hold = match event.record.body {
            Body::SettleHold(body) => body.hold.get(),
            Body::Timer(body) => body.order.get(),
            _ => event.record.header.id.get(),
        };
        self.uuid(hold).raw("\"")
    }

    fn placed_leg(&mut self, leg: &Leg, done: bool) {
        let method = PaymentMethod::from_byte(leg.method).unwrap_or(PaymentMethod::Awaited);
        self.raw("{\"method\":\"").raw(method.word()).raw("\"");
        if done {
            self.field("amount", leg.amount.get());
        }
        match method {
            PaymentMethod::Coupon => drop(self.field("coupon", leg.term.get())),
            _ => drop(self.milliseconds("deadline", leg.term.get())),
        }
        self.raw("}");
    }

    /// Without the closing brace.
    fn placed_line(&mut self, line: &Line, done: bool) {
        match LineKind::from_byte(line.kind).unwrap_or(LineKind::Goods) {
            LineKind::Goods => self.raw("{\"item\":"),
            kind => self.raw("{\"kind\":\"").raw(kind.word()).raw("\",\"payee\":"),
        };
        self.integer(line.item.get()).field("quantity", line.quantity.get().into());
        if done {
            self.field("unit_price", line.unit_price.get());
        }
    }

    fn returned(&mut self, amount: u64, returned: u64) -> &mut JsonWriter {
        self.field("amount", amount).field("returned", returned)
    }

    fn window(&mut self, opens: u64, closes: u64) {
        self.milliseconds("opens", opens).milliseconds("closes", closes);
    }

    /// A time that is given as µs, and left out if it is 0.
    fn milliseconds(&mut self, name: &str, time: u64) -> &mut JsonWriter {
        if time == 0 {
            return self;
        }
        self.raw(",\"").raw(name).raw("_ms\":").integer(time / 1_000)
    }

    fn field(&mut self, name: &str, value: u64) -> &mut JsonWriter {
        self.raw(",\"").raw(name).raw("\":").integer(value)
    }

    fn word(&mut self, name: &str, word: &str) -> &mut JsonWriter {
        self.raw(",\"").raw(name).raw("\":\"").raw(word).raw("\"")
    }

    fn kind(&mut self, name: &str, byte: u8) -> &mut JsonWriter {
        self.word(name, AccountKind::from_byte(byte).unwrap_or(AccountKind::Main).word())
    }

    fn currency(&mut self, numeric: u16) -> &mut JsonWriter {
        match Currency::from_numeric(numeric) {
            Some(currency) => self.word("currency", currency.code()),
            None => self,
        }
    }

    fn digits(&mut self, value: u64) -> &mut JsonWriter {
        self.raw(itoa::Buffer::new().format(value))
    }

    fn uuid(&mut self, id: u128) -> &mut JsonWriter {
        let mut text = uuid::Uuid::encode_buffer();
        let id = uuid::Uuid::from_u128(id);
        self.raw(id.as_hyphenated().encode_lower(&mut text))
    }
}
