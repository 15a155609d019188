"""Sites in trouble: pools without room, clocks that differ, several servers, root at work."""
import contextlib
import json
import os
import subprocess

import pytest

from conftest import full as full_run
from harness.laboratory import RUNNING, wait_until


def has_room(site, pool):
    pools = json.loads(site.ceph("osd", "pool", "ls", "detail", "--format", "json").stdout)
    flags = next(found["flags_names"] for found in pools if found["pool_name"] == pool)
    return "full" not in flags.split(",")


def stored(site, pool):
    pools = json.loads(site.ceph("df", "--format", "json").stdout)["pools"]
    return next(found["stats"]["stored"] for found in pools if found["name"] == pool)


@contextlib.contextmanager
def no_room(site, pool, limit=1):
    """The pool is at its quota."""
    site.ceph("osd", "pool", "set-quota", pool, "max_bytes", str(limit))
    try:
        wait_until("pool %s of %s to be full" % (pool, site.name), lambda: not has_room(site, pool), 30, 0.5)
        yield
    finally:
        site.ceph("osd", "pool", "set-quota", pool, "max_bytes", "0")
        wait_until("room in pool %s of %s" % (pool, site.name), lambda: has_room(site, pool), 30, 0.5)


@pytest.fixture
def hasty(lab):
    """A call that waits for room is given up soon."""
    for site in lab.sites:
        site.configure(command_timeout="8s")


@full_run
def test_a_terminate_on_a_full_pool_is_finished_once_there_is_room(lab, a, b, hasty):
    machine = lab.vm_with_one_disk("full-terminate", "journal")
    image = machine.images[0]
    machine.register_on_b()
    a.action("poweroff", machine.home)
    a.wait_vm(machine.home, "POWEROFF")
    vm = machine.start_on_b()
    b.wait_vm(vm, RUNNING)
    b.wait_records(vm)
    with no_room(b, "one"):
        b.action("terminate-hard", vm)
        b.wait_vm(vm, "DONE")
        assert b.is_primary(image) and not a.is_primary(image)
        told = json.loads(b.onemirror("list", "-j", check=False).stdout)
        at_home = a.onemirror("list", check=False)
    b.reconcile()
    a.wait_vm(machine.home, RUNNING)
    machine.assert_complete(a)
    assert "pool one of site-b is full (quota of 1 bytes)" in json.dumps(told["not_reached"]), told
    # and whose handoff it is that waits
    (waits,) = [pending for pending in told["pending"] if pending["image"] == image]
    assert waits["vm"] == vm and waits["handoff"].startswith("handoff pending: "), waits
    assert at_home.returncode == 3 and "nothing is copied there: pool one of site-b is full" in at_home.stdout, at_home


def test_a_vm_on_a_full_pool_is_not_started_on_the_other_site(lab, a, b, hasty):
    machine = lab.vm_with_one_disk("full-force", "journal")
    image = machine.images[0]
    machine.register_on_b()
    a.wait_records(machine.home)
    vm = b.one.vm.allocate('NAME="full-force"\nCPU="0.1"\nMEMORY="96"\nCONTEXT=[NETWORK="YES"]\nDISK=[IMAGE_ID="%d"]\n'
                           % machine.registered[0], True)
    b.wait_vm(vm, "HOLD")
    with no_room(a, "one"):
        refused = b.onemirror("failover", vm, "--force", "--reason", "site-a seems lost", check=False)
        assert machine.primaries() == {image: "a"} and b.state_name(vm) == "HOLD", refused.stdout
        assert refused.returncode != 0 and "pool one of site-a is full" in refused.stderr, refused.stderr
    a.action("poweroff", machine.home)
    a.wait_vm(machine.home, "POWEROFF")
    machine.assert_complete(a)


