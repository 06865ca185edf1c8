//! The device's work: one thread that forms batches from whatever waits and runs them, one at a time.
//!
//! ```text
//! request threads: tokenize ─ submit ─┐                      ┌─ pool or compare ─ answer
//!                                     ├ fair queue ─ worker ─┤
//! request threads: tokenize ─ submit ─┘   (one batch)        └─ …
//! ```
//!
//! Batches form while the one before runs, from all requests for the same model, up to a budget of
//! tokens; nothing waits for a timer. What comes before and after (tokens, pooling, scores) runs on
//! the request's own thread meanwhile. A batch that fails is halved until the text that breaks it is
//! alone; the others go on. The texts of a request that nobody waits for are dropped, and a batch of
//! which that is true as a whole is stopped while it runs.

mod fair_queue;
mod worker;

use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use gpu_bridge_encoder::Hidden;

use self::fair_queue::{RequestId, Text};
use self::worker::{Item, Model, State, work};
use super::encoder::{Encode, EncodeError};
use super::error::check_finite;
use crate::engine::{Cancellation, EngineError, Progress};
use crate::metrics::EngineMetrics;

/// A request hands over texts in portions of this many tokens, so that the device starts on the first
/// while the rest is tokenized.
const PORTION: usize = 512;
/// Tokens that a request may have with the device, done or not, before it takes results back. It
/// bounds memory: each costs one vector.
const WINDOW: usize = 16 * 1024;

/// Runs encoders; dropped, it stops after the batch that runs.
#[derive(Debug)]
pub(crate) struct Scheduler {
    shared: Arc<Shared>,
    worker: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// There is work, or the scheduler stops.
    work: Condvar,
    /// A batch has ended.
    idle: Condvar,
    budget: usize,
    metrics: EngineMetrics,
}

impl Scheduler {
    /// Starts the thread. A batch holds at most `budget` tokens.
    ///
    /// # Errors
    /// The system refuses the thread.
    pub(crate) fn start(budget: usize, metrics: EngineMetrics) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State::new()),
            work: Condvar::new(),
            idle: Condvar::new(),
            budget,
            metrics,
        });
        let worker = std::thread::Builder::new()
            .name("batches".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || work(&shared)
            })?;
        Ok(Self {
            shared,
            worker: Some(worker),
        })
    }

    /// Encodes texts and hands each one's number, tokens and hidden states (`[tokens, width]`, flat)
    /// to `keep`, in any order. `ids` gives the tokens of one text after the other, until `None`.
    ///
    /// However it returns, the device does nothing for the request any more.
    ///
    /// # Errors
    /// [`EngineError::Cancelled`] once nobody waits, [`EngineError::Inference`] or
    /// [`EngineError::OutOfMemory`] of the encoder, and whatever `ids` says. Hidden states that are not
    /// finite are the former.
    pub(crate) fn encode(
        &self,
        encoder: &Arc<dyn Encode>,
        progress: &dyn Progress,
        mut ids: impl Iterator<Item = Result<Vec<u32>, EngineError>>,
        mut keep: impl FnMut(usize, &[u32], &[f32]),
    ) -> Result<(), EngineError> {
        let mut request = self.open(Arc::clone(encoder), progress.cancellation());
        while !progress.is_cancelled() {
            while request.out < WINDOW && request.submit_portion(&mut ids)? {}
            let Some((number, text)) = request.receive()? else {
                return Ok(());
            };
            check_finite(text.rows())?;
            keep(number, &text.ids, text.rows());
        }
        Err(EngineError::Cancelled)
    }

    fn open(&self, encoder: Arc<dyn Encode>, cancellation: Cancellation) -> Request<'_> {
        let (done, results) = mpsc::channel();
        let id = self.shared.lock().open(cancellation, done);
        Request {
            id,
            model: Model(encoder),
            shared: &self.shared,
            results,
            submitted: 0,
            waiting: 0,
            out: 0,
        }
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.shared.lock().stop();
        self.shared.work.notify_all();
        if let Some(worker) = self.worker.take() {
            // The worker catches what batches do wrong; there is nothing to pass on.
            drop(worker.join());
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics between two changes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The hidden states of one text.
#[derive(Clone, Debug)]
struct Encoded {
    batch: Arc<Hidden>,
    nth: usize,
    /// Its tokens.
    ids: Vec<u32>,
}

impl Encoded {
    fn rows(&self) -> &[f32] {
        self.batch.sequence(self.nth)
    }
}

/// What comes back for a text, by its number.
type Outcome = (usize, Result<Encoded, EncodeError>);

/// One request's texts with the device. Dropped, it takes back those that still wait.
struct Request<'a> {
    id: RequestId,
    model: Model,
    shared: &'a Shared,
    results: mpsc::Receiver<Outcome>,
    /// How many texts were handed over.
    submitted: usize,
    /// How many of them have not come back.
    waiting: usize,
    /// Their tokens.
    out: usize,
}

impl Request<'_> {
    /// Hands over the next portion; false if there are no more texts.
    fn submit_portion(
        &mut self,
        ids: &mut impl Iterator<Item = Result<Vec<u32>, EngineError>>,
    ) -> Result<bool, EngineError> {
        let mut portion = Vec::new();
        let mut tokens = 0;
        while tokens < PORTION {
            let Some(ids) = ids.next().transpose()? else {
                break;
            };
            tokens += ids.len();
            portion.push(Text {
                tokens: ids.len(),
                value: Item {
                    number: self.submitted + portion.len(),
                    queued: self.shared.metrics.queued(1, ids.len()),
                    ids,
                },
            });
        }
        if portion.is_empty() {
            return Ok(false);
        }
        self.submitted += portion.len();
        self.waiting += portion.len();
        self.out += tokens;
        let open = self
            .shared
            .lock()
            .push(self.id, self.model.clone(), portion);
        self.shared.work.notify_one();
        if open {
            Ok(true)
        } else {
            Err(EngineError::Cancelled)
        }
    }

    /// The next result; `None` once every text is back.
    fn receive(&mut self) -> Result<Option<(usize, Encoded)>, EngineError> {
        if self.waiting == 0 {
            return Ok(None);
        }
        // The worker hangs up on a request that was cancelled.
        let (number, outcome) = self.results.recv().map_err(|_| EngineError::Cancelled)?;
        let encoded = outcome?;
        self.waiting -= 1;
        self.out -= encoded.ids.len();
        Ok(Some((number, encoded)))
    }
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.close(self.id);
        // Whoever asked may give the model back next.
        while state.is_running(self.id) {
            let woken = self.shared.idle.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests;
