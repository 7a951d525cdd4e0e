//! The shard against a plain model of its rules.
//!
//! Random commands over few ids go to the shard as bytes and to the model as values. Replies,
//! records and reads must be the model's to the byte; the log must lead back to the same state;
//! and what holds of every shard (money and units add up) must hold after every command.

#[path = "model/command.rs"]
mod command;
#[path = "model/log.rs"]
mod log;
#[path = "model/shadow.rs"]
mod shadow;
#[path = "model/traffic.rs"]
mod traffic;

use std::collections::{BTreeMap, BTreeSet};

use model::frame::FrameBuilder;
use model::money::STOCK_MAX;
use model::record::{Header, LINES_MAX, Records, place_mut, refund_mut};
use model::{
    AccountKind, Amount, ChangeId, Currency, ItemId, Offset, OrderId, OrderState, Outcome, Party,
    PaymentMethod, Quantity, Reply,
};
use proptest::prelude::*;
use txn_core::{Capacity, Shard};
use zerocopy::FromBytes;

use command::{AskedLine, Command, bytes_of, commands, cuts};
use log::{Log, Writer, assert_chains, assert_same_records, assert_same_views, assert_sound};
use shadow::Shadow;
use traffic::Traffic;

const GBP: Currency = Currency::GBP;

/// A failure is kept as a named test, not as a seed in a file.
fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// Gives the commands to a shard and to the model, one by one, and compares all there is.
fn check(commands: &[Command]) -> (Shard, Vec<Reply>, Log) {
    let (mut writer, mut shadow) = (Writer::new(7), Shadow::default());
    let mut records = Vec::new();
    for (number, command) in commands.iter().enumerate() {
        let (state, next) = (writer.shard.state_hash(), writer.shard.next_offset());
        writer.apply(std::slice::from_ref(command));
        let answer = shadow.execute(command);
        assert_eq!(writer.replies[number], answer.reply, "command {number}: {command:?}");
        let changed = writer.shard.state_hash() != state;
        let logged = writer.shard.next_offset() != next;
        assert_eq!((changed, logged), (answer.record.is_some(), answer.record.is_some()));
        assert_sound(&writer.shard);
        records.extend(answer.record.unwrap_or_default());
    }
    shadow.audit();
    assert_same_views(&writer.shard, &shadow);
    let (shard, replies, log) = writer.finish();
    assert_same_records(&log.records(), &records);
    assert_chains(&records);
    (shard, replies, log)
}

/// Gives the commands to a shard in batches and frames of the sizes in `cuts`.
fn run(seed: u64, commands: &[Command], cuts: &[(usize, bool)]) -> (Shard, Vec<Reply>, Log) {
    let mut writer = Writer::new(seed);
    let mut rest = commands;
    for &(size, ends_frame) in cuts.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (batch, after) = rest.split_at(size.min(rest.len()));
        writer.apply(batch);
        if ends_frame {
            writer.cut();
        }
        rest = after;
    }
    writer.finish()
}

proptest! {
    #![proptest_config(config(320))]

    #[test]
    fn every_answer_record_and_read_is_the_models(commands in commands()) {
        check(&commands);
    }

    #[test]
    fn neither_seed_nor_batches_nor_frames_change_a_byte(
        commands in commands(),
        seeds in any::<(u64, u64)>(),
        cuts in (cuts(), cuts()),
    ) {
        let (one, replies, log) = run(seeds.0, &commands, &cuts.0);
        let (other, other_replies, other_log) = run(seeds.1, &commands, &cuts.1);
        prop_assert_eq!(replies, other_replies);
        assert_same_records(&log.records(), &other_log.records());
        prop_assert_eq!(one.state_hash(), other.state_hash());
        prop_assert_eq!(one.next_offset(), other.next_offset());
    }

    #[test]
    fn the_log_leads_back_to_the_state(commands in commands(), cuts in cuts(), seed in any::<u64>()) {
        let (shard, _, log) = run(seed, &commands, &cuts);
        let again = log.replay(!seed);
        prop_assert_eq!(again.state_hash(), shard.state_hash());
        prop_assert_eq!(again.next_offset(), shard.next_offset());
        prop_assert_eq!(again.balances(), shard.balances());
        assert_chains(&log.records());
    }
}

