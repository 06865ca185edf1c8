//! Batches in parts and requests together, against hosts that compute what they are asked for, if they don't fail.

use bytes::Bytes;
use gpu_bridge_wire::openai::{EACH_HEADER, TOKENS_HEADER, tokens_of_each};
use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::task::JoinHandle;

use super::*;
use crate::message::PayloadBuilder;
use crate::pool::{Label, Work};
use crate::telemetry::Tried;
use crate::upstream;

/// Hosts that take a while for each item, and now and then fail.
pub(super) struct Computing {
    rng: Mutex<SmallRng>,
    /// Of how many attempts of a hundred.
    fail: Mutex<u32>,
    budget: Budget,
    /// Items of each attempt.
    pub(super) asked: Mutex<Vec<usize>>,
    /// What each attempt ends with that is for this text.
    pub(super) spoiled: Mutex<Option<(String, StatusCode)>>,
    /// How the next attempts end.
    pub(super) script: Mutex<VecDeque<Verdict>>,
    /// More items than that they refuse, without saying so.
    most: Mutex<usize>,
    /// They tell the tokens of each text, if asked.
    tells_each: Mutex<bool>,
    /// Texts that each takes at once, as it says.
    takes: Option<u32>,
    /// In these words.
    pub(super) complaint: Mutex<&'static str>,
    /// What becomes of the next right answer.
    pub(super) warp: Mutex<Option<Warp>>,
    /// How each attempt ends on these hosts.
    pub(super) broken: Mutex<HashMap<HostId, Broken>>,
}

/// A way to answer nothing right.
pub(super) type Broken = fn() -> Verdict;

/// Ways of which two hosts end a request: it may be what breaks them.
pub(super) const BREAKING: [Broken; 5] = [
    reset,
    server_error,
    || Verdict::Moved { hung: true },
    || doubtful(StatusCode::BAD_GATEWAY, Doubt::Unusable),
    || doubtful(StatusCode::FORBIDDEN, Doubt::Forbidden),
];

/// Ways that say nothing of the request.
pub(super) const USELESS: [Broken; 7] = [
    || busy(1),
    refused,
    || Verdict::Moved { hung: false },
    || Verdict::Misconfigured {
        status: StatusCode::UNAUTHORIZED,
    },
    || doubtful(StatusCode::NOT_FOUND, Doubt::NoModel),
    || doubtful(StatusCode::NOT_FOUND, Doubt::Front),
    || doubtful(StatusCode::PAYLOAD_TOO_LARGE, Doubt::Limit),
];

fn doubtful(status: StatusCode, why: Doubt) -> Verdict {
    let answer = answer(status);
    Verdict::Sibling { answer, why }
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

    pub(super) fn answer(&self, status: StatusCode, body: &str) -> Answer {
        let mut payload = PayloadBuilder::new(self.budget.open());
        // In several chunks, as answers come.
        for chunk in Bytes::from(body.to_owned()).chunks(20_000) {
            payload.push(&Bytes::copy_from_slice(chunk)).unwrap();
        }
        let mut answer = answer(status);
        answer.body = payload.finish();
        answer
    }

    /// As many tokens as characters.
    fn result(&self, call: &Call, texts: &[&serde_json::Value]) -> Answer {
        let mut answer = self.answer(StatusCode::OK, &right(texts));
        let tokens = texts.iter().map(|text| text.as_str().unwrap().len());
        let tokens: Vec<usize> = tokens.collect();
        let total: usize = tokens.iter().sum();
        answer.headers.insert(TOKENS_HEADER, total.into());
        if *self.tells_each.lock().unwrap() && call.headers.contains_key(EACH_HEADER) {
            let each = tokens_of_each(&tokens).parse().unwrap();
            answer.headers.insert(EACH_HEADER, each);
        }
        answer
    }
}

impl Computing {
    pub(super) fn too_many(&self, most: u32) -> Verdict {
        let words = format!("{{\"detail\":\"a batch has at most {most} items\"}}");
        let answer = self.answer(StatusCode::UNPROCESSABLE_ENTITY, &words);
        let why = Doubt::TooMany {
            most: NonZeroU32::new(most).unwrap(),
        };
        Verdict::Sibling { answer, why }
    }

    /// The one that holds the slot is answered well, the next attempt like this.
    fn serves_once_then(&self, next: Verdict) {
        let expected = expected_for(&["busy".to_owned()]);
        let right = Verdict::Deliver(self.answer(StatusCode::OK, &expected));
        self.script.lock().unwrap().extend([right, next]);
    }
}

