//! Answers: JSON for what was done or found, problem details (RFC 9457) for what was not.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body as _, Frame, SizeHint};
use hyper::header::{
    ACCEPT, ACCEPT_ENCODING, ALLOW, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION,
    RETRY_AFTER,
};
use hyper::{Response, StatusCode};
use model::json::decode::{DecodeError, Request};
use model::json::encode::{JsonWriter, explain};
use model::record::{AskedError, CommandBuffer, CommandResult, Kind};
use model::reply::Query;
use model::{OrderId, Outcome, Party, Reply};

use crate::Wanted;
use crate::buffers::Buffers;
use crate::drill::DRILL_HEADER;
use crate::feed::{FeedBody, FeedBroke};
use crate::route::Single;

/// The body of an answer.
pub(crate) enum Body {
    /// It is there.
    Whole(Full<Bytes>),
    /// It goes on.
    Feed(FeedBody),
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = FeedBroke;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, FeedBroke>>> {
        match self.get_mut() {
            Body::Whole(whole) => {
                Pin::new(whole).poll_frame(cx).map_err(|never: Infallible| match never {})
            }
            Body::Feed(feed) => feed.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Whole(whole) => whole.is_end_stream(),
            Body::Feed(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Whole(whole) => whole.size_hint(),
            Body::Feed(_) => SizeHint::default(),
        }
    }
}

/// Room for one result.
const RESULT_BYTES: usize = 128;
/// Room for the path of an order.
const LOCATION_BYTES: usize = 80;

/// Why a request was not done, as the caller reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    status: StatusCode,
    /// The last part of its type: a word that programs compare.
    kind: &'static str,
    detail: Box<str>,
    field: Option<Box<str>>,
    /// Members of its own: outcome and state of a refusal.
    outcome: Option<Reply>,
    header: Option<Header>,
}

/// A header that goes with a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Header {
    /// How a body may be packed (RFC 9110, 15.5.16).
    AcceptEncoding,
    /// The methods that the path takes.
    Allow(&'static str),
    /// Trying again helps, in a second.
    RetryAfter,
}

impl Problem {
    fn new(status: StatusCode, kind: &'static str, detail: impl Into<Box<str>>) -> Problem {
        Problem { status, kind, detail: detail.into(), field: None, outcome: None, header: None }
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    pub(crate) fn invalid(error: DecodeError) -> Problem {
        let problem = Problem::new(StatusCode::BAD_REQUEST, "invalid", error.detail);
        Problem { field: error.field.map(String::into_boxed_str), ..problem }
    }

    fn unsupported(detail: &str) -> Problem {
        Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail)
    }

    pub(crate) fn binary_only() -> Problem {
        Problem::unsupported(&format!("commands of all kinds come as {BINARY}"))
    }

    pub(crate) fn unsupported_coding(found: &str) -> Problem {
        let detail = format!("{found:?} is not one of gzip, zstd and identity");
        let problem = Problem::unsupported(&detail);
        let field = Some("Content-Encoding".into());
        Problem { field, header: Some(Header::AcceptEncoding), ..problem }
    }

    pub(crate) fn not_packed(coding: &str, error: &std::io::Error) -> Problem {
        let detail = format!("the body can't be unpacked as {coding}: {error}");
        Problem::invalid_field("Content-Encoding", &detail)
    }

    pub(crate) fn bad_path(field: &str, found: &str, expected: &str) -> Problem {
        Problem::invalid_field(field, &format!("{found:?} is not {expected}"))
    }

    pub(crate) fn invalid_field(field: &str, detail: &str) -> Problem {
        let problem = Problem::new(StatusCode::BAD_REQUEST, "invalid", detail);
        Problem { field: Some(field.into()), ..problem }
    }

    pub(crate) fn no_path(path: &str) -> Problem {
        Problem::new(StatusCode::NOT_FOUND, "no_such_path", format!("nothing is at {path}"))
    }

    pub(crate) fn wrong_method(allowed: &'static str) -> Problem {
        let detail = format!("this path takes {allowed}");
        let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", detail);
        Problem { header: Some(Header::Allow(allowed)), ..problem }
    }

