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
        (
            "timeouts: {attempt: 1ms}\n",
            &[
                "2:21: timeouts.attempt: is very short; less than 1s is hardly meant",
                "2:21: timeouts.attempt: is not longer than connect, which is a part of it",
            ],
        ),
        (
            "timeouts: {attempt: 2s, connect: 3s}\n",
            &["2:21: timeouts.attempt: is not longer than connect, which is a part of it"],
        ),
        (
            "health: {interval: 1s, timeout: 2s}\n",
            &[
                "2:33: health.timeout: is longer than interval, so a host that hangs is checked less often than that says",
            ],
        ),
        (
            "health: {interval: 1h}\n",
            &["2:20: health.interval: is long: until then nobody notices that a host is back"],
        ),
        (
            "queue: {max_wait: 1ms, max_waiting: 0}\n",
            &[
                "2:19: queue.max_wait: is very short; less than 1s is hardly meant",
                "2:37: queue.max_waiting: lets nobody wait: a request is refused while all slots are taken",
            ],
        ),
    ];
    for (text, expected) in table {
        assert_eq!(warnings(&format!("{text}{MINIMAL}")), *expected, "{text}");
    }
    let insecure = "pool: {hosts: [{name: a, url: 'https://a:1', tls: {insecure: true}}]}\n";
    let expected =
        "2:62: pool.hosts[0].tls.insecure: lets anybody pose as this host; write ca instead";
    assert_eq!(warnings(insecure), [expected]);
}

#[test]
fn a_host_that_takes_the_place_of_another_is_told() {
    let told = |name: &str, url: &str| {
        let text = format!(
            "pool: {{hosts: [{{name: g, url: 'http://gpus:1', discover: dns}}, \
             {{name: {name}, url: 'http://{url}:1'}}]}}\n"
        );
        warnings(&text)
    };
    let expected = "2:71: pool.hosts[1].name: takes the place of what g finds at 10.0.0.2, but its url is another; \
                    name it otherwise to have both";
    assert_eq!(told("g-10.0.0.2", "10.0.0.3"), [expected]);
    assert_eq!(told("g-fd00--1", "10.0.0.3").len(), 1);
    for (name, url) in [
        ("g-10.0.0.2", "10.0.0.2"),
        ("g-10.0.0.2", "two.example"),
        ("g-two", "10.0.0.3"),
        ("h-10.0.0.2", "10.0.0.3"),
        ("g-fd00--1", "[fd00::1]"),
    ] {
        assert_eq!(told(name, url), [""; 0], "{name}");
    }
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

fn of_hosts(first: &str, urls: &[&str]) -> Vec<String> {
    let host = |(number, url): (usize, &&str)| format!("{{name: h{number}, url: '{url}'}}");
    let hosts: Vec<_> = urls.iter().enumerate().map(host).collect();
    let told = warnings(&format!("{first}pool: {{hosts: [{}]}}\n", hosts.join(", ")));
    told.iter()
        .map(|text| text.split_once(": ").unwrap().1.to_owned())
        .collect()
}

#[test]
fn addresses_of_hosts_that_are_hardly_meant() {
    let port = |port| {
        format!(
            "pool.hosts[0].url: has no port, which means {port}; hosts listen on 8765 unless told otherwise"
        )
    };
    let circle = "pool.hosts[0].url: is this proxy's own address, so that requests would go round in circles".to_owned();
    let twin =
        "pool.hosts[1].url: is the same host as hosts[0], which then gets twice as much".to_owned();
    let here = "listen: [{address: '127.0.0.1:99'}]\n";
    let any = "pool.hosts[0].url: is the address that servers listen at for all of theirs, none to connect to; \
               write that of the host, or 127.0.0.1 for this machine"
        .to_owned();
    let percents =
        "pool.hosts[0].url: holds %NAME%, which stands for itself; a variable is written ${NAME}"
            .to_owned();
    let table: [(&str, &[&str], Vec<String>); 15] = [
        ("", &["http://0.0.0.0:1"], vec![any]),
        ("", &["http://gpu:1/%GPU_HOST%"], vec![percents]),
        ("", &["http://gpu"], vec![port(80)]),
        ("", &["https://[::7]/"], vec![port(443)]),
        ("", &["http://gpu:80", "http://[::7]:80"], vec![]),
        ("", &["http://localhost:8765"], vec![circle.clone()]),
        ("", &["http://127.0.0.1:8765"], vec![circle.clone()]),
        ("", &["http://127.0.0.1:9765"], vec![circle.clone()]),
        ("", &["http://192.168.1.20:8765"], vec![]),
        (here, &["http://localhost:99"], vec![circle.clone()]),
        (here, &["http://127.0.0.1:98"], vec![]),
        (here, &["http://127.0.0.2:99"], vec![]),
        (
            here,
            &["http://localhost:98", "http://127.0.0.1:98"],
            vec![twin.clone()],
        ),
        (
            "",
            &["http://a.ml:9", "http://a.ml.svc:9", "http://b.ml.svc:9"],
            vec![twin.clone()],
        ),
        (
            here,
            &["http://gpu:98", "https://gpu:98", "http://gpu:97"],
            vec![twin],
        ),
    ];
    for (first, urls, expected) in table {
        assert_eq!(of_hosts(first, urls), expected, "{first}{urls:?}");
    }
}

#[test]
fn values_of_hosts_that_hardly_match_anything() {
    let of = |keys: &str| warnings(&format!("pool: {{hosts: [{{name: a, {keys}}}]}}\n"));
    let kubernetes = "url: 'http://gpus', discover: kubernetes";
    if cfg!(feature = "kubernetes") {
        // The port in the url does not count where one is named.
        assert_eq!(of(&format!("{kubernetes}, discover_port: http")), [""; 0]);
        let digits = "2:83: pool.hosts[0].discover_port: is looked for among the names of the Service's ports, and hardly one has digits only; for a number leave it out, and write the number in the url";
        assert_eq!(
            of(&format!("{kubernetes}, discover_port: '8765'")),
            [digits]
        );
        assert!(of(kubernetes)[0].contains("url: has no port, which means 80"));
    }
    let openai = "url: 'http://a:1', api: openai, model_alias";
    assert_eq!(of(&format!("{openai}: {{a: org/a}}")), [""; 0]);
    let purpose = "2:71: pool.hosts[0].model_alias: holds a name that begins with embed:, as in /info; clients and hosts name models without it";
    for alias in ["'embed:a': org/a", "a: 'embed:a'"] {
        assert_eq!(of(&format!("{openai}: {{{alias}}}")), [purpose]);
    }
}
