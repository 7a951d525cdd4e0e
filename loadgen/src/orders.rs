//! The drill's load: what a profile's buyers send to the platform.
//!
//! The schedule's requests place orders, in batches or alone; some only look at something, some
//! make no sense. Orders lead to others: they are paid later, cancelled, refunded, sent twice.
//! Which, is a function of the seed and the number. Every answer is kept ([`Acks`]) and held
//! against what it has to be.

use std::sync::Arc;

use http::Method;
use model::record::CommandBuffer;
use model::{ChangeId, Currency, OrderId, Outcome, PaymentMethod, Quantity, Time};

use crate::acks::{Acks, Change};
use crate::engine::{FollowUp, Load, Taken, unix_ms};
use crate::profile::{Payment, Profile, RunId, Then};
use crate::recorder::Recorder;
use crate::results::{parse_binary, parse_results, parse_single};
use crate::wire::{Answer, Request, Tag};

/// What buyers send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Kind {
    Place,
    Browse,
    Garbage,
    Pay,
    Cancel,
    Refund,
    Repeat,
}

const KINDS: [&str; 7] = ["place", "browse", "garbage", "pay", "cancel", "refund", "repeat"];

impl Kind {
    fn of(tag: Tag) -> Kind {
        use Kind::*;
        [Place, Browse, Garbage, Pay, Cancel, Refund, Repeat][usize::from(tag.kind)]
    }

    fn tag(self, n: u64) -> Tag {
        Tag { kind: self as u8, n }
    }
}

/// Bodies that make no sense, and where they are sent.
const GARBAGE: [(&str, &[u8]); 6] = [
    ("/v1/orders", b"{"),
    ("/v1/orders", b"{\"buyer\":-1}"),
    ("/v1/orders/batch", b"{\"orders\":[]}"),
    ("/v1/orders", b"{\"buyer\":1,\"id\":\"no uuid\",\"currency\":\"GBP\",\"payment\":\"balance\",\"lines\":[]}"),
    ("/v1/nowhere", b"{}"),
    ("/v1/orders", b"\xff\xfe\x00\x00"),
];

/// One thread's buyers.
pub struct Orders {
    profile: Arc<Profile>,
    run: RunId,
    batch: u64,
    /// Requests below these shares look at something, or make no sense.
    browse: f64,
    garbage: f64,
    /// What was acknowledged.
    pub acks: Acks,
    outcomes: Vec<u8>,
    /// Where commands are written that are sent as bytes; `None`: they are sent as JSON.
    binary: Option<CommandBuffer>,
    /// Unpaid orders expire so many milliseconds after the time in their ids.
    expire_ms: Option<u64>,
}

/// How far the platform's clock may be ahead of this one.
const SKEW_MS: u64 = 1_000;

impl Orders {
    /// Of this profile, under the ids of this run.
    pub fn new(profile: Arc<Profile>, run: RunId) -> Orders {
        let settings = profile.settings();
        let batch = settings.requests.batch;
        let per_request = settings.orders_per_request();
        let browse = settings.besides.browse * per_request;
        let garbage = browse + settings.besides.garbage * per_request;
        let acks = Acks::new(run, batch);
        let expire_ms = settings.afterwards.expire.map(|after| after.as_millis() as u64);
        let (outcomes, binary) = (Vec::new(), None);
        Orders { profile, run, batch, browse, garbage, acks, outcomes, binary, expire_ms }
    }

    /// The same, whose commands are sent as bytes (`application/vnd.crest.v1`).
    pub fn in_binary(self) -> Orders {
        Orders { binary: Some(CommandBuffer::default()), ..self }
    }

    fn place(&mut self, request: &mut Request) {
        let first = request.tag.n * self.batch;
        if self.binary.is_some() {
            self.place_binary(first..first + self.batch, request.unix_ms, &mut request.body);
        } else if self.batch == 1 {
            request.path.extend_from_slice(b"/v1/orders");
            write_order(&self.profile, self.run, first, request.unix_ms, &mut request.body);
        } else {
            request.path.extend_from_slice(b"/v1/orders/batch");
            let (unix_ms, body) = (request.unix_ms, &mut request.body);
            write_orders(&self.profile, self.run, first, self.batch, unix_ms, body);
        }
    }

    /// The batch again, of those orders that aren't decided.
    fn place_rest(&mut self, request: &mut Request) {
        let first = request.tag.n * self.batch;
        let rest = request.rest.iter().map(|&at| first + u64::from(at));
        request.body.clear();
        if self.binary.is_some() {
            return self.place_binary(rest, request.unix_ms, &mut request.body);
        }
        write_batch(&self.profile, self.run, rest, request.unix_ms, &mut request.body);
    }

