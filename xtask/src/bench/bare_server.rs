//! The least that a server can do: hyper reads every body and answers a constant.
//!
//! It speaks HTTP/1.1, or HTTP/2 by prior knowledge: a port for each, so that neither pays for
//! finding out. It has as many threads as it is told, each with a listener of its own on the same port, as
//! the platform's reactors have.

use std::convert::Infallible;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::runtime::LocalOptions;

use crate::run::Failure;

/// Connections that wait to be accepted, as many as the platform lets wait.
const BACKLOG: i32 = 4096;

/// What it speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Http {
    One,
    Two,
}

/// Runs the streams of a connection on the connection's own thread.
#[derive(Clone, Copy)]
struct Here;

impl<F: Future + 'static> hyper::rt::Executor<F> for Here {
    fn execute(&self, stream: F) {
        // Its output is nobody's: it has been sent.
        drop(tokio::task::spawn_local(stream));
    }
}

/// One that runs in a process of its own. Killed when dropped.
pub(super) struct BareServer {
    child: Child,
    pub(super) url: String,
}

impl BareServer {
    /// `batch` orders are accepted by each answer.
    pub(super) fn start(threads: usize, batch: u64, http: Http) -> Result<BareServer, Failure> {
        let mut server = Command::new(std::env::current_exe()?);
        server.args(["serve-bare", &threads.to_string(), &batch.to_string()]);
        if http == Http::Two {
            server.arg("--http2");
        }
        let mut child = server.stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().expect("it is piped");
        let mut server = BareServer { child, url: String::new() };
        BufReader::new(stdout).read_line(&mut server.url)?;
        server.url.truncate(server.url.trim_end().len());
        match server.url.is_empty() {
            true => Err("the bare server did not start".into()),
            false => Ok(server),
        }
    }
}

impl Drop for BareServer {
    fn drop(&mut self) {
        // One that has ended can't be killed; that is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The process that [`BareServer::start`] starts: prints its address and serves until killed.
pub(crate) fn serve_bare(threads: usize, batch: u64, http: Http) -> Result<(), Failure> {
    let one = r#"{"outcome":"ok","state":"paid","total":12345,"offset":1234567}"#;
    let answer = Bytes::from(match batch {
        1 => one.to_string(),
        _ => format!("{{\"results\":[{}]}}", vec![one; batch as usize].join(",")),
    });
    let first = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let address = first.local_addr()?;
    let mut listeners = vec![first];
    for _ in 1..threads {
        listeners.push(listen(address)?);
    }
    println!("http://{address}");
    let reactors: Vec<_> = listeners
        .into_iter()
        .map(|listener| {
            let answer = answer.clone();
            std::thread::spawn(move || reactor(listener, answer, http))
        })
        .collect();
    for reactor in reactors {
        reactor.join().map_err(|_| "a reactor panicked")??;
    }
    Ok(())
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// One thread's connections, without end.
fn reactor(listener: TcpListener, answer: Bytes, http: Http) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())?;
    runtime.block_on(async move {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let answer = answer.clone();
            tokio::task::spawn_local(async move {
                let service = service_fn(move |request: Request<Incoming>| {
                    let answer = answer.clone();
                    async move {
                        let mut body = request.into_body();
                        while let Some(Ok(_)) = body.frame().await {}
                        Ok::<_, Infallible>(Response::new(Full::new(answer)))
                    }
                });
                let stream = TokioIo::new(stream);
                // The generator hangs up when it is done.
                let _ = match http {
                    Http::One => http1::Builder::new().serve_connection(stream, service).await,
                    Http::Two => {
                        let streams = http2::Builder::new(Here);
                        streams.serve_connection(stream, service).await
                    }
                };
            });
        }
    })
}
