//! Clients: each asks for things, and asks again until it is told what became of them.

use std::collections::BTreeMap;

use model::record::{CommandBuffer, ItemUpdate, NewLeg, NewLine, Price, Record, RefundLine, Sale};
use model::{
    AccountKind, Amount, ChangeId, Currency, ItemId, LineKind, OrderId, Outcome, Party, PayStep,
    PaymentMethod, Quantity, Realm, ShardId, Time,
};

use crate::plan::Plan;
use crate::random::Random;
use crate::shadow::{Name, name_of};

/// Something that a client asks for.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) bytes: Vec<u8>,
    pub(crate) home: ShardId,
    pub(crate) name: Name,
    pub(crate) tries: u32,
    /// The order that it places: item and units of each line.
    pub(crate) orders: Vec<(Realm, u64, u64)>,
    pub(crate) answer: Option<Outcome>,
}

#[derive(Default)]
pub(crate) struct Client {
    pub(crate) requests: BTreeMap<u64, Request>,
    /// Requests without a final answer.
    pub(crate) open: Vec<u64>,
    next: u64,
    /// Orders that it has asked for: realm, buyer, id.
    placed: Vec<(Realm, Party, OrderId)>,
    /// Those of which it has asked something back.
    refunded: Vec<(Realm, Party, OrderId)>,
    /// Holds that it has asked for.
    held: Vec<(Realm, Party, ChangeId)>,
    changes: u128,
}

/// Parties from here on sell.
const SELLERS: u64 = 900;

impl Client {
    /// What has to be there before anybody can order: items and accounts.
    pub(crate) fn set_up(&mut self, plan: &Plan, random: &mut Random) {
        for realm in [Realm::Live, Realm::Drill] {
            for item in 1..=plan.items {
                let mut command = command_in(realm);
                let (seller, price) = (Party(SELLERS + item % 3), Amount(random.range(1, 20)));
                let limit = if !plan.is_sale && random.percent(20) { 5 } else { 0 };
                let sale = Sale { limit, ..Sale::default() };
                let stock = random.range(0, plan.stock_max);
                command.create_item(ItemId(item), seller, Currency::GBP, price, stock, sale);
                self.ask(command, plan);
            }
            for buyer in 1..=plan.buyers {
                let mut command = command_in(realm);
                let balance = Amount(random.range(0, 400));
                command.create_account(Party(buyer), Currency::GBP, balance);
                self.ask(command, plan);
            }
        }
    }

    /// One thing more.
    pub(crate) fn ask_something(&mut self, now: Time, plan: &Plan, random: &mut Random) {
        let realm = if random.percent(20) { Realm::Drill } else { Realm::Live };
        let mut command = command_in(realm);
        if plan.is_sale {
            self.buy_one(&mut command, (now, realm), plan, random);
            return self.ask(command, plan);
        }
        let buyer = Party(random.range(1, plan.buyers));
        let unknown = u64::from(random.percent(3));
        let item = ItemId(random.range(1, plan.items + unknown));
        self.changes += 1;
        let change = match random.percent(50) {
            true => ChangeId(some_id(now, random)),
            false => ChangeId(self.changes << 32 | u128::from(random.below(1 << 20))),
        };
        let method = [PaymentMethod::Balance, PaymentMethod::External];
        match random.below(100) {
            0..55 => self.place(&mut command, (now, realm, buyer), plan, random),
            55..59 => self.hold_or_settle(&mut command, (now, realm, buyer), change, plan, random),
            59..64 => {
                let to = Party(random.range(1, plan.buyers + 1));
                let amount = Amount(random.range(1, 150));
                let kinds = [AccountKind::Main, AccountKind::Main, AccountKind::Clearing];
                let main = |party| (party, AccountKind::Main);
                let from = match random.pick(&kinds) {
                    AccountKind::Clearing => (Party(0), AccountKind::Clearing),
                    _ => main(buyer),
                };
                command.transfer(change, from, main(to), Currency::GBP, amount);
            }
            64..67 => command.restock(change, item, random.range(1, plan.stock_max)),
            67..70 => {
                let price = Some(Amount(random.range(1, 20)));
                command.update_item(change, item, ItemUpdate { price, ..ItemUpdate::default() });
            }
            kind => {
                let Some((realm, buyer, order)) = self.some_order(random) else { return };
                command.set_realm(realm);
                match kind {
                    70..75 => command.pay(change, buyer, order, *random.pick(&method)),
                    75..81 => {
                        let steps = [PayStep::External, PayStep::Authorise, PayStep::Void];
                        let step = *random.pick(&steps);
                        let leg = random.percent(40).then(|| random.below(3) as u16);
                        let stated = step != PayStep::Void && random.percent(40);
                        let amount = stated.then(|| Amount(random.range(1, 30)));
                        command.pay_leg(change, buyer, order, step, leg, amount);
                    }
                    81..88 => command.cancel(change, buyer, order),
                    88..90 => command.receive(change, buyer, order),
                    _ => {
                        // Often once more what was refunded before.
                        self.refunded.push((realm, buyer, order));
                        let again = *random.pick(&self.refunded);
                        let (realm, buyer, order) =
                            if random.percent(40) { again } else { (realm, buyer, order) };
                        command.set_realm(realm);
                        let line = RefundLine {
                            line: (random.below(2) as u16).into(),
                            quantity: (random.range(1, 2) as u32).into(),
                            ..RefundLine::default()
                        };
                        let lines = if random.percent(50) { vec![line] } else { Vec::new() };
                        command.refund(change, buyer, order, random.percent(70), &lines);
                    }
                }
            }
        }
        self.ask(command, plan);
        if random.percent(4) {
            self.ask_garbage(plan, random);
        }
    }

