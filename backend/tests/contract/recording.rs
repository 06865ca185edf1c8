//! Recorded exchanges: reading them, rebuilding their requests, comparing answers with them.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use http::HeaderMap;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// What stands for a folder path in the recordings.
pub(crate) const LOCAL: &str = "LOCAL/";

#[derive(Deserialize)]
pub(crate) struct Suite {
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) cases: Vec<Case>,
}

#[derive(Clone, Deserialize)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) request: Request,
    pub(crate) response: Response,
    /// How long the answer took.
    pub(crate) seconds: Option<f64>,
}

#[derive(Clone, Deserialize)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    headers: BTreeMap<String, String>,
    body: Option<RequestBody>,
}

#[derive(Clone, Deserialize)]
struct RequestBody {
    sha256: String,
    text: Option<String>,
}

#[derive(Clone, Deserialize)]
pub(crate) struct Response {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    body: ResponseBody,
    pub(crate) json: Option<Value>,
    json_shape: Option<BTreeMap<String, (String, usize)>>,
}

#[derive(Clone, Deserialize)]
struct ResponseBody {
    bytes: usize,
    head: Option<String>,
}

/// What came back in a replay.
#[derive(Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

/// How closely numbers of a model are compared.
#[derive(Clone, Copy)]
pub(crate) enum Numbers {
    /// Only how many there are: the engine is a fake.
    Counted,
    /// Embeddings within 1e-5, scores within 1e-4.
    Compared,
}

/// The recorded run called `name`, with `local` for the placeholder of a folder path.
pub(crate) fn suite(name: &str, local: &str) -> Suite {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/http");
    let path = folder.join(format!("{name}.json"));
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text.replace(LOCAL, local)).unwrap()
}

impl Case {
    /// Headers as recorded, and the host that a recorded redirect names.
    pub(crate) fn headers(&self) -> Vec<(String, String)> {
        let location = self.response.header("location").unwrap_or_default();
        let host = location
            .split('/')
            .nth(2)
            .map(|host| ("host".to_owned(), host.to_owned()));
        self.request
            .headers
            .clone()
            .into_iter()
            .chain(host)
            .collect()
    }

    /// The body, byte for byte as it was sent then.
    pub(crate) fn body(&self) -> Vec<u8> {
        let Some(recorded) = &self.request.body else {
            return Vec::new();
        };
        let body = match &recorded.text {
            Some(text) => text.clone().into_bytes(),
            None => unwritten_body(&self.name),
        };
        let names_a_folder = self.name == "embed model path";
        let digest = format!("{:x}", Sha256::digest(&body));
        assert!(
            names_a_folder || digest == recorded.sha256,
            "{}: another body",
            self.name
        );
        body
    }

    /// What is wrong with `answer`, if anything is.
    pub(crate) fn compare(&self, answer: &Answer, numbers: Numbers) -> Result<(), String> {
        let expected = &self.response;
        equal("status", &answer.status, &expected.status)?;
        for (name, value) in &expected.headers {
            let found = answer
                .headers
                .get(name)
                .map(|found| found.to_str().unwrap());
            equal(name, &found, &Some(value.as_str()))?;
        }
        if expected.body.bytes == 0 {
            return equal("size of the body", &answer.body.len(), &0);
        }
        let found: Value = serde_json::from_slice(&answer.body)
            .map_err(|error| format!("body is no JSON: {error}"))?;
        if let Some(json) = &expected.json {
            return alike("body", &summary(found), json, numbers);
        }
        if let Some(shape) = &expected.json_shape {
            has_shape(&found, shape)?;
        }
        match expected
            .body
            .head
            .as_deref()
            .and_then(|head| head.split_once("\"input\""))
        {
            Some((head, _)) => {
                let found = String::from_utf8_lossy(&answer.body);
                equal(
                    "begin of the body",
                    &found.split("\"input\"").next(),
                    &Some(head),
                )
            }
            None => Ok(()),
        }
    }
}

