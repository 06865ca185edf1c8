//! Names and addresses of hosts, validated once.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Serialize, Serializer};
use url::{Host, ParseError, Position, Url};

use super::network::without_brackets;

/// The longest name, as of a DNS label.
const MAX_NAME: usize = 63;

/// Room for `-` and the longest address, in full.
const ADDRESS: usize = 40;

/// A host's name: letters, digits, `.`, `_`, `-`. It stands in logs, metrics and headers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(Arc<str>);

/// Why a text is no name of a host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "use 1 to {MAX_NAME} letters, digits, '.', '_' or '-', the first neither '.' nor '-', e.g. rtx-3090"
)]
pub struct BadHostName;

impl FromStr for HostName {
    type Err = BadHostName;

    fn from_str(text: &str) -> Result<Self, BadHostName> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        // Commands take it for an option, and what joins paths for a folder.
        let is_odd = text.starts_with(['.', '-']);
        let good = (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(allowed) && !is_odd;
        if good {
            Ok(Self(text.into()))
        } else {
            Err(BadHostName)
        }
    }
}

impl HostName {
    /// Is there room for an address after it?
    pub fn can_be_extended(&self) -> bool {
        self.0.len() + ADDRESS <= MAX_NAME
    }

    /// The name of the host that was found behind this one's name at `address`.
    #[must_use]
    pub fn at(&self, address: IpAddr) -> Self {
        let address = address.to_string().replace(':', "-");
        Self(format!("{self}-{address}").into())
    }

