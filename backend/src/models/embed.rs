//! Sentence embeddings, as sentence-transformers computes them: (lower-case,) tokenize,
//! encode, pool the tokens' vectors into one, (pass it through a layer, normalise it).

use std::borrow::Cow;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::config::EncoderConfig;
use super::encoder::{Encode, EncoderSource};
use super::error::{LoadError, check_finite};
use super::pipeline::{Pipeline, Pooling, Step, pool};
use super::registry::Memory;
use super::scheduler::Scheduler;
use super::size;
use super::steps::Steps;
use super::tokenizer::{TextTokenizer, TokenizerConfig, Use};
use crate::engine::{Embeddings, EngineError, Progress, Shortening};

/// A model that turns texts into vectors.
pub(crate) struct Embedder {
    encoder: Arc<dyn Encode>,
    tokenizer: TextTokenizer,
    prompt: String,
    pooling: Vec<Pooling>,
    steps: Vec<Step>,
    memory: Memory,
    shortening: Shortening,
}

impl Embedder {
    /// The folder of the encoder, if the settings in `folder` are those of a model that can be
    /// loaded.
    pub(crate) fn check(folder: &Path) -> Result<PathBuf, LoadError> {
        let pipeline = Pipeline::read(folder)?;
        let config = EncoderConfig::read(&pipeline.encoder)?;
        TextTokenizer::check(
            &pipeline.encoder,
            &TokenizerConfig::read(&pipeline.encoder)?,
        )?;
        pipeline.dimensions(config.hidden)?;
        pipeline.check_weights()?;
        Ok(pipeline.encoder)
    }

    /// Loads the model in `folder`.
    ///
    /// Longer texts are cut at the pipeline's own limit, else at the smaller one of the tokenizer's
    /// and the encoder's, and never after more tokens than the encoder has positions or than
    /// `max_tokens`.
    pub(crate) fn load(
        folder: &Path,
        from: &EncoderSource<'_>,
        max_tokens: usize,
    ) -> Result<Self, LoadError> {
        let pipeline = Pipeline::read(folder)?;
        let config = EncoderConfig::read(&pipeline.encoder)?;
        let tokens = TokenizerConfig::read(&pipeline.encoder)?;
        let published = tokens.max_length.into_iter().chain([config.most_positions]);
        let limit = pipeline.max_length.or(published.min());
        let limits = limit.into_iter().chain(config.longest);
        let limit = limits.fold(max_tokens, usize::min);
        let purpose = Use::Embedding {
            lower_case: pipeline.lower_case,
        };
        let tokenizer = TextTokenizer::load(&pipeline.encoder, &tokens, limit, purpose)?;
        tokenizer.check_ids(&pipeline.encoder, config.vocabulary, &pipeline.prompt)?;
        let (encoder, common) = from.load(&pipeline.encoder, &config, config.layers)?;
        pipeline.dimensions(encoder.width())?;
        let steps = pipeline.load_steps()?;
        let beyond = tokenizer.bytes_beyond(size::tokenizer(&pipeline.encoder));
        let memory = Memory {
            own: size::beside(&pipeline).saturating_add(beyond),
            common: Some(common),
        };
        Ok(Self {
            memory,
            tokenizer,
            encoder,
            prompt: pipeline.prompt,
            steps,
            pooling: pipeline.pooling,
            shortening: config.shortening,
        })
    }

    /// What the model takes.
    pub(crate) fn memory(&self) -> Memory {
        self.memory
    }

    /// One row for each text. Progress is told after each `step` texts.
    pub(crate) fn embed(
        &self,
        scheduler: &Scheduler,
        texts: &[String],
        step: NonZeroUsize,
        progress: &dyn Progress,
    ) -> Result<Embeddings, EngineError> {
        let mut rows = vec![Vec::new(); texts.len()];
        let mut steps = Steps::new(texts.len(), step, progress);
        let mut tokens = Vec::with_capacity(texts.len());
        let ids = texts.iter().map(|text| {
            let ids = self.ids(text)?;
            tokens.push(ids.len());
            Ok(ids)
        });
        scheduler.encode(&self.encoder, progress, ids, |place, _, hidden| {
            rows[place] = self.row(hidden, self.encoder.width());
            steps.finished_one();
        })?;
        rows.iter().try_for_each(|row| check_finite(row))?;
        let dimensions = rows.first().map_or(0, Vec::len);
        Ok(Embeddings {
            rows,
            dimensions,
            tokens,
            shortening: self.shortening.clone(),
        })
    }

