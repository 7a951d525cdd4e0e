//! What shards tell each other: the entries of streams, and what is asked of them.
//!
//! From each shard to each other there is one stream, numbered from 1 without a gap. Units,
//! money, asks, recalls and catalogue entries ride on it together, so nothing overtakes anything,
//! and each arrives once. The receiver's log holds what it took, as a [`Kind::Deliver`].
//!
//! An entry is an [`EntryHeader`] and the struct that its kind names.

use super::*;

layout! {
    /// What every entry begins with.
    EntryHeader[8] {
        /// Bytes of the whole entry.
        length: U16,
        /// An [`EntryKind`].
        kind: u8,
        /// Zero.
        flags: u8,
        /// *Outcome*: `Ok` for what was taken, `AlreadyDone` for what was here before; for money,
        /// `UnknownAccount` where it was sent back, `WrongState` where it was booked to suspense.
        outcome: u8,
        /// Zero.
        reserved: [u8; 3],
    }
    /// A catalogue entry, with units that come along.
    Listing[56] {
        /// Which item.
        item: U64,
        /// Who is paid for it.
        seller: U64,
        /// List price of a unit.
        price: U64,
        /// Units granted.
        units: U64,
        /// When its sale begins, µs since 1970; 0: at once.
        opens: U64,
        /// When its sale ends; 0: never.
        closes: U64,
        /// The most units for one buyer; 0: no limit.
        limit: U32,
        /// ISO 4217 numeric.
        currency: U16,
        /// Grows by one with every change, modulo 2¹⁶.
        version: U16,
    }
    /// Units of one item.
    Units[16] {
        /// Which item.
        item: U64,
        /// How many.
        units: U64,
    }
    /// Units that are wanted of one item's home.
    Wanted[32] {
        /// Which item.
        item: U64,
        /// What the order that has waited longest lacks, at least 1.
        lacking: U64,
        /// What that order asks for; the rest is there already.
        whole: U64,
        /// What all orders that wait lack.
        wanted: U64,
    }
    /// Units that go home.
    Returned[24] {
        /// Which item.
        item: U64,
        /// How many; 0 where there were none.
        units: U64,
        /// The round that this answers; 0: they were freed after the shard had answered one.
        round: U64,
    }
    /// Money of one party.
    Moved[56] {
        /// Who gets it.
        party: U64,
        /// Who it is from.
        from: U64,
        /// How much, at least 1.
        amount: U64,
        /// The transfer's id; nil for sweeps.
        id: U128,
        /// ISO 4217 numeric.
        currency: U16,
        /// [`AccountKind`] that gets it.
        kind: u8,
        /// [`AccountKind`] that it is from.
        from_kind: u8,
        /// Zero.
        reserved: [u8; 4],
        /// *Outcome*: offset of the record before it for the account that got it, or 0.
        statement: U64,
    }
    /// Something asked of an item's home, or an answer to it.
    StockOp[40] {
        /// A [`StockOpKind`].
        kind: u8,
        /// Zero.
        reserved: [u8; 7],
        /// What is wanted; for an answer, the item alone.
        wanted: Wanted,
    }
}

/// What an operation of [`Kind::Stock`] does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum StockOpKind {
    /// Asks the item's home for units.
    Ask = 1,
    /// Answers the home's recall with all units that are unspent.
    Answer = 2,
}

impl StockOp {
    /// Asks for units.
    pub fn ask(item: ItemId, lacking: u64, whole: u64, wanted: u64) -> StockOp {
        let wanted = Wanted {
            item: item.0.into(),
            lacking: lacking.into(),
            whole: whole.into(),
            wanted: wanted.into(),
        };
        StockOp { kind: StockOpKind::Ask as u8, wanted, ..StockOp::default() }
    }

    /// Answers a recall.
    pub fn answer(item: ItemId) -> StockOp {
        let wanted = Wanted { item: item.0.into(), ..Wanted::default() };
        StockOp { kind: StockOpKind::Answer as u8, wanted, ..StockOp::default() }
    }

