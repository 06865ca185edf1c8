//! What hosts say of a batch of more items than they take: some tell their limit nowhere else.

use std::num::NonZeroU32;

use crate::openai::first_words;

/// What such words are about …
const BATCH: [&str; 6] = ["array", "batch", "input", "item", "requests", "texts"];
/// … and what they say of it …
const LIMIT: [&str; 7] = [
    "at most", "exceed", "larger", "limit", "max", "too many", ">",
];
/// … unless it is about the length of one of them, or of all together.
const LENGTH: [&str; 4] = ["token", "char", "byte", "text length"];

/// How many items a host takes at once that has refused so many with this `{"detail": …}`; `None` if that is
/// not what it says.
#[must_use]
pub fn most_items(refusal: &[u8], items: u32) -> Option<NonZeroU32> {
    limit_in(&first_words(refusal)?.to_lowercase(), items)
}

/// The one number of the `words` that is smaller than what was asked for.
fn limit_in(words: &str, items: u32) -> Option<NonZeroU32> {
    let says = |of: &[&str]| of.iter().any(|it| words.contains(it));
    if !says(&BATCH) || !says(&LIMIT) || says(&LENGTH) {
        return None;
    }
    let numbers = words.split(|it: char| !it.is_ascii_digit());
    let numbers = numbers.filter_map(|it| it.parse::<u32>().ok());
    let mut smaller = numbers.filter(|number| *number < items);
    let found = smaller.next().and_then(NonZeroU32::new);
    found.filter(|_| smaller.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn most(words: &str, items: u32) -> Option<u32> {
        let detail = serde_json::json!({"detail": words}).to_string();
        most_items(detail.as_bytes(), items).map(NonZeroU32::get)
    }

    /// In the words of text-embeddings-inference, infinity, OpenAI, Azure, Google, Cohere and Alibaba.
    #[test]
    fn limits_are_found_in_the_words_of_each_server() {
        let table = [
            ("batch size 100 > maximum allowed batch size 32", 32),
            (
                "List should have at most 64 items after validation, not 100",
                64,
            ),
            (
                "Invalid 'input': array too long. Expected an array with maximum length 48, but got an array with \
                 length 100 instead.",
                48,
            ),
            ("Too many inputs. The max number of inputs is 16.", 16),
            (
                "* BatchEmbedContentsRequest.requests: at most 10 requests can be in one batch",
                10,
            ),
            (
                "invalid request: total number of texts must be at most 96 - received 100",
                96,
            ),
            (
                "batch size is invalid, it should not be larger than 25.: input.contents",
                25,
            ),
        ];
        for (words, expected) in table {
            assert_eq!(most(words, 100), Some(expected), "{words}");
        }
        let ours = br#"{"detail":[{"type":"value_error","loc":["body","candidates"],
            "msg":"Value error, candidates array length 101 exceeds max batch size of 100","input":["7"],"ctx":{}}]}"#;
        assert_eq!(most_items(ours, 101), NonZeroU32::new(100));
    }

    #[test]
    fn what_else_a_host_does_not_take_is_no_limit_of_a_batch() {
        for words in [
            "texts[3] length 10001 exceeds max text length of 10000",
            "`inputs` must have less than 512 tokens. Given: 900",
            "input (70 tokens) is too large to process. increase the physical batch size (current batch size: 51)",
            "String should have at most 90 characters",
            "`inputs` cannot be empty",
            "batch size 100 > maximum allowed batch size 100",
            "at most 0 items",
            "input 3 of 12 exceeds what is allowed",
            "",
        ] {
            assert_eq!(most(words, 100), None, "{words}");
        }
        for body in [
            "",
            "[]",
            "<html>32",
            r#"{"detail":[]}"#,
            r#"{"detail":{"max":32}}"#,
        ] {
            assert_eq!(most_items(body.as_bytes(), 100), None, "{body}");
        }
    }
}
