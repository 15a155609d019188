"""What is written in an image's metadata belongs to that image, and so does its home."""
import pytest
from conftest import full
from harness.laboratory import Machine, unique, wait_until
from harness.story import Timer
from test_lost import forced_while_home_was_away, mirrored_machine


def told(site, image, what):
    """Whether `list` says that of the image."""
    return [line for line in site.onemirror("list", check=False).stdout.splitlines() if image in line.split() and what in line]


def given_up(lab, name):
    """An image that was made at home, and that site-b has given up since: primary nowhere, under site-b's closed token."""
    a, b = lab.a, lab.b
    b.configure(resume_on_peer=False)
    machine = lab.vm_with_one_disk(unique(name), "journal")
    machine.register_on_b()
    (image,) = machine.images.values()
    a.rbd("snap", "create", image + "@before")
    a.rbd("snap", "protect", image + "@before")
    a.action("poweroff", machine.home)
    a.wait_vm(machine.home, "POWEROFF")
    vm = machine.start_on_b()
    assert b.settle(vm) == "RUNNING", b.vm_error(vm)
    b.wait_records(vm, 3)
    b.action("terminate", vm)
    assert b.settle(vm) == "DONE", b.vm_error(vm)
    assert machine.primaries() == {image: ""}
    return image


@pytest.mark.parametrize("how", ["copy", pytest.param("clone", marks=full)])
def test_a_copy_of_an_image_that_was_handed_over_is_not_handed_over_itself(lab, a, b, how):
    """`rbd cp` and `rbd clone` take all metadata along, the token and the mark of the release among it."""
    image = given_up(lab, "inherits")
    copy = "%s-%s" % (image, how)
    b.rbd(*{"copy": ["cp", image, copy], "clone": ["clone", image + "@before", copy]}[how])
    a.wait_replaying(copy)
    b.reconcile(check=False)
    assert b.is_primary(copy) is True
    assert not [entry for entry in b.audit() if entry.get("image") == copy]
    assert not told(b, copy, "hand")


@full
def test_a_clone_or_copy_of_a_forced_image_makes_nobody_stale(lab, a, b):
    """It has the force and the boot in its metadata, and is called as an image of the other site's: both count from 0."""
    machine = mirrored_machine(lab, "forced-from", "journal")
    (image,) = machine.images.values()
    vm = forced_while_home_was_away(lab, machine)
    machine.may_lose_tail += a.acknowledged(machine.home)
    b.rbd("snap", "create", image + "@now")
    b.rbd("snap", "protect", image + "@now")

    for how, make in (("cp", ["cp", image]), ("clone", ["clone", image + "@now"])):
        same = "three/" + unique("same-" + how)
        b.rbd(*make, same)
        assert "onemirror.forced" in b.rbd("image-meta", "list", same).stdout
        a.rbd("create", same, "--size", "16M")
        a.rbd("mirror", "image", "enable", same, "snapshot")
        registered = a.image_create(unique("same"), "three", True, source=same)
        own = a.vm_create(unique("same"), [registered])
        assert a.settle(own) == "RUNNING", a.vm_error(own)
        a.reconcile(check=False)
        assert a.is_primary(same) and a.state_name(own) == "RUNNING"
        a.action("terminate", own)
        a.wait_vm(own, "DONE")

    # a copy that is mirrored itself was never forced: it is booted, ends, and stays
    copy = image + "-copy"
    b.rbd("cp", image, copy)
    a.wait_replaying(copy)
    for site in lab.sites:
        site.reconcile(check=False)
    assert b.is_primary(copy) is True and a.is_primary(copy) is False
    assert not told(a, copy, "force") and not told(b, copy, "force")

    machine.end_away(vm)
    machine.comes_home()
    machine.assert_complete(a)


def mirrored_by_snapshot(site, image, other):
    site.rbd("mirror", "image", "enable", image, "snapshot")
    site.rbd("mirror", "image", "snapshot", image)
    other.wait_replaying(image)


def home(site, image):
    return site.rbd("image-meta", "get", image, "onemirror.home", check=False).stdout.strip()


def global_id(site, image):
    return site.info(image)["mirroring"]["global_id"]


