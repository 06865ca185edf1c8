//! Which request is for what. The same paths and methods as a single host.
//!
//! Paths that mean the same by RFC 3986 are the same route, and so are those with doubled slashes;
//! what goes on to a host is the route's own path, so that no two readers of a path can disagree.

use std::borrow::Cow;

use gpu_bridge_wire::openai;
use http::Method;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// Can the pool serve?
    Health,
    /// What devices and models are there?
    Info,
    /// How busy is it?
    Status,
    /// Embeddings, from a host.
    Embed,
    /// Scores, from a host.
    Bertscore,
    /// Embeddings in OpenAI's dialect.
    Embeddings,
    /// Which models are there for embeddings? Or this one? In OpenAI's dialect.
    Models,
}

/// Why a request is for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoRoute {
    /// No such path.
    NotFound,
    /// The path exists with [`/v1`](openai) before it, which clients of OpenAI's API have in their base URL.
    NoVersion,
    /// The path exists, with this method only.
    MethodNotAllowed {
        /// For the `Allow` header.
        allow: &'static str,
    },
    /// The path exists without its last slash.
    TrailingSlash {
        /// For the `Location` header.
        path: &'static str,
    },
}

/// All routes, each with its one method.
pub(super) const ROUTES: [(&str, Route); 7] = [
    ("GET", Route::Health),
    ("GET", Route::Info),
    ("GET", Route::Status),
    ("POST", Route::Embed),
    ("POST", Route::Bertscore),
    ("POST", Route::Embeddings),
    ("GET", Route::Models),
];

impl Route {
    /// For logs and metrics.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Health => "health",
            Self::Info => "info",
            Self::Status => "status",
            Self::Embed => "embed",
            Self::Bertscore => "bertscore",
            Self::Embeddings => "v1/embeddings",
            Self::Models => "v1/models",
        }
    }

    /// What hosts are asked for instead: they need not know a dialect.
    pub(super) fn on_hosts(self) -> Self {
        match self {
            Self::Embeddings => Self::Embed,
            other => other,
        }
    }

    /// Is it answered by a host?
    pub(super) fn is_compute(self) -> bool {
        matches!(self, Self::Embed | Self::Bertscore | Self::Embeddings)
    }

    /// Its one path.
    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Health => "/health",
            Self::Info => "/info",
            Self::Status => "/status",
            Self::Embed => "/embed",
            Self::Bertscore => "/bertscore",
            Self::Embeddings => openai::EMBEDDINGS,
            Self::Models => openai::MODELS,
        }
    }

    /// `path`: [normalised](normalise), without the query; case counts. HEAD is the same as GET: what
    /// writes an answer leaves its body out.
    pub(super) fn find(method: &Method, path: &str) -> Result<Self, NoRoute> {
        let known = |wanted: &str| ROUTES.iter().find(|(_, route)| route.path() == wanted);
        let wanted = openai::model_id(path).map_or(path, |_| openai::MODELS);
        if let Some((allow, route)) = known(wanted) {
            let method = if *method == Method::HEAD {
                "GET"
            } else {
                method.as_str()
            };
            let allowed = method == *allow;
            return if allowed {
                Ok(*route)
            } else {
                Err(NoRoute::MethodNotAllowed { allow })
            };
        }
        match path.strip_suffix('/').and_then(known) {
            Some((_, route)) => Err(NoRoute::TrailingSlash { path: route.path() }),
            None if lacks_version(path) => Err(NoRoute::NoVersion),
            None => Err(NoRoute::NotFound),
        }
    }
}

/// Would it be one of OpenAI's API with `/v1` before it?
fn lacks_version(path: &str) -> bool {
    let whole = format!("/v1{path}");
    let whole = whole.trim_end_matches('/');
    [openai::EMBEDDINGS, openai::MODELS].contains(&whole) || openai::model_id(whole).is_some()
}

/// The simplest path that means the same: characters that need no percent-encoding are decoded (once),
/// then `.`, `..` and empty segments are resolved. Anything else, such as `%2F`, stays as it is.
pub(super) fn normalise(path: &str) -> Cow<'static, str> {
    // What nearly all ask for is in its simplest form.
    let mut known = ROUTES.iter().map(|(_, route)| route.path());
    known
        .find(|known| *known == path)
        .map_or_else(|| simplest(path).into(), Cow::Borrowed)
}

