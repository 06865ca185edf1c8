//! Every refusal, and the one map from refusals to responses.
//!
//! What the client reads is decided here and says nothing about this machine; what the operator
//! needs to know has gone to the log where the fault was noticed. Bodies are always JSON with one
//! key, `detail`.

use bytes::Bytes;
use gpu_bridge_framing::{BadHead, Coded};
use gpu_bridge_upkeep::printable;
use gpu_bridge_wire::{ErrorBody, openai};
use http::{HeaderValue, Method, StatusCode, header};
use thiserror::Error;

use super::validate::Refusal;
use crate::metrics::Rejection;

/// Seconds after which a client may find what it lacked: a slot, memory, a model.
const RETRY_AFTER: &str = "5";

/// What is sent back: a head, and a body that is in memory as a whole.
pub(super) type Answer = http::Response<Bytes>;

/// Why a request got no result. The text is what the client reads as `detail`, but for
/// [`ApiError::Invalid`], which brings its body along.
#[derive(Debug, Error)]
pub(super) enum ApiError {
    #[error("Unauthorized")]
    Unauthorized,
    #[error("Not Found")]
    NotFound,
    #[error("Method Not Allowed")]
    MethodNotAllowed { allow: Method },
    #[error("There was an error parsing the body")]
    Unparsable,
    #[error("validation failed")]
    Invalid(Vec<u8>),
    /// Of a request in OpenAI's dialect.
    #[error("{0}")]
    Dialect(openai::Refusal),
    /// It was never a request.
    #[error("{0}")]
    BadHead(BadHead),
    #[error("{0}")]
    Coded(#[from] Coded),
    #[error("the body must be JSON; say so with Content-Type: application/json")]
    NotJson,
    #[error("candidates and references must have equal length")]
    UnequalLengths,
    /// The model can do nothing with a text of this request.
    #[error("{0}")]
    Unusable(String),
    #[error("request body not received within {seconds} s")]
    BodyTimeout { seconds: u64 },
    #[error("request body is larger than {limit} bytes")]
    BodyTooLarge { limit: usize },
    #[error("{}", busy(*.0))]
    Busy(Rejection),
    /// Of `/ready`.
    #[error("not ready: no default model can be used yet{0}")]
    NotReady(String),
    /// This host cannot serve the model; another one might.
    #[error("{0}")]
    NotInstalled(String),
    /// A model that cannot be used now but soon.
    #[error("{0}")]
    Unavailable(String),
    #[error("internal error; the log of this host has more under request id {request_id}")]
    Internal { request_id: String },
}

impl ApiError {
    fn status(&self) -> StatusCode {
        match self {
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::NotFound | Self::NotInstalled(_) => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::Unparsable | Self::UnequalLengths | Self::Unusable(_) | Self::Dialect(_) => {
                StatusCode::BAD_REQUEST
            }
            Self::BadHead(bad) => bad.status(),
            Self::NotJson | Self::Coded(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::BodyTimeout { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Busy(_) | Self::NotReady(_) | Self::Unavailable(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Internal { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn header(&self) -> Option<(header::HeaderName, HeaderValue)> {
        match self {
            Self::Busy(_) | Self::NotReady(_) | Self::Unavailable(_) => {
                Some((header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER)))
            }
            Self::MethodNotAllowed { allow } => HeaderValue::from_str(allow.as_str())
                .ok()
                .map(|allow| (header::ALLOW, allow)),
            Self::Coded(_) => Some((
                header::ACCEPT_ENCODING,
                HeaderValue::from_static("identity"),
            )),
            _ => None,
        }
    }

    fn into_body(self) -> Vec<u8> {
        let detail = match self {
            Self::Invalid(body) => return body,
            other => printable(&other.to_string()).into_owned(),
        };
        // A string always serialises; an empty body is the harmless way out.
        serde_json::to_vec(&ErrorBody { detail }).unwrap_or_default()
    }

    /// What the client gets.
    pub(super) fn into_answer(self) -> Answer {
        let (status, header) = (self.status(), self.header());
        let mut answer = json(status, self.into_body());
        answer.headers_mut().extend(header);
        answer
    }

    /// What a client that speaks OpenAI's dialect gets.
    pub(super) fn into_openai(self) -> Answer {
        let param = match &self {
            Self::Dialect(refusal) => refusal.param,
            Self::NotInstalled(_) => Some("model"),
            _ => None,
        };
        let (mut head, detail) = self.into_answer().into_parts();
        let (status, body) = openai::error(head.status.as_u16(), &detail, None, param);
        head.status = StatusCode::from_u16(status).unwrap_or(head.status);
        Answer::from_parts(head, body.into())
    }
}

fn busy(reason: Rejection) -> &'static str {
    match reason {
        Rejection::Slots | Rejection::Memory => "GPU busy - retry later",
        Rejection::DeviceMemory => "GPU out of memory - retry later",
    }
}

impl From<openai::Refusal> for ApiError {
    fn from(refusal: openai::Refusal) -> Self {
        Self::Dialect(refusal)
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Unparsable => Self::Unparsable,
            Refusal::Invalid(body) => Self::Invalid(body),
            Refusal::UnequalLengths => Self::UnequalLengths,
        }
    }
}

/// An answer with a JSON body.
pub(super) fn json(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut answer = Answer::new(body.into());
    *answer.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    answer.headers_mut().insert(header::CONTENT_TYPE, json);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_json_with_a_detail() {
        let table = [
            (ApiError::Unauthorized, "Unauthorized"),
            (ApiError::Busy(Rejection::Slots), "GPU busy - retry later"),
            (ApiError::Busy(Rejection::Memory), "GPU busy - retry later"),
            (
                ApiError::Busy(Rejection::DeviceMemory),
                "GPU out of memory - retry later",
            ),
        ];
        for (error, detail) in table {
            let body = error.into_answer().into_body();
            assert_eq!(body, format!(r#"{{"detail":"{detail}"}}"#));
        }
    }

    #[test]
    fn busy_says_when_to_come_back_and_a_wrong_method_which_is_right() {
        for reason in [Rejection::Slots, Rejection::DeviceMemory] {
            let busy = ApiError::Busy(reason).into_answer();
            assert_eq!(busy.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(busy.headers()[header::RETRY_AFTER], "5");
        }
        let wrong = ApiError::MethodNotAllowed {
            allow: Method::POST,
        }
        .into_answer();
        assert_eq!(wrong.headers()[header::ALLOW], "POST");
    }
}
