//! One host as something to connect to: its address, and our key for it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::BytesMut;
use gpu_bridge_wire::{API_KEY_HEADER, Info};
use http::{HeaderName, HeaderValue, Method, header};
use memchr::memmem::Finder;
use pingora::upstreams::peer::HttpPeer;
use tokio::sync::watch;

use super::Member;
use super::kept;
use super::key::Known;
use super::request::Request;
use super::trouble::Trouble;
use crate::config::{Api, HostName, HostUrl, OpenAi};
use crate::message::Answer;

const KEY: HeaderName = HeaderName::from_static(API_KEY_HEADER);
/// A shorter key may be a part of an answer by chance.
const TELLING_KEY: usize = 12;
/// How far into a body our key is looked for: what comes before it is a head of ours.
const ECHO: usize = 64 << 10;

/// What is known of where a host is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whereabouts {
    /// Its name has not been looked up yet.
    Unasked,
    /// It has addresses.
    Known,
    /// Its name has been looked up in vain.
    Unknown(Trouble),
}

/// See the module.
#[derive(Debug)]
pub struct Target {
    member: Member,
    /// Nothing needs to be looked up.
    is_fixed: bool,
    /// Tells its connections from those of every other target, whatever their settings have in
    /// common.
    group: u64,
    /// Marked sensitive, so that `Debug` does not print it.
    api_key: Option<HeaderValue>,
    /// All that its name stands for; empty until it has been resolved.
    addresses: ArcSwap<Vec<SocketAddr>>,
    /// The one of them that is used.
    current: ArcSwapOption<SocketAddr>,
    whereabouts: watch::Sender<Whereabouts>,
    /// It was not found there when it was checked last.
    is_astray: AtomicBool,
    /// How many tasks check it.
    checks: AtomicU32,
    key: Known,
    /// What a host that speaks OpenAI's API has told of its models, if it has a list of them.
    listed: ArcSwapOption<Info>,
}

/// A host is checked.
#[must_use = "it is checked until this is dropped"]
pub(super) struct Checks<'t>(&'t Target);

