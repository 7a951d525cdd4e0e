//! Turns a file of real purchases into a plan of orders and refunds to replay.
//!
//! A shop's export is a list of rows, one per invoice line. The plan puts the rows of one invoice
//! together, gives every item and buyer an id, and says for each return which units of which
//! earlier order go back, so that whoever replays it decides nothing. The same bytes give the same
//! plan: nothing here reads a clock, and numbers are taken from their text, never through a float.
//!
//! - An invoice is an order, unless its number begins with `C` (a return) or `A` (an adjustment of
//!   the books, skipped). It stands where its first row stands and has that row's time, even where
//!   its other rows come later in the file or differ by a minute.
//! - An order's lines are its rows in file order that sell at least one whole unit at a price in
//!   whole pence, which may be 0. The buyer is the customer that the invoice names, or a guest of
//!   its own ([`GUEST_FIRST`]).
//! - A return gives units of exactly the same stock code back to the same buyer's orders that
//!   stand earlier in the plan and still hold some: the newest order first, in an order the lowest
//!   line first. What was paid there is refunded; the return's own price isn't read. Units that no
//!   order holds, and all that guests return, are counted as unmatched.
//! - A row that doesn't fit is skipped and counted by reason ([`skip`]), never mended. Only what
//!   puts the whole file in doubt is an error: broken CSV, a missing column, an unreadable date,
//!   text that isn't UTF-8.
//!
//! Columns are found by the names in the header row, in any order. `Description` and `Country` have
//! no part in a plan: they are not looked at, may be missing, and may be in any encoding.

mod text;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use csv::ByteRecord;
use flate2::read::MultiGzDecoder;
use model::record::LINES_MAX;
use model::{Amount, ItemId, Party, Quantity};
use serde::Serialize;

use text::{customer, returned_quantity, sold_quantity, unit_price, unix_seconds};

/// The lowest id of a guest: 2⁴⁰. The guest of the plan's n-th order without a customer, from 0,
/// is `GUEST_FIRST + n`; customers are below.
pub const GUEST_FIRST: Party = Party(1 << 40);

/// What a purchase file asks a load generator to do, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// Every item that is ever sold. `ItemId(1)` is the first: ids go by the items' first
    /// appearance in the file among the rows that became lines.
    pub items: Vec<TraceItem>,
    /// Orders and refunds, by the place of their invoices in the file.
    pub events: Vec<Event>,
    /// What the file held.
    pub totals: Totals,
}

/// An item of a [`Plan`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TraceItem {
    /// The shop's stock code.
    pub code: String,
    /// The unit price, in pence, of the first line in the file that sells it.
    pub price: Amount,
    /// Units that the plan's orders sell, with those refunded later: enough stock for all.
    pub units_sold: u64,
}

/// One thing to replay.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A buyer's order.
    Order {
        /// The invoice's number.
        invoice: String,
        /// A customer, or a guest from [`GUEST_FIRST`] on.
        buyer: Party,
        /// Seconds since 1970-01-01 00:00:00 on the shop's clock, whose zone the file doesn't say.
        /// Mostly not before the preceding event's; only the file's order is promised.
        time_s: u64,
        /// 1 to [`LINES_MAX`] lines, worth at most [`Amount::MAX`] together.
        lines: Vec<TraceLine>,
    },
    /// Units of one earlier order that go back. A return that touches several orders gives a
    /// refund for each, in the order in which it came to them.
    Refund {
        /// The return's number.
        invoice: String,
        /// The order's buyer.
        buyer: Party,
        /// The order's index in [`Plan::events`], smaller than this event's.
        order: usize,
        /// Lines of the order, from 0 and ascending, each with 1 unit or more, and never more
        /// than the line still holds.
        lines: Vec<(u16, u32)>,
        /// As for an order.
        time_s: u64,
    },
}

impl Event {
    /// Whose it is.
    pub fn buyer(&self) -> Party {
        match self {
            Event::Order { buyer, .. } | Event::Refund { buyer, .. } => *buyer,
        }
    }

    /// The invoice's or the return's number.
    pub fn invoice(&self) -> &str {
        match self {
            Event::Order { invoice, .. } | Event::Refund { invoice, .. } => invoice,
        }
    }

    /// When it happened.
    pub fn time_s(&self) -> u64 {
        match self {
            Event::Order { time_s, .. } | Event::Refund { time_s, .. } => *time_s,
        }
    }
}

/// A line of an order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TraceLine {
    /// Its place in [`Plan::items`], from 1.
    pub item: ItemId,
    /// Units, at least 1.
    pub quantity: Quantity,
    /// Pence for each; may be 0.
    pub unit_price: Amount,
}

