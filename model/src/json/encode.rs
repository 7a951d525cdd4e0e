//! From answers to JSON.

use crate::reply::{
    AccountView, CouponView, HoldView, ItemView, LegView, LineView, OrderView, Reply,
};
use crate::{LineKind, Offset, OrderId, OrderState, Outcome, Party, PaymentMethod};

/// The largest integer that every JSON reader takes exactly.
const EXACT_MAX: u64 = 1 << 53;

/// A growing JSON text. The caller closes what it opens.
#[derive(Debug, Default)]
pub struct JsonWriter {
    text: Vec<u8>,
}

impl JsonWriter {
    /// Writes behind what `text` holds.
    pub fn new(text: Vec<u8>) -> JsonWriter {
        JsonWriter { text }
    }

    /// Bytes that were written so far.
    pub fn length(&self) -> usize {
        self.text.len()
    }

    /// Ends a line.
    pub fn end_line(&mut self) {
        self.raw("\n");
    }

    /// What was written.
    pub fn finish(self) -> Vec<u8> {
        self.text
    }

    pub(super) fn raw(&mut self, text: &str) -> &mut JsonWriter {
        self.text.extend_from_slice(text.as_bytes());
        self
    }

    /// An integer; past 2⁵³ as a string.
    pub(super) fn integer(&mut self, value: u64) -> &mut JsonWriter {
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(value);
        if value <= EXACT_MAX { self.raw(digits) } else { self.raw("\"").raw(digits).raw("\"") }
    }

    /// `{"results":[…]}`, one result for each reply, in order.
    pub fn results(&mut self, replies: &[Reply], amount_name: Option<&str>) {
        self.text.reserve(16 + replies.len() * 56);
        self.raw("{\"results\":[");
        for (number, reply) in replies.iter().enumerate() {
            if number > 0 {
                self.raw(",");
            }
            self.result(reply, amount_name);
        }
        self.raw("]}");
    }

    /// One result. `amount_name` says what its amount is to the caller, where there is one.
    pub fn result(&mut self, reply: &Reply, amount_name: Option<&str>) {
        self.raw("{\"outcome\":\"").raw(reply.outcome.word()).raw("\"");
        if let Some(state) = reply.state {
            self.raw(",\"state\":\"").raw(state.word()).raw("\"");
        }
        if let Some(amount_name) = amount_name.filter(|_| reply.outcome.is_done()) {
            self.raw(",\"").raw(amount_name).raw("\":").integer(reply.amount.0);
        }
        if let Some(line) = reply.line {
            self.raw(",\"field\":\"lines[").integer(line.into()).raw("]\"");
        }
        if let Some(Offset(offset)) = reply.offset {
            self.raw(",\"offset\":").integer(offset);
        }
        self.raw("}");
    }

    /// An order.
    pub fn order(&mut self, order: &OrderView) {
        self.raw("{\"buyer\":").integer(order.buyer.0);
        self.raw(",\"id\":\"").raw(&order.id.to_string());
        self.raw("\",\"state\":\"").raw(order.state.word());
        self.raw("\",\"outcome\":\"").raw(order.outcome.word());
        self.raw("\",\"currency\":\"").raw(order.currency.code());
        self.raw("\",\"payment\":\"").raw(order.method.word());
        self.raw("\",\"total\":").integer(order.total.0);
        self.raw(",\"refunded\":").integer(order.refunded.0);
        self.raw(",\"offset\":").integer(order.offset.0);
        if order.deadline.0 != 0 {
            self.raw(",\"deadline_ms\":").integer(order.deadline.0 / 1_000);
        }
        if order.received {
            self.raw(",\"received\":true");
        }
        self.raw(",\"lines\":[");
        for (number, line) in order.lines.iter().enumerate() {
            self.raw(if number > 0 { "," } else { "" }).line(line);
        }
        self.raw("]");
        if !order.legs.is_empty() {
            self.raw(",\"payments\":[");
            for (number, leg) in order.legs.iter().enumerate() {
                self.raw(if number > 0 { "," } else { "" }).leg(leg);
            }
            self.raw("]");
        }
        self.raw("}");
    }

    /// A page of a buyer's orders: `{"buyer":…,"orders":[…],"next":…}`.
    pub fn orders(&mut self, buyer: Party, orders: &[OrderView], next: Option<Offset>) {
        self.raw("{\"buyer\":").integer(buyer.0).raw(",\"orders\":[");
        for (number, order) in orders.iter().enumerate() {
            self.raw(if number > 0 { "," } else { "" }).order(order);
        }
        self.raw("]");
        if let Some(next) = next {
            self.raw(",\"next\":").integer(next.0);
        }
        self.raw("}");
    }

