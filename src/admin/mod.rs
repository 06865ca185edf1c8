//! The operator's side, on an address of its own: the live page, metrics, probes, operations.
//!
//! ```text
//! request ─ access (who may?) ─┬ api (what it does) ───────────┬ view, summary, words (what is shown) ─ reply
//!                              ├ events (pushed to the page) ──┘
//!                              └ page (files)
//! ```
//!
//! Served by axum rather than by pingora: nothing here is proxied. Clients never get here.

pub mod access;
mod api;
mod events;
mod news;
mod page;
pub(crate) mod reply;
pub mod requests;
mod server;
pub mod story;
mod summary;
pub mod view;
mod words;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Extension, Router};
use gpu_bridge_framing::Refusal;
use gpu_bridge_places::{Asking, Place, Places};
use tokio::net::TcpListener;
use tokio::sync::watch;

use self::access::Need;
pub use self::events::Streams;
pub use self::server::MAX_CONNECTIONS;
use self::view::PoolState;
use crate::audit::Auditor;
use crate::budget::Budget;
use crate::config::Current;
use crate::pool::{Pool, PoolView};
use crate::reload::Reloader;
use crate::telemetry::{Metrics, Recent};

/// What the admin address shows and commands.
#[derive(Clone)]
pub struct Admin {
    /// Who may.
    pub config: Current,
    /// The pool.
    pub pool: Pool,
    /// Whether hosts answer right.
    pub auditor: Arc<Auditor>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The requests of late.
    pub recent: Arc<Recent>,
    /// The bytes held.
    pub budget: Budget,
    /// For new configurations.
    pub reloader: Reloader,
    /// True once the proxy is about to end.
    pub stopping: watch::Receiver<bool>,
    /// True once this address is about to be served by nobody, or by another process.
    pub closing: watch::Receiver<bool>,
    /// Places for pages that watch.
    pub streams: Streams,
}

impl Admin {
    /// The pool as `view` has it.
    fn state(&self, view: &PoolView) -> PoolState {
        let activity = &self.metrics.activity;
        let state = PoolState {
            uptime_seconds: activity.uptime().as_secs(),
            audits: self.config.get().audit.enabled,
            ..PoolState::new(view, &activity.lately())
        };
        state.with_configuration(self.reloader.standing())
    }
}

/// Serves connections that have one of `places` until it is told that it is closing.
pub async fn serve(listener: Arc<TcpListener>, admin: Admin, places: Places) {
    let mut closing = admin.closing.clone();
    let told = async move {
        let _ = closing.wait_for(|closing| *closing).await;
    };
    server::serve(&listener, router(admin), places, told).await;
}

fn router(admin: Admin) -> Router {
    let open = Router::new()
        .route("/", get(page::index))
        .route("/page/{file}", get(page::file))
        .route("/healthz", get(api::healthz))
        .route("/readyz", get(api::readyz));
    let scraped = Router::new().route("/metrics", get(api::metrics));
    let looked_at = Router::new()
        .route("/api/v1/pool", get(api::pool))
        .route("/api/v1/audit", get(api::audit))
        .route("/api/v1/audit/{host}", get(api::audit_of))
        .route("/api/v1/events", get(events::events))
        .route("/api/v1/requests", get(requests::latest))
        .route("/api/v1/requests/{*id}", get(requests::find));
    let operations = Router::new()
        .route("/api/v1/reload", post(api::reload))
        .route("/api/v1/hosts/{name}/drain", post(api::drain))
        .route("/api/v1/hosts/{name}/undrain", post(api::undrain));
    let guarded = |routes: Router<Admin>, need| {
        let guard = middleware::from_fn_with_state((admin.config.clone(), need), guard);
        routes.route_layer(guard)
    };
    open.merge(guarded(scraped, Need::Scrape))
        .merge(guarded(looked_at, Need::Look))
        .merge(guarded(operations, Need::Operate))
        .fallback(api::not_found)
        .method_not_allowed_fallback(api::method_not_allowed)
        .layer(middleware::from_fn(seated))
        .with_state(admin)
}

/// Whatever is asked for makes its connection the youngest, but for what is no request.
async fn seated(
    Extension(place): Extension<Place>,
    Extension(refusal): Extension<Refusal>,
    request: Request,
    next: Next,
) -> Response {
    if let Some(bad) = refusal.get() {
        return reply::error(bad.status(), bad.to_string());
    }
    // One that had to make room, and can't have another place, ends in any case.
    let _visit = place.ask(Asking::default());
    next.run(request).await
}

async fn guard(
    State((config, need)): State<(Current, Need)>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Extension(place): Extension<Place>,
    request: Request,
    next: Next,
) -> Response {
    let key = config.get().admin.key.clone();
    match access::decide(key.as_ref(), need, peer.ip(), request.headers()) {
        Ok(()) => {
            let asking = Asking {
                shows_key: key.is_some(),
                transfers: true,
            };
            let _visit = place.ask(asking);
            next.run(request).await
        }
        Err(denied) => reply::denied(denied),
    }
}
