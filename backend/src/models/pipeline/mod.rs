//! What a sentence-transformers folder says to do with a text: which prompt, which encoder, which
//! pooling, what to do with the pooled vector, how long a text may be.
//!
//! `modules.json` lists the steps. A chain Transformer → Pooling, then any of Dense, `LayerNorm` and
//! Normalize, is supported (Dropout does nothing outside training); a folder without that file is a
//! plain encoder, for which sentence-transformers takes mean pooling and nothing more. Anything else
//! is refused by name: a step left out would give wrong numbers silently.

mod dense;
mod layer_norm;
mod pooling;
mod rules;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use self::dense::{Dense, DenseSettings};
use self::layer_norm::{LayerNorm, LayerNormSettings};
pub(crate) use self::pooling::{Pooling, pool};
use self::rules::{ABOUT_THE_SENTENCE, MODEL, POOLING, TRANSFORMER};
use super::error::LoadError;
use super::file;
use super::settings_file::{self, Setting, SettingsFile};
use super::weights;

/// The names that the settings of a Transformer module have had, in the order in which
/// sentence-transformers looks for them (`Transformer.load_config`).
const TRANSFORMER_SETTINGS: [&str; 7] = [
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
];

/// The settings of the model as a whole.
const MODEL_SETTINGS: &str = "config_sentence_transformers.json";

/// Below this length a vector is left as it is, nearly; torch's `normalize` divides by it instead.
const SHORTEST: f32 = 1e-12;

/// Modules of a model; those published have six at most.
const MOST_MODULES: usize = 16;
/// Bytes of a prompt. Instructions for models have some hundred.
const MOST_PROMPT: usize = 16 << 10;

/// What is to be done with the pooled vector, as the settings say it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum StepSettings {
    Dense(DenseSettings),
    LayerNorm(LayerNormSettings),
    Normalize,
    Truncate(usize),
}

impl StepSettings {
    fn load(&self) -> Result<Step, LoadError> {
        Ok(match self {
            Self::Dense(dense) => Step::Dense(dense.load()?),
            Self::LayerNorm(norm) => Step::LayerNorm(norm.load()?),
            Self::Normalize => Step::Normalize,
            Self::Truncate(length) => Step::Truncate(*length),
        })
    }

    /// Where its weights lie, if it has any.
    fn folder(&self) -> Option<&Path> {
        match self {
            Self::Dense(dense) => Some(dense.folder()),
            Self::LayerNorm(norm) => Some(norm.folder()),
            Self::Normalize | Self::Truncate(_) => None,
        }
    }

    /// How many numbers its weights have.
    fn numbers(&self) -> u64 {
        match self {
            Self::Dense(dense) => dense.numbers(),
            Self::LayerNorm(norm) => norm.numbers(),
            Self::Normalize | Self::Truncate(_) => 0,
        }
    }
}

/// What is done with the pooled vector.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    Dense(Dense),
    LayerNorm(LayerNorm),
    /// Scales it to length 1.
    Normalize,
    /// Keeps its first numbers.
    Truncate(usize),
}

impl Step {
    pub(crate) fn apply(&self, mut row: Vec<f32>) -> Vec<f32> {
        match self {
            Self::Dense(dense) => dense.apply(&row),
            Self::LayerNorm(norm) => {
                norm.apply(&mut row);
                row
            }
            Self::Truncate(length) => {
                row.truncate(*length);
                row
            }
            Self::Normalize => {
                normalize(&mut row);
                row
            }
        }
    }
}

/// Scales `row` to length 1.
fn normalize(row: &mut [f32]) {
    let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
    let divisor = if length < SHORTEST { SHORTEST } else { length };
    for x in row {
        *x /= divisor;
    }
}

/// The steps from a text to its embedding.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Pipeline {
    /// What is put before every text; mostly nothing.
    pub(crate) prompt: String,
    /// The folder with the encoder and its tokenizer.
    pub(crate) encoder: PathBuf,
    /// The most tokens a text may have, special ones included; `None`: what tokenizer and encoder
    /// take.
    pub(crate) max_length: Option<usize>,
    /// Whether texts are lower-cased before the tokenizer sees them.
    pub(crate) lower_case: bool,
    /// At least one; what they give is put end to end.
    pub(crate) pooling: Vec<Pooling>,
    /// What follows, in order.
    pub(crate) steps: Vec<StepSettings>,
}

