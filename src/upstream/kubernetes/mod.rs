//! `discover: kubernetes`: asks the API server of a cluster for the endpoints of a Service, and is told of
//! each change.
//!
//! ```text
//! list ──▶ watch ──(it ends, or is cut)──▶ watch from where it was
//!   ▲        └──(its past is forgotten: 410)──▶ list
//!   └──(anything else)── pause, with the credentials of then
//! ```
//!
//! `kube`'s watcher does that but for the last; [`slices`] decides what follows for the hosts. Whatever goes
//! wrong here is told and changes nothing else: those that were known stay.

mod client;
mod slices;
mod trouble;

use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::utils::Backoff as _;
use kube::runtime::watcher::{self, DefaultBackoff, watcher};
use kube::{Api, Client};

use super::discovery::Endpoints;
use crate::config::Service;
use slices::Slices;
use trouble::{Trouble, is_interruption};

/// Seconds after which the server ends a watch, and another is begun: a connection that has died in silence
/// is found out soon after.
const WATCH: u32 = 60;
/// Slices that are listed at once.
const PAGE: u32 = 8;
/// The longest that it pauses.
const PAUSE: Duration = Duration::from_secs(30);

/// Tells of the endpoints of `service` whenever they may have changed, for ever.
pub(super) async fn keep_watching(service: &Service, tell: impl Fn(Endpoints)) {
    let mut backoff = DefaultBackoff::default();
    loop {
        let told = |endpoints: Endpoints| tell(endpoints);
        let trouble = match client::connect().await {
            Ok(client) => watch(client, service, &told, &mut backoff).await,
            Err(trouble) => trouble,
        };
        tell(Endpoints::unknown(trouble.to_string()));
        pause(&mut backoff).await;
    }
}

/// Lists and watches for as long as nothing is lost; why it ended.
async fn watch(
    client: Client,
    service: &Service,
    tell: &impl Fn(Endpoints),
    backoff: &mut DefaultBackoff,
) -> Trouble {
    let namespace = service.namespace.as_deref();
    let namespace = namespace.unwrap_or(client.default_namespace()).to_owned();
    let api: Api<EndpointSlice> = Api::namespaced(client, &namespace);
    let wanted = watcher::Config::default()
        .labels(&format!("kubernetes.io/service-name={}", service.name))
        .timeout(WATCH)
        .page_size(PAGE);
    let mut slices = Slices::new(service.clone());
    let mut events = pin!(watcher(api, wanted));
    while let Some(event) = events.next().await {
        match event.map(|event| slices.take_in(event)) {
            Ok(None) => {}
            Ok(Some(endpoints)) => {
                backoff.reset();
                tell(endpoints);
            }
            Err(error) if is_interruption(&error) => pause(backoff).await,
            Err(error) => return Trouble::of(&error, &namespace),
        }
    }
    Trouble::Ended
}

/// Longer each time, by chance a little more or less: many proxies may ask one server.
async fn pause(backoff: &mut DefaultBackoff) {
    tokio::time::sleep(backoff.next().unwrap_or(PAUSE)).await;
}
