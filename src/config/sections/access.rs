//! Who reaches the proxy, and where: `listen`, `admin`, `auth`, `headers`.

use std::net::{Ipv4Addr, SocketAddr};

use super::{refuse_repeated, values};
use crate::config::pem::Pem;
use crate::config::reader::Section;
use crate::config::{
    Admin, Auth, ClientKey, Config, Headers, HostName, Listen, Network, ServerTls,
};

const DEFAULT_LISTEN: (Ipv4Addr, u16) = (Ipv4Addr::UNSPECIFIED, gpu_bridge_wire::DEFAULT_PORT);
const DEFAULT_ADMIN: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 9765);

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
    let addresses = values(&listed, |listen| listen.address);
    let fixed = addresses.filter(|(_, address)| address.port() != 0);
    refuse_repeated(root, "listen", "address", fixed);
    listed.into_iter().collect()
}

fn server_tls(section: &Section<'_>) -> Option<ServerTls> {
    let certificate = section.required_pem("certificate", Pem::Certificates);
    let key = section.required_pem("key", Pem::PrivateKey);
    let client_ca = section.pem("client_ca", Pem::Certificates);
    Some(ServerTls {
        certificate: certificate?,
        key: key?,
        client_ca,
    })
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
    match text.parse() {
        Ok(address) => Some(address),
        Err(_) => section.problem("address", "must be IP:PORT, e.g. 0.0.0.0:8765 or [::]:8765"),
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
        name: name?.to_string(),
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

/// Clients and operators must have different doors and different keys.
pub(super) fn refuse_confusion(root: &Section<'_>, config: &Config) {
    let admin = &config.admin;
    let same_door = |listen: &Listen| listen.address == admin.address && admin.address.port() != 0;
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
