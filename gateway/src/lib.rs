//! The front door: HTTP/1.1, HTTP/2, HTTP/3 and `crest/1` on one port, with and without TLS.
//!
//! A request is routed by its path, its body is parsed straight into commands, the commands go
//! to the buyer's shard, and the answer comes back when they are durable. Bad input is answered
//! by a problem (RFC 9457) that names the field, before any shard hears of it.
//!
//! A [`Gateway`] belongs to one reactor and is shared by its connections; nothing in it is
//! locked, and request buffers are used again.

mod answer;
mod buffers;
mod coding;
mod connections;
mod crest1;
mod door;
mod drill;
mod feed;
mod http3;
mod listing;
mod quic;
mod route;
mod shards;
mod statement;
mod timed;
mod tls;
mod transport;

use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;

use hyper::body::Body as HttpBody;
use hyper::header::{ALT_SVC, HeaderMap, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request as HttpRequest, Response, Version};
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulConnection;
use model::json::decode::{self, Request};
use model::json::encode::JsonWriter;
use model::record::{CommandBuffer, Kind};
use model::reply::{Query, View};
use model::{OrderId, Outcome, Party, Realm};
use node::stages::{ReactorRecorder, Ticks, WriteTicks};
use node::{Answer, Courier, Feed, PartyKeys, SubmitError, Unopened};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use answer::{Body, Format, Problem};
use buffers::{Buffers, Pool};
use coding::Coding;
use connections::{Activity, Connections, Graceful};
pub use door::Door;
pub use drill::{DRILL_HEADER, DrillDoor, DrillKey, KeyLength};
use listing::{Found, RowsPage};
pub use quic::{QuicDoor, REACTORS_MAX};
use route::{OrdersPage, Page, Route, Single};
pub use shards::Router;
use shards::{Listed, Shards};
use timed::{TimedStream, Wire};
pub use tls::{CertificateError, Certificates, OWN_CERTIFICATE};
use transport::Transport;

/// What a connection of HTTP/1.1 buffers at most: the largest head, or a piece of a body.
const HTTP1_BUFFER_BYTES: usize = 128 << 10;

/// What one caller may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most bytes of a body. Default 8 MiB; a batch of the most orders needs about 2.
    pub body_bytes: usize,
    /// The most bytes of bodies that one reactor holds at once; further ones are answered by 503.
    /// Default 256 MiB.
    pub bodies_bytes: usize,
    /// The most connections of one reactor. Default 10,000; further ones wait to be accepted.
    pub connections: usize,
    /// The most connections over QUIC of one reactor. Default 50,000; further ones are refused.
    pub quic_connections: usize,
    /// How long a connection may be quiet: no request is being handled on it, and nothing is
    /// written. A request's head has to arrive in that time, too, and an answer has to be taken.
    /// It may take a quarter longer until that is seen. Default 60 s.
    pub idle: Duration,
    /// How long a body may take to arrive. Default 30 s.
    pub body: Duration,
    /// How long open requests may take to end when the gateway stops; connections still open
    /// then are cut. Default 10 s.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            body_bytes: 8 << 20,
            bodies_bytes: 256 << 20,
            connections: 10_000,
            quic_connections: 50_000,
            idle: Duration::from_secs(60),
            body: Duration::from_secs(30),
            drain: Duration::from_secs(10),
        }
    }
}

/// Answers the requests of one reactor.
pub struct Gateway {
    shards: Rc<Shards>,
    couriers: Vec<Courier>,
    limits: Limits,
    pool: Pool,
    recorder: Rc<ReactorRecorder>,
    drill: DrillDoor,
    keys: Option<Arc<PartyKeys>>,
    feed: Option<Feed>,
    tls: Option<TlsAcceptor>,
    quic: Option<QuicDoor>,
    /// Says that it is there over HTTP/3, too.
    alternative: Option<HeaderValue>,
    date: http3::Date,
    stop: watch::Receiver<bool>,
}

impl Gateway {
    /// A gateway in front of these shards. `reactor` is the number that its times are listed
    /// under.
    pub fn new(router: Router, limits: Limits, reactor: usize) -> Gateway {
        let pool = Pool::new(limits.bodies_bytes);
        let recorder = Rc::new(router.first().stages().reactor(reactor));
        let (shards, couriers) = Shards::new(&router);
        let (shards, drill) = (Rc::new(shards), DrillDoor::default());
        Gateway {
            shards,
            couriers,
            limits,
            pool,
            recorder,
            drill,
            keys: None,
            feed: None,
            tls: None,
            quic: None,
            alternative: None,
            date: http3::Date::default(),
            stop: watch::channel(false).1,
        }
    }

