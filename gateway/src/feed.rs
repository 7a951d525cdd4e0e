//! The feed over HTTP: lines of JSON, server-sent events, or the log's frames.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::body::Frame;
use hyper::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Response, StatusCode};
use jiff::Timestamp;
use model::event::{EventId, EventType};
use model::frame;
use model::reply::{Query, View};
use model::{ItemId, LineKind, OrderId, Party, Realm, Time};
use node::{
    EventFilter, Feed, FeedChunk, FeedError, FeedEvent, FeedReader, FeedStart, FeedWish, Matches,
    SubmitError,
};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::answer::{Body, Problem};
use crate::shards::{Shards, all};

/// What a reader gets when nothing happens, so that both ends know of each other: after so long.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Bytes that are put together for a reader who doesn't want all events.
const PIECE_BYTES: usize = 64 << 10;
/// Pieces that wait for the socket.
const PIECES_AHEAD: usize = 2;
/// The most values that a filter may name of one kind.
const VALUES_MAX: usize = 100;
/// Look-ups of a reader that run at once: those who order wait for the same shards and archive.
const LOOKUPS_MAX: usize = 8;
/// Sellers of items that are remembered.
const SELLERS_MAX: usize = 100_000;
/// How long a look-up waits to be tried again.
const PAUSE: Duration = Duration::from_millis(20);

/// The feed's events as JSON Schema (draft 2020-12).
pub(crate) const SCHEMA: &str = include_str!("feed/schema.json");
/// See [`Form::Frames`].
const FRAMES: &str = "application/vnd.crest.frames";
const LINES: &str = "application/x-ndjson";
const EVENTS: &str = "text/event-stream";
const LAST_EVENT_ID: &str = "last-event-id";
/// What events name as their source, and how many shards there are: frames say neither.
const SOURCE: &str = "crest-source";
const SHARDS: &str = "crest-shards";

/// How the feed is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// A line of JSON for each event.
    Lines,
    /// Server-sent events (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).
    Events,
    /// The log's frames, back to back.
    Frames,
}

impl Form {
    /// What the caller takes. The first of its types that there is; their weights aren't looked at.
    fn of(headers: &HeaderMap) -> Result<Form, Problem> {
        let Some(accept) = headers.get(ACCEPT) else { return Ok(Form::Lines) };
        let accept = accept.to_str().unwrap_or("");
        let essences = accept.split(',').map(|part| part.split(';').next().unwrap_or("").trim());
        let form = |essence: &str| match essence.to_ascii_lowercase().as_str() {
            EVENTS => Some(Form::Events),
            FRAMES => Some(Form::Frames),
            LINES | "application/jsonl" | "application/*" | "*/*" => Some(Form::Lines),
            _ => None,
        };
        essences.into_iter().find_map(form).ok_or_else(|| {
            let expected = format!("{LINES}, {EVENTS} or {FRAMES}");
            Problem::not_acceptable(accept, &expected)
        })
    }

    fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Form::Lines => LINES,
            Form::Events => EVENTS,
            Form::Frames => FRAMES,
        })
    }

    /// What says that nothing happened.
    fn heartbeat(self, is_behind: bool) -> Bytes {
        match self {
            Form::Lines => Bytes::from_static(b"\n"),
            Form::Events => Bytes::from_static(b":\n\n"),
            Form::Frames => {
                // Who is behind has yet to see what was decided before.
                let now = if is_behind { 0 } else { Timestamp::now().as_microsecond() };
                frame::heartbeat(Time(now.max(0).unsigned_abs())).into()
            }
        }
    }
}

/// What the query of a request for the feed says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FeedQuery {
    start: Option<FeedStart>,
    ends: bool,
    filter: EventFilter,
}

impl FeedQuery {
    pub(crate) fn parse(query: Option<&str>) -> Result<FeedQuery, Problem> {
        let mut wanted = FeedQuery { start: None, ends: false, filter: EventFilter::all() };
        let filter = &mut wanted.filter;
        for (name, value) in form_urlencoded::parse(query.unwrap_or("").as_bytes()) {
            match &*name {
                "from" => wanted.start = Some(start(&value)?),
                "until" if value == "now" => wanted.ends = true,
                "until" => return Err(Problem::bad_path("until", &value, "`now`")),
                "type" => {
                    for word in value.split(',') {
                        filter.types |= types(word)?;
                    }
                }
                "buyer" => add(&mut filter.buyers, "buyer", &value, Party)?,
                "item" => add(&mut filter.items, "item", &value, ItemId)?,
                "seller" => add(&mut filter.sellers, "seller", &value, Party)?,
                _ => {
                    let expected = "a parameter; `from`, `until`, `type`, `buyer`, `item` and \
                                    `seller` are";
                    return Err(Problem::bad_path(&name, &name, expected));
                }
            }
        }
        Ok(wanted)
    }

