//! Commands and reads that are about what has left memory, while somebody looks it up.

use std::ops::Range;

use model::Realm;
use model::ShardId;
use model::record::{CommandBuffer, EVICT_MAX, Record};
use model::reply::{Query, View};
use model::{Outcome, Reply};
use slab::Slab;
use txn_core::{Need, RowTable, Unready, view_of_row};

use super::waiting::ReplyPlace;
use super::{Found, ShardGroup, Token, command_of};
use crate::Now;

/// Commands and reads that may be parked. Further ones are told to try again.
const PARKED_MAX: usize = 65_536;
/// Rows of a shard that leave memory when frames are handed over, at most: a millisecond's work.
const EVICT_ROWS: u32 = 2 * EVICT_MAX;
/// Rows that are looked at together: what their images come to has room in a record.
const EVICT_STEP: u32 = 512;
/// Ids that carry a time that is not so old stay, in ms. A client whose clock is ahead would make
/// others be looked up that are fresh.
const YOUNG_MS: u64 = 1_000;

/// What is to be looked up in the log.
#[derive(Clone, Debug)]
pub struct Lookup {
    /// Under this number it is answered.
    pub ticket: usize,
    /// Whose log.
    pub shard: ShardId,
    /// Which realm.
    pub realm: Realm,
    /// What: one row or two, in all that is durable by now.
    pub needs: Vec<Need>,
}

/// Who waits for a look-up.
struct Parked<T> {
    who: Who<T>,
    slot: usize,
    needs: Vec<Need>,
    /// What was found before, and wasn't all.
    found: Vec<FoundRow>,
}

/// What was needed, and its words; none of a row that isn't there.
type FoundRow = (Need, Vec<u64>);

enum Who<T> {
    /// A command of a submission, and where its bytes are.
    Command(ReplyPlace, Range<usize>),
    /// A read.
    Read(T, Realm, Query),
}

/// All who wait for look-ups.
pub(super) struct Lookups<T> {
    parked: Slab<Parked<T>>,
    /// To be done when what was decided before them is durable,
    held: Vec<Lookup>,
    /// when what is being written is,
    in_flight: Vec<Lookup>,
    /// and now.
    ready: Vec<Lookup>,
}

impl<T> Default for Lookups<T> {
    fn default() -> Lookups<T> {
        let (held, in_flight, ready) = Default::default();
        Lookups { parked: Slab::new(), held, in_flight, ready }
    }
}

impl<T> Lookups<T> {
    /// What was decided so far is handed over.
    pub(super) fn handed_over(&mut self) {
        self.in_flight.append(&mut self.held);
    }

    /// And is durable.
    pub(super) fn durable(&mut self) {
        self.ready.append(&mut self.in_flight);
    }
}

impl<T: Token> ShardGroup<T> {
    /// How many words each shard keeps of a table's rows, about. Without this nothing leaves
    /// memory.
    pub fn keep(&mut self, words: [u64; 2]) {
        self.keep_words = words;
    }

    /// Commands and reads that wait for look-ups.
    pub fn parked(&self) -> usize {
        self.lookups.parked.len()
    }

