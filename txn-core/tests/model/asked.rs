//! Short ways to write commands down. Everything is in pounds, and of one seller.

use model::record::{Coupon, ItemUpdate, NewLeg, NewLine, Price, Sale, TimerKind};
use model::{
    AccountKind, Amount, ChangeId, Currency, ItemId, LineKind, OrderId, Party, PayStep,
    PaymentMethod, Quantity, Time,
};

use crate::command::{Command, at};

pub const GBP: Currency = Currency::GBP;

pub fn account(party: u64, balance: u64) -> Command {
    overdraft(party, balance, 0)
}

/// An account that may go below zero.
pub fn overdraft(party: u64, balance: u64, overdraft: u64) -> Command {
    let (balance, overdraft) = (Amount(balance), Amount(overdraft));
    Command::CreateAccount { party: Party(party), currency: GBP, balance, overdraft }
}

pub fn set_overdraft(id: u128, party: u64, overdraft: u64) -> Command {
    let (id, overdraft) = (ChangeId(id), Amount(overdraft));
    Command::SetOverdraft { id, party: Party(party), currency: GBP, overdraft }
}

pub fn close(id: u128, account: (Party, AccountKind)) -> Command {
    Command::Close { id: ChangeId(id), account, currency: GBP }
}

/// Holds money of an account, until so much after the start; 0: for ever.
pub fn hold(id: u128, account: (Party, AccountKind), amount: u64, until: u64) -> Command {
    let (amount, deadline) = (Amount(amount), if until == 0 { Time(0) } else { at(until) });
    Command::Hold { id: ChangeId(id), account, currency: GBP, amount, deadline }
}

/// Captures so much of a hold; 0: all that is left.
pub fn capture(
    id: u128,
    party: u64,
    hold: u128,
    credit: (Party, AccountKind),
    amount: u64,
) -> Command {
    let amount = (amount != 0).then_some(Amount(amount));
    let (id, hold) = (ChangeId(id), ChangeId(hold));
    Command::Capture { id, party: Party(party), hold, credit, amount }
}

pub fn release(id: u128, party: u64, hold: u128) -> Command {
    Command::Release { id: ChangeId(id), party: Party(party), hold: ChangeId(hold) }
}

/// A coupon that the platform funds, for everything, without a minimum, for ever.
pub fn coupon(amount: u64) -> Coupon {
    Coupon {
        funder: Party(0),
        seller: None,
        currency: GBP,
        amount: Amount(amount),
        minimum: Amount(0),
        expires: Time(0),
    }
}

pub fn issue(buyer: u64, number: u64, coupon: Coupon) -> Command {
    Command::IssueCoupon { buyer: Party(buyer), number, coupon }
}

pub fn item(item: u64, price: u64, stock: u64) -> Command {
    sale_of(item, price, stock, Sale::default())
}

/// An item of [`SELLER`] with a window or a limit.
pub fn sale_of(item: u64, price: u64, stock: u64, sale: Sale) -> Command {
    let (seller, price) = (SELLER, Amount(price));
    Command::CreateItem { item: ItemId(item), seller, currency: GBP, price, stock, sale }
}

/// At most so many units for a buyer.
pub fn at_most(limit: u32) -> Sale {
    Sale { limit, ..Sale::default() }
}

pub fn update(id: u128, item: u64, update: ItemUpdate) -> Command {
    Command::UpdateItem { id: ChangeId(id), item: ItemId(item), update }
}

pub fn wait(micros: u64) -> Command {
    Command::Wait { micros }
}

pub fn sweep(count: u32) -> Command {
    Command::Sweep { count }
}

/// The order, which expires so much after the start.
pub fn until(micros: u64, mut order: Command) -> Command {
    match &mut order {
        Command::Place { legs, .. } => match &mut legs[..] {
            [NewLeg::Awaited(_, deadline)] => *deadline = at(micros),
            _ => panic!("only what is awaited has a deadline"),
        },
        _ => panic!("only orders expire"),
    }
    order
}

/// The order, as a shell gives it that has cancelled it while it waited.
pub fn withdrawn(mut order: Command) -> Command {
    match &mut order {
        Command::Place { withdrawn, .. } => *withdrawn = true,
        _ => panic!("only orders are withdrawn"),
    }
    order
}

/// The order, of which what was paid is forfeit when it expires.
pub fn forfeiting(mut order: Command) -> Command {
    match &mut order {
        Command::Place { forfeits, .. } => *forfeits = true,
        _ => panic!("only orders are forfeit"),
    }
    order
}

