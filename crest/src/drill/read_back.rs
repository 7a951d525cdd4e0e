//! Reading acknowledged orders again, where there is no log to look at.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use loadgen::{Acks, ClientError, Connection, Profile, Target};
use model::{OrderId, Outcome, Party};

use crate::Failure;
use crate::report::ReadBack;

/// Reads sent ahead of their answers.
const READS_AHEAD: usize = 64;
/// Orders that are read, at most. Of more, every so many is.
const ORDERS_MAX: usize = 1_000_000;
/// How long. Orders that have left memory are read from the log, which takes its time.
const READ_FOR: Duration = Duration::from_secs(60);
/// A prime above [`ORDERS_MAX`]: steps of it meet every order once, in no order.
const STRIDE: usize = 1_000_003;

/// Reads acknowledged orders again, spread over the whole run, until all were read or a minute is
/// over. Runs on the current thread's `LocalSet`.
pub(crate) async fn read_acks(
    target: &Target,
    connections: usize,
    profile: &Profile,
    acks: &Acks,
) -> Result<ReadBack, Failure> {
    let acknowledged = acks.acknowledged().count();
    let chosen = acks.acknowledged().step_by(acknowledged.div_ceil(ORDERS_MAX).max(1));
    let orders = chosen.map(|(n, id, outcome)| (profile.buyer(n), id, outcome)).collect();
    let read = read_orders(target, connections, orders).await?;
    Ok(ReadBack { of: acknowledged as u64, ..read })
}

/// Reads orders, as many as a minute allows, and counts those that aren't there or have become
/// something else. Runs on the current thread's `LocalSet`.
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
    let mut read = ReadBack { orders: 0, of: orders.len() as u64, lost: 0, unread: 0 };
    for lane in lanes {
        let (seen, lost, unread) = lane.await??;
        read.orders += seen;
        read.lost += lost;
        read.unread += unread;
    }
    Ok(read)
}

/// One connection's share: how many were asked for, are lost, and could not be read.
async fn read_lane(
    target: Target,
    orders: Rc<Vec<(Party, OrderId, Outcome)>>,
    next: Rc<Cell<usize>>,
) -> Result<(u64, u64, u64), ClientError> {
    let began = Instant::now();
    let mut connection = Connection::open(&target).await?;
    let (mut request, mut found) = (Vec::new(), Vec::new());
    let (mut seen, mut lost, mut unread) = (0, 0, 0);
    let stride = if orders.len().is_multiple_of(STRIDE) { 1 } else { STRIDE };
    let picked = |at: usize| &orders[at * stride % orders.len()];
    loop {
        let start = next.get();
        let end = (start + READS_AHEAD).min(orders.len());
        if start == end || began.elapsed() > READ_FOR {
            return Ok((seen, lost, unread));
        }
        next.set(end);
        seen += (end - start) as u64;
        request.clear();
        for (buyer, id, _) in (start..end).map(picked) {
            target.get(&format!("/v1/buyers/{buyer}/orders/{id}"), &mut request);
        }
        connection.send(&request, &[]).await?;
        for &(_, _, outcome) in (start..end).map(picked) {
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
