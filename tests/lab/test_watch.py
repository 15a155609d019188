"""What changes beside the handoff is seen, and what cannot be reached keeps nothing else waiting."""
import contextlib
import os
import subprocess

import pytest
from conftest import full
from harness.laboratory import unique, wait_until
from test_failback import brought_into_the_trap


@contextlib.contextmanager
def disabled_bridge(site):
    """A datastore of the same pool whose only bridge host is disabled."""
    name = unique("bridge")
    host = site.one.host.allocate(name, "kvm", "kvm", -1)
    site.one.host.status(host, 1)
    datastore = site.one.datastore.allocate(
        'NAME="ceph_%s"\nTYPE="IMAGE_DS"\nDS_MAD="ceph"\nTM_MAD="ceph"\nDISK_TYPE="RBD"\nPOOL_NAME="one"\n'
        'CEPH_USER="libvirt"\nCEPH_CONF="%s"\nBRIDGE_LIST="%s"\n' % (name, site.conf, name), -1)
    try:
        listed = site.onemirror("list", check=False)
        assert "datastore %d (ceph_%s)" % (datastore, name) in listed.stdout, listed.stdout + listed.stderr
        assert "onehost enable" in listed.stdout and listed.returncode == 3
        yield
        result = site.reconcile(check=False)
        assert result.returncode == 3 and "datastore %d" % datastore in result.stdout, result.stdout
    finally:
        site.one.datastore.delete(datastore)
        site.one.host.delete(host)


@contextlib.contextmanager
def no_pool_name(site):
    """The pool is the stock driver's default, and the driver's name is spelled as somebody liked it."""
    before = {}
    for key in ("system", "one"):
        number = site.datastores[key]
        template = site.one.datastore.info(number).TEMPLATE
        before[number] = "\n".join('%s="%s"' % item for item in template.items())
        changed = {**template, "TM_MAD": "Ceph"}
        del changed["POOL_NAME"]
        site.one.datastore.update(number, "\n".join('%s="%s"' % item for item in changed.items()), 0)
    try:
        yield
    finally:
        for number, template in before.items():
            site.one.datastore.update(number, template, 0)


@full
@pytest.mark.parametrize("spoilt", [no_pool_name, disabled_bridge])
def test_a_pending_handoff_is_finished_whatever_is_wrong_with_datastores(lab, a, b, spoilt):
    machine = brought_into_the_trap(lab, "journal")
    (image,) = machine.images.values()
    try:
        with spoilt(b):
            assert "%s" % image in b.onemirror("list", check=False).stdout
            a.clusters("daemon-start")
            machine.comes_home()
    finally:
        a.clusters("daemon-start")
    machine.assert_complete(a)


def test_the_hosts_of_a_returning_site_start_one_run(lab, a):
    environment = dict(a.environment, ONEMIRROR_LOG="onemirror=debug")
    command = [os.path.join(a.location, "bin/onemirror"), "hook", "host-monitored"]

    def runs(count):
        hooks = [
            subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                             stderr=subprocess.PIPE, text=True)
            for _ in range(count)
        ]
        said = [hook.communicate(timeout=300)[1] for hook in hooks]
        return sum(line.count("mirror pool status") for text in said for line in text.splitlines() if "run" in line)

    one = runs(1)
    assert one > 0
    assert runs(8) <= 2 * one
    # whoever was killed keeps nobody from the next run
    hook = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    hook.kill()
    hook.wait()
    assert runs(1) == one


def concerns(site, image):
    return {found["kind"]: found for found in site.overview()["concerns"] if found["image"] == image}


def concern(site, image, kind):
    """What is told of that, once the manager of a busy cluster has answered what it was asked."""
    return wait_until("%s of %s" % (kind, image), lambda: concerns(site, image).get(kind), 60, 0.5)


def are_copies(lab, image):
    """Whether both sites have the image, and the one's is the other's copy."""
    ids = [((site.info(image) or {}).get("mirroring") or {}).get("global_id") for site in lab.sites]
    return ids[0] is not None and ids[0] == ids[1]


