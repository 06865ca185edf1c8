//! Decides what a method and a path mean. Pure, and the only place that knows the paths.
//!
//! The rules are those of the Python service, which differ from most routers: `HEAD` and `OPTIONS`
//! are wrong methods like any other, and a known path with slashes behind it is redirected whatever
//! the method.

use gpu_bridge_wire::openai;
use http::Method;

use super::compute::Task;

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Health,
    Ready,
    Info,
    Status,
    OpenApi,
    Metrics,
    Compute(Task),
    /// All models, or one, in OpenAI's dialect.
    Models,
}

/// What to do with a request, going by method and path alone.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Serve(Route),
    /// The path is this one with slashes behind it.
    Redirect(&'static str),
    WrongMethod {
        allow: Method,
    },
    Unknown,
}

static ROUTES: [(&str, Method, Route); 10] = [
    (HEALTH, Method::GET, Route::Health),
    (READY, Method::GET, Route::Ready),
    ("/info", Method::GET, Route::Info),
    ("/status", Method::GET, Route::Status),
    ("/embed", Method::POST, Route::Compute(Task::Embed)),
    ("/bertscore", Method::POST, Route::Compute(Task::Bertscore)),
    ("/openapi.json", Method::GET, Route::OpenApi),
    ("/metrics", Method::GET, Route::Metrics),
    (
        openai::EMBEDDINGS,
        Method::POST,
        Route::Compute(Task::Embeddings),
    ),
    (openai::MODELS, Method::GET, Route::Models),
];

const HEALTH: &str = "/health";
const READY: &str = "/ready";

/// True for the paths that need no key, exactly as written: load balancers and orchestrators ask
/// there.
pub(super) fn is_open(path: &str) -> bool {
    [HEALTH, READY].contains(&path)
}

/// The meaning of `method` on `path` (without query string).
pub(super) fn decide(method: &Method, path: &str) -> Decision {
    if let Some((_, allow, route)) = find(path) {
        return if method == allow {
            Decision::Serve(*route)
        } else {
            Decision::WrongMethod {
                allow: allow.clone(),
            }
        };
    }
    match find(path.trim_end_matches('/')) {
        Some((known, ..)) => Decision::Redirect(known),
        None => Decision::Unknown,
    }
}

/// The path if it is one of ours, else `"other"`: safe to log and to count by.
pub(super) fn label(path: &str) -> &'static str {
    find(path).map_or("other", |(known, ..)| known)
}

/// Is it asked for every few seconds, and says nothing while all is well?
pub(super) fn is_poll(label: &str) -> bool {
    ["/health", "/ready", "/status", "/info", "/metrics"].contains(&label)
}

fn find(path: &str) -> Option<&'static (&'static str, Method, Route)> {
    let path = openai::model_id(path).map_or(path, |_| openai::MODELS);
    ROUTES.iter().find(|(known, ..)| *known == path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_and_a_path_decide() {
        let wrong = |allow| Decision::WrongMethod { allow };
        let table = [
            (Method::GET, "/health", Decision::Serve(Route::Health)),
            (
                Method::POST,
                "/embed",
                Decision::Serve(Route::Compute(Task::Embed)),
            ),
            (Method::HEAD, "/health", wrong(Method::GET)),
            (Method::OPTIONS, "/embed", wrong(Method::POST)),
            (Method::GET, "/bertscore", wrong(Method::POST)),
            (
                Method::GET,
                "/v1/models/org/m",
                Decision::Serve(Route::Models),
            ),
            (Method::DELETE, "/v1/models/m", wrong(Method::GET)),
            (Method::GET, "/v1/models/", Decision::Redirect("/v1/models")),
            (Method::GET, "/v1", Decision::Unknown),
            (Method::GET, "/health/", Decision::Redirect("/health")),
            (Method::GET, "/embed//", Decision::Redirect("/embed")),
            (Method::GET, "/Health", Decision::Unknown),
            (Method::GET, "/", Decision::Unknown),
            (Method::GET, "", Decision::Unknown),
            (Method::GET, "*", Decision::Unknown),
            (Method::GET, "/docs", Decision::Unknown),
        ];
        for (method, path, expected) in table {
            assert_eq!(decide(&method, path), expected, "{method} {path}");
        }
    }

    #[test]
    fn labels_are_bounded() {
        assert_eq!(label("/embed"), "/embed");
        assert_eq!(label("/embed/../secret"), "other");
    }
}
