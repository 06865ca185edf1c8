//! The certificate of a listener, and its replacement while connections are open: each handshake takes
//! the settings of that moment.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;

use crate::config::ServerTls;

/// See the module.
pub struct Certificates(ArcSwap<ServerTls>);

impl Certificates {
    /// Uses these first.
    pub fn new(tls: ServerTls) -> Self {
        Self(ArcSwap::from_pointee(tls))
    }

    /// Uses these for all connections from now on.
    pub fn set(&self, tls: ServerTls) {
        self.0.store(Arc::new(tls));
    }

    /// When the certificate ends, in seconds since 1970.
    pub fn not_after(&self) -> i64 {
        self.0.load().identity.not_after()
    }

    /// For the next handshake.
    pub(super) fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0.load().settings)
    }
}
