//! UDP sockets that share a port, one for each reactor, and packets that find their reactor.
//!
//! The kernel deals packets to the sockets by a hash of their addresses. A client that moves to
//! another address would end up at another reactor, which knows nothing of it, and clients behind
//! one address would all be at one. So the first byte of a packet's destination connection id says
//! whose it is: a reactor gives out only ids that name it, and what a client makes up for its first
//! packets is random, so that new connections are spread. A packet that comes in elsewhere is
//! handed on. Where the other reactor doesn't keep up with that, it is dropped, as anywhere on its
//! way.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncUdpSocket, ConnectionId, ConnectionIdGenerator, UdpPoller};
use tokio::io::Interest;
use tokio::sync::mpsc;

/// Packets on their way from one reactor to another.
const HANDED_MAX: usize = 4096;
/// Bytes of the ids that are given out.
const ID_BYTES: usize = 8;
/// The form of a packet with a long header (RFC 9000, 17.2).
const LONG: u8 = 0x80;
/// Where the length of the destination's id stands in a long header, before the id.
const LONG_ID_LENGTH: usize = 5;

/// Reactors that packets can be told apart for.
pub const REACTORS_MAX: usize = 256;

/// Whose a packet is. One that is too short to say is anybody's.
fn owner(packet: &[u8], reactors: usize) -> Option<usize> {
    let first = match packet.first()? & LONG {
        0 => packet.get(1),
        _ if packet.get(LONG_ID_LENGTH).is_none_or(|&length| length == 0) => None,
        _ => packet.get(LONG_ID_LENGTH + 1),
    };
    first.map(|&first| usize::from(first) % reactors)
}

/// Makes ids that name a reactor.
#[derive(Clone, Copy, Debug)]
pub(super) struct NamingIds {
    pub(super) reactor: usize,
    pub(super) reactors: usize,
}

impl ConnectionIdGenerator for NamingIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; ID_BYTES];
        getrandom::fill(&mut id).expect("the system has randomness");
        // Any of the numbers that stand for this reactor.
        let rounds = (REACTORS_MAX - self.reactor).div_ceil(self.reactors);
        let first = self.reactor + usize::from(id[0]) % rounds * self.reactors;
        id[0] = u8::try_from(first).expect("below the number of reactors there can be");
        ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// A packet that came in at another reactor.
#[derive(Debug)]
struct Handed {
    bytes: Vec<u8>,
    meta: RecvMeta,
}

/// A reactor's socket, before it belongs to a runtime.
#[derive(Debug)]
pub(super) struct Parts {
    socket: UdpSocket,
    reactor: usize,
    others: Arc<[mpsc::Sender<Handed>]>,
    handed: mpsc::Receiver<Handed>,
}

impl Parts {
    /// Of sockets that share a port, in the order of their reactors.
    pub(super) fn of_all(sockets: Vec<UdpSocket>) -> Vec<Parts> {
        let (others, handed): (Vec<_>, Vec<_>) =
            sockets.iter().map(|_| mpsc::channel(HANDED_MAX)).unzip();
        let others: Arc<[_]> = others.into();
        let parts = sockets.into_iter().zip(handed).enumerate();
        parts
            .map(|(reactor, (socket, handed))| Parts {
                socket,
                reactor,
                others: others.clone(),
                handed,
            })
            .collect()
    }

    pub(super) fn ids(&self) -> NamingIds {
        NamingIds { reactor: self.reactor, reactors: self.others.len() }
    }

    /// On the reactor's own thread, within its runtime.
    pub(super) fn open(self) -> io::Result<SteeredSocket> {
        self.socket.set_nonblocking(true)?;
        let state = UdpSocketState::new((&self.socket).into())?;
        let io = Arc::new(tokio::net::UdpSocket::from_std(self.socket)?);
        let Parts { reactor, others, handed, .. } = self;
        let (handed, is_handed_first) = (Mutex::new(handed), AtomicBool::default());
        Ok(SteeredSocket { io, state, reactor, others, handed, is_handed_first })
    }
}

/// A reactor's socket, as its endpoint sees it.
#[derive(Debug)]
pub(super) struct SteeredSocket {
    io: Arc<tokio::net::UdpSocket>,
    state: UdpSocketState,
    reactor: usize,
    others: Arc<[mpsc::Sender<Handed>]>,
    /// Only this reactor's endpoint takes from it: nobody waits for the lock.
    handed: Mutex<mpsc::Receiver<Handed>>,
    /// Whether those are asked for first: in turn, so that neither way waits for the other.
    is_handed_first: AtomicBool,
}

impl SteeredSocket {
    fn is_own(&self, packet: &[u8]) -> bool {
        owner(packet, self.others.len()).is_none_or(|owner| owner == self.reactor)
    }

