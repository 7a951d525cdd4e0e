//! A strict reader of OpenMetrics text: every line must be one that the format has, every sample
//! must belong to the family declared above it, every histogram must add up.

use std::collections::BTreeMap;

/// Samples by name and labels as they are written, such as `crest_log_syncs_total` or
/// `crest_requests_total{kind="read"}`.
pub type Samples = BTreeMap<String, f64>;

/// Reads a page. Panics with the line that is wrong.
pub fn parse(text: &str) -> Samples {
    let body = text.strip_suffix("# EOF\n").expect("the page ends with # EOF");
    let mut samples = Samples::new();
    let (mut family, mut kind) = (String::new(), String::new());
    let mut families = Vec::new();
    for line in body.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let (word, rest) = comment.split_once(' ').expect(line);
            let (name, what) = rest.split_once(' ').expect(line);
            assert!(is_name(name) && !what.is_empty(), "{line}");
            match word {
                "HELP" => {
                    assert!(!families.contains(&name.to_string()), "{name} is declared twice");
                    families.push(name.to_string());
                    (family, kind) = (name.to_string(), String::new());
                }
                "TYPE" => {
                    assert!(["counter", "gauge", "histogram"].contains(&what), "{line}");
                    assert_eq!((name, kind.as_str()), (family.as_str(), ""), "{line}");
                    kind = what.to_string();
                }
                "UNIT" => assert!(name == family && name.ends_with(&format!("_{what}")), "{line}"),
                _ => panic!("no such comment: {line}"),
            }
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').expect(line);
        let name = sample.split('{').next().unwrap();
        let suffix = name.strip_prefix(family.as_str()).expect(line);
        let suffixes: &[&str] = match kind.as_str() {
            "counter" => &["_total"],
            "gauge" => &[""],
            "histogram" => &["_bucket", "_sum", "_count"],
            _ => panic!("a sample without a type: {line}"),
        };
        assert!(is_name(name) && suffixes.contains(&suffix), "{line}");
        check_labels(&sample[name.len()..], line);
        let value: f64 = value.parse().expect(line);
        assert!(value.is_finite() && value >= 0.0, "{line}");
        assert_eq!(samples.insert(sample.to_string(), value), None, "{line} is there twice");
    }
    check_histograms(body, &samples);
    samples
}

fn is_name(name: &str) -> bool {
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    name.starts_with(|letter: char| letter.is_ascii_alphabetic()) && name.chars().all(allowed)
}

fn check_labels(labels: &str, line: &str) {
    if labels.is_empty() {
        return;
    }
    let inner = labels.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).expect(line);
    let mut names = Vec::new();
    // No value of ours holds a comma or a quote.
    for pair in inner.split(',') {
        let (name, value) = pair.split_once('=').expect(line);
        let value = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).expect(line);
        assert!(is_name(name) && !value.contains(['"', '\\']) && !value.is_empty(), "{line}");
        assert!(!names.contains(&name), "{line}");
        names.push(name);
    }
}

/// Buckets must rise, in the bound and in the count, up to all that were counted.
fn check_histograms(body: &str, samples: &Samples) {
    let mut last: Option<(String, f64, f64)> = None;
    for line in body.lines().filter(|line| !line.starts_with('#') && line.contains("_bucket{")) {
        let (sample, count) = line.rsplit_once(' ').unwrap();
        let count: f64 = count.parse().unwrap();
        let (before, rest) = sample.split_once("le=\"").expect(line);
        let (bound, after) = rest.split_once('"').expect(line);
        let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().expect(line) };
        let labels = format!("{before}{after}");
        if let Some((of, least, fewest)) = &last
            && *of == labels
        {
            assert!(bound > *least && count >= *fewest, "{line}");
        }
        if bound == f64::INFINITY {
            let total = labels.replace("_bucket{", "_count{").replace("{,", "{").replace("{}", "");
            assert_eq!(samples.get(&total), Some(&count), "{line}, {total}");
        }
        last = Some((labels, bound, count));
    }
    let infinite = samples.keys().filter(|name| name.contains("le=\"+Inf\"")).count();
    assert_eq!(infinite, samples.keys().filter(|name| name.contains("_count")).count());
}
