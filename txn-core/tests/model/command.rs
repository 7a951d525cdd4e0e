//! Commands as values, and random sequences of them.
//!
//! The shard is given a command as bytes, the model as it stands here; two commands have the
//! same content if they are equal. Sequences draw from few ids, so that commands meet: on the
//! same order, the same last unit, the same id with other content.

use model::record::{CommandBuffer, RefundLine};
use model::{
    AccountKind, Amount, ChangeId, Currency, ItemId, OrderId, Party, PaymentMethod, Quantity,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};

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
    pub fn write(&self, to: &mut CommandBuffer) {
        match *self {
            Command::CreateAccount { party, currency, balance } => {
                to.create_account(party, currency, balance);
            }
            Command::Transfer { id, debit, credit, currency, amount } => {
                to.transfer(id, debit, credit, currency, amount);
            }
            Command::CreateItem { item, seller, currency, price, stock } => {
                to.create_item(item, seller, currency, price, stock);
            }
            Command::Restock { id, item, quantity } => to.restock(id, item, quantity),
            Command::Place { buyer, id, currency, method, ref lines } => {
                let mut place = to.place();
                for line in lines {
                    place.line(line.item, line.quantity, line.agreed);
                }
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
        }
    }

    /// Its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        bytes_of(std::slice::from_ref(self))
    }

    /// A word for its kind.
    pub fn word(&self) -> &'static str {
        match self {
            Command::CreateAccount { .. } => "create account",
            Command::Transfer { .. } => "transfer",
            Command::CreateItem { .. } => "create item",
            Command::Restock { .. } => "restock",
            Command::Place { .. } => "place",
            Command::Pay { .. } => "pay",
            Command::Cancel { .. } => "cancel",
            Command::Refund { .. } => "refund",
        }
    }

    /// The order that it changes, to point it at another one.
    fn changed_order(&mut self) -> Option<(&mut Party, &mut OrderId)> {
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
        command.write(&mut buffer);
    }
    buffer.bytes().to_vec()
}

/// Buyers and sellers. The same numbers are items, so that only the kind of scope tells a
/// transfer's id from a restock's.
const PARTIES: &[u64] = &[1, 2, 3, u64::MAX];
const ITEMS: &[u64] = &[0, 1, 2, 3, u64::MAX];
/// Some differ in one half only, or are each other's halves swapped.
const ORDERS: &[u128] = &[1, 2, 3, 1 << 64, 2 << 64, 1 << 64 | 1, u128::MAX, u128::MAX - 1];
const CHANGES: &[u128] = &[0, 1, 2, 1 << 64, u128::MAX];

/// A currency beside pounds.
pub fn yen() -> Currency {
    Currency::from_code("JPY").expect("ISO 4217 lists it")
}

fn party() -> impl Strategy<Value = Party> + Clone {
    select(PARTIES).prop_map(Party)
}

fn item() -> impl Strategy<Value = ItemId> {
    select(ITEMS).prop_map(ItemId)
}

fn order() -> impl Strategy<Value = OrderId> {
    select(ORDERS).prop_map(OrderId)
}

fn change() -> impl Strategy<Value = ChangeId> {
    select(CHANGES).prop_map(ChangeId)
}

fn currency() -> impl Strategy<Value = Currency> {
    prop_oneof![9 => Just(Currency::GBP), 1 => Just(yen())]
}

fn balance() -> impl Strategy<Value = Amount> {
    prop_oneof![6 => 0u64..300, 1 => Amount::MAX.0 - 1..=Amount::MAX.0].prop_map(Amount)
}

fn price() -> impl Strategy<Value = Amount> {
    let third = Amount::MAX.0 / 3;
    prop_oneof![
        9 => 0u64..40,
        1 => third..=third + 1,
        1 => Amount::MAX.0 - 40..=Amount::MAX.0,
    ]
    .prop_map(Amount)
}

fn quantity() -> impl Strategy<Value = Quantity> {
    prop_oneof![
        12 => 1u32..5,
        1 => 1u32..100,
        1 => Quantity::MAX.0 - 1..=Quantity::MAX.0,
    ]
    .prop_map(Quantity)
}

/// An account that a transfer names. Clearing is the platform's, whatever party is named.
fn account() -> impl Strategy<Value = (Party, AccountKind)> {
    prop_oneof![
        4 => (party(), Just(AccountKind::Main)),
        2 => (party(), Just(AccountKind::Payable)),
        2 => (Just(Party(0)), Just(AccountKind::Clearing)),
        1 => (party(), Just(AccountKind::Clearing)),
    ]
}

fn create_account() -> impl Strategy<Value = Command> {
    (party(), currency(), balance()).prop_map(|(party, currency, balance)| Command::CreateAccount {
        party,
        currency,
        balance,
    })
}

