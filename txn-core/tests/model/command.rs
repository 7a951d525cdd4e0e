//! Commands as values, and random sequences of them.
//!
//! The shard is given a command as bytes, the model as it stands here; two commands have the
//! same content if they are equal.
//!
//! Two of them are no commands themselves: [`Command::Wait`] lets time pass, and [`Command::Due`]
//! becomes a timer's command if a timer is due by then.

use model::record::{CommandBuffer, ItemUpdate, RefundLine, Sale, set_withdrawn};
use model::{
    AccountKind, Amount, ChangeId, Currency, ItemId, OrderId, Party, PaymentMethod, Quantity,
    Realm, Time,
};

/// What a shard can be asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    CreateAccount {
        party: Party,
        currency: Currency,
        balance: Amount,
    },
    Transfer {
        id: ChangeId,
        debit: (Party, AccountKind),
        credit: (Party, AccountKind),
        currency: Currency,
        amount: Amount,
    },
    CreateItem {
        item: ItemId,
        seller: Party,
        currency: Currency,
        price: Amount,
        stock: u64,
        sale: Sale,
    },
    UpdateItem {
        id: ChangeId,
        item: ItemId,
        update: ItemUpdate,
    },
    Restock {
        id: ChangeId,
        item: ItemId,
        quantity: u64,
    },
    Place {
        buyer: Party,
        id: OrderId,
        currency: Currency,
        method: PaymentMethod,
        deadline: Time,
        /// The shell says that the order was cancelled while it waited.
        withdrawn: bool,
        lines: Vec<AskedLine>,
    },
    Pay {
        id: ChangeId,
        buyer: Party,
        order: OrderId,
        method: PaymentMethod,
    },
    Cancel {
        id: ChangeId,
        buyer: Party,
        order: OrderId,
    },
    Refund {
        id: ChangeId,
        buyer: Party,
        order: OrderId,
        restock: bool,
        lines: Vec<(u16, Quantity)>,
    },
    Timer {
        buyer: Party,
        order: OrderId,
        due: Time,
    },
    Sweep {
        count: u32,
    },
    /// A new frame begins, so much later.
    Wait {
        micros: u64,
    },
    /// The timer that is due first fires, if one is due.
    Due,
}

/// A line of an order as the buyer asks for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AskedLine {
    pub item: ItemId,
    pub quantity: Quantity,
    /// The price agreed for a unit; `None`: the list price.
    pub agreed: Option<Amount>,
}

impl Command {
    /// Appends its bytes.
    pub fn write(&self, realm: Realm, to: &mut CommandBuffer) {
        to.set_realm(realm);
        match *self {
            Command::CreateAccount { party, currency, balance } => {
                to.create_account(party, currency, balance);
            }
            Command::Transfer { id, debit, credit, currency, amount } => {
                to.transfer(id, debit, credit, currency, amount);
            }
            Command::CreateItem { item, seller, currency, price, stock, sale } => {
                to.create_item(item, seller, currency, price, stock, sale);
            }
            Command::UpdateItem { id, item, update } => to.update_item(id, item, update),
            Command::Restock { id, item, quantity } => to.restock(id, item, quantity),
            Command::Place { withdrawn: true, .. } => {
                let mut bytes = self.as_sent().bytes_in(realm);
                set_withdrawn(&mut bytes, true);
                to.push_record(&bytes);
            }
            Command::Place { buyer, id, currency, method, deadline, ref lines, .. } => {
                let mut place = to.place();
                for line in lines {
                    place.line(line.item, line.quantity, line.agreed);
                }
                place.expires(deadline);
                place.finish(buyer, id, currency, method);
            }
            Command::Pay { id, buyer, order, method } => to.pay(id, buyer, order, method),
            Command::Cancel { id, buyer, order } => to.cancel(id, buyer, order),
            Command::Refund { id, buyer, order, restock, ref lines } => {
                let lines: Vec<RefundLine> = lines
                    .iter()
                    .map(|&(line, quantity)| RefundLine {
                        line: line.into(),
                        quantity: quantity.0.into(),
                        ..RefundLine::default()
                    })
                    .collect();
                to.refund(id, buyer, order, restock, &lines);
            }
            Command::Timer { buyer, order, due } => to.timer(buyer, order, due),
            Command::Sweep { count } => to.sweep(count),
            Command::Wait { .. } | Command::Due => panic!("{self:?} has no bytes"),
        }
    }

    /// Its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        self.bytes_in(Realm::Live)
    }

    /// Its bytes in a realm.
    pub fn bytes_in(&self, realm: Realm) -> Vec<u8> {
        let mut buffer = CommandBuffer::default();
        self.write(realm, &mut buffer);
        buffer.bytes().to_vec()
    }

    /// What its caller sent: a shell's mark is no part of it.
    pub fn as_sent(&self) -> Command {
        let mut sent = self.clone();
        if let Command::Place { withdrawn, .. } = &mut sent {
            *withdrawn = false;
        }
        sent
    }

    /// A word for its kind.
    pub fn word(&self) -> &'static str {
        match self {
            Command::CreateAccount { .. } => "create account",
            Command::Transfer { .. } => "transfer",
            Command::CreateItem { .. } => "create item",
            Command::UpdateItem { .. } => "update item",
            Command::Restock { .. } => "restock",
            Command::Place { .. } => "place",
            Command::Pay { .. } => "pay",
            Command::Cancel { .. } => "cancel",
            Command::Refund { .. } => "refund",
            Command::Timer { .. } => "timer",
            Command::Sweep { .. } => "sweep",
            Command::Wait { .. } => "wait",
            Command::Due => "due",
        }
    }

    /// The order that it changes, to point it at another one.
    pub fn changed_order(&mut self) -> Option<(&mut Party, &mut OrderId)> {
        match self {
            Command::Pay { buyer, order, .. }
            | Command::Cancel { buyer, order, .. }
            | Command::Refund { buyer, order, .. } => Some((buyer, order)),
            _ => None,
        }
    }
}

/// The bytes of commands, one behind the other.
pub fn bytes_of(commands: &[Command]) -> Vec<u8> {
    let mut buffer = CommandBuffer::default();
    for command in commands {
        command.write(Realm::Live, &mut buffer);
    }
    buffer.bytes().to_vec()
}

/// A currency beside pounds.
pub fn yen() -> Currency {
    Currency::from_code("JPY").expect("ISO 4217 lists it")
}

/// The length of a step of settlement in these tests.
pub const STEP_MICROS: u64 = 1_000_000;
/// The time of the first frame: in the middle of a step.
pub const START: Time = Time(20_201_111 * STEP_MICROS + STEP_MICROS / 2);

/// A moment after the start.
pub fn at(micros: u64) -> Time {
    Time(START.0 + micros)
}
