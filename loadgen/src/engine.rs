//! Sends what a [`Load`] makes, when a schedule says or as fast as answers come.
//!
//! **Open loop**: a request is due at its time whatever the target does, and latency counts from
//! then, so a stall shows in every request that it delayed. A request is made ahead of its time
//! and handed to a free connection when it is due; if none is free it waits, and that wait is
//! part of its latency. What the generator itself is late by is recorded apart
//! ([`Recorder::late`]): a run in which that is much says nothing about the target.
//!
//! **Closed loop**: a connection sends the next request when the answer is there. That finds out
//! what the target can do, and hides its stalls. It goes on for a time, or for so many requests.
//!
//! Each thread has its share of the connections and of the schedule: request *k* is thread
//! *k* mod threads'. Inside a thread nothing is locked. A [`queue`](crate::queue) knows what is
//! due, a pacing task hands it out, and a [`lane`](crate::lane) drives each connection.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, OnceLock};
use std::task::{Context, Waker};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::runtime::LocalOptions;
use tokio::sync::Notify;

use crate::lane::{self, Dialer};
use crate::pacer::Pacer;
use crate::queue::{Job, Queue};
use crate::recorder::Recorder;
use crate::schedule::Schedule;
use crate::target::Target;
use crate::wire::{Answer, Request, Tag};

/// When requests are due.
#[derive(Clone, PartialEq, Debug)]
pub enum Pace {
    /// As fast as answers come, for so long.
    Max(Duration),
    /// So many requests, as fast as answers come.
    Count(u64),
    /// On schedule.
    Schedule(Schedule),
}

impl Pace {
    /// How long requests fall due, at most.
    pub fn duration(&self) -> Duration {
        match self {
            Pace::Max(duration) => *duration,
            Pace::Count(_) => COUNT_MAX,
            Pace::Schedule(schedule) => schedule.duration(),
        }
    }
}

/// What is spoken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Protocol {
    /// HTTP/1.1, one request at a time on a connection.
    #[default]
    Http1,
    /// HTTP/2, by ALPN with TLS, by prior knowledge without.
    Http2 {
        /// Requests at a time on a connection, at least 1.
        streams: usize,
    },
    /// HTTP/3, over QUIC.
    Http3 {
        /// Requests at a time on a connection, at least 1.
        streams: usize,
    },
    /// `crest/1`, over QUIC: of a request only the body is sent, which is commands as bytes.
    Crest1 {
        /// Requests at a time on a connection, at least 1.
        streams: usize,
    },
}

/// How a load is sent.
#[derive(Clone)]
pub struct Plan {
    /// Where it goes.
    pub target: Target,
    /// What is spoken.
    pub protocol: Protocol,
    /// Who the target may be, with TLS and QUIC.
    pub trust: crate::tls::Trust,
    /// Open connections, at least 1.
    pub connections: usize,
    /// Threads that share them, at least 1 and not more than there are connections.
    pub threads: usize,
    /// When requests are due.
    pub pace: Pace,
    /// From one time that a thread sends what its schedule asks for to the next, at least: what
    /// falls due in between goes out together, late by no more than this. To wake up costs
    /// several times what it costs to send, and a schedule with fewer requests isn't touched by
    /// it. [`GRAIN`] unless there is a reason.
    pub grain: Duration,
    /// How long an answer is awaited.
    pub timeout: Duration,
    /// How long a request without an answer is sent again before it counts as failed.
    pub retry_for: Duration,
    /// Whether the load reads the answers' bodies.
    pub keep_bodies: bool,
    /// Set from outside to end the run early; what is under way is still answered.
    pub stop: Arc<AtomicBool>,
}

/// What is sent. One for each thread.
pub trait Load: Send + 'static {
    /// The kinds of requests that it makes. The first is what it is about.
    fn kinds(&self) -> &'static [&'static str];
    /// What the schedule's request `n` is.
    fn scheduled(&mut self, n: u64) -> Tag;
    /// Units in a request that are still to be decided.
    fn units(&self, request: &Request) -> u64;
    /// Makes a request. `request` is empty but for its tag, its time and the target's headers.
    fn build(&mut self, tag: Tag, request: &mut Request);
    /// Takes the answer.
    fn answered(
        &mut self,
        request: &mut Request,
        answer: Answer<'_>,
        recorder: &mut Recorder,
        follow_ups: &mut Vec<FollowUp>,
    ) -> Taken;
    /// No answer came that counts.
    fn failed(&mut self, _request: &Request) {}
}

