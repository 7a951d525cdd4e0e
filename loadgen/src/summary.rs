//! A histogram for people, in a terminal, and for the plotters of the field, in a file.
//!
//! Latencies spread over powers of ten, so the bars of [`histogram_lines`] are for ranges that
//! grow by the same factor, not the same width: a run's body and its tail are both seen. What a
//! bar can't show (one answer among millions) is marked with a dot and has its count beside it.

use std::io::{self, Write};
use std::time::Duration;

use hdrhistogram::Histogram;

/// Ranges of a text histogram.
const RANGES: usize = 11;
/// The longest bar, in characters.
const BAR_CHARS: u64 = 40;
/// Percentiles of the table; the maximum follows them.
const PERCENTILES: [f64; 8] = [50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 99.99, 99.999];
/// How closely a percentile file samples each halving of what remains; wrk2's and the plotter's
/// own figure.
const TICKS_PER_HALF: u32 = 5;
/// Values of a percentile file are in milliseconds, as wrk2's.
const HGRM_UNIT_NS: f64 = 1e6;

/// A duration in words for people: three significant digits, as `812 µs`, `7.14 ms`, `1.20 s`.
pub fn duration_text(duration: Duration) -> String {
    let ns = duration.as_nanos();
    if ns == 0 {
        return "0 s".into();
    }
    let ns = round_to_3_digits(ns);
    let (unit_ns, unit) = match ns {
        ..1_000 => return format!("{ns} ns"),
        1_000..1_000_000 => (1_000, "µs"),
        1_000_000..1_000_000_000 => (1_000_000, "ms"),
        _ => (1_000_000_000, "s"),
    };
    let decimals = match ns / unit_ns {
        ..10 => 2,
        10..100 => 1,
        _ => 0,
    };
    // Rounded already: the digits that are cut off are zeros.
    let (whole, hundredths) = (ns / unit_ns, ns % unit_ns * 100 / unit_ns);
    match decimals {
        2 => format!("{whole}.{hundredths:02} {unit}"),
        1 => format!("{whole}.{} {unit}", hundredths / 10),
        _ => format!("{whole} {unit}"),
    }
}

fn round_to_3_digits(value: u128) -> u128 {
    let mut step = 1;
    while value / step >= 1_000 {
        step *= 10;
    }
    (value + step / 2) / step * step
}

/// One line for each of up to 11 ranges: its upper end, a bar, how many values fell into it and
/// their share. The first range begins at the least value, the last ends at the largest.
/// `unit_ns` is how many nanoseconds one of the histogram's units is.
pub fn histogram_lines(h: &Histogram<u64>, unit_ns: u64) -> Vec<String> {
    if h.is_empty() {
        return Vec::new();
    }
    let ends = range_ends(h.min(), h.max());
    let mut counts = vec![0u64; ends.len()];
    for recorded in h.iter_recorded() {
        // Its least equivalent value is not above the maximum, which is the last end.
        let value = h.lowest_equivalent(recorded.value_iterated_to());
        counts[ends.partition_point(|end| *end < value)] += recorded.count_at_value();
    }

    let most = counts.iter().copied().max().unwrap_or(0).max(1);
    let width = counts.iter().map(|count| count.to_string().len()).max().unwrap_or(0);
    ends.iter()
        .zip(&counts)
        .map(|(&end, &count)| {
            let chars = (u128::from(count) * u128::from(BAR_CHARS) / u128::from(most)) as usize;
            let bar = match (chars, count) {
                (0, 1..) => "·".into(),
                _ => "■".repeat(chars),
            };
            let end = text(end, unit_ns);
            let percent = 100.0 * count as f64 / h.len() as f64;
            let bar_chars = BAR_CHARS as usize;
            format!("{end:>8}  {bar:<bar_chars$}  {count:>width$}  {percent:>5.2} %")
        })
        .collect()
}

/// Upper ends that grow by the same factor, from above `least` to `largest`; fewer where they
/// would be the same whole number.
fn range_ends(least: u64, largest: u64) -> Vec<u64> {
    let low = least.max(1) as f64;
    let ratio = largest.max(1) as f64 / low;
    let mut ends: Vec<u64> = (1..RANGES)
        .map(|range| (low * ratio.powf(range as f64 / RANGES as f64)) as u64)
        .filter(|end| *end < largest)
        .collect();
    ends.push(largest);
    ends.dedup();
    ends
}

