//! The reader and the schema say the same: keys, defaults, and which values are taken.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value as Json, json};

use super::*;
use crate::config::schema;
use crate::embedding::Reference;

/// Keys that have no default, nor need one.
const WITHOUT_DEFAULT: &[&str] = &[
    "admin.key",
    "admin.key_file",
    "audit.reference",
    "auth.keys[].key",
    "auth.keys[].key_file",
    "auth.keys[].max_concurrent",
    "auth.keys[].max_per_second",
    "limits.max_connections_per_client",
    "listen[].tls.client_ca",
    "pool.hosts[].api_key",
    "pool.hosts[].api_key_file",
    "pool.hosts[].discover",
    "pool.hosts[].discover_interval",
    "pool.hosts[].discover_port",
    "pool.hosts[].health_path",
    "pool.hosts[].max_concurrent",
    "pool.hosts[].max_items",
    "pool.hosts[].model_alias",
    "pool.hosts[].tls.ca",
    "pool.hosts[].tls.certificate",
    "pool.hosts[].tls.key",
    "pool.hosts[].tls.server_name",
    "pool.resolver",
];

/// Keys whose values the reader judges more strictly than a schema can: files must exist, bounds must
/// fit together, names must be names.
const BEYOND_THE_SCHEMA: &[&str] = &[
    "certificate",
    "key",
    "client_ca",
    "ca",
    "key_file",
    "api_key_file",
    "server_name",
    "reference",
    "max_buffered",
    "max_body",
    "max_head",
];

fn parsed() -> Json {
    serde_json::from_str(schema::SCHEMA).unwrap()
}

/// Does the schema refuse this YAML?
pub(super) fn refuses(text: &str) -> bool {
    let document: Json = serde_yaml::from_str(text).unwrap();
    !jsonschema::validator_for(&parsed())
        .unwrap()
        .is_valid(&document)
}

/// A key of the schema.
struct Key {
    /// With `[]` for any item of a list.
    path: String,
    required: bool,
    value: Json,
}

impl Key {
    fn is_leaf(&self) -> bool {
        self.value["properties"].is_null() && self.value["items"]["properties"].is_null()
    }

    /// A value that is right, and not the default where there is another.
    fn example(&self) -> Json {
        let example = &self.value["examples"][0];
        if example.is_null() {
            self.value["default"].clone()
        } else {
            example.clone()
        }
    }
}

/// All keys below a mapping.
fn keys(path: &str, mapping: &Json) -> Vec<Key> {
    let mut found = Vec::new();
    for (name, value) in mapping["properties"].as_object().unwrap() {
        let path = places::join(path, name);
        let required = mapping["required"].as_array();
        let required = required.is_some_and(|names| names.contains(&json!(name)));
        found.push(Key {
            path: path.clone(),
            required,
            value: value.clone(),
        });
        if value["properties"].is_object() {
            found.extend(keys(&path, value));
        } else if value["items"]["properties"].is_object() {
            found.extend(keys(&format!("{path}[]"), &value["items"]));
        }
    }
    found
}

fn leaves() -> Vec<Key> {
    keys("", &parsed())
        .into_iter()
        .filter(Key::is_leaf)
        .collect()
}

/// Sets what is at `path`, in the first item of each list on the way.
fn set(document: &mut Json, path: &str, value: Json) {
    let mut at = document;
    for name in path.split('.') {
        at = match name.strip_suffix("[]") {
            Some(list) => {
                if at[list].is_null() {
                    at[list] = json!([{}]);
                }
                &mut at[list][0]
            }
            None => &mut at[name],
        };
    }
    *at = value;
}

/// A configuration that says everything at once, but for keys in files beside keys, and one means to find
/// hosts beside another.
fn everything() -> Json {
    let mut document = json!({});
    let excluded = ["key_file", "discover_port"];
    for key in leaves()
        .iter()
        .filter(|key| !excluded.iter().any(|end| key.path.ends_with(end)))
    {
        set(&mut document, &key.path, key.example());
    }
    document
}

/// The same with the other means to find hosts.
fn everything_of_kubernetes() -> Json {
    let mut document = everything();
    let host = document["pool"]["hosts"][0].as_object_mut().unwrap();
    host.remove("discover_interval");
    host.insert("discover".to_owned(), json!("kubernetes"));
    host.insert("discover_port".to_owned(), json!("http"));
    document
}

/// A folder with all files that examples name: each is a certificate and a key.
fn folder() -> tempfile::TempDir {
    let (folder, pem) = (tempfile::tempdir().unwrap(), pem());
    for name in ["tls", "secrets"] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
    }
    let reference = serde_json::to_string(&Reference::new(BTreeMap::new())).unwrap();
    for key in leaves() {
        let kind = key.value["$ref"].as_str().unwrap_or_default();
        let content = match kind {
            "#/$defs/pem" => &pem,
            "#/$defs/file" if key.path == "audit.reference" => &reference,
            "#/$defs/file" => &key.path,
            _ => continue,
        };
        std::fs::write(folder.path().join(key.example().as_str().unwrap()), content).unwrap();
    }
    folder
}

fn read_json(document: &Json, folder: &Path) -> Result<Config, Vec<String>> {
    read_in(&serde_yaml::to_string(document).unwrap(), folder)
}

#[test]
fn the_schema_is_one() {
    assert!(jsonschema::meta::is_valid(&parsed()));
}

#[test]
fn every_key_is_described() {
    for Key { path, value, .. } in keys("", &parsed()) {
        assert!(value["description"].is_string(), "{path}");
        let kinds = ["type", "enum", "$ref"];
        assert!(kinds.iter().any(|kind| !value[kind].is_null()), "{path}");
        let closed = &value["additionalProperties"];
        assert_eq!(
            value["properties"].is_object(),
            closed == &json!(false),
            "{path}"
        );
    }
}

