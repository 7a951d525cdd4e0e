//! Random sequences of commands.
//!
//! They draw from few ids, so that commands meet: on the same order, the same last unit, the same
//! deadline, the same id with other content.

use model::record::{Coupon, ItemUpdate, LEGS_MAX, NewLeg, NewLine, Price, Sale, TimerKind};
use model::{
    AccountKind, Amount, ChangeId, Currency, ItemId, LineKind, OrderId, Party, PayStep, Quantity,
    Realm, Time,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::command::{Command, STEP_MICROS, at, yen};

/// Buyers and sellers. The same numbers are items, so that only the kind of scope tells a
/// transfer's id from a restock's.
const PARTIES: &[u64] = &[1, 2, 3, u64::MAX];
const ITEMS: &[u64] = &[0, 1, 2, 3, u64::MAX];
/// Some differ in one half only, or are each other's halves swapped.
const ORDERS: &[u128] = &[1, 2, 3, 1 << 64, 2 << 64, 1 << 64 | 1, u128::MAX, u128::MAX - 1];
const CHANGES: &[u128] = &[0, 1, 2, 1 << 64, u128::MAX];

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
        2 => (party(), Just(AccountKind::Settlement)),
        1 => (party(), Just(AccountKind::Suspense)),
        2 => (Just(Party(0)), Just(AccountKind::Clearing)),
        1 => (party(), Just(AccountKind::Clearing)),
    ]
}

/// An account that only its party disposes of.
fn own_account() -> impl Strategy<Value = (Party, AccountKind)> {
    let kind = prop_oneof![
        6 => Just(AccountKind::Main),
        2 => Just(AccountKind::Settlement),
        1 => Just(AccountKind::Suspense),
    ];
    (party(), kind)
}

fn overdraft() -> impl Strategy<Value = Amount> {
    prop_oneof![4 => Just(0), 2 => 1u64..60, 1 => Just(Amount::MAX.0)].prop_map(Amount)
}

fn create_account() -> impl Strategy<Value = Command> {
    (party(), currency(), balance(), overdraft()).prop_map(
        |(party, currency, balance, overdraft)| Command::CreateAccount {
            party,
            currency,
            balance,
            overdraft,
        },
    )
}

fn update_account() -> impl Strategy<Value = Command> {
    let set = (change(), party(), currency(), overdraft()).prop_map(
        |(id, party, currency, overdraft)| Command::SetOverdraft { id, party, currency, overdraft },
    );
    let kind = prop_oneof![2 => Just(AccountKind::Main), 1 => Just(AccountKind::Settlement)];
    let close = (change(), party(), kind, currency()).prop_map(|(id, party, kind, currency)| {
        Command::Close { id, account: (party, kind), currency }
    });
    prop_oneof![set, close]
}

/// Takes all there is of a small account, so that it can be closed.
fn empty_and_close() -> impl Strategy<Value = Vec<Command>> {
    (party(), 1u64..5).prop_map(|(party, id)| {
        let (account, currency) = ((party, AccountKind::Main), Currency::GBP);
        let id = |n| ChangeId(u128::from(id * 1_000 + n));
        // In halves, as nobody knows how much it is.
        let mut commands: Vec<Command> = (0..9)
            .map(|n| Command::Transfer {
                id: id(n),
                debit: account,
                credit: (Party(0), AccountKind::Clearing),
                currency,
                amount: Amount(1 << (8 - n)),
            })
            .collect();
        commands
            .insert(0, Command::SetOverdraft { id: id(10), party, currency, overdraft: Amount(0) });
        commands.push(Command::Close { id: id(11), account, currency });
        commands
    })
}

fn hold() -> impl Strategy<Value = Command> {
    let amount = prop_oneof![9 => 1u64..60, 1 => Just(Amount::MAX.0)];
    (change(), own_account(), currency(), amount, deadline()).prop_map(
        |(id, account, currency, amount, deadline)| Command::Hold {
            id,
            account,
            currency,
            amount: Amount(amount),
            deadline,
        },
    )
}

fn settle_hold() -> impl Strategy<Value = Command> {
    let amount = option::of((1u64..40).prop_map(Amount));
    let capture = (change(), party(), change(), account(), amount).prop_map(
        |(id, party, hold, credit, amount)| Command::Capture { id, party, hold, credit, amount },
    );
    let release = (change(), party(), change()).prop_map(|(id, party, hold)| Command::Release {
        id,
        party,
        hold,
    });
    prop_oneof![3 => capture, 1 => release]
}

