//! One host as something to connect to: its address, our key for it, and what it last told.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
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
    /// All that its name stands for; empty until it has been resolved.
    addresses: ArcSwap<Vec<SocketAddr>>,
    /// Which of them is used, counted on for ever.
    current: AtomicUsize,
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
        let addresses = literal.map(|ip| SocketAddr::new(ip, host.url.port()));
        Self {
            name: host.name.clone(),
            url: host.url.clone(),
            api_key,
            addresses: ArcSwap::from_pointee(addresses.into_iter().collect()),
            current: AtomicUsize::new(0),
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
        let addresses = self.addresses.load();
        let position = self
            .current
            .load(Ordering::Relaxed)
            .checked_rem(addresses.len())?;
        let mut peer = HttpPeer::new(addresses.get(position)?, false, String::new());
        peer.options.connection_timeout = Some(connect);
        peer.options.total_connection_timeout = Some(connect);
        Some(peer)
    }

    /// How many addresses its name stands for.
    pub(super) fn address_count(&self) -> usize {
        self.addresses.load().len()
    }

    /// Uses the next of its addresses from now on. `localhost` may stand for `::1` and `127.0.0.1`,
    /// and the host listen on one of them only.
    pub(super) fn try_next_address(&self) {
        self.current.fetch_add(1, Ordering::Relaxed);
    }

    /// Looks the host's name up again, keeping the last good addresses if that fails.
    ///
    /// # Errors
    /// A sentence for the log, if there are no addresses at all.
    pub(super) async fn resolve(&self) -> Result<(), String> {
        if self.url.host().parse::<IpAddr>().is_ok() {
            return Ok(());
        }
        let found = tokio::net::lookup_host((self.url.host(), self.url.port())).await;
        let found = found.map(Vec::from_iter);
        match found {
            Ok(addresses) if !addresses.is_empty() => {
                if **self.addresses.load() != addresses {
                    self.addresses.store(addresses.into());
                }
                Ok(())
            }
            _ if self.address_count() > 0 => Ok(()),
            Ok(_) => Err("its name has no address".to_owned()),
            Err(error) => Err(format!("its name can't be resolved: {error}")),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str) -> Target {
        Target::new(&config::Host {
            name: "a".parse().unwrap(),
            url: url.parse().unwrap(),
            api_key: None,
            max_concurrent: None,
        })
    }

    fn address(target: &Target) -> Option<String> {
        target
            .peer(Duration::from_secs(1))
            .map(|peer| pingora::upstreams::peer::Peer::address(&peer).to_string())
    }

    #[tokio::test]
    async fn an_address_needs_no_look_up() {
        let target = target("http://[::1]:9");
        assert_eq!(address(&target).as_deref(), Some("[::1]:9"));
        assert_eq!(target.resolve().await, Ok(()));
        target.try_next_address();
        assert_eq!(
            address(&target).as_deref(),
            Some("[::1]:9"),
            "there is only one"
        );
    }

    #[tokio::test]
    async fn a_name_is_looked_up_and_its_addresses_are_tried_in_turn() {
        let target = target("http://localhost:9");
        assert_eq!(address(&target), None);
        target.resolve().await.unwrap();
        let count = target.address_count();
        assert!(count >= 1);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..count {
            seen.insert(address(&target).unwrap());
            target.try_next_address();
        }
        assert_eq!(seen.len(), count);
    }

    #[tokio::test]
    async fn a_name_that_does_not_exist_is_told() {
        let error = target("http://does-not-exist.invalid")
            .resolve()
            .await
            .unwrap_err();
        assert!(error.starts_with("its name can't be resolved"), "{error}");
    }
}
