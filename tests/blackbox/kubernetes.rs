//! `discover: kubernetes`: one host for each endpoint of a Service, followed as the API server tells.
//!
//! The hosts are on loopback addresses of their own, at one port; the API server is a simulated one.

use crate::harness::{
    ApiServer, Authority, Behaviour, Config, LEAVING, Proxy, READY, SimHost, UNREADY,
    endpoint_slice, sim_host,
};

const FIRST: &str = "127.0.0.2";
const SECOND: &str = "127.0.0.3";

/// Two hosts at one port.
fn two_hosts() -> (SimHost, SimHost, u16) {
    let first = sim_host("gpus-127.0.0.2").at(FIRST, 0).start();
    let port = first.address().port();
    let second = sim_host("gpus-127.0.0.3").at(SECOND, port).start();
    (first, second, port)
}

/// Hosts called `gpus-…` are to be found as the Service's, at the port that it calls `http`.
fn discovering() -> Config {
    Config::new()
        .host("gpus", "http://gpus:1", None)
        .set_host("gpus", "discover", "kubernetes")
        .set_host("gpus", "discover_port", "http")
}

/// A proxy in that cluster, once it has found `hosts` healthy.
async fn proxy_in(cluster: &ApiServer, hosts: &[&SimHost]) -> Proxy {
    Proxy::ready_with(&discovering(), hosts, |command| {
        command.env("KUBECONFIG", cluster.kubeconfig());
    })
    .await
}

#[tokio::test]
async fn hosts_come_with_their_endpoints_drain_as_those_end_and_go() {
    let (first, second, port) = two_hosts();
    let one = endpoint_slice("a", port, &[(FIRST, "gpu-0", READY)]);
    let cluster = ApiServer::start(&[one]).await;
    let proxy = proxy_in(&cluster, &[&first]).await;
    proxy.client().embed("x").await.assert_embedding_of("x");
    let metrics = proxy.metrics().await;
    let labels = [
        ("host", first.name()),
        ("found", "kubernetes"),
        ("pod", "gpu-0"),
    ];
    assert_eq!(metrics.gauge("gpu_bridge_host_info", &labels), 1);
    let (_, status, _) = proxy.command(&["status", "--json"]).await;
    let place = format!("http://gpus:1 at {FIRST}:{port}, pod gpu-0");
    assert!(status.contains(&place), "{status}");

    first.set(Behaviour::ServeWhenReleased);
    let running = proxy.client().start_embed("running");
    first.runs(1).await;
    // In a slice of its own, as after a hundred others.
    let leaving = endpoint_slice("a", port, &[(FIRST, "gpu-0", LEAVING)]);
    let other = endpoint_slice("b", port, &[(SECOND, "gpu-1", READY)]);
    cluster.set(&[leaving, other.clone()]);
    proxy.finds(first.name(), "draining").await;
    proxy.finds_healthy(second.name()).await;
    proxy.client().embed("new").await.assert_embedding_of("new");
    assert_eq!((first.arrivals(), second.arrivals()), (2, 1));
    let (_, status, _) = proxy.command(&["status"]).await;
    assert!(status.contains("Kubernetes is terminating it"), "{status}");

    first.release_all();
    let reply = running.await.unwrap();
    reply.assert_embedding_of("running");
    assert_eq!(reply.served_by(), first.name());
    cluster.set(&[other]);
    proxy.has_hosts(&[second.name()]).await;
}

#[tokio::test]
async fn a_host_that_is_not_ready_gets_nothing_and_is_back_at_once() {
    let (first, second, port) = two_hosts();
    let slice = |conditions| {
        let endpoints = [(FIRST, "gpu-0", conditions), (SECOND, "gpu-1", READY)];
        endpoint_slice("a", port, &endpoints)
    };
    let cluster = ApiServer::start(&[slice(UNREADY)]).await;
    let proxy = proxy_in(&cluster, &[&second]).await;
    proxy.finds(first.name(), "drained").await;
    proxy.client().flood(20, 4).await;
    assert!(first.arrivals() == 0 && second.arrivals() > 0);

    cluster.set(&[slice(READY)]);
    proxy.finds_healthy(first.name()).await;
    proxy.client().flood(20, 4).await;
    assert!(first.arrivals() > 0);
}

#[tokio::test]
async fn without_a_ready_endpoint_those_that_end_serve_as_long_as_they_can() {
    let (first, _, port) = two_hosts();
    let slice = endpoint_slice("a", port, &[(FIRST, "gpu-0", LEAVING)]);
    let cluster = ApiServer::start(&[slice]).await;
    let proxy = proxy_in(&cluster, &[&first]).await;
    proxy.client().embed("x").await.assert_embedding_of("x");
}

#[tokio::test]
async fn a_watch_goes_on_from_where_it_was_however_it_ends() {
    let (first, second, port) = two_hosts();
    let one = endpoint_slice("a", port, &[(FIRST, "gpu-0", READY)]);
    let two = endpoint_slice("b", port, &[(SECOND, "gpu-1", READY)]);
    let cluster = ApiServer::start(std::slice::from_ref(&one)).await;
    let proxy = proxy_in(&cluster, &[&first]).await;
    cluster.watches(1).await;

    cluster.bookmark();
    let seen = cluster.version();
    cluster.end_watch(b"").await;
    cluster.watches(2).await;
    assert_eq!(cluster.watched_from()[1], seen, "as the bookmark says");
    let cut = br#"{"type":"MODIFIED","object":{"addressType":"IPv4","end"#;
    cluster.end_watch(cut).await;
    cluster.watches(3).await;

    cluster.set(&[one, two]);
    proxy.finds_healthy(second.name()).await;
    assert!(proxy.is_healthy(first.name()).await);
    assert_eq!(cluster.lists(), 1, "nothing was listed again");
}

