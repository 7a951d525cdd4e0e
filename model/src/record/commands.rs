//! Writing commands, one behind the other, as they travel to a shard.

use zerocopy::IntoBytes;

use super::*;

/// Commands, one behind the other, as they travel to a shard.
#[derive(Clone, Debug, Default)]
pub struct CommandBuffer {
    pub(super) bytes: Vec<u8>,
    count: u32,
    realm: u8,
    /// Where orders begin whose private part isn't encrypted yet.
    unsealed: Vec<usize>,
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
        self.unsealed.clear();
    }

    /// Whether some order has a private part that isn't encrypted yet. It may go nowhere before.
    pub fn is_unsealed(&self) -> bool {
        !self.unsealed.is_empty()
    }

    /// Has private parts encrypted in place. Each is shown with whose it is and of which order:
    /// room for a nonce, the text, room for a tag. An error empties the buffer.
    pub fn seal<E>(
        &mut self,
        mut seal: impl FnMut(Realm, Party, OrderId, &mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        for start in std::mem::take(&mut self.unsealed) {
            let (header, rest) =
                Header::mut_from_prefix(&mut self.bytes[start..]).expect("it was written whole");
            let rest = &mut rest[..header.length.get() as usize - size_of::<Header>()];
            let (order, _) = PlaceBody::ref_from_prefix(rest).expect("it is an order");
            let length = usize::from(order.private_bytes.get());
            let at = rest.len() - length.next_multiple_of(8);
            let (party, id) = (Party(header.scope.get()), OrderId(header.id.get()));
            let realm = if header.realm == Realm::Drill as u8 { Realm::Drill } else { Realm::Live };
            if let Err(error) = seal(realm, party, id, &mut rest[at..at + length]) {
                self.clear();
                return Err(error);
            }
        }
        Ok(())
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
    pub fn mark(&self) -> (usize, u32) {
        (self.bytes.len(), self.count)
    }

    /// Takes back what was appended since the mark.
    pub fn rewind(&mut self, (bytes, count): (usize, u32)) {
        self.bytes.truncate(bytes);
        self.unsealed.retain(|start| *start < bytes);
        self.count = count;
    }

    /// Has the record that begins there happen in this buffer's realm, and be sealed if a part of it
    /// is private.
    pub(super) fn stamp(&mut self, start: usize, is_private: bool) {
        let realm = self.realm;
        let (header, _) =
            Header::mut_from_prefix(&mut self.bytes[start..]).expect("it was checked");
        header.realm = realm;
        if is_private {
            self.unsealed.push(start);
        }
        self.count += 1;
    }

    /// Each command, checked.
    pub fn records(&self) -> Records<'_> {
        Records { rest: &self.bytes }
    }

    /// Each command's kind, as a byte.
    pub fn kinds(&self) -> impl Iterator<Item = u8> {
        let mut rest = self.bytes();
        std::iter::from_fn(move || {
            let (header, _) = Header::ref_from_prefix(rest).ok()?;
            rest = rest.get(header.length.get() as usize..)?;
            Some(header.kind)
        })
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

    /// Opens a buyer's main account, which never goes below zero.
    pub fn create_account(&mut self, party: Party, currency: Currency, balance: Amount) {
        self.create_overdraft(party, currency, balance, Amount(0));
    }

    /// Opens a buyer's main account that may go below zero as far as `overdraft`.
    pub fn create_overdraft(
        &mut self,
        party: Party,
        currency: Currency,
        balance: Amount,
        overdraft: Amount,
    ) {
        let body = CreateAccountBody {
            currency: currency.numeric().into(),
            kind: AccountKind::Main as u8,
            balance: balance.0.into(),
            overdraft: overdraft.0.into(),
            ..CreateAccountBody::default()
        };
        self.push(Kind::CreateAccount, party.0, 0, body.as_bytes(), &[]);
    }

    /// Says how far a main account may go below zero.
    pub fn set_overdraft(
        &mut self,
        id: ChangeId,
        party: Party,
        currency: Currency,
        overdraft: Amount,
    ) {
        let body = UpdateAccountBody {
            currency: currency.numeric().into(),
            kind: AccountKind::Main as u8,
            flags: ACCOUNT_OVERDRAFT,
            overdraft: overdraft.0.into(),
            ..UpdateAccountBody::default()
        };
        self.push(Kind::UpdateAccount, party.0, id.0, body.as_bytes(), &[]);
    }

    /// Closes an account.
    pub fn close_account(
        &mut self,
        id: ChangeId,
        party: Party,
        currency: Currency,
        kind: AccountKind,
    ) {
        let body = UpdateAccountBody {
            currency: currency.numeric().into(),
            kind: kind as u8,
            flags: ACCOUNT_CLOSE,
            ..UpdateAccountBody::default()
        };
        self.push(Kind::UpdateAccount, party.0, id.0, body.as_bytes(), &[]);
    }

    /// Holds money until it is captured or released, or until `deadline`; 0: for ever.
    pub fn hold(
        &mut self,
        id: ChangeId,
        (party, kind): (Party, AccountKind),
        currency: Currency,
        amount: Amount,
        deadline: Time,
    ) {
        let body = HoldBody {
            currency: currency.numeric().into(),
            kind: kind as u8,
            held: amount.0.into(),
            deadline: deadline.0.into(),
            ..HoldBody::default()
        };
        self.push(Kind::Hold, party.0, id.0, body.as_bytes(), &[]);
    }

    /// Moves held money to another account; without an amount, all that is left.
    pub fn capture_hold(
        &mut self,
        id: ChangeId,
        party: Party,
        hold: ChangeId,
        credit: (Party, AccountKind),
        amount: Option<Amount>,
    ) {
        let body = SettleHoldBody {
            hold: hold.0.into(),
            op: 1,
            credit_kind: credit.1 as u8,
            credit_party: credit.0.0.into(),
            captured: amount.map_or(0, |amount| amount.0).into(),
            ..SettleHoldBody::default()
        };
        self.push(Kind::SettleHold, party.0, id.0, body.as_bytes(), &[]);
    }

    /// Releases what is left of a hold.
    pub fn release_hold(&mut self, id: ChangeId, party: Party, hold: ChangeId) {
        let body = SettleHoldBody { hold: hold.0.into(), ..SettleHoldBody::default() };
        self.push(Kind::SettleHold, party.0, id.0, body.as_bytes(), &[]);
    }

    /// Gives a buyer a coupon.
    pub fn issue_coupon(&mut self, buyer: Party, number: u64, coupon: &Coupon) {
        let body = IssueCouponBody {
            number: number.into(),
            funder: coupon.funder.0.into(),
            seller: coupon.seller.map_or(0, |seller| seller.0).into(),
            amount: coupon.amount.0.into(),
            minimum: coupon.minimum.0.into(),
            expires: coupon.expires.0.into(),
            currency: coupon.currency.numeric().into(),
            ..IssueCouponBody::default()
        };
        self.push(Kind::IssueCoupon, buyer.0, 0, body.as_bytes(), &[]);
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

    /// Pays what is open of a waiting order's first leg that isn't paid.
    pub fn pay(&mut self, id: ChangeId, buyer: Party, order: OrderId, method: PaymentMethod) {
        let external = method != PaymentMethod::Balance;
        let step = if external { PayStep::External } else { PayStep::Balance };
        self.pay_leg(id, buyer, order, step, None, None);
    }

    /// Does something about a payment leg; without a number, the first that is open. Without an
    /// amount, what is open of it.
    pub fn pay_leg(
        &mut self,
        id: ChangeId,
        buyer: Party,
        order: OrderId,
        step: PayStep,
        leg: Option<u16>,
        amount: Option<Amount>,
    ) {
        let body = PayBody {
            order: order.0.into(),
            stated: amount.map_or(0, |amount| amount.0).into(),
            leg: leg.unwrap_or(ANY_LEG).into(),
            step: step as u8,
            flags: if amount.is_some() { PAY_STATED } else { 0 },
            ..PayBody::default()
        };
        self.push(Kind::Pay, buyer.0, id.0, body.as_bytes(), &[]);
    }

    /// Confirms that an order was received.
    pub fn receive(&mut self, id: ChangeId, buyer: Party, order: OrderId) {
        let body = ReceiveBody { order: order.0.into() };
        self.push(Kind::Receive, buyer.0, id.0, body.as_bytes(), &[]);
    }

    /// Cancels a waiting order.
    pub fn cancel(&mut self, id: ChangeId, buyer: Party, order: OrderId) {
        let body = CancelBody { order: order.0.into(), ..CancelBody::default() };
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

    /// The order or hold of `party` that was due first.
    pub fn timer(&mut self, kind: TimerKind, party: Party, id: u128, due: Time) {
        let body = TimerBody {
            order: id.into(),
            due: due.0.into(),
            kind: kind as u8,
            ..TimerBody::default()
        };
        self.push(Kind::Timer, party.0, 0, body.as_bytes(), &[]);
    }

    /// Looks at so many sellers' accounts, 1 to [`SWEEP_MAX`], and sends what they have earned.
    pub fn sweep(&mut self, count: u32) {
        let body = SweepBody { count: count.into(), ..SweepBody::default() };
        self.push(Kind::Sweep, 0, 0, body.as_bytes(), &[]);
    }

    /// Has the oldest `rows` orders, or changes, leave memory: those that are over, and whose ids
    /// carry no time after `cutoff`, in ms since 1970. `images` are of those orders that aren't
    /// any more what was placed.
    pub fn evict(&mut self, changes: bool, rows: u32, cutoff: u64, images: &[u64]) {
        let body = EvictBody {
            rows: rows.into(),
            table: changes.into(),
            cutoff: cutoff.into(),
            ..EvictBody::default()
        };
        self.push(Kind::Evict, 0, 0, body.as_bytes(), &words(images));
    }

    /// Says what was found of an order or a change, for the command behind it: its words, or none.
    pub fn load(&mut self, key: RowKey, as_of: u64, row: &[u64]) {
        let body = LoadBody {
            kind: key.kind as u8,
            order: key.order.into(),
            id: key.id.into(),
            as_of: as_of.into(),
            ..LoadBody::default()
        };
        self.push(Kind::Load, key.scope, 0, body.as_bytes(), &words(row));
    }

    /// Begins an order: add lines, then finish it. Dropped unfinished, it leaves no trace.
    pub fn place(&mut self) -> PlaceWriter<'_> {
        let start = self.bytes.len();
        self.bytes.resize(start + PLACE_FIXED_BYTES, 0);
        PlaceWriter {
            buffer: self,
            start,
            lines: 0,
            deadline: Time(0),
            forfeit: false,
            extras: Vec::new(),
            private: Vec::new(),
            finished: false,
        }
    }
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// A coupon for a buyer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Coupon {
    /// Who funds it: a seller, or the platform's own party.
    pub funder: Party,
    /// Whose lines it is good for; `None`: everybody's.
    pub seller: Option<Party>,
    /// What it is kept in.
    pub currency: Currency,
    /// What it is worth, at least 1.
    pub amount: Amount,
    /// What the lines it is good for must come to.
    pub minimum: Amount,
    /// Until when it is good; 0: for ever.
    pub expires: Time,
}

/// What is paid for a unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Price {
    /// The list price, whatever it is.
    #[default]
    List,
    /// The list price, if it is this.
    Checked(Amount),
    /// A price of its own.
    Agreed(Amount),
}

/// A line of an order to be placed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewLine {
    /// What it is for.
    pub kind: LineKind,
    /// What is ordered; for shipping, tax and fees: who is paid.
    pub item: u64,
    /// Units.
    pub quantity: Quantity,
    /// What is paid for one. For shipping, tax and fees always an agreed price.
    pub price: Price,
    /// Who is paid instead of the item's seller. For goods alone.
    pub payee: Option<Party>,
    /// What is taken off the line's total.
    pub discount: Amount,
}

