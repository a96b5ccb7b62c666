//! Figures: one row each, as `results.json` holds them (INTERFACE), as a table, and held against what they must be.

use std::fmt::Write;

use lb_benches::team::two::FLOWS;
use serde::{Deserialize, Serialize};

/// One figure of one measure.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) bench: String,
    /// Which one, where a bench has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) case: Option<String>,
    /// What the traffic went through, end to end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) through: Option<String>,
    pub(crate) flows: u32,
    pub(crate) rules: u32,
    pub(crate) workers: u32,
    pub(crate) metric: String,
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) runs: u32,
}

impl Row {
    /// The figure that several runs gave. `name`: of the bench, and which one of several behind a space.
    ///
    /// # Panics
    /// Without any run.
    pub(crate) fn new(name: &str, flows: u32, metric: &str, mut runs: Vec<f64>) -> Row {
        assert!(!runs.is_empty(), "{name} was not run");
        runs.sort_by(f64::total_cmp);
        let (bench, case) = name.split_once(' ').map_or((name, None), |(bench, case)| (bench, Some(case)));
        Row {
            bench: bench.to_owned(),
            case: case.map(str::to_owned),
            through: None,
            flows,
            rules: 0,
            workers: 1,
            metric: metric.to_owned(),
            median: round(median(&runs)),
            min: round(runs[0]),
            max: round(runs[runs.len() - 1]),
            runs: runs.len() as u32,
        }
    }

    /// As [`Row::new`] takes it.
    pub(crate) fn name(&self) -> String {
        match &self.case {
            Some(case) => format!("{} {case}", self.bench),
            None => self.bench.clone(),
        }
    }

    /// With figures rounded as ours are.
    #[must_use]
    pub(crate) fn rounded(self) -> Row {
        Row { median: round(self.median), min: round(self.min), max: round(self.max), ..self }
    }
}

/// Of ordered figures; of an even number the mean of the two in the middle.
fn median(runs: &[f64]) -> f64 {
    let middle = runs.len() / 2;
    if runs.len().is_multiple_of(2) { f64::midpoint(runs[middle - 1], runs[middle]) } else { runs[middle] }
}

/// To what can be told apart: four significant digits or more.
fn round(value: f64) -> f64 {
    let digits = 3 - value.abs().max(1e-9).log10().floor() as i32;
    if digits <= 0 {
        return value.round();
    }
    let scale = 10f64.powi(digits.min(6));
    (value * scale).round() / scale
}

/// The figure of this name, if it is there.
pub(crate) fn find<'a>(rows: &'a [Row], name: &str, flows: u32, metric: &str) -> Option<&'a Row> {
    rows.iter().find(|row| row.name() == name && row.flows == flows && row.metric == metric)
}

pub(crate) const NS: &str = "ns_per_packet";
pub(crate) const INSTRUCTIONS: &str = "instructions_per_packet";
pub(crate) const PER_SECOND: &str = "per_second";
pub(crate) const BYTES: &str = "bytes_per_connection";
pub(crate) const BYTES_RESIDENT: &str = "bytes_per_connection_resident";
pub(crate) const P50_US: &str = "p50_us";
pub(crate) const P999_US: &str = "p999_us";
pub(crate) const KEPT: &str = "share_kept";
pub(crate) const NS_PER_LOOKUP: &str = "ns_per_lookup";
pub(crate) const SECONDS: &str = "seconds";
pub(crate) const OVER_MASQ: &str = "ns_over_masq";
pub(crate) const RATIO_TO_10: &str = "ratio_to_10_servers";
pub(crate) const OVER_NONE: &str = "ns_over_none";
pub(crate) const RATIO_TO_10_RULES: &str = "ratio_to_10_rules";
pub(crate) const GREATEST_SHARE: &str = "greatest_share_to_mean";
pub(crate) const MOVED: &str = "others_moved";
pub(crate) const TO_ONE: &str = "throughput_to_one";
pub(crate) const TO_A_TENTH: &str = "ns_to_a_tenth";
pub(crate) const RESIDENT: &str = "resident_bytes";
pub(crate) const LONGEST_CPU_US: &str = "longest_cpu_us";
pub(crate) const COST: &str = "cost";
pub(crate) const LISTED: &str = "listed_per_second";
pub(crate) const RATIO: &str = "ratio_to_testpmd_5tswap";

enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

