//! How many rows there are, and what their amounts come to, by currency.

use std::collections::BTreeMap;
use std::fmt;

use model::Currency;
use serde::{Deserialize, Serialize};

use crate::table::Table;

/// Of one currency.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sum {
    /// How many rows.
    pub rows: i128,
    /// What the amounts that [`Table::summed`] names come to.
    pub amounts: [i128; 2],
}

/// Of all currencies. One without rows and amounts is no different from none.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(from = "Vec<Entry>", into = "Vec<Entry>")]
pub struct Sums {
    /// By ISO 4217 code.
    by_currency: BTreeMap<String, Sum>,
}

/// A currency's sums as they are written down: not every JSON reader takes integers of 128 bits.
#[derive(Serialize, Deserialize)]
struct Entry {
    currency: String,
    rows: String,
    amounts: [String; 2],
}

impl From<Sums> for Vec<Entry> {
    fn from(sums: Sums) -> Vec<Entry> {
        let entry = |(currency, sum): (&str, Sum)| Entry {
            currency: currency.to_string(),
            rows: sum.rows.to_string(),
            amounts: sum.amounts.map(|amount| amount.to_string()),
        };
        sums.iter().map(entry).collect()
    }
}

impl From<Vec<Entry>> for Sums {
    fn from(entries: Vec<Entry>) -> Sums {
        let mut sums = Sums::default();
        for entry in entries {
            // What isn't a number was changed by hand, and shows when sums are compared.
            let number = |text: &String| text.parse().unwrap_or_default();
            let amounts = entry.amounts.each_ref().map(number);
            sums.add_sum(&entry.currency, Sum { rows: number(&entry.rows), amounts });
        }
        sums
    }
}

impl Sum {
    /// 2⁶³ rows of 2⁶⁴ fit.
    fn add(&mut self, rows: i128, amounts: [i128; 2]) {
        self.rows += rows;
        self.amounts[0] += amounts[0];
        self.amounts[1] += amounts[1];
    }
}

impl Sums {
    /// By currency.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Sum)> {
        self.by_currency.iter().map(|(code, sum)| (code.as_str(), *sum))
    }

    /// How many rows there are.
    pub fn rows(&self) -> i128 {
        self.by_currency.values().map(|sum| sum.rows).sum()
    }

    pub(crate) fn add_sum(&mut self, code: &str, sum: Sum) {
        if !self.by_currency.contains_key(code) {
            self.by_currency.insert(code.to_string(), Sum::default());
        }
        let mine = self.by_currency.get_mut(code).expect("it was added");
        mine.add(sum.rows, sum.amounts);
        if *mine == Sum::default() {
            self.by_currency.remove(code);
        }
    }

    pub(crate) fn add(&mut self, other: &Sums) {
        other.iter().for_each(|(code, sum)| self.add_sum(code, sum));
    }

    pub(crate) fn subtract(&mut self, other: &Sums) {
        let less = |sum: Sum| Sum { rows: -sum.rows, amounts: sum.amounts.map(|amount| -amount) };
        other.iter().for_each(|(code, sum)| self.add_sum(code, less(sum)));
    }

    pub(crate) fn and(&self, other: &Sums) -> Sums {
        let mut sums = self.clone();
        sums.add(other);
        sums
    }

    /// As people read it.
    pub fn shown(&self, table: Table) -> impl fmt::Display {
        let [first, second] = table.summed();
        let of = |(code, Sum { rows, amounts }): (&str, Sum)| {
            format!("{code}: {rows} rows, {first} {}, {second} {}", amounts[0], amounts[1])
        };
        match self.by_currency.is_empty() {
            true => "nothing".to_string(),
            false => self.iter().map(of).collect::<Vec<_>>().join("; "),
        }
    }
}

/// Adds up rows, most of which are of the currency of the one before.
#[derive(Clone, Debug, Default)]
pub(crate) struct Adder {
    sums: Vec<(Currency, Sum)>,
    last: usize,
}

impl Adder {
    pub(crate) fn row(&mut self, currency: Currency, amounts: [i128; 2]) {
        if self.sums.get(self.last).is_none_or(|sum| sum.0 != currency) {
            let found = self.sums.iter().position(|sum| sum.0 == currency);
            self.last = found.unwrap_or_else(|| {
                self.sums.push((currency, Sum::default()));
                self.sums.len() - 1
            });
        }
        self.sums[self.last].1.add(1, amounts);
    }

    /// What was added up so far. It begins again.
    pub(crate) fn take(&mut self) -> Sums {
        let mut sums = Sums::default();
        for (currency, sum) in self.sums.drain(..) {
            sums.add_sum(currency.code(), sum);
        }
        sums
    }
}
