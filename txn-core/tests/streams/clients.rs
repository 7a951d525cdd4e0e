//! What clients ask for.

use model::record::{Coupon, ItemUpdate, NewLeg, NewLine, RefundLine, Sale};
use model::{
    AccountKind, Amount, ChangeId, Currency, ItemId, LineKind, OrderId, Outcome, Party, PayStep,
    PaymentMethod, Quantity, Realm, Reply, Time,
};

use crate::world::{STEP_MICROS, World};

const GBP: Currency = Currency::GBP;
const BUYERS: u64 = 12;
const ITEMS: u64 = 3;
/// A seller for each item.
const SELLERS: u64 = 900;
const CLEARING: (Party, AccountKind) = (Party(0), AccountKind::Clearing);

/// Lists an item.
pub fn list(world: &mut World, realm: Realm, item: u64, price: u64, stock: u64) {
    world.ask(realm, |commands| {
        let seller = Party(SELLERS + item);
        let sale = Sale::default();
        commands.create_item(ItemId(item), seller, GBP, Amount(price), stock, sale);
    });
}

/// Places an order that is paid outside.
pub fn buy(
    world: &mut World,
    realm: Realm,
    buyer: u64,
    order: u128,
    lines: &[(u64, u32)],
) -> Option<Reply> {
    place(world, realm, (buyer, order), PaymentMethod::External, Time(0), lines)
}

/// Places an order.
pub fn place(
    world: &mut World,
    realm: Realm,
    (buyer, order): (u64, u128),
    method: PaymentMethod,
    deadline: Time,
    lines: &[(u64, u32)],
) -> Option<Reply> {
    world.ask(realm, |commands| {
        let mut place = commands.place();
        for &(item, quantity) in lines {
            place.line(ItemId(item), Quantity(quantity), None);
        }
        if method == PaymentMethod::Awaited {
            place.expires(deadline);
        }
        place.finish(Party(buyer), OrderId(order), GBP, method);
    })
}

/// Clients who do all there is to do.
pub struct Clients {
    ids: u128,
    /// Holds asked for: in which realm, whose and which.
    held: Vec<(Realm, Party, ChangeId)>,
    now: Time,
}

impl Clients {
    /// Opens some accounts, and lists some items.
    pub fn new(world: &mut World) -> Clients {
        for &realm in Realm::ALL {
            for buyer in 1..=BUYERS {
                let balance = Amount(world.random.below(2_000));
                world.ask(realm, |commands| commands.create_account(Party(buyer), GBP, balance));
            }
            // The last one comes later.
            for item in 1..ITEMS {
                let (price, stock) = (1 + world.random.below(9), world.random.below(60));
                list(world, realm, item, price, stock);
            }
        }
        Clients { ids: 0, held: Vec::new(), now: world.now }
    }

    /// Every other one carries the time (UUID version 7).
    fn id(&mut self) -> u128 {
        self.ids += 1;
        let time = (self.now.0 / 1_000) as u128;
        if self.ids.is_multiple_of(2) {
            self.ids
        } else {
            time << 80 | 7 << 76 | 0b10 << 62 | self.ids
        }
    }

    /// One of them asks for something.
    pub fn act(&mut self, world: &mut World) {
        self.now = world.now;
        let realm = if world.random.one_in(5) { Realm::Drill } else { Realm::Live };
        let buyer = 1 + world.random.below(BUYERS);
        let item = 1 + world.random.below(ITEMS);
        match world.random.below(78) {
            60..64 => self.hold(world, realm),
            64..68 => self.settle_hold(world, realm),
            68..71 => self.issue_coupon(world, realm, buyer),
            71 => self.update_account(world, realm, buyer),
            72..78 => self.order_in_parts(world, realm, buyer),
            0..28 => self.order(world, realm, buyer),
            28..42 => self.change(world, realm),
            42..45 => {
                let (id, units) = (ChangeId(self.id()), 1 + world.random.below(12));
                world.ask(realm, |commands| commands.restock(id, ItemId(item), units));
            }
            45 | 46 => {
                let id = ChangeId(self.id());
                let update = ItemUpdate {
                    price: Some(Amount(world.random.below(20))),
                    limit: Some(if world.random.one_in(4) { 9 } else { 0 }),
                    window: None,
                };
                world.ask(realm, |commands| commands.update_item(id, ItemId(item), update));
            }
            47 => list(world, realm, item, 5, 20),
            48..53 => self.transfer(world, realm),
            53 | 54 => {
                let node = world.random.below(u64::from(world.shards())) as usize;
                let count = 1 + world.random.below(4) as u32;
                world.tell(node, realm, |commands| commands.sweep(count));
            }
            55 | 56 => {
                let micros = world.random.below(STEP_MICROS);
                world.pass(micros);
            }
            _ => world.withdraw_some(),
        }
    }

