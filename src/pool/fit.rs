//! Whether a host takes all items of a request at once, or some of them.
//!
//! How many it takes it tells, or its operator does, or it has shown it: by refusing more, in so many words. A
//! request for more may be cut, unless it is known that it can't be.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use super::avoid::Extent;
use super::demand::{Demand, Model};
use super::host::Host;

/// How long a host that has refused so many items is sent no more: it may be set up otherwise meanwhile, and
/// to be refused again costs little.
const REMEMBERED: Duration = Duration::from_mins(10);

/// How a host takes a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    Whole,
    /// If it can be cut.
    InParts,
    Not,
}

/// The limit that a host has shown, until then.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shown {
    most: NonZeroU32,
    until: Instant,
}

impl Shown {
    pub(super) fn new(most: NonZeroU32, now: Instant) -> Self {
        let until = now + REMEMBERED;
        Self { most, until }
    }
}

impl Host {
    /// Texts, or pairs, that it takes at once, as far as is known.
    pub(super) fn most_items(&self, now: Instant) -> Option<NonZeroU32> {
        let told = self.info.as_ref().and_then(|info| info.max_batch_size);
        let shown = self.shown_most.filter(|shown| now < shown.until);
        let shown = shown.map(|shown| shown.most);
        [self.spec.max_items, told, shown]
            .into_iter()
            .flatten()
            .min()
    }

    /// Does it take so many at once?
    pub(super) fn takes(&self, items: u32, now: Instant) -> bool {
        self.most_items(now).is_none_or(|most| items <= most.get())
    }

    /// How it takes `demand`, of which it is to be given so much. What may be cut, fits every host: whether it can
    /// be is found out where it matters.
    pub(super) fn fit(&self, demand: &Demand, extent: Extent, now: Instant) -> Fit {
        let takes_all = self.takes(demand.work.items, now);
        let may_be_cut = || self.is_independent(demand.model.as_ref());
        match extent {
            Extent::Part if takes_all && may_be_cut() => Fit::Whole,
            Extent::Batch | Extent::Whole if takes_all => Fit::Whole,
            Extent::Batch if may_be_cut() => Fit::InParts,
            Extent::Batch | Extent::Whole | Extent::Part => Fit::Not,
        }
    }

    /// Is an item's result there the same whatever else is in the batch?
    pub(super) fn is_independent(&self, model: Option<&Model>) -> bool {
        let told = self.info.as_ref();
        let is_told = told.and_then(|it| it.bertscore_batch_independent) == Some(true);
        is_told || !model.is_some_and(Model::is_for_pairs)
    }
}

#[cfg(test)]
mod tests {
    use gpu_bridge_wire::Info;

    use super::*;
    use crate::pool::HostId;
    use crate::pool::Work;
    use crate::pool::estimate::Slowness;
    use crate::pool::health::Thresholds;
    use crate::pool::host::HostSpec;

    fn host() -> Host {
        let spec = HostSpec::for_testing("a");
        let thresholds = Thresholds {
            healthy_after: NonZeroU32::MIN,
            unhealthy_after: NonZeroU32::MIN,
        };
        let slowness = Slowness::like(std::iter::empty());
        Host::new(HostId::for_testing(0), spec, thresholds, slowness)
    }

    fn told(most: u32, independent: bool) -> std::sync::Arc<Info> {
        let info = Info {
            max_batch_size: NonZeroU32::new(most),
            bertscore_batch_independent: Some(independent),
            ..Info::default()
        };
        info.into()
    }

    #[test]
    fn the_smallest_of_the_limits_holds_and_a_shown_one_for_a_while() {
        let now = Instant::now();
        let mut host = host();
        assert_eq!(host.most_items(now), None);
        assert!(host.takes(u32::MAX, now));
        host.info = Some(told(32, true));
        host.spec.max_items = NonZeroU32::new(50);
        assert_eq!(host.most_items(now), NonZeroU32::new(32));
        host.shown_most = NonZeroU32::new(16).map(|most| Shown::new(most, now));
        assert!(host.takes(16, now) && !host.takes(17, now));
        assert_eq!(host.most_items(now + REMEMBERED), NonZeroU32::new(32));
    }

    #[test]
    fn what_may_be_cut_fits_and_what_may_not_only_where_it_is_taken() {
        use Extent::{Batch, Part, Whole};

        let now = Instant::now();
        let mut host = host();
        let table = [
            ("embed:m", 32, false, [Fit::Whole, Fit::Whole, Fit::Whole]),
            ("embed:m", 33, false, [Fit::InParts, Fit::Not, Fit::Not]),
            ("bertscore:m", 32, false, [Fit::Whole, Fit::Whole, Fit::Not]),
            (
                "bertscore:m",
                32,
                true,
                [Fit::Whole, Fit::Whole, Fit::Whole],
            ),
            ("bertscore:m", 33, true, [Fit::InParts, Fit::Not, Fit::Not]),
            ("bertscore:m", 33, false, [Fit::Not, Fit::Not, Fit::Not]),
            ("bertscore:", 33, false, [Fit::Not, Fit::Not, Fit::Not]),
        ];
        for (model, items, independent, expected) in table {
            host.info = Some(told(32, independent));
            let demand = Demand {
                model: Model::new(model),
                work: Work { items, bytes: 1 },
                ..Demand::default()
            };
            let found = [Batch, Whole, Part].map(|extent| host.fit(&demand, extent, now));
            assert_eq!(found, expected, "{items} of {model}");
        }
    }
}
