//! Which request was to blame for an attempt that was for several and for none of them an answer; if none was, how
//! many items of its model are too many for one attempt.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::super::lately::Lately;
use crate::message::Call;
use crate::pool::Model;

/// So long goes alone what has spoiled an attempt.
const FOR_ONE: Duration = Duration::from_secs(10);
/// So long attempts for a model are for fewer items, after all were answered well that together were not: hosts take
/// less than they are thought to, or their answers have something beside their items.
const FOR_ALL: Duration = Duration::from_mins(10);

/// What goes alone for now, or with fewer others than usual.
#[derive(Debug, Default)]
pub(in super::super) struct Apart {
    clients: Lately<Arc<str>>,
    /// Of clients without a name: there, a client can't be told from another.
    requests: Lately<u64>,
    hasher: RandomState,
    models: Lately<Option<Model>, u32>,
}

/// Who may be to blame.
#[derive(Debug)]
enum Culprit {
    Client(Arc<str>),
    /// Those like this one.
    Request(u64),
}

impl Apart {
    /// How many items an attempt may be for that `call` shares; 1: it goes alone.
    pub(super) fn most_items(&self, call: &Call) -> u32 {
        let is_apart = match &call.demand.client {
            Some(client) => self.clients.includes(client),
            None => !self.requests.is_empty() && self.requests.includes(&self.fingerprint(call)),
        };
        if is_apart {
            return 1;
        }
        self.models.get(&call.demand.model).unwrap_or(u32::MAX)
    }

    fn culprit(&self, call: &Call) -> Culprit {
        match &call.demand.client {
            Some(client) => Culprit::Client(Arc::clone(client)),
            None => Culprit::Request(self.fingerprint(call)),
        }
    }

    fn blame(&self, culprit: &Culprit) {
        match culprit {
            Culprit::Client(client) => self.clients.add(Arc::clone(client), FOR_ONE),
            Culprit::Request(fingerprint) => self.requests.add(*fingerprint, FOR_ONE),
        }
    }

    fn fingerprint(&self, call: &Call) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        for chunk in call.body.chunks() {
            hasher.write(chunk);
        }
        hasher.finish()
    }
}

/// The requests of an attempt, each of which runs again.
#[derive(Debug)]
pub(super) struct Suspects {
    /// Those whose answer is to come.
    left: AtomicUsize,
    /// Items that an attempt may be for if it was nobody's fault.
    most_items: u32,
}

impl Suspects {
    pub(super) fn new(requests: usize, most_items: u32) -> Self {
        Self {
            left: AtomicUsize::new(requests),
            most_items,
        }
    }
}

/// One of them, until it is [cleared](Self::clear). Dropped without that, it is to blame.
#[derive(Debug)]
pub(in super::super) struct Suspect {
    of: Arc<Suspects>,
    apart: Arc<Apart>,
    culprit: Culprit,
    model: Option<Model>,
    is_cleared: bool,
}

impl Suspect {
    pub(super) fn new(of: Arc<Suspects>, apart: &Arc<Apart>, call: &Call) -> Self {
        Self {
            of,
            apart: Arc::clone(apart),
            culprit: apart.culprit(call),
            model: call.demand.model.clone(),
            is_cleared: false,
        }
    }

    /// It was answered well.
    pub(in super::super) fn clear(mut self) {
        self.is_cleared = true;
    }
}

impl Drop for Suspect {
    fn drop(&mut self) {
        if !self.is_cleared {
            self.apart.blame(&self.culprit);
        } else if self.of.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            let most_items = self.of.most_items.max(1);
            self.apart
                .models
                .put(self.model.take(), most_items, FOR_ALL);
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::*;
    use crate::budget::Budget;
    use crate::message::{Deadline, Payload};
    use crate::pool::Demand;

    fn call(client: Option<&str>, body: &'static str) -> Call {
        Call {
            method: Method::POST,
            path: "/embed".to_owned(),
            headers: HeaderMap::new(),
            body: Payload::counted([body], Budget::new(1024).open()).unwrap(),
            demand: Demand {
                client: client.map(Into::into),
                model: Model::new("embed:m"),
                ..Demand::default()
            },
            deadline: Deadline::default(),
            trace: None,
        }
    }

    fn suspects(apart: &Arc<Apart>, calls: &[&Call], most_items: u32) -> Vec<Suspect> {
        let of = Arc::new(Suspects::new(calls.len(), most_items));
        let calls = calls.iter();
        calls
            .map(|call| Suspect::new(Arc::clone(&of), apart, call))
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn who_spoils_an_attempt_goes_alone_for_a_while() {
        let (ann, bob) = (call(Some("ann"), "1"), call(Some("bob"), "2"));
        let apart = Arc::<Apart>::default();
        let mut both = suspects(&apart, &[&ann, &bob], 32);
        drop(both.pop());
        both.remove(0).clear();
        assert_eq!(apart.most_items(&ann), u32::MAX);
        assert_eq!(
            apart.most_items(&call(Some("bob"), "3")),
            1,
            "all of its requests"
        );
        tokio::time::advance(FOR_ONE).await;
        assert_eq!(apart.most_items(&bob), u32::MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn where_nobody_has_a_name_only_what_spoils_an_attempt_goes_alone() {
        let (good, bad) = (call(None, "good"), call(None, "bad"));
        let apart = Arc::<Apart>::default();
        let mut both = suspects(&apart, &[&good, &bad], 32);
        drop(both.pop());
        both.remove(0).clear();
        assert_eq!(apart.most_items(&good), u32::MAX);
        assert_eq!(apart.most_items(&bad), 1);
        tokio::time::advance(FOR_ONE).await;
        assert_eq!(apart.most_items(&bad), u32::MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_model_that_cannot_be_asked_for_so_much_together_is_asked_for_less() {
        let (ann, bob) = (call(Some("ann"), "1"), call(Some("bob"), "2"));
        let apart = Arc::<Apart>::default();
        for suspect in suspects(&apart, &[&ann, &bob], 32) {
            suspect.clear();
        }
        assert_eq!(apart.most_items(&call(Some("carl"), "3")), 32);
        tokio::time::advance(FOR_ALL).await;
        assert_eq!(apart.most_items(&call(Some("carl"), "3")), u32::MAX);
    }
}
