//! The socket: listens, serves until told to stop, lets running requests finish.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tracing::{info, warn};

/// How long running requests may take to finish once the service is told to stop.
const GRACE: Duration = Duration::from_mins(1);

/// Listens on `address`.
///
/// # Errors
/// The address is taken or not ours.
pub async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}"))
}

/// Serves until `stop` is ready, then accepts nothing new and waits up to a minute for what runs.
///
/// # Errors
/// The listener fails for good.
pub async fn serve(
    listener: TcpListener,
    service: Router,
    stop: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let (stopping, stopped) = oneshot::channel::<()>();
    let stop = async move {
        stop.await;
        info!("stopping: finishing what runs");
        drop(stopping);
    };
    let grace_is_over = async {
        // An error means that the sender is gone, which is the signal.
        drop(stopped.await);
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        served = axum::serve(listener, service).with_graceful_shutdown(stop) => {
            served.context("cannot serve")
        }
        () = grace_is_over => {
            warn!("some requests did not finish in time");
            Ok(())
        }
    }
}

/// Ready at the first SIGTERM or SIGINT.
///
/// # Errors
/// The system refuses the handlers.
pub fn stop_signal() -> anyhow::Result<impl Future<Output = ()> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot await SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot await SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
