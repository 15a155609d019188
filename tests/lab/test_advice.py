"""What onemirror tells an operator to type is typed, exactly so, and the trouble is over and nothing lost."""
import contextlib
import glob
import json
import os
import re

import pytest
from conftest import full
from harness.laboratory import RUNNING, Machine, unique, wait_until
from test_failback import brought_into_the_trap, half_demote, powered_off_and_copied
from test_force import promotion_fails
from test_lost import copied_back, is_somewhere
from test_states import failed_over
from test_trouble import no_room

FORCE = "here: onemirror failover N --force --reason TEXT"
FORCE_THERE = "there: onemirror failover N --force --reason TEXT"


def off_at_home(lab, name, mode="journal"):
    """A VM that is off at home, and whose copy on site-b has all; and its double there, which waits on HOLD."""
    machine, image = powered_off_and_copied(lab, name, mode)
    b = lab.b
    template = 'NAME="%s"\nCPU="0.1"\nMEMORY="96"\nCONTEXT=[NETWORK="YES"]\nDISK=[IMAGE_ID="%d"]\n'
    vm = b.one.vm.allocate(template % (machine.name, machine.registered[0]), True)
    b.wait_vm(vm, "HOLD")
    machine.vms_b.append(vm)
    return machine, image, vm


@contextlib.contextmanager
def lost(lab, site):
    """The site answers nothing, and its VMs are gone."""
    other = lab.other(site)
    site.front_end_kill()
    site.clusters("site-lost")
    site.kill_domains()
    try:
        yield
    finally:
        site.clusters("site-back")
        site.front_end_start()
        other.configure()


def runs_on_b_and_comes_home(lab, machine, vm):
    lab.b.wait_vm(vm, RUNNING)
    lab.b.wait_records(vm)
    machine.end_away(vm)
    machine.comes_home()
    machine.assert_complete(lab.a)


def runs_at_home(lab, machine):
    lab.a.wait_vm(machine.home, RUNNING)
    lab.a.wait_records(machine.home)
    machine.assert_complete(lab.a)


# ---------------------------------------------------------------- the VM on the other site lets go


def pending(lab, vm):
    lab.b.host_silent()
    lab.b.wait_vm(vm, "UNKNOWN")
    lab.b.recover(vm, "recreate")
    lab.b.wait_vm(vm, "PENDING")


def unknown(lab, vm):
    lab.b.kill_domains()
    lab.b.host_silent()
    lab.b.wait_vm(vm, "UNKNOWN")


def suspended(lab, vm):
    lab.b.action("suspend", vm)
    lab.b.wait_vm(vm, "SUSPENDED")


def epilog_failed(lab, vm):
    """The front-end's disk was full, say, when it wanted to run the script."""
    script = os.path.join(lab.b.location, "var/remotes/tm/ceph/mvds")
    os.rename(script, script + ".away")
    try:
        lab.b.action("terminate", vm)
        lab.b.wait_vm(vm, "EPILOG_FAILURE")
    finally:
        os.rename(script + ".away", script)


@pytest.mark.parametrize("bring_about, out", [
    pytest.param(pending, "there: onevm hold N", marks=[full, pytest.mark.advice("way-out", "there: onevm hold N")]),
    pytest.param(suspended, "there: onevm resume N, then onevm poweroff N",
                 marks=pytest.mark.advice("way-out", "there: onevm resume N, then onevm poweroff N")),
    pytest.param(epilog_failed, "there: onevm recover --retry N",
                 marks=[full, pytest.mark.advice("way-out", "there: onevm recover --retry N")]),
    pytest.param(unknown, "there: onevm recover --recreate N, then onevm poweroff N",
                 marks=[full, pytest.mark.advice("way-out", "there: onevm recover --recreate N, then onevm poweroff N")]),
])
def test_a_vm_of_the_other_site_lets_go_by_what_its_state_takes(lab, a, b, adviser, bring_about, out):
    machine = lab.vm_with_one_disk(unique("lets-go"), "journal")
    vm = failed_over(lab, machine)
    try:
        bring_about(lab, vm)
        was = b.state_name(vm)
        assert a.resume(machine.home) == "POWEROFF"
        assert "VM %d is %s" % (vm, was) in a.vm_error(machine.home), a.vm_error(machine.home)
        adviser.follow(a, machine.home, "way-out", out, meanwhile=b.host_heard if was == "UNKNOWN" else None)
    finally:
        b.host_heard()
    if b.wait_vm(vm, "HOLD", "POWEROFF", "DONE") == "DONE":
        machine.comes_home()
    else:
        assert a.resume(machine.home) == RUNNING, a.vm_error(machine.home)
    runs_at_home(lab, machine)


