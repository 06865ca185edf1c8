//! The requests of late, for `gpu-bridge explain` and the live page: those that run, and the last ones
//! that ended.
//!
//! Bounded in number and in bytes, oldest out first. Ids are mostly the clients' own and may repeat:
//! the latest is meant.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use foldhash::HashMap;
use parking_lot::Mutex;

use super::journal::Journal;
use super::request_record::RequestRecord;

/// Requests that are kept …
const MAX_RECORDS: usize = 1000;
/// … if they take no more memory than this.
const MAX_BYTES: usize = 4 << 20;

/// See the module.
#[derive(Debug, Default)]
pub struct Recent {
    ended: Mutex<Ended>,
    running: Mutex<Running>,
}

#[derive(Debug, Default)]
struct Ended {
    /// The latest last.
    records: VecDeque<Arc<RequestRecord>>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Running {
    started: u64,
    /// By the order in which they began.
    requests: HashMap<u64, (RequestRecord, Journal)>,
}

/// A request that runs until this is dropped.
#[derive(Debug)]
pub struct Begun {
    recent: Arc<Recent>,
    number: u64,
}

impl Recent {
    /// Keeps one that has ended.
    pub fn push(&self, record: Arc<RequestRecord>) {
        self.ended.lock().push(record, MAX_RECORDS, MAX_BYTES);
    }

    /// Lets one be found while it runs. `head`: what is known of it already.
    pub fn begin(self: &Arc<Self>, head: RequestRecord, journal: Journal) -> Begun {
        let mut running = self.running.lock();
        running.started += 1;
        let number = running.started;
        running.requests.insert(number, (head, journal));
        Begun {
            recent: Arc::clone(self),
            number,
        }
    }

    /// The latest one of that id, preferably one that runs.
    pub fn find(&self, id: &str) -> Option<Arc<RequestRecord>> {
        let running = self.running.lock().find(id);
        if let Some((mut record, journal)) = running {
            journal.tell(&mut record);
            return Some(Arc::new(record));
        }
        let ended = self.ended.lock();
        let mut latest_first = ended.records.iter().rev();
        latest_first.find(|record| record.id == id).cloned()
    }

    /// The one id that is meant by its beginning, or all that may be: the latest first, each once. A
    /// whole id means itself, whatever else begins with it.
    pub fn ids(&self, beginning: &str) -> Vec<String> {
        let mut ids: Vec<String> = Vec::new();
        let running = self.running.lock();
        let running_ids = running.requests.values().map(|(head, _)| head.id.as_str());
        let ended = self.ended.lock();
        let ended_ids = ended.records.iter().rev().map(|record| record.id.as_str());
        let mut seen = HashSet::new();
        for id in running_ids.chain(ended_ids) {
            if id == beginning {
                return vec![id.to_owned()];
            }
            if id.starts_with(beginning) && seen.insert(id) {
                ids.push(id.to_owned());
            }
        }
        ids
    }

    /// The last `count` that ended, the latest first.
    pub fn latest(&self, count: usize) -> Vec<Arc<RequestRecord>> {
        let ended = self.ended.lock();
        ended.records.iter().rev().take(count).cloned().collect()
    }
}

impl Ended {
    fn push(&mut self, record: Arc<RequestRecord>, max_records: usize, max_bytes: usize) {
        self.bytes += record.size();
        self.records.push_back(record);
        while self.records.len() > max_records || self.bytes > max_bytes {
            let Some(oldest) = self.records.pop_front() else {
                break;
            };
            self.bytes -= oldest.size();
        }
    }
}

impl Running {
    fn find(&self, id: &str) -> Option<(RequestRecord, Journal)> {
        let same = self.requests.iter().filter(|(_, (head, _))| head.id == id);
        let latest = same.max_by_key(|(number, _)| **number);
        latest.map(|(_, request)| request.clone())
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.recent.running.lock().requests.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str, items: u32) -> RequestRecord {
        let mut record = RequestRecord::new(id.to_owned());
        record.items = items;
        record
    }

    #[test]
    fn the_latest_of_an_id_is_found() {
        let recent = Recent::default();
        for items in 1..=3 {
            recent.push(record("same", items).into());
            recent.push(record("other", 10 * items).into());
        }
        assert_eq!(recent.find("same").unwrap().items, 3);
        assert_eq!(recent.find("missing"), None);
        let latest: Vec<u32> = recent.latest(3).iter().map(|record| record.items).collect();
        assert_eq!(latest, [30, 3, 20]);
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many_or_they_are_too_large() {
        let mut ended = Ended::default();
        for number in 0..10 {
            ended.push(Arc::new(record("r", number)), 4, usize::MAX);
        }
        let kept: Vec<u32> = ended.records.iter().map(|record| record.items).collect();
        assert_eq!(kept, [6, 7, 8, 9]);

        let mut large = record("r", 10);
        large.why = Some("x".repeat(1000));
        let size = large.size();
        ended.push(Arc::new(large), 4, size + 10);
        assert_eq!((ended.records.len(), ended.bytes), (1, size));
        ended.push(Arc::new(record("r", 11)), 4, 1);
        assert_eq!((ended.records.len(), ended.bytes), (0, 0));
    }

    #[test]
    fn an_id_is_known_by_its_beginning_if_no_other_begins_so() {
        let recent = Arc::new(Recent::default());
        for id in ["7f3a", "7f3a", "7f4b", "8", "80"] {
            recent.push(record(id, 1).into());
        }
        let _begun = recent.begin(record("9-runs", 1), Journal::default());
        assert_eq!(recent.ids("7f3"), ["7f3a"]);
        assert_eq!(recent.ids("7f"), ["7f4b", "7f3a"]);
        assert_eq!(recent.ids("8"), ["8"]);
        assert_eq!(recent.ids("9"), ["9-runs"]);
        assert!(recent.ids("x").is_empty());
    }

    #[test]
    fn one_that_runs_is_found_with_its_story_so_far() {
        let recent = Arc::new(Recent::default());
        recent.push(record("id", 1).into());
        let journal = Journal::default();
        let begun = recent.begin(record("id", 2), journal.clone());
        let _attempt = journal.attempt("a", None, crate::telemetry::Share::Whole);
        let found = recent.find("id").unwrap();
        assert_eq!((found.items, found.status), (2, None));
        assert_eq!(found.attempts[0].host, "a");
        drop(begun);
        assert_eq!(recent.find("id").unwrap().items, 1);
    }
}
