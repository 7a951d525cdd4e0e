//! An export: all rows of a table, as CSV that an import takes.
//!
//! Each page is of its own moment. A file is written under another name and gets its own when it
//! is whole, a table of PostgreSQL is filled in one transaction: so what is there is all of it, and
//! an export that was ended begins again.

use std::cell::RefCell;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use loadgen::Target;

use crate::held::{HeldRow, read_all};
use crate::postgres::Inserted;
use crate::source::open_file;
use crate::sums::{Adder, Sums};
use crate::table::Table;
use crate::{BulkError, fields};

/// Where rows go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// A CSV file; one whose name ends in `.gz` is packed.
    File(PathBuf),
    /// A table of PostgreSQL.
    Postgres {
        /// Such as `postgres://user@host/database`.
        url: String,
        /// The table's name.
        table: String,
    },
}

/// How an export goes.
#[derive(Clone, Copy, Debug)]
pub struct ExportOptions {
    /// Pages that are read at a time, each on a connection of its own.
    pub connections: usize,
    /// Whether a file is read again.
    pub verify: bool,
    /// How long the platform may be away or busy.
    pub patience: Duration,
}

/// What came of an export of one table.
#[derive(Clone, Debug)]
pub struct Exported {
    /// Of what.
    pub table: Table,
    /// Where to.
    pub output: String,
    /// What the platform showed.
    pub shown: Sums,
    /// What was found there afterwards, if that was asked for.
    pub written: Option<Sums>,
    /// Closed accounts, which are left out.
    pub closed: u64,
    /// Accounts with less than nothing, which no import takes.
    pub overdrawn: u64,
    /// Items of which orders have units: these aren't a part of what was written.
    pub partly_taken: u64,
    /// How long it took to read and write.
    pub elapsed: Duration,
}

impl Exported {
    /// Whether what was written is what the platform showed; `None`: nobody looked.
    pub fn is_whole(&self) -> Option<bool> {
        self.written.as_ref().map(|written| *written == self.shown)
    }
}

/// What all readers share.
struct Writing {
    sink: Sink,
    adder: Adder,
    closed: u64,
    overdrawn: u64,
    partly_taken: u64,
    text: Vec<u8>,
}

enum Sink {
    Plain(BufWriter<File>),
    Packed(GzEncoder<BufWriter<File>>),
    Postgres(Inserted),
}

/// Exports a table. Runs on the current thread's `LocalSet`.
pub async fn export(
    target: &Target,
    table: Table,
    output: &Output,
    options: &ExportOptions,
) -> Result<Exported, BulkError> {
    let began = Instant::now();
    let partial = match output {
        Output::File(path) => Some((partial_name(path), path)),
        Output::Postgres { .. } => None,
    };
    let sink = match (output, &partial) {
        (Output::Postgres { url, table: into }, _) => {
            Sink::Postgres(Inserted::open(table, url, into)?)
        }
        (Output::File(path), Some((partial, _))) => {
            let file = File::create(partial).map_err(BulkError::file(partial))?;
            let file = BufWriter::with_capacity(1 << 20, file);
            match path.extension().is_some_and(|end| end == "gz") {
                true => Sink::Packed(GzEncoder::new(file, Compression::fast())),
                false => Sink::Plain(file),
            }
        }
        (Output::File(_), None) => unreachable!("a file has a name"),
    };
    let writing = Rc::new(RefCell::new(Writing {
        sink,
        adder: Adder::default(),
        closed: 0,
        overdrawn: 0,
        partly_taken: 0,
        text: Vec::new(),
    }));
    let at = partial.as_ref().map_or(PathBuf::new(), |(partial, _)| partial.clone());
    if partial.is_some() {
        let mut writing = writing.borrow_mut();
        writing.text = format!("{}\n", table.header()).into_bytes();
        writing.write(&at)?;
    }
    let (taking, place) = (writing.clone(), at.clone());
    read_all(target, table, options.connections, options.patience, move |rows| {
        let mut writing = taking.borrow_mut();
        rows.iter().for_each(|row| writing.add(table, row));
        writing.write(&place)
    })
    .await?;
    let Ok(writing) = Rc::try_unwrap(writing) else { unreachable!("all readers have ended") };
    let Writing { sink, mut adder, closed, overdrawn, partly_taken, .. } = writing.into_inner();
    let shown = adder.take();
    let written = match (sink, &partial) {
        (Sink::Postgres(inserted), _) => Some(inserted.commit()?),
        (sink, Some((partial, path))) => {
            finish(sink, partial)?;
            std::fs::rename(partial, path).map_err(BulkError::file(path))?;
            None
        }
        _ => unreachable!("a file has a name"),
    };
    let elapsed = began.elapsed();
    let written = match (written, output) {
        (None, Output::File(path)) if options.verify => Some(read_back(table, path)?),
        (written, _) => written,
    };
    let output = match output {
        Output::File(path) => path.display().to_string(),
        Output::Postgres { table, .. } => format!("PostgreSQL, {table}"),
    };
    Ok(Exported { table, output, shown, written, closed, overdrawn, partly_taken, elapsed })
}

