//! What is said of bad configurations, and where; and whether the schema knows as well.

use super::*;

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn problems_say_where_and_what_instead() {
    let table: &[(&str, &[&str])] = &[
        (
            "queue: {max_wiat: 5s}",
            &["2:9: queue.max_wiat: unknown key; did you mean max_wait?"],
        ),
        (
            "nonsense: 1",
            &[
                "2:1: nonsense: unknown key; known here are listen, admin, auth, pool, health, limits, queue, retries, batching, timeouts, headers, cors, audit",
            ],
        ),
        (
            "queue: {max_wait: 5}",
            &["2:19: queue.max_wait: needs a unit; write 5s or 5ms"],
        ),
        (
            "queue: {max_wait: soon}",
            &["2:19: queue.max_wait: is not a duration; write e.g. 500ms, 5s, 1m"],
        ),
        (
            "queue: {max_waiting: -1}",
            &["2:22: queue.max_waiting: must be a whole number from 0 to 1000000"],
        ),
        (
            "queue: {max_bytes: 0}",
            &["2:20: queue.max_bytes: must be at least 1 byte"],
        ),
        ("queue: 7", &["2:8: queue: must be a mapping (key: value)"]),
        (
            "health: {healthy_after: 0}",
            &["2:25: health.healthy_after: must be a whole number from 1 to 4294967295"],
        ),
        (
            "retries: {budget_percent: 0, hedge: true}",
            &[
                "2:27: retries.budget_percent: must be a whole number from 1 to 1000",
                "2:30: retries.hedge: was removed, since what hangs is moved to a sibling in any case; delete it",
            ],
        ),
        (
            "retries: {max_faulted_hosts: many}",
            &["2:30: retries.max_faulted_hosts: must be a whole number from 1 to 4294967295"],
        ),
        (
            "timeouts: {client_head: 10, client_idle: []}",
            &[
                "2:25: timeouts.client_head: needs a unit; write 10s or 10ms",
                "2:42: timeouts.client_idle: must be a text",
            ],
        ),
        (
            "limits: {max_body: many}",
            &[
                "2:20: limits.max_body: is not a size; write e.g. 64KiB, 32MiB, 1GiB or a number of bytes",
            ],
        ),
        (
            "limits: {max_body: 0}",
            &["2:20: limits.max_body: must be at least 1 byte"],
        ),
        (
            "limits: {max_head: 100}",
            &["2:20: limits.max_head: must be at least 1KiB"],
        ),
        (
            "limits: {max_head: 300000}",
            &["2:20: limits.max_head: must be at most 256KiB"],
        ),
        (
            "limits: {max_body: 100}",
            &["2:20: limits.max_body: must be at least 1KiB"],
        ),
        (
            "limits: {max_headers: 0}",
            &["2:23: limits.max_headers: must be a whole number from 1 to 256"],
        ),
        (
            "headers: {served_by: 1}",
            &["2:22: headers.served_by: must be true or false"],
        ),
        (
            "headers: {trusted_proxies: 10.0.0.1}",
            &["2:28: headers.trusted_proxies: must be a list of texts"],
        ),
        (
            "headers: {trusted_proxies: [10.0.0.1, proxy, 7]}",
            &[
                "2:39: headers.trusted_proxies[1]: is not a range of addresses; write e.g. 10.0.0.0/8, 192.168.1.7 or fd00::/8",
                "2:46: headers.trusted_proxies[2]: must be a text",
            ],
        ),
        (
            "listen: []",
            &["2:9: listen: lists no address; leave the key out for 0.0.0.0:8765"],
        ),
        (
            "listen: {address: x}",
            &["2:9: listen: must be a list (lines that start with '- ')"],
        ),
        (
            "listen: [{address: localhost}]",
            &["2:20: listen[0].address: must be IP:PORT, e.g. 127.0.0.1:8765 for localhost"],
        ),
        (
            "listen: [{tls: {}}]",
            &[
                "2:16: listen[0].tls.certificate: is missing",
                "2:16: listen[0].tls.key: is missing",
            ],
        ),
        (
            "admin: {address: 5}",
            &["2:18: admin.address: must be a text; put it in quotes"],
        ),
        (
            "admin: {key: x, key_file: y}",
            &["2:27: admin.key_file: can't stand beside key; keep one of them"],
        ),
        (
            "admin: {key: 'a b'}",
            &["2:14: admin.key: may hold visible ASCII characters only, without spaces"],
        ),
        (
            "auth: {keys: [{name: a}]}",
            &["2:15: auth.keys[0].key: is missing; write key or key_file"],
        ),
        (
            "auth: {keys: [{name: a, priority: 1, max_per_second: 1}]}",
            &["2:15: auth.keys[0].key: is missing; write key or key_file"],
        ),
        (
            "auth: {keys: [{name: a, key: ''}]}",
            &["2:30: auth.keys[0].key: is empty"],
        ),
        (
            "auth: {keys: [{name: 'a b', key: x}]}",
            &[
                "2:22: auth.keys[0].name: use 1 to 63 letters, digits, '.', '_' or '-', the first neither '.' nor '-', e.g. rtx-3090",
            ],
        ),
        (
            "auth: {keys: [{name: a, key: x, key_file: k}]}",
            &["2:43: auth.keys[0].key_file: can't stand beside key; keep one of them"],
        ),
        (
            "auth: {keys: [{name: a, key: x, priority: 10, max_concurrent: 0, max_per_second: 1.5}]}",
            &[
                "2:43: auth.keys[0].priority: must be a whole number from 0 to 9",
                "2:63: auth.keys[0].max_concurrent: must be a whole number from 1 to 4294967295",
                "2:82: auth.keys[0].max_per_second: must be a whole number from 1 to 4294967295",
            ],
        ),
    ];
    for (text, expected) in table {
        assert_eq!(problems(text), *expected, "{text}");
        assert!(schema::refuses(&with_minimal(text)), "{text}");
    }
}

