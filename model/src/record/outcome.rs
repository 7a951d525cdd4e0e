//! Writing into a record what became of it, and taking that out again.

use super::*;

/// Writes into the record at the start of `bytes` what became of it.
///
/// `bytes` must hold a record that [`Record::split`] accepted.
pub fn set_outcome(bytes: &mut [u8], outcome: Outcome, state: u8, previous: u64, amount: u64) {
    let (header, _) = header_mut(bytes);
    header.outcome = outcome as u8;
    header.state = state;
    header.previous = previous.into();
    header.amount = amount.into();
}

/// Writes into the record at the start of `bytes`, which [`Record::split`] accepted, the links of
/// the statements of the account that it debits, or moves money of, and of one that it credits.
pub fn set_statements(bytes: &mut [u8], statement: u64, credit: u64) {
    let (header, rest) = header_mut(bytes);
    header.statement = statement.into();
    let known = "the record was checked";
    match Kind::from_byte(header.kind) {
        Some(Kind::Transfer) => {
            TransferBody::mut_from_prefix(rest).expect(known).0.credit_statement = credit.into();
        }
        Some(Kind::SettleHold) => {
            SettleHoldBody::mut_from_prefix(rest).expect(known).0.credit_statement = credit.into();
        }
        _ => {}
    }
}

/// Writes into the record at the start of `bytes`, which [`Record::split`] accepted, how much of
/// what came back to its payers the buyer's own account got.
pub fn set_returned(bytes: &mut [u8], returned: u64) {
    let (header, rest) = header_mut(bytes);
    let known = "the record was checked";
    let field = match Kind::from_byte(header.kind) {
        Some(Kind::Cancel) => &mut CancelBody::mut_from_prefix(rest).expect(known).0.returned,
        Some(Kind::Timer) => &mut TimerBody::mut_from_prefix(rest).expect(known).0.returned,
        Some(Kind::Refund) => &mut RefundBody::mut_from_prefix(rest).expect(known).0.returned,
        _ => return,
    };
    *field = returned.into();
}

/// The outcome fields of an order's record beyond its header.
pub struct PlaceMut<'a> {
    /// The fixed part.
    pub order: &'a mut PlaceBody,
    /// How it is paid.
    pub legs: &'a mut [Leg],
    /// What is ordered.
    pub lines: &'a mut [Line],
}

/// The parts of the order at the start of `bytes`, which [`Record::split`] accepted.
pub fn place_mut(bytes: &mut [u8]) -> PlaceMut<'_> {
    let (_, rest) = header_mut(bytes);
    let (order, rest) = PlaceBody::mut_from_prefix(rest).expect("the record was checked");
    let (legs, rest) = <[Leg]>::mut_from_prefix_with_elems(rest, order.leg_count.into())
        .expect("the record was checked");
    let count = order.line_count.get().into();
    let (lines, _) =
        <[Line]>::mut_from_prefix_with_elems(rest, count).expect("the record was checked");
    PlaceMut { order, legs, lines }
}

/// The fixed part of the refund at the start of `bytes`, which [`Record::split`] accepted.
pub fn refund_mut(bytes: &mut [u8]) -> &mut RefundBody {
    let (_, rest) = header_mut(bytes);
    RefundBody::mut_from_prefix(rest).expect("the record was checked").0
}

/// The fixed part of what was delivered and its entries, in `bytes`, which [`Record::split`]
/// accepted.
pub fn deliver_mut(bytes: &mut [u8]) -> (&mut DeliverBody, &mut [u8]) {
    let (header, rest) = header_mut(bytes);
    let length = header.length.get() as usize - size_of::<Header>();
    DeliverBody::mut_from_prefix(&mut rest[..length]).expect("the record was checked")
}

/// The sweep at the start of `bytes`, which [`Record::split`] accepted.
pub fn sweep_mut(bytes: &mut [u8]) -> &mut SweepBody {
    let (_, rest) = header_mut(bytes);
    SweepBody::mut_from_prefix(rest).expect("the record was checked").0
}

/// Marks the order at the start of `bytes`, which [`Record::split`] accepted, as cancelled while
/// it waited, or takes that back.
pub fn set_withdrawn(bytes: &mut [u8], withdrawn: bool) {
    let flags = &mut place_mut(bytes).order.flags;
    *flags = if withdrawn { *flags | PLACE_WITHDRAWN } else { *flags & !PLACE_WITHDRAWN };
}

fn header_mut(bytes: &mut [u8]) -> (&mut Header, &mut [u8]) {
    Header::mut_from_prefix(bytes).expect("the record was checked")
}

/// Turns the record in `bytes`, which [`Record::split`] accepted, back into its command.
pub fn clear_outcome(bytes: &mut [u8]) {
    let (header, _) = header_mut(bytes);
    header.outcome = 0;
    header.state = 0;
    header.previous = 0.into();
    header.amount = 0.into();
    header.statement = 0.into();
    match Kind::from_byte(header.kind) {
        Some(Kind::Transfer | Kind::SettleHold) => set_statements(bytes, 0, 0),
        Some(Kind::Place) => {
            let PlaceMut { order, legs, lines } = place_mut(bytes);
            order.refused_line = 0.into();
            for leg in legs.iter_mut().filter(|leg| leg.flags & LEG_STATED == 0) {
                leg.amount = 0.into();
            }
            for line in lines {
                line.version = 0.into();
                if line.flags & (LINE_AGREED | LINE_CHECKED) == 0 {
                    line.unit_price = 0.into();
                }
            }
        }
        Some(Kind::Deliver) => entry::clear_outcomes(deliver_mut(bytes).1),
        Some(Kind::Sweep) => {
            let body = sweep_mut(bytes);
            *body = SweepBody { count: body.count, ..SweepBody::default() };
        }
        Some(Kind::Refund) => {
            refund_mut(bytes).refused_line = 0.into();
            set_returned(bytes, 0);
        }
        Some(Kind::Cancel | Kind::Timer) => set_returned(bytes, 0),
        _ => {}
    }
}
