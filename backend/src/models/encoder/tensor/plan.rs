//! How the sequences of a batch lie in memory, decided before anything is computed.
//!
//! Sequences are packed by length, longest first, as rows of one matrix. Those whose lengths are
//! near each other are neighbours then, and form the groups in which attention is computed: a group
//! is padded to its longest sequence, everything else knows no padding.

/// Scores of one head that a group may have however few of them are of use: they are computed before
/// the device could be told of another group.
const FREE_SCORES: usize = 1 << 16;
/// In larger groups the longest sequence is at most this many times as long as the shortest.
const MOST_STRETCHED: usize = 2;
/// Scores of all heads that a group of several sequences may have: 1 GiB in 32-bit floats.
const MOST_SCORES: usize = 1 << 28;

/// How many times the scores of a sequence are in memory at the peak: themselves, what is added to
/// them or their exponentials, the result, and a bias by distance.
const COPIES: u64 = 4;
/// Bytes that they may take on a device of unknown size.
const ROOM: u64 = 4 << 30;

/// Bytes that the scores of one sequence may take on a device with so much memory: half. More would
/// not leave enough for the weights and everything else that is computed.
pub(super) fn room(memory: Option<u64>) -> u64 {
    memory.map_or(ROOM, |bytes| bytes / 2)
}

/// Whether the scores of a sequence of so many tokens fit into `room`.
pub(super) fn fits(tokens: usize, heads: usize, room: u64) -> bool {
    let scores = (tokens as u64)
        .saturating_pow(2)
        .saturating_mul(heads as u64);
    scores.saturating_mul(COPIES * size_of::<f32>() as u64) <= room
}

/// The order of a batch's rows, and the groups that attend together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// Places of the sequences in the batch, in the order in which they are packed. Empty sequences
    /// have no rows and are left out.
    pub(super) order: Vec<usize>,
    /// Consecutive parts of that order.
    pub(super) groups: Vec<Group>,
}

/// Sequences that attend together; longest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    /// The row of the first sequence's first token.
    pub(super) start: usize,
    /// Tokens of each sequence.
    pub(super) lengths: Vec<usize>,
}

impl Plan {
    /// Plans for sequences of these lengths, given in the order of the batch.
    pub(super) fn new(lengths: &[usize], heads: usize) -> Self {
        let mut order: Vec<usize> = (0..lengths.len()).filter(|nth| lengths[*nth] > 0).collect();
        order.sort_by_key(|nth| std::cmp::Reverse(lengths[*nth]));
        let mut groups: Vec<Group> = Vec::new();
        let mut start = 0;
        for length in order.iter().map(|nth| lengths[*nth]) {
            match groups.last_mut().filter(|group| group.takes(length, heads)) {
                Some(group) => group.lengths.push(length),
                None => groups.push(Group {
                    start,
                    lengths: vec![length],
                }),
            }
            start += length;
        }
        Self { order, groups }
    }

    /// For each row in the order of the batch: where it lies. `None` if the two orders are one.
    pub(super) fn unsorted(&self, lengths: &[usize]) -> Option<Vec<u32>> {
        if self.order.is_sorted() {
            return None;
        }
        let mut starts = vec![0; lengths.len()];
        let mut start = 0;
        for nth in &self.order {
            starts[*nth] = start;
            start += lengths[*nth];
        }
        let rows = starts.iter().zip(lengths);
        Some(
            rows.flat_map(|(start, length)| numbers(*start..start + length))
                .collect(),
        )
    }
}

impl Group {
    /// The length of its longest sequence.
    pub(super) fn longest(&self) -> usize {
        self.lengths.first().copied().unwrap_or(0)
    }

    /// Its rows.
    pub(super) fn rows(&self) -> usize {
        self.lengths.iter().sum()
    }

    /// Whether some of its sequences are padded.
    pub(super) fn is_padded(&self) -> bool {
        self.lengths.last() != self.lengths.first()
    }

