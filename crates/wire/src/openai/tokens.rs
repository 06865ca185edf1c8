//! How many tokens a model read, as headers of `/embed` say it.

/// Header of an answer to `/embed`: tokens that the model read, all texts together. Named as
/// text-embeddings-inference names it.
pub const TOKENS_HEADER: &str = "x-compute-tokens";
/// Header of a request for `/embed` that asks for the tokens of each text, whatever its value; of the answer: these,
/// in the order of the texts, with commas between them.
pub const EACH_HEADER: &str = "x-compute-tokens-each";

/// The value of [`TOKENS_HEADER`].
///
/// `None`: it is no number.
pub fn read_tokens(value: &str) -> Option<u64> {
    let is_number = value.bytes().all(|byte| byte.is_ascii_digit());
    value.parse().ok().filter(|_| is_number)
}

/// The value of [`EACH_HEADER`] in an answer to so many `texts`.
///
/// `None`: it is not a number for each.
pub fn read_tokens_of_each(value: &str, texts: usize) -> Option<Vec<u64>> {
    let each: Option<Vec<u64>> = value.split(',').map(|it| read_tokens(it.trim())).collect();
    each.filter(|each| each.len() == texts)
}

/// The value of [`EACH_HEADER`] for these tokens.
#[must_use]
pub fn tokens_of_each(tokens: &[usize]) -> String {
    let each: Vec<String> = tokens.iter().map(usize::to_string).collect();
    each.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_of_each_text_is_read_back() {
        for tokens in [&[7][..], &[0, 12, 512]] {
            let told = read_tokens_of_each(&tokens_of_each(tokens), tokens.len()).unwrap();
            assert_eq!(told, tokens.iter().map(|it| *it as u64).collect::<Vec<_>>());
        }
        assert_eq!(read_tokens_of_each("3, 4", 2), Some(vec![3, 4]));
    }

    #[test]
    fn what_is_no_number_for_each_is_not_guessed() {
        for value in [
            "",
            "3",
            "3,",
            "3,4,5",
            "3,x",
            "3,-4",
            "3,+4",
            "3,4.0",
            "3,99999999999999999999",
        ] {
            assert_eq!(read_tokens_of_each(value, 2), None, "{value}");
        }
    }
}
