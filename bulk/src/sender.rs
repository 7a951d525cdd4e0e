//! Batches to the platform, over several connections, until each was answered.
//!
//! Sending a batch again is harmless, so whatever happens to a request or to the platform, the
//! batch is sent again after a while. What was acknowledged is counted in the order of the source:
//! a batch that is answered before one that comes first waits for it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use loadgen::{ClientError, Connection, Target};
use model::Outcome;
use model::json::encode::explain;
use tokio::sync::mpsc::Receiver;

use crate::BulkError;
use crate::import::Rejects;
use crate::progress::{Came, Progress};
use crate::reader::{Batch, Place};
use crate::sums::Adder;
use crate::table::Table;

/// How long an answer may take before the request is taken for lost.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// The first wait before a request is sent again, and the longest.
const WAIT: Duration = Duration::from_millis(50);
const WAIT_MAX: Duration = Duration::from_secs(2);
/// How often progress is written down, and said.
const WRITE_EVERY: Duration = Duration::from_millis(500);
const SAY_EVERY: Duration = Duration::from_secs(5);
/// Rows beyond the last that may be sent before that has to be written down.
const LEASE_ROWS: u64 = 200_000;

/// One connection that sends what it has to until it is answered.
pub(crate) struct Caller {
    target: Target,
    connection: Option<Connection>,
    head: Vec<u8>,
    /// How long nothing may get through.
    patience: Duration,
    /// Set from outside to end it early.
    stop: Arc<AtomicBool>,
}

/// An answer, and how often it was asked for.
pub(crate) struct Answered<'a> {
    pub(crate) body: &'a [u8],
    pub(crate) attempts: u32,
}

impl Caller {
    pub(crate) fn new(target: &Target, patience: Duration) -> Caller {
        let (target, stop) = (target.clone(), Arc::default());
        Caller { target, connection: None, head: Vec::new(), patience, stop }
    }

    /// One that doesn't try again once this is set.
    pub(crate) fn until(self, stop: &Arc<AtomicBool>) -> Caller {
        Caller { stop: stop.clone(), ..self }
    }

    /// Sends a request until it is answered by 200. `body`: POST, none: GET.
    pub(crate) async fn ask(
        &mut self,
        path: &str,
        body: Option<&[u8]>,
    ) -> Result<Answered<'_>, BulkError> {
        match self.send(path, body).await? {
            (200, answered) => Ok(answered),
            (status, answered) => {
                Err(BulkError::Answer { status, body: crate::beginning(answered.body) })
            }
        }
    }

    /// Sends a request until it is answered, by whatever but 503: status and answer.
    pub(crate) async fn send(
        &mut self,
        path: &str,
        body: Option<&[u8]>,
    ) -> Result<(u16, Answered<'_>), BulkError> {
        self.head.clear();
        match body {
            Some(body) => self.target.post(path, body.len(), &mut self.head),
            None => self.target.get(path, &mut self.head),
        }
        let (mut wait, began, mut attempts) = (WAIT, Instant::now(), 0);
        loop {
            attempts += 1;
            let why = match tokio::time::timeout(ANSWER_MAX, self.once(body)).await {
                Ok(Ok(503)) => crate::beginning(self.body()),
                Ok(Ok(status)) => return Ok((status, Answered { body: self.body(), attempts })),
                Ok(Err(error)) => {
                    self.connection = None;
                    error.to_string()
                }
                Err(_) => {
                    self.connection = None;
                    format!("no answer within {ANSWER_MAX:?}")
                }
            };
            if began.elapsed() > self.patience {
                return Err(BulkError::Gone(self.patience, why));
            }
            if self.stop.load(Relaxed) {
                return Err(BulkError::Stopped);
            }
            tokio::time::sleep(wait).await;
            wait = (2 * wait).min(WAIT_MAX);
        }
    }

    /// The body of the answer that came last.
    fn body(&self) -> &[u8] {
        self.connection.as_ref().map_or(&[], Connection::body)
    }

    async fn once(&mut self, body: Option<&[u8]>) -> Result<u16, ClientError> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(Connection::open(&self.target).await?),
        };
        connection.send(&self.head, body.unwrap_or_default()).await?;
        Ok(connection.receive().await?.0)
    }
}

