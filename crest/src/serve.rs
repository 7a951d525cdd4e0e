//! `crest serve`: reactors in front, the shard on the first of them, its log beside it.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::thread;

use gateway::{Gateway, Limits, Router};
use node::{DataDir, ShardFailed, ShardTask};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::task::LocalSet;
use txn_core::Capacity;

use crate::{Failure, args};

/// The log failed (`EX_SOFTWARE` of sysexits.h).
const EXIT_LOG_FAILED: u8 = 70;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;

pub(crate) fn serve(args: &args::Serve) -> Result<ExitCode, Failure> {
    let dir = DataDir::create_or_open(
        &args.data,
        args.shards.map(Into::into),
        args.segment_bytes.map(Into::into),
    )?;
    let capacity = Capacity { accounts: args.accounts, items: args.items, orders: args.orders };
    let opened = node::open(&dir, capacity)?;
    tracing::info!(records = opened.replayed, cut_bytes = opened.recovered.cut_bytes, "recovered");

    let reactors = match args.reactors {
        Some(reactors) => reactors.get(),
        None => thread::available_parallelism()?.get(),
    };
    // Sockets that share a port don't see that somebody else has it; one that doesn't share does.
    drop(bind(args.http, Sharing::No)?);
    let first = listen(args.http)?;
    let address = first.local_addr()?;
    let mut listeners = vec![first];
    for _ in 1..reactors {
        listeners.push(listen(address)?);
    }

    let (stop, stopped) = watch::channel(false);
    let (failed, mut failure) = oneshot::channel();
    let router = Router::new(vec![opened.handle]);
    let mut shard = Some((opened.task, failed));
    let threads: Vec<_> = listeners
        .into_iter()
        .enumerate()
        .map(|(number, listener)| {
            let (router, stopped, shard) = (router.clone(), stopped.clone(), shard.take());
            thread::Builder::new()
                .name(format!("crest-{number}"))
                .spawn(move || reactor(router, listener, stopped, shard))
        })
        .collect::<Result<_, _>>()?;
    // From here on only reactors hold the shard: when they are done, it is.
    drop(router);

    // Signals are caught before anybody is told that there is somebody to send them to.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let signals = runtime.block_on(async { Signals::catch() })?;
    let mut out = std::io::stdout();
    writeln!(out, "crest {} listening on http://{address}", env!("CARGO_PKG_VERSION"))?;
    out.flush()?;

    let failed = runtime.block_on(async {
        tokio::select! {
            () = signals.stop() => None,
            failed = &mut failure => failed.ok(),
        }
    });
    if let Some(failed) = failed {
        return Ok(fail(&failed));
    }
    tracing::info!("stopping");
    // Receivers are reactors; one that is gone needs no word.
    let _ = stop.send(true);
    for thread in threads {
        thread.join().map_err(|_| "a reactor panicked")??;
    }
    let stats = opened.log.join();
    if let Some(error) = stats.failed {
        return Ok(fail(&ShardFailed::Log(error.to_string())));
    }
    tracing::info!(
        bytes = stats.log.bytes,
        frames = stats.log.frames,
        syncs = stats.log.syncs,
        "stopped"
    );
    Ok(ExitCode::SUCCESS)
}

/// The signals that end the platform, and one that must not.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// Caught, so that a write past a file-size limit fails like one to a full disk.
    _file_size: Signal,
}

impl Signals {
    fn catch() -> std::io::Result<Signals> {
        let file_size = SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw());
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            _file_size: signal(file_size)?,
        })
    }

    async fn stop(mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn fail(failed: &ShardFailed) -> ExitCode {
    crate::complain(&format!("stopped, and nothing after this was acknowledged: {failed}"));
    ExitCode::from(EXIT_LOG_FAILED)
}

/// One core's connections, and the shard if it is placed here.
fn reactor(
    router: Router,
    listener: TcpListener,
    stopped: watch::Receiver<bool>,
    shard: Option<(ShardTask, oneshot::Sender<ShardFailed>)>,
) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async move {
        let shard = shard.map(|(task, failed)| {
            tokio::task::spawn_local(async move {
                if let Err(error) = task.run().await {
                    // The main thread ends the process; without it there is nobody to tell.
                    let _ = failed.send(error);
                }
            })
        });
        Gateway::new(router, Limits::default()).serve(listener, stopped).await?;
        if let Some(shard) = shard {
            shard.await.map_err(std::io::Error::other)?;
        }
        Ok(())
    })
}

/// A listener that shares its port with those of other reactors.
fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    let socket = bind(address, Sharing::Yes)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Whether other sockets may have the same port.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    No,
    Yes,
}

fn bind(address: SocketAddr, sharing: Sharing) -> Result<Socket, Failure> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(sharing == Sharing::Yes)?;
    socket.bind(&address.into()).map_err(|error| format!("{address}: {error}"))?;
    Ok(socket)
}