    /// Keeps what is for this reactor of what was received at once, and hands on the rest.
    fn sort(&self, buffer: &mut [u8], meta: &mut RecvMeta) {
        let stride = meta.stride.max(1);
        if buffer[..meta.len].chunks(stride).all(|packet| self.is_own(packet)) {
            return;
        }
        let (mut kept, mut at) = (0, 0);
        while at < meta.len {
            let end = (at + stride).min(meta.len);
            if self.is_own(&buffer[at..end]) {
                // Only the last one may be shorter, and it stays the last.
                buffer.copy_within(at..end, kept);
                kept += end - at;
            } else if let Some(owner) = owner(&buffer[at..end], self.others.len()) {
                let meta = RecvMeta { len: end - at, stride: end - at, ..*meta };
                // One that doesn't keep up, or has ended, doesn't get it.
                let handed = Handed { bytes: buffer[at..end].to_vec(), meta };
                let _ = self.others[owner].try_send(handed);
            }
            at = end;
        }
        meta.len = kept;
    }

    fn poll_handed(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut handed = self.handed.lock().expect("nothing panics while it holds the lock");
        let mut count = 0;
        for (buffer, meta) in buffers.iter_mut().zip(metas) {
            let Poll::Ready(Some(packet)) = handed.poll_recv(cx) else { break };
            let fitting = packet.bytes.len().min(buffer.len());
            buffer[..fitting].copy_from_slice(&packet.bytes[..fitting]);
            *meta = packet.meta;
            meta.len = fitting;
            count += 1;
        }
        if count > 0 { Poll::Ready(Ok(count)) } else { Poll::Pending }
    }

    fn poll_own(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            std::task::ready!(self.io.poll_recv_ready(cx))?;
            let receive = || self.state.recv((&*self.io).into(), buffers, metas);
            // Others may have been quicker.
            let Ok(count) = self.io.try_io(Interest::READABLE, receive) else { continue };
            let received = buffers.iter_mut().zip(&mut *metas).take(count);
            received.for_each(|(buffer, meta)| self.sort(buffer, meta));
            return Poll::Ready(Ok(count));
        }
    }
}

impl AsyncUdpSocket for SteeredSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable { socket: self.io.clone(), waiting: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let send = || self.state.send((&*self.io).into(), transmit);
        self.io.try_io(Interest::WRITABLE, send)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let is_handed_first = self.is_handed_first.fetch_xor(true, Ordering::Relaxed);
        if is_handed_first && let ready @ Poll::Ready(_) = self.poll_handed(cx, buffers, metas) {
            return ready;
        }
        if let ready @ Poll::Ready(_) = self.poll_own(cx, buffers, metas) {
            return ready;
        }
        match is_handed_first {
            true => Poll::Pending,
            false => self.poll_handed(cx, buffers, metas),
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }
}

type Waiting = Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>;

/// Waits until the socket takes more.
struct Writable {
    socket: Arc<tokio::net::UdpSocket>,
    waiting: Option<Waiting>,
}

impl UdpPoller for Writable {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = self.socket.clone();
        let waiting =
            self.waiting.get_or_insert_with(|| Box::pin(async move { socket.writable().await }));
        let polled = waiting.as_mut().poll(cx);
        if polled.is_ready() {
            self.waiting = None;
        }
        polled
    }
}

impl fmt::Debug for Writable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writable").field("socket", &self.socket).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_name_their_reactor() {
        for reactors in [1, 2, 3, 7, 64, REACTORS_MAX] {
            for reactor in 0..reactors {
                let mut ids = NamingIds { reactor, reactors };
                for _ in 0..20 {
                    let id = ids.generate_cid();
                    let short = [&[0x40], &id[..], &[1; 20]].concat();
                    assert_eq!(owner(&short, reactors), Some(reactor));
                    let long = [&[0xc0, 0, 0, 0, 1, 8], &id[..], &[1; 20]].concat();
                    assert_eq!(owner(&long, reactors), Some(reactor));
                }
            }
        }
    }

    #[test]
    fn what_says_nothing_is_anybodys() {
        for packet in [&[][..], &[0x40], &[0xc0, 0, 0, 0, 1], &[0xc0, 0, 0, 0, 1, 0, 9]] {
            assert_eq!(owner(packet, 2), None, "{packet:?}");
        }
    }

    /// Packets for two reactors in one read, the last one shorter.
    #[tokio::test]
    async fn packets_find_their_reactor() {
        let socket = || UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut parts = Parts::of_all(vec![socket(), socket()]);
        let (second, first) = (parts.pop().unwrap(), parts.pop().unwrap());
        let (first, second) = (first.open().unwrap(), second.open().unwrap());
        let packets = [[0x40, 0, 1, 1], [0x40, 1, 2, 2], [0x40, 3, 3, 3], [0x40, 2, 4, 4]];
        let mut bytes = [packets.concat(), vec![0x40, 4]].concat();
        let mut meta = RecvMeta { len: bytes.len(), stride: 4, ..RecvMeta::default() };
        first.sort(&mut bytes, &mut meta);
        assert_eq!(bytes[..meta.len], [&packets[0][..], &packets[3], &[0x40, 4]].concat());
        let (mut one, mut two) = ([0; 64], [0; 64]);
        let mut buffers = [IoSliceMut::new(&mut one), IoSliceMut::new(&mut two)];
        let mut metas = [RecvMeta::default(); 2];
        let count = std::future::poll_fn(|cx| second.poll_recv(cx, &mut buffers, &mut metas));
        assert_eq!(count.await.unwrap(), 2);
        assert_eq!((&one[..4], &two[..4]), (&packets[1][..], &packets[2][..]));
        assert_eq!((metas[0].len, metas[1].stride), (4, 4));
    }
}