    fn line(&mut self, line: &LineView) {
        match line.kind {
            LineKind::Goods => self.raw("{\"item\":").integer(line.item.0),
            kind => {
                self.raw("{\"kind\":\"").raw(kind.word());
                self.raw("\",\"payee\":").integer(line.item.0)
            }
        };
        self.raw(",\"quantity\":").integer(line.quantity.0.into());
        self.raw(",\"refunded\":").integer(line.refunded.0.into());
        self.raw(",\"unit_price\":").integer(line.unit_price.0);
        if let Some(payee) = line.payee {
            self.raw(",\"payee\":").integer(payee.0);
        }
        if line.discount.0 != 0 {
            self.raw(",\"discount\":").integer(line.discount.0);
        }
        self.raw("}");
    }

    fn leg(&mut self, leg: &LegView) {
        self.raw("{\"method\":\"").raw(leg.method.word());
        self.raw("\",\"state\":\"").raw(leg.state.word());
        self.raw("\",\"amount\":").integer(leg.amount.0);
        self.raw(",\"paid\":").integer(leg.paid.0);
        self.raw(",\"refunded\":").integer(leg.refunded.0);
        if leg.suspended.0 != 0 {
            self.raw(",\"suspended\":").integer(leg.suspended.0);
        }
        if leg.method == PaymentMethod::Coupon {
            self.raw(",\"coupon\":").integer(leg.coupon);
        }
        if leg.deadline.0 != 0 {
            self.raw(",\"deadline_ms\":").integer(leg.deadline.0 / 1_000);
        }
        self.raw("}");
    }

    /// A hold.
    pub fn hold(&mut self, hold: &HoldView) {
        self.raw("{\"party\":").integer(hold.party.0);
        self.raw(",\"id\":\"").raw(&hold.id.to_string());
        self.raw("\",\"kind\":\"").raw(hold.kind.word());
        self.raw("\",\"currency\":\"").raw(hold.currency.code());
        self.raw("\",\"amount\":").integer(hold.amount.0);
        self.raw(",\"held\":").integer(hold.left.0);
        if hold.deadline.0 != 0 {
            self.raw(",\"deadline_ms\":").integer(hold.deadline.0 / 1_000);
        }
        self.raw("}");
    }

    /// What is private of an order, as a JSON string.
    pub fn private(&mut self, buyer: Party, id: OrderId, quoted: &str) {
        self.raw("{\"buyer\":").integer(buyer.0);
        self.raw(",\"id\":\"").raw(&id.to_string());
        self.raw("\",\"private\":").raw(quoted).raw("}");
    }

    /// A coupon.
    pub fn coupon(&mut self, view: &CouponView) {
        let coupon = &view.coupon;
        self.raw("{\"buyer\":").integer(view.buyer.0);
        self.raw(",\"coupon\":").integer(view.number);
        self.raw(",\"funder\":").integer(coupon.funder.0);
        if let Some(seller) = coupon.seller {
            self.raw(",\"seller\":").integer(seller.0);
        }
        self.raw(",\"currency\":\"").raw(coupon.currency.code());
        self.raw("\",\"amount\":").integer(coupon.amount.0);
        self.raw(",\"minimum\":").integer(coupon.minimum.0);
        if coupon.expires.0 != 0 {
            self.raw(",\"expires_ms\":").integer(coupon.expires.0 / 1_000);
        }
        self.raw(if view.used { ",\"used\":true}" } else { ",\"used\":false}" });
    }

    /// An account. Its balance may be negative.
    pub fn account(&mut self, account: &AccountView) {
        self.raw("{\"party\":").integer(account.party.0);
        self.raw(",\"currency\":\"").raw(account.currency.code());
        self.raw("\",\"kind\":\"").raw(account.kind.word());
        self.raw("\",\"debits\":").integer(account.debits_posted.0);
        self.raw(",\"credits\":").integer(account.credits_posted.0);
        let (debits, credits) = (account.debits_posted.0, account.credits_posted.0);
        self.raw(",\"balance\":");
        let size = credits.abs_diff(debits);
        match (credits < debits, size <= EXACT_MAX) {
            (false, _) => self.integer(size),
            (true, true) => self.raw("-").integer(size),
            (true, false) => self.raw(&format!("\"-{size}\"")),
        };
        for (name, amount) in [("held", account.held), ("overdraft", account.overdraft)] {
            if amount.0 != 0 {
                self.raw(",\"").raw(name).raw("\":").integer(amount.0);
            }
        }
        if account.closed {
            self.raw(",\"closed\":true");
        }
        self.raw("}");
    }

