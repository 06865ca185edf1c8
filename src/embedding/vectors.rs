//! What a model makes of the fixed texts: one vector for each.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::TEXTS;

/// The largest models have 4,096 numbers; some twice as many.
const MOST_DIMENSIONS: usize = 16_384;

/// One for each of [`TEXTS`], all of the same length, of finite numbers that are not all 0. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(try_from = "Vec<Vec<Option<f32>>>", into = "Vec<Vec<f32>>")]
pub struct Vectors(Arc<[Vec<f32>]>);

/// Why there are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoVectors {
    /// Perhaps somebody can compute with it, but it is kept nowhere.
    #[error("it is longer than any model's")]
    TooLong,
    /// Nobody can compute with it.
    #[error("{0}")]
    Nonsense(&'static str),
}

/// How much two hosts agree.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Likeness {
    /// Of the angle between the vectors of that text in which they differ most.
    pub cosine: f64,
    /// How many times as long as the other the longer one is, at most: normalised or not is the same
    /// direction, but not the same space.
    pub stretch: f64,
}

/// Vectors as a host tells them, whatever they are worth: `None` is no number.
pub type Told = Vec<Vec<Option<f32>>>;

/// What an answer of `/embed` tells.
///
/// # Errors
/// [`NoVectors::Nonsense`]: clients could not read it either.
pub fn told(answer: &[u8]) -> Result<Told, NoVectors> {
    #[derive(Deserialize)]
    struct Answer {
        embeddings: Told,
    }
    let answer: Result<Answer, _> = serde_json::from_slice(answer);
    answer
        .map(|answer| answer.embeddings)
        .map_err(|_| NoVectors::Nonsense("no JSON with a list of numbers for each text"))
}

impl NoVectors {
    /// Of another number of vectors than were asked for.
    pub const COUNT: &str = "not one vector for each text";
}

impl Vectors {
    /// Numbers in each.
    pub fn dimensions(&self) -> usize {
        self.0.first().map_or(0, Vec::len)
    }

    /// In the order of the texts.
    pub fn each(&self) -> impl Iterator<Item = &[f32]> {
        self.0.iter().map(Vec::as_slice)
    }

    /// The same, kept once?
    pub fn is_shared_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// `None`: they have not as many dimensions.
    pub fn likeness(&self, other: &Self) -> Option<Likeness> {
        if self.dimensions() != other.dimensions() {
            return None;
        }
        let same = Likeness {
            cosine: 1.0,
            stretch: 1.0,
        };
        if self.is_shared_with(other) {
            return Some(same);
        }
        let pairs = std::iter::zip(self.each(), other.each());
        Some(pairs.fold(same, |so_far, (one, other)| {
            let (long, short) = (length(one), length(other));
            let stretch = (long / short).max(short / long);
            Likeness {
                cosine: so_far.cosine.min(product(one, other) / (long * short)),
                stretch: so_far.stretch.max(stretch),
            }
        }))
    }
}

impl TryFrom<Told> for Vectors {
    type Error = NoVectors;

