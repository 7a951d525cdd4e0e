//! Reading records: every length, count, closed set and range is looked at before anything is
//! taken for what it says.

use super::*;

pub(super) fn field<T>(field: &'static str, value: u64) -> Result<T, RecordError> {
    Err(RecordError::Field { field, value })
}

pub(super) fn in_range(
    name: &'static str,
    value: u64,
    low: u64,
    high: u64,
) -> Result<(), RecordError> {
    if (low..=high).contains(&value) { Ok(()) } else { field(name, value) }
}

impl<'a> Body<'a> {
    pub(super) fn parse(kind: Kind, bytes: &'a [u8]) -> Result<Body<'a>, RecordError> {
        let wrong = || RecordError::Length { length: bytes.len(), room: bytes.len() };
        /// The bytes, whole, as one fixed body.
        macro_rules! exactly {
            ($ty:ty) => {
                <$ty>::ref_from_bytes(bytes).map_err(|_| wrong())?
            };
        }
        Ok(match kind {
            Kind::CreateAccount => {
                let body = exactly!(CreateAccountBody);
                currency(body.currency)?;
                in_range("account kind", body.kind.into(), 1, AccountKind::Main as u64)?;
                in_range("balance", body.balance.get(), 0, Amount::MAX.0)?;
                in_range("overdraft", body.overdraft.get(), 0, Amount::MAX.0)?;
                zero(&body.reserved)?;
                Body::CreateAccount(body)
            }
            Kind::UpdateAccount => {
                let body = exactly!(UpdateAccountBody);
                currency(body.currency)?;
                in_range("account flags", body.flags.into(), 1, ACCOUNT_CLOSE.into())?;
                let closes = body.flags == ACCOUNT_CLOSE;
                if body.kind != AccountKind::Main as u8
                    && !(closes && body.kind == AccountKind::Settlement as u8)
                {
                    return field("account kind", body.kind.into());
                }
                let most = if closes { 0 } else { Amount::MAX.0 };
                in_range("overdraft", body.overdraft.get(), 0, most)?;
                zero(&body.reserved)?;
                Body::UpdateAccount(body)
            }
            Kind::Hold => {
                let body = exactly!(HoldBody);
                currency(body.currency)?;
                own_kind("account kind", body.kind)?;
                in_range("amount", body.held.get(), 1, Amount::MAX.0)?;
                in_range("deadline", body.deadline.get(), 0, Time::MAX.0)?;
                zero(&body.reserved)?;
                Body::Hold(body)
            }
            Kind::SettleHold => {
                let body = exactly!(SettleHoldBody);
                in_range("operation", body.op.into(), 0, 1)?;
                match body.op {
                    0 => {
                        in_range("credit kind", body.credit_kind.into(), 0, 0)?;
                        in_range("credit party", body.credit_party.get(), 0, 0)?;
                        in_range("captured", body.captured.get(), 0, 0)?;
                    }
                    _ => {
                        transferable("credit kind", body.credit_kind)?;
                        in_range("captured", body.captured.get(), 0, Amount::MAX.0)?;
                    }
                }
                zero(&body.reserved)?;
                Body::SettleHold(body)
            }
            Kind::IssueCoupon => {
                let body = exactly!(IssueCouponBody);
                currency(body.currency)?;
                in_range("amount", body.amount.get(), 1, Amount::MAX.0)?;
                in_range("minimum", body.minimum.get(), 0, Amount::MAX.0)?;
                in_range("expires", body.expires.get(), 0, Time::MAX.0)?;
                zero(&body.reserved)?;
                Body::IssueCoupon(body)
            }
            Kind::Transfer => {
                let body = exactly!(TransferBody);
                currency(body.currency)?;
                transferable("debit kind", body.debit_kind)?;
                transferable("credit kind", body.credit_kind)?;
                in_range("amount", body.moved.get(), 1, Amount::MAX.0)?;
                zero(&body.reserved)?;
                Body::Transfer(body)
            }
            Kind::CreateItem => {
                let body = exactly!(CreateItemBody);
                currency(body.currency)?;
                in_range("price", body.price.get(), 0, Amount::MAX.0)?;
                in_range("stock", body.stock.get(), 0, STOCK_MAX)?;
                window(body.opens.get(), body.closes.get())?;
                in_range("limit", body.limit.get().into(), 0, Quantity::MAX.0.into())?;
                zero(&body.reserved)?;
                Body::CreateItem(body)
            }
            Kind::UpdateItem => {
                let body = exactly!(UpdateItemBody);
                let known = UPDATE_PRICE | UPDATE_WINDOW | UPDATE_LIMIT;
                in_range("update flags", body.flags.into(), 1, known.into())?;
                in_range("price", body.price.get(), 0, Amount::MAX.0)?;
                window(body.opens.get(), body.closes.get())?;
                in_range("limit", body.limit.get().into(), 0, Quantity::MAX.0.into())?;
                let named = |flag, value: u64| body.flags & flag != 0 || value == 0;
                let unnamed = [
                    ("price", named(UPDATE_PRICE, body.price.get())),
                    ("opens", named(UPDATE_WINDOW, body.opens.get())),
                    ("closes", named(UPDATE_WINDOW, body.closes.get())),
                    ("limit", named(UPDATE_LIMIT, body.limit.get().into())),
                ];
                if let Some((name, _)) = unnamed.iter().find(|(_, right)| !right) {
                    return field(name, 1);
                }
                zero(&body.reserved)?;
                Body::UpdateItem(body)
            }
            Kind::Restock => {
                let body = exactly!(RestockBody);
                in_range("quantity", body.quantity.get(), 1, STOCK_MAX)?;
                Body::Restock(body)
            }
            Kind::Place => parse_place(bytes)?,
            Kind::Pay => {
                let body = exactly!(PayBody);
                in_range("step", body.step.into(), 1, PayStep::Void as u64)?;
                in_range("pay flags", body.flags.into(), 0, PAY_STATED.into())?;
                let stated = body.flags & PAY_STATED != 0;
                let (least, most) = if stated { (1, Amount::MAX.0) } else { (0, 0) };
                in_range("amount", body.stated.get(), least, most)?;
                if body.leg.get() != ANY_LEG {
                    in_range("leg", body.leg.get().into(), 0, LEGS_MAX as u64 - 1)?;
                }
                zero(&body.reserved)?;
                Body::Pay(body)
            }
            Kind::Receive => Body::Receive(exactly!(ReceiveBody)),
            Kind::Cancel => Body::Cancel(exactly!(CancelBody)),
            Kind::Refund => {
                let (refund, rest) = RefundBody::ref_from_prefix(bytes).map_err(|_| wrong())?;
                in_range("refund flags", refund.flags.into(), 0, REFUND_RESTOCK.into())?;
                in_range("refund lines", refund.line_count.get().into(), 0, LINES_MAX as u64)?;
                zero(&refund.reserved)?;
                let lines = <[RefundLine]>::ref_from_bytes(rest).map_err(|_| wrong())?;
                if lines.len() != usize::from(refund.line_count.get()) {
                    return Err(wrong());
                }
                for line in lines {
                    in_range("quantity", line.quantity.get().into(), 1, Quantity::MAX.0.into())?;
                    zero(&line.reserved)?;
                }
                Body::Refund { refund, lines }
            }
            Kind::Deliver => {
                let (deliver, rest) = DeliverBody::ref_from_prefix(bytes).map_err(|_| wrong())?;
                zero(&deliver.reserved)?;
                if rest.len() > ENTRIES_BYTES_MAX {
                    return Err(wrong());
                }
                // Numbers count what was sent; 2⁶³ of them never were.
                in_range("first", deliver.first.get(), 1, 1 << 63)?;
                in_range("base", deliver.base.get(), 1, deliver.first.get())?;
                in_range("acked", deliver.acked.get(), 1, 1 << 63)?;
                let entries = Entries::parse(rest, deliver.count.get())?;
                Body::Deliver { deliver, entries }
            }
            Kind::Stock => {
                let (stock, rest) = StockBody::ref_from_prefix(bytes).map_err(|_| wrong())?;
                zero(&stock.reserved)?;
                in_range("operations", stock.count.get().into(), 1, STOCK_OPS_MAX as u64)?;
                let ops = <[StockOp]>::ref_from_bytes(rest).map_err(|_| wrong())?;
                if ops.len() != usize::from(stock.count.get()) {
                    return Err(wrong());
                }
                ops.iter().try_for_each(StockOp::check)?;
                Body::Stock(ops)
            }
            Kind::Timer => {
                let body = exactly!(TimerBody);
                in_range("timer kind", body.kind.into(), 0, TimerKind::Hold as u64)?;
                zero(&body.reserved)?;
                Body::Timer(body)
            }
            Kind::Sweep => {
                let body = exactly!(SweepBody);
                in_range("count", body.count.get().into(), 1, SWEEP_MAX.into())?;
                zero(&[body.reserved])?;
                Body::Sweep(body)
            }
            Kind::Evict => {
                let (evict, rest) = EvictBody::ref_from_prefix(bytes).map_err(|_| wrong())?;
                in_range("rows", evict.rows.get().into(), 1, EVICT_MAX.into())?;
                in_range("table", evict.table.into(), 0, 1)?;
                in_range("cutoff", evict.cutoff.get(), 0, Time::MAX.0)?;
                zero(&evict.reserved)?;
                if rest.len() > ORDER_BYTES_MAX {
                    return Err(wrong());
                }
                let images = <[U64]>::ref_from_bytes(rest).map_err(|_| wrong())?;
                Body::Evict { evict, images }
            }
            Kind::Load => {
                let (load, rest) = LoadBody::ref_from_prefix(bytes).map_err(|_| wrong())?;
                in_range("row kind", load.kind.into(), 0, RowKind::HoldChange as u64)?;
                zero(&load.reserved)?;
                if rest.len() > ORDER_BYTES_MAX {
                    return Err(wrong());
                }
                let row = <[U64]>::ref_from_bytes(rest).map_err(|_| wrong())?;
                Body::Load { load, row }
            }
        })
    }
}

fn parse_place(bytes: &[u8]) -> Result<Body<'_>, RecordError> {
    let wrong = || RecordError::Length { length: bytes.len(), room: bytes.len() };
    let (order, rest) = PlaceBody::ref_from_prefix(bytes).map_err(|_| wrong())?;
    currency(order.currency)?;
    let line_count = order.line_count.get();
    in_range("line count", line_count.into(), 1, LINES_MAX as u64)?;
    in_range("extra count", order.extra_count.get().into(), 0, line_count.into())?;
    in_range("leg count", order.leg_count.into(), 1, LEGS_MAX as u64)?;
    in_range("order flags", order.flags.into(), 0, (PLACE_WITHDRAWN | PLACE_FORFEIT).into())?;
    zero(&order.reserved)?;
    let (legs, rest) =
        <[Leg]>::ref_from_prefix_with_elems(rest, order.leg_count.into()).map_err(|_| wrong())?;
    let (lines, rest) =
        <[Line]>::ref_from_prefix_with_elems(rest, line_count.into()).map_err(|_| wrong())?;
    let (extras, rest) =
        <[Extra]>::ref_from_prefix_with_elems(rest, order.extra_count.get().into())
            .map_err(|_| wrong())?;
    let private = private_part(order.private_bytes.get().into(), rest).ok_or_else(wrong)?;
    check_legs(legs)?;
    for line in lines {
        in_range("quantity", line.quantity.get().into(), 1, Quantity::MAX.0.into())?;
        in_range("unit price", line.unit_price.get(), 0, Amount::MAX.0)?;
        in_range("line kind", line.kind.into(), 0, LineKind::Fee as u64)?;
        let most = if line.kind == LineKind::Goods as u8 { LINE_CHECKED } else { LINE_AGREED };
        let least = if line.kind == LineKind::Goods as u8 { 0 } else { LINE_AGREED };
        in_range("line flags", line.flags.into(), least.into(), most.into())?;
    }
    let mut next = 0;
    for extra in extras {
        let number = extra.line.get();
        in_range("extra line", number.into(), next, u64::from(line_count) - 1)?;
        next = u64::from(number) + 1;
        in_range("place", extra.place.get().into(), 0, 0)?;
        in_range("discount", extra.discount.get(), 0, Amount::MAX.0)?;
        let is_goods = lines[usize::from(number)].kind == LineKind::Goods as u8;
        in_range("payee", extra.payee.get(), 0, if is_goods { u64::MAX } else { 0 })?;
        zero(&extra.reserved)?;
    }
    Ok(Body::Place { order, legs, lines, extras, private })
}