/// What a file held, counted.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Totals {
    /// Rows below the header, with those skipped.
    pub rows: u64,
    /// Orders in the plan.
    pub orders: u64,
    /// Lines of these orders.
    pub lines: u64,
    /// Refunds in the plan. A return gives none, one or several.
    pub refunds: u64,
    /// Units of all lines.
    pub units_sold: u64,
    /// Units of all refunds.
    pub units_refunded: u64,
    /// Units returned that no earlier order of the buyer holds.
    pub units_unmatched: u64,
    /// What was skipped, by reason (see [`skip`]). Every reason counts rows but one:
    /// [`skip::ORDER_WITHOUT_LINES`] counts orders, whose rows are counted by their own reasons.
    pub skipped: BTreeMap<&'static str, u64>,
    /// What the orders cost less what the refunds give back.
    pub revenue_pence: i64,
}

/// Why something was skipped. A row that several reasons fit counts under the first of this list.
pub mod skip {
    /// The row has no invoice number, so nothing says what it belongs to.
    pub const INVOICE_EMPTY: &str = "invoice_empty";
    /// The invoice begins with `A`.
    pub const ADJUSTMENT_INVOICE: &str = "adjustment_invoice";
    /// The customer isn't a whole number from 1 to below [`GUEST_FIRST`](super::GUEST_FIRST).
    pub const CUSTOMER_UNREADABLE: &str = "customer_unreadable";
    /// An earlier row of the invoice names another customer.
    pub const CUSTOMER_DIFFERS: &str = "customer_differs";
    /// The row has no stock code.
    pub const CODE_EMPTY: &str = "code_empty";
    /// The quantity isn't a decimal number.
    pub const QUANTITY_UNREADABLE: &str = "quantity_unreadable";
    /// The quantity has a fraction.
    pub const QUANTITY_NOT_WHOLE: &str = "quantity_not_whole";
    /// An order's quantity is 0 or negative.
    pub const QUANTITY_NOT_POSITIVE: &str = "quantity_not_positive";
    /// A return's quantity is 0 or positive.
    pub const RETURN_NOT_NEGATIVE: &str = "return_not_negative";
    /// The quantity passes [`Quantity::MAX`](model::Quantity::MAX).
    pub const QUANTITY_TOO_LARGE: &str = "quantity_too_large";
    /// The price isn't a decimal number.
    pub const PRICE_UNREADABLE: &str = "price_unreadable";
    /// The price isn't in whole pence.
    pub const PRICE_NOT_WHOLE_PENCE: &str = "price_not_whole_pence";
    /// The price is negative.
    pub const PRICE_NEGATIVE: &str = "price_negative";
    /// The price passes [`Amount::MAX`](model::Amount::MAX).
    pub const PRICE_TOO_LARGE: &str = "price_too_large";
    /// The order has [`LINES_MAX`](model::record::LINES_MAX) lines already.
    pub const ORDER_TOO_MANY_LINES: &str = "order_too_many_lines";
    /// The order would pass [`Amount::MAX`](model::Amount::MAX).
    pub const ORDER_TOO_LARGE: &str = "order_too_large";
    /// No row of the order became a line. Counts orders, not rows.
    pub const ORDER_WITHOUT_LINES: &str = "order_without_lines";
}

/// Why a file gives no plan. Rows are numbered as a spreadsheet does: the header is row 1.
///
/// The same file fails the same way again; only [`TraceError::Open`], and an I/O error within
/// [`TraceError::Csv`], may pass.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// The name doesn't say how to read the file.
    #[error("{}: the name of a purchase file ends in .csv or .csv.gz", file.display())]
    UnknownName {
        /// The file.
        file: PathBuf,
    },
    /// The file can't be opened.
    #[error("{}: cannot open the purchase file: {source}", file.display())]
    Open {
        /// The file.
        file: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The bytes aren't CSV or gzip, a row has more or fewer fields than the header, or reading
    /// failed half-way.
    #[error("{}: row {row}: cannot read it as CSV: {source}", file.display())]
    Csv {
        /// The file.
        file: PathBuf,
        /// The row that could not be read.
        row: u64,
        /// What the CSV reader said.
        source: csv::Error,
    },
    /// A column that the plan needs isn't in the header.
    #[error("{}: row 1: the header has no column {column}", file.display())]
    MissingColumn {
        /// The file.
        file: PathBuf,
        /// The column.
        column: &'static str,
    },
    /// A field that the plan needs isn't UTF-8.
    #[error("{}: row {row}, column {column}: not UTF-8: {value:?}", file.display())]
    NotUtf8 {
        /// The file.
        file: PathBuf,
        /// The row.
        row: u64,
        /// The column.
        column: &'static str,
        /// The field, with a replacement character for what can't be read.
        value: String,
    },
    /// A date that isn't one.
    #[error(
        "{}: row {row}, column InvoiceDate: {value:?} is not a time YYYY-MM-DD HH:MM:SS from 1970 on",
        file.display()
    )]
    Date {
        /// The file.
        file: PathBuf,
        /// The row.
        row: u64,
        /// The field.
        value: String,
    },
    /// The orders cost more together than the totals can say.
    #[error("{}: the revenue of {pence} pence passes the limit of {} pence", file.display(), i64::MAX)]
    RevenueTooLarge {
        /// The file.
        file: PathBuf,
        /// The revenue.
        pence: i128,
    },
}

