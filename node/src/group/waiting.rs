//! Where orders wait for units that may be elsewhere.
//!
//! Waiting orders aren't decided and aren't logged: a crash forgets them, and their clients ask
//! again. They stand in a queue for each item, and nothing overtakes them there. An order with
//! several scarce items waits for the lowest first; when it has that one it keeps its place at
//! the head of the queue, so that its units are nobody else's, and goes on to the next. Where a
//! lower one, of which there seemed to be enough, is gone meanwhile, it gives up its places for
//! higher ones: orders that all keep the lower and wait for the higher never wait in a circle.
//!
//! Homes are asked for all that an order lacks when it comes in. What comes of that early stands
//! here for whoever is first, and goes back when it is recalled: only the order in which places
//! are taken keeps circles away, not the order of asking.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use foldhash::{HashMap, HashSet};
use model::{ItemId, OrderId, Party, Realm};
use slab::Slab;
use txn_core::Shortage;

/// How long an order waits for units of one item before its client is told to try again.
pub(super) const WAIT_MAX: Duration = Duration::from_millis(250);
/// And how long for those of all its items, one after the other.
const WAIT_ALL_MAX: Duration = Duration::from_secs(10);
/// Orders that may wait on one shard. Further ones are told to try again.
pub(super) const WAITING_MAX: usize = 65_536;

/// Which reply of which submission.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ReplyPlace {
    pub(super) submission: usize,
    pub(super) index: usize,
}

/// What an order is known by.
pub(super) type OrderKey = (Realm, Party, OrderId);
/// What a queue is for.
pub(super) type ItemKey = (Realm, ItemId);

/// An order that waits.
pub(super) struct Waiting {
    pub(super) order: OrderKey,
    pub(super) place: ReplyPlace,
    /// Where its bytes are among the commands of its submission.
    pub(super) bytes: Range<usize>,
    /// The item that it waits for now, the last of those in whose queues it stands.
    pub(super) turn: ItemId,
    entered: Duration,
    until: Duration,
    /// The queues in which it stands, and units that it wants there.
    queues: Vec<(ItemId, u64)>,
    /// Repeats of it, which get its answer.
    pub(super) repeats: Vec<ReplyPlace>,
}

#[derive(Default)]
struct Queue {
    line: VecDeque<usize>,
    /// What all of them want.
    wanted: u64,
    /// The item's home wants its units back, which the first in line keeps for the moment.
    is_recalled: bool,
}

/// What it means to others that somebody steps out of queues.
#[derive(Default)]
pub(super) struct Moved {
    /// Items whose queues have a new first in line, or none any more.
    pub(super) items: Vec<ItemId>,
    /// Items whose recall can be answered now.
    pub(super) recalled: Vec<ItemId>,
}

impl Moved {
    fn step_out(
        &mut self,
        queues: &mut HashMap<ItemKey, Queue>,
        key: ItemKey,
        ticket: usize,
        whole: u64,
    ) {
        let queue = queues.get_mut(&key).expect("it stands there");
        let at = queue.line.iter().position(|other| *other == ticket);
        queue.line.remove(at.expect("it stands there"));
        queue.wanted -= whole;
        if at == Some(0) {
            self.items.push(key.1);
            if std::mem::take(&mut queue.is_recalled) {
                self.recalled.push(key.1);
            }
        }
        if queue.line.is_empty() {
            queues.remove(&key);
        }
    }
}

/// All that wait on one shard.
#[derive(Default)]
pub(super) struct WaitingRoom {
    /// By ticket. A ticket is given again when its order is gone.
    waiting: Slab<Waiting>,
    queues: HashMap<ItemKey, Queue>,
    /// Items whose homes were asked and haven't answered.
    asked: HashSet<ItemKey>,
    orders: HashMap<OrderKey, usize>,
    /// When each has waited too long, in the order of time, and when others would have: what
    /// isn't true any more is forgotten when it comes to the front.
    deadlines: VecDeque<(Duration, usize)>,
}

