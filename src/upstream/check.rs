//! Health checks: is the host alive, does it know our key, how many slots does it have, what is
//! loaded on it.
//!
//! One endless task for each host, so that a hanging host delays nobody else's check. A check asks
//! `/health` (open), then `/status` with our key, and now and then `/info`. Only `/health` decides
//! whether the host is well; the others may be missing.

use std::net::SocketAddr;
use std::time::{Instant, SystemTime};

use gpu_bridge_wire::{Health, Info, Status};
use http::StatusCode;
use pingora::connectors::http::Connector;
use pingora::http::RequestHeader;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::exchange::Exchange;
use super::verdict::{Class, classify};
use super::{Settings, Target};
use crate::pool::{Check, HostFacts, HostId, Pool, Slots};

/// Answers to checks beyond this size are nonsense.
const MAX_ANSWER: usize = 1 << 20;
/// Checks are spread by up to this share of their interval, so that those of many hosts, or of many
/// proxies, don't fall together.
const JITTER: f64 = 0.1;

pub(super) struct Checker<'a> {
    target: &'a Target,
    connector: &'a Connector,
    settings: Settings,
}

impl<'a> Checker<'a> {
    pub(super) fn new(target: &'a Target, connector: &'a Connector, settings: Settings) -> Self {
        Self {
            target,
            connector,
            settings,
        }
    }

    /// Checks for ever.
    pub(super) async fn run(&self, host: HostId, pool: &Pool) {
        let mut told = None;
        loop {
            let found = self.check(host, pool).await;
            let problem = found.problem().map(str::to_owned);
            if let Some(reason) = problem.as_deref().filter(|_| problem != told) {
                tracing::warn!(host = %self.target.name(), reason, "health check failed");
            }
            told = problem;
            pool.checked(host, &found);
            let jitter = 1.0 + rand::random_range(-JITTER..JITTER);
            pool.check_due(host, jitter).await;
        }
    }

    async fn check(&self, host: HostId, pool: &Pool) -> Check {
        if let Err(reason) = self.target.resolve(self.settings.check).await {
            return Check::Failed {
                reason,
                reachable: false,
            };
        }
        match self.health().await {
            Probe::Body(health) if health.status == Health::OK => {}
            Probe::Body(health) => {
                return Check::Failed {
                    reason: format!("/health says {:?}", health.status),
                    reachable: true,
                };
            }
            Probe::Class(Class::Busy { retry_after }) => return Check::Busy { retry_after },
            Probe::TooLate => {
                let within = self.settings.check;
                return Check::NoAnswer {
                    reason: format!("/health: no answer in {within:?}"),
                };
            }
            reply => {
                return Check::Failed {
                    reason: format!("/health: {}", reply.describe()),
                    reachable: matches!(reply, Probe::Class(_)),
                };
            }
        }
        let ours = pool.in_flight(host);
        let slots = match self.get::<Status>("/status").await {
            Probe::Class(Class::Misconfigured) => {
                return Check::Misconfigured {
                    reason: "/status refuses the API key".to_owned(),
                };
            }
            Probe::Body(status) => {
                // Requests begin and end while the answer travels: never take ours for others'.
                let ours = ours.max(pool.in_flight(host));
                Some(self.note_status(status, ours))
            }
            Probe::Class(_) | Probe::TooLate | Probe::Failed(_) => None,
        };
        if self
            .target
            .info_is_older_than(self.settings.check_interval, Instant::now())
            && let Probe::Body(info) = self.get::<Info>("/info").await
        {
            pool.told(host, facts(&info));
            self.target.store_info(info, Instant::now());
        }
        Check::Good { slots }
    }

    /// Asks `/health` at the address in use, then at the host's others, and uses the first that
    /// answers. If none does, silence from one says more than a refusal from another.
    async fn health(&self) -> Probe<Health> {
        let mut failure = Probe::Failed("its name has not been resolved".to_owned());
        for address in self.target.candidates() {
            match self.get_at(address, "/health").await {
                reply @ (Probe::Body(_) | Probe::Class(_)) => {
                    self.target.use_address(address);
                    return reply;
                }
                Probe::TooLate => failure = Probe::TooLate,
                Probe::Failed(_) if matches!(failure, Probe::TooLate) => {}
                reply @ Probe::Failed(_) => failure = reply,
            }
        }
        failure
    }

    fn note_status(&self, status: Status, ours: u32) -> Slots {
        let queue = status.queue;
        self.target.store_status(status);
        Slots {
            max_concurrent: queue.max_concurrent,
            available: queue.available_slots,
            in_flight: queue.in_flight,
            ours,
        }
    }

    /// Asks at the address in use.
    async fn get<T: DeserializeOwned>(&self, path: &str) -> Probe<T> {
        match self.target.candidates().first() {
            Some(address) => self.get_at(*address, path).await,
            None => Probe::Failed("its name has not been resolved".to_owned()),
        }
    }

    async fn get_at<T: DeserializeOwned>(&self, address: SocketAddr, path: &str) -> Probe<T> {
        match timeout(self.settings.check, self.fetch(address, path)).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(reason)) => Probe::Failed(reason),
            Err(_) => Probe::TooLate,
        }
    }

    async fn fetch<T: DeserializeOwned>(
        &self,
        address: SocketAddr,
        path: &str,
    ) -> Result<Probe<T>, String> {
        let peer = self.target.peer_at(address, self.settings.connect);
        let request = self.request(path).map_err(|error| error.to_string())?;
        let mut exchange = match Exchange::start(self.connector, peer, &request, &[]).await {
            Ok(exchange) => exchange,
            Err(failure) if failure.is_silence() => return Ok(Probe::TooLate),
            Err(failure) => return Err(failure.to_string()),
        };
        let head = exchange.head();
        let ok = head.status == StatusCode::OK;
        let class = classify(head.status, &head.headers, SystemTime::now());
        let body = read(&mut exchange).await?;
        exchange.release().await;
        if !ok {
            return Ok(Probe::Class(class));
        }
        serde_json::from_slice(&body)
            .map(Probe::Body)
            .map_err(|error| format!("an answer that can't be read: {error}"))
    }

    fn request(&self, path: &str) -> pingora::Result<RequestHeader> {
        let mut request = RequestHeader::build("GET", path.as_bytes(), Some(3))?;
        request.insert_header(http::header::ACCEPT, "application/json")?;
        self.target.sign(&mut request)?;
        Ok(request)
    }
}

fn facts(info: &Info) -> HostFacts {
    HostFacts {
        models: info.loaded_models.clone(),
        vram_total_mb: info.vram_total_mb,
        vram_used_mb: info.vram_used_mb,
    }
}

async fn read(exchange: &mut Exchange<'_>) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(chunk) = exchange
        .next_chunk()
        .await
        .map_err(|error| error.to_string())?
    {
        if body.len() + chunk.len() > MAX_ANSWER {
            return Err("an endless answer".to_owned());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// What came back.
enum Probe<T> {
    /// 200 with what was asked for.
    Body(T),
    /// Another status.
    Class(Class),
    /// Nothing in time.
    TooLate,
    /// No connection, or nonsense.
    Failed(String),
}

impl<T> Probe<T> {
    fn describe(&self) -> String {
        match self {
            Self::Body(_) => "fine".to_owned(),
            Self::Class(Class::Misconfigured) => "refuses the API key".to_owned(),
            Self::Class(Class::ServerError) => "answers with a server error".to_owned(),
            Self::Class(_) => "answers with an unexpected status".to_owned(),
            Self::TooLate => "no answer in time".to_owned(),
            Self::Failed(reason) => reason.clone(),
        }
    }
}
