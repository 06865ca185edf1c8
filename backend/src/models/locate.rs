//! From a model's name to its folder.
//!
//! Looked up in this order: a folder path that the operator gave at start (only exactly that
//! string), `models_dir/NAME`, the hub cache. A name from a request reaches the file system only if
//! it has the form `NAME` or `ORG/NAME`, so that no request leads out of the operator's folders.
//! Links that the operator put into those folders are followed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::pipeline::Pipeline;
use super::weights;
use crate::engine::Purpose;

/// The organisation that sentence-transformers puts before a name without one.
const SENTENCE_TRANSFORMERS: &str = "sentence-transformers";
/// How many names [`ModelSources::installed`] lists at most.
const MAX_LISTED: usize = 50;
/// Longest name in bytes; the hub allows 96 for each of the two parts.
const MAX_NAME: usize = 200;

/// Where models may lie.
#[derive(Clone, Debug, Default)]
pub struct ModelSources {
    /// Holds `NAME` or `ORG/NAME` folders.
    pub models_dir: Option<PathBuf>,
    /// The hub's cache: holds `models--ORG--NAME/snapshots/REVISION` folders.
    pub hub_cache: Option<PathBuf>,
    /// Names that the operator gave at start (the default models), which may be folder paths.
    pub operator_folders: Vec<String>,
    /// Holds `LANGUAGE/MODEL.tsv` files with what unrelated texts score.
    pub baselines: Option<PathBuf>,
}

impl ModelSources {
    /// The folder of the model called `name`, if there is one.
    pub(crate) fn find(&self, name: &str, purpose: Purpose) -> Option<PathBuf> {
        if let Some(folder) = self.operator_folder(name) {
            return Some(folder);
        }
        if !is_plain(name) {
            return None;
        }
        self.in_models_dir(name)
            .or_else(|| self.in_hub_cache(name, purpose))
    }

    /// Whether the model is there with its weights. Other programs leave folders without, which a
    /// download completes.
    pub(crate) fn has_whole(&self, name: &str, purpose: Purpose) -> bool {
        self.find(name, purpose).is_some_and(|folder| {
            // A folder that cannot be understood is left to the load, which says what is wrong.
            let encoder = Pipeline::read(&folder).map_or(folder, |pipeline| pipeline.encoder);
            weights::complete(&encoder)
        })
    }

    /// Names that [`find`](Self::find) knows, sorted; at most 50 of them. Clients read them, so that
    /// the operator's folder paths are left out.
    pub(crate) fn installed(&self) -> Vec<String> {
        let mut names = BTreeSet::new();
        if let Some(folder) = &self.models_dir {
            names.extend(names_in_models_dir(folder));
        }
        if let Some(folder) = &self.hub_cache {
            names.extend(names_in_hub_cache(folder));
        }
        names.into_iter().take(MAX_LISTED).collect()
    }

    fn operator_folder(&self, name: &str) -> Option<PathBuf> {
        let given = self.operator_folders.iter().any(|given| given == name);
        given
            .then(|| PathBuf::from(name))
            .filter(|folder| is_model(folder))
    }

    fn in_models_dir(&self, name: &str) -> Option<PathBuf> {
        let models_dir = self.models_dir.as_ref()?;
        let part_of_a_model = name
            .split_once('/')
            .is_some_and(|(organisation, _)| is_model(&models_dir.join(organisation)));
        let folder = models_dir.join(name);
        (!part_of_a_model && is_model(&folder)).then_some(folder)
    }

    fn in_hub_cache(&self, name: &str, purpose: Purpose) -> Option<PathBuf> {
        let cache = self.hub_cache.as_ref()?;
        let on_hub = name_on_hub(name, purpose);
        on_hub
            .as_deref()
            .into_iter()
            .chain([name])
            .find_map(|name| snapshot(cache, name))
    }
}

/// What the hub calls the model that `name` stands for; `None` if `name` is no name (but a path).
pub(crate) fn name_on_hub(name: &str, purpose: Purpose) -> Option<String> {
    if !is_plain(name) {
        return None;
    }
    Some(match purpose {
        Purpose::Embed if !name.contains('/') => format!("{SENTENCE_TRANSFORMERS}/{name}"),
        _ => name.to_owned(),
    })
}

