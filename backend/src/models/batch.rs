//! Running many sequences through an encoder, in batches whose memory is bounded.
//!
//! A batch holds at most [`MAX_TOKENS`] tokens. Whether anybody still waits is asked before each
//! batch.

use super::encoder::Encode;
use crate::engine::{EngineError, Progress};

/// The most tokens in a batch; a longer sequence is a batch of its own. It bounds memory, and how
/// long a request that is not wanted any more still computes.
const MAX_TOKENS: usize = 4096;

/// Encodes `sequences` and hands each one's place and hidden states (`[tokens, hidden]`, flat) to
/// `keep`, in any order.
///
/// # Errors
/// [`EngineError::Cancelled`] before the next batch; [`EngineError::Inference`] of the encoder.
pub(crate) fn run(
    encoder: &dyn Encode,
    sequences: &[&[u32]],
    progress: &dyn Progress,
    mut keep: impl FnMut(usize, &[f32]),
) -> Result<(), EngineError> {
    let lengths: Vec<usize> = sequences.iter().map(|sequence| sequence.len()).collect();
    for places in batches(&lengths) {
        if progress.is_cancelled() {
            return Err(EngineError::Cancelled);
        }
        let batch: Vec<&[u32]> = places.iter().map(|place| sequences[*place]).collect();
        let hidden = encoder.forward(&batch).map_err(inference)?;
        for (place, rows) in places.iter().zip(hidden.sequences()) {
            keep(*place, rows);
        }
    }
    Ok(())
}

/// What the client must not see, for the log.
pub(crate) fn inference(error: impl std::fmt::Display) -> EngineError {
    EngineError::Inference(error.to_string())
}

/// The places of `lengths`, the longest first, equals in order.
pub(crate) fn longest_first(lengths: &[usize]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|place| std::cmp::Reverse(lengths[*place]));
    order
}

/// The places of `lengths`, in batches.
fn batches(lengths: &[usize]) -> Vec<Vec<usize>> {
    let order = longest_first(lengths);
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut tokens = usize::MAX;
    for place in order {
        tokens = tokens.saturating_add(lengths[place]);
        match batches.last_mut() {
            Some(batch) if tokens <= MAX_TOKENS => batch.push(place),
            _ => {
                tokens = lengths[place];
                batches.push(vec![place]);
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_longest_come_first() {
        assert_eq!(batches(&[3, 100, 4, 4000, 3]), [vec![3], vec![1, 2, 0, 4]]);
    }

    #[test]
    fn a_batch_is_bounded() {
        assert_eq!(batches(&[512; 9]), [(0..8).collect::<Vec<_>>(), vec![8]]);
        assert_eq!(batches(&[MAX_TOKENS + 1, MAX_TOKENS + 1]), [[0], [1]]);
    }

    #[test]
    fn nothing_gives_no_batches() {
        assert!(batches(&[]).is_empty());
    }

    proptest! {
        #[test]
        fn every_sequence_is_in_one_batch_within_the_bounds(
            lengths in prop::collection::vec(0..2000_usize, 0..80),
        ) {
            let batches = batches(&lengths);
            for batch in &batches {
                let tokens: usize = batch.iter().map(|place| lengths[*place]).sum();
                prop_assert!(batch.len() == 1 || tokens <= MAX_TOKENS);
            }
            let mut places: Vec<usize> = batches.concat();
            places.sort_unstable();
            prop_assert_eq!(places, (0..lengths.len()).collect::<Vec<_>>());
        }
    }
}