/// Traffic enough to split every index several times. `MODEL_SEED` gives it another seed.
#[test]
fn a_long_run_is_the_models() {
    const COMMANDS: usize = 200_000;
    let seed = std::env::var("MODEL_SEED").ok();
    let seed = seed.map_or(20_201_111, |seed| seed.parse().expect("MODEL_SEED is a number"));
    let _hint = OnPanic(format!("MODEL_SEED={seed} cargo test -p txn-core --test model long_run"));

    let mut traffic = Traffic::new(seed);
    let (mut writer, mut shadow) = (Writer::new(seed), Shadow::default());
    let mut records = Vec::new();
    let mut seen = BTreeSet::new();
    while writer.replies.len() < COMMANDS {
        let batch = traffic.batch();
        let first = writer.replies.len();
        writer.apply(&batch);
        for (command, reply) in batch.iter().zip(&writer.replies[first..]) {
            let answer = shadow.execute(command);
            assert_eq!(*reply, answer.reply, "{command:?}");
            records.extend(answer.record.unwrap_or_default());
            seen.insert((command.word(), reply.outcome));
        }
        if traffic.ends_frame() {
            writer.cut();
        }
    }
    shadow.audit();
    assert_sound(&writer.shard);
    assert_same_views(&writer.shard, &shadow);
    for (word, outcomes) in REACHED {
        for &outcome in *outcomes {
            assert!(seen.contains(&(word, outcome)), "no {word} was {outcome:?}");
        }
    }
    // An index of 3,072 keys splits.
    let held = writer.shard.held();
    assert!(held.accounts.min(held.items) > 2 * 3_072 && held.orders > 16 * 3_072, "{held:?}");

    let (shard, _, log) = writer.finish();
    assert_same_records(&log.records(), &records);
    assert_chains(&records);
    let again = log.replay(!seed);
    assert_eq!(again.state_hash(), shard.state_hash());
    assert_same_views(&again, &shadow);
}

/// What the traffic must reach to be worth its time.
const REACHED: &[(&str, &[Outcome])] = {
    use Outcome::*;
    &[
        ("create account", &[Ok, AlreadyDone, IdReused]),
        ("create item", &[Ok, AlreadyDone, IdReused]),
        ("transfer", &[Ok, AlreadyDone, IdReused, InsufficientFunds, UnknownAccount]),
        ("restock", &[Ok, AlreadyDone, IdReused, UnknownItem]),
        ("place", &[Ok, AlreadyDone, IdReused, SoldOut, InsufficientFunds, Invalid]),
        ("place", &[UnknownAccount, UnknownItem, CurrencyMismatch]),
        ("pay", &[Ok, AlreadyDone, IdReused, InsufficientFunds]),
        ("pay", &[UnknownAccount, UnknownOrder, WrongState]),
        ("cancel", &[Ok, AlreadyDone, IdReused, UnknownOrder, WrongState]),
        ("refund", &[Ok, AlreadyDone, IdReused, UnknownOrder, WrongState]),
    ]
};

/// Says how to see a failure again.
struct OnPanic(String);

impl Drop for OnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("again with: {}", self.0);
        }
    }
}

/// The outcomes of a sequence that the model agrees with.
fn outcomes(commands: &[Command]) -> Vec<Outcome> {
    check(commands).1.iter().map(|reply| reply.outcome).collect()
}

fn account(party: u64, balance: u64) -> Command {
    Command::CreateAccount { party: Party(party), currency: GBP, balance: Amount(balance) }
}

fn item(item: u64, price: u64, stock: u64) -> Command {
    let (seller, price) = (SELLER, Amount(price));
    Command::CreateItem { item: ItemId(item), seller, currency: GBP, price, stock }
}