# ---------------------------------------------------------------- the other site is silent


@pytest.mark.parametrize("policy, rule", [
    pytest.param("refuse", "primary-here-peer-unreachable-refused", marks=pytest.mark.advice(
        "primary-here-peer-unreachable-refused", "here: onemirror failover N --force --reason TEXT")),
    pytest.param("refuse-after-reboot", "primary-here-not-in-touch-since-reboot", marks=[full, pytest.mark.advice(
        "primary-here-not-in-touch-since-reboot", "here: onemirror failover N --force --reason TEXT")]),
])
def test_one_vm_is_started_by_force_and_the_policy_stays(lab, a, b, adviser, policy, rule):
    machine, image, _ = off_at_home(lab, "by-policy")
    with lost(lab, b):
        a.configure(peer_unreachable=policy)
        for contact in glob.glob(os.path.join(a.location, "var/onemirror/peer-contacts/*")):
            with open(contact) as file:
                note = json.load(file)
            note["boot_id"] = "00000000-0000-4000-8000-000000000000"
            with open(contact, "w") as file:
                json.dump(note, file)
        assert a.resume(machine.home) == "POWEROFF"
        adviser.follow(a, machine.home, rule, FORCE)
        a.wait_vm(machine.home, RUNNING)
    runs_at_home(lab, machine)


@full
@pytest.mark.advice("half-demoted-peer-unreachable", "here: onemirror failover N --force --reason TEXT")
def test_a_half_demoted_copy_is_had_by_force_where_the_other_site_is_lost(lab, a, b, adviser):
    machine, image, _ = off_at_home(lab, "half-demoted", "snapshot")
    half_demote(lab, a, image)
    with lost(lab, b):
        # Ceph waits up to 30 s for a client that was killed with the image's exclusive lock; an operator tries again
        adviser.attempts = 8
        adviser.follow(a, machine.home, "half-demoted-peer-unreachable", FORCE)
        a.wait_vm(machine.home, RUNNING)
    runs_at_home(lab, machine)


# ---------------------------------------------------------------- copies that nobody can tell apart


def promoted_there_by_hand(lab, image, token):
    """Primary on both sites, and by the tokens none of them is newer."""
    a, b = lab.a, lab.b
    b.clusters("daemon-stop")
    b.rbd("mirror", "image", "promote", "--force", image)
    b.rbd("image-meta", "set", image, "onemirror.handoff", token)
    b.clusters("daemon-start")


def same_age(lab, image):
    """A token of site-b that is as old as that of site-a."""
    sequence, _, _, *bound = lab.a.token(image).split(":")
    return ":".join([sequence, "site-b", "open", *bound])


def went_apart(lab, image):
    promoted_there_by_hand(lab, image, same_age(lab, image))


def demoted_afterwards(lab, image):
    went_apart(lab, image)
    lab.b.rbd("mirror", "image", "demote", image)


def both_demoted_afterwards(lab, image):
    demoted_afterwards(lab, image)
    lab.a.rbd("mirror", "image", "demote", image)


