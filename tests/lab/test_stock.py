"""The lab is as unkind as OpenNebula: what its front-end and its stock drivers do by themselves."""
import json
import os

import pytest
from conftest import full, wait_until


@pytest.fixture(autouse=True)
def stock_alone(lab):
    """onemirror's wrappers pass everything on to the stock scripts."""
    for site in lab.sites:
        site.onemirror("off", "--reason", "test")


def parent(site, image):
    found = site.info(image).get("parent")
    return found and "%s/%s@%s" % (found["pool"], found["image"], found["snapshot"])


def exists(site, image):
    return site.info(image) is not None


def test_a_name_that_is_taken_is_a_failure_and_delete_removes_it(a):
    vm = a.one.vm.allocate('NAME="stock-volatile"\nCPU="0.1"\nMEMORY="96"\nDISK=[TYPE="fs",SIZE="8"]\n', True)
    image = "one/one-sys-%d-0" % vm
    a.rbd("create", image, "--size", "8")
    a.action("release", vm)
    assert a.settle(vm) == "PROLOG_FAILURE"
    assert "Error creating volatile disk.0 (%s)" % image in a.vm_error(vm)
    assert "File exists" in a.vm_log(vm)
    a.recover(vm, "delete")
    wait_until("the disk to be gone", lambda: not exists(a, image), 30)


def test_a_revert_makes_the_disk_a_clone_of_what_it_was(lab, a):
    machine = lab.vm_with_one_disk("stock-revert", "journal")
    vm, image = machine.home, machine.images[0]
    a.wait_records(vm, 20)
    snapshot, state = a.disk_snapshot(vm, 0)
    assert (snapshot, state) == (0, "RUNNING"), a.vm_error(vm)
    before = a.acknowledged(vm)
    assert "one.vm.disksnapshotrevert" in refusal(lambda: a.disk_revert(vm, 0, snapshot))
    a.action("poweroff", vm)
    a.wait_vm(vm, "POWEROFF")
    assert a.disk_revert(vm, 0, snapshot) == "POWEROFF"
    assert a.vm_error(vm) == ""
    assert parent(a, image) == "%s-0@0" % image, a.info(image)
    # the snapshot has what was acknowledged before it, and lacks what came after
    verdict = a.check_records(image, [], before)
    assert verdict["records"] >= 20 and verdict["may_lose_tail"][0]["lost_is_tail"], json.dumps(verdict, indent=1)
    # everything that hangs on it is removed with it
    a.action("terminate", vm)
    a.wait_vm(vm, "DONE")
    disk = next(found.ID for found in a.one.imagepool.info(-2, -1, -1).IMAGE if found.SOURCE == image)
    state = a.image_delete(disk)
    assert state is None, a.one.image.info(disk).TEMPLATE
    assert not exists(a, image) and not exists(a, image + "-0")
    with open(os.path.join(a.location, "var/oned.log")) as log:
        assert "Error monitoring datastore" not in log.read()


def refusal(call):
    try:
        call()
    except Exception as error:
        return str(error)
    raise AssertionError("it was not refused")


def test_recreate_deletes_the_clones_and_boots_again_here(lab, a):
    # pool two mirrors no clone by itself: a daemon that has just opened one keeps the stock driver from deleting it
    images = [a.image_create("stock-base", "two", False), a.image_create("stock-data", "one", True)]
    vm = a.vm_create("stock-recreate", images)
    a.wait_vm(vm, "RUNNING")
    clone, data = a.vm_images(vm)[0], a.vm_images(vm)[1]
    made = a.info(clone)["id"]
    entries = len(a.hook_runs(vm, "VM/ACTIVE/RUNNING"))
    assert a.boot_again(vm) == "RUNNING", a.vm_error(vm)
    assert "New LCM state is CLEANUP_RESUBMIT" in a.vm_log(vm)
    assert a.info(clone)["id"] != made and exists(a, data), a.vm_log(vm)
    a.host_silent()
    try:
        a.wait_vm(vm, "UNKNOWN")
    finally:
        a.host_heard()
    a.wait_vm(vm, "RUNNING")
    wait_until("a hook for each entry", lambda: len(a.hook_runs(vm, "VM/ACTIVE/RUNNING")) >= entries + 2, 30)


