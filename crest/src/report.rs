//! Figures: for a person at a glance, and as JSON with fields that stay.

pub(crate) mod times;

use node::AuditFrom;
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::fs::File;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use loadgen::junit::{self, Case, Suite};
use loadgen::recorder::{Kind, Second};
use loadgen::threshold::{Checked, Figures, Quantile, Threshold};
use loadgen::trace::Totals;
use loadgen::{Profile, Recorder};
use model::Outcome;
use serde::Serialize;

use crate::Failure;
use crate::args::ReportFiles;
use crate::machine::{self, Machine};
use times::Times;

/// Whether a drill proved what it should.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    Pass,
    Fail,
    /// The generator could not keep its schedule: the figures say nothing of the platform.
    Invalid,
}

/// Everything that a drill or an audit found. Fields are added, never renamed; what doesn't
/// apply is null.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) version: &'static str,
    pub(crate) machine: Machine,
    pub(crate) platform: Option<PlatformFigures>,
    pub(crate) duration_s: Option<f64>,
    pub(crate) offered: Option<u64>,
    pub(crate) accepted: Option<u64>,
    pub(crate) rejected: Option<BTreeMap<&'static str, u64>>,
    pub(crate) errors: Option<u64>,
    pub(crate) retries: Option<u64>,
    /// Orders that were answered as busy, each time; they were sent again.
    pub(crate) busy: Option<u64>,
    pub(crate) orders_per_s: Option<Rates>,
    pub(crate) requests_per_s: Option<Rates>,
    /// Answers by HTTP status.
    pub(crate) statuses: Option<BTreeMap<u16, u64>>,
    /// Errors by reason.
    pub(crate) reasons: Option<BTreeMap<String, u64>>,
    pub(crate) body_bytes: Option<u64>,
    /// Connections opened.
    pub(crate) connections: Option<u64>,
    pub(crate) latency_ms: Option<Latencies>,
    pub(crate) late_ms: Option<Latencies>,
    pub(crate) log: Option<LogFigures>,
    pub(crate) cpu_s: Option<CpuFigures>,
    pub(crate) audit: Option<AuditFigures>,
    pub(crate) read_back: Option<ReadBack>,
    pub(crate) trace: Option<Totals>,
    /// Where everybody wants one of a few units.
    pub(crate) sale: Option<SaleFigures>,
    pub(crate) profile: Option<String>,
    pub(crate) seed: Option<u64>,
    /// Whether it was ended early, from outside.
    pub(crate) stopped: bool,
    /// Requests by kind, where there are several.
    pub(crate) kinds: BTreeMap<&'static str, KindFigures>,
    /// Second by second.
    pub(crate) seconds: Vec<SecondFigures>,
    /// Where the time went, as the platform's admin port tells.
    pub(crate) times: Option<Times>,
    pub(crate) thresholds: Vec<Checked>,
    /// What is worth knowing and no problem.
    pub(crate) notes: Vec<String>,
    pub(crate) problems: Vec<String>,
    pub(crate) verdict: Verdict,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct PlatformFigures {
    pub(crate) shards: u16,
    pub(crate) log: &'static str,
    pub(crate) sync: bool,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Rates {
    pub(crate) mean: f64,
    pub(crate) peak_1s: u64,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Latencies {
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct LogFigures {
    bytes: u64,
    frames: u64,
    syncs: u64,
    torn_bytes: u64,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct CpuFigures {
    pub(crate) platform: Option<f64>,
    pub(crate) generator: f64,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct AuditFigures {
    pub(crate) ok: bool,
    pub(crate) orders: u64,
    /// Null where no acknowledgements are known.
    pub(crate) lost: Option<u64>,
    pub(crate) duplicated: u64,
    pub(crate) oversold: u64,
    pub(crate) unbalanced: u64,
    /// Streams between shards whose ends are not from the same moment.
    pub(crate) inconsistent: u64,
    /// The first record that executes to something else.
    pub(crate) first_difference: Option<RecordPlace>,
    pub(crate) units_sold: u64,
    pub(crate) units_refunded: u64,
    pub(crate) lines: u64,
    pub(crate) records: u64,
    pub(crate) revenue: BTreeMap<String, i128>,
    /// What was rehearsed; nothing above counts it but `records`. Null where there was nothing.
    pub(crate) rehearsal: Option<SalesFigures>,
    pub(crate) state_hash: String,
    /// Where it began: `beginning`, or at snapshots.
    pub(crate) from: &'static str,
}

/// A sale of a few units to many buyers, as they were answered.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct SaleFigures {
    /// Units that there were.
    stocked: u64,
    /// Units that had to be sold: all that there were, if so many were wanted.
    wanted: u64,
    sold: u64,
    sold_out: u64,
    /// When the last buyer was answered, from when the first one asked.
    answered_s: f64,
}

/// What was ordered, sold and earned.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SalesFigures {
    orders: u64,
    lines: u64,
    units_sold: u64,
    units_refunded: u64,
    revenue: BTreeMap<String, i128>,
}

/// A record: offsets are those of its shard.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct RecordPlace {
    shard: u16,
    offset: u64,
}

/// One kind of request.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct KindFigures {
    offered: u64,
    accepted: u64,
    errors: u64,
    latency_ms: Latencies,
}

/// One second of a run, by the time of the answers. Latencies to a fifth.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SecondFigures {
    accepted: u64,
    errors: u64,
    p50_ms: f64,
    p99_ms: f64,
}

