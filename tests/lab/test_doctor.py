"""Everything that onemirror doctor looks at, broken on purpose, found, and put right again."""
import contextlib
import json
import os
import shutil

import pytest
from conftest import full
from harness.laboratory import LAB, LIBFAKETIME, LabError, wait_until

# they share a world, so they share a lab
pytestmark = pytest.mark.xdist_group("doctor")

NOT_LOOKED_AT = "not looked at, see the failures"
SETTINGS = {"rbd_mirror_journal_poll_age": "1"}
DELETE_DELAY = "rbd_mirroring_delete_delay"


class World:
    """Two healthy sites: a VM with three disks at home, another on hold for them on the recovery site."""

    def __init__(self, lab):
        self.lab, self.a, self.b = lab, lab.a, lab.b
        self.machine = lab.vm_with_three_disks("watched")
        self.machine.register_on_b()
        self.waiting = self.b.one.vm.allocate(template(self.machine.registered), True)
        for site in lab.sites:
            for key, value in SETTINGS.items():
                site.rbd("config", "global", "set", "client", key, value)
            for pool in ("one", "two", "three"):
                site.rbd("config", "pool", "set", pool, DELETE_DELAY, "86400")
            site.rbd("mirror", "snapshot", "schedule", "add", "--pool", "two", "1d")
        self.a.configure(command_timeout="5s")
        self.a.reconcile()

    def findings(self):
        result = self.a.onemirror("doctor", "-j", check=False)
        found = json.loads(result.stdout)
        levels = {finding["level"] for finding in found}
        assert result.returncode == (3 if "failure" in levels else 1 if "warning" in levels else 0)
        return found

    def wrong(self):
        """check → its findings, of all that is not as it should be."""
        wrong = {}
        for finding in self.findings():
            if finding["level"] != "ok" and finding["text"] != NOT_LOOKED_AT:
                wrong.setdefault(finding["check"], []).append(finding)
        return wrong

    def vm(self, disks, **options):
        """Another VM at home, which nobody waits for on the other site; gone at the end."""
        vm = self.a.vm_create("broken", disks, **options)
        self.a.wait_vm(vm, "RUNNING")
        return vm

    def image(self, mirrored=True):
        """An image in the pool where each is mirrored on demand."""
        image = self.a.image_create("broken-" + os.urandom(3).hex(), "two", True)
        source = self.a.source(image)
        if mirrored:
            self.a.rbd("mirror", "image", "enable", source, "snapshot")
            self.b.wait_replaying(source)
        return image, source

    def remove(self, vm, *images):
        self.a.action("terminate", vm)
        self.a.wait_vm(vm, "DONE")
        for image in images:
            source = self.a.source(image)
            self.a.one.image.delete(image)
            wait_until("image %d to be deleted" % image, lambda: self.a.info(source) is None, 60)


def template(images, context='CONTEXT=[NETWORK="YES"]\n'):
    return 'NAME="waiting"\nCPU="0.1"\nMEMORY="96"\n' + context + "".join('DISK=[IMAGE_ID="%d"]\n' % image for image in images)


@pytest.fixture(scope="module")
def world(lab):
    world = World(lab)
    yield world
    for site in lab.sites:
        for key in SETTINGS:
            site.rbd("config", "global", "remove", "client", key)
        for pool in ("one", "two", "three"):
            site.rbd("config", "pool", "remove", pool, DELETE_DELAY)
        site.rbd("mirror", "snapshot", "schedule", "remove", "--pool", "two", "1d")
    lab.clear()


@pytest.fixture(autouse=True)
def reachable(world):
    """Short deadlines, because several of these cases are about somebody who does not answer; and a timer that runs."""
    world.a.configure(command_timeout="5s")
    world.a.reconcile()


# ---------------------------------------------------------------- what can be broken: each breaks, and puts it right


@contextlib.contextmanager
def configuration(world):
    world.a.write_configuration("nonsense")
    yield
    world.a.configure(command_timeout="5s")


