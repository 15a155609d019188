#!/bin/sh
# Puts onemirror into an OpenNebula front-end, keeps it there, and takes it out again. Run it as root, or as the
# front-end's user where ONE_LOCATION is set. Running it again changes nothing.
#
#   ./install.sh --role home --peer-endpoint https://one-b.example.org:2633/RPC2 --peer-auth FILE
#   ./install.sh --dry-run | --check | --repair | --uninstall [--purge]
#
# --binary FILE takes that program instead of building one; everything else is onemirror setup's (--help).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
binary=''
# takes --binary out of the arguments and leaves the others as they are
count=$#
while [ "$count" -gt 0 ]; do
  word=$1
  shift
  count=$((count - 1))
  case $word in
    --binary)
      [ "$count" -gt 0 ] || { echo "install.sh: --binary needs a file" >&2 && exit 2; }
      binary=$1
      shift
      count=$((count - 1))
      ;;
    --binary=*) binary=${word#--binary=} ;;
    *) set -- "$@" "$word" ;;
  esac
done
if [ -z "$binary" ] && [ -x "$here/onemirror" ]; then
  binary=$here/onemirror
fi
if [ -z "$binary" ]; then
  binary=${CARGO_TARGET_DIR:-$here/target}/release/onemirror
  if command -v cargo > /dev/null; then
    cargo build --quiet --release --locked --manifest-path "$here/Cargo.toml" --package onemirror
  fi
fi
[ -x "$binary" ] || {
  echo "install.sh: no program at $binary; build it where there is Rust (cargo build --release) and copy it there" >&2
  exit 1
}
exec "$binary" setup "$@"
