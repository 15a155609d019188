"""The story and the traps of failback, on two real clusters: what the issue calls its acceptance points."""
import contextlib
import glob
import json
import os
import subprocess
import time

import pytest
from conftest import full, settled_snapshot_of, snapshot_of
from harness import story
from harness.laboratory import unique, wait_until

CYCLES = int(os.environ.get("ONEMIRROR_LAB_CYCLES") or "10")


# ---------------------------------------------------------------- point 1


@pytest.mark.parametrize("hooks", ["deliver", pytest.param("lose", marks=full)])
@pytest.mark.advice("non-primary-peer-unreachable", "here: onemirror failover N --force --reason TEXT")
def test_site_lost_failover_return_and_failback(lab, adviser, hooks):
    for site in lab.sites:
        site.control("hooks=" + hooks)
    story.tell(lab, adviser=adviser)


# ---------------------------------------------------------------- point 2


def home_and_back(machine, a, b):
    """Poweroff at home, start on the recovery site, write, terminate there, run at home again."""
    a.action("poweroff", machine.home)
    a.wait_vm(machine.home, "POWEROFF")
    vm = machine.start_on_b()
    assert b.settle(vm) == "RUNNING", b.vm_error(vm)
    assert set(machine.primaries().values()) == {"b"}
    b.wait_records(vm, 3)
    b.action("terminate", vm)
    assert b.settle(vm) == "DONE", b.vm_error(vm)
    machine.comes_home()


@full
def test_planned_round_trips_without_a_pause_lose_nothing(lab, a, b):
    machine = lab.vm_with_three_disks(unique("planned"))
    for _ in range(CYCLES):
        home_and_back(machine, a, b)
    a.wait_records(machine.home, 3)
    a.action("poweroff", machine.home)
    a.wait_vm(machine.home, "POWEROFF")
    for verdict in machine.verdicts(a):
        assert verdict["ok"], verdict
        assert verdict["runs"] == 2 * CYCLES + 1


# ---------------------------------------------------------------- point 3


def brought_into_the_trap(lab, mode):
    """Home demoted cleanly, the other site ran and was terminated while the daemon at home was down."""
    a, b = lab.a, lab.b
    machine = lab.vm_with_one_disk(unique("trap"), mode)
    machine.register_on_b()
    a.action("poweroff", machine.home)
    a.wait_vm(machine.home, "POWEROFF")
    # the other site follows by its own daemon; without the one at home, home never sees the new token
    a.clusters("daemon-stop")
    vm = machine.start_on_b()
    assert b.settle(vm) == "RUNNING", b.vm_error(vm)
    b.wait_records(vm, 10)
    b.action("terminate", vm)
    assert b.settle(vm) == "DONE", b.vm_error(vm)
    return machine


@pytest.mark.parametrize("mode", ["journal", pytest.param("snapshot", marks=full)])
@pytest.mark.advice("not-following-yet", "here: systemctl start ceph-rbd-mirror.target")
def test_resume_without_the_handoff_is_refused_and_works_once_the_daemon_is_back(lab, a, b, adviser, mode):
    a.configure(sync_timeout="6s")
    machine = brought_into_the_trap(lab, mode)
    [image] = machine.images.values()
    try:
        assert a.resume(machine.home) == "POWEROFF"
        assert "handoff" in a.vm_error(machine.home)
        wait_until("the daemon to be missed", lambda: a.status(image).get("state", "").startswith("down"), 90, 1)
        adviser.follow(a, machine.home, "not-following-yet", "here: systemctl start ceph-rbd-mirror.target")
    finally:
        a.clusters("daemon-start")
    a.configure()
    assert a.resume(machine.home) == "RUNNING", a.vm_error(machine.home)
    a.wait_records(machine.home)
    machine.assert_complete(a)


@full
@pytest.mark.parametrize("mode", ["journal", "snapshot"])
def test_a_bare_promote_in_the_trap_loses_the_records(lab, a, b, mode):
    """What the token check is for: without it Ceph lets the stale copy be promoted, silently. If this test fails,
    Ceph has closed the hole and the protocol can be simplified."""
    machine = brought_into_the_trap(lab, mode)
    (image,) = machine.images.values()
    try:
        b.rbd("mirror", "image", "demote", image)
        assert a.rbd("mirror", "image", "promote", image, check=False).returncode == 0
        with pytest.raises(AssertionError):
            machine.assert_complete(a)
    finally:
        # as an administrator would clean up after that
        a.rbd("mirror", "image", "demote", image, check=False)
        b.rbd("mirror", "image", "promote", image, "--force", check=False)
        a.rbd("mirror", "image", "resync", image, check=False)
        a.clusters("daemon-start")


