//! Does a host take our key? A 401 or 403 may be about the key, or about the request: a filter
//! before the host may forbid a text. So the host is asked at once for what needs the key.
//!
//! Only a host that refuses that too refuses the key. One that can't tell (it has no such page, or
//! does not answer in time) is not taken out on a guess: one request could then take out every host
//! of its kind. Its siblings and its checks will tell.
//!
//! What was found holds for moments, and is asked for once at a time, so that a flood of forbidden
//! requests makes no flood of questions.

use std::sync::Arc;
use std::time::Duration;

use gpu_bridge_wire::openai::MODELS;
use http::StatusCode;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::Target;
use super::exchange::{Destination, Exchange};
use super::hosts::Means;
use super::meaning::Key;

const HOLDS: Duration = Duration::from_secs(1);
/// What needs the key, as far as a host has it.
const NEED_KEY: [&str; 2] = ["/status", "/info"];
/// The same of one that speaks OpenAI's API.
const NEED_KEY_IN_OPENAI: [&str; 1] = [MODELS];

/// What was found last, and when.
#[derive(Debug, Default)]
pub(super) struct Known(Mutex<Option<(Instant, Key)>>);

/// Asks the host, unless that was done just now.
pub(super) async fn ask(target: &Arc<Target>, means: &Means) -> Key {
    let mut known = target.key().0.lock().await;
    if let Some((when, key)) = *known
        && when.elapsed() < HOLDS
    {
        return key;
    }
    let within = means.config.get().health.timeout;
    let key = timeout(within, look(target, means)).await;
    let key = key.unwrap_or(Key::Taken);
    *known = Some((Instant::now(), key));
    key
}

async fn look(target: &Arc<Target>, means: &Means) -> Key {
    let paths: &[&str] = match target.openai() {
        None => &NEED_KEY,
        Some(_) => &NEED_KEY_IN_OPENAI,
    };
    for path in paths {
        match status_of(path, target, means).await {
            Some(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => return Key::Refused,
            Some(StatusCode::NOT_FOUND) => {}
            _ => break,
        }
    }
    Key::Taken
}

async fn status_of(path: &str, target: &Arc<Target>, means: &Means) -> Option<StatusCode> {
    let destination = Destination {
        target: Arc::clone(target),
        address: target.address()?,
    };
    let request = target.get(path);
    let exchange = Exchange::start(means, destination, request, &[], false).await;
    Some(exchange.ok()?.head().status)
}
