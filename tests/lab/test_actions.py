"""What the drivers' actions do by name: deletions, disks that are made, snapshots, and disks that several VMs have."""
import time

from conftest import full
from harness.laboratory import unique, wait_until


def next_vm(site):
    """The number that the next VM gets, and one that is there already."""
    vm = site.vm_create(unique("number"), [])
    assert site.settle(vm) == "RUNNING", site.vm_error(vm)
    site.action("terminate-hard", vm)
    site.wait_vm(vm, "DONE")
    return vm + 1


def exists(site, image):
    return site.info(image) is not None


def handed_over_to_nobody(lab, name):
    """A VM ran on the recovery site and was terminated there while home's daemon was away: the handoff is pending."""
    a, b = lab.a, lab.b
    machine = lab.vm_with_one_disk(unique(name), "journal")
    machine.register_on_b()
    a.action("poweroff", machine.home)
    a.wait_vm(machine.home, "POWEROFF")
    a.clusters("daemon-stop")
    b.configure(release_timeout="1s")
    vm = machine.start_on_b()
    assert b.settle(vm) == "RUNNING", b.vm_error(vm)
    b.wait_records(vm)
    b.action("terminate", vm)
    assert b.settle(vm) == "DONE", b.vm_error(vm)
    return machine


def test_an_image_whose_handoff_is_pending_outlives_its_registration(lab, a, b):
    try:
        machine = handed_over_to_nobody(lab, "delete-pending")
        (image,) = machine.images.values()
        assert machine.primaries() == {image: "b"}
        assert b.image_delete(machine.registered[0]) is None
        assert b.is_primary(image)
        kept = [entry for entry in b.audit() if entry["event"] == "datastore rm"][-1]
        assert (kept["outcome"], kept["image"]) == ("skipped", image) and "pending" in kept["reason"], kept
    finally:
        a.clusters("daemon-start")
        b.configure()
    b.reconcile(check=False)
    machine.comes_home()
    machine.assert_complete(a)


def test_the_registration_of_a_copy_goes_without_an_error(lab, a, b):
    machine = lab.vm_with_one_disk(unique("delete-copy"), "snapshot")
    (image,) = machine.images.values()
    machine.register_on_b()
    before = b.info(image)["id"]
    assert b.image_delete(machine.registered[0]) is None
    assert b.info(image)["id"] == before and b.is_primary(image) is False
    assert a.state_name(machine.home) == "RUNNING"