    /// What the request wants.
    fn wish(self, realm: Realm, form: Form, headers: &HeaderMap) -> Result<FeedWish, Problem> {
        let last = headers.get(LAST_EVENT_ID).filter(|value| !value.is_empty());
        let last = last.map(|value| value.to_str().unwrap_or("?"));
        let after = |text| {
            let id = EventId::parse(text);
            id.map(FeedStart::After).ok_or_else(|| {
                Problem::bad_path("Last-Event-ID", text, "an event's id such as 3-1204")
            })
        };
        let start = last.map(after).transpose()?.or(self.start).unwrap_or(FeedStart::Now);
        let json = form != Form::Frames;
        if !json && (!self.filter.is_all() || realm == Realm::Drill) {
            let detail = "frames come as the log has them, with all that is in them";
            return Err(Problem::invalid_field("Accept", detail));
        }
        let filter = EventFilter { realm, ..self.filter };
        Ok(FeedWish { start, ends: self.ends, filter, json })
    }
}

fn start(text: &str) -> Result<FeedStart, Problem> {
    match text {
        "earliest" => return Ok(FeedStart::Earliest),
        "now" => return Ok(FeedStart::Now),
        _ => {}
    }
    if let Some(id) = EventId::parse(text) {
        return Ok(FeedStart::From(id));
    }
    let time = text.parse::<Timestamp>().ok().map(Timestamp::as_microsecond);
    let time = time.and_then(|micros| u64::try_from(micros).ok());
    time.map(|micros| FeedStart::At(Time(micros))).ok_or_else(|| {
        let expected = "`earliest`, `now`, an event's id such as 3-1204, or a time such as \
                        2026-11-11T00:00:00Z";
        Problem::bad_path("from", text, expected)
    })
}

/// A type, or all that begin with a word and a dot.
fn types(word: &str) -> Result<u64, Problem> {
    let named = |of: &&EventType| {
        let name = of.word();
        name == word || name.split_once('.').is_some_and(|(group, _)| group == word)
    };
    let bits = EventType::ALL.iter().filter(named).fold(0, |bits, of| bits | of.bit());
    if bits == 0 {
        let expected = "a type of events, such as `order.placed`, or `order` for all of them; \
                        /v1/feed/schema has all";
        return Err(Problem::bad_path("type", word, expected));
    }
    Ok(bits)
}

fn add<T>(
    values: &mut Vec<T>,
    name: &str,
    text: &str,
    make: impl Fn(u64) -> T,
) -> Result<(), Problem> {
    for number in text.split(',') {
        values.push(make(crate::route::number(name, number)?));
    }
    if values.len() > VALUES_MAX {
        let expected = format!("at most {VALUES_MAX} values");
        return Err(Problem::bad_path(name, &values.len().to_string(), &expected));
    }
    Ok(())
}

/// Why a body ends before its end.
#[derive(Debug, thiserror::Error)]
#[error("the feed ended: {0}")]
pub(crate) struct FeedBroke(String);

/// The body of an answer that goes on for as long as somebody reads.
pub(crate) struct FeedBody(mpsc::Receiver<Result<Bytes, FeedBroke>>);

impl FeedBody {
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, FeedBroke>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}

/// Begins an answer.
pub(crate) async fn answer(
    feed: &Feed,
    shards: &Rc<Shards>,
    query: FeedQuery,
    (realm, headers): (Realm, &HeaderMap),
    stop: watch::Receiver<bool>,
) -> Result<Response<Body>, Problem> {
    let form = Form::of(headers)?;
    let wish = query.wish(realm, form, headers)?;
    let source = HeaderValue::from_str(feed.source()).expect("hexadecimal digits");
    let shard_count = HeaderValue::from(feed.shards());
    let feed = feed.clone();
    // It may ask the archive.
    let reader = tokio::task::spawn_blocking(move || feed.read(wish)).await;
    let reader = reader.map_err(|_| Problem::stopping())?.map_err(|error| {
        let is_last = headers.get(LAST_EVENT_ID).is_some_and(|value| !value.is_empty());
        refused(&error, if is_last { "Last-Event-ID" } else { "from" })
    })?;
    let (pieces, body) = mpsc::channel(PIECES_AHEAD);
    let writer = Writer { shards: shards.clone(), form, pieces, sellers: HashMap::new() };
    tokio::task::spawn_local(writer.run(reader, stop));
    let mut response = Response::new(Body::Feed(FeedBody(body)));
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, form.content_type());
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(SOURCE, source);
    headers.insert(SHARDS, shard_count);
    Ok(response)
}

