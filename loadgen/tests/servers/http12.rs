//! HTTP/1.1 and HTTP/2 by hyper, plain or through TLS.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

use super::{LARGE, Seen, Server};

/// What a server speaks.
#[derive(Clone, Copy, Default)]
pub struct Options {
    pub http2: bool,
    pub tls: bool,
    /// SETTINGS_MAX_CONCURRENT_STREAMS.
    pub streams: Option<u32>,
    /// SETTINGS_HEADER_TABLE_SIZE.
    pub table_bytes: Option<u32>,
}

/// Starts one.
pub fn start(options: Options) -> Server {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let (certificate, pem, key) = super::certificate();
    let protocol: &[u8] = if options.http2 { b"h2" } else { b"http/1.1" };
    let config = super::tls_config(certificate, key, protocol);
    let acceptor = options.tls.then(|| TlsAcceptor::from(Arc::new(config)));
    Server::spawn(address, options.tls, pem, move |seen| async move {
        let listener = TcpListener::from_std(listener).unwrap();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            seen.connections.fetch_add(1, Ordering::Relaxed);
            let (seen, acceptor) = (seen.clone(), acceptor.clone());
            tokio::spawn(async move {
                match acceptor {
                    None => serve(stream, options, seen).await,
                    Some(acceptor) => {
                        // Whoever leaves during the handshake wants nothing.
                        if let Ok(stream) = acceptor.accept(stream).await {
                            let (_, session) = stream.get_ref();
                            assert!(session.alpn_protocol().is_some());
                            serve(stream, options, seen).await;
                        }
                    }
                }
            });
        }
    })
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    options: Options,
    seen: Arc<Seen>,
) {
    let goodbye = Arc::new(Notify::new());
    let leave = goodbye.clone();
    let service = service_fn(move |request| answer(request, seen.clone(), leave.clone()));
    // A connection that the other side gives up ends with an error: it is none here.
    if options.http2 {
        let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new()).header_table_size(options.table_bytes);
        builder.max_concurrent_streams(options.streams.or(Some(200)));
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        tokio::select! {
            _ = connection.as_mut() => return,
            () = goodbye.notified() => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    } else {
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder.timer(TokioTimer::new());
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        tokio::select! {
            _ = connection.as_mut() => return,
            () = goodbye.notified() => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    }
}

type Body = BoxBody<Bytes, Infallible>;

async fn answer(
    request: Request<Incoming>,
    seen: Arc<Seen>,
    goodbye: Arc<Notify>,
) -> Result<Response<Body>, hyper::Error> {
    seen.begin();
    let answer = answer_path(request, &seen, &goodbye).await;
    seen.end();
    answer
}

async fn answer_path(
    request: Request<Incoming>,
    seen: &Seen,
    goodbye: &Notify,
) -> Result<Response<Body>, hyper::Error> {
    let (head, body) = request.into_parts();
    assert_eq!(head.headers["x-load"], "yes");
    assert_eq!(head.headers["content-type"], "text/plain");
    let path = head.uri.path();
    if path == "/early" {
        return Ok(with(413, Full::new(Bytes::from_static(b"no")).boxed()));
    }
    let body = body.collect().await?.to_bytes();
    seen.whole.fetch_add(1, Ordering::Relaxed);
    seen.body_bytes.fetch_add(body.len() as u64, Ordering::Relaxed);
    if head.method == hyper::Method::HEAD {
        // With HTTP/2 nobody takes the body away.
        return Ok(with(200, Full::default().boxed()));
    }
    let text = |text: &'static str| Full::new(Bytes::from_static(text.as_bytes())).boxed();
    Ok(match path {
        "/ok" => with(200, text("ok")),
        "/echo" => with(200, Full::new(body).boxed()),
        "/large" => with(200, Full::new(Bytes::from(vec![b'y'; LARGE])).boxed()),
        "/pieces" => {
            // Without a length: chunks, with HTTP/1.1.
            let piece = || Ok(Frame::data(Bytes::from(vec![b'z'; 10_000])));
            let pieces = futures_util::stream::iter([piece(), piece(), piece()]);
            with(200, StreamBody::new(pieces).boxed())
        }
        "/empty" => with(204, text("")),
        "/close" => {
            let mut answer = with(200, text("ok"));
            answer.headers_mut().insert("connection", "close".parse().unwrap());
            answer
        }
        "/bye" => {
            goodbye.notify_one();
            with(200, text("ok"))
        }
        "/never" => std::future::pending().await,
        _ => with(404, text("")),
    })
}

fn with(status: u16, body: Body) -> Response<Body> {
    Response::builder().status(status).body(body).unwrap()
}
