"""What a site had written and not sent when the other one took over is kept, until an operator drops it."""
import contextlib
import json
import os
import shutil

import pytest
from conftest import full
from harness.laboratory import Machine, unique, wait_until


def mirrored_machine(lab, name, kind):
    """A VM at home, copied to the recovery site; `kind` names a mode, or all of them."""
    machine = lab.vm_with_three_disks(unique(name)) if kind == "all" else lab.vm_with_one_disk(unique(name), kind)
    machine.register_on_b()
    lab.a.wait_records(machine.home)
    return machine


def write_unsent(lab, machine):
    """Has home's VM write records that nobody else gets: the recovery site's daemon is stopped."""
    # a copy without a token may be half copied, and is not had by force
    for image in machine.images.values():
        wait_until("the token of %s on site-b" % image, lambda image=image: lab.b.token(image) == lab.a.token(image))
    lab.b.clusters("daemon-stop")
    with open(lab.a.acknowledged(machine.home)[-1]) as log:
        sent = len(log.readlines())
    lab.a.wait_records(machine.home, sent + 20)


@contextlib.contextmanager
def home_lost_with_records_unsent(lab, machine):
    """Home goes down with records that nobody else has, and comes back."""
    a, b = lab.a, lab.b
    write_unsent(lab, machine)
    a.front_end_kill()
    a.clusters("site-lost")
    a.kill_domains()
    try:
        yield
    finally:
        a.clusters("site-back")
        a.front_end_start()
        b.clusters("daemon-start")


def forced_over(lab, machine):
    """`failover --force` on the recovery site; the VM runs there, and writes."""
    b = lab.b
    vm = machine.start_on_b(mirrored=False)
    assert b.settle(vm) == "PROLOG_FAILURE"
    b.onemirror("failover", vm, "--force", "--reason", "test")
    b.wait_vm(vm, "RUNNING")
    b.wait_records(vm)
    return vm


def forced_while_home_was_away(lab, machine):
    """Home is back, with its records that nobody else has; the VM that runs on the recovery site instead."""
    with home_lost_with_records_unsent(lab, machine):
        vm = forced_over(lab, machine)
    lab.a.wait_vm(machine.home, "POWEROFF")
    return vm


def names(site, image):
    """Everything in the image's pool that bears its name, or one that begins with it."""
    pool, name = image.split("/")
    listed = json.loads(site.rbd("ls", pool, "--format", "json").stdout)
    return [pool + "/" + found for found in listed if found == name or found.startswith(name + ".")]


def is_somewhere(lab, machine, image):
    """Whether every record that home's VM was told is written is on some image of some site."""
    logs = lab.a.acknowledged(machine.home)
    found = [(site, name) for site in lab.sites for name in names(site, image)]
    return any(site.check_records(name, logs, written_as=image)["ok"] for site, name in found)


def copied_back(lab, machine):
    """Reconcile at home until its copies follow the other site's."""
    def follows():
        lab.a.reconcile(check=False)
        return all(lab.a.token(image) == lab.b.token(image) for image in machine.images.values())
    wait_until("home to follow", follows, 120, 1)
    assert set(machine.primaries().values()) == {"b"}


def lost_of(site, machine):
    images = machine.images.values()
    return [lost for lost in json.loads(site.onemirror("lost", "list", "-j").stdout) if lost["of"] in images]


@pytest.mark.parametrize("kind", ["all", pytest.param("journal", marks=full), pytest.param("snapshot", marks=full)])
def test_what_home_had_not_sent_is_kept_and_can_be_had_back(lab, a, b, kind):
    machine = mirrored_machine(lab, "unsent", kind)
    vm = forced_while_home_was_away(lab, machine)
    unsent = a.acknowledged(machine.home)
    copied_back(lab, machine)
    for image in machine.images.values():
        assert is_somewhere(lab, machine, image), image

    lost = lost_of(a, machine)
    assert {found["of"] for found in lost} == set(machine.images.values())
    assert len({found["since"] for found in lost}) == 1
    assert {found["vm"] for found in lost} == {machine.home}
    for found in lost:
        info = a.info(found["image"])
        assert "mirroring" not in info and "journaling" not in info["features"], info
        assert a.check_records(found["image"], unsent, written_as=found["of"])["ok"]
        assert found["size"] > 0 and found["registered"] is None
    assert lost[0]["image"] in a.onemirror("list", check=False).stdout
    assert [entry for entry in a.audit() if entry.get("step") == "set-aside" and entry["image"] == lost[0]["of"]]
    assert lost_of(b, machine) == []

    machine.may_lose_tail += unsent
    machine.end_away(vm)
    machine.comes_home()
    machine.assert_complete(a)
    if kind == "all":
        outlives_its_base(a, machine, lost)
    restore_and_drop(a, machine, lost, unsent)