def follow(site, advice):
    """Types what is said, as it is said."""
    for way in advice:
        assert (way["kind"], way["at"]) == ("type", "here"), advice
        for command in way["commands"]:
            site.type(command["command"])


def words_to_type(site, image, kind):
    """The one command that is said."""
    (way,) = concern(site, image, kind)["advice"]
    (command,) = way["commands"]
    return command["command"].split()


def off_at_home_by_snapshots(lab, name):
    """A VM that is off at home, its disk mirrored by snapshots and registered on the other site."""
    machine = lab.vm_with_one_disk(unique(name), "snapshot")
    (image,) = machine.images.values()
    machine.register_on_b()
    lab.a.action("poweroff", machine.home)
    lab.a.wait_vm(machine.home, "POWEROFF")
    return machine, image


def test_a_reverted_disk_is_seen_and_its_older_image_is_booted_nowhere(lab, a, b):
    machine, image = off_at_home_by_snapshots(lab, "reverted")
    # the hook of POWEROFF, which the VM enters after each of these, does what reconcile does below
    a.control("hooks=lose")
    snapshot, _ = a.disk_snapshot(machine.home, 0)
    assert a.disk_revert(machine.home, 0, snapshot) == "POWEROFF", a.vm_error(machine.home)
    assert a.info("%s-%d" % (image, snapshot)), "what the disk was before"
    assert "older image of this name" in a.onemirror("list", check=False).stdout
    assert "older image of this name" in a.onemirror("show", machine.home).stdout
    advice = concern(a, image, "older-image-there")["advice"]
    # the copy over there must not be taken for the disk when home is lost
    a.reconcile()
    wait_until("the older image to get its new name", lambda: b.info(image) is None, 60, 0.5)
    follow(a, advice)
    b.wait_replaying(image)
    assert b.info(image)["mirroring"]["global_id"] == a.info(image)["mirroring"]["global_id"]
    # and nothing sends what is written from now on
    follow(a, concern(a, image, "no-schedule")["advice"])
    assert concerns(a, image) == {}
    a.rbd("mirror", "snapshot", "schedule", "remove", "--pool", image.split("/")[0], "--image", image.split("/")[1])
    assert a.resume(machine.home) == "RUNNING", a.vm_error(machine.home)


@full
@pytest.mark.parametrize("mode", ["journal", "snapshot"])
def test_a_reverted_disk_still_comes_home(lab, a, b, mode):
    """The disk is a new image after that, and its home names the one that it was."""
    machine = lab.vm_with_one_disk(unique("reverts-home"), mode)
    (image,) = machine.images.values()
    machine.register_on_b()
    a.wait_records(machine.home)
    a.action("poweroff", machine.home)
    a.wait_vm(machine.home, "POWEROFF")
    snapshot, _ = a.disk_snapshot(machine.home, 0)
    assert a.disk_revert(machine.home, 0, snapshot) == "POWEROFF", a.vm_error(machine.home)
    # a pool that mirrors every image with a journal mirrors this one, too
    a.reconcile(check=False)
    if mode == "snapshot":
        told = wait_until("what to type", lambda: concerns(a, image).keys() & {"older-image-there", "not-mirrored"}, 60, 0.5)
        follow(a, concern(a, image, told.pop())["advice"])
    wait_until("its copy", lambda: are_copies(lab, image), 90, 0.5)
    vm = machine.start_on_b()
    assert b.settle(vm) == "RUNNING", b.vm_error(vm)
    b.wait_records(vm, 3)
    machine.end_away(vm)
    machine.comes_home()
    machine.assert_complete(a)


