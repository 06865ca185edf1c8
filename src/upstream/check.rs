//! Health checks: is the host alive, does it know our key, how many slots does it have, what is
//! loaded on it.
//!
//! One endless task for each host, so that a hanging host delays nobody else's check. A check asks
//! `/health` (open), then `/status` with our key, and now and then `/info`; of a host that speaks OpenAI's API,
//! its `health_path`, and now and then `/v1/models`. Only the first decides whether the host is well; the
//! others may be missing.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use gpu_bridge_wire::{Health, Info, openai};
use http::StatusCode;
use parking_lot::Mutex;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::error::Category;
use tokio::time::{Instant as Clock, timeout_at};

use super::Target;
use super::alive::while_alive;
use super::exchange::{Destination, Exchange, Failure};
use super::hosts::Means;
use super::meaning::{Key, Meaning, meaning};
use super::readiness;
use super::told::{Load, Told};
use super::trouble::Trouble;
use crate::config::{self, OpenAi};
use crate::pool::{Check, HostId, Pool, Tells};

/// Answers to checks beyond this size are nonsense: models are told by the thousand, in names of 200 bytes …
const MAX_ANSWER: usize = 1 << 20;
/// … but in `/health` a few at most. All of it becomes values in memory, of many times its size.
const MAX_HEALTH: usize = 64 << 10;
/// Checks are spread by up to this share of their interval, so that those of many hosts, or of many
/// proxies, don't fall together.
const JITTER: f64 = 0.1;
/// A host's further addresses are tried so long after one another if the first does not answer.
const STAGGER: Duration = Duration::from_millis(100);
/// How many of its addresses one check tries.
const MOST_ADDRESSES: usize = 8;
/// What else a host tells is waited for no longer than that, or twice as long as its `/health` took.
const PATIENCE: Duration = Duration::from_millis(300);

/// How long a host that lists no models is not asked for them again.
const NO_LIST: Duration = Duration::from_mins(1);
/// Why a host that speaks OpenAI's API is sent nothing at first: some take any name for the model that they have, and
/// say in their answer that it was the one.
const NO_LIST_YET: &str =
    "it is up but not ready: it does not say which models it has (/v1/models)";

/// A check that ends so long after its time shows that this process, or its machine, stood still.
const LATE: Duration = Duration::from_millis(500);

/// Checks one host, and tells `pool` what it finds.
pub(super) struct Checker {
    pub(super) host: HostId,
    pub(super) target: Arc<Target>,
    pub(super) told: Mutex<LastTold>,
    /// Whose `/status` lacks something has been told.
    pub(super) is_short: AtomicBool,
    pub(super) means: Arc<Means>,
    pub(super) pool: Pool,
}

/// What a host last told of itself.
#[derive(Default)]
pub(super) struct LastTold {
    told: Option<Told>,
    /// When it is to be asked again.
    until: Option<Instant>,
}

impl Checker {
    /// Checks for ever.
    pub(super) async fn run(&self) {
        let mut told = None;
        let _checks = self.target.begin_checks();
        loop {
            self.pool.check_begins(self.host);
            let found = self.check().await;
            let problem = found.problem().map(str::to_owned);
            if problem != told {
                self.log(&found);
            }
            told = problem;
            self.target.was_found(!is_absent(&found));
            self.pool.checked(self.host, &found);
            let jitter = 1.0 + rand::random_range(-JITTER..JITTER);
            tokio::select! {
                () = self.pool.check_due(self.host, jitter) => {}
                () = self.target.gets_address() => {}
            }
        }
    }

    /// What is wrong, if anything is.
    fn log(&self, found: &Check) {
        let host = self.target.name();
        match (found, found.problem()) {
            (Check::NotReady { .. }, Some(reason)) => {
                tracing::warn!(%host, reason, "host is not ready");
            }
            (Check::Ours { .. }, Some(reason)) => {
                tracing::warn!(%host, reason, "host can't be checked, which is not its fault");
            }
            (_, Some(reason)) => tracing::warn!(%host, reason, "health check failed"),
            (_, None) => {}
        }
    }

