//! Commands over few ids, given to a shard: whatever they are, money and units add up afterwards.
#![no_main]

use std::fmt;
use std::sync::LazyLock;

use libfuzzer_sys::arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use model::frame::FrameBuilder;
use model::money::STOCK_MAX;
use model::record::{
    Body, CommandBuffer, Coupon, LEGS_MAX, NewLeg, NewLine, Price, Record, Records, RefundLine,
    Sale,
};
use model::reply::{Query, View};
use model::{
    AccountKind, Amount, ChangeId, Currency, ItemId, LineKind, OrderId, Party, PayStep,
    PaymentMethod, Quantity, Realm, Time,
};
use txn_core::{Seat, Shard, SpareRegions};

/// Memory goes from one shard to the next.
static SPARE: LazyLock<SpareRegions> = LazyLock::new(SpareRegions::default);

fuzz_target!(
    // A shard maps huge pages, and to fill those with zeros takes longer than all else here.
    init: rustix::thread::disable_transparent_huge_pages(true).expect("the kernel knows the call"),
    |commands: Commands| {
        let (mut shard, mut replies) = (Shard::new(Seat::alone(), 7, SPARE.clone()), Vec::new());
        let (mut records, mut time) = (commands.records(), 0);
        while replies.len() < commands.count {
            let mut frame = FrameBuilder::default();
            time += 1_000_000;
            let applied = shard.apply(Time(time), &mut records, &mut frame, &mut replies);
            applied.expect("these are commands");
        }
        assert_sound(&shard, commands.records());
    }
);

fn assert_sound(shard: &Shard, commands: Records<'_>) {
    for (currency, balance) in shard.balances(Realm::Live) {
        assert!(balance.is_balanced(), "{currency}");
        assert_eq!(balance.overdrawn, 0, "{currency}");
    }
    for item in shard.items(Realm::Live) {
        let placed = [item.pool, item.available, item.reserved, item.sold];
        assert_eq!(placed.map(u128::from).iter().sum::<u128>(), item.stocked.into(), "{item:?}");
    }
    for command in commands.flatten().filter(|command| matches!(command.body, Body::Place { .. })) {
        let order = command.order().expect("it places one");
        let View::Order(order) = shard.query(Query::Order(command.party(), order)) else {
            continue;
        };
        assert!(order.refunded <= order.total, "{order:?}");
        assert!(order.lines.iter().all(|line| line.refunded <= line.quantity), "{order:?}");
    }
}

/// Commands, one behind the other.
struct Commands {
    bytes: Vec<u8>,
    count: usize,
}

impl Commands {
    fn records(&self) -> Records<'_> {
        Records::new(&self.bytes)
    }

    fn push(&mut self, bytes: &[u8]) {
        let split = Record::split(bytes);
        if split.is_ok_and(|(it, rest)| rest.is_empty() && it.check_undecided().is_ok()) {
            self.bytes.extend(bytes);
            self.count += 1;
        }
    }
}

impl fmt::Debug for Commands {
    /// A line for each.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut records = self.records().flatten();
        records.try_for_each(|record| writeln!(f, "{:?} {:?}", record.header, record.body))
    }
}

impl<'a> Arbitrary<'a> for Commands {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Commands> {
        let mut commands = Commands { bytes: Vec::new(), count: 0 };
        let mut placed = vec![(Party(1), OrderId(0))];
        let mut command = CommandBuffer::default();
        for id in 1..4 {
            command.create_account(Party(id), Currency::GBP, Amount(1_000));
            let sale = Sale { limit: if id == 3 { 5 } else { 0 }, ..Sale::default() };
            command.create_item(ItemId(id), Party(id), Currency::GBP, Amount(id), 100, sale);
        }
        for record in command.records().flatten() {
            commands.push(record.bytes);
        }
        while !u.is_empty() {
            command.clear();
            let fresh = commands.count as u128;
            write_command(u, fresh, &mut placed, &mut command)?;
            let mut bytes = command.bytes().to_vec();
            // Now and then one that no gateway would write, and the core must bear.
            if u.ratio(1, 16)? {
                let at = u.choose_index(bytes.len())?;
                bytes[at] = u.arbitrary()?;
            }
            commands.push(&bytes);
        }
        Ok(commands)
    }
}