def demoted_on_both(lab, image):
    """As one who does by hand what he did before onemirror came, on both sites at once."""
    lab.b.clusters("daemon-stop")
    lab.a.clusters("daemon-stop")
    lab.b.rbd("mirror", "image", "promote", "--force", image)
    for site in lab.sites:
        site.rbd("mirror", "image", "demote", image)
    for site in lab.sites:
        site.clusters("daemon-start")


@full
@pytest.mark.parametrize("rule, bring_about", [
    pytest.param("split-brain-undecided", went_apart, marks=[pytest.mark.advice(
        "split-brain-undecided", "here: onemirror failover N --force --reason TEXT")]),
    pytest.param("token-conflict", demoted_afterwards, marks=[pytest.mark.advice(
        "token-conflict", "here: onemirror failover N --force --reason TEXT")]),
    pytest.param("no-proof", demoted_on_both, marks=[pytest.mark.advice(
        "no-proof", "here: onemirror failover N --force --reason TEXT")]),
])
def test_an_operator_goes_on_with_the_copy_here(lab, a, b, adviser, rule, bring_about):
    machine, image, vm = off_at_home(lab, rule)
    bring_about(lab, image)
    a.configure(sync_timeout="6s")
    assert a.resume(machine.home) == "POWEROFF"
    # whoever looks at all VMs is told as well
    listed = a.onemirror("list", check=False)
    code = {"no-proof": "OM45 ", "token-conflict": "OM55 "}.get(rule, "split brain")
    assert listed.returncode == 3 and code in listed.stdout, listed
    adviser.follow(a, machine.home, rule, FORCE)
    a.wait_vm(machine.home, RUNNING)
    wait_until("site-b to follow", lambda: b.reconcile(check=False) and b.token(image) == a.token(image), 120, 2)
    assert machine.primaries() == {image: "a"}
    runs_at_home(lab, machine)


@pytest.mark.parametrize("rule, bring_about", [
    pytest.param("split-brain-undecided", went_apart, marks=[pytest.mark.advice(
        "split-brain-undecided", "there: onemirror failover N --force --reason TEXT")]),
    pytest.param("token-conflict", both_demoted_afterwards, marks=[full, pytest.mark.advice(
        "token-conflict", "there: onemirror failover N --force --reason TEXT")]),
    pytest.param("no-proof", demoted_on_both, marks=[full, pytest.mark.advice(
        "no-proof", "there: onemirror failover N --force --reason TEXT")]),
])
def test_an_operator_goes_on_with_the_copy_of_the_other_site(lab, a, b, adviser, rule, bring_about):
    machine, image, vm = off_at_home(lab, rule)
    bring_about(lab, image)
    a.configure(sync_timeout="6s")
    assert a.resume(machine.home) == "POWEROFF"
    adviser.follow(a, machine.home, rule, FORCE_THERE)
    b.wait_vm(vm, RUNNING)
    wait_until("home to follow", lambda: a.reconcile(check=False) and b.token(image) == a.token(image), 120, 2)
    assert machine.primaries() == {image: "b"}
    runs_on_b_and_comes_home(lab, machine, vm)


@full
@pytest.mark.advice("token-unreadable", "here: rbd image-meta remove IMAGE onemirror.handoff")
@pytest.mark.advice("token-unreadable", "there: rbd image-meta remove IMAGE onemirror.handoff")
def test_a_token_that_nobody_can_read_is_removed_where_the_image_is_primary(lab, a, b, adviser):
    machine, image, vm = off_at_home(lab, "unreadable")

    def scribbled():
        a.rbd("image-meta", "set", image, "onemirror.handoff", "what is this?")
        wait_until("the other copy to show it", lambda: b.token(image) == a.token(image), 60, 0.5)

    scribbled()
    assert a.resume(machine.home) == "POWEROFF"
    adviser.follow(a, machine.home, "token-unreadable", "here: rbd image-meta remove IMAGE onemirror.handoff")
    wait_until("the other copy to be rid of it", lambda: not b.token(image), 60, 0.5)
    assert a.resume(machine.home) == RUNNING, a.vm_error(machine.home)
    a.action("poweroff", machine.home)
    a.wait_vm(machine.home, "POWEROFF")
    scribbled()
    adviser.follow(b, vm, "token-unreadable", "there: rbd image-meta remove IMAGE onemirror.handoff")
    wait_until("the other copy to be rid of it", lambda: not b.token(image), 60, 0.5)
    b.action("release", vm)
    runs_on_b_and_comes_home(lab, machine, vm)


