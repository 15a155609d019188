"""`failover --force` beside a site that is not lost, or not wholly: nothing runs twice, and nothing that answers is given up."""
import contextlib
import glob
import json
import os
import shutil
import signal
import time

import pytest
from conftest import full
from harness.laboratory import RUNNING, Machine, unique, wait_until


def one_disk(lab, name, mode="journal", context=True):
    """A VM that runs at home, its copy on site-b registered there and up to date."""
    machine = lab.vm_with_one_disk(unique(name), mode, context=context)
    machine.register_on_b()
    lab.a.wait_records(machine.home, 10)
    [image] = machine.images.values()
    return machine, image


def refused_on_b(machine, b):
    vm = machine.start_on_b(mirrored=False)
    assert b.settle(vm) == "PROLOG_FAILURE", b.vm_error(vm)
    return vm


PAST_ALL = "here: onemirror failover N --force --site-is-off --reason TEXT"


def force(b, vm, *arguments):
    """Types the command; where it goes through, the VM comes to rest."""
    said = b.onemirror("failover", vm, "--force", "--reason", "test", *arguments, check=False)
    if said.returncode == 0:
        b.wait_vm(vm, RUNNING)
    return said


def nothing_runs_twice(lab, machine, vm):
    """No domain at home while one runs on site-b, whatever the front-ends say."""
    return not (lab.a.domains(machine.home) and lab.b.state_name(vm) == RUNNING and "ab" in machine.primaries().values())


def test_a_force_is_refused_while_only_the_cluster_there_is_cut_off(lab, a, b):
    """Its front-end says that the VM runs, and so it does."""
    machine, image = one_disk(lab, "cut-off")
    with b.peer_cluster_cut_off(command_timeout="8s"):
        vm = refused_on_b(machine, b)
        said = force(b, vm)
        assert nothing_runs_twice(lab, machine, vm), "the VM runs on both sites"
        assert "is in use on site-a: VM %d is RUNNING" % machine.home in said.stderr, said
        assert (said.returncode, b.is_primary(image)) == (1, False)
        a.action("poweroff", machine.home)
        a.wait_vm(machine.home, "POWEROFF")
    b.wait_replaying(image)
    said = force(b, vm)
    assert (said.returncode, said.stdout.splitlines()[0][:18]) == (0, "nothing was forced"), said
    machine.end_away(vm)
    machine.comes_home()
    machine.assert_complete(a)


@pytest.mark.parametrize("librbd", [True, pytest.param(False, marks=full)])
def test_a_cluster_that_is_not_there_is_asked_nothing(lab, a, b, librbd):
    """Whether its monitors greet is known before Ceph's programs would wait for them."""
    machine, image = one_disk(lab, "dead")
    before = a.acknowledged(machine.home)
    with a.hanging():
        b.configure(librbd=librbd)
        vm = machine.start_on_b(mirrored=False)
        assert b.settle(vm) == "PROLOG_FAILURE", b.vm_error(vm)
        assert "is not primary here and site-a does not answer" in b.vm_error(vm)
        for words in (["plan", vm], ["show", vm], ["failover", vm, "--force", "--reason", "test"]):
            told = b.onemirror("-vv", *words, check=False).stderr
            asked = [line for line in told.splitlines() if 'site="site-a"' in line]
            assert not asked and "none of its monitors answers" in told and "does not greet" in told, told
            assert 'site="site-b"' in told, told
        b.wait_vm(vm, RUNNING)
        assert b.is_primary(image)
        machine.may_lose_tail += before
    b.configure()
    a.wait_vm(machine.home, "POWEROFF")
    wait_until("the copy at home to follow", lambda: a.reconcile(check=False) and a.token(image) == b.token(image), 120, 2)
    machine.end_away(vm)
    machine.comes_home()
    machine.assert_complete(a)


@full
@pytest.mark.advice("running-there", "here: onemirror failover N --force --site-is-off --reason TEXT")
def test_an_operator_may_say_that_a_site_is_off_though_its_front_end_answers(lab, a, b, adviser):
    """Its front-end was elsewhere when it burnt, and says RUNNING for ever."""
    machine, image = one_disk(lab, "burnt")
    before = a.acknowledged(machine.home)
    with b.peer_cluster_cut_off(command_timeout="8s"):
        for pid in a.domains(machine.home):
            os.kill(pid, signal.SIGSTOP)
        vm = refused_on_b(machine, b)
        assert force(b, vm).returncode == 1
        adviser.follow(b, vm, "running-there", PAST_ALL)
        b.wait_vm(vm, RUNNING)
        machine.may_lose_tail += before
        note = b.rbd("image-meta", "get", image, "onemirror.forced").stdout
        assert " site-is-off " in note, note
        assert [entry for entry in b.audit() if (entry.get("reason") or "").startswith("site-is-off: TEXT")]
        # also at the next boot, whatever that front-end goes on to say
        b.action("poweroff", vm)
        b.wait_vm(vm, "POWEROFF")
        assert b.resume(vm) == RUNNING, b.vm_error(vm)
        a.kill_domains()
        a.wait_vm(machine.home, "POWEROFF")
    wait_until("the copy at home to follow", lambda: a.reconcile(check=False) and a.token(image) == b.token(image), 120, 2)
    machine.end_away(vm)
    machine.comes_home()
    machine.assert_complete(a)


