//! What people write instead of what they mean: each is told with its line, the place in it, and what to
//! write.

use super::*;

/// The problems of `text` as `check` prints them, without the file's name.
fn explained(text: &str) -> String {
    let surroundings = Surroundings {
        variable: &variable,
        folder: Path::new("/nonexistent"),
    };
    let problems = parse(text, &surroundings).err().unwrap_or_default();
    let explained = problems
        .iter()
        .map(|problem| problem.explained(Path::new("f")));
    explained.collect::<Vec<_>>().join("\n")
}

/// Each with what follows a good first line, and all that is said of it.
#[test]
fn slips_are_shown_with_what_to_write() {
    let table = [
        (
            "queue:\n  maxWait: 5s\n",
            "f:3:3: queue.maxWait: unknown key; did you mean max_wait?\n  3 |   maxWait: 5s\n    |   ^^^^^^^^",
        ),
        (
            "auth: {keys: [{name: a, key: x, max-concurrent: 1}]}\n",
            "f:2:33: auth.keys[0].max-concurrent: unknown key; did you mean max_concurrent?\n  \
             2 | auth: {keys: [{name: a, key: ***, max-concurrent: 1}]}\n    |                                   ^^^^^^^^^^^^^^^",
        ),
        (
            "timeouts: {attempt: 60000}\n",
            "f:2:21: timeouts.attempt: needs a unit; write 60s or 60000ms\n  \
             2 | timeouts: {attempt: 60000}\n    |                     ^^^^^",
        ),
        (
            "timeouts: {attempt: '90', connect: 1.5}\n",
            "f:2:21: timeouts.attempt: needs a unit; write 90s or 90ms\n  \
             2 | timeouts: {attempt: '90', connect: 1.5}\n    |                     ^^^^\n\
             f:2:36: timeouts.connect: needs a unit, and a whole number; write 1500ms\n  \
             2 | timeouts: {attempt: '90', connect: 1.5}\n    |                                    ^^^",
        ),
        (
            "queue:\n\tmax_wait: 5s\n\tmax_waiting: 5\n",
            "f:3:1: a tab can't indent YAML; write spaces\n  3 |  max_wait: 5s\n    | ^\n\
             f:4:1: a tab can't indent YAML; write spaces\n  4 |  max_waiting: 5\n    | ^",
        ),
        (
            "queue: {max_wait: $WAIT}\n",
            "f:2:19: queue.max_wait: $WAIT without braces stands for nothing; write ${WAIT}\n  \
             2 | queue: {max_wait: $WAIT}\n    |                   ^^^^^",
        ),
        (
            "auth: {keys: [{name: a, key: $MY_KEY}]}\n",
            "f:2:30: auth.keys[0].key: $MY_KEY without braces stands for nothing; write ${MY_KEY}\n  \
             2 | auth: {keys: [{name: a, key: ***}]}\n    |                              ^^^",
        ),
        (
            "auth: {keys: [{name: a, key: ${MY_KEY}}]}\n",
            "f:2:30: put it in quotes, since it stands in {…} or […]: \"${NAME}\"\n  \
             2 | auth: {keys: [{name: a, key: ***}]}\n    |                              ^^^",
        ),
        (
            "queue: {max_wait: 1s}\nhealth: {}\nqueue: {max_wait: 2s}\n",
            "f:4:1: queue: stands here twice (first in line 2); keep one of them\n  \
             4 | queue: {max_wait: 2s}\n    | ^^^^^^",
        ),
        (
            "admin:\n  address: [::1]:8765\n",
            "f:3:12: put it in quotes, since [ begins a list: \"[ADDRESS]:PORT\"\n  \
             3 |   address: [::1]***\n    |            ^",
        ),
        (
            "queue:\n  max_wait:5s\n  max_waiting: 5\n",
            "f:3:11: write a space after 'max_wait:'\n  3 |   max_wait:***\n    |   ^^^^^^^^^^^^",
        ),
        (
            "queue:\n  max_wait:5s\n",
            "f:3:3: queue: must be a mapping (key: value), with a space after each colon\n  3 |   max_wait:***\n    |   ^^^^^^^^^^^^",
        ),
        (
            "listen:\n  address: 127.0.0.1:1\n",
            "f:3:3: listen: must be a list (lines that start with '- ')\n  3 |   address: 127.0.0.1:1\n    |   ^^^^^^^^",
        ),
        (
            "queue:\n  - max_wait: 5s\n",
            "f:3:3: queue: must be a mapping (key: value), not a list; take the '- ' out\n  3 |   - max_wait: 5s\n    |   ^",
        ),
        (
            "retries: {max_faulted_hosts: '2'}\n",
            "f:2:30: retries.max_faulted_hosts: must be a whole number from 1 to 4294967295, without quotes\n  \
             2 | retries: {max_faulted_hosts: '2'}\n    |                              ^^^",
        ),
        (
            "a: 1\n---\nb: 1\n",
            "f:3:1: a second document starts here; a configuration is one: take the line --- out\n  \
             3 | ***\n    | ^^^",
        ),
        (
            "listen:\n  - address: @here\n",
            "f:3:14: is not YAML that can be used: found character that cannot start any token; \
             put a value that starts with this character in quotes\n  3 |   - address: ***\n    |              ^^^",
        ),
    ];
    for (text, expected) in table {
        assert_eq!(explained(&with_minimal(text)), expected, "{text}");
    }
}