    async fn check(&self) -> Check {
        if let Err(trouble) = self.target.has_address(self.settings().timeout).await {
            return ours(trouble);
        }
        let asked = Clock::now();
        let not_ready = match self.is_well().await {
            Ok(health) => health.not_ready(),
            Err(unwell) => return unwell,
        };
        let until = Clock::now() + patience(asked.elapsed(), self.settings().timeout);
        let told = async {
            match self.target.openai() {
                None => self.slots_and_info(until).await,
                Some(api) => self.models(api, until).await,
            }
        };
        let told = match while_alive(told, || self.is_heard()).await {
            Ok(told) => told,
            Err(silent) => return silent,
        };
        match (told, not_ready) {
            (Err(misconfigured), _) => misconfigured,
            (Ok(slots), Some(reason)) => Check::NotReady { reason, slots },
            (Ok(slots), None) => Check::Good { slots },
        }
    }

    /// What its `/health` tells; `Err`: what that makes of the check, since it is not well.
    async fn is_well(&self) -> Result<readiness::Told, Check> {
        let (asked, limit) = (Clock::now(), self.settings().timeout);
        let health = self.health(asked + limit).await;
        if asked.elapsed() > limit + LATE {
            return Err(ours(Trouble::Halted));
        }
        // Where all needs the key, so does this.
        if let (Probe::Other(status, Meaning::Misconfigured), Some(_)) =
            (&health, self.target.openai())
        {
            return Err(key_refused(*status));
        }
        well(health, limit)
    }

    /// `Err`: it leaves `/health` unanswered. Whatever else it answers, the next check will tell.
    async fn is_heard(&self) -> Result<(), Check> {
        match self.is_well().await {
            Err(silent @ Check::NoAnswer { .. }) => Err(silent),
            _ => Ok(()),
        }
    }

    /// What a host tells of its slots. `Err`: it refuses our key.
    async fn slots_and_info(&self, until: Clock) -> Result<Tells, Check> {
        let ours = self.pool.in_flight(self.host);
        let slots = match self.get::<Load>("/status", until).await {
            Probe::Other(status, Meaning::Misconfigured) => return Err(key_refused(status)),
            // Some of ours began or ended before it answered; of the two numbers the larger one keeps us
            // from taking our own for others'.
            Probe::Body(load) => {
                self.note(&load);
                Tells::Slots(load.slots(ours.max(self.pool.in_flight(self.host))))
            }
            Probe::Other(404 | 405 | 501, _) => Tells::Nothing,
            Probe::Other(..) | Probe::TooLate(_) | Probe::Ours(_) | Probe::Failed { .. } => {
                Tells::NotNow
            }
        };
        if self.is_to_tell()
            && let Probe::Body(info) = self.get::<Info>("/info", until).await
        {
            self.take_in(info);
        }
        Ok(slots)
    }

    /// Says once what its `/status` lacks.
    fn note(&self, load: &Load) {
        if load.is_short() && !self.is_short.swap(true, Ordering::Relaxed) {
            tracing::warn!(host = %self.target.name(), "host's /status has no queue.waiting_estimate, which is done without");
        }
    }