# ---------------------------------------------------------------- a copy that is not there


@pytest.mark.parametrize("mode", ["journal", pytest.param("snapshot", marks=full)])
@full
@pytest.mark.advice("non-primary-without-other-copy", "here: onemirror failover N --force --reason TEXT")
def test_the_only_copy_that_is_left_is_had_by_force(lab, a, b, adviser, mode):
    """Home's was deleted by somebody who took it for superfluous."""
    machine, image, vm = off_at_home(lab, "only", mode)
    b.clusters("daemon-stop")
    try:
        a.rbd("mirror", "image", "disable", "--force", image, check=False)
        a.rbd("rm", image)
        assert b.info(image)
        adviser.follow(b, vm, "non-primary-without-other-copy", FORCE)
    finally:
        b.clusters("daemon-start")
    b.wait_vm(vm, RUNNING)
    wait_until("home's new copy", lambda: a.info(image) and a.token(image) == b.token(image), 120, 1)
    runs_on_b_and_comes_home(lab, machine, vm)


def demoted(lab, image):
    lab.a.rbd("mirror", "image", "demote", image)


def half_demoted(lab, image):
    half_demote(lab, lab.a, image)


@pytest.mark.parametrize("bring_about, wanted", [
    pytest.param(demoted, "there: rbd mirror image promote IMAGE", marks=[full, pytest.mark.advice(
        "not-copied", "there: rbd mirror image promote IMAGE")]),
    pytest.param(half_demoted, "there: rbd mirror image demote IMAGE && rbd mirror image promote IMAGE", marks=[full,
        pytest.mark.advice("not-copied", "there: rbd mirror image demote IMAGE && rbd mirror image promote IMAGE")]),
])
def test_an_image_is_copied_once_its_other_copy_is_primary(lab, a, b, adviser, bring_about, wanted):
    machine, image, vm = off_at_home(lab, "not-copied", "snapshot")
    b.clusters("daemon-stop")
    b.rbd("mirror", "image", "promote", "--force", image)
    b.rbd("mirror", "image", "disable", "--force", image)
    b.rbd("rm", image)
    bring_about(lab, image)
    b.clusters("daemon-start")
    b.action("release", vm)
    assert b.settle(vm) == "PROLOG_FAILURE", b.vm_error(vm)
    adviser.follow(b, vm, "not-copied", wanted)
    wait_until("the copy", lambda: b.info(image) and b.token(image) == a.token(image), 120, 1)
    b.recover(vm, "retry")
    runs_on_b_and_comes_home(lab, machine, vm)


def clone_by_snapshots(lab):
    """Off at home; its disk was reverted, and mirrored by somebody who does not know what Ceph leaves out of a clone."""
    a, b = lab.sites
    machine, image, vm = off_at_home(lab, "clone-by-snapshots", "snapshot")
    a.control("hooks=lose")
    snapshot, _ = a.disk_snapshot(machine.home, 0)
    assert a.disk_revert(machine.home, 0, snapshot) == "POWEROFF", a.vm_error(machine.home)
    a.rbd("mirror", "image", "snapshot", "%s-%d" % (image, snapshot))
    wait_until("the older image to get its new name", lambda: b.info(image) is None, 60, 0.5)
    a.rbd("mirror", "image", "enable", image, "snapshot")
    b.wait_replaying(image)
    a.onemirror("rehome", machine.home)
    a.control("hooks=deliver")
    assert a.resume(machine.home) == RUNNING, a.vm_error(machine.home)
    a.wait_records(machine.home)
    a.action("poweroff", machine.home)
    a.wait_vm(machine.home, "POWEROFF")
    a.rbd("mirror", "image", "snapshot", image)
    wait_until("the token", lambda: a.token(image) == b.token(image), 60, 0.5)
    wait_until("the holes", lambda: not b.check_records(image, a.acknowledged(machine.home))["ok"], 60, 0.5)
    return machine, image, vm


