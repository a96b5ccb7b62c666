#!/usr/bin/env bash
# Every test there is, one build for all of them; the last thing on the terminal is nextest's summary.
#
# Tests that make network namespaces (nearly all of package `lab`, `veth` of lb-dataplane, `netns_tests` of the twin) need
# root: without it they are left out, and we say so.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '== %s\n' "$*"; }

say "setup"
scripts/setup.sh

say "formatting and lints"
scripts/lint.sh

# With the tests of package lb-control come lbd and lbctl, which the lab tests run. A `cargo build` of these would be another
# selection of features, and most of it compiled a second time.
say "build"
cargo nextest run --locked --workspace --no-run

say "documentation tests"
cargo test --locked --workspace --doc --quiet

say "memory, flows and the path under AddressSanitizer"
scripts/asan.sh

filter=()
if [ "$(id -u)" -ne 0 ]; then
  say "not root: tests that make network namespaces are skipped (counted in the summary); run as root for them"
  filter=(-E 'not (package(lab) & kind(test) & not binary(licences))
    and not (package(lb-dataplane) & binary(veth)) and not test(/netns_tests::/)')
fi

say "tests"
# An error says where it comes from; the stack below it is the test runner's.
export RUST_LIB_BACKTRACE=0
exec cargo nextest run --locked --workspace "${filter[@]}" </dev/null