impl Plan {
    /// Reads the purchase file at `path`, whose name ends in `.csv` or `.csv.gz`.
    pub fn open(path: &Path) -> Result<Plan, TraceError> {
        let name = path.as_os_str().as_encoded_bytes();
        let gzipped = name.ends_with(b".csv.gz");
        if !gzipped && !name.ends_with(b".csv") {
            return Err(TraceError::UnknownName { file: path.into() });
        }
        let file =
            File::open(path).map_err(|source| TraceError::Open { file: path.into(), source })?;
        if gzipped {
            Plan::from_csv(path, MultiGzDecoder::new(io::BufReader::new(file)))
        } else {
            Plan::from_csv(path, file)
        }
    }

    /// Makes the plan of plain CSV bytes. `file` is only what errors call them.
    pub fn from_csv(file: &Path, input: impl Read) -> Result<Plan, TraceError> {
        let unreadable = |row, source| TraceError::Csv { file: file.into(), row, source };
        let mut reader = csv::Reader::from_reader(input);
        let header = reader.byte_headers().map_err(|source| unreadable(HEADER_ROW, source))?;
        let columns = Columns::find(file, header)?;

        let mut invoices = Invoices::default();
        let mut record = ByteRecord::new();
        let mut number = HEADER_ROW + 1;
        while reader.read_byte_record(&mut record).map_err(|source| unreadable(number, source))? {
            invoices.add(&columns.row(file, number, &record)?);
            number += 1;
        }
        invoices
            .into_plan()
            .map_err(|pence| TraceError::RevenueTooLarge { file: file.into(), pence })
    }
}

// From bytes to rows.

/// Where the fields that a plan needs stand in a record.
struct Columns {
    invoice: Column,
    code: Column,
    quantity: Column,
    date: Column,
    price: Column,
    customer: Column,
}

#[derive(Clone, Copy)]
struct Column {
    name: &'static str,
    index: usize,
}

/// The fields of one row that a plan needs.
struct Row<'a> {
    invoice: &'a str,
    code: &'a str,
    quantity: &'a str,
    time_s: u64,
    price: &'a str,
    customer: &'a str,
}

impl Columns {
    fn find(file: &Path, header: &ByteRecord) -> Result<Columns, TraceError> {
        let find = |name: &'static str| match header.iter().position(|h| h == name.as_bytes()) {
            Some(index) => Ok(Column { name, index }),
            None => Err(TraceError::MissingColumn { file: file.into(), column: name }),
        };
        Ok(Columns {
            invoice: find("InvoiceNo")?,
            code: find("StockCode")?,
            quantity: find("Quantity")?,
            date: find("InvoiceDate")?,
            price: find("UnitPrice")?,
            customer: find("CustomerID")?,
        })
    }

    fn row<'a>(
        &self,
        file: &Path,
        number: u64,
        record: &'a ByteRecord,
    ) -> Result<Row<'a>, TraceError> {
        let text = |column: Column| {
            // The reader refuses a record whose length isn't the header's.
            let field = &record[column.index];
            std::str::from_utf8(field).map_err(|_| TraceError::NotUtf8 {
                file: file.into(),
                row: number,
                column: column.name,
                value: String::from_utf8_lossy(field).into_owned(),
            })
        };
        let date = text(self.date)?;
        let time_s = unix_seconds(date).ok_or_else(|| TraceError::Date {
            file: file.into(),
            row: number,
            value: date.into(),
        })?;
        Ok(Row {
            invoice: text(self.invoice)?,
            code: text(self.code)?,
            quantity: text(self.quantity)?,
            time_s,
            price: text(self.price)?,
            customer: text(self.customer)?,
        })
    }
}

