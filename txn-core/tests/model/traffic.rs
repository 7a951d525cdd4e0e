//! Traffic for a long run: many parties, items and orders, from one seed.

use model::money::STOCK_MAX;
use model::record::{Coupon, ItemUpdate, LINES_MAX, NewLeg, NewLine, Price, Sale, TimerKind};
use model::{
    AccountKind, Amount, ChangeId, Currency, ItemId, LineKind, OrderId, Party, PayStep, Quantity,
    Time,
};

use crate::command::{Command, START, STEP_MICROS, yen};

// So many of each that every index splits.
const BUYERS: u64 = 8_000;
const ITEMS: u64 = 8_000;
const SELLERS: u64 = 50;
/// Numbers of each buyer's coupons.
const COUPONS: u64 = 3;
/// Orders and changes that later steps look back at.
const RECENT_MAX: usize = 512;

/// An endless sequence of commands.
pub struct Traffic {
    random: SplitMix64,
    steps: u64,
    /// The time of the frame at hand.
    now: Time,
    /// What was asked for lately, overwritten in turn.
    recent: Vec<Command>,
    /// Buyer, id and number of lines of orders asked for lately.
    placed: Vec<(Party, OrderId, usize)>,
    /// Holds asked for lately.
    held: Vec<(Party, ChangeId)>,
}

/// G. L. Steele Jr. et al., "Fast splittable pseudorandom number generators", OOPSLA 2014.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

impl Traffic {
    pub fn new(seed: u64) -> Traffic {
        let random = SplitMix64(seed);
        let (recent, placed, held) = (Vec::new(), Vec::new(), Vec::new());
        Traffic { random, steps: 0, now: START, recent, placed, held }
    }

    /// The next batch: mostly small, sometimes more than a frame takes.
    pub fn batch(&mut self) -> Vec<Command> {
        let bound = if self.random.one_in(16) { 8_000 } else { 300 };
        (0..=self.random.below(bound)).map(|_| self.command()).collect()
    }

    /// Whether a frame ends here.
    pub fn ends_frame(&mut self) -> bool {
        self.random.one_in(3)
    }

    fn command(&mut self) -> Command {
        let command = self.decide();
        if self.recent.len() < RECENT_MAX {
            self.recent.push(command.clone());
        } else {
            self.recent[self.steps as usize % RECENT_MAX] = command.clone();
        }
        self.steps += 1;
        command
    }

    fn decide(&mut self) -> Command {
        if self.random.one_in(16) && !self.recent.is_empty() {
            let at = self.random.below(self.recent.len() as u64) as usize;
            if !matches!(self.recent[at], Command::Wait { .. }) {
                return self.recent[at].clone();
            }
        }
        // Accounts and items come first; the steps that repeat another leave a few out.
        let step = self.steps;
        match self.random.below(100) {
            _ if step < BUYERS => self.create_account(Party(1 + step), Currency::GBP),
            _ if step < BUYERS + ITEMS => self.create_item(ItemId(step - BUYERS)),
            0 if self.random.one_in(2) => self.empty_account(),
            0 => {
                let (buyer, currency) = (self.buyer(), self.currency());
                self.create_account(buyer, currency)
            }
            1 => {
                let item = self.item();
                self.create_item(item)
            }
            2..6 => self.transfer(),
            6 => self.issue_coupon(),
            7 => self.hold(),
            8 => self.settle_hold(),
            9 => self.update_account(),
            10..14 => self.restock(),
            14 => self.update_item(),
            15 => match self.random.below(8) {
                0 => self.timer(),
                1..5 => Command::Sweep { count: 1 + self.random.below(200) as u32 },
                _ => self.wait(),
            },
            16..20 => Command::Due,
            20..62 => self.place(),
            _ => self.change(),
        }
    }

    fn currency(&mut self) -> Currency {
        if self.random.one_in(20) { yen() } else { Currency::GBP }
    }

