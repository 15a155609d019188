# shellcheck shell=sh
if [ "$1" = 0 ]; then
  # without the program a wrapper would hold every VM up: as long as one stands there, the package stays
  onemirror setup --uninstall ||
    [ -z "$(find /var/lib/one/remotes/*/ceph.stock -mindepth 1 2> /dev/null)" ] || exit 1
fi
exit 0
