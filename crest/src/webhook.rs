//! `crest webhook`: the feed, posted to a URL.

use std::process::ExitCode;

use relay::Feed;
use relay::webhook::{self, Endpoint, Secrets, State};
use tokio::signal::unix::{SignalKind, signal};

use crate::Failure;
use crate::args::{self, WebhookCommand, WebhookSend};

pub(crate) fn webhook(args: &args::Webhook) -> Result<ExitCode, Failure> {
    match &args.command {
        WebhookCommand::Secret => {
            tell!("{}\n", webhook::draw_secret()?);
            Ok(ExitCode::SUCCESS)
        }
        WebhookCommand::Send(args) => send(args),
        WebhookCommand::Dead(args) => {
            for dead in State::dead(&args.state)? {
                let why = dead.why.replace(char::is_control, " ");
                tell!(
                    "{}\t{} attempts\t{why}\t{}\n",
                    dead.event.id,
                    dead.attempts,
                    dead.event.json
                );
            }
            Ok(ExitCode::SUCCESS)
        }
        WebhookCommand::Redrive(args) => {
            let count = State::redrive(&args.state.state, &args.ids)?;
            tell!("{count} events are tried again\n");
            Ok(if count == 0 { ExitCode::from(1) } else { ExitCode::SUCCESS })
        }
    }
}

/// When the process is told to end.
pub(crate) fn stopped() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

fn send(args: &WebhookSend) -> Result<ExitCode, Failure> {
    let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", args.secret.display());
    let secrets = std::fs::read_to_string(&args.secret).map_err(|error| wrong(&error))?;
    let secrets = Secrets::parse(&secrets).map_err(|error| wrong(&error))?;
    let filters = [
        ("type", &args.types),
        ("buyer", &args.buyer),
        ("item", &args.item),
        ("seller", &args.seller),
    ];
    let filter = filters
        .into_iter()
        .filter_map(|(name, value)| value.as_ref().map(|value| (name.to_string(), value.clone())));
    let feed = Feed {
        url: args.feed.clone(),
        from: args.from.clone(),
        filter: filter.collect(),
        ends: args.until.is_some(),
    };
    let endpoint = Endpoint {
        url: args.to.clone(),
        secrets,
        timeout: args.timeout,
        at_once: args.at_once.get(),
        attempts: args.attempts.get(),
        backoff: args.backoff,
        in_order: args.in_order,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let sent = runtime.block_on(async {
        let stop = stopped()?;
        Ok::<_, Failure>(webhook::send(feed, endpoint, args.state.clone(), stop).await?)
    })?;
    tell!(
        "{} events taken, {} attempts refused, {} set aside\n",
        sent.taken,
        sent.refused,
        sent.dead
    );
    Ok(if sent.dead > 0 { ExitCode::from(1) } else { ExitCode::SUCCESS })
}