    fn try_from(told: Told) -> Result<Self, NoVectors> {
        let dimensions = told.first().map_or(0, Vec::len);
        if told.len() != TEXTS.len() {
            return Err(NoVectors::Nonsense(NoVectors::COUNT));
        }
        if dimensions == 0 || told.iter().any(|vector| vector.len() != dimensions) {
            return Err(NoVectors::Nonsense(
                "vectors of different lengths, or empty ones",
            ));
        }
        if dimensions > MOST_DIMENSIONS {
            return Err(NoVectors::TooLong);
        }
        let finite = |number: Option<f32>| number.filter(|number| number.is_finite());
        let vector = |vector: Vec<Option<f32>>| {
            let numbers: Option<Vec<f32>> = vector.into_iter().map(finite).collect();
            let numbers = numbers.filter(|numbers| length(numbers) > 0.0);
            numbers.ok_or(NoVectors::Nonsense(
                "numbers that are none, or nothing but 0",
            ))
        };
        told.into_iter()
            .map(vector)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl From<Vectors> for Vec<Vec<f32>> {
    fn from(vectors: Vectors) -> Self {
        vectors.0.to_vec()
    }
}

fn product(one: &[f32], other: &[f32]) -> f64 {
    let pairs = std::iter::zip(one, other);
    pairs
        .map(|(one, other)| f64::from(*one) * f64::from(*other))
        .sum()
}

fn length(vector: &[f32]) -> f64 {
    product(vector, vector).sqrt()
}

#[cfg(test)]
pub(crate) mod testing {
    use rand::rngs::SmallRng;
    use rand::{Rng as _, SeedableRng as _};

    use super::*;

    /// What a model makes of the fixed texts.
    pub(crate) fn model(seed: u64, dimensions: usize) -> Vec<Vec<f32>> {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut number = || rng.random_range(-1.0..1.0);
        let mut vector = |()| (0..dimensions).map(|_| number()).collect();
        TEXTS.iter().map(|_| ()).map(&mut vector).collect()
    }

    /// The same with errors of up to this share of the largest number, of one sign or the other.
    pub(crate) fn noisy(exact: &[Vec<f32>], noise: f32, seed: u64) -> Vec<Vec<f32>> {
        let mut rng = SmallRng::seed_from_u64(seed);
        let vectors = exact.iter();
        let mut moved = |number: &f32| number + rng.random_range(-noise..noise);
        vectors
            .map(|vector| vector.iter().map(&mut moved).collect())
            .collect()
    }

    pub(crate) fn vectors(numbers: Vec<Vec<f32>>) -> Vectors {
        let told = numbers.into_iter();
        let told: Vec<Vec<_>> = told.map(|it| it.into_iter().map(Some).collect()).collect();
        told.try_into().unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{model, noisy, vectors};
    use super::*;

    #[test]
    fn likeness_tells_precision_from_another_model() {
        let exact = model(1, 384);
        let ours = vectors(exact.clone());
        let like = |other: Vec<Vec<f32>>| ours.likeness(&vectors(other)).unwrap();
        assert!((like(exact.clone()).cosine - 1.0).abs() < 1e-12);
        assert!(like(noisy(&exact, 0.001, 2)).cosine > 0.9999);
        assert!(like(model(2, 384)).cosine < 0.3);
        let longer = exact
            .iter()
            .map(|it| it.iter().map(|number| number * 3.0).collect());
        let longer = like(longer.collect());
        assert!(longer.cosine > 0.9999 && (longer.stretch - 3.0).abs() < 1e-5);
        let mut one_bit = exact.clone();
        one_bit[3][7] = f32::from_bits(one_bit[3][7].to_bits() ^ 1 << 28);
        assert!(like(one_bit).cosine < 0.999, "in one number of one text");
        assert_eq!(ours.likeness(&vectors(model(1, 383))), None);
    }

    #[test]
    fn what_nobody_can_compute_with_is_nonsense() {
        let read = |answer: &[u8]| told(answer).and_then(Vectors::try_from);
        let answer = |vector: &str, count: usize| {
            let all = vec![vector; count].join(",");
            read(format!(r#"{{"embeddings":[{all}],"model":"m"}}"#).as_bytes())
        };
        assert!(answer("[1,2.5,-3]", 8).is_ok());
        for (vector, count) in [
            ("[1,2]", 7),
            ("[1,2]", 0),
            ("[]", 8),
            ("[0,0]", 8),
            ("[1,null]", 8),
        ] {
            let found = answer(vector, count);
            assert!(
                matches!(found, Err(NoVectors::Nonsense(_))),
                "{vector} {found:?}"
            );
        }
        assert!(
            matches!(answer("[1e39,1]", 8), Err(NoVectors::Nonsense(_))),
            "beyond f32"
        );
        let ragged = br#"{"embeddings":[[1],[1],[1],[1],[1],[1],[1],[1,2]]}"#;
        assert!(matches!(read(ragged), Err(NoVectors::Nonsense(_))));
        for other in [
            "",
            "[]",
            "{}",
            r#"{"embeddings":"no"}"#,
            r#"{"embeddings":[["a"]]}"#,
            r#"{"embeddings":[[NaN]]}"#,
        ] {
            let found = told(other.as_bytes());
            assert!(matches!(found, Err(NoVectors::Nonsense(_))), "{other}");
        }
        let long = vec!["1"; MOST_DIMENSIONS + 1].join(",");
        assert_eq!(answer(&format!("[{long}]"), 8), Err(NoVectors::TooLong));
    }
}
