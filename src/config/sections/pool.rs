//! The hosts: `pool`.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;

use rustls::pki_types::ServerName;

use super::discover::{Discover, Service, discover};
use super::{refuse_repeated, values};
use crate::config::Secret;
use crate::config::network::without_brackets;
use crate::config::reader::Section;
use crate::config::{HostName, HostUrl};
use gpu_bridge_certificates::{Authorities, Identity};

/// Bytes of a model's name: a longer one is nobody's.
const LONGEST_MODEL: usize = 200;
const MISSING_HOSTS: &str = "is missing; list at least one host with name and url";

/// Section `pool`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Which host gets a request.
    pub policy: Policy,
    /// At least one; names and URLs are unique.
    pub hosts: Vec<Host>,
    /// Whom to ask for the addresses of hosts' names; `None`: whom the system asks.
    pub resolver: Option<SocketAddr>,
}

/// Which of the hosts that can take a request gets it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// The one with the least expected work outstanding.
    #[default]
    LeastBusy,
    /// The one that rested longest.
    RoundRobin,
    /// The one with the smallest share of its memory in use.
    LeastVram,
}

/// As in the file.
impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LeastBusy => "least-busy",
            Self::RoundRobin => "round-robin",
            Self::LeastVram => "least-vram",
        })
    }
}

/// One host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Unique in the pool.
    pub name: HostName,
    /// Where it is.
    pub url: HostUrl,
    /// Our key for it.
    pub api_key: Option<Secret>,
    /// Its slots, if the operator knows better than the host.
    pub max_concurrent: Option<NonZeroU32>,
    /// Its share of the work compared with others; 1 unless set.
    pub weight: NonZeroU32,
    /// Items that it takes at once, if that is less than `batching.max_items`.
    pub max_items: Option<NonZeroU32>,
    /// How to prove ourselves and whom to trust, for an `https` URL.
    pub tls: ClientTls,
    /// One host for each that is found behind the name in its URL.
    pub discover: Option<Discover>,
    /// What it is asked for, and how.
    pub api: Api,
}

impl Host {
    /// Do the system's authorities vouch for it, and nobody else?
    pub fn trusts_the_system(&self) -> bool {
        self.url.is_https() && self.tls.ca.is_none() && !self.tls.insecure
    }
}

/// What a host speaks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Api {
    /// What the Python service and `gpu-bridge-backend` do: `/embed`, `/bertscore`, `/status`, `/info`.
    #[default]
    GpuBridge,
    /// OpenAI's API for embeddings, and nothing else.
    OpenAi(Arc<OpenAi>),
}

/// As in the file.
impl fmt::Display for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::GpuBridge => "gpu-bridge",
            Self::OpenAi(_) => "openai",
        })
    }
}

/// A host with `api: openai`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenAi {
    /// What it calls models, by what clients call them.
    pub model_alias: BTreeMap<String, String>,
    /// What it answers with 200 while it is well.
    pub health_path: String,
    /// Scale its embeddings to length 1.
    pub normalize: bool,
    /// Ask it to cut texts that are too long for the model.
    pub truncate: bool,
}

/// How the proxy connects to a host over TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientTls {
    /// Whom to trust instead of the system's authorities.
    pub ca: Option<Authorities>,
    /// Our certificate and its key, for hosts that ask for one.
    pub identity: Option<Identity>,
    /// The name that the host's certificate must have, if it is not that of the URL.
    pub server_name: Option<String>,
    /// Accept any certificate.
    pub insecure: bool,
}

pub(super) fn pool(section: &Section<'_>) -> Option<Pool> {
    let policy = policy(section);
    let resolver = resolver(section);
    let Some(listed) = section.list("hosts", host) else {
        if !section.has("hosts") {
            section.complain("hosts", MISSING_HOSTS);
        }
        return None;
    };
    if listed.is_empty() {
        return section.problem("hosts", MISSING_HOSTS);
    }
    let names = values(&listed, |host| host.name.clone());
    refuse_repeated(section, "hosts", "name", names);
    let urls = values(&listed, |host| host.url.to_string());
    refuse_repeated(section, "hosts", "url", urls);
    warn_of_twins(section, &listed);
    warn_of_namesakes(section, &listed);
    let hosts = listed.into_iter().collect::<Option<_>>()?;
    Some(Pool {
        policy: policy?,
        hosts,
        resolver,
    })
}

