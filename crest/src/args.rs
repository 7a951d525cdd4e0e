//! The command line.

use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand};

/// Crest: the transaction platform for the biggest hour of the year.
///
/// Places, pays, cancels and refunds orders over HTTP; makes every one of them durable before it
/// is acknowledged; and proves afterwards, from the log alone, that not a unit or a penny is
/// wrong.
#[derive(Parser)]
#[command(name = "crest", version, max_term_width = 100)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run the platform.
    ///
    /// Prints the address when it is ready, serves until SIGTERM or SIGINT, then answers what is
    /// open and stops. Exit status 0: stopped cleanly; 70: the log failed, and nothing after
    /// that was acknowledged; 2: it could not start.
    Serve(Serve),
    /// Load the platform, then prove its books.
    ///
    /// Without --target: starts the platform as a process of its own with a fresh data
    /// directory, opens accounts and lists items, places orders for a while, stops the platform,
    /// audits its log, and compares the log with every acknowledgement. Exit status 0: the
    /// verdict is pass; 1: fail; 3: invalid, the generator could not keep its schedule; 2: the
    /// drill could not run.
    Drill(Drill),
    /// Check a data directory that nobody serves.
    ///
    /// Executes the whole log again and compares every outcome; checks that debits equal credits,
    /// that no item was oversold, that no command is there twice. Changes nothing. Exit status
    /// 0: nothing is wrong; 1: something is; 2: it could not be read.
    Audit(Audit),
    /// Say where a running platform's time goes: functions, lines, threads.
    ///
    /// Samples its stacks through perf, and writes a flame graph, folded stacks, the stages of
    /// that time and a description into a directory. `replay` executes a captured log again and
    /// times the core; `diff` compares two profiles. Exit status 0: done; 2: it could not.
    Profile(Profile),
}

#[derive(ClapArgs)]
pub(crate) struct Serve {
    /// Where everything is kept. Made if it isn't there.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// Address to serve HTTP/1.1 and HTTP/2 (prior knowledge) on. Port 0 takes a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub(crate) http: SocketAddr,
    /// Threads that serve connections; the first also runs the shard. Default: one for each core.
    #[arg(long, value_name = "N")]
    pub(crate) reactors: Option<NonZeroUsize>,
    /// Shards of a new data directory. Fixed from then on; this version runs one.
    #[arg(long, value_name = "N")]
    pub(crate) shards: Option<NonZeroU16>,
    /// Bytes of a log segment of a new data directory: a multiple of 4096, from 2 MiB + 12 KiB
    /// to 1 GiB. Smaller ones take less space ahead of time. Default 64 MiB.
    #[arg(long, value_name = "BYTES")]
    pub(crate) segment_bytes: Option<NonZeroU64>,
    /// Accounts to be ready for, so that no table grows under load.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) accounts: u64,
    /// Items to be ready for.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) items: u64,
    /// Remembered orders to be ready for: 11 to 21 bytes of index each, taken at the start.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) orders: u64,
}

#[derive(ClapArgs)]
pub(crate) struct Drill {
    /// How long orders fall due, in seconds, or as 90s, 5m, 1h.
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = duration)]
    pub(crate) duration: Duration,
    /// Orders per second, offered on schedule whatever the platform does (open loop). Latency
    /// counts from the time at which an order was due.
    #[arg(long, value_name = "ORDERS/S", conflicts_with = "max", value_parser = rate)]
    pub(crate) rate: Option<f64>,
    /// As fast as answers come (closed loop). The default.
    #[arg(long)]
    pub(crate) max: bool,
    /// Orders per request, 1 to 10000. 1 uses the path for single orders.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(crate) batch: u64,
    /// Open connections.
    #[arg(long, value_name = "N", default_value = "8")]
    pub(crate) connections: NonZeroUsize,
    /// Threads of the generator.
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) threads: NonZeroUsize,
    /// Buyers, each with an account.
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub(crate) buyers: u64,
    /// Items, of Zipf popularity.
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub(crate) items: u64,
    /// Lines per order, 1 to 2000. Default: 1 to 4, each as often.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=2000))]
    pub(crate) lines: Option<u16>,
    /// The same seed makes the same orders.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Drive a platform that runs already, such as http://127.0.0.1:8080. Every acknowledged
    /// order is read back at the end instead of an audit.
    #[arg(long, value_name = "URL", conflicts_with = "data")]
    pub(crate) target: Option<String>,
    /// Keep the data here; must be new. Default: a temporary directory, removed after a pass.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Write the figures to a file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Replay recorded purchases (.csv or .csv.gz) instead of a profile.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["duration", "rate", "max", "batch", "buyers", "items", "lines"])]
    pub(crate) trace: Option<PathBuf>,
    /// With --trace: so many times as fast as it happened. Default: as fast as it goes.
    #[arg(long, value_name = "N", requires = "trace", value_parser = rate)]
    pub(crate) speed: Option<f64>,
    /// Write a flame graph of the platform under load to a file. Needs perf.
    #[arg(long, value_name = "FILE.svg", conflicts_with = "trace")]
    pub(crate) profile_out: Option<PathBuf>,
    /// Reactors of the platform that is started. Default: its own default.
    #[arg(long, value_name = "N", conflicts_with = "target")]
    pub(crate) reactors: Option<NonZeroUsize>,
}