impl NewLine {
    /// Units of an item at the list price.
    pub fn goods(item: ItemId, quantity: Quantity) -> NewLine {
        NewLine {
            kind: LineKind::Goods,
            item: item.0,
            quantity,
            price: Price::List,
            payee: None,
            discount: Amount(0),
        }
    }

    /// Shipping, a tax or a fee.
    pub fn charge(kind: LineKind, payee: Party, price: Amount) -> NewLine {
        let price = Price::Agreed(price);
        NewLine { kind, price, ..NewLine::goods(ItemId(payee.0), Quantity(1)) }
    }
}

/// A payment leg of an order to be placed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NewLeg {
    /// From the buyer's main account, at once; without an amount, the rest.
    Balance(Option<Amount>),
    /// Confirmed outside; without an amount, the rest.
    External(Option<Amount>),
    /// To be paid until then, or, with 0, whenever; without an amount, the rest.
    Awaited(Option<Amount>, Time),
    /// The buyer's coupon of this number.
    Coupon(u64),
}

impl NewLeg {
    fn leg(self) -> Leg {
        let (method, amount, term) = match self {
            NewLeg::Balance(amount) => (PaymentMethod::Balance, amount, 0),
            NewLeg::External(amount) => (PaymentMethod::External, amount, 0),
            NewLeg::Awaited(amount, deadline) => (PaymentMethod::Awaited, amount, deadline.0),
            NewLeg::Coupon(number) => (PaymentMethod::Coupon, None, number),
        };
        Leg {
            method: method as u8,
            flags: if amount.is_some() { LEG_STATED } else { 0 },
            amount: amount.map_or(0, |amount| amount.0).into(),
            term: term.into(),
            ..Leg::default()
        }
    }
}

