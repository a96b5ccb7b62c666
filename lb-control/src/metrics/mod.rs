//! What Prometheus scrapes: one file a family, one row in [`FAMILIES`].
//!
//! The families are gathered on the control task, from the workers' counters as they are; the text is made outside it.

mod build;
mod conntrack;
mod drops;
mod ipvs;
mod nflog;
mod port;
mod quic;
mod rules;
mod set;
mod sync;
mod tables;
mod twin;
mod worker;

use prometheus::TextEncoder;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

use crate::daemon::Control;

/// Content type of [`text`].
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

type Gather = fn(&Control) -> Vec<Family>;

/// The families by their file's name.
const FAMILIES: &[(&str, Gather)] = &[
    ("build", build::gather),
    ("conntrack", conntrack::gather),
    ("drops", drops::gather),
    ("ipvs", ipvs::gather),
    ("nflog", nflog::gather),
    ("port", port::gather),
    ("quic", quic::gather),
    ("rules", rules::gather),
    ("set", set::gather),
    ("sync", sync::gather),
    ("tables", tables::gather),
    ("twin", twin::gather),
    ("worker", worker::gather),
];

/// All metrics as they are now.
pub fn gather(control: &Control) -> Vec<Family> {
    FAMILIES.iter().flat_map(|(_, gather)| gather(control)).collect()
}

/// The text that a scrape gets.
pub fn text(families: Vec<Family>) -> String {
    // A family without a sample is an error to the encoder; a text without it says the same.
    let families: Vec<_> =
        families.into_iter().map(Family::finish).filter(|f| !f.get_metric().is_empty()).collect();
    let mut text = String::new();
    if let Err(error) = TextEncoder::new().encode_utf8(&families, &mut text) {
        // Names and kinds are ours and checked by a test.
        tracing::error!(%error, "metrics cannot be encoded");
    }
    text
}

/// A metric with all its samples.
pub struct Family {
    family: MetricFamily,
    kind: MetricType,
    samples: Vec<Metric>,
}

impl Family {
    /// Counts upwards; its name ends in `_total`.
    fn counter(name: &str, help: &str) -> Family {
        debug_assert!(name.ends_with("_total"), "{name}");
        Family::counter_named(name, help)
    }

    /// A counter under a name that another exporter gave it.
    fn counter_named(name: &str, help: &str) -> Family {
        Family::new(name, help, MetricType::COUNTER)
    }

    fn gauge(name: &str, help: &str) -> Family {
        Family::new(name, help, MetricType::GAUGE)
    }

    fn histogram(name: &str, help: &str) -> Family {
        Family::new(name, help, MetricType::HISTOGRAM)
    }

    fn new(name: &str, help: &str, kind: MetricType) -> Family {
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        Family { family, kind, samples: Vec::new() }
    }

    fn add(&mut self, labels: &[(&str, &str)], value: u64) {
        let mut sample = labelled(labels);
        if self.kind == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(value as f64);
            sample.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value as f64);
            sample.set_gauge(gauge);
        }
        self.samples.push(sample);
    }

    /// A family with this one sample.
    fn with(mut self, labels: &[(&str, &str)], value: u64) -> Family {
        self.add(labels, value);
        self
    }

    /// `classes`: upper bound and count of each class, ascending. `sum`: of all values seen.
    fn add_histogram(
        &mut self,
        labels: &[(&str, &str)],
        classes: impl Iterator<Item = (f64, u64)>,
        sum: f64,
    ) {
        let mut histogram = Histogram::default();
        let mut count = 0;
        let mut buckets = Vec::new();
        for (bound, in_class) in classes {
            count += in_class;
            // The encoder makes the bucket without a bound of the count.
            if bound.is_finite() {
                let mut bucket = Bucket::default();
                bucket.set_upper_bound(bound);
                bucket.set_cumulative_count(count);
                buckets.push(bucket);
            }
        }
        histogram.set_bucket(buckets);
        histogram.set_sample_count(count);
        histogram.set_sample_sum(sum);
        let mut sample = labelled(labels);
        sample.set_histogram(histogram);
        self.samples.push(sample);
    }

    fn finish(mut self) -> MetricFamily {
        self.family.set_metric(self.samples);
        self.family
    }
}

fn labelled(labels: &[(&str, &str)]) -> Metric {
    let pair = |&(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value.to_owned());
        pair
    };
    Metric::from_label(labels.iter().map(pair).collect())
}

#[cfg(test)]
mod tests;