/// The private part of an order, which is all that there is, but for padding.
fn private_part(length: usize, rest: &[u8]) -> Option<&[u8]> {
    const LEAST: usize = PRIVATE_NONCE_BYTES + 1 + PRIVATE_TAG_BYTES;
    let (private, padding) = rest.split_at_checked(length)?;
    let is_sound = matches!(length, 0 | LEAST..=PRIVATE_BYTES_MAX)
        && padding.len() < 8
        && padding.iter().all(|byte| *byte == 0);
    is_sound.then_some(private)
}

fn check_legs(legs: &[Leg]) -> Result<(), RecordError> {
    let mut rests = 0;
    for leg in legs {
        in_range("method", leg.method.into(), 0, PaymentMethod::Coupon as u64)?;
        let method = PaymentMethod::from_byte(leg.method);
        let is_coupon = method == Some(PaymentMethod::Coupon);
        let most = if is_coupon { 0 } else { LEG_STATED };
        in_range("leg flags", leg.flags.into(), 0, most.into())?;
        in_range("leg amount", leg.amount.get(), 0, Amount::MAX.0)?;
        in_range(
            "term",
            leg.term.get(),
            0,
            match method {
                Some(PaymentMethod::Coupon) => u64::MAX,
                Some(PaymentMethod::Awaited) => Time::MAX.0,
                _ => 0,
            },
        )?;
        zero(&leg.reserved)?;
        rests += u64::from(!is_coupon && leg.flags & LEG_STATED == 0);
    }
    in_range("legs that pay the rest", rests, 0, 1)
}