    /// For each place of the padded group, `[sequences, longest]`: the row of the batch that goes
    /// there. Padding repeats the sequence's last row; masks see to it that it counts nothing.
    pub(super) fn padded_rows(&self) -> Vec<u32> {
        let longest = self.longest();
        let starts = self.lengths.iter().scan(self.start, |start, length| {
            *start += length;
            Some(*start - length)
        });
        let places = starts.zip(&self.lengths).flat_map(|(start, length)| {
            (0..longest).map(move |place| start + place.min(length - 1))
        });
        numbers(places).collect()
    }

    /// For each row of the group: its place in the padded group.
    pub(super) fn places(&self) -> Vec<u32> {
        let longest = self.longest();
        let sequences = self.lengths.iter().enumerate();
        let places = sequences.flat_map(|(nth, length)| nth * longest..nth * longest + length);
        numbers(places).collect()
    }

    /// Whether another sequence, not longer than any of its own, is better computed with these.
    fn takes(&self, length: usize, heads: usize) -> bool {
        let longest = self.longest();
        let scores = (self.lengths.len() + 1) * longest * longest;
        let near = longest <= MOST_STRETCHED * length;
        scores * heads <= MOST_SCORES && (near || scores <= FREE_SCORES)
    }
}

/// Rows as devices count them. A batch has far fewer than 2^32.
pub(super) fn numbers(rows: impl Iterator<Item = usize>) -> impl Iterator<Item = u32> {
    rows.map(|row| u32::try_from(row).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(lengths: &[usize]) -> Vec<Vec<usize>> {
        let plan = Plan::new(lengths, 12);
        plan.groups.into_iter().map(|group| group.lengths).collect()
    }

    #[test]
    fn the_longest_come_first_and_empty_ones_nowhere() {
        let plan = Plan::new(&[2, 0, 3, 1, 3], 12);
        assert_eq!(plan.order, [2, 4, 0, 3]);
        assert_eq!(plan.groups.len(), 1, "short ones stay together");
        assert_eq!(plan.groups[0].lengths, [3, 3, 2, 1]);
        // Sequence 0 lies behind those of 3 tokens.
        let unsorted = plan.unsorted(&[2, 0, 3, 1, 3]).expect("another order");
        assert_eq!(unsorted, [6, 7, 0, 1, 2, 8, 3, 4, 5]);
        assert_eq!(Plan::new(&[3, 2, 2], 12).unsorted(&[3, 2, 2]), None);
    }

    #[test]
    fn much_padding_makes_another_group() {
        assert_eq!(groups(&[512, 500, 256]), [[512, 500, 256]]);
        assert_eq!(groups(&[512, 20, 16]), [vec![512], vec![20, 16]]);
        assert!(groups(&[]).is_empty());
        assert!(groups(&[0]).is_empty());
    }

    #[test]
    fn groups_have_a_size_that_memory_can_hold() {
        let many = groups(&[512; 200]);
        assert!(many.len() > 1);
        for group in &many {
            assert!(group.len() * 512 * 512 * 12 <= MOST_SCORES);
        }
        // What a single sequence takes, it takes.
        assert_eq!(groups(&[8192]), [[8192]]);
    }

    #[test]
    fn a_sequence_may_take_half_of_the_memory() {
        // 12 heads × 8192² × 4 bytes × 4: 12 GiB.
        assert!(fits(8192, 12, room(Some(24 << 30))));
        assert!(!fits(8193, 12, room(Some(24 << 30))));
        assert!(fits(4096, 12, room(None)));
        assert!(!fits(8192, 12, room(None)));
        assert!(!fits(usize::MAX, 12, room(Some(u64::MAX))));
    }

    #[test]
    fn padding_goes_in_and_out() {
        let group = Group {
            start: 10,
            lengths: vec![3, 1],
        };
        assert!(group.is_padded());
        assert_eq!(group.padded_rows(), [10, 11, 12, 13, 13, 13]);
        assert_eq!(group.places(), [0, 1, 2, 3]);
        assert_eq!(group.rows(), 4);
    }
}
