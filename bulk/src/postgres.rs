//! PostgreSQL as a source and as a sink: `COPY`, as CSV, so that rows are read and written in one
//! way whatever they come from.
//!
//! It has a thread of its own, because whoever reads CSV waits for bytes.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use bytes::{Buf, Bytes};
use futures_util::{SinkExt, StreamExt};
use tokio_postgres::{Client, NoTls};

use crate::BulkError;
use crate::sums::{Sum, Sums};
use crate::table::Table;

/// Pieces of CSV that may wait to be read, or to be written: some 64 KiB each.
const PIECES: usize = 64;

fn failed(error: tokio_postgres::Error) -> BulkError {
    // Its source says what the server said.
    let said = std::error::Error::source(&error).map(|source| format!(": {source}"));
    BulkError::Postgres(format!("{error}{}", said.unwrap_or_default()))
}

async fn connect(url: &str) -> Result<Client, BulkError> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.map_err(failed)?;
    // It ends with its client; what goes wrong, the client's next query says.
    tokio::task::spawn_local(async move { drop(connection.await) });
    Ok(client)
}

/// Runs on a thread with a reactor of its own.
fn on_thread<F: Future<Output = ()>>(
    run: impl FnOnce() -> F + Send + 'static,
) -> Result<(), BulkError> {
    let thread = std::thread::Builder::new().name("crest-postgres".to_string());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| BulkError::Postgres(error.to_string()))?;
    let started = thread.spawn(move || tokio::task::LocalSet::new().block_on(&runtime, run()));
    started.map(drop).map_err(|error| BulkError::Postgres(error.to_string()))
}

/// What a query selects, as CSV with a header, and what the database says it comes to: both of one
/// moment.
pub(crate) struct Selected {
    pub(crate) csv: Pieces,
    pub(crate) sums: Sums,
}

/// CSV that another thread hands over piece by piece.
pub(crate) struct Pieces {
    pieces: Receiver<Result<Bytes, BulkError>>,
    piece: Bytes,
}

impl Selected {
    /// Begins to read.
    pub(crate) fn open(table: Table, url: &str, query: &str) -> Result<Selected, BulkError> {
        let (sums_sender, sums) = sync_channel(1);
        let (sender, pieces) = sync_channel(PIECES);
        let (url, query) = (url.to_string(), query_of(query));
        on_thread(move || async move {
            let (client, found) = match begin(table, &url, &query).await {
                Ok(begun) => begun,
                // Whoever went away needs no error.
                Err(error) => return drop(sums_sender.send(Err(error))),
            };
            if sums_sender.send(Ok(found)).is_ok()
                && let Err(error) = copy(&client, &query, &sender).await
            {
                drop(sender.send(Err(error)));
            }
        })?;
        let sums = sums.recv().map_err(|_| BulkError::Postgres("it ended".to_string()))??;
        Ok(Selected { csv: Pieces { pieces, piece: Bytes::new() }, sums })
    }
}

/// A query as it is, or all of a table.
fn query_of(text: &str) -> String {
    let text = text.trim().trim_end_matches(';');
    let first = text.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
    let is_query = ["select", "with", "values", "table"]
        .iter()
        .any(|word| first.eq_ignore_ascii_case(word) && first.len() < text.len());
    if is_query { text.to_string() } else { format!("SELECT * FROM {text}") }
}

/// Begins a transaction, and has the database say what the query comes to.
async fn begin(table: Table, url: &str, query: &str) -> Result<(Client, Sums), BulkError> {
    let client = connect(url).await?;
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
    client.batch_execute(begin).await.map_err(failed)?;
    let statement = client.prepare(query).await.map_err(failed)?;
    let has = |name: &str| statement.columns().iter().any(|column| column.name() == name);
    // Without them the first line of the CSV says what is missing.
    let is_whole = table.columns().iter().all(|column| !column.required || has(column.name));
    let found = if is_whole { sums_of(&client, table, query, has).await? } else { Sums::default() };
    Ok((client, found))
}

/// Hands over the rows as CSV.
async fn copy(
    client: &Client,
    query: &str,
    pieces: &SyncSender<Result<Bytes, BulkError>>,
) -> Result<(), BulkError> {
    // A query may end in a comment.
    let copy = format!("COPY ({query}\n) TO STDOUT (FORMAT csv, HEADER)");
    let rows = client.copy_out(copy.as_str()).await.map_err(failed)?;
    let mut rows = std::pin::pin!(rows);
    // Its messages are single rows: many are handed over at once.
    let mut gathered = Vec::new();
    while let Some(row) = rows.next().await {
        gathered.extend_from_slice(&row.map_err(failed)?);
        if gathered.len() >= 64 << 10
            && pieces.send(Ok(std::mem::take(&mut gathered).into())).is_err()
        {
            return Ok(()); // Nobody reads on.
        }
    }
    let _ = pieces.send(Ok(gathered.into()));
    Ok(())
}

