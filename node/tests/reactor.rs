//! What a reactor submits travels together, and still everybody gets the own answer, within the
//! bounds of the inbox, also when others went away or the shard has stopped.

// What a test does not expect is a failure.
#![allow(clippy::unwrap_used)]

use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use model::record::{CommandBuffer, Sale};
use model::reply::{Query, View};
use model::{
    Amount, Currency, ItemId, OrderId, Outcome, Party, PaymentMethod, Quantity, Realm, ShardId,
};
use mq::MemoryLog;
use node::{GroupHandle, GroupTask, LogThread, Placement, SubmitError, open_log};
use tokio::runtime::LocalOptions;
use tokio::task::{spawn_local, yield_now};

const GBP: Currency = Currency::GBP;

fn opened() -> (GroupTask, GroupHandle, LogThread) {
    let mut opened = open_log(MemoryLog::new(), |_| Ok(()), Placement::new(1, 1, 7)).unwrap();
    (opened.tasks.remove(0), opened.handles.remove(0).1, opened.log)
}

fn on_reactor<T>(future: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build_local(LocalOptions::default()).unwrap().block_on(future)
}

/// One item, with stock that doesn't run out, and one buyer with money.
fn world() -> CommandBuffer {
    let mut commands = CommandBuffer::default();
    commands.create_item(ItemId(1), Party(1000), GBP, Amount(10), 1_000_000_000, Sale::default());
    commands.create_account(Party(1), GBP, Amount(1_000_000_000));
    commands
}

/// An order whose quantity, and with it its total, follows from its id.
fn order(id: u32) -> CommandBuffer {
    let mut commands = CommandBuffer::default();
    let mut place = commands.place();
    place.line(ItemId(1), Quantity(id % 100 + 1), None);
    place.finish(Party(1), OrderId(id.into()), GBP, PaymentMethod::Balance);
    commands
}

fn total(id: u32) -> Amount {
    Amount(10 * u64::from(id % 100 + 1))
}

