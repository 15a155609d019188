"""Whatever state a VM is left in, it runs where it should: recreate, failures, HOLD, and what is said about it."""
import pytest
from conftest import full
from harness.laboratory import PATIENCE, unique, wait_until

RECREATE = 4  # of one.vm.recover


def failed_over(lab, machine):
    """Off at home, and running on the recovery site with records of its own."""
    a, b = lab.a, lab.b
    a.wait_records(machine.home)
    a.action("poweroff", machine.home)
    a.wait_vm(machine.home, "POWEROFF")
    return running_on_b(lab, machine)


def running_on_b(lab, machine):
    vm = machine.start_on_b()
    assert lab.b.settle(vm) == "RUNNING", lab.b.vm_error(vm)
    lab.b.wait_records(vm)
    return vm


def recreated(site, vm):
    """`onevm recover --recreate`, until the VM is at rest again."""
    before = site.vm_log(vm).count("PROLOG")
    site.one.vm.recover(vm, RECREATE)
    wait_until("the prolog of VM %d" % vm, lambda: site.vm_log(vm).count("PROLOG") > before, 60)
    return site.settle(vm)


def test_a_vm_that_is_recreated_on_the_recovery_site_runs_on_there(lab, a, b):
    """As OpenNebula's high availability does it: the host died, and until another takes the VM it is PENDING."""
    machine = lab.vm_with_one_disk(unique("recreate"), "journal")
    vm = failed_over(lab, machine)
    b.host_silent()
    try:
        b.wait_vm(vm, "UNKNOWN")
        b.one.vm.recover(vm, RECREATE)
        b.wait_vm(vm, "PENDING")
        b.reconcile()
        a.reconcile()
        assert set(machine.primaries().values()) == {"b"}, "its disks were handed over under it"
        assert a.state_name(machine.home) == "POWEROFF", "it is started at home as well"
        assert a.resume(machine.home) == "POWEROFF"
        assert "OM31 " in a.vm_error(machine.home) and " is PENDING" in a.vm_error(machine.home), a.vm_error(machine.home)
    finally:
        b.host_heard()
    b.wait_vm(vm, "RUNNING")
    b.reconcile()
    assert a.state_name(machine.home) == "POWEROFF"
    assert set(machine.primaries().values()) == {"b"}
    b.wait_records(vm)
    machine.end_away(vm)
    machine.comes_home()
    machine.assert_complete(a)


@full
def test_a_vm_that_is_recreated_at_home_keeps_its_mirrored_disks(lab, a, b):
    machine = lab.vm_with_three_disks(unique("recreate-home"))
    machine.wait_mirrored()
    a.wait_records(machine.home)
    assert recreated(a, machine.home) == "RUNNING", a.vm_error(machine.home)
    a.wait_records(machine.home)
    machine.assert_complete(a)


def left_behind(lab, machine, state):
    """Home's VM is in that state, and its double runs on the recovery site; the double's id."""
    a = lab.a
    if state == "HOLD":
        # as one that was made beside its running double, and told to wait
        (image,) = [disk["IMAGE_ID"] for disk in disks_of(a, machine.home)]
        a.action("terminate", machine.home)
        a.wait_vm(machine.home, "DONE")
        machine.home = a.one.vm.allocate('NAME="held"\nCPU="0.1"\nMEMORY="96"\nCONTEXT=[A="b"]\nDISK=[IMAGE_ID="%s"]' % image, True)
        return running_on_b(lab, machine)
    if state == "BOOT_UNDEPLOY_FAILURE":
        a.action("undeploy", machine.home)
        a.wait_vm(machine.home, "UNDEPLOYED")
        vm = running_on_b(lab, machine)
        a.action("resume", machine.home)
        return vm
    vm = failed_over(lab, machine)
    a.one.vm.recover(machine.home, RECREATE)
    return vm


def disks_of(site, vm):
    disks = site.one.vm.info(vm).TEMPLATE["DISK"]
    return disks if isinstance(disks, list) else [disks]


@pytest.mark.parametrize("state", ["PROLOG_FAILURE", pytest.param("BOOT_UNDEPLOY_FAILURE", marks=full), pytest.param("HOLD", marks=full)])
def test_home_is_started_from_whatever_state_it_was_left_in(lab, a, b, state):
    machine = lab.vm_with_one_disk(unique("left-in"), "journal")
    a.wait_records(machine.home)
    vm = left_behind(lab, machine, state)
    wait_until(state, lambda: a.state_name(machine.home) == state, 60)
    machine.end_away(vm)
    machine.comes_home()
    machine.assert_complete(a)