@full
def test_disks_come_go_grow_and_are_copied_while_the_vm_runs(lab, a):
    machine = lab.vm_with_one_disk("stock-disks", "journal")
    vm = machine.home
    more = a.image_create("stock-more", "one", True)
    assert a.disk_attach(vm, more) == "RUNNING", a.vm_error(vm)
    number = max(a.vm_images(vm))
    image = a.vm_images(vm)[number]
    a.wait_records(vm, 40)
    assert a.disk_resize(vm, number, 24) == "RUNNING", a.vm_error(vm)
    assert a.info(image)["size"] == 24 << 20 and int(a.one.image.info(more).SIZE) == 24
    copy, state = a.disk_save_as(vm, number, "stock-copy")
    assert state == "RUNNING" and a.image_state(copy) == "READY"
    assert a.check_records(a.source(copy), [], a.acknowledged(vm))["records"] > 0
    runs = len(a.acknowledged(vm))
    assert a.disk_detach(vm, number) == "RUNNING", a.vm_error(vm)
    assert list(a.vm_images(vm)) == [0] and a.image_state(more) == "READY"
    assert len(a.acknowledged(vm)) == runs + 1
    assert a.check_records(image, a.acknowledged(vm))["ok"]
    a.action("poweroff", vm)
    a.wait_vm(vm, "POWEROFF")
    assert a.disk_attach(vm, more) == "POWEROFF" and a.disk_detach(vm, max(a.vm_images(vm))) == "POWEROFF"
    machine.assert_complete(a)


@full
def test_a_backup_is_put_back_under_the_same_name(lab, a):
    machine = lab.vm_with_one_disk("stock-backup", "journal")
    vm, image = machine.home, machine.images[0]
    a.wait_records(vm, 20)
    backup, state = a.backup(vm)
    assert backup is not None and state == "RUNNING", a.vm_error(vm)
    a.action("poweroff", vm)
    a.wait_vm(vm, "POWEROFF")
    before = a.info(image)["id"]
    assert a.restore(vm, backup) == "POWEROFF"
    assert a.vm_error(vm) == ""
    assert a.info(image)["id"] != before
    assert a.check_records(image, [], a.acknowledged(vm))["records"] >= 20


@full
def test_two_vms_share_a_disk(lab, a):
    disk = a.image_create("stock-shared", "one", True, extra='PERSISTENT_TYPE="SHAREABLE"\nFORMAT="raw"\n')
    vms = [a.vm_create("stock-one", [disk]), a.vm_create("stock-two", [disk])]
    for vm in vms:
        a.wait_vm(vm, "RUNNING")
    # one writes at a time, and the other goes on where it ended
    first = wait_until("one of them to write", lambda: next((vm for vm in vms if records(a, vm) > 20), None), 30)
    second = next(vm for vm in vms if vm != first)
    assert records(a, second) == 0
    a.action("poweroff", first)
    a.wait_vm(first, "POWEROFF")
    wait_until("the other to write", lambda: records(a, second) > 20, 30)
    assert a.image_state(disk) == "USED_PERS"
    assert a.check_records(a.source(disk), a.acknowledged(first) + a.acknowledged(second))["ok"]


def records(site, vm):
    return sum(1 for log in site.acknowledged(vm) for line in open(log)) - len(site.acknowledged(vm))


@full
def test_live_migration_and_the_high_availability_hook(lab, a):
    machine = lab.vm_with_one_disk("stock-host", "journal")
    vm = machine.home
    host = a.one.host.allocate("host-spare", "kvm", "kvm", -1)
    hook = a.one.hook.allocate(
        'NAME="host-error"\nTYPE="state"\nRESOURCE="HOST"\nSTATE="ERROR"\nCOMMAND="ft/host_error"\n'
        'ARGUMENTS="$TEMPLATE"\nARGUMENTS_STDIN="YES"\n'
    )
    try:
        wait_until("the host to report", lambda: a.one.host.info(host).STATE == 2, 30)
        assert a.migrate(vm, host) == "RUNNING" and a.vm_error(vm) == ""
        a.host_silent(host)
        wait_until("the VM to run on the other host", lambda: a.state_name(vm) == "RUNNING" and runs_on(a, vm) != host, 90)
    finally:
        a.one.hook.delete(hook)
        a.host_heard(host)
        a.action("terminate-hard", vm)
        a.wait_vm(vm, "DONE")
        a.one.host.delete(host)


def runs_on(site, vm):
    return site.one.vm.info(vm).HISTORY_RECORDS.HISTORY[-1].HID
