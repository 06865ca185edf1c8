//! Whole configurations: the shipped example, and what is said of bad ones.

use proptest::prelude::*;

use super::*;

const MINIMAL: &str = "pool: {hosts: [{name: a, url: 'http://10.0.0.1:8765'}]}\n";

fn variable(name: &str) -> Option<String> {
    match name {
        "OPENCLAW_KEY" | "GPU_KEY_1" => Some(format!("planted-{name}")),
        _ => None,
    }
}

fn read(text: &str) -> Result<Config, Vec<String>> {
    let surroundings = Surroundings {
        variable: &variable,
        folder: Path::new("/nonexistent"),
    };
    let shown = |problems: Vec<Problem>| problems.iter().map(ToString::to_string).collect();
    parse(text, &surroundings).map_err(shown)
}

/// What is wrong with the minimal configuration plus `text`.
fn problems(text: &str) -> Vec<String> {
    read(&format!("{MINIMAL}{text}")).err().unwrap_or_default()
}

/// What is wrong with a pool of these hosts (the list starts in line 3, column 3).
fn host_problems(hosts: &str) -> Vec<String> {
    read(&format!("pool:\n  hosts:\n{hosts}"))
        .err()
        .unwrap_or_default()
}

#[test]
fn the_shipped_example_is_good_and_shows_the_defaults() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/gpu-bridge.yaml");
    let example = load(&path, &variable).unwrap();
    assert_eq!(example.auth.keys[0].key.expose(), "planted-OPENCLAW_KEY");
    assert_eq!(example.pool.hosts[1].max_concurrent, NonZeroU32::new(4));
    let minimal = read(MINIMAL).unwrap();
    let rest = |config: &Config| {
        let Config {
            listen,
            admin,
            pool,
            health,
            queue,
            retries,
            timeouts,
            limits,
            headers,
            auth: _,
        } = config;
        format!(
            "{listen:?} {admin:?} {:?} {health:?} {queue:?} {retries:?} {timeouts:?} {limits:?} {headers:?}",
            pool.policy
        )
    };
    assert_eq!(rest(&example), rest(&minimal));
    assert_eq!(minimal.queue.max_wait, Duration::from_secs(30));
    assert_eq!(minimal.limits.max_body, 32 << 20);
}

