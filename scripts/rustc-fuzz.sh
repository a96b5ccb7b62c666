#!/usr/bin/env bash
# rustc for the fuzzer, as RUSTC_WORKSPACE_WRAPPER: what is fuzzed tells libFuzzer which branches it takes and what it
# compares. Dependencies stay as they are, so that nothing is compiled twice but our own.
set -euo pipefail
case " $* " in
  *" --crate-name lb_core "* | *" --crate-name lb_control "* | *" --crate-name lb_fuzz "* | *" --crate-name fuzz "*)
    exec "$(dirname "$0")/rustc-asan.sh" "$@" \
      -Cpasses=sancov-module \
      -Cllvm-args=-sanitizer-coverage-level=4 \
      -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
      -Cllvm-args=-sanitizer-coverage-pc-table \
      -Cllvm-args=-sanitizer-coverage-trace-compares
    ;;
esac
exec "$@"
