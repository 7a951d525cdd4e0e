//! Writing commands, one behind the other, as they travel to a shard.

use zerocopy::IntoBytes;

use super::*;

/// Commands, one behind the other, as they travel to a shard.
#[derive(Clone, Debug, Default)]
pub struct CommandBuffer {
    bytes: Vec<u8>,
    count: u32,
    realm: u8,
}

/// When an item is sold, and to whom how much.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sale {
    /// When it begins; 0: at once.
    pub opens: Time,
    /// When it ends; 0: never.
    pub closes: Time,
    /// The most units that one buyer may order; 0: no limit.
    pub limit: u32,
}

/// Where entries stand on their stream; see [`DeliverBody`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StreamPlace {
    /// The number of the first entry.
    pub first: u64,
    /// All before this number are acknowledged.
    pub base: u64,
    /// All of the other direction before this number have arrived.
    pub acked: u64,
}

/// What is to change of an item. `None` stays.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ItemUpdate {
    /// List price of a unit.
    pub price: Option<Amount>,
    /// When its sale begins and ends; 0: at once, never.
    pub window: Option<(Time, Time)>,
    /// The most units that one buyer may order; 0: no limit.
    pub limit: Option<u32>,
}

impl CommandBuffer {
    /// An empty one with room for so many bytes.
    pub fn with_capacity(bytes: usize) -> CommandBuffer {
        CommandBuffer { bytes: Vec::with_capacity(bytes), ..CommandBuffer::default() }
    }