/// What the project wants of a figure.
const MUST: &[(&str, u32, &str, Bound)] = &[
    ("masq-udp", 1_000, NS, Bound::AtMost(30.0)),
    ("masq-udp", 100_000, NS, Bound::AtMost(40.0)),
    ("masq-udp", 1_000_000, NS, Bound::AtMost(50.0)),
    ("masq-tcp", 1_000, NS, Bound::AtMost(30.0)),
    ("masq-tcp", 100_000, NS, Bound::AtMost(40.0)),
    ("masq-tcp", 1_000_000, NS, Bound::AtMost(50.0)),
    ("masq-udp ruled", 1_000, NS, Bound::AtMost(30.0)),
    ("masq-udp ruled", 100_000, NS, Bound::AtMost(40.0)),
    ("masq-udp ruled", 1_000_000, NS, Bound::AtMost(50.0)),
    ("masq-udp ruled", 10_000_000, NS, Bound::AtMost(70.0)),
    ("masq-tcp ruled", 1_000_000, NS, Bound::AtMost(50.0)),
    ("direct-udp", 1_000_000, NS, Bound::AtMost(45.0)),
    ("direct-udp ruled", 1_000_000, NS, Bound::AtMost(45.0)),
    ("direct-udp", 1_000_000, OVER_MASQ, Bound::AtMost(10.0)),
    ("tunnel-udp", 1_000_000, OVER_MASQ, Bound::AtMost(10.0)),
    ("gue-udp", 1_000_000, OVER_MASQ, Bound::AtMost(10.0)),
    ("gre-udp", 1_000_000, OVER_MASQ, Bound::AtMost(10.0)),
    ("fullnat-udp", 1_000_000, OVER_MASQ, Bound::AtMost(15.0)),
    ("masq-udp", 1_000, RATIO, Bound::AtMost(2.5)),
    ("latency-udp", 1_000_000, P999_US, Bound::AtMost(20.0)),
    ("latency-udp cpu", 1_000_000, P999_US, Bound::AtMost(20.0)),
    ("flood-tcp", 100_000, KEPT, Bound::AtLeast(0.9)),
    ("flood-udp", 100_000, KEPT, Bound::AtLeast(0.9)),
    ("new-udp", 1_000_000, PER_SECOND, Bound::AtLeast(3e6)),
    ("new-tcp", 1_000_000, PER_SECOND, Bound::AtLeast(0.8e6)),
    ("new-udp ruled", 1_000_000, PER_SECOND, Bound::AtLeast(3e6)),
    ("new-tcp ruled", 1_000_000, PER_SECOND, Bound::AtLeast(0.8e6)),
    ("new-udp lc 1000", 100_000, RATIO_TO_10, Bound::AtMost(2.0)),
    ("new-udp wlc 1000", 100_000, RATIO_TO_10, Bound::AtMost(2.0)),
    ("ruled-udp 10000", 1_000, OVER_NONE, Bound::AtMost(5.0)),
    ("ruled-new-udp 10000", 100_000, RATIO_TO_10_RULES, Bound::AtMost(1.5)),
    ("maglev-fill 1000", 0, SECONDS, Bound::AtMost(0.0015)),
    ("masq-udp", 1_000_000, BYTES, Bound::AtMost(192.0)),
    ("size", 10_000_000, RESIDENT, Bound::AtMost(2e9)),
    ("size", 10_000_000, TO_A_TENTH, Bound::AtMost(1.5)),
    ("size open", 10_000_000, LONGEST_CPU_US, Bound::AtMost(100.0)),
    ("size list", 10_000_000, COST, Bound::AtMost(0.05)),
    ("size search", 10_000_000, COST, Bound::AtMost(0.05)),
    ("size expire", 10_000_000, COST, Bound::AtMost(0.1)),
    ("two-workers own", FLOWS, TO_ONE, Bound::AtLeast(1.9)),
    ("two-workers handed", FLOWS, TO_ONE, Bound::AtLeast(1.2)),
    ("new-udp twos 1000", 100_000, RATIO_TO_10, Bound::AtMost(2.0)),
    ("lbd-ready", 1_000_000, SECONDS, Bound::AtMost(2.0)),
    ("publish-one-server 10000x10", 0, SECONDS, Bound::AtMost(0.001)),
    ("publish-one-server 10000x10 under load", 1_000, SECONDS, Bound::AtMost(0.001)),
    ("restore 10000x10", 0, SECONDS, Bound::AtMost(2.0)),
    ("set-lookup 1000000 over 1000", 0, NS_PER_LOOKUP, Bound::AtMost(30.0)),
    ("set-lookup load 1000000", 0, SECONDS, Bound::AtMost(1.0)),
    ("rules-load", 0, SECONDS, Bound::AtMost(0.3)),
];

/// What a figure must be, and whether it is.
fn verdict(row: &Row) -> String {
    let name = row.name();
    let must = MUST
        .iter()
        .find(|(must, flows, metric, _)| name == *must && row.flows == *flows && row.metric == *metric);
    let (text, is_met) = match must {
        None => return String::new(),
        Some((.., Bound::AtMost(bound))) => (format!("≤ {}", number(*bound)), row.median <= *bound),
        Some((.., Bound::AtLeast(bound))) => (format!("≥ {}", number(*bound)), row.median >= *bound),
    };
    format!("{text}: {}", if is_met { "met" } else { "missed" })
}

