//! A profile as it is written down, in TOML. `docs/profiles.md` documents every field.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use crate::baskets::Discrete;
use crate::engine::Pace;
use crate::profile::{BUYER_BALANCE, ITEM_STOCK, Lines};
use crate::schedule::{Arrivals, Schedule, Stage};
use crate::threshold::Threshold;

/// Profiles that come with the program.
const BUILT_IN: [(&str, &str); 4] = [
    ("default", include_str!("../../profiles/default.toml")),
    ("singles-day", include_str!("../../profiles/singles-day.toml")),
    ("flash-sale", include_str!("../../profiles/flash-sale.toml")),
    ("soak", include_str!("../../profiles/soak.toml")),
];

/// Why a profile can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// There is no such file, and no profile of that name comes with the program.
    #[error("{name:?} is neither a file nor one of {}: {source}", names().join(", "))]
    Missing {
        /// What was asked for.
        name: String,
        /// What reading it as a file said.
        source: std::io::Error,
    },
    /// It is no profile.
    #[error("{name}: {source}")]
    Syntax {
        /// Which.
        name: String,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A field is out of its range.
    #[error("{name}: {field} is {found}; it must be {wanted}")]
    Range {
        /// Which profile.
        name: String,
        /// Which field.
        field: &'static str,
        /// What it says.
        found: String,
        /// What it may say.
        wanted: &'static str,
    },
}

/// The names of the profiles that come with the program.
pub fn names() -> Vec<&'static str> {
    BUILT_IN.iter().map(|(name, _)| *name).collect()
}

/// A profile that comes with the program; `None` if there is none of that name.
pub fn built_in(name: &str) -> Option<Result<Settings, SettingsError>> {
    let (_, text) = BUILT_IN.iter().find(|(known, _)| *known == name)?;
    Some(Settings::parse(name, text))
}

/// A whole profile.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// What it is called; the file's name unless it says so itself.
    #[serde(default)]
    pub name: String,
    /// What it stands for, in a sentence.
    #[serde(default)]
    pub about: String,
    /// The same seed makes the same orders, in the same order, at the same times. Default 1.
    #[serde(default = "one")]
    pub seed: u64,
    /// Who buys.
    #[serde(default)]
    pub buyers: Buyers,
    /// What is sold.
    #[serde(default)]
    pub items: Items,
    /// Items that sell out. Default: none.
    pub flash: Option<Flash>,
    /// What is in an order.
    #[serde(default)]
    pub basket: Basket,
    /// How orders are paid.
    #[serde(default)]
    pub payment: Payments,
    /// What happens to orders later.
    #[serde(default)]
    pub afterwards: Afterwards,
    /// Requests beside those that place orders.
    #[serde(default)]
    pub besides: Besides,
    /// How requests are sent.
    #[serde(default)]
    pub requests: Requests,
    /// When orders are due.
    #[serde(default)]
    pub shape: Shape,
    /// What must hold for a pass. Default: that nothing failed and the audit is ok.
    #[serde(default)]
    pub thresholds: Vec<Threshold>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            name: String::new(),
            about: String::new(),
            seed: 1,
            buyers: Buyers::default(),
            items: Items::default(),
            flash: None,
            basket: Basket::default(),
            payment: Payments::default(),
            afterwards: Afterwards::default(),
            besides: Besides::default(),
            requests: Requests::default(),
            shape: Shape::default(),
            thresholds: Vec::new(),
        }
    }
}

/// Who buys.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Buyers {
    /// Buyers, each with an account: 1 to 10⁹. Default 1,000,000.
    pub count: u64,
    /// Money in each account, in pence. Default 10¹⁰.
    pub balance: u64,
    /// They order in turn: each once before anybody orders again. In a closed loop the load ends
    /// when all have their answers. Default: whoever orders is drawn.
    pub once: bool,
}

impl Default for Buyers {
    fn default() -> Buyers {
        Buyers { count: 1_000_000, balance: BUYER_BALANCE, once: false }
    }
}

