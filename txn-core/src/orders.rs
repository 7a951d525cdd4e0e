//! Orders: what was placed, and what is left of it.
//!
//! An order's block is a head and its lines, written once in the order in which orders come in.
//! A refused order keeps a head alone, so that its id stays refused. Behind the lines of few
//! orders stand their payment legs and what is special about some lines: most are paid at once,
//! in one way, at the sellers' prices.

use foldhash::fast::FixedState;
use model::record::{LEGS_MAX, PLACE_FORFEIT, PlaceBody};
use model::{
    Amount, Currency, ItemId, LegState, LegView, LineKind, LineView, Offset, OrderId, OrderState,
    OrderView, Outcome, Party, PaymentMethod, Quantity, Time,
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
    /// [`COUNTS`], [`TAIL`], [`FORFEIT`], [`RECEIVED`], [`CHANGED`].
    pub flags: u8,
    /// While it is reserved: when it expires, or 0. Once it is paid: the step in which it was.
    pub moment: u64,
}

/// Its units count towards the limits of its items: one of them had a limit.
pub(crate) const COUNTS: u8 = 1;
/// Legs and extras stand behind its lines.
const TAIL: u8 = 2;
/// What was paid is the sellers' when it expires.
pub(crate) const FORFEIT: u8 = 4;
/// It was received: what sellers earned with it is pending no longer.
pub(crate) const RECEIVED: u8 = 8;
/// It isn't any more what its record and the frame's time say.
pub(crate) const CHANGED: u8 = 16;

/// The flags of an order as it is placed.
pub(crate) fn flags_of(order: &PlaceBody) -> u8 {
    if order.flags & PLACE_FORFEIT != 0 { FORFEIT } else { 0 }
}

impl OrderHead {
    pub(crate) fn buyer(&self) -> Party {
        Party(self.buyer)
    }

    pub(crate) fn id(&self) -> OrderId {
        OrderId(u128::from(self.id[0]) << 64 | u128::from(self.id[1]))
    }

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

/// What a tail begins with.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, Default)]
#[repr(C)]
struct TailHead {
    legs: u32,
    extras: u32,
}

/// A payment leg of an order.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct OrderLeg {
    /// How it is paid, or awaited.
    pub method: u8,
    /// A [`LegState`].
    pub state: u8,
    pub unused: [u8; 6],
    pub amount: u64,
    pub paid: u64,
    pub refunded: u64,
    /// What came and could not be taken.
    pub suspended: u64,
    /// Until when it is awaited, or 0; of a coupon its number.
    pub term: u64,
}

impl OrderLeg {
    pub(crate) fn state(&self) -> LegState {
        LegState::from_byte(self.state).expect("the core wrote it")
    }

    pub(crate) fn method(&self) -> PaymentMethod {
        PaymentMethod::from_byte(self.method).expect("the core wrote it")
    }

    /// What is still to be paid of it.
    pub(crate) fn open(&self) -> u64 {
        self.amount - self.paid
    }
}

/// What is special about a line of an order.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct OrderExtra {
    pub line: u16,
    /// A [`LineKind`].
    pub kind: u8,
    pub unused: [u8; 5],
    /// Who is paid instead of the item's seller, or 0.
    pub payee: u64,
    pub discount: u64,
}

const TAIL_HEAD_WORDS: usize = size_of::<TailHead>() / 8;
const LEG_WORDS: usize = size_of::<OrderLeg>() / 8;
const EXTRA_WORDS: usize = size_of::<OrderExtra>() / 8;

/// The order whose block begins `words`.
pub(crate) fn head_of(words: &[u64]) -> &OrderHead {
    OrderHead::ref_from_prefix(words.as_bytes()).expect("a block is whole").0
}

/// Words of the block that begins `words`.
pub(crate) fn length_of(words: &[u64]) -> usize {
    let (lines, legs, extras) = parts(words);
    let tail = if head_of(words).flags & TAIL == 0 { 0 } else { TAIL_HEAD_WORDS };
    HEAD_WORDS + lines + tail + legs + extras
}

