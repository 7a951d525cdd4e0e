//! An import: from a source's first row, or where an earlier import had come, to its sums.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use csv::ByteRecord;
use loadgen::Target;

use crate::postgres::Selected;
use crate::progress::{Came, Progress};
use crate::reader::{Batch, REJECTED, RowReader, SetAside};
use crate::sender::{Caller, Ledger, Sending, send};
use crate::source::{Fingerprint, Input, open_file};
use crate::sums::Sums;
use crate::table::{Kind, Row, Table};
use crate::{BulkError, held};

/// How an import goes.
#[derive(Clone, Debug)]
pub struct ImportOptions {
    /// Requests at a time, each on a connection of its own.
    pub connections: usize,
    /// Rows of a request, up to 10,000.
    pub batch: usize,
    /// Folder for progress files; `None`: beside each source.
    pub progress: Option<PathBuf>,
    /// Folder for rows that can't be taken; `None`: the first of them ends the import.
    pub rejects: Option<PathBuf>,
    /// Whether the platform is asked at the end what it holds.
    pub verify: bool,
    /// How long the platform may be away or busy.
    pub patience: Duration,
    /// Set from outside to end it early.
    pub stop: Arc<AtomicBool>,
    /// Where it says how it is getting on.
    pub say: fn(&str),
}

/// What came of an import of one table.
#[derive(Clone, Debug)]
pub struct Imported {
    /// Of what.
    pub table: Table,
    /// From where.
    pub source: String,
    /// Rows that an earlier import had done, and this one went on behind.
    pub resumed: u64,
    /// What this import made, with the earlier ones that it went on from.
    pub new: Sums,
    /// What was there before, with the same content.
    pub found: Sums,
    /// Rows that the platform refused.
    pub refused: u64,
    /// Rows that weren't sent, for something is wrong with them.
    pub set_aside: u64,
    /// How long it took to send this import's rows.
    pub elapsed: Duration,
    /// What the platform held before and holds now, if it was asked.
    pub held: Option<[Sums; 2]>,
    /// How long it took to ask at the end.
    pub verifying: Duration,
    /// What the source says of itself, if it is a database.
    pub database: Option<Sums>,
}

impl Imported {
    /// What was read from the source and taken, by this import and those it went on from.
    pub fn taken(&self) -> Sums {
        self.new.and(&self.found)
    }

    /// Whether the platform holds what it should; `None`: it wasn't asked.
    pub fn is_held(&self) -> Option<bool> {
        let [before, now] = self.held.as_ref()?;
        Some(before.and(&self.new) == *now)
    }

    /// What the platform holds beyond what it should, if it was asked. It may be less, too.
    pub fn surplus(&self) -> Sums {
        let Some([before, now]) = &self.held else { return Sums::default() };
        let mut surplus = now.clone();
        surplus.subtract(&before.and(&self.new));
        surplus
    }

    /// Whether what was read is what the database says it has; `None`: it is no database, or rows
    /// were left out.
    pub fn is_whole(&self) -> Option<bool> {
        let database = self.database.as_ref()?;
        (self.refused + self.set_aside == 0).then(|| self.taken() == *database)
    }
}

/// Rows that can't be taken, as CSV: the source's columns, the line, and why. Columns whose names
/// begin with `rejected_` are passed over by an import.
pub(crate) struct Rejects {
    path: PathBuf,
    csv: csv::Writer<File>,
    table: Table,
}

impl Rejects {
    fn open(
        folder: &Path,
        table: Table,
        input: &Input,
        goes_on: bool,
    ) -> Result<Rejects, BulkError> {
        let path = folder.join(format!("{}.rejected.csv", table.name()));
        std::fs::create_dir_all(folder).map_err(BulkError::file(folder))?;
        if let (Input::File(source), Ok(there)) = (input, path.canonicalize())
            && source.canonicalize().is_ok_and(|source| source == there)
        {
            let words = "it is what is imported; name another folder for what is rejected";
            return Err(BulkError::file(&path)(io::Error::other(words)));
        }
        let goes_on = goes_on && path.exists();
        let mut options = OpenOptions::new();
        options.create(true).write(true).append(goes_on).truncate(!goes_on);
        let file = options.open(&path).map_err(BulkError::file(&path))?;
        let mut rejects = Rejects {
            path,
            csv: csv::WriterBuilder::new().flexible(true).from_writer(file),
            table,
        };
        if !goes_on {
            let mut header: Vec<String> =
                table.columns().iter().map(|column| column.name.to_string()).collect();
            header.extend(["line", "why"].map(|name| format!("{REJECTED}{name}")));
            rejects.write(&header)?;
        }
        Ok(rejects)
    }