/// What all connections of an import share.
pub(crate) struct Sending {
    pub(crate) table: Table,
    pub(crate) source_name: String,
    /// Rows that are refused are set aside, and the import goes on.
    pub(crate) rejects: Option<Arc<Mutex<Rejects>>>,
    pub(crate) stop: Arc<AtomicBool>,
    /// Batches to use again.
    pub(crate) spare: mpsc::Sender<Batch>,
    pub(crate) ledger: RefCell<Ledger>,
    /// Something ended it: nobody takes another batch.
    pub(crate) failed: RefCell<Option<BulkError>>,
}

/// What was acknowledged, in the order of the source.
pub(crate) struct Ledger {
    pub(crate) progress: Progress,
    pub(crate) file: Option<PathBuf>,
    /// Rows of the source before this run, and up to which an earlier run may have sent.
    pub(crate) sent_before: u64,
    pub(crate) next: u64,
    pub(crate) waiting: BTreeMap<u64, (Place, Came)>,
    pub(crate) began: Instant,
    pub(crate) first_row: u64,
    pub(crate) written: Instant,
    pub(crate) said: Instant,
    pub(crate) say: fn(&str),
}

impl Ledger {
    /// Before rows up to `row` are sent.
    fn lend(&mut self, row: u64) -> Result<(), BulkError> {
        if row <= self.progress.sent {
            return Ok(());
        }
        self.progress.sent = row + LEASE_ROWS;
        self.write()
    }

    pub(crate) fn write(&mut self) -> Result<(), BulkError> {
        self.written = Instant::now();
        self.file.as_ref().map_or(Ok(()), |file| self.progress.write(file))
    }

    fn done(&mut self, number: u64, end: Place, came: Came) -> Result<(), BulkError> {
        self.waiting.insert(number, (end, came));
        while let Some((end, came)) = self.waiting.remove(&self.next) {
            self.next += 1;
            self.progress.end = end;
            self.progress.came.add(&came);
        }
        if self.said.elapsed() > SAY_EVERY {
            self.said = Instant::now();
            let rows = self.progress.end.row;
            let rate = (rows - self.first_row) as f64 / self.began.elapsed().as_secs_f64();
            (self.say)(&format!("{rows} rows, {rate:.0} a second"));
        }
        if self.written.elapsed() > WRITE_EVERY { self.write() } else { Ok(()) }
    }
}

/// Sends batches over one connection until there are no more.
pub(crate) async fn send(
    sending: Rc<Sending>,
    batches: Rc<tokio::sync::Mutex<Receiver<Result<Batch, BulkError>>>>,
    mut caller: Caller,
) {
    loop {
        if sending.failed.borrow().is_some() {
            return;
        }
        if sending.stop.load(Relaxed) {
            return sending.fail(BulkError::Stopped);
        }
        let batch = match batches.lock().await.recv().await {
            None => return,
            Some(Ok(batch)) => batch,
            Some(Err(error)) => return sending.fail(error),
        };
        match sending.deliver(&batch, &mut caller).await {
            Ok(()) => drop(sending.spare.send(batch)), // The reader may be done.
            Err(error) => return sending.fail(error),
        }
    }
}

impl Sending {
    fn fail(&self, error: BulkError) {
        self.failed.borrow_mut().get_or_insert(error);
    }

    async fn deliver(&self, batch: &Batch, caller: &mut Caller) -> Result<(), BulkError> {
        let mut came = Came { set_aside: batch.set_aside, ..Came::default() };
        if batch.rows > 0 {
            self.ledger.borrow_mut().lend(batch.end.row)?;
            let path = match self.table {
                Table::Accounts => "/v1/accounts/batch",
                Table::Items => "/v1/items/batch",
            };
            self.deliver_rows(batch, caller, path, &mut came).await?;
        }
        self.ledger.borrow_mut().done(batch.number, batch.end, came)
    }