/// What is sold.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Items {
    /// Items, of Zipf popularity (exponent 1): 1 to 10⁸. Default 100,000.
    pub count: u64,
    /// Units of each. Default 10⁹.
    pub stock: u64,
}

impl Default for Items {
    fn default() -> Items {
        Items { count: 100_000, stock: ITEM_STOCK }
    }
}

/// Items that sell out.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flash {
    /// How many: 1 to 10⁶. They come beside the others.
    pub count: u64,
    /// Units of each.
    pub stock: u64,
    /// The share of all lines that ask for one unit of one of them: 0 to 1.
    pub share: f64,
}

/// What is in an order.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Basket {
    /// Lines, 1 to 2,000, each with its weight. Default 1 to 4, each as often.
    pub lines: Discrete,
    /// Units of a line, 1 to 10⁶, each with its weight. Default 1 to 3, each as often.
    pub quantity: Discrete,
}

impl Default for Basket {
    fn default() -> Basket {
        let quantity = Discrete::new(&[(1, 1.0), (2, 1.0), (3, 1.0)]);
        let quantity = quantity.expect("the weights are positive");
        Basket { lines: Lines::Mix.weights(), quantity }
    }
}

/// How orders are paid: shares of all orders. The rest pays from the buyer's balance.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Payments {
    /// Paid outside.
    pub external: f64,
    /// Placed unpaid.
    #[serde(rename = "await")]
    pub wait: f64,
}

/// What happens to orders later.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Afterwards {
    /// The share of unpaid orders that are paid.
    pub pay: f64,
    /// The share of unpaid orders that are cancelled.
    pub cancel: f64,
    /// The share of paid orders that are refunded whole.
    pub refund: f64,
    /// The share of paid orders that are sent a second time by a client that can't know better.
    pub repeat: f64,
    /// It happens so long after the order was due, at most; evenly spread. Default 5 s.
    #[serde(deserialize_with = "time")]
    pub within: Duration,
    /// Unpaid orders expire so long after they were made. Default: never, and what nobody pays or
    /// cancels stays reserved.
    #[serde(deserialize_with = "some_time")]
    pub expire: Option<Duration>,
}

impl Default for Afterwards {
    fn default() -> Afterwards {
        let within = Duration::from_secs(5);
        Afterwards { pay: 0.0, cancel: 0.0, refund: 0.0, repeat: 0.0, within, expire: None }
    }
}

/// Requests beside those that place orders, per order.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Besides {
    /// Items and accounts that are looked at.
    pub browse: f64,
    /// Requests that make no sense and must be refused.
    pub garbage: f64,
}

/// How requests are sent.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Requests {
    /// Orders per request, 1 to 10,000; with 1 they go to the path for single orders. Default
    /// 1,000.
    pub batch: u64,
    /// Open connections. Default 8.
    pub connections: usize,
    /// Threads of the generator. Default 1.
    pub threads: usize,
}

impl Default for Requests {
    fn default() -> Requests {
        Requests { batch: 1_000, connections: 8, threads: 1 }
    }
}

/// When orders are due.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Shape {
    /// How arrivals lie around the rate: `even` (the default) or `poisson`.
    pub arrivals: Arrivals,
    /// Stages, one after the other. Default: none, which is a closed loop.
    pub stages: Vec<Piece>,
    /// How long, in a closed loop. Default 20 s.
    #[serde(deserialize_with = "some_time")]
    pub max: Option<Duration>,
}

/// A stage of a shape.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Piece {
    /// What it is; for people.
    #[serde(default)]
    pub name: String,
    /// How long it takes.
    #[serde(rename = "for", deserialize_with = "time")]
    pub time: Duration,
    /// Orders a second when it ends.
    pub rate: f64,
    /// Orders a second when it begins; default: the same.
    pub from: Option<f64>,
}

impl Shape {
    /// How long a closed loop goes on unless something else is said.
    pub const MAX: Duration = Duration::from_secs(20);