MIRRORED_WHOLE = (
    "there: rbd mirror image disable IMAGE && rbd flatten IMAGE && rbd mirror image enable IMAGE snapshot && onemirror rehome N")
PROMOTED_THERE = "there: rbd mirror image promote IMAGE"


@full
@pytest.mark.parametrize("ways", [
    pytest.param([MIRRORED_WHOLE], id="primary", marks=pytest.mark.advice(
        "not-whole", "there: rbd mirror image disable IMAGE && rbd flatten IMAGE && rbd mirror image enable IMAGE snapshot && onemirror rehome N")),
    pytest.param([PROMOTED_THERE, MIRRORED_WHOLE], id="demoted", marks=[pytest.mark.advice(
        "not-whole", "there: rbd mirror image promote IMAGE"), pytest.mark.advice(
        "not-whole", "there: rbd mirror image disable IMAGE && rbd flatten IMAGE && rbd mirror image enable IMAGE snapshot && onemirror rehome N")]),
])
def test_a_clone_by_snapshots_is_booted_once_it_is_mirrored_whole(lab, a, b, adviser, ways):
    machine, image, vm = clone_by_snapshots(lab)
    assert "its copy on site-b is not whole" in a.onemirror("list", check=False).stdout
    if PROMOTED_THERE in ways:
        demoted(lab, image)
    b.action("release", vm)
    assert b.settle(vm) == "PROLOG_FAILURE", b.vm_error(vm)
    for way in ways:
        adviser.follow(b, vm, "not-whole", way)
    wait_until("the copy", lambda: b.info(image) and b.check_records(image, a.acknowledged(machine.home))["ok"], 120, 1)
    b.recover(vm, "retry")
    runs_on_b_and_comes_home(lab, machine, vm)


@full
@pytest.mark.advice("not-whole", "here: onemirror failover N --force --reason TEXT")
def test_a_clone_by_snapshots_is_had_by_force_where_its_home_is_lost(lab, a, b, adviser):
    machine, image, vm = clone_by_snapshots(lab)
    with lost(lab, a):
        b.action("release", vm)
        assert b.settle(vm) == "PROLOG_FAILURE", b.vm_error(vm)
        adviser.follow(b, vm, "not-whole", FORCE)
        b.wait_vm(vm, RUNNING)
    copied_back(lab, machine)
    assert is_somewhere(lab, machine, image), "what home had is kept"


# ---------------------------------------------------------------- what runs and what does not


def suspended_while_the_other_site_ran(lab, machine):
    """Its disk was taken over while its front-end was down; the double on site-b is off."""
    a, b = lab.sites
    machine.register_on_b()
    a.wait_records(machine.home)
    a.action("suspend", machine.home)
    a.wait_vm(machine.home, "SUSPENDED")
    a.front_end_kill()
    try:
        vm = machine.start_on_b(mirrored=False)
        assert b.settle(vm) == "PROLOG_FAILURE"
        b.onemirror("failover", vm, "--force", "--reason", "test")
        b.wait_vm(vm, RUNNING)
        b.wait_records(vm)
    finally:
        a.front_end_start()
    assert a.state_name(machine.home) == "SUSPENDED"
    b.action("poweroff", vm)
    b.wait_vm(vm, "POWEROFF")


@full
@pytest.mark.advice("restore-on-changed-disk", "here: onevm recover --recreate N")
def test_a_vm_whose_saved_memory_no_longer_fits_starts_without_it(lab, a, b, adviser):
    machine = lab.vm_with_one_disk(unique("memory"), "journal")
    suspended_while_the_other_site_ran(lab, machine)
    adviser.follow(a, machine.home, "restore-on-changed-disk", "here: onevm recover --recreate N")
    wait_until("home to run", lambda: a.state_name(machine.home) == RUNNING, 120, 1)
    runs_at_home(lab, machine)


