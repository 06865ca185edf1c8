//! What models take together, some of which have weights in common.

use std::collections::BTreeMap;

/// Memory of a model, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// What nobody else uses.
    pub(crate) own: u64,
    /// What it has in common with others.
    pub(crate) common: Option<Common>,
}

/// Weights of one folder. Of all models that use them the one with the most has those of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Common {
    /// Tells the weights apart from others.
    pub(crate) weights: u64,
    /// How much of them the model uses.
    pub(crate) bytes: u64,
}

impl Memory {
    /// What the model takes if no other has a part of it.
    pub(crate) fn alone(self) -> u64 {
        together([self].into_iter())
    }
}

/// What `models` take together.
pub(super) fn together(models: impl Iterator<Item = Memory>) -> u64 {
    let mut common = BTreeMap::<u64, u64>::new();
    let mut all = 0_u64;
    for memory in models {
        all = all.saturating_add(memory.own);
        if let Some(Common { weights, bytes }) = memory.common {
            let most = common.entry(weights).or_default();
            *most = bytes.max(*most);
        }
    }
    common.into_values().fold(all, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_weights_count_once_as_far_as_somebody_uses_them() {
        let model = |own, weights, bytes| Memory {
            own,
            common: Some(Common { weights, bytes }),
        };
        let own = Memory {
            own: 1,
            common: None,
        };
        for (models, expected) in [
            (vec![], 0),
            (vec![own, own], 2),
            (vec![model(1, 7, 10), model(2, 7, 30), own], 34),
            (vec![model(1, 7, 10), model(2, 8, 30)], 43),
            (vec![model(u64::MAX, 7, 10), own], u64::MAX),
        ] {
            assert_eq!(together(models.iter().copied()), expected, "{models:?}");
        }
        assert_eq!(model(1, 7, 10).alone(), 11);
    }
}