def outlives_its_base(a, machine, lost):
    """What was set aside of a clone is a clone, too: the stock driver would delete it with the base."""
    a.action("terminate", machine.home)
    a.wait_vm(machine.home, "DONE")
    base = next(image.ID for image in a.one.imagepool.info(-2, -1, -1).IMAGE if image.NAME == machine.name + "-base")
    assert a.image_delete(base) is None
    assert [found["image"] for found in lost if a.info(found["image"]) is None] == []


def restore_and_drop(a, machine, lost, unsent):
    """The first one becomes an image of its own, once; it is dropped by nobody then. The others go, and only they."""
    first, *others = [found["image"] for found in lost]
    for _ in range(2):
        said = a.onemirror("lost", "restore", first).stdout
        image = int(said.split(" is image ")[1].split()[0])
        assert a.source(image) == first
    refused = a.onemirror("lost", "drop", first, "--yes", check=False)
    assert refused.returncode != 0 and "; to delete it: oneimage delete " in refused.stderr, refused.stderr
    assert "onemirror" not in a.rbd("image-meta", "list", first).stdout
    vm = a.vm_create(unique("reader"), [image])
    a.wait_vm(vm, "RUNNING")
    assert a.check_records(first, unsent, written_as=lost[0]["of"])["ok"]
    a.action("terminate-hard", vm)
    a.wait_vm(vm, "DONE")
    before = set(names(a, machine.images[0]))
    for other in others:
        assert a.onemirror("lost", "drop", other, check=False).returncode == 2
        assert a.info(other)
        a.onemirror("lost", "drop", other, "--yes")
        assert a.info(other) is None
    for verb in (["drop", machine.images[0], "--yes"], ["restore", machine.images[0]]):
        refused = a.onemirror("lost", *verb, check=False)
        assert refused.returncode != 0 and "is no copy that was set aside" in refused.stderr, refused.stderr
    assert set(names(a, machine.images[0])) == before - set(others)


@full
def test_a_copy_whose_every_write_had_arrived_is_not_kept(lab, a, b):
    machine = mirrored_machine(lab, "sent", "journal")
    (image,) = machine.images.values()
    a.action("poweroff", machine.home)
    a.wait_vm(machine.home, "POWEROFF")

    def is_sent():
        clients = json.loads(a.rbd("journal", "status", "--image", image, "--pool", "one", "--format", "json").stdout)
        places = [client["commit_position"]["object_positions"] for client in clients["registered_clients"]]
        return len(places) == 2 and places[0] == places[1]
    wait_until("everything to arrive", is_sent, 60, 0.5)
    a.front_end_kill()
    a.clusters("site-lost")
    try:
        vm = forced_over(lab, machine)
    finally:
        a.clusters("site-back")
        a.front_end_start()
    copied_back(lab, machine)
    assert names(a, image) == [image]
    machine.end_away(vm)
    machine.comes_home()
    machine.assert_complete(a)


def quota(site, pool, more):
    """Leaves room for as many more bytes in the pool; 0 ends that."""
    stats = json.loads(site.ceph("df", "--format", "json").stdout)["pools"]
    (stored,) = (found["stats"]["stored"] for found in stats if found["name"] == pool)
    site.ceph("osd", "pool", "set-quota", pool, "max_bytes", str(stored + more if more else 0))


