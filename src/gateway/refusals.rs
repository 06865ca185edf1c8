//! Answers that the proxy makes because a request gets no other: what is wrong, and what to do next.
//!
//! The texts for a missing key, an unknown path and a wrong method are what clients of a single host
//! know, and stay as they are; what helps stands in [`HINT`] there.

use std::collections::BTreeSet;
use std::time::Duration;

use gpu_bridge_framing::Coded;
use gpu_bridge_places::Full;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::auth;
use super::body::BodyError;
use super::respond::{Reply, header_value};
use super::route::{NoRoute, ROUTES};
use crate::config::HostName;
use crate::dispatch::{NoHost, Refusal};
use crate::embedding::BadSpace;
use crate::pool::{LimitReached, Model};
use crate::telemetry::{Reason, Tried};

/// What to do next, where the body must not say it.
pub(super) const HINT: HeaderName = HeaderName::from_static("x-hint");
/// How a key may be shown. Two lines: a list in one would be hard to tell from a scheme's parameters.
const CHALLENGES: [&str; 2] = [
    "Bearer realm=\"gpu-bridge\"",
    "ApiKey realm=\"gpu-bridge\", header=\"X-API-Key\"",
];

/// Models, or hosts, that are listed; more would be no help.
const MOST_LISTED: usize = 12;

/// To a client whose chunks make no sense.
const UNFRAMED: &str =
    "the chunks of the body are not framed as HTTP says; send Content-Length instead";

/// To a client of OpenAI's API with a wrong base URL.
const NO_VERSION: &str = "the base URL of clients of OpenAI's API must end in /v1";

/// No key that we know in these headers.
pub(super) fn unauthorized(headers: &HeaderMap) -> Reply {
    let hint = match auth::keys_shown(headers) {
        0 => "no key was sent; send yours as X-API-Key or as Authorization: Bearer KEY",
        1 => "the key that was sent is not one of the proxy's; ask its operator for one",
        _ => "several keys were sent; send one, as X-API-Key or as Authorization: Bearer KEY",
    };
    let mut reply = Reply::error(StatusCode::UNAUTHORIZED, "Unauthorized")
        .with(HINT, HeaderValue::from_static(hint))
        .because(Reason::Unauthorized)
        .explained(hint);
    for challenge in CHALLENGES {
        let challenge = HeaderValue::from_static(challenge);
        reply.headers.append(header::WWW_AUTHENTICATE, challenge);
    }
    reply
}

/// Its client's own limits would make it wait for longer than it may. Like any other full line that is
/// worth repeating, and said with the status that clients of a single host repeat.
fn held_back(limit: LimitReached, wait: u64) -> Reply {
    let text = format!(
        "{limit}, and more of them wait than can be served in time; retry in {wait} s, or send fewer \
         at once"
    );
    Reply::retry_later(text, wait).because(of_limit(limit))
}

/// The limit as a reason.
fn of_limit(limit: LimitReached) -> Reason {
    match limit {
        LimitReached::Concurrent(_) => Reason::MaxConcurrent,
        LimitReached::PerSecond(_) => Reason::MaxPerSecond,
    }
}

/// There is no place for its connection.
pub(super) fn no_place(full: Full) -> Reply {
    let text = match full {
        Full::All => {
            "too many connections are open (limits.max_connections, or the limit of open files); \
             close some or retry later"
        }
        Full::Client => {
            "too many connections are open from this address (limits.max_connections_per_client); \
             close some, or have the operator name it in headers.trusted_proxies if it is a proxy"
        }
    };
    Reply::retry_later(text, 1).because(Reason::NoPlace)
}

/// The proxy ends before it is answered; whatever comes in its place is there in a moment.
pub(super) fn stopping() -> Reply {
    let text = "the proxy is stopping, and this request was not answered in time (timeouts.shutdown); retry in 1 s";
    Reply::retry_later(text, 1).because(Reason::Stopping)
}

