#!/usr/bin/env bash
# Installs what building, testing and measuring need on Debian 12 or 13, and nothing that is there already.
#
# With everything in place it takes well under a second and touches no network. Without root it installs nothing,
# says what is missing and how to get it, and fails only when the build itself cannot do without it.
set -euo pipefail

# What proves that a package is there (a command, a file, or a pkg-config module), the package, what needs it.
needs=(
  "cmd:cc              build-essential   build"
  "cmd:pkg-config      pkg-config        build"
  "cmd:clang           clang             build"
  "glob:/usr/lib/llvm-*/lib/libclang*.so*  libclang-dev  build"
  "pc:libdpdk          libdpdk-dev       build"
  "cmd:ip              iproute2          lab"
  "cmd:ethtool         ethtool           lab"
  "cmd:nft             nftables          lab"
  "cmd:iptables-legacy-restore  iptables     lab"
  "cmd:ping            iputils-ping      lab"
  "cmd:curl            curl              lab"
  "cmd:wrk             wrk               lab"
  "cmd:iperf3          iperf3            lab"
  "cmd:nginx           nginx             lab"
  "cmd:vsftpd          vsftpd            lab"
  "glob:/etc/services  netbase           lab"
  "cmd:haproxy         haproxy           bench"
  "glob:/usr/lib/nginx/modules/ngx_stream_module.so  libnginx-mod-stream  bench"
  "cmd:dpdk-testpmd    dpdk-dev          bench"
  "cmd:valgrind        valgrind          bench"
)

export PATH="$PATH:/usr/sbin:/sbin:${CARGO_HOME:-$HOME/.cargo}/bin"

present() {
  case "$1" in
    cmd:*) command -v "${1#cmd:}" >/dev/null ;;
    glob:*) compgen -G "${1#glob:}" >/dev/null ;;
    pc:*) command -v pkg-config >/dev/null && pkg-config --exists "${1#pc:}" ;;
  esac
}

missing=() missing_for_build=()
for need in "${needs[@]}"; do
  read -r proof package purpose <<<"$need"
  present "$proof" && continue
  missing+=("$package")
  [ "$purpose" != build ] || missing_for_build+=("$package")
done

# The packages of servers (nginx, haproxy, vsftpd) start them as services. The lab starts its own in namespaces, so
# Debian's documented switch, /usr/sbin/policy-rc.d, says "no" while we install and is put back in any case.
policy=/usr/sbin/policy-rc.d
saved=""
restore_policy() {
  if [ -n "$saved" ]; then mv -f "$saved" "$policy"; else rm -f "$policy"; fi
}
install_packages() {
  if [ -e "$policy" ]; then
    saved="$policy.before-lb-setup"
    mv "$policy" "$saved"
  fi
  trap restore_policy EXIT
  trap 'exit 130' INT TERM
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
  export DEBIAN_FRONTEND=noninteractive
  echo "setup: refreshing the package lists"
  apt-get update -qq
  echo "setup: installing ${missing[*]} (takes minutes on a fresh machine)"
  apt-get install -y -qq --no-install-recommends "${missing[@]}" </dev/null >/dev/null
  restore_policy
  trap - EXIT INT TERM
  # Not at the next boot either: whoever had these packages before keeps his services as they were.
  for service in nginx haproxy vsftpd; do
    [[ " ${missing[*]} " != *" $service "* ]] || systemctl disable --quiet "$service" 2>/dev/null || true
  done
}

if [ ${#missing[@]} -gt 0 ]; then
  if [ "$(id -u)" -ne 0 ]; then
    echo "setup: missing: ${missing[*]}" >&2
    echo "setup: as root: apt-get install --no-install-recommends ${missing[*]}" >&2
    [ ${#missing_for_build[@]} -eq 0 ] || exit 1
  elif ! command -v apt-get >/dev/null; then
    echo "setup: missing: ${missing[*]}; this is not Debian, please install their equivalents" >&2
    exit 1
  else
    install_packages
  fi
fi

if ! command -v cargo >/dev/null; then
  echo "setup: cargo is missing; install Rust 1.90 or newer, for example from https://rustup.rs" >&2
  exit 1
fi
for component in rustfmt clippy; do
  command -v "cargo-${component/rustfmt/fmt}" >/dev/null && "cargo-${component/rustfmt/fmt}" --version >/dev/null 2>&1 ||
    rustup component add "$component"
done
if ! command -v cargo-nextest >/dev/null; then
  echo "setup: building cargo-nextest, the test runner (takes minutes, once)"
  cargo install --quiet --locked cargo-nextest
fi
