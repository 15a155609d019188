# shellcheck shell=bash
# Start, find, signal the daemons of one DIR. A daemon is ours if its process id is recorded in DIR and /proc says
# that this process runs the program we expect on a file of DIR: a recycled process id is never signalled.
# Expects: dir (DIR) and in_root (command prefix, may be empty).
: "${dir:=}"
[ -n "${in_root+set}" ] || in_root=()

# shellcheck disable=SC2034 # for whoever includes this
daemons=(mon mgr osd rbd-mirror)

program_of() { # daemon
  case $1 in
    rbd-mirror) echo rbd-mirror ;;
    *) echo "ceph-$1" ;;
  esac
}

log_of() { # site, daemon
  echo "$dir/$1/log/$2.log"
}

pid_file() { # site, daemon
  echo "$dir/$1/run/$2.pid"
}

# The process id of a daemon of ours that exists, running or paused; fails if there is none.
pid_of() { # site, daemon
  local pid program
  [ -s "$(pid_file "$1" "$2")" ] || return 1
  pid=$(cat "$(pid_file "$1" "$2")")
  [[ $pid =~ ^[0-9]+$ ]] || return 1
  program=$(readlink "/proc/$pid/exe" 2> /dev/null) || return 1 # a zombie has none either
  program=${program% (deleted)}
  case ${program##*/} in
    "$(program_of "$2")" | bash | setsid | env | chroot) ;; # the latter until it has become the daemon
    *) return 1 ;;
  esac
  tr '\0' '\n' < "/proc/$pid/cmdline" 2> /dev/null | grep -qF -- "$dir/$1/" || return 1
  echo "$pid"
}

exists() { pid_of "$1" "$2" > /dev/null; }
is_gone() { ! exists "$1" "$2"; }

# running | paused | gone
state_of() { # site, daemon
  local pid state
  if ! pid=$(pid_of "$1" "$2"); then
    echo gone
    return
  fi
  state=$(sed -n 's/^State:[[:space:]]*\(.\).*/\1/p' "/proc/$pid/status" 2> /dev/null) || true
  case $state in
    T) echo paused ;;
    '' | Z | X) echo gone ;;
    *) echo running ;;
  esac
}

is_in_state() { # site, daemon, state
  [ "$(state_of "$1" "$2")" = "$3" ]
}

# The record is written before the program starts and before it leaves our process group: whoever is interrupted
# finds every daemon either in the group or in the record.
launch() { # site, daemon, command…
  local record log
  record=$(pid_file "$1" "$2") log=$(log_of "$1" "$2")
  # shellcheck disable=SC2016 # for the inner shell
  bash -c 'set -e; cd /; echo $$ > "$1"; shift; exec setsid "$@"' launch "$record" "${@:3}" \
    < /dev/null >> "$log.start" 2>&1 &
  disown
}

start_daemon() { # site, daemon
  local site=$1 conf=$dir/$1/ceph.conf
  case $(state_of "$site" "$2") in
    running) return 0 ;;
    paused)
      signal_daemon "$site" "$2" CONT
      return
      ;;
  esac
  rm -f "$(pid_file "$site" "$2")"
  case $2 in
    mon) launch "$site" mon "${in_root[@]}" ceph-mon -f -c "$conf" -i a ;;
    mgr) launch "$site" mgr "${in_root[@]}" ceph-mgr -f -c "$conf" -i x ;;
    osd) launch "$site" osd "${in_root[@]}" ceph-osd -f -c "$conf" -i 0 ;;
    rbd-mirror)
      # CEPH_CONF, not -c: the daemon opens the local cluster a second time by its default configuration.
      # The intervals are 5 to 30 s by default; a test would mostly wait for them.
      launch "$site" rbd-mirror "${in_root[@]}" env CEPH_CONF="$conf" rbd-mirror -f -n "client.rbd-mirror.$site" \
        --log-file "$(log_of "$site" rbd-mirror)" \
        --rbd-mirror-journal-poll-age 1 --rbd-mirror-journal-commit-age 1 --rbd-mirror-image-state-check-interval 2 \
        --rbd-mirror-pool-replayers-refresh-interval 2 --rbd-mirror-sync-point-update-age 2
      ;;
  esac
  await 10 "$site's $2 to start" "$(log_of "$site" "$2").start" exists "$site" "$2"
}

signal_daemon() { # site, daemon, TERM|KILL|STOP|CONT: send it and wait until it has had its effect
  local pid
  if ! pid=$(pid_of "$1" "$2"); then
    rm -f "$(pid_file "$1" "$2")"
    return 0
  fi
  kill -s "$3" "$pid" 2> /dev/null || true # it may have ended since
  case $3 in
    STOP) await 5 "$1's $2 to pause" '' is_in_state "$1" "$2" paused ;;
    CONT) await 5 "$1's $2 to go on" '' is_in_state "$1" "$2" running ;;
    TERM)
      kill -s CONT "$pid" 2> /dev/null || true # a paused process would not see it
      if ! await 5 "$1's $2 to end" '' is_gone "$1" "$2" 2> /dev/null; then
        signal_daemon "$1" "$2" KILL
      fi
      ;;
    KILL)
      await 10 "$1's $2 to die" '' is_gone "$1" "$2"
      rm -f "$(pid_file "$1" "$2")"
      ;;
  esac
}
