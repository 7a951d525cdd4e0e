//! What buyers do in a drill: a function of the seed and the order's number, so that nothing
//! about an order needs to be kept but its outcome. Millions of buyers cost nothing but their
//! accounts on the platform.

mod ids;
mod random;
mod settings;

use std::time::Duration;

use model::{ItemId, Party};

use crate::baskets::Discrete;

pub use ids::RunId;
pub use random::Random;
pub(crate) use random::{Zipf, mix};
pub use settings::{Requests, Settings, SettingsError, Shape, built_in, names, parse_time};

/// Lines per order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lines {
    /// 1 to 4, each as often.
    Mix,
    /// Always so many.
    Fixed(u16),
}

impl Lines {
    /// As weights.
    pub fn weights(self) -> Discrete {
        let points: Vec<_> = match self {
            Lines::Mix => (1..=4).map(|lines| (lines, 1.0)).collect(),
            Lines::Fixed(lines) => vec![(u32::from(lines), 1.0)],
        };
        Discrete::new(&points).expect("the weights are positive")
    }
}

/// The population and the habits of a drill.
#[derive(Clone, Debug)]
pub struct Profile {
    settings: Settings,
    popularity: Zipf,
}

/// How an order is paid, and what happens to it later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fate {
    /// How it is paid.
    pub payment: Payment,
    /// What follows, if it was accepted.
    pub then: Option<Then>,
    /// How long after the order was due.
    pub after: Duration,
}

/// How an order is paid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Payment {
    /// From the buyer's account.
    Balance,
    /// Outside; a provider has confirmed it.
    External,
    /// Later, or never.
    Await,
}

impl Payment {
    /// As the interface names it.
    pub fn word(self) -> &'static str {
        match self {
            Payment::Balance => "balance",
            Payment::External => "external",
            Payment::Await => "await",
        }
    }
}

/// What follows an order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Then {
    /// It is paid.
    Pay,
    /// It is cancelled, unpaid.
    Cancel,
    /// All of it is refunded.
    Refund,
    /// The client sends it a second time.
    Repeat,
}

/// Money that each buyer starts with unless the profile says otherwise, in pence.
pub const BUYER_BALANCE: u64 = 10_000_000_000;
/// Units that each item starts with unless the profile says otherwise.
pub const ITEM_STOCK: u64 = 1_000_000_000;
/// Sellers, who share the items evenly.
pub const SELLERS: u64 = 1_000;
/// Sellers' parties follow the largest possible buyer.
const SELLER_FIRST: u64 = 1 << 40;

impl Profile {
    /// `buyers` parties from 1 on who pay from their balance, `items` from 1 on with Zipf
    /// popularity (exponent 1).
    pub fn new(buyers: u64, items: u64, lines: Lines, seed: u64) -> Profile {
        let mut settings = Settings { seed, ..Settings::default() };
        settings.buyers.count = buyers;
        settings.items.count = items;
        settings.basket.lines = lines.weights();
        Profile::of(settings)
    }

    /// Of settings that were checked.
    pub fn of(settings: Settings) -> Profile {
        let popularity = Zipf::new(settings.items.count as usize, settings.seed);
        Profile { settings, popularity }
    }

    /// What it was made of.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// How many buyers there are.
    pub fn buyers(&self) -> u64 {
        self.settings.buyers.count
    }

    /// How many items there are, with those of a flash sale, which come last.
    pub fn items(&self) -> u64 {
        self.settings.items.count + self.settings.flash.as_ref().map_or(0, |flash| flash.count)
    }

    /// Units that an item begins with.
    pub fn stock(&self, item: ItemId) -> u64 {
        match &self.settings.flash {
            Some(flash) if item.0 > self.settings.items.count => flash.stock,
            _ => self.settings.items.stock,
        }
    }

    /// Money that every buyer begins with, in pence.
    pub fn balance(&self) -> u64 {
        self.settings.buyers.balance
    }

    /// The list price of an item, in pence: 1.00 to 100.99.
    pub fn price(&self, item: ItemId) -> u64 {
        100 + mix(item.0) % 10_000
    }

    /// Who sells an item.
    pub fn seller(&self, item: ItemId) -> Party {
        Party(SELLER_FIRST + item.0 % SELLERS)
    }

    /// Who places order `n`.
    pub fn buyer(&self, n: u64) -> Party {
        self.order(n).buyer
    }

