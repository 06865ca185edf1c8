//! Which pages may use the proxy from a browser (CORS, as the Fetch standard has it): those of the
//! configured origins, and without any the proxy says nothing of the matter, so that no page may.
//!
//! Before a request with a key, a browser asks whether it may send it (a preflight). That carries no key, and is
//! answered to pages of those origins without one. It opens nothing: what follows is asked for its key like
//! every request.

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use super::respond::Reply;
use crate::config::PageOrigin;

/// Whatever else the headers of an answer tell.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "retry-after, server-timing, x-compute-tokens, x-compute-tokens-each, x-embedding-space, x-hint, \
     x-request-id, x-served-by",
);
const METHODS: HeaderValue = HeaderValue::from_static("GET, POST");
/// How long a browser need not ask again, in seconds: as long as an operator may be willing to wait for a
/// change.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

/// The answer to a preflight, if that is what `head` is.
pub(super) fn preflight(origins: &[PageOrigin], head: &Parts) -> Option<Reply> {
    let asked = &head.headers;
    let is_preflight = head.method == Method::OPTIONS
        && asked.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
        && allowed(origins, head).is_some();
    if !is_preflight {
        return None;
    }
    let mut reply = Reply::of_json(StatusCode::OK, "")
        .with(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS)
        .with(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    reply.headers.remove(header::CONTENT_TYPE);
    // Any: clients of OpenAI's API send a dozen of their own, and none of them lets anybody in.
    if let Some(wanted) = asked.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        reply = reply.with(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
    }
    Some(reply)
}

/// Lets the page that `asked` read an answer with these headers, if it may.
pub(super) fn permit(origins: &[PageOrigin], asked: &Parts, headers: &mut HeaderMap) {
    if origins.is_empty() {
        return;
    }
    // Caches must not give one page's answer to another.
    headers.append(header::VARY, HeaderValue::from_static("origin"));
    if let Some(origin) = allowed(origins, asked) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    }
}

fn allowed<'a>(origins: &[PageOrigin], head: &'a Parts) -> Option<&'a HeaderValue> {
    let origin = head.headers.get(header::ORIGIN)?;
    let covers = |allowed: &PageOrigin| allowed.covers(origin.as_bytes());
    origins.iter().any(covers).then_some(origin)
}