    fn order(&mut self, world: &mut World, realm: Realm, buyer: u64) {
        let count = if world.random.one_in(3) { 1 + world.random.below(3) } else { 1 };
        let lines: Vec<(u64, u32)> = (0..count)
            .map(|_| {
                // Sometimes there is no such item.
                let one_more = u64::from(world.random.one_in(20));
                let item = 1 + world.random.below(ITEMS + one_more);
                let most = if world.random.one_in(6) { 15 } else { 3 };
                (item, 1 + world.random.below(most) as u32)
            })
            .collect();
        let method = PaymentMethod::ALL[world.random.below(3) as usize];
        let deadline = match world.random.below(3) {
            0 => Time(world.now.0 + world.random.below(2 * STEP_MICROS)),
            _ => Time(0),
        };
        let order = if world.random.one_in(8) {
            1 + u128::from(world.random.below(1 + self.ids as u64))
        } else {
            self.id()
        };
        place(world, realm, (buyer, order), method, deadline, &lines);
    }

    /// Pays, cancels or refunds an order that was placed.
    fn change(&mut self, world: &mut World, realm: Realm) {
        let placed: Vec<_> = world
            .outcomes
            .iter()
            .filter(|((of, _, _), outcome)| *of == realm && **outcome == Outcome::Ok)
            .map(|(name, _)| (Party(name.1), OrderId(name.2)))
            .collect();
        if placed.is_empty() {
            return;
        }
        let (buyer, order) = placed[world.random.below(placed.len() as u64) as usize];
        let id = ChangeId(self.id());
        match world.random.below(8) {
            0 => {
                world.ask(realm, |commands| commands.pay(id, buyer, order, PaymentMethod::Balance));
            }
            5 | 6 => {
                let step = world.random.pick(&[
                    PayStep::External,
                    PayStep::External,
                    PayStep::Authorise,
                    PayStep::Void,
                ]);
                let leg = world.random.one_in(2).then(|| world.random.below(3) as u16);
                let amount = Amount(1 + world.random.below(30));
                let amount = world.random.one_in(2).then_some(amount);
                world.ask(realm, |commands| {
                    commands.pay_leg(id, buyer, order, step, leg, amount);
                });
            }
            7 => {
                world.ask(realm, |commands| commands.receive(id, buyer, order));
            }
            1 | 2 => {
                world.ask(realm, |commands| commands.cancel(id, buyer, order));
            }
            _ => {
                let line = RefundLine { quantity: 1.into(), ..RefundLine::default() };
                let lines = if world.random.one_in(2) { vec![line] } else { Vec::new() };
                let restock = !world.random.one_in(3);
                world.ask(realm, |commands| commands.refund(id, buyer, order, restock, &lines));
            }
        }
    }

    /// An order of lines of several payees, which is paid in several ways.
    fn order_in_parts(&mut self, world: &mut World, realm: Realm, buyer: u64) {
        let item = ItemId(1 + world.random.below(ITEMS));
        let units = Quantity(1 + world.random.below(4) as u32);
        let mut lines = vec![NewLine::goods(item, units)];
        if world.random.one_in(2) {
            let payee = Party(SELLERS + world.random.below(9));
            lines[0].payee = world.random.one_in(2).then_some(payee);
            let price = Amount(world.random.below(9));
            lines.push(NewLine::charge(LineKind::Shipping, payee, price));
        }
        let mut due = || match world.random.below(2) {
            0 => Time(world.now.0 + 1 + world.random.below(2 * STEP_MICROS)),
            _ => Time(0),
        };
        let awaited = [NewLeg::Awaited(Some(Amount(1)), due()), NewLeg::Awaited(None, due())];
        let mut legs = Vec::new();
        if world.random.one_in(2) {
            legs.push(NewLeg::Coupon(world.random.below(3)));
        }
        match world.random.below(4) {
            0 => legs.push(NewLeg::External(None)),
            1 => legs.push(NewLeg::Balance(None)),
            _ => legs.extend(awaited),
        }
        let order = OrderId(self.id());
        let forfeits = world.random.one_in(2);
        world.ask(realm, |commands| {
            let mut place = commands.place();
            lines.iter().for_each(|line| place.add(line));
            if forfeits {
                place.forfeits();
            }
            place.finish_legs(Party(buyer), order, GBP, &legs);
        });
    }