fn place(buyer: u64, id: u128, method: PaymentMethod, lines: &[(u64, u32)]) -> Command {
    let line = |&(item, quantity)| AskedLine {
        item: ItemId(item),
        quantity: Quantity(quantity),
        agreed: None,
    };
    let lines = lines.iter().map(line).collect();
    Command::Place { buyer: Party(buyer), id: OrderId(id), currency: GBP, method, lines }
}

fn pay(id: u128, buyer: u64, order: u128, method: PaymentMethod) -> Command {
    Command::Pay { id: ChangeId(id), buyer: Party(buyer), order: OrderId(order), method }
}

fn cancel(id: u128, buyer: u64, order: u128) -> Command {
    Command::Cancel { id: ChangeId(id), buyer: Party(buyer), order: OrderId(order) }
}

fn refund(id: u128, buyer: u64, order: u128, lines: &[(u16, u32)]) -> Command {
    Command::Refund {
        id: ChangeId(id),
        buyer: Party(buyer),
        order: OrderId(order),
        restock: true,
        lines: lines.iter().map(|&(line, quantity)| (line, Quantity(quantity))).collect(),
    }
}

fn restock(id: u128, item: u64, quantity: u64) -> Command {
    Command::Restock { id: ChangeId(id), item: ItemId(item), quantity }
}

fn transfer(
    id: u128,
    debit: (Party, AccountKind),
    credit: (Party, AccountKind),
    amount: u64,
) -> Command {
    let amount = Amount(amount);
    Command::Transfer { id: ChangeId(id), debit, credit, currency: GBP, amount }
}

const SELLER: Party = Party(900);
const CLEARING: (Party, AccountKind) = (Party(0), AccountKind::Clearing);
const PAYABLE: (Party, AccountKind) = (SELLER, AccountKind::Payable);

fn main_of(party: u64) -> (Party, AccountKind) {
    (Party(party), AccountKind::Main)
}

#[test]
fn a_refusal_is_final_for_its_id() {
    use Outcome::*;
    use PaymentMethod::*;
    let refused = place(1, 1, Balance, &[(5, 2), (5, 2)]);
    let commands = [
        account(1, 100),
        item(5, 10, 3),
        refused.clone(),
        pay(1, 1, 2, Balance),
        restock(1, 5, 10),
        refused,
        place(1, 2, Awaited, &[(5, 2), (5, 2)]),
        pay(1, 1, 2, Balance),
        pay(2, 1, 2, Balance),
        cancel(3, 1, 2),
    ];
    let (_, replies, _) = check(&commands);
    let got: Vec<_> = replies.iter().map(|reply| (reply.outcome, reply.line)).collect();
    assert_eq!(
        got,
        [
            (Ok, None),
            (Ok, None),
            (SoldOut, Some(1)), // Four units of three, on two lines.
            (UnknownOrder, None),
            (Ok, None),
            (SoldOut, Some(1)),
            (Ok, None),
            (UnknownOrder, None),
            (Ok, None),
            (WrongState, None),
        ]
    );
    assert_eq!(replies[8].amount, Amount(40));
    assert_eq!(replies[9].state, Some(OrderState::Paid));
}

#[test]
fn a_refund_counts_a_line_named_twice_as_a_sum() {
    use Outcome::*;
    let commands = [
        account(1, 100),
        item(5, 10, 9),
        place(1, 1, PaymentMethod::Balance, &[(5, 3), (5, 2)]),
        refund(1, 1, 1, &[(0, 2), (1, 1), (0, 2)]),
        refund(2, 1, 1, &[(0, 1), (1, 1), (0, 2)]),
        refund(3, 1, 1, &[(0, 1)]),
        refund(4, 1, 1, &[]),
        refund(5, 1, 1, &[]),
        cancel(4, 1, 1),
        refund(4, 1, 1, &[]),
    ];
    let (_, replies, _) = check(&commands);
    let got: Vec<_> = replies[3..]
        .iter()
        .map(|reply| (reply.outcome, reply.line, reply.state, reply.amount.0))
        .collect();
    let (paid, partly, all) =
        (Some(OrderState::Paid), Some(OrderState::PartlyRefunded), Some(OrderState::Refunded));
    assert_eq!(
        got,
        [
            (WrongState, Some(2), paid, 0),
            (Ok, None, partly, 40),
            (WrongState, Some(0), partly, 0),
            (Ok, None, all, 10),
            (WrongState, None, all, 0),
            (IdReused, None, None, 0),
            (AlreadyDone, None, all, 10),
        ]
    );
}

