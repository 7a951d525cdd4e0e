//! The drill's load: what a profile's buyers send to the platform.
//!
//! The schedule's requests place orders, in batches or alone; some only look at something, some
//! make no sense. Orders lead to others: they are paid later, cancelled, refunded, sent twice.
//! Which, is a function of the seed and the number. Every answer is kept ([`Acks`]) and held
//! against what it has to be.

use std::sync::Arc;

use http::Method;
use model::{OrderId, Outcome};

use crate::acks::{Acks, Change};
use crate::engine::{FollowUp, Load, Taken};
use crate::profile::{Profile, RunId, Then};
use crate::recorder::Recorder;
use crate::results::{parse_results, parse_single};
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
}

impl Orders {
    /// Of this profile, under the ids of this run.
    pub fn new(profile: Arc<Profile>, run: RunId) -> Orders {
        let settings = profile.settings();
        let batch = settings.requests.batch;
        let per_request = settings.orders_per_request();
        let browse = settings.besides.browse * per_request;
        let garbage = browse + settings.besides.garbage * per_request;
        let acks = Acks::new(run, batch);
        Orders { profile, run, batch, browse, garbage, acks, outcomes: Vec::new() }
    }

    fn place(&mut self, request: &mut Request) {
        let first = request.tag.n * self.batch;
        if self.batch == 1 {
            request.path.extend_from_slice(b"/v1/orders");
            write_order(&self.profile, self.run, first, request.unix_ms, &mut request.body);
        } else {
            request.path.extend_from_slice(b"/v1/orders/batch");
            let (unix_ms, body) = (request.unix_ms, &mut request.body);
            write_orders(&self.profile, self.run, first, self.batch, unix_ms, body);
        }
    }

    /// A request that concerns order `n`: a change of it, or the order again.
    fn change(&mut self, kind: Kind, n: u64, request: &mut Request) {
        // The order's own time, so that its id is the same again.
        let unix_ms = self.acks.unix_ms(n);
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

    /// Keeps the answers to orders, and says what follows.
    fn placed(&mut self, request: &Request, follow_ups: &mut Vec<FollowUp>) {
        let batch = request.tag.n;
        self.acks.add(batch, request.unix_ms, Some(&self.outcomes));
        for (n, &outcome) in (batch * self.batch..).zip(&self.outcomes) {
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

    fn units(&self, tag: Tag) -> u64 {
        if Kind::of(tag) == Kind::Place { self.batch } else { 1 }
    }

    fn build(&mut self, tag: Tag, request: &mut Request) {
        let kind = Kind::of(tag);
        if kind == Kind::Browse {
            return self.browse(tag.n, request);
        }
        request.method = Method::POST;
        request.headers.extend_from_slice(b"content-type: application/json\r\n");
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
        request: &Request,
        answer: Answer<'_>,
        recorder: &mut Recorder,
        follow_ups: &mut Vec<FollowUp>,
    ) -> Taken {
        let Answer { status, body, .. } = answer;
        let words = |why: &str| format!("{why}: status {status}: {}", excerpt(body));
        if status >= 500 {
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
        let units = self.units(request.tag);
        let parsed = match units {
            1 => parse_single(body, &mut self.outcomes),
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
            return Taken::Done { accepted };
        }
        let outcome = Outcome::from_byte(self.outcomes[0]).expect("it was read as an outcome");
        match self.changed(kind, request.tag.n, outcome) {
            Ok(()) => Taken::Done { accepted: 1 },
            Err(why) => Taken::Failed(words(&why)),
        }
    }

    fn failed(&mut self, request: &Request) {
        // A change without an answer may have happened or not; both are right.
        if Kind::of(request.tag) == Kind::Place {
            self.acks.add(request.tag.n, request.unix_ms, None);
        }
    }
}

fn excerpt(answer: &[u8]) -> String {
    String::from_utf8_lossy(&answer[..answer.len().min(200)]).into_owned()
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
    out.extend_from_slice(b"{\"orders\":[");
    for n in first..first + orders {
        if n > first {
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
    out.extend_from_slice(profile.fate(n).payment.word().as_bytes());
    out.extend_from_slice(b"\",\"lines\":[");
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
