//! What the `EndpointSlice`s of a Service mean for the hosts behind it, without asking anybody.
//!
//! A Service has several: of IPv4 and of IPv6, of a hundred endpoints at most, one for each set of ports. An
//! endpoint may stand in two of them while it is moved, and a pod with addresses of both kinds in one of
//! each; either is one host.
//!
//! | `terminating` | `ready` | `serving` | the host |
//! | --- | --- | --- | --- |
//! | no | yes, or not told | | gets requests |
//! | no | no | | is withdrawn: finishes what it has, gets nothing new |
//! | yes | | yes | is withdrawn, unless no endpoint is ready: then it is better than none |
//! | yes | | no | is withdrawn |
//!
//! One that is in no slice any more is no host any more. That the Service has no slice at all, or none with
//! the port that is wanted, is an accident far more often than the wish to have no hosts: then those that
//! were found last stay.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use kube::ResourceExt as _;
use kube::runtime::watcher::Event;

use super::super::discovery::{Endpoints, MAX_ADDRESSES, usable};
use super::super::member::Place;
use crate::config::Service;
use crate::pool::{Origin, Withdrawn};

/// More slices of one Service than this are left out.
const MAX_SLICES: usize = 64;
/// Ports that are named to whoever wants another.
const TOLD_PORTS: usize = 5;
/// Letters of a pod's name.
const LONGEST_POD: usize = 253;
const NO_SLICE: &str =
    "it has no EndpointSlice; does the Service exist, and is the namespace right?";
const NO_ADDRESSES: &str = "its endpoints are no addresses";

/// All that is known of one Service.
#[derive(Debug)]
pub(super) struct Slices {
    service: Service,
    /// By their names; or why one can't be used.
    known: BTreeMap<String, Result<Vec<Seen>, String>>,
    /// What has come of a list that is not whole yet, and takes the place of all that is known then.
    listed: BTreeMap<String, Result<Vec<Seen>, String>>,
}

/// An endpoint as one slice has it.
#[derive(Clone, Debug)]
struct Seen {
    address: SocketAddr,
    pod: Option<Arc<str>>,
    standing: Standing,
}

/// What it is good for: the better first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    Ready,
    /// It is being ended, but answers still.
    Leaving,
    NotReady,
    /// It is being ended, and answers no more.
    Ending,
}

impl Slices {
    pub(super) fn new(service: Service) -> Self {
        Self {
            service,
            known: BTreeMap::new(),
            listed: BTreeMap::new(),
        }
    }

    /// Takes in what has happened; `None`: more must come before anything follows.
    pub(super) fn take_in(&mut self, event: Event<EndpointSlice>) -> Option<Endpoints> {
        match event {
            Event::Init => {
                self.listed.clear();
                return None;
            }
            Event::InitApply(slice) => {
                insert(&self.service, &mut self.listed, &slice);
                return None;
            }
            Event::InitDone => self.known = std::mem::take(&mut self.listed),
            Event::Apply(slice) => insert(&self.service, &mut self.known, &slice),
            Event::Delete(slice) => {
                self.known.remove(&slice.name_any());
            }
        }
        Some(self.endpoints())
    }

    fn endpoints(&self) -> Endpoints {
        let unusable = self.known.values().find_map(|slice| slice.as_ref().err());
        if self.known.values().all(Result::is_err) {
            let problem = unusable.map_or(NO_SLICE, String::as_str);
            return Endpoints::unknown(problem);
        }
        let seen = self.known.values().flatten().flatten();
        let (found, shared) = unique(seen);
        let all = found.len();
        let too_many = || format!("{all} endpoints; the first {MAX_ADDRESSES} are used");
        Endpoints {
            places: Some(places(found)),
            problem: unusable
                .cloned()
                .or_else(|| (all > MAX_ADDRESSES).then(too_many))
                .or_else(|| shared.map(told_of_shared))
                .or_else(|| (self.known.len() >= MAX_SLICES).then(told_of_slices)),
        }
    }
}

impl Standing {
    fn of(conditions: Option<&EndpointConditions>) -> Self {
        let told =
            |condition: fn(&EndpointConditions) -> Option<bool>| conditions.and_then(condition);
        let is_ready = told(|it| it.ready).unwrap_or(true);
        let is_serving = told(|it| it.serving).unwrap_or(is_ready);
        let is_terminating = told(|it| it.terminating).unwrap_or(false);
        match (is_terminating, is_ready, is_serving) {
            (false, true, _) => Self::Ready,
            (false, false, _) => Self::NotReady,
            (true, _, true) => Self::Leaving,
            (true, _, false) => Self::Ending,
        }
    }

    /// Why it gets nothing new. `none_is_ready`: no endpoint of the Service is.
    fn withdrawn(self, none_is_ready: bool) -> Option<Withdrawn> {
        match self {
            Self::Ready => None,
            Self::Leaving if none_is_ready => None,
            Self::Leaving | Self::Ending => Some(Withdrawn::Terminating),
            Self::NotReady => Some(Withdrawn::NotReady),
        }
    }
}

fn insert(
    service: &Service,
    into: &mut BTreeMap<String, Result<Vec<Seen>, String>>,
    slice: &EndpointSlice,
) {
    let name = slice.name_any();
    if into.len() < MAX_SLICES || into.contains_key(&name) {
        into.insert(name, read(service, slice));
    }
}

