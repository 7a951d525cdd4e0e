//! Units on their way: granted, asked for, recalled, returned.
//!
//! A home grants units ahead, so that orders elsewhere need not ask; grants shrink with the pool.
//! A shard that lacks units asks. The home grants what it has. When that is less than what the
//! order lacks, it recalls from every shard that may hold unspent units, one numbered round at a
//! time; what comes back goes to those who asked, the first first. The shard that asked is no
//! exception: it may hold more than when it asked. If after the round there is still less than an
//! order asks for, then fewer units than that were unspent anywhere: it is *sold out*, and the
//! shard that asked is told how many there were, so that it can refuse the next ones by itself.
//! Units that come back later, and restocks, take such marks away.
//!
//! A shard that has answered a round sends what is freed there home, until it is granted some
//! again, and not as a *ration*: that is what it gets while a round is running or a shard is
//! marked. So a home that has its answers knows where every unspent unit is, and no mark outlives
//! units that come back anywhere.

use std::collections::VecDeque;

use model::planted::{Bug, is_planted};
use model::record::entry::{Entries, Entry, Listing, Returned, StockOp, Units, Wanted};
use model::record::{
    CreateItemBody, RestockBody, UPDATE_LIMIT, UPDATE_PRICE, UPDATE_WINDOW, UpdateItemBody,
};
use model::{AccountKind, Currency, ItemId, Outcome, Party, ShardId};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::arena::Pos;
use crate::inventory::{DRAINED, Home, Item, MARKED, WINDOW};
use crate::realm::{Decision, RealmState};
use crate::shard::checked;
use crate::shard_set::ShardSet;

/// Items that are known not to be, beyond which the oldest are forgotten and asked for again.
const UNKNOWN_MAX: usize = 1_024;

/// What waits for an item at its home.
#[derive(Serialize, Deserialize, Clone, Debug, Default)]
pub(crate) struct Contention {
    #[serde(with = "asks")]
    asks: VecDeque<(ShardId, Wanted)>,
    /// The shards of the running round that haven't answered; none if no round is running.
    expected: ShardSet,
    is_running: bool,
    /// Units granted since the round began, and to whom.
    granted: u64,
    granted_to: ShardSet,
}

/// Asks in a snapshot: plain bytes, as on a stream.
mod asks {
    use std::collections::VecDeque;

    use model::ShardId;
    use model::record::entry::Wanted;
    use serde::{Deserialize, Deserializer, Serializer};
    use zerocopy::{FromBytes, IntoBytes};

    type Ask = (u16, [u8; size_of::<Wanted>()]);

    pub(super) fn serialize<S: Serializer>(
        asks: &VecDeque<(ShardId, Wanted)>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(asks.iter().map(|(shard, wanted)| -> Ask {
            (shard.0, wanted.as_bytes().try_into().expect("it has its own size"))
        }))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<VecDeque<(ShardId, Wanted)>, D::Error> {
        let asks = Vec::<Ask>::deserialize(deserializer)?;
        let wanted = |bytes: [u8; size_of::<Wanted>()]| {
            Wanted::read_from_bytes(&bytes).expect("it has its own size")
        };
        Ok(asks.into_iter().map(|(shard, bytes)| (ShardId(shard), wanted(bytes))).collect())
    }
}

impl Contention {
    pub(crate) fn hash(&self, item: u64) -> u64 {
        use zerocopy::IntoBytes;
        let mut bytes = item.to_le_bytes().to_vec();
        for (shard, wanted) in &self.asks {
            bytes.extend_from_slice(&shard.0.to_le_bytes());
            bytes.extend_from_slice(wanted.as_bytes());
        }
        bytes.extend_from_slice(self.expected.as_bytes());
        bytes.push(u8::from(self.is_running));
        bytes.extend_from_slice(&self.granted.to_le_bytes());
        bytes.extend_from_slice(self.granted_to.as_bytes());
        xxh3_64(&bytes)
    }
}

impl RealmState {
    pub(crate) fn create_item(
        &mut self,
        item: ItemId,
        body: &CreateItemBody,
        digest: u64,
    ) -> Decision {
        if let Some(pos) = self.inventory.find(item) {
            let same = self.inventory.home(pos).is_some_and(|home| home.digest == digest);
            return Decision::of(if same { Outcome::AlreadyDone } else { Outcome::IdReused });
        }
        let stock = body.stock.get();
        let share = self.share(stock);
        let shards = u64::from(self.seat.shards);
        let home = Home {
            stocked: stock,
            pool: if shards == 1 { 0 } else { stock - share * shards },
            digest,
            holders: if share > 0 { self.all_shards() } else { ShardSet::default() },
            ..Home::default()
        };
        let listing = Listing {
            item: item.0.into(),
            seller: body.seller,
            price: body.price,
            units: if shards == 1 { stock } else { share }.into(),
            opens: body.opens,
            closes: body.closes,
            limit: body.limit,
            currency: body.currency,
            version: 1.into(),
        };
        self.list(&listing, Some(home));
        self.tell_others(&Entry::Listing(&Listing { units: share.into(), ..listing }));
        Decision::ok(0)
    }