    /// The commands' bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The commands' bytes, and nothing else.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// How many commands it holds.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Bytes that it can hold without growing.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Empties it and keeps its memory. What is written next is trade again.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.count = 0;
        self.realm = Realm::Live as u8;
    }

    /// Says in which realm what is written from here on happens.
    pub fn set_realm(&mut self, realm: Realm) {
        self.realm = realm as u8;
    }

    /// Appends a whole record, which was checked.
    pub fn push_record(&mut self, record: &[u8]) {
        self.bytes.extend_from_slice(record);
        self.count += 1;
    }

    /// Where it ends now, for [`CommandBuffer::rewind`].
    pub(crate) fn mark(&self) -> (usize, u32) {
        (self.bytes.len(), self.count)
    }

    /// Takes back what was appended since the mark.
    pub(crate) fn rewind(&mut self, (bytes, count): (usize, u32)) {
        self.bytes.truncate(bytes);
        self.count = count;
    }

    /// Each command, checked.
    pub fn records(&self) -> Records<'_> {
        Records { rest: &self.bytes }
    }

    /// Each command's bytes, and the shard, of `shards`, that decides it. They were checked when
    /// they were written, so orders, which most of them are, aren't read again.
    pub fn homes(&self, shards: u16) -> impl Iterator<Item = (&[u8], Option<ShardId>)> {
        let mut rest = self.bytes();
        std::iter::from_fn(move || {
            let (header, _) = Header::ref_from_prefix(rest).ok()?;
            let (command, after) = rest.split_at_checked(header.length.get() as usize)?;
            rest = after;
            let home = match header.kind == Kind::Place as u8 {
                true => Some(home_of(header.scope.get(), shards)),
                false => Record::split(command).ok()?.0.home(shards),
            };
            Some((command, home))
        })
    }

    /// Appends a command of a fixed size.
    fn push(&mut self, kind: Kind, scope: u64, id: u128, body: &[u8], tail: &[u8]) {
        let length = size_of::<Header>() + body.len() + tail.len();
        let header = Header {
            length: (length as u32).into(),
            kind: kind as u8,
            realm: self.realm,
            scope: scope.into(),
            id: id.into(),
            ..Header::default()
        };
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(body);
        self.bytes.extend_from_slice(tail);
        self.count += 1;
    }

    /// Opens a buyer's main account.
    pub fn create_account(&mut self, party: Party, currency: Currency, balance: Amount) {
        let body = CreateAccountBody {
            currency: currency.numeric().into(),
            kind: AccountKind::Main as u8,
            balance: balance.0.into(),
            ..CreateAccountBody::default()
        };
        self.push(Kind::CreateAccount, party.0, 0, body.as_bytes(), &[]);
    }

    /// Moves money.
    pub fn transfer(
        &mut self,
        id: ChangeId,
        debit: (Party, AccountKind),
        credit: (Party, AccountKind),
        currency: Currency,
        amount: Amount,
    ) {
        let body = TransferBody {
            currency: currency.numeric().into(),
            debit_kind: debit.1 as u8,
            credit_kind: credit.1 as u8,
            credit_party: credit.0.0.into(),
            moved: amount.0.into(),
            ..TransferBody::default()
        };
        self.push(Kind::Transfer, debit.0.0, id.0, body.as_bytes(), &[]);
    }

    /// Lists an item.
    pub fn create_item(
        &mut self,
        item: ItemId,
        seller: Party,
        currency: Currency,
        price: Amount,
        stock: u64,
        sale: Sale,
    ) {
        let body = CreateItemBody {
            seller: seller.0.into(),
            price: price.0.into(),
            stock: stock.into(),
            opens: sale.opens.0.into(),
            closes: sale.closes.0.into(),
            currency: currency.numeric().into(),
            limit: sale.limit.into(),
            ..CreateItemBody::default()
        };
        self.push(Kind::CreateItem, item.0, 0, body.as_bytes(), &[]);
    }

    /// Changes an item.
    pub fn update_item(&mut self, id: ChangeId, item: ItemId, update: ItemUpdate) {
        let mut body = UpdateItemBody::default();
        if let Some(price) = update.price {
            body.price = price.0.into();
            body.flags |= UPDATE_PRICE;
        }
        if let Some((opens, closes)) = update.window {
            body.opens = opens.0.into();
            body.closes = closes.0.into();
            body.flags |= UPDATE_WINDOW;
        }
        if let Some(limit) = update.limit {
            body.limit = limit.into();
            body.flags |= UPDATE_LIMIT;
        }
        self.push(Kind::UpdateItem, item.0, id.0, body.as_bytes(), &[]);
    }

    /// Adds stock.
    pub fn restock(&mut self, id: ChangeId, item: ItemId, quantity: u64) {
        let body = RestockBody { quantity: quantity.into() };
        self.push(Kind::Restock, item.0, id.0, body.as_bytes(), &[]);
    }

    /// Pays a waiting order.
    pub fn pay(&mut self, id: ChangeId, buyer: Party, order: OrderId, method: PaymentMethod) {
        let body = PayBody { order: order.0.into(), method: method as u8, ..PayBody::default() };
        self.push(Kind::Pay, buyer.0, id.0, body.as_bytes(), &[]);
    }

    /// Cancels a waiting order.
    pub fn cancel(&mut self, id: ChangeId, buyer: Party, order: OrderId) {
        let body = CancelBody { order: order.0.into() };
        self.push(Kind::Cancel, buyer.0, id.0, body.as_bytes(), &[]);
    }

    /// Refunds units of an order; without lines, all that is left.
    pub fn refund(
        &mut self,
        id: ChangeId,
        buyer: Party,
        order: OrderId,
        restock: bool,
        lines: &[RefundLine],
    ) {
        let body = RefundBody {
            order: order.0.into(),
            line_count: (lines.len() as u16).into(),
            flags: if restock { REFUND_RESTOCK } else { 0 },
            ..RefundBody::default()
        };
        self.push(Kind::Refund, buyer.0, id.0, body.as_bytes(), lines.as_bytes());
    }

    /// What came on the stream from `from`: `count` entries, where they stand, and how many of
    /// the other direction have arrived there.
    pub fn deliver(&mut self, from: ShardId, at: StreamPlace, entries: &[u8], count: u32) {
        let body = DeliverBody {
            first: at.first.into(),
            base: at.base.into(),
            acked: at.acked.into(),
            count: count.into(),
            ..DeliverBody::default()
        };
        self.push(Kind::Deliver, from.0.into(), 0, body.as_bytes(), entries);
    }

    /// Asks homes for units and answers their recalls, at most [`STOCK_OPS_MAX`] at once.
    pub fn stock(&mut self, ops: &[StockOp]) {
        let body = StockBody { count: (ops.len() as u16).into(), ..StockBody::default() };
        self.push(Kind::Stock, 0, 0, body.as_bytes(), ops.as_bytes());
    }

    /// The order of `buyer` that was due first.
    pub fn timer(&mut self, buyer: Party, order: OrderId, due: Time) {
        let body = TimerBody { order: order.0.into(), due: due.0.into(), ..TimerBody::default() };
        self.push(Kind::Timer, buyer.0, 0, body.as_bytes(), &[]);
    }

    /// Looks at so many sellers' accounts, 1 to [`SWEEP_MAX`], and sends what they have earned.
    pub fn sweep(&mut self, count: u32) {
        let body = SweepBody { count: count.into(), ..SweepBody::default() };
        self.push(Kind::Sweep, 0, 0, body.as_bytes(), &[]);
    }

    /// Begins an order: add lines, then finish it. Dropped unfinished, it leaves no trace.
    pub fn place(&mut self) -> PlaceWriter<'_> {
        let start = self.bytes.len();
        self.bytes.resize(start + PLACE_FIXED_BYTES, 0);
        PlaceWriter { buffer: self, start, lines: 0, deadline: Time(0), finished: false }
    }
}

