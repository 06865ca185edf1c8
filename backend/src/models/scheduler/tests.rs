//! The scheduler with an encoder that does as it is told.

use std::sync::mpsc;
use std::thread;

use gpu_bridge_encoder::{Hidden, Stop};

use super::*;

/// Tells of each batch and computes it when told to; then each token's vector is its id. Fails at
/// [`BAD`], panics at [`WORSE`], is full if a batch holds more than [`ROOM`] texts with [`LARGE`].
struct Scripted {
    began: mpsc::Sender<Vec<Vec<u32>>>,
    go_on: Mutex<mpsc::Receiver<()>>,
}

const BAD: u32 = 666;
const WORSE: u32 = 667;
const LARGE: u32 = 1000;
const ROOM: usize = 2;

impl Encode for Scripted {
    fn forward_until(&self, batch: &[&[u32]], stop: &Stop<'_>) -> Result<Hidden, EncodeError> {
        drop(
            self.began
                .send(batch.iter().map(|ids| ids.to_vec()).collect()),
        );
        self.go_on.lock().expect("lock").recv().ok();
        if stop() {
            return Err(EncodeError::Stopped);
        }
        let all = batch.concat();
        assert!(!all.contains(&WORSE), "on purpose");
        if all.contains(&BAD) {
            let bad = batch.iter().position(|ids| ids.contains(&BAD));
            let (sequence, id, vocabulary) = (bad.expect("found"), BAD, 0);
            return Err(gpu_bridge_encoder::ForwardError::UnknownToken {
                sequence,
                id,
                vocabulary,
            }
            .into());
        }
        if batch.iter().filter(|ids| ids.contains(&LARGE)).count() > ROOM {
            return Err(EncodeError::OutOfMemory);
        }
        let ends = (1..=batch.len())
            .map(|n| batch[..n].concat().len())
            .collect();
        Ok(Hidden::new(
            all.iter().map(|id| *id as f32).collect(),
            1,
            ends,
        ))
    }

    fn width(&self) -> usize {
        1
    }

    fn bytes(&self) -> u64 {
        0
    }
}

/// A device under control: what it began, and how to let it go on.
struct Bench {
    scheduler: Scheduler,
    encoder: Arc<dyn Encode>,
    began: Mutex<mpsc::Receiver<Vec<Vec<u32>>>>,
    go_on: mpsc::Sender<()>,
}

fn bench(budget: usize) -> Bench {
    let (tell, began) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel();
    Bench {
        scheduler: Scheduler::start(budget, EngineMetrics::default()).expect("starts"),
        encoder: Arc::new(Scripted {
            began: tell,
            go_on: Mutex::new(may_go_on),
        }),
        began: Mutex::new(began),
        go_on,
    }
}

impl Bench {
    /// The batch that the device has begun; waits for it.
    fn next_batch(&self) -> Vec<Vec<u32>> {
        self.began.lock().expect("lock").recv().expect("began")
    }

    /// Lets the device run through whatever comes.
    fn release(&self) {
        (0..1000).for_each(|_| self.go_on.send(()).expect("the encoder lives"));
    }

    fn encode(
        &self,
        texts: &[&[u32]],
        progress: &dyn Progress,
    ) -> Result<Vec<Vec<f32>>, EngineError> {
        let mut rows = vec![Vec::new(); texts.len()];
        let ids = texts.iter().map(|ids| Ok(ids.to_vec()));
        self.scheduler
            .encode(&self.encoder, progress, ids, |nth, _, hidden| {
                rows[nth] = hidden.to_vec();
            })?;
        Ok(rows)
    }
}

#[derive(Default)]
struct Waiting(Cancellation);

impl Progress for Waiting {
    fn finished(&self, _: usize) {}

    fn cancellation(&self) -> Cancellation {
        self.0.clone()
    }
}

#[test]
fn every_text_gets_its_own_rows() {
    let bench = bench(4);
    bench.release();
    let rows = bench
        .encode(&[&[1, 2, 3], &[4], &[5, 6]], &Waiting::default())
        .expect("rows");
    assert_eq!(rows, [vec![1.0, 2.0, 3.0], vec![4.0], vec![5.0, 6.0]]);
    assert!(
        bench
            .encode(&[], &Waiting::default())
            .expect("nothing")
            .is_empty()
    );
}

#[test]
fn a_batch_forms_from_all_requests_while_the_one_before_runs() {
    let bench = bench(100);
    thread::scope(|scope| {
        let first = scope.spawn(|| bench.encode(&[&[1]], &Waiting::default()));
        assert_eq!(bench.next_batch(), [[1]]);
        let others: Vec<_> = (2..5_u32)
            .map(|id| {
                let bench = &bench;
                scope.spawn(move || bench.encode(&[&[id]], &Waiting::default()))
            })
            .collect();
        while bench.scheduler.shared.lock().waiting() < 3 {
            thread::yield_now();
        }
        bench.release();
        let mut batch = bench.next_batch();
        batch.sort();
        assert_eq!(batch, [[2], [3], [4]], "one batch for all that waited");
        for request in others.into_iter().chain([first]) {
            assert!(request.join().expect("thread").is_ok());
        }
    });
}

