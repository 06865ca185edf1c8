//! Where a page comes from, as browsers say it: `https://app.example`.

use std::fmt;
use std::str::FromStr;

use url::Url;

/// See the module; or `*`, all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageOrigin(String);

/// Why a text is no origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "is not an origin; write e.g. https://app.example or http://localhost:3000, without a path, or '*' alone for all"
)]
pub struct BadOrigin;

impl PageOrigin {
    /// Does a page with this `Origin` come from there?
    pub fn covers(&self, origin: &[u8]) -> bool {
        self.0 == "*" || self.0.as_bytes() == origin
    }
}

impl FromStr for PageOrigin {
    type Err = BadOrigin;

    fn from_str(text: &str) -> Result<Self, BadOrigin> {
        if text == "*" {
            return Ok(Self(text.to_owned()));
        }
        let url = Url::parse(text).map_err(|_| BadOrigin)?;
        let origin = url.origin().ascii_serialization();
        // As browsers write it, since they are compared byte by byte.
        let is_web = matches!(url.scheme(), "http" | "https");
        let is_one = !origin.contains('*');
        if is_web && is_one && (text == origin || text.strip_suffix('/') == Some(&origin)) {
            Ok(Self(origin))
        } else {
            Err(BadOrigin)
        }
    }
}

impl fmt::Display for PageOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_as_browsers_write_them() {
        for (text, origin) in [
            ("https://app.example", "https://app.example"),
            ("http://localhost:3000/", "http://localhost:3000"),
            ("http://[::1]:8080", "http://[::1]:8080"),
            ("*", "*"),
        ] {
            assert_eq!(text.parse::<PageOrigin>().unwrap().to_string(), origin);
        }
        for bad in [
            "app.example",
            "https://a/b",
            "https://a:443",
            "null",
            "",
            "file:///a",
            "https://A",
            "*.a",
            "https://*.a",
            "https://*",
        ] {
            assert_eq!(bad.parse::<PageOrigin>(), Err(BadOrigin), "{bad}");
        }
    }
}
