//! The facts of a GPU, as its driver tells them: asked for by a thread of its own, once a second.
//!
//! A driver counts all GPUs of the machine; CUDA counts those that `CUDA_VISIBLE_DEVICES` lists, in
//! that order. (Where GPUs differ, CUDA also puts the fastest first unless
//! `CUDA_DEVICE_ORDER=PCI_BUS_ID` is set; only with that do the two count alike on such a machine.)

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::thread;

use super::facts::{DeviceFacts, Facts, Memory};

/// What a driver tells; `None` where it fails.
pub(super) trait Driver: Send + 'static {
    /// The GPUs of this machine by their unique ids (`GPU-…`), as the driver counts them.
    fn gpus(&self) -> Vec<String>;
    /// The name of a GPU.
    fn name(&self, gpu: &str) -> Option<String>;
    /// The memory of a GPU.
    fn memory(&self, gpu: &str) -> Option<Memory>;
    /// The latest version of CUDA that the driver speaks.
    fn cuda_version(&self) -> Option<String>;
}

/// One of the GPUs that CUDA sees.
#[derive(Clone, Debug)]
pub(super) struct Gpu {
    /// Its number as CUDA counts.
    pub(super) ordinal: usize,
    /// The value of `CUDA_VISIBLE_DEVICES`.
    pub(super) visible: Option<String>,
    /// What to call it where the driver doesn't say.
    pub(super) fallback_name: String,
}

impl Gpu {
    /// What `driver` tells of it now.
    fn facts(&self, driver: &impl Driver) -> Facts {
        let id = find(self.ordinal, self.visible.as_deref(), &driver.gpus());
        let id = id.as_deref();
        let name = id.and_then(|id| driver.name(id));
        Facts {
            name: name.unwrap_or_else(|| self.fallback_name.clone()),
            memory: id.and_then(|id| driver.memory(id)),
            cuda_version: driver.cuda_version(),
        }
    }

    /// What `driver` tells of it now and from now on, renewed after each `pause` as long as anybody
    /// holds the facts.
    pub(super) fn watch(
        self,
        driver: impl Driver,
        pause: impl Fn() + Send + 'static,
    ) -> DeviceFacts {
        let facts = DeviceFacts::new(self.facts(&driver));
        let watched = Arc::downgrade(&facts.0);
        let renew = move || renew(&watched, || self.facts(&driver), pause);
        let thread = thread::Builder::new().name("device-facts".to_owned());
        if let Err(error) = thread.spawn(renew) {
            // The first facts are better than no host.
            tracing::warn!(%error, "what is known of the device is not renewed");
        }
        facts
    }
}

fn renew(watched: &Weak<RwLock<Arc<Facts>>>, read: impl Fn() -> Facts, pause: impl Fn()) {
    loop {
        pause();
        // A bug of the driver's library costs one look.
        let found = catch_unwind(AssertUnwindSafe(&read));
        let Some(watched) = watched.upgrade() else {
            return;
        };
        if let Ok(facts) = found {
            *watched.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(facts);
        }
    }
}

