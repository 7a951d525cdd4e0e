//! What a thread has to send: its part of the schedule, requests made ahead, follow-ups, and
//! requests to be sent again. In the order in which they are due.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use crate::wire::{Request, Tag};

/// Between two attempts.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// Requests kept to be used again.
const SPARE_MAX: usize = 1024;
/// A larger one is not kept: its memory was for one giant body.
const SPARE_BYTES_MAX: usize = 1 << 20;

/// A request and its times.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) request: Request,
    /// From when its latency counts.
    pub(crate) due: Instant,
    /// The last time it was sent.
    pub(crate) sent: Instant,
    pub(crate) first_sent: Option<Instant>,
}

/// Something that is due.
pub(crate) enum Due {
    /// Made already.
    Job(Job),
    /// The schedule's request of this number.
    Scheduled(u64, Instant),
    /// To be made.
    FollowUp(Tag, Instant),
}

/// What is due some time after something else happened.
enum Later {
    FollowUp(Tag),
    Retry(Job),
}

/// Ordered by time, then by when it was added.
struct At {
    time: Instant,
    order: u64,
    what: Later,
}

impl PartialEq for At {
    fn eq(&self, other: &At) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for At {}

impl PartialOrd for At {
    fn partial_cmp(&self, other: &At) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for At {
    fn cmp(&self, other: &At) -> std::cmp::Ordering {
        (self.time, self.order).cmp(&(other.time, other.order))
    }
}

pub(crate) struct Queue {
    start: Instant,
    times: Option<Box<dyn Iterator<Item = (u64, Duration)>>>,
    /// The schedule's next, not made yet.
    next: Option<(u64, Instant)>,
    ahead: VecDeque<Job>,
    later: BinaryHeap<Reverse<At>>,
    added: u64,
    spare: Vec<Request>,
}

impl Queue {
    /// `times` of this thread's requests and their numbers, from `start` on.
    pub(crate) fn new(
        times: Option<Box<dyn Iterator<Item = (u64, Duration)>>>,
        start: Instant,
    ) -> Queue {
        let mut queue = Queue {
            start,
            times,
            next: None,
            ahead: VecDeque::new(),
            later: BinaryHeap::new(),
            added: 0,
            spare: Vec::new(),
        };
        queue.advance();
        queue
    }

    fn advance(&mut self) {
        let next = self.times.as_mut().and_then(Iterator::next);
        self.next = next.map(|(n, after)| (n, self.start + after));
    }

    /// Whether there is more to make ahead.
    pub(crate) fn needs_more(&self, ahead: usize) -> bool {
        self.next.is_some() && self.ahead.len() < ahead
    }

    /// Takes the schedule's next, to make it ahead.
    pub(crate) fn next_scheduled(&mut self) -> Option<(u64, Instant)> {
        let next = self.next.take();
        self.advance();
        next
    }

    pub(crate) fn add_ahead(&mut self, job: Job) {
        self.ahead.push_back(job);
    }

    /// When something is due next.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let scheduled = self.ahead.front().map(|job| job.due).or(self.next.map(|(_, due)| due));
        let later = self.later.peek().map(|Reverse(at)| at.time);
        match (scheduled, later) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Takes what is due the longest, if anything is due.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<Due> {
        let due = self.next_due()?;
        if due > now {
            return None;
        }
        if self.later.peek().is_some_and(|Reverse(at)| at.time == due) {
            let Reverse(at) = self.later.pop()?;
            return Some(match at.what {
                Later::FollowUp(tag) => Due::FollowUp(tag, at.time),
                Later::Retry(job) => Due::Job(job),
            });
        }
        if let Some(job) = self.ahead.pop_front() {
            return Some(Due::Job(job));
        }
        let (n, due) = self.next_scheduled()?;
        Some(Due::Scheduled(n, due))
    }

    /// What could not be handed out after all.
    pub(crate) fn put_back(&mut self, job: Job) {
        let time = job.due;
        self.add(time, Later::Retry(job));
    }

    pub(crate) fn add_follow_up(&mut self, tag: Tag, due: Instant) {
        self.add(due, Later::FollowUp(tag));
    }

    pub(crate) fn add_retry(&mut self, job: Job, now: Instant) {
        self.add(now + RETRY_PAUSE, Later::Retry(job));
    }

    fn add(&mut self, time: Instant, what: Later) {
        self.added += 1;
        self.later.push(Reverse(At { time, order: self.added, what }));
    }

    /// Forgets what the schedule has after `end`.
    pub(crate) fn cut(&mut self, end: Instant) {
        self.ahead.retain(|job| job.due <= end);
        let start = self.start;
        if let Some(times) = self.times.take() {
            self.times = Some(Box::new(times.take_while(move |(_, after)| start + *after <= end)));
        }
        if self.next.is_some_and(|(_, due)| due > end) {
            self.next = None;
            self.times = None;
        }
    }

    /// Forgets follow-ups that are due after `end`; how many.
    pub(crate) fn cut_follow_ups(&mut self, end: Instant) -> u64 {
        let before = self.later.len();
        self.later.retain(|Reverse(at)| matches!(at.what, Later::Retry(_)) || at.time <= end);
        (before - self.later.len()) as u64
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.next.is_none() && self.ahead.is_empty() && self.later.is_empty()
    }

    /// A request to be filled; used before, if there is one.
    pub(crate) fn spare(&mut self) -> Request {
        self.spare.pop().unwrap_or_default()
    }

    pub(crate) fn give_back(&mut self, request: Request) {
        if self.spare.len() < SPARE_MAX && request.body.capacity() <= SPARE_BYTES_MAX {
            self.spare.push(request);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_comes_in_its_order() {
        let start = Instant::now();
        let ms = |ms| start + Duration::from_millis(ms);
        let times = [(0, 10), (1, 20), (2, 30)].map(|(n, at)| (n, Duration::from_millis(at)));
        let mut queue = Queue::new(Some(Box::new(times.into_iter())), start);
        queue.add_follow_up(Tag { kind: 1, n: 7 }, ms(15));
        queue.add_follow_up(Tag { kind: 1, n: 8 }, ms(90));
        let mut pop = |now| match queue.pop_due(ms(now)) {
            Some(Due::Scheduled(n, due)) => format!("{n} at {:?}", due - start),
            Some(Due::FollowUp(tag, due)) => format!("f{} at {:?}", tag.n, due - start),
            Some(Due::Job(_)) => "job".to_string(),
            None => "-".to_string(),
        };
        assert_eq!(pop(9), "-");
        assert_eq!(pop(25), "0 at 10ms");
        assert_eq!(pop(25), "f7 at 15ms");
        assert_eq!(pop(25), "1 at 20ms");
        assert_eq!(pop(25), "-");
        queue.cut(ms(25));
        assert_eq!(queue.cut_follow_ups(ms(25)), 1);
        assert!(queue.is_empty());
    }
}
