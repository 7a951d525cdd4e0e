//! Groups at work on a runtime, with a log thread and a clock.

use model::reply::{Query, View};
use model::{AccountKind, ItemId, Outcome, Party, Realm, Reply, ids};
use mq::MemoryLog;
use node::{GroupHandle, Opened, Placement, open_log};
use tokio::task::{LocalSet, spawn_local, yield_now};

use crate::{GBP, account, item, item_at, main_of, order, party_on, transfer};

const SHARDS: u16 = 4;

/// Two groups and the way to them.
struct Groups(Vec<(u16, GroupHandle)>);

impl Groups {
    fn of(&self, party: Party) -> &GroupHandle {
        &self.0[usize::from(ids::shard_of(party, SHARDS).0)].1
    }

    async fn submit(&self, party: Party, commands: model::record::CommandBuffer) -> Vec<Reply> {
        self.of(party).submit(commands, Vec::new()).await.unwrap().replies
    }

    async fn balance(&self, party: Party) -> u64 {
        let query = Query::Account(party, GBP, AccountKind::Main);
        let shard = ids::shard_of(party, SHARDS);
        match self.of(party).query(shard, Realm::Live, query).await {
            Ok(View::Account(view)) => view.credits_posted.0 - view.debits_posted.0,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn groups_of_one_log_serve_each_other() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let opened = open_log(MemoryLog::new(), |_| Ok(()), Placement::new(SHARDS, 2, 7)).unwrap();
        let Opened { tasks, handles, log, replayed, .. } = opened;
        assert_eq!((tasks.len(), handles.len(), replayed), (2, 4, 0));
        let numbers: Vec<u16> = handles.iter().map(|(group, _)| *group).collect();
        assert_eq!(numbers, [0, 1, 0, 1]);
        let tasks: Vec<_> = tasks.into_iter().map(|task| spawn_local(task.run())).collect();
        let groups = Groups(handles);

        let (from, to) = (party_on(0, SHARDS, 1), party_on(1, SHARDS, 1));
        groups.submit(from, account(from, 100)).await;
        groups.submit(to, account(to, 5)).await;
        let moved = groups.submit(from, transfer(1, main_of(from), main_of(to), 60)).await;
        assert_eq!((moved[0].outcome, groups.balance(from).await), (Outcome::Ok, 40));
        while groups.balance(to).await != 65 {
            yield_now().await;
        }

        // All units are at home, in the other group; the buyer's shard may not even have heard of
        // the item when the first order comes.
        let it: ItemId = item_at(0, SHARDS, 1);
        let home = party_on(0, SHARDS, 2);
        groups.submit(home, item(it, Party(9), 3)).await;
        let buyer = party_on(3, SHARDS, 1);
        let mut outcomes = Vec::new();
        for id in 1..=4 {
            outcomes.push(groups.submit(buyer, order(id, buyer, &[(it, 1)])).await[0].outcome);
        }
        assert_eq!(outcomes, [Outcome::Ok, Outcome::Ok, Outcome::Ok, Outcome::SoldOut]);

        // They end together: streams keep nobody alive.
        drop(groups);
        for task in tasks {
            task.await.unwrap().unwrap();
        }
        assert!(log.join().failed.is_none());
    });
}
