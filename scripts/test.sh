#!/usr/bin/env bash
# Every check that a change must pass, quickest to fail first. `make test` calls it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

current=start
summary=()

main() {
    trap on_exit EXIT
    step "format" cargo fmt --all --check
    step "links" check_links
    step "dependencies" check_dependencies
    step "clippy" cargo clippy --locked --workspace --all-targets -- -D warnings
    step "benchmark's tests" python3 -m unittest discover --start-directory bench --quiet
    step "model" python3 scripts/fetch-model.py
    # Tests start the binaries of both packages, which `cargo test` alone would not build.
    step "build" cargo build --locked --workspace --bins --tests
    step "archives" scripts/archives.sh "${CARGO_TARGET_DIR:-target}/debug" debug \
        "${CARGO_TARGET_DIR:-target}/debug/archives"
    step "tests" cargo test --locked --workspace
    step "clients of OpenAI's API" python3 scripts/openai_clients.py \
        --bin-dir "${CARGO_TARGET_DIR:-target}/debug"
    # In the workspace's own set of features, so that little is compiled anew.
    step "exported traces" cargo test --locked --workspace --features gpu-bridge/otlp \
        --test blackbox -- traces_export
    step "clippy of exported traces" cargo clippy --locked --workspace --features gpu-bridge/otlp \
        --test blackbox -- -D warnings
    current=""
}

# step NAME COMMAND...: runs the command under a banner and notes how long it took.
step() {
    local began=$SECONDS
    current=$1
    shift
    printf '\n==> %s\n' "$current"
    "$@"
    summary+=("$current $((SECONDS - began)) s")
}

check_links() {
    python3 -m unittest discover --start-directory scripts --quiet
    python3 scripts/check_links.py
}

check_dependencies() {
    if ! cargo deny --version 2>/dev/null; then
        echo "SKIPPED: cargo-deny is not installed; 'make cargo-deny' installs it into .tools/"
        return
    fi
    local checks=(bans licenses sources) log
    if log=$(timeout 120 cargo deny fetch db 2>&1); then
        checks+=(advisories)
    else
        echo "NOT CHECKED: advisories; their database could not be fetched: $(tail -n 1 <<<"$log")"
    fi
    cargo deny --locked --workspace check --hide-inclusion-graph "${checks[@]}"
}

on_exit() {
    local status=$?
    printf '\n'
    ((${#summary[@]} == 0)) || printf '    %s\n' "${summary[@]}"
    if [[ -z $current ]]; then
        printf '==> all passed in %d min %d s\n' $((SECONDS / 60)) $((SECONDS % 60))
    else
        printf '==> FAILED in step "%s" after %d s\n' "$current" "$SECONDS"
    fi
    return "$status"
}

main