    pub(crate) fn too_large(limit: usize) -> Problem {
        let detail = format!("a body may have {limit} bytes");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail)
    }

    pub(crate) fn bodies_full() -> Problem {
        let detail = "the bodies of other requests take all the room there is; try again";
        let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", detail);
        Problem { header: Some(Header::RetryAfter), ..problem }
    }

    pub(crate) fn slow_body() -> Problem {
        let detail = "the body took too long to arrive";
        Problem::new(StatusCode::REQUEST_TIMEOUT, "slow_body", detail)
    }

    pub(crate) fn broken_body(error: &impl std::fmt::Display) -> Problem {
        let detail = format!("the body did not arrive whole: {error}");
        Problem::new(StatusCode::BAD_REQUEST, "broken_body", detail)
    }

    pub(crate) fn missing(query: &Query) -> Problem {
        let (kind, detail) = match query {
            Query::Order(buyer, id) => {
                ("unknown_order", format!("buyer {buyer} has no order {id}"))
            }
            Query::Account(party, currency, kind) => {
                let kind = kind.word();
                ("unknown_account", format!("party {party} has no {kind} account in {currency}"))
            }
            Query::Item(item) => ("unknown_item", format!("there is no item {item}")),
            Query::Hold(party, id) => ("unknown_hold", format!("party {party} has no hold {id}")),
            Query::Coupon(buyer, number) => {
                ("unknown_coupon", format!("buyer {buyer} has no coupon {number}"))
            }
        };
        Problem::new(StatusCode::NOT_FOUND, kind, detail)
    }

    pub(crate) fn overloaded() -> Problem {
        let detail = "more is waiting than may; nothing happened: try again";
        let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", detail);
        Problem { header: Some(Header::RetryAfter), ..problem }
    }

    pub(crate) fn full() -> Problem {
        let detail = "the shard holds as much as it may; nothing happened";
        Problem::new(StatusCode::INSUFFICIENT_STORAGE, "full", detail)
    }

    pub(crate) fn disk_low() -> Problem {
        let detail = "the disk is nearly full; nothing happened: reads, payments, cancels and \
                      refunds go on, and everything does when there is room";
        let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "disk_low", detail);
        Problem { header: Some(Header::RetryAfter), ..problem }
    }

    pub(crate) fn unreadable() -> Problem {
        let detail = "what should be in the log can't be read there; `crest audit` says why";
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "unreadable", detail)
    }

    pub(crate) fn trimmed() -> Problem {
        let detail = "what is asked for was trimmed from the log, and no archive keeps it";
        Problem::new(StatusCode::GONE, "trimmed", detail)
    }

    pub(crate) fn no_keys() -> Problem {
        let detail = "nothing private is kept here: that takes a data directory that is encrypted \
                      (`crest serve --data-key`); nothing happened";
        let problem = Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "no_keys", detail);
        Problem { field: Some("private".into()), ..problem }
    }

    pub(crate) fn keys_of_trade() -> Problem {
        let detail = "a drill erases no keys: trade has the same ones; nothing was done";
        Problem::new(StatusCode::FORBIDDEN, "drill_refused", detail)
    }

    pub(crate) fn erased(party: Party) -> Problem {
        let detail = format!("the key of party {party} was erased: nothing of it is private");
        let problem = Problem::new(StatusCode::GONE, "erased", detail);
        Problem { field: Some("private".into()), ..problem }
    }

    pub(crate) fn not_erased() -> Problem {
        let detail = "whether the key is erased durably isn't known; try again";
        let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not_erased", detail);
        Problem { header: Some(Header::RetryAfter), ..problem }
    }

    pub(crate) fn nothing_private(buyer: Party, id: OrderId) -> Problem {
        let detail = format!("order {id} of buyer {buyer} has nothing private");
        Problem::new(StatusCode::NOT_FOUND, "nothing_private", detail)
    }

    pub(crate) fn stopped() -> Problem {
        let detail = "the shard stopped, and what became of this is not known: \
                      repeat it with the same id when it is back";
        let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "stopped", detail);
        Problem { header: Some(Header::RetryAfter), ..problem }
    }

    pub(crate) fn not_acceptable(found: &str, expected: &str) -> Problem {
        let detail = format!("the feed comes as {expected}; {found:?} is none of them");
        let problem = Problem::new(StatusCode::NOT_ACCEPTABLE, "not_acceptable", detail);
        Problem { field: Some("Accept".into()), ..problem }
    }

    pub(crate) fn archive_away() -> Problem {
        let detail = "what is asked for is in the archive, which can't be read now; try again";
        let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "archive_away", detail);
        Problem { header: Some(Header::RetryAfter), ..problem }
    }

    pub(crate) fn stopping() -> Problem {
        let detail = "the platform is being stopped";
        let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "stopped", detail);
        Problem { header: Some(Header::RetryAfter), ..problem }
    }

    pub(crate) fn too_many_readers(detail: &str) -> Problem {
        let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_readers", detail);
        Problem { header: Some(Header::RetryAfter), ..problem }
    }

    pub(crate) fn no_feed() -> Problem {
        let detail = "no feed is served here";
        Problem::new(StatusCode::NOT_FOUND, "no_feed", detail)
    }

    pub(crate) fn malformed_mark() -> Problem {
        let detail = format!(
            "`{DRILL_HEADER}` is one mark: Unix seconds, a dot, and their HMAC-SHA256 in 64 \
             hexadecimal digits"
        );
        let problem = Problem::new(StatusCode::BAD_REQUEST, "invalid", detail);
        Problem { field: Some(DRILL_HEADER.into()), ..problem }
    }

    pub(crate) fn bad_mark(why: &str) -> Problem {
        let detail =
            format!("the mark in `{DRILL_HEADER}` is refused, and nothing was done: {why}");
        let problem = Problem::new(StatusCode::FORBIDDEN, "drill_refused", detail);
        Problem { field: Some(DRILL_HEADER.into()), ..problem }
    }

    pub(crate) fn drill_stopped() -> Problem {
        let detail = "drills are stopped; nothing was done";
        let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "drill_stopped", detail);
        Problem { header: Some(Header::RetryAfter), ..problem }
    }

    /// A single command that was refused.
    fn refused(reply: &Reply) -> Problem {
        let status = match reply.outcome {
            Outcome::UnknownOrder => StatusCode::NOT_FOUND,
            Outcome::UnknownAccount
            | Outcome::UnknownItem
            | Outcome::CurrencyMismatch
            | Outcome::IdReused
            | Outcome::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
            Outcome::Busy => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::CONFLICT,
        };
        let detail = explain(reply.outcome, reply.state);
        Problem {
            field: reply.line.map(|line| format!("lines[{line}]").into()),
            outcome: Some(*reply),
            header: (reply.outcome == Outcome::Busy).then_some(Header::RetryAfter),
            ..Problem::new(status, reply.outcome.word(), detail)
        }
    }
}

