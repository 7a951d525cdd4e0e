//! What is sent to other shards, and when.
//!
//! A stream sends only what is durable here, and acknowledges only what is. Entries go out at
//! once; an acknowledgement rides on them, or goes alone after a while. What isn't acknowledged
//! in time is sent again from there on: the receiver takes every number once.

use std::time::Duration;

use model::record::{CommandBuffer, DeliverBody, ENTRIES_BYTES_MAX, Header, StreamPlace};
use model::{Realm, ShardId};
use txn_core::{Shard, StreamEnds};

/// How long an acknowledgement waits for entries to ride on.
const ACK_DELAY: Duration = Duration::from_millis(20);
/// An acknowledgement of so many entries waits for nothing.
const ACK_ENTRIES: u64 = 1_000;
/// Entries that may be on their way to one shard. A shard that is slow or away isn't flooded.
const WINDOW_MAX: u64 = 16_384;
/// And after some had to be sent again, until it is heard of: a message's worth, to ask.
const WINDOW_MIN: u64 = 64;
/// How long an acknowledgement may take before entries are sent again; doubled each time.
const RESEND: Duration = Duration::from_secs(1);
/// The longest time between two attempts.
const RESEND_MAX: Duration = Duration::from_secs(8);

/// A message from one shard to another: a `Deliver` command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// Who sends.
    pub from: ShardId,
    /// Whom it is for.
    pub to: ShardId,
    /// The command's bytes.
    pub record: Vec<u8>,
}

/// The links of one shard to all others.
pub(super) struct Links {
    /// By realm and shard, where there is one.
    links: Vec<Option<Link>>,
    /// Those of which something became durable since messages were written.
    ready: Vec<(Realm, ShardId)>,
    /// When others are to be looked at, too: not after the first of their times.
    look_at: Duration,
    /// Memory for entries on their way into a message.
    entries: Vec<u8>,
}

impl Default for Links {
    fn default() -> Links {
        Links { links: Vec::new(), ready: Vec::new(), look_at: Duration::MAX, entries: Vec::new() }
    }
}

/// A link to one other shard.
struct Link {
    /// Entries before this number are durable here.
    sendable: u64,
    /// The next entry to send.
    next: u64,
    /// Entries of the other before this number are durable here.
    arrived: u64,
    /// What the other was told of that.
    told: u64,
    /// What the other has acknowledged.
    acked: u64,
    /// When `arrived` went past `told`.
    arrived_at: Option<Duration>,
    /// When entries are sent again, if nothing is heard of them.
    resend_at: Option<Duration>,
    resend_after: Duration,
    /// Entries that may be under way: fewer after a loss, doubled with each acknowledgement
    /// (V. Jacobson, "Congestion avoidance and control", SIGCOMM 1988: slow start).
    window: u64,
}

impl Links {
    /// Takes note of how far a stream is durable here.
    pub(super) fn durable(&mut self, now: Duration, peer: (Realm, ShardId), ends: StreamEnds) {
        let place = place_of(peer);
        if self.links.len() <= place {
            self.links.resize_with(place + 1, || None);
        }
        self.links[place].get_or_insert_with(|| Link::new(ends.acked)).durable(now, ends);
        self.ready.push(peer);
    }

    /// The other has sent what it should know to have arrived: it is told again.
    pub(super) fn tell_again(&mut self, now: Duration, peer: (Realm, ShardId)) {
        if let Some(Some(link)) = self.links.get_mut(place_of(peer)) {
            link.told = 0;
            link.arrived_at = Some(now);
            self.ready.push(peer);
        }
    }

    /// What a realm has sent, and nobody has acknowledged, goes out again at once.
    pub(super) fn send_again(&mut self, realm: Realm) {
        for (place, link) in self.links.iter_mut().enumerate() {
            let peer = peer_at(place);
            if let Some(link) = link.as_mut().filter(|_| peer.0 == realm)
                && link.acked < link.sendable
            {
                link.next = link.acked;
                link.resend_at = None;
                link.resend_after = RESEND;
                self.ready.push(peer);
            }
        }
    }

    /// Whether there may be something to send.
    pub(super) fn has_messages(&self, now: Duration) -> bool {
        !self.ready.is_empty() || self.look_at <= now
    }