@full
def test_a_vm_that_was_made_on_the_recovery_site_ends_there(lab, a, b):
    """Its own disks are deleted, its image stays, and nothing of it is handed to a site that never had it."""
    name = unique("made-there")
    image = b.image_create(name + "-data", "three", True)
    # a name of its own: both front-ends call their n-th image one-n
    b.rbd("create", "one/" + name, "--size", "16M")
    base = b.image_create(name + "-base", "one", False, source="one/" + name)
    vm = b.vm_create(name, [image, base], extra='DISK=[TYPE="fs",SIZE="16"]\n')
    assert b.settle(vm) == "RUNNING", b.vm_error(vm)
    data, clone, volatile = (image for _, image in sorted(b.vm_images(vm).items()))
    # an administrator has it protected, after its first boot
    mirrored_by_snapshot(b, data, a)
    for own in (clone, volatile):
        a.wait_replaying(own)
    b.reconcile()
    homes = {home(b, disk) for disk in (data, clone, volatile)}
    expected = {"site-b:" + global_id(b, disk) for disk in (data, clone, volatile)}
    b.wait_records(vm)
    b.action("terminate", vm)
    assert b.settle(vm) == "DONE", b.vm_error(vm)
    assert b.is_primary(data) is True
    assert (b.info(clone), b.info(volatile)) == (None, None)
    assert homes == expected
    b.reconcile()
    assert b.is_primary(data) is True
    again = b.vm_create(name, [image])
    assert b.settle(again) == "RUNNING", b.vm_error(again)
    b.action("terminate", again)
    b.wait_vm(again, "DONE")
    assert b.is_primary(data) is True


def test_each_site_is_home_of_its_own_vms(lab, a, b):
    """Home on the site whose role is recovery, away on the one whose role is home, and back."""
    name = unique("home-at-b")
    image = b.image_create(name, "three", True)
    machine = Machine(lab, name, b.vm_create(name, [image]), at=b)
    (data,) = machine.images.values()
    mirrored_by_snapshot(b, data, a)
    b.action("poweroff", machine.home)
    b.wait_vm(machine.home, "POWEROFF")
    vm = machine.start_on_b()
    assert a.settle(vm) == "RUNNING", a.vm_error(vm)
    a.wait_records(vm)
    a.action("terminate", vm)
    assert a.settle(vm) == "DONE", a.vm_error(vm)
    wait_until("the VM at home", Timer(a, lambda: b.state_name(machine.home) == "RUNNING"), 120, 1)
    assert machine.primaries() == {data: "b"}
    machine.assert_complete(b)


@full
@pytest.mark.parametrize("how", [
    "copied",
    pytest.param("told", marks=pytest.mark.advice("upkeep-primary-nowhere", "there: onemirror rehome --image NAME")),
])
def test_an_image_whose_home_is_not_known_is_neither_deleted_nor_handed_over(lab, a, b, adviser, how):
    """A copy has taken its original's home along; or an operator says that what was made here belongs elsewhere."""
    name = unique("whose")
    image = b.image_create(name, "three", True)
    first = b.vm_create(name, [image])
    assert b.settle(first) == "RUNNING", b.vm_error(first)
    data = b.source(image)
    mirrored_by_snapshot(b, data, a)
    b.action("terminate", first)
    b.wait_vm(first, "DONE")
    if how == "copied":
        b.reconcile()
        b.rbd("cp", data, data + "-copy")
        data += "-copy"
        mirrored_by_snapshot(b, data, a)
        image = b.image_create(name + "-copy", "three", True, source=data)
    vm = b.vm_create(name, [image])
    assert b.settle(vm) == "RUNNING", b.vm_error(vm)
    if how == "copied":
        hint = "onemirror rehome %d" % vm
        assert "where it belongs is not known" in b.onemirror("list", check=False).stdout
        shown = b.onemirror("show", vm).stdout
        assert hint in shown, shown
        before = b.token(data)
        b.action("terminate", vm)
        assert b.settle(vm) == "DONE", b.vm_error(vm)
        assert (b.is_primary(data), b.token(data)) == (True, before)
        shown = b.onemirror("list", check=False).stdout
        hint = "onemirror rehome --image " + data
        assert hint in shown, shown
        b.onemirror(*hint.split()[1:])
        b.onemirror(*hint.split()[1:])
        assert home(b, data) == "site-b:" + global_id(b, data)
        assert not told(b, data, "where it belongs")
    else:
        refused = a.onemirror("rehome", "--image", data, check=False)
        assert refused.returncode == 1 and "is not primary here; on site-b: onemirror rehome --image %s" % data in refused.stderr, refused.stderr
        b.onemirror("rehome", vm, "--to", "site-a")
        b.action("terminate", vm)
        assert b.settle(vm) == "DONE", b.vm_error(vm)
        wait_until("the handoff", Timer(b, lambda: b.is_primary(data) is False), 60, 1)
        # no VM of site-a waits for it
        adviser.type_one_of(b, nobodys(b, data)["advice"], "upkeep-primary-nowhere", THERE)
        assert a.is_primary(data) is True
        assert not told(a, data, "neither") and not told(b, data, "neither")


