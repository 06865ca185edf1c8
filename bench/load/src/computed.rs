//! Requests whose answers depend on their texts, as those of real hosts do: whoever gets another one's vectors, or
//! too few, or in another order, notices.

use bytes::Bytes;

use crate::payload::letters;

/// Numbers of a vector.
const DIMENSIONS: usize = 64;

/// `/embed` for so many texts of so many bytes, which no other request has.
pub(crate) fn request(number: usize, texts: usize, bytes: usize) -> Bytes {
    let texts: Vec<_> = texts_of(number, texts, bytes)
        .map(|text| format!("\"{text}\""))
        .collect();
    format!(r#"{{"texts":[{}],"model":"bench"}}"#, texts.join(",")).into()
}

/// The right answer to that.
pub(crate) fn expected(number: usize, texts: usize, bytes: usize) -> Bytes {
    answer(texts_of(number, texts, bytes))
}

fn texts_of(number: usize, texts: usize, bytes: usize) -> impl Iterator<Item = String> {
    let each = letters((bytes / texts.max(1)).saturating_sub(16));
    (0..texts).map(move |text| format!("{number} {text} {each}"))
}

/// What a host answers.
pub(crate) fn answer(texts: impl Iterator<Item = impl AsRef<str>>) -> Bytes {
    let vectors: Vec<_> = texts.map(|text| vector(text.as_ref())).collect();
    let vectors = vectors.join(",");
    format!(r#"{{"embeddings":[{vectors}],"model":"bench","dimensions":{DIMENSIONS}}}"#).into()
}

/// As long as one in `f32`.
fn vector(text: &str) -> String {
    let mut state = text.bytes().fold(1_u32, |state, byte| {
        state.wrapping_mul(31).wrapping_add(u32::from(byte))
    });
    let numbers: Vec<_> = (0..DIMENSIONS)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            format!("0.0{state:010}")
        })
        .collect();
    format!("[{}]", numbers.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_belongs_to_one_request_only() {
        let body: serde_json::Value = serde_json::from_slice(&request(7, 3, 300)).unwrap();
        let texts = body["texts"].as_array().unwrap().iter();
        let texts = texts.filter_map(serde_json::Value::as_str);
        assert_eq!(answer(texts), expected(7, 3, 300));
        assert_ne!(expected(7, 3, 300), expected(8, 3, 300));
        let answer: serde_json::Value = serde_json::from_slice(&expected(7, 3, 300)).unwrap();
        let rows = answer["embeddings"].as_array().unwrap();
        assert_eq!(
            (rows.len(), rows[0].as_array().unwrap().len()),
            (3, DIMENSIONS)
        );
        assert_ne!(rows[0], rows[1]);
    }
}
