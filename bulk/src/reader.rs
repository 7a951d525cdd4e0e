//! CSV to the bodies of requests, without a value in between.
//!
//! Columns are found by the names in the first line, fields are checked as the platform would
//! check them, and rows are written as JSON into the body of a batch. What is wrong is told with
//! line and column, before anything of the row is sent.

use std::io::{self, Read};

use csv::ByteRecord;
use model::Currency;

use crate::BulkError;
use crate::fields::integer;
use crate::sums::{Adder, Sums};
use crate::table::{COLUMNS_MAX, Kind, Row, Table};

/// Columns of which the name begins so are passed over: an import that sets rows aside writes
/// them, and takes the file again when it was put right.
pub(crate) const REJECTED: &str = "rejected_";
/// Bytes that are read at once.
const READ_BYTES: usize = 256 << 10;
/// Bytes that are read for one record: more than any has.
const RECORD_BYTES_MAX: usize = 1 << 20;
/// Of a field that is quoted in an error.
const SHOWN_CHARS: usize = 40;

/// What is wrong with a row.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{source_name}, line {line}{}: {why}", in_column(.column))]
pub struct RowError {
    /// What was read.
    pub source_name: String,
    /// Its line, from 1.
    pub line: u64,
    /// The column, where it is one.
    pub column: Option<String>,
    /// Why it can't be taken.
    pub why: String,
}

fn in_column(column: &Option<String>) -> String {
    column.as_ref().map_or(String::new(), |column| format!(", column `{column}`"))
}

/// Where reading has come in a source.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct Place {
    /// Bytes of CSV before it.
    pub(crate) byte: u64,
    /// The line that begins there.
    pub(crate) line: u64,
    /// Rows before it, without the header.
    pub(crate) row: u64,
}

/// Rows that are sent together.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// From 0 on, without a gap.
    pub(crate) number: u64,
    /// `{"accounts":[…]}`.
    pub(crate) body: Vec<u8>,
    pub(crate) rows: usize,
    /// Line of each row behind `first_line`.
    lines: Vec<u32>,
    first_line: u64,
    pub(crate) sums: Sums,
    /// Where the row behind the last one begins.
    pub(crate) end: Place,
    /// Rows of the source that were set aside among these.
    pub(crate) set_aside: u64,
}

impl Batch {
    /// The line of a row.
    pub(crate) fn line(&self, row: usize) -> u64 {
        self.first_line + u64::from(self.lines[row])
    }

    fn begin(&mut self, number: u64, table: Table) {
        self.number = number;
        self.body.clear();
        self.body.extend_from_slice(b"{\"");
        self.body.extend_from_slice(table.name().as_bytes());
        self.body.extend_from_slice(b"\":[");
        self.rows = 0;
        self.lines.clear();
        self.set_aside = 0;
    }

    /// Its rows, as they were read.
    pub(crate) fn read_rows(&self, table: Table) -> Vec<Row> {
        let mut rows = Vec::with_capacity(self.rows);
        let read = crate::fields::page(&self.body, table.name(), |at| {
            let mut row = Row::default();
            let end = crate::fields::object(&self.body, at, |name, value| {
                let Some(column) = std::str::from_utf8(name).ok().and_then(|n| table.column(n))
                else {
                    return;
                };
                match table.columns()[column].kind {
                    Kind::Integer(..) => row.values[column] = integer(value).unwrap_or_default(),
                    Kind::Currency => row.currency = currency(value).unwrap_or(Currency::GBP),
                }
            })?;
            rows.push(row);
            Some(end)
        });
        assert!(read.is_some() && rows.len() == self.rows, "a body is what was written");
        rows
    }
}

/// Reads rows of a table.
pub(crate) struct RowReader<R> {
    csv: csv::Reader<WholeLines<R>>,
    table: Table,
    name: String,
    /// By column of the source: the table's column, `None` for one that is passed over.
    columns: Vec<Option<usize>>,
    record: ByteRecord,
    /// Where what `csv` reads began.
    base: Place,
    /// Rows read since then.
    rows: u64,
    batches: u64,
    adder: Adder,
    last_currency: (Vec<u8>, Currency),
    /// What ends it, once the rows before were handed out.
    failed: Option<BulkError>,
}

/// What a source's first line says: the table's columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// By column of the source: the table's.
    pub(crate) columns: Vec<Option<usize>>,
    /// Where the first row begins.
    pub(crate) end: Place,
}

