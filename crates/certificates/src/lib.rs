//! Certificates and keys in PEM files: read when the configuration is, used as they were read.
//!
//! What is found wrong here is all that can be known before the first handshake, so that nothing is
//! refused later that was taken before. Pure: whoever calls has read the files. Texts about them are
//! clauses that follow a file's name, and repeat nothing of what it holds.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls::{Error as TlsError, InconsistentKeys, RootCertStore, ServerConfig};
use x509_parser::prelude::{FromDer, X509Certificate, X509Version};

/// In the order that we prefer (ALPN).
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Put in front of UTF-8 by some editors; says nothing.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Why a file can't be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BadPem {
    /// Something else is in it.
    #[error("holds no certificate; it must be PEM: -----BEGIN CERTIFICATE-----")]
    NoCertificate,
    /// Something else is in it.
    #[error("holds no private key; it must be PEM: -----BEGIN PRIVATE KEY-----")]
    NoKey,
    /// As some editors and shells write it.
    #[error("is UTF-16; save it as UTF-8")]
    Utf16,
    /// Nobody is there to type it in.
    #[error("asks for a passphrase; write it without one: openssl pkey -in FILE -out NEW")]
    Locked,
    /// No end, or nonsense in between.
    #[error("is damaged: it begins as PEM, but does not go on as such")]
    Damaged,
    /// PEM around something else.
    #[error("holds a certificate that can't be read")]
    Unreadable,
    /// Before there were extensions, in which names stand.
    #[error(
        "holds a certificate of X.509 version 1 or 2, which TLS does not take; make one of version 3, \
         with the host's name as subjectAltName"
    )]
    Version,
    /// Too small, or of a curve that nobody uses.
    #[error(
        "holds a key of a kind that can't be used; take ECDSA (P-256, P-384), Ed25519, or RSA of 2048 \
         to 8192 bits"
    )]
    KeyKind,
    /// They are no pair.
    #[error("holds another key than that of the certificate")]
    OtherKey,
    /// The pair is there, but not in front.
    #[error("holds the key of a later certificate in the file; its own must be the first there")]
    Order,
    /// Whatever else TLS has against it.
    #[error("can't be used: {0}")]
    Unusable(TlsError),
}

/// A certificate, those that vouch for it, and its key: how a server or a client proves itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Where it was read from.
    pub certificate: PathBuf,
    /// Where its key was read from.
    pub key: PathBuf,
    /// At least one; the first is its own.
    pub chain: Vec<CertificateDer<'static>>,
    /// Never printed by `Debug`.
    pub private: Arc<PrivateKeyDer<'static>>,
}

/// Whom to trust.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorities {
    /// Where they were read from.
    pub path: PathBuf,
    /// At least one, each fit to vouch for others.
    pub certificates: Vec<CertificateDer<'static>>,
}

/// The cryptography that TLS uses here, the same as pingora's.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The certificates in `pem`; at least one, each a sound one.
///
/// # Errors
/// If there are none.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, BadPem> {
    let pem = &without_marks(pem)?;
    let found = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|_| BadPem::Damaged)?;
    if found.is_empty() {
        return Err(BadPem::NoCertificate);
    }
    if !found.iter().all(|der| parsed(der).is_some()) {
        return Err(BadPem::Unreadable);
    }
    Ok(found)
}

/// The private key in `pem`.
///
/// # Errors
/// If there is none, or one that can't be used.
pub fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, BadPem> {
    let pem = &without_marks(pem)?;
    let holds = |text: &[u8]| memchr::memmem::find(pem, text).is_some();
    if holds(b"ENCRYPTED") {
        return Err(BadPem::Locked);
    }
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
        PemError::NoItemsFound => BadPem::NoKey,
        _ => BadPem::Damaged,
    })?;
    let usable = provider().key_provider.load_private_key(key.clone_key());
    // pingora finds out anew, and without mercy, what kind of key it is.
    let recognised = PrivateKeyDer::try_from(key.secret_der().to_vec());
    match (usable, recognised) {
        (Ok(_), Ok(_)) => Ok(key),
        _ => Err(BadPem::KeyKind),
    }
}

/// Without the marks that some editors put in front, which stand in the middle once such files are put
/// together: what begins right after one would be passed over.
fn without_marks(pem: &[u8]) -> Result<Vec<u8>, BadPem> {
    if pem.starts_with(b"\xff\xfe") || pem.starts_with(b"\xfe\xff") {
        return Err(BadPem::Utf16);
    }
    let mut clean = Vec::with_capacity(pem.len());
    let mut from = 0;
    for at in memchr::memmem::find_iter(pem, BYTE_ORDER_MARK) {
        clean.extend_from_slice(&pem[from..at]);
        from = at + BYTE_ORDER_MARK.len();
    }
    clean.extend_from_slice(&pem[from..]);
    Ok(clean)
}