/// Orders that a drill of a foreign platform read again.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ReadBack {
    pub(crate) orders: u64,
    /// Orders that were acknowledged: of very many, only some are read.
    pub(crate) of: u64,
    pub(crate) lost: u64,
    /// Whether these are there, nobody said.
    pub(crate) unread: u64,
}

impl SalesFigures {
    fn of(sales: &node::Sales) -> Option<SalesFigures> {
        let node::Sales { orders, lines, units_sold, units_refunded, revenue } = sales.clone();
        (orders > 0).then_some(SalesFigures { orders, lines, units_sold, units_refunded, revenue })
    }
}

impl Report {
    /// A report of nothing yet.
    pub(crate) fn new() -> Report {
        Report {
            version: env!("CARGO_PKG_VERSION"),
            machine: Machine::read(),
            platform: None,
            duration_s: None,
            offered: None,
            accepted: None,
            rejected: None,
            errors: None,
            retries: None,
            busy: None,
            orders_per_s: None,
            requests_per_s: None,
            statuses: None,
            reasons: None,
            body_bytes: None,
            connections: None,
            latency_ms: None,
            late_ms: None,
            log: None,
            cpu_s: None,
            audit: None,
            read_back: None,
            trace: None,
            sale: None,
            profile: None,
            seed: None,
            stopped: false,
            kinds: BTreeMap::new(),
            seconds: Vec::new(),
            times: None,
            thresholds: Vec::new(),
            notes: Vec::new(),
            problems: Vec::new(),
            verdict: Verdict::Pass,
        }
    }

    /// Something is wrong.
    pub(crate) fn problem(&mut self, problem: String) {
        self.problems.push(problem);
        self.verdict = Verdict::Fail;
    }

    /// Takes in what a load of any requests saw.
    pub(crate) fn add_requests(
        &mut self,
        recorder: &Recorder,
        elapsed: Duration,
        thresholds: &[Threshold],
    ) {
        self.add_load(recorder, elapsed, thresholds);
        self.requests_per_s = self.orders_per_s.take();
        self.rejected = None;
        self.busy = None;
        self.statuses = Some(recorder.statuses.clone());
        self.reasons = Some(recorder.reasons.clone());
        self.body_bytes = Some(recorder.body_bytes);
        self.connections = Some(recorder.connects);
    }