/// What to write is said, and is open to nobody who was not meant.
#[test]
fn addresses_that_lack_something() {
    let must_be = "must be IP:PORT";
    for (key, written, expected) in [
        ("listen", "::1:8765", "; write [::1]:8765"),
        ("listen", "::1", "; write [::1]:8765"),
        ("listen", "fd00::2:99", "; write [fd00::2]:99"),
        ("listen", "10.0.0.1", "; write 10.0.0.1:8765"),
        (
            "listen",
            ":8765",
            ", e.g. 0.0.0.0:8765 for all addresses of this machine",
        ),
        ("listen", "gpu", ", e.g. 0.0.0.0:8765 or [::]:8765"),
        ("admin", "::1:9765", "; write [::1]:9765"),
        ("admin", "127.0.0.1", "; write 127.0.0.1:9765"),
        ("admin", "localhost", ", e.g. 127.0.0.1:9765 for localhost"),
        ("admin", ":9765", ", e.g. 127.0.0.1:9765"),
        ("admin", "nonsense", ", e.g. 127.0.0.1:9765"),
    ] {
        let (text, path) = match key {
            "listen" => (
                format!("listen: [{{address: '{written}'}}]"),
                "2:20: listen[0]",
            ),
            _ => (format!("admin: {{address: '{written}'}}"), "2:18: admin"),
        };
        let expected = format!("{path}.address: {must_be}{expected}");
        assert_eq!(problems(&text), [expected], "{text}");
    }
    for (written, expected) in [
        ("::1:53", "; write [::1]:53"),
        ("fd00::a", "; write [fd00::a]:53"),
        ("10.0.0.53", ", e.g. 10.0.0.53:53"),
    ] {
        let text = format!("  - {{name: a, url: 'http://a'}}\n  resolver: '{written}'\n");
        let expected = format!("4:13: pool.resolver: {must_be}{expected}");
        assert_eq!(host_problems(&text), [expected], "{written}");
    }
}

#[test]
fn what_is_not_indented_is_told_where_it_belongs() {
    let table: &[(&str, &[&str])] = &[
        (
            "pool:\nhosts:\n  - {name: a, url: 'http://a'}\n",
            &[
                "1:5: pool.hosts: is missing; list at least one host with name and url",
                "2:1: hosts: belongs below pool: indent it",
            ],
        ),
        (
            "pool: {hosts: [{name: a, url: 'http://a'}]}\nmax_wait: 5s\ninterval: 5s\n",
            &[
                "2:1: max_wait: belongs below queue: indent it",
                "3:1: interval: belongs below audit or health: indent it",
            ],
        ),
    ];
    for (text, expected) in table {
        assert_eq!(read(text).unwrap_err(), *expected, "{text}");
    }
}

