//! `cargo xtask bench --generator`: what `crest load` costs beside wrk and h2load, and what it
//! says beside oha and k6 as well.
//!
//! **Cost** is CPU time for a million answers, of the generator alone, at a fixed rate and flat
//! out, on the same target. At a fixed rate it says what a generator takes away from what it
//! measures when both share a machine. The rate decides much of it: one that wakes for every
//! request pays more for each than one that sends them in bursts, which wrk and h2load do (wrk's
//! timers go by milliseconds, h2load's pace by hundredths of a second).
//!
//! wrk has no rate. A script makes its connections wait, for so long that about the rate comes of
//! it; how long is found before the rounds and mended after each.

mod answers;
mod contestants;
mod targets;

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::bare_server::Http;
use super::crest;
use super::statistics::Spread;
use super::table::{heading, round};
use crate::run::{Failure, root};
use contestants::{Contestants, Generator, Load, STREAMS, Sent};
use targets::{PAGE_BYTES, Server, Target, Targets, WORKERS};

const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(2);
/// Requests a second where the cost is measured.
const RATE: f64 = 20_000.0;
/// Where all stand side by side: what the slowest of them holds on two cores.
const RATE_BESIDE: f64 = 4_000.0;
/// Of HTTP/1.1.
const CONNECTIONS: usize = 64;
/// Of HTTP/2, each with as many streams as [`STREAMS`].
const CONNECTIONS_OF_TWO: usize = 8;
/// What `crest load` may cost, as a multiple of the peer's cost, without TLS.
const GOAL: f64 = 1.3;
/// Runs that find how long wrk has to wait.
const TRIALS: usize = 3;

pub(super) fn measure(command: &str, rounds: Option<usize>) -> Result<String, Failure> {
    let rounds = rounds.unwrap_or(ROUNDS);
    if rounds < ROUNDS {
        return Err(format!("{rounds} rounds say nothing: --rounds {ROUNDS} or more").into());
    }
    let began = Instant::now();
    let parent = root().join("target/generator");
    std::fs::create_dir_all(&parent)?;
    let folder = tempfile::Builder::new().prefix("run-").tempdir_in(&parent)?;
    let contestants = Contestants::find(folder.path(), crest::build()?)?;
    let targets = Targets::start(folder.path())?;
    let run = Run { contestants, targets };
    let mut costs = run.cost_cases()?;
    let mut beside = run.side_cases()?;
    for number in 1..=rounds {
        eprintln!("round {number} of {rounds} …");
        for case in costs.iter_mut().chain(&mut beside) {
            run.round(case, number)?;
        }
    }
    let mut text = heading(command, rounds);
    cost_table(&mut text, &costs)?;
    side_table(&mut text, &beside)?;
    for note in run.notes(began.elapsed()) {
        writeln!(text, "\n{note}")?;
    }
    Ok(text)
}

/// The same load from several generators.
struct Case {
    target: Target,
    rate: Option<f64>,
    goal: Option<f64>,
    logged: bool,
    wrk_delay_ms: f64,
    contests: Vec<(Generator, Vec<Sent>)>,
}

impl Case {
    fn connections(&self) -> usize {
        match self.target.http {
            Http::One => CONNECTIONS,
            Http::Two => CONNECTIONS_OF_TWO,
        }
    }

    /// Moves wrk's wait to where its rate would have been right.
    fn mend_delay(&mut self, sent: &Sent) {
        let Some(rate) = self.rate else { return };
        let cycle_ms = |rate: f64| self.connections() as f64 * 1e3 / rate;
        let off_ms = cycle_ms(rate) - cycle_ms(sent.said.rate);
        self.wrk_delay_ms = (self.wrk_delay_ms + off_ms).max(0.0);
    }

