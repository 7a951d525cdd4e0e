//! Items: what they cost, who is paid, and where their units are.
//!
//! Every shard has a row for each item, with the units that it may sell without asking: its
//! *escrow*. The item's home has the pool beside it. Over all shards, always:
//! stocked = pool + escrow + reserved + sold + what is under way on streams.

use foldhash::fast::FixedState;
use model::reply::Listed;
use model::{Amount, Currency, ItemId, ItemView, Party};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::arena::{Arena, LINE_WORDS, Pos, SpareRegions};
use crate::index::{Grown, prefetch};
use crate::shard::LIST_LOOKS;
use crate::shard_set::ShardSet;
use crate::table::{Row, Table};

/// Items whose memory is fetched together when many are read.
const NAMED_AHEAD: usize = 16;

/// One item on one shard. Its first cache line is what an order needs.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Item {
    pub id: u64,
    pub price: u64,
    /// The escrow: units that orders here can have.
    pub available: u64,
    pub reserved: u64,
    pub sold: u64,
    /// Position of the [`Home`], if this shard is it; else 0.
    pub home: u32,
    pub unused: u32,
    /// Position of the seller's payable account, so that a sale needs no second look-up.
    pub payable: u32,
    /// The most units for one buyer; 0: no limit.
    pub limit: u32,
    pub currency: u16,
    pub version: u16,
    /// [`DRAINED`], [`MARKED`], [`WINDOW`].
    pub flags: u16,
    /// Orders wait for it. Not state: the shell says so, and a log executed again never does.
    pub queued: u8,
    /// Its home was asked for units, and the shell wants to know of the answer. No state either;
    /// over with the answer.
    pub asked: u8,
    pub opens: u64,
    pub closes: u64,
    /// With [`MARKED`]: units that were unspent anywhere in the last recall round.
    pub left: u64,
    /// The round that waits for this shard's answer, or 0.
    pub recalled: u64,
    pub seller: u64,
    pub unused_end: [u64; 3],
}

const _: () = assert!(size_of::<Item>() == 128);

impl Row for Item {
    type Key = u64;

    fn key(&self) -> u64 {
        self.id
    }
}

/// [`Item::flags`]: nothing was granted since the shard answered a round (or ever). Units that
/// are freed go home.
pub(crate) const DRAINED: u16 = 1;
/// [`Item::flags`]: sold out for orders of more than [`Item::left`].
pub(crate) const MARKED: u16 = 2;
/// [`Item::flags`]: it has a window, [`Item::opens`] to [`Item::closes`].
pub(crate) const WINDOW: u16 = 4;

/// What only the item's home knows.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Home {
    pub stocked: u64,
    /// Units that were granted to nobody.
    pub pool: u64,
    /// Hash of the command that created it, to tell a repeat from another request.
    pub digest: u64,
    /// The newest recall round.
    pub round: u64,
    /// Shards that may hold unspent units: granted some since their last answer.
    pub holders: ShardSet,
    /// Shards that were told that it is sold out.
    pub marked: ShardSet,
}

/// All items of a shard.
pub(crate) struct Inventory {
    items: Table<Item>,
    homes: Arena,
}

impl Inventory {
    pub(crate) fn new(hasher: &FixedState, spare: &SpareRegions) -> Inventory {
        Inventory { items: Table::new(hasher, spare), homes: Arena::new(spare) }
    }

    pub(crate) fn find(&self, item: ItemId) -> Option<Pos> {
        self.items.find(item.0)
    }

    pub(crate) fn get(&self, pos: Pos) -> &Item {
        self.items.get(pos)
    }

    pub(crate) fn get_mut(&mut self, pos: Pos) -> &mut Item {
        self.items.get_mut(pos)
    }

    /// What the home of the item at `pos` knows, if this shard is it.
    pub(crate) fn home(&self, pos: Pos) -> Option<&Home> {
        let home = self.get(pos).home;
        (home != 0).then(|| self.homes.get(Pos(home)))
    }

    /// The same, to change, where this shard is known to be the home.
    pub(crate) fn home_mut(&mut self, pos: Pos) -> &mut Home {
        let home = self.get(pos).home;
        assert!(home != 0, "only the home of an item is asked for what it knows");
        self.homes.get_mut(Pos(home))
    }

    /// Adds a row for an item that isn't there yet.
    pub(crate) fn insert(&mut self, item: Item, home: Option<Home>) -> Pos {
        let home = home.map_or(0, |home| self.homes.push(home).0);
        self.items.insert(Item { home, ..item })
    }