/// A row that was set aside: its fields as they stand in the source, and why.
pub(crate) struct SetAside<'a> {
    pub(crate) fields: &'a ByteRecord,
    pub(crate) error: RowError,
}

impl<R: Read> RowReader<R> {
    /// Reads the header of a source from its beginning.
    pub(crate) fn open(table: Table, name: &str, source: R) -> Result<RowReader<R>, BulkError> {
        let begin = Place { byte: 0, line: 1, row: 0 };
        let mut reader = RowReader::new(table, name, source, begin);
        if !reader.read()? {
            return Err(reader.error(1, None, "it is empty; the first line names columns").into());
        }
        reader.columns = reader.header()?;
        reader.rows = 0;
        Ok(reader)
    }

    /// Goes on from where another one had come: `source` begins there.
    pub(crate) fn resume(
        table: Table,
        name: &str,
        source: R,
        header: &Header,
        place: Place,
    ) -> RowReader<R> {
        let mut reader = RowReader::new(table, name, source, place);
        reader.columns = header.columns.clone();
        reader
    }

    fn new(table: Table, name: &str, source: R, base: Place) -> RowReader<R> {
        let mut builder = csv::ReaderBuilder::new();
        // Of carriage return and line feed, the first is cut off the last field: else the line
        // feed would count with the next record, and lines would be one too low.
        builder.terminator(csv::Terminator::Any(b'\n'));
        builder.has_headers(false).flexible(true).buffer_capacity(READ_BYTES);
        RowReader {
            csv: builder.from_reader(WholeLines { source, is_ended: true, left: 0 }),
            table,
            name: name.to_string(),
            columns: Vec::new(),
            record: ByteRecord::new(),
            base,
            rows: 0,
            batches: 0,
            adder: Adder::default(),
            last_currency: (b"GBP".to_vec(), Currency::GBP),
            failed: None,
        }
    }

    /// What the first line says.
    pub(crate) fn header_read(&self) -> Header {
        Header { columns: self.columns.clone(), end: self.place() }
    }

    /// Where it has come.
    pub(crate) fn place(&self) -> Place {
        self.place_at(self.csv.position())
    }

    fn place_at(&self, at: &csv::Position) -> Place {
        Place {
            byte: self.base.byte + at.byte(),
            line: self.base.line + at.line() - 1,
            row: self.base.row + self.rows,
        }
    }

