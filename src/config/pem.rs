//! Do the files for TLS hold what they must? Found out when the configuration is read, so that a
//! wrong path is told with its line, not by the first connection. Nothing of a file is ever repeated.

use std::path::{Path, PathBuf};

use rustls::pki_types::pem::{Error, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// What a file must hold.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pem {
    /// One certificate or more.
    Certificates,
    /// A private key without a passphrase.
    PrivateKey,
}

/// Why a file is of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadPem {
    #[error("{file} can't be read: {error}", file = .0.display(), error = .1)]
    Unreadable(PathBuf, std::io::Error),
    #[error("{file} holds no certificate; it must be PEM: -----BEGIN CERTIFICATE-----", file = .0.display())]
    NoCertificate(PathBuf),
    #[error("{file} holds no private key; it must be PEM without a passphrase: -----BEGIN PRIVATE KEY-----", file = .0.display())]
    NoKey(PathBuf),
    #[error("{file} is damaged: it begins as PEM, but does not go on as such", file = .0.display())]
    Damaged(PathBuf),
}

impl Pem {
    /// Reads the whole file.
    pub(super) fn check(self, path: &Path) -> Result<(), BadPem> {
        let file = || path.to_owned();
        let text = std::fs::read(path).map_err(|error| BadPem::Unreadable(file(), error))?;
        let found = match self {
            Self::Certificates => certificates(&text),
            Self::PrivateKey => PrivateKeyDer::from_pem_slice(&text).map(drop),
        };
        found.map_err(|error| match (error, self) {
            (Error::NoItemsFound, Self::Certificates) => BadPem::NoCertificate(file()),
            (Error::NoItemsFound, Self::PrivateKey) => BadPem::NoKey(file()),
            _ => BadPem::Damaged(file()),
        })
    }
}

fn certificates(text: &[u8]) -> Result<(), Error> {
    let mut found = Err(Error::NoItemsFound);
    for certificate in CertificateDer::pem_slice_iter(text) {
        found = certificate.map(drop);
        if found.is_err() {
            break;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    const KEY: &str = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";

    fn check(content: Pem, text: &str) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let told = content.check(file.path());
        let name = format!("{} ", file.path().display());
        told.map_or_else(
            |error| error.to_string().replace(&name, ""),
            |()| "good".to_owned(),
        )
    }

    #[test]
    fn each_kind_is_told_from_the_others() {
        let no_certificate = "holds no certificate; it must be PEM: -----BEGIN CERTIFICATE-----";
        let no_key = "holds no private key; it must be PEM without a passphrase: -----BEGIN PRIVATE KEY-----";
        let damaged = "is damaged: it begins as PEM, but does not go on as such";
        let both = format!("{KEY}{CERTIFICATE}");
        let half = format!("{CERTIFICATE}-----BEGIN CERTIFICATE-----\nhunter2");
        let table = [
            (Pem::Certificates, CERTIFICATE, "good"),
            (Pem::Certificates, &both, "good"),
            (Pem::Certificates, KEY, no_certificate),
            (Pem::Certificates, "", no_certificate),
            (Pem::Certificates, &half, damaged),
            (Pem::PrivateKey, KEY, "good"),
            (Pem::PrivateKey, &both, "good"),
            (Pem::PrivateKey, CERTIFICATE, no_key),
            (
                Pem::PrivateKey,
                &KEY.replace("PRIVATE", "ENCRYPTED PRIVATE"),
                no_key,
            ),
            (Pem::PrivateKey, &KEY.replace("AAAA", "hunter2!"), damaged),
        ];
        for (content, text, expected) in table {
            assert_eq!(check(content, text), expected, "{content:?}: {text}");
        }
    }

    #[test]
    fn a_file_that_is_missing_is_named() {
        let error = Pem::PrivateKey.check(Path::new("/nonexistent/k.pem"));
        let told = error.unwrap_err().to_string();
        assert!(
            told.starts_with("/nonexistent/k.pem can't be read: "),
            "{told}"
        );
    }
}