    /// Whether it asks; else it answers.
    pub fn is_ask(&self) -> bool {
        self.kind == StockOpKind::Ask as u8
    }

    pub(super) fn check(&self) -> Result<(), RecordError> {
        in_range("operation", self.kind.into(), 1, StockOpKind::Answer as u64)?;
        zero(&self.reserved)?;
        match self.is_ask() {
            true => self.wanted.check(),
            false => {
                in_range("lacking", self.wanted.lacking.get(), 0, 0)?;
                in_range("whole", self.wanted.whole.get(), 0, 0)?;
                in_range("wanted", self.wanted.wanted.get(), 0, 0)
            }
        }
    }
}

impl Wanted {
    fn check(&self) -> Result<(), RecordError> {
        in_range("whole", self.whole.get(), 1, UNITS_MAX)?;
        in_range("lacking", self.lacking.get(), 1, self.whole.get())?;
        in_range("wanted", self.wanted.get(), self.lacking.get(), UNITS_MAX)
    }
}

/// No sum of units passes this: it is what 10,000 restocks of the most can bring.
pub const UNITS_MAX: u64 = 10_000_000_000_000_000_000;

/// What an entry says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum EntryKind {
    /// See [`Entry::Listing`].
    Listing = 1,
    /// See [`Entry::Grant`].
    Grant = 2,
    /// See [`Entry::Ask`].
    Ask = 3,
    /// See [`Entry::Recall`].
    Recall = 4,
    /// See [`Entry::Return`].
    Return = 5,
    /// See [`Entry::SoldOut`].
    SoldOut = 6,
    /// See [`Entry::Unmark`].
    Unmark = 7,
    /// See [`Entry::Unknown`].
    Unknown = 8,
    /// See [`Entry::Sweep`].
    Sweep = 9,
    /// See [`Entry::Owed`].
    Owed = 10,
    /// See [`Entry::Transfer`].
    Transfer = 11,
    /// See [`Entry::Back`].
    Back = 12,
    /// See [`Entry::Ration`].
    Ration = 13,
}