    /// One of all that it has asked for.
    pub(crate) fn some_request(&self, random: &mut Random) -> Option<u64> {
        (self.next > 0).then(|| random.below(self.next))
    }

    fn some_order(&self, random: &mut Random) -> Option<(Realm, Party, OrderId)> {
        let newest = self.placed.len().saturating_sub(6);
        let some = &self.placed[if random.percent(70) { newest } else { 0 }..];
        (!some.is_empty()).then(|| *random.pick(some))
    }

    fn buy_one(
        &mut self,
        command: &mut CommandBuffer,
        (now, realm): (Time, Realm),
        plan: &Plan,
        random: &mut Random,
    ) {
        let buyer = Party(random.range(1, plan.buyers));
        let id = OrderId(some_id(now, random));
        let mut place = command.place();
        place.line(ItemId(random.range(1, plan.items)), Quantity(1), None);
        place.finish(buyer, id, Currency::GBP, PaymentMethod::External);
        self.placed.push((realm, buyer, id));
    }

    fn place(
        &mut self,
        command: &mut CommandBuffer,
        (now, realm, buyer): (Time, Realm, Party),
        plan: &Plan,
        random: &mut Random,
    ) {
        let id = OrderId(some_id(now, random));
        let methods = [PaymentMethod::Balance, PaymentMethod::External, PaymentMethod::Awaited];
        let method = *random.pick(&methods);
        let in_legs = random.percent(25);
        let mut place = command.place();
        for _ in 0..random.range(1, 3) {
            let agreed = random.percent(20).then(|| Amount(random.range(0, 20)));
            let units = if random.percent(80) { 1 } else { random.range(2, 6) };
            let item = ItemId(random.range(1, plan.items));
            let price = agreed.map_or(Price::List, Price::Agreed);
            let discount = Amount(if in_legs { random.below(6) } else { 0 });
            let line = NewLine::goods(item, Quantity(units as u32));
            place.add(&NewLine { price, discount, ..line });
        }
        let mut deadline = || match random.percent(70) {
            true => Time(now.0 + random.range(1_000, 3_000_000)),
            false => Time(0),
        };
        let (first, second) = (deadline(), deadline());
        self.placed.push((realm, buyer, id));
        if !in_legs {
            if method == PaymentMethod::Awaited {
                place.expires(first);
            }
            return place.finish(buyer, id, Currency::GBP, method);
        }
        if random.percent(50) {
            let price = Amount(random.range(0, 7));
            place.add(&NewLine::charge(LineKind::Shipping, Party(SELLERS + 3), price));
        }
        let part = |random: &mut Random| Some(Amount(random.range(0, 6)));
        let legs = match random.below(4) {
            0 => vec![NewLeg::Balance(part(random)), NewLeg::Awaited(None, first)],
            1 => vec![NewLeg::Balance(None), NewLeg::External(part(random))],
            2 => vec![NewLeg::Awaited(part(random), first), NewLeg::Awaited(None, second)],
            _ => vec![
                NewLeg::External(part(random)),
                NewLeg::Balance(part(random)),
                NewLeg::Awaited(None, first),
            ],
        };
        if random.percent(40) && legs.iter().any(|leg| matches!(leg, NewLeg::Awaited(..))) {
            place.forfeits();
        }
        place.finish_legs(buyer, id, Currency::GBP, &legs);
    }

