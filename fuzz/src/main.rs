//! libFuzzer on one target: `make fuzz` builds and calls it. `FUZZ_TARGET` says which.

#![no_main]

#[cfg(not(fuzzing))]
compile_error!("the targets are there with `--cfg fuzzing` only: use `make fuzz`");

use std::sync::OnceLock;

use gpu_bridge_fuzz::Target;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    static TARGET: OnceLock<fn(&[u8])> = OnceLock::new();
    TARGET.get_or_init(named)(bytes);
});

/// # Panics
/// There is none of that name.
#[expect(clippy::panic, reason = "nothing can go on without one")]
fn named() -> fn(&[u8]) {
    let wanted = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let all = [
        #[cfg(feature = "programs")]
        gpu_bridge::fuzz::TARGETS,
        #[cfg(feature = "programs")]
        gpu_bridge_backend::fuzz::TARGETS,
        gpu_bridge_framing::fuzz::TARGETS,
        gpu_bridge_wire::fuzz::TARGETS,
    ]
    .concat();
    let found = all.iter().find(|(name, _)| *name == wanted);
    let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
    let (_, target): &Target =
        found.unwrap_or_else(|| panic!("FUZZ_TARGET must be one of: {}", names.join(" ")));
    *target
}