impl Response {
    fn header(&self, wanted: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(name, _)| name == wanted)
            .map(|(_, value)| value.as_str())
    }

    /// Another answer instead of the recorded one.
    pub(crate) fn replace(&mut self, status: u16, json: Value) {
        *self = Self {
            status,
            headers: vec![("content-type".to_owned(), "application/json".to_owned())],
            body: ResponseBody {
                bytes: 1,
                head: None,
            },
            json: Some(json),
            json_shape: None,
        };
    }
}

/// Bodies that the recordings don't hold as text.
fn unwritten_body(case: &str) -> Vec<u8> {
    match case {
        "embed raw invalid utf8" => b"{\"texts\":[\"\xFF\xFE\"]}".to_vec(),
        "embed utf-16 body" => {
            let marked = "\u{FEFF}{\"texts\":[\"a\"]}";
            marked.encode_utf16().flat_map(u16::to_le_bytes).collect()
        }
        "embed deep nesting 200000" => format!(
            "{{\"texts\":{}{}}}",
            "[".repeat(200_000),
            "]".repeat(200_000)
        )
        .into_bytes(),
        "embed 101 items and too long" => {
            let text = format!("\"{}\"", "a".repeat(10_001));
            format!("{{\"texts\": [{}]}}", vec![text; 101].join(", ")).into_bytes()
        }
        other => panic!("the recording of {other:?} has no body"),
    }
}

/// Embeddings as the recordings cut them.
fn summary(mut answer: Value) -> Value {
    let Some(rows) = answer.get("embeddings").and_then(Value::as_array) else {
        return answer;
    };
    let first = rows
        .first()
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    answer["embeddings"] = json!({
        "count": rows.len(),
        "dimensions": first.len(),
        "first_8_of_first": first.get(..8).unwrap_or(&first),
    });
    answer
}

fn has_shape(found: &Value, shape: &BTreeMap<String, (String, usize)>) -> Result<(), String> {
    for (name, (kind, size)) in shape {
        let found = match (&found[name], kind.as_str()) {
            (Value::Array(items), "list") => items.len(),
            (Value::String(text), "str") => text.chars().count(),
            (Value::Number(number), "int") => {
                usize::try_from(number.as_u64().unwrap_or_default()).unwrap()
            }
            (other, _) => return Err(format!("{name} is {other}, not a {kind}")),
        };
        equal(name, &found, size)?;
    }
    Ok(())
}

/// Equal but for the numbers of a model, which are compared as `numbers` says.
fn alike(place: &str, found: &Value, expected: &Value, numbers: Numbers) -> Result<(), String> {
    match (found, expected) {
        (Value::Object(found), Value::Object(expected)) => {
            equal(
                place,
                &found.keys().collect::<Vec<_>>(),
                &expected.keys().collect::<Vec<_>>(),
            )?;
            let pairs = found.iter().zip(expected.values());
            pairs
                .into_iter()
                .try_for_each(|((name, a), b)| alike(name, a, b, numbers))
        }
        (Value::Array(found), Value::Array(expected)) => {
            equal(&format!("length of {place}"), &found.len(), &expected.len())?;
            let mut pairs = found.iter().zip(expected);
            pairs.try_for_each(|(a, b)| alike(place, a, b, numbers))
        }
        _ => match (tolerance(place), numbers) {
            (Some(_), Numbers::Counted) => Ok(()),
            (Some(tolerance), Numbers::Compared) if found.is_f64() && expected.is_f64() => {
                let difference = found.as_f64().unwrap() - expected.as_f64().unwrap();
                if difference.abs() <= tolerance {
                    return Ok(());
                }
                Err(format!(
                    "{place}: {found} is not within {tolerance} of {expected}"
                ))
            }
            _ => equal(place, found, expected),
        },
    }
}

fn tolerance(place: &str) -> Option<f64> {
    match place {
        "first_8_of_first" => Some(1e-5),
        "precision" | "recall" | "f1" => Some(1e-4),
        _ => None,
    }
}

fn equal<T: PartialEq + std::fmt::Debug>(
    what: &str,
    found: &T,
    expected: &T,
) -> Result<(), String> {
    if found == expected {
        return Ok(());
    }
    let shown = |value: &T| format!("{value:?}").chars().take(500).collect::<String>();
    Err(format!(
        "{what} is {}, not {}",
        shown(found),
        shown(expected)
    ))
}