/// `field` says where it was to begin.
fn refused(error: &FeedError, field: &str) -> Problem {
    match error {
        FeedError::TooManyReaders { .. } => Problem::too_many_readers(&error.to_string()),
        FeedError::NoShard { .. } | FeedError::NotYet { .. } | FeedError::NotNow => {
            Problem::invalid_field(field, &error.to_string())
        }
        FeedError::Trimmed => Problem::trimmed(),
        FeedError::Stopped => Problem::stopping(),
        FeedError::Archive(_) => {
            tracing::warn!(%error, "the feed can't be read");
            Problem::archive_away()
        }
        FeedError::Log(_) | FeedError::Unreadable { .. } | FeedError::Thread(_) => {
            tracing::error!(%error, "the feed can't be read");
            Problem::unreadable()
        }
    }
}

/// Chunks that live as long as somebody writes from them.
struct JsonOf(Arc<FeedChunk>);

impl AsRef<[u8]> for JsonOf {
    fn as_ref(&self) -> &[u8] {
        self.0.json()
    }
}

struct FramesOf(Arc<FeedChunk>);

impl AsRef<[u8]> for FramesOf {
    fn as_ref(&self) -> &[u8] {
        self.0.frames()
    }
}

/// The reader has gone away.
struct Gone;

struct Writer {
    shards: Rc<Shards>,
    form: Form,
    pieces: mpsc::Sender<Result<Bytes, FeedBroke>>,
    /// Who sells items, as far as that was looked up.
    sellers: HashMap<ItemId, Party>,
}

/// What the orders of a chunk are about.
type Orders = HashMap<(Party, OrderId), Option<(Vec<ItemId>, Vec<Party>)>>;

