"""What is written in an image's metadata belongs to that image, and so does its home."""
import pytest
from conftest import full
from test_failback import unique


def given_up(lab, name):
    """An image that was made at home, and that site-b has given up since: primary nowhere, under site-b's closed token."""
    a, b = lab.a, lab.b
    b.configure(resume_on_peer=False)
    machine = lab.vm_with_one_disk(unique(name), "journal")
    machine.register_on_b()
    (image,) = machine.images.values()
    a.rbd("snap", "create", image + "@snap")
    a.rbd("snap", "protect", image + "@snap")
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
    b.rbd(*{"copy": ["cp", image, copy], "clone": ["clone", image + "@snap", copy]}[how])
    a.wait_replaying(copy)
    b.reconcile(check=False)
    assert b.is_primary(copy) is True
    assert not [entry for entry in b.audit() if entry.get("image") == copy]
    assert copy not in b.onemirror("list").stdout
