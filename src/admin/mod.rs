//! The operator's side: `GET /metrics` on an address of its own.
//!
//! Served by axum rather than by pingora: nothing here is proxied, and what will join it (a live
//! page, operations) is ordinary web serving.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use crate::budget::Budget;
use crate::pool::Pool;
use crate::telemetry::Metrics;

/// What the admin address shows.
#[derive(Clone)]
pub struct Admin {
    /// The pool.
    pub pool: Pool,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The bytes held.
    pub budget: Budget,
}

/// Serves until `stop` ends.
///
/// # Errors
/// If the listener fails.
pub async fn serve(
    listener: TcpListener,
    admin: Admin,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .with_state(admin);
    axum::serve(listener, router)
        .with_graceful_shutdown(stop)
        .await
}

async fn metrics(State(admin): State<Admin>) -> Response {
    match admin
        .metrics
        .render(&admin.pool.view(), admin.budget.held())
    {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
