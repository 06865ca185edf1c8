//! The name of a request in logs and headers: the client's own if it is sane, else a random one.

use http::{HeaderName, HeaderValue};

/// Longer ones are not sane.
const MAX_LEN: usize = 128;

/// The header that carries it, both ways.
pub const HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// The request's id. Printable ASCII without spaces, quotes or separators of log formats.
pub(super) fn choose(presented: Option<&HeaderValue>) -> String {
    presented
        .and_then(|value| value.to_str().ok())
        .filter(|text| is_sane(text))
        .map_or_else(random, str::to_owned)
}

/// 32 hexadecimal digits; by hand, as `format!` takes four times as long.
fn random() -> String {
    const DIGITS: [u8; 16] = *b"0123456789abcdef";
    let bytes = rand::random::<[u8; 16]>();
    let halves = bytes.map(|byte| [byte >> 4, byte & 15]);
    let digits = halves.as_flattened().iter();
    let digits: Vec<u8> = digits.map(|half| DIGITS[usize::from(*half)]).collect();
    String::from_utf8(digits).unwrap_or_default()
}

/// Can it be the id of a request?
pub fn is_sane(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(&byte);
    (1..=MAX_LEN).contains(&text.len()) && text.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_over_sane_ids_only() {
        let choose = |text: &str| choose(Some(&HeaderValue::from_str(text).unwrap()));
        assert_eq!(choose("job-7/abc.1"), "job-7/abc.1");
        for odd in ["", "a b", "a\"b", "a,b", &"x".repeat(129)] {
            let id = choose(odd);
            assert_eq!(id.len(), 32, "{odd:?} became {id:?}");
        }
        assert_ne!(super::choose(None), super::choose(None));
    }
}
