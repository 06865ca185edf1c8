//! How one host is connected to over TLS, read from files once and put into each peer.
//!
//! pingora takes an empty server name for "verify nothing", and shares connections between peers that
//! trust different authorities. Here the name is never empty, and every host has connections of its
//! own. An address as name is verified against the addresses in the certificate.

use std::sync::Arc;

use pingora::upstreams::peer::HttpPeer;
use pingora::utils::tls::{CertKey, WrappedX509, parse_x509};

use crate::config::{ClientTls, HostUrl};
use gpu_bridge_certificates::{Authorities, Identity};

/// See the module. Two are equal if they connect in the same way.
#[derive(Debug)]
pub(super) struct Tls {
    server_name: String,
    authorities: Option<Arc<[WrappedX509]>>,
    identity: Option<Arc<CertKey>>,
    /// What it was made of.
    config: ClientTls,
}

impl PartialEq for Tls {
    fn eq(&self, other: &Self) -> bool {
        (&self.server_name, &self.config) == (&other.server_name, &other.config)
    }
}

impl Tls {
    /// `None`: the host is not connected to over TLS.
    pub(super) fn new(url: &HostUrl, config: &ClientTls) -> Option<Self> {
        let server_name = config.server_name.as_deref().unwrap_or(url.host());
        url.is_https().then(|| Self {
            server_name: server_name.to_owned(),
            authorities: config.ca.as_ref().map(authorities),
            identity: config.identity.as_ref().map(identity),
            config: config.clone(),
        })
    }

    pub(super) fn server_name(&self) -> &str {
        &self.server_name
    }

    /// Makes `peer` one that is connected to like this.
    pub(super) fn apply(&self, peer: &mut HttpPeer) {
        peer.options.ca.clone_from(&self.authorities);
        peer.options.verify_cert = !self.config.insecure;
        peer.options.verify_hostname = !self.config.insecure;
        peer.client_cert_key.clone_from(&self.identity);
    }
}

fn authorities(trusted: &Authorities) -> Arc<[WrappedX509]> {
    let certificates = trusted.certificates.iter();
    let wrapped = certificates.map(|der| WrappedX509::new(der.to_vec(), parse_x509));
    wrapped.collect()
}

fn identity(ours: &Identity) -> Arc<CertKey> {
    let chain = ours.chain.iter().map(|der| der.to_vec()).collect();
    Arc::new(CertKey::new(chain, ours.private.secret_der().to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tls(url: &str, config: &ClientTls) -> Option<Tls> {
        Tls::new(&url.parse().unwrap(), config)
    }

    #[test]
    fn there_is_always_a_name_to_verify() {
        let default = ClientTls::default();
        let named = ClientTls {
            server_name: Some("gpu.example".to_owned()),
            ..ClientTls::default()
        };
        let table = [
            ("https://gpu.example", &default, "gpu.example"),
            ("https://192.0.2.1:8765", &default, "192.0.2.1"),
            ("https://[2001:db8::1]", &default, "2001:db8::1"),
            ("https://192.0.2.1", &named, "gpu.example"),
        ];
        for (url, config, expected) in table {
            let tls = tls(url, config).expect("TLS");
            assert_eq!(tls.server_name(), expected, "{url}");
            let mut peer = HttpPeer::new("192.0.2.1:1", true, tls.server_name.clone());
            tls.apply(&mut peer);
            assert!(peer.options.verify_cert && peer.options.verify_hostname);
        }
        assert!(tls("http://a", &default).is_none());
    }
}