def test_a_deletion_takes_no_other_image_along(lab, a):
    """`rbd_top_parent` climbs from the clone of an image called one-1-2-3 to that image itself."""
    name = "golden%x-1-2-3" % (time.time_ns() // 1000)
    a.rbd("create", "one/" + name, "--size", "16M")
    base = a.image_create(name, "one", False, source="one/" + name)
    vm = a.vm_create(name, [base])
    assert a.settle(vm) == "RUNNING", a.vm_error(vm)
    (clone,) = a.vm_images(vm).values()
    a.action("terminate", vm)
    assert a.settle(vm) == "DONE", a.vm_error(vm)
    assert exists(a, "one/" + name)
    assert "one/%s with it" % name in a.vm_log(vm), a.vm_log(vm)
    assert [entry for entry in a.audit() if entry.get("vm") == vm and "one/%s with it" % name in (entry.get("reason") or "")]
    a.rbd("rm", clone)
    assert a.image_delete(base) is None
    assert not exists(a, "one/" + name)


def test_a_clone_is_never_an_image_that_was_there_already(lab, a):
    base = a.image_create(unique("base"), "two", False)
    foreign = "%s-%d-0" % (a.source(base), next_vm(a))
    a.rbd("create", foreign, "--size", "16M")
    before = a.info(foreign)["id"]
    vm = a.vm_create(unique("clone"), [base])
    assert a.vm_images(vm) == {0: foreign}
    assert a.settle(vm) == "PROLOG_FAILURE"
    assert "is there already" in a.vm_error(vm), a.vm_error(vm)
    assert a.acknowledged(vm) == []
    a.recover(vm, "delete")
    a.wait_vm(vm, "DONE")
    a.rbd("rm", foreign)
    # the driver itself starts nothing on the next name either but a clone
    vm = a.vm_create(unique("clone"), [base])
    assert a.settle(vm) == "RUNNING", a.vm_error(vm)
    assert before != a.info(a.vm_images(vm)[0])["id"]


def volatile(size=8):
    return 'DISK=[TYPE="fs",SIZE="%d",FORMAT="raw"]\n' % size


def test_a_volatile_disk_whose_name_is_taken_says_whose_it_is(lab, a, b):
    for site, other in ((a, b), (b, a)):
        # as if the other site's VM of that number had it
        image = "one/one-sys-%d-0" % next_vm(site)
        other.rbd("create", image, "--size", "8M")
        site.wait_replaying(image)
        before = site.info(image)["id"]
        vm = site.vm_create(unique("volatile"), [], extra=volatile())
        assert site.settle(vm) == "PROLOG_FAILURE"
        said = site.vm_error(vm)
        site.recover(vm, "delete")
        site.wait_vm(vm, "DONE")
        assert site.info(image)["id"] == before
        assert "%s is a copy of a disk of %s" % (image.split("/")[1], other.name) in said, said
        other.rbd("rm", image)


@full
def test_a_volatile_disk_is_not_that_of_a_vm_that_was_failed_over(lab, a, b):
    image = "one/one-sys-%d-0" % (next_vm(b) + 1)
    a.rbd("create", image, "--size", "16M")
    b.wait_replaying(image)
    registered = b.image_create(unique("moved"), "one", True, source=image)
    a.rbd("mirror", "image", "demote", image)
    wait_until("the demotion to arrive", lambda: b.rbd("mirror", "image", "promote", image, check=False).returncode == 0, 60)
    runs = b.vm_create(unique("moved"), [registered])
    assert b.settle(runs) == "RUNNING", b.vm_error(runs)
    b.action("poweroff", runs)
    b.wait_vm(runs, "POWEROFF")
    vm = b.vm_create(unique("volatile"), [], extra=volatile())
    assert image == "one/one-sys-%d-0" % vm
    assert b.settle(vm) == "PROLOG_FAILURE"
    said = b.vm_error(vm)
    b.recover(vm, "delete")
    b.wait_vm(vm, "DONE")
    assert b.is_primary(image)
    assert b.check_records(image, b.acknowledged(runs))["ok"]
    assert "is registered here as image %d" % registered in said, said


@full
def test_a_copy_takes_no_snapshot_and_no_size_and_says_where(lab, a, b):
    machine = lab.vm_with_one_disk(unique("changed"), "journal")
    vm, (image,) = machine.home, machine.images.values()
    a.action("poweroff", vm)
    a.wait_vm(vm, "POWEROFF")
    away = machine.start_on_b()
    assert b.settle(away) == "RUNNING", b.vm_error(away)
    for change in (lambda: a.disk_snapshot(vm, 0)[1], lambda: a.disk_resize(vm, 0, 32)):
        assert change() == "POWEROFF"
        assert "is not primary here" in a.vm_error(vm) + a.vm_log(vm)
    assert a.info(image)["size"] == b.info(image)["size"] == 16 << 20
    b.action("terminate", away)
    b.wait_vm(away, "DONE")
    machine.comes_home()
    machine.assert_complete(a)


def test_a_shared_disk_is_not_taken_from_one_vm_because_another_one_stopped(lab, a, b):
    """The copy at home is outranked while two VMs there have it; one of them is powered off, and its hook cleans up."""
    image = a.image_create(unique("shared"), "one", True)
    source = a.source(image)
    twice = a.image_create(unique("twice"), "one", True, source=source)
    vms = [a.vm_create(unique("shares"), [disk]) for disk in (image, twice)]
    for vm in vms:
        a.wait_vm(vm, "RUNNING")
    b.wait_replaying(source)
    first = wait_until("one of them to write", lambda: next((vm for vm in vms if written(a, vm) > 20), None), 60)
    second = next(vm for vm in vms if vm != first)
    before = a.info(source)["id"]
    b.rbd("mirror", "image", "promote", source, "--force")
    b.rbd("image-meta", "set", source, "onemirror.handoff", "2001:site-b:open")
    runs = len(a.hook_runs(first, "VM/POWEROFF/LCM_INIT"))
    a.action("poweroff", first)
    a.wait_vm(first, "POWEROFF")
    wait_until("the hook", lambda: len(a.hook_runs(first, "VM/POWEROFF/LCM_INIT")) > runs, 60)
    a.reconcile(check=False)
    assert a.is_primary(source) and a.info(source)["id"] == before
    wait_until("the other to write", lambda: written(a, second) > 20, 60)
    # nobody has it any more: now it is cleaned up
    a.action("poweroff", second)
    a.wait_vm(second, "POWEROFF")
    wait_until("the copy at home to be copied again", lambda: (a.info(source) or {"id": before})["id"] != before, 90)


def written(site, vm):
    return sum(1 for log in site.acknowledged(vm) for _ in open(log)) - len(site.acknowledged(vm))


def test_vms_that_share_a_disk_can_be_suspended_and_resumed(lab, a):
    disk = a.image_create(unique("shared"), "one", True, extra='PERSISTENT_TYPE="SHAREABLE"\nFORMAT="raw"\n')
    vms = [a.vm_create(unique("shares"), [disk]) for _ in range(2)]
    for vm in vms:
        a.wait_vm(vm, "RUNNING")
    for vm in vms:
        a.action("suspend", vm)
        a.wait_vm(vm, "SUSPENDED")
        assert a.resume(vm) == "RUNNING", a.vm_error(vm)


@full
def test_a_detached_disk_stays_where_its_vm_runs_and_comes_home_with_it(lab, a, b):
    images = [a.image_create(unique("detach"), "one", True) for _ in range(2)]
    from harness.laboratory import Machine

    machine = Machine(lab, unique("detach"), a.vm_create(unique("detach"), images))
    machine.register_on_b()
    a.action("poweroff", machine.home)
    a.wait_vm(machine.home, "POWEROFF")
    vm = machine.start_on_b()
    assert b.settle(vm) == "RUNNING", b.vm_error(vm)
    b.wait_records(vm)
    detached = machine.images[1]
    assert b.disk_detach(vm, 1) == "RUNNING", b.vm_error(vm)
    b.reconcile(check=False)
    assert b.is_primary(detached) and a.state_name(machine.home) == "POWEROFF"
    b.action("terminate", vm)
    b.wait_vm(vm, "DONE")
    machine.comes_home()
    machine.assert_complete(a)
