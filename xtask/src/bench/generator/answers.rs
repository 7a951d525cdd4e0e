//! What each generator prints about itself, read into the same figures.
//!
//! They don't say the same things. h2load prints no percentiles, but writes the time of every
//! request to a log; wrk prints none above the 99th, but its script may ask for them.

use serde_json::Value;

use crate::run::Failure;

/// What a generator says of a run.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Said {
    pub(super) answered: u64,
    /// Answers that were errors, requests without an answer, and what was never sent.
    pub(super) failed: u64,
    /// Answers a second.
    pub(super) rate: f64,
    /// p50, p99 and p99.9 in ms.
    pub(super) latency_ms: Option<[f64; 3]>,
}

/// The JSON of `crest load`.
pub(super) fn crest(text: &str) -> Result<Said, Failure> {
    let json: Value = serde_json::from_str(text)?;
    let number = |path| number(&json, path);
    Ok(Said {
        answered: number("/accepted")? as u64,
        failed: number("/errors")? as u64,
        rate: number("/requests_per_s/mean")?,
        latency_ms: Some([
            number("/latency_ms/p50")?,
            number("/latency_ms/p99")?,
            number("/latency_ms/p999")?,
        ]),
    })
}

/// The last line that `wrk.lua` prints, which is JSON.
pub(super) fn wrk(text: &str) -> Result<Said, Failure> {
    let json = text.lines().rev().find(|line| line.starts_with('{'));
    let json: Value = serde_json::from_str(json.ok_or("wrk ended without its summary")?)?;
    let number = |path| number(&json, path);
    let ms = |path| number(path).map(|us| us / 1e3);
    Ok(Said {
        answered: number("/requests")? as u64,
        failed: number("/errors")? as u64,
        rate: number("/requests")? / number("/duration_us")? * 1e6,
        latency_ms: Some([ms("/p50_us")?, ms("/p99_us")?, ms("/p999_us")?]),
    })
}

/// The text of h2load, and its log of every request where it wrote one.
pub(super) fn h2load(text: &str, log: Option<&str>) -> Result<Said, Failure> {
    let line = |start: &str| {
        let found = text.lines().find(|line| line.starts_with(start));
        found.ok_or_else(|| format!("h2load ended without a line \"{start} …\""))
    };
    // "requests: 10 total, 10 started, 10 done, 10 succeeded, 0 failed, 0 errored, 0 timeout"
    let requests = line("requests:")?;
    let count = |what: &str| word_before(requests, what).and_then(|n| n.parse::<u64>().ok());
    let missing = || format!("h2load's line has changed: {requests}");
    // "finished in 1.00s, 19904.00 req/s, 16.13MB/s"
    let finished = line("finished in")?;
    let rate = word_before(finished, "req/s").and_then(|rate| rate.parse().ok());
    Ok(Said {
        answered: count("succeeded").ok_or_else(missing)?,
        failed: count("failed").ok_or_else(missing)? + count("timeout").ok_or_else(missing)?,
        rate: rate.ok_or_else(|| format!("h2load's line has changed: {finished}"))?,
        latency_ms: log.map(logged).transpose()?,
    })
}

/// Lines of "start in µs", "status", "time in µs".
fn logged(log: &str) -> Result<[f64; 3], Failure> {
    let time = |line: &str| line.split('\t').nth(2).and_then(|us| us.trim().parse::<u64>().ok());
    let mut times_us = Vec::new();
    for line in log.lines() {
        times_us.push(time(line).ok_or_else(|| format!("h2load's log has changed: {line:?}"))?);
    }
    times_us.sort_unstable();
    let last = times_us.len().checked_sub(1).ok_or("h2load's log is empty")?;
    Ok([0.5, 0.99, 0.999].map(|part| times_us[(last as f64 * part).round() as usize] as f64 / 1e3))
}

/// The JSON of oha.
pub(super) fn oha(text: &str) -> Result<Said, Failure> {
    let json: Value = serde_json::from_str(text)?;
    let sum = |path: &str, counts: fn(&str) -> bool| {
        let map = json.pointer(path).and_then(Value::as_object);
        let map = map.ok_or_else(|| format!("no {path} in the JSON"))?;
        let counted = map.iter().filter(|(name, _)| counts(name));
        Ok::<u64, String>(counted.filter_map(|(_, count)| count.as_u64()).sum())
    };
    let status = "/statusCodeDistribution";
    let fine = |code: &str| code.starts_with(['2', '3']);
    let answered = sum(status, fine)?;
    let ms = |path| number(&json, path).map(|seconds| seconds * 1e3);
    Ok(Said {
        answered,
        failed: sum(status, |_| true)? - answered + sum("/errorDistribution", |_| true)?,
        rate: number(&json, "/summary/requestsPerSec")?,
        latency_ms: Some([
            ms("/latencyPercentiles/p50")?,
            ms("/latencyPercentiles/p99")?,
            ms("/latencyPercentiles/p99.9")?,
        ]),
    })
}

