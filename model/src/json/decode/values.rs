//! The values that fields hold: integers with their ranges, ids, and words of closed sets.

use super::*;

/// A struct given as an object. Derived code alone would take an array of its fields, too.
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Object<T>, D::Error> {
        struct Fields<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(de::value::MapAccessDeserializer::new(map))
            }
        }
        json.deserialize_any(Fields(std::marker::PhantomData)).map(Object)
    }
}

pub(super) fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    json: D,
) -> Result<T, D::Error> {
    Object::deserialize(json).map(|Object(value)| value)
}

/// An array of 1 to [`BATCH_MAX`].
pub(super) struct Some1<T>(pub(super) Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Some1<T> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Some1<T>, D::Error> {
        struct Values<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Values<T> {
            type Value = Vec<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
                let mut values = Vec::new();
                while let Some(Object(value)) = seq.next_element()? {
                    within_batch(values.len() + 1)?;
                    values.push(value);
                }
                not_empty(values.len())?;
                Ok(values)
            }
        }
        json.deserialize_any(Values(std::marker::PhantomData)).map(Some1)
    }
}

impl TimeMs {
    pub(super) fn time(&self) -> Time {
        Time(self.0 * 1_000) // The range is far below where this would overflow.
    }
}

/// What only its party's key opens.
pub(super) struct PrivateText(pub(super) String);

impl<'de> Deserialize<'de> for PrivateText {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<PrivateText, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = PrivateText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a string of 1 to {PRIVATE_TEXT_MAX} bytes")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<PrivateText, E> {
                match text.len() {
                    1..=PRIVATE_TEXT_MAX => Ok(PrivateText(text.to_string())),
                    length => Err(E::invalid_length(length, &self)),
                }
            }
        }
        json.deserialize_any(Text)
    }
}

/// Declares an integer with its range, given as a number or a string of digits.
macro_rules! ranged {
    ($($(#[$attr:meta])* $name:ident($low:expr, $high:expr),)*) => {$(
        $(#[$attr])*
        pub(super) struct $name(pub(super) u64);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(json: D) -> Result<$name, D::Error> {
                json.deserialize_any(Integer { low: $low, high: $high }).map($name)
            }
        }
    )*};
}

ranged! {
    PartyId(1, u64::MAX),
    Word(0, u64::MAX),
    Units(1, Quantity::MAX.0 as u64),
    LineNumber(0, LINES_MAX as u64 - 1),
    LegNumber(0, LEGS_MAX as u64 - 1),
    #[derive(Default)]
    Money(0, Amount::MAX.0),
    MoneyMoved(1, Amount::MAX.0),
    #[derive(Default)]
    TimeMs(0, Time::MAX.0 / 1_000),
    #[derive(Default)]
    Limit(0, Quantity::MAX.0 as u64),
    #[derive(Default)]
    Stock(0, STOCK_MAX),
    StockAdded(1, STOCK_MAX),
}

pub(super) struct Integer {
    low: u64,
    high: u64,
}

impl Integer {
    fn check<E: de::Error>(&self, value: u64) -> Result<u64, E> {
        match (self.low..=self.high).contains(&value) {
            true => Ok(value),
            false => Err(E::custom(format_args!("{value} is not {}", self.range()))),
        }
    }

    fn range(&self) -> String {
        format!("an integer from {} to {}", self.low, self.high)
    }
}

impl Visitor<'_> for Integer {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.range())
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<u64, E> {
        self.check(value)
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<u64, E> {
        match u64::try_from(value) {
            Ok(value) => self.check(value),
            Err(_) => Err(E::custom(format_args!("{value} is not {}", self.range()))),
        }
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<u64, E> {
        // `parse` alone would take a plus sign.
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse() {
            Ok(value) if digits => self.check(value),
            _ => Err(E::custom(format_args!("{text:?} is not {}", self.range()))),
        }
    }
}

/// A UUID in its hyphenated form, not nil.
pub(super) struct Id(pub(super) u128);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Id, D::Error> {
        words(json, "a UUID such as 01890a5d-ac96-774b-bcce-b302099a8057", |text| {
            parse_uuid(text).map(Id)
        })
    }
}

/// A hyphenated UUID that isn't nil, as a number.
pub fn parse_uuid(text: &str) -> Option<u128> {
    if text.len() != 36 {
        return None;
    }
    let id = uuid::Uuid::try_parse_ascii(text.as_bytes()).ok()?.as_u128();
    (id != 0).then_some(id)
}

pub(super) struct CurrencyCode(pub(super) Currency);

impl<'de> Deserialize<'de> for CurrencyCode {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<CurrencyCode, D::Error> {
        words(json, "an ISO 4217 code such as GBP", |text| {
            Currency::from_code(text).map(CurrencyCode)
        })
    }
}

pub(super) struct Payment(pub(super) PaymentMethod);

impl<'de> Deserialize<'de> for Payment {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Payment, D::Error> {
        words(json, "`balance`, `external` or `await`", |text| {
            let method = PaymentMethod::from_word(text);
            method.filter(|method| *method != PaymentMethod::Coupon).map(Payment)
        })
    }
}

/// How a payment leg is paid.
pub(super) struct LegMethod(pub(super) PaymentMethod);

impl<'de> Deserialize<'de> for LegMethod {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<LegMethod, D::Error> {
        words(json, "`balance`, `external`, `coupon` or `await`", |text| {
            PaymentMethod::from_word(text).map(LegMethod)
        })
    }
}

/// What a line is for, where it isn't goods.
pub(super) struct ChargeKind(pub(super) LineKind);

impl<'de> Deserialize<'de> for ChargeKind {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<ChargeKind, D::Error> {
        words(json, "`goods`, `shipping`, `tax` or `fee`", |text| {
            LineKind::from_word(text).map(ChargeKind)
        })
    }
}

/// How an order that waits is paid.
pub(super) struct PaymentNow(pub(super) PaymentMethod);

impl<'de> Deserialize<'de> for PaymentNow {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<PaymentNow, D::Error> {
        words(json, "`balance` or `external`", |text| {
            let now = [PaymentMethod::Balance, PaymentMethod::External];
            let method = PaymentMethod::from_word(text);
            method.filter(|method| now.contains(method)).map(PaymentNow)
        })
    }
}

/// An account of a transfer. What sellers have earned leaves `payable` by sweeps alone.
pub(super) struct Kind(pub(super) AccountKind);

impl Default for Kind {
    fn default() -> Kind {
        Kind(AccountKind::Main)
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Kind, D::Error> {
        words(json, "`main`, `settlement`, `suspense` or `clearing`", |text| {
            let kind = AccountKind::from_word(text);
            kind.filter(|kind| kind.is_own() || *kind == AccountKind::Clearing).map(Kind)
        })
    }
}

/// A string that `parse` understands.
pub(super) fn words<'de, D: Deserializer<'de>, T>(
    json: D,
    expected: &'static str,
    parse: fn(&str) -> Option<T>,
) -> Result<T, D::Error> {
    struct Words<T> {
        expected: &'static str,
        parse: fn(&str) -> Option<T>,
    }
    impl<T> Visitor<'_> for Words<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.expected)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            (self.parse)(text)
                .ok_or_else(|| E::custom(format_args!("{text:?} is not {}", self.expected)))
        }
    }
    json.deserialize_any(Words { expected, parse })
}