#[test]
fn problems_that_no_schema_can_know() {
    let table: &[(&str, &[&str])] = &[
        (
            "queue: {max_wait: 0s}",
            &["2:19: queue.max_wait: must be from 1ms to 24h"],
        ),
        (
            "limits: {max_body: 2GiB}",
            &["2:9: limits.max_buffered: must be at least max_body"],
        ),
        (
            "headers: {trusted_proxies: [10.0.0.0/33]}",
            &[
                "2:29: headers.trusted_proxies[0]: is not a range of addresses; write e.g. 10.0.0.0/8, 192.168.1.7 or fd00::/8",
            ],
        ),
        (
            "headers: {trusted_proxies: ['${NOPE}']}",
            &["2:29: headers.trusted_proxies[0]: the environment variable NOPE is not set"],
        ),
        (
            "listen: [{address: '1.1.1.1:1'}, {address: '1.1.1.1:1'}]",
            &["2:44: listen[1].address: is the same as of listen[0]; each must be unique"],
        ),
        (
            "listen: [{address: '0.0.0.0:1'}, {address: '1.1.1.1:1'}, {address: '[::]:1'}]",
            &[
                "2:44: listen[1].address: is a part of 0.0.0.0:1 (listen[0]), or the other way round; keep one of them",
            ],
        ),
        (
            "listen: [{address: '1.1.1.1:1'}, {address: '[::ffff:1.1.1.1]:1'}]",
            &["2:44: listen[1].address: is the same as of listen[0]; each must be unique"],
        ),
        (
            "listen: [{address: '[::]:9765'}]",
            &["1:1: admin.address: is the same as of listen[0]; operators need their own"],
        ),
        (
            "listen: [{tls: {certificate: c, key: '${NOPE}'}}]",
            &[
                "2:30: listen[0].tls.certificate: names a file that can't be read: No such file or directory (os error 2); write the path of one, from the folder of the configuration",
                "2:38: listen[0].tls.key: names an environment variable that is not set; write ${NAME} with the name of one that is, or the key itself",
            ],
        ),
        (
            "admin: {address: '0.0.0.0:8765'}",
            &["2:18: admin.address: is the same as of listen[0]; operators need their own"],
        ),
        (
            "admin: {address: '127.0.0.1:8765'}",
            &["2:18: admin.address: is the same as of listen[0]; operators need their own"],
        ),
        (
            "admin: {key: x}\nauth: {keys: [{name: a, key: x}]}",
            &["2:14: admin.key: is the same as of auth.keys[0]; operators need their own"],
        ),
        (
            "auth: {keys: [{name: a, key: x}, {name: a, key: x}]}",
            &[
                "2:41: auth.keys[1].name: is the same as of keys[0]; each must be unique",
                "2:49: auth.keys[1].key: is the same as of keys[0]; each must be unique",
            ],
        ),
        (
            "auth: {keys: [{name: a, key: '${NOPE}'}]}",
            &[
                "2:30: auth.keys[0].key: names an environment variable that is not set; write ${NAME} with the name of one that is, or the key itself",
            ],
        ),
        (
            "auth: {keys: [{name: a, key_file: k}]}",
            &[
                "2:35: auth.keys[0].key_file: names a file that can't be read: No such file or directory (os error 2); write the path of one, from the folder of the configuration",
            ],
        ),
    ];
    for (text, expected) in table {
        assert_eq!(problems(text), *expected, "{text}");
        assert!(!schema::refuses(&with_minimal(text)), "{text}");
    }
}