    /// The same of a host that speaks OpenAI's API, which tells nothing of its slots. `Err`: it refuses our key, or
    /// nobody knows whether it has a list of its models.
    async fn models(&self, api: &OpenAi, until: Clock) -> Result<Tells, Check> {
        if !self.is_to_tell() {
            return Ok(Tells::Nothing);
        }
        let is_known = self.told.lock().until.is_some();
        let patient = Clock::now() + self.settings().timeout;
        let until = if is_known { until } else { patient };
        match self.ask(openai::MODELS, until, listed).await {
            Probe::Body((ids, maker)) => {
                let info = self.take_in(super::openai::info(api, ids, maker.as_deref()));
                self.target.lists(Some(info));
            }
            Probe::Other(status, Meaning::Misconfigured) => return Err(key_refused(status)),
            Probe::Other(400 | 404 | 405 | 501, _) => self.has_no_list(api, until).await,
            Probe::Failed {
                trouble: Trouble::NotJson,
                ..
            } if !is_known => self.has_no_list(api, until).await,
            Probe::Ours(trouble) if !is_known => return Err(ours(trouble)),
            _ if !is_known => return Err(no_list_yet()),
            Probe::Other(..) | Probe::TooLate(_) | Probe::Ours(_) | Probe::Failed { .. } => {}
        }
        Ok(Tells::Nothing)
    }

    /// Of what there is without a list, text-embeddings-inference tells how many texts it takes.
    async fn has_no_list(&self, api: &OpenAi, until: Clock) {
        if let Some(info) = super::openai::unlisted(api) {
            let told = self.get::<Limits>("/info", until).await;
            let most = match told {
                Probe::Body(limits) => limits.max_client_batch_size,
                _ => None,
            };
            self.take_in(Info {
                max_batch_size: most,
                ..info
            });
        }
        self.target.lists(None);
        self.told.lock().until = Some(Instant::now() + NO_LIST);
    }

    fn is_to_tell(&self) -> bool {
        let until = self.told.lock().until;
        until.is_none_or(|until| Instant::now() >= until)
    }

    /// Returns what of it is kept.
    fn take_in(&self, info: Info) -> Arc<Info> {
        let mut last = self.told.lock();
        let was_too_many = last.told.as_ref().is_some_and(|before| before.too_many);
        let told = Told::new(info, last.told.take());
        if told.too_many && !was_too_many {
            tracing::warn!(host = %self.target.name(), "host names too many models: those beyond are not known of it");
        }
        let info = Arc::clone(&told.info);
        self.pool.told(self.host, Arc::clone(&info));
        *last = LastTold {
            told: Some(told),
            until: Some(Instant::now() + self.settings().interval),
        };
        info
    }

    /// Asks `/health` at the address in use, soon also at the host's others, and uses the first that
    /// answers. If none does, silence from one says more than a refusal from another.
    async fn health(&self, until: Clock) -> Probe<readiness::Told> {
        let candidates = self.target.candidates().into_iter().take(MOST_ADDRESSES);
        let path = self.target.health_path();
        let read: Read<readiness::Told> = match self.target.openai() {
            None => in_json,
            Some(_) => any_body,
        };
        let ask = async |(turn, address)| {
            tokio::time::sleep(STAGGER * turn).await;
            let reply = self.ask_at(address, path, until, MAX_HEALTH, read).await;
            (address, reply)
        };
        let mut asked: FuturesUnordered<_> = (0..).zip(candidates).map(ask).collect();
        let mut failure = unresolved();
        while let Some((address, reply)) = asked.next().await {
            match reply {
                reply @ (Probe::Body(_) | Probe::Other(..)) => {
                    self.target.use_address(address);
                    return reply;
                }
                silence @ Probe::TooLate(_) => failure = silence,
                Probe::Ours(_) | Probe::Failed { .. } if matches!(failure, Probe::TooLate(_)) => {}
                reply @ (Probe::Ours(_) | Probe::Failed { .. }) => failure = reply,
            }
        }
        failure
    }

    /// Asks at the address in use.
    async fn get<T: DeserializeOwned>(&self, path: &str, until: Clock) -> Probe<T> {
        self.ask(path, until, in_json).await
    }

    async fn ask<T>(&self, path: &str, until: Clock, read: Read<T>) -> Probe<T> {
        match self.target.candidates().first() {
            Some(address) => self.ask_at(*address, path, until, MAX_ANSWER, read).await,
            None => unresolved(),
        }
    }

