//! `crest import`: accounts and items from CSV or PostgreSQL into a platform.

use std::process::ExitCode;

use bulk::{ImportOptions, Imported, Input, Sums, Table};
use loadgen::Target;
use loadgen::engine::unix_ms;
use serde::Serialize;

use crate::report::thousands;
use crate::serve::read_drill_key;
use crate::watch::{interrupts, on_reactor, say};
use crate::{Failure, args, complain};

/// How long a mark is good: longer than an import takes.
const MARK_S: u64 = 7 * 24 * 60 * 60;

/// What an import of one table came to, for machines.
#[derive(Serialize)]
struct Figures {
    table: &'static str,
    source: String,
    /// Rows that were taken: made, or there before.
    rows: u64,
    new: u64,
    found: u64,
    refused: u64,
    set_aside: u64,
    /// Rows of an earlier import that this one went on behind.
    resumed: u64,
    seconds: f64,
    rows_per_s: f64,
    sums: Vec<CurrencySums>,
    /// What the platform held before and holds now.
    held: Option<[Vec<CurrencySums>; 2]>,
    verifying_s: f64,
    /// Whether the platform holds what it should.
    verified: Option<bool>,
    /// What the database says of what was selected.
    database: Option<Vec<CurrencySums>>,
    database_agrees: Option<bool>,
}

/// A currency's sums. Amounts are strings: they may pass 2⁶⁴.
#[derive(Serialize)]
pub(crate) struct CurrencySums {
    currency: String,
    rows: i64,
    #[serde(flatten)]
    amounts: std::collections::BTreeMap<&'static str, String>,
}

pub(crate) fn import(args: &args::Import) -> Result<ExitCode, Failure> {
    let sources = sources(args)?;
    if args.check {
        return check(args, &sources);
    }
    let target = target(&args.bulk)?;
    args.bulk.check_json()?;
    let options = ImportOptions {
        connections: connections(&args.bulk),
        batch: args.batch as usize,
        progress: args.progress.clone(),
        rejects: args.rejects.clone(),
        verify: !args.no_verify,
        patience: args.bulk.retry_for,
        stop: interrupts(|| {})?,
        say,
    };
    let mut code = ExitCode::SUCCESS;
    let mut all = Vec::new();
    for (table, input) in sources {
        let ran = on_reactor(bulk::import(&target, table, &input, &options))?;
        let done = match ran {
            Ok(done) => done,
            // What is wrong with the rows is said by a status of its own.
            Err(error @ (bulk::BulkError::Row(_) | bulk::BulkError::Refused { .. })) => {
                complain(&error.to_string());
                code = ExitCode::from(1);
                break;
            }
            Err(error) => return Err(error.into()),
        };
        tell(&done);
        if is_wrong(&done) {
            code = ExitCode::from(1);
        }
        all.push(figures(&done));
    }
    args.bulk.write_json(&all)?;
    Ok(code)
}

/// Reads everything, and sends nothing.
fn check(args: &args::Import, sources: &[(Table, Input)]) -> Result<ExitCode, Failure> {
    let mut code = ExitCode::SUCCESS;
    for (table, input) in sources {
        let checked = bulk::check(*table, input, args.rejects.as_deref(), args.batch as usize);
        let (sums, set_aside, elapsed) = match checked {
            Err(error @ bulk::BulkError::Row(_)) => {
                complain(&error.to_string());
                return Ok(ExitCode::from(1));
            }
            checked => checked?,
        };
        let seconds = elapsed.as_secs_f64();
        tell!(
            "{}: {} rows in {seconds:.2} s, {} a second; {} can't be taken\n",
            input.name(),
            thousands(sums.rows() as u64),
            thousands((sums.rows() as f64 / seconds) as u64),
            thousands(set_aside)
        );
        tell!("  {}\n", sums.shown(*table));
        if set_aside > 0 {
            code = ExitCode::from(1);
        }
    }
    Ok(code)
}

fn sources(args: &args::Import) -> Result<Vec<(Table, Input)>, Failure> {
    let tables = [(Table::Accounts, &args.accounts), (Table::Items, &args.items)];
    let input = |text: &String| match &args.postgres {
        Some(url) => Input::Postgres { url: url.clone(), query: text.clone() },
        None => Input::csv(text),
    };
    let named = tables.into_iter().filter_map(|(table, text)| Some((table, input(text.as_ref()?))));
    let sources: Vec<_> = named.collect();
    match sources.iter().filter(|(_, input)| *input == Input::Stdin).count() {
        2 => Err("only one of the two can come from standard input".into()),
        _ if sources.is_empty() => Err("name what to import: --accounts, --items or both".into()),
        _ => Ok(sources),
    }
}