impl Drop for Checks<'_> {
    fn drop(&mut self) {
        self.0.checks.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Target {
    /// Nothing is looked up or connected yet.
    pub fn new(member: Member) -> Self {
        static GROUPS: AtomicU64 = AtomicU64::new(1);
        let host = &member.host;
        let api_key = host.api_key.as_ref().and_then(|secret| {
            // The configuration admits only keys that are header values.
            let mut value = HeaderValue::from_str(secret.expose()).ok()?;
            value.set_sensitive(true);
            Some(value)
        });
        let literal = || host.url.host().parse::<IpAddr>().ok();
        let at_port = |ip| SocketAddr::new(ip, host.url.port());
        let address = member.address().or_else(|| literal().map(at_port));
        let whereabouts = match address {
            Some(_) => Whereabouts::Known,
            None => Whereabouts::Unasked,
        };
        Self {
            is_fixed: address.is_some(),
            group: GROUPS.fetch_add(1, Ordering::Relaxed),
            api_key,
            addresses: ArcSwap::from_pointee(address.into_iter().collect()),
            current: ArcSwapOption::new(address.map(Arc::new)),
            whereabouts: watch::Sender::new(whereabouts),
            is_astray: AtomicBool::new(false),
            checks: AtomicU32::new(0),
            key: Known::default(),
            listed: ArcSwapOption::empty(),
            member,
        }
    }

    /// How it is asked, if it speaks OpenAI's API.
    pub(super) fn openai(&self) -> Option<&Arc<OpenAi>> {
        match &self.member.host.api {
            Api::GpuBridge => None,
            Api::OpenAi(openai) => Some(openai),
        }
    }

    /// What such a host has told of its models, if it has a list of them.
    pub(super) fn listed(&self) -> Option<Arc<Info>> {
        self.listed.load_full()
    }

    /// It has told this.
    pub(super) fn lists(&self, info: Option<Arc<Info>>) {
        self.listed.store(info);
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &HostName {
        &self.member.host.name
    }

    /// Its name goes into requests even where the address is known.
    fn url(&self) -> &HostUrl {
        &self.member.host.url
    }

    /// Is `member` reached in the same way?
    pub(super) fn reaches(&self, member: &Member) -> bool {
        self.member.is_reached_like(member)
    }

    /// Where to connect; `None` if its name has never been resolved.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.current.load().as_deref().copied()
    }

    /// Where it says whether it is well.
    pub(super) fn health_path(&self) -> &str {
        self.openai().map_or("/health", |api| &api.health_path)
    }

    /// It is checked until the guard is dropped.
    pub(super) fn begin_checks(&self) -> Checks<'_> {
        self.checks.fetch_add(1, Ordering::Relaxed);
        Checks(self)
    }

    /// Would checks notice that it falls silent at `address`?
    pub(super) fn is_checked_at(&self, address: SocketAddr) -> bool {
        self.checks.load(Ordering::Relaxed) > 0 && self.address() == Some(address)
    }

    /// Tells its connections to `address` from all others.
    pub(super) fn kept_as(&self, address: SocketAddr) -> kept::Key {
        (self.group, address)
    }

    /// The host at one of its addresses, for pingora.
    pub(super) fn peer(&self, address: SocketAddr, connect: Duration) -> HttpPeer {
        let server_name = self.member.tls.as_ref().map(|tls| tls.server_name());
        let name = server_name.unwrap_or_default().to_owned();
        let mut peer = HttpPeer::new(address, self.member.tls.is_some(), name);
        peer.options.connection_timeout = Some(connect);
        peer.options.total_connection_timeout = Some(connect);
        if let Some(tls) = &self.member.tls {
            tls.apply(&mut peer);
        }
        peer
    }

    /// The address that is used, then the others. `localhost` may stand for `::1` and `127.0.0.1`,
    /// and the host listen on one of them only.
    pub(super) fn candidates(&self) -> Vec<SocketAddr> {
        let current = self.address();
        let all = self.addresses.load();
        let others = all
            .iter()
            .copied()
            .filter(|address| Some(*address) != current);
        current.into_iter().chain(others).collect()
    }

    /// Connects to `address` from now on.
    pub(super) fn use_address(&self, address: SocketAddr) {
        if self.address() != Some(address) {
            self.current.store(Some(address.into()));
        }
    }

    /// Takes in a look-up of the name in its URL, whoever else has that name in theirs. The address in
    /// use stays in use while it is among those found, whatever their order; all stay if none is found.
    pub(super) fn looked_up(&self, name: &str, found: &[IpAddr], trouble: Trouble) {
        if self.is_fixed || self.url().host() != name {
            return;
        }
        let port = self.url().port();
        let found: Vec<_> = found.iter().map(|ip| SocketAddr::new(*ip, port)).collect();
        let Some(first) = found.first() else {
            let known = Whereabouts::Known;
            return self.tell(|now| {
                if now == known {
                    known
                } else {
                    Whereabouts::Unknown(trouble)
                }
            });
        };
        let kept = self.address().filter(|current| found.contains(current));
        self.use_address(kept.unwrap_or(*first));
        self.addresses.store(found.into());
        self.tell(|_| Whereabouts::Known);
    }

    /// Takes over what is known of `other`, which has the same URL: where it is, and which models it has.
    pub(super) fn is_like(&self, other: &Self) {
        if self.openai() == other.openai() {
            self.listed.store(other.listed());
        }
        self.addresses.store(other.addresses.load_full());
        self.current.store(other.current.load_full());
        self.whereabouts.send_replace(*other.whereabouts.borrow());
    }

    fn tell(&self, change: impl FnOnce(Whereabouts) -> Whereabouts) {
        self.whereabouts.send_if_modified(|now| {
            let before = std::mem::replace(now, change(*now));
            before != *now
        });
    }

    /// Was it found where it should be?
    pub(super) fn was_found(&self, found: bool) {
        self.is_astray.store(!found, Ordering::Relaxed);
    }

    /// Might another look-up of `name` find it?
    pub(super) fn is_sought(&self, name: &str) -> bool {
        !self.is_fixed && self.url().host() == name && self.is_astray.load(Ordering::Relaxed)
    }

    /// Waits for the first look-up, but not longer than `within`.
    ///
    /// # Errors
    /// If it has no address yet.
    pub(super) async fn has_address(&self, within: Duration) -> Result<(), Trouble> {
        let mut told = self.whereabouts.subscribe();
        let asked = async {
            let told = told.wait_for(|now| *now != Whereabouts::Unasked).await;
            told.map(|now| *now)
        };
        match tokio::time::timeout(within, asked).await {
            Ok(Ok(Whereabouts::Known)) => Ok(()),
            Ok(Ok(Whereabouts::Unknown(trouble))) => Err(trouble),
            _ => Err(Trouble::Unresolved),
        }
    }

    /// Ends when its first address is found; never if it has one.
    pub(super) async fn gets_address(&self) {
        let mut told = self.whereabouts.subscribe();
        let has_one = *told.borrow() == Whereabouts::Known;
        // This target holds the sender.
        if has_one
            || told
                .wait_for(|now| *now == Whereabouts::Known)
                .await
                .is_err()
        {
            std::future::pending::<()>().await;
        }
    }

    /// The head of a request to this host, but for its end: with what every request carries. `path`: with
    /// the query, as HTTP has it.
    pub(super) fn request(&self, method: &Method, path: &str) -> Request {
        let mut request = Request::new(method, self.url().prefix(), path);
        request.header(&header::HOST, self.url().authority().as_bytes());
        match (&self.api_key, self.openai()) {
            (None, _) => {}
            (Some(key), None) => request.header(&KEY, key.as_bytes()),
            (Some(key), Some(_)) => {
                let bearer = [b"Bearer ", key.as_bytes()].concat();
                request.header(&header::AUTHORIZATION, &bearer);
            }
        }
        request
    }

    /// Does this answer hold our key, as that of a server does which shows what it gets? Looked for where
    /// such a server has it: in the headers and near the beginning of the body.
    pub(super) fn gives_our_key_away(&self, answer: &Answer) -> bool {
        let Some(key) = self.api_key.as_ref().map(HeaderValue::as_bytes) else {
            return false;
        };
        if key.len() < TELLING_KEY {
            return false;
        }
        let key = Finder::new(key);
        let body = answer
            .body
            .chunks()
            .first()
            .map(|chunk| chunk.get(..ECHO).unwrap_or(chunk));
        let headers = answer.headers.values().map(HeaderValue::as_bytes);
        headers.chain(body).any(|text| key.find(text).is_some())
    }

    /// A question of our own.
    pub(super) fn get(&self, path: &str) -> BytesMut {
        let mut request = self.request(&Method::GET, path);
        request.header(&header::ACCEPT, b"application/json");
        request.end()
    }

    /// What was found of our key.
    pub(super) fn key(&self) -> &Known {
        &self.key
    }
}