    /// `most`: bytes of the answer.
    async fn ask_at<T>(
        &self,
        address: SocketAddr,
        path: &str,
        until: Clock,
        most: usize,
        read: Read<T>,
    ) -> Probe<T> {
        match timeout_at(until, self.fetch(address, path, most, read)).await {
            Ok(Ok(reply) | Err(reply)) => reply,
            Err(_) => Probe::TooLate(Trouble::Silent(self.settings().timeout)),
        }
    }

    async fn fetch<T>(
        &self,
        address: SocketAddr,
        path: &str,
        most: usize,
        reading: Read<T>,
    ) -> Result<Probe<T>, Probe<T>> {
        let destination = Destination {
            target: Arc::clone(&self.target),
            address,
        };
        let request = self.target.get(path);
        let mut exchange = Exchange::start(&self.means, destination, request, &[], false).await?;
        let head = exchange.head();
        let status = head.status;
        let meaning = meaning(head, Key::Refused, SystemTime::now());
        let body = read(&mut exchange, most).await.map_err(bad_answer)?;
        exchange.release(&self.means.kept);
        if status != StatusCode::OK {
            return Ok(Probe::Other(status.as_u16(), meaning));
        }
        reading(&body).map(Probe::Body).map_err(bad_answer)
    }

    fn settings(&self) -> config::Health {
        self.means.config.get().health
    }
}

/// What text-embeddings-inference tells in its `/info`, as far as it matters here.
#[derive(Deserialize)]
struct Limits {
    max_client_batch_size: Option<NonZeroU32>,
}

/// What the body of an answer says.
type Read<T> = fn(&[u8]) -> Result<T, Trouble>;

fn in_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Trouble> {
    serde_json::from_slice(body).map_err(|error| unreadable(&error))
}

#[expect(clippy::unnecessary_wraps, reason = "read like other answers")]
fn any_body(body: &[u8]) -> Result<readiness::Told, Trouble> {
    Ok(readiness::Told::of_anybody(body))
}

fn listed(body: &[u8]) -> Result<(Vec<String>, Option<String>), Trouble> {
    openai::listed_models(body).ok_or(Trouble::NotJson)
}

/// How long a host's `/status` and `/info` may take together if its `/health` took `health`.
pub(crate) fn patience(health: Duration, limit: Duration) -> Duration {
    (health * 2).max(PATIENCE).min(limit)
}

/// What the answer of `/health`, for which `limit` was waited, tells, or what it makes of the check if the host is
/// not well.
fn well(health: Probe<readiness::Told>, limit: Duration) -> Result<readiness::Told, Check> {
    Err(match health {
        Probe::Body(told) if told.health.status == Health::OK => return Ok(told),
        Probe::Body(_) => failed(true, Trouble::Unwell),
        Probe::Other(_, Meaning::Busy { retry_after }) => Check::Busy { retry_after },
        Probe::Other(status, _) => failed(true, Trouble::Status(status)),
        Probe::TooLate(trouble) => Check::NoAnswer {
            reason: trouble.to_string(),
            silent_for: limit,
        },
        Probe::Ours(trouble) => ours(trouble),
        Probe::Failed { reachable, trouble } => failed(reachable, trouble),
    })
}

/// Was there no sign of the host at its address?
fn is_absent(found: &Check) -> bool {
    matches!(
        found,
        Check::NoAnswer { .. }
            | Check::Failed {
                reachable: false,
                ..
            }
    )
}

fn no_list_yet() -> Check {
    Check::NotReady {
        reason: NO_LIST_YET.to_owned(),
        slots: Tells::Nothing,
    }
}

fn key_refused(status: u16) -> Check {
    Check::Misconfigured {
        reason: Trouble::KeyRefused(status).to_string(),
    }
}

fn ours(trouble: Trouble) -> Check {
    Check::Ours {
        reason: trouble.to_string(),
    }
}

