//! Certificates and keys in PEM files, read and checked.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};

/// What is wrong with the files. The texts never quote them.
#[derive(Debug, thiserror::Error)]
pub enum TlsFileError {
    /// Not there, not ours to read, or not PEM.
    #[error("{}: {problem}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// A clause.
        problem: String,
    },
    /// A certificate and a key that are no pair, or one that can't be used.
    #[error("{} and {}: {problem}", certificate.display(), key.display())]
    Pair {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// Why.
        problem: String,
    },
}

impl TlsFileError {
    /// Something is wrong with this file.
    pub fn of(path: &Path, problem: &dyn ToString) -> Self {
        Self::File {
            path: path.to_owned(),
            problem: problem.to_string(),
        }
    }

    /// Something is wrong with these two, or with both together.
    pub fn of_pair(certificate: &Path, key: &Path, problem: &rustls::Error) -> Self {
        Self::Pair {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            problem: problem.to_string(),
        }
    }
}

/// The cryptography that TLS uses here, the same as pingora's.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The certificates in the file; at least one, each a sound one.
///
/// # Errors
/// If there are none.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFileError> {
    let fail = |problem: &dyn ToString| TlsFileError::of(path, problem);
    let found = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| fail(&describe(&error)))?;
    if found.is_empty() {
        return Err(fail(&"holds no certificate in PEM form"));
    }
    for certificate in &found {
        X509Certificate::from_der(certificate)
            .map_err(|_| fail(&"holds a certificate that can't be read"))?;
    }
    Ok(found)
}

/// The private key in the file.
///
/// # Errors
/// If there is none.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsFileError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| {
        let problem = match error {
            pem::Error::NoItemsFound => "holds no private key in PEM form".to_owned(),
            error => describe(&error),
        };
        TlsFileError::of(path, &problem)
    })
}

/// Those in the file as authorities to trust.
///
/// # Errors
/// If there are none.
pub fn authorities(path: &Path) -> Result<RootCertStore, TlsFileError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(path)? {
        let added = store.add(certificate);
        added.map_err(|error| TlsFileError::of(path, &error))?;
    }
    Ok(store)
}

/// When the certificate ends, in seconds since 1970; it must be a sound one.
pub fn not_after(certificate: &CertificateDer<'_>) -> i64 {
    X509Certificate::from_der(certificate)
        .map_or(0, |(_, parsed)| parsed.validity().not_after.timestamp())
}

fn describe(error: &pem::Error) -> String {
    match error {
        pem::Error::Io(error) => format!("can't be read: {error}"),
        error => format!("is not a PEM file: {error}"),
    }
}