@full
@pytest.mark.parametrize("mode", ["journal", "snapshot"])
def test_both_copies_stranded_by_hand_come_home_complete(lab, a, b, mode):
    machine = brought_into_the_trap(lab, mode)
    (image,) = machine.images.values()
    b.rbd("mirror", "image", "demote", image)
    a.clusters("daemon-start")
    assert machine.primaries() == {image: ""}
    if mode == "journal":
        wait_until("both daemons to be stuck", lambda: not_primary(a, image), 90, 0.5)
    deadline = time.monotonic() + 240
    while a.state_name(machine.home) != "RUNNING" and time.monotonic() < deadline:
        a.resume(machine.home)
    assert a.state_name(machine.home) == "RUNNING", a.vm_error(machine.home)
    a.wait_records(machine.home)
    machine.assert_complete(a)


def not_primary(site, image):
    return "remote image is not primary" in site.status(image).get("description", "")


# ---------------------------------------------------------------- point 4


def test_a_non_persistent_disk_is_deleted_where_it_was_made_and_kept_where_it_belongs_elsewhere(lab, a, b):
    for site, kept in ((b, False), (a, False), (b, True)):
        # a name of its own: both front-ends call their n-th image one-n
        name = unique("base-of-" + site.name)
        site.rbd("create", "one/" + name, "--size", "16M")
        base = site.image_create(name, "one", False, source="one/" + name)
        vm = site.vm_create("clone-of-%s" % site.name, [base])
        assert site.settle(vm) == "RUNNING", site.vm_error(vm)
        (image,) = site.vm_images(vm).values()
        other = lab.other(site)
        other.wait_replaying(image)
        site.wait_records(vm)
        if kept:
            site.onemirror("rehome", vm, "--to", other.name)
        site.action("terminate", vm)
        assert site.settle(vm) == "DONE", site.vm_error(vm)
        if kept:
            assert site.is_primary(image) is False
            assert other.is_primary(image) is False
            verdict = other.check_records(image, site.acknowledged(vm))
            wait_until("the records", lambda: other.check_records(image, site.acknowledged(vm))["ok"], 30)
            assert verdict["records"] > 0
        else:
            assert site.info(image) is None
            wait_until("the copy to go with its original", lambda: other.info(image) is None, 60)


# ---------------------------------------------------------------- point 5


@pytest.mark.advice("way-out", "there: onevm poweroff N")
def test_resume_while_it_runs_on_the_other_site_changes_nothing(lab, a, b, adviser):
    machine = lab.vm_with_three_disks(unique("running"))
    a.action("poweroff", machine.home)
    a.wait_vm(machine.home, "POWEROFF")
    vm = machine.start_on_b()
    assert b.settle(vm) == "RUNNING", b.vm_error(vm)
    before = settled_snapshot_of(lab, machine.images.values())
    assert a.resume(machine.home) == "POWEROFF"
    assert snapshot_of(lab, machine.images.values()) == before
    assert b.state_name(vm) == "RUNNING"
    error = a.vm_error(machine.home)
    name = machine.images[0].split("/")[1]
    assert "%s is in use on site-b: VM %d is RUNNING" % (name, vm) in error, error
    refused = [entry for entry in a.audit() if entry["outcome"] == "refused" and entry.get("vm") == machine.home]
    assert refused and refused[-1]["rule"] == "running-there"
    assert "on site-b: onevm poweroff %d" % vm in refused[-1]["reason"]
    # a VM that is off there keeps nothing here from booting
    adviser.follow(a, machine.home, "way-out", "there: onevm poweroff N")
    b.wait_vm(vm, "POWEROFF")
    assert a.resume(machine.home) == "RUNNING", a.vm_error(machine.home)
    assert set(machine.primaries().values()) == {"a"}
    assert b.resume(vm) == "POWEROFF"
    machine.assert_complete(a)


