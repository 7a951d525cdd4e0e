//! What is sent to other shards, and when.
//!
//! A stream sends only what is durable here, and acknowledges only what is. Entries go out at
//! once; an acknowledgement rides on them, or goes alone after a while. What isn't acknowledged
//! in time is sent again from there on: the receiver takes every number once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use model::record::{CommandBuffer, ENTRIES_BYTES_MAX, StreamPlace};
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
#[derive(Default)]
pub(super) struct Links {
    links: BTreeMap<(Realm, ShardId), Link>,
    /// Those with something to send, or to hear of.
    busy: BTreeSet<(Realm, ShardId)>,
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
        let link = self.links.entry(peer).or_insert_with(|| Link {
            sendable: ends.acked,
            next: ends.acked,
            arrived: 1,
            told: 1,
            acked: ends.acked,
            arrived_at: None,
            resend_at: None,
            resend_after: RESEND,
            window: WINDOW_MAX,
        });
        self.busy.insert(peer);
        link.sendable = ends.next_out;
        if ends.next_in > link.arrived {
            link.arrived = ends.next_in;
            link.arrived_at = link.arrived_at.or(Some(now));
        }
        if ends.acked > link.acked {
            link.acked = ends.acked;
            link.next = link.next.max(link.acked);
            link.resend_after = RESEND;
            link.window = (link.window * 2).min(WINDOW_MAX);
            link.resend_at = (link.next > link.acked).then(|| now + RESEND);
        }
    }

    /// The other has sent what it should know to have arrived: it is told again.
    pub(super) fn tell_again(&mut self, now: Duration, peer: (Realm, ShardId)) {
        if let Some(link) = self.links.get_mut(&peer) {
            link.told = 0;
            link.arrived_at = Some(now);
            self.busy.insert(peer);
        }
    }

    /// What a realm has sent, and nobody has acknowledged, goes out again at once.
    pub(super) fn send_again(&mut self, realm: Realm) {
        let of_realm = self.links.iter_mut().filter(|(peer, _)| peer.0 == realm);
        for (peer, link) in of_realm.filter(|(_, link)| link.acked < link.sendable) {
            link.next = link.acked;
            link.resend_at = None;
            link.resend_after = RESEND;
            self.busy.insert(*peer);
        }
    }

    /// Whether there may be something to send, or to hear of.
    pub(super) fn is_busy(&self) -> bool {
        !self.busy.is_empty()
    }

    /// When there is something to do though nothing happens.
    pub(super) fn next_wake(&self) -> Option<Duration> {
        let times = self.busy.iter().flat_map(|peer| {
            let link = &self.links[peer];
            [link.arrived_at.map(|at| at + ACK_DELAY), link.resend_at]
        });
        times.flatten().min()
    }

    /// Writes what is to be sent now.
    pub(super) fn messages(&mut self, now: Duration, shard: &Shard, out: &mut Vec<Message>) {
        let links = &mut self.links;
        self.busy.retain(|&(realm, peer)| {
            let link = links.get_mut(&(realm, peer)).expect("a busy link is there");
            if link.resend_at.is_some_and(|at| at <= now) {
                link.next = link.acked;
                link.window = WINDOW_MIN;
                link.resend_after = (link.resend_after * 2).min(RESEND_MAX);
                link.resend_at = None;
            }
            // What was acknowledged since isn't there any more.
            link.next = link.next.max(shard.stream(realm, peer).acked);
            let most = link.sendable.min(link.acked + link.window);
            while link.next < most {
                let mut entries = Vec::new();
                let range = (link.next, most);
                let count = shard.copy_entries(realm, peer, range, ENTRIES_BYTES_MAX, &mut entries);
                out.push(link.message(shard.seat().id, realm, peer, &entries, count));
                link.next += u64::from(count);
                link.resend_at = link.resend_at.or(Some(now + link.resend_after));
            }
            let is_due = link.arrived_at.is_some_and(|at| at + ACK_DELAY <= now)
                || link.arrived >= link.told.saturating_add(ACK_ENTRIES);
            if link.arrived > link.told && is_due {
                out.push(link.message(shard.seat().id, realm, peer, &[], 0));
            }
            link.acked < link.sendable || link.told < link.arrived
        });
    }
}

impl Link {
    fn message(
        &mut self,
        from: ShardId,
        realm: Realm,
        to: ShardId,
        entries: &[u8],
        count: u32,
    ) -> Message {
        let at = StreamPlace { first: self.next, base: self.acked, acked: self.arrived };
        let mut command = CommandBuffer::default();
        command.set_realm(realm);
        command.deliver(from, at, entries, count);
        self.told = self.arrived;
        self.arrived_at = None;
        Message { from, to, record: command.into_bytes() }
    }
}
