//! Short ways to write commands down. Everything is in pounds, and of one seller.

use model::record::{ItemUpdate, Sale};
use model::{
    AccountKind, Amount, ChangeId, Currency, ItemId, OrderId, Party, PaymentMethod, Quantity, Time,
};

use crate::command::{AskedLine, Command, at};

pub const GBP: Currency = Currency::GBP;

pub fn account(party: u64, balance: u64) -> Command {
    Command::CreateAccount { party: Party(party), currency: GBP, balance: Amount(balance) }
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
pub fn until(micros: u64, order: Command) -> Command {
    let Command::Place { buyer, id, currency, method, withdrawn, lines, .. } = order else {
        panic!("only orders expire");
    };
    let deadline = at(micros);
    Command::Place { buyer, id, currency, method, deadline, withdrawn, lines }
}

/// The order, as a shell gives it that has cancelled it while it waited.
pub fn withdrawn(order: Command) -> Command {
    let Command::Place { buyer, id, currency, method, deadline, lines, .. } = order else {
        panic!("only orders are withdrawn");
    };
    Command::Place { buyer, id, currency, method, deadline, withdrawn: true, lines }
}

pub fn place(buyer: u64, id: u128, method: PaymentMethod, lines: &[(u64, u32)]) -> Command {
    let line = |&(item, quantity)| AskedLine {
        item: ItemId(item),
        quantity: Quantity(quantity),
        agreed: None,
    };
    let lines = lines.iter().map(line).collect();
    let (buyer, id, deadline, withdrawn) = (Party(buyer), OrderId(id), Time(0), false);
    Command::Place { buyer, id, currency: GBP, method, deadline, withdrawn, lines }
}

pub fn pay(id: u128, buyer: u64, order: u128, method: PaymentMethod) -> Command {
    Command::Pay { id: ChangeId(id), buyer: Party(buyer), order: OrderId(order), method }
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