    /// At which address the host behind this one's name would be called so.
    pub fn address_of(&self, found: &Self) -> Option<IpAddr> {
        let address = found.0.strip_prefix(&*self.0)?.strip_prefix('-')?;
        let ip = address
            .parse()
            .or_else(|_| address.replace('-', ":").parse());
        ip.ok().filter(|ip| self.at(*ip) == *found)
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for HostName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl AsRef<str> for HostName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// What is asked below a host's URL, as far as people write it there.
const ADDED: [&str; 4] = ["/v1/embeddings", "/v1", "/embed", "/bertscore"];

/// Where a host is: `http[s]://NAME-OR-ADDRESS[:PORT][/PREFIX]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostUrl {
    https: bool,
    host: String,
    port: u16,
    authority: String,
    prefix: String,
}

/// Why a text is no URL of a host. None of the texts quotes it, since it may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadHostUrl {
    /// Not a URL at all.
    #[error("is not a URL ({0}); write e.g. http://192.168.1.20:8765")]
    Malformed(ParseError),
    /// Another scheme.
    #[error("must start with http:// or https://, e.g. http://192.168.1.20:8765")]
    Scheme,
    /// None at all.
    #[error("has no scheme; put http:// before it, as in http://192.168.1.20:8765")]
    NoScheme,
    /// A path where the host should stand.
    #[error("names no host; write e.g. http://192.168.1.20:8765")]
    NoHost,
    /// A colon without a port behind it, or with one that nobody listens on.
    #[error(
        "has no port behind its ':' that a host can listen on; write e.g. http://192.168.1.20:8765"
    )]
    NoPort,
    /// An address of IPv6 as it stands everywhere but in URLs.
    #[error("needs brackets around its address; write {0}://{1}")]
    Brackets(&'static str, SocketAddr),
    /// User and password.
    #[error("must not hold a user or password; write the host's key as api_key")]
    Credentials,
    /// More than an address and a path.
    #[error("must hold no query and no fragment; write e.g. http://192.168.1.20:8765")]
    Query,
    /// A name that there can't be.
    #[error("holds a name with nothing between two of its dots")]
    EmptyLabel,
    /// The path of the API itself.
    #[error("must not end in {0}, which is added to it: leave that out")]
    Path(&'static str),
}

impl HostUrl {
    /// Is it reached over TLS?
    pub fn is_https(&self) -> bool {
        self.https
    }

    /// A name or an address; an IPv6 address is without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Is its host an address rather than a name?
    pub fn is_literal(&self) -> bool {
        self.host.parse::<IpAddr>().is_ok()
    }

    /// The port; 80, or 443 for `https`, if not given.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// For the `Host` header.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// What comes before each path there: nothing, or a path without a slash at its end.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }
}

impl FromStr for HostUrl {
    type Err = BadHostUrl;

    fn from_str(text: &str) -> Result<Self, BadHostUrl> {
        let url = Url::parse(text).map_err(|error| malformed(text, error))?;
        let https = match url.scheme() {
            "http" => false,
            "https" => true,
            _ if text.contains("://") => return Err(BadHostUrl::Scheme),
            _ => return Err(malformed(text, ParseError::RelativeUrlWithoutBase)),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(BadHostUrl::Credentials);
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(BadHostUrl::Query);
        }
        refuse_without_authority(text, &url)?;
        let prefix = url.path().trim_end_matches('/');
        if let Some(added) = ADDED.into_iter().find(|it| prefix.ends_with(it)) {
            return Err(BadHostUrl::Path(added));
        }
        let host = match url.host().ok_or(BadHostUrl::Scheme)? {
            Host::Domain(name) if has_empty_label(name) => return Err(BadHostUrl::EmptyLabel),
            Host::Domain(name) => name.to_owned(),
            Host::Ipv4(address) => address.to_string(),
            Host::Ipv6(address) => address.to_string(),
        };
        let port = url.port_or_known_default().unwrap_or(80);
        let authority = url[Position::BeforeHost..Position::AfterPort].to_owned();
        Ok(Self {
            https,
            host,
            port,
            authority,
            prefix: prefix.to_owned(),
        })
    }
}

/// Where there is no host, the parser, as browsers do, takes what follows in the path.
fn refuse_without_authority(text: &str, url: &Url) -> Result<(), BadHostUrl> {
    let after_scheme = text.split_once("://").map_or("", |(_, after)| after);
    match after_scheme.split(['/', '\\']).next().unwrap_or_default() {
        "" => Err(BadHostUrl::NoHost),
        authority if authority.ends_with(':') || url.port() == Some(0) => Err(BadHostUrl::NoPort),
        _ => Ok(()),
    }
}

fn malformed(text: &str, error: ParseError) -> BadHostUrl {
    let bare = text.split_once("://").map_or(text, |(_, after)| after);
    match without_brackets(bare.trim_end_matches('/')) {
        Some((ip, port)) => {
            let port = port.unwrap_or(gpu_bridge_wire::DEFAULT_PORT);
            let is_https = text.starts_with("https:");
            let scheme = if is_https { "https" } else { "http" };
            BadHostUrl::Brackets(scheme, SocketAddr::new(ip.into(), port))
        }
        None if error == ParseError::RelativeUrlWithoutBase => BadHostUrl::NoScheme,
        None => BadHostUrl::Malformed(error),
    }
}

/// No DNS has such a name. One may end with a dot.
fn has_empty_label(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    name.split('.').any(str::is_empty)
}

impl fmt::Display for HostUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "rtx-3090", "gpu_1.local", &"x".repeat(63)] {
            assert_eq!(
                good.parse::<HostName>().map(|name| name.to_string()),
                Ok(good.to_owned())
            );
        }
        for bad in [
            "",
            "a b",
            "a/b",
            "ä",
            "a\"",
            ".",
            "..",
            "-a",
            &"x".repeat(64),
        ] {
            assert_eq!(bad.parse::<HostName>(), Err(BadHostName), "{bad:?}");
        }
    }

    #[test]
    fn names_of_discovered_hosts_are_names() {
        let longest: HostName = "x".repeat(MAX_NAME - ADDRESS).parse().unwrap();
        assert!(longest.can_be_extended());
        let table = [
            ("10.0.0.7", "-10.0.0.7"),
            ("fd00::1", "-fd00--1"),
            ("::1", "---1"),
            (
                "fd00:1111:2222:3333:4444:5555:6666:7777",
                "-fd00-1111-2222-3333-4444-5555-6666-7777",
            ),
        ];
        for (address, end) in table {
            let name = longest.at(address.parse().unwrap()).to_string();
            assert_eq!(name, format!("{longest}{end}"));
            assert!(name.parse::<HostName>().is_ok(), "{name}");
        }
        let too_long: HostName = format!("{longest}x").parse().unwrap();
        assert!(!too_long.can_be_extended());
    }

    #[test]
    fn urls() {
        let table = [
            (
                "http://192.168.1.20:8765",
                "192.168.1.20",
                8765,
                "192.168.1.20:8765",
            ),
            ("http://gpu.example/", "gpu.example", 80, "gpu.example"),
            ("http://[::1]:9", "::1", 9, "[::1]:9"),
            ("https://gpu.example", "gpu.example", 443, "gpu.example"),
        ];
        for (text, host, port, authority) in table {
            let url: HostUrl = text.parse().unwrap();
            assert_eq!(
                (url.host(), url.port(), url.authority()),
                (host, port, authority)
            );
            assert_eq!(url.is_https(), text.starts_with("https"));
            assert_eq!(url.to_string(), text.trim_end_matches('/'));
            assert_eq!(url.prefix(), "");
        }
        let table = [
            ("http://gw/tei-1", "/tei-1"),
            ("http://gw:9/a/b//", "/a/b"),
            ("http://gw/caf\u{e9} 1/../x", "/x"),
            ("http://gw/\u{e9} 1", "/%C3%A9%201"),
        ];
        for (text, prefix) in table {
            let url: HostUrl = text.parse().unwrap();
            assert_eq!(url.prefix(), prefix, "{text}");
            assert!(url.to_string().ends_with(prefix), "{url}");
            assert!(!url.authority().contains('/'), "{url}");
        }
    }

    #[test]
    fn bad_urls() {
        let table = [
            ("ftp://a", BadHostUrl::Scheme),
            ("localhost:8765", BadHostUrl::NoScheme),
            ("gpu", BadHostUrl::NoScheme),
            ("http:///h", BadHostUrl::NoHost),
            ("http:/h", BadHostUrl::NoHost),
            ("http:h", BadHostUrl::NoHost),
            ("http://h:", BadHostUrl::NoPort),
            ("http://h:/p", BadHostUrl::NoPort),
            ("http://h:0", BadHostUrl::NoPort),
            ("192.168.1.20:8765", BadHostUrl::NoScheme),
            ("[::1]:8765", BadHostUrl::NoScheme),
            (
                "::1:8765",
                BadHostUrl::Brackets("http", "[::1]:8765".parse().unwrap()),
            ),
            (
                "http://::1:8765",
                BadHostUrl::Brackets("http", "[::1]:8765".parse().unwrap()),
            ),
            (
                "https://::1:9/",
                BadHostUrl::Brackets("https", "[::1]:9".parse().unwrap()),
            ),
            (
                "http://fd00::2/",
                BadHostUrl::Brackets("http", "[fd00::2]:8765".parse().unwrap()),
            ),
            ("http://u:hunter2@a", BadHostUrl::Credentials),
            ("http://a/v1", BadHostUrl::Path("/v1")),
            ("https://a/openai/v1/", BadHostUrl::Path("/v1")),
            ("http://a/v1/embeddings", BadHostUrl::Path("/v1/embeddings")),
            ("http://a/embed", BadHostUrl::Path("/embed")),
            ("http://a..b:1", BadHostUrl::EmptyLabel),
            ("http://a.b..", BadHostUrl::EmptyLabel),
            ("http://.a", BadHostUrl::EmptyLabel),
            ("http://a/?x", BadHostUrl::Query),
            ("http://a/b#c", BadHostUrl::Query),
            (
                "http://a:99999",
                BadHostUrl::Malformed(ParseError::InvalidPort),
            ),
            ("10.0.0.1", BadHostUrl::NoScheme),
        ];
        for (text, expected) in table {
            let error = text.parse::<HostUrl>().unwrap_err();
            assert!(!error.to_string().contains("hunter2"));
            assert_eq!(error, expected, "{text}");
        }
    }
}
