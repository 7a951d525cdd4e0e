//! Commands as values, and random sequences of them.
//!
//! The shard is given a command as bytes, the model as it stands here; two commands have the
//! same content if they are equal.
//!
//! Two of them are no commands themselves: [`Command::Wait`] lets time pass, and [`Command::Due`]
//! becomes a timer's command if a timer is due by then.

use model::record::{
    CommandBuffer, Coupon, ItemUpdate, NewLeg, NewLine, RefundLine, Sale, TimerKind, set_withdrawn,
};
use model::{
    AccountKind, Amount, ChangeId, Currency, ItemId, OrderId, Party, PayStep, Quantity, Realm, Time,
};

/// What a shard can be asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    CreateAccount {
        party: Party,
        currency: Currency,
        balance: Amount,
        overdraft: Amount,
    },
    SetOverdraft {
        id: ChangeId,
        party: Party,
        currency: Currency,
        overdraft: Amount,
    },
    Close {
        id: ChangeId,
        account: (Party, AccountKind),
        currency: Currency,
    },
    Hold {
        id: ChangeId,
        account: (Party, AccountKind),
        currency: Currency,
        amount: Amount,
        deadline: Time,
    },
    Capture {
        id: ChangeId,
        party: Party,
        hold: ChangeId,
        credit: (Party, AccountKind),
        /// `None`: all that is left.
        amount: Option<Amount>,
    },
    Release {
        id: ChangeId,
        party: Party,
        hold: ChangeId,
    },
    IssueCoupon {
        buyer: Party,
        number: u64,
        coupon: Coupon,
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
        legs: Vec<NewLeg>,
        /// What was paid is the sellers' when it expires.
        forfeits: bool,
        /// The shell says that the order was cancelled while it waited.
        withdrawn: bool,
        lines: Vec<NewLine>,
    },
    Pay {
        id: ChangeId,
        buyer: Party,
        order: OrderId,
        step: PayStep,
        /// `None`: the first that is open.
        leg: Option<u16>,
        /// `None`: what is open of it.
        amount: Option<Amount>,
    },
    Receive {
        id: ChangeId,
        buyer: Party,
        order: OrderId,
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
        kind: TimerKind,
        party: Party,
        id: u128,
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

impl Command {
    /// Appends its bytes.
    pub fn write(&self, realm: Realm, to: &mut CommandBuffer) {
        to.set_realm(realm);
        match *self {
            Command::CreateAccount { party, currency, balance, overdraft } => {
                to.create_overdraft(party, currency, balance, overdraft);
            }
            Command::SetOverdraft { id, party, currency, overdraft } => {
                to.set_overdraft(id, party, currency, overdraft);
            }
            Command::Close { id, account: (party, kind), currency } => {
                to.close_account(id, party, currency, kind);
            }
            Command::Hold { id, account, currency, amount, deadline } => {
                to.hold(id, account, currency, amount, deadline);
            }
            Command::Capture { id, party, hold, credit, amount } => {
                to.capture_hold(id, party, hold, credit, amount);
            }
            Command::Release { id, party, hold } => to.release_hold(id, party, hold),
            Command::IssueCoupon { buyer, number, ref coupon } => {
                to.issue_coupon(buyer, number, coupon);
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
            Command::Place { buyer, id, currency, ref legs, forfeits, ref lines, .. } => {
                let mut place = to.place();
                lines.iter().for_each(|line| place.add(line));
                if forfeits {
                    place.forfeits();
                }
                place.finish_legs(buyer, id, currency, legs);
            }
            Command::Pay { id, buyer, order, step, leg, amount } => {
                to.pay_leg(id, buyer, order, step, leg, amount);
            }
            Command::Receive { id, buyer, order } => to.receive(id, buyer, order),
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
            Command::Timer { kind, party, id, due } => to.timer(kind, party, id, due),
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
            Command::SetOverdraft { .. } => "set overdraft",
            Command::Close { .. } => "close",
            Command::Hold { .. } => "hold",
            Command::Capture { .. } => "capture",
            Command::Release { .. } => "release",
            Command::IssueCoupon { .. } => "issue coupon",
            Command::Transfer { .. } => "transfer",
            Command::CreateItem { .. } => "create item",
            Command::UpdateItem { .. } => "update item",
            Command::Restock { .. } => "restock",
            Command::Place { .. } => "place",
            Command::Pay { .. } => "pay",
            Command::Receive { .. } => "receive",
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
            | Command::Receive { buyer, order, .. }
            | Command::Cancel { buyer, order, .. }
            | Command::Refund { buyer, order, .. } => Some((buyer, order)),
            _ => None,
        }
    }

    /// The hold that it settles, to point it at another one.
    pub fn settled_hold(&mut self) -> Option<(&mut Party, &mut ChangeId)> {
        match self {
            Command::Capture { party, hold, .. } | Command::Release { party, hold, .. } => {
                Some((party, hold))
            }
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