    fn name(&self) -> String {
        let server = match self.target.server {
            Server::Nginx => "nginx",
            Server::Bare => "bare hyper",
        };
        let http = match self.target.http {
            Http::One => "HTTP/1.1",
            Http::Two => "HTTP/2",
        };
        let tls = if self.target.tls { " with TLS" } else { "" };
        match self.rate {
            Some(rate) => format!("{server}, {http}{tls}, {}/s", round(rate)),
            None => format!("{server}, {http}{tls}, flat out"),
        }
    }
}

struct Run<'a> {
    contestants: Contestants<'a>,
    targets: Targets,
}

impl Run<'_> {
    fn cost_cases(&self) -> Result<Vec<Case>, Failure> {
        let mut cases = Vec::new();
        let (nginx, bare) = (Server::Nginx, Server::Bare);
        for (server, tls) in [(nginx, false), (bare, false), (nginx, true)] {
            for (http, peer) in [(Http::One, Generator::Wrk), (Http::Two, Generator::H2load)] {
                if !self.contestants.has(peer) {
                    continue;
                }
                let target = Target { server, http, tls };
                let goal = (!tls).then_some(GOAL);
                let flat_out = self.case(target, None, goal, &[Generator::Crest, peer])?;
                let mut rates = vec![RATE];
                if !tls {
                    let half = self.send(peer, &flat_out)?.said.rate / 2.0;
                    rates.push((half / 1e3).round().max(1.0) * 1e3);
                }
                for rate in rates {
                    let all = [Generator::CrestGrain, Generator::Crest, peer];
                    cases.push(self.case(target, Some(rate), goal, &all)?);
                }
                cases.push(flat_out);
            }
        }
        Ok(cases)
    }

    fn side_cases(&self) -> Result<Vec<Case>, Failure> {
        let all = [
            Generator::Crest,
            Generator::Wrk,
            Generator::H2load,
            Generator::Oha,
            Generator::OhaCorrected,
            Generator::K6,
        ];
        // Neither wrk nor k6 speaks HTTP/2 without TLS.
        let of_two = [Generator::Crest, Generator::H2load, Generator::Oha, Generator::OhaCorrected];
        let mut cases = Vec::new();
        for (http, generators) in [(Http::One, &all[..]), (Http::Two, &of_two[..])] {
            let target = Target { server: Server::Nginx, http, tls: false };
            let mut case = self.case(target, Some(RATE_BESIDE), None, generators)?;
            case.logged = true;
            cases.push(case);
        }
        Ok(cases)
    }

    /// With those of `generators` that are here.
    fn case(
        &self,
        target: Target,
        rate: Option<f64>,
        goal: Option<f64>,
        generators: &[Generator],
    ) -> Result<Case, Failure> {
        let here = generators.iter().filter(|generator| self.contestants.has(**generator));
        let contests = here.map(|generator| (*generator, Vec::new())).collect();
        let mut case = Case { target, rate, goal, logged: false, wrk_delay_ms: 0.0, contests };
        let wrk_paced = rate.is_some()
            && case.contests.iter().any(|(generator, _)| *generator == Generator::Wrk);
        if wrk_paced {
            case.wrk_delay_ms = case.connections() as f64 * 1e3 / rate.unwrap_or(RATE);
            for _ in 0..TRIALS {
                let sent = self.send(Generator::Wrk, &case)?;
                case.mend_delay(&sent);
            }
        }
        Ok(case)
    }

    /// Every generator once, each time another one first.
    fn round(&self, case: &mut Case, number: usize) -> Result<(), Failure> {
        let count = case.contests.len();
        for at in 0..count {
            let at = (at + number) % count;
            let generator = case.contests[at].0;
            let sent = self.send(generator, case)?;
            eprintln!(
                "  {}: {generator:?} {:.2} µs of CPU a request, {}/s{}",
                case.name(),
                sent.cpu_s_per_million(),
                round(sent.said.rate),
                if sent.said.failed > 0 { " with errors" } else { "" }
            );
            if generator == Generator::Wrk {
                case.mend_delay(&sent);
            }
            case.contests[at].1.push(sent);
        }
        Ok(())
    }

    fn send(&self, generator: Generator, case: &Case) -> Result<Sent, Failure> {
        let url = self.targets.url(case.target);
        let load = Load {
            url: &url,
            http: case.target.http,
            connections: case.connections(),
            rate: case.rate,
            duration: ROUND,
            wrk_delay_ms: case.wrk_delay_ms,
            logged: case.logged,
        };
        self.contestants.run(generator, &load)
    }

    fn notes(&self, took: Duration) -> Vec<String> {
        let mut notes = vec![
            format!(
                "Cost: CPU seconds of the generator's process, user and system, for a million \
                 answers (as many µs for each), from the kernel's accounts of processes that have \
                 ended. One thread each; {CONNECTIONS} connections with HTTP/1.1, \
                 {CONNECTIONS_OF_TWO} of {STREAMS} streams with HTTP/2; {} s a run. The ratio is \
                 the median of the rounds' ratios.",
                ROUND.as_secs()
            ),
            "wrk was paced by a script that makes its connections wait, by timers of whole \
             milliseconds; h2load by --rps, which sends what has fallen due every hundredth of a \
             second: both send in bursts, and pay less for each request. crest load sends what is \
             due every quarter of a millisecond, and with --grain 1ms, which is the goal's side of \
             the comparison, every millisecond. It alone counts latency from when a request was \
             due."
                .to_string(),
            format!(
                "Targets: nginx with {WORKERS} workers, a page of {PAGE_BYTES} bytes, no access \
                 log, keep-alive without end, HTTP/2 by prior knowledge; a bare hyper server with \
                 {WORKERS} threads that answers a constant. All share the machine's cores."
            ),
            "Side by side: h2load's percentiles are those of its log of every request, which is in \
             its cost; wrk's are its own, asked for by a script; oha with and without \
             --latency-correction; k6 with its constant-arrival-rate executor."
                .to_string(),
            format!("{}.", self.contestants.versions()),
        ];
        notes.extend(self.contestants.missing.iter().cloned());
        notes.push(format!("The whole took {:.0} s.", took.as_secs_f64()));
        notes
    }
}