def test_a_release_that_its_front_end_has_forgotten_takes_no_image_from_a_vm_that_runs(lab, a, b):
    """oned was restarted in EPILOG: its driver goes on, an operator recovers the VM, and the image is used again."""
    machine = lab.vm_with_one_disk(unique("forgotten"), "journal")
    (image,) = machine.images.values()
    a.action("poweroff", machine.home)
    a.wait_vm(machine.home, "POWEROFF")
    gone = machine.start_on_b()
    assert b.settle(gone) == "RUNNING", b.vm_error(gone)
    b.action("poweroff", gone)
    b.wait_vm(gone, "POWEROFF")
    b.one.vm.recover(gone, 5)  # delete-db: no driver is asked
    b.wait_vm(gone, "DONE")
    vm = machine.start_on_b(mirrored=False)
    assert b.settle(vm) == "RUNNING", b.vm_error(vm)
    before = settled_snapshot_of(lab, [image])
    for late in (gone, vm):
        disk = "host:%s/var/datastores/100/%d/disk.0" % (b.location, late)
        b.onemirror("tm", "--stock", "/bin/true", "mvds", disk, image, late, "100", check=False)
        assert snapshot_of(lab, [image]) == before
        last = [entry for entry in b.audit() if entry["event"] == "tm mvds"][-1]
        assert (last["outcome"], last.get("reason")) == ("pending", "VM %d here uses it" % vm)
    with open(b.acknowledged(vm)[-1]) as log:
        written = len(log.readlines())
    b.wait_records(vm, written + 10)
    b.action("terminate", vm)
    b.wait_vm(vm, "DONE")
    machine.comes_home()
    machine.assert_complete(a)


@full
@pytest.mark.parametrize("mode", ["journal", "snapshot"])
def test_a_copy_that_somebody_asked_to_be_made_anew_is_not_taken_before_it_is(lab, a, b, mode):
    """`rbd mirror image resync` by hand, of which only Ceph knows; the daemon deletes the copy whenever it comes."""
    machine = lab.vm_with_one_disk(unique("asked-by-hand"), mode)
    (image,) = machine.images.values()
    machine.register_on_b()
    a.wait_records(machine.home)
    a.action("poweroff", machine.home)
    a.wait_vm(machine.home, "POWEROFF")
    b.clusters("daemon-stop")
    try:
        b.rbd("mirror", "image", "resync", image)
        old = b.info(image)["id"]
        b.configure(sync_timeout="10s")
        vm = machine.start_on_b(mirrored=False)
        assert b.settle(vm) == "PROLOG_FAILURE"
        assert machine.primaries() == {image: "a"}
    finally:
        b.clusters("daemon-start")
    wait_until("the new copy", lambda: (b.info(image) or {"id": old})["id"] != old, 60)
    b.configure()
    b.one.vm.recover(vm, 2)  # retry
    b.wait_vm(vm, "RUNNING")
    b.wait_records(vm)
    b.action("terminate", vm)
    b.wait_vm(vm, "DONE")
    machine.comes_home()
    machine.assert_complete(a)


@contextlib.contextmanager
def forced_while_home_is_lost(lab, machine, before):
    """`failover --force` on the recovery site, and the VM RUNNING there; home comes back behind it."""
    a, b = lab.a, lab.b
    before()
    a.front_end_kill()
    a.clusters("site-lost")
    try:
        vm = machine.start_on_b(mirrored=False)
        assert b.settle(vm) == "PROLOG_FAILURE"
        said = b.onemirror("failover", vm, "--force", "--reason", "test")
        assert said.stderr == "" and "passed over by force: " in said.stdout, said
        b.one.vm.recover(vm, 2)  # retry
        b.wait_vm(vm, "RUNNING")
        b.wait_records(vm)
        yield vm
    finally:
        a.clusters("site-back")
        a.front_end_start()
        b.clusters("daemon-start")


def powered_off_and_copied(lab, name, mode):
    a, b = lab.a, lab.b
    machine = lab.vm_with_one_disk(unique(name), mode)
    (image,) = machine.images.values()
    machine.register_on_b()
    a.wait_records(machine.home)
    a.action("poweroff", machine.home)
    a.wait_vm(machine.home, "POWEROFF")
    if mode == "snapshot":
        a.rbd("mirror", "image", "snapshot", image)
    wait_until("the records", lambda: b.check_records(image, a.acknowledged(machine.home))["ok"], 60, 0.5)
    return machine, image


