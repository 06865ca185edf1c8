//! What comes of a request at a host, and what it means for both: one table, without I/O. Everything
//! else carries it out.
//!
//! An answer is delivered only if it says something about the *request*. The services behind the
//! proxy say such things in JSON; what a front before them says, or another version, or a host that
//! is put together otherwise than its siblings, a sibling may not say.
//!
//! | answer | meaning |
//! | --- | --- |
//! | 200 in JSON, or without a type, and not empty | the client's answer, if it can be the result of what was asked ([`super::result`]), else [`Doubt::Unusable`] |
//! | 400, 413, 415, 422 in JSON | the client's answer: every host would say so |
//! | the same in another form | [`Doubt::Front`]: a front that can't read the request, or allows less |
//! | 429; 503 with `Retry-After` | alive but full: a sibling takes the request |
//! | 401, 403 | the host is asked whether it takes our key. If so: [`Doubt::Forbidden`], else it is misconfigured |
//! | 404 | [`Doubt::NoModel`]: hosts may differ in models |
//! | 501, 505, 511 | [`Doubt::Front`]: another version, or a network that wants a login |
//! | other 5xx | [`Doubt::ServerError`]: the host's fault or the request's |
//! | any other answer | [`Doubt::Front`]: a redirect, a method, version or limit that the host's front knows, its own time-outs, a success without a result, a page, a number that HTTP does not know |
//!
//! Hosts that speak OpenAI's API (`api: openai`) say some things otherwise ([`meaning_in_openai`]):
//!
//! | answer | meaning |
//! | --- | --- |
//! | 400, 413, 422 in JSON | [`Doubt::Limit`]: such servers differ in how much they take, and how long texts may be |
//! | 401, 402 | misconfigured: only our key is sent there; what its account may use up, it has |
//! | 424 | [`Doubt::ServerError`]: the model failed |
//! | 503, with or without `Retry-After` | alive but full |
//!
//! What their errors say in words may change that (`super::openai`); so does, of any host, a refusal that says how many
//! items it takes at once: [`Doubt::TooMany`], since the request may be cut. What is compressed is read all the same if
//! it is gzip or deflate ([`super::coding`]), and otherwise can be no result. A doubtful answer is delivered only if no
//! sibling knows better, and never as a success. And without a whole answer:
//!
//! | what came | meaning |
//! | --- | --- |
//! | on a kept connection, within a second: its end, a 408, or a success before all was sent | stale: the request is repeated on a fresh connection |
//! | JSON whose end only that of the connection tells, and which is not whole | the host's fault |
//! | any other end or nonsense, once a part of the request was sent | the host's fault |
//! | this machine is out of descriptors, ports or memory | ours: [`super::exchange::Failure::shortage`] |

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::duplex::Heard;
use super::response::{Framing, Head};
use super::verdict::Doubt;
use crate::headers::{is_coded, is_json};

/// For a busy answer that does not say how long, and for a `Retry-After` that can't be read.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    Deliver,
    Sibling(Doubt),
    Busy {
        retry_after: Duration,
    },
    /// Depends on whether the host takes our key: it has to be asked.
    AskForKey,
    Misconfigured,
}

/// What is known of our key for the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// Nothing of late.
    Unknown,
    /// The host takes it, or was asked and did not refuse it.
    Taken,
    /// The host refuses it, whatever it is asked for.
    Refused,
}

/// `now`: to read a `Retry-After` that is a date, if the answer does not tell its own time.
pub(super) fn meaning(head: &Head, key: Key, now: SystemTime) -> Meaning {
    let headers = &head.headers;
    match head.status.as_u16() {
        200 if may_be_result(head) => Meaning::Deliver,
        400 | 413 | 415 | 422 if is_json(headers) => Meaning::Deliver,
        401 | 403 => match key {
            Key::Unknown => Meaning::AskForKey,
            Key::Taken => Meaning::Sibling(Doubt::Forbidden),
            Key::Refused => Meaning::Misconfigured,
        },
        404 => Meaning::Sibling(Doubt::NoModel),
        429 => busy(headers, now),
        503 if headers.contains_key(header::RETRY_AFTER) => busy(headers, now),
        501 | 505 | 511 => Meaning::Sibling(Doubt::Front),
        500..600 => Meaning::Sibling(Doubt::ServerError),
        _ => Meaning::Sibling(Doubt::Front),
    }
}

