# shellcheck shell=bash
# The root directory in which a release of Ceph runs that is not this machine's own: a small tmpfs at DIR/root with the
# folders of the cached root mounted read-only into it, so the cache is never written to and several labs can share it.
# The repository, DIR and /tmp appear in it under the paths that they have outside.

mount_root() { # cached root, DIR, lab folder
  local cache=$1 dir=$2 root=$2/root entry path
  mkdir "$root"
  mount -t tmpfs -o size=4m,mode=755 onemirror-lab "$root"
  mount --make-private "$root" # nothing that is mounted below spreads to other mount namespaces
  for entry in bin sbin lib lib64 lib32; do
    if [ -L "$cache/$entry" ]; then cp -P "$cache/$entry" "$root/$entry"; fi
  done
  for entry in usr etc; do
    mkdir "$root/$entry"
    mount --bind "$cache/$entry" "$root/$entry"
    mount -o remount,bind,ro "$root/$entry"
  done
  for entry in proc sys dev; do
    mkdir "$root/$entry"
    mount --bind "/$entry" "$root/$entry"
  done
  mkdir -p "$root/run" "$root/var/lib"
  ln -s /run "$root/var/run"
  : > "$root/.onemirror-lab-root" # tells the wrappers of DIR/bin that they are inside
  for path in /tmp "$(dirname "$3")" "$dir"; do
    case $path in
      /tmp/*) continue ;; # is there already
      / | /usr | /usr/* | /etc | /etc/* | /proc/* | /sys/* | /dev/*) die "$path can't be shown at the same path in a root of another release; choose a --root (or a checkout) elsewhere" ;;
    esac
    mkdir -p "$root$path"
    mount --bind "$path" "$root$path"
  done
}

mounts_below() { # directory: mount points at or below it, the innermost first
  # mountinfo's field 5 is the mount point
  awk -v dir="$1" '$5 == dir || index($5, dir "/") == 1 { print $5 }' /proc/self/mountinfo | tac
}

unmount_root() { # DIR: leaves nothing mounted below DIR, or fails
  local dir=$1 path
  while read -r path; do
    # busy: somebody's own process is in there. Detached, the mount goes when that process does
    await 5 "$path to be free" '' umount "$path" 2> /dev/null || umount --lazy "$path" \
      || die "could not unmount $path; see \`fuser -m $path\`, then repeat"
  done < <(mounts_below "$dir")
  [ -z "$(mounts_below "$dir")" ] || die "something is mounted below $dir again; repeat \`down\`"
  if [ -d "$dir/root" ]; then rmdir "$dir/root"; fi
}