fn cost_table(text: &mut String, cases: &[Case]) -> std::fmt::Result {
    text.push_str(
        "| target and pace | generator | CPU s for a million | its rate | peer: CPU s for a \
         million | its rate | ratio | goal |\n|---|---|---|---|---|---|---|---|\n",
    );
    for case in cases {
        let Some(((peer, theirs), all_ours)) = case.contests.split_last() else { continue };
        for (number, (generator, ours)) in all_ours.iter().enumerate() {
            let ratio = Spread::of(
                ours.iter()
                    .zip(theirs)
                    .map(|(ours, theirs)| ours.cpu_s_per_million() / theirs.cpu_s_per_million()),
            );
            let goal = case.goal.filter(|_| number == 0).map_or(String::new(), |goal| {
                let met = if ratio.median <= goal { "met" } else { "missed" };
                format!("≤ {goal}: {met}")
            });
            writeln!(
                text,
                "| {} | {} | {} | {} | {} ({}) | {} | {} | {goal} |",
                case.name(),
                name(*generator),
                bracketed(&cost(ours)),
                rate(ours),
                bracketed(&cost(theirs)),
                name(*peer),
                rate(theirs),
                bracketed(&ratio),
            )?;
        }
    }
    Ok(())
}

fn side_table(text: &mut String, cases: &[Case]) -> std::fmt::Result {
    text.push_str(
        "\n| target and pace | generator | rate | p50 ms | p99 ms | p99.9 ms | CPU s for a \
         million | errors, or never sent |\n|---|---|---|---|---|---|---|---|\n",
    );
    for case in cases {
        for (generator, rounds) in &case.contests {
            let latency = [0, 1, 2].map(|at| {
                let said = rounds.iter().filter_map(|sent| Some(sent.said.latency_ms?[at]));
                let said: Vec<f64> = said.collect();
                match said.is_empty() {
                    true => "not said".to_string(),
                    false => bracketed(&Spread::of(said)),
                }
            });
            let failed: u64 = rounds.iter().map(|sent| sent.said.failed).sum();
            writeln!(
                text,
                "| {} | {} | {} | {} | {} | {failed} |",
                case.name(),
                name(*generator),
                rate(rounds),
                latency.join(" | "),
                bracketed(&cost(rounds)),
            )?;
        }
    }
    Ok(())
}