fn create_item() -> impl Strategy<Value = Command> {
    let stock = prop_oneof![8 => 0u64..24, 1 => Just(model::money::STOCK_MAX)];
    (item(), party(), currency(), price(), stock).prop_map(
        |(item, seller, currency, price, stock)| Command::CreateItem {
            item,
            seller,
            currency,
            price,
            stock,
        },
    )
}

fn transfer() -> impl Strategy<Value = Command> {
    let amount = balance().prop_map(|amount| Amount(amount.0.max(1)));
    (change(), account(), account(), currency(), amount).prop_map(
        |(id, debit, credit, currency, amount)| Command::Transfer {
            id,
            debit,
            credit,
            currency,
            amount,
        },
    )
}

fn restock() -> impl Strategy<Value = Command> {
    let quantity = prop_oneof![8 => 1u64..8, 1 => Just(model::money::STOCK_MAX)];
    (change(), item(), quantity).prop_map(|(id, item, quantity)| Command::Restock {
        id,
        item,
        quantity,
    })
}

fn place() -> impl Strategy<Value = Command> {
    let line = (item(), quantity(), option::weighted(0.3, price()))
        .prop_map(|(item, quantity, agreed)| AskedLine { item, quantity, agreed });
    let method = select(PaymentMethod::ALL);
    (party(), order(), currency(), method, vec(line, 1..5)).prop_map(
        |(buyer, id, currency, method, lines)| Command::Place {
            buyer,
            id,
            currency,
            method,
            lines,
        },
    )
}

fn pay() -> impl Strategy<Value = Command> {
    let method = select(&[PaymentMethod::Balance, PaymentMethod::External][..]);
    (change(), party(), order(), method).prop_map(|(id, buyer, order, method)| Command::Pay {
        id,
        buyer,
        order,
        method,
    })
}

fn cancel() -> impl Strategy<Value = Command> {
    (change(), party(), order()).prop_map(|(id, buyer, order)| Command::Cancel { id, buyer, order })
}

fn refund() -> impl Strategy<Value = Command> {
    let line = prop_oneof![12 => 0u16..2, 3 => 0u16..5, 1 => Just(u16::MAX)];
    let units = prop_oneof![3 => Just(Quantity(1)), 1 => quantity()];
    let lines = vec((line, units), 0..4);
    (change(), party(), order(), any::<bool>(), lines).prop_map(
        |(id, buyer, order, restock, lines)| Command::Refund { id, buyer, order, restock, lines },
    )
}

/// A step of a sequence, which may look back at the steps before it.
#[derive(Clone, Debug)]
enum Step {
    New(Command),
    /// Once more what was asked before.
    Again(Index),
    /// A change of an order that was asked for before.
    OfEarlier(Command, Index),
}

/// A sequence of commands: some accounts and items, then anything.
pub fn commands() -> impl Strategy<Value = Vec<Command>> {
    let of_order = || prop_oneof![4 => pay(), 2 => cancel(), 5 => refund()];
    let step = prop_oneof![
        1 => create_account().prop_map(Step::New),
        1 => create_item().prop_map(Step::New),
        3 => transfer().prop_map(Step::New),
        2 => restock().prop_map(Step::New),
        10 => place().prop_map(Step::New),
        2 => of_order().prop_map(Step::New),
        10 => (of_order(), any::<Index>()).prop_map(|(command, of)| Step::OfEarlier(command, of)),
        5 => any::<Index>().prop_map(Step::Again),
    ];
    let opening = (vec(create_account(), 0..8), vec(create_item(), 0..10));
    (opening, vec(step, 1..120)).prop_map(|((accounts, items), steps)| {
        let mut commands = [accounts, items].concat();
        for step in steps {
            let command = match step {
                Step::New(command) => command,
                Step::Again(_) if commands.is_empty() => continue,
                Step::Again(of) => of.get(&commands).clone(),
                Step::OfEarlier(command, of) => aimed(command, of, &commands),
            };
            commands.push(command);
        }
        commands
    })
}

/// The change, aimed at one of the orders asked for in `earlier`.
fn aimed(mut command: Command, at: Index, earlier: &[Command]) -> Command {
    let placed: Vec<(Party, OrderId)> = earlier
        .iter()
        .filter_map(|command| match *command {
            Command::Place { buyer, id, .. } => Some((buyer, id)),
            _ => None,
        })
        .collect();
    if let (Some((buyer, order)), false) = (command.changed_order(), placed.is_empty()) {
        (*buyer, *order) = *at.get(&placed);
    }
    command
}

/// How a sequence is cut: commands of a batch, and whether a frame ends behind it. Repeated
/// from the start when it is used up.
pub fn cuts() -> impl Strategy<Value = Vec<(usize, bool)>> {
    vec((1usize..25, any::<bool>()), 1..12)
}
