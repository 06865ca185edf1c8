//! Bodies of requests and answers: JSON of a given size whose content shows if a part is missing,
//! doubled or misplaced.

use bytes::Bytes;

/// `/embed` for so many texts, of `bytes` in all or, where that is too few, a little more.
pub(crate) fn request(texts: usize, bytes: usize) -> Bytes {
    const AROUND: usize = r#"{"texts":[],"model":"bench"}"#.len();
    let each = bytes.saturating_sub(AROUND) / texts.max(1);
    let text = letters(each.saturating_sub(3)); // two quotes and a comma
    let texts = vec![format!("\"{text}\""); texts].join(",");
    format!(r#"{{"texts":[{texts}],"model":"bench"}}"#).into()
}

/// An answer of `bytes`, or a little more.
pub(crate) fn answer(bytes: usize) -> Bytes {
    const AROUND: usize = r#"{"embeddings":[],"dimensions":0,"model":""}"#.len();
    let text = letters(bytes.saturating_sub(AROUND));
    format!(r#"{{"embeddings":[],"dimensions":0,"model":"{text}"}}"#).into()
}

/// Letters without a short period.
pub(crate) fn letters(count: usize) -> String {
    let mut state = 1_u32;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let [.., high] = state.to_le_bytes();
            char::from(b'a' + high % 26)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_json_of_about_the_size_asked_for() {
        for (body, wanted) in [
            (request(1, 256), 256),
            (request(8, 2 << 20), 2 << 20),
            (answer(1024), 1024),
        ] {
            assert!(body.len().abs_diff(wanted) <= 16, "{} bytes", body.len());
            serde_json::from_slice::<serde_json::Value>(&body).unwrap();
        }
    }

    #[test]
    fn a_request_has_as_many_texts_as_asked_for() {
        let body: serde_json::Value = serde_json::from_slice(&request(3, 0)).unwrap();
        assert_eq!(body["texts"].as_array().unwrap().len(), 3);
    }
}
