//! From text to values: exact decimals, never through a float, and times.

use model::{Amount, Party, Quantity};

use super::{GUEST_FIRST, skip};

/// The customer that a field names, if it names one.
pub(super) fn customer(text: &str) -> Result<Option<Party>, &'static str> {
    if text.is_empty() {
        return Ok(None);
    }
    decimal(text, 0)
        .ok()
        .and_then(|id| u64::try_from(id).ok())
        .filter(|id| (1..GUEST_FIRST.0).contains(id)) // 0 is the platform.
        .map(|id| Some(Party(id)))
        .ok_or(skip::CUSTOMER_UNREADABLE)
}

pub(super) fn sold_quantity(text: &str) -> Result<Quantity, &'static str> {
    match quantity(text)? {
        ..=0 => Err(skip::QUANTITY_NOT_POSITIVE),
        units => quantity_within_bound(units).map(Quantity),
    }
}

/// The units that a return's negative quantity takes back.
pub(super) fn returned_quantity(text: &str) -> Result<u32, &'static str> {
    match quantity(text)? {
        0.. => Err(skip::RETURN_NOT_NEGATIVE),
        units => quantity_within_bound(-units),
    }
}

fn quantity(text: &str) -> Result<i64, &'static str> {
    decimal(text, 0).map_err(|fault| match fault {
        NumberFault::Unreadable => skip::QUANTITY_UNREADABLE,
        NumberFault::NotWhole => skip::QUANTITY_NOT_WHOLE,
    })
}

fn quantity_within_bound(units: i64) -> Result<u32, &'static str> {
    match u32::try_from(units) {
        Ok(units) if units <= Quantity::MAX.0 => Ok(units),
        _ => Err(skip::QUANTITY_TOO_LARGE),
    }
}

pub(super) fn unit_price(text: &str) -> Result<Amount, &'static str> {
    let pence = decimal(text, 2).map_err(|fault| match fault {
        NumberFault::Unreadable => skip::PRICE_UNREADABLE,
        NumberFault::NotWhole => skip::PRICE_NOT_WHOLE_PENCE,
    })?;
    match u64::try_from(pence) {
        Ok(pence) if pence <= Amount::MAX.0 => Ok(Amount(pence)),
        Ok(_) => Err(skip::PRICE_TOO_LARGE),
        Err(_) => Err(skip::PRICE_NEGATIVE),
    }
}

#[derive(PartialEq, Eq, Debug)]
enum NumberFault {
    Unreadable,
    NotWhole,
}

/// The decimal number in `text` times 10^`places`, exactly, if that is whole: `2.55` with 2 places
/// is 255, and so are `2.5500` and `0.255e1`.
///
/// What is above `i64::MAX` gives that, and below `-i64::MAX` likewise; every bound is far inside.
fn decimal(text: &str, places: i64) -> Result<i64, NumberFault> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, decimal_exponent(exponent)?),
        None => (text, 0),
    };
    let (negative, digits) = match mantissa.as_bytes() {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };

    // The number is value * 10^(zeros - fraction), where value ends in no zero.
    let mut value = 0u64;
    let mut zeros = 0i64;
    let mut fraction = None;
    let mut any = false;
    for &byte in digits {
        match byte {
            b'.' if fraction.is_none() => {
                fraction = Some(0i64);
                continue;
            }
            b'0' => zeros += 1,
            b'1'..=b'9' => {
                let digit = u64::from(byte - b'0');
                value = times_power_of_ten(value, zeros + 1).saturating_add(digit);
                zeros = 0;
            }
            _ => return Err(NumberFault::Unreadable),
        }
        any = true;
        fraction = fraction.map(|digits| digits + 1);
    }
    if !any {
        return Err(NumberFault::Unreadable);
    }
    if value == 0 {
        return Ok(0);
    }
    let power = zeros + places + exponent - fraction.unwrap_or(0);
    if power < 0 {
        return Err(NumberFault::NotWhole);
    }
    let whole = i64::try_from(times_power_of_ten(value, power)).unwrap_or(i64::MAX);
    Ok(if negative { -whole } else { whole })
}

/// What follows the `e` of a number. Beyond ±10¹⁵ it stays there: no text is long enough to bring
/// such a number back to where the difference would show.
fn decimal_exponent(text: &str) -> Result<i64, NumberFault> {
    const EXPONENT_MAX: i64 = 1_000_000_000_000_000;
    let (sign, digits) = match text.as_bytes() {
        [b'-', digits @ ..] => (-1, digits),
        [b'+', digits @ ..] => (1, digits),
        digits => (1, digits),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(NumberFault::Unreadable);
    }
    let size =
        digits.iter().fold(0, |n, digit| (n * 10 + i64::from(digit - b'0')).min(EXPONENT_MAX));
    Ok(sign * size)
}

/// `value * 10^power`, or `u64::MAX` if that is less.
fn times_power_of_ten(value: u64, power: i64) -> u64 {
    if value == 0 {
        return 0;
    }
    u32::try_from(power)
        .ok()
        .and_then(|power| 10u64.checked_pow(power))
        .map_or(u64::MAX, |factor| value.saturating_mul(factor))
}

