//! What the head of a host's answer means for the request and for the host: one table, without I/O.
//! Everything else carries it out.
//!
//! An answer is delivered only if it says something about the *request*. The services behind the
//! proxy say such things in JSON; what a front before them says, or another version, or a host that
//! is put together otherwise than its siblings, a sibling may not say.
//!
//! | answer | meaning |
//! | --- | --- |
//! | 200, but not a page for people (HTML) | the client's answer |
//! | 400, 413, 415, 422 in JSON | the client's answer: every host would say so |
//! | the same in another form | [`Doubt::Front`]: a front that can't read the request, or allows less |
//! | 429; 503 with `Retry-After` | alive but full: a sibling takes the request |
//! | 401, 403 | the host is asked whether it takes our key. If so: [`Doubt::Forbidden`], else it is misconfigured |
//! | 404 | [`Doubt::NoModel`]: hosts may differ in models |
//! | 501, 505, 511 | [`Doubt::Front`]: another version, or a network that wants a login |
//! | other 5xx | [`Doubt::ServerError`]: the host's fault or the request's |
//! | all else | [`Doubt::Front`]: a redirect, a method, version or limit that the host's front knows, its own time-outs, a success without a result, a page for people, a number that HTTP does not know |
//!
//! A doubtful answer is delivered only if no sibling knows better.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::verdict::Doubt;

/// For a 429 that does not say how long, and for a `Retry-After` that can't be read.
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
pub(super) fn meaning(
    status: StatusCode,
    headers: &HeaderMap,
    key: Key,
    now: SystemTime,
) -> Meaning {
    match status.as_u16() {
        200 if !is_html(headers) => Meaning::Deliver,
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

/// Is the body JSON, as the answer says?
pub(super) fn is_json(headers: &HeaderMap) -> bool {
    media_type(headers).is_some_and(|it| it == "application/json" || it.ends_with("+json"))
}

/// As of a login or a maintenance page.
fn is_html(headers: &HeaderMap) -> bool {
    media_type(headers).is_some_and(|it| it == "text/html" || it == "application/xhtml+xml")
}

/// In lower case, without parameters.
fn media_type(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let essence = text.split(';').next()?;
    Some(essence.trim().to_ascii_lowercase())
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

    fn headers(pairs: &[(http::HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, value.parse().unwrap());
        }
        headers
    }

    fn means(status: u16, content_type: &str, key: Key) -> Meaning {
        let status = StatusCode::from_u16(status).unwrap();
        let headers = headers(&[(header::CONTENT_TYPE, content_type)]);
        meaning(status, &headers, key, SystemTime::UNIX_EPOCH)
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
            let status = StatusCode::from_u16(*status).unwrap();
            let expected = match expected {
                Some(retry_after) => Meaning::Busy {
                    retry_after: *retry_after,
                },
                None => Meaning::Sibling(Doubt::ServerError),
            };
            let found = meaning(status, &headers(&pairs), Key::Unknown, now);
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
            let headers = headers(&[retry_after.clone(), (header::DATE, date)]);
            let status = StatusCode::SERVICE_UNAVAILABLE;
            let found = meaning(status, &headers, Key::Unknown, SystemTime::UNIX_EPOCH);
            let retry_after = Duration::from_secs(expected);
            assert_eq!(found, Meaning::Busy { retry_after }, "{date}");
        }
    }

    #[test]
    fn json_is_told_by_the_type_of_the_content() {
        for (value, expected) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/problem+json", true),
            ("text/html", false),
            ("text/plain; note=application/json", false),
        ] {
            let headers = headers(&[(header::CONTENT_TYPE, value)]);
            assert_eq!(is_json(&headers), expected, "{value}");
        }
        assert!(!is_json(&HeaderMap::new()));
    }
}