/// The platform, with the mark of rehearsal where that is wanted.
pub(crate) fn target(args: &args::Bulk) -> Result<Target, Failure> {
    let mut target = Target::from_url(&args.url)?;
    if target.tls {
        return Err("the platform speaks no TLS: name it as http://host:port".into());
    }
    if let Some(file) = &args.drill_key {
        let mark = read_drill_key(file)?.mark(unix_ms() / 1_000 + MARK_S);
        target.headers = format!("{}: {mark}\r\n", gateway::DRILL_HEADER);
    }
    Ok(target)
}

/// Twice as many as there are cores, so that none of them waits for the next request.
pub(crate) fn connections(args: &args::Bulk) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    args.connections.map_or(2 * cores, usize::from).min(256)
}

fn is_wrong(done: &Imported) -> bool {
    done.refused + done.set_aside > 0
        || done.is_held() == Some(false)
        || done.is_whole() == Some(false)
}

fn figures(done: &Imported) -> Figures {
    let sums = |sums: &Sums| currency_sums(done.table, sums);
    let sent =
        done.taken().rows() as u64 + done.refused - done.resumed.min(done.taken().rows() as u64);
    let seconds = done.elapsed.as_secs_f64();
    Figures {
        table: done.table.name(),
        source: done.source.clone(),
        rows: done.taken().rows() as u64,
        new: done.new.rows() as u64,
        found: done.found.rows() as u64,
        refused: done.refused,
        set_aside: done.set_aside,
        resumed: done.resumed,
        seconds,
        rows_per_s: sent as f64 / seconds,
        sums: sums(&done.taken()),
        held: done.held.as_ref().map(|held| held.each_ref().map(sums)),
        verifying_s: done.verifying.as_secs_f64(),
        verified: done.is_held().map(|held| held && done.is_whole() != Some(false)),
        database: done.database.as_ref().map(sums),
        database_agrees: done.is_whole(),
    }
}

pub(crate) fn currency_sums(table: Table, sums: &Sums) -> Vec<CurrencySums> {
    let of = |(code, sum): (&str, bulk::Sum)| CurrencySums {
        currency: code.to_string(),
        rows: sum.rows as i64,
        amounts: table.summed().into_iter().zip(sum.amounts.map(|sum| sum.to_string())).collect(),
    };
    sums.iter().map(of).collect()
}

fn tell(done: &Imported) {
    let Imported { table, .. } = done;
    let figures = figures(done);
    tell!("crest import: {} from {}\n\n", table.name(), done.source);
    tell!(
        "  rows       {} in {:.2} s, {} a second\n",
        thousands(figures.rows - figures.resumed.min(figures.rows)),
        figures.seconds,
        thousands(figures.rows_per_s as u64)
    );
    if done.resumed > 0 {
        tell!(
            "  before     {} rows by an import that this one went on from\n",
            thousands(done.resumed)
        );
    }
    if figures.found > 0 {
        tell!(
            "  found      {} rows, which were there before with the same content\n",
            thousands(figures.found)
        );
    }
    if done.refused + done.set_aside > 0 {
        tell!(
            "  rejected   {} rows by the platform, {} before they were sent\n",
            thousands(done.refused),
            thousands(done.set_aside)
        );
    }
    tell!("  source     {}\n", done.taken().shown(*table));
    if let Some(database) = &done.database {
        tell!("  database   {}\n", database.shown(*table));
    }
    if let Some([before, now]) = &done.held {
        tell!("  held       before: {}\n", before.shown(*table));
        tell!("             now:    {}\n", now.shown(*table));
    }
    let verdict = match (done.is_held(), done.is_whole()) {
        (_, Some(false)) => "no: what was read isn't what the database says it has".to_string(),
        (Some(false), _) => {
            format!(
                "no: the platform holds {} more than it should, if nobody trades there; where \
                 answers were lost, importing again tells more",
                done.surplus().shown(*table)
            )
        }
        (Some(true), _) => {
            let took = done.verifying.as_secs_f64();
            format!("yes: the platform holds what it did before and the new rows ({took:.2} s)")
        }
        (None, _) => "not asked for".to_string(),
    };
    tell!("  verified   {verdict}\n\n");
}
