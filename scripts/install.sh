#!/usr/bin/env bash
# Installs what `make build` built, under DESTDIR and PREFIX:
#
#   sbin/lbd  sbin/lbctl             the programs
#   lib/lb/{ipvsadm,iptables,…}      links to lbctl that speak those commands: put the directory on PATH, or link from it
#   share/man (lbd.8, lbctl*.1), shell completions   as lbctl itself writes them
#   lib/systemd/system/lbd.service   the unit
#   share/doc/lb/examples            the example configs; /etc/lb/lbd.toml if there is none
set -euo pipefail
cd "$(dirname "$0")/.."
target="${CARGO_TARGET_DIR:-target}/release"
prefix="${PREFIX:-/usr/local}"
root="${DESTDIR:-}$prefix"
# Everybody may read what is installed, whatever whoever installs keeps to himself.
umask 022

install -D -m 755 "$target/lbd" "$root/sbin/lbd"
install -D -m 755 "$target/lbctl" "$root/sbin/lbctl"
install -d "$root/lib/lb"
for name in conntrack ipset nfacct nfnl_osf ipvsadm{,-save,-restore} ip{,6}tables{,-legacy}{,-save,-restore}; do
  ln -sf ../../sbin/lbctl "$root/lib/lb/$name"
done

lbctl="$target/lbctl"
written="$(mktemp -d)"
trap 'rm -rf "$written"' EXIT
"$lbctl" man --directory "$written"
install -D -m 644 -t "$root/share/man/man1" "$written"/*.1
install -D -m 644 -t "$root/share/man/man8" "$written"/*.8
for shell in bash zsh fish; do
  "$lbctl" completions "$shell" >"$written/$shell"
done
install -D -m 644 "$written/bash" "$root/share/bash-completion/completions/lbctl"
install -D -m 644 "$written/zsh" "$root/share/zsh/site-functions/_lbctl"
install -D -m 644 "$written/fish" "$root/share/fish/vendor_completions.d/lbctl.fish"

install -d "$root/lib/systemd/system"
sed "s|@PREFIX@|$prefix|g" packaging/lbd.service.in >"$written/lbd.service"
install -m 644 "$written/lbd.service" "$root/lib/systemd/system/lbd.service"

install -d "$root/share/doc/lb/examples"
install -m 644 configs/*.toml "$root/share/doc/lb/examples/"
etc="${DESTDIR:-}/etc/lb"
if [ ! -e "$etc/lbd.toml" ]; then
  install -D -m 640 configs/minimal.toml "$etc/lbd.toml"
fi
echo "install: done, under $root; config: $etc/lbd.toml"
