//! What the platform acknowledged: one byte for every order that was offered, and what was done
//! to orders later.

use foldhash::HashMap;
use model::{OrderId, Outcome, Party};

use crate::profile::{Profile, RunId};

/// No final answer came.
const UNCLEAR: u8 = 0;
/// The log showed the order already.
const SEEN: u8 = 0x80;

/// The answers to one batch.
#[derive(Clone, Copy, Debug)]
struct Batch {
    unix_ms: u64,
    /// Where its outcomes begin, plus 1; 0 for a batch that was never sent.
    start: u64,
}

/// All answers of a run, by order number.
#[derive(Clone, Debug)]
pub struct Acks {
    run: RunId,
    batch_orders: u64,
    batches: Vec<Batch>,
    outcomes: Vec<u8>,
    /// By order number: each has one change at most.
    changes: HashMap<u64, Changed>,
}

/// What can be done to an order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// It was paid.
    Pay,
    /// It was cancelled.
    Cancel,
    /// It was refunded.
    Refund,
}

/// Whether it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Changed {
    Acknowledged(Change),
    /// The log showed it.
    Seen,
}

/// An acknowledgement that the log contradicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The order's number.
    pub n: u64,
    /// Its id.
    pub id: OrderId,
    /// What was acknowledged.
    pub acknowledged: Outcome,
    /// What the log has, if anything.
    pub logged: Option<Outcome>,
}

impl Acks {
    /// For batches of `batch_orders` (at least 1) under the ids of `run`.
    pub fn new(run: RunId, batch_orders: u64) -> Acks {
        Acks {
            run,
            batch_orders,
            batches: Vec::new(),
            outcomes: Vec::new(),
            changes: HashMap::default(),
        }
    }

    /// Keeps the answers to a batch; `None`: none came. An order that is busy has none yet.
    pub fn add(&mut self, batch: u64, unix_ms: u64, outcomes: Option<&[u8]>) {
        let start = self.outcomes.len() as u64 + 1;
        match outcomes {
            Some(outcomes) => self.outcomes.extend(outcomes.iter().map(|&outcome| kept(outcome))),
            None => self.outcomes.resize(self.outcomes.len() + self.batch_orders as usize, UNCLEAR),
        }
        let at = batch as usize;
        if self.batches.len() <= at {
            self.batches.resize(at + 1, Batch { unix_ms: 0, start: 0 });
        }
        self.batches[at] = Batch { unix_ms, start };
    }

    /// Keeps a later answer to order `n`, of a batch that was added.
    pub fn set(&mut self, n: u64, outcome: u8) {
        let at = self.at(n).expect("its batch was added");
        self.outcomes[at] = kept(outcome);
    }

    /// A change of order `n` was acknowledged.
    pub fn add_change(&mut self, n: u64, change: Change) {
        self.changes.insert(n, Changed::Acknowledged(change));
    }

    /// Milliseconds since 1970 that the id of order `n` carries, if it was offered; else 0.
    pub fn unix_ms(&self, n: u64) -> u64 {
        self.batches.get((n / self.batch_orders) as usize).map_or(0, |batch| batch.unix_ms)
    }

    /// Takes over what another thread kept of the same run.
    pub fn merge(&mut self, other: Acks) {
        let shift = self.outcomes.len() as u64;
        self.changes.extend(other.changes);
        self.outcomes.extend_from_slice(&other.outcomes);
        if self.batches.len() < other.batches.len() {
            self.batches.resize(other.batches.len(), Batch { unix_ms: 0, start: 0 });
        }
        for (mine, other) in self.batches.iter_mut().zip(other.batches) {
            if other.start > 0 {
                *mine = Batch { start: other.start + shift, ..other };
            }
        }
    }

    /// Holds a logged order against what was acknowledged. `Some` when they contradict.
    pub fn check(
        &mut self,
        profile: &Profile,
        buyer: Party,
        id: OrderId,
        logged: Outcome,
    ) -> Option<Lost> {
        let n = self.run.number_of(id)?;
        let at = self.at(n)?;
        let acknowledged = Outcome::from_byte(self.outcomes[at] & !SEEN);
        self.outcomes[at] |= SEEN;
        // An order that was resent is acknowledged as done already.
        let expected = match acknowledged? {
            Outcome::AlreadyDone => Outcome::Ok,
            outcome => outcome,
        };
        let right = expected == logged && profile.buyer(n) == buyer;
        (!right).then_some(Lost { n, id, acknowledged: expected, logged: Some(logged) })
    }

