//! Bytes that nobody expects, for whatever reads bytes of strangers.
//!
//! A target is a function of bytes that panics if what must always hold does not. Targets stand beside the code
//! that they are about (modules `fuzz`, compiled for tests and for fuzzing only), each with a few good and bad
//! inputs in `fuzz/corpus/NAME/`. They are run in two ways:
//!
//! - by [`run`], in every test run and with nothing but a stable compiler: for a moment, on the corpus and on
//!   mutations of it;
//! - by libFuzzer (`make fuzz TIME=60`), which is guided by what code an input reaches.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fastrand::Rng;

/// Its name, which is that of its corpus, and it.
pub type Target = (&'static str, fn(&[u8]));

/// Edits of one input.
const MOST_EDITS: usize = 6;
/// Bytes that one edit puts in or takes away.
const MOST_BYTES: usize = 24;
/// What is odd in most formats.
const ODD: [&[u8]; 22] = [
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\r\n",
    b"\n",
    b"\r",
    b" ",
    b"\t",
    b"\"",
    b"\\",
    b"\\ud800",
    b"{",
    b"[",
    b"]",
    b":",
    b",",
    b"-",
    b"0",
    b"1e999",
    b"null",
    b"18446744073709551616",
    b"4294967295",
];

/// Failures of one kind: how they are told, without what differs from input to input, and an input that fails so.
type Failures = BTreeMap<String, Vec<u8>>;

/// Runs each of `targets` on its corpus, then on mutations of it for `FUZZ_SECONDS` (1).
///
/// # Panics
/// A target does: tells of each kind of failure an input that fails so. Or there is no corpus.
#[expect(clippy::print_stdout, reason = "it is a test")]
pub fn run(targets: &[Target]) {
    let mut failed = String::new();
    for (name, target) in targets {
        let (inputs, failures) = run_one(&corpus(name), *target);
        println!("{name}: {inputs} inputs");
        for (why, input) in failures {
            // Writing to memory does not fail.
            let _ = write!(failed, "\n{name}: {why}: b\"{}\"", input.escape_ascii());
        }
    }
    assert!(failed.is_empty(), "{failed}");
}

fn run_one(seeds: &[Vec<u8>], target: fn(&[u8])) -> (u64, Failures) {
    let mut failures = Failures::new();
    let mut bears = |input: &[u8]| {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(input))) {
            let told = panic.downcast_ref::<String>().map_or("", String::as_str);
            let told = panic.downcast_ref::<&str>().unwrap_or(&told);
            let kind = told
                .split_terminator(|c: char| c.is_ascii_digit() || c == '\n')
                .next();
            failures
                .entry(kind.unwrap_or_default().to_owned())
                .or_insert_with(|| input.to_vec());
        }
    };
    for seed in seeds {
        bears(seed);
    }
    let seconds = std::env::var("FUZZ_SECONDS").ok();
    let seconds = seconds.and_then(|it| it.parse().ok()).unwrap_or(1);
    let (start, mut random, mut inputs) = (Instant::now(), Rng::new(), 0);
    while start.elapsed() < Duration::from_secs(seconds) {
        bears(&mutated(seeds, &mut random));
        inputs += 1;
    }
    (inputs, failures)
}

/// # Panics
/// It is missing, empty, or can't be read.
#[expect(clippy::panic, clippy::expect_used, reason = "it is a test")]
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(name);
    let files =
        std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let files: Vec<PathBuf> = files.map(|file| file.expect("a file").path()).collect();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    let content = |file: &PathBuf| std::fs::read(file).expect("a readable file");
    files.iter().map(content).collect()
}

/// One of the `seeds`, of which there is at least one, edited.
fn mutated(seeds: &[Vec<u8>], random: &mut Rng) -> Vec<u8> {
    let mut bytes = seeds[random.usize(..seeds.len())].clone();
    for _ in 0..random.usize(1..=MOST_EDITS) {
        let at = random.usize(..=bytes.len());
        let byte = bytes.get_mut(at);
        match (random.u8(..6), byte) {
            (0, Some(byte)) => *byte = random.u8(..),
            (1, Some(byte)) => *byte ^= 1 << random.u8(..8),
            (2, _) => drop(bytes.splice(piece(&bytes, random), [])),
            (3, _) => {
                let repeated = bytes[piece(&bytes, random)].repeat(random.usize(1..4));
                bytes.splice(at..at, repeated);
            }
            (4, _) => {
                let other = &seeds[random.usize(..seeds.len())];
                bytes.splice(at..at, other[piece(other, random)].iter().copied());
            }
            _ => drop(bytes.splice(at..at, ODD[random.usize(..ODD.len())].iter().copied())),
        }
    }
    bytes
}

fn piece(bytes: &[u8], random: &mut Rng) -> std::ops::Range<usize> {
    let start = random.usize(..=bytes.len());
    start..bytes.len().min(start + random.usize(..MOST_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Far from what is in its corpus: a head that ends, with a backslash in it.
    fn planted(bytes: &[u8]) {
        let is_reached = bytes.windows(4).any(|four| four == b"\r\n\r\n") && bytes.contains(&b'\\');
        assert!(!is_reached);
    }

    #[test]
    fn a_planted_fault_is_found_and_told_with_its_input() {
        let found = catch_unwind(|| run(&[("planted", planted)])).expect_err("found");
        let told = found.downcast_ref::<String>().expect("a text");
        assert!(
            told.starts_with("\nplanted: ") && told.contains(r"\\"),
            "{told}"
        );
    }
}