#[test]
fn the_longest_order_is_placed_and_refunded() {
    let longest = vec![(5, 1); LINES_MAX];
    let mut one_more = longest.clone();
    one_more[LINES_MAX - 1].1 = 2;
    let lines: Vec<(u16, u32)> = (0..LINES_MAX as u16).rev().map(|line| (line, 1)).collect();
    let commands = [
        item(5, Amount::MAX.0 / LINES_MAX as u64, LINES_MAX as u64),
        place(1, 1, PaymentMethod::External, &one_more),
        place(1, 2, PaymentMethod::External, &longest),
        refund(1, 1, 2, &lines),
        place(1, 3, PaymentMethod::Awaited, &longest),
    ];
    use Outcome::*;
    assert_eq!(outcomes(&commands), [Ok, SoldOut, Ok, Ok, Ok]);
}

/// A total is at most `Amount::MAX`; what passes it is as if it had never been asked.
#[test]
fn a_total_stops_at_its_bound() {
    use Outcome::*;
    use PaymentMethod::*;
    let commands = [
        account(1, Amount::MAX.0),
        item(5, Amount::MAX.0, 10),
        item(6, 1, 10),
        item(7, Amount::MAX.0, STOCK_MAX),
        place(1, 1, Balance, &[(5, 1), (6, 1)]),
        place(1, 1, Balance, &[(7, Quantity::MAX.0)]),
        place(1, 1, Balance, &[(5, 1)]),
        place(1, 2, Balance, &[(6, 1)]),
    ];
    assert_eq!(outcomes(&commands), [Ok, Ok, Ok, Ok, Invalid, Invalid, Ok, InsufficientFunds]);
}

/// No sum of an account or item passes 64 bits: what would is invalid, and asked for in another
/// way under the same id it is done.
#[test]
fn sums_stop_at_64_bits() {
    use PaymentMethod::*;
    const MAX: u64 = Amount::MAX.0;
    /// So often the largest amount fits, and then this much.
    const TIMES: u64 = u64::MAX / MAX;
    const REST: u64 = u64::MAX % MAX;
    let mut commands = vec![item(5, MAX, STOCK_MAX), item(6, 1, STOCK_MAX), item(7, 0, 1)];
    // Stock.
    commands.extend((1..TIMES).map(|n| restock(n.into(), 5, STOCK_MAX)));
    commands.extend([restock(0, 5, STOCK_MAX), restock(0, 5, REST), restock(1 << 64, 5, 1)]);
    // What came in through clearing, in accounts; then outside payments.
    commands.extend((1..=TIMES).map(|n| account(n, MAX)));
    commands.extend([account(0, MAX), account(0, REST), account(u64::MAX, 1)]);
    commands.extend([place(1, 9, External, &[(6, 1)]), place(1, 9, External, &[(7, 1)])]);
    commands.extend([place(1, 8, Awaited, &[(6, 1)]), place(2, 8, Awaited, &[(5, 1)])]);
    commands.extend([pay(1, 1, 8, External), transfer(7, CLEARING, main_of(1), 1)]);
    // What the seller is owed.
    commands.extend((1..=TIMES).map(|n| place(n, 1, Balance, &[(5, 1)])));
    commands.extend([transfer(1, PAYABLE, main_of(2), MAX), place(2, 2, Balance, &[(5, 1)])]);
    commands.extend([pay(1, 2, 8, Balance), cancel(1, 2, 8)]);
    // What the seller gave, and what a buyer got.
    let receiver = |n: u64| main_of(2 + n % 2);
    commands.extend((2..=TIMES).map(|n| transfer(n.into(), PAYABLE, receiver(n), MAX)));
    commands.extend([refund(1, 1, 1, &[]), place(2, 3, Balance, &[(6, 1)])]);
    commands.extend((1..=TIMES / 2).map(|n| transfer(n.into(), main_of(3), main_of(2), MAX)));

    let (mut writer, mut shadow) = (Writer::new(7), Shadow::default());
    let mut invalid = BTreeMap::<&str, u64>::new();
    for command in &commands {
        writer.apply(std::slice::from_ref(command));
        let answer = shadow.execute(command);
        assert_eq!(writer.replies.last(), Some(&answer.reply), "{command:?}");
        if answer.reply.outcome == Outcome::Invalid {
            *invalid.entry(command.word()).or_default() += 1;
        }
    }
    let wanted = [
        ("create account", 2),
        ("pay", 2),
        ("place", 2),
        ("refund", 1),
        ("restock", 2),
        ("transfer", 3),
    ];
    assert_eq!(invalid, BTreeMap::from(wanted));
    shadow.audit();
    assert_sound(&writer.shard);
    assert_same_views(&writer.shard, &shadow);
    let (shard, _, log) = writer.finish();
    assert_eq!(log.replay(8).state_hash(), shard.state_hash());
}