    /// Order `n`.
    pub fn order(&self, n: u64) -> OrderSketch<'_> {
        let mut random = Random(mix(self.settings.seed ^ mix(n)));
        let buyers = &self.settings.buyers;
        let buyer = match buyers.once {
            true => Party(1 + n % buyers.count),
            false => Party(1 + random.below(buyers.count)),
        };
        let lines = self.settings.basket.lines.sample(&mut random);
        OrderSketch { buyer, left: lines, random, profile: self }
    }

    /// How order `n` is paid, and what becomes of it.
    pub fn fate(&self, n: u64) -> Fate {
        let (payment, then) = (&self.settings.payment, &self.settings.afterwards);
        if payment.external + payment.wait + then.refund + then.repeat == 0.0 {
            return Fate { payment: Payment::Balance, then: None, after: Duration::ZERO };
        }
        let mut random = Random(mix(self.settings.seed ^ mix(n ^ FATES)));
        let draw = random.unit();
        let payment = if draw < payment.external {
            Payment::External
        } else if draw < payment.external + payment.wait {
            Payment::Await
        } else {
            Payment::Balance
        };
        let draw = random.unit();
        let choices = match payment {
            Payment::Await => [(Then::Pay, then.pay), (Then::Cancel, then.cancel)],
            _ => [(Then::Refund, then.refund), (Then::Repeat, then.repeat)],
        };
        let mut below = 0.0;
        let then = choices.into_iter().find_map(|(then, share)| {
            below += share;
            (draw < below).then_some(then)
        });
        Fate { payment, then, after: self.settings.afterwards.within.mul_f64(random.unit()) }
    }

    /// The item that visitor `n` looks at.
    pub fn looked_at(&self, n: u64) -> ItemId {
        let mut random = Random(mix(self.settings.seed ^ mix(n ^ VISITS)));
        ItemId(1 + u64::from(self.popularity.sample(&mut random)))
    }

    /// Chance of its own for request `n`.
    pub fn chance(&self, n: u64) -> Random {
        Random(mix(self.settings.seed ^ mix(n ^ REQUESTS)))
    }
}

/// What tells the sequences of one seed apart.
const FATES: u64 = 0x6661_7465 << 32;
const VISITS: u64 = 0x7669_7369 << 32;
const REQUESTS: u64 = 0x7265_7175 << 32;

/// One order: its buyer, and its lines one after the other.
pub struct OrderSketch<'a> {
    /// Who places it.
    pub buyer: Party,
    left: u32,
    random: Random,
    profile: &'a Profile,
}

impl Iterator for OrderSketch<'_> {
    /// Item and quantity.
    type Item = (ItemId, u32);

    fn next(&mut self) -> Option<(ItemId, u32)> {
        self.left = self.left.checked_sub(1)?;
        let settings = &self.profile.settings;
        let random = &mut self.random;
        if let Some(flash) = &settings.flash
            && random.unit() < flash.share
        {
            // One unit: everybody wants one.
            return Some((ItemId(1 + settings.items.count + random.below(flash.count)), 1));
        }
        let item = self.profile.popularity.sample(random);
        let quantity = settings.basket.quantity.sample(random);
        Some((ItemId(1 + u64::from(item)), quantity))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_orders() {
        let order = |seed, n| {
            let profile = Profile::new(1000, 50, Lines::Mix, seed);
            let sketch = profile.order(n);
            (sketch.buyer, sketch.collect::<Vec<_>>(), profile.fate(n))
        };
        assert_eq!(order(1, 7), order(1, 7));
        assert_ne!(order(1, 7), order(2, 7));
        assert_ne!(order(1, 7), order(1, 8));
    }

    #[test]
    fn in_a_sale_everybody_orders_once() {
        let mut settings = built_in("flash-sale").unwrap().unwrap();
        settings.buyers.count = 5_000;
        assert!(settings.is_sale());
        assert_eq!(settings.pace(), crate::Pace::Count(5_000));
        let profile = Profile::of(settings);
        let mut buyers: Vec<u64> = (0..5_000).map(|n| profile.buyer(n).0).collect();
        buyers.sort_unstable();
        assert!(buyers.into_iter().eq(1..=5_000));
        assert!((0..5_000).all(|n| profile.order(n).map(|(_, units)| units).eq([1])));
    }

    #[test]
    fn fates_have_their_shares() {
        let mut settings = built_in("singles-day").unwrap().unwrap();
        settings.payment.external = 0.2;
        settings.payment.wait = 0.1;
        settings.afterwards.pay = 0.5;
        settings.afterwards.cancel = 0.25;
        let profile = Profile::of(settings);
        const ORDERS: u64 = 200_000;
        let share = |wanted: &dyn Fn(Fate) -> bool| {
            (0..ORDERS).filter(|&n| wanted(profile.fate(n))).count() as f64 / ORDERS as f64
        };
        let near = |found: f64, share: f64| {
            // Five standard deviations of a binomial share.
            let off = 5.0 * (share * (1.0 - share) / ORDERS as f64).sqrt();
            assert!((found - share).abs() < off, "{found} instead of {share}");
        };
        near(share(&|fate| fate.payment == Payment::External), 0.2);
        near(share(&|fate| fate.then == Some(Then::Pay)), 0.05);
        near(share(&|fate| fate.then == Some(Then::Cancel)), 0.025);
    }
}
