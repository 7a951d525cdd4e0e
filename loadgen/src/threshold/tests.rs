use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;

/// A run of which everything is known, but for the kind `refund` and perhaps the audit.
struct Run {
    audit: Option<bool>,
}

impl Figures for Run {
    fn latency(&self, kind: Option<&str>, quantile: Quantile) -> Option<Duration> {
        let base = match kind {
            None => 1,
            Some("pay") => 2,
            Some(_) => return None,
        };
        Some(
            base * match quantile {
                Quantile::Percentile(percent) => {
                    Duration::from_micros((percent.fraction() * 50_000.0).round() as u64)
                }
                Quantile::Mean => Duration::from_nanos(2_000_001),
                Quantile::Max => Duration::from_secs(3),
            },
        )
    }

    fn errors(&self, kind: Option<&str>) -> Option<(u64, u64)> {
        match kind {
            None => Some((1, 1_000)),
            Some("pay") => Some((0, 400)),
            Some("browse") => Some((0, 0)),
            Some(_) => None,
        }
    }

    fn rate(&self, kind: Option<&str>) -> Option<f64> {
        kind.is_none().then_some(512_345.678)
    }

    fn late(&self) -> Option<(u64, u64)> {
        Some((3, 200))
    }

    fn audit_ok(&self) -> Option<bool> {
        self.audit
    }
}

fn check(run: &Run, thresholds: &[&str], expected: Expect) {
    let mut found = String::new();
    for text in thresholds {
        let Checked { threshold, found: figure, verdict } =
            Threshold::parse(text).unwrap().check(run);
        found += &format!("{threshold} | {figure} | {verdict:?}\n");
    }
    expected.assert_eq(&found);
}