/// A request that another one leads to.
#[derive(Clone, Copy, Debug)]
pub struct FollowUp {
    /// How long after the first was due.
    pub after: Duration,
    /// Which.
    pub tag: Tag,
}

/// What an answer was worth.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Taken {
    /// It says what became of every unit, and so many were done.
    Done {
        /// Units that were done as wished.
        accepted: u64,
    },
    /// Some of its units are decided. The request was made anew of the others, which
    /// [`Request::rest`] names, and is to be sent again.
    Partly {
        /// Units that were done as wished.
        accepted: u64,
        /// Why the others aren't.
        why: String,
    },
    /// Nothing is known: send it again.
    Again(String),
    /// It is wrong, and will stay so.
    Failed(String),
}

/// What came of a run.
pub struct Ran<L> {
    /// Counts and latencies.
    pub recorder: Recorder,
    /// The loads, with what they have gathered.
    pub loads: Vec<L>,
    /// From the first request to the last answer.
    pub elapsed: Duration,
    /// Whether it was stopped from outside.
    pub stopped: bool,
}

/// Units so far, for whoever watches.
#[derive(Default)]
pub struct Progress {
    /// Units that were done.
    pub accepted: AtomicU64,
    /// Units with any other answer, or none.
    pub refused: AtomicU64,
}

/// How long requests that are counted may take.
const COUNT_MAX: Duration = Duration::from_secs(60 * 60);
/// What fell due and could not be sent is given up so long after the end.
const OVERTIME: Duration = Duration::from_secs(30);
/// Requests made ahead of their time, by each thread.
const AHEAD: usize = 8;
/// How long requests are made ahead before everybody else has a turn. To give way costs a look
/// at every socket, and most requests are made in less than that takes.
const MAKING_MAX: Duration = Duration::from_micros(30);
/// Requests that a connection is given at a time, where that many are due and it takes them: they
/// go out in one write.
const TOGETHER: usize = 16;
/// How often timeouts are looked for.
const TICK: Duration = Duration::from_millis(50);
/// How long answers are awaited after a stop from outside.
const STOP_MAX: Duration = Duration::from_secs(5);
/// Bytes read at a time.
const READ_BYTES: usize = 256 << 10;

/// A quarter of a millisecond: a thread wakes for its schedule up to 4,000 times a second.
pub const GRAIN: Duration = Duration::from_micros(250);

/// Runs it. Blocks the calling thread. `load` makes the load of each thread.
pub fn run<L: Load>(
    plan: &Plan,
    mut load: impl FnMut(usize) -> L,
    progress: &Arc<Progress>,
) -> io::Result<Ran<L>> {
    let together = Arc::new(Together {
        next: AtomicU64::new(0),
        ready: Barrier::new(plan.threads),
        start: OnceLock::new(),
    });
    let threads: Vec<_> = (0..plan.threads)
        .map(|number| {
            let (plan, load) = (plan.clone(), load(number));
            let (together, progress) = (together.clone(), progress.clone());
            std::thread::Builder::new()
                .name(format!("crest-load-{number}"))
                .spawn(move || thread(plan, number, load, &together, progress))
        })
        .collect::<Result<_, _>>()?;
    let mut ran: Option<Ran<L>> = None;
    for thread in threads {
        let (recorder, load, elapsed) = thread.join().expect("a load thread doesn't panic")?;
        match &mut ran {
            None => {
                let stopped = plan.stop.load(Ordering::Relaxed);
                let loads = vec![load];
                ran = Some(Ran { recorder, loads, elapsed, stopped });
            }
            Some(ran) => {
                ran.recorder.merge(&recorder);
                ran.loads.push(load);
                ran.elapsed = ran.elapsed.max(elapsed);
            }
        }
    }
    Ok(ran.expect("there is at least one thread"))
}

/// What the threads of a run share.
struct Together {
    /// The next request of a closed loop.
    next: AtomicU64,
    ready: Barrier,
    start: OnceLock<Instant>,
}