/// The block that begins `words`, if one does: with counts that fit, and bytes that mean
/// something.
pub(crate) fn checked_block(words: &[u64]) -> Option<&[u64]> {
    let (head, _) = OrderHead::ref_from_prefix(words.as_bytes()).ok()?;
    let after = HEAD_WORDS + usize::from(head.line_count) * LINE_WORDS;
    if head.flags & TAIL != 0 {
        let (tail, _) = TailHead::ref_from_prefix(words.get(after..)?.as_bytes()).ok()?;
        if tail.legs as usize > LEGS_MAX || tail.extras > head.line_count.into() {
            return None;
        }
    }
    let block = words.get(..length_of(words))?;
    let is_known = Currency::from_numeric(head.currency).is_some()
        && OrderState::from_byte(head.state).is_some()
        && Outcome::from_byte(head.outcome).is_some()
        && PaymentMethod::from_byte(head.method).is_some();
    let leg = |leg: &OrderLeg| {
        LegState::from_byte(leg.state).is_some() && PaymentMethod::from_byte(leg.method).is_some()
    };
    let extra = |extra: &OrderExtra| {
        extra.line < head.line_count && LineKind::from_byte(extra.kind).is_some()
    };
    let is_sound = is_known && legs_of(block).iter().all(leg) && extras_of(block).iter().all(extra);
    is_sound.then_some(block)
}

/// A block of an order without legs and extras.
pub(crate) fn plain_block(head: OrderHead, lines: impl Iterator<Item = OrderLine>) -> Vec<u64> {
    let mut words = vec![0; HEAD_WORDS + usize::from(head.line_count) * LINE_WORDS];
    let (first, rest) = words.split_at_mut(HEAD_WORDS);
    first.as_mut_bytes().copy_from_slice(head.as_bytes());
    for (slot, line) in rest.chunks_exact_mut(LINE_WORDS).zip(lines) {
        slot.as_mut_bytes().copy_from_slice(line.as_bytes());
    }
    words
}

pub(crate) fn lines_of(words: &[u64]) -> &[OrderLine] {
    let count = usize::from(head_of(words).line_count);
    <[OrderLine]>::ref_from_prefix_with_elems(words[HEAD_WORDS..].as_bytes(), count)
        .expect("a block is whole and aligned")
        .0
}

fn legs_of(words: &[u64]) -> &[OrderLeg] {
    let (lines, legs, _) = parts(words);
    if legs == 0 {
        return &[];
    }
    let from = HEAD_WORDS + lines + TAIL_HEAD_WORDS;
    <[OrderLeg]>::ref_from_bytes(words[from..from + legs].as_bytes())
        .expect("a block is whole and aligned")
}

fn extras_of(words: &[u64]) -> &[OrderExtra] {
    let (lines, legs, extras) = parts(words);
    if extras == 0 {
        return &[];
    }
    let from = HEAD_WORDS + lines + TAIL_HEAD_WORDS + legs;
    <[OrderExtra]>::ref_from_bytes(words[from..from + extras].as_bytes())
        .expect("a block is whole and aligned")
}

/// What a block shows.
pub(crate) fn view_of(words: &[u64]) -> OrderView {
    let head = head_of(words);
    let known = "the core wrote it";
    OrderView {
        buyer: head.buyer(),
        id: head.id(),
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
        received: head.flags & RECEIVED != 0,
        lines: view_lines(words),
        legs: legs_of(words).iter().map(view_leg).collect(),
    }
}

fn view_lines(words: &[u64]) -> Vec<LineView> {
    let view = |line: &OrderLine| LineView {
        kind: LineKind::Goods,
        item: ItemId(line.item),
        quantity: Quantity(line.quantity),
        refunded: Quantity(line.refunded),
        unit_price: Amount(line.unit_price),
        payee: None,
        discount: Amount(0),
    };
    let mut lines: Vec<LineView> = lines_of(words).iter().map(view).collect();
    for extra in extras_of(words) {
        let line = &mut lines[usize::from(extra.line)];
        line.kind = LineKind::from_byte(extra.kind).expect("the core wrote it");
        let is_charge = line.kind != LineKind::Goods;
        line.payee = (extra.payee != 0 && !is_charge).then_some(Party(extra.payee));
        line.discount = Amount(extra.discount);
    }
    lines
}