/// Parties that fund coupons; the platform itself among them.
fn funder() -> impl Strategy<Value = Party> {
    prop_oneof![1 => Just(Party(0)), 2 => party()]
}

fn coupon_number() -> impl Strategy<Value = u64> {
    select(&[0, 1, 2, u64::MAX][..])
}

fn issue_coupon() -> impl Strategy<Value = Command> {
    let amount = prop_oneof![8 => 1u64..60, 1 => Just(Amount::MAX.0)];
    let minimum = prop_oneof![3 => Just(0), 2 => 1u64..80];
    let expires = prop_oneof![3 => Just(Time(0)), 1 => moment()];
    let currency = prop_oneof![20 => Just(Currency::GBP), 1 => Just(yen())];
    (party(), coupon_number(), funder(), option::of(party()), currency, amount, minimum, expires)
        .prop_map(|(buyer, number, funder, seller, currency, amount, minimum, expires)| {
            let (amount, minimum) = (Amount(amount), Amount(minimum));
            let coupon = Coupon { funder, seller, currency, amount, minimum, expires };
            Command::IssueCoupon { buyer, number, coupon }
        })
}

fn create_item() -> impl Strategy<Value = Command> {
    let stock = prop_oneof![8 => 0u64..24, 1 => Just(model::money::STOCK_MAX)];
    (item(), party(), currency(), price(), stock, window(), limit()).prop_map(
        |(item, seller, currency, price, stock, (opens, closes), limit)| Command::CreateItem {
            item,
            seller,
            currency,
            price,
            stock,
            sale: Sale { opens, closes, limit },
        },
    )
}

/// A moment of a sale or an order: the start, when steps end, and the microseconds beside them.
fn moment() -> impl Strategy<Value = Time> {
    let step = (0u64..4).prop_map(|n| n * STEP_MICROS + STEP_MICROS / 2);
    prop_oneof![
        4 => (step, 0u64..3).prop_map(|(step, near)| Time(at(step).0 - 1 + near)),
        1 => (0u64..3).prop_map(|near| Time(at(0).0 - 1 + near)),
        1 => select(&[Time(1), Time::MAX][..]),
    ]
}

/// When a sale begins and ends; mostly at once and never.
fn window() -> impl Strategy<Value = (Time, Time)> {
    let none = Time(0);
    prop_oneof![
        5 => Just((none, none)),
        1 => moment().prop_map(move |opens| (opens, none)),
        1 => moment().prop_map(move |closes| (none, closes)),
        1 => (moment(), moment()).prop_map(move |(one, other)| match one.cmp(&other) {
            std::cmp::Ordering::Less => (one, other),
            std::cmp::Ordering::Equal => (one, none),
            std::cmp::Ordering::Greater => (other, one),
        }),
    ]
}

fn limit() -> impl Strategy<Value = u32> {
    prop_oneof![3 => Just(0), 2 => 1u32..9, 1 => Just(Quantity::MAX.0)]
}

fn update_item() -> impl Strategy<Value = Command> {
    let update = (option::of(price()), option::of(window()), option::of(limit())).prop_map(
        |(price, window, limit)| {
            let nothing = price.is_none() && window.is_none() && limit.is_none();
            ItemUpdate { price, window, limit: if nothing { Some(0) } else { limit } }
        },
    );
    (change(), item(), update).prop_map(|(id, item, update)| Command::UpdateItem {
        id,
        item,
        update,
    })
}

fn sweep() -> impl Strategy<Value = Command> {
    (1u32..6).prop_map(|count| Command::Sweep { count })
}

fn wait() -> impl Strategy<Value = Command> {
    // Frames of the same time follow each other too.
    let micros = select(&[0, 1, 1, STEP_MICROS / 2, STEP_MICROS, 2 * STEP_MICROS][..]);
    micros.prop_map(|micros| Command::Wait { micros })
}

