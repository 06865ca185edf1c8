//! From a model's name to its folder.
//!
//! Looked up in this order: a folder path that the operator gave at start (only exactly that
//! string), `models_dir/NAME`, the hub cache. Where a name is not there as it is, [`names`] says
//! which other may stand for it. A name from a request is compared with the names of folders and
//! never becomes part of a path, so that no request leads out of the operator's folders. Links that
//! the operator put into those folders are followed.

mod names;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use self::names::{SENTENCE_TRANSFORMERS, full_names};
pub(crate) use self::names::{is_implied, is_plain, name_on_hub, short};
use super::file::{self, MOST_SETTINGS};
use super::pipeline::Pipeline;
use super::settings_file::quietly;
use super::weights;
use crate::engine::Purpose;

/// How many names [`ModelSources::installed`] lists at most.
const MAX_LISTED: usize = 50;

/// Entries of one folder that are looked at: ten times as many as there can be names of models that
/// are told of.
const MOST_ENTRIES: usize = 20_000;

/// A folder with one of these is a model.
const MARKS: [&str; 2] = ["config.json", "modules.json"];

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

/// A model that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// What its folder is called: `NAME`, `ORG/NAME`, or the path that the operator gave.
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
}

/// Why a name leads to no model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    Absent,
    /// It may be any of these, sorted.
    Ambiguous(Vec<String>),
}

impl ModelSources {
    /// The model that `name` stands for.
    pub(crate) fn find(&self, name: &str, purpose: Purpose) -> Result<Found, Missing> {
        if let Some(found) = self.operator_folder(name) {
            return Ok(found);
        }
        if !is_plain(name) {
            return Err(Missing::Absent);
        }
        self.shelves().find(name, purpose)
    }

    /// Whether the model is there with its weights. Other programs leave folders without, which a
    /// download completes.
    pub(crate) fn has_whole(&self, name: &str, purpose: Purpose) -> bool {
        self.find(name, purpose).is_ok_and(|Found { folder, .. }| {
            // A folder that cannot be understood is left to the load, which says what is wrong.
            let is_file = |name: &&str| folder.join(name).is_file();
            MARKS.iter().any(is_file) && {
                let pipeline = quietly(|| Pipeline::read(&folder));
                let encoder = pipeline.map_or(folder, |pipeline| pipeline.encoder);
                weights::check(&encoder).is_ok()
            }
        })
    }

    /// What the folders of models are called, sorted; at most 50. Clients read them, so that the
    /// operator's folder paths are left out.
    pub(crate) fn installed(&self) -> Vec<String> {
        let names: BTreeSet<String> = self
            .shelves()
            .all()
            .map(|found| found.name.clone())
            .collect();
        names.into_iter().take(MAX_LISTED).collect()
    }

    /// Each name by which a request finds a model, with that model.
    pub(crate) fn all_names(&self) -> BTreeMap<(Purpose, String), Found> {
        let shelves = self.shelves();
        let given = self.operator_folders.iter().cloned();
        let mut candidates: BTreeSet<String> = given.collect();
        for Found { name, .. } in shelves.all() {
            candidates.insert(short(name).to_owned());
            candidates.extend(full_names(short(name)));
            candidates.insert(name.clone());
        }
        let mut names = BTreeMap::new();
        for name in candidates.into_iter().filter(|name| is_plain(name)) {
            for purpose in [Purpose::Embed, Purpose::BertScore] {
                if let Ok(found) = shelves.find(&name, purpose) {
                    names.insert((purpose, name.clone()), found);
                }
            }
        }
        names
    }

    fn operator_folder(&self, name: &str) -> Option<Found> {
        let given = self.operator_folders.iter().any(|given| given == name);
        let folder = PathBuf::from(name);
        (given && is_model(&folder)).then(|| Found {
            name: name.to_owned(),
            folder,
        })
    }

    fn shelves(&self) -> Shelves<'_> {
        Shelves {
            models_dir: self.models_dir.as_deref().map_or(Vec::new(), in_models_dir),
            hub_cache: self.hub_cache.as_deref().map_or(Vec::new(), in_hub_cache),
            operator_names: &self.operator_folders,
        }
    }
}

