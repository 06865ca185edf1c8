//! What happens to one request while it happens: its waits and attempts, each a guard that writes down
//! its end when it is dropped, so that a request that is given up half-way is as well described as one
//! that is answered.
//!
//! Of a request that goes from busy host to busy host the first and the last waits and attempts are kept,
//! so that its story, its line in the log and its trace stay short.
//!
//! Shared: whoever asks sees the story so far. The lock is held for a few copies.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::request_record::{ABANDONED, RUNNING, RequestRecord, Tried, Wait};
use super::trace::SpanId;

/// Longer texts, such as a chain of errors, are cut.
const MAX_TEXT: usize = 300;
/// Shorter waits are not worth a line in the story.
const NOTEWORTHY: Duration = Duration::from_millis(1);

/// Waits, and attempts, of which nothing is left out; more than it takes to ask each host of a usual pool.
const MOST: usize = 32;
/// Of more, so many are the first ones, the others the last.
pub(super) const FIRST: usize = MOST / 2;

/// See the module; cheap to clone.
#[derive(Clone, Debug)]
pub struct Journal {
    started: Instant,
    story: Arc<Mutex<Story>>,
}

/// What an attempt was for.
#[derive(Clone, Copy, Debug)]
pub enum Share {
    /// The request.
    Whole,
    /// So many of its items.
    Part(u32),
    /// The request, and so many others.
    WithOthers(u32),
}

/// What has happened so far.
#[derive(Clone, Debug, Default)]
pub struct Story {
    /// Each time in line, however short.
    pub waits: Vec<Wait>,
    /// Each attempt, in order.
    pub attempts: Vec<Tried>,
    waits_left_out: LeftOut,
    attempts_left_out: LeftOut,
}

/// What stood between the first ones and the last.
#[derive(Clone, Copy, Debug, Default)]
struct LeftOut {
    count: usize,
    /// How long they took, one after the other.
    took: Duration,
}

impl LeftOut {
    /// Adds `new` to `list`. Returns its number, by which [`Self::find`] finds it.
    fn push<T>(
        &mut self,
        list: &mut Vec<T>,
        new: T,
        took: impl Fn(&T) -> Option<Duration>,
    ) -> usize {
        if list.len() >= MOST {
            let oldest = list.remove(FIRST);
            self.count += 1;
            self.took += took(&oldest).unwrap_or_default();
        }
        list.push(new);
        list.len() - 1 + self.count
    }

    /// `None`: it was left out meanwhile.
    fn find<'a, T>(&self, list: &'a mut [T], number: usize) -> Option<&'a mut T> {
        let position = if number < FIRST {
            number
        } else {
            number.checked_sub(self.count).filter(|it| *it >= FIRST)?
        };
        list.get_mut(position)
    }
}

/// A wait that lasts until this is dropped.
#[derive(Debug)]
pub struct NotedWait {
    journal: Journal,
    number: usize,
    started: Instant,
}

/// An attempt that runs until this is dropped.
#[derive(Debug)]
pub struct NotedAttempt {
    journal: Journal,
    number: usize,
}

impl Default for Journal {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            story: Arc::default(),
        }
    }
}

impl Journal {
    /// When it was begun.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Since it was begun.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Begins to wait for a host.
    pub fn wait(&self) -> NotedWait {
        let after = self.elapsed();
        let wait = Wait {
            after,
            took: None,
            why: None,
        };
        let story = &mut *self.story.lock();
        let left_out = &mut story.waits_left_out;
        NotedWait {
            journal: self.clone(),
            number: left_out.push(&mut story.waits, wait, |wait| wait.took),
            started: self.started + after,
        }
    }