fn simplest(path: &str) -> String {
    if !path.starts_with('/') {
        return path.to_owned();
    }
    let decoded = decode_unreserved(path);
    let mut segments = Vec::new();
    for segment in decoded.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            name => segments.push(name),
        }
    }
    let is_folder = ["/", "/.", "/.."].iter().any(|end| decoded.ends_with(end));
    let end = if is_folder && !segments.is_empty() {
        "/"
    } else {
        ""
    };
    format!("/{}{end}", segments.join("/"))
}

fn decode_unreserved(path: &str) -> String {
    let mut decoded = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('%') {
        decoded.push_str(before);
        let byte = after
            .get(..2)
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        rest = match byte.map(char::from) {
            Some(char) if char.is_ascii_alphanumeric() || "-._~".contains(char) => {
                decoded.push(char);
                after.get(2..).unwrap_or_default()
            }
            _ => {
                decoded.push('%');
                after
            }
        };
    }
    decoded + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes() {
        let table = [
            ("GET", "/health", Ok(Route::Health)),
            ("POST", "/embed", Ok(Route::Embed)),
            ("POST", "/bertscore", Ok(Route::Bertscore)),
            (
                "GET",
                "/embed",
                Err(NoRoute::MethodNotAllowed { allow: "POST" }),
            ),
            ("HEAD", "/info", Ok(Route::Info)),
            (
                "HEAD",
                "/embed",
                Err(NoRoute::MethodNotAllowed { allow: "POST" }),
            ),
            (
                "OPTIONS",
                "/status",
                Err(NoRoute::MethodNotAllowed { allow: "GET" }),
            ),
            (
                "POST",
                "/embed/",
                Err(NoRoute::TrailingSlash { path: "/embed" }),
            ),
            ("POST", "/v1/embeddings", Ok(Route::Embeddings)),
            ("GET", "/v1/models", Ok(Route::Models)),
            ("GET", "/v1/models/org/m", Ok(Route::Models)),
            (
                "DELETE",
                "/v1/models/m",
                Err(NoRoute::MethodNotAllowed { allow: "GET" }),
            ),
            (
                "GET",
                "/v1/models/",
                Err(NoRoute::TrailingSlash { path: "/v1/models" }),
            ),
            ("GET", "/v1", Err(NoRoute::NotFound)),
            ("POST", "/embed//", Err(NoRoute::NotFound)),
            ("GET", "/Health", Err(NoRoute::NotFound)),
            ("GET", "/", Err(NoRoute::NotFound)),
            ("GET", "", Err(NoRoute::NotFound)),
            ("GET", "/metrics", Err(NoRoute::NotFound)),
            ("POST", "/embeddings", Err(NoRoute::NoVersion)),
            ("GET", "/models", Err(NoRoute::NoVersion)),
            ("GET", "/models/", Err(NoRoute::NoVersion)),
            ("GET", "/models/a/b", Err(NoRoute::NoVersion)),
            ("GET", "/modelsx", Err(NoRoute::NotFound)),
        ];
        for (method, path, expected) in table {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            assert_eq!(Route::find(&method, path), expected, "{method} {path}");
        }
    }

    #[test]
    fn paths_that_mean_the_same_become_the_same() {
        let table = [
            ("/embed", "/embed"),
            ("//embed", "/embed"),
            ("/./embed", "/embed"),
            ("/x/../embed", "/embed"),
            ("/../../embed", "/embed"),
            ("/%65mbed", "/embed"),
            ("/%2e%2E/embed", "/embed"),
            ("/x/%2e%2e/embed", "/embed"),
            ("/embed/", "/embed/"),
            ("/embed//", "/embed/"),
            ("/embed/.", "/embed/"),
            ("/embed/x/..", "/embed/"),
            ("/", "/"),
            ("//", "/"),
            ("/..", "/"),
            ("", ""),
            ("*", "*"),
            ("/a%2Fb", "/a%2Fb"),
            ("/%2565mbed", "/%2565mbed"),
            ("/embed%00", "/embed%00"),
            ("/embed%", "/embed%"),
            ("/embed%2", "/embed%2"),
            ("/embed%zz", "/embed%zz"),
            ("/embed%+5", "/embed%+5"),
            ("/embed%\u{e9}", "/embed%\u{e9}"),
            ("/Embed", "/Embed"),
        ];
        for (path, expected) in table {
            assert_eq!(normalise(path), expected, "{path}");
        }
    }
}
