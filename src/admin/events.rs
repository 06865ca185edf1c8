//! `GET /api/v1/events`: the pool, pushed once a second and at once when something happens to a host,
//! as server-sent events.
//!
//! The first push brings the last minutes along, so that a page that has just been opened has its
//! plots; the next ones only what is new. A stream ends when the admin address is about to be served
//! by another process, which is where the page then finds itself.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use gpu_bridge_places::{Asking, Place, Running};
use parking_lot::Mutex;
use serde_json::value::RawValue;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::news::Push;
use super::view::PoolState;
use super::{Admin, reply};
use crate::pool::PoolView;

/// Streams at once.
const MAX_STREAMS: usize = 32;
/// Time between two pushes at least, however much happens.
const SPACING: Duration = Duration::from_millis(100);

/// Places for streams, and what all of them push; clones share them.
#[derive(Clone)]
pub struct Streams {
    places: Arc<Semaphore>,
    last: Arc<Mutex<Option<Shown>>>,
}

/// The pool as it is pushed, and of which view that was made.
type Shown = (Arc<PoolView>, Arc<RawValue>);

impl Default for Streams {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(MAX_STREAMS)),
            last: Arc::default(),
        }
    }
}

impl Streams {
    /// The pool as `view` has it, fit to be shown; made once for all streams.
    fn shown(
        &self,
        view: Arc<PoolView>,
        state: impl FnOnce(&PoolView) -> PoolState,
    ) -> serde_json::Result<Arc<RawValue>> {
        let mut last = self.last.lock();
        if let Some((_, json)) = last.as_ref().filter(|(of, _)| Arc::ptr_eq(of, &view)) {
            return Ok(Arc::clone(json));
        }
        let json = reply::shown(&state(&view))?;
        let json: Arc<RawValue> = serde_json::from_slice::<Box<RawValue>>(&json)?.into();
        *last = Some((view, Arc::clone(&json)));
        Ok(json)
    }
}

/// One page that watches.
struct Watcher {
    admin: Admin,
    changes: watch::Receiver<()>,
    /// What it knows already; `None` before the first push.
    known: Option<u64>,
    _place: OwnedSemaphorePermit,
    /// A page that watches makes room for nobody.
    _running: Option<Running>,
}

pub(super) async fn events(
    State(admin): State<Admin>,
    Extension(connection): Extension<Place>,
) -> Response {
    let Ok(place) = Arc::clone(&admin.streams.places).try_acquire_owned() else {
        return reply::error(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("{MAX_STREAMS} pages are open already; close one and reload"),
        );
    };
    let visit = connection.ask(Asking::default());
    let watcher = Watcher {
        changes: admin.metrics.activity.changes(),
        admin,
        known: None,
        _place: place,
        _running: visit.ok().map(|visit| visit.run()),
    };
    let pushes = stream::unfold(watcher, async |mut watcher: Watcher| {
        let event = watcher.next().await?;
        Some((Ok::<_, Infallible>(event), watcher))
    });
    let mut response = Sse::new(pushes)
        .keep_alive(KeepAlive::default())
        .into_response();
    reply::never_store(&mut response);
    response
}

impl Watcher {
    /// `None`: the stream ends.
    async fn next(&mut self) -> Option<Event> {
        if self.known.is_some() {
            let mut closing = self.admin.closing.clone();
            tokio::select! {
                () = self.something_new() => {}
                _ = closing.wait_for(|closing| *closing) => return None,
            }
        }
        let news = self.admin.metrics.activity.news(self.known.unwrap_or(0));
        self.known = Some(news.next);
        let stopping = *self.admin.stopping.borrow();
        let (admin, view) = (&self.admin, self.admin.pool.snapshot());
        let pool = admin.streams.shown(view, |view| admin.state(view)).ok()?;
        let push = Push::new(&pool, stopping, &news, SystemTime::now());
        Some(event(&push))
    }

    async fn something_new(&mut self) {
        tokio::time::sleep(SPACING).await;
        if self.changes.changed().await.is_err() {
            // Never: this watcher's own handle keeps the sender.
            std::future::pending::<()>().await;
        }
    }
}

fn event(push: &Push<'_>) -> Event {
    // Serialising plain structs to memory has no way to fail; an empty event says nothing, which
    // would be true if it ever did.
    let json = reply::shown(push).unwrap_or_default();
    Event::default().data(String::from_utf8_lossy(&json))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Lately;

    #[test]
    fn what_all_pages_show_is_made_once() {
        let streams = Streams::default();
        let view = || Arc::new(PoolView::for_testing(vec![]));
        let state = |view: &PoolView| PoolState::new(view, &Lately::default());
        let first = view();
        let shown = streams.shown(Arc::clone(&first), state).unwrap();
        assert!(shown.get().starts_with('{'));
        let again = streams
            .shown(first, |_| unreachable!("it is there"))
            .unwrap();
        assert!(Arc::ptr_eq(&shown, &again));
        let later = streams.shown(view(), state).unwrap();
        assert!(!Arc::ptr_eq(&shown, &later));
    }
}