impl Writing {
    fn add(&mut self, table: Table, row: &HeldRow) {
        if row.closed {
            self.closed += 1;
            return;
        }
        self.overdrawn += u64::from(row.balance < 0);
        self.partly_taken += u64::from(row.taken > 0);
        let stock = row.values[4].saturating_sub(row.taken);
        let amounts = match table {
            Table::Accounts => row.amounts(table),
            Table::Items => [stock.into(), row.values[3].into()],
        };
        self.adder.row(row.currency, amounts);
        let mut digits = itoa::Buffer::new();
        for (at, column) in table.columns().iter().enumerate() {
            if at > 0 {
                self.text.push(b',');
            }
            let text = match column.name {
                "currency" => row.currency.code(),
                "balance" => digits.format(row.balance),
                "stock" => digits.format(stock),
                _ => digits.format(row.values[at]),
            };
            self.text.extend_from_slice(text.as_bytes());
        }
        self.text.push(b'\n');
    }

    fn write(&mut self, place: &Path) -> Result<(), BulkError> {
        if self.text.is_empty() {
            return Ok(()); // A page may be empty.
        }
        match &mut self.sink {
            Sink::Plain(file) => file.write_all(&self.text).map_err(BulkError::file(place))?,
            Sink::Packed(file) => file.write_all(&self.text).map_err(BulkError::file(place))?,
            Sink::Postgres(inserted) => inserted.write(self.text.clone())?,
        }
        self.text.clear();
        Ok(())
    }
}

fn finish(sink: Sink, place: &Path) -> Result<(), BulkError> {
    let finish = || {
        let file = match sink {
            Sink::Plain(file) => file,
            Sink::Packed(file) => file.finish()?,
            Sink::Postgres(_) => unreachable!("it is no file"),
        };
        file.into_inner()?.sync_all()
    };
    finish().map_err(BulkError::file(place))
}

fn partial_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(".partial");
    name.into()
}

/// What is in a file that was written: by what its own fields say.
fn read_back(table: Table, path: &Path) -> Result<Sums, BulkError> {
    let wrong = |why: String| BulkError::Source {
        name: path.display().to_string(),
        error: std::io::Error::other(why),
    };
    let mut csv = csv::ReaderBuilder::new().from_reader(open_file(path, None)?);
    let columns = ["currency", table.summed()[0], table.summed()[1]];
    let places = columns.map(|name| table.column(name).unwrap_or_default());
    let mut record = csv::ByteRecord::new();
    let mut adder = Adder::default();
    while csv.read_byte_record(&mut record).map_err(|error| wrong(error.to_string()))? {
        let [currency, first, second] = places.map(|place| record.get(place).unwrap_or_default());
        let currency = std::str::from_utf8(currency).ok().and_then(model::Currency::from_code);
        let amounts = (fields::signed(first), fields::signed(second));
        match (currency, amounts) {
            (Some(currency), (Some(first), Some(second))) => adder.row(currency, [first, second]),
            _ => return Err(wrong(format!("{record:?} isn't what was written"))),
        }
    }
    Ok(adder.take())
}