    fn place_binary(
        &mut self,
        orders: impl Iterator<Item = u64>,
        unix_ms: u64,
        body: &mut Vec<u8>,
    ) {
        let Some(commands) = &mut self.binary else { return };
        commands.clear();
        for n in orders {
            let order = self.profile.order(n);
            let buyer = order.buyer;
            let mut place = commands.place();
            for (item, quantity) in order {
                place.line(item, Quantity(quantity), None);
            }
            let method = match self.profile.fate(n).payment {
                Payment::Balance => PaymentMethod::Balance,
                Payment::External => PaymentMethod::External,
                Payment::Await => PaymentMethod::Awaited,
            };
            if let (Payment::Await, Some(after)) = (self.profile.fate(n).payment, self.expire_ms) {
                place.expires(Time((unix_ms + after) * 1_000));
            }
            place.finish(buyer, self.run.order_id(unix_ms, n), Currency::GBP, method);
        }
        body.extend_from_slice(commands.bytes());
    }

    fn change_binary(&mut self, kind: Kind, n: u64, unix_ms: u64, body: &mut Vec<u8>) {
        let Some(commands) = &mut self.binary else { return };
        commands.clear();
        let (buyer, order) = (self.profile.buyer(n), self.run.order_id(unix_ms, n));
        let id = ChangeId(self.run.order_id(unix_ms + kind as u64, n).0);
        match kind {
            Kind::Pay if n.is_multiple_of(2) => {
                commands.pay(id, buyer, order, PaymentMethod::Balance);
            }
            Kind::Pay => commands.pay(id, buyer, order, PaymentMethod::External),
            Kind::Refund => commands.refund(id, buyer, order, true, &[]),
            _ => commands.cancel(id, buyer, order),
        }
        body.extend_from_slice(commands.bytes());
    }

    /// A request that concerns order `n`: a change of it, or the order again.
    fn change(&mut self, kind: Kind, n: u64, request: &mut Request) {
        // The order's own time, so that its id is the same again.
        let unix_ms = self.acks.unix_ms(n);
        if self.binary.is_some() {
            return match kind {
                Kind::Repeat => self.place_binary(n..n + 1, unix_ms, &mut request.body),
                _ => self.change_binary(kind, n, unix_ms, &mut request.body),
            };
        }
        if kind == Kind::Repeat {
            request.path.extend_from_slice(b"/v1/orders");
            write_order(&self.profile, self.run, n, unix_ms, &mut request.body);
            return;
        }
        let path = &mut request.path;
        let mut digits = itoa::Buffer::new();
        path.extend_from_slice(b"/v1/buyers/");
        path.extend_from_slice(digits.format(self.profile.buyer(n).0).as_bytes());
        path.extend_from_slice(b"/orders/");
        write_uuid(self.run.order_id(unix_ms, n), path);
        path.push(b'/');
        path.extend_from_slice(KINDS[kind as usize].as_bytes());
        let body = &mut request.body;
        body.extend_from_slice(b"{\"id\":\"");
        // A change's id is unique for its order: the order's own, at another time, will do.
        write_uuid(self.run.order_id(unix_ms + kind as u64, n), body);
        body.extend_from_slice(match kind {
            Kind::Pay if n.is_multiple_of(2) => b"\",\"payment\":\"balance\"}",
            Kind::Pay => b"\",\"payment\":\"external\"}",
            Kind::Refund => b"\",\"restock\":true}".as_slice(),
            _ => b"\"}",
        });
    }

    fn browse(&self, n: u64, request: &mut Request) {
        let mut digits = itoa::Buffer::new();
        if n.is_multiple_of(2) {
            request.path.extend_from_slice(b"/v1/items/");
            let item = self.profile.looked_at(n);
            request.path.extend_from_slice(digits.format(item.0).as_bytes());
        } else {
            request.path.extend_from_slice(b"/v1/accounts/");
            let buyer = self.profile.buyer(n);
            request.path.extend_from_slice(digits.format(buyer.0).as_bytes());
            request.path.extend_from_slice(b"?currency=GBP");
        }
    }

