#!/bin/sh
# Installs onemirror into an OpenNebula front-end: the binary, the wrappers around the stock `ceph` transfer driver, the
# hooks. Run it as root, or as the front-end's user where ONE_LOCATION is set. Running it again changes nothing.
# usage: install.sh [--binary FILE]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
binary=$here/target/release/onemirror
while [ $# -gt 0 ]; do
  case $1 in
    --binary) binary=$2 && shift 2 ;;
    *) echo "usage: install.sh [--binary FILE]" >&2 && exit 2 ;;
  esac
done
if [ -n "${ONE_LOCATION:-}" ]; then
  bin=$ONE_LOCATION/bin etc=$ONE_LOCATION/etc remotes=$ONE_LOCATION/var/remotes
else
  bin=/usr/bin etc=/etc/one remotes=/var/lib/one/remotes
fi
[ -x "$binary" ] || { echo "no binary at $binary; build it: cargo build --release" >&2 && exit 1; }
[ -d "$remotes/tm/ceph" ] || { echo "no transfer driver at $remotes/tm/ceph; is this a front-end?" >&2 && exit 1; }

put() { # FILE DIRECTORY MODE: whole or not at all
  if ! cmp -s "$1" "$2/$(basename "$1")"; then
    install -m "$3" "$1" "$2/.$(basename "$1").new"
    mv "$2/.$(basename "$1").new" "$2/$(basename "$1")"
    echo "installed $2/$(basename "$1")"
  fi
}

mkdir -p "$bin" "$remotes/tm/ceph.stock" "$remotes/hooks/onemirror"
put "$binary" "$bin" 755
# the stock driver stays complete and at the same depth, so that it finds its own files
for stock in "$remotes"/tm/ceph/*; do
  name=$(basename "$stock")
  if ! grep -qs '/bin/onemirror"' "$stock"; then
    cp -p "$stock" "$remotes/tm/ceph.stock/.$name.new"
    mv "$remotes/tm/ceph.stock/.$name.new" "$remotes/tm/ceph.stock/$name"
  fi
done
for wrapper in "$here"/remotes/tm/ceph/*; do
  # a suffixed action is wrapped only where the stock driver has it
  [ ! -e "$remotes/tm/ceph.stock/$(basename "$wrapper")" ] || put "$wrapper" "$remotes/tm/ceph" 755
done
for hook in "$here"/remotes/hooks/onemirror/*; do put "$hook" "$remotes/hooks/onemirror" 755; done
if [ ! -e "$etc/onemirror.conf" ]; then
  # readable for the front-end's user, who runs the hooks
  install -m 640 -g "$(stat -c %G "$remotes")" "$here/etc/onemirror.conf" "$etc/onemirror.conf"
  echo "edit $etc/onemirror.conf: names, roles and the peer"
fi
registered=$(PATH=$bin:$PATH onehook list --xml)
for hook in "$here"/hooks/*.hook; do
  name=$(sed -n 's/^NAME *= *"\{0,1\}\([^"]*\)"\{0,1\}.*/\1/p' "$hook")
  if ! printf '%s\n' "$registered" | grep -q "[<>[]${name}[]<]"; then
    PATH=$bin:$PATH onehook create "$hook" > /dev/null
    echo "registered hook $name"
  fi
done