    /// Takes in what a load of orders saw. Errors fail it, unless a threshold says how many may
    /// be.
    pub(crate) fn add_load(
        &mut self,
        recorder: &Recorder,
        elapsed: Duration,
        thresholds: &[Threshold],
    ) {
        let seconds = elapsed.as_secs_f64();
        let orders = &recorder.kinds[0];
        self.duration_s = Some(seconds);
        self.offered = Some(orders.offered);
        self.accepted = Some(orders.accepted);
        self.rejected = Some(recorder.rejected().map(|(o, count)| (o.word(), count)).collect());
        self.errors = Some(recorder.errors());
        self.retries = Some(recorder.retries);
        self.busy = Some(recorder.busy);
        self.orders_per_s = Some(Rates {
            mean: orders.accepted as f64 / seconds,
            peak_1s: recorder.seconds.iter().map(|second| second.accepted).max().unwrap_or(0),
        });
        self.latency_ms = (!orders.latency.is_empty()).then(|| Latencies::of(&orders.latency));
        if !recorder.late.is_empty() {
            self.late_ms = Some(Latencies::of(&recorder.late));
        }
        let used = recorder.kinds.iter().filter(|kind| kind.offered > 0);
        if used.clone().count() > 1 {
            self.kinds = used.map(|kind| (kind.name, KindFigures::of(kind))).collect();
        }
        self.seconds = recorder.seconds.iter().map(SecondFigures::of).collect();
        if recorder.requests() == 0 && recorder.errors() == 0 {
            self.problem("nothing was sent, or nothing was answered".to_string());
        }
        if recorder.errors() > 0 {
            let main = recorder.main_reason().unwrap_or("");
            let words = format!("{} errors, most of them: {main}", thousands(recorder.errors()));
            match thresholds.iter().any(Threshold::wants_errors) {
                true => self.notes.push(words),
                false => self.problem(words),
            }
        }
        if recorder.left_out > 0 {
            let left_out = thousands(recorder.left_out);
            self.notes.push(format!("{left_out} later changes fell due after the end"));
        }
        if self.stopped {
            self.notes.push("stopped before its end".to_string());
        }
    }

    /// Takes in how a sale went, after its load. Where the stock was `new`, all of it that was
    /// wanted must have been sold.
    pub(crate) fn add_sale(&mut self, profile: &Profile, recorder: &Recorder, new: bool) {
        let settings = profile.settings();
        let Some(flash) = settings.flash.as_ref().filter(|_| settings.is_sale()) else { return };
        let mut wanted = BTreeMap::<u64, u64>::new();
        for n in 0..self.offered.unwrap_or(0) {
            for (item, units) in profile.order(n) {
                *wanted.entry(item.0).or_default() += u64::from(units);
            }
        }
        let sale = SaleFigures {
            stocked: flash.count * flash.stock,
            wanted: wanted.values().map(|units| flash.stock.min(*units)).sum(),
            sold: recorder.outcomes[Outcome::Ok as usize]
                + recorder.outcomes[Outcome::AlreadyDone as usize],
            sold_out: recorder.outcomes[Outcome::SoldOut as usize],
            answered_s: self.duration_s.unwrap_or(0.0),
        };
        if new && sale.sold != sale.wanted && recorder.errors() == 0 {
            let SaleFigures { sold, wanted, .. } = sale;
            self.problem(format!("{sold} units were sold where {wanted} had to be"));
        }
        self.sale = Some(sale);
    }

    /// Takes in what was read again of a foreign platform.
    pub(crate) fn add_read_back(&mut self, read: ReadBack) {
        if read.lost > 0 {
            self.problem(format!("{} acknowledged orders can't be read back", read.lost));
        }
        if read.unread > 0 {
            let unread = thousands(read.unread);
            self.problem(format!("{unread} acknowledged orders: the platform answers no reads"));
        }
        self.read_back = Some(read);
    }

    /// Whether the generator was up to its task.
    pub(crate) fn judge_schedule(
        &mut self,
        recorder: &Recorder,
        threads: usize,
        elapsed: Duration,
    ) {
        let at = |histogram: &hdrhistogram::Histogram<u64>| {
            Duration::from_nanos(histogram.value_at_quantile(0.99))
        };
        let (late, tail) = (at(&recorder.late), at(&recorder.kinds[0].latency));
        if recorder.late.len() >= JUDGED_MIN && late > LATE.max(tail / 2) {
            if self.verdict == Verdict::Pass {
                self.verdict = Verdict::Invalid;
            }
            self.problems.push(format!(
                "the generator sent 1 in 100 requests {late:.1?} or more after they were due \
                 although a connection was free, and that is half of the latency it found or \
                 more: a lower rate, more --threads or a machine of its own may help"
            ));
        }
        let requests: u64 = recorder.late.len();
        if recorder.waited * 10 > requests && requests > 0 {
            self.notes.push(format!(
                "{} of {} requests had to wait for a connection to be free: they are slow to be \
                 answered, or --connections is too low",
                thousands(recorder.waited),
                thousands(requests)
            ));
        }
        let busy = self.cpu_s.as_ref().map_or(0.0, |cpu| cpu.generator);
        let share = busy / (elapsed.as_secs_f64() * threads as f64);
        if share > 0.9 {
            self.notes.push(format!(
                "the generator's threads were busy {:.0} % of the time: more --threads could \
                 offer more",
                share * 100.0
            ));
        }
    }