    /// One that takes what is private, encrypts it, and shows it again. Without this it takes none.
    pub fn with_keys(self, keys: Option<Arc<PartyKeys>>) -> Gateway {
        Gateway { keys, ..self }
    }

    /// One that shows what happens. Without this it has no feed.
    pub fn with_feed(self, feed: Option<Feed>) -> Gateway {
        Gateway { feed, ..self }
    }

    /// One that speaks TLS, too, and HTTP/3 over QUIC. Without this it does neither.
    pub fn with_tls(self, certificates: &Certificates, quic: QuicDoor) -> Gateway {
        let tls = Some(TlsAcceptor::from(certificates.over_tcp.clone()));
        Gateway { tls, quic: Some(quic), ..self }
    }

    /// One that takes drills, too. Without this it takes none.
    pub fn with_drills(self, drill: DrillDoor) -> Gateway {
        Gateway { drill, ..self }
    }

    /// Accepts connections until `stop` says so, then lets open requests end.
    ///
    /// Runs on the current thread's `LocalRuntime` or `LocalSet`.
    pub async fn serve(
        mut self,
        door: Door,
        mut stop: watch::Receiver<bool>,
    ) -> std::io::Result<()> {
        let mut door = door.open()?;
        self.stop = stop.clone();
        for courier in std::mem::take(&mut self.couriers) {
            tokio::task::spawn_local(courier.run());
        }
        let quic = self.quic.take().map(QuicDoor::open).transpose()?;
        if let Some(quic) = &quic {
            let text = format!("h3=\":{}\"; ma=86400", quic.local_addr()?.port());
            self.alternative = Some(HeaderValue::try_from(text).expect("a number in ASCII"));
        }
        let gateway = Rc::new(self);
        let over_quic = quic.map(|endpoint| {
            tokio::task::spawn_local(quic::serve(gateway.clone(), endpoint, stop.clone()))
        });
        let open = Connections::new();
        let idle = tokio::task::spawn_local({
            let (open, idle) = (open.clone(), gateway.limits.idle);
            async move { open.end_idle(idle).await }
        });
        loop {
            let (stream, counted) = tokio::select! {
                biased;
                _ = stop.wait_for(|&stop| stop) => break,
                next = door.next(open.fewer_than(gateway.limits.connections)) => match next {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        // Out of file descriptors, or a connection that is gone already.
                        tracing::warn!(%error, "a connection could not be accepted");
                        tokio::time::sleep(Duration::from_millis(10)).await;
                        continue;
                    }
                },
            };
            // An answer must not wait for the acknowledgement of the one before.
            let _ = stream.set_nodelay(true);
            let place = open.enter();
            let connection = gateway.clone().connection(stream, place.activity.clone());
            let served = place.serve(connection);
            tokio::task::spawn_local(async move {
                served.await;
                drop(counted);
            });
        }
        drop(door);
        idle.abort();
        let drain = gateway.limits.drain;
        if !open.end(drain).await {
            tracing::warn!(?drain, "connections were still open when the gateway stopped");
        }
        if let Some(over_quic) = over_quic {
            over_quic.await.map_err(std::io::Error::other)?;
        }
        Ok(())
    }

    fn connection(
        self: Rc<Gateway>,
        stream: tokio::net::TcpStream,
        activity: Rc<Activity>,
    ) -> impl Graceful + 'static {
        let mut builder = auto::Builder::new(LocalExecutor);
        // Not `pipeline_flush`: it keeps an answer back as long as anything but a whole request
        // follows, be it half of the next one, and collects answers without a bound.
        builder.http1().header_read_timeout(None).max_headers(64).max_buf_size(HTTP1_BUFFER_BYTES);
        builder
            .http2()
            .max_concurrent_streams(256)
            .max_header_list_size(16 << 10)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(8 << 20);
        let wire = Wire::new(self.recorder.clone(), activity);
        let stream = Transport::new(stream, self.tls.clone(), wire.clone());
        let stream = TimedStream::new(stream, wire.clone());
        let service = service_fn(move |request| {
            let (gateway, wire) = (self.clone(), wire.clone());
            async move { Ok::<_, Infallible>(gateway.handle(request, &wire).await) }
        });
        Served(Box::pin(builder.serve_connection(TokioIo::new(stream), service).into_owned()))
    }

    /// Answers one request.
    async fn handle<B>(&self, request: HttpRequest<B>, wire: &Rc<Wire>) -> Response<Body>
    where
        B: HttpBody<Data = Bytes, Error: std::fmt::Display> + Unpin,
    {
        let is_told = wire.is_secure.get() && request.version() < Version::HTTP_3;
        let coding = Coding::of_answer(request.headers());
        let has_body = !request.body().is_end_stream();
        wire.expect_body(has_body && request.version() < Version::HTTP_2);
        let mut response = self.answer(request, wire).await;
        if let Some(coding) = coding {
            response = coding::packed(coding, response);
        }
        if let (true, Some(alternative)) = (is_told, &self.alternative) {
            response.headers_mut().insert(ALT_SVC, alternative.clone());
        }
        response
    }

    async fn answer<B>(&self, request: HttpRequest<B>, wire: &Rc<Wire>) -> Response<Body>
    where
        B: HttpBody<Data = Bytes, Error: std::fmt::Display> + Unpin,
    {
        let _open = wire.request();
        let begun = wire.begin(request.version());
        let head_only = request.method() == Method::HEAD;
        let answered = match Route::of(request.method(), request.uri()) {
            Ok(Route::Read(query)) => {
                self.recorder.count_read();
                match self.realm(request.headers()) {
                    Ok(realm) => self.read(realm, query).await,
                    Err(problem) => Err(problem),
                }
            }
            Ok(Route::Statement(page)) => {
                self.recorder.count_read();
                match self.realm(request.headers()) {
                    Ok(realm) => self.statement(realm, &page).await,
                    Err(problem) => Err(problem),
                }
            }
            Ok(Route::Orders(page)) => {
                self.recorder.count_read();
                match self.realm(request.headers()) {
                    Ok(realm) => self.orders(realm, &page).await,
                    Err(problem) => Err(problem),
                }
            }
            Ok(Route::Private(buyer, order)) => {
                self.recorder.count_read();
                match self.realm(request.headers()) {
                    Ok(realm) => self.private(realm, buyer, order).await,
                    Err(problem) => Err(problem),
                }
            }
            Ok(Route::Feed(query)) => {
                self.recorder.count_read();
                match (self.realm(request.headers()), &self.feed) {
                    (Ok(realm), Some(feed)) => {
                        let of = (realm, request.headers());
                        feed::answer(feed, &self.shards, query, of, self.stop.clone()).await
                    }
                    (Ok(_), None) => Err(Problem::no_feed()),
                    (Err(problem), _) => Err(problem),
                }
            }
            Ok(Route::FeedSchema) => {
                self.recorder.count_read();
                Ok(answer::schema(feed::SCHEMA))
            }
            Ok(Route::Erase(party)) => {
                self.recorder.count_write();
                wire.refused();
                match self.realm(request.headers()) {
                    // Both realms have the same keys.
                    Ok(Realm::Drill) => Err(Problem::keys_of_trade()),
                    Ok(Realm::Live) => self.erase(party).await,
                    Err(problem) => Err(problem),
                }
            }
            Ok(Route::Rows(page)) => {
                self.recorder.count_read();
                match self.realm(request.headers()) {
                    Ok(realm) => self.rows(realm, &page).await,
                    Err(problem) => Err(problem),
                }
            }
            Ok(Route::Write(wanted, kind)) => {
                self.recorder.count_write();
                let mut done = None;
                let answered = self.write(wanted, kind, request, begun, wire, &mut done).await;
                let response = answered.unwrap_or_else(answer::problem);
                match done {
                    Some(done) => wire.answer(done),
                    None => wire.refused(),
                }
                return response;
            }
            Err(problem) => {
                self.recorder.count_unknown();
                wire.refused();
                Err(problem)
            }
        };
        let response = answered.unwrap_or_else(answer::problem);
        if head_only { answer::without_body(response) } else { response }
    }

    /// Where a request happens.
    fn realm(&self, headers: &HeaderMap) -> Result<Realm, Problem> {
        let realm = self.drill.realm(headers)?;
        if realm == Realm::Drill {
            self.recorder.count_drill();
        }
        Ok(realm)
    }

    async fn read(
        &self,
        realm: Realm,
        query: model::reply::Query,
    ) -> Result<Response<Body>, Problem> {
        let view = self.shards.query(realm, query).await.map_err(unanswered)?;
        let mut json = JsonWriter::default();
        match view {
            View::Order(order) => json.order(&order),
            View::Account(account) => json.account(&account),
            View::Item(item) => json.item(&item),
            View::Hold(hold) => json.hold(&hold),
            View::Coupon(coupon) => json.coupon(&coupon),
            View::Missing => return Err(Problem::missing(&query)),
        }
        Ok(answer::json(hyper::StatusCode::OK, json.finish()))
    }

    async fn statement(&self, realm: Realm, page: &Page) -> Result<Response<Body>, Problem> {
        match self.shards.statement(realm, page).await.map_err(unanswered)? {
            Listed::Page(statement) => {
                let json = statement::json(page, &statement);
                Ok(answer::json(hyper::StatusCode::OK, json))
            }
            Listed::NoAccount(query) => Err(Problem::missing(&query)),
            Listed::NotThere(offset) => {
                let expected = "where a page of this account's statement ended";
                Err(Problem::bad_path("from", &offset.to_string(), expected))
            }
        }
    }

    async fn orders(&self, realm: Realm, page: &OrdersPage) -> Result<Response<Body>, Problem> {
        let found = self.shards.orders(realm, page).await.map_err(unanswered)?;
        let mut json = JsonWriter::default();
        json.orders(page.buyer, &found.orders, found.next);
        Ok(answer::json(hyper::StatusCode::OK, json.finish()))
    }

    async fn private(
        &self,
        realm: Realm,
        buyer: Party,
        order: OrderId,
    ) -> Result<Response<Body>, Problem> {
        let keys = self.keys.as_ref().ok_or_else(Problem::no_keys)?;
        let found = self.shards.private(realm, buyer, order).await.map_err(unanswered)?;
        let part = found.ok_or_else(|| Problem::missing(&Query::Order(buyer, order)))?;
        let part = part.ok_or_else(|| Problem::nothing_private(buyer, order))?;
        let text = keys.open_part(realm, buyer, order, &part).map_err(|why| match why {
            Unopened::Erased => Problem::erased(buyer),
            Unopened::Damaged => Problem::unreadable(),
        })?;
        let mut json = JsonWriter::default();
        let quoted = sonic_rs::to_string(&text).map_err(|_| Problem::unreadable())?;
        json.private(buyer, order, &quoted);
        Ok(answer::json(hyper::StatusCode::OK, json.finish()))
    }

    async fn erase(&self, party: Party) -> Result<Response<Body>, Problem> {
        let keys = self.keys.clone().ok_or_else(Problem::no_keys)?;
        let erased = tokio::task::spawn_blocking(move || keys.erase(party)).await;
        let outcome = match erased {
            Ok(Ok(true)) => Outcome::Ok,
            Ok(Ok(false)) => Outcome::AlreadyDone,
            Ok(Err(error)) => {
                tracing::error!(%error, "a party's key could not be erased");
                return Err(Problem::not_erased());
            }
            Err(_) => return Err(Problem::stopped()),
        };
        let text = format!("{{\"outcome\":\"{}\"}}", outcome.word());
        Ok(answer::json(hyper::StatusCode::OK, text.into_bytes()))
    }

    /// Encrypts what is private.
    fn seal(&self, commands: &mut CommandBuffer) -> Result<(), Problem> {
        let keys = self.keys.as_ref().ok_or_else(Problem::no_keys)?;
        commands.seal(|realm, buyer, order, part| {
            keys.seal(realm, buyer, order, part).map_err(|_| Problem::erased(buyer))
        })
    }

    async fn rows(&self, realm: Realm, page: &RowsPage) -> Result<Response<Body>, Problem> {
        let (found, next) =
            listing::read(&self.shards, realm, page).await.map_err(unanswered)??;
        let next = next.map(|cursor| cursor.to_string());
        let mut json = JsonWriter::default();
        match found {
            Found::Accounts(accounts) => json.accounts(&accounts, next.as_deref()),
            Found::Items(items) => json.items(&items, next.as_deref()),
        }
        Ok(answer::json(hyper::StatusCode::OK, json.finish()))
    }

    /// `done` is set when a shard has answered.
    async fn write<B>(
        &self,
        wanted: Wanted,
        single: Option<Single>,
        request: HttpRequest<B>,
        begun: Ticks,
        wire: &Wire,
        done: &mut Option<WriteTicks>,
    ) -> Result<Response<Body>, Problem>
    where
        B: HttpBody<Data = Bytes, Error: std::fmt::Display> + Unpin,
    {
        let realm = self.realm(request.headers())?;
        let format = Format::of_body(request.headers())?;
        let of_answer = Format::of_answer(request.headers(), format);
        let coding = Coding::of_body(request.headers())?;
        let mut buffers = self.pool.take();
        buffers.commands.set_realm(realm);
        let limits = &self.limits;
        let answered = async {
            buffers.read(request.into_body(), limits.body_bytes, limits.body).await?;
            let arrived = (begun, wire.received());
            if let Some(coding) = coding {
                coding.unpack(&mut buffers, limits.body_bytes)?;
            }
            match (format, wanted) {
                (Format::Json, Wanted::Of(request)) => {
                    decode::decode(request, &buffers.body, &mut buffers.commands)
                        .map_err(Problem::invalid)?;
                }
                (Format::Json, Wanted::Any) => return Err(Problem::binary_only()),
                (Format::Binary, wanted) => answer::decode_binary(wanted, &mut buffers)?,
            }
            self.submit(wanted, realm, &mut buffers, arrived, done).await
        };
        let response = answered.await.and_then(|answer| {
            let response = match (wanted, single) {
                (Wanted::Of(request), Some(single)) => {
                    answer::single(request, single, &answer.replies[0], &answer.commands)
                }
                _ => Ok(answer::results(of_answer, &answer.replies, amount_name(wanted))),
            };
            buffers.return_lent(answer.commands, answer.replies);
            response
        });
        self.pool.give_back(buffers);
        response
    }

    /// Has the commands in `buffers`, which were decoded just now, done.
    async fn submit(
        &self,
        wanted: Wanted,
        realm: Realm,
        buffers: &mut Buffers,
        (begun, received): (Ticks, Ticks),
        done: &mut Option<WriteTicks>,
    ) -> Result<Answer, Problem> {
        if buffers.commands.is_unsealed() {
            self.seal(&mut buffers.commands)?;
        }
        let decoded = self.recorder.now();
        let (commands, replies) = buffers.lend();
        let answer = self.shards.submit(commands, replies).await.map_err(unanswered)?;
        *done = Some(WriteTicks {
            begun,
            received,
            decoded,
            group: answer.ticks,
            resumed: self.recorder.now(),
            commands: answer.commands.count(),
        });
        match wanted {
            _ if realm == Realm::Drill => {}
            Wanted::Of(Request::Order | Request::Orders) => {
                self.recorder.count_orders(&answer.replies);
            }
            Wanted::Of(_) => {}
            Wanted::Any => {
                let replies = answer.commands.kinds().zip(&answer.replies);
                let orders = replies.filter(|(kind, _)| *kind == Kind::Place as u8);
                self.recorder.count_orders(orders.map(|(_, reply)| reply));
            }
        }
        Ok(answer)
    }
}