/// The parts of the block that begins `words`, behind its head: lines, legs and extras, in words.
fn parts(words: &[u64]) -> (usize, usize, usize) {
    let (head, _) = OrderHead::ref_from_prefix(words.as_bytes()).expect("a block is whole");
    let lines = usize::from(head.line_count) * LINE_WORDS;
    if head.flags & TAIL == 0 {
        return (lines, 0, 0);
    }
    let tail = words[HEAD_WORDS + lines..].as_bytes();
    let (tail, _) = TailHead::ref_from_prefix(tail).expect("a block is whole");
    (lines, tail.legs as usize * LEG_WORDS, tail.extras as usize * EXTRA_WORDS)
}

/// All orders of a shard.
pub(crate) struct Orders {
    blocks: Arena,
    index: Index,
    hasher: FixedState,
    spare: SpareRegions,
}

impl Orders {
    pub(crate) fn new(hasher: FixedState, spare: &SpareRegions) -> Orders {
        let (blocks, index) = (Arena::new(spare), Index::new(spare));
        Orders { blocks, index, hasher, spare: spare.clone() }
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

    /// Notes the newest record about an order, which changes it.
    pub(crate) fn set_last(&mut self, pos: Pos, offset: Offset) {
        let head = self.head_mut(pos);
        head.last = offset.0;
        head.flags |= CHANGED;
    }

    pub(crate) fn lines(&self, pos: Pos) -> &[OrderLine] {
        lines_of(self.blocks.words(pos))
    }

    pub(crate) fn lines_mut(&mut self, pos: Pos) -> &mut [OrderLine] {
        let count = usize::from(self.head(pos).line_count);
        let words = self.blocks.words_mut(pos, HEAD_WORDS + count * LINE_WORDS);
        let words = &mut words[HEAD_WORDS..];
        <[OrderLine]>::mut_from_prefix_with_elems(words.as_mut_bytes(), count)
            .expect("a block is whole and aligned")
            .0
    }

    /// The order's payment legs; none if it was paid at once and in one way.
    pub(crate) fn legs(&self, pos: Pos) -> &[OrderLeg] {
        legs_of(self.blocks.words(pos))
    }

    pub(crate) fn legs_mut(&mut self, pos: Pos) -> &mut [OrderLeg] {
        let (lines, legs, _) = parts(self.blocks.words(pos));
        if legs == 0 {
            return &mut [];
        }
        let from = HEAD_WORDS + lines + TAIL_HEAD_WORDS;
        let words = self.blocks.words_mut(pos, from + legs);
        <[OrderLeg]>::mut_from_bytes(words[from..].as_mut_bytes())
            .expect("a block is whole and aligned")
    }

    /// What is special about some of the order's lines, in their order.
    pub(crate) fn extras(&self, pos: Pos) -> &[OrderExtra] {
        extras_of(self.blocks.words(pos))
    }

    /// Remembers an order that isn't there yet.
    pub(crate) fn insert(
        &mut self,
        mut head: OrderHead,
        lines: impl Iterator<Item = OrderLine>,
        legs: &[OrderLeg],
        extras: &[OrderExtra],
    ) -> Pos {
        let count = usize::from(head.line_count);
        let mut words = HEAD_WORDS + count * LINE_WORDS;
        let has_tail = !(legs.is_empty() && extras.is_empty());
        if has_tail {
            // Its record doesn't say all that there is behind the lines.
            head.flags |= TAIL | CHANGED;
            words += TAIL_HEAD_WORDS + legs.len() * LEG_WORDS + extras.len() * EXTRA_WORDS;
        }
        let pos = self.blocks.allocate(words);
        *self.blocks.get_mut(pos) = head;
        for (slot, line) in self.lines_mut(pos).iter_mut().zip(lines) {
            *slot = line;
        }
        if has_tail {
            let tail = TailHead { legs: legs.len() as u32, extras: extras.len() as u32 };
            let parts = [tail.as_bytes(), legs.as_bytes(), extras.as_bytes()];
            let words = self.blocks.words_mut(pos, words);
            let mut bytes = words[HEAD_WORDS + count * LINE_WORDS..].as_mut_bytes();
            for part in parts {
                let (to, rest) = bytes.split_at_mut(part.len());
                to.copy_from_slice(part);
                bytes = rest;
            }
        }
        self.index.insert(self.hash(head.buyer(), head.id()), pos);
        // With many shards on a core, it is long until the next one is written behind it.
        self.blocks.prefetch_next(2 * HEAD_WORDS);
        pos
    }

    pub(crate) fn view(&self, buyer: Party, id: OrderId) -> Option<OrderView> {
        self.find(buyer, id).map(|pos| view_of(self.blocks.words(pos)))
    }

    /// The oldest order: where it is, and its block.
    pub(crate) fn oldest(&self) -> Option<(Pos, &[u64])> {
        let (pos, words) = self.blocks.oldest()?;
        Some((pos, &words[..length_of(words)]))
    }

    /// Forgets the oldest order.
    pub(crate) fn remove_oldest(&mut self) {
        let Some((pos, block)) = self.oldest() else { return };
        let (head, length) = (head_of(block), block.len());
        let hash = self.hash(head.buyer(), head.id());
        self.index.remove(hash, pos);
        self.blocks.release(length);
    }

    /// Adds an order as its block, which isn't there.
    pub(crate) fn insert_block(&mut self, block: &[u64]) -> Pos {
        let pos = self.blocks.allocate(block.len());
        self.blocks.words_mut(pos, block.len()).copy_from_slice(block);
        let head = head_of(block);
        self.index.insert(self.hash(head.buyer(), head.id()), pos);
        pos
    }

    /// All orders, the oldest first: where each is, its head, and what stands behind it.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Pos, &OrderHead, &[u64])> {
        self.blocks.used().flat_map(|(first, used)| {
            let mut at = 0;
            std::iter::from_fn(move || {
                let words = used.get(at..).filter(|words| !words.is_empty())?;
                let length = length_of(words);
                let pos = Pos(first.0 + at as u32);
                at += length;
                Some((pos, head_of(words), &words[HEAD_WORDS..length]))
            })
        })
    }