def comes_home_as(machine, a, b, image, kept):
    """What was written on both sites is at home, and the recovery site has the very image it had."""
    wait_until("the VM at home", lambda: a.resume(machine.home) == "RUNNING", 180, 1)
    a.wait_records(machine.home)
    assert b.info(image)["id"] == kept
    a.action("poweroff", machine.home)
    a.wait_vm(machine.home, "POWEROFF")
    machine.assert_complete(a)


def mirroring_anew(image, mode):
    """What has an image mirrored as another one; the lab's pool of journals mirrors every image that has one."""
    if mode == "journal":
        return ["rbd feature %s %s journaling" % (verb, image) for verb in ("disable", "enable")]
    return ["rbd mirror image disable " + image, "rbd mirror image enable %s snapshot" % image]


ANEW = {
    "journal": "there: rbd feature disable IMAGE journaling && rbd feature enable IMAGE journaling",
    "journal, by image": "there: rbd mirror image disable IMAGE && rbd mirror image enable IMAGE journal",
    "snapshot": "there: rbd mirror image disable IMAGE && rbd mirror image enable IMAGE snapshot",
}


def typed(site, commands):
    for command in commands:
        site.rbd(*command.split()[1:])


def refused_with(a, vm, sentence, timeout=180):
    """The plan of a boot that is refused with this."""
    def is_told():
        assert a.resume(vm) != "RUNNING"
        return sentence in a.vm_error(vm)

    wait_until(sentence, is_told, timeout, 1)
    return a.onemirror("plan", vm).stdout


@full
@pytest.mark.parametrize("mode", [
    pytest.param("journal", marks=pytest.mark.advice(
        "resync-asked-there", "there: rbd feature disable IMAGE journaling && rbd feature enable IMAGE journaling")),
    pytest.param("journal, by image", marks=pytest.mark.advice(
        "resync-asked-there", "there: rbd mirror image disable IMAGE && rbd mirror image enable IMAGE journal")),
    pytest.param("snapshot", marks=pytest.mark.advice(
        "resync-asked-there", "there: rbd mirror image disable IMAGE && rbd mirror image enable IMAGE snapshot")),
])
def test_a_forced_copy_that_was_to_be_made_anew_comes_home_once_it_is_mirrored_anew(lab, a, b, adviser, mode):
    """The daemon would throw it away as soon as it is primary no more. What the refusal says to type is typed here."""
    machine, image = powered_off_and_copied(lab, "forced-and-asked", mode)

    def asked_for_a_resync():
        b.clusters("daemon-stop")
        b.rbd("mirror", "image", "resync", image)

    with forced_while_home_is_lost(lab, machine, asked_for_a_resync) as vm:
        kept = b.info(image)["id"]
    b.action("terminate", vm)
    b.wait_vm(vm, "DONE")
    refused_with(a, machine.home, "a resync of it was asked for there")
    if mode == "journal":
        assert b.rbd("mirror", "image", "disable", image, check=False).returncode != 0
    adviser.follow(a, machine.home, "resync-asked-there", ANEW[mode])
    comes_home_as(machine, a, b, image, kept)


@full
@pytest.mark.parametrize("role", [
    pytest.param("primary", marks=pytest.mark.advice("forced-apart", "here: rbd mv IMAGE IMAGE.aside")),
    pytest.param("demoted", marks=pytest.mark.advice(
        "non-primary-apart", "here: rbd mirror image promote IMAGE --force && rbd mv IMAGE IMAGE.aside")),
])
@pytest.mark.parametrize("mode", ["journal", "snapshot"])
def test_a_copy_that_was_mirrored_anew_elsewhere_is_not_taken_for_absent(lab, a, b, adviser, mode, role):
    """Home's copy is then no copy of the image of its name. What the refusals say to type is typed here."""
    machine, image = powered_off_and_copied(lab, "apart", mode)
    with forced_while_home_is_lost(lab, machine, lambda: None) as vm:
        kept = b.info(image)["id"]
        typed(b, mirroring_anew(image, mode))
    if role == "primary":
        refused_with(a, machine.home, "is stale here: site-b took it over by force")
    else:
        a.rbd("mirror", "image", "demote", image)
        refused_with(a, machine.home, "is not a copy of the image of this name on site-b")
    forced = a.onemirror("failover", machine.home, "--force", "--reason", "test", check=False)
    assert forced.returncode != 0 and "another image than the one here" in forced.stderr, forced.stderr
    b.action("terminate", vm)
    b.wait_vm(vm, "DONE")
    aside = "rbd mv IMAGE IMAGE.aside"
    if role == "primary":
        adviser.follow(a, machine.home, "forced-apart", "here: " + aside)
    else:
        adviser.follow(a, machine.home, "non-primary-apart", "here: rbd mirror image promote IMAGE --force && " + aside)
    comes_home_as(machine, a, b, image, kept)


