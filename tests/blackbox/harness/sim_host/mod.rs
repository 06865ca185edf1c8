//! A GPU host that behaves as told: one-time settings with [`sim_host`], everything else while it
//! runs.
//!
//! It has slots as a real one has, refuses what exceeds them, and records what it sees. The same
//! text always gets the same embedding, so that every answer can be checked ([`embedding_of`]).

mod api;
mod behaviour;
mod connection;
mod openai;
mod record;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use rustls::ServerConfig;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use self::api::{Api, Knobs};
pub(crate) use self::api::{embedding_of, padded, padded_answer};
pub(crate) use self::behaviour::{Answer, Behaviour, Ending, HealthAnswer, StatusAnswer, Vectors};
use self::connection::Port;
pub(crate) use self::openai::Server;
use self::record::{Record, Recorder};
use super::eventually;

/// A host in the making: two slots, open to everybody, serving at once.
pub(crate) fn sim_host(name: &str) -> Setup {
    Setup {
        name: name.to_owned(),
        knobs: Knobs {
            behaviour: Behaviour::Serve,
            vectors: Vectors::Right,
            health: HealthAnswer::Ok,
            status: StatusAnswer::Truth,
            slots: 2,
            foreign: 0,
            models: vec!["sim".to_owned()],
            installed: None,
            tells_installed: false,
            serves_all: false,
            unknown_model: Answer::error(404, "this model is not installed on this host"),
            ready: None,
            scores_pairs_alone: None,
            most_items: None,
            tells_most: false,
            api_key: None,
            openai: None,
        },
        tls: None,
        address: "127.0.0.1:0".parse().unwrap(),
    }
}

/// See [`sim_host`].
pub(crate) struct Setup {
    name: String,
    knobs: Knobs,
    tls: Option<Arc<ServerConfig>>,
    address: SocketAddr,
}

/// A simulated host, up until it is dropped or stopped.
pub(crate) struct SimHost {
    api: Arc<Api>,
    port: Port,
    tls: Option<Arc<ServerConfig>>,
    accepting: Mutex<Option<JoinHandle<()>>>,
}

impl Setup {
    pub(crate) fn behaving(mut self, behaviour: Behaviour) -> Self {
        self.knobs.behaviour = behaviour;
        self
    }

    /// Answers so, instead of right.
    pub(crate) fn computing(mut self, vectors: Vectors) -> Self {
        self.knobs.vectors = vectors;
        self
    }

    pub(crate) fn slots(mut self, slots: usize) -> Self {
        self.knobs.slots = slots;
        self
    }

    /// Models in memory from the start, instead of `sim`.
    pub(crate) fn models(mut self, models: &[&str]) -> Self {
        self.knobs.models = owned(models);
        self
    }

    /// Can serve these models only; answers 404 for others.
    pub(crate) fn installed(mut self, models: &[&str]) -> Self {
        self.knobs.installed = Some(owned(models));
        self
    }

    /// Tells in `/info` all that it can serve.
    pub(crate) fn tells_installed(mut self) -> Self {
        self.knobs.tells_installed = true;
        self
    }

    /// What it answers for a model that is not installed.
    pub(crate) fn unknown_model(mut self, answer: Answer) -> Self {
        self.knobs.unknown_model = answer;
        self
    }

    /// Says in `/health` whether it is ready.
    pub(crate) fn ready(mut self, ready: bool) -> Self {
        self.knobs.ready = Some(ready);
        self
    }

    /// Says in `/info` whether a pair's score is the same whatever else is in the batch.
    pub(crate) fn scores_pairs_alone(mut self, alone: bool) -> Self {
        self.knobs.scores_pairs_alone = Some(alone);
        self
    }

    /// Refuses more items than this at once.
    pub(crate) fn most_items(mut self, items: usize) -> Self {
        self.knobs.most_items = Some(items);
        self
    }

    /// Tells in `/info` how many items it takes at once.
    pub(crate) fn tells_most(mut self) -> Self {
        self.knobs.tells_most = true;
        self
    }

    /// Speaks OpenAI's API, as this server does.
    pub(crate) fn openai(mut self, server: Server) -> Self {
        self.knobs.openai = Some(server);
        self
    }

    pub(crate) fn key(mut self, api_key: &str) -> Self {
        self.knobs.api_key = Some(api_key.to_owned());
        self
    }

    pub(crate) fn status(mut self, status: StatusAnswer) -> Self {
        self.knobs.status = status;
        self
    }

    /// HTTPS instead of HTTP. Endings other than that of a connection as a whole are not to be had
    /// then.
    pub(crate) fn tls(mut self, config: ServerConfig) -> Self {
        self.tls = Some(Arc::new(config));
        self
    }