#[cfg(test)]
mod tests {
    use super::super::member::Place;
    use super::super::testing::member;
    use super::*;
    use crate::pool::Origin;

    fn target(url: &str) -> Target {
        Target::new(member("a", url))
    }

    fn address(target: &Target) -> Option<String> {
        target.address().map(|address| address.to_string())
    }

    const WITHIN: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn an_address_needs_no_look_up() {
        let target = target("http://[::1]:9");
        assert_eq!(address(&target).as_deref(), Some("[::1]:9"));
        assert_eq!(target.has_address(WITHIN).await, Ok(()));
        assert_eq!(target.candidates().len(), 1);
    }

    #[tokio::test]
    async fn a_discovered_host_keeps_its_address_and_its_name() {
        let host = member("a", "https://does-not-exist.invalid:9");
        let target = Target::new(host.at(Place {
            address: "10.0.0.7:9".parse().unwrap(),
            origin: Origin::Dns,
        }));
        assert_eq!(target.has_address(WITHIN).await, Ok(()));
        assert_eq!(address(&target).as_deref(), Some("10.0.0.7:9"));
        let peer = target.peer(target.address().unwrap(), WITHIN);
        let server_name = pingora::upstreams::peer::Peer::sni(&peer).to_owned();
        assert_eq!(server_name, "does-not-exist.invalid");
        let expected =
            "GET / HTTP/1.1\r\nhost: does-not-exist.invalid:9\r\naccept: application/json\r\n\r\n";
        assert_eq!(target.get("/"), expected);
    }

    fn look_up(target: &Target, name: &str, found: &[&str]) {
        let found: Vec<_> = found.iter().map(|text| text.parse().unwrap()).collect();
        target.looked_up(name, &found, Trouble::NoAddress);
    }

    #[tokio::test(start_paused = true)]
    async fn the_address_in_use_is_kept_while_it_is_found() {
        let target = target("http://gpu.test:9");
        assert_eq!(address(&target), None);
        assert_eq!(target.has_address(WITHIN).await, Err(Trouble::Unresolved));
        look_up(&target, "gpu.test", &["10.0.0.1", "10.0.0.2"]);
        assert_eq!(address(&target).as_deref(), Some("10.0.0.1:9"));
        target.use_address("10.0.0.2:9".parse().unwrap());
        for found in [&["10.0.0.1", "10.0.0.2"][..], &["10.0.0.2", "10.0.0.3"]] {
            look_up(&target, "gpu.test", found);
            assert_eq!(address(&target).as_deref(), Some("10.0.0.2:9"));
            assert_eq!(target.candidates().len(), 2);
        }
        look_up(&target, "other.test", &["10.0.0.9"]);
        look_up(&target, "gpu.test", &[]);
        assert_eq!(
            target.has_address(WITHIN).await,
            Ok(()),
            "what was found last stays"
        );
        look_up(&target, "gpu.test", &["10.0.0.4"]);
        assert_eq!(address(&target).as_deref(), Some("10.0.0.4:9"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_without_an_address_is_told_until_it_has_one() {
        let target = target("http://gpu.test:9");
        look_up(&target, "gpu.test", &[]);
        assert_eq!(target.has_address(WITHIN).await, Err(Trouble::NoAddress));
        let found = async {
            tokio::time::sleep(WITHIN).await;
            look_up(&target, "gpu.test", &["10.0.0.1"]);
        };
        tokio::join!(target.gets_address(), found);
        assert_eq!(target.has_address(WITHIN).await, Ok(()));
        let again = tokio::time::timeout(WITHIN, target.gets_address());
        assert!(again.await.is_err(), "it has one");
    }
}
