//! What callers may send as bytes (`application/vnd.crest.v1`): the same that JSON can say, and
//! what they are told.

use zerocopy::IntoBytes;

use super::*;
use crate::json::decode::BATCH_MAX;
use crate::reply::Reply;

layout! {
    /// What an answer over `crest/1` begins with.
    AnswerHead[8] {
        /// 200: a [`CommandResult`] for each command follows. Else a problem does, as JSON, that
        /// has this HTTP status.
        status: U16,
        /// Zero.
        reserved: [u8; 6],
    }
    /// What became of one command that a caller sent.
    CommandResult[24] {
        /// An [`Outcome`].
        outcome: u8,
        /// The [`crate::OrderState`] of the order it is about, afterwards, or 0.
        state: u8,
        /// 1 + the line that a refusal is about, or 0.
        line: U16,
        /// Zero.
        reserved: [u8; 4],
        /// The money that it is about: an order's total, what moved, is held, or may be overdrawn;
        /// or 0.
        amount: U64,
        /// The offset of its record in its shard's log; 0 for what isn't logged.
        offset: U64,
    }
}

impl AnswerHead {
    /// One with an HTTP status.
    pub fn new(status: u16) -> AnswerHead {
        AnswerHead { status: status.into(), ..AnswerHead::default() }
    }

    /// Appends it as it travels.
    pub fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(self.as_bytes());
    }
}

impl CommandResult {
    /// A reply as it travels.
    pub fn new(reply: &Reply) -> CommandResult {
        CommandResult {
            outcome: reply.outcome as u8,
            state: reply.state.map_or(0, |state| state as u8),
            line: reply.line.map_or(0, |line| line + 1).into(),
            amount: reply.amount.0.into(),
            offset: reply.offset.map_or(0, |offset| offset.0).into(),
            ..CommandResult::default()
        }
    }

    /// All of an answer.
    pub fn read_all(bytes: &[u8]) -> Option<&[CommandResult]> {
        <[CommandResult]>::ref_from_bytes(bytes).ok()
    }

    /// Appends replies as they travel.
    pub fn write_all(replies: &[Reply], bytes: &mut Vec<u8>) {
        bytes.reserve(replies.len() * size_of::<CommandResult>());
        for reply in replies {
            bytes.extend_from_slice(CommandResult::new(reply).as_bytes());
        }
    }
}

/// Why a caller's commands were refused. Nothing of them was kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskedError {
    /// There is none.
    #[error("there is no command")]
    Empty,
    /// There are more than [`BATCH_MAX`].
    #[error("more than {BATCH_MAX} in one request")]
    TooMany,
    /// One isn't what a caller may send.
    #[error("commands[{index}]: {source}")]
    Command {
        /// Which, from 0.
        index: usize,
        /// What is wrong with it.
        source: RecordError,
    },
}

impl CommandBuffer {
    /// Appends commands that a caller sent, one behind the other, of one kind if that is named: all
    /// of them, or none.
    pub fn push_asked(&mut self, commands: &[u8], only: Option<Kind>) -> Result<(), AskedError> {
        let (before, mut at) = (self.mark(), self.bytes.len());
        self.bytes.extend_from_slice(commands);
        let refused = |error, buffer: &mut CommandBuffer| {
            buffer.rewind(before);
            Err(error)
        };
        let mut index = 0;
        while at < self.bytes.len() {
            if index == BATCH_MAX {
                return refused(AskedError::TooMany, self);
            }
            let sent = &self.bytes[at..];
            let known = is_asked(sent, only).and_then(|()| Record::split(sent));
            let checked = known.and_then(|(record, _)| {
                record.check_asked()?;
                let is_private = matches!(record.body, Body::Place { private: [_, ..], .. });
                Ok((record.bytes.len(), is_private))
            });
            match checked {
                Ok((length, is_private)) => {
                    self.stamp(at, is_private);
                    at += length;
                }
                Err(source) => return refused(AskedError::Command { index, source }, self),
            }
            index += 1;
        }
        if index == 0 { Err(AskedError::Empty) } else { Ok(()) }
    }
}