// From rows to invoices.

/// The invoices of the rows so far. Only the last row tells that an invoice is complete.
#[derive(Default)]
struct Invoices {
    invoices: Vec<Invoice>,
    by_number: HashMap<String, usize>,
    items: Vec<TraceItem>,
    by_code: HashMap<String, ItemId>,
    rows: u64,
    skipped: BTreeMap<&'static str, u64>,
}

struct Invoice {
    number: String,
    time_s: u64,
    customer: Option<Party>,
    content: Content,
}

enum Content {
    Order { lines: Vec<TraceLine>, pence: u64 },
    Return(Vec<Returned>),
}

struct Returned {
    /// Not an id yet: the item may be one that nothing sells.
    code: String,
    quantity: u32,
}

impl Invoices {
    fn add(&mut self, row: &Row) {
        self.rows += 1;
        if let Err(reason) = self.accept(row) {
            *self.skipped.entry(reason).or_default() += 1;
        }
    }

    fn accept(&mut self, row: &Row) -> Result<(), &'static str> {
        match row.invoice.as_bytes().first() {
            None => return Err(skip::INVOICE_EMPTY),
            Some(b'A') => return Err(skip::ADJUSTMENT_INVOICE),
            Some(_) => {}
        }
        let index = self.invoice(row);
        let invoice = &mut self.invoices[index];

        if let Some(customer) = customer(row.customer)?
            && *invoice.customer.get_or_insert(customer) != customer
        {
            return Err(skip::CUSTOMER_DIFFERS);
        }
        if row.code.is_empty() {
            return Err(skip::CODE_EMPTY);
        }
        match &mut invoice.content {
            Content::Return(returned) => {
                let quantity = returned_quantity(row.quantity)?;
                returned.push(Returned { code: row.code.into(), quantity });
            }
            Content::Order { lines, pence } => {
                let quantity = sold_quantity(row.quantity)?;
                let unit_price = unit_price(row.price)?;
                if lines.len() == LINES_MAX {
                    return Err(skip::ORDER_TOO_MANY_LINES);
                }
                // At most 10⁹ units of 10¹⁵ pence, which 128 bits hold with ease.
                let sum = u128::from(*pence) + u128::from(quantity.0) * u128::from(unit_price.0);
                *pence = u64::try_from(sum)
                    .ok()
                    .filter(|sum| *sum <= Amount::MAX.0)
                    .ok_or(skip::ORDER_TOO_LARGE)?;
                let item = sell(&mut self.items, &mut self.by_code, row.code, unit_price, quantity);
                lines.push(TraceLine { item, quantity, unit_price });
            }
        }
        Ok(())
    }

    /// The index of the row's invoice, which the first row of it opens.
    fn invoice(&mut self, row: &Row) -> usize {
        if let Some(&index) = self.by_number.get(row.invoice) {
            return index;
        }
        let index = self.invoices.len();
        let content = if row.invoice.starts_with('C') {
            Content::Return(Vec::new())
        } else {
            Content::Order { lines: Vec::new(), pence: 0 }
        };
        let number = String::from(row.invoice);
        self.by_number.insert(number.clone(), index);
        self.invoices.push(Invoice { number, time_s: row.time_s, customer: None, content });
        index
    }

    /// The plan of all invoices, or the revenue where it can't be said in 64 bits.
    fn into_plan(self) -> Result<Plan, i128> {
        let totals = Totals { rows: self.rows, skipped: self.skipped, ..Totals::default() };
        let mut planner =
            Planner { events: Vec::new(), held: HashMap::new(), guests: 0, totals, pence: 0 };
        for Invoice { number, time_s, customer, content } in self.invoices {
            match content {
                Content::Order { lines, .. } => planner.order(number, time_s, customer, lines),
                Content::Return(returned) => {
                    planner.take_back(number, time_s, customer, &returned, &self.by_code);
                }
            }
        }
        let Planner { events, mut totals, pence, .. } = planner;
        totals.revenue_pence = i64::try_from(pence).map_err(|_| pence)?;
        Ok(Plan { items: self.items, events, totals })
    }
}

/// Counts the units as sold; the first line that sells an item gives it its id and price.
fn sell(
    items: &mut Vec<TraceItem>,
    by_code: &mut HashMap<String, ItemId>,
    code: &str,
    price: Amount,
    quantity: Quantity,
) -> ItemId {
    let id = match by_code.get(code) {
        Some(&id) => id,
        None => {
            items.push(TraceItem { code: code.into(), price, units_sold: 0 });
            let id = ItemId(items.len() as u64);
            by_code.insert(code.into(), id);
            id
        }
    };
    items[id.0 as usize - 1].units_sold += u64::from(quantity.0);
    id
}

