//! Asks the proxy, for as long as it may get better.

use std::error::Error as _;
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _};
use gpu_bridge_upkeep::printable;
use gpu_bridge_wire::API_KEY_HEADER;
use gpu_bridge_wire::openai::Complaint;
use http::{HeaderMap, StatusCode, header};
use parking_lot::Mutex;
use reqwest::redirect::Policy;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep_until, timeout_at};
use url::Url;

use super::progress::TOLD_EVERY;
use super::rows::{Origin, Row};
use crate::cli::failure::{Failure, tell};
use crate::config::Secret;

/// Who does not even take a connection within this time is not there.
const CONNECT: Duration = Duration::from_secs(10);
/// A proxy says what became of a request within seconds, and lets hosts compute for some minutes at most.
const SILENCE: Duration = Duration::from_mins(10);
/// Between tries, unless the proxy says otherwise: at first, and at most.
const PAUSES: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(30)];
/// So often in a row is a text asked for that hosts fail on before it is asked for in smaller company.
const MOST_FAILURES: u32 = 3;
/// Of a text on which hosts fail, without their words, which may repeat it.
const FAILING: &str = "500: the hosts fail, each time it is asked for";
/// However long the proxy says.
const LONGEST_PAUSE: Duration = Duration::from_mins(2);
/// Of RFC 9218: for what runs in the background.
const BACKGROUND: &str = "u=7";
const SPACE: &str = "x-embedding-space";

/// See the module.
pub(super) struct Asker {
    client: reqwest::Client,
    url: Url,
    key: Option<Secret>,
    /// What is asked for: what the operator names, else what the first answer names.
    model: OnceLock<String>,
    patience: Duration,
    /// Where all vectors lie, once that is known.
    space: OnceLock<String>,
    /// When it was last told that something has to be repeated.
    told: Mutex<Option<Instant>>,
}

/// What became of a row.
pub(super) enum Found {
    Vector(Origin, Box<RawValue>),
    /// The proxy, or a host, does not take it, and says so with this status.
    Refused(StatusCode, String),
}

#[derive(Serialize)]
struct Question<'a> {
    texts: Vec<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
}

#[derive(Deserialize)]
struct Told {
    embeddings: Vec<Box<RawValue>>,
    model: String,
}

/// What to do after an answer that is none.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Next {
    /// The rows are at fault, or one of them is.
    Blame(StatusCode, String),
    /// The rows may be at fault, or the hosts.
    Doubt(String),
    /// It may get better; at the earliest after this time, if the proxy said so.
    Repeat(String, Option<Duration>),
    /// It can't get better by itself.
    Stop(String),
}

impl Asker {
    /// Of the proxy at `url`.
    pub(super) fn new(
        url: Url,
        key: Option<Secret>,
        model: Option<String>,
        patience: Duration,
        space: Option<String>,
    ) -> Result<Self, Failure> {
        let client = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            .redirect(Policy::none())
            .build()
            .map_err(|error| Failure::Failed(error.to_string()))?;
        Ok(Self {
            client,
            url,
            key,
            model: model.map_or_else(OnceLock::new, OnceLock::from),
            patience,
            space: space.map_or_else(OnceLock::new, OnceLock::from),
            told: Mutex::default(),
        })
    }

    /// Is it known what to ask for?
    pub(super) fn names_model(&self) -> bool {
        self.model.get().is_some()
    }

    /// What becomes of each of `rows`. Where some are refused together, each is asked for in smaller and smaller
    /// company, so that only those that are at fault end without a vector.
    pub(super) fn ask<'a>(&'a self, rows: &'a [Row]) -> BoxFuture<'a, Result<Vec<Found>, Failure>> {
        async move {
            match self.patiently(rows).await? {
                Ok((origin, vectors)) => Ok(vectors
                    .into_iter()
                    .map(|vector| Found::Vector(origin.clone(), vector))
                    .collect()),
                Err((status, why)) if rows.len() < 2 => Ok(vec![Found::Refused(status, why)]),
                Err(_) => {
                    let (one, other) = rows.split_at(rows.len() / 2);
                    let mut found = self.ask(one).await?;
                    found.extend(self.ask(other).await?);
                    Ok(found)
                }
            }
        }
        .boxed()
    }

