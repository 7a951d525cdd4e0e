//! All accounts and items, in pages: whole, each once, as the single reads show them.

use std::collections::BTreeMap;

use expect_test::expect;
use gateway::{DRILL_HEADER, DrillDoor, DrillKey, Limits};
use sonic_rs::{JsonContainerTrait, JsonValueTrait, Value};

use crate::client::{Answer, order};
use crate::platform::Platform;

/// 2100, in Unix seconds.
const FAR: u64 = 4_102_444_800;

fn json(text: &str) -> Value {
    sonic_rs::from_str(text).unwrap_or_else(|_| panic!("{text}"))
}

/// All rows of a table from a page on, and how many pages they took. `meanwhile` is called after
/// each.
fn rows(
    platform: &Platform,
    table: &str,
    query: &str,
    mut meanwhile: impl FnMut(usize),
) -> (Vec<Value>, usize) {
    let (mut rows, mut pages, mut from) = (Vec::new(), 0, String::new());
    let mut connection = platform.connect();
    loop {
        let answer = connection.get(&format!("/v1/{table}?{query}{from}"));
        assert_eq!(answer.status, 200, "{}", answer.body);
        let page = json(&answer.body);
        rows.extend(page.get(table).as_array().unwrap().iter().cloned());
        pages += 1;
        meanwhile(pages);
        match page.get("next").as_str() {
            Some(next) => from = format!("&from={next}"),
            None => return (rows, pages),
        }
    }
}

fn ids(rows: &[Value], key: &str) -> Vec<u64> {
    let mut ids: Vec<u64> = rows.iter().map(|row| row.get(key).as_u64().unwrap()).collect();
    ids.sort_unstable();
    ids
}