/// The table of percentiles, one line each, and the maximum. `unit_ns` as above.
pub fn percentile_lines(h: &Histogram<u64>, unit_ns: u64) -> Vec<String> {
    if h.is_empty() {
        return Vec::new();
    }
    let line = |name: String, value| format!("{name:>8}  {:>8}", text(value, unit_ns));
    PERCENTILES
        .iter()
        .map(|&percent| line(format!("p{percent}"), h.value_at_quantile(percent / 100.0)))
        .chain([line("max".into(), h.max())])
        .collect()
}

fn text(value: u64, unit_ns: u64) -> String {
    duration_text(Duration::from_nanos(value.saturating_mul(unit_ns)))
}

/// Writes the percentile distribution (`.hgrm`) as HdrHistogram's
/// `outputPercentileDistribution` and wrk2's `--latency` do, in milliseconds, for
/// <https://hdrhistogram.github.io/HdrHistogram/plotFiles.html>. `unit_ns` as above.
pub fn write_hgrm(h: &Histogram<u64>, unit_ns: u64, out: &mut impl Write) -> io::Result<()> {
    let ms = |value: f64| value * unit_ns as f64 / HGRM_UNIT_NS;
    write!(
        out,
        "{:>12} {:>14} {:>10} {:>14}\n\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    )?;
    let mut total = 0;
    for tick in h.iter_quantiles(TICKS_PER_HALF) {
        total += tick.count_since_last_iteration();
        let value = ms(tick.value_iterated_to() as f64);
        let quantile = tick.quantile_iterated_to();
        write!(out, "{value:12.3} {quantile:2.12} {total:10}")?;
        if quantile < 1.0 {
            writeln!(out, " {:14.2}", 1.0 / (1.0 - quantile))?;
        } else {
            writeln!(out, " {:>14}", "inf")?;
        }
    }
    let (mean, deviation, max) = (ms(h.mean()), ms(h.stdev()), ms(h.max() as f64));
    // Sub-buckets by the definition: twice what the digits need, as a power of two.
    let sub_buckets = (2 * 10u64.pow(h.sigfig().into())).next_power_of_two();
    writeln!(out, "#[Mean    = {mean:12.3}, StdDeviation   = {deviation:12.3}]")?;
    writeln!(out, "#[Max     = {max:12.3}, Total count    = {:12}]", h.len())?;
    writeln!(out, "#[Buckets = {:12}, SubBuckets     = {sub_buckets:12}]", h.buckets())
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use proptest::prelude::*;

    use super::*;

    /// In µs: a body of a millisecond, some at ten, and one that took a second.
    fn run() -> Histogram<u64> {
        let mut h = Histogram::new_with_bounds(1, 600_000_000, 3).unwrap();
        for value in 800..1_200 {
            h.record_n(value, 20).unwrap();
        }
        for value in 9_000..11_000 {
            h.record(value).unwrap();
        }
        h.record(1_000_000).unwrap();
        h
    }

    /// With an edge, so that the spaces at the left are seen.
    fn shown(lines: &[String]) -> String {
        lines.iter().map(|line| format!("|{line}\n")).collect()
    }

    #[test]
    fn durations_have_three_digits() {
        let texts = [0, 7, 999, 1_000, 812_499, 999_499, 999_500, 7_139_000, 71_390_000]
            .into_iter()
            .chain([9_995_000, 1_200_000_000, 83_000_000_000, 1_234_567_000_000])
            .map(|ns| duration_text(Duration::from_nanos(ns)));
        expect!["0 s | 7 ns | 999 ns | 1.00 µs | 812 µs | 999 µs | 1.00 ms | 7.14 ms | 71.4 ms | 10.0 ms | 1.20 s | 83.0 s | 1230 s"].assert_eq(&texts.collect::<Vec<_>>().join(" | "));
    }

    #[test]
    fn bars_show_body_and_tail() {
        let mut lines = histogram_lines(&run(), 1_000);
        lines.push(String::new());
        lines.extend(percentile_lines(&run(), 1_000));
        expect![[r#"
            | 1.53 ms  ■■■■■■■■■■■■■■■■■■■■■■■■■■■■■■■■■■■■■■■■  8000  79.99 %
            | 2.93 ms                                               0   0.00 %
            | 5.59 ms                                               0   0.00 %
            | 10.7 ms  ■■■■■■■■                                  1704  17.04 %
            | 20.5 ms  ■                                          296   2.96 %
            | 39.1 ms                                               0   0.00 %
            | 74.8 ms                                               0   0.00 %
            |  143 ms                                               0   0.00 %
            |  274 ms                                               0   0.00 %
            |  523 ms                                               0   0.00 %
            |  1.00 s  ·                                            1   0.01 %
            |
            |     p50   1.05 ms
            |     p75   1.18 ms
            |     p90   10.0 ms
            |     p95   10.5 ms
            |     p99   10.9 ms
            |   p99.9   11.0 ms
            |  p99.99   11.0 ms
            | p99.999    1.00 s
            |     max    1.00 s
        "#]]
        .assert_eq(&shown(&lines));
    }

    #[test]
    fn nothing_and_one_value_are_drawn_too() {
        let mut h = Histogram::new(3).unwrap();
        assert!(histogram_lines(&h, 1).is_empty() && percentile_lines(&h, 1).is_empty());
        h.record_n(5, 3).unwrap();
        expect![[r#"
            | 5.00 ms  ■■■■■■■■■■■■■■■■■■■■■■■■■■■■■■■■■■■■■■■■  3  100.00 %
        "#]]
        .assert_eq(&shown(&histogram_lines(&h, 1_000_000)));
        h.record_n(0, 6).unwrap();
        expect![[r#"
            | 1.00 ms  ■■■■■■■■■■■■■■■■■■■■■■■■■■■■■■■■■■■■■■■■  6  66.67 %
            | 2.00 ms                                            0   0.00 %
            | 3.00 ms                                            0   0.00 %
            | 4.00 ms                                            0   0.00 %
            | 5.00 ms  ■■■■■■■■■■■■■■■■■■■■                      3  33.33 %
        "#]]
        .assert_eq(&shown(&histogram_lines(&h, 1_000_000)));
    }

    #[test]
    fn the_percentile_file_is_as_plotters_read_it() {
        let mut h = Histogram::new_with_bounds(1, 10_000_000, 3).unwrap();
        for value in 1..=100 {
            h.record(value * 100).unwrap();
        }
        let mut out = Vec::new();
        write_hgrm(&h, 1_000, &mut out).unwrap();
        expect![[r#"
                   Value     Percentile TotalCount 1/(1-Percentile)

                   0.100 0.000000000000          1           1.00
                   1.000 0.100000000000         10           1.11
                   2.000 0.200000000000         20           1.25
                   3.101 0.300000000000         31           1.43
                   4.001 0.400000000000         40           1.67
                   5.003 0.500000000000         50           2.00
                   5.503 0.550000000000         55           2.22
                   6.103 0.600000000000         61           2.50
                   6.603 0.650000000000         66           2.86
                   7.103 0.700000000000         71           3.33
                   7.603 0.750000000000         76           4.00
                   7.803 0.775000000000         78           4.44
                   8.103 0.800000000000         81           5.00
                   8.303 0.825000000000         83           5.71
                   8.607 0.850000000000         86           6.67
                   8.807 0.875000000000         88           8.00
                   8.903 0.887500000000         89           8.89
                   9.103 0.900000000000         91          10.00
                   9.207 0.912500000000         92          11.43
                   9.303 0.925000000000         93          13.33
                   9.407 0.937500000000         94          16.00
                   9.503 0.943750000000         95          17.78
                   9.607 0.950000000000         96          20.00
                   9.607 0.956250000000         96          22.86
                   9.703 0.962500000000         97          26.67
                   9.703 0.968750000000         97          32.00
                   9.807 0.971875000000         98          35.56
                   9.807 0.975000000000         98          40.00
                   9.807 0.978125000000         98          45.71
                   9.903 0.981250000000         99          53.33
                   9.903 0.984375000000         99          64.00
                   9.903 0.985937500000         99          71.11
                   9.903 0.987500000000         99          80.00
                   9.903 0.989062500000         99          91.43
                  10.007 0.990625000000        100         106.67
                  10.007 1.000000000000        100            inf
            #[Mean    =        5.051, StdDeviation   =        2.887]
            #[Max     =       10.007, Total count    =          100]
            #[Buckets =           14, SubBuckets     =         2048]
        "#]]
        .assert_eq(&String::from_utf8(out).unwrap());
    }

    proptest! {
        #[test]
        fn every_value_is_in_one_range(values in proptest::collection::vec(0u64..1 << 40, 1..100)) {
            let mut h = Histogram::new(3).unwrap();
            for &value in &values {
                h.record(value).unwrap();
            }
            let lines = histogram_lines(&h, 1);
            prop_assert!((1..=RANGES).contains(&lines.len()));
            let counted: u64 = lines
                .iter()
                .map(|line| line.split_whitespace().rev().nth(2).unwrap().parse::<u64>().unwrap())
                .sum();
            prop_assert_eq!(counted, values.len() as u64);
        }
    }
}
