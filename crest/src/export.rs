//! `crest export`: a platform's accounts and items as CSV, or into PostgreSQL.

use std::process::ExitCode;

use bulk::{ExportOptions, Exported, Output, Table};
use serde::Serialize;

use crate::import::{CurrencySums, connections, currency_sums, target};
use crate::report::thousands;
use crate::watch::on_reactor;
use crate::{Failure, args};

/// What an export of one table came to, for machines.
#[derive(Serialize)]
struct Figures {
    table: &'static str,
    output: String,
    rows: u64,
    closed: u64,
    overdrawn: u64,
    partly_taken: u64,
    seconds: f64,
    rows_per_s: f64,
    sums: Vec<CurrencySums>,
    /// Whether what was written is what the platform showed.
    verified: Option<bool>,
}

pub(crate) fn export(args: &args::Export) -> Result<ExitCode, Failure> {
    let outputs = outputs(args)?;
    let target = target(&args.bulk)?;
    args.bulk.check_json()?;
    let options = ExportOptions {
        connections: connections(&args.bulk),
        verify: !args.no_verify,
        patience: args.bulk.retry_for,
    };
    let mut code = ExitCode::SUCCESS;
    let mut all = Vec::new();
    for (table, output) in outputs {
        let done = on_reactor(bulk::export(&target, table, &output, &options))??;
        let figures = figures(&done);
        tell(&done, &figures);
        if figures.verified == Some(false) {
            code = ExitCode::from(1);
        }
        all.push(figures);
    }
    args.bulk.write_json(&all)?;
    Ok(code)
}

fn outputs(args: &args::Export) -> Result<Vec<(Table, Output)>, Failure> {
    let tables = [(Table::Accounts, &args.accounts), (Table::Items, &args.items)];
    let output = |text: &String| match &args.postgres {
        Some(url) => Output::Postgres { url: url.clone(), table: text.clone() },
        None => Output::File(text.into()),
    };
    let named =
        tables.into_iter().filter_map(|(table, text)| Some((table, output(text.as_ref()?))));
    let outputs: Vec<_> = named.collect();
    match outputs.is_empty() {
        true => Err("name what to export: --accounts, --items or both".into()),
        false => Ok(outputs),
    }
}

fn figures(done: &Exported) -> Figures {
    let (rows, seconds) = (done.shown.rows() as u64, done.elapsed.as_secs_f64());
    Figures {
        table: done.table.name(),
        output: done.output.clone(),
        rows,
        closed: done.closed,
        overdrawn: done.overdrawn,
        partly_taken: done.partly_taken,
        seconds,
        rows_per_s: rows as f64 / seconds,
        sums: currency_sums(done.table, &done.shown),
        verified: done.is_whole(),
    }
}

fn tell(done: &Exported, figures: &Figures) {
    tell!("crest export: {} to {}\n\n", figures.table, figures.output);
    tell!(
        "  rows       {} in {:.2} s, {} a second\n",
        thousands(figures.rows),
        figures.seconds,
        thousands(figures.rows_per_s as u64)
    );
    for (count, what) in [
        (done.closed, "closed accounts are left out"),
        (done.overdrawn, "accounts have less than nothing, which no import takes"),
        (done.partly_taken, "items were ordered; the units that orders have are left out"),
    ] {
        if count > 0 {
            tell!("  note       {} {what}\n", thousands(count));
        }
    }
    tell!("  platform   {}\n", done.shown.shown(done.table));
    if let Some(written) = &done.written {
        tell!("  written    {}\n", written.shown(done.table));
    }
    let verdict = match figures.verified {
        Some(true) => "yes: what was written, read again, is what the platform showed",
        Some(false) => "no: what was written, read again, isn't what the platform showed",
        None => "not asked for",
    };
    tell!("  verified   {verdict}\n\n");
}
