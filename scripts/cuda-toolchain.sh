#!/usr/bin/env bash
# Makes a folder with NVIDIA's CUDA compiler and the libraries that a build with the feature `cuda`
# needs, from NVIDIA's packages for Python: no root, no driver, no GPU. 1.2 GB.
#
#   scripts/cuda-toolchain.sh [FOLDER]     (default: .tools/cuda)
#   source FOLDER/env.sh
#   CUDA_COMPUTE_CAP=90 cargo build --release -p gpu-bridge-backend --features cuda
#
# Where CUDA 12.x or 13.x is installed already, with nvcc on PATH, this is not needed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# 13.0 runs on drivers from 580 on; later versions of CUDA would ask for later drivers.
VERSION=13.0.2
# nvcc with its parts (crt, nvvm), headers (cccl), and the libraries that candle calls.
PARTS=nvcc,crt,nvvm,cccl,cudart,cublas,curand,nvrtc

main() {
    local folder
    folder=$(realpath -m -- "${1:-.tools/cuda}")
    install_parts "$folder"
    local home="$folder/nvidia/cu13"
    link_libraries "$home/lib"
    add_driver_stub "$home"
    write_environment "$home" "$folder/env.sh"
    "$home/bin/nvcc" --version | tail -n 2
    echo "now: source $folder/env.sh"
}

install_parts() {
    python3 -m pip install --quiet --disable-pip-version-check --upgrade --no-compile \
        --target "$1" "cuda-toolkit[$PARTS]==$VERSION"
}

# Linkers look for libNAME.so, but the packages hold libNAME.so.VERSION alone.
link_libraries() {
    local library
    for library in "$1"/lib*.so.*; do
        ln -sfn "$(basename "$library")" "${library%%.so.*}.so"
    done
    # nvcc and build scripts expect the name that an installed toolkit has.
    ln -sfn lib "$(dirname "$1")/lib64"
}

# The driver's library comes with the driver. To link against it without one, a library with the same
# functions will do, each of which gives CUDA_ERROR_STUB_LIBRARY (34): programs load the real one when
# they run.
add_driver_stub() {
    mkdir -p "$1/lib/stubs"
    echo '#include <cuda.h>' |
        cc -E -P -I "$1/include" - |
        grep -oE 'CUresult +cu[A-Za-z0-9_]+ *\(' |
        sed -E 's/CUresult +(cu[A-Za-z0-9_]+).*/int \1(void) { return 34; }/' |
        sort -u |
        cc -shared -fPIC -Wl,-soname,libcuda.so.1 -o "$1/lib/stubs/libcuda.so" -x c -
}

write_environment() {
    cat >"$2" <<ENVIRONMENT
export CUDA_HOME="$1" CUDA_PATH="$1"
export PATH="$1/bin:\$PATH"
export LIBRARY_PATH="$1/lib:$1/lib/stubs\${LIBRARY_PATH:+:\$LIBRARY_PATH}"
export LD_LIBRARY_PATH="$1/lib\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}"
ENVIRONMENT
}

main "$@"
