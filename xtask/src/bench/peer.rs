//! What the parts are measured against.

use std::convert::Infallible;
use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use bytes::Bytes;
use foldhash::HashSet;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use model::record::{Body, CommandBuffer};
use mq::AlignedBuf;
use serde::de::IgnoredAny;

use crate::run::Failure;

/// The least that an order is: an id that is new, money taken here, units taken there.
pub(crate) struct Bare {
    ids: HashSet<(u64, u128)>,
    balances: Vec<u64>,
    stock: Vec<u64>,
}

impl Bare {
    pub(crate) fn new(buyers: u64, items: u64, orders: u64) -> Bare {
        Bare {
            ids: HashSet::with_capacity_and_hasher(orders as usize, Default::default()),
            balances: vec![1 << 40; buyers as usize + 1],
            stock: vec![1 << 40; items as usize + 1],
        }
    }

    pub(crate) fn apply(&mut self, commands: &CommandBuffer) {
        for record in commands.records().flatten() {
            let Body::Place { lines, .. } = record.body else { continue };
            if !self.ids.insert((record.header.scope.get(), record.header.id.get())) {
                continue;
            }
            for line in lines {
                self.stock[line.item.get() as usize] -= u64::from(line.quantity.get());
                self.balances[record.header.scope.get() as usize] -= 1;
            }
        }
    }
}

/// A file that has its length, written over from the start.
pub(crate) struct BareFile {
    file: File,
    position: u64,
    buffer: AlignedBuf,
}

const FILE_BYTES: u64 = 512 << 20;

impl BareFile {
    pub(crate) fn create(path: &Path) -> Result<BareFile, Failure> {
        let direct = rustix::fs::OFlags::DIRECT.bits() as i32;
        let file = File::options().create_new(true).write(true).custom_flags(direct).open(path)?;
        let mut buffer = AlignedBuf::new(1 << 20);
        buffer.bytes_mut().fill(0);
        for position in (0..FILE_BYTES).step_by(1 << 20) {
            file.write_all_at(&buffer.bytes()[..1 << 20], position)?;
        }
        file.sync_all()?;
        buffer.bytes_mut().fill(7);
        Ok(BareFile { file, position: 0, buffer })
    }

    pub(crate) fn append(&mut self, bytes: usize) -> Result<(), Failure> {
        if self.position + bytes as u64 > FILE_BYTES {
            self.position = 0;
        }
        self.file.write_all_at(&self.buffer.bytes()[..bytes], self.position)?;
        self.file.sync_data()?;
        self.position += bytes as u64;
        Ok(())
    }
}

/// Walks over a JSON text and keeps nothing.
pub(crate) fn skip(body: &[u8]) -> Result<(), Failure> {
    let IgnoredAny = sonic_rs::from_slice(body)?;
    Ok(())
}

/// A server that reads every body and answers 1,000 accepted orders, on one thread.
pub(crate) fn serve_bare() -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let one = r#"{"outcome":"ok","state":"paid","total":12345,"offset":1234567}"#;
    let answer = Bytes::from(format!("{{\"results\":[{}]}}", vec![one; 1000].join(",")));
    tokio::task::LocalSet::new().block_on(&runtime, async move {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        println!("http://{}", listener.local_addr()?);
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
                let http = hyper::server::conn::http1::Builder::new();
                // The generator hangs up when it is done.
                let _ = http.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    })
}
