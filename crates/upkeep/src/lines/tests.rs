use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;

/// Only a failing test waits that long.
const PATIENCE: Duration = Duration::from_secs(20);

/// A sink that asks for each write what becomes of it, and tells what it took.
struct Scripted {
    answers: Receiver<io::Result<usize>>,
    taken: Sender<Vec<u8>>,
}

impl Write for Scripted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // When there is no more script, all is well.
        let answer = self.answers.recv().unwrap_or(Ok(usize::MAX))?;
        let taken = &bytes[..answer.min(bytes.len())];
        let _ = self.taken.send(taken.to_vec());
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Fixture {
    lines: Arc<Lines>,
    answers: Sender<io::Result<usize>>,
    taken: Receiver<Vec<u8>>,
    told: Receiver<u64>,
}

fn fixture() -> Fixture {
    let (answers, asked) = channel();
    let (take, taken) = channel();
    let (tell, told) = channel();
    let sink = Scripted {
        answers: asked,
        taken: take,
    };
    let dropped = IntCounter::new("dropped", "dropped").unwrap();
    let lines = Lines::start(sink, dropped, move |lines| {
        let _ = tell.send(lines);
    });
    Fixture {
        lines,
        answers,
        taken,
        told,
    }
}

impl Fixture {
    fn log(&self, line: &str) {
        (&*self.lines).write_all(line.as_bytes()).unwrap();
    }

    fn answers(&self, answer: io::Result<usize>) {
        self.answers.send(answer).unwrap();
    }

    fn takes(&self, text: &str) {
        self.answers(Ok(usize::MAX));
        self.took(text);
    }

    fn took(&self, text: &str) {
        let taken = self.taken.recv_timeout(PATIENCE).unwrap();
        assert_eq!(String::from_utf8(taken).unwrap(), text);
    }

    fn dropped(&self) -> u64 {
        self.lines.flush_within(PATIENCE);
        self.lines.dropped.get()
    }
}

fn refusal() -> io::Result<usize> {
    Err(ErrorKind::StorageFull.into())
}

#[test]
fn lines_arrive_in_their_order() {
    let log = fixture();
    log.log("one\n");
    log.takes("one\n");
    log.log("two\n");
    log.takes("two\n");
    assert_eq!(log.dropped(), 0);
}

#[test]
fn a_sink_that_refuses_lines_costs_these_and_the_loss_is_told_once() {
    let log = fixture();
    for line in ["one\n", "two\n"] {
        log.log(line);
        log.answers(refusal());
        log.lines.flush_within(PATIENCE);
    }
    assert_eq!(log.dropped(), 2);
    assert!(log.told.try_recv().is_err(), "while it refuses");

    for line in ["three\n", "four\n"] {
        log.log(line);
        log.takes(line);
    }
    assert_eq!(log.dropped(), 2);
    assert_eq!(log.told.try_iter().collect::<Vec<_>>(), [2]);
}

#[test]
fn a_sink_that_is_stuck_holds_nobody_up_and_what_is_too_much_is_counted() {
    let log = fixture();
    let line = format!("{}\n", "x".repeat(1023));
    for _ in 0..5000 {
        log.log(&line);
    }
    let dropped = log.lines.dropped.get();
    assert!(dropped >= 5000 - 2 * 1024, "{dropped}");
    assert!(log.lines.lock().waiting.len() <= MAX_WAITING);

    drop(log.answers);
    assert_eq!(log.told.recv_timeout(PATIENCE).unwrap(), dropped);
    log.lines.flush_within(PATIENCE);
    let taken: u64 = log.taken.try_iter().map(|lines| count(&lines)).sum();
    assert_eq!(taken + dropped, 5000);
    assert_eq!(log.lines.dropped.get(), dropped);
}

#[test]
fn the_end_waits_for_a_stuck_sink_for_so_long_only() {
    let log = fixture();
    log.log("stuck\n");
    log.lines.flush_within(Duration::from_millis(1));
    log.takes("stuck\n");
    log.lines.flush_within(PATIENCE);
    assert!(!log.lines.lock().is_writing);
}

#[test]
fn after_a_line_that_was_torn_the_next_one_begins_anew() {
    let log = fixture();
    log.log("one\n");
    log.answers(Ok(2));
    log.answers(refusal());
    log.took("on");
    assert_eq!(log.dropped(), 1);

    log.log("two\n");
    log.takes("\n");
    log.takes("two\n");
    assert_eq!(log.told.recv_timeout(PATIENCE).unwrap(), 1);
}

#[test]
fn a_sink_that_is_not_waited_for_is_tried_again() {
    let log = fixture();
    log.log("one\n");
    log.answers(Err(ErrorKind::WouldBlock.into()));
    log.answers(Err(ErrorKind::Interrupted.into()));
    log.answers(Ok(1));
    log.took("o");
    log.takes("ne\n");
    assert_eq!(log.dropped(), 0);
}

#[test]
fn pieces_are_whole_lines_that_a_pipe_takes_at_once() {
    let lines = |lengths: &[usize]| -> String {
        let line = |length: &usize| format!("{}\n", "x".repeat(length - 1));
        lengths.iter().map(line).collect()
    };
    for (batch, expected) in [
        (&[][..], &[][..]),
        (&[10, 20], &[30]),
        (&[4096], &[4096]),
        (&[4000, 96, 1], &[4096, 1]),
        (&[4000, 97], &[4000, 97]),
        (&[10, 9000, 10], &[10, 9000, 10]),
    ] {
        let batch = lines(batch);
        let lengths: Vec<usize> = pieces(batch.as_bytes()).map(<[u8]>::len).collect();
        assert_eq!(lengths, expected);
    }
    let open = pieces(b"no end").collect::<Vec<_>>();
    assert_eq!(open, [b"no end"]);
}
