//! How the hosts behind a name are found: `discover`, and what belongs to it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::config::HostUrl;
use crate::config::reader::Section;

const NO_SERVICE: &str =
    "names no Kubernetes Service; write http://SERVICE:PORT or http://SERVICE.NAMESPACE:PORT";
const NO_PORT: &str = "is not the name of a Service's port; write e.g. http";
const NUMBER: &str = "is what the Service calls the port, and no number; leave it out, and write the number in the url, or write e.g. http";
const DIGITS: &str = "is looked for among the names of the Service's ports, and hardly one has digits only; for a number leave it out, and write the number in the url";
/// Of a program that was built without the feature.
pub const NOT_BUILT: &str = "is not in this gpu-bridge, which was built without the feature kubernetes; use dns, or build it in";
/// Letters of a name in Kubernetes.
const LONGEST_LABEL: usize = 63;

/// How the hosts behind a name are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Discover {
    /// One at each address that the DNS knows of it.
    Dns {
        /// Time between two look-ups; `None`: as long as the answer says that it holds.
        interval: Option<Duration>,
    },
    /// One for each endpoint of a Service, as the API server of Kubernetes tells.
    Kubernetes(Service),
}

/// One port of a Service of Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Service {
    /// Its name.
    pub name: Arc<str>,
    /// Where it is; `None`: where the proxy is.
    pub namespace: Option<Arc<str>>,
    /// What its port is called; `None`: its only one, or the one with `number`.
    pub port: Option<Arc<str>>,
    /// The port in the host's URL: of endpoints that name none.
    pub number: u16,
}

impl Service {
    /// The one that `url` names as the DNS of a cluster does: `SERVICE`, `SERVICE.NAMESPACE` or
    /// `SERVICE.NAMESPACE.svc`, and whatever the cluster is called. `None`: it names none.
    pub fn of(url: &HostUrl, port: Option<Arc<str>>) -> Option<Self> {
        let mut labels = url.host().split('.');
        let name = labels.next().filter(|name| is_label(name))?;
        let namespace = labels.next();
        let is_whole = labels.next().is_none_or(|label| label == "svc");
        if !is_whole || !namespace.is_none_or(is_label) || url.is_literal() {
            return None;
        }
        Some(Self {
            name: name.into(),
            namespace: namespace.map(Into::into),
            port,
            number: url.port(),
        })
    }
}

/// As the DNS of a cluster has it.
impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{}.{namespace}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// A name as most of Kubernetes has it (RFC 1123).
fn is_label(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=LONGEST_LABEL).contains(&text.len())
        && text.bytes().all(allowed)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Of the host at `url`, which is `None` if it could not be read.
pub(super) fn discover(section: &Section<'_>, url: Option<&HostUrl>) -> Option<Discover> {
    let interval = section
        .has("discover_interval")
        .then(|| section.duration("discover_interval", Duration::from_secs(30)));
    let port = port(section);
    let means = section.text("discover");
    for (key, of) in [
        ("discover_interval", "dns"),
        ("discover_port", "kubernetes"),
    ] {
        let is_other = match means.as_deref() {
            Some(means) => ["dns", "kubernetes"].contains(&means) && means != of,
            None => !section.has("discover"),
        };
        if is_other && section.has(key) {
            section.complain(key, format!("has no effect without discover: {of}"));
        }
    }
    match means?.as_str() {
        "dns" => Some(Discover::Dns { interval }),
        "kubernetes" => kubernetes(section, url?, port),
        _ => section.problem(
            "discover",
            "is not a way to find hosts; use dns or kubernetes",
        ),
    }
}

fn kubernetes(section: &Section<'_>, url: &HostUrl, port: Option<Arc<str>>) -> Option<Discover> {
    if !cfg!(feature = "kubernetes") {
        return section.problem("discover", NOT_BUILT);
    }
    if url.is_literal() {
        // That is told of any way to find hosts.
        return None;
    }
    match Service::of(url, port) {
        Some(service) => Some(Discover::Kubernetes(service)),
        None => section.problem("url", NO_SERVICE),
    }
}

fn port(section: &Section<'_>) -> Option<Arc<str>> {
    if section.is_number("discover_port") {
        return section.problem("discover_port", NUMBER);
    }
    let port = section.text("discover_port")?;
    if !is_label(&port) {
        return section.problem("discover_port", NO_PORT);
    }
    if port.bytes().all(|byte| byte.is_ascii_digit()) {
        section.warn("discover_port", DIGITS);
    }
    Some(port.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_names_the_service_as_a_clusters_dns_does() {
        let table = [
            ("http://gpu:8765", Some(("gpu", None))),
            ("http://gpu.ml:8765", Some(("gpu", Some("ml")))),
            ("https://gpu.ml.svc:8765", Some(("gpu", Some("ml")))),
            (
                "http://gpu.ml.svc.cluster.local:1",
                Some(("gpu", Some("ml"))),
            ),
            ("http://gpu.example.com:8765", None),
            ("http://gpu_1:8765", None),
            ("http://-gpu:8765", None),
            ("http://10.0.0.1:8765", None),
            ("http://[::1]:8765", None),
        ];
        for (url, expected) in table {
            let url: HostUrl = url.parse().unwrap();
            let service = Service::of(&url, None);
            let named = service
                .as_ref()
                .map(|service| (&*service.name, service.namespace.as_deref()));
            assert_eq!(named, expected, "{url}");
        }
    }
}
