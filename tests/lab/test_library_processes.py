"""Processes that stay connected to a cluster between runs: they are used, and nothing depends on them."""
import json
import os
import signal

from harness.laboratory import command_line, unique, wait_until


def told(site, vm):
    return site.onemirror("plan", vm).stdout


def runs_on_b(lab):
    machine = lab.vm_with_one_disk(unique("shared"), "journal")
    machine.register_on_b()
    lab.a.action("poweroff", machine.home)
    lab.a.wait_vm(machine.home, "POWEROFF")
    vm = machine.start_on_b()
    lab.b.wait_vm(vm, "RUNNING")
    return machine, vm


def test_runs_share_a_connection_and_do_without_where_it_hangs_or_ends(lab, a, b):
    machine, vm = runs_on_b(lab)
    (image,) = machine.images.values()
    # what a terminate would do depends on it
    wait_until("the token to be at home", lambda: a.token(image) == b.token(image))
    b.signal_library_processes(signal.SIGKILL)
    plan = told(b, vm)
    # one for each cluster
    first = sorted(wait_until("processes that stay", b.library_processes, 10))
    assert len(first) == 2
    assert told(b, vm) == plan and sorted(b.library_processes()) == first
    folder = os.path.join(b.location, "var/onemirror/librbd")
    assert os.stat(folder).st_mode & 0o077 == 0

    def connections():
        """Of those who ask them; each process has its socket, and what it listens at."""
        return [name for pid in first for name in os.listdir("/proc/%d/fd" % pid)]

    before = len(connections())
    for _ in range(5):
        told(b, vm)
    wait_until("those who asked to be gone", lambda: len(connections()) <= before, 10)

    b.signal_library_processes(signal.SIGSTOP)
    try:
        assert told(b, vm) == plan
    finally:
        b.signal_library_processes(signal.SIGCONT)
    b.signal_library_processes(signal.SIGKILL)
    assert told(b, vm) == plan
    assert not set(first) & set(wait_until("new ones", b.library_processes, 10))


def test_changes_are_made_by_those_that_stay_and_without_them(lab, a, b):
    """On site-b, whose runs give the sign of life that they hold."""
    machine, vm = runs_on_b(lab)

    def lent():
        return [pid for pid in b.library_processes() if "\0--changes\0" in command_line(pid) + "\0"]

    assert lent(), "none was lent to the gate"
    # nobody is told that a run lives which is over
    wait_until("the signs of life to be gone", lambda: not os.listdir(os.path.join(b.location, "var/onemirror/running")), 10)
    b.signal_library_processes(signal.SIGSTOP)
    try:
        b.action("poweroff", vm)
        b.wait_vm(vm, "POWEROFF")
        b.action("terminate", vm)
        b.wait_vm(vm, "DONE", timeout=60)
        machine.comes_home()
    finally:
        b.signal_library_processes(signal.SIGCONT)
    machine.assert_complete(a)


def test_one_that_stays_asks_anew_each_time(lab, b):
    machine, vm = runs_on_b(lab)
    b.action("poweroff", vm)
    b.wait_vm(vm, "POWEROFF")

    def role():
        (disk,) = json.loads(b.onemirror("show", vm, "-j").stdout)["disks"]
        return disk["here"]["role"]

    assert role() == "primary"
    stays = b.library_processes()
    assert stays
    (image,) = machine.images.values()
    b.rbd("mirror", "image", "demote", image)
    assert role() == "non-primary"
    assert set(stays) <= set(b.library_processes())
