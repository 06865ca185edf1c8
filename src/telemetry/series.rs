//! Ends series that nothing will change any more.
//!
//! Hosts come and go. What is left of one that is gone would show its last value for ever, and with
//! hosts that are discovered under ever new addresses there would be no end of them.

use std::collections::HashMap;

use prometheus::core::{Collector as _, MetricVec, MetricVecBuilder};

/// Ends all series of `metric` that have this value of this label.
pub(super) fn end<T: MetricVecBuilder>(metric: &MetricVec<T>, label: &str, value: &str) {
    for family in metric.collect() {
        for series in family.get_metric() {
            let labels = series.get_label().iter();
            let labels: HashMap<&str, &str> =
                labels.map(|pair| (pair.name(), pair.value())).collect();
            if labels.get(label) == Some(&value) {
                // Fails only if somebody else was quicker.
                let _ = metric.remove(&labels);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus::{IntCounterVec, Opts};

    use super::*;

    #[test]
    fn ends_the_series_of_one_host() {
        let opts = Opts::new("attempts", "Attempts.");
        let attempts = IntCounterVec::new(opts, &["host", "verdict"]).unwrap();
        for (host, verdict) in [("a", "deliver"), ("a", "busy"), ("b", "deliver")] {
            attempts.with_label_values(&[host, verdict]).inc();
        }
        end(&attempts, "host", "a");
        let left = attempts.collect();
        let left: Vec<_> = left[0].get_metric().iter().collect();
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].get_label()[0].value(), "b");
    }
}
