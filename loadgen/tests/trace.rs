//! Purchase files and the plans they give.

// Clippy's allowance for tests covers the tests themselves, not the functions that they share.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use expect_test::{Expect, expect};
use loadgen::trace::{Event, GUEST_FIRST, Plan, TraceError, skip};
use model::record::LINES_MAX;
use model::{Amount, Party, Quantity};

const HEADER: &str =
    "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country";

fn parse(csv: impl AsRef<[u8]>) -> Result<Plan, TraceError> {
    Plan::from_csv(Path::new("shop.csv"), csv.as_ref())
}

/// A file with these rows, each written `invoice code quantity price customer` with a customer of
/// `-` being none. A row is a minute after the one before it.
fn csv<'a>(rows: impl IntoIterator<Item = &'a str>) -> String {
    let mut csv = format!("{HEADER}\n");
    for (n, row) in rows.into_iter().enumerate() {
        let [invoice, code, quantity, price, customer] =
            row.split(' ').collect::<Vec<_>>().try_into().unwrap();
        let customer = customer.trim_start_matches('-');
        let date = format!("1970-01-{:02} {:02}:{:02}:00", 1 + n / 1440, n / 60 % 24, n % 60);
        writeln!(csv, "{invoice},{code},,{quantity},{date},{price},{customer},").unwrap();
    }
    csv
}

fn plan(rows: &str) -> Plan {
    parse(csv(rows.lines().map(str::trim).filter(|row| !row.is_empty()))).unwrap()
}

/// One line per item and event, then the totals that aren't told by them.
fn show(plan: &Plan) -> String {
    let mut out = String::new();
    for item in &plan.items {
        writeln!(out, "item {} at {}, {} sold", item.code, item.price.0, item.units_sold).unwrap();
    }
    let buyer = |party: &Party| match party.0.checked_sub(GUEST_FIRST.0) {
        Some(guest) => format!("guest {guest}"),
        None => format!("customer {party}"),
    };
    for (index, event) in plan.events.iter().enumerate() {
        match event {
            Event::Order { invoice, buyer: of, time_s, lines } => {
                write!(out, "{index}: {invoice} of {} at {time_s} s:", buyer(of)).unwrap();
                for line in lines {
                    let code = &plan.items[line.item.0 as usize - 1].code;
                    write!(out, " {}x{code}@{}", line.quantity.0, line.unit_price.0).unwrap();
                }
            }
            Event::Refund { invoice, buyer: of, order, lines, time_s } => {
                write!(out, "{index}: {invoice} of {} at {time_s} s: refund {order}:", buyer(of))
                    .unwrap();
                for (line, quantity) in lines {
                    write!(out, " {quantity} of line {line}").unwrap();
                }
            }
        }
        out.push('\n');
    }
    let totals = &plan.totals;
    for (reason, count) in &totals.skipped {
        writeln!(out, "{count} {reason}").unwrap();
    }
    if totals.units_unmatched > 0 {
        writeln!(out, "{} units unmatched", totals.units_unmatched).unwrap();
    }
    writeln!(out, "{} p", totals.revenue_pence).unwrap();
    out
}

fn check(rows: &str, expected: Expect) {
    let plan = plan(rows);
    check_totals(&plan);
    expected.assert_eq(&show(&plan));
}

/// Counts the events again, and holds every refund against its order.
fn check_totals(plan: &Plan) {
    let (mut orders, mut lines, mut refunds) = (0, 0, 0);
    let (mut sold, mut refunded, mut pence) = (0, 0, 0);
    let mut left: Vec<Vec<u32>> = Vec::new();
    for event in &plan.events {
        match event {
            Event::Order { lines: ordered, .. } => {
                assert!((1..=LINES_MAX).contains(&ordered.len()));
                orders += 1;
                lines += ordered.len() as u64;
                left.push(ordered.iter().map(|line| line.quantity.0).collect());
                for line in ordered {
                    sold += u64::from(line.quantity.0);
                    pence += i64::from(line.quantity.0) * line.unit_price.0 as i64;
                }
            }
            Event::Refund { buyer, order, lines: returned, .. } => {
                refunds += 1;
                left.push(Vec::new());
                let Event::Order { buyer: of, lines: ordered, .. } = &plan.events[*order] else {
                    panic!("event {order} is no order");
                };
                assert_eq!(buyer, of);
                assert!(!returned.is_empty() && returned.is_sorted_by(|a, b| a.0 < b.0));
                for (line, quantity) in returned {
                    assert!(*quantity > 0);
                    let left = &mut left[*order][usize::from(*line)];
                    *left = left.checked_sub(*quantity).expect("the line holds the units");
                    refunded += u64::from(*quantity);
                    let price = ordered[usize::from(*line)].unit_price;
                    pence -= i64::from(*quantity) * price.0 as i64;
                }
            }
        }
    }
    let totals = &plan.totals;
    assert_eq!((totals.orders, totals.lines, totals.refunds), (orders, lines, refunds));
    assert_eq!((totals.units_sold, totals.units_refunded), (sold, refunded));
    assert_eq!(totals.revenue_pence, pence);
    assert_eq!(plan.items.iter().map(|item| item.units_sold).sum::<u64>(), sold);
}

