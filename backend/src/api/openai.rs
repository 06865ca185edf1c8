//! OpenAI's API, over the same engine: a request for embeddings is read as one for `/embed`, so that
//! limits and their words are the same. The dialect itself is in `gpu_bridge_wire::openai`.

use gpu_bridge_wire::openai;
use http::StatusCode;

use super::App;
use super::body::Received;
use super::compute::Work;
use super::error::{self, Answer, ApiError};
use super::validate::{self, Limits, RawBody};

pub(super) use gpu_bridge_wire::openai::speaks;

/// From a body of `POST /v1/embeddings` to what is to be computed.
pub(super) fn read(received: &Received, limits: &Limits) -> Result<Work, ApiError> {
    let body = received.as_raw();
    if !body.is_json {
        return Err(ApiError::NotJson);
    }
    let openai::Request { body, form } = openai::Request::read(body.bytes)?;
    let body = RawBody {
        bytes: &body,
        is_json: true,
    };
    Ok(Work::Embed(validate::embed(body, limits)?, Some(form)))
}

/// What `GET` of a path of models answers.
pub(super) fn models(app: &App, path: &str) -> Result<Answer, ApiError> {
    let engine = &app.services.engine;
    let mut told = engine.available_models().unwrap_or_default();
    told.extend(engine.loaded_models());
    told.sort_unstable();
    let told = told.iter().map(String::as_str);
    let body = match openai::model_id(path) {
        None => openai::models(told),
        Some(id) => openai::model(told, &id).ok_or_else(|| {
            ApiError::NotInstalled(format!("model '{id}' is not installed on this host"))
        })?,
    };
    Ok(error::json(StatusCode::OK, body))
}