impl Record<'_> {
    /// Whether a caller may send it, if it is of a kind that callers have: a command, in trade, with
    /// nothing in it that JSON couldn't say.
    fn check_asked(&self) -> Result<(), RecordError> {
        let header = self.header;
        self.check_undecided()?;
        in_range("realm", header.realm.into(), 0, 0)?;
        let scope = header.scope.get();
        let has_id = header.id.get() != 0;
        match self.body {
            Body::CreateAccount(_) | Body::CreateItem(_) | Body::IssueCoupon(_) if has_id => {
                return field("id", header.id.get() as u64);
            }
            Body::CreateAccount(_) | Body::CreateItem(_) | Body::IssueCoupon(_) => {}
            _ if !has_id => return field("id", 0),
            _ => {}
        }
        match self.body {
            Body::CreateAccount(_) => party("party", scope),
            Body::Hold(body) => {
                party("party", scope)?;
                whole_ms("deadline", body.deadline)
            }
            Body::SettleHold(body) if body.op == 1 => {
                account("credit party", body.credit_party.get(), body.credit_kind)
            }
            Body::IssueCoupon(body) => {
                party("buyer", scope)?;
                party("funder", body.funder.get())?;
                whole_ms("expires", body.expires)
            }
            Body::Transfer(body) => {
                account("party", scope, body.debit_kind)?;
                account("credit party", body.credit_party.get(), body.credit_kind)?;
                match (scope, body.debit_kind) == (body.credit_party.get(), body.credit_kind) {
                    true => field("credit party", scope),
                    false => Ok(()),
                }
            }
            Body::CreateItem(body) => {
                party("seller", body.seller.get())?;
                whole_ms("opens", body.opens)?;
                whole_ms("closes", body.closes)
            }
            Body::UpdateItem(body) => {
                whole_ms("opens", body.opens)?;
                whole_ms("closes", body.closes)
            }
            Body::Place { .. } => self.check_asked_order(),
            Body::Pay(body) if body.step == PayStep::Void as u8 => {
                in_range("pay flags", body.flags.into(), 0, 0)
            }
            Body::Refund { lines, .. } => lines.iter().try_for_each(|line| {
                in_range("refund line", line.line.get().into(), 0, LINES_MAX as u64 - 1)
            }),
            _ => Ok(()),
        }
    }

    fn check_asked_order(&self) -> Result<(), RecordError> {
        let Body::Place { order, legs, lines, extras, private } = self.body else { return Ok(()) };
        party("buyer", self.header.scope.get())?;
        let is_awaited = |leg: &&Leg| leg.method == PaymentMethod::Awaited as u8;
        let flags = if legs.iter().any(|leg| is_awaited(&leg)) { PLACE_FORFEIT } else { 0 };
        if order.flags & !flags != 0 {
            return field("order flags", order.flags.into());
        }
        legs.iter().filter(is_awaited).try_for_each(|leg| whole_ms("term", leg.term))?;
        for line in lines.iter().filter(|line| line.kind != LineKind::Goods as u8) {
            party("payee", line.item.get())?;
        }
        for extra in extras {
            if (extra.payee.get(), extra.discount.get()) == (0, 0) {
                return field("extra line", extra.line.get().into());
            }
        }
        let Some((nonce, rest)) = private.split_at_checked(PRIVATE_NONCE_BYTES) else {
            return Ok(());
        };
        let (text, tag) = rest.split_at(rest.len() - PRIVATE_TAG_BYTES);
        zero(nonce)?;
        zero(tag)?;
        match std::str::from_utf8(text) {
            Ok(_) => Ok(()),
            Err(error) => field("a byte of the private text", text[error.valid_up_to()].into()),
        }
    }
}

/// Whether the record that begins here is of a kind that callers have, and of this one if it is
/// named.
fn is_asked(sent: &[u8], only: Option<Kind>) -> Result<(), RecordError> {
    let length = |length| RecordError::Length { length, room: sent.len() };
    let (header, _) = Header::ref_from_prefix(sent).map_err(|_| length(size_of::<Header>()))?;
    let kind = Kind::from_byte(header.kind).filter(|kind| kind.is_asked());
    match kind.is_some_and(|kind| only.is_none_or(|only| kind == only)) {
        true => Ok(()),
        false => field("kind", header.kind.into()),
    }
}

fn party(name: &'static str, party: u64) -> Result<(), RecordError> {
    in_range(name, party, 1, u64::MAX)
}

/// Clearing is nobody's.
fn account(name: &'static str, party: u64, kind: u8) -> Result<(), RecordError> {
    match kind == AccountKind::Clearing as u8 {
        true => in_range(name, party, 0, 0),
        false => self::party(name, party),
    }
}

