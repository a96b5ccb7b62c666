#!/usr/bin/env bash
# Formatting and lints. The profile is that of the tests, so that nothing is compiled twice for it.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo fmt --all --check
cargo clippy --locked --workspace --all-targets --features lb-fuzz/libfuzzer --profile test -- -D warnings