    async fn deliver_rows(
        &self,
        batch: &Batch,
        caller: &mut Caller,
        path: &str,
        came: &mut Came,
    ) -> Result<(), BulkError> {
        let mut outcomes = Vec::new();
        let (mut wait, began) = (WAIT, Instant::now());
        // What comes back as done before may have been done by a request that got no answer.
        let begin = batch.end.row.saturating_sub(batch.rows as u64);
        let mut is_again = begin < self.ledger.borrow().sent_before;
        let mut decided = Vec::new();
        loop {
            let answer = caller.ask(path, Some(&batch.body)).await?;
            is_again |= answer.attempts > 1;
            if decided.is_empty() && all_ok(answer.body, batch.rows) {
                came.new = batch.sums.clone();
                return Ok(());
            }
            outcomes.clear();
            loadgen::results::parse_results(answer.body, &mut outcomes)
                .map_err(|error| BulkError::NotUnderstood(error.to_string()))?;
            if outcomes.len() != batch.rows {
                let (is, rows) = (outcomes.len(), batch.rows);
                return Err(BulkError::NotUnderstood(format!("{is} results of {rows} rows")));
            }
            decided.resize(batch.rows, Outcome::Busy as u8);
            for (decided, outcome) in decided.iter_mut().zip(&outcomes) {
                if *decided == Outcome::Busy as u8 {
                    *decided = *outcome;
                }
            }
            if !decided.contains(&(Outcome::Busy as u8)) {
                return self.count(batch, &decided, is_again, came);
            }
            if began.elapsed() > caller.patience {
                return Err(BulkError::Gone(caller.patience, "rows are busy".to_string()));
            }
            tokio::time::sleep(wait).await;
            wait = (2 * wait).min(WAIT_MAX);
        }
    }

    /// Adds up what became of each row.
    fn count(
        &self,
        batch: &Batch,
        outcomes: &[u8],
        is_again: bool,
        came: &mut Came,
    ) -> Result<(), BulkError> {
        let (mut new, mut found, mut unsure) =
            (Adder::default(), Adder::default(), Adder::default());
        let rows = batch.read_rows(self.table);
        for (number, (row, outcome)) in rows.iter().zip(outcomes).enumerate() {
            let amounts = self.table.amounts(row);
            match Outcome::from_byte(*outcome) {
                Some(Outcome::Ok) => new.row(row.currency, amounts),
                Some(Outcome::AlreadyDone) if is_again => unsure.row(row.currency, amounts),
                Some(Outcome::AlreadyDone) => found.row(row.currency, amounts),
                outcome => {
                    let outcome = outcome.unwrap_or(Outcome::Invalid);
                    let (word, why) = (outcome.word(), explain(outcome, None));
                    let line = batch.line(number);
                    let Some(rejects) = &self.rejects else {
                        let source_name = self.source_name.clone();
                        return Err(BulkError::Refused { source_name, line, outcome: word, why });
                    };
                    came.refused += 1;
                    let why = format!("{word}: {why}");
                    rejects.lock().expect("nobody panics").row(row, line, &why)?;
                }
            }
        }
        (came.new, came.found, came.unsure) = (new.take(), found.take(), unsure.take());
        Ok(())
    }
}

/// Whether an answer says `ok` of so many rows, and nothing else.
fn all_ok(answer: &[u8], rows: usize) -> bool {
    const OK: &[u8] = b"{\"outcome\":\"ok\"";
    let Some(mut rest) = answer.strip_prefix(b"{\"results\":[") else { return false };
    for row in 0..rows {
        if row > 0 {
            let Some(next) = rest.strip_prefix(b",") else { return false };
            rest = next;
        }
        if !rest.starts_with(OK) {
            return false;
        }
        // A result that is `ok` holds numbers alone.
        let Some(end) = memchr::memchr(b'}', rest) else { return false };
        rest = &rest[end + 1..];
    }
    rest == b"]}"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_ok_or_not() {
        let ok = br#"{"results":[{"outcome":"ok","balance":5,"offset":3},{"outcome":"ok"}]}"#;
        assert!(all_ok(ok, 2) && !all_ok(ok, 1) && !all_ok(ok, 3) && !all_ok(b"", 0));
        assert!(!all_ok(br#"{"results":[{"outcome":"already_done"}]}"#, 1));
        assert!(all_ok(br#"{"results":[]}"#, 0));
    }
}
