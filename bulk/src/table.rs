//! The two tables that are imported and exported: their columns, and what may be in them.

use model::money::STOCK_MAX;
use model::{Amount, Currency, Quantity, Time};

/// What rows are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Table {
    /// `party,currency,balance,overdraft`
    Accounts,
    /// `item,seller,currency,price,stock,opens_ms,closes_ms,limit`
    Items,
}

/// A column of a table. Its name is the field's in the interface.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Column {
    pub(crate) name: &'static str,
    /// As it stands in a row: the comma or brace before it, name and colon.
    pub(crate) json: &'static str,
    pub(crate) required: bool,
    pub(crate) kind: Kind,
}

/// What may be in a field.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// An integer of this range.
    Integer(u64, u64),
    /// An ISO 4217 code.
    Currency,
}

/// The most columns of a table.
pub(crate) const COLUMNS_MAX: usize = 8;

const fn column(name: &'static str, json: &'static str, low: u64, high: u64) -> Column {
    Column { name, json, required: true, kind: Kind::Integer(low, high) }
}

const fn optional(name: &'static str, json: &'static str, high: u64) -> Column {
    Column { name, json, required: false, kind: Kind::Integer(0, high) }
}

const CURRENCY: Column =
    Column { name: "currency", json: ",\"currency\":", required: true, kind: Kind::Currency };

static ACCOUNTS: [Column; 4] = [
    column("party", "{\"party\":", 1, u64::MAX),
    CURRENCY,
    column("balance", ",\"balance\":", 0, Amount::MAX.0),
    optional("overdraft", ",\"overdraft\":", Amount::MAX.0),
];

static ITEMS: [Column; 8] = [
    column("item", "{\"item\":", 0, u64::MAX),
    column("seller", ",\"seller\":", 1, u64::MAX),
    CURRENCY,
    column("price", ",\"price\":", 0, Amount::MAX.0),
    column("stock", ",\"stock\":", 0, STOCK_MAX),
    optional("opens_ms", ",\"opens_ms\":", Time::MAX.0 / 1_000),
    optional("closes_ms", ",\"closes_ms\":", Time::MAX.0 / 1_000),
    optional("limit", ",\"limit\":", Quantity::MAX.0 as u64),
];

/// One row's values, by column; the currency's place is empty.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Row {
    pub(crate) values: [u64; COLUMNS_MAX],
    pub(crate) currency: Currency,
}

impl Default for Row {
    fn default() -> Row {
        Row { values: [0; COLUMNS_MAX], currency: Currency::GBP }
    }
}

impl Table {
    /// What it is called, in paths and bodies, too.
    pub fn name(self) -> &'static str {
        match self {
            Table::Accounts => "accounts",
            Table::Items => "items",
        }
    }

    /// The amounts that are summed up: what each is called.
    pub fn summed(self) -> [&'static str; 2] {
        match self {
            Table::Accounts => ["balance", "overdraft"],
            Table::Items => ["stock", "price"],
        }
    }

    pub(crate) fn columns(self) -> &'static [Column] {
        match self {
            Table::Accounts => &ACCOUNTS,
            Table::Items => &ITEMS,
        }
    }

    /// All of them, as a header.
    pub(crate) fn header(self) -> String {
        let names: Vec<&str> = self.columns().iter().map(|column| column.name).collect();
        names.join(",")
    }

    pub(crate) fn column(self, name: &str) -> Option<usize> {
        self.columns().iter().position(|column| column.name == name)
    }

    /// The amounts of a row that are summed up.
    pub(crate) fn amounts(self, row: &Row) -> [i128; 2] {
        let [first, second] = match self {
            Table::Accounts => [row.values[2], row.values[3]],
            Table::Items => [row.values[4], row.values[3]],
        };
        [first.into(), second.into()]
    }
}

const _: () = assert!(ACCOUNTS.len() <= COLUMNS_MAX && ITEMS.len() <= COLUMNS_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_where_sums_look_for_them() {
        for table in [Table::Accounts, Table::Items] {
            let mut row = Row::default();
            for (at, name) in table.summed().iter().enumerate() {
                row.values[table.column(name).unwrap()] = 7 + at as u64;
            }
            assert_eq!(table.amounts(&row), [7, 8]);
            for column in table.columns() {
                assert!(column.json[1..].starts_with(&format!("\"{}\":", column.name)));
            }
        }
    }
}