/// Certificates that can be trusted as authorities.
///
/// # Errors
/// If one of them can't.
pub fn authorities(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, BadPem> {
    let certificates = certificates(pem)?;
    roots(&certificates)?;
    Ok(certificates)
}

/// Does the key belong to the first certificate?
///
/// # Errors
/// What is wrong with the key or, in the case of [`BadPem::Version`], with the certificate.
pub fn fit_together(
    chain: &[CertificateDer<'static>],
    key: &PrivateKeyDer<'static>,
) -> Result<(), BadPem> {
    let is_version_3 = |der| parsed(der).is_some_and(|found| found.version == X509Version::V3);
    if !chain.first().is_some_and(is_version_3) {
        return Err(BadPem::Version);
    }
    let signing = provider().key_provider.load_private_key(key.clone_key());
    let signing = signing.map_err(|_| BadPem::KeyKind)?;
    let fits = |der: &CertificateDer<'static>| {
        CertifiedKey::new(vec![der.clone()], Arc::clone(&signing)).keys_match()
    };
    let (own, others) = chain.split_first().ok_or(BadPem::NoCertificate)?;
    match fits(own) {
        Ok(()) | Err(TlsError::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(()),
        Err(TlsError::InconsistentKeys(_)) if others.iter().any(|der| fits(der).is_ok()) => {
            Err(BadPem::Order)
        }
        Err(TlsError::InconsistentKeys(_)) => Err(BadPem::OtherKey),
        Err(error) => Err(BadPem::Unusable(error)),
    }
}

/// How a server talks TLS that proves itself by `identity` and asks for certificates of `client_ca`, if
/// given.
///
/// # Errors
/// If it can't.
pub fn server(
    identity: &Identity,
    client_ca: Option<&Authorities>,
) -> Result<ServerConfig, BadPem> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(BadPem::Unusable)?;
    let builder = match client_ca {
        Some(trusted) => {
            let roots = Arc::new(roots(&trusted.certificates)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
            let verifier = verifier
                .build()
                .map_err(|error| BadPem::Unusable(TlsError::General(error.to_string())))?;
            builder.with_client_cert_verifier(verifier)
        }
        None => builder.with_no_client_auth(),
    };
    let mut settings = builder
        .with_single_cert(identity.chain.clone(), identity.private.clone_key())
        .map_err(BadPem::Unusable)?;
    settings.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
    Ok(settings)
}

impl Identity {
    /// When the certificate ends, in seconds since 1970.
    pub fn not_after(&self) -> i64 {
        let own = self.chain.first().and_then(parsed);
        own.map_or(0, |own| own.validity.not_after.timestamp())
    }
}

/// What will keep others from accepting one of these certificates, or some of them, at `now`: clauses.
pub fn doubts(chain: &[CertificateDer<'_>], now: SystemTime) -> Vec<String> {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    let parsed: Vec<_> = chain.iter().filter_map(parsed).collect();
    let dates = parsed.iter().filter_map(|found| {
        let (start, end) = (found.validity.not_before, found.validity.not_after);
        let subject = found.subject();
        if end.timestamp() < now {
            Some(format!("the certificate of '{subject}' ended on {end}"))
        } else if start.timestamp() > now {
            Some(format!(
                "the certificate of '{subject}' is not valid before {start}"
            ))
        } else {
            None
        }
    });
    dates.collect()
}

/// Does each of them vouch for the one before it?
pub fn is_in_order(chain: &[CertificateDer<'_>]) -> bool {
    let parsed: Vec<_> = chain.iter().filter_map(parsed).collect();
    let vouches = |pair: &[X509Certificate<'_>]| match pair {
        [one, next] => one.issuer().as_raw() == next.subject().as_raw(),
        _ => true,
    };
    parsed.windows(2).all(vouches)
}

fn roots(certificates: &[CertificateDer<'static>]) -> Result<RootCertStore, BadPem> {
    let mut store = RootCertStore::empty();
    for certificate in certificates {
        store.add(certificate.clone()).map_err(BadPem::Unusable)?;
    }
    Ok(store)
}

fn parsed<'a>(der: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    let (_, parsed) = X509Certificate::from_der(der).ok()?;
    Some(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_of_editors_are_passed_over_or_told() {
        let marked = b"\xef\xbb\xbf1\xef2\xef\xbb\xbf3\xef\xbb";
        assert_eq!(without_marks(marked).unwrap(), b"1\xef23\xef\xbb");
        for mark in [b"\xff\xfe-\0", b"\xfe\xff\0-"] {
            assert_eq!(certificates(mark), Err(BadPem::Utf16));
            assert_eq!(private_key(mark), Err(BadPem::Utf16));
        }
    }
}
