//! Running many sequences through an encoder: in batches of similar length, so that little is
//! computed for padding and a batch's memory stays bounded.
//!
//! A batch holds at most [`MAX_TOKENS`] tokens, padding included, and no sequence less than half as
//! long as its longest. Whether anybody still waits is asked before each batch.

use candle_core::Tensor;

use super::encoder::Encoder;
use crate::engine::{EngineError, Progress};

/// The most tokens in a batch, padding included; a longer sequence is a batch of its own. It bounds
/// memory: attention holds a few matrices of tokens × longest × heads numbers, each of them 100 MB
/// for 12 heads and sequences of 512.
const MAX_TOKENS: usize = 4096;

/// Encodes `sequences` and hands each one's place and result to `keep`, in any order.
///
/// # Errors
/// [`EngineError::Cancelled`] before the next batch; [`EngineError::Inference`] of the encoder or
/// of `keep`.
pub(crate) fn run(
    encoder: &dyn Encoder,
    sequences: &[&[u32]],
    progress: &dyn Progress,
    mut keep: impl FnMut(usize, &Tensor) -> candle_core::Result<()>,
) -> Result<(), EngineError> {
    let lengths: Vec<usize> = sequences.iter().map(|sequence| sequence.len()).collect();
    for places in batches(&lengths) {
        if progress.is_cancelled() {
            return Err(EngineError::Cancelled);
        }
        let batch: Vec<&[u32]> = places.iter().map(|place| sequences[*place]).collect();
        let outputs = encoder.forward(&batch).map_err(inference)?;
        for (place, output) in places.iter().zip(&outputs) {
            keep(*place, output).map_err(inference)?;
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
    let mut rest = order.as_slice();
    let mut batches = Vec::new();
    while let Some(first) = rest.first() {
        let longest = lengths[*first];
        let room = (MAX_TOKENS / longest.max(1)).max(1);
        let similar = rest
            .iter()
            .take(room)
            .take_while(|place| 2 * lengths[**place] >= longest);
        let (batch, after) = rest.split_at(similar.count());
        batches.push(batch.to_vec());
        rest = after;
    }
    batches
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn similar_lengths_go_together() {
        assert_eq!(batches(&[3, 100, 4, 90, 3]), [vec![1, 3], vec![2, 0, 4]]);
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
                let longest = batch.iter().map(|place| lengths[*place]).max().expect("not empty");
                prop_assert!(batch.len() == 1 || batch.len() * longest <= MAX_TOKENS);
                prop_assert!(batch.iter().all(|place| 2 * lengths[*place] >= longest));
            }
            let mut places: Vec<usize> = batches.concat();
            places.sort_unstable();
            prop_assert_eq!(places, (0..lengths.len()).collect::<Vec<_>>());
        }
    }
}