    /// Holds the run against what is to hold.
    pub(crate) fn judge(
        &mut self,
        thresholds: &[Threshold],
        recorder: &Recorder,
        elapsed: Duration,
    ) {
        let found = Found { recorder, elapsed, audit: self.audit.as_ref().map(|audit| audit.ok) };
        self.thresholds = thresholds.iter().map(|threshold| threshold.check(&found)).collect();
        if self.thresholds.iter().any(|checked| !checked.verdict.is_met())
            && self.verdict == Verdict::Pass
        {
            self.verdict = Verdict::Fail;
        }
    }

    /// Takes in what an audit found.
    pub(crate) fn add_audit(&mut self, audit: &node::Audit, lost: Option<u64>) {
        let log = if audit.log.is_stream { "jetstream" } else { "local" };
        self.platform = Some(PlatformFigures { shards: audit.shards, log, sync: true });
        self.log = Some(LogFigures {
            bytes: audit.log.bytes,
            frames: audit.log.frames,
            syncs: audit.log.syncs,
            torn_bytes: audit.log.torn_bytes,
        });
        self.audit = Some(AuditFigures {
            ok: audit.is_ok() && lost.unwrap_or(0) == 0,
            orders: audit.trade.orders,
            lost,
            duplicated: audit.duplicated,
            oversold: audit.oversold,
            unbalanced: audit.unbalanced,
            inconsistent: audit.inconsistent,
            first_difference: audit
                .first_difference
                .map(|(shard, offset)| RecordPlace { shard: shard.0, offset: offset.0 }),
            units_sold: audit.trade.units_sold,
            units_refunded: audit.trade.units_refunded,
            lines: audit.trade.lines,
            records: audit.records,
            revenue: audit.trade.revenue.clone(),
            rehearsal: SalesFigures::of(&audit.rehearsal),
            state_hash: format!("{:016x}", audit.state_hash),
            from: audit.from.word(),
        });
        for problem in &audit.problems {
            self.problem(format!("audit: {problem}"));
        }
    }

    /// Looks at what the data lies on: a sync to memory costs nothing and keeps nothing.
    pub(crate) fn add_disk(&mut self, data: &Path) {
        if let Some(platform) = &mut self.platform {
            platform.sync = !machine::is_in_memory(data);
        }
    }

    /// Writes what was asked for.
    pub(crate) fn write_all(&self, files: &ReportFiles) -> Result<(), Failure> {
        files.json.as_deref().map_or(Ok(()), |path| self.write(path))?;
        files.junit.as_deref().map_or(Ok(()), |path| self.write_junit(path))
    }

    /// Writes what was to hold, and whether it did.
    fn write_junit(&self, path: &Path) -> Result<(), Failure> {
        let mut cases: Vec<Case> = self.thresholds.iter().map(Case::from).collect();
        let case = |name: &str, found: String, outcome| Case { name: name.into(), found, outcome };
        let errors = self.errors.unwrap_or(0);
        let kept = |ok| if ok { junit::Outcome::Passed } else { junit::Outcome::Failed };
        cases.push(case("every request answered", format!("{errors} errors"), kept(errors == 0)));
        let told = cases.iter().any(|case| case.name == "audit ok");
        if let Some(audit) = self.audit.as_ref().filter(|_| !told) {
            let found = format!("{} records", audit.records);
            cases.push(case("audit ok", found, kept(audit.ok)));
        }
        let schedule = match self.verdict {
            Verdict::Invalid => junit::Outcome::Unjudged,
            _ => junit::Outcome::Passed,
        };
        cases.push(case("schedule kept", self.problems.join("; "), schedule));
        let took = Duration::from_secs_f64(self.duration_s.unwrap_or(0.0));
        let mut properties = vec![
            ("version", self.version.to_string()),
            ("machine", self.machine.to_string()),
            ("verdict", self.verdict.word().to_string()),
        ];
        properties.extend(self.seed.map(|seed| ("seed", seed.to_string())));
        let mean = self.orders_per_s.as_ref().map(|rates| format!("{:.0}", rates.mean));
        properties.extend(mean.map(|mean| ("mean rate", mean)));
        let suite = Suite {
            name: self.profile.as_deref().unwrap_or("crest"),
            started: SystemTime::now() - took,
            took,
            properties: &properties,
            cases: &cases,
        };
        let file = File::create(path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(suite.write(file)?)
    }

    /// Writes the JSON.
    pub(crate) fn write(&self, path: &Path) -> Result<(), Failure> {
        let mut text = sonic_rs::to_string_pretty(self)?;
        text.push('\n');
        std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()).into())
    }
}

