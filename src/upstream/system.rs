//! What this machine itself knows of names: the DNS servers in `/etc/resolv.conf`, the addresses in
//! `/etc/hosts`, and what only its own resolver finds (mDNS, plug-ins of its name service switch).
//!
//! All of it may hang: files on a mount, and a resolver that asks servers which do not answer. So files
//! are read off the async threads, for all names together, and what was last in one that hangs goes on;
//! the resolver gets a bounded number of threads, each left alone after a while.

use std::io;
use std::net::{IpAddr, ToSocketAddrs as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::Hosts;
use hickory_resolver::config::{ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::system_conf::parse_resolv_conf;
use tokio::sync::{Mutex, Semaphore, oneshot};
use tokio::time::timeout;

use crate::file;

/// How long what the files said is taken for what they say: a thousand names ask at the same time.
const FRESH: Duration = Duration::from_secs(1);
/// For each of them. They are on a disk, and a look-up waits for both.
const FILE_PATIENCE: Duration = Duration::from_secs(1);
/// For the system's resolver, including the wait for a thread. As long as the DNS itself has.
const PATIENCE: Duration = Duration::from_secs(5);
/// Threads that ask the system's resolver at once. It answers in milliseconds, or takes some ten seconds to
/// find that nobody does.
static THREADS: Semaphore = Semaphore::const_new(16);

/// What the files said last, and when that was.
static LAST: Mutex<Option<(Instant, Arc<Settings>)>> = Mutex::const_new(None);

/// See the module.
pub(super) struct Settings {
    /// Whom to ask; an error if the file can't be used.
    pub(super) servers: Result<(ResolverConfig, ResolverOpts), NetError>,
    /// What need not be asked.
    pub(super) hosts: Arc<Hosts>,
}

impl Settings {
    /// What the files say now.
    pub(super) async fn now() -> Arc<Self> {
        let mut last = LAST.lock().await;
        if let Some((read, settings)) = &*last
            && read.elapsed() < FRESH
        {
            return Arc::clone(settings);
        }
        let before = last.as_ref().map(|(_, settings)| Arc::clone(settings));
        let kept = before.clone();
        let settings = tokio::task::spawn_blocking(move || Arc::new(Self::read(before.as_deref())));
        let settings = settings.await.ok().or(kept).unwrap_or_else(|| {
            let servers = Err(io::Error::other("/etc/resolv.conf can't be read").into());
            let hosts = Arc::default();
            Arc::new(Self { servers, hosts })
        });
        *last = Some((Instant::now(), Arc::clone(&settings)));
        settings
    }

    fn read(before: Option<&Self>) -> Self {
        let read = |path| file::read(Path::new(path), FILE_PATIENCE);
        let (servers, hosts) = (read("/etc/resolv.conf"), read("/etc/hosts"));
        Self {
            servers: match before {
                Some(before) if file::hangs(&servers) => before.servers.clone(),
                _ => servers.map_err(NetError::from).and_then(parse_resolv_conf),
            },
            hosts: match before {
                Some(before) if file::hangs(&hosts) => Arc::clone(&before.hosts),
                _ => Arc::new(parse_hosts(&hosts.unwrap_or_default())),
            },
        }
    }
}

fn parse_hosts(text: &[u8]) -> Hosts {
    let mut hosts = Hosts::default();
    // Lines that are none are left out.
    let _ = hosts.read_hosts_conf(text);
    hosts
}

/// The addresses that the system's resolver has for `name`; none if it doesn't say in time.
pub(super) async fn addresses(name: String) -> Vec<IpAddr> {
    let asked = timeout(PATIENCE, async {
        let place = THREADS.acquire().await.ok()?;
        let (answer, told) = oneshot::channel();
        let ask = move || {
            let found = (name.as_str(), 0).to_socket_addrs();
            let found = found.map(|found| found.map(|address| address.ip()).collect());
            drop(place);
            // Nobody may care any more.
            let _ = answer.send(found.unwrap_or_default());
        };
        // Not one of the runtime's, whose end would wait for it.
        std::thread::Builder::new().spawn(ask).ok()?;
        told.await.ok()
    });
    asked.await.ok().flatten().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_systems_resolver_knows_this_machine() {
        let found = addresses("localhost".to_owned()).await;
        assert!(!found.is_empty() && found.iter().all(IpAddr::is_loopback));
    }

    #[tokio::test]
    async fn what_the_files_say_is_read_once_for_all_who_ask_together() {
        let (one, other) = tokio::join!(Settings::now(), Settings::now());
        assert!(Arc::ptr_eq(&one, &other));
    }
}