#[test]
fn every_value_is_taken_over() {
    let text = "listen: [{address: '127.0.0.1:0'}, {address: '127.0.0.1:0'}, {address: '[::1]:9'}]\n\
        admin: {address: '127.0.0.1:1'}\n\
        health: {interval: 1m, timeout: 250ms, healthy_after: 3, unhealthy_after: 4}\n\
        queue: {max_waiting: 0, max_wait: 1h}\n\
        timeouts: {connect: 2s, attempt: 3s, client_read: 4s, shutdown: 5s}\n\
        limits: {max_body: 2048, max_buffered: 10MB, max_connections: 7, max_head: 8KiB, max_headers: 50}\n";
    let config = read(&format!("{MINIMAL}{text}")).unwrap();
    assert_eq!(config.listen.len(), 3);
    assert_eq!(config.admin.address.port(), 1);
    assert_eq!(config.health.timeout, Duration::from_millis(250));
    assert_eq!(config.health.unhealthy_after.get(), 4);
    assert_eq!(config.queue.max_waiting, 0);
    assert_eq!(config.queue.max_wait, Duration::from_hours(1));
    assert_eq!(config.timeouts.shutdown, Duration::from_secs(5));
    let Limits {
        max_body,
        max_buffered,
        max_connections,
        max_head,
        max_headers,
    } = config.limits;
    assert_eq!(
        (max_body, max_buffered, max_connections),
        (2048, 10_000_000, 7)
    );
    assert_eq!((max_head, max_headers), (8192, 50));
}

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
                "2:1: nonsense: unknown key; known here are listen, admin, auth, pool, health, queue, retries, timeouts, limits, headers",
            ],
        ),
        (
            "queue: {max_wait: 5}",
            &["2:19: queue.max_wait: needs a unit; write e.g. 5s"],
        ),
        (
            "queue: {max_wait: soon}",
            &["2:19: queue.max_wait: is not a duration; write e.g. 500ms, 5s, 1m"],
        ),
        (
            "queue: {max_wait: 0s}",
            &["2:19: queue.max_wait: must be from 1ms to 24h"],
        ),
        (
            "queue: {max_waiting: -1}",
            &["2:22: queue.max_waiting: must be a whole number from 0 to 1000000"],
        ),
        ("queue: 7", &["2:8: queue: must be a mapping (key: value)"]),
        (
            "health: {healthy_after: 0}",
            &["2:25: health.healthy_after: must be a whole number from 1 to 4294967295"],
        ),
        (
            "limits: {max_body: many}",
            &[
                "2:20: limits.max_body: is not a size; write e.g. 64KiB, 32MiB, 1GiB or a number of bytes",
            ],
        ),
        (
            "limits: {max_body: 2GiB}",
            &["2:9: limits.max_buffered: must be at least max_body"],
        ),
        (
            "limits: {max_body: 0}",
            &["2:20: limits.max_body: must be at least 1 byte"],
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
            &["2:20: listen[0].address: must be IP:PORT, e.g. 0.0.0.0:8765 or [::]:8765"],
        ),
        (
            "listen: [{address: '1.1.1.1:1'}, {address: '1.1.1.1:1'}]",
            &["2:44: listen[1].address: is the same as of listen[0]; each must be unique"],
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
            "auth: {keys: [{name: a}]}",
            &["2:15: auth.keys[0].key: is missing; write key or key_file"],
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
            &["2:30: auth.keys[0].key: the environment variable NOPE is not set"],
        ),
        (
            "auth: {keys: [{name: a, key: ''}]}",
            &["2:30: auth.keys[0].key: is empty"],
        ),
        (
            "auth: {keys: [{name: a, key_file: k}]}",
            &[
                "2:35: auth.keys[0].key_file: /nonexistent/k can't be read: No such file or directory (os error 2)",
            ],
        ),
        (
            "auth: {keys: [{name: a, key: x, key_file: k}]}",
            &["2:43: auth.keys[0].key_file: can't stand beside key; keep one of them"],
        ),
    ];
    for (text, expected) in table {
        assert_eq!(problems(text), *expected, "{text}");
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
                "3:12: pool.hosts[0].name: use 1 to 63 letters, digits, '.', '_' or '-', e.g. rtx-3090",
            ],
        ),
        (
            "  - {name: a, url: 'http://a', discover: files}\n",
            &["3:42: pool.hosts[0].discover: is not a way to find hosts; use dns"],
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
            "  - {name: a, url: 'http://a'}\n  - {name: a, url: 'http://a/'}\n",
            &[
                "4:12: pool.hosts[1].name: is the same as of hosts[0]; each must be unique",
                "4:20: pool.hosts[1].url: is the same as of hosts[0]; each must be unique",
            ],
        ),
        (
            "  - {name: a, url: 'http://a'}\n  policy: random\n",
            &[
                "4:11: pool.policy: is not a policy; use least-busy, round-robin, power-of-two or least-vram",
            ],
        ),
    ];
    for (hosts, expected) in table {
        assert_eq!(host_problems(hosts), *expected, "{hosts}");
    }
}