/// The models in the operator's folders, as they were when looked at.
struct Shelves<'a> {
    models_dir: Vec<Found>,
    hub_cache: Vec<Found>,
    operator_names: &'a [String],
}

impl Shelves<'_> {
    fn find(&self, name: &str, purpose: Purpose) -> Result<Found, Missing> {
        let (here, hub) = (self.models_dir.as_slice(), self.hub_cache.as_slice());
        let ours = format!("{SENTENCE_TRANSFORMERS}/{name}");
        let places: &[(&[Found], &str)] = match (name.contains('/'), purpose) {
            (true, _) if self.is_implied(name) => {
                let short = short(name);
                &[(here, name), (hub, name), (here, short), (hub, short)]
            }
            // As sentence-transformers reads a name without organisation.
            (false, Purpose::Embed) => &[(here, name), (here, &ours), (hub, &ours), (hub, name)],
            _ => &[(here, name), (hub, name)],
        };
        let mut places = places.iter();
        let exact = places.find_map(|(shelf, name)| shelf.iter().find(|found| found.name == *name));
        exact.map_or_else(|| self.only_one(name), |found| Ok(found.clone()))
    }

    fn all(&self) -> impl Iterator<Item = &Found> {
        self.models_dir.iter().chain(&self.hub_cache)
    }

    /// Whether a folder called `NAME` is meant by this `ORG/NAME`.
    fn is_implied(&self, name: &str) -> bool {
        is_implied(name) || self.operator_names.iter().any(|given| given == name)
    }

    /// The one model that is called `name` after its organisation.
    fn only_one(&self, name: &str) -> Result<Found, Missing> {
        // By their folders, since links make several names of one.
        let mut models = BTreeMap::new();
        for found in self.all().filter(|found| short(&found.name) == name) {
            let folder = found.folder.canonicalize();
            let first = models.entry(folder.unwrap_or_else(|_| found.folder.clone()));
            first.or_insert(found);
        }
        let names: BTreeSet<&String> = models.values().map(|found| &found.name).collect();
        match (
            self.all().find(|found| names.contains(&found.name)),
            names.len(),
        ) {
            (Some(found), 1) => Ok(found.clone()),
            (None, _) => Err(Missing::Absent),
            _ => Err(Missing::Ambiguous(names.into_iter().cloned().collect())),
        }
    }
}

/// A folder with the file that every model has: its config, or the list of its modules. Whether that can be
/// read shows when the model is loaded.
fn is_model(folder: &Path) -> bool {
    MARKS.iter().any(|name| file::is_there(&folder.join(name)))
}

/// The snapshot that the cache's `refs/main` points at.
fn snapshot(repository: &Path) -> Option<PathBuf> {
    let revision = file::read(&repository.join("refs/main"), MOST_SETTINGS).ok()?;
    let revision = str::from_utf8(&revision).ok()?.trim();
    let folder = repository.join("snapshots").join(revision);
    (is_plain(revision) && !revision.contains('/') && is_model(&folder)).then_some(folder)
}

fn in_models_dir(models_dir: &Path) -> Vec<Found> {
    let model = |name: String| {
        let folder = models_dir.join(&name);
        (is_plain(&name) && is_model(&folder)).then_some(Found { name, folder })
    };
    let mut all = Vec::new();
    for entry in folder_names(models_dir) {
        if let Some(found) = model(entry.clone()) {
            all.push(found);
            continue;
        }
        let below = folder_names(&models_dir.join(&entry)).into_iter();
        all.extend(below.filter_map(|name| model(format!("{entry}/{name}"))));
    }
    all
}

fn in_hub_cache(cache: &Path) -> Vec<Found> {
    let model = |entry: String| {
        let name = entry.strip_prefix("models--")?.replacen("--", "/", 1);
        let folder = snapshot(&cache.join(&entry)).filter(|_| is_plain(&name))?;
        Some(Found { name, folder })
    };
    folder_names(cache).into_iter().filter_map(model).collect()
}

/// Names of the entries of `folder`; none if it cannot be read.
fn folder_names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .take(MOST_ENTRIES)
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}