    fn ids(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        let mut text = Cow::Borrowed(text);
        if !self.prompt.is_empty() {
            text = Cow::Owned(format!("{}{text}", self.prompt));
        }
        self.tokenizer.ids(&text)
    }

    /// From the tokens' vectors, `[tokens, width]`, to the text's.
    fn row(&self, hidden: &[f32], width: usize) -> Vec<f32> {
        let pooled = pool(hidden, width, &self.pooling);
        self.steps.iter().fold(pooled, |row, step| step.apply(row))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use gpu_bridge_encoder::Threads;

    use super::*;
    use crate::device::Precision;
    use crate::engine::Cancellation;
    use crate::metrics::EngineMetrics;
    use crate::models::encoder::{Encoders, Place};
    use crate::models::registry::Version;
    use crate::models::test_support::{folder_with, golden, golden_json};

    struct Patient;

    impl Progress for Patient {
        fn finished(&self, _: usize) {}

        fn cancellation(&self) -> Cancellation {
            Cancellation::default()
        }
    }

    /// A folder with every kind of step: prompt, all pooling modes, Dense, Normalize, and a limit
    /// of 20 tokens (`scripts/pipeline_reference.py`).
    #[test]
    fn a_whole_pipeline_agrees_with_the_reference() {
        let folder = folder_with(&[]);
        let (pipeline, encoder) = (golden("pipeline"), golden("tiny/bert"));
        for name in ["1_Pooling", "2_Dense"] {
            std::fs::create_dir(folder.path().join(name)).expect(name);
        }
        for (from, name) in [
            (&pipeline, "modules.json"),
            (&pipeline, "config_sentence_transformers.json"),
            (&pipeline, "sentence_bert_config.json"),
            (&pipeline, "1_Pooling/config.json"),
            (&pipeline, "2_Dense/config.json"),
            (&pipeline, "2_Dense/model.safetensors"),
            (&encoder, "config.json"),
            (&encoder, "model.safetensors"),
            (&encoder, "tokenizer.json"),
            (&encoder, "tokenizer_config.json"),
        ] {
            std::fs::copy(from.join(name), folder.path().join(name)).expect(name);
        }
        let threads = Threads::new(NonZeroUsize::MIN).expect("threads");
        let place = Place::new(Device::Cpu, Precision::F32, threads);
        let from = EncoderSource {
            encoders: &Encoders::default(),
            version: Version(0),
            place: &place,
        };
        let embedder = Embedder::load(folder.path(), &from, usize::MAX).expect("loads");
        let file = golden_json("pipeline/embeddings.json");
        let texts: Vec<String> = serde_json::from_value(file["texts"].clone()).expect("texts");
        let expected: Vec<Vec<f32>> =
            serde_json::from_value(file["embeddings"].clone()).expect("embeddings");
        let scheduler = Scheduler::start(512, EngineMetrics::default()).expect("thread");
        let embeddings = embedder.embed(&scheduler, &texts, NonZeroUsize::MIN, &Patient);
        let rows = embeddings.expect("embeds").rows;
        assert_eq!(rows.len(), expected.len());
        for (text, (row, expected)) in texts.iter().zip(rows.iter().zip(&expected)) {
            assert_eq!(row.len(), expected.len());
            let differences = row.iter().zip(expected).map(|(x, y)| (x - y).abs());
            let largest = differences.fold(0.0, f32::max);
            assert!(largest < 1e-5, "{text:?}: {largest:e}");
        }
    }
}
