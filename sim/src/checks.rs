//! What must hold: after every event, and when the world has come to rest.

use std::collections::BTreeMap;

use model::record::RowKey;
use model::reply::{Query, View};
use model::{AccountKind, Currency, ItemId, OrderId, Outcome, Party, Realm, ShardId};
use node::Imbalance;
use txn_core::{Shard, view_of_row};

use crate::clients::Request;
use crate::nodes::Down;
use crate::world::{Inspect, World};

const REALMS: [Realm; 2] = [Realm::Live, Realm::Drill];

impl World {
    /// All shards in the order of their numbers, if all nodes are up.
    fn shards(&self) -> Option<Vec<&Shard>> {
        let mut shards: Vec<&Shard> = self.nodes.iter().flat_map(|node| node.members()).collect();
        shards.sort_by_key(|shard| shard.seat().id);
        (shards.len() == usize::from(self.plan.shards)).then_some(shards)
    }

    /// Whatever happens, no unit and no penny comes from nowhere or goes there.
    pub(crate) fn check(&self) -> Result<(), String> {
        let Some(shards) = self.shards() else { return Ok(()) };
        if self.liar.is_some() {
            return Ok(()); // Its loss is looked at when it comes up again.
        }
        for realm in REALMS {
            let found = Imbalance::of(&shards, realm);
            if !found.is_none() {
                return Err(format!("{found:?}"));
            }
        }
        Ok(())
    }

