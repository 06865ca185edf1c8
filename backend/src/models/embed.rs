//! Sentence embeddings, as sentence-transformers computes them: strip, (lower-case,) tokenize,
//! encode, pool the tokens' vectors into one, (normalise it).

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use gpu_bridge_encoder::{Threads, ops};

use super::batch::{self, inference};
use super::bertscore::larger;
use super::config::EncoderConfig;
use super::encoder::{self, Encode};
use super::error::LoadError;
use super::pipeline::{Pipeline, Pooling};
use super::tokenizer::{TextTokenizer, TokenizerConfig, Use};
use crate::engine::{Embeddings, EngineError, Progress};

/// Below this length a vector is left as it is, nearly; torch's `normalize` divides by it instead.
const SHORTEST: f32 = 1e-12;

/// A model that turns texts into vectors.
pub(crate) struct Embedder {
    encoder: Arc<dyn Encode>,
    tokenizer: TextTokenizer,
    lower_case: bool,
    pooling: Pooling,
    normalize: bool,
}

impl Embedder {
    /// Loads the model in `folder`.
    ///
    /// Longer texts are cut at the pipeline's own limit, else at the tokenizer's, and never after
    /// more tokens than the encoder has positions.
    pub(crate) fn load(folder: &Path, threads: &Threads) -> Result<Self, LoadError> {
        let pipeline = Pipeline::read(folder)?;
        let config = EncoderConfig::read(&pipeline.encoder)?;
        let tokens = TokenizerConfig::read(&pipeline.encoder)?;
        let limit = pipeline.max_length.or(tokens.max_length);
        let limit = limit
            .into_iter()
            .chain(config.longest)
            .min()
            .unwrap_or(usize::MAX);
        Ok(Self {
            tokenizer: TextTokenizer::load(&pipeline.encoder, &tokens, limit, Use::Embedding)?,
            encoder: Arc::new(encoder::load(
                &pipeline.encoder,
                &config,
                config.layers,
                threads,
            )?),
            lower_case: pipeline.lower_case,
            pooling: pipeline.pooling,
            normalize: pipeline.normalize,
        })
    }

    /// One row for each text. Progress is told after each `step` texts; the longest come first.
    pub(crate) fn embed(
        &self,
        texts: &[String],
        step: NonZeroUsize,
        progress: &dyn Progress,
    ) -> Result<Embeddings, EngineError> {
        let ids: Vec<Vec<u32>> = texts
            .iter()
            .map(|text| self.ids(text))
            .collect::<Result<_, _>>()?;
        let lengths: Vec<usize> = ids.iter().map(Vec::len).collect();
        let mut rows = vec![Vec::new(); texts.len()];
        let mut done = 0;
        for places in batch::longest_first(&lengths).chunks(step.get()) {
            let sequences: Vec<&[u32]> =
                places.iter().map(|place| ids[*place].as_slice()).collect();
            batch::run(&*self.encoder, &sequences, progress, |nth, hidden| {
                rows[places[nth]] = self.row(hidden, self.encoder.width());
            })?;
            done += places.len();
            progress.finished(done);
        }
        let dimensions = rows.first().map_or(0, Vec::len);
        Ok(Embeddings { rows, dimensions })
    }

    fn ids(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        let ids = if self.lower_case {
            self.tokenizer.ids(&text.to_lowercase())
        } else {
            self.tokenizer.ids(text)
        };
        ids.map_err(inference)
    }

    /// From the tokens' vectors, `[tokens, width]`, to the text's.
    fn row(&self, hidden: &[f32], width: usize) -> Vec<f32> {
        let mut row = pool(hidden, width, self.pooling);
        if self.normalize {
            normalize(&mut row);
        }
        row
    }
}

/// Of `[tokens, width]`, at least one token.
fn pool(hidden: &[f32], width: usize, pooling: Pooling) -> Vec<f32> {
    let (first, others) = hidden.split_at(width);
    let mut row = first.to_vec();
    match pooling {
        Pooling::Cls => {}
        Pooling::Mean => {
            ops::add_rows(others, &mut row);
            let tokens = (hidden.len() / width) as f32;
            row.iter_mut().for_each(|x| *x /= tokens);
        }
        Pooling::Max => {
            for other in others.chunks_exact(width) {
                let pairs = row.iter_mut().zip(other);
                pairs.for_each(|(x, y)| *x = larger(*x, *y));
            }
        }
    }
    row
}

/// Scales `row` to length 1.
fn normalize(row: &mut [f32]) {
    let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
    let divisor = if length < SHORTEST { SHORTEST } else { length };
    for x in row {
        *x /= divisor;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pooled(pooling: Pooling) -> Vec<f32> {
        pool(&[1.0, -8.0, 3.0, -2.0], 2, pooling)
    }

    #[test]
    fn pooling_is_what_it_says() {
        assert_eq!(pooled(Pooling::Mean), [2.0, -5.0]);
        assert_eq!(pooled(Pooling::Cls), [1.0, -8.0]);
        assert_eq!(pooled(Pooling::Max), [3.0, -2.0]);
    }

    #[test]
    fn normalising_leaves_no_holes() {
        let mut row = [3.0, 4.0];
        normalize(&mut row);
        assert!(
            (row[0] - 0.6).abs() < 1e-7 && (row[1] - 0.8).abs() < 1e-7,
            "{row:?}"
        );
        let mut zero = [0.0, 0.0];
        normalize(&mut zero);
        assert!(zero.iter().all(|x| x.abs() < f32::EPSILON), "{zero:?}");
        let mut odd = [f32::NAN, 1.0];
        normalize(&mut odd);
        assert!(odd.iter().all(|x| x.is_nan()));
    }
}
