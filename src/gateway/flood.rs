//! A bound on what a client of HTTP/2 sends that is no request.
//!
//! SETTINGS, PING, PRIORITY, `WINDOW_UPDATE` and `RST_STREAM`, frames of unknown types and DATA of a byte or
//! of none are legal, each of them is work, and a client may send them for ever. The `h2` crate bounds some:
//! heads, in bytes and in frames; requests that are reset before they are taken on; empty DATA; tiny DATA
//! that nobody has read yet. So all frames are paid for, from an allowance that useful bytes fill up:
//!
//! ```text
//! allowance = 320,000 − 32 for each frame + bytes of DATA that come + bytes that go out + 3,200 each second
//! ```
//!
//! A frame that is neither DATA nor of a head, which `h2` bounds, costs as much as it is long if that is more:
//! SETTINGS may hold 2,700 of them.
//!
//! What answers a frame that asks for nothing is shorter than its price, so nothing pays for itself but
//! requests, their bodies and answers: a client of ordinary ways has 10,000 frames to spare at any time, and
//! 100 more each second. (nginx bears some 8 MiB of such frames on a connection.)

use std::time::Duration;

use tokio::time::Instant;

/// Price of a frame, in bytes that are of use. The answer to a PING has 17 bytes, that to the shortest
/// request about 100.
const FRAME: usize = 32;
/// Bytes that may be owed.
const ALLOWANCE: usize = 10_000 * FRAME;
/// Bytes that time adds: 100 frames. A client that shows that it is alive sends one in some seconds.
const EACH_SECOND: u128 = 100 * FRAME as u128;
/// What a client sends before its first frame.
const PREFACE: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();
/// Bytes in front of a frame's payload.
const HEAD: usize = 9;
/// Types of frames.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;

/// Reads the heads of frames, and skips all else.
#[derive(Debug)]
pub(super) struct Flood {
    /// What is left of the allowance; `None`: it did not suffice.
    left: Option<usize>,
    as_of: Instant,
    /// Bytes to skip before the next head.
    payload: usize,
    /// Bytes of that head that have come, and what they say.
    at: usize,
    length: usize,
    kind: u8,
}