/// `NAME` or `ORG/NAME`, with nothing in it that has a meaning in a path.
pub(crate) fn is_plain(name: &str) -> bool {
    let parts: Vec<&str> = name.split('/').collect();
    let odd = |c: char| c == '\\' || c.is_control();
    name.len() <= MAX_NAME
        && !name.contains(odd)
        && parts.len() <= 2
        && parts.iter().all(|part| !matches!(*part, "" | "." | ".."))
}

/// A folder with the file that every model has: its config, or the list of its modules.
fn is_model(folder: &Path) -> bool {
    ["config.json", "modules.json"]
        .iter()
        .any(|file| folder.join(file).is_file())
}

/// The snapshot that the cache's `refs/main` points at.
fn snapshot(cache: &Path, name: &str) -> Option<PathBuf> {
    let repository = cache.join(format!("models--{}", name.replace('/', "--")));
    let revision = fs::read_to_string(repository.join("refs/main")).ok()?;
    let revision = revision.trim();
    let folder = repository.join("snapshots").join(revision);
    (is_plain(revision) && !revision.contains('/') && is_model(&folder)).then_some(folder)
}

fn names_in_models_dir(models_dir: &Path) -> Vec<String> {
    let model = |name: &String| is_plain(name) && is_model(&models_dir.join(name));
    let mut names = Vec::new();
    for entry in folder_names(models_dir) {
        if model(&entry) {
            names.push(entry);
            continue;
        }
        let below = folder_names(&models_dir.join(&entry)).into_iter();
        names.extend(below.map(|name| format!("{entry}/{name}")).filter(model));
    }
    names
}

fn names_in_hub_cache(cache: &Path) -> Vec<String> {
    let name = |entry: String| Some(entry.strip_prefix("models--")?.replacen("--", "/", 1));
    let installed = |name: &String| is_plain(name) && snapshot(cache, name).is_some();
    folder_names(cache)
        .into_iter()
        .filter_map(name)
        .filter(installed)
        .collect()
}

/// Names of the entries of `folder`; none if it cannot be read.
fn folder_names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;
    use crate::models::test_support::folder_with;

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
        ]);
        let sources = ModelSources {
            models_dir: Some(root.path().to_owned()),
            ..ModelSources::default()
        };
        let whole = |name| sources.has_whole(name, Purpose::Embed);
        assert!(
            ["bare", "single", "half"]
                .iter()
                .all(|name| sources.find(name, Purpose::Embed).is_some())
        );
        assert_eq!(
            ["bare", "single", "half", "none"].map(whole),
            [false, true, false, false]
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
                sources.find(name, Purpose::Embed),
                Some(root.path().join(folder)),
                "{name}"
            );
        }
    }

    #[test]
    fn the_short_name_is_for_embeddings_only() {
        let (_root, sources) = shelves();
        assert_eq!(sources.find("mini", Purpose::BertScore), None);
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
            "nested",
            "plain/1_Pooling",
            "unknown",
        ] {
            assert_eq!(sources.find(name, Purpose::Embed), None, "{name}");
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
            assert_eq!(sources.find(name, Purpose::Embed), None, "{name:?}");
        }
        assert_eq!(
            sources.find(&"n".repeat(MAX_NAME + 1), Purpose::Embed),
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
            sources.find(&given, Purpose::BertScore),
            Some(PathBuf::from(&given))
        );
        assert_eq!(sources.find(&format!("{given}/"), Purpose::BertScore), None);
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
            assert!(sources.find(&name, Purpose::Embed).is_some(), "{name}");
        }
    }

    #[test]
    fn the_operators_folders_are_found_but_not_named() {
        let (root, mut sources) = shelves();
        let folder = root.path().join("secret");
        let given = folder.display().to_string();
        assert_eq!(sources.find(&given, Purpose::Embed), None);
        sources.operator_folders.push(given.clone());
        assert_eq!(sources.find(&given, Purpose::Embed), Some(folder));
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
        assert_eq!(sources.find("plain", Purpose::Embed), None);
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
            if let Some(folder) = sources.find(&parts.join("/"), Purpose::Embed) {
                let real = folder.canonicalize().expect("exists");
                prop_assert!(inside.iter().any(|shelf| real.starts_with(shelf)), "{real:?}");
            }
        });
    }
}