@full
@pytest.mark.advice("non-primary-apart", "there: rbd mv IMAGE IMAGE.aside")
@pytest.mark.advice("non-primary-without-other-copy", "here: onemirror failover N --force --reason TEXT")
def test_the_copy_here_is_the_one_to_go_on_with_where_another_image_has_its_name(lab, a, b, adviser):
    """Somebody on site-b made an image of the name that home's copy had, and home's was demoted by hand."""
    machine, image = powered_off_and_copied(lab, "apart-here", "snapshot")
    b.clusters("daemon-stop")
    b.rbd("mirror", "image", "promote", "--force", image)
    typed(b, mirroring_anew(image, "snapshot"))
    a.rbd("mirror", "image", "demote", image)
    b.clusters("daemon-start")
    refused_with(a, machine.home, "is not a copy of the image of this name on site-b")
    adviser.follow(a, machine.home, "non-primary-apart", "there: rbd mv IMAGE IMAGE.aside")
    adviser.follow(a, machine.home, "non-primary-without-other-copy", "here: onemirror failover N --force --reason TEXT")
    a.wait_vm(machine.home, "RUNNING")
    a.wait_records(machine.home)
    machine.assert_complete(a)


# ---------------------------------------------------------------- point 6


def half_demote(lab, site, image):
    """Kills `rbd mirror image demote` between its two steps: the image takes no writes any more, and is primary still."""
    def torn():
        info = site.info(image)
        return "non-primary" in info["features"] and info["mirroring"]["primary"]

    rbd = os.path.join(lab.clusters, "bin/rbd")
    rbd = rbd if os.path.exists(rbd) else "rbd"
    for call in range(25, 200):  # before that it only connects
        command = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=sendmsg",
                   "-e", "inject=sendmsg:signal=SIGKILL:when=%d" % call,
                   rbd, "--conf", site.conf, "--id", "admin", "mirror", "image", "demote", image]
        subprocess.run(command, env=site.environment, capture_output=True, check=False)
        if torn():
            return
        if not site.is_primary(image):
            site.rbd("mirror", "image", "promote", image)
    raise AssertionError("%s was never half demoted" % image)


@full
@pytest.mark.parametrize("where", ["home", "away"])
def test_a_demotion_that_was_killed_half_way_is_ended_and_the_vm_starts(lab, a, b, where):
    machine = lab.vm_with_one_disk(unique("half"), "snapshot")
    (image,) = machine.images.values()
    machine.register_on_b()
    a.wait_records(machine.home, 10)
    a.action("poweroff", machine.home)
    a.wait_vm(machine.home, "POWEROFF")
    half_demote(lab, a, image)
    written = a.rbd("image-meta", "set", image, "x", "y", check=False)
    assert written.returncode == 30, written.stderr
    if where == "home":
        # Ceph waits up to 30 s for a client that was killed with the image's exclusive lock, and as long again for one that
        # was killed while it waited; a user tries again
        for _ in range(8):
            a.action("resume", machine.home)
            if a.settle(machine.home) == "RUNNING":
                break
        assert a.state_name(machine.home) == "RUNNING", a.vm_error(machine.home)
        machine.assert_complete(a)
        return
    vm = machine.start_on_b(mirrored=False)
    for _ in range(8):
        if b.settle(vm) == "RUNNING":
            break
        b.one.vm.recover(vm, 2)
    assert b.state_name(vm) == "RUNNING", b.vm_error(vm)
    assert machine.primaries() == {image: "b"}
    b.action("poweroff", vm)
    b.wait_vm(vm, "POWEROFF")
    machine.assert_complete(b)