    /// The log has a change of an order.
    pub fn check_change(&mut self, id: OrderId, change: Change) {
        let found = self.run.number_of(id).and_then(|n| self.changes.get_mut(&n));
        if let Some(found) = found
            && *found == Changed::Acknowledged(change)
        {
            *found = Changed::Seen;
        }
    }

    /// How many changes were acknowledged that [`Acks::check_change`] was never told of.
    pub fn unseen_changes(&self) -> u64 {
        self.changes.values().filter(|changed| **changed != Changed::Seen).count() as u64
    }

    /// Acknowledged orders that [`Acks::check`] was never asked about.
    pub fn unseen(&self) -> impl Iterator<Item = Lost> + '_ {
        self.acknowledged()
            .filter(|(n, _, _)| self.at(*n).is_some_and(|at| self.outcomes[at] & SEEN == 0))
            .map(|(n, id, acknowledged)| Lost { n, id, acknowledged, logged: None })
    }

    /// Every order whose outcome was acknowledged and is kept by the platform.
    pub fn acknowledged(&self) -> impl Iterator<Item = (u64, OrderId, Outcome)> + '_ {
        let numbers = 0..self.batches.len() as u64 * self.batch_orders;
        numbers.filter_map(|n| {
            let outcome = Outcome::from_byte(self.outcomes[self.at(n)?] & !SEEN)?;
            let kept = outcome.is_logged() || outcome == Outcome::AlreadyDone;
            let unix_ms = self.batches[(n / self.batch_orders) as usize].unix_ms;
            kept.then(|| (n, self.run.order_id(unix_ms, n), outcome))
        })
    }

    fn at(&self, n: u64) -> Option<usize> {
        let batch = self.batches.get((n / self.batch_orders) as usize)?;
        let start = batch.start.checked_sub(1)?;
        Some((start + n % self.batch_orders) as usize)
    }
}

/// The byte that is kept of an outcome.
fn kept(outcome: u8) -> u8 {
    if outcome == Outcome::Busy as u8 { UNCLEAR } else { outcome }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Lines;

    #[test]
    fn what_the_log_lacks_or_contradicts_is_lost() {
        let profile = Profile::new(10, 10, Lines::Mix, 1);
        let run = RunId::new(1);
        let (ok, sold_out) = (Outcome::Ok as u8, Outcome::SoldOut as u8);
        let mut acks = Acks::new(run, 3);
        acks.add(0, 5, Some(&[ok, sold_out, Outcome::AlreadyDone as u8]));
        let mut other = Acks::new(run, 3);
        other.add(2, 6, Some(&[ok, ok, ok]));
        other.add(1, 6, None);
        acks.merge(other);

        let mut check = |n: u64, ms, logged| {
            acks.check(&profile, profile.buyer(n), run.order_id(ms, n), logged)
        };
        assert_eq!(check(0, 5, Outcome::Ok), None);
        assert_eq!(check(1, 5, Outcome::Ok).map(|lost| lost.n), Some(1));
        assert_eq!(check(2, 5, Outcome::Ok), None);
        assert_eq!(check(3, 6, Outcome::Ok), None); // Unclear: either is right.
        assert_eq!(check(7, 6, Outcome::Ok), None);
        assert_eq!(acks.unseen().map(|lost| lost.n).collect::<Vec<_>>(), [6, 8]);
    }

    #[test]
    fn another_buyers_order_is_not_the_acknowledged_one() {
        let profile = Profile::new(1_000_000, 10, Lines::Mix, 1);
        let run = RunId::new(1);
        let mut acks = Acks::new(run, 1);
        acks.add(0, 5, Some(&[Outcome::Ok as u8]));
        let other = Party(profile.buyer(0).0 + 1);
        assert!(acks.check(&profile, other, run.order_id(5, 0), Outcome::Ok).is_some());
    }
}
