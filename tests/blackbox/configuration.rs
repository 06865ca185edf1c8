//! A configuration that is not taken over, or not wholly, is told wherever operators look.

use serde_json::{Value, json};

use crate::harness::{Authority, Config, Proxy, sim_host};

async fn status(proxy: &Proxy) -> Value {
    let (code, output, errors) = proxy.command(&["status", "--json"]).await;
    assert_eq!(code, Some(0), "{errors}");
    serde_json::from_str(&output).unwrap()
}

#[tokio::test]
async fn a_refused_configuration_is_shown_until_it_is_mended() {
    let host = sim_host("host").start();
    let config = Config::with_hosts(&[&host]);
    let proxy = Proxy::ready(&config, &[&host]).await;
    assert_eq!(
        status(&proxy).await["configuration"],
        json!({"refused": [], "needs_restart": []})
    );

    proxy.rewrite(&config.clone().set("queue", "max_wait", 5).to_yaml());
    proxy.has_reloaded("failure", 1).await;

    let shown = status(&proxy).await;
    let refused = shown["configuration"]["refused"][0].as_str().unwrap();
    assert!(refused.contains("queue.max_wait: needs a unit"), "{shown}");
    assert_eq!(shown["summary"]["level"], "attention");
    assert!(
        shown["summary"]["text"].as_str().unwrap().contains(refused),
        "{shown}"
    );
    let (_, table, _) = proxy.command(&["status"]).await;
    assert!(table.contains(&format!("refused: {refused}\n")), "{table}");

    let moved = config.replace("listen", json!([{"address": "127.0.0.1:1"}]));
    proxy.takes_over(&moved).await;

    let shown = status(&proxy).await;
    assert_eq!(shown["configuration"]["refused"], json!([]));
    let restart = shown["configuration"]["needs_restart"][0].as_str().unwrap();
    assert!(
        restart.starts_with("listen: http://127.0.0.1:0 → http://127.0.0.1:1"),
        "{restart}"
    );
    let (_, table, _) = proxy.command(&["status"]).await;
    assert!(table.contains("needs a restart: listen"), "{table}");
}

#[tokio::test]
async fn a_key_that_does_not_fit_is_refused_by_reload_with_all_else() {
    let (host, authority) = (sim_host("host").start(), Authority::new());
    let (own, other) = (authority.issue(&["a"]), authority.issue(&["a"]));
    let tls = json!({"certificate": own.certificate(), "key": own.key()});
    let listen = json!([{"address": "127.0.0.1:0", "tls": tls}]);
    let config = Config::with_hosts(&[&host]).replace("listen", listen);
    let proxy = Proxy::ready(&config, &[&host]).await;

    std::fs::copy(other.key(), own.key()).unwrap();
    let (code, output, errors) = proxy.command(&["reload"]).await;

    assert_eq!((code, output.as_str()), (Some(2), ""), "{errors}");
    assert!(errors.contains("listen[0].tls.key"), "{errors}");
    assert!(errors.contains("holds another key"), "{errors}");
    assert!(errors.contains("the old one goes on"), "{errors}");

    std::fs::copy(other.certificate(), own.certificate()).unwrap();
    let (code, output, errors) = proxy.command(&["reload"]).await;
    assert_eq!(code, Some(0), "{errors}");
    // Unless the proxy was quicker to see it.
    let known = [
        "listen.tls: new certificates for https://127.0.0.1:0\n",
        "nothing has changed\n",
    ];
    assert!(known.contains(&&*output), "{output}");
}

#[tokio::test]
async fn what_changes_is_told_with_its_values_and_without_secrets() {
    let host = sim_host("host").start();
    let key =
        |key: &str, most: u32| json!([{"name": "openclaw", "key": key, "max_concurrent": most}]);
    let config = |keys: Value| Config::with_hosts(&[&host]).client_keys(keys);
    let proxy = Proxy::ready(&config(key("hunter2", 2)), &[&host]).await;

    proxy
        .takes_over(&config(key("hunter3", 4)).set_host("host", "weight", 3))
        .await;

    proxy
        .logs("key openclaw: its key changed, max_concurrent 2 → 4")
        .await;
    proxy.logs("host host: weight 1 → 3").await;
    assert!(!proxy.log().contains("hunter"));
}
