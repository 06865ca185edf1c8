//! Bodies that are compressed: neither program reads them.

use http::{HeaderMap, header};

use crate::is_token;

/// The longest name of a coding that is repeated to its client.
const LONGEST: usize = 20;

/// A body comes in a coding, as its `Content-Encoding` says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the body is encoded ({0}), which is not supported; send it as it is, without Content-Encoding"
)]
pub struct Coded(String);

/// The coding of the body with these headers, if it has any: the first that is not `identity`.
pub fn coded(headers: &HeaderMap) -> Option<Coded> {
    let lines = headers.get_all(header::CONTENT_ENCODING).iter();
    let mut names = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let coding = names.find_map(|name| {
        let name = name.trim_ascii();
        let is_plain = name.is_empty() || name.eq_ignore_ascii_case(b"identity");
        (!is_plain).then_some(name)
    })?;
    let name = str::from_utf8(coding).ok();
    let name = name.filter(|name| is_token(name.as_bytes()) && name.len() <= LONGEST);
    Some(Coded(name.unwrap_or("in an unknown way").to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coding_is_what_is_not_identity() {
        let long = "x".repeat(LONGEST + 1);
        let unknown = Some("in an unknown way");
        let table: [(&[&str], Option<&str>); 12] = [
            (&[], None),
            (&["identity"], None),
            (&["IDENTITY, identity", ""], None),
            (&["gzip"], Some("gzip")),
            (&["GZip"], Some("GZip")),
            (&["identity, br ,gzip"], Some("br")),
            (&["identity", "zstd"], Some("zstd")),
            (&["x-own"], Some("x-own")),
            (&["gzip;q=1"], unknown),
            (&["two words"], unknown),
            (&[",\u{e9}"], unknown),
            (&[&long], unknown),
        ];
        for (lines, expected) in table {
            let mut headers = HeaderMap::new();
            for line in lines {
                let line = http::HeaderValue::from_bytes(line.as_bytes()).unwrap();
                headers.append(header::CONTENT_ENCODING, line);
            }
            let expected = expected.map(|name| Coded(name.to_owned()));
            assert_eq!(coded(&headers), expected, "{lines:?}");
        }
    }
}
