use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;
use crate::record::Body;

const ID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

fn decoded(request: Request, body: &str) -> Result<CommandBuffer, DecodeError> {
    let mut commands = CommandBuffer::default();
    decode(request, body.as_bytes(), &mut commands)?;
    for record in commands.records() {
        record.expect("what was decoded is a record");
    }
    Ok(commands)
}

fn refused(request: Request, body: &str, expected: Expect) {
    let error = decoded(request, &body.replace("ID", ID)).unwrap_err();
    expected.assert_eq(&error.to_string());
}

#[test]
fn an_order_becomes_its_bytes_whatever_the_order_of_its_fields() {
    let body = format!(
        r#"{{"lines":[{{"quantity":2,"item":7}},{{"item":"18446744073709551615","quantity":1,"unit_price":0}}],
                "payment":"external","currency":"GBP","id":"{ID}","buyer":9}}"#
    );
    let commands = decoded(Request::Order, &body).unwrap();
    let record = commands.records().next().unwrap().unwrap();
    assert_eq!((record.party(), record.order().unwrap().to_string()), (Party(9), ID.into()));
    let Body::Place { legs, lines, .. } = record.body else { panic!("{record:?}") };
    assert_eq!((legs.len(), legs[0].method), (1, PaymentMethod::External as u8));
    let lines: Vec<_> = lines.iter().map(|l| (l.item.get(), l.quantity.get(), l.flags)).collect();
    assert_eq!(lines, [(7, 2, 0), (u64::MAX, 1, 1)]);
}