const PLACE_FIXED_BYTES: usize = size_of::<Header>() + size_of::<PlaceBody>() + size_of::<Leg>();

/// Writes one order into a [`CommandBuffer`], its lines first.
pub struct PlaceWriter<'a> {
    buffer: &'a mut CommandBuffer,
    start: usize,
    lines: usize,
    deadline: Time,
    forfeit: bool,
    /// Few lines have any, so most orders allocate none.
    extras: Vec<Extra>,
    /// Few orders have any.
    private: Vec<u8>,
    finished: bool,
}

impl PlaceWriter<'_> {
    /// Adds a line; without a price, the item's list price is paid.
    pub fn line(&mut self, item: ItemId, quantity: Quantity, unit_price: Option<Amount>) {
        let price = unit_price.map_or(Price::List, Price::Agreed);
        self.add(&NewLine { price, ..NewLine::goods(item, quantity) });
    }

    /// Adds a line of any kind.
    pub fn add(&mut self, new: &NewLine) {
        let (flags, price) = match new.price {
            Price::List => (0, Amount(0)),
            Price::Checked(price) => (LINE_CHECKED, price),
            Price::Agreed(price) => (LINE_AGREED, price),
        };
        let line = Line {
            item: new.item.into(),
            unit_price: price.0.into(),
            quantity: new.quantity.0.into(),
            kind: new.kind as u8,
            flags,
            ..Line::default()
        };
        self.buffer.bytes.extend_from_slice(line.as_bytes());
        if new.payee.is_some() || new.discount.0 != 0 {
            self.extras.push(Extra {
                line: (self.lines as u16).into(),
                payee: new.payee.map_or(0, |payee| payee.0).into(),
                discount: new.discount.0.into(),
                ..Extra::default()
            });
        }
        self.lines += 1;
    }

    /// Says when it expires if it isn't paid; 0: never.
    pub fn expires(&mut self, deadline: Time) {
        self.deadline = deadline;
    }

    /// Says that what was paid is the sellers' when the order expires.
    pub fn forfeits(&mut self) {
        self.forfeit = true;
    }

    /// Adds a private text of 1 to [`PRIVATE_TEXT_MAX`] bytes. It must be encrypted before the
    /// order goes anywhere: [`CommandBuffer::seal`].
    pub fn private(&mut self, text: &str) {
        assert!((1..=PRIVATE_TEXT_MAX).contains(&text.len()), "{} private bytes", text.len());
        self.private =
            [&[0; PRIVATE_NONCE_BYTES], text.as_bytes(), &[0; PRIVATE_TAG_BYTES]].concat();
    }

    /// Lines so far.
    pub fn lines(&self) -> usize {
        self.lines
    }

    /// Completes the order, which is paid in one way.
    pub fn finish(self, buyer: Party, id: OrderId, currency: Currency, method: PaymentMethod) {
        let leg = Leg { method: method as u8, term: self.deadline.0.into(), ..Leg::default() };
        self.complete(buyer, id, currency, &[leg]);
    }

    /// Completes the order, which is paid by these legs, 1 to [`LEGS_MAX`].
    pub fn finish_legs(self, buyer: Party, id: OrderId, currency: Currency, legs: &[NewLeg]) {
        let mut laid = [Leg::default(); LEGS_MAX];
        assert!((1..=LEGS_MAX).contains(&legs.len()), "{} payment legs", legs.len());
        for (slot, leg) in laid.iter_mut().zip(legs) {
            *slot = leg.leg();
        }
        self.complete(buyer, id, currency, &laid[..legs.len()]);
    }

    fn complete(mut self, buyer: Party, id: OrderId, currency: Currency, legs: &[Leg]) {
        self.finished = true;
        let buffer = &mut *self.buffer;
        if legs.len() > 1 {
            let more = (legs.len() - 1) * size_of::<Leg>();
            let at = self.start + PLACE_FIXED_BYTES;
            buffer.bytes.splice(at..at, std::iter::repeat_n(0, more));
        }
        buffer.bytes.extend_from_slice(self.extras.as_bytes());
        let private = self.private.len();
        if private > 0 {
            buffer.unsealed.push(self.start);
            self.private.resize(private.next_multiple_of(8), 0);
            buffer.bytes.extend_from_slice(&self.private);
        }
        let realm = buffer.realm;
        let bytes = &mut buffer.bytes[self.start..];
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
            extra_count: (self.extras.len() as u16).into(),
            leg_count: legs.len() as u8,
            flags: if self.forfeit { PLACE_FORFEIT } else { 0 },
            private_bytes: (private as u16).into(),
            ..PlaceBody::default()
        };
        let (header_bytes, rest) = bytes.split_at_mut(size_of::<Header>());
        let (order_bytes, rest) = rest.split_at_mut(size_of::<PlaceBody>());
        header_bytes.copy_from_slice(header.as_bytes());
        order_bytes.copy_from_slice(order.as_bytes());
        rest[..size_of_val(legs)].copy_from_slice(legs.as_bytes());
        buffer.count += 1;
    }
}

impl Drop for PlaceWriter<'_> {
    fn drop(&mut self) {
        if !self.finished {
            self.buffer.bytes.truncate(self.start);
        }
    }
}
