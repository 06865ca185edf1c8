//! What a sentence-transformers folder says to do with a text: which prompt, which encoder, which
//! pooling, what to do with the pooled vector, how long a text may be.
//!
//! `modules.json` lists the steps. A chain Transformer → Pooling, then any of Dense and Normalize,
//! is supported; a folder without that file is a plain encoder, for which sentence-transformers
//! takes mean pooling and nothing more. Anything else is refused by name: a step left out would
//! give wrong numbers silently.

mod dense;
mod pooling;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

pub(crate) use self::dense::Dense;
pub(crate) use self::pooling::{Pooling, pool};
use super::error::LoadError;
use super::settings_file::SettingsFile;

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

/// Below this length a vector is left as it is, nearly; torch's `normalize` divides by it instead.
const SHORTEST: f32 = 1e-12;

/// What is done with the pooled vector.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    Dense(Dense),
    /// Scales it to length 1.
    Normalize,
}

impl Step {
    pub(crate) fn apply(&self, mut row: Vec<f32>) -> Vec<f32> {
        match self {
            Self::Dense(dense) => dense.apply(&row),
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
    pub(crate) steps: Vec<Step>,
}

impl Pipeline {
    /// Reads the files in `folder`.
    pub(crate) fn read(folder: &Path) -> Result<Self, LoadError> {
        let prompt = prompt(folder)?;
        let modules = modules(folder)?;
        let (encoder, pooling, steps) = match modules.as_slice() {
            [] => return Ok(Self::plain(folder, prompt)),
            [encoder, pooling, steps @ ..]
                if encoder.class() == "Transformer" && pooling.class() == "Pooling" =>
            {
                (encoder, pooling, steps)
            }
            others => return Err(unsupported_steps(folder, others)),
        };
        if !steps.iter().all(Module::is_step) {
            return Err(unsupported_steps(folder, &modules));
        }
        let encoder = encoder.folder(folder)?;
        let text = transformer_settings(&encoder)?;
        let read_step = |module: &Module| match module.class() {
            "Normalize" => Ok(Step::Normalize),
            _ => Dense::read(&module.folder(folder)?).map(Step::Dense),
        };
        Ok(Self {
            pooling: read_pooling(&pooling.folder(folder)?, &prompt)?,
            steps: steps.iter().map(read_step).collect::<Result<_, _>>()?,
            max_length: text.get("max_seq_length")?,
            lower_case: text.get("do_lower_case")?.unwrap_or(false),
            prompt,
            encoder,
        })
    }

    fn plain(folder: &Path, prompt: String) -> Self {
        Self {
            prompt,
            encoder: folder.to_owned(),
            max_length: None,
            lower_case: false,
            pooling: vec![Pooling::Mean],
            steps: Vec::new(),
        }
    }

    /// How many numbers an embedding has if the encoder's vectors have `width`.
    ///
    /// # Errors
    /// A step does not take what the one before it gives.
    pub(crate) fn dimensions(&self, width: usize) -> Result<usize, LoadError> {
        let mut dimensions = width * self.pooling.len();
        for step in &self.steps {
            if let Step::Dense(dense) = step {
                dimensions = dense.dimensions(dimensions)?;
            }
        }
        Ok(dimensions)
    }
}

/// One entry of `modules.json`.
#[derive(Deserialize)]
struct Module {
    /// Folder of the module's settings, below the model's; empty: the model's own.
    path: String,
    /// Dotted name of the Python class.
    r#type: String,
}

impl Module {
    fn class(&self) -> &str {
        self.r#type.rsplit('.').next().unwrap_or_default()
    }

    fn is_step(&self) -> bool {
        ["Dense", "Normalize"].contains(&self.class())
    }

    /// The module's folder. The name may not lead out of the model's folder.
    fn folder(&self, model: &Path) -> Result<PathBuf, LoadError> {
        let path = Path::new(&self.path);
        if path
            .components()
            .all(|part| matches!(part, Component::Normal(_)))
        {
            return Ok(model.join(path));
        }
        Err(unsupported(model, &format!("has the path '{}'", self.path)))
    }
}

/// The entries of `modules.json`; none if there is no such file.
fn modules(folder: &Path) -> Result<Vec<Module>, LoadError> {
    let path = folder.join("modules.json");
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(LoadError::Read { path, source }),
    };
    let modules: Vec<Module> =
        serde_json::from_slice(&text).map_err(|source| LoadError::Json { path, source })?;
    if modules.is_empty() {
        return Err(unsupported(folder, "is empty"));
    }
    Ok(modules)
}

/// The settings of the Transformer module in `folder`; a folder without any has the defaults.
fn transformer_settings(folder: &Path) -> Result<SettingsFile, LoadError> {
    let paths = TRANSFORMER_SETTINGS.map(|name| folder.join(name));
    let found = paths.iter().find(|path| path.is_file());
    SettingsFile::read_or_empty(found.unwrap_or(&paths[0]).clone())
}

/// The prompt that the folder has put before every text unless the caller asks for another.
fn prompt(folder: &Path) -> Result<String, LoadError> {
    const KEY: &str = "default_prompt_name";
    let file = SettingsFile::read_or_empty(folder.join("config_sentence_transformers.json"))?;
    let Some(name) = file.get::<String>(KEY)? else {
        return Ok(String::new());
    };
    let mut prompts: BTreeMap<String, String> = file.get("prompts")?.unwrap_or_default();
    prompts
        .remove(&name)
        .ok_or_else(|| file.problem(KEY, format!("is '{name}', which is not among the prompts")))
}

/// The modes that are on, in the order in which sentence-transformers puts their results. Without
/// any key the mean is taken. `pooling_mode`, where it is there, is the only one.
fn read_pooling(folder: &Path, prompt: &str) -> Result<Vec<Pooling>, LoadError> {
    const KEY: &str = "pooling_mode";
    let file = SettingsFile::read(folder.join("config.json"))?;
    if !prompt.is_empty() && !file.get("include_prompt")?.unwrap_or(true) {
        let problem = "is false, which is unsupported for a model with a default prompt";
        return Err(file.problem("include_prompt", problem.to_owned()));
    }
    if let Some(name) = file.get::<String>(KEY)? {
        let mode = Pooling::ALL.into_iter().find(|mode| mode.name() == name);
        let mode = mode.ok_or_else(|| file.problem(KEY, format!("is '{name}', not a known mode")));
        return Ok(vec![mode?]);
    }
    let mut modes = Vec::new();
    for mode in Pooling::ALL {
        if file.get(mode.flag())?.unwrap_or(mode == Pooling::Mean) {
            modes.push(mode);
        }
    }
    if modes.is_empty() {
        return Err(file.problem(KEY, "names no mode".to_owned()));
    }
    Ok(modes)
}

fn unsupported_steps(folder: &Path, modules: &[Module]) -> LoadError {
    let classes: Vec<&str> = modules.iter().map(Module::class).collect();
    unsupported(folder, &format!("lists {}", classes.join(" → ")))
}

fn unsupported(folder: &Path, what: &str) -> LoadError {
    LoadError::Setting {
        path: folder.join("modules.json"),
        key: "type".to_owned(),
        problem: format!("{what}; supported: Transformer → Pooling, then Dense and Normalize"),
    }
}