    pub(crate) fn view(&self, item: ItemId) -> Option<ItemView> {
        Some(self.view_at(self.find(item)?))
    }

    /// Items that are at home here, behind one.
    pub(crate) fn list(&self, behind: Option<ItemId>, most: usize) -> Listed {
        let behind = match behind.map(|item| self.find(item)) {
            Some(None) => return Listed::NotThere,
            found => found.flatten(),
        };
        let (mut found, mut last) = (Vec::new(), behind);
        for (pos, item) in self.items.iter_behind(behind).take(LIST_LOOKS) {
            last = Some(pos);
            if item.home != 0 {
                found.push(self.view_at(pos));
            }
            if found.len() == most {
                break;
            }
        }
        let next = last.filter(|_| self.items.iter_behind(last).next().is_some());
        Listed::Items(found, next.map(|pos| ItemId(self.get(pos).id)))
    }

    /// These items. Fetching the rows of some of them together costs little more than one.
    pub(crate) fn named(&self, items: &[ItemId]) -> Listed {
        let mut found = Vec::with_capacity(items.len());
        for items in items.chunks(NAMED_AHEAD) {
            items.iter().for_each(|item| self.prefetch_slot(*item));
            items.iter().for_each(|item| self.prefetch_item(*item));
            found.extend(items.iter().map(|item| self.view(*item)));
        }
        Listed::Named(found)
    }

    fn view_at(&self, pos: Pos) -> ItemView {
        let found = self.get(pos);
        let home = self.home(pos);
        ItemView {
            item: ItemId(found.id),
            seller: Party(found.seller),
            price: Amount(found.price),
            currency: Currency::from_numeric(found.currency).expect("checked when created"),
            opens: model::Time(found.opens),
            closes: model::Time(found.closes),
            limit: found.limit,
            stocked: home.map_or(0, |home| home.stocked),
            pool: home.map_or(0, |home| home.pool),
            available: found.available,
            reserved: found.reserved,
            sold: found.sold,
        }
    }

    /// The memory of rows, and of what homes know, to save and to restore.
    pub(crate) fn arenas(&mut self) -> [&mut Arena; 2] {
        [self.items.rows(), &mut self.homes]
    }

    /// Makes the index again, after all rows were restored. Nobody waits.
    pub(crate) fn rebuild(&mut self) {
        self.items.rebuild();
        let rows: Vec<Pos> = self.items.rows().iter_pos::<Item>().map(|(pos, _)| pos).collect();
        for pos in rows {
            let item = self.items.get_mut(pos);
            (item.queued, item.asked) = (0, 0);
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Item> {
        self.items.iter()
    }

    pub(crate) fn state_hash(&self) -> u64 {
        self.iter().fold(0, |sum, item| {
            // Positions say nothing about the state, and who waits is not a part of it.
            let home = (item.home != 0).then(|| self.homes.get::<Home>(Pos(item.home)));
            let item = Item { payable: 0, queued: 0, asked: 0, home: 0, ..*item };
            let seed = home.map_or(0, |home| xxhash_rust::xxh3::xxh3_64(home.as_bytes()));
            sum.wrapping_add(xxhash_rust::xxh3::xxh3_64_with_seed(item.as_bytes(), seed))
        })
    }

    /// How far its tables have grown.
    pub(crate) fn grown(&self) -> Grown {
        self.items.grown().with(&self.homes)
    }

    pub(crate) fn has_room(&self) -> bool {
        self.items.has_room()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.items.bytes() + self.homes.bytes()
    }

    pub(crate) fn len(&self) -> u64 {
        self.items.len()
    }

    pub(crate) fn reserve(&mut self, items: u64) {
        self.items.reserve(items);
    }

    pub(crate) fn prefetch_slot(&self, item: ItemId) {
        self.items.prefetch_slot(item.0);
    }

    /// Where the account of an item's seller is, or of another's by a rare chance.
    pub(crate) fn guess_payable(&self, item: ItemId) -> Option<Pos> {
        let pos = self.items.guess(item.0)?;
        Some(Pos(self.get(pos).payable))
    }

    /// Asks the processor to fetch what the home of an item knows.
    pub(crate) fn prefetch_home(&self, item: ItemId) {
        let home = self.items.guess(item.0).map_or(0, |pos| self.get(pos).home);
        if home != 0 {
            let words = self.homes.words(Pos(home));
            prefetch(&words[0]);
            prefetch(&words[LINE_WORDS]);
        }
    }

    pub(crate) fn prefetch_item(&self, item: ItemId) {
        if let Some(pos) = self.items.guess(item.0) {
            self.items.prefetch(pos);
        }
    }
}
