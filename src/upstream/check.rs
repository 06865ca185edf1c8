//! Health checks: is the host alive, does it know our key, how many slots does it have, what is
//! loaded on it.
//!
//! One endless task for each host, so that a hanging host delays nobody else's check. A check asks
//! `/health` (open), then `/status` with our key, and now and then `/info`. Only `/health` decides
//! whether the host is well; the others may be missing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use gpu_bridge_wire::{Health, Info, Status};
use http::StatusCode;
use pingora::http::RequestHeader;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::exchange::{Exchange, Failure};
use super::hosts::Means;
use super::verdict::{Class, classify};
use super::{Settings, Target};
use crate::pool::{Check, HostFacts, HostId, Pool, Slots};

/// Answers to checks beyond this size are nonsense.
const MAX_ANSWER: usize = 1 << 20;
/// Checks are spread by up to this share of their interval, so that those of many hosts, or of many
/// proxies, don't fall together.
const JITTER: f64 = 0.1;

/// Checks one host, and tells `pool` what it finds.
pub(super) struct Checker {
    pub(super) host: HostId,
    pub(super) target: Arc<Target>,
    pub(super) means: Arc<Means>,
    pub(super) pool: Pool,
}

impl Checker {
    /// Checks for ever.
    pub(super) async fn run(self) {
        let mut told = None;
        loop {
            let found = self.check().await;
            let problem = found.problem().map(str::to_owned);
            if let Some(reason) = problem.as_deref().filter(|_| problem != told) {
                tracing::warn!(host = %self.target.name(), reason, "health check failed");
            }
            told = problem;
            self.pool.checked(self.host, &found);
            let jitter = 1.0 + rand::random_range(-JITTER..JITTER);
            self.pool.check_due(self.host, jitter).await;
        }
    }

    async fn check(&self) -> Check {
        if let Err(reason) = self.target.resolve(self.settings().check).await {
            return failed(false, reason);
        }
        let health = self.health().await;
        if let Some(unwell) = self.unwell(health) {
            return unwell;
        }
        let ours = self.pool.in_flight(self.host);
        let slots = match self.get::<Status>("/status").await {
            Probe::Class(Class::Misconfigured) => {
                return Check::Misconfigured {
                    reason: "/status refuses the API key".to_owned(),
                };
            }
            Probe::Body(status) => Some(self.note_status(status, ours)),
            Probe::Class(_) | Probe::TooLate | Probe::Failed { .. } => None,
        };
        self.refresh_info().await;
        Check::Good { slots }
    }

    /// What the answer of `/health` makes of the check; `None` if the host is well.
    fn unwell(&self, health: Probe<Health>) -> Option<Check> {
        match health {
            Probe::Body(health) if health.status == Health::OK => None,
            Probe::Body(health) => Some(failed(true, format!("/health says {:?}", health.status))),
            Probe::Class(Class::Busy { retry_after }) => Some(Check::Busy { retry_after }),
            Probe::TooLate => {
                let within = self.settings().check;
                Some(Check::NoAnswer {
                    reason: format!("/health: no answer in {within:?}"),
                })
            }
            reply => {
                let reason = format!("/health: {}", reply.describe());
                Some(failed(reply.is_an_answer(), reason))
            }
        }
    }

    async fn refresh_info(&self) {
        let age = self.settings().check_interval;
        if self.target.info_is_older_than(age, Instant::now())
            && let Probe::Body(info) = self.get::<Info>("/info").await
        {
            self.pool.told(self.host, facts(&info));
            self.target.store_info(info, Instant::now());
        }
    }

    /// Asks `/health` at the address in use, then at the host's others, and uses the first that
    /// answers. If none does, silence from one says more than a refusal from another.
    async fn health(&self) -> Probe<Health> {
        let mut failure = unresolved();
        for address in self.target.candidates() {
            match self.get_at(address, "/health").await {
                reply @ (Probe::Body(_) | Probe::Class(_)) => {
                    self.target.use_address(address);
                    return reply;
                }
                Probe::TooLate => failure = Probe::TooLate,
                Probe::Failed { .. } if matches!(failure, Probe::TooLate) => {}
                reply @ Probe::Failed { .. } => failure = reply,
            }
        }
        failure
    }

