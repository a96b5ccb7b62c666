#!/usr/bin/env bash
# The simulation, built fast and with all checks on. Arguments: see `sim --help`.
set -euo pipefail
cd "$(dirname "$0")/.."
exec cargo run --quiet --locked --profile sim --package sim -- "$@"
