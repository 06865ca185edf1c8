use std::os::unix::fs::symlink;

use proptest::prelude::*;
use tempfile::TempDir;

use super::names::MAX_NAME;
use super::*;
use crate::models::test_support::folder_with;

fn folder_of(sources: &ModelSources, name: &str, purpose: Purpose) -> Option<PathBuf> {
    sources.find(name, purpose).ok().map(|found| found.folder)
}

/// A folder `models`, a hub cache `hub`, and a model `secret` beside them.
fn shelves() -> (TempDir, ModelSources) {
    let root = folder_with(&[
        ("models/plain/config.json", "{}"),
        ("models/plain/1_Pooling/config.json", "{}"),
        ("models/org/nested/modules.json", "[]"),
        ("models/empty/readme.txt", ""),
        ("hub/models--sentence-transformers--mini/refs/main", "abc\n"),
        (
            "hub/models--sentence-transformers--mini/snapshots/abc/config.json",
            "{}",
        ),
        ("hub/models--gone/refs/main", "abc"),
        ("hub/models--evil/refs/main", "../../../secret"),
        ("secret/config.json", "{}"),
    ]);
    let sources = ModelSources {
        models_dir: Some(root.path().join("models")),
        hub_cache: Some(root.path().join("hub")),
        operator_folders: vec!["plain".to_owned(), "not-there".to_owned()],
        baselines: None,
    };
    (root, sources)
}

#[test]
fn a_model_without_its_weights_is_found_but_not_whole() {
    let index = r#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}"#;
    let root = folder_with(&[
        ("bare/config.json", "{}"),
        ("single/config.json", "{}"),
        ("single/pytorch_model.bin", ""),
        ("half/config.json", "{}"),
        ("half/model.safetensors.index.json", index),
        ("half/model-1.safetensors", ""),
        ("link/model.safetensors", ""),
    ]);
    symlink("gone", root.path().join("link/config.json")).expect("link");
    let sources = ModelSources {
        models_dir: Some(root.path().to_owned()),
        ..ModelSources::default()
    };
    let whole = |name| sources.has_whole(name, Purpose::Embed);
    assert!(
        ["bare", "single", "half", "link"]
            .iter()
            .all(|name| folder_of(&sources, name, Purpose::Embed).is_some())
    );
    assert_eq!(
        ["bare", "single", "half", "link", "none"].map(whole),
        [false, true, false, false, false]
    );
    std::fs::write(root.path().join("half/model-2.safetensors"), "").expect("write");
    assert!(whole("half"));
}

#[test]
fn names_are_found_in_each_place() {
    let (root, sources) = shelves();
    for (name, folder) in [
        ("plain", "models/plain"),
        ("org/nested", "models/org/nested"),
        (
            "sentence-transformers/mini",
            "hub/models--sentence-transformers--mini/snapshots/abc",
        ),
        (
            "mini",
            "hub/models--sentence-transformers--mini/snapshots/abc",
        ),
    ] {
        assert_eq!(
            folder_of(&sources, name, Purpose::Embed),
            Some(root.path().join(folder)),
            "{name}"
        );
    }
}

/// Each name with what it leads to, for embeddings and for `BERTScore`, over these models.
fn expect_names(models: &[&str], operator: &[&str], table: &[(&str, Result<&str, Missing>)]) {
    let files = models.iter().map(|name| format!("{name}/config.json"));
    let files: Vec<String> = files.collect();
    let files: Vec<(&str, &str)> = files.iter().map(|name| (name.as_str(), "{}")).collect();
    let root = folder_with(&files);
    let sources = ModelSources {
        models_dir: Some(root.path().to_owned()),
        operator_folders: operator.iter().map(|name| (*name).to_owned()).collect(),
        ..ModelSources::default()
    };
    for (name, expected) in table {
        for purpose in [Purpose::Embed, Purpose::BertScore] {
            let found = sources.find(name, purpose).map(|found| found.name);
            assert_eq!(found, expected.clone().map(str::to_owned), "{name}");
            let listed = sources
                .all_names()
                .contains_key(&(purpose, (*name).to_owned()));
            assert_eq!(listed, expected.is_ok(), "{name} is listed if it is found");
        }
    }
}

#[test]
fn a_name_without_organisation_means_the_one_model_of_that_name() {
    let ambiguous = ["a/twin", "b/twin"].map(str::to_owned).to_vec();
    expect_names(
        &["acme/mini", "a/twin", "b/twin", "both", "a/both"],
        &[],
        &[
            ("mini", Ok("acme/mini")),
            ("acme/mini", Ok("acme/mini")),
            ("other/mini", Err(Missing::Absent)),
            ("twin", Err(Missing::Ambiguous(ambiguous))),
            ("both", Ok("both")),
            ("a/both", Ok("a/both")),
        ],
    );
}

#[test]
fn a_folder_without_organisation_is_found_by_the_organisation_that_goes_without_saying() {
    expect_names(
        &["mini", "deberta-xlarge-mnli", "roberta-large", "named"],
        &["acme/named"],
        &[
            ("sentence-transformers/mini", Ok("mini")),
            ("microsoft/deberta-xlarge-mnli", Ok("deberta-xlarge-mnli")),
            ("FacebookAI/roberta-large", Ok("roberta-large")),
            ("acme/named", Ok("named")),
            // Another organisation's model would give other numbers.
            ("acme/mini", Err(Missing::Absent)),
            ("acme/roberta-large", Err(Missing::Absent)),
        ],
    );
}