    fn buyer(&mut self) -> Party {
        Party(1 + self.random.below(BUYERS))
    }

    fn seller(&mut self) -> Party {
        // Sellers are buyers too.
        Party(1 + self.random.below(SELLERS))
    }

    fn item(&mut self) -> ItemId {
        // Every other look goes to the few items that everybody wants.
        let bound = if self.random.one_in(2) { 40 } else { ITEMS };
        ItemId(self.random.below(bound))
    }

    fn change_id(&mut self) -> ChangeId {
        ChangeId(u128::from(self.random.below(6)) << 64 | u128::from(self.random.below(3)))
    }

    fn amount(&mut self, usual: u64) -> Amount {
        Amount(if self.random.one_in(60) {
            Amount::MAX.0 - self.random.below(2)
        } else {
            self.random.below(usual)
        })
    }

    fn create_account(&mut self, party: Party, currency: Currency) -> Command {
        let overdraft = if self.random.one_in(5) { self.amount(5_000) } else { Amount(0) };
        Command::CreateAccount { party, currency, balance: self.amount(20_000), overdraft }
    }

    fn update_account(&mut self) -> Command {
        let (id, party, currency) = (self.change_id(), self.buyer(), self.currency());
        let kind = if self.random.one_in(4) { AccountKind::Settlement } else { AccountKind::Main };
        match self.random.below(3) {
            0 => {
                let overdraft = self.amount(5_000);
                Command::SetOverdraft { id, party, currency, overdraft }
            }
            1 => Command::Close { id, account: (party, kind), currency },
            _ => {
                let account = (self.some_buyer(), AccountKind::Main);
                Command::Close { id, account, currency: yen() }
            }
        }
    }

    /// An account that can be closed for a while.
    fn empty_account(&mut self) -> Command {
        let (party, currency) = (self.some_buyer(), yen());
        let (balance, overdraft) = (Amount(0), Amount(0));
        Command::CreateAccount { party, currency, balance, overdraft }
    }

    /// An account that a party disposes of.
    fn own_account(&mut self) -> (Party, AccountKind) {
        match self.random.below(8) {
            0 => (self.seller(), AccountKind::Settlement),
            1 => (self.buyer(), AccountKind::Suspense),
            _ => (self.buyer(), AccountKind::Main),
        }
    }

    fn hold(&mut self) -> Command {
        let (id, account, currency) = (self.change_id(), self.own_account(), self.currency());
        let amount = Amount(self.amount(3_000).0.max(1));
        let deadline = if self.random.one_in(2) { self.moment() } else { Time(0) };
        if self.held.len() < RECENT_MAX {
            self.held.push((account.0, id));
        } else {
            self.held[self.steps as usize % RECENT_MAX] = (account.0, id);
        }
        Command::Hold { id, account, currency, amount, deadline }
    }

    fn settle_hold(&mut self) -> Command {
        let (party, hold) = match self.held.is_empty() || self.random.one_in(20) {
            true => (self.buyer(), self.change_id()),
            false => self.held[self.random.below(self.held.len() as u64) as usize],
        };
        let id = self.change_id();
        if self.random.one_in(4) {
            return Command::Release { id, party, hold };
        }
        let clearing = (Party(0), AccountKind::Clearing);
        let credit = if self.random.one_in(4) { clearing } else { self.own_account() };
        let amount = Amount(1 + self.random.below(1_500));
        let amount = (!self.random.one_in(3)).then_some(amount);
        Command::Capture { id, party, hold, credit, amount }
    }

    fn issue_coupon(&mut self) -> Command {
        let funder = if self.random.one_in(2) { Party(0) } else { self.seller() };
        let coupon = Coupon {
            funder,
            seller: if self.random.one_in(3) { Some(self.seller()) } else { None },
            currency: self.currency(),
            amount: Amount(self.amount(2_000).0.max(1)),
            minimum: if self.random.one_in(2) { self.amount(500) } else { Amount(0) },
            expires: if self.random.one_in(3) { self.moment() } else { Time(0) },
        };
        let number = self.random.below(COUPONS);
        Command::IssueCoupon { buyer: self.some_buyer(), number, coupon }
    }

