#!/usr/bin/env bash
# Writes a bill of materials (CycloneDX) for each shipped program: sbom.sh TARGET OUT_DIR. `make sbom` calls it.
#
# The same inputs give the same bytes: nothing in it tells of this machine or the time.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

target=$1 out=$2
# The tool writes beside each package's Cargo.toml.
trap 'rm -f ./*_bin.cdx.json backend/*_bin.cdx.json bench/load/*_bin.cdx.json fuzz/*_bin.cdx.json' EXIT

cargo cyclonedx --quiet --format json --spec-version 1.5 --describe binaries --no-build-deps --target "$target"
mkdir -p "$out"
for file in gpu-bridge_bin.cdx.json backend/gpu-bridge-backend_bin.cdx.json; do
    bill=$out/$(basename "$file" _bin.cdx.json).cdx.json
    sed -e '/^  "serialNumber":/d' -e '/^    "timestamp":/d' -e "s|file://$PWD|file:///gpu-bridge|g" "$file" >"$bill"
    printf '%s: %s components\n' "$bill" "$(grep -c '"purl": "pkg:cargo' "$bill")"
done
