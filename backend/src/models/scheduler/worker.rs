//! The thread that runs batches, and what it shares with the requests.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError, mpsc};
use std::time::Instant;

use gpu_bridge_encoder::Hidden;

use super::fair_queue::{Batch, FairQueue, RequestId, Text};
use super::{Encoded, Outcome, Shared};
use crate::engine::Cancellation;
use crate::metrics::{BatchStats, Queued};
use crate::models::encoder::{Encode, EncodeError};

/// An encoder; equal to itself alone.
#[derive(Clone)]
pub(super) struct Model(pub(super) Arc<dyn Encode>);

impl PartialEq for Model {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl std::fmt::Debug for Model {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Model")
    }
}

/// A text in the queue.
#[derive(Debug)]
pub(super) struct Item {
    /// Its number in its request.
    pub(super) number: usize,
    pub(super) ids: Vec<u32>,
    /// Counted until it leaves the queue.
    pub(super) queued: Queued,
}

/// A text of a batch: its request, its number there and its tokens.
type Chosen = (RequestId, usize, Vec<u32>);

/// What requests and the worker share.
#[derive(Debug)]
pub(super) struct State {
    queue: FairQueue<Model, Item>,
    open: BTreeMap<RequestId, Open>,
    /// Requests with a text in the batch that runs.
    running: BTreeSet<RequestId>,
    next: RequestId,
    stopped: bool,
}

/// A request that still takes results.
#[derive(Debug)]
struct Open {
    cancellation: Cancellation,
    /// Cancelled when the request is closed.
    closed: Cancellation,
    done: mpsc::Sender<Outcome>,
}

impl Open {
    fn is_over(&self) -> bool {
        self.cancellation.is_cancelled() || self.closed.is_cancelled()
    }
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            queue: FairQueue::new(),
            open: BTreeMap::new(),
            running: BTreeSet::new(),
            next: 0,
            stopped: false,
        }
    }

    pub(super) fn open(
        &mut self,
        cancellation: Cancellation,
        done: mpsc::Sender<Outcome>,
    ) -> RequestId {
        self.next += 1;
        if !self.stopped {
            let closed = Cancellation::default();
            let open = Open {
                cancellation,
                closed,
                done,
            };
            self.open.insert(self.next, open);
        }
        self.next
    }

    pub(super) fn close(&mut self, request: RequestId) {
        if let Some(open) = self.open.remove(&request) {
            open.closed.cancel();
        }
        self.queue.remove(request);
    }

    /// Whether a text of the request is in the batch that runs.
    pub(super) fn is_running(&self, request: RequestId) -> bool {
        self.running.contains(&request)
    }

    /// Queues texts; false if the request is closed.
    pub(super) fn push(
        &mut self,
        request: RequestId,
        model: Model,
        texts: Vec<Text<Item>>,
    ) -> bool {
        let open = self.open.contains_key(&request);
        if open {
            self.queue.push(request, model, texts);
        }
        open
    }

    /// Texts in the queue.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// No more batches; whoever waits for one learns of it.
    pub(super) fn stop(&mut self) {
        self.stopped = true;
        self.hang_up();
    }

    /// Drops all there is to do; whoever waits for it learns that it broke.
    fn break_off(&mut self) {
        for open in self.open.values() {
            drop(open.done.send((0, Err(EncodeError::Panicked))));
        }
        self.hang_up();
    }

    fn hang_up(&mut self) {
        self.queue = FairQueue::new();
        self.running.clear();
        for (_, open) in std::mem::take(&mut self.open) {
            open.closed.cancel();
        }
    }

    /// Notes what is about to run. Texts of closed requests are dropped: who closed it may have given
    /// the model back.
    fn begin(&mut self, texts: Vec<Chosen>) -> Running {
        let open = |(request, _, _): &Chosen| self.open.contains_key(request);
        let texts: Vec<Chosen> = texts.into_iter().filter(open).collect();
        self.running = texts.iter().map(|(request, _, _)| *request).collect();
        let waiting = self.running.iter().filter_map(|id| self.open.get(id));
        let waiting = waiting.map(|open| [open.cancellation.clone(), open.closed.clone()]);
        Running {
            waiting: waiting.collect(),
            texts,
        }
    }

    /// The next batch, without requests that nobody waits for.
    fn next_batch(&mut self, budget: usize) -> Option<(Model, Vec<Chosen>)> {
        let over = self.open.iter().filter(|(_, open)| open.is_over());
        let cancelled = over.map(|(id, _)| *id);
        for request in cancelled.collect::<Vec<_>>() {
            self.close(request);
        }
        let Batch { model, texts } = self.queue.next_batch(budget)?;
        let chosen = texts.into_iter().map(
            |(
                request,
                Item {
                    number,
                    ids,
                    queued,
                },
            )| {
                drop(queued);
                (request, number, ids)
            },
        );
        Some((model, chosen.collect()))
    }

    fn deliver(&self, request: RequestId, outcome: Outcome) {
        if let Some(open) = self.open.get(&request) {
            // A receiver that is gone has closed the request, or is about to.
            drop(open.done.send(outcome));
        }
    }
}