    /// One of the few who have coupons.
    fn some_buyer(&mut self) -> Party {
        Party(1 + self.random.below(BUYERS / 16))
    }

    fn create_item(&mut self, item: ItemId) -> Command {
        let stock = if self.random.one_in(3) { STOCK_MAX } else { self.random.below(200) };
        Command::CreateItem {
            item,
            seller: self.seller(),
            currency: self.currency(),
            price: self.amount(1_000),
            stock,
            sale: self.sale(),
        }
    }

    fn sale(&mut self) -> Sale {
        let mut sale = Sale::default();
        match self.random.below(40) {
            0 => sale.opens = self.moment(),
            1 => sale.closes = self.moment(),
            2 | 3 => {
                sale.opens = self.moment();
                sale.closes = Time(sale.opens.0 + 1 + self.random.below(20 * STEP_MICROS));
            }
            4..12 => sale.limit = 1 + self.random.below(8) as u32,
            _ => {}
        }
        sale
    }

    /// Some time near the frame's.
    fn moment(&mut self) -> Time {
        Time(self.now.0 - STEP_MICROS + self.random.below(6 * STEP_MICROS))
    }

    fn update_item(&mut self) -> Command {
        let Sale { opens, closes, limit } = self.sale();
        let update = match self.random.below(3) {
            0 => ItemUpdate { price: Some(self.amount(1_000)), ..ItemUpdate::default() },
            1 => ItemUpdate { window: Some((opens, closes)), ..ItemUpdate::default() },
            _ => ItemUpdate { limit: Some(limit), ..ItemUpdate::default() },
        };
        Command::UpdateItem { id: self.change_id(), item: self.item(), update }
    }

    fn wait(&mut self) -> Command {
        let micros = match self.random.below(4) {
            0 => 0,
            1 => 1,
            _ => self.random.below(STEP_MICROS / 8),
        };
        self.now.0 += micros;
        Command::Wait { micros }
    }

    fn timer(&mut self) -> Command {
        let kind = if self.random.one_in(3) { TimerKind::Hold } else { TimerKind::Order };
        Command::Timer { kind, party: self.buyer(), id: 1, due: self.moment() }
    }

    fn transfer(&mut self) -> Command {
        let mut account = || match self.random.below(8) {
            0 => (Party(0), AccountKind::Clearing),
            1 | 2 => (self.seller(), AccountKind::Settlement),
            _ => (self.buyer(), AccountKind::Main),
        };
        let (debit, credit) = (account(), account());
        let amount = Amount(self.amount(10_000).0.max(1));
        let wide = u128::from(self.random.next()) << 64 | u128::from(self.random.next());
        let id = if self.random.one_in(4) { self.change_id() } else { ChangeId(wide) };
        Command::Transfer { id, debit, credit, currency: self.currency(), amount }
    }

    fn restock(&mut self) -> Command {
        let id = ChangeId(u128::from(self.random.below(300)));
        Command::Restock { id, item: self.item(), quantity: 1 + self.random.below(30) }
    }

    fn quantity(&mut self) -> Quantity {
        Quantity(match self.random.below(200) {
            0 => Quantity::MAX.0,
            1..10 => 1 + self.random.below(1_000) as u32,
            _ => 1 + self.random.below(5) as u32,
        })
    }

