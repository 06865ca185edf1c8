//! One host as something to connect to: its address, our key for it, and what it last told.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use gpu_bridge_wire::{API_KEY_HEADER, Info, Status};
use http::{HeaderValue, header};
use pingora::http::RequestHeader;
use pingora::upstreams::peer::HttpPeer;

use crate::config::{self, HostName, HostUrl};
use crate::message::HostReport;

/// See the module.
#[derive(Debug)]
pub struct Target {
    name: HostName,
    url: HostUrl,
    /// Marked sensitive, so that `Debug` does not print it.
    api_key: Option<HeaderValue>,
    address: ArcSwapOption<SocketAddr>,
    info: ArcSwapOption<(Instant, Info)>,
    status: ArcSwapOption<Status>,
}

impl Target {
    /// A host as configured; nothing is looked up or connected yet.
    pub fn new(host: &config::Host) -> Self {
        let api_key = host.api_key.as_ref().and_then(|secret| {
            // The configuration admits only keys that are header values.
            let mut value = HeaderValue::from_str(secret.expose()).ok()?;
            value.set_sensitive(true);
            Some(value)
        });
        let literal = host.url.host().parse::<IpAddr>().ok();
        let address = literal.map(|ip| SocketAddr::new(ip, host.url.port()).into());
        Self {
            name: host.name.clone(),
            url: host.url.clone(),
            api_key,
            address: ArcSwapOption::new(address),
            info: ArcSwapOption::empty(),
            status: ArcSwapOption::empty(),
        }
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &HostName {
        &self.name
    }

    /// Where to connect; `None` if its name has never been resolved.
    pub(super) fn peer(&self, connect: Duration) -> Option<HttpPeer> {
        let address = self.address.load();
        let mut peer = HttpPeer::new(**address.as_ref()?, false, String::new());
        peer.options.connection_timeout = Some(connect);
        peer.options.total_connection_timeout = Some(connect);
        Some(peer)
    }

    /// Looks the host's name up again, keeping the last good address if that fails.
    ///
    /// # Errors
    /// A sentence for the log.
    pub(super) async fn resolve(&self) -> Result<(), String> {
        if self.url.host().parse::<IpAddr>().is_ok() {
            return Ok(());
        }
        let found = tokio::net::lookup_host((self.url.host(), self.url.port())).await;
        let first = found
            .map_err(|error| format!("its name can't be resolved: {error}"))?
            .next()
            .ok_or("its name has no address")?;
        if self.address.load().as_deref() != Some(&first) {
            self.address.store(Some(first.into()));
        }
        Ok(())
    }

    /// Puts in what every request to this host carries.
    pub(super) fn sign(&self, request: &mut RequestHeader) -> pingora::Result<()> {
        request.insert_header(header::HOST, self.url.authority())?;
        if let Some(key) = &self.api_key {
            request.insert_header(API_KEY_HEADER, key)?;
        }
        Ok(())
    }

    pub(super) fn store_info(&self, info: Info, now: Instant) {
        self.info.store(Some((now, info).into()));
    }

    pub(super) fn store_status(&self, status: Status) {
        self.status.store(Some(status.into()));
    }

    /// Is its last `/info` older than `age`, or missing?
    pub(super) fn info_is_older_than(&self, age: Duration, now: Instant) -> bool {
        self.info
            .load()
            .as_ref()
            .is_none_or(|info| now.duration_since(info.0) >= age)
    }

    pub(super) fn report(&self) -> HostReport {
        HostReport {
            name: self.name.clone(),
            info: self.info.load().as_ref().map(|info| info.1.clone()),
            status: self
                .status
                .load()
                .as_ref()
                .map(|status| Status::clone(status)),
        }
    }
}
