//! How one host is connected to over TLS, read from files once and put into each peer.
//!
//! pingora takes an empty server name for "verify nothing", and shares connections between peers that
//! trust different authorities. Here the name is never empty, and every host has connections of its
//! own. An address as name is verified against the addresses in the certificate.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use pingora::upstreams::peer::HttpPeer;
use pingora::utils::tls::{CertKey, WrappedX509, parse_x509};
use rustls::ClientConfig;
use rustls::pki_types::{PrivateKeyDer, ServerName};

use crate::config::{ClientTls, HostName, HostUrl};
use crate::tls_files::{self, TlsFileError};

/// Why a host can't be connected to over TLS as configured.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Settings that nothing would use.
    #[error("tls is set, but the URL does not start with https://")]
    NotHttps,
    /// Neither a name nor an address.
    #[error("'{0}' is no name that a certificate can have; set tls.server_name")]
    Name(String),
    /// A file.
    #[error(transparent)]
    File(#[from] TlsFileError),
}

/// See the module. Two are equal if they connect in the same way.
#[derive(Debug)]
pub(super) struct Tls {
    server_name: String,
    authorities: Option<Arc<[WrappedX509]>>,
    identity: Option<Arc<CertKey>>,
    insecure: bool,
    /// Of what the files held.
    fingerprint: u64,
}

impl PartialEq for Tls {
    fn eq(&self, other: &Self) -> bool {
        let all = |tls: &Self| (tls.server_name.clone(), tls.insecure, tls.fingerprint);
        all(self) == all(other)
    }
}

impl Tls {
    /// Reads the files. `None`: the host is not connected to over TLS.
    pub(super) fn load(
        host: &HostName,
        url: &HostUrl,
        config: &ClientTls,
    ) -> Result<Option<Self>, TlsError> {
        if !url.is_https() {
            let is_unused = *config == ClientTls::default();
            return if is_unused {
                Ok(None)
            } else {
                Err(TlsError::NotHttps)
            };
        }
        let server_name = config.server_name.as_deref().unwrap_or(url.host());
        if ServerName::try_from(server_name).is_err() {
            return Err(TlsError::Name(server_name.to_owned()));
        }
        if config.insecure {
            tracing::warn!(
                %host,
                "tls.insecure: whoever answers at this host's address is taken for it"
            );
        }
        // First, so that a change of the files meanwhile is seen as one.
        let fingerprint = fingerprint(config)?;
        Ok(Some(Self {
            server_name: server_name.to_owned(),
            authorities: authorities(config)?,
            identity: identity(config)?,
            insecure: config.insecure,
            fingerprint,
        }))
    }

    pub(super) fn server_name(&self) -> &str {
        &self.server_name
    }

    /// Makes `peer` one that is connected to like this.
    pub(super) fn apply(&self, peer: &mut HttpPeer) {
        peer.options.ca.clone_from(&self.authorities);
        peer.options.verify_cert = !self.insecure;
        peer.options.verify_hostname = !self.insecure;
        peer.client_cert_key.clone_from(&self.identity);
    }
}

fn fingerprint(config: &ClientTls) -> Result<u64, TlsFileError> {
    let mut hasher = DefaultHasher::new();
    let (certificate, key) = config.identity.clone().unzip();
    for path in [&config.ca, &certificate, &key] {
        let content = path.as_ref().map(|path| {
            let content = std::fs::read(path);
            content.map_err(|error| TlsFileError::of(path, &error))
        });
        content.transpose()?.hash(&mut hasher);
    }
    Ok(hasher.finish())
}

fn authorities(config: &ClientTls) -> Result<Option<Arc<[WrappedX509]>>, TlsFileError> {
    let Some(path) = &config.ca else {
        return Ok(None);
    };
    // Says which certificate can't be one of an authority; pingora would at each connection.
    tls_files::authorities(path)?;
    let certificates = tls_files::certificates(path)?.into_iter();
    let wrapped = certificates.map(|der| WrappedX509::new(der.to_vec(), parse_x509));
    Ok(Some(wrapped.collect()))
}