    /// Holds money, or captures or releases some that is held.
    fn hold_or_settle(
        &mut self,
        command: &mut CommandBuffer,
        (now, realm, buyer): (Time, Realm, Party),
        change: ChangeId,
        plan: &Plan,
        random: &mut Random,
    ) {
        if self.held.is_empty() || random.percent(50) {
            let amount = Amount(random.range(1, 150));
            let deadline = match random.percent(60) {
                true => Time(now.0 + random.range(1_000, 3_000_000)),
                false => Time(0),
            };
            command.hold(change, (buyer, AccountKind::Main), Currency::GBP, amount, deadline);
            self.held.push((realm, buyer, change));
            return;
        }
        let (realm, party, hold) = *random.pick(&self.held);
        command.set_realm(realm);
        if random.percent(30) {
            return command.release_hold(change, party, hold);
        }
        let to = Party(random.range(1, plan.buyers + 1));
        let amount = random.percent(60).then(|| Amount(random.range(1, 60)));
        command.capture_hold(change, party, hold, (to, AccountKind::Main), amount);
    }

    /// Something with a byte that is another one. What is still a command is asked for.
    fn ask_garbage(&mut self, plan: &Plan, random: &mut Random) {
        let Some(newest) = self.open.last() else { return };
        let mut bytes = self.requests[newest].bytes.clone();
        let at = random.below(bytes.len() as u64) as usize;
        bytes[at] ^= 1 << random.below(8);
        let whole = Record::split(&bytes).is_ok_and(|(record, rest)| {
            rest.is_empty() && record.check_undecided().is_ok() && record.home(1).is_some()
        });
        if whole {
            self.ask_bytes(bytes, plan);
        }
    }

    fn ask(&mut self, command: CommandBuffer, plan: &Plan) {
        if command.count() > 0 {
            self.ask_bytes(command.into_bytes(), plan);
        }
    }

    fn ask_bytes(&mut self, bytes: Vec<u8>, plan: &Plan) {
        let (record, _) = Record::split(&bytes).expect("a client asks for what is a command");
        let home = record.home(plan.shards).expect("it has a home");
        let name = name_of(&record).expect("it has a name");
        let orders = match record.body {
            model::record::Body::Place { lines, .. } => {
                let line = |line: &model::record::Line| {
                    (record.realm(), line.item.get(), u64::from(line.quantity.get()))
                };
                let goods = lines.iter().filter(|line| line.kind == LineKind::Goods as u8);
                goods.map(line).collect()
            }
            _ => Vec::new(),
        };
        let request = Request { home, name, tries: 0, orders, answer: None, bytes };
        self.requests.insert(self.next, request);
        self.open.push(self.next);
        self.next += 1;
    }

    /// An answer came. Whether it was final, and one that was awaited.
    pub(crate) fn answered(&mut self, request: u64, outcome: Outcome) -> bool {
        if outcome == Outcome::Busy {
            return false;
        }
        let Some(at) = self.open.iter().position(|open| *open == request) else { return false };
        self.open.swap_remove(at);
        let request = self.requests.get_mut(&request).expect("it was asked for");
        request.answer = Some(outcome);
        true
    }
}

/// An id without a time, or with one that is now, some time ago or a little ahead (UUID version
/// 7).
fn some_id(now: Time, random: &mut Random) -> u128 {
    if random.percent(40) {
        return random.next().into();
    }
    let ago = if random.percent(50) { 60 } else { 4_000 };
    let ms = now.0 / 1_000 + 50 - random.below(ago);
    u128::from(ms) << 80 | 7 << 76 | 0b10 << 62 | u128::from(random.next() >> 2)
}

fn command_in(realm: Realm) -> CommandBuffer {
    let mut command = CommandBuffer::default();
    command.set_realm(realm);
    command
}
