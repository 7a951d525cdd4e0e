//! Clients: several connections to one platform, until it ends or they are done.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use loadgen::profile::Random;
use loadgen::{ClientError, Connection, Target};
use model::{OrderState, Outcome};

use crate::asks::{self, Ask};
use crate::book::{Answer, Answers, Book, Read, Seen};
use crate::platform::Platform;

/// No load may take longer.
const PATIENCE: Duration = Duration::from_secs(120);
/// Orders in a batch, at most.
const BATCH_MAX: u64 = 60;
/// Requests sent ahead of their answers, at most.
const AHEAD_MAX: u64 = 4;

/// In the answer to a command that was not decided in time, and that didn't happen.
const BUSY: &[u8] = br#""outcome":"busy""#;

/// How a platform is ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    Kill,
    Terminate,
    /// From here on no file may be written at or behind this position.
    LimitFiles(u64),
}

/// When.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum When {
    /// After so many answers.
    Answers(u64),
    /// After so much time.
    Time(Duration),
    Never,
}

/// One request.
pub enum Request {
    /// One command, by its own path.
    One(Ask),
    /// Commands of one kind, as a batch.
    Batch(Vec<Ask>),
    /// An order.
    Get(u64, u128),
}

/// What one connection does.
pub enum Work {
    /// These requests.
    Fixed(VecDeque<Request>),
    /// So many requests, drawn from the mix.
    Mix { random: Random, left: u64 },
}

/// A platform and its clients.
pub struct Load {
    pub platform: Rc<RefCell<Platform>>,
    target: Target,
    book: Rc<RefCell<Book>>,
    how: How,
    when: When,
    answers: Cell<u64>,
    /// Whether it was ended, or told to.
    pub struck: Cell<bool>,
}

impl Load {
    pub fn new(platform: Platform, book: &Rc<RefCell<Book>>, how: How, when: When) -> Rc<Load> {
        let target = platform.target.clone();
        let platform = Rc::new(RefCell::new(platform));
        let (answers, struck) = (Cell::new(0), Cell::new(false));
        Rc::new(Load { platform, target, book: book.clone(), how, when, answers, struck })
    }

    /// The same platform, to be ended as said.
    pub fn then(self: &Rc<Load>, how: How, when: When) -> Rc<Load> {
        Rc::new(Load {
            platform: self.platform.clone(),
            target: self.target.clone(),
            book: self.book.clone(),
            how,
            when,
            answers: Cell::new(0),
            struck: Cell::new(false),
        })
    }

    /// Runs every piece of work on a connection of its own. Afterwards the platform has been
    /// ended as it should be, or everything was answered.
    pub fn run(self: &Rc<Load>, work: Vec<Work>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let local = tokio::task::LocalSet::new();
        let run = async { tokio::time::timeout(PATIENCE, self.lanes(work)).await };
        let broke = local.block_on(&runtime, run).expect("a load ends in time");
        if let Some(why) = broke
            && !self.struck.get()
        {
            let mut platform = self.platform.borrow_mut();
            panic!(
                "a connection broke ({why}); the platform: {:?}\n{}",
                platform.ended(),
                platform.words()
            );
        }
    }

    /// Ends it now, unless that was done.
    pub fn strike(&self) {
        if self.struck.replace(true) {
            return;
        }
        let mut platform = self.platform.borrow_mut();
        match self.how {
            How::Kill => platform.kill(),
            How::Terminate => platform.terminate(),
            How::LimitFiles(bytes) => platform.limit_files(bytes),
        }
    }

