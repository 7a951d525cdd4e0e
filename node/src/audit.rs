//! The audit: proves a data directory from its log alone.
//!
//! Three ways, which have nothing in common but the log. The engine checks that the frames are
//! the ones that were written, each behind the other. The core executes every command again and
//! must write the same bytes. And plain sums over the records, kept here without the core,
//! must agree with the state that the core arrived at, and with the laws of conservation.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use foldhash::HashMap;
use model::record::{Body, Record};
use model::reply::{Query, View};
use model::{Offset, OrderId, OrderState, OrderView, Outcome, Party, PaymentMethod};
use mq::{DirDisk, Ending, LocalReader, LogError};
use txn_core::Shard;

use crate::replay::Replay;
use crate::{DataDir, DataDirError};

/// What an audit found. `ok` only when nothing at all is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Orders that were placed; refused ones are not among them.
    pub orders: u64,
    /// Lines of those orders.
    pub lines: u64,
    /// Records of any kind.
    pub records: u64,
    /// Records whose command is in the log more than once.
    pub duplicated: u64,
    /// Items of which more units went out than came in.
    pub oversold: u64,
    /// Currencies whose debits and credits differ, accounts overdrawn that may not be, items
    /// whose units don't add up, and sums that differ from the core's.
    pub unbalanced: u64,
    /// Units of orders that were paid.
    pub units_sold: u64,
    /// Units of those that were refunded.
    pub units_refunded: u64,
    /// Paid less refunded, in minor units by currency.
    pub revenue: BTreeMap<String, i128>,
    /// The core's state at the end.
    pub state_hash: u64,
    /// What is wrong, the first first, in words.
    pub problems: Vec<String>,
    /// The log as the engine sees it.
    pub log: AuditLog,
    /// How many shards.
    pub shards: u16,
}

/// A log's figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuditLog {
    /// Bytes, with the engine's own.
    pub bytes: u64,
    /// Frames.
    pub frames: u64,
    /// Writes, each synced before anything of it was acknowledged.
    pub syncs: u64,
    /// Bytes of an unacknowledged tail, which the next start cuts off.
    pub torn_bytes: u64,
}

impl Audit {
    /// Whether nothing is wrong.
    pub fn is_ok(&self) -> bool {
        self.problems.is_empty()
    }
}

/// Why an audit could not be made. Damage is a finding, not an error.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// Reading its log.
    #[error(transparent)]
    Log(LogError),
}

/// Problems told in words; the rest is counted.
const PROBLEMS_MAX: usize = 20;

