#!/usr/bin/env bash
# Packs the programs of a folder for release: archives.sh BIN_DIR TARGET OUT_DIR. `make archives` calls it.
#
# The same inputs give the same bytes. Each archive is unpacked again and its program asked for its
# version, so that what does not start is not released.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bin=$(realpath "$1") target=$2 out=$3
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

main() {
    rm -rf "$out"
    mkdir -p "$out"
    out=$(realpath "$out")
    stage gpu-bridge docs/operations.md config/gpu-bridge.yaml config/minimal.yaml config/gpu-bridge.service
    add_generated
    pack gpu-bridge
    stage gpu-bridge-backend docs/gpu-host.md
    pack gpu-bridge-backend
    # What they are made of, where `make sbom` has told.
    [[ -z ${SBOM:-} ]] || cp "$SBOM"/*.cdx.json "$out"
    (cd "$out" && sha256sum -- * >SHA256SUMS && sha256sum --check --quiet SHA256SUMS)
    for program in gpu-bridge gpu-bridge-backend; do
        check "$program"
    done
    echo "in $out:"
    (cd "$out" && cat SHA256SUMS)
}

# stage PROGRAM FILE...: puts together what goes into its archive.
stage() {
    local folder=$work/$1-$version-$target program=$1
    shift
    mkdir "$folder"
    cp LICENSE CHANGELOG.md "$@" "$folder"
    install -m 755 "$bin/$program" "$folder"
}

# What the proxy's program tells of its own command line.
add_generated() {
    local folder=$work/gpu-bridge-$version-$target
    mkdir "$folder/completions"
    "$bin/gpu-bridge" man "$folder/man"
    for shell in bash fish zsh; do
        "$bin/gpu-bridge" completions "$shell" >"$folder/completions/gpu-bridge.$shell"
    done
}

pack() {
    tar --create --directory "$work" --sort=name --owner=0 --group=0 --numeric-owner \
        --mtime="@${SOURCE_DATE_EPOCH:-0}" "$1-$version-$target" | gzip --no-name >"$out/$1-$version-$target.tar.gz"
}

check() {
    rm -rf "${work:?}/$1-$version-$target"
    tar --extract --directory "$work" --file "$out/$1-$version-$target.tar.gz"
    "$work/$1-$version-$target/$1" --version
}

main
