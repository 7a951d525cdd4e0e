//! `crest serve`: reactors in front, each with its part of the shards, and the log beside them.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use gateway::{
    Certificates, Door, DrillDoor, DrillKey, Gateway, Limits, QuicDoor, REACTORS_MAX, Router,
};
use node::{
    CommitStats, DataDir, Feed, GroupHandle, GroupTask, Keeping, LogThread, MakeDir, PartyKeys,
    ShardFailed, SnapshotPolicy, SnapshotThread,
};
use socket2::{Domain, Socket, Type};
use tokio::runtime::LocalOptions;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use txn_core::Capacity;

use crate::admin::{Admin, Drills, Kept};
use crate::{Failure, args};

/// The log failed (`EX_SOFTWARE` of sysexits.h).
const EXIT_LOG_FAILED: u8 = 70;
/// Holds the drill key where no file does.
const DRILL_KEY_VARIABLE: &str = "CREST_DRILL_KEY";
/// Where a data directory keeps a certificate that was made for it.
pub(crate) const TLS: &str = "tls";
/// Ports that are tried where any will do, until one is free over TCP and UDP.
const PORTS_TRIED: u32 = 20;
/// Of a UDP socket, each way.
const UDP_BUFFER_BYTES: usize = 8 << 20;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;

pub(crate) fn serve(args: &args::Serve) -> Result<ExitCode, Failure> {
    let make = MakeDir {
        shards: args.shards.map(Into::into),
        segment_bytes: args.segment_bytes.map(Into::into),
        settle_step_s: args.settle_step.map(|step| step.as_secs()),
        on_nats: args.log.log == Some(args::LogEngine::Jetstream),
        new_stream: args.log.new_stream,
    };
    let access = args.open.access_with(Some(&args.log))?;
    let dir = DataDir::create_or_open(&args.data, make, &access)?;
    let reactors = match args.reactors {
        Some(reactors) => reactors.get(),
        None => thread::available_parallelism()?.get(),
    };
    let keys = dir.party_keys()?.map(Arc::new);
    let drill_door = DrillDoor::new(drill_key(args)?);
    let capacity = Capacity { accounts: args.accounts, items: args.items, orders: args.orders };
    let keeping = Keeping {
        snapshots: SnapshotPolicy { every_bytes: args.snapshot_every.map(Into::into) },
        archive: args.archive.location(),
        disk_reserve: args.disk_reserve,
        rows_bytes: args.orders_memory.map(Into::into),
        feed_readers: args.feed_readers,
    };
    let (opened, recovered) = node::open(&dir, reactors, capacity, &keeping)?;
    for (_, damage) in &opened.passed_over {
        tracing::warn!("{damage}; the one before it, or more of the log, stood in");
    }
    tracing::info!(
        restored = opened.restored,
        records = opened.replayed,
        cut_bytes = recovered.cut_bytes,
        "recovered"
    );

    let certificates = match (&args.tls_cert, &args.tls_key) {
        (Some(certificate), Some(key)) => Certificates::read(certificate, key)?,
        _ => Certificates::self_signed(&args.data.join(TLS))?,
    };
    let (address, listeners, sockets) = bind_all(args.http, reactors)?;
    let quic_doors = QuicDoor::for_all(sockets, &certificates, &Limits::default())?;

    let admin = args.admin.0.map(bind_admin).transpose()?;

    let (stop, stopped) = watch::channel(false);
    let (failed, mut failure) = mpsc::channel(1);
    let groups: BTreeMap<u16, &GroupHandle> =
        opened.handles.iter().map(|(number, handle)| (*number, handle)).collect();
    let inboxes = groups.values().map(|handle| handle.inbox()).collect();
    let switches = groups.values().map(|handle| handle.drill_switch()).collect();
    let drills = Drills { door: drill_door.clone(), groups: switches };
    let stages = opened.handles[0].1.stages().clone();
    let feed = opened.feed;
    let kept = opened.snapshots.as_ref().zip(feed.clone());
    let kept = kept.map(|(thread, feed)| Kept {
        snapshots: thread.figures(),
        trims: thread.trims(),
        rows: thread.rows(),
        space: thread.space(),
        feed,
    });
    let watched = Admin::new(stages, inboxes, kept, stopped.clone(), drills);
    let router = Router::new(opened.handles);
    let certificates = Arc::new(certificates);
    let mut tasks = opened.tasks.into_iter();
    let threads: Vec<_> = Door::for_all(listeners)
        .into_iter()
        .zip(quic_doors)
        .enumerate()
        .map(|(number, (door, quic))| {
            let beside = BesideShards {
                drills: drill_door.clone(),
                keys: keys.clone(),
                feed: feed.clone(),
                certificates: certificates.clone(),
                quic,
            };
            let gateway = (router.clone(), beside);
            let stopped = stopped.clone();
            let group = tasks.next().map(|task| (task, failed.clone()));
            thread::Builder::new()
                .name(format!("crest-{number}"))
                .spawn(move || reactor(number, gateway, door, stopped, group))
        })
        .collect::<Result<_, _>>()?;
    // From here on only reactors hold the shards: when they are done, those are.
    drop((router, failed));

    // Signals are caught before anybody is told that there is somebody to send them to.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let signals = runtime.block_on(async { Signals::catch() })?;
    let mut words = format!("crest {} listening on http://{address}\n", env!("CARGO_PKG_VERSION"));
    if let Some(admin) = &admin {
        words.push_str(&format!("admin on http://{}\n", admin.local_addr()?));
    }
    let whose = match args.tls_cert {
        Some(_) => "",
        None => ", self-signed, for development",
    };
    let certificate = certificates.file().display();
    words.push_str(&format!("TLS and HTTP/3 on https://{address} ({certificate}{whose})\n"));
    // At once: whoever wants the first line alone may close the pipe behind it.
    let mut out = std::io::stdout();
    out.write_all(words.as_bytes())?;
    out.flush()?;

    let ended = runtime.block_on(async {
        tokio::spawn(async move { certificates.follow().await });
        if let Some(admin) = admin {
            watched.serve(admin)?;
        }
        let failed = tokio::select! {
            () = signals.stop() => None,
            failed = failure.recv() => failed,
        };
        if let Some(failed) = failed {
            return Ok::<_, Failure>(Err(failed));
        }
        tracing::info!("stopping");
        // Receivers are reactors and the admin port; one that is gone needs no word.
        let _ = stop.send(true);
        // On a thread of its own, so that the admin port answers until the end.
        let stats = tokio::task::spawn_blocking(move || end(threads, opened.snapshots, opened.log))
            .await??;
        Ok(Ok(stats))
    })?;
    let stats = match ended {
        Ok(stats) => stats,
        Err(failed) => return Ok(fail(&failed)),
    };
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

/// The key for drills, if there is one.
fn drill_key(args: &args::Serve) -> Result<Option<DrillKey>, Failure> {
    if let Some(file) = &args.drill_key {
        return read_drill_key(file).map(Some);
    }
    let Some(secret) = std::env::var_os(DRILL_KEY_VARIABLE) else { return Ok(None) };
    let key = DrillKey::new(secret.as_bytes());
    Ok(Some(key.map_err(|error| format!("{DRILL_KEY_VARIABLE}: {error}"))?))
}

/// The drill key that a file holds.
pub(crate) fn read_drill_key(file: &Path) -> Result<DrillKey, Failure> {
    let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
    let secret = std::fs::read(file).map_err(|error| wrong(&error))?;
    Ok(DrillKey::new(&secret).map_err(|error| wrong(&error))?)
}

/// Waits until the reactors are done, then the log.
fn end(
    reactors: Vec<thread::JoinHandle<std::io::Result<()>>>,
    snapshots: Option<SnapshotThread>,
    log: LogThread,
) -> std::io::Result<CommitStats> {
    for reactor in reactors {
        reactor.join().map_err(|_| std::io::Error::other("a reactor panicked"))??;
    }
    drop(snapshots);
    Ok(log.join())
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

/// What a gateway needs beside the shards.
struct BesideShards {
    drills: DrillDoor,
    keys: Option<Arc<PartyKeys>>,
    feed: Option<Feed>,
    certificates: Arc<Certificates>,
    quic: QuicDoor,
}

/// One core's connections, and its shards.
fn reactor(
    number: usize,
    (router, beside): (Router, BesideShards),
    door: Door,
    stopped: watch::Receiver<bool>,
    group: Option<(GroupTask, mpsc::Sender<ShardFailed>)>,
) -> std::io::Result<()> {
    // Not a `LocalSet`: it writes to its own eventfd whenever an event wakes one of its tasks.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())?;
    runtime.block_on(async move {
        let group = group.map(|(task, failed)| {
            tokio::task::spawn_local(async move {
                if let Err(error) = task.run().await {
                    // The main thread ends the process; without it there is nobody to tell.
                    let _ = failed.try_send(error);
                }
            })
        });
        let gateway = Gateway::new(router, Limits::default(), number);
        let BesideShards { drills, keys, feed, certificates, quic } = beside;
        let gateway = gateway.with_drills(drills).with_keys(keys).with_feed(feed);
        let gateway = gateway.with_tls(&certificates, quic);
        gateway.serve(door, stopped).await?;
        if let Some(group) = group {
            group.await.map_err(std::io::Error::other)?;
        }
        Ok(())
    })
}

fn bind_admin(address: SocketAddr) -> Result<TcpListener, Failure> {
    let listener = TcpListener::bind(address)
        .map_err(|error| format!("the admin port, {address}: {error}; --admin says where"))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// A listener and a UDP socket for each reactor, all on one port.
fn bind_all(
    wanted: SocketAddr,
    reactors: usize,
) -> Result<(SocketAddr, Vec<TcpListener>, Vec<UdpSocket>), Failure> {
    if reactors > REACTORS_MAX {
        return Err(format!("{reactors} reactors: there can be 1 to {REACTORS_MAX}").into());
    }
    // Sockets that share a port don't see that somebody else has it; one that doesn't share does.
    drop(bind(wanted, Type::STREAM, Sharing::No)?);
    let mut left = if wanted.port() == 0 { PORTS_TRIED } else { 1 };
    loop {
        let first = listen(wanted)?;
        let address = first.local_addr()?;
        left -= 1;
        match bind(address, Type::DGRAM, Sharing::No) {
            Ok(socket) => drop(socket),
            // Any port will do, and this one is somebody's, over UDP.
            Err(_) if left > 0 => continue,
            Err(error) => return Err(format!("over UDP: {error}").into()),
        }
        let mut listeners = vec![first];
        let mut sockets = Vec::new();
        for number in 0..reactors {
            if number > 0 {
                listeners.push(listen(address)?);
            }
            let socket = bind(address, Type::DGRAM, Sharing::Yes)?;
            // As much of it as the system allows.
            socket.set_recv_buffer_size(UDP_BUFFER_BYTES)?;
            socket.set_send_buffer_size(UDP_BUFFER_BYTES)?;
            sockets.push(socket.into());
        }
        return Ok((address, listeners, sockets));
    }
}

/// A listener that shares its port with those of other reactors.
fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    let socket = bind(address, Type::STREAM, Sharing::Yes)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Whether other sockets may have the same port.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    No,
    Yes,
}

fn bind(address: SocketAddr, kind: Type, sharing: Sharing) -> Result<Socket, Failure> {
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    // For UDP that would be to share it.
    socket.set_reuse_address(kind == Type::STREAM)?;
    socket.set_reuse_port(sharing == Sharing::Yes)?;
    socket.bind(&address.into()).map_err(|error| format!("{address}: {error}"))?;
    Ok(socket)
}
