use std::os::unix::fs::symlink;
use std::time::Duration;

use candle_core::Device;
use gpu_bridge_encoder::Threads;
use tempfile::TempDir;

use super::*;
use crate::device::Precision;
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

/// The same, and a copy of the tiny model: other weights, as far as anybody can tell.
fn link_and_copy(link: &str, copy: &str) -> TempDir {
    let models = links(&[link]);
    let folder = models.path().join(copy);
    std::fs::create_dir(&folder).expect("folder");
    for file in [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "model.safetensors",
    ] {
        std::fs::copy(golden("tiny/bert").join(file), folder.join(file)).expect("copy");
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
    let place = Place::new(Device::Cpu, Precision::F32, threads);
    let loader = Loader::new(place, usize::MAX, EngineMetrics::default());
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
    let models = link_and_copy("m", "n");
    let catalog = catalog(&models, &[], room_for_one());
    for _ in 0..2 {
        catalog.embedder("m", &Nobody).expect("loads");
        assert_eq!(catalog.loaded(), ["embed:m"]);
        catalog.scorer("n", &Nobody).expect("loads");
        assert_eq!(catalog.loaded(), ["bertscore:n"]);
    }
    assert_eq!(catalog.usage().evictions, 3);
}

#[test]
fn a_folder_that_serves_both_purposes_has_its_weights_in_memory_once() {
    let models = links(&["m"]);
    let catalog = catalog(&models, &[("m", 3)], room_for_one());
    for _ in 0..2 {
        catalog.scorer("m", &Nobody).expect("loads");
        catalog.embedder("m", &Nobody).expect("loads");
    }
    let usage = catalog.usage();
    assert_eq!((usage.loads, usage.evictions), (2, 0));
}

#[test]
fn while_all_memory_is_in_use_the_client_is_told_to_come_back() {
    let models = link_and_copy("n", "m");
    let catalog = catalog(&models, &[], room_for_one());
    let _in_use = catalog.embedder("n", &Nobody).expect("loads");
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

#[test]
fn a_model_under_its_short_and_its_full_name_is_loaded_once() {
    let models = links(&["roberta-large"]);
    let catalog = catalog(&models, &[("roberta-large", 2)], PLENTY);
    for name in ["roberta-large", "FacebookAI/roberta-large"] {
        catalog
            .embedder("sentence-transformers/roberta-large", &Nobody)
            .expect("loads");
        let scorer = catalog.scorer(name, &Nobody).expect("loads");
        assert_eq!(scorer.layer(), 2, "{name}");
    }
    assert_eq!(catalog.usage().loads, 2, "one for each purpose");
}

/// What a look finds.
fn looked(catalog: &Arc<Catalog>) -> Vec<String> {
    catalog.look();
    catalog.available().expect("looked")
}

#[test]
fn what_can_be_served_is_listed_under_each_name_and_what_cannot_is_not() {
    let models = links(&["one"]);
    for (name, config) in [
        ("no-weights", None),
        ("t5", Some(r#"{"model_type": "t5"}"#)),
    ] {
        let folder = models.path().join(name);
        std::fs::create_dir(&folder).expect("folder");
        let tiny = golden("tiny/bert");
        for file in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
            std::fs::copy(tiny.join(file), folder.join(file)).expect("copy");
        }
        if let Some(config) = config {
            std::fs::copy(
                tiny.join("model.safetensors"),
                folder.join("model.safetensors"),
            )
            .expect("copy");
            std::fs::write(folder.join("config.json"), config).expect("write");
        }
    }
    let catalog = Arc::new(catalog(&models, &[], PLENTY));
    assert_eq!(catalog.available(), None, "nobody has looked yet");
    let full = "sentence-transformers/one";
    let expected = [
        "bertscore:one",
        &format!("bertscore:{full}"),
        "embed:one",
        &format!("embed:{full}"),
    ];
    assert_eq!(looked(&catalog), expected);
    assert!(catalog.loaded().is_empty(), "nothing is loaded for that");
    let too_small = Arc::new(self::catalog(&models, &[], 100));
    assert!(looked(&too_small).is_empty(), "too large for the budget");
}

#[test]
fn a_model_that_failed_is_listed_again_once_its_files_have_changed() {
    let models = folder_with(&[]);
    let folder = models.path().join("m");
    std::fs::create_dir(&folder).expect("folder");
    let tiny = golden("tiny/bert");
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(tiny.join(file), folder.join(file)).expect("copy");
    }
    let weights = folder.join("model.safetensors");
    std::fs::write(&weights, "no weights").expect("write");
    let catalog = Arc::new(catalog(&models, &[], PLENTY));
    assert!(
        looked(&catalog).contains(&"embed:m".to_owned()),
        "not known yet"
    );

    let refused = catalog.embedder("m", &Nobody).err().expect("broken");
    let EngineError::Load { fault, .. } = refused else {
        panic!("{refused}");
    };
    let told = "weights: model.safetensors: its header of 7523097587056930670 bytes is longer";
    assert!(fault.reason.starts_with(told), "{}", fault.reason);
    let listed = catalog.available().expect("looked");
    assert!(!listed.contains(&"embed:m".to_owned()), "at once");
    assert!(listed.contains(&"bertscore:m".to_owned()), "was not tried");
    assert!(!looked(&catalog).contains(&"embed:m".to_owned()));

    std::fs::copy(tiny.join("model.safetensors"), &weights).expect("copy");
    assert!(looked(&catalog).contains(&"embed:m".to_owned()));
}
