//! Who reaches the proxy, and where: `listen`, `admin`, `auth`, `headers`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;

use super::{refuse_repeated, values};
use crate::config::Secret;
use crate::config::network::without_brackets;
use crate::config::reader::Section;
use crate::config::{Config, HostName, Network, PageOrigin};
use gpu_bridge_certificates::{self as certificates, Authorities, Identity};

const DEFAULT_LISTEN: (Ipv4Addr, u16) = (Ipv4Addr::UNSPECIFIED, gpu_bridge_wire::DEFAULT_PORT);
const DEFAULT_ADMIN: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 9765);

/// An item of `listen`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Port 0: any free one.
    pub address: SocketAddr,
    /// HTTPS instead of HTTP.
    pub tls: Option<ServerTls>,
}

/// How the proxy proves itself to clients.
#[derive(Clone, Debug)]
pub struct ServerTls {
    /// Its certificate and key.
    pub identity: Identity,
    /// Clients must present a certificate signed by one of these.
    pub client_ca: Option<Authorities>,
    /// What follows from both.
    pub settings: Arc<rustls::ServerConfig>,
}

impl PartialEq for ServerTls {
    fn eq(&self, other: &Self) -> bool {
        (&self.identity, &self.client_ca) == (&other.identity, &other.client_ca)
    }
}

impl Eq for ServerTls {}

/// Section `admin`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Port 0: any free one.
    pub address: SocketAddr,
    /// What operations ask for; `None`: they are open to everybody who can connect.
    pub key: Option<Secret>,
}

/// Section `auth`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// None: everybody may.
    pub keys: Vec<ClientKey>,
}

/// A client that may use the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientKey {
    /// Shown in logs.
    pub name: Arc<str>,
    /// What the client sends.
    pub key: Secret,
    /// Requests of a higher priority are served first; 0 unless set.
    pub priority: u8,
    /// Requests that it may have in the proxy at once.
    pub max_concurrent: Option<NonZeroU32>,
    /// Requests that it may send each second, on average; as many may come at once.
    pub max_per_second: Option<NonZeroU32>,
}

/// Section `cors`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// Pages of these may use the proxy from a browser; none unless set.
    pub allow_origins: Vec<PageOrigin>,
}

/// Section `headers`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Headers {
    /// Name the host that answered in `X-Served-By`.
    pub served_by: bool,
    /// Send hosts `Forwarded` (RFC 7239) beside `X-Forwarded-For`.
    pub forwarded: bool,
    /// Whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<Network>,
}

impl Headers {
    /// Is this a proxy whose word is taken?
    pub fn trusts(&self, address: IpAddr) -> bool {
        let mut trusted = self.trusted_proxies.iter();
        trusted.any(|range| range.contains(address))
    }
}

pub(super) fn listen(root: &Section<'_>) -> Option<Vec<Listen>> {
    let listed = root.list("listen", |item| {
        let address = address(item, DEFAULT_LISTEN.into());
        let tls = if item.has("tls") {
            Some(item.section("tls", server_tls)?)
        } else {
            None
        };
        Some(Listen {
            address: address?,
            tls,
        })
    });
    let Some(listed) = listed else {
        let default = Listen {
            address: DEFAULT_LISTEN.into(),
            tls: None,
        };
        return (!root.has("listen")).then(|| vec![default]);
    };
    if listed.is_empty() {
        return root.problem(
            "listen",
            "lists no address; leave the key out for 0.0.0.0:8765",
        );
    }
    refuse_taken(root, &listed);
    listed.into_iter().collect()
}

/// Two sockets can't listen on one address, nor on one that is part of the other.
fn refuse_taken(root: &Section<'_>, listed: &[Option<Listen>]) {
    let addresses: Vec<_> = values(listed, |listen| listen.address).collect();
    for (later, (position, address)) in addresses.iter().enumerate() {
        let earlier = &addresses[..later];
        let taken = earlier.iter().find(|(_, other)| clash(*other, *address));
        if let Some((other, taken)) = taken {
            let text = if taken == address {
                format!("is the same as of listen[{other}]; each must be unique")
            } else {
                format!(
                    "is a part of {taken} (listen[{other}]), or the other way round; keep one of them"
                )
            };
            root.problem_in("listen", *position, "address", &text);
        }
    }
}

/// `[::]` leaves IPv4 to those that listen there, see [`crate::restart::Sockets`].
fn clash(one: SocketAddr, other: SocketAddr) -> bool {
    let (ip, other_ip) = (one.ip(), other.ip());
    let is_any = ip.is_unspecified() || other_ip.is_unspecified();
    let same_place = ip == other_ip || (is_any && ip.is_ipv4() == other_ip.is_ipv4());
    share_a_port(one, other) && same_place
}

fn share_a_port(one: SocketAddr, other: SocketAddr) -> bool {
    one.port() != 0 && one.port() == other.port()
}

fn server_tls(section: &Section<'_>) -> Option<ServerTls> {
    let identity = section.identity();
    for key in ["certificate", "key"] {
        if !section.has(key) {
            section.complain(key, "is missing");
        }
    }
    let client_ca = section.authorities("client_ca");
    let identity = identity?;
    match certificates::server(&identity, client_ca.as_ref()) {
        Ok(settings) => Some(ServerTls {
            identity,
            client_ca,
            settings: Arc::new(settings),
        }),
        Err(error) => section.problem("certificate", error),
    }
}

pub(super) fn admin(section: &Section<'_>) -> Option<Admin> {
    let address = address(section, DEFAULT_ADMIN.into());
    let key = section.secret("key", "key_file");
    let address = address?;
    if key.is_none() && !address.ip().to_canonical().is_loopback() {
        section.warn(
            "address",
            "everybody who can connect may look at hosts and requests; set admin.key, or listen on 127.0.0.1",
        );
    }
    Some(Admin { address, key })
}