#[test]
fn two_names_of_one_folder_are_no_two_models() {
    let root = folder_with(&[("a/twin/config.json", "{}"), ("b/readme", "")]);
    std::os::unix::fs::symlink(root.path().join("a/twin"), root.path().join("b/twin"))
        .expect("link");
    let sources = ModelSources {
        models_dir: Some(root.path().to_owned()),
        ..ModelSources::default()
    };
    assert!(sources.find("twin", Purpose::Embed).is_ok());
}

#[test]
fn embeddings_prefer_the_organisation_that_sentence_transformers_means() {
    let root = folder_with(&[
        ("hub/models--mini/refs/main", "abc"),
        ("hub/models--mini/snapshots/abc/config.json", "{}"),
        ("hub/models--sentence-transformers--mini/refs/main", "abc"),
        (
            "hub/models--sentence-transformers--mini/snapshots/abc/config.json",
            "{}",
        ),
        ("hub/models--acme--mini/refs/main", "abc"),
        ("hub/models--acme--mini/snapshots/abc/config.json", "{}"),
    ]);
    let sources = ModelSources {
        hub_cache: Some(root.path().join("hub")),
        ..ModelSources::default()
    };
    let name = |purpose| sources.find("mini", purpose).map(|found| found.name);
    assert_eq!(
        name(Purpose::Embed).as_deref(),
        Ok("sentence-transformers/mini")
    );
    assert_eq!(name(Purpose::BertScore).as_deref(), Ok("mini"));
}

#[test]
fn what_is_not_a_model_is_not_found() {
    let (_root, sources) = shelves();
    for name in [
        "empty",
        "org",
        "gone",
        "evil",
        "not-there",
        "plain/1_Pooling",
        "unknown",
    ] {
        assert_eq!(folder_of(&sources, name, Purpose::Embed), None, "{name}");
    }
}

#[test]
fn names_that_look_like_paths_are_never_looked_up() {
    let (root, sources) = shelves();
    let absolute = root.path().join("secret");
    let absolute = absolute.to_str().expect("UTF-8");
    for name in [
        absolute,
        "../secret",
        "plain/../../secret",
        "./plain",
        "plain/.",
        "plain/",
        "/plain",
        "org//nested",
        "org/nested/x",
        "..",
        ".",
        "",
        "org\\nested",
        "pla\0in",
        "pla\nin",
    ] {
        assert_eq!(folder_of(&sources, name, Purpose::Embed), None, "{name:?}");
    }
    assert_eq!(
        folder_of(&sources, &"n".repeat(MAX_NAME + 1), Purpose::Embed),
        None
    );
}

#[test]
fn a_path_that_the_operator_gave_is_good_exactly_as_given() {
    let (root, mut sources) = shelves();
    let given = root
        .path()
        .join("secret")
        .to_str()
        .expect("UTF-8")
        .to_owned();
    sources.operator_folders.push(given.clone());
    assert_eq!(
        folder_of(&sources, &given, Purpose::BertScore),
        Some(PathBuf::from(&given))
    );
    assert_eq!(
        folder_of(&sources, &format!("{given}/"), Purpose::BertScore),
        None
    );
}

#[test]
fn installed_names_are_sorted_and_all_can_be_found() {
    let (_root, sources) = shelves();
    let installed = sources.installed();
    assert_eq!(
        installed,
        ["org/nested", "plain", "sentence-transformers/mini"]
    );
    for name in installed {
        assert!(
            folder_of(&sources, &name, Purpose::Embed).is_some(),
            "{name}"
        );
    }
}

#[test]
fn the_operators_folders_are_found_but_not_named() {
    let (root, mut sources) = shelves();
    let folder = root.path().join("secret");
    let given = folder.display().to_string();
    assert_eq!(folder_of(&sources, &given, Purpose::Embed), None);
    sources.operator_folders.push(given.clone());
    assert_eq!(folder_of(&sources, &given, Purpose::Embed), Some(folder));
    assert!(!sources.installed().contains(&given));
}

#[test]
fn the_list_of_installed_names_is_bounded() {
    let names: Vec<String> = (0..60).map(|n| format!("m{n:02}/config.json")).collect();
    let files: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "{}")).collect();
    let folder = folder_with(&files);
    let models_dir = Some(folder.path().to_owned());
    let installed = ModelSources {
        models_dir,
        ..ModelSources::default()
    }
    .installed();
    assert_eq!(installed.len(), MAX_LISTED);
}

#[test]
fn with_no_places_nothing_is_found() {
    let sources = ModelSources::default();
    assert_eq!(folder_of(&sources, "plain", Purpose::Embed), None);
    assert!(sources.installed().is_empty());
}

/// Whatever a request says, a folder that is found lies inside the operator's folders.
#[test]
fn no_name_leads_out() {
    let (root, sources) = shelves();
    let base = root.path().canonicalize().expect("exists");
    let inside = [base.join("models"), base.join("hub")];
    let part = "(\\.\\.|secret|plain|\\.|org|\\PC{0,3})";
    proptest!(|(parts in prop::collection::vec(part, 0..5))| {
        if let Some(folder) = folder_of(&sources, &parts.join("/"), Purpose::Embed) {
            let real = folder.canonicalize().expect("exists");
            prop_assert!(inside.iter().any(|shelf| real.starts_with(shelf)), "{real:?}");
        }
    });
}
