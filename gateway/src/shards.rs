//! From a request to the shards that it is for, and back.
//!
//! Shards run in groups, one for each reactor. A request whose commands are all for one group goes
//! there as it is. One that is for several is cut by group, and the answers are put together
//! again in the order of the commands.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use model::record::CommandBuffer;
use model::reply::{List, Listed as ListedRows, Query, View};
use model::{
    AccountView, Amount, ItemId, ItemView, Offset, OrderId, Outcome, Party, Realm, Reply, ShardId,
    ids,
};
use node::stages::GroupTicks;
use node::{Answer, Courier, GroupHandle, LocalHandle, OrderPage, Statement, SubmitError};

use crate::route::{OrdersPage, Page};

/// What became of a wish for a statement.
pub(crate) enum Listed {
    Page(Statement),
    NoAccount(Query),
    /// The record there moved no money of that account.
    NotThere(Offset),
}

/// Finds the group of a shard.
#[derive(Clone)]
pub struct Router {
    /// By shard: the number of its group, and the way there.
    shards: Vec<(u16, GroupHandle)>,
}

impl Router {
    /// Over all shards of a data directory, in order: the number of each one's group, from 0 on,
    /// and the way there. At least one.
    pub fn new(shards: Vec<(u16, GroupHandle)>) -> Router {
        assert!(!shards.is_empty(), "a data directory has at least one shard");
        Router { shards }
    }

    pub(crate) fn first(&self) -> &GroupHandle {
        &self.shards[0].1
    }
}

/// The shards as one reactor reaches them.
pub(crate) struct Shards {
    groups: Vec<LocalHandle>,
    /// By shard: its group.
    group_of: Vec<u16>,
}

impl Shards {
    pub(crate) fn new(router: &Router) -> (Shards, Vec<Courier>) {
        let group_of: Vec<u16> = router.shards.iter().map(|(group, _)| *group).collect();
        let count = group_of.iter().max().map_or(0, |most| most + 1);
        let of_group = |group| {
            let first = router.shards.iter().find(|(other, _)| *other == group);
            first.expect("groups are numbered without a gap").1.on_reactor()
        };
        let (groups, couriers) = (0..count).map(of_group).unzip();
        (Shards { groups, group_of }, couriers)
    }

    pub(crate) fn count(&self) -> u16 {
        self.group_of.len() as u16
    }

    fn group(&self, shard: ShardId) -> &LocalHandle {
        &self.groups[usize::from(self.group_of[usize::from(shard.0)])]
    }

    /// Has commands decided and made durable. Replies come in the order of the commands.
    pub(crate) async fn submit(
        &self,
        commands: CommandBuffer,
        replies: Vec<Reply>,
    ) -> Result<Answer, SubmitError> {
        assert!(!commands.is_unsealed(), "what is private is encrypted first");
        if self.groups.len() == 1 {
            return self.groups[0].submit(commands, replies).await;
        }
        let (first, is_whole) = {
            let mut groups = self.groups_of(&commands).map(|(_, group)| group);
            let first = groups.next().unwrap_or_default();
            (first, groups.all(|group| group == first))
        };
        if is_whole {
            return self.groups[usize::from(first)].submit(commands, replies).await;
        }
        self.submit_in_parts(commands, replies).await
    }

