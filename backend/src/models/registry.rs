//! Models in memory, by name. A model is loaded when it is first asked for, once however many ask
//! at the same time; those wait for that one load and nobody else does. A failed load is not
//! remembered: the next request tries again, so that a repaired folder needs no restart.
//!
//! Two locks, never held together: the map's, for an instant, and one for each model, for as long
//! as that model loads. A loaded model is read without either.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Loaded models of one kind.
pub(crate) struct Registry<M> {
    slots: Mutex<BTreeMap<String, Arc<Slot<M>>>>,
}

struct Slot<M> {
    model: OnceLock<Arc<M>>,
    loading: Mutex<()>,
}

impl<M> Registry<M> {
    pub(crate) fn new() -> Self {
        Self {
            slots: Mutex::new(BTreeMap::new()),
        }
    }

    /// The model called `name`, if it is loaded.
    pub(crate) fn get(&self, name: &str) -> Option<Arc<M>> {
        lock(&self.slots).get(name)?.model.get().cloned()
    }

    /// The model called `name`, loaded by `load` if need be. Only for names of models that exist:
    /// each name asked for keeps a place in the map.
    pub(crate) fn get_or_load<E>(
        &self,
        name: &str,
        load: impl FnOnce() -> Result<M, E>,
    ) -> Result<Arc<M>, E> {
        let slot = self.slot(name);
        let _loading = lock(&slot.loading);
        if let Some(model) = slot.model.get() {
            return Ok(Arc::clone(model));
        }
        let model = Arc::new(load()?);
        Ok(Arc::clone(slot.model.get_or_init(|| model)))
    }

    /// Names of the models that are loaded, sorted. Never waits for a load.
    pub(crate) fn loaded(&self) -> Vec<String> {
        let slots = lock(&self.slots);
        let loaded = slots.iter().filter(|(_, slot)| slot.model.get().is_some());
        loaded.map(|(name, _)| name.clone()).collect()
    }

    fn slot(&self, name: &str) -> Arc<Slot<M>> {
        let mut slots = lock(&self.slots);
        let slot = slots.entry(name.to_owned()).or_insert_with(|| {
            Arc::new(Slot {
                model: OnceLock::new(),
                loading: Mutex::new(()),
            })
        });
        Arc::clone(slot)
    }
}

/// A load that panicked leaves nothing half-done behind these locks: go on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    type Loaded = Result<u32, String>;

    #[test]
    fn many_at_once_load_once() {
        let registry = Registry::new();
        let loads = AtomicUsize::new(0);
        let start = Barrier::new(8);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    start.wait();
                    let model = registry.get_or_load("m", || -> Loaded {
                        loads.fetch_add(1, Ordering::SeqCst);
                        Ok(7)
                    });
                    assert_eq!(model.as_deref(), Ok(&7));
                });
            }
        });
        assert_eq!(loads.into_inner(), 1);
    }

    #[test]
    fn a_load_does_not_hold_up_other_models() {
        let registry = Registry::new();
        let outer = registry.get_or_load("slow", || -> Loaded {
            registry.get_or_load("quick", || -> Loaded { Ok(1) })?;
            assert_eq!(registry.loaded(), ["quick"]);
            assert!(registry.get("slow").is_none());
            Ok(2)
        });
        assert_eq!(outer.as_deref(), Ok(&2));
        assert_eq!(registry.loaded(), ["quick", "slow"]);
    }

    #[test]
    fn a_failed_load_is_tried_again() {
        let registry = Registry::new();
        let failed = registry.get_or_load("m", || -> Loaded { Err("broken".to_owned()) });
        assert_eq!(failed.as_deref(), Err(&"broken".to_owned()));
        assert!(registry.loaded().is_empty());
        assert_eq!(
            registry.get_or_load("m", || -> Loaded { Ok(3) }).as_deref(),
            Ok(&3)
        );
    }

    #[test]
    fn a_load_that_panicked_is_tried_again() {
        let registry = Registry::new();
        let panicked = thread::scope(|scope| {
            scope
                .spawn(|| registry.get_or_load("m", || -> Loaded { panic!("on purpose") }))
                .join()
        });
        assert!(panicked.is_err());
        assert_eq!(
            registry.get_or_load("m", || -> Loaded { Ok(3) }).as_deref(),
            Ok(&3)
        );
    }
}