#[test]
fn problems_of_hosts() {
    let table: &[(&str, &[&str])] = &[
        ("  - {name: a}\n", &["3:5: pool.hosts[0].url: is missing"]),
        (
            "  - {url: 'http://a'}\n",
            &["3:5: pool.hosts[0].name: is missing"],
        ),
        (
            "  - {name: 'a b', url: 'http://a'}\n",
            &[
                "3:12: pool.hosts[0].name: use 1 to 63 letters, digits, '.', '_' or '-', the first neither '.' nor '-', e.g. rtx-3090",
            ],
        ),
        (
            "  - {name: a, url: 'http://a', api: tei}\n",
            &["3:37: pool.hosts[0].api: is not an API; use gpu-bridge or openai"],
        ),
        (
            "  - {name: a, url: 'http://a', health_path: /, truncate: true, normalize: false}\n",
            &[
                "3:45: pool.hosts[0].health_path: has no effect without api: openai",
                "3:58: pool.hosts[0].truncate: has no effect without api: openai",
            ],
        ),
        (
            "  - {name: a, url: 'http://a', api: openai, health_path: health, model_alias: {m: ''}}\n",
            &[
                "3:58: pool.hosts[0].health_path: is not a path; write e.g. /health or /v1/models",
                "3:79: pool.hosts[0].model_alias: holds what must be a text of 1 to 200 bytes",
            ],
        ),
        (
            "  - {name: a, url: '192.168.1.20:8765'}\n",
            &[
                "3:20: pool.hosts[0].url: has no scheme; put http:// before it, as in http://192.168.1.20:8765",
            ],
        ),
        (
            "  - {name: a, url: '::1:8765'}\n",
            &[
                "3:20: pool.hosts[0].url: needs brackets around its address; write http://[::1]:8765",
            ],
        ),
        (
            "  - {name: a, url: 'http://a', weight: 0}\n",
            &["3:40: pool.hosts[0].weight: must be a whole number from 1 to 1000"],
        ),
        (
            "  - {name: a, url: 'http://a', max_concurrent: 0}\n",
            &["3:48: pool.hosts[0].max_concurrent: must be a whole number from 1 to 4294967295"],
        ),
        (
            "  - {name: a, url: 'http://a/v1'}\n",
            &["3:20: pool.hosts[0].url: must not end in /v1, which is added to it: leave that out"],
        ),
        (
            "  - {name: a, url: 'http://a', tls: {server_name: b}}\n",
            &["3:37: pool.hosts[0].tls: has no effect on an http:// url; write https://"],
        ),
        (
            "  - {name: a, url: 'https://a', tls: {server_name: ''}}\n",
            &["3:52: pool.hosts[0].tls.server_name: is not a host's name; write e.g. gpu2.example"],
        ),
        (
            "  - {name: a, url: 'https://a', tls: {insecure: true, ca: c}}\n",
            &[
                "3:49: pool.hosts[0].tls.insecure: contradicts ca: with it, nothing is verified; keep one of them",
                "3:59: pool.hosts[0].tls.ca: names a file that can't be read: No such file or directory (os error 2); write the path of one, from the folder of the configuration",
            ],
        ),
        (
            "  - {name: a, url: 'https://a', tls: {key: k, surname: b}}\n",
            &[
                "3:38: pool.hosts[0].tls.certificate: is missing; key needs it",
                "3:44: pool.hosts[0].tls.key: names a file that can't be read: No such file or directory (os error 2); write the path of one, from the folder of the configuration",
                "3:47: pool.hosts[0].tls.surname: unknown key; known here are ca, certificate, key, server_name, insecure",
            ],
        ),
        (
            "  - {name: a, url: 'http://a'}\n  policy: random\n",
            &["4:11: pool.policy: is not a policy; use least-busy, round-robin or least-vram"],
        ),
        (
            "  - {name: a, url: 'http://a'}\n  policy: power-of-two\n",
            &[
                "4:11: pool.policy: power-of-two was removed, since least-busy, which looks at all hosts, does \
                better; use that",
            ],
        ),
    ];
    for (text, expected) in table {
        assert_eq!(host_problems(text), *expected, "{text}");
        assert!(schema::refuses(&with_hosts(text)), "{text}");
    }
}