HERE = "here: onemirror rehome --image NAME"
THERE = "there: onemirror rehome --image NAME"


def nobodys(site, image):
    """What `list` and reconcile tell of an image that is primary nowhere."""
    (found,) = [found for found in site.overview()["pending"] if found["image"] == image]
    assert "primary on neither site" in found["handoff"], found
    assert site.onemirror("list", check=False).returncode == 3
    reconciled = site.reconcile(check=False)
    assert reconciled.returncode == 3 and "primary on neither site" in reconciled.stdout, reconciled
    return found


@pytest.mark.parametrize("teller, mode, shape", [
    pytest.param("site-a", "journal", HERE, marks=pytest.mark.advice("upkeep-primary-nowhere", "here: onemirror rehome --image NAME")),
    pytest.param("site-b", "snapshot", THERE, marks=[full, pytest.mark.advice("upkeep-primary-nowhere", "there: onemirror rehome --image NAME")]),
])
def test_an_image_that_is_primary_nowhere_is_told_and_taken_up(lab, a, b, adviser, teller, mode, shape):
    """Home's VM was terminated while its double ran, so nobody waits for what is handed over. Then it is deleted, or booted."""
    machine = lab.vm_with_one_disk(unique("nobodys"), mode)
    machine.register_on_b()
    (image,) = machine.images.values()
    (registered,) = [one.ID for one in a.one.imagepool.info(-2, -1, -1).IMAGE if one.SOURCE == image]
    a.wait_records(machine.home)
    a.action("poweroff", machine.home)
    a.wait_vm(machine.home, "POWEROFF")
    vm = machine.start_on_b()
    assert b.settle(vm) == "RUNNING", b.vm_error(vm)
    b.wait_records(vm, 3)
    a.action("terminate", machine.home)
    a.wait_vm(machine.home, "DONE")
    machine.end_away(vm)
    assert machine.primaries() == {image: ""}
    site = {"site-a": a, "site-b": b}[teller]
    advice = nobodys(site, image)["advice"]
    if teller == "site-a":
        assert a.image_delete(registered) is None
        assert a.info(image) and b.info(image)
        reason = [entry for entry in a.audit() if entry["event"] == "datastore rm" and entry["image"] == image][-1]["reason"]
        assert "primary on neither site" in reason, reason
        rehome, remove = reason.split("to delete it for good: ")[1].split(" && ")
        # as list says
        assert {way["commands"][0]["command"] for way in advice} == {rehome}
        adviser.type_one_of(a, nobodys(a, image)["advice"], "upkeep-primary-nowhere", shape)
        assert machine.primaries() == {image: "a"}
        a.type(remove)
        wait_until("it to go on both sites", lambda: a.info(image) is None and b.info(image) is None, 60, 0.5)
    else:
        adviser.type_one_of(b, advice, "upkeep-primary-nowhere", shape)
        assert machine.primaries() == {image: "a"}
        for other in lab.sites:
            assert not told(other, image, "neither")
        again = a.vm_create(machine.name, [registered])
        assert a.settle(again) == "RUNNING", a.vm_error(again)
        a.wait_records(again)
        a.action("poweroff", again)
        a.wait_vm(again, "POWEROFF")
        verdict = a.check_records(image, machine.logs() + a.acknowledged(again))
        assert verdict["ok"], verdict