/// For nothing that there is.
pub(super) fn no_route(no_route: NoRoute) -> Reply {
    let reply = match no_route {
        NoRoute::NotFound => Reply::error(StatusCode::NOT_FOUND, "Not Found")
            .with(HINT, header_value(&format!("there are: {}", routes()))),
        NoRoute::NoVersion => Reply::error(StatusCode::NOT_FOUND, "Not Found")
            .with(HINT, HeaderValue::from_static(NO_VERSION))
            .explained(NO_VERSION),
        NoRoute::MethodNotAllowed { allow } => {
            let hint = format!("use {allow}; there are: {}", routes());
            Reply::error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed")
                .with(header::ALLOW, HeaderValue::from_static(allow))
                .with(HINT, header_value(&hint))
        }
        NoRoute::TrailingSlash { path } => Reply::error(StatusCode::TEMPORARY_REDIRECT, path)
            .with(header::LOCATION, HeaderValue::from_static(path)),
    };
    reply.because(Reason::NoRoute)
}

fn routes() -> String {
    let routes = ROUTES.map(|(method, route)| format!("{method} {}", route.path()));
    routes.join(", ")
}

/// Without a body that can be used. `None`: there is nobody to answer. `wait`: when the proxy expects
/// to have room, in seconds.
pub(super) fn bad_body(error: &BodyError, wait: u64) -> Option<Reply> {
    let (status, reason) = match error {
        BodyError::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, Reason::BodyTooLarge),
        BodyError::TooSlow(_) => (StatusCode::REQUEST_TIMEOUT, Reason::BodyTooSlow),
        BodyError::Malformed => (StatusCode::BAD_REQUEST, Reason::BadBody),
        BodyError::NoMemory => return Some(no_memory(wait)),
        BodyError::Gone => return None,
    };
    let reply = Reply::error(status, error.to_string()).because(reason);
    Some(match error {
        BodyError::Malformed => reply.with(HINT, HeaderValue::from_static(UNFRAMED)),
        _ => reply,
    })
}

/// As many bytes are held as may be.
pub(super) fn no_memory(wait: u64) -> Reply {
    Reply::retry_later(BodyError::NoMemory.to_string(), wait).because(Reason::Memory)
}

/// In plain HTTP, where TLS is spoken.
pub(super) fn no_tls() -> Reply {
    let text = "this address speaks TLS: use https://, not http://";
    Reply::error(StatusCode::BAD_REQUEST, text)
}

/// With a body that is compressed.
pub(super) fn coded_body(coded: &Coded) -> Reply {
    Reply::error(StatusCode::UNSUPPORTED_MEDIA_TYPE, coded.to_string())
        .with(
            header::ACCEPT_ENCODING,
            HeaderValue::from_static("identity"),
        )
        .because(Reason::BodyCoded)
}

/// Without a host's answer. `shortage`: what the hosts are up to.
pub(super) fn no_host(
    NoHost { refusal, limit }: NoHost,
    attempts: &[Tried],
    shortage: impl FnOnce() -> String,
    wait: u64,
) -> Reply {
    let reason = match (refusal, limit) {
        (Refusal::TooLate, limit) => return too_late(limit, shortage, wait),
        (_, Some(limit)) => return held_back(limit, wait),
        (Refusal::HostsFailed, None) => {
            let text = format!(
                "{refusal} ({}); retry once, then try a smaller request, and tell the operator \
                 its X-Request-Id",
                tried(attempts)
            );
            return Reply::error(StatusCode::BAD_GATEWAY, text).because(Reason::HostsFailed);
        }
        (Refusal::NoModel, None) => return no_model(None, &BTreeSet::new(), &[]),
        (Refusal::Unheard, None) => Reason::NoModel,
        (Refusal::Deviating, None) => Reason::WrongAnswers,
        (Refusal::OtherSpace, None) => Reason::OtherSpace,
        (Refusal::QueueFull | Refusal::ManyModels, None) => Reason::QueueFull,
        (Refusal::QueueTooLong, None) => Reason::QueueTooLong,
        (Refusal::Deadline, None) => Reason::Deadline,
    };
    let text = format!("{refusal}; retry in {wait} s ({})", shortage());
    Reply::retry_later(text, wait).because(reason)
}

/// It names a space where its vectors must lie, which nobody can know.
pub(super) fn no_audits() -> Reply {
    let text = "X-Embedding-Space can't be heeded: this proxy does not audit its hosts (audit.enabled); \
                leave the header out, or ask the operator";
    Reply::error(StatusCode::SERVICE_UNAVAILABLE, text).because(Reason::OtherSpace)
}