    fn place(&mut self) -> Command {
        let count = match self.random.below(4_000) {
            0 => LINES_MAX,
            1..40 => 1 + self.random.below(100) as usize,
            _ => 1 + self.random.below(5) as usize,
        };
        let lines: Vec<NewLine> = (0..count).map(|_| self.line()).collect();
        let with_coupons = self.random.one_in(4);
        let buyer = if with_coupons { self.some_buyer() } else { self.buyer() };
        let id =
            OrderId(u128::from(self.random.below(4)) << 64 | u128::from(1 + self.random.below(9)));
        if self.placed.len() < RECENT_MAX {
            self.placed.push((buyer, id, count));
        } else {
            self.placed[self.steps as usize % RECENT_MAX] = (buyer, id, count);
        }
        let legs = self.legs(with_coupons);
        let (forfeits, withdrawn) = (self.random.one_in(3), self.random.one_in(80));
        let currency = self.currency();
        Command::Place { buyer, id, currency, legs, forfeits, withdrawn, lines }
    }

    fn line(&mut self) -> NewLine {
        let mut line = NewLine::goods(self.item(), self.quantity());
        if self.random.one_in(9) {
            let kind = [LineKind::Shipping, LineKind::Tax, LineKind::Fee];
            let kind = kind[self.random.below(3) as usize];
            line = NewLine::charge(kind, self.seller(), self.amount(1_000));
        } else if self.random.one_in(5) {
            line.price = Price::Agreed(self.amount(1_000));
        } else if self.random.one_in(40) {
            line.price = Price::Checked(self.amount(3));
        } else if self.random.one_in(40) {
            line.payee = Some(self.buyer());
        }
        if self.random.one_in(8) {
            line.discount = Amount(self.random.below(60));
        }
        line
    }

    fn legs(&mut self, with_coupons: bool) -> Vec<NewLeg> {
        let deadline = if self.random.one_in(3) { self.moment() } else { Time(0) };
        let rest = match self.random.below(4) {
            0 => NewLeg::Balance(None),
            1 => NewLeg::External(None),
            _ => NewLeg::Awaited(None, deadline),
        };
        let mut legs = Vec::new();
        if with_coupons {
            let count = 1 + self.random.below(2);
            legs.extend((0..count).map(|_| NewLeg::Coupon(self.random.below(COUPONS))));
        }
        while self.random.one_in(4) && legs.len() < 7 {
            let amount = Some(Amount(self.random.below(40)));
            let deadline = if self.random.one_in(3) { self.moment() } else { Time(0) };
            legs.push(match self.random.below(3) {
                0 => NewLeg::Balance(amount),
                1 => NewLeg::External(amount),
                _ => NewLeg::Awaited(amount, deadline),
            });
        }
        let rests = legs.is_empty() || !self.random.one_in(30);
        legs.extend(rests.then_some(rest));
        legs
    }

    fn change(&mut self) -> Command {
        let lost = self.placed.is_empty() || self.random.one_in(25);
        let (buyer, order, count) = match lost {
            true => (self.buyer(), OrderId(u128::from(1 + self.random.below(90))), 3),
            false => self.placed[self.random.below(self.placed.len() as u64) as usize],
        };
        let id = self.change_id();
        match self.random.below(8) {
            0..3 => {
                let step = match self.random.below(8) {
                    0..3 => PayStep::Balance,
                    3..6 => PayStep::External,
                    6 => PayStep::Authorise,
                    _ => PayStep::Void,
                };
                let leg = self.random.one_in(3).then(|| self.random.below(3) as u16);
                let amount = Amount(1 + self.random.below(500));
                let amount = self.random.one_in(3).then_some(amount);
                Command::Pay { id, buyer, order, step, leg, amount }
            }
            3 if self.random.one_in(3) => Command::Receive { id, buyer, order },
            3 => Command::Cancel { id, buyer, order },
            _ => {
                let asked = match self.random.below(4) {
                    0 => 0,
                    1 => count.min(LINES_MAX),
                    _ => 1 + self.random.below(2) as usize,
                };
                let lines = (0..asked)
                    .map(|_| {
                        let line = self.random.below(count as u64 + u64::from(asked < 3)) as u16;
                        (line, Quantity(1 + self.random.below(2) as u32))
                    })
                    .collect();
                Command::Refund { id, buyer, order, restock: self.random.one_in(2), lines }
            }
        }
    }
}