    /// Every client is answered, nobody waits, and nothing is under way.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.unrest().is_empty()
    }

    /// What keeps the world from resting.
    pub(crate) fn unrest(&self) -> String {
        let Some(shards) = self.shards() else { return "a node is down".to_string() };
        for (number, client) in self.clients.iter().enumerate() {
            if let Some(open) = client.open.first() {
                return format!("client {number} waits for {:?}", client.requests[open]);
            }
        }
        for node in &self.nodes {
            for group in node.up.iter().flat_map(|up| &up.groups) {
                let waiting = group.waiting() + group.parked();
                if waiting > 0 || group.is_in_flight() || group.has_unwritten() {
                    return format!(
                        "node {}: {waiting} orders wait, in flight: {}, unwritten: {}",
                        node.number,
                        group.is_in_flight(),
                        group.has_unwritten()
                    );
                }
            }
        }
        for realm in REALMS {
            for from in &shards {
                if !from.is_settled(realm) {
                    return format!("{realm:?}: shard {} isn't settled", from.seat().id);
                }
                for to in shards.iter().filter(|to| to.seat().id != from.seat().id) {
                    let sent = from.stream(realm, to.seat().id);
                    let taken = to.stream(realm, from.seat().id);
                    if sent.acked != sent.next_out || taken.next_in != sent.next_out {
                        return format!(
                            "{realm:?}: from shard {} to {}: {sent:?}, {taken:?}",
                            from.seat().id,
                            to.seat().id
                        );
                    }
                }
            }
        }
        String::new()
    }

    /// The world is at rest: every answer is what the logs say, all that could be sold is, and
    /// the logs lead back to the state.
    pub(crate) fn conclude(&mut self) -> Result<(), String> {
        self.check_answers()?;
        if self.liar.is_none() {
            self.check_states()?;
            self.check_sale()?;
            self.check_marks()?;
        }
        let records = self.shadow.logs.iter().map(|log| log.len() as u64).sum();
        self.ran.records = records;
        self.check_replay()?;
        match self.options.inspect {
            Some(inspect) if self.liar.is_none() => self.inspect(inspect),
            _ => Ok(()),
        }
    }

    fn inspect(&self, inspect: Inspect) -> Result<(), String> {
        let mut frames = Vec::new();
        for node in &self.nodes {
            let unreadable = |error| format!("a log can't be read: {error}");
            let mut history = node.history().map_err(unreadable)?;
            while let Some((_, frame)) = history.next_frame().map_err(unreadable)? {
                frames.push(frame.bytes.to_vec());
            }
        }
        inspect(&self.shards().ok_or("a node is down")?, &frames)
    }

    fn check_answers(&mut self) -> Result<(), String> {
        for (number, client) in self.clients.iter().enumerate() {
            for (request, asked) in &client.requests {
                let logged = self.shadow.outcome(&asked.name);
                self.ran.orders += u64::from(!asked.orders.is_empty());
                let answer = asked.answer.ok_or(format!("client {number}: {request} is open"))?;
                let kept = match answer {
                    Outcome::Ok | Outcome::AlreadyDone => logged == Some(Outcome::Ok),
                    answer if answer.is_logged() => logged == Some(answer),
                    _ => true,
                };
                if !kept {
                    return Err(format!(
                        "client {number} was told {} of request {request}; the logs say {}",
                        answer.word(),
                        logged.map_or("nothing", Outcome::word)
                    ));
                }
            }
        }
        Ok(())
    }

    /// What the shards show is what the shadow has added up.
    fn check_states(&mut self) -> Result<(), String> {
        let mut left_memory = 0;
        let shards = self.shards().ok_or("a node is down")?;
        let home = |party: u64| {
            let home = model::ids::shard_of(Party(party), self.plan.shards);
            shards[usize::from(home.0)]
        };
        for realm in REALMS {
            for (&(party, currency), &balance) in self.shadow.accounts(realm) {
                let currency = Currency::from_numeric(currency).ok_or("a currency")?;
                let query = Query::Account(Party(party), currency, AccountKind::Main);
                let View::Account(account) = home(party).query_in(realm, query) else {
                    return Err(format!("{realm:?}: party {party} has no account"));
                };
                let shown =
                    i128::from(account.credits_posted.0) - i128::from(account.debits_posted.0);
                let held = self.shadow.held(realm, party, currency);
                if (shown, i128::from(account.held.0)) != (balance, held) {
                    let wanted = format!("{balance}, {held} of it held");
                    return Err(format!("{realm:?}: party {party} has {account:?}, not {wanted}"));
                }
            }
            for (buyer, id, state) in self.shadow.orders(realm) {
                let shard = home(buyer);
                let mut view = shard.query_in(realm, Query::Order(Party(buyer), OrderId(id)));
                if view == View::Missing {
                    let row = RowKey::of_order(Party(buyer), OrderId(id));
                    let node = &self.nodes[self.node_of(shard.seat().id)];
                    let words = node.look_for(shard.seat().id, realm, &row).unwrap_or_default();
                    view = view_of_row(&words);
                    left_memory += 1;
                }
                match view {
                    View::Order(order) if order.state == state => {}
                    other => {
                        return Err(format!("{realm:?}: order {id:x} is {state:?}: {other:?}"));
                    }
                }
            }
        }
        self.ran.left_memory += left_memory;
        Ok(())
    }

    /// Of single units that clients wanted until the end, as many are sold as there were, or were
    /// wanted.
    fn check_sale(&mut self) -> Result<(), String> {
        for realm in REALMS {
            for item in 1..=self.plan.items {
                let (stocked, out) = self.shadow.units(realm, item);
                self.ran.sold += out.max(0) as u64;
                if !self.plan.is_sale {
                    continue;
                }
                // Who came before there was such an item was told so.
                let requests = self.clients.iter().flat_map(|client| client.requests.values());
                let came = |request: &&Request| request.answer != Some(Outcome::UnknownItem);
                let wanted = requests.filter(came).flat_map(|request| &request.orders);
                let wanted = wanted.filter(|(of, id, _)| (*of, *id) == (realm, item)).count();
                let expected = stocked.min(wanted as u64);
                if out != i128::from(expected) {
                    return Err(format!(
                        "{realm:?}: item {item}: {stocked} stocked, {wanted} wanted, {out} sold"
                    ));
                }
            }
        }
        Ok(())
    }

    /// No shard would refuse an order for which there are units.
    fn check_marks(&self) -> Result<(), String> {
        let shards = self.shards().ok_or("a node is down")?;
        for realm in REALMS {
            let mut unspent = BTreeMap::<ItemId, u64>::new();
            for item in shards.iter().flat_map(|shard| shard.items(realm)) {
                *unspent.entry(item.item).or_default() += item.pool + item.available;
            }
            for (&item, &units) in &unspent {
                let refuses = |shard: &&&Shard| shard.is_sold_out(realm, item, units);
                if let Some(shard) = shards.iter().find(refuses) {
                    let id = shard.seat().id;
                    return Err(format!(
                        "{realm:?}: shard {id} says that item {item} is sold out, of which {units} \
                         are unspent"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Started again, every shard is in the state that it was in; and without the records of the
    /// rehearsal, trade is in the same state.
    fn check_replay(&mut self) -> Result<(), String> {
        let placement = self.placement;
        for number in 0..self.nodes.len() {
            let hashes = |node: &crate::nodes::Node| -> Vec<_> {
                node.members().map(|shard| (shard.seat().id, shard.state_hash())).collect()
            };
            let before = hashes(&self.nodes[number]);
            self.nodes[number].up = None;
            match self.nodes[number].start(&placement, &self.options.spare) {
                Ok(()) => {}
                Err(_) if self.liar == Some(number) => {
                    self.ran.refused = true;
                    continue;
                }
                Err(Down::Damaged(what) | Down::Differs(what)) => {
                    return Err(format!("node {number} doesn't come up again: {what}"));
                }
                Err(Down::Fault) => return Err(format!("node {number} doesn't come up again")),
            }
            if self.liar.is_none() && hashes(&self.nodes[number]) != before {
                return Err(format!("node {number} comes up in another state"));
            }
            let node = &self.nodes[number];
            let alone = node.trade_alone(&placement, &self.options.spare);
            let alone = alone.map_err(|error| format!("node {number}: {error}"))?;
            let trade = |id: &ShardId| {
                let shard = node.members().find(|shard| shard.seat().id == *id);
                shard.expect("the shard is on this node").realm_hash(Realm::Live)
            };
            let whole: Vec<u64> = node.shards.iter().map(trade).collect();
            if alone != whole {
                return Err(format!("node {number}: without rehearsal, trade is in another state"));
            }
        }
        Ok(())
    }
}
