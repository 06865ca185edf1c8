//! What can be used, but is perhaps not meant.

use super::*;

/// Without the warning that there are no keys.
fn warnings(text: &str) -> Vec<String> {
    let key = "auth: {keys: [{name: k, key: secret}]}\n";
    let config = read(&format!("{key}{text}")).unwrap();
    config.warnings.iter().map(ToString::to_string).collect()
}

#[test]
fn warnings_say_where_and_what_instead() {
    let exposed = "2:18: admin.address: everybody who can connect may look at hosts and requests; set admin.key, or listen on 127.0.0.1";
    let table: &[(&str, &[&str])] = &[
        ("", &[]),
        ("admin: {address: '0.0.0.0:9765'}\n", &[exposed]),
        ("admin: {address: '[::]:9765'}\n", &[exposed]),
        ("admin: {address: '0.0.0.0:9765', key: x}\n", &[]),
        ("admin: {address: '127.0.0.2:9765'}\n", &[]),
        ("admin: {address: '[::1]:9765'}\n", &[]),
        ("admin: {address: '[::ffff:127.0.0.1]:9765'}\n", &[]),
        (
            "queue: {max_bytes: 2GiB}\n",
            &["2:20: queue.max_bytes: is more than limits.max_buffered, which is reached first"],
        ),
        ("limits: {max_buffered: 100MiB}\n", &[]),
    ];
    for (text, expected) in table {
        assert_eq!(warnings(&format!("{text}{MINIMAL}")), *expected, "{text}");
    }
    let insecure = "pool: {hosts: [{name: a, url: 'https://a', tls: {insecure: true}}]}\n";
    let expected =
        "2:60: pool.hosts[0].tls.insecure: lets anybody pose as this host; write ca instead";
    assert_eq!(warnings(insecure), [expected]);
}

#[test]
fn a_proxy_without_keys_is_one() {
    let expected = "auth.keys: lists none, so everybody who can connect may use the hosts";
    for (text, place) in [("", "1:1"), ("auth: {keys: []}\n", "2:14")] {
        let config = read(&format!("{MINIMAL}{text}")).unwrap();
        let told: Vec<String> = config.warnings.iter().map(ToString::to_string).collect();
        assert_eq!(told, [format!("{place}: {expected}")]);
    }
}
