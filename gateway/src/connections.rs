//! The open connections of a reactor: how many there may be, and how they are told to end.
//!
//! A connection's task is polled several times for every request. Besides its socket it looks at
//! plain cells only: whether the gateway is ending, and for how long it has been quiet. A channel
//! or a timer that is polled each time would take a lock or a few each time; instead, one task
//! goes round all connections and counts how often it found each of them quiet.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use slab::Slab;
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;

/// How far the gateway is on its way to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Not,
    /// Open requests end, and their connections with them.
    Drain,
    /// What is still open is cut.
    Cut,
}

/// Rounds in which a connection may stay quiet. It is found quiet for the first time at once, or
/// nearly a whole round later.
const ROUNDS: u32 = 5;

/// What a connection does, as far as others look at it.
#[derive(Default)]
pub(crate) struct Activity {
    /// Requests that are being handled.
    open: Cell<u32>,
    /// Rounds for which no request began and nothing was written.
    quiet: Cell<u32>,
}

impl Activity {
    /// A request is handled until this is dropped.
    #[inline]
    pub(crate) fn request(self: &Rc<Activity>) -> OpenRequest {
        self.open.set(self.open.get() + 1);
        OpenRequest(self.clone())
    }

    /// Something was written.
    #[inline]
    pub(crate) fn written(&self) {
        self.quiet.set(0);
    }
}

/// A request that is being handled.
pub(crate) struct OpenRequest(Rc<Activity>);

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0.quiet.set(0);
    }
}

/// The connections of one reactor.
pub(crate) struct Connections {
    ending: Cell<Ending>,
    /// The tasks that there are.
    tasks: RefCell<Slab<Task>>,
    /// A connection has ended. Awaited by the accepting task alone.
    ended: Notify,
}

struct Task {
    waker: Waker,
    activity: Rc<Activity>,
}

impl Connections {
    pub(crate) fn new() -> Rc<Connections> {
        Rc::new(Connections {
            ending: Cell::new(Ending::Not),
            tasks: RefCell::default(),
            ended: Notify::new(),
        })
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.tasks.borrow().len()
    }

    /// Waits until there are fewer than so many.
    pub(crate) async fn fewer_than(&self, most: usize) {
        while self.tasks.borrow().len() >= most {
            self.ended.notified().await;
        }
    }

    /// Takes a place among them. It counts from now on, until the place is dropped.
    pub(crate) fn enter(self: &Rc<Connections>) -> Place {
        let activity = Rc::new(Activity::default());
        let task = Task { waker: Waker::noop().clone(), activity: activity.clone() };
        let number = self.tasks.borrow_mut().insert(task);
        Place { connections: self.clone(), number, activity }
    }

    /// Ends connections that were quiet for `idle`, at most a quarter of that later.
    pub(crate) async fn end_idle(&self, idle: Duration) {
        let mut rounds = tokio::time::interval(idle / (ROUNDS - 1));
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            rounds.tick().await;
            for (_, task) in &*self.tasks.borrow() {
                let activity = &task.activity;
                if activity.open.get() == 0 {
                    activity.quiet.set(activity.quiet.get() + 1);
                    if activity.quiet.get() >= ROUNDS {
                        task.waker.wake_by_ref();
                    }
                }
            }
        }
    }

    /// Lets open requests end and cuts, after `drain`, what is still open. Says whether all
    /// ended by themselves.
    pub(crate) async fn end(&self, drain: Duration) -> bool {
        self.tell(Ending::Drain);
        let drained = tokio::time::timeout(drain, self.fewer_than(1)).await.is_ok();
        self.tell(Ending::Cut);
        self.fewer_than(1).await;
        drained
    }

    fn tell(&self, ending: Ending) {
        self.ending.set(ending);
        for (_, task) in &*self.tasks.borrow() {
            task.waker.wake_by_ref();
        }
    }
}

/// A connection that ends with its open requests when it is told to.
pub(crate) trait Graceful: Future {
    /// Takes no more requests.
    fn end(self: Pin<&mut Self>);
}

/// One connection's place.
pub(crate) struct Place {
    connections: Rc<Connections>,
    number: usize,
    pub(crate) activity: Rc<Activity>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.tasks.borrow_mut().remove(self.number);
        self.connections.ended.notify_one();
    }
}

impl Place {
    /// Serves a connection until it ends or is cut. One that is quiet for too long is told to
    /// end; one that is in the middle of a request's head doesn't listen, and is cut a round
    /// later.
    pub(crate) async fn serve(self, connection: impl Graceful) {
        let mut connection = pin!(connection);
        let mut told = false;
        poll_fn(|cx| {
            self.wake_with(cx);
            let (ending, quiet) = (self.connections.ending.get(), self.activity.quiet.get());
            if ending == Ending::Cut || quiet > ROUNDS {
                return Poll::Ready(());
            }
            if !told && (ending == Ending::Drain || quiet == ROUNDS) {
                told = true;
                connection.as_mut().end();
            }
            // A connection that breaks is its client's business.
            connection.as_mut().poll(cx).map(drop)
        })
        .await;
    }

    fn wake_with(&self, cx: &Context<'_>) {
        self.connections.tasks.borrow_mut()[self.number].waker.clone_from(cx.waker());
    }
}
