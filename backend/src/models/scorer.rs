//! `BERTScore` of a whole request: each different text is encoded once, pairs are scored as soon as
//! both sides are there, and a text's vectors are dropped after the last pair that needs them.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::Path;

use candle_core::Device;

use super::batch::{self, inference};
use super::bertscore::{self, Score, Side};
use super::config::{EncoderConfig, TokenizerConfig};
use super::encoder::{self, Encoder};
use super::error::LoadError;
use super::tokenizer::TextTokenizer;
use crate::engine::{EngineError, Progress, Scores};

/// A model that compares texts.
pub(crate) struct Scorer {
    encoder: Box<dyn Encoder>,
    tokenizer: TextTokenizer,
    /// Ids that weigh nothing: those that mark a text's start and end.
    special: [u32; 2],
}

impl Scorer {
    /// Loads the model in `folder` up to `layer`, the one that is compared.
    ///
    /// Longer texts are cut at the tokenizer's `model_max_length`. Where it has none, the reference
    /// cuts nothing and then fails on a text with more tokens than the encoder has positions; here
    /// such a text is cut at the positions.
    pub(crate) fn load(folder: &Path, layer: usize, device: &Device) -> Result<Self, LoadError> {
        let config = EncoderConfig::read(folder)?;
        let tokens = TokenizerConfig::read(folder)?;
        let limit = tokens
            .max_length
            .unwrap_or(config.positions)
            .min(config.positions);
        let tokenizer = TextTokenizer::load(folder, &tokens, limit)?;
        let id = |token: &str| {
            tokenizer.id_of(token).ok_or_else(|| LoadError::Tokenizer {
                path: folder.to_owned(),
                problem: format!("the vocabulary lacks '{token}'"),
            })
        };
        let special = [id(&tokens.start)?, id(&tokens.end)?];
        let encoder = encoder::load(folder, &config, layer, device)?;
        Ok(Self {
            encoder,
            tokenizer,
            special,
        })
    }

    /// The score of each pair. Progress is told after each `step` pairs.
    pub(crate) fn score(
        &self,
        candidates: &[String],
        references: &[String],
        step: NonZeroUsize,
        progress: &dyn Progress,
    ) -> Result<Scores, EngineError> {
        let Texts {
            ids,
            pairs,
            last_pair,
        } = self.texts(candidates, references)?;
        let mut sides: Vec<Option<Side>> = ids.iter().map(|_| None).collect();
        let mut scores = Vec::with_capacity(pairs.len());
        for pairs in pairs.chunks(step.get()) {
            self.encode_missing(pairs, &ids, &mut sides, progress)?;
            for pair in pairs {
                scores.push(score(*pair, &sides)?);
            }
            for (side, last) in sides.iter_mut().zip(&last_pair) {
                side.take_if(|_| *last < scores.len());
            }
            progress.finished(scores.len());
        }
        Ok(Scores {
            precision: scores.iter().map(|score| score.precision).collect(),
            recall: scores.iter().map(|score| score.recall).collect(),
            f1: scores.iter().map(|score| score.f1).collect(),
        })
    }

    fn encode_missing(
        &self,
        pairs: &[(usize, usize)],
        ids: &[Vec<u32>],
        sides: &mut [Option<Side>],
        progress: &dyn Progress,
    ) -> Result<(), EngineError> {
        let mut missing: Vec<usize> = pairs.iter().flat_map(|(c, r)| [*c, *r]).collect();
        missing.retain(|text| sides[*text].is_none());
        missing.sort_unstable();
        missing.dedup();
        let sequences: Vec<&[u32]> = missing.iter().map(|text| ids[*text].as_slice()).collect();
        batch::run(&*self.encoder, &sequences, progress, |nth, hidden| {
            let side = Side::new(
                hidden,
                sequences[nth],
                &self.special,
                self.tokenizer.frame(),
            )?;
            sides[missing[nth]] = Some(side);
            Ok(())
        })
    }