    fn write(&mut self, fields: &[String]) -> Result<(), BulkError> {
        let written = self.csv.write_record(fields).and_then(|()| Ok(self.csv.flush()?));
        let error = written.map_err(|error| match error.into_kind() {
            csv::ErrorKind::Io(error) => error,
            other => io::Error::other(format!("{other:?}")),
        });
        error.map_err(BulkError::file(&self.path))
    }

    /// A row that the platform refused.
    pub(crate) fn row(&mut self, row: &Row, line: u64, why: &str) -> Result<(), BulkError> {
        let columns = self.table.columns().iter().zip(row.values);
        let mut fields: Vec<String> = columns
            .map(|(column, value)| match column.kind {
                Kind::Currency => row.currency.code().to_string(),
                Kind::Integer(..) => value.to_string(),
            })
            .collect();
        fields.extend([line.to_string(), why.to_string()]);
        self.write(&fields)
    }

    /// A row that wasn't sent. `columns` says which of the table's columns its fields are.
    fn fields(
        &mut self,
        fields: &ByteRecord,
        columns: &[Option<usize>],
        line: u64,
        why: &str,
    ) -> Result<(), BulkError> {
        let text = |field: &[u8]| {
            String::from_utf8_lossy(field.strip_suffix(b"\r").unwrap_or(field)).into_owned()
        };
        // Which field is of which column isn't known: it mustn't look like a row.
        let (fields, why) = match fields.len() == columns.len() {
            true => (Some(fields), why.to_string()),
            false => {
                let all: Vec<String> = fields.iter().map(text).collect();
                (None, format!("{why}: {}", all.join(",")))
            }
        };
        let field = |at: usize| {
            let place = columns.iter().position(|column| *column == Some(at));
            text(place.and_then(|place| fields?.get(place)).unwrap_or_default())
        };
        let mut found: Vec<String> = (0..self.table.columns().len()).map(field).collect();
        found.extend([line.to_string(), why]);
        self.write(&found)
    }
}

/// Where reading begins.
struct Begun {
    reader: RowReader<Box<dyn Read + Send>>,
    database: Option<Sums>,
}

