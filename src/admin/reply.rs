//! Answers of the admin address: JSON, and `{"detail": …}` where something is wrong.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use gpu_bridge_wire::ErrorBody;
use serde::Serialize;

use super::access::Denied;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// `value`, never to be cached: it is about this moment.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let headers = [
        (header::CONTENT_TYPE, JSON),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    match serde_json::to_vec(value) {
        Ok(body) => (status, headers, body).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// As the answer to the next request will be another one.
pub(super) fn never_store(response: &mut Response) {
    let no_store = HeaderValue::from_static("no-store");
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, no_store);
}

/// What is wrong, for people.
pub(super) fn error(status: StatusCode, detail: impl Into<String>) -> Response {
    let detail = detail.into();
    json(status, &ErrorBody { detail })
}

pub(super) fn denied(denied: Denied) -> Response {
    let mut response = error(denied.status(), denied.to_string());
    if denied == Denied::Key {
        let scheme = HeaderValue::from_static("Bearer");
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, scheme);
    }
    response
}