fn whole_ms(name: &'static str, time: U64) -> Result<(), RecordError> {
    if time.get().is_multiple_of(1_000) { Ok(()) } else { field(name, time.get()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::decode::{Request, decode};

    /// Of every kind that callers have, what JSON makes.
    fn said() -> Vec<(Request, &'static str)> {
        let (buyer, order, id) = (Party(42), OrderId(7), ChangeId(9));
        vec![
            (Request::Account, r#"{"party":42,"currency":"GBP","balance":5}"#),
            (
                Request::Item,
                r#"{"item":7,"seller":900,"currency":"GBP","price":5,"opens_ms":4,"closes_ms":5}"#,
            ),
            (
                Request::UpdateItem(ItemId(7)),
                r#"{"id":"01890a5d-ac96-774b-bcce-b302099a8057","opens_ms":3,"closes_ms":5}"#,
            ),
            (
                Request::Restock(ItemId(7)),
                r#"{"id":"01890a5d-ac96-774b-bcce-b302099a8057","quantity":3}"#,
            ),
            (
                Request::Transfer,
                r#"{"id":"01890a5d-ac96-774b-bcce-b302099a8057","from":{"kind":"clearing"},
                    "to":{"party":1},"currency":"GBP","amount":3}"#,
            ),
            (
                Request::Hold,
                r#"{"id":"01890a5d-ac96-774b-bcce-b302099a8057","account":{"party":42},
                    "currency":"GBP","amount":3,"deadline_ms":9}"#,
            ),
            (
                Request::CaptureHold(buyer, id),
                r#"{"id":"01890a5d-ac96-774b-bcce-b302099a8057","to":{"party":4}}"#,
            ),
            (Request::ReleaseHold(buyer, id), r#"{"id":"01890a5d-ac96-774b-bcce-b302099a8057"}"#),
            (
                Request::UpdateAccount(buyer),
                r#"{"id":"01890a5d-ac96-774b-bcce-b302099a8057","currency":"GBP","overdraft":3}"#,
            ),
            (
                Request::Coupon,
                r#"{"buyer":42,"coupon":1,"funder":900,"currency":"GBP","amount":3}"#,
            ),
            (
                Request::Order,
                r#"{"buyer":42,"id":"01890a5d-ac96-774b-bcce-b302099a8057","currency":"GBP",
                    "payments":[{"method":"coupon","coupon":1},{"method":"await","deadline_ms":4}],
                    "forfeit":true,"private":"é",
                    "lines":[{"item":7,"quantity":1,"discount":1},
                             {"kind":"tax","payee":4,"unit_price":0}]}"#,
            ),
            (
                Request::Void(buyer, order),
                r#"{"id":"01890a5d-ac96-774b-bcce-b302099a8057","leg":1}"#,
            ),
            (Request::Cancel(buyer, order), r#"{"id":"01890a5d-ac96-774b-bcce-b302099a8057"}"#),
            (Request::Receive(buyer, order), r#"{"id":"01890a5d-ac96-774b-bcce-b302099a8057"}"#),
            (
                Request::Refund(buyer, order),
                r#"{"id":"01890a5d-ac96-774b-bcce-b302099a8057","lines":[{"line":1,"quantity":1}]}"#,
            ),
        ]
    }

    fn all_said() -> CommandBuffer {
        let mut commands = CommandBuffer::default();
        for (request, json) in said() {
            decode(request, json.as_bytes(), &mut commands).unwrap();
        }
        commands
    }

    #[test]
    fn what_json_says_can_be_sent_as_bytes() {
        let said = all_said();
        let mut sent = CommandBuffer::default();
        sent.push_asked(said.bytes(), None).unwrap();
        assert_eq!((sent.bytes(), sent.count()), (said.bytes(), said.count()));
        assert!(sent.is_unsealed(), "its private part isn't encrypted");
        let mut drilled = CommandBuffer::default();
        drilled.set_realm(Realm::Drill);
        drilled.push_asked(said.bytes(), None).unwrap();
        assert!(drilled.records().all(|record| record.unwrap().realm() == Realm::Drill));
    }

    #[test]
    fn one_that_is_refused_takes_all_with_it() {
        let said = all_said();
        let mut sent = said.clone();
        let before = (sent.bytes().to_vec(), sent.count());
        let mut commands = said.bytes().to_vec();
        let length = commands.len();
        commands.truncate(length - 1);
        let refused = sent.push_asked(&commands, None).unwrap_err();
        assert_eq!((sent.bytes(), sent.count()), (&before.0[..], before.1));
        assert!(refused.to_string().starts_with("commands[14]: a record's length"), "{refused}");
        sent.push_asked(said.bytes(), Some(Kind::Place)).unwrap_err();
        let none = sent.push_asked(&[], None).unwrap_err();
        assert_eq!(none, AskedError::Empty);
        let mut many = CommandBuffer::default();
        for _ in 0..=BATCH_MAX {
            many.cancel(ChangeId(1), Party(1), OrderId(1));
        }
        assert_eq!(sent.push_asked(many.bytes(), None), Err(AskedError::TooMany));
        assert_eq!((sent.bytes(), sent.count()), (&before.0[..], before.1));
    }

    #[test]
    fn the_page_has_its_bytes() {
        let page = include_str!("../../../docs/binary.md");
        let bytes_of = |block: &str| -> Vec<u8> {
            let digits = block.lines().filter_map(|line| line.split("  ").next());
            let words = digits.flat_map(str::split_whitespace);
            words.map(|digits| u8::from_str_radix(digits, 16).unwrap()).collect()
        };
        let mut blocks = page.split("```").skip(1).step_by(2);
        let mut next = || bytes_of(blocks.next().unwrap().strip_prefix("text\n").unwrap());
        let mut command = CommandBuffer::default();
        let order = r#"{"buyer":42,"id":"01890a5d-ac96-774b-bcce-b302099a8057","currency":"GBP",
                        "payment":"balance","lines":[{"item":7,"quantity":2}]}"#;
        decode(Request::Order, order.as_bytes(), &mut command).unwrap();
        assert_eq!(next(), command.bytes());
        let (state, offset) = (Some(crate::OrderState::Paid), Some(crate::Offset(5)));
        let reply = Reply { state, amount: Amount(2_500), offset, ..Reply::unlogged(Outcome::Ok) };
        assert_eq!(next(), CommandResult::new(&reply).as_bytes());
    }

    /// Why a command isn't taken.
    fn why_not(write: impl FnOnce(&mut CommandBuffer)) -> String {
        let mut commands = CommandBuffer::default();
        write(&mut commands);
        let refused = CommandBuffer::default().push_asked(commands.bytes(), None);
        refused.map_or_else(|refused| refused.to_string(), |()| "it is taken".to_string())
    }

    #[test]
    fn what_json_can_not_say_is_refused() {
        use AccountKind::{Clearing, Main};
        const ID: ChangeId = ChangeId(1);
        let mut found = Vec::new();
        let mut refuse = |write: &dyn Fn(&mut CommandBuffer)| found.push(why_not(write));
        refuse(&|to| to.sweep(1));
        refuse(&|to| to.timer(TimerKind::Order, Party(1), 1, Time(0)));
        refuse(&|to| to.evict(false, 1, 0, &[]));
        refuse(&|to| to.create_account(Party(0), Currency::GBP, Amount(1)));
        refuse(&|to| to.cancel(ChangeId(0), Party(1), OrderId(1)));
        refuse(&|to| to.hold(ID, (Party(1), Main), Currency::GBP, Amount(1), Time(1)));
        refuse(&|to| to.capture_hold(ID, Party(1), ID, (Party(1), Clearing), None));
        let (one, zero) = ((Party(1), Main), (Party(0), Clearing));
        refuse(&|to| to.transfer(ID, one, one, Currency::GBP, Amount(1)));
        refuse(&|to| to.transfer(ID, (Party(0), Main), one, Currency::GBP, Amount(1)));
        refuse(&|to| to.transfer(ID, zero, zero, Currency::GBP, Amount(1)));
        refuse(&|to| to.pay_leg(ID, Party(1), OrderId(1), PayStep::Void, None, Some(Amount(1))));
        refuse(&|to| {
            let line =
                RefundLine { line: 2_000.into(), quantity: 1.into(), ..RefundLine::default() };
            to.refund(ID, Party(1), OrderId(1), false, &[line]);
        });
        refuse(&|to| {
            let mut place = to.place();
            place.line(ItemId(1), Quantity(1), None);
            place.forfeits();
            place.finish(Party(1), OrderId(1), Currency::GBP, PaymentMethod::Balance);
        });
        refuse(&|to| {
            let mut place = to.place();
            place.add(&NewLine::charge(LineKind::Tax, Party(0), Amount(1)));
            place.finish(Party(1), OrderId(1), Currency::GBP, PaymentMethod::Balance);
        });
        refuse(&|to| {
            let mut place = to.place();
            place.line(ItemId(1), Quantity(1), None);
            place.private("secret");
            place.finish(Party(1), OrderId(1), Currency::GBP, PaymentMethod::Balance);
            to.seal(|_, _, _, part| {
                part.fill(1);
                Ok::<_, ()>(())
            })
            .unwrap();
        });
        refuse(&|to| {
            to.set_realm(Realm::Drill);
            to.cancel(ID, Party(1), OrderId(1));
        });
        expect_test::expect![[r#"
            commands[0]: kind may not be 12
            commands[0]: kind may not be 11
            commands[0]: kind may not be 19
            commands[0]: party may not be 0
            commands[0]: id may not be 0
            commands[0]: deadline may not be 1
            commands[0]: credit party may not be 1
            commands[0]: credit party may not be 1
            commands[0]: party may not be 0
            commands[0]: credit party may not be 0
            commands[0]: pay flags may not be 1
            commands[0]: refund line may not be 2000
            commands[0]: order flags may not be 2
            commands[0]: payee may not be 0
            commands[0]: a reserved byte may not be 1
            commands[0]: realm may not be 1"#]]
        .assert_eq(&found.join("\n"));
    }
}
