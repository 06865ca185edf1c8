//! What clients got, and whether that is what they were promised.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

/// Nobody waits longer: for an attempt on a host that hangs, and another, and a place in line after each.
const LONGEST: Duration = Duration::from_secs(15);
/// What follows from the first few is not worth reading.
const SHOWN: usize = 8;
/// Below so many answers a median says little.
const ENOUGH: usize = 50;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Who {
    /// Always has several requests in line.
    Heavy,
    /// One request at a time.
    Light,
    /// By HTTP/2.
    Multiplexed,
    /// Hangs up before its answer.
    Leaving,
    /// Goes before all others; comes now and then, and many at once.
    Urgent,
}

impl Who {
    pub(super) const ALL: [Self; 5] = [
        Self::Heavy,
        Self::Light,
        Self::Multiplexed,
        Self::Leaving,
        Self::Urgent,
    ];

    /// Of its key, in the configuration and in the log.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Heavy => "heavy",
            Self::Light => "light",
            Self::Multiplexed => "multiplexed",
            Self::Leaving => "leaving",
            Self::Urgent => "urgent",
        }
    }

    /// Of its key.
    pub(super) fn priority(self) -> u8 {
        if self == Self::Urgent { 9 } else { 0 }
    }
}

/// All that clients saw.
#[derive(Default)]
pub(super) struct Ledger(Mutex<Entries>);

#[derive(Default)]
struct Entries {
    latencies: BTreeMap<Who, Vec<Duration>>,
    left: usize,
    broken: Vec<String>,
}

impl Ledger {
    /// A right answer after so long.
    pub(super) fn answered(&self, who: Who, took: Duration) {
        let mut entries = self.0.lock().unwrap();
        entries.latencies.entry(who).or_default().push(took);
        drop(entries);
        if took > LONGEST {
            self.broken(format!(
                "{} waited {took:?}, more than {LONGEST:?}",
                who.name()
            ));
        }
    }

    /// A client has hung up.
    pub(super) fn left(&self) {
        self.0.lock().unwrap().left += 1;
    }

    /// A promise has been broken.
    pub(super) fn broken(&self, how: String) {
        let mut entries = self.0.lock().unwrap();
        if entries.broken.len() < SHOWN {
            entries.broken.push(how);
        }
    }

    /// The promises that have been broken so far.
    pub(super) fn all_broken(&self) -> Vec<String> {
        self.0.lock().unwrap().broken.clone()
    }

    pub(super) fn is_broken(&self) -> bool {
        !self.0.lock().unwrap().broken.is_empty()
    }

    /// Requests that were answered, and those whose client hung up.
    pub(super) fn counts(&self) -> (usize, usize) {
        let entries = self.0.lock().unwrap();
        (entries.latencies.values().map(Vec::len).sum(), entries.left)
    }

    /// A client with one request waits for its turn, not for all that another has in line. Where requests share
    /// attempts, hardly anybody waits for long, whoever is next.
    pub(super) fn is_fair(&self) -> Result<(), String> {
        let median = |who| {
            self.quantile(who, 0.5)
                .filter(|_| self.count(who) >= ENOUGH)
        };
        match (median(Who::Light), median(Who::Heavy)) {
            (Some(light), Some(heavy)) if light * 2 > heavy => Err(format!(
                "who asks for little waits {light:?}, and who asks for much {heavy:?} (medians)"
            )),
            _ => Ok(()),
        }
    }

    fn count(&self, who: Who) -> usize {
        self.0
            .lock()
            .unwrap()
            .latencies
            .get(&who)
            .map_or(0, Vec::len)
    }

    /// Of the latencies; `None` if there are none.
    pub(super) fn quantile(&self, who: Who, share: f64) -> Option<Duration> {
        let entries = self.0.lock().unwrap();
        quantile(entries.latencies.get(&who)?.clone(), share)
    }

    /// The latencies since the last call.
    pub(super) fn take(&self) -> Vec<Duration> {
        let mut entries = self.0.lock().unwrap();
        std::mem::take(&mut entries.latencies)
            .into_values()
            .flatten()
            .collect()
    }
}

/// `None` of nothing.
pub(super) fn quantile(mut all: Vec<Duration>, share: f64) -> Option<Duration> {
    all.sort_unstable();
    let place = (all.len().checked_sub(1)? as f64 * share).round();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and the length"
    )]
    all.get(place as usize).copied()
}
