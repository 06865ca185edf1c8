//! What the proxy's answers mean: vectors, or what to do without.

use std::error::Error as _;
use std::time::Duration;

use gpu_bridge_upkeep::printable;
use gpu_bridge_wire::openai::Complaint;
use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::rows::Origin;

pub(super) const SPACE: &str = "x-embedding-space";

#[derive(Deserialize)]
struct Told {
    embeddings: Vec<Box<RawValue>>,
    model: String,
}

/// What to do after an answer that is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The rows are at fault, or one of them is.
    Blame(StatusCode, String),
    /// The rows may be at fault, or the hosts.
    Doubt(String),
    /// It may get better; at the earliest after this time, if the proxy said so.
    Repeat(String, Option<Duration>),
    /// It can't get better by itself.
    Stop(String),
}

/// The vectors of so many `rows`, and of what they are.
pub(super) fn read(
    headers: &HeaderMap,
    body: &[u8],
    rows: usize,
) -> Result<(Origin, Vec<Box<RawValue>>), Next> {
    let Ok(told) = serde_json::from_slice::<Told>(body) else {
        let why = "what answers there is no proxy: its answer to /embed has no embeddings";
        return Err(Next::Stop(why.to_owned()));
    };
    if told.embeddings.len() != rows {
        let count = told.embeddings.len();
        let why = format!("{count} embeddings came for {rows} texts");
        return Err(Next::Repeat(why, None));
    }
    let Some(dimensions) = dimensions(&told.embeddings) else {
        let why = "embeddings came that are no numbers, or not equally many";
        return Err(Next::Repeat(why.to_owned(), None));
    };
    let space = headers.get(SPACE).and_then(|space| space.to_str().ok());
    let origin = Origin {
        model: told.model,
        dimensions,
        space: space.map(ToOwned::to_owned),
    };
    let vectors = told.embeddings.into_iter().map(on_one_line).collect();
    Ok((origin, vectors))
}

/// Some servers write JSON for people to read. Between numbers white space means nothing.
fn on_one_line(vector: Box<RawValue>) -> Box<RawValue> {
    if !vector
        .get()
        .contains(|char: char| char.is_ascii_whitespace())
    {
        return vector;
    }
    let text: String = vector.get().split_ascii_whitespace().collect();
    RawValue::from_string(text).unwrap_or(vector)
}

/// How many numbers each of them has; `None`: they are no vectors of one model.
fn dimensions(embeddings: &[Box<RawValue>]) -> Option<u64> {
    let lengths = embeddings.iter().map(|it| {
        let numbers: Vec<f32> = serde_json::from_str(it.get()).ok()?;
        Some(numbers.len() as u64)
    });
    let lengths: Vec<u64> = lengths.collect::<Option<_>>()?;
    let first = *lengths.first()?;
    let is_even = lengths.iter().all(|length| *length == first);
    (is_even && first > 0).then_some(first)
}

/// The URL has no secrets, but may have what is nobody's business.
pub(super) fn lost(error: &reqwest::Error) -> Next {
    let causes = std::iter::successors(error.source(), |cause| (*cause).source());
    let why = causes.last().map(ToString::to_string);
    let why = printable(&why.unwrap_or_else(|| "no answer".to_owned())).to_string();
    // As rustls words it.
    if why.contains("CaUsedAsEndEntity") {
        let text = "the proxy's certificate is one for signing others (CA:TRUE): make it one of a server (CA:FALSE)";
        return Next::Stop(text.to_owned());
    }
    if why.starts_with("invalid peer certificate") {
        return Next::Stop(format!(
            "{why}; SSL_CERT_FILE names a file with the certificate of who signs, if systems don't know it"
        ));
    }
    if why.contains("InvalidContentType") {
        return Next::Stop(
            "what answers there speaks no TLS; perhaps --url begins with http://".to_owned(),
        );
    }
    Next::Repeat(format!("the proxy can't be reached: {why}"), None)
}