    /// The vectors of `rows`, or why they are refused.
    async fn patiently(
        &self,
        rows: &[Row],
    ) -> Result<Result<(Origin, Vec<Box<RawValue>>), (StatusCode, String)>, Failure> {
        let until = Instant::now() + self.patience;
        let mut pause = PAUSES[0];
        let mut failures = 0;
        loop {
            let answer = timeout_at(until, self.once(rows)).await;
            let late = || Err(Next::Repeat("no whole answer has come".to_owned(), None));
            let (why, after) = match answer.unwrap_or_else(|_| late()) {
                Ok(found) => return Ok(Ok(found)),
                Err(Next::Blame(status, why)) => return Ok(Err((status, why))),
                Err(Next::Stop(why)) => return Err(Failure::Failed(why)),
                Err(Next::Doubt(_)) if failures + 1 == MOST_FAILURES => {
                    return Ok(Err((StatusCode::INTERNAL_SERVER_ERROR, FAILING.to_owned())));
                }
                Err(Next::Doubt(why)) => {
                    failures += 1;
                    (why, None)
                }
                Err(Next::Repeat(why, after)) => (why, after),
            };
            // Those that wait together should not come together.
            let wait = after.map_or(pause, |after| after.clamp(PAUSES[0], LONGEST_PAUSE));
            let next = Instant::now() + wait.mul_f64(rand::random_range(1.0..1.5));
            self.tell(rows, &why);
            sleep_until(next.min(until)).await;
            if next >= until {
                let line = first_line(rows);
                let text = format!("gave up at line {line}: {why}; the same command goes on there");
                return Err(Failure::Failed(text));
            }
            pause = (pause * 2).min(PAUSES[1]);
        }
    }

    /// Says now and then that `rows`, perhaps among others, are not answered, and why.
    fn tell(&self, rows: &[Row], why: &str) {
        let (line, now) = (first_line(rows), Instant::now());
        let mut told = self.told.lock();
        if told.is_none_or(|told| now >= told + TOLD_EVERY) {
            *told = Some(now);
            tell(format!("line {line}: {why}; trying again"));
        }
    }

    async fn once(&self, rows: &[Row]) -> Result<(Origin, Vec<Box<RawValue>>), Next> {
        let question = Question {
            texts: rows.iter().map(|row| &*row.text).collect(),
            model: self.model.get().map(String::as_str),
        };
        let body = serde_json::to_vec(&question).map_err(|error| Next::Stop(error.to_string()))?;
        let mut request = self.client.post(self.url.clone());
        request = request.header(header::CONTENT_TYPE, "application/json");
        request = request.header("priority", BACKGROUND);
        if let Some(key) = &self.key {
            request = request.header(API_KEY_HEADER, key.expose());
        }
        if let Some(space) = self.space.get() {
            request = request.header(SPACE, space);
        }
        let answer = request
            .body(body)
            .send()
            .await
            .map_err(|error| lost(&error))?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let body = answer.bytes().await.map_err(|error| lost(&error))?;
        if status != StatusCode::OK {
            return Err(next(status, &headers, &body));
        }
        self.read(&headers, &body, rows.len())
    }

    fn read(
        &self,
        headers: &HeaderMap,
        body: &Bytes,
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
        self.model.get_or_init(|| told.model.clone());
        let space = headers.get(SPACE).and_then(|space| space.to_str().ok());
        if let Some(space) = space {
            self.space.get_or_init(|| space.to_owned());
        }
        let origin = Origin {
            model: told.model,
            dimensions,
            space: space.map(ToOwned::to_owned),
        };
        let vectors = told.embeddings.into_iter().map(on_one_line).collect();
        Ok((origin, vectors))
    }
}

/// Where `rows`, of which there is one at least, begin in the input.
fn first_line(rows: &[Row]) -> u64 {
    rows.first().map_or(0, |row| row.line)
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
fn lost(error: &reqwest::Error) -> Next {
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

fn next(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Next {
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
