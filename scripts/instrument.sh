#!/usr/bin/env bash
# rustc, as RUSTC_WORKSPACE_WRAPPER: what is fuzzed tells libFuzzer which branches it takes and what it compares, and
# AddressSanitizer watches its memory. Dependencies stay as they are, so that nothing is compiled twice but our own.
set -euo pipefail
flags=()
case " $* " in
  *" --crate-name lb_core "* | *" --crate-name lb_control "* | *" --crate-name lb_fuzz "* | *" --crate-name fuzz "*)
    flags=(
      -Cpasses=sancov-module
      -Cllvm-args=-sanitizer-coverage-level=4
      -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
      -Cllvm-args=-sanitizer-coverage-pc-table
      -Cllvm-args=-sanitizer-coverage-trace-compares
      -Zsanitizer=address
    )
    # The sanitizer's runtime comes with stable Rust; the option that asks for it is not stable yet.
    export RUSTC_BOOTSTRAP=1
    ;;
esac
exec "$@" "${flags[@]}"