impl Flood {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            left: Some(ALLOWANCE),
            as_of: now,
            payload: PREFACE,
            at: 0,
            length: 0,
            kind: 0,
        }
    }

    /// Could the client not pay? That stays so.
    pub(super) fn is_spent(&self) -> bool {
        self.left.is_none()
    }

    /// So many bytes of use have come or gone.
    pub(super) fn earn(&mut self, bytes: usize) {
        self.left = self
            .left
            .map(|left| left.saturating_add(bytes).min(ALLOWANCE));
    }

    /// These bytes have come.
    pub(super) fn read(&mut self, bytes: &[u8], now: Instant) {
        self.pass(now);
        let mut rest = bytes;
        while let Some((byte, after)) = rest.split_first() {
            if self.payload > 0 {
                let skipped = self.payload.min(rest.len());
                self.payload -= skipped;
                rest = rest.get(skipped..).unwrap_or_default();
            } else {
                self.head(*byte);
                rest = after;
            }
        }
    }

    /// Time passes. What is less than a byte's is left for later.
    fn pass(&mut self, now: Instant) {
        let time = now.duration_since(self.as_of);
        let bytes = time.as_micros() * EACH_SECOND / Duration::from_secs(1).as_micros();
        if bytes > 0 {
            self.as_of = now;
            self.earn(usize::try_from(bytes).unwrap_or(ALLOWANCE));
        }
    }

    /// The next byte of a head: three of the payload's length, one of the type, five of no interest.
    fn head(&mut self, byte: u8) {
        match self.at {
            0..3 => self.length = self.length << 8 | usize::from(byte),
            3 => self.kind = byte,
            _ => {}
        }
        self.at += 1;
        if self.at == HEAD {
            self.at = 0;
            self.payload = std::mem::take(&mut self.length);
            self.frame();
        }
    }

    fn frame(&mut self) {
        let price = match self.kind {
            DATA => {
                self.earn(self.payload);
                FRAME
            }
            HEADERS | CONTINUATION => FRAME,
            _ => FRAME.max(self.payload),
        };
        self.left = self.left.and_then(|left| left.checked_sub(price));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PING: u8 = 6;

    fn frame(kind: u8, length: usize) -> Vec<u8> {
        let mut frame = u32::try_from(length).unwrap().to_be_bytes()[1..].to_vec();
        frame.extend([kind, 0, 0, 0, 0, 0]);
        frame.resize(HEAD + length, b'x');
        frame
    }

    fn meter() -> (Flood, Instant) {
        let now = Instant::now();
        let mut meter = Flood::new(now);
        meter.read(&[b'x'; PREFACE], now);
        (meter, now)
    }

    /// How often that may be sent, and an answer of so many bytes got, `every` so often.
    fn bears(frames: &[u8], answer: usize, every: Duration) -> usize {
        let (mut meter, mut now) = meter();
        let times = (0..100_000).take_while(|_| {
            now += every;
            meter.read(frames, now);
            meter.earn(answer);
            !meter.is_spent()
        });
        times.count()
    }

    #[test]
    fn frames_are_told_apart_however_they_are_cut() {
        let frames = [
            frame(PING, 8),
            frame(DATA, 300),
            frame(4, 0),
            frame(DATA, 1),
        ]
        .concat();
        for size in 1..frames.len() {
            let (mut meter, now) = meter();
            meter.left = Some(1000);
            for piece in frames.chunks(size) {
                meter.read(piece, now);
            }
            assert_eq!(meter.left, Some(1000 - 4 * FRAME + 301), "{size}");
            assert_eq!((meter.payload, meter.at), (0, 0));
        }
    }

    #[test]
    fn what_is_of_no_use_is_borne_for_a_while() {
        for (what, frames, answer) in [
            ("pings", frame(PING, 8), 17),
            ("settings", frame(4, 6), 9),
            ("priorities", frame(2, 5), 0),
            ("a window of a byte", frame(8, 4), 10),
            ("unknown frames", frame(77, 10), 0),
            ("empty data", frame(DATA, 0), 0),
            ("tiny data", frame(DATA, 1), 0),
            (
                "requests that are reset",
                [frame(1, 50), frame(3, 4)].concat(),
                13,
            ),
        ] {
            let times = bears(&frames, answer, Duration::ZERO);
            assert!((5_000..25_000).contains(&times), "{what}: {times}");
        }
    }

    #[test]
    fn what_is_long_and_of_no_use_is_borne_for_as_many_bytes() {
        for (what, kind, length) in [("settings", 4, 16_200), ("unknown frames", 77, 1000)] {
            let bytes = length * bears(&frame(kind, length), 9, Duration::ZERO);
            assert!(
                (ALLOWANCE - length..2 * ALLOWANCE).contains(&bytes),
                "{what}: {bytes}"
            );
        }
        let heads = bears(&frame(HEADERS, 4000), 100, Duration::ZERO);
        assert_eq!(heads, 100_000, "heads are bounded elsewhere");
    }

    #[test]
    fn ordinary_use_never_ends() {
        let ping = frame(PING, 8);
        let update = frame(8, 4);
        let updates = [&update[..], &update].concat();
        let upload = frame(DATA, 16 << 10);
        let request = [frame(1, 40), frame(DATA, 80), updates.clone()].concat();
        let second = Duration::from_secs(1);
        for (what, frames, answer, every) in [
            ("a ping now and then", ping.clone(), 17, 10 * second),
            (
                "a ping each time that data come",
                ping,
                17 + 64,
                Duration::ZERO,
            ),
            (
                "a large download in small frames",
                updates,
                1024,
                Duration::ZERO,
            ),
            ("a large upload", upload, 13, Duration::ZERO),
            (
                "an upload in small frames",
                frame(DATA, 40),
                0,
                Duration::ZERO,
            ),
            ("small requests", request, 120, Duration::ZERO),
            ("the smallest requests", frame(1, 20), 100, Duration::ZERO),
            (
                "resets",
                [frame(1, 50), frame(3, 4)].concat(),
                0,
                second / 40,
            ),
        ] {
            assert_eq!(bears(&frames, answer, every), 100_000, "{what}");
        }
    }
}
