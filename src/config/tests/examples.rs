//! The configurations in `config/`: all are good, and the long one shows every key and its default.

use std::path::PathBuf;

use super::*;
use crate::config::schema;

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config")
}

/// What follows `key: ` anywhere in an example, comments included.
fn values_of<'a>(text: &'a str, key: &str) -> Vec<&'a str> {
    let start = format!("{key}: ");
    let words = text.match_indices(&start).filter_map(|(at, _)| {
        let before = text[..at].chars().next_back();
        let whole = before.is_none_or(|before| !before.is_alphanumeric() && before != '_');
        text[at + start.len()..]
            .split([' ', ',', '}', '\n'])
            .next()
            .filter(|_| whole)
    });
    words.collect()
}

/// A copy of an example among the files that it names.
fn installed(text: &str) -> (tempfile::TempDir, PathBuf) {
    let (folder, pem) = (tempfile::tempdir().unwrap(), pem());
    for key in ["certificate", "key", "ca", "client_ca"] {
        for file in values_of(text, key)
            .into_iter()
            .filter(|value| value.starts_with("tls/"))
        {
            let file = folder.path().join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, &pem).unwrap();
        }
    }
    let path = folder.path().join("gpu-bridge.yaml");
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

#[test]
fn all_are_good() {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(shipped()).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            let text = std::fs::read_to_string(&path).unwrap();
            let (_folder, installed) = installed(&text);
            let config = load(&installed, &variable).unwrap();
            assert!(
                config.warnings.is_empty(),
                "{path:?}: {:?}",
                config.warnings
            );
            assert!(!super::schema::refuses(&text), "{path:?}");
            names.push(path.file_name().unwrap().to_owned());
        }
    }
    names.sort();
    assert_eq!(names, ["gpu-bridge.yaml", "minimal.yaml", "tls.yaml"]);
}

#[test]
fn the_long_one_shows_the_defaults() {
    let example = load(&shipped().join("gpu-bridge.yaml"), &variable).unwrap();
    assert_eq!(example.auth.keys[0].key.expose(), "planted-OPENCLAW_KEY");
    assert_eq!(example.pool.hosts[1].max_concurrent, NonZeroU32::new(4));
    let mut minimal = read(MINIMAL).unwrap();
    assert_eq!(minimal.queue.max_wait, Duration::from_secs(30));
    assert_eq!(minimal.limits.max_body, 32 << 20);
    minimal.pool.hosts.clone_from(&example.pool.hosts);
    minimal.auth.clone_from(&example.auth);
    minimal.warnings.clear();
    minimal.sources.clone_from(&example.sources);
    assert_eq!(example, minimal);
}

#[test]
fn the_long_one_shows_every_key() {
    let text = std::fs::read_to_string(shipped().join("gpu-bridge.yaml")).unwrap();
    let page = schema::reference().unwrap();
    let rows = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    for key in rows {
        assert!(text.contains(&format!("{key}:")), "{key}");
    }
}