@full
def test_a_reverted_disk_that_was_booted_beside_its_older_copy_is_resumed_without_it(lab, a, b):
    """What the new image has of the older one says so only as long as that one's copy is on the other site."""
    machine = lab.vm_with_one_disk(unique("reverts-alone"), "journal")
    (image,) = machine.images.values()
    machine.register_on_b()
    a.wait_records(machine.home)
    wait_until("its copy", lambda: b.token(image) == a.token(image))
    a.action("poweroff", machine.home)
    a.wait_vm(machine.home, "POWEROFF")
    older = a.info(image)["mirroring"]["global_id"]
    b.clusters("daemon-stop")
    try:
        snapshot, _ = a.disk_snapshot(machine.home, 0)
        assert a.disk_revert(machine.home, 0, snapshot) == "POWEROFF", a.vm_error(machine.home)
        assert b.info(image)["mirroring"]["global_id"] == older != a.info(image)["mirroring"]["global_id"]
        assert a.resume(machine.home) == "RUNNING", a.vm_error(machine.home)
    finally:
        b.clusters("daemon-start")
    a.control("hooks=lose")
    wait_until("the copy of the new image", lambda: are_copies(lab, image), 90, 0.5)
    a.action("suspend", machine.home)
    a.wait_vm(machine.home, "SUSPENDED")
    assert a.resume(machine.home) == "RUNNING", a.vm_error(machine.home)
    machine.assert_complete(a)


@full
def test_a_disk_that_was_restored_in_place_is_seen_and_can_be_protected_again(lab, a, b):
    """What is restored is a new image of the old name; the old one is removed, and with it its copy."""
    machine, image = off_at_home_by_snapshots(lab, "restored")
    a.control("hooks=lose")
    backup, _ = a.backup(machine.home)
    before = a.info(image)["id"]
    assert a.restore(machine.home, backup) == "POWEROFF", a.vm_error(machine.home)
    assert a.info(image)["id"] != before and "mirroring" not in a.info(image)
    listed = a.onemirror("list", check=False)
    assert image in listed.stdout and "which has no copy of it" in listed.stdout, listed
    wait_until("the copy of what was there before to go", lambda: b.info(image) is None, 60, 0.5)
    follow(a, concern(a, image, "not-mirrored")["advice"])
    follow(a, concern(a, image, "no-schedule")["advice"])
    b.wait_replaying(image)
    assert b.info(image)["mirroring"]["global_id"] == a.info(image)["mirroring"]["global_id"]
    assert concerns(a, image) == {}
    pool, name = image.split("/")
    a.rbd("mirror", "snapshot", "schedule", "remove", "--pool", pool, "--image", name)
    assert a.resume(machine.home) == "RUNNING", a.vm_error(machine.home)
    machine.assert_complete(a)


@full
def test_a_copy_that_falls_behind_its_schedule_is_told_with_who_is_late(lab, a, b):
    machine = lab.vm_with_one_disk(unique("late"), "snapshot")
    (image,) = machine.images.values()
    machine.register_on_b()
    pool, name = image.split("/")
    schedule = ["mirror", "snapshot", "schedule", "{}", "--pool", pool, "--image", name, "1m"]
    a.rbd(*[word.format("add") for word in schedule])
    # one that ends in peace reports that it stopped
    lab.run_clusters("daemon-stop", "--site", b.name, "--signal", "KILL")
    try:
        late = wait_until("it to be late", lambda: concerns(a, image).get("snapshots-late"), 240, 5)
        assert "on site-b" in late["what"] and "every 60 s" in late["what"], late
        (way,) = late["advice"]
        assert way["site"] == "site-b" and "ceph-rbd-mirror.target" in way["commands"][0]["command"], late
        listed = a.onemirror("list", check=False)
        assert late["what"] in listed.stdout, listed
    finally:
        b.clusters("daemon-start")
        # what is to be waited for is the copy, not the next minute
        a.rbd("mirror", "image", "snapshot", image)
        wait_until("the copy to follow", lambda: "snapshots-late" not in concerns(a, image), 120, 1)
        a.rbd(*[word.format("remove") for word in schedule])
    machine.assert_complete(a)


