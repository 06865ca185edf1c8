use std::os::unix::fs::symlink;
use std::time::Duration;

use gpu_bridge_encoder::Threads;
use tempfile::TempDir;

use super::*;
use crate::engine::Cancellation;
use crate::metrics::EngineMetrics;
use crate::models::encoder::Place;
use crate::models::test_support::{folder_with, golden};

struct Nobody;

impl Progress for Nobody {
    fn finished(&self, _: usize) {}

    fn cancellation(&self) -> Cancellation {
        Cancellation::default()
    }
}

/// A models folder with links of these names to the tiny model.
fn links(names: &[&str]) -> TempDir {
    let models = folder_with(&[]);
    let tiny = golden("tiny/bert").canonicalize().expect("there");
    for name in names {
        symlink(&tiny, models.path().join(name)).expect("link");
    }
    models
}

fn catalog(models: &TempDir, layers: &[(&str, usize)], budget: u64) -> Catalog {
    let sources = ModelSources {
        models_dir: Some(models.path().to_owned()),
        ..ModelSources::default()
    };
    let layers = layers
        .iter()
        .map(|(name, layer)| ((*name).to_owned(), *layer));
    let policy = Policy {
        memory_patience: Duration::ZERO,
        ..Policy::with_budget(budget)
    };
    let downloads = Downloads::new(None, &[]);
    let threads = Threads::new(std::num::NonZeroUsize::MIN).expect("threads");
    let loader = Loader::new(
        Place::Processor(threads),
        usize::MAX,
        EngineMetrics::default(),
    );
    Catalog::new(sources, downloads, layers.collect(), loader, policy)
}

const PLENTY: u64 = 1 << 30;

/// A memory budget in bytes that holds the tiny model once, not twice.
fn room_for_one() -> u64 {
    let models = links(&["m"]);
    let catalog = catalog(&models, &[], PLENTY);
    catalog.embedder("m", &Nobody).expect("loads");
    catalog.usage().used * 3 / 2
}

#[test]
fn a_folder_under_two_names_is_loaded_once() {
    let models = links(&["one", "two"]);
    let catalog = catalog(&models, &[], PLENTY);
    for name in ["one", "two", "one"] {
        catalog.embedder(name, &Nobody).expect("loads");
    }
    assert_eq!(catalog.usage().loads, 1);
    assert_eq!(catalog.loaded(), ["embed:one", "embed:two"]);
}

#[test]
fn purposes_and_layers_are_loaded_apart() {
    let models = links(&["one", "two"]);
    let catalog = catalog(&models, &[("one", 2)], PLENTY);
    catalog.embedder("one", &Nobody).expect("loads");
    catalog.scorer("one", &Nobody).expect("loads");
    catalog.scorer("two", &Nobody).expect("loads");
    assert_eq!(catalog.usage().loads, 3);
    let loaded = ["bertscore:one", "bertscore:two", "embed:one"];
    assert_eq!(catalog.loaded(), loaded);
}

#[test]
fn what_is_not_used_makes_room_and_comes_back() {
    let models = links(&["m"]);
    let catalog = catalog(&models, &[], room_for_one());
    for _ in 0..2 {
        catalog.embedder("m", &Nobody).expect("loads");
        assert_eq!(catalog.loaded(), ["embed:m"]);
        catalog.scorer("m", &Nobody).expect("loads");
        assert_eq!(catalog.loaded(), ["bertscore:m"]);
    }
    assert_eq!(catalog.usage().evictions, 3);
}

#[test]
fn while_all_memory_is_in_use_the_client_is_told_to_come_back() {
    let models = links(&["m"]);
    let catalog = catalog(&models, &[], room_for_one());
    let _in_use = catalog.embedder("m", &Nobody).expect("loads");
    let refused = catalog.scorer("m", &Nobody).err().expect("no room");
    assert!(matches!(refused, EngineError::NoMemory { .. }));
    assert!(refused.to_string().contains("'m'"), "{refused}");
}

#[test]
fn a_model_that_never_fits_names_the_sizes_and_the_setting() {
    let models = links(&["m"]);
    let catalog = catalog(&models, &[], 100);
    let refused = catalog.embedder("m", &Nobody).err().expect("too large");
    let told = refused.to_string();
    for part in ["it needs 1 MiB", "the 0 MiB", "GPU_MODEL_MEMORY_MB"] {
        assert!(told.contains(part), "{told}");
    }
}
