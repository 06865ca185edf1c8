//! Errors in OpenAI's shape, from those of `/embed`, which are `{"detail": …}`.

use std::fmt;

use serde::Serialize;
use serde::de::{Deserialize, Deserializer, IgnoredAny, SeqAccess, Visitor};

/// The shape.
#[derive(Serialize)]
struct Told<'a> {
    error: Fault<'a>,
}

#[derive(Serialize)]
struct Fault<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<&'a str>,
    code: Option<&'static str>,
}

/// Status and body for an error of this `status` whose body is `detail`, of a host, or of the program
/// that serves. `hint`: what to do, where the body does not say it; `param`: the parameter that is
/// wrong, if the body does not tell.
pub fn error(
    status: u16,
    detail: &[u8],
    hint: Option<&str>,
    param: Option<&str>,
) -> (u16, Vec<u8>) {
    let detail: Detail = serde_json::from_slice(detail).unwrap_or_default();
    let told = detail.detail.unwrap_or_default();
    let mut message = told
        .message
        .unwrap_or_else(|| format!("HTTP status {status}"));
    if let Some(hint) = hint {
        message = format!("{message}: {hint}");
    }
    let param = told.param.as_deref().or(param);
    let status = match status {
        // Clients of this API know 400 for whatever is wrong with a request.
        422 => 400,
        400..600 => status,
        // What stands before a host has answered instead of it.
        _ => 502,
    };
    (status, fault(status, &message, param))
}

/// What the body of an error of `/embed` says first.
pub(crate) fn first_words(detail: &[u8]) -> Option<String> {
    let detail: Detail = serde_json::from_slice(detail).ok()?;
    detail.detail?.message
}

/// The body of an error of this `status`.
pub fn fault(status: u16, message: &str, param: Option<&str>) -> Vec<u8> {
    let error = Fault {
        message,
        kind: kind(status),
        param,
        code: code(status, param),
    };
    // Strings always serialise.
    serde_json::to_vec(&Told { error }).unwrap_or_default()
}

fn kind(status: u16) -> &'static str {
    match status {
        429 => "requests",
        500.. => "server_error",
        _ => "invalid_request_error",
    }
}

fn code(status: u16, param: Option<&str>) -> Option<&'static str> {
    match status {
        401 => Some("invalid_api_key"),
        404 if param == Some("model") => Some("model_not_found"),
        404 => Some("unknown_url"),
        405 => Some("method_not_supported"),
        429 => Some("rate_limit_exceeded"),
        _ => None,
    }
}

#[derive(Default, serde::Deserialize)]
struct Detail {
    detail: Option<Words>,
}

/// What the body of an error says.
#[derive(Default)]
struct Words {
    message: Option<String>,
    param: Option<String>,
}

/// One of the problems that a host tells of a request's body.
#[derive(serde::Deserialize)]
struct Problem {
    msg: String,
    #[serde(default)]
    loc: Vec<Place>,
}

#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Place {
    Name(String),
    Index(u64),
}

