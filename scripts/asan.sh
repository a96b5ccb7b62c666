#!/usr/bin/env bash
# The tests of what lives on our one module with unsafe memory (the module itself, the flow table, the path) under
# AddressSanitizer.
set -euo pipefail
cd "$(dirname "$0")/.."
RUSTC_WORKSPACE_WRAPPER="$PWD/scripts/rustc-asan.sh" \
  cargo nextest run --locked --cargo-profile test --package lb-core --lib -E 'test(/^(mem|flow|path)::/)' </dev/null