@full
def test_a_release_that_the_peer_cannot_follow_stays_pending_until_reconcile(lab, a, b):
    b.configure(release_timeout="3s")
    machine = lab.vm_with_three_disks(unique("pending"))
    machine.register_on_b()
    a.action("poweroff", machine.home)
    a.wait_vm(machine.home, "POWEROFF")
    a.clusters("daemon-stop")
    try:
        vm = machine.start_on_b()
        assert b.settle(vm) == "RUNNING", b.vm_error(vm)
        b.wait_records(vm)
        b.action("terminate", vm)
        assert b.settle(vm) == "DONE", b.vm_error(vm)
        assert set(machine.primaries().values()) == {"b"}
        pending = {item["image"]: item["handoff"] for item in b.overview()["pending"]}
        for image in machine.images.values():
            assert pending[image].startswith("handoff pending: "), pending
        assert "pending" in b.onemirror("list", check=False).stdout
    finally:
        a.clusters("daemon-start")

    def came_home():
        b.reconcile(check=False)
        return a.state_name(machine.home) == "RUNNING"

    wait_until("the VM to come home", came_home, 120, 1)
    assert b.overview()["pending"] == []
    machine.assert_complete(a)


# ---------------------------------------------------------------- point 7


@full
@pytest.mark.parametrize("mode", [
    pytest.param("journal", marks=pytest.mark.advice(
        "split-brain-undecided", "there: rbd mirror image demote IMAGE && rbd mirror image resync IMAGE")),
    pytest.param("snapshot", marks=pytest.mark.advice(
        "split-brain-undecided", "here: rbd mirror image demote IMAGE && rbd mirror image resync IMAGE")),
])
def test_a_force_that_was_interrupted_costs_home_nothing(lab, a, b, adviser, mode):
    """Promoted, and killed before its token; then its VM, which never ran, is terminated while home is silent."""
    machine = lab.vm_with_one_disk(unique("interrupted"), mode)
    [image] = machine.images.values()
    machine.register_on_b()
    machine.wait_mirrored()
    a.wait_records(machine.home, 10)
    b.configure(command_timeout="8s")
    a.front_end_kill()
    a.clusters("site-lost")
    a.kill_domains()
    try:
        vm = machine.start_on_b()
        assert b.settle(vm) == "PROLOG_FAILURE"
        b.clusters("daemon-stop")
        term = b.token(image)
        b.rbd("mirror", "image", "promote", "--force", image)
        b.action("terminate", vm)
        assert b.settle(vm) == "DONE", b.vm_error(vm)
        assert (b.is_primary(image), b.token(image)) == (True, term)
    finally:
        a.clusters("site-back")
        a.front_end_start()
        b.clusters("daemon-start")
    a.wait_vm(machine.home, "POWEROFF")
    assert a.resume(machine.home) == "POWEROFF"
    for site in (a, b):
        site.reconcile(check=False)
    assert "no boot on site-b went through its gate; if nobody else wrote there" in a.onemirror("plan", machine.home).stdout
    commands = "rbd mirror image demote IMAGE && rbd mirror image resync IMAGE"
    if mode == "journal":
        adviser.follow(a, machine.home, "split-brain-undecided", "there: " + commands)
    else:
        again = b.one.vm.allocate('NAME="again"\nCPU="0.1"\nMEMORY="96"\nCONTEXT=[A="b"]\nDISK=[IMAGE_ID="%d"]'
                                  % machine.registered[0], True)
        b.wait_vm(again, "HOLD")
        adviser.follow(b, again, "split-brain-undecided", "here: " + commands)
        b.action("terminate", again)
        b.wait_vm(again, "DONE")
    assert a.resume(machine.home) == "RUNNING", a.vm_error(machine.home)
    a.wait_records(machine.home, 3)
    home_and_back(machine, a, b)
    a.action("poweroff", machine.home)
    a.wait_vm(machine.home, "POWEROFF")
    machine.assert_complete(a)