fn identity(config: &ClientTls) -> Result<Option<Arc<CertKey>>, TlsFileError> {
    let Some((certificate, key)) = &config.identity else {
        return Ok(None);
    };
    let chain = tls_files::certificates(certificate)?;
    let private = tls_files::private_key(key)?;
    let pair = |problem: rustls::Error| TlsFileError::of_pair(certificate, key, &problem);
    // Only to see that they fit together.
    ClientConfig::builder_with_provider(tls_files::provider())
        .with_safe_default_protocol_versions()
        .map_err(pair)?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_client_auth_cert(chain.clone(), private.clone_key())
        .map_err(pair)?;
    let key_bytes = private.secret_der().to_vec();
    // pingora finds out anew, and without mercy, what kind of key it is.
    PrivateKeyDer::try_from(key_bytes.clone()).map_err(|error| TlsFileError::of(key, &error))?;
    let chain = chain.iter().map(|der| der.to_vec()).collect();
    Ok(Some(Arc::new(CertKey::new(chain, key_bytes))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(url: &str, config: &ClientTls) -> Result<Option<Tls>, TlsError> {
        Tls::load(&"a".parse().unwrap(), &url.parse().unwrap(), config)
    }

    fn named(server_name: &str) -> ClientTls {
        ClientTls {
            server_name: Some(server_name.to_owned()),
            ..ClientTls::default()
        }
    }

    #[test]
    fn there_is_always_a_name_to_verify() {
        let default = ClientTls::default();
        let table = [
            ("https://gpu.example", &default, "gpu.example"),
            ("https://192.0.2.1:8765", &default, "192.0.2.1"),
            ("https://[2001:db8::1]", &default, "2001:db8::1"),
            ("https://192.0.2.1", &named("gpu.example"), "gpu.example"),
        ];
        for (url, config, expected) in table {
            let tls = load(url, config).unwrap().expect("TLS");
            assert_eq!(tls.server_name(), expected, "{url}");
            let mut peer = HttpPeer::new("192.0.2.1:1", true, tls.server_name.clone());
            tls.apply(&mut peer);
            assert!(peer.options.verify_cert && peer.options.verify_hostname);
        }
        for bad in ["", "a b", "a/b", "http://a"] {
            let error = load("https://gpu.example", &named(bad)).unwrap_err();
            assert!(matches!(error, TlsError::Name(_)), "{bad:?}");
        }
    }

    #[test]
    fn settings_that_nothing_would_use_are_refused() {
        assert!(load("http://a", &ClientTls::default()).unwrap().is_none());
        let error = load("http://a", &named("b")).unwrap_err();
        assert!(matches!(error, TlsError::NotHttps));
    }

    #[test]
    fn files_are_read_at_once_and_their_problems_named() {
        let folder = tempfile::tempdir().unwrap();
        let (good, bad) = (
            folder.path().join("good.pem"),
            folder.path().join("bad.pem"),
        );
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(["a".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(&good, certificate.pem() + &key.serialize_pem()).unwrap();
        let other = rcgen::KeyPair::generate().unwrap();
        std::fs::write(&bad, other.serialize_pem()).unwrap();
        let with = |ca: &std::path::Path, certificate: &std::path::Path, key: &std::path::Path| {
            let config = ClientTls {
                ca: Some(ca.to_owned()),
                identity: Some((certificate.to_owned(), key.to_owned())),
                ..ClientTls::default()
            };
            load("https://a", &config)
                .map(|_| ())
                .map_err(|error| error.to_string())
        };
        assert_eq!(with(&good, &good, &good), Ok(()));
        for result in [
            with(&bad, &good, &good),
            with(&good, &bad, &good),
            with(&good, &good, &bad),
        ] {
            assert!(
                result.as_ref().unwrap_err().contains("bad.pem"),
                "{result:?}"
            );
        }
    }
}