    /// Begins an attempt.
    pub fn attempt(&self, host: &str, span_id: Option<SpanId>, share: Share) -> NotedAttempt {
        let (items, others) = match share {
            Share::Whole => (None, None),
            Share::Part(items) => (Some(items), None),
            Share::WithOthers(others) => (None, Some(others)),
        };
        let attempt = Tried {
            host: host.to_owned(),
            after: self.elapsed(),
            took: None,
            verdict: Cow::Borrowed(RUNNING),
            reason: None,
            items,
            others,
            span_id,
        };
        let story = &mut *self.story.lock();
        let left_out = &mut story.attempts_left_out;
        NotedAttempt {
            journal: self.clone(),
            number: left_out.push(&mut story.attempts, attempt, |attempt| attempt.took),
        }
    }

    /// Time so far: spent waiting, with at least one attempt running, and in all.
    pub fn times(&self) -> [Duration; 3] {
        let now = self.elapsed();
        let story = self.story.lock();
        [story.queued(now), story.upstream(now), now]
    }

    /// Time spent waiting so far.
    pub fn queued(&self) -> Duration {
        self.story.lock().queued(self.elapsed())
    }

    /// Time so far with at least one attempt running.
    pub fn upstream(&self) -> Duration {
        self.story.lock().upstream(self.elapsed())
    }

    /// A copy of what has happened so far.
    pub fn story(&self) -> Story {
        self.story.lock().clone()
    }

    /// Tells the story so far.
    pub fn tell(&self, record: &mut RequestRecord) {
        let now = self.elapsed();
        let story = self.story();
        record.total = now;
        record.queued = story.queued(now);
        record.upstream = story.upstream(now);
        record.attempts = story.attempts;
        record.attempts_left_out = story.attempts_left_out.count;
        record.waits = story.waits;
        let is_noteworthy = |wait: &Wait| wait.took.is_none_or(|took| took >= NOTEWORTHY);
        record.waits.retain(is_noteworthy);
    }
}

impl Story {
    fn queued(&self, now: Duration) -> Duration {
        let waits = self.waits.iter();
        let times = waits.map(|wait| wait.took.unwrap_or(now.saturating_sub(wait.after)));
        times.sum::<Duration>() + self.waits_left_out.took
    }

    fn upstream(&self, now: Duration) -> Duration {
        let spans = self.attempts.iter().map(|attempt| {
            let end = attempt.took.map_or(now, |took| attempt.after + took);
            (attempt.after, end)
        });
        covered(spans) + self.attempts_left_out.took
    }
}

/// How much time spans cover that may overlap; in the order of their beginnings.
fn covered(spans: impl Iterator<Item = (Duration, Duration)>) -> Duration {
    let mut sum = Duration::ZERO;
    let mut until = Duration::ZERO;
    for (start, end) in spans {
        sum += end.saturating_sub(start.max(until));
        until = until.max(end);
    }
    sum
}

impl NotedWait {
    /// When it began.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Says what is waited for.
    pub fn because(&self, why: String) {
        let story = &mut *self.journal.story.lock();
        if let Some(wait) = story.waits_left_out.find(&mut story.waits, self.number) {
            wait.why = Some(cut(why));
        }
    }
}

impl Drop for NotedWait {
    fn drop(&mut self) {
        let now = self.journal.elapsed();
        let story = &mut *self.journal.story.lock();
        if let Some(wait) = story.waits_left_out.find(&mut story.waits, self.number) {
            wait.took = Some(now.saturating_sub(wait.after));
        }
    }
}

impl NotedAttempt {
    /// The attempt has ended; dropped without it, it was abandoned.
    pub fn end(self, verdict: &'static str, reason: Option<String>) {
        let story = &mut *self.journal.story.lock();
        let left_out = &story.attempts_left_out;
        if let Some(attempt) = left_out.find(&mut story.attempts, self.number) {
            attempt.verdict = Cow::Borrowed(verdict);
            attempt.reason = reason.map(cut);
        }
    }
}

impl Drop for NotedAttempt {
    fn drop(&mut self) {
        let now = self.journal.elapsed();
        let story = &mut *self.journal.story.lock();
        let left_out = &story.attempts_left_out;
        let Some(attempt) = left_out.find(&mut story.attempts, self.number) else {
            return;
        };
        attempt.took = Some(now.saturating_sub(attempt.after));
        if attempt.verdict == RUNNING {
            attempt.verdict = Cow::Borrowed(ABANDONED);
        }
    }
}

