//! Asks the DNS which addresses a name has.
//!
//! The system's settings are read anew for each look-up: they change under a long-lived process (a
//! laptop's network, a container's). So nothing is cached here either; who asks waits until the last
//! answer ends.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig,
};
use hickory_resolver::lookup_ip::LookupIp;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;

use super::discovery::{Answer, Records};

/// Bound on one question with all its repetitions. It is asked again soon in any case.
const PATIENCE: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resolver {
    /// Whom to ask; `None`: as the system does.
    pub(super) server: Option<SocketAddr>,
}

impl Resolver {
    /// The addresses of `name` now.
    pub(super) async fn look_up(self, name: &str) -> Answer {
        let v4 = self.ask(name, LookupIpStrategy::Ipv4Only);
        let v6 = self.ask(name, LookupIpStrategy::Ipv6Only);
        let (v4, v6) = tokio::join!(v4, v6);
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

    async fn ask(self, name: &str, kind: LookupIpStrategy) -> Result<LookupIp, NetError> {
        let asked = tokio::time::timeout(PATIENCE, self.ask_patiently(name, kind)).await;
        asked.unwrap_or(Err(NetError::Timeout))
    }

    async fn ask_patiently(self, name: &str, kind: LookupIpStrategy) -> Result<LookupIp, NetError> {
        let mut builder = match self.server {
            None => TokioResolver::builder_tokio()?,
            Some(server) => {
                TokioResolver::builder_with_config(only(server), TokioRuntimeProvider::default())
            }
        };
        builder.options_mut().ip_strategy = kind;
        builder.build()?.lookup_ip(name).await
    }
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
        Err(error) => Records::Failed(error.to_string()),
    }
}

fn time_left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}

/// `0.0.0.0` is how some servers say no; connecting to it would reach ourselves.
fn usable(address: IpAddr) -> Option<IpAddr> {
    let address = address.to_canonical();
    (!address.is_unspecified() && !address.is_multicast()).then_some(address)
}
