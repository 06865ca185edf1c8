use clap::Parser;

use super::*;

/// Flags win over variables, so every flag is given and the test does not depend on the
/// environment.
fn settings(flags: &[&str]) -> Result<Settings, Problems> {
    let neutral = [
        "gpu-bridge-backend",
        "--api-key=",
        "--device=cpu",
        "--torch-device=cpu",
        "--dtype=auto",
        "--threads=3",
        "--max-concurrent=2",
        "--embed-batch=32",
        "--max-batch-size=100",
        "--max-text-length=10000",
        "--model-embed=all-MiniLM-L6-v2",
        "--model-bertscore=microsoft/deberta-xlarge-mnli",
        "--max-connections=1024",
        "--max-buffered-mb=512",
        "--model-memory-mb=",
        "--download=0",
        "--offline=0",
        "--transformers-offline=0",
        "--hub-endpoint=https://huggingface.co",
        "--hub-token=",
        "--hub-cache=/cache",
        "--hub-home=/home",
        "--log=info",
    ];
    let name = |flag: &str| flag.split('=').next().unwrap_or_default().to_owned();
    let overridden = |flag: &&&str| !flags.iter().any(|given| name(given) == name(flag));
    let arguments = neutral.iter().filter(overridden).chain(flags);
    Settings::check(&Cli::try_parse_from(arguments).unwrap())
}

fn problem(flag: &str) -> String {
    settings(&[flag]).unwrap_err().to_string()
}

#[test]
fn a_wrong_value_names_variable_and_flag_and_says_what_is_allowed() {
    let number = "a whole number from 0 to";
    let table = [
        (
            "--max-concurrent=abc",
            "GPU_MAX_CONCURRENT (--max-concurrent)",
            number,
        ),
        ("--max-concurrent=-1", "GPU_MAX_CONCURRENT", "from 0 to 256"),
        (
            "--max-concurrent=257",
            "GPU_MAX_CONCURRENT",
            "from 0 to 256",
        ),
        ("--max-concurrent=", "GPU_MAX_CONCURRENT", number),
        (
            "--embed-batch=1.5",
            "GPU_EMBED_BATCH (--embed-batch)",
            number,
        ),
        (
            "--max-batch-size=1e3",
            "GPU_MAX_BATCH_SIZE (--max-batch-size)",
            number,
        ),
        (
            "--max-text-length= 7",
            "GPU_MAX_TEXT_LENGTH (--max-text-length)",
            number,
        ),
        (
            "--model-embed=",
            "MODEL_EMBED (--model-embed)",
            "name or folder",
        ),
        (
            "--model-bertscore=",
            "MODEL_BERTSCORE (--model-bertscore)",
            "name or folder",
        ),
        (
            "--device=gpu",
            "GPU_BRIDGE_DEVICE (--device)",
            "allowed: cpu",
        ),
        (
            "--max-connections=0",
            "GPU_BRIDGE_MAX_CONNECTIONS (--max-connections)",
            "from 1 to",
        ),
        (
            "--max-buffered-mb=1.5",
            "GPU_BRIDGE_MAX_BUFFERED_MB (--max-buffered-mb)",
            "from 1 to",
        ),
        (
            "--model-memory-mb=0",
            "GPU_MODEL_MEMORY_MB (--model-memory-mb)",
            "a whole number from 1 to",
        ),
        (
            "--download=maybe",
            "GPU_BRIDGE_DOWNLOAD (--download)",
            "1 or 0",
        ),
        ("--offline=2", "HF_HUB_OFFLINE (--offline)", "1 or 0"),
        ("--transformers-offline=x", "TRANSFORMERS_OFFLINE", "1 or 0"),
        ("--download-model=../x", "--download-model", "ORG/NAME"),
        (
            "--download-model=a/b",
            "--download-model",
            "together with --download",
        ),
        (
            "--hub-endpoint=ftp://hub",
            "HF_ENDPOINT (--hub-endpoint)",
            "a URL",
        ),
        ("--listen=localhost", "--listen", "IP:PORT"),
        (
            "--models-dir=/does/not/exist",
            "--models-dir",
            "a folder that exists",
        ),
        ("--bertscore-layer=m", "--bertscore-layer", "NAME=N"),
        ("--bertscore-layer==3", "--bertscore-layer", "NAME=N"),
        ("--bertscore-layer=m=-3", "--bertscore-layer", "NAME=N"),
        ("--log=info,[", "RUST_LOG (--log)", "a filter such as info"),
    ];
    for (flag, setting, allowed) in table {
        let told = problem(flag);
        assert!(
            told.contains(setting) && told.contains(allowed),
            "{flag}: {told}"
        );
    }
}

