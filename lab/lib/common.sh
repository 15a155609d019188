# shellcheck shell=bash
# What the lab's scripts share: messages, waits with a deadline, which Debian suite has which Ceph.

die() { # message…: say why on stderr and end with status 1
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

usage_error() { # message…
  printf '%s: %s\nTry --help.\n' "${0##*/}" "$*" >&2
  exit 2
}

need_root() {
  [ "$(id -u)" = 0 ] || die "needs root (it installs packages, mounts, and starts daemons); run it with sudo or in a container"
}

# The releases of Ceph that the lab knows, and the Debian suite that carries each.
suite_of() { # release
  case $1 in
    16) echo bookworm ;;
    18) echo trixie ;;
    20) echo sid ;;
    *) usage_error "--ceph $1: the lab knows 16, 18 and 20" ;;
  esac
}

# The release in this machine's own packages; empty if the lab does not know this machine.
host_release() {
  # shellcheck disable=SC1091 # the machine's own file
  case $(. /etc/os-release 2> /dev/null && echo "${ID:-}-${VERSION_CODENAME:-}") in
    debian-bookworm) echo 16 ;;
    debian-trixie) echo 18 ;;
    debian-sid) echo 20 ;;
  esac
}

# Where the root directory for a release other than this machine's own is kept between runs.
cached_root() { # lab folder, release
  echo "$1/.cache/ceph-$2"
}

# Exit status of an awaited condition that can't come true any more.
hopeless=9

# Poll a command until it succeeds; give up at the deadline, and show the end of the log that tells why.
await() { # seconds, what is awaited, log file or "", command…
  local seconds=$1 what=$2 log=$3 deadline status
  shift 3
  deadline=$((SECONDS + seconds))
  while true; do
    status=0
    "$@" || status=$?
    [ "$status" != 0 ] || return 0
    if [ "$status" = "$hopeless" ] || [ "$SECONDS" -ge "$deadline" ]; then
      printf '%s: waited in vain (at most %s s) for %s\n' "${0##*/}" "$seconds" "$what" >&2
      show_end "$log"
      return 1
    fi
    sleep 0.1
  done
}

show_end() { # log file or ""
  if [ -n "$1" ] && [ -s "$1" ]; then
    printf -- '--- the end of %s\n' "$1" >&2
    tail -n 15 "$1" >&2
    printf -- '---\n' >&2
  fi
}