/// One thread's part of a run.
fn thread<L: Load>(
    plan: Plan,
    number: usize,
    load: L,
    together: &Arc<Together>,
    progress: Arc<Progress>,
) -> io::Result<(Recorder, L, Duration)> {
    // Not a `LocalSet`: it writes to its own eventfd whenever an event wakes one of its tasks.
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = match builder.enable_all().build_local(LocalOptions::default()) {
        Ok(runtime) => runtime,
        Err(error) => {
            together.ready.wait(); // The others don't wait for this one forever.
            return Err(error);
        }
    };
    let share =
        plan.connections / plan.threads + usize::from(number < plan.connections % plan.threads);
    runtime.block_on(async {
        let dialer = Dialer::new(&plan).map(Rc::new);
        let opened = match &dialer {
            Ok(dialer) => lane::open_all(dialer, share).await,
            Err(_) => Vec::new(),
        };
        // Beside the runtime: open connections may have something to say while others open.
        let ready = together.clone();
        tokio::task::spawn_blocking(move || ready.ready.wait()).await.map_err(io::Error::other)?;
        let dialer = dialer?;
        let start = *together.start.get_or_init(Instant::now);

        let recorder = Recorder::new(load.kinds());
        let mut times = None;
        if let Pace::Schedule(schedule) = &plan.pace {
            let (number, threads) = (number as u64, plan.threads as u64);
            let mine = (0..).zip(schedule.times()).filter(move |(k, _)| k % threads == number);
            times = Some(Box::new(mine) as Box<dyn Iterator<Item = (u64, Duration)>>);
        }
        let crew = Rc::new(Crew {
            start,
            end: Cell::new(start + plan.pace.duration()),
            load: RefCell::new(load),
            recorder: RefCell::new(recorder),
            queue: RefCell::new(Queue::new(times, start)),
            free: RefCell::default(),
            posts: (0..share).map(|_| Post::default()).collect(),
            under_way: Cell::new(0),
            armed: Cell::new(start),
            nudge: Notify::new(),
            finished: Cell::new(false),
            finish: Notify::new(),
            scratch: RefCell::new(vec![0; READ_BYTES]),
            follow_ups: RefCell::default(),
            together: together.clone(),
            plan,
            progress,
        });
        crew.recorder.borrow_mut().connects = opened.iter().flatten().count() as u64;
        let lanes: Vec<_> = opened
            .into_iter()
            .enumerate()
            .map(|(number, open)| {
                tokio::task::spawn_local(lane::run(crew.clone(), dialer.clone(), number, open))
            })
            .collect();
        crew.pace().await?;
        // Answers may be there before the time is over; that makes the rate no higher.
        let elapsed = start.elapsed().max(crew.end.get() - start);
        for lane in lanes {
            lane.await.expect("a lane doesn't panic");
        }
        crew.fail_rest();
        dialer.close().await;
        let Ok(crew) = Rc::try_unwrap(crew) else { unreachable!("the lanes have ended") };
        Ok((crew.recorder.into_inner(), crew.load.into_inner(), elapsed))
    })
}

/// What a thread's lanes and its pacing task share.
pub(crate) struct Crew<L> {
    pub(crate) plan: Plan,
    progress: Arc<Progress>,
    together: Arc<Together>,
    start: Instant,
    end: Cell<Instant>,
    load: RefCell<L>,
    recorder: RefCell<Recorder>,
    queue: RefCell<Queue>,
    /// Lanes that have room and nothing to send, the longest free first.
    free: RefCell<VecDeque<usize>>,
    pub(crate) posts: Vec<Post>,
    /// Requests sent and not answered.
    under_way: Cell<usize>,
    /// Until when the pacing task sleeps.
    armed: Cell<Instant>,
    nudge: Notify,
    finished: Cell<bool>,
    finish: Notify,
    /// What lanes read into, one after the other.
    pub(crate) scratch: RefCell<Vec<u8>>,
    follow_ups: RefCell<Vec<FollowUp>>,
}

/// Where a lane gets its jobs.
#[derive(Default)]
pub(crate) struct Post {
    jobs: RefCell<VecDeque<Job>>,
    waker: RefCell<Option<Waker>>,
    /// How many more requests it can have under way.
    pub(crate) room: Cell<usize>,
    is_free: Cell<bool>,
    /// When timeouts were last to be looked for.
    pub(crate) look: Cell<bool>,
}

impl Post {
    /// The next job that it was given.
    pub(crate) fn given(&self) -> Option<Job> {
        self.jobs.borrow_mut().pop_front()
    }