#[test]
fn an_empty_path_and_an_odd_address_name_their_variables() {
    for (flag, setting) in [
        ("--listen=localhost", "GPU_BRIDGE_LISTEN (--listen)"),
        ("--models-dir=", "GPU_BRIDGE_MODELS_DIR (--models-dir)"),
        (
            "--tls-key=",
            "GPU_BRIDGE_TLS_CERTIFICATE (--tls-certificate)",
        ),
        ("--tls-certificate=", "GPU_BRIDGE_TLS_KEY (--tls-key)"),
    ] {
        let told = problem(flag);
        assert!(told.contains(setting), "{flag}: {told}");
    }
}

#[test]
fn all_problems_are_told_at_once() {
    let told = settings(&["--max-concurrent=x", "--listen=y"]).unwrap_err();
    assert_eq!(told.0.len(), 2);
    assert_eq!(told.to_string().lines().count(), 2);
}

#[test]
fn the_key_is_never_told() {
    for odd in ["s3cret\n", " s3cret", "s3cr\u{e9}t"] {
        let told = problem(&format!("--api-key={odd}"));
        assert!(
            told.starts_with("error: API_KEY (--api-key) can't be used"),
            "{told}"
        );
        assert!(!told.contains("s3cr"), "{told}");
    }
    let settings = settings(&["--api-key=s3cret"]).unwrap();
    assert!(settings.api.api_key.is_some());
    assert!(!format!("{settings:?}").contains("s3cret"));
}

#[test]
fn the_token_is_never_told() {
    let told = problem("--hub-token=s3cret\u{7}");
    assert!(
        told.starts_with("error: HF_TOKEN (--hub-token) can't be used"),
        "{told}"
    );
    assert!(!told.contains("s3cret"), "{told}");
    for odd in [
        "s3cret",
        "https://me:s3cret@hub",
        "https://s3cret@hub",
        "https://hub?token=s3cret",
    ] {
        let told = problem(&format!("--hub-endpoint={odd}"));
        assert!(
            told.contains("HF_ENDPOINT") && !told.contains("s3cret"),
            "{told}"
        );
    }
    let settings = settings(&["--hub-token=s3cret", "--download"]).unwrap();
    assert!(!format!("{settings:?}").contains("s3cret"));
}

#[test]
fn downloads_are_asked_for_and_offline_wins() {
    let downloads = |flags: &[&str]| settings(flags).unwrap().downloads;
    assert!(matches!(downloads(&[]), Downloads::Off));
    let Downloads::On(plan) = downloads(&["--download", "--download-model=org/a"]) else {
        panic!("downloads are off");
    };
    assert_eq!(plan.models, ["org/a"]);
    assert_eq!(plan.hub.cache, Path::new("/cache"));
    assert_eq!(plan.hub.token, None);
    for offline in ["--offline=1", "--transformers-offline=YES"] {
        let downloads = downloads(&["--download=1", offline]);
        assert!(matches!(downloads, Downloads::Offline), "{offline}");
    }
}

#[test]
fn an_empty_key_is_none() {
    assert!(settings(&["--api-key="]).unwrap().api.api_key.is_none());
}

#[test]
fn the_own_name_of_the_device_wins_and_an_empty_one_says_nothing() {
    assert!(settings(&["--device=cpu", "--torch-device=cuda"]).is_ok());
    assert!(settings(&["--device=", "--torch-device="]).is_ok());
    let told = settings(&["--device=", "--torch-device=tpu"])
        .unwrap_err()
        .to_string();
    assert!(told.contains("TORCH_DEVICE (--torch-device)"), "{told}");
}

