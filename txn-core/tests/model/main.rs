//! The shard against a plain model of its rules.
//!
//! Random commands over few ids go to the shard as bytes and to the model as values. Replies,
//! records and reads must be the model's to the byte; the log must lead back to the same state;
//! and what holds of every shard (money and units add up) must hold after every command. Time
//! passes where the sequence of commands says so.

mod asked;
mod bounds;
mod cases;
mod command;
mod coupons;
mod holds;
mod legs;
mod log;
mod random;
mod realms;
mod shadow;
mod statements;
mod sums;
mod timing;
mod traffic;

use std::collections::BTreeSet;

use model::{Outcome, Realm, Reply};
use proptest::prelude::*;
use txn_core::{Capacity, Shard};

use command::Command;
use log::{Log, Writer, assert_chains, assert_same_records, assert_same_views, assert_sound};
use random::{commands, cuts};
use shadow::Model;
use statements::assert_statements;
use traffic::Traffic;

/// A failure is kept as a named test, not as a seed in a file.
fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// Gives the commands to a shard and to the model, one by one, and compares all there is.
fn check(commands: &[Command]) -> (Shard, Vec<Reply>, Log) {
    let live: Vec<_> = commands.iter().map(|command| (Realm::Live, command.clone())).collect();
    check_in(&live)
}

/// The same, for commands of both realms.
fn check_in(commands: &[(Realm, Command)]) -> (Shard, Vec<Reply>, Log) {
    let (mut writer, mut model) = (Writer::new(7), Model::default());
    let mut records = Vec::new();
    for (number, (realm, command)) in commands.iter().enumerate() {
        let (state, next) = (writer.shard.state_hash(), writer.shard.next_offset());
        let replies = writer.replies.len();
        writer.apply_in([(*realm, command)]);
        let answer = model.execute(*realm, command);
        let wanted = answer.as_ref().map(|answer| answer.reply);
        assert_eq!(
            writer.replies.get(replies).copied(),
            wanted,
            "command {number}, {realm:?}: {command:?}"
        );
        let record = answer.and_then(|answer| answer.record);
        let changed = writer.shard.state_hash() != state;
        let logged = writer.shard.next_offset() != next;
        assert_eq!(logged, record.is_some(), "command {number}: {command:?}");
        // A sweep may have found nothing to do, and a closed account is not opened again.
        let may_stay = matches!(command, Command::Sweep { .. } | Command::CreateAccount { .. });
        assert!(changed == logged || logged && may_stay, "command {number}: {command:?}");
        assert_sound(&writer.shard);
        records.extend(record.unwrap_or_default());
    }
    model.audit();
    assert_same_state(&writer.shard, &model);
    let (shard, replies, log) = writer.finish();
    assert_same_records(&log.records(), &records);
    assert_chains(&records);
    assert_statements(&shard, &model, &records);
    (shard, replies, log)
}

fn assert_same_state(shard: &Shard, model: &Model) {
    for (realm, shadow) in model.realms() {
        assert_same_views(shard, realm, shadow);
    }
    let held = shard.held();
    assert_eq!((held.orders, held.items), model.held());
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
        prop_assert_eq!(again.balances(Realm::Live), shard.balances(Realm::Live));
        assert_chains(&log.records());
    }
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

/// Traffic enough to split every index several times. `MODEL_SEED` gives it another seed.
#[test]
fn a_long_run_is_the_models() {
    const COMMANDS: usize = 200_000;
    let seed = std::env::var("MODEL_SEED").ok();
    let seed = seed.map_or(20_201_111, |seed| seed.parse().expect("MODEL_SEED is a number"));
    let _hint = OnPanic(format!("MODEL_SEED={seed} cargo test -p txn-core --test model long_run"));

    let mut traffic = Traffic::new(seed);
    let (mut writer, mut model) = (Writer::new(seed), Model::default());
    let mut records = Vec::new();
    let mut seen = BTreeSet::new();
    while writer.replies.len() < COMMANDS {
        let batch = traffic.batch();
        let mut replies = writer.replies.len();
        writer.apply(&batch);
        for command in &batch {
            let Some(answer) = model.execute(Realm::Live, command) else { continue };
            assert_eq!(writer.replies[replies], answer.reply, "{command:?}");
            replies += 1;
            records.extend(answer.record.unwrap_or_default());
            seen.insert((command.word(), answer.reply.outcome));
        }
        assert_eq!(writer.replies.len(), replies);
        if traffic.ends_frame() {
            writer.cut();
        }
    }
    model.audit();
    assert_sound(&writer.shard);
    assert_same_state(&writer.shard, &model);
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
    assert_statements(&shard, &model, &records);
    let again = log.replay(!seed);
    assert_eq!(again.state_hash(), shard.state_hash());
    assert_same_state(&again, &model);
}

/// What the traffic must reach to be worth its time.
const REACHED: &[(&str, &[Outcome])] = {
    use Outcome::*;
    &[
        ("create account", &[Ok, AlreadyDone, IdReused]),
        ("create item", &[Ok, AlreadyDone, IdReused]),
        ("update item", &[Ok, AlreadyDone, IdReused, UnknownItem]),
        ("transfer", &[Ok, AlreadyDone, IdReused, InsufficientFunds, UnknownAccount]),
        ("restock", &[Ok, AlreadyDone, IdReused, UnknownItem]),
        ("place", &[Ok, AlreadyDone, IdReused, SoldOut, InsufficientFunds, Invalid]),
        ("place", &[UnknownAccount, UnknownItem, CurrencyMismatch]),
        ("place", &[WrongState, SaleNotOpen, OverLimit, PriceMismatch]),
        ("set overdraft", &[Ok, AlreadyDone, IdReused, UnknownAccount]),
        ("close", &[Ok, IdReused, UnknownAccount, WrongState]),
        ("hold", &[Ok, AlreadyDone, IdReused, InsufficientFunds, UnknownAccount, WrongState]),
        ("capture", &[Ok, AlreadyDone, IdReused, UnknownAccount, WrongState]),
        ("release", &[Ok, AlreadyDone, UnknownAccount, WrongState]),
        ("issue coupon", &[Ok, AlreadyDone, IdReused]),
        ("pay", &[Ok, AlreadyDone, IdReused, InsufficientFunds]),
        ("pay", &[UnknownAccount, UnknownOrder, WrongState, Suspended]),
        ("receive", &[Ok, AlreadyDone, IdReused, UnknownOrder, WrongState]),
        ("cancel", &[Ok, AlreadyDone, IdReused, UnknownOrder, WrongState]),
        ("refund", &[Ok, AlreadyDone, IdReused, UnknownOrder, WrongState]),
        ("due", &[Ok]),
        ("timer", &[Invalid]),
        ("sweep", &[Ok]),
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
