//! Trade and rehearsal share a log and nothing else.

use model::{ChangeId, Outcome, Realm, Reply};
use proptest::prelude::*;

use crate::asked::*;
use crate::command::Command;
use crate::log::{Log, Writer};
use crate::random::{commands_of_both, cuts};
use crate::{check_in, config};

/// Gives commands of both realms to a shard in frames of the sizes in `cuts`; with each reply,
/// the realm of its command.
fn run_both(
    seed: u64,
    commands: &[(Realm, Command)],
    cuts: &[(usize, bool)],
) -> (Writer, Vec<(Realm, Reply)>) {
    let mut writer = Writer::new(seed);
    let mut replies = Vec::new();
    let mut cuts = cuts.iter().cycle();
    let mut left = 0;
    for (realm, command) in commands {
        let before = writer.replies.len();
        writer.apply_in([(*realm, command)]);
        replies.extend(writer.replies[before..].iter().map(|reply| (*realm, *reply)));
        if left == 0 {
            left = cuts.next().map_or(1, |(size, _)| *size);
            writer.cut();
        }
        left -= 1;
    }
    (writer, replies)
}

/// What was answered in a realm, without the offsets, which count both.
fn answers(replies: &[(Realm, Reply)], realm: Realm) -> Vec<Reply> {
    let of_realm = replies.iter().filter(|(of, _)| *of == realm);
    of_realm.map(|(_, reply)| Reply { offset: None, ..*reply }).collect()
}

/// The commands of one realm alone. Time passes as it did.
fn alone(commands: &[(Realm, Command)], realm: Realm) -> Vec<(Realm, Command)> {
    let stays =
        |(of, command): &&(Realm, Command)| *of == realm || matches!(command, Command::Wait { .. });
    commands.iter().filter(stays).cloned().collect()
}

fn assert_removed(log: &Log, realm: Realm, wanted: u64) {
    let (shard, without) = log.replay_of(realm, 99);
    assert_eq!(shard.realm_hash(realm), wanted, "{realm:?}");
    assert_eq!(without.records_of(realm), log.records_of(realm), "{realm:?}");
    // One more is begun, and stays empty.
    assert_eq!(without.frames().count(), log.frames().count() + 1);
}

proptest! {
    #![proptest_config(config(150))]

    #[test]
    fn each_realm_is_the_models_as_if_it_were_alone(commands in commands_of_both()) {
        check_in(&commands);
    }

    #[test]
    fn removing_a_realm_from_the_log_changes_nothing_in_the_other(
        commands in commands_of_both(),
        cuts in cuts(),
        seed in any::<u64>(),
    ) {
        let (writer, replies) = run_both(seed, &commands, &cuts);
        let (shard, _, log) = writer.finish();
        for &realm in Realm::ALL {
            assert_removed(&log, realm, shard.realm_hash(realm));
            // Nor was anything different when it was answered.
            let (one, one_replies) = run_both(!seed, &alone(&commands, realm), &cuts);
            prop_assert_eq!(answers(&one_replies, realm), answers(&replies, realm));
            prop_assert_eq!(one.shard.realm_hash(realm), shard.realm_hash(realm));
        }
        prop_assert_eq!(log.replay(!seed).state_hash(), shard.state_hash());
    }
}

