use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;
use crate::engine::Cancellation;

type Script = dyn Fn(&str) -> Result<(), String> + Send + Sync;

/// Models are named by a letter and a size; what their loads do is scripted.
struct Shelf {
    loads: AtomicUsize,
    script: Box<Script>,
}

/// A name and a size.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key(&'static str, u64);

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl Source for Shelf {
    type Key = Key;
    type Model = Loaded;

    fn inspect(&self, Key(_, bytes): &Key) -> Facts {
        let (own, common, version) = (*bytes, None, Version(0));
        let memory = Memory { own, common };
        Facts { memory, version }
    }

    fn load(&self, Key(name, _): &Key) -> Result<Loaded, LoadFault> {
        self.loads.fetch_add(1, Ordering::SeqCst);
        (self.script)(name)
            .map(|()| Loaded(name))
            .map_err(LoadFault::from)
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Loaded(&'static str);

impl Resident for Loaded {
    fn memory(&self) -> Option<Memory> {
        None
    }
}

const BUDGET: u64 = 10;
/// Only a failing test waits that long.
const PATIENCE: Duration = Duration::from_secs(20);

fn policy() -> Policy {
    Policy {
        budget: BUDGET,
        memory_patience: PATIENCE,
        load_patience: PATIENCE,
        remember_failures: PATIENCE,
    }
}

fn registry(
    policy: Policy,
    script: impl Fn(&str) -> Result<(), String> + Send + Sync + 'static,
) -> Registry<Shelf> {
    let shelf = Shelf {
        loads: AtomicUsize::new(0),
        script: Box::new(script),
    };
    Registry::new(shelf, policy)
}

fn loads(registry: &Registry<Shelf>) -> usize {
    registry.shared.source.loads.load(Ordering::SeqCst)
}

#[derive(Default)]
struct Client(Cancellation);

impl Progress for Client {
    fn finished(&self, _: usize) {}

    fn cancellation(&self) -> Cancellation {
        self.0.clone()
    }
}

fn acquire(registry: &Registry<Shelf>, key: Key) -> Result<Lease<Shelf>, Refusal> {
    registry.acquire(&key, &Client::default())
}

/// A script under which the load of `name` says that it began and ends when told to.
fn held_up(
    name: &'static str,
) -> (
    impl Fn(&str) -> Result<(), String>,
    Receiver<()>,
    Sender<()>,
) {
    let (tell, began) = channel();
    let (go_on, may_go_on) = channel();
    let may_go_on = Mutex::new(may_go_on);
    let script = move |loading: &str| {
        if loading == name {
            tell.send(()).expect("the test goes on");
            may_go_on.lock().expect("lock").recv().expect("told to");
        }
        Ok(())
    };
    (script, began, go_on)
}

#[test]
fn many_at_once_load_once() {
    let registry = registry(policy(), |_| Ok(()));
    let start = Barrier::new(8);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                start.wait();
                let model = acquire(&registry, Key("m", 1)).expect("loads");
                assert_eq!(*model, Loaded("m"));
            });
        }
    });
    assert_eq!(loads(&registry), 1);
}

#[test]
fn a_load_does_not_hold_up_other_models() {
    let (script, began, go_on) = held_up("slow");
    let registry = registry(policy(), script);
    thread::scope(|scope| {
        let slow = scope.spawn(|| acquire(&registry, Key("slow", 1)).map(drop));
        began.recv().expect("begins");
        assert_eq!(registry.stage(&Key("slow", 1)), Stage::Loading);
        acquire(&registry, Key("quick", 1)).expect("loads");
        go_on.send(()).expect("the load waits");
        slow.join().expect("no panic").expect("loads");
    });
    assert_eq!(registry.stage(&Key("slow", 1)), Stage::Ready);
}

