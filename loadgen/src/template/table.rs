//! A data file's rows, for templates to take values from.
//!
//! All fields lie in one buffer, with one offset of 32 bits each: a file of ten million short rows
//! is held in little more than its own size, and a field is found without a search.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use csv::ByteRecord;
use flate2::read::MultiGzDecoder;

/// What a file may hold.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub(super) rows: u64,
    /// After unpacking, with quotes and separators.
    pub(super) bytes: u64,
    /// Of all rows: each takes 4 bytes more.
    pub(super) fields: u64,
}

/// Far more than virtual buyers need, and less than a machine has that makes load.
pub(super) const LIMITS: Limits = Limits { rows: 10_000_000, bytes: 1 << 30, fields: 100_000_000 };

/// Offsets are kept in 32 bits.
const _: () = assert!(LIMITS.bytes <= u32::MAX as u64);

/// A CSV file with a header, in memory.
#[derive(Clone, Debug)]
pub struct CsvTable {
    columns: Vec<String>,
    /// All fields, row by row.
    text: String,
    /// Where each field ends.
    ends: Vec<u32>,
    /// The longest field of each column, in bytes.
    longest: Vec<usize>,
}

/// Why a file gives no table. Records are numbered from 1, without the header.
///
/// The same file fails the same way again; only [`TableError::Open`], and an I/O error within
/// [`TableError::Csv`], may pass.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// The name doesn't say how to read the file.
    #[error("{}: the name of a data file ends in .csv or .csv.gz", file.display())]
    UnknownName {
        /// The file.
        file: PathBuf,
    },
    /// The file can't be opened.
    #[error("{}: cannot open the data file: {source}", file.display())]
    Open {
        /// The file.
        file: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The bytes aren't CSV or gzip, or reading failed half-way.
    #[error("{}: record {record}: cannot read it as CSV: {source}", file.display())]
    Csv {
        /// The file.
        file: PathBuf,
        /// The record that couldn't be read; 0 is the header.
        record: u64,
        /// What the CSV reader said.
        source: csv::Error,
    },
    /// A field isn't UTF-8.
    #[error("{}: record {record}, field {field}: not UTF-8: {value:?}", file.display())]
    NotUtf8 {
        /// The file.
        file: PathBuf,
        /// The record; 0 is the header.
        record: u64,
        /// The field, from 1.
        field: usize,
        /// Its text, with a replacement character for what can't be read.
        value: String,
    },
    /// Two columns have the same name.
    #[error("{}: the header names column `{column}` twice", file.display())]
    ColumnTwice {
        /// The file.
        file: PathBuf,
        /// The name.
        column: String,
    },
    /// There is no row to take values from.
    #[error("{}: the file has no records below its header", file.display())]
    NoRecords {
        /// The file.
        file: PathBuf,
    },
    /// The file is too large to be held.
    #[error("{}: the file has more than {limit} {what}, the most that are held", file.display())]
    TooLarge {
        /// The file.
        file: PathBuf,
        /// Bytes, records or fields.
        what: &'static str,
        /// The most of them.
        limit: u64,
    },
}

impl CsvTable {
    /// Reads the file at `path`, whose name ends in `.csv` or `.csv.gz`. It has a header, at most
    /// 10 million records, 100 million fields and 1 GiB when unpacked.
    pub fn open(path: &Path) -> Result<CsvTable, TableError> {
        let name = path.as_os_str().as_encoded_bytes();
        let gzipped = name.ends_with(b".csv.gz");
        if !gzipped && !name.ends_with(b".csv") {
            return Err(TableError::UnknownName { file: path.into() });
        }
        let file =
            File::open(path).map_err(|source| TableError::Open { file: path.into(), source })?;
        if gzipped {
            CsvTable::from_csv(path, MultiGzDecoder::new(io::BufReader::new(file)))
        } else {
            CsvTable::from_csv(path, file)
        }
    }

    /// Reads plain CSV bytes. `file` is only what errors call them.
    pub fn from_csv(file: &Path, input: impl Read) -> Result<CsvTable, TableError> {
        CsvTable::read(file, input, LIMITS)
    }

    pub(super) fn read(
        file: &Path,
        input: impl Read,
        limits: Limits,
    ) -> Result<CsvTable, TableError> {
        let too_large = |what, limit| TableError::TooLarge { file: file.into(), what, limit };
        let mut reader = csv::Reader::from_reader(input.take(limits.bytes + 1));
        let header = reader.byte_headers().cloned();
        if reader.get_ref().limit() == 0 {
            return Err(too_large("bytes", limits.bytes));
        }
        let header =
            header.map_err(|source| TableError::Csv { file: file.into(), record: 0, source })?;
        let mut table = CsvTable {
            columns: columns(file, &header)?,
            text: String::new(),
            ends: Vec::new(),
            longest: vec![0; header.len()],
        };

        let mut record = ByteRecord::new();
        let mut number = 0;
        loop {
            number += 1;
            let read = reader.read_byte_record(&mut record);
            // A file that is cut off at the limit may look like broken CSV.
            if reader.get_ref().limit() == 0 {
                return Err(too_large("bytes", limits.bytes));
            }
            match read {
                Ok(true) => {}
                Ok(false) => break,
                Err(source) => {
                    return Err(TableError::Csv { file: file.into(), record: number, source });
                }
            }
            if number > limits.rows {
                return Err(too_large("records", limits.rows));
            }
            if (table.ends.len() + record.len()) as u64 > limits.fields {
                return Err(too_large("fields", limits.fields));
            }
            for (index, field) in record.iter().enumerate() {
                let field = utf8(file, number, index, field)?;
                table.text.push_str(field);
                table.ends.push(table.text.len() as u32);
                table.longest[index] = table.longest[index].max(field.len());
            }
        }
        if table.ends.is_empty() {
            return Err(TableError::NoRecords { file: file.into() });
        }
        table.text.shrink_to_fit();
        table.ends.shrink_to_fit();
        Ok(table)
    }

    /// The names in the header.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// The index of the column called `name`.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column == name)
    }

    /// How many records there are, at least 1.
    pub fn rows(&self) -> u64 {
        (self.ends.len() / self.columns.len()) as u64
    }

    /// The field of record `n` (from 0, beginning again after the last) in a column, which must be
    /// one of the table's.
    pub fn field(&self, n: u64, column: usize) -> &str {
        assert!(column < self.columns.len(), "column {column} of {}", self.columns.len());
        let at = (n % self.rows()) as usize * self.columns.len() + column;
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.text[start as usize..self.ends[at] as usize]
    }

    /// The longest field of a column, in bytes.
    pub(super) fn longest(&self, column: usize) -> usize {
        self.longest[column]
    }
}

fn columns(file: &Path, header: &ByteRecord) -> Result<Vec<String>, TableError> {
    let mut known = HashSet::new();
    let mut columns = Vec::with_capacity(header.len());
    for (index, name) in header.iter().enumerate() {
        let name = utf8(file, 0, index, name)?;
        if !known.insert(name) {
            return Err(TableError::ColumnTwice { file: file.into(), column: name.into() });
        }
        columns.push(name.into());
    }
    Ok(columns)
}

fn utf8<'a>(
    file: &Path,
    record: u64,
    index: usize,
    field: &'a [u8],
) -> Result<&'a str, TableError> {
    std::str::from_utf8(field).map_err(|_| TableError::NotUtf8 {
        file: file.into(),
        record,
        field: index + 1,
        value: String::from_utf8_lossy(field).into_owned(),
    })
}