impl WaitingRoom {
    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= WAITING_MAX
    }

    /// The ticket of an order that waits.
    pub(super) fn find(&self, order: OrderKey) -> Option<usize> {
        self.orders.get(&order).copied()
    }

    pub(super) fn get(&self, ticket: usize) -> &Waiting {
        &self.waiting[ticket]
    }

    /// An order comes in. Its ticket.
    pub(super) fn enter(
        &mut self,
        now: Duration,
        order: OrderKey,
        place: ReplyPlace,
        bytes: Range<usize>,
        shortage: Shortage,
    ) -> usize {
        let waiting = Waiting {
            order,
            place,
            bytes,
            turn: shortage.item,
            entered: now,
            until: now + WAIT_MAX,
            queues: Vec::new(),
            repeats: Vec::new(),
        };
        let ticket = self.waiting.insert(waiting);
        self.orders.insert(order, ticket);
        self.set_deadline(now + WAIT_MAX, ticket);
        self.line_up(now, ticket, shortage);
        ticket
    }

    /// Another copy of an order that waits came in.
    pub(super) fn repeat(&mut self, ticket: usize, place: ReplyPlace) {
        self.waiting[ticket].repeats.push(place);
    }

    fn set_deadline(&mut self, until: Duration, ticket: usize) {
        // Nearly always the last one.
        let later = self.deadlines.iter().rev().take_while(|(other, _)| *other > until).count();
        self.deadlines.insert(self.deadlines.len() - later, (until, ticket));
    }

    fn is_true(&self, (until, ticket): (Duration, usize)) -> bool {
        self.waiting.get(ticket).is_some_and(|waiting| waiting.until == until)
    }

    /// The order goes to the end of the line for what it lacks now, unless it stands there.
    pub(super) fn line_up(&mut self, now: Duration, ticket: usize, shortage: Shortage) -> Moved {
        let waiting = &mut self.waiting[ticket];
        if waiting.turn < shortage.item {
            // It has got what it waited for: the next item has a wait of its own.
            let until = (now + WAIT_MAX).min(waiting.entered + WAIT_ALL_MAX);
            waiting.until = until;
            self.set_deadline(until, ticket);
        }
        let waiting = &mut self.waiting[ticket];
        let realm = waiting.order.0;
        waiting.turn = shortage.item;
        let mut moved = Moved::default();
        for (item, whole) in waiting.queues.extract_if(.., |(item, _)| *item > shortage.item) {
            moved.step_out(&mut self.queues, (realm, item), ticket, whole);
        }
        if waiting.queues.iter().all(|(item, _)| *item != shortage.item) {
            waiting.queues.push((shortage.item, shortage.whole));
            let queue = self.queues.entry((realm, shortage.item)).or_default();
            queue.line.push_back(ticket);
            queue.wanted += shortage.whole;
        }
        moved
    }

    /// Who is first in line for an item.
    pub(super) fn first(&self, item: ItemKey) -> Option<usize> {
        self.queues.get(&item)?.line.front().copied()
    }

    /// Notes that the item's home is asked, and says what all in line lack together, of which
    /// `here` are there. `None` if it was asked already.
    pub(super) fn ask(&mut self, item: ItemKey, shortage: &Shortage) -> Option<u64> {
        let queue = self.queues.get(&item)?;
        let here = shortage.whole - shortage.lacking;
        let wanted = queue.wanted.saturating_sub(here).max(shortage.lacking);
        self.asked.insert(item).then_some(wanted)
    }

    /// Notes that the home of an item that nobody waits for yet is asked. Whether it is to be.
    pub(super) fn ask_ahead(&mut self, item: ItemKey) -> bool {
        !self.queues.contains_key(&item) && self.asked.insert(item)
    }

    /// The item's home has answered, or units are there without it.
    pub(super) fn woken(&mut self, item: ItemKey) {
        self.asked.remove(&item);
    }

    /// The item's home recalls. Whether it can be answered: the first in line may keep units
    /// while it waits for its next item, and then the answer is [`WaitingRoom::leave`]'s.
    pub(super) fn recall(&mut self, item: ItemKey) -> bool {
        let Some(first) = self.first(item) else { return true };
        let keeps = self.waiting[first].turn != item.1;
        if keeps {
            self.queues.get_mut(&item).expect("somebody is in it").is_recalled = true;
        }
        !keeps
    }

    /// The order is decided, or waits no longer.
    pub(super) fn leave(&mut self, ticket: usize) -> (Waiting, Moved) {
        let waiting = self.waiting.remove(ticket);
        self.orders.remove(&waiting.order);
        while self.deadlines.front().is_some_and(|front| !self.is_true(*front)) {
            self.deadlines.pop_front();
        }
        let mut moved = Moved::default();
        for &(item, whole) in &waiting.queues {
            moved.step_out(&mut self.queues, (waiting.order.0, item), ticket, whole);
        }
        (waiting, moved)
    }

    /// Who waits in a realm.
    pub(super) fn tickets(&self, realm: Realm) -> Vec<usize> {
        let of_realm = self.waiting.iter().filter(|(_, waiting)| waiting.order.0 == realm);
        of_realm.map(|(ticket, _)| ticket).collect()
    }

    /// Who has waited too long, if anybody.
    pub(super) fn overdue(&self, now: Duration) -> Option<usize> {
        let due = self.deadlines.iter().take_while(|(until, _)| *until <= now);
        due.copied().find(|deadline| self.is_true(*deadline)).map(|(_, ticket)| ticket)
    }

    /// When somebody will have waited too long.
    pub(super) fn next_wake(&self) -> Option<Duration> {
        let first = self.deadlines.iter().find(|deadline| self.is_true(**deadline))?;
        Some(first.0)
    }
}