#[test]
fn a_request_that_is_cancelled_leaves_at_once_and_the_load_goes_on() {
    let (script, began, go_on) = held_up("slow");
    let registry = registry(policy(), script);
    let client = Client::default();
    thread::scope(|scope| {
        let request = scope.spawn(|| registry.acquire(&Key("slow", 1), &client).map(drop));
        began.recv().expect("begins");
        client.0.cancel();
        let left = request.join().expect("no panic");
        assert_eq!(left, Err(Refusal::Cancelled));
    });
    go_on.send(()).expect("the load waits");
    acquire(&registry, Key("slow", 1)).expect("is there");
    assert_eq!(loads(&registry), 1);
}

#[test]
fn who_waits_too_long_for_a_load_is_told_so() {
    let (script, began, go_on) = held_up("slow");
    let load_patience = Duration::ZERO;
    let policy = Policy {
        load_patience,
        ..policy()
    };
    let registry = registry(policy, script);
    let told = acquire(&registry, Key("slow", 1)).map(drop);
    assert_eq!(told, Err(Refusal::StillLoading));
    began.recv().expect("begins");
    go_on.send(()).expect("the load waits");
}

#[test]
fn a_failure_is_told_to_all_and_not_tried_again_at_once() {
    let registry = registry(policy(), |_| Err("broken".to_owned()));
    let start = Barrier::new(4);
    let broken = Refusal::Failed(Failure::Load("broken".to_owned().into()));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                start.wait();
                let told = acquire(&registry, Key("m", 1)).map(drop);
                assert_eq!(told.as_ref(), Err(&broken));
            });
        }
    });
    assert_eq!(loads(&registry), 1);
    let usage = registry.usage();
    assert_eq!((usage.used, usage.failed_loads), (0, 1));
}

#[test]
fn a_loader_that_panics_is_a_failed_load() {
    let registry = registry(policy(), |_| panic!("on purpose"));
    let told = acquire(&registry, Key("m", 1)).map(drop);
    assert!(matches!(told, Err(Refusal::Failed(Failure::Load(_)))));
    assert_eq!(registry.usage().used, 0);
}

#[test]
fn memory_in_use_is_waited_for() {
    let registry = registry(policy(), |_| Ok(()));
    let lease = acquire(&registry, Key("a", 6)).expect("loads");
    thread::scope(|scope| {
        let waiting = scope.spawn(|| acquire(&registry, Key("b", 6)).map(drop));
        assert_eq!(registry.stage(&Key("a", 6)), Stage::Ready);
        drop(lease);
        assert_eq!(waiting.join().expect("no panic"), Ok(()));
    });
    assert_eq!(registry.stage(&Key("a", 6)), Stage::Absent);
    assert_eq!(registry.usage().evictions, 1);
}

#[test]
fn memory_that_stays_in_use_is_refused() {
    let memory_patience = Duration::ZERO;
    let policy = Policy {
        memory_patience,
        ..policy()
    };
    let registry = registry(policy, |_| Ok(()));
    let _lease = acquire(&registry, Key("a", 6)).expect("loads");
    let told = acquire(&registry, Key("b", 6)).map(drop);
    assert_eq!(told, Err(Refusal::NoMemory));
    assert_eq!(registry.stage(&Key("a", 6)), Stage::Ready);
}

/// More models than fit, many clients: everybody is served, which takes that every waiter is woken.
#[test]
fn all_are_served_where_not_all_fit() {
    let registry = registry(policy(), |_| Ok(()));
    let keys: [Key; 4] = [Key("a", 4), Key("b", 5), Key("c", 6), Key("d", 10)];
    thread::scope(|scope| {
        for client in 0..6 {
            let registry = &registry;
            scope.spawn(move || {
                for turn in 0..20 {
                    let key = keys[(client + turn) % keys.len()];
                    let model = acquire(registry, key).expect("its turn comes");
                    assert_eq!(model.0, key.0);
                }
            });
        }
    });
    let usage = registry.usage();
    assert!(usage.used <= BUDGET, "{usage:?}");
    assert!(usage.evictions > 0, "{usage:?}");
}
