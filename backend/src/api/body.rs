//! Reads the body of a request, bounded in size and time.

use std::time::Duration;

use axum::extract::Request;
use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::time::timeout;

use super::error::ApiError;
use super::validate::RawBody;

/// How long a client may take to send a body.
const READ_TIMEOUT: Duration = Duration::from_mins(1);

/// A body in memory.
pub(super) struct Received {
    bytes: Bytes,
    is_json: bool,
}

impl Received {
    pub(super) fn as_raw(&self) -> RawBody<'_> {
        RawBody {
            bytes: &self.bytes,
            is_json: self.is_json,
        }
    }
}

/// Reads at most `limit` bytes.
pub(super) async fn read(request: Request, limit: usize) -> Result<Received, ApiError> {
    let is_json = is_json(request.headers());
    let body = Limited::new(request.into_body(), limit);
    let Ok(collected) = timeout(READ_TIMEOUT, body.collect()).await else {
        return Err(ApiError::BodyTimeout {
            seconds: READ_TIMEOUT.as_secs(),
        });
    };
    match collected {
        Ok(collected) => Ok(Received {
            bytes: collected.to_bytes(),
            is_json,
        }),
        Err(error) if error.is::<LengthLimitError>() => Err(ApiError::BodyTooLarge { limit }),
        // The transfer broke off or was malformed.
        Err(_) => Err(ApiError::Unparsable),
    }
}

/// True for `application/json` and `application/*+json`, with or without parameters.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
    else {
        return false;
    };
    let essence = value
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    let subtype = essence.strip_prefix("application/").unwrap_or_default();
    !subtype.contains('/') && (subtype == "json" || subtype.ends_with("+json"))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http::HeaderValue;

    use super::*;

    fn request(body: Body) -> Request {
        let mut request = Request::new(body);
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().insert(header::CONTENT_TYPE, json);
        request
    }

    #[test]
    fn json_is_known_by_its_content_type() {
        let table = [
            ("application/json", true),
            ("APPLICATION/JSON", true),
            ("application/json; charset=latin-1", true),
            ("application/vnd.api+json", true),
            ("application/geo+json;x=1", true),
            ("text/json", false),
            ("application/jsonx", false),
            ("application/a/json", false),
            ("application/", false),
            ("json", false),
            ("", false),
        ];
        for (value, expected) in table {
            let mut headers = HeaderMap::new();
            assert!(!is_json(&headers));
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(value));
            assert_eq!(is_json(&headers), expected, "{value}");
        }
    }

    #[tokio::test]
    async fn a_body_is_read_up_to_the_limit_and_no_further() {
        let read_to = |limit| read(request(Body::from("12345")), limit);
        assert_eq!(
            read_to(5)
                .await
                .unwrap_or_else(|_| panic!("fits"))
                .as_raw()
                .bytes,
            b"12345"
        );
        assert!(matches!(
            read_to(4).await,
            Err(ApiError::BodyTooLarge { limit: 4 })
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_ends_is_given_up() {
        let stalled = futures_util::stream::pending::<Result<Bytes, std::io::Error>>();
        let outcome = read(request(Body::from_stream(stalled)), 10).await;
        assert!(matches!(
            outcome,
            Err(ApiError::BodyTimeout { seconds: 60 })
        ));
    }
}