/// The summary that k6 exports as JSON.
pub(super) fn k6(text: &str) -> Result<Said, Failure> {
    let json: Value = serde_json::from_str(text)?;
    let number = |path| number(&json, path);
    let answered = number("/metrics/http_reqs/count")? as u64;
    // It leaves out counters that have counted nothing.
    let dropped = number("/metrics/dropped_iterations/count").unwrap_or(0.0) as u64;
    // "passes" of this one are the requests that failed.
    let failed = number("/metrics/http_req_failed/passes").unwrap_or(0.0) as u64;
    Ok(Said {
        answered: answered.saturating_sub(failed),
        failed: failed + dropped,
        rate: number("/metrics/http_reqs/rate")?,
        latency_ms: Some([
            number("/metrics/http_req_duration/p(50)")?,
            number("/metrics/http_req_duration/p(99)")?,
            number("/metrics/http_req_duration/p(99.9)")?,
        ]),
    })
}

fn number(json: &Value, path: &str) -> Result<f64, String> {
    let found = json.pointer(path).and_then(Value::as_f64);
    found.ok_or_else(|| format!("no number {path} in the JSON"))
}

/// The word in front of another one, without commas.
fn word_before<'a>(line: &'a str, what: &str) -> Option<&'a str> {
    let words: Vec<_> = line.split_whitespace().map(|word| word.trim_end_matches(',')).collect();
    let at = words.iter().position(|word| *word == what)?;
    words.get(at.checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crest_is_read() {
        let text = r#"{"accepted": 40000, "errors": 3, "orders_per_s": null,
            "requests_per_s": {"mean": 19984.5, "peak_1s": 20002},
            "latency_ms": {"p50": 0.078, "p90": 5.2, "p99": 23.3, "p999": 30.8, "max": 32.2}}"#;
        let said = crest(text).unwrap();
        assert_eq!((said.answered, said.failed, said.rate), (40_000, 3, 19_984.5));
        assert_eq!(said.latency_ms, Some([0.078, 23.3, 30.8]));
        assert!(crest(&text.replace("mean", "median")).is_err());
    }

    #[test]
    fn wrk_is_read() {
        let text = "Running 1s test @ http://127.0.0.1:18081/\n  1 threads and 64 connections\n\
                    Requests/sec:  38339.55\nTransfer/sec:     31.08MB\n\
                    {\"requests\":42610,\"duration_us\":1111386,\"errors\":0,\
                    \"p50_us\":1100.0,\"p99_us\":20230.0,\"p999_us\":28000.0}\n";
        let said = wrk(text).unwrap();
        assert_eq!((said.answered, said.failed), (42_610, 0));
        assert!((said.rate - 38_339.5).abs() < 1.0, "{}", said.rate);
        assert_eq!(said.latency_ms, Some([1.1, 20.23, 28.0]));
        assert!(wrk("unable to connect to 127.0.0.1:1 Connection refused\n").is_err());
    }

    const H2LOAD: &str = "starting benchmark...\nApplication protocol: h2c\n\n\
        finished in 1.01s, 19768.00 req/s, 13.89MB/s\n\
        requests: 19768 total, 19992 started, 19768 done, 19760 succeeded, 6 failed, 0 errored, \
        2 timeout\n\
        status codes: 19768 2xx, 0 3xx, 0 4xx, 0 5xx\n\
        \x20                    min         max         mean         sd        +/- sd\n\
        time for request:      454us     15.68ms      3.56ms      2.34ms    87.35%\n";

    #[test]
    fn h2load_is_read_with_its_log_and_without() {
        let said = h2load(H2LOAD, None).unwrap();
        assert_eq!((said.answered, said.failed, said.rate), (19_760, 8, 19_768.0));
        assert_eq!(said.latency_ms, None);
        let log: String =
            (0..=1000).rev().map(|us| format!("1795330270043660\t200\t{}\n", us * 10)).collect();
        let said = h2load(H2LOAD, Some(&log)).unwrap();
        assert_eq!(said.latency_ms, Some([5.0, 9.9, 9.99]));
        assert!(h2load(H2LOAD, Some("")).is_err());
        assert!(h2load("starting benchmark...\n", None).is_err());
    }

    #[test]
    fn oha_is_read() {
        let text = r#"{"summary": {"successRate": 1.0, "total": 3.001, "requestsPerSec": 4999.5},
            "latencyPercentiles": {"p10": 0.0001, "p50": 0.0002, "p99": 0.004, "p99.9": 0.01},
            "statusCodeDistribution": {"200": 15000, "404": 2},
            "errorDistribution": {"aborted due to deadline": 1}}"#;
        let said = oha(text).unwrap();
        assert_eq!((said.answered, said.failed, said.rate), (15_000, 3, 4_999.5));
        assert_eq!(said.latency_ms, Some([0.2, 4.0, 10.0]));
    }

    #[test]
    fn k6_is_read() {
        let text = r#"{"metrics": {
            "http_reqs": {"count": 14900, "rate": 4966.6},
            "http_req_duration": {"avg": 0.3, "p(50)": 0.25, "p(99)": 2.5, "p(99.9)": 7.0},
            "http_req_failed": {"passes": 4, "fails": 14896, "value": 0.0},
            "dropped_iterations": {"count": 100, "rate": 33.3}}}"#;
        let said = k6(text).unwrap();
        assert_eq!((said.answered, said.failed, said.rate), (14_896, 104, 4_966.6));
        assert_eq!(said.latency_ms, Some([0.25, 2.5, 7.0]));
    }
}