/// Audits the directory, and shows `visit` every record with its offset.
pub fn audit(path: &Path, mut visit: impl FnMut(&Record<'_>, Offset)) -> Result<Audit, AuditError> {
    let dir = DataDir::open(path)?;
    let disk = Arc::new(DirDisk::read_only(dir.log_path()).map_err(DataDirError::at(&dir))?);
    let mut books = Books { shard: Shard::new(dir.hash_seed()), ..Books::default() };
    books.audit.shards = dir.shards();
    let mut reader = match LocalReader::open(disk) {
        Ok(reader) => reader,
        Err(error @ LogError::Damage { .. }) => {
            books.problem(error.to_string());
            return Ok(books.audit);
        }
        Err(error) => return Err(AuditError::Log(error)),
    };
    loop {
        let frame = match reader.next_frame() {
            Ok(Some((_, frame))) => frame,
            Ok(None) => break,
            Err(error @ LogError::Damage { .. }) => {
                books.problem(error.to_string());
                break;
            }
            Err(error) => return Err(AuditError::Log(error)),
        };
        if let Err(difference) = books.replay.apply(&mut books.shard, frame) {
            books.audit.duplicated += u64::from(difference.repeated);
            books.problem(format!("the log does not execute to what it records, at {difference}"));
            break; // From here on the state isn't the one that decided.
        }
        let mut offset = Offset(frame.header.first_offset.get());
        for record in frame.records() {
            let record = record.expect("the core has just executed it");
            visit(&record, offset);
            books.add(&record, offset);
            offset.0 += 1;
        }
    }
    let stats = reader.stats();
    books.audit.log = AuditLog {
        bytes: stats.bytes,
        frames: stats.frames,
        syncs: stats.syncs,
        torn_bytes: match reader.ending() {
            Ending::Torn { bytes, .. } => bytes,
            Ending::Clean { .. } => 0,
        },
    };
    books.close();
    Ok(books.audit)
}

/// Units of one item, summed from records.
#[derive(Clone, Copy, Default)]
struct Units {
    stocked: u128,
    out: i128,
}

struct Books {
    shard: Shard,
    replay: Replay,
    items: HashMap<u64, Units>,
    /// Units refunded so far, by order and line.
    refunds: HashMap<(u64, u128), Vec<u64>>,
    audit: Audit,
}

impl Default for Books {
    fn default() -> Books {
        Books {
            shard: Shard::new(0),
            replay: Replay::default(),
            items: HashMap::default(),
            refunds: HashMap::default(),
            audit: Audit::default(),
        }
    }
}

impl Books {
    fn problem(&mut self, problem: String) {
        if self.audit.problems.len() < PROBLEMS_MAX {
            self.audit.problems.push(problem);
        }
    }

    /// Adds a record to the sums.
    fn add(&mut self, record: &Record<'_>, offset: Offset) {
        self.audit.records += 1;
        if record.outcome() != Some(Outcome::Ok) {
            return;
        }
        let amount = i128::from(record.header.amount.get());
        match record.body {
            Body::CreateItem(body) => self.item(record).stocked += u128::from(body.stock.get()),
            Body::Restock(body) => self.item(record).stocked += u128::from(body.quantity.get()),
            Body::Place { order, leg, lines } => {
                self.audit.orders += 1;
                self.audit.lines += lines.len() as u64;
                let mut units = 0;
                let mut total = 0;
                for line in lines {
                    let quantity = u64::from(line.quantity.get());
                    units += quantity;
                    total += i128::from(line.unit_price.get()) * i128::from(quantity);
                    self.items.entry(line.item.get()).or_default().out += i128::from(quantity);
                }
                if total != amount {
                    self.audit.unbalanced += 1;
                    self.problem(format!("offset {offset}: lines of {total}, total of {amount}"));
                }
                if leg.method != PaymentMethod::Awaited as u8 {
                    self.audit.units_sold += units;
                    self.earn(order.currency.get(), amount);
                }
            }
            Body::Pay(body) => {
                let Some(order) = self.order(record.party(), body.order.get(), offset) else {
                    return;
                };
                self.audit.units_sold += units_of(&order);
                self.earn(order.currency.numeric(), amount);
            }
            Body::Cancel(body) => {
                let Some(order) = self.order(record.party(), body.order.get(), offset) else {
                    return;
                };
                for line in &order.lines {
                    self.items.entry(line.item.0).or_default().out -= i128::from(line.quantity.0);
                }
            }
            Body::Refund { refund, lines } => {
                let Some(order) = self.order(record.party(), refund.order.get(), offset) else {
                    return;
                };
                self.earn(order.currency.numeric(), -amount);
                self.refunded(&order, refund.flags != 0, lines, offset);
            }
            Body::CreateAccount(_) | Body::Transfer(_) => {}
        }
    }

    fn refunded(
        &mut self,
        order: &OrderView,
        restock: bool,
        lines: &[model::record::RefundLine],
        offset: Offset,
    ) {
        // A refund without lines names nothing: what it gave back is what the order shows as
        // refunded beyond what earlier refunds named, so those are kept by line.
        let mut units = Vec::new();
        if lines.is_empty() {
            if order.state != OrderState::Refunded {
                self.audit.unbalanced += 1;
                self.problem(format!("offset {offset}: all was refunded and something is left"));
            }
            let key = (order.buyer.0, order.id.0);
            let before = self.refunds.remove(&key).unwrap_or_default();
            for (number, line) in order.lines.iter().enumerate() {
                let earlier = before.get(number).copied().unwrap_or(0);
                units.push((line.item.0, u64::from(line.quantity.0) - earlier));
            }
        } else {
            let key = (order.buyer.0, order.id.0);
            let before = self.refunds.entry(key).or_default();
            before.resize(order.lines.len(), 0);
            for line in lines {
                let number = usize::from(line.line.get());
                before[number] += u64::from(line.quantity.get());
                units.push((order.lines[number].item.0, line.quantity.get().into()));
            }
        }
        for (item, quantity) in units {
            self.audit.units_refunded += quantity;
            if restock {
                self.items.entry(item).or_default().out -= i128::from(quantity);
            }
        }
    }

    fn item(&mut self, record: &Record<'_>) -> &mut Units {
        self.items.entry(record.header.scope.get()).or_default()
    }

    fn order(&mut self, buyer: Party, id: u128, offset: Offset) -> Option<OrderView> {
        if let View::Order(order) = self.shard.query(Query::Order(buyer, OrderId(id))) {
            return Some(order);
        }
        self.audit.unbalanced += 1;
        self.problem(format!("offset {offset}: changes an order that isn't there"));
        None
    }

    fn earn(&mut self, currency: u16, amount: i128) {
        let code = model::Currency::from_numeric(currency).map_or("XXX", |c| c.code());
        match self.audit.revenue.get_mut(code) {
            Some(revenue) => *revenue += amount,
            None => drop(self.audit.revenue.insert(code.to_string(), amount)),
        }
    }

    /// Compares the sums with the core's state, and the state with the laws.
    fn close(&mut self) {
        let mut problems = Vec::new();
        let (mut oversold, mut unbalanced) = (0, 0);
        for (item, balanced) in self.shard.items() {
            let units = self.items.get(&item.item.0).copied().unwrap_or_default();
            if units.out > units.stocked as i128 {
                oversold += 1;
                problems.push(format!(
                    "item {}: {} units went out, {} came in",
                    item.item, units.out, units.stocked
                ));
            }
            let out = i128::from(item.reserved) + i128::from(item.sold);
            if !balanced || u128::from(item.stocked) != units.stocked || out != units.out {
                unbalanced += 1;
                problems.push(format!(
                    "item {}: stocked {}, available {}, reserved {}, sold {}; the log sums to \
                     {} stocked, {} out",
                    item.item,
                    item.stocked,
                    item.available,
                    item.reserved,
                    item.sold,
                    units.stocked,
                    units.out
                ));
            }
        }
        for (currency, balance) in self.shard.balances() {
            if balance.debits != balance.credits {
                unbalanced += 1;
                problems.push(format!(
                    "{currency}: debits of {}, credits of {}",
                    balance.debits, balance.credits
                ));
            }
            if balance.overdrawn > 0 {
                unbalanced += balance.overdrawn;
                problems.push(format!("{currency}: {} accounts overdrawn", balance.overdrawn));
            }
        }
        self.audit.oversold += oversold;
        self.audit.unbalanced += unbalanced;
        for problem in problems {
            self.problem(problem);
        }
        self.audit.state_hash = self.shard.state_hash();
    }
}

fn units_of(order: &OrderView) -> u64 {
    order.lines.iter().map(|line| u64::from(line.quantity.0)).sum()
}