@full
def test_without_room_for_one_more_copy_nothing_is_thrown_away(lab, a, b):
    machine = mirrored_machine(lab, "crowded", "journal")
    (image,) = machine.images.values()
    a.control("hooks=lose")
    vm = forced_while_home_was_away(lab, machine)
    copy = a.info(image)["id"]
    quota(a, "one", 4 << 20)
    try:
        said = a.onemirror("reconcile", check=False)
        assert said.returncode != 0 and "make room in pool one for one more copy" in said.stdout, said.stdout
        assert a.resume(machine.home) == "POWEROFF"
        assert "is stale here: site-b took it over by force" in a.vm_error(machine.home)
        assert "make room in pool one" in a.onemirror("list", check=False).stdout
        assert a.info(image)["id"] == copy and machine.primaries() == {image: "ab"}
    finally:
        quota(a, "one", 0)
    copied_back(lab, machine)
    assert is_somewhere(lab, machine, image)
    machine.may_lose_tail += a.acknowledged(machine.home)
    machine.end_away(vm)
    machine.comes_home()
    machine.assert_complete(a)


@full
def test_no_disk_is_copied_back_while_another_one_of_its_vm_cannot_be_kept(lab, a, b):
    """What home holds has to stay of one age, should the other site be lost for good now."""
    name = unique("together")
    disks = [a.image_create("%s-%d" % (name, number), pool, True) for number, pool in enumerate(("one", "two"))]
    a.rbd("mirror", "image", "enable", a.source(disks[1]), "journal")
    machine = Machine(lab, name, a.vm_create(name, disks))
    machine.register_on_b()
    a.wait_records(machine.home)
    images = list(machine.images.values())
    a.control("hooks=lose")
    vm = forced_while_home_was_away(lab, machine)
    copies = [a.info(image)["id"] for image in images]
    quota(a, "two", 1 << 20)
    try:
        for _ in range(2):
            said = a.onemirror("reconcile", check=False)
            assert said.returncode != 0 and "make room in pool two for one more copy" in said.stdout, said.stdout
            assert "it waits for another disk of its VM" in said.stdout, said.stdout
            assert a.resume(machine.home) == "POWEROFF"
            assert [a.info(image)["id"] for image in images] == copies
            assert machine.primaries() == dict.fromkeys(images, "ab")
    finally:
        quota(a, "two", 0)
        a.control("hooks=deliver")
    copied_back(lab, machine)
    assert all(is_somewhere(lab, machine, image) for image in images)
    machine.may_lose_tail += a.acknowledged(machine.home)
    machine.end_away(vm)
    machine.comes_home()
    machine.assert_complete(a)


@contextlib.contextmanager
def killed_at(lab, words):
    """Whoever calls rbd with these words is killed before it does anything; tells whether that has happened."""
    folder = os.path.join(lab.root, "killers")
    os.makedirs(folder, exist_ok=True)
    program = os.path.join(folder, "rbd")
    with open(program, "w") as file:
        file.write("""#!/bin/sh
case "$*" in %s) touch "$0.killed"; kill -9 $PPID; exit 1 ;; esac
PATH=${PATH#*:} exec rbd "$@"
""" % words)
    os.chmod(program, 0o755)
    mark = program + ".killed"
    lab.programs.insert(0, folder)
    try:
        yield lambda: os.path.exists(mark)
    finally:
        lab.programs.remove(folder)
        # front-ends that were started meanwhile keep the folder in mind
        shutil.rmtree(folder)


@full
@pytest.mark.parametrize("mode", ["journal", "snapshot"])
@pytest.mark.parametrize("words", ["*rename*", "*'mirror image disable'*"])
def test_a_run_that_was_killed_while_it_set_a_copy_aside_is_ended_by_the_next(lab, a, b, mode, words):
    machine = mirrored_machine(lab, "killed", mode)
    (image,) = machine.images.values()
    with killed_at(lab, words) as is_killed:
        vm = forced_while_home_was_away(lab, machine)
        # the timer's run, or that of a hook
        wait_until("a run to be killed", lambda: a.reconcile(check=False) and is_killed(), 60, 0.5)
    copied_back(lab, machine)
    assert is_somewhere(lab, machine, image)
    (lost,) = lost_of(a, machine)
    assert "mirroring" not in a.info(lost["image"])
    machine.may_lose_tail += a.acknowledged(machine.home)
    machine.end_away(vm)
    machine.comes_home()
    machine.assert_complete(a)


