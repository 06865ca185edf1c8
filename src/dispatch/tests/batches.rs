//! Batches in parts, against hosts that compute what they are asked for, if they don't fail.

use bytes::Bytes;
use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;
use crate::message::PayloadBuilder;
use crate::pool::{Label, Work};

/// Hosts that take a while for each item, and now and then fail.
struct Computing {
    rng: Mutex<SmallRng>,
    /// Of how many attempts of a hundred.
    fail: Mutex<u32>,
    budget: Budget,
    /// Items of each attempt.
    asked: Mutex<Vec<usize>>,
}

impl Computing {
    fn failure(&self) -> Option<Verdict> {
        let mut rng = self.rng.lock().unwrap();
        if rng.random_range(0..100) >= *self.fail.lock().unwrap() {
            return None;
        }
        Some(match rng.random_range(0..7) {
            0 => busy(1),
            1 => refused(),
            2 => reset(),
            3 => server_error(),
            4 => Verdict::Deliver(self.answer(StatusCode::UNPROCESSABLE_ENTITY, "{\"detail\":[]}")),
            5 => {
                Verdict::Deliver(self.answer(StatusCode::OK, "{\"embeddings\":[],\"model\":\"m\"}"))
            }
            _ => Verdict::Ours {
                reason: "no ports".to_owned(),
            },
        })
    }

    fn answer(&self, status: StatusCode, body: &str) -> Answer {
        let mut payload = PayloadBuilder::new(self.budget.open());
        // In several chunks, as answers come.
        for chunk in Bytes::from(body.to_owned()).chunks(20_000) {
            payload.push(&Bytes::copy_from_slice(chunk)).unwrap();
        }
        Answer {
            body: payload.finish(),
            ..answer(status)
        }
    }
}

#[async_trait]
impl Upstream for Computing {
    async fn attempt(&self, _host: HostId, call: &Call, _terms: Terms) -> Verdict {
        let body: serde_json::Value = serde_json::from_slice(&call.body.joined()).unwrap();
        let texts: Vec<_> = body["texts"].as_array().unwrap().iter().collect();
        assert_eq!(texts.len(), call.demand.work.items as usize);
        self.asked.lock().unwrap().push(texts.len());
        let items = u32::try_from(texts.len()).unwrap();
        tokio::time::sleep(Duration::from_millis(20) + Duration::from_millis(10) * items).await;
        if let Some(verdict) = self.failure() {
            return verdict;
        }
        Verdict::Deliver(self.answer(StatusCode::OK, &right(&texts)))
    }
}

/// What one host answers.
fn right(texts: &[&serde_json::Value]) -> String {
    let vectors = texts.iter().map(|text| {
        let text = text.as_str().unwrap();
        format!(
            "[{}.50,-1e-{}]",
            text.len(),
            text.bytes().map(u32::from).sum::<u32>()
        )
    });
    let vectors: Vec<_> = vectors.collect();
    format!(
        "{{\"embeddings\":[{}],\"model\":\"m\",\"dimensions\":2}}",
        vectors.join(",")
    )
}

struct Pooled {
    pool: Pool,
    upstream: Arc<Computing>,
    dispatcher: Dispatcher,
}

impl Pooled {
    /// So many hosts, which have been seen at work.
    async fn new(hosts: usize, seed: u64) -> Self {
        let pool = Pool::new(
            pool::Settings {
                max_waiting: 100,
                ..pool_settings()
            },
            seed,
            Box::new(|_| ()),
        );
        pool.set_hosts((0..hosts).map(spec).collect());
        for (id, _) in pool.hosts() {
            let slots = Tells::Nothing;
            pool.checked(id, &Check::Good { slots });
            let info = Info {
                loaded_models: vec!["embed:m".to_owned()],
                ..Info::default()
            };
            pool.told(id, info);
        }
        let upstream = Arc::new(Computing {
            rng: Mutex::new(SmallRng::seed_from_u64(seed)),
            fail: Mutex::new(0),
            budget: Budget::new(1 << 24),
            asked: Mutex::default(),
        });
        let metrics = Arc::new(Metrics::new().unwrap());
        let config = Current::for_testing("");
        let dispatcher = Dispatcher::new(pool.clone(), upstream.clone(), config, metrics);
        let pooled = Self {
            pool,
            upstream,
            dispatcher,
        };
        for number in 0..20 * hosts {
            assert!(pooled.asks(1 + number % 2, 5).await.is_ok());
        }
        pooled.upstream.asked.lock().unwrap().clear();
        pooled
    }

