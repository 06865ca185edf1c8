//! What a model takes: which ids, and how many of them.

use crate::encoder::ForwardError;

/// Ids and lengths that a model has vectors for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Ids are below this.
    pub vocabulary: usize,
    /// The most tokens of a sequence; `None`: no limit.
    pub longest: Option<usize>,
}

impl Limits {
    /// Looks whether the model takes every sequence of a batch.
    ///
    /// # Errors
    /// The first sequence that is too long or has an id that the model does not know.
    pub fn check(&self, batch: &[&[u32]]) -> Result<(), ForwardError> {
        let longest = self.longest.unwrap_or(usize::MAX);
        for (sequence, ids) in batch.iter().enumerate() {
            if ids.len() > longest {
                let tokens = ids.len();
                return Err(ForwardError::TooLong {
                    sequence,
                    tokens,
                    longest,
                });
            }
            let vocabulary = self.vocabulary;
            if let Some(id) = ids.iter().find(|id| to_index(**id) >= vocabulary) {
                let id = *id;
                return Err(ForwardError::UnknownToken {
                    sequence,
                    id,
                    vocabulary,
                });
            }
        }
        Ok(())
    }
}

pub(crate) fn to_index(id: u32) -> usize {
    usize::try_from(id).unwrap_or(usize::MAX)
}