/// Imports a table. Runs on the current thread's `LocalSet`.
pub async fn import(
    target: &Target,
    table: Table,
    input: &Input,
    options: &ImportOptions,
) -> Result<Imported, BulkError> {
    let file = input.progress_file(options.progress.as_deref());
    let fingerprint = match input {
        Input::File(path) => Fingerprint::of(path)?,
        _ => Fingerprint::none(),
    };
    let earlier = earlier(file.as_ref(), table, target, &fingerprint, options);
    let resumed = earlier.as_ref().map_or(0, |progress| progress.end.row);
    let Begun { reader, database } = begin(table, input, earlier.as_ref())?;
    let rejects = match &options.rejects {
        Some(folder) => Some(Rejects::open(folder, table, input, earlier.is_some())?),
        None => None,
    };
    let rejects = rejects.map(|rejects| Arc::new(Mutex::new(rejects)));
    let progress = match earlier {
        Some(progress) => progress,
        None => Progress {
            table: table.name().to_string(),
            platform: platform(target),
            source: fingerprint,
            end: reader.place(),
            sent: 0,
            came: Came::default(),
            before: match options.verify {
                true => {
                    Some(held::sums(target, table, options.connections, options.patience).await?)
                }
                false => None,
            },
        },
    };

    let began = Instant::now();
    let (batches, taking) = tokio::sync::mpsc::channel(options.connections);
    let (spare, spares) = mpsc::channel();
    let reading = {
        let (rejects, most) = (rejects.clone(), options.batch);
        std::thread::Builder::new()
            .name("crest-reader".to_string())
            .spawn(move || read(reader, most, rejects, &batches, &spares))
            .map_err(|error| BulkError::Source { name: input.name(), error })?
    };
    let now = Instant::now();
    let sending = Rc::new(Sending {
        table,
        source_name: input.name(),
        rejects,
        stop: options.stop.clone(),
        spare,
        ledger: RefCell::new(Ledger {
            sent_before: progress.sent,
            progress,
            file: file.clone(),
            next: 0,
            waiting: BTreeMap::new(),
            began,
            first_row: resumed,
            written: now,
            said: now,
            say: options.say,
        }),
        failed: RefCell::new(None),
    });
    let taking = Rc::new(tokio::sync::Mutex::new(taking));
    let senders: Vec<_> = (0..options.connections)
        .map(|_| {
            let caller = Caller::new(target, options.patience).until(&options.stop);
            tokio::task::spawn_local(send(sending.clone(), taking.clone(), caller))
        })
        .collect();
    for sender in senders {
        sender.await.expect("a sender doesn't panic");
    }
    // A reader that still has something finds that nobody takes it; one that waits for more of
    // what has failed anyway isn't waited for.
    drop(taking);
    if sending.failed.borrow().is_none() || reading.is_finished() {
        reading.join().expect("a reader doesn't panic");
    }
    let progress = {
        let mut ledger = sending.ledger.borrow_mut();
        ledger.write()?;
        ledger.progress.clone()
    };
    if let Some(error) = sending.failed.take() {
        return Err(error);
    }
    let elapsed = began.elapsed();

    let verifying = Instant::now();
    let held = match (options.verify, progress.before) {
        (true, Some(before)) => {
            let now = held::sums(target, table, options.connections, options.patience).await?;
            Some([before, now])
        }
        _ => None,
    };
    if let Input::File(path) = input
        && Fingerprint::of(path)? != progress.source
    {
        let words = "it was changed while it was read; import it again when it is whole";
        return Err(BulkError::file(path)(io::Error::other(words)));
    }
    if let Some(file) = &file {
        // It is over: the next import of this source begins again.
        std::fs::remove_file(file).map_err(BulkError::file(file))?;
    }
    // Rows of which it isn't known who made them are there; together they were there before, or
    // are new, as the sums say.
    let Came { mut new, mut found, unsure, refused, set_aside } = progress.came;
    let were_there = held.as_ref().is_some_and(|[before, now]| before.and(&new) == *now);
    if were_there {
        found.add(&unsure)
    } else {
        new.add(&unsure)
    }
    Ok(Imported {
        table,
        source: input.name(),
        resumed,
        new,
        found,
        refused,
        set_aside,
        elapsed,
        held,
        verifying: verifying.elapsed(),
        database,
    })
}

/// Reads all of a source as an import would, and sends nothing: what its rows come to, how many
/// can't be taken, and how long it took.
pub fn check(
    table: Table,
    input: &Input,
    rejects: Option<&Path>,
    batch: usize,
) -> Result<(Sums, u64, Duration), BulkError> {
    let began = Instant::now();
    let Begun { mut reader, .. } = begin(table, input, None)?;
    let rejects = rejects.map(|folder| Rejects::open(folder, table, input, false));
    let rejects = rejects.transpose()?;
    let rejects = rejects.map(|rejects| Arc::new(Mutex::new(rejects)));
    let columns = reader.header_read().columns;
    let (mut sums, mut set_aside, mut rows) = (Sums::default(), 0, Batch::default());
    while reader.next_batch(&mut rows, batch, |aside| put(&rejects, &columns, aside))? {
        sums.add(&rows.sums);
        set_aside += rows.set_aside;
    }
    Ok((sums, set_aside, began.elapsed()))
}

/// What an earlier import of the same source into the same platform left, if it didn't end.
fn earlier(
    file: Option<&PathBuf>,
    table: Table,
    target: &Target,
    fingerprint: &Fingerprint,
    options: &ImportOptions,
) -> Option<Progress> {
    let file = file?;
    let found = Progress::read(file)?;
    let differs = match &found {
        found if found.table != table.name() => "it is of another table",
        found if found.platform != platform(target) => "it is of another platform, or realm",
        found if found.source != *fingerprint => "the source was changed since",
        found if options.verify && found.before.is_none() => {
            "it doesn't know what the platform held before"
        }
        found => {
            let row = found.end.row;
            (options.say)(&format!("{}: going on behind row {row}", file.display()));
            return Some(found.clone());
        }
    };
    (options.say)(&format!("{}: not used, {differs}; beginning at the first row", file.display()));
    None
}

/// The platform as its URL names it, and whether what goes there is rehearsal.
fn platform(target: &Target) -> String {
    let realm = if target.headers.is_empty() { "" } else { ", rehearsal" };
    format!("{}{realm}", target.authority)
}