@full
def test_a_handoff_whose_home_could_not_be_resumed_is_listed_until_it_runs(lab, a, b):
    """Nobody would look otherwise: the disks are where they should be, and the VM is off on both sites."""
    machine = lab.vm_with_one_disk(unique("listed"), "journal")
    (image,) = machine.images.values()
    vm = failed_over(lab, machine)
    a.front_end_kill()
    try:
        machine.end_away(vm)
        assert machine.primaries() == {image: ""}
        listed = b.onemirror("list", check=False)
        told = {item["image"]: item["handoff"] for item in b.overview()["pending"]}
    finally:
        a.front_end_start()
    assert listed.returncode == 3, listed
    assert told[image].startswith("handed over; whether its VM runs there is unknown: "), told
    listed = b.onemirror("list", check=False)
    command = "onevm resume %d" % machine.home
    assert listed.returncode == 3 and "VM %d of site-a is POWEROFF; on site-a: %s" % (machine.home, command) in listed.stdout
    at_home = a.onemirror("list", check=False)
    assert at_home.returncode == 3
    assert "handed over by site-b; VM %d is POWEROFF; %s" % (machine.home, command) in at_home.stdout
    b.reconcile()
    machine.comes_home()
    machine.assert_complete(a)
    assert image not in {item["image"] for item in b.overview()["pending"]}


def test_a_refusal_is_one_sentence_and_is_taken_back_once_the_vm_runs(lab, a, b):
    machine = lab.vm_with_one_disk(unique("sentence"), "journal")
    vm = failed_over(lab, machine)
    a.one.vm.update(machine.home, 'NOTE="of a user"', 1)
    assert a.resume(machine.home) == "POWEROFF"
    (image,) = machine.images.values()
    cause = "OM31 %s is in use on site-b: VM %d is RUNNING" % (image.split("/")[1], vm)
    said, log = a.vm_error(machine.home), a.vm_log(machine.home)
    shown = a.onemirror("show", machine.home).stdout
    machine.end_away(vm)
    a.wait_vm(machine.home, "RUNNING")
    wait_until("the refusal to be taken back", lambda: not a.vm_error(machine.home), 30)
    assert cause in said, said
    # the driver says it, and oned says it again
    lines = [line for line in log.splitlines() if "onemirror" in line and "/" not in line]
    assert {line[line.index("OM31"):] for line in lines} == {lines[-1][lines[-1].index("OM31"):]}, lines
    assert lines[-1].endswith("; more: onemirror show %d" % machine.home)
    assert "A boot would now (OM31): refuse: " + cause[len("OM31 "):] in shown, shown
    assert a.one.vm.info(machine.home).USER_TEMPLATE["NOTE"] == "of a user"
    # what somebody else has written stays
    a.one.vm.update(machine.home, 'ERROR="Thu Nov 26 17:00:00 2026: ATTACHDISK: of another"', 1)
    a.reconcile()
    assert a.vm_error(machine.home).endswith("of another")


SLOW = """#!/bin/sh
sleep 2.5
program=$ONEMIRROR_LAB_CLUSTERS/bin/${0##*/}
[ -x "$program" ] || program=/usr/bin/${0##*/}
exec "$program" "$@"
"""


@full
def test_looks_that_take_longer_than_a_lock_do_not_end_a_boot(lab, a, b, tmp_path):
    """As on a machine that takes five VMs over at once."""
    machine = lab.vm_with_one_disk(unique("slow"), "journal")
    a.wait_records(machine.home)
    a.action("poweroff", machine.home)
    a.wait_vm(machine.home, "POWEROFF")
    machine.register_on_b()
    for name in ("rbd", "rados"):
        (tmp_path / name).write_text(SLOW)
        (tmp_path / name).chmod(0o755)
    b.configure(command_timeout="8s", sync_timeout="10s")
    lab.programs[:] = [str(tmp_path)]
    try:
        b.front_end_kill()
        b.front_end_start()
        vm = machine.start_on_b(mirrored=False)
        assert b.settle(vm, timeout=400 / PATIENCE) == "RUNNING", b.vm_error(vm)
    finally:
        lab.programs[:] = []
        b.front_end_kill()
        b.front_end_start()
    assert set(machine.primaries().values()) == {"b"}
    machine.end_away(vm)
    b.reconcile(check=False)
    machine.comes_home()
    machine.assert_complete(a)


@full
def test_five_vms_are_taken_over_at_once(lab, a, b):
    """Nobody takes them one after the other when a site is evacuated."""
    machines = [lab.vm_with_one_disk(unique("five"), "journal") for _ in range(5)]
    for machine in machines:
        machine.register_on_b()
        a.action("poweroff", machine.home)
        a.wait_vm(machine.home, "POWEROFF")
    vms = [machine.start_on_b(mirrored=False) for machine in machines]
    for vm in vms:
        assert b.settle(vm, timeout=180) == "RUNNING", b.vm_error(vm)
    for vm in vms:
        b.action("terminate", vm)
    for vm in vms:
        assert b.settle(vm) == "DONE", b.vm_error(vm)
    for machine in machines:
        machine.comes_home()
        machine.assert_complete(a)