    /// A coupon of a buyer that a seller funds, who is at home elsewhere, or the platform.
    fn issue_coupon(&mut self, world: &mut World, realm: Realm, buyer: u64) {
        let seller = Party(SELLERS + 1 + world.random.below(ITEMS));
        let coupon = Coupon {
            funder: if world.random.one_in(3) { Party(0) } else { seller },
            seller: world.random.one_in(3).then_some(seller),
            currency: GBP,
            amount: Amount(1 + world.random.below(20)),
            minimum: Amount(world.random.below(9)),
            expires: Time(0),
        };
        let number = world.random.below(3);
        world.ask(realm, |commands| commands.issue_coupon(Party(buyer), number, &coupon));
    }

    fn update_account(&mut self, world: &mut World, realm: Realm, buyer: u64) {
        let id = ChangeId(self.id());
        match world.random.below(3) {
            0 => {
                let overdraft = Amount(world.random.below(100));
                world.ask(realm, |commands| {
                    commands.set_overdraft(id, Party(buyer), GBP, overdraft);
                });
            }
            1 => {
                let seller = Party(SELLERS + 1 + world.random.below(ITEMS));
                let kind = AccountKind::Settlement;
                world.ask(realm, |commands| commands.close_account(id, seller, GBP, kind));
            }
            _ => {
                // Somebody else's, with which nobody does anything but get money.
                let (party, kind) = (Party(BUYERS + 1), AccountKind::Main);
                world.ask(realm, |commands| commands.create_account(party, GBP, Amount(0)));
                world.ask(realm, |commands| commands.close_account(id, party, GBP, kind));
            }
        }
    }

    /// Somebody whose money is held, or captured for.
    fn party(&mut self, world: &mut World) -> (Party, AccountKind) {
        match world.random.below(4) {
            0 => (Party(SELLERS + 1 + world.random.below(ITEMS)), AccountKind::Settlement),
            _ => (Party(1 + world.random.below(BUYERS + 1)), AccountKind::Main),
        }
    }

    fn hold(&mut self, world: &mut World, realm: Realm) {
        let (id, account) = (ChangeId(self.id()), self.party(world));
        let amount = Amount(1 + world.random.below(80));
        let deadline = match world.random.below(2) {
            0 => Time(world.now.0 + 1 + world.random.below(2 * STEP_MICROS)),
            _ => Time(0),
        };
        self.held.push((realm, account.0, id));
        world.ask(realm, |commands| commands.hold(id, account, GBP, amount, deadline));
    }

    /// Captures or releases a hold, often for a party that is at home elsewhere.
    fn settle_hold(&mut self, world: &mut World, realm: Realm) {
        let of_realm: Vec<_> = self.held.iter().filter(|held| held.0 == realm).copied().collect();
        if of_realm.is_empty() {
            return;
        }
        let (_, party, hold) = of_realm[world.random.below(of_realm.len() as u64) as usize];
        let (id, credit) = (ChangeId(self.id()), self.party(world));
        let amount = Amount(1 + world.random.below(40));
        let amount = world.random.one_in(2).then_some(amount);
        match world.random.one_in(4) {
            true => world.ask(realm, |commands| commands.release_hold(id, party, hold)),
            false => world.ask(realm, |commands| {
                commands.capture_hold(id, party, hold, credit, amount);
            }),
        };
    }

    fn transfer(&mut self, world: &mut World, realm: Realm) {
        let id = ChangeId(self.id());
        let amount = Amount(1 + world.random.below(80));
        // One party more than there are.
        let mut buyer = || (Party(1 + world.random.below(BUYERS + 1)), AccountKind::Main);
        let (one, other) = (buyer(), buyer());
        let seller = (Party(SELLERS + 1 + world.random.below(ITEMS)), AccountKind::Settlement);
        let (debit, credit) = match world.random.below(8) {
            0 => (CLEARING, one),
            1 => (one, CLEARING),
            2 => (one, seller),
            3 | 4 => (seller, one),
            _ => (one, other),
        };
        world.ask(realm, |commands| commands.transfer(id, debit, credit, GBP, amount));
    }
}