/// The endpoints of a slice, or why it can't be used. One without endpoints has no ports either.
fn read(service: &Service, slice: &EndpointSlice) -> Result<Vec<Seen>, String> {
    let endpoints = slice.endpoints.as_deref().unwrap_or_default();
    if endpoints.is_empty() {
        return Ok(Vec::new());
    }
    if !["IPv4", "IPv6"].contains(&slice.address_type.as_str()) {
        return Err(NO_ADDRESSES.to_owned());
    }
    let port = port(service, slice.ports.as_deref().unwrap_or_default())?;
    let seen = endpoints.iter().filter_map(|endpoint| seen(endpoint, port));
    Ok(seen.collect())
}

/// An endpoint may have several addresses, which are all the same one to whoever connects.
fn seen(endpoint: &Endpoint, port: u16) -> Option<Seen> {
    let address: IpAddr = endpoint.addresses.first()?.parse().ok()?;
    let target = endpoint.target_ref.as_ref();
    let pod = target.filter(|target| target.kind.as_deref() == Some("Pod"));
    let pod = pod.and_then(|pod| pod.name.as_deref());
    Some(Seen {
        address: SocketAddr::new(usable(address)?, port),
        pod: pod.filter(|name| is_name(name)).map(Into::into),
        standing: Standing::of(endpoint.conditions.as_ref()),
    })
}

/// It stands in logs and metrics.
fn is_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-".contains(&byte);
    (1..=LONGEST_POD).contains(&text.len()) && text.bytes().all(allowed)
}

/// Which port the hosts listen on, or what to write so that it can be told.
fn port(service: &Service, ports: &[EndpointPort]) -> Result<u16, String> {
    let is_tcp = |port: &&EndpointPort| port.protocol.as_deref().is_none_or(|it| it == "TCP");
    let ports: Vec<_> = ports.iter().filter(is_tcp).collect();
    let number = i32::from(service.number);
    let found = match (&service.port, &ports[..]) {
        (None, []) => return Ok(service.number),
        (None, [only]) => Some(only),
        (None, several) => several.iter().find(|port| port.port == Some(number)),
        (Some(name), ports) => ports.iter().find(|port| {
            let called = port.name.as_deref().unwrap_or_default();
            called == &**name
        }),
    };
    // One without a number stands for any.
    found
        .and_then(|port| u16::try_from(port.port.unwrap_or(number)).ok())
        .ok_or_else(|| no_port(service, &ports))
}

fn no_port(service: &Service, ports: &[&EndpointPort]) -> String {
    let names = ports.iter().take(TOLD_PORTS);
    let names = names.map(|port| port.name.as_deref().filter(|name| is_name(name)));
    let names: Vec<_> = names
        .map(|name| name.unwrap_or("one without a name"))
        .collect();
    let names = names.join(", ");
    match &service.port {
        Some(name) if ports.is_empty() => {
            format!("it has no port called {name}, nor any other; leave discover_port out")
        }
        Some(name) => format!("it has no port called {name}, but {names}; correct discover_port"),
        None => {
            let number = service.number;
            format!(
                "it has several ports ({names}), and none is {number}; name one as discover_port"
            )
        }
    }
}

/// One for each address, as good as any slice says; and an address with two ports, if there is one. A pod
/// with addresses of both kinds is found at that of IPv4, unless the other is better.
fn unique<'a>(all: impl Iterator<Item = &'a Seen>) -> (Vec<&'a Seen>, Option<IpAddr>) {
    let mut found: BTreeMap<IpAddr, &Seen> = BTreeMap::new();
    let mut shared = None;
    for seen in all {
        let address = seen.address.ip();
        let best = found.entry(address).or_insert(seen);
        if best.address != seen.address {
            shared = Some(address);
        }
        if (seen.standing, seen.address) < (best.standing, best.address) {
            *best = seen;
        }
    }
    let first = best_of_v4(found.values().copied());
    let is_first = |seen: &&Seen| {
        let other = seen.pod.as_deref().and_then(|pod| first.get(pod));
        seen.address.is_ipv4() || other.is_none_or(|other| seen.standing < *other)
    };
    (found.into_values().filter(is_first).collect(), shared)
}

/// What each pod is good for at its addresses of IPv4.
fn best_of_v4<'a>(found: impl Iterator<Item = &'a Seen>) -> HashMap<&'a str, Standing> {
    let mut best = HashMap::new();
    for seen in found.filter(|seen| seen.address.is_ipv4()) {
        if let Some(pod) = seen.pod.as_deref() {
            let standing = best.entry(pod).or_insert(seen.standing);
            *standing = seen.standing.min(*standing);
        }
    }
    best
}

fn places(found: Vec<&Seen>) -> Vec<Place> {
    let none_is_ready = found.iter().all(|seen| seen.standing != Standing::Ready);
    let place = |seen: &Seen| Place {
        address: seen.address,
        origin: Origin::Kubernetes {
            pod: seen.pod.clone(),
            withdrawn: seen.standing.withdrawn(none_is_ready),
        },
    };
    found.into_iter().take(MAX_ADDRESSES).map(place).collect()
}

fn told_of_shared(address: IpAddr) -> String {
    format!("several of its endpoints have the address {address}; one of them is used")
}

fn told_of_slices() -> String {
    format!("as many EndpointSlices as are looked at ({MAX_SLICES}), or more")
}

#[cfg(test)]
mod tests;