fn address(section: &Section<'_>, default: SocketAddr) -> Option<SocketAddr> {
    let Some(text) = section.text("address") else {
        return (!section.has("address")).then_some(default);
    };
    match text.parse::<SocketAddr>() {
        Ok(address) => match address.ip().to_canonical() {
            IpAddr::V4(ip) => Some((ip, address.port()).into()),
            IpAddr::V6(_) => Some(address),
        },
        Err(_) => section.problem("address", not_an_address(&text, default)),
    }
}

/// What to write instead, which is never a more open address.
fn not_an_address(text: &str, default: SocketAddr) -> String {
    let usual = default.port();
    let meant = match (text.parse::<IpAddr>(), without_brackets(text)) {
        (_, Some((ip, port))) => Some(SocketAddr::new(ip.into(), port.unwrap_or(usual))),
        (Ok(ip), None) => Some(SocketAddr::new(ip, usual)),
        (Err(_), None) => None,
    };
    if let Some(meant) = meant {
        format!("must be IP:PORT; write {meant}")
    } else if text == "localhost" || text.starts_with("localhost:") {
        format!("must be IP:PORT, e.g. 127.0.0.1:{usual} for localhost")
    } else if !default.ip().is_unspecified() {
        format!("must be IP:PORT, e.g. {default}")
    } else if text.starts_with(':') {
        format!("must be IP:PORT, e.g. {default} for all addresses of this machine")
    } else {
        format!("must be IP:PORT, e.g. {default} or [::]:{usual}")
    }
}

pub(super) fn auth(section: &Section<'_>) -> Option<Auth> {
    let listed = section.list("keys", client_key).unwrap_or_default();
    if listed.is_empty() {
        section.warn(
            "keys",
            "lists none, so everybody who can connect may use the hosts",
        );
    }
    let names = values(&listed, |client| client.name.clone());
    refuse_repeated(section, "keys", "name", names);
    let keys = values(&listed, |client| client.key.expose().to_owned());
    refuse_repeated(section, "keys", "key", keys);
    let keys = listed.into_iter().collect::<Option<_>>()?;
    Some(Auth { keys })
}

fn client_key(item: &Section<'_>) -> Option<ClientKey> {
    // It stands in logs and metrics, as a host's name does.
    let name = item.required::<HostName>("name");
    let key = item.secret("key", "key_file");
    if !item.has("key") && !item.has("key_file") {
        item.complain("key", "is missing; write key or key_file");
    }
    let priority = item.count("priority", 0, 0..=9);
    let max_concurrent = item.optional_positive("max_concurrent");
    let max_per_second = item.optional_positive("max_per_second");
    Some(ClientKey {
        name: name?.as_ref().into(),
        key: key?,
        priority: u8::try_from(priority).unwrap_or(u8::MAX),
        max_concurrent,
        max_per_second,
    })
}

pub(super) fn headers(section: &Section<'_>) -> Option<Headers> {
    let served_by = section.flag("served_by", true);
    let forwarded = section.flag("forwarded", false);
    let trusted_proxies = section.texts::<Network>("trusted_proxies");
    Some(Headers {
        served_by,
        forwarded,
        trusted_proxies: trusted_proxies?,
    })
}

pub(super) fn cors(section: &Section<'_>) -> Option<Cors> {
    let allow_origins = section.texts::<PageOrigin>("allow_origins")?;
    Some(Cors { allow_origins })
}

/// Clients and operators must have different doors and different keys.
pub(super) fn refuse_confusion(root: &Section<'_>, config: &Config) {
    let admin = &config.admin;
    let same_door = |listen: &Listen| {
        let addresses = [listen.address, admin.address];
        let is_any = addresses
            .iter()
            .any(|address| address.ip().is_unspecified());
        let [one, other] = addresses;
        clash(one, other) || (is_any && share_a_port(one, other))
    };
    if let Some(position) = config.listen.iter().position(same_door) {
        let text = format!("is the same as of listen[{position}]; operators need their own");
        root.complain("admin.address", text);
    }
    let Some(key) = &admin.key else { return };
    if let Some(position) = config
        .auth
        .keys
        .iter()
        .position(|client| client.key == *key)
    {
        let text = format!("is the same as of auth.keys[{position}]; operators need their own");
        root.complain("admin.key", text);
    }
}

/// A request to such a host would come back to this proxy, again and again.
pub(super) fn warn_of_loops(root: &Section<'_>, config: &Config) {
    let own = config.listen.iter().map(|listen| listen.address);
    let own: Vec<_> = own.chain([config.admin.address]).collect();
    for (position, host) in config.pool.hosts.iter().enumerate() {
        let ip = match host.url.host() {
            "localhost" => Some(Ipv4Addr::LOCALHOST.into()),
            name => name.parse::<IpAddr>().ok(),
        };
        let Some(ip) = ip.map(|ip| ip.to_canonical()) else {
            continue;
        };
        let is_here = |own: &SocketAddr| {
            let any = own.ip().is_unspecified() && (ip.is_loopback() || ip.is_unspecified());
            let local = host.url.host() == "localhost" && own.ip().is_loopback();
            own.port() == host.url.port()
                && own.port() != 0
                && (any || local || own.ip().to_canonical() == ip)
        };
        if own.iter().any(is_here) {
            let path = format!("pool.hosts[{position}].url");
            root.warn_at(
                &path,
                "is this proxy's own address, so that requests would go round in circles",
            );
        }
    }
}