@full
def test_a_base_that_lost_its_snapshot_under_a_clone_of_the_other_site_follows_again(lab, a, b):
    base = "one/" + unique("base")
    a.rbd("create", base, "--size", "16M")
    a.rbd("snap", "create", base + "@snap")
    a.rbd("snap", "protect", base + "@snap")
    b.wait_replaying(base)
    wait_until("its snapshot", lambda: b.rbd("clone", base + "@snap", base + "-clone", check=False).returncode == 0, 60, 0.5)
    a.rbd("snap", "unprotect", base + "@snap")
    a.rbd("snap", "rm", base + "@snap")
    wait_until("the daemon to give up", lambda: "error" in b.status(base).get("state", ""), 60, 0.5)
    wait_until("it to be told at home", lambda: base + " has a copy on site-b that does not follow" in a.onemirror("list", check=False).stdout, 30, 1)
    (advice,) = concerns(b, base)["copy-in-error"]["advice"]
    assert all(words in advice["text"] for words in ("on site-b", "rbd children --all %s" % base, "rbd flatten")), advice
    for clone in b.rbd("children", "--all", base).stdout.split():
        b.rbd("flatten", clone)
    b.wait_replaying(base)
    wait_until("nobody to complain", lambda: not concerns(a, base) and not concerns(b, base), 90, 0.5)
    b.rbd("rm", base + "-clone")


@full
def test_a_disk_that_grew_on_the_recovery_site_is_told_at_home(lab, a, b):
    machine = lab.vm_with_one_disk(unique("grown"), "journal")
    (image,) = machine.images.values()
    machine.register_on_b()
    a.action("poweroff", machine.home)
    a.wait_vm(machine.home, "POWEROFF")
    vm = machine.start_on_b()
    assert b.settle(vm) == "RUNNING", b.vm_error(vm)
    b.wait_records(vm, 3)
    assert b.disk_resize(vm, 0, 24) == "RUNNING", b.vm_error(vm)
    assert b.info(image)["size"] == 24 << 20
    b.action("terminate", vm)
    assert b.settle(vm) == "DONE", b.vm_error(vm)
    machine.comes_home()
    assert "is 24 MB, and OpenNebula here believes that it is 16 MB" in a.onemirror("list", check=False).stdout
    program, action, *operands = words_to_type(a, image, "other-size")
    assert (program, action) == ("onevm", "disk-resize")
    for state in ("RUNNING", "POWEROFF"):
        vm, disk, size = operands
        if state == "POWEROFF":
            # once more, as for a VM that was not running
            a.rbd("resize", image, "--size", "32M")
            vm, disk, size = words_to_type(a, image, "other-size")[2:]
            machine.assert_complete(a)
        assert a.disk_resize(int(vm), int(disk), int(size)) == state, a.vm_error(machine.home)
        assert "other-size" not in concerns(a, image)
        assert a.info(image)["size"] == int(size) << 20


@full
def test_a_daemon_that_was_stopped_in_peace_is_told_with_what_starts_it(lab, a, b):
    machine = lab.vm_with_one_disk(unique("stopped"), "journal")
    (image,) = machine.images.values()
    machine.register_on_b()
    wait_until("nobody to complain", lambda: concerns(a, image) == {}, 60, 1)
    b.clusters("daemon-stop")
    try:
        told = wait_until("it to be told", lambda: concerns(a, image).get("daemon-down"), 120, 2)
        assert told["what"] == "has a copy on site-b that does not follow: no rbd-mirror copies it", told
        listed = a.onemirror("list", check=False)
        assert (listed.returncode, told["what"] in listed.stdout) == (3, True), listed
        way, _ = told["advice"]
        assert way["site"] == "site-b", told
        b.type(way["commands"][0]["command"])
        wait_until("nobody to complain", lambda: concerns(a, image) == {}, 120, 2)
    finally:
        b.clusters("daemon-start")


def test_of_a_vm_that_is_done_nothing_else_is_said(lab, a):
    machine = lab.vm_with_one_disk(unique("done"), "journal")
    a.action("terminate", machine.home)
    a.wait_vm(machine.home, "DONE")
    assert a.onemirror("show", machine.home).stdout == "VM %d is DONE\n" % machine.home
    assert a.onemirror("failover", machine.home, check=False).returncode == 1
    planned = a.onemirror("plan", machine.home, check=False)
    assert (planned.returncode, "OM165 VM %d is DONE" % machine.home in planned.stderr) == (1, True), planned