#[test]
fn problems_of_ways_to_find_hosts() {
    let table: &[(&str, &[&str])] = &[
        (
            "  - {name: a, url: 'http://a', discover: files}\n",
            &["3:42: pool.hosts[0].discover: is not a way to find hosts; use dns or kubernetes"],
        ),
        (
            "  - {name: a, url: 'http://a', discover_interval: 5s}\n",
            &["3:51: pool.hosts[0].discover_interval: has no effect without discover: dns"],
        ),
        (
            "  - {name: a, url: 'http://a', discover: kubernetes, discover_interval: 5s}\n",
            &["3:73: pool.hosts[0].discover_interval: has no effect without discover: dns"],
        ),
        (
            "  - {name: a, url: 'http://a', discover: dns, discover_port: http}\n",
            &["3:62: pool.hosts[0].discover_port: has no effect without discover: kubernetes"],
        ),
        (
            "  - {name: a, url: 'http://a', discover_port: http}\n",
            &["3:47: pool.hosts[0].discover_port: has no effect without discover: kubernetes"],
        ),
        (
            "  - {name: a, url: 'http://a', discover: kubernetes, discover_port: 'a b'}\n",
            &[
                "3:69: pool.hosts[0].discover_port: is not the name of a Service's port; write e.g. http",
            ],
        ),
        (
            "  - {name: a, url: 'http://a', discover: kubernetes, discover_port: 8765}\n",
            &[
                "3:69: pool.hosts[0].discover_port: is what the Service calls the port, and no number; leave it out, and write the number in the url, or write e.g. http",
            ],
        ),
    ];
    for (text, expected) in table {
        assert_eq!(host_problems(text), *expected, "{text}");
        assert!(schema::refuses(&with_hosts(text)), "{text}");
    }
}

#[test]
fn problems_of_hosts_that_no_schema_can_know() {
    let table: &[(&str, &[&str])] = &[
        (
            "  - {name: a, url: 'http://10.0.0.1', discover: dns}\n",
            &[
                "3:49: pool.hosts[0].discover: has nothing to look up: the url holds an address, not a name",
            ],
        ),
        (
            "  - {name: a, url: 'http://10.0.0.1', discover: kubernetes}\n",
            &[
                "3:49: pool.hosts[0].discover: has nothing to look up: the url holds an address, not a name",
            ],
        ),
        (
            "  - {name: a, url: 'http://gpu.example.com', discover: kubernetes}\n",
            &[
                "3:20: pool.hosts[0].url: names no Kubernetes Service; write http://SERVICE:PORT or http://SERVICE.NAMESPACE:PORT",
            ],
        ),
        (
            "  - {name: a, url: 'http://[::1]:9', discover: dns}\n",
            &[
                "3:48: pool.hosts[0].discover: has nothing to look up: the url holds an address, not a name",
            ],
        ),
        (
            "  - {name: a, url: 'http://a'}\n  - {name: a, url: 'http://a/'}\n",
            &[
                "4:12: pool.hosts[1].name: is the same as of hosts[0]; each must be unique",
                "4:20: pool.hosts[1].url: is the same as of hosts[0]; each must be unique",
            ],
        ),
    ];
    for (text, expected) in table {
        assert_eq!(host_problems(text), *expected, "{text}");
        assert!(!schema::refuses(&with_hosts(text)), "{text}");
    }
}

#[test]
fn commenting_out_all_keys_does_not_open_the_proxy() {
    for (text, expected) in [
        (
            "auth:",
            "2:5: auth: is empty; leave it out for the defaults",
        ),
        (
            "auth: {keys: }",
            "2:12: auth.keys: must be a list (lines that start with '- ')",
        ),
    ] {
        assert_eq!(problems(text), [expected], "{text}");
    }
    assert!(problems("auth: {keys: []}").is_empty());
}

#[test]
fn texts_that_are_no_configuration() {
    let table = [
        (
            "",
            "pool.hosts: is missing; list at least one host with name and url",
        ),
        ("pool: {hosts: []}", "1:15: pool.hosts: is missing"),
        ("pool:\n", "1:5: pool.hosts: is missing"),
        ("pool: {hosts: 1}", "1:15: pool.hosts: must be a list"),
        ("- 1", "1:1: must be a mapping (key: value)"),
        (
            "queue: {}",
            "1:1: pool.hosts: is missing; list at least one host with name and url",
        ),
        ("a: [1", "did not find expected ',' or ']'"),
        (
            "pool: {}\npool: {}\n",
            "pool: stands here twice (first in line 1)",
        ),
        ("a: 1\n---\nb: 1\n", "2:1: a second document starts here"),
        (
            "pool: {x: 123456789012345678901}",
            "a number is larger than any that is read",
        ),
    ];
    for (text, expected) in table {
        let problems = read(text).unwrap_err().join("\n");
        assert!(problems.contains(expected), "{text:?}: {problems}");
    }
}

