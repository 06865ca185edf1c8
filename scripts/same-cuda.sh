#!/usr/bin/env bash
# Checks that a program built with CUDA finds the same CUDA where it will run:
#
#   same-cuda.sh NVCC_VERSION LIBRARIES PROGRAM
#
# NVCC_VERSION holds what `nvcc --version` said where it was built. The build of the image calls it, so
# that an image with libraries older than the compiler can't be made.
set -euo pipefail

main() {
    local built library found missing
    built=$(sed -n 's/^Cuda compilation tools, release \([0-9.]*\),.*/\1/p' "$1")
    [[ -n $built ]] || fail "$1 does not say which CUDA the program was built with"
    for library in libcudart libnvrtc; do
        found=$(version_of "$2" "$library")
        [[ $found == "$built" ]] ||
            fail "built with CUDA $built, but $library in $2 is of ${found:-no version}: both must be of one"
    done
    # The driver's own library comes from the machine that it runs on.
    missing=$(ldd "$3" | awk '/not found/ && $1 != "libcuda.so.1" {print $1}')
    [[ -z $missing ]] || fail "$3 lacks $(tr '\n' ' ' <<<"$missing")"
    echo "CUDA $built on both sides"
}

# version_of FOLDER LIBRARY: as its file is called, libcudart.so.13.0.96, in the form MAJOR.MINOR.
version_of() {
    local file newest=""
    for file in "$1/$2".so.*.*; do
        [[ -e $file ]] && newest=${file##*.so.}
    done
    cut -d. -f1,2 <<<"$newest"
}

fail() {
    echo "same-cuda: $1" >&2
    exit 1
}

main "$@"
