//! QUIC (RFC 9000): an endpoint for each reactor, on the port of the TCP listeners.
//!
//! A connection is one reactor's until its end, whatever way its packets take (see [`socket`]).
//! What is spoken on it was agreed on in its handshake. A client that was here before may send
//! with its first packet; who captured that packet may send it, too, so what writes waits until
//! the handshake is done, which only the client can do.
//!
//! Under load, when many handshakes are under way, a new client first has to show that it gets
//! what is sent to its address (a Retry, RFC 9000, 8.1.2).

mod socket;

use std::cell::Cell;
use std::io;
use std::net::UdpSocket;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use quinn::crypto::rustls::{HandshakeData, QuicServerConfig};
use quinn::{
    Connecting, Connection, Endpoint, EndpointConfig, Incoming, ServerConfig, TransportConfig,
    VarInt,
};
use tokio::sync::{Notify, watch};

use crate::connections::{Activity, Connections, Graceful};
use crate::tls::{CertificateError, Certificates};
use crate::{Gateway, Limits, crest1, http3};
use socket::Parts;
pub use socket::REACTORS_MAX;

/// What is spoken over QUIC.
const H3: &[u8] = b"h3";
/// Requests that may be under way on a connection.
const STREAMS_MAX: u32 = 1024;
/// Streams that a client opens besides: three of HTTP/3's (RFC 9114, 6.2), and some that are for
/// nothing.
const PLAIN_STREAMS_MAX: u32 = 16;
/// What a client may send that isn't read yet, on one stream and on a connection.
const STREAM_WINDOW: u32 = 1 << 20;
const WINDOW: u32 = 8 << 20;
/// What is sent on a connection and not acknowledged.
const SEND_WINDOW: u64 = 8 << 20;
/// Handshakes that are under way at once at a reactor before new clients must show their address.
const HANDSHAKES_MAX: usize = 256;
/// How long a handshake may take.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// For how long nothing may be sent on a connection that ends, before it is closed.
const GOODBYE_MIN: Duration = Duration::from_millis(100);
const GOODBYE_ROUND_TRIPS: u32 = 5;
const GOODBYE_MAX: Duration = Duration::from_secs(1);
/// How long clients may take to hear that their connections are closed.
const GOODBYE: Duration = Duration::from_secs(1);

/// Where one reactor's packets come in.
#[derive(Debug)]
pub struct QuicDoor {
    parts: Parts,
    config: ServerConfig,
}

impl QuicDoor {
    /// A door for each reactor, in order, of sockets that share a port: at most
    /// [`REACTORS_MAX`].
    pub fn for_all(
        sockets: Vec<UdpSocket>,
        certificates: &Certificates,
        limits: &Limits,
    ) -> Result<Vec<QuicDoor>, CertificateError> {
        assert!(sockets.len() <= REACTORS_MAX, "ids name a reactor in a byte");
        let tls = certificates.over_quic(&[H3, crest1::ALPN])?;
        let crypto = QuicServerConfig::try_from(tls).expect("TLS 1.3 has the suite of RFC 9001");
        let mut config = ServerConfig::with_crypto(Arc::new(crypto));
        config.transport_config(Arc::new(transport(limits)));
        let door = |parts| QuicDoor { parts, config: config.clone() };
        Ok(Parts::of_all(sockets).into_iter().map(door).collect())
    }

    /// On the reactor's own thread, within its runtime.
    pub(crate) fn open(self) -> io::Result<Endpoint> {
        let ids = self.parts.ids();
        let mut endpoint = EndpointConfig::default();
        endpoint.cid_generator(move || Box::new(ids));
        let socket = Arc::new(self.parts.open()?);
        let runtime = Arc::new(quinn::TokioRuntime);
        Endpoint::new_with_abstract_socket(endpoint, Some(self.config), socket, runtime)
    }
}

fn transport(limits: &Limits) -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_idle_timeout(Some(
            limits.idle.try_into().expect("minutes fit into a variable integer"),
        ))
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(PLAIN_STREAMS_MAX))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(WINDOW))
        .send_window(SEND_WINDOW)
        .datagram_receive_buffer_size(None);
    transport
}

/// Serves an endpoint's connections until `stop` says so, then lets open requests end.
pub(crate) async fn serve(
    gateway: Rc<Gateway>,
    endpoint: Endpoint,
    mut stop: watch::Receiver<bool>,
) {
    let open = Connections::new();
    let handshakes = Rc::new(Cell::new(0));
    let idle = tokio::task::spawn_local({
        let (open, idle) = (open.clone(), gateway.limits.idle);
        async move { open.end_idle(idle).await }
    });
    loop {
        let incoming = tokio::select! {
            biased;
            _ = stop.wait_for(|&stop| stop) => break,
            incoming = endpoint.accept() => incoming,
        };
        let Some(incoming) = incoming else { break };
        if open.count() >= gateway.limits.quic_connections {
            incoming.refuse();
            continue;
        }
        if handshakes.get() >= HANDSHAKES_MAX && !incoming.remote_address_validated() {
            // It may be tried again, says its documentation.
            let _ = incoming.retry();
            continue;
        }
        let place = open.enter();
        let told = Rc::new(Told::default());
        let shaking = Shaking::one_of(&handshakes);
        let activity = place.activity.clone();
        let connection = connection(gateway.clone(), incoming, shaking, told.clone(), activity);
        let connection = QuicConnection { connection: Box::pin(connection), told };
        tokio::task::spawn_local(place.serve(connection));
    }
    endpoint.set_server_config(None);
    idle.abort();
    let drain = gateway.limits.drain;
    if !open.end(drain).await {
        tracing::warn!(?drain, "QUIC connections were still open when the gateway stopped");
    }
    // Those who are there still are told that it is over.
    endpoint.close(VarInt::from_u32(0), b"");
    let _ = tokio::time::timeout(GOODBYE, endpoint.wait_idle()).await;
}

