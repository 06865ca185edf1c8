//! Certificates: an authority of the test's own, and what it vouches for.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tempfile::NamedTempFile;

static AUTHORITIES: AtomicU32 = AtomicU32::new(1);

/// Whoever trusts it trusts all that it issued.
pub(crate) struct Authority {
    certificate: Certificate,
    key: KeyPair,
    file: NamedTempFile,
}

/// A certificate and its key, in files.
pub(crate) struct Identity {
    certificate: NamedTempFile,
    key: NamedTempFile,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        // Authorities are looked up by name.
        let name = format!("authority {}", AUTHORITIES.fetch_add(1, Ordering::Relaxed));
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        let file = file(&certificate.pem());
        Self {
            certificate,
            key,
            file,
        }
    }

    /// A certificate for these names and addresses.
    pub(crate) fn issue(&self, names: &[&str]) -> Identity {
        self.issue_until(names, 2100)
    }

    /// One that ends with the start of `year`.
    pub(crate) fn issue_until(&self, names: &[&str], year: i32) -> Identity {
        self.issue_between(names, 1975, year)
    }

    /// One that is valid from the start of one year to that of another.
    pub(crate) fn issue_between(&self, names: &[&str], first: i32, end: i32) -> Identity {
        let key = KeyPair::generate().unwrap();
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = rcgen::date_time_ymd(first, 1, 1);
        params.not_after = rcgen::date_time_ymd(end, 1, 1);
        let certificate = params
            .signed_by(&key, &self.certificate, &self.key)
            .unwrap();
        Identity {
            certificate: file(&certificate.pem()),
            key: file(&key.serialize_pem()),
        }
    }

    /// Its own certificate, in a file.
    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone()).unwrap();
        Arc::new(roots)
    }

    /// What a client that trusts it does.
    pub(crate) fn client(&self, identity: Option<&Identity>, protocols: &[&str]) -> ClientConfig {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots());
        let mut config = match identity {
            Some(identity) => builder
                .with_client_auth_cert(identity.chain(), identity.private_key())
                .unwrap(),
            None => builder.with_no_client_auth(),
        };
        let protocols = protocols.iter().map(|name| name.as_bytes().to_vec());
        config.alpn_protocols = protocols.collect();
        config
    }
}

impl Identity {
    pub(crate) fn certificate(&self) -> &Path {
        self.certificate.path()
    }

    pub(crate) fn key(&self) -> &Path {
        self.key.path()
    }

    /// Takes the place of the files of `other`, the key last.
    pub(crate) fn replace(&self, other: &Self) {
        std::fs::copy(self.certificate(), other.certificate()).unwrap();
        std::fs::copy(self.key(), other.key()).unwrap();
    }

    /// What a server with it does; asks clients for certificates of `clients`, if given.
    pub(crate) fn server(&self, clients: Option<&Authority>) -> ServerConfig {
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = match clients {
            Some(authority) => {
                let roots = authority.roots();
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
            None => builder.with_no_client_auth(),
        };
        builder
            .with_single_cert(self.chain(), self.private_key())
            .unwrap()
    }

    fn chain(&self) -> Vec<CertificateDer<'static>> {
        let certificates = CertificateDer::pem_file_iter(self.certificate()).unwrap();
        certificates.collect::<Result<_, _>>().unwrap()
    }

    fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_file(self.key()).unwrap()
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}
