#!/usr/bin/env bash
# Fuzzes each target (or those that are named) for so many minutes, as many at a time as there are CPUs. It starts from
# the kept corpus (fuzz/corpus) and from what earlier runs found out (target/fuzz/corpus).
#
#   scripts/fuzz.sh [--minutes N] [TARGET …]    fails when there is a find, and says which
#   scripts/fuzz.sh --keep [TARGET …]           adds to the kept corpus what reaches code that nothing in it does
set -euo pipefail
cd "$(dirname "$0")/.."

minutes=1 keep="" targets=()
while [ $# -gt 0 ]; do
  case "$1" in
    --minutes) minutes="$2"; shift ;;
    --keep) keep=1 ;;
    -*) echo "fuzz: $1: unknown option; there are --minutes N and --keep" >&2; exit 2 ;;
    *) targets+=("$1") ;;
  esac
  shift
done
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(cd fuzz/corpus && printf '%s\n' *)
for target in "${targets[@]}"; do
  [ -d "fuzz/corpus/$target" ] || { echo "fuzz: $target: no such target; there are: $(ls fuzz/corpus | xargs)" >&2; exit 2; }
done

scripts/setup.sh
echo "fuzz: building (minutes the first time)"
RUSTC_WORKSPACE_WRAPPER="$PWD/scripts/rustc-fuzz.sh" \
  cargo build --quiet --locked --profile test --package lb-fuzz --features linked --bin fuzz
out="$(realpath -m "${CARGO_TARGET_DIR:-target}")/fuzz"
mkdir -p "$out/finds" "${targets[@]/#/$out/corpus/}"
# A build by somebody else meanwhile does not change what runs here.
cp "${CARGO_TARGET_DIR:-target}/debug/fuzz" "$out/fuzz"

if [ -n "$keep" ]; then
  for target in "${targets[@]}"; do
    FUZZ_TARGET=$target "$out/fuzz" -set_cover_merge=1 -use_counters=0 -max_len=4096 "fuzz/corpus/$target" "$out/corpus/$target" \
      >"$out/$target.log" 2>&1
    echo "fuzz: $target: $(find "fuzz/corpus/$target" -type f | wc -l) inputs are kept"
  done
  exit
fi

# One target; its last words are a line of figures, or the find.
run() {
  local target="$1" log="$out/$1.log" status=0
  FUZZ_TARGET=$target "$out/fuzz" -max_total_time=$((minutes * 60)) -timeout=20 -rss_limit_mb=2048 -max_len=4096 \
    -print_final_stats=1 -artifact_prefix="$out/finds/$target-" "$out/corpus/$target" "fuzz/corpus/$target" \
    >"$log" 2>&1 || status=$?
  local runs coverage
  runs="$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")"
  coverage="$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -1)"
  if [ "$status" -eq 0 ]; then
    echo "fuzz: $target: ${runs:-0} executions, ${coverage:-0} edges, no find"
    return
  fi
  echo "fuzz: $target: a find after ${runs:-?} executions: $(sed -n 's/.*Test unit written to //p' "$log" | tail -1)"
  grep -m1 -A1 -E ' panicked at |ERROR: ' "$log" | sed 's/^/  /' || tail -5 "$log"
  echo "  all of it: $log; what to do with it: docs/fuzzing.md"
  return 1
}
export -f run
export out minutes
echo "fuzz: ${#targets[@]} targets, $minutes minutes each"
printf '%s\0' "${targets[@]}" | xargs -0 -n1 -P"$(nproc)" bash -c 'run "$0"'
