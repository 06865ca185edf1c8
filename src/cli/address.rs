//! Ways to write the proxy's admin address.

use std::ffi::OsString;
use std::net::Ipv6Addr;

use url::{Host, Url};

use super::failure::Failure;

pub(super) const VARIABLE: &str = "GPU_BRIDGE_ADMIN";
pub(super) const DEFAULT: &str = "127.0.0.1:9765";
const DEFAULT_PORT: u16 = 9765;

/// Where the proxy is if neither the command line nor a file says so. One that is empty is not set.
pub(super) fn usual(variable: Option<OsString>) -> Result<String, Failure> {
    let Some(text) = variable.filter(|text| !text.is_empty()) else {
        return Ok(DEFAULT.to_owned());
    };
    let text = text.into_string();
    let text = text.map_err(|_| Failure::Usage(format!("{VARIABLE} is not text")))?;
    authority(VARIABLE, &text)
}

/// `HOST:PORT` of what may be written as a URL, or without a port. `option`: where it is written.
pub(super) fn authority(option: &str, text: &str) -> Result<String, Failure> {
    let usage =
        |why: &str| Failure::Usage(format!("{option} {why}; write HOST:PORT, e.g. {DEFAULT}"));
    let (rest, default) = match text.trim().split_once("://") {
        Some(("http", rest)) => (rest, 80),
        Some(("https", _)) => return Err(usage("takes plain HTTP, not https")),
        Some(_) => return Err(usage("takes http:// or nothing in front of the address")),
        None => (text.trim(), DEFAULT_PORT),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let bracketed = rest.parse::<Ipv6Addr>().map(|ip| format!("[{ip}]"));
    let rest = bracketed.unwrap_or_else(|_| rest.to_owned());
    let rest = match rest.strip_prefix(':') {
        Some(port) => format!("127.0.0.1:{port}"),
        None => rest,
    };
    let url =
        Url::parse(&format!("http://{rest}")).map_err(|error| usage(&format!("({error})")))?;
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err(usage("is an address only, without a path"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(usage("holds no key; give it with --admin-key-file"));
    }
    let host = url.host_str().ok_or_else(|| usage("names no host"))?;
    // `41433` is read as 0.0.161.217.
    if matches!(url.host(), Some(Host::Ipv4(_))) && !rest.starts_with(host) {
        return Err(usage("is a number, and no address"));
    }
    let written = rest
        .rsplit_once(':')
        .filter(|(_, port)| !port.contains(']'));
    let port = written.and_then(|(_, port)| port.parse().ok());
    Ok(format!("{host}:{}", port.unwrap_or(default)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_to_write_the_admin_address() {
        let authority = |text: &str| authority("--admin", text).ok();
        for (text, expected) in [
            ("127.0.0.1:9765", "127.0.0.1:9765"),
            ("http://127.0.0.1:9765", "127.0.0.1:9765"),
            ("http://[::1]:9765/", "[::1]:9765"),
            ("[::1]:80", "[::1]:80"),
            ("[::1]", "[::1]:9765"),
            ("::1", "[::1]:9765"),
            (":9000", "127.0.0.1:9000"),
            ("localhost:9765/", "localhost:9765"),
            ("proxy", "proxy:9765"),
            ("proxy:80", "proxy:80"),
            ("http://proxy", "proxy:80"),
        ] {
            assert_eq!(authority(text).as_deref(), Some(expected), "{text}");
        }
        for bad in [
            "https://proxy",
            "ftp://proxy",
            "http://proxy/metrics",
            "u:p@proxy",
            "",
            "a b",
            "proxy:99999",
            "41433",
            "127.1:9765",
        ] {
            assert_eq!(authority(bad), None, "{bad}");
        }
        let told = super::authority("--admin", "41433").unwrap_err();
        assert!(told.to_string().contains("write HOST:PORT"), "{told}");
    }
}
