//! What a simulated host saw.

use std::sync::{Arc, Mutex};

use http::{HeaderMap, request};
use sha2::{Digest as _, Sha256};

/// One compute request.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) path_and_query: String,
    pub(crate) headers: HeaderMap,
    /// Of the body; `None` until it has been read whole.
    pub(crate) sha256: Option<[u8; 32]>,
    /// Texts, or pairs of them; 0 until it has been read whole.
    pub(crate) items: usize,
}

/// Everything seen so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    /// In order of arrival.
    pub(crate) requests: Vec<Seen>,
    /// First texts of the requests that got a slot, in that order.
    pub(crate) taken_on: Vec<String>,
    /// Compute requests that are here now, whatever becomes of them.
    pub(crate) present: usize,
    /// The most of them that there ever were at once.
    pub(crate) peak: usize,
    /// Compute requests that hold a slot now.
    pub(crate) running: usize,
    /// Compute requests refused because all slots were taken.
    pub(crate) turned_away: usize,
    /// Those that held a slot and whose connection ended before they were computed.
    pub(crate) given_up: usize,
    /// Times that it was asked for `/health`.
    pub(crate) checks: usize,
    /// Connections accepted.
    pub(crate) connections: usize,
    /// Questions for `/status`.
    pub(crate) status_asked: usize,
    /// Questions for `/v1/models`.
    pub(crate) models_asked: usize,
    /// Paths that a host which speaks OpenAI's API has not.
    pub(crate) in_vain: Vec<String>,
}

/// A record that is being written.
#[derive(Clone, Default)]
pub(super) struct Recorder(Arc<Mutex<Record>>);

impl Recorder {
    pub(super) fn read(&self) -> Record {
        self.0.lock().unwrap().clone()
    }

    pub(super) fn running(&self) -> usize {
        self.0.lock().unwrap().running
    }

    /// How many were turned away, and how many given up.
    pub(super) fn excess(&self) -> (usize, usize) {
        let record = self.0.lock().unwrap();
        (record.turned_away, record.given_up)
    }

    pub(super) fn check(&self) {
        self.0.lock().unwrap().checks += 1;
    }

    pub(super) fn connection(&self) {
        self.0.lock().unwrap().connections += 1;
    }

    pub(super) fn asked_for_status(&self) {
        self.0.lock().unwrap().status_asked += 1;
    }

    pub(super) fn asked_for_models(&self) {
        self.0.lock().unwrap().models_asked += 1;
    }

    pub(super) fn asked_in_vain(&self, path: &str) {
        self.0.lock().unwrap().in_vain.push(path.to_owned());
    }

    /// A compute request has arrived; it is present until the guard is dropped.
    pub(super) fn arrival(&self, head: &request::Parts) -> Visit {
        let mut record = self.0.lock().unwrap();
        let number = record.requests.len();
        record.requests.push(Seen {
            path_and_query: head.uri.path_and_query().unwrap().to_string(),
            headers: head.headers.clone(),
            sha256: None,
            items: 0,
        });
        record.present += 1;
        record.peak = record.peak.max(record.present);
        Visit {
            recorder: self.clone(),
            number,
            has_slot: false,
        }
    }
}

/// One compute request's stay.
pub(super) struct Visit {
    recorder: Recorder,
    number: usize,
    has_slot: bool,
}

impl Visit {
    pub(super) fn read_whole(&self, body: &[u8]) {
        let mut record = self.recorder.0.lock().unwrap();
        record.requests[self.number].sha256 = Some(Sha256::digest(body).into());
    }

    pub(super) fn is_for(&self, items: usize) {
        self.recorder.0.lock().unwrap().requests[self.number].items = items;
    }

    /// Is computed: gives the slot back.
    pub(super) fn finish(mut self) {
        if std::mem::take(&mut self.has_slot) {
            self.recorder.0.lock().unwrap().running -= 1;
        }
    }

    /// Takes one of `slots`, if one is free.
    pub(super) fn take_slot(&mut self, slots: usize, text: &str) -> bool {
        let mut record = self.recorder.0.lock().unwrap();
        if record.running >= slots {
            record.turned_away += 1;
            return false;
        }
        record.running += 1;
        record.taken_on.push(text.to_owned());
        self.has_slot = true;
        true
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut record = self.recorder.0.lock().unwrap();
        record.present -= 1;
        if self.has_slot {
            record.running -= 1;
            record.given_up += 1;
        }
    }
}
