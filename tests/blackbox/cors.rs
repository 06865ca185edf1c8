//! Pages of the origins that are named may use the proxy from a browser, and no others.

use http::{Method, StatusCode};
use serde_json::json;

use crate::harness::{Config, Proxy, Reply, embed_body, sim_host};

const PAGE: &str = "https://app.example";
const KEY: &str = "what-clients-send";

/// What a browser asks before it sends a key from a page of `origin`.
async fn preflight(proxy: &Proxy, origin: &str) -> Reply {
    let request = proxy.client().request(Method::OPTIONS, "/v1/embeddings");
    let request = request
        .header("origin", origin)
        .header("access-control-request-method", "POST");
    let asked = "authorization,content-type,x-stainless-lang";
    Reply::to(request.header("access-control-request-headers", asked)).await
}

/// An embedding for a page of `origin`.
async fn embed(proxy: &Proxy, origin: &str, key: &str) -> Reply {
    let request = proxy
        .client()
        .request(Method::POST, "/embed")
        .header("origin", origin);
    Reply::to(request.header("x-api-key", key).json(&embed_body("x"))).await
}

#[tokio::test]
async fn pages_of_the_named_origins_may_and_need_the_key_all_the_same() {
    let host = sim_host("host").start();
    let cors = json!({"allow_origins": [PAGE]});
    let config = Config::with_hosts(&[&host])
        .client_key("page", KEY)
        .replace("cors", cors);
    let proxy = Proxy::ready(&config, &[&host]).await;

    let asked = preflight(&proxy, PAGE).await;
    assert_eq!((asked.status, asked.body.len()), (StatusCode::OK, 0));
    for (name, value) in [
        ("access-control-allow-origin", PAGE),
        ("access-control-allow-methods", "GET, POST"),
        (
            "access-control-allow-headers",
            "authorization,content-type,x-stainless-lang",
        ),
        ("vary", "origin"),
    ] {
        assert_eq!(asked.header(name), Some(value), "{name}");
    }
    let served = embed(&proxy, PAGE, KEY).await;
    served.assert_embedding_of("x");
    assert_eq!(served.header("access-control-allow-origin"), Some(PAGE));
    let exposed = served.header("access-control-expose-headers").unwrap();
    for name in [
        "retry-after",
        "server-timing",
        "x-compute-tokens",
        "x-compute-tokens-each",
        "x-embedding-space",
        "x-hint",
        "x-request-id",
        "x-served-by",
    ] {
        assert!(exposed.split(", ").any(|it| it == name), "{exposed}");
    }
    // The page may read why it is refused.
    let refused = embed(&proxy, PAGE, "another").await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    assert_eq!(refused.header("access-control-allow-origin"), Some(PAGE));

    for stranger in ["https://app.example.evil", "http://app.example", "null"] {
        let asked = preflight(&proxy, stranger).await;
        assert_eq!(asked.status, StatusCode::UNAUTHORIZED, "{stranger}");
        assert_eq!(asked.header("access-control-allow-origin"), None);
        let served = embed(&proxy, stranger, KEY).await;
        assert_eq!(served.header("access-control-allow-origin"), None);
        assert_eq!(served.header("vary"), Some("origin"));
    }
    proxy
        .takes_over(&config.replace("cors", json!({"allow_origins": ["*"]})))
        .await;
    let asked = preflight(&proxy, "https://app.example.evil").await;
    assert_eq!(asked.status, StatusCode::OK);
}

#[tokio::test]
async fn unless_one_is_named_no_page_may() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let asked = preflight(&proxy, PAGE).await;
    assert_eq!(asked.status, StatusCode::METHOD_NOT_ALLOWED);
    for reply in [asked, embed(&proxy, PAGE, KEY).await] {
        assert_eq!(reply.header("access-control-allow-origin"), None);
        assert_eq!(reply.header("vary"), None);
    }
}