/// The seconds from 1970-01-01 00:00:00 to the time `YYYY-MM-DD HH:MM:SS`, if it is one.
pub(super) fn unix_seconds(text: &str) -> Option<u64> {
    const SHAPE: &[u8] = b"0000-00-00 00:00:00";
    let text = text.as_bytes();
    let same = |(byte, shape): (&u8, &u8)| match shape {
        b'0' => byte.is_ascii_digit(),
        _ => byte == shape,
    };
    if text.len() != SHAPE.len() || !text.iter().zip(SHAPE).all(same) {
        return None;
    }
    let number = |from: usize, digits: usize| {
        text[from..from + digits].iter().fold(0, |n, digit| n * 10 + u64::from(digit - b'0'))
    };
    let (year, month, day) = (number(0, 4), number(5, 2), number(8, 2));
    let (hour, minute, second) = (number(11, 2), number(14, 2), number(17, 2));

    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let february = if leap { 29 } else { 28 };
    let month_days = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let month_index = usize::try_from(month).ok()?.checked_sub(1)?;
    let days_max = *month_days.get(month_index)?;
    if year < 1970 || !(1..=days_max).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let leap_days_to = |year: u64| year / 4 - year / 100 + year / 400;
    let days = 365 * (year - 1970) + leap_days_to(year - 1) - leap_days_to(1969)
        + month_days[..month_index].iter().sum::<u64>()
        + day
        - 1;
    Some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_read_exactly() {
        use NumberFault::{NotWhole, Unreadable};
        let table: &[(&str, i64, Result<i64, NumberFault>)] = &[
            ("2.55", 2, Ok(255)),
            ("2.5", 2, Ok(250)),
            ("2.5500", 2, Ok(255)),
            ("2", 2, Ok(200)),
            ("2.", 2, Ok(200)),
            (".5", 2, Ok(50)),
            ("+0.29", 2, Ok(29)), // As a double times 100 this is 28.999…
            ("-11062.06", 2, Ok(-1_106_206)),
            ("-0.0", 2, Ok(0)),
            ("0.001", 2, Err(NotWhole)),
            ("1e-3", 2, Err(NotWhole)),
            ("1e-2", 2, Ok(1)),
            ("1.0e+05", 2, Ok(10_000_000)),
            ("0.255E1", 2, Ok(255)),
            ("255000e-5", 2, Ok(255)),
            ("6.0", 0, Ok(6)),
            ("6.5", 0, Err(NotWhole)),
            ("-74215.0", 0, Ok(-74_215)),
            ("0e-99999999999999999999", 0, Ok(0)),
            ("1e-99999999999999999999", 0, Err(NotWhole)),
            ("1e99999999999999999999", 0, Ok(i64::MAX)),
            ("-1e99", 0, Ok(-i64::MAX)),
            ("9223372036854775807", 0, Ok(i64::MAX)),
            ("100000000000000000000000000000000", 0, Ok(i64::MAX)),
            ("100000000000000000000000000000000e-30", 0, Ok(100)),
            ("12345678901234567890123456789e-28", 0, Err(NotWhole)),
            ("0.00000000000000000000000000000001e32", 0, Ok(1)),
            ("", 0, Err(Unreadable)),
            (".", 0, Err(Unreadable)),
            ("-", 0, Err(Unreadable)),
            ("e5", 0, Err(Unreadable)),
            ("1e", 0, Err(Unreadable)),
            ("1e+", 0, Err(Unreadable)),
            ("1e5.0", 0, Err(Unreadable)),
            ("1e5e5", 0, Err(Unreadable)),
            ("1.2.3", 0, Err(Unreadable)),
            ("--1", 0, Err(Unreadable)),
            ("1,000", 0, Err(Unreadable)),
            (" 1", 0, Err(Unreadable)),
            ("NA", 0, Err(Unreadable)),
            ("inf", 0, Err(Unreadable)),
            ("0x10", 0, Err(Unreadable)),
            ("١", 0, Err(Unreadable)),
        ];
        for (text, places, number) in table {
            assert_eq!(decimal(text, *places), *number, "{text} with {places} places");
        }
    }

    #[test]
    fn dates_are_days_of_the_calendar() {
        let table = [
            ("1970-01-01 00:00:00", Some(0)),
            ("1999-12-31 23:59:59", Some(946_684_799)),
            ("2000-02-29 00:00:00", Some(951_782_400)),
            ("2000-03-01 00:00:00", Some(951_868_800)),
            ("2010-12-01 08:26:00", Some(1_291_191_960)),
            ("2024-12-31 00:00:00", Some(1_735_603_200)),
            ("2100-03-01 00:00:00", Some(4_107_542_400)),
            ("9999-12-31 23:59:59", Some(253_402_300_799)),
            ("1969-12-31 23:59:59", None),
            ("2100-02-29 00:00:00", None),
            ("2011-02-29 00:00:00", None),
            ("2011-04-31 00:00:00", None),
            ("2011-00-01 00:00:00", None),
            ("2011-13-01 00:00:00", None),
            ("2011-01-00 00:00:00", None),
            ("2011-01-01 24:00:00", None),
            ("2011-01-01 00:60:00", None),
            ("2011-01-01 00:00:60", None),
            ("2011-01-01T00:00:00", None),
            ("2011-01-01", None),
            ("2011-01-01 00:00:00 ", None),
            ("12/1/2010 8:26", None),
            ("", None),
        ];
        for (text, seconds) in table {
            assert_eq!(unix_seconds(text), seconds, "{text}");
        }
    }
}