/// What commands a request may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// What its path says.
    Of(Request),
    /// Of every kind that callers have.
    Any,
}

/// What a reply's amount is to the caller, where money moved.
fn amount_name(wanted: Wanted) -> Option<&'static str> {
    let Wanted::Of(request) = wanted else { return Some("amount") };
    match request {
        Request::Order | Request::Orders => Some("total"),
        Request::Account | Request::Accounts => Some("balance"),
        Request::Item
        | Request::Items
        | Request::UpdateItem(_)
        | Request::CloseAccount(_)
        | Request::Restock(_)
        | Request::Cancel(..) => None,
        _ => Some("amount"),
    }
}

fn unanswered(error: SubmitError) -> Problem {
    match error {
        SubmitError::Overloaded(_) => Problem::overloaded(),
        SubmitError::Full => Problem::full(),
        SubmitError::DiskLow => Problem::disk_low(),
        SubmitError::Unreadable => Problem::unreadable(),
        SubmitError::Trimmed => Problem::trimmed(),
        SubmitError::Stopped => Problem::stopped(),
    }
}

/// A connection of `hyper`'s.
struct Served<C>(Pin<Box<C>>);

impl<C: GracefulConnection> Future for Served<C> {
    type Output = Result<(), C::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl<C: GracefulConnection> Graceful for Served<C> {
    fn end(mut self: Pin<&mut Self>) {
        self.0.as_mut().graceful_shutdown();
    }
}

/// Runs HTTP/2 streams on the reactor's own thread.
#[derive(Clone, Copy)]
struct LocalExecutor;

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future + 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}