/// Opens the source, behind what was done before.
fn begin(table: Table, input: &Input, earlier: Option<&Progress>) -> Result<Begun, BulkError> {
    let name = input.name();
    let path = match input {
        Input::File(path) => path,
        Input::Stdin => {
            let reader =
                RowReader::open(table, &name, Box::new(io::stdin()) as Box<dyn Read + Send>)?;
            return Ok(Begun { reader, database: None });
        }
        Input::Postgres { url, query } => {
            let Selected { csv, sums } = Selected::open(table, url, query)?;
            let reader = RowReader::open(table, &name, Box::new(csv) as Box<dyn Read + Send>)?;
            return Ok(Begun { reader, database: Some(sums) });
        }
    };
    let mut reader = RowReader::open(table, &name, open_file(path, None)?)?;
    if let Some(Progress { end, .. }) = earlier {
        if input.is_packed() {
            reader.skip(end.row)?;
        } else {
            let header = reader.header_read();
            reader = RowReader::resume(table, &name, open_file(path, Some(*end))?, &header, *end);
        }
    }
    Ok(Begun { reader, database: None })
}

/// Puts a row that can't be taken where such rows go, or says what is wrong with it.
fn put(
    rejects: &Option<Arc<Mutex<Rejects>>>,
    columns: &[Option<usize>],
    SetAside { fields, error }: SetAside<'_>,
) -> Result<(), BulkError> {
    let Some(rejects) = rejects else { return Err(error.into()) };
    let column = error.column.as_ref().map_or(String::new(), |name| format!("{name}: "));
    let why = format!("{column}{}", error.why);
    rejects.lock().expect("nobody panics").fields(fields, columns, error.line, &why)
}

/// Reads batches until there are no more, or nobody takes them.
fn read(
    mut reader: RowReader<Box<dyn Read + Send>>,
    most: usize,
    rejects: Option<Arc<Mutex<Rejects>>>,
    batches: &tokio::sync::mpsc::Sender<Result<Batch, BulkError>>,
    spares: &mpsc::Receiver<Batch>,
) {
    let columns = reader.header_read().columns;
    loop {
        let mut batch = spares.try_recv().unwrap_or_default();
        let next = match reader.next_batch(&mut batch, most, |aside| put(&rejects, &columns, aside))
        {
            Ok(true) => Ok(batch),
            Ok(false) => return,
            Err(error) => Err(error),
        };
        let is_last = next.is_err();
        if batches.blocking_send(next).is_err() || is_last {
            return;
        }
    }
}

impl Fingerprint {
    /// Of what can't be read twice.
    fn none() -> Fingerprint {
        Fingerprint { bytes: 0, modified_ns: 0, head: 0 }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn what_is_set_aside_can_be_put_right_and_is_no_row_before() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("accounts.csv");
        let rows = "party,currency,balance\r\n1,GBP,5\r\n7,GBP,1,000\r\n8,GBP,x\r\n";
        std::fs::write(&source, rows).unwrap();
        let check = |path: &Path| {
            let input = Input::File(path.to_path_buf());
            super::check(Table::Accounts, &input, Some(dir.path()), 10)
        };
        let (sums, set_aside, _) = check(&source).unwrap();
        assert_eq!((sums.rows(), set_aside), (1, 2));
        let rejected = dir.path().join("accounts.rejected.csv");
        let text = std::fs::read_to_string(&rejected).unwrap();
        expect![[r#"
            party,currency,balance,overdraft,rejected_line,rejected_why
            ,,,,3,"it has 4 fields, and the first line names 3: 7,GBP,1,000"
            8,GBP,x,,4,"balance: ""x"" is not an integer from 0 to 1000000000000000"
        "#]]
        .assert_eq(&text);
        let error = check(&rejected).unwrap_err().to_string();
        assert!(
            error.ends_with("it is what is imported; name another folder for what is rejected")
        );
        assert_eq!(std::fs::read_to_string(&rejected).unwrap(), text);
    }

    #[test]
    fn rehearsal_and_trade_are_two_platforms() {
        let mut target = Target::from_url("http://127.0.0.1:1").unwrap();
        let trade = platform(&target);
        target.headers = "crest-drill: 1.2\r\n".to_string();
        assert_ne!(platform(&target), trade);
    }
}