#[async_trait]
impl Upstream for Computing {
    async fn attempt(&self, host: HostId, call: &Call, _terms: Terms) -> Verdict {
        let broken = self.broken.lock().unwrap().get(&host).copied();
        match (self.attempted(call).await, broken) {
            (Verdict::Deliver(_), Some(broken)) => broken(),
            (Verdict::Deliver(answer), None) => upstream::judged(answer, call, &self.budget),
            (verdict, _) => verdict,
        }
    }
}

impl Computing {
    async fn attempted(&self, call: &Call) -> Verdict {
        let body: serde_json::Value = serde_json::from_slice(&call.body.joined()).unwrap();
        let texts: Vec<_> = body["texts"].as_array().unwrap().iter().collect();
        assert_eq!(texts.len(), call.demand.work.items as usize);
        self.asked.lock().unwrap().push(texts.len());
        let items = u32::try_from(texts.len()).unwrap();
        if let Some(most) = self.takes.filter(|most| items > *most) {
            return self.too_many(most);
        }
        tokio::time::sleep(Duration::from_millis(20) + Duration::from_millis(10) * items).await;
        if let Some(verdict) = self.script.lock().unwrap().pop_front() {
            return verdict;
        }
        if let Some(verdict) = self.failure() {
            return verdict;
        }
        if let Some((text, status)) = &*self.spoiled.lock().unwrap()
            && texts.iter().any(|it| *it == text)
        {
            let complaint = *self.complaint.lock().unwrap();
            return Verdict::Deliver(self.answer(*status, complaint));
        }
        if texts.len() > *self.most.lock().unwrap() {
            return Verdict::Deliver(self.answer(StatusCode::PAYLOAD_TOO_LARGE, "{}"));
        }
        if let Some(warp) = self.warp.lock().unwrap().take() {
            return Verdict::Deliver(self.answer(StatusCode::OK, &warp(&right(&texts))));
        }
        Verdict::Deliver(self.result(call, &texts))
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

pub(super) struct Pooled {
    pub(super) pool: Pool,
    pub(super) upstream: Arc<Computing>,
    pub(super) dispatcher: Dispatcher,
}

/// What becomes of an answer.
pub(super) type Warp = fn(&str) -> String;

/// How many texts hosts take at once.
#[derive(Clone, Copy, Debug)]
pub(super) enum Limit {
    None,
    /// So many, as they tell.
    Told(u32),
    /// So many, as they say only when they are asked for more.
    Untold(u32),
}

impl Pooled {
    /// So many hosts, which have been seen at work.
    pub(super) async fn new(hosts: usize, seed: u64) -> Self {
        Self::with(hosts, seed, Limit::None).acquainted().await
    }

    /// The same, once they have been seen at work.
    pub(super) async fn acquainted(self) -> Self {
        let hosts = self.pool.hosts().len();
        for number in 0..20 * hosts {
            assert!(self.asks(1 + number % 2, 5).await.is_ok());
        }
        self.upstream.asked.lock().unwrap().clear();
        self
    }

    /// So many hosts with that limit, of which nothing has been seen.
    pub(super) fn with(hosts: usize, seed: u64, limit: Limit) -> Self {
        let (told, takes) = match limit {
            Limit::None => (None, None),
            Limit::Told(most) => (Some(most), Some(most)),
            Limit::Untold(most) => (None, Some(most)),
        };
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
                max_batch_size: told.and_then(NonZeroU32::new),
                ..Info::default()
            };
            pool.told(id, info);
        }
        let upstream = Arc::new(Computing {
            takes,
            complaint: Mutex::new("{\"detail\":\"no\"}"),
            warp: Mutex::default(),
            broken: Mutex::default(),
            rng: Mutex::new(SmallRng::seed_from_u64(seed)),
            fail: Mutex::new(0),
            budget: Budget::new(1 << 24),
            asked: Mutex::default(),
            spoiled: Mutex::default(),
            script: Mutex::default(),
            most: Mutex::new(usize::MAX),
            tells_each: Mutex::default(),
        });
        let metrics = Arc::new(Metrics::new().unwrap());
        let config = Current::for_testing("");
        let dispatcher = Dispatcher::new(pool.clone(), upstream.clone(), config, metrics);
        Self {
            pool,
            upstream,
            dispatcher,
        }
    }

    /// As the proxy does while it runs.
    pub(super) fn keep_time(&self) {
        let pool = self.pool.clone();
        tokio::spawn(async move { pool.keep_time().await });
    }