#[test]
fn what_the_schema_names_is_read() {
    let folder = folder();
    let document = everything();
    for document in [&document, &everything_of_kubernetes()] {
        read_json(document, folder.path()).unwrap();
        assert!(!refuses(&document.to_string()));
    }
    for path in [
        "admin.key_file",
        "auth.keys[].key_file",
        "pool.hosts[].api_key_file",
    ] {
        let mut document = document.clone();
        let key = leaves().into_iter().find(|key| key.path == path).unwrap();
        set(&mut document, &path.replace("_file", ""), Json::Null);
        let (parent, name) = path.rsplit_once('.').unwrap();
        let pointer = format!("/{}", parent.replace("[]", "/0").replace('.', "/"));
        let section = document
            .pointer_mut(&pointer)
            .unwrap()
            .as_object_mut()
            .unwrap();
        section.remove(&name.replace("_file", ""));
        section.insert(name.to_owned(), key.example());
        read_json(&document, folder.path()).unwrap();
        assert!(!refuses(&document.to_string()), "{path}");
    }
}

/// An unknown key makes the reader tell the known ones, also in a mapping that lacks what it needs.
#[test]
fn what_is_read_is_in_the_schema() {
    let schema = parsed();
    let mut mappings = vec![(String::new(), schema.clone())];
    for Key { path, value, .. } in keys("", &schema) {
        if value["properties"].is_object() {
            mappings.push((path, value));
        } else if value["items"]["properties"].is_object() {
            mappings.push((format!("{path}[]"), value["items"].clone()));
        }
    }
    for (path, mapping) in mappings {
        let mut document = json!({});
        set(&mut document, &places::join(&path, "zzz"), json!(1));
        let problems = read_json(&document, Path::new("")).unwrap_err();
        let told = problems
            .iter()
            .find_map(|text| text.split_once("zzz: unknown key; known here are "));
        let read: BTreeSet<&str> = told.unwrap().1.split(", ").collect();
        let named = mapping["properties"].as_object().unwrap().keys();
        assert_eq!(
            read,
            named.map(String::as_str).collect(),
            "{path}: {problems:?}"
        );
    }
}

#[test]
fn the_defaults_are_those_of_the_reader() {
    let mut bare = serde_yaml::from_str(MINIMAL).unwrap();
    set(&mut bare, "listen[].address", json!("0.0.0.0:8765"));
    set(&mut bare, "auth.keys[].name", json!("a"));
    set(&mut bare, "auth.keys[].key", json!("k"));
    let mut spelt_out: Json = bare.clone();
    for key in leaves()
        .into_iter()
        .filter(|key| !key.value["default"].is_null())
    {
        let on_https = key.path.contains("hosts[].tls");
        if !on_https {
            set(&mut spelt_out, &key.path, key.value["default"].clone());
        }
    }
    let read = |document| read_json(document, Path::new("")).unwrap();
    assert_eq!(read(&spelt_out), read(&bare));
    assert_eq!(
        read_json(&json!({"pool": bare["pool"]}), Path::new(""))
            .unwrap()
            .listen,
        read(&bare).listen
    );
    let without = leaves().into_iter();
    let without = without.filter(|key| key.value["default"].is_null() && !key.required);
    let without: BTreeSet<String> = without.map(|key| key.path).collect();
    let expected = WITHOUT_DEFAULT.iter().map(ToString::to_string).collect();
    assert_eq!(without, expected);
}

/// Whatever stands there, editors and the program agree whether it is right.
#[test]
fn the_schema_takes_what_the_reader_takes() {
    let folder = folder();
    let validator = jsonschema::validator_for(&parsed()).unwrap();
    let texts = [
        "",
        "x",
        "a b",
        "5s",
        "1m 30s",
        "1.5 h",
        "5",
        "0",
        "64KiB",
        "1.5 GB",
        "10 kb",
        "12b",
        "http://a",
        "https://a:1/",
        "https://a/b",
        "127.0.0.1:1",
        "[::1]:1",
        "10.0.0.0/8",
        "dns",
        "kubernetes",
        "round-robin",
        "true",
        "$HOME",
        "${OPENCLAW_KEY}",
    ];
    let others = [
        json!(null),
        json!(true),
        json!(-1),
        json!(0),
        json!(1),
        json!(5000),
        json!(1.5),
        json!([]),
        json!({}),
        json!(["10.0.0.1"]),
        json!(["x"]),
    ];
    let probes: Vec<Json> = texts.iter().map(|text| json!(text)).chain(others).collect();
    for key in leaves() {
        let name = key.path.rsplit('.').next().unwrap();
        let stricter = BEYOND_THE_SCHEMA.contains(&name);
        for probe in &probes {
            let mut document = match name {
                "discover_port" => everything_of_kubernetes(),
                _ => everything(),
            };
            set(&mut document, &key.path, probe.clone());
            let read = read_json(&document, folder.path());
            let valid = validator.is_valid(&document);
            // A variable may hold anything, hence also what is wrong here.
            let unknown = stricter || probe == "${OPENCLAW_KEY}" || probe == "$HOME";
            let agreed = read.is_ok() == valid || (unknown && valid);
            assert!(agreed, "{}: {probe}: schema {valid}, {read:?}", key.path);
        }
    }
}

#[test]
fn the_reference_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let page = std::fs::read_to_string(path).unwrap_or_default();
    let expected = schema::reference().unwrap();
    assert!(
        page == expected,
        "run: gpu-bridge schema --markdown > docs/configuration.md"
    );
    for Key { path, .. } in keys("", &parsed()) {
        let name = path.rsplit('.').next().unwrap();
        assert!(page.contains(&format!("| `{name}` |")), "{path}");
    }
}
