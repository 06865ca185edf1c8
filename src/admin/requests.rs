//! The requests of late: the latest ones, and one by its id.

use std::sync::Arc;

use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::{Serialize, Serializer};

use super::{Admin, reply, story};
use crate::telemetry::RequestRecord;

/// How many are shown unless `limit` says otherwise.
const LIMIT: usize = 50;

/// How many are named where one was asked for by the beginning of its id.
const SHOWN: usize = 8;

/// `GET /api/v1/requests`.
#[derive(Serialize)]
struct Requests {
    /// The latest first.
    #[serde(serialize_with = "each")]
    requests: Vec<Arc<RequestRecord>>,
}

fn each<S: Serializer>(requests: &[Arc<RequestRecord>], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(requests.iter().map(AsRef::as_ref))
}

pub(super) async fn latest(State(admin): State<Admin>, RawQuery(query): RawQuery) -> Response {
    let Some(limit) = limit(query.as_deref().unwrap_or_default()) else {
        let text = "limit must be a whole number, e.g. /api/v1/requests?limit=10";
        return reply::error(StatusCode::BAD_REQUEST, text);
    };
    let requests = admin.recent.latest(limit);
    reply::json(StatusCode::OK, &Requests { requests })
}

/// As JSON or, for whoever accepts `text/plain`, as its story.
pub(super) async fn find(
    State(admin): State<Admin>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    let accepted = headers.get(header::ACCEPT).map(HeaderValue::as_bytes);
    let ids = admin.recent.ids(&id);
    if ids.len() > 1 {
        return reply::error(StatusCode::CONFLICT, ambiguous(&id, &ids));
    }
    match ids.first().and_then(|id| admin.recent.find(id)) {
        Some(record) if accepted == Some(b"text/plain") => {
            let mut told = story::tell(&record).into_response();
            reply::never_store(&mut told);
            told
        }
        Some(record) => reply::json(StatusCode::OK, record.as_ref()),
        None => reply::error(StatusCode::NOT_FOUND, unknown(&id)),
    }
}

fn ambiguous(beginning: &str, ids: &[String]) -> String {
    let shown = ids.iter().take(SHOWN).map(String::as_str);
    let more = if ids.len() > SHOWN { ", …" } else { "" };
    let (count, shown) = (ids.len(), shown.collect::<Vec<_>>().join(", "));
    format!(
        "{count} requests of late have ids that begin with {beginning:?}: {shown}{more}; give more of it"
    )
}

fn unknown(id: &str) -> String {
    format!(
        "no request of late has an id that is, or begins with, {id:?} (it is in the answer's X-Request-Id and in the log); \
         only the last 1000 requests of this process are kept"
    )
}

/// `None`: it is no number.
fn limit(query: &str) -> Option<usize> {
    let mut pairs = url::form_urlencoded::parse(query.as_bytes());
    let wanted = pairs.find(|(name, _)| name == "limit");
    wanted.map_or(Some(LIMIT), |(_, value)| value.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits() {
        assert_eq!(limit(""), Some(LIMIT));
        assert_eq!(limit("other=1&limit=7"), Some(7));
        assert_eq!(limit("limit=-1"), None);
        assert_eq!(limit("limit="), None);
    }
}