    /// The sizes of the attempts so far.
    pub(super) fn sizes(&self) -> Vec<usize> {
        std::mem::take(&mut self.upstream.asked.lock().unwrap())
    }

    /// Status and body.
    pub(super) async fn asks(
        &self,
        items: usize,
        length: usize,
    ) -> Result<(StatusCode, String), Refusal> {
        let call = self.call(items, length);
        let journal = Journal::default();
        let delivery = self.dispatcher.dispatch(&call, &journal).await;
        let Delivery { answer, .. } = delivery.map_err(|it| it.refusal)?;
        let body = String::from_utf8(answer.body.joined().into_owned()).unwrap();
        Ok((answer.status, body))
    }

    pub(super) fn call(&self, items: usize, length: usize) -> Call {
        self.call_for(&texts(items, length))
    }

    fn call_for(&self, texts: &[String]) -> Call {
        let items = texts.len();
        let body = serde_json::json!({"model": "m", "texts": texts}).to_string();
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

pub(super) fn expected(items: usize, length: usize) -> String {
    expected_for(&texts(items, length))
}

fn expected_for(texts: &[String]) -> String {
    let texts = serde_json::json!(texts);
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
    let items = prop_oneof![1..4usize, 1..120usize];
    prop::collection::vec((items, 1..500usize, 0..1500u64, given_up), 1..24)
}

fn limit() -> impl Strategy<Value = Limit> {
    prop_oneof![
        2 => Just(Limit::None),
        1 => (30..60u32).prop_map(Limit::Told),
        1 => (30..60u32).prop_map(Limit::Untold),
    ]
}

/// The body of an answer, and the tokens that it tells.
type Told = (String, Option<String>);

/// A host with one slot, which is in use for a while, and requests for these texts that wait for it meanwhile; and
/// what becomes of each of them.
struct Together {
    pooled: Arc<Pooled>,
    asks: Vec<JoinHandle<(Result<Told, Refusal>, Journal)>>,
}

impl Together {
    async fn new(texts: &[&str]) -> Self {
        Self::of(Pooled::new(1, 1).await.into(), texts).await
    }

    async fn of(pooled: Arc<Pooled>, texts: &[&str]) -> Self {
        Self::counted(pooled, texts, false).await
    }

    /// `counted`: their clients are told their tokens.
    async fn counted(pooled: Arc<Pooled>, texts: &[&str], counted: bool) -> Self {
        let mut asks = Vec::new();
        for (position, text) in ["busy"].iter().chain(texts).enumerate() {
            let pooled = Arc::clone(&pooled);
            let mut call = pooled.call_for(&[(*text).to_owned()]);
            // Each has its own key.
            call.demand.client = Some(position.to_string().into());
            call.demand.counted = counted;
            let ask = async move {
                let journal = Journal::default();
                let delivery = pooled.dispatcher.dispatch(&call, &journal).await;
                let answer = delivery.map(|it| it.answer).map_err(|it| it.refusal);
                let told = answer.map(|answer| {
                    let body = String::from_utf8(answer.body.joined().into_owned());
                    assert!(!answer.headers.contains_key(EACH_HEADER), "nobody asked");
                    let tokens = answer.headers.get(TOKENS_HEADER);
                    let tokens = tokens.map(|it| it.to_str().unwrap().to_owned());
                    (body.unwrap(), tokens)
                });
                (told, journal)
            };
            asks.push(tokio::spawn(ask));
            // In this order.
            tokio::time::sleep(Duration::from_micros(1)).await;
        }
        asks.remove(0);
        Self { pooled, asks }
    }

    /// Checks each answer, and tells how each attempt ended, of each request that was answered.
    async fn end(self, texts: &[&str]) -> Vec<Vec<String>> {
        let mut told = Vec::new();
        for (ask, text) in self.asks.into_iter().zip(texts) {
            let Ok((answer, journal)) = ask.await else {
                continue;
            };
            let (body, tokens) = answer.unwrap();
            match *text {
                "bad" => assert_eq!(body, "{\"detail\":\"no\"}"),
                _ => assert_eq!(body, expected_for(&[(*text).to_owned()])),
            }
            let last = journal.story().attempts.pop().unwrap();
            let is_told = last.others.is_none() || *self.pooled.upstream.tells_each.lock().unwrap();
            let own = (is_told && *text != "bad").then(|| text.len().to_string());
            assert_eq!(tokens, own, "never what is counted for all");
            let attempts = journal.story().attempts.into_iter();
            let word = |tried: Tried| match tried.others {
                Some(others) => format!("{} with {others}", tried.verdict),
                None => tried.verdict.into_owned(),
            };
            told.push(attempts.map(word).collect());
        }
        let view = self.pooled.pool.view();
        assert_eq!((view.hosts[0].in_flight, view.waiting), (0, 0));
        told
    }
}

#[tokio::test(start_paused = true)]
async fn requests_that_wait_with_the_same_question_share_an_attempt() {
    let texts = ["a", "b", "a", "c"];
    let together = Together::new(&texts).await;
    let pooled = Arc::clone(&together.pooled);
    assert_eq!(together.end(&texts).await, [["deliver with 3"]; 4]);
    let asked = pooled.upstream.asked.lock().unwrap();
    assert_eq!(*asked, [1, 3], "equal texts once");
}

#[tokio::test(start_paused = true)]
async fn each_is_told_the_tokens_of_its_own_texts() {
    let texts = ["a", "longer", "a", "text"];
    for (tells_each, counted, expected) in [
        (true, true, &["deliver with 3"][..]),
        (false, false, &["deliver with 3"]),
        (false, true, &["apart with 3", "deliver"]),
    ] {
        let pooled = Arc::new(Pooled::new(1, 1).await);
        *pooled.upstream.tells_each.lock().unwrap() = tells_each;
        let together = Together::counted(pooled, &texts, counted).await;
        assert_eq!(together.end(&texts).await, vec![expected; 4]);
    }
}

/// As many as a host has to be asked for the rest of a crowd of which it has refused a part, and one of which is bad.
#[tokio::test(start_paused = true)]
async fn of_many_the_one_that_is_to_blame_is_found_in_halves() {
    let names: Vec<String> = (0..64).map(|number| format!("text {number}")).collect();
    let mut texts: Vec<&str> = names.iter().map(String::as_str).collect();
    texts[40] = "bad";
    for status in [StatusCode::UNPROCESSABLE_ENTITY, StatusCode::BAD_REQUEST] {
        let pooled = Arc::new(Pooled::new(1, 1).await);
        *pooled.upstream.spoiled.lock().unwrap() = Some(("bad".to_owned(), status));
        let told = Together::of(Arc::clone(&pooled), &texts).await;
        told.end(&texts).await;
        let attempts = pooled.upstream.asked.lock().unwrap().len();
        assert!(attempts <= 24, "{attempts} instead of 66");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_too_much_for_a_host_is_learned_and_asked_for_in_less() {
    let names: Vec<String> = (0..64).map(|number| format!("text {number}")).collect();
    let texts: Vec<&str> = names.iter().map(String::as_str).collect();
    let pooled = Arc::new(Pooled::new(1, 1).await);
    *pooled.upstream.most.lock().unwrap() = 32;
    let mut sizes = Vec::new();
    for _ in 0..2 {
        pooled.upstream.asked.lock().unwrap().clear();
        Together::of(Arc::clone(&pooled), &texts)
            .await
            .end(&texts)
            .await;
        sizes.push(pooled.upstream.asked.lock().unwrap().clone());
    }
    assert!(sizes[0].iter().any(|size| *size > 32), "{sizes:?}");
    assert!(sizes[1].iter().all(|size| *size <= 32), "{sizes:?}");
    assert!(sizes[1].len() <= 5, "{sizes:?}");
}

#[tokio::test(start_paused = true)]
async fn those_that_run_again_after_a_fault_wait_for_the_budget_of_retries() {
    let names: Vec<String> = (0..40).map(|number| format!("text {number}")).collect();
    let texts: Vec<&str> = names.iter().map(String::as_str).collect();
    let pooled = Arc::new(Pooled::new(1, 1).await);
    let withdraw = || {
        let now = Instant::now().into_std();
        pooled.dispatcher.budget().withdraw(1.0, now).is_ok()
    };
    while withdraw() {}
    let together = Together::of(Arc::clone(&pooled), &texts).await;
    // The one that holds the slot is done before the last of them has come.
    pooled.upstream.script.lock().unwrap().push_back(reset());
    let started = Instant::now();
    together.end(&texts).await;
    // 40 requests allow 8 retries, each second 10.
    let took = started.elapsed();
    assert!(took > Duration::from_secs(2), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn whoever_leaves_takes_only_its_own_answer_along() {
    let texts = ["a", "b", "c"];
    for leaves in 0..3 {
        let mut together = Together::new(&texts).await;
        let pooled = Arc::clone(&together.pooled);
        while pooled.upstream.asked.lock().unwrap().len() < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        together.asks.remove(leaves).abort();
        let mut rest = texts.to_vec();
        rest.remove(leaves);
        assert_eq!(together.end(&rest).await, [["deliver with 2"]; 2]);
        assert_eq!(*pooled.upstream.asked.lock().unwrap(), [1, 3]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_ends_when_all_have_left() {
    let together = Together::new(&["a", "b"]).await;
    let pooled = Arc::clone(&together.pooled);
    while pooled.upstream.asked.lock().unwrap().len() < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for ask in &together.asks {
        ask.abort();
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(pooled.pool.view().hosts[0].in_flight, 0);
    assert_eq!(pooled.upstream.budget.held(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_busy_host_is_asked_again_for_all_of_them() {
    let texts = ["a", "b", "c"];
    let pooled = Arc::new(Pooled::new(1, 1).await);
    tokio::spawn({
        let pool = pooled.pool.clone();
        async move { pool.keep_time().await }
    });
    let together = Together::of(Arc::clone(&pooled), &texts).await;
    pooled.upstream.serves_once_then(busy(1));
    let told = together.end(&texts).await;
    assert_eq!(told, [["busy with 2", "deliver with 2"]; 3]);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_answer_for_each_is_asked_for_one_by_one_and_held_against_one_alone() {
    let texts = ["a", "bad", "c"];
    let pooled = Arc::new(Pooled::new(1, 1).await);
    let spoiled = ("bad".to_owned(), StatusCode::UNPROCESSABLE_ENTITY);
    *pooled.upstream.spoiled.lock().unwrap() = Some(spoiled);
    let told = Together::of(Arc::clone(&pooled), &texts)
        .await
        .end(&texts)
        .await;
    assert_eq!(told, [["apart with 2", "deliver"]; 3]);
    // From now on the one that was to blame goes alone.
    let told = Together::of(pooled, &texts).await.end(&texts).await;
    assert_eq!(
        told,
        [
            vec!["deliver with 1"],
            vec!["deliver"],
            vec!["deliver with 1"]
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_host_that_breaks_an_attempt_is_no_fault_of_anybody_in_it() {
    let texts = ["a", "b", "c"];
    for (failure, word) in [
        (reset(), "fault"),
        (refused(), "refused"),
        (server_error(), "server_error"),
    ] {
        let pooled = Arc::new(Pooled::new(2, 1).await);
        let held = pooled.pool.drain(&"h1".parse().unwrap());
        assert!(held, "one of them is in use");
        let together = Together::of(Arc::clone(&pooled), &texts).await;
        pooled.upstream.serves_once_then(failure);
        while pooled.upstream.asked.lock().unwrap().len() < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        pooled.pool.undrain(&"h1".parse().unwrap());
        let told = together.end(&texts).await;
        assert_eq!(
            told,
            vec![vec![format!("{word} with 2"), "deliver".to_owned()]; 3]
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn whatever_fails_or_leaves_an_answer_has_each_item_once_and_in_its_place(
        hosts in 1..6usize,
        seed in any::<u64>(),
        fail in 0..40u32,
        requests in requests(),
        limit in limit(),
    ) {
        paused(async {
            let pooled = Arc::new(Pooled::with(hosts, seed, limit).acquainted().await);
            pooled.keep_time();
            *pooled.upstream.fail.lock().unwrap() = fail;
            let asks = requests.into_iter().map(|(items, length, after, given_up)| {
                let pooled = Arc::clone(&pooled);
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(after)).await;
                    let patience = given_up.map_or(Duration::MAX, Duration::from_millis);
                    let answer = tokio::time::timeout(patience, pooled.asks(items, length)).await;
                    if let Ok(Ok((StatusCode::OK, body))) = &answer {
                        assert_eq!(*body, expected(items, length));
                    }
                    let is_ok = matches!(answer, Ok(Ok((StatusCode::OK, _))));
                    assert!(fail > 0 || answer.is_err() || is_ok, "{answer:?}");
                })
            });
            for ask in asks.collect::<Vec<_>>() {
                ask.await.unwrap();
            }
            let longest = pooled.sizes().into_iter().max().unwrap_or_default();
            assert!(!matches!(limit, Limit::Told(most) if longest > most as usize), "{longest}");
            let view = pooled.pool.view();
            assert!(view.hosts.iter().all(|host| host.in_flight == 0) && view.waiting == 0);
            assert_eq!(pooled.upstream.budget.held(), 0, "all memory is given back");
        });
    }
}
