//! What a sentence-transformers folder says to do with a text: which encoder, which pooling,
//! whether to normalise, how long a text may be.
//!
//! `modules.json` lists the steps. The chain Transformer → Pooling → (Normalize) is supported; a
//! folder without that file is a plain encoder, for which sentence-transformers takes mean pooling
//! and no normalisation. Anything else is refused by name: a step left out would give wrong numbers
//! silently.

use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::error::LoadError;
use super::settings_file::SettingsFile;

/// How the vectors of a text's tokens become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pooling {
    /// Their mean, special tokens included.
    Mean,
    /// The first token's.
    Cls,
    /// The largest number in each dimension.
    Max,
}

/// The steps from a text to its embedding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pipeline {
    /// The folder with the encoder and its tokenizer.
    pub(crate) encoder: PathBuf,
    pub(crate) pooling: Pooling,
    /// Whether the embedding is scaled to length 1.
    pub(crate) normalize: bool,
    /// The most tokens a text may have, special ones included; `None`: what tokenizer and encoder
    /// take.
    pub(crate) max_length: Option<usize>,
    /// Whether texts are lower-cased before the tokenizer sees them.
    pub(crate) lower_case: bool,
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

impl Pipeline {
    /// Reads the files in `folder`.
    pub(crate) fn read(folder: &Path) -> Result<Self, LoadError> {
        refuse_default_prompt(folder)?;
        let modules = modules(folder)?;
        let classes: Vec<&str> = modules.iter().map(Module::class).collect();
        let (encoder, pooling, normalize) = match (classes.as_slice(), modules.as_slice()) {
            ([], _) => return Ok(Self::plain(folder)),
            (["Transformer", "Pooling"], [encoder, pooling]) => (encoder, pooling, false),
            (["Transformer", "Pooling", "Normalize"], [encoder, pooling, _]) => {
                (encoder, pooling, true)
            }
            _ => {
                return Err(unsupported(
                    folder,
                    &format!("lists {}", classes.join(" → ")),
                ));
            }
        };
        let encoder = encoder.folder(folder)?;
        let text = SettingsFile::read_or_empty(encoder.join("sentence_bert_config.json"))?;
        Ok(Self {
            pooling: read_pooling(&pooling.folder(folder)?)?,
            normalize,
            max_length: text.get("max_seq_length")?,
            lower_case: text.get("do_lower_case")?.unwrap_or(false),
            encoder,
        })
    }

