//! Asks the proxy, for as long as it may get better.

use std::slice;
use std::sync::OnceLock;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _};
use gpu_bridge_wire::API_KEY_HEADER;
use http::{StatusCode, header};
use parking_lot::Mutex;
use reqwest::redirect::Policy;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep_until, timeout_at};
use url::Url;

use super::answer::{self, Next, SPACE, lost};
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
/// So often hosts may fail on texts (500) before these are asked for in smaller company.
const MOST_FAILURES: u32 = 3;
/// Of a text on which hosts fail, without their words, which may repeat it.
const FAILING: &str = "500: the hosts fail, each time it is asked for";
/// However long the proxy says.
const LONGEST_PAUSE: Duration = Duration::from_mins(2);
/// Of RFC 9218: for what runs in the background.
const BACKGROUND: &str = "u=7";

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

    /// What becomes of each of `rows`. One on which hosts failed is asked for again if others were well: perhaps the
    /// hosts were not, at the time.
    pub(super) async fn ask(&self, rows: &[Row]) -> Result<Vec<Found>, Failure> {
        let mut found = self.in_parts(rows).await?;
        if found.iter().any(|it| matches!(it, Found::Vector(..))) {
            for (row, found) in rows.iter().zip(&mut found) {
                if matches!(found, Found::Refused(StatusCode::INTERNAL_SERVER_ERROR, _))
                    && let Some(again) = self.in_parts(slice::from_ref(row)).await?.pop()
                {
                    *found = again;
                }
            }
        }
        Ok(found)
    }

    /// Where some are refused together, each is asked for in smaller and smaller company, so that only those that are
    /// at fault end without a vector.
    fn in_parts<'a>(&'a self, rows: &'a [Row]) -> BoxFuture<'a, Result<Vec<Found>, Failure>> {
        async move {
            match self.patiently(rows).await? {
                Ok((origin, vectors)) => Ok(vectors
                    .into_iter()
                    .map(|vector| Found::Vector(origin.clone(), vector))
                    .collect()),
                Err((status, why)) if rows.len() < 2 => Ok(vec![Found::Refused(status, why)]),
                Err(_) => {
                    let (one, other) = rows.split_at(rows.len() / 2);
                    let mut found = self.in_parts(one).await?;
                    found.extend(self.in_parts(other).await?);
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
                Err(Next::Doubt(why)) => {
                    failures += 1;
                    if failures == MOST_FAILURES {
                        return Ok(Err((StatusCode::INTERNAL_SERVER_ERROR, FAILING.to_owned())));
                    }
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
            return Err(answer::next(status, &headers, &body));
        }
        let (origin, vectors) = answer::read(&headers, &body, rows.len())?;
        self.model.get_or_init(|| origin.model.clone());
        if let Some(space) = &origin.space {
            self.space.get_or_init(|| space.clone());
        }
        Ok((origin, vectors))
    }
}

/// Where `rows`, of which there is one at least, begin in the input.
fn first_line(rows: &[Row]) -> u64 {
    rows.first().map_or(0, |row| row.line)
}
