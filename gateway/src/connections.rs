//! The open connections of a reactor: how many there may be, and how they are told to end.
//!
//! A connection's task is polled several times for every request. Besides its socket it looks at
//! plain cells only: whether the gateway is ending, and, until its first request has begun, at the
//! time. A channel or a timer that is polled each time would take a lock or a few each time.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use hyper_util::server::graceful::GracefulConnection;
use slab::Slab;
use tokio::sync::Notify;

/// How far the gateway is on its way to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Not,
    /// Open requests end, and their connections with them.
    Drain,
    /// What is still open is cut.
    Cut,
}

/// The connections of one reactor.
pub(crate) struct Connections {
    ending: Cell<Ending>,
    /// What wakes the tasks that there are.
    tasks: RefCell<Slab<Waker>>,
    /// A connection has ended. Awaited by the accepting task alone.
    ended: Notify,
}

impl Connections {
    pub(crate) fn new() -> Rc<Connections> {
        Rc::new(Connections {
            ending: Cell::new(Ending::Not),
            tasks: RefCell::default(),
            ended: Notify::new(),
        })
    }

    /// Waits until there are fewer than so many.
    pub(crate) async fn fewer_than(&self, most: usize) {
        while self.tasks.borrow().len() >= most {
            self.ended.notified().await;
        }
    }

    /// Takes a place among them. It counts from now on, until the place is dropped.
    pub(crate) fn enter(self: &Rc<Connections>) -> Place {
        let number = self.tasks.borrow_mut().insert(Waker::noop().clone());
        Place { connections: self.clone(), number }
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
            task.wake_by_ref();
        }
    }
}

/// One connection's place.
pub(crate) struct Place {
    connections: Rc<Connections>,
    number: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.tasks.borrow_mut().remove(self.number);
        self.connections.ended.notify_one();
    }
}

impl Place {
    /// Serves a connection until it ends, is cut, or has been open for `idle` without a request:
    /// until it is known which version of HTTP it speaks, nobody else looks at the time. `begun`
    /// is set when the first request comes.
    pub(crate) async fn serve(
        self,
        connection: impl GracefulConnection,
        begun: Rc<Cell<bool>>,
        idle: Duration,
    ) {
        let mut connection = pin!(connection);
        let mut silence = pin!(Some(tokio::time::sleep(idle)));
        let mut told = false;
        poll_fn(|cx| {
            self.wake_with(cx);
            match self.connections.ending.get() {
                Ending::Not => {}
                Ending::Drain if told => {}
                Ending::Drain => {
                    told = true;
                    connection.as_mut().graceful_shutdown();
                }
                Ending::Cut => return Poll::Ready(()),
            }
            // A connection that breaks is its client's business.
            if connection.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            match silence.as_mut().as_pin_mut() {
                Some(silence) if !begun.get() => silence.poll(cx),
                Some(_) => {
                    silence.set(None);
                    Poll::Pending
                }
                None => Poll::Pending,
            }
        })
        .await;
    }

    fn wake_with(&self, cx: &Context<'_>) {
        self.connections.tasks.borrow_mut()[self.number].clone_from(cx.waker());
    }
}
