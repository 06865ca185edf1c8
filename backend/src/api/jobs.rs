//! The list of requests that compute, as `/status` shows it. One that waits for its model or for a
//! slot is not on it: the Python service tells of none either, and what it tells is what others load
//! a host with.
//!
//! A [`Job`] is on the list as long as it lives, so the list and the count of requests in flight
//! cannot drift apart.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gpu_bridge_wire::ActiveJob;
use jiff::Timestamp;
use uuid::Uuid;

/// What a job computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Embed,
    Bertscore,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Embed => "embed",
            Self::Bertscore => "bertscore",
        }
    }
}

/// The jobs of this host; clones share one list.
#[derive(Clone, Debug, Default)]
pub(super) struct Jobs {
    next: Arc<AtomicU64>,
    active: Arc<Mutex<BTreeMap<u64, Arc<Entry>>>>,
}

#[derive(Debug)]
struct Entry {
    /// Unlike that of any other job, of this host or another, before or after a restart.
    id: Uuid,
    kind: Kind,
    started: Timestamp,
    items: usize,
    model: String,
    done: AtomicUsize,
}

/// One job; leaves the list when dropped.
#[derive(Debug)]
pub(super) struct Job {
    /// Its place in the list.
    number: u64,
    entry: Arc<Entry>,
    jobs: Jobs,
}

impl Jobs {
    /// Puts a job on the list.
    pub(super) fn start(&self, kind: Kind, model: &str, items: usize, started: Timestamp) -> Job {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let done = AtomicUsize::new(0);
        let entry = Arc::new(Entry {
            id: Uuid::new_v4(),
            kind,
            started,
            items,
            model: model.to_owned(),
            done,
        });
        self.lock().insert(number, Arc::clone(&entry));
        Job {
            number,
            entry,
            jobs: self.clone(),
        }
    }

    /// The list as it is now, oldest first.
    pub(super) fn list(&self) -> Vec<ActiveJob> {
        self.lock().values().map(|entry| entry.describe()).collect()
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Entry>>> {
        // No panic can leave the map half-changed.
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Job {
    /// `done` of the job's items are finished.
    pub(super) fn finished(&self, done: usize) {
        self.entry.done.store(done, Ordering::Relaxed);
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.jobs.lock().remove(&self.number);
    }
}

impl Entry {
    fn describe(&self) -> ActiveJob {
        ActiveJob {
            id: self.id.to_string(),
            kind: self.kind.name().to_owned(),
            // Python's `isoformat()` writes the zone as an offset.
            started_at: self
                .started
                .strftime("%Y-%m-%dT%H:%M:%S%.6f+00:00")
                .to_string(),
            items: self.items as u64,
            model: self.model.clone(),
            progress: self.progress(),
        }
    }

    fn progress(&self) -> f64 {
        let done = self.done.load(Ordering::Relaxed).min(self.items);
        if self.items == 0 {
            0.0
        } else {
            done as f64 / self.items as f64
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_listed_while_it_lives() {
        let jobs = Jobs::default();
        let first = jobs.start(Kind::Embed, "m", 4, Timestamp::UNIX_EPOCH);
        let second = jobs.start(Kind::Bertscore, "n", 0, Timestamp::UNIX_EPOCH);
        first.finished(1);
        let listed = jobs.list();
        assert_eq!(listed.len(), 2);
        assert_ne!(listed[0].id, listed[1].id);
        assert!(listed[0].id.parse::<Uuid>().is_ok(), "{}", listed[0].id);
        let expected = ActiveJob {
            id: listed[0].id.clone(),
            kind: "embed".to_owned(),
            started_at: "1970-01-01T00:00:00.000000+00:00".to_owned(),
            items: 4,
            model: "m".to_owned(),
            progress: 0.25,
        };
        assert_eq!(listed[0], expected);
        drop(first);
        assert_eq!(jobs.list()[0].kind, "bertscore");
        drop(second);
        assert!(jobs.list().is_empty());
    }

    #[test]
    fn progress_stays_between_0_and_1() {
        let jobs = Jobs::default();
        let job = jobs.start(Kind::Embed, "m", 2, Timestamp::UNIX_EPOCH);
        job.finished(3);
        assert!((jobs.list()[0].progress - 1.0).abs() < f64::EPSILON);
    }
}