/// What transfers and holds may name: a seller's earnings leave its payable accounts by sweeps
/// alone, and what orders and coupons keep moves with them.
fn transferable(name: &'static str, kind: u8) -> Result<(), RecordError> {
    match AccountKind::from_byte(kind) {
        Some(AccountKind::Clearing) => Ok(()),
        _ => own_kind(name, kind),
    }
}

/// The kinds of account of which a party disposes.
fn own_kind(name: &'static str, kind: u8) -> Result<(), RecordError> {
    match AccountKind::from_byte(kind) {
        Some(kind) if kind.is_own() => Ok(()),
        _ => field(name, kind.into()),
    }
}

/// A sale that ends begins before. 0 is no bound.
pub(super) fn window(opens: u64, closes: u64) -> Result<(), RecordError> {
    in_range("opens", opens, 0, Time::MAX.0)?;
    match closes {
        0 => Ok(()),
        _ => in_range("closes", closes, opens + 1, Time::MAX.0),
    }
}

pub(super) fn currency(numeric: U16) -> Result<(), RecordError> {
    match Currency::from_numeric(numeric.get()) {
        Some(_) => Ok(()),
        None => field("currency", numeric.get().into()),
    }
}

pub(super) fn zero(reserved: &[u8]) -> Result<(), RecordError> {
    match reserved.iter().find(|&&byte| byte != 0) {
        None => Ok(()),
        Some(&byte) => field("a reserved byte", byte.into()),
    }
}