#[test]
fn bytes_that_are_no_command_stop_the_batch_and_change_nothing() {
    let commands = [account(1, 100), item(5, 10, 3)];
    let (wanted, _, _) = check(&commands);
    let torn = place(1, 1, PaymentMethod::Balance, &[(5, 1)]).bytes();
    let bytes = [&bytes_of(&commands), &torn[..torn.len() - 8]].concat();
    let (mut frame, mut replies) = (FrameBuilder::default(), Vec::new());
    let mut shard = Shard::new(0);
    shard.apply(&mut Records::new(&bytes), &mut frame, &mut replies).unwrap_err();
    assert_eq!((replies.len(), frame.count()), (2, 2));
    assert_eq!(shard.state_hash(), wanted.state_hash());
}

/// Also where it made a table's row in passing: a replay of the log, which hasn't seen it, comes
/// to the same state.
#[test]
fn an_invalid_command_leaves_nothing_behind() {
    use Outcome::*;
    let other_seller = Command::CreateItem {
        item: ItemId(6),
        seller: Party(901),
        currency: GBP,
        price: Amount(1),
        stock: 1,
    };
    let commands = [
        item(5, Amount::MAX.0, 2),
        place(1, 1, PaymentMethod::External, &[(5, 2)]),
        other_seller,
        place(1, 1, PaymentMethod::External, &[(5, 1)]),
    ];
    let (shard, replies, log) = check(&commands);
    let outcomes: Vec<Outcome> = replies.iter().map(|reply| reply.outcome).collect();
    assert_eq!(outcomes, [Ok, Invalid, Ok, Ok]);
    assert_eq!(log.replay(8).state_hash(), shard.state_hash());
}

