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
use std::collections::hash_map::Entry;
use std::ops::Range;
use std::time::Duration;

use foldhash::HashMap;
use model::record::CommandBuffer;
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
    /// Units that it wants of that one.
    whole: u64,
    entered: Duration,
    until: Duration,
    /// Lower ones that it keeps, being the first in their queues, and units that it wants there.
    keeps: Vec<(ItemId, u64)>,
    /// Repeats of it, which get its answer.
    pub(super) repeats: Vec<ReplyPlace>,
    /// What was looked up for it.
    pub(super) loads: CommandBuffer,
}

/// What is known of an item: orders that wait for it, and whether its home was asked.
#[derive(Default)]
struct Queue {
    first: Option<usize>,
    behind: VecDeque<usize>,
    /// What all of them want.
    wanted: u64,
    /// The item's home was asked and hasn't answered.
    is_asked: bool,
    /// The item's home wants its units back, which the first in line keeps for the moment.
    is_recalled: bool,
}

/// What it means to others that somebody steps out of queues.
#[derive(Default)]
pub(super) struct Moved {
    /// Items whose queues have a new first in line.
    pub(super) items: Vec<ItemKey>,
    /// Items for which nobody waits any more.
    pub(super) emptied: Vec<ItemKey>,
    /// Items whose recall can be answered now.
    pub(super) recalled: Vec<ItemKey>,
}

impl Moved {
    fn step_out(
        &mut self,
        queues: &mut HashMap<ItemKey, Queue>,
        key: ItemKey,
        ticket: usize,
        whole: u64,
    ) {
        let Entry::Occupied(mut entry) = queues.entry(key) else { panic!("it stands there") };
        let queue = entry.get_mut();
        queue.wanted -= whole;
        if queue.first != Some(ticket) {
            let at = queue.behind.iter().position(|other| *other == ticket);
            queue.behind.remove(at.expect("it stands there"));
            return;
        }
        if std::mem::take(&mut queue.is_recalled) {
            self.recalled.push(key);
        }
        queue.first = queue.behind.pop_front();
        if queue.first.is_some() {
            self.items.push(key);
            return;
        }
        self.emptied.push(key);
        if !queue.is_asked {
            entry.remove();
        }
    }
}

/// All that wait on one shard.
#[derive(Default)]
pub(super) struct WaitingRoom {
    /// By ticket. A ticket is given again when its order is gone.
    waiting: Slab<Waiting>,
    queues: HashMap<ItemKey, Queue>,
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
        loads: CommandBuffer,
    ) -> usize {
        let waiting = Waiting {
            order,
            place,
            bytes,
            turn: shortage.item,
            whole: shortage.whole,
            entered: now,
            until: now + WAIT_MAX,
            keeps: Vec::new(),
            repeats: Vec::new(),
            loads,
        };
        let ticket = self.waiting.insert(waiting);
        self.orders.insert(order, ticket);
        self.set_deadline(now + WAIT_MAX, ticket);
        self.stand_behind((order.0, shortage.item), ticket, shortage.whole);
        ticket
    }

    /// Another copy of an order that waits came in.
    pub(super) fn repeat(&mut self, ticket: usize, place: ReplyPlace) {
        self.waiting[ticket].repeats.push(place);
    }

    fn set_deadline(&mut self, until: Duration, ticket: usize) {
        if self.deadlines.back().is_none_or(|(last, _)| *last <= until) {
            return self.deadlines.push_back((until, ticket)); // As nearly always.
        }
        let later = self.deadlines.iter().rev().take_while(|(other, _)| *other > until).count();
        self.deadlines.insert(self.deadlines.len() - later, (until, ticket));
    }

    fn is_true(&self, (until, ticket): (Duration, usize)) -> bool {
        self.waiting.get(ticket).is_some_and(|waiting| waiting.until == until)
    }

    /// The order goes to the end of the line for what it lacks now, unless it stands there.
    pub(super) fn line_up(
        &mut self,
        now: Duration,
        ticket: usize,
        shortage: Shortage,
        moved: &mut Moved,
    ) {
        let waiting = &mut self.waiting[ticket];
        let realm = waiting.order.0;
        if shortage.item == waiting.turn {
            return;
        }
        let before = (waiting.turn, waiting.whole);
        (waiting.turn, waiting.whole) = (shortage.item, shortage.whole);
        if before.0 < shortage.item {
            // It has got what it waited for: the next item has a wait of its own.
            waiting.keeps.push(before);
            waiting.until = (now + WAIT_MAX).min(waiting.entered + WAIT_ALL_MAX);
            let until = waiting.until;
            self.set_deadline(until, ticket);
            return self.stand_behind((realm, shortage.item), ticket, shortage.whole);
        }
        // It goes back to a lower one, and may have kept that until now.
        moved.step_out(&mut self.queues, (realm, before.0), ticket, before.1);
        let mut stands = false;
        for (item, whole) in waiting.keeps.extract_if(.., |(item, _)| *item >= shortage.item) {
            if item == shortage.item {
                stands = true;
            } else {
                moved.step_out(&mut self.queues, (realm, item), ticket, whole);
            }
        }
        if !stands {
            self.stand_behind((realm, shortage.item), ticket, shortage.whole);
        }
    }

    fn stand_behind(&mut self, item: ItemKey, ticket: usize, whole: u64) {
        let queue = self.queues.entry(item).or_default();
        match queue.first {
            None => queue.first = Some(ticket),
            Some(_) => queue.behind.push_back(ticket),
        }
        queue.wanted += whole;
    }

    /// Who is first in line for an item.
    pub(super) fn first(&self, item: ItemKey) -> Option<usize> {
        self.queues.get(&item)?.first
    }

    /// Notes that the item's home is asked, and says what all in line lack together, of which
    /// some is there. `None` if it was asked already, or it isn't `ticket` that is first in line.
    pub(super) fn ask(&mut self, item: ItemKey, ticket: usize, shortage: &Shortage) -> Option<u64> {
        let queue = self.queues.get_mut(&item)?;
        if queue.first != Some(ticket) || std::mem::replace(&mut queue.is_asked, true) {
            return None;
        }
        let here = shortage.whole - shortage.lacking;
        Some(queue.wanted.saturating_sub(here).max(shortage.lacking))
    }

    /// Notes that the home of an item that nobody waits for yet is asked. Whether it is to be.
    pub(super) fn ask_ahead(&mut self, item: ItemKey) -> bool {
        match self.queues.entry(item) {
            Entry::Occupied(_) => false,
            Entry::Vacant(entry) => {
                entry.insert(Queue { is_asked: true, ..Queue::default() });
                true
            }
        }
    }

    /// The item's home has answered, or units are there without it. Who is first in line.
    pub(super) fn woken(&mut self, item: ItemKey) -> Option<usize> {
        let Entry::Occupied(mut entry) = self.queues.entry(item) else { return None };
        entry.get_mut().is_asked = false;
        let first = entry.get().first;
        if first.is_none() {
            entry.remove();
        }
        first
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
    pub(super) fn leave(&mut self, ticket: usize, moved: &mut Moved) -> Waiting {
        let waiting = self.waiting.remove(ticket);
        self.orders.remove(&waiting.order);
        while self.deadlines.front().is_some_and(|front| !self.is_true(*front)) {
            self.deadlines.pop_front();
        }
        let realm = waiting.order.0;
        for &(item, whole) in waiting.keeps.iter().chain([&(waiting.turn, waiting.whole)]) {
            moved.step_out(&mut self.queues, (realm, item), ticket, whole);
        }
        waiting
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
