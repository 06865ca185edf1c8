//! Reads Prometheus' text format, as far as the proxy writes it: one sample a line, label values
//! without quotes or commas.

/// One scrape.
pub(crate) struct Metrics(Vec<Sample>);

struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: String,
}

impl Metrics {
    pub(crate) fn parse(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        Self(samples.filter_map(Sample::parse).collect())
    }

    /// The sum of all counters with this name and (at least) these labels; 0 if there are none, as of
    /// one that has never counted.
    pub(crate) fn count(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let counters = self.matching(name, labels);
        counters.map(|value| value.parse::<u64>().unwrap()).sum()
    }

    /// The one gauge with this name and these labels.
    pub(crate) fn gauge(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let found: Vec<_> = self.matching(name, labels).collect();
        match found[..] {
            [value] => value.parse().unwrap(),
            _ => panic!("{} metrics match {name}{labels:?}", found.len()),
        }
    }

    /// The one sum of a histogram of seconds with this name.
    pub(crate) fn seconds(&self, name: &str) -> f64 {
        let mut found = self.matching(name, &[]);
        found.next().expect(name).parse().unwrap()
    }

    /// The values that `label` has in the series with this name, sorted.
    pub(crate) fn labels(&self, name: &str, label: &str) -> Vec<&str> {
        let samples = self.0.iter().filter(|sample| sample.name == name);
        let labels = samples.flat_map(|sample| &sample.labels);
        let mut values: Vec<&str> = labels
            .filter(|(name, _)| name == label)
            .map(|(_, value)| value.as_str())
            .collect();
        values.sort_unstable();
        values
    }

    fn matching(&self, name: &str, labels: &[(&str, &str)]) -> impl Iterator<Item = &str> {
        self.0
            .iter()
            .filter(move |sample| {
                sample.name == name && labels.iter().all(|pair| sample.has(*pair))
            })
            .map(|sample| sample.value.as_str())
    }
}

impl Sample {
    fn parse(line: &str) -> Option<Self> {
        let (series, value) = line.rsplit_once(' ')?;
        let (name, labels) = match series.split_once('{') {
            Some((name, rest)) => (name, rest.strip_suffix('}')?),
            None => (series, ""),
        };
        let labels = labels.split(',').filter_map(|label| {
            let (name, quoted) = label.split_once('=')?;
            Some((name.to_owned(), quoted.trim_matches('"').to_owned()))
        });
        Some(Self {
            name: name.to_owned(),
            labels: labels.collect(),
            value: value.to_owned(),
        })
    }

    fn has(&self, (name, value): (&str, &str)) -> bool {
        self.labels
            .iter()
            .any(|label| (label.0.as_str(), label.1.as_str()) == (name, value))
    }
}