    pub(crate) fn state_hash(&self) -> u64 {
        self.iter().fold(0, |sum, (_, head, rest)| {
            // Offsets count all records of the log; the state is without them.
            let head = OrderHead { last: 0, ..*head };
            let seed = xxhash_rust::xxh3::xxh3_64(head.as_bytes());
            sum.wrapping_add(xxhash_rust::xxh3::xxh3_64_with_seed(rest.as_bytes(), seed))
        })
    }

    /// Orders of which units were refunded, and how many of each line.
    pub(crate) fn refunded(&self) -> impl Iterator<Item = (Party, OrderId, Vec<u64>)> + '_ {
        self.iter().filter_map(|(pos, head, _)| {
            let lines: Vec<u64> = self.lines(pos).iter().map(|line| line.refunded.into()).collect();
            let is_refunded = lines.iter().any(|units| *units > 0);
            is_refunded.then_some((head.buyer(), head.id(), lines))
        })
    }

    /// How far the table had come when its oldest order came in, and how far it has by now, in
    /// words.
    pub(crate) fn span(&self) -> (u64, u64) {
        (self.blocks.tail(), self.blocks.head())
    }

    /// The orders' memory, to save and to restore.
    pub(crate) fn blocks(&mut self) -> &mut Arena {
        &mut self.blocks
    }

    /// Makes the index again, after all orders were restored. Returns when those that wait
    /// expire, with their positions.
    pub(crate) fn rebuild(&mut self) -> Vec<(u64, Pos)> {
        let count = self.iter().count() as u64;
        let mut index = Index::new(&self.spare);
        index.reserve(count);
        let mut due = Vec::new();
        for (pos, head, _) in self.iter() {
            index.insert(self.hash(head.buyer(), head.id()), pos);
            if head.state == OrderState::Reserved as u8 && head.moment != 0 {
                due.push((head.moment, pos));
            }
        }
        self.index = index;
        due
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

fn view_leg(leg: &OrderLeg) -> LegView {
    let is_coupon = leg.method() == PaymentMethod::Coupon;
    LegView {
        method: leg.method(),
        state: leg.state(),
        amount: Amount(leg.amount),
        paid: Amount(leg.paid),
        refunded: Amount(leg.refunded),
        suspended: Amount(leg.suspended),
        deadline: Time(if is_coupon { 0 } else { leg.term }),
        coupon: if is_coupon { leg.term } else { 0 },
    }
}

/// A 128-bit id as two aligned words.
pub(crate) fn halves(id: u128) -> [u64; 2] {
    [(id >> 64) as u64, id as u64]
}
