//! Hidden states of a batch.

/// One vector for each token of a packed batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Hidden {
    rows: Vec<f32>,
    width: usize,
    /// Where each sequence ends, in tokens.
    ends: Vec<usize>,
}

impl Hidden {
    /// `rows` holds `width` numbers for each token; `ends` says after how many tokens, counted from
    /// the batch's first, each sequence ends.
    ///
    /// # Panics
    /// There are more or fewer rows than the last sequence's end says.
    pub fn new(rows: Vec<f32>, width: usize, ends: Vec<usize>) -> Self {
        assert_eq!(rows.len(), ends.last().copied().unwrap_or(0) * width);
        Self { rows, width, ends }
    }

    /// Length of a token's vector.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The vectors of each sequence's tokens, in the order of the batch: `[tokens, width]`, flat.
    pub fn sequences(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        (0..self.ends.len()).map(|nth| self.sequence(nth))
    }

    /// The vectors of sequence `nth`.
    ///
    /// # Panics
    /// There is no such sequence.
    pub fn sequence(&self, nth: usize) -> &[f32] {
        let start = if nth == 0 { 0 } else { self.ends[nth - 1] };
        &self.rows[start * self.width..self.ends[nth] * self.width]
    }
}