    /// Keeps the answers to orders, and says what follows. Which of them are busy is left in the
    /// request.
    fn placed(&mut self, request: &mut Request, follow_ups: &mut Vec<FollowUp>) {
        let batch = request.tag.n;
        let asked = std::mem::take(&mut request.rest);
        if asked.is_empty() {
            self.acks.add(batch, request.unix_ms, Some(&self.outcomes));
        }
        for (number, &outcome) in self.outcomes.iter().enumerate() {
            let at = asked.get(number).copied().unwrap_or(number as u16);
            let n = batch * self.batch + u64::from(at);
            if outcome == Outcome::Busy as u8 {
                request.rest.push(at);
            } else if !asked.is_empty() {
                self.acks.set(n, outcome);
            }
            if outcome > Outcome::AlreadyDone as u8 {
                continue;
            }
            let fate = self.profile.fate(n);
            let kind = match fate.then {
                None => continue,
                Some(Then::Pay) => Kind::Pay,
                Some(Then::Cancel) => Kind::Cancel,
                Some(Then::Refund) => Kind::Refund,
                Some(Then::Repeat) => Kind::Repeat,
            };
            follow_ups.push(FollowUp { after: fate.after, tag: kind.tag(n) });
        }
    }

    /// Whether order `n`, if it is unpaid, may have expired by now.
    fn may_have_expired(&self, n: u64) -> bool {
        let due = self.expire_ms.map(|after| self.acks.unix_ms(n) + after);
        due.is_some_and(|due| unix_ms() + SKEW_MS >= due)
    }

    /// The answer to a change of order `n`.
    fn changed(&mut self, kind: Kind, n: u64, outcome: Outcome) -> Result<(), String> {
        let fits = match kind {
            Kind::Repeat => outcome == Outcome::AlreadyDone,
            _ => outcome.is_done(),
        };
        if !fits {
            let word = outcome.word();
            return Err(format!("a {} was answered by {word}", KINDS[kind as usize]));
        }
        let change = match kind {
            Kind::Pay => Change::Pay,
            Kind::Cancel => Change::Cancel,
            Kind::Refund => Change::Refund,
            _ => return Ok(()), // It changes nothing.
        };
        self.acks.add_change(n, change);
        Ok(())
    }
}

impl Load for Orders {
    fn kinds(&self) -> &'static [&'static str] {
        &KINDS
    }

    fn scheduled(&mut self, n: u64) -> Tag {
        if self.garbage == 0.0 {
            return Kind::Place.tag(n);
        }
        let draw = self.profile.chance(n).unit();
        let kind = if draw < self.browse {
            Kind::Browse
        } else if draw < self.garbage {
            Kind::Garbage
        } else {
            Kind::Place
        };
        kind.tag(n)
    }

    fn units(&self, request: &Request) -> u64 {
        match Kind::of(request.tag) {
            Kind::Place if request.rest.is_empty() => self.batch,
            Kind::Place => request.rest.len() as u64,
            _ => 1,
        }
    }

    fn build(&mut self, tag: Tag, request: &mut Request) {
        let kind = Kind::of(tag);
        if kind == Kind::Browse {
            return self.browse(tag.n, request);
        }
        request.method = Method::POST;
        if self.binary.is_some() && kind != Kind::Garbage {
            request.path.extend_from_slice(b"/v1/commands");
            request.headers.extend_from_slice(b"content-type: application/vnd.crest.v1\r\n");
        } else {
            request.headers.extend_from_slice(b"content-type: application/json\r\n");
        }
        match kind {
            Kind::Place => self.place(request),
            Kind::Garbage => {
                let (path, body) = GARBAGE[tag.n as usize % GARBAGE.len()];
                request.path.extend_from_slice(path.as_bytes());
                request.body.extend_from_slice(body);
            }
            kind => self.change(kind, tag.n, request),
        }
    }

    fn answered(
        &mut self,
        request: &mut Request,
        answer: Answer<'_>,
        recorder: &mut Recorder,
        follow_ups: &mut Vec<FollowUp>,
    ) -> Taken {
        let Answer { status, body, .. } = answer;
        let words = |why: &str| format!("{why}: status {status}: {}", excerpt(body));
        if status >= 500 {
            recorder.busy += u64::from(is_busy(body));
            return Taken::Again(words("not now"));
        }
        let kind = Kind::of(request.tag);
        match kind {
            Kind::Browse if status == 200 => return Taken::Done { accepted: 1 },
            Kind::Browse => return Taken::Failed(words("nothing to look at")),
            Kind::Garbage if (400..500).contains(&status) => return Taken::Done { accepted: 1 },
            Kind::Garbage => return Taken::Failed(words("garbage was not refused")),
            _ => {}
        }
        self.outcomes.clear();
        let units = self.units(request);
        let is_batch = kind == Kind::Place && self.batch > 1;
        let parsed = match is_batch {
            _ if self.binary.is_some() && status == 200 => parse_binary(body, &mut self.outcomes),
            false => parse_single(body, &mut self.outcomes),
            _ if status == 200 => parse_results(body, &mut self.outcomes),
            _ => return Taken::Failed(words("refused")),
        };
        if let Err(error) = parsed {
            return Taken::Failed(words(&error.to_string()));
        }
        if self.outcomes.len() as u64 != units {
            return Taken::Failed(format!("{} results", self.outcomes.len()));
        }
        if kind == Kind::Place {
            let accepted = recorder.outcomes(&self.outcomes);
            self.placed(request, follow_ups);
            if request.rest.is_empty() {
                return Taken::Done { accepted };
            }
            self.place_rest(request);
            return Taken::Partly { accepted, why: Outcome::Busy.word().to_string() };
        }
        let outcome = Outcome::from_byte(self.outcomes[0]).expect("it was read as an outcome");
        // JSON says so by a status.
        if outcome == Outcome::Busy {
            recorder.busy += 1;
            return Taken::Again(outcome.word().to_string());
        }
        let is_late = matches!(kind, Kind::Pay | Kind::Cancel) && outcome == Outcome::WrongState;
        if is_late && self.may_have_expired(request.tag.n) {
            return Taken::Done { accepted: 0 };
        }
        match self.changed(kind, request.tag.n, outcome) {
            Ok(()) => Taken::Done { accepted: 1 },
            Err(why) => Taken::Failed(words(&why)),
        }
    }

    fn failed(&mut self, request: &Request) {
        // A change without an answer may have happened or not; both are right.
        // Of a batch that was answered in part, the answers are kept already.
        if Kind::of(request.tag) == Kind::Place && request.rest.is_empty() {
            self.acks.add(request.tag.n, request.unix_ms, None);
        }
    }
}