impl From<Problem> for Words {
    fn from(problem: Problem) -> Self {
        let message = problem.msg;
        let message = message.strip_prefix("Value error, ").unwrap_or(&message);
        let message = match message.strip_prefix("texts") {
            Some(rest) => format!("input{rest}"),
            None => message.to_owned(),
        };
        let mut places = problem.loc.into_iter().skip(1);
        let param = match places.next() {
            Some(Place::Name(name)) if name == "texts" => Some("input".to_owned()),
            Some(Place::Name(name)) => Some(name),
            _ => None,
        };
        let param = param.map(|name| match places.next() {
            Some(Place::Index(index)) => format!("{name}[{index}]"),
            _ => name,
        });
        let message = match &param {
            Some(param) if !message.starts_with("input") => format!("{param}: {message}"),
            _ => message,
        };
        Self {
            message: Some(message),
            param,
        }
    }
}

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;

        impl<'de> Visitor<'de> for Read {
            type Value = Words;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a text, or a list of problems")
            }

            fn visit_str<E>(self, text: &str) -> Result<Words, E> {
                Ok(Words {
                    message: Some(text.to_owned()),
                    param: None,
                })
            }

            /// The first one is enough, and the rest may be many.
            fn visit_seq<A: SeqAccess<'de>>(self, mut problems: A) -> Result<Words, A::Error> {
                let first = problems.next_element::<Problem>()?;
                while problems.next_element::<IgnoredAny>()?.is_some() {}
                Ok(first.map(Words::from).unwrap_or_default())
            }
        }

        deserializer.deserialize_any(Read)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn told(status: u16, detail: &str, hint: Option<&str>, param: Option<&str>) -> (u16, Value) {
        let (status, body) = error(status, detail.as_bytes(), hint, param);
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body.as_object().unwrap().len(), 1, "{body}");
        (status, body["error"].clone())
    }

    #[test]
    fn each_has_its_type_and_code() {
        let request = "invalid_request_error";
        let table = [
            (400, None, 400, request, Value::Null),
            (401, None, 401, request, json!("invalid_api_key")),
            (403, None, 403, request, Value::Null),
            (404, None, 404, request, json!("unknown_url")),
            (404, Some("model"), 404, request, json!("model_not_found")),
            (405, None, 405, request, json!("method_not_supported")),
            (408, None, 408, request, Value::Null),
            (413, None, 413, request, Value::Null),
            (415, None, 415, request, Value::Null),
            (422, None, 400, request, Value::Null),
            (429, None, 429, "requests", json!("rate_limit_exceeded")),
            (500, None, 500, "server_error", Value::Null),
            (503, None, 503, "server_error", Value::Null),
            (302, None, 502, "server_error", Value::Null),
            (999, None, 502, "server_error", Value::Null),
        ];
        for (status, param, expected, kind, code) in table {
            let (found, fault) = told(status, r#"{"detail":"words"}"#, None, param);
            assert_eq!(found, expected, "{status}");
            let expected = json!({"message": "words", "type": kind, "param": param, "code": code});
            assert_eq!(fault, expected, "{status}");
        }
    }

    #[test]
    fn problems_are_told_in_the_words_of_this_dialect() {
        let problem = |loc: &str, msg: &str| {
            let first = format!(r#"{{"type":"t","loc":{loc},"msg":"{msg}","input":[1]}}"#);
            format!(r#"{{"detail":[{first},{{"loc":["body","model"],"msg":"more"}}]}}"#)
        };
        let table = [
            (
                problem(
                    r#"["body","texts"]"#,
                    "Value error, texts array length 101 exceeds max batch size of 100",
                ),
                "input array length 101 exceeds max batch size of 100",
                Some("input"),
            ),
            (
                problem(r#"["body","texts",3]"#, "Input should be a valid string"),
                "input[3]: Input should be a valid string",
                Some("input[3]"),
            ),
            (
                problem(r#"["body","model"]"#, "Input should be a valid string"),
                "model: Input should be a valid string",
                Some("model"),
            ),
            (
                problem(r#"["body",7]"#, "JSON decode error"),
                "JSON decode error",
                None,
            ),
            (r#"{"detail":[]}"#.to_owned(), "HTTP status 422", None),
            (r#"{"detail":{"a":1}}"#.to_owned(), "HTTP status 422", None),
            ("<html>".to_owned(), "HTTP status 422", None),
            (String::new(), "HTTP status 422", None),
        ];
        for (detail, message, param) in table {
            let (status, fault) = told(422, &detail, None, None);
            assert_eq!(status, 400);
            assert_eq!(fault["message"], message, "{detail}");
            assert_eq!(fault["param"].as_str(), param, "{detail}");
        }
    }

    #[test]
    fn a_hint_is_part_of_the_message() {
        let (_, fault) = told(
            401,
            r#"{"detail":"Unauthorized"}"#,
            Some("send a key"),
            None,
        );
        assert_eq!(fault["message"], "Unauthorized: send a key");
    }
}
