//! The sink's tables: how rows are found, and how they are written.
//!
//! Rows that are new are copied. Rows that change are copied into a temporary table of the same
//! form, and replace what they change from there: one statement for all of a table.

use std::collections::HashSet;
use std::pin::pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use model::{AccountKind, Currency, LegState, LineKind, OrderState, Outcome, PaymentMethod, Time};
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row, Transaction};
use uuid::Uuid;

use super::book::{Book, Coupon, Hold, Kept, Wants};
use super::order::{Line, Order, Payment};
use super::{Part, SinkError};

/// The version of the tables' form.
const VERSION: i32 = 1;
const SCHEMA: &str = include_str!("schema.sql");

/// A table, and how its rows change.
struct Table {
    name: &'static str,
    types: &'static [Type],
    key: &'static str,
    /// What is done about a row that is there already; empty: there never is one.
    update: &'static str,
}

const ORDERS: Table = Table {
    name: "orders",
    types: &[
        Type::INT8,
        Type::INT8,
        Type::UUID,
        Type::TIMESTAMPTZ,
        Type::TIMESTAMPTZ,
        Type::TEXT,
        Type::TEXT,
        Type::TEXT,
        Type::INT8,
        Type::INT8,
        Type::BOOL,
        Type::BOOL,
    ],
    key: "number",
    update: "UPDATE SET changed_at = excluded.changed_at, state = excluded.state, \
             refunded = excluded.refunded, received = excluded.received",
};

const LINES: Table = Table {
    name: "order_lines",
    types: &[
        Type::INT8,
        Type::INT4,
        Type::TEXT,
        Type::INT8,
        Type::INT8,
        Type::INT8,
        Type::INT8,
        Type::INT8,
        Type::INT8,
    ],
    key: "order_number, line",
    update: "UPDATE SET refunded = excluded.refunded",
};

const PAYMENTS: Table = Table {
    name: "order_payments",
    types: &[
        Type::INT8,
        Type::INT4,
        Type::TEXT,
        Type::TEXT,
        Type::INT8,
        Type::INT8,
        Type::INT8,
        Type::INT8,
        Type::INT8,
        Type::INT8,
        Type::TIMESTAMPTZ,
    ],
    key: "order_number, payment",
    update: "UPDATE SET method = excluded.method, state = excluded.state, paid = excluded.paid, \
             refunded = excluded.refunded, suspended = excluded.suspended",
};

const ENTRIES: Table = Table {
    name: "ledger_entries",
    types: &[
        Type::INT8,
        Type::INT4,
        Type::TIMESTAMPTZ,
        Type::TEXT,
        Type::INT8,
        Type::TEXT,
        Type::INT8,
        Type::INT8,
    ],
    key: "",
    update: "",
};

const ITEMS: Table = Table {
    name: "items",
    types: &[Type::INT8, Type::INT8, Type::TEXT, Type::TIMESTAMPTZ],
    key: "item",
    // All parts see all items.
    update: "NOTHING",
};

const ACCOUNTS: Table = Table {
    name: "accounts",
    types: &[Type::INT8, Type::TEXT, Type::TEXT, Type::INT8, Type::TIMESTAMPTZ, Type::TIMESTAMPTZ],
    key: "party, kind, currency",
    update: "UPDATE SET overdraft = coalesce(excluded.overdraft, accounts.overdraft), \
             closed_at = coalesce(excluded.closed_at, accounts.closed_at)",
};

const COUPONS: Table = Table {
    name: "coupons",
    types: &[
        Type::INT8,
        Type::INT8,
        Type::INT8,
        Type::INT8,
        Type::TEXT,
        Type::INT8,
        Type::INT8,
        Type::TIMESTAMPTZ,
        Type::TIMESTAMPTZ,
    ],
    key: "buyer, coupon",
    update: "",
};

const HOLDS: Table = Table {
    name: "holds",
    types: &[
        Type::INT8,
        Type::UUID,
        Type::TEXT,
        Type::TEXT,
        Type::INT8,
        Type::INT8,
        Type::TIMESTAMPTZ,
        Type::TIMESTAMPTZ,
    ],
    key: "party, id",
    update: "UPDATE SET held = excluded.held",
};