    /// The task that polls with this is woken for its jobs.
    pub(crate) fn watch(&self, cx: &Context<'_>) {
        match &mut *self.waker.borrow_mut() {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}

impl<L: Load> Crew<L> {
    /// Hands out what falls due until there is nothing left to do.
    async fn pace(&self) -> io::Result<()> {
        let pacer = Pacer::new()?;
        let closed = !matches!(self.plan.pace, Pace::Schedule(_));
        let mut looked = self.start;
        let mut gave_way = self.start;
        let mut handed_out = self.start;
        loop {
            let now = Instant::now();
            if self.plan.stop.load(Ordering::Relaxed) && now < self.end.get() {
                self.end.set(now);
                self.queue.borrow_mut().cut(now);
            }
            if now >= looked + TICK {
                looked = now;
                for post in &self.posts {
                    post.look.set(true);
                    post.wake();
                }
                self.give_up(now);
            }
            if self.hand_out(now) {
                handed_out = now;
            }
            if self.is_done(now, closed) {
                break;
            }
            if let Some(scheduled) = self.next_to_build(now) {
                self.build_ahead(scheduled);
                if now >= gave_way + MAKING_MAX {
                    tokio::task::yield_now().await;
                    gave_way = Instant::now();
                }
                continue;
            }
            let due = self.queue.borrow().next_due();
            let mut until = looked + TICK;
            // With no lane free there is nobody to hand it to: a lane that gets free looks itself.
            if !self.free.borrow().is_empty() {
                until = due.map_or(until, |due| until.min(due.max(handed_out + self.plan.grain)));
            }
            self.armed.set(until);
            tokio::select! {
                waited = pacer.wait_until(until) => waited?,
                () = self.nudge.notified() => {}
            }
            gave_way = Instant::now();
        }
        self.finished.set(true);
        self.finish.notify_waiters();
        self.posts.iter().for_each(Post::wake);
        Ok(())
    }

    /// What of the schedule can be made now without making another request late.
    fn next_to_build(&self, now: Instant) -> Option<(u64, Instant)> {
        let mut queue = self.queue.borrow_mut();
        let is_idle = queue.next_due().is_none_or(|due| due > now) || self.free.borrow().is_empty();
        if is_idle && queue.needs_more(AHEAD) { queue.next_scheduled() } else { None }
    }

    fn build_ahead(&self, (n, due): (u64, Instant)) {
        let tag = self.load.borrow_mut().scheduled(n);
        let job = self.build(tag, due);
        self.queue.borrow_mut().add_ahead(job);
    }

    fn build(&self, tag: Tag, due: Instant) -> Job {
        let mut request = self.queue.borrow_mut().spare();
        request.clear();
        request.tag = tag;
        request.unix_ms = unix_ms();
        request.headers.extend_from_slice(self.plan.target.headers.as_bytes());
        self.load.borrow_mut().build(tag, &mut request);
        Job { request, due, sent: due, first_sent: None }
    }

    /// Gives what is due to lanes that are free, [`TOGETHER`] to each where it takes as many.
    /// Returns whether there was anything.
    fn hand_out(&self, now: Instant) -> bool {
        let mut any = false;
        while !self.free.borrow().is_empty() {
            let Some(job) = self.pop_due(now) else { break };
            let Some(lane) = self.pop_free() else {
                self.queue.borrow_mut().put_back(job);
                break;
            };
            any = true;
            let post = &self.posts[lane];
            let mut jobs = post.jobs.borrow_mut();
            // It may not have come to send what it was given before.
            let room = post.room.get().saturating_sub(jobs.len());
            jobs.push_back(job);
            for _ in 1..TOGETHER.min(room) {
                let Some(job) = self.pop_due(now) else { break };
                jobs.push_back(job);
            }
            let takes_more = post.room.get() > jobs.len();
            drop(jobs);
            if takes_more {
                // To the end of the line.
                self.is_free(lane);
            }
            post.wake();
        }
        any
    }

    /// The lane that has been free the longest.
    fn pop_free(&self) -> Option<usize> {
        let lane = self.free.borrow_mut().pop_front()?;
        self.posts[lane].is_free.set(false);
        Some(lane)
    }

    /// The next job that is due now.
    fn pop_due(&self, now: Instant) -> Option<Job> {
        let what = self.queue.borrow_mut().pop_due(now)?;
        Some(match what {
            crate::queue::Due::Job(job) => job,
            crate::queue::Due::Scheduled(n, due) => {
                let tag = self.load.borrow_mut().scheduled(n);
                self.build(tag, due)
            }
            crate::queue::Due::FollowUp(tag, due) => self.build(tag, due),
        })
    }

    /// A lane that has room asks for more. What the schedule has for lanes that are free already
    /// is handed out, together, when it is time.
    pub(crate) fn take(&self, now: Instant) -> Option<Job> {
        let on_schedule = matches!(self.plan.pace, Pace::Schedule(_));
        if on_schedule && !self.free.borrow().is_empty() {
            return None;
        }
        if let Some(job) = self.pop_due(now) {
            return Some(job);
        }
        if on_schedule || now >= self.end.get() {
            return None;
        }
        let n = self.together.next.fetch_add(1, Ordering::Relaxed);
        if let Pace::Count(requests) = self.plan.pace
            && n >= requests
        {
            self.end.set(now);
            return None;
        }
        let tag = self.load.borrow_mut().scheduled(n);
        Some(self.build(tag, now))
    }

    /// A lane has room and nothing to send.
    pub(crate) fn is_free(&self, lane: usize) {
        if self.posts[lane].is_free.replace(true) {
            return;
        }
        let was_none = self.free.borrow().is_empty();
        self.free.borrow_mut().push_back(lane);
        let queue = self.queue.borrow();
        let over = self.under_way.get() == 0 && queue.is_empty();
        let awaited = was_none && queue.next_due().is_some_and(|due| due < self.armed.get());
        if over || awaited {
            self.nudge.notify_one();
        }
    }

    /// A lane lost its connection, or sends nothing more on it: what it was given is for others.
    pub(crate) fn is_gone(&self, lane: usize) {
        if self.posts[lane].is_free.replace(false) {
            self.free.borrow_mut().retain(|&free| free != lane);
        }
        self.posts[lane].room.set(0);
        while let Some(job) = self.posts[lane].given() {
            self.put_back(job);
        }
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.finished.get()
    }

    /// Waits until it is finished. It must not be yet.
    pub(crate) async fn finish(&self) {
        self.finish.notified().await;
    }

    /// A job is on its way. `free_at`: since when the lane had room.
    pub(crate) fn sent(&self, job: &mut Job, now: Instant, free_at: Instant) {
        self.under_way.set(self.under_way.get() + 1);
        job.sent = now;
        let first = job.first_sent.is_none();
        job.first_sent.get_or_insert(now);
        let mut recorder = self.recorder.borrow_mut();
        if first {
            let tag = job.request.tag;
            let units = self.load.borrow().units(&job.request);
            recorder.kinds[usize::from(tag.kind)].offered += units;
            if let Pace::Schedule(_) = self.plan.pace {
                let ready = job.due.max(free_at);
                // A lane may be a moment younger than the start.
                recorder.waited += u64::from(ready > job.due + self.plan.grain);
                let late = now.saturating_duration_since(ready);
                recorder.late.saturating_record(late.as_nanos() as u64);
            }
        }
    }

    /// A job has its answer.
    pub(crate) fn answered(&self, mut job: Job, answer: Answer<'_>, now: Instant) {
        self.under_way.set(self.under_way.get() - 1);
        let mut load = self.load.borrow_mut();
        let mut recorder = self.recorder.borrow_mut();
        let mut follow_ups = self.follow_ups.borrow_mut();
        *recorder.statuses.entry(answer.status).or_default() += 1;
        recorder.body_bytes += answer.body_bytes;
        let (kind, asked) = (job.request.tag.kind, load.units(&job.request));
        let taken = load.answered(&mut job.request, answer, &mut recorder, &mut follow_ups);
        if let Taken::Done { accepted } | Taken::Partly { accepted, .. } = taken {
            let left = if let Taken::Done { .. } = taken { 0 } else { load.units(&job.request) };
            let units = asked - left;
            let (latency, elapsed) = (now - job.due, now - self.start);
            recorder.answered(kind, units, accepted, latency, elapsed);
            self.progress.accepted.fetch_add(accepted, Ordering::Relaxed);
            self.progress.refused.fetch_add(units - accepted, Ordering::Relaxed);
            let mut queue = self.queue.borrow_mut();
            for follow_up in follow_ups.drain(..) {
                let due = job.due + follow_up.after;
                // What leads to it must have happened.
                queue.add_follow_up(follow_up.tag, due.max(now));
                if due < self.armed.get() {
                    self.nudge.notify_one();
                }
            }
        }
        match taken {
            Taken::Done { .. } => self.queue.borrow_mut().give_back(job.request),
            Taken::Partly { why, .. } => {
                drop((load, recorder, follow_ups));
                self.again(job, &why, now);
            }
            Taken::Again(why) => {
                drop((load, recorder, follow_ups));
                self.again(job, &why, now);
            }
            Taken::Failed(why) => {
                drop((load, recorder, follow_ups));
                self.failed(job, &why, now);
            }
        }
    }

    /// A job that was sent has no answer and won't get one.
    pub(crate) fn broken(&self, job: Job, why: &str, now: Instant) {
        self.under_way.set(self.under_way.get() - 1);
        self.again(job, why, now);
    }

    /// A job that no connection could be opened for.
    pub(crate) fn unsendable(&self, mut job: Job, why: &str) {
        let now = Instant::now();
        let due = job.due;
        self.sent(&mut job, now, due);
        self.broken(job, why, now);
    }

    /// A job that was given to a lane and not sent.
    pub(crate) fn put_back(&self, job: Job) {
        self.queue.borrow_mut().put_back(job);
        self.nudge.notify_one();
    }

    /// A job that was sent, and that the other side says it did not begin.
    pub(crate) fn unsent(&self, job: Job) {
        self.under_way.set(self.under_way.get() - 1);
        self.put_back(job);
    }

    fn again(&self, job: Job, why: &str, now: Instant) {
        let give_up = job.first_sent.unwrap_or(now) + self.plan.retry_for;
        if now >= give_up || self.is_finished() {
            return self.failed(job, why, now);
        }
        self.recorder.borrow_mut().retries += 1;
        self.queue.borrow_mut().add_retry(job, now);
    }

    /// A job fails for good.
    pub(crate) fn failed(&self, job: Job, why: &str, now: Instant) {
        let mut load = self.load.borrow_mut();
        let mut recorder = self.recorder.borrow_mut();
        let tag = job.request.tag;
        let units = load.units(&job.request);
        if job.first_sent.is_none() {
            recorder.kinds[usize::from(tag.kind)].offered += units;
        }
        recorder.failed(tag.kind, units, why, now - self.start);
        self.progress.refused.fetch_add(units, Ordering::Relaxed);
        load.failed(&job.request);
        self.queue.borrow_mut().give_back(job.request);
    }

    /// A connection was opened after a break.
    pub(crate) fn connected(&self) {
        self.recorder.borrow_mut().connects += 1;
    }

    /// What fell due long ago is not sent any more.
    fn give_up(&self, now: Instant) {
        let end = self.end.get();
        if now >= end {
            let left_out = self.queue.borrow_mut().cut_follow_ups(end);
            self.recorder.borrow_mut().left_out += left_out;
        }
        let stopped = self.plan.stop.load(Ordering::Relaxed);
        let overtime = if stopped { STOP_MAX } else { OVERTIME };
        if now > end + overtime {
            while let Some(job) = self.pop_due(now) {
                self.failed(job, "never sent: every connection was busy", now);
            }
        }
    }

    /// After the end: what is left because the run was stopped counts as failed.
    fn fail_rest(&self) {
        let (now, end) = (Instant::now(), self.end.get());
        self.queue.borrow_mut().cut(end);
        self.recorder.borrow_mut().left_out += self.queue.borrow_mut().cut_follow_ups(end);
        // Also what would be sent again in a moment.
        while let Some(job) = self.pop_due(now + OVERTIME) {
            self.failed(job, "the run was stopped", now);
        }
    }

    fn is_done(&self, now: Instant, closed: bool) -> bool {
        let end = self.end.get();
        if self.plan.stop.load(Ordering::Relaxed) && now > end + STOP_MAX {
            return true;
        }
        let over = if closed { now >= end } else { true };
        let waiting = self.posts.iter().any(|post| !post.jobs.borrow().is_empty());
        over && self.under_way.get() == 0 && self.queue.borrow().is_empty() && !waiting
    }
}

/// Milliseconds since 1970, for ids.
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}
