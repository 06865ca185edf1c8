//! `BERTScore` of a whole request: each different text is encoded once, wherever it occurs.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use super::bertscore::Side;
use super::config::EncoderConfig;
use super::encoder::{Encode, EncoderSource};
use super::error::{LoadError, inference};
use super::pairs::Pairs;
use super::registry::Memory;
use super::scheduler::Scheduler;
use super::size;
use super::steps::Steps;
use super::token_weights::TokenWeights;
use super::tokenizer::{TextTokenizer, TokenizerConfig, Use, strip};
use crate::engine::{EngineError, Progress, Scores};

/// A model that compares texts.
pub(crate) struct Scorer {
    encoder: Arc<dyn Encode>,
    tokenizer: TextTokenizer,
    /// Ids that mark a text's start and end.
    special: [u32; 2],
    layer: usize,
    memory: Memory,
}

impl Scorer {
    /// Whether the settings in `folder` are those of a model that can be loaded.
    pub(crate) fn check(folder: &Path) -> Result<(), LoadError> {
        EncoderConfig::read(folder)?;
        TextTokenizer::check(folder, &TokenizerConfig::read(folder)?)
    }

    /// Loads the model in `folder` up to `layer`, the one that is compared.
    ///
    /// Longer texts are cut at the tokenizer's `model_max_length`. Where it has none, the reference
    /// cuts nothing and then fails on a text with more tokens than the encoder has positions; here
    /// such a text is cut at the positions, and any text after `max_tokens`.
    pub(crate) fn load(
        folder: &Path,
        layer: usize,
        from: &EncoderSource<'_>,
        max_tokens: usize,
    ) -> Result<Self, LoadError> {
        let config = EncoderConfig::read(folder)?;
        let tokens = TokenizerConfig::read(folder)?;
        let limits = tokens.max_length.into_iter().chain(config.longest);
        let limit = limits.fold(max_tokens, usize::min);
        let tokenizer = TextTokenizer::load(folder, &tokens, limit, Use::BertScore)?;
        let missing = || LoadError::Tokenizer {
            path: folder.to_owned(),
            problem: "the vocabulary lacks the tokens around a text".to_owned(),
        };
        let special = [
            tokenizer.cls_id().ok_or_else(missing)?,
            tokenizer.sep_id().ok_or_else(missing)?,
        ];
        tokenizer.check_ids(folder, config.vocabulary, "")?;
        let expected = size::tokenizer(folder);
        let (encoder, common) = from.load(folder, &config, layer)?;
        let memory = Memory {
            own: expected.saturating_add(tokenizer.bytes_beyond(expected)),
            common: Some(common),
        };
        Ok(Self {
            encoder,
            tokenizer,
            special,
            layer,
            memory,
        })
    }

    /// What the model takes.
    pub(crate) fn memory(&self) -> Memory {
        self.memory
    }

    /// The layer that is compared.
    pub(crate) fn layer(&self) -> usize {
        self.layer
    }

    /// The score of each pair of candidate and reference; with `idf`, rare tokens weigh more.
    /// Progress is told after each `step` pairs.
    pub(crate) fn score(
        &self,
        scheduler: &Scheduler,
        (candidates, references): (&[String], &[String]),
        idf: bool,
        step: NonZeroUsize,
        progress: &dyn Progress,
    ) -> Result<Scores, EngineError> {
        let Texts { texts, pairs } = Texts::of(candidates, references);
        let weights = self.weights(idf, pairs.iter().map(|(_, reference)| texts[*reference]))?;
        let mut pairs = Pairs::new(&pairs, texts.len());
        let mut steps = Steps::new(candidates.len(), step, progress);
        let (width, frame) = (self.encoder.width(), self.tokenizer.frame());
        let ids = texts.iter().map(|text| self.ids(text));
        scheduler.encode(&self.encoder, progress, ids, |text, ids, hidden| {
            let side = Side::new(hidden, width, weights.of(ids), ids.len() <= frame);
            (0..pairs.put(text, side)).for_each(|_| steps.finished_one());
        })?;
        pairs
            .scores()
            .ok_or_else(|| inference("a text of a pair was not encoded"))
    }

    fn ids(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        self.tokenizer.ids(text)
    }

    /// Frequencies are counted before anything is computed: this reads the references once more.
    fn weights<'a>(
        &self,
        idf: bool,
        references: impl Iterator<Item = &'a str>,
    ) -> Result<TokenWeights, EngineError> {
        if !idf {
            let special = self.special;
            return Ok(TokenWeights::Even { special });
        }
        let documents: Vec<Vec<u32>> = references
            .map(|text| self.ids(text))
            .collect::<Result<_, _>>()?;
        Ok(TokenWeights::idf(documents.iter().map(Vec::as_slice)))
    }
}

/// The different texts of a request, numbered in order of appearance. White space around a text
/// makes no difference.
#[derive(Default)]
struct Texts<'a> {
    texts: Vec<&'a str>,
    /// Candidate and reference of each pair.
    pairs: Vec<(usize, usize)>,
}

impl<'a> Texts<'a> {
    fn of(candidates: &'a [String], references: &'a [String]) -> Self {
        let mut all = Self::default();
        let mut numbers = HashMap::new();
        for (candidate, reference) in candidates.iter().zip(references) {
            let mut number = |text: &'a str| {
                let text = strip(text);
                *numbers.entry(text).or_insert_with(|| {
                    all.texts.push(text);
                    all.texts.len() - 1
                })
            };
            let both = (number(candidate), number(reference));
            all.pairs.push(both);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use gpu_bridge_encoder::{Hidden, Stop};

    use super::*;
    use crate::engine::Cancellation;
    use crate::metrics::EngineMetrics;
    use crate::models::encoder::EncodeError;
    use crate::models::test_support::golden;

    /// Gives each token a direction of its own and counts the sequences that it was given.
    struct CountingEncoder(&'static AtomicUsize);

    impl Encode for CountingEncoder {
        fn forward_until(&self, batch: &[&[u32]], _: &Stop<'_>) -> Result<Hidden, EncodeError> {
            self.0.fetch_add(batch.len(), Ordering::SeqCst);
            let vector = |id: &u32| [(*id as f32).cos(), (*id as f32).sin()];
            let rows = batch.concat().iter().flat_map(vector).collect();
            let ends = (1..=batch.len()).map(|n| batch[..n].concat().len());
            Ok(Hidden::new(rows, 2, ends.collect()))
        }

        fn width(&self) -> usize {
            2
        }

        fn bytes(&self) -> u64 {
            0
        }
    }

    #[derive(Default)]
    struct Told(Mutex<Vec<usize>>);

    impl Progress for Told {
        fn finished(&self, done: usize) {
            self.0.lock().expect("lock").push(done);
        }

        fn cancellation(&self) -> Cancellation {
            Cancellation::default()
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
            layer: 0,
            memory: Memory::default(),
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
        let steps = Told::default();
        let scheduler = Scheduler::start(100, EngineMetrics::default()).expect("starts");
        let two = NonZeroUsize::new(2).expect("two");
        let scores = scorer(&ENCODED)
            .score(&scheduler, (&candidates, &references), false, two, &steps)
            .expect("scores");
        assert_eq!(ENCODED.load(Ordering::SeqCst), 5, "a, b, c, e and r");
        assert_eq!(*steps.0.lock().expect("lock"), [2, 4, 5]);
        assert_eq!(scores.f1.len(), 5);
        assert!((scores.f1[0] - scores.f1[3]).abs() < f32::EPSILON);
    }
}
