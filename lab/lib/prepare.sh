# shellcheck shell=bash
# What has to be there before the lab can start: packages, the Python environment, the binaries. Needs common.sh, venv.sh.

prepare() { # lab folder, release of Ceph or nothing
  local lab=$1 release=${2-}
  PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
  command -v cargo > /dev/null || die "cargo is missing; install Rust with rustup (https://rustup.rs), then repeat"
  need_root
  "$lab/packages" ${release:+--ceph "$release"} || exit
  ensure_venv "$lab"
  echo "building onemirror and the stand-in front-end"
  (cd "$lab/.." && cargo build --quiet --workspace) || die "the build failed (above)"
}

release_of() { # arguments of the caller: the release that --ceph names
  case ${1-} in
    '') ;;
    -h | --help) sed -n 's/^# \(usage: .*\)/\1/p' "$0" >&2 ;;
    --ceph)
      suite_of "${2-}" > /dev/null
      echo "$2"
      ;;
    *) usage_error "unknown argument $1" ;;
  esac
}
