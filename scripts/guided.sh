#!/usr/bin/env bash
# Builds the proxy as it is shipped: guided.sh OUT [TARGET]. `make archives`, `make bench-proxy` and the Dockerfile call it.
#
# Twice: with counters, for a run through all that it does (bench/proxy_training.py), and as these counts advise.
# What runs often then lies together, so that the processor waits less for code: a request costs about two fifths less
# CPU. Where something is missing for that it is built once, without advice.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

out=$1
host=$(rustc -vV | sed -n 's/^host: //p')
# Named, so that the flags are not those of build scripts too.
target=${2:-$host}
base=${CARGO_TARGET_DIR:-$PWD/target}
folder=$base/guided
PATH=$(rustc --print sysroot)/lib/rustlib/$host/bin:$PATH # where rustup puts llvm-tools

main() {
    local missing merge
    mkdir -p "$(dirname "$out")"
    merge=$(profdata)
    missing=$(missing "$merge")
    if [[ -n $missing ]]; then
        echo "guided: no $missing, so gpu-bridge is built without a profile: requests will cost more CPU" >&2
        build "$base" ""
        install -m 755 "$base/$target/dist/gpu-bridge" "$out"
        return
    fi
    build "$folder/counting" "-Cprofile-generate=$folder/counts"
    learn "$merge" "$folder/counting/$target/dist/gpu-bridge"
    build "$folder/advised" "-Cprofile-use=$(realpath "$folder"/*.profdata)"
    install -m 755 "$folder/advised/$target/dist/gpu-bridge" "$out"
}

# llvm-profdata of the compiler's LLVM: it reads what programs of this compiler count, and no other's.
profdata() {
    local major name
    major=$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
    for name in llvm-profdata "llvm-profdata-$major"; do
        if "$name" merge --version 2>/dev/null | grep -q "LLVM version $major\."; then
            command -v "$name"
            return
        fi
    done
}

# missing PROFDATA: what there is not.
missing() {
    if [[ -z $1 ]]; then
        echo "llvm-profdata (rustup component add llvm-tools)"
    elif ! command -v python3 >/dev/null; then
        echo "python3"
    elif ! command -v openssl >/dev/null; then
        echo "openssl"
    fi
}

# build FOLDER FLAGS
build() {
    RUSTFLAGS="${RUSTFLAGS:-} $2" cargo build --locked --profile dist --target "$target" --target-dir "$1" \
        --package gpu-bridge --bins
}

# learn PROFDATA PROGRAM: runs it, unless what it counts is known. The name says of which program it is, so that
# cargo sees when there is another.
learn() {
    local known
    known=$folder/$(sha256sum "$2" bench/proxy_training.py | sha256sum | cut -c 1-16).profdata
    [[ ! -e $known ]] || return 0
    # What was built as another profile advised is of no more use.
    rm -rf "$folder"/*.profdata "$folder/counts" "$folder/advised"
    cargo build --locked --profile dist --package gpu-bridge-bench --bins
    echo "guided: gpu-bridge is trained" >&2
    python3 bench/proxy_training.py "$2" "$base/dist/gpu-bridge-bench"
    "$1" merge --output "$known.part" "$folder/counts"
    mv "$known.part" "$known"
}

main
