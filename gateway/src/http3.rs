//! HTTP/3 (RFC 9114): requests on the streams of a QUIC connection.

mod frames;
mod streams;

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{Buf, Bytes};
use h3::error::{Code, ConnectionError, StreamError};
use h3::quic::SendStream as _;
use h3::server::{RequestResolver, RequestStream};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{CONTENT_LENGTH, DATE, HeaderValue};
use hyper::{Method, Response};

use crate::Gateway;
use crate::quic::{Confirmed, Exchanges, Speaks, goodbye};
use crate::timed::Wire;

/// H3_NO_ERROR (RFC 9114, 8.1).
pub(crate) const NO_ERROR: u32 = 0x100;
/// The most bytes of a request's fields, as RFC 9114, 4.2.2 counts them.
const FIELDS_BYTES_MAX: u64 = 16 << 10;
/// The same, as they are sent: packed, so hardly ever larger.
const FRAME_BYTES_MAX: u64 = 2 * FIELDS_BYTES_MAX;

type Resolver = RequestResolver<streams::Connection, Bytes>;
type Recv = RequestStream<streams::RecvStream, Bytes>;

/// Answers requests until the client is done, or it was told to end and open ones are answered.
pub(crate) async fn serve(
    gateway: &Rc<Gateway>,
    quic: quinn::Connection,
    speaks: Speaks,
) -> Result<(), ConnectionError> {
    let Speaks { told, confirmed, activity } = speaks;
    let mut builder = h3::server::builder();
    builder.max_field_section_size(FIELDS_BYTES_MAX).send_grease(false);
    let built = tokio::select! {
        // Before anything was asked for.
        () = told.to_end() => return Ok(()),
        built = builder.build(streams::Connection::new(quic.clone(), FRAME_BYTES_MAX)) => built,
    };
    let mut connection = built?;
    let exchanges = Rc::<Exchanges>::default();
    let mut is_ending = false;
    loop {
        let accepted = tokio::select! {
            () = told.to_end(), if !is_ending => {
                is_ending = true;
                // It says which request isn't begun, nor are those behind it (RFC 9114, 5.2).
                connection.shutdown(1).await?;
                continue;
            }
            () = exchanges.none(), if is_ending => break,
            accepted = connection.accept() => accepted?,
        };
        let Some(mut resolver) = accepted else { break };
        if is_ending {
            resolver.frame_stream.reset(Code::H3_REQUEST_REJECTED.value());
            continue;
        }
        // Of its own: a request that ends without an answer leaves nothing behind.
        let wire = Wire::new(gateway.recorder.clone(), activity.clone());
        let (gateway, confirmed) = (gateway.clone(), confirmed.clone());
        let open = exchanges.begin();
        tokio::task::spawn_local(async move {
            if let Err(error) = exchange(&gateway, resolver, &wire, confirmed).await {
                tracing::debug!(%error, "a request over HTTP/3 ended");
            }
            drop(open);
        });
    }
    goodbye(&quic).await;
    // That closes the connection.
    drop(connection);
    Ok(())
}

/// The time as answers have it, written once a second.
pub(crate) struct Date(RefCell<(u64, HeaderValue)>);

impl Default for Date {
    fn default() -> Date {
        Date(RefCell::new((0, written(UNIX_EPOCH))))
    }
}

impl Date {
    fn now(&self) -> HeaderValue {
        let now = SystemTime::now();
        let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut known = self.0.borrow_mut();
        if known.0 != second {
            *known = (second, written(now));
        }
        known.1.clone()
    }
}

/// As RFC 9110, 5.6.7 has it.
fn written(time: SystemTime) -> HeaderValue {
    HeaderValue::try_from(httpdate::fmt_http_date(time)).expect("words and digits")
}

/// One request and its answer.
async fn exchange(
    gateway: &Gateway,
    resolver: Resolver,
    wire: &Rc<Wire>,
    mut confirmed: Confirmed,
) -> Result<(), StreamError> {
    let resolved = tokio::time::timeout(gateway.limits.body, resolver.resolve_request()).await;
    // One that takes longer is reset.
    let Ok(resolved) = resolved else { return Ok(()) };
    let (request, stream) = resolved?;
    let (mut send, recv) = stream.split();
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        // What nobody confirmed may be somebody else's, sent again.
        if !confirmed.wait().await {
            return Ok(());
        }
    }
    let length = request.headers().get(CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    let request = request.map(|()| RequestBody { recv, length, read: 0, is_whole: false });
    let (mut head, mut body) = gateway.handle(request, wire).await.into_parts();
    // What `hyper` adds by itself.
    if let Some(length) = body.size_hint().exact().filter(|&length| length > 0) {
        head.headers.insert(CONTENT_LENGTH, length.into());
    }
    head.headers.insert(DATE, gateway.date.now());
    send.send_response(Response::from_parts(head, ())).await?;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            send.stop_stream(Code::H3_INTERNAL_ERROR);
            return Ok(());
        };
        if let Ok(bytes) = frame.into_data() {
            send.send_data(bytes).await?;
            wire.progressed();
        }
    }
    send.finish().await?;
    wire.flushed();
    Ok(())
}

/// A body that comes with a stream.
pub(crate) struct RequestBody {
    recv: Recv,
    /// What its head says.
    length: Option<u64>,
    read: u64,
    is_whole: bool,
}

/// Why a body isn't whole.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyBroke {
    /// The stream or its connection ended.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// RFC 9114, 4.1.2.
    #[error("it has {read} bytes or more, and content-length says {length}")]
    Length { read: u64, length: u64 },
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if !self.is_whole {
            // An answer that doesn't need it is no failure (RFC 9114, 4.1).
            self.recv.stop_sending(Code::H3_NO_ERROR);
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyBroke;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyBroke>>> {
        if self.is_whole {
            return Poll::Ready(None);
        }
        let piece = match ready!(self.recv.poll_recv_data(cx)) {
            Ok(piece) => piece.map(|mut piece| piece.copy_to_bytes(piece.remaining())),
            Err(error) => return Poll::Ready(Some(Err(error.into()))),
        };
        self.is_whole = piece.is_none();
        self.read += piece.as_ref().map_or(0, |piece| piece.len() as u64);
        let read = self.read;
        if let Some(length) = self.length
            && (read > length || self.is_whole && read < length)
        {
            self.is_whole = true;
            return Poll::Ready(Some(Err(BodyBroke::Length { read, length })));
        }
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_whole
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = SizeHint::new();
        hint.set_lower(self.length.map_or(0, |length| length.saturating_sub(self.read)));
        hint
    }
}
