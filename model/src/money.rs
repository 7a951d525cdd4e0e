//! Money and quantities: integers, with bounds, never a float.

use std::fmt;

/// An amount in minor units (pence, cents) of the currency beside it.
///
/// What a caller states is at most [`Amount::MAX`]; sums are checked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Amount(pub u64);

impl Amount {
    /// The largest amount of one order, transfer or unit price: 10¹⁵ minor units.
    ///
    /// Below 2⁵³, so that every JSON reader takes it exactly.
    pub const MAX: Amount = Amount(1_000_000_000_000_000);
}

const _: () = assert!(Amount::MAX.0 < 1 << 53);

/// Units of an item. At least 1 and at most [`Quantity::MAX`] where a caller states one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Quantity(pub u32);

impl Quantity {
    /// The most units that one line, or one refund of it, may name.
    pub const MAX: Quantity = Quantity(1_000_000_000);
}

/// The most units of stock that an item is created with or restocked by: 10¹⁵.
pub const STOCK_MAX: u64 = 1_000_000_000_000_000;

/// A currency by its ISO 4217 numeric code.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Currency(u16);

impl Currency {
    /// Pounds sterling.
    pub const GBP: Currency = Currency(826);

    /// The currency with this three-letter code, in capitals, if ISO 4217 lists it.
    pub fn from_code(code: &str) -> Option<Currency> {
        if code == "GBP" {
            return Some(Currency::GBP); // A shop's usual currency skips the table.
        }
        iso_currency::Currency::from_code(code).map(|c| Currency(c.numeric()))
    }

    /// The currency with this numeric code, if ISO 4217 lists it.
    pub fn from_numeric(numeric: u16) -> Option<Currency> {
        if numeric == Currency::GBP.0 {
            return Some(Currency::GBP);
        }
        iso_currency::Currency::from_numeric(numeric).map(|c| Currency(c.numeric()))
    }

    /// The ISO 4217 numeric code.
    pub fn numeric(self) -> u16 {
        self.0
    }

    /// How many decimal places its minor unit is from its major one. 0 where there is none.
    pub fn decimals(self) -> u32 {
        let currency = iso_currency::Currency::from_numeric(self.0);
        currency.and_then(|currency| currency.exponent()).map_or(0, u32::from)
    }

    /// The three-letter code.
    pub fn code(self) -> &'static str {
        match iso_currency::Currency::from_numeric(self.0) {
            Some(currency) => currency.code(),
            None => "XXX", // ISO 4217: no currency. Construction checks the table.
        }
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn currencies_are_those_of_iso_4217() {
        for code in ["GBP", "CNY", "EUR", "JPY", "USD"] {
            let currency = Currency::from_code(code).unwrap();
            assert_eq!(currency.code(), code);
            assert_eq!(Currency::from_numeric(currency.numeric()), Some(currency));
        }
        for code in ["gbp", "", "ABC", "GBPX"] {
            assert_eq!(Currency::from_code(code), None, "{code}");
        }
    }
}