    fn texts(&self, candidates: &[String], references: &[String]) -> Result<Texts, EngineError> {
        let mut texts = Texts::default();
        let mut places = HashMap::new();
        for (pair, (candidate, reference)) in candidates.iter().zip(references).enumerate() {
            let mut place = |text: &str| -> Result<usize, EngineError> {
                let ids = self.tokenizer.ids(text).map_err(inference)?;
                let place = *places.entry(ids.clone()).or_insert(texts.ids.len());
                if place == texts.ids.len() {
                    texts.ids.push(ids);
                    texts.last_pair.push(pair);
                }
                texts.last_pair[place] = pair;
                Ok(place)
            };
            let both = (place(candidate)?, place(reference)?);
            texts.pairs.push(both);
        }
        Ok(texts)
    }
}

/// The different texts of a request, numbered in order of appearance.
#[derive(Default)]
struct Texts {
    /// Token ids of each text.
    ids: Vec<Vec<u32>>,
    /// Candidate and reference of each pair.
    pairs: Vec<(usize, usize)>,
    /// The last pair that each text is in.
    last_pair: Vec<usize>,
}

fn score(
    (candidate, reference): (usize, usize),
    sides: &[Option<Side>],
) -> Result<Score, EngineError> {
    match (&sides[candidate], &sides[reference]) {
        (Some(candidate), Some(reference)) => {
            bertscore::score(candidate, reference).map_err(inference)
        }
        _ => Err(inference("a text of the pair was not encoded")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use candle_core::Tensor;

    use super::*;
    use crate::models::test_support::golden;

    /// Gives each token a direction of its own and counts the sequences that it was given.
    struct CountingEncoder(&'static AtomicUsize);

    impl Encoder for CountingEncoder {
        fn forward(&self, batch: &[&[u32]]) -> candle_core::Result<Vec<Tensor>> {
            self.0.fetch_add(batch.len(), Ordering::SeqCst);
            let vector = |id: &u32| [(*id as f32).cos(), (*id as f32).sin()];
            let encode = |ids: &&[u32]| {
                let numbers: Vec<f32> = ids.iter().flat_map(vector).collect();
                Tensor::from_vec(numbers, (ids.len(), 2), &Device::Cpu)
            };
            batch.iter().map(encode).collect()
        }
    }

    #[derive(Default)]
    struct Steps(Mutex<Vec<usize>>);

    impl Progress for Steps {
        fn finished(&self, done: usize) {
            self.0.lock().expect("lock").push(done);
        }

        fn is_cancelled(&self) -> bool {
            false
        }
    }

    fn scorer(encoded: &'static AtomicUsize) -> Scorer {
        let tokens = TokenizerConfig::read(&golden("tiny/bert")).expect("config");
        let tokenizer = TextTokenizer::load(&golden("tiny/bert"), &tokens, 128).expect("tokenizer");
        Scorer {
            encoder: Box::new(CountingEncoder(encoded)),
            tokenizer,
            special: [2, 3],
        }
    }

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn a_text_is_encoded_once_wherever_it_occurs() {
        static ENCODED: AtomicUsize = AtomicUsize::new(0);
        let candidates = strings(&["a", "b", "c", "a", "e"]);
        let references = strings(&["r", " r ", "r", "r", "a"]);
        let steps = Steps::default();
        let two = NonZeroUsize::new(2).expect("two");
        let scores = scorer(&ENCODED)
            .score(&candidates, &references, two, &steps)
            .expect("scores");
        assert_eq!(ENCODED.load(Ordering::SeqCst), 5, "a, b, c, e and r");
        assert_eq!(*steps.0.lock().expect("lock"), [2, 4, 5]);
        assert_eq!(scores.f1.len(), 5);
        assert!((scores.f1[0] - scores.f1[3]).abs() < f32::EPSILON);
    }
}