/// Of fewer requests, 1 in 100 is none.
const JUDGED_MIN: u64 = 100;
/// A request that was sent so long after it was due counts as late.
const LATE: Duration = Duration::from_millis(5);

/// A run's figures, as thresholds ask for them. Without a kind they are those of the first,
/// which is what the load is about.
struct Found<'a> {
    recorder: &'a Recorder,
    elapsed: Duration,
    audit: Option<bool>,
}

impl Found<'_> {
    fn kind(&self, name: Option<&str>) -> Option<&Kind> {
        let kinds = &self.recorder.kinds;
        let kind = match name {
            None => kinds.first(),
            Some(name) => kinds.iter().find(|kind| kind.name == name),
        };
        kind.filter(|kind| kind.offered > 0)
    }
}

impl Figures for Found<'_> {
    fn latency(&self, kind: Option<&str>, quantile: Quantile) -> Option<Duration> {
        let latency = &self.kind(kind)?.latency;
        let nanos = match quantile {
            Quantile::Mean => latency.mean() as u64,
            Quantile::Max => latency.max(),
            Quantile::Percentile(percent) => latency.value_at_quantile(percent.fraction()),
        };
        (!latency.is_empty()).then(|| Duration::from_nanos(nanos))
    }

    fn errors(&self, kind: Option<&str>) -> Option<(u64, u64)> {
        match kind {
            Some(_) => self.kind(kind).map(|kind| (kind.errors, kind.offered)),
            None => Some((self.recorder.errors(), self.recorder.offered())),
        }
    }

    fn rate(&self, kind: Option<&str>) -> Option<f64> {
        let kind = self.kind(kind)?;
        Some(kind.accepted as f64 / self.elapsed.as_secs_f64())
    }

    fn late(&self) -> Option<(u64, u64)> {
        let late = &self.recorder.late;
        let after = LATE.as_nanos() as u64..=u64::MAX;
        (!late.is_empty()).then(|| (late.count_between(*after.start(), *after.end()), late.len()))
    }

    fn audit_ok(&self) -> Option<bool> {
        self.audit
    }
}

impl KindFigures {
    fn of(kind: &Kind) -> KindFigures {
        KindFigures {
            offered: kind.offered,
            accepted: kind.accepted,
            errors: kind.errors,
            latency_ms: Latencies::of(&kind.latency),
        }
    }
}

impl SecondFigures {
    fn of(second: &Second) -> SecondFigures {
        let ms = |quantile| second.quantile(quantile).as_secs_f64() * 1e3;
        SecondFigures {
            accepted: second.accepted,
            errors: second.errors,
            p50_ms: ms(0.5),
            p99_ms: ms(0.99),
        }
    }
}

impl Verdict {
    /// What a shell sees.
    pub(crate) fn exit_code(self) -> ExitCode {
        match self {
            Verdict::Pass => ExitCode::SUCCESS,
            Verdict::Fail => ExitCode::from(1),
            Verdict::Invalid => ExitCode::from(3),
        }
    }

    fn word(self) -> &'static str {
        match self {
            Verdict::Pass => "PASS",
            Verdict::Fail => "FAIL",
            Verdict::Invalid => "INVALID",
        }
    }
}

impl Latencies {
    /// Of a histogram in ns.
    pub(crate) fn of(histogram: &hdrhistogram::Histogram<u64>) -> Latencies {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e6;
        Latencies {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: histogram.max() as f64 / 1e6,
        }
    }
}

impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Latencies { p50, p90, p99, p999, max } = self;
        write!(
            f,
            "p50 {p50:.2} ms, p90 {p90:.2} ms, p99 {p99:.2} ms, p99.9 {p999:.2} ms, max {max:.2} ms"
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut row = |name: &str, text: String| writeln!(f, "  {name:<10} {text}");
        row("verdict", self.verdict.word().to_string())?;
        if let (Some(accepted), Some(offered), Some(seconds)) =
            (self.accepted, self.offered, self.duration_s)
        {
            let mut text = format!(
                "{} accepted of {} offered in {seconds:.1} s",
                thousands(accepted),
                thousands(offered)
            );
            for (reason, count) in self.rejected.iter().flatten() {
                let _ = write!(text, ", {} {reason}", thousands(*count));
            }
            let _ = write!(text, ", {} errors", thousands(self.errors.unwrap_or(0)));
            if let Some(retries) = self.retries.filter(|&retries| retries > 0) {
                let _ = write!(text, ", {} requests sent again", thousands(retries));
            }
            if let Some(busy) = self.busy.filter(|&busy| busy > 0) {
                let _ = write!(text, ", {} answers of busy", thousands(busy));
            }
            row(if self.requests_per_s.is_some() { "requests" } else { "orders" }, text)?;
        }
        if let Some(sale) = &self.sale {
            let SaleFigures { stocked, sold, sold_out, answered_s, .. } = *sale;
            let (sold, stocked) = (thousands(sold), thousands(stocked));
            let sold_out = thousands(sold_out);
            let text = format!(
                "{sold} of {stocked} units sold, {sold_out} told that it is sold out, all \
                 answered after {answered_s:.2} s"
            );
            row("sale", text)?;
        }
        if let Some(rates) = self.orders_per_s.as_ref().filter(|_| self.sale.is_none()) {
            let (mean, peak) = (thousands(rates.mean as u64), thousands(rates.peak_1s));
            row("rate", format!("{mean} orders/s, {peak} in the best second"))?;
        }
        if let Some(rates) = &self.requests_per_s {
            let (mean, peak) = (thousands(rates.mean as u64), thousands(rates.peak_1s));
            row("rate", format!("{mean} requests/s, {peak} in the best second"))?;
        }
        if let Some(statuses) = self.statuses.as_ref().filter(|statuses| !statuses.is_empty()) {
            let each: Vec<String> =
                statuses.iter().map(|(status, n)| format!("{status}: {}", thousands(*n))).collect();
            row("statuses", each.join(", "))?;
        }
        for (why, count) in self.reasons.iter().flatten() {
            row("error", format!("{} {why}", thousands(*count)))?;
        }
        if let (Some(bytes), Some(connections)) = (self.body_bytes, self.connections) {
            let (bytes, connections) = (thousands(bytes), thousands(connections));
            row("read", format!("{bytes} bytes of bodies over {connections} connections"))?;
        }
        if let Some(latency) = &self.latency_ms {
            row("latency", format!("{latency}"))?;
        }
        for (name, kind) in &self.kinds {
            let text = format!(
                "{} of {}, {} errors, {}",
                thousands(kind.accepted),
                thousands(kind.offered),
                thousands(kind.errors),
                kind.latency_ms
            );
            row(name, text)?;
        }
        if let Some(late) = self.late_ms.as_ref().filter(|_| self.verdict == Verdict::Invalid) {
            row("late", format!("{late} (the generator's own)"))?;
        }
        if let Some(cpu) = &self.cpu_s {
            let platform = cpu.platform.map_or(String::new(), |s| format!("platform {s:.1} s, "));
            row("cpu", format!("{platform}generator {:.1} s", cpu.generator))?;
        }
        if let Some(log) = &self.log {
            let text = format!(
                "{} bytes, {} frames, {} syncs",
                thousands(log.bytes),
                thousands(log.frames),
                thousands(log.syncs)
            );
            row("log", text)?;
            if log.torn_bytes > 0 {
                let torn = thousands(log.torn_bytes);
                row("", format!("{torn} bytes of a torn, unacknowledged tail"))?;
            }
        }
        if let Some(audit) = &self.audit {
            let lost =
                audit.lost.map_or(String::new(), |lost| format!("{} lost, ", thousands(lost)));
            let text = format!(
                "{}: {} records executed again, {lost}{} duplicated, {} oversold, {} unbalanced, {} \
                 inconsistent",
                if audit.ok { "ok" } else { "NOT OK" },
                thousands(audit.records),
                thousands(audit.duplicated),
                thousands(audit.oversold),
                thousands(audit.unbalanced),
                thousands(audit.inconsistent)
            );
            row("audit", text)?;
            if audit.from != AuditFrom::Beginning.word() {
                row("", format!("counted from the {} on", audit.from))?;
            }
            if let Some(RecordPlace { shard, offset }) = audit.first_difference {
                row("", format!("the first difference is at shard {shard}, offset {offset}"))?;
            }
            let AuditFigures { orders, lines, units_sold, units_refunded, .. } = *audit;
            let books = [orders, lines, units_sold, units_refunded];
            row("books", books_text(books, &audit.revenue))?;
            if let Some(sales) = &audit.rehearsal {
                let SalesFigures { orders, lines, units_sold, units_refunded, .. } = *sales;
                let books = [orders, lines, units_sold, units_refunded];
                row("rehearsed", books_text(books, &sales.revenue))?;
            }
        }
        if let Some(read) = &self.read_back {
            let (orders, lost) = (thousands(read.orders), thousands(read.lost));
            let of = match read.of > read.orders {
                true => format!(" of {}", thousands(read.of)),
                false => String::new(),
            };
            row("read back", format!("{orders}{of} acknowledged orders, {lost} lost"))?;
        }
        if let Some(trace) = &self.trace {
            let text = format!(
                "{} rows: {} orders, {} lines, {} units sold, {} refunded, {} unmatched",
                thousands(trace.rows),
                thousands(trace.orders),
                thousands(trace.lines),
                thousands(trace.units_sold),
                thousands(trace.units_refunded),
                thousands(trace.units_unmatched)
            );
            row("trace", text)?;
            let skipped: Vec<String> =
                trace.skipped.iter().map(|(why, n)| format!("{} {why}", thousands(*n))).collect();
            row("skipped", skipped.join(", "))?;
        }
        if self.platform.as_ref().is_some_and(|platform| !platform.sync) {
            let text = "in memory: nothing was made durable, and syncing cost nothing; see --data";
            row("disk", text.to_string())?;
        }
        row("machine", self.machine.to_string())?;
        for checked in &self.thresholds {
            let word = if checked.verdict.is_met() { "met" } else { "NOT MET" };
            row("threshold", format!("{}: {word} ({})", checked.threshold, checked.found))?;
        }
        for note in &self.notes {
            row("note", note.clone())?;
        }
        for problem in &self.problems {
            row("problem", problem.clone())?;
        }
        if let Some(times) = &self.times {
            write!(f, "{times}")?;
        }
        Ok(())
    }
}

