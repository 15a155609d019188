# shellcheck shell=bash
# The lab's own Python environment: pyone, pytest and its helper, as lab/requirements.txt pins them. Needs common.sh.

# Makes lab/.cache/venv, or brings it up to date; at once if there is nothing to do. Debian's python3 makes it, which
# `lab/packages` has given the means.
ensure_venv() { # lab folder
  local venv=$1/.cache/venv wanted=$1/requirements.txt lock python=/usr/bin/python3
  [ -x "$python" ] || python=python3
  mkdir -p "$1/.cache"
  exec {lock}> "$venv.lock"
  flock --wait 600 "$lock" || die "another run has been making $venv for ten minutes; end it, then repeat"
  if ! cmp -s "$wanted" "$venv/requirements.txt" || ! "$venv/bin/python" -c 'import pyone, pytest, xdist' 2> /dev/null; then
    echo "making $venv"
    fill_venv "$venv" "$wanted" "$python" > "$venv.log" 2>&1 || {
      show_end "$venv.log"
      die "could not make $venv (above); see that $python has venv (lab/packages installs it) and that pip reaches its index"
    }
    cp "$wanted" "$venv/requirements.txt"
  fi
  exec {lock}>&-
}

fill_venv() { # venv, requirements, python
  # one that works is kept: somebody may be using it
  "$1/bin/python" -m pip --version || "$3" -m venv --clear "$1" || return 1
  "$1/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$2"
}