#[derive(ClapArgs)]
pub(crate) struct Audit {
    /// The data directory.
    #[arg(value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// Write the figures to a file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

#[derive(ClapArgs)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Profile {
    #[command(subcommand)]
    pub(crate) command: Option<ProfileCommand>,
    #[command(flatten)]
    pub(crate) sample: ProfileSample,
}

#[derive(Subcommand)]
pub(crate) enum ProfileCommand {
    /// Execute a captured log again, and time the core frame by frame.
    ///
    /// The directory must not be served meanwhile; nothing in it is changed. Frames that are slow
    /// in every round are slow because of their work, those that are slow in one were held up by
    /// the machine. With perf, a flame graph of the core alone is written.
    Replay(ProfileReplay),
    /// Name the functions and stages that changed between two profiles.
    ///
    /// Only what differs by more than chance explains (a z-test at 99 %) is named.
    Diff(ProfileDiff),
}

#[derive(ClapArgs)]
pub(crate) struct ProfileSample {
    /// How long to sample, in seconds, or as 90s, 5m, 1h.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub(crate) seconds: Duration,
    /// The process. Default: the only crest serve of this machine.
    #[arg(long, value_name = "PID")]
    pub(crate) pid: Option<u32>,
    /// Its admin address, for the times of its stages. Default: what its command line names.
    #[arg(long, value_name = "ADDR")]
    pub(crate) admin: Option<SocketAddr>,
    /// Write the files here. Default: profile-TIME in the current directory.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(ClapArgs)]
pub(crate) struct ProfileReplay {
    /// The data directory.
    #[arg(value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// How often everything is executed and timed.
    #[arg(long, value_name = "N", default_value = "3")]
    pub(crate) rounds: NonZeroUsize,
    /// Measure from the frame that holds this offset on.
    #[arg(long, value_name = "OFFSET")]
    pub(crate) from: Option<u64>,
    /// Measure up to the frame that holds this offset, and stop there.
    #[arg(long, value_name = "OFFSET")]
    pub(crate) to: Option<u64>,
    /// Measure the one frame that holds this offset, and count its commands. More rounds give
    /// more samples of it.
    #[arg(long, value_name = "OFFSET", conflicts_with_all = ["from", "to"])]
    pub(crate) offset: Option<u64>,
    /// What the platform was told to be ready for: with other numbers, tables grow at other
    /// moments.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) accounts: u64,
    /// Items that it was told to be ready for.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) items: u64,
    /// Orders that it was told to be ready for.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) orders: u64,
    /// Write the files here. Default: replay-TIME in the current directory.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(ClapArgs)]
pub(crate) struct ProfileDiff {
    /// The first profile: its directory, or a file of folded stacks.
    #[arg(value_name = "A")]
    pub(crate) before: PathBuf,
    /// The second.
    #[arg(value_name = "B")]
    pub(crate) after: PathBuf,
    /// Write the picture here. Default: flame-diff.svg in the current directory.
    #[arg(long, value_name = "FILE.svg")]
    pub(crate) out: Option<PathBuf>,
    /// Write every change to a file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a time such as 20, 20s, 5m or 1h");
    let (number, unit) = match text.strip_suffix(['s', 'm', 'h']) {
        Some(number) => (number, &text[number.len()..]),
        None => (text, "s"),
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let seconds = number
        * match unit {
            "m" => 60.0,
            "h" => 3600.0,
            _ => 1.0,
        };
    match seconds > 0.0 && seconds <= 7.0 * 86_400.0 {
        true => Ok(Duration::from_secs_f64(seconds)),
        false => Err(format!("{text:?} is not between 0 and 7 days")),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.replace(['_', ','], "").parse() {
        Ok(rate) if rate > 0.0 && rate <= 1e9 => Ok(rate),
        _ => Err(format!("{text:?} is not a number between 0 and 1,000,000,000")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Args::command().debug_assert();
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(rate("583,000"), Ok(583_000.0));
        assert!(duration("-1").is_err() && duration("x").is_err() && rate("nan").is_err());
    }
}
