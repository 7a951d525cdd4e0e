//! The audit: proves a data directory from its log alone.
//!
//! Three ways, which have nothing in common but the log. The engine checks that the frames are
//! the ones that were written, each behind the other. The core executes every command again and
//! must write the same bytes. And plain sums over the records, kept here without the core,
//! must agree with the state that the core arrived at, and with the laws of conservation, over
//! all shards and what is under way between them.

use std::collections::BTreeMap;
use std::path::Path;

use foldhash::HashMap;
use model::frame::Frame;
use model::record::{Body, Record, RowKind, TimerKind};
use model::reply::{Query, View};
use model::{
    LegState, LegView, LineKind, Offset, OrderId, OrderState, OrderView, Outcome, Party, Realm,
    ShardId,
};
use mq::{ArchiveError, Ending, LocalReader, LogError, Repair, SnapshotError, Snapshots};
use txn_core::{Capacity, Shard, SpareRegions, images_in, refunded_in};

use crate::archiver::ArchiveLocation;
use crate::conservation::Imbalance;
use crate::recovery::{Seek, whole_log};
use crate::replay::{Difference, Replay};
use crate::snapshots::{RestoredShard, restore_shard};
use crate::{Access, DataDir, DataDirError, Placement};

/// What an audit found. `ok` only when nothing at all is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// What was traded.
    pub trade: Sales,
    /// What was rehearsed.
    pub rehearsal: Sales,
    /// Records of any kind.
    pub records: u64,
    /// Records whose command is in the log more than once.
    pub duplicated: u64,
    /// Items of which more units went out than came in.
    pub oversold: u64,
    /// Currencies whose debits and credits differ, accounts overdrawn that may not be, items
    /// whose units don't add up, and sums that differ from the core's.
    pub unbalanced: u64,
    /// Streams whose two ends don't fit: the copy was taken at different moments. Then units and
    /// money are not compared over the shards.
    pub inconsistent: u64,
    /// The first record that differs from what the core decides: its shard and offset.
    pub first_difference: Option<(ShardId, Offset)>,
    /// The core's state at the end.
    pub state_hash: u64,
    /// What is wrong, the first first, in words.
    pub problems: Vec<String>,
    /// The log as the engine sees it.
    pub log: AuditLog,
    /// How many shards.
    pub shards: u16,
    /// Where it began. What was traded and rehearsed is counted from there.
    pub from: AuditFrom,
}

/// What was ordered, sold and earned in a realm.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sales {
    /// Orders that were placed; refused ones are not among them.
    pub orders: u64,
    /// Lines of those orders.
    pub lines: u64,
    /// Units of orders that were paid.
    pub units_sold: u64,
    /// Units of those that were refunded.
    pub units_refunded: u64,
    /// Paid less refunded, in minor units by currency.
    pub revenue: BTreeMap<String, i128>,
}

/// A log's figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuditLog {
    /// Whether it is a JetStream stream, and not in the data directory.
    pub is_stream: bool,
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

    fn sales(&mut self, realm: Realm) -> &mut Sales {
        match realm {
            Realm::Live => &mut self.trade,
            Realm::Drill => &mut self.rehearsal,
        }
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
    /// Reading its snapshots.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// Its archive.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

/// Problems told in words; the rest is counted.
const PROBLEMS_MAX: usize = 20;

/// Where an audit begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AuditFrom {
    /// At the first record, wherever it is kept. Where that is trimmed and nowhere kept, at the
    /// oldest snapshots.
    #[default]
    Beginning,
    /// At each shard's older snapshot.
    Oldest,
    /// At each shard's newest snapshot.
    Newest,
}

impl AuditFrom {
    /// Its word in reports.
    pub fn word(self) -> &'static str {
        match self {
            AuditFrom::Beginning => "beginning",
            AuditFrom::Oldest => "oldest snapshots",
            AuditFrom::Newest => "newest snapshots",
        }
    }
}

