//! Orders: what was placed, and what is left of it.
//!
//! An order's block is a head and its lines, written once in the order in which orders come in.
//! A refused order keeps a head alone, so that its id stays refused.

use foldhash::fast::FixedState;
use model::{
    Amount, Currency, ItemId, LineView, Offset, OrderId, OrderState, OrderView, Outcome, Party,
    PaymentMethod, Quantity, Time,
};
use std::hash::BuildHasher;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::arena::{Arena, Pos, SpareRegions};
use crate::index::{Grown, Hash32, Index};

/// The fixed part of an order.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct OrderHead {
    pub buyer: u64,
    pub id: [u64; 2],
    /// Hash of the command's bytes, to tell a repeat from another request.
    pub digest: u64,
    pub total: u64,
    /// Money given back; for a refused order, 1 + the line that the refusal is about, or 0.
    pub refunded: u64,
    /// Offset of the newest record about it.
    pub last: u64,
    pub line_count: u16,
    pub currency: u16,
    pub state: u8,
    pub outcome: u8,
    pub method: u8,
    /// 1 if its units count towards the limits of its items: one of them had a limit.
    pub counts: u8,
    /// While it is reserved: when it expires, or 0. Once it is paid: the step in which it was.
    pub moment: u64,
}

impl OrderHead {
    pub(crate) fn is_refused(&self) -> bool {
        self.state == OrderState::Refused as u8
    }

    /// The line that a refusal is about.
    pub(crate) fn refused_line(&self) -> Option<u16> {
        if self.is_refused() { self.refunded.checked_sub(1).map(|line| line as u16) } else { None }
    }
}

const HEAD_WORDS: usize = size_of::<OrderHead>() / 8;
const _: () = assert!(HEAD_WORDS == 9);

/// One line of an order.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct OrderLine {
    pub item: u64,
    pub unit_price: u64,
    pub quantity: u32,
    pub refunded: u32,
}

const LINE_WORDS: usize = size_of::<OrderLine>() / 8;

/// All orders of a shard.
pub(crate) struct Orders {
    blocks: Arena,
    index: Index,
    hasher: FixedState,
}

impl Orders {
    pub(crate) fn new(hasher: FixedState, spare: &SpareRegions) -> Orders {
        Orders { blocks: Arena::new(spare), index: Index::new(spare), hasher }
    }

    fn hash(&self, buyer: Party, id: OrderId) -> Hash32 {
        self.hasher.hash_one((buyer.0, id.0)).into()
    }

    pub(crate) fn find(&self, buyer: Party, id: OrderId) -> Option<Pos> {
        let key = halves(id.0);
        self.index.find(self.hash(buyer, id), |pos| {
            let head: &OrderHead = self.blocks.get(pos);
            head.buyer == buyer.0 && head.id == key
        })
    }

    pub(crate) fn head(&self, pos: Pos) -> &OrderHead {
        self.blocks.get(pos)
    }

    pub(crate) fn head_mut(&mut self, pos: Pos) -> &mut OrderHead {
        self.blocks.get_mut(pos)
    }

    pub(crate) fn lines(&self, pos: Pos) -> &[OrderLine] {
        let count = usize::from(self.head(pos).line_count);
        let words = &self.blocks.words(pos)[HEAD_WORDS..];
        <[OrderLine]>::ref_from_prefix_with_elems(words.as_bytes(), count)
            .expect("a block is whole and aligned")
            .0
    }

    pub(crate) fn lines_mut(&mut self, pos: Pos) -> &mut [OrderLine] {
        let count = usize::from(self.head(pos).line_count);
        let words = &mut self.blocks.words_mut(pos)[HEAD_WORDS..];
        <[OrderLine]>::mut_from_prefix_with_elems(words.as_mut_bytes(), count)
            .expect("a block is whole and aligned")
            .0
    }

    /// Remembers an order that isn't there yet.
    pub(crate) fn insert(
        &mut self,
        head: OrderHead,
        lines: impl Iterator<Item = OrderLine>,
    ) -> Pos {
        let count = usize::from(head.line_count);
        let pos = self.blocks.allocate(HEAD_WORDS + count * LINE_WORDS);
        *self.blocks.get_mut(pos) = head;
        for (slot, line) in self.lines_mut(pos).iter_mut().zip(lines) {
            *slot = line;
        }
        let id = OrderId(u128::from(head.id[0]) << 64 | u128::from(head.id[1]));
        self.index.insert(self.hash(Party(head.buyer), id), pos);
        // With many shards on a core, it is long until the next one is written behind it.
        self.blocks.prefetch_next(2 * HEAD_WORDS);
        pos
    }

    pub(crate) fn view(&self, buyer: Party, id: OrderId) -> Option<OrderView> {
        let pos = self.find(buyer, id)?;
        let head = self.head(pos);
        let known = "the core wrote it";
        Some(OrderView {
            buyer,
            id,
            currency: Currency::from_numeric(head.currency).expect(known),
            state: OrderState::from_byte(head.state).expect(known),
            outcome: Outcome::from_byte(head.outcome).expect(known),
            method: PaymentMethod::from_byte(head.method).expect(known),
            total: Amount(head.total),
            refunded: Amount(if head.is_refused() { 0 } else { head.refunded }),
            offset: Offset(head.last),
            deadline: match OrderState::from_byte(head.state) {
                Some(OrderState::Reserved) => Time(head.moment),
                _ => Time(0),
            },
            lines: self
                .lines(pos)
                .iter()
                .map(|line| LineView {
                    item: ItemId(line.item),
                    quantity: Quantity(line.quantity),
                    refunded: Quantity(line.refunded),
                    unit_price: Amount(line.unit_price),
                })
                .collect(),
        })
    }

    pub(crate) fn state_hash(&self) -> u64 {
        let mut sum = 0u64;
        for mut words in self.blocks.used() {
            while !words.is_empty() {
                let (head, _) =
                    OrderHead::ref_from_prefix(words.as_bytes()).expect("a block is whole");
                let (block, rest) =
                    words.split_at(HEAD_WORDS + usize::from(head.line_count) * LINE_WORDS);
                // Offsets count all records of the log; the state is without them.
                let head = OrderHead { last: 0, ..*head };
                let seed = xxhash_rust::xxh3::xxh3_64(head.as_bytes());
                let lines = block[HEAD_WORDS..].as_bytes();
                sum = sum.wrapping_add(xxhash_rust::xxh3::xxh3_64_with_seed(lines, seed));
                words = rest;
            }
        }
        sum
    }

    /// How far its tables have grown.
    pub(crate) fn grown(&self) -> Grown {
        self.index.grown().with(&self.blocks)
    }

    pub(crate) fn has_room(&self) -> bool {
        self.blocks.has_room()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.blocks.bytes() + self.index.bytes()
    }

    pub(crate) fn len(&self) -> u64 {
        self.index.len()
    }

    pub(crate) fn reserve(&mut self, orders: u64) {
        self.index.reserve(orders);
    }

    pub(crate) fn prefetch_slot(&self, buyer: Party, id: OrderId) {
        self.index.prefetch(self.hash(buyer, id));
    }
}

/// A 128-bit id as two aligned words.
pub(crate) fn halves(id: u128) -> [u64; 2] {
    [(id >> 64) as u64, id as u64]
}