@full
@pytest.mark.parametrize("mode", ["journal", "snapshot"])
def test_a_stale_copy_that_was_demoted_by_hand_is_kept_too(lab, a, b, mode):
    machine = mirrored_machine(lab, "demoted", mode)
    (image,) = machine.images.values()
    a.control("hooks=lose")
    vm = forced_while_home_was_away(lab, machine)
    a.rbd("mirror", "image", "demote", image)
    copied_back(lab, machine)
    assert is_somewhere(lab, machine, image)
    machine.may_lose_tail += a.acknowledged(machine.home)
    machine.end_away(vm)
    machine.comes_home()
    machine.assert_complete(a)


@full
def test_a_kept_copy_is_dropped_after_its_days_and_not_by_a_clock(lab, a, b):
    machine = mirrored_machine(lab, "days", "journal")
    vm = forced_while_home_was_away(lab, machine)
    copied_back(lab, machine)
    machine.may_lose_tail += a.acknowledged(machine.home)
    (lost,) = lost_of(a, machine)
    a.configure(drop_lost_after="2d")
    for _ in range(3):
        a.reconcile(check=False)
    days = a.rbd("image-meta", "get", lost["image"], "onemirror.lost-days").stdout.split()
    assert days[0] == "0"
    # years ahead, and back: one day more
    a.rbd("image-meta", "set", lost["image"], "onemirror.lost-days", "0 2020-01-01")
    for _ in range(3):
        a.reconcile(check=False)
    assert a.rbd("image-meta", "get", lost["image"], "onemirror.lost-days").stdout.split()[0] == "1"
    a.rbd("image-meta", "set", lost["image"], "onemirror.lost-days", "1 2020-01-01")
    a.reconcile(check=False)
    assert a.info(lost["image"]) is None
    assert [entry for entry in a.audit() if entry.get("step") == "lost-drop" and entry["image"] == lost["image"]]
    machine.end_away(vm)
    machine.comes_home()
    machine.assert_complete(a)


# ---------------------------------------------------------------- a force that no VM followed


@contextlib.contextmanager
def no_host(site):
    """No VM finds a host there."""
    (host,) = site.one.hostpool.info().HOST
    site.one.host.delete(host.ID)
    try:
        yield
    finally:
        site.one.host.allocate(host.NAME, "kvm", "kvm", -1)


@pytest.mark.parametrize("mode", ["journal", pytest.param("snapshot", marks=full)])
def test_a_force_that_no_vm_followed_costs_home_nothing(lab, a, b, mode):
    """The forced VM finds no host and stays PENDING; home comes back, and has written more than the other site knows."""
    machine = mirrored_machine(lab, "unfollowed", mode)
    (image,) = machine.images.values()
    with no_host(b):
        with home_lost_with_records_unsent(lab, machine):
            vm = machine.start_on_b(mirrored=False)
            b.wait_vm(vm, "PENDING")
            b.onemirror("failover", vm, "--force", "--reason", "test")
        a.wait_vm(machine.home, "POWEROFF")
        # as often as it takes to copy the one over the other
        for site in lab.sites * 3:
            site.reconcile(check=False)
        assert is_somewhere(lab, machine, image)
        assert machine.primaries() == {image: "ab"}
        assert "no VM was booted there" in a.onemirror("list", check=False).stdout
        b.action("terminate", vm)
        b.wait_vm(vm, "DONE")
    machine.vms_b.clear()
    assert a.resume(machine.home) == "RUNNING", a.vm_error(machine.home)
    a.wait_records(machine.home)

    def follows():
        b.reconcile(check=False)
        return b.token(image) == a.token(image) and machine.primaries() == {image: "a"}
    wait_until("site-b to follow", follows, 120, 1)
    # no mark of a boot is no proof that nothing was written
    assert [lost["of"] for lost in lost_of(b, machine)] == [image]
    machine.assert_complete(a)


@contextlib.contextmanager
def cut_off_after(lab, site, words):
    """The cluster of that site answers to the other one until it is called with these words, which it still obeys."""
    folder = os.path.join(lab.root, "link")
    os.makedirs(folder, exist_ok=True)
    for program in ("rbd", "rados", "ceph"):
        path = os.path.join(folder, program)
        with open(path, "w") as file:
            file.write("""#!/bin/sh
cut=$(dirname "$0")/cut
PATH=${PATH#*:}
case "$*" in *%s*) ;; *) exec %s "$@" ;; esac
[ ! -e "$cut" ] || exit 110
case "$*" in %s) %s "$@"; status=$?; : > "$cut"; exit $status ;; esac
exec %s "$@"
""" % (site.conf, program, words, program, program))
        os.chmod(path, 0o755)
    lab.programs.insert(0, folder)
    try:
        yield os.path.join(folder, "cut")
    finally:
        lab.programs.remove(folder)
        shutil.rmtree(folder)