/// A host under the very name of one that is found takes its place.
fn warn_of_namesakes(section: &Section<'_>, listed: &[Option<Host>]) {
    let hosts = listed.iter().enumerate();
    let hosts = hosts.filter_map(|(position, host)| Some((position, host.as_ref()?)));
    let hosts: Vec<(usize, &Host)> = hosts.collect();
    let found = |(_, host): &&(usize, &Host)| host.discover.is_some();
    for (_, group) in hosts.iter().filter(found) {
        for (position, host) in hosts.iter().filter(|it| !found(it)) {
            let url = host.url.host().parse::<IpAddr>().ok();
            let taken = group
                .name
                .address_of(&host.name)
                .filter(|ip| url.is_some_and(|url| url != *ip));
            if let Some(ip) = taken {
                let text = format!(
                    "takes the place of what {group} finds at {ip}, but its url is another; name it otherwise to have both",
                    group = group.name
                );
                section.warn_at(&format!("pool.hosts[{position}].name"), &text);
            }
        }
    }
}

fn resolver(section: &Section<'_>) -> Option<SocketAddr> {
    let text = section.text("resolver")?;
    match (text.parse(), without_brackets(&text)) {
        (Ok(address), _) => Some(address),
        (Err(_), Some((ip, port))) => {
            let meant = SocketAddr::new(ip.into(), port.unwrap_or(53));
            section.problem("resolver", format!("must be IP:PORT; write {meant}"))
        }
        (Err(_), None) => section.problem("resolver", "must be IP:PORT, e.g. 10.0.0.53:53"),
    }
}

fn policy(section: &Section<'_>) -> Option<Policy> {
    match section.text("policy").as_deref() {
        None => (!section.has("policy")).then_some(Policy::default()),
        Some("least-busy") => Some(Policy::LeastBusy),
        Some("round-robin") => Some(Policy::RoundRobin),
        Some("least-vram") => Some(Policy::LeastVram),
        Some("power-of-two") => section.problem(
            "policy",
            "power-of-two was removed, since least-busy, which looks at all hosts, does better; use that",
        ),
        Some(_) => section.problem(
            "policy",
            "is not a policy; use least-busy, round-robin or least-vram",
        ),
    }
}

fn host(section: &Section<'_>) -> Option<Host> {
    let name = section.required::<HostName>("name");
    let url = section.required::<HostUrl>("url");
    let api_key = section.secret("api_key", "api_key_file");
    let max_concurrent = section.optional_positive("max_concurrent");
    let weight = section.count("weight", 1, 1..=1000);
    let max_items = section.optional_positive("max_items");
    let tls = section.section("tls", client_tls);
    let discover = discover(section, url.as_ref());
    let api = api(section);
    if let Some(url) = &url {
        let is_named =
            matches!(&discover, Some(Discover::Kubernetes(service)) if service.port.is_some());
        if api == Some(Api::GpuBridge) && !is_named {
            warn_if_the_port_is_left_out(section, url);
        }
        refuse_what_the_url_rules_out(section, url, &tls);
        warn_of_any_address(section, url);
    }
    if discover.is_some() && name.as_ref().is_some_and(|name| !name.can_be_extended()) {
        section.complain(
            "name",
            "may have 23 characters at most with discover, since addresses are added to it",
        );
    }
    Some(Host {
        name: name?,
        url: url?,
        api_key,
        max_concurrent,
        weight: NonZeroU32::new(weight).unwrap_or(NonZeroU32::MIN),
        max_items,
        tls,
        discover,
        api: api?,
    })
}

fn api(section: &Section<'_>) -> Option<Api> {
    let openai = OpenAi {
        model_alias: section.pairs("model_alias", LONGEST_MODEL),
        health_path: health_path(section),
        normalize: section.flag("normalize", false),
        truncate: section.flag("truncate", false),
    };
    match section.text("api").as_deref() {
        None if section.has("api") => None,
        None | Some("gpu-bridge") => {
            for (key, has_effect) in [
                ("model_alias", section.has("model_alias")),
                ("health_path", section.has("health_path")),
                ("normalize", openai.normalize),
                ("truncate", openai.truncate),
            ] {
                if has_effect {
                    section.complain(key, "has no effect without api: openai");
                }
            }
            Some(Api::GpuBridge)
        }
        Some("openai") => {
            warn_of_purposes(section, &openai.model_alias);
            Some(Api::OpenAi(openai.into()))
        }
        Some(_) => section.problem("api", "is not an API; use gpu-bridge or openai"),
    }
}

/// `/info` lists models with what they are for, clients name them without.
fn warn_of_purposes(section: &Section<'_>, aliases: &BTreeMap<String, String>) {
    let names = aliases.iter().flat_map(|(called, name)| [called, name]);
    let mut names = names.filter(|name| name.starts_with("embed:"));
    if names.next().is_some() {
        let text = "holds a name that begins with embed:, as in /info; clients and hosts name models without it";
        section.warn("model_alias", text);
    }
}