@pytest.mark.parametrize("mode", ["journal", pytest.param("snapshot", marks=full)])
@pytest.mark.advice("peer-front-end-unknown", "here: onemirror failover N --force --reason TEXT")
def test_where_only_the_front_end_is_silent_a_force_takes_over_and_loses_nothing(lab, a, b, adviser, mode):
    """The VM there runs on, seen by nobody. Its copy is demoted, and what it wrote arrives."""
    machine, image = one_disk(lab, "blind", mode)
    a.front_end_kill()
    try:
        b.configure(command_timeout="8s")
        vm = refused_on_b(machine, b)
        said = adviser.follow(b, vm, "peer-front-end-unknown", "here: onemirror failover N --force --reason TEXT")
        b.wait_vm(vm, RUNNING)
        assert machine.primaries() == {image: "b"}, "both copies can be written to"
        assert "%s: demoted on site-a and taken over" % image in said.stdout, said
        b.wait_records(vm, 3)
        b.action("poweroff", vm)
        b.wait_vm(vm, "POWEROFF")
        for verdict in machine.verdicts(b):
            assert verdict["ok"] and verdict["lost"] == 0, json.dumps(verdict, indent=1)
    finally:
        a.kill_domains()
        a.front_end_start()
    a.wait_vm(machine.home, "POWEROFF")
    b.configure()
    machine.end_away(vm)
    machine.comes_home()
    machine.assert_complete(a)


@full
def test_a_forced_vm_gets_the_disks_that_are_made_for_it(lab, a, b):
    """Its clone and its volatile disk were on neither site before, so there is nothing of them to promote."""
    machine, image = one_disk(lab, "made")
    a.action("poweroff", machine.home)
    a.wait_vm(machine.home, "POWEROFF")
    base = "one/%s-base" % machine.name
    b.rbd("create", base, "--size", "16M")
    registered = b.image_create(machine.name + "-base", "one", False, source=base)
    a.front_end_kill()
    try:
        with b.peer_cluster_cut_off(command_timeout="8s"):
            volatile = 'DISK=[TYPE="fs",SIZE="8",FORMAT="raw"]\n'
            vm = b.vm_create(machine.name, machine.registered + [registered], extra=volatile)
            machine.vms_b.append(vm)
            assert b.settle(vm) == "PROLOG_FAILURE", b.vm_error(vm)
            said = b.onemirror("failover", vm, "--force", "--reason", "test")
            machine.may_lose_tail += a.acknowledged(machine.home)
            assert b.settle(vm) == "RUNNING", b.vm_error(vm)
            assert "%s: promoted by force" % image in said.stdout, said
            assert (machine.primaries(), len(b.vm_images(vm))) == ({image: "ab"}, 3)
            b.wait_records(vm)
    finally:
        a.front_end_start()
    machine.end_away(vm)
    machine.comes_home()
    machine.assert_complete(a)


def test_a_wrong_key_is_no_silence(lab, a, b):
    """The VM at home runs on; the other site's key was changed, and its front-end is down."""
    machine, image = one_disk(lab, "key")
    a.front_end_kill()
    try:
        with b.peer_key_rotated(command_timeout="8s"):
            vm = refused_on_b(machine, b)
            said = force(b, vm)
            assert nothing_runs_twice(lab, machine, vm), "the VM runs on both sites"
            assert "cannot be forced: site-a denies access" in said.stderr, said
            assert (said.returncode, b.is_primary(image)) == (1, False)
            assert "denies access" in b.vm_log(vm) and "does not answer" not in b.vm_log(vm)
    finally:
        a.front_end_start()
    machine.end_away(vm)
    # it looks for a VM at home that is off, which there will be in a moment
    wait_until("the hook of its end", lambda: b.hook_runs(vm, "VM/DONE/LCM_INIT"), 60)
    machine.assert_complete(a)


@contextlib.contextmanager
def promotion_fails(lab, image, folder):
    """No forced promotion of this image succeeds."""
    rbd = folder / "rbd"
    script = 'case "$*" in *promote*--force*) case "$*" in *--image=%s*) exit 5 ;; esac ;; esac'
    rbd.write_text('#!/bin/sh\n%s\nPATH=${PATH#*:} exec rbd "$@"\n' % (script % image.split("/")[1]))
    rbd.chmod(0o755)
    lab.programs.insert(0, str(folder))
    try:
        yield
    finally:
        lab.programs.remove(str(folder))