impl Pipeline {
    /// Reads the files in `folder`.
    pub(crate) fn read(folder: &Path) -> Result<Self, LoadError> {
        let modules = modules(folder)?;
        let (encoder, pooling, steps) = match modules.as_slice() {
            [] => return Self::plain(folder),
            [encoder, pooling, steps @ ..]
                if encoder.class() == "Transformer" && pooling.class() == "Pooling" =>
            {
                (encoder, pooling, steps)
            }
            others => return Err(unsupported_steps(folder, others)),
        };
        let Model { prompt, truncate } = model(folder)?;
        let encoder = encoder.folder(folder)?;
        let text = transformer_settings(&encoder)?;
        let mut read = Vec::new();
        for module in steps {
            read.extend(module.step(folder, &modules)?);
        }
        read.extend(truncate.map(StepSettings::Truncate));
        Ok(Self {
            pooling: read_pooling(&pooling.folder(folder)?, &prompt)?,
            steps: read,
            max_length: text.max_length,
            lower_case: text.lower_case,
            prompt,
            encoder,
        })
    }

    /// A folder without `modules.json`, of which sentence-transformers reads no settings of its own.
    fn plain(folder: &Path) -> Result<Self, LoadError> {
        refuse_chat_template(folder)?;
        unread(folder)
            .for_each(|path| settings_file::warn_unread(&path, "there is no modules.json"));
        Ok(Self {
            prompt: String::new(),
            encoder: folder.to_owned(),
            max_length: None,
            lower_case: false,
            pooling: vec![Pooling::Mean],
            steps: Vec::new(),
        })
    }

    /// Reads the weights of what follows the pooling.
    pub(crate) fn load_steps(&self) -> Result<Vec<Step>, LoadError> {
        self.steps.iter().map(StepSettings::load).collect()
    }

    /// Whether those weights are there.
    pub(crate) fn check_weights(&self) -> Result<(), LoadError> {
        let mut folders = self.steps.iter().filter_map(StepSettings::folder);
        folders.try_for_each(weights::check)
    }

    /// How many numbers those weights have.
    pub(crate) fn numbers(&self) -> u64 {
        self.steps.iter().map(StepSettings::numbers).sum()
    }

    /// How many numbers an embedding has if the encoder's vectors have `width`.
    ///
    /// # Errors
    /// A step does not take what the one before it gives.
    pub(crate) fn dimensions(&self, width: usize) -> Result<usize, LoadError> {
        let mut dimensions = width * self.pooling.len();
        for step in &self.steps {
            dimensions = match step {
                StepSettings::Dense(dense) => dense.dimensions(dimensions)?,
                StepSettings::LayerNorm(norm) => norm.dimensions(dimensions)?,
                StepSettings::Truncate(length) => dimensions.min(*length),
                StepSettings::Normalize => dimensions,
            }
        }
        Ok(dimensions)
    }
}

/// One entry of `modules.json`.
struct Module {
    /// Tells it apart from the others.
    name: Option<String>,
    /// Folder of the module's settings, below the model's; empty: the model's own.
    path: String,
    /// Dotted name of the Python class.
    r#type: String,
}

impl Module {
    fn read(entry: &SettingsFile) -> Result<Self, LoadError> {
        let module = Self {
            name: entry.get("name")?,
            path: entry.require("path")?,
            r#type: entry.require("type")?,
        };
        entry.settle(rules::MODULE)?;
        Ok(module)
    }