const ALL: [&Table; 8] =
    [&ORDERS, &LINES, &PAYMENTS, &ENTRIES, &ITEMS, &ACCOUNTS, &COUPONS, &HOLDS];

impl Table {
    /// Where rows that change stand before they do.
    fn stage(&self) -> String {
        format!("staged_{}", self.name)
    }
}

/// A number from 0 to 2⁶⁴ − 1 as PostgreSQL has none: from 2⁶³ on, less 2⁶⁴.
fn signed(number: u64) -> i64 {
    number as i64
}

fn unsigned(number: i64) -> u64 {
    number as u64
}

fn moment(time: Time) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(time.0)
}

fn some_moment(time: u64) -> Option<SystemTime> {
    (time != 0).then(|| moment(Time(time)))
}

fn time(moment: SystemTime) -> Time {
    Time(moment.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64))
}

/// How far the log was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Progress {
    /// What events name as their source.
    pub platform: String,
    /// For each shard the offset of the next record.
    pub next: Vec<u64>,
    /// Behind which event the feed goes on.
    pub last_event_id: Option<String>,
}

/// Makes the tables if they aren't there, and says how far a part was written.
pub(super) async fn open(
    client: &mut Client,
    schema: &str,
    part: Part,
) -> Result<Option<Progress>, SinkError> {
    let name = quoted(schema);
    // Whoever has gone without a word doesn't keep anybody waiting, nor does a lock.
    let session = format!(
        "SET client_min_messages TO warning; SET search_path TO {name}; SET lock_timeout TO '60s'; \
         SET idle_in_transaction_session_timeout TO '60s'; SET tcp_keepalives_idle TO 30; \
         SET tcp_keepalives_interval TO 10; SET tcp_keepalives_count TO 3"
    );
    client.batch_execute(&session).await?;
    let transaction = client.transaction().await?;
    // Two who make the same at once would hinder each other.
    transaction.batch_execute("SELECT pg_advisory_xact_lock(7239015)").await?;
    let sink = format!("{name}.sink");
    let made = transaction.query_one("SELECT to_regclass($1) IS NOT NULL", &[&sink]).await?;
    if !made.try_get::<_, bool>(0)? {
        let there = "SELECT to_regnamespace($1) IS NOT NULL";
        if !transaction.query_one(there, &[&name]).await?.try_get::<_, bool>(0)? {
            transaction.batch_execute(&format!("CREATE SCHEMA {name}")).await?;
        }
        transaction.batch_execute(SCHEMA).await?;
    }
    for table in ALL.iter().filter(|table| !table.update.is_empty()) {
        let (stage, name) = (table.stage(), table.name);
        let make = format!("CREATE TEMP TABLE {stage} (LIKE {name}) ON COMMIT DELETE ROWS");
        transaction.batch_execute(&make).await?;
    }
    // A commit that nobody knows of may still be under way.
    let others = "SELECT parts FROM sink WHERE parts <> $1 LIMIT 1";
    if let Some(row) = transaction.query_opt(others, &[&i32::from(part.of)]).await? {
        return Err(SinkError::Parts { found: row.try_get(0)?, asked: part.of });
    }
    let progress = progress(&transaction, part).await?;
    transaction.commit().await?;
    Ok(progress)
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// How far a part was written. Nobody else goes on meanwhile.
async fn progress(
    transaction: &Transaction<'_>,
    part: Part,
) -> Result<Option<Progress>, SinkError> {
    let select = "SELECT version, platform, next, last_event_id FROM sink WHERE part = $1 \
                  AND parts = $2 FOR UPDATE";
    let values: Values<'_> = &[&i32::from(part.number), &i32::from(part.of)];
    let row = transaction.query_opt(select, values).await?;
    let Some(row) = row else { return Ok(None) };
    let version: i32 = row.try_get(0)?;
    if version != VERSION {
        return Err(SinkError::Version { found: version });
    }
    let next: Vec<i64> = row.try_get(2)?;
    Ok(Some(Progress {
        platform: row.try_get(1)?,
        next: next.into_iter().map(unsigned).collect(),
        last_event_id: row.try_get(3)?,
    }))
}

/// Notes whose log it is that is written here.
pub(super) async fn begin(
    client: &Client,
    part: Part,
    progress: &Progress,
) -> Result<(), SinkError> {
    let next: Vec<i64> = progress.next.iter().copied().map(signed).collect();
    let insert =
        "INSERT INTO sink (part, parts, version, platform, next) VALUES ($1, $2, $3, $4, $5)";
    let (number, of) = (i32::from(part.number), i32::from(part.of));
    let values: Values<'_> = &[&number, &of, &VERSION, &progress.platform, &next];
    client.execute(insert, values).await?;
    Ok(())
}

/// Accounts that are closed.
pub(super) async fn load_closed(client: &Client, book: &mut Book) -> Result<(), SinkError> {
    let select = "SELECT party, kind, currency FROM accounts WHERE closed_at IS NOT NULL";
    for row in client.query(select, &[]).await? {
        let (kind, currency) = (account_kind(&row, 1)?, currency(&row, 2)?);
        book.closed.insert((unsigned(row.try_get(0)?), kind as u8, currency.numeric()));
    }
    Ok(())
}

/// Loads the rows that a batch needs. Those that it wants and aren't there are none of the log's.
async fn load(
    transaction: &Transaction<'_>,
    wants: Wants,
    book: &mut Book,
) -> Result<(), SinkError> {
    if !wants.items.is_empty() {
        let items: Vec<i64> = wants.items.into_iter().map(signed).collect();
        let select = "SELECT item, seller FROM items WHERE item = ANY($1)";
        for row in transaction.query(select, &[&items]).await? {
            book.sellers.insert(unsigned(row.try_get(0)?), unsigned(row.try_get(1)?));
        }
    }
    if !wants.coupons.is_empty() {
        let (buyers, coupons): (Vec<i64>, Vec<i64>) = wants
            .coupons
            .into_iter()
            .map(|(buyer, coupon)| (signed(buyer), signed(coupon)))
            .unzip();
        let select = "SELECT buyer, coupon, funder, seller, currency, amount, minimum, issued_at, \
                      expires_at FROM coupons JOIN unnest($1::bigint[], $2::bigint[]) \
                      AS wanted(buyer, coupon) USING (buyer, coupon)";
        for row in transaction.query(select, &[&buyers, &coupons]).await? {
            let seller: Option<i64> = row.try_get(3)?;
            let expires: Option<SystemTime> = row.try_get(8)?;
            let coupon = Coupon {
                funder: unsigned(row.try_get(2)?),
                seller: seller.map_or(0, unsigned),
                currency: currency(&row, 4)?,
                amount: unsigned(row.try_get(5)?),
                minimum: unsigned(row.try_get(6)?),
                issued: time(row.try_get(7)?),
                expires: expires.map_or(0, |expires| time(expires).0),
            };
            let key = (unsigned(row.try_get(0)?), unsigned(row.try_get(1)?));
            book.coupons.insert(key, Kept::found(coupon));
        }
    }
    if !wants.holds.is_empty() {
        let (parties, ids): (Vec<i64>, Vec<Uuid>) =
            wants.holds.into_iter().map(|(party, id)| (signed(party), Uuid::from_u128(id))).unzip();
        let select = "SELECT party, id, kind, currency, amount, held, placed_at, deadline \
                      FROM holds JOIN unnest($1::bigint[], $2::uuid[]) AS wanted(party, id) \
                      USING (party, id)";
        for row in transaction.query(select, &[&parties, &ids]).await? {
            let deadline: Option<SystemTime> = row.try_get(7)?;
            let hold = Hold {
                kind: account_kind(&row, 2)?,
                currency: currency(&row, 3)?,
                amount: unsigned(row.try_get(4)?),
                left: unsigned(row.try_get(5)?),
                placed: time(row.try_get(6)?),
                deadline: deadline.map_or(0, |deadline| time(deadline).0),
            };
            let id: Uuid = row.try_get(1)?;
            let key = (unsigned(row.try_get(0)?), id.as_u128());
            book.holds.insert(key, Kept::found(hold));
        }
    }
    if !wants.orders.is_empty() {
        load_orders(transaction, wants.orders, book).await?;
    }
    Ok(())
}

async fn load_orders(
    transaction: &Transaction<'_>,
    wanted: HashSet<(u64, u128)>,
    book: &mut Book,
) -> Result<(), SinkError> {
    let (buyers, ids): (Vec<i64>, Vec<Uuid>) =
        wanted.into_iter().map(|(buyer, id)| (signed(buyer), Uuid::from_u128(id))).unzip();
    let select = "SELECT number, buyer, id, placed_at, changed_at, outcome, state, currency, \
                  total, refunded, forfeit, received FROM orders \
                  JOIN unnest($1::bigint[], $2::uuid[]) AS wanted(buyer, id) USING (buyer, id) \
                  ORDER BY number";
    let mut orders = Vec::new();
    for row in transaction.query(select, &[&buyers, &ids]).await? {
        let id: Uuid = row.try_get(2)?;
        orders.push(Order {
            number: row.try_get(0)?,
            buyer: unsigned(row.try_get(1)?),
            id: id.as_u128(),
            placed: time(row.try_get(3)?),
            changed: time(row.try_get(4)?),
            outcome: word(&row, 5, Outcome::from_word)?,
            state: word(&row, 6, OrderState::from_word)?,
            currency: currency(&row, 7)?,
            total: unsigned(row.try_get(8)?),
            refunded: unsigned(row.try_get(9)?),
            forfeits: row.try_get(10)?,
            received: row.try_get(11)?,
            lines: Vec::new(),
            payments: Vec::new(),
        });
    }
    let numbers: Vec<i64> = orders.iter().map(|order| order.number).collect();
    let of = |number: i64| numbers.binary_search(&number).expect("it was asked for");
    let select = "SELECT order_number, kind, item, payee, quantity, unit_price, discount, refunded \
                  FROM order_lines WHERE order_number = ANY($1) ORDER BY order_number, line";
    for row in transaction.query(select, &[&numbers]).await? {
        let [item, payee, unit_price]: [Option<i64>; 3] =
            [row.try_get(2)?, row.try_get(3)?, row.try_get(5)?];
        let [quantity, refunded]: [i64; 2] = [row.try_get(4)?, row.try_get(7)?];
        orders[of(row.try_get(0)?)].lines.push(Line {
            kind: word(&row, 1, LineKind::from_word)?,
            item: item.map(unsigned),
            payee: payee.map(unsigned),
            quantity: quantity as u32,
            unit_price: unit_price.map(unsigned),
            discount: unsigned(row.try_get(6)?),
            refunded: refunded as u32,
        });
    }
    let select = "SELECT order_number, method, state, amount, paid, refunded, suspended, coupon, \
                  funder, deadline FROM order_payments WHERE order_number = ANY($1) \
                  ORDER BY order_number, payment";
    for row in transaction.query(select, &[&numbers]).await? {
        let [coupon, funder]: [Option<i64>; 2] = [row.try_get(7)?, row.try_get(8)?];
        let deadline: Option<SystemTime> = row.try_get(9)?;
        orders[of(row.try_get(0)?)].payments.push(Payment {
            method: word(&row, 1, PaymentMethod::from_word)?,
            state: word(&row, 2, LegState::from_word)?,
            amount: unsigned(row.try_get(3)?),
            paid: unsigned(row.try_get(4)?),
            refunded: unsigned(row.try_get(5)?),
            suspended: unsigned(row.try_get(6)?),
            coupon: coupon.map(unsigned),
            funder: funder.map(unsigned),
            deadline: deadline.map(time),
        });
    }
    for order in orders {
        book.orders.insert((order.buyer, order.id), Kept::found(order));
    }
    Ok(())
}

fn word<T>(row: &Row, at: usize, from: impl Fn(&str) -> Option<T>) -> Result<T, SinkError> {
    let word: &str = row.try_get(at)?;
    from(word).ok_or_else(|| SinkError::Word(word.to_string()))
}

fn currency(row: &Row, at: usize) -> Result<Currency, SinkError> {
    word(row, at, Currency::from_code)
}

fn account_kind(row: &Row, at: usize) -> Result<AccountKind, SinkError> {
    word(row, at, AccountKind::from_word)
}

/// A row's values, handed to who writes them.
type Values<'a> = &'a [&'a (dyn ToSql + Sync)];

/// Rows on their way into a table, or, if others are there already, over them.
struct Rows<'a> {
    transaction: &'a Transaction<'a>,
    table: &'static Table,
    is_staged: bool,
    writer: std::pin::Pin<Box<BinaryCopyInWriter>>,
}

impl<'a> Rows<'a> {
    async fn begin(
        transaction: &'a Transaction<'a>,
        table: &'static Table,
        is_staged: bool,
    ) -> Result<Rows<'a>, SinkError> {
        let into = if is_staged { table.stage() } else { table.name.to_string() };
        let copy = format!("COPY {into} FROM STDIN (FORMAT binary)");
        let sink = transaction.copy_in(&copy).await?;
        let writer = Box::pin(BinaryCopyInWriter::new(sink, table.types));
        Ok(Rows { transaction, table, is_staged, writer })
    }

    async fn write(&mut self, values: Values<'_>) -> Result<(), SinkError> {
        Ok(self.writer.as_mut().write(values).await?)
    }

    async fn end(mut self) -> Result<(), SinkError> {
        self.writer.as_mut().finish().await?;
        if self.is_staged {
            let Table { name, key, update, .. } = self.table;
            let stage = self.table.stage();
            let replace =
                format!("INSERT INTO {name} SELECT * FROM {stage} ON CONFLICT ({key}) DO {update}");
            self.transaction.batch_execute(&replace).await?;
        }
        Ok(())
    }
}