    /// Status and body.
    async fn asks(&self, items: usize, length: usize) -> Result<(StatusCode, String), Refusal> {
        let call = self.call(items, length);
        let journal = Journal::default();
        let delivery = self.dispatcher.dispatch(&call, &journal).await;
        let Delivery { answer, .. } = delivery.map_err(|it| it.refusal)?;
        let body = String::from_utf8(answer.body.joined().into_owned()).unwrap();
        Ok((answer.status, body))
    }

    fn call(&self, items: usize, length: usize) -> Call {
        let body = serde_json::json!({"model": "m", "texts": texts(items, length)}).to_string();
        let mut payload = PayloadBuilder::new(self.upstream.budget.open());
        payload.push(&body.clone().into()).unwrap();
        Call {
            body: payload.finish(),
            demand: Demand {
                label: Label {
                    route: "embed",
                    ..Label::default()
                },
                model: Model::new("embed:m"),
                work: Work {
                    items: u32::try_from(items).unwrap(),
                    bytes: body.len() as u64,
                },
                ..Demand::default()
            },
            ..call()
        }
    }
}

fn texts(items: usize, length: usize) -> Vec<String> {
    let text = |number: usize| "x".repeat(number * 7 % length.max(1)) + &number.to_string();
    (0..items).map(text).collect()
}

fn expected(items: usize, length: usize) -> String {
    let texts = serde_json::json!(texts(items, length));
    right(&texts.as_array().unwrap().iter().collect::<Vec<_>>())
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_done_sooner_on_several_hosts() {
    let pooled = Pooled::new(4, 1).await;
    let started = Instant::now();
    let answered = pooled.asks(100, 30).await;
    assert_eq!(answered, Ok((StatusCode::OK, expected(100, 30))));
    let took = started.elapsed();
    assert!(
        took < Duration::from_millis(350),
        "{took:?} instead of a second"
    );
    let asked = pooled.upstream.asked.lock().unwrap();
    assert_eq!(asked.iter().sum::<usize>(), 100, "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_comes_with_its_digest_stays_whole() {
    let pooled = Pooled::new(4, 1).await;
    let mut call = pooled.call(100, 30);
    call.headers
        .insert("content-digest", "sha-256=:x:".parse().unwrap());
    let journal = Journal::default();
    assert!(pooled.dispatcher.dispatch(&call, &journal).await.is_ok());
    assert_eq!(*pooled.upstream.asked.lock().unwrap(), [100]);
}

/// Requests with so many items each, of texts up to so long, that come after so many milliseconds, and of
/// which some are given up after a while.
fn requests() -> impl Strategy<Value = Vec<(usize, usize, u64, Option<u64>)>> {
    let given_up = prop::option::weighted(0.2, 0..2000u64);
    prop::collection::vec((1..120usize, 1..500usize, 0..1500u64, given_up), 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn whatever_fails_or_leaves_an_answer_has_each_item_once_and_in_its_place(
        hosts in 1..6usize,
        seed in any::<u64>(),
        fail in 0..40u32,
        requests in requests(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let pooled = Arc::new(Pooled::new(hosts, seed).await);
            tokio::spawn({
                let pool = pooled.pool.clone();
                async move { pool.keep_time().await }
            });
            *pooled.upstream.fail.lock().unwrap() = fail;
            let asks = requests.into_iter().map(|(items, length, after, given_up)| {
                let pooled = Arc::clone(&pooled);
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(after)).await;
                    let patience = given_up.map_or(Duration::MAX, Duration::from_millis);
                    let answer = tokio::time::timeout(patience, pooled.asks(items, length)).await;
                    if let Ok(Ok((StatusCode::OK, body))) = &answer {
                        let is_lie = body.contains("\"embeddings\":[]");
                        assert!(is_lie || *body == expected(items, length), "{body}");
                    }
                    assert!(fail > 0 || answer.is_err() || matches!(answer, Ok(Ok(_))), "{answer:?}");
                })
            });
            for ask in asks.collect::<Vec<_>>() {
                ask.await.unwrap();
            }
            let view = pooled.pool.view();
            assert!(view.hosts.iter().all(|host| host.in_flight == 0) && view.waiting == 0);
            assert_eq!(pooled.upstream.budget.held(), 0, "all memory is given back");
        });
    }
}
