//! What was read and not taken yet, in the order in which it may be sent.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use crate::feed::Event;

/// The longest wait between two attempts.
pub(super) const BACKOFF_MAX: Duration = Duration::from_secs(8 * 60 * 60);

/// An event that wasn't taken yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Undone {
    pub(super) event: Event,
    /// How often it was tried.
    pub(super) attempts: u32,
    /// When it may be tried next, ms since 1970.
    pub(super) due_ms: u64,
    /// Why it wasn't taken last.
    pub(super) why: String,
}

impl Undone {
    /// One that may be tried at once.
    pub(super) fn new(event: Event) -> Undone {
        Undone { event, attempts: 0, due_ms: 0, why: String::new() }
    }
}

/// What is waited before the next attempt: doubled each time, and up to a fifth more or less by
/// chance, so that those who failed together don't come back together.
pub(super) fn backoff(first: Duration, attempts: u32, random: u64) -> Duration {
    let doubled = first.saturating_mul(1 << (attempts - 1).min(30)).min(BACKOFF_MAX);
    doubled * (800 + (random % 401) as u32) / 1_000
}

/// Events by number, in the order in which they came.
pub(super) struct Queue {
    undone: BTreeMap<u64, Undone>,
    /// Of their JSON.
    bytes: usize,
    next: u64,
    /// Those that may be sent when their time has come, and aren't on their way.
    due: BTreeSet<(u64, u64)>,
    /// By key, those that are there, if they are sent one after the other.
    of_key: Option<HashMap<String, VecDeque<u64>>>,
}

impl Queue {
    pub(super) fn new(in_order: bool) -> Queue {
        let of_key = in_order.then(HashMap::new);
        Queue { undone: BTreeMap::new(), bytes: 0, next: 0, due: BTreeSet::new(), of_key }
    }

    pub(super) fn len(&self) -> usize {
        self.undone.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.undone.is_empty()
    }

    /// In the order in which they came.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Undone> {
        self.undone.values()
    }

    pub(super) fn push(&mut self, undone: Undone) {
        let number = self.next;
        self.next += 1;
        let due = undone.due_ms;
        let mut is_first = true;
        if let Some(of_key) = &mut self.of_key {
            let line = of_key.entry(undone.event.key.clone()).or_default();
            is_first = line.is_empty();
            line.push_back(number);
        }
        self.bytes += undone.event.json.len();
        self.undone.insert(number, undone);
        if is_first {
            self.due.insert((due, number));
        }
    }

    /// When the next one may be sent, ms since 1970.
    pub(super) fn next_due(&self) -> Option<u64> {
        self.due.first().map(|(due, _)| *due)
    }

    /// One whose time has come. It is on its way from here on.
    pub(super) fn take(&mut self, now_ms: u64) -> Option<(u64, Event)> {
        let (due, number) = *self.due.first()?;
        if due > now_ms {
            return None;
        }
        self.due.pop_first();
        Some((number, self.undone[&number].event.clone()))
    }

    pub(super) fn get(&self, number: u64) -> Option<&Undone> {
        self.undone.get(&number)
    }

    pub(super) fn attempts(&self, number: u64) -> u32 {
        self.get(number).map_or(0, |undone| undone.attempts)
    }

    /// One that was on its way is over.
    pub(super) fn done(&mut self, number: u64) {
        let Some(Undone { event, .. }) = self.undone.remove(&number) else { return };
        self.bytes -= event.json.len();
        let Some(of_key) = &mut self.of_key else { return };
        let Some(line) = of_key.get_mut(&event.key) else { return };
        line.pop_front();
        match line.front() {
            Some(next) => drop(self.due.insert((self.undone[next].due_ms, *next))),
            None => drop(of_key.remove(&event.key)),
        }
    }

    /// One that was on its way is to be tried again.
    pub(super) fn again(&mut self, number: u64, due_ms: u64, why: String) {
        let Some(undone) = self.undone.get_mut(&number) else { return };
        undone.attempts += 1;
        (undone.due_ms, undone.why) = (due_ms, why);
        self.due.insert((due_ms, number));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(number: u64, key: u64) -> Undone {
        let (id, key) = (format!("0-{number}"), key.to_string());
        Undone::new(Event { id, key, json: "{}".to_string() })
    }

    #[test]
    fn waits_double_up_to_a_bound() {
        let first = Duration::from_secs(5);
        let wait = |attempts| backoff(first, attempts, 200);
        assert_eq!([1, 2, 3].map(wait), [5, 10, 20].map(Duration::from_secs));
        assert_eq!([30, 40, u32::MAX].map(wait), [BACKOFF_MAX; 3]);
        assert!(backoff(first, 1, 0) == first * 4 / 5 && backoff(first, 1, 400) == first * 6 / 5);
    }

    proptest! {
        /// Whatever fails how often: each is taken once, and of a key one after the other.
        #[test]
        fn each_is_taken_once_and_of_a_key_in_order(
            in_order: bool,
            keys in proptest::collection::vec(0u64..4, 1..60),
            fates in proptest::collection::vec(0u32..3, 60),
            at_once in 1usize..8,
        ) {
            let mut queue = Queue::new(in_order);
            (0..).zip(&keys).for_each(|(number, key)| queue.push(event(number, *key)));
            let (mut now, mut under_way, mut taken) = (0, VecDeque::new(), Vec::new());
            while !queue.is_empty() {
                while under_way.len() < at_once && let Some((number, event)) = queue.take(now) {
                    if in_order {
                        let is_alone = under_way.iter().all(|(_, other): &(u64, Event)| other.key != event.key);
                        prop_assert!(is_alone, "two of a key at once");
                    }
                    under_way.push_back((number, event));
                }
                let Some((number, event)) = under_way.pop_front() else {
                    let due = queue.next_due();
                    prop_assert!(due.is_some_and(|due| due > now), "nothing is ever due");
                    now = due.unwrap();
                    continue;
                };
                if queue.attempts(number) < fates[number as usize] {
                    queue.again(number, now + 3, String::new());
                } else {
                    queue.done(number);
                    taken.push((event.key, number));
                }
            }
            prop_assert_eq!((taken.len(), queue.bytes()), (keys.len(), 0));
            if in_order {
                let mut last = HashMap::new();
                for (key, number) in taken {
                    let before = last.insert(key, number);
                    prop_assert!(before.is_none_or(|before| before < number));
                }
            }
        }
    }
}