fn health_path(section: &Section<'_>) -> String {
    let path = section.text("health_path");
    let path = path.unwrap_or_else(|| "/health".to_owned());
    let is_plain = path
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b'#');
    if !path.starts_with('/') || !is_plain {
        section.complain(
            "health_path",
            "is not a path; write e.g. /health or /v1/models",
        );
    }
    path
}

fn warn_of_any_address(section: &Section<'_>, url: &HostUrl) {
    let ip = url.host().parse();
    if ip.is_ok_and(|ip: IpAddr| ip.is_unspecified()) {
        let text = "is the address that servers listen at for all of theirs, none to connect to; \
                    write that of the host, or 127.0.0.1 for this machine";
        section.warn("url", text);
    }
}

/// Hosts listen on a port of their own, hardly on that of the web.
fn warn_if_the_port_is_left_out(section: &Section<'_>, url: &HostUrl) {
    let written = section.text("url").unwrap_or_default();
    let (_, after_scheme) = written.split_once("://").unwrap_or_default();
    let authority = after_scheme.split('/').next().unwrap_or_default();
    let after_address = authority.rsplit(']').next().unwrap_or_default();
    if !after_address.contains(':') {
        let (port, usual) = (url.port(), gpu_bridge_wire::DEFAULT_PORT);
        let text = format!(
            "has no port, which means {port}; hosts listen on {usual} unless told otherwise"
        );
        section.warn("url", &text);
    }
}

/// One host under two names would get twice what it can take.
fn warn_of_twins(section: &Section<'_>, listed: &[Option<Host>]) {
    let place = |host: &Host| {
        let name = host.url.host();
        let is_here = name == "localhost" || name.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        // A cluster's DNS has several names for one Service.
        let service = Service::of(&host.url, None).map(|service| service.to_string());
        let name = match service {
            _ if is_here => "localhost".to_owned(),
            Some(service) => service,
            None => name.to_owned(),
        };
        // And that several ports, behind each of which may be other hosts.
        let port = match &host.discover {
            Some(Discover::Kubernetes(service)) => service.port.clone(),
            _ => None,
        };
        (name, host.url.port(), port, host.url.prefix().to_owned())
    };
    let mut first = HashMap::new();
    for (position, host) in values(listed, Host::clone) {
        let earlier = *first.entry(place(&host)).or_insert(position);
        let same_url = listed.get(earlier).and_then(Option::as_ref);
        if earlier != position && same_url.is_some_and(|other| other.url != host.url) {
            let path = format!("pool.hosts[{position}].url");
            section.warn_at(
                &path,
                &format!("is the same host as hosts[{earlier}], which then gets twice as much"),
            );
        }
    }
}

fn refuse_what_the_url_rules_out(section: &Section<'_>, url: &HostUrl, tls: &ClientTls) {
    if section.has("tls") && !url.is_https() {
        section.complain("tls", "has no effect on an http:// url; write https://");
    }
    if url.is_https() && tls.server_name.is_none() && ServerName::try_from(url.host()).is_err() {
        let text = "holds no name that a certificate can have; set tls.server_name";
        section.complain("url", text);
    }
    if section.has("discover") && url.is_literal() {
        section.complain(
            "discover",
            "has nothing to look up: the url holds an address, not a name",
        );
    }
}

fn client_tls(section: &Section<'_>) -> ClientTls {
    let ca = section.authorities("ca");
    let identity = section.identity();
    for (key, other) in [("certificate", "key"), ("key", "certificate")] {
        if section.has(other) && !section.has(key) {
            section.complain(key, format!("is missing; {other} needs it"));
        }
    }
    let server_name = server_name(section);
    let insecure = section.flag("insecure", false);
    if insecure && section.has("ca") {
        section.complain(
            "insecure",
            "contradicts ca: with it, nothing is verified; keep one of them",
        );
    } else if insecure {
        section.warn(
            "insecure",
            "lets anybody pose as this host; write ca instead",
        );
    }
    ClientTls {
        ca,
        identity,
        server_name,
        insecure,
    }
}

/// An empty name would turn verification off, silently: it must be a name, or an address.
fn server_name(section: &Section<'_>) -> Option<String> {
    let name = section.text("server_name")?;
    match ServerName::try_from(name.as_str()) {
        Ok(_) => Some(name),
        Err(_) => section.problem(
            "server_name",
            "is not a host's name; write e.g. gpu2.example",
        ),
    }
}
