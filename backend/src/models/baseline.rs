//! Baselines: what unrelated texts score, by model, language and layer, so that scores can be spread
//! over a range that people read more easily. bert-score publishes them as
//! `rescale_baseline/LANGUAGE/MODEL.tsv`; a copy of that folder is read as it is.

use std::io;
use std::path::{Path, PathBuf};

use super::error::LoadError;
use super::file::{self, MOST_SETTINGS};
use super::locate::is_plain;
use crate::engine::{EngineError, Scores};

/// Average scores of unrelated texts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Baseline {
    precision: f32,
    recall: f32,
    f1: f32,
}

impl Baseline {
    /// From the line for `layer` in the file at `path`: comma-separated layer, precision, recall and
    /// F1, under a line with their names.
    fn read(path: &Path, layer: usize) -> Result<Self, LoadError> {
        let text = file::read(path, MOST_SETTINGS).map_err(|source| LoadError::Read {
            path: path.to_owned(),
            source,
        })?;
        let found = String::from_utf8_lossy(&text)
            .lines()
            .find_map(|line| Self::parse(line, layer));
        found.ok_or_else(|| LoadError::Baseline {
            path: path.to_owned(),
            layer,
        })
    }

    /// `None` if the line is of another layer, or of none.
    fn parse(line: &str, layer: usize) -> Option<Self> {
        let (first, scores) = line.split_once(',')?;
        if first.trim().parse() != Ok(layer) {
            return None;
        }
        let scores: Result<Vec<f32>, _> = scores.split(',').map(|s| s.trim().parse()).collect();
        let scores = scores.ok()?;
        // Nothing can be spread over the range between 1 and 1.
        let is_usable = |score: &f32| (1.0 - score).is_normal();
        if !scores.iter().all(is_usable) {
            return None;
        }
        let [precision, recall, f1] = scores.try_into().ok()?;
        Some(Self {
            precision,
            recall,
            f1,
        })
    }

    /// Moves and spreads scores so that the baseline becomes 0 while 1 stays 1.
    pub(crate) fn rescale(&self, scores: &mut Scores) {
        for (values, baseline) in [
            (&mut scores.precision, self.precision),
            (&mut scores.recall, self.recall),
            (&mut scores.f1, self.f1),
        ] {
            for value in values {
                *value = (*value - baseline) / (1.0 - baseline);
            }
        }
    }
}

/// Where baselines lie.
#[derive(Clone, Debug)]
pub(crate) struct Baselines {
    folder: Option<PathBuf>,
}

impl Baselines {
    /// Those in `folder`; without one there are none.
    pub(crate) fn new(folder: Option<PathBuf>) -> Self {
        Self { folder }
    }

    /// The baseline of the model called `model` in `language`, of this `layer`.
    ///
    /// # Errors
    /// [`EngineError::NoBaseline`] if there is no such file; [`EngineError::Load`] if it cannot be
    /// read.
    pub(crate) fn find(
        &self,
        model: &str,
        language: &str,
        layer: usize,
    ) -> Result<Baseline, EngineError> {
        let missing = || EngineError::NoBaseline {
            name: model.to_owned(),
            language: language.to_owned(),
        };
        let path = self.path(model, language).ok_or_else(missing)?;
        Baseline::read(&path, layer).map_err(|error| match error {
            LoadError::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => missing(),
            other => EngineError::Load {
                name: model.to_owned(),
                fault: other.fault(self.folder.as_deref().unwrap_or(&path)),
            },
        })
    }

    /// Names come from requests: one that could lead out of the folder has no path.
    fn path(&self, model: &str, language: &str) -> Option<PathBuf> {
        let folder = self.folder.as_ref()?;
        let a_language = !language.is_empty()
            && language
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-');
        (a_language && is_plain(model)).then(|| folder.join(language).join(format!("{model}.tsv")))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::models::test_support::folder_with;

    const FILE: &str = "LAYER,P,R,F\n0,0.5,0.25,0.2\n1,0.75,0.5,0.6\n2,0.5,0.5\n\
        4,0.5,1.0,0.5\n5,nan,0.5,0.5\n6,0.5,0.5,inf\n";

    fn baselines() -> (tempfile::TempDir, Baselines) {
        let folder = folder_with(&[]);
        let language = folder.path().join("en/org");
        fs::create_dir_all(&language).expect("folder");
        fs::write(language.join("model.tsv"), FILE).expect("file");
        let baselines = Baselines::new(Some(folder.path().to_owned()));
        (folder, baselines)
    }

    #[test]
    fn the_line_of_the_layer_is_taken() {
        let (_folder, baselines) = baselines();
        let found = baselines.find("org/model", "en", 1).expect("found");
        let expected = Baseline {
            precision: 0.75,
            recall: 0.5,
            f1: 0.6,
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn the_baseline_becomes_0_and_1_stays() {
        let mut scores = Scores {
            precision: vec![0.75, 1.0],
            recall: vec![0.5, 0.0],
            f1: vec![f32::NAN, 0.25],
        };
        let baseline = Baseline {
            precision: 0.75,
            recall: 0.5,
            f1: 0.5,
        };
        baseline.rescale(&mut scores);
        assert_eq!(scores.precision, [0.0, 1.0]);
        assert_eq!(scores.recall, [0.0, -1.0]);
        assert!(scores.f1[0].is_nan());
        assert!((scores.f1[1] + 0.5).abs() < f32::EPSILON);
    }

    #[test]
    fn what_is_not_there_is_told_to_the_client_and_what_is_broken_to_the_operator() {
        let (_folder, baselines) = baselines();
        for (model, language) in [
            ("org/model", "de"),
            ("model", "en"),
            ("model", "en/org"),
            ("model", ""),
            ("../en/org/model", "en"),
        ] {
            let error = baselines.find(model, language, 1).expect_err(model);
            assert!(
                matches!(error, EngineError::NoBaseline { .. }),
                "{model} {language}: {error}"
            );
        }
        for layer in [2, 3, 4, 5, 6] {
            let error = baselines.find("org/model", "en", layer).expect_err("none");
            assert!(matches!(error, EngineError::Load { .. }), "{error}");
        }
        let nowhere = Baselines::new(None);
        let error = nowhere.find("org/model", "en", 1).expect_err("none");
        let told = "no baseline for model 'org/model' and language 'en' on this host";
        assert!(error.to_string().starts_with(told), "{error}");
    }
}