    /// `ours`: how many of its requests were ours when it was asked. Some began or ended before it
    /// answered; of the two numbers the larger one keeps us from taking our own for others'.
    fn note_status(&self, status: Status, ours: u32) -> Slots {
        let queue = status.queue;
        self.target.store_status(status);
        Slots {
            max_concurrent: queue.max_concurrent,
            available: queue.available_slots,
            in_flight: queue.in_flight,
            ours: ours.max(self.pool.in_flight(self.host)),
        }
    }

    /// Asks at the address in use.
    async fn get<T: DeserializeOwned>(&self, path: &str) -> Probe<T> {
        match self.target.candidates().first() {
            Some(address) => self.get_at(*address, path).await,
            None => unresolved(),
        }
    }

    async fn get_at<T: DeserializeOwned>(&self, address: SocketAddr, path: &str) -> Probe<T> {
        let fetch = self.fetch(address, path);
        match timeout(self.settings().check, fetch).await {
            Ok(Ok(reply) | Err(reply)) => reply,
            Err(_) => Probe::TooLate,
        }
    }

    async fn fetch<T: DeserializeOwned>(
        &self,
        address: SocketAddr,
        path: &str,
    ) -> Result<Probe<T>, Probe<T>> {
        let peer = self.target.peer_at(address, self.settings().connect);
        let request = self.request(path).map_err(|error| Probe::Failed {
            reachable: false,
            reason: error.to_string(),
        })?;
        let mut exchange = Exchange::start(&self.means.connector, peer, &request, &[]).await?;
        let head = exchange.head();
        let ok = head.status == StatusCode::OK;
        let class = classify(head.status, &head.headers, SystemTime::now());
        let body = read(&mut exchange).await.map_err(bad_answer)?;
        exchange.release().await;
        if !ok {
            return Ok(Probe::Class(class));
        }
        serde_json::from_slice(&body)
            .map(Probe::Body)
            .map_err(|error| bad_answer(format!("an answer that can't be read: {error}")))
    }

    fn settings(&self) -> Settings {
        **self.means.settings.load()
    }

    fn request(&self, path: &str) -> pingora::Result<RequestHeader> {
        let mut request = RequestHeader::build("GET", path.as_bytes(), Some(3))?;
        request.insert_header(http::header::ACCEPT, "application/json")?;
        self.target.sign(&mut request)?;
        Ok(request)
    }
}

fn failed(reachable: bool, reason: String) -> Check {
    Check::Failed { reason, reachable }
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
    Failed { reachable: bool, reason: String },
}

fn unresolved<T>() -> Probe<T> {
    Probe::Failed {
        reachable: false,
        reason: "its name has not been resolved".to_owned(),
    }
}

fn bad_answer<T>(reason: String) -> Probe<T> {
    Probe::Failed {
        reachable: true,
        reason,
    }
}

impl<T> From<Failure> for Probe<T> {
    fn from(failure: Failure) -> Self {
        if failure.is_silence() {
            return Self::TooLate;
        }
        Self::Failed {
            reachable: matches!(failure, Failure::Broken(_)),
            reason: failure.to_string(),
        }
    }
}

impl<T> Probe<T> {
    fn describe(&self) -> String {
        match self {
            Self::Body(_) => "fine".to_owned(),
            Self::Class(Class::Misconfigured) => "refuses the API key".to_owned(),
            Self::Class(Class::ServerError) => "answers with a server error".to_owned(),
            Self::Class(_) => "answers with an unexpected status".to_owned(),
            Self::TooLate => "no answer in time".to_owned(),
            Self::Failed { reason, .. } => reason.clone(),
        }
    }

    /// Did the host answer, however badly?
    fn is_an_answer(&self) -> bool {
        match self {
            Self::Body(_) | Self::Class(_) => true,
            Self::TooLate => false,
            Self::Failed { reachable, .. } => *reachable,
        }
    }
}
