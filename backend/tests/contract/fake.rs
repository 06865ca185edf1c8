//! An engine that knows two models by name and computes nothing.

use std::sync::atomic::{AtomicBool, Ordering};

use gpu_bridge_backend::engine::{
    Embeddings, Engine, EngineError, Progress, Purpose, Readiness, Scores, Scoring, Shortening,
};

type Script = dyn Fn(&str, &dyn Progress) -> Result<(), EngineError> + Send + Sync;

/// Answers with numbers of the right shape.
pub(crate) struct FakeEngine {
    embed: String,
    bertscore: String,
    script: Box<Script>,
    /// Loads the model for scores; without it, that is there from the start.
    load: Option<Box<dyn Fn() + Send + Sync>>,
    loaded: AtomicBool,
    shortening: Shortening,
    readiness: Box<dyn Fn() -> Readiness + Send + Sync>,
}

const DIMENSIONS: usize = 384;

impl FakeEngine {
    /// Answers at once.
    pub(crate) fn quick() -> Self {
        Self::scripted(|_, _| Ok(()))
    }

    /// Runs `script` on the first text of each request for embeddings, then answers.
    pub(crate) fn scripted(
        script: impl Fn(&str, &dyn Progress) -> Result<(), EngineError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            embed: "all-MiniLM-L6-v2".to_owned(),
            bertscore: "microsoft/deberta-xlarge-mnli".to_owned(),
            script: Box::new(script),
            load: None,
            loaded: AtomicBool::new(true),
            shortening: Shortening::No,
            readiness: Box::new(|| Readiness {
                ready: true,
                models: Vec::new(),
            }),
        }
    }

    /// Its embeddings may be cut.
    pub(crate) fn shortening(self, shortening: Shortening) -> Self {
        Self { shortening, ..self }
    }

    /// Has to load the model for scores first, which `load` does.
    pub(crate) fn loading(self, load: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            load: Some(Box::new(load)),
            loaded: AtomicBool::new(false),
            ..self
        }
    }

    /// Says this of its models.
    pub(crate) fn saying(self, readiness: impl Fn() -> Readiness + Send + Sync + 'static) -> Self {
        Self {
            readiness: Box::new(readiness),
            ..self
        }
    }

    /// Knows its two models under other names.
    pub(crate) fn named(self, embed: &str, bertscore: &str) -> Self {
        Self {
            embed: embed.to_owned(),
            bertscore: bertscore.to_owned(),
            ..self
        }
    }

    fn check(&self, name: &str, known: &str) -> Result<(), EngineError> {
        if name == known {
            return Ok(());
        }
        let installed = vec![self.embed.clone(), self.bertscore.clone()];
        Err(EngineError::NotInstalled {
            name: name.to_owned(),
            installed,
        })
    }
}

impl Engine for FakeEngine {
    fn is_loaded(&self, purpose: Purpose, _: &str) -> bool {
        purpose == Purpose::Embed || self.loaded.load(Ordering::SeqCst)
    }

    fn load(&self, _: Purpose, _: &str, _: &dyn Progress) -> Result<(), EngineError> {
        if let Some(load) = &self.load {
            load();
        }
        self.loaded.store(true, Ordering::SeqCst);
        Ok(())
    }

    fn embed(
        &self,
        model: &str,
        texts: &[String],
        progress: &dyn Progress,
    ) -> Result<Embeddings, EngineError> {
        self.check(model, &self.embed)?;
        (self.script)(texts.first().map_or("", String::as_str), progress)?;
        progress.finished(texts.len());
        let dimensions = if texts.is_empty() { 0 } else { DIMENSIONS };
        Ok(Embeddings {
            rows: vec![vec![0.0; dimensions]; texts.len()],
            dimensions,
            tokens: texts.iter().map(|text| text.split(' ').count()).collect(),
            shortening: self.shortening.clone(),
        })
    }

    fn bertscore(
        &self,
        model: &str,
        candidates: &[String],
        references: &[String],
        _: &Scoring,
        _: &dyn Progress,
    ) -> Result<Scores, EngineError> {
        assert_eq!(
            candidates.len(),
            references.len(),
            "the API lets only pairs pass"
        );
        self.check(model, &self.bertscore)?;
        let zeros = vec![0.0; candidates.len()];
        Ok(Scores {
            precision: zeros.clone(),
            recall: zeros.clone(),
            f1: zeros,
        })
    }

    fn readiness(&self) -> Readiness {
        (self.readiness)()
    }

    fn available_models(&self) -> Option<Vec<String>> {
        Some(self.loaded_models())
    }

    fn loaded_models(&self) -> Vec<String> {
        vec![
            format!("bertscore:{}", self.bertscore),
            format!("embed:{}", self.embed),
        ]
    }
}