    fn schedule(&self, seed: u64) -> Schedule {
        let stage = |piece: &Piece| Stage {
            from: piece.from.unwrap_or(piece.rate),
            to: piece.rate,
            time: piece.time,
        };
        let stages = self.stages.iter().map(stage).collect();
        Schedule { stages, arrivals: self.arrivals, seed }
    }
}

impl Settings {
    /// One that comes with the program, or a file.
    pub fn find(name: &str) -> Result<Settings, SettingsError> {
        if let Some(found) = built_in(name) {
            return found;
        }
        match std::fs::read_to_string(name) {
            Ok(text) => {
                let stem = Path::new(name).file_stem().unwrap_or_default().to_string_lossy();
                Settings::parse(&stem, &text)
            }
            Err(source) => Err(SettingsError::Missing { name: name.to_string(), source }),
        }
    }

    /// From text.
    pub fn parse(name: &str, text: &str) -> Result<Settings, SettingsError> {
        let wrong =
            |source| SettingsError::Syntax { name: name.to_string(), source: Box::new(source) };
        let mut settings: Settings = toml::from_str(text).map_err(wrong)?;
        if settings.name.is_empty() {
            settings.name = name.to_string();
        }
        settings.check()?;
        Ok(settings)
    }

    /// When orders are due.
    pub fn pace(&self) -> Pace {
        match self.shape.stages.is_empty() {
            false => Pace::Schedule(self.shape.schedule(self.seed)),
            true if self.buyers.once => Pace::Count(self.buyers.count),
            true => Pace::Max(self.shape.max.unwrap_or(Shape::MAX)),
        }
    }

    /// Whether it is a sale and nothing else: every buyer wants one unit of one of its items, once,
    /// and nothing comes back.
    pub fn is_sale(&self) -> bool {
        let Payments { wait, .. } = self.payment;
        self.buyers.once
            && self.flash.as_ref().is_some_and(|flash| flash.share == 1.0)
            && self.basket.lines.values() == [1]
            && wait + self.afterwards.refund + self.besides.browse + self.besides.garbage == 0.0
    }

    /// Checks every range.
    pub fn check(&self) -> Result<(), SettingsError> {
        let range = |ok: bool, field, found: &dyn fmt::Display, wanted| match ok {
            true => Ok(()),
            false => {
                let name = self.name.clone();
                Err(SettingsError::Range { name, field, found: found.to_string(), wanted })
            }
        };
        let between = |value: u64, low: u64, high: u64| (low..=high).contains(&value);
        let share = |value: f64| (0.0..=1.0).contains(&value);
        let count = self.buyers.count;
        range(between(count, 1, 1_000_000_000), "buyers.count", &count, "1 to 1,000,000,000")?;
        let count = self.items.count;
        range(between(count, 1, 100_000_000), "items.count", &count, "1 to 100,000,000")?;
        if let Some(flash) = &self.flash {
            range(
                between(flash.count, 1, 1_000_000),
                "flash.count",
                &flash.count,
                "1 to 1,000,000",
            )?;
            range(share(flash.share), "flash.share", &flash.share, "a share from 0 to 1")?;
        }
        for (field, found) in [
            ("payment.external", self.payment.external),
            ("payment.await", self.payment.wait),
            ("payment.external + payment.await", self.payment.external + self.payment.wait),
            ("afterwards.pay", self.afterwards.pay),
            ("afterwards.cancel", self.afterwards.cancel),
            ("afterwards.pay + afterwards.cancel", self.afterwards.pay + self.afterwards.cancel),
            ("afterwards.refund", self.afterwards.refund),
            ("afterwards.repeat", self.afterwards.repeat),
            (
                "afterwards.refund + afterwards.repeat",
                self.afterwards.refund + self.afterwards.repeat,
            ),
        ] {
            range(share(found), field, &found, "a share from 0 to 1")?;
        }
        for (field, found) in
            [("besides.browse", self.besides.browse), ("besides.garbage", self.besides.garbage)]
        {
            range((0.0..=100.0).contains(&found), field, &found, "0 to 100 requests per order")?;
        }
        let (within, expire) = (self.afterwards.within, self.afterwards.expire);
        range(
            expire.is_none_or(|expire| expire > within),
            "afterwards.expire",
            &format_args!("{:?}", expire.unwrap_or_default()),
            "longer than afterwards.within",
        )?;
        let lines = self.basket.lines.values();
        let worst = lines.iter().copied().find(|&lines| !between(lines.into(), 1, 2_000));
        range(worst.is_none(), "basket.lines", &worst.unwrap_or(0), "1 to 2,000")?;
        let units = self.basket.quantity.values();
        let worst = units.iter().copied().find(|&units| !between(units.into(), 1, 1_000_000));
        range(worst.is_none(), "basket.quantity", &worst.unwrap_or(0), "1 to 1,000,000")?;
        let Requests { batch, connections, threads } = self.requests;
        range(between(batch, 1, 10_000), "requests.batch", &batch, "1 to 10,000")?;
        range(
            between(connections as u64, 1, 100_000),
            "requests.connections",
            &connections,
            "1 to 100,000",
        )?;
        let (buyers, whole) = (self.buyers.count, self.buyers.count.is_multiple_of(batch));
        range(
            !self.buyers.once || whole,
            "buyers.count",
            &buyers,
            "a multiple of requests.batch where each orders once",
        )?;
        range(between(threads as u64, 1, 256), "requests.threads", &threads, "1 to 256")?;
        for piece in &self.shape.stages {
            for rate in [piece.rate, piece.from.unwrap_or(0.0)] {
                range(
                    (0.0..=1e9).contains(&rate),
                    "shape.stages.rate",
                    &rate,
                    "0 to 10⁹ a second",
                )?;
            }
        }
        if let Pace::Schedule(schedule) = self.pace() {
            let expected = schedule.expected();
            range(expected >= 1.0, "shape.stages", &expected, "one order or more")?;
        }
        Ok(())
    }

