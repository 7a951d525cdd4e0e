//! Reading acknowledged orders again, where there is no log to look at.

use std::cell::Cell;
use std::rc::Rc;

use loadgen::{Acks, ClientError, Connection, Profile, Target};
use model::{OrderId, Outcome, Party};

use crate::Failure;
use crate::report::ReadBack;

/// Reads sent ahead of their answers.
const READS_AHEAD: usize = 64;

/// Reads every acknowledged order again. Runs on the current thread's `LocalSet`.
pub(crate) async fn read_acks(
    target: &Target,
    connections: usize,
    profile: &Profile,
    acks: &Acks,
) -> Result<ReadBack, Failure> {
    let orders: Vec<_> =
        acks.acknowledged().map(|(n, id, outcome)| (profile.buyer(n), id, outcome)).collect();
    read_orders(target, connections, orders).await
}

/// Reads orders, and counts those that aren't there or have become something else. Runs on the
/// current thread's `LocalSet`.
pub(crate) async fn read_orders(
    target: &Target,
    connections: usize,
    orders: Vec<(Party, OrderId, Outcome)>,
) -> Result<ReadBack, Failure> {
    let orders = Rc::new(orders);
    let next = Rc::new(Cell::new(0));
    let lanes: Vec<_> = (0..connections)
        .map(|_| {
            let lane = read_lane(target.clone(), orders.clone(), next.clone());
            tokio::task::spawn_local(lane)
        })
        .collect();
    let mut read = ReadBack { orders: orders.len() as u64, lost: 0, unread: 0 };
    for lane in lanes {
        let (lost, unread) = lane.await??;
        read.lost += lost;
        read.unread += unread;
    }
    Ok(read)
}

/// One connection's share; how many of them are lost, and how many could not be read.
async fn read_lane(
    target: Target,
    orders: Rc<Vec<(Party, OrderId, Outcome)>>,
    next: Rc<Cell<usize>>,
) -> Result<(u64, u64), ClientError> {
    let mut connection = Connection::open(&target).await?;
    let (mut request, mut found) = (Vec::new(), Vec::new());
    let (mut lost, mut unread) = (0, 0);
    loop {
        let start = next.get();
        let end = (start + READS_AHEAD).min(orders.len());
        if start == end {
            return Ok((lost, unread));
        }
        next.set(end);
        request.clear();
        for (buyer, id, _) in &orders[start..end] {
            target.get(&format!("/v1/buyers/{buyer}/orders/{id}"), &mut request);
        }
        connection.send(&request, &[]).await?;
        for &(_, _, outcome) in &orders[start..end] {
            let (status, body) = connection.receive().await?;
            if status >= 500 {
                unread += 1;
                continue;
            }
            found.clear();
            let parsed = loadgen::results::parse_single(body, &mut found).is_ok();
            let first = if outcome == Outcome::AlreadyDone { Outcome::Ok } else { outcome };
            let kept = status == 200 && parsed && found == [first as u8];
            lost += u64::from(!kept);
        }
    }
}