@full
def test_a_copy_that_is_not_whole_is_not_promoted_by_force(lab, a, b):
    """Ceph would: of what is half copied it makes a primary that lacks everything."""
    machine = lab.vm_with_one_disk(unique("half"), "journal")
    [image] = machine.images.values()
    machine.register_on_b()
    machine.wait_mirrored()
    a.wait_records(machine.home, 10)
    a.action("poweroff", machine.home)
    a.wait_vm(machine.home, "POWEROFF")
    b.configure(command_timeout="8s")

    def is_there():
        found = b.rbd("info", image, "--format", "json", check=False)
        return found.returncode == 0 and json.loads(found.stdout)["id"] != before

    def come_back():
        a.clusters("site-back")
        a.front_end_start()

    for _ in range(10):
        before = b.info(image)["id"]
        b.rbd("mirror", "image", "resync", image)
        wait_until("the next copy", is_there, 60, 0.01)
        a.front_end_kill()
        a.clusters("site-lost")
        if not b.token(image):
            break
        # it was whole already
        come_back()
        b.wait_replaying(image)
    try:
        assert not b.token(image)
        vm = machine.start_on_b(mirrored=False)
        assert b.settle(vm) == "PROLOG_FAILURE"
        said = b.onemirror("failover", vm, "--force", "--reason", "test", check=False)
        assert said.returncode == 1 and "may be half copied: it has no handoff token yet" in said.stderr, said
        assert b.is_primary(image) is False
    finally:
        come_back()
    b.action("terminate", vm)
    assert b.settle(vm) == "DONE"
    assert a.resume(machine.home) == "RUNNING", a.vm_error(machine.home)
    machine.assert_complete(a)


@full
def test_an_unreachable_peer_is_met_as_the_policy_says(lab, a, b):
    machine = lab.vm_with_one_disk(unique("alone"), "journal")
    machine.wait_mirrored()
    a.action("poweroff", machine.home)
    a.wait_vm(machine.home, "POWEROFF")
    b.front_end_kill()
    b.clusters("site-lost")
    contacts = glob.glob(os.path.join(a.location, "var/onemirror/peer-contacts/*"))
    assert contacts

    def resumed(policy):
        a.configure(peer_unreachable=policy)
        state = a.resume(machine.home)
        if state == "RUNNING":
            a.action("poweroff", machine.home)
            a.wait_vm(machine.home, "POWEROFF")
        return state

    try:
        assert resumed("refuse") == "POWEROFF"
        assert "may run on site-b, which does not answer" in a.vm_error(machine.home)
        assert resumed("allow") == "RUNNING"
        assert resumed("refuse-after-reboot") == "RUNNING"
        # after a reboot the contact is that of another boot
        for contact in contacts:
            with open(contact) as file:
                note = json.load(file)
            note["boot_id"] = "00000000-0000-4000-8000-000000000000"
            with open(contact, "w") as file:
                json.dump(note, file)
        assert resumed("refuse-after-reboot") == "POWEROFF"
        assert "not reached since this host booted" in a.vm_error(machine.home)
        assert resumed("allow") == "RUNNING"
    finally:
        b.clusters("site-back")
        b.front_end_start()
    wait_until("site-b to answer", lambda: b.is_primary(machine.images[0]) is False, 60)
    a.configure()
    a.action("resume", machine.home)
    assert a.wait_vm(machine.home, "RUNNING")


# ---------------------------------------------------------------- point 8


def test_without_a_disk_on_ceph_nothing_of_onemirror_matters(lab, a):
    image = a.image_create(unique("on-a-file"), "files", True, source="/var/lib/one/images/none")
    for text in (None, "this is not TOML ["):
        if text is None:
            os.remove(a.configuration)
        else:
            a.write_configuration(text)
        vm = a.vm_create("plain-%s" % bool(text), [image])
        assert a.settle(vm) == "RUNNING", a.vm_error(vm)
        a.action("poweroff", vm)
        a.wait_vm(vm, "POWEROFF")
        a.action("resume", vm)
        a.wait_vm(vm, "RUNNING")
        a.action("terminate", vm)
        assert a.settle(vm) == "DONE", a.vm_error(vm)


