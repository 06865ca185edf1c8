//! Asks the DNS which addresses a name has, after `/etc/hosts`; names of which it knows no address are
//! asked of the system's own resolver.
//!
//! The [`system`](super::system)'s settings may change under a long-lived process (a laptop's network, a
//! container's): each look-up goes by those of that moment. So nothing is cached here either; who asks
//! waits until the last answer ends.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig,
    ResolverOpts,
};
use hickory_resolver::lookup_ip::LookupIp;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;

use super::discovery::{Answer, Records, usable};
use super::system::{self, Settings};

/// Bound on one question with all its repetitions. It is asked again soon in any case.
const PATIENCE: Duration = Duration::from_secs(5);

/// Once there is an address of one kind, that of the other is waited for no longer than that.
const GRACE: Duration = Duration::from_secs(1);
/// The system's resolver tells no time to live.
const SYSTEMS_TTL: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resolver {
    /// Whom to ask; `None`: as the system does.
    pub(super) server: Option<SocketAddr>,
}

impl Resolver {
    /// The addresses of `name` now.
    pub(super) async fn look_up(self, name: &str) -> Answer {
        let answer = self.look_up_in_dns(name).await;
        if self.server.is_some() || answer.has_addresses() {
            return answer;
        }
        systems_answer(name.to_owned()).await.unwrap_or(answer)
    }

    async fn look_up_in_dns(self, name: &str) -> Answer {
        let (v4, v6) = self.ask_for_both(name).await;
        // A short name may stand for several, of which the first that exists is meant (`search` in
        // resolv.conf). Both kinds of addresses must be of the same.
        let same_name = match (&v4, &v6) {
            (Ok(v4), Ok(v6)) => v4.query().name() == v6.query().name(),
            _ => true,
        };
        Answer {
            v4: records(v4),
            v6: if same_name {
                records(v6)
            } else {
                Records::None("another name's address")
            },
        }
    }

    async fn ask_for_both(
        self,
        name: &str,
    ) -> (Result<LookupIp, NetError>, Result<LookupIp, NetError>) {
        let v4 = pin!(self.ask(name, LookupIpStrategy::Ipv4Only));
        let v6 = pin!(self.ask(name, LookupIpStrategy::Ipv6Only));
        match select(v4, v6).await {
            Either::Left((v4, v6)) => {
                let v6 = second(&v4, v6).await;
                (v4, v6)
            }
            Either::Right((v6, v4)) => {
                let v4 = second(&v6, v4).await;
                (v4, v6)
            }
        }
    }

    async fn ask(self, name: &str, kind: LookupIpStrategy) -> Result<LookupIp, NetError> {
        let asked = tokio::time::timeout(PATIENCE, self.ask_patiently(name, kind)).await;
        asked.unwrap_or(Err(NetError::Timeout))
    }

    async fn ask_patiently(self, name: &str, kind: LookupIpStrategy) -> Result<LookupIp, NetError> {
        let system = Settings::now().await;
        let (config, mut options) = match self.server {
            None => system.servers.clone()?,
            Some(server) => (only(server), ResolverOpts::default()),
        };
        let provider = TokioRuntimeProvider::default();
        options.ip_strategy = kind;
        // It would read the file itself, here.
        options.use_hosts_file = ResolveHosts::Never;
        let builder = TokioResolver::builder_with_config(config, provider).with_options(options);
        let mut resolver = builder.build()?;
        resolver.set_hosts(Arc::clone(&system.hosts));
        resolver.lookup_ip(name).await
    }
}

async fn second(
    first: &Result<LookupIp, NetError>,
    second: impl Future<Output = Result<LookupIp, NetError>>,
) -> Result<LookupIp, NetError> {
    if first.is_err() {
        return second.await;
    }
    let second = tokio::time::timeout(GRACE, second).await;
    second.unwrap_or(Err(NetError::Timeout))
}

/// What the system's resolver says, if it knows any address.
async fn systems_answer(name: String) -> Option<Answer> {
    let found = system::addresses(name).await.into_iter();
    let found = found.filter_map(usable);
    let (v4, v6) = found.partition(IpAddr::is_ipv4);
    let records = |addresses: Vec<IpAddr>| {
        if addresses.is_empty() {
            return Records::None("the system knows no such address");
        }
        Records::Found {
            addresses,
            ttl: SYSTEMS_TTL,
        }
    };
    let answer = Answer {
        v4: records(v4),
        v6: records(v6),
    };
    answer.has_addresses().then_some(answer)
}

fn only(server: SocketAddr) -> ResolverConfig {
    let at_port = |mut connection: ConnectionConfig| {
        connection.port = server.port();
        connection
    };
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
    let connections = connections.into_iter().map(at_port).collect();
    let server = NameServerConfig::new(server.ip(), true, connections);
    ResolverConfig::from_parts(None, Vec::new(), vec![server])
}

fn records(found: Result<LookupIp, NetError>) -> Records {
    match found {
        Ok(found) => Records::Found {
            addresses: found.iter().filter_map(usable).collect(),
            ttl: time_left(found.valid_until()),
        },
        Err(error) if error.is_nx_domain() => Records::None("the name does not exist"),
        Err(error) if error.is_no_records_found() => Records::None("the name has no address"),
        Err(error) => Records::Failed(failure(&error)),
    }
}

/// By kind: errors of the library hold parts of what came.
fn failure(error: &NetError) -> &'static str {
    match error {
        NetError::Timeout => "no answer in time",
        NetError::Dns(_) => "the DNS server can't answer",
        NetError::Io(_) | NetError::NoConnections => "no DNS server can be reached",
        NetError::Proto(_) => "what came is no DNS answer",
        _ => "the look-up failed",
    }
}

fn time_left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_systems_resolver_is_asked_on_a_thread_of_its_own() {
        let answer = systems_answer("localhost".to_owned()).await.unwrap();
        let loopback = |records: &Records| match records {
            Records::Found { addresses, ttl } => {
                assert_eq!(*ttl, SYSTEMS_TTL);
                addresses.iter().all(IpAddr::is_loopback)
            }
            _ => true,
        };
        assert!(answer.has_addresses() && loopback(&answer.v4) && loopback(&answer.v6));
    }
}