#[test]
fn a_gpu_needs_a_build_with_cuda() {
    let gpu = settings(&["--device=cuda:1"]);
    match gpu {
        Ok(settings) => assert!(HAS_CUDA && settings.devices.first.to_string() == "cuda:1"),
        Err(told) => assert!(
            !HAS_CUDA && told.to_string().contains("build with --features cuda"),
            "{told}"
        ),
    }
}

#[test]
fn devices_are_given_with_commas_between() {
    let two = settings(&["--device=cpu,cpu", "--dtype=f32"]).unwrap();
    assert_eq!(two.devices.iter().count(), 2);
    assert_eq!(two.precision, Precision::F32);
    assert_eq!(two.api.device, "cpu");
    let told = problem("--device=cpu,,cpu");
    assert!(told.contains("GPU_BRIDGE_DEVICE (--device)"), "{told}");
}

#[test]
fn precision_is_one_of_four_and_the_processor_has_those_that_it_can_compute() {
    let wrong = problem("--dtype=float16");
    assert!(wrong.contains("GPU_BRIDGE_DTYPE (--dtype)"), "{wrong}");
    assert!(wrong.contains("auto, f32, f16 or bf16"), "{wrong}");
    let bf16 = settings(&["--dtype=bf16"]).map(|settings| settings.precision);
    let allowed = if Factors::Bf16.are_native() {
        assert_eq!(bf16, Ok(Precision::Bf16));
        "auto, f32 or bf16 on the processor"
    } else {
        let refused = bf16.unwrap_err().to_string();
        assert!(refused.contains("lacks AVX-512 BF16"), "{refused}");
        "auto or f32 on this processor"
    };
    let not_here = problem("--dtype=f16");
    assert!(not_here.contains(allowed), "{not_here}");
}

#[test]
fn memory_for_bodies_is_given_in_mb() {
    assert_eq!(settings(&[]).unwrap().api.max_buffered, 512 << 20);
    let largest = settings(&["--max-buffered-mb=1048576"]).unwrap();
    assert_eq!(largest.api.max_buffered, 1 << 40);
}

#[test]
fn a_batch_of_0_counts_as_1() {
    assert_eq!(
        settings(&["--embed-batch=0"]).unwrap().embed_batch,
        NonZeroUsize::MIN
    );
}

#[test]
fn memory_is_given_in_megabytes_or_left_to_us() {
    let memory = |flag| settings(&[flag]).unwrap().model_memory;
    assert_eq!(memory("--model-memory-mb=3"), Some(3 << 20));
    assert_eq!(memory("--model-memory-mb="), None);
}

#[test]
fn empty_folders_of_the_hub_say_nothing() {
    let cache = |flags: &[&str]| settings(flags).unwrap().sources.hub_cache.unwrap();
    assert_eq!(cache(&["--hub-cache="]), Path::new("/home/hub"));
    let own = cache(&["--hub-cache=", "--hub-home="]);
    assert!(own.ends_with(".cache/huggingface/hub"), "{}", own.display());
}

#[test]
fn layers_are_given_by_name() {
    let flags = ["--bertscore-layer=org/a=b=6", "--bertscore-layer=c=0"];
    let layers = settings(&flags).unwrap().bertscore_layers;
    let expected = [("org/a=b".to_owned(), 6), ("c".to_owned(), 0)];
    assert_eq!(layers, BTreeMap::from(expected));
    let twice = |layer| settings(&["--bertscore-layer=a=3", layer]);
    assert!(twice("--bertscore-layer=a=3").is_ok());
    let told = twice("--bertscore-layer=a=4").unwrap_err().to_string();
    assert!(told.contains("one layer for each name"), "{told}");
}

#[test]
fn the_hub_cache_is_found_as_the_hub_s_client_finds_it() {
    let (cache, home) = (Path::new("/cache"), Path::new("/home"));
    let none = Path::new("");
    assert_eq!(hub_cache(Some(cache), Some(home)), Some("/cache".into()));
    assert_eq!(hub_cache(None, Some(home)), Some("/home/hub".into()));
    assert_eq!(hub_cache(Some(none), Some(home)), Some("/home/hub".into()));
    let default = hub_cache(None, None);
    assert!(default.is_none_or(|folder| folder.ends_with(".cache/huggingface/hub")));
}