#[test]
fn thresholds_are_held_against_the_run() {
    let audited = Run { audit: Some(true) };
    check(
        &audited,
        &[
            "p99 < 50ms",
            "p99<49.5 ms",
            "p99 <= 49.5ms",
            "p99.9 <= 1.5s",
            "p50<200us",
            "p100 == 50ms",
            "mean < 2ms",
            "max < 3000ms",
            "max >= 0.05m",
            "errors < 0.1%",
            "errors <= 0.1 %",
            "errors == 0",
            "errors < 2",
            "late < 1%",
            "late < 1.5001%",
            "rate > 500_000",
            "rate > 500,000.25/s",
            "rate > 512.4k",
            "rate < 0.5M",
            "audit  ok",
            "pay p99 < 80ms",
            "pay errors == 0",
        ],
        expect![[r#"
            p99 < 50ms | 49.5ms | Met
            p99 < 49.5ms | 49.5ms | Missed
            p99 <= 49.5ms | 49.5ms | Met
            p99.9 <= 1.5s | 49.95ms | Met
            p50 < 200us | 25ms | Missed
            p100 == 50ms | 50ms | Met
            mean < 2ms | 2.000001ms | Missed
            max < 3s | 3s | Missed
            max >= 3s | 3s | Met
            errors < 0.1% | 0.1000% (1 of 1000) | Missed
            errors <= 0.1% | 0.1000% (1 of 1000) | Met
            errors == 0 | 0.1000% (1 of 1000) | Missed
            errors < 2 | 0.1000% (1 of 1000) | Met
            late < 1% | 1.50% (3 of 200) | Missed
            late < 1.5001% | 1.50% (3 of 200) | Met
            rate > 500000 | 512345.678/s | Met
            rate > 500000.25 | 512345.678/s | Met
            rate > 512400 | 512345.678/s | Missed
            rate < 500000 | 512345.678/s | Missed
            audit ok | audit ok | Met
            pay p99 < 80ms | 99ms | Missed
            pay errors == 0 | 0.00% (0 of 400) | Met
        "#]],
    );
}

#[test]
fn what_was_not_measured_is_not_met() {
    check(
        &Run { audit: None },
        &[
            "audit ok",
            "refund p99 < 80ms",
            "refund errors == 0",
            "browse errors < 1%",
            "pay rate > 5",
        ],
        expect![[r#"
            audit ok | not measured: no audit was made | NotMeasured
            refund p99 < 80ms | not measured: no request of kind `refund` was answered | NotMeasured
            refund errors == 0 | not measured: no request of kind `refund` was sent | NotMeasured
            browse errors < 1% | not measured: no request of kind `browse` was sent | NotMeasured
            pay rate > 5 | not measured: no request of kind `pay` was answered | NotMeasured
        "#]],
    );
    check(
        &Run { audit: Some(false) },
        &["audit ok"],
        expect![[r#"
        audit ok | audit failed | Missed
    "#]],
    );
    assert!(!Verdict::NotMeasured.is_met());
}

#[test]
fn what_is_not_understood_is_named() {
    let mut found = String::new();
    for text in [
        "",
        "fast",
        "p99 ! 5ms",
        "p99 = 5ms",
        "p99 < 5",
        "p99 < 5 days",
        "p99 < -5ms",
        "p99 < 0.5ns",
        "p101 < 5ms",
        "p99.99999 < 5ms",
        "q99 < 5ms",
        "pay late < 1%",
        "pay audit ok",
        "audit == ok",
        "errors < 101%",
        "errors < 1.5",
        "rate > 1,5",
        "rate > 1_",
        "rate > 5G",
        "rate > 99999999999999999999",
        "b@d p99 < 5ms",
        "one two p99 < 5ms",
        "< 5ms",
    ] {
        let error = Threshold::parse(text).unwrap_err().to_string();
        let (error, examples) = error.split_once("; ").unwrap();
        assert!(examples.contains("`p99 < 50ms`") && examples.contains("`pay p99 < 80ms`"));
        found += &format!("{error}\n");
    }
    expect![[r#"
        threshold ``: it has none of < <= > >= ==
        threshold `fast`: it has none of < <= > >= ==
        threshold `p99 ! 5ms`: it has none of < <= > >= ==
        threshold `p99 = 5ms`: it has none of < <= > >= ==
        threshold `p99 < 5`: `5` is not a duration in whole nanoseconds, with its unit ns, us, ms, s or m
        threshold `p99 < 5 days`: `5 days` is not a duration in whole nanoseconds, with its unit ns, us, ms, s or m
        threshold `p99 < -5ms`: `-5ms` is not a duration in whole nanoseconds, with its unit ns, us, ms, s or m
        threshold `p99 < 0.5ns`: `0.5ns` is not a duration in whole nanoseconds, with its unit ns, us, ms, s or m
        threshold `p101 < 5ms`: `p101` is no figure (there are p50, p99.9 and the like, mean, max, errors, late, rate)
        threshold `p99.99999 < 5ms`: `p99.99999` is no figure (there are p50, p99.9 and the like, mean, max, errors, late, rate)
        threshold `q99 < 5ms`: `q99` is no figure (there are p50, p99.9 and the like, mean, max, errors, late, rate)
        threshold `pay late < 1%`: `late` is of the whole run and takes no kind
        threshold `pay audit ok`: `audit` is of the whole run and takes no kind
        threshold `audit == ok`: `audit` is no figure (there are p50, p99.9 and the like, mean, max, errors, late, rate)
        threshold `errors < 101%`: `101%` is not a share from 0% to 100% with up to four decimals, or a whole number
        threshold `errors < 1.5`: `1.5` is not a share from 0% to 100% with up to four decimals, or a whole number
        threshold `rate > 1,5`: `1,5` is not a number of answers per second, as 500000, 500_000, 500k or 1.5M
        threshold `rate > 1_`: `1_` is not a number of answers per second, as 500000, 500_000, 500k or 1.5M
        threshold `rate > 5G`: `5G` is not a number of answers per second, as 500000, 500_000, 500k or 1.5M
        threshold `rate > 99999999999999999999`: `99999999999999999999` is not a number of answers per second, as 500000, 500_000, 500k or 1.5M
        threshold `b@d p99 < 5ms`: `b@d` is no kind of request (1 to 64 of letters, digits, `_`, `-` and `.`)
        threshold `one two p99 < 5ms`: `one two p99` is no figure (there are p50, p99.9 and the like, mean, max, errors, late, rate)
        threshold `< 5ms`: `` is no figure (there are p50, p99.9 and the like, mean, max, errors, late, rate)
    "#]].assert_eq(&found);
}

#[test]
fn it_is_read_from_text_and_written_as_text() {
    let thresholds: Vec<Threshold> = serde_json::from_str(r#"["p50<200us", "audit ok"]"#).unwrap();
    let checked: Vec<Checked> =
        thresholds.iter().map(|threshold| threshold.check(&Run { audit: None })).collect();
    expect![[r#"
        [
          {
            "threshold": "p50 < 200us",
            "found": "25ms",
            "verdict": "missed"
          },
          {
            "threshold": "audit ok",
            "found": "not measured: no audit was made",
            "verdict": "not_measured"
          }
        ]"#]]
    .assert_eq(&serde_json::to_string_pretty(&checked).unwrap());

    let refused = serde_json::from_str::<Threshold>(r#""p50 < soon""#).unwrap_err();
    assert!(refused.to_string().contains("`soon` is not a duration"), "{refused}");
}

fn comparisons() -> impl Strategy<Value = Comparison> {
    prop_oneof![
        Just(Comparison::Below),
        Just(Comparison::AtMost),
        Just(Comparison::Above),
        Just(Comparison::AtLeast),
        Just(Comparison::Exactly),
    ]
}

fn percents() -> impl Strategy<Value = Percent> {
    (0..=Percent::WHOLE).prop_map(Percent)
}

fn limits() -> impl Strategy<Value = Limit> {
    prop_oneof![percents().prop_map(Limit::Share), any::<u64>().prop_map(Limit::Count)]
}

fn thresholds() -> impl Strategy<Value = Threshold> {
    let quantile = prop_oneof![
        percents().prop_map(Quantile::Percentile),
        Just(Quantile::Mean),
        Just(Quantile::Max),
    ];
    let span = prop_oneof![0..2_000u64, 0..10_000_000_000u64, any::<u64>()];
    let latency = (quantile, comparisons(), span).prop_map(|(quantile, comparison, ns)| {
        Rule::Latency(quantile, comparison, Duration::from_nanos(ns))
    });
    let errors = (comparisons(), limits()).prop_map(|(c, limit)| Rule::Errors(c, limit));
    let rate = (comparisons(), any::<u64>()).prop_map(|(c, wanted)| Rule::Rate(c, wanted));
    let late = (comparisons(), limits()).prop_map(|(c, limit)| Rule::Late(c, limit));
    let kind = proptest::option::of("[a-zA-Z0-9_.-]{1,64}");
    prop_oneof![
        (kind, prop_oneof![latency, errors, rate])
            .prop_map(|(kind, rule)| Threshold { kind, rule }),
        prop_oneof![late, Just(Rule::AuditOk)].prop_map(|rule| Threshold { kind: None, rule }),
    ]
}

proptest! {
    #[test]
    fn what_is_printed_reads_back_the_same(threshold in thresholds()) {
        prop_assert_eq!(Threshold::parse(&threshold.to_string()), Ok(threshold));
    }

    #[test]
    fn any_text_is_read_or_refused(text in prop_oneof![
        any::<String>(),
        "(pay )?(p[0-9.]{0,5}|mean|errors|late|rate|µ) ?[<>=]{1,2} ?[0-9._,]{0,8}(ms|us|%|k|µs|M)?",
    ]) {
        if let Ok(threshold) = Threshold::parse(&text) {
            prop_assert_eq!(Threshold::parse(&threshold.to_string()), Ok(threshold));
        }
    }
}
