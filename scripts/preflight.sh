#!/usr/bin/env bash
# Checks that this machine can build gpu-bridge, before a build fails halfway with a riddle.
#
# Needed: Rust, a C compiler, make, Python 3 and cmake (zlib-ng, which pingora compresses with, is
# built by it). A missing cmake is fetched with pip into .tools/, which the Makefile puts on PATH;
# everything else that is missing is listed, all at once, with the way to get it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

CMAKE_VERSION=3.31.10
PATH="$PWD/.tools/bin:$PATH"
problems=()

main() {
    check_rust
    check_command cc "a C compiler: install gcc or clang (Debian: apt-get install build-essential)"
    check_command make "make (Debian: apt-get install make)"
    check_python
    have cmake || install_cmake
    report
}

check_rust() {
    local wanted found
    if ! have cargo || ! have rustc; then
        problems+=("Rust (cargo and rustc): install it with rustup, https://rustup.rs")
        return
    fi
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    found=$(rustc --version | cut -d' ' -f2)
    at_least "$found" "$wanted" ||
        problems+=("Rust $wanted or later; this is $found: rustup update stable")
}

check_python() {
    check_command python3 "Python 3.10 or later (Debian: apt-get install python3 python3-pip)"
    have python3 || return 0
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        problems+=("Python 3.10 or later; this is $(python3 --version)")
}

check_command() {
    have "$1" || problems+=("$2")
}

# pip's cmake is the real program in a folder, so a link to it is all that it takes. Installed with
# --target it needs neither the venv module nor leave to change the system's Python.
install_cmake() {
    local log folder=.tools/cmake
    echo "preflight: no cmake on this machine; fetching cmake $CMAKE_VERSION with pip into .tools/"
    rm -rf "$folder"
    if log=$(python3 -m pip install --quiet --no-deps --only-binary :all: --target "$folder" \
        "cmake==$CMAKE_VERSION" 2>&1 </dev/null) &&
        mkdir -p .tools/bin &&
        ln -sfn ../cmake/cmake/data/bin/cmake .tools/bin/cmake &&
        log=$(.tools/bin/cmake --version 2>&1); then
        return
    fi
    rm -rf "$folder" .tools/bin/cmake
    printf '%s\n' "$log" | tail -n 5
    problems+=("cmake, and pip could not fetch it (see above): apt-get install cmake, or give python3 a working pip")
}

report() {
    [[ ${#problems[@]} -gt 0 ]] || return 0
    echo "preflight: this machine lacks:"
    printf '  - %s\n' "${problems[@]}"
    exit 1
} >&2

have() {
    command -v "$1" >/dev/null 2>&1
}

# Whether version $1 is $2 or later.
at_least() {
    [[ $(printf '%s\n' "$2" "$1" | sort -V | head -n 1) == "$2" ]]
}

main