    /// Each command, and its group.
    fn groups_of<'a>(
        &'a self,
        commands: &'a CommandBuffer,
    ) -> impl Iterator<Item = (&'a [u8], u16)> {
        commands.homes(self.count()).map(|(command, home)| {
            let home = home.expect("callers' commands have a home");
            (command, self.group_of[usize::from(home.0)])
        })
    }

    async fn submit_in_parts(
        &self,
        commands: CommandBuffer,
        mut replies: Vec<Reply>,
    ) -> Result<Answer, SubmitError> {
        let mut parts = vec![CommandBuffer::default(); self.groups.len()];
        let mut order = Vec::with_capacity(commands.count() as usize);
        for (command, group) in self.groups_of(&commands) {
            parts[usize::from(group)].push_record(command);
            order.push(group);
        }
        let submitted = parts.into_iter().zip(&self.groups).map(|(part, group)| {
            Box::pin(async move {
                match part.count() {
                    0 => None,
                    _ => Some(group.submit(part, Vec::new()).await),
                }
            })
        });
        let answers = all(submitted.collect()).await;

        let mut ticks = None::<GroupTicks>;
        let mut failed = None;
        let mut parts: Vec<_> = answers
            .into_iter()
            .map(|answer| match answer {
                None => Vec::new().into_iter(),
                Some(Ok(answer)) => {
                    // What the request waited for is the part that was durable last.
                    let last = ticks.get_or_insert(answer.ticks);
                    if answer.ticks.durable > last.durable {
                        *last = answer.ticks;
                    }
                    answer.replies.into_iter()
                }
                Some(Err(error)) => {
                    failed = Some(error);
                    Vec::new().into_iter()
                }
            })
            .collect();
        let Some(ticks) = ticks else {
            return Err(failed.expect("a request has commands"));
        };
        // What one group could not take is told apart from what the others did.
        let busy = Reply::unlogged(Outcome::Busy);
        replies.clear();
        replies.extend(order.iter().map(|group| parts[usize::from(*group)].next().unwrap_or(busy)));
        Ok(Answer { commands, replies, ticks })
    }

    /// Reads. What it shows is durable.
    pub(crate) async fn query(&self, realm: Realm, query: Query) -> Result<View, SubmitError> {
        let key = match query {
            Query::Order(party, _) | Query::Hold(party, _) | Query::Coupon(party, _) => party,
            Query::Account(party, _, kind) if !kind.is_sharded() => party,
            // These have a part on every shard.
            Query::Account(..) | Query::Item(_) => return self.query_all(realm, query).await,
        };
        self.query_one(ids::shard_of(key, self.count()), realm, query).await
    }

    /// What an item's home knows of it: units are there only in part.
    pub(crate) async fn query_home(&self, realm: Realm, item: ItemId) -> Result<View, SubmitError> {
        self.query_one(ids::item_home(item, self.count()), realm, Query::Item(item)).await
    }

    /// Reads a page of an account's statement from the log.
    pub(crate) async fn statement(&self, realm: Realm, page: &Page) -> Result<Listed, SubmitError> {
        let account = (page.party, page.currency, page.kind);
        let query = Query::Account(page.party, page.currency, page.kind);
        let View::Account(view) = self.query(realm, query).await? else {
            return Ok(Listed::NoAccount(query));
        };
        let shard = ids::shard_of(page.party, self.count());
        let group = self.group(shard).group();
        let from = page.from.unwrap_or(view.statement);
        let found = node::statement(group, (shard, realm), account, from, page.limit).await?;
        match (found, page.from) {
            (Some(statement), _) => Ok(Listed::Page(statement)),
            (None, Some(from)) => Ok(Listed::NotThere(from)),
            (None, None) => Err(SubmitError::Unreadable),
        }
    }

    /// The private part of an order, if it has one, as it was encrypted; `None` without the order.
    pub(crate) async fn private(
        &self,
        realm: Realm,
        buyer: Party,
        order: OrderId,
    ) -> Result<Option<Option<Vec<u8>>>, SubmitError> {
        let shard = ids::shard_of(buyer, self.count());
        let View::Order(view) = self.query_one(shard, realm, Query::Order(buyer, order)).await?
        else {
            return Ok(None);
        };
        let group = self.group(shard).group();
        node::private_part(group, (shard, realm), (buyer, order), view.offset).await.map(Some)
    }

    /// Reads a page of a buyer's orders.
    pub(crate) async fn orders(
        &self,
        realm: Realm,
        page: &OrdersPage,
    ) -> Result<OrderPage, SubmitError> {
        let shard = ids::shard_of(page.buyer, self.count());
        let group = self.group(shard).group();
        node::order_page(group, (shard, realm), page.buyer, page.from, page.limit).await
    }

    /// Reads a page of one shard's rows.
    pub(crate) async fn list(
        &self,
        shard: ShardId,
        realm: Realm,
        list: List,
    ) -> Result<ListedRows, SubmitError> {
        self.group(shard).list(shard, realm, list).await
    }

    /// The same of all shards but one.
    pub(crate) async fn list_others(
        &self,
        but: ShardId,
        realm: Realm,
        list: &List,
    ) -> Vec<Result<ListedRows, SubmitError>> {
        let others = (0..self.count()).map(ShardId).filter(|shard| *shard != but);
        all(others.map(|shard| Box::pin(self.list(shard, realm, list.clone()))).collect()).await
    }

    async fn query_one(
        &self,
        shard: ShardId,
        realm: Realm,
        query: Query,
    ) -> Result<View, SubmitError> {
        self.group(shard).query(shard, realm, query).await
    }

    async fn query_all(&self, realm: Realm, query: Query) -> Result<View, SubmitError> {
        let shards = (0..self.count()).map(ShardId);
        let asked = shards.map(|shard| Box::pin(self.query_one(shard, realm, query)));
        let mut sum = View::Missing;
        for view in all(asked.collect()).await {
            sum = match (sum, view?) {
                (View::Account(a), View::Account(b)) => View::Account(add_accounts(a, &b)),
                (View::Item(a), View::Item(b)) => View::Item(add_items(a, &b)),
                (View::Missing, view) | (view, _) => view,
            };
        }
        Ok(sum)
    }
}

fn add_accounts(a: AccountView, b: &AccountView) -> AccountView {
    let add = |a: Amount, b: Amount| Amount(a.0.saturating_add(b.0));
    AccountView {
        debits_posted: add(a.debits_posted, b.debits_posted),
        credits_posted: add(a.credits_posted, b.credits_posted),
        ..a
    }
}

/// Where their entries differ, one of the two hasn't heard of a change yet.
pub(crate) fn add_items(a: ItemView, b: &ItemView) -> ItemView {
    let newest = if b.stocked > 0 || b.pool > 0 { b } else { &a };
    ItemView {
        stocked: a.stocked + b.stocked,
        pool: a.pool + b.pool,
        available: a.available + b.available,
        reserved: a.reserved + b.reserved,
        sold: a.sold + b.sold,
        ..*newest
    }
}

/// The outputs of all, when all are ready.
pub(crate) async fn all<F: Future>(mut futures: Vec<Pin<Box<F>>>) -> Vec<F::Output> {
    let mut outputs: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    poll_fn(|cx| {
        for (future, output) in futures.iter_mut().zip(&mut outputs) {
            if output.is_none()
                && let Poll::Ready(ready) = future.as_mut().poll(cx)
            {
                *output = Some(ready);
            }
        }
        if outputs.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    outputs.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_waits_for_the_last_and_keeps_the_order() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let outputs = runtime.block_on(async {
            let turns = [3, 0, 1].map(|turns| {
                Box::pin(async move {
                    for _ in 0..turns {
                        tokio::task::yield_now().await;
                    }
                    turns
                })
            });
            all(turns.into()).await
        });
        assert_eq!(outputs, [3, 0, 1]);
    }
}