fn cut(mut text: String) -> String {
    if text.len() > MAX_TEXT {
        text.truncate(text.floor_char_boundary(MAX_TEXT));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn what_is_dropped_is_written_down() {
        let journal = Journal::default();
        let waiting = journal.wait();
        waiting.because("a: full".to_owned());
        tokio::time::advance(SECOND).await;
        drop(waiting);
        let good = journal.attempt("a", None, Share::Whole);
        let lost = journal.attempt("b", None, Share::Whole);
        tokio::time::advance(2 * SECOND).await;
        assert_eq!(journal.story().attempts[0].verdict, RUNNING);
        assert_eq!(journal.upstream(), 2 * SECOND);
        good.end("deliver", None);
        tokio::time::advance(SECOND).await;
        drop(lost);

        let mut record = RequestRecord::new(String::new());
        journal.wait();
        journal.tell(&mut record);
        assert_eq!(record.waits.len(), 1, "one that took no time is none");
        assert_eq!(record.waits[0].took, Some(SECOND));
        let told: Vec<_> = record
            .attempts
            .iter()
            .map(|tried| (&*tried.verdict, tried.after, tried.took))
            .collect();
        let expected = [
            ("deliver", SECOND, Some(2 * SECOND)),
            (ABANDONED, SECOND, Some(3 * SECOND)),
        ];
        assert_eq!(told, expected);
        assert_eq!((record.queued, record.upstream), (SECOND, 3 * SECOND));
        assert_eq!(record.total, 4 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_and_the_last_of_thousands_are_told() {
        let journal = Journal::default();
        for number in 0..3000 {
            let waiting = journal.wait();
            waiting.because("all hosts are full".to_owned());
            tokio::time::advance(SECOND).await;
            drop(waiting);
            let attempt = journal.attempt(&format!("host-{number}"), None, Share::Whole);
            tokio::time::advance(2 * SECOND).await;
            attempt.end("busy", None);
        }
        let last = journal.attempt("last", None, Share::Whole);
        let mut record = RequestRecord::new(String::new());
        journal.tell(&mut record);
        assert_eq!((record.attempts.len(), record.waits.len()), (MOST, MOST));
        assert_eq!(record.attempts_left_out, 3001 - MOST);
        assert_eq!(
            (record.queued, record.upstream),
            (3000 * SECOND, 6000 * SECOND)
        );
        assert_eq!(record.attempts[FIRST - 1].host, "host-15");
        let told = record.hosts();
        assert!(
            told.starts_with("host-0:busy:2000ms host-1:busy:2000ms "),
            "{told}"
        );
        assert!(
            told.contains(" host-15:busy:2000ms (2969 more) host-2985:"),
            "{told}"
        );
        assert!(
            told.ends_with(" last:running:0ms") && told.len() < 1000,
            "{told}"
        );
        last.end("deliver", None);
        assert_eq!(journal.story().attempts.last().unwrap().verdict, "deliver");
        assert!(
            journal
                .story()
                .waits
                .iter()
                .all(|wait| wait.took == Some(SECOND))
        );
    }

    #[test]
    fn overlapping_times_count_once() {
        let covered = |spans: &[(u32, u32)]| {
            let times = spans
                .iter()
                .map(|(from, to)| (SECOND * *from, SECOND * *to));
            covered(times).as_secs()
        };
        assert_eq!(covered(&[]), 0);
        assert_eq!(covered(&[(0, 2), (3, 4)]), 3);
        assert_eq!(covered(&[(0, 4), (1, 2), (3, 6)]), 6);
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let cut = cut("é".repeat(MAX_TEXT));
        assert_eq!(cut.chars().count(), MAX_TEXT / 2 + 1);
    }
}