#[test]
fn a_quote_that_is_never_closed_is_found_where_it_opens() {
    let told = explained(&with_minimal(
        "admin:\n  address: '127.0.0.1:1\nqueue: {}\n",
    ));
    assert!(
        told.starts_with("f:3:12: is not YAML that can be used"),
        "{told}"
    );
    assert!(
        told.contains("a quote is opened here and never closed"),
        "{told}"
    );
}

#[test]
fn what_editors_and_systems_put_in_changes_nothing() {
    let text = format!("---\n{MINIMAL}queue: {{max_wait: 5s}}\n");
    let windows = format!("\u{feff}{}", text.replace('\n', "\r\n"));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), windows).unwrap();
    let config = load(file.path(), &variable).unwrap();
    assert_eq!(config.queue.max_wait, Duration::from_secs(5));
    assert_eq!(config.pool, read(&text).unwrap().pool);
}

#[test]
fn what_is_said_once_can_be_used_again() {
    let text = "pool:\n  hosts:\n    - &a {name: a, url: 'http://10.0.0.1:1', weight: 3}\n    \
        - {<<: *a, name: b, url: 'http://10.0.0.2:1'}\n";
    let config = read(text).unwrap();
    let hosts: Vec<_> = config
        .pool
        .hosts
        .iter()
        .map(|host| (host.name.to_string(), host.weight.get()))
        .collect();
    assert_eq!(hosts, [("a".to_owned(), 3), ("b".to_owned(), 3)]);
    let told = read(&with_minimal("queue: {<<: 1}\n")).unwrap_err();
    assert!(told[0].contains("<<: takes a mapping"), "{told:?}");
}

#[test]
fn files_that_are_no_text_say_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.yaml");
    let told = |content: &[u8]| {
        std::fs::write(&path, content).unwrap();
        load(&path, &variable).unwrap_err().to_string()
    };
    let utf16: Vec<u8> = MINIMAL.encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert!(told(&utf16).contains("it is UTF-16; save it as UTF-8"));
    assert!(told(b"\x7fELF\0\0\0").contains("it is not text"));
    assert!(told(b"a: 1\nb: \xe4").contains("it is not UTF-8 (line 2, byte 4 of it)"));
    assert!(told(&vec![b' '; 5 << 20]).contains("it is longer than 4 MiB"));
    let error = load(folder.path(), &variable).unwrap_err().to_string();
    assert!(error.ends_with(": is a folder, not a file"), "{error}");
}

#[test]
fn no_depth_is_too_much() {
    for text in ["[", "{a: ", "- "] {
        assert!(!explained(&text.repeat(100_000)).is_empty());
    }
}

#[test]
fn what_is_missing_at_the_end_is_shown_where_it_is_missing() {
    let table = [
        (
            "pool: [\n\n",
            "f:1:7: is not YAML that can be used: did not find expected node content\n  \
             1 | pool: [\n    |       ^",
        ),
        (
            "pool:\n  hosts: [1, 2\nqueue: {}\n",
            "f:2:10: is not YAML that can be used: did not find expected ',' or ']'; \
             a bracket is opened here and not closed\n  \
             2 |   hosts: [***, ***\n    |          ^",
        ),
    ];
    for (text, expected) in table {
        assert_eq!(explained(text), expected, "{text}");
    }
}