pub(super) fn next(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Next {
    let why = format!(
        "{}: {}",
        status.as_u16(),
        printable(&Complaint::read(body).message)
    );
    let after = headers.get(header::RETRY_AFTER);
    let after = after.and_then(|value| value.to_str().ok()?.trim().parse().ok());
    match status {
        // A header of ours is at fault, whatever the texts.
        _ if why.to_ascii_lowercase().contains(SPACE) => {
            Next::Stop(format!("the proxy answers {why}"))
        }
        StatusCode::BAD_REQUEST
        | StatusCode::PAYLOAD_TOO_LARGE
        | StatusCode::UNPROCESSABLE_ENTITY => Next::Blame(status, why),
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
            Next::Repeat(why, after.map(Duration::from_secs))
        }
        StatusCode::INTERNAL_SERVER_ERROR => Next::Doubt(why),
        status if status.is_server_error() => Next::Repeat(why, after.map(Duration::from_secs)),
        StatusCode::UNAUTHORIZED => Next::Stop(format!(
            "the proxy answers {why} (--key-file FILE or GPU_BRIDGE_KEY)"
        )),
        _ => Next::Stop(format!("the proxy answers {why}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_counted_as_they_are() {
        let of = |json: &str| dimensions(&serde_json::from_str::<Vec<_>>(json).unwrap());
        assert_eq!(of("[[1, 2.5], [0, -1e-9]]"), Some(2));
        for none in [
            "[]",
            "[[]]",
            "[[1], [1, 2]]",
            "[[null]]",
            "[\"AAAA\"]",
            "[[[1]]]",
        ] {
            assert_eq!(of(none), None, "{none}");
        }
    }

    #[test]
    fn a_vector_takes_one_line() {
        let of = |json: &str| {
            on_one_line(serde_json::from_str(json).unwrap())
                .get()
                .to_owned()
        };
        assert_eq!(of("[\n  1.50,\r\n\t-2e-3\n]"), "[1.50,-2e-3]");
        assert_eq!(of("[1,2]"), "[1,2]");
    }

    fn blame(status: u16, why: &str) -> Next {
        let why = format!("{status}: {why}");
        Next::Blame(StatusCode::from_u16(status).unwrap(), why)
    }

    #[test]
    fn what_an_answer_leads_to() {
        let table: [(u16, Option<&str>, Next); 9] = [
            (400, None, blame(400, "why")),
            (413, None, blame(413, "why")),
            (422, None, blame(422, "why")),
            (
                401,
                None,
                Next::Stop(
                    "the proxy answers 401: why (--key-file FILE or GPU_BRIDGE_KEY)".to_owned(),
                ),
            ),
            (
                404,
                None,
                Next::Stop("the proxy answers 404: why".to_owned()),
            ),
            (
                307,
                None,
                Next::Stop("the proxy answers 307: why".to_owned()),
            ),
            (500, None, Next::Doubt("500: why".to_owned())),
            (502, None, Next::Repeat("502: why".to_owned(), None)),
            (
                503,
                Some("7"),
                Next::Repeat("503: why".to_owned(), Some(Duration::from_secs(7))),
            ),
        ];
        for (status, retry_after, expected) in table {
            let mut headers = HeaderMap::new();
            if let Some(seconds) = retry_after {
                headers.insert(header::RETRY_AFTER, seconds.parse().unwrap());
            }
            let status = StatusCode::from_u16(status).unwrap();
            let found = next(status, &headers, br#"{"detail":"why"}"#);
            assert_eq!(found, expected);
        }
        let ours = br#"{"detail":"X-Embedding-Space must be a space"}"#;
        let found = next(StatusCode::BAD_REQUEST, &HeaderMap::new(), ours);
        assert!(matches!(found, Next::Stop(_)), "{found:?}");
        let invalid =
            br#"{"detail":[{"loc":["body","texts",0],"msg":"too long","input":"secret"}]}"#;
        let found = next(StatusCode::UNPROCESSABLE_ENTITY, &HeaderMap::new(), invalid);
        assert_eq!(found, blame(422, "too long"));
    }
}
