//! Writing commands, one behind the other, as they travel to a shard.

use zerocopy::IntoBytes;

use super::*;

/// Commands, one behind the other, as they travel to a shard.
#[derive(Clone, Debug, Default)]
pub struct CommandBuffer {
    bytes: Vec<u8>,
    count: u32,
}

impl CommandBuffer {
    /// The commands' bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many commands it holds.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Bytes that it can hold without growing.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Empties it and keeps its memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.count = 0;
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

    /// Appends a command of a fixed size.
    fn push(&mut self, kind: Kind, scope: u64, id: u128, body: &[u8], tail: &[u8]) {
        let length = size_of::<Header>() + body.len() + tail.len();
        let header = Header {
            length: (length as u32).into(),
            kind: kind as u8,
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
    ) {
        let body = CreateItemBody {
            seller: seller.0.into(),
            price: price.0.into(),
            stock: stock.into(),
            currency: currency.numeric().into(),
            ..CreateItemBody::default()
        };
        self.push(Kind::CreateItem, item.0, 0, body.as_bytes(), &[]);
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

    /// Begins an order: add lines, then finish it. Dropped unfinished, it leaves no trace.
    pub fn place(&mut self) -> PlaceWriter<'_> {
        let start = self.bytes.len();
        self.bytes.resize(start + PLACE_FIXED_BYTES, 0);
        PlaceWriter { buffer: self, start, lines: 0, finished: false }
    }
}

const PLACE_FIXED_BYTES: usize = size_of::<Header>() + size_of::<PlaceBody>() + size_of::<Leg>();

/// Writes one order into a [`CommandBuffer`], its lines first.
pub struct PlaceWriter<'a> {
    buffer: &'a mut CommandBuffer,
    start: usize,
    lines: usize,
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

    /// Lines so far.
    pub fn lines(&self) -> usize {
        self.lines
    }

    /// Completes the order.
    pub fn finish(mut self, buyer: Party, id: OrderId, currency: Currency, method: PaymentMethod) {
        self.finished = true;
        let bytes = &mut self.buffer.bytes[self.start..];
        let header = Header {
            length: (bytes.len() as u32).into(),
            kind: Kind::Place as u8,
            scope: buyer.0.into(),
            id: id.0.into(),
            ..Header::default()
        };
        let order = PlaceBody {
            currency: currency.numeric().into(),
            line_count: (self.lines as u16).into(),
            leg_count: 1,
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
