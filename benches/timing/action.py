"""How much longer a stock action takes of a VM with nothing to hand over."""
import os
import statistics
import subprocess
import time

from harness.laboratory import unique

ACTIONS = 60
# how Ceph is asked: what it is called, and the policy
WAYS = (
    ("libraries, processes that stay", {"librbd": True, "librbd_stays": "60s"}),
    ("libraries, a process for each run", {"librbd": True, "librbd_stays": "never"}),
    ("commands", {"librbd": False}),
)


def took(command, environment):
    """Milliseconds, the median."""
    times = []
    for _ in range(ACTIONS):
        began = time.monotonic()
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        times.append(time.monotonic() - began)
    return statistics.median(times) * 1000


def off(lab, pool, mirrored):
    """A VM here that is off, with one disk."""
    site = lab.a
    vm = site.vm_create(unique("action"), [site.image_create(unique("action"), pool, True)])
    site.wait_vm(vm, "RUNNING")
    if mirrored:
        for image in site.vm_images(vm).values():
            lab.b.wait_replaying(image)
    site.action("poweroff", vm)
    site.wait_vm(vm, "POWEROFF")
    return vm


def longer_by(lab):
    """Rows of how Ceph is asked, and by how many milliseconds `context` of either VM takes longer."""
    site = lab.a
    vms = [off(lab, "three", mirrored=False), off(lab, "one", mirrored=True)]
    for name, policy in WAYS:
        for each in lab.sites:
            each.configure(**policy)
        environment = site.environment
        stock = "/bin/true"
        nothing = took([stock], environment)
        guarded = [os.path.join(site.location, "bin/onemirror"), "tm", "--stock", stock, "context", "/dev/null"]
        yield name, [
            took([*guarded, "host-a:%s/var/datastores/100/%d" % (site.location, vm), str(vm), "100"], environment) - nothing
            for vm in vms
        ]
