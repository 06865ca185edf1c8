#!/usr/bin/env bash
# Runs libFuzzer on each target for TIME seconds, or on those that TARGETS names. `make fuzz` calls it.
#
# A stable compiler is enough: the coverage that guides libFuzzer comes from a pass of LLVM. What is found to reach
# new code is kept in target/fuzz/corpus, what fails in target/fuzz/failures.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

out=${CARGO_TARGET_DIR:-target}/fuzz
# Named, so that the flags are not those of build scripts too.
host=$(rustc -vV | sed -n 's/^host: //p')
coverage=-Cllvm-args=-sanitizer-coverage
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module $coverage-level=4 $coverage-inline-8bit-counters
    $coverage-pc-table $coverage-trace-compares -Cdebug-assertions -Coverflow-checks"

main() {
    local targets=${TARGETS:-$(ls fuzz/corpus | grep -v '^planted$')} features=libfuzzer failed=()
    for target in $targets; do
        grep -q "\"$target\"" crates/{framing,wire}/src/fuzz.rs || features=programs
    done
    cargo build --locked --release --target "$host" --target-dir "$out" --package gpu-bridge-fuzz --features "$features" --bin fuzz
    for target in $targets; do
        run "$target" || failed+=("$target")
    done
    if ((${#failed[@]} > 0)); then
        echo "FAILED: ${failed[*]}; the inputs are in $out/failures, the logs in $out/logs"
        return 1
    fi
}

# run TARGET: says how many inputs it bore.
run() {
    local target=$1 status=0
    mkdir -p "$out/corpus/$target" "$out/failures" "$out/logs"
    FUZZ_TARGET=$target "$out/$host/release/fuzz" -max_total_time="${TIME:-60}" -timeout=10 -rss_limit_mb=1024 \
        -malloc_limit_mb=256 -max_len=4096 -print_final_stats=1 -artifact_prefix="$out/failures/$target-" \
        "$out/corpus/$target" "fuzz/corpus/$target" 2> "$out/logs/$target" || status=$?
    printf '%-20s %12s inputs%s\n' "$target" "$(sed -n 's/^stat::number_of_executed_units: *//p' "$out/logs/$target")" \
        "$( ((status == 0)) || echo ', FAILED')"
    return "$status"
}

main
