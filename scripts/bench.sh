#!/usr/bin/env bash
# Builds all that is measured in the release profile and measures it; arguments go to `bench` (see `bench --help`):
# measures' names, --quick, --record, --gate.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/setup.sh
echo "bench: building (release; takes minutes the first time)" >&2
cargo build --release --locked --package lb-benches --package lb-control --package lab --bins
exec "${CARGO_TARGET_DIR:-target}/release/bench" "$@"