pub fn place(buyer: u64, id: u128, method: PaymentMethod, lines: &[(u64, u32)]) -> Command {
    let leg = match method {
        PaymentMethod::Awaited => NewLeg::Awaited(None, Time(0)),
        PaymentMethod::Balance => NewLeg::Balance(None),
        PaymentMethod::External => NewLeg::External(None),
        PaymentMethod::Coupon => panic!("a coupon has a number"),
    };
    let lines: Vec<NewLine> = lines.iter().map(|&(item, units)| goods(item, units)).collect();
    order(buyer, id, &[leg], &lines)
}

/// An order of any lines, paid in any ways.
pub fn order(buyer: u64, id: u128, legs: &[NewLeg], lines: &[NewLine]) -> Command {
    Command::Place {
        buyer: Party(buyer),
        id: OrderId(id),
        currency: GBP,
        legs: legs.to_vec(),
        forfeits: false,
        withdrawn: false,
        lines: lines.to_vec(),
    }
}

pub fn goods(item: u64, quantity: u32) -> NewLine {
    NewLine::goods(ItemId(item), Quantity(quantity))
}

pub fn agreed(price: u64, line: NewLine) -> NewLine {
    NewLine { price: Price::Agreed(Amount(price)), ..line }
}

pub fn checked(price: u64, line: NewLine) -> NewLine {
    NewLine { price: Price::Checked(Amount(price)), ..line }
}

pub fn less(discount: u64, line: NewLine) -> NewLine {
    NewLine { discount: Amount(discount), ..line }
}

pub fn paid_to(payee: u64, line: NewLine) -> NewLine {
    NewLine { payee: Some(Party(payee)), ..line }
}

pub fn charge(kind: LineKind, payee: u64, price: u64) -> NewLine {
    NewLine::charge(kind, Party(payee), Amount(price))
}

/// A leg that is awaited until so much after the start; 0: for ever.
pub fn awaited(amount: u64, until: u64) -> NewLeg {
    NewLeg::Awaited(Some(Amount(amount)), if until == 0 { Time(0) } else { at(until) })
}

/// The rest, awaited until so much after the start; 0: for ever.
pub fn rest_until(until: u64) -> NewLeg {
    NewLeg::Awaited(None, if until == 0 { Time(0) } else { at(until) })
}

pub fn balance(amount: u64) -> NewLeg {
    NewLeg::Balance(Some(Amount(amount)))
}

pub fn external(amount: u64) -> NewLeg {
    NewLeg::External(Some(Amount(amount)))
}

pub fn pay(id: u128, buyer: u64, order: u128, method: PaymentMethod) -> Command {
    let step = match method {
        PaymentMethod::Balance => PayStep::Balance,
        _ => PayStep::External,
    };
    pay_leg(id, buyer, order, step, None, None)
}

pub fn pay_leg(
    id: u128,
    buyer: u64,
    order: u128,
    step: PayStep,
    leg: Option<u16>,
    amount: Option<u64>,
) -> Command {
    let (id, amount) = (ChangeId(id), amount.map(Amount));
    Command::Pay { id, buyer: Party(buyer), order: OrderId(order), step, leg, amount }
}

pub fn receive(id: u128, buyer: u64, order: u128) -> Command {
    Command::Receive { id: ChangeId(id), buyer: Party(buyer), order: OrderId(order) }
}

/// The timer of an order, due so much after the start.
pub fn timer(buyer: u64, order: u128, due: u64) -> Command {
    Command::Timer { kind: TimerKind::Order, party: Party(buyer), id: order, due: at(due) }
}

pub fn cancel(id: u128, buyer: u64, order: u128) -> Command {
    Command::Cancel { id: ChangeId(id), buyer: Party(buyer), order: OrderId(order) }
}

pub fn refund(id: u128, buyer: u64, order: u128, lines: &[(u16, u32)]) -> Command {
    Command::Refund {
        id: ChangeId(id),
        buyer: Party(buyer),
        order: OrderId(order),
        restock: true,
        lines: lines.iter().map(|&(line, quantity)| (line, Quantity(quantity))).collect(),
    }
}

pub fn restock(id: u128, item: u64, quantity: u64) -> Command {
    Command::Restock { id: ChangeId(id), item: ItemId(item), quantity }
}

pub fn transfer(
    id: u128,
    debit: (Party, AccountKind),
    credit: (Party, AccountKind),
    amount: u64,
) -> Command {
    let amount = Amount(amount);
    Command::Transfer { id: ChangeId(id), debit, credit, currency: GBP, amount }
}

pub const SELLER: Party = Party(900);
pub const CLEARING: (Party, AccountKind) = (Party(0), AccountKind::Clearing);
pub const SETTLEMENT: (Party, AccountKind) = (SELLER, AccountKind::Settlement);

pub fn main_of(party: u64) -> (Party, AccountKind) {
    (Party(party), AccountKind::Main)
}
