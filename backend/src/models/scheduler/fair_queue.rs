//! Which texts are computed next.
//!
//! Fair queueing by virtual time (Parekh and Gallager, "A Generalized Processor Sharing Approach to
//! Flow Control", 1993), with tokens as the measure. Each request carries a *tag*: where a perfectly
//! even share would have got to when its next text starts. The next text is always one of the
//! request with the lowest tag. The *clock* is how far an even share has got: it advances by the
//! tokens that are served, divided by the number of requests that wait; a request that arrives
//! starts there. So requests share the device evenly while they wait together: a short one is
//! through after its own share, and a long one goes on however many short ones come.
//!
//! A batch holds texts for one model and at most a budget of tokens; a longer text is a batch of its
//! own. Within a request texts keep their order. Pure: no threads, no clock.

use std::collections::{BTreeMap, VecDeque};

/// A request's number; later ones are larger.
pub(super) type RequestId = u64;

/// Parts of a token in the clock, so that sharing it leaves no remainder worth mention.
const RESOLUTION: u64 = 1 << 10;

/// Texts that wait, of several requests. `M` tells models apart.
#[derive(Debug)]
pub(super) struct FairQueue<M, T> {
    waiting: BTreeMap<RequestId, Waiting<M, T>>,
    clock: u64,
}

#[derive(Debug)]
struct Waiting<M, T> {
    model: M,
    tag: u64,
    texts: VecDeque<Text<T>>,
}

/// A text, `tokens` long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Text<T> {
    pub(super) tokens: usize,
    pub(super) value: T,
}

/// Texts to compute at once.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Batch<M, T> {
    pub(super) model: M,
    pub(super) texts: Vec<(RequestId, T)>,
}

impl<M: Clone + PartialEq, T> FairQueue<M, T> {
    pub(super) fn new() -> Self {
        Self {
            waiting: BTreeMap::new(),
            clock: 0,
        }
    }

    /// Puts texts behind those that `request` has waiting already. All texts of a request are for one
    /// model.
    pub(super) fn push(
        &mut self,
        request: RequestId,
        model: M,
        texts: impl IntoIterator<Item = Text<T>>,
    ) {
        let tag = self.clock;
        let waiting = self.waiting.entry(request).or_insert_with(|| Waiting {
            model,
            tag,
            texts: VecDeque::new(),
        });
        waiting.texts.extend(texts);
        // One that had run dry gets no credit for the time it was away.
        waiting.tag = waiting.tag.max(tag);
    }

    /// Forgets `request` and its texts.
    pub(super) fn remove(&mut self, request: RequestId) {
        self.waiting.remove(&request);
    }

    /// The next batch, of at most `budget` tokens if it has more than one text; `None` if nothing
    /// waits.
    pub(super) fn next_batch(&mut self, budget: usize) -> Option<Batch<M, T>> {
        let first = self.lowest(|_, _| true)?;
        let model = self.waiting.get(&first)?.model.clone();
        let mut texts = Vec::new();
        let mut room = budget;
        while let Some(request) = self.lowest(|waiting, text| {
            waiting.model == model && (text.tokens <= room || texts.is_empty())
        }) {
            let Some(text) = self.take(request) else {
                break;
            };
            room = room.saturating_sub(text.tokens);
            texts.push((request, text.value));
        }
        Some(Batch { model, texts })
    }

