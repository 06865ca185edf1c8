//! What the tests are made of:
//!
//! - [`sim_host`]: a GPU host that behaves, or misbehaves, as told;
//! - [`Config`] and [`Proxy`]: the real proxy in front of some hosts;
//! - [`Client`]: what a user of the proxy does; [`RawConnection`]: what only a rude one does;
//! - [`Wire`]: one connection of HTTP/1 or HTTP/2, with or without TLS; [`Authority`] vouches for it;
//! - [`DnsServer`]: a real DNS server, for names that tests make up;
//! - [`ApiServer`]: that of a cluster of Kubernetes, simulated;
//! - [`Backend`]: the real GPU host;
//! - [`Prometheus`]: a real one, and its tool;
//! - [`Browser`]: a real browser, where one is installed;
//! - [`eventually`]: how to wait.

mod authority;
mod backend;
mod browser;
mod client;
mod config;
mod dns;
mod eventually;
mod kubernetes;
mod metrics;
mod process;
mod prometheus;
mod proxy;
mod raw;
mod sim_host;
mod wire;

pub(crate) use authority::{Authority, Identity};
pub(crate) use backend::Backend;
pub(crate) use browser::Browser;
pub(crate) use client::{Client, Reply, embed_body};
pub(crate) use config::Config;
pub(crate) use dns::DnsServer;
pub(crate) use eventually::eventually;
pub(crate) use kubernetes::{ApiServer, LEAVING, READY, UNREADY, endpoint_slice};
pub(crate) use process::{Process, with_open_files};
pub(crate) use prometheus::{Prometheus, has_prometheus, lint, monitoring, promtool};
pub(crate) use proxy::{Proxy, gpu_bridge, serve, without_authorities};
pub(crate) use raw::{HTTP_2, RawConnection, embed_request, frame};
pub(crate) use sim_host::{
    Answer, Behaviour, Ending, HealthAnswer, Server, SimHost, StatusAnswer, Vectors, embedding_of,
    padded, padded_answer, sim_host,
};
pub(crate) use wire::{Wire, secure};