fn cost(rounds: &[Sent]) -> Spread {
    Spread::of(rounds.iter().map(Sent::cpu_s_per_million))
}

fn rate(rounds: &[Sent]) -> String {
    let failed = if rounds.iter().any(|sent| sent.said.failed > 0) { ", with errors" } else { "" };
    let rate = Spread::of(rounds.iter().map(|sent| sent.said.rate)).median;
    format!("{}/s{failed}", round(rate))
}

/// Three digits that mean something, as far as hundredths.
fn bracketed(spread: &Spread) -> String {
    let digits = match spread.median {
        under_ten if under_ten < 10.0 => 2,
        under_hundred if under_hundred < 100.0 => 1,
        _ => 0,
    };
    format!("{:.digits$} [{:.digits$}–{:.digits$}]", spread.median, spread.low, spread.high)
}

fn name(generator: Generator) -> &'static str {
    match generator {
        Generator::Crest => "crest load",
        Generator::CrestGrain => "crest load --grain 1ms",
        Generator::Wrk => "wrk",
        Generator::H2load => "h2load",
        Generator::Oha => "oha",
        Generator::OhaCorrected => "oha --latency-correction",
        Generator::K6 => "k6",
    }
}

#[cfg(test)]
mod tests {
    use super::answers::Said;
    use super::*;

    fn sent(cpu_s: f64, rate: f64) -> Sent {
        let said = Said { answered: 100_000, failed: 0, rate, latency_ms: None };
        Sent { said, cpu_s }
    }

    fn case(contests: Vec<(Generator, Vec<Sent>)>) -> Case {
        let target = Target { server: Server::Nginx, http: Http::One, tls: false };
        let (rate, goal) = (Some(RATE), Some(GOAL));
        Case { target, rate, goal, logged: false, wrk_delay_ms: 3.0, contests }
    }

    #[test]
    fn a_cost_over_the_goal_is_missed() {
        let rounds = |costs: [f64; 3]| costs.map(|cpu_s| sent(cpu_s, 20_000.0)).to_vec();
        let wrk = (Generator::Wrk, rounds([1.0, 1.0, 1.0]));
        for (costs, goal) in [([1.5, 1.2, 1.4], "missed"), ([1.5, 1.2, 1.25], "met")] {
            let mut text = String::new();
            let crest = (Generator::Crest, rounds(costs));
            cost_table(&mut text, &[case(vec![crest, wrk.clone()])]).unwrap();
            let row = text.lines().last().unwrap();
            assert!(row.starts_with("| nginx, HTTP/1.1, 20,000/s | crest load | 1"), "{row}");
            assert!(row.ends_with(&format!("≤ 1.3: {goal} |")), "{row}");
        }
    }

    #[test]
    fn wrk_waits_longer_after_it_was_too_fast() {
        let mut case = case(Vec::new());
        // 64 connections at 20,000/s: 3.2 ms from one request to the next, at 32,000/s 2 ms.
        case.mend_delay(&sent(1.0, 32_000.0));
        assert!((case.wrk_delay_ms - 4.2).abs() < 1e-9, "{}", case.wrk_delay_ms);
        case.mend_delay(&sent(1.0, 1.0));
        assert_eq!(case.wrk_delay_ms, 0.0);
    }
}