/// Writes any command. Most ids are `fresh`, most changes are of orders that were `placed`.
fn write_command(
    u: &mut Unstructured<'_>,
    fresh: u128,
    placed: &mut Vec<(Party, OrderId)>,
    to: &mut CommandBuffer,
) -> Result<()> {
    let id = if u.ratio(1, 8)? { u.int_in_range(0..=fresh)? } else { fresh };
    let kind = u.int_in_range(0..=23)?;
    let (change, (buyer, order)) = (ChangeId(id), *u.choose(placed)?);
    match kind {
        0 => to.create_account(party(u)?, currency(u)?, amount(u)?),
        1 => {
            let sale = Sale { limit: quantity(u)?.0, ..Sale::default() };
            to.create_item(item(u)?, party(u)?, currency(u)?, amount(u)?, stock(u)?, sale);
        }
        2 | 3 => to.transfer(change, account(u)?, account(u)?, currency(u)?, amount(u)?),
        4 => to.restock(change, item(u)?, stock(u)?),
        5..=8 => {
            placed.push((party(u)?, OrderId(id)));
            let mut place = to.place();
            for _ in 0..u.int_in_range(1..=3)? {
                place.add(&line(u)?);
            }
            let (buyer, order) = placed[placed.len() - 1];
            if u.ratio(1, 2)? {
                place.finish(buyer, order, currency(u)?, *u.choose(PaymentMethod::ALL)?);
                return Ok(());
            }
            if u.ratio(1, 4)? {
                place.forfeits();
            }
            let mut legs = Vec::new();
            for _ in 0..u.int_in_range(1..=LEGS_MAX)? {
                legs.push(leg(u)?);
            }
            place.finish_legs(buyer, order, currency(u)?, &legs);
        }
        9 | 10 => {
            let method = *u.choose(&[PaymentMethod::Balance, PaymentMethod::External])?;
            to.pay(change, buyer, order, method);
        }
        11 | 12 => to.cancel(change, buyer, order),
        13 | 14 => {
            let leg = if u.ratio(1, 2)? { Some(u.int_in_range(0..=3)?) } else { None };
            let stated = if u.ratio(1, 2)? { Some(amount(u)?) } else { None };
            to.pay_leg(change, buyer, order, *u.choose(PayStep::ALL)?, leg, stated);
        }
        15 => to.receive(change, buyer, order),
        16 => {
            let seller = if u.ratio(1, 2)? { Some(party(u)?) } else { None };
            let coupon = Coupon {
                funder: party(u)?,
                seller,
                currency: currency(u)?,
                amount: amount(u)?,
                minimum: amount(u)?,
                expires: Time(0),
            };
            to.issue_coupon(party(u)?, u.int_in_range(0..=3)?, &coupon);
        }
        17 | 18 => to.hold(change, account(u)?, currency(u)?, amount(u)?, Time(0)),
        19 => {
            let hold = ChangeId(u.int_in_range(0..=fresh)?);
            let stated = if u.ratio(1, 2)? { Some(amount(u)?) } else { None };
            to.capture_hold(change, party(u)?, hold, account(u)?, stated);
        }
        20 => to.release_hold(change, party(u)?, ChangeId(u.int_in_range(0..=fresh)?)),
        21 => to.set_overdraft(change, party(u)?, currency(u)?, amount(u)?),
        22 => to.close_account(change, party(u)?, currency(u)?, *u.choose(AccountKind::ALL)?),
        _ => {
            let mut lines = Vec::new();
            for _ in 0..u.int_in_range(0..=3)? {
                let (line, quantity) = (u.int_in_range(0..=3u16)?, quantity(u)?.0);
                let (line, quantity) = (line.into(), quantity.into());
                lines.push(RefundLine { line, quantity, ..RefundLine::default() });
            }
            to.refund(change, buyer, order, u.ratio(1, 2)?, &lines);
        }
    }
    Ok(())
}

fn line(u: &mut Unstructured<'_>) -> Result<NewLine> {
    let quantity = quantity(u)?;
    let line = NewLine::goods(item(u)?, quantity);
    Ok(match u.int_in_range(0..=7)? {
        0 => NewLine { price: Price::Agreed(amount(u)?), ..line },
        1 => NewLine { price: Price::Checked(amount(u)?), ..line },
        2 => NewLine { payee: Some(party(u)?), discount: amount(u)?, ..line },
        3 => {
            let charge = NewLine::charge(*u.choose(LineKind::ALL)?, party(u)?, amount(u)?);
            NewLine { quantity, discount: amount(u)?, ..charge }
        }
        _ => line,
    })
}

fn leg(u: &mut Unstructured<'_>) -> Result<NewLeg> {
    let stated = if u.ratio(3, 4)? { Some(amount(u)?) } else { None };
    Ok(match u.int_in_range(0..=3)? {
        0 => NewLeg::Balance(stated),
        1 => NewLeg::External(stated),
        2 => NewLeg::Awaited(stated, Time(u64::from(u.int_in_range(0..=15u8)?) * 1_000_000)),
        _ => NewLeg::Coupon(u.int_in_range(0..=3)?),
    })
}

fn party(u: &mut Unstructured<'_>) -> Result<Party> {
    u.choose(&[1, 2, 3, u64::MAX]).copied().map(Party)
}

fn item(u: &mut Unstructured<'_>) -> Result<ItemId> {
    u.choose(&[1, 2, 3, u64::MAX]).copied().map(ItemId)
}

fn currency(u: &mut Unstructured<'_>) -> Result<Currency> {
    let code = if u.ratio(1, 16)? { "JPY" } else { "GBP" };
    Ok(Currency::from_code(code).expect("ISO 4217 lists it"))
}

fn account(u: &mut Unstructured<'_>) -> Result<(Party, AccountKind)> {
    Ok((party(u)?, *u.choose(AccountKind::ALL)?))
}

fn amount(u: &mut Unstructured<'_>) -> Result<Amount> {
    few(u, Amount::MAX.0).map(Amount)
}

fn stock(u: &mut Unstructured<'_>) -> Result<u64> {
    few(u, STOCK_MAX)
}

fn quantity(u: &mut Unstructured<'_>) -> Result<Quantity> {
    Ok(Quantity(few(u, Quantity::MAX.0.into())? as u32))
}

/// Few, mostly, and else close to the most there may be: what is between decides nothing.
fn few(u: &mut Unstructured<'_>, most: u64) -> Result<u64> {
    let drawn = u64::from(u8::arbitrary(u)?);
    Ok(if drawn < 240 { drawn % 16 } else { most - drawn % 16 })
}
