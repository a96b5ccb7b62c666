//! Prometheus text, read as a scraper would: just enough to add samples up.

use anyhow::{Context, Result};

/// One page of metrics.
#[derive(Clone, Debug)]
pub struct Metrics {
    samples: Vec<Sample>,
}

#[derive(Clone, Debug)]
struct Sample {
    name: String,
    labels: String,
    value: f64,
}

impl Metrics {
    /// # Errors
    /// Names the line that is no sample.
    pub fn parse(text: &str) -> Result<Metrics> {
        let samples = text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(|line| sample(line).with_context(|| format!("metrics: cannot read the line {line:?}")))
            .collect::<Result<_>>()?;
        Ok(Metrics { samples })
    }

    /// The sum of all samples of a family whose labels contain each of `labels`, such as `reason="malformed"`.
    pub fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        self.samples
            .iter()
            .filter(|sample| sample.name == name && labels.iter().all(|label| sample.labels.contains(label)))
            .map(|sample| sample.value)
            .sum()
    }

    /// The families that there are, each once, in the page's order.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.samples.iter().map(|sample| sample.name.as_str()).collect();
        names.dedup();
        names
    }

    /// The samples whose family's name starts with `prefix`, as `(name{labels}, value)`.
    pub fn with_prefix(&self, prefix: &str) -> Vec<(String, f64)> {
        self.samples
            .iter()
            .filter(|sample| sample.name.starts_with(prefix))
            .map(|sample| (format!("{}{{{}}}", sample.name, sample.labels), sample.value))
            .collect()
    }
}

fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}')?),
        None => (series, ""),
    };
    Some(Sample { name: name.to_owned(), labels: labels.to_owned(), value: value.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_a_family_are_added_up_by_label() {
        let page = Metrics::parse(
            "# TYPE lb_drops_total counter\n\
             lb_drops_total{reason=\"a\",hook=\"parse\"} 3\n\
             lb_drops_total{reason=\"b\",hook=\"parse\"} 4\n\
             lb_build_info 1\n",
        )
        .unwrap();
        assert_eq!(page.sum("lb_drops_total", &[]), 7.0);
        assert_eq!(page.sum("lb_drops_total", &["reason=\"b\""]), 4.0);
        assert_eq!(page.sum("lb_drops_total", &["reason=\"c\""]), 0.0);
        assert_eq!(page.names(), ["lb_drops_total", "lb_build_info"]);
    }

    #[test]
    fn a_line_that_is_no_sample_is_named() {
        let error = Metrics::parse("lb_x one\n").unwrap_err();
        assert!(error.to_string().contains("lb_x one"), "{error}");
    }
}
