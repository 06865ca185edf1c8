//! Which request was to blame for an attempt that was for several and for none of them an answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::super::lately::Lately;
use crate::pool::{Demand, Model};

/// So long the requests of a client go alone after one of them spoiled an attempt.
const FOR_ONE: Duration = Duration::from_secs(10);
/// So long all for a model do after each was answered well alone that together were not: hosts take less
/// than they are thought to, or their answers have something beside their items.
const FOR_ALL: Duration = Duration::from_mins(10);

type Client = Option<Arc<str>>;

/// Whose requests go alone for now.
#[derive(Debug, Default)]
pub(in super::super) struct Apart {
    clients: Lately<Client>,
    models: Lately<Option<Model>>,
}

impl Apart {
    /// Those like this?
    pub(super) fn includes(&self, demand: &Demand) -> bool {
        self.clients.includes(&demand.client) || self.models.includes(&demand.model)
    }
}

/// The requests of an attempt, each of which runs again alone.
#[derive(Debug)]
pub(super) struct Suspects {
    /// Those whose answer is to come.
    left: AtomicUsize,
}

impl Suspects {
    pub(super) fn new(requests: usize) -> Self {
        Self {
            left: AtomicUsize::new(requests),
        }
    }
}

/// One of them, until it is [cleared](Self::clear). Dropped without that, it is to blame.
#[derive(Debug)]
pub(in super::super) struct Suspect {
    of: Arc<Suspects>,
    apart: Arc<Apart>,
    client: Client,
    model: Option<Model>,
    is_cleared: bool,
}

impl Suspect {
    pub(super) fn new(of: Arc<Suspects>, apart: &Arc<Apart>, demand: &Demand) -> Self {
        Self {
            of,
            apart: Arc::clone(apart),
            client: demand.client.clone(),
            model: demand.model.clone(),
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
            self.apart.clients.add(self.client.take(), FOR_ONE);
        } else if self.of.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.apart.models.add(self.model.take(), FOR_ALL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demand(client: &str) -> Demand {
        Demand {
            client: Some(client.into()),
            model: Model::new("embed:m"),
            ..Demand::default()
        }
    }

    fn suspects(apart: &Arc<Apart>) -> Vec<Suspect> {
        let of = Arc::new(Suspects::new(2));
        let clients = ["ann", "bob"].into_iter();
        clients
            .map(|client| Suspect::new(Arc::clone(&of), apart, &demand(client)))
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn who_spoils_an_attempt_goes_alone_for_a_while() {
        let apart = Arc::<Apart>::default();
        let mut both = suspects(&apart);
        drop(both.pop());
        both.remove(0).clear();
        let is_apart = |client| apart.includes(&demand(client));
        assert_eq!((is_apart("ann"), is_apart("bob")), (false, true));
        tokio::time::advance(FOR_ONE).await;
        assert!(!is_apart("bob"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_model_that_cannot_be_asked_together_is_left_be() {
        let apart = Arc::<Apart>::default();
        for suspect in suspects(&apart) {
            suspect.clear();
        }
        assert!(apart.includes(&demand("carl")));
        tokio::time::advance(FOR_ALL).await;
        assert!(!apart.includes(&demand("carl")));
    }
}
