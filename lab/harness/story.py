"""The main job, told on real parts: a site is lost, its VM goes on elsewhere, and comes home with every byte."""
import json
import time

from .advice import Adviser
from .laboratory import wait_until


class Timeline:
    """What happened where and when; printed as it happens."""

    def __init__(self, out=print):
        self.begun, self.out = time.monotonic(), out
        self.out("%8s  %-7s %s" % ("SECONDS", "SITE", "STEP"))

    def step(self, site, text):
        self.out("%8.1f  %-7s %s" % (time.monotonic() - self.begun, site, text))


class Timer:
    """A condition, and the reconcile run that cron starts on a site from time to time while it is awaited."""

    INTERVAL = 15

    def __init__(self, site, condition):
        self.site, self.condition, self.due = site, condition, time.monotonic() + self.INTERVAL

    def __call__(self):
        if self.condition():
            return True
        if time.monotonic() > self.due:
            self.site.reconcile(check=False)
            self.due = time.monotonic() + self.INTERVAL
        return False


def follows(lab, machine):
    return all(lab.a.token(image) == lab.b.token(image) for image in machine.images.values())


def tell(lab, out=print, adviser=None):
    """Runs the story and checks its end; raises AssertionError where onemirror broke its word."""
    adviser = adviser or Adviser(lab)
    a, b = lab.a, lab.b
    line = Timeline(out)
    name = "story-%d" % time.time()
    machine = lab.vm_with_three_disks(name)
    line.step("site-a", "VM %d runs on %s" % (machine.home, ", ".join(machine.images.values())))
    machine.register_on_b()
    a.wait_records(machine.home, 60)
    line.step("site-b", "has copies of its three disks")

    before = a.acknowledged(machine.home)
    a.front_end_kill()
    a.clusters("site-lost")
    a.kill_domains()
    machine.may_lose_tail += before
    line.step("site-a", "is lost in the middle of its writes: front-end, rbd-mirror, monitor, hosts")

    vm = machine.start_on_b()
    state = b.settle(vm)
    assert state == "PROLOG_FAILURE", "a boot on copies that are not primary was not refused: %s" % state
    line.step("site-b", "refuses to boot VM %d: %s" % (vm, b.vm_error(vm)))
    # what the refusal tells an operator to type
    adviser.follow(b, vm, "non-primary-peer-unreachable", "here: onemirror failover N --force --reason TEXT")
    b.wait_vm(vm, "RUNNING")
    assert set(b.is_primary(image) for image in machine.images.values()) == {True}
    line.step("site-b", "failover --force: VM %d runs" % vm)
    b.wait_records(vm, 30)
    for verdict in machine.verdicts(b):
        # the writer goes on meanwhile: only what the lost site wrote can be judged now
        assert all(log["lost_is_tail"] for log in verdict["may_lose_tail"]), json.dumps(verdict, indent=1)
        lost = sum(log["lost"] for log in verdict["may_lose_tail"])
        line.step("site-b", "%s: %d records, %d had not been replicated" % (verdict["image"], verdict["records"], lost))

    a.clusters("site-back")
    a.front_end_start()
    line.step("site-a", "is back")
    a.wait_vm(machine.home, "POWEROFF")
    assert a.resume(machine.home) == "POWEROFF", "a stale copy was booted"
    line.step("site-a", "onevm resume is refused: " + a.vm_error(machine.home))
    wait_until("the copies at home to follow again", Timer(a, lambda: follows(lab, machine)), 180, 0.5)
    assert not any(a.is_primary(image) for image in machine.images.values())
    line.step("site-a", "was demoted and copied again; nobody asked for it")

    b.wait_records(vm, 60)
    b.action("terminate", vm)
    state = b.settle(vm)
    assert state == "DONE", b.vm_error(vm)
    line.step("site-b", "onevm terminate: VM %d is %s" % (vm, state))
    wait_until("the VM to run at home", Timer(b, lambda: a.state_name(machine.home) == "RUNNING"), 180, 0.5)
    line.step("site-a", "VM %d runs again" % machine.home)
    a.wait_records(machine.home, 10)
    a.action("poweroff", machine.home)
    a.wait_vm(machine.home, "POWEROFF")
    for verdict in machine.verdicts(a):
        assert verdict["ok"], json.dumps(verdict, indent=1)
        line.step(
            "site-a",
            "%s: %d records in order; %d acknowledged on both sites since the failover, %d lost"
            % (verdict["image"], verdict["records"], verdict["acknowledged"], verdict["lost"]),
        )
    return machine