    async fn lanes(self: &Rc<Load>, work: Vec<Work>) -> Option<String> {
        let load = self.clone();
        let timer = tokio::task::spawn_local(async move {
            if let When::Time(time) = load.when {
                tokio::time::sleep(time).await;
                load.strike();
            }
        });
        let lanes: Vec<_> = work
            .into_iter()
            .map(|work| tokio::task::spawn_local(self.clone().lane(work)))
            .collect();
        let mut broke = None;
        for lane in lanes {
            match lane.await {
                Ok(Ok(())) => {}
                Ok(Err(why)) => broke = Some(why),
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
        timer.abort();
        broke
    }

    async fn lane(self: Rc<Load>, mut work: Work) -> Result<(), String> {
        let text = |error: ClientError| error.to_string();
        let mut connection = Connection::open(&self.target).await.map_err(text)?;
        let mut ahead = VecDeque::new();
        let (mut head, mut body) = (Vec::new(), Vec::new());
        loop {
            let count = match &mut work {
                Work::Fixed(_) => 8,
                Work::Mix { random, .. } => 1 + random.below(AHEAD_MAX),
            };
            for _ in 0..count {
                let Some(request) = self.next(&mut work) else { break };
                self.write(&request, &mut head, &mut body);
                let known = match request {
                    Request::Get(buyer, order) => self.book.borrow().knows(buyer, order),
                    _ => false,
                };
                connection.send(&head, &body).await.map_err(text)?;
                ahead.push_back((request, known));
            }
            if ahead.is_empty() {
                return Ok(());
            }
            while let Some((request, known)) = ahead.pop_front() {
                let (status, answer) = connection.receive().await.map_err(text)?;
                let busy = status == 503 && answer.windows(BUSY.len()).any(|part| part == BUSY);
                if status >= 500 && !busy {
                    // Nothing is known of it: it stays unclear.
                    return Err(format!("{status}: {}", String::from_utf8_lossy(answer)));
                }
                self.note(&request, known, status, answer);
                self.answers.set(self.answers.get() + 1);
                if self.when == When::Answers(self.answers.get()) {
                    self.strike();
                }
            }
        }
    }

    fn next(&self, work: &mut Work) -> Option<Request> {
        match work {
            Work::Fixed(requests) => requests.pop_front(),
            Work::Mix { random, left } => {
                *left = left.checked_sub(1)?;
                Some(draw(random, &mut self.book.borrow_mut()))
            }
        }
    }

    /// Builds a request, and notes what it asks for.
    fn write(&self, request: &Request, head: &mut Vec<u8>, body: &mut Vec<u8>) {
        head.clear();
        body.clear();
        let mut book = self.book.borrow_mut();
        match request {
            Request::One(ask) => {
                book.sending(ask);
                body.extend_from_slice(ask.json().as_bytes());
                self.target.post(&ask.path(), body.len(), head);
            }
            Request::Batch(asks) => {
                let plural = asks[0].plural().expect("these go in batches");
                let parts: Vec<_> = asks.iter().map(Ask::json).collect();
                body.extend_from_slice(
                    format!("{{\"{plural}\":[{}]}}", parts.join(",")).as_bytes(),
                );
                asks.iter().for_each(|ask| book.sending(ask));
                self.target.post(&format!("/v1/{plural}/batch"), body.len(), head);
            }
            Request::Get(buyer, order) => {
                self.target.get(&asks::order_path(*buyer, *order), head);
            }
        }
    }

    fn note(&self, request: &Request, known: bool, status: u16, answer: &[u8]) {
        let wrong = || format!("status {status}: {}", String::from_utf8_lossy(answer));
        let one =
            || sonic_rs::from_slice::<Answer>(answer).unwrap_or_else(|_| panic!("{}", wrong()));
        let mut book = self.book.borrow_mut();
        match request {
            Request::One(ask) => book.answered(ask, &one()),
            Request::Batch(asks) => {
                let answers = sonic_rs::from_slice::<Answers>(answer);
                let answers = answers.unwrap_or_else(|_| panic!("{}", wrong())).results;
                assert_eq!(answers.len(), asks.len(), "{}", wrong());
                for (ask, answer) in asks.iter().zip(&answers) {
                    book.answered(ask, answer);
                }
            }
            &Request::Get(buyer, order) => {
                let seen = match status {
                    200 => {
                        let Answer { outcome, state, offset } = one();
                        Some(Seen {
                            outcome: Outcome::from_word(&outcome.unwrap()).unwrap(),
                            state: OrderState::from_word(&state.unwrap()).unwrap(),
                            offset: offset.unwrap(),
                        })
                    }
                    404 => None,
                    _ => panic!("{}", wrong()),
                };
                assert!(seen.is_some() || !known, "an answered order can't be read: {order:x}");
                book.reads.push(Read { buyer, order, seen });
            }
        }
    }
}

/// The mix.
fn draw(random: &mut Random, book: &mut Book) -> Request {
    let one = |ask| Request::One(ask);
    match random.below(20) {
        0..=5 => one(Ask::Place(asks::order(random, book.draw_id()))),
        6..=8 => {
            let count = 1 + random.below(BATCH_MAX);
            let order = |_| Ask::Place(asks::order(random, book.draw_id()));
            Request::Batch((0..count).map(order).collect())
        }
        9..=13 if !book.placed.is_empty() => {
            // Mostly one of the newest.
            let back = random.below(book.placed.len().min(40) as u64) as usize;
            let order = book.placed[book.placed.len() - 1 - back].clone();
            one(asks::change(random, &order, book.draw_id()))
        }
        14 => one(asks::restock(random, book.draw_id())),
        15 => one(asks::transfer(random, book.draw_id())),
        16 => {
            let count = 1 + random.below(BATCH_MAX);
            let transfer = |_| asks::transfer(random, book.draw_id());
            Request::Batch((0..count).map(transfer).collect())
        }
        // What was answered once is answered the same again.
        17 => match book.acknowledged_ask(random.next_u64()) {
            Some(ask) => one(ask),
            None => one(asks::restock(random, book.draw_id())),
        },
        _ if !book.sent_orders.is_empty() => {
            let back = random.below(book.sent_orders.len().min(60) as u64) as usize;
            let (buyer, order) = book.sent_orders[book.sent_orders.len() - 1 - back];
            Request::Get(buyer, order)
        }
        _ => one(Ask::Place(asks::order(random, book.draw_id()))),
    }
}

/// Requests for these commands: batches where there can be, in no way those of the first time.
pub fn requests(asks: Vec<Ask>, random: &mut Random) -> Vec<Request> {
    let mut requests: Vec<Request> = Vec::new();
    for ask in asks {
        match requests.last_mut() {
            Some(Request::Batch(batch))
                if ask.plural().is_some()
                    && batch[0].plural() == ask.plural()
                    && random.below(BATCH_MAX) > 0 =>
            {
                batch.push(ask);
            }
            _ if ask.plural().is_some() && random.below(2) == 0 => {
                requests.push(Request::Batch(vec![ask]));
            }
            _ => requests.push(Request::One(ask)),
        }
    }
    requests
}

/// Deals requests to connections.
pub fn deal(requests: Vec<Request>, connections: usize) -> Vec<Work> {
    let mut lanes: Vec<VecDeque<Request>> = (0..connections).map(|_| VecDeque::new()).collect();
    for (number, request) in requests.into_iter().enumerate() {
        lanes[number % connections].push_back(request);
    }
    lanes.into_iter().map(Work::Fixed).collect()
}

/// Connections that draw from the mix.
pub fn mix(random: &mut Random, connections: usize, requests: u64) -> Vec<Work> {
    let lane = |_| Work::Mix { random: Random(random.next_u64()), left: requests };
    (0..connections).map(lane).collect()
}
