//! Metrics that are read when they are asked for instead of being kept.

use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

use super::PREFIX;

/// Whether a value only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
}

/// One metric of things of type `T`; `None`: a thing has no such value.
pub(super) struct Reading<T> {
    pub(super) kind: Kind,
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) read: fn(&T) -> Option<f64>,
}

impl<T> Reading<T> {
    /// The metric as it is now, for each of `things` with its labels. `None` if nothing has it: a
    /// family without a sample is an error to the encoder.
    pub(super) fn of<'a>(
        &self,
        things: impl Iterator<Item = (Labels<'a>, &'a T)>,
    ) -> Option<MetricFamily>
    where
        T: 'a,
    {
        let samples = things.filter_map(|(labels, thing)| Some((labels, (self.read)(thing)?)));
        family(self.kind, self.name, self.help, samples)
    }
}

/// Names and values.
pub(super) type Labels<'a> = Vec<(&'static str, &'a str)>;

/// A metric with these samples; `None` if there are none.
pub(super) fn family<'a>(
    kind: Kind,
    name: &str,
    help: &str,
    samples: impl Iterator<Item = (Labels<'a>, f64)>,
) -> Option<MetricFamily> {
    let metrics: Vec<Metric> = samples
        .map(|(labels, value)| sample(kind, &labels, value))
        .collect();
    if metrics.is_empty() {
        return None;
    }
    let mut family = MetricFamily::default();
    family.set_name(format!("{PREFIX}_{name}"));
    family.set_help(help.to_owned());
    family.set_field_type(match kind {
        Kind::Counter => MetricType::COUNTER,
        Kind::Gauge => MetricType::GAUGE,
    });
    family.set_metric(metrics);
    Some(family)
}

fn sample(kind: Kind, labels: &[(&'static str, &str)], value: f64) -> Metric {
    let label = |&(name, value): &(&str, &str)| {
        let mut label = LabelPair::default();
        label.set_name(name.to_owned());
        label.set_value(value.to_owned());
        label
    };
    let mut metric = Metric::from_label(labels.iter().map(label).collect());
    match kind {
        Kind::Counter => {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        }
        Kind::Gauge => {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
    }
    metric
}