/// It names a space, but no model, and hosts have models of their own that they take then.
pub(super) fn no_model_named() -> Reply {
    let text = "a request with X-Embedding-Space must name its model";
    Reply::error(StatusCode::BAD_REQUEST, text).because(Reason::BadHeader)
}

/// It names no space.
pub(super) fn bad_space(bad: BadSpace) -> Reply {
    let text = format!("X-Embedding-Space: {bad}");
    Reply::error(StatusCode::BAD_REQUEST, text).because(Reason::BadHeader)
}

/// Every host lacks the model that was `asked` for, as far as anybody knows. `told`: what they have, as far as they
/// tell; `unasked`: those that could not be asked.
pub(super) fn no_model(
    asked: Option<&Model>,
    told: &BTreeSet<String>,
    unasked: &[HostName],
) -> Reply {
    let asked = asked.and_then(|model| model.as_str().split_once(':'));
    let (route, name) = asked.unwrap_or_default();
    let told = told.iter().filter_map(|model| model.split_once(':'));
    let names: Vec<&str> = told
        .filter_map(|(of, name)| (of == route).then_some(name))
        .filter(|name| name.len() <= Model::MAX_LEN)
        .collect();
    let unasked: Vec<&str> = unasked.iter().map(AsRef::as_ref).collect();
    let lacking = match name {
        "" => "no host of the pool has a model for requests that name none".to_owned(),
        name => format!("no host of the pool has the model '{name}'"),
    };
    let mut text = lacking;
    if !names.is_empty() {
        text = format!("{text}; for {route} there are: {}", list(&names));
    }
    if !unasked.is_empty() {
        text = format!("{text}; out, and could not be asked: {}", list(&unasked));
    }
    Reply::error(StatusCode::NOT_FOUND, text).because(Reason::NoModel)
}

/// The first of them, and how many more there are.
fn list(names: &[&str]) -> String {
    let first = names.iter().take(MOST_LISTED).copied();
    let more = names.len().saturating_sub(MOST_LISTED);
    let more = (more > 0).then(|| format!("and {more} more"));
    let all = first.map(str::to_owned).chain(more);
    all.collect::<Vec<_>>().join(", ")
}

/// The client's own bound, of which it told, has passed. Nothing is wrong with the request or the hosts:
/// with more time it would have been served, so it is worth repeating.
pub(super) fn too_late(
    limit: Option<LimitReached>,
    shortage: impl FnOnce() -> String,
    wait: u64,
) -> Reply {
    let obstacle = limit.map_or_else(shortage, |limit| limit.to_string());
    let text = format!(
        "{}; retry in {wait} s, or give it more ({obstacle})",
        Refusal::TooLate
    );
    Reply::retry_later(text, wait).because(limit.map_or(Reason::Deadline, of_limit))
}

/// No host can serve. Those that are not known are told no more; `details`: for others. Without
/// `Retry-After`: the answer itself is what was asked for, and clients that heed that header would
/// wait for another one.
pub(super) fn down(details: Option<String>) -> Reply {
    let details = details.unwrap_or_else(|| "no host can serve".to_owned());
    Reply::error(StatusCode::SERVICE_UNAVAILABLE, details)
}

/// Each host that failed. The reasons are for operators: they name addresses.
fn tried(attempts: &[Tried]) -> String {
    let tried = attempts.iter();
    let tried = tried.map(|attempt| format!("{}: {}", attempt.host, attempt.verdict));
    tried.collect::<Vec<_>>().join(", ")
}

