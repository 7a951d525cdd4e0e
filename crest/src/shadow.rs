//! `crest shadow`: a shop's own requests, mirrored, and the answers compared.

use std::process::ExitCode;

use bulk::{Days, Input, ShadowOptions};

use crate::import::{connections, target};
use crate::report::thousands;
use crate::watch::{interrupts, on_reactor};
use crate::{Failure, args};

pub(crate) fn shadow(args: &args::Shadow) -> Result<ExitCode, Failure> {
    let target = target(&args.bulk)?;
    args.bulk.check_json()?;
    let options = ShadowOptions {
        connections: connections(&args.bulk),
        differences: args.differences.clone(),
        patience: args.bulk.retry_for,
        stop: interrupts(|| {})?,
    };
    let days = on_reactor(bulk::shadow(&target, &Input::csv(&args.lines), &options))??;
    tell(&days);
    args.bulk.write_json(&days)?;
    let differs = days.values().any(|day| day.same < day.requests);
    Ok(ExitCode::from(u8::from(differs)))
}

fn tell(days: &Days) {
    for (name, day) in days {
        let name = if name.is_empty() { "without a time" } else { name };
        tell!(
            "{name}: {} requests, {} answered alike, {} differ\n",
            thousands(day.requests),
            thousands(day.same),
            thousands(day.requests - day.same)
        );
        for (currency, [theirs, here]) in &day.totals {
            let (theirs, here) = (thousands(*theirs), thousands(*here));
            tell!("  orders of {currency}: {theirs} there, {here} here\n");
        }
        for (way, count) in &day.differences {
            tell!("  {}: {way}\n", thousands(*count));
        }
    }
}