    /// When there is something to do though nothing happens, or a little earlier.
    pub(super) fn next_wake(&self) -> Option<Duration> {
        (self.look_at < Duration::MAX).then_some(self.look_at)
    }

    /// Writes what is to be sent now.
    pub(super) fn messages(&mut self, now: Duration, shard: &Shard, out: &mut Vec<Message>) {
        if self.look_at > now {
            for peer in self.ready.drain(..) {
                let link = self.links[place_of(peer)].as_mut().expect("a link that is ready");
                self.look_at =
                    self.look_at.min(link.send(now, shard, peer, &mut self.entries, out));
            }
            return;
        }
        self.ready.clear();
        self.look_at = Duration::MAX;
        for (place, link) in self.links.iter_mut().enumerate() {
            if let Some(link) = link {
                self.look_at =
                    self.look_at.min(link.send(now, shard, peer_at(place), &mut self.entries, out));
            }
        }
    }
}

fn place_of((realm, shard): (Realm, ShardId)) -> usize {
    2 * usize::from(shard.0) + realm as usize
}

fn peer_at(place: usize) -> (Realm, ShardId) {
    let realm = if place.is_multiple_of(2) { Realm::Live } else { Realm::Drill };
    (realm, ShardId((place / 2) as u16))
}

impl Link {
    fn new(acked: u64) -> Link {
        Link {
            sendable: acked,
            next: acked,
            arrived: 1,
            told: 1,
            acked,
            arrived_at: None,
            resend_at: None,
            resend_after: RESEND,
            window: WINDOW_MAX,
        }
    }

    fn durable(&mut self, now: Duration, ends: StreamEnds) {
        self.sendable = ends.next_out;
        if ends.next_in > self.arrived {
            self.arrived = ends.next_in;
            self.arrived_at = self.arrived_at.or(Some(now));
        }
        if ends.acked > self.acked {
            self.acked = ends.acked;
            self.next = self.next.max(self.acked);
            self.resend_after = RESEND;
            self.window = (self.window * 2).min(WINDOW_MAX);
            self.resend_at = (self.next > self.acked).then(|| now + RESEND);
        }
    }

    /// Writes what is to be sent now. When to look at it again, if nothing happens.
    fn send(
        &mut self,
        now: Duration,
        shard: &Shard,
        (realm, peer): (Realm, ShardId),
        entries: &mut Vec<u8>,
        out: &mut Vec<Message>,
    ) -> Duration {
        if self.resend_at.is_some_and(|at| at <= now) {
            self.next = self.acked;
            self.window = WINDOW_MIN;
            self.resend_after = (self.resend_after * 2).min(RESEND_MAX);
            self.resend_at = None;
        }
        // What was acknowledged since isn't there any more.
        self.next = self.next.max(shard.stream(realm, peer).acked);
        let most = self.sendable.min(self.acked + self.window);
        while self.next < most {
            entries.clear();
            let range = (self.next, most);
            let count = shard.copy_entries(realm, peer, range, ENTRIES_BYTES_MAX, entries);
            out.push(self.message(shard.seat().id, realm, peer, entries, count));
            self.next += u64::from(count);
            self.resend_at = self.resend_at.or(Some(now + self.resend_after));
        }
        let is_due = self.arrived_at.is_some_and(|at| at + ACK_DELAY <= now)
            || self.arrived >= self.told.saturating_add(ACK_ENTRIES);
        if self.arrived > self.told && is_due {
            out.push(self.message(shard.seat().id, realm, peer, &[], 0));
        }
        let times = [self.arrived_at.map(|at| at + ACK_DELAY), self.resend_at];
        times.into_iter().flatten().min().unwrap_or(Duration::MAX)
    }

    fn message(
        &mut self,
        from: ShardId,
        realm: Realm,
        to: ShardId,
        entries: &[u8],
        count: u32,
    ) -> Message {
        let at = StreamPlace { first: self.next, base: self.acked, acked: self.arrived };
        let fixed = size_of::<Header>() + size_of::<DeliverBody>();
        let mut command = CommandBuffer::with_capacity(fixed + entries.len());
        command.set_realm(realm);
        command.deliver(from, at, entries, count);
        self.told = self.arrived;
        self.arrived_at = None;
        Message { from, to, record: command.into_bytes() }
    }
}
