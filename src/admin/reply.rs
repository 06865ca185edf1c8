//! Answers of the admin address: JSON, and `{"detail": …}` where something is wrong.

use std::borrow::Cow;
use std::io::{self, Write};

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use gpu_bridge_upkeep::{printable, printable_lines};
use gpu_bridge_wire::ErrorBody;
use serde::Serialize;
use serde_json::ser::{CharEscape, CompactFormatter, Formatter, Serializer};

use super::access::Denied;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// `value`, never to be cached: it is about this moment.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    respond(status, shown(value))
}

fn respond(status: StatusCode, json: serde_json::Result<Vec<u8>>) -> Response {
    let headers = [
        (header::CONTENT_TYPE, JSON),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    match json {
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
    let detail = printable_lines(&detail.into());
    respond(status, serde_json::to_vec(&ErrorBody { detail }))
}

/// `value` as JSON with every text in it fit to be shown: on the page, and by commands.
pub(crate) fn shown(value: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut json = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut json, Shown))?;
    Ok(json)
}

struct Shown;

impl Formatter for Shown {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        to: &mut W,
        text: &str,
    ) -> io::Result<()> {
        match printable(text) {
            Cow::Borrowed(text) => to.write_all(text.as_bytes()),
            // Its backslashes are part of the text.
            Cow::Owned(text) => to.write_all(text.replace('\\', r"\\").as_bytes()),
        }
    }

    fn write_char_escape<W: ?Sized + Write>(
        &mut self,
        to: &mut W,
        char: CharEscape,
    ) -> io::Result<()> {
        if !matches!(char, CharEscape::Quote | CharEscape::ReverseSolidus) {
            to.write_all(br"\")?;
        }
        CompactFormatter.write_char_escape(to, char)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_in_json_are_fit_to_be_shown() {
        for (text, expected) in [
            ("a \"b\" \\u c/d 模型", "a \"b\" \\u c/d 模型"),
            ("a\x1b[2J\nb\tc", r"a\u001b[2J\nb\tc"),
            ("\u{202e}\\\u{2028}\"", "\\u202e\\\\u2028\""),
        ] {
            let json = shown(&[text]).unwrap();
            let read: Vec<String> = serde_json::from_slice(&json).unwrap();
            assert_eq!(read, [expected]);
        }
    }
}
