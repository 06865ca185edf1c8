//! Bodies of requests and answers: JSON of a given size whose content shows if a part is missing,
//! doubled or misplaced.

use bytes::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;

/// `/embed` for so many texts, of `bytes` in all or, where that is too few, a little more.
pub(crate) fn request(texts: usize, bytes: usize) -> Bytes {
    const AROUND: usize = r#"{"texts":[],"model":"bench"}"#.len();
    let each = bytes.saturating_sub(AROUND) / texts.max(1);
    let text = letters(each.saturating_sub(3)); // two quotes and a comma
    let texts = vec![format!("\"{text}\""); texts].join(",");
    format!(r#"{{"texts":[{texts}],"model":"bench"}}"#).into()
}

/// How many texts a `body` of `/embed` has; none if it is none.
pub(crate) fn texts(body: &[u8]) -> usize {
    #[derive(Deserialize)]
    struct Asked {
        texts: Vec<IgnoredAny>,
    }
    serde_json::from_slice(body).map_or(0, |asked: Asked| asked.texts.len())
}

/// An answer for so many texts of `bytes` in all, or a little more.
pub(crate) fn answer(texts: usize, bytes: usize) -> Bytes {
    const AROUND: usize = r#"{"embeddings":[],"dimensions":0,"model":""}"#.len();
    const NUMBER: usize = "0.0123456789,".len();
    let each = bytes.saturating_sub(AROUND) / texts.max(1);
    let mut state = 1_u32;
    let mut row = || {
        let numbers = (0..(each / NUMBER).max(1)).map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            format!("0.{state:010}")
        });
        format!("[{}]", numbers.collect::<Vec<_>>().join(","))
    };
    let rows: Vec<_> = (0..texts).map(|_| row()).collect();
    format!(
        r#"{{"embeddings":[{}],"dimensions":0,"model":""}}"#,
        rows.join(",")
    )
    .into()
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
            (answer(1, 1024), 1024),
            (answer(8, 800_000), 800_000),
        ] {
            assert!(body.len().abs_diff(wanted) <= 160, "{} bytes", body.len());
            serde_json::from_slice::<serde_json::Value>(&body).unwrap();
        }
    }

    #[test]
    fn a_request_has_as_many_texts_as_asked_for() {
        let body: serde_json::Value = serde_json::from_slice(&request(3, 0)).unwrap();
        assert_eq!(body["texts"].as_array().unwrap().len(), 3);
        for count in [0, 1, 3, 100] {
            assert_eq!(texts(&request(count, 300)), count);
            let unnamed = format!(r#"{{"texts": {:?}}}"#, vec!["a"; count]);
            assert_eq!(texts(unnamed.as_bytes()), count);
            let answer: serde_json::Value = serde_json::from_slice(&answer(count, 1000)).unwrap();
            assert_eq!(answer["embeddings"].as_array().unwrap().len(), count);
        }
    }
}
