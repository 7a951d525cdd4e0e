//! Arguments of those who follow the feed.

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Subcommand};
use relay::Url;

use super::{duration, http};

/// See [`super::Command::Webhook`].
#[derive(ClapArgs)]
pub(crate) struct Webhook {
    #[command(subcommand)]
    pub(crate) command: WebhookCommand,
}

/// What is done about webhooks.
#[derive(Subcommand)]
pub(crate) enum WebhookCommand {
    /// Send what happens to a URL, until SIGTERM or SIGINT.
    ///
    /// What isn't taken (answered by 200 to 299) is sent again later and later, and is set aside
    /// after the last attempt. Exit status 0: stopped, or all was taken; 1: something was set aside;
    /// 2: it could not go on.
    Send(Box<WebhookSend>),
    /// Print what was set aside: id, attempts, why, event.
    Dead(WebhookState),
    /// Have what was set aside tried again.
    Redrive(WebhookRedrive),
    /// Print a new secret.
    Secret,
}

#[derive(ClapArgs)]
pub(crate) struct WebhookSend {
    /// The platform.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080", value_parser = http)]
    pub(crate) feed: Url,
    /// Where events are posted to.
    #[arg(long, value_name = "URL", value_parser = http)]
    pub(crate) to: Url,
    /// File with the secret that is signed with, one in a line: with several, while one is being
    /// replaced, there are as many signatures.
    #[arg(long, value_name = "FILE")]
    pub(crate) secret: PathBuf,
    /// Where it is kept what was sent and what was not. Made if it isn't there.
    #[arg(long, value_name = "DIR")]
    pub(crate) state: PathBuf,
    /// Where it begins when the state is new: `now`, `earliest`, an event's id or a time.
    #[arg(long, value_name = "WHERE", default_value = "now")]
    pub(crate) from: String,
    /// `now`: it ends when all that is there has been taken or set aside.
    #[arg(long, value_name = "WHEN", value_parser = ["now"])]
    pub(crate) until: Option<String>,
    /// Types of events, with commas between; as all filters are those of the feed.
    #[arg(long = "type", value_name = "TYPES")]
    pub(crate) types: Option<String>,
    /// Buyers.
    #[arg(long, value_name = "IDS")]
    pub(crate) buyer: Option<String>,
    /// Items.
    #[arg(long, value_name = "IDS")]
    pub(crate) item: Option<String>,
    /// Sellers.
    #[arg(long, value_name = "IDS")]
    pub(crate) seller: Option<String>,
    /// An event of a buyer, a party or an item waits until the one before was taken, or set aside.
    #[arg(long)]
    pub(crate) in_order: bool,
    /// Events that are on their way at once.
    #[arg(long, value_name = "N", default_value = "8")]
    pub(crate) at_once: NonZeroUsize,
    /// How long an answer may take.
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = duration)]
    pub(crate) timeout: Duration,
    /// What is waited before the second attempt, a fifth more or less; then twice as long each
    /// time, up to eight hours.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    pub(crate) backoff: Duration,
    /// How often each is tried: with 20 for two and a half days.
    #[arg(long, value_name = "N", default_value = "20")]
    pub(crate) attempts: NonZeroU32,
}

#[derive(ClapArgs)]
pub(crate) struct WebhookState {
    /// The directory that it is sent from.
    #[arg(long, value_name = "DIR")]
    pub(crate) state: PathBuf,
}

#[derive(ClapArgs)]
pub(crate) struct WebhookRedrive {
    #[command(flatten)]
    pub(crate) state: WebhookState,
    /// Ids of events; without any, all.
    #[arg(value_name = "ID")]
    pub(crate) ids: Vec<String>,
}

/// See [`super::Command::Sink`].
#[derive(ClapArgs)]
pub(crate) struct Sink {
    #[command(subcommand)]
    pub(crate) command: SinkCommand,
}

/// Where the feed is written to.
#[derive(Subcommand)]
pub(crate) enum SinkCommand {
    /// Write orders, lines, payments and ledger entries into tables, until SIGTERM or SIGINT.
    ///
    /// It begins with the first record there ever was, or goes on where the tables end, each record
    /// once. Exit status 0: stopped, or all is written; 2: it could not go on.
    Postgres(SinkPostgres),
}

#[derive(ClapArgs)]
pub(crate) struct SinkPostgres {
    /// The platform.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080", value_parser = http)]
    pub(crate) feed: Url,
    /// The database: postgres://USER:PASSWORD@HOST:PORT/DATABASE. Default: the environment variable
    /// CREST_POSTGRES_URL.
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// The schema of the tables, which are made if they aren't there.
    #[arg(long, value_name = "NAME", default_value = "crest")]
    pub(crate) schema: String,
    /// Connections to the database, each for its part of the shards. It can't be changed once the
    /// tables are made.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=32))]
    pub(crate) parts: u16,
    /// `now`: it ends when all that is there has been written.
    #[arg(long, value_name = "WHEN", value_parser = ["now"])]
    pub(crate) until: Option<String>,
}