/// Forms and runs batches until the scheduler stops.
pub(super) fn work(shared: &Shared) {
    let next = || match wait_for_batch(shared) {
        Some((model, texts)) => {
            run(shared, &model, texts);
            true
        }
        None => false,
    };
    while outlive(shared, next) {}
}

/// Does `step`, which says whether there are more. A bug in it costs the requests of that moment, which
/// learn of it, but not those that come later.
pub(super) fn outlive(shared: &Shared, step: impl FnOnce() -> bool) -> bool {
    catch_unwind(AssertUnwindSafe(step)).unwrap_or_else(|_| {
        shared.lock().break_off();
        shared.idle.notify_all();
        true
    })
}

fn wait_for_batch(shared: &Shared) -> Option<(Model, Vec<Chosen>)> {
    let mut state = shared.lock();
    loop {
        if state.stopped {
            return None;
        }
        if let Some(batch) = state.next_batch(shared.budget) {
            return Some(batch);
        }
        state = shared
            .work
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner);
    }
}

/// A batch that runs.
struct Running {
    texts: Vec<Chosen>,
    /// For each request: cancelled by its client, or closed.
    waiting: Vec<[Cancellation; 2]>,
}

impl Running {
    /// Whether nobody waits for any of it any more.
    fn is_over(&self) -> bool {
        let over =
            |[client, closed]: &[Cancellation; 2]| client.is_cancelled() || closed.is_cancelled();
        self.waiting.iter().all(over)
    }
}

/// Runs texts as one batch. If that fails, without the text that is to blame; if that is not known,
/// each half of them by itself, down to a single text.
fn run(shared: &Shared, model: &Model, texts: Vec<Chosen>) {
    let running = shared.lock().begin(texts);
    if running.texts.is_empty() {
        return;
    }
    let outcome = forward(shared, model, &running);
    shared.lock().running.clear();
    shared.idle.notify_all();
    let mut texts = running.texts;
    match outcome {
        Ok(hidden) => deliver_all(shared, texts, hidden),
        Err(EncodeError::Stopped) => {}
        Err(error) => {
            let alone = (texts.len() == 1).then_some(0);
            let culprit = error.culprit().filter(|nth| *nth < texts.len());
            if let Some(nth) = culprit.or(alone) {
                fail(shared, texts.remove(nth), error);
                run(shared, model, texts);
                return;
            }
            let second = texts.split_off(texts.len() / 2);
            run(shared, model, texts);
            run(shared, model, second);
        }
    }
}

fn fail(shared: &Shared, (request, number, _): Chosen, error: EncodeError) {
    if matches!(error, EncodeError::OutOfMemory) {
        shared.metrics.out_of_memory();
    }
    shared.lock().deliver(request, (number, Err(error)));
}

fn deliver_all(shared: &Shared, texts: Vec<Chosen>, hidden: Hidden) {
    let batch = Arc::new(hidden);
    let state = shared.lock();
    for (nth, (request, number, ids)) in texts.into_iter().enumerate() {
        let batch = Arc::clone(&batch);
        state.deliver(request, (number, Ok(Encoded { batch, nth, ids })));
    }
}

fn forward(shared: &Shared, model: &Model, running: &Running) -> Result<Hidden, EncodeError> {
    let ids = running.texts.iter().map(|(_, _, ids)| ids.as_slice());
    let batch: Vec<&[u32]> = ids.collect();
    let start = Instant::now();
    // A panic is this batch's failure; encoders keep nothing half-done between batches.
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        model.0.forward_until(&batch, &|| running.is_over())
    }));
    let hidden = outcome.unwrap_or(Err(EncodeError::Panicked))?;
    let longest = batch.iter().map(|ids| ids.len()).max().unwrap_or(0);
    shared.metrics.batch(&BatchStats {
        texts: batch.len(),
        tokens: batch.iter().map(|ids| ids.len()).sum(),
        padded_tokens: longest * batch.len(),
        took: start.elapsed(),
    });
    Ok(hidden)
}
