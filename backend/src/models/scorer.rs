//! `BERTScore` of a whole request: each different text is encoded once, pairs are scored as soon as
//! both sides are there, and a text's vectors are dropped after the last pair that needs them.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use gpu_bridge_encoder::Threads;

use super::batch::{self, inference};
use super::bertscore::{self, Score, Side};
use super::config::EncoderConfig;
use super::encoder::{self, Encode};
use super::error::LoadError;
use super::layers::layer_for;
use super::tokenizer::{TextTokenizer, TokenizerConfig, Use};
use crate::engine::{EngineError, Progress, Scores};

/// A model that compares texts.
pub(crate) struct Scorer {
    encoder: Arc<dyn Encode>,
    tokenizer: TextTokenizer,
    /// Ids that weigh nothing: those that mark a text's start and end.
    special: [u32; 2],
}

impl Scorer {
    /// Loads the model in `folder`, which goes by `name`, up to the layer that is compared.
    ///
    /// Longer texts are cut at the tokenizer's `model_max_length`. Where it has none, the reference
    /// cuts nothing and then fails on a text with more tokens than the encoder has positions; here
    /// such a text is cut at the positions.
    pub(crate) fn load(
        name: &str,
        folder: &Path,
        layers: &BTreeMap<String, usize>,
        threads: &Threads,
    ) -> Result<Self, LoadError> {
        let config = EncoderConfig::read(folder)?;
        let tokens = TokenizerConfig::read(folder)?;
        let layer = layer_for(name, layers, config.layers)?;
        let limit = tokens
            .max_length
            .into_iter()
            .chain(config.longest)
            .min()
            .unwrap_or(usize::MAX);
        let tokenizer = TextTokenizer::load(folder, &tokens, limit, Use::BertScore)?;
        let missing = || LoadError::Tokenizer {
            path: folder.to_owned(),
            problem: "the vocabulary lacks the tokens around a text".to_owned(),
        };
        let special = [
            tokenizer.cls_id().ok_or_else(missing)?,
            tokenizer.sep_id().ok_or_else(missing)?,
        ];
        let encoder = Arc::new(encoder::load(folder, &config, layer, threads)?);
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
        let (width, frame) = (self.encoder.width(), self.tokenizer.frame());
        batch::run(&*self.encoder, &sequences, progress, |nth, hidden| {
            let side = Side::new(hidden, width, sequences[nth], &self.special, frame);
            sides[missing[nth]] = Some(side);
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
        (Some(candidate), Some(reference)) => Ok(bertscore::score(candidate, reference)),
        _ => Err(inference("a text of the pair was not encoded")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use gpu_bridge_encoder::{ForwardError, Hidden};

    use super::*;
    use crate::models::test_support::golden;

    /// Gives each token a direction of its own and counts the sequences that it was given.
    struct CountingEncoder(&'static AtomicUsize);

    impl Encode for CountingEncoder {
        fn forward(&self, batch: &[&[u32]]) -> Result<Hidden, ForwardError> {
            self.0.fetch_add(batch.len(), Ordering::SeqCst);
            let vector = |id: &u32| [(*id as f32).cos(), (*id as f32).sin()];
            let rows = batch.concat().iter().flat_map(vector).collect();
            let ends = (1..=batch.len()).map(|n| batch[..n].concat().len());
            Ok(Hidden::new(rows, 2, ends.collect()))
        }

        fn width(&self) -> usize {
            2
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
        let tokenizer =
            TextTokenizer::load(&golden("tiny/bert"), &tokens, 128, Use::BertScore).expect("loads");
        Scorer {
            encoder: Arc::new(CountingEncoder(encoded)),
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
