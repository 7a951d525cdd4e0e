//! What a platform holds: all rows of a table, read page by page over several connections.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use loadgen::Target;
use model::Currency;

use crate::BulkError;
use crate::fields::{integer, object, page, signed};
use crate::sender::Caller;
use crate::sums::{Adder, Sums};
use crate::table::{COLUMNS_MAX, Table};

/// Rows of a page: as many as there may be.
const PAGE_ROWS: usize = 10_000;

/// A row as the platform shows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct HeldRow {
    /// By column. Of an account, `balance` is beside it; of an item, `stock` is what it was ever
    /// stocked with.
    pub(crate) values: [u64; COLUMNS_MAX],
    pub(crate) currency: Currency,
    /// Of an account: what is in it.
    pub(crate) balance: i128,
    /// Of an account.
    pub(crate) closed: bool,
    /// Of an item: units that orders have.
    pub(crate) taken: u64,
}

impl HeldRow {
    /// The amounts that are summed up.
    pub(crate) fn amounts(&self, table: Table) -> [i128; 2] {
        match table {
            Table::Accounts => [self.balance, self.values[3].into()],
            Table::Items => [self.values[4].into(), self.values[3].into()],
        }
    }
}

/// Reads all rows. `take` is called with the rows of each page, in no particular order.
pub(crate) async fn read_all(
    target: &Target,
    table: Table,
    connections: usize,
    patience: Duration,
    take: impl Fn(&[HeldRow]) -> Result<(), BulkError> + 'static,
) -> Result<(), BulkError> {
    // What failed first says why: what fails behind it may only say that it ended.
    let failed = Rc::new(RefCell::new(None));
    let take = Rc::new(take);
    let readers: Vec<_> = (1..=connections)
        .map(|part| {
            let caller = Caller::new(target, patience);
            let part = format!("part={part}/{connections}");
            let (take, failed) = (take.clone(), failed.clone());
            tokio::task::spawn_local(async move {
                let is_over = || failed.borrow().is_some();
                if let Err(error) = read_part(caller, table, part, take, is_over).await {
                    failed.borrow_mut().get_or_insert(error);
                }
            })
        })
        .collect();
    for reader in readers {
        reader.await.expect("a reader doesn't panic");
    }
    failed.take().map_or(Ok(()), Err)
}

async fn read_part(
    mut caller: Caller,
    table: Table,
    part: String,
    take: Rc<impl Fn(&[HeldRow]) -> Result<(), BulkError>>,
    is_over: impl Fn() -> bool,
) -> Result<(), BulkError> {
    let (mut from, mut rows) = (String::new(), Vec::new());
    while !is_over() {
        let path = format!("/v1/{}?limit={PAGE_ROWS}&{part}{from}", table.name());
        let answer = caller.ask(&path, None).await?;
        rows.clear();
        let mut currency = (b"GBP".to_vec(), Currency::GBP);
        let next = page(answer.body, table.name(), |at| {
            let (row, end) = held_row(answer.body, at, table, &mut currency)?;
            rows.push(row);
            Some(end)
        });
        let not_understood = || BulkError::NotUnderstood(crate::beginning(answer.body));
        let next = next.ok_or_else(not_understood)?.map(str::to_string);
        take(&rows)?;
        match next {
            Some(next) => from = format!("&from={next}"),
            None => break,
        }
    }
    Ok(())
}

/// One row of a page, and where it ends.
fn held_row(
    text: &[u8],
    at: usize,
    table: Table,
    last: &mut (Vec<u8>, Currency),
) -> Option<(HeldRow, usize)> {
    let mut row = HeldRow {
        values: [0; COLUMNS_MAX],
        currency: Currency::GBP,
        balance: 0,
        closed: false,
        taken: 0,
    };
    let mut is_whole = true;
    let end = object(text, at, |name, value| {
        let mut set = |place: &mut u64| match integer(value) {
            Some(value) => *place = value,
            None => is_whole = false,
        };
        match (table, name) {
            (_, b"currency") => {
                if last.0 != value {
                    let code = std::str::from_utf8(value).ok().and_then(Currency::from_code);
                    let Some(code) = code else { return is_whole = false };
                    *last = (value.to_vec(), code);
                }
                row.currency = last.1;
            }
            (Table::Accounts, b"party") => set(&mut row.values[0]),
            (Table::Accounts, b"balance") => match signed(value) {
                Some(balance) => row.balance = balance,
                None => is_whole = false,
            },
            (Table::Accounts, b"overdraft") => set(&mut row.values[3]),
            (Table::Accounts, b"closed") => row.closed = value == b"true",
            (Table::Items, b"item") => set(&mut row.values[0]),
            (Table::Items, b"seller") => set(&mut row.values[1]),
            (Table::Items, b"price") => set(&mut row.values[3]),
            (Table::Items, b"stocked") => set(&mut row.values[4]),
            (Table::Items, b"opens_ms") => set(&mut row.values[5]),
            (Table::Items, b"closes_ms") => set(&mut row.values[6]),
            (Table::Items, b"limit") => set(&mut row.values[7]),
            (Table::Items, b"reserved" | b"sold") => {
                let mut units = 0;
                set(&mut units);
                row.taken = row.taken.saturating_add(units);
            }
            _ => {}
        }
    })?;
    is_whole.then_some((row, end))
}

/// Sums of all rows that a platform holds.
pub(crate) async fn sums(
    target: &Target,
    table: Table,
    connections: usize,
    patience: Duration,
) -> Result<Sums, BulkError> {
    let adder = Rc::new(std::cell::RefCell::new(Adder::default()));
    let adding = adder.clone();
    read_all(target, table, connections, patience, move |rows| {
        let mut adder = adding.borrow_mut();
        rows.iter().for_each(|row| adder.row(row.currency, row.amounts(table)));
        Ok(())
    })
    .await?;
    Ok(adder.take().take())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_as_the_platform_writes_them() {
        let read = |table, text: &str| {
            held_row(text.as_bytes(), 0, table, &mut (Vec::new(), Currency::GBP))
        };
        let text = r#"{"party":"18446744073709551615","currency":"EUR","kind":"main","debits":7,"credits":5,"balance":-2,"overdraft":9,"closed":true}"#;
        let (row, end) = read(Table::Accounts, text).unwrap();
        assert_eq!((row.values[0], row.balance, row.values[3]), (u64::MAX, -2, 9));
        assert!(row.closed && row.currency.code() == "EUR" && end == text.len());
        let text = r#"{"item":7,"seller":9,"currency":"GBP","price":250,"opens_ms":1,"closes_ms":2,"limit":3,"stocked":10,"available":4,"reserved":1,"sold":5}"#;
        let (row, _) = read(Table::Items, text).unwrap();
        assert_eq!(row.values, [7, 9, 0, 250, 10, 1, 2, 3]);
        assert_eq!((row.taken, row.amounts(Table::Items)), (6, [10, 250]));
        assert_eq!(read(Table::Items, r#"{"item":-7}"#), None);
    }
}