    /// Passes over rows that were sent before, where a source can't begin behind them.
    pub(crate) fn skip(&mut self, rows: u64) -> Result<bool, BulkError> {
        for _ in 0..rows {
            if !self.read()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads the next record; `false` at the end.
    fn read(&mut self) -> Result<bool, BulkError> {
        let is_blank = |record: &ByteRecord| record.len() == 1 && matches!(&record[0], b"" | b"\r");
        loop {
            self.csv.get_mut().left = RECORD_BYTES_MAX;
            let begun = self.csv.position().line();
            let read = self.csv.read_byte_record(&mut self.record).map_err(|error| {
                if self.csv.get_ref().left == 0 {
                    let why = "it doesn't end for a megabyte: is there a quote that isn't closed?";
                    return self.error(self.base.line + begun - 1, None, why).into();
                }
                let error = match error.into_kind() {
                    csv::ErrorKind::Io(error) => error,
                    other => io::Error::other(format!("{other:?}")),
                };
                BulkError::Source { name: self.name.clone(), error }
            })?;
            if !read || !is_blank(&self.record) {
                self.rows += u64::from(read);
                return Ok(read);
            }
        }
    }

    /// The line in which the record that was read last begins. Where it began to be looked for
    /// isn't that: there may have been blank lines.
    fn line(&self) -> u64 {
        let within = memchr::memchr_iter(b'\n', self.record.as_slice()).count() as u64;
        self.base.line + self.csv.position().line() - 2 - within
    }

    fn error(&self, line: u64, column: Option<usize>, why: impl Into<String>) -> RowError {
        let column = column.map(|column| self.table.columns()[column].name.to_string());
        RowError { source_name: self.name.clone(), line, column, why: why.into() }
    }

    fn header(&self) -> Result<Vec<Option<usize>>, RowError> {
        let mut columns = Vec::new();
        for field in &self.record {
            let name = String::from_utf8_lossy(field); // Trimmed, so without a line's end.
            let name = name.trim();
            let column = self.table.column(name);
            let column_name = Some(name.to_string());
            let error = |why| RowError { column: column_name.clone(), ..self.error(1, None, why) };
            if column.is_none() && !name.starts_with(REJECTED) {
                let known = self.table.header();
                return Err(error(format!("{} have the columns {known}", self.table.name())));
            }
            if column.is_some() && columns.contains(&column) {
                return Err(error("it is there twice".to_string()));
            }
            columns.push(column);
        }
        for (at, column) in self.table.columns().iter().enumerate() {
            if column.required && !columns.contains(&Some(at)) {
                return Err(self.error(1, Some(at), "it is missing"));
            }
        }
        Ok(columns)
    }

    /// Reads up to `most` rows into a batch; `false` if there are none. What can't be taken goes to
    /// `aside`, which may end it.
    pub(crate) fn next_batch(
        &mut self,
        batch: &mut Batch,
        most: usize,
        mut aside: impl FnMut(SetAside<'_>) -> Result<(), BulkError>,
    ) -> Result<bool, BulkError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        batch.begin(self.batches, self.table);
        let begun = self.rows;
        batch.end = Place::default();
        while batch.rows < most {
            match self.read() {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    // What came before it is sent.
                    self.failed = Some(error);
                    if let Some(at) = self.record.position() {
                        batch.end = self.place_at(at);
                    }
                    break;
                }
            }
            let line = self.line();
            if batch.lines.is_empty() {
                batch.first_line = line;
            }
            match self.row(&mut batch.body, batch.rows > 0) {
                Ok(row) => {
                    self.adder.row(row.currency, self.table.amounts(&row));
                    batch.lines.push((line - batch.first_line) as u32);
                    batch.rows += 1;
                }
                Err(error) => {
                    if let Err(error) = aside(SetAside { fields: &self.record, error }) {
                        // What came before it is sent.
                        self.failed = Some(error);
                        self.rows -= 1;
                        if let Some(at) = self.record.position() {
                            batch.end = self.place_at(at);
                        }
                        break;
                    }
                    batch.set_aside += 1;
                }
            }
        }
        if self.failed.is_none() {
            batch.end = self.place();
        }
        batch.body.extend_from_slice(b"]}");
        batch.sums = self.adder.take();
        self.batches += 1;
        match self.failed.take() {
            Some(error) if self.rows == begun => Err(error),
            failed => {
                self.failed = failed;
                Ok(self.rows > begun)
            }
        }
    }

    /// Writes the record that was read last as JSON. Nothing is written of one that can't be taken.
    fn row(&mut self, body: &mut Vec<u8>, is_next: bool) -> Result<Row, RowError> {
        if self.record.len() != self.columns.len() {
            let (is, wanted) = (self.record.len(), self.columns.len());
            let why = format!("it has {is} fields, and the first line names {wanted}");
            return Err(self.error(self.line(), None, why));
        }
        let mut row = Row::default();
        let mut texts: [&[u8]; COLUMNS_MAX] = [b""; COLUMNS_MAX];
        let all = self.table.columns();
        let last = self.columns.len() - 1;
        for (number, (text, at)) in self.record.iter().zip(&self.columns).enumerate() {
            let Some(at) = *at else { continue };
            let text = match text {
                [text @ .., b'\r'] if number == last => text,
                text => text,
            };
            let column = &all[at];
            let wrong = |expected: String| {
                let what = if text.is_empty() { "nothing".to_string() } else { shown(text) };
                self.error(self.line(), Some(at), format!("{what} is not {expected}"))
            };
            match column.kind {
                _ if text.is_empty() && !column.required => {}
                Kind::Integer(low, high) => {
                    let value = integer(text).filter(|value| (low..=high).contains(value));
                    let range = || format!("an integer from {low} to {high}");
                    row.values[at] = value.ok_or_else(|| wrong(range()))?;
                }
                Kind::Currency if text == self.last_currency.0 => {
                    row.currency = self.last_currency.1;
                }
                Kind::Currency => {
                    let expected = || "an ISO 4217 code such as GBP".to_string();
                    row.currency = currency(text).ok_or_else(|| wrong(expected()))?;
                    self.last_currency = (text.to_vec(), row.currency);
                }
            }
            texts[at] = text;
        }
        if self.table == Table::Items && row.values[6] != 0 && row.values[5] >= row.values[6] {
            return Err(self.error(self.line(), Some(6), "it must be after `opens_ms`"));
        }
        if is_next {
            body.push(b',');
        }
        for ((column, text), value) in all.iter().zip(texts).zip(row.values) {
            match (&column.kind, text) {
                (Kind::Integer(..), [] | [b'0']) if !column.required => {}
                (Kind::Integer(..), [b'0', _, ..]) => {
                    // JSON has no leading zeros.
                    body.extend_from_slice(column.json.as_bytes());
                    body.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
                }
                (Kind::Integer(..), _) => {
                    body.extend_from_slice(column.json.as_bytes());
                    body.extend_from_slice(text);
                }
                (Kind::Currency, _) => {
                    body.extend_from_slice(column.json.as_bytes());
                    body.push(b'"');
                    body.extend_from_slice(text);
                    body.push(b'"');
                }
            }
        }
        body.push(b'}');
        Ok(row)
    }
}

/// A source whose last line ends like the others, and that gives no more than so many bytes to one
/// record.
struct WholeLines<R> {
    source: R,
    is_ended: bool,
    left: usize,
}

impl<R: Read> Read for WholeLines<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Err(io::Error::other("a record is too long"));
        }
        let count = self.source.read(out)?;
        self.left = self.left.saturating_sub(count);
        match out[..count].last() {
            Some(last) => self.is_ended = *last == b'\n',
            None if self.is_ended || out.is_empty() => {}
            None => {
                (self.is_ended, out[0]) = (true, b'\n');
                return Ok(1);
            }
        }
        Ok(count)
    }
}