fn excerpt(answer: &[u8]) -> String {
    String::from_utf8_lossy(&answer[..answer.len().min(200)]).into_owned()
}

/// Whether a refusal says that the order is busy.
fn is_busy(answer: &[u8]) -> bool {
    let mut outcomes = Vec::new();
    parse_single(answer, &mut outcomes).is_ok() && outcomes == [Outcome::Busy as u8]
}

/// The body of a batch: `orders` from `first` on, whose ids carry `unix_ms`.
pub fn write_orders(
    profile: &Profile,
    run: RunId,
    first: u64,
    orders: u64,
    unix_ms: u64,
    out: &mut Vec<u8>,
) {
    write_batch(profile, run, first..first + orders, unix_ms, out);
}

fn write_batch(
    profile: &Profile,
    run: RunId,
    orders: impl Iterator<Item = u64>,
    unix_ms: u64,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(b"{\"orders\":[");
    for (at, n) in orders.enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write_order(profile, run, n, unix_ms, out);
    }
    out.extend_from_slice(b"]}");
}

fn write_order(profile: &Profile, run: RunId, n: u64, unix_ms: u64, out: &mut Vec<u8>) {
    let order = profile.order(n);
    let mut digits = itoa::Buffer::new();
    out.extend_from_slice(b"{\"buyer\":");
    out.extend_from_slice(digits.format(order.buyer.0).as_bytes());
    out.extend_from_slice(b",\"id\":\"");
    write_uuid(run.order_id(unix_ms, n), out);
    out.extend_from_slice(b"\",\"currency\":\"GBP\",\"payment\":\"");
    let payment = profile.fate(n).payment;
    out.extend_from_slice(payment.word().as_bytes());
    if let (Payment::Await, Some(after)) = (payment, profile.settings().afterwards.expire) {
        out.extend_from_slice(b"\",\"deadline_ms\":");
        out.extend_from_slice(digits.format(unix_ms + after.as_millis() as u64).as_bytes());
        out.extend_from_slice(b",\"lines\":[");
    } else {
        out.extend_from_slice(b"\",\"lines\":[");
    }
    for (number, (item, quantity)) in order.enumerate() {
        out.extend_from_slice(if number > 0 { b",{\"item\":" } else { b"{\"item\":" });
        out.extend_from_slice(digits.format(item.0).as_bytes());
        out.extend_from_slice(b",\"quantity\":");
        out.extend_from_slice(digits.format(quantity).as_bytes());
        out.push(b'}');
    }
    out.extend_from_slice(b"]}");
}