/// A handshake that is under way until this is dropped.
struct Shaking(Rc<Cell<usize>>);

impl Shaking {
    fn one_of(all: &Rc<Cell<usize>>) -> Shaking {
        all.set(all.get() + 1);
        Shaking(all.clone())
    }
}

impl Drop for Shaking {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Whether a connection is to end with its open requests.
#[derive(Default)]
pub(crate) struct Told {
    to_end: Cell<bool>,
    word: Notify,
}

impl Told {
    /// Waits until it is to end.
    pub(crate) async fn to_end(&self) {
        while !self.to_end.get() {
            self.word.notified().await;
        }
    }
}

/// A connection and its requests, as a future.
struct QuicConnection {
    connection: Pin<Box<dyn Future<Output = ()>>>,
    told: Rc<Told>,
}

impl Future for QuicConnection {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.connection.as_mut().poll(cx)
    }
}

impl Graceful for QuicConnection {
    fn end(self: Pin<&mut Self>) {
        self.told.to_end.set(true);
        self.told.word.notify_one();
    }
}

/// Whether a connection's handshake is done.
#[derive(Clone)]
pub(crate) struct Confirmed(watch::Receiver<bool>);

impl Confirmed {
    /// Waits until it is; false if it never will be.
    pub(crate) async fn wait(&mut self) -> bool {
        self.0.wait_for(|&confirmed| confirmed).await.is_ok()
    }
}

/// What a connection's requests share.
pub(crate) struct Speaks {
    pub(crate) told: Rc<Told>,
    pub(crate) confirmed: Confirmed,
    pub(crate) activity: Rc<Activity>,
}

/// Requests of a connection that aren't answered yet.
#[derive(Default)]
pub(crate) struct Exchanges {
    open: Cell<usize>,
    ended: Notify,
}

impl Exchanges {
    /// One of them, until what is returned is dropped.
    pub(crate) fn begin(self: &Rc<Exchanges>) -> OpenExchange {
        self.open.set(self.open.get() + 1);
        OpenExchange(self.clone())
    }

    pub(crate) async fn none(&self) {
        while self.open.get() > 0 {
            self.ended.notified().await;
        }
    }
}

pub(crate) struct OpenExchange(Rc<Exchanges>);

impl Drop for OpenExchange {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0.ended.notify_one();
    }
}

/// Waits until what was sent on a connection has arrived, or nobody takes it.
pub(crate) async fn goodbye(quic: &Connection) {
    // The last answers are on their way, may be lost once, and take as long as they take.
    let goodbye = (GOODBYE_MIN + GOODBYE_ROUND_TRIPS * quic.rtt()).min(GOODBYE_MAX);
    let sent = || quic.stats().frame_tx.stream;
    let mut before = sent();
    while tokio::time::timeout(goodbye, quic.closed()).await.is_err() {
        match sent() {
            now if now == before => break,
            now => before = now,
        }
    }
}

/// Closed when it is dropped, with all that is under way on it.
struct Closing {
    quic: Connection,
    code: u32,
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.quic.close(VarInt::from_u32(self.code), b"");
    }
}

async fn connection(
    gateway: Rc<Gateway>,
    incoming: Incoming,
    shaking: Shaking,
    told: Rc<Told>,
    activity: Rc<Activity>,
) {
    let Ok(mut connecting) = incoming.accept() else { return };
    let agreed = tokio::select! {
        () = told.to_end() => return,
        agreed = tokio::time::timeout(HANDSHAKE_TIME, protocol(&mut connecting)) => agreed,
    };
    let Ok(Some(protocol)) = agreed else { return };
    // A server's side is always there before the handshake is done.
    let Ok((quic, done)) = connecting.into_0rtt() else { return };
    let (confirm, confirmed) = watch::channel(false);
    let shaken = quic.clone();
    tokio::task::spawn_local(async move {
        let in_time = tokio::time::timeout(HANDSHAKE_TIME, done).await.is_ok();
        drop(shaking);
        if !in_time {
            shaken.close(VarInt::from_u32(0), b"");
        }
        // It is over, too, when the connection has failed: then nobody confirmed anything.
        if in_time && shaken.close_reason().is_none() {
            let _ = confirm.send(true);
        }
    });
    let code = if protocol == H3 { http3::NO_ERROR } else { crest1::NO_ERROR };
    let closing = Closing { quic: quic.clone(), code };
    let speaks = Speaks { told, confirmed: Confirmed(confirmed), activity };
    // No other protocol is agreed on.
    if protocol == H3 {
        if let Err(error) = http3::serve(&gateway, quic, speaks).await {
            tracing::debug!(%error, "a connection over HTTP/3 ended");
        }
    } else if protocol == crest1::ALPN
        && let Err(error) = crest1::serve(&gateway, quic, speaks).await
    {
        tracing::debug!(%error, "a connection over crest/1 ended");
    }
    drop(closing);
}

/// The protocol that the handshake agrees on.
async fn protocol(connecting: &mut Connecting) -> Option<Vec<u8>> {
    let data = connecting.handshake_data().await.ok()?;
    data.downcast::<HandshakeData>().ok()?.protocol
}