// From invoices to events.

/// Goes through the invoices in the plan's order and knows what returns can still take back.
struct Planner {
    events: Vec<Event>,
    /// What customers hold of an item, oldest first. The last entry has units left: returns take
    /// the newest order first, and in it the lowest line first, so that an order's last line is
    /// the last to go.
    held: HashMap<(Party, ItemId), Vec<Held>>,
    guests: u64,
    totals: Totals,
    pence: i128,
}

/// Units of a line that no return has taken back.
struct Held {
    order: usize,
    line: u16,
    left: u32,
    unit_price: Amount,
}

impl Planner {
    fn order(
        &mut self,
        invoice: String,
        time_s: u64,
        customer: Option<Party>,
        lines: Vec<TraceLine>,
    ) {
        if lines.is_empty() {
            *self.totals.skipped.entry(skip::ORDER_WITHOUT_LINES).or_default() += 1;
            return;
        }
        let order = self.events.len();
        self.totals.orders += 1;
        self.totals.lines += lines.len() as u64;
        for (line, sold) in (0u16..).zip(&lines) {
            let left = sold.quantity.0;
            self.totals.units_sold += u64::from(left);
            self.pence += pence(left, sold.unit_price);
            if let Some(customer) = customer {
                let held = self.held.entry((customer, sold.item)).or_default();
                held.push(Held { order, line, left, unit_price: sold.unit_price });
            }
        }
        let buyer = customer.unwrap_or_else(|| {
            let guest = Party(GUEST_FIRST.0 + self.guests);
            self.guests += 1;
            guest
        });
        self.events.push(Event::Order { invoice, buyer, time_s, lines });
    }

    fn take_back(
        &mut self,
        invoice: String,
        time_s: u64,
        customer: Option<Party>,
        returned: &[Returned],
        by_code: &HashMap<String, ItemId>,
    ) {
        // The orders in the order of their first match, each with its lines.
        let mut refunds: Vec<(usize, BTreeMap<u16, u32>)> = Vec::new();
        for Returned { code, quantity } in returned {
            let mut wanted = *quantity;
            let held = customer
                .and_then(|customer| by_code.get(code).map(|&item| (customer, item)))
                .and_then(|key| self.held.get_mut(&key));
            if let Some(held) = held {
                for taken in take(held, &mut wanted) {
                    self.totals.units_refunded += u64::from(taken.left);
                    self.pence -= pence(taken.left, taken.unit_price);
                    let at = refunds.iter().position(|(order, _)| *order == taken.order);
                    let at = at.unwrap_or_else(|| {
                        refunds.push((taken.order, BTreeMap::new()));
                        refunds.len() - 1
                    });
                    *refunds[at].1.entry(taken.line).or_default() += taken.left;
                }
            }
            self.totals.units_unmatched += u64::from(wanted);
        }
        let Some(buyer) = customer else { return };
        self.totals.refunds += refunds.len() as u64;
        for (order, lines) in refunds {
            let lines = lines.into_iter().collect();
            self.events.push(Event::Refund {
                invoice: invoice.clone(),
                buyer,
                order,
                lines,
                time_s,
            });
        }
    }
}

/// Takes up to `wanted` units out of `held` and lessens `wanted` by them. In what is returned,
/// `left` is the units taken of the line.
fn take(held: &mut Vec<Held>, wanted: &mut u32) -> Vec<Held> {
    let mut taken = Vec::new();
    'wanted: for order in held.chunk_by_mut(|a, b| a.order == b.order).rev() {
        for held in order.iter_mut().filter(|held| held.left > 0) {
            let units = held.left.min(*wanted);
            held.left -= units;
            *wanted -= units;
            taken.push(Held { left: units, ..*held });
            if *wanted == 0 {
                break 'wanted;
            }
        }
    }
    while held.last().is_some_and(|held| held.left == 0) {
        held.pop();
    }
    taken
}

fn pence(quantity: u32, unit_price: Amount) -> i128 {
    i128::from(quantity) * i128::from(unit_price.0)
}

/// The number of the header in errors.
const HEADER_ROW: u64 = 1;

/// Lines are numbered in 16 bits.
const _: () = assert!(LINES_MAX <= u16::MAX as usize);

/// Guests are numbers that every JSON reader takes exactly, for as many orders as fit in memory.
const _: () = assert!(GUEST_FIRST.0 < 1 << 52);
