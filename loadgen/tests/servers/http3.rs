//! HTTP/3 by quinn and h3.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Buf, Bytes};
use h3::error::{Code, StreamError};
use h3::server::{RequestResolver, RequestStream};
use http::Method;
use quinn::crypto::rustls::QuicServerConfig;
use tokio::sync::mpsc;

use super::{LARGE, Seen, Server};

type Resolver = RequestResolver<h3_quinn::Connection, Bytes>;
type Stream = RequestStream<h3_quinn::BidiStream<Bytes>, Bytes>;

/// What a request can make a connection do.
enum Command {
    /// Take nothing new, and say so.
    Leave,
    /// Close at once.
    Drop,
}

/// Starts one that takes so many requests at once on a connection.
pub fn start(streams: u32) -> Server {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let (certificate, pem, key) = super::certificate();
    let tls = QuicServerConfig::try_from(super::tls_config(certificate, key, b"h3")).unwrap();
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(tls));
    let mut transport = quinn::TransportConfig::default();
    transport.max_concurrent_bidi_streams(streams.into());
    config.transport_config(Arc::new(transport));
    Server::spawn(address, true, pem, move |seen| async move {
        let runtime = Arc::new(quinn::TokioRuntime);
        let endpoint =
            quinn::Endpoint::new(Default::default(), Some(config), socket, runtime).unwrap();
        while let Some(incoming) = endpoint.accept().await {
            let seen = seen.clone();
            tokio::spawn(async move {
                // Whoever leaves during the handshake wants nothing.
                if let Ok(connection) = incoming.await {
                    seen.connections.fetch_add(1, Ordering::Relaxed);
                    serve(connection, seen).await;
                }
            });
        }
    })
}

async fn serve(quic: quinn::Connection, seen: Arc<Seen>) {
    let spoken = h3_quinn::Connection::new(quic.clone());
    let Ok(mut connection) = h3::server::builder().build::<_, Bytes>(spoken).await else { return };
    let (command, mut commands) = mpsc::unbounded_channel();
    loop {
        tokio::select! {
            accepted = connection.accept() => match accepted {
                Ok(Some(request)) => {
                    let (seen, command) = (seen.clone(), command.clone());
                    // A stream that the other side gives up ends with an error: it is none here.
                    tokio::spawn(async move { answer(request, &seen, command).await });
                }
                // All is answered after a goodbye. What comes yet is sent back, until the other
                // side has heard and closes.
                Ok(None) => {}
                Err(_) => return,
            },
            asked = commands.recv() => match asked {
                Some(Command::Leave) => {
                    if connection.shutdown(0).await.is_err() {
                        return;
                    }
                }
                _ => return quic.close(0x102u32.into(), b"on purpose"),
            },
        }
    }
}

async fn answer(
    request: Resolver,
    seen: &Seen,
    command: mpsc::UnboundedSender<Command>,
) -> Result<(), StreamError> {
    let (head, mut stream) = request.resolve_request().await?;
    let number = seen.begin();
    assert_eq!(head.headers()["x-load"], "yes");
    let path = match *head.method() {
        Method::HEAD => "/head",
        _ => head.uri().path(),
    };
    let done = answer_path(path, number, &mut stream, seen, &command).await;
    seen.end();
    done
}

async fn answer_path(
    path: &str,
    number: u64,
    stream: &mut Stream,
    seen: &Seen,
    command: &mpsc::UnboundedSender<Command>,
) -> Result<(), StreamError> {
    if path == "/early" {
        send(stream, 413, &[b"no"]).await?;
        stream.stop_sending(Code::H3_NO_ERROR);
        return Ok(());
    }
    let mut body = Vec::new();
    while let Some(mut piece) = stream.recv_data().await? {
        while piece.has_remaining() {
            let bytes = piece.chunk().len();
            body.extend_from_slice(piece.chunk());
            piece.advance(bytes);
        }
    }
    seen.whole.fetch_add(1, Ordering::Relaxed);
    seen.body_bytes.fetch_add(body.len() as u64, Ordering::Relaxed);
    match path {
        "/ok" => send(stream, 200, &[b"ok"]).await,
        "/echo" => send(stream, 200, &[&body]).await,
        "/large" => send(stream, 200, &[&vec![b'y'; LARGE]]).await,
        "/pieces" => send(stream, 200, &[&[b'z'; 10_000][..]; 3]).await,
        "/head" => send(stream, 200, &[]).await,
        "/empty" => send(stream, 204, &[]).await,
        "/reset" => {
            seen.resets.fetch_add(1, Ordering::Relaxed);
            stream.stop_stream(Code::H3_INTERNAL_ERROR);
            Ok(())
        }
        "/flaky" if number.is_multiple_of(3) => {
            seen.resets.fetch_add(1, Ordering::Relaxed);
            stream.stop_stream(Code::H3_INTERNAL_ERROR);
            Ok(())
        }
        "/flaky" => send(stream, 200, &[b"ok"]).await,
        "/bye" => {
            send(stream, 200, &[b"ok"]).await?;
            let _ = command.send(Command::Leave);
            Ok(())
        }
        "/drop" => {
            let _ = command.send(Command::Drop);
            Ok(())
        }
        "/never" => std::future::pending().await,
        _ => send(stream, 404, &[]).await,
    }
}

async fn send(stream: &mut Stream, status: u16, pieces: &[&[u8]]) -> Result<(), StreamError> {
    let head = http::Response::builder().status(status).body(()).unwrap();
    stream.send_response(head).await?;
    for piece in pieces {
        stream.send_data(Bytes::copy_from_slice(piece)).await?;
    }
    stream.finish().await
}
