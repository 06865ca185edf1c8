//! While one host is well nobody fails, whatever becomes of the others.

use proptest::prelude::*;

use super::batches::{BREAKING, Broken, Limit, Pooled, USELESS, expected};
use super::*;
use crate::pool::{Audited, Trust};

/// What becomes of a host that is not the one that stays well.
#[derive(Clone, Copy, Debug)]
enum Turn {
    Leaves,
    Comes,
    Drained,
    Back,
    Down,
    Full,
    NotReady,
    Well,
    Deviates,
    Agrees,
    LacksModel,
    TakesFew,
}

const TURNS: [Turn; 12] = [
    Turn::Leaves,
    Turn::Comes,
    Turn::Drained,
    Turn::Back,
    Turn::Down,
    Turn::Full,
    Turn::NotReady,
    Turn::Well,
    Turn::Deviates,
    Turn::Agrees,
    Turn::LacksModel,
    Turn::TakesFew,
];

fn check(turn: Turn) -> Option<Check> {
    let slots = Tells::Nothing;
    let reason = "as told".to_owned();
    Some(match turn {
        Turn::Down => Check::Failed {
            reason,
            reachable: false,
        },
        Turn::Full => Check::Busy {
            retry_after: SECOND,
        },
        Turn::NotReady => Check::NotReady { reason, slots },
        Turn::Well => Check::Good { slots },
        _ => return None,
    })
}

fn told(turn: Turn) -> Option<Info> {
    let models = vec!["embed:m".to_owned()];
    Some(match turn {
        Turn::LacksModel => Info {
            loaded_models: vec!["embed:other".to_owned()],
            ..Info::default()
        },
        Turn::TakesFew => Info {
            loaded_models: models,
            max_batch_size: NonZeroU32::new(3),
            ..Info::default()
        },
        _ => return None,
    })
}

fn audited(turn: Turn) -> Option<Audited> {
    let trust = match turn {
        Turn::Deviates => Trust::Deviates,
        Turn::Agrees => Trust::Agrees,
        _ => return None,
    };
    Some(Audited {
        trust,
        space: None,
        cosine: None,
        why: None,
    })
}

/// Hosts that come, go and break as told; the first is always there and well.
struct Churning {
    pooled: Arc<Pooled>,
    slots: u32,
    /// How the others break, by position less one.
    broken: Vec<Option<Broken>>,
    is_there: Mutex<Vec<bool>>,
}

impl Churning {
    async fn new(slots: u32, seed: u64, broken: Vec<Option<Broken>>) -> Self {
        let hosts = broken.len() + 1;
        let scene = Self {
            pooled: Arc::new(Pooled::with(hosts, seed, Limit::None).acquainted().await),
            slots,
            is_there: Mutex::new(vec![true; hosts]),
            broken,
        };
        scene.pooled.keep_time();
        scene.set_hosts();
        scene
    }

    fn set_hosts(&self) {
        let is_there = self.is_there.lock().unwrap();
        let there = (0..is_there.len()).filter(|position| is_there[*position]);
        let specs = there.map(|position| HostSpec {
            max_concurrent: NonZeroU32::new(self.slots),
            ..spec(position)
        });
        self.pooled.pool.set_hosts(specs.collect());
        let mut broken = self.pooled.upstream.broken.lock().unwrap();
        for (id, name) in self.pooled.pool.hosts() {
            let position: usize = name.to_string()[1..].parse().unwrap();
            if let Some(way) = position.checked_sub(1).and_then(|it| self.broken[it]) {
                broken.insert(id, way);
            }
        }
    }

    /// `position`: of a host, from 1.
    fn turn(&self, position: usize, turn: Turn) {
        let pool = &self.pooled.pool;
        let name = spec(position).name;
        match turn {
            Turn::Leaves | Turn::Comes => {
                self.is_there.lock().unwrap()[position] = matches!(turn, Turn::Comes);
                self.set_hosts();
            }
            Turn::Drained => _ = pool.drain(&name),
            Turn::Back => _ = pool.undrain(&name),
            _ => {}
        }
        let Some((id, _)) = { pool.hosts() }.into_iter().find(|(_, it)| *it == name) else {
            return;
        };
        if let Some(check) = check(turn) {
            pool.check_begins(id);
            pool.checked(id, &check);
        }
        if let Some(info) = told(turn) {
            pool.told(id, info);
        }
        if let Some(audited) = audited(turn) {
            let model = Model::new("embed:m").unwrap();
            pool.audited(id, &model, Some(audited));
        }
    }
}

/// At most one of them breaks requests in a way that counts.
fn broken() -> impl Strategy<Value = Vec<Option<Broken>>> {
    let useless = prop::option::of(prop::sample::select(&USELESS[..]));
    let useless = prop::collection::vec(useless, 0..4);
    let breaking = prop::option::of(prop::sample::select(&BREAKING[..]));
    (breaking, useless).prop_map(|(first, mut others)| {
        others.push(first);
        others
    })
}

/// Items, and when it comes.
fn requests() -> impl Strategy<Value = Vec<(usize, u64)>> {
    prop_oneof![
        prop::collection::vec((1..150usize, 0..3000u64), 1..8),
        prop::collection::vec((1..5usize, 0..300u64), 1..40),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn while_one_host_is_well_nobody_fails(
        slots in 1..5u32,
        seed in any::<u64>(),
        broken in broken(),
        requests in requests(),
        turns in prop::collection::vec((0..3000u64, any::<prop::sample::Index>(), prop::sample::select(&TURNS[..])), 0..30),
    ) {
        paused(async {
            let others = broken.len();
            let scene = Arc::new(Churning::new(slots, seed, broken).await);
            for (after, which, turn) in turns {
                let scene = Arc::clone(&scene);
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(after)).await;
                    scene.turn(1 + which.index(others), turn);
                });
            }
            let asks = requests.into_iter().map(|(items, after)| {
                let pooled = Arc::clone(&scene.pooled);
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(after)).await;
                    let answer = pooled.asks(items, 9).await;
                    assert_eq!(answer, Ok((StatusCode::OK, expected(items, 9))));
                })
            });
            for ask in asks.collect::<Vec<_>>() {
                ask.await.unwrap();
            }
        });
    }
}