impl Writer {
    async fn run(mut self, mut reader: FeedReader, mut stop: watch::Receiver<bool>) {
        let mut silent_since = Instant::now();
        loop {
            let chunk = tokio::select! {
                biased;
                _ = stop.wait_for(|&stop| stop) => {
                    // Not a proper end: there is more. Nobody may be there to be told.
                    let _ = self.pieces.send(Err(FeedBroke("it is stopped".to_string()))).await;
                    return;
                }
                () = self.pieces.closed() => return,
                // Before the next chunk: there may always be one, and nothing in it that is wanted.
                () = sleep_until(silent_since + HEARTBEAT) => {
                    silent_since = Instant::now();
                    if self.send(self.form.heartbeat(reader.is_behind())).await.is_err() {
                        return;
                    }
                    continue;
                }
                chunk = reader.next() => chunk,
            };
            // Chunks may come one after the other, and orders share this thread.
            tokio::task::consume_budget().await;
            let written = match chunk {
                Ok(Some(chunk)) => self.write(reader.filter(), chunk).await,
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(%error, "a reader of the feed is cut off");
                    // It may have gone away.
                    let _ = self.pieces.send(Err(FeedBroke(error.to_string()))).await;
                    return;
                }
            };
            match written {
                Ok(true) => silent_since = Instant::now(),
                Ok(false) => {}
                Err(Gone) => return,
            }
        }
    }

    async fn send(&self, piece: Bytes) -> Result<(), Gone> {
        self.pieces.send(Ok(piece)).await.map_err(|_| Gone)
    }

    /// Writes what the reader wants of a chunk; whether that was anything.
    async fn write(&mut self, filter: &EventFilter, chunk: Arc<FeedChunk>) -> Result<bool, Gone> {
        let whole = match self.form {
            Form::Frames => Some(Bytes::from_owner(FramesOf(chunk.clone()))),
            Form::Lines if filter.is_all() && chunk.is_of(filter.realm) => {
                Some(Bytes::from_owner(JsonOf(chunk.clone())))
            }
            _ => None,
        };
        if let Some(whole) = whole {
            let any = !whole.is_empty();
            if any {
                self.send(whole).await?;
            }
            return Ok(any);
        }
        let orders = self.look_up(filter, &chunk).await?;
        let (mut piece, mut any) = (BytesMut::new(), false);
        for event in chunk.events() {
            if !self.wants(filter, &chunk, event, &orders) {
                continue;
            }
            self.put(&mut piece, &chunk, event);
            if piece.len() >= PIECE_BYTES {
                any = true;
                self.send(piece.split().freeze()).await?;
            }
        }
        if !piece.is_empty() {
            any = true;
            self.send(piece.freeze()).await?;
        }
        Ok(any)
    }

    fn put(&self, piece: &mut BytesMut, chunk: &FeedChunk, event: &FeedEvent) {
        let line = chunk.line(event);
        if piece.capacity() - piece.len() < line.len() {
            piece.reserve(PIECE_BYTES + line.len());
        }
        if self.form == Form::Events {
            let head = format!("id: {}\nevent: {}\ndata: ", event.id, event.event_type.word());
            piece.extend_from_slice(head.as_bytes());
            piece.extend_from_slice(line);
            piece.extend_from_slice(b"\n");
        } else {
            piece.extend_from_slice(line);
        }
    }

    fn wants(
        &self,
        filter: &EventFilter,
        chunk: &FeedChunk,
        event: &FeedEvent,
        orders: &Orders,
    ) -> bool {
        let (items, sellers) = (chunk.items(event), chunk.sellers(event));
        match filter.matches(event, items, sellers) {
            Matches::Known(wanted) => wanted,
            Matches::AskSellers => self.concerns(filter, items, sellers),
            Matches::AskOrder(buyer, order) => match orders.get(&(buyer, order)) {
                Some(Some((items, sellers))) => self.concerns(filter, items, sellers),
                // What it is about can't be said any more: better once too often than never.
                _ => true,
            },
        }
    }

    fn concerns(&self, filter: &EventFilter, items: &[ItemId], sellers: &[Party]) -> bool {
        let known = items.iter().filter_map(|item| self.sellers.get(item).copied());
        let sellers: Vec<Party> = sellers.iter().copied().chain(known).collect();
        filter.concerns(items, &sellers) == Matches::Known(true)
    }

    /// Looks up what the records of a chunk don't say.
    async fn look_up(&mut self, filter: &EventFilter, chunk: &FeedChunk) -> Result<Orders, Gone> {
        let mut orders = Orders::new();
        let mut items = HashSet::new();
        if filter.items.is_empty() && filter.sellers.is_empty() {
            return Ok(orders);
        }
        for event in chunk.events() {
            let named = chunk.items(event);
            match filter.matches(event, named, chunk.sellers(event)) {
                Matches::Known(_) => {}
                Matches::AskSellers => items.extend(named.iter().copied()),
                Matches::AskOrder(buyer, order) => drop(orders.insert((buyer, order), None)),
            }
        }
        let realm = filter.realm;
        let wanted: Vec<(Party, OrderId)> = orders.keys().copied().collect();
        for part in wanted.chunks(LOOKUPS_MAX) {
            let ask = |&(buyer, id): &(Party, OrderId)| Query::Order(buyer, id);
            let found = self.ask_all(realm, part.iter().map(ask)).await?;
            for (key, view) in part.iter().zip(found) {
                let order = match view {
                    Some(View::Order(order)) if !order.lines.is_empty() => order,
                    // There was no such order.
                    Some(View::Missing) => {
                        orders.insert(*key, Some(Default::default()));
                        continue;
                    }
                    // One that was refused keeps no lines.
                    _ => continue,
                };
                let goods = order.lines.iter().filter(|line| line.kind == LineKind::Goods);
                let named: Vec<ItemId> = goods.map(|line| line.item).collect();
                let others = order.lines.iter().filter(|line| line.kind != LineKind::Goods);
                let payees = order.lines.iter().filter_map(|line| line.payee);
                let sellers = others.map(|line| Party(line.item.0)).chain(payees).collect();
                if !filter.sellers.is_empty() {
                    items.extend(named.iter().copied());
                }
                orders.insert(*key, Some((named, sellers)));
            }
        }
        if self.sellers.len() > SELLERS_MAX {
            self.sellers.clear();
        }
        let wanted: Vec<ItemId> =
            items.into_iter().filter(|item| !self.sellers.contains_key(item)).collect();
        for part in wanted.chunks(LOOKUPS_MAX) {
            let found = self.ask_all(realm, part.iter().map(|&item| Query::Item(item))).await?;
            for view in found {
                if let Some(View::Item(item)) = view {
                    self.sellers.insert(item.item, item.seller);
                }
            }
        }
        Ok(orders)
    }

    /// Answers to queries, in their order; `None` where there is no telling.
    async fn ask_all(
        &self,
        realm: Realm,
        queries: impl Iterator<Item = Query>,
    ) -> Result<Vec<Option<View>>, Gone> {
        let ask = |query| async move {
            loop {
                let looked_up = match query {
                    // Its seller is the same everywhere.
                    Query::Item(item) => self.shards.query_home(realm, item).await,
                    _ => self.shards.query(realm, query).await,
                };
                match looked_up {
                    Ok(view) => return Some(view),
                    Err(SubmitError::Overloaded(_)) if !self.pieces.is_closed() => {
                        tokio::time::sleep(PAUSE).await;
                    }
                    Err(_) => return None,
                }
            }
        };
        let found = all(queries.map(|query| Box::pin(ask(query))).collect()).await;
        if self.pieces.is_closed() { Err(Gone) } else { Ok(found) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_documented() {
        let page = include_str!("../../docs/feed.md");
        for word in EventType::ALL.iter().map(|of| of.word()) {
            assert!(page.contains(&format!("| `{word}` |")), "docs/feed.md: {word}");
            assert!(SCHEMA.contains(&format!("\"crest.{word}.v1\"")), "schema.json: {word}");
        }
    }
}