/// One entry of a stream, borrowed from its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry<'a> {
    /// From an item's home: what it is now, and units that come along.
    Listing(&'a Listing),
    /// From an item's home: units to spend without asking.
    Grant(&'a Units),
    /// The same while little is left: what is freed there goes home, until the next grant.
    Ration(&'a Units),
    /// To an item's home: orders wait for units.
    Ask(&'a Wanted),
    /// From an item's home: whatever is unspent is needed. `units` is the round's number.
    Recall(&'a Units),
    /// To an item's home: units.
    Return(&'a Returned),
    /// From an item's home: in one recall round, `units` were unspent anywhere.
    SoldOut(&'a Units),
    /// From an item's home: there may be more again. `units` is 0.
    Unmark(&'a Units),
    /// From what would be an item's home: there is no such item. `units` is 0.
    Unknown(&'a Units),
    /// To a seller's home: what it has earned.
    Sweep(&'a Moved),
    /// To a seller's home: what it has to give back.
    Owed(&'a Moved),
    /// To a party's home: money from a party elsewhere.
    Transfer(&'a Moved),
    /// Back from there: it could not be taken.
    Back(&'a Moved),
}

impl<'a> Entry<'a> {
    fn parse(kind: u8, bytes: &'a [u8]) -> Result<Entry<'a>, RecordError> {
        let wrong = || RecordError::Length { length: bytes.len(), room: bytes.len() };
        macro_rules! exactly {
            ($ty:ty) => {
                <$ty>::ref_from_bytes(bytes).map_err(|_| wrong())?
            };
        }
        Ok(match kind {
            1 => {
                let body = exactly!(Listing);
                super::currency(body.currency)?;
                in_range("price", body.price.get(), 0, Amount::MAX.0)?;
                in_range("units", body.units.get(), 0, UNITS_MAX)?;
                window(body.opens.get(), body.closes.get())?;
                Entry::Listing(body)
            }
            2 | 13 => {
                let body = exactly!(Units);
                in_range("units", body.units.get(), 1, UNITS_MAX)?;
                if kind == 2 { Entry::Grant(body) } else { Entry::Ration(body) }
            }
            3 => {
                let body = exactly!(Wanted);
                body.check()?;
                Entry::Ask(body)
            }
            4 => {
                let body = exactly!(Units);
                in_range("round", body.units.get(), 1, u64::MAX)?;
                Entry::Recall(body)
            }
            5 => {
                let body = exactly!(Returned);
                in_range("units", body.units.get(), 0, UNITS_MAX)?;
                Entry::Return(body)
            }
            6 => {
                let body = exactly!(Units);
                in_range("units", body.units.get(), 0, UNITS_MAX)?;
                Entry::SoldOut(body)
            }
            7 | 8 => {
                let body = exactly!(Units);
                in_range("units", body.units.get(), 0, 0)?;
                if kind == 7 { Entry::Unmark(body) } else { Entry::Unknown(body) }
            }
            9..=12 => {
                let body = exactly!(Moved);
                super::currency(body.currency)?;
                in_range("amount", body.amount.get(), 1, u64::MAX)?;
                let kinds = AccountKind::ALL.len() as u64;
                in_range("account kind", body.kind.into(), 1, kinds)?;
                in_range("account kind", body.from_kind.into(), 1, kinds)?;
                zero(&body.reserved)?;
                match kind {
                    9 => Entry::Sweep(body),
                    10 => Entry::Owed(body),
                    11 => Entry::Transfer(body),
                    _ => Entry::Back(body),
                }
            }
            _ => return field("entry kind", kind.into()),
        })
    }

    /// Whether it is the item's home that gets it.
    pub fn is_for_home(&self) -> bool {
        matches!(self, Entry::Ask(_) | Entry::Return(_))
    }

    /// The item whose units or catalogue entry it is about, if it isn't about money.
    pub fn item(&self) -> Option<ItemId> {
        let item = match self {
            Entry::Listing(body) => body.item,
            Entry::Ask(body) => body.item,
            Entry::Return(body) => body.item,
            Entry::Grant(body)
            | Entry::Ration(body)
            | Entry::Recall(body)
            | Entry::SoldOut(body)
            | Entry::Unmark(body)
            | Entry::Unknown(body) => body.item,
            Entry::Sweep(_) | Entry::Owed(_) | Entry::Transfer(_) | Entry::Back(_) => return None,
        };
        Some(ItemId(item.get()))
    }

    fn kind(&self) -> EntryKind {
        match self {
            Entry::Listing(_) => EntryKind::Listing,
            Entry::Grant(_) => EntryKind::Grant,
            Entry::Ration(_) => EntryKind::Ration,
            Entry::Ask(_) => EntryKind::Ask,
            Entry::Recall(_) => EntryKind::Recall,
            Entry::Return(_) => EntryKind::Return,
            Entry::SoldOut(_) => EntryKind::SoldOut,
            Entry::Unmark(_) => EntryKind::Unmark,
            Entry::Unknown(_) => EntryKind::Unknown,
            Entry::Sweep(_) => EntryKind::Sweep,
            Entry::Owed(_) => EntryKind::Owed,
            Entry::Transfer(_) => EntryKind::Transfer,
            Entry::Back(_) => EntryKind::Back,
        }
    }

    fn body(&self) -> &'a [u8] {
        match self {
            Entry::Listing(body) => body.as_bytes(),
            Entry::Ask(body) => body.as_bytes(),
            Entry::Return(body) => body.as_bytes(),
            Entry::Grant(body)
            | Entry::Ration(body)
            | Entry::Recall(body)
            | Entry::SoldOut(body)
            | Entry::Unmark(body)
            | Entry::Unknown(body) => body.as_bytes(),
            Entry::Sweep(body) | Entry::Owed(body) | Entry::Transfer(body) | Entry::Back(body) => {
                body.as_bytes()
            }
        }
    }

    /// Appends its bytes.
    pub fn write(&self, to: &mut Vec<u8>) {
        let body = self.body();
        let length = size_of::<EntryHeader>() + body.len();
        let header = EntryHeader {
            length: (length as u16).into(),
            kind: self.kind() as u8,
            ..EntryHeader::default()
        };
        to.extend_from_slice(header.as_bytes());
        to.extend_from_slice(body);
    }
}

/// Entries that were checked, one behind the other.
#[derive(Clone, Copy, Debug)]
pub struct Entries<'a> {
    bytes: &'a [u8],
}

impl<'a> Entries<'a> {
    /// Checks that `bytes` are `count` entries.
    pub fn parse(bytes: &'a [u8], count: u32) -> Result<Entries<'a>, RecordError> {
        let (mut rest, mut found) = (bytes, 0u32);
        while !rest.is_empty() {
            let (_, entry, after) = split(rest)?;
            let (header, body) = entry;
            in_range("entry flags", header.flags.into(), 0, 0)?;
            zero(&header.reserved)?;
            Entry::parse(header.kind, body)?;
            (rest, found) = (after, found + 1);
        }
        if found != count {
            return field("entry count", count.into());
        }
        Ok(Entries { bytes })
    }

    pub(super) fn check_undecided(&self) -> Result<(), RecordError> {
        let mut rest = self.bytes;
        while !rest.is_empty() {
            let (_, (header, body), after) = split(rest)?;
            in_range("entry outcome", header.outcome.into(), 0, 0)?;
            if let Ok(moved) = Moved::ref_from_bytes(body)
                && is_money(header.kind)
            {
                in_range("entry statement", moved.statement.get(), 0, 0)?;
            }
            rest = after;
        }
        Ok(())
    }

    /// The entries' bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

impl<'a> Iterator for Entries<'a> {
    /// All of an entry's bytes, and what they say.
    type Item = (&'a [u8], Entry<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.bytes.is_empty() {
            return None;
        }
        let known = "entries were checked";
        let (whole, (header, body), rest) = split(self.bytes).expect(known);
        self.bytes = rest;
        Some((whole, Entry::parse(header.kind, body).expect(known)))
    }
}

type Split<'a> = (&'a [u8], (&'a EntryHeader, &'a [u8]), &'a [u8]);

/// The first entry: whole, in its parts, and what follows it.
fn split(bytes: &[u8]) -> Result<Split<'_>, RecordError> {
    let short = |length| RecordError::Length { length, room: bytes.len() };
    let (header, _) = EntryHeader::ref_from_prefix(bytes).map_err(|_| short(bytes.len()))?;
    let length = usize::from(header.length.get());
    if length < size_of::<EntryHeader>() || length > bytes.len() {
        return Err(short(length));
    }
    let (whole, rest) = bytes.split_at(length);
    Ok((whole, (header, &whole[size_of::<EntryHeader>()..]), rest))
}

/// The length of the entry at the start of `bytes`, which were checked.
pub fn length_of(bytes: &[u8]) -> usize {
    split(bytes).expect("entries were checked").0.len()
}

fn is_money(kind: u8) -> bool {
    (EntryKind::Sweep as u8..=EntryKind::Back as u8).contains(&kind)
}

/// Writes what became of the entry that begins at `position` of `entries`, which were checked;
/// for money with the link of the statement of the account that got it.
pub fn set_entry_outcome(entries: &mut [u8], position: usize, outcome: Outcome, statement: u64) {
    decide(&mut entries[position..], outcome as u8, statement);
}

/// Makes checked entries undecided again.
pub(super) fn clear_outcomes(mut entries: &mut [u8]) {
    while !entries.is_empty() {
        let length = decide(entries, 0, 0);
        entries = &mut entries[length..];
    }
}

/// Fills in the first entry's outcome, and returns its length.
fn decide(entries: &mut [u8], outcome: u8, statement: u64) -> usize {
    let (header, rest) = EntryHeader::mut_from_prefix(entries).expect("entries were checked");
    header.outcome = outcome;
    if is_money(header.kind) {
        let (moved, _) = Moved::mut_from_prefix(rest).expect("entries were checked");
        moved.statement = statement.into();
    }
    header.length.get().into()
}