/// The same ids, for the same things, in both realms and for every kind of change.
#[test]
fn an_id_is_unique_in_its_realm_and_its_scope_alone() {
    use Outcome::*;
    use model::PaymentMethod::*;
    let id = 7;
    let round = [
        (account(7, 1_000), Ok),
        (account(8, 1_000), Ok),
        (item(7, 10, 99), Ok),
        (item(8, 10, 99), Ok),
        (place(7, id, Awaited, &[(7, 1)]), Ok),
        (place(8, id, Awaited, &[(7, 1)]), Ok), // Another buyer's.
        (restock(id, 7, 1), Ok),
        (restock(id, 8, 1), Ok),                       // Another item's.
        (transfer(id, main_of(7), main_of(8), 1), Ok), // A party's, not an item's.
        (transfer(id, main_of(8), main_of(7), 1), Ok), // Another party's.
        (pay(id, 7, id, Balance), Ok),                 // An order's, not a party's.
        (pay(id, 8, id, Balance), Ok),                 // Another buyer's order's.
        // In the same scope, whatever the kind.
        (refund(id, 7, id, &[]), IdReused),
        (cancel(id, 7, id), IdReused),
        (pay(id, 7, id, External), IdReused),
        (update(id, 7, Default::default()), IdReused),
        (restock(id, 7, 2), IdReused),
        (transfer(id, main_of(7), main_of(8), 2), IdReused),
        (place(7, id, Awaited, &[(7, 2)]), IdReused),
        (item(7, 11, 99), IdReused),
        (account(7, 1_001), IdReused),
        // Money that enters is its receiver's change.
        (transfer(id, CLEARING, main_of(7), 1), IdReused),
        (transfer(id + 1, CLEARING, main_of(7), 1), Ok),
        (transfer(id + 1, CLEARING, main_of(8), 1), Ok),
        (transfer(id + 1, main_of(7), main_of(8), 1), IdReused),
        // All that changes a party's accounts shares their ids.
        (hold(id, main_of(7), 5, 0), IdReused),
        (set_overdraft(id, 7, 5), IdReused),
        (close(id, main_of(7)), IdReused),
        (hold(id + 2, main_of(7), 5, 0), Ok),
        (hold(id + 2, main_of(8), 5, 0), Ok), // Another party's.
        (transfer(id + 2, main_of(7), main_of(8), 1), IdReused),
        (set_overdraft(id + 3, 7, 5), Ok),
        (hold(id + 3, main_of(7), 5, 0), IdReused),
        // What is done about a hold has its own, and so has each hold and each order.
        (capture(id, 7, id + 2, main_of(8), 1), Ok),
        (capture(id, 8, id + 2, main_of(8), 1), Ok),
        (release(id, 7, id + 2), IdReused),
        (capture(id, 7, id + 3, main_of(8), 1), UnknownAccount),
        (receive(id, 7, id), IdReused),
        (receive(id + 1, 7, id), Ok),
        (refund(id + 1, 7, id, &[]), IdReused),
        // Coupons have numbers, unique for their buyer.
        (issue(7, 7, coupon(1)), Ok),
        (issue(8, 7, coupon(1)), Ok),
        (issue(7, 7, coupon(2)), IdReused),
        (issue(7, 7, coupon(1)), AlreadyDone),
    ];
    let mut commands = Vec::new();
    for &realm in Realm::ALL {
        for (command, _) in &round {
            let mut command = command.clone();
            if let Command::UpdateItem { update, .. } = &mut command {
                update.limit = Some(3);
            }
            commands.push((realm, command));
        }
    }
    let (_, replies, _) = check_in(&commands);
    let got: Vec<Outcome> = replies.iter().map(|reply| reply.outcome).collect();
    let wanted: Vec<Outcome> = round.iter().map(|(_, outcome)| *outcome).collect();
    assert_eq!(got, [&wanted[..], &wanted[..]].concat());
}

/// A drill's order takes no unit, no limit and no money of trade.
#[test]
fn a_drill_sells_nothing_that_is_there() {
    use model::PaymentMethod::*;
    let live = |command| (Realm::Live, command);
    let drill = |command| (Realm::Drill, command);
    let commands = [
        live(account(1, 10)),
        live(sale_of(5, 10, 1, at_most(1))),
        drill(place(1, 1, Balance, &[(5, 1)])),
        drill(place(1, 2, External, &[(5, 1)])),
        drill(account(1, 10)),
        drill(sale_of(5, 10, 1, at_most(1))),
        drill(place(1, 3, Balance, &[(5, 1)])),
        drill(Command::Cancel {
            id: ChangeId(1),
            buyer: model::Party(1),
            order: model::OrderId(4),
        }),
        live(place(1, 4, Balance, &[(5, 1)])),
        drill(cancel(2, 1, 4)),
    ];
    use Outcome::*;
    let (shard, replies, _) = check_in(&commands);
    let got: Vec<Outcome> = replies.iter().map(|reply| reply.outcome).collect();
    let wanted = [Ok, Ok, UnknownAccount, UnknownItem, Ok, Ok, Ok, UnknownOrder, Ok, UnknownOrder];
    assert_eq!(got, wanted);
    assert_ne!(shard.realm_hash(Realm::Live), shard.realm_hash(Realm::Drill));
}