#[test]
fn a_bad_order_is_named_by_its_field() {
    let order = |lines: &str| {
        format!(
            r#"{{"orders":[{{"buyer":1,"id":"ID","currency":"GBP","payment":"balance","lines":{lines}}}]}}"#
        )
    };
    refused(
        Request::Orders,
        &order(r#"[{"item":1,"quantity":0}]"#),
        expect![["orders[0].lines[0].quantity: 0 is not an integer from 1 to 1000000000"]],
    );
    refused(
        Request::Orders,
        &order(r#"[{"item":1,"quantity":-1}]"#),
        expect![["orders[0].lines[0].quantity: -1 is not an integer from 1 to 1000000000"]],
    );
    refused(
        Request::Orders,
        &order(r#"[{"item":1,"quantity":1.5}]"#),
        expect![
            "orders[0].lines[0].quantity: invalid type: floating point `1.5`, expected an integer from 1 to 1000000000"
        ],
    );
    refused(
        Request::Orders,
        &order(r#"[{"item":1}]"#),
        expect!["orders[0].lines[0].quantity: missing field `quantity`"],
    );
    refused(
        Request::Orders,
        &order(r#"[{"item":1,"quantity":1,"colour":2}]"#),
        expect![
            "orders[0].lines[0].colour: unknown field `colour`, expected one of `item`, `quantity`, `unit_price`, `list_price`, `payee`, `discount`, `kind`"
        ],
    );
    refused(
        Request::Orders,
        &order(r#"[{"item":1,"quantity":1,"item":2}]"#),
        expect!["orders[0].lines[0].item: duplicate field `item`"],
    );
    refused(
        Request::Orders,
        &order(r#"[[1,1]]"#),
        expect!["orders[0].lines[0]: invalid type: sequence, expected an object"],
    );
    refused(Request::Orders, &order(r#"[]"#), expect!["orders[0].lines: must not be empty"]);
    refused(
        Request::Orders,
        &order(r#"[{"item":1,"quantity":1,"unit_price":1000000000000001}]"#),
        expect![
            "orders[0].lines[0].unit_price: 1000000000000001 is not an integer from 0 to 1000000000000000"
        ],
    );
    refused(
        Request::Orders,
        &order(r#"[{"item":99999999999999999999,"quantity":1}]"#),
        expect![
            "orders[0].lines[0].item: invalid type: floating point `100000000000000000000.0`, expected an integer from 0 to 18446744073709551615"
        ],
    );
    refused(Request::Orders, r#"{"orders":[]}"#, expect!["orders: must not be empty"]);
    refused(
        Request::Orders,
        r#"{"order":[]}"#,
        expect!["order: unknown field `order`, expected `orders`"],
    );
    refused(Request::Orders, r#"{}"#, expect!["orders: missing field `orders`"]);
    refused(
        Request::Orders,
        r#"{"orders":[{"buyer":1]}"#,
        expect![
            "Expected this character to be either a ',' or a '}' while parsing at line 1 column 22"
        ],
    );
    refused(Request::Order, r#""#, expect!["EOF while parsing at line 1 column 1"]);
    refused(Request::Order, r#"[]"#, expect!["invalid type: sequence, expected an order"]);
    refused(
        Request::Order,
        r#"{"buyer":0}"#,
        expect!["buyer: 0 is not an integer from 1 to 18446744073709551615"],
    );
    refused(Request::Order, r#"{"buyer":1,"buyer":1}"#, expect!["buyer: duplicate field `buyer`"]);
    refused(
        Request::Order,
        r#"{"id":"00000000-0000-0000-0000-000000000000"}"#,
        expect![[
            r#"id: "00000000-0000-0000-0000-000000000000" is not a UUID such as 01890a5d-ac96-774b-bcce-b302099a8057"#
        ]],
    );
    refused(
        Request::Order,
        r#"{"currency":"gbp"}"#,
        expect![[r#"currency: "gbp" is not an ISO 4217 code such as GBP"#]],
    );
    refused(
        Request::Order,
        r#"{"payment":"card"}"#,
        expect![[r#"payment: "card" is not `balance`, `external` or `await`"#]],
    );
}

#[test]
fn other_bodies_are_named_by_their_field() {
    let refund = Request::Refund(Party(1), OrderId(1));
    refused(
        refund,
        r#"{"id":"ID","lines":[{"line":0,"quantity":1},{"line":2000,"quantity":1}]}"#,
        expect!["lines[1].line: 2000 is not an integer from 0 to 1999"],
    );
    refused(refund, r#"{"id":"ID","lines":[]}"#, expect!["lines: must not be empty"]);
    refused(
        Request::Transfer,
        r#"{"id":"ID","from":{"kind":"clearing","party":1},"to":{"party":2},"currency":"GBP","amount":1}"#,
        expect!["from: the clearing account has no `party`"],
    );
    refused(
        Request::Transfer,
        r#"{"id":"ID","from":{"party":2,"kind":"payable"},"to":{"party":2},"currency":"GBP","amount":1}"#,
        expect![[r#"from.kind: "payable" is not `main`, `settlement`, `suspense` or `clearing`"#]],
    );
    refused(
        Request::Transfer,
        r#"{"id":"ID","from":{"party":2},"to":{"party":2},"currency":"GBP","amount":1}"#,
        expect!["`from` and `to` name the same account"],
    );
    refused(
        Request::Transfers,
        r#"{"transfers":[{"id":"ID","from":{"party":1},"to":{"party":2},"currency":"GBP","amount":1},{"id":"ID","from":{"party":2},"to":{},"currency":"GBP","amount":1}]}"#,
        expect!["transfers[1].to.party: missing field `party`"],
    );
    refused(
        Request::Transfers,
        r#"{"transfers":[{"id":"ID","from":{"party":2},"to":{"party":2},"currency":"GBP","amount":1}]}"#,
        expect!["transfers[0]: `from` and `to` name the same account"],
    );
    refused(
        Request::Accounts,
        r#"{"accounts":[{"party":1,"currency":"GBP","balance":-5}]}"#,
        expect!["accounts[0].balance: -5 is not an integer from 0 to 1000000000000000"],
    );
    refused(
        Request::Pay(Party(1), OrderId(1)),
        r#"{"id":"ID","payment":"await"}"#,
        expect![[r#"payment: "await" is not `balance` or `external`"#]],
    );
    refused(
        Request::Cancel(Party(1), OrderId(1)),
        r#"{"id":"ID"} x"#,
        expect!["something follows after the end of the JSON"],
    );
}

#[test]
fn a_body_that_fails_leaves_nothing() {
    let mut commands = decoded(Request::Account, r#"{"party":1,"currency":"GBP"}"#).unwrap();
    let before = commands.bytes().to_vec();
    let bad = r#"{"accounts":[{"party":1,"currency":"GBP"},{"party":1}]}"#;
    decode(Request::Accounts, bad.as_bytes(), &mut commands).unwrap_err();
    assert_eq!((commands.bytes(), commands.count()), (&before[..], 1));
}

#[test]
fn bounds_are_exact() {
    let order = |lines: usize| {
        let lines = vec![r#"{"item":1,"quantity":1}"#; lines].join(",");
        format!(r#"{{"buyer":1,"id":"{ID}","currency":"GBP","payment":"await","lines":[{lines}]}}"#)
    };
    decoded(Request::Order, &order(LINES_MAX)).unwrap();
    refused(Request::Order, &order(LINES_MAX + 1), expect!["lines: more than 2000 lines"]);
    let orders = |n: usize| format!(r#"{{"orders":[{}]}}"#, vec![order(1); n].join(","));
    assert_eq!(decoded(Request::Orders, &orders(BATCH_MAX)).unwrap().count(), 10_000);
    refused(
        Request::Orders,
        &orders(BATCH_MAX + 1),
        expect!["orders: more than 10000 in one request"],
    );
}

#[test]
fn depth_is_refused_and_not_followed() {
    let order = Request::Pay(Party(1), OrderId(1));
    let refund = Request::Refund(Party(1), OrderId(1));
    let bodies = [
        (Request::Order, "DEEP"),
        (Request::Order, r#"{"buyer":DEEP"#),
        (Request::Order, r#"{"id":DEEP"#),
        (Request::Order, r#"{"lines":DEEP"#),
        (Request::Order, r#"{"lines":[{"item":DEEP"#),
        (Request::Order, r#"{"lines":[{"unit_price":DEEP"#),
        (Request::Order, r#"{"other":DEEP"#),
        (Request::Orders, "DEEP"),
        (Request::Orders, r#"{"orders":DEEP"#),
        (Request::Account, "DEEP"),
        (Request::Accounts, r#"{"accounts":DEEP"#),
        (Request::Item, r#"{"currency":DEEP"#),
        (Request::Restock(ItemId(1)), r#"{"quantity":DEEP"#),
        (Request::Transfer, r#"{"from":DEEP"#),
        (Request::Transfer, r#"{"from":{"kind":DEEP"#),
        (Request::Transfer, r#"{"from":{"party":DEEP"#),
        (order, r#"{"payment":DEEP"#),
        (refund, r#"{"restock":DEEP"#),
        (refund, r#"{"lines":DEEP"#),
        (refund, r#"{"lines":[{"line":DEEP"#),
    ];
    for (request, body) in bodies {
        for deep in ["[", r#"{"a":"#, r#"[{"lines":"#] {
            let body = body.replace("DEEP", &deep.repeat(200_000));
            decoded(request, &body).unwrap_err();
        }
    }
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(body in ".{0,200}") {
        let _ = decoded(Request::Orders, &body);
    }

    #[test]
    fn a_changed_byte_is_refused_or_still_an_order(at in 0usize..150, byte: u8) {
        let mut body = format!(
            r#"{{"orders":[{{"buyer":1,"id":"{ID}","currency":"GBP","payment":"balance","lines":[{{"item":1,"quantity":1}}]}}]}}"#
        ).into_bytes();
        let at = at % body.len();
        body[at] = byte;
        let mut commands = CommandBuffer::default();
        let done = decode(Request::Orders, &body, &mut commands);
        prop_assert_eq!(commands.count(), u32::from(done.is_ok()));
        prop_assert!(commands.records().all(|record| record.is_ok()));
    }
}

#[test]
fn a_sale_has_a_window_and_a_limit() {
    let item = r#"{"item":7,"seller":9,"currency":"GBP","price":5,"opens_ms":1000,"closes_ms":2000,"limit":3}"#;
    let commands = decoded(Request::Item, item).unwrap();
    let record = commands.records().next().unwrap().unwrap();
    let Body::CreateItem(body) = record.body else { panic!("{record:?}") };
    let got = (body.opens.get(), body.closes.get(), body.limit.get());
    assert_eq!(got, (1_000_000, 2_000_000, 3));

    let update = format!(r#"{{"id":"{ID}","price":0,"opens_ms":0,"closes_ms":9}}"#);
    let commands = decoded(Request::UpdateItem(ItemId(7)), &update).unwrap();
    let record = commands.records().next().unwrap().unwrap();
    let Body::UpdateItem(body) = record.body else { panic!("{record:?}") };
    assert_eq!((body.flags, body.closes.get()), (3, 9_000));

    let new = |sale: &str| format!(r#"{{"item":7,"seller":9,"currency":"GBP","price":5,{sale}}}"#);
    refused(
        Request::Item,
        &new(r#""opens_ms":5,"closes_ms":5"#),
        expect!["`closes_ms` must be after `opens_ms`"],
    );
    refused(
        Request::Item,
        &new(r#""limit":1000000001"#),
        expect!["limit: 1000000001 is not an integer from 0 to 1000000000"],
    );
    refused(
        Request::UpdateItem(ItemId(7)),
        r#"{"id":"ID","opens_ms":5}"#,
        expect!["`opens_ms` and `closes_ms` go together; 0 is no bound"],
    );
    refused(
        Request::UpdateItem(ItemId(7)),
        r#"{"id":"ID"}"#,
        expect!["nothing is to change: name `price`, `limit`, or `opens_ms` and `closes_ms`"],
    );
}

#[test]
fn only_what_waits_for_payment_has_a_deadline() {
    let order = |payment: &str| {
        format!(
            r#"{{"buyer":1,"id":"ID","currency":"GBP","payment":"{payment}","deadline_ms":7,"lines":[{{"item":1,"quantity":1}}]}}"#
        )
    };
    let commands = decoded(Request::Order, &order("await").replace("ID", ID)).unwrap();
    let record = commands.records().next().unwrap().unwrap();
    let Body::Place { legs, .. } = record.body else { panic!("{record:?}") };
    assert_eq!(legs[0].term.get(), 7_000);
    refused(
        Request::Order,
        &order("balance"),
        expect![
            "`deadline_ms` is for orders that wait for payment; among `payments`, each that is awaited has its own"
        ],
    );
}

#[test]
fn an_order_may_be_paid_in_parts_and_have_lines_of_all_kinds() {
    let body = format!(
        r#"{{"buyer":1,"id":"{ID}","currency":"GBP","forfeit":true,
            "payments":[{{"method":"coupon","coupon":"5"}},{{"method":"balance","amount":100}},
                        {{"method":"await","deadline_ms":9}}],
            "lines":[{{"item":7,"quantity":2,"list_price":5,"payee":9,"discount":1}},
                     {{"kind":"shipping","payee":900,"unit_price":499}}]}}"#
    );
    let commands = decoded(Request::Order, &body).unwrap();
    let record = commands.records().next().unwrap().unwrap();
    let Body::Place { order, legs, lines, extras, .. } = record.body else { panic!("{record:?}") };
    let legs: Vec<_> =
        legs.iter().map(|leg| (leg.method, leg.flags, leg.amount.get(), leg.term.get())).collect();
    assert_eq!(legs, [(3, 0, 0, 5), (1, 1, 100, 0), (0, 0, 0, 9_000)]);
    let lines: Vec<_> = lines
        .iter()
        .map(|line| (line.kind, line.item.get(), line.quantity.get(), line.flags))
        .collect();
    assert_eq!(lines, [(0, 7, 2, 2), (1, 900, 1, 1)]);
    assert_eq!((extras[0].line.get(), extras[0].payee.get(), extras[0].discount.get()), (0, 9, 1));
    assert_eq!((extras.len(), order.flags), (1, 2));
}

#[test]
fn parts_of_a_payment_are_refused_by_name() {
    let order = |payments: &str| {
        format!(
            r#"{{"buyer":1,"id":"{ID}","currency":"GBP",{payments}"lines":[{{"item":1,"quantity":1}}]}}"#
        )
    };
    let nine = [r#"{"method":"balance","amount":1}"#; 9].join(",");
    for (payments, expected) in [
        ("".to_string(), expect!["payment: missing field `payment`"]),
        (
            r#""payment":"balance","payments":[{"method":"balance"}],"#.to_string(),
            expect!["`payment` and `payments` exclude each other"],
        ),
        (r#""payments":[],"#.to_string(), expect!["payments: must not be empty"]),
        (format!(r#""payments":[{nine}],"#), expect!["payments: more than 8 payments"]),
        (
            r#""payments":[{"method":"coupon"}],"#.to_string(),
            expect!["payments: `coupon` goes with the method coupon"],
        ),
        (
            r#""payments":[{"method":"balance"},{"method":"external"}],"#.to_string(),
            expect!["payments: one of the payments at most may be without an `amount`"],
        ),
        (
            r#""payments":[{"method":"balance","deadline_ms":9}],"#.to_string(),
            expect!["payments: `deadline_ms` is for what is awaited"],
        ),
        (
            r#""payment":"coupon","#.to_string(),
            expect![[r#"payment: "coupon" is not `balance`, `external` or `await`"#]],
        ),
        (
            r#""payment":"balance","forfeit":true,"#.to_string(),
            expect!["`forfeit` is for orders that wait for payment"],
        ),
    ] {
        refused(Request::Order, &order(&payments), expected);
    }
}
