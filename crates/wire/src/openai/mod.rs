//! OpenAI's API for embeddings, as a dialect of `/embed`: what its requests mean there, and how answers
//! and errors are said in it. Pure, and the same for a GPU host and for the proxy, which asks any host
//! for `/embed` and translates at its edge. [`host`](Question) is the other direction, for hosts that speak
//! nothing else.
//!
//! Nothing that changes embeddings is passed over in silence: what can't be obeyed is refused.
//!
//! ```text
//! request ─ Request::read ─▶ body of /embed ─ host ─▶ its answer ─ translate ─▶ answer
//!     └── Refusal                                     its error ─── error ───▶ error
//! ```

mod answer;
mod error;
mod host;
mod models;
mod request;
mod tokens;

pub use self::answer::{Unusable, Writer, translate};
pub(crate) use self::error::first_words;
pub use self::error::{error, fault};
pub use self::host::{
    Complaint, Embeddings, Expected, Question, Unaskable, Wrong, is_same_model, listed_models,
};
pub use self::models::{model, models};
pub use self::request::{Encoding, Form, Refusal, Request};
pub use self::tokens::{
    EACH_HEADER, TOKENS_HEADER, read_tokens, read_tokens_of_each, tokens_of_each,
};

/// Where embeddings are asked for.
pub const EMBEDDINGS: &str = "/v1/embeddings";
/// Where the models are listed; each is found below by its id.
pub const MODELS: &str = "/v1/models";
/// Are answers to requests for this path said in OpenAI's dialect, whatever they say?
pub fn speaks(path: &str) -> bool {
    path.strip_prefix("/v1")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The id in a path of one model, which may hold slashes, percent-encoded or not.
pub fn model_id(path: &str) -> Option<String> {
    let encoded = path.strip_prefix(MODELS)?.strip_prefix('/')?;
    let id = percent_encoding::percent_decode_str(encoded).decode_utf8();
    id.ok().map(String::from).filter(|id| !id.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_under_v1_speak_it() {
        for path in ["/v1", "/v1/", "/v1/embeddings", "/v1/models/a/b", "/v1/x"] {
            assert!(speaks(path), "{path}");
        }
        for path in ["/", "/v10", "/v1x/embeddings", "/embed", "/V1/embeddings"] {
            assert!(!speaks(path), "{path}");
        }
    }

    #[test]
    fn ids_of_models_may_hold_slashes() {
        let table = [
            ("/v1/models/mini", Some("mini")),
            ("/v1/models/org/mini", Some("org/mini")),
            ("/v1/models/org%2Fmini", Some("org/mini")),
            ("/v1/models/caf%C3%A9", Some("café")),
            ("/v1/models/%FF", None),
            ("/v1/models/", None),
            ("/v1/models", None),
            ("/v1/modelsx/y", None),
        ];
        for (path, id) in table {
            assert_eq!(model_id(path).as_deref(), id, "{path}");
        }
    }
}
