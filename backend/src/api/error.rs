//! Every refusal, and the one map from refusals to responses.
//!
//! What the client reads is decided here and says nothing about this machine; what the operator
//! needs to know has gone to the log where the fault was noticed. Bodies are always JSON with one
//! key, `detail`.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use gpu_bridge_wire::ErrorBody;
use http::{HeaderValue, Method, StatusCode, header};
use serde::Serialize;
use thiserror::Error;

use super::problem::Problem;
use super::validate::Refusal;

/// Seconds after which a client may find what it lacked: a slot, memory, a model.
const RETRY_AFTER: &str = "5";

/// Why a request got no result. The text is what the client reads as `detail`, but for
/// [`ApiError::Invalid`], whose detail is a list.
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
    Invalid(Vec<Problem>),
    #[error("candidates and references must have equal length")]
    UnequalLengths,
    #[error("request body not received within {seconds} s")]
    BodyTimeout { seconds: u64 },
    #[error("request body is larger than {limit} bytes")]
    BodyTooLarge { limit: usize },
    #[error("GPU busy - retry later")]
    Busy,
    /// Of `/ready`.
    #[error("not ready: no default model can be used yet")]
    NotReady,
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
            Self::Unparsable | Self::UnequalLengths => StatusCode::BAD_REQUEST,
            Self::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::BodyTimeout { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Busy | Self::NotReady | Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn header(&self) -> Option<(header::HeaderName, HeaderValue)> {
        match self {
            Self::Busy | Self::NotReady | Self::Unavailable(_) => {
                Some((header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER)))
            }
            Self::MethodNotAllowed { allow } => HeaderValue::from_str(allow.as_str())
                .ok()
                .map(|allow| (header::ALLOW, allow)),
            _ => None,
        }
    }

    fn body(&self) -> serde_json::Result<Vec<u8>> {
        #[derive(Serialize)]
        struct Problems<'a> {
            detail: &'a [Problem],
        }
        match self {
            Self::Invalid(problems) => serde_json::to_vec(&Problems { detail: problems }),
            other => serde_json::to_vec(&ErrorBody {
                detail: other.to_string(),
            }),
        }
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Unparsable => Self::Unparsable,
            Refusal::Invalid(problems) => Self::Invalid(problems),
            Refusal::UnequalLengths => Self::UnequalLengths,
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        // Strings and integers always serialise; an empty body is the harmless way out.
        let mut response = json(self.status(), self.body().unwrap_or_default());
        response.headers_mut().extend(self.header());
        response
    }
}

/// A response with a JSON body.
pub(super) fn json(status: StatusCode, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Body::from(body.into()));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn body(error: ApiError) -> String {
        let collected = error.into_response().into_body().collect().await.unwrap();
        String::from_utf8(collected.to_bytes().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn a_refusal_is_json_with_a_detail() {
        assert_eq!(
            body(ApiError::Busy).await,
            r#"{"detail":"GPU busy - retry later"}"#
        );
        assert_eq!(
            body(ApiError::Unauthorized).await,
            r#"{"detail":"Unauthorized"}"#
        );
    }

    #[test]
    fn busy_says_when_to_come_back_and_a_wrong_method_which_is_right() {
        let busy = ApiError::Busy.into_response();
        assert_eq!(busy.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(busy.headers()[header::RETRY_AFTER], "5");
        let wrong = ApiError::MethodNotAllowed {
            allow: Method::POST,
        }
        .into_response();
        assert_eq!(wrong.headers()[header::ALLOW], "POST");
    }
}