    /// The last part of its name. Another library's class, or the model's own, has all of it.
    fn class(&self) -> &str {
        let own = self.r#type.strip_prefix("sentence_transformers.");
        own.map_or(&self.r#type, |own| own.rsplit('.').next().unwrap_or(own))
    }

    /// What it does with the pooled vector, in the model in `folder` with these `modules`.
    fn step(&self, folder: &Path, modules: &[Self]) -> Result<Option<StepSettings>, LoadError> {
        let own = self.folder(folder)?;
        Ok(match self.class() {
            "Dense" => Some(StepSettings::Dense(DenseSettings::read(&own)?)),
            "LayerNorm" => Some(StepSettings::LayerNorm(LayerNormSettings::read(&own)?)),
            "Normalize" => {
                let file = SettingsFile::read_or_empty(own.join("config.json"))?;
                file.settle(ABOUT_THE_SENTENCE)?;
                Some(StepSettings::Normalize)
            }
            "Dropout" => None,
            _ => return Err(unsupported_steps(folder, modules)),
        })
    }

    /// The module's folder. The name may not lead out of the model's folder.
    fn folder(&self, model: &Path) -> Result<PathBuf, LoadError> {
        let path = Path::new(&self.path);
        if path
            .components()
            .all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
        {
            return Ok(model.join(path));
        }
        Err(LoadError::Setting {
            path: model.join("modules.json"),
            key: "path".to_owned(),
            problem: "leads out of the model's folder".to_owned(),
        })
    }
}

/// The entries of `modules.json`; none if there is no such file.
fn modules(folder: &Path) -> Result<Vec<Module>, LoadError> {
    let entries = match SettingsFile::read_list(&folder.join("modules.json")) {
        Err(LoadError::Read { source, .. }) if source.kind() == ErrorKind::NotFound => {
            return Ok(Vec::new());
        }
        other => other?,
    };
    let problem = match entries.len() {
        0 => "is empty".to_owned(),
        count if count > MOST_MODULES => {
            format!("lists {count} modules, the limit is {MOST_MODULES}")
        }
        _ => return named_apart(folder, &entries),
    };
    Err(unsupported(folder, &problem))
}

/// The modules of `entries`. Of two with one name, sentence-transformers runs the later one only.
fn named_apart(folder: &Path, entries: &[SettingsFile]) -> Result<Vec<Module>, LoadError> {
    let modules = entries.iter().map(Module::read);
    let modules = modules.collect::<Result<Vec<_>, _>>()?;
    let mut names = BTreeSet::new();
    let mut all = modules.iter().filter_map(|module| module.name.as_ref());
    if let Some(twice) = all.find(|name| !names.insert(*name)) {
        let problem = format!("has two modules with the name '{twice}'");
        return Err(unsupported(folder, &problem));
    }
    Ok(modules)
}

/// What a Transformer module says of texts.
struct TextSettings {
    max_length: Option<usize>,
    lower_case: bool,
}

/// The settings of the Transformer module in `folder`; a folder without any has the defaults.
fn transformer_settings(folder: &Path) -> Result<TextSettings, LoadError> {
    let mut file = SettingsFile::read_or_empty(folder.join(TRANSFORMER_SETTINGS[0]))?;
    for name in &TRANSFORMER_SETTINGS[1..] {
        if !file.is_empty() {
            break;
        }
        file = SettingsFile::read_or_empty(folder.join(name))?;
    }
    for key in ["model_args", "model_kwargs"] {
        file.object(key)?.settle(rules::MODEL_ARGUMENTS)?;
    }
    let settings = TextSettings {
        max_length: file.count("max_seq_length", usize::MAX)?,
        lower_case: file.get("do_lower_case")?.unwrap_or(false),
    };
    check_modalities(&file)?;
    file.settle(TRANSFORMER)?;
    Ok(settings)
}

/// Texts go to the encoder as they are, and what comes out of its last layer is pooled.
fn check_modalities(file: &SettingsFile) -> Result<(), LoadError> {
    const KEY: &str = "modality_config";
    let modalities = file.object(KEY)?;
    modalities.object("text")?.settle(rules::TEXT)?;
    modalities.settle(rules::MODALITIES)?;
    let named: BTreeMap<String, Value> = modalities.all()?;
    if !named.is_empty() && !modalities.has("text") {
        return Err(file.problem(KEY, "has no 'text'".to_owned()));
    }
    Ok(())
}

/// What nobody reads in a folder without `modules.json`, which may have got lost.
fn unread(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let names = [TRANSFORMER_SETTINGS[0], MODEL_SETTINGS, "1_Pooling"];
    let paths = names.map(|name| folder.join(name)).into_iter();
    paths.filter(|path| file::is_there(path))
}

/// Of a folder without `modules.json`, sentence-transformers puts texts into its chat template.
fn refuse_chat_template(folder: &Path) -> Result<(), LoadError> {
    const KEY: &str = "chat_template";
    let file = SettingsFile::read_or_empty(folder.join("tokenizer_config.json"))?;
    if file.get::<Value>(KEY)?.is_none() && !file::is_there(&folder.join("chat_template.jinja")) {
        return Ok(());
    }
    let problem = "is there, which is unsupported for a model without modules.json";
    Err(file.problem(KEY, problem.to_owned()))
}

/// What a folder says of the model as a whole.
struct Model {
    /// What is put before every text unless the caller asks for something else.
    prompt: String,
    /// So many numbers of the vector are kept.
    truncate: Option<usize>,
}

fn model(folder: &Path) -> Result<Model, LoadError> {
    const KIND: &str = "model_type";
    let file = SettingsFile::read_or_empty(folder.join(MODEL_SETTINGS))?;
    // Not the same as left out: the library takes the model for one of another kind then.
    if file.is_null(KIND) {
        return Err(file.problem(KIND, "is null, which is unsupported".to_owned()));
    }
    let prompt = prompt(&file)?;
    let truncate = file.count("truncate_dim", usize::MAX)?;
    file.settle(MODEL)?;
    Ok(Model { prompt, truncate })
}

fn prompt(file: &SettingsFile) -> Result<String, LoadError> {
    const KEY: &str = "default_prompt_name";
    let mut prompts: BTreeMap<String, Option<String>> = file.get("prompts")?.unwrap_or_default();
    let Some(name) = file.get::<String>(KEY)? else {
        return Ok(String::new());
    };
    match prompts.remove(&name) {
        Some(Some(prompt)) if prompt.len() > MOST_PROMPT => {
            let problem = format!(
                "is one of {} bytes, the limit is {MOST_PROMPT}",
                prompt.len()
            );
            Err(file.problem(KEY, problem))
        }
        Some(prompt) => Ok(prompt.unwrap_or_default()),
        // Every model has these two; they are empty unless it says otherwise.
        None if name == "query" || name == "document" => Ok(String::new()),
        None => Err(file.problem(KEY, format!("is '{name}', which is not among the prompts"))),
    }
}

/// The modes, in the order in which their results are put end to end: those that `pooling_mode`
/// lists, else those whose keys are on, else the mean.
fn read_pooling(folder: &Path, prompt: &str) -> Result<Vec<Pooling>, LoadError> {
    const KEY: &str = "pooling_mode";
    const INCLUDE: &str = "include_prompt";
    let file = SettingsFile::read(folder.join("config.json"))?;
    // Null, too, is no there.
    let include = file.get(INCLUDE)?.unwrap_or(!file.is_null(INCLUDE));
    if !prompt.is_empty() && !include {
        let problem = "is not true, which is unsupported for a model with a default prompt";
        return Err(file.problem(INCLUDE, problem.to_owned()));
    }
    let named = match file.get::<Names>(KEY)? {
        None => Vec::new(),
        Some(Names::One(name)) => vec![name],
        Some(Names::Several(names)) if (1..=Pooling::ALL.len()).contains(&names.len()) => names,
        Some(_) => {
            return Err(file.problem(KEY, "names no mode, or more than there are".to_owned()));
        }
    };
    let mut modes = Vec::new();
    for name in &named {
        let mode = Pooling::ALL.into_iter().find(|mode| mode.name() == name);
        let unknown = || file.problem(KEY, format!("has '{name}', not a known mode"));
        modes.push(mode.ok_or_else(unknown)?);
    }
    for mode in Pooling::ALL {
        if file.get(mode.flag())?.unwrap_or(false) && named.is_empty() {
            modes.push(mode);
        }
    }
    refuse_unknown_flags(&file)?;
    file.settle(POOLING)?;
    if modes.is_empty() {
        modes.push(Pooling::Mean);
    }
    Ok(modes)
}

/// A mode that this program lacks would be left out of the vector.
fn refuse_unknown_flags(file: &SettingsFile) -> Result<(), LoadError> {
    let flags: BTreeMap<String, Value> = file.all()?;
    let known = |key: &String| Pooling::ALL.into_iter().any(|mode| mode.flag() == key);
    let mut on = flags.iter().filter(|(_, value)| **value == true);
    match on.find(|(key, _)| key.starts_with("pooling_mode_") && !known(key)) {
        Some((key, _)) => Err(file.problem(key, "is on, which is not a known mode".to_owned())),
        None => Ok(()),
    }
}

/// One name or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum Names {
    One(String),
    Several(Vec<String>),
}

impl Setting for Names {
    const KIND: &'static str = "a text or a list of texts";
}

fn unsupported_steps(folder: &Path, modules: &[Module]) -> LoadError {
    let classes: Vec<&str> = modules.iter().map(Module::class).collect();
    unsupported(folder, &format!("lists {}", classes.join(" → ")))
}

fn unsupported(folder: &Path, what: &str) -> LoadError {
    LoadError::Setting {
        path: folder.join("modules.json"),
        key: "type".to_owned(),
        problem: format!(
            "{what}; supported: Transformer → Pooling, then Dense, LayerNorm, Dropout and Normalize"
        ),
    }
}