fn poll_once<F: Future>(future: Pin<&mut F>) -> Option<F::Output> {
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

async fn outcome(handle: &GroupHandle, commands: CommandBuffer) -> Outcome {
    handle.submit(commands, Vec::new()).await.unwrap().replies[0].outcome
}

#[test]
fn everybody_gets_the_own_answer() {
    on_reactor(async {
        let (task, handle, log) = opened();
        let (local, courier) = handle.on_reactor();
        drop(handle);
        let (shard, courier) = (spawn_local(task.run()), spawn_local(courier.run()));
        local.submit(world(), Vec::new()).await.unwrap();
        let local = std::rc::Rc::new(local);
        let buyers = (0..50).map(|buyer| {
            let local = local.clone();
            spawn_local(async move {
                for id in (buyer..2_000).step_by(50) {
                    if id % 7 == 3 {
                        // This one goes away, before or after its order has left the outbox.
                        let mut submitted = Box::pin(local.submit(order(id), Vec::new()));
                        assert!(poll_once(submitted.as_mut()).is_none());
                        for _ in 0..id % 4 {
                            yield_now().await;
                        }
                        continue;
                    }
                    let answer = local.submit(order(id), Vec::new()).await.unwrap();
                    assert_eq!(answer.commands.bytes(), order(id).bytes());
                    assert_eq!(answer.replies.len(), 1);
                    let reply = answer.replies[0];
                    assert_eq!((reply.outcome, reply.amount), (Outcome::Ok, total(id)));
                }
            })
        });
        for buyer in buyers.collect::<Vec<_>>() {
            buyer.await.unwrap();
        }
        let View::Item(item) =
            local.query(ShardId(0), Realm::Live, Query::Item(ItemId(1))).await.unwrap()
        else {
            panic!("the item is there");
        };
        // Those of the ones that went away count.
        assert_eq!(item.sold, (0..2_000u32).map(|id| u64::from(id % 100 + 1)).sum::<u64>());
        drop(local);
        courier.await.unwrap();
        shard.await.unwrap().unwrap();
        assert!(log.join().failed.is_none());
    });
}

#[test]
fn a_full_inbox_refuses() {
    on_reactor(async {
        let (task, handle, log) = opened();
        let inbox = handle.inbox();
        let (local, courier) = handle.on_reactor();
        let courier = spawn_local(courier.run());
        // Nobody takes anything up as long as the shard doesn't run. Some is on its way, some in
        // the outbox.
        let mut waiting = Vec::new();
        let refused = loop {
            let id = waiting.len() as u32;
            let commands = if id == 0 { world() } else { order(id) };
            let mut submitted = Box::pin(local.submit(commands, Vec::new()));
            match poll_once(submitted.as_mut()) {
                None => waiting.push(submitted),
                Some(answer) => break answer.err(),
            }
            if id % 1_000 == 999 {
                yield_now().await;
            }
        };
        assert!(matches!(refused, Some(SubmitError::Overloaded(_))), "{refused:?}");
        assert_eq!((waiting.len(), inbox.messages()), (16_384, 16_384));
        let refused = handle.query(ShardId(0), Realm::Live, Query::Item(ItemId(1))).await;
        assert!(matches!(refused, Err(SubmitError::Overloaded(_))), "for everybody");

        let shard = spawn_local(task.run());
        for submitted in waiting {
            assert!(submitted.await.unwrap().replies[0].outcome.is_done());
        }
        assert_eq!((inbox.messages(), inbox.bytes()), (0, 0));
        assert_eq!(outcome(&handle, order(16_384)).await, Outcome::Ok, "not done already");
        drop((local, handle));
        courier.await.unwrap();
        shard.await.unwrap().unwrap();
        assert!(log.join().failed.is_none());
    });
}

#[test]
fn what_was_submitted_before_the_handle_is_dropped_is_done() {
    on_reactor(async {
        let (task, handle, log) = opened();
        let (local, courier) = handle.on_reactor();
        for commands in [world(), order(1)] {
            assert!(poll_once(pin!(local.submit(commands, Vec::new()))).is_none());
        }
        drop(local);
        let (courier, shard) = (spawn_local(courier.run()), spawn_local(task.run()));
        courier.await.unwrap();
        assert_eq!(outcome(&handle, order(1)).await, Outcome::AlreadyDone);
        drop(handle);
        shard.await.unwrap().unwrap();
        assert!(log.join().failed.is_none());
    });
}

#[test]
fn a_shard_that_stopped_says_so() {
    on_reactor(async {
        let (task, handle, log) = opened();
        let (local, courier) = handle.on_reactor();
        let inbox = handle.inbox();
        let courier = spawn_local(courier.run());
        // One is on its way, one in the outbox, one comes after.
        let mut sent = pin!(local.submit(world(), Vec::new()));
        assert!(poll_once(sent.as_mut()).is_none());
        yield_now().await;
        let mut kept = pin!(local.submit(order(1), Vec::new()));
        assert!(poll_once(kept.as_mut()).is_none());
        drop(task);
        assert_eq!(sent.await.unwrap_err(), SubmitError::Stopped);
        assert_eq!(kept.await.unwrap_err(), SubmitError::Stopped);
        let late = local.submit(order(2), Vec::new()).await;
        assert_eq!(late.unwrap_err(), SubmitError::Stopped);
        let alone = handle.query(ShardId(0), Realm::Live, Query::Item(ItemId(1))).await;
        assert_eq!(alone.unwrap_err(), SubmitError::Stopped);
        assert_eq!((inbox.messages(), inbox.bytes()), (0, 0));
        courier.await.unwrap();
        // Nobody could get a courier that waits for ever from it, either.
        let (local, courier) = handle.on_reactor();
        courier.run().await;
        let read = local.query(ShardId(0), Realm::Live, Query::Item(ItemId(1))).await;
        assert_eq!(read.unwrap_err(), SubmitError::Stopped);
        drop((local, handle));
        assert!(log.join().failed.is_none());
    });
}