#[test]
fn texts_that_are_no_configuration() {
    let table = [
        (
            "",
            "pool.hosts: is missing; list at least one host with name and url",
        ),
        ("pool: {hosts: []}", "1:15: pool.hosts: is missing"),
        ("pool: {hosts: 1}", "1:15: pool.hosts: must be a list"),
        ("- 1", "1:1: must be a mapping (key: value)"),
        (
            "queue: {}",
            "1:1: pool.hosts: is missing; list at least one host with name and url",
        ),
        ("a: [1", "did not find expected ',' or ']'"),
        ("pool: {}\npool: {}\n", "duplicate entry with key \"pool\""),
        ("a: 1\n---\nb: 1\n", "more than one document"),
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
    let starts: Vec<bool> = printed
        .lines()
        .zip(["2:1: a: unknown key", "3:1: b: unknown key"])
        .map(|(line, rest)| line.starts_with(&format!("{name}:{rest}")))
        .collect();
    assert_eq!(starts, [true, true], "{printed}");
}

#[test]
fn keys_from_files_are_relative_to_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("k"), "from-file\n").unwrap();
    let path = folder.path().join("c.yaml");
    std::fs::write(
        &path,
        format!("{MINIMAL}auth: {{keys: [{{name: a, key_file: k}}]}}\n"),
    )
    .unwrap();
    assert_eq!(
        load(&path, &variable).unwrap().auth.keys[0].key.expose(),
        "from-file"
    );
}

#[test]
fn planted_secrets_show_up_nowhere() {
    let planted = "hunter2";
    let texts = [
        format!("auth: {{keys: [{{name: a, key: 'bad {planted}'}}]}}"),
        format!("auth: {{keys: [{{name: a, key: {planted}}}, {{name: b, key: {planted}}}]}}"),
        format!("auth: {{keys: [{{name: a, key: {planted}, key_file: x}}]}}"),
        format!("auth: {{keys: [{{name: a, key: [{planted}]}}]}}"),
        format!("auth: {{keys: [{{nam: a, key: {planted}}}]}}"),
    ];
    for text in texts {
        let problems = problems(&text);
        assert!(!problems.is_empty(), "{text}");
        assert!(!format!("{problems:?}").contains(planted), "{problems:?}");
    }
    let url = format!("  - {{name: a, url: 'http://u:{planted}@a', api_key: {planted}}}\n");
    assert!(!format!("{:?}", host_problems(&url)).contains(planted));
    let good = format!("pool: {{hosts: [{{name: a, url: 'http://a', api_key: {planted}}}]}}\n");
    let good = read(&format!(
        "{good}auth: {{keys: [{{name: a, key: {planted}}}]}}\n"
    ))
    .unwrap();
    assert!(!format!("{good:?}").contains(planted), "{good:?}");
}

/// A configuration with keys written where they should not be, but often are.
const PLANTED: &str = "auth:
  keys:
    - {name: a, key: hunter2-hunter2}
    - name: b
      key: hunter2-hunter2b
pool:
  hosts:
    - name: a
      url: http://10.0.0.1:8765
      api_key: hunter2-hunter2
    - {name: b, url: 'http://10.0.0.2', api_key: 'hunter2-hunter2'}
";

#[test]
fn no_slip_of_the_keyboard_makes_a_problem_show_a_key() {
    let mut texts = Vec::new();
    for at in 0..PLANTED.len() {
        let (before, after) = PLANTED.split_at(at);
        texts.push(format!("{before}{}", &after[1..]));
        for slip in [
            "'", "\"", ":", ": ", "-", "- ", "#", " #", "&", "*", "!", "{", "}", "[", "]", ",",
            "|", ">", "%", "@", "\n", "\t", "  ", "?", "$",
        ] {
            texts.push(format!("{before}{slip}{after}"));
        }
    }
    let mut refused = 0;
    for text in texts {
        if let Err(problems) = read(&text) {
            refused += 1;
            let shown = problems.join("\n");
            assert!(!shown.contains("hunter2"), "{text}\n{shown}");
        }
    }
    assert!(refused > 1000, "{refused}");
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in ".{0,200}") {
        let _ = read(&text);
        let _ = problems(&text);
    }

    #[test]
    fn no_value_makes_it_panic(key in "[a-z_]{1,15}", value in "[-a-z0-9.:\\[\\]{}$ ]{0,20}") {
        for section in ["listen", "auth", "pool", "health", "queue", "timeouts", "limits"] {
            let _ = read(&format!("{section}: {{{key}: {value}}}"));
        }
    }
}
