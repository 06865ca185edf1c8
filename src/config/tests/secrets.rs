//! Keys show up in no problem and no debug output, whatever is wrong around them.

use super::*;

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

#[test]
fn what_stands_in_the_place_of_a_name_or_file_is_not_repeated() {
    let secrets = [
        "${HUNTER2}",
        "${hunter2}",
        "${sk-hunter2}",
        "$HUNTER2",
        "sk-hunter2",
        "${hunter2",
    ];
    let mut told = Vec::new();
    for secret in secrets {
        for (section, key, ends) in [
            ("admin:\n  ", "key", ""),
            ("admin:\n  ", "key_file", ""),
            ("admin:\n  ", "key_env", ""),
            ("admin:\n  ", "keyFile", ""),
            ("auth: {keys: [{name: a, ", "key_file", "}]}"),
            ("listen: [{tls: {certificate: c, ", "key", "}}]"),
        ] {
            for quote in ["'", ""] {
                let text = format!("{section}{key}: {quote}{secret}{quote}{ends}\n");
                let surroundings = Surroundings {
                    variable: &|_| None,
                    folder: Path::new("/nonexistent"),
                };
                let Err(problems) = parse(&with_minimal(&text), &surroundings) else {
                    assert_eq!((key, secret), ("key", "sk-hunter2"), "{text}");
                    continue;
                };
                let shown = problems.iter().map(|it| it.explained(Path::new("f")));
                let shown = shown.collect::<Vec<_>>().join("\n");
                assert!(!shown.to_lowercase().contains("hunter2"), "{text}\n{shown}");
                told.push(shown);
            }
        }
    }
    assert!(told.iter().all(|it| it.starts_with("f:")), "{told:?}");
}

#[test]
fn a_key_in_the_place_of_another_value_is_not_repeated() {
    let planted = "sk-hunter2-0123456789";
    let texts = [
        format!("admin: {{address: {planted}}}"),
        format!("listen: [{{address: {planted}}}]"),
        format!("listen: [{{address: '{planted}:8765'}}]"),
        format!("listen: [{{tls: {{certificate: \"{planted}\\n{planted}\", key: k}}}}]"),
        format!(
            "listen: [{{tls: {{certificate: {planted}, key: {planted}, client_ca: {planted}}}}}]"
        ),
        format!("audit: {{reference: {planted}}}"),
        format!("auth: {{keys: [{{name: 'my {planted}', key: x}}]}}"),
        format!("{planted}: x"),
        format!("admin: {{{planted}: x, apiKey: {planted}, token: {planted}}}"),
        format!("queue: {{max_wait: {planted}, max_bytes: {planted}, max_waiting: {planted}}}"),
        format!("headers: {{served_by: {planted}, trusted_proxies: [{planted}]}}"),
        format!("cors: {{allow_origins: [{planted}]}}"),
        format!("audit: {{min_cosine: {planted}, enabled: {planted}}}"),
        "queue: {max_wait: '${hunter2}'}".to_owned(),
        "queue: {max_wait: $hunter2}".to_owned(),
    ];
    let hosts = [
        format!("url: {planted}"),
        format!("url: '{planted}:8765'"),
        format!("url: 'http://a/{planted}/v1'"),
        format!("url: 'http://a?key={planted}'"),
        format!("url: 'ftp://{planted}'"),
        format!("url: 'http://a', name: 'a {planted}'"),
        format!("url: 'http://a', api: {planted}, discover: {planted}, weight: {planted}"),
        format!("url: 'http://a', api: openai, health_path: {planted}, model_alias: {planted}"),
        format!("url: 'https://a', tls: {{server_name: '{planted}!', insecure: {planted}}}"),
        format!("url: 'https://a', tls: {{ca: {planted}, certificate: {planted}, key: {planted}}}"),
        "url: 'http://${hunter2}'".to_owned(),
        "url: 'http://$hunter2'".to_owned(),
    ];
    let hosts = hosts
        .iter()
        .map(|host| with_hosts(&format!("  - {{{host}}}\n")));
    let policy = with_hosts(&format!(
        "  - {{name: a, url: 'http://a'}}\n  policy: {planted}\n"
    ));
    let all = texts.iter().map(|text| with_minimal(text));
    for text in all.chain(hosts).chain([policy]) {
        let surroundings = Surroundings {
            variable: &|_| None,
            folder: Path::new("/nonexistent"),
        };
        let problems = parse(&text, &surroundings).unwrap_err();
        for problem in problems {
            let shown = problem.explained(Path::new("f"));
            assert!(!shown.contains("hunter2"), "{text}\n{shown}");
            assert!(shown.starts_with("f:"), "{shown}");
        }
    }
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
        let surroundings = Surroundings {
            variable: &variable,
            folder: Path::new("/nonexistent"),
        };
        if let Err(problems) = parse(&text, &surroundings) {
            refused += 1;
            let explained = problems
                .iter()
                .map(|problem| problem.explained(Path::new("f")));
            let shown = explained.collect::<Vec<_>>().join("\n");
            assert!(!shown.contains("hunter2"), "{text}\n{shown}");
        }
    }
    assert!(refused > 1000, "{refused}");
}
