//! How fast hosts are, compared with each other.

use std::time::Duration;

use serde_json::Value;

use crate::harness::{Behaviour, Config, Proxy, SimHost, sim_host};

fn taking(name: &str, millis: u64) -> SimHost {
    let behaviour = Behaviour::ServeAfter(Duration::from_millis(millis));
    sim_host(name).behaving(behaviour).start()
}

async fn speeds(proxy: &Proxy) -> Vec<Option<f64>> {
    let pool = proxy.operator().get("/api/v1/pool").await.json();
    let hosts = pool["hosts"].as_array().unwrap().iter();
    hosts.map(|host| host["speed"].as_f64()).collect()
}

#[tokio::test]
async fn hosts_are_compared_with_each_other_and_those_that_have_not_served_with_none() {
    let hosts = [taking("slow", 80), taking("fast", 20), taking("idle", 1)];
    let config = Config::with_hosts(&hosts.each_ref());
    let proxy = Proxy::ready(&config, &hosts.each_ref()).await;
    assert_eq!(speeds(&proxy).await, [None; 3]);
    let (code, table, _) = proxy.command(&["status"]).await;
    assert!(code == Some(0) && !table.contains("1.00x"), "{table}");
    let (code, ..) = proxy.command(&["drain", "idle"]).await;
    assert_eq!(code, Some(0));

    proxy.client().flood(60, 1).await;

    let [Some(slow), Some(fast), None] = speeds(&proxy).await[..] else {
        panic!("{:?}", speeds(&proxy).await);
    };
    assert!(slow < 1.0 && fast > 1.0, "{slow} and {fast}");
    assert!((0.98..1.02).contains(&(slow * fast)), "{slow} and {fast}");
    let pool: Value = proxy.operator().get("/api/v1/pool").await.json();
    assert_eq!(pool["hosts"][2]["speed"], Value::Null);
}

#[tokio::test]
async fn a_host_alone_is_as_fast_as_itself() {
    let host = taking("alone", 5);
    let proxy = Proxy::in_front_of(&[&host]).await;
    proxy.client().flood(20, 2).await;
    assert_eq!(speeds(&proxy).await, [Some(1.0)]);
}
