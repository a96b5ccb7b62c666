//! What Prometheus scrapes: one file a family, one row in [`FAMILIES`].
//!
//! The control task hands over what costs it the same however many services and rules there are ([`Scrape::of`]). The rest is counted, and all of it
//! written, elsewhere and piece by piece ([`Scrape::piece`]): the text of 60,000 real servers has 80 MB. What has as many samples as there are services or
//! real servers is a [`Series`], which is written without anything kept of it; the prometheus crate encodes the others.

mod build;
mod conntrack;
mod drops;
mod idletimer;
mod ipvs;
mod moment;
mod nfacct;
mod nflog;
mod port;
mod quic;
mod rules;
mod series;
mod set;
mod sync;
mod tables;
mod twin;
mod worker;

use prometheus::TextEncoder;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

use crate::daemon::Control;
use moment::Moment;
use series::{Place, Series};

/// Content type of the text.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

type Gather = fn(&Control) -> Vec<Family>;

/// The families by their file's name.
const FAMILIES: &[(&str, Gather)] = &[
    ("build", build::gather),
    ("conntrack", conntrack::gather),
    ("drops", drops::gather),
    ("ipvs", ipvs::gather),
    ("idletimer", idletimer::gather),
    ("nfacct", nfacct::gather),
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

/// Families of few samples for which much is looked at.
const LATER: &[fn(&Moment) -> Vec<Family>] = &[drops::later, ipvs::later, tables::later];

/// Those of services and real servers.
const SERIES: &[&[Series]] = &[ipvs::SERIES];

/// Bytes of a piece of the text, or a few more: the whole text of most.
const PIECE: usize = 256 * 1024;

/// All metrics as they are now, on their way to who asked.
pub struct Scrape {
    few: Vec<Family>,
    moment: Moment,
    place: Place,
    is_over: bool,
}

impl Scrape {
    /// What has to be asked of the control task.
    pub fn of(control: &Control) -> Scrape {
        let few = FAMILIES.iter().flat_map(|(_, gather)| gather(control)).collect();
        Scrape { few, moment: Moment::of(control), place: Place::default(), is_over: false }
    }

    /// The next piece of the text. It takes some milliseconds, of which the control task should not have to wait.
    pub fn piece(&mut self) -> String {
        let mut text = String::with_capacity(PIECE + 1024);
        let few = std::mem::take(&mut self.few);
        if !few.is_empty() {
            let later = LATER.iter().flat_map(|count| count(&self.moment));
            encode(few.into_iter().chain(later), &mut text);
        }
        self.is_over = !self.place.write(SERIES, &self.moment, &mut text, PIECE);
        text
    }

    /// The text has no other piece.
    pub fn is_over(&self) -> bool {
        self.is_over
    }
}

fn encode(families: impl Iterator<Item = Family>, text: &mut String) {
    // A family without a sample is an error to the encoder; a text without it says the same.
    let families: Vec<_> = families.map(Family::finish).filter(|f| !f.get_metric().is_empty()).collect();
    if let Err(error) = TextEncoder::new().encode_utf8(&families, text) {
        // Names and kinds are ours and checked by a test.
        tracing::error!(%error, "metrics cannot be encoded");
    }
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

/// The whole text.
#[cfg(test)]
pub(crate) fn text(control: &Control) -> String {
    let mut scrape = Scrape::of(control);
    let mut text = scrape.piece();
    while !scrape.is_over() {
        text += &scrape.piece();
    }
    text
}

#[cfg(test)]
mod tests;