/// What the database says that rows come to.
async fn sums_of(
    client: &Client,
    table: Table,
    rows: &str,
    has: impl Fn(&str) -> bool,
) -> Result<Sums, BulkError> {
    let sum = |name: &str| match has(name) {
        true => format!("coalesce(sum(nullif(\"{name}\"::text, '')::numeric), 0)::text"),
        false => "'0'".to_string(),
    };
    let [first, second] = table.summed();
    let (first, second) = (sum(first), sum(second));
    let query = format!(
        "SELECT currency::text, count(*)::text, {first}, {second} FROM ({rows}\n) AS rows \
         GROUP BY 1"
    );
    let mut sums = Sums::default();
    for row in client.query(query.as_str(), &[]).await.map_err(failed)? {
        let text =
            |at: usize| row.try_get::<_, Option<String>>(at).ok().flatten().unwrap_or_default();
        let number = |at: usize| text(at).parse::<i128>().unwrap_or_default();
        sums.add_sum(&text(0), Sum { rows: number(1), amounts: [number(2), number(3)] });
    }
    Ok(sums)
}

impl Read for Pieces {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while !self.piece.has_remaining() {
            match self.pieces.recv() {
                Ok(Ok(piece)) => self.piece = piece,
                Ok(Err(error)) => return Err(io::Error::other(error.to_string())),
                Err(_) => return Ok(0),
            }
        }
        let count = self.piece.remaining().min(out.len());
        self.piece.copy_to_slice(&mut out[..count]);
        Ok(count)
    }
}

/// Writes CSV into a table of PostgreSQL, in one transaction: all of it or nothing.
pub(crate) struct Inserted {
    pieces: Option<SyncSender<Bytes>>,
    written: Receiver<Result<Sums, BulkError>>,
}

impl Inserted {
    /// Begins to write. The table is there, with the columns that the CSV names.
    pub(crate) fn open(table: Table, url: &str, into: &str) -> Result<Inserted, BulkError> {
        let (pieces, taking) = sync_channel(PIECES);
        let (done, written) = sync_channel(1);
        let (url, into) = (url.to_string(), into.to_string());
        on_thread(move || async move {
            // Nobody waits for it: the export is over.
            let _ = done.send(insert(table, &url, &into, &taking).await);
        })?;
        Ok(Inserted { pieces: Some(pieces), written })
    }

    /// Hands over a piece of CSV. Only whole rows.
    pub(crate) fn write(&mut self, piece: Vec<u8>) -> Result<(), BulkError> {
        let sent = self.pieces.as_ref().is_some_and(|pieces| pieces.send(piece.into()).is_ok());
        if sent { Ok(()) } else { Err(self.end().err().unwrap_or_else(ended)) }
    }

    fn end(&mut self) -> Result<Sums, BulkError> {
        self.pieces = None;
        self.written.recv().unwrap_or_else(|_| Err(ended()))
    }

    /// Commits, and says what the rows that were written come to, as the database sees them.
    pub(crate) fn commit(mut self) -> Result<Sums, BulkError> {
        // An empty piece: all is there.
        self.write(Vec::new())?;
        self.end()
    }
}

fn ended() -> BulkError {
    BulkError::Postgres("it ended before all was written".to_string())
}

async fn insert(
    table: Table,
    url: &str,
    into: &str,
    pieces: &Receiver<Bytes>,
) -> Result<Sums, BulkError> {
    let mut client = connect(url).await?;
    let transaction = client.transaction().await.map_err(failed)?;
    let rows = format!("SELECT * FROM {into}");
    // Other rows may be there: what is added is the difference, which others can't change.
    let lock = format!("LOCK TABLE {into} IN SHARE ROW EXCLUSIVE MODE");
    transaction.batch_execute(&lock).await.map_err(failed)?;
    let before = sums_of(transaction.client(), table, &rows, |_| true).await?;
    let copy = format!("COPY {into} ({}) FROM STDIN (FORMAT csv)", quoted(&table.header()));
    let sink = transaction.copy_in(copy.as_str()).await.map_err(failed)?;
    let mut sink = std::pin::pin!(sink);
    let mut is_whole = false;
    while let Ok(piece) = pieces.recv() {
        is_whole = piece.is_empty();
        if is_whole {
            break;
        }
        sink.send(piece).await.map_err(failed)?;
    }
    if !is_whole {
        return Err(ended()); // Dropping the transaction rolls it back.
    }
    sink.finish().await.map_err(failed)?;
    let mut sums = sums_of(transaction.client(), table, &rows, |_| true).await?;
    sums.subtract(&before);
    transaction.commit().await.map_err(failed)?;
    Ok(sums)
}

/// Columns as they are: `limit` is a word of SQL.
fn quoted(header: &str) -> String {
    header.split(',').map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_all_of_a_table() {
        assert_eq!(query_of("shop.accounts"), "SELECT * FROM shop.accounts");
        assert_eq!(query_of("selections"), "SELECT * FROM selections");
        assert_eq!(query_of(" select 1; "), "select 1");
        assert_eq!(
            query_of("WITH a AS (SELECT 1) SELECT * FROM a"),
            "WITH a AS (SELECT 1) SELECT * FROM a"
        );
        assert_eq!(quoted("a,limit"), "\"a\",\"limit\"");
    }
}