#[test]
fn an_invoice_is_an_order() {
    check(
        "1 A 6.0 2.55 17850.0
         1 B 2.0 0.0 17850.0
         1 A 1.0 2.95 17850.0
         2 B 3 1e1 7",
        expect![[r#"
            item A at 255, 7 sold
            item B at 0, 5 sold
            0: 1 of customer 17850 at 0 s: 6xA@255 2xB@0 1xA@295
            1: 2 of customer 7 at 180 s: 3xB@1000
            4825 p
        "#]],
    );
}

#[test]
fn rows_of_an_invoice_stand_with_its_first() {
    check(
        "1 A 1 1 5
         2 B 1 1 6
         1 C 1 1 5
         C3 A -1 1 5
         2 B -1 1 6
         C4 B -1 1 6
         C3 C -1 1 5",
        expect![[r#"
            item A at 100, 1 sold
            item B at 100, 1 sold
            item C at 100, 1 sold
            0: 1 of customer 5 at 0 s: 1xA@100 1xC@100
            1: 2 of customer 6 at 60 s: 1xB@100
            2: C3 of customer 5 at 180 s: refund 0: 1 of line 0 1 of line 1
            3: C4 of customer 6 at 300 s: refund 1: 1 of line 0
            1 quantity_not_positive
            0 p
        "#]],
    );
}

#[test]
fn a_skipped_first_row_still_gives_place_and_time() {
    check(
        "1 A -1 1 5
         2 B 1 1 5
         1 C 1 1 5",
        expect![[r#"
            item B at 100, 1 sold
            item C at 100, 1 sold
            0: 1 of customer 5 at 0 s: 1xC@100
            1: 2 of customer 5 at 60 s: 1xB@100
            1 quantity_not_positive
            200 p
        "#]],
    );
}

#[test]
fn an_invoice_without_a_customer_is_a_guests() {
    check(
        "1 A 1 1 -
         1 B 1 1 -
         2 A -1 1 -
         3 A 1 1 -
         4 A 1 1 5
         5 A 1 1 -
         5 A 1 1 8",
        expect![[r#"
            item A at 100, 5 sold
            item B at 100, 1 sold
            0: 1 of guest 0 at 0 s: 1xA@100 1xB@100
            1: 3 of guest 1 at 180 s: 1xA@100
            2: 4 of customer 5 at 240 s: 1xA@100
            3: 5 of customer 8 at 300 s: 1xA@100 1xA@100
            1 order_without_lines
            1 quantity_not_positive
            600 p
        "#]],
    );
}

#[test]
fn rows_that_do_not_fit_are_skipped_by_reason() {
    let table = [
        ("A1 B 1 1 5", skip::ADJUSTMENT_INVOICE),
        ("A1 B 1 -1 5", skip::ADJUSTMENT_INVOICE),
        ("1 A 1 1 x", skip::CUSTOMER_UNREADABLE),
        ("1 A 1 1 5.5", skip::CUSTOMER_UNREADABLE),
        ("1 A 1 1 0", skip::CUSTOMER_UNREADABLE),
        ("1 A 1 1 +-5", skip::CUSTOMER_UNREADABLE),
        ("1 A 1 1 1099511627776", skip::CUSTOMER_UNREADABLE),
        ("1  1 1 5", skip::CODE_EMPTY),
        ("1 A x 1 5", skip::QUANTITY_UNREADABLE),
        ("1 A  1 5", skip::QUANTITY_UNREADABLE),
        ("1 A 1.5 1 5", skip::QUANTITY_NOT_WHOLE),
        ("1 A 0 1 5", skip::QUANTITY_NOT_POSITIVE),
        ("1 A -1 1 5", skip::QUANTITY_NOT_POSITIVE),
        ("1 A -1e99 1 5", skip::QUANTITY_NOT_POSITIVE),
        ("1 A -1 -1 5", skip::QUANTITY_NOT_POSITIVE),
        ("1 A 1000000001 1 5", skip::QUANTITY_TOO_LARGE),
        ("1 A 1e99 1 5", skip::QUANTITY_TOO_LARGE),
        ("1 A 1 x 5", skip::PRICE_UNREADABLE),
        ("1 A 1 0.001 5", skip::PRICE_NOT_WHOLE_PENCE),
        ("1 A 1 -0.01 5", skip::PRICE_NEGATIVE),
        ("1 A 1 10000000000000.01 5", skip::PRICE_TOO_LARGE),
        ("1 A 2 5000000000000.01 5", skip::ORDER_TOO_LARGE),
        ("1 A 1e9 1e13 5", skip::ORDER_TOO_LARGE),
        (" A 1 1 5", skip::INVOICE_EMPTY),
        ("C1 A 1 1 5", skip::RETURN_NOT_NEGATIVE),
        ("C1 A 0 1 5", skip::RETURN_NOT_NEGATIVE),
        ("C1 A -1.5 1 5", skip::QUANTITY_NOT_WHOLE),
        ("C1 A x 1 5", skip::QUANTITY_UNREADABLE),
        ("C1 A -1e10 1 5", skip::QUANTITY_TOO_LARGE),
        ("C1 A -1 1 x", skip::CUSTOMER_UNREADABLE),
        ("C1  -1 1 5", skip::CODE_EMPTY),
    ];
    for (row, reason) in table {
        let plan = parse(csv(["9 Z 1 1 9", row])).unwrap();
        check_totals(&plan);
        let mut skipped = BTreeMap::from([(reason, 1)]);
        if row.starts_with('1') {
            skipped.insert(skip::ORDER_WITHOUT_LINES, 1);
        }
        assert_eq!(plan.totals.skipped, skipped, "{row}");
        assert_eq!((plan.totals.rows, plan.events.len(), plan.items.len()), (2, 1, 1), "{row}");
    }
}

#[test]
fn bounds_are_part_of_what_fits() {
    let plan = plan("1 A 1000000000 10000.00 1099511627775\n2 B 1 10000000000000 5\n2 B 1 0 5");
    assert_eq!(plan.totals.lines, 3);
    assert!(plan.totals.skipped.is_empty());
    assert_eq!(plan.items[0].units_sold, u64::from(Quantity::MAX.0));
    assert_eq!(plan.items[1].price, Amount::MAX);
    assert_eq!(plan.totals.revenue_pence, 2 * Amount::MAX.0 as i64);
}

#[test]
fn a_row_that_would_take_the_order_past_its_bound_is_skipped_alone() {
    check(
        "1 A 1 9999999999999.99 5
         1 B 1 0.02 5
         1 C 1 0.01 5",
        expect![[r#"
            item A at 999999999999999, 1 sold
            item C at 1, 1 sold
            0: 1 of customer 5 at 0 s: 1xA@999999999999999 1xC@1
            1 order_too_large
            1000000000000000 p
        "#]],
    );
}

#[test]
fn an_order_has_no_more_lines_than_a_record_takes() {
    let rows: String = (0..LINES_MAX).map(|_| "1 A 1 0.01 5\n").collect();
    // Rows that don't fit anyway keep their own reason.
    let plan = plan(&(rows + "1 B 1 0.01 5\n1 A 1 0.01 5\n1 A 1 0.001 5\nC2 A -2001 1 5"));
    check_totals(&plan);
    assert_eq!(plan.totals.lines, 2_000);
    assert_eq!(plan.items.len(), 1);
    let skipped: Vec<_> = plan.totals.skipped.into_iter().collect();
    assert_eq!(skipped, [(skip::ORDER_TOO_MANY_LINES, 2), (skip::PRICE_NOT_WHOLE_PENCE, 1)]);
    assert_eq!((plan.totals.units_refunded, plan.totals.units_unmatched), (2_000, 1));
}

#[test]
fn one_invoice_has_one_customer() {
    check(
        "1 A 1 1 5
         1 B 1 1 6
         1 C 1 1 -
         C2 C -1 1 -
         C2 A -1 1 5
         C2 A -1 1 6",
        expect![[r#"
            item A at 100, 1 sold
            item C at 100, 1 sold
            0: 1 of customer 5 at 0 s: 1xA@100 1xC@100
            1: C2 of customer 5 at 180 s: refund 0: 1 of line 0 1 of line 1
            2 customer_differs
            0 p
        "#]],
    );
}

#[test]
fn a_return_takes_the_newest_order_first_and_pays_its_price() {
    check(
        "1 A 5 1.00 5
         2 A 2 1.10 5
         2 B 9 7.00 5
         2 A 3 1.20 5
         3 A 4 1.30 6
         C4 A -3 9.99 5
         C5 A -4 x 5
         C6 A -9 9.99 5",
        expect![[r#"
            item A at 100, 14 sold
            item B at 700, 9 sold
            0: 1 of customer 5 at 0 s: 5xA@100
            1: 2 of customer 5 at 60 s: 2xA@110 9xB@700 3xA@120
            2: 3 of customer 6 at 240 s: 4xA@130
            3: C4 of customer 5 at 300 s: refund 1: 2 of line 0 1 of line 2
            4: C5 of customer 5 at 360 s: refund 1: 2 of line 2
            5: C5 of customer 5 at 360 s: refund 0: 2 of line 0
            6: C6 of customer 5 at 420 s: refund 0: 3 of line 0
            6 units unmatched
            6820 p
        "#]],
    );
}

#[test]
fn a_return_refunds_each_order_once() {
    // Rows of one return merge by line, and the orders come as the rows reach them.
    check(
        "1 A 5 1 5
         1 B 5 1 5
         2 C 5 1 5
         C3 B -1 1 5
         C3 C -1 1 5
         C3 A -2 1 5
         C3 B -3 1 5",
        expect![[r#"
            item A at 100, 5 sold
            item B at 100, 5 sold
            item C at 100, 5 sold
            0: 1 of customer 5 at 0 s: 5xA@100 5xB@100
            1: 2 of customer 5 at 120 s: 5xC@100
            2: C3 of customer 5 at 180 s: refund 0: 2 of line 0 4 of line 1
            3: C3 of customer 5 at 180 s: refund 1: 1 of line 0
            800 p
        "#]],
    );
}

#[test]
fn a_return_matches_nothing_but_its_buyers_earlier_units_of_that_code() {
    check(
        "C1 A -1 1 5
         2 A 1 1 5
         3 A 1 1 -
         4 b 1 1 5
         C5 B -1 1 5
         C6 A -1 1 7
         C7 A -1 1 -
         C8 Z -1 1 5",
        expect![[r#"
            item A at 100, 2 sold
            item b at 100, 1 sold
            0: 2 of customer 5 at 60 s: 1xA@100
            1: 3 of guest 0 at 120 s: 1xA@100
            2: 4 of customer 5 at 180 s: 1xb@100
            5 units unmatched
            300 p
        "#]],
    );
}

#[test]
fn a_return_finds_a_late_row_of_an_earlier_order() {
    // The order stands earlier in the plan, though this row of it comes later in the file.
    check(
        "1 A 1 1 5
         C2 B -1 1 5
         1 B 1 1 5",
        expect![[r#"
            item A at 100, 1 sold
            item B at 100, 1 sold
            0: 1 of customer 5 at 0 s: 1xA@100 1xB@100
            1: C2 of customer 5 at 60 s: refund 0: 1 of line 1
            100 p
        "#]],
    );
}

#[test]
fn columns_stand_in_any_order() {
    let plan = parse(
        "\u{feff}UnitPrice,Note,CustomerID,InvoiceDate,Quantity,StockCode,InvoiceNo\r\n\
         2.50,\"a, \"\"b\"\"\nc\",5,2010-12-01 08:26:00,3,A,1\r\n",
    )
    .unwrap();
    expect![[r#"
        item A at 250, 3 sold
        0: 1 of customer 5 at 1291191960 s: 3xA@250
        750 p
    "#]]
    .assert_eq(&show(&plan));
}

#[test]
fn what_a_plan_does_not_need_may_be_in_any_encoding() {
    let csv = [HEADER.as_bytes(), b"\n1,A,caf\xe9,1,2010-12-01 08:26:00,1,5,Espa\xf1a\n"].concat();
    assert_eq!(parse(csv).unwrap().totals.lines, 1);
}

#[test]
fn a_header_alone_is_an_empty_plan() {
    let plan = parse(HEADER).unwrap();
    assert!(plan.events.is_empty() && plan.items.is_empty());
    assert_eq!(plan.totals, Default::default());
}

#[test]
fn what_puts_the_file_in_doubt_is_an_error() {
    let row = "1,A,,1,2010-12-01 08:26:00,1,5,";
    let error = |csv: &[u8]| parse(csv).unwrap_err().to_string();
    let below = |rows: &[u8]| error(&[HEADER.as_bytes(), b"\n", rows].concat());

    expect!["shop.csv: row 1: the header has no column InvoiceNo"].assert_eq(&error(b""));
    expect!["shop.csv: row 1: the header has no column UnitPrice"]
        .assert_eq(&error(HEADER.replace("UnitPrice", "Price").as_bytes()));
    expect!["shop.csv: row 3: cannot read it as CSV: CSV error: record 2 (line: 3, byte: 114): found record with 2 fields, but the previous record has 8 fields"]
        .assert_eq(&below(format!("{row}\n1,A\n").as_bytes()));
    expect![[r#"shop.csv: row 3, column InvoiceDate: "12/1/2010 8:26" is not a time YYYY-MM-DD HH:MM:SS from 1970 on"#]]
        .assert_eq(&below(format!("{row}\nA1,A,,1,12/1/2010 8:26,1,5,\n").as_bytes()));
    expect![[r#"shop.csv: row 2, column StockCode: not UTF-8: "caf�""#]]
        .assert_eq(&below(b"1,caf\xe9,,1,2010-12-01 08:26:00,1,5,\n"));
    // 10,000 orders at the bound are more than 63 bits of pence.
    let rows: String =
        (0..10_000).map(|n| format!("{n},A,,1,2010-12-01 08:26:00,1e13,5,\n")).collect();
    expect!["shop.csv: the revenue of 10000000000000000000 pence passes the limit of 9223372036854775807 pence"]
        .assert_eq(&below(rows.as_bytes()));
}

#[test]
fn a_files_name_says_how_to_read_it() {
    let folder = std::env::temp_dir().join(format!("crest-trace-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let csv = format!("{HEADER}\n1,A,,1,2010-12-01 08:26:00,1,5,\n");
    let gzip = |bytes: &[u8]| {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(bytes).unwrap();
        gzip.finish().unwrap()
    };
    let (first, second) = csv.as_bytes().split_at(90);
    let gzipped = gzip(csv.as_bytes());
    let open = |name: &str, bytes: &[u8]| {
        let file = folder.join(name);
        std::fs::write(&file, bytes).unwrap();
        Plan::open(&file)
    };

    let plan = open("shop.csv", csv.as_bytes()).unwrap();
    assert_eq!(plan.totals.lines, 1);
    assert_eq!(open("shop.csv.gz", &gzipped).unwrap(), plan);
    assert_eq!(open("two-members.csv.gz", &[gzip(first), gzip(second)].concat()).unwrap(), plan);
    let cut = open("cut.csv.gz", &gzipped[..gzipped.len() - 9]);
    assert!(matches!(cut, Err(TraceError::Csv { .. })), "{cut:?}");
    let plain = open("plain.csv.gz", csv.as_bytes());
    assert!(matches!(plain, Err(TraceError::Csv { row: 1, .. })), "{plain:?}");
    for name in ["shop.txt", "shop.gz", "csv"] {
        let other = open(name, csv.as_bytes());
        assert!(matches!(other, Err(TraceError::UnknownName { .. })), "{other:?}");
    }
    let absent = Plan::open(&folder.join("absent.csv"));
    assert!(matches!(absent, Err(TraceError::Open { .. })), "{absent:?}");
    std::fs::remove_dir_all(&folder).unwrap();
}

/// Nine months of a real shop. The numbers are those of an independent count by the same rules.
#[test]
fn the_online_retail_file() {
    let file =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/online-retail.csv.gz");
    if !file.exists() {
        eprintln!("skipped: no purchase file at {}", file.display());
        return;
    }
    let plan = Plan::open(&file).unwrap();
    check_totals(&plan);
    assert_eq!(plan.items.len(), 3_643);
    assert_eq!(plan.events.len(), 12_977 + 2_356);
    expect![[r#"
        Totals {
            rows: 320705,
            orders: 12977,
            lines: 313928,
            refunds: 2356,
            units_sold: 3370165,
            units_refunded: 126265,
            units_unmatched: 23137,
            skipped: {
                "adjustment_invoice": 3,
                "order_without_lines": 925,
                "price_not_whole_pence": 2,
                "quantity_not_positive": 925,
            },
            revenue_pence: 604352386,
        }
    "#]]
    .assert_debug_eq(&plan.totals);
}