/// Tables look at 32 bits of a key's hash first. Of so many keys some pairs share them.
#[test]
fn keys_whose_hashes_collide_are_told_apart() {
    const KEYS: u64 = 250_000;
    let kinds: [fn(u64) -> Command; 5] = [
        |n| account(n, 1),
        |n| item(n, 1, 1),
        |n| place(0, n.into(), PaymentMethod::Balance, &[(0, 2)]),
        |n| pay(n.into(), 1, 1, PaymentMethod::Balance),
        |n| transfer(n.into(), main_of(KEYS), PAYABLE, 1),
    ];
    let mut writer = Writer::new(0);
    // Neighbours hardly ever collide; numbers all over the range do.
    let keys: Vec<u64> = (1..=KEYS).map(|n| (n * n).wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
    for kind in kinds {
        for some in keys.chunks(1_000) {
            writer.apply(&some.iter().map(|&n| kind(n)).collect::<Vec<_>>());
        }
    }
    for (offset, reply) in (1..).zip(&writer.replies) {
        assert_eq!(reply.offset, Some(Offset(offset)), "{reply:?}");
    }
}

/// The nil id is an order's id like any other: its records form a chain too.
#[test]
fn an_order_with_the_nil_id_has_its_history() {
    use PaymentMethod::*;
    check(&[
        account(1, 100),
        item(5, 10, 9),
        place(1, 0, Awaited, &[(5, 2)]),
        pay(1, 1, 0, Balance),
        refund(2, 1, 0, &[(0, 1)]),
        refund(3, 1, 0, &[]),
        place(1, 0, Awaited, &[(5, 2)]),
    ]);
}

proptest! {
    #![proptest_config(config(64))]

    #[test]
    fn making_ready_changes_nothing(
        commands in commands(),
        ready in proptest::collection::vec(0u64..5_000, 1..4),
    ) {
        let (wanted, replies, log) = run(0, &commands, &[(16, false)]);
        let mut writer = Writer::new(0);
        for (batch, &held) in commands.chunks(16).zip(ready.iter().cycle()) {
            writer.shard.reserve(Capacity { accounts: held, items: held, orders: held });
            writer.apply(batch);
        }
        let (shard, ready_replies, ready_log) = writer.finish();
        prop_assert_eq!(ready_replies, replies);
        assert_same_records(&ready_log.records(), &log.records());
        prop_assert_eq!(shard.state_hash(), wanted.state_hash());
    }
}

/// The outcome fields of a command are the core's to write. A command that comes with one of
/// them filled in is refused as bytes that are no command, or decided as if it were zero: the
/// log must lead back to the state either way.
#[test]
fn what_a_command_says_of_its_outcome_is_no_part_of_it() {
    use PaymentMethod::*;
    type Fill = fn(&mut [u8]);
    let fills: [(&str, Command, Fill); 8] = [
        ("outcome", cancel(1, 1, 1), |bytes| header_mut(bytes).outcome = 1),
        ("state", cancel(1, 1, 1), |bytes| header_mut(bytes).state = 1),
        ("previous", cancel(1, 1, 1), |bytes| header_mut(bytes).previous = 1.into()),
        ("amount", cancel(1, 1, 1), |bytes| header_mut(bytes).amount = 1.into()),
        ("refused line", place(1, 2, Awaited, &[(5, 2)]), |bytes| {
            place_mut(bytes).order.refused_line = 1.into();
        }),
        ("leg amount", place(1, 2, Awaited, &[(5, 2)]), |bytes| {
            place_mut(bytes).leg.amount = 1.into();
        }),
        ("list price", place(1, 2, Awaited, &[(5, 2)]), |bytes| {
            place_mut(bytes).lines[0].unit_price = 1.into();
        }),
        ("refused refund line", refund(1, 1, 1, &[(0, 1)]), |bytes| {
            refund_mut(bytes).refused_line = 1.into();
        }),
    ];
    for (field, command, fill) in fills {
        let mut writer = Writer::new(0);
        writer.apply(&[account(1, 100), item(5, 10, 9), place(1, 1, Awaited, &[(5, 2)])]);
        let before = writer.shard.state_hash();
        let mut bytes = command.bytes();
        fill(&mut bytes);
        let refused = writer.try_apply(&bytes, 1).is_err();
        let (shard, _, log) = writer.finish();
        println!("{field}: {}", if refused { "refused" } else { "decided" });
        assert!(!refused || shard.state_hash() == before);
        assert_eq!(log.replay(1).state_hash(), shard.state_hash());
    }
}

fn header_mut(bytes: &mut [u8]) -> &mut Header {
    Header::mut_from_prefix(bytes).expect("a command has a header").0
}