/// The id of the GPU that CUDA counts as `ordinal`, as the CUDA C++ Programming Guide describes
/// `CUDA_VISIBLE_DEVICES`: numbers, ids or beginnings of ids, up to the first that is wrong.
fn find(ordinal: usize, visible: Option<&str>, gpus: &[String]) -> Option<String> {
    let Some(visible) = visible else {
        return gpus.get(ordinal).cloned();
    };
    let named = |entry: &str| -> Option<String> {
        if let Ok(number) = entry.parse::<usize>() {
            return gpus.get(number).cloned();
        }
        if entry.starts_with("MIG-") {
            return Some(entry.to_owned());
        }
        let mut matching = gpus.iter().filter(|gpu| gpu.starts_with(entry));
        let gpu = matching.next().filter(|_| entry.starts_with("GPU-"))?;
        matching.next().is_none().then(|| gpu.clone())
    };
    visible
        .split(',')
        .map_while(|entry| named(entry.trim()))
        .nth(ordinal)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::mpsc;

    use super::*;

    const GPUS: [&str; 3] = ["GPU-1a", "GPU-1b", "GPU-2c"];

    /// A driver of three GPUs whose memory fills up.
    #[derive(Default)]
    struct FillingUp {
        used: AtomicU64,
        broken: bool,
    }

    impl Driver for FillingUp {
        fn gpus(&self) -> Vec<String> {
            GPUS.map(str::to_owned).to_vec()
        }

        fn name(&self, gpu: &str) -> Option<String> {
            (!self.broken).then(|| format!("the one called {gpu}"))
        }

        fn memory(&self, _: &str) -> Option<Memory> {
            (!self.broken).then(|| Memory {
                total: 100,
                used: self.used.fetch_add(1, Ordering::SeqCst),
            })
        }

        fn cuda_version(&self) -> Option<String> {
            (!self.broken).then(|| "13.0".to_owned())
        }
    }

    fn gpu(ordinal: usize) -> Gpu {
        Gpu {
            ordinal,
            visible: None,
            fallback_name: "cuda".to_owned(),
        }
    }

    #[test]
    fn cuda_s_numbers_lead_to_the_driver_s_gpus() {
        let gpus = GPUS.map(str::to_owned);
        let table = [
            (None, 0, Some("GPU-1a")),
            (None, 2, Some("GPU-2c")),
            (None, 3, None),
            (Some("2,0"), 0, Some("GPU-2c")),
            (Some("2,0"), 1, Some("GPU-1a")),
            (Some("2,0"), 2, None),
            (Some(" 1 , 2 "), 1, Some("GPU-2c")),
            (Some("GPU-2c,GPU-1a"), 1, Some("GPU-1a")),
            (Some("GPU-2"), 0, Some("GPU-2c")),
            (Some("GPU-1"), 0, None),
            (Some("GPU-9"), 0, None),
            (Some("MIG-7,0"), 0, Some("MIG-7")),
            (Some("0,-1,1"), 0, Some("GPU-1a")),
            (Some("0,-1,1"), 1, None),
            (Some("7,1"), 0, None),
            (Some("none"), 0, None),
            (Some(""), 0, None),
        ];
        for (visible, ordinal, expected) in table {
            let found = find(ordinal, visible, &gpus);
            assert_eq!(found.as_deref(), expected, "{visible:?} {ordinal}");
        }
    }

    #[test]
    fn what_the_driver_does_not_tell_is_unknown() {
        let broken = FillingUp {
            broken: true,
            ..FillingUp::default()
        };
        let unknown = Facts {
            name: "cuda".to_owned(),
            ..Facts::default()
        };
        assert_eq!(gpu(0).facts(&broken), unknown);
        let not_there = gpu(9).facts(&FillingUp::default());
        assert_eq!(not_there.name, "cuda");
        assert_eq!(not_there.memory, None);
        assert_eq!(not_there.cuda_version.as_deref(), Some("13.0"));
    }

    #[test]
    fn facts_are_renewed_until_nobody_holds_them() {
        let (go_on, may_go_on) = mpsc::channel::<()>();
        let (tell, paused) = mpsc::channel::<()>();
        let facts = gpu(1).watch(FillingUp::default(), move || {
            // The test's end of a channel is gone once the test is over.
            tell.send(()).unwrap_or_default();
            may_go_on.recv().unwrap_or_default();
        });
        let used = || facts.latest().memory.map(|memory| memory.used);
        paused.recv().unwrap();
        assert_eq!(facts.latest().name, "the one called GPU-1b");
        assert_eq!(used(), Some(0));
        go_on.send(()).unwrap();
        paused.recv().unwrap();
        assert_eq!(used(), Some(1));
        drop(facts);
        go_on.send(()).unwrap();
        assert!(paused.recv().is_err(), "the thread has ended");
    }

    #[test]
    fn a_look_that_panics_costs_that_look_only() {
        let facts = DeviceFacts::new(Facts::default());
        let watched = Arc::downgrade(&facts.0);
        let (see, seen) = mpsc::channel();
        let (look, looks) = mpsc::channel();
        for name in [None, Some("well again")] {
            look.send(name).unwrap();
        }
        let read = move || Facts {
            name: looks.recv().unwrap().expect("on purpose").to_owned(),
            ..Facts::default()
        };
        let pause = move || see.send(()).unwrap_or_default();
        let thread = thread::spawn(move || renew(&watched, read, pause));
        // The third pause is after the second look.
        (0..3).for_each(|_| seen.recv().unwrap());
        assert_eq!(facts.latest().name, "well again");
        drop((facts, look));
        thread.join().unwrap();
    }
}