@contextlib.contextmanager
def readable_credentials(world):
    path = os.path.join(world.a.location, "etc/peer_auth")
    os.chmod(path, 0o644)
    yield
    os.chmod(path, 0o600)


@contextlib.contextmanager
def configured(world, old, new):
    with open(world.a.configuration) as file:
        text = file.read()
    assert old in text
    world.a.write_configuration(text.replace(old, new))
    yield
    world.a.write_configuration(text)


def plain_http(world):
    return configured(world, world.b.endpoint, "http://one-b.invalid:2633/RPC2")


def wrong_name(world):
    return configured(world, 'name = "site-b"', 'name = "site-c"')


@contextlib.contextmanager
def switched_off(world):
    world.a.onemirror("off", "--reason", "test")
    yield
    world.a.onemirror("on")


@contextlib.contextmanager
def overwritten_wrapper(world):
    name = "tm/ceph/mvds"
    shutil.copy(os.path.join(LAB, "remotes", name), os.path.join(world.a.location, "var/remotes", name))
    yield
    world.a.setup("--repair", "--no-timer")


@contextlib.contextmanager
def failing_hook(world):
    a, vm = world.a, world.machine.home
    a.write_configuration("nonsense")
    a.action("poweroff", vm)
    a.wait_vm(vm, "POWEROFF")
    hook = next(hook.ID for hook in a.one.hookpool.info().HOOK if hook.NAME == "onemirror-poweroff")

    def last_status():
        records = a.one.hook.info(hook).HOOKLOG.HOOK_EXECUTION_RECORD
        last = max(records, key=lambda record: record.EXECUTION_ID, default=None)
        return last and int(last.EXECUTION_RESULT.CODE)

    wait_until("the hook to fail", lambda: last_status() not in (None, 0))
    a.configure(command_timeout="5s")
    yield
    assert a.resume(vm) == "RUNNING"
    a.action("poweroff", vm)
    a.wait_vm(vm, "POWEROFF")
    wait_until("the hook to succeed", lambda: last_status() == 0)
    assert a.resume(vm) == "RUNNING"


@contextlib.contextmanager
def no_reconcile(world):
    os.remove(os.path.join(world.a.location, "var/onemirror/reconciled"))
    yield
    world.a.reconcile()


@contextlib.contextmanager
def dead_front_end(site):
    site.front_end_kill()
    yield
    site.front_end_start()


@contextlib.contextmanager
def several_servers(world):
    world.a.control("servers=3")
    yield
    world.a.control("servers=0")


