//! Any bytes as the body of a request: what is decoded is commands, what is refused leaves nothing.
#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use model::json::decode::{Request, decode};
use model::record::CommandBuffer;
use model::{ChangeId, ItemId, OrderId, Party};

/// An input's first byte says which: `a` the first one.
const REQUESTS: &[Request] = &[
    Request::Order,
    Request::Orders,
    Request::Account,
    Request::Accounts,
    Request::Item,
    Request::Items,
    Request::Restock(ItemId(7)),
    Request::Transfer,
    Request::Transfers,
    Request::Pay(Party(42), OrderId(1)),
    Request::Cancel(Party(42), OrderId(1)),
    Request::Refund(Party(42), OrderId(1)),
    Request::UpdateItem(ItemId(7)),
    Request::UpdateAccount(Party(42)),
    Request::CloseAccount(Party(42)),
    Request::Hold,
    Request::CaptureHold(Party(42), ChangeId(1)),
    Request::ReleaseHold(Party(42), ChangeId(1)),
    Request::Coupon,
    Request::Coupons,
    Request::Authorise(Party(42), OrderId(1)),
    Request::Capture(Party(42), OrderId(1)),
    Request::Void(Party(42), OrderId(1)),
    Request::Receive(Party(42), OrderId(1)),
];

fuzz_target!(|input: &[u8]| -> Corpus {
    let Some((first, body)) = input.split_first() else { return Corpus::Reject };
    let request = REQUESTS[usize::from(first.wrapping_sub(b'a')) % REQUESTS.len()];
    let mut commands = CommandBuffer::default();
    let decoded = decode(request, body, &mut commands);
    assert_eq!(decoded.is_err(), commands.bytes().is_empty(), "{decoded:?}");
    let mut count = 0;
    for record in commands.records() {
        let record = record.expect("what was decoded is a record");
        record.check_undecided().expect("what was decoded is undecided");
        count += 1;
    }
    assert_eq!(count, commands.count());
    if count > 0 {
        let sent = CommandBuffer::default().push_asked(commands.bytes(), None);
        sent.expect("what JSON says can be sent as bytes");
    }
    // There are so many ways to be refused that the search would follow nothing else. Each is a
    // small step from a body that is taken.
    if decoded.is_ok() { Corpus::Keep } else { Corpus::Reject }
});
