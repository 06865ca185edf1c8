//! Which request is for what. The same paths and methods as a single host.

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
}

/// Why a request is for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoRoute {
    /// No such path.
    NotFound,
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

const ROUTES: [(&str, &str, Route); 5] = [
    ("/health", "GET", Route::Health),
    ("/info", "GET", Route::Info),
    ("/status", "GET", Route::Status),
    ("/embed", "POST", Route::Embed),
    ("/bertscore", "POST", Route::Bertscore),
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
        }
    }

    /// `path`: without the query; case counts.
    pub(super) fn find(method: &Method, path: &str) -> Result<Self, NoRoute> {
        let known = |wanted: &str| ROUTES.iter().find(|(path, ..)| *path == wanted);
        if let Some((_, allow, route)) = known(path) {
            let allowed = method.as_str() == *allow;
            return if allowed {
                Ok(*route)
            } else {
                Err(NoRoute::MethodNotAllowed { allow })
            };
        }
        match path.strip_suffix('/').and_then(known) {
            Some((path, ..)) => Err(NoRoute::TrailingSlash { path }),
            None => Err(NoRoute::NotFound),
        }
    }
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
            (
                "HEAD",
                "/info",
                Err(NoRoute::MethodNotAllowed { allow: "GET" }),
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
            ("POST", "/embed//", Err(NoRoute::NotFound)),
            ("GET", "/Health", Err(NoRoute::NotFound)),
            ("GET", "/", Err(NoRoute::NotFound)),
            ("GET", "", Err(NoRoute::NotFound)),
            ("GET", "/metrics", Err(NoRoute::NotFound)),
        ];
        for (method, path, expected) in table {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            assert_eq!(Route::find(&method, path), expected, "{method} {path}");
        }
    }
}