/// Rounded up.
pub(super) fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use gpu_bridge_framing::BadHead;

    use super::super::call::BAD_TIMEOUT;
    use super::super::http1::NoRequest;
    use super::*;

    fn detail(reply: &Reply) -> String {
        let body: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!(reply.headers[header::CONTENT_TYPE], "application/json");
        assert_eq!(body.as_object().unwrap().len(), 1, "{body}");
        body["detail"].as_str().unwrap().to_owned()
    }

    fn attempt(host: &str, verdict: &'static str) -> Tried {
        Tried {
            host: host.to_owned(),
            after: Duration::ZERO,
            took: None,
            verdict: verdict.into(),
            reason: Some("connection to 10.0.0.1 reset".to_owned()),
            items: None,
            others: None,
            span_id: None,
        }
    }

    #[test]
    fn a_model_that_no_host_has_is_told_with_what_there_is() {
        let asked = Model::new("embed:m");
        let nothing = no_model(asked.as_ref(), &BTreeSet::new(), &[]);
        assert_eq!(nothing.status, StatusCode::NOT_FOUND);
        assert_eq!(detail(&nothing), "no host of the pool has the model 'm'");
        let out = ["b", "c"].map(|name| name.parse().unwrap());
        let unasked = no_model(asked.as_ref(), &BTreeSet::new(), &out);
        assert_eq!(
            detail(&unasked),
            "no host of the pool has the model 'm'; out, and could not be asked: b, c"
        );
        let told = (0..20).map(|number| format!("embed:{number:02}"));
        let told = told.chain(["bertscore:b".to_owned()]).collect();
        let listed = "no host of the pool has the model 'm'; for embed there are: 00, 01, 02, 03, \
            04, 05, 06, 07, 08, 09, 10, 11, and 8 more";
        assert_eq!(detail(&no_model(asked.as_ref(), &told, &[])), listed);
        let default = Model::new("bertscore:");
        let listed = "no host of the pool has a model for requests that name none; for bertscore there are: b";
        assert_eq!(detail(&no_model(default.as_ref(), &told, &[])), listed);
    }

    #[test]
    fn where_nobody_knows_whether_there_is_the_model_it_is_worth_coming_again() {
        let refused = NoHost {
            refusal: Refusal::Unheard,
            limit: None,
        };
        let reply = no_host(refused, &[], || "b is ejected".to_owned(), 3);
        assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(reply.headers[header::RETRY_AFTER], "3");
        let text = "no host that can be asked has the model, and nobody knows yet what the others have; \
             retry in 3 s (b is ejected)";
        assert_eq!(detail(&reply), text);
    }

    /// Every refusal of a request: status, body, `Retry-After`.
    #[test]
    fn each_says_what_is_wrong_and_what_to_do() {
        let shortage = || "a is full for 4 s, b is ejected".to_owned();
        let refused = |refusal| NoHost {
            refusal,
            limit: None,
        };
        let no_host = |refusal| no_host(refused(refusal), &[], shortage, 3);
        let body = |error| bad_body(&error, 3).unwrap();
        let failed = [attempt("a", "fault"), attempt("b", "moved")];
        let table = [
            (unauthorized(&HeaderMap::new()), 401, "Unauthorized", None),
            (no_route(NoRoute::NotFound), 404, "Not Found", None),
            (
                no_route(NoRoute::MethodNotAllowed { allow: "POST" }),
                405,
                "Method Not Allowed",
                None,
            ),
            (
                body(BodyError::TooLarge { limit: 33_554_432 }),
                413,
                "the request body is larger than 33554432 bytes; send fewer or shorter texts at \
                 once, or have the operator raise limits.max_body",
                None,
            ),
            (
                body(BodyError::TooSlow(Duration::from_secs(30))),
                408,
                "the request body was not received within 30 s; send it faster or in smaller \
                 requests, or have the operator raise timeouts.client_read",
                None,
            ),
            (
                body(BodyError::Malformed),
                400,
                "There was an error parsing the body",
                None,
            ),
            (
                body(BodyError::NoMemory),
                503,
                "the proxy holds as many bytes of requests as it may (limits.max_buffered); retry \
                 later, or with smaller requests",
                Some("3"),
            ),
            (
                no_host(Refusal::QueueFull),
                503,
                "all hosts are busy and the queue is full; retry in 3 s (a is full for 4 s, b is \
                 ejected)",
                Some("3"),
            ),
            (
                no_host(Refusal::QueueTooLong),
                503,
                "all hosts are busy and the queue is longer than this request may wait; retry in \
                 3 s (a is full for 4 s, b is ejected)",
                Some("3"),
            ),
            (
                no_host(Refusal::Deadline),
                503,
                "no host became free in time; retry in 3 s (a is full for 4 s, b is ejected)",
                Some("3"),
            ),
            (
                too_late(None, shortage, 3),
                503,
                "the time that the client gave this request (X-Request-Timeout) has passed; retry in \
                 3 s, or give it more (a is full for 4 s, b is ejected)",
                Some("3"),
            ),
            (down(None), 503, "no host can serve", None),
            (
                no_tls(),
                400,
                "this address speaks TLS: use https://, not http://",
                None,
            ),
            (
                super::no_host(refused(Refusal::HostsFailed), &failed, shortage, 3),
                502,
                "the hosts that took this request failed to answer it (a: fault, b: moved); retry \
                 once, then try a smaller request, and tell the operator its X-Request-Id",
                None,
            ),
        ];
        for (reply, status, text, retry_after) in table {
            assert_eq!(reply.status.as_u16(), status, "{text}");
            assert_eq!(detail(&reply), text);
            let found = reply.headers.get(header::RETRY_AFTER);
            assert_eq!(
                found.map(|value| value.to_str().unwrap()),
                retry_after,
                "{text}"
            );
        }
    }

    #[test]
    fn a_limit_of_the_key_is_named() {
        let limit = NonZeroU32::MIN;
        let table = [
            (
                LimitReached::Concurrent(limit),
                "this key may have 1 requests running at once (max_concurrent), and more of them \
                 wait than can be served in time; retry in 9 s, or send fewer at once",
            ),
            (
                LimitReached::PerSecond(limit),
                "this key may have 1 requests begun each second (max_per_second), and more of them \
                 wait than can be served in time; retry in 9 s, or send fewer at once",
            ),
        ];
        for (limit, text) in table {
            let reply = held_back(limit, 9);
            assert_eq!(reply.status, 503);
            assert_eq!(detail(&reply), text);
            assert_eq!(reply.headers[header::RETRY_AFTER], "9");
            assert_eq!(reply.reason, Some(of_limit(limit)));
        }
    }

    #[test]
    fn who_gets_no_answer_before_the_end_may_come_again_soon() {
        let reply = stopping();
        assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(reply.headers[header::RETRY_AFTER], "1");
        assert!(detail(&reply).contains("(timeouts.shutdown); retry in 1 s"));
    }

    /// What can be wrong before there is a request.
    #[test]
    fn heads_too() {
        let table = [
            (
                NoRequest::Bad(BadHead::TooLarge { limit: 65_536 }),
                "the head of the request exceeds the limit of 65536 bytes; send fewer or \
                 shorter headers (limits.max_head)",
            ),
            (
                NoRequest::Bad(BadHead::TooMany { limit: 100 }),
                "the request has more headers than the limit of 100; send fewer \
                 (limits.max_headers)",
            ),
            (
                NoRequest::TooSlow(Duration::from_secs(10)),
                "the head of the request was not received within 10 s (timeouts.client_head); \
                 send it at once",
            ),
        ];
        for (refusal, text) in table {
            assert_eq!(refusal.to_string(), text);
        }
        assert!(BAD_TIMEOUT.contains("e.g. 30"));
    }

    #[test]
    fn fixed_texts_are_helped_by_headers() {
        let hint = |reply: Reply| reply.headers[HINT].to_str().unwrap().to_owned();
        let known = "GET /health, GET /info, GET /status, POST /embed, POST /bertscore, \
                     POST /v1/embeddings, GET /v1/models";
        assert_eq!(
            hint(no_route(NoRoute::NotFound)),
            format!("there are: {known}")
        );
        let unversioned = no_route(NoRoute::NoVersion);
        assert_eq!(detail(&unversioned), "Not Found");
        assert_eq!(hint(unversioned), NO_VERSION);
        let wrong = no_route(NoRoute::MethodNotAllowed { allow: "POST" });
        assert_eq!(wrong.headers[header::ALLOW], "POST");
        assert_eq!(hint(wrong), format!("use POST; there are: {known}"));

        let shown = |pairs: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(*name, value.parse().unwrap());
            }
            unauthorized(&headers)
        };
        let none = shown(&[]);
        let challenges: Vec<_> = none
            .headers
            .get_all(header::WWW_AUTHENTICATE)
            .iter()
            .collect();
        assert_eq!(challenges, CHALLENGES);
        assert!(hint(none).starts_with("no key was sent"));
        let one = hint(shown(&[("x-api-key", "secret")]));
        assert!(one.starts_with("the key that was sent is not"), "{one}");
        let two = hint(shown(&[("x-api-key", "a"), ("authorization", "Bearer b")]));
        assert!(two.starts_with("several keys"), "{two}");
    }
}
