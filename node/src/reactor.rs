//! Submitting from a reactor: what its tasks have for a shard goes there together.
//!
//! A submission is put into the outbox of its reactor, which wakes the reactor's [`Courier`]. By
//! the time that it runs, behind all tasks that were ready before it, the others have put theirs
//! there, too. The courier hands all of it over as one parcel. On the way back it takes the
//! answers of a whole group and wakes their tasks, which is cheap, for they are on its thread.
//!
//! There is no timer, and nothing waits for more to come: a lone submission costs its task one
//! turn of the courier.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use model::record::CommandBuffer;
use model::reply::{List, Listed, Query, View};
use model::{Realm, Reply, ShardId};
use slab::Slab;
use tokio::sync::mpsc;

use crate::inbox::{Answer, Answered, Asked, Found, Message, Parcel, Return, ReturnTo};
use crate::{GroupHandle, Stages, SubmitError};

/// Submits to a shard from one reactor. The courier that belongs to it must run there.
pub struct LocalHandle {
    shard: GroupHandle,
    desk: Rc<Desk>,
}

/// Carries what a reactor submits to a shard, and the answers back.
pub struct Courier {
    desk: Rc<Desk>,
    parcels: mpsc::UnboundedSender<Parcel>,
    returns: mpsc::UnboundedReceiver<Return>,
}

impl GroupHandle {
    /// For a reactor that submits much: its submissions and their answers travel together. To be
    /// called once for each reactor; the courier is to be spawned on it, and ends after the
    /// handle is dropped.
    pub fn on_reactor(&self) -> (LocalHandle, Courier) {
        let (sender, returns) = mpsc::unbounded_channel();
        let desk = Rc::new(Desk { number: self.room.next_reactor(), ..Desk::default() });
        // A shard that has ended drops the sender, which the courier sees.
        let _ = self.parcels.send(Parcel::Reactor(desk.number, sender));
        let courier = Courier { desk: desk.clone(), parcels: self.parcels.clone(), returns };
        (LocalHandle { shard: self.clone(), desk }, courier)
    }
}

impl LocalHandle {
    /// Where the time of what is submitted is recorded.
    pub fn stages(&self) -> &Stages {
        self.shard.stages()
    }

    /// As [`GroupHandle::submit`].
    pub async fn submit(
        &self,
        commands: CommandBuffer,
        replies: Vec<Reply>,
    ) -> Result<Answer, SubmitError> {
        self.ask(Asked::commands(commands, replies))?.await.map(Found::answer)
    }

    /// As [`GroupHandle::query`].
    pub async fn query(
        &self,
        shard: ShardId,
        realm: Realm,
        query: Query,
    ) -> Result<View, SubmitError> {
        self.ask(Asked::Query(shard, realm, query))?.await.map(Found::view)
    }

    /// Reads a page of a shard's rows. What it shows is durable.
    pub async fn list(
        &self,
        shard: ShardId,
        realm: Realm,
        list: List,
    ) -> Result<Listed, SubmitError> {
        self.ask(Asked::List(shard, realm, list))?.await.map(Found::listed)
    }

    /// The group's own handle.
    pub fn group(&self) -> &GroupHandle {
        &self.shard
    }

    fn ask(&self, asked: Asked) -> Result<Waiting<'_>, SubmitError> {
        let desk = &*self.desk;
        if desk.is_stopped.get() {
            return Err(SubmitError::Stopped);
        }
        self.shard.room.enter(&asked)?;
        let waiter = desk.waiters.borrow_mut().insert(Waiter::Waiting(Waker::noop().clone()));
        let answer = ReturnTo::Reactor { reactor: desk.number, waiter };
        let mut outbox = desk.outbox.borrow_mut();
        outbox.push(Message { asked, answer });
        if outbox.len() == 1 {
            desk.wake_courier();
        }
        Ok(Waiting { desk, waiter, is_over: false })
    }
}

impl Drop for LocalHandle {
    fn drop(&mut self) {
        self.desk.is_left.set(true);
        self.desk.wake_courier();
    }
}