fn timer() -> impl Strategy<Value = Command> {
    let kind = prop_oneof![Just(TimerKind::Order), Just(TimerKind::Hold)];
    (kind, party(), order(), moment()).prop_map(|(kind, party, order, due)| Command::Timer {
        kind,
        party,
        id: order.0,
        due,
    })
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

/// When something ends; half of all things never do.
fn deadline() -> impl Strategy<Value = Time> {
    prop_oneof![1 => Just(Time(0)), 1 => moment()]
}

/// Units of an item, sometimes at a price of its own, for another payee, or for less.
fn goods() -> impl Strategy<Value = NewLine> {
    let price = prop_oneof![
        6 => Just(Price::List),
        3 => price().prop_map(Price::Agreed),
        1 => price().prop_map(Price::Checked),
    ];
    let payee = option::weighted(0.1, party());
    let discount = prop_oneof![5 => Just(0u64), 2 => 1u64..25];
    (item(), quantity(), price, payee, discount).prop_map(
        |(item, quantity, price, payee, discount)| NewLine {
            price,
            payee,
            discount: Amount(discount),
            ..NewLine::goods(item, quantity)
        },
    )
}

/// Shipping, a tax or a fee. The platform is a payee like any other.
fn charge() -> impl Strategy<Value = NewLine> {
    let kind = select(&[LineKind::Shipping, LineKind::Tax, LineKind::Fee][..]);
    let discount = prop_oneof![3 => Just(0u64), 1 => 1u64..9];
    (kind, funder(), 1u32..4, price(), discount).prop_map(
        |(kind, payee, quantity, price, discount)| NewLine {
            quantity: Quantity(quantity),
            discount: Amount(discount),
            ..NewLine::charge(kind, payee, price)
        },
    )
}

/// Legs of an order: one that pays all, or coupons and parts, and one that pays the rest.
fn legs() -> impl Strategy<Value = Vec<NewLeg>> {
    let whole = || {
        prop_oneof![
            1 => Just(NewLeg::Balance(None)),
            1 => Just(NewLeg::External(None)),
            2 => deadline().prop_map(|deadline| NewLeg::Awaited(None, deadline)),
        ]
    };
    let amount = || (0u64..20).prop_map(|amount| Some(Amount(amount)));
    let part = prop_oneof![
        3 => coupon_number().prop_map(NewLeg::Coupon),
        1 => amount().prop_map(NewLeg::Balance),
        1 => amount().prop_map(NewLeg::External),
        2 => (amount(), deadline()).prop_map(|(amount, due)| NewLeg::Awaited(amount, due)),
    ];
    let parts = vec(part, 0..LEGS_MAX);
    let several =
        (parts, option::weighted(0.9, whole()), any::<Index>()).prop_map(|(mut legs, rest, at)| {
            let rest = rest.or(legs.is_empty().then_some(NewLeg::Coupon(1)));
            if let Some(rest) = rest {
                legs.insert(at.index(legs.len() + 1), rest);
            }
            legs
        });
    prop_oneof![3 => whole().prop_map(|leg| vec![leg]), 4 => several]
}

fn place() -> impl Strategy<Value = Command> {
    let withdrawn = prop_oneof![12 => Just(false), 1 => Just(true)];
    let line = prop_oneof![5 => goods(), 1 => charge()];
    (party(), order(), currency(), legs(), any::<bool>(), withdrawn, vec(line, 1..5)).prop_map(
        |(buyer, id, currency, legs, forfeits, withdrawn, lines)| Command::Place {
            buyer,
            id,
            currency,
            legs,
            forfeits,
            withdrawn,
            lines,
        },
    )
}

fn pay() -> impl Strategy<Value = Command> {
    let step = prop_oneof![
        3 => Just(PayStep::Balance),
        5 => Just(PayStep::External),
        2 => Just(PayStep::Authorise),
        1 => Just(PayStep::Void),
    ];
    let leg = option::weighted(0.4, prop_oneof![5 => 0u16..3, 1 => 3u16..LEGS_MAX as u16]);
    let amount = prop_oneof![8 => 1u64..40, 1 => Just(Amount::MAX.0)];
    let amount = option::weighted(0.4, amount.prop_map(Amount));
    (change(), party(), order(), step, leg, amount).prop_map(
        |(id, buyer, order, step, leg, amount)| Command::Pay {
            id,
            buyer,
            order,
            step,
            leg,
            amount,
        },
    )
}

fn receive() -> impl Strategy<Value = Command> {
    (change(), party(), order()).prop_map(|(id, buyer, order)| Command::Receive {
        id,
        buyer,
        order,
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
    /// An order that was asked for before, as a shell gives it that has cancelled it.
    Withdrawn(Index),
    /// A change of an order, or of a hold, that was asked for before.
    OfEarlier(Command, Index),
    /// One behind the other.
    All(Vec<Command>),
}

/// A sequence of commands: some accounts and items, then anything.
pub fn commands() -> impl Strategy<Value = Vec<Command>> {
    let of_order = || prop_oneof![7 => pay(), 2 => cancel(), 5 => refund(), 1 => receive()];
    let step = prop_oneof![
        1 => create_account().prop_map(Step::New),
        1 => create_item().prop_map(Step::New),
        3 => transfer().prop_map(Step::New),
        1 => update_account().prop_map(Step::New),
        1 => empty_and_close().prop_map(Step::All),
        3 => hold().prop_map(Step::New),
        4 => (settle_hold(), any::<Index>()).prop_map(|(command, of)| Step::OfEarlier(command, of)),
        3 => issue_coupon().prop_map(Step::New),
        2 => restock().prop_map(Step::New),
        2 => update_item().prop_map(Step::New),
        3 => wait().prop_map(Step::New),
        4 => Just(Step::New(Command::Due)),
        1 => timer().prop_map(Step::New),
        3 => sweep().prop_map(Step::New),
        10 => place().prop_map(Step::New),
        2 => of_order().prop_map(Step::New),
        14 => (of_order(), any::<Index>()).prop_map(|(command, of)| Step::OfEarlier(command, of)),
        5 => any::<Index>().prop_map(Step::Again),
        1 => any::<Index>().prop_map(Step::Withdrawn),
    ];
    let opening =
        (vec(create_account(), 0..8), vec(create_item(), 0..10), vec(issue_coupon(), 0..6));
    (opening, vec(step, 1..120)).prop_map(|((accounts, items, coupons), steps)| {
        let mut commands = [accounts, items, coupons].concat();
        for step in steps {
            let command = match step {
                Step::New(command) => command,
                Step::All(several) => {
                    commands.extend(several);
                    continue;
                }
                Step::Again(_) if commands.is_empty() => continue,
                Step::Again(of) => of.get(&commands).clone(),
                Step::Withdrawn(of) => match commands.is_empty() {
                    true => continue,
                    false => withdrawn(of.get(&commands)),
                },
                Step::OfEarlier(command, of) => aimed(command, of, &commands),
            };
            commands.push(command);
        }
        commands
    })
}

/// The change, aimed at one of the orders or holds asked for in `earlier`.
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
    let held: Vec<(Party, ChangeId)> = earlier
        .iter()
        .filter_map(|command| match *command {
            Command::Hold { id, account, .. } => Some((account.0, id)),
            _ => None,
        })
        .collect();
    if let (Some((party, hold)), false) = (command.settled_hold(), held.is_empty()) {
        (*party, *hold) = *at.get(&held);
    }
    command
}

fn withdrawn(command: &Command) -> Command {
    let mut command = command.clone();
    if let Command::Place { withdrawn, .. } = &mut command {
        *withdrawn = true;
    }
    command
}

/// A sequence in both realms. They share every id, and the time.
pub fn commands_of_both() -> impl Strategy<Value = Vec<(Realm, Command)>> {
    let realm = || select(Realm::ALL);
    (commands(), commands(), vec(realm(), 1..40)).prop_map(|(live, drill, turns)| {
        let (mut live, mut drill) = (live.into_iter(), drill.into_iter());
        let mut both = Vec::new();
        for realm in turns.into_iter().cycle() {
            let next = match realm {
                Realm::Live => live.next(),
                Realm::Drill => drill.next(),
            };
            match next {
                Some(command) => both.push((realm, command)),
                None => break,
            }
        }
        let rest = |realm| move |command| (realm, command);
        both.extend(live.map(rest(Realm::Live)));
        both.extend(drill.map(rest(Realm::Drill)));
        both
    })
}

/// How a sequence is cut: commands of a batch, and whether a frame ends behind it. Repeated
/// from the start when it is used up.
pub fn cuts() -> impl Strategy<Value = Vec<(usize, bool)>> {
    vec((1usize..25, any::<bool>()), 1..12)
}
