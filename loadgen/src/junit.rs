//! A run as JUnit XML, which build servers show: one suite, a test case for every threshold and
//! for every part of the verdict.
//!
//! A threshold that was missed is a `failure`. What couldn't be judged at all (a figure that
//! wasn't measured, a generator that didn't keep its schedule) is an `error`: build servers count
//! both as not passed, and tell them apart. What was found is said of passed cases too, as their
//! output.

use std::io;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use quick_junit::{NonSuccessKind, Property, Report, TestCase, TestCaseStatus, TestSuite};

use crate::threshold::{Checked, Verdict};

/// One run.
#[derive(Clone, Debug)]
pub struct Suite<'a> {
    /// What ran: the profile's name.
    pub name: &'a str,
    /// When it began.
    pub started: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// What else a reader asks for: rate, seed, version.
    pub properties: &'a [(&'a str, String)],
    /// The cases, in the order they are shown in.
    pub cases: &'a [Case],
}

/// One thing that a run must keep.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Case {
    /// What was wanted, as `p99 < 50ms` or `schedule kept`.
    pub name: String,
    /// What was found.
    pub found: String,
    /// How it came out.
    pub outcome: Outcome,
}

/// How a [`Case`] came out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// As wanted.
    Passed,
    /// Not as wanted.
    Failed,
    /// It couldn't be judged.
    Unjudged,
}

/// The report couldn't be written. Whether a retry can help is up to what it is written to.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the JUnit report: {source}")]
pub struct JunitError {
    /// What the output said.
    #[from]
    source: io::Error,
}

impl From<&Checked> for Case {
    fn from(checked: &Checked) -> Case {
        let outcome = match checked.verdict {
            Verdict::Met => Outcome::Passed,
            Verdict::Missed => Outcome::Failed,
            Verdict::NotMeasured => Outcome::Unjudged,
        };
        Case { name: checked.threshold.to_string(), found: checked.found.clone(), outcome }
    }
}

impl Suite<'_> {
    /// Writes the whole report. Characters that XML can't hold are left out.
    pub fn write(&self, mut out: impl io::Write) -> Result<(), JunitError> {
        let mut suite = TestSuite::new(self.name);
        suite.set_time(self.took);
        for (name, value) in self.properties {
            suite.add_property(Property::new(*name, value));
        }
        suite.add_test_cases(self.cases.iter().map(|case| self.case(case)));
        let mut report = Report::new("crest");
        report.set_time(self.took);
        // As text: the crate's own setter takes another calendar's type.
        if let Ok(started) = Timestamp::try_from(self.started) {
            suite.extra.insert("timestamp".into(), format!("{started:.3}").into());
        }
        report.add_test_suite(suite);
        // A text first: its own error would hide what the output said.
        let text = report.to_string().map_err(io::Error::other)?;
        out.write_all(text.as_bytes())?;
        Ok(())
    }

    fn case(&self, case: &Case) -> TestCase {
        let status = match case.outcome {
            Outcome::Passed => TestCaseStatus::success(),
            Outcome::Failed => failed(NonSuccessKind::Failure, "missed", case),
            Outcome::Unjudged => failed(NonSuccessKind::Error, "not judged", case),
        };
        let passed = matches!(status, TestCaseStatus::Success { .. });
        let mut test = TestCase::new(case.name.as_str(), status);
        // Every case is about the whole of the run.
        test.set_classname(self.name).set_time(self.took);
        if passed {
            test.set_system_out(case.found.as_str());
        }
        test
    }
}

fn failed(kind: NonSuccessKind, what: &str, case: &Case) -> TestCaseStatus {
    let mut status = TestCaseStatus::non_success(kind);
    status.set_type(what);
    status.set_message(format!("{}; wanted: {}", case.found, case.name));
    status
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn written(name: &str, cases: &[Case]) -> String {
        let suite = Suite {
            name,
            started: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
            took: Duration::from_millis(60_250),
            properties: &[("seed", "42".into()), ("rate", "500000".into())],
            cases,
        };
        let mut out = Vec::new();
        suite.write(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn case(name: &str, found: &str, outcome: Outcome) -> Case {
        Case { name: name.into(), found: found.into(), outcome }
    }

    #[test]
    fn a_run_is_a_suite_with_a_case_for_each_demand() {
        let text = written(
            "singles-day",
            &[
                case("p99 < 50ms", "71.2ms", Outcome::Failed),
                case("errors < 0.1%", "0.00% (0 of 1000)", Outcome::Passed),
                case("audit ok", "not measured: no audit was made", Outcome::Unjudged),
                case("schedule kept", "0.2% late", Outcome::Passed),
            ],
        );
        expect![[r#"
            <?xml version="1.0" encoding="UTF-8"?>
            <testsuites name="crest" tests="4" skipped="0" failures="1" errors="1" time="60.250">
                <testsuite name="singles-day" tests="4" skipped="0" errors="1" failures="1" time="60.250" timestamp="2023-11-14T22:13:20.123Z">
                    <properties>
                        <property name="seed" value="42"/>
                        <property name="rate" value="500000"/>
                    </properties>
                    <testcase name="p99 &lt; 50ms" classname="singles-day" time="60.250">
                        <failure message="71.2ms; wanted: p99 &lt; 50ms" type="missed"/>
                    </testcase>
                    <testcase name="errors &lt; 0.1%" classname="singles-day" time="60.250">
                        <system-out>0.00% (0 of 1000)</system-out>
                    </testcase>
                    <testcase name="audit ok" classname="singles-day" time="60.250">
                        <error message="not measured: no audit was made; wanted: audit ok" type="not judged"/>
                    </testcase>
                    <testcase name="schedule kept" classname="singles-day" time="60.250">
                        <system-out>0.2% late</system-out>
                    </testcase>
                </testsuite>
            </testsuites>
        "#]].assert_eq(&text);
    }

    #[test]
    fn a_reader_of_junit_finds_the_same() {
        let awkward = "p99 < 50ms & \"more\" ]]> \u{1b}[31m\u{0}";
        let text = written(
            "a<b>",
            &[
                case(awkward, "<&>'", Outcome::Failed),
                case("max < 1s", "x\ny", Outcome::Unjudged),
                case("mean < 1s", "1 µs", Outcome::Passed),
            ],
        );
        let report = Report::deserialize_from_str(&text).unwrap();
        assert_eq!((report.tests, report.failures, report.errors), (3, 1, 1));
        let suite = &report.test_suites[0];
        assert_eq!(suite.name.as_str(), "a<b>");
        assert_eq!(suite.time, Some(Duration::from_millis(60_250)));
        assert_eq!(suite.test_cases[0].name.as_str(), "p99 < 50ms & \"more\" ]]> ");
        let TestCaseStatus::NonSuccess { kind, message, .. } = &suite.test_cases[0].status else {
            panic!("{text}");
        };
        assert_eq!(*kind, NonSuccessKind::Failure);
        let message = message.as_ref().unwrap().as_str();
        assert!(message.starts_with("<&>'; wanted: p99 < 50ms &"), "{message}");
        assert_eq!(suite.test_cases[2].system_out.as_ref().unwrap().as_str(), "1 µs");
    }
}