    pub(crate) fn update_item(&mut self, item: ItemId, body: &UpdateItemBody) -> Decision {
        let Some(pos) = self.inventory.find(item) else {
            return Decision::of(Outcome::UnknownItem);
        };
        let found = self.inventory.get_mut(pos);
        if body.flags & UPDATE_PRICE != 0 {
            found.price = body.price.get();
        }
        if body.flags & UPDATE_WINDOW != 0 {
            found.set_window(body.opens.get(), body.closes.get());
        }
        if body.flags & UPDATE_LIMIT != 0 {
            found.limit = body.limit.get();
        }
        found.version = found.version.wrapping_add(1);
        let listing = Listing {
            item: item.0.into(),
            seller: found.seller.into(),
            price: found.price.into(),
            units: 0.into(),
            opens: found.opens.into(),
            closes: found.closes.into(),
            limit: found.limit.into(),
            currency: found.currency.into(),
            version: found.version.into(),
        };
        self.tell_others(&Entry::Listing(&listing));
        Decision::ok(0)
    }

    pub(crate) fn restock(&mut self, item: ItemId, body: &RestockBody) -> Decision {
        let Some(pos) = self.inventory.find(item) else {
            return Decision::of(Outcome::UnknownItem);
        };
        let units = body.quantity.get();
        let home = self.inventory.home_mut(pos);
        // Also below what a stream may carry.
        let stocked = home.stocked.checked_add(units);
        let Some(stocked) = stocked.filter(|sum| *sum <= model::record::entry::UNITS_MAX) else {
            return Decision::of(Outcome::Invalid);
        };
        home.stocked = stocked;
        if self.seat.shards == 1 {
            self.take_grant(pos, units);
            return Decision::ok(0);
        }
        home.pool += units;
        self.serve(item, pos);
        let pool = self.inventory.home_mut(pos).pool;
        let share = self.share(pool);
        if share > 0 {
            // All get some, which takes their marks away.
            self.inventory.home_mut(pos).marked = ShardSet::default();
            for shard in self.all_shards().iter() {
                self.grant(item, pos, shard, share);
            }
        } else {
            self.unmark(item, pos);
        }
        Decision::ok(0)
    }

    /// What each shard is granted ahead of a pool: half of it, in equal parts.
    fn share(&self, pool: u64) -> u64 {
        pool / (2 * u64::from(self.seat.shards))
    }

    fn all_shards(&self) -> ShardSet {
        let mut all = ShardSet::default();
        (0..self.seat.shards).for_each(|shard| all.insert(ShardId(shard)));
        all
    }

    fn tell_others(&mut self, entry: &Entry<'_>) {
        for shard in (0..self.seat.shards).map(ShardId) {
            if shard != self.seat.id {
                self.streams.push(shard, entry);
            }
        }
    }

    /// Sends an entry about an item; what this shard has for itself it takes at once.
    fn tell(&mut self, to: ShardId, entry: &Entry<'_>) {
        match to == self.seat.id {
            true => self.take_stock_entry(to, entry),
            false => self.streams.push(to, entry),
        }
    }

    /// What a shard asks for, or answers.
    pub(crate) fn stock(&mut self, ops: &[StockOp]) -> Decision {
        for op in ops {
            let item = ItemId(op.wanted.item.get());
            if op.is_ask() {
                self.tell(self.home_of(item), &Entry::Ask(&op.wanted));
                continue;
            }
            let Some(pos) = self.inventory.find(item) else { continue };
            let found = self.inventory.get_mut(pos);
            if found.recalled == 0 {
                continue;
            }
            // Everything unspent goes home, and so does what is freed from here on.
            let round = std::mem::take(&mut found.recalled);
            let units = std::mem::take(&mut found.available);
            found.flags |= DRAINED;
            self.return_home(item, units, round);
        }
        Decision::ok(0)
    }

    fn return_home(&mut self, item: ItemId, units: u64, round: u64) {
        let returned = Returned { item: item.0.into(), units: units.into(), round: round.into() };
        self.tell(self.home_of(item), &Entry::Return(&returned));
    }