@full
@pytest.mark.parametrize("mode", ["journal", "snapshot"])
def test_a_copy_that_was_given_up_to_a_force_in_vain_keeps_its_newest_writes(lab, a, b, mode):
    """Home's front-end is silent, its copy is demoted, and then the link breaks: forced without home's last writes. No VM follows."""
    machine = mirrored_machine(lab, "vain", mode)
    (image,) = machine.images.values()
    write_unsent(lab, machine)
    a.front_end_kill()
    with no_host(b):
        try:
            vm = machine.start_on_b(mirrored=False)
            b.wait_vm(vm, "PENDING")
            with cut_off_after(lab, a, "*demote*") as cut:
                said = b.onemirror("failover", vm, "--force", "--reason", "test", check=False)
                assert os.path.exists(cut), said
            assert machine.primaries() == {image: "b"}, said
        finally:
            a.kill_domains()
            a.front_end_start()
            b.clusters("daemon-start")
            b.configure()
        a.wait_vm(machine.home, "POWEROFF")
        for site in lab.sites * 3:
            site.reconcile(check=False)
        assert is_somewhere(lab, machine, image)
        b.action("terminate", vm)
        b.wait_vm(vm, "DONE")
    machine.vms_b.clear()
    assert a.resume(machine.home) == "RUNNING", a.vm_error(machine.home)
    machine.assert_complete(a)


# ---------------------------------------------------------------- gone here, and the other site is lost


RESTORED = ("here: onemirror lost restore IMAGE && onevm disk-detach N N, once off: onevm disk-attach N --image NAME, "
            "once off: onevm resume N")


@full
@pytest.mark.advice("absent-peer-unreachable", "here: onemirror lost restore IMAGE && onevm disk-detach N N, once off: onevm disk-attach N --image NAME, once off: onevm resume N")
def test_what_was_set_aside_of_a_disk_that_is_gone_is_had_where_the_other_site_is_lost(lab, a, b, adviser):
    machine = mirrored_machine(lab, "gone", "journal")
    (image,) = machine.images.values()
    a.control("hooks=lose")
    with home_lost_with_records_unsent(lab, machine):
        forced_over(lab, machine)
        a.clusters("daemon-stop")
    a.wait_vm(machine.home, "POWEROFF")
    unsent = a.acknowledged(machine.home)
    a.clusters("daemon-stop")
    wait_until("it to be set aside", lambda: a.reconcile(check=False) and lost_of(a, machine), 60, 1)
    (lost,) = lost_of(a, machine)
    b.front_end_kill()
    b.clusters("site-lost")
    b.kill_domains()
    try:
        assert a.info(image) is None
        started = a.onemirror("failover", machine.home, check=False)
        # it must not say that it started what the gate then refuses
        assert (started.returncode, a.state_name(machine.home)) == (1, "POWEROFF"), started
        forced = a.onemirror("failover", machine.home, "--force", "--reason", "test", check=False)
        assert forced.returncode == 1, forced
        listed = a.onemirror("list", check=False)
        for said in (started.stderr, forced.stderr, listed.stdout, a.onemirror("show", machine.home).stdout):
            assert "onemirror lost restore " + lost["image"] in said, said
        for said in (listed.stdout, a.onemirror("show", machine.home).stdout, a.onemirror("plan", machine.home).stdout):
            assert "OM11" in said, said
        assert listed.returncode == 3
        assert a.resume(machine.home) == "POWEROFF"
        assert a.vm_error(machine.home).count("OM11 "), a.vm_error(machine.home)
        adviser.follow(a, machine.home, "absent-peer-unreachable", RESTORED)
        a.wait_vm(machine.home, "RUNNING")
        assert a.check_records(lost["image"], unsent, written_as=lost["of"])["ok"]
    finally:
        b.clusters("site-back")
        b.front_end_start()
        a.clusters("daemon-start")


