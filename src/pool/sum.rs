//! A sum of numbers that come and go.
//!
//! Subtracting what was added leaves a little, as floating point has it. Without terms the sum is
//! exactly zero again, so that nothing piles up.

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sum {
    total: f64,
    terms: usize,
}

impl Sum {
    pub(super) fn add(&mut self, term: f64) {
        self.total += term;
        self.terms += 1;
    }

    /// Takes out a term that was added.
    pub(super) fn remove(&mut self, term: f64) {
        self.terms = self.terms.saturating_sub(1);
        self.total = if self.terms == 0 {
            0.0
        } else {
            (self.total - term).max(0.0)
        };
    }

    pub(super) fn total(self) -> f64 {
        self.total
    }

    /// How many there are.
    pub(super) fn terms(self) -> usize {
        self.terms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_of_what_is_gone() {
        let mut sum = Sum::default();
        for term in [0.1, 0.2, 0.7] {
            sum.add(term);
        }
        sum.remove(0.1);
        sum.remove(0.7);
        assert!((sum.total() - 0.2).abs() < 1e-12);
        assert_eq!(sum.terms(), 1);
        sum.remove(0.2);
        assert_eq!(sum.total().to_bits(), 0);
    }
}