    /// Units of the item at `pos` that were spent can be spent again.
    pub(crate) fn free(&mut self, pos: Pos, units: u64) {
        let found = self.inventory.get_mut(pos);
        // Where it is sold out for others, its home tells them that it isn't any more.
        if found.flags & (DRAINED | MARKED) != 0 {
            let item = ItemId(found.id);
            self.return_home(item, units, 0);
        } else {
            found.available += units;
            self.wake(pos);
        }
    }

    fn wake(&mut self, pos: Pos) {
        let found = self.inventory.get_mut(pos);
        if found.queued | std::mem::take(&mut found.asked) != 0 {
            self.signals.woken.push((self.realm, ItemId(found.id)));
        }
    }

    /// A bug that can be planted.
    pub(crate) fn take_grants_again(&mut self, from: ShardId, entries: Entries<'_>) {
        let is_grant = |entry: &Entry<'_>| matches!(entry, Entry::Grant(_) | Entry::Ration(_));
        for (_, entry) in entries.filter(|(_, entry)| is_grant(entry)) {
            self.take_stock_entry(from, &entry);
        }
    }

    /// A bug that can be planted: answers a recall before what was sent ahead of it is taken.
    pub(crate) fn take_recall_early(&mut self, entry: &Entry<'_>) {
        let Entry::Recall(recall) = entry else { return };
        if let Some(pos) = self.inventory.find(ItemId(recall.item.get())) {
            let found = self.inventory.get_mut(pos);
            let units = std::mem::take(&mut found.available);
            found.flags |= DRAINED;
            self.return_home(ItemId(recall.item.get()), units, recall.units.get());
        }
    }

    /// An entry about units or the catalogue.
    pub(crate) fn take_stock_entry(&mut self, from: ShardId, entry: &Entry<'_>) {
        match entry {
            Entry::Listing(listing) => self.take_listing(listing),
            Entry::Ask(wanted) => self.take_ask(from, wanted),
            Entry::Return(returned) => self.take_return(from, returned),
            Entry::Unknown(unknown) => {
                let item = unknown.item.get();
                self.unknown.push_back(item);
                if self.unknown.len() > UNKNOWN_MAX {
                    self.unknown.pop_front();
                }
                self.signals.woken.push((self.realm, ItemId(item)));
            }
            Entry::Grant(of)
            | Entry::Ration(of)
            | Entry::Recall(of)
            | Entry::SoldOut(of)
            | Entry::Unmark(of) => {
                // A home speaks of an item only after it has listed it.
                let Some(pos) = self.inventory.find(ItemId(of.item.get())) else { return };
                let found = self.inventory.get_mut(pos);
                match entry {
                    Entry::Grant(_) => self.take_grant(pos, of.units.get()),
                    Entry::Ration(_) => {
                        self.take_grant(pos, of.units.get());
                        self.inventory.get_mut(pos).flags |= DRAINED;
                    }
                    Entry::Recall(_) if is_planted(Bug::RecallOvertakes) => {}
                    Entry::Unmark(_) if is_planted(Bug::DeafToUnmark) => {}
                    Entry::Recall(_) => {
                        found.recalled = of.units.get();
                        self.signals.recalled.push((self.realm, ItemId(of.item.get())));
                    }
                    Entry::SoldOut(_) => {
                        let left = of.units.get();
                        // What was freed since, the home doesn't know of: it is to ask again.
                        let unheard = found.available.saturating_sub(left);
                        if unheard > 0 {
                            found.available = left;
                            self.return_home(ItemId(of.item.get()), unheard, 0);
                        } else {
                            found.flags |= MARKED;
                            found.left = left;
                        }
                        self.wake(pos);
                    }
                    _ => found.unmark(),
                }
            }
            Entry::Sweep(_) | Entry::Owed(_) | Entry::Transfer(_) | Entry::Back(_) => {
                unreachable!("money has a way of its own")
            }
        }
    }

    fn take_listing(&mut self, listing: &Listing) {
        let item = ItemId(listing.item.get());
        match self.inventory.find(item) {
            None => self.list(listing, None),
            Some(pos) => {
                let found = self.inventory.get_mut(pos);
                found.price = listing.price.get();
                found.set_window(listing.opens.get(), listing.closes.get());
                found.limit = listing.limit.get();
                found.version = listing.version.get();
            }
        }
    }