/// How bodies are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// `application/json`.
    Json,
    /// [`BINARY`].
    Binary,
}

/// Commands and results in the layout of the log: docs/binary.md.
const BINARY: &str = "application/vnd.crest.v1";

impl Format {
    /// How a request's body is written. JSON, unless it is said.
    pub(crate) fn of_body(headers: &HeaderMap) -> Result<Format, Problem> {
        let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(Format::Json) };
        let value = value.to_str().unwrap_or("");
        Format::named(value).ok_or_else(|| {
            let detail = format!("{value:?} is neither application/json nor {BINARY}");
            Problem::unsupported(&detail)
        })
    }

    /// How its answer is to be: as what is there and weighs most in what it accepts (RFC 9110,
    /// 12.5.1), or as the body was.
    pub(crate) fn of_answer(headers: &HeaderMap, body: Format) -> Format {
        let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let mut best = (0.0, body);
        for range in accepted.flat_map(|value| value.split(',')) {
            let weight = range.split(';').skip(1).find_map(|text| text.trim().strip_prefix("q="));
            let weight = weight.map_or(1.0, |text| text.parse().unwrap_or(0.0));
            if let Some(format) = Format::named(range)
                && weight > best.0
            {
                best = (weight, format);
            }
        }
        best.1
    }

    fn named(media_type: &str) -> Option<Format> {
        let essence = media_type.split(';').next().unwrap_or("").trim();
        match () {
            () if essence.eq_ignore_ascii_case("application/json") => Some(Format::Json),
            () if essence.eq_ignore_ascii_case(BINARY) => Some(Format::Binary),
            () => None,
        }
    }
}

/// Takes up a body of commands as bytes: of one kind, or of any.
pub(crate) fn decode_binary(wanted: Wanted, buffers: &mut Buffers) -> Result<(), Problem> {
    let only = match wanted {
        Wanted::Any => None,
        Wanted::Of(Request::Orders) => Some(Kind::Place),
        Wanted::Of(Request::Accounts) => Some(Kind::CreateAccount),
        Wanted::Of(Request::Items) => Some(Kind::CreateItem),
        Wanted::Of(Request::Transfers) => Some(Kind::Transfer),
        Wanted::Of(Request::Coupons) => Some(Kind::IssueCoupon),
        Wanted::Of(_) => {
            let detail = format!("{BINARY} is for batches, and for any command at /v1/commands");
            return Err(Problem::unsupported(&detail));
        }
    };
    let Buffers { body, commands, .. } = buffers;
    commands.push_asked(body, only).map_err(|error| match error {
        AskedError::Command { index, source } => {
            Problem::invalid_field(&format!("commands[{index}]"), &source.to_string())
        }
        AskedError::Empty | AskedError::TooMany => {
            Problem::invalid_field("commands", &error.to_string())
        }
    })
}