@full
def test_the_words_of_a_refusal_cost_a_clone_nothing(lab, a, b):
    """Somebody reads the VM's log and types what stands there; a terminated VM takes its clone along."""
    name = unique("memory-of-a-clone")
    machine = Machine(lab, name, a.vm_create(name, [a.image_create(name, "one", False)]))
    suspended_while_the_other_site_ran(lab, machine)
    # its copy has to follow first
    def told():
        assert a.resume(machine.home) == "SUSPENDED"
        return [line for line in a.vm_log(machine.home).splitlines() if "memory" in line]
    said = wait_until("what to do about the saved memory", told, 120, 1)[-1]
    found = re.search(r"onevm ([a-z][a-z -]*) ([0-9]+)", said) or re.search(r"([a-z-]+) VM ([0-9]+)", said)
    assert found, said
    action, vm = found.groups()
    a.type("onevm %s %s" % (action, vm))
    assert a.wait_vm(machine.home, RUNNING, "DONE", "EPILOG_FAILURE") == RUNNING
    runs_at_home(lab, machine)


def image_of(machine):
    [image] = machine.images.values()
    return image


@full
@pytest.mark.advice("forced-in-part", "here: onemirror failover N --force --reason TEXT")
def test_the_other_disks_are_forced_as_well(lab, a, b, adviser, tmp_path):
    """The second promotion fails, and the command is repeated."""
    name = unique("in-part-again")
    images = [a.image_create("%s-%d" % (name, disk), "one", True) for disk in range(2)]
    machine = Machine(lab, name, a.vm_create(name, images))
    machine.register_on_b()
    a.wait_records(machine.home)
    a.action("poweroff", machine.home)
    a.wait_vm(machine.home, "POWEROFF")
    for image in machine.images.values():
        wait_until("the records", lambda image=image: b.check_records(image, a.acknowledged(machine.home))["ok"], 60, 0.5)
    first, second = (machine.images[disk] for disk in sorted(machine.images))
    with lost(lab, a):
        vm = machine.start_on_b(mirrored=False)
        assert b.settle(vm) == "PROLOG_FAILURE", b.vm_error(vm)
        with promotion_fails(lab, second, tmp_path):
            b.onemirror("failover", vm, "--force", "--reason", "test", check=False)
        assert (b.is_primary(first), b.is_primary(second)) == (True, False)
        adviser.follow(b, vm, "forced-in-part", FORCE)
        b.wait_vm(vm, RUNNING)
        b.wait_records(vm)
    wait_until("home to follow", lambda: a.reconcile(check=False) and a.token(second) == b.token(second), 120, 2)
    runs_on_b_and_comes_home(lab, machine, vm)


@full
@pytest.mark.advice("writes-on-their-way", "here: systemctl start ceph-rbd-mirror.target")
def test_the_last_writes_arrive_once_the_daemon_at_home_runs(lab, a, b, adviser):
    machine = lab.vm_with_one_disk(unique("on-their-way"), "journal")
    vm = failed_over(lab, machine)
    image = image_of(machine)
    wait_until("home to follow", lambda: a.token(image) == b.token(image), 60, 0.5)
    a.configure(sync_timeout="6s")
    a.clusters("daemon-stop")
    try:
        machine.end_away(vm)
        assert machine.primaries() == {image: ""}
        # site-b has it started, in vain
        a.settle(machine.home)
        wait_until("the daemon to be missed", lambda: a.status(image).get("state", "").startswith("down"), 90, 1)
        adviser.follow(a, machine.home, "writes-on-their-way", "here: systemctl start ceph-rbd-mirror.target")
    finally:
        a.clusters("daemon-start")
    a.configure()
    machine.comes_home()
    machine.assert_complete(a)