fn failed(reachable: bool, trouble: Trouble) -> Check {
    Check::Failed {
        reason: trouble.to_string(),
        reachable,
    }
}

/// A body of `most` bytes or fewer.
async fn read(exchange: &mut Exchange, most: usize) -> Result<Vec<u8>, Trouble> {
    let mut body = Vec::new();
    while let Some(chunk) = exchange
        .next_chunk()
        .await
        .map_err(|error| Trouble::exchanging(&error))?
    {
        if body.len() + chunk.len() > most {
            return Err(Trouble::Endless);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// What came back.
enum Probe<T> {
    /// 200 with what was asked for.
    Body(T),
    /// Another status, and what that means.
    Other(u16, Meaning),
    /// Nothing in time.
    TooLate(Trouble),
    /// It was not asked, or not to the end, for a reason of this machine's.
    Ours(Trouble),
    /// No connection, or nonsense.
    Failed { reachable: bool, trouble: Trouble },
}

fn unresolved<T>() -> Probe<T> {
    Probe::Ours(Trouble::Unresolved)
}

fn bad_answer<T>(trouble: Trouble) -> Probe<T> {
    Probe::Failed {
        reachable: true,
        trouble,
    }
}

fn unreadable(error: &serde_json::Error) -> Trouble {
    match error.classify() {
        Category::Data => Trouble::NotAGpuHost,
        Category::Io | Category::Syntax | Category::Eof => Trouble::NotJson,
    }
}

impl<T> From<Failure> for Probe<T> {
    fn from(failure: Failure) -> Self {
        if let Some(what) = failure.shortage() {
            return Self::Ours(Trouble::Short(what));
        }
        let is_silence = failure.is_silence();
        match failure {
            Failure::Connect(error) if is_silence => Self::TooLate(Trouble::connecting(&error)),
            Failure::Connect(error) => Self::Failed {
                reachable: false,
                trouble: Trouble::connecting(&error),
            },
            Failure::Broken(error) => bad_answer(Trouble::exchanging(&error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use pingora::connectors::TransportConnector;

    use super::super::kept::Kept;
    use super::super::testing::member;
    use super::*;
    use crate::budget::Budget;
    use crate::config::{Current, Policy};
    use crate::pool::{self, Thresholds};

    const LIMIT: Duration = Duration::from_secs(2);

    /// Of a host that accepts connections and says nothing.
    fn checker(silent: &TcpListener) -> Checker {
        let settings = pool::Settings {
            policy: Policy::LeastBusy,
            thresholds: Thresholds {
                healthy_after: NonZeroU32::MIN,
                unhealthy_after: NonZeroU32::MIN,
            },
            max_waiting: 1,
            max_waiting_bytes: 1,
            check_interval: LIMIT,
        };
        let url = format!("http://{}", silent.local_addr().unwrap());
        let pool = Pool::new(settings, 1, Box::new(|_| ()));
        let member = member("a", &url);
        let host = pool.set_hosts(vec![member.spec()])[0];
        Checker {
            host,
            target: Arc::new(Target::new(member)),
            told: Mutex::default(),
            is_short: AtomicBool::default(),
            means: Arc::new(Means {
                connector: TransportConnector::new(None),
                kept: Kept::default(),
                config: Current::for_testing("health: {timeout: 2s}"),
                budget: Budget::new(1 << 20),
            }),
            pool,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_counts_unless_it_was_we_who_stood_still() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        for (time, is_ours) in [(LIMIT, false), (4 * LIMIT, true)] {
            let checker = checker(&silent);
            let check = tokio::spawn(async move { checker.check().await });
            tokio::task::yield_now().await;
            tokio::time::advance(time).await;
            let found = check.await.unwrap();
            assert_eq!(matches!(found, Check::Ours { .. }), is_ours, "{found:?}");
            assert_eq!(
                matches!(found, Check::NoAnswer { .. }),
                !is_ours,
                "{found:?}"
            );
        }
    }
}