/// Digits in groups of three.
fn number(value: f64) -> String {
    if value.abs() < 1000.0 {
        return format!("{value}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

const HEAD: [&str; 9] = ["bench", "flows", "rules", "metric", "median", "min", "max", "runs", "must"];

/// Of none it says nothing.
fn count(count: u32) -> String {
    if count == 0 { String::new() } else { number(f64::from(count)) }
}

fn cells(row: &Row) -> [String; 9] {
    let bench = match &row.through {
        Some(through) => format!("{} through {through}", row.name()),
        None => row.name(),
    };
    [
        bench,
        count(row.flows),
        count(row.rules),
        row.metric.clone(),
        number(row.median),
        number(row.min),
        number(row.max),
        row.runs.to_string(),
        verdict(row),
    ]
}

/// The table on a terminal.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut lines: Vec<[String; 9]> = vec![HEAD.map(str::to_owned)];
    lines.extend(rows.iter().map(cells));
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 9] = std::array::from_fn(width);
    let mut text = String::new();
    for line in &lines {
        let mut out = String::new();
        for (column, (cell, width)) in line.iter().zip(widths).enumerate() {
            // Words to the left, numbers to the right.
            let _infallible = match column {
                0 | 3 | 8 => write!(out, "{cell:<width$}  "),
                _ => write!(out, "{cell:>width$}  "),
            };
        }
        text.push_str(out.trim_end());
        text.push('\n');
    }
    text
}

/// The same in Markdown.
pub(crate) fn markdown(rows: &[Row]) -> String {
    let mut text = format!("| {} |\n|---|---:|---:|---|---:|---:|---:|---:|---|\n", HEAD.join(" | "));
    for row in rows {
        text.push_str(&format!("| {} |\n", cells(row).join(" | ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_the_object_that_the_interface_shows() {
        let row = Row::new("masq-udp", 1_000_000, NS, vec![52.0, 46.9, 48.1, 50.0, 47.0]);
        assert_eq!(
            serde_json::to_string(&row).unwrap(),
            r#"{"bench":"masq-udp","flows":1000000,"rules":0,"workers":1,"metric":"ns_per_packet","median":48.1,"min":46.9,"max":52.0,"runs":5}"#
        );
    }

    #[test]
    fn a_bench_of_several_has_the_interfaces_name_in_each() {
        let row = Row::new("set-lookup load 1000000", 0, SECONDS, vec![1.5]);
        assert_eq!((row.bench.as_str(), row.case.as_deref()), ("set-lookup", Some("load 1000000")));
        assert_eq!(verdict(&row), "≤ 1: missed");
        assert!(table(&[row]).contains("\nset-lookup load 1000000 "));
    }

    #[test]
    fn the_labs_rows_are_read_and_written_with_what_they_went_through() {
        let text = r#"{"bench":"end-to-end","through":"nft","flows":60,"rules":0,"workers":0,"metric":"p50_ms","median":1.5,"min":1.0,"max":2.0,"runs":3}"#;
        let row: Row = serde_json::from_str(text).unwrap();
        assert_eq!(row.through.as_deref(), Some("nft"));
        assert_eq!(serde_json::to_string(&row).unwrap(), text);
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_the_two_in_the_middle() {
        assert_eq!(Row::new("a", 0, NS, vec![4.0, 1.0, 2.0, 3.0]).median, 2.5);
    }

    #[test]
    fn figures_keep_four_digits() {
        assert_eq!([1234567.8, 48.123456, 0.1234567, 98.869].map(round), [1234568.0, 48.12, 0.1235, 98.87]);
    }

    #[test]
    fn a_figure_is_held_against_what_it_must_be() {
        let verdict_of = |bench, metric, value| verdict(&Row::new(bench, 1_000_000, metric, vec![value]));
        assert_eq!(verdict_of("masq-udp", NS, 50.0), "≤ 50: met");
        assert_eq!(verdict_of("masq-udp", NS, 50.1), "≤ 50: missed");
        assert_eq!(verdict_of("new-udp", PER_SECOND, 3_100_000.0), "≥ 3 000 000: met");
        assert_eq!(verdict_of("new-udp", NS, 1.0), "");
    }

    #[test]
    fn both_tables_hold_every_row() {
        let b = Row { rules: 10, ..Row::new("b", 1000, NS, vec![2.5]) };
        let rows = [Row::new("a", 0, NS, vec![1.0]), b];
        assert_eq!(
            table(&rows).lines().nth(2).unwrap(),
            "b      1 000     10  ns_per_packet     2.5  2.5  2.5     1"
        );
        assert!(markdown(&rows).ends_with("| b | 1 000 | 10 | ns_per_packet | 2.5 | 2.5 | 2.5 | 1 |  |\n"));
    }
}