/// A UUID in its hyphenated form.
pub(crate) fn write_uuid(id: OrderId, out: &mut Vec<u8>) {
    let mut text = uuid::Uuid::encode_buffer();
    out.extend_from_slice(
        uuid::Uuid::from_u128(id.0).as_hyphenated().encode_lower(&mut text).as_bytes(),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::built_in;

    fn answer(status: u16, body: &str) -> Answer<'_> {
        Answer { status, body: body.as_bytes(), body_bytes: body.len() as u64 }
    }

    /// A load of batches of `batch` orders, and its first request.
    fn load(batch: u64) -> (Orders, Request) {
        let mut settings = built_in("default").unwrap().unwrap();
        settings.requests.batch = batch;
        let mut load = Orders::new(Arc::new(Profile::of(settings)), RunId::new(1));
        let tag = load.scheduled(0);
        let mut request = Request { tag, unix_ms: 1_700_000_000_000, ..Request::default() };
        load.build(tag, &mut request);
        (load, request)
    }

    /// The ids in a body.
    fn ids(body: &[u8]) -> Vec<String> {
        let text = std::str::from_utf8(body).unwrap();
        text.split("\"id\":\"").skip(1).map(|rest| rest[..36].to_string()).collect()
    }

    #[test]
    fn busy_orders_of_a_batch_are_sent_again_until_they_are_decided() {
        let (mut load, mut request) = load(4);
        let (mut recorder, mut follow_ups) = (Recorder::new(&KINDS), Vec::new());
        let all = ids(&request.body);
        assert_eq!((all.len(), load.units(&request)), (4, 4));

        let text = r#"{"results":[{"outcome":"ok"},{"outcome":"busy"},{"outcome":"sold_out"},{"outcome":"busy"}]}"#;
        let taken = load.answered(&mut request, answer(200, text), &mut recorder, &mut follow_ups);
        assert_eq!(taken, Taken::Partly { accepted: 1, why: "busy".to_string() });
        assert_eq!(ids(&request.body), [all[1].clone(), all[3].clone()]);
        assert_eq!(load.units(&request), 2);

        let text = r#"{"results":[{"outcome":"busy"},{"outcome":"already_done"}]}"#;
        let taken = load.answered(&mut request, answer(200, text), &mut recorder, &mut follow_ups);
        assert_eq!(taken, Taken::Partly { accepted: 1, why: "busy".to_string() });
        assert_eq!(ids(&request.body), [all[1].clone()]);

        // One is left, and goes as a batch of one.
        let text = r#"{"results":[{"outcome":"sold_out"}]}"#;
        let taken = load.answered(&mut request, answer(200, text), &mut recorder, &mut follow_ups);
        assert_eq!(taken, Taken::Done { accepted: 0 });

        let acked: Vec<_> =
            load.acks.acknowledged().map(|(n, _, outcome)| (n, outcome.word())).collect();
        assert_eq!(acked, [(0, "ok"), (1, "sold_out"), (2, "sold_out"), (3, "already_done")]);
        assert_eq!(recorder.busy, 3);
        let rejected: Vec<_> = recorder.rejected().collect();
        assert_eq!(rejected, [(Outcome::SoldOut, 2)]);
    }

    #[test]
    fn what_stays_busy_was_never_acknowledged() {
        let (mut load, mut request) = load(2);
        let (mut recorder, mut follow_ups) = (Recorder::new(&KINDS), Vec::new());
        let text = r#"{"results":[{"outcome":"busy"},{"outcome":"ok"}]}"#;
        load.answered(&mut request, answer(200, text), &mut recorder, &mut follow_ups);
        load.failed(&request);
        let acked: Vec<_> = load.acks.acknowledged().map(|(n, ..)| n).collect();
        assert_eq!(acked, [1]);
    }

    #[test]
    fn a_busy_single_order_is_counted_and_sent_again() {
        let (mut load, mut request) = load(1);
        let (mut recorder, mut follow_ups) = (Recorder::new(&KINDS), Vec::new());
        let text = r#"{"type":"urn:crest:problem:busy","status":503,"outcome":"busy"}"#;
        let taken = load.answered(&mut request, answer(503, text), &mut recorder, &mut follow_ups);
        assert!(matches!(taken, Taken::Again(_)));
        let taken = load.answered(&mut request, answer(503, "{}"), &mut recorder, &mut follow_ups);
        assert!(matches!(taken, Taken::Again(_)));
        assert_eq!(recorder.busy, 1);
    }
}