fn currency(text: &[u8]) -> Option<Currency> {
    Currency::from_code(std::str::from_utf8(text).ok()?)
}

/// A field as an error shows it.
fn shown(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::*;

    /// All batches of a text, or what ends it.
    fn read(table: Table, text: &str, most: usize) -> Result<Vec<(String, u64)>, String> {
        let said = |error: BulkError| error.to_string();
        let mut reader = RowReader::open(table, "a.csv", text.as_bytes()).map_err(said)?;
        let mut bodies = Vec::new();
        let mut batch = Batch::default();
        let stop = |aside: SetAside<'_>| Err(aside.error.into());
        while reader.next_batch(&mut batch, most, stop).map_err(said)? {
            let line = if batch.rows > 0 { batch.line(batch.rows - 1) } else { 0 };
            bodies.push((String::from_utf8(batch.body.clone()).unwrap(), line));
        }
        Ok(bodies)
    }

    fn check(table: Table, text: &str, expected: Expect) {
        let shown = match read(table, text, 100) {
            Ok(bodies) => {
                bodies.iter().map(|(body, _)| body.as_str()).collect::<Vec<_>>().join("\n")
            }
            Err(error) => error,
        };
        expected.assert_eq(&shown);
    }

    #[test]
    fn rows_become_bodies() {
        check(
            Table::Accounts,
            "balance,party,currency\n5,1,GBP\r\n\"6\",\"2\",\"EUR\"\n\n007,003,GBP",
            expect![[
                r#"{"accounts":[{"party":1,"currency":"GBP","balance":5},{"party":2,"currency":"EUR","balance":6},{"party":3,"currency":"GBP","balance":7}]}"#
            ]],
        );
        check(
            Table::Items,
            "item,seller,currency,price,stock,limit,opens_ms,closes_ms,rejected_why\r\n\
             0,18446744073709551615,GBP,0,0,,0,1,old\r\n7,9,GBP,250,10,2,5,,\r\n",
            expect![[
                r#"{"items":[{"item":0,"seller":18446744073709551615,"currency":"GBP","price":0,"stock":0,"closes_ms":1},{"item":7,"seller":9,"currency":"GBP","price":250,"stock":10,"opens_ms":5,"limit":2}]}"#
            ]],
        );
        check(
            Table::Accounts,
            "\u{feff}party,currency,balance,overdraft\n1,GBP,5,0\n",
            expect![[r#"{"accounts":[{"party":1,"currency":"GBP","balance":5}]}"#]],
        );
        check(Table::Accounts, "party,currency,balance\n", expect![""]);
    }

    #[test]
    fn a_quote_that_isnt_closed_ends_it_behind_the_rows_before() {
        let rest = "2,GBP,5\n".repeat(1 << 18);
        let text = format!("party,currency,balance\n1,GBP,5\n\n7,GBP,\"5\n{rest}");
        let mut reader = RowReader::open(Table::Accounts, "a.csv", text.as_bytes()).unwrap();
        let mut batch = Batch::default();
        let mut next = || {
            reader.next_batch(&mut batch, 100, |_| Ok(())).map(|some| (some, batch.rows, batch.end))
        };
        let (some, rows, end) = next().unwrap();
        assert!(some && rows == 1 && end.row == 1 && end.byte <= 33, "{end:?}");
        expect![
            "a.csv, line 3: it doesn't end for a megabyte: is there a quote that isn't closed?"
        ]
        .assert_eq(&next().unwrap_err().to_string());
    }

    #[test]
    fn what_is_wrong_is_named_with_line_and_column() {
        let accounts = |rows: &str| format!("party,currency,balance\n{rows}");
        for (text, expected) in [
            ("", expect!["a.csv, line 1: it is empty; the first line names columns"]),
            ("party,balance\n1,2\n", expect!["a.csv, line 1, column `currency`: it is missing"]),
            (
                "party,currency,balance,colour\n",
                expect![
                    "a.csv, line 1, column `colour`: accounts have the columns party,currency,balance,overdraft"
                ],
            ),
            (
                "party,currency,balance,party\n",
                expect!["a.csv, line 1, column `party`: it is there twice"],
            ),
        ] {
            check(Table::Accounts, text, expected);
        }
        let last = |text: &str| {
            let mut reader = RowReader::open(Table::Accounts, "a.csv", text.as_bytes()).unwrap();
            let (mut batch, mut sent) = (Batch::default(), 0);
            let stop = |aside: SetAside<'_>| Err(aside.error.into());
            loop {
                match reader.next_batch(&mut batch, 2, stop) {
                    Ok(true) => sent += batch.rows,
                    Ok(false) => panic!("it is taken: {text}"),
                    Err(error) => return format!("{sent} sent; {error}"),
                }
            }
        };
        for (rows, expected) in [
            (
                "1,GBP,5\n2,GBP,-5\n",
                expect![[
                    r#"1 sent; a.csv, line 3, column `balance`: "-5" is not an integer from 0 to 1000000000000000"#
                ]],
            ),
            (
                "1,GBP,5\n\n\n2,GBP,5.0\n",
                expect![[
                    r#"1 sent; a.csv, line 5, column `balance`: "5.0" is not an integer from 0 to 1000000000000000"#
                ]],
            ),
            (
                "0,GBP,5\n",
                expect![[
                    r#"0 sent; a.csv, line 2, column `party`: "0" is not an integer from 1 to 18446744073709551615"#
                ]],
            ),
            (
                "18446744073709551616,GBP,5\n",
                expect![[
                    r#"0 sent; a.csv, line 2, column `party`: "18446744073709551616" is not an integer from 1 to 18446744073709551615"#
                ]],
            ),
            (
                "1,GBP,1000000000000001\r\n",
                expect![[
                    r#"0 sent; a.csv, line 2, column `balance`: "1000000000000001" is not an integer from 0 to 1000000000000000"#
                ]],
            ),
            (
                "1,GBP,1\r\n2,GBP,1\r\n3,gbp,1\r\n",
                expect![[
                    r#"2 sent; a.csv, line 4, column `currency`: "gbp" is not an ISO 4217 code such as GBP"#
                ]],
            ),
            (
                "1,GBP,\n",
                expect![
                    "0 sent; a.csv, line 2, column `balance`: nothing is not an integer from 0 to 1000000000000000"
                ],
            ),
            (
                "1,GBP\n",
                expect!["0 sent; a.csv, line 2: it has 2 fields, and the first line names 3"],
            ),
            (
                "1,GBP,5,\n",
                expect!["0 sent; a.csv, line 2: it has 4 fields, and the first line names 3"],
            ),
            (
                "1,\"G\nB\nP\",5\n",
                expect![[
                    r#"0 sent; a.csv, line 2, column `currency`: "G\nB\nP" is not an ISO 4217 code such as GBP"#
                ]],
            ),
            (
                "1,GBP,5\n\"2\",GBP,5\n3,GBP,\"5\n\"\n",
                expect![[
                    r#"2 sent; a.csv, line 4, column `balance`: "5\n" is not an integer from 0 to 1000000000000000"#
                ]],
            ),
        ] {
            expected.assert_eq(&last(&accounts(rows)));
        }
        check(
            Table::Items,
            "item,seller,currency,price,stock,opens_ms,closes_ms\n1,9,GBP,1,1,5,5\n",
            expect!["a.csv, line 2, column `closes_ms`: it must be after `opens_ms`"],
        );
    }

    #[test]
    fn reading_goes_on_where_a_batch_ended() {
        let text = "party,currency,balance\r\n1,GBP,5\r\n\r\n2,GBP,6\r\n3,EUR,7\r\n4,GBP,8\r\n";
        let mut whole = RowReader::open(Table::Accounts, "a.csv", text.as_bytes()).unwrap();
        let header = whole.header_read();
        let mut batch = Batch::default();
        let stop = |aside: SetAside<'_>| Err(aside.error.into());
        let mut last = header.end;
        while whole.next_batch(&mut batch, 1, stop).unwrap() {
            let rest = &text.as_bytes()[last.byte as usize..];
            let mut resumed = RowReader::resume(Table::Accounts, "a.csv", rest, &header, last);
            let mut again = Batch::default();
            resumed.next_batch(&mut again, 1, stop).unwrap();
            assert_eq!(
                (&again.body, again.end, again.line(0)),
                (&batch.body, batch.end, batch.line(0))
            );
            assert_eq!(again.read_rows(Table::Accounts).len(), 1);
            last = batch.end;
        }
        assert_eq!((last.byte, last.row), (text.len() as u64, 4));
    }

    #[derive(Clone, Debug)]
    struct PlainRow {
        party: u64,
        currency: &'static str,
        balance: u64,
        overdraft: Option<u64>,
        quoted: [bool; 4],
        blank_before: bool,
    }

    fn plain_row() -> impl Strategy<Value = PlainRow> {
        (
            1..=u64::MAX,
            prop_oneof![Just("GBP"), Just("EUR"), Just("JPY")],
            0..=1_000_000_000_000_000u64,
            proptest::option::of(0..=1_000_000_000_000_000u64),
            any::<[bool; 4]>(),
            proptest::bool::weighted(0.1),
        )
            .prop_map(|(party, currency, balance, overdraft, quoted, blank_before)| {
                PlainRow { party, currency, balance, overdraft, quoted, blank_before }
            })
    }

    proptest! {
        /// Beside a model that writes every value with the standard library.
        #[test]
        fn any_rows_are_read_as_they_were_written(
            rows in proptest::collection::vec(plain_row(), 0..60),
            crlf in any::<bool>(),
            ends in any::<bool>(),
            order in Just([0usize, 1, 2, 3]).prop_shuffle(),
            most in 1usize..20,
        ) {
            let end = if crlf { "\r\n" } else { "\n" };
            let names = ["party", "currency", "balance", "overdraft"];
            let mut text = order.map(|at| names[at]).join(",");
            let (mut line, mut lines) = (1u64, Vec::new());
            for row in &rows {
                text.push_str(end);
                line += 1;
                if row.blank_before {
                    text.push_str(end);
                    line += 1;
                }
                lines.push(line);
                let overdraft = row.overdraft.map_or(String::new(), |amount| amount.to_string());
                let fields = [row.party.to_string(), row.currency.to_string(), row.balance.to_string(), overdraft];
                let shown = order.map(|at| match row.quoted[at] {
                    true => format!("\"{}\"", fields[at]),
                    false => fields[at].clone(),
                });
                text.push_str(&shown.join(","));
            }
            if ends {
                text.push_str(end);
            }
            let expected = |rows: &[PlainRow]| {
                let rows: Vec<String> = rows.iter().map(|row| {
                    let PlainRow { party, currency, balance, overdraft, .. } = row;
                    let overdraft = match overdraft.unwrap_or_default() {
                        0 => String::new(),
                        amount => format!(",\"overdraft\":{amount}"),
                    };
                    format!("{{\"party\":{party},\"currency\":\"{currency}\",\"balance\":{balance}{overdraft}}}")
                }).collect();
                format!("{{\"accounts\":[{}]}}", rows.join(","))
            };
            let bodies = read(Table::Accounts, &text, most).unwrap();
            let model: Vec<(String, u64)> = rows
                .chunks(most)
                .zip(lines.chunks(most))
                .map(|(rows, lines)| (expected(rows), *lines.last().unwrap()))
                .collect();
            prop_assert_eq!(bodies, model);
        }

        /// Whatever the bytes are, they are taken or named.
        #[test]
        fn any_bytes_end_well(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let text = [b"party,currency,balance\n", &bytes[..]].concat();
            let mut reader = RowReader::open(Table::Accounts, "a.csv", &text[..]).unwrap();
            let mut batch = Batch::default();
            let mut aside = 0;
            while reader.next_batch(&mut batch, 3, |_| { aside += 1; Ok(()) }).unwrap() {
                prop_assert_eq!(batch.read_rows(Table::Accounts).len(), batch.rows);
            }
        }
    }
}