pub(crate) fn json(status: StatusCode, text: Vec<u8>) -> Response<Body> {
    typed(status, text, HeaderValue::from_static("application/json"))
}

/// A JSON Schema.
pub(crate) fn schema(text: &'static str) -> Response<Body> {
    typed(StatusCode::OK, text, HeaderValue::from_static("application/schema+json"))
}

fn typed(status: StatusCode, text: impl Into<Bytes>, content_type: HeaderValue) -> Response<Body> {
    let mut response = Response::new(Body::Whole(Full::new(text.into())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// The answer to HEAD: what GET would say of the body, without it. HTTP/2 would send it.
pub(crate) fn without_body(mut response: Response<Body>) -> Response<Body> {
    let length = response.body().size_hint().exact().unwrap_or_default();
    response.headers_mut().insert(CONTENT_LENGTH, length.into());
    *response.body_mut() = Body::Whole(Full::default());
    response
}

/// The answer to a batch.
pub(crate) fn results(
    format: Format,
    replies: &[Reply],
    amount_name: Option<&str>,
) -> Response<Body> {
    if format == Format::Binary {
        let mut bytes = Vec::new();
        CommandResult::write_all(replies, &mut bytes);
        return typed(StatusCode::OK, bytes, HeaderValue::from_static(BINARY));
    }
    let mut json_text = JsonWriter::default();
    json_text.results(replies, amount_name);
    json(StatusCode::OK, json_text.finish())
}

/// The answer to a single change.
pub(crate) fn single(
    request: Request,
    single: Single,
    reply: &Reply,
    commands: &CommandBuffer,
) -> Result<Response<Body>, Problem> {
    if !reply.outcome.is_done() {
        return Err(Problem::refused(reply));
    }
    let mut text = JsonWriter::new(Vec::with_capacity(RESULT_BYTES));
    text.result(reply, crate::amount_name(Wanted::Of(request)));
    let created = single == Single::Created && reply.outcome == Outcome::Ok;
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    let mut response = json(status, text.finish());
    if let (Request::Order, Some(Ok(record))) = (request, commands.records().next()) {
        let id = record.order().unwrap_or_default();
        response.headers_mut().insert(LOCATION, location(record.party(), id));
    }
    Ok(response)
}

/// The path of an order.
fn location(buyer: Party, id: OrderId) -> HeaderValue {
    let mut path = String::with_capacity(LOCATION_BYTES);
    let _ = write!(path, "/v1/buyers/{buyer}/orders/{id}"); // A string takes everything.
    HeaderValue::from_maybe_shared(Bytes::from(path)).expect("digits and hyphens")
}

/// A problem as RFC 9457 has it.
pub(crate) fn problem(problem: Problem) -> Response<Body> {
    let text = problem_json(&problem);
    let content_type = HeaderValue::from_static("application/problem+json");
    let mut response = typed(problem.status, text, content_type);
    let headers = response.headers_mut();
    match problem.header {
        Some(Header::AcceptEncoding) => {
            drop(headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip, zstd")))
        }
        Some(Header::Allow(methods)) => {
            drop(headers.insert(ALLOW, HeaderValue::from_static(methods)))
        }
        Some(Header::RetryAfter) => {
            drop(headers.insert(RETRY_AFTER, HeaderValue::from_static("1")))
        }
        None => {}
    }
    response
}

/// Its text.
pub(crate) fn problem_json(problem: &Problem) -> Vec<u8> {
    let quoted = |text: &str| sonic_rs::to_string(text).unwrap_or_else(|_| "\"\"".to_string());
    let status = problem.status;
    let mut text = format!(
        "{{\"type\":\"urn:crest:problem:{}\",\"title\":{},\"status\":{},\"detail\":{}",
        problem.kind,
        quoted(&problem.kind.replace('_', " ")),
        status.as_u16(),
        quoted(&problem.detail)
    );
    if let Some(field) = &problem.field {
        text.push_str(&format!(",\"field\":{}", quoted(field)));
    }
    if let Some(reply) = &problem.outcome {
        text.push_str(&format!(",\"outcome\":\"{}\"", reply.outcome.word()));
        if let Some(state) = reply.state {
            text.push_str(&format!(",\"state\":\"{}\"", state.word()));
        }
        if let Some(offset) = reply.offset {
            text.push_str(&format!(",\"offset\":{offset}"));
        }
    }
    text.push('}');
    text.into_bytes()
}
