//! The certificate of a listener, and its replacement while connections are open.
//!
//! Each handshake takes the settings of that moment. New files are used once they are whole and fit
//! together; until then, and if they never do, the old ones stay in use.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;

use crate::config::ServerTls;
use crate::tls_files::{self, TlsFileError};

/// How often the files are looked at.
const POLL: Duration = Duration::from_secs(2);
/// In the order that we prefer (ALPN).
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// See the module.
pub struct Certificates {
    files: ServerTls,
    /// Of the files at the start.
    fingerprint: Option<u64>,
    current: ArcSwap<Loaded>,
}

/// What the files held when they were last read with success.
struct Loaded {
    settings: Arc<ServerConfig>,
    not_after: i64,
}

impl Certificates {
    /// Reads the files.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn load(files: ServerTls) -> Result<Self, TlsFileError> {
        // First, so that no change is missed.
        let fingerprint = fingerprint(&files);
        let loaded = load(&files)?;
        Ok(Self {
            files,
            fingerprint,
            current: ArcSwap::from_pointee(loaded),
        })
    }

    /// Reads the files again, and uses what they hold for all connections from now on.
    ///
    /// # Errors
    /// What is wrong with them; what was in use stays in use.
    pub fn reload(&self) -> Result<(), TlsFileError> {
        let loaded = load(&self.files)?;
        self.current.store(Arc::new(loaded));
        Ok(())
    }

    /// When the certificate ends, in seconds since 1970.
    pub fn not_after(&self) -> i64 {
        self.current.load().not_after
    }

    /// Where the certificate is.
    pub fn path(&self) -> &Path {
        &self.files.certificate
    }

    /// Reloads for ever, whenever the files have changed.
    pub async fn keep_fresh(&self) {
        let mut seen = self.fingerprint;
        loop {
            tokio::time::sleep(POLL).await;
            let found = self.look().await;
            if found == seen {
                continue;
            }
            seen = found;
            let path = self.path().display();
            match self.reload() {
                Ok(()) => tracing::info!(certificate = %path, "a new certificate is in use"),
                Err(error) => tracing::warn!(
                    certificate = %path,
                    %error,
                    "the new certificate is not used; the old one stays in use"
                ),
            }
        }
    }

    async fn look(&self) -> Option<u64> {
        let files = self.files.clone();
        let look = tokio::task::spawn_blocking(move || fingerprint(&files));
        look.await.ok().flatten()
    }

    /// For the next handshake.
    pub(super) fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.load().settings)
    }
}

/// Tells whether the files have changed, which their times can't always. `None`: one can't be read.
fn fingerprint(files: &ServerTls) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    let paths = [
        Some(&files.certificate),
        Some(&files.key),
        files.client_ca.as_ref(),
    ];
    for path in paths.into_iter().flatten() {
        std::fs::read(path).ok()?.hash(&mut hasher);
    }
    Some(hasher.finish())
}

fn load(files: &ServerTls) -> Result<Loaded, TlsFileError> {
    let chain = tls_files::certificates(&files.certificate)?;
    let key = tls_files::private_key(&files.key)?;
    let not_after = chain.first().map_or(0, tls_files::not_after);
    let pair =
        |problem: rustls::Error| TlsFileError::of_pair(&files.certificate, &files.key, &problem);
    let builder = ServerConfig::builder_with_provider(tls_files::provider())
        .with_safe_default_protocol_versions()
        .map_err(pair)?;
    let builder = match &files.client_ca {
        Some(path) => builder.with_client_cert_verifier(verifier(path)?),
        None => builder.with_no_client_auth(),
    };
    let mut settings = builder.with_single_cert(chain, key).map_err(pair)?;
    settings.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
    warn_if_ended(&files.certificate, not_after);
    Ok(Loaded {
        settings: Arc::new(settings),
        not_after,
    })
}

fn verifier(path: &Path) -> Result<Arc<dyn ClientCertVerifier>, TlsFileError> {
    let roots = Arc::new(tls_files::authorities(path)?);
    WebPkiClientVerifier::builder_with_provider(roots, tls_files::provider())
        .build()
        .map_err(|error| TlsFileError::of(path, &error))
}

fn warn_if_ended(path: &Path, not_after: i64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |time| time.as_secs());
    if u64::try_from(not_after).unwrap_or(0) < now {
        let certificate = path.display();
        tracing::warn!(%certificate, "the certificate has ended; clients will refuse it");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn files(&self) -> ServerTls {
            ServerTls {
                certificate: self.0.path().join("certificate.pem"),
                key: self.0.path().join("key.pem"),
                client_ca: None,
            }
        }

        /// Writes a certificate that ends in `year`, and its key.
        fn write(&self, year: i32) {
            let key = rcgen::KeyPair::generate().unwrap();
            let mut params = rcgen::CertificateParams::new(["a.example".to_owned()]).unwrap();
            params.not_after = rcgen::date_time_ymd(year, 1, 1);
            let certificate = params.self_signed(&key).unwrap();
            std::fs::write(self.files().certificate, certificate.pem()).unwrap();
            std::fs::write(self.files().key, key.serialize_pem()).unwrap();
        }
    }

    const YEAR_2100: i64 = 4_102_444_800;
    const YEAR_2101: i64 = 4_133_980_800;

    #[test]
    fn a_new_pair_replaces_the_old() {
        let folder = Folder::new();
        folder.write(2100);
        let certificates = Certificates::load(folder.files()).unwrap();
        assert_eq!(certificates.not_after(), YEAR_2100);
        let before = certificates.current();

        folder.write(2101);
        certificates.reload().unwrap();

        assert_eq!(certificates.not_after(), YEAR_2101);
        assert!(!Arc::ptr_eq(&before, &certificates.current()));
    }

    #[test]
    fn a_bad_pair_is_refused_with_its_reason_and_the_old_stays() {
        let folder = Folder::new();
        folder.write(2100);
        let files = folder.files();
        let certificates = Certificates::load(files.clone()).unwrap();
        let before = certificates.current();
        let other = Folder::new();
        other.write(2101);
        let certificate = std::fs::read(&files.certificate).unwrap();

        std::fs::copy(other.files().certificate, &files.certificate).unwrap();
        let error = certificates.reload().unwrap_err().to_string();
        assert!(error.contains("key.pem"), "{error}");
        for nonsense in [&b""[..], b"nonsense", &certificate[..certificate.len() / 2]] {
            std::fs::write(&files.certificate, nonsense).unwrap();
            let error = certificates.reload().unwrap_err().to_string();
            assert!(error.contains("certificate.pem"), "{error}");
        }
        std::fs::remove_file(&files.certificate).unwrap();
        let error = certificates.reload().unwrap_err().to_string();
        assert!(error.contains("can't be read"), "{error}");

        assert_eq!(certificates.not_after(), YEAR_2100);
        assert!(Arc::ptr_eq(&before, &certificates.current()));
    }
}
