//! The system's authorities, which vouch for certificates where no others are named: those that it has, or what the
//! environment variables `SSL_CERT_FILE` and `SSL_CERT_DIR` name in their place.

use pingora::connectors::{ConnectorOptions, TransportConnector};
use pingora::tls::load_native_certs;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;

/// A file with no certificate.
const NONE: &str = "/dev/null";
/// As of pingora's usual connector.
const KEPT: usize = 128;

/// All of them.
///
/// # Errors
/// Why there are none, though there should be some: a sentence.
pub(crate) fn load() -> Result<Vec<CertificateDer<'static>>, String> {
    let loaded = load_native_certs();
    loaded.map_err(|error| said(&format!("{error} (SSL_CERT_FILE, SSL_CERT_DIR)")))
}

/// Why hosts can't be verified by them, if they can't: a sentence.
pub(crate) fn trouble() -> Option<String> {
    let mut store = RootCertStore::empty();
    let added = load().map(|found| found.into_iter().try_for_each(|it| store.add(it)));
    match added {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(said(&error.to_string())),
        Err(why) => Some(why),
    }
}

fn said(why: &str) -> String {
    format!("the system's authorities can't be used: {why}")
}

/// What connects to hosts, and trusts the system's authorities, or none if they can't be used: pingora, asked to use
/// them, would panic.
pub(crate) fn connector() -> TransportConnector {
    let options = trouble().map(|why| {
        tracing::warn!("{why}; over TLS only hosts with tls.ca are trusted");
        let mut options = ConnectorOptions::new(KEPT);
        options.ca_file = Some(NONE.to_owned());
        options
    });
    TransportConnector::new(options)
}