    /// A page of accounts: `{"accounts":[…],"next":…}`.
    pub fn accounts(&mut self, accounts: &[AccountView], next: Option<&str>) {
        self.text.reserve(32 + accounts.len() * 112);
        self.raw("{\"accounts\":[");
        for (number, account) in accounts.iter().enumerate() {
            self.raw(if number > 0 { "," } else { "" }).account(account);
        }
        self.end_page(next);
    }

    /// A page of items, likewise.
    pub fn items(&mut self, items: &[ItemView], next: Option<&str>) {
        self.text.reserve(32 + items.len() * 128);
        self.raw("{\"items\":[");
        for (number, item) in items.iter().enumerate() {
            self.raw(if number > 0 { "," } else { "" }).item(item);
        }
        self.end_page(next);
    }

    /// `next` is of letters, digits and hyphens.
    fn end_page(&mut self, next: Option<&str>) {
        self.raw("]");
        if let Some(next) = next {
            self.raw(",\"next\":\"").raw(next).raw("\"");
        }
        self.raw("}");
    }

    /// An item.
    pub fn item(&mut self, item: &ItemView) {
        self.raw("{\"item\":").integer(item.item.0);
        self.raw(",\"seller\":").integer(item.seller.0);
        self.raw(",\"currency\":\"").raw(item.currency.code());
        self.raw("\",\"price\":").integer(item.price.0);
        for (name, time) in [("opens", item.opens), ("closes", item.closes)] {
            if time.0 != 0 {
                self.raw(",\"").raw(name).raw("_ms\":").integer(time.0 / 1_000);
            }
        }
        if item.limit != 0 {
            self.raw(",\"limit\":").integer(item.limit.into());
        }
        self.raw(",\"stocked\":").integer(item.stocked);
        // Units that are granted to nobody, and those that shards may sell without asking.
        self.raw(",\"available\":").integer(item.pool + item.available);
        self.raw(",\"reserved\":").integer(item.reserved);
        self.raw(",\"sold\":").integer(item.sold).raw("}");
    }
}

/// What a refusal means, for a person.
pub fn explain(outcome: Outcome, state: Option<OrderState>) -> String {
    let text = match outcome {
        Outcome::Ok => "done",
        Outcome::AlreadyDone => "done before under this id",
        Outcome::IdReused => "this id was used before with other content",
        Outcome::SoldOut => "fewer units are left than the order asks for",
        Outcome::InsufficientFunds => "the account that pays lacks the money",
        Outcome::OverLimit => "the buyer's limit for the item would be passed",
        Outcome::SaleNotOpen => "the item's sale isn't open",
        Outcome::UnknownAccount => "there is no such account, hold or coupon, or it is closed",
        Outcome::UnknownItem => "there is no such item",
        Outcome::UnknownOrder => "there is no such order",
        Outcome::CurrencyMismatch => "the item or account is kept in another currency",
        Outcome::WrongState => match state {
            Some(state) => {
                return format!(
                    "the order is {}: it, or what is left of it, does not allow this",
                    state.word()
                );
            }
            None => "what this is about is not in a state that allows it",
        },
        Outcome::Invalid => "the amounts add up to more than can be kept",
        Outcome::PriceMismatch => "the price, or what the payment legs come to, is another one",
        Outcome::Suspended => "the order can't take this money; it is booked to suspense",
        Outcome::Busy => "a shard that may hold the units did not answer in time; try again",
    };
    text.to_string()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::*;

    #[test]
    fn answers_are_json() {
        let mut json = JsonWriter::default();
        let reply = Reply {
            outcome: Outcome::Ok,
            state: Some(OrderState::Paid),
            line: None,
            amount: Amount(250),
            offset: Some(Offset(3)),
        };
        let refused = Reply {
            outcome: Outcome::SoldOut,
            state: Some(OrderState::Refused),
            line: Some(2),
            amount: Amount(0),
            offset: None,
        };
        json.results(&[reply, refused], Some("total"));
        json.account(&AccountView {
            party: Party(u64::MAX),
            currency: Currency::GBP,
            kind: AccountKind::Clearing,
            debits_posted: Amount(10),
            credits_posted: Amount(3),
            held: Amount(0),
            overdraft: Amount(0),
            closed: false,
            statement: Offset(0),
        });
        expect![[r#"{"results":[{"outcome":"ok","state":"paid","total":250,"offset":3},{"outcome":"sold_out","state":"refused","field":"lines[2]"}]}{"party":"18446744073709551615","currency":"GBP","kind":"clearing","debits":10,"credits":3,"balance":-7}"#]]
            .assert_eq(&String::from_utf8(json.finish()).unwrap());
    }
}
