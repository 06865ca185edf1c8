//! What the routes of the admin address do.

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;

use super::view::{HostState, PoolState, Reloaded};
use super::{Admin, reply};
use crate::config::HostName;

/// The process is alive.
pub(super) async fn healthz() -> Response {
    reply::json(StatusCode::OK, &Probe { status: "ok" })
}

/// A request would be served.
pub(super) async fn readyz(State(admin): State<Admin>) -> Response {
    if *admin.stopping.borrow() {
        return reply::error(StatusCode::SERVICE_UNAVAILABLE, "the proxy is stopping");
    }
    if !admin.pool.is_serving() {
        return reply::error(StatusCode::SERVICE_UNAVAILABLE, "no host can serve");
    }
    reply::json(StatusCode::OK, &Probe { status: "ready" })
}

pub(super) async fn metrics(State(admin): State<Admin>) -> Response {
    // With a thousand hosts this takes some hundredths of a second, for which no request should wait.
    let render = move || admin.metrics.render(&admin.pool.snapshot(), &admin.budget);
    let rendered = tokio::task::spawn_blocking(render).await;
    let text = match rendered {
        Ok(text) => text.map_err(|error| error.to_string()),
        // It panicked; with which text is nobody's business.
        Err(_) => Err("the metrics can't be made: a bug".to_owned()),
    };
    match text {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => reply::error(StatusCode::INTERNAL_SERVER_ERROR, error),
    }
}

pub(super) async fn pool(State(admin): State<Admin>) -> Response {
    reply::json(StatusCode::OK, &admin.state(&admin.pool.snapshot()))
}

/// What hosts say of the fixed texts that agree.
pub(super) async fn audit(State(admin): State<Admin>) -> Response {
    reply::json(StatusCode::OK, &admin.auditor.vectors(None))
}

/// What one of them says, whether others agree or not.
pub(super) async fn audit_of(State(admin): State<Admin>, Path(name): Path<String>) -> Response {
    let view = admin.pool.snapshot();
    let host = view.hosts.iter().find(|host| host.name.as_ref() == name);
    let Some(host) = host else {
        let known = admin.state(&view);
        return reply::error(StatusCode::NOT_FOUND, no_such_host(&name, &known));
    };
    reply::json(StatusCode::OK, &admin.auditor.vectors(Some(host.id)))
}

pub(super) async fn drain(State(admin): State<Admin>, Path(name): Path<String>) -> Response {
    with_host(&admin, &name, |host| {
        let known = admin.pool.drain(host);
        if known {
            tracing::info!(%host, "draining, by order of an operator");
        }
        known
    })
}

pub(super) async fn undrain(State(admin): State<Admin>, Path(name): Path<String>) -> Response {
    with_host(&admin, &name, |host| {
        let known = admin.pool.undrain(host);
        if known {
            tracing::info!(%host, "not draining any more, by order of an operator");
        }
        known
    })
}

/// Reads the configuration again. It goes on when nobody waits for the answer any more: what was begun
/// is finished, and the log tells of it.
pub(super) async fn reload(State(admin): State<Admin>) -> Response {
    tracing::info!("reading the configuration again, by order of an operator");
    let reloader = admin.reloader;
    match tokio::spawn(async move { reloader.reload().await }).await {
        Ok(Ok(change)) => reply::json(StatusCode::OK, &Reloaded::from(&change)),
        Ok(Err(refused)) => reply::error(StatusCode::UNPROCESSABLE_ENTITY, refused.to_string()),
        // It panicked; with which text is nobody's business.
        Err(_) => reply::error(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the reload broke off: a bug",
        ),
    }
}

/// Answers with the host as it is after `operation`, which returns false for one that is not there.
fn with_host(admin: &Admin, name: &str, operation: impl FnOnce(&HostName) -> bool) -> Response {
    let known = name.parse().is_ok_and(|name| operation(&name));
    let state = admin.state(&admin.pool.view());
    let host: Option<&HostState> = state.hosts.iter().find(|host| host.name == name);
    match host {
        Some(host) if known => reply::json(StatusCode::OK, host),
        _ => reply::error(StatusCode::NOT_FOUND, no_such_host(name, &state)),
    }
}

fn no_such_host(name: &str, pool: &PoolState) -> String {
    format!("no host is called {name:?}; there are: {}", pool.names())
}

pub(super) async fn not_found() -> Response {
    reply::error(
        StatusCode::NOT_FOUND,
        "there is no such page; see /, /api/v1/pool, /api/v1/audit, /api/v1/requests, /metrics, /healthz, /readyz",
    )
}

pub(super) async fn method_not_allowed() -> Response {
    reply::error(
        StatusCode::METHOD_NOT_ALLOWED,
        "pages are read with GET, operations are done with POST",
    )
}

#[derive(Serialize)]
struct Probe {
    status: &'static str,
}