    /// Orders per scheduled request, in the mean: the others place none.
    pub fn orders_per_request(&self) -> f64 {
        let others = self.besides.browse + self.besides.garbage;
        1.0 / (1.0 / self.requests.batch as f64 + others)
    }
}

fn one() -> u64 {
    1
}

/// A time such as 20s, 5m or 250ms.
pub fn parse_time(text: &str) -> Option<Duration> {
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let number: f64 = text[..split].trim().parse().ok()?;
    let seconds = match &text[split..] {
        "" | "s" => 1.0,
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    let seconds = number * seconds;
    (0.0..=7.0 * 86_400.0).contains(&seconds).then(|| Duration::from_secs_f64(seconds))
}

fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let wrong = || format!("{text:?} is not a time such as 250ms, 20s, 5m or 1h, up to 7 days");
    parse_time(&text).ok_or_else(|| serde::de::Error::custom(wrong()))
}

fn some_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    time(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_with_the_program_is_valid() {
        for name in names() {
            let settings = built_in(name).unwrap().unwrap();
            assert_eq!(settings.name, name);
            assert!(!settings.about.is_empty(), "{name}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let said = |text: &str| Settings::parse("x", text).unwrap_err().to_string();
        assert!(said("[buyers]\ncont = 5").contains("cont"));
        assert_eq!(
            said("[payment]\nexternal = 0.7\nawait = 0.7"),
            "x: payment.external + payment.await is 1.4; it must be a share from 0 to 1"
        );
        assert_eq!(
            said("[afterwards]\nwithin = \"2s\"\nexpire = \"1s\""),
            "x: afterwards.expire is 1s; it must be longer than afterwards.within"
        );
        assert!(said("[shape]\nmax = \"3 weeks\"").contains("is not a time"));
        let missing = Settings::find("no-such-profile").unwrap_err().to_string();
        assert!(missing.contains("singles-day"), "{missing}");
    }

    #[test]
    fn times_have_units() {
        assert_eq!(parse_time("1.5m"), Some(Duration::from_secs(90)));
        assert_eq!(parse_time("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(parse_time("20"), Some(Duration::from_secs(20)));
        assert_eq!(parse_time("-1s"), None);
        assert_eq!(parse_time("1 week"), None);
    }
}