const PLACE_FIXED_BYTES: usize = size_of::<Header>() + size_of::<PlaceBody>() + size_of::<Leg>();

/// Writes one order into a [`CommandBuffer`], its lines first.
pub struct PlaceWriter<'a> {
    buffer: &'a mut CommandBuffer,
    start: usize,
    lines: usize,
    deadline: Time,
    finished: bool,
}

impl PlaceWriter<'_> {
    /// Adds a line; without a price, the item's list price is paid.
    pub fn line(&mut self, item: ItemId, quantity: Quantity, unit_price: Option<Amount>) {
        let line = Line {
            item: item.0.into(),
            unit_price: unit_price.map_or(0, |price| price.0).into(),
            quantity: quantity.0.into(),
            flags: if unit_price.is_some() { LINE_AGREED } else { 0 },
            ..Line::default()
        };
        self.buffer.bytes.extend_from_slice(line.as_bytes());
        self.lines += 1;
    }

    /// Says when it expires if it isn't paid; 0: never.
    pub fn expires(&mut self, deadline: Time) {
        self.deadline = deadline;
    }

    /// Lines so far.
    pub fn lines(&self) -> usize {
        self.lines
    }

    /// Completes the order.
    pub fn finish(mut self, buyer: Party, id: OrderId, currency: Currency, method: PaymentMethod) {
        self.finished = true;
        let (realm, deadline) = (self.buffer.realm, self.deadline.0);
        let bytes = &mut self.buffer.bytes[self.start..];
        let header = Header {
            length: (bytes.len() as u32).into(),
            kind: Kind::Place as u8,
            realm,
            scope: buyer.0.into(),
            id: id.0.into(),
            ..Header::default()
        };
        let order = PlaceBody {
            currency: currency.numeric().into(),
            line_count: (self.lines as u16).into(),
            leg_count: 1,
            deadline: deadline.into(),
            ..PlaceBody::default()
        };
        let leg = Leg { method: method as u8, ..Leg::default() };
        let (header_bytes, rest) = bytes.split_at_mut(size_of::<Header>());
        let (order_bytes, rest) = rest.split_at_mut(size_of::<PlaceBody>());
        header_bytes.copy_from_slice(header.as_bytes());
        order_bytes.copy_from_slice(order.as_bytes());
        rest[..size_of::<Leg>()].copy_from_slice(leg.as_bytes());
        self.buffer.count += 1;
    }
}

impl Drop for PlaceWriter<'_> {
    fn drop(&mut self) {
        if !self.finished {
            self.buffer.bytes.truncate(self.start);
        }
    }
}