    /// Adds a row for the item, with the units that come along.
    fn list(&mut self, listing: &Listing, home: Option<Home>) {
        let item = ItemId(listing.item.get());
        let currency: Currency = checked(listing.currency.get());
        let seller = Party(listing.seller.get());
        if self.ledger.payables() == 0 {
            self.swept_step = self.step; // Nothing is there to be swept before the next one.
        }
        let payable = self.ledger.find_or_make((seller, currency, AccountKind::Payable));
        let mut row = Item {
            id: item.0,
            price: listing.price.get(),
            available: listing.units.get(),
            seller: seller.0,
            payable: payable.0,
            limit: listing.limit.get(),
            currency: currency.numeric(),
            version: listing.version.get(),
            flags: if listing.units.get() == 0 && self.seat.shards > 1 { DRAINED } else { 0 },
            ..Item::default()
        };
        row.set_window(listing.opens.get(), listing.closes.get());
        self.inventory.insert(row, home);
        self.unknown.retain(|unknown| *unknown != item.0);
        // Orders may have waited for it to become known.
        if self.seat.shards > 1 {
            self.signals.woken.push((self.realm, item));
        }
    }

    fn take_grant(&mut self, pos: Pos, units: u64) {
        let found = self.inventory.get_mut(pos);
        found.available += units;
        found.flags &= !DRAINED;
        found.unmark();
        self.wake(pos);
    }

    // From here on: what the home of an item does.

    fn take_ask(&mut self, from: ShardId, wanted: &Wanted) {
        let item = ItemId(wanted.item.get());
        let Some(pos) = self.inventory.find(item).filter(|pos| self.inventory.home(*pos).is_some())
        else {
            let unknown = Units { item: item.0.into(), ..Units::default() };
            return self.tell(from, &Entry::Unknown(&unknown));
        };
        let uncontended = !self.contended.contains_key(&item.0);
        if uncontended && wanted.lacking.get() <= self.inventory.home_mut(pos).pool {
            return self.grant_asked(item, pos, from, wanted);
        }
        let contention = self.contended.entry(item.0).or_default();
        let mut ask = *wanted;
        if contention.expected.contains(from) {
            all_comes_home(&mut ask);
        }
        match contention.asks.iter_mut().find(|(shard, _)| *shard == from) {
            Some((_, before)) => *before = ask,
            None => contention.asks.push_back((from, ask)),
        }
        self.serve(item, pos);
        self.begin_round(item, pos);
    }

    fn take_return(&mut self, from: ShardId, returned: &Returned) {
        let item = ItemId(returned.item.get());
        // What it had, it had from here.
        let Some(pos) = self.inventory.find(item) else { return };
        let home = self.inventory.home_mut(pos);
        home.pool += returned.units.get();
        let answers = returned.round.get() != 0;
        if answers {
            // What it was granted since it was recalled, it may have been sent after its answer.
            let contention = self.contended.get(&item.0);
            if !contention.is_some_and(|contention| contention.granted_to.contains(from)) {
                home.holders.remove(from);
            }
            if let Some(contention) = self.contended.get_mut(&item.0) {
                contention.expected.remove(from);
                // What it held for an order that waits came along.
                if let Some((_, ask)) = contention.asks.iter_mut().find(|(shard, _)| *shard == from)
                {
                    all_comes_home(ask);
                }
            }
        }
        self.serve(item, pos);
        self.end_round(item, pos);
        if !answers && returned.units.get() > 0 {
            self.unmark(item, pos);
        }
    }

    /// Grants to those who asked, in their order, as far as the pool goes.
    fn serve(&mut self, item: ItemId, pos: Pos) {
        while let Some(contention) = self.contended.get_mut(&item.0) {
            let Some((shard, ask)) = contention.asks.front().copied() else {
                if !contention.is_running {
                    self.contended.remove(&item.0);
                }
                return;
            };
            if ask.lacking.get() > self.inventory.home_mut(pos).pool {
                return;
            }
            contention.asks.pop_front();
            self.grant_asked(item, pos, shard, &ask);
        }
    }

    /// Grants what was asked for, or a share ahead if that is more.
    fn grant_asked(&mut self, item: ItemId, pos: Pos, shard: ShardId, ask: &Wanted) {
        let pool = self.inventory.home_mut(pos).pool;
        let units = ask.wanted.get().max(self.share(pool)).min(pool);
        self.grant(item, pos, shard, units);
    }

    fn grant(&mut self, item: ItemId, pos: Pos, shard: ShardId, units: u64) {
        let home = self.inventory.home_mut(pos);
        home.pool -= units;
        home.holders.insert(shard);
        home.marked.remove(shard);
        // Somebody refuses orders by what was left, or soon will: what is freed has to be known.
        let mut is_scarce = !home.marked.is_empty();
        if let Some(contention) = self.contended.get_mut(&item.0) {
            contention.granted += units;
            contention.granted_to.insert(shard);
            is_scarce |= contention.is_running;
        }
        let granted = Units { item: item.0.into(), units: units.into() };
        let entry = if is_scarce { Entry::Ration(&granted) } else { Entry::Grant(&granted) };
        self.tell(shard, &entry);
    }