def test_a_broken_configuration_refuses_mirrored_disks_and_the_switch_overrides_it(lab, a):
    machine = lab.vm_with_one_disk(unique("broken"), "journal")
    a.action("poweroff", machine.home)
    a.wait_vm(machine.home, "POWEROFF")
    a.write_configuration("[site]\nnome = 1\n")
    assert a.resume(machine.home) == "POWEROFF"
    assert "is mirrored, and onemirror.conf is missing or broken" in a.vm_error(machine.home)
    assert "nome" in a.vm_log(machine.home)
    a.onemirror("off", "--reason", "drill")
    assert a.resume(machine.home) == "RUNNING", a.vm_error(machine.home)
    a.configure()
    shown = a.onemirror("list", check=False)
    assert "SWITCHED OFF (drill)" in shown.stderr
    assert [entry for entry in a.audit() if entry["outcome"] == "skipped" and "drill" in entry.get("reason", "")]
    a.onemirror("on")
    assert "SWITCHED OFF" not in a.onemirror("list", check=False).stderr


# ---------------------------------------------------------------- point 9


@pytest.mark.parametrize("hooks", [pytest.param("repeat", marks=full), pytest.param("late:3", marks=full), "lose"])
def test_hooks_delivered_twice_late_or_never(lab, a, b, hooks):
    for site in lab.sites:
        site.control("hooks=" + hooks)
    machine = lab.vm_with_three_disks(unique("hooks"))
    a.action("poweroff", machine.home)
    a.wait_vm(machine.home, "POWEROFF")
    vm = machine.start_on_b()
    assert b.settle(vm) == "RUNNING", b.vm_error(vm)
    b.wait_records(vm, 3)
    b.action("terminate", vm)
    assert b.settle(vm) == "DONE", b.vm_error(vm)
    if hooks == "lose":
        assert a.state_name(machine.home) == "POWEROFF"
        b.reconcile()
    machine.comes_home()
    machine.assert_complete(a)


# ---------------------------------------------------------------- what the points rest on


def test_the_peers_cluster_is_found_through_the_pools_peers(lab, a):
    machine = lab.vm_with_one_disk(unique("discovery"), "journal")
    machine.wait_mirrored()
    with open(a.configuration) as file:
        text = file.read()
    head, tail = text.split("[peer.ceph]")
    own = '[site.ceph]\nuser = "admin"\nconf = "%s"\n' % a.conf
    a.write_configuration(head.replace("[peer]", own + "[peer]") + "[policy]" + tail.split("[policy]")[1])
    (disk,) = json.loads(a.onemirror("show", machine.home, "-j").stdout)["disks"]
    assert (disk["here"]["role"], disk["there"]["role"]) == ("primary", "non-primary")
    # a user who may not read the peer's key learns no way to it, and is told what to write
    a.write_configuration(head + "[policy]" + tail.split("[policy]")[1])
    shown = a.onemirror("-v", "show", machine.home, "-j")
    (disk,) = json.loads(shown.stdout)["disks"]
    assert disk["there"]["role"] == "denied"
    assert "set [peer.ceph] conf and user in onemirror.conf" in shown.stderr


def test_a_vm_without_context_gets_its_token_all_the_same(lab, a, b):
    machine = lab.vm_with_one_disk(unique("no-context"), "journal", context=False)
    (image,) = machine.images.values()
    wait_until("the open token", lambda: ":site-a:open:" in (a.token(image) or ""), 30)
    assert json.loads(a.onemirror("show", machine.home, "-j").stdout)["has_context"] is False


def test_no_secret_is_shown(lab, a, b):
    """Neither passwords nor Ceph keys turn up in what onemirror prints or logs."""
    secrets = []
    for site in lab.sites:
        with open(site.auth_file) as file:
            secrets.append(file.read().strip().split(":", 1)[1])
        secrets.append(site.rbd("mirror", "pool", "info", "one", "--all", "--format", "json").stdout)
    keys = [peer["key"] for text in secrets if text.startswith("{") for peer in json.loads(text)["peers"]]
    secrets = [text for text in secrets if not text.startswith("{")] + keys
    assert len(secrets) == 4
    for site in lab.sites:
        said = site.onemirror("-vv", "list", check=False)
        log = os.path.join(site.location, "var/onemirror.log")
        with open(log) as file:
            text = said.stdout + said.stderr + file.read()
        for secret in secrets:
            assert secret not in text