fn fill(platform: &Platform, parties: std::ops::RangeInclusive<u64>) {
    let account = |n: u64| format!(r#"{{"party":{n},"currency":"GBP","balance":{n}}}"#);
    let item = |n: u64| {
        format!(r#"{{"item":{n},"seller":9,"currency":"GBP","price":{n},"stock":{}}}"#, 100 * n)
    };
    let accounts: Vec<String> = parties.clone().map(account).collect();
    let items: Vec<String> = parties.map(item).collect();
    for (table, rows) in [("accounts", accounts), ("items", items)] {
        let body = format!(r#"{{"{table}":[{}]}}"#, rows.join(","));
        assert_eq!(platform.post(&format!("/v1/{table}/batch"), body).status, 200);
    }
}

#[test]
fn pages_together_are_all_rows_once() {
    for (shards, groups) in [(1, 1), (16, 2)] {
        let shop = Platform::on(shards, groups, Limits::default());
        fill(&shop, 1..=500);
        for (table, key) in [("accounts", "party"), ("items", "item")] {
            for query in ["limit=7", "limit=100", "limit=10000", ""] {
                let (found, pages) = rows(&shop, table, query, |_| {});
                assert_eq!(ids(&found, key), (1..=500).collect::<Vec<_>>(), "{table} {query}");
                assert!(query != "limit=7" || pages > 500 / 7, "{pages} pages");
            }
            // In parts, of which some may have no shard.
            for parts in [1, 2, 5, 16, 20] {
                let mut found = Vec::new();
                for part in 1..=parts {
                    let query = format!("limit=11&part={part}/{parts}");
                    found.extend(rows(&shop, table, &query, |_| {}).0);
                }
                assert_eq!(ids(&found, key), (1..=500).collect::<Vec<_>>(), "{parts} parts");
            }
        }
    }
}

#[test]
fn rows_are_what_single_reads_show() {
    for (shards, groups) in [(1, 1), (16, 2)] {
        let shop = Platform::on(shards, groups, Limits::default());
        fill(&shop, 1..=40);
        for n in 1..=20 {
            let lines = format!(r#"[{{"item":{n},"quantity":{n}}}]"#);
            let answer = shop.post("/v1/orders", order(41 - n, n, "external", &lines));
            assert_eq!(answer.status, 201, "{}", answer.body);
        }
        for (table, key) in [("accounts", "party"), ("items", "item")] {
            let single = |row: &Value| {
                let id = row.get(key).as_u64().unwrap();
                let query = if table == "accounts" { "?currency=GBP" } else { "" };
                shop.get(&format!("/v1/{table}/{id}{query}")).body
            };
            // Units may still be on their way from one shard to another.
            let same = || {
                let (found, _) = rows(&shop, table, "limit=9", |_| {});
                found.iter().all(|row| json(&single(row)) == *row)
            };
            assert!((0..100).any(|_| same()), "{table} of {shards} shards");
        }
    }
}

#[test]
fn a_platform_without_rows_has_a_page_without_rows() {
    for (shards, groups) in [(1, 1), (16, 2)] {
        let shop = Platform::on(shards, groups, Limits::default());
        shop.get("/v1/accounts").check(expect![[r#"
            200 content-type: application/json
            {"accounts":[]}"#]]);
        shop.get("/v1/items?limit=1").check(expect![[r#"
            200 content-type: application/json
            {"items":[]}"#]]);
    }
}

#[test]
fn what_is_no_page_is_refused_by_name() {
    let shop = Platform::on(16, 2, Limits::default());
    fill(&shop, 1..=3);
    shop.get("/v1/accounts?limit=10001").check(expect![[r#"
        400 content-type: application/problem+json
        {"type":"urn:crest:problem:invalid","title":"invalid","status":400,"detail":"\"10001\" is not an integer from 1 to 10000","field":"limit"}"#]]);
    for (query, field) in [
        ("accounts?limit=0", "limit"),
        ("items?limit=many", "limit"),
        ("accounts?from=", "from"),
        ("accounts?from=16", "from"),
        ("accounts?from=0-77-GBP-main", "from"),
        ("accounts?from=0-1-EUR-main", "from"),
        ("accounts?from=0-1", "from"),
        ("items?from=3-77", "from"),
        ("items?from=99-1", "from"),
        ("items?part=1/2&from=1", "from"),
        ("items?part=3/2", "part"),
        ("items?kind=main", "kind"),
        ("accounts?kind=payable", "kind"),
        ("accounts?kind=purse", "kind"),
        ("accounts?currency=GBP", "currency"),
    ] {
        let answer = shop.get(&format!("/v1/{query}"));
        let (kind, named) = answer.problem();
        assert_eq!((kind.as_str(), named.as_deref()), ("invalid", Some(field)), "{query}");
        assert_eq!(answer.status, 400);
    }
}

#[test]
fn rows_that_come_meanwhile_are_there_or_not_but_never_twice() {
    let shop = Platform::on(16, 2, Limits::default());
    fill(&shop, 1..=300);
    for (table, key, start) in [("accounts", "party", 1_000), ("items", "item", 100_000)] {
        let came = |page: usize| {
            let first = start + 10 * page as u64;
            if page < 60 {
                fill(&shop, first..=first + 9);
            }
        };
        let (found, _) = rows(&shop, table, "limit=5", came);
        let found = ids(&found, key);
        assert!(found.windows(2).all(|two| two[0] < two[1]), "a row is there twice: {found:?}");
        assert_eq!(found[..300], (1..=300).collect::<Vec<_>>());
    }
}

#[test]
fn accounts_are_listed_by_kind_and_only_when_money_has_moved_in_them() {
    let shop = Platform::on(4, 2, Limits::default());
    fill(&shop, 1..=9);
    // A deposit account comes into being with what is paid towards an order that waits, and the
    // order that is refused leaves none.
    let id = "01890a5d-ac96-774b-bcce-b30209900077";
    let wait = |buyer: u64, item: u64, now: u64| {
        let answer = shop.post(
            "/v1/orders",
            format!(
                r#"{{"buyer":{buyer},"id":"{id}","currency":"GBP","payments":[
                    {{"method":"balance","amount":{now}}},{{"method":"await"}}],
                    "lines":[{{"item":{item},"quantity":1}}]}}"#
            ),
        );
        answer.status
    };
    assert_eq!(wait(5, 9, 5), 201);
    assert_eq!(wait(6, 9, 7), 409);
    let (found, _) = rows(&shop, "accounts", "kind=deposit", |_| {});
    assert_eq!(ids(&found, "party"), [5]);
    assert_eq!(found[0].get("balance").as_u64(), Some(5));
    let (found, _) = rows(&shop, "accounts", "kind=main&limit=2", |_| {});
    assert_eq!(ids(&found, "party"), (1..=9).collect::<Vec<_>>());
    assert_eq!(rows(&shop, "accounts", "kind=suspense", |_| {}).0.len(), 0);
}

#[test]
fn each_realm_has_rows_of_its_own() {
    let key = || DrillKey::new(b"a key that nobody guesses").unwrap();
    let shop = Platform::rehearsing(16, 2, DrillDoor::new(Some(key())));
    let ask = |method: &str, path: &str, body: &str| -> Answer {
        let (mark, length) = (key().mark(FAR), body.len());
        let mut connection = shop.connect();
        connection.send(format!(
            "{method} {path} HTTP/1.1\r\nhost: crest\r\n{DRILL_HEADER}: {mark}\r\n\
             content-length: {length}\r\n\r\n{body}"
        ));
        connection.answer()
    };
    fill(&shop, 1..=20);
    assert_eq!(ask("GET", "/v1/accounts", "").body, r#"{"accounts":[]}"#);
    assert_eq!(ask("GET", "/v1/items", "").body, r#"{"items":[]}"#);
    let account = r#"{"party":3,"currency":"GBP","balance":8}"#;
    assert_eq!(ask("POST", "/v1/accounts", account).status, 201);
    let answer = ask("GET", "/v1/accounts", "").body;
    let balances: BTreeMap<u64, u64> = json(&answer)
        .get("accounts")
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row.get("party").as_u64().unwrap(), row.get("balance").as_u64().unwrap()))
        .collect();
    assert_eq!(balances, [(3, 8)].into());
    assert_eq!(rows(&shop, "accounts", "limit=6", |_| {}).0.len(), 20);
}