/// Writes a batch, and how far the log is written with it, in one transaction.
pub(super) async fn write(
    client: &mut Client,
    book: &mut Book,
    before: &Progress,
    (frames, last_event_id): (&[bytes::Bytes], Option<String>),
) -> Result<Progress, SinkError> {
    let wants = book.wants(frames)?;
    let transaction = client.transaction().await?;
    if progress(&transaction, book.part).await?.as_ref() != Some(before) {
        return Err(SinkError::SomebodyElse);
    }
    load(&transaction, wants, book).await?;
    book.take(frames)?;
    write_orders(&transaction, book).await?;
    write_others(&transaction, book).await?;
    let next: Vec<i64> = book.next.iter().copied().map(signed).collect();
    let placed = book.orders.values().filter(|order| order.is_new).count() as i64;
    let entries = book.entries.len() as i64;
    let update = "UPDATE sink SET next = $1, last_event_id = $2, event_time = $3, \
                  written_at = clock_timestamp(), orders = orders + $4, \
                  ledger_entries = ledger_entries + $5 WHERE part = $6";
    let part = i32::from(book.part.number);
    let last_event_id = last_event_id.or_else(|| before.last_event_id.clone());
    let values: Values<'_> = &[&next, &last_event_id, &moment(book.time), &placed, &entries, &part];
    transaction.execute(update, values).await?;
    transaction.commit().await?;
    Ok(Progress { next: book.next.clone(), last_event_id, ..before.clone() })
}