@full
def test_an_image_in_a_namespace_of_its_datastores_pool_comes_home_as_any_other(lab, a, b):
    for site in (a, b):
        site.rbd("namespace", "create", "one/tenant", check=False)
        site.rbd("mirror", "pool", "enable", "one/tenant", "pool")
    name = unique("tenant")
    image = "one/tenant/" + name
    features = "layering,exclusive-lock,object-map,fast-diff,journaling"
    a.rbd("create", "--size", "16M", "--image-feature", features, image)
    # the datastore names the pool alone
    disk = a.image_create(name, "one", True, source=image)
    machine = Machine(lab, name, a.vm_create(name, [disk]))
    machine.wait_mirrored()
    machine.registered = [b.image_create(name, "one", True, source=image)]
    a.wait_records(machine.home)
    with home_lost_with_records_unsent(lab, machine):
        vm = forced_over(lab, machine)
        b.action("terminate", vm)
        wait_until("it to be told as pending", lambda: image in b.onemirror("list", check=False).stdout, 60, 1)
    a.wait_vm(machine.home, "POWEROFF")
    unsent = a.acknowledged(machine.home)

    def is_home():
        for site in (a, b):
            site.reconcile(check=False)
        return a.is_primary(image) and b.is_primary(image) is False

    wait_until("%s to come home" % image, is_home, 180, 2)
    (lost,) = lost_of(a, machine)
    assert lost["of"] == image and a.check_records(lost["image"], unsent, written_as=image)["ok"]
    assert a.check_records(image, b.acknowledged(vm))["ok"]
    a.onemirror("lost", "drop", lost["image"], "--yes")
    assert not lost_of(a, machine)


@full
@pytest.mark.parametrize("mode", ["journal", "snapshot"])
def test_what_was_half_set_aside_is_had_where_the_other_site_is_lost(lab, a, b, mode):
    machine = mirrored_machine(lab, "half", mode)
    (image,) = machine.images.values()
    a.control("hooks=lose")
    with killed_at(lab, "*'mirror image disable'*") as is_killed:
        forced_while_home_was_away(lab, machine)
        a.clusters("daemon-stop")
        wait_until("a reconcile to be killed", lambda: a.reconcile(check=False) and is_killed(), 60, 1)
    unsent = a.acknowledged(machine.home)
    b.front_end_kill()
    b.clusters("site-lost")
    b.kill_domains()
    try:
        (lost,) = lost_of(a, machine)
        for verb in (["restore"], ["drop", "--yes"]):
            refused = a.onemirror("lost", *verb, lost["image"], check=False)
            assert refused.returncode == 1, refused
        command = refused.stderr.strip().rpartition("if site-b is lost for good: ")[2]
        a.rbd(*command.split()[1:])
        a.onemirror("lost", "restore", lost["image"])
        assert a.check_records(lost["image"], unsent, written_as=image)["ok"]
    finally:
        b.clusters("site-back")
        b.front_end_start()
        a.clusters("daemon-start")
        a.control("hooks=deliver")


@full
def test_what_is_lost_twice_within_a_day_is_two_sets(lab, a, b):
    machine = mirrored_machine(lab, "twice", "all")
    images = set(machine.images.values())

    def lose():
        vm = forced_while_home_was_away(lab, machine)
        copied_back(lab, machine)
        machine.may_lose_tail += a.acknowledged(machine.home)
        return vm
    machine.end_away(lose())
    machine.comes_home()
    a.wait_records(machine.home)
    first = {lost["of"]: lost for lost in lost_of(a, machine)}
    assert set(first) == images
    restored, dropped, kept = (first[image] for image in sorted(images))
    a.onemirror("lost", "restore", restored["image"])
    a.onemirror("lost", "drop", dropped["image"], "--yes")
    machine.wait_mirrored()
    # the timer does what the hook should have done
    a.control("hooks=lose")
    lose()
    found = lost_of(a, machine)
    second = [lost for lost in found if lost["image"] != kept["image"]]
    assert sorted(lost["of"] for lost in second) == sorted(images), found
    assert len({lost["since"] for lost in second}) == 1, found
    assert len({lost["since"] for lost in found}) == 2, found
    assert set(machine.primaries().values()) == {"b"}