    /// What is to be looked up now, each to be answered by [`ShardGroup::found`].
    pub fn lookups(&mut self) -> std::vec::Drain<'_, Lookup> {
        self.lookups.ready.drain(..)
    }

    /// A command waits until what it is about was looked up. `Err`: there are too many.
    ///
    /// What was found for it before is kept: by the time that the rest is found, it may have left
    /// memory again, and the command would ask for the one and the other for ever.
    pub(super) fn park(
        &mut self,
        slot: usize,
        place: ReplyPlace,
        (command, commands): (&Record<'_>, &CommandBuffer),
        found: Vec<FoundRow>,
    ) -> Result<(), Outcome> {
        let start = command.bytes.as_ptr() as usize - commands.bytes().as_ptr() as usize;
        let who = Who::Command(place, start..start + command.bytes.len());
        let needs = self.hosts[slot].shard.needs(command).into_iter().flatten().collect();
        self.look_up(who, slot, command.realm(), (needs, found)).map_err(|_| Outcome::Busy)
    }

    /// A read waits likewise. `Err`: there are too many.
    pub(super) fn park_read(
        &mut self,
        token: T,
        slot: usize,
        realm: Realm,
        (query, need): (Query, Need),
    ) -> Result<(), T> {
        let parked =
            self.look_up(Who::Read(token, realm, query), slot, realm, (vec![need], Vec::new()));
        parked.map_err(|who| match who {
            Who::Read(token, ..) => token,
            Who::Command(..) => unreachable!("a read was parked"),
        })
    }

    fn look_up(
        &mut self,
        who: Who<T>,
        slot: usize,
        realm: Realm,
        (needs, found): (Vec<Need>, Vec<FoundRow>),
    ) -> Result<(), Who<T>> {
        if self.lookups.parked.len() >= PARKED_MAX {
            return Err(who);
        }
        let shard = self.hosts[slot].id();
        let ticket = self.lookups.parked.insert(Parked { who, slot, needs: needs.clone(), found });
        let lookup = Lookup { ticket, shard, realm, needs };
        if self.has_unwritten() {
            self.lookups.held.push(lookup);
        } else if self.in_flight.is_some() {
            self.lookups.in_flight.push(lookup);
        } else {
            self.lookups.ready.push(lookup);
        }
        Ok(())
    }

    /// Says what was found: the words of each row that was needed, none of one that isn't there.
    /// `None`: it can't be read now.
    pub fn found(&mut self, now: Now, ticket: usize, rows: Option<Vec<Vec<u64>>>) {
        let Parked { who, slot, needs, mut found } = self.lookups.parked.remove(ticket);
        match who {
            Who::Read(token, realm, query) => {
                // It may be back, and be another by now.
                let view = match (self.hosts[slot].shard.query_in(realm, query), rows) {
                    (View::Missing, Some(rows)) => view_of_row(&rows[0]),
                    (View::Missing, None) => return self.hold(token, Found::Unreadable),
                    (view, _) => view,
                };
                self.hold(token, Found::View(view));
            }
            Who::Command(place, bytes) => {
                let commands = std::mem::take(&mut self.submissions[place.submission].commands);
                let (command, _) = Record::split(&commands.bytes()[bytes]).expect("it was checked");
                let decided = match rows {
                    Some(rows) => {
                        found.retain(|(before, _)| needs.iter().all(|need| need.row != before.row));
                        found.extend(needs.into_iter().zip(rows));
                        self.go_on(now, slot, place, (&command, &commands), found)
                    }
                    None => Some(Reply::unlogged(Outcome::Busy)),
                };
                self.submissions[place.submission].commands = commands;
                if let Some(reply) = decided {
                    self.reply(place, reply);
                }
            }
        }
        self.follow_up(now);
    }

    /// A command goes on with what was found for it. `None`: it has to wait again.
    fn go_on(
        &mut self,
        now: Now,
        slot: usize,
        place: ReplyPlace,
        (command, commands): (&Record<'_>, &CommandBuffer),
        found: Vec<FoundRow>,
    ) -> Option<Reply> {
        if self.drill_stopped && command.realm() == Realm::Drill {
            return Some(Reply::unlogged(Outcome::Busy));
        }
        let mut loads = command_of(command.realm());
        for (need, row) in &found {
            loads.load(need.row, need.as_of, row);
        }
        let waits = match self.execute_loaded(now, slot, &loads, command, None) {
            Ok(reply) => return Some(reply),
            // It was out of date, or something else has left memory meanwhile.
            Err(Unready::Needs) => self.park(slot, place, (command, commands), found),
            Err(Unready::Lacks(shortage)) => {
                self.wait(now, slot, place, (command, commands), shortage, loads)
            }
        };
        waits.err().map(Reply::unlogged)
    }

    /// Has the oldest rows of a shard leave memory, while it keeps more than it should.
    pub(super) fn evict(&mut self, now: Now, slot: usize) {
        for &realm in self.realms() {
            for table in RowTable::ALL {
                let mut rows = EVICT_ROWS;
                while rows > 0 && self.keeps_too_much(slot, realm, table) {
                    let cutoff = (now.time.0 / 1_000).saturating_sub(YOUNG_MS);
                    let shard = &self.hosts[slot].shard;
                    let before = shard.evicted();
                    let mut command = command_of(realm);
                    if !shard.write_evict(realm, table, EVICT_STEP, cutoff, &mut command) {
                        break;
                    }
                    self.execute_own(now, slot, &command);
                    if self.hosts[slot].shard.evicted() == before {
                        break; // All of them stay.
                    }
                    rows = rows.saturating_sub(EVICT_STEP);
                }
            }
        }
    }

    fn keeps_too_much(&self, slot: usize, realm: Realm, table: RowTable) -> bool {
        self.hosts[slot].shard.span(realm, table) > self.keep_words[table as usize]
    }
}
