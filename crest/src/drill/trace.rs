//! `crest drill --trace`: replays recorded purchases and compares the books with the file.

use std::collections::HashMap;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use loadgen::engine::unix_ms;
use loadgen::replay::{Replay, replay};
use loadgen::trace::{Event, Plan};
use loadgen::{Progress, RunId};
use model::record::Body;
use model::{OrderId, Party};
use node::{ArchiveLocation, AuditFrom};

use super::read_back::read_orders;
use super::scene::Scene;
use super::{RETRY_FOR, conclude};
use crate::report::{Report, thousands};
use crate::watch::{on_reactor, say, watched};
use crate::{Failure, args};

pub(crate) fn drill(args: &args::Drill, file: &Path) -> Result<ExitCode, Failure> {
    let plan = Arc::new(Plan::open(file)?);
    let connections = args.connections.map_or(8, usize::from);
    tell!(
        "crest drill of {}: {} rows, {} events, {} items, over {} connections\n",
        file.display(),
        thousands(plan.totals.rows),
        thousands(plan.events.len() as u64),
        thousands(plan.items.len() as u64),
        connections
    );
    let events = plan.events.len() as u64;
    let scene = Scene::set(args, 0, plan.items.len() as u64, events)?;
    let replay_plan = Replay {
        target: scene.target.clone(),
        plan: plan.clone(),
        run: RunId::new(unix_ms() ^ args.seed.unwrap_or(1) << 48),
        connections,
        speed: args.speed,
        retry_for: RETRY_FOR,
    };
    let span_s = match (plan.events.first(), plan.events.last()) {
        (Some(first), Some(last)) => last.time_s().saturating_sub(first.time_s()),
        _ => 0,
    };
    let expected = args.speed.map_or(10.0, |speed| span_s as f64 / speed);
    let progress = Arc::new(Progress::default());
    let before = scene.cpu();
    let duration = Duration::from_secs_f64(expected);
    let replayed =
        watched(&progress, duration, "orders", || on_reactor(replay(&replay_plan, &progress)))???;
    let cpu = scene.cpu().since(&before);

    let mut report = Report::new();
    report.cpu_s = Some(cpu);
    report.add_load(&replayed.recorder, replayed.elapsed, &[]);
    report.trace = Some(plan.totals.clone());
    for (outcome, count) in replayed.recorder.rejected() {
        report.problem(format!("{count} events were refused as {}", outcome.word()));
    }
    let Some(data) = scene.stop(&mut report)? else {
        let read = on_reactor(read_orders(&scene.target, connections, replayed.orders))??;
        report.add_read_back(read);
        return conclude(args, report, None);
    };

    let mut acknowledged: HashMap<(Party, OrderId), _> =
        replayed.orders.iter().map(|&(buyer, id, outcome)| ((buyer, id), outcome)).collect();
    let mut lost = 0;
    let (access, from) = (args.open.access()?, AuditFrom::Beginning);
    let audit = node::audit(&data, &access, &ArchiveLocation::Beside, from, |record, _, _| {
        if let (Body::Place { .. }, Some(id)) = (record.body, record.order()) {
            let expected = acknowledged.remove(&(record.party(), id));
            lost += u64::from(expected.is_some() && expected != record.outcome());
        }
    })?;
    lost += acknowledged.len() as u64;
    report.add_audit(&audit, Some(lost));
    report.add_disk(&data);
    if lost > 0 {
        report.problem(format!("{lost} acknowledged orders are not in the log"));
    }
    compare(&mut report, &plan, &audit);
    say("audited");
    conclude(args, report, scene.data)
}

/// The audit's figures come from the log alone and must be the file's.
fn compare(report: &mut Report, plan: &Plan, audit: &node::Audit) {
    let totals = &plan.totals;
    let trade = &audit.trade;
    let revenue = trade.revenue.get("GBP").copied().unwrap_or(0);
    let orders = plan.events.iter().filter(|event| matches!(event, Event::Order { .. })).count();
    for (what, file, log) in [
        ("orders", i128::from(totals.orders), i128::from(trade.orders)),
        ("orders in the plan", orders as i128, i128::from(trade.orders)),
        ("lines", totals.lines.into(), trade.lines.into()),
        ("units sold", totals.units_sold.into(), trade.units_sold.into()),
        ("units refunded", totals.units_refunded.into(), trade.units_refunded.into()),
        ("revenue in pence", totals.revenue_pence.into(), revenue),
    ] {
        if file != log {
            report.problem(format!("{what}: {file} in the file, {log} in the log"));
        }
    }
}