    /// At this address instead of 127.0.0.1; with port 0, at any free one.
    pub(crate) fn at(mut self, address: &str, port: u16) -> Self {
        self.address = SocketAddr::new(address.parse().unwrap(), port);
        self
    }

    pub(crate) fn start(self) -> SimHost {
        let host = SimHost {
            api: Arc::new(Api {
                name: self.name,
                knobs: Mutex::new(self.knobs),
                record: Recorder::default(),
                gate: Semaphore::new(0),
            }),
            port: Port::reserve(self.address),
            tls: self.tls,
            accepting: Mutex::default(),
        };
        host.restart();
        host
    }
}

impl SimHost {
    pub(crate) fn name(&self) -> &str {
        &self.api.name
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.port.address()
    }

    pub(crate) fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address())
    }

    /// The key that it wants.
    pub(crate) fn api_key(&self) -> Option<String> {
        self.knobs().api_key.clone()
    }

    /// The server of OpenAI's API that it is, if it is one.
    pub(crate) fn speaks(&self) -> Option<Server> {
        self.knobs().openai.clone()
    }

    /// Speaks OpenAI's API as this server does from now on.
    pub(crate) fn set_openai(&self, server: Server) {
        self.knobs().openai = Some(server);
    }

    pub(crate) fn set(&self, behaviour: Behaviour) {
        self.knobs().behaviour = behaviour;
    }

    /// Computes so from now on.
    pub(crate) fn set_vectors(&self, vectors: Vectors) {
        self.knobs().vectors = vectors;
    }

    /// Has these models in memory from now on.
    pub(crate) fn set_models(&self, models: &[&str]) {
        self.knobs().models = owned(models);
    }

    pub(crate) fn set_health(&self, health: HealthAnswer) {
        self.knobs().health = health;
    }

    pub(crate) fn set_status(&self, status: StatusAnswer) {
        self.knobs().status = status;
    }

    pub(crate) fn set_slots(&self, slots: usize) {
        self.knobs().slots = slots;
    }

    /// Has others use so many of its slots.
    pub(crate) fn set_foreign(&self, slots: usize) {
        self.knobs().foreign = slots;
    }

    pub(crate) fn set_ready(&self, ready: bool) {
        self.knobs().ready = Some(ready);
    }

    /// Serves every model from now on, whatever it tells.
    pub(crate) fn answer_all_models(&self) {
        self.knobs().serves_all = true;
    }

    pub(crate) fn set_installed(&self, models: &[&str]) {
        self.knobs().installed = Some(owned(models));
    }

    pub(crate) fn set_key(&self, api_key: &str) {
        self.knobs().api_key = Some(api_key.to_owned());
    }

    /// Lets so many requests that wait for it ([`Behaviour::ServeWhenReleased`]) be answered, in the
    /// order in which they came.
    pub(crate) fn release(&self, requests: usize) {
        self.api.gate.add_permits(requests);
    }

    /// Lets all requests be answered that wait or will wait for it.
    pub(crate) fn release_all(&self) {
        self.release(1 << 20);
    }

    /// Dies: connections are reset, new ones refused. The port stays its own.
    pub(crate) fn stop(&self) {
        if let Some(accepting) = self.accepting.lock().unwrap().take() {
            accepting.abort();
        }
    }

    /// Is up (again), at the same address.
    pub(crate) fn restart(&self) {
        self.stop();
        let accepting =
            connection::accept(self.port.listen(), self.tls.clone(), Arc::clone(&self.api));
        *self.accepting.lock().unwrap() = Some(tokio::spawn(accepting));
    }

    /// What it has seen so far.
    pub(crate) fn record(&self) -> Record {
        self.api.record.read()
    }

    /// How many compute requests it has seen.
    pub(crate) fn arrivals(&self) -> usize {
        self.record().requests.len()
    }

    /// How many compute requests it has turned away for want of a slot, and how many were given up half-way.
    pub(crate) fn excess(&self) -> (usize, usize) {
        self.api.record.excess()
    }

    /// Returns once it has been asked for `/health` so many times more.
    pub(crate) async fn is_checked(&self, times: usize) {
        let enough = self.record().checks + times;
        let what = format!("{times} checks of {}", self.name());
        eventually(&what, async || self.record().checks >= enough).await;
    }

    /// Returns once exactly so many requests hold a slot.
    pub(crate) async fn runs(&self, requests: usize) {
        let what = format!("{requests} requests running on {}", self.name());
        eventually(&what, async || self.api.record.running() == requests).await;
    }

    fn knobs(&self) -> MutexGuard<'_, Knobs> {
        self.api.knobs.lock().unwrap()
    }
}

impl Drop for SimHost {
    fn drop(&mut self) {
        self.stop();
    }
}

fn owned(models: &[&str]) -> Vec<String> {
    models.iter().map(|model| (*model).to_owned()).collect()
}
