"""Clusters in trouble: pools without room."""
import contextlib
import json

import pytest

from conftest import full as full_run
from harness.laboratory import RUNNING, wait_until


def has_room(site, pool):
    pools = json.loads(site.ceph("osd", "pool", "ls", "detail", "--format", "json").stdout)
    flags = next(found["flags_names"] for found in pools if found["pool_name"] == pool)
    return "full" not in flags.split(",")


@contextlib.contextmanager
def no_room(site, pool):
    """The pool is at its quota."""
    site.ceph("osd", "pool", "set-quota", pool, "max_bytes", "1")
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
        told = b.onemirror("list", "-j").stdout
        assert "pool one of site-b is full (quota of 1 bytes)" in told, told
    b.reconcile()
    a.wait_vm(machine.home, RUNNING)
    machine.assert_complete(a)


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
def test_a_boot_on_a_full_pool_waits_for_room(lab, a, b, hasty, mode):
    machine = lab.vm_with_one_disk("full-boot-" + mode, mode)
    image = machine.images[0]
    machine.register_on_b()
    a.wait_records(machine.home)
    a.action("poweroff", machine.home)
    a.wait_vm(machine.home, "POWEROFF")
    # the boot has to write that it is a new reign
    b_vm = machine.start_on_b()
    b.wait_vm(b_vm, RUNNING)
    b.action("terminate", b_vm)
    b.wait_vm(b_vm, "DONE")
    a.wait_vm(machine.home, RUNNING)
    a.action("poweroff", machine.home)
    a.wait_vm(machine.home, "POWEROFF")
    token = a.token(image)
    pool = image.split("/")[0]
    with no_room(a, pool):
        assert a.resume(machine.home) != RUNNING
        assert "pool %s of site-a is full" % pool in a.vm_error(machine.home), a.vm_error(machine.home)
        assert "set-quota %s max_bytes" % pool in a.vm_log(machine.home)
    assert a.token(image) == token and machine.primaries() == {image: "a"}
    a.onemirror("failover", machine.home)
    a.wait_vm(machine.home, RUNNING)
    machine.assert_complete(a)