/// Orders, lines, units sold and refunded, and what was earned.
fn books_text(
    [orders, lines, sold, refunded]: [u64; 4],
    revenue: &BTreeMap<String, i128>,
) -> String {
    let mut text = format!(
        "{} orders, {} lines, {} units sold, {} refunded",
        thousands(orders),
        thousands(lines),
        thousands(sold),
        thousands(refunded)
    );
    for (currency, revenue) in revenue {
        let _ = write!(text, ", {currency} {}", money(currency, *revenue));
    }
    text
}

/// Minor units as a person writes them: 123456 pence as 1,234.56.
fn money(currency: &str, minor: i128) -> String {
    let decimals = model::Currency::from_code(currency).map_or(0, model::Currency::decimals);
    let unit = 10u128.pow(decimals);
    let size = minor.unsigned_abs();
    let major = thousands(u64::try_from(size / unit).unwrap_or(u64::MAX));
    let sign = if minor < 0 { "-" } else { "" };
    match decimals {
        0 => format!("{sign}{major}"),
        _ => format!("{sign}{major}.{:0width$}", size % unit, width = decimals as usize),
    }
}

/// 1234567 as 1,234,567.
pub(crate) fn thousands(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_written_as_its_currency_has_it() {
        assert_eq!(money("GBP", 604_352_386), "6,043,523.86");
        assert_eq!(money("GBP", -5), "-0.05");
        assert_eq!(money("JPY", 1_234), "1,234");
        assert_eq!(money("KWD", 1_234), "1.234");
    }
}
