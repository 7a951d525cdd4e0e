//! The `crest` command: serve the platform, drill it, audit what it wrote.

/// Prints, without a newline of its own. A reader that has had enough (`crest drill | head`) ends
/// nothing: the exit status still says what came of the command.
macro_rules! tell {
    ($($words:tt)*) => {{
        let _ = std::io::Write::write_fmt(&mut std::io::stdout(), format_args!($($words)*));
    }};
}

mod admin;
mod archive;
mod args;
mod audit;
mod data_key;
mod drill;
mod export;
mod import;
mod load;
mod machine;
mod platform;
mod profile;
mod report;
mod serve;
mod shadow;
mod sink;
mod watch;
mod webhook;

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::Parser;

use args::{Args, Command};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args = Args::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .log_internal_errors(false)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("CREST_LOG")
                .unwrap_or_else(|_| "info,object_store=warn,async_nats=warn".into()),
        )
        .init();
    let done = match args.command {
        Command::Serve(args) => serve::serve(&args),
        Command::Drill(args) => drill::drill(&args),
        Command::Load(args) => load::load(&args),
        Command::Import(args) => import::import(&args),
        Command::Export(args) => export::export(&args),
        Command::Shadow(args) => shadow::shadow(&args),
        Command::Audit(args) => audit::audit(&args),
        Command::Archive(args) => archive::archive(&args),
        Command::Webhook(args) => webhook::webhook(&args),
        Command::Sink(args) => sink::sink(&args),
        Command::Rekey(args) => data_key::rekey(&args),
        Command::Profile(args) => profile::profile(&args),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            complain(&error.to_string());
            ExitCode::from(2)
        }
    }
}

/// Says on stderr what is wrong. Where nobody can be told, the exit status still says it.
pub(crate) fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "crest: {text}");
}

/// What ends a command before it could do its work.
pub(crate) type Failure = Box<dyn std::error::Error>;
