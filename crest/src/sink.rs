//! `crest sink`: the feed, written elsewhere.

use std::process::ExitCode;
use std::time::Duration;

use relay::postgres::{self, Target};
use relay::{Database, Feed};

use crate::Failure;
use crate::args::{self, SinkCommand, SinkPostgres};
use crate::webhook::stopped;

/// What connections are idle for before they are asked, where no URL says otherwise.
const USUAL_IDLE: Duration = Duration::from_secs(2 * 60 * 60);
/// Has the database's URL where no option does.
const URL_VARIABLE: &str = "CREST_POSTGRES_URL";

pub(crate) fn sink(args: &args::Sink) -> Result<ExitCode, Failure> {
    match &args.command {
        SinkCommand::Postgres(args) => postgres(args),
    }
}

fn postgres(args: &SinkPostgres) -> Result<ExitCode, Failure> {
    let target = Target {
        database: database(args.url.as_deref())?,
        schema: args.schema.clone(),
        parts: args.parts,
    };
    let feed = Feed {
        url: args.feed.clone(),
        from: "earliest".to_string(),
        filter: Vec::new(),
        ends: args.until.is_some(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let written = runtime.block_on(async {
        let stop = stopped()?;
        Ok::<_, Failure>(postgres::sink(feed, target, stop).await?)
    })?;
    tell!(
        "{} orders and {} ledger entries written in {} transactions\n",
        written.orders,
        written.entries,
        written.batches
    );
    Ok(ExitCode::SUCCESS)
}

/// The database that was named.
fn database(url: Option<&str>) -> Result<Database, Failure> {
    let url = match url {
        Some(url) => url.to_string(),
        None => std::env::var(URL_VARIABLE)
            .map_err(|_| format!("a database is needed: --url, or {URL_VARIABLE}"))?,
    };
    let mut database: Database = url.parse().map_err(|error| format!("--url: {error}"))?;
    if database.get_application_name().is_none() {
        database.application_name("crest sink");
    }
    // A database that is gone without a word is noticed.
    if database.get_connect_timeout().is_none() {
        database.connect_timeout(Duration::from_secs(10));
    }
    if database.get_tcp_user_timeout().is_none() {
        database.tcp_user_timeout(Duration::from_secs(60));
    }
    if database.get_keepalives_idle() >= USUAL_IDLE {
        database.keepalives_idle(Duration::from_secs(30));
    }
    if database.get_keepalives_interval().is_none() {
        database.keepalives_interval(Duration::from_secs(10));
    }
    Ok(database)
}