#[tokio::test]
async fn slices_are_listed_anew_once_the_server_has_forgotten_what_happened() {
    let (first, second, port) = two_hosts();
    let one = endpoint_slice("a", port, &[(FIRST, "gpu-0", READY)]);
    let two = endpoint_slice("b", port, &[(SECOND, "gpu-1", READY)]);
    let cluster = ApiServer::start(&[one]).await;
    let proxy = proxy_in(&cluster, &[&first]).await;
    cluster.watches(1).await;

    // Behind so many others that they come in pages.
    let empty = |number| endpoint_slice(&format!("a-{number}"), port, &[]);
    let slices: Vec<_> = (0..20).map(empty).chain([two]).collect();
    cluster.set(&slices);
    cluster.forget();

    proxy.has_hosts(&[second.name()]).await;
    assert_eq!(cluster.lists(), 2);
    assert!(!proxy.log().contains("can't be discovered"), "no trouble");
}

#[tokio::test]
async fn hosts_stay_whatever_the_api_server_says_instead() {
    let (first, second, port) = two_hosts();
    let one = endpoint_slice("a", port, &[(FIRST, "gpu-0", READY)]);
    let mut cluster = ApiServer::start(&[one]).await;
    let proxy = proxy_in(&cluster, &[&first]).await;

    let forbidden = "allow the proxy's service account to list and watch endpointslices \
        (discovery.k8s.io) in the namespace ml";
    cluster.refuse(Some(403));
    cluster.end_watch(b"").await;
    proxy.logs(forbidden).await;
    cluster.refuse(Some(429));
    proxy.logs("the API server answers 429").await;
    cluster.refuse(None);
    proxy.logs("hosts are discovered again").await;
    let too_long = vec![b'x'; 9 << 20];
    cluster.end_watch(&too_long).await;
    proxy.logs("more than 8 MiB in one piece").await;
    cluster.stop().await;
    proxy.logs("the API server can't be reached").await;
    proxy.has_hosts(&[first.name()]).await;
    proxy.client().flood(10, 2).await;

    cluster.set(&[]);
    cluster.restart().await;
    proxy.logs("it has no EndpointSlice").await;
    proxy.has_hosts(&[first.name()]).await;
    cluster.set(&[endpoint_slice("b", port, &[(SECOND, "gpu-1", READY)])]);
    proxy.has_hosts(&[second.name()]).await;
    assert!(
        !proxy.log().contains("nobody should log"),
        "{}",
        proxy.log()
    );
}

#[tokio::test]
async fn over_tls_the_api_server_must_have_the_clusters_certificate() {
    let (first, _, port) = two_hosts();
    let slice = endpoint_slice("a", port, &[(FIRST, "gpu-0", READY)]);
    let authority = Authority::new();
    let cluster = ApiServer::start_secure(&[slice], &authority).await;
    let proxy = proxy_in(&cluster, &[&first]).await;
    proxy.client().embed("x").await.assert_embedding_of("x");

    let kubeconfig = std::fs::read_to_string(cluster.kubeconfig()).unwrap();
    let other = Authority::new();
    let path = |authority: &Authority| authority.path().display().to_string();
    let kubeconfig = kubeconfig.replace(&path(&authority), &path(&other));
    std::fs::write(cluster.kubeconfig(), kubeconfig).unwrap();
    let stranger = proxy_in(&cluster, &[]).await;
    stranger.logs("the API server can't be reached").await;
    stranger.has_hosts(&[]).await;
}

#[tokio::test]
async fn without_a_way_to_an_api_server_it_says_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let proxy = Proxy::start_with(&discovering(), |command| {
        command
            .env("HOME", folder.path())
            .env_remove("KUBECONFIG")
            .env_remove("KUBERNETES_SERVICE_HOST");
    })
    .await;
    proxy.logs("nothing says where the API server is").await;
    proxy.logs("automountServiceAccountToken").await;
}

#[tokio::test]
async fn a_kubeconfig_that_says_nothing_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kube.yaml");
    for (content, what) in [(None, "is not there"), (Some("[1, 2"), "is no kubeconfig")] {
        if let Some(content) = content {
            std::fs::write(&file, content).unwrap();
        }
        let proxy = Proxy::start_with(&discovering(), |command| {
            command
                .env("KUBECONFIG", &file)
                .env_remove("KUBERNETES_SERVICE_HOST");
        })
        .await;
        let told = format!("KUBECONFIG names {}, which {what}", file.display());
        proxy.logs(&told).await;
    }
}

#[tokio::test]
async fn hosts_that_were_found_stay_through_a_reload_and_go_with_their_entry() {
    let (first, _, port) = two_hosts();
    let slice = endpoint_slice("a", port, &[(FIRST, "gpu-0", READY)]);
    let mut cluster = ApiServer::start(&[slice]).await;
    let proxy = proxy_in(&cluster, &[&first]).await;
    let other = sim_host("other").start();
    cluster.stop().await;

    let config = discovering().host("other", &other.url(), None);
    proxy.takes_over(&config).await;
    proxy.has_hosts(&[first.name(), "other"]).await;
    let config = config.set_host("gpus", "weight", 3);
    proxy.takes_over(&config).await;
    assert!(proxy.is_healthy(first.name()).await);
    proxy.takes_over(&config.without_host("gpus")).await;
    proxy.has_hosts(&["other"]).await;
}
