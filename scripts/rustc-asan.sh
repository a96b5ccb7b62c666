#!/usr/bin/env bash
# rustc, as RUSTC_WORKSPACE_WRAPPER: AddressSanitizer watches the memory of what we fuzz.
#
# Its runtime comes with Rust for the usual platforms; the option that asks for it is not stable yet.
set -euo pipefail
case " $* " in
  *" --crate-name lb_core "* | *" --crate-name lb_control "* | *" --crate-name lb_fuzz "* | *" --crate-name fuzz "*) ;;
  *) exec "$@" ;;
esac
runtime="$("$1" --print sysroot)/lib/rustlib/*/lib/librustc*_rt.asan.a"
if ! compgen -G "$runtime" >/dev/null; then
  echo "rustc-asan: this Rust has no AddressSanitizer ($runtime): going on without" >&2
  exec "$@"
fi
RUSTC_BOOTSTRAP=1 exec "$@" -Zsanitizer=address
