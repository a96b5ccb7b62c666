#!/usr/bin/env bash
# The demo: installs what is missing, builds, and lets real clients reach real servers through lbd.
#
#   scripts/demo.sh           runs it and cleans up
#   scripts/demo.sh --keep    leaves it running
#   scripts/demo.sh --stop    ends what --keep left
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "$(id -u)" -ne 0 ]; then
  echo "demo: needs root: it makes network namespaces and opens AF_XDP sockets" >&2
  exit 1
fi
target="${CARGO_TARGET_DIR:-target}"
if [ "${1:-}" = --stop ]; then
  [ -x "$target/demo/lab" ] || { echo "demo: none was ever built here, so none is running"; exit 0; }
  exec "$target/demo/lab" stop
fi
echo "demo: checking what is installed"
scripts/setup.sh
echo "demo: building lbd, lbctl and the lab (minutes the first time, then seconds)"
cargo build --locked --profile demo --package lb-control --package lab --bins
exec "$target/demo/lab" demo "$@"