/// Orders, lines and payments: new ones, and those that changed.
async fn write_orders(transaction: &Transaction<'_>, book: &Book) -> Result<(), SinkError> {
    for is_new in [true, false] {
        let of = |kept: &&Kept<Order>| kept.is_changed && kept.is_new == is_new;
        let mut orders: Vec<&Order> =
            book.orders.values().filter(of).map(|kept| &kept.row).collect();
        if orders.is_empty() {
            continue;
        }
        orders.sort_unstable_by_key(|order| order.number);
        let mut rows = Rows::begin(transaction, &ORDERS, !is_new).await?;
        for order in &orders {
            rows.write(&[
                &order.number,
                &signed(order.buyer),
                &Uuid::from_u128(order.id),
                &moment(order.placed),
                &moment(order.changed),
                &order.outcome.word(),
                &order.state.word(),
                &order.currency.code(),
                &signed(order.total),
                &signed(order.refunded),
                &order.forfeits,
                &order.received,
            ])
            .await?;
        }
        rows.end().await?;
        let mut rows = Rows::begin(transaction, &LINES, !is_new).await?;
        for order in &orders {
            for (number, line) in (0i32..).zip(&order.lines) {
                rows.write(&[
                    &order.number,
                    &number,
                    &line.kind.word(),
                    &line.item.map(signed),
                    &line.payee.map(signed),
                    &i64::from(line.quantity),
                    &line.unit_price.map(signed),
                    &signed(line.discount),
                    &i64::from(line.refunded),
                ])
                .await?;
            }
        }
        rows.end().await?;
        let mut rows = Rows::begin(transaction, &PAYMENTS, !is_new).await?;
        for order in &orders {
            for (number, payment) in (0i32..).zip(&order.payments) {
                rows.write(&[
                    &order.number,
                    &number,
                    &payment.method.word(),
                    &payment.state.word(),
                    &signed(payment.amount),
                    &signed(payment.paid),
                    &signed(payment.refunded),
                    &signed(payment.suspended),
                    &payment.coupon.map(signed),
                    &payment.funder.map(signed),
                    &payment.deadline.map(moment),
                ])
                .await?;
            }
        }
        rows.end().await?;
    }
    Ok(())
}

