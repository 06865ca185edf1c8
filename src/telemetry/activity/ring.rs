//! The last few of something, each with a number, so that who has read up to one can ask for the rest.

use std::collections::VecDeque;

/// See the module.
#[derive(Debug)]
pub(super) struct Ring<T> {
    limit: usize,
    /// Oldest first, numbers rising.
    kept: VecDeque<(u64, T)>,
}

impl<T> Ring<T> {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            kept: VecDeque::new(),
        }
    }

    /// `number`: above all before it.
    pub(super) fn push(&mut self, number: u64, value: T) {
        if self.kept.len() == self.limit {
            self.kept.pop_front();
        }
        self.kept.push_back((number, value));
    }

    /// Takes out the newest of which this is true.
    pub(super) fn take(&mut self, is_wanted: impl Fn(&T) -> bool) -> Option<T> {
        let position = self.kept.iter().rposition(|(_, value)| is_wanted(value))?;
        self.kept.remove(position).map(|(_, value)| value)
    }

    /// Those from `number` on, oldest first.
    pub(super) fn since(&self, number: u64) -> impl Iterator<Item = (u64, &T)> {
        let first = self.kept.partition_point(|(own, _)| *own < number);
        self.kept.range(first..).map(|(own, value)| (*own, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_newest_and_tells_what_is_new() {
        let mut ring = Ring::new(3);
        for number in [1, 2, 5, 7] {
            ring.push(number, number * 10);
        }
        let since = |number| {
            ring.since(number)
                .map(|(_, value)| *value)
                .collect::<Vec<_>>()
        };
        assert_eq!(since(0), [20, 50, 70]);
        assert_eq!(since(3), [50, 70]);
        assert_eq!(since(7), [70]);
        assert!(since(8).is_empty());
        assert_eq!(ring.take(|value| *value < 70), Some(50));
        assert_eq!(ring.take(|value| *value == 50), None);
    }
}