#[test]
fn a_text_that_breaks_a_batch_fails_alone() {
    for bad in [BAD, WORSE] {
        let bench = bench(100);
        thread::scope(|scope| {
            let first = scope.spawn(|| bench.encode(&[&[1]], &Waiting::default()));
            bench.next_batch();
            let requests: Vec<_> = [2, bad, 3, 4]
                .into_iter()
                .map(|id| {
                    let bench = &bench;
                    scope.spawn(move || (id, bench.encode(&[&[id], &[9]], &Waiting::default())))
                })
                .collect();
            while bench.scheduler.shared.lock().waiting() < 8 {
                thread::yield_now();
            }
            bench.release();
            assert!(first.join().expect("thread").is_ok());
            for request in requests {
                let (id, outcome) = request.join().expect("thread");
                match outcome {
                    Ok(rows) => assert_eq!(rows, [vec![id as f32], vec![9.0]]),
                    Err(EngineError::UnknownToken { .. } | EngineError::Inference(_)) => {
                        assert_eq!(id, bad);
                    }
                    Err(other) => panic!("{other}"),
                }
            }
        });
    }
}

#[test]
fn a_batch_too_large_for_the_device_is_halved() {
    let bench = bench(100);
    bench.release();
    let texts: Vec<&[u32]> = vec![&[LARGE]; 5];
    let rows = bench
        .encode(&texts, &Waiting::default())
        .expect("fits in parts");
    assert_eq!(rows, vec![vec![LARGE as f32]; 5]);
}

#[test]
fn a_request_that_nobody_waits_for_is_dropped_before_the_next_batch() {
    let bench = bench(1);
    let progress = Waiting::default();
    thread::scope(|scope| {
        let request = scope.spawn(|| bench.encode(&[&[1], &[2], &[3]], &progress));
        assert_eq!(bench.next_batch(), [[1]]);
        progress.0.cancel();
        bench.release();
        let outcome = request.join().expect("thread");
        assert!(
            matches!(outcome, Err(EngineError::Cancelled)),
            "{outcome:?}"
        );
    });
    let rows = bench.encode(&[&[7]], &Waiting::default()).expect("goes on");
    assert_eq!(rows, [[7.0]]);
    assert_eq!(bench.next_batch(), [[7]], "2 and 3 were dropped");
}

#[test]
fn an_error_of_the_tokenizer_ends_the_request_and_takes_its_texts_back() {
    let bench = bench(100);
    bench.release();
    let ids = [
        Ok(vec![1; PORTION]),
        Err(EngineError::Inference("bad text".to_owned())),
    ];
    let outcome = bench.scheduler.encode(
        &bench.encoder,
        &Waiting::default(),
        ids.into_iter(),
        |_, _, _| {},
    );
    assert!(
        matches!(outcome, Err(EngineError::Inference(_))),
        "{outcome:?}"
    );
    assert!(bench.encode(&[&[7]], &Waiting::default()).is_ok());
}

#[test]
fn a_batch_that_nobody_waits_for_is_stopped_and_holds_its_request_until_then() {
    let bench = bench(100);
    let progress = Waiting::default();
    thread::scope(|scope| {
        let request = scope.spawn(|| bench.encode(&[&[1]], &progress));
        assert_eq!(bench.next_batch(), [[1]]);
        progress.0.cancel();
        assert!(!request.is_finished(), "the device still works for it");
        bench.go_on.send(()).expect("the encoder lives");
        let outcome = request.join().expect("thread");
        assert!(
            matches!(outcome, Err(EngineError::Cancelled)),
            "{outcome:?}"
        );
    });
    bench.release();
    let rows = bench.encode(&[&[7]], &Waiting::default()).expect("goes on");
    assert_eq!(rows, [[7.0]]);
}

#[test]
fn the_text_that_is_to_blame_is_taken_out_of_its_batch() {
    let bench = bench(100);
    bench.release();
    let outcome = bench.encode(&[&[1], &[2], &[BAD], &[3]], &Waiting::default());
    assert!(
        matches!(outcome, Err(EngineError::UnknownToken { .. })),
        "{outcome:?}"
    );
    assert_eq!(bench.next_batch().len(), 4);
    let rows = bench.encode(&[&[7]], &Waiting::default()).expect("goes on");
    assert_eq!(rows, [[7.0]]);
    let mut batches = vec![bench.next_batch()];
    while batches.last() != Some(&vec![vec![7]]) {
        batches.push(bench.next_batch());
    }
    assert!(batches.len() <= 2, "not halved: {batches:?}");
}

#[test]
fn a_bug_of_the_worker_costs_the_requests_of_that_moment_only() {
    let bench = bench(100);
    let shared = &bench.scheduler.shared;
    thread::scope(|scope| {
        let running = scope.spawn(|| bench.encode(&[&[1]], &Waiting::default()));
        bench.next_batch();
        let waiting = scope.spawn(|| bench.encode(&[&[2]], &Waiting::default()));
        while shared.lock().waiting() < 1 {
            thread::yield_now();
        }

        let goes_on = worker::outlive(shared, || panic!("on purpose"));

        assert!(goes_on);
        bench.release();
        for request in [running, waiting] {
            let told = request.join().expect("thread").expect_err("dropped");
            assert!(matches!(told, EngineError::Inference(_)), "{told}");
        }
    });
    bench.encode(&[&[3]], &Waiting::default()).expect("rows");
}