    /// Begins a round for those who asked, if none is running.
    fn begin_round(&mut self, item: ItemId, pos: Pos) {
        let Some(contention) = self.contended.get_mut(&item.0) else { return };
        if contention.is_running || contention.asks.is_empty() {
            return;
        }
        let home = self.inventory.home_mut(pos);
        home.round += 1;
        let recall = Units { item: item.0.into(), units: home.round.into() };
        // Also from those who ask: what they said that they hold may be more by now.
        contention.expected = home.holders;
        for (shard, ask) in &mut contention.asks {
            if home.holders.contains(*shard) {
                all_comes_home(ask);
            }
        }
        contention.is_running = true;
        contention.granted = 0;
        contention.granted_to = ShardSet::default();
        for shard in contention.expected.iter() {
            self.tell(shard, &Entry::Recall(&recall));
        }
        self.end_round(item, pos);
    }

    /// When all have answered: who still can't be served is told that it is sold out.
    fn end_round(&mut self, item: ItemId, pos: Pos) {
        let Some(contention) = self.contended.get_mut(&item.0) else { return };
        if !contention.is_running || !contention.expected.is_empty() {
            return;
        }
        contention.is_running = false;
        let home = self.inventory.home_mut(pos);
        // All that was unspent anywhere when the round began has come home, and some was granted.
        let unspent = home.pool + contention.granted;
        let mut refused = Vec::new();
        contention.asks.retain(|(shard, ask)| {
            let stays = ask.whole.get() <= unspent;
            if !stays {
                refused.push(*shard);
            }
            stays
        });
        let sold_out = Units { item: item.0.into(), units: unspent.into() };
        for shard in refused {
            self.inventory.home_mut(pos).marked.insert(shard);
            self.tell(shard, &Entry::SoldOut(&sold_out));
        }
        self.serve(item, pos);
        self.begin_round(item, pos);
    }

    /// Tells everybody who was told otherwise that there may be units again.
    fn unmark(&mut self, item: ItemId, pos: Pos) {
        let marked = std::mem::take(&mut self.inventory.home_mut(pos).marked);
        let unmark = Units { item: item.0.into(), ..Units::default() };
        for shard in marked.iter() {
            self.tell(shard, &Entry::Unmark(&unmark));
        }
    }

    /// Whether an order here can have what it lacks from the pool at once: this is the item's
    /// home, and nobody else waits for it.
    pub(crate) fn can_take_from_pool(&self, pos: Pos, lacking: u64) -> bool {
        let has = self.inventory.home(pos).is_some_and(|home| home.pool >= lacking);
        has && !self.contended.contains_key(&self.inventory.get(pos).id)
    }

    /// Grants this shard what an order lacks, after [`RealmState::can_take_from_pool`].
    pub(crate) fn take_from_pool(&mut self, item: ItemId, pos: Pos, lacking: u64) {
        let pool = self.inventory.home_mut(pos).pool;
        self.grant(item, pos, self.seat.id, lacking.max(self.share(pool)));
    }

    /// Whether this shard can say by itself that fewer units than `whole` are unspent anywhere.
    pub(crate) fn is_sold_out(&self, pos: Pos, whole: u64) -> bool {
        let item = self.inventory.get(pos);
        if item.flags & MARKED != 0 && whole > item.left {
            return true;
        }
        match self.inventory.home(pos) {
            Some(home) => {
                let nobody_else = home.holders.without(self.seat.id).is_empty();
                nobody_else && item.available + home.pool < whole
            }
            None => false,
        }
    }
}

/// What a shard holds for the order that asks comes home with its answer: it lacks all of it.
fn all_comes_home(ask: &mut Wanted) {
    ask.lacking = ask.whole;
    ask.wanted = ask.wanted.get().max(ask.whole.get()).into();
}

impl Item {
    fn set_window(&mut self, opens: u64, closes: u64) {
        (self.opens, self.closes) = (opens, closes);
        let windowed = opens != 0 || closes != 0;
        self.flags = if windowed { self.flags | WINDOW } else { self.flags & !WINDOW };
    }

    fn unmark(&mut self) {
        self.flags &= !MARKED;
        self.left = 0;
    }

    /// Whether its sale is open.
    pub(crate) fn is_open(&self, now: model::Time) -> bool {
        self.flags & WINDOW == 0 || self.opens <= now.0 && (self.closes == 0 || now.0 < self.closes)
    }
}