    fn plain(folder: &Path) -> Self {
        Self {
            encoder: folder.to_owned(),
            pooling: Pooling::Mean,
            normalize: false,
            max_length: None,
            lower_case: false,
        }
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

/// A default prompt is put before every text; this program does not, so its numbers would differ.
fn refuse_default_prompt(folder: &Path) -> Result<(), LoadError> {
    const KEY: &str = "default_prompt_name";
    let file = SettingsFile::read_or_empty(folder.join("config_sentence_transformers.json"))?;
    match file.get::<String>(KEY)? {
        None => Ok(()),
        Some(prompt) => Err(file.problem(KEY, format!("is '{prompt}'; prompts are unsupported"))),
    }
}

/// The pooling mode: one of the `pooling_mode_…` flags is set, or `pooling_mode` names it.
fn read_pooling(folder: &Path) -> Result<Pooling, LoadError> {
    const KEY: &str = "pooling_mode";
    let file = SettingsFile::read(folder.join("config.json"))?;
    let named: Option<String> = file.get(KEY)?;
    let flagged = file
        .true_keys()
        .filter_map(|key| key.strip_prefix("pooling_mode_"));
    let modes: Vec<&str> = flagged.chain(named.as_deref()).collect();
    match modes.as_slice() {
        ["mean_tokens" | "mean"] => Ok(Pooling::Mean),
        ["cls_token" | "cls"] => Ok(Pooling::Cls),
        ["max_tokens" | "max"] => Ok(Pooling::Max),
        [] => Err(file.problem(KEY, "names no mode".to_owned())),
        other => {
            let problem = format!(
                "is {}; one of mean, cls, max is supported",
                other.join(" with ")
            );
            Err(file.problem(KEY, problem))
        }
    }
}

fn unsupported(folder: &Path, what: &str) -> LoadError {
    LoadError::Setting {
        path: folder.join("modules.json"),
        key: "type",
        problem: format!("{what}; supported: Transformer → Pooling, then at most Normalize"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::test_support::folder_with;

    const MODULES: &str = r#"[
        {"idx": 0, "name": "0", "path": "0_T", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_P", "type": "sentence_transformers.models.Pooling"}]"#;

    fn read(files: &[(&str, &str)]) -> Result<Pipeline, String> {
        Pipeline::read(folder_with(files).path()).map_err(|error| error.to_string())
    }

    fn read_with_pooling(pooling: &str) -> Result<Pipeline, String> {
        read(&[("modules.json", MODULES), ("1_P/config.json", pooling)])
    }

    #[test]
    fn a_folder_without_modules_is_mean_pooling_alone() {
        let folder = folder_with(&[("sentence_bert_config.json", r#"{"max_seq_length": 9}"#)]);
        let pipeline = Pipeline::read(folder.path()).expect("plain");
        assert_eq!(pipeline, Pipeline::plain(folder.path()));
    }

    #[test]
    fn each_step_is_read_from_its_own_folder() {
        let folder = folder_with(&[
            ("modules.json", MODULES),
            (
                "0_T/sentence_bert_config.json",
                r#"{"max_seq_length": 77, "do_lower_case": true}"#,
            ),
            ("1_P/config.json", r#"{"pooling_mode_cls_token": true}"#),
        ]);
        let expected = Pipeline {
            encoder: folder.path().join("0_T"),
            pooling: Pooling::Cls,
            normalize: false,
            max_length: Some(77),
            lower_case: true,
        };
        assert_eq!(Pipeline::read(folder.path()).expect("valid"), expected);
    }

    #[test]
    fn pooling_modes_are_known_by_flag_and_by_name() {
        for (settings, expected) in [
            (r#"{"pooling_mode_mean_tokens": true}"#, Pooling::Mean),
            (
                r#"{"pooling_mode_max_tokens": true, "pooling_mode_cls_token": false}"#,
                Pooling::Max,
            ),
            (
                r#"{"pooling_mode": "mean", "include_prompt": true}"#,
                Pooling::Mean,
            ),
        ] {
            assert_eq!(
                read_with_pooling(settings).expect(settings).pooling,
                expected
            );
        }
    }

    #[test]
    fn other_pooling_modes_are_refused_by_name() {
        for (settings, expected) in [
            (
                r#"{"pooling_mode_lasttoken": true}"#,
                "is lasttoken; one of",
            ),
            (
                r#"{"pooling_mode_cls_token": true, "pooling_mode_max_tokens": true}"#,
                "is cls_token with max_tokens; one of",
            ),
            (r#"{"pooling_mode_mean_tokens": false}"#, "names no mode"),
        ] {
            let error = read_with_pooling(settings).expect_err(settings);
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn other_steps_are_refused_by_name() {
        let dense = MODULES.replace("models.Pooling", "models.Dense");
        let error = read(&[("modules.json", &dense)]).expect_err("a step that is not built");
        assert!(error.contains("lists Transformer → Dense"), "{error}");
        assert!(read(&[("modules.json", "[]")]).is_err());
        assert!(
            read(&[("modules.json", MODULES)])
                .expect_err("no file")
                .contains("1_P")
        );
    }

    #[test]
    fn steps_stay_inside_the_model() {
        for path in ["../other", "/etc"] {
            let modules = MODULES.replace("0_T", path);
            let error = read(&[("modules.json", &modules)]).expect_err(path);
            assert!(error.contains(path), "{error}");
        }
    }

    #[test]
    fn a_default_prompt_is_refused() {
        let file = (
            "config_sentence_transformers.json",
            r#"{"default_prompt_name": "query"}"#,
        );
        let error = read(&[file]).expect_err("prompt");
        assert!(
            error.contains("'default_prompt_name' is 'query'"),
            "{error}"
        );
        assert!(read(&[(file.0, r#"{"default_prompt_name": null}"#)]).is_ok());
    }
}
