//! The live page: files that are part of the program.
//!
//! They hold nothing that is secret and need no key; what they show, they ask for. They load nothing
//! from elsewhere, and the browser is told to insist on that: neither a host's name nor a model's can
//! make it run or fetch anything.

use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};

use super::api;

const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const IMAGE: &str = "image/svg+xml";

/// Name, type, content.
type File = (&'static str, &'static str, &'static str);

/// What the page is made of, at `/page/NAME`.
const FILES: [File; 12] = [
    ("icon.svg", IMAGE, include_str!("page/icon.svg")),
    ("page.css", STYLE, include_str!("page/page.css")),
    ("hosts.css", STYLE, include_str!("page/hosts.css")),
    ("main.js", SCRIPT, include_str!("page/main.js")),
    ("stream.js", SCRIPT, include_str!("page/stream.js")),
    ("operate.js", SCRIPT, include_str!("page/operate.js")),
    ("history.js", SCRIPT, include_str!("page/history.js")),
    ("hosts.js", SCRIPT, include_str!("page/hosts.js")),
    ("logs.js", SCRIPT, include_str!("page/logs.js")),
    ("story.js", SCRIPT, include_str!("page/story.js")),
    ("overview.js", SCRIPT, include_str!("page/overview.js")),
    ("dom.js", SCRIPT, include_str!("page/dom.js")),
];

/// `/`.
pub(super) async fn index() -> Response {
    respond(HTML, include_str!("page/index.html"))
}

/// `/page/NAME`.
pub(super) async fn file(Path(name): Path<String>) -> Response {
    match FILES.iter().find(|(own, ..)| *own == name) {
        Some((_, kind, content)) => respond(kind, content),
        None => api::not_found().await,
    }
}

fn respond(kind: &'static str, content: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        ),
        (
            header::REFERRER_POLICY,
            HeaderValue::from_static("no-referrer"),
        ),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (StatusCode::OK, HeaderMap::from_iter(headers), content).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_that_another_names_is_there() {
        let page = include_str!("page/index.html");
        let mut named: Vec<&str> = page.split("page/").skip(1).collect();
        for (_, kind, content) in FILES {
            if kind == SCRIPT {
                named.extend(content.split("from \"./").skip(1));
            }
        }
        assert!(named.len() > FILES.len());
        for reference in named {
            let name = reference.split('"').next().unwrap();
            assert!(FILES.iter().any(|(own, ..)| *own == name), "{name}");
        }
    }

    #[test]
    fn nothing_is_inline_or_made_of_markup() {
        let page = include_str!("page/index.html");
        for inline in ["<style", " style=", " onclick=", "<script>"] {
            assert!(!page.contains(inline), "{inline}");
        }
        for (name, _, content) in FILES {
            for markup in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
            ] {
                assert!(!content.contains(markup), "{markup} in {name}");
            }
        }
    }
}