@full_run
@pytest.mark.parametrize("mode", ["journal", "snapshot"])
@pytest.mark.advice("no-room-here", "here: ceph osd pool set-quota POOL max_bytes N")
def test_a_boot_on_a_full_pool_waits_for_room(lab, a, b, adviser, hasty, mode):
    machine = lab.vm_with_one_disk("full-boot-" + mode, mode)
    image = machine.images[0]
    machine.register_on_b()
    a.wait_records(machine.home)
    a.action("poweroff", machine.home)
    a.wait_vm(machine.home, "POWEROFF")
    # the boot has to write a new token
    b_vm = machine.start_on_b()
    b.wait_vm(b_vm, RUNNING)
    b.action("terminate", b_vm)
    b.wait_vm(b_vm, "DONE")
    a.wait_vm(machine.home, RUNNING)
    a.action("poweroff", machine.home)
    a.wait_vm(machine.home, "POWEROFF")
    token = a.token(image)
    pool = image.split("/")[0]
    with no_room(a, pool, stored(a, pool) // 8):
        assert a.resume(machine.home) != RUNNING
        assert "pool %s of site-a is full" % pool in a.vm_error(machine.home), a.vm_error(machine.home)
        assert "set-quota %s max_bytes" % pool in a.vm_log(machine.home)
        assert "A boot would now (OM46): " in a.onemirror("show", machine.home, check=False).stdout
        assert machine.primaries() == {image: "a"}
        adviser.follow(a, machine.home, "no-room-here", "here: ceph osd pool set-quota POOL max_bytes N")
        wait_until("room in pool %s" % pool, lambda: has_room(a, pool), 30, 0.5)
        # rbd tells nothing of an image while its pool is full
        assert a.token(image) == token
    a.onemirror("failover", machine.home)
    a.wait_vm(machine.home, RUNNING)
    machine.assert_complete(a)


# ---------------------------------------------------------------- several servers, several clocks, several users


def test_the_switch_names_the_servers_that_it_does_not_hold_for(lab, a):
    a.control("servers=3")
    try:
        for command in (("off", "--reason", "trial"), ("on",)):
            said = a.onemirror(*command).stdout
            assert "this holds for this server alone: type the same on each of " in said, said
    finally:
        a.control("servers=0")
    assert "server" not in a.onemirror("off", "--reason", "trial").stdout


FAST_CLOCK = """#!/bin/sh
# rbd of a cluster where the clock of the OSD that has an image's header is years ahead of that of the others
for word; do
  if [ "$word" = info ]; then
    answer=$("%s" "$@") || exit
    printf '%%s\\n' "$answer" | sed 's/"create_timestamp":"[^"]*"/"create_timestamp":"Mon Nov 23 00:03:24 2099"/'
    exit
  fi
done
exec "%s" "$@"
"""


@pytest.fixture
def fast_clock(lab, tmp_path):
    program = os.path.join(lab.clusters, "bin/rbd")
    program = program if os.path.exists(program) else "/usr/bin/rbd"
    script = tmp_path / "rbd"
    script.write_text(FAST_CLOCK % (program, program))
    script.chmod(0o755)
    lab.programs.insert(0, str(tmp_path))
    yield
    lab.programs.remove(str(tmp_path))


@full_run
def test_a_split_brained_copy_is_made_anew_whatever_the_clocks_say(lab, a, b, fast_clock):
    machine = lab.vm_with_one_disk("clocks", "journal")
    [image] = machine.images.values()
    machine.register_on_b()
    a.wait_records(machine.home)
    a.action("poweroff", machine.home)
    a.wait_vm(machine.home, "POWEROFF")
    # nobody hears of it at home, and an operator there demotes the copy that was outranked
    a.front_end_kill()
    a.clusters("daemon-stop")
    b.rbd("mirror", "image", "promote", "--force", image)
    b.rbd("image-meta", "set", image, "onemirror.handoff", "1001:site-b:open")
    a.rbd("mirror", "image", "demote", image)
    a.clusters("daemon-start")
    a.front_end_start()
    wait_until("the split brain", lambda: "split-brain" in a.status(image).get("description", ""), 120, 0.5)
    before = a.info(image)["id"]

    def is_copied_anew():
        a.reconcile(check=False)
        found = a.info(image)
        return found and found["id"] != before
    wait_until("the copy at home to be made anew", is_copied_anew, 60, 2)
    assert a.resume(machine.home) == RUNNING, a.vm_error(machine.home)
    assert machine.primaries() == {image: "a"}


ONEADMIN = 9869


@full_run
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_root_leaves_nothing_that_the_front_end_cannot_write(lab, a, b):
    machine = lab.vm_with_one_disk("by-root", "journal")
    machine.register_on_b()
    a.action("poweroff", machine.home)
    a.wait_vm(machine.home, "POWEROFF")
    vm = b.one.vm.allocate('NAME="by-root"\nCPU="0.1"\nMEMORY="96"\nCONTEXT=[NETWORK="YES"]\nDISK=[IMAGE_ID="%d"]\n'
                           % machine.registered[0], True)
    var = os.path.join(b.location, "var")
    state = os.path.join(var, "onemirror")
    subprocess.run(["rm", "-rf", state, state + ".log"], check=True)
    os.chown(var, ONEADMIN, ONEADMIN)
    try:
        b.configure(command_timeout="8s")
        a.clusters("site-lost")
        a.front_end_kill()
        b.onemirror("failover", vm, "--force", "--reason", "site-a is lost")
        b.wait_vm(vm, RUNNING)
        made = subprocess.run(["find", state, state + ".log"], check=True, text=True, capture_output=True).stdout.split()
        assert os.path.join(state, "running") in made
        locked = [path for path in made if os.stat(path).st_uid != ONEADMIN]
        assert not locked, locked
    finally:
        os.chown(var, 0, 0)
        a.clusters("site-back")
        a.front_end_start()


# ---------------------------------------------------------------- a pair that was made by hand


@contextlib.contextmanager
def pool_by_hand(lab, a, b):
    """A pool that is mirrored as OpenNebula's page has it: no site has a name, and each has added the other."""
    for site in lab.sites:
        site.ceph("config-key", "rm", "rbd/mirror/site_name")
        site.ceph("osd", "pool", "create", "byhand", "8")
        site.ceph("osd", "pool", "application", "enable", "byhand", "rbd")
        site.rbd("mirror", "pool", "enable", "byhand", "pool")
        caps = ["profile rbd pool=%s" % pool for pool in ("one", "two", "three", "byhand")]
        site.ceph("auth", "caps", "client.libvirt", "mon", "profile rbd", "mgr", "profile rbd", "osd", ", ".join(caps))
    datastore = None
    try:
        for site, other in ((b, a), (a, b)):
            key, (info,) = os.path.join(lab.root, "key-of-" + other.name), json.loads(
                other.ceph("auth", "get", "client.rbd-mirror-peer", "--format", "json").stdout)
            with open(key, "w") as file:
                file.write(info["key"])
            monitors = next(line.split("=", 1)[1].strip() for line in open(other.conf) if line.startswith("mon host"))
            site.rbd("mirror", "pool", "peer", "add", "byhand", "client.rbd-mirror-peer@" + other.name,
                     "--remote-mon-host", monitors, "--remote-key-file", key)
        datastore = a.one.datastore.allocate(
            'NAME="byhand"\nTYPE="IMAGE_DS"\nDS_MAD="ceph"\nTM_MAD="ceph"\nDISK_TYPE="RBD"\nPOOL_NAME="byhand"\n'
            'CEPH_USER="libvirt"\nCEPH_CONF="%s"\n' % a.conf, -1)
        wait_until("two peers for one cluster", lambda: len(peers(a)) == 2 and len(peers(b)) == 2, 60, 0.5)
        yield
    finally:
        if datastore is not None:
            a.one.datastore.delete(datastore)
        for site in lab.sites:
            site.ceph("config-key", "set", "rbd/mirror/site_name", site.name)
            for peer in peers(site):
                site.rbd("mirror", "pool", "peer", "remove", "byhand", peer["uuid"])
            site.rbd("mirror", "pool", "disable", "byhand")


def peers(site):
    return json.loads(site.rbd("mirror", "pool", "info", "byhand", "--format", "json").stdout)["peers"]


@full_run
def test_a_pair_that_was_made_by_hand_is_a_pair(lab, a, b):
    with pool_by_hand(lab, a, b):
        assert {peer["direction"] for peer in peers(a)} == {"rx-tx", "tx-only"}
        found = json.loads(a.onemirror("doctor", "-j", check=False).stdout)
        wrong = [finding for finding in found if finding["check"] == "mirroring" and finding["level"] != "ok"]
        assert not wrong, wrong
