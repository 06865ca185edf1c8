//! Log lines on their way to a sink that may be full, slow, stuck or gone.
//!
//! ```text
//! whoever logs ─▶ waiting (bounded) ─▶ thread ─▶ sink
//!                    └─ full: dropped    └─ refused: dropped
//! ```
//!
//! Whoever logs holds the lock while one line is copied, and waits for nothing else. The thread alone
//! waits for the sink. It rests after each time that it has written, and takes what was logged meanwhile
//! together: waking it costs more than a line does. What is dropped is counted, and told as soon as the
//! sink takes lines again.

use std::io::{self, ErrorKind, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use memchr::{memchr, memchr_iter, memrchr};
use prometheus::IntCounter;

/// Bytes that wait; as many again may be on their way to the sink. Some thousands of lines.
const MAX_WAITING: usize = 1 << 20;
/// Lines are written together up to this size, which pipes take in one piece (`PIPE_BUF` of Linux):
/// two processes may share one, as during an upgrade.
const ONE_PIECE: usize = 4096;
/// Lines that come one soon after another wait so long; one that comes after a pause goes out at once.
const REST: Duration = Duration::from_millis(10);
/// Until a sink is tried again that must not be waited for (`O_NONBLOCK`).
const RETRY: Duration = Duration::from_millis(20);

/// See the module. As a writer, each write is taken for one or more whole lines, and never fails.
#[derive(Debug)]
pub struct Lines {
    state: Mutex<State>,
    /// Lines wait, and the thread for them.
    wanted: Condvar,
    /// All lines are done with.
    done: Condvar,
    dropped: IntCounter,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<u8>,
    is_writing: bool,
    /// The thread waits for lines, and nobody has woken it yet.
    is_idle: bool,
    /// Dropped since that was last told.
    untold: u64,
}

impl Lines {
    /// Starts the thread that writes to `sink`. `dropped` counts; `tell` is told how many were dropped,
    /// each time that the sink takes lines again.
    pub(crate) fn start(
        sink: impl Write + Send + 'static,
        dropped: IntCounter,
        tell: impl Fn(u64) + Send + 'static,
    ) -> Arc<Self> {
        let lines = Arc::new(Self {
            state: Mutex::default(),
            wanted: Condvar::new(),
            done: Condvar::new(),
            dropped,
        });
        let of_thread = Arc::clone(&lines);
        let sink = Sink {
            out: sink,
            is_torn: false,
        };
        // Without a thread, all lines are dropped, and counted, once those that wait are too many.
        let thread = thread::Builder::new().name("log".to_owned());
        drop(thread.spawn(move || of_thread.run(sink, tell)));
        lines
    }

    /// Waits until all lines are done with, but no longer than `time`.
    pub(crate) fn flush_within(&self, time: Duration) {
        let is_busy = |state: &mut State| state.is_writing || !state.waiting.is_empty();
        let waited = self
            .done
            .wait_timeout_while(self.lock(), time, is_busy)
            .unwrap_or_else(PoisonError::into_inner);
        drop(waited);
    }

    fn push(&self, lines: &[u8]) {
        let mut state = self.lock();
        if state.waiting.len() + lines.len() > MAX_WAITING {
            self.drop_some(&mut state, count(lines));
            return;
        }
        state.waiting.extend_from_slice(lines);
        let is_idle = std::mem::take(&mut state.is_idle);
        drop(state);
        if is_idle {
            self.wanted.notify_one();
        }
    }

    fn run(&self, mut sink: Sink<impl Write>, tell: impl Fn(u64)) {
        let mut batch = Vec::new();
        loop {
            self.take(&mut batch);
            for piece in pieces(&batch) {
                let lost = sink.write(piece);
                if lost > 0 {
                    self.drop_some(&mut self.lock(), lost);
                } else if let Some(untold) = self.untold() {
                    tell(untold);
                }
            }
            self.lock().is_writing = false;
            self.done.notify_all();
            thread::sleep(REST);
        }
    }

    /// Waits for lines and takes all that wait.
    fn take(&self, batch: &mut Vec<u8>) {
        batch.clear();
        let is_empty = |state: &mut State| {
            state.is_idle = state.waiting.is_empty();
            state.is_idle
        };
        let mut state = self
            .wanted
            .wait_while(self.lock(), is_empty)
            .unwrap_or_else(PoisonError::into_inner);
        state.is_writing = true;
        std::mem::swap(batch, &mut state.waiting);
    }

    /// What is to be told now: telling it takes a line, for which there must be room.
    fn untold(&self) -> Option<u64> {
        let mut state = self.lock();
        let is_due = state.untold > 0 && state.waiting.len() < MAX_WAITING / 2;
        is_due.then(|| std::mem::take(&mut state.untold))
    }

    fn drop_some(&self, state: &mut State, lines: u64) {
        state.untold += lines;
        self.dropped.inc_by(lines);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for &Lines {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        self.push(lines);
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where lines go in the end.
struct Sink<W> {
    out: W,
    /// It took the beginning of a line and refused the rest.
    is_torn: bool,
}

impl<W: Write> Sink<W> {
    /// Returns how many of `lines` are lost.
    fn write(&mut self, lines: &[u8]) -> u64 {
        if self.is_torn && !self.put(b"\n").is_empty() {
            return count(lines);
        }
        let lost = self.put(lines);
        let taken = lines.strip_suffix(lost).unwrap_or_default();
        self.is_torn = taken.last().is_some_and(|byte| *byte != b'\n');
        count(lost)
    }

    /// Returns what was not taken.
    fn put<'a>(&mut self, mut bytes: &'a [u8]) -> &'a [u8] {
        while !bytes.is_empty() {
            match self.out.write(bytes) {
                Ok(0) => break,
                Ok(taken) => bytes = bytes.get(taken..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(RETRY),
                Err(_) => break,
            }
        }
        bytes
    }
}

/// A line whose end is missing is one as well.
fn count(lines: &[u8]) -> u64 {
    let ends = memchr_iter(b'\n', lines).count();
    let is_open = lines.last().is_some_and(|byte| *byte != b'\n');
    (ends + usize::from(is_open)) as u64
}

/// `batch` in pieces of whole lines, each of [`ONE_PIECE`] at most unless it is one longer line.
fn pieces(mut batch: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let fitting = batch.get(..ONE_PIECE).unwrap_or(batch);
        let end = memrchr(b'\n', fitting);
        let end = end.or_else(|| memchr(b'\n', batch));
        let (piece, rest) = batch.split_at(end.map_or(batch.len(), |end| end + 1));
        batch = rest;
        (!piece.is_empty()).then_some(piece)
    })
}

#[cfg(test)]
mod tests;