/// What tasks of a reactor and their courier share.
#[derive(Default)]
struct Desk {
    number: usize,
    outbox: RefCell<Vec<Message>>,
    waiters: RefCell<Slab<Waiter>>,
    courier: RefCell<Option<Waker>>,
    /// The shard has ended.
    is_stopped: Cell<bool>,
    /// The handle was dropped: nothing more is submitted.
    is_left: Cell<bool>,
}

/// A task that waits for its answer. Its number is taken until the answer has come, even when
/// the task went away, so that nobody else gets it.
enum Waiter {
    Waiting(Waker),
    Answered(Answered),
    Gone,
}

impl Desk {
    fn wake_courier(&self) {
        if let Some(courier) = &*self.courier.borrow() {
            courier.wake_by_ref();
        }
    }

    fn answer(&self, waiter: usize, answered: Answered) {
        let mut waiters = self.waiters.borrow_mut();
        match std::mem::replace(&mut waiters[waiter], Waiter::Answered(answered)) {
            Waiter::Waiting(task) => task.wake(),
            // What it asked for is done and remembered.
            Waiter::Gone => drop(waiters.remove(waiter)),
            Waiter::Answered(_) => unreachable!("a message is answered once"),
        }
    }

    /// Tells everybody that the shard has ended.
    fn stop(&self) {
        self.is_stopped.set(true);
        self.outbox.borrow_mut().clear();
        let waiting = |(number, waiter): (usize, &Waiter)| {
            (!matches!(waiter, Waiter::Answered(_))).then_some(number)
        };
        let waiting: Vec<usize> = self.waiters.borrow().iter().filter_map(waiting).collect();
        for waiter in waiting {
            self.answer(waiter, Err(SubmitError::Stopped));
        }
    }
}

/// Waits for the answer to a submission.
struct Waiting<'a> {
    desk: &'a Desk,
    waiter: usize,
    is_over: bool,
}

impl Future for Waiting<'_> {
    type Output = Answered;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answered> {
        let mut waiters = self.desk.waiters.borrow_mut();
        if let Waiter::Waiting(task) = &mut waiters[self.waiter] {
            task.clone_from(cx.waker());
            return Poll::Pending;
        }
        let Waiter::Answered(answered) = waiters.remove(self.waiter) else {
            unreachable!("nobody else says that the task is gone")
        };
        drop(waiters);
        self.is_over = true;
        Poll::Ready(answered)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let mut waiters = self.desk.waiters.borrow_mut();
        match &mut waiters[self.waiter] {
            Waiter::Answered(_) => drop(waiters.remove(self.waiter)),
            waiting => *waiting = Waiter::Gone,
        }
    }
}

/// What a courier has to do next.
enum Errand {
    Deliver(Return),
    Collect,
    /// The shard has ended.
    Stop,
    /// Nobody submits any more.
    Leave,
}

impl Courier {
    /// Carries until the handle is dropped or the shard has ended. What was submitted before is
    /// handed over.
    pub async fn run(mut self) {
        let mut spare_answers = Vec::new();
        loop {
            match poll_fn(|cx| self.next(cx)).await {
                Errand::Deliver((mut answers, messages)) => {
                    for (waiter, answered) in answers.drain(..) {
                        self.desk.answer(waiter, answered);
                    }
                    spare_answers = answers;
                    let mut outbox = self.desk.outbox.borrow_mut();
                    if outbox.capacity() == 0 {
                        *outbox = messages;
                    }
                }
                Errand::Collect => {
                    let messages = self.desk.outbox.take();
                    let answers = std::mem::take(&mut spare_answers);
                    // If the shard has ended, its sender says so.
                    let _ = self.parcels.send(Parcel::Batch(self.desk.number, messages, answers));
                }
                Errand::Stop => return self.desk.stop(),
                Errand::Leave => return,
            }
        }
    }

    fn next(&mut self, cx: &mut Context<'_>) -> Poll<Errand> {
        let returned = self.returns.poll_recv(cx);
        if let Poll::Ready(returned) = returned {
            return Poll::Ready(returned.map_or(Errand::Stop, Errand::Deliver));
        }
        if !self.desk.outbox.borrow().is_empty() {
            return Poll::Ready(Errand::Collect);
        }
        if self.desk.is_left.get() {
            return Poll::Ready(Errand::Leave);
        }
        *self.desk.courier.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}
