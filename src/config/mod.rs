//! The YAML configuration. Interim: shapes and values only, without places of semantic problems.
#![allow(missing_docs)]
use serde::Deserialize;
use std::{
    fmt, net::SocketAddr, num::NonZeroU32, path::Path, str::FromStr, sync::Arc, time::Duration,
};
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    #[serde(default)]
    listen: Vec<RawListen>,
    admin: Option<RawListen>,
    #[serde(default)]
    auth: RawAuth,
    pool: RawPool,
    #[serde(default)]
    health: RawHealth,
    #[serde(default)]
    queue: RawQueue,
    #[serde(default)]
    timeouts: RawTimeouts,
    #[serde(default)]
    limits: RawLimits,
}
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawListen {
    address: SocketAddr,
}
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawAuth {
    #[serde(default)]
    keys: Vec<RawKey>,
}
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawKey {
    name: String,
    key: String,
}
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPool {
    policy: Option<String>,
    hosts: Vec<RawHost>,
}
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHost {
    name: String,
    url: String,
    api_key: Option<String>,
    max_concurrent: Option<NonZeroU32>,
}
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawHealth {
    interval: Option<D>,
    timeout: Option<D>,
    healthy_after: Option<NonZeroU32>,
    unhealthy_after: Option<NonZeroU32>,
}
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawQueue {
    max_waiting: Option<usize>,
    max_wait: Option<D>,
}
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawTimeouts {
    connect: Option<D>,
    attempt: Option<D>,
    client_read: Option<D>,
    shutdown: Option<D>,
}
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawLimits {
    max_body: Option<S>,
    max_buffered: Option<S>,
    max_connections: Option<usize>,
}
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct D(Duration);
impl TryFrom<String> for D {
    type Error = String;
    fn try_from(s: String) -> Result<Self, String> {
        for (u, m) in [("ms", 1), ("s", 1000), ("m", 60000), ("h", 3_600_000)] {
            if let Some(n) = s.strip_suffix(u).and_then(|n| n.parse::<u64>().ok()) {
                return Ok(Self(Duration::from_millis(n * m)));
            }
        }
        Err(format!("bad duration {s}"))
    }
}
#[derive(Deserialize)]
#[serde(try_from = "serde_yaml::Value")]
struct S(usize);
impl TryFrom<serde_yaml::Value> for S {
    type Error = String;
    fn try_from(v: serde_yaml::Value) -> Result<Self, String> {
        if let Some(n) = v.as_u64() {
            return Ok(Self(n as usize));
        }
        let s = v.as_str().unwrap_or_default();
        for (u, m) in [
            ("KiB", 1 << 10),
            ("MiB", 1 << 20),
            ("GiB", 1 << 30),
            ("B", 1),
        ] {
            if let Some(n) = s.strip_suffix(u).and_then(|n| n.parse::<usize>().ok()) {
                return Ok(Self(n * m));
            }
        }
        Err(format!("bad size {s}"))
    }
}
pub struct Config {
    pub listen: Vec<SocketAddr>,
    pub admin: SocketAddr,
    pub auth: Auth,
    pub pool: Pool,
    pub health: Health,
    pub queue: Queue,
    pub timeouts: Timeouts,
    pub limits: Limits,
}
pub struct Auth {
    pub keys: Vec<ClientKey>,
}
pub struct ClientKey {
    pub name: String,
    pub key: Secret,
}
pub struct Pool {
    pub policy: Policy,
    pub hosts: Vec<Host>,
}
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    #[default]
    LeastBusy,
    RoundRobin,
}
pub struct Host {
    pub name: HostName,
    pub url: HostUrl,
    pub api_key: Option<Secret>,
    pub max_concurrent: Option<NonZeroU32>,
}
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(Arc<str>);
impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl AsRef<str> for HostName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}
impl FromStr for HostName {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        Ok(Self(s.into()))
    }
}
#[derive(Clone, Debug)]
pub struct HostUrl {
    host: String,
    port: u16,
    authority: String,
}
impl HostUrl {
    pub fn host(&self) -> &str {
        &self.host
    }
    pub fn port(&self) -> u16 {
        self.port
    }
    pub fn authority(&self) -> &str {
        &self.authority
    }
}
pub struct Health {
    pub interval: Duration,
    pub timeout: Duration,
    pub healthy_after: NonZeroU32,
    pub unhealthy_after: NonZeroU32,
}
pub struct Queue {
    pub max_waiting: usize,
    pub max_wait: Duration,
}
pub struct Timeouts {
    pub connect: Duration,
    pub attempt: Duration,
    pub client_read: Duration,
    pub shutdown: Duration,
}
pub struct Limits {
    pub max_body: usize,
    pub max_buffered: usize,
    pub max_connections: usize,
}
#[derive(Clone)]
pub struct Secret(String);
impl From<String> for Secret {
    fn from(s: String) -> Self {
        Self(s)
    }
}
impl Secret {
    pub fn expose(&self) -> &str {
        &self.0
    }
    pub fn matches(&self, p: &[u8]) -> bool {
        use subtle::ConstantTimeEq;
        self.0.as_bytes().ct_eq(p).into()
    }
}
pub fn load(p: &Path, _e: &dyn Fn(&str) -> Option<String>) -> Result<Config, String> {
    let text = std::fs::read_to_string(p).map_err(|e| e.to_string())?;
    let r: Raw = serde_yaml::from_str(&text).map_err(|e| format!("{}: {e}", p.display()))?;
    let s = Duration::from_secs;
    let hosts = r
        .pool
        .hosts
        .into_iter()
        .map(|h| {
            let a = h
                .url
                .trim_start_matches("http://")
                .trim_end_matches('/')
                .to_owned();
            let (x, y) = a.rsplit_once(':').unwrap_or((&a, "80"));
            Host {
                name: h.name.parse().unwrap(),
                url: HostUrl {
                    host: x.to_owned(),
                    port: y.parse().unwrap(),
                    authority: a.clone(),
                },
                api_key: h.api_key.map(Secret),
                max_concurrent: h.max_concurrent,
            }
        })
        .collect();
    let n = |v: Option<NonZeroU32>, d: u32| v.unwrap_or(NonZeroU32::new(d).unwrap());
    let d = |v: Option<D>, d: Duration| v.map_or(d, |v| v.0);
    Ok(Config {
        listen: if r.listen.is_empty() {
            vec!["0.0.0.0:8765".parse().unwrap()]
        } else {
            r.listen.into_iter().map(|l| l.address).collect()
        },
        admin: r
            .admin
            .map_or("127.0.0.1:9765".parse().unwrap(), |a| a.address),
        auth: Auth {
            keys: r
                .auth
                .keys
                .into_iter()
                .map(|k| ClientKey {
                    name: k.name,
                    key: Secret(k.key),
                })
                .collect(),
        },
        pool: Pool {
            policy: match r.pool.policy.as_deref() {
                Some("round-robin") => Policy::RoundRobin,
                _ => Policy::LeastBusy,
            },
            hosts,
        },
        health: Health {
            interval: d(r.health.interval, s(5)),
            timeout: d(r.health.timeout, s(2)),
            healthy_after: n(r.health.healthy_after, 1),
            unhealthy_after: n(r.health.unhealthy_after, 2),
        },
        queue: Queue {
            max_waiting: r.queue.max_waiting.unwrap_or(512),
            max_wait: d(r.queue.max_wait, s(30)),
        },
        timeouts: Timeouts {
            connect: d(r.timeouts.connect, s(1)),
            attempt: d(r.timeouts.attempt, s(60)),
            client_read: d(r.timeouts.client_read, s(30)),
            shutdown: d(r.timeouts.shutdown, s(60)),
        },
        limits: Limits {
            max_body: r.limits.max_body.map_or(32 << 20, |v| v.0),
            max_buffered: r.limits.max_buffered.map_or(1 << 30, |v| v.0),
            max_connections: r.limits.max_connections.unwrap_or(4096),
        },
    })
}