    /// How many texts wait.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.waiting
            .values()
            .map(|waiting| waiting.texts.len())
            .sum()
    }

    /// The request with the lowest tag among those whose next text is `eligible`; of equals, the
    /// oldest.
    fn lowest(&self, eligible: impl Fn(&Waiting<M, T>, &Text<T>) -> bool) -> Option<RequestId> {
        let candidates = self.waiting.iter().filter(|(_, waiting)| {
            let next = waiting.texts.front();
            next.is_some_and(|text| eligible(waiting, text))
        });
        candidates
            .min_by_key(|(request, waiting)| (waiting.tag, **request))
            .map(|(id, _)| *id)
    }

    fn take(&mut self, request: RequestId) -> Option<Text<T>> {
        let busy = self
            .waiting
            .values()
            .filter(|waiting| !waiting.texts.is_empty());
        let sharing = busy.count().max(1) as u64;
        let waiting = self.waiting.get_mut(&request)?;
        let text = waiting.texts.pop_front()?;
        let cost = text.tokens as u64 * RESOLUTION;
        waiting.tag += cost;
        self.clock += cost / sharing;
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts(lengths: &[usize]) -> Vec<Text<usize>> {
        let number = |(nth, tokens): (usize, &usize)| Text {
            tokens: *tokens,
            value: nth,
        };
        lengths.iter().enumerate().map(number).collect()
    }

    fn queue(requests: &[(char, &[usize])]) -> FairQueue<char, usize> {
        let mut queue = FairQueue::new();
        for (id, (model, lengths)) in requests.iter().enumerate() {
            queue.push(id as u64, *model, texts(lengths));
        }
        queue
    }

    /// Request and number of each text of the next batch.
    fn next(queue: &mut FairQueue<char, usize>, budget: usize) -> Vec<(u64, usize)> {
        queue
            .next_batch(budget)
            .map(|batch| batch.texts)
            .unwrap_or_default()
    }

    #[test]
    fn a_batch_takes_from_all_requests_for_the_model() {
        let mut queue = queue(&[('a', &[10, 10, 10]), ('a', &[10]), ('b', &[10])]);
        assert_eq!(next(&mut queue, 100), [(0, 0), (1, 0), (0, 1), (0, 2)]);
        assert_eq!(next(&mut queue, 100), [(2, 0)]);
        assert!(queue.len() == 0 && queue.next_batch(100).is_none());
    }

    #[test]
    fn a_short_request_is_in_the_next_batch_behind_a_long_one() {
        let mut queue = queue(&[('a', &[10; 1000])]);
        for _ in 0..5 {
            next(&mut queue, 40);
        }
        queue.push(1, 'a', texts(&[10, 10]));
        let batch = next(&mut queue, 40);
        assert_eq!(
            batch.iter().filter(|(request, _)| *request == 1).count(),
            2,
            "{batch:?}"
        );
    }

    #[test]
    fn a_long_request_gets_its_share_however_many_short_ones_come() {
        let mut queue = queue(&[('a', &[10; 100])]);
        let mut served = [0; 2];
        queue.push(1, 'b', texts(&[10]));
        for id in 2..=100 {
            let batch = next(&mut queue, 10);
            let short = batch.iter().any(|(request, _)| *request != 0);
            served[usize::from(short)] += 1;
            if short {
                queue.push(id, 'b', texts(&[10]));
            }
        }
        assert!(served[0] >= 45 && served[1] >= 45, "{served:?}");
    }

    #[test]
    fn a_text_over_the_budget_goes_alone() {
        let mut queue = queue(&[('a', &[500, 10])]);
        assert_eq!(next(&mut queue, 100), [(0, 0)]);
        assert_eq!(next(&mut queue, 100), [(0, 1)]);
    }

    #[test]
    fn a_request_that_is_removed_is_not_served() {
        let mut queue = queue(&[('a', &[10]), ('a', &[10])]);
        queue.remove(0);
        assert_eq!(next(&mut queue, 100), [(1, 0)]);
    }

    proptest! {
        #[test]
        fn every_text_is_served_once_in_order_and_within_the_budget(
            requests in prop::collection::vec((0..3_u8, prop::collection::vec(1..50_usize, 0..20)), 0..8),
            budget in 1..120_usize,
        ) {
            let mut queue = FairQueue::new();
            for (id, (model, lengths)) in requests.iter().enumerate() {
                queue.push(id as u64, *model, texts(lengths));
            }
            let mut served = vec![Vec::new(); requests.len()];
            while let Some(Batch { model, texts }) = queue.next_batch(budget) {
                prop_assert!(!texts.is_empty());
                let mut tokens = 0;
                for (request, nth) in &texts {
                    let request = usize::try_from(*request).expect("small");
                    prop_assert_eq!(requests[request].0, model);
                    tokens += requests[request].1[*nth];
                    served[request].push(*nth);
                }
                prop_assert!(texts.len() == 1 || tokens <= budget);
            }
            for (served, (_, lengths)) in served.iter().zip(&requests) {
                prop_assert_eq!(served, &(0..lengths.len()).collect::<Vec<_>>());
            }
        }

        /// While two requests wait together, neither gets more than one text's length ahead of its
        /// share.
        #[test]
        fn requests_share_evenly(
            a in prop::collection::vec(1..50_usize, 30..40),
            b in prop::collection::vec(1..50_usize, 30..40),
            budget in 1..120_usize,
        ) {
            let mut queue = queue(&[('m', &a), ('m', &b)]);
            let mut tokens = [0_usize; 2];
            let mut left = [a.len(), b.len()];
            while left.iter().all(|left| *left > 0) {
                for (request, nth) in next(&mut queue, budget) {
                    let request = usize::from(request == 1);
                    tokens[request] += [&a, &b][request][nth];
                    left[request] -= 1;
                }
                if left.iter().all(|left| *left > 0) {
                    // A text that does not fit into the rest of a batch lets the other one pass.
                    prop_assert!(tokens[0].abs_diff(tokens[1]) <= 50 + budget, "{tokens:?}");
                }
            }
        }
    }
}
