//! What must hold of any bytes in a request's body.

use serde_json::Value;

use super::validate::{Limits, RawBody, Refusal, bertscore, embed};

/// A request within the limits, or a refusal that is JSON.
pub(crate) fn bodies(bytes: &[u8]) {
    let (choice, bytes) = bytes.split_first().unwrap_or((&0, &[]));
    let limits = Limits {
        batch_size: 4,
        text_length: 16,
    };
    let body = RawBody {
        bytes,
        is_json: *choice != 1,
    };
    let is_bounded =
        |texts: &[String]| texts.len() <= 4 && texts.iter().all(|text| text.chars().count() <= 16);
    match embed(body, &limits) {
        Ok(request) => assert!(is_bounded(&request.texts)),
        Err(refusal) => is_told(&refusal),
    }
    match bertscore(body, &limits) {
        Ok(request) => {
            assert!(
                is_bounded(&request.candidates)
                    && request.candidates.len() == request.references.len()
            );
        }
        Err(refusal) => is_told(&refusal),
    }
}

fn is_told(refusal: &Refusal) {
    if let Refusal::Invalid(told) = refusal {
        let told: Result<Value, _> = serde_json::from_slice(told);
        assert!(told.is_ok_and(|told| told["detail"].is_array()));
    }
}