/// The same of a host that speaks OpenAI's API.
pub(super) fn meaning_in_openai(head: &Head, key: Key, now: SystemTime) -> Meaning {
    let headers = &head.headers;
    match head.status.as_u16() {
        400 | 413 | 422 if is_json(headers) => Meaning::Sibling(Doubt::Limit),
        401 | 402 => Meaning::Misconfigured,
        424 => Meaning::Sibling(Doubt::ServerError),
        503 => busy(headers, now),
        _ => meaning(head, key, now),
    }
}

/// A connection that its host had ended fails within the time that a packet needs there and back, and
/// some waiting for the processor.
const MOMENT: Duration = Duration::from_secs(1);

/// Had the host done with a kept connection before a request reached it? Then the connection ends
/// without a word, or holds an answer that nobody asked for: a complaint that no request came, or a
/// result that can't be of a request that was not there yet. `status`: of what came so long `after`
/// the request; `None` if the connection ended.
pub(super) fn is_stale(
    status: Option<StatusCode>,
    heard: Heard,
    after: impl FnOnce() -> Duration,
) -> bool {
    let looks_so = match status {
        None => heard == Heard::Nothing,
        Some(StatusCode::REQUEST_TIMEOUT) => true,
        Some(status) => heard == Heard::Early && status.is_success(),
    };
    looks_so && after() < MOMENT
}

/// Can it be told from the text alone, where nothing else tells, whether the body is whole?
pub(super) fn tells_its_end(headers: &HeaderMap) -> bool {
    may_be_json(headers) && !is_coded(headers)
}

/// Does the text end before its JSON does?
///
/// Only that is looked at, since a service may write what is no JSON, like `NaN`.
pub(super) fn is_cut(text: &[u8]) -> bool {
    let text = text.trim_ascii();
    let mut depth = 0_usize;
    let mut rest = text;
    while let Some((byte, after)) = rest.split_first() {
        rest = match byte {
            b'"' => match after_string(after) {
                Some(after) => after,
                None => return true,
            },
            b'{' | b'[' => {
                depth += 1;
                after
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                after
            }
            _ => after,
        };
    }
    text.is_empty() || depth > 0
}

/// What follows the end of a string.
fn after_string(mut text: &[u8]) -> Option<&[u8]> {
    loop {
        let at = memchr::memchr2(b'"', b'\\', text)?;
        let (special, after) = text.get(at..)?.split_first()?;
        if *special == b'"' {
            return Some(after);
        }
        text = after.get(1..)?;
    }
}

fn may_be_json(headers: &HeaderMap) -> bool {
    is_json(headers) || !headers.contains_key(header::CONTENT_TYPE)
}

/// Not a page, as for a login or of maintenance, and not nothing.
fn may_be_result(head: &Head) -> bool {
    may_be_json(&head.headers) && head.framing != Framing::Length(0)
}

/// Of several `Retry-After`, the longest.
fn busy(headers: &HeaderMap, now: SystemTime) -> Meaning {
    let sent = read_date(headers.get(header::DATE)).unwrap_or(now);
    let values = headers.get_all(header::RETRY_AFTER).iter();
    let longest = values.filter_map(|value| read_delay(value, sent)).max();
    Meaning::Busy {
        retry_after: longest.unwrap_or(DEFAULT_RETRY_AFTER),
    }
}

/// Seconds, or a date (RFC 9110, section 10.2.3), which counts from when the answer was `sent`: by
/// the host's clock, which may be wrong.
fn read_delay(value: &HeaderValue, sent: SystemTime) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    if let Some(date) = read_date(Some(value)) {
        return Some(date.duration_since(sent).unwrap_or(Duration::ZERO));
    }
    // Not `inf`, `nan`, `1e9` or `+1`, which `f64` would take.
    let is_plain = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    let seconds: f64 = text.parse().ok().filter(|_| is_plain)?;
    Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
}