@full
@pytest.mark.advice("forced-in-part", "here: rbd mirror image demote IMAGE && rbd mirror image resync IMAGE")
def test_a_force_that_reached_one_disk_only_boots_no_mix_of_ages(lab, a, b, adviser, tmp_path):
    """The second promotion fails; then the lost site is back, with a newer second disk."""
    name = unique("in-part")
    images = [a.image_create("%s-%d" % (name, disk), "one", True) for disk in range(2)]
    machine = Machine(lab, name, a.vm_create(name, images))
    machine.register_on_b()
    a.wait_records(machine.home, 10)
    first, second = (machine.images[disk] for disk in sorted(machine.images))
    b.configure(command_timeout="8s")
    b.clusters("daemon-stop")
    a.wait_records(machine.home, 20)
    before = a.acknowledged(machine.home)
    a.front_end_kill()
    a.clusters("site-lost")
    a.kill_domains()
    try:
        vm = refused_on_b(machine, b)
        with promotion_fails(lab, second, tmp_path):
            said = b.onemirror("failover", vm, "--force", "--reason", "test", check=False)
        assert said.returncode != 0 and b.state_name(vm) == "PROLOG_FAILURE", said
        assert (b.is_primary(first), b.is_primary(second)) == (True, False)
        for part in ("%s could not be forced" % second.split("/")[1], "forced: " + first, "failed: " + second):
            assert part in said.stderr, said
    finally:
        # what its own onemirror does about the force is for another test
        a.configure(peer_conf=a.peer_conf_with(mon_host="127.0.0.1:1"), command_timeout="8s")
        a.clusters("site-back")
        a.front_end_start()
        b.clusters("daemon-start")
    a.wait_vm(machine.home, "POWEROFF")
    wait_until("site-a to answer", lambda: a.is_primary(second) is True, 60)
    b.configure()
    b.one.vm.recover(vm, 2)
    b.settle(vm)
    assert b.state_name(vm) != RUNNING, "it runs on disks of two ages"
    assert "is not primary here, and %s was forced" % first.split("/")[1] in b.vm_log(vm)
    # what the sentence says: the forced one, on which nothing ran, is given up
    giving_up = "here: rbd mirror image demote IMAGE && rbd mirror image resync IMAGE"
    adviser.follow(b, vm, "forced-in-part", giving_up)
    assert before == a.acknowledged(machine.home)
    wait_until("both copies to follow", lambda: b.is_primary(first) is False and b.token(first) == a.token(first), 120, 1)
    a.configure()
    b.one.vm.recover(vm, 2)
    wait_until("the VM on site-b", lambda: b.state_name(vm) == RUNNING, 120, 1)
    machine.end_away(vm)
    machine.comes_home()
    machine.assert_complete(a)


@pytest.mark.parametrize("silence", ["front-end and cluster", pytest.param("link only", marks=full)])
def test_the_running_hook_stops_no_vm_that_runs_under_its_own_token(lab, a, b, silence):
    """oned fires it again after a restart; the machine was rebooted, so no contact counts, and site-b is silent."""
    machine, image = one_disk(lab, "hook", context=False)
    wait_until("the open token", lambda: ":site-a:open" in (a.token(image) or ""), 30)
    wait_until("the mark", lambda: "onemirror.booted" in a.rbd("image-meta", "list", image).stdout, 30)

    def reboot():
        for path in glob.glob(os.path.join(a.location, "var/onemirror/peer-contacts/*")):
            with open(path) as file:
                note = json.load(file)
            note["boot_id"] = "00000000-0000-4000-8000-000000000000"
            with open(path, "w") as file:
                json.dump(note, file)

    def fired():
        reboot()
        began = time.monotonic()
        ended = a.hook("running", machine.home)
        assert time.monotonic() - began < 60, "oned would have ended it before its verdict"
        return ended

    if silence == "link only":
        with a.peer_cluster_cut_off(command_timeout="8s"):
            ended = fired()
    else:
        b.front_end_kill()
        b.clusters("site-lost")
        try:
            a.configure(command_timeout="8s")
            ended = fired()
        finally:
            b.clusters("site-back")
            b.front_end_start()
    assert a.state_name(machine.home) == RUNNING, a.vm_error(machine.home)
    assert ended.returncode == 0, ended
    machine.assert_complete(a)


@full
def test_an_endpoint_that_leads_back_here_is_no_answer_of_the_other_site(lab, a, b):
    """An address that was moved when the other site was lost: its VMs would be this site's own."""
    machine = lab.vm_with_one_disk(unique("led-back"), "journal")
    (image,) = machine.images.values()
    machine.register_on_b()
    with b.peer_cluster_cut_off(command_timeout="8s"):
        with open(b.configuration) as file:
            text = file.read()
        assert a.endpoint in text
        b.write_configuration(text.replace(a.endpoint, b.endpoint))
        # as where both sites have one password
        shutil.copyfile(b.auth_file, os.path.join(b.location, "etc/peer_auth"))
        vm = machine.start_on_b(mirrored=False)
        assert b.settle(vm) == "PROLOG_FAILURE"
        said = b.onemirror("failover", vm, "--force", "--reason", "test", check=False)
        assert said.returncode == 1 and "leads to this site's own front-end" in said.stderr, said.stderr
        assert not b.is_primary(image)
    assert a.state_name(machine.home) == "RUNNING"