#[test]
fn all_problems_are_told_at_once_in_the_order_of_the_text() {
    let text = "quue: {}\nqueue: {max_wait: 1, max_waiting: x}\npool:\n  hosts:\n  - {nam: a}\n";
    let lines: Vec<String> = read(text).unwrap_err();
    let places: Vec<&str> = lines
        .iter()
        .map(|line| line.split(": ").next().unwrap())
        .collect();
    assert_eq!(
        places,
        ["1:1", "2:19", "2:35", "5:5", "5:5", "5:6"],
        "{lines:#?}"
    );
}

#[test]
fn a_file_that_is_missing_or_not_text_is_a_problem_of_the_file() {
    let error = load(Path::new("/nonexistent/gpu-bridge.yaml"), &variable).unwrap_err();
    let expected =
        "/nonexistent/gpu-bridge.yaml: can't be read: No such file or directory (os error 2)";
    assert_eq!(error.to_string(), expected);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), b"pool: \xff").unwrap();
    assert!(
        load(file.path(), &variable)
            .unwrap_err()
            .to_string()
            .contains("can't be read")
    );
}

#[test]
fn problems_are_printed_with_the_files_name() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{MINIMAL}a: 1\nb: 2\n")).unwrap();
    let printed = load(file.path(), &variable).unwrap_err().to_string();
    let name = file.path().display().to_string();
    let of_line = |number: usize, key: &str| {
        let known = "listen, admin, auth, pool, health, limits, queue, retries, batching, timeouts, headers, cors, audit";
        let text = format!("{key}: unknown key; known here are {known}");
        format!("{name}:{number}:1: {text}\n  {number} | {key}: ***\n    | ^^")
    };
    assert_eq!(printed, format!("{}\n{}", of_line(2, "a"), of_line(3, "b")));
}

/// Each of these took seconds or minutes, or filled the memory.
#[test]
fn large_and_hostile_texts_are_refused_with_little_work() {
    let many = |piece: &str| piece.repeat(200_000 / piece.len());
    let numbered = |line: &str| -> String {
        let lines = (0..20_000).map(|number| line.replace('#', &number.to_string()));
        lines.collect()
    };
    let nines = |name: &str| vec![format!("*{name}"); 9].join(",");
    let letters = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];
    let laughs = letters
        .windows(2)
        .map(|pair| format!("{}: &{} [{}]\n", pair[1], pair[1], nines(pair[0])));
    let table = [
        (
            format!("a: {}{}", "[".repeat(100_000), "]".repeat(100_000)),
            "deeper",
        ),
        (many(" [\n"), "deeper"),
        (many("- "), "deeper"),
        (many("?\t"), "deeper"),
        (format!("a: {}", many("{a: ")), "deeper"),
        (
            format!("a: &a [{}]\nb: [{}]", many("x,"), many("*a,")),
            "holds more",
        ),
        (
            format!("a: &a [x]\n{}", laughs.collect::<String>()),
            "holds more",
        ),
        (many("a,").replace("a,", "- a\n"), "must be a mapping"),
        (format!("a: [{}", many("x,")), "is not YAML"),
        (many("a: 1\n"), "stands here twice"),
        (numbered("k#: 1\nk#: 1\n"), "stands here twice"),
        (numbered("k#: 1\n"), "unknown key"),
        (
            format!("queue: {{{}}}", numbered("max_wai#: 1, ")),
            "unknown key",
        ),
        (
            format!(
                "pool:\n  hosts:\n{}",
                numbered("    - {nme: h#, url: 'ttp://h#'}\n")
            ),
            "unknown key",
        ),
        (
            format!(
                "pool: {{hosts: [{}]}}",
                numbered("{name: h, url: 'http://h'}, ")
            ),
            "is the same as of",
        ),
    ];
    for (text, expected) in table {
        let start = &text[..20];
        let mut problems = Vec::new();
        let work = allocation_counter::measure(|| problems = read(&text).err().unwrap_or_default());
        assert!(
            work.bytes_total < 1000 * text.len() as u64,
            "{start}: {work:?}"
        );
        assert!(
            problems.len() <= MOST_PROBLEMS + 1,
            "{start}: {}",
            problems.len()
        );
        assert!(
            problems.iter().any(|problem| problem.contains(expected)),
            "{start}: {:?}",
            problems[0]
        );
        let told: usize = problems.iter().map(String::len).sum();
        assert!(told < 50_000, "{start}: {told} bytes");
    }
}