/// Audits the directory and its archive, and shows `visit` every record with its shard and offset
/// there. `access` is what it takes to open the directory.
pub fn audit(
    path: &Path,
    access: &Access,
    archive: &ArchiveLocation,
    from: AuditFrom,
    mut visit: impl FnMut(&Record<'_>, ShardId, Offset),
) -> Result<Audit, AuditError> {
    let dir = DataDir::open(path, access)?;
    let disk = dir.log_read_only()?;
    let placement = dir.placement(1, Capacity::default());
    let opened = match from {
        AuditFrom::Beginning => whole_log(disk.clone(), dir.archive(archive)?),
        AuditFrom::Oldest | AuditFrom::Newest => LocalReader::open(disk.clone()),
    };
    let from = match &opened {
        Ok(reader) if from == AuditFrom::Beginning && !reader.is_whole() => AuditFrom::Oldest,
        _ => from,
    };
    let mut books = Books::begin(&dir, &placement, from)?;
    // Reads past what the archive doubles: only an audit from snapshots gets here with that.
    let damaged = |error: &LogError| {
        let archive = dir.archive(archive).ok().flatten();
        let repair = archive.map(|archive| {
            Repair::plan(&disk, &archive, dir.segment_bytes(), error).ok().flatten()
        });
        match repair.flatten() {
            Some(_) => format!("{error}; serving it will repair that from the archive"),
            None => error.to_string(),
        }
    };
    let mut reader = match opened {
        Ok(reader) => reader,
        Err(error) if error.is_damage() => {
            books.problem(damaged(&error));
            return Ok(books.audit);
        }
        Err(error) => return Err(AuditError::Log(error)),
    };
    loop {
        let frame = match reader.next_frame() {
            Ok(Some((_, frame))) => frame,
            Ok(None) => break,
            Err(error) if error.is_damage() => {
                books.problem(damaged(&error));
                break;
            }
            Err(error) => return Err(AuditError::Log(error)),
        };
        let number = usize::from(frame.header.shard.get());
        let applied = match (books.shards.get_mut(number), books.seeks.get_mut(number)) {
            (Some(shard), Some(seek)) => seek.is_behind(&frame).and_then(|is_behind| {
                if is_behind { Ok(false) } else { books.replay.apply(shard, frame).map(|()| true) }
            }),
            _ => Err(Difference::foreign(&frame)),
        };
        if let Ok(false) = applied {
            continue;
        }
        if let Err(difference) = applied {
            books.audit.duplicated += u64::from(difference.repeated);
            books.audit.first_difference = Some((difference.shard, difference.offset));
            books.problem(format!("the log does not execute to what it records, at {difference}"));
            break; // From here on the state isn't the one that decided.
        }
        let shard = frame.place().shard;
        books.left_with(&frame);
        let mut offset = Offset(frame.header.first_offset.get());
        for record in frame.records() {
            let record = record.expect("the core has just executed it");
            visit(&record, shard, offset);
            books.add(&record, shard, offset);
            offset.0 += 1;
        }
    }
    let stats = reader.stats();
    books.audit.log = AuditLog {
        is_stream: dir.is_on_stream(),
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

#[derive(Default)]
struct Books {
    /// By number.
    shards: Vec<Shard>,
    /// Where their snapshots stand, if they begin with one.
    seeks: Vec<Seek>,
    replay: Replay,
    items: HashMap<(Realm, u64), Units>,
    /// Units refunded so far, by order and line.
    refunds: HashMap<(Realm, u64, u128), Vec<u64>>,
    /// Orders that changed and left memory with the frame at hand.
    left: HashMap<(Realm, u64, u128), OrderView>,
    audit: Audit,
}

/// Where a record stands, and where the order that it is about is found.
#[derive(Clone, Copy)]
struct Place {
    shard: ShardId,
    offset: Offset,
    realm: Realm,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "shard {}, offset {}", self.shard, self.offset)
    }
}

impl Books {
    /// The shards as they are where the audit begins, and the sums up to there.
    fn begin(dir: &DataDir, placement: &Placement, from: AuditFrom) -> Result<Books, AuditError> {
        let spare = SpareRegions::default();
        let mut books = Books::default();
        (books.audit.shards, books.audit.from) = (dir.shards(), from);
        let disk = match from {
            AuditFrom::Beginning => None,
            // One that was never served has none.
            _ => dir.snapshots_read_only().ok(),
        };
        let snapshots = disk.map(Snapshots::read_only);
        let listed = snapshots.as_ref().map(Snapshots::list).transpose()?.unwrap_or_default();
        for id in (0..placement.shards).map(ShardId) {
            let mut ids = listed.get(&id).cloned().unwrap_or_default();
            if from == AuditFrom::Oldest {
                ids.reverse();
            }
            let restored = match &snapshots {
                Some(snapshots) => restore_shard(snapshots, &ids, placement, id, &spare)?,
                None => RestoredShard::empty(placement.shard(id, &spare)),
            };
            for (_, problem) in restored.passed_over {
                books.problem(problem.to_string());
            }
            books.seeks.push(Seek::new(restored.place.map(|place| place.end)));
            books.shards.push(restored.shard);
        }
        for realm in [Realm::Live, Realm::Drill] {
            for shard in &books.shards {
                for item in shard.items(realm) {
                    let units = books.items.entry((realm, item.item.0)).or_default();
                    units.stocked += u128::from(item.stocked);
                    units.out += i128::from(item.reserved) + i128::from(item.sold);
                }
                for (buyer, order, refunded) in shard.partly_refunded(realm) {
                    books.refunds.insert((realm, buyer.0, order.0), refunded);
                }
            }
        }
        Ok(books)
    }

    fn problem(&mut self, problem: String) {
        if self.audit.problems.len() < PROBLEMS_MAX {
            self.audit.problems.push(problem);
        }
    }

    /// Looks at what a frame has leave memory.
    fn left_with(&mut self, frame: &Frame<'_>) {
        self.left.clear();
        for record in frame.records().flatten() {
            let Body::Evict { images, .. } = record.body else { continue };
            for order in images_in(images) {
                self.left.insert((record.realm(), order.buyer.0, order.id.0), order);
            }
        }
    }

    /// Adds a record to the sums.
    fn add(&mut self, record: &Record<'_>, shard: ShardId, offset: Offset) {
        self.audit.records += 1;
        let realm = record.realm();
        let place = Place { shard, offset, realm };
        if record.outcome() != Some(Outcome::Ok) {
            return;
        }
        let amount = i128::from(record.header.amount.get());
        match record.body {
            Body::CreateItem(body) => self.item(record).stocked += u128::from(body.stock.get()),
            Body::Restock(body) => self.item(record).stocked += u128::from(body.quantity.get()),
            Body::Place { order, legs, lines, extras, .. } => {
                let sales = self.audit.sales(realm);
                sales.orders += 1;
                sales.lines += lines.len() as u64;
                let mut units = 0;
                let mut total = 0;
                for line in lines {
                    let quantity = u64::from(line.quantity.get());
                    total += i128::from(line.unit_price.get()) * i128::from(quantity);
                    if line.kind == LineKind::Goods as u8 {
                        units += quantity;
                        let item = (realm, line.item.get());
                        self.items.entry(item).or_default().out += i128::from(quantity);
                    }
                }
                total -= extras.iter().map(|it| i128::from(it.discount.get())).sum::<i128>();
                let paid = legs.iter().map(|leg| i128::from(leg.amount.get())).sum::<i128>();
                if (total, paid) != (amount, amount) {
                    self.audit.unbalanced += 1;
                    let sums = format!("lines of {total}, legs of {paid}, total of {amount}");
                    self.problem(format!("{place}: {sums}"));
                }
                if record.header.state == OrderState::Paid as u8 {
                    self.audit.sales(realm).units_sold += units;
                    self.earn(realm, order.currency.get(), amount);
                }
            }
            Body::Pay(body) => {
                let Some(order) = self.order(record.party(), body.order.get(), place) else {
                    return;
                };
                // Only what completes a payment earns: the legs before lie in deposit.
                if record.header.state == OrderState::Paid as u8 {
                    self.audit.sales(realm).units_sold += units_of(&order);
                    self.earn(realm, order.currency.numeric(), order.total.0.into());
                }
            }
            Body::Cancel(body) => {
                let Some(order) = self.order(record.party(), body.order.get(), place) else {
                    return;
                };
                self.release(&order, realm);
                self.earn(realm, order.currency.numeric(), forfeited(&order));
            }
            Body::Timer(body) if body.kind == TimerKind::Order as u8 => {
                let Some(order) = self.order(record.party(), body.order.get(), place) else {
                    return;
                };
                self.release(&order, realm);
                self.earn(realm, order.currency.numeric(), forfeited(&order));
            }
            Body::Refund { refund, lines } => {
                let Some(order) = self.order(record.party(), refund.order.get(), place) else {
                    return;
                };
                self.earn(realm, order.currency.numeric(), -amount);
                self.refunded(&order, refund.flags != 0, lines, place);
            }
            Body::CreateAccount(_)
            | Body::UpdateAccount(_)
            | Body::Hold(_)
            | Body::SettleHold(_)
            | Body::IssueCoupon(_)
            | Body::Receive(_)
            | Body::Timer(_)
            | Body::Transfer(_)
            | Body::UpdateItem(_)
            | Body::Deliver { .. }
            | Body::Stock(_)
            | Body::Evict { .. }
            | Body::Sweep(_) => {}
            Body::Load { load, row } if load.kind == RowKind::Order as u8 && !row.is_empty() => {
                // What it came back with was refunded before.
                let key = (realm, record.header.scope.get(), load.order.get());
                self.refunds.entry(key).or_insert_with(|| refunded_in(row));
            }
            Body::Load { .. } => {}
        }
    }

    /// An order's units went back.
    fn release(&mut self, order: &OrderView, realm: Realm) {
        for line in order.lines.iter().filter(|line| line.kind == LineKind::Goods) {
            let item = (realm, line.item.0);
            self.items.entry(item).or_default().out -= i128::from(line.quantity.0);
        }
    }

    fn refunded(
        &mut self,
        order: &OrderView,
        restock: bool,
        lines: &[model::record::RefundLine],
        place: Place,
    ) {
        // A refund without lines names nothing: what it gave back is what the order shows as
        // refunded beyond what earlier refunds named, so those are kept by line.
        let mut units = Vec::new();
        if lines.is_empty() {
            if order.state != OrderState::Refunded {
                self.audit.unbalanced += 1;
                self.problem(format!("{place}: all was refunded and something is left"));
            }
            let key = (place.realm, order.buyer.0, order.id.0);
            let before = self.refunds.remove(&key).unwrap_or_default();
            for (number, line) in order.lines.iter().enumerate() {
                let earlier = before.get(number).copied().unwrap_or(0);
                if line.kind == LineKind::Goods {
                    units.push((line.item.0, u64::from(line.quantity.0) - earlier));
                }
            }
        } else {
            let key = (place.realm, order.buyer.0, order.id.0);
            let before = self.refunds.entry(key).or_default();
            before.resize(order.lines.len(), 0);
            for line in lines {
                let number = usize::from(line.line.get());
                before[number] += u64::from(line.quantity.get());
                if order.lines[number].kind == LineKind::Goods {
                    units.push((order.lines[number].item.0, line.quantity.get().into()));
                }
            }
        }
        for (item, quantity) in units {
            self.audit.sales(place.realm).units_refunded += quantity;
            if restock {
                self.items.entry((place.realm, item)).or_default().out -= i128::from(quantity);
            }
        }
    }

    fn item(&mut self, record: &Record<'_>) -> &mut Units {
        self.items.entry((record.realm(), record.header.scope.get())).or_default()
    }

    fn order(&mut self, buyer: Party, id: u128, place: Place) -> Option<OrderView> {
        let shard = &self.shards[usize::from(place.shard.0)];
        let query = Query::Order(buyer, OrderId(id));
        if let View::Order(order) = shard.query_in(place.realm, query) {
            return Some(order);
        }
        if let Some(order) = self.left.get(&(place.realm, buyer.0, id)) {
            return Some(order.clone());
        }
        self.audit.unbalanced += 1;
        self.problem(format!("{place}: changes an order that isn't there"));
        None
    }

    fn earn(&mut self, realm: Realm, currency: u16, amount: i128) {
        let code = model::Currency::from_numeric(currency).map_or("XXX", |c| c.code());
        let revenue = &mut self.audit.sales(realm).revenue;
        match revenue.get_mut(code) {
            Some(revenue) => *revenue += amount,
            None => drop(revenue.insert(code.to_string(), amount)),
        }
    }

    /// Compares the sums with the core's state, and the state with the laws.
    fn close(&mut self) {
        // A log that ends early has nothing to say of the whole.
        if self.audit.problems.is_empty() {
            self.compare_units(Realm::Live);
            self.compare_units(Realm::Drill);
            let shards: Vec<&Shard> = self.shards.iter().collect();
            let found = [Realm::Live, Realm::Drill].map(|realm| Imbalance::of(&shards, realm));
            for Imbalance { inconsistent, unbalanced, oversold } in found {
                self.audit.inconsistent += inconsistent.len() as u64;
                self.audit.unbalanced += unbalanced.len() as u64;
                self.audit.oversold += oversold.len() as u64;
                for problem in inconsistent.into_iter().chain(oversold).chain(unbalanced) {
                    self.problem(problem);
                }
            }
        }
        let hashes = self.shards.iter().map(Shard::state_hash);
        self.audit.state_hash = hashes.fold(0, |all: u64, one| all.rotate_left(7) ^ one);
    }

    /// What the records say of units must be what the shards say, all together.
    fn compare_units(&mut self, realm: Realm) {
        let mut held = HashMap::<u64, Units>::default();
        for item in self.shards.iter().flat_map(|shard| shard.items(realm)) {
            let units = held.entry(item.item.0).or_default();
            units.stocked += u128::from(item.stocked);
            units.out += i128::from(item.reserved) + i128::from(item.sold);
        }
        let mut problems = Vec::new();
        for (item, held) in held {
            let summed = self.items.get(&(realm, item)).copied().unwrap_or_default();
            if held.stocked != summed.stocked || held.out != summed.out {
                problems.push(format!(
                    "item {item}: stocked {}, reserved and sold {}; the log sums to {} stocked, \
                     {} out",
                    held.stocked, held.out, summed.stocked, summed.out
                ));
            }
        }
        problems.sort();
        self.audit.unbalanced += problems.len() as u64;
        for problem in problems {
            self.problem(problem);
        }
    }
}

/// What came for an order that is over and didn't go back is forfeit, unless it is stuck.
fn forfeited(order: &OrderView) -> i128 {
    let kept = |leg: &LegView| match leg.state {
        LegState::Late => 0,
        _ => i128::from(leg.paid.0) - i128::from(leg.refunded.0),
    };
    order.legs.iter().map(kept).sum()
}

fn units_of(order: &OrderView) -> u64 {
    let goods = order.lines.iter().filter(|line| line.kind == LineKind::Goods);
    goods.map(|line| u64::from(line.quantity.0)).sum()
}