@contextlib.contextmanager
def fast_clock(world):
    variables = {"LD_PRELOAD": LIBFAKETIME, "FAKETIME": "+60s", "DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    world.b.front_end_kill()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        world.b.front_end_start()
    yield
    world.b.front_end_kill()
    world.b.front_end_start()


@contextlib.contextmanager
def without_rights(site, user):
    """The user may look and not touch."""
    (before,) = json.loads(site.ceph("auth", "get", user, "--format", "json").stdout)
    words = [word for of, may in before["caps"].items() for word in (of, may)]
    site.ceph("auth", "caps", user, "mon", "profile rbd-read-only", "osd", "profile rbd-read-only", "mgr", "profile rbd-read-only")
    yield
    site.ceph("auth", "caps", user, *words)


@contextlib.contextmanager
def silent_monitor(site):
    site.lab.run_clusters("monitor-stop", "--site", site.name, "--signal", "STOP")
    yield
    site.clusters("monitor-start")


@contextlib.contextmanager
def one_direction(world):
    (peer,) = json.loads(world.a.rbd("mirror", "pool", "info", "one", "--format", "json").stdout)["peers"]
    # the other site's daemon tells of itself now and then, which makes rx-tx of it again
    yield lambda: world.a.rbd("mirror", "pool", "peer", "set", "one", peer["uuid"], "direction", "rx-only")
    world.a.rbd("mirror", "pool", "peer", "set", "one", peer["uuid"], "direction", "rx-tx")


@contextlib.contextmanager
def no_daemon(site):
    site.lab.run_clusters("daemon-stop", "--site", site.name, "--signal", "TERM")
    yield
    site.clusters("daemon-start")


@contextlib.contextmanager
def slow_polls(world):
    (key, value), = SETTINGS.items()
    world.b.rbd("config", "global", "remove", "client", key)
    yield
    world.b.rbd("config", "global", "set", "client", key, value)


@contextlib.contextmanager
def no_delay(world):
    world.b.rbd("config", "pool", "remove", "one", DELETE_DELAY)
    yield
    world.b.rbd("config", "pool", "set", "one", DELETE_DELAY, "86400")


@contextlib.contextmanager
def no_context(world):
    image, _ = world.image()
    vm = world.vm([image], context=False)
    yield
    world.remove(vm, image)


@contextlib.contextmanager
def half_mirrored(world):
    (one, _), (other, _) = world.image(), world.image(mirrored=False)
    vm = world.vm([one, other])
    yield
    world.remove(vm, one, other)


@contextlib.contextmanager
def no_schedule(world):
    schedule = ["--pool", "two", "1d"]
    world.a.rbd("mirror", "snapshot", "schedule", "remove", *schedule)
    yield
    world.a.rbd("mirror", "snapshot", "schedule", "add", *schedule)


@contextlib.contextmanager
def no_counterpart(world):
    image, _ = world.image()
    vm = world.vm([image])
    yield
    world.remove(vm, image)


@contextlib.contextmanager
def no_copy(world):
    """Another image of that name is in the way."""
    image, source = world.image(mirrored=False)
    world.b.rbd("create", "--size", "16M", source)
    world.a.rbd("mirror", "image", "enable", source, "snapshot")
    vm = world.vm([image])
    yield
    world.b.rbd("rm", source)
    world.b.wait_replaying(source)
    world.remove(vm, image)


@contextlib.contextmanager
def one_pool_for_both(world):
    """Each site makes a disk in the same pool; under two names, as it happens."""
    made = []
    for site in (world.a, world.b):
        vm, taken = None, {None, *(other for _, other in made)}
        while vm in taken:
            vm = site.one.vm.allocate('NAME="volatile"\nCPU="0.1"\nMEMORY="96"\nDISK=[TYPE="fs",SIZE="8"]\n', True)
        made.append((site, vm))
        site.action("release", vm)
        site.wait_vm(vm, "RUNNING")
    yield
    for site, vm in made:
        site.action("terminate-hard", vm)
        site.wait_vm(vm, "DONE")


@contextlib.contextmanager
def parent_without_mirroring(world):
    a = world.a
    base = a.image_create("base-" + os.urandom(3).hex(), "one", False)
    vm = world.vm([base])
    (clone,) = a.vm_images(vm).values()
    world.b.wait_replaying(clone)
    # as somebody does it who wants no mirror of what never changes
    a.rbd("feature", "disable", a.source(base), "journaling")
    yield
    a.rbd("flatten", clone)
    world.remove(vm, base)


@contextlib.contextmanager
def gone_apart(world):
    image, source = world.image()
    vm = world.vm([image])
    world.b.rbd("mirror", "image", "promote", "--force", source)
    # neither copy is the other one's past any more
    for _ in range(2):
        world.a.rbd("mirror", "image", "snapshot", source)
    world.b.rbd("mirror", "image", "demote", source)
    wait_until("the split brain", lambda: "split-brain" in world.b.status(source).get("description", ""), 120, 0.5)
    yield
    world.b.rbd("mirror", "image", "resync", source)
    world.b.wait_replaying(source)
    world.remove(vm, image)


# what is broken, the check that finds it, how bad it is, a word of its fix, and which other checks may say something
CASES = [
    (configuration, "configuration", "failure", "onemirror setup --role", ()),
    (readable_credentials, "credentials", "failure", "600", ("front-end-there",)),
    (plain_http, "encryption", "warning", "TLS", ("front-end-there",)),
    (switched_off, "switch", "failure", "onemirror on", ()),
    (overwritten_wrapper, "setup", "failure", "--repair", ()),
    (failing_hook, "hooks", "warning", "onehook show onemirror-poweroff", ()),
    (no_reconcile, "reconcile", "failure", "onemirror-reconcile.timer", ()),
    (lambda world: dead_front_end(world.a), "front-end-here", "failure", "site.endpoint", ("setup",)),
    (lambda world: dead_front_end(world.b), "front-end-there", "failure", "peer.endpoint", ()),
    (several_servers, "servers", "advice", "each of them", ()),
    (fast_clock, "clock", "warning", "chronyc", ()),
    (lambda world: without_rights(world.a, "client.libvirt"), "cluster-here", "failure", "ceph auth caps client.libvirt", ()),
    (lambda world: without_rights(world.b, "client.rbd-mirror-peer"), "cluster-there", "failure",
     "ceph auth caps client.rbd-mirror-peer", ()),
    (lambda world: silent_monitor(world.a), "cluster-here", "failure", "monitors", ()),
    (lambda world: silent_monitor(world.b), "cluster-there", "failure", "monitors", ()),
    (one_direction, "mirroring", "failure", "--direction rx-tx", ()),
    (wrong_name, "mirroring", "failure", "peer.name", ()),
    (lambda world: no_daemon(world.a), "daemon-here", "failure", "systemctl start", ()),
    (lambda world: no_daemon(world.b), "daemon-there", "failure", "systemctl start", ()),
    (slow_polls, "poll-interval", "advice", "rbd_mirror_journal_poll_age 1", ()),
    (no_delay, "delete-delay", "advice", DELETE_DELAY, ()),
    (no_context, "context", "warning", "onevm updateconf", ("counterparts",)),
    (half_mirrored, "disks", "warning", "rbd mirror image enable", ("counterparts",)),
    (parent_without_mirroring, "parents", "failure", "rbd mirror image enable", ("counterparts", "replication")),
    (no_counterpart, "counterparts", "warning", "on hold", ()),
    (gone_apart, "split-brain", "failure", "onemirror plan", ("counterparts",)),
    (one_pool_for_both, "names", "warning", "a pool of its own", ("context", "counterparts")),
    (no_schedule, "protection", "warning", "rbd mirror snapshot schedule add --pool two", ()),
    (no_copy, "replication", "warning", "log of rbd-mirror", ("counterparts",)),
]


# those that make VMs take half a minute each
LONG = {"context", "counterparts", "disks", "names", "parents", "split-brain", "replication"}


def cases():
    for number, case in enumerate(CASES):
        yield pytest.param(*case, id="%d-%s" % (number, case[1]), marks=[full] if case[1] in LONG else [])


def test_nothing_is_wrong_with_healthy_sites(world):
    wait_until("doctor to be content", lambda: not world.wrong(), 30)
    assert {finding["level"] for finding in world.findings()} == {"ok"}


@pytest.mark.parametrize("broken, check, level, fix, beside", list(cases()))
def test_it_finds(broken, check, level, fix, beside, world):
    case = broken(world)
    break_again = case.__enter__()
    try:
        wrong = {}

        def is_found_alone():
            if break_again:
                break_again()
            wrong.clear()
            wrong.update(world.wrong())
            return check in wrong and set(wrong) <= {check, *beside}

        # daemons report with a delay, and a busy machine may make a cluster late for once
        try:
            wait_until("doctor to find %s alone" % check, is_found_alone, 60, 0.5)
        except LabError as error:
            raise LabError("%s; it found %s" % (error, wrong)) from error
        worst = wrong[check][0]
        assert (worst["level"], fix in worst["fix"]) == (level, True), wrong
    finally:
        # put right in any case, for the sake of the next one
        case.__exit__(None, None, None)
    wait_until("doctor to be content", lambda: not world.wrong(), 120, 0.5)


def test_every_check_is_broken_once(world):
    assert {finding["check"] for finding in world.findings()} == {case[1] for case in CASES}
