//! HTTPS instead of HTTP: certificate and key come from two files, and are followed as these change.
//!
//! Each handshake takes the pair of that moment. What can't be used refuses the start; later it is told
//! once, and the pair that was good stays. A certificate that has ended, or is not valid yet, is told and used:
//! it is for clients to refuse, whose clocks may say otherwise.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, anyhow};
use gpu_bridge_certificates as certificates;
use parking_lot::RwLock;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};
use tokio_rustls::TlsAcceptor;
use tracing::{info, warn};

/// Between two looks at the files: as quick as the proxy's.
const LOOK: Duration = Duration::from_millis(500);

/// Bytes of a file; a bundle of all public authorities has a twentieth of that.
const MAX_BYTES: u64 = 4 << 20;

/// What the files are called where something is wrong with them; in the place of a path may stand the key itself.
pub(crate) const CERTIFICATE: &str = "GPU_BRIDGE_TLS_CERTIFICATE (--tls-certificate)";
/// See [`CERTIFICATE`].
pub(crate) const KEY: &str = "GPU_BRIDGE_TLS_KEY (--tls-key)";

/// Where certificate and key are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The host's own certificate, then those that vouch for it.
    pub certificate: PathBuf,
    /// Its key, without a passphrase.
    pub key: PathBuf,
}

/// What certificate and key held when they were looked at, or why they can't be read.
type Seen = Result<[Vec<u8>; 2], String>;

/// Certificate and key as they were at start.
pub struct Tls {
    files: TlsFiles,
    seen: Seen,
    pair: Arc<CertifiedKey>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// They can't be read or used, or don't fit together.
    pub fn read(files: TlsFiles) -> anyhow::Result<Self> {
        let seen = files.look();
        let pair = pair(&seen)?;
        Ok(Self { files, seen, pair })
    }

    /// Does the handshakes of a host that proves itself by these files, and follows them from now on.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn acceptor(self) -> anyhow::Result<TlsAcceptor> {
        tell_doubts(&self.pair);
        let current = Arc::new(Current(RwLock::new(self.pair)));
        let mut settings = ServerConfig::builder_with_provider(certificates::provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(current.clone());
        settings.alpn_protocols = vec![b"http/1.1".to_vec()];
        let (files, seen) = (self.files, self.seen);
        // A thread of its own, since a read may hang on a mount that does not answer.
        let follow = thread::Builder::new().name("certificates".into());
        follow
            .spawn(move || files.follow(seen, &current))
            .context("no thread to follow certificates")?;
        Ok(TlsAcceptor::from(Arc::new(settings)))
    }
}

fn tell_doubts(pair: &CertifiedKey) {
    for doubt in certificates::doubts(&pair.cert, SystemTime::now()) {
        warn!("clients may refuse this host: {doubt}");
    }
}

/// For the next handshake.
#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read()))
    }
}

impl TlsFiles {
    fn follow(&self, mut used: Seen, current: &Current) {
        let mut before = used.clone();
        loop {
            thread::sleep(LOOK);
            let now = self.look();
            // Twice the same: nobody is in the middle of writing them.
            if now == before && now != used {
                match pair(&now) {
                    Ok(pair) => {
                        *current.0.write() = Arc::clone(&pair);
                        info!("new connections get the new certificate");
                        tell_doubts(&pair);
                    }
                    Err(error) => warn!("the certificate stays as it was: {error:#}"),
                }
                used.clone_from(&now);
            }
            before = now;
        }
    }

    fn look(&self) -> Seen {
        let read = |setting, path| read(path).map_err(|error| format!("{setting}: {error}"));
        Ok([read(CERTIFICATE, &self.certificate)?, read(KEY, &self.key)?])
    }
}

/// What can be used of what was seen.
fn pair(seen: &Seen) -> anyhow::Result<Arc<CertifiedKey>> {
    let [chain, key] = seen.as_ref().map_err(|error| anyhow!(error.clone()))?;
    let chain = certificates::certificates(chain).context(CERTIFICATE)?;
    let key = certificates::private_key(key).context(KEY)?;
    certificates::fit_together(&chain, &key).context(KEY)?;
    let key = certificates::provider()
        .key_provider
        .load_private_key(key)?;
    Ok(Arc::new(CertifiedKey::new(chain, key)))
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?
        .take(MAX_BYTES)
        .read_to_end(&mut content)?;
    Ok(content)
}

/// How to ask the host on this machine, whatever its certificate says: nobody else listens here.
pub(crate) fn of_this_machine() -> anyhow::Result<Arc<ClientConfig>> {
    let provider = certificates::provider();
    let settings = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    Ok(Arc::new(settings))
}

/// Lets every certificate pass whose key the other side holds.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