fn read_date(value: Option<&HeaderValue>) -> Option<SystemTime> {
    let text = value?.to_str().ok()?.trim();
    httpdate::parse_http_date(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str = "application/json";
    const HTML: &str = "text/html; charset=utf-8";

    fn head(status: u16, pairs: &[(http::HeaderName, &str)]) -> Head {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, value.parse().unwrap());
        }
        Head {
            status: StatusCode::from_u16(status).unwrap(),
            headers,
            framing: Framing::Length(1),
            is_last: false,
        }
    }

    fn means(status: u16, content_type: &str, key: Key) -> Meaning {
        let head = head(status, &[(header::CONTENT_TYPE, content_type)]);
        meaning(&head, key, SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn a_success_that_says_nothing_is_no_result() {
        for framing in [Framing::Length(0), Framing::Length(2), Framing::Chunked] {
            let head = Head {
                framing,
                ..head(200, &[(header::CONTENT_TYPE, JSON)])
            };
            let is_result =
                meaning(&head, Key::Unknown, SystemTime::UNIX_EPOCH) == Meaning::Deliver;
            assert_eq!(is_result, framing != Framing::Length(0), "{framing:?}");
        }
    }

    #[test]
    fn every_status_has_its_meaning() {
        use Meaning::{AskForKey, Busy, Deliver, Misconfigured, Sibling};

        let second = Duration::from_secs(1);
        for status in 100..1000 {
            // In JSON, in another form, with a key that the host takes, with one that it refuses.
            let expected = match status {
                200 | 400 | 413 | 415 | 422 => [Deliver, Sibling(Doubt::Front), Deliver, Deliver],
                401 | 403 => [
                    AskForKey,
                    AskForKey,
                    Sibling(Doubt::Forbidden),
                    Misconfigured,
                ],
                404 => [Sibling(Doubt::NoModel); 4],
                429 => {
                    [Busy {
                        retry_after: second,
                    }; 4]
                }
                500 | 502..=504 | 506..=510 | 512..=599 => [Sibling(Doubt::ServerError); 4],
                _ => [Sibling(Doubt::Front); 4],
            };
            let found = [
                means(status, JSON, Key::Unknown),
                means(status, HTML, Key::Unknown),
                means(status, JSON, Key::Taken),
                means(status, JSON, Key::Refused),
            ];
            assert_eq!(found, expected, "{status}");
        }
    }

    #[test]
    fn a_full_host_says_for_how_long() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let half = Duration::from_millis(1500);
        let seconds = Duration::from_secs;
        let table: &[(u16, &[&str], Option<Duration>)] = &[
            (429, &[], Some(seconds(1))),
            (429, &["7"], Some(seconds(7))),
            (503, &["5"], Some(seconds(5))),
            (503, &[" 0 "], Some(seconds(0))),
            (503, &["1.5"], Some(half)),
            (503, &["soon"], Some(seconds(1))),
            (503, &[""], Some(seconds(1))),
            (503, &["-3"], Some(seconds(1))),
            (503, &["1e9"], Some(seconds(1))),
            (503, &["inf"], Some(seconds(1))),
            (503, &["99999999999999999999999999"], Some(Duration::MAX)),
            (503, &["2", "9", "soon"], Some(seconds(9))),
            (503, &["Sun, 06 Nov 1994 08:49:41 GMT"], Some(seconds(4))),
            (503, &["Sunday, 06-Nov-94 08:49:41 GMT"], Some(seconds(4))),
            (503, &["Sun Nov  6 08:49:41 1994"], Some(seconds(4))),
            (503, &["Sun, 06 Nov 1994 08:49:30 GMT"], Some(seconds(0))),
            (503, &[], None),
            (500, &["5"], None),
        ];
        for (status, values, expected) in table {
            let pairs: Vec<_> = values.iter().map(|v| (header::RETRY_AFTER, *v)).collect();
            let expected = match expected {
                Some(retry_after) => Meaning::Busy {
                    retry_after: *retry_after,
                },
                None => Meaning::Sibling(Doubt::ServerError),
            };
            let found = meaning(&head(*status, &pairs), Key::Unknown, now);
            assert_eq!(found, expected, "{status} {values:?}");
        }
    }

    #[test]
    fn a_date_counts_from_that_of_its_own_answer() {
        let retry_after = (header::RETRY_AFTER, "Sun, 06 Nov 1994 08:49:41 GMT");
        for (date, expected) in [
            ("Sun, 06 Nov 1994 08:49:37 GMT", 4),
            ("Sun, 06 Nov 1994 09:00:00 GMT", 0),
            ("not a date", 784_111_781),
        ] {
            let head = head(503, &[retry_after.clone(), (header::DATE, date)]);
            let found = meaning(&head, Key::Unknown, SystemTime::UNIX_EPOCH);
            let retry_after = Duration::from_secs(expected);
            assert_eq!(found, Meaning::Busy { retry_after }, "{date}");
        }
    }

    #[test]
    fn a_kept_connection_that_its_host_had_ended_is_told_from_a_fault() {
        use Heard::{Early, Nothing, Something};

        let table = [
            (None, Nothing, 10, true),
            (None, Nothing, 999, true),
            (None, Nothing, 1000, false),
            (None, Early, 10, false),
            (None, Something, 10, false),
            (Some(408), Something, 10, true),
            (Some(408), Early, 10, true),
            (Some(408), Something, 60_000, false),
            (Some(200), Early, 10, true),
            (Some(200), Early, 2000, false),
            (Some(200), Something, 10, false),
            (Some(503), Early, 10, false),
            (Some(413), Early, 10, false),
        ];
        for (status, heard, after, expected) in table {
            let found = is_stale(
                status.map(|status| StatusCode::from_u16(status).unwrap()),
                heard,
                || Duration::from_millis(after),
            );
            assert_eq!(found, expected, "{status:?} {heard:?} after {after} ms");
        }
    }

    #[test]
    fn servers_of_openai_s_api_say_some_things_otherwise() {
        use Meaning::{Busy, Misconfigured, Sibling};

        let now = SystemTime::UNIX_EPOCH;
        let retry_after = DEFAULT_RETRY_AFTER;
        for status in 100..1000 {
            let usual = means(status, JSON, Key::Taken);
            let expected = match status {
                400 | 413 | 422 => Sibling(Doubt::Limit),
                401 | 402 => Misconfigured,
                424 => Sibling(Doubt::ServerError),
                503 => Busy { retry_after },
                _ => usual,
            };
            let found = meaning_in_openai(
                &head(status, &[(header::CONTENT_TYPE, JSON)]),
                Key::Taken,
                now,
            );
            assert_eq!(found, expected, "{status}");
        }
        let page = head(413, &[(header::CONTENT_TYPE, HTML)]);
        let too_large = meaning_in_openai(&page, Key::Taken, now);
        assert_eq!(too_large, Sibling(Doubt::Front));
    }

    #[test]
    fn json_that_ends_early_is_told_from_json_that_is_whole() {
        for (text, expected) in [
            ("", true),
            ("  ", true),
            ("{", true),
            ("{\"a\":[1,2", true),
            ("{\"a\":[1,2]", true),
            ("{\"a\":\"b", true),
            ("{\"a\":[1.", true),
            ("{\"a\":[-", true),
            ("{\"a\":[1,NaN", true),
            ("{\"a\":\"}]\\\"", true),
            ("{\"a\":\"\\", true),
            ("{\"a\":\"[{\\\\\"}", false),
            ("{\"a\":[1,2]}", false),
            ("{\"a\":[NaN]}\n", false),
            ("not JSON", false),
        ] {
            assert_eq!(is_cut(text.as_bytes()), expected, "{text:?}");
        }
    }
}