async fn write_others(transaction: &Transaction<'_>, book: &Book) -> Result<(), SinkError> {
    if !book.entries.is_empty() {
        let mut rows = Rows::begin(transaction, &ENTRIES, false).await?;
        for entry in &book.entries {
            rows.write(&[
                &entry.record,
                &entry.entry,
                &moment(entry.at),
                &entry.kind,
                &signed(entry.party),
                &entry.currency.code(),
                &entry.amount,
                &entry.order,
            ])
            .await?;
        }
        rows.end().await?;
    }
    if !book.items.is_empty() {
        let mut rows = Rows::begin(transaction, &ITEMS, true).await?;
        for item in &book.items {
            let (item, seller, created) = (item, signed(item.seller), moment(item.created));
            rows.write(&[&signed(item.item), &seller, &item.currency.code(), &created]).await?;
        }
        rows.end().await?;
    }
    if !book.accounts.is_empty() {
        // One that was opened in this batch can't be there.
        for is_new in [true, false] {
            let of = book.accounts.iter().filter(|(_, account)| account.opened.is_some() == is_new);
            let mut rows = Rows::begin(transaction, &ACCOUNTS, !is_new).await?;
            for ((party, kind, currency), account) in of {
                let currency = Currency::from_numeric(*currency).map_or("", Currency::code);
                rows.write(&[
                    &signed(*party),
                    &kind.word(),
                    &currency,
                    &account.overdraft.map(signed),
                    &account.opened.map(moment),
                    &account.closed.map(moment),
                ])
                .await?;
            }
            rows.end().await?;
        }
    }
    let issued = book.coupons.iter().filter(|(_, coupon)| coupon.is_new);
    let mut issued = pin!(issued.peekable());
    if issued.peek().is_some() {
        let mut rows = Rows::begin(transaction, &COUPONS, false).await?;
        for ((buyer, number), Kept { row: coupon, .. }) in issued.by_ref() {
            rows.write(&[
                &signed(*buyer),
                &signed(*number),
                &signed(coupon.funder),
                &Some(coupon.seller).filter(|seller| *seller != 0).map(signed),
                &coupon.currency.code(),
                &signed(coupon.amount),
                &signed(coupon.minimum),
                &moment(coupon.issued),
                &some_moment(coupon.expires),
            ])
            .await?;
        }
        rows.end().await?;
    }
    for is_new in [true, false] {
        let of = |kept: &Kept<Hold>| kept.is_changed && kept.is_new == is_new;
        let mut holds = book.holds.iter().filter(|(_, kept)| of(kept)).peekable();
        if holds.peek().is_none() {
            continue;
        }
        let mut rows = Rows::begin(transaction, &HOLDS, !is_new).await?;
        for ((party, id), Kept { row: hold, .. }) in holds {
            rows.write(&[
                &signed(*party),
                &Uuid::from_u128(*id),
                &hold.kind.word(),
                &hold.currency.code(),
                &signed(hold.amount),
                &signed(hold.left),
                &moment(hold.placed),
                &some_moment(hold.deadline),
            ])
            .await?;
        }
        rows.end().await?;
    }
    Ok(())
}
